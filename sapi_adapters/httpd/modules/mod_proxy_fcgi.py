"""mod_proxy_fcgi: requests for a FastCGI application that runs by itself, such as php-fpm.

A request comes here by ``SetHandler "proxy:fcgi://127.0.0.1:9000"`` or
``"proxy:unix:/run/app.sock|fcgi://localhost/"``, then the script is the file that the request was
mapped to; or by ``ProxyPass /app fcgi://host:port/path``, where no file is looked for, ``!`` for
the URL leaves a path out, and in a Location the first argument is left out.

The body is streamed, but one in chunks is read before: CONTENT_LENGTH has to be known. A backend
that is down is a 503, one that is silent for ProxyTimeout a 504, one that breaks the rules a 502.

``enablereuse=on`` of ProxyPass and ProxySet keeps connections open for the next request, a few in
each process. As in httpd it is off unless it is asked for: each idle connection holds one process
of a backend that serves one at a time, and soon there is none left for others. A request that may
not be repeated gets a new connection in the place of a kept one; any other is repeated once when
the kept one turns out to have ended.

What is Apache's mod_proxy is here as far as FastCGI needs it: ProxyPass, ProxySet (``timeout``,
``enablereuse``), ProxyTimeout. Left out: balancers, ProxyFCGISetEnvIf and proxy-fcgi-pathinfo (use
``SetHandler``, which tells SCRIPT_NAME from PATH_INFO), retry (each request tries anew),
ProxyErrorOverride.
"""

from __future__ import annotations

import re
import select
import socket
import struct
import threading
from typing import IO, TYPE_CHECKING, NamedTuple

from ...protocols.fastcgi import (
    CANT_MPX_CONN,
    OVERLOADED,
    REQUEST_COMPLETE,
    ClientConnection,
    RequestEnded,
    StderrReceived,
    StdoutReceived,
)
from ...sapi import ClientDisconnected, ProtocolError
from ..hooks import DECLINED, FIRST, OK
from ..module import (
    ACCESS_CONF,
    OR_FILEINFO,
    RSRC_CONF,
    TAKE1,
    TAKE_ARGV,
    Command,
    Module,
    Settings,
    seconds,
    setter,
)
from ..script import (
    BLOCK,
    PASS_AUTH,
    Answer,
    Failed,
    Messages,
    ScriptConfig,
    converse,
    has_body,
    respond,
    script_environ,
    spooled_body,
    to_bytes,
    upload_of,
)
from ..walks import unescape_to_path

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ..config import Parameters
    from ..hooks import Hooks
    from ..host import Host
    from ..records import Request

DEFAULT_PORT = 8000
IDLE = 8
"""Idle connections to one backend that a process keeps."""
_REPEATABLE = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))
"""Methods that may be sent again when it is not known whether they arrived (RFC 9110 §9.2.2)."""


# -- configuration --------------------------------------------------------------------------------


class Target(NamedTuple):
    """Where a FastCGI application is."""

    address: str | tuple[str, int]
    """The path of a Unix socket, or host and port."""
    authority: str
    """As the URL has it: ``localhost``, ``127.0.0.1:9000``."""
    path: str
    """What of the URL is behind that, without a slash at its end."""


_URL = re.compile(
    r"(?:unix:(?P<socket>/[^|]*)\|)?fcgi://(?P<host>\[[0-9A-Fa-f:.]+\]|[^/:\[\]]+)"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<path>/.*)?\Z"
)


def parse_target(url: str) -> Target | None:
    """Return what ``[unix:PATH|]fcgi://HOST[:PORT][/PATH]`` means, None for anything else."""
    match = _URL.match(url)
    if match is None or int(match["port"] or 0) > 65535:
        return None
    port = int(match["port"] or DEFAULT_PORT)
    authority = match["host"] + (f":{match['port']}" if match["port"] else "")
    address = match["socket"] or (match["host"].strip("[]"), port)
    return Target(address, authority, (match["path"] or "").rstrip("/"))


class Settled(NamedTuple):
    """What ProxyPass and ProxySet say of a backend."""

    timeout: float | None = None
    reuse: bool = False


class ServerConfig(Settings):
    """What is configured for a server."""

    timeout: float | None = None
    settled: dict[str | tuple[str, int], Settled] = {}  # noqa: RUF012 - replaced, never changed

    def merged(self, new: ServerConfig) -> ServerConfig:
        """A virtual host has the settings of the main server's backends, too."""
        result: ServerConfig = super().merged(new)
        result.settled = {**self.settled, **new.settled}
        return result


class Config(ScriptConfig):
    """What is configured for a section."""

    generic = False
    passes: tuple[tuple[str, Target | None], ...] = ()
    """Prefixes and where they lead, None for nowhere."""

    def merged(self, new: Config) -> Config:
        """The passes of a Location come before those outside."""
        result: Config = super().merged(new)
        result.passes = new.passes + self.passes
        return result


def _settle(cmd: Parameters, target: Target, arguments: list[str]) -> str | None:
    """Take in the parameters of ProxyPass and ProxySet."""
    vector = cmd.server.module_config
    config = vector.get(proxy_fcgi_module)
    if config is None:
        config = vector[proxy_fcgi_module] = ServerConfig()
    settled = config.settled.get(target.address, Settled())
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name == "timeout":
            try:
                settled = settled._replace(timeout=seconds(value))
            except ValueError as error:
                return f"{cmd.directive.name} timeout: {error}"
        elif name == "enablereuse" and value.lower() in ("on", "off"):
            settled = settled._replace(reuse=value.lower() == "on")
        else:
            return f"{cmd.directive.name}: unknown parameter {argument!r}"
    if arguments:
        config.settled = {**config.settled, target.address: settled}
    return None


def _pass(cmd: Parameters, config: Config, arguments: list[str]) -> str | None:
    prefix = cmd.path if cmd.context.lower() == "location" else None
    if prefix is None and arguments:
        prefix, *arguments = arguments
    if not prefix or not prefix.startswith("/") or not arguments:
        return "ProxyPass takes a path and a URL; in a Location the URL alone"
    url, *parameters = arguments
    if url == "!":
        config.passes += ((prefix, None),)
        return None
    target = parse_target(url)
    if target is None:
        return f"ProxyPass: {url!r} is no [unix:/path|]fcgi://host[:port]/path"
    config.passes += ((prefix, target),)
    return _settle(cmd, target, parameters)


def _set(cmd: Parameters, config: Config, arguments: list[str]) -> str | None:
    target = parse_target(arguments[0]) if arguments else None
    if target is None or len(arguments) < 2:
        return "ProxySet takes a fcgi:// URL and name=value pairs"
    return _settle(cmd, target, arguments[1:])


def _backend_type(cmd: Parameters, config: Config, value: str) -> str | None:
    if value.upper() not in ("FPM", "GENERIC"):
        return "ProxyFCGIBackendType must be FPM or GENERIC"
    config.generic = value.upper() == "GENERIC"
    return None


# -- the variables --------------------------------------------------------------------------------


def _environ(
    r: Request, config: Config, target: Target, length: int | None
) -> list[tuple[bytes, bytes]]:
    environ = script_environ(r, config, length)
    file = environ.get("SCRIPT_FILENAME", "")
    if not r.proxyreq:
        file = target.path + file
    if config.generic:
        environ["SCRIPT_FILENAME"] = file
    else:  # php-fpm knows by this whom it talks to, and takes it off
        environ["SCRIPT_FILENAME"] = f"proxy:fcgi://{target.authority}{file}"
    return [(name.encode("latin-1", "replace"), to_bytes(value)) for name, value in environ.items()]


# -- connections ----------------------------------------------------------------------------------


class Idle:
    """The idle connections of this process, by address."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str | tuple[str, int], list[socket.socket]] = {}

    def take(self, target: Target) -> socket.socket | None:
        """Return a connection that nothing has come on, as an end would."""
        while True:
            with self._lock:
                waiting = self._known.get(target.address)
                if not waiting:
                    return None
                found = waiting.pop()
            poller = select.poll()
            poller.register(found, select.POLLIN)
            if not poller.poll(0):
                return found
            found.close()

    def put(self, target: Target, connection: socket.socket) -> None:
        """Keep *connection*, or close it when there are enough."""
        with self._lock:
            waiting = self._known.setdefault(target.address, [])
            if len(waiting) < IDLE:
                waiting.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Close all."""
        with self._lock:
            for waiting in self._known.values():
                while waiting:
                    waiting.pop().close()


idle = Idle()


def connect(target: Target, timeout: float) -> socket.socket:
    """Return a new connection. Raises :class:`Failed` (503)."""
    connection = None
    try:
        if isinstance(target.address, str):
            connection = socket.socket(socket.AF_UNIX)
            # A full queue is waited for in the kernel: a socket that does not block would fail.
            limit = struct.pack("@ll", int(timeout), int(timeout % 1 * 1e6))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            connection.connect(target.address)
        else:
            connection = socket.create_connection(target.address, timeout)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        if connection is not None:
            connection.close()
        raise Failed(f"attempt to connect to {target.address} failed: {error}", 503) from None
    connection.setblocking(False)
    return connection


class Stale(Exception):
    """A connection that had been used before has ended, and nothing of the answer had come."""


class Backend:
    """One request of a FastCGI application: a :class:`~..script.Peer`."""

    deaf = False
    ended = False

    def __init__(
        self,
        r: Request,
        connection: socket.socket,
        answer: Answer,
        environ: list[tuple[bytes, bytes]],
        *,
        keep: bool,
        used: bool,
        body: bool,
    ) -> None:
        self._request = r
        self._connection = connection
        self._answer = answer
        self._messages = Messages(r)
        self._codec = ClientConnection()
        self._pending = bytearray(self._codec.begin(1, environ, keep_conn=keep))
        self._used = used
        self._body_ended = not body
        if not body:
            self._pending += self._codec.stdin(1, b"")

    @property
    def full(self) -> bool:
        """Whether it has not taken yet what it was given."""
        return len(self._pending) >= BLOCK

    @property
    def reusable(self) -> bool:
        """Whether nothing of the request is left on the connection."""
        return self.ended and self._body_ended and not self._pending and not self._codec.pending

    def interest(self) -> list[tuple[int, int]]:
        """Return descriptors and what to poll them for."""
        mask = select.POLLIN | select.POLLOUT if self._pending else select.POLLIN
        return [(self._connection.fileno(), mask)]

    def give(self, data: bytes) -> None:
        """Let it read *data*; ``b""`` is the end."""
        self._body_ended = not data
        self._pending += self._codec.stdin(1, data)

    def act(self, ready: dict[int, int]) -> None:
        """Read and write where it can be done."""
        mask = ready.get(self._connection.fileno(), 0)
        if self._pending and mask & (select.POLLOUT | select.POLLERR | select.POLLHUP):
            self._write()
        if mask & ~select.POLLOUT:
            self._read()

    def _write(self) -> None:
        try:
            del self._pending[: self._connection.send(self._pending)]
        except BlockingIOError:
            pass
        except OSError:
            # It may have answered before it went: what it said is still to be read.
            self._pending.clear()
            self.deaf = True

    def _read(self) -> None:
        try:
            data = self._connection.recv(BLOCK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            if self._used:
                raise Stale
            raise Failed("the backend closed the connection before it had answered")
        self._used = False
        try:
            events = self._codec.receive_data(data)
        except ProtocolError as error:
            raise Failed(f"the backend breaks the protocol: {error}") from None
        for event in events:
            if isinstance(event, StdoutReceived):
                self._answer.receive(event.data)
            elif isinstance(event, StderrReceived):
                self._messages.receive(event.data)
            elif isinstance(event, RequestEnded):
                self.ended = True
                if event.status in (OVERLOADED, CANT_MPX_CONN):
                    raise Failed("the backend is overloaded", 503)
                if event.status != REQUEST_COMPLETE:
                    raise Failed(f"the backend refused the request: {event.status}")

    def abort(self) -> None:
        """Say that nobody waits for the answer any more, if that can be said at once."""
        if not self.ended and not self._pending:
            try:
                self._connection.send(self._codec.abort(1))
            except OSError:
                pass

    def finish(self) -> None:
        """Log what it said without an end of line."""
        self._messages.finish()


# -- hooks ----------------------------------------------------------------------------------------


def _translate(r: Request) -> int:
    config: Config = r.per_dir_config[proxy_fcgi_module]
    for prefix, target in config.passes:
        if not _holds(prefix, r.uri):
            continue
        if target is None:
            return DECLINED
        r.proxyreq = True
        r.handler = "proxy-server"
        rest = r.uri[len(prefix.rstrip("/")) :]
        r.filename = unescape_to_path(target.path + rest)
        r.request_config[proxy_fcgi_module] = target
        return OK
    return DECLINED


def _holds(prefix: str, uri: str) -> bool:
    return uri.startswith(prefix) and (
        prefix.endswith("/") or uri[len(prefix) : len(prefix) + 1] in ("", "/")
    )


def _ours(r: Request) -> int:
    """A request for a ProxyPass is for no file, and needs no media type."""
    return OK if r.proxyreq and proxy_fcgi_module in r.request_config else DECLINED


_targets: dict[str, Target | None] = {}
"""What handlers mean; as many as the configuration has."""


def _handler(r: Request) -> int | Awaitable[int]:
    name = r.handler
    if name is None or not name.startswith("proxy"):
        return DECLINED
    if name == "proxy-server":
        target: Target | None = r.request_config.get(proxy_fcgi_module)
    else:
        target = _targets.get(name)
        if target is None and name.startswith("proxy:"):
            target = _targets[name] = parse_target(name[6:])
    if target is None:
        return DECLINED
    answer = Answer(r)
    return respond(r, answer, lambda r, answer: _run(r, answer, target), 502)


def _run(r: Request, answer: Answer, target: Target) -> None:
    config: Config = r.per_dir_config[proxy_fcgi_module]
    server: ServerConfig = r.server.module_config[proxy_fcgi_module]
    settled = server.settled.get(target.address, Settled())
    timeout = settled.timeout or server.timeout or r.server.timeout
    spooled = spooled_body(r)
    file, length = spooled if spooled is not None else (None, None)
    if length is None and has_body(r):
        length = r.body.length
    environ = _environ(r, config, target, length)
    repeatable = r.method in _REPEATABLE and not length
    again = False
    try:
        while True:
            kept = idle.take(target) if settled.reuse and not again else None
            if kept is not None and not repeatable:
                # The new one takes its place: two could hold two processes of the backend.
                kept.close()
                kept = None
            connection = connect(target, timeout) if kept is None else kept
            backend = Backend(
                r,
                connection,
                answer,
                environ,
                keep=settled.reuse,
                used=kept is not None,
                body=bool(length),
            )
            try:
                _converse(r, backend, file, answer, timeout, body=bool(length))
            except Stale:
                again = True  # on a new one
                continue
            finally:
                if settled.reuse and backend.reusable:
                    idle.put(target, connection)
                else:
                    connection.close()
            answer.finish()  # the client may ask for more at once, and find the connection
            return
    finally:
        if file is not None:
            file.close()


def _converse(
    r: Request,
    backend: Backend,
    file: IO[bytes] | None,
    answer: Answer,
    timeout: float,
    *,
    body: bool,
) -> None:
    try:
        converse(r, backend, upload_of(r, file) if body else None, answer, timeout)
    except ClientDisconnected:
        backend.abort()
        r.log("the client has gone: the backend is told so", "info")
        raise
    finally:
        backend.finish()


def _child_stopping(host: Host, graceful: bool) -> None:
    idle.close()


def _register(hooks: Hooks) -> None:
    hooks.add("translate_name", _translate, order=FIRST)
    hooks.add("map_to_storage", _ours, order=FIRST)
    hooks.add("type_checker", _ours, order=FIRST)
    hooks.add("handler", _handler, order=FIRST)
    hooks.add("child_stopping", _child_stopping)


_ANYWHERE = RSRC_CONF | ACCESS_CONF
proxy_fcgi_module = Module(
    "mod_proxy_fcgi",
    commands=(
        Command("ProxyPass", _pass, TAKE_ARGV, _ANYWHERE, "[a path] a URL [name=value ...]"),
        Command("ProxySet", _set, TAKE_ARGV, _ANYWHERE, "a URL and name=value ..."),
        Command("ProxyTimeout", setter("timeout", seconds), TAKE1, RSRC_CONF, "a time"),
        Command("ProxyFCGIBackendType", _backend_type, TAKE1, _ANYWHERE | OR_FILEINFO),
        PASS_AUTH,
    ),
    create_dir_config=lambda path: Config(),
    merge_dir_config=Config.merged,
    create_server_config=lambda server: ServerConfig(),
    merge_server_config=ServerConfig.merged,
    register_hooks=_register,
)
