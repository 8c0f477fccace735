"""One pool as the master sees it: its workers, its generations, what becomes of them."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from .children import BROKEN, MISTAKE, READY, Child, Worker, fork
from .config import ONDEMAND, Pool
from .log import LogFile, WorkerOutput
from .policy import (
    STARTING,
    Keep,
    Pace,
    Promote,
    Reached,
    Retire,
    Settings,
    Snapshot,
    Spawn,
    Tell,
    Trace,
    Warn,
    decide,
)
from .scoreboard import RUNNING, Scoreboard
from .slowlog import Trace as Tracing
from .slowlog import format_record
from .upgrade import board_of, children_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from .config import Global
    from .log import ErrorLog
    from .policy import Action
    from .slowlog import Dump

_CRASHES = (-signal.SIGSEGV, -signal.SIGBUS)
_TRACE_PATIENCE, _THREADS_PATIENCE = 1.5, 4.0
"""Seconds that a worker which is to be ended has to say where it is; see slowlog.py."""
_LONG = 20
"""Bytes that a worker's number has not."""
_SHORT = 1.0
"""A worker that ends within so many seconds by itself failed to start, in effect."""


class Service(Protocol):
    """What a pool's workers are for. The master never looks into it; a worker gets it back."""

    pool: Pool
    listeners: list[Any]
    """Each with ``fd``, ``label``, ``queue()`` and ``lost()``, see servers/listener.py."""

    @property
    def hidden(self) -> bool:
        """Whether the operator knows of no such pool: whether it serves decides nothing."""

    def log_descriptors(self) -> list[int]:
        """Return what a worker's logs are written to, after they were opened again."""

    def retire(self, kept: Collection[Any]) -> None:
        """Close the logs, and the listeners that are not in *kept*, those in use elsewhere."""

    def abandon(self, serving: Any) -> None:
        """Close, in a worker of *serving*, what it does not use."""

    def rebind(self, forget: Callable[[int], None]) -> None:
        """Listen again where a socket file is lost; *forget* as for :class:`Group`."""


def settings_of(pool: Pool, config: Global) -> Settings:
    """Return the numbers that :func:`~sapi_adapters.manager.policy.decide` works with."""
    return Settings(
        pool.pm_max_children,
        pm=pool.pm,
        start=pool.pm_start_servers or 1,
        min_spare=pool.pm_min_spare_servers,
        max_spare=pool.pm_max_spare_servers,
        max_spawn_rate=pool.pm_max_spawn_rate,
        idle_timeout=pool.pm_process_idle_timeout,
        slow_after=pool.request_slowlog_timeout,
        request_timeout=pool.request_terminate_timeout,
        start_timeout=pool.pm_start_timeout,
        max_memory=pool.pm_max_memory,
        grace=config.process_control_timeout,
    )


class Group:
    """The workers of one pool.

    *alone* is whether it is the only pool. *forget* is called with each listener's descriptor
    before it is closed; *in_use* tells which listeners are those of pools that go on. *known* is
    what the master's earlier program left, see upgrade.py: its workers serve, and those of
    *service* take their place as at a reload.
    """

    def __init__(
        self,
        service: Service,
        config: Global,
        log: ErrorLog,
        *,
        alone: bool,
        forget: Callable[[int], None] = lambda fd: None,
        in_use: Callable[[], Collection[Any]] = tuple,
        known: dict[str, Any] | None = None,
    ) -> None:
        self.service = service
        self.name = service.pool.name
        self.settings = settings_of(service.pool, config)
        self.children: dict[int, Child] = {}
        self.generation = self.next_generation = 1
        self.next_service = service
        self.next_settings = self.settings
        self.failures = 0
        self.pace = Pace(self.settings.first_target())
        self.arrivals = 0
        self.announced = False
        """A worker of it has been ready once, or it waits for connections."""
        self.fatal: int | None = None
        """The exit status for the master if it has no other pool: this one cannot start."""
        self.failure = ""
        """Why the last reload or start failed."""
        self.crashes: list[float] = []
        """When workers were killed by SEGV or BUS."""
        self._alone = alone
        self._config = config
        self._log = log
        self._tracing: dict[int, _Traced] = {}
        self._slowlog: LogFile | None = None
        self._open_slowlog(service)
        self._forget = forget
        self._in_use = in_use
        self._last_failure = 0.0
        self._next_target = 0
        self.number = 0
        """Of the worker that was forked last."""
        self._no_room = False
        self._old_gets = "QUIT"
        self._said_large = 0
        """The last generation of which it was said that its workers start above pm.max_memory."""
        self.retired = 0
        """Requests begun by workers that are gone."""
        self._dropped = 0
        found = None if known is None else board_of(known)
        self.board = found or self._make_board(service)
        if found is None:
            self.board.head.started = time.time()
            self.board.head.started_clock = time.monotonic()
        if known is not None:
            self._take_over(known, found)
        self._publish()
        if self.settings.pm == ONDEMAND:
            self.announced = True

    def _make_board(self, service: Service) -> Scoreboard:
        size = _slots(service)
        self._free = list(range(size - 1, -1, -1))
        return Scoreboard(size)

    def _take_over(self, known: dict[str, Any], board: Scoreboard | None) -> None:
        """Be what the earlier program's pool was, with its *board* if that can be read."""
        self.generation = self.next_generation = known["generation"]
        self.number, self.retired = known["number"], known["retired"]
        for child in children_of(known, board):
            self.children[child.pid] = child
        taken = {c.index for c in self.children.values() if c.slot.memory is self.board.memory}
        self._free = [n for n in range(self.board.size - 1, -1, -1) if n not in taken]
        serving = sum(not child.told for child in self.children.values())
        self.pace = Pace(min(serving, self.settings.workers))
        self.announced = True

    def log(self, message: str, level: str = "notice") -> None:
        """Say *message* of this pool."""
        self._log.log(message if self._alone else f"[pool {self.name}] {message}", level)

    @property
    def reloading(self) -> bool:
        """Whether another generation is being started."""
        return self.next_generation != self.generation

    @property
    def settled(self) -> bool:
        """Whether it is known how its start, or its reload, ends."""
        return not self.reloading and (self.announced or bool(self.failure))

    @property
    def ready(self) -> int:
        """How many workers of the serving generation accept."""
        return sum(
            c.state == READY and c.generation == self.generation for c in self.children.values()
        )

    # -- what the master asks for

    def reload(self, service: Service, config: Global, *, fast: bool = False) -> None:
        """Start another generation, of *service*; with *fast* the old one ends at once then."""
        self._old_gets = "TERM" if fast else "QUIT"
        settings = settings_of(service.pool, config)
        self._drop_next(service, settings)  # a newer reload replaces one that is under way
        self._config = config
        self.next_generation = max(self.generation, self._newest()) + 1
        running = sum(
            c.generation == self.generation and not c.told for c in self.children.values()
        )
        self._next_target = self.next_settings.next_target(running)
        self.failures = 0
        self.failure = ""
        self._free[:0] = reversed(self.board.grow(_slots(service)))
        self.log(f"reloading: generation {self.next_generation}", "notice")

    def _newest(self) -> int:
        return max((c.generation for c in self.children.values()), default=0)

    def act(self, now: float, *, stopping: str, tick: bool, room: int) -> Worker | None:
        """Do what the policy decides; return the worker in a child that was forked for it."""
        if tick:
            self._look_around()
        settings = self.next_settings if self.reloading else self.settings
        finishing = self.service.pool.request_terminate_timeout_track_finished
        snapshot = Snapshot(
            self.generation,
            self.next_generation,
            [child.view(now, finishing) for child in self.children.values()],
            self.pace,
            next_target=self._next_target,
            failures=self.failures,
            last_failure=self._last_failure,
            stopping=stopping,
            tick=tick,
            arrivals=self.arrivals,
            waiting=tick and self.settings.pm == ONDEMAND and self.board.head.listen_queue > 0,
            room=room,
            old_gets=self._old_gets,
        )
        self.arrivals = 0
        serving = self.generation
        for action in decide(settings, snapshot, now):
            worker = self._do(action)
            if worker is not None:
                return worker
        if self.generation != serving:  # the old ones are told now, not at the next tick
            return self.act(now, stopping=stopping, tick=False, room=room)
        return None

    def _do(self, action: Action) -> Worker | None:
        if isinstance(action, Spawn):
            return self._spawn(action.generation)
        if isinstance(action, Promote):
            self._promote()
        elif isinstance(action, Keep):
            self.pace = action.pace
        elif isinstance(action, Reached):
            self.board.head.max_children_reached += 1
            self.log(
                f"server reached pm.max_children ({self.settings.workers}), consider raising it",
                "warning",
            )
        elif isinstance(action, Warn):
            if not action.text.startswith("process.max") or not self._no_room:
                self.log(action.text, "warning")
            self._no_room = action.text.startswith("process.max")
        else:
            child = next(c for c in self.children.values() if c.number == action.number)
            if isinstance(action, Retire):
                child.retiring = action.why
                size = f"{child.memory / 1048576:.0f} MiB"
                self.log(f"worker {child.pid} has grown to {size}: another takes its place")
            elif isinstance(action, Trace):
                self._trace(child, f"is slow, for {action.seconds:.1f} s", then="")
            elif isinstance(action, Tell):
                self._tell(child, action)
        return None

    def _tell(self, child: Child, action: Tell) -> None:
        if action.why:
            level = "debug" if action.what == "QUIT" else "warning"
            self.log(f"worker {child.pid}: {action.why}: {action.what}", level)
        if child.state == STARTING:
            child.failure = child.failure or action.why
        late = action.what == "TERM" and "took longer" in action.why
        if late and self._trace(child, "execution timed out", then="TERM"):
            child.tell(action.what, send=False)  # once it has said where it is, or soon
            child.since += self._tracing[child.pid].patience
        else:
            child.tell(action.what)

    # -- slow requests

    def _open_slowlog(self, service: Service) -> None:
        path = service.pool.slowlog
        if path is not None:
            self._slowlog = LogFile(path, lambda lines, why: b"+++ %d lines were dropped\n" % lines)

    def reopen(self) -> list[int]:
        """Open the pool's logs again; return what a worker is to write to."""
        if self._slowlog is not None:
            self._slowlog.reopen()
        return self.service.log_descriptors()

    def _trace(self, child: Child, why: str, *, then: str) -> bool:
        """Ask *child* where it is; *then* it gets that signal. False when it cannot be asked."""
        now = time.monotonic()
        slowest, since = 0, now
        for index, (stage, begun, began, _) in enumerate(child.slot.times()):
            if stage < RUNNING or not child.started <= began <= now:
                continue
            if began < since:
                slowest, since = index, began
            slow = self.settings.slow_after and now - began >= self.settings.slow_after
            if slow and (index, begun) not in child.traced:
                child.traced.add((index, begun))
                self.board.head.slow += 1
        if child.trace_fd < 0:
            return False
        if child.pid in self._tracing:
            self._tracing[child.pid].then = then or self._tracing[child.pid].then
            self._tracing[child.pid].began = now
            return True
        request = child.slot.request(slowest)
        line = f"{request.method} {request.uri}"
        self.log(f"worker {child.pid}: {line} {why}", "warning")
        threaded = child.slot.capacity > 1 and not child.patience
        tracing = Tracing(child.pid, child.trace_fd, now, all_threads=threaded)
        script = request.script or self.service.pool.app
        patience = _THREADS_PATIENCE if threaded else _TRACE_PATIENCE
        self._tracing[child.pid] = _Traced(child, tracing, line, script, then, now, patience)
        return True

    @property
    def tracing(self) -> bool:
        """Whether a worker's answer is waited for."""
        return bool(self._tracing)

    def look_at_traces(self, now: float) -> None:
        """Write the stacks that have come."""
        for pid, traced in list(self._tracing.items()):
            dump = traced.tracing.poll(now)
            if dump is not None:
                del self._tracing[pid]
                self._write_trace(traced, dump)
            if traced.then and (dump is not None or now >= traced.began + traced.patience):
                traced.child.tell(traced.then)
                traced.late, traced.then = True, ""

    def _write_trace(self, traced: _Traced, dump: Dump) -> None:
        depth = self.service.pool.request_slowlog_trace_depth
        record = format_record(
            self.name, traced.child.pid, time.time(), traced.script, traced.line, dump, depth
        )
        if self._slowlog is not None:
            self._slowlog.write(record.encode("utf-8", "backslashreplace"))
        if self._slowlog is None or traced.late or traced.then:
            self.log(
                "worker " + record.partition("pid ")[2].replace("\n", " was here:\n", 1), "warning"
            )

    def _promote(self) -> None:
        self.generation = self.next_generation
        old, self.service = self.service, self.next_service
        self.settings = self.next_settings
        self.pace = Pace(self._next_target)
        self._open_slowlog(self.service)
        self.failure = ""
        self.board.head.reloads += 1
        self.board.head.last_failure = ""
        self.log(f"generation {self.generation} serves", "notice")
        if old is not self.service:
            self._retire(old)
        self._publish()

    # -- workers

    def _spawn(self, generation: int) -> Worker | None:
        self.number += 1
        board, index = self.board, self._free.pop() if self._free else -1
        try:
            if index < 0:
                board, index = Scoreboard(1), 0
            service = self.next_service if self._is_next(generation) else self.service
            settings = self.next_settings if self._is_next(generation) else self.settings
            with _unwarned():
                process = fork(
                    self.number,
                    generation,
                    board,
                    index,
                    catch=service.pool.catch_workers_output,
                    trace=bool(settings.slow_after or settings.request_timeout),
                )
        except OSError as error:
            if board is not self.board:
                board.close()
            elif index >= 0:
                self._free.append(index)
            self.failures += 1
            self._last_failure = time.monotonic()
            self.log(f"fork: {error.strerror}", "error")
            return None
        if isinstance(process, Worker):
            process.service = service
            return process
        if board is not self.board:
            board.close()
        self.children[process.pid] = process
        self.log(f"worker {process.pid} started", "debug")
        return None

    def _is_next(self, generation: int) -> bool:
        return self.reloading and generation == self.next_generation

    def hear(self, child: Child) -> bool:
        """Take what *child* says; return whether it may say more."""
        for message in child.messages():
            kind = message[:1]
            if kind == b"R":
                child.is_ready(message)
                self.log(f"worker {child.pid} is ready", "debug")
                self.announced = True
                self._look_at_first_memory(child)
                if not self.reloading:
                    self.failure, self.fatal = "", None
            elif kind == b"F":
                child.failure = message[1:].decode("utf-8", "replace")
            elif kind == b"N":
                child.retiring = child.retiring or "requests"
            elif kind == b"A":
                self.wants_reload = True
            elif kind == b"D" and message[1:].isdigit() and len(message) < _LONG:
                self._dropped += max(0, int(message[1:]) - child.dropped)
                child.dropped = int(message[1:])
            elif not message:
                return False
        return True

    def _look_at_first_memory(self, child: Child) -> None:
        """Say once in a generation that pm.max_memory cannot be kept: nobody is replaced then."""
        limit = (self.next_settings if self.reloading else self.settings).max_memory
        if not limit or child.first_memory <= limit or self._said_large == child.generation:
            return
        self._said_large = child.generation
        size = f"{child.first_memory / 1048576:.0f} MiB"
        self.log(
            f"pm.max_memory ({limit / 1048576:.0f} MiB) is less than a worker needs at its start"
            f" ({size}): it replaces none that began so large",
            "warning",
        )

    wants_reload = False
    """A worker asked for a reload: a source file changed."""

    def ended(self, child: Child, code: int, *, stopping: bool) -> None:
        """Take note that *child* has ended."""
        self.hear(child)
        child.link.close()
        traced = self._tracing.pop(child.pid, None)
        if traced is not None:
            dump = traced.tracing.poll(float("inf"))  # what it still said
            if dump is not None:
                self._write_trace(traced, dump)
        if child.trace_fd >= 0:
            os.close(child.trace_fd)
        del self.children[child.pid]
        head = self.board.head
        head.lost += child.slot.active()
        self.retired += child.slot.begun()
        if child.slot.memory is self.board.memory:
            self._free.append(child.index)
            self._publish(freed=child.index)
        else:
            self._publish()
        self._judge(child, code, stopping)

    def _judge(self, child: Child, code: int, stopping: bool) -> None:
        """Note how a worker ended: as it was told, by itself, or badly."""
        how = f"exited with status {code}" if code >= 0 else f"was killed by {_signal_name(-code)}"
        lived = time.monotonic() - child.started
        said = f"worker {child.pid} {how} after {lived:.1f} s"
        if code in _CRASHES:
            self.crashes.append(time.monotonic())
        wanted = child.generation in (self.generation, self.next_generation)
        hung = child.told and child.failure and wanted and not stopping
        if hung:
            said = f"worker {child.pid} {child.failure}"
            child.failure = ""
            self._failed(child, code, said)
        elif child.told or stopping:
            self.log(said, "debug")
        elif child.state == READY and (lived > _SHORT or child.retiring):
            self.log(said, "notice" if code == 0 else "warning")
        else:
            self._failed(child, code, said)

    def _failed(self, child: Child, code: int, said: str) -> None:
        """A worker ended before it was of use."""
        self.failures += 1
        self._last_failure = time.monotonic()
        if self._is_next(child.generation):
            self.failure = child.failure or said
            self.log(
                f"reload failed: {said}{'' if child.told else ' before it was ready'};"
                f" generation {self.generation} goes on serving"
                + (f"\n{child.failure}" if child.failure else ""),
                "error",
            )
            self.abandon(self.failure)
        elif code in (MISTAKE, BROKEN) and not self.announced:
            first, self.failure = not self.failure, child.failure
            self.fatal = MISTAKE if code == MISTAKE else 1
            if first and not self._alone:
                self.log(f"the pool cannot start: {child.failure}", "error")
        else:
            if not self.announced:
                self.failure = child.failure or said
            self.log(
                said
                + ("" if child.state == READY or child.told else " before it was ready")
                + (f"\n{child.failure}" if child.failure else ""),
                "error" if child.state != READY else "warning",
            )

    def abandon(self, why: str) -> None:
        """Give up the next generation; the one that serves goes on."""
        self._drop_next(self.service, self.settings)
        self.board.head.failed_reloads += 1
        self.board.head.last_failure = _brief(why)
        self.failure = why
        self.failures = 0
        self._publish()

    def _drop_next(self, service: Service, settings: Settings) -> None:
        """Give up the next generation, if there is one; the one after it is of *service*."""
        if self.reloading:
            for child in self.children.values():
                if child.generation == self.next_generation and not child.told:
                    child.tell("TERM")
        before, self.next_service = self.next_service, service
        self.next_settings = settings
        self.next_generation = self.generation
        if before not in (service, self.service):
            self._retire(before)

    def _retire(self, service: Service) -> None:
        """Let go of *service*, but not of what other pools or generations use."""
        kept = self._in_use()
        for listener in service.listeners:
            if listener not in kept:
                self._forget(listener.fd)
        service.retire(kept)

    def close(self) -> None:
        """The pool is no more: its sockets go."""
        self._retire(self.service)
        self.board.close()

    # -- the scoreboard

    def output_of(self, child: Child, stream: str) -> WorkerOutput:
        """Return what takes the output of *child*."""
        decorate = self.service.pool.decorate_workers_output
        return WorkerOutput(self._log, self.name, child.pid, stream, decorate=decorate)

    def lost_sockets(self) -> bool:
        """Listen again where a socket file was deleted; tell whether there was one."""
        lost = [each for each in self.service.listeners if each.lost()]
        if not lost:
            return False
        for each in lost:
            self.log(f"the socket {each.path} was deleted or replaced: listening anew", "warning")
        self.service.rebind(self._forget)
        return True

    def _look_around(self) -> None:
        """Once per tick: sizes of workers, queues, peaks."""
        head = self.board.head
        active = 0
        now = time.monotonic()
        if any(c.state == READY and now - c.since > _SHORT for c in self.children.values()):
            self.failures = 0  # not as soon as one is ready: it may crash right after that
        for child in self.children.values():
            child.show()
            head.memory_peak = max(head.memory_peak, child.memory)
            active += child.slot.active() >= child.slot.capacity
        head.max_active = max(head.max_active, active)
        waiting = limit = 0
        for listener in self.service.listeners:
            queue = listener.queue()
            if queue is not None:
                waiting, limit = waiting + queue[0], limit + queue[1]
        head.listen_queue, head.listen_queue_len = waiting, limit
        head.max_listen_queue = max(head.max_listen_queue, waiting)
        self._publish()

    def _publish(self, freed: int | None = None) -> None:
        head = self.board.head
        head.generation = self.generation
        head.dropped = self._dropped + (self._log.dropped if self._alone else 0)
        foreign = [c for c in self.children.values() if c.slot.memory is not self.board.memory]
        head.accepted = self.retired + sum(c.slot.begun() for c in foreign)
        self.board.publish(freed)


@contextmanager
def _unwarned() -> Iterator[None]:
    """Let a fork beside other threads pass, of which Python 3.12 and later warn.

    Who runs a master inside a program of threads has decided that; the child uses one thread.
    """
    if threading.active_count() == 1:
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


class Gone:
    """The service of a pool that the configuration no longer has: its workers finish."""

    hidden = True

    def __init__(self, name: str) -> None:
        self.pool = Pool(name=name)
        self.listeners: list[Any] = []

    def log_descriptors(self) -> list[int]:
        """There is nothing to write to."""
        return []

    def retire(self, kept: Collection[Any]) -> None:
        """There is nothing to close."""

    def abandon(self, serving: Any) -> None:
        """There is nothing to close."""

    def rebind(self, forget: Callable[[int], None]) -> None:
        """There is nothing to listen on."""


class _Traced:
    """A worker that was asked where it is."""

    def __init__(
        self,
        child: Child,
        tracing: Tracing,
        line: str,
        script: str,
        then: str,
        began: float,
        patience: float,
    ) -> None:
        self.child = child
        self.tracing = tracing
        self.line = line
        self.script = script
        self.then = then
        """The signal that it gets afterwards."""
        self.late = False
        """It has got that already."""
        self.began = began
        self.patience = patience
        """How long that signal may wait for the answer."""


def _slots(service: Service) -> int:
    """Return the size of the scoreboard: generations overlap, and leaving ones may stay long."""
    return 16 * service.pool.pm_max_children + 16


def _brief(text: str) -> str:
    """Return the first and the last line of *text*: of a traceback, what it ends with."""
    lines = text.strip().splitlines() or [""]
    return lines[0] if len(lines) == 1 else f"{lines[0]}: {lines[-1].strip()}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
