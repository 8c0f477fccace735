"""mod_authz_core: Require, its containers, and who decides about its lines.

Left out: ``Require expr``, AuthzProviderAlias, and Limit sections; also Satisfy with the rest of
mod_access_compat: what it says is said by RequireAny and RequireAll.

A decision is made twice where it needs to be. Before anybody is asked for a password
(access_checker_ex) lines about users answer :data:`DENIED_NO_USER`; only if that could matter the
user is determined, and then (auth_checker) everything is asked again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ...sapi import ConfigurationError
from ..config import words
from ..hooks import DECLINED, LAST, OK
from ..module import (
    ACCESS_CONF,
    FLAG,
    OR_AUTHCFG,
    RAW_ARGS,
    TAKE1,
    Command,
    Module,
    Settings,
    setter,
)
from .mod_authn_core import auth_type

if TYPE_CHECKING:
    from ..config import Parameters
    from ..hooks import Hooks
    from ..host import Host
    from ..records import Request

DENIED, GRANTED, NEUTRAL, GENERAL_ERROR, DENIED_NO_USER = range(5)
"""What a provider answers (authz_status). DENIED_NO_USER is DENIED that a user could change;
NEUTRAL leaves it to the others; GENERAL_ERROR, which it has logged, makes the answer 500."""

AND, OR = "and", "or"


class Provider(NamedTuple):
    """Who decides about the lines ``Require NAME ...`` of one name (authz_provider)."""

    check: Callable[[Request, Any], int]
    """Given the request and what *parse* returned."""
    parse: Callable[[Parameters, list[str]], Any]
    """Given the words after the name; raises :class:`ConfigurationError`."""


def register_authz_provider(host: Host, name: str, provider: Provider) -> None:
    """Let *provider* decide about ``Require`` *name*. To be called in the hook pre_config."""
    host.provided.setdefault("authz_providers", {})[name] = provider


# -- the tree of a section ------------------------------------------------------------------------


class Line(NamedTuple):
    """One Require."""

    check: Callable[[Request, Any], int]
    arguments: Any
    negated: bool

    def decide(self, r: Request) -> int:
        """Return what it means for *r*."""
        found = self.check(r, self.arguments)
        return _negated(found) if self.negated else found


class Container:
    """A RequireAll, RequireAny or RequireNone, or what a section has outside of these."""

    def __init__(self, name: str, operator: str, *, negated: bool = False) -> None:
        self.name = name
        self.operator = operator
        self.negated = negated
        self.members: list[Line | Container] = []

    def add(self, member: Line | Container, name: str) -> str | None:
        """Take in *member*, which the directive *name* made; return what is wrong with it."""
        if member.negated and self.operator == OR:
            kind = "negative " if isinstance(member, Line) else ""
            return f"{kind}{name} directive has no effect in {self.name} directive"
        self.members.append(member)
        return None

    def decide(self, r: Request) -> int:
        """Return what all members together mean for *r*."""
        decisive, weaker = (DENIED, GRANTED) if self.operator == AND else (GRANTED, DENIED)
        found = NEUTRAL
        for member in self.members:
            said = member.decide(r)
            if said == GENERAL_ERROR:
                return said
            if said == decisive:
                found = said
                break
            if found == NEUTRAL or (said == DENIED_NO_USER and found == weaker):
                found = said
        return _negated(found) if self.negated else found


def _negated(found: int) -> int:
    """That somebody is not forbidden is no reason to let him in: hence never GRANTED."""
    if found == GRANTED:
        return DENIED
    return NEUTRAL if found in (DENIED, DENIED_NO_USER) else found


class Config(Settings):
    """What is configured for a section."""

    section: Container | None = None
    merging: str | None = None
    """``"off"``, ``"and"``, ``"or"``: how this section is joined to those before it."""
    forbidden_on_failure = False

    def merged(self, new: Config) -> Config:
        """A section with Require lines replaces those before it, unless AuthMerging joins them."""
        result: Config = super().merged(new)
        if new.merging in (AND, OR):
            sections = [each for each in (self.section, new.section) if each is not None]
            if sections:
                result.section = Container("AuthMerging", new.merging)
                result.section.members += sections
        elif new.merging is not None:
            result.section = new.section
        return result


def _container(cmd: Parameters, config: Config) -> Container:
    """Return what the directive stands in."""
    inner: Container | None = cmd.info.get("require")
    if inner is not None:
        return inner
    if config.section is None:
        config.section = Container("<RequireAny>", OR)
    return config.section


def _require(cmd: Parameters, config: Config, rest: str) -> str | None:
    given = words(cmd.directive)
    negated = bool(given) and given[0].lower() == "not"
    if negated:
        del given[0]
    if not given:
        return "Require needs the name of what is required, such as all, ip or user"
    name = given.pop(0)
    provider: Provider | None = cmd.host.provided.get("authz_providers", {}).get(name)
    if provider is None:
        return f"Unknown Authz provider: {name}"
    line = Line(provider.check, provider.parse(cmd, given), negated)
    return _container(cmd, config).add(line, "Require")


def _enter(name: str, operator: str, *, negated: bool = False) -> Any:
    """Return the function of a container's directive."""

    def enter(cmd: Parameters, config: Config, rest: str) -> str | None:
        if rest:
            return f"{name} directive takes no arguments"
        inner = Container(name, operator, negated=negated)
        cmd.walk(
            cmd.directive.children or [],
            cmd.vector,
            cmd.path,
            cmd.context,
            info={**cmd.info, "require": inner},
        )
        if not inner.members:
            return f"{name} directive contains no authorization directives"
        if all(member.negated for member in inner.members):
            return f"{name} directive contains only negative authorization directives"
        return _container(cmd, config).add(inner, name)

    return enter


def _merging(value: str) -> str:
    if value.lower() not in ("off", AND, OR):
        raise ValueError("must be one of: Off | And | Or")
    return value.lower()


# -- providers of its own -------------------------------------------------------------------------


def _parse_all(cmd: Parameters, given: list[str]) -> bool:
    if len(given) == 1 and given[0].lower() in ("granted", "denied"):
        return given[0].lower() == "granted"
    raise ConfigurationError("Argument for 'Require all' must be 'granted' or 'denied'")


def _parse_env(cmd: Parameters, given: list[str]) -> tuple[str, ...]:
    if not given:
        raise ConfigurationError("'Require env' needs the names of variables")
    return tuple(given)


def _check_env(r: Request, names: tuple[str, ...]) -> int:
    variables = r.subprocess_env
    return GRANTED if any(name in variables for name in names) else DENIED


_METHODS = frozenset(
    """GET HEAD POST PUT DELETE PATCH OPTIONS TRACE CONNECT PROPFIND PROPPATCH MKCOL COPY MOVE LOCK
    UNLOCK VERSION-CONTROL CHECKOUT UNCHECKOUT CHECKIN UPDATE LABEL REPORT MKWORKSPACE MKACTIVITY
    BASELINE-CONTROL MERGE""".split()
)


def _parse_method(cmd: Parameters, given: list[str]) -> frozenset[str]:
    for name in given:
        if name not in _METHODS:
            raise ConfigurationError(f"Unknown Method {name!r}")
    if not given:
        raise ConfigurationError("'Require method' needs the names of methods")
    return frozenset("GET" if name == "HEAD" else name for name in given)


def _check_method(r: Request, methods: frozenset[str]) -> int:
    method = "GET" if r.method == "HEAD" else r.method
    return GRANTED if method in methods else DENIED


_OWN = {
    "all": Provider(lambda r, granted: GRANTED if granted else DENIED, _parse_all),
    "env": Provider(_check_env, _parse_env),
    "method": Provider(_check_method, _parse_method),
}


# -- hooks ----------------------------------------------------------------------------------------


def _before_user(r: Request) -> int:
    """access_checker_ex: OK when nobody need say who he is, DECLINED when that could help."""
    config: Config = r.per_dir_config[authz_core_module]
    if config.section is None:
        if auth_type(r) is None:
            return OK
        r.log("AuthType configured with no corresponding authorization directives")
        return 500
    found = config.section.decide(r)
    if found == GRANTED:
        return OK
    if found == DENIED_NO_USER:
        return DECLINED
    if found == GENERAL_ERROR:
        return 500
    return _forbidden(r)


def _after_user(r: Request) -> int:
    """auth_checker: whether this user may."""
    config: Config = r.per_dir_config[authz_core_module]
    if config.section is None:
        return OK  # another module wanted the user
    found = config.section.decide(r)
    if found == GRANTED:
        return OK
    if found == GENERAL_ERROR:
        return 500
    if found != DENIED_NO_USER and auth_type(r) is None:
        return _forbidden(r)
    r.log(f"user {r.user!a}: authorization failure for {r.uri!a}")
    return 403 if config.forbidden_on_failure and found != DENIED_NO_USER else 401


def _forbidden(r: Request) -> int:
    what = f"uri {r.uri!a}" if r.filename is None else f"{r.filename!a}"
    r.log(f"client denied by server configuration: {what}")
    return 403


def _provide(host: Host) -> int:
    for name, provider in _OWN.items():
        register_authz_provider(host, name, provider)
    return OK


def _register(hooks: Hooks) -> None:
    hooks.add("pre_config", _provide)
    hooks.add("access_checker_ex", _before_user, order=LAST)
    hooks.add("auth_checker", _after_user, order=LAST)


_WHERE = ACCESS_CONF | OR_AUTHCFG

authz_core_module = Module(
    "mod_authz_core",
    commands=(
        Command("Require", _require, RAW_ARGS, _WHERE, "who or what may come in"),
        Command("<RequireAll", _enter("<RequireAll>", AND), RAW_ARGS, _WHERE),
        Command("<RequireAny", _enter("<RequireAny>", OR), RAW_ARGS, _WHERE),
        Command("<RequireNone", _enter("<RequireNone>", OR, negated=True), RAW_ARGS, _WHERE),
        Command("AuthMerging", setter("merging", _merging), TAKE1, _WHERE, "Off, And or Or"),
        Command("AuthzSendForbiddenOnFailure", setter("forbidden_on_failure"), FLAG, _WHERE),
    ),
    create_dir_config=lambda path: Config(),
    merge_dir_config=Config.merged,
    register_hooks=_register,
)
