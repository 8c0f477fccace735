"""FastCGI by flup's names: constants, streams, requests, and what its servers share.

Records and pairs are the codec's of ``protocols.fastcgi``; a request is a view of an exchange.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from functools import partial
from struct import Struct, calcsize
from typing import TYPE_CHECKING, Any, NoReturn

from ...adapters.fastcgi import FcgiPrefork, FcgiThreaded
from ...adapters.fastcgi_exchange import FastcgiExchange, Link, Session, serve_linked
from ...adapters.tree import fill_standard_descriptors
from ...protocols import fastcgi
from ...protocols.cgi import mend
from ...protocols.fastcgi import encode_pair as encode_pair  # exported as flup has it
from ...protocols.fastcgi import iter_pairs
from ...sapi import RequestError
from ...servers import listener
from . import base
from .base import BaseServer, InputStream, View, receive, serve_cgi
from .gateway import (
    ErrorStream,
    Gateway,
    Output,
    StandardErrors,
    TimeoutException,
    TwofoldErrors,
    fill_path,
    write_standard_error,
)
from .serving import FlupSapi, allow_web_servers

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable
    from types import FrameType

    from ...sapi import Exchange
    from ...servers.channel import Channel
    from ...servers.listener import Listener

__all__ = ["BaseFCGIServer"]

FCGI_LISTENSOCK_FILENO = 0
FCGI_HEADER_LEN = 8
FCGI_VERSION_1 = fastcgi.VERSION

FCGI_BEGIN_REQUEST = fastcgi.BEGIN_REQUEST
FCGI_ABORT_REQUEST = fastcgi.ABORT_REQUEST
FCGI_END_REQUEST = fastcgi.END_REQUEST
FCGI_PARAMS = fastcgi.PARAMS
FCGI_STDIN = fastcgi.STDIN
FCGI_STDOUT = fastcgi.STDOUT
FCGI_STDERR = fastcgi.STDERR
FCGI_DATA = fastcgi.DATA
FCGI_GET_VALUES = fastcgi.GET_VALUES
FCGI_GET_VALUES_RESULT = fastcgi.GET_VALUES_RESULT
FCGI_UNKNOWN_TYPE = fastcgi.UNKNOWN_TYPE
FCGI_MAXTYPE = FCGI_UNKNOWN_TYPE

FCGI_NULL_REQUEST_ID = 0

FCGI_KEEP_CONN = fastcgi.KEEP_CONN

FCGI_RESPONDER = fastcgi.RESPONDER
FCGI_AUTHORIZER = fastcgi.AUTHORIZER
FCGI_FILTER = fastcgi.FILTER

FCGI_REQUEST_COMPLETE = fastcgi.REQUEST_COMPLETE
FCGI_CANT_MPX_CONN = fastcgi.CANT_MPX_CONN
FCGI_OVERLOADED = fastcgi.OVERLOADED
FCGI_UNKNOWN_ROLE = fastcgi.UNKNOWN_ROLE

FCGI_MAX_CONNS = "FCGI_MAX_CONNS"
FCGI_MAX_REQS = "FCGI_MAX_REQS"
FCGI_MPXS_CONNS = "FCGI_MPXS_CONNS"

FCGI_Header = "!BBHHBx"
FCGI_BeginRequestBody = "!HB5x"
FCGI_EndRequestBody = "!LB3x"
FCGI_UnknownTypeBody = "!B7x"

FCGI_EndRequestBody_LEN = calcsize(FCGI_EndRequestBody)
FCGI_UnknownTypeBody_LEN = calcsize(FCGI_UnknownTypeBody)

thread_available = True

_header = Struct(FCGI_Header)
_STDIN_END = fastcgi.record(fastcgi.STDIN, 1, b"")


# -- records --------------------------------------------------------------------------------------


def decode_pair(s: bytes, pos: int = 0) -> tuple[int, tuple[bytes, bytes]]:
    """Return where the name-value pair at *pos* ends, and the pair.

    Raises :class:`~sapi_adapters.sapi.ProtocolError` when *s* ends inside it.
    """
    name, value = next(iter_pairs(s[pos:]), (b"", b""))
    for _ in range(2):
        pos += 4 if s[pos] & 128 else 1
    return pos + len(name) + len(value), (name, value)


class Record:
    """One FastCGI record."""

    def __init__(
        self, type: int = FCGI_UNKNOWN_TYPE, requestId: int = FCGI_NULL_REQUEST_ID
    ) -> None:
        self.version = FCGI_VERSION_1
        self.type = type
        self.requestId = requestId
        self.contentLength = 0
        self.paddingLength = 0
        self.contentData = b""

    def read(self, sock: socket.socket) -> None:
        """Read a record from *sock*. Raises :class:`EOFError` when it ends before that."""
        found = _header.unpack(receive(sock, FCGI_HEADER_LEN))
        self.version, self.type, self.requestId, self.contentLength, self.paddingLength = found
        if self.contentLength:
            self.contentData = receive(sock, self.contentLength)
        receive(sock, self.paddingLength)

    def write(self, sock: socket.socket) -> None:
        """Write it to *sock*; *contentLength* bytes of *contentData*, padded to eight."""
        self.paddingLength = -self.contentLength & 7
        content = self.contentData[: self.contentLength]
        head = _header.pack(
            self.version, self.type, self.requestId, self.contentLength, self.paddingLength
        )
        sock.sendall(head + content + bytes(self.paddingLength))


# -- streams --------------------------------------------------------------------------------------


class MultiplexedInputStream(InputStream):
    """The same: an exchange may be read whatever else its connection carries."""

    __slots__ = ()


class OutputStream(Output):
    """A request's stdout, a CGI response, or its stderr."""

    def __init__(self, conn: Any, req: Any, type: int, buffered: bool = False) -> None:
        super().__init__(conn.exchange)
        self._type = type

    def write(self, data: Any) -> None:
        """Send *data*, bytes or str."""
        if self._type != FCGI_STDERR:
            super().write(data)
        elif data:
            self.dataWritten = True
            text = data if isinstance(data, str) else bytes(data).decode("utf-8", "replace")
            self._exchange.log_message(text)


class TeeOutputStream:
    """Copies what is written to all of *streamList*."""

    def __init__(self, streamList: Iterable[Any]) -> None:
        self._streamList = streamList

    def write(self, data: Any) -> None:
        """Write *data*."""
        for stream in self._streamList:
            stream.write(data)

    def writelines(self, lines: Iterable[Any]) -> None:
        """Write each of *lines*."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush each stream."""
        for stream in self._streamList:
            stream.flush()


class StdoutWrapper:
    """A file, and whether something was written to it: bytes go to its buffer."""

    def __init__(self, stdout: Any) -> None:
        self._file = stdout
        self.dataWritten = False

    def write(self, data: Any) -> None:
        """Write *data*, bytes or str."""
        self.dataWritten = self.dataWritten or bool(data)
        if isinstance(data, str):
            data = data.encode("latin-1")
        getattr(self._file, "buffer", self._file).write(data)

    def writelines(self, lines: Iterable[Any]) -> None:
        """Write each of *lines*."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


# -- requests -------------------------------------------------------------------------------------


class Connection(base.Connection):
    """A FastCGI connection, as a request knows it."""

    _multiplexed = False
    _inputStreamClass = InputStream


class MultiplexedConnection(Connection):
    """One that carries several requests at a time."""

    _multiplexed = True
    _inputStreamClass = MultiplexedInputStream


class Request(View):
    """One FastCGI request, for the hooks of a server.

    *params* are its variables; *stdin*, *stdout*, *stderr* and *data* its streams.
    """

    requestId = 1
    role = FCGI_RESPONDER
    flags = 0

    def __init__(self, conn: Any, inputStreamClass: Any, timeout: float | None) -> None:
        self._conn = conn
        self._timeout = timeout
        self.server = conn.server
        self.params: dict[str, Any] = self.exchange.environ
        self.stdin = inputStreamClass(conn)
        self.stdout: Any = OutputStream(conn, self, FCGI_STDOUT)
        self.stderr: Any = OutputStream(conn, self, FCGI_STDERR, buffered=True)
        self.data: Any = getattr(self.exchange, "data", None) or io.BytesIO()

    @property
    def aborted(self) -> bool:
        """Whether the web server gave the request up."""
        return bool(self.exchange.aborted)

    def timeout_handler(self, signum: int, frame: FrameType | None) -> None:
        """Say where the request is, and raise :class:`TimeoutException` there."""
        self.stderr.write("Timeout Exceeded\n" + "".join(traceback.format_stack(frame)))
        self.stderr.flush()
        raise TimeoutException

    def _answered(self) -> bool:
        return bool(self.stdout.dataWritten)

    def _sent(self) -> None:
        """The application's head has gone: what is written to stdout now is body."""
        self.stdout.begun = self.stdout.dataWritten = True

    def _finish(self, outcome: Any) -> None:
        protocolStatus, appStatus = outcome
        self._end(appStatus, protocolStatus)

    def _end(self, appStatus: int = 0, protocolStatus: int = FCGI_REQUEST_COMPLETE) -> None:
        end(self.exchange, appStatus, protocolStatus)

    def _flush(self) -> None:
        self.stdout.close()


class CGIRequest(Request):
    """The request of a CGI process, as one of FastCGI's."""

    def __init__(self, server: Any) -> None:
        conn = Connection(None, None, server, 0)
        conn.exchange, conn.gateway = server._cgi
        super().__init__(conn, InputStream, 0)
        self.stderr = sys.stderr

    def _end(self, appStatus: int = 0, protocolStatus: int = FCGI_REQUEST_COMPLETE) -> None:
        self.exchange.finish()
        self.server._cgi_status = appStatus


def end(exchange: Any, app_status: int, protocol_status: int) -> None:
    """End *exchange* with these numbers in END_REQUEST (S§5.5)."""
    if not app_status and not protocol_status:
        exchange.finish()
    elif not exchange.ended:
        exchange.ended = True
        errors = exchange._had_errors
        exchange._send(
            exchange._take()
            + fastcgi.end_response(exchange._id, errors, app_status, protocol_status)
        )


# -- the SAPIs ------------------------------------------------------------------------------------


class _Link(Link):
    """A connection in general, for the roles that the server has."""

    def __init__(self, session: _Session, channel: Channel) -> None:
        super().__init__(session, channel)
        self.connection = fastcgi.Connection(
            multiplex=session.multiplex,
            max_requests=session.max_requests,
            roles=session.roles,
            values=session.values,
        )


class _Session(Session):
    """Serves connections as the SAPI's own session does, with flup's roles and defaults."""

    roles: frozenset[int] = frozenset()

    def __call__(self, channel: Channel) -> float | None:
        if channel.session is None:
            data = channel.data
            if not (
                data[8:10] == b"\0\1"  # a responder's request, which looks complete
                and data[-8:] == _STDIN_END
                and data[:2] == b"\1\1"
                and FCGI_RESPONDER in self.roles
                and not self.multiplex
            ):
                channel.session = _Link(self, channel)
        return super().__call__(channel)

    def serve(self, exchange: FastcgiExchange) -> None:
        if exchange.request.role in self.roles:
            super().serve(exchange)
        else:
            end(exchange, 0, FCGI_UNKNOWN_ROLE)

    def _refuse(self, exchange: FastcgiExchange, error: RequestError) -> None:
        environ = exchange.environ
        if environ.get("REQUEST_METHOD"):
            super()._refuse(exchange, error)
            return
        exchange.log_message("the web server sent no REQUEST_METHOD: GET is assumed\n")
        environ["REQUEST_METHOD"] = "GET"
        try:
            length = mend(environ, self._mount, split=self._split)
        except RequestError as another:
            super()._refuse(exchange, another)
            return
        if exchange.link is None and 0 <= length != len(exchange._input):
            exchange.set_length(length)
        self._cycle(exchange)
        if not exchange.ended:
            exchange.cut()


class _FcgiSapi(FlupSapi):
    def session(self, cycle: Callable[[Any], Any], server: Any) -> Session:
        owner = self.owner
        values = {str(k).encode(): str(v).encode() for k, v in owner.capability.items()}
        session = _Session(self, cycle, values)
        session.roles = frozenset(owner.roles)
        if server is not None and owner._multiplexed:
            session.multiplex = True
            session.max_requests = self.threads * 4
            session.watch = server.watch
            session.unwatch = server.unwatch
            session.submit = lambda exchange: server.submit(partial(serve_linked, exchange))
        return session


class _Threaded(_FcgiSapi, FcgiThreaded):
    pass


class _Prefork(_FcgiSapi, FcgiPrefork):
    pass


# -- the server -----------------------------------------------------------------------------------


class BaseFCGIServer(BaseServer):
    """What flup's FastCGI servers share. With *bindAddress* None it serves descriptor 0.

    *bindAddress* is a Unix path, created under *umask*, or ``(host, port)``. Without one, where
    descriptor 0 does not listen or with *forceCGI* or FCGI_FORCE_CGI=Y in the environment, the
    program is a CGI program: it serves its one request and exits. *multiplexed* lets a connection
    carry several requests at a time, under threads. *environ* is added to each request's
    variables, and wins over them. *roles* are those that are served.
    """

    request_class: Any = Request
    cgirequest_class: Any = CGIRequest
    maxwrite = 8192
    """flup's bound of one record. Here a record is as long as the protocol has it."""
    inputStreamShrinkThreshold = 102400 - 8192

    def __init__(
        self,
        application: Any,
        environ: Any = None,
        multithreaded: bool = True,
        multiprocess: bool = False,
        bindAddress: Any = None,
        umask: int | None = None,
        multiplexed: bool = False,
        debug: bool = False,
        roles: Iterable[int] = (FCGI_RESPONDER,),
        forceCGI: bool = False,
    ) -> None:
        BaseServer.__init__(
            self, application, environ, multithreaded, multiprocess, bindAddress, umask, debug
        )
        self.roles = roles
        self.forceCGI = forceCGI
        self._multiplexed = multiplexed
        self._connectionClass = MultiplexedConnection if multiplexed else Connection
        self.capability: dict[str, Any] = {
            FCGI_MAX_CONNS: 1,
            FCGI_MAX_REQS: 1,
            FCGI_MPXS_CONNS: 1 if multiplexed else 0,
        }

    def _can(self, connections: int, multiplexed: bool = False) -> None:
        """Say to web servers that ask how much this server takes at a time."""
        self.capability = {
            FCGI_MAX_CONNS: connections,
            FCGI_MAX_REQS: connections,
            FCGI_MPXS_CONNS: 1 if multiplexed else 0,
        }

    # -- hooks

    def _setupSocket(self) -> socket.socket:
        """Return the socket to serve; as a CGI program serve its request and exit."""
        if self._bindAddress is not None:
            return super()._setupSocket()
        forced = self.forceCGI or os.environ.get("FCGI_FORCE_CGI", "N")[:1] in ("Y", "y")
        if forced or not listener.is_listening(FCGI_LISTENSOCK_FILENO):
            self._be_cgi()
        fill_standard_descriptors()
        os.dup2(2, 1)  # what the application prints must not reach the wire
        inherited = listener.inherit(FCGI_LISTENSOCK_FILENO).socket
        sock = inherited.dup()
        inherited.detach()  # it stays where a second run() looks for it
        return sock

    def handler(self, req: Any) -> tuple[int, int]:
        """Serve *req*; return protocol status and application status. May be overridden.

        Raises what the application raised.
        """
        if req.role not in self.roles:
            return FCGI_UNKNOWN_ROLE, 0
        errors = req.stderr
        if self._bindAddress is not None:
            errors = TeeOutputStream((sys.stderr, req.stderr))
        self._respond(req, req.params, req.stdin, errors)
        return FCGI_REQUEST_COMPLETE, 0

    def _sanitizeEnv(self, environ: dict[str, Any]) -> None:
        """Fill in what WSGI asks for. May be overridden."""
        if not environ.get("PATH_INFO") or not environ.get("QUERY_STRING"):
            fill_path(environ, self._complain(environ), self.unquotePathInfo)
        for name, default in _REQUIRED:
            if name not in environ:
                self._complain(environ)(f"the web server sent no {name}: {default} is assumed")
                environ[name] = default

    def _complain(self, environ: dict[str, Any]) -> Callable[[str], Any]:
        return lambda text: environ["wsgi.errors"].write(f"{type(self).__name__}: {text}\n")

    # -- what the gateway asks for

    def _wants_views(self) -> bool:
        return (
            self._overrides("handler", BaseFCGIServer)
            or self.request_class is not Request
            or self.cgirequest_class is not CGIRequest
        )

    def _view(self, exchange: Exchange, gateway: Gateway) -> Any:
        if not isinstance(exchange, FastcgiExchange):
            self._cgi = exchange, gateway
            return self.cgirequest_class(self)
        conn = self._connectionClass(None, None, self, None)
        conn.exchange, conn.gateway = exchange, gateway
        request = self.request_class(conn, conn._inputStreamClass, gateway._timeout)
        linked = getattr(exchange, "request", None)
        request.requestId = exchange._id
        if linked is not None:
            request.role, request.flags = linked.role, linked.keep_conn and FCGI_KEEP_CONN
        return request

    def _errors_of(self, exchange: Exchange) -> Any:
        if not isinstance(exchange, FastcgiExchange):
            return StandardErrors()
        if self._bindAddress is None:
            return ErrorStream(exchange)
        return TwofoldErrors(exchange)

    def _report(self, exchange: Exchange) -> None:
        text = traceback.format_exc()
        linked = isinstance(exchange, FastcgiExchange)
        if linked:
            exchange.log_message(text)
        if self._bindAddress is not None or not linked:
            write_standard_error(text)

    def _timed_out(
        self, exchange: Exchange, gateway: Gateway, number: int, frame: FrameType | None
    ) -> None:
        self._view(exchange, gateway).timeout_handler(number, frame)

    # -- how it runs

    _cgi: Any = None
    """The exchange and gateway of a CGI process."""
    _cgi_status = 0
    _web_server_addrs: list[str] | None = None

    def _make_sapi(self, sock: socket.socket) -> FlupSapi:
        return (_Threaded if self._threaded else _Prefork)(self, sock, self._pool())

    def _allow(self, listeners: list[Listener]) -> None:
        addresses = os.environ.get("FCGI_WEB_SERVER_ADDRS")
        self._web_server_addrs = None
        if addresses is not None:
            self._web_server_addrs = [each.strip() for each in addresses.split(",")]
        allow_web_servers(listeners, addresses)

    def _be_cgi(self) -> NoReturn:
        """Serve the one request of this process, and exit."""
        serve_cgi(self)
        sys.exit(self._cgi_status)


_REQUIRED = (
    ("REQUEST_METHOD", "GET"),
    ("SERVER_NAME", "localhost"),
    ("SERVER_PORT", "80"),
    ("SERVER_PROTOCOL", "HTTP/1.0"),
)
