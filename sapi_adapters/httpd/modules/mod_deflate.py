"""mod_deflate: responses in gzip's coding, and request bodies that come in it.

The output filter DEFLATE compresses what the client accepts so; ``AddOutputFilterByType DEFLATE
text/html ...`` (mod_mime) or SetOutputFilter put it into the chain. The environment variables
``no-gzip``, ``gzip-only-text/html`` and ``force-gzip`` do what they do in Apache. What is
compressed has no ranges, and a tag of its own (``"x-gzip"``). Unlike Apache a condition with that
tag holds: where the filter is in the chain before the handler runs, which it is for files, it
takes the suffix off before anybody compares.

The input filter INFLATE, by Apache's name DEFLATE, decodes request bodies, within
DeflateInflateLimitRequestBody (else LimitRequestBody) and DeflateInflateRatioLimit. There is no
output filter INFLATE, no DeflateFilterNote, and DeflateBufferSize changes nothing.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Any

from ...sapi import RequestError
from ..coreconfig import dir_config
from ..filters import (
    CONTENT_SET,
    EOS,
    FLUSH,
    Brigade,
    FileBucket,
    Filter,
    InputFilter,
    OutputFilter,
    blocks,
)
from ..hooks import OK
from ..module import (
    ACCESS_CONF,
    OR_ALL,
    RSRC_CONF,
    TAKE1,
    Command,
    Module,
    Settings,
    number,
    setter,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..hooks import Hooks
    from ..host import Host
    from ..records import Request, Table

GZIP = 16
"""Added to zlib's window size: gzip's header and trailer."""
_BLOCK = 65536
_SUFFIX = '-gzip"'
_BODILESS = frozenset((204, 206, 304))
"""Statuses without a body, or with a part of one."""


class Config(Settings):
    """What is configured for a section."""

    limit: int | None = None
    """Bytes of a decoded request body; None for LimitRequestBody's, 0 for any number."""
    ratio = 200
    burst = 3


class ServerConfig(Settings):
    """What is configured for a server."""

    level = -1
    """zlib's own default."""
    memory = 9
    window = 15
    alter_etag = "addsuffix"


# -- what the client accepts ----------------------------------------------------------------------

_CODING = re.compile(r"([^\s;,]+)[ \t]*(?:;[ \t]*q=([01](?:\.[0-9]{0,3})?)[ \t]*)?", re.IGNORECASE)


def accepts_gzip(fields: list[str]) -> bool:
    """Whether Accept-Encoding's values allow gzip, and do not rather want the plain body."""
    weights: dict[str, float] = {}
    for piece in ",".join(fields).split(","):
        match = _CODING.fullmatch(piece.strip(" \t"))
        if match is not None:
            weights[match[1].lower()] = float(match[2] or 1)
    gzip = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0)))
    return gzip > 0 and gzip >= weights.get("identity", 0.0)


# -- the output filter ----------------------------------------------------------------------------


class _Begun:
    """The filter's own, once it compresses."""

    def __init__(self, config: ServerConfig) -> None:
        self.compressor = zlib.compressobj(
            config.level, zlib.DEFLATED, GZIP + config.window, config.memory
        )
        self.fed = False
        """Something went in since the last flush."""


def _start(f: Filter) -> None:
    """Take the suffix off the tags of the request: handlers know their resource without it."""
    asked = f.request.headers_in
    for name in ("If-None-Match", "If-Match"):
        values = asked.all(name) if name in asked else []
        if any(_SUFFIX in value for value in values):
            asked.set(name, ", ".join(values).replace(_SUFFIX, '"'))
            f.context = "suffixed"


def deflate(f: Filter, brigade: Brigade) -> None:
    """Compress the response, or leave the chain."""
    begun = f.context
    if not isinstance(begun, _Begun):
        if not brigade:
            return
        begun = _begin(f, brigade)
        if begun is None:
            f.remove()
            f.pass_on(brigade)
            return
        f.context = begun
    if f.request.header_only:
        f.pass_on([bucket for bucket in brigade if bucket is EOS or bucket is FLUSH])
        return
    compress = begun.compressor.compress
    out: Brigade = []
    size = 0
    for bucket in brigade:
        if bucket is EOS:
            out += [begun.compressor.flush(), EOS]
        elif bucket is FLUSH:
            if begun.fed:
                out.append(begun.compressor.flush(zlib.Z_SYNC_FLUSH))
            out.append(FLUSH)
            begun.fed = False
        else:
            for block in blocks(bucket) if isinstance(bucket, FileBucket) else [bucket]:
                data = compress(block)  # type: ignore[arg-type]
                begun.fed = True
                if data:
                    out.append(data)
                    size += len(data)
                if size > _BLOCK:
                    f.pass_on(out)
                    out, size = [], 0
                    if f.request.aborted:
                        return
    if out:
        f.pass_on(out)


def _begin(f: Filter, brigade: Brigade) -> _Begun | None:
    """Decide; None when the response stays as it is."""
    r = f.request
    headers, environment = r.headers_out, r.subprocess_env
    if r.main is not None or "no-gzip" in environment or "Content-Range" in headers:
        return None
    kind = (r.content_type or "").partition(";")[0].strip().lower()
    if "gzip-only-text/html" in environment and kind != "text/html":
        return None
    if any("no-transform" in value.lower() for value in headers.all("Cache-Control")):
        return None
    if not _is_plain(r) or (r.status in _BODILESS and r.status != 304):
        return None
    if "force-gzip" not in environment:
        _vary(headers)  # whether it is compressed or not: it depends on what is asked for
        if not accepts_gzip(r.headers_in.all("Accept-Encoding")):
            return None
    config: ServerConfig = r.server.module_config[deflate_module]
    if r.status == 304:
        if f.context == "suffixed":
            _alter_etag(headers, config)
        return None
    if brigade[0] is EOS and not r.header_only:
        return None
    headers.unset("Content-Length")
    headers.unset("Content-MD5")
    headers.unset("Accept-Ranges")
    headers.unset("Content-Encoding")
    r.content_encoding = "gzip"
    _alter_etag(headers, config)
    return _Begun(config)


def _is_plain(r: Request) -> bool:
    """Whether the response has no coding yet."""
    codings = [*r.headers_out.all("Content-Encoding"), *r.err_headers_out.all("Content-Encoding")]
    if r.content_encoding:
        codings.append(r.content_encoding)
    return all(coding.strip().lower() in ("", "identity") for coding in codings)


def _vary(headers: Table) -> None:
    known = ",".join(headers.all("Vary")).lower()
    if not {"*", "accept-encoding"} & {name.strip(" \t") for name in known.split(",")}:
        headers.merge("Vary", "Accept-Encoding")


def _alter_etag(headers: Table, config: ServerConfig) -> None:
    tag = headers.get("ETag")
    if tag is None or config.alter_etag == "nochange":
        return
    if config.alter_etag == "remove":
        headers.unset("ETag")
    elif tag.endswith('"') and not tag.endswith(_SUFFIX):
        headers.set("ETag", tag[:-1] + _SUFFIX)


# -- the input filter -----------------------------------------------------------------------------


class Inflating:
    """Decodes one request body; see :class:`~..filters.InputFilter`."""

    def __init__(self, limit: int, ratio: int, burst: int) -> None:
        self._limit = limit
        self._ratio = ratio
        self._burst = burst
        self._decoder: Any = None
        self._taken = self._given = 0

    def receive(self, data: bytes) -> bytes:
        """Return what *data* decodes to; :class:`RequestError` for what is no gzip or too much."""
        if not data:
            if self._decoder is not None and not self._decoder.eof:
                raise RequestError("the gzip body ends too early")
            return b""
        self._taken += len(data)
        out: list[bytes] = []
        while True:
            if self._decoder is None or self._decoder.eof:  # bodies may have several members
                self._decoder = zlib.decompressobj(GZIP + zlib.MAX_WBITS)
            try:
                block = self._decoder.decompress(data, _BLOCK)
            except zlib.error as error:
                raise RequestError(f"the body is no gzip: {error}") from None
            self._count(len(block))
            out.append(block)
            ended = self._decoder.eof
            data = self._decoder.unused_data if ended else self._decoder.unconsumed_tail
            if not data:
                return b"".join(out)

    def _count(self, size: int) -> None:
        self._given += size
        if self._limit and self._given > self._limit:
            raise _too_large(f"the decoded body is larger than {self._limit} bytes")
        if self._given > _BLOCK and self._given > self._ratio * self._taken:
            self._burst -= 1
            if self._burst < 0:
                raise _too_large(f"the body decodes to over {self._ratio} times its size")


def _too_large(message: str) -> RequestError:
    return RequestError(message, "413 Content Too Large")


class _AsItIs:
    """What stands in the place of a filter that has nothing to do."""

    def receive(self, data: bytes) -> bytes:
        """Return *data*."""
        return data


def _make_inflating(r: Request) -> Any:
    """Decode the body if its outermost coding is gzip; its length is not known then."""
    codings = [
        each.strip(" \t") for each in ",".join(r.headers_in.all("Content-Encoding")).split(",")
    ]
    if codings[-1].lower() not in ("gzip", "x-gzip"):
        return _AsItIs()
    r.headers_in.unset("Content-Encoding")
    if codings[:-1]:
        r.headers_in.set("Content-Encoding", ", ".join(codings[:-1]))
    r.headers_in.unset("Content-Length")
    r.headers_in.unset("Content-MD5")
    config: Config = r.per_dir_config[deflate_module]
    limit = dir_config(r).limit_body if config.limit is None else config.limit
    return Inflating(limit, config.ratio, config.burst)


# -- the module -----------------------------------------------------------------------------------

DEFLATE = OutputFilter("DEFLATE", deflate, CONTENT_SET, _start)


def _check_config(host: Host) -> int:
    host.register_output_filter(DEFLATE)
    for name in ("INFLATE", "DEFLATE"):
        host.register_input_filter(InputFilter(name, _make_inflating))
    return OK


def _register(hooks: Hooks) -> None:
    hooks.add("check_config", _check_config)


def _between(low: int, high: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        value = number(text)
        if not low <= value <= high:
            raise ValueError(f"must be between {low} and {high}")
        return value

    return convert


def _alteration(text: str) -> str:
    if text.lower() not in ("addsuffix", "nochange", "remove"):
        raise ValueError("must be AddSuffix, NoChange or Remove")
    return text.lower()


_ANYWHERE = RSRC_CONF | ACCESS_CONF | OR_ALL
deflate_module = Module(
    "mod_deflate",
    commands=(
        Command("DeflateCompressionLevel", setter("level", _between(1, 9)), TAKE1, RSRC_CONF),
        Command("DeflateMemLevel", setter("memory", _between(1, 9)), TAKE1, RSRC_CONF),
        Command("DeflateWindowSize", setter("window", _between(9, 15)), TAKE1, RSRC_CONF),
        Command("DeflateBufferSize", setter("buffer", number), TAKE1, RSRC_CONF, "bytes"),
        Command("DeflateAlterETag", setter("alter_etag", _alteration), TAKE1, RSRC_CONF),
        Command("DeflateInflateLimitRequestBody", setter("limit", number), TAKE1, _ANYWHERE),
        Command("DeflateInflateRatioLimit", setter("ratio", number), TAKE1, _ANYWHERE),
        Command("DeflateInflateRatioBurst", setter("burst", number), TAKE1, _ANYWHERE),
    ),
    create_dir_config=lambda path: Config(),
    merge_dir_config=Config.merged,
    create_server_config=lambda server: ServerConfig(),
    merge_server_config=ServerConfig.merged,
    register_hooks=_register,
)
