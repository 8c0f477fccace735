"""What the manager costs a request: the master, the scoreboard, time-outs, the access log.

    python -m contrib.benchmarks.manager [--only NAME,...] [--starts N] [--rounds N]
                                         [--seconds S] [--conns N] [-k] [--json FILE] [--list]

The base is the bare loop: the library's blocking server, FastCGI session and WSGI gateway, with
neither master nor scoreboard nor log. Each row is the same in a worker under the master, with
something more. What is sought is a few per cent, so a row and its base are measured in turn, many
times, for a short while: a pair. Nothing else of ours runs meanwhile. A process is faster or slower
than its twin by where its memory lies, so both are started anew every few pairs; the row `again` is
the bare loop against itself and shows what is left of chance.

Processor time counts, that of the master included; it is what a request costs, whoever else was on
the machine. Every run is bounded in requests and seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contrib.benchmarks.cgi import quartiles
from contrib.benchmarks.fastcgi import (
    FAILED,
    HELLO,
    Bench,
    Contender,
    Launch,
    Run,
    Server,
    Setting,
)
from contrib.benchmarks.measure import (
    Missing,
    exit_on_terminate,
    machine,
    progress,
    table,
)
from sapi_adapters.adapters.accesslog import PHP_FPM

SCOREBOARD = 1.05
ACCESS_LOG = 1.15
"""The targets: processor time of a request, in that of the bare loop."""


def serve_loop(path: str) -> None:
    """Serve on the Unix socket *path* as a worker does, with nothing of the manager."""
    from contrib.benchmarks.apps.hello import wsgi
    from sapi_adapters.adapters.fastcgi import FcgiPrefork
    from sapi_adapters.gateways.wsgi import WsgiGateway
    from sapi_adapters.servers.blocking import BlockingServer

    sapi = FcgiPrefork(socket=path, workers=1)
    sapi.module_startup()
    sapi.child_startup()
    cycle = sapi.bind(WsgiGateway(wsgi, sapi))
    BlockingServer(sapi.listeners, sapi.session(cycle, None), sapi).run()


# The rows.


@dataclass(frozen=True)
class Row:
    """A way to serve, and what it may cost at most, in the bare loop's time; None for no target."""

    name: str
    what: str
    settings: dict[str, str] = field(default_factory=dict)
    workers: int = 1
    most: float | None = None


_STATUS = {"pm.status_path": "/status"}
_TIMEOUTS = {
    "request_slowlog_timeout": "5s",
    "slowlog": "{directory}/slow.log",
    "request_terminate_timeout": "30s",
}
_COMBINED = {"access.log": "{directory}/access.log"}
_PHP_FPM = {**_COMBINED, "access.format": PHP_FPM}


def _dynamic(children: int) -> dict[str, str]:
    spare = {"pm.start_servers": "1", "pm.min_spare_servers": "1", "pm.max_spare_servers": "1"}
    return {"pm": "dynamic", "pm.max_children": str(children), **spare}


ROWS = [
    Row("again", "the bare loop against itself"),
    Row("master", "a worker under the master: the scoreboard", most=SCOREBOARD),
    Row("status", "and pm.status_path", _STATUS, most=SCOREBOARD),
    Row("timeouts", "and request_slowlog_timeout, request_terminate_timeout", _TIMEOUTS),
    Row("dynamic", "and pm = dynamic, up to 1 worker", _dynamic(1)),
    Row("dynamic-4", "and pm = dynamic, up to 4 workers on the one core", _dynamic(4), 4),
    Row("log-php-fpm", "and access.log in php-fpm's format", _PHP_FPM, most=ACCESS_LOG),
    Row("log-combined", "and access.log in the combined format", _COMBINED, most=ACCESS_LOG),
    Row("all", "all of it at once", {**_STATUS, **_TIMEOUTS, **_dynamic(1), **_COMBINED}),
]


def _launch_loop(setting: Setting) -> Launch:
    argv = [sys.executable, "-m", "contrib.benchmarks.manager", "--serve", setting.socket]
    return Launch(argv)


def _launch(row: Row, setting: Setting) -> Launch:
    argv = [sys.executable, "-m", "sapi_adapters", f"{HELLO}:wsgi", "--sapi", "fcgi-prefork"]
    argv += ["--socket", setting.socket, "--workers", str(row.workers)]
    for name, value in row.settings.items():
        argv += ["--set", f"{name}={value.replace('{directory}', str(setting.directory))}"]
    return Launch(argv)


def contender(row: Row | None) -> Contender:
    """Return how *row* is started, None for the base."""
    if row is None:
        return Contender("loop", _launch_loop)
    launch = _launch_loop if row.name == "again" else functools.partial(_launch, row)
    return Contender(row.name, launch)


# Measuring.


@dataclass(frozen=True)
class Pair:
    """A run of a row and a run of the base, one right after the other."""

    name: str
    """As "3.2": the second pair after the third start."""
    row: Run
    base: Run

    @property
    def failed(self) -> bool:
        """Whether a request failed on either side."""
        return self.row.failed or self.base.failed

    @property
    def disturbed(self) -> bool:
        """Whether something else ran on these cores during either run."""
        return self.row.disturbed or self.base.disturbed


def measure(row: Row, start: int, bench: Bench) -> list[Pair]:
    """Start *row* and the base, measure them in turn, stop them. Raises RuntimeError, Missing."""
    options = bench.options
    pairs = []
    with (
        contextlib.ExitStack() as stack,
        tempfile.TemporaryDirectory(dir=bench.directory) as name,
    ):
        directory = Path(name)
        sides = [Server(contender(one), directory, 0, options.conns) for one in (row, None)]
        # The first to start lies elsewhere in memory and in time: not always the same one.
        for server in sides if start % 2 else reversed(sides):
            try:
                server.start(directory, bench.server_core)
            finally:
                if server.process is not None:
                    stack.callback(server.process.stop)
        for number in range(1, options.rounds + 1):
            for server in sides if (start + number) % 2 else reversed(sides):
                bench.measure(server)
            pair = Pair(f"{start}.{number}", sides[0].runs[-1], sides[1].runs[-1])
            pairs.append(pair)
            progress(f"  {row.name} {pair.name}: {_short(pair)}")
            if pair.failed:
                break
            with contextlib.suppress(FileNotFoundError):
                os.truncate(directory / "access.log", 0)
    return pairs


def _short(pair: Pair) -> str:
    if pair.failed:
        return f"FAILED: {pair.row.complaint or pair.base.complaint or 'bad answers'}"
    others = max(pair.row.others, pair.base.others)
    return (
        f"{pair.row.cpu_us:.1f} us of processor each, {ratio(pair):.3f} of the loop's"
        f"{f'; disturbed: others took {others:.0%}' if pair.disturbed else ''}"
    )


# The report.


def ratio(pair: Pair) -> float:
    """Return the row's processor time for a request, in the base's."""
    return pair.row.cpu_us / pair.base.cpu_us


def quiet(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs that nothing disturbed; all of them where there is no such."""
    return [pair for pair in pairs if not pair.disturbed] or list(pairs)


def report_row(row: Row, pairs: Sequence[Pair]) -> list[str]:
    """Return the cells of *row*."""
    if any(pair.failed for pair in pairs):
        return [row.name, FAILED, *["-"] * 7]
    used = quiet(pairs)

    def middle(value: Callable[[Pair], float]) -> float:
        return statistics.median(map(value, used))

    undisturbed = sum(not pair.disturbed for pair in pairs)
    found = middle(ratio)
    reached = "-"
    if row.most is not None:
        reached = ("yes" if found <= row.most else "NO") if undisturbed else "disturbed"
    best = min(pair.row.cpu_us for pair in pairs) / min(pair.base.cpu_us for pair in pairs)
    return [
        row.name,
        f"{middle(lambda pair: pair.row.cpu_us):.1f}",
        f"{middle(lambda pair: pair.row.cpu_us - pair.base.cpu_us):+.2f}",
        quartiles([ratio(pair) for pair in used], 3),
        f"{best:.3f}",
        "-" if row.most is None else f"{row.most:.2f}",
        reached,
        f"{middle(lambda pair: pair.row.rate / pair.base.rate):.3f}",
        f"{undisturbed}/{len(pairs)}",
    ]


def report(
    options: argparse.Namespace, found: dict[str, list[Pair]], missing: dict[str, str]
) -> tuple[str, bool]:
    """Put the whole report together, and say whether every run was sound."""
    parts = [
        f"{machine()}. {options.starts} starts with {options.rounds} pairs each, "
        f"{options.conns} connections, "
        f"{'kept connections' if options.keep else 'a new connection for each request'}."
    ]
    header = [
        *("row", "processor us each", "adds us", "x loop", "at best", "at most", "reached"),
        *("requests/s x loop", "quiet"),
    ]
    rows = [row for row in ROWS if found.get(row.name)]
    if rows:
        parts.append(table(header, [report_row(row, found[row.name]) for row in rows]))
    parts.append("\n".join(f"- {row.name}: {row.what}" for row in rows))
    disturbed = [
        f"- {row.name}: {', '.join(pair.name for pair in found[row.name] if pair.disturbed)}"
        for row in rows
        if any(pair.disturbed for pair in found[row.name])
    ]
    if disturbed:
        text = "Disturbed, and left out where a row has others (start.pair):"
        parts.append("\n".join([text, "", *disturbed]))
    failures = [
        f"- {row.name}, {pair.name}: {_short(pair)}"
        for row in rows
        for pair in found[row.name]
        if pair.failed
    ]
    if failures:
        parts += ["### failures", "\n".join(failures)]
    if missing:
        parts += ["### missing", "\n".join(f"- {name}: {why}" for name, why in missing.items())]
    return "\n\n".join(parts), not failures and not missing


def as_json(options: argparse.Namespace, found: dict[str, list[Pair]]) -> Any:
    """Everything that was measured, pair by pair."""
    return {
        "machine": machine(),
        "options": {k: v for k, v in vars(options).items() if k != "json"},
        "rows": {
            name: [{"pair": p.name, "row": vars(p.row), "loop": vars(p.base)} for p in pairs]
            for name, pairs in found.items()
        },
    }


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m contrib.benchmarks.manager",
        description="Measure what the manager costs a request, against a bare loop.",
    )
    parser.add_argument("--only", metavar="NAME,...", help="these rows")
    parser.add_argument("--starts", type=int, default=8, help="how often each is started (8)")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of runs after a start (5)")
    parser.add_argument("--requests", type=int, default=20000, help="at most, in one run (20000)")
    parser.add_argument("--seconds", type=float, default=0.4, help="about, for one run (0.4)")
    parser.add_argument("--conns", type=int, default=32, help="requests under way at once (32)")
    parser.add_argument("-k", dest="keep", action="store_true", help="keep connections open")
    parser.add_argument("--directory", metavar="DIR", help="where the logs are written")
    parser.add_argument("--json", metavar="FILE", help="write every run there as well")
    parser.add_argument("--list", action="store_true", help="print the rows and stop")
    parser.add_argument("--serve", metavar="SOCKET", help=argparse.SUPPRESS)
    parser.set_defaults(body=0)
    options = parser.parse_args(argv)
    if not 1 <= options.starts <= 100 or not 1 <= options.rounds <= 100:
        parser.error("1 to 100 starts and rounds")
    if not 1 <= options.requests <= 1_000_000 or not 0 < options.seconds <= 30:
        parser.error("1 to 1000000 requests and at most 30 seconds")
    if not 1 <= options.conns <= 1000:
        parser.error("1 to 1000 connections")
    known = {row.name for row in ROWS}
    for name in filter(None, (options.only or "").split(",")):
        if name not in known:
            parser.error(f"no row is called {name!r}; --list names them")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the report on stdout, return 1 when a run failed."""
    options = arguments(argv)
    if options.serve:
        serve_loop(options.serve)
        return 0
    if options.list:
        print("\n".join(f"{row.name:13} {row.what}" for row in ROWS))
        return 0
    only = set(options.only.split(",")) if options.only else {row.name for row in ROWS}
    exit_on_terminate()
    found: dict[str, list[Pair]] = {}
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="bench", dir=options.directory) as name:
        bench = Bench(options, Path(name))
        if bench.server_core == bench.client_core:
            progress("only one core: server and client share it, and the ratios mean little")
        try:
            bench.prepare("fastcgi")
        except Missing as error:
            missing["fcgibench"] = str(error)
            only = set()
        for start in range(1, options.starts + 1):
            progress(f"start {start} of {options.starts}")
            for row in ROWS:
                if row.name not in only or row.name in missing:
                    continue
                pairs = found.setdefault(row.name, [])
                if any(pair.failed for pair in pairs):
                    continue
                try:
                    pairs += measure(row, start, bench)
                except (RuntimeError, Missing) as error:
                    missing[row.name] = f"did not start: {error}"
    text, sound = report(options, found, missing)
    print(text)
    if options.json:
        Path(options.json).write_text(json.dumps(as_json(options, found), indent=1))
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
