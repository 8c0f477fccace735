"""The HTTP host and its peers under load, alternated, as ratios.

    python -m contrib.benchmarks.host [--only NAME,...] [--rounds N] [--seconds S] [--conns N]

wrk speaks HTTP/1.1 to each server on a kept connection. Each server has one worker and one core,
wrk has the next core. A round measures every server once, the next one in the opposite order; a
ratio is taken inside a round. Only the loopback interface is used, and every run is bounded.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.client
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from contrib.benchmarks.fastcgi import (
    ATTEMPTS,
    HELLO,
    Run,
    _need_module,
    _read_wrk,
    _user,
    free_ports,
    processor_seconds,
)
from contrib.benchmarks.measure import (
    ROOT,
    Missing,
    Process,
    core_seconds,
    cores,
    exit_on_terminate,
    find_program,
    machine,
    pinned,
    progress,
    spread,
    table,
    wait_until,
)

SIZE = 100_000
"""Bytes of the static file."""


@dataclass
class Row:
    """A server: how it is started on a port, what is asked of it, and its runs."""

    name: str
    launch: Callable[[int, Path], Sequence[str]]
    path: str = "/"
    length: int = 13
    runs: list[Run] = field(default_factory=list)
    port: int = 0
    process: Process | None = None


def _ours(application: str, port: int, folder: Path, *options: str) -> Sequence[str]:
    argv = [sys.executable, "-m", "sapi_adapters", f"{HELLO}:{application}", "--access-log", "off"]
    return [*argv, "--bind", f"127.0.0.1:{port}", *options]


def _our_files(port: int, folder: Path) -> Sequence[str]:
    conf = folder / "host.conf"
    conf.write_text(
        f"Listen 127.0.0.1:{port}\nLoadModule mpm_prefork_module mod_mpm_prefork\n"
        "StartServers 1\nMinSpareServers 1\nMaxSpareServers 1\nMaxRequestWorkers 1\n"
        f"MaxKeepAliveRequests 0\nDocumentRoot {folder}\n<Directory />\nOptions FollowSymLinks\n"
        "</Directory>\n"
    )
    return [sys.executable, "-m", "sapi_adapters", "-f", str(conf)]


def _gunicorn(port: int, folder: Path) -> Sequence[str]:
    program = find_program("gunicorn", "pip install gunicorn")
    argv = [program, f"{HELLO}:wsgi", "--bind", f"127.0.0.1:{port}", "--workers", "1"]
    return [*argv, "--worker-class", "gthread", "--threads", "4", "--log-level", "warning"]


def _uvicorn(port: int, folder: Path) -> Sequence[str]:
    program = find_program("uvicorn", "pip install uvicorn httptools uvloop")
    for module in ("httptools", "uvloop"):
        _need_module(module, f"pip install {module}")
    argv = [program, f"{HELLO}:asgi", "--port", str(port), "--loop", "uvloop"]
    return [*argv, "--http", "httptools", "--no-access-log", "--log-level", "warning"]


def _nginx(port: int, folder: Path) -> Sequence[str]:
    program = find_program("nginx", "apt-get install nginx")
    user = f"user {_user()};\n" if os.geteuid() == 0 else ""
    conf = folder / "nginx.conf"
    conf.write_text(
        f"{user}daemon off;\nworker_processes 1;\npid {folder}/nginx.pid;\nerror_log stderr;\n"
        "events { worker_connections 1024; }\nhttp { access_log off; sendfile on;"
        f" keepalive_requests 1000000000; server {{ listen 127.0.0.1:{port}; root {folder}; }} }}\n"
    )
    return [program, "-e", "stderr", "-p", str(folder), "-c", str(conf)]


def _rows() -> list[Row]:
    part = functools.partial
    return [
        Row("gunicorn-gthread", _gunicorn),
        Row("mod-wsgi", part(_ours, "wsgi")),
        Row("uvicorn", _uvicorn),
        Row("mod-asgi", part(_ours, "asgi")),
        Row("nginx-file", _nginx, "/file.bin", SIZE),
        Row("mod-file", _our_files, "/file.bin", SIZE),
    ]


TARGETS = [
    ("mod-wsgi", 2.5, "gunicorn-gthread"),
    ("mod-asgi", 0.9, "uvicorn"),
    ("mod-file", 0.3, "nginx-file"),
]


def _answers(row: Row) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", row.port, timeout=5)
    try:
        connection.request("GET", row.path)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    if response.status != 200 or len(body) != row.length:
        raise RuntimeError(f"answered {response.status} with {len(body)} bytes")
    return True


def measure(row: Row, wrk: str, seconds: float, conns: int) -> Run:
    """Load *row* for *seconds*; once more while something else took a part of a core."""
    assert row.process is not None
    server_core, client_core, _ = cores()
    url = f"http://127.0.0.1:{row.port}{row.path}"
    argv = [wrk, "-t1", f"-c{conns}", f"-d{max(1, round(seconds))}s", "--latency", url]
    for _ in range(ATTEMPTS):
        before = row.process.cpu()
        busy = core_seconds(server_core)
        with pinned(client_core):
            done = subprocess.run(argv, capture_output=True, text=True, timeout=90, check=False)
        spent = processor_seconds(before, row.process.cpu())
        run = _read_wrk(done, spent, 0.0, 0)
        others = (core_seconds(server_core) - busy - spent) / max(run.seconds, 0.1)
        if run.failed or others < 0.1:
            break
    return run


def report(rows: Sequence[Row]) -> str:
    """Return the tables: each row's figures, and the ratios that the project holds itself to."""
    by_name = {row.name: row for row in rows if row.runs}
    lines = []
    for row in by_name.values():
        good = [run for run in row.runs if not run.failed]
        if not good:
            lines.append([row.name, "failed", "-", row.runs[-1].complaint[:60]])
            continue
        lines.append(
            [
                row.name,
                f"{statistics.median(run.rate for run in good):.0f}",
                f"{statistics.median(run.cpu_us for run in good):.1f}",
                f"{statistics.median(run.p99_us for run in good) / 1e3:.2f}",
            ]
        )
    text = table(["server", "requests/s", "processor us each", "p99 ms"], lines)
    ratios = []
    for ours, wanted, theirs in TARGETS:
        if ours not in by_name or theirs not in by_name:
            continue
        pairs = [
            (a, b)
            for a, b in zip(by_name[ours].runs, by_name[theirs].runs, strict=True)
            if not a.failed and not b.failed
        ]
        if not pairs:
            continue
        found = [a.rate / b.rate for a, b in pairs]
        reached = "yes" if statistics.median(found) >= wanted else "NO"
        processor = spread([b.cpu_us / a.cpu_us for a, b in pairs])
        ratios.append([f"{ours} / {theirs}", f"{wanted:g}", spread(found), reached, processor])
    header = ["ratio of requests/s", "at least", "measured", "reached", "of processor"]
    return f"{text}\n\n### targets\n\n{table(header, ratios)}" if ratios else text


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the report on stdout; status 1 when a run failed."""
    parser = argparse.ArgumentParser(prog="python -m contrib.benchmarks.host")
    parser.add_argument("--only", metavar="NAME,...")
    parser.add_argument("--rounds", type=int, choices=range(1, 101), default=7, metavar="N")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one run, at most 30 (2)")
    parser.add_argument("--conns", type=int, default=32, help="kept connections (32)")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args(argv)
    rows = _rows()
    if options.list:
        print("\n".join(row.name for row in rows))
        return 0
    if options.only:
        rows = [row for row in rows if row.name in options.only.split(",")]
    exit_on_terminate()
    server_core = cores()[0]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench")))
        folder.chmod(0o755)
        (folder / "file.bin").write_bytes(os.urandom(SIZE))
        wrk = find_program("wrk", "apt-get install wrk")
        for row, port in zip(rows, free_ports(len(rows)), strict=True):
            row.port = port
            environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
            try:
                row.process = Process(
                    row.launch(port, folder),
                    core=server_core,
                    log=folder / f"{row.name}.log",
                    cwd=ROOT,
                    environ={**environ, "PYTHONPATH": str(ROOT)},
                )
            except Missing as error:
                progress(f"{row.name}: {error}")
                continue
            stack.callback(row.process.stop)
            wait_until(functools.partial(_answers, row), row.process)
        running = [row for row in rows if row.process is not None]
        for number in range(options.rounds):
            progress(f"round {number + 1} of {options.rounds}")
            for row in running if number % 2 == 0 else reversed(running):
                row.runs.append(measure(row, wrk, min(options.seconds, 30.0), options.conns))
                progress(f"  {row.name}: {row.runs[-1].rate:.0f}/s {row.runs[-1].complaint}")
    print(f"{machine()}. {options.rounds} rounds, {options.conns} kept connections.\n")
    print(report(running))
    return 1 if any(run.failed for row in running for run in row.runs) else 0


if __name__ == "__main__":
    sys.exit(main())
