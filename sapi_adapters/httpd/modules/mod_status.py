"""mod_status: the handler ``server-status`` shows who is doing what; ExtendedStatus On or Off.

``?auto`` is for programs and has Apache's keys in Apache's order. ``?json`` is what the HTML page
follows; ``?refresh=N`` sets its period in seconds. A module adds to all three by the hook
``status_hook``, which is called with the request and a :class:`Page`.

What the workers are doing is on the scoreboard that the process manager shares with them; bytes,
durations and CPU time are counted here, in memory of all processes that serves every generation.
Letters of the scoreboard: ``_`` idle, ``R`` reading, ``W`` at work, ``L`` at its end, ``G`` at work
in a process that leaves, ``I`` idle in such a one, ``.`` no process. Left out: clients' addresses
and virtual hosts of requests, which are not on the board; the numbers of connections; the letters
S, K, D and C; ``?notable``.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import html
import json
import mmap
import os
import re
import resource
import tempfile
import time
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from ...sapi import __file__ as _interface
from ...sapi import __version__
from ..filters import EOS
from ..hooks import DECLINED, OK, run_void
from ..module import FLAG, RSRC_CONF, Command, Module, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..config import Parameters
    from ..hooks import Hooks
    from ..host import Host
    from ..records import Request

_LETTERS = "__RRWWL"
"""By the stage that the scoreboard has: none, idle, reading, information, running, ending,
finishing."""
_RUNNING = 4
_IDLE = "_"
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


class Counts:
    """What all processes count together: bytes, microseconds, CPU time; in shared memory.

    A process has a slot of its own from :meth:`claim` to its end, which the kernel notices: the
    slot is locked as a part of the file. Its successor counts on from there.
    """

    SLOTS, WIDTH = 1024, 8

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self._fd = os.memfd_create("mod_status", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile() as file:
                self._fd = os.dup(file.fileno())
        size = self.SLOTS * self.WIDTH * 8
        os.ftruncate(self._fd, size)
        self.view = memoryview(mmap.mmap(self._fd, size)).cast("Q")
        self.at = -1
        self._cpu = (0, 0, 0, 0)
        self._before = (0, 0, 0, 0)

    def __del__(self) -> None:
        os.close(self._fd)

    def claim(self) -> None:
        """Take a slot for this process. (Those beyond the last share that.)"""
        for slot in range(self.SLOTS):
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
                break
            except OSError:
                continue
        self.at = slot * self.WIDTH
        self._cpu = tuple(self.view[self.at + 2 : self.at + 6])  # type: ignore[assignment]
        self._before = _cpu()

    def note_cpu(self) -> None:
        """Count the CPU time that this process used so far."""
        for n, now in enumerate(_cpu()):
            self.view[self.at + 2 + n] = self._cpu[n] + now - self._before[n]

    def totals(self) -> list[int]:
        """Return bytes and microseconds, and those of CPU: user, system, children's of both."""
        return [sum(self.view[n :: self.WIDTH]) for n in range(6)]


def _cpu() -> tuple[int, int, int, int]:
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = (own.ru_utime, own.ru_stime, children.ru_utime, children.ru_stime)
    return tuple(int(seconds * 1e6) for seconds in used)  # type: ignore[return-value]


class Config(Settings):
    """What is configured, and what belongs to this generation."""

    extended = True
    counts: Counts | None = None
    restarted = 0.0


class Page:
    """What the ``status_hook`` of other modules adds to."""

    def __init__(self) -> None:
        self.tables: list[tuple[str, list[tuple[str, str]]]] = []

    def add(self, heading: str, rows: Iterable[tuple[str, object]]) -> None:
        """Add a table of names and values; ``?auto`` has them as ``name: value``."""
        self.tables.append((heading, [(name, str(value)) for name, value in rows]))


@dataclass
class _Worker:
    """One process."""

    pid: int
    generation: int
    leaving: bool
    letters: str
    accesses: int
    cpu: float
    """Of the request shown, in seconds."""
    since: float
    """Since it began, or since the last one did."""
    took: float
    """The last one, in milliseconds."""
    memory: int
    active: int
    capacity: int
    request: str


class Report:
    """The numbers of this moment."""

    def __init__(self, r: Request) -> None:
        host = r.host
        config: Config = host.main.module_config[status_module]
        head, rows = host.provided["board"].read()
        now = time.monotonic()
        self.now = time.time()
        self.name = r.server.server_hostname or r.hostname or r.connection.local_ip or "localhost"
        self.extended = config.extended
        self.generation = head.generation
        self.restarted = config.restarted or head.started
        self.uptime = max(0.0, now - head.started_clock) if head.started_clock else 0.0
        self.workers = [_worker(row, now) for row in sorted(rows, key=lambda row: row.number)]
        self.mpm = host.mpm or ("event" if r.connection.asynchronous else "prefork")
        self.accesses = head.accepted + sum(worker.accesses for worker in self.workers)
        self.limit = _most(host, len(self.workers))
        width = max([worker.capacity for worker in self.workers], default=1)
        board = "".join(worker.letters for worker in self.workers)
        self.board = board + "." * (width * max(0, self.limit - len(self.workers)))
        self.busy = sum(letter in "RWL" for letter in board)
        self.graceful, self.idle = board.count("G"), board.count(_IDLE)
        try:
            self.load = os.getloadavg()
        except OSError:
            self.load = (0.0, 0.0, 0.0)
        counts = config.counts
        if counts is not None:
            counts.note_cpu()
        totals = [0] * 6 if counts is None else counts.totals()
        self.bytes, self.duration = totals[0], totals[1] // 1000
        self.cpu = [value / 1e6 for value in totals[2:]]
        self.modules = [module.name for module in host.modules]
        page = Page()
        run_void(host.hooks.status_hook, r, page)
        self.more = page.tables

    def lines(self) -> list[tuple[str, str]]:
        """Return mod_status's keys and values."""
        found = [
            ("ServerVersion", f"sapi_adapters/{__version__}"),
            ("ServerMPM", self.mpm),
            ("Server Built", time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(_built()))),
            ("CurrentTime", _clock(self.now)),
            ("RestartTime", _clock(self.restarted)),
            ("ParentServerConfigGeneration", str(self.generation)),
            ("ParentServerMPMGeneration", str(self.generation - 1)),
            ("ServerUptimeSeconds", str(int(self.uptime))),
            ("ServerUptime", _age(int(self.uptime))),
            *[(f"Load{n}", f"{load:.2f}") for n, load in zip((1, 5, 15), self.load, strict=True)],
        ]
        if self.extended:
            found += self._extended()
        found += [
            ("BusyWorkers", str(self.busy)),
            ("GracefulWorkers", str(self.graceful)),
            ("IdleWorkers", str(self.idle)),
        ]
        if self.mpm == "event":
            found.append(("Processes", str(len(self.workers))))
            found.append(("Stopping", str(sum(worker.leaving for worker in self.workers))))
        found.append(("Scoreboard", self.board))
        for _, rows in self.more:
            found += rows
        return found

    def _extended(self) -> list[tuple[str, str]]:
        found = [
            ("Total Accesses", str(self.accesses)),
            ("Total kBytes", str(self.bytes >> 10)),
            ("Total Duration", str(self.duration)),
        ]
        names = ("CPUUser", "CPUSystem", "CPUChildrenUser", "CPUChildrenSystem")
        found += [(name, f"{used:g}") for name, used in zip(names, self.cpu, strict=True)]
        seconds = int(self.uptime)
        if sum(self.cpu) and seconds:
            found.append(("CPULoad", f"{100 * sum(self.cpu) / seconds:g}"))
        found.append(("Uptime", str(seconds)))
        if seconds:
            found.append(("ReqPerSec", f"{self.accesses / seconds:g}"))
            found.append(("BytesPerSec", f"{self.bytes / seconds:g}"))
        if self.accesses:
            found.append(("BytesPerReq", f"{self.bytes / self.accesses:g}"))
            found.append(("DurationPerReq", f"{self.duration / self.accesses:g}"))
        return found

    def facts(self) -> dict[str, Any]:
        """Return what the page follows."""
        facts = {name: value for name, value in vars(self).items() if name != "workers"}
        facts["values"] = dict(self.lines())
        facts["workers"] = [vars(worker) for worker in self.workers] if self.extended else []
        return facts


def _worker(row: Any, now: float) -> _Worker:
    """Return what a row of the board says, by its longest running request or its last one."""
    running = [request for request in row.requests if request.stage >= _RUNNING]
    if running:
        shown = min(running, key=lambda request: request.started)
    else:
        shown = max(row.requests, key=lambda request: request.ended)
    letters = "".join([_LETTERS[request.stage] for request in row.requests])
    if row.leaving:
        letters = "".join(["I" if letter == _IDLE else "G" for letter in letters])
    return _Worker(
        pid=row.pid,
        generation=row.generation,
        leaving=row.leaving,
        letters=letters,
        accesses=sum(request.begun for request in row.requests),
        cpu=shown.cpu,
        since=max(0.0, now - shown.started) if shown.started else 0.0,
        took=0.0 if running else max(0.0, shown.ended - shown.started) * 1e3,
        memory=row.memory,
        active=len(running),
        capacity=row.capacity,
        request=_printable(f"{shown.method} {shown.uri}".strip()),
    )


def _most(host: Host, running: int) -> int:
    """Return how many processes there may be."""
    status = host.provided.get("status")
    if status is not None:
        found: int = status().max_children
        return found
    return running


def _built() -> float:
    """Return when this version's files were written."""
    return os.stat(_interface).st_mtime if os.path.exists(_interface) else 0.0


def _clock(seconds: float) -> str:
    at = time.localtime(seconds)
    date = f"{at.tm_mday:02}-{_MONTHS[at.tm_mon - 1]}-{at.tm_year}"
    return f"{_DAYS[at.tm_wday]}, {date} {time.strftime('%H:%M:%S %Z', at)}"


def _age(seconds: int) -> str:
    parts = [
        f"{number} {unit}{'' if number == 1 else 's'}"
        for number, unit in (
            (seconds // 86400, "day"),
            (seconds // 3600 % 24, "hour"),
            (seconds // 60 % 60, "minute"),
            (seconds % 60, "second"),
        )
        if number
    ]
    return " ".join(parts)


def _printable(text: str) -> str:
    try:
        text = text.encode("latin-1").decode()
    except UnicodeError:
        pass  # it is text already, or no UTF-8
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


# -- the page -------------------------------------------------------------------------------------


class Template:
    """A page in a file beside this one, with marks such as ``<!--name-->``; read once."""

    def __init__(self, name: str) -> None:
        self.text = files(__package__ or "").joinpath(name).read_text(encoding="utf-8")
        digests = {
            tag: " ".join(
                f"'sha256-{base64.b64encode(hashlib.sha256(found.encode()).digest()).decode()}'"
                for found in re.findall(rf"<{tag}>(.*?)</{tag}>", self.text, re.DOTALL)
            )
            for tag in ("style", "script")
        }
        self.policy = (
            f"default-src 'none'; style-src {digests['style']}; script-src {digests['script']};"
            " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none';"
            " frame-ancestors 'self'"
        )
        """The Content-Security-Policy: its own style and script run, and nothing else."""

    def render(self, parts: dict[str, str]) -> str:
        """Return the page; what a part holds is never taken for a mark."""
        return re.sub(r"<!--(\w+)-->", lambda mark: parts[mark[1]], self.text)


_templates: list[Template] = []


def _page(report: Report, period: float) -> str:
    def row(*cells: object) -> str:
        return "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>"

    def pairs(rows: Iterable[tuple[str, str]]) -> str:
        return "\n".join(
            f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(value)}</td></tr>'
            for name, value in rows
        )

    workers = [
        row(w.pid, w.letters, "", w.accesses, f"{w.took:.1f}", w.request, w.memory, w.generation)
        for w in (report.workers if report.extended else ())
    ]
    more = "".join(
        f'<section class="card"><h2>{html.escape(name)}</h2><table>{pairs(rows)}</table></section>'
        for name, rows in report.more
    )
    return _templates[0].render(
        {
            "name": html.escape(report.name),
            "about": html.escape(
                f"{report.mpm} · generation {report.generation} · sapi_adapters/{__version__}"
                f" · up {_age(int(report.uptime)) or 'just now'}"
            ),
            "period": f"{period:g}",
            "seconds": f"{max(1, round(period))}",
            "board": report.board,
            "hidden": "" if report.extended else " hidden",
            "workers": "\n".join(workers),
            "values": pairs(report.lines()),
            "modules": "".join(f"<li>{html.escape(name)}</li>" for name in report.modules),
            "more": more,
        }
    )


# -- hooks ----------------------------------------------------------------------------------------


def _handler(r: Request) -> int:
    if r.handler != "server-status":
        return DECLINED
    if r.method not in ("GET", "HEAD"):
        r.allowed = frozenset(("GET", "HEAD"))
        return 405
    if "board" not in r.host.provided:
        r.log("server-status: this program has no scoreboard")
        return 500
    query = dict(parse_qsl(r.args or "", keep_blank_values=True))
    report = Report(r)
    r.headers_out.set("Cache-Control", "no-store")
    r.headers_out.set("X-Content-Type-Options", "nosniff")
    if "auto" in query:
        r.content_type = "text/plain; charset=utf-8"
        lines = "".join(f"{name}: {value}\n" for name, value in report.lines())
        body = f"{report.name}\n{lines}"
    elif "json" in query:
        r.content_type = "application/json"
        body = json.dumps(report.facts())
    else:
        r.content_type = "text/html; charset=utf-8"
        r.headers_out.set("Content-Security-Policy", _templates[0].policy)
        given = query.get("refresh", "")
        period = float(given) if given.isascii() and given.isdigit() and len(given) < 6 else 2.0
        body = _page(report, max(period, 1.0))
    r.output_filters.pass_brigade([body.encode("utf-8", "replace"), EOS])
    return OK


def _post_config(host: Host) -> int:
    config: Config = host.main.module_config[status_module]
    config.restarted = time.time()
    if not _templates:
        _templates.append(Template("mod_status.html"))  # before a change of root hides the file
    if config.extended and host.pass_ != 1:
        if "mod_status" not in host.retained:
            host.retained["mod_status"] = Counts()
        config.counts = host.retained["mod_status"]
    return OK


def _child_init(host: Host) -> None:
    counts = host.main.module_config[status_module].counts
    if counts is not None:
        counts.claim()


def _monitor(host: Host, graceful: bool = True) -> int:
    counts = host.main.module_config[status_module].counts
    if counts is not None:
        counts.note_cpu()
    return OK


def _log_transaction(r: Request) -> int:
    counts = r.server.module_config[status_module].counts
    if counts is not None:
        last = r
        while last.next is not None:
            last = last.next
        view, at = counts.view, counts.at
        sent, took = last.bytes_sent, int((time.monotonic() - r.request_clock) * 1e6)
        view[at] += sent
        view[at + 1] += took
    return OK


def _register(hooks: Hooks) -> None:
    hooks.add("post_config", _post_config)
    hooks.add("child_init", _child_init)
    hooks.add("child_stopping", _monitor)
    hooks.add("monitor", _monitor)
    hooks.add("handler", _handler)
    hooks.add("log_transaction", _log_transaction)


def _extended_status(cmd: Parameters, config: Config, value: bool) -> str | None:
    if cmd.server.is_virtual:
        return "ExtendedStatus is for the whole server"
    config.extended = value
    return None


status_module = Module(
    "mod_status",
    commands=(Command("ExtendedStatus", _extended_status, FLAG, RSRC_CONF, "On or Off"),),
    create_server_config=lambda server: Config(),
    merge_server_config=Config.merged,
    register_hooks=_register,
)
