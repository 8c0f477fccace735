"""HTTP connections of the host under the blocking and threaded servers.

What both forms of a connection share is here, too; http_event.py has the other one. The phases of
a request are httpd's: to the servers, a whole request is one exchange, as a FastCGI request is.
"""

from __future__ import annotations

import select
import socket
import time
from typing import TYPE_CHECKING, Any

from ..httpd.filters import EOS, FileBucket, blocks
from ..httpd.hooks import DONE, OK, run_all, run_first
from ..httpd.phases import last_of
from ..httpd.reading import make_request
from ..httpd.records import Connection, Request
from ..manager.scoreboard import IDLE, READING
from ..protocols.http import Head, Limits, Parser, Refusal, response_head
from ..sapi import INTERNAL_SERVER_ERROR, ClientDisconnected, RequestError
from ..servers.channel import MORE

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..httpd.filters import Brigade
    from ..httpd.host import Host
    from ..httpd.records import Server
    from ..servers.channel import Channel

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
SMALL = 65536
"""Bytes of a body of known length that are waited for before anybody is busy with the request."""
DRAIN_SECONDS = 0.5
"""How long the rest of it may take to come."""
HEAD_SECONDS = 20.0
"""How long a head may take where mod_reqtimeout says nothing."""
DRAINED = 262144
"""Bytes of an unread body that are read to keep a connection; else it is closed."""


class HttpExchange:
    """One request, as the servers, the scoreboard and the time-outs see it."""

    over = False
    aborted = False
    direct = False
    task: Any = None
    noted = None
    written = 0
    status = ""
    failure_status = INTERNAL_SERVER_ERROR
    note_stage: Callable[[int], None] | None = None
    request_time: float | None = None

    def __init__(self, sapi: Any, request: Request, refused: str = "") -> None:
        self.sapi = sapi
        self.request = request
        self.refused = refused
        """The status of a head that was refused."""
        self.environ: dict[str, Any] = {
            "REQUEST_METHOD": request.method,
            "REQUEST_URI": request.unparsed_uri,
            "PATH_INFO": request.uri,
        }
        length = request.body.length
        if length:
            self.environ["CONTENT_LENGTH"] = str(length)

    @property
    def ended(self) -> bool:
        """Whether the response is complete, or cut."""
        return self.over or last_of(self.request).eos_sent

    def cut(self) -> None:
        """End the response now, so that the client sees that it is incomplete."""
        if not self.ended:
            self.over = True
            self.request.connection.transport.cut(self.request)


class Body:
    """What the blocking and the awaitable body share: framing, limits, input filters."""

    limit = 1 << 62
    """LimitRequestBody, known once the sections are."""

    def __init__(self, length: int | None) -> None:
        self.length = length
        """None when it comes in chunks."""
        self.ended = length == 0
        self.taken = 0
        self.began = 0.0
        """When it was first waited for."""
        self.continued = True
        """Whether the client needs no "100 Continue" (any more)."""
        self._filters: list[Any] = []
        self._ready = b""
        self.trailers: list[tuple[str, str]] = []

    @property
    def at_end(self) -> bool:
        """Whether everything has been read, so that nobody need wait to see the end."""
        return self.ended and not self._ready

    @property
    def unread(self) -> bool:
        """Whether the client may still be sending it."""
        return not self.ended

    def add_filter(self, added: Any) -> None:
        """Let *added*, an input filter's object, change what is read from now on."""
        self._filters.append(added)

    def none(self) -> Body:
        """Return an empty body, for a subrequest."""
        return Nothing(0)

    def _filtered(self, data: bytes) -> bytes:
        for each in self._filters:
            data = each.receive(data)
        return data

    def _count(self, size: int) -> None:
        """Note that *size* bytes have come; 413 if they are too many."""
        self.taken += size
        self.check(0)

    def check(self, announced: int) -> None:
        """Raise 413 if what has come, and what is *announced*, is more than is taken."""
        if self.taken + announced > self.limit:
            raise RequestError(
                f"the body is larger than {self.limit} bytes", "413 Content Too Large"
            )


class Nothing(Body):
    """The body of a request without one."""

    def read(self, size: int) -> bytes:
        """Return nothing."""
        return b""

    async def aread(self, size: int) -> bytes:
        """The same, awaited."""
        return b""


class BlockingBody(Body):
    """A body that is read from the connection as the handler asks for it."""

    def __init__(self, length: int | None, wire: BlockingWire) -> None:
        super().__init__(length)
        self._wire = wire

    def read(self, size: int) -> bytes:
        """Return 1 to *size* bytes, ``b""`` at the end; see ``Request.read``."""
        while not self._ready and not self.ended:
            data = self.next()
            if self._filters:
                data = self._filtered(data)
            self._ready = data
        data, self._ready = self._ready[:size], self._ready[size:]
        return data

    def next(self) -> bytes:
        """Return the next bytes as they come; ``b""`` at the end."""
        event = self._wire.next_of_body(self)
        if event.__class__ is bytes:
            self._count(len(event))
            found: bytes = event
            return found
        self.ended = True
        self.trailers = event.trailers
        return b""


class Wire:
    """What both forms of a connection share."""

    asynchronous = False

    def __init__(
        self, session: HttpSession, peer: Any, local: Any, *, upgrades: bool = False
    ) -> None:
        self.session = session
        host = session.host
        local_pair = address_of(local)
        servers = host.find_servers(local_pair)
        base = servers[0]
        session.count += 1
        self.parser = Parser(session.limits_of(base), upgrades)
        self.connection = connection = Connection(
            base, self, address_of(peer), local_pair, session.count
        )
        connection.vhosts = servers

    def head_left(self, received: int) -> float:
        """Return how many seconds the head that is coming still has, *received* bytes more of it
        being here."""
        now = time.monotonic()
        if not self._head_began:
            self._head_began, self._head_bytes = now, 0
        self._head_bytes += received
        allowed = self.session.head_seconds(self.connection.base_server, self._head_bytes)
        return self._head_began + allowed - now  # bytes that drip in prolong nothing

    _head_began = 0.0
    _head_bytes = 0

    def body_left(self, body: Body) -> float:
        """Return how many seconds the next bytes of *body* may take; 408 when there are none."""
        server = self.connection.base_server
        now = time.monotonic()
        if not body.began:
            body.began = now
        allowed = self.session.body_seconds(server, body.taken)
        left = min(server.timeout, body.began + allowed - now)
        if left <= 0:
            self.connection.keepalive = False
            raise RequestError("the body took too long to come", "408 Request Timeout")
        return left

    def framed(self, r: Request, brigade: Brigade) -> list[bytes | FileBucket]:
        """Return what of *brigade* goes to the network, small pieces joined; count it."""
        pieces: list[bytes | FileBucket] = []
        held: list[bytes] = []
        size = 0
        for bucket in brigade:
            if bucket.__class__ is bytes:
                held.append(bucket)
                size += len(bucket)
            elif bucket.__class__ is FileBucket:
                if held:
                    pieces.append(b"".join(held))
                    held = []
                size += len(bucket)
                pieces.append(bucket)
            elif bucket is EOS:
                r.eos_sent = True
        if held:
            pieces.append(held[0] if len(held) == 1 else b"".join(held))
        r.bytes_out += size
        return pieces


def address_of(name: Any) -> tuple[str, int]:
    """Return an address as a pair; that of a Unix socket has no port."""
    if isinstance(name, tuple):
        host = name[0]
        return (host[7:] if host.startswith("::ffff:") else host, name[1])
    return ("", 0)


def failure(status: str) -> bytes:
    """Return a whole response that says *status* and closes the connection."""
    body = f"{status}\n".encode("latin-1")
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
    ]
    return response_head(f"HTTP/1.1 {status}", headers) + body


class HttpSession:
    """Serves connections for the blocking and threaded servers: a ``blocking.Session``."""

    def __init__(self, sapi: Any, host: Host, cycle: Callable[[Any], Any]) -> None:
        self.sapi = sapi
        self.host = host
        self.cycle = cycle
        self.count = 0
        """Connections that were served so far."""
        self.note: Callable[[int], None] = getattr(sapi, "note", None) or (lambda stage: None)
        self.lane: Any = None
        """The short way of plain requests, where there is one; lane.py's."""
        self._limits: dict[int, Limits] = {}
        self._timeouts: dict[Any, Any] = host.provided.get("request_timeouts", {})

    @property
    def stopping(self) -> bool:
        """Whether this process takes no more than what it is at."""
        sapi = self.sapi
        return bool(sapi.terminating or sapi.server.stopping)

    def head_seconds(self, server: Server, received: int) -> float:
        """Return how many seconds a head may take, *received* bytes of it being here."""
        found = self._timeouts.get(server)
        allowed = HEAD_SECONDS if found is None else found.header.allowed(received)
        return 1e9 if allowed is None else float(allowed)

    def body_seconds(self, server: Server, received: int) -> float:
        """The same for a body."""
        found = self._timeouts.get(server)
        allowed = None if found is None else found.body.allowed(received)
        return 1e9 if allowed is None else float(allowed)

    def limits_of(self, server: Server) -> Limits:
        """Return the parser's limits for connections to *server*."""
        found = self._limits.get(id(server))
        if found is None:
            found = self._limits[id(server)] = Limits(
                server.limit_req_line, server.limit_req_fieldsize, server.limit_req_fields
            )
        return found

    def __call__(self, channel: Channel) -> float | None:
        """Serve what is in ``channel.data`` and tell what becomes of the connection."""
        wire: BlockingWire | None = channel.session
        if wire is None:
            wire = channel.session = BlockingWire(self, channel)
            if not wire.begin():
                return None
        return wire.turn()


class BlockingWire(Wire):
    """One connection under the blocking or threaded server, and its transport for httpd."""

    def __init__(self, session: HttpSession, channel: Channel) -> None:
        try:
            peer, local = channel.socket.getpeername(), channel.socket.getsockname()
        except OSError:
            peer = local = ("", 0)
        super().__init__(session, peer, local)
        self.channel = channel
        self.closed = False
        self.exchange: HttpExchange
        """The one that is served, or was served last."""
        self._came = 0
        self._due: Head | None = None
        """A head whose small body is still coming."""
        channel.timeout = self.connection.base_server.timeout

    def begin(self) -> bool:
        """Run the hooks of a new connection; False when a module has served it."""
        hooks = self.session.host.hooks
        if hooks.pre_connection and run_all(hooks.pre_connection, self.connection) not in (
            OK,
            DONE,
        ):
            self.close()
            return False
        if hooks.process_connection and run_first(hooks.process_connection, self.connection) == OK:
            self.close()
            return False
        return True

    # -- the server's turns

    def turn(self) -> float | None:
        """Take what came, serve what is complete; see ``blocking.Session``."""
        channel = self.channel
        data, channel.data = channel.data, b""
        if not data:  # a thread leaves the reading to us
            received = channel.receive_now()
            if received == b"":
                self.close()
                return None
            data = received or b""
        self._came = len(data)
        codec = self.connection.input_codec
        if codec is not None:
            data = self._decode(codec, data)
            if codec.closed and not data:
                self.close()
                return None
        if data:
            self.parser.receive(data)
        return self._serve_events()

    def _decode(self, codec: Any, data: bytes) -> bytes:
        plain: bytes = codec.receive(data)
        answer = codec.pending()
        if answer:
            self.channel.send(answer)
        if codec.closed:
            self.connection.keepalive = False
        return plain

    def _serve_events(self) -> float | None:
        events = self.parser.events
        while True:
            head, self._due = self._due, None
            if head is None:
                if not events:
                    break
                event = events.popleft()
                if event.__class__ is not Head:
                    if event.__class__ is Refusal:
                        self._refuse(event)
                        return None
                    continue  # what is left of a body that was drained
                head = event
            if self._awaits_small_body(head):
                self._due = head
                break
            self._head_began = 0.0
            self._serve(head)
            if self.closed:
                return None
        return self._outlook()

    def _awaits_small_body(self, head: Head) -> bool:
        """Whether the rest of a short body is to come before the request makes anybody busy."""
        length = head.length
        if not length or length > SMALL or head.expects_continue:
            return False
        return not any(event.__class__ is not bytes for event in self.parser.events)

    def _outlook(self) -> float | None:
        """Return how many seconds the server shall wait for what comes next; None to close."""
        server, codec = self.connection.base_server, self.connection.input_codec
        beginning = codec is not None and not codec.ready
        if beginning or self._due is not None or self.parser.in_message:
            self.session.note(READING)
            left = self.head_left(self._came)
            if left > 0:
                return left
            self.dropped()
            self.channel.close()
            return None
        return max(0.001, server.keep_alive_timeout)

    def dropped(self) -> None:
        """The server is about to close the connection: answer a request that is late."""
        if not self.closed and (self._due is not None or self.parser.in_message):
            self.channel.timeout = 0.0  # whoever does not take that is not waited for
            self._send_now(failure("408 Request Timeout"))
        self.closed = True
        self.session.note(IDLE)

    # -- one request

    def _serve(self, head: Head) -> None:
        session, connection = self.session, self.connection
        body = Nothing(0) if head.length == 0 else BlockingBody(head.length, self)
        r = make_request(connection, head, body)
        if head.expects_continue:
            body.continued = False
        if session.stopping:
            connection.keepalive = False
        exchange = self.exchange = HttpExchange(session.sapi, r)
        session.cycle(exchange)
        exchange.over = True
        connection.keepalives += 1
        if self.closed:
            return
        if connection.aborted:
            self._reset()
        elif not connection.keepalive:
            self.close(lingering=body.unread)
        elif body.unread and not self._drain(body):
            self.close(lingering=True)

    def _refuse(self, refusal: Refusal) -> None:
        """Answer a head that is wrong, without any application; the connection is of no use."""
        connection = self.connection
        connection.keepalive = False
        r = refused_request(connection, refusal)
        exchange = self.exchange = HttpExchange(self.session.sapi, r, refusal.status)
        self.session.cycle(exchange)
        exchange.over = True
        if not self.closed:
            self.close(lingering=True)

    def _drain(self, body: Body) -> bool:
        """Read the rest of a body nobody wanted, if it has come or nearly so."""
        if not body.continued or (body.length or 0) - body.taken > DRAINED:
            return False
        assert isinstance(body, BlockingBody)  # noqa: S101 - only that is left unread
        left, end = DRAINED, time.monotonic() + DRAIN_SECONDS
        try:
            while not body.ended and left > 0:
                if not self.parser.events and not self.channel.wait(
                    select.POLLIN, max(0.0, end - time.monotonic())
                ):
                    return False
                left -= len(body.next())
        except (ClientDisconnected, RequestError):
            return False
        return body.ended

    def next_of_body(self, body: Body) -> Any:
        """Return the next bytes of the body, or its End; wait for them."""
        parser = self.parser
        if not body.continued and not parser.events:
            body.continued = True
            self._send_now(CONTINUE)
        while not parser.events:
            channel = self.channel
            body.check(parser.announced)
            left = self.body_left(body)
            channel.timeout, before = left, channel.timeout
            try:
                data = channel.receive()
            except ClientDisconnected:
                self.body_left(body)  # 408 if that is why
                self.connection.aborted = True
                raise
            finally:
                channel.timeout = before
            codec = self.connection.input_codec
            if codec is not None and data:
                data = self._decode(codec, data)
                if not data:
                    continue
            if not data:
                self.connection.aborted = True
                raise ClientDisconnected("the body ends before its length")
            parser.receive(data)
        event = parser.events.popleft()
        if event.__class__ is Refusal:
            self.connection.keepalive = False
            raise RequestError(event.message, event.status)
        return event

    # -- the transport

    def receive(self) -> bytes:
        """Return the next bytes, ``b""`` at the end: for process_connection."""
        data, self.channel.data = self.channel.data, b""
        codec = self.connection.input_codec
        while not data:
            data = self.channel.receive()
            if codec is None or not data:
                break
            data = self._decode(codec, data)
        return data

    def send(self, data: bytes) -> None:
        """Send *data*: for process_connection."""
        self._send_now(data)

    def send_bytes(self, data: bytes) -> None:
        """Send *data*; when the client has gone, note it."""
        if not self.connection.aborted and not self.closed:
            self._send_now(data)

    def send_brigade(self, r: Request, brigade: Brigade) -> None:
        """Send what is in *brigade*; when the client has gone, note it."""
        pieces = self.framed(r, brigade)
        if self.connection.aborted or self.closed:
            return
        codec = self.connection.input_codec
        try:
            last = len(pieces) - 1
            for index, piece in enumerate(pieces):
                if isinstance(piece, bytes):
                    if codec is not None:
                        self.channel.send(codec.send(piece))
                    elif index == last:
                        self.channel.send(piece)
                    else:
                        self.channel.send(piece, MORE)  # one segment with the file's begin
                elif codec is None:
                    self.channel.send_file(piece.fd, piece.offset, piece.length)
                else:
                    for block in blocks(piece):
                        self.channel.send(codec.send(block))
        except ClientDisconnected:
            self.connection.aborted = True

    def _send_now(self, data: bytes) -> None:
        codec = self.connection.input_codec
        try:
            self.channel.send(data if codec is None else codec.send(data))
        except ClientDisconnected:
            self.connection.aborted = True

    def is_aborted(self) -> bool:
        """Look whether the client has gone."""
        if not self.connection.aborted and self.channel.wait(select.POLLIN, 0):
            try:
                if not self.channel.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                    self.connection.aborted = True
            except BlockingIOError:
                pass
            except OSError:
                self.connection.aborted = True
        return self.connection.aborted

    def cut(self, r: Request) -> None:
        """End the response to *r* where it is; before its begin with what the servers say of it."""
        if self.closed or self.connection.aborted:
            return
        if not any_sent(r):
            self._send_now(failure(self.exchange.failure_status))
            self.close(lingering=r.body.unread)
        else:
            self._reset()

    def _reset(self) -> None:
        self.closed = True
        self.channel.reset()

    def close(self, *, lingering: bool = False) -> None:
        """Close the connection; *lingering* while the client may still be sending."""
        if self.closed:
            return
        self.closed = True
        codec = self.connection.input_codec
        if codec is not None:
            try:
                self.channel.send(codec.close())
            except ClientDisconnected:
                pass
        if lingering:
            self.channel.close_lingering()
        else:
            self.channel.close()


def any_sent(r: Request) -> bool:
    """Whether anything of the response to *r*, or to what it was redirected to, has left."""
    last: Request | None = r
    while last is not None:
        if last.headers_sent:
            return True
        last = last.next
    return False


def refused_request(connection: Connection, refusal: Refusal) -> Request:
    """Return a record for a request that never became one, for the log and the error page."""
    server = connection.vhosts[0]
    r = Request(connection, server, refusal.the_request, "-", "-", [], Nothing(0))
    method, _, rest = refusal.the_request.partition(" ")
    if method:
        r.method = method
        r.unparsed_uri = r.uri = rest.partition(" ")[0] or "-"
    r.header_only = method == "HEAD"
    return r
