"""What has to fit together in a configuration: the tables of rules, and :func:`check`.

A rule compares settings with one another or with the system. What one value may be by itself, its
kind in ``values.py`` knows.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from ..sapi import ConfigurationError
from .config import DYNAMIC, ONDEMAND, Global, Pool
from .directives import BY_NAME, bracketed, mistake, warn
from .values import is_tcp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Rule(NamedTuple):
    """What must not be: *text* says it, of the directive that is to be changed.

    *broken* is asked with the pool; the text is formatted with it as ``p``.
    """

    name: str
    broken: Callable[[Pool], Any]
    text: str


def _is_dynamic(pool: Pool) -> bool:
    return pool.pm == DYNAMIC


def _log_cannot_be(path: str | None) -> bool:
    return path not in (None, "-", "syslog") and not os.path.isdir(
        os.path.dirname(path or "") or "."
    )


def _any_port(address: str | None) -> bool:
    return address is not None and is_tcp(address) and address.rpartition(":")[2] == "0"


def _inside_chroot(pool: Pool) -> str:
    return (pool.chroot or "").rstrip("/") + (pool.chdir or "/")


_REFUSED = (
    Rule(
        "prefix", lambda p: p.prefix and not os.path.isdir(p.prefix), "{p.prefix} is no directory"
    ),
    # A test may leave the port to the kernel, by the command line; a service cannot.
    Rule("listen", lambda p: p.given.get("listen") and _any_port(p.listen), "has port 0"),
    Rule("pm.status_listen", lambda p: _any_port(p.pm_status_listen), "has port 0"),
    Rule(
        "pm.min_spare_servers",
        lambda p: _is_dynamic(p) and p.pm_min_spare_servers < 1,
        "must be at least 1 when pm = dynamic",
    ),
    Rule(
        "pm.max_spare_servers",
        lambda p: _is_dynamic(p) and p.pm_max_spare_servers < 1,
        "must be at least 1 when pm = dynamic",
    ),
    Rule(
        "pm.max_spare_servers",
        lambda p: _is_dynamic(p) and p.pm_max_spare_servers > p.pm_max_children,
        "{p.pm_max_spare_servers} is more than pm.max_children = {p.pm_max_children}",
    ),
    Rule(
        "pm.min_spare_servers",
        lambda p: _is_dynamic(p) and p.pm_min_spare_servers > p.pm_max_spare_servers,
        "{p.pm_min_spare_servers} is more than pm.max_spare_servers = {p.pm_max_spare_servers}",
    ),
    Rule(
        "pm.start_servers",
        lambda p: (
            _is_dynamic(p)
            and p.pm_start_servers
            and not p.pm_min_spare_servers <= p.pm_start_servers <= p.pm_max_spare_servers
        ),
        "{p.pm_start_servers} is not between pm.min_spare_servers = {p.pm_min_spare_servers}"
        " and pm.max_spare_servers = {p.pm_max_spare_servers}",
    ),
    Rule(
        "pm.max_spawn_rate",
        lambda p: _is_dynamic(p) and p.pm_max_spawn_rate < 1,
        "must be at least 1 when pm = dynamic",
    ),
    Rule(
        "pm.process_idle_timeout",
        lambda p: p.pm == ONDEMAND and p.pm_process_idle_timeout <= 0,
        "must be more than 0 when pm = ondemand",
    ),
    Rule(
        "pm.max_requests_jitter",
        lambda p: p.pm_max_requests_jitter and p.pm_max_requests_jitter >= p.pm_max_requests,
        "{p.pm_max_requests_jitter} must be less than pm.max_requests = {p.pm_max_requests}",
    ),
    Rule("ping.response", lambda p: p.ping_path and not p.ping_response, "must not be empty"),
    Rule("access.log", lambda p: _log_cannot_be(p.access_log), "there is no directory for it"),
    Rule(
        "slowlog",
        lambda p: p.request_slowlog_timeout and not p.slowlog,
        "is not set, and request_slowlog_timeout needs it",
    ),
    Rule(
        "slowlog",
        lambda p: p.request_slowlog_timeout and _log_cannot_be(p.slowlog),
        "there is no directory for it",
    ),
    Rule(
        "request_slowlog_timeout",
        lambda p: 0 < p.request_terminate_timeout < p.request_slowlog_timeout,
        "{p.request_slowlog_timeout:g} s is more than"
        " request_terminate_timeout = {p.request_terminate_timeout:g} s",
    ),
    Rule(
        "slowlog",
        lambda p: (
            p.request_slowlog_trace_depth != Pool.request_slowlog_trace_depth and not p.slowlog
        ),
        "is not set, and request_slowlog_trace_depth needs it",
    ),
    Rule(
        "chroot", lambda p: p.chroot and not os.path.isdir(p.chroot), "{p.chroot} is no directory"
    ),
    Rule(
        "chdir",
        lambda p: p.chdir and not os.path.isdir(_inside_chroot(p)),
        "{p.chdir} is no directory, or not one inside the chroot",
    ),
    Rule("listen.owner", lambda p: _nobody(p.listen_owner), "there is no user {p.listen_owner}"),
    Rule("listen.group", lambda p: _no_group(p.listen_group), "there is no group {p.listen_group}"),
    Rule("listen.acl_users", lambda p: any(map(_nobody, p.listen_acl_users)), "one is unknown"),
    Rule("listen.acl_groups", lambda p: any(map(_no_group, p.listen_acl_groups)), "one is unknown"),
    Rule("user", lambda p: _nobody(p.user), "there is no user {p.user}"),
    Rule("group", lambda p: _no_group(p.group), "there is no group {p.group}"),
)
"""In php-fpm's order."""

_NO_ROOT = (
    Rule(
        "user",
        lambda p: p.user is None,
        "must be set: the master runs as root, and workers should not (-R allows it)",
    ),
    Rule(
        "user",
        lambda p: _nobody(p.user) is False and _user_id(p.user or "") == 0,
        "is root, whom workers should not run as (-R allows it)",
    ),
    Rule(
        "group",
        lambda p: (_group_id(p.group) if p.group else _own_group(p.user)) == 0,
        "is root's, which workers should not run as (-R allows it)",
    ),
)

_IGNORED = (
    Rule(
        "listen.allowed_clients",
        lambda p: p.listen_allowed_clients and p.listen is not None and not is_tcp(p.listen),
        "has no effect on a Unix socket",
    ),
    Rule(
        "listen.owner",
        lambda p: p.listen_owner and (p.listen_acl_users or p.listen_acl_groups),
        "is ignored: the socket has an access control list",
    ),
    Rule(
        "listen.group",
        lambda p: p.listen_group and (p.listen_acl_users or p.listen_acl_groups),
        "is ignored: the socket has an access control list",
    ),
    Rule(
        "pm.status_listen",
        lambda p: p.pm_status_listen and not p.pm_status_path,
        "has no effect without pm.status_path",
    ),
)
_IGNORED_UNLESS_ROOT = (
    Rule("user", lambda p: p.user, "is ignored: the master does not run as root"),
    Rule("group", lambda p: p.group, "is ignored: the master does not run as root"),
    Rule("chroot", lambda p: p.chroot, "needs a master that runs as root"),
)


def check(config: Global, *, root: bool, allow_root: bool = False) -> None:
    """Refuse what does not fit together, and fill in what depends on something else.

    *root* tells whether the master runs as root, *allow_root* whether its workers may. What the
    application, the SAPI and the access log's format are about, their own files check. Raises
    :class:`ConfigurationError`; warnings and notices are added to ``config.warnings``.
    """
    if not config.pools:
        raise ConfigurationError("there is no pool: write a section such as [www]")
    _check_values(config, "")
    if _log_cannot_be(config.error_log):
        raise mistake(config.given.get("error_log", ""), "error_log: there is no directory for it")
    if config.daemonize and config.error_log is None:
        warn(config, "daemonize: without error_log nobody sees the log")
    names: set[str] = set()
    for pool in config.pools:
        if pool.name.lower() in names:
            raise ConfigurationError(f"there are two pools {pool.name}")
        names.add(pool.name.lower())
        _check_pool(config, pool, root, allow_root)
    _check_addresses(config.pools)


def _check_pool(config: Global, pool: Pool, root: bool, allow_root: bool) -> None:
    _check_values(pool, f"pool {pool.name}: ")
    for rule in _REFUSED + (_NO_ROOT if root and not allow_root else ()):
        if rule.broken(pool):
            raise ConfigurationError(_said(rule, pool))
    for rule in _IGNORED + (() if root else _IGNORED_UNLESS_ROOT):
        if rule.broken(pool):
            warn(pool, _said(rule, pool))
    if pool.pm == DYNAMIC and not pool.pm_start_servers:
        low, high = pool.pm_min_spare_servers, pool.pm_max_spare_servers
        pool.pm_start_servers = low + (high - low) // 2
        warn(pool, f"pool {pool.name}: pm.start_servers is set to {pool.pm_start_servers}")
    elif pool.pm == ONDEMAND:
        pool.pm_start_servers = pool.pm_min_spare_servers = pool.pm_max_spare_servers = 0
    for text in tuple(pool.warnings):  # the same list, after read()
        warn(config, text)


def _check_values(target: Global | Pool, before: str) -> None:
    """Refuse values that no file could have: flags fill in the fields as well."""
    for directive in BY_NAME[type(target)].values():
        value = getattr(target, directive.field, None)
        if directive.array or value in (None, "", ()):
            continue
        try:
            directive.kind.parse(directive.kind.show(value))
        except ValueError as error:
            where = bracketed(target.given.get(directive.name, ""))
            raise ConfigurationError(
                f"{where}{before}{directive.name} = {directive.kind.show(value)}: this {error}"
            ) from None


def _check_addresses(pools: Sequence[Pool]) -> None:
    taken: dict[object, str] = {}
    for pool in pools:
        for name, address in (
            ("listen", pool.listen),
            ("pm.status_listen", pool.pm_status_listen),
        ):
            if not address:
                continue
            # A port alone is every address, as :PORT is.
            key = address.rpartition(":")[0::2] if is_tcp(address) else os.path.normpath(address)
            if key in taken:
                text = f"{name} = {address} is an address of pool {taken[key]} already"
                raise mistake(pool.given.get(name, ""), f"pool {pool.name}: {text}")
            taken[key] = pool.name


def _said(rule: Rule, pool: Pool) -> str:
    where = bracketed(pool.given.get(rule.name) or pool.given.get("", ""))
    return f"{where}pool {pool.name}: {rule.name} " + rule.text.format(p=pool)


def _user_id(name: str) -> int | None:
    import pwd  # not everywhere, and not for who names no user

    try:
        return int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def _group_id(name: str) -> int | None:
    import grp

    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def _own_group(user: str | None) -> int | None:
    import pwd

    try:
        return None if user is None or user.isdigit() else pwd.getpwnam(user).pw_gid
    except KeyError:
        return None


def _nobody(name: str | None) -> bool:
    return name is not None and _user_id(name) is None


def _no_group(name: str | None) -> bool:
    return name is not None and _group_id(name) is None
