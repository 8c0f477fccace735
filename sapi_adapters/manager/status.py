"""The status page: what is known of a pool, in php-fpm's formats and under php-fpm's names."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from typing import Any, Final
from urllib.parse import unquote_plus


@dataclass(frozen=True)
class Process:
    """One worker. Times are seconds, where nothing else is said."""

    pid: int
    state: str
    """Idle, Reading headers, Getting request information, Running, Ending, Finishing."""
    start_time: float
    """Since the epoch."""
    start_since: float
    requests: int
    request_duration: float
    """Of the running request so far, or of the last one."""
    request_method: str
    request_uri: str
    """With the query."""
    content_length: int
    user: str
    script: str
    last_request_cpu: float
    """Percent; 0 unless Idle."""
    last_request_memory: int
    """Bytes; 0 unless Idle."""
    # ours
    memory: int
    """Resident bytes now."""
    active_requests: int
    capacity: int
    """How many requests it can serve at a time."""
    generation: int
    leaving: bool
    """It was told to leave, or is being replaced."""


@dataclass(frozen=True)
class Status:
    """One pool."""

    pool: str
    process_manager: str
    start_time: float
    start_since: float
    accepted_conn: int
    listen_queue: int
    max_listen_queue: int
    listen_queue_len: int
    idle_processes: int
    active_processes: int
    max_active_processes: int
    max_children_reached: int
    slow_requests: int
    # ours
    memory: int
    """Resident bytes of all workers."""
    memory_peak: int
    """The highest resident size that one worker was seen with."""
    active_requests: int
    max_children: int
    start_servers: int
    min_spare_servers: int
    max_spare_servers: int
    max_requests: int
    max_memory: int
    generation: int
    reloads: int
    failed_reloads: int
    last_failure: str
    """Why the last reload failed; empty when it succeeded."""
    lost_requests: int
    """Requests whose worker died under them."""
    dropped_log_lines: int
    sapi: str
    version: str
    processes: tuple[Process, ...]

    @property
    def total_processes(self) -> int:
        """Idle and active ones."""
        return self.idle_processes + self.active_processes


no_cache: Final = (
    ("Expires", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ("Cache-Control", "no-cache, no-store, must-revalidate, max-age=0"),
)
"""The headers that go with every format, and with a ping."""

security_policy: Final = (
    "default-src 'none'; style-src 'sha256-y5fn0x027zMloYmxImfdTARSWWMmr5+DePXKdsw+PGg=';"
    " script-src 'sha256-KJy0z7t7o60E2B4tOPQtTZKd3KE0hpIX8u9ivLDZXEo=';"
    " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'self'"
)
"""The Content-Security-Policy of the HTML page: its own style and script run, and nothing else."""

# What a field is, which decides how each format writes it.
_TEXT, _CLOCK, _WHOLE, _MICRO, _PERCENT, _FLAG = range(6)

# In the order and with the names of php-fpm; a name's spaces are underscores in the attribute.
_POOL: Final = (
    ("pool", _TEXT),
    ("process manager", _TEXT),
    ("start time", _CLOCK),
    ("start since", _WHOLE),
    ("accepted conn", _WHOLE),
    ("listen queue", _WHOLE),
    ("max listen queue", _WHOLE),
    ("listen queue len", _WHOLE),
    ("idle processes", _WHOLE),
    ("active processes", _WHOLE),
    ("total processes", _WHOLE),
    ("max active processes", _WHOLE),
    ("max children reached", _WHOLE),
    ("slow requests", _WHOLE),
    ("memory peak", _WHOLE),  # since php-fpm 8.4
    # ours
    ("memory", _WHOLE),
    ("active requests", _WHOLE),
    ("max children", _WHOLE),
    ("start servers", _WHOLE),
    ("min spare servers", _WHOLE),
    ("max spare servers", _WHOLE),
    ("max requests", _WHOLE),
    ("max memory", _WHOLE),
    ("generation", _WHOLE),
    ("reloads", _WHOLE),
    ("failed reloads", _WHOLE),
    ("last failure", _TEXT),
    ("lost requests", _WHOLE),
    ("dropped log lines", _WHOLE),
    ("sapi", _TEXT),
    ("version", _TEXT),
)
_PROCESS: Final = (
    ("pid", _WHOLE),
    ("state", _TEXT),
    ("start time", _CLOCK),
    ("start since", _WHOLE),
    ("requests", _WHOLE),
    ("request duration", _MICRO),
    ("request method", _TEXT),
    ("request uri", _TEXT),
    ("content length", _WHOLE),
    ("user", _TEXT),
    ("script", _TEXT),
    ("last request cpu", _PERCENT),
    ("last request memory", _WHOLE),
    # ours
    ("memory", _WHOLE),
    ("active requests", _WHOLE),
    ("capacity", _WHOLE),
    ("generation", _WHOLE),
    ("leaving", _FLAG),
)

_MONTHS: Final = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


def render(status: Status, query: str) -> tuple[str, bytes]:
    """Return the content type and the body that the page has for *query*.

    The query's words choose, their values do not count: ``html``, ``xml``, ``json`` or
    ``openmetrics``, the first of these that is there, else plain text; ``full`` adds the workers.
    Unknown words are ignored. php-fpm's fields come first, in its order; ours follow, and the
    workers are last. A text that is empty reads ``-``.

    ``openmetrics`` is php-fpm's page, which counts without the suffix ``_total``: Prometheus takes
    it, strict parsers do not. ``openmetrics=strict`` is the same by the letter of OpenMetrics 1.0,
    with the pool as a label everywhere.
    """
    words = _words(query)
    full = "full" in words
    if "html" in words:
        return "text/html;charset=UTF-8", _html(status, full)
    if "xml" in words:
        return "text/xml;charset=UTF-8", _xml(status, full)
    if "json" in words:
        return "application/json", _json(status, full)
    if "openmetrics" in words:
        body = _openmetrics(status, words["openmetrics"] == "strict")
        return "application/openmetrics-text; version=1.0.0; charset=utf-8", body
    return "text/plain;charset=UTF-8", _text(status, full)


def printable(text: str) -> str:
    """Return *text* for people, on one line, without anything that a terminal would obey.

    Latin-1 text that holds UTF-8, as CGI variables do, is decoded. What cannot be printed becomes
    an escape such as ``\\x1b``.
    """
    try:
        text = text.encode("latin-1").decode()
    except UnicodeError:
        pass  # it is text already, or no UTF-8
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _words(query: str) -> dict[str, str]:
    """Return the query's names and values as PHP does: ``json[]`` and ``+json`` are ``json``."""
    words = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        name = unquote_plus(name).lstrip(" ")
        stem, _, index = name.partition("[")
        words[stem if "]" in index else name] = value
    return words


def _whole(number: float) -> int:
    """Return *number* without its fraction, within what readers keep a counter in."""
    return min(int(number), (1 << 63) - 1) if isfinite(number) and number > 0 else 0


def _cells(
    source: Status | Process, fields: tuple[tuple[str, int], ...]
) -> list[tuple[str, int, Any]]:
    """Return (name, kind, value) of each field; numbers are whole, text is as it came."""
    cells: list[tuple[str, int, Any]] = []
    for name, kind in fields:
        value = getattr(source, name.replace(" ", "_"))
        if kind == _TEXT:
            value = value if value.strip() else "-"
        elif kind == _MICRO:
            value = _whole(value * 1e6)
        elif kind == _PERCENT:
            value = f"{min(max(value, 0), 1e6) if isfinite(value) else 0:.2f}"
        elif kind != _FLAG:
            value = _whole(value)
        cells.append((name, kind, value))
    return cells


def _shown(kind: int, value: Any, clock: bool = True) -> str:
    """Return a cell's value for people; without *clock* a time stays seconds since the epoch."""
    if kind == _TEXT:
        return printable(value)
    if kind == _FLAG:
        return "yes" if value else "no"
    if kind == _CLOCK and clock:
        local = time.localtime(min(value, 1 << 37))  # what a clock can be wrong by has a limit
        # Not %b: an application may have set a locale.
        month = _MONTHS[local.tm_mon - 1]
        return f"{local.tm_mday:02}/{month}/{time.strftime('%Y:%H:%M:%S %z', local)}"
    return str(value)


def _escaped(text: str) -> str:
    return (
        text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    )


# -- plain text, XML, JSON ------------------------------------------------------------------------


def _text(status: Status, full: bool) -> bytes:
    blocks = [_cells(status, _POOL)]
    if full:
        blocks += [_cells(process, _PROCESS) for process in status.processes]
    parts = []
    for block in blocks:
        # Here alone php-fpm spells the name so.
        named = ((name.replace("request uri", "request URI"), *rest) for name, *rest in block)
        parts.append("".join([f"{name + ':':<22}{_shown(*rest)}\n" for name, *rest in named]))
    return f"\n{'*' * 24}\n".join(parts).encode()


def _xml(status: Status, full: bool) -> bytes:
    def elements(cells: list[tuple[str, int, Any]]) -> list[str]:
        return [
            f"<{tag}>{_escaped(_shown(kind, value, clock=False))}</{tag}>"
            for name, kind, value in cells
            for tag in (name.replace(" ", "-"),)
        ]

    lines = ['<?xml version="1.0" ?>', "<status>", *elements(_cells(status, _POOL))]
    if full:
        lines.append("<processes>")
        for process in status.processes:
            lines.append(f"<process>{''.join(elements(_cells(process, _PROCESS)))}</process>")
        lines.append("</processes>")
    return "\n".join([*lines, "</status>"]).encode()


def _json(status: Status, full: bool) -> bytes:
    def members(cells: list[tuple[str, int, Any]]) -> str:
        return ",".join([f'"{name}":{_literal(kind, value)}' for name, kind, value in cells])

    body = members(_cells(status, _POOL))
    if full:
        processes = ",".join([f"{{{members(_cells(p, _PROCESS))}}}" for p in status.processes])
        body += f', "processes":[{processes}]'
    return f"{{{body}}}".encode()


def _literal(kind: int, value: Any) -> str:
    if kind == _TEXT:
        try:
            value = value.encode("latin-1").decode()
        except UnicodeError:
            pass  # as in printable()
        # A lone surrogate has an escape in JSON, but strict readers refuse it.
        value = value.encode("utf-8", "backslashreplace").decode()
        return json.dumps(value).replace("/", "\\/")
    if kind == _FLAG:
        return "true" if value else "false"
    return str(value)


# -- OpenMetrics ----------------------------------------------------------------------------------

# Name, type by php-fpm, type by the letter ("" is the same), help, attribute. php-fpm counts the
# maxima as counters: they are none, as they do not add up.
_PHPFPM: Final = (
    ("start_since", "counter", "gauge", "The number of seconds since FPM has started.", ""),
    (
        "accepted_connections",
        "counter",
        "",
        "The number of requests accepted by the pool.",
        "accepted_conn",
    ),
    (
        "listen_queue",
        "gauge",
        "",
        "The number of requests in the queue of pending connections.",
        "",
    ),
    (
        "max_listen_queue",
        "counter",
        "gauge",
        "The maximum number of requests in the queue of pending connections since FPM has started.",
        "",
    ),
    (
        "listen_queue_length",
        "gauge",
        "",
        "The size of the socket queue of pending connections.",
        "listen_queue_len",
    ),
    ("idle_processes", "gauge", "", "The number of idle processes.", ""),
    ("active_processes", "gauge", "", "The number of active processes.", ""),
    ("total_processes", "gauge", "", "The number of idle + active processes.", ""),
    (
        "max_active_processes",
        "counter",
        "gauge",
        "The maximum number of active processes since FPM has started.",
        "",
    ),
    (
        "max_children_reached",
        "counter",
        "",
        "The number of times, the process limit has been reached, when pm tries to start more"
        " children (works only for pm 'dynamic' and 'ondemand').",
        "",
    ),
    (
        "slow_requests",
        "counter",
        "",
        "The number of requests that exceeded your 'request_slowlog_timeout' value.",
        "",
    ),
    ("memory_peak", "gauge", "", "The memory usage peak since FPM has started.", ""),
)
# Name, type, help, attribute.
_OURS: Final = (
    ("memory_bytes", "gauge", "Resident bytes of all workers.", "memory"),
    ("active_requests", "gauge", "Requests that are being served.", ""),
    ("max_children", "gauge", "pm.max_children.", ""),
    ("start_servers", "gauge", "pm.start_servers.", ""),
    ("min_spare_servers", "gauge", "pm.min_spare_servers.", ""),
    ("max_spare_servers", "gauge", "pm.max_spare_servers.", ""),
    ("max_requests", "gauge", "pm.max_requests, 0 for no limit.", ""),
    ("max_memory_bytes", "gauge", "pm.max_memory, 0 for no limit.", "max_memory"),
    ("generation", "gauge", "The generation of workers that serves.", ""),
    ("reloads", "counter", "Reloads that succeeded.", ""),
    ("failed_reloads", "counter", "Reloads that failed.", ""),
    ("last_reload_failed", "gauge", "1 when the last reload failed.", "last_failure"),
    ("lost_requests", "counter", "Requests whose worker died under them.", ""),
    ("dropped_log_lines", "counter", "Log lines that could not be written.", ""),
)


def _openmetrics(status: Status, strict: bool) -> bytes:
    pool = f'pool="{_label(status.pool)}"'
    manager = _label(status.process_manager)
    lines = [
        f"# HELP phpfpm_up Could pool {_label(status.pool)} using a {manager} PM on PHP-FPM be"
        " reached?",
        "# TYPE phpfpm_up gauge",
        f"phpfpm_up{{{pool}}} 1" if strict else "phpfpm_up 1",
    ]
    for name, loose, exact, about, attribute in _PHPFPM:
        kind = exact or loose if strict else loose
        family = f"phpfpm_{name}"
        head = [f"# HELP {family} {about}", f"# TYPE {family} {kind}"]
        # php-fpm has these two the other way round.
        lines += head[::-1] if name == "listen_queue_length" and not strict else head
        sample = family + ("_total" if kind == "counter" else "") + f"{{{pool}}}"
        lines.append(f"{sample if strict else family} {_whole(getattr(status, attribute or name))}")
    for name, kind, about, attribute in _OURS:
        value = getattr(status, attribute or name)
        number = int(value != "") if isinstance(value, str) else _whole(value)
        suffix = "_total" if kind == "counter" else ""
        lines += [
            f"# HELP sapi_{name} {about}",
            f"# TYPE sapi_{name} {kind}",
            f"sapi_{name}{suffix}{{{pool}}} {number}",
        ]
    lines += [
        "# HELP sapi Which SAPI serves, and its version.",
        "# TYPE sapi info",
        f'sapi_info{{{pool},sapi="{_label(status.sapi)}",version="{_label(status.version)}"}} 1',
        "# EOF\n",
    ]
    return "\n".join(lines).encode()


def _label(text: str) -> str:
    return printable(text).replace("\\", "\\\\").replace('"', '\\"')


# -- HTML -----------------------------------------------------------------------------------------


@lru_cache(1)
def page() -> str:
    """Return the page's template, with comments where :func:`render` puts the values.

    It is read from its file once: call it before a change of root hides that file.
    """
    from importlib.resources import files  # not for those who never show the page

    found = files("sapi_adapters") / "manager" / "statuspage.html"
    return found.read_text(encoding="utf-8")


def _html(status: Status, full: bool) -> bytes:
    names = "".join([f"<th>{name}</th>" for name, _ in _PROCESS])
    workers = []
    for process in status.processes if full else ():
        cells = "".join([f"<td>{_escaped(_shown(*c))}</td>" for _, *c in _cells(process, _PROCESS)])
        workers.append(f"<tr>{cells}</tr>")
    about = (status.process_manager, status.sapi, status.version)
    parts = {
        "pool": _escaped(printable(status.pool)),
        "about": _escaped(printable(" · ".join(filter(None, about)))),
        "hidden": "" if full else " hidden",
        "columns": f"<tr>{names}</tr>" if full else "",
        "workers": "\n".join(workers),
        "values": "\n".join(
            f"<tr><th>{name}</th><td>{_escaped(_shown(*rest))}</td></tr>"
            for name, *rest in _cells(status, _POOL)
        ),
    }
    # In one pass: what a value holds is never taken for a mark.
    return re.sub(r"<!--(\w+)-->", lambda mark: parts[mark[1]], page()).encode()
