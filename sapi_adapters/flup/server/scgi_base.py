"""SCGI by flup's names: the request, and what its servers share."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING, Any

from ...adapters.scgi import ScgiPrefork, ScgiThreaded
from ...adapters.single import Session, SingleExchange
from ...sapi import ProtocolError, request_line
from . import NoDefault
from .base import BaseServer, Connection, View
from .gateway import Body, Gateway, Output, StandardErrors, TimeoutException, fill_path
from .serving import FlupSapi, Pool, allow_named, log_to_standard_error

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from types import FrameType

    from ...sapi import Exchange
    from ...servers.listener import Listener

__all__ = ["BaseSCGIServer"]

LoggerName = "scgi-wsgi"
log_to_standard_error(LoggerName)


def recvall(sock: socket.socket, length: int) -> tuple[bytes, int]:
    """Return *length* bytes of *sock*, fewer at its end, and how many they are."""
    data = b""
    while len(data) < length and (part := sock.recv(length - len(data))):
        data += part
    return data, len(data)


def readNetstring(sock: socket.socket) -> bytes:
    """Return the netstring that comes from *sock*.

    Raises :class:`EOFError` when *sock* ends before it, :class:`ProtocolError` for anything else.
    """
    digits = b""
    while (byte := recvall(sock, 1)[0]) != b":":
        if not byte:
            raise EOFError
        digits += byte
        if not digits.isdigit() or len(digits) > 9:
            raise ProtocolError("invalid netstring length")
    size = int(digits or b"0")
    text, length = recvall(sock, size + 1)
    if length <= size:
        raise EOFError
    if text[-1:] != b",":
        raise ProtocolError("invalid netstring trailer")
    return text[:-1]


class StdoutWrapper(Output):
    """A request's stdout."""


class Request(View):
    """One SCGI request, for the hooks of a server: *environ*, *stdin*, *stdout*."""

    def __init__(self, conn: Any, environ: dict[str, Any], input: Any, output: Any) -> None:
        self._conn = conn
        self.environ = environ
        self.stdin = input
        self.stdout = output
        self.logger = logging.getLogger(LoggerName)

    def _answered(self) -> bool:
        return bool(self.stdout.dataWritten)

    def _sent(self) -> None:
        """The application's head has gone: what is written to stdout now is body."""
        self.stdout.begun = self.stdout.dataWritten = True

    def _flush(self) -> None:
        self.stdout.close()


class _Session(Session):
    """Serves connections as the SAPI's own session does, with flup's defaults."""

    def serve(self, exchange: SingleExchange) -> None:
        environ = exchange.environ
        environ.setdefault("REQUEST_METHOD", "GET")
        environ.setdefault("SCRIPT_NAME", "")  # else it would be taken from other variables
        super().serve(exchange)


class _ScgiSapi(FlupSapi):
    def session(self, cycle: Callable[[Any], Any], server: Any) -> Session:
        return _Session(self, cycle)  # type: ignore[arg-type]


class _Threaded(_ScgiSapi, ScgiThreaded):
    pass


class _Prefork(_ScgiSapi, ScgiPrefork):
    pass


class LoggingServer(BaseServer):
    """What flup's SCGI and AJP servers share: a logger, servers that may connect."""

    requestClass: Any

    def __init__(
        self, name: str, level: int, allowedServers: Any, *arguments: Any, **options: Any
    ) -> None:
        BaseServer.__init__(self, *arguments, **options)
        self._allowedServers = ["127.0.0.1"] if allowedServers is NoDefault else allowedServers
        self.logger = logging.getLogger(name)
        self.logger.setLevel(level)

    def _allow(self, listeners: list[Listener]) -> None:
        allow_named(self, listeners, self._allowedServers)

    def _isClientAllowed(self, addr: Any) -> bool:
        allowed = super()._isClientAllowed(addr)
        if not allowed:
            self.logger.warning("Server connection from %s disallowed", addr[0])
        return allowed

    def _begun(self, exchange: Exchange) -> None:
        if self.logger.isEnabledFor(logging.INFO):
            self.logger.info("%s", request_line(exchange.environ))

    def _errors_of(self, exchange: Exchange) -> StandardErrors:
        return StandardErrors()

    def _report(self, exchange: Exchange) -> None:
        self.logger.exception("Exception caught from handler: %s", request_line(exchange.environ))

    def _timed_out(
        self, exchange: Exchange, gateway: Gateway, number: int, frame: FrameType | None
    ) -> None:
        self.logger.error("Timeout Exceeded: %s", request_line(exchange.environ))
        self.logger.error("%s", "".join(traceback.format_stack(frame)))
        raise TimeoutException

    def _run_logged(self, run: Callable[[socket.socket], bool]) -> bool:
        """Set the socket up and call *run* with it, between lines of the log."""
        name = type(self).__name__
        self.logger.info("%s starting up", name)
        try:
            sock = self._setupSocket()
        except OSError as error:
            self.logger.error("Failed to bind socket (%s), exiting", error)
            raise
        try:
            reload = run(sock)
        finally:
            self._cleanupSocket(sock)
        self.logger.info("%s shutting down%s", name, " (reload requested)" if reload else "")
        return reload


class BaseSCGIServer(LoggingServer):
    """What flup's SCGI servers share.

    *scriptName* is where the application is mounted: SCRIPT_NAME + PATH_INFO is cut there; None
    leaves both alone; not given, the web server's are taken. *bindAddress* is ``(host, port)`` or
    a Unix path, created under *umask*. *allowedServers* are IP addresses that may connect by TCP,
    None is everybody.
    """

    requestClass = Request

    def __init__(
        self,
        application: Any,
        scriptName: Any = NoDefault,
        environ: Any = None,
        multithreaded: bool = True,
        multiprocess: bool = False,
        bindAddress: Any = ("localhost", 4000),
        umask: int | None = None,
        allowedServers: Any = NoDefault,
        loggingLevel: int = logging.INFO,
        debug: bool = False,
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
            umask,
            debug,
        )
        self.scriptName = scriptName

    def handler(self, request: Any) -> None:
        """Serve *request*. May be overridden. Raises what the application raised."""
        self._respond(request, request.environ, request.stdin, StandardErrors())

    def _sanitizeEnv(self, environ: dict[str, Any]) -> None:
        """Settle SCRIPT_NAME, PATH_INFO and QUERY_STRING. May be overridden."""
        name = environ.get("WSGI_SCRIPT_NAME", self.scriptName)
        if isinstance(name, str) and name.lower() == "none" and "WSGI_SCRIPT_NAME" in environ:
            name = None
        if name is NoDefault:
            if not environ.get("PATH_INFO") or not environ.get("QUERY_STRING"):
                fill_path(environ, self.logger.warning, self.unquotePathInfo)
            return
        if not environ.get("QUERY_STRING"):
            environ["QUERY_STRING"] = environ.get("REQUEST_URI", "").partition("?")[2]
        if name is not None:
            mount(environ, name, environ["SCRIPT_NAME"] + environ["PATH_INFO"], self.logger)

    def _wants_views(self) -> bool:
        return self._overrides("handler", BaseSCGIServer) or self.requestClass is not Request

    def _view(self, exchange: Exchange, gateway: Gateway) -> Any:
        conn = Connection(None, None, self, None)
        conn.exchange, conn.gateway = exchange, gateway
        return self.requestClass(conn, exchange.environ, Body(exchange), StdoutWrapper(exchange))

    def _pool(self) -> Pool:
        pool = super()._pool()
        pool.scgi_strict = False  # flup took requests without SCGI=1
        return pool

    def _make_sapi(self, sock: socket.socket) -> FlupSapi:
        return (_Threaded if self._threaded else _Prefork)(self, sock, self._pool())


def mount(environ: dict[str, Any], name: str, path: str, logger: logging.Logger) -> None:
    """Make *name* the SCRIPT_NAME of *path*, and the rest PATH_INFO."""
    if path.startswith(name):
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = name, path[len(name) :]
    else:
        logger.warning("scriptName %r does not match %s", name, ascii(path))
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = "", path
