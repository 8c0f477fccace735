"""``SCGIApp``: a WSGI application that hands each request to an SCGI server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ...protocols.scgi import request
from .app import ClientApp, pair
from .response import length_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from .response import Response

__all__ = ["SCGIApp"]


class _Wire:
    """A body as it is, a response until the server closes: a :class:`~.response.Wire`."""

    name = "the SCGI server"

    def __init__(self) -> None:
        self.ended = False

    def body(self, data: bytes) -> bytes:
        return data

    def receive(self, data: bytes) -> bytes:
        self.ended = not data
        return data


class SCGIApp(ClientApp):
    """Asks the SCGI server at *connect*, a path or (host, port), or at *host* and *port*.

    As :class:`~sapi_adapters.flup.client.fcgi_app.FCGIApp`; SCGI has no STDERR, and the end of a
    response can be told from a server that died only where it has a Content-Length.
    """

    _environPrefixes: ClassVar = ["SERVER_", "HTTP_", "REQUEST_", "REMOTE_", "PATH_", "CONTENT_"]
    _environCopies: ClassVar = ["SCRIPT_NAME", "QUERY_STRING", "AUTH_TYPE"]
    _environRenames: ClassVar = {}

    def __init__(
        self,
        connect: Any = None,
        host: str | None = None,
        port: Any = None,
        filterEnviron: bool = True,
        *,
        timeout: float | None = None,
    ) -> None:
        super().__init__(connect, host, port, filterEnviron, timeout)
        if self._connect is None:
            raise AssertionError("connect, or host and port")

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Response:
        """Hand the request over; return an iterable of the response's blocks."""
        length = length_of(environ)

        def ask(sock: socket.socket, params: dict[str, Any]) -> _Wire:
            sock.sendall(request([pair(name, value) for name, value in params.items()], length))
            return _Wire()

        return self._call(environ, start_response, ask)


def encodeNetstring(s: bytes) -> bytes:
    """Return *s* as a netstring."""
    return b"%d:%b," % (len(s), s)
