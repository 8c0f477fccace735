"""FastCGI exchanges, and the connections they run on, for the blocking and threaded servers.

What is FastCGI's own about an exchange is here: its records, its streams, how it ends and how it
is cut. Who waits on sockets is the servers' business; fastcgi_event.py has the awaitable form.
"""

from __future__ import annotations

import time
from threading import Lock
from typing import TYPE_CHECKING, Any

from ..manager.scoreboard import IDLE, INFORMATION, READING
from ..protocols import fastcgi
from ..protocols.cgi import mend, render_head
from ..protocols.fastcgi import (
    Aborted,
    Connection,
    DataReceived,
    RequestReceived,
    StdinEnded,
    StdinReceived,
    end_response,
    parse_whole,
    stream,
)
from ..sapi import (
    NOTICE,
    WARNING,
    ClientDisconnected,
    Exchange,
    ProtocolError,
    RequestError,
    refuse,
    request_line,
)
from ..servers.channel import DETACHED
from ..servers.spool import Spool
from .exchanges import HEAD_SECONDS, HELD, WireResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..protocols.fastcgi import Request
    from ..sapi import Headers, Sapi
    from ..servers.channel import Channel

_stdout_1 = fastcgi.record(fastcgi.STDOUT, 1, b"")[:4]
_end_1 = end_response(1)

ROLES = {fastcgi.AUTHORIZER: "AUTHORIZER", fastcgi.FILTER: "FILTER"}


class FastcgiResponse(WireResponse):
    """The response half of a FastCGI exchange, for the blocking and the awaitable form."""

    _id = 1
    _errors = b""
    _had_errors = False

    def send_headers(self, status: str, headers: Headers) -> None:
        self.status = status
        self._headers = headers
        self._head = render_head(status, headers)

    def log_message(self, message: str) -> None:
        """Give *message* to the web server's error log, by a STDERR record.

        After the end of the request, which closes that way, it goes to our own.
        """
        if self.ended:
            self.sapi.log_message(message.rstrip("\n"), NOTICE)
        else:
            data = message.encode("utf-8", "backslashreplace")
            self._errors += stream(fastcgi.STDERR, self._id, data)
            self._had_errors = True

    def _take(self) -> bytes:
        """Return what is held, as records."""
        data = self._errors + stream(fastcgi.STDOUT, self._id, self._head + self._body)
        self._errors = self._head = self._body = b""
        self._sent = True
        return data

    def _take_all(self) -> bytes:
        """Return what is held and the records that end the request."""
        content = self._head + self._body
        size = len(content)
        if self._id == 1 and 0 < size < 65536 and not self._had_errors:
            self._sent = True
            return b"%b%b\0\0%b%b" % (_stdout_1, size.to_bytes(2, "big"), content, _end_1)
        return self._take() + end_response(self._id, self._had_errors)

    def _take_aborted(self) -> bytes:
        """Return the records that end a request which the web server gave up (S§5.4)."""
        self._head = self._body = b""
        return end_response(self._id, self._had_errors, 1)

    def _take_short(self) -> bytes:
        # Front ends do not look at END_REQUEST's appStatus, but they count.
        return self._take() + end_response(self._id, self._had_errors, 1)


class FastcgiExchange(FastcgiResponse, Exchange):
    """One request that a blocking or threaded server serves.

    Without *link* the whole body is *body*. With one, the link puts bytes in as they come, and is
    asked to read more when there are none.
    """

    def __init__(
        self,
        sapi: Sapi,
        channel: Channel,
        environ: dict[str, Any],
        body: bytes,
        link: Link | None = None,
        request: Request | None = None,
    ) -> None:
        self.sapi = sapi
        self.environ = environ
        self._channel = channel
        self._input = body
        self.link = link
        if link is None or request is None:
            self.post_ended = not body
        else:
            self.request: Request = request
            self._id = request.id
            self._spool = Spool()
            self._input_ended = False
            self.data: DataStream | None = None

    lost = False
    """The connection is dead: there is nobody to end the request for."""

    def read_post(self, size: int) -> bytes:
        if self.link is not None:
            return self.link.read(self, size)
        data = self._input[:size]
        self._input = self._input[size:]
        if not data and self.short:
            raise ClientDisconnected("the body ends before CONTENT_LENGTH")
        self.post_ended = not self._input and not self.short
        return data

    def flush(self) -> None:
        if not self.aborted and not self.ended:
            self._send(self._take())

    def finish(self) -> None:
        if not self.ended:
            self.ended = True
            self._send(self._take_aborted() if self.aborted else self._take_all())

    def cut(self) -> None:
        if not self.ended:
            data = self._take_aborted() if self.aborted else self._take_cut()
            self.ended = True
            self._send(data)

    def ub_write(self, data: bytes) -> None:
        self.written += len(data)
        self._body = self._body + data if self._body else data
        if len(self._body) > HELD:
            self.flush()

    def wait_disconnect(self) -> None:
        if self.link is not None:
            self.link.wait_disconnect(self)

    def fileno(self) -> int | None:
        return self._channel.fd

    def _send(self, data: bytes) -> None:
        if self.lost:
            return
        try:
            if self.link is None:
                if self.ended:
                    self._channel.send_last(data, self)
                else:
                    self._channel.send(data)
            elif self.ended:
                self.link.send_end(self, data)
            else:
                self.link.send(data)
        except ClientDisconnected:
            self.aborted = self.lost = True


class DataStream:
    """A filter's file, FCGI_DATA (S§6.4): ``environ["fastcgi.data"]``, read like wsgi.input."""

    def __init__(self, exchange: FastcgiExchange) -> None:
        self._exchange = exchange
        self.spool = Spool()
        self.ended = False
        self.short = False

    def read(self, size: int = -1) -> bytes:
        """Return up to *size* bytes, all that is left for a negative one; ``b""`` at the end."""
        link = self._exchange.link
        assert link is not None  # noqa: S101 - a filter's request never comes whole
        if size >= 0:
            return link.read_data(self, size)
        return b"".join(iter(lambda: link.read_data(self, 65536), b""))


class Link:
    """One connection in general: requests in pieces, several at once, management records.

    Its methods are called by any thread of the server. ``_lock`` guards the codec and what the
    exchanges have got; ``_reading`` is held by the one thread that reads from the socket;
    ``_writing`` keeps records whole.
    """

    def __init__(self, session: Session, channel: Channel) -> None:
        self.connection = Connection(
            multiplex=session.multiplex,
            max_requests=session.max_requests,
            values=session.values,
        )
        self._session = session
        self._channel = channel
        self._lock = Lock()
        self._reading = Lock()
        self._writing = Lock()
        self._active: dict[int, FastcgiExchange] = {}
        self._closed = False
        self._eof = False
        self._broken = False
        self._watched = False
        self._head_deadline = 0.0

    # -- reading

    def turn(self) -> float | None:
        """Take what can be read, serve what is complete; see ``blocking.Session``."""
        if not self._reading.acquire(blocking=False):
            return DETACHED  # the thread that reads looks after the connection
        try:
            data, self._channel.data = self._channel.data, b""
            if not data:
                received = self._channel.receive_now()
                if received == b"":
                    self._end_of_file()
                data = received or b""
            started = self._feed_whole(data) or self._feed(data)
        except ProtocolError as error:
            started = self._failed(error)
        finally:
            self._reading.release()
        for exchange in started[1:]:
            self._session.submit(exchange)
        if started:
            self.serve(started[0])
        return self._outlook()

    def _outlook(self) -> float | None:
        """Decide what becomes of the connection; the server acts on it."""
        with self._lock:
            if self._closed:
                return DETACHED
            if not self.connection.unfinished:
                self._head_deadline = 0.0
            if self._active:
                self._watch()
                return DETACHED
            if self._eof or self._broken or self.connection.should_close:
                self._close()
                return DETACHED
            if self._watched:
                self._watch()
                return DETACHED
            if self.connection.idle:
                self._channel.session = None
                self._closed = True
                return 0.0
            if not self._head_deadline:
                self._head_deadline = time.monotonic() + HEAD_SECONDS
            self._session.note(READING)
            # Bytes that drip in do not prolong it; the least patience is still some.
            return max(0.001, self._head_deadline - time.monotonic())

    def dropped(self) -> None:
        """The server has closed the connection, which took too long."""
        self._session.note(IDLE)

    def serve(self, exchange: FastcgiExchange) -> None:
        """Run the application for *exchange*, and end the request."""
        request = exchange.request
        if self._session.multiplex and request.keep_conn:
            with self._lock:
                self._watch()
        try:
            self._session.serve(exchange)
        finally:
            self._retire(exchange)
            if request.excess:
                self._session.sapi.log_message(
                    f"request: {request.excess} bytes beyond CONTENT_LENGTH were discarded", WARNING
                )
            with self._lock:
                if self._watched and not self._active and not self._closed:
                    if self._eof or self._broken or self.connection.should_close:
                        self._close()

    def _feed_whole(self, data: bytes) -> list[FastcgiExchange]:
        """Take *data* the short way, if it is one whole request and nothing else is going on."""
        with self._lock:
            whole = parse_whole(data) if self.connection.idle else None
            if whole is None:
                return []
            params, keep_conn, body = whole
            request = self.connection.adopt(1, keep_conn, params)
            exchange = self._session.make(self._channel, self, request)
            length = request.content_left
            exchange.short = length is not None and length > len(body)
            exchange._spool.put(body if length is None else body[:length])
            exchange._input_ended = True
            self._active[1] = exchange
            return [exchange]

    def _feed(self, data: bytes) -> list[FastcgiExchange]:
        """Give *data* to the codec and every exchange what is its own; return the new ones."""
        started: list[FastcgiExchange] = []
        with self._lock:
            for event in self.connection.receive_data(data) if data else ():
                if isinstance(event, RequestReceived):
                    exchange = self._session.make(self._channel, self, event.request)
                    self._active[event.request.id] = exchange
                    started.append(exchange)
                    continue
                exchange = self._active[event.request.id]
                if isinstance(event, StdinReceived):
                    exchange._spool.put(event.data)
                elif isinstance(event, StdinEnded):
                    exchange._input_ended = True
                    exchange.short = event.short
                elif isinstance(event, DataReceived):
                    if exchange.data is not None:
                        exchange.data.spool.put(event.data)
                        exchange.data.ended = not event.data
                        exchange.data.short = event.short
                elif isinstance(event, Aborted):
                    exchange.aborted = True
            answer = self.connection.data_to_send()
        if answer:
            try:
                self.send(answer)
            except ClientDisconnected:
                self._end_of_file()
        return started

    def _failed(self, error: ProtocolError) -> list[FastcgiExchange]:
        """The peer broke the protocol: every request of the connection is given up."""
        self._session.sapi.sapi_error(error, "reading from the web server")
        self._broken = True
        self._end_of_file()
        return []

    def _end_of_file(self) -> None:
        with self._lock:
            self._eof = True
            for exchange in self._active.values():
                exchange.aborted = exchange.lost = True

    def _read_more(self, enough: Callable[[], bool]) -> None:
        """Read once from the socket, unless another thread just did and it is *enough*."""
        with self._reading:
            if enough():
                return
            try:
                data = self._channel.receive()
            except ClientDisconnected:
                data = b""
            if not data:
                self._end_of_file()
                return
            try:
                started = self._feed(data)
            except ProtocolError as error:
                started = self._failed(error)
            if self._watched:
                with self._lock:
                    self._watch()
        for exchange in started:
            self._session.submit(exchange)

    def read(self, exchange: FastcgiExchange, size: int) -> bytes:
        """Return the next bytes of the exchange's body: ``Exchange.read_post``."""
        while True:
            with self._lock:
                data = exchange._spool.get(size)
                exchange.post_ended = (
                    exchange._input_ended and not exchange._spool and not exchange.short
                )
                if data or exchange.post_ended:
                    return data
                if exchange.aborted or exchange.short:
                    raise ClientDisconnected("the request was given up, or its body ends short")
            self._read_more(
                lambda: bool(exchange._spool) or exchange._input_ended or exchange.aborted
            )

    def read_data(self, stream: DataStream, size: int) -> bytes:
        """Return the next bytes of a filter's file."""
        exchange = stream._exchange
        while True:
            with self._lock:
                data = stream.spool.get(size)
                if data or (stream.ended and not stream.short):
                    return data
                if exchange.aborted or stream.short:
                    raise ClientDisconnected("the request was given up")
            self._read_more(lambda: bool(stream.spool) or stream.ended or exchange.aborted)

    def wait_disconnect(self, exchange: FastcgiExchange) -> None:
        """Return when the request was given up."""
        while not exchange.aborted:
            self._read_more(lambda: exchange.aborted)

    # -- writing and closing

    def send(self, data: bytes) -> None:
        """Send whole records."""
        with self._writing:
            self._channel.send(data)

    def send_end(self, exchange: FastcgiExchange, data: bytes) -> None:
        """Send what ends a request. Its id is free before the peer can use it again."""
        self._retire(exchange)
        with self._writing:
            self._channel.send_last(data, exchange)

    def _retire(self, exchange: FastcgiExchange) -> None:
        request = exchange.request
        with self._lock:
            if self._active.get(request.id) is exchange:
                del self._active[request.id]
                self.connection.end(request)
                self._broken = self._broken or exchange.broken

    def _watch(self) -> None:
        """Let any idle thread read, under ``_lock``; only a threaded server has such."""
        if not self._closed and self._session.watch is not None:
            self._watched = True
            self._session.watch(self._channel)

    def _close(self) -> None:
        """Close the connection, under ``_lock``."""
        self._closed = True
        if self._watched and self._session.unwatch is not None:
            self._session.unwatch(self._channel)
        if self._broken:
            self._channel.reset()
        elif self._eof:
            self._channel.close()
        else:
            self._channel.close_lingering()


class Session:
    """Serves connections for the blocking and threaded servers: a ``blocking.Session``.

    *cycle* runs one exchange. *values* answer GET_VALUES. A threaded server gives *multiplex*,
    the number of requests one connection may have, and its own *submit*, *watch* and *unwatch*.
    """

    def __init__(self, sapi: Any, cycle: Callable[[Any], Any], values: dict[bytes, bytes]) -> None:
        self.sapi = sapi
        self.values = values
        self.multiplex = False
        self.max_requests = 1
        self.submit: Callable[[FastcgiExchange], None] = serve_linked
        self.watch: Callable[[Channel], None] | None = None
        self.unwatch: Callable[[Channel], None] | None = None
        self.note: Callable[[int], None] = getattr(sapi, "note", None) or _ignore
        """Told the scoreboard's stage, while a request comes in pieces."""
        self._cycle = cycle
        self._mount: str | None = sapi.mount
        self._split: bool = sapi.split

    def __call__(self, channel: Channel) -> float | None:
        """Serve what is in ``channel.data`` and tell what becomes of the connection."""
        link = channel.session
        whole = parse_whole(channel.data) if link is None else None
        if whole is None or (self.multiplex and whole[1]):  # others may come while it runs
            if link is None:
                link = channel.session = Link(self, channel)
            outlook: float | None = link.turn()
            return outlook
        channel.data = b""
        environ, keep, body = whole
        exchange = FastcgiExchange(self.sapi, channel, environ, body)
        try:
            length = mend(environ, self._mount, split=self._split)
        except RequestError as error:
            self._refuse(exchange, error)
        else:
            if length >= 0 and length != len(body):
                exchange.set_length(length)
            self._cycle(exchange)
            if not exchange.ended:
                exchange.cut()
        if exchange.broken or exchange.aborted:
            channel.reset()
        elif keep:
            return 0.0
        else:
            channel.close()
        return None

    def make(self, channel: Channel, link: Link, request: Request) -> FastcgiExchange:
        """Return the exchange of a request whose parameters have come."""
        exchange = FastcgiExchange(self.sapi, channel, request.params, b"", link, request)
        if request.role in ROLES:
            exchange.environ.setdefault("FCGI_ROLE", ROLES[request.role])
        if request.role == fastcgi.FILTER:
            exchange.data = DataStream(exchange)
            exchange.environ["fastcgi.data"] = exchange.data
        return exchange

    def serve(self, exchange: FastcgiExchange) -> None:
        """Run one exchange of a link."""
        self.note(INFORMATION)
        try:
            mend(exchange.environ, self._mount, split=self._split)
        except RequestError as error:
            self._refuse(exchange, error)
            return
        try:
            self._cycle(exchange)
        finally:
            exchange.cut()  # nothing, when the response is over

    def _refuse(self, exchange: FastcgiExchange, error: RequestError) -> None:
        def answer(exchange: FastcgiExchange) -> None:
            self.sapi.sapi_error(error, request_line(exchange.environ))
            refuse(exchange, error.status)
            exchange.finish()

        self.sapi.serve_instead(exchange, answer)


def _ignore(stage: int) -> None:
    """Show it to nobody."""


def serve_linked(exchange: FastcgiExchange) -> None:
    """Serve *exchange*, which came over a :class:`Link`, in the calling thread."""
    if exchange.link is not None:
        exchange.link.serve(exchange)
