"""WebSockets for ASGI applications: the ``websocket`` scope and its events (ASGI HTTP 2.5).

The SAPI brings the connection half as ``exchange.websocket``: an object with ``subprotocols``,
what the client offers; ``accept(subprotocol, headers)``; ``receive()``, a message as str or bytes,
None once it is over; ``code`` and ``reason``, why; ``send(message)``; ``close(code, reason)``;
``finish()``, called at the end in any case. But for the attributes all of them are awaited. A
refused handshake is an ordinary response, on the exchange itself.
"""

from ..sapi import (
    ERROR,
    INTERNAL_SERVER_ERROR,
    ApplicationError,
    ClientDisconnected,
    RequestError,
    check_header_value,
    header_kind,
    refuse,
    request_line,
)
from .asgi import Response, http_scope

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from typing import Any

    from ..sapi import AsyncExchange, Headers
    from .asgi import AsgiGateway, Event

_NORMAL, _ABNORMAL, _FAILED = 1000, 1006, 1011
_FORBIDDEN = "403 Forbidden"

_CONNECTING, _OPEN, _DENYING, _OVER = "accept or close", "a message or close", "a body", "nothing"


def websocket_scope(
    environ: "dict[str, Any]", sapi_name: str, subprotocols: "list[str]"
) -> "dict[str, Any]":
    """Return the ``websocket`` scope of the request that *environ* describes.

    Raises what :func:`~.asgi.http_scope` does.
    """
    scope = http_scope(environ, sapi_name)
    del scope["method"]
    scope["type"] = "websocket"
    scope["scheme"] = "wss" if scope["scheme"] == "https" else "ws"
    scope["subprotocols"] = subprotocols
    extensions = scope["extensions"]
    del extensions["http.response.pathsend"]
    extensions["websocket.http.response"] = {}
    return scope


async def serve(gateway: "AsgiGateway", exchange: "AsyncExchange") -> None:
    """Run the application of *gateway* for the WebSocket of *exchange*, to its end."""
    sapi, half = gateway.sapi, exchange.websocket
    try:
        scope = websocket_scope(exchange.environ, sapi.name, list(half.subprotocols))
    except RequestError as error:
        sapi.sapi_error(error, request_line(exchange.environ))
        refuse(exchange, error.status)
        await exchange.finish()
        return
    if gateway.lifespan.supported:
        scope["state"] = gateway.lifespan.state.copy()
    session = Session(exchange)
    try:
        try:
            await gateway.application(scope, session.receive, session.send)
        except ClientDisconnected:
            await session.end(_ABNORMAL)  # from send(), and back out of the application
        except (Exception, SystemExit) as error:
            _log(sapi, exchange, error)
            await session.end(_FAILED)
        else:
            if session.phase == _CONNECTING and not exchange.aborted:
                request = request_line(exchange.environ)
                sapi.log_message(f"application: {request}: returned without an answer", ERROR)
            await session.end(_NORMAL)
    except BaseException:  # cancelled, or the keyboard
        exchange.cut()
        raise
    finally:
        await half.finish()


def _log(sapi: "Any", exchange: "AsyncExchange", error: BaseException) -> None:
    request = request_line(exchange.environ)
    if isinstance(error, ApplicationError):
        sapi.log_message(f"application: {request}: {error}", ERROR)
    else:
        sapi.log_exception(f"application raised: {request}")


class Session:
    """``receive`` and ``send`` of one WebSocket: the order of events."""

    def __init__(self, exchange: "AsyncExchange") -> None:
        self.exchange = exchange
        self.half = exchange.websocket
        self.phase = _CONNECTING
        self._asked = False
        self._denial: Response | None = None
        self._refused = False
        self._answered: asyncio.Event | None = None

    async def receive(self) -> "Event":
        """Return the next event; after ``websocket.disconnect`` that one again."""
        if not self._asked:
            self._asked = True
            return {"type": "websocket.connect"}
        if self.phase == _CONNECTING and not self.exchange.aborted:
            await self._answered_or_gone()
        if self.phase in (_CONNECTING, _DENYING) or self._refused:
            if self.phase == _DENYING:
                await self.exchange.wait_disconnect()
            return {"type": "websocket.disconnect", "code": _ABNORMAL, "reason": ""}
        message = await self.half.receive()
        if message is None:
            return {
                "type": "websocket.disconnect",
                "code": self.half.code,
                "reason": self.half.reason,
            }
        kind = "text" if isinstance(message, str) else "bytes"
        return {"type": "websocket.receive", kind: message}

    async def _answered_or_gone(self) -> None:
        """Wait until another task has answered, or the client has gone."""
        import asyncio

        self._answered = asyncio.Event()
        gone = asyncio.ensure_future(self.exchange.wait_disconnect())
        answered = asyncio.ensure_future(self._answered.wait())
        try:
            await asyncio.wait((gone, answered), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            answered.cancel()

    async def send(self, event: "Event") -> None:
        """Take one event; raise to the application what is wrong with it."""
        kind, phase = event["type"], self.phase
        if phase == _OPEN and kind == "websocket.send":
            await self.half.send(_message(event))
        elif phase in (_CONNECTING, _OPEN) and kind == "websocket.close":
            await self._close(event)
        elif phase == _CONNECTING and kind == "websocket.accept":
            await self._accept(event)
        elif phase == _CONNECTING and kind == "websocket.http.response.start":
            self._denial = Response(self.exchange, False)
            await self._denial.send({**event, "type": "http.response.start"})
            self.phase = _DENYING
        elif phase == _DENYING and kind == "websocket.http.response.body":
            assert self._denial is not None  # noqa: S101 - what made the phase
            await self._denial.send({**event, "type": "http.response.body"})
            if not event.get("more_body", False):
                self.phase = _OVER
                self._refused = True
        else:
            raise ApplicationError(f"sent {kind!r} where {phase} is due")
        if self._answered is not None and self.phase != _CONNECTING:
            self._answered.set()

    async def _accept(self, event: "Event") -> None:
        chosen = event.get("subprotocol")
        if chosen is not None and chosen not in self.half.subprotocols:
            raise ApplicationError(f"accepted {chosen!r}, which the client does not offer")
        headers = _headers(event.get("headers", ()))
        if self.exchange.aborted:
            raise ClientDisconnected("the client has gone")
        self.phase = _OPEN
        await self.half.accept(chosen, headers)

    async def _close(self, event: "Event") -> None:
        code, reason = event.get("code", _NORMAL), event.get("reason") or ""
        if not isinstance(code, int) or not isinstance(reason, str) or not _may_be_sent(code):
            raise ApplicationError(f"code {code!r} with reason {reason!r} cannot close a WebSocket")
        before, self.phase = self.phase, _OVER
        if before == _CONNECTING:
            await self._refuse(_FORBIDDEN)
        else:
            await self.half.close(code, reason)

    async def _refuse(self, status: str) -> None:
        self._denial = Response(
            self.exchange, head_only=False
        )  # whoever receives now gets the disconnect
        if not self.exchange.aborted:
            refuse(self.exchange, status)
            await self.exchange.finish()

    async def end(self, code: int) -> None:
        """Do what is left to do once the application has ended: close with *code*."""
        phase, self.phase = self.phase, _OVER
        if phase == _CONNECTING:
            await self._refuse(INTERNAL_SERVER_ERROR)
        elif phase == _OPEN:
            await self.half.close(_NORMAL if code == _ABNORMAL else code, "")
        elif phase == _DENYING:
            assert self._denial is not None  # noqa: S101 - what made the phase
            if self._denial.taken:
                self.exchange.cut()
            else:
                await self._refuse(INTERNAL_SERVER_ERROR)


def _may_be_sent(code: int) -> bool:
    """Whether *code* may stand in a close frame (RFC 6455 §7.4)."""
    return 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in (1004, 1005, 1006))


def _message(event: "Event") -> "str | bytes":
    data, text = event.get("bytes"), event.get("text")
    if (data is None) == (text is None):
        raise ApplicationError("websocket.send has either bytes or text")
    if text is not None:
        if not isinstance(text, str):
            raise ApplicationError(f"text of websocket.send is {type(text).__name__}")
        return text
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise ApplicationError(f"bytes of websocket.send is {type(data).__name__}")
    return bytes(data)


def _headers(given: "Any") -> "Headers":
    headers = []
    for item in given:
        try:
            name, value = (part.decode("latin-1") for part in item)
        except (TypeError, ValueError, AttributeError):
            raise ApplicationError(f"header {item!r} is no pair of bytes") from None
        if name.lower().startswith("sec-websocket-"):
            raise ApplicationError(f"header {name!r} is the server's to set")
        header_kind(name)
        check_header_value(name, value)
        headers.append((name, value))
    return headers
