"""HTTP connections of the host under the event server; see http_wire.py for the other form."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

from ..httpd.hooks import DONE, OK, run_all, run_first
from ..httpd.reading import make_request
from ..protocols.http import End, Head, Refusal
from ..sapi import INTERNAL_SERVER_ERROR, ClientDisconnected, RequestError
from .http_wire import (
    CONTINUE,
    DRAINED,
    Body,
    HttpExchange,
    Nothing,
    Wire,
    any_sent,
    failure,
    refused_request,
)
from .lane import LaneExchange

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..httpd.filters import Brigade
    from ..httpd.records import Request
    from ..servers.event import EventServer, Stream
    from .http_wire import HttpSession
    from .lane import Lane, Plan

_HIGH, _LOW = 262144, 65536
"""Bytes of a body that nobody has read, at which the connection is paused, and read again."""


class EventBody(Body):
    """A body that comes as events, and is awaited; from a thread it is read as any other."""

    def __init__(self, length: int | None, wire: EventWire) -> None:
        super().__init__(length)
        self._wire = wire
        self._waiting: list[bytes] = []
        self.size = 0
        """Bytes that wait to be read."""
        self.complete = False
        self.failed: RequestError | None = None
        self._news: asyncio.Future[None] | None = None

    def put(self, data: bytes) -> None:
        """Take what came."""
        try:
            self._count(len(data))
        except RequestError as error:
            self.fail(error)
            return
        self._waiting.append(data)
        self.size += len(data)
        self.wake()

    def finish(self, trailers: list[tuple[str, str]]) -> None:
        """Take note of its end."""
        self.complete, self.trailers = True, trailers
        self.wake()

    def fail(self, error: RequestError) -> None:
        """Let whoever reads it get *error*."""
        self.failed = error
        self.wake()

    def wake(self) -> None:
        """Let whoever waits look again."""
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    @property
    def unread(self) -> bool:
        return not self.complete and self.length != 0

    async def aread(self, size: int) -> bytes:
        """Return 1 to *size* bytes, ``b""`` at the end; see ``Request.read``."""
        wire = self._wire
        while not self._ready:
            if self._waiting:
                data = b"".join(self._waiting) if len(self._waiting) > 1 else self._waiting[0]
                self._waiting.clear()
                self.size = 0
                wire.taken(self)
                self._ready = self._filtered(data) if self._filters else data
            elif self.ended:
                return b""
            elif self.complete:
                self.ended = True
                if self._filters:
                    self._ready = self._filtered(b"")
            elif self.failed is not None:
                raise self.failed
            elif wire.connection.aborted:
                raise ClientDisconnected("the body ends before its length")
            else:
                if not self.continued:
                    self.continued = True
                    wire.send_now(CONTINUE)
                self.check(wire.parser.announced)
                await self._wait()
        data, self._ready = self._ready[:size], self._ready[size:]
        return data

    async def _wait(self) -> None:
        self._news = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait_for(self._news, self._wire.body_left(self))
        except asyncio.TimeoutError:
            self.fail(RequestError("the body took too long to come", "408 Request Timeout"))
            self._wire.connection.keepalive = False

    @property
    def at_end(self) -> bool:
        """Whether everything has been read, so that nobody need wait to see the end."""
        return self.complete and not self._waiting and not self._ready and not self._filters

    def read(self, size: int) -> bytes:
        """The same, for a thread beside the loop."""
        if threading.get_ident() == self._wire.thread:
            raise RuntimeError("Request.read() blocks the event loop: use in_thread()")
        return asyncio.run_coroutine_threadsafe(self.aread(size), self._wire.loop).result()


class EventWire(Wire):
    """One connection under the event server: its ``Handler``, and its transport for httpd."""

    asynchronous = True

    def __init__(self, session: HttpSession, server: EventServer, stream: Stream) -> None:
        connection = stream.socket
        try:
            peer, local = connection.getpeername(), connection.getsockname()
        except OSError:
            peer = local = ("", 0)
        super().__init__(session, peer, local, upgrades=True)
        self.stream = stream
        self.server = server
        self.loop = server.loop
        self._body: EventBody | None = None
        """That of the running request, while it comes."""
        self._exchange: HttpExchange | None = None
        self._discarding = 0
        self.thread = threading.get_ident()
        self._gone: list[asyncio.Future[None]] = []
        self._upgraded: Callable[[bytes], None] | None = None
        self._raw: asyncio.Queue[bytes] | None = None
        """What came while a module was asked whether the connection is its own."""
        hooks = session.host.hooks
        if hooks.pre_connection and run_all(hooks.pre_connection, self.connection) not in (
            OK,
            DONE,
        ):
            stream.close()
        elif hooks.process_connection:
            self._raw = asyncio.Queue()
            server.spawn(self._process(hooks.process_connection))

    # -- what comes

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        codec = self.connection.input_codec
        if codec is not None:
            data = codec.receive(data)
            self.stream.write_now(codec.pending())
            if codec.closed:
                self.connection.keepalive = False
                if not data:
                    self.eof_received()
                    return
            if not data:
                if not codec.ready:  # a handshake that drips is not prolonged
                    self.stream.deadline = time.monotonic() + self.head_left(0)
                self.stream.watch()
                return
        if self._upgraded is not None:
            self._upgraded(data)
            return
        if self._raw is not None:
            self._raw.put_nowait(data)
            self.stream.deadline = 0.0
            self.stream.watch()
            return
        self._came = len(data)
        self.parser.receive(data)
        self._advance()

    def eof_received(self) -> None:
        """The peer sends no more, or the connection failed.

        Whether it still reads shows only when something is written: a whole request is answered.
        """
        connection = self.connection
        connection.keepalive = False
        whole = self._exchange is not None and self._body is None and self._upgraded is None
        if not whole or self._half_closed:
            connection.aborted = True
        self._half_closed = True
        if self._body is not None:
            self._body.wake()
        for waiter in self._gone:
            if not waiter.done():
                waiter.set_result(None)
        if self._upgraded is not None:
            self._upgraded(b"")
        elif self._raw is not None:
            self._raw.put_nowait(b"")
        elif self._exchange is None:
            self.stream.close()

    _half_closed = False

    def late(self) -> bool:
        """The deadline has passed: answer a request that is late; an idle connection just ends."""
        if self._exchange is None and self.parser.in_message:
            self.send_now(failure("408 Request Timeout"))
        if self._exchange is None:
            self.stream.close()
            return True
        return False

    def _advance(self) -> None:
        """Give the running request its body, or start the next one."""
        events = self.parser.events
        while events:
            if self._body is not None:
                event = events.popleft()
                if event.__class__ is bytes:
                    self._body.put(event)
                    continue
                body, self._body = self._body, None
                if event.__class__ is End:
                    body.finish(event.trailers)
                else:
                    assert isinstance(event, Refusal)  # noqa: S101 - nothing else can follow
                    self.connection.keepalive = False
                    body.fail(RequestError(event.message, event.status))
                continue
            if self._discarding:
                event = events.popleft()
                if event.__class__ is bytes:
                    self._discarding -= len(event)
                    if self._discarding > 0:
                        continue
                    self.close(lingering=True)
                    return
                self._discarding = 0
                if event.__class__ is not End:
                    self.close(lingering=True)
                    return
                continue
            if self._exchange is not None:
                self.stream.pause()  # its turn comes when the present one is served
                return
            event = events.popleft()
            if event.__class__ is Head:
                lane = self.session.lane
                if lane is not None and event.length == 0 and event.upgrade is None:
                    plan = lane.find(event)
                    if plan is not None and self.connection.input_codec is None:
                        self._start_plain(event, plan, lane)
                        continue
                self._start(event)
            elif event.__class__ is Refusal:
                self._refuse(event)
        stream = self.stream
        if self._exchange is not None:
            stream.deadline = 0.0
        elif self.parser.in_message:
            stream.deadline = time.monotonic() + self.head_left(self._came)
        else:
            stream.deadline = time.monotonic() + self.connection.base_server.keep_alive_timeout
        if self._body is not None and self._body.size > _HIGH:
            stream.pause()  # until the handler has taken some of it
        else:
            stream.watch()

    _came = 0

    def taken(self, body: EventBody) -> None:
        """Go on reading once the handler has taken a body."""
        if body is self._body and not self.stream.closed:
            self.stream.watch()

    # -- requests

    def _start(self, head: Head) -> None:
        self._head_began = 0.0
        body: Body
        if head.length == 0:
            body = Nothing(0)
        else:
            body = self._body = EventBody(head.length, self)
            body.continued = not head.expects_continue
        r = make_request(self.connection, head, body)
        if self.session.stopping:
            self.connection.keepalive = False
        exchange = self._exchange = HttpExchange(self.session.sapi, r)
        exchange.task = self.server.spawn(self._run(exchange))

    def _start_plain(self, head: Head, plan: Plan, lane: Lane) -> None:
        """Start a request that goes the short way, see lane.py."""
        self._head_began = 0.0
        connection, server = self.connection, lane.server
        connection.keepalive = (
            head.keep_alive
            and server.keep_alive
            and (not server.keep_alive_max or connection.keepalives + 1 < server.keep_alive_max)
            and not self.session.stopping
        )
        exchange = LaneExchange(self, head, plan, lane)
        self._exchange = exchange  # type: ignore[assignment]
        exchange.task = self.server.start(self._run_plain(exchange))

    async def _run_plain(self, exchange: LaneExchange) -> None:
        try:
            await self.session.cycle(exchange)
        except asyncio.CancelledError:
            exchange.cut()
            raise
        except Exception:
            self.session.sapi.log_exception("internal: a request failed")
            exchange.cut()
        finally:
            self.server.over(exchange.task)
        connection, stream = self.connection, self.stream
        connection.keepalives += 1
        self._exchange = None
        if stream.closed:
            return
        if connection.aborted:
            stream.reset()
        elif not connection.keepalive:
            self.close()
        elif self.parser.events:
            self._advance()
        else:
            stream.deadline = time.monotonic() + connection.base_server.keep_alive_timeout

    def _refuse(self, refusal: Refusal) -> None:
        self.connection.keepalive = False
        r = refused_request(self.connection, refusal)
        exchange = self._exchange = HttpExchange(self.session.sapi, r, refusal.status)
        exchange.task = self.server.spawn(self._run(exchange))

    async def _run(self, exchange: HttpExchange) -> None:
        try:
            await self.session.cycle(exchange)
        except asyncio.CancelledError:
            exchange.cut()
            raise
        exchange.over = True
        connection, stream, r = self.connection, self.stream, exchange.request
        connection.keepalives += 1
        self._exchange = None
        if stream.closed or self._upgraded is not None:
            return
        if r.upgrade is not None:
            self.parser.resume()  # nobody took it: what follows is HTTP
        body, self._body = self._body, None
        if connection.aborted:
            stream.reset()
        elif not connection.keepalive:
            self.close(lingering=r.body.unread or bool(exchange.refused))
        elif body is not None:
            if not body.continued or (body.length or 0) - body.taken > DRAINED:
                self.close(lingering=True)
            else:
                self._discarding = DRAINED
                self._advance()
        else:
            self._advance()

    # -- the transport

    @property
    def upgraded(self) -> bool:
        """Whether the connection was given away."""
        return self._upgraded is not None

    def send_bytes(self, data: bytes) -> None:
        """Send *data*."""
        if threading.get_ident() != self.thread:
            asyncio.run_coroutine_threadsafe(self._send_bytes_for_thread(data), self.loop).result()
        elif self.stream.closed:
            self.connection.aborted = True
        else:
            self.send_now(data)

    async def _send_bytes_for_thread(self, data: bytes) -> None:
        self.send_bytes(data)
        await self.stream.drained()

    def send_brigade(self, r: Request, brigade: Brigade) -> None:
        """Send what is in *brigade*; a thread waits until the client has taken most of it."""
        if threading.get_ident() != self.thread:
            asyncio.run_coroutine_threadsafe(self._send_for_thread(r, brigade), self.loop).result()
            return
        pieces = self.framed(r, brigade)
        if self.stream.closed:
            self.connection.aborted = True
        if self.connection.aborted:
            return
        codec, stream = self.connection.input_codec, self.stream
        for piece in pieces:
            if isinstance(piece, bytes):
                data = piece
                stream.write(data, None if codec is None else codec.send)
            else:
                translate = None if codec is None else codec.send
                stream.write_file(piece.fd, piece.offset, piece.length, translate)

    async def _send_for_thread(self, r: Request, brigade: Brigade) -> None:
        self.send_brigade(r, brigade)
        await self.stream.drained()

    async def _process(self, functions: Any) -> None:
        """Let modules have the connection (process_connection), in a thread."""
        raw = self._raw
        assert raw is not None  # noqa: S101 - made for this
        result = await self.loop.run_in_executor(None, run_first, functions, self.connection)
        self._raw = None
        if result == OK:
            self.close()
            return
        while not raw.empty():
            data = raw.get_nowait()
            if data:
                self.data_received(data)
        self.stream.watch()

    def receive(self) -> bytes:
        """Return the next bytes, ``b""`` at the end: for process_connection, in its thread."""
        assert self._raw is not None  # noqa: S101 - a module has the connection
        return asyncio.run_coroutine_threadsafe(self._raw.get(), self.loop).result()

    def send(self, data: bytes) -> None:
        """Send *data*: for process_connection, in its thread."""
        asyncio.run_coroutine_threadsafe(self._send_bytes_for_thread(data), self.loop).result()

    def send_now(self, data: bytes) -> None:
        """Send *data* beside all filters."""
        codec = self.connection.input_codec
        self.stream.write(data, None if codec is None else codec.send)

    async def drained(self) -> None:
        """Wait until the client has taken most of what was written, or is gone."""
        await self.stream.drained()

    def in_thread(self, function: Callable[[Request], int], r: Request) -> Awaitable[int]:
        """Return an awaitable of what *function*, called in a thread, returns."""
        return self.loop.run_in_executor(None, function, r)

    def is_aborted(self) -> bool:
        """Look whether the client has gone, or sends no more at least."""
        return self.connection.aborted or self._half_closed

    async def wait_disconnect(self) -> None:
        """Return when the client has gone, as far as one can see it."""
        if not self.connection.aborted and not self._half_closed:
            waiter = self.loop.create_future()
            self._gone.append(waiter)
            try:
                await waiter
            finally:
                self._gone.remove(waiter)

    def upgrade(self, receive: Callable[[bytes], None]) -> bytes:
        """Give the connection away: *receive* gets what comes from now on, ``b""`` at its end.

        Returns what has come already.
        """
        self.parser.stop()
        self._upgraded = receive
        self.stream.deadline = 0.0
        return self.parser.rest()

    def cut(self, r: Request) -> None:
        """End the response to *r* where it is; before its begin with what the servers say of it."""
        if threading.get_ident() != self.thread:
            self.loop.call_soon_threadsafe(self.cut, r)
            return
        if self.stream.closed or self.connection.aborted:
            return
        if not any_sent(r):
            exchange = self._exchange
            said = INTERNAL_SERVER_ERROR if exchange is None else exchange.failure_status
            self.send_now(failure(said))
            self.close(lingering=r.body.unread)
        else:
            self.stream.reset()

    def close(self, *, lingering: bool = False) -> None:
        """Close the connection; *lingering* while the client may still be sending."""
        codec = self.connection.input_codec
        if codec is not None and not self.stream.closed:
            self.stream.write(b"", lambda data: codec.close())
        if lingering:
            self.stream.close_lingering()
        else:
            self.stream.close()
