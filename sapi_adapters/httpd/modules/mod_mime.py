"""mod_mime: media type, handler, coding, charset, language and filters by a file's extensions.

A file may have several extensions, each of which adds what it knows: ``index.html.de.gz``. That
holds for handlers too, as in Apache: ``AddHandler x .x`` takes ``a.x.txt``; a section ``FilesMatch
"\\.x$"`` with SetHandler takes the last extension only.

Types are those of the standard library, which are the same on every machine; with TypesConfig they
are those of that file, and no others. AddType says what a file is and never who serves it: its
argument has to be a media type, so that no handler's name can be given.

AddOutputFilterByType, mod_filter's in Apache, is here. Left out: MultiviewsMatch,
ModMimeUsePathInfo, the rest of mod_filter, mod_negotiation. DefaultType may be ``none`` only.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, Any

from ...sapi import ConfigurationError
from ..filters import RESOURCE, Brigade, Filter, OutputFilter, insert_output
from ..hooks import DECLINED, OK
from ..module import (
    ITERATE,
    ITERATE2,
    OR_FILEINFO,
    RSRC_CONF,
    TAKE1,
    Command,
    Module,
    Settings,
    setter,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..config import Parameters
    from ..hooks import Hooks
    from ..host import Host
    from ..records import Request

_MORE = {
    "7z": "application/x-7z-compressed",
    "avif": "image/avif",
    "bz2": "application/x-bzip2",
    "gz": "application/gzip",
    "ico": "image/vnd.microsoft.icon",
    "js": "text/javascript",
    "md": "text/markdown",
    "mjs": "text/javascript",
    "otf": "font/otf",
    "rtf": "application/rtf",
    "tgz": "application/gzip",
    "ttf": "font/ttf",
    "wasm": "application/wasm",
    "webmanifest": "application/manifest+json",
    "webp": "image/webp",
    "woff": "font/woff",
    "woff2": "font/woff2",
    "xz": "application/x-xz",
    "zst": "application/zstd",
}
"""What not every supported version of the standard library has, or has alike."""
_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(?:[ \t]*;[\t\x20-\x7e]*)?")
_CHARSET = re.compile(r"[ \t]*;[ \t]*charset=[^;]*", re.IGNORECASE)
_REMOVED = ""
"""The value of what RemoveType and its like take away."""

Known = dict[str, Any]
"""What one extension means: ``type``, ``handler``, ``encoding``, ``charset``, ``language``,
``output_filters``, ``input_filters``."""


class Config(Settings):
    """What is configured for a section."""

    extensions: dict[str, Known] = {}  # noqa: RUF012 - replaced, never changed
    """By extension, in lower case and without its dot."""
    default_language: str | None = None
    by_type: tuple[tuple[str, str], ...] = ()
    """AddOutputFilterByType: filters and types."""

    def merged(self, new: Config) -> Config:
        """Each extension has what either says of it; *new* counts where both do."""
        result: Config = super().merged(new)
        result.extensions = _overlaid(self.extensions, new.extensions)
        result.by_type = self.by_type + new.by_type
        return result


class ServerConfig(Settings):
    """What is configured for a server."""

    types_config: str | None = None
    types: dict[str, str] = {}  # noqa: RUF012 - replaced, never changed
    """By extension; made once everything is read."""


def _overlaid(base: dict[str, Known], new: dict[str, Known]) -> dict[str, Known]:
    result = {**base, **new}
    for extension in base.keys() & new.keys():
        result[extension] = {**base[extension], **new[extension]}
    return result


# -- directives -----------------------------------------------------------------------------------


def _adds(what: str, convert: Callable[[str], Any] = str.lower) -> Callable[..., str | None]:
    def add(cmd: Parameters, config: Config, value: str, extension: str) -> str | None:
        try:
            known = {what: convert(value)}
        except ValueError as error:
            return f"{cmd.directive.name}: {error}"
        key = extension.lower().lstrip(".")
        config.extensions = _overlaid(config.extensions, {key: known})
        return None

    return add


def _removes(what: str) -> Callable[..., str | None]:
    def remove(cmd: Parameters, config: Config, extension: str) -> None:
        key = extension.lower().lstrip(".")
        config.extensions = _overlaid(config.extensions, {key: {what: _REMOVED}})

    return remove


def _media_type(text: str) -> str:
    if _TYPE.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no media type; a handler is chosen by AddHandler")
    kind, semicolon, rest = text.partition(";")
    return kind.lower() + semicolon + rest


def _filter_names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.lower().split(";") if name)


def _by_type(cmd: Parameters, config: Config, filters: str, kind: str) -> str | None:
    for name in _filter_names(filters):
        config.by_type = (*config.by_type, (name, kind.lower()))
    return None


def _default_type(cmd: Parameters, config: Config, kind: str) -> str | None:
    if kind.lower() != "none":
        cmd.host.warn("Ignoring deprecated use of DefaultType: use AddType or ForceType")
    return None


# -- types ----------------------------------------------------------------------------------------


def standard_types() -> dict[str, str]:
    """Return the types of the standard library by extension, without the system's files."""
    from mimetypes import MimeTypes

    table = MimeTypes().types_map[1]  # 1: those that are registered
    return {extension[1:].lower(): kind for extension, kind in table.items()} | _MORE


def read_types(path: str) -> dict[str, str]:
    """Return those of a file in the form of Apache's mime.types.

    Raises :class:`ConfigurationError` when it cannot be read.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.partition("#")[0].split() for line in file]
    except OSError as error:
        raise ConfigurationError(
            f"could not open mime types config file {path}: {error.strerror}"
        ) from None
    return {name.lower(): words[0] for words in lines for name in words[1:]}


def _check_config(host: Host) -> int:
    """Make the tables of types, one for each file that is named."""
    host.register_output_filter(BY_TYPE)
    made: dict[str | None, dict[str, str]] = {}
    for server in (host.main, *host.servers):
        config: ServerConfig = server.module_config[mime_module]
        path = config.types_config
        if path not in made:
            made[path] = standard_types() if path is None else read_types(path)
        config.types = made[path]
    return OK


def _types_config(cmd: Parameters, config: ServerConfig, path: str) -> None:
    config.types_config = cmd.server_path(path)


# -- the phases -----------------------------------------------------------------------------------


def _type_checker(r: Request) -> int:
    """Say what the file is, by its extensions; DECLINED when they say no type."""
    if r.filename is None or (r.finfo is not None and stat.S_ISDIR(r.finfo.st_mode)):
        return DECLINED
    config: Config = r.per_dir_config[mime_module]
    # A name's dots at its begin are a part of it: ".png" is a name without extensions.
    name = os.path.basename(r.filename).lstrip(".")
    kind, charset, filters = None, None, None
    encodings: list[str] = []
    languages: list[str] = []
    dot = name.find(".")
    if dot >= 0:
        types: dict[str, str] = r.server.module_config[mime_module].types
        extensions = config.extensions
        for extension in name[dot + 1 :].lower().split("."):
            known = extensions.get(extension)
            if known is None:
                kind = types.get(extension, kind)
                continue
            own = known.get("type")
            if own is None and not known.get("encoding"):
                own = types.get(extension)
            kind = own or kind
            charset = known.get("charset") or charset
            if known.get("encoding"):
                encodings.append(known["encoding"])
            if known.get("language"):
                languages.append(known["language"])
            if known.get("handler"):
                r.handler = known["handler"]
            if known.get("output_filters") or known.get("input_filters"):
                old = filters or ((), ())
                filters = (
                    old[0] + (known.get("output_filters") or ()),
                    old[1] + (known.get("input_filters") or ()),
                )
    if filters is not None:
        r.request_config[mime_module] = filters
    if encodings:
        r.content_encoding = ", ".join(encodings)
    if languages:
        r.content_languages = tuple(languages)
    elif config.default_language is not None:
        r.content_languages = (config.default_language,)
    if kind is None:
        return DECLINED
    r.content_type = f"{_CHARSET.sub('', kind)}; charset={charset}" if charset else kind
    return OK


def _insert_filters(r: Request) -> None:
    if r.request_config:
        filters = r.request_config.get(mime_module)
        if filters is not None:
            _insert(r, *filters)
    config: Config = r.per_dir_config[mime_module]
    if config.by_type:
        _insert_by_type(r, config.by_type)


def _insert(r: Request, output: tuple[str, ...], input: tuple[str, ...]) -> None:
    for name in output:
        _insert_output(r, name)
    for name in input if r.main is None else ():
        registered = r.host.input_filters.get(name)
        if registered is not None:
            r.body.add_filter(registered.make(r))
        else:
            r.log(f"there is no input filter {name!r}")


def _insert_output(r: Request, name: str) -> None:
    if name in r.host.output_filters:
        r.add_output_filter(name)
    else:
        r.log(f"there is no output filter {name!r}")


def _insert_by_type(r: Request, pairs: tuple[tuple[str, str], ...]) -> None:
    """A file's type is known already; that of other responses is when they come."""
    if r.finfo is not None and r.handler in (None, "default-handler"):
        _insert_matching(r, pairs)
    else:
        insert_output(r, BY_TYPE.name).context = pairs


def _insert_matching(r: Request, pairs: tuple[tuple[str, str], ...]) -> None:
    if r.content_type is None:
        return
    kind = r.content_type.partition(";")[0].strip().lower()
    for name in dict.fromkeys(name for name, wanted in pairs if wanted == kind):
        _insert_output(r, name)


def _choose_by_type(f: Filter, brigade: Brigade) -> None:
    """Put the filters for the response's type behind this one, which leaves."""
    _insert_matching(f.request, f.context)
    f.remove()
    f.pass_on(brigade)


BY_TYPE = OutputFilter("BYTYPE", _choose_by_type, RESOURCE - 1)
"""It comes before all others, so that those it inserts are behind it."""


def _register(hooks: Hooks) -> None:
    hooks.add("check_config", _check_config)
    hooks.add("type_checker", _type_checker)
    hooks.add("insert_filter", _insert_filters)


def _pair(name: str, what: str, convert: Callable[[str], Any], help: str) -> tuple[Command, ...]:
    return (
        Command(f"Add{name}", _adds(what, convert), ITERATE2, OR_FILEINFO, f"{help}, extensions"),
        Command(f"Remove{name}", _removes(what), ITERATE, OR_FILEINFO, "extensions"),
    )


mime_module = Module(
    "mod_mime",
    commands=(
        *_pair("Type", "type", _media_type, "a media type"),
        *_pair("Handler", "handler", str.lower, "a handler's name"),
        *_pair("Encoding", "encoding", str.lower, "a content coding"),
        *_pair("Charset", "charset", str, "a charset"),
        *_pair("Language", "language", str, "a language"),
        *_pair("OutputFilter", "output_filters", _filter_names, "filters with ; between"),
        *_pair("InputFilter", "input_filters", _filter_names, "filters with ; between"),
        Command("AddOutputFilterByType", _by_type, ITERATE2, OR_FILEINFO, "filters, media types"),
        Command("DefaultLanguage", setter("default_language"), TAKE1, OR_FILEINFO, "a language"),
        Command("DefaultType", _default_type, TAKE1, OR_FILEINFO, "none"),
        Command("TypesConfig", _types_config, TAKE1, RSRC_CONF, "a file"),
    ),
    create_dir_config=lambda path: Config(),
    merge_dir_config=Config.merged,
    create_server_config=lambda server: ServerConfig(),
    merge_server_config=ServerConfig.merged,
    register_hooks=_register,
)
