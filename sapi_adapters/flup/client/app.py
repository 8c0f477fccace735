"""What both clients share: the address, and which variables of a request they pass on."""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Any, ClassVar

from ...httpd.script import to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from .response import Response, Wire


class ClientApp:
    """A WSGI application that asks the server at *connect*: a path, or (host, port).

    *timeout*, in seconds, is for the connection and then for each time that nothing moves. A
    subclass may set another as ``_timeout``; the limit of a socket that its ``_getConnection``
    returns comes before both.

    Raises :class:`OSError` when called: of the connection; :class:`TimeoutError` for a server that
    is silent; another :class:`ConnectionError` for one that does not answer by the rules. When
    that happens after the head, iterating over the response raises it.
    """

    _environPrefixes: ClassVar[list[str]]
    _environCopies: ClassVar[list[str]]
    _environRenames: ClassVar[dict[str, str]]
    _timeout: float = 60.0

    def __init__(
        self, connect: Any, host: str | None, port: Any, filterEnviron: bool, timeout: float | None
    ) -> None:
        if host is not None:
            if port is None:
                raise AssertionError("host without port")
            connect = (host, port)
        self._connect = connect
        self._filterEnviron = filterEnviron
        if timeout is not None:
            self._timeout = timeout

    def _getConnection(self) -> socket.socket:
        """Return a new connection. Raises :class:`OSError`."""
        if not isinstance(self._connect, (str, bytes, os.PathLike)):
            return socket.create_connection(self._connect[:2], self._timeout)
        sock = socket.socket(socket.AF_UNIX)
        try:
            # A full queue is waited for in the kernel: with Python's limit the socket would not
            # block, and connecting would fail.
            limit = struct.pack("@ll", int(self._timeout), int(self._timeout % 1 * 1e6))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            sock.connect(os.fspath(self._connect))
            sock.settimeout(self._timeout)
        except BlockingIOError:
            sock.close()
            raise TimeoutError(f"{self._connect!r} takes no connection") from None
        except BaseException:
            sock.close()
            raise
        return sock

    def _call(
        self,
        environ: dict[str, Any],
        start_response: Callable[..., Any],
        ask: Callable[[socket.socket, dict[str, Any]], Wire],
    ) -> Response:
        """Let *ask* send the head of a request on a new connection, and read that of the answer."""
        from .response import Response

        sock = self._getConnection()
        try:
            timeout = sock.gettimeout() or self._timeout
            sock.settimeout(timeout)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._filterEnviron:
                params = self._defaultFilterEnviron(environ)
            else:
                params = self._lightFilterEnviron(environ)
            params.pop("HTTP_PROXY", None)  # CVE-2016-5385: a header that no client has reason for
            response = Response(sock, ask(sock, params), environ, timeout)
            response.begin(start_response)
        except BaseException:
            sock.close()
            raise
        return response

    def _defaultFilterEnviron(self, environ: dict[str, Any]) -> dict[str, Any]:
        result = {}
        prefixes = tuple(self._environPrefixes)
        for name, value in environ.items():
            if name.startswith(prefixes) or name in self._environCopies:
                result[name] = value
            if name in self._environRenames:
                result[self._environRenames[name]] = value
        return result

    def _lightFilterEnviron(self, environ: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in environ.items() if name == name.upper()}


def pair(name: str | bytes, value: str | bytes) -> tuple[bytes, bytes]:
    """Return a variable as it goes over the wire. Raises :class:`TypeError` for other values."""
    if not isinstance(value, (str, bytes)):
        raise TypeError(f"{name!r} is {value!r}, not text")
    return (
        name if isinstance(name, bytes) else to_bytes(name),
        value if isinstance(value, bytes) else to_bytes(value),
    )
