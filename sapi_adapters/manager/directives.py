"""The directives: which there are, what each may be, and how one is set.

The tables ``GLOBAL`` and ``POOL`` say it all, in php-fpm's order: a new directive is a row here and
a field in ``config.py``.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from ..sapi import ConfigurationError
from .config import DYNAMIC, ONDEMAND, STATIC, Global, Pool
from .values import (
    ADDRESS,
    BACKLOG,
    BOOL,
    CLIENTS,
    CONTROL,
    CORE,
    COUNT,
    DIRECTORY,
    ERROR_LOG,
    FILE,
    FILES,
    LOG,
    MODE,
    NAMES,
    PAGE,
    PRIORITY,
    REQUEST_PATH,
    SEARCH_PATH,
    SIZE,
    TEXT,
    TIME,
    WORD,
    Kind,
    choice,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_FACILITIES = "auth authpriv cron daemon ftp kern lpr mail news syslog user uucp".split()
_NO_PHP = "there is no PHP here"


class Directive(NamedTuple):
    """One row: the name; what its value is; whether it is an array, and of what.

    *array* is ``""``, ``"list"`` (``name[]``) or ``"map"`` (``name[KEY]``). A *reason* says why
    the directive means nothing here: it is named in a warning and has no field.
    """

    name: str
    kind: Kind = TEXT
    array: str = ""
    reason: str = ""

    @property
    def field(self) -> str:
        """The name of its field."""
        return self.name.replace(".", "_")


GLOBAL = (
    Directive("pid", FILE),
    Directive("error_log", ERROR_LOG),
    Directive("syslog.ident", WORD),
    Directive("syslog.facility", choice(*_FACILITIES, *(f"local{digit}" for digit in range(8)))),
    Directive("log_buffering", BOOL),
    Directive("log_level", choice("alert", "error", "warning", "notice", "debug", warn="warning")),
    Directive("log_limit", whole(512)),
    Directive("emergency_restart_interval", TIME),
    Directive("emergency_restart_threshold", COUNT),
    Directive("process_control_timeout", TIME),
    Directive("process.max", COUNT),
    Directive("process.priority", PRIORITY),
    Directive("daemonize", BOOL),
    Directive("rlimit_files", FILES),
    Directive("rlimit_core", CORE),
    Directive("events.mechanism", reason="the best one of the system is always taken"),
    Directive("systemd_interval", TIME),
)
"""The section ``[global]``, in php-fpm's order."""

POOL = (
    Directive("app", WORD),
    Directive("interface", choice("auto", "wsgi", "asgi", "asgi2")),
    Directive("factory", BOOL),
    Directive("sapi", WORD),
    Directive("threads", whole(1)),
    Directive("python_path", SEARCH_PATH),
    Directive("script_name", REQUEST_PATH),
    Directive("scgi.max_headers", whole(1024, 1 << 20)),
    Directive("scgi.strict", BOOL),
    Directive("ajp.secret"),
    Directive("ajp.packet_size", whole(8192, 65536)),
    Directive("ajp.allowed_attributes"),
    Directive("ajp.remote_user", BOOL),
    Directive("prefix", FILE),
    Directive("user"),
    Directive("group"),
    Directive("listen", ADDRESS),
    Directive("listen.backlog", BACKLOG),
    Directive("listen.acl_users", NAMES),
    Directive("listen.acl_groups", NAMES),
    Directive("listen.owner"),
    Directive("listen.group"),
    Directive("listen.mode", MODE),
    Directive("listen.allowed_clients", CLIENTS),
    Directive("listen.setfib", reason="routing tables of FreeBSD are not chosen here"),
    Directive("process.priority", PRIORITY),
    Directive("process.dumpable", BOOL),
    Directive("pm", choice(STATIC, DYNAMIC, ONDEMAND)),
    Directive("pm.max_children", whole(1)),
    Directive("pm.start_servers", COUNT),
    Directive("pm.min_spare_servers", COUNT),
    Directive("pm.max_spare_servers", COUNT),
    Directive("pm.max_spawn_rate", COUNT),
    Directive("pm.process_idle_timeout", TIME),
    Directive("pm.start_timeout", TIME),
    Directive("pm.max_requests", COUNT),
    Directive("pm.max_requests_jitter", COUNT),
    Directive("pm.max_memory", SIZE),
    Directive("pm.status_path", PAGE),
    Directive("pm.status_listen", ADDRESS),
    Directive("ping.path", PAGE),
    Directive("ping.response", Kind(str)),
    Directive("access.log", LOG),
    Directive("access.format", WORD),
    Directive("access.suppress_path", REQUEST_PATH, "list"),
    Directive("slowlog", LOG),
    Directive("request_slowlog_timeout", TIME),
    Directive("request_slowlog_trace_depth", whole(1)),
    Directive("request_terminate_timeout", TIME),
    Directive("request_terminate_timeout_track_finished", BOOL),
    Directive("rlimit_files", FILES),
    Directive("rlimit_core", CORE),
    Directive("chroot", FILE),
    Directive("chdir", DIRECTORY),
    Directive("umask", MODE),
    Directive("catch_workers_output", BOOL),
    Directive("decorate_workers_output", BOOL),
    Directive("clear_env", BOOL),
    Directive(
        "security.limit_extensions",
        reason="no request chooses a file to run: the application is named by app",
    ),
    Directive(
        "apparmor_hat",
        reason="confine the service as a whole, with AppArmorProfile= of systemd",
    ),
    Directive("env", WORD, "map"),
    Directive("php_value", array="map", reason=_NO_PHP),
    Directive("php_flag", array="map", reason=_NO_PHP),
    Directive("php_admin_value", array="map", reason=_NO_PHP),
    Directive("php_admin_flag", array="map", reason=_NO_PHP),
)
"""A pool's section, in php-fpm's order; what is ours stands first, or after what is near to it."""

BY_NAME: dict[type[Global] | type[Pool], dict[str, Directive]] = {
    Global: {directive.name: directive for directive in GLOBAL},
    Pool: {directive.name: directive for directive in POOL},
}
"""Both by name, for what has the fields."""

_ARRAY = re.compile(r"([^\[]*)\[(.*)\]", re.DOTALL)
_KEY = re.compile(r"[^\x00-\x20=\[\]\"'$;\x7f]+")


def set_directive(target: Global | Pool, name: str, value: str, where: str = "") -> None:
    """Give *target* the directive *name*, as php-fpm spells it, with the text *value*.

    ``$pool`` in the value is the pool's name. *where* is ``"file:line"`` for messages. Raises
    :class:`ConfigurationError`; a directive without a meaning here is a warning.
    """
    array = _ARRAY.fullmatch(name)
    plain, key = (array[1].strip(), array[2]) if array else (name.lower(), None)
    directive = BY_NAME[type(target)].get(plain)
    if directive is None or bool(directive.array) != bool(array):
        raise mistake(where, _unknown(target, name, plain))
    if key is not None:
        _check_key(directive, key, where)
    try:
        if CONTROL.search(value):
            raise ValueError("has a control character")
        if "$pool" in value:
            if isinstance(target, Global):
                raise ValueError("has $pool, and [global] is no pool")
            value = value.replace("$pool", target.name)
        parsed = None if directive.reason else directive.kind.parse(value)
    except ValueError as error:
        raise mistake(where, f"{name} = {value}: this {error}") from None
    if directive.reason:
        warn(target, f"{bracketed(where)}{name} has no effect: {directive.reason}")
    else:
        _STORE[directive.array](target, directive.field, key or "", parsed)
        target.given[directive.name] = where


def _store(target: Global | Pool, field: str, key: str, value: Any) -> None:
    setattr(target, field, value)


def _store_in_list(target: Global | Pool, field: str, key: str, value: Any) -> None:
    setattr(target, field, (*getattr(target, field), value))


def _store_in_map(target: Any, field: str, key: str, value: Any) -> None:
    """Store a variable. As in php-fpm, ``$NAME`` alone is a variable of the master's."""
    target.env_from.pop(key, None)
    if value.startswith("$"):
        target.env_from[key] = value[1:]
        value = os.environ.get(value[1:], "")
    target.env[key] = value


_STORE = {"": _store, "list": _store_in_list, "map": _store_in_map}


def _check_key(directive: Directive, key: str, where: str) -> None:
    if directive.array == "list" and key:
        raise mistake(where, f"{directive.name}[{key}]: write {directive.name}[], without a key")
    if directive.array == "map" and not key:
        raise mistake(where, f"{directive.name}[] needs a key: {directive.name}[NAME] = ...")
    if key and not _KEY.fullmatch(key):
        raise mistake(where, f"{directive.name}[{key}]: {key!r} is no name")


def _unknown(target: Global | Pool, name: str, plain: str) -> str:
    """Say what is wrong with a name, and what was probably meant."""
    own = BY_NAME[type(target)]
    other = BY_NAME[Pool if isinstance(target, Global) else Global]
    if plain in own:
        brackets = {"": "", "list": "[]", "map": "[NAME]"}[own[plain].array]
        return f"{name}: write {plain}{brackets} = ..."
    if plain in other:
        return f"{plain} belongs into " + (
            "a pool's section" if isinstance(target, Global) else "the section [global]"
        )
    # Asked for on the way to an error only, and not small.
    from difflib import get_close_matches

    close = get_close_matches(plain, own, 1)
    return f"unknown directive {name}" + (f"; did you mean {close[0]}?" if close else "")


def override(config: Global, name: str, value: str, where: str = "--set") -> None:
    """Set one directive from outside of the file.

    *name* is a directive of ``[global]``, or else one that every pool gets; ``[NAME]directive``
    is one section's own.
    """
    section, _, own = name[1:].rpartition("]") if name.startswith("[") else ("", "", "")
    targets: Sequence[Global | Pool]
    if not own:
        own = name
        plain = name.partition("[")[0].lower()
        targets = [config] if plain in BY_NAME[Global] else config.pools
    elif section.lower() == "global":
        targets = [config]
    else:
        targets = [pool for pool in config.pools if pool.name.lower() == section.lower()]
    if not targets:
        raise mistake(where, f"{name}: there is no pool {section}".rstrip())
    for target in targets:
        set_directive(target, own, value, where)


def bracketed(where: str) -> str:
    """Return a place as it begins a message, or nothing."""
    return f"[{where}] " if where else ""


def mistake(where: str, text: str) -> ConfigurationError:
    """Return the error that says *text* of the place *where*."""
    return ConfigurationError(bracketed(where) + text)


def warn(target: Global | Pool, text: str) -> None:
    """Add a warning, once."""
    if text not in target.warnings:
        target.warnings.append(text)
