"""What the benchmarks share: cores, processes, processor time, ratios and tables.

Nothing here knows a protocol or a peer.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent


class Missing(Exception):
    """Something a measurement needs is not installed; the message says how to get it."""


def find_program(name: str, install: str) -> str:
    """Return a program's path: beside this interpreter first, then on PATH.

    Raises Missing with `install`, the command that installs it.
    """
    beside = Path(sys.executable).parent / name
    if beside.is_file() and os.access(beside, os.X_OK):
        return str(beside)
    # Debian keeps servers where an ordinary user's PATH does not look.
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin"
    found = shutil.which(name, path=path)
    if found is None:
        raise Missing(f"{name}: {install}")
    return found


# Cores.


def cores() -> tuple[int, int, int]:
    """Return the cores for the measured process, the client and nginx, equal where few."""
    usable = sorted(os.sched_getaffinity(0))
    server = usable[0]
    client = usable[1] if len(usable) > 1 else server
    front = usable[2] if len(usable) > 2 else client
    return server, client, front


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """Run the block on one core; a process started in it inherits that, and so do its threads."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# Processes.


def cpu_seconds(pid: int) -> float:
    """Processor time of a live process with all its threads, those that ended included.

    The clock is what clock_getcpuclockid(3) returns on Linux: nanoseconds, where /proc/PID/stat has
    ticks of 10 ms, far too coarse for a run of half a second.
    """
    return time.clock_gettime(~pid << 3 | 2)


def core_seconds(core: int) -> float:
    """Seconds that one core has been busy, with whatever and whoever; 0 where it is not told.

    Time that a hypervisor gave to another machine counts: it was not there for us either.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/stat").read_text().splitlines():
            if line.startswith(f"cpu{core} "):
                user, nice, system, _idle, _wait, *rest = map(int, line.split()[1:9])
                return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")
    return 0.0


def descendants(pid: int) -> list[int]:
    """Return `pid` and every process under it."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


class Process:
    """A server under measurement: started on one core, in a group of its own, ended by `stop`."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        core: int,
        log: Path,
        cwd: Path,
        environ: Mapping[str, str],
        stop_signal: int = signal.SIGTERM,
    ) -> None:
        self.log = log
        self.stop_signal = stop_signal
        with pinned(core), log.open("wb") as output:
            self.popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=dict(environ),
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether the process that was started still lives."""
        return self.popen.poll() is None

    def cpu(self) -> dict[int, float]:
        """Processor seconds so far, for each process of the tree."""
        times: dict[int, float] = {}
        for pid in descendants(self.popen.pid):
            with contextlib.suppress(OSError):
                times[pid] = cpu_seconds(pid)
        return times

    def tail(self, size: int = 600) -> str:
        """Return the end of what it wrote."""
        return self.log.read_text(errors="replace")[-size:].strip()

    def stop(self, grace: float = 5.0) -> None:
        """Ask it to end; after `grace` seconds kill it and what it started."""
        tree = descendants(self.popen.pid) if self.running else [self.popen.pid]
        if self.running:
            self.popen.send_signal(self.stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(grace)
        # The group is ours alone. A master that died early may have left workers in it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(tree[0], signal.SIGKILL)
        self.popen.wait(grace)


def wait_until(ready: Callable[[], bool], process: Process, timeout: float = 20.0) -> None:
    """Wait for `ready`, at most `timeout` seconds. Raises RuntimeError with what it wrote."""
    deadline = time.monotonic() + timeout
    while not ready():
        if not process.running:
            raise RuntimeError(f"ended with status {process.popen.returncode}: {process.tail()}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"not ready after {timeout:g} s: {process.tail()}")
        time.sleep(0.05)


def exit_on_terminate() -> None:
    """Let SIGTERM unwind the stack, so that the servers that were started are stopped."""

    def leave(signum: int, frame: object) -> None:
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, leave)


# Figures.


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median with least and greatest, as in '0.68 (0.66..0.71)'."""
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f}..{max(values):.{digits}f})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table: the first column to the left, figures to the right."""
    widths = [max(len(line[column]) for line in [header, *rows]) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * width if column == 0 else "-" * (width - 1) + ":"
        for column, width in enumerate(widths)
    ]
    return "\n".join([line(header), line(rule), *(line(row) for row in rows)])


def machine() -> str:
    """One line about where the figures come from: kernel, processor, interpreter."""
    processor = "unknown processor"
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    release = os.uname().release.partition("-")[0]
    python = ".".join(map(str, sys.version_info[:3]))
    return (
        f"Linux {release}, {processor}, {len(os.sched_getaffinity(0))} cores, "
        f"{sys.implementation.name} {python}"
    )


def progress(message: str, stream: IO[str] | None = None) -> None:
    """Say on stderr what is being done, so that stdout holds only the table."""
    print(message, file=stream or sys.stderr, flush=True)
