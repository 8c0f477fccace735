"""FastCGI exchanges, and the connections they run on, for the event server (ASGI)."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from ..manager.scoreboard import FINISHING
from ..protocols.cgi import mend
from ..protocols.fastcgi import (
    Aborted,
    Connection,
    RequestReceived,
    StdinEnded,
    StdinReceived,
    parse_whole,
)
from ..sapi import WARNING, AsyncExchange, ClientDisconnected, RequestError, refuse, request_line
from ..servers.spool import Spool
from .fastcgi_exchange import HEAD_SECONDS, HELD, ROLES, FastcgiResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..protocols.fastcgi import Request
    from ..servers.event import EventServer, Stream

BODY_SECONDS = 60.0
"""How long a peer may send nothing of a body that the application waits for."""
_HIGH, _LOW = 262144, 65536  # bytes of an unread body at which reading stops, and goes on


class EventExchange(FastcgiResponse, AsyncExchange):
    """One request that the event server serves."""

    def __init__(
        self,
        link: EventLink,
        environ: dict[str, Any],
        body: bytes,
        keep_conn: bool,
        request: Request | None = None,
    ) -> None:
        self.sapi = link.sapi
        self.environ = environ
        self.keep_conn = keep_conn
        self.request = request
        self.short = False
        self.input_ended = request is None
        self.post_ended = self.input_ended and not body
        self._link = link
        self._spool: Spool | None = None
        self._input = body
        self._news: asyncio.Future[None] | None = None
        if request is not None:
            self._id = request.id

    # -- what the link says

    def set_length(self, length: int) -> None:
        """Hold a body that came whole to its CONTENT_LENGTH."""
        if len(self._input) > length:
            self.sapi.log_message("request: bytes beyond CONTENT_LENGTH are discarded", WARNING)
            self._input = self._input[:length]
        else:
            self.short = True
        self.post_ended = not self._input and not self.short

    def put(self, data: bytes) -> None:
        """Take bytes of the body."""
        if self._spool is None:
            self._spool = Spool()
        self._spool.put(data)
        self.wake()

    def unread(self) -> int:
        """Return how many bytes of the body wait to be read."""
        return 0 if self._spool is None else len(self._spool)

    def give_up(self) -> None:
        """The client has gone."""
        self.aborted = True
        self.wake()

    def wake(self) -> None:
        """Let whoever waits look again."""
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _next_news(self) -> asyncio.Future[None]:
        """Return what is done at the next :meth:`wake`, from this very moment on."""
        if self._news is None or self._news.done():
            self._news = asyncio.get_running_loop().create_future()
        return asyncio.shield(self._news)

    # -- the interface

    async def read_post(self, size: int) -> bytes:
        while True:
            if self._input:
                data = self._input[:size]
                self._input = self._input[size:]
            elif self._spool is not None and self._spool:
                data = self._spool.get(size)
                self._link.taken(self)
            else:
                data = b""
            if data or (self.input_ended and not self.short):
                left = self._input or self._spool
                self.post_ended = self.input_ended and not self.short and not left
                return data
            if self.aborted or self.short:
                raise ClientDisconnected("the request was given up, or its body ends short")
            try:
                await asyncio.wait_for(self._next_news(), BODY_SECONDS)
            except asyncio.TimeoutError:
                self.give_up()
                raise ClientDisconnected(f"nothing came for {BODY_SECONDS:.0f} s") from None

    async def flush(self) -> None:
        if not self.aborted and not self.ended:
            self._link.stream.write(self._take())
            await self._link.stream.drained()

    async def finish(self) -> None:
        if not self.ended:
            self.ended = True
            data = self._take_aborted() if self.aborted else self._take_all()
            self._link.stream.write(data)
            if self.note_stage is not None:
                self.note_stage(FINISHING)
            self._link.over(self)
            self.wake()

    def cut(self) -> None:
        if not self.ended:
            data = self._take_aborted() if self.aborted else self._take_cut()
            self._link.stream.write(data)
            self.ended = True
            self._link.over(self)
            self.wake()

    def ub_write(self, data: bytes) -> None:
        self.written += len(data)
        self._body = self._body + data if self._body else data
        if len(self._body) > HELD and not self.aborted and not self.ended:
            self._link.stream.write(self._take())

    async def wait_disconnect(self) -> None:
        while not self.aborted and not self.ended:
            await self._next_news()

    async def read_file(self, file: Any, size: int) -> bytes:
        loop = asyncio.get_running_loop()
        data: bytes = await loop.run_in_executor(None, file.read, size)
        return data

    def fileno(self) -> int | None:
        return self._link.stream.fileno()


class EventLink:
    """One connection of the event server: a ``servers.event.Handler``."""

    def __init__(
        self,
        server: EventServer,
        stream: Stream,
        sapi: Any,
        cycle: Callable[[Any], Any],
        values: dict[bytes, bytes],
        max_requests: int,
    ) -> None:
        self.sapi = sapi
        self.stream = stream
        self._server = server
        self._cycle = cycle
        self._values = values
        self._max_requests = max_requests
        self._connection: Connection | None = None
        self._active: dict[int, EventExchange] = {}
        self._eof = False

    def data_received(self, data: bytes) -> None:
        """Take what came: start requests, feed bodies."""
        if self._connection is None:
            whole = parse_whole(data) if not self._active else None
            if whole is not None:
                environ, keep_conn, body = whole
                exchange = EventExchange(self, environ, body, keep_conn)
                self.stream.deadline = 0.0
                self._start(exchange, body)
                return
            self._connection = Connection(
                multiplex=True, max_requests=self._max_requests, values=self._values
            )
            for active in self._active.values():  # a whole request whose connection is read on
                active.request = self._connection.adopt(
                    active._id, active.keep_conn, active.environ
                )
        self._feed(self._connection, data)

    def _feed(self, connection: Connection, data: bytes) -> None:
        for event in connection.receive_data(data):
            request = event.request
            if isinstance(event, RequestReceived):
                exchange = EventExchange(self, request.params, b"", request.keep_conn, request)
                if request.role in ROLES:
                    exchange.environ.setdefault("FCGI_ROLE", ROLES[request.role])
                self._start(exchange, None)
                continue
            exchange = self._active[request.id]
            if isinstance(event, StdinReceived):
                exchange.put(event.data)
            elif isinstance(event, StdinEnded):
                exchange.input_ended = True
                exchange.short = event.short
                exchange.wake()
            elif isinstance(event, Aborted):
                exchange.give_up()
        answer = connection.data_to_send()
        if answer:
            self.stream.write(answer)
        if not connection.unfinished:
            self.stream.deadline = 0.0
        elif not self.stream.deadline:  # bytes that drip in do not prolong it
            self.stream.deadline = time.monotonic() + HEAD_SECONDS
        if connection.should_close:
            self.stream.close_lingering()
        elif len(self._active) == 1:
            # A single request's body is read no faster than the application takes it; with
            # others on the connection it goes on, to a file, as it must not block them.
            (exchange,) = self._active.values()
            if exchange.unread() > _HIGH and not exchange.keep_conn:
                self.stream.pause()
                return
        self.stream.watch()

    def late(self) -> bool:
        """A head that took too long is nobody's to answer: the connection is reset."""
        return False

    def taken(self, exchange: EventExchange) -> None:
        """Go on reading once the application has taken enough of a body."""
        if exchange.unread() < _LOW and not self._eof:
            self.stream.watch()

    def _start(self, exchange: EventExchange, body: bytes | None) -> None:
        try:
            length = mend(exchange.environ, self.sapi.mount, split=self.sapi.split)
        except RequestError as error:
            self._active[exchange._id] = exchange
            answer = partial(self._refuse, error)
            self._server.spawn(self.sapi.serve_instead(exchange, answer))
            return
        if body is not None and length >= 0 and length != len(body):
            exchange.set_length(length)
        self._active[exchange._id] = exchange
        task = self._server.spawn(self._run(exchange))
        if body is not None:
            # The connection is registered with the loop only for requests that outlive their
            # first step: the others have answered and closed by then.
            self._server.loop.call_soon(self._watch_if, task)

    def _watch_if(self, task: asyncio.Task[None]) -> None:
        if not self.stream.closed:
            self.stream.watch()

    async def _run(self, exchange: EventExchange) -> None:
        try:
            await self._cycle(exchange)
        finally:
            exchange.cut()  # nothing, when the response is over

    async def _refuse(self, error: RequestError, exchange: EventExchange) -> None:
        self.sapi.sapi_error(error, request_line(exchange.environ))
        refuse(exchange, error.status)
        await exchange.finish()

    def over(self, exchange: EventExchange) -> None:
        """Note that the response of *exchange* is complete or cut."""
        self._active.pop(exchange._id, None)
        connection, request = self._connection, exchange.request
        if exchange.broken or (exchange.aborted and self._eof):
            self.stream.reset()
            return
        if connection is not None:
            if request is not None and request.excess:
                self.sapi.log_message(
                    f"request: {request.excess} bytes beyond CONTENT_LENGTH were discarded", WARNING
                )
            assert request is not None  # noqa: S101 - every request of a codec has its own
            connection.end(request)
            if connection.should_close:
                if request.stdin_ended:
                    self.stream.close()
                else:
                    self.stream.close_lingering()
                return
            if connection.idle:
                self._connection = None
        elif not exchange.keep_conn:
            self.stream.close()
            return
        if self._eof and not self._active:
            self.stream.close()
        elif not self._eof:
            self.stream.watch()

    def eof_received(self) -> None:
        """The web server has gone: for every request of this connection that means an abort."""
        self._eof = True
        for exchange in list(self._active.values()):
            exchange.give_up()
        if not self._active:
            self.stream.close()
