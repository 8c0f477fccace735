"""Child processes of the interop tests: started, waited for with a deadline, ended by their pid.

Every process gets a session of its own, so that what it forked can be ended with it, and a log file
that the tests show when they fail.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

START_DEADLINE = 30.0
STOP_DEADLINE = 10.0

_held: list[socket.socket] = []


class StartError(Exception):
    """A server did not come up; the message holds the end of its log."""


def hold_port() -> int:
    """A free TCP port on 127.0.0.1, chosen by the kernel and held until the session ends.

    The socket stays bound, without listening, so the kernel gives the port to nobody else, as the
    source port of some connection neither.  SO_REUSEADDR lets one server listen on it nevertheless;
    it is set after bind(), or the kernel could hand the same port out twice.
    """
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _held.append(holder)
    port: int = holder.getsockname()[1]
    return port


def release_ports() -> None:
    while _held:
        _held.pop().close()


Address = str | tuple[str, int]


def answers(address: Address) -> bool:
    """Whether something accepts connections at a Unix path or a (host, port)."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as probe:
        probe.settimeout(2)
        try:
            probe.connect(address)
        except OSError:
            return False
    return True


def wait_until(condition: Callable[[], bool], what: str, deadline: float = START_DEADLINE) -> None:
    """Wait for `condition`; raise TimeoutError that names `what` after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {deadline:g} seconds")
        time.sleep(0.02)


class Process:
    """One server: its command, its pid, and the files that it logs to."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        more_logs: Sequence[Path] = (),
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.command = list(command)
        self.logs = [log, *more_logs]
        self.stop_signal = stop_signal
        with open(log, "ab") as output:
            self.popen = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if environment is None else dict(environment),
                cwd=cwd,
                start_new_session=True,
            )

    def wait_for(self, *addresses: Address) -> None:
        """Return when every address accepts connections; raise StartError with the log if not."""

        def ready() -> bool:
            if self.popen.poll() is not None:
                raise StartError(self._account(f"ended with status {self.popen.returncode}"))
            return all(answers(address) for address in addresses)

        try:
            wait_until(ready, f"{self.command[0]} listens on {addresses}")
        except TimeoutError as error:
            raise StartError(self._account(str(error))) from None

    def _account(self, what: str) -> str:
        return f"{' '.join(self.command)}\n{what}\n{self.log_text()}"

    def log_text(self, limit: int = 6000) -> str:
        """The ends of all log files, for reports."""
        parts = []
        for log in self.logs:
            if log.exists():
                data = log.read_bytes()[-limit:]
                parts.append(f"--- {log.name}\n{data.decode(errors='replace')}")
        return "\n".join(parts)

    def stop(self) -> int:
        """End the process and whatever it left behind in its session; return its exit status."""
        if self.popen.poll() is None:
            self.popen.send_signal(self.stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(STOP_DEADLINE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        return self.popen.wait(STOP_DEADLINE)
