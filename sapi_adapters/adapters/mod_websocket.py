"""The connection half of WebSockets (RFC 6455) in the host, under the event MPM.

The handshake is a request as any other, through all of httpd's phases; an application that accepts
gets the connection itself. Frames are wsproto's, which comes with ``sapi_adapters[websocket]``;
without it an upgrade is ignored, as HTTP allows, and the log says so once.

SapiValue ``websocket.max_size`` is the size of a message in bytes (16 MiB), SapiFlag
``websocket.deflate`` turns permessage-deflate (RFC 7692) on. It is off: it costs each connection
some hundred KiB, and secrets beside what others choose can be guessed from compressed sizes.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from ..protocols.http import http_date, response_head
from ..sapi import NOTICE, ClientDisconnected, RequestError
from .mod import AsyncModExchange

if TYPE_CHECKING:
    from ..httpd.records import Request
    from ..sapi import Headers, Sapi
    from .mod import Config

MAX_SIZE = 16 << 20
CLOSE_SECONDS = 5.0
"""How long a client may take to answer our close frame."""
PING_SECONDS = 20.0
"""Silence after which a client is asked whether it is there; as much again, and it is not."""
_HIGH, _LOW = 262144, 65536
"""Bytes of messages nobody has taken, at which the connection is paused, and read again."""
_FEW = 64
"""The same in messages."""
_PIECE = 4096
"""Bytes that are decoded at a time: compressed ones may become a thousand times as many."""
_LOOK_SECONDS = 0.5

_GOING_AWAY, _ABNORMAL, _TOO_BIG, _RESTART = 1001, 1006, 1009, 1012
_missing_said = False


def exchange_for(sapi: Sapi, r: Request, config: Config) -> AsyncModExchange:
    """Return the exchange of *r*, which asks for an upgrade, on an event loop.

    It has a ``websocket`` if that is what it asks for. Raises :class:`RequestError` for a
    handshake that is wrong: 400, or 426 for another version of the protocol (RFC 6455 §4.2).
    """
    exchange = AsyncModExchange(sapi, r, config)
    wanted = {each.strip() for each in (r.upgrade or "").split(",")}
    if "websocket" not in wanted or r.method != "GET" or not _library(sapi):
        return exchange
    if r.headers_in.all("Sec-WebSocket-Version") != ["13"]:
        r.err_headers_out.set("Sec-WebSocket-Version", "13")
        raise RequestError("a WebSocket of another version than 13", "426 Upgrade Required")
    keys = r.headers_in.all("Sec-WebSocket-Key")
    try:
        whole = len(keys) == 1 and len(base64.b64decode(keys[0], validate=True)) == 16
    except (binascii.Error, ValueError):
        whole = False
    if not whole:
        raise RequestError("a WebSocket without a key of 16 bytes")
    exchange.websocket = WebSocket(exchange, keys[0])
    return exchange


def _library(sapi: Sapi) -> bool:
    """Whether wsproto is there; else say so, once."""
    global _missing_said
    try:
        import wsproto  # noqa: F401 - that it is there is the question
    except ImportError:
        if not _missing_said:
            _missing_said = True
            sapi.log_message(
                "a client asked for a WebSocket, which needs sapi_adapters[websocket]", NOTICE
            )
        return False
    return True


class WebSocket:
    """One WebSocket, from the handshake to the end of the connection; for the loop's thread."""

    code = _ABNORMAL
    reason = ""
    """Why it is over: what the client said, or what was said to it before it was gone."""

    def __init__(self, exchange: AsyncModExchange, key: str) -> None:
        self._exchange = exchange
        self._request = r = exchange.request
        self._transport = r.connection.transport
        self._key = key
        settings = exchange.environ.get("sapi.settings", {})
        self._most = _size(settings.get("websocket.max_size", ""))
        self._deflate = settings.get("websocket.deflate", "") == "1"
        self.subprotocols = _listed(r.headers_in.all("Sec-WebSocket-Protocol"))
        self._proto: Any = None
        self._messages: deque[str | bytes] = deque()
        self._waiting = 0
        self._parts: list[Any] = []
        self._size = 0
        self._over = False
        """The application gets nothing more."""
        self._done = asyncio.Event()
        """Nor does the connection."""
        self._broken = False
        self._close_sent = False
        self._paused = False
        self._stuck: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._heard = 0.0
        self._asked = False

    # -- what the gateway asks for

    async def accept(self, subprotocol: str | None, headers: Headers) -> None:
        """Take the client's offer (101). The connection is ours from here on."""
        from wsproto.connection import Connection, ConnectionType
        from wsproto.extensions import Extension, PerMessageDeflate
        from wsproto.handshake import server_extensions_handshake
        from wsproto.utilities import generate_accept_token

        r, transport = self._request, self._transport
        fields = [
            ("Date", http_date(r.request_time)),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", generate_accept_token(self._key.encode()).decode()),
        ]
        if subprotocol is not None:
            fields.append(("Sec-WebSocket-Protocol", subprotocol))
        extensions: list[Extension] = []
        if self._deflate:
            extensions = [PerMessageDeflate()]
            offers = _listed(r.headers_in.all("Sec-WebSocket-Extensions"))
            try:
                agreed = server_extensions_handshake(offers, extensions)
            except ValueError:  # a window that is no number
                agreed = None
            if agreed is None:
                extensions = []
            else:
                fields.append(("Sec-WebSocket-Extensions", agreed.decode("latin-1")))
        fields += [*headers, *r.headers_out.items(), *r.err_headers_out.items()]
        head = response_head("HTTP/1.1 101 Switching Protocols", fields)
        r.status, r.headers_sent = 101, True
        r.connection.keepalive = False
        self._exchange.ended = True
        self._proto = Connection(ConnectionType.SERVER, extensions)
        self._heard = time.monotonic()
        watch(self)
        self._send(head)
        early = transport.upgrade(self._received)
        if early:
            self._received(early)
        await transport.drained()

    async def receive(self) -> str | bytes | None:
        """Return the next message, None when there can be none any more."""
        while not self._messages:
            if self._over:
                return None
            self._news.clear()
            await self._news.wait()
        message = self._messages.popleft()
        self._waiting -= len(message)
        if self._paused and self._waiting <= _LOW and len(self._messages) < _FEW:
            self._go_on()
        return message

    async def send(self, message: str | bytes) -> None:
        """Send *message*; wait while the client takes nothing. :class:`ClientDisconnected` once
        it is over."""
        from wsproto.events import BytesMessage, TextMessage

        if self._over or self._close_sent:
            raise ClientDisconnected("the WebSocket is closed")
        event: Any
        if isinstance(message, str):
            event = TextMessage(data=message)
        else:
            event = BytesMessage(data=message)
        self._send(self._proto.send(event))
        await self._transport.drained()
        if self._request.connection.aborted:
            self._received(b"")
            raise ClientDisconnected("the client has gone")

    async def close(self, code: int, reason: str) -> None:
        """Begin to close it; its end is the client's answer, if that comes in time."""
        self._say_close(code, reason)
        self._transport.loop.call_later(CLOSE_SECONDS, self._end)

    async def finish(self) -> None:
        """End the connection, in its own time; nothing unless it was accepted."""
        if self._proto is None:
            return
        self._end()
        self._say_close(_GOING_AWAY, "")  # nobody did: the application was cancelled
        self._messages.clear()
        self._waiting = 0
        self._go_on()
        try:
            if not self._done.is_set():
                await asyncio.wait_for(self._done.wait(), CLOSE_SECONDS)
        except asyncio.TimeoutError:
            pass
        finally:
            unwatch(self)
            self._done.set()
            if self._stuck is not None:
                self._stuck.cancel()
            if not self._transport.stream.closed:
                self._transport.close(lingering=not self._request.connection.aborted)

    # -- what comes

    def _received(self, data: bytes) -> None:
        if not data:
            self._end()
            self._done.set()
        if self._broken or self._done.is_set():
            return
        self._heard, self._asked = time.monotonic(), False
        for at in range(0, len(data), _PIECE):
            self._proto.receive_data(data[at : at + _PIECE])
            for event in self._proto.events():
                self._take(event)
                if self._broken or self._done.is_set():
                    return
        if self._transport.stream.stalled and self._stuck is None:
            # Nobody takes our answers: no more questions until somebody does.
            self._pause()
            self._stuck = self._transport.loop.create_task(self._until_drained())
        elif self._waiting > _HIGH or len(self._messages) >= _FEW:
            self._pause()

    def _take(self, event: Any) -> None:
        from wsproto.events import CloseConnection, Message, Ping

        if isinstance(event, Message):
            if not self._over:
                self._take_part(event)
        elif isinstance(event, Ping):
            if not self._close_sent:
                self._send(self._proto.send(event.response()))
        elif isinstance(event, CloseConnection):
            self._take_close(event)

    def _take_part(self, event: Any) -> None:
        data = event.data
        self._size += len(data) if not isinstance(data, str) or data.isascii() else _octets(data)
        if self._size > self._most:
            self._fail(_TOO_BIG, f"more than {self._most} bytes in a message")
            return
        if data:
            self._parts.append(data)
        if event.message_finished:
            empty: Any = "" if isinstance(data, str) else b""
            message = self._parts[0] if len(self._parts) == 1 else empty.join(self._parts)
            self._parts.clear()
            self._size = 0
            if not isinstance(message, str):
                message = bytes(message)
            self._messages.append(message)
            self._waiting += len(message)
            self._news.set()

    def _take_close(self, event: Any) -> None:
        from wsproto.connection import ConnectionState

        code, reason, state = int(event.code), event.reason or "", self._proto.state
        if state not in (ConnectionState.REMOTE_CLOSING, ConnectionState.CLOSED):
            self._broken = True  # what came is no WebSocket: what else comes is not looked at
            self._fail(code, reason)
            return
        if not self._over:
            self.code, self.reason = code, reason
        if state is ConnectionState.REMOTE_CLOSING:
            self._close_sent = True
            self._send(self._proto.send(event.response()))
        self._end()
        self._done.set()

    def _fail(self, code: int, reason: str) -> None:
        """End it from here; the application sees why."""
        if not self._over:
            self.code, self.reason = code, reason
        self._say_close(code, reason)
        self._end()

    def _say_close(self, code: int, reason: str) -> None:
        """Send a close frame, unless there was one."""
        if self._close_sent or self._done.is_set():
            return
        from wsproto.events import CloseConnection

        self._close_sent = True
        self._send(self._proto.send(CloseConnection(code=code, reason=reason or None)))

    def _end(self) -> None:
        """Nothing more comes for the application."""
        self._over = True
        self._parts.clear()
        self._news.set()

    # -- the wire

    def _send(self, data: bytes) -> None:
        self._request.bytes_out += len(data)
        self._transport.send_now(bytes(data))

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._transport.stream.pause()

    def _go_on(self) -> None:
        if self._paused and self._stuck is None:
            self._paused = False
            self._transport.stream.watch()

    async def _until_drained(self) -> None:
        stream = self._transport.stream
        while stream.stalled and not stream.closed and not self._over:
            await stream.drained()
            await asyncio.sleep(_LOOK_SECONDS)
        self._stuck = None
        if self._waiting <= _LOW and len(self._messages) < _FEW:
            self._go_on()

    def look(self, now: float, *, stopping: bool) -> None:
        """What is due with time: the end of the server, and of clients that are no more."""
        if self._over or self._close_sent:
            return
        if stopping:
            self._fail(_RESTART, "the server ends")
        elif now - self._heard > 2 * PING_SECONDS and not self._paused:
            self.reason = "no answer to a ping"
            self._request.connection.aborted = True
            self._transport.stream.reset()
            self._received(b"")
        elif now - self._heard > PING_SECONDS and not self._asked:
            from wsproto.events import Ping

            self._asked = True
            self._send(self._proto.send(Ping()))


def _octets(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _listed(values: list[str]) -> list[str]:
    """Return the elements of a list that may be spread over several header fields."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def _size(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else MAX_SIZE


# -- all of them ----------------------------------------------------------------------------------

_open: set[WebSocket] = set()
_watcher: asyncio.Task[None] | None = None


def watch(websocket: WebSocket) -> None:
    """Have :meth:`WebSocket.look` called now and then: one task for all of a process."""
    global _watcher
    _open.add(websocket)
    if _watcher is None or _watcher.done():
        server = websocket._transport.server
        _watcher = server.loop.create_task(_watch(server, websocket._exchange.sapi))


def unwatch(websocket: WebSocket) -> None:
    """Have it called no more."""
    _open.discard(websocket)


async def _watch(server: Any, sapi: Sapi) -> None:
    while _open:
        await asyncio.sleep(_LOOK_SECONDS)
        now, stopping = time.monotonic(), server.stopping or sapi.terminating
        for each in list(_open):
            each.look(now, stopping=stopping)
