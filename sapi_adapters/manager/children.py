"""A worker process: as the master sees it, and as it sees itself.

Between the two is a pair of sockets that keep messages apart. The worker says, each in one
message: ``R`` it accepts, ``F`` it cannot start and why, ``N`` its last requests are near, ``A``
it asks for a reload, ``D`` how many lines of its logs were lost. The master says ``L`` and gives
the logs' new descriptors with it.
"""

from __future__ import annotations

import array
import atexit
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

from . import slowlog
from .policy import LEAVING, READY, STARTING, View
from .scoreboard import FINISHING, RUNNING, Scoreboard, Slot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from .log import WorkerOutput

MISTAKE = 2
"""Exit status of a worker that met a mistake of the operator: starting another is of no use."""
BROKEN = 3
"""Exit status of a worker whose application could not be imported or refused to start."""
OWN_TIMEOUT_PATIENCE = 2.0
"""Seconds that a worker which ends late requests by itself is given to do so."""

_MESSAGE = 65536
_MESSAGES = 100
"""Messages of one worker that are taken at a time."""
_PACKETS = getattr(socket, "SOCK_SEQPACKET", socket.SOCK_DGRAM)
if sys.platform == "darwin":
    _PACKETS = socket.SOCK_DGRAM
_PAGE = os.sysconf("SC_PAGE_SIZE")

MANAGED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGCHLD,
)


class Terminated(BaseException):
    """Raised in a worker's main thread by TERM and INT: it ends now, running only its shutdown."""


class Child:
    """One worker as the master sees it."""

    def __init__(
        self,
        number: int,
        generation: int,
        pid: int,
        link: socket.socket,
        slot: Slot,
        index: int,
        started: float | None = None,
    ) -> None:
        self.number = number
        self.generation = generation
        self.pid = pid
        self.link = link
        self.slot = slot
        self.index = index
        """The number of its slot."""
        self.state = STARTING
        self.since = self.started = time.monotonic() if started is None else started
        self.told = ""
        self.why = ""
        self.failure = ""
        """Why it could not start, in its own words."""
        self.how = ""
        """How it serves, in its own words."""
        self.retiring = ""
        self.patience = 0.0
        self.memory = self.first_memory = 0
        self.trace_fd = -1
        """Where the stacks come that it is asked for."""
        self.readers: list[tuple[int, str]] = []
        """Where comes what it prints: open descriptors, and ``"stdout"`` or ``"stderr"``."""
        self.outputs: dict[int, WorkerOutput] = {}
        """Those of them that are listened to, and what takes it."""
        self.dropped = 0
        """Lines of logs that it could not write, in its own count."""
        self.traced: set[tuple[int, int]] = set()
        """Entry and number of the requests whose stacks were asked for."""

    def view(self, now: float, finishing: bool = False) -> View:
        """Return what :func:`~sapi_adapters.manager.policy.decide` needs to know.

        *finishing* counts requests whose response is complete as running. What the worker wrote
        is not trusted: a time counts only between its start and *now*.
        """
        last = FINISHING if finishing else FINISHING - 1
        busy, slow, active, activity = 0.0, 0.0, 0, self.started
        for index, (stage, begun, began, ended) in enumerate(self.slot.times()):
            for moment in (began, ended):
                if activity < moment <= now:
                    activity = moment
            if not RUNNING <= stage <= FINISHING:
                continue
            active += 1
            if stage <= last and self.started <= began <= now:
                busy = min(busy or now, began)
                if (index, begun) not in self.traced:
                    slow = min(slow or now, began)
        return View(
            self.number,
            self.generation,
            self.state,
            self.since,
            told=self.told,
            idle=active < self.slot.capacity,
            busy_since=busy,
            slow_since=slow,
            patience=self.patience,
            last_activity=activity,
            memory=self.memory,
            first_memory=self.first_memory,
            retiring=self.retiring,
        )

    def tell(self, what: str, *, send: bool = True) -> None:
        """Send QUIT, TERM or KILL, and remember it; without *send* that is still to be done."""
        self.told = what
        self.state = LEAVING
        self.since = time.monotonic()
        if send:
            self.signal(getattr(signal, f"SIG{what}"))

    def close(self) -> None:
        """Close the master's descriptors of it."""
        self.link.close()
        for fd in (self.trace_fd, *(fd for fd, _ in self.readers)):
            if fd >= 0:
                os.close(fd)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass  # it is dead and not reaped yet

    def give(self, descriptors: Sequence[int]) -> None:
        """Hand the worker the logs' new *descriptors*; it takes them at USR1."""
        rights = array.array("i", descriptors)
        try:
            self.link.sendmsg([b"L"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        except OSError:
            return  # it is dead, or it has not taken the last ones
        self.signal(signal.SIGUSR1)

    def messages(self) -> list[bytes]:
        """Return what it said since the last time, and ``b""`` when it says no more."""
        found: list[bytes] = []
        try:
            while len(found) < _MESSAGES and (not found or found[-1]):
                found.append(self.link.recv(_MESSAGE))
        except BlockingIOError:
            pass
        except OSError:
            found.append(b"")
        return found

    def is_ready(self, message: bytes) -> bool:
        """Take its word that it accepts; False for words that no worker of ours says."""
        own, _, rest = message[1:].partition(b" ")
        capacity, _, how = rest.partition(b" ")
        if not (capacity.isdigit() and len(capacity) < 9):
            return False
        self.patience = OWN_TIMEOUT_PATIENCE if own == b"1" else 0.0
        self.slot.set_capacity(int(capacity))
        self.how = how.decode("utf-8", "replace")
        if not self.told:
            self.state = READY
            self.since = time.monotonic()
            self.first_memory = resident(self.pid)
        return True

    def show(self) -> None:
        """Show it in the scoreboard, with its resident size."""
        self.memory = resident(self.pid)
        leaving = bool(self.told or self.retiring)
        epoch = time.time() - (time.monotonic() - self.started)
        self.slot.write_head(
            self.pid, self.number, self.generation, leaving, self.started, epoch, self.memory
        )


class Worker:
    """This process as a worker. Without a master, *parent* is 0 and *link* None."""

    def __init__(
        self,
        number: int = 0,
        parent: int = 0,
        link: socket.socket | None = None,
        slot: Slot | None = None,
    ) -> None:
        self.number = number
        self.slot = slot
        """Its part of the scoreboard; None without a master."""
        self.boards: dict[str, Scoreboard] = {}
        """Those of all pools, by name."""
        self.service: Any = None
        """What the master was given for this worker's pool."""
        self.started = time.monotonic()
        self.trace_fd = -1
        """Where the master reads the stacks it asks for; -1 when it asks for none."""
        self.dropped: Callable[[], int] = lambda: 0
        """How many lines of logs could not be written."""
        self._said_dropped = 0
        self._own: Scoreboard | None = None
        self.reopened: Callable[[list[int]], None] = lambda descriptors: None
        """Takes over the logs' new descriptors."""
        self._parent = parent
        self._link = link

    @property
    def has_master(self) -> bool:
        """Whether a master started this process and watches it."""
        return self._parent != 0

    def handle_signals(
        self, stop: Callable[[], None], terminate_now: Callable[[], None], *, unwind: bool = True
    ) -> None:
        """QUIT calls *stop*; TERM and INT call *terminate_now*, then raise :class:`Terminated`.

        A loop that must not be unwound from inside gives *unwind* False. Reload is the master's.
        """

        def quit_gracefully(number: int, frame: FrameType | None) -> None:
            stop()

        def terminate(number: int, frame: FrameType | None) -> None:
            for late in (signal.SIGTERM, signal.SIGINT):
                signal.signal(late, signal.SIG_IGN)  # once is enough: shutdown is running
            terminate_now()
            if unwind:
                raise Terminated

        def take_logs(number: int, frame: FrameType | None) -> None:
            self._take_logs()

        signal.signal(signal.SIGQUIT, quit_gracefully)
        signal.signal(signal.SIGTERM, terminate)
        signal.signal(signal.SIGINT, terminate)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        # Apache and spawners without a master of ours use USR1 for "end gently".
        signal.signal(signal.SIGUSR1, take_logs if self.has_master else quit_gracefully)
        if not self.has_master:
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)

    def show_alone(self, pool: str, board: Scoreboard) -> None:
        """Show this process, which has no master, in *board*, as the only worker of *pool*."""
        self.boards[pool] = self._own = board
        self.slot = board.slot(0)
        board.head.started, board.head.started_clock = time.time(), self.started
        self._show()

    def _show(self) -> None:
        """Do for itself what a master does each second."""
        if self._own is None or self.slot is None:
            return
        memory, epoch = resident(os.getpid()), time.time() - (time.monotonic() - self.started)
        head = self._own.head
        head.memory_peak = max(head.memory_peak, memory)
        head.max_active = max(head.max_active, self.slot.active() >= self.slot.capacity)
        head.dropped = self.dropped()
        self._own.publish()
        self.slot.write_head(os.getpid(), 1, 1, False, self.started, epoch, memory)

    def _take_logs(self) -> None:
        if self._link is None:
            return
        try:
            _, found, _, _ = socket.recv_fds(self._link, 16, 8, socket.MSG_DONTWAIT)
        except OSError:
            return
        self.reopened(found)

    def _say(self, message: bytes) -> None:
        if self._link is not None:
            try:
                self._link.send(message)
            except OSError:
                pass  # the master is dead: the next tick notices

    def ready(self, how: str, *, capacity: int = 1, own_timeouts: bool = False) -> None:
        """Tell the master that this worker accepts, and *how* it serves, for the log.

        It serves *capacity* requests at a time. With *own_timeouts* it ends requests that take
        too long by itself.
        """
        self._say(b"R%d %d %b" % (own_timeouts, capacity, how.encode()))

    def failed(self, why: str) -> None:
        """Tell the master why this worker cannot start; it says so once for all of them."""
        if self._link is None:
            sys.stderr.write(f"{why}\n")
        else:
            self._say(b"F" + why.encode("utf-8", "backslashreplace")[-60000:])

    def last_requests(self) -> None:
        """Tell the master that this worker leaves soon, so that another is ready by then."""
        self._say(b"N")

    def reload_all(self) -> None:
        """Ask the master for a reload."""
        self._say(b"A")

    def tick(self) -> bool:
        """Return False once the master is dead: nobody would end this worker otherwise."""
        self._show()
        dropped = self.dropped()
        if dropped != self._said_dropped:
            self._said_dropped = dropped
            self._say(b"D%d" % dropped)
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


def fork(
    number: int,
    generation: int,
    board: Scoreboard,
    index: int,
    *,
    catch: bool | None = None,
    trace: bool = False,
) -> Child | Worker:
    """Fork; return the :class:`Child` in the master and the :class:`Worker` in the child.

    *catch* is what becomes of the worker's output: the master reads it, nobody does, or None, it
    goes where the master's goes. *trace* gives it a pipe for stacks.

    Signals are blocked across the fork, so that none of them meets the master's handlers in the
    child; until the worker has its own, TERM and INT end it as they end any process.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, _PACKETS)
    ours.setblocking(False)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * _MESSAGE)
    theirs.setblocking(False)
    master = os.getpid()
    slot = board.slot(index)
    pipes: list[tuple[int, int]] = []
    tracing = (-1, -1)
    try:
        for _ in range(2 if catch else 0):
            pipes.append(os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
        if trace:
            tracing = slowlog.open_pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, MANAGED)
        pid = os.fork()
    except OSError:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, MANAGED)
        ours.close()
        theirs.close()
        for fd in (*(fd for pipe in pipes for fd in pipe), *tracing):
            if fd >= 0:
                os.close(fd)
        raise
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, MANAGED)
        theirs.close()
        child = Child(number, generation, pid, ours, slot, index)
        child.readers = list(
            zip((reader for reader, _ in pipes), ("stdout", "stderr"), strict=False)
        )
        child.trace_fd = tracing[0]
        for fd in (*(writer for _, writer in pipes), tracing[1]):
            if fd >= 0:
                os.close(fd)
        child.show()
        return child
    ours.close()
    # With a reading end of its own a worker would wait for ever once its master is dead.
    for fd in (*(reader for reader, _ in pipes), tracing[0]):
        if fd >= 0:
            os.close(fd)
    if catch is not None:
        _redirect_output([writer for _, writer in pipes])
    signal.set_wakeup_fd(-1)
    for managed in MANAGED:
        signal.signal(managed, signal.SIG_DFL)
    for masters in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(masters, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, MANAGED)
    atexit._clear()  # what the master registered is the master's
    worker = Worker(number, master, theirs, slot)
    worker.trace_fd = tracing[1]
    return worker


def _redirect_output(writers: list[int]) -> None:
    """Let descriptors 1 and 2 lead to the master, or nowhere. A full pipe holds the writer."""
    null = os.open(os.devnull, os.O_WRONLY)
    for number, writer in zip((1, 2), writers or (null, null), strict=True):
        os.set_blocking(writer, True)
        os.dup2(writer, number)
    for fd in {null, *writers}:
        os.close(fd)


def resident(pid: int) -> int:
    """Return the resident bytes of process *pid*, 0 where that cannot be known."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


__all__ = ["BROKEN", "MISTAKE", "READY", "Child", "Terminated", "Worker", "fork"]
