"""mod_dir: what stands for a directory, and the slash at the end of its name.

As in Apache an index is looked up by a subrequest, so that what forbids it counts, and then takes
the request's place without a further round (ap_internal_fast_redirect). There are no listings: a
directory without an index is answered with 403.

One difference: a FallbackResource need be no file if a handler is configured for it.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING
from urllib.parse import quote

from ..hooks import DECLINED, LAST, OK
from ..module import FLAG, ITERATE, OR_INDEXES, TAKE1, Command, Module, Settings, setter
from ..phases import sub_req_lookup_uri

if TYPE_CHECKING:
    from ..config import Parameters
    from ..hooks import Hooks
    from ..records import Request

DIRECTORY = "httpd/unix-directory"
"""The handler of a directory for which nothing else is configured."""
_REDIRECTS = {"on": 302, "off": 0, "permanent": 301, "temp": 302, "seeother": 303}


class Config(Settings):
    """What is configured for a section."""

    index: tuple[str, ...] = ("index.html",)
    slash = True
    check_handler = False
    fallback: str | None = None
    index_redirect = 0
    """The status of a redirect to the index; 0 to serve it in the directory's place."""


def _directory_index(cmd: Parameters, config: Config, name: str) -> str | None:
    before = config.__dict__.get("index", ())
    config.index = () if name.lower() == "disabled" else (*before, name)
    return None


def _fallback(cmd: Parameters, config: Config, uri: str) -> str | None:
    if uri.lower() == "disabled":
        config.fallback = None
    elif not uri.startswith("/"):
        return f"FallbackResource must be a local path that begins with a slash, not {uri}"
    else:
        config.fallback = uri
    return None


def _index_redirect(cmd: Parameters, config: Config, value: str) -> str | None:
    status = _REDIRECTS.get(value.lower())
    if status is None:
        if value not in ("301", "302", "303", "307", "308"):
            return "DirectoryIndexRedirect must be On, Off, permanent, temp, seeother or a 3xx code"
        status = int(value)
    config.index_redirect = status
    return None


# -- fix-ups --------------------------------------------------------------------------------------


def _fixup(r: Request) -> int:
    if r.finfo is None:
        config: Config = r.per_dir_config[dir_module]
        if config.fallback is None or r.handler is not None or r.filename is None:
            return DECLINED
        return _fall_back(r, config.fallback)
    if not stat.S_ISDIR(r.finfo.st_mode):
        return DECLINED
    return _fixup_directory(r, r.per_dir_config[dir_module])


def _fixup_directory(r: Request, config: Config) -> int:
    if r.path_info:
        return DECLINED
    if not r.uri.endswith("/"):
        careful = r.method != "GET" and "redirect-carefully" in r.subprocess_env
        if not config.slash or careful:
            return DECLINED
        r.headers_out.set("Location", construct_url(r, _with_query(_escape(r.uri) + "/", r)))
        return 301
    if r.handler is None:
        r.handler = DIRECTORY
    elif config.check_handler and r.handler != DIRECTORY:
        return DECLINED
    error = OK
    for name in config.index:
        uri = name if name.startswith("/") else _escape(r.uri) + name
        sub = sub_req_lookup_uri(_with_query(uri, r), r, quick=True)
        is_file = sub.finfo is not None and stat.S_ISREG(sub.finfo.st_mode)
        if sub.status == 200 and is_file and not sub.path_info:
            if config.index_redirect:
                sub.run_cleanups()
                location = construct_url(r, _with_query(_escape(sub.uri), r))
                r.headers_out.set("Location", location)
                return config.index_redirect
            _take_over(r, sub)
            return OK
        _discard(r, sub)
        if 300 <= sub.status < 400 or sub.status == 401:
            return sub.status
        if sub.status not in (200, 404):
            error = sub.status  # whatever it is: the directory is not shown to be without an index
    return error or DECLINED


def _fall_back(r: Request, fallback: str) -> int:
    """Serve FallbackResource in the place of a file that is not there."""
    if r.uri == fallback.partition("?")[0]:
        return DECLINED  # it is missing itself
    sub = sub_req_lookup_uri(_with_query(fallback, r), r, quick=True)
    is_file = sub.finfo is not None and stat.S_ISREG(sub.finfo.st_mode)
    if sub.status == 200 and (is_file or sub.handler is not None):
        _take_over(r, sub)
        return OK
    _discard(r, sub)
    return sub.status if 300 <= sub.status < 400 else DECLINED


def _with_query(uri: str, r: Request) -> str:
    if r.args is None:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}{r.args}"


def _discard(r: Request, sub: Request) -> None:
    """Leave a subrequest; what it says to a client that is sent elsewhere or refused is kept."""
    sub.run_cleanups()
    if 300 <= sub.status < 400 or sub.status == 401:
        for name, value in sub.err_headers_out.items():
            r.err_headers_out.add(name, value)
        location = sub.headers_out.get("Location")
        if location is not None:
            r.headers_out.set("Location", location)


_TAKEN = (
    "no_cache",
    "no_local_copy",
    "mtime",
    "uri",
    "filename",
    "canonical_filename",
    "path_info",
    "used_path_info",
    "args",
    "finfo",
    "handler",
    "content_type",
    "content_encoding",
    "content_languages",
    "per_dir_config",
)


def _take_over(r: Request, sub: Request) -> None:
    """Let *r* be for what the subrequest *sub* found (ap_internal_fast_redirect)."""
    for name in _TAKEN:
        setattr(r, name, getattr(sub, name))
    if sub.user is not None:
        r.user, r.ap_auth_type = sub.user, sub.ap_auth_type
    for own, found in (
        (r.headers_out, sub.headers_out),
        (r.err_headers_out, sub.err_headers_out),
    ):
        for name, value in found.items():
            own.set(name, value)
    r.notes.update(sub.notes)
    r.subprocess_env.update(sub.subprocess_env)
    r.request_config.update(sub.request_config)
    r.cleanup(sub.run_cleanups)


# -- URLs -----------------------------------------------------------------------------------------


def _escape(path: str) -> str:
    """Return a decoded path, whose code points are bytes, as a URI's path."""
    return quote(path.encode("latin-1", "replace"), safe="/~!$&'()*+,;=:@")


def construct_url(r: Request, path: str) -> str:
    """Return the whole URL of *path* on this server, as its client knows it (ap_construct_url)."""
    scheme = "https" if r.connection.notes.get("ssl") is not None else "http"
    server = r.server
    name, port = r.hostname, ""
    if name is None or r.host.canonical_names(r):
        name = server.server_hostname or name or r.connection.local_ip or "localhost"
        number = server.port or r.connection.local_port
        port = str(number) if number else ""
    else:
        authority = r.headers_in.get("Host") or ""
        port = authority.rpartition("]")[2].rpartition(":")[2] if ":" in authority else ""
    if port in ("", "443" if scheme == "https" else "80"):
        return f"{scheme}://{name}{path}"
    return f"{scheme}://{name}:{port}{path}"


def _register(hooks: Hooks) -> None:
    hooks.add("fixups", _fixup, order=LAST)


dir_module = Module(
    "mod_dir",
    commands=(
        Command("DirectoryIndex", _directory_index, ITERATE, OR_INDEXES, "names, or disabled"),
        Command("DirectorySlash", setter("slash"), FLAG, OR_INDEXES),
        Command("DirectoryCheckHandler", setter("check_handler"), FLAG, OR_INDEXES),
        Command("DirectoryIndexRedirect", _index_redirect, TAKE1, OR_INDEXES, "On, Off or a code"),
        Command("FallbackResource", _fallback, TAKE1, OR_INDEXES, "a local path, or disabled"),
    ),
    create_dir_config=lambda path: Config(),
    merge_dir_config=Config.merged,
    register_hooks=_register,
)
