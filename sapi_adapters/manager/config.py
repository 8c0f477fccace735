"""What a master and its pools are told, with php-fpm's names: the settings, and their file.

A directive ``pm.max_children`` is the field ``pm_max_children``. Fields hold values, not text:
times are seconds, sizes bytes, switches bool. The command line's flags fill the same fields.

:func:`read` takes a file in php-fpm's syntax, :func:`check` holds what has to fit together, and
:func:`dump` writes the file that would give the same configuration. What directives there are
stands in the two tables ``GLOBAL`` and ``POOL``, in php-fpm's order.
"""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ..sapi import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

STATIC, DYNAMIC, ONDEMAND = "static", "dynamic", "ondemand"


@dataclass
class Global:
    """The section ``[global]``: what concerns the master."""

    pid: str | None = None
    error_log: str | None = None
    """A file, ``"syslog"``, or None for standard error."""
    syslog_ident: str = "sapi-adapters"
    syslog_facility: str = "daemon"
    log_buffering: bool = True
    log_level: str = "notice"
    log_limit: int = 1024
    """Bytes of one line of worker output that are kept together."""
    emergency_restart_threshold: int = 0
    emergency_restart_interval: float = 0.0
    process_control_timeout: float = 30.0
    """How long a worker has to finish after QUIT; 0 is not at all."""
    process_max: int = 0
    process_priority: int | None = None
    daemonize: bool = False
    rlimit_files: int | None = None
    rlimit_core: int | None = None
    """-1 is unlimited."""
    systemd_interval: float = 10.0
    pools: list[Pool] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list, compare=False)
    """What reading and checking have to say to the operator, for the log."""
    given: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Where a directive was given: its name to ``"file:line"``."""


@dataclass
class Pool:
    """One pool's section. Zero is "no limit" or "off" where nothing else is said."""

    name: str = "www"
    app: str = ""
    """``"module:attribute"``; empty only where the application is an object already."""
    interface: str = "auto"
    factory: bool = False
    sapi: str = "fcgi-prefork"
    threads: int | None = None
    """Threads of each worker; None is what the SAPI thinks right."""
    python_path: tuple[str, ...] = ()
    script_name: str | None = None
    prefix: str | None = None

    user: str | None = None
    group: str | None = None
    listen: str | None = None
    """A path, ``host:port`` or a port; None where a socket is inherited."""
    listen_backlog: int = 2048
    listen_owner: str | None = None
    listen_group: str | None = None
    listen_mode: int = 0o660
    listen_acl_users: tuple[str, ...] = ()
    listen_acl_groups: tuple[str, ...] = ()
    listen_allowed_clients: tuple[str, ...] = ()
    """IP addresses; empty is everybody. TCP only."""

    process_priority: int | None = None
    process_dumpable: bool = False
    pm: str = STATIC
    pm_max_children: int = 1
    pm_start_servers: int = 0
    """Of dynamic; 0 becomes min + (max - min) / 2."""
    pm_min_spare_servers: int = 0
    pm_max_spare_servers: int = 0
    pm_max_spawn_rate: int = 32
    pm_process_idle_timeout: float = 10.0
    pm_max_requests: int = 0
    pm_max_requests_jitter: int = 0
    """Up to so many requests less, chosen by each worker, so that not all leave at once."""
    pm_max_memory: int = 0
    """Resident bytes above which a worker is replaced."""
    pm_status_path: str | None = None
    pm_status_listen: str | None = None
    ping_path: str | None = None
    ping_response: str = "pong"

    access_log: str | None = None
    access_format: str = '%R - %u %t "%m %r" %s'
    access_suppress_path: tuple[str, ...] = ()
    slowlog: str | None = None
    request_slowlog_timeout: float = 0.0
    request_slowlog_trace_depth: int = 20
    request_terminate_timeout: float = 0.0
    request_terminate_timeout_track_finished: bool = False

    rlimit_files: int | None = None
    rlimit_core: int | None = None
    chroot: str | None = None
    chdir: str | None = None
    umask: int | None = None
    catch_workers_output: bool | None = None
    """True: what a worker prints goes to the error log. False: to /dev/null. None: it is left."""
    decorate_workers_output: bool = True
    clear_env: bool = False
    env: dict[str, str] = field(default_factory=dict)
    env_from: dict[str, str] = field(default_factory=dict)
    """Which values of *env* were taken from the master's environment, and from which variable."""
    warnings: list[str] = field(default_factory=list, compare=False)
    given: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    """As :attr:`Global.given`; the section's own place is under the empty name."""


# -- values: text to value and back ---------------------------------------------------------------


class Kind(NamedTuple):
    """A sort of value: from its text, which raises :class:`ValueError`, and to it.

    *complete* makes a path whole: of the value, the prefix, and whether the pool has a chroot.
    """

    parse: Callable[[str], Any]
    show: Callable[[Any], str] = str
    complete: Callable[[Any, str, bool], Any] | None = None


_LARGEST = 2**31 - 1
_TRUE, _FALSE = ("1", "yes", "true", "on"), ("0", "no", "false", "off", "none", "")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
_FACILITIES = "auth authpriv cron daemon ftp kern lpr mail news syslog user uucp".split()


def _text(text: str) -> str | None:
    return text or None


def _word(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    return text


def _bool(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise ValueError("is neither yes nor no")
    return text.lower() in _TRUE


def _integer(low: int, high: int = _LARGEST) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch("-?[0-9]+", text):
            raise ValueError("is no whole number")
        # Longer ones are not worth the time of reading them.
        if len(text) > 12 or not low <= int(text) <= high:
            raise ValueError(f"is not between {low} and {high}")
        return int(text)

    return parse


def _core(text: str) -> int:
    return -1 if text.lower() == "unlimited" else _integer(0)(text)


def _backlog(text: str) -> int:
    # php-fpm's -1 is "as much as the system allows"; the system cuts the largest to just that.
    return 65535 if text == "-1" else _integer(0)(text)


def _seconds(text: str) -> float:
    found = re.fullmatch(r"([0-9]{1,10}(?:\.[0-9]{1,9})?) ?([smhd]?)", text)
    if not found:
        raise ValueError("is no time: a number and s, m, h or d, such as 30s or 0.5s")
    value = round(float(found[1]) * _UNITS[found[2] or "s"], 6)
    if value > _LARGEST:
        raise ValueError("is too long a time")
    return value


def _shown_seconds(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".") + "s"


def _bytes(text: str) -> int:
    found = re.fullmatch("([0-9]{1,15})([KMG]?)", text.upper())
    if not found:
        raise ValueError("is no size: a number of bytes, or one with K, M or G")
    return int(found[1]) * _SIZES[found[2]]


def _shown_bytes(value: int) -> str:
    unit = next(unit for unit in ("G", "M", "K", "") if value % _SIZES[unit] == 0)
    return f"{value // _SIZES[unit]}{unit}" if value else "0"


def _mode(text: str) -> int:
    if not re.fullmatch("0?[0-7]{1,3}", text):
        raise ValueError("is no mode in octal such as 0660")
    return int(text, 8)


def _choice(*names: str, **others: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        name = others.get(text.lower(), text.lower())
        if name not in names:
            raise ValueError(f"is none of {', '.join(names)}")
        return name

    return parse


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _clients(text: str) -> tuple[str, ...]:
    clients = () if text.strip() == "any" else _names(text)
    for client in clients:
        if not (_is_ip(socket.AF_INET, client) or _is_ip(socket.AF_INET6, client)):
            raise ValueError(f"has {client!r}, which is no IP address")
    return clients


def _is_ip(family: int, text: str) -> bool:
    try:
        socket.inet_pton(family, text)
    except (OSError, ValueError):
        return False
    return True


def is_tcp(address: str) -> bool:
    """Tell a TCP address from a Unix socket's path: a port, or something with a colon."""
    return address[:1] not in ("/", "$") and (address.isdigit() or ":" in address)


def _address(text: str) -> str | None:
    if not is_tcp(text):
        if _is_ip(socket.AF_INET, text):
            raise ValueError("has no port")
        return text or None
    host, colon, port = text.rpartition(":")
    if not re.fullmatch("[0-9]{1,6}", port) or int(port) > 65535:
        raise ValueError(f"has no port from 1 to 65535, but {port!r}")
    if host.startswith("[") or ":" in host:
        if not (host[0] + host[-1] == "[]" and _is_ip(socket.AF_INET6, host[1:-1])):
            raise ValueError("is no TCP address; IPv6 is written [::1]:9000")
    elif not re.fullmatch(r"[A-Za-z0-9._-]*|\*", host):
        raise ValueError(f"has no host, but {host!r}")
    return f"{'' if host == '*' else host}{colon}{int(port)}"


def _page(text: str) -> str | None:
    if text and not re.fullmatch("/[A-Za-z0-9/_.~-]+", text):
        raise ValueError("is no path of a page: a slash and then letters, digits and /_.~-")
    return text or None


def _request_path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("must begin with a slash")
    return text


def _path(value: str, prefix: str, chroot: bool) -> str:
    head, found, rest = value.partition("$prefix")
    if not found:
        return os.path.join(prefix, value)
    if head or rest[:1] not in ("", "/"):
        raise ValueError("has $prefix, which can only be the first part of a path")
    return prefix.rstrip("/") + rest or "/"


def _log(value: str, prefix: str, chroot: bool) -> str:
    return value if value == "-" else _path(value, prefix, chroot)


def _error_log(text: str) -> str | None:
    return "syslog" if text.lower() == "syslog" else None if text == "-" else _text(text)


def _unless_syslog(value: str, prefix: str, chroot: bool) -> str:
    return value if value == "syslog" else _path(value, prefix, chroot)


def _unless_tcp(value: str, prefix: str, chroot: bool) -> str:
    return value if is_tcp(value) else _path(value, prefix, chroot)


def _inside(value: str, prefix: str, chroot: bool) -> str:
    if chroot and not value.startswith("/"):
        raise ValueError("counts inside the chroot and must begin with a slash")
    return _path(value, prefix, chroot)


def _search_path(text: str) -> tuple[str, ...]:
    return tuple(each for each in text.split(":") if each)


def _each_inside(value: tuple[str, ...], prefix: str, chroot: bool) -> tuple[str, ...]:
    return tuple(_inside(each, prefix, chroot) for each in value)


_TEXT = Kind(_text)
_WORD = Kind(_word)
_BOOL = Kind(_bool, lambda value: "yes" if value else "no")
_COUNT = Kind(_integer(0))
_PRIORITY = Kind(_integer(-19, 20))
_FILES = Kind(lambda text: _integer(0)(text) or None)
_CORE = Kind(_core, lambda value: "unlimited" if value == -1 else str(value))
_TIME = Kind(_seconds, _shown_seconds)
_SIZE = Kind(_bytes, _shown_bytes)
_MODE = Kind(_mode, "{:04o}".format)
_NAMES = Kind(_names, ",".join)
_FILE = Kind(_text, complete=_path)
_LOG = Kind(_text, complete=_log)
_WHERE = Kind(_address, complete=_unless_tcp)
_PAGE = Kind(_page)


# -- the directives -------------------------------------------------------------------------------

_NO_PHP = "there is no PHP here"


class Directive(NamedTuple):
    """One row: the name; what its value is; whether it is an array, and of what.

    *array* is ``""``, ``"list"`` (``name[]``) or ``"map"`` (``name[KEY]``). A *reason* says why
    the directive means nothing here: it is named in a warning and has no field.
    """

    name: str
    kind: Kind = _TEXT
    array: str = ""
    reason: str = ""

    @property
    def field(self) -> str:
        """The name of its field."""
        return self.name.replace(".", "_")


GLOBAL = (
    Directive("pid", _FILE),
    Directive("error_log", Kind(_error_log, complete=_unless_syslog)),
    Directive("syslog.ident", _WORD),
    Directive(
        "syslog.facility", Kind(_choice(*_FACILITIES, *(f"local{digit}" for digit in range(8))))
    ),
    Directive("log_buffering", _BOOL),
    Directive(
        "log_level", Kind(_choice("alert", "error", "warning", "notice", "debug", warn="warning"))
    ),
    Directive("log_limit", Kind(_integer(512))),
    Directive("emergency_restart_interval", _TIME),
    Directive("emergency_restart_threshold", _COUNT),
    Directive("process_control_timeout", _TIME),
    Directive("process.max", _COUNT),
    Directive("process.priority", _PRIORITY),
    Directive("daemonize", _BOOL),
    Directive("rlimit_files", _FILES),
    Directive("rlimit_core", _CORE),
    Directive("events.mechanism", reason="the best one of the system is always taken"),
    Directive("systemd_interval", _TIME),
)
"""The section ``[global]``, in php-fpm's order."""

POOL = (
    Directive("app", _WORD),
    Directive("interface", Kind(_choice("auto", "wsgi", "asgi", "asgi2"))),
    Directive("factory", _BOOL),
    Directive("sapi", _WORD),
    Directive("threads", Kind(_integer(1))),
    Directive("python_path", Kind(_search_path, ":".join, _each_inside)),
    Directive("script_name", Kind(_request_path)),
    Directive("prefix", _FILE),
    Directive("user"),
    Directive("group"),
    Directive("listen", _WHERE),
    Directive("listen.backlog", Kind(_backlog)),
    Directive("listen.acl_users", _NAMES),
    Directive("listen.acl_groups", _NAMES),
    Directive("listen.owner"),
    Directive("listen.group"),
    Directive("listen.mode", _MODE),
    Directive("listen.allowed_clients", Kind(_clients, ",".join)),
    Directive("listen.setfib", reason="routing tables of FreeBSD are not chosen here"),
    Directive("process.priority", _PRIORITY),
    Directive("process.dumpable", _BOOL),
    Directive("pm", Kind(_choice(STATIC, DYNAMIC, ONDEMAND))),
    Directive("pm.max_children", Kind(_integer(1))),
    Directive("pm.start_servers", _COUNT),
    Directive("pm.min_spare_servers", _COUNT),
    Directive("pm.max_spare_servers", _COUNT),
    Directive("pm.max_spawn_rate", _COUNT),
    Directive("pm.process_idle_timeout", _TIME),
    Directive("pm.max_requests", _COUNT),
    Directive("pm.max_requests_jitter", _COUNT),
    Directive("pm.max_memory", _SIZE),
    Directive("pm.status_path", _PAGE),
    Directive("pm.status_listen", _WHERE),
    Directive("ping.path", _PAGE),
    Directive("ping.response", Kind(str)),
    Directive("access.log", _LOG),
    Directive("access.format", _WORD),
    Directive("access.suppress_path", Kind(_request_path), "list"),
    Directive("slowlog", _LOG),
    Directive("request_slowlog_timeout", _TIME),
    Directive("request_slowlog_trace_depth", Kind(_integer(1))),
    Directive("request_terminate_timeout", _TIME),
    Directive("request_terminate_timeout_track_finished", _BOOL),
    Directive("rlimit_files", _FILES),
    Directive("rlimit_core", _CORE),
    Directive("chroot", _FILE),
    Directive("chdir", Kind(_text, complete=_inside)),
    Directive("umask", _MODE),
    Directive("catch_workers_output", _BOOL),
    Directive("decorate_workers_output", _BOOL),
    Directive("clear_env", _BOOL),
    Directive(
        "security.limit_extensions",
        reason="no request chooses a file to run: the application is named by app",
    ),
    Directive(
        "apparmor_hat",
        reason="confine the service as a whole, with AppArmorProfile= of systemd",
    ),
    Directive("env", _WORD, "map"),
    Directive("php_value", array="map", reason=_NO_PHP),
    Directive("php_flag", array="map", reason=_NO_PHP),
    Directive("php_admin_value", array="map", reason=_NO_PHP),
    Directive("php_admin_flag", array="map", reason=_NO_PHP),
)
"""A pool's section, in php-fpm's order; what is ours stands first, or after what is near to it."""

_BY_NAME: dict[type[Global] | type[Pool], dict[str, Directive]] = {
    Global: {directive.name: directive for directive in GLOBAL},
    Pool: {directive.name: directive for directive in POOL},
}
_OBLIGATORY = {
    "listen": "such as listen = /run/app/app.sock",
    "app": "the application, as app = module:attribute",
    "pm": "static, dynamic or ondemand",
    "pm.max_children": "how many workers there are at most",
}
"""What a pool in a file must say, and what to tell who did not."""

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_ARRAY = re.compile(r"([^\[]*)\[(.*)\]", re.DOTALL)
_KEY = re.compile(r"[^\x00-\x20=\[\]\"'$;\x7f]+")


def set_directive(target: Global | Pool, name: str, value: str, where: str = "") -> None:
    """Give *target* the directive *name*, as php-fpm spells it, with the text *value*.

    ``$pool`` in the value is the pool's name. *where* is ``"file:line"`` for messages. Raises
    :class:`ConfigurationError`; a directive without a meaning here is a warning.
    """
    array = _ARRAY.fullmatch(name)
    plain, key = (array[1].strip(), array[2]) if array else (name.lower(), None)
    directive = _BY_NAME[type(target)].get(plain)
    if directive is None or bool(directive.array) != bool(array):
        raise _mistake(where, _unknown(target, name, plain))
    if key is not None:
        _check_key(directive, key, where)
    try:
        if _CONTROL.search(value):
            raise ValueError("has a control character")
        if "$pool" in value:
            if isinstance(target, Global):
                raise ValueError("has $pool, and [global] is no pool")
            value = value.replace("$pool", target.name)
        parsed = None if directive.reason else directive.kind.parse(value)
    except ValueError as error:
        raise _mistake(where, f"{name} = {value}: this {error}") from None
    if directive.reason:
        _warn(target, f"{_bracketed(where)}{name} has no effect: {directive.reason}")
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
        raise _mistake(where, f"{directive.name}[{key}]: write {directive.name}[], without a key")
    if directive.array == "map" and not key:
        raise _mistake(where, f"{directive.name}[] needs a key: {directive.name}[NAME] = ...")
    if key and not _KEY.fullmatch(key):
        raise _mistake(where, f"{directive.name}[{key}]: {key!r} is no name")


def _unknown(target: Global | Pool, name: str, plain: str) -> str:
    """Say what is wrong with a name, and what was probably meant."""
    own = _BY_NAME[type(target)]
    other = _BY_NAME[Pool if isinstance(target, Global) else Global]
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
        targets = [config] if plain in _BY_NAME[Global] else config.pools
    elif section.lower() == "global":
        targets = [config]
    else:
        targets = [pool for pool in config.pools if pool.name.lower() == section.lower()]
    if not targets:
        raise _mistake(where, f"{name}: there is no pool {section}".rstrip())
    for target in targets:
        set_directive(target, own, value, where)


def _bracketed(where: str) -> str:
    return f"[{where}] " if where else ""


def _mistake(where: str, text: str) -> ConfigurationError:
    return ConfigurationError(_bracketed(where) + text)


def _warn(target: Global | Pool, text: str) -> None:
    if text not in target.warnings:
        target.warnings.append(text)


# -- the file -------------------------------------------------------------------------------------

_DEEPEST = 5
"""How many files may stand inside one another, php-fpm's number."""

_SECTION = re.compile(r"""\[(?:"([^"]*)"|'([^']*)'|([^\]"';]*))\][ \t]*""")
_LABEL = re.compile(r'[^=\t;&|^$~(){}!"\[\]\x00]+')
_OFFSET = re.compile(r"""\[[ \t]*(?:"([^"]*)"|'([^']*)'|([^\]"';]*?))[ \t]*\]""")
_PIECE = re.compile(
    r"""
    (?P<double> [ \t]* "(?P<quoted> (?: [^"\\] | \\. )* )" [ \t]* )  # takes the blanks around it
    | (?P<end> [ \t]* (?: ;.* )? \Z )
    | (?P<single> '(?P<literal> [^']* )' )
    | (?P<variable> \$\{ (?P<name> [^{}]+ ) \} )
    | (?P<bare> [ \t]+ | (?: [^$=\ \t;&|^~()!"'\x00] | \$(?!\{) )+ )
    """,
    re.VERBOSE | re.DOTALL,
)
_IN_QUOTES = re.compile(r"""\\(\$\{|["\\])|\$\{([^{}]+)\}""")
_HINTS = {
    '"': "a quotation is not closed",
    "'": "a quotation is not closed",
    "$": "${ is not closed; single quotes make it plain text",
}
_WORDS = {
    **dict.fromkeys(("true", "on", "yes"), "1"),
    **dict.fromkeys(("false", "off", "no", "none", "null"), ""),
}
"""Words that PHP's reader takes for others unless they are quoted."""


def read(
    path: str, *, prefix: str | None = None, overrides: Sequence[tuple[str, str]] = ()
) -> Global:
    """Return what the file *path* says, with the *overrides* (name, value) on top.

    Relative paths count from the pool's ``prefix``, else from *prefix*, else from the file's own
    directory. Raises :class:`ConfigurationError`; :func:`check` is still to be called.
    """
    base = os.path.abspath(prefix or os.path.dirname(os.path.abspath(path)))
    if not os.path.isdir(base):
        raise ConfigurationError(f"the prefix {base} is not a directory")
    config = Global()
    _Reader(config, base).file(path, "")
    for name, value in overrides:
        override(config, name, value)
    for pool in config.pools:
        for name, hint in _OBLIGATORY.items():
            if getattr(pool, name.replace(".", "_")) is None or name not in pool.given:
                raise _mistake(pool.given[""], f"pool {pool.name} does not say {name}: {hint}")
    _complete(config, base, False)
    for pool in config.pools:
        _complete(pool, base, False, only="prefix")
        _complete(pool, pool.prefix or base, pool.chroot is not None)
    return config


class _Reader:
    """The files, line by line. A section goes on in and after an included file, as in php-fpm."""

    def __init__(self, config: Global, base: str) -> None:
        self._config = config
        self._base = base
        self._depth = 0
        self._target: Global | Pool = config

    def file(self, path: str, where: str) -> None:
        """Read one file; *where* is the line that includes it."""
        if self._depth == _DEEPEST:
            raise _mistake(where, f"more than {_DEEPEST} files are included in one another")
        try:
            with open(path, "rb") as file:
                lines = file.read().split(b"\n")
        except OSError as error:
            raise _mistake(where, f"cannot read {path}: {error.strerror}") from error
        self._depth += 1
        for number, line in enumerate(lines, 1):
            self._line(os.fsdecode(line.removesuffix(b"\r")), f"{path}:{number}")
        self._depth -= 1

    def _line(self, line: str, where: str) -> None:
        try:
            statements = list(_statements(line))
        except ValueError as error:
            raise _mistake(where, str(error)) from None
        for name, value in statements:
            if value is None:
                self._section(name, where)
            elif name == "include":
                self._include(value, where)
            else:
                set_directive(self._target, name, value, where)

    def _include(self, pattern: str, where: str) -> None:
        from glob import glob  # needed by files only

        found = sorted(glob(os.path.join(self._base, pattern))) if pattern else []
        if not found:
            _warn(self._config, f"[{where}] nothing matches include = {pattern}")
        for path in found:
            if not os.path.isdir(path):
                self.file(path, where)

    def _section(self, name: str, where: str) -> None:
        if name.lower() == "global":
            self._target = self._config
            return
        for pool in self._config.pools:
            if pool.name.lower() == name.lower():
                self._target = pool
                return
        if not name or "$" in name or _CONTROL.search(name):
            raise _mistake(where, f"[{name}] is no name for a pool")
        # In a file the defaults are php-fpm's, but that output is not thrown away: a traceback
        # that nobody sees helps nobody. What there is to warn about goes into one list.
        pool = Pool(name, clear_env=True, catch_workers_output=True, warnings=self._config.warnings)
        pool.given[""] = where
        self._config.pools.append(pool)
        self._target = pool


def _statements(line: str) -> Iterator[tuple[str, str | None]]:
    """Take a line apart as PHP's reader does: (section, None) and (name, value)."""
    rest = line.lstrip(" \t")
    while rest.startswith("["):
        section = _SECTION.match(rest)
        if not section:
            raise ValueError("a section's name is not closed by ]")
        yield (section[1] or section[2] or section[3] or "").strip(), None
        rest = rest[section.end() :]
    if not rest or rest.startswith(";"):
        return
    if rest.startswith("#"):
        raise ValueError("a comment begins with ; and not with #")
    label = _LABEL.match(rest)
    if not label:
        raise ValueError(f"a directive's name cannot begin with {rest[0]}")
    name, rest = label[0].strip(), rest[label.end() :]
    if rest.startswith("["):
        offset = _OFFSET.match(rest)
        if not offset:
            raise ValueError(f"the key of {name}[ is not closed by ]")
        name += f"[{offset[1] or offset[2] or offset[3] or ''}]"
        rest = rest[offset.end() :]
    rest = rest.lstrip(" \t")
    if not rest.startswith("="):
        raise ValueError(f"{name} has no value: write {name} = ...")
    yield name, _value(rest[1:].lstrip(" \t"))


def _value(text: str) -> str:
    pieces: list[str] = []
    position = 0
    while True:
        found = _PIECE.match(text, position)
        if found is None:
            character = text[position:].lstrip(" \t")[0]
            raise ValueError(_HINTS.get(character, f"a value with {character} must be quoted"))
        if found["end"] is not None:
            break
        pieces.append(_piece(found))
        position = found.end()
    whole = text[:position].lower()
    return _WORDS.get(whole, "".join(pieces))


def _piece(found: re.Match[str]) -> str:
    if found["double"] is not None:
        return _IN_QUOTES.sub(
            lambda inner: inner[1] or os.environ.get(inner[2], ""), found["quoted"]
        )
    if found["variable"] is not None:
        return os.environ.get(found["name"], "")
    return found["literal"] if found["single"] is not None else found["bare"]


def _complete(target: Global | Pool, base: str, chroot: bool, only: str = "") -> None:
    """Make the paths absolute, or that of the directive *only*."""
    for directive in _BY_NAME[type(target)].values():
        value = getattr(target, directive.field, None)
        if directive.kind.complete is None or not value or only not in ("", directive.name):
            continue
        try:
            setattr(target, directive.field, directive.kind.complete(value, base, chroot))
        except ValueError as error:
            text = f"{directive.name} = {directive.kind.show(value)}: this {error}"
            raise _mistake(target.given.get(directive.name, ""), text) from None


# -- what has to fit together ---------------------------------------------------------------------


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
"""In php-fpm's order. What one value may be by itself, its :class:`Kind` knows."""

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
        raise _mistake(config.given.get("error_log", ""), "error_log: there is no directory for it")
    if config.daemonize and config.error_log is None:
        _warn(config, "daemonize: without error_log nobody sees the log")
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
            _warn(pool, _said(rule, pool))
    if pool.pm == DYNAMIC and not pool.pm_start_servers:
        low, high = pool.pm_min_spare_servers, pool.pm_max_spare_servers
        pool.pm_start_servers = low + (high - low) // 2
        _warn(pool, f"pool {pool.name}: pm.start_servers is set to {pool.pm_start_servers}")
    elif pool.pm == ONDEMAND:
        pool.pm_start_servers = pool.pm_min_spare_servers = pool.pm_max_spare_servers = 0
    for text in tuple(pool.warnings):  # the same list, after read()
        _warn(config, text)


def _check_values(target: Global | Pool, before: str) -> None:
    """Refuse values that no file could have: flags fill in the fields as well."""
    for directive in _BY_NAME[type(target)].values():
        value = getattr(target, directive.field, None)
        if directive.array or value in (None, "", ()):
            continue
        try:
            directive.kind.parse(directive.kind.show(value))
        except ValueError as error:
            where = _bracketed(target.given.get(directive.name, ""))
            raise ConfigurationError(
                f"{where}{before}{directive.name} = {directive.kind.show(value)}: this {error}"
            ) from None


def _check_addresses(pools: Sequence[Pool]) -> None:
    taken: dict[object, str] = {}
    for pool in pools:
        for name, address in (
            ("listen", pool.listen),
            ("pm.status_listen", pool.pm_status_path and pool.pm_status_listen),
        ):
            if not address:
                continue
            # A port alone is every address, as :PORT is.
            key = address.rpartition(":")[0::2] if is_tcp(address) else os.path.normpath(address)
            if key in taken:
                text = f"{name} = {address} is an address of pool {taken[key]} already"
                raise _mistake(pool.given.get(name, ""), f"pool {pool.name}: {text}")
            taken[key] = pool.name


def _said(rule: Rule, pool: Pool) -> str:
    where = _bracketed(pool.given.get(rule.name) or pool.given.get("", ""))
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


# -- writing it -----------------------------------------------------------------------------------

_PLAIN = re.compile(r"[A-Za-z0-9_./:@,+%*\[\]-]+")


def dump(config: Global) -> str:
    """Return the file that gives *config*; what has no value is a comment.

    Variables from the master's environment are named, not shown. The one thing that a file cannot
    say is a ``catch_workers_output`` of None.
    """
    lines = _section("global", config)
    for pool in config.pools:
        lines += ["", *_section(pool.name, pool)]
    return "\n".join(lines) + "\n"


def _section(name: str, target: Global | Pool) -> list[str]:
    quote = "" if not set(name) & set("[];\"'") else '"' if "'" in name else "'"
    lines = [f"[{quote}{name}{quote}]"]
    for directive in _BY_NAME[type(target)].values():
        if not directive.reason:
            value = getattr(target, directive.field)
            lines += [f"\t{line}" for line in _SHOW[directive.array](directive, target, value)]
    return lines


def _show(directive: Directive, target: Global | Pool, value: Any) -> list[str]:
    if value in (None, "", ()) and directive.name != "ping.response":
        return [f"; {directive.name} = undefined"]
    text = directive.kind.show(value)
    return [f"{directive.name} = {text if directive.kind is _BOOL else _quoted(text)}"]


def _show_list(directive: Directive, target: Global | Pool, value: Any) -> list[str]:
    return [f"{directive.name}[] = {_quoted(directive.kind.show(each))}" for each in value]


def _show_map(directive: Directive, target: Any, value: dict[str, str]) -> list[str]:
    sources = {key: f"${name}" for key, name in target.env_from.items()}
    return [
        f"{directive.name}[{key}] = {_quoted(sources.get(key, text))}"
        for key, text in value.items()
    ]


_SHOW = {"": _show, "list": _show_list, "map": _show_map}


def _quoted(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return "'" + text.replace("'", "'\"'\"'") + "'"
