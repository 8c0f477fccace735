"""The core module: sections, servers, and the directives that no other module could bring."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from . import http_out, static
from .config import MAIN, SECTION, Parameters, words
from .coreconfig import (
    EXEC_CGI,
    FOLLOW_SYMLINKS,
    INCLUDES,
    INDEXES,
    MULTIVIEWS,
    SYMLINKS_IF_OWNER,
    DirConfig,
    ServerConfig,
    core_module,
    dir_config,
    options_of,
    server_config,
)
from .hooks import DECLINED, DONE, OK, REALLY_FIRST, REALLY_LAST
from .host import level_number
from .module import (
    ACCESS_CONF,
    EXEC_ON_READ,
    FLAG,
    ITERATE,
    OR_ALL,
    OR_FILEINFO,
    OR_OPTIONS,
    RAW_ARGS,
    RSRC_CONF,
    TAKE1,
    TAKE12,
    TAKE_ARGV,
    Command,
    number,
    seconds,
    setter,
)
from .records import Server
from .walks import Section, directory_walk, file_walk, unescape_to_path

__all__ = [
    "EXEC_CGI",
    "FOLLOW_SYMLINKS",
    "INCLUDES",
    "INDEXES",
    "MULTIVIEWS",
    "SYMLINKS_IF_OWNER",
    "DirConfig",
    "ServerConfig",
    "core_module",
    "dir_config",
    "options_of",
    "server_config",
]

if TYPE_CHECKING:
    from .hooks import Hooks
    from .module import Vector
    from .records import Request

_OPTIONS = {
    name.lower(): name
    for name in (INCLUDES, INDEXES, FOLLOW_SYMLINKS, SYMLINKS_IF_OWNER, EXEC_CGI, MULTIVIEWS)
}
_ALL = frozenset(_OPTIONS.values()) - {MULTIVIEWS, SYMLINKS_IF_OWNER}
_CLASSES = {
    "authconfig": 8,
    "fileinfo": 4,
    "indexes": 16,
    "limit": 1,
    "options": 2,
}


# -- what the directives do -----------------------------------------------------------------------


def _server_root(cmd: Parameters, config: Any, path: str) -> str | None:
    if not os.path.isdir(path):
        return f"ServerRoot must be a valid directory, not {path}"
    cmd.host.root = os.path.abspath(path)
    return None


def _define(cmd: Parameters, config: Any, name: str, value: str | None) -> str | None:
    if ":" in name:
        return "Define names must not have a colon"
    cmd.host.defines[name] = value or ""
    return None


def _undefine(cmd: Parameters, config: Any, name: str) -> None:
    cmd.host.defines.pop(name, None)


def _document_root(cmd: Parameters, config: ServerConfig, path: str) -> str | None:
    path = cmd.server_path(path)
    if not os.path.isdir(path):
        return f"DocumentRoot '{path}' is not a directory, or is not readable"
    config.document_root = os.path.normpath(path)
    return None


def _server_name(cmd: Parameters, config: Any, name: str) -> str | None:
    scheme, colon, rest = name.partition("://")
    if colon:
        cmd.server.server_scheme = scheme.lower()
    else:
        rest = name
    hostname, colon, port = rest.rpartition(":")
    if colon and port.isdigit():
        cmd.server.port = int(port)
    else:
        hostname = rest
    if not re.fullmatch(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]", hostname):
        return f"Invalid ServerName {name!r}: use ServerAlias to set multiple server names."
    cmd.server.server_hostname = hostname
    return None


def _server_alias(cmd: Parameters, config: Any, name: str) -> None:
    wild = "*" in name or "?" in name
    (cmd.server.wild_names if wild else cmd.server.names).append(name.lower())


def _listen(cmd: Parameters, config: Any, address: str, protocol: str | None) -> str | None:
    if cmd.server.is_virtual:
        return "Listen is for the whole server"
    if address.startswith("/"):
        cmd.host.listen.append(address)
        return None
    host, _, port = address.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        return f"Port must be specified: {address!r}"
    cmd.host.listen.append(f"{host.strip('[]') or '0.0.0.0'}:{port}")  # noqa: S104 - as asked
    return None


def _on_server(name: str, convert: Any) -> Any:
    """Return a directive that sets a field of the server itself."""

    def store(cmd: Parameters, config: Any, value: Any) -> str | None:
        try:
            setattr(cmd.server, name, value if isinstance(value, bool) else convert(value))
        except ValueError as error:
            return f"{cmd.directive.name}: {error}"
        return None

    return store


def _time_of_process(cmd: Parameters, config: Any, value: str) -> str | None:
    """The same for one that is a time."""
    try:
        seconds(value)
    except ValueError as error:
        return f"{cmd.directive.name}: {error}"
    return _of_process(cmd, config, value)


def _of_process(cmd: Parameters, config: Any, *values: str) -> str | None:
    """Keep a directive for the program around the host."""
    if cmd.server.is_virtual:
        return f"{cmd.directive.name} is for the whole server"
    cmd.host.settings[cmd.directive.name.lower()] = values[0]
    return None


def _error_log(cmd: Parameters, config: Any, path: str) -> str | None:
    if cmd.server.is_virtual:
        return "ErrorLog is for the whole server; its lines name the virtual host"
    cmd.host.settings["errorlog"] = path
    return None


def _log_level(cmd: Parameters, config: Any, levels: list[str]) -> str | None:
    for level in levels:
        module, colon, name = level.rpartition(":")
        level_number(name.lower())
        if not (colon and module):
            cmd.server.loglevel = name.lower()
    return None


def _options(cmd: Parameters, config: DirConfig, names: list[str]) -> str | None:
    signed = [name[0] in "+-" for name in names]
    permitted = cmd.info.get("options")  # by AllowOverride Options=..., in .htaccess files
    if any(signed) and not all(signed):
        return "Either all Options must start with + or -, or no Option may."
    for name in names:
        known = _OPTIONS.get(name.lstrip("+-").lower())
        every = name.lower() in ("all", "none")
        if known is None and not every:
            return f"Illegal option {name}"
        wanted = {"none": frozenset(), "all": _ALL}.get(name.lower(), frozenset({known}))
        if permitted is not None and not wanted <= permitted:
            return f"Option {name} not allowed here"
        if every:
            config.options = _ALL if name.lower() == "all" else frozenset()
        elif name[0] == "+":
            config.added_options |= {known}  # type: ignore[arg-type]
            config.removed_options -= {known}
            config.options |= {known}  # type: ignore[arg-type]
        elif name[0] == "-":
            config.removed_options |= {known}  # type: ignore[arg-type]
            config.added_options -= {known}
            config.options -= {known}
        else:
            before = config.__dict__.get("options", frozenset())
            config.options = before | {known}
    if all(signed) and signed:
        del config.options  # it is relative to what is merged before it
    return None


def _allow_override(cmd: Parameters, config: DirConfig, names: list[str]) -> str | None:
    if cmd.context != "Directory":
        return "AllowOverride not allowed here: only in <Directory>"
    bits = 0
    config.override_options = None
    for name in names:
        lower, _, options = name.lower().partition("=")
        if lower == "all":
            bits |= OR_ALL
        elif lower in _CLASSES:
            bits |= _CLASSES[lower]
            if lower == "options" and options:
                chosen = {_OPTIONS.get(option) for option in options.split(",")}
                if None in chosen:
                    return f"Illegal option in {name}"
                config.override_options = frozenset(str(option) for option in chosen)
        elif lower != "none":
            return f"Illegal override option {name}"
    config.override = bits
    return None


def _access_file_name(cmd: Parameters, config: ServerConfig, names: list[str]) -> None:
    config.access_files = tuple(names)


def _set_handler(cmd: Parameters, config: DirConfig, name: str) -> None:
    lower = name.lower()
    # The rest of a proxy's name is a path.
    config.handler = "" if lower == "none" else name if lower.startswith("proxy:") else lower


def _tokens(text: str) -> str:
    known = ("full", "major", "min", "minimal", "minor", "os", "prod", "productonly")
    if text.lower() not in known:
        raise ValueError(f"{text!r} is not Full, Major, Minimal, Minor, OS or Prod")
    return text.lower()


def _media_type(text: str) -> str:
    if "/" not in text and text.lower() != "none":
        raise ValueError(f"{text!r} is no media type")  # a bare word could be a handler's name
    return text


def _filters(name: str) -> Any:
    def store(cmd: Parameters, config: DirConfig, filters: str) -> None:
        given = tuple(each for each in filters.lower().split(";") if each)
        setattr(config, name, () if given == ("none",) else given)

    return store


def _error_document(cmd: Parameters, config: DirConfig, rest: str) -> str | None:
    code, _, response = rest.partition(" ")
    response = response.strip()
    if not (code.isdigit() and 400 <= int(code) < 600):
        return f"Unsupported HTTP response code {code}"
    if not response:
        return "ErrorDocument takes two arguments, a status and what answers"
    if response[0] == '"':
        inner = words(cmd.directive)
        response = inner[1]
        if not response.startswith("/") and "://" not in response:
            response = f'"{response}'
    elif response[0] != "/" and "://" not in response and response.lower() != "default":
        return f"ErrorDocument: {response!r} is neither a path nor a URL nor quoted"
    config.error_documents = {**config.error_documents, int(code): response}
    return None


def _accept_path_info(cmd: Parameters, config: DirConfig, value: str) -> str | None:
    values = {"on": True, "off": False, "default": None}
    if value.lower() not in values:
        return "AcceptPathInfo must be set to on, off or default"
    config.accept_path_info = values[value.lower()]
    return None


def _encoded_slashes(cmd: Parameters, config: DirConfig, value: str) -> str | None:
    if value.lower() not in ("on", "off", "nodecode"):
        return "AllowEncodedSlashes must be set to on, off or nodecode"
    config.encoded_slashes = value.lower()
    return None


def _file_etag(cmd: Parameters, config: DirConfig, names: list[str]) -> str | None:
    wanted = {name.lower() for name in names}
    if not wanted <= {"inode", "mtime", "size", "all", "none"}:
        return "FileETag must be INode, MTime, Size, All or None"
    order = ("inode", "mtime", "size")
    config.etag = tuple(each for each in order if each in wanted or "all" in wanted)
    return None


# -- sections -------------------------------------------------------------------------------------


def _virtual_host(cmd: Parameters, config: Any, rest: str) -> str | None:
    if cmd.context:
        return "<VirtualHost> cannot be within another section"
    server = Server(cmd.host, cmd.directive.file, cmd.directive.line)
    main = cmd.server
    for name in _INHERITED:
        setattr(server, name, getattr(main, name))
    server.is_virtual = True
    for address in words(cmd.directive):
        host, colon, port = address.rpartition(":")
        if not colon or (port != "*" and not port.isdigit()):
            host, port = address, "*"
        host = host.strip("[]")
        server.addrs.append(
            (host if host not in ("_default_", "") else "*", 0 if port == "*" else int(port))
        )
    if not server.addrs:
        return "<VirtualHost> directive requires additional arguments"
    cmd.host.add_server(server)
    children = cmd.directive.children or []
    cmd.walk(children, server.lookup_defaults, None, "VirtualHost", override=MAIN, server=server)
    return None


_INHERITED = (
    "timeout",
    "keep_alive",
    "keep_alive_max",
    "keep_alive_timeout",
    "limit_req_line",
    "limit_req_fieldsize",
    "limit_req_fields",
    "server_admin",
    "loglevel",
    "error_fname",
)


def _section(kind: str, *, regex: bool) -> Any:
    """Return the function of <Directory>, <Location>, <Files> and their Match forms."""

    def enter(cmd: Parameters, config: Any, rest: str) -> str | None:
        within = cmd.context.removesuffix("Match").lower()
        allowed = ("", "virtualhost", ".htaccess", *(["directory"] if kind == "Files" else []))
        if within not in allowed:
            return f"<{cmd.directive.name}> cannot be within <{cmd.context}>"
        arguments = words(cmd.directive)
        expression = regex
        if arguments[:1] == ["~"]:
            expression, arguments = True, arguments[1:]
        if len(arguments) != 1:
            return f"<{cmd.directive.name}> takes one argument, the path or pattern"
        pattern = arguments[0]
        if kind == "Directory" and not expression:
            pattern = _directory_name(cmd, pattern)
        vector: Vector = {}
        try:
            section = Section(pattern, vector, regex=expression)
        except re.error as error:
            return f"Regex could not be compiled: {error}"
        override = cmd.override if cmd.context == ".htaccess" else SECTION
        cmd.walk(
            cmd.directive.children or [],
            vector,
            pattern,
            kind,
            override=override,
            info={**cmd.info, "section": section},
        )
        if kind == "Files":
            _own(cmd).files = (*_own(cmd).files, section)
        elif kind == "Directory":
            _server_own(cmd).directories.append(section)
        else:
            _server_own(cmd).locations.append(section)
        return None

    return enter


def _directory_name(cmd: Parameters, name: str) -> str:
    if name == "/":
        return name
    # Links stay: what a request's path goes through counts, as in httpd.
    return os.path.normpath(cmd.server_path(name))


def _own(cmd: Parameters) -> DirConfig:
    found: DirConfig = cmd.vector.setdefault(core_module, DirConfig())
    return found


def _server_own(cmd: Parameters) -> ServerConfig:
    found: ServerConfig = cmd.server.module_config.setdefault(core_module, ServerConfig())
    return found


# -- hooks ----------------------------------------------------------------------------------------


def _translate(r: Request) -> int:
    """Map the path below DocumentRoot."""
    root = server_config(r.server).document_root
    if root is None:
        return DECLINED
    if not r.uri.startswith("/"):
        return DECLINED if r.uri == "*" else 400
    r.filename = root + unescape_to_path(r.uri)
    r.canonical_filename = r.filename
    return OK


def _limit_body(r: Request) -> int:
    """Refuse a body that is too large before anybody reads it (LimitRequestBody, 0 for none)."""
    limit = dir_config(r).limit_body
    if not limit or r.main is not None:
        return OK
    r.body.limit = limit
    if r.body.length is not None and r.body.length > limit:
        r.log(f"the body of {r.body.length} bytes is larger than {limit} bytes")
        return 413
    return OK


def _map_to_storage(r: Request) -> int:
    if r.method == "OPTIONS" and r.uri == "*":
        return DONE  # about the server, not about a resource (RFC 9110 section 9.3.7)
    if r.filename is None:
        return OK
    return directory_walk(r) or file_walk(r)


def _override_type(r: Request) -> int:
    config = dir_config(r)
    if config.forced_type is not None and config.forced_type.lower() != "none":
        r.content_type = config.forced_type
    if config.handler is not None:
        r.handler = config.handler or None
    if config.accept_path_info is not None and r.used_path_info is None:
        r.used_path_info = config.accept_path_info
    return OK


def _nothing(r: Request) -> int:
    return OK


def _insert_filters(r: Request) -> None:
    config = dir_config(r)
    for name in config.output_filters:
        if name in r.host.output_filters:
            r.add_output_filter(name)
        else:
            r.log(f"there is no output filter {name!r}")
    if config.input_filters and r.main is None:
        for name in config.input_filters:
            registered = r.host.input_filters.get(name)
            if registered is not None:
                r.body.add_filter(registered.make(r))
            else:
                r.log(f"there is no input filter {name!r}")


def _register(hooks: Hooks) -> None:
    hooks.add("translate_name", _translate, order=REALLY_LAST)
    hooks.add("map_to_storage", _map_to_storage, order=REALLY_LAST)
    hooks.add("post_perdir_config", _limit_body, order=REALLY_FIRST)
    hooks.add("type_checker", _nothing, order=REALLY_LAST)
    hooks.add("fixups", _override_type, order=REALLY_FIRST)
    hooks.add("insert_filter", _insert_filters)
    hooks.add("handler", static.default_handler, order=REALLY_LAST)
    hooks.add("check_config", _check)


def _check(host: Any) -> int:
    for server in (host.main, *host.servers):
        server.merge_slashes = server_config(server).merge_slashes
        server.signature = http_out.server_signature(server_config(server).server_tokens)
    for registered in (*http_out.FILTERS, *static.FILTERS):
        host.register_output_filter(registered)
    return OK


_EVERYWHERE = RSRC_CONF | ACCESS_CONF | OR_ALL
_SECTIONS = (
    Command("<VirtualHost", _virtual_host, RAW_ARGS, RSRC_CONF),
    Command("<Directory", _section("Directory", regex=False), RAW_ARGS, RSRC_CONF),
    Command("<DirectoryMatch", _section("Directory", regex=True), RAW_ARGS, RSRC_CONF),
    Command("<Location", _section("Location", regex=False), RAW_ARGS, RSRC_CONF),
    Command("<LocationMatch", _section("Location", regex=True), RAW_ARGS, RSRC_CONF),
    Command("<Files", _section("Files", regex=False), RAW_ARGS, _EVERYWHERE),
    Command("<FilesMatch", _section("Files", regex=True), RAW_ARGS, _EVERYWHERE),
)
_FOR_SERVER = RSRC_CONF
_FOR_DIR = RSRC_CONF | ACCESS_CONF

core_module.commands = (
    Command("ServerRoot", _server_root, TAKE1, RSRC_CONF | EXEC_ON_READ, "a directory"),
    Command("Define", _define, TAKE12, RSRC_CONF | EXEC_ON_READ, "a name and its value"),
    Command("UnDefine", _undefine, TAKE1, RSRC_CONF | EXEC_ON_READ, "a name"),
    *_SECTIONS,
    Command("DocumentRoot", _document_root, TAKE1, _FOR_SERVER, "a directory"),
    Command("ServerName", _server_name, TAKE1, _FOR_SERVER, "[scheme://]name[:port]"),
    Command("ServerAlias", _server_alias, ITERATE, _FOR_SERVER, "names"),
    Command("ServerAdmin", _on_server("server_admin", str), TAKE1, _FOR_SERVER, "an address"),
    Command("Listen", _listen, TAKE12, _FOR_SERVER, "[address:]port or a Unix socket"),
    Command("Timeout", _on_server("timeout", seconds), TAKE1, _FOR_SERVER, "a time"),
    Command("KeepAlive", _on_server("keep_alive", bool), FLAG, _FOR_SERVER),
    Command("KeepAliveTimeout", _on_server("keep_alive_timeout", seconds), TAKE1, _FOR_SERVER),
    Command("MaxKeepAliveRequests", _on_server("keep_alive_max", number), TAKE1, _FOR_SERVER),
    Command("LimitRequestLine", _on_server("limit_req_line", number), TAKE1, _FOR_SERVER),
    Command("LimitRequestFieldSize", _on_server("limit_req_fieldsize", number), TAKE1, _FOR_SERVER),
    Command("LimitRequestFields", _on_server("limit_req_fields", number), TAKE1, _FOR_SERVER),
    Command("User", _of_process, TAKE1, _FOR_SERVER, "a user's name, or # and a number"),
    Command("Group", _of_process, TAKE1, _FOR_SERVER, "a group's name, or # and a number"),
    Command("PidFile", _of_process, TAKE1, _FOR_SERVER, "a file"),
    Command("ListenBacklog", _of_process, TAKE1, _FOR_SERVER, "a number of connections"),
    Command("GracefulShutdownTimeout", _time_of_process, TAKE1, _FOR_SERVER, "a time, 0 for ever"),
    Command("ErrorLog", _error_log, TAKE1, _FOR_SERVER, "a file, or syslog"),
    Command("LogLevel", _log_level, TAKE_ARGV, _FOR_SERVER, "[module:]level"),
    Command("ServerTokens", setter("server_tokens", _tokens), TAKE1, _FOR_SERVER),
    Command("TraceEnable", setter("trace_enable"), FLAG, _FOR_SERVER),
    Command("MergeSlashes", setter("merge_slashes"), FLAG, _FOR_SERVER),
    Command("LimitInternalRecursion", setter("recursion", number), TAKE1, _FOR_SERVER),
    Command("AccessFileName", _access_file_name, TAKE_ARGV, _FOR_SERVER),
    Command("Options", _options, TAKE_ARGV, _FOR_DIR | OR_OPTIONS),
    Command("AllowOverride", _allow_override, TAKE_ARGV, ACCESS_CONF),
    Command("SetHandler", _set_handler, TAKE1, _FOR_DIR | OR_FILEINFO, "a handler's name"),
    Command(
        "ForceType",
        setter("forced_type", _media_type),
        TAKE1,
        _FOR_DIR | OR_FILEINFO,
        "a media type",
    ),
    Command("SetOutputFilter", _filters("output_filters"), TAKE1, _FOR_DIR | OR_FILEINFO),
    Command("SetInputFilter", _filters("input_filters"), TAKE1, _FOR_DIR | OR_FILEINFO),
    Command("ErrorDocument", _error_document, RAW_ARGS, _FOR_DIR | OR_FILEINFO),
    Command("AcceptPathInfo", _accept_path_info, TAKE1, _FOR_DIR | OR_FILEINFO),
    Command("AllowEncodedSlashes", _encoded_slashes, TAKE1, _FOR_DIR),
    Command("LimitRequestBody", setter("limit_body", number), TAKE1, _FOR_DIR | OR_ALL),
    Command("UseCanonicalName", setter("use_canonical_name"), FLAG, _FOR_DIR),
    Command("FileETag", _file_etag, TAKE_ARGV, _FOR_DIR | OR_FILEINFO),
    Command("EnableSendfile", setter("sendfile"), FLAG, _FOR_DIR | OR_FILEINFO),
)
core_module.register_hooks = _register
