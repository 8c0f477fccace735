"""Programs that answer as CGI says: what mod_cgi and mod_proxy_fcgi share.

The meta-variables of a request for a script (RFC 3875 §4.1, as Apache fills them in), the head of
the answer (§6), local redirects, and the conversation in which a program is given the request's
body while it is being heard. How a program is reached is the modules' own.

Differences from Apache: a head without Content-Type, Location and Status is refused (§6.3), and a
Content-Length is kept and held to. CONTEXT_PREFIX and CONTEXT_DOCUMENT_ROOT are not given, and
If-Modified-Since and the like are left to the program.
"""

from __future__ import annotations

import os
import re
import select
import socket
import tempfile
import time
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import quote

from ..sapi import TOKEN, ClientDisconnected, RequestError, SapiError
from .config import DECLINE
from .core import dir_config, server_config
from .environ import environ_of
from .filters import CONNECTION, EOS, FLUSH, Brigade
from .hooks import OK
from .module import ACCESS_CONF, FLAG, OR_AUTHCFG, Command, Settings
from .phases import internal_redirect, sub_req_lookup_uri

if TYPE_CHECKING:
    from collections.abc import Callable

    from .config import Parameters
    from .records import Request

BLOCK = 65536
HEAD_LIMIT = 65536
"""Bytes of the head of an answer: eight times what Apache takes of one line."""
_HELD_IN_MEMORY = 65536
_HELD = 64 << 20
"""Bytes of an answer that wait for a client which is still sending; more is sent all the same."""
_LOOK = 0.5
"""Seconds between two looks whether the client is still there, while nothing happens."""
_LINE = 8192
"""Characters of one message to the error log."""


class Failed(SapiError):
    """The program's: it did not answer as it should. *status* is what the client is told."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
        """0 for what the module says of all programs that break the rules: 500, or 502."""


# -- configuration --------------------------------------------------------------------------------


class ScriptConfig(Settings):
    """What is configured for a section."""

    pass_auth = False


def _pass_auth(cmd: Parameters, config: ScriptConfig, value: bool) -> str | None:
    config.pass_auth = value
    return DECLINE  # the other module that starts scripts has it, too


PASS_AUTH = Command("CGIPassAuth", _pass_auth, FLAG, ACCESS_CONF | OR_AUTHCFG)
"""Whether programs see the client's credentials. In Apache it is core's."""


# -- the request ----------------------------------------------------------------------------------


def script_environ(r: Request, config: ScriptConfig, length: int | None) -> dict[str, str]:
    """Return the meta-variables of *r*, whose body has *length* bytes, None without one.

    Their characters are bytes, also those of files' names: see :func:`to_bytes`.
    """
    rest = _bytes_of(r.path_info)
    name = r.uri[: len(r.uri) - len(rest)] if rest and r.uri.endswith(rest) else r.uri
    environ = {key: text for key, text in environ_of(r, name).items() if isinstance(text, str)}
    # What the configuration sets is not to pass for what the request has.
    for key in ("HTTP_TRANSFER_ENCODING", "PATH_INFO", "PATH_TRANSLATED", "CONTENT_LENGTH"):
        environ.pop(key, None)
    if length is not None:
        environ["CONTENT_LENGTH"] = str(length)
    if not config.pass_auth:
        environ.pop("HTTP_AUTHORIZATION", None)
        environ.pop("HTTP_PROXY_AUTHORIZATION", None)
    server = server_config(r.server)
    if server.document_root is not None:
        environ["DOCUMENT_ROOT"] = _bytes_of(server.document_root)
    if r.server.server_admin:
        environ["SERVER_ADMIN"] = r.server.server_admin
    environ["SERVER_SIGNATURE"] = ""
    if r.filename is not None:
        environ["SCRIPT_FILENAME"] = _bytes_of(r.filename)
    if rest:
        environ["PATH_INFO"] = rest
        found = sub_req_lookup_uri(quote(rest.encode("latin-1")), r)
        found.run_cleanups()
        if found.filename is not None:  # the file that it would be as a URL's path (§4.1.6)
            environ["PATH_TRANSLATED"] = _bytes_of(found.filename + found.path_info)
    return environ


def _bytes_of(path: str) -> str:
    """Return a file's name as text whose characters are its bytes."""
    return path if path.isascii() else os.fsencode(path).decode("latin-1")


_NAME = re.compile(r"[^A-Za-z0-9_]")


def variable_name(name: str) -> str:
    """Return *name* as a variable's: letters, digits and underscores, no digit first."""
    name = _NAME.sub("_", name)
    return f"_{name[1:]}" if name[:1].isdigit() else name


def to_bytes(text: str) -> bytes:
    """Return a variable's value as bytes; text of the configuration may be any."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")


# -- the body -------------------------------------------------------------------------------------


class Upload(Protocol):
    """The request's body, read beside other things."""

    fd: int
    """Can be read when more of the body may be there; -1 when waiting is never needed."""

    @property
    def buffered(self) -> bool:
        """Whether :meth:`read` has something to say at once."""

    def read(self) -> bytes | None:
        """Return the next bytes, ``b""`` at the end, None when there are none yet.

        Raises :class:`ClientDisconnected` and :class:`RequestError` as ``Request.read``.
        """

    def close(self) -> None:
        """Give up whatever is left."""


class _Spooled:
    """A body that is in a file."""

    fd = -1
    buffered = True

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self) -> bytes:
        return self._file.read(BLOCK)

    def close(self) -> None:
        self._file.close()


class _Polled:
    """A body that this thread itself reads from the connection."""

    def __init__(self, r: Request) -> None:
        self._request = r
        self._wire = r.connection.transport
        self.fd: int = self._wire.channel.fd

    @property
    def buffered(self) -> bool:
        # Who waits for "100 Continue" gets it by being read from.
        body = self._request.body
        return bool(self._wire.parser.events) or body.ended or not body.continued

    def read(self) -> bytes:
        return self._request.read(1 << 20)

    def close(self) -> None:
        pass


class _Awaited:
    """A body that comes to an event loop in another thread."""

    buffered = False

    def __init__(self, r: Request) -> None:
        self._request = r
        self._ours, self._theirs = socket.socketpair()
        self.fd = self._ours.fileno()
        self._future: Any = None
        self._ask()

    def _ask(self) -> None:
        import asyncio

        r = self._request
        self._future = asyncio.run_coroutine_threadsafe(
            r.body.aread(BLOCK), r.connection.transport.loop
        )
        self._future.add_done_callback(self._done)

    def _done(self, future: Any) -> None:
        try:
            self._theirs.send(b"\0")
        except OSError:
            pass  # nobody waits for it any more

    def read(self) -> bytes | None:
        if not self._future.done():
            return None
        self._ours.recv(1)
        data: bytes = self._future.result()
        if data:
            self._ask()
        return data

    def close(self) -> None:
        self._future.cancel()
        self._ours.close()
        self._theirs.close()


def spooled_body(r: Request) -> tuple[IO[bytes], int] | None:
    """Return the body of *r* in a file, and its length, when the length cannot be told before.

    That is when it comes in chunks or passes input filters. None for any other. Blocks.
    """
    if not has_body(r) or (r.body.length is not None and not dir_config(r).input_filters):
        return None
    file = tempfile.TemporaryFile(prefix="sapi-body-")  # noqa: SIM115 - the caller closes it
    try:
        length = 0
        while data := r.read(BLOCK):
            length += file.write(data)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file, length


def has_body(r: Request) -> bool:
    """Whether a body comes with *r*, be it an empty one."""
    if r.prev is not None and r.status != 200:
        return False  # an error document: what is left of the body is none of its business
    return "Content-Length" in r.headers_in or "Transfer-Encoding" in r.headers_in


def upload_of(r: Request, spooled: IO[bytes] | None) -> Upload | None:
    """Return the body of *r* as something to read beside other things; None without one."""
    if spooled is not None:
        return _Spooled(spooled)
    if not has_body(r) or r.body.at_end:
        return None
    return _Awaited(r) if r.connection.asynchronous else _Polled(r)


# -- the head of the answer -----------------------------------------------------------------------


class Head(NamedTuple):
    """The head of an answer (RFC 3875 §6.3)."""

    status: int | None
    status_line: str | None
    content_type: str | None
    location: str | None
    length: int | None
    fields: list[tuple[str, str]]
    """Everything else that is for the client, Location too."""


_END = re.compile(rb"(?:\A|\n)\r?\n")
_STATUS = re.compile(r"([2-9][0-9][0-9])(?: .*)?\Z")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_DROPPED = frozenset(
    "connection keep-alive proxy-connection te trailer transfer-encoding upgrade".split()
)
"""They are the connection's, which is the host's (RFC 9110 §7.6.1)."""
_ONCE = frozenset(("status", "content-type", "location", "content-length"))


def parse_head(block: bytes) -> Head:
    """Return the head whose lines are *block*. Raises :class:`Failed` for one that is malformed.

    Lines end with LF or CR LF. Nothing that could begin another line or another response gets
    through: no control characters, no continued lines, no two values for a field of CGI's.
    """
    seen: dict[str, str] = {}
    fields: list[tuple[str, str]] = []
    for raw in block.split(b"\n"):
        line = raw.removesuffix(b"\r").decode("latin-1")
        if not line:
            continue
        name, colon, value = line.partition(":")
        if not colon or not name or not TOKEN.issuperset(name):
            raise Failed(f"malformed header from script: Bad header: {line[:100]!a}")
        value = value.strip(" \t")
        if _CONTROL.search(value) is not None:
            raise Failed(f"malformed header from script: control character in {name}")
        lower = name.lower()
        if lower in _ONCE:
            if seen.setdefault(lower, value) != value:
                raise Failed(f"malformed header from script: {name} comes twice")
        elif lower in _DROPPED or lower.startswith("x-cgi-"):
            continue
        else:
            fields.append((name, value))
    if not seen.keys() & {"status", "content-type", "location"}:
        raise Failed("malformed header from script: no Content-Type, no Location, no Status")
    status = seen.get("status")
    if status is not None and _STATUS.match(status) is None:
        raise Failed(f"malformed header from script: Status is {status[:40]!a}")
    length = seen.get("content-length")
    if length is not None and not (length.isascii() and length.isdigit() and len(length) < 19):
        raise Failed(f"malformed header from script: Content-Length is {length[:40]!a}")
    location = seen.get("location")
    if location is not None:
        fields.append(("Location", location))
    return Head(
        None if status is None else int(status[:3]),
        status if status is not None and len(status) > 4 else None,
        seen.get("content-type"),
        location,
        None if length is None else int(length),
        fields,
    )


# -- the answer -----------------------------------------------------------------------------------


class Answer:
    """What a program answers on its way to the client: first the head, then the body.

    With *nph* the head is the program's own and passes as it is (RFC 3875 §5). While :attr:`hold`
    is set the client may still be sending, and some clients take nothing before they are done:
    the answer waits in a file meanwhile.
    """

    def __init__(self, r: Request, *, nph: bool = False) -> None:
        self.request = r
        self.hold = False
        self.begun = False
        """The head is complete."""
        self.location: str | None = None
        """Where a local redirect leads (RFC 3875 §6.2.2)."""
        self.status_before = r.status
        """That of an error whose document it is, else 200."""
        self._nph = nph
        self._head = bytearray()
        self._left: int | None = None
        """Bytes of the body that are due by its Content-Length."""
        self._kept: Any = None
        self._waiting = False
        """Something was passed on that the filters may keep until a flush."""

    @property
    def complete(self) -> bool:
        """Whether nothing is missing by the length that the program announced."""
        return self._left == 0

    def receive(self, data: bytes) -> None:
        """Take what the program says. Raises :class:`Failed` for a malformed head."""
        if not self.begun:
            self._head += data
            data = self._begin() or b""
        if data and self.location is None:
            self._body(data)

    def _begin(self) -> bytes | None:
        """Look whether the head is complete; return what came behind it."""
        if self._nph:
            return self._begin_raw()
        match = _END.search(self._head)
        if (match.end() if match is not None else len(self._head)) > HEAD_LIMIT:
            raise Failed(f"the head of the answer is larger than {HEAD_LIMIT} bytes")
        if match is None:
            return None
        self._apply(parse_head(bytes(self._head[: match.start()])))
        rest = bytes(self._head[match.end() :])
        self.begun = True
        self._head.clear()
        return rest

    def _begin_raw(self) -> bytes | None:
        line, end, _ = bytes(self._head[:HEAD_LIMIT]).partition(b"\n")
        if not end and len(line) < HEAD_LIMIT:
            return None
        match = re.match(rb"HTTP/1\.[01] ([2-9][0-9][0-9])(?:\s|\Z)", line)
        if match is None:
            raise Failed(f"malformed header from nph script: {line[:100]!a}")
        r = self.request
        r.status = int(match[1])
        at = r.output_filters
        while at.type < CONNECTION and at.next is not None:
            at = at.next
        r.output_filters = at
        r.headers_sent = True
        r.connection.keepalive = False  # nobody here knows where the answer ends
        self.begun = True
        data = bytes(self._head)
        self._head.clear()
        return data

    def _apply(self, head: Head) -> None:
        r = self.request
        for name in ("Content-Length", "Last-Modified", "Expires", "ETag"):
            r.headers_out.unset(name)  # of earlier phases, which knew nothing of this answer
        r.content_type, r.content_encoding = head.content_type, None
        if head.status is not None:
            r.status, r.status_line = head.status, head.status_line
        elif head.location is not None and head.location[:1] == "/":
            self.location = head.location
        elif head.location is not None:
            r.status = 302  # §6.2.3
        for name, value in head.fields:
            # Cookies survive the redirect or the error that comes of it, as in Apache.
            (r.err_headers_out if name.lower() == "set-cookie" else r.headers_out).add(name, value)
        if head.length is not None:
            r.headers_out.set("Content-Length", str(head.length))
            if not r.header_only and r.status not in (204, 304):
                self._left = head.length
        if "X-Sendfile" in r.headers_out:
            self._left = None  # the body may become another one

    def _body(self, data: bytes) -> None:
        if self._left is not None:
            if len(data) > self._left:
                if self._left >= 0:
                    self.request.log("the answer is longer than its Content-Length: it is cut")
                data = data[: self._left]
            self._left -= len(data)
        if not data:
            return
        if not self.hold:
            self._pass([data])
            return
        if self._kept is None:
            self._kept = tempfile.SpooledTemporaryFile(_HELD_IN_MEMORY)  # noqa: SIM115 - drop()
        self._kept.write(data)
        if self._kept.tell() > _HELD:
            self.release()

    def _pass(self, brigade: Brigade) -> None:
        self.request.output_filters.pass_brigade(brigade)
        self._waiting = True

    def release(self) -> None:
        """Let the client have the answer from now on."""
        self.hold = False
        kept, self._kept = self._kept, None
        if kept is not None:
            with kept:
                kept.seek(0)
                while data := kept.read(BLOCK):
                    self._pass([data])

    def flush(self) -> None:
        """Send what the filters keep: the program has nothing more to say at the moment."""
        if self.begun and self._waiting and not self.hold:
            self.request.output_filters.pass_brigade([FLUSH])
            self._waiting = False

    def finish(self) -> None:
        """End the answer. Raises :class:`Failed` when something is missing."""
        if not self.begun:
            raise Failed("End of script output before headers")
        if self.location is not None:
            return
        self.release()
        if self._left:
            raise Failed(f"the answer ends {self._left} bytes before its Content-Length")
        self.request.output_filters.pass_brigade([EOS])

    def drop(self) -> None:
        """Forget what is kept."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None


class Messages:
    """A program's messages, for the error log line by line."""

    def __init__(self, r: Request) -> None:
        self._request = r
        self._rest = b""

    def receive(self, data: bytes) -> None:
        """Take what came."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._log(line)
        if len(self._rest) > _LINE:
            self.finish()

    def finish(self) -> None:
        """Log a last line that has no end."""
        rest, self._rest = self._rest, b""
        self._log(rest)

    def _log(self, line: bytes) -> None:
        text = line.rstrip().decode("utf-8", "backslashreplace")[:_LINE]
        if text:
            plain = "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in text)
            self._request.log(f"stderr from {self._request.filename}: {plain}")


# -- the conversation -----------------------------------------------------------------------------


class Peer(Protocol):
    """A program, as :func:`converse` talks to it. None of the methods waits."""

    ended: bool
    """It says no more."""
    deaf: bool
    """It takes no more of the body."""

    @property
    def full(self) -> bool:
        """Whether it has not taken yet what it was given."""

    def interest(self) -> list[tuple[int, int]]:
        """Return descriptors and what to poll them for."""

    def give(self, data: bytes) -> None:
        """Have it given *data* of the body; ``b""`` is its end."""

    def act(self, ready: dict[int, int]) -> None:
        """Read and write where *ready*, by descriptor, says that it can be done."""


def converse(r: Request, peer: Peer, upload: Upload | None, answer: Answer, timeout: float) -> None:
    """Give *peer* the body and *answer* what it says, until it has said everything.

    Raises :class:`Failed` (504) when it is silent for *timeout* seconds, :class:`RequestError` when
    the client is, and :class:`ClientDisconnected`.
    """
    answer.hold = upload is not None and upload.fd >= 0
    transport, connection = r.connection.transport, r.connection
    deadline = time.monotonic() + timeout
    try:
        while not peer.ended:
            if upload is not None and peer.deaf:
                upload.close()
                upload = None
                answer.release()
            waiting = upload is not None and not peer.full
            poller = select.poll()
            for fd, mask in peer.interest():
                poller.register(fd, mask)
            buffered = False
            if waiting:
                assert upload is not None  # noqa: S101 - that is what waiting means
                buffered = upload.buffered
                if not buffered:
                    poller.register(upload.fd, select.POLLIN)
            ready = dict(poller.poll(0))
            if not ready and not buffered:
                answer.flush()
                left = deadline - time.monotonic()
                ready = dict(poller.poll(1000 * max(0.0, min(left, _LOOK))))
            if ready or buffered:
                if waiting:
                    assert upload is not None  # noqa: S101 - as above
                    if buffered or upload.fd in ready:
                        data = upload.read()
                        if data is not None:
                            peer.give(data)
                        if data == b"":
                            upload.close()
                            upload = None
                            answer.release()
                peer.act(ready)
                deadline = time.monotonic() + timeout
            elif transport.is_aborted():
                connection.aborted = True
            elif time.monotonic() >= deadline:
                if waiting:
                    connection.keepalive = False
                    raise RequestError("the body took too long to come", "408 Request Timeout")
                raise Failed(f"Timeout waiting for output: nothing for {timeout:g} s", 504)
            if connection.aborted:
                raise ClientDisconnected("the client has gone before the answer was complete")
    finally:
        if upload is not None:
            upload.close()


async def respond(
    r: Request, answer: Answer, talk: Callable[[Request, Answer], None], bad: int
) -> int:
    """Let *talk*, which may block, answer *r*; return a handler's result.

    What the program got wrong is answered with *bad* while nothing has been sent; later the
    response is cut, so that nobody takes it for a whole one. A local redirect is followed.
    """

    def run(r: Request) -> int:
        try:
            talk(r, answer)
        except Failed as error:
            r.log(f"{error}: {r.filename}")
            if not r.headers_sent:
                r.status, r.status_line = answer.status_before, None
            return error.status or bad
        finally:
            answer.drop()
        return OK

    result = r.in_thread(run)
    status = result if isinstance(result, int) else await result
    if status == OK and answer.location is not None:
        # The script's request is over: the other one is a GET without a body (§6.2.2).
        if not r.header_only:
            r.method = "GET"
        for name in ("Content-Length", "Transfer-Encoding", "Content-Type"):
            r.headers_in.unset(name)
        await internal_redirect(answer.location, r, quick=False)
    return status
