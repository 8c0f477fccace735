"""AJP 1.3 by flup's names: code tables, packets, the request, and what its servers share."""

from __future__ import annotations

import logging
from struct import Struct
from struct import error as struct_error
from typing import TYPE_CHECKING, Any

from ...adapters.ajp import AjpPrefork, AjpThreaded
from ...protocols import ajp
from ...sapi import ConfigurationError, ProtocolError
from ...servers.listener import Listener
from . import NoDefault
from .base import Connection, InputStream, View, receive
from .gateway import (
    Gateway,
    StandardErrors,
    clean,
    clean_status,
    error_page,
    pairs_of,
)
from .gateway import TimeoutException as TimeoutException  # one of flup's names
from .scgi_base import LoggingServer, mount
from .serving import FlupSapi, Pool, addresses_of, log_to_standard_error

if TYPE_CHECKING:
    import socket

    from ...sapi import Exchange

__all__ = ["BaseAJPServer"]

LoggerName = "ajp-wsgi"
log_to_standard_error(LoggerName)

SERVER_PREFIX = b"\x12\x34"
CONTAINER_PREFIX = b"AB"

PKTTYPE_FWD_REQ = ajp.FORWARD_REQUEST
PKTTYPE_SHUTDOWN = ajp.SHUTDOWN
PKTTYPE_PING = 8
PKTTYPE_CPING = ajp.CPING

PKTTYPE_SEND_BODY = bytes((ajp.SEND_BODY_CHUNK,))
PKTTYPE_SEND_HEADERS = bytes((ajp.SEND_HEADERS,))
PKTTYPE_END_RESPONSE = bytes((ajp.END_RESPONSE,))
PKTTYPE_GET_BODY = bytes((ajp.GET_BODY_CHUNK,))
PKTTYPE_CPONG = bytes((ajp.CPONG_REPLY,))

methodTable = [None, *(name.encode() for name in ajp.METHODS)]
requestHeaderTable = [None, *(name.title().encode() for name in ajp.REQUEST_HEADERS)]
responseHeaderTable = [None, *(name.lower().encode() for name in ajp.RESPONSE_HEADERS)]
attributeTable = [
    None,
    *(None if name is None else name.encode() for _, name in sorted(ajp.ATTRIBUTES.items())),
    None,  # the name follows
    b"SSL_KEY_SIZE",
]

_short = Struct(">H")
_NULL = 0xFFFF
_CODED = 0xA0


# -- packets --------------------------------------------------------------------------------------


def decodeString(data: bytes, pos: int = 0) -> tuple[bytes, int]:
    """Return the string at *pos*, ``b""`` for a null one, and where it ends."""
    try:
        (length,) = _short.unpack_from(data, pos)
    except struct_error as error:
        raise ProtocolError(f"decodeString: {error}") from error
    pos += 2
    if length == _NULL:
        return b"", pos
    if pos + length >= len(data):
        raise ProtocolError("decodeString: the packet ends inside a string")
    return data[pos : pos + length], pos + length + 1


def decodeRequestHeader(data: bytes, pos: int = 0) -> tuple[bytes, bytes, int]:
    """Return name and value of the request header at *pos*, and where it ends."""
    name: bytes | None
    if data[pos : pos + 1] == b"\xa0":
        code = data[pos + 1] if pos + 1 < len(data) else 0
        name = requestHeaderTable[code] if code < len(requestHeaderTable) else None
        if name is None:
            raise ProtocolError(f"decodeRequestHeader: no header has the code {code}")
        pos += 2
    else:
        name, pos = decodeString(data, pos)
    value, pos = decodeString(data, pos)
    return name, value, pos


def decodeAttribute(data: bytes, pos: int = 0) -> tuple[bytes | None, Any, int]:
    """Return name and value of the attribute at *pos*, and where it ends; None at their end."""
    if pos >= len(data):
        raise ProtocolError("decodeAttribute: the packet ends before the attributes")
    code = data[pos]
    pos += 1
    if code == ajp.ARE_DONE:
        return None, None, pos
    name: bytes | None
    if code == ajp.REQ_ATTRIBUTE:
        name, pos = decodeString(data, pos)
    elif code == ajp.SSL_KEY_SIZE:
        if pos + 2 > len(data):
            raise ProtocolError("decodeAttribute: the packet ends inside a number")
        return attributeTable[code], str(_short.unpack_from(data, pos)[0]), pos + 2
    else:
        name = attributeTable[code] if code < len(attributeTable) else None
        if name is None:
            raise ProtocolError(f"decodeAttribute: no attribute has the code {code}")
    value, pos = decodeString(data, pos)
    return name, value, pos


def encodeString(s: bytes) -> bytes:
    """Return *s* as a string of a packet."""
    return _short.pack(len(s)) + s + b"\0"


def encodeResponseHeader(name: bytes, value: bytes) -> bytes:
    """Return a response header, its name by its code where it has one."""
    lower = name.lower()
    if lower in responseHeaderTable:
        return bytes((_CODED, responseHeaderTable.index(lower))) + encodeString(value)
    return encodeString(name) + encodeString(value)


class Packet:
    """One AJP packet: *data*, without the head."""

    def __init__(self) -> None:
        self.data = b""
        self.length = 0

    def read(self, sock: socket.socket) -> None:
        """Read a web server's packet. Raises :class:`EOFError` when *sock* ends before that."""
        head = receive(sock, 4)
        if head[:2] != SERVER_PREFIX:
            raise ProtocolError("invalid header")
        (self.length,) = _short.unpack_from(head, 2)
        self.data = receive(sock, self.length)

    def write(self, sock: socket.socket) -> None:
        """Send it to a web server."""
        self.length = len(self.data)
        sock.sendall(CONTAINER_PREFIX + _short.pack(self.length) + self.data)


# -- the request ----------------------------------------------------------------------------------


class Request(View):
    """One AJP request, for the hooks of a server: *environ*, *input*, startResponse(), write()."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn
        self.environ: dict[str, Any] = conn.exchange.environ
        self.input = InputStream(conn)
        self._headersSent = False
        self.logger = logging.getLogger(LoggerName)

    def _answered(self) -> bool:
        return self._headersSent

    def _sent(self) -> None:
        """The application's head has gone."""
        self._headersSent = True

    def startResponse(self, statusCode: int, statusMsg: Any, headers: Any) -> None:
        """Take the head: a number, its reason, pairs of bytes or str. To be called once."""
        if self._headersSent:
            raise ProtocolError("the head was sent already")
        reason = statusMsg.decode("latin-1") if isinstance(statusMsg, bytes) else statusMsg
        status = clean_status(f"{statusCode} {reason}")
        native = clean(pairs_of(headers), self.exchange.sapi)
        self._headersSent = True
        self.exchange.send_headers(status, native)

    def write(self, data: bytes) -> None:
        """Send *data*, after the head."""
        if not self._headersSent:
            raise ProtocolError("write() before startResponse()")
        if data:
            self.exchange.ub_write(data)
            self.exchange.flush()

    # What flup's connection called for each part of a request; here all is in *environ* already.

    def setMethod(self, value: bytes) -> None:
        """Set the method."""
        self.environ["REQUEST_METHOD"] = value.decode("latin-1")

    def setProtocol(self, value: bytes) -> None:
        """Set the protocol."""
        self.environ["SERVER_PROTOCOL"] = value.decode("latin-1")

    def setRequestURI(self, value: bytes) -> None:
        """Set the request's target."""
        self.environ["REQUEST_URI"] = value.decode("latin-1")

    def setRemoteAddr(self, value: bytes) -> None:
        """Set the client's address."""
        self.environ["REMOTE_ADDR"] = value.decode("latin-1")

    def setRemoteHost(self, value: bytes) -> None:
        """Set the client's name."""
        self.environ["REMOTE_HOST"] = value.decode("latin-1")

    def setServerName(self, value: bytes) -> None:
        """Set the server's name."""
        self.environ["SERVER_NAME"] = value.decode("latin-1")

    def setServerPort(self, value: int) -> None:
        """Set the server's port."""
        self.environ["SERVER_PORT"] = str(value)

    def setIsSSL(self, value: Any) -> None:
        """Set whether the request came over TLS."""
        if value:
            self.environ["HTTPS"] = "on"

    def addHeader(self, name: bytes, value: bytes) -> None:
        """Add a header."""
        key = name.decode("latin-1").replace("-", "_").upper()
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = f"HTTP_{key}"
        self.environ[key] = value.decode("latin-1")

    def addAttribute(self, name: bytes, value: bytes) -> None:
        """Add an attribute."""
        self.environ[name.decode("latin-1")] = value.decode("latin-1")


# -- the server -----------------------------------------------------------------------------------


class _Threaded(FlupSapi, AjpThreaded):
    pass


class _Prefork(FlupSapi, AjpPrefork):
    pass


class BaseAJPServer(LoggingServer):
    """What flup's AJP servers share.

    *scriptName* is where the application is mounted. *bindAddress* is ``(host, port)``; where
    other machines can reach it, both *secret*, which the web server has to know, and
    *allowedServers* are needed, as an AJP peer is believed whatever it says. *trustRemoteUser*
    lets it name the user, too.
    """

    requestClass: Any = Request
    inputStreamShrinkThreshold = 102400 - 8192

    def __init__(
        self,
        application: Any,
        scriptName: str = "",
        environ: Any = None,
        multithreaded: bool = True,
        multiprocess: bool = False,
        bindAddress: Any = ("localhost", 8009),
        allowedServers: Any = NoDefault,
        loggingLevel: int = logging.INFO,
        debug: bool = False,
        secret: str | None = None,
        trustRemoteUser: bool = True,
    ) -> None:
        LoggingServer.__init__(
            self,
            LoggerName,
            loggingLevel,
            allowedServers,
            application,
            environ,
            multithreaded,
            multiprocess,
            bindAddress,
            None,
            debug,
        )
        self.scriptName = scriptName
        self._secret = secret
        self._trustRemoteUser = trustRemoteUser

    def _setupSocket(self) -> socket.socket:
        """Return the socket to serve. Raises :class:`OSError`.

        And :class:`ConfigurationError` for one that others can reach, without a secret.
        """
        sock = super()._setupSocket()
        known = addresses_of(self, self._allowedServers or ())
        if not Listener(sock).is_local() and not (self._secret and known):
            sock.close()
            raise ConfigurationError(
                f"AJP on {self._bindAddress!r}, which other machines can reach, needs secret="
                " and allowedServers=: its peer is believed whatever it says"
            )
        return sock

    def handler(self, request: Any) -> None:
        """Serve *request*. May be overridden. Raises what the application raised."""
        self._respond(request, request.environ, request.input, StandardErrors())

    def error(self, request: Any) -> None:
        """Answer *request*, whose handler raised what is being handled. May be overridden."""
        request.startResponse(500, b"Internal Server Error", [(b"Content-Type", b"text/html")])
        request.write(error_page(self.debug))

    def _sanitizeEnv(self, environ: dict[str, Any]) -> None:
        """Settle SCRIPT_NAME and PATH_INFO. May be overridden."""
        name = environ.get("WSGI_SCRIPT_NAME", self.scriptName)
        path = environ["PATH_INFO"]
        if not self.unquotePathInfo:
            path = environ.get("REQUEST_URI", path).partition("?")[0]
        mount(environ, name, path, self.logger)

    def _wants_views(self) -> bool:
        return self._overrides("handler", BaseAJPServer) or self.requestClass is not Request

    def _view(self, exchange: Exchange, gateway: Gateway) -> Any:
        conn = Connection(None, None, self, None)
        conn.exchange, conn.gateway = exchange, gateway
        return self.requestClass(conn)

    def _pool(self) -> Pool:
        pool = super()._pool()
        pool.ajp_secret = self._secret
        pool.ajp_remote_user = self._trustRemoteUser
        pool.listen_allowed_clients = tuple(addresses_of(self, self._allowedServers or ()))
        return pool

    def _make_sapi(self, sock: socket.socket) -> FlupSapi:
        return (_Threaded if self._threaded else _Prefork)(self, sock, self._pool())
