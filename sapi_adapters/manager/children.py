"""A worker process: as the master sees it, and as it sees itself."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, NoReturn

from .policy import LEAVING, READY, STARTING, View
from .scoreboard import Scoreboard, Slot

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

MISTAKE = 2
"""Exit status of a worker that met a mistake of the operator: starting another is of no use."""
BROKEN = 3
"""Exit status of a worker whose application could not be imported or refused to start."""

_MANAGED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCHLD,
)


class Terminated(BaseException):
    """Raised in a worker's main thread by TERM and INT: it ends now, running only its shutdown."""


class Child:
    """One worker as the master sees it."""

    def __init__(self, number: int, generation: int, pid: int, pipe: int, slot: Slot) -> None:
        self.number = number
        self.generation = generation
        self.pid = pid
        self.pipe = pipe
        self.slot = slot
        self.state = STARTING
        self.since = self.started = time.monotonic()
        self.told = ""
        self.failure = ""
        """Why it could not start, in its own words."""
        self.index = -1
        """The number of its slot."""

    def view(self, now: float) -> View:
        """Return what :func:`~sapi_adapters.manager.policy.decide` needs to know."""
        busy = self.slot.busy_since
        if not self.started <= busy <= now:  # the worker writes it, so it is not trusted
            busy = 0.0
        return View(self.number, self.generation, self.state, self.since, busy, self.told)

    def tell(self, what: str) -> None:
        """Send QUIT, TERM or KILL, and remember it."""
        self.told = what
        self.state = LEAVING
        self.since = time.monotonic()
        try:
            os.kill(self.pid, getattr(signal, f"SIG{what}"))
        except ProcessLookupError:
            pass  # it is dead and not reaped yet


class Worker:
    """This process as a worker. Without a master, *parent* is 0 and *pipe* -1."""

    def __init__(self, number: int = 0, parent: int = 0, pipe: int = -1, slot: Slot | None = None):
        self.number = number
        self.slot = slot if slot is not None else Scoreboard(1).slot(0)
        self._parent = parent
        self._pipe = pipe

    @property
    def has_master(self) -> bool:
        """Whether a master started this process and watches it."""
        return self._parent != 0

    def handle_signals(
        self, stop: Callable[[], None], terminate_now: Callable[[], None] | None = None
    ) -> None:
        """QUIT calls *stop*; TERM and INT call *terminate_now*, or raise :class:`Terminated`.

        A loop that must not be unwound from inside gives *terminate_now*. Reload is the master's.
        """

        def quit_gracefully(number: int, frame: FrameType | None) -> None:
            stop()

        def terminate(number: int, frame: FrameType | None) -> None:
            for late in (signal.SIGTERM, signal.SIGINT):
                signal.signal(late, signal.SIG_IGN)  # once is enough: shutdown is running
            if terminate_now is None:
                raise Terminated
            terminate_now()

        signal.signal(signal.SIGQUIT, quit_gracefully)
        signal.signal(signal.SIGTERM, terminate)
        signal.signal(signal.SIGINT, terminate)
        for ignored in (signal.SIGHUP, signal.SIGUSR2):
            signal.signal(ignored, signal.SIG_IGN)
        # Apache and spawners without a master of ours use USR1 for "end gently".
        signal.signal(signal.SIGUSR1, signal.SIG_IGN if self.has_master else quit_gracefully)

    def ready(self, how: str) -> None:
        """Tell the master that this worker accepts, and *how* it serves, for the log."""
        if self._pipe >= 0:
            try:
                os.write(self._pipe, b"R" + how.encode())
            except OSError:
                pass  # the master is dead: the next tick notices

    def failed(self, why: str) -> None:
        """Tell the master why this worker cannot start; it says so once for all of them."""
        if self._pipe < 0:
            sys.stderr.write(f"{why}\n")
            return
        try:
            os.write(self._pipe, b"F" + why.encode("utf-8", "backslashreplace")[-60000:])
        except OSError:
            pass

    def reload_all(self) -> None:
        """Ask the master for a reload."""
        if self._parent:
            os.kill(self._parent, signal.SIGHUP)

    def tick(self) -> bool:
        """Return False once the master is dead: nobody would end this worker otherwise."""
        return self._parent == 0 or os.getppid() == self._parent

    def exit(self, status: int) -> NoReturn:
        """End the process here, whatever called it: the caller's code is the master's to run."""
        try:
            atexit._run_exitfuncs()
        except BaseException as error:
            sys.stderr.write(f"error at exit: {error!r}\n")
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                pass
        os._exit(status)


def fork(number: int, generation: int, slot: Slot) -> Child | Worker:
    """Fork; return the :class:`Child` in the master and the :class:`Worker` in the child.

    Signals are blocked across the fork, so that none of them meets the master's handlers in the
    child; until the worker has its own, TERM and INT end it as they end any process.
    """
    ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    master = os.getpid()
    slot.clear()
    signal.pthread_sigmask(signal.SIG_BLOCK, _MANAGED)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _MANAGED)
        os.close(theirs)
        return Child(number, generation, pid, ours, slot)
    os.close(ours)
    signal.set_wakeup_fd(-1)
    for managed in _MANAGED:
        signal.signal(managed, signal.SIG_DFL)
    for masters in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(masters, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _MANAGED)
    atexit._clear()  # what the master registered is the master's
    return Worker(number, master, theirs, slot)


__all__ = ["BROKEN", "MISTAKE", "READY", "Child", "Terminated", "Worker", "fork"]
