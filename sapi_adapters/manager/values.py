"""What the value of a directive may be: each kind, from text and back to text.

A :class:`Kind` knows one value by itself. Which directive takes which kind, ``directives.py`` says.
"""

from __future__ import annotations

import os
import re
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""A character that no value and no name has."""


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


def whole(low: int, high: int = _LARGEST) -> Kind:
    """Return the kind of the whole numbers from *low* to *high*."""
    return Kind(_integer(low, high))


def choice(*names: str, **others: str) -> Kind:
    """Return the kind of these *names*, in small letters or capitals; *others* mean one of them."""

    def parse(text: str) -> str:
        name = others.get(text.lower(), text.lower())
        if name not in names:
            raise ValueError(f"is none of {', '.join(names)}")
        return name

    return Kind(parse)


TEXT = Kind(_text)
WORD = Kind(_word)
BOOL = Kind(_bool, lambda value: "yes" if value else "no")
COUNT = whole(0)
BACKLOG = Kind(_backlog)
PRIORITY = whole(-19, 20)
FILES = Kind(lambda text: _integer(0)(text) or None)
CORE = Kind(_core, lambda value: "unlimited" if value == -1 else str(value))
TIME = Kind(_seconds, _shown_seconds)
SIZE = Kind(_bytes, _shown_bytes)
MODE = Kind(_mode, "{:04o}".format)
NAMES = Kind(_names, ",".join)
CLIENTS = Kind(_clients, ",".join)
FILE = Kind(_text, complete=_path)
LOG = Kind(_text, complete=_log)
ERROR_LOG = Kind(_error_log, complete=_unless_syslog)
DIRECTORY = Kind(_text, complete=_inside)
SEARCH_PATH = Kind(_search_path, ":".join, _each_inside)
ADDRESS = Kind(_address, complete=_unless_tcp)
PAGE = Kind(_page)
REQUEST_PATH = Kind(_request_path)
