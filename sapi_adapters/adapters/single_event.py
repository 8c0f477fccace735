"""Connections that carry one request at a time, for the event server (ASGI)."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from ..protocols.cgi import mend
from ..protocols.single import BodyEnded, BodyReceived, RequestReceived
from ..sapi import RequestError, refuse, request_line
from .exchanges import HEAD_SECONDS, AwaitedExchange
from .single import SingleResponse

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from ..protocols.single import Codec
    from ..servers.event import EventServer, Stream
    from .single import SingleSapi

_HIGH, _LOW = 262144, 65536  # bytes of an unread body at which reading stops, and goes on


class SingleEventExchange(SingleResponse, AwaitedExchange):
    """One request that the event server serves."""

    def __init__(
        self,
        link: SingleHandler,
        environ: dict[str, Any],
        body: bytes,
        codec: Codec,
        *,
        whole: bool,
    ) -> None:
        super().__init__(link, environ, body, whole=whole)
        self.whole = whole
        self.codec = codec

    async def flush(self) -> None:
        if not self.aborted and not self.ended:
            self._link.stream.write(self._take_flushed())
            await self._link.stream.drained()


class SingleHandler:
    """One connection of the event server: a ``servers.event.Handler``."""

    def __init__(
        self, server: EventServer, stream: Stream, sapi: SingleSapi, cycle: Callable[[Any], Any]
    ) -> None:
        self.sapi = sapi
        self.stream = stream
        self._server = server
        self._cycle = cycle
        self._codec: Codec | None = None
        self._exchange: SingleEventExchange | None = None
        self._eof = False

    def data_received(self, data: bytes) -> None:
        """Take what came: start a request, feed its body."""
        codec = self._codec
        if codec is None:
            codec = self._codec = self.sapi.codec()
            found = None if self.sapi.whole is None else self.sapi.whole(data)
            if found is not None:
                environ, body = found
                self._start(SingleEventExchange(self, environ, body, codec, whole=True))
                return
        elif self._exchange is not None and self._exchange.whole:
            return  # the codec has not seen the request, and nothing belongs behind it
        try:
            events = codec.receive_data(data)
        except RequestError as error:
            self._failed(codec, error)
            return
        answer = codec.data_to_send()
        if answer:
            self.stream.write(answer)
        for event in events:
            exchange = self._exchange
            if isinstance(event, RequestReceived):
                fresh = SingleEventExchange(self, event.environ, b"", codec, whole=False)
                self._start(fresh)
            elif exchange is None:
                continue  # it was refused, or is over
            elif isinstance(event, BodyReceived):
                exchange.put(event.data)
            elif isinstance(event, BodyEnded):
                exchange.input_ended, exchange.short = True, event.short
                exchange.post_ended = not event.short and not exchange.unread()
                exchange.wake()
        if self._exchange is not None or codec.idle:
            self.stream.deadline = 0.0
        elif not self.stream.deadline:  # bytes that drip in do not prolong it
            self.stream.deadline = time.monotonic() + HEAD_SECONDS
        if self._exchange is not None and self._exchange.unread() > _HIGH:
            self.stream.pause()
        else:
            self.stream.watch()

    def late(self) -> bool:
        """A head that took too long is nobody's to answer: the connection is reset."""
        return False

    def taken(self, exchange: SingleEventExchange) -> None:
        """Go on reading once the application has taken enough of a body."""
        if exchange.unread() < _LOW and not self._eof:
            self.stream.watch()

    def wanted(self, exchange: SingleEventExchange) -> None:
        """Ask for more of the body, where it does not come unasked."""
        self.stream.write(exchange.codec.ask())

    def _start(self, exchange: SingleEventExchange) -> None:
        self._exchange = exchange
        self.stream.deadline = 0.0
        try:
            mend(exchange.environ, self.sapi.mount, split=self.sapi.split)
        except RequestError as error:
            answer = partial(self._refuse, error)
            self._server.spawn(self.sapi.serve_instead(exchange, answer))
            return
        task = self._server.spawn(self._run(exchange))
        # The connection is registered with the loop only for requests that outlive their first
        # step: the others have answered and closed by then.
        self._server.loop.call_soon(self._watch_if, task)

    def _watch_if(self, task: asyncio.Task[None]) -> None:
        if not self.stream.closed:
            self.stream.watch()

    async def _run(self, exchange: SingleEventExchange) -> None:
        try:
            await self._cycle(exchange)
        finally:
            exchange.cut()  # nothing, when the response is over

    def _failed(self, codec: Codec, error: RequestError) -> None:
        """Answer what is no request; in the middle of one it is given up."""
        if self._exchange is not None:
            self.sapi.sapi_error(error, "reading from the web server")
            self.eof_received()
            return
        self._exchange = exchange = SingleEventExchange(
            self, codec.environ, b"", codec, whole=False
        )
        answer = partial(self._refuse, error)
        self._server.spawn(self.sapi.serve_instead(exchange, answer))

    async def _refuse(self, error: RequestError, exchange: SingleEventExchange) -> None:
        self.sapi.sapi_error(error, request_line(exchange.environ))
        refuse(exchange, error.status)
        await exchange.finish()

    def over(self, exchange: SingleEventExchange) -> None:
        """Note that the response of *exchange* is complete or cut."""
        self._exchange = None
        if exchange.broken or exchange.aborted:
            self.stream.reset()
        elif exchange.codec.reusable:
            if self._eof or self._server.stopping:  # a busy one would keep the worker for ever
                self.stream.close()
            else:
                self.stream.give(b"")  # the next one may be there
        elif exchange.input_ended:
            self.stream.close()
        else:
            self.stream.close_lingering()

    def eof_received(self) -> None:
        """The web server has gone: for the request of this connection that means an abort."""
        self._eof = True
        if self._exchange is not None:
            self._exchange.give_up()
        else:
            self.stream.close()
