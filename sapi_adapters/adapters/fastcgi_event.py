"""FastCGI exchanges, and the connections they run on, for the event server (ASGI)."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from ..protocols.cgi import mend
from ..protocols.fastcgi import (
    Aborted,
    Connection,
    RequestReceived,
    StdinEnded,
    StdinReceived,
    parse_whole,
)
from ..sapi import WARNING, RequestError, refuse, request_line
from .exchanges import HEAD_SECONDS, AwaitedExchange
from .fastcgi_exchange import ROLES, FastcgiResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..protocols.fastcgi import Request
    from ..servers.event import EventServer, Stream

_HIGH, _LOW = 262144, 65536  # bytes of an unread body at which reading stops, and goes on


class EventExchange(FastcgiResponse, AwaitedExchange):
    """One request that the event server serves."""

    def __init__(
        self,
        link: EventLink,
        environ: dict[str, Any],
        body: bytes,
        keep_conn: bool,
        request: Request | None = None,
    ) -> None:
        super().__init__(link, environ, body, whole=request is None)
        self.keep_conn = keep_conn
        self.request = request
        if request is not None:
            self._id = request.id


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

    def wanted(self, exchange: EventExchange) -> None:
        """FastCGI's bodies come unasked."""

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
