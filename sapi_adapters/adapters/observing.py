"""What a worker notes around each request: the scoreboard, its limit of requests, time-outs.

:func:`observe` puts it around a gateway's cycle. It costs every request, so it does no more than
write one entry of shared memory twice.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from types import FunctionType
from typing import TYPE_CHECKING, Any

from ..manager.scoreboard import BEGIN, END, IDLE, RUNNING
from ..manager.slowlog import Running, stack_of
from ..sapi import WARNING, request_line

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

    from ..manager.children import Worker
    from ..manager.config import Pool
    from ..manager.scoreboard import Slot
    from ..sapi import Sapi
    from .accesslog import AccessLog

GATEWAY_TIMEOUT = "504 Gateway Timeout"
_CANCEL_SECONDS = 5.0
"""How long a request that was cancelled may take to end; then it is left to itself."""
SERVICE_UNAVAILABLE = "503 Service Unavailable"


class Entry:
    """One entry of the scoreboard and the request that is in it."""

    __slots__ = (
        "at",
        "count",
        "cpu",
        "exchange",
        "long",
        "memory",
        "numbers",
        "started",
        "task",
        "thread",
        "whole",
    )

    def __init__(self, slot: Slot, index: int) -> None:
        self.memory = slot.memory
        self.at = at = slot.entry(index)
        self.whole = slice(at, at + BEGIN.size)
        """Where it is in the memory."""
        self.numbers = slice(at, at + END.size)
        self.count = 0
        self.started = 0.0
        self.cpu = 0.0
        self.long = False
        """The last request took so long that the next one's CPU time is worth a look."""
        self.exchange: Any = None
        self.thread: int | None = None
        self.task: asyncio.Task[Any] | None = None

    def begin(self, exchange: Any) -> None:
        """Note that *exchange* is being served."""
        self.count = count = self.count + 1
        self.started = started = time.monotonic()
        self.exchange = exchange
        noted = exchange.noted
        if noted is None:
            get = exchange.environ.get
            noted = (
                get("REQUEST_METHOD", "").encode("latin-1"),
                get("CONTENT_LENGTH", "").encode("latin-1"),
                get("REMOTE_USER", "").encode("latin-1"),
                (get("REQUEST_URI") or get("PATH_INFO", "")).encode("latin-1"),
                get("SCRIPT_FILENAME", "").encode("latin-1"),
            )
        # Stored in one step: pack_into() would show zeros to a reader meanwhile.
        self.memory[self.whole] = BEGIN.pack(RUNNING, count, started, 0.0, 0.0, *noted)
        if self.long:
            self.cpu = time.thread_time()

    def note(self, stage: int) -> None:
        """Show *stage*: the response is being ended, or is complete."""
        self.memory[self.at] = stage

    def end(self) -> float:
        """Note that the request is over; return the monotonic time.

        Reading the CPU clock costs as much as all the rest, so it is read around a request only
        after one that took a millisecond.
        """
        self.exchange = None
        now = time.monotonic()
        cpu = time.thread_time() - self.cpu if self.long else 0.0
        self.memory[self.numbers] = END.pack(IDLE, self.count, self.started, now, cpu)
        self.long = now - self.started > 0.001
        return now


class Limit:
    """Counts requests to *last*; then the worker leaves. Its master hears of it in good time."""

    def __init__(self, sapi: Sapi, worker: Worker, last: int) -> None:
        self._sapi = sapi
        self._worker = worker
        self._last = last
        self._begun = itertools.count(1)
        self._ended = itertools.count(1)
        self._look = max(1, last // 2)
        self._since = time.monotonic()
        self._start_took = self._since - worker.started

    def begin(self) -> None:
        """Count a request; when the rest takes no longer than a worker's start, say so."""
        number = next(self._begun)
        if number < self._look:
            return
        rate = number / max(1e-6, time.monotonic() - self._since)
        ahead = self._last - number - 2 * rate * self._start_took
        if ahead <= 0:
            self._look = self._last + (1 << 60)
            self._sapi.retiring = True  # and connections that are kept come to their ends
            self._worker.last_requests()
        else:
            self._look = number + max(1, int(ahead / 2))

    def end(self) -> None:
        """Count its end; after the last one the worker ends."""
        if next(self._ended) >= self._last:
            self._sapi.terminate_process()


class Observed:
    """Puts notes around *cycle*: one entry of *slot* for each request that runs.

    *terminate_after* is the pool's request_terminate_timeout, *log* its access log.
    """

    def __init__(
        self,
        cycle: Callable[[Any], Any],
        slot: Slot,
        terminate_after: float,
        log: AccessLog | None = None,
    ) -> None:
        self.cycle = cycle
        self.limit: Limit | None = None
        self.serve: Callable[..., Any] = self.__call__
        """Serves an exchange; what a session is given. A second argument takes *cycle*'s place."""
        self._log = log
        self._terminate_after = terminate_after
        self._slot = slot
        self._entries: list[Entry] = []
        self._prepare()

    def _prepare(self) -> None:
        """Make what the kind of server needs."""

    def _entry(self, index: int) -> Entry:
        entry = Entry(self._slot, index)
        self._entries.append(entry)
        return entry

    def note(self, stage: int) -> None:
        """Show the stage of a request that is being read, where that can be but one."""

    def __call__(self, exchange: Any, cycle: Callable[[Any], Any] | None = None) -> Any:
        """Serve *exchange*, by *cycle* if that is given; awaitable under the event server."""
        raise NotImplementedError

    def _begin(self, entry: Entry, exchange: Any) -> None:
        if self.limit is not None:
            self.limit.begin()
        if self._log is not None and self._log.needs_begin:
            self._log.begin(exchange)
        entry.begin(exchange)

    def _end(self, entry: Entry, exchange: Any) -> None:
        self._ended(exchange, entry.started, entry.end())

    def _ended(self, exchange: Any, started: float, ended: float) -> None:
        if self._log is not None:
            self._log.end(exchange, started, ended)
        if self.limit is not None:
            self.limit.end()

    def running(self) -> Iterator[tuple[Entry, Any]]:
        """Return what runs now. Safe in a signal handler and beside threads: takes no lock."""
        for entry in list(self._entries):
            exchange = entry.exchange
            if exchange is not None:
                yield entry, exchange

    def describe(self) -> list[Running]:
        """Return what runs now, for the slow log."""
        found = []
        for entry, exchange in self.running():
            line = request_line(exchange.environ)
            script = exchange.environ.get("SCRIPT_FILENAME", "")
            found.append(Running(entry.started, line, script, entry.thread, entry.task))
        return found

    def blame_all(self) -> None:
        """Say which requests end with the worker; their clients get an error that says why."""
        for entry, exchange in self.running():
            if not exchange.ended:
                self.blame(entry, exchange)

    def cut_all(self) -> None:
        """The same, and end them here: their threads do not come to it."""
        self.blame_all()
        for _, exchange in self.running():
            exchange.cut()  # nothing, when the response is over

    def blame(self, entry: Entry, exchange: Any, *, timed_out: bool = False) -> None:
        """Log that *exchange* is given up, and let its client know why."""
        late = time.monotonic() - entry.started
        timed_out = timed_out or 0 < self._terminate_after <= late
        exchange.failure_status = GATEWAY_TIMEOUT if timed_out else SERVICE_UNAVAILABLE
        exchange.sapi.log_message(
            f"{request_line(exchange.environ)} was given up after {late:.1f} s:"
            f" {'request_terminate_timeout' if timed_out else 'the worker was told to end'}"
        )


class Blocking(Observed):
    """For a server that serves one request at a time."""

    def _prepare(self) -> None:
        self._only = self._entry(0)
        self._only.thread = threading.get_ident()
        if self._log is None or not self._log.needs_begin:
            self.serve = self._unrolled()

    def note(self, stage: int) -> None:
        """Show *stage* as that of the one request."""
        self._only.note(stage)

    def __call__(self, exchange: Any, cycle: Callable[[Any], Any] | None = None) -> None:
        entry = self._only
        self._begin(entry, exchange)
        try:
            (cycle or self.cycle)(exchange)
        finally:
            self._end(entry, exchange)

    def _unrolled(self) -> Callable[..., None]:
        """Return :meth:`__call__` as one function: a third of its cost is saved that way."""
        entry, log = self._only, None if self._log is None else self._log.end
        memory, whole, numbers = entry.memory, entry.whole, entry.numbers
        pack_begin, pack_end, clock, cpu_clock = (
            BEGIN.pack,
            END.pack,
            time.monotonic,
            time.thread_time,
        )
        whole_cycle: Any = self.cycle
        if not isinstance(whole_cycle, FunctionType):
            whole_cycle = whole_cycle.__call__
        count, cpu, long = 0, 0.0, False

        def serve(exchange: Any, cycle: Callable[[Any], Any] = whole_cycle) -> None:
            nonlocal count, cpu, long
            get = exchange.environ.get
            length, user = get("CONTENT_LENGTH"), get("REMOTE_USER")  # most requests have neither
            count += 1
            limit = self.limit
            if limit is not None:
                limit.begin()
            entry.exchange = exchange
            entry.started = started = clock()
            memory[whole] = pack_begin(
                RUNNING,
                count,
                started,
                0.0,
                0.0,
                get("REQUEST_METHOD", "").encode("latin-1"),
                length.encode("latin-1") if length else b"",
                user.encode("latin-1") if user else b"",
                (get("REQUEST_URI") or get("PATH_INFO", "")).encode("latin-1"),
                get("SCRIPT_FILENAME", "").encode("latin-1"),
            )
            if long:
                cpu = cpu_clock()
            try:
                cycle(exchange)
            finally:
                entry.exchange = None
                ended = clock()
                used = cpu_clock() - cpu if long else 0.0
                memory[numbers] = pack_end(IDLE, count, started, ended, used)
                long = ended - started > 0.001
                if log is not None:
                    log(exchange, started, ended)
                if limit is not None:
                    limit.end()

        return serve


class Threaded(Observed):
    """For a server of threads, which come and go: each request takes an entry and gives it back.

    The last entry counts those for which there is no other.
    """

    def _prepare(self) -> None:
        last = self._slot.capacity - 1
        self._free = [self._entry(n) for n in range(last - 1, -1, -1)]
        self._last = last
        self._crowd = 0
        self._counted = 0
        self._crowding = threading.Lock()
        self.serve = self._unrolled()

    def __call__(self, exchange: Any, cycle: Callable[[Any], Any] | None = None) -> None:
        self.serve(exchange, cycle or self.cycle)

    def _unrolled(self) -> Callable[..., None]:
        """Return what serves, as one function but for the entry's part."""
        free, thread, beyond = self._free, threading.get_ident, self._beyond
        log = None if self._log is None else self._log.end
        log_begin = self._log.begin if self._log is not None and self._log.needs_begin else None

        def serve(exchange: Any, cycle: Callable[[Any], Any] = self.cycle) -> None:
            try:
                entry = free.pop()
            except IndexError:
                beyond(exchange, cycle)
                return
            try:
                limit = self.limit
                if limit is not None:
                    limit.begin()
                if log_begin is not None:
                    log_begin(exchange)
                entry.thread = thread()
                entry.begin(exchange)
                exchange.note_stage = entry.note
                try:
                    cycle(exchange)
                finally:
                    ended = entry.end()
                    if log is not None:
                        log(exchange, entry.started, ended)
                    if limit is not None:
                        limit.end()
            finally:
                free.append(entry)

        return serve

    def _beyond(self, exchange: Any, cycle: Callable[[Any], Any]) -> None:
        """Serve one of those that share the last entry; each is still found by :meth:`running`."""
        entry = Entry(self._slot, self._last)
        entry.thread = threading.get_ident()
        with self._crowding:
            entry.count = self._counted
            self._begin(entry, exchange)
            self._counted = entry.count
            self._crowd += 1
            self._entries.append(entry)
        exchange.note_stage = entry.note
        try:
            cycle(exchange)
        finally:
            with self._crowding:
                self._entries.remove(entry)
                self._crowd -= 1
                entry.count = self._counted
                if not self._crowd:
                    entry.end()
            entry.exchange = None
            self._ended(exchange, entry.started, time.monotonic())


class Awaited(Observed):
    """For the event server: entries are taken and given back; the last one counts those beyond."""

    def _prepare(self) -> None:
        self._free = [self._entry(n) for n in range(self._slot.capacity - 1, -1, -1)]
        self._beyond = self._free.pop(0)
        self._crowd = 0
        import asyncio  # not at the top: blocking workers do without

        self._current_task, self._cancelled = asyncio.current_task, asyncio.CancelledError
        if not self._terminate_after and (self._log is None or not self._log.needs_begin):
            self.serve = self._unrolled()

    def _unrolled(self) -> Callable[..., Any]:
        """Return :meth:`__call__` with its steps in one function, for what is usual."""
        free, current_task, cancelled = self._free, self._current_task, self._cancelled
        log = None if self._log is None else self._log.end
        whole_cycle = self.cycle

        async def serve(exchange: Any, cycle: Callable[[Any], Any] = whole_cycle) -> None:
            if not free:
                await self(exchange, cycle)
                return
            entry = free.pop()
            limit = self.limit
            if limit is not None:
                limit.begin()
            entry.begin(exchange)
            exchange.note_stage = entry.note
            entry.task = exchange.task or current_task()
            try:
                await cycle(exchange)
            except cancelled:
                if not exchange.ended:
                    self.blame(entry, exchange)
                    exchange.cut()
                raise
            finally:
                entry.task = None
                ended = entry.end()
                free.append(entry)
                if log is not None:
                    log(exchange, entry.started, ended)
                if limit is not None:
                    limit.end()

        return serve

    async def __call__(self, exchange: Any, cycle: Callable[[Any], Any] | None = None) -> None:
        free = self._free
        entry = free.pop() if free else self._beyond
        self._begin(entry, exchange)
        started = entry.started
        exchange.note_stage = entry.note
        entry.task = exchange.task or self._current_task()
        self._crowd += entry is self._beyond
        try:
            if self._terminate_after and cycle is None:
                await self._within(entry, exchange)
            else:
                await (cycle or self.cycle)(exchange)
        except self._cancelled:
            if not exchange.ended:
                self.blame(entry, exchange)
                exchange.cut()
            raise
        finally:
            entry.task = None
            if entry is not self._beyond:
                self._end(entry, exchange)
                free.append(entry)
            else:
                self._crowd -= 1
                if not self._crowd:
                    entry.end()
                self._ended(exchange, started, time.monotonic())

    async def _within(self, entry: Entry, exchange: Any) -> None:
        """Run the cycle; when it takes too long it is cancelled, and the others go on."""
        import asyncio

        task = entry.task = asyncio.ensure_future(self.cycle(exchange))
        try:
            done, _ = await asyncio.wait({task}, timeout=self._terminate_after)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if done:
            task.result()
            return
        others = [other for _, other in self.running() if other is not exchange]
        if not exchange.ended:
            self.blame(entry, exchange, timed_out=True)
        stack = "\n".join(["it was here:", *stack_of(task)])
        lines = "; ".join(request_line(other.environ) for other in others)
        beside = f"\nbeside it ran, and go on: {lines}" if others else ""
        exchange.sapi.log_message(f"{stack}{beside}", WARNING)
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCEL_SECONDS)
        if not exchange.ended:
            exchange.cut()


def observe(
    cycle: Callable[[Any], Any],
    sapi: Sapi,
    worker: Worker,
    pool: Pool,
    *,
    asynchronous: bool,
    threads: int,
    capacity: int,
    log: AccessLog | None = None,
) -> Observed:
    """Return *cycle* with what is to be noted around each request of *worker*."""
    slot = worker.slot
    assert slot is not None  # noqa: S101 - a worker without a master has one of its own
    slot.set_capacity(capacity)
    limit = pool.request_terminate_timeout
    observed: Observed
    if asynchronous:
        observed = Awaited(cycle, slot, limit, log)
    elif threads > 1:
        observed = Threaded(cycle, slot, limit, log)
    else:
        observed = Blocking(cycle, slot, limit, log)
    last = pool.pm_max_requests
    if last:
        jitter = min(pool.pm_max_requests_jitter, last - 1)
        observed.limit = Limit(sapi, worker, last - random.randint(0, jitter))  # noqa: S311
    return observed
