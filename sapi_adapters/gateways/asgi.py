"""The ASGI gateway: how an ASGI 3 application is called, whatever the SAPI.

Written once, against the awaitable form of the exchange. A blocking exchange (CGI, the command
line) is lent to it through :class:`_Lent`; then the application's coroutines are driven by hand,
and asyncio is imported only when the application itself has done so already.
"""

import sys

from ..reasons import REASONS
from ..sapi import (
    CONTENT_LENGTH,
    DEBUG,
    ERROR,
    INTERNAL_SERVER_ERROR,
    WARNING,
    ApplicationError,
    AsyncExchange,
    ClientDisconnected,
    ConfigurationError,
    RequestError,
    check_header_value,
    content_length,
    forbids_body,
    header_kind,
    is_https,
    refuse,
    request_line,
    unquote,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Coroutine, Generator, MutableMapping
    from typing import Any, TypeAlias

    from ..sapi import Exchange, Headers, Sapi

    Event: TypeAlias = MutableMapping[str, Any]
    Receive: TypeAlias = Callable[[], Awaitable[Event]]
    Send: TypeAlias = Callable[[Event], Awaitable[None]]
    Application: TypeAlias = Callable[[Event, Receive, Send], Awaitable[None]]

_BLOCK = 65536
_VERSIONS = {"version": "3.0", "spec_version": "2.5"}


# -- the scope, derived from CGI meta-variables ---------------------------------------------------


def http_scope(environ: "dict[str, Any]", sapi_name: str) -> "dict[str, Any]":
    """Return the ASGI ``http`` scope of the request that *environ* describes.

    Raises :class:`RequestError` (400) for a path that is no UTF-8: the specification makes
    ``path`` text, and a guess would name another resource.
    """
    try:
        root_path = environ["SCRIPT_NAME"].encode("latin-1").decode("utf-8")
        path_bytes = (environ["SCRIPT_NAME"] + environ["PATH_INFO"]).encode("latin-1")
        path = path_bytes.decode("utf-8")
    except UnicodeDecodeError:
        raise RequestError("the path is not UTF-8") from None
    secure = is_https(environ)
    extensions: dict[str, Any] = {
        "sapi": {
            "name": sapi_name,
            "remote_user": environ.get("REMOTE_USER"),
            "auth_type": environ.get("AUTH_TYPE"),
        },
        "http.response.pathsend": {},
    }
    if "sapi.settings" in environ:
        extensions["sapi"]["settings"] = environ["sapi.settings"]
    if secure and "SSL_PROTOCOL" in environ:
        extensions["tls"] = _tls(environ)
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": _VERSIONS.copy(),
        "http_version": _http_version(environ["SERVER_PROTOCOL"]),
        "method": environ["REQUEST_METHOD"].upper(),
        "scheme": "https" if secure else "http",
        "path": path,
        "query_string": environ["QUERY_STRING"].encode("latin-1"),
        "root_path": root_path,
        "headers": _request_headers(environ),
        "client": _pair(environ.get("REMOTE_ADDR"), environ.get("REMOTE_PORT")),
        "server": _server(environ),
        "extensions": extensions,
    }
    raw_path = _raw_path(environ.get("REQUEST_URI", ""), path_bytes)
    if raw_path is not None:
        scope["raw_path"] = raw_path
    return scope


_header_names: dict[str, bytes] = {}


def _request_headers(environ: "dict[str, Any]") -> list[tuple[bytes, bytes]]:
    headers = []
    for name, value in environ.items():
        if name[:5] == "HTTP_":
            wire = _header_names.get(name)
            if wire is None:
                wire = name[5:].lower().replace("_", "-").encode("latin-1")
                if len(_header_names) < 1000:  # clients choose the names
                    _header_names[name] = wire
            headers.append((wire, value.encode("latin-1")))
    if "CONTENT_TYPE" in environ:
        headers.append((b"content-type", environ["CONTENT_TYPE"].encode("latin-1")))
    if "CONTENT_LENGTH" in environ:
        headers.append((b"content-length", environ["CONTENT_LENGTH"].encode("latin-1")))
    return headers


def _http_version(protocol: str) -> str:
    if protocol == "HTTP/1.1":
        return "1.1"
    if protocol in ("HTTP/2.0", "HTTP/2"):
        return "2"
    return "3" if protocol in ("HTTP/3.0", "HTTP/3") else "1.0"


def _pair(address: "str | None", port: "str | None") -> "tuple[str, int] | None":
    if not address:
        return None
    return address, int(port) if port and port.isascii() and port.isdigit() else 0


def _server(environ: "dict[str, Any]") -> "tuple[str, int] | None":
    return _pair(environ.get("SERVER_ADDR") or environ["SERVER_NAME"], environ["SERVER_PORT"])


def _raw_path(uri: str, path: bytes) -> "bytes | None":
    """Return the path as it was received, or None when REQUEST_URI does not say it.

    It says it when unquoting gives *path*: a front end that rewrote the request leaves the old
    REQUEST_URI behind. Merged slashes and resolved dots are the front end's right.
    """
    raw = uri.partition("?")[0].encode("latin-1", "replace")
    if raw[:1] != b"/":  # the absolute form (RFC 9112 §3.2.2)
        authority = raw.partition(b"://")[2]
        slash = authority.find(b"/")
        if slash < 0:
            return None
        raw = authority[slash:]
    if raw == path:
        return raw
    decoded = unquote(raw)
    return raw if decoded == path or _normal(decoded) == path else None


def _normal(path: bytes) -> bytes:
    kept: list[bytes] = []
    segments = path.split(b"/")
    for segment in segments:
        if segment == b"..":
            del kept[-1:]
        elif segment not in (b"", b"."):
            kept.append(segment)
    tail = b"/" if kept and segments[-1] in (b"", b".", b"..") else b""
    return b"/" + b"/".join(kept) + tail


_TLS_VERSIONS = {"TLSv1": 0x0301, "TLSv1.1": 0x0302, "TLSv1.2": 0x0303, "TLSv1.3": 0x0304}


def _tls(environ: "dict[str, Any]") -> "dict[str, Any]":
    """Return the ``tls`` extension (ASGI TLS 0.2) from mod_ssl's variables."""
    chain = [environ["SSL_CLIENT_CERT"]] if environ.get("SSL_CLIENT_CERT") else []
    while certificate := environ.get(f"SSL_CLIENT_CERT_CHAIN_{len(chain) - 1}"):
        chain.append(certificate)
    verified = environ.get("SSL_CLIENT_VERIFY", "NONE")
    return {
        "server_cert": environ.get("SSL_SERVER_CERT"),
        "client_cert_chain": chain,
        "client_cert_name": environ.get("SSL_CLIENT_S_DN"),
        "client_cert_error": None if verified in ("SUCCESS", "NONE") else verified,
        "tls_version": _TLS_VERSIONS.get(environ["SSL_PROTOCOL"]),
        "cipher_suite": None,
    }


# -- the gateway ----------------------------------------------------------------------------------


class AsgiGateway:
    """Calls one ASGI application for exchanges, as many at a time as the server starts."""

    asynchronous = True
    takes_whole_responses = True

    def __init__(self, application: "Any", sapi: "Sapi", *, two_step: bool = False) -> None:
        self.application: Application = _single_callable(application) if two_step else application
        self.sapi = sapi
        self.lifespan = Lifespan(self.application, sapi)

    async def __call__(self, exchange: "AsyncExchange") -> None:
        """Run the application for *exchange*, to the end of the response and of its own work."""
        if exchange.websocket is not None:
            from .websocket import serve

            await serve(self, exchange)
            return
        try:
            make = exchange.make_scope
            scope = http_scope(exchange.environ, self.sapi.name) if make is None else make()
        except RequestError as error:
            self.sapi.sapi_error(error, request_line(exchange.environ))
            refuse(exchange, error.status)
            await exchange.finish()
            return
        if self.lifespan.supported:
            scope["state"] = self.lifespan.state.copy()
        kind = Direct if exchange.direct else Response
        response = kind(exchange, scope["method"] == "HEAD")
        try:
            await self.application(scope, response.receive, response.send)
        except ClientDisconnected:
            exchange.cut()  # from send() or receive(), and back out of the application
        except (Exception, SystemExit) as error:
            self._failed(exchange, error)
            if not response.taken:
                wrong = isinstance(error, RequestError)  # the body, while it was being read
                refuse(exchange, error.status if wrong else INTERNAL_SERVER_ERROR)  # type: ignore[union-attr]
                await exchange.finish()
            else:
                exchange.cut()  # nothing, when the response is over
        except BaseException:  # cancelled, or the keyboard
            exchange.cut()
            raise
        else:
            await self._returned(exchange, response)

    def _failed(self, exchange: "AsyncExchange", error: BaseException) -> None:
        request = request_line(exchange.environ)
        if isinstance(error, ApplicationError):
            self.sapi.log_message(f"application: {request}: {error}", ERROR)
        elif isinstance(error, RequestError):
            self.sapi.sapi_error(error, request)
        else:
            self.sapi.log_exception(f"application raised: {request}")

    async def _returned(self, exchange: "AsyncExchange", response: "Response") -> None:
        if response.phase == _COMPLETE:
            return
        if exchange.aborted:
            exchange.cut()
            return
        request = request_line(exchange.environ)
        if not response.taken:
            self.sapi.log_message(f"application: {request}: returned without a response", ERROR)
            refuse(exchange, INTERNAL_SERVER_ERROR)
            await exchange.finish()
        else:
            self.sapi.log_message(f"application: {request}: returned before the body's end", ERROR)
            exchange.cut()

    # One exchange per process: CGI and the command line.

    def run_once(self, cycle: "Callable[[Any], Any]", exchange: "Exchange") -> bool:
        """Run *cycle* for the one exchange of a process, with the life span around it.

        Without asyncio where the application has not imported it: its import costs as much as
        six interpreters. Returns False when the application refused to start.
        """
        if not _LOOPS.isdisjoint(sys.modules):
            import asyncio

            return asyncio.run(self._run_on_loop(cycle, exchange))
        lifespan = self.lifespan
        started = _Hand(lifespan.run())
        started.step()
        lifespan.settle(started.done)
        if lifespan.failure is not None:
            started.abandon()
            self._refuse_start(exchange)
            return False
        try:
            request = _Hand(cycle(_Lent(exchange, None)))
            request.step()
            if not request.done:
                self.sapi.log_message("application: awaits what only a loop can give", ERROR)
                request.abandon()
        finally:
            lifespan.stopping = True
            if not started.done:
                started.step()
            started.abandon()
        return True

    async def _run_on_loop(self, cycle: "Callable[[Any], Any]", exchange: "Exchange") -> bool:
        try:
            await self.lifespan.start()
        except ConfigurationError:
            self._refuse_start(exchange)
            return False
        import asyncio

        try:
            await cycle(_Lent(exchange, asyncio.Event()))
        finally:
            await self.lifespan.stop()
        return True

    def _refuse_start(self, exchange: "Exchange") -> None:
        self.sapi.log_message(f"application: start-up failed: {self.lifespan.failure}", ERROR)
        refuse(exchange, INTERNAL_SERVER_ERROR)
        exchange.finish()


def _single_callable(application: "Any") -> "Application":
    """Return an ASGI 3 form of an ASGI 2 application, ``application(scope)(receive, send)``."""

    async def single(scope: "Event", receive: "Receive", send: "Send") -> None:
        await application(scope)(receive, send)

    return single


_VISIBLE = bytes((9, *range(32, 127), *range(128, 256)))
"""What may be in a field's value."""
_LONG = 65536


# -- one request ----------------------------------------------------------------------------------

_START, _BODY, _COMPLETE = "response start", "body", "nothing more"


class Response:
    """``receive`` and ``send`` of one request: the order of events, and what is held when."""

    __slots__ = (
        "declared",
        "exchange",
        "gone",
        "head_only",
        "headers",
        "left",
        "phase",
        "request_ended",
        "status",
        "taken",
    )

    def __init__(self, exchange: "AsyncExchange", head_only: bool) -> None:
        self.exchange = exchange
        self.phase = _START
        self.status = ""
        self.headers: Headers = []
        self.taken = False  # the head has been given to the exchange
        self.head_only = head_only
        self.declared = False
        self.left = -1
        self.request_ended = False
        self.gone = False  # the body ended short

    async def receive(self) -> "Event":
        """Return the next ``http.request``, then wait and return ``http.disconnect``."""
        exchange = self.exchange
        if self.phase == _COMPLETE or self.gone:
            return {"type": "http.disconnect"}
        if not self.request_ended:
            try:
                body = await exchange.read_post(_BLOCK)
            except ClientDisconnected:
                self.gone = True
                return {"type": "http.disconnect"}
            self.request_ended = not body or exchange.post_ended
            return {"type": "http.request", "body": body, "more_body": not self.request_ended}
        if not exchange.aborted:
            await exchange.wait_disconnect()
        return {"type": "http.disconnect"}

    async def send(self, event: "Event") -> None:
        """Take one event of the response; raise to the application what is wrong with it."""
        exchange = self.exchange
        kind = event["type"]
        if self.phase == _COMPLETE:
            return  # the specification makes it a no-op
        if exchange.aborted:
            raise ClientDisconnected("the client has gone")
        if kind == "http.response.body" and self.phase == _BODY:
            await self._body(event.get("body", b""), event.get("more_body", False))
        elif kind == "http.response.start" and self.phase == _START:
            self._start(event)
            self.phase = _BODY
        elif kind == "http.response.pathsend" and self.phase == _BODY and not self.taken:
            await self._path(event["path"])
        else:
            raise ApplicationError(f"sent {kind!r} where {self.phase} is due")

    def _start(self, event: "Event") -> None:
        status = event["status"]
        if not isinstance(status, int) or not 100 <= status <= 999:
            raise ApplicationError(f"status {status!r} is no number of three digits")
        if event.get("trailers"):
            raise ApplicationError("trailers cannot pass this server; see scope['extensions']")
        headers: Headers = []
        left = -1
        for item in event.get("headers", ()):
            try:
                name, value = item
                known = _response_names.get(name)
                if known is None:
                    known = _response_name(name)
                text = value.decode("latin-1")
            except (TypeError, ValueError, AttributeError):
                raise ApplicationError(f"header {item!r} is no pair of bytes") from None
            spelled, kind = known
            if kind == _DROPPED:
                continue
            if not (text.isascii() and text.isprintable()):
                check_header_value(spelled, text)
            if kind == CONTENT_LENGTH:
                length = content_length(text)
                if left not in (-1, length):
                    raise ApplicationError("two Content-Length headers differ")
                left = length
            headers.append((spelled, text))
        self.status = f"{int(status)} {REASONS.get(status, '')}"
        self.headers = headers
        self.left = left
        self.declared = left >= 0

    def _give_head(self) -> None:
        if forbids_body(self.status):
            if self.declared and self.status[:3] != "304":
                self.headers = [h for h in self.headers if h[0].lower() != "content-length"]
            self.head_only = True
        if self.head_only:
            self.left = -1
        handler = self.exchange.header_handler
        self.taken = True
        self.exchange.send_headers(
            self.status, self.headers if handler is None else handler(self.headers)
        )

    async def _body(self, block: "Any", more: bool) -> None:
        exchange = self.exchange
        if not isinstance(block, bytes):
            if not isinstance(block, (bytearray, memoryview)):
                raise ApplicationError(f"a body is no bytes but {type(block).__name__}")
            block = bytes(block)
        if not self.taken:
            if more and not block:
                return  # the head waits for the first byte
            if not more and not self.declared and not forbids_body(self.status):
                # The whole body is here, so its length is known: with it every front end can
                # keep the client's connection, and a cut response is seen to be cut.
                if block or not self.head_only:
                    self.headers.append(("content-length", str(len(block))))
            self._give_head()
        if block and not self.head_only:
            if self.declared:
                if len(block) > self.left:
                    exchange.sapi.log_message(
                        "application: more bytes than Content-Length: the rest is cut off", WARNING
                    )
                    block = block[: self.left]
                self.left -= len(block)
            if block:
                exchange.ub_write(block)
        if more:
            await exchange.flush()
            if exchange.aborted:
                raise ClientDisconnected("the client has gone")
        else:
            await self._complete()

    async def _complete(self) -> None:
        self.phase = _COMPLETE
        if self.left > 0:
            self.exchange.sapi.log_message(
                f"application: the body is {self.left} bytes shorter than its Content-Length", ERROR
            )
            self.exchange.cut()
            return
        await self.exchange.finish()

    async def _path(self, path: str) -> None:
        """Send the file *path*: by the front end where it may, else in blocks."""
        exchange = self.exchange
        if not path.startswith("/"):
            raise ApplicationError(f"pathsend takes an absolute path, not {path!r}")
        with open(path, "rb") as file:
            sendfile = exchange.sapi.sendfile
            header = None
            if sendfile is not None and not self.head_only and not forbids_body(self.status):
                header = sendfile.header_for(file, self.left)
            if header is not None:
                self.headers = [h for h in self.headers if h[0].lower() != "content-length"]
                self.headers.append(header)
                self.left = -1
                self._give_head()
                await self._complete()
                return
            if not self.declared:
                self.left = file.seek(0, 2)
                file.seek(0)
                self.declared = True
                self.headers.append(("content-length", str(self.left)))
            while block := await exchange.read_file(file, _BLOCK):
                await self._body(block, True)
                if self.head_only or self.left == 0:
                    break
        await self._body(b"", False)


class Direct(Response):
    """The same for an exchange that takes a whole response at once.

    That is a start and one body, the most common response by far. Its head is checked and joined
    as bytes. Anything else goes on as in every response.
    """

    __slots__ = ("fields", "start")

    def __init__(self, exchange: "AsyncExchange", head_only: bool) -> None:
        super().__init__(exchange, head_only)
        self.start: Event | None = None
        self.fields = b""

    async def send(self, event: "Event") -> None:
        """As :meth:`Response.send`."""
        kind = event["type"]
        start = self.start
        if self.phase == _START and kind == "http.response.start" and start is None:
            if self.exchange.aborted:
                raise ClientDisconnected("the client has gone")
            if self._join(event):
                self.start = event
                self.phase = _BODY
                return
        elif start is not None:
            self.start = None
            body = event.get("body", b"")
            if (
                kind == "http.response.body"
                and not event.get("more_body")
                and type(body) is bytes
                and self.left in (-1, len(body))
                and len(body) < _LONG
            ):
                self.phase = _COMPLETE
                status = start["status"]
                self.exchange.send_whole(  # type: ignore[attr-defined]
                    status, REASONS.get(status, ""), self.fields, body, self.left >= 0
                )
                return
            self.left = -1
            self._start(start)
        await super().send(event)

    def _join(self, event: "Event") -> bool:
        """Check the head and join its fields; False if it is one for the other way."""
        status = event["status"]
        if type(status) is not int or not 200 <= status < 600 or status in (204, 304):
            return False
        if "trailers" in event or self.exchange.header_handler is not None:
            return False
        given = event.get("headers", ())
        if type(given) is not list and type(given) is not tuple:
            return False  # what is read once only is read by the other way
        fields, count = b"", 0
        for item in given:
            try:
                name, value = item
                kind = _response_names[name][1]
                fields += b"%b: %b\r\n" % (name, value)
            except (TypeError, ValueError, KeyError):
                return False  # the other way says what is wrong, and learns names
            if kind:
                if kind != CONTENT_LENGTH or self.left >= 0 or not value.isdigit():
                    return False
                self.left = int(value)
            count += 1
        if fields.translate(None, _VISIBLE) != b"\r\n" * count:
            return False
        self.fields = fields
        return True


_DROPPED = 2
_response_names: dict[bytes, tuple[str, int]] = {}


def _response_name(name: bytes) -> tuple[str, int]:
    """Check a response header's name; hop-by-hop ones are dropped, as the specification has it."""
    spelled = name.decode("latin-1")
    if spelled.lower() in _DROPPED_NAMES:
        found = (spelled, _DROPPED)
    else:
        found = (spelled, header_kind(spelled))
    if len(_response_names) < 1000:
        _response_names[bytes(name)] = found
    return found


_DROPPED_NAMES = frozenset(("connection", "keep-alive", "transfer-encoding", "upgrade", "te"))


# -- the life span --------------------------------------------------------------------------------


class Lifespan:
    """The ``lifespan`` scope of one process: start-up before the first request, shutdown after
    the last (ASGI lifespan 2.0).

    An application that raises or returns before it answered runs without it.
    """

    def __init__(self, application: "Application", sapi: "Sapi") -> None:
        self.application = application
        self.sapi = sapi
        self.state: dict[str, Any] = {}
        self.supported = False
        self.failure: str | None = None
        self.stopping = False
        self._asked = False
        self._answered: asyncio.Event | None = None
        self._stop: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Run the application on the lifespan scope."""
        scope = {"type": "lifespan", "asgi": _VERSIONS.copy(), "state": self.state}
        try:
            await self.application(scope, self._receive, self._send)
        except (Exception, SystemExit) as error:
            if self.supported:
                self.sapi.log_exception("application raised in its life span")
            elif self.failure is None:
                self.sapi.log_message(f"application knows no lifespan: {error!r}", DEBUG)
        finally:
            if self._answered is not None:
                self._answered.set()

    async def _receive(self) -> "Event":
        if not self._asked:
            self._asked = True
            return {"type": "lifespan.startup"}
        if not self.stopping:
            if self._stop is None:
                await _Pause()
            else:
                await self._stop.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, event: "Event") -> None:
        kind = event["type"]
        if kind == "lifespan.startup.complete":
            self.supported = True
        elif kind == "lifespan.startup.failed":
            self.failure = str(event.get("message", "")) or "no reason given"
        elif kind == "lifespan.shutdown.failed":
            self.sapi.log_message(
                f"application: shutdown failed: {event.get('message', '')}", ERROR
            )
        elif kind != "lifespan.shutdown.complete":
            raise ApplicationError(f"sent {kind!r} on the lifespan scope")
        if self._answered is not None:
            self._answered.set()

    def settle(self, done: bool) -> None:
        """Judge a start-up that was driven by hand and can give no further answer now."""
        if not done and not self.supported and self.failure is None:
            self.failure = "the application awaits what only an event loop can give"

    async def start(self, timeout: float = 60.0) -> None:
        """Run start-up on the running loop; wait at most *timeout* seconds for its answer.

        Raises :class:`ConfigurationError` with the application's message when it refuses.
        """
        import asyncio

        self._answered = asyncio.Event()
        self._stop = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self.run())
        try:
            await asyncio.wait_for(self._answered.wait(), timeout)
        except asyncio.TimeoutError:
            self.failure = f"no answer to lifespan.startup within {timeout:.0f} s"
            self._task.cancel()
        if self.failure is not None:
            raise ConfigurationError(f"the application refused to start: {self.failure}")

    async def stop(self, timeout: float = 60.0) -> None:
        """Run shutdown; after *timeout* seconds the application is cancelled, with a log line."""
        if self._task is None or self._stop is None:
            return
        import asyncio

        self.stopping = True
        self._stop.set()
        _, late = await asyncio.wait([self._task], timeout=timeout)
        if late:
            self.sapi.log_message(f"application: no end of its life span in {timeout:.0f} s", ERROR)
            self._task.cancel()
            await asyncio.wait([self._task], timeout=1)


# -- driving coroutines by hand -------------------------------------------------------------------

_LOOPS = frozenset(("asyncio", "anyio", "sniffio", "trio", "curio"))
"""Modules whose presence says that the application counts on an event loop."""


class _Pause:
    """Awaited where only another step of the driver can go on."""

    def __await__(self) -> "Generator[None, None, None]":
        yield


class _Hand:
    """Drives a coroutine without a loop, from one suspension to the next."""

    def __init__(self, coroutine: "Coroutine[Any, Any, Any]") -> None:
        self._coroutine = coroutine
        self.done = False

    def step(self) -> None:
        """Run to the next suspension or to the end; exceptions of the coroutine pass."""
        try:
            self._coroutine.send(None)
        except StopIteration:
            self.done = True
        except BaseException:
            self.done = True
            raise

    def abandon(self) -> None:
        """End the coroutine where it stands; its ``finally`` blocks run."""
        try:
            self._coroutine.close()
        except RuntimeError:  # it awaited again while it was being closed
            pass


class _Lent(AsyncExchange):
    """A blocking exchange in the awaitable form. Its awaits never suspend, but one.

    To wait for a disconnect with other tasks about must suspend: on *over*, which is set when the
    response is. Driven by hand, without other tasks, the blocking wait is the right one.
    """

    def __init__(self, exchange: "Exchange", over: "asyncio.Event | None") -> None:
        self._exchange = exchange
        self._over = over
        self.environ = exchange.environ
        self.sapi = exchange.sapi
        self.header_handler = exchange.header_handler
        self.send_headers = exchange.send_headers  # type: ignore[method-assign]
        self.ub_write = exchange.ub_write  # type: ignore[method-assign]
        self.log_message = exchange.log_message  # type: ignore[method-assign]
        self.fileno = exchange.fileno  # type: ignore[method-assign]

    @property
    def aborted(self) -> bool:  # type: ignore[override]
        return self._exchange.aborted

    @property
    def post_ended(self) -> bool:  # type: ignore[override]
        return self._exchange.post_ended

    async def read_post(self, size: int) -> bytes:
        return self._exchange.read_post(size)

    async def flush(self) -> None:
        self._exchange.flush()
        if self._over is not None:
            import asyncio

            await asyncio.sleep(0)  # other tasks of the application take their turn

    async def finish(self) -> None:
        self._exchange.finish()
        if self._over is not None:
            self._over.set()

    def cut(self) -> None:
        self._exchange.cut()
        if self._over is not None:
            self._over.set()

    async def wait_disconnect(self) -> None:
        if self._over is None:
            self._exchange.wait_disconnect()
            return
        import asyncio
        import os
        import stat

        loop, over = asyncio.get_running_loop(), self._over
        fd = self._exchange.fileno()
        if fd is None or not stat.S_ISFIFO(os.fstat(fd).st_mode):
            await over.wait()
            return

        def reader_has_gone() -> None:
            self._exchange.aborted = True
            over.set()

        loop.add_reader(fd, reader_has_gone)  # the write end of a pipe reports nothing else
        try:
            await over.wait()
        finally:
            loop.remove_reader(fd)
