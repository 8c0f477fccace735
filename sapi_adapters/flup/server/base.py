"""What flup's three ``Base..Server`` classes share: sockets, who may connect, failed requests."""

from __future__ import annotations

import _thread
import os
from typing import TYPE_CHECKING, Any

from ...adapters.cgi import Cgi
from ...sapi import ClientDisconnected, request_line
from .gateway import Body, Gateway, TolerantResponse, error_page, write_standard_error
from .serving import Serving, bind

if TYPE_CHECKING:
    import socket
    from types import FrameType

    from ...sapi import Exchange
    from ...servers.listener import Listener
    from .serving import FlupSapi


def serve_cgi(owner: Any) -> None:
    """Serve the one request of a CGI process with *owner*; a program started by hand gets a GET."""
    if "REQUEST_METHOD" not in os.environ:
        write_standard_error("no REQUEST_METHOD in the environment: GET is assumed\n")
        os.environ["REQUEST_METHOD"] = "GET"
    sapi = Cgi()
    sapi.run(lambda: Gateway(owner, sapi, once=True))


class Connection:
    """What a request knows of its connection: the server, and the exchange that it is a view of."""

    def __init__(self, sock: Any, addr: Any, server: Any, timeout: Any) -> None:
        self._sock = sock
        self._addr = addr
        self.server = server
        self._timeout = timeout
        self.exchange: Any = None
        self.gateway: Any = None


class InputStream(Body):
    """A request's body, or a filter's file: read, readline, readlines, iteration."""

    __slots__ = ()

    def __init__(self, conn: Any) -> None:
        super().__init__(conn.exchange)


class View:
    """A request as the hooks of a server know it: a view of an exchange."""

    _conn: Any

    @property
    def exchange(self) -> Any:
        """What it is a view of."""
        return self._conn.exchange

    def run(self) -> None:
        """Run the server's handler, and end the request."""
        exchange, server = self.exchange, self._conn.server
        try:
            with self._conn.gateway.limit(exchange):
                outcome = server.handler(self)
            self._flush()
        except ClientDisconnected:
            exchange.cut()
        except (Exception, SystemExit):
            server._report(exchange)
            if self._answered():
                exchange.cut()
            else:
                self._conn.gateway.apologise(self)
        except BaseException:
            exchange.cut()
            raise
        else:
            self._finish(outcome)

    def _answered(self) -> bool:
        """Tell whether something of the response was given to the exchange."""
        raise NotImplementedError

    def _flush(self) -> None:
        """Give the exchange what is held."""

    def _finish(self, outcome: Any) -> None:
        """End the request; *outcome* is what the handler returned."""
        self.exchange.finish()


class BaseServer(Serving):
    """A server of one protocol; a process model stands behind it in the order of classes."""

    unquotePathInfo = True
    """Whether a PATH_INFO that is taken from REQUEST_URI is percent-decoded. flup's was not."""

    def __init__(
        self,
        application: Any,
        environ: Any,
        multithreaded: bool,
        multiprocess: bool,
        bindAddress: Any,
        umask: int | None,
        debug: bool,
    ) -> None:
        self.application = application
        self.environ = {} if environ is None else environ
        self.multithreaded = multithreaded
        self.multiprocess = multiprocess
        self.debug = debug
        self._bindAddress = bindAddress
        self._umask = umask
        self._appLock = _thread.allocate_lock()

    # -- what subclasses may override

    def _setupSocket(self) -> socket.socket:
        """Return the socket to serve. Raises :class:`OSError`."""
        return bind(self._bindAddress, self._umask)

    def _cleanupSocket(self, sock: socket.socket) -> None:
        """Close the socket."""
        sock.close()

    def _sanitizeEnv(self, environ: dict[str, Any]) -> None:
        """Fill in what WSGI asks for, and settle the path."""

    def error(self, req: Any) -> None:
        """Answer *req*, whose handler raised what is being handled. May be overridden."""
        req.stdout.write(
            b"Status: 500 Internal Server Error\r\nContent-Type: text/html\r\n\r\n"
            + error_page(self.debug)
        )

    # -- what a protocol fills in

    def _wants_views(self) -> bool:
        """Tell whether somebody's own code serves requests, in place of the gateway."""
        raise NotImplementedError

    def _view(self, exchange: Exchange, gateway: Gateway) -> Any:
        """Return *exchange* as a request of flup's."""
        raise NotImplementedError

    def _begun(self, exchange: Exchange) -> None:
        """*exchange* is about to be served."""

    def _errors_of(self, exchange: Exchange) -> Any:
        """Return ``wsgi.errors`` for *exchange*."""
        raise NotImplementedError

    def _report(self, exchange: Exchange) -> None:
        """Write the exception that is being handled where errors of *exchange* go."""
        exchange.sapi.log_exception(f"application raised: {request_line(exchange.environ)}")

    def _timed_out(
        self, exchange: Exchange, gateway: Gateway, number: int, frame: FrameType | None
    ) -> None:
        """*exchange* takes too long: report it, and raise in the application."""
        raise NotImplementedError

    def _respond(self, req: Any, environ: dict[str, Any], body: Any, errors: Any) -> None:
        """Call the application for *req*, which learns whether the head was sent."""
        response = TolerantResponse(req.exchange)
        req.exchange.environ = environ
        try:
            req._conn.gateway.respond(environ, body, errors, response)
        finally:
            if response.sent:
                req._sent()

    # -- what a SAPI asks for

    def _make_gateway(self, sapi: FlupSapi) -> Gateway:
        several = sapi.threads > 1
        lock = self._appLock if several and not self.multithreaded else None
        timeout = self._jobArgs[1] if len(self._jobArgs) > 1 and not several else None
        return Gateway(self, sapi, lock=lock, timeout=timeout)

    def _guard(self, listeners: list[Listener]) -> None:
        self._allow(listeners)
        self._peer_allowed = listeners[0].allows
        if self._overrides("_isClientAllowed", BaseServer):
            listeners[0].allows = self._isClientAllowed

    def _allow(self, listeners: list[Listener]) -> None:
        """Let only those connect whom the server was given."""

    _peer_allowed: Any = None

    def _isClientAllowed(self, addr: Any) -> bool:
        return self._peer_allowed is None or bool(self._peer_allowed(addr))


def receive(sock: socket.socket, size: int) -> bytes:
    """Return the next *size* bytes. Raises :class:`EOFError` when the connection ends before."""
    data = b""
    while len(data) < size:
        try:
            part = sock.recv(size - len(data))
        except OSError as error:
            raise EOFError from error
        if not part:
            raise EOFError
        data += part
    return data
