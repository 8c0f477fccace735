"""mod_alias: Alias and Redirect, their Match forms, and ScriptAlias.

Redirects come before aliases, a virtual host's before the main server's; of each kind the first
that matches counts, in the order of the file. In Directory and Location sections Redirect is
looked at in the fix-ups. In a Location the first argument may be left out (2.4.19): then the one
target is that of all paths there, unless AliasPreservePath appends what is behind the section's.

A target stays as it is written, with its symbolic links, as DocumentRoot and the names of
Directory sections do: these hold for it by that name. What ``$1`` puts into a redirect's URL is
escaped, what the configuration has is not. Left out: expressions in targets, RedirectRelative.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from ..config import words
from ..hooks import DECLINED, OK, run_first
from ..module import (
    ACCESS_CONF,
    FLAG,
    OR_FILEINFO,
    RAW_ARGS,
    RSRC_CONF,
    TAKE2,
    TAKE12,
    Command,
    Module,
    Settings,
    setter,
)
from ..reading import host_name
from ..walks import unescape_to_path
from .expansion import expand, pattern
from .octets import octets, printable

if TYPE_CHECKING:
    from ..config import Parameters
    from ..hooks import Hooks
    from ..records import Request

CGI = "cgi-script"
"""The handler of what a ScriptAlias leads to."""
_STATUS = {"permanent": 301, "temp": 302, "seeother": 303, "gone": 410}
_SAFE = "$-_.+!*'(),:@&=/~"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_SLASHES = re.compile("//+")
_PORT = re.compile(r":([0-9]+)$")


class Mapping(NamedTuple):
    """One Alias or Redirect."""

    path: str
    """The beginning of a URL's path; of a Match directive the expression."""
    expression: re.Pattern[str] | None
    target: str
    """A path of the file system or a URL; empty where a status says everything."""
    status: int = 0
    """Of a Redirect."""
    handler: str | None = None
    """Of a ScriptAlias."""

    def mapped(self, uri: str, convert: Callable[[str], str]) -> str | None:
        """Return where *uri* leads, its own parts through *convert*; None if it is another's."""
        if self.expression is not None:
            match = self.expression.search(uri)
            return None if match is None else expand(self.target, match, convert)
        path = self.path
        if not uri.startswith(path):
            return None
        rest = uri[len(path) :]
        if not rest or rest[0] == "/" or path.endswith("/"):
            return self.target + convert(rest)
        return None


class ServerConfig(Settings):
    """What stands outside of sections."""

    aliases: tuple[Mapping, ...] = ()
    redirects: tuple[Mapping, ...] = ()

    def merged(self, new: ServerConfig) -> ServerConfig:
        """A virtual host's come first."""
        result: ServerConfig = super().merged(new)
        result.aliases = new.aliases + self.aliases
        result.redirects = new.redirects + self.redirects
        return result


class Config(Settings):
    """What stands in a section."""

    redirects: tuple[Mapping, ...] = ()
    alias: Mapping | None = None
    """Of a Location with one argument; its path is the section's."""
    redirect: Mapping | None = None
    preserve_path = False

    def merged(self, new: Config) -> Config:
        """The nearer ones come first."""
        result: Config = super().merged(new)
        result.redirects = new.redirects + self.redirects
        return result


# -- directives -----------------------------------------------------------------------------------


def _server_own(cmd: Parameters) -> ServerConfig:
    found: ServerConfig = cmd.server.module_config.setdefault(alias_module, ServerConfig())
    return found


def _whole(cmd: Parameters, target: str) -> str:
    """Return *target* as a path below ServerRoot; a slash at its end stays."""
    path = os.path.normpath(cmd.server_path(target))
    return path + "/" if target.endswith("/") and path != "/" else path


def _alias(handler: str | None) -> Callable[..., str | None]:
    def store(cmd: Parameters, config: Config, first: str, second: str | None) -> str | None:
        name = cmd.directive.name
        if second is None:
            if not cmd.context.lower().startswith("location"):
                return f"{name} with one argument may only stand in <Location>"
            path = (cmd.path or "").rstrip("/")
            config.alias = Mapping(path, None, _whole(cmd, first), handler=handler)
            return None
        if cmd.path is not None:
            return f"{name} with two arguments may not stand in <{cmd.context}>"
        own = _server_own(cmd)
        mapping = Mapping(octets(first), None, _whole(cmd, second), handler=handler)
        own.aliases = (*own.aliases, mapping)
        return None

    return store


def _alias_match(handler: str | None) -> Callable[..., str | None]:
    def store(cmd: Parameters, config: object, source: str, target: str) -> str | None:
        own = _server_own(cmd)
        path = cmd.server_path(target)
        expression = pattern(octets(source))
        own.aliases = (*own.aliases, Mapping(source, expression, path, handler=handler))
        return None

    return store


def _redirect(status: int, *, match: bool = False) -> Callable[..., str | None]:
    """Return the function of a Redirect directive that means *status* unless it names one."""

    def store(cmd: Parameters, config: Config, rest: str) -> str | None:
        name, given, code = cmd.directive.name, words(cmd.directive), status
        own_status = name.lower() in ("redirect", "redirectmatch")
        if own_status and given and not given[0].startswith("/"):
            word = given[0].lower()
            if word in _STATUS or word.isdecimal():
                code = _STATUS.get(word) or int(word)
                del given[0]
                if not 300 <= code < 600:
                    return f"{name}: the status must be from 300 to 599"
        leads = 300 <= code < 400
        least = 2 if leads else 1
        pathless = (
            not match and cmd.context.lower().startswith("location") and len(given) == least - 1
        )
        if len(given) != least and not pathless:
            return (
                f"{name}: URL to redirect to is missing, or there is one argument too many"
                if leads
                else f"{name} {code} takes a path and no URL"
            )
        path = "" if pathless else octets(given[0])
        url = octets(given[-1]) if leads else ""
        if leads and not match and not url.startswith("/") and _SCHEME.match(url) is None:
            return f"{name} to non-URL {url!r}"
        expression = pattern(path) if match else None
        mapping = Mapping(path, expression, url, code)
        if pathless:
            config.redirect = mapping
        elif cmd.path is None:
            own = _server_own(cmd)
            own.redirects = (*own.redirects, mapping)
        else:
            config.redirects = (*config.redirects, mapping)
        return None

    return store


# -- where a request leads ------------------------------------------------------------------------


def _translate(r: Request) -> int:
    """translate_name."""
    config: ServerConfig = r.server.module_config[alias_module]
    own: Config = r.per_dir_config[alias_module]
    uri = r.uri
    if not uri.startswith("/"):
        return DECLINED
    if own.redirect is not None:
        return _leads_to(r, own.redirect, own.redirect.target)
    for mapping in config.redirects:
        target = mapping.mapped(uri, _escaped)
        if target is not None:
            return _leads_to(r, mapping, target)
    if own.alias is not None:
        found = own.alias.mapped(uri, unescape_to_path) if own.preserve_path else None
        return _is_file(r, own.alias, own.alias.target if found is None else found)
    for mapping in config.aliases:
        found = mapping.mapped(uri, unescape_to_path)
        if found is not None:
            return _is_file(r, mapping, found)
    return DECLINED


def _is_file(r: Request, mapping: Mapping, path: str) -> int:
    r.filename = r.canonical_filename = _SLASHES.sub("/", path)
    if mapping.handler is not None:
        r.handler = r.notes["alias-forced-type"] = mapping.handler
    return OK


def _fixup(r: Request) -> int:
    """The redirects of sections."""
    config: Config = r.per_dir_config[alias_module]
    if config.redirect is not None:
        return _leads_to(r, config.redirect, config.redirect.target)
    for mapping in config.redirects:
        target = mapping.mapped(r.uri, _escaped)
        if target is not None:
            return _leads_to(r, mapping, target)
    return DECLINED


def _escaped(path: str) -> str:
    return quote(path.encode("latin-1"), safe=_SAFE)


def _leads_to(r: Request, mapping: Mapping, target: str) -> int:
    """Answer with the mapping's status; a redirect keeps the query unless it has its own."""
    if not 300 <= mapping.status < 400:
        return mapping.status
    if target.startswith("/"):
        target = absolute_url(r, target)
    elif _SCHEME.match(target) is None:
        r.log(f"cannot redirect {r.uri!a} to {target!a}; it is no absolute URI or path")
        return 500
    if r.args and "?" not in target:
        target = f"{target}?{r.args}"
    if not printable(target):
        r.log(f"cannot redirect {r.uri!a} to {target!a}: it has control characters")
        return 400
    r.headers_out.set("Location", target)
    return mapping.status


def absolute_url(r: Request, path: str) -> str:
    """Return the URL of *path* on the server that *r* is for (ap_construct_url)."""
    server = r.server
    scheme = run_first(r.host.hooks.http_scheme, r)
    if scheme == DECLINED:
        secure = bool(r.connection.notes) and r.connection.notes.get("ssl") is not None
        scheme = "https" if secure else "http"
    usual = 443 if scheme == "https" else 80
    name = server.server_hostname
    port = server.port or usual
    if name is None or not r.host.canonical_names(r):
        if r.hostname is not None:
            authority = r.headers_in.get("Host") or ""
            given = _PORT.search(authority)
            name = r.hostname
            if given is not None and host_name(authority) == name:
                port = int(given[1])
        else:
            name = name or r.connection.local_ip or "localhost"
            port = server.port or r.connection.local_port or usual
    return f"{scheme}://{name}{'' if port == usual else f':{port}'}{path}"


def _register(hooks: Hooks) -> None:
    hooks.add("translate_name", _translate)
    hooks.add("fixups", _fixup)


_WHERE = RSRC_CONF | ACCESS_CONF

alias_module = Module(
    "mod_alias",
    commands=(
        Command("Alias", _alias(None), TAKE12, _WHERE, "a path and what it leads to"),
        Command("ScriptAlias", _alias(CGI), TAKE12, _WHERE, "a path and what it leads to"),
        Command("AliasMatch", _alias_match(None), TAKE2, RSRC_CONF, "an expression and a path"),
        Command("ScriptAliasMatch", _alias_match(CGI), TAKE2, RSRC_CONF),
        Command("AliasPreservePath", setter("preserve_path"), FLAG, _WHERE | OR_FILEINFO),
        Command("Redirect", _redirect(302), RAW_ARGS, OR_FILEINFO),
        Command("RedirectMatch", _redirect(302, match=True), RAW_ARGS, OR_FILEINFO),
        Command("RedirectTemp", _redirect(302), RAW_ARGS, OR_FILEINFO),
        Command("RedirectPermanent", _redirect(301), RAW_ARGS, OR_FILEINFO),
    ),
    create_dir_config=lambda path: Config(),
    merge_dir_config=Config.merged,
    create_server_config=lambda server: ServerConfig(),
    merge_server_config=ServerConfig.merged,
    register_hooks=_register,
)
