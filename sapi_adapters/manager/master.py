"""The master process: forks workers, watches them, acts on signals. It serves nothing itself.

It knows nothing of protocols, gateways or adapters: :meth:`Master.run` returns in a child with
its :class:`~sapi_adapters.manager.children.Worker`, and in the master with an exit status. What
is to be done is decided in policy.py; signal handlers only note the signal.

======== ======================================================================================
signal   effect on the master
======== ======================================================================================
INT TERM fast stop: workers end now
QUIT     graceful stop: workers finish their requests
HUP USR2 graceful reload: a new generation of workers is started; when all of it is ready, the
USR1     old one finishes its requests and leaves; when it fails, the old one goes on. The logs
         are opened again first, which is what USR1 is for
CHLD     a worker ended; it is replaced
======== ======================================================================================
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from .children import BROKEN, MISTAKE, READY, Child, Worker, fork
from .policy import Promote, Snapshot, Spawn, Tell, decide
from .scoreboard import Scoreboard

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from .policy import Settings

_RELOAD = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_FAST = (signal.SIGINT, signal.SIGTERM)


class Master:
    """Keeps *settings.workers* workers running. *log* takes a message and its level."""

    def __init__(
        self,
        settings: Settings,
        log: Callable[[str, str], None],
        ready: Callable[[str], None] = lambda how: None,
        reopen: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._log = log
        self._ready = ready
        self._reopen = reopen
        self._children: dict[int, Child] = {}
        # Three generations may be alive at a time: the new, the serving and a leaving one.
        self._slots = Scoreboard(settings.workers * 4 + 4)
        self._free = list(range(settings.workers * 4 + 4))
        self._number = 0
        self._generation = self._next = 1
        self._failures = 0
        self._last_failure = 0.0
        self._stopping = ""
        self._status = 0
        self._announced = False
        self._noted: list[int] = []

    def run(self) -> Worker | int:
        """Run until stopped; return the exit status, or in each forked child its worker."""
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        before = self._handle_signals(writer)
        try:
            while True:
                self._act_on_signals()
                self._reap()
                worker = self._act()
                if worker is not None:
                    for child in self._children.values():
                        os.close(child.pipe)
                    os.close(reader)
                    os.close(writer)
                    return worker
                if self._stopping and not self._children:
                    break
                self._wait(reader)
        except BaseException:
            for child in self._children.values():
                child.tell("KILL")
            raise
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)
        return self._status

    def _handle_signals(self, writer: int) -> dict[int, Any]:
        def note(number: int, frame: FrameType | None) -> None:
            self._noted.append(number)

        before: dict[int, Any] = {}
        for number in (*_RELOAD, *_FAST, signal.SIGQUIT, signal.SIGCHLD):
            before[number] = signal.signal(number, note)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        return before

    def _act_on_signals(self) -> None:
        noted, self._noted = self._noted, []
        if any(number in _FAST for number in noted):
            if self._stopping != "fast":
                self._log("terminating", "notice")
            self._stopping = "fast"
        elif signal.SIGQUIT in noted and not self._stopping:
            self._log("finishing: workers end after their requests", "notice")
            self._stopping = "graceful"
        elif any(number in _RELOAD for number in noted) and not self._stopping:
            if self._next != self._generation:
                self._drop_next()  # a newer reload replaces one that is under way
            self._next = max(self._next, self._generation) + 1
            self._failures = 0
            try:
                self._reopen()
            except Exception as error:
                self._log(f"the logs cannot be opened again: {error}", "error")
            self._log(f"reloading: generation {self._next}", "notice")

    def _act(self) -> Worker | None:
        """Do what the policy decides; return the worker in a child that was forked for it."""
        now = time.monotonic()
        snapshot = Snapshot(
            self._generation,
            self._next,
            [child.view(now) for child in self._children.values()],
            self._failures,
            self._last_failure,
            self._stopping,
        )
        for action in decide(self._settings, snapshot, now):
            if isinstance(action, Spawn):
                worker = self._spawn(action.generation)
                if worker is not None:
                    return worker
            elif isinstance(action, Promote):
                self._generation = self._next
                self._log(f"generation {self._generation} serves", "notice")
                return self._act()
            elif isinstance(action, Tell):
                child = next(c for c in self._children.values() if c.number == action.number)
                if action.why:
                    level = "debug" if action.what == "QUIT" else "warning"
                    self._log(f"worker {child.pid}: {action.why}: {action.what}", level)
                child.tell(action.what)
        return None

    def _spawn(self, generation: int) -> Worker | None:
        if not self._free:
            return None
        self._number += 1
        index = self._free.pop()
        try:
            process = fork(self._number, generation, self._slots.slot(index))
        except OSError as error:
            self._free.append(index)
            self._failures += 1
            self._last_failure = time.monotonic()
            self._log(f"fork: {error.strerror}", "error")
            return None
        if isinstance(process, Worker):
            return process
        process.index = index
        self._children[process.pid] = process
        return None

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._children.pop(pid, None)
            if child is None:
                self._log(f"reaped process {pid}, which is not a worker", "debug")
                continue
            self._read_pipe(child)
            os.close(child.pipe)
            self._free.append(child.index)
            self._judge(child, os.waitstatus_to_exitcode(status))

    def _judge(self, child: Child, code: int) -> None:
        """Note how a worker ended: as it was told, by itself, or badly."""
        how = f"exited with status {code}" if code >= 0 else f"was killed by {_signal_name(-code)}"
        lived = time.monotonic() - child.started
        if child.told or self._stopping:
            self._log(f"worker {child.pid} {how} after {lived:.1f} s", "debug")
            return
        if child.state == READY and lived > 1.0:
            level = "notice" if code == 0 else "warning"
            self._log(f"worker {child.pid} {how} after {lived:.1f} s", level)
            return
        if child.state == READY and code == 0:
            return  # it served its max_requests quickly
        self._failures += 1
        self._last_failure = time.monotonic()
        if child.generation != self._generation:
            if child.failure:
                sys.stderr.write(f"{child.failure}\n")
            self._log(
                f"reload failed: worker {child.pid} {how} before it was ready;"
                f" generation {self._generation} goes on serving",
                "error",
            )
            self._drop_next()
            self._next = self._generation
            self._failures = 0
        elif code in (MISTAKE, BROKEN) and not self._announced:
            if not self._stopping:
                sys.stderr.write(f"{child.failure}\n")
            self._stopping = "fast"  # the next worker would say the same
            self._status = MISTAKE if code == MISTAKE else 1
        else:
            if child.failure:
                sys.stderr.write(f"{child.failure}\n")
            self._log(f"worker {child.pid} {how} before it was ready", "error")

    def _drop_next(self) -> None:
        for child in self._children.values():
            if child.generation == self._next and not child.told:
                child.tell("TERM")

    def _wait(self, reader: int) -> None:
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        starting = {c.pipe: c for c in self._children.values() if c.state not in (READY,)}
        for pipe in starting:
            poll.register(pipe, select.POLLIN)
        for fd, _ in poll.poll(self._pause() * 1000):
            if fd == reader:
                try:
                    os.read(reader, 4096)
                except BlockingIOError:
                    pass
            elif fd in starting:
                self._read_pipe(starting[fd])

    def _pause(self) -> float:
        """Return how long nothing can be due, in seconds."""
        busy = any(child.told for child in self._children.values())
        return 0.1 if busy or self._failures or self._settings.request_timeout else 1.0

    def _read_pipe(self, child: Child) -> None:
        try:
            data = os.read(child.pipe, 65536)
        except BlockingIOError:
            return
        if data[:1] == b"F":
            child.failure = data[1:].decode("utf-8", "replace")
        elif data[:1] == b"R" and child.state != READY and not child.told:
            child.state = READY
            child.since = time.monotonic()
            if child.generation == self._next:
                self._failures = 0
            if not self._announced:
                self._announced = True
                self._ready(data[1:].decode())


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
