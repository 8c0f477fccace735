"""Large bodies: how much a worker grows while a gibibyte goes through it.

    python -m contrib.benchmarks.memory [--size MIB] [--limit MIB] [--only NAME,...]

Each server gets one request with a body of `--size` MiB, then one that answers as much, from a
FastCGI client that shares no code with the project. Before each, the kernel's high-water mark of
resident memory is reset in every process of the server; after it, the mark minus what was resident
before is what the transfer cost. The exit status is 1 when that is `--limit` MiB or more.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contrib.benchmarks import fcgi_client
from contrib.benchmarks.measure import (
    ROOT,
    Process,
    cores,
    descendants,
    exit_on_terminate,
    machine,
    pinned,
    progress,
    table,
    wait_until,
)

MIB = 1 << 20
TRANSFER = "contrib.benchmarks.apps.transfer"

# Name, SAPI, application.
SERVERS = [
    ("prefork-wsgi", "fcgi-prefork", f"{TRANSFER}:wsgi"),
    ("threaded-wsgi", "fcgi-threaded", f"{TRANSFER}:wsgi"),
    ("event-asgi", "fcgi-prefork", f"{TRANSFER}:asgi"),
]


@dataclass(frozen=True)
class Outcome:
    """What one transfer did to the process that grew most."""

    resident: int
    growth: int
    seconds: float


def status_kib(pid: int, name: str) -> int:
    """Return a figure of /proc/PID/status, in KiB; 0 when the process is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
    return 0


def reset_high_water(pid: int) -> None:
    """Set VmHWM back to VmRSS (proc(5), clear_refs); where that is refused, it stays as it was."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def transfer(socket: str, up: int, down: int, timeout: float) -> None:
    """Move the bytes through one request and see that all arrived. Raises ClientError."""
    path = f"/down/{down}" if down else "/up"
    params = fcgi_client.parameters(path, up)
    answer = fcgi_client.request(socket, params, up, timeout=timeout, keep=4096)
    if answer.status != 200:
        raise fcgi_client.ClientError(f"status {answer.status}: {answer.stderr[-400:]!r}")
    arrived = answer.body_size if down else int(answer.body)
    if arrived != up + down:
        raise fcgi_client.ClientError(f"{arrived} of {up + down} bytes arrived")


def measure(process: Process, socket: str, up: int, down: int, timeout: float) -> Outcome:
    """Make one transfer and see what it did to the server's processes."""
    tree = descendants(process.popen.pid)
    for pid in tree:
        reset_high_water(pid)
    before = {pid: status_kib(pid, "VmRSS") for pid in tree}
    begin = time.perf_counter()
    transfer(socket, up, down, timeout)
    seconds = time.perf_counter() - begin
    growth = {
        pid: status_kib(pid, "VmHWM") - before.get(pid, 0) for pid in descendants(process.popen.pid)
    }
    most = max(growth, key=lambda pid: growth[pid])
    return Outcome(before.get(most, 0) * 1024, growth[most] * 1024, seconds)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m contrib.benchmarks.memory",
        description="Move large bodies through each FastCGI server and watch its resident memory.",
    )
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="each way (1024)")
    parser.add_argument("--limit", type=int, default=16, metavar="MIB", help="growth allowed (16)")
    parser.add_argument("--timeout", type=float, default=300, help="for one transfer, s (300)")
    parser.add_argument("--only", metavar="NAME,...", help="these of " + _names())
    options = parser.parse_args(argv)
    if not 1 <= options.size <= 65536 or options.limit < 1 or not 0 < options.timeout <= 3600:
        parser.error("1 to 65536 MiB, a limit of at least 1 MiB, at most 3600 s")
    for name in (options.only or "").split(","):
        if name and name not in _names().split(", "):
            parser.error(f"no server is called {name!r}; there are {_names()}")
    return options


def _names() -> str:
    return ", ".join(name for name, _, _ in SERVERS)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table on stdout, return 1 when a server grew too much or failed."""
    options = arguments(argv)
    if importlib.util.find_spec("sapi_adapters") is None:
        print("missing: sapi_adapters: pip install .", file=sys.stderr)
        return 1
    exit_on_terminate()
    wanted = options.only.split(",") if options.only else None
    rows: list[list[str]] = []
    failures: list[str] = []
    size, limit = options.size * MIB, options.limit * MIB
    server_core, client_core, _ = cores()
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    with tempfile.TemporaryDirectory(prefix="bench") as directory:
        # A server may put a large body into a file; that file is to go with the directory.
        environ |= {"PYTHONPATH": str(ROOT), "TMPDIR": directory}
        for name, sapi, application in SERVERS:
            if wanted is not None and name not in wanted:
                continue
            socket = f"{directory}/{name}.sock"
            options_here = ["--sapi", sapi, "--socket", socket, "--workers", "1"]
            process = Process(
                [sys.executable, "-m", "sapi_adapters", application, *options_here],
                core=server_core,
                log=Path(directory, f"{name}.log"),
                cwd=ROOT,
                environ=environ,
            )
            try:
                wait_until(functools.partial(_answers, socket), process)
                for way, up, down in (("up", size, 0), ("down", 0, size)):
                    progress(f"{name}: {options.size} MiB {way}")
                    with pinned(client_core):
                        outcome = measure(process, socket, up, down, options.timeout)
                    rows.append(
                        [
                            f"{name}, {way}",
                            f"{outcome.resident / MIB:.1f}",
                            f"{outcome.growth / MIB:.1f}",
                            f"{size / MIB / outcome.seconds:.0f}",
                            "yes" if outcome.growth < limit else "NO",
                        ]
                    )
                    if outcome.growth >= limit:
                        failures.append(f"{name}, {way}: grew by {outcome.growth / MIB:.1f} MiB")
            except (OSError, RuntimeError, ValueError, fcgi_client.ClientError) as error:
                failures.append(f"{name}: {error}\n{process.tail()}")
            finally:
                process.stop()
    print(f"{machine()}. {options.size} MiB each way.\n")
    header = ["transfer", "resident MiB", "grew by MiB", "MiB/s", f"under {options.limit} MiB"]
    print(table(header, rows))
    for failure in failures:
        print(f"\n{failure}")
    return 1 if failures else 0


def _answers(socket: str) -> bool:
    """Whether the server serves, with the first megabyte each way behind it."""
    try:
        transfer(socket, MIB, 0, 5)
        transfer(socket, 0, MIB, 5)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
