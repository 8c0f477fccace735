"""``FCGIApp``: a WSGI application that hands each request to a FastCGI server.

``Record``, ``decode_pair`` and the constants are those of
:mod:`~sapi_adapters.flup.server.fcgi_base`, loaded when they are asked for.
"""

from __future__ import annotations

import codecs
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from ...protocols.fastcgi import (
    CANT_MPX_CONN,
    OVERLOADED,
    PARAMS,
    REQUEST_COMPLETE,
    ClientConnection,
    RequestEnded,
    StderrReceived,
    StdoutReceived,
    ValuesReceived,
    encode_pairs,
    record,
    stream,
)
from ...protocols.fastcgi import encode_pair as encode_pair  # flup has it here
from ...sapi import ProtocolError
from .app import ClientApp, pair

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

    from .response import Response

__all__ = ["FCGIApp"]

FCGI_BeginRequestBody_LEN = 8
"""The one constant that is the client's alone."""
_ID = 1


class _Wire:
    """One request on a connection of its own: a :class:`~.response.Wire`."""

    name = "the FastCGI server"

    def __init__(self, codec: ClientConnection, errors: Any) -> None:
        self.ended = False
        self._codec = codec
        self._errors = errors
        # A character may lie in two records.
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def body(self, data: bytes) -> bytes:
        return self._codec.stdin(_ID, data)

    def receive(self, data: bytes) -> bytes:
        if not data:
            raise ConnectionError(f"{self.name} closed the connection before it had answered")
        found = []
        for event in _events(self._codec, data):
            if isinstance(event, StdoutReceived):
                found.append(event.data)
            elif isinstance(event, StderrReceived):
                self._errors.write(self._decoder.decode(event.data))
            elif isinstance(event, RequestEnded):
                self.ended = True
                if event.status in (OVERLOADED, CANT_MPX_CONN):
                    raise ConnectionRefusedError(f"{self.name} is overloaded")
                if event.status != REQUEST_COMPLETE:
                    raise ConnectionError(f"{self.name} refused the request: {event.status}")
        return b"".join(found)


def _events(codec: ClientConnection, data: bytes) -> list[Any]:
    try:
        return list(codec.receive_data(data))
    except ProtocolError as error:
        raise ConnectionError(f"{_Wire.name} breaks the protocol: {error}") from None


class FCGIApp(ClientApp):
    """Asks the FastCGI server at *connect*, a path or (host, port), or at *host* and *port*.

    Each request has a connection of its own. Variables are passed on that begin with one of
    ``_environPrefixes``, are in ``_environCopies``, or in ``_environRenames`` with another name;
    with *filterEnviron* false all whose names are upper case. What the server writes on STDERR goes
    to ``wsgi.errors``. *command* is not implemented, as in flup. *timeout* and what is raised: see
    :class:`~sapi_adapters.flup.client.app.ClientApp`.
    """

    _environPrefixes: ClassVar = ["SERVER_", "HTTP_", "REQUEST_", "REMOTE_", "PATH_", "CONTENT_"]
    _environCopies: ClassVar = ["SCRIPT_NAME", "QUERY_STRING", "AUTH_TYPE"]
    _environRenames: ClassVar = {}

    def __init__(
        self,
        command: Any = None,
        connect: Any = None,
        host: str | None = None,
        port: Any = None,
        filterEnviron: bool = True,
        *,
        timeout: float | None = None,
    ) -> None:
        super().__init__(connect, host, port, filterEnviron, timeout)
        if (command is None) == (self._connect is None):
            raise AssertionError("one of command and connect, or host and port")
        self._command = command

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Response:
        """Hand the request over; return an iterable of the response's blocks."""
        return self._call(environ, start_response, partial(self._ask, environ))

    def _ask(self, environ: dict[str, Any], sock: socket.socket, params: dict[str, Any]) -> _Wire:
        codec = ClientConnection()
        # Both streams of parameters are the method's that subclasses may override.
        sock.sendall(codec.begin(_ID, ()).removesuffix(record(PARAMS, _ID, b"")))
        self._fcgiParams(sock, _ID, params)
        self._fcgiParams(sock, _ID, {})
        return _Wire(codec, environ.get("wsgi.errors") or sys.stderr)

    def _getConnection(self) -> socket.socket:
        if self._connect is None:
            raise NotImplementedError("starting a FastCGI program is not implemented")
        return super()._getConnection()

    def _fcgiParams(self, sock: socket.socket, requestId: int, params: dict[str, Any]) -> None:
        """Send *params*; an empty dict ends them."""
        block = encode_pairs([pair(name, value) for name, value in params.items()])
        sock.sendall(stream(PARAMS, requestId, block) or record(PARAMS, requestId, b""))

    def _fcgiGetValues(self, sock: socket.socket, vars: Iterable[Any]) -> dict[Any, Any]:
        """Return what the server says of *vars*, as bytes; as text when they are text.

        A variable that it does not know is missing.
        """
        codec = ClientConnection()
        names = {pair(name, b"")[0]: name for name in vars}
        sock.sendall(codec.get_values(*names))
        while data := sock.recv(4096):
            for event in _events(codec, data):
                if isinstance(event, ValuesReceived):
                    return {
                        names[name]: value if names[name] == name else value.decode("latin-1")
                        for name, value in event.values.items()
                        if name in names
                    }
                return {}
        raise ConnectionError(f"{_Wire.name} closed the connection before it had answered")


def __getattr__(name: str) -> Any:
    if name in ("Record", "decode_pair") or name.startswith("FCGI_"):
        from ..server import fcgi_base

        return getattr(fcgi_base, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
