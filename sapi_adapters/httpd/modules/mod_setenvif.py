"""mod_setenvif: variables by what a request is like, set before access is decided.

The words after an expression are ``NAME``, ``NAME=VALUE`` or ``!NAME``, which unsets; ``$1`` in
the value is what the expression's first group matched. What is looked at is Remote_Addr,
Remote_Host (when it is known), Server_Addr, Request_Method, Request_Protocol, Request_URI, a
header field (by a regular expression of names without case, if it is not plain), or a variable
that was set before. What is not there is empty. Outside of sections this happens once the head is
read, in sections after these are known. Left out: SetEnvIfExpr.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ..hooks import OK
from ..module import (
    ACCESS_CONF,
    OR_FILEINFO,
    RSRC_CONF,
    TAKE_ARGV,
    Command,
    Module,
    Settings,
)
from .expansion import expand, pattern
from .octets import octets

if TYPE_CHECKING:
    from ..config import Parameters
    from ..hooks import Hooks
    from ..records import Request

_SPECIAL: dict[str, Callable[[Request], str | None]] = {
    "remote_addr": lambda r: r.connection.client_ip,
    "remote_host": lambda r: r.connection.remote_host or r.connection.client_ip,
    "server_addr": lambda r: r.connection.local_ip,
    "request_method": lambda r: r.method,
    "request_protocol": lambda r: r.protocol,
    "request_uri": lambda r: r.uri,
}
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")


def _field(name: str) -> Callable[[Request], str | None]:
    """Return what finds the header field or the variable *name*."""

    def find(r: Request) -> str | None:
        found = r.headers_in.all(name)
        return ", ".join(found) if found else r.subprocess_env.get(name)

    return find


def _field_like(names: re.Pattern[str]) -> Callable[[Request], str | None]:
    """Return what finds the first header field whose name *names* matches."""

    def find(r: Request) -> str | None:
        for name, value in r.headers_in.items():
            if names.search(name) is not None:
                return value
        return None

    return find


class Rule(NamedTuple):
    """One directive."""

    find: Callable[[Request], str | None]
    expression: re.Pattern[str]
    variables: tuple[tuple[str, str | None], ...]
    """Names and values; None unsets."""

    def apply(self, r: Request) -> None:
        """Set the variables of *r* if the rule holds for it."""
        match = self.expression.search(self.find(r) or "")
        if match is None:
            return
        for name, value in self.variables:
            if value is None:
                r.subprocess_env.pop(name, None)
            else:
                r.subprocess_env[name] = expand(value, match)


class Config(Settings):
    """What is configured for a server or a section."""

    rules: tuple[Rule, ...] = ()

    def merged(self, new: Config) -> Config:
        """The new rules come after the others."""
        result: Config = super().merged(new)
        result.rules = self.rules + new.rules
        return result


def _rule(attribute: str | None, *, ignore_case: bool) -> Callable[..., str | None]:
    """Return the function of a directive; it takes the attribute itself unless it has one."""

    def store(cmd: Parameters, config: Config, given: list[str]) -> str | None:
        words = given if attribute is None else [attribute, *given]
        if len(words) < 3:
            return f"{cmd.directive.name} requires an expression and at least one variable"
        name, source, *variables = words
        special = _SPECIAL.get(name.lower())
        if special is None and attribute is None and _PLAIN.fullmatch(name) is None:
            special = _field_like(pattern(name, re.IGNORECASE))
        pairs: list[tuple[str, str | None]] = []
        for word in variables:
            key, equals, value = word.partition("=")
            unset = key.startswith("!")
            key = key.removeprefix("!")
            if not key:
                return f"{cmd.directive.name}: {word!r} names no variable"
            pairs.append((key, None if unset else octets(value) if equals else "1"))
        flags = re.IGNORECASE if ignore_case else 0
        rule = Rule(special or _field(name), pattern(octets(source), flags), tuple(pairs))
        if cmd.path is None:
            servers = cmd.server.module_config
            config = servers.setdefault(setenvif_module, Config())
        config.rules = (*config.rules, rule)
        return None

    return store


def _of_server(r: Request) -> int:
    """post_read_request: what stands outside of sections."""
    config: Config = r.server.module_config[setenvif_module]
    for rule in config.rules:
        rule.apply(r)
    return OK


def _of_section(r: Request) -> int:
    """header_parser: what stands in sections."""
    if r.prev is not None:
        _of_server(r)  # the request that an internal redirect makes is never read
    config: Config = r.per_dir_config[setenvif_module]
    for rule in config.rules:
        rule.apply(r)
    return OK


def _register(hooks: Hooks) -> None:
    hooks.add("post_read_request", _of_server)
    hooks.add("header_parser", _of_section)


_WHERE = RSRC_CONF | ACCESS_CONF | OR_FILEINFO

setenvif_module = Module(
    "mod_setenvif",
    commands=tuple(
        Command(name, _rule(attribute, ignore_case=ignore), TAKE_ARGV, _WHERE)
        for name, attribute, ignore in (
            ("SetEnvIf", None, False),
            ("SetEnvIfNoCase", None, True),
            ("BrowserMatch", "User-Agent", False),
            ("BrowserMatchNoCase", "User-Agent", True),
        )
    ),
    create_dir_config=lambda path: Config(),
    merge_dir_config=Config.merged,
    create_server_config=lambda server: Config(),
    merge_server_config=Config.merged,
    register_hooks=_register,
)
