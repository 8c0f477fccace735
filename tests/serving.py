"""Starts ``python -m sapi_adapters`` for tests, and ends what it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class Served:
    """A running server: its process, its standard error, its address."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, address: object) -> None:
        self.process = process
        self.log = log
        self.address = address

    @property
    def text(self) -> str:
        """What it wrote on standard error so far."""
        return self.log.read_text(errors="replace")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self, seconds: float = 15.0) -> int:
        """Return its exit status."""
        return self.process.wait(seconds)

    def workers(self) -> list[int]:
        """Return the pids of its children."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]


def until(condition: Callable[[], object], seconds: float = 15.0, what: str = "") -> None:
    """Wait until *condition* holds; fail after *seconds*."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what or condition}"
        time.sleep(0.02)


@contextmanager
def serving(
    tmp_path: Path, app: str, *options: str, path: Path | None = None, ready: bool = True
) -> Iterator[Served]:
    """Serve *app* with *options*; without --bind or --fd on a Unix socket in *tmp_path*."""
    address = str(tmp_path / "app.sock")
    if not {"--bind", "--fd", "--socket"} & set(options):
        options = ("--socket", address, *options)
    log = tmp_path / "stderr.log"
    environ = {**os.environ, "PYTHONPATH": f"{path or Path(__file__).parent / 'servers'}"}
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "sapi_adapters", app, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environ,
            cwd=tmp_path,
        )
    served = Served(process, log, address)
    try:
        if ready:
            until(
                lambda: "worker" in served.text or process.poll() is not None, what="the start-up"
            )
            assert process.poll() is None, served.text
        yield served
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                for pid in [*served.workers(), process.pid]:
                    os.kill(pid, signal.SIGKILL)
                process.wait(10)
        printed = process.stdout.read() if process.stdout else b""
        if process.stdout:
            process.stdout.close()
        assert printed == b"", "a server prints nothing on standard output"
