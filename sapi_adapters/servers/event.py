"""The event server: one process, one loop, many requests at a time; for ASGI applications.

The loop is asyncio's, uvloop's when that is installed. Sockets are used directly, not through
transports: a front end's request is complete when its connection is accepted, and its response
fits one write, so most connections never have to be registered with the loop at all.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from ..sapi import ProtocolError
from .blocking import LATE_SECONDS, accept_failed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from ..sapi import Sapi
    from .listener import Listener

_DONTWAIT = socket.MSG_DONTWAIT
_BLOCK = 65536
_PIECE = 1 << 20
"""Bytes of a file that one call sends at most: other connections have their turn then."""
_HIGH, _LOW = 262144, 65536  # bytes not taken by the peer at which a writer waits, and goes on


class Handler(Protocol):
    """What an adapter makes of one connection."""

    def data_received(self, data: bytes) -> None:
        """Take what came. :class:`ProtocolError` resets the connection."""

    def eof_received(self) -> None:
        """The peer sends no more, or the connection failed."""

    def late(self) -> bool:
        """The stream's deadline has passed: True when that was seen to, else it is reset."""


class _File:
    """A part of a file that is to be sent."""

    __slots__ = ("fd", "length", "offset", "translate")

    def __init__(
        self, fd: int, offset: int, length: int, translate: Callable[[bytes], bytes] | None
    ) -> None:
        self.fd = os.dup(fd)
        self.offset = offset
        self.length = length
        self.translate = translate

    def close(self) -> None:
        """Let go of the file."""
        os.close(self.fd)


class Stream:
    """One accepted connection of the event server."""

    __slots__ = (
        "_backlog",
        "_closing",
        "_drained",
        "_fd",
        "_files",
        "_lingering",
        "_loop",
        "_reading",
        "_server",
        "_socket",
        "closed",
        "deadline",
        "handler",
        "stalled",
    )

    def __init__(self, server: EventServer, connection: socket.SocketType, fd: int) -> None:
        self._server = server
        self._loop = server.loop
        self._socket = connection
        self._fd = fd
        self._backlog = bytearray()
        self._files: deque[_File | tuple[bytes, Callable[[bytes], bytes] | None]] = deque()
        self._reading = False
        self._closing = False
        self._lingering = -1
        self._drained: asyncio.Future[None] | None = None
        self.closed = False
        self.deadline = 0.0
        """When the connection is closed unless the handler changes it; 0 for never."""
        self.stalled = 0.0
        self.handler: Handler

    @property
    def socket(self) -> socket.SocketType:
        """The connection itself, to ask for its addresses."""
        return self._socket

    @property
    def lingers(self) -> bool:
        """Whether the response is complete and only what the peer still sends is awaited."""
        return self._lingering >= 0

    def fileno(self) -> int:
        """Return the connection's descriptor."""
        return self._fd

    # -- reading

    def watch(self) -> None:
        """Read what comes from now on."""
        if not self._reading and not self.closed and self._lingering < 0:
            self._reading = True
            self._loop.add_reader(self._fd, self._readable)

    def pause(self) -> None:
        """Read nothing until :meth:`watch`."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def _readable(self) -> None:
        try:
            data = self._socket.recv(_BLOCK, _DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if self._lingering >= 0:
            self._lingering -= len(data)
            if not data or self._lingering < 0:
                self._close_now()
        elif data:
            self.give(data)
        else:
            self.pause()
            self.handler.eof_received()

    def give(self, data: bytes) -> None:
        """Hand *data* to the handler."""
        try:
            self.handler.data_received(data)
        except ProtocolError as error:
            self._server.sapi.sapi_error(error, "reading from the web server")
            self.handler.eof_received()
            self.reset()

    # -- writing

    def write(self, data: bytes, translate: Callable[[bytes], bytes] | None = None) -> None:
        """Send *data*, or keep what the peer does not take yet. After a failure nothing is sent.

        With *translate* it is sent as that makes it, and in the order of the calls.
        """
        if self.closed:
            return
        if self._files:
            self._files.append((data, translate))
            return
        self.write_now(data if translate is None else translate(data))

    def write_now(self, data: bytes) -> None:
        """The same for what is translated already, before what waits for its translation."""
        if self.closed or not data:
            return
        if self._backlog:
            self._backlog += data
            return
        try:
            sent = self._socket.send(data, _DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.handler.eof_received()
            self._close_now()
            return
        if sent != len(data):
            self._backlog += memoryview(data)[sent:]
            self.stalled = time.monotonic()
            self._loop.add_writer(self._fd, self._writable)

    def write_file(
        self,
        fd: int,
        offset: int,
        length: int,
        translate: Callable[[bytes], bytes] | None = None,
    ) -> None:
        """Send *length* bytes of the file *fd* from *offset* on, as the peer takes them.

        With *translate* they are read and sent as that makes them. The file may be closed by
        the caller at once.
        """
        if self.closed or not length:
            return
        busy = bool(self._files or self._backlog)
        self._files.append(_File(fd, offset, length, translate))
        if not busy:
            self.stalled = time.monotonic()
            self._loop.add_writer(self._fd, self._writable)
            self._writable()

    def _send_some(self) -> None:
        """Send what can be sent at once of the backlog, or else of the first file."""
        if self._backlog:
            del self._backlog[: self._socket.send(self._backlog, _DONTWAIT)]
            return
        first = self._files[0]
        if isinstance(first, tuple):
            self._files.popleft()
            data, translate = first
            self._backlog += data if translate is None else translate(data)
            return
        if first.translate is None:
            sent = os.sendfile(self._fd, first.fd, first.offset, min(first.length, _PIECE))
        else:
            block = os.pread(first.fd, min(first.length, _BLOCK), first.offset)
            self._backlog += first.translate(block) if block else b""
            sent = len(block)
        if not sent:
            raise OSError("the file became shorter while it was being sent")
        first.offset, first.length = first.offset + sent, first.length - sent
        if not first.length:
            first.close()
            self._files.popleft()

    def _writable(self) -> None:
        try:
            self._send_some()
        except BlockingIOError:
            return
        except OSError:
            self.handler.eof_received()
            self._close_now()
            return
        self.stalled = time.monotonic()
        if not self._backlog and not self._files:
            self.stalled = 0.0
            self._loop.remove_writer(self._fd)
            if self._closing:
                self._close_now()
            elif self._lingering >= 0:
                self._shut_down()
        if len(self._backlog) <= _LOW and not self._files:
            self._wake()

    async def drained(self) -> None:
        """Wait until the peer has taken most of what was written, or is gone."""
        if len(self._backlog) > _HIGH or self._files:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)

    def _wake(self) -> None:
        if self._drained is not None:
            if not self._drained.done():
                self._drained.set_result(None)
            self._drained = None

    # -- closing

    def close(self) -> None:
        """Close once everything is sent; nothing is outstanding from the peer."""
        if self._backlog or self._files:
            self._closing = True
        else:
            self._close_now()

    def close_lingering(self, limit: int = 1 << 20) -> None:
        """Close as :meth:`close`, but let a peer that still sends read the response first."""
        if self.closed or self._lingering >= 0:
            return
        self.watch()
        self._lingering = limit
        if not self._backlog and not self._files:
            self._shut_down()

    def _shut_down(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._close_now()
            return
        self.deadline = time.monotonic() + 2.0

    def reset(self) -> None:
        """Close so that the peer sees a failure and no plain end, where the socket can tell."""
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        except OSError:
            pass
        self._close_now()

    def _close_now(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.pause()
        if self._backlog or self._files:
            self._backlog.clear()
            for each in self._files:
                if isinstance(each, _File):
                    each.close()
            self._files.clear()
            self._loop.remove_writer(self._fd)
        self._socket.close()
        self._server.streams.discard(self)
        self._wake()


class EventServer:
    """Serves *listeners*; *connect* makes the handler of a fresh :class:`Stream`.

    *start* and *stop_application* are awaited before the first accept and after the last
    response. *timeout* is how many seconds a peer may take nothing, *grace* how many requests may
    go on after :meth:`stop`; *blame* is called before those that still run are cancelled. The rest
    is ``BlockingServer``'s.
    """

    def __init__(
        self,
        listeners: Sequence[Listener],
        connect: Callable[[Stream], Handler],
        sapi: Sapi,
        *,
        start: Callable[[], Coroutine[Any, Any, None]],
        stop_application: Callable[[], Coroutine[Any, Any, None]],
        ready: Callable[[], None] | None = None,
        timeout: float = 60.0,
        idle_timeout: float = 10.0,
        grace: float = 0.0,
        tick: Callable[[], bool] | None = None,
        blame: Callable[[], None] = lambda: None,
    ) -> None:
        self._blame = blame
        self._listeners = listeners
        self._connect = connect
        self.sapi = sapi
        self._start = start
        self._stop_application = stop_application
        self._ready = ready
        self._timeout = timeout
        self._idle_timeout = idle_timeout
        self._grace = grace
        self._tick = tick
        self._tasks: set[asyncio.Task[None]] = set()
        self._woken: asyncio.Event | None = None
        self.loop: asyncio.AbstractEventLoop
        self.streams: set[Stream] = set()
        self.stopping = False

    def stop(self) -> None:
        """End after the requests that are being served. May be called from a signal handler."""
        self.stopping = True
        if self._woken is not None:
            self.loop.call_soon_threadsafe(self._woken.set)

    def terminate(self) -> None:
        """End now: running requests are cancelled. May be called from a signal handler."""
        self._grace = 0.001
        self.stop()

    def run(self) -> None:
        """Serve until :meth:`stop`, or *tick* or the SAPI's ``terminating`` says so.

        Raises :class:`ConfigurationError` when the application refuses to start.
        """
        loop = self.loop = new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._serve())
        finally:
            try:
                _cancel_all(loop)
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.run_until_complete(loop.shutdown_default_executor())
            finally:
                asyncio.set_event_loop(None)
                loop.close()

    async def _serve(self) -> None:
        self._woken = asyncio.Event()
        await self._start()
        try:
            for listener in self._listeners:
                listener.socket.setblocking(False)
                self.loop.add_reader(listener.fd, self._accept, listener)
            if self._ready is not None:
                self._ready()
            await self._until_stopped()
        finally:
            for listener in self._listeners:
                self.loop.remove_reader(listener.fd)
            await self._finish()
            await self._stop_application()

    async def _until_stopped(self) -> None:
        assert self._woken is not None  # noqa: S101 - set by the caller
        while not self.stopping:
            try:
                await asyncio.wait_for(self._woken.wait(), 1.0)
            except asyncio.TimeoutError:
                pass
            self._close_late()
            if self._tick is not None and not self._tick():
                self.stopping = True

    async def _finish(self) -> None:
        """Let running requests end, then close the connections."""
        late = time.monotonic() + LATE_SECONDS
        while self._grace >= LATE_SECONDS or not self._grace:
            # Their requests are on their way, and only this process can take them.
            if not any(stream.deadline for stream in self.streams) or time.monotonic() > late:
                break
            await asyncio.sleep(0.01)
        end = time.monotonic() + self._grace if self._grace else None
        while self._tasks:
            left = 1.0 if end is None else min(1.0, end - time.monotonic())
            if left <= 0:
                break
            await asyncio.wait(self._tasks, timeout=left)
            self._close_late()
            if self._tick is not None:
                self._tick()
        if self._tasks:
            self._blame()
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=1.0)
        for stream in list(self.streams):
            stream.close()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run *coroutine* as one request's task."""
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """The same for one that ends with :meth:`over`: it costs the loop one step less."""
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        return task

    def over(self, task: asyncio.Task[None]) -> None:
        """Note that *task*, which :meth:`start` began, has come to its end."""
        self._tasks.discard(task)
        if self.sapi.terminating:
            self._stop_accepting()

    def _stop_accepting(self) -> None:
        """Take no connection from now on, and end."""
        for listener in self._listeners:
            self.loop.remove_reader(listener.fd)
        self.stop()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self.sapi.terminating:
            self._stop_accepting()
        if not task.cancelled() and (error := task.exception()) is not None:
            self.sapi.log_message(f"internal: a request ended with {error!r}")

    def _accept(self, listener: Listener) -> None:
        for _ in range(64):  # then the tasks take their turn
            try:
                fd, peer = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if not accept_failed(error, self.sapi):
                    self.stop()
                return
            if listener.allows is not None and not listener.allows(peer):
                os.close(fd)
                continue
            connection = socket.SocketType(listener.family, socket.SOCK_STREAM, 0, fd)
            stream = Stream(self, connection, fd)
            stream.handler = self._connect(stream)
            self.streams.add(stream)
            try:
                data = connection.recv(_BLOCK, _DONTWAIT)
            except BlockingIOError:
                stream.deadline = time.monotonic() + self._idle_timeout
                stream.watch()
            except OSError:
                stream.close()
            else:
                if data:
                    stream.give(data)
                else:
                    stream.close()

    def _close_late(self) -> None:
        now = time.monotonic()
        for stream in list(self.streams):
            late = stream.deadline and stream.deadline < now
            if late and stream.lingers is False and stream.handler.late():
                continue
            if late or (stream.stalled and stream.stalled + self._timeout < now):
                stream.handler.eof_received()
                stream.reset()


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new loop: uvloop's when it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
