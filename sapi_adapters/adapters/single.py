"""Connections that carry one request at a time, SCGI's and AJP's, for the blocking and threaded
servers; single_event.py has the awaitable form.

A codec (protocols/single.py) knows the wire; a SAPI gives one to each connection.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ..manager.scoreboard import IDLE, INFORMATION, READING
from ..protocols.cgi import mend
from ..protocols.single import BodyEnded, BodyReceived, RequestReceived
from ..sapi import (
    ClientDisconnected,
    Exchange,
    ProtocolError,
    RequestError,
    forbids_body,
    refuse,
    request_line,
)
from ..servers.spool import Spool
from .exchanges import HEAD_SECONDS, HELD, WireResponse
from .server import ServerSapi

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..protocols.single import Codec, Event
    from ..sapi import Headers
    from ..servers.channel import Channel
    from ..servers.event import EventServer, Stream
    from .single_event import SingleHandler


_NO_BODY = BodyEnded(short=False)


class SingleSapi(ServerSapi):
    """A SAPI whose connections carry one request at a time."""

    def codec(self) -> Codec:
        """Return the codec of a new connection."""
        raise NotImplementedError

    shows_short_bodies = True
    """Whether web servers compare a body with its announced length."""
    whole: Callable[[bytes], tuple[dict[str, str], bytes] | None] | None = None
    """The short way: environ and body of a request that lies complete in one buffer, or None."""

    def session(self, cycle: Callable[[Any], Any], server: Any) -> Session:
        return Session(self, cycle)

    def connect(
        self, cycle: Callable[[Any], Any], server: EventServer, stream: Stream
    ) -> SingleHandler:
        from .single_event import SingleHandler

        return SingleHandler(server, stream, self, cycle)


class SingleResponse(WireResponse):
    """The response half, framed by the connection's codec."""

    codec: Codec

    @property
    def announced_is_seen(self) -> bool:
        return self.sapi.shows_short_bodies  # type: ignore[attr-defined,no-any-return]

    def send_headers(self, status: str, headers: Headers) -> None:
        self.status = status
        self._headers = headers
        self._head = self.codec.head(status, headers)

    def _take(self) -> bytes:
        head, body = self._head, self._body
        self._head = self._body = b""
        if not head and not self._sent:
            return b""  # the codec refused the head, and the application goes on
        self._sent = True
        return head + self.codec.body(body) if body else head

    def _take_all(self) -> bytes:
        if not self._head and not self._sent:
            line = request_line(self.environ)
            self.sapi.log_message(f"application: {line}: the response has no head that can be sent")
            self._drop_body()
            refuse(self, self.failure_status)  # type: ignore[arg-type]
        return self._take() + self.codec.end(self.sapi.leaves())

    def _take_short(self) -> bytes:
        return self._take_all()

    def _take_flushed(self) -> bytes:
        """Return what is held, and what makes the web server pass it on at once."""
        data = self._take()
        if not data or forbids_body(self.status) or self.environ["REQUEST_METHOD"] == "HEAD":
            return data  # AJP flushes by an empty piece of the body: not where none may be
        return data + self.codec.flush()


class SingleExchange(SingleResponse, Exchange):
    """One request that a blocking or threaded server serves."""

    _ended = True
    _spool: Spool | None = None

    def __init__(
        self, sapi: Any, channel: Channel, environ: dict[str, Any], body: bytes, codec: Codec
    ) -> None:
        self.sapi = sapi
        self.environ = environ
        self.codec = codec
        self._channel = channel
        self._input = body
        self.post_ended = not body

    def expect(self, events: list[Event]) -> None:
        """Take a body that may still be coming, and what is there of it."""
        self._ended = self.post_ended = False
        self._spool = Spool()
        self._put(events)

    def _put(self, events: list[Event]) -> None:
        assert self._spool is not None  # noqa: S101 - whoever calls this has made it
        for event in events:
            if isinstance(event, BodyReceived):
                self._spool.put(event.data)
            elif isinstance(event, BodyEnded):
                self._ended, self.short = True, event.short
        self.post_ended = self._ended and not self._spool and not self.short

    @property
    def unread(self) -> bool:
        """Whether the web server may still be sending the body."""
        return not self._ended

    def read_post(self, size: int) -> bytes:
        while True:
            if self._spool is None:
                data, self._input = self._input[:size], self._input[size:]
                left: Any = self._input
            else:
                data, left = self._spool.get(size), self._spool
            self.post_ended = self._ended and not left and not self.short
            if data or self.post_ended:
                return data
            if self.aborted or self.short or self.ended:  # what comes next is the next request's
                raise ClientDisconnected("the request is over, or its body ends short")
            ask = self.codec.ask()
            if ask:
                self._send(ask)
            if not self.aborted:
                self._receive()

    def _receive(self) -> None:
        """Wait for more from the web server."""
        try:
            data = self._channel.receive()
        except ClientDisconnected:
            data = b""
        if not data:
            self.aborted = True
            return
        try:
            events = self.codec.receive_data(data)
        except (ProtocolError, RequestError) as error:
            self.sapi.sapi_error(error, "reading from the web server")
            self.aborted = True
            return
        if self._spool is not None:
            self._put(events)

    def flush(self) -> None:
        if not self.aborted and not self.ended:
            self._send(self._take_flushed())

    def finish(self) -> None:
        if not self.ended:
            self.ended = True
            if not self.aborted:
                try:
                    self._channel.send_last(self._take_all(), self)
                except ClientDisconnected:
                    self.aborted = True

    def cut(self) -> None:
        if not self.ended:
            self.ended = True
            if not self.aborted:
                self._send(self._take_cut())

    def ub_write(self, data: bytes) -> None:
        self.written += len(data)
        self._body = self._body + data if self._body else data
        if len(self._body) > HELD and not self.aborted and not self.ended:
            self._send(self._take())

    def wait_disconnect(self) -> None:
        while not self.aborted:
            self._receive()

    def fileno(self) -> int | None:
        return self._channel.fd

    def _send(self, data: bytes) -> None:
        try:
            self._channel.send(data)
        except ClientDisconnected:
            self.aborted = True


class Session:
    """Serves connections for the blocking and threaded servers: a ``blocking.Session``."""

    def __init__(self, sapi: SingleSapi, cycle: Callable[[Any], Any]) -> None:
        self.sapi = sapi
        self.cycle = cycle
        self.note: Callable[[int], None] = getattr(sapi, "note", None) or (lambda stage: None)
        """Told the scoreboard's stage, while a request comes in pieces."""
        self._codec = sapi.codec
        self._whole = sapi.whole
        self._framing = sapi.codec()
        """Frames the answers to requests that came whole; it reads nothing."""
        self._framing.end()
        self._mount, self._split = sapi.mount, sapi.split

    def __call__(self, channel: Channel) -> float | None:
        """Serve what is in ``channel.data`` and tell what becomes of the connection."""
        link: _Link | None = channel.session
        if link is None:
            found = None if self._whole is None else self._whole(channel.data)
            if found is not None:
                channel.data = b""
                environ, body = found
                exchange = SingleExchange(self.sapi, channel, environ, body, self._framing)
                self.serve(exchange)
                if exchange.broken or exchange.aborted:
                    channel.reset()
                else:
                    channel.close()
                return None
            link = channel.session = _Link(self, channel)
        return link.turn()

    def serve(self, exchange: SingleExchange) -> None:
        """Run one exchange to its end."""
        try:
            mend(exchange.environ, self._mount, split=self._split)
        except RequestError as error:
            self.refuse(exchange, error)
            return
        self.cycle(exchange)
        if not exchange.ended:
            exchange.cut()

    def refuse(self, exchange: SingleExchange, error: RequestError) -> None:
        """Answer a request that no application can be given."""

        def answer(exchange: SingleExchange) -> None:
            self.sapi.sapi_error(error, request_line(exchange.environ))
            refuse(exchange, error.status)
            exchange.finish()

        self.sapi.serve_instead(exchange, answer)


class _Link:
    """One connection in general: a request in pieces, or one after the other."""

    def __init__(self, session: Session, channel: Channel) -> None:
        self._session = session
        self._channel = channel
        self._codec = session._codec()
        self._deadline = 0.0

    def turn(self) -> float | None:
        """Take what can be read, serve what is complete; see ``blocking.Session``."""
        channel, codec = self._channel, self._codec
        data, channel.data = channel.data, b""
        if not data:  # a thread leaves the reading to us
            received = channel.receive_now()
            if received == b"":
                self.dropped()
                channel.close()
                return None
            data = received or b""
        while True:
            try:
                events = codec.receive_data(data)
            except RequestError as error:
                self._refuse(error)
                return None
            except ProtocolError:
                self.dropped()
                raise
            answer = codec.data_to_send()
            if answer:
                channel.send(answer)
            if not events:
                return self._outlook()
            if not self._serve(events):
                return None
            data = b""

    def _serve(self, events: list[Event]) -> bool:
        """Serve the request that *events* begin; False when the connection is closed."""
        channel, session = self._channel, self._session
        first = events[0]
        assert isinstance(first, RequestReceived)  # noqa: S101 - a codec says it first
        self._deadline = 0.0
        session.note(INFORMATION)
        exchange = SingleExchange(session.sapi, channel, first.environ, b"", self._codec)
        if len(events) != 2 or events[1] != _NO_BODY:
            exchange.expect(events[1:])
        try:
            session.serve(exchange)
        finally:
            exchange.cut()  # nothing, when the response is over
        if exchange.broken or exchange.aborted:
            channel.reset()
        elif self._codec.reusable:
            return True
        elif exchange.unread:
            channel.close_lingering()
        else:
            channel.close()
        return False

    def _refuse(self, error: RequestError) -> None:
        """Answer what is no request, and close."""
        session = self._session
        exchange = SingleExchange(
            session.sapi, self._channel, self._codec.environ, b"", self._codec
        )
        session.refuse(exchange, error)
        self._channel.close_lingering()

    def _outlook(self) -> float:
        """Return how many seconds the server shall wait for what comes next."""
        if self._codec.idle:
            self._channel.session = None
            return 0.0
        if not self._deadline:
            self._deadline = time.monotonic() + HEAD_SECONDS
        self._session.note(READING)
        # Bytes that drip in do not prolong it; the least patience is still some.
        return max(0.001, self._deadline - time.monotonic())

    def dropped(self) -> None:
        """The connection is closed before a request was there; the server says so, or we see it."""
        self._session.note(IDLE)
