"""The interface: what a runtime (a *SAPI*) offers and what one request (an *exchange*) offers.

Only the interface lives here, with the rules that every runtime and both gateways share; this file
imports nothing of the project, and nothing of the standard library that a bare interpreter does
not hold already, because every CGI process pays for it.

PHP has one struct of callbacks, ``sapi_module_struct``. Here its slots stand in two classes, split
by how long they live. A slot keeps PHP's name.

========================= ======================== ================================================
PHP slot                  ours                     what it means here
========================= ======================== ================================================
name                      Sapi.name                what :func:`sapi_name` returns: ``fcgi-prefork``
pretty_name               Sapi.pretty_name         the same for people
startup                   Sapi.startup             module start-up, once per process tree
child_startup             Sapi.child_startup       after the fork, once per worker process
shutdown                  Sapi.shutdown            module shutdown, once per process that started
activate                  Sapi.activate            request start-up; ``None`` = not called
deactivate                Sapi.deactivate          request shutdown, always; ``None`` = not called
getenv                    Sapi.getenv              a variable of the *request*, never the process's
get_stat                  Sapi.get_stat            ``os.stat`` of SCRIPT_FILENAME, or None
get_request_time          Sapi.get_request_time    seconds since the epoch, taken once per request
log_message               Sapi.log_message         a line for the runtime's own log, with a level
sapi_error                Sapi.sapi_error          an error of this layer, with whose fault it is
terminate_process         Sapi.terminate_process   end this worker after the running exchange
(sapi's own main)         Sapi.run                 serve; returns the exit status
register_server_variables Exchange.environ         CGI meta-variables, str decoded as latin-1
read_post                 Exchange.read_post       the next bytes of the body; b"" at its end
read_cookies              Exchange.read_cookies    HTTP_COOKIE, or None
header_handler            Exchange.header_handler  may change or veto headers; ``None`` = not called
send_headers              Exchange.send_headers    take status and headers; held until a byte comes
send_header               protocols.cgi            lines are rendered by the protocol, in one piece
ub_write                  Exchange.ub_write        take body bytes; may hold them until flush
flush                     Exchange.flush           push what is held to the peer
get_fd                    Exchange.fileno          descriptor of the connection, or None
(php_request_shutdown)    Exchange.finish, cut     end the response, whole or visibly not
default_post_reader,      absent                   parsing bodies is the framework's business
treat_data, input_filter
ini_defaults, ini_entries absent                   settings come from options and pool files
get_target_uid, _gid      manager                  the pool's user and group
force_http_10             httpd                    only an HTTP server can do it
additional_functions      extension                what an extension exports is plain Python
========================= ======================== ================================================

The life cycle is PHP's: module start-up (MINIT) once per process, in a pre-forking server once in
the master; child start-up after each fork; request start-up and shutdown (RINIT, RSHUTDOWN) around
every exchange, the latter also after an exception or an abort; module shutdown (MSHUTDOWN) at the
end of each process that module start-up reached. Every shutdown step has a guard of its own: a
failure in one never skips another.
"""

import posix  # os itself is not in a bare interpreter (python -S), and costs it a tenth more
import sys
import time

__version__ = "0.1.0.dev0"

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself costs a CGI process a millisecond
    from collections.abc import Awaitable, Callable, MutableMapping
    from typing import Any, ClassVar, Protocol, TypeAlias

    from .extension import Extension

    Headers: TypeAlias = list[tuple[str, str]]

    class Gateway(Protocol):
        """How an application is called: given an exchange, it produces the response on it."""

        asynchronous: bool
        """False: ``gateway(exchange)`` returns when the request is over. True: it is awaited."""

        def __call__(self, exchange: Any) -> Any: ...

        def run_once(self, cycle: "Callable[[Any], Any]", exchange: "Exchange") -> bool:
            """Run *cycle* (this gateway, bound) for the one exchange of a process.

            An application that has a life span gets it around the exchange. False when it
            refused to start; the exchange has been answered then, too.
            """
            ...

    Load: TypeAlias = Callable[[], Gateway]
    """Imports the application and returns its gateway. Called once in each process that serves."""


# -- errors: each says whose fault it is ----------------------------------------------------------


class SapiError(Exception):
    """The base of what this project raises on purpose."""


class ConfigurationError(SapiError):
    """The operator's: an option, a file, a socket. The text is one line that says what to do."""


class ProtocolError(SapiError):
    """The peer's: bytes that break the protocol. The connection is of no further use."""


class RequestError(SapiError):
    """The client's or the front end's: a request that cannot be served.

    *status* is the HTTP status to answer with, such as ``"400 Bad Request"``.
    """

    def __init__(self, message: str, status: str = "400 Bad Request") -> None:
        super().__init__(message)
        self.status = status


class ApplicationError(SapiError):
    """The application's: it broke WSGI or ASGI. It gets this raised where it broke the rule."""


class ClientDisconnected(ConnectionError):
    """The client has gone: its body ends short, or nobody takes the response any more.

    An :class:`OSError`, as the ASGI specification asks of ``send()`` after a disconnect.
    """


# -- the name -------------------------------------------------------------------------------------

_process_name = "cli"


def process_environ() -> "MutableMapping[bytes, bytes]":
    """Return the process's environment, as bytes.

    ``os`` keeps the true one once it is imported; before, ``posix`` has what the process got.
    """
    if "os" in sys.modules:
        environ: MutableMapping[bytes, bytes] = sys.modules["os"].environb
        return environ
    return posix.environ


nested_name: "Callable[[str], str] | None" = None
"""Set by the embedded runtime: given the process's SAPI, the name of the innermost one here."""


def sapi_name() -> str:
    """Return the name of the SAPI that the caller runs under, such as ``"fcgi-prefork"``.

    Inside an application the same name stands in ``environ["sapi.name"]`` (WSGI) and in
    ``scope["extensions"]["sapi"]["name"]`` (ASGI). An embedded run inside another SAPI reports
    ``"embed"`` while it lasts. A program that started no SAPI runs under ``"cli"``.
    """
    return _process_name if nested_name is None else nested_name(_process_name)


# -- the SAPI -------------------------------------------------------------------------------------

extensions: "list[Extension]" = []
"""Registered extensions in the order of their registration; kept by ``extension.py``."""

ERROR, WARNING, NOTICE, INFO, DEBUG = "error", "warning", "notice", "info", "debug"
"""Levels of :meth:`Sapi.log_message`, the most serious first."""
_SERIOUSNESS = {ERROR: 0, WARNING: 1, NOTICE: 2, INFO: 3, DEBUG: 4}


class Sapi:
    """One runtime an application can run under. One object per process; subclasses fill the slots.

    A subclass sets ``name``, ``pretty_name`` and the three flags and writes :meth:`run`; the
    other slots have defaults that fit most.
    """

    name: "ClassVar[str]" = ""
    pretty_name: "ClassVar[str]" = ""
    multithread: bool = False
    multiprocess: bool = False
    run_once: bool = False

    activate: "Callable[[Any], None] | None" = None
    """Request start-up: called with the exchange before the application."""
    deactivate: "Callable[[Any], None] | None" = None
    """Request shutdown: called with the exchange whatever happened to the request."""
    sendfile: "Any" = None
    """A :class:`sapi_adapters.sendfile.SendfileMap` when the front end sends the files."""
    nested: bool = False
    """True for a runtime inside a program, which does not speak for the whole process."""
    _outer_name = "cli"

    terminating: bool = False
    log_level: str = NOTICE
    """The least serious level that :meth:`log_message` writes."""

    def startup(self) -> None:
        """Module start-up: what must be done before the first fork."""

    def child_startup(self) -> None:
        """Start-up of one worker process, after the fork."""

    def shutdown(self) -> None:
        """Module shutdown, at the end of each process that :meth:`startup` reached."""

    def run(self, load: "Load") -> int:
        """Serve the application that ``load()`` gives, until the end; return the exit status."""
        raise ConfigurationError(f"the SAPI {self.name!r} has no run()")

    def getenv(self, exchange: "Exchange", name: str) -> "str | None":
        """Return a variable of the request, or None. HTTP_PROXY is never there (httpoxy)."""
        return None if name == "HTTP_PROXY" else exchange.environ.get(name)

    def get_stat(self, exchange: "Exchange") -> "posix.stat_result | None":
        """Return ``os.stat`` of the request's SCRIPT_FILENAME, or None."""
        try:
            return posix.stat(exchange.environ.get("SCRIPT_FILENAME", ""))
        except OSError:
            return None

    def get_request_time(self, exchange: "Exchange") -> float:
        """Return the time the request was first asked about, in seconds since the epoch."""
        started: float | None = getattr(exchange, "request_time", None)
        if started is None:
            exchange.request_time = started = time.time()
        return started

    def log_message(self, message: str, level: str = ERROR) -> None:
        """Write *message* to the runtime's own log, standard error unless a subclass differs."""
        if _SERIOUSNESS[level] > _SERIOUSNESS[self.log_level]:
            return
        try:
            sys.stderr.write(f"[{level}] {message}\n")
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):
            pass  # a full disk or a closed log must never fail a request

    def sapi_error(self, error: BaseException, doing: str) -> None:
        """Report an error of this layer, met while *doing* something, with whose fault it is."""
        whose = {
            ConfigurationError: "configuration",
            ProtocolError: "peer",
            RequestError: "request",
            ApplicationError: "application",
        }.get(type(error), "internal")
        self.log_message(f"{whose}: {doing}: {error}")

    def log_exception(self, doing: str) -> None:
        """Write the exception being handled, with its traceback, to the runtime's log."""
        import traceback  # costs milliseconds, and only a failure needs it

        self.log_message(f"{doing}\n{traceback.format_exc().rstrip()}")

    retiring: bool = False
    """In a worker: the last requests that it may serve are near."""

    def leaves(self) -> bool:
        """Tell whether this process will end soon: who keeps connections to it is to hear it."""
        return self.retiring or self.terminating

    def terminate_process(self) -> None:
        """Ask this worker to end once the running exchange is over."""
        self.terminating = True

    # The steps below are the engine's, as php_module_startup() and its kin are; not slots.

    def module_startup(self) -> None:
        """Run module start-up: the name, then the SAPI, then every extension in order.

        When one of them fails, those before it are shut down and the error passes.
        """
        self._speak()
        self._begun: list[Extension] = []
        try:
            self.startup()
            for extension in extensions:
                extension.start_module(self)
                self._begun.append(extension)
        except BaseException:
            self.module_shutdown()
            raise

    def _speak(self) -> None:
        """Give the process this SAPI's name."""
        global _process_name
        if not self.nested:
            self._outer_name, _process_name = _process_name, self.name

    def take_process(self, starter: "Sapi") -> None:
        """Be the SAPI of a process whose module start-up *starter* ran, as another pool's."""
        if self is not starter:
            self._begun = starter._begun
            self._speak()

    def module_shutdown(self) -> None:
        """Run module shutdown in the reverse order, each step guarded."""
        global _process_name
        for extension in reversed(self._begun):
            self._guard("module shutdown", extension.stop_module, self)
        self._guard("module shutdown", self.shutdown)
        if not self.nested:
            _process_name = self._outer_name

    def start_request(self, exchange: "Any") -> None:
        """Request start-up: :attr:`activate`, then every extension's in order."""
        if self.activate is not None:
            self.activate(exchange)
        for extension in extensions:
            extension.start_request(exchange)

    def stop_request(self, exchange: "Any") -> None:
        """Request shutdown in the reverse order, each step guarded."""
        for extension in reversed(extensions):
            self._guard("request shutdown", extension.stop_request, exchange)
        if self.deactivate is not None:
            self._guard("request shutdown", self.deactivate, exchange)

    def bind(self, gateway: "Gateway") -> "Callable[[Any], Any]":
        """Return *gateway* with request start-up and shutdown around it.

        Looked up once: without slots and extensions that want them this is *gateway* itself, so
        that a request pays nothing for what nobody asked for.
        """
        if self.activate is None and self.deactivate is None and not extensions:
            return gateway
        if gateway.asynchronous:
            return _AsynchronousCycle(self, gateway)
        return _Cycle(self, gateway)

    def _guard(self, doing: str, step: "Callable[..., Any]", *arguments: "Any") -> None:
        try:
            step(*arguments)
        except Exception:
            self.log_exception(f"error in {doing}")


class _Cycle:
    """Request start-up, gateway, request shutdown."""

    def __init__(self, sapi: Sapi, gateway: "Callable[[Any], Any]") -> None:
        self._sapi = sapi
        self._gateway = gateway

    def __call__(self, exchange: "Exchange") -> None:
        try:
            try:
                self._sapi.start_request(exchange)
            except Exception:
                self._sapi.log_exception("error in request start-up")
                refuse(exchange, INTERNAL_SERVER_ERROR)
                exchange.finish()
            else:
                self._gateway(exchange)
        finally:
            self._sapi.stop_request(exchange)


class _AsynchronousCycle:
    """The same, awaited."""

    def __init__(self, sapi: Sapi, gateway: "Callable[[Any], Awaitable[None]]") -> None:
        self._sapi = sapi
        self._gateway = gateway

    async def __call__(self, exchange: "AsyncExchange") -> None:
        try:
            try:
                self._sapi.start_request(exchange)
            except Exception:
                self._sapi.log_exception("error in request start-up")
                refuse(exchange, INTERNAL_SERVER_ERROR)
                await exchange.finish()
            else:
                await self._gateway(exchange)
        finally:
            self._sapi.stop_request(exchange)


# -- the exchange ---------------------------------------------------------------------------------


class BaseExchange:
    """What the blocking and the awaitable form share: the request, and taking the response.

    ``send_headers`` and ``ub_write`` only take; what they took goes to the peer at ``flush`` or
    ``finish`` (or earlier, when much is held), so that head, body and end of a small response
    can leave in one write.
    """

    environ: dict[str, "Any"]
    """CGI meta-variables (RFC 3875 §4.1) as str, each byte one code point (latin-1)."""
    sapi: Sapi
    aborted: bool = False
    """The peer has gone or gave the request up; what is written now goes nowhere."""
    post_ended: bool = False
    """The whole body has been read; ``read_post`` would give ``b""`` without waiting."""
    request_time: "float | None"
    noted: "tuple[bytes, bytes, bytes, bytes, bytes] | None" = None
    """For the scoreboard: method, Content-Length, user, target and script, where that takes less
    than looking into ``environ``."""
    make_scope: "Callable[[], dict[str, Any]] | None" = None
    """Makes the ASGI scope, where that takes less than making it of ``environ``."""
    direct = False
    """A whole response may be given to ``send_whole`` at once, as checked bytes."""
    websocket: "Any" = None
    """The connection half of a WebSocket, where the client asked for one."""
    header_handler: "Callable[[Headers], Headers] | None" = None
    """Rewrites, vetoes or adds headers just before they are sent; None = not called."""

    def read_cookies(self) -> "str | None":
        """Return the request's Cookie header, or None."""
        cookie: str | None = self.environ.get("HTTP_COOKIE")
        return cookie

    def send_headers(self, status: str, headers: "Headers") -> None:
        """Take the response's head: *status* is ``"200 OK"``, *headers* pairs of latin-1 str.

        Called once, before the first ``ub_write``. Gateways have validated both.
        """
        raise NotImplementedError

    def ub_write(self, data: bytes) -> None:
        """Take *data*, non-empty, as the next bytes of the body."""
        raise NotImplementedError

    def cut(self) -> None:
        """End a response that cannot be completed so that the client sees it is incomplete."""
        raise NotImplementedError

    def log_message(self, message: str) -> None:
        """Give *message* to the log of the web server in front, where there is a way to it."""
        self.sapi.log_message(message.rstrip("\n"), NOTICE)

    def fileno(self) -> "int | None":
        """Return the descriptor of the connection, or None where there is none to speak of."""
        return None


class Exchange(BaseExchange):
    """One request and the response to it, in the blocking form."""

    def read_post(self, size: int) -> bytes:
        """Return the next 1 to *size* bytes of the body; ``b""`` only at its end.

        Waits for the peer. Raises :class:`ClientDisconnected` when the body ends before
        CONTENT_LENGTH, or the request was given up.
        """
        raise NotImplementedError

    def flush(self) -> None:
        """Push what is held to the peer. When it has gone, set ``aborted`` and return."""
        raise NotImplementedError

    def finish(self) -> None:
        """End the response; everything leaves now. Calling it again does nothing."""
        raise NotImplementedError

    def wait_disconnect(self) -> None:
        """Return when the client has gone."""
        raise NotImplementedError


class AsyncExchange(BaseExchange):
    """One request and the response to it, in the awaitable form."""

    task: "Any" = None
    """The task that serves it, where who made that says so."""

    async def read_post(self, size: int) -> bytes:
        """As :meth:`Exchange.read_post`."""
        raise NotImplementedError

    async def flush(self) -> None:
        """As :meth:`Exchange.flush`; waits while the peer's buffers are full."""
        raise NotImplementedError

    async def finish(self) -> None:
        """As :meth:`Exchange.finish`."""
        raise NotImplementedError

    async def wait_disconnect(self) -> None:
        """Return when the client has gone or the response is over."""
        raise NotImplementedError

    async def read_file(self, file: "Any", size: int) -> bytes:
        """Return up to *size* bytes of *file*; a server with a loop keeps it from blocking."""
        data: bytes = file.read(size)
        return data


# -- rules for response heads, which both gateways share ------------------------------------------

INTERNAL_SERVER_ERROR = "500 Internal Server Error"

ORDINARY, CONTENT_LENGTH = 0, 1

_HOP_BY_HOP = frozenset(
    "connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer"
    " trailers transfer-encoding upgrade".split()
)
TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_C0_AND_DEL = frozenset(map(chr, [*range(9), *range(10, 32), 127]))  # HTAB is allowed in values

header_kinds: dict[str, int] = {}
"""Header names that were found valid, as applications spell them, and what is special about them.

Applications use few names; looking one up costs a tenth of checking it. Bounded below.
"""


def header_kind(name: str) -> int:
    """Check a response header's *name* (RFC 9110 §5.1) and return what is special about it.

    Raises :class:`ApplicationError` for a name that is no token, belongs to one connection
    (RFC 9110 §7.6.1, PEP 3333) or to the CGI interface (RFC 3875 §6.3).
    """
    if type(name) is not str:
        raise ApplicationError(f"header name {name!r} is not a str")
    if not name or not TOKEN.issuperset(name):
        raise ApplicationError(f"header name {name!r} is not a token")
    lower = name.lower()
    if lower in _HOP_BY_HOP:
        raise ApplicationError(f"header {name!r} belongs to one connection: only servers set it")
    if lower == "status" or lower.startswith("x-cgi-"):
        raise ApplicationError(f"header {name!r} belongs to the CGI interface")
    kind = CONTENT_LENGTH if lower == "content-length" else ORDINARY
    if len(header_kinds) < 1000:
        header_kinds[name] = kind
    return kind


def check_header_value(name: str, value: str) -> None:
    """Raise :class:`ApplicationError` unless *value* is latin-1 text without control characters."""
    if type(value) is not str:
        raise ApplicationError(f"value {value!r} of header {name!r} is not a str")
    if not _C0_AND_DEL.isdisjoint(value):
        raise ApplicationError(f"value {value!r} of header {name!r} holds a control character")
    if not value.isascii() and max(value) > "\xff":
        raise ApplicationError(f"value {value!r} of header {name!r} is not latin-1")


def check_status(status: str) -> None:
    """Raise :class:`ApplicationError` unless *status* is ``999 Reason`` without control characters.

    PEP 3333 asks for the three digits, the space and no trailing white space.
    """
    if type(status) is not str:
        raise ApplicationError(f"status {status!r} is not a str")
    code = status[:3]
    if len(code) != 3 or not (code.isascii() and code.isdigit()) or code < "100":
        raise ApplicationError(f"status {status!r} does not begin with three digits")
    if status[3:4] != " ":
        raise ApplicationError(f"status {status!r} has no space after its code")
    if status[-1] == " ":
        raise ApplicationError(f"status {status!r} ends with a space")
    if "\t" in status or not _C0_AND_DEL.isdisjoint(status):
        raise ApplicationError(f"status {status!r} holds a control character")
    if not status.isascii() and max(status) > "\xff":
        raise ApplicationError(f"status {status!r} is not latin-1")


def content_length(value: str) -> int:
    """Return a Content-Length given as text; :class:`ApplicationError` unless it is digits."""
    if not (value.isascii() and value.isdigit()):
        raise ApplicationError(f"Content-Length {value!r} is not a number")
    return int(value)


def forbids_body(status: str) -> bool:
    """Tell whether a response with *status* has no body (RFC 9110 §6.4.1)."""
    return status[0] == "1" or status[:3] in ("204", "304")


def refuse(exchange: "BaseExchange", status: str) -> None:
    """Answer with *status* and a short plain text, when the application cannot answer itself.

    The caller ends the exchange.
    """
    body = f"{status}\n".encode("latin-1")
    exchange.send_headers(
        status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    )
    if exchange.environ.get("REQUEST_METHOD") != "HEAD":
        exchange.ub_write(body)


def is_https(environ: "dict[str, Any]") -> bool:
    """Tell whether the client's request came over TLS, by HTTPS and, without it, REQUEST_SCHEME."""
    if "HTTPS" in environ:
        secure: str = environ["HTTPS"]
        return secure.lower() in ("on", "1", "true", "https")
    return environ.get("REQUEST_SCHEME") == "https"


def request_line(environ: "dict[str, Any]") -> str:
    """Return the request's method and target as a log may show them, escaped.

    Also of a request that lacks what every request has.
    """
    get = environ.get
    target = get("REQUEST_URI") or get("SCRIPT_NAME", "") + get("PATH_INFO", "")
    return ascii(f"{get('REQUEST_METHOD', '')} {target}")[1:-1]


_HEX = frozenset(b"0123456789abcdefABCDEF")


def unquote(raw: bytes) -> bytes:
    """Return *raw* with each ``%`` and two hexadecimal digits decoded, once (RFC 3986 §2.1)."""
    first, *parts = raw.split(b"%")
    pieces = [first]
    for part in parts:
        digits = part[:2]
        if len(digits) == 2 and _HEX.issuperset(digits):
            pieces.append(bytes((int(digits, 16),)) + part[2:])
        else:
            pieces.append(b"%" + part)
    return b"".join(pieces)


def interface_of(application: object) -> str:
    """Tell which calling convention *application* speaks: ``"wsgi"``, ``"asgi"`` or ``"asgi2"``.

    Partials are unwrapped and objects are judged by their ``__call__``. A coroutine function
    means ASGI 3; a callable of one argument, or a class whose instances are awaited, the older
    two-step ASGI. What wears a decorator that hides it is named by the ``interface`` option.
    """
    coroutine = 0x80 | 0x100  # CO_COROUTINE, CO_ITERABLE_COROUTINE: inspect is dear to import
    while hasattr(application, "func") and hasattr(application, "keywords"):  # functools.partial
        application = application.func
    is_class = isinstance(application, type)
    function = getattr(application, "__func__", application)  # a bound method's
    bound = function is not application
    if getattr(function, "__code__", None) is None:
        call = getattr(function, "__call__", None)  # noqa: B004 - wanted itself, not its presence
        function = getattr(call, "__func__", call)
        bound = True
    # inspect.markcoroutinefunction from Python 3.12 on, and asgiref's before
    marks = ("_is_coroutine_marker", "_is_coroutine_mark", "_is_coroutine")
    if any(hasattr(each, mark) for each in (application, function) for mark in marks):
        return "asgi2" if is_class else "asgi"
    code = getattr(function, "__code__", None)
    if code is None:
        return "wsgi"
    if code.co_flags & coroutine:
        return "asgi2" if is_class else "asgi"
    varargs = code.co_flags & 0x04
    return "asgi2" if not is_class and not varargs and code.co_argcount - bound == 1 else "wsgi"
