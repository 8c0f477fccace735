"""ASGI applications where the process model blocks (prefork, worker).

A process has one event loop for them, in a thread beside those that serve. The request's own
thread stays the only one that touches the connection: it does what the application's coroutine
asks for, reading, sending and the end, and gives the result back to the loop. While nothing is
asked it watches the client.
"""

from __future__ import annotations

import asyncio
import os
import select
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from ..httpd.filters import EOS, FLUSH
from ..httpd.hooks import OK
from ..sapi import AsyncExchange, ClientDisconnected, ConfigurationError
from ..servers.event import new_event_loop
from .mod import ModResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..httpd.records import Request
    from ..sapi import Sapi

_END_SECONDS = 10.0
"""What running requests and life spans may take to end; then the process ends without them."""
_GONE = getattr(select, "POLLRDHUP", 0)
"""What poll() reports of a client that has gone; without it the client is looked at in turns."""
_LOOK_SECONDS = 0.05


class Beside:
    """An event loop in a thread of its own, started on first use, with the *lifespans* on it.

    Its methods may be called by several threads.
    """

    def __init__(self, lifespans: Sequence[Any]) -> None:
        self._lifespans = lifespans
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._up = threading.Event()
        self._failure: BaseException | None = None
        self._stopping: asyncio.Event | None = None
        self.loop: asyncio.AbstractEventLoop
        self.tasks: set[asyncio.Task[Any]] = set()
        """The requests that run; for the loop's thread alone."""

    def start(self) -> None:
        """Return once the loop runs and the applications have started.

        Raises :class:`ConfigurationError`, now and at each further call, when one refused to.
        """
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self.loop = new_event_loop()
                    thread = threading.Thread(target=self._run, name="asgi-loop", daemon=True)
                    thread.start()
                    self._thread = thread
        self._up.wait()
        if self._failure is not None:
            raise ConfigurationError(str(self._failure))

    def stop(self) -> None:
        """End the requests that still run, then the life spans, then the loop. Bounded in time."""
        thread = self._thread
        if thread is None or not thread.is_alive():
            return
        try:
            self.loop.call_soon_threadsafe(self._stop_soon)
        except RuntimeError:
            return  # it has just ended
        thread.join(_END_SECONDS)

    def _stop_soon(self) -> None:
        if self._stopping is not None:
            self._stopping.set()

    def _run(self) -> None:
        loop = self.loop
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._live())
        finally:
            self._up.set()
            try:
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.run_until_complete(loop.shutdown_default_executor())
            finally:
                asyncio.set_event_loop(None)
                loop.close()

    async def _live(self) -> None:
        self._stopping = asyncio.Event()
        started: list[Any] = []
        try:
            for each in self._lifespans:
                await each.start()
                started.append(each)
        except ConfigurationError as error:
            self._failure = error
        else:
            self._up.set()
            await self._stopping.wait()
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=1.0)
        for each in reversed(started):
            await each.stop(_END_SECONDS - 2)


class BridgedExchange(ModResponse, AsyncExchange):
    """One request whose coroutine runs on the loop of a :class:`Beside`.

    The methods of :class:`AsyncExchange` are the loop's; :meth:`serve` and what it calls are the
    request's own thread's. Between the two are jobs, which are done in order, and reads, which
    are done when there is something to read: an application may send while it waits for a body.
    """

    def __init__(self, beside: Beside, sapi: Sapi, r: Request, environ: dict[str, Any]) -> None:
        super().__init__(sapi, r)
        self.environ = environ
        self._beside = beside
        self._loop = beside.loop
        self._lock = threading.Lock()
        self._jobs: deque[tuple[Callable[[], Any] | None, asyncio.Future[Any] | None]] = deque()
        self._reads: deque[tuple[int, asyncio.Future[bytes]]] = deque()
        self._watchers: list[asyncio.Future[None]] = []
        self._awake, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._over = False
        self._was_cut = False
        self._task: asyncio.Task[Any] | None = None

    # -- the loop's side

    def ub_write(self, data: bytes) -> None:
        self._held.append(data)  # the gateway flushes after each event

    def _nudge(self) -> None:
        """Let the request's thread look again; the caller has the lock."""
        try:
            os.write(self._wake, b"x")
        except BlockingIOError:
            pass  # it has much to wake up for already

    async def _ask(self, function: Callable[[], Any]) -> Any:
        """Return what *function* returns in the request's thread."""
        answer = self._loop.create_future()
        with self._lock:
            if self._over:
                raise ClientDisconnected("the request is over")
            self._jobs.append((function, answer))
            self._nudge()
        return await answer

    async def read_post(self, size: int) -> bytes:
        answer: asyncio.Future[bytes] = self._loop.create_future()
        with self._lock:
            if self._over:
                raise ClientDisconnected("the request is over")
            self._reads.append((size, answer))
            self._nudge()
        return await answer

    @property
    def post_ended(self) -> bool:  # type: ignore[override]
        return bool(self.request.body.at_end)

    async def _send(self, mark: Any) -> None:
        brigade, self._held = [*self._held, mark], []
        await self._ask(lambda: self.request.output_filters.pass_brigade(brigade))

    async def flush(self) -> None:
        if not self.ended:
            await self._send(FLUSH)

    async def finish(self) -> None:
        if not self.ended:
            self.ended = True
            await self._send(EOS)
            self._release()

    def cut(self) -> None:
        if not self.ended:
            self.ended = self._was_cut = True
            self._held.clear()
            self._release()

    async def wait_disconnect(self) -> None:
        if self.aborted or self.ended:
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._watchers.append(waiter)
        try:
            with self._lock:
                if self._over:
                    return
                self._nudge()
            await waiter
        finally:
            self._watchers.remove(waiter)

    def _release(self) -> None:
        """Let those that wait for a disconnect go on."""
        for waiter in self._watchers:
            if not waiter.done():
                waiter.set_result(None)

    def _begin(self, cycle: Callable[[Any], Any]) -> None:
        task = self._task = self._loop.create_task(cycle(self))
        self._beside.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._beside.tasks.discard(task)
        with self._lock:
            if self._over:
                task.cancelled() or task.exception()  # nobody else looks at it
            else:
                self._jobs.append((None, None))
                self._nudge()

    def _give_up(self) -> None:
        if self._task is not None:
            self._task.cancel()

    # -- the side of the request's own thread

    def serve(self, cycle: Callable[[Any], Any]) -> None:
        """Run *cycle* for this request on the loop, and be its hands until it has ended.

        Raises what it raised, as if it had been awaited here.
        """
        try:
            self._loop.call_soon_threadsafe(self._begin, cycle)
            self._work()
        except BaseException:
            try:
                self._loop.call_soon_threadsafe(self._give_up)
            except RuntimeError:
                pass  # the loop has ended before
            raise
        finally:
            self._close()
        if self._was_cut:
            self.ended = False
            ModResponse.cut(self)
        task = self._task
        assert task is not None  # noqa: S101 - its end was the last job
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error

    def _work(self) -> None:
        while True:
            while self._jobs:
                function, answer = self._jobs.popleft()
                if function is None or answer is None:
                    return
                self._do(function, answer)
            if self._reads and self._readable():
                self._read()
            elif not self._jobs:
                self._wait()

    def _do(self, function: Callable[[], Any], answer: asyncio.Future[Any]) -> None:
        try:
            result = function()
        except Exception as error:
            self._tell(answer, None, error)
        else:
            self._tell(answer, result, None)
        if self.aborted:
            self._loop.call_soon_threadsafe(self._release)

    def _read(self) -> None:
        size, answer = self._reads.popleft()
        self._do(lambda: self.request.read(size), answer)

    def _tell(self, answer: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
        self._loop.call_soon_threadsafe(_settle, answer, result, error)

    def _readable(self) -> bool:
        """Whether a read gives something without a wait for the client, or needs its "Go on"."""
        body = self.request.body
        if body.at_end or not body.continued or not body.unread:
            return True
        transport = self.request.connection.transport
        return bool(transport.parser.events) or transport.channel.wait(select.POLLIN, 0)

    def _wait(self) -> None:
        """Wait for a job, for bytes where a read is due, for the client's end."""
        transport = self.request.connection.transport
        channel = transport.channel
        mask, timeout = 0, None
        watching = bool(self._watchers) and not self.aborted
        poll = select.poll()
        poll.register(self._awake, select.POLLIN)
        if self._reads:
            mask, timeout = select.POLLIN, channel.timeout
        if watching:
            mask |= _GONE
            if not _GONE:
                timeout = _LOOK_SECONDS
        if mask:
            if transport.closed:
                self._gone()
                return
            poll.register(channel.fd, mask)
        since = time.monotonic()
        found = dict(poll.poll(None if timeout is None else timeout * 1000))
        if self._awake in found:
            os.read(self._awake, 4096)
        seen = found.get(channel.fd, 0)
        if seen & (_GONE | select.POLLHUP | select.POLLERR) or (
            watching and not _GONE and transport.is_aborted()
        ):
            self._gone()
        elif not found and self._reads and time.monotonic() - since >= channel.timeout:
            _, answer = self._reads.popleft()
            late = ClientDisconnected(f"nothing came for {channel.timeout:.0f} s")
            self._tell(answer, None, late)

    def _gone(self) -> None:
        if self._reads:
            self._read()  # what it sent before is its body, and then comes the end
        else:
            self.request.connection.aborted = True
            self._loop.call_soon_threadsafe(self._release)

    def _close(self) -> None:
        """Take no more jobs; those that were not done fail."""
        with self._lock:
            self._over = True
            os.close(self._awake)
            os.close(self._wake)
        unanswered = [answer for _, answer in (*self._jobs, *self._reads) if answer is not None]
        error = ClientDisconnected("the request is over")
        try:
            for answer in unanswered:
                self._tell(answer, None, error)
            self._loop.call_soon_threadsafe(self._release)
        except RuntimeError:
            pass  # the loop has ended before


def _settle(answer: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if answer.done():
        return  # whoever waited was cancelled
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)


def run_beside(
    beside: Beside,
    cycle: Callable[[Any], Any],
    sapi: Sapi,
    r: Request,
    environ: dict[str, Any],
) -> int:
    """Serve *r* by *cycle*, which is awaited, on the loop of *beside*; return a handler's result.

    An application that refused to start is a 500, and the log has its reason.
    """
    try:
        beside.start()
    except ConfigurationError as error:
        r.log(str(error))
        return 500
    try:
        BridgedExchange(beside, sapi, r, environ).serve(cycle)
    except ClientDisconnected:
        pass
    return OK
