"""mod_sapi: applications in the host's own process, as mod_php is in Apache's.

A module like any other: it declines what is not its own. Which application serves a request is
configured by section, so that one host has several.
"""

from __future__ import annotations

import os
import re
import threading
from typing import TYPE_CHECKING, Any

from ..httpd.coreconfig import dir_config
from ..httpd.environ import environ_of, variable_of
from ..httpd.filters import EOS, FLUSH, RESOURCE, FileBucket, OutputFilter, blocks
from ..httpd.hooks import DECLINED, FIRST, OK
from ..httpd.http_out import BODILESS, DATE, HTTP_1_1, LENGTH, SERVER, send_whole
from ..httpd.module import (
    ACCESS_CONF,
    OR_OPTIONS,
    RSRC_CONF,
    TAKE1,
    TAKE2,
    Command,
    Module,
    Settings,
)
from ..httpd.phases import SUSPENDED
from ..sapi import (
    INTERNAL_SERVER_ERROR,
    NOTICE,
    AsyncExchange,
    BaseExchange,
    ClientDisconnected,
    ConfigurationError,
    Exchange,
    RequestError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..httpd.config import Parameters
    from ..httpd.filters import Brigade, Filter
    from ..httpd.hooks import Hooks
    from ..httpd.host import Host
    from ..httpd.records import Request
    from ..sapi import Headers, Sapi

HANDLER = "sapi-script"
HELD = 65536
"""Bytes of a response that may wait for the next flush."""


class Config(Settings):
    """What is configured for a section. PHP's php_value family is *values* and *admin*."""

    app: str | None = None
    interface: str | None = None
    mount: str | None = None
    """The path of the Location, what SCRIPT_NAME becomes."""
    engine = True
    python_path: tuple[str, ...] = ()
    values: dict[str, str] = {}  # noqa: RUF012 - replaced, never changed
    admin: dict[str, str] = {}  # noqa: RUF012 - replaced, never changed

    def merged(self, new: Config) -> Config:
        """What is nearer wins, but no value over one of SapiAdminValue."""
        result: Config = super().merged(new)
        result.values = {**self.values, **new.values}
        result.admin = {**self.admin, **new.admin}
        return result


def _app(cmd: Parameters, config: Config, name: str) -> str | None:
    config.app = name
    if cmd.path is not None and cmd.context.lower() == "location" and "*" not in cmd.path:
        config.mount = cmd.path.rstrip("/")
    else:
        config.mount = None
    if cmd.context != ".htaccess":
        cmd.host.provided.setdefault("sapi_configs", []).append((cmd.server, config))
    return None


def _interface(cmd: Parameters, config: Config, name: str) -> str | None:
    if name not in ("wsgi", "asgi", "asgi2", "auto"):
        return f"SapiInterface must be wsgi, asgi, asgi2 or auto, not {name}"
    config.interface = None if name == "auto" else name
    return None


def _python_path(cmd: Parameters, config: Config, path: str) -> str | None:
    added = tuple(cmd.server_path(each) for each in path.split(os.pathsep) if each)
    for each in added:
        if not os.path.isdir(each):
            return f"SapiPythonPath: {each} is not a directory"
    config.python_path += added
    return None


def _engine(cmd: Parameters, config: Config, value: str) -> str | None:
    if value.lower() not in ("on", "off"):
        return "SapiEngine must be On or Off"
    config.engine = value.lower() == "on"
    return None


_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.]*")


def _value(*, admin: bool, flag: bool) -> Callable[..., str | None]:
    def store(cmd: Parameters, config: Config, name: str, value: str) -> str | None:
        if _NAME.fullmatch(name) is None:
            return f"{cmd.directive.name}: {name!r} is no name of a setting"
        if flag:
            value = "1" if value.lower() in ("on", "1") else "0"
        elif value.lower() == "none":
            value = ""
        if admin:
            config.admin = {**config.admin, name: value}
        else:
            config.values = {**config.values, name: value}
        return None

    return store


_TYPE = 8
_KINDS: dict[str, int] = {}
"""Names of header fields as applications spell them, and what is special about them. Bounded."""


def _kind(name: str) -> int:
    known = {"content-length": LENGTH, "date": DATE, "server": SERVER, "content-type": _TYPE}
    found = known.get(name.lower(), 0)
    if len(_KINDS) < 1000:
        _KINDS[name] = found
    return found


wire_names: dict[str, bytes | None] = {}
"""Names of request fields as clients spell them, and as ASGI wants them. Bounded."""


def _wire_name(name: str) -> bytes | None:
    """Return a field's name for ASGI, None for one that no application gets to see."""
    shown = variable_of(name) is not None
    found = name.lower().encode("latin-1") if shown else None
    if len(wire_names) < 1000:
        wire_names[name] = found
    return found


# -- the exchange ---------------------------------------------------------------------------------


class ModResponse(BaseExchange):
    """The response half of an exchange in the host."""

    request_time: float | None = None
    header_handler = None

    def __init__(self, sapi: Sapi, r: Request) -> None:
        self.sapi = sapi
        self.request = r
        self._held: list[Any] = []
        self._size = 0
        self.ended = False

    @property
    def aborted(self) -> bool:  # type: ignore[override]
        return self.request.connection.aborted

    def send_headers(self, status: str, headers: Headers) -> None:
        r = self.request
        r.status, r.status_line = int(status[:3]), status
        if "headers_out" not in r.__dict__:
            flags = 0
            for name, value in headers:
                kind = _KINDS.get(name)
                if kind is None:
                    kind = _kind(name)
                if kind:
                    if kind == _TYPE:
                        r.content_type = value
                    else:
                        flags |= kind
            r.fields_out = (headers, flags)
            return
        out = r.headers_out
        for name in ("Content-Length", "Last-Modified", "Expires", "ETag"):
            out.unset(name)  # of earlier phases, which knew nothing of this response
        r.content_type = None
        for name, value in headers:
            if name.lower() == "content-type":
                r.content_type = value
            else:
                out.add(name, value)

    def ub_write(self, data: bytes) -> None:
        self._held.append(data)
        self._size += len(data)
        if self._size > HELD:
            self._pass(FLUSH)

    def _pass(self, mark: Any) -> None:
        brigade, self._held, self._size = self._held, [], 0
        r = self.request
        plain = r.fields_out is not None and r.status not in BODILESS
        if mark is EOS and plain and "output_filters" not in r.__dict__:
            send_whole(r, brigade)
            return
        brigade.append(mark)
        r.output_filters.pass_brigade(brigade)

    def cut(self) -> None:
        if not self.ended:
            self.ended = True
            self._held.clear()
            r = self.request
            r.connection.transport.cut(r)

    def log_message(self, message: str) -> None:
        self.request.log(message.rstrip("\n"), NOTICE)


class ModExchange(ModResponse, Exchange):
    """One request that may block."""

    def __init__(self, sapi: Sapi, r: Request, config: Config) -> None:
        super().__init__(sapi, r)
        self.environ = application_environ(r, config)

    def read_post(self, size: int) -> bytes:
        return self.request.read(size)

    @property
    def post_ended(self) -> bool:  # type: ignore[override]
        return bool(self.request.body.at_end)

    def flush(self) -> None:
        if not self.ended:
            self._pass(FLUSH)

    def finish(self) -> None:
        if not self.ended:
            self._pass(EOS)
            self.ended = True

    def wait_disconnect(self) -> None:
        import time

        while not self.request.connection.transport.is_aborted():
            time.sleep(0.05)


class AsyncModExchange(ModResponse, AsyncExchange):
    """One request on an event loop."""

    def __init__(self, sapi: Sapi, r: Request, config: Config) -> None:
        super().__init__(sapi, r)
        self.config = config

    @property
    def make_scope(self) -> Callable[[], dict[str, Any]] | None:  # type: ignore[override]
        """Over TLS there is more to tell, and environ has it."""
        return None if self.request.connection.notes else self._make_scope

    def __getattr__(self, name: str) -> Any:
        if name != "environ":
            raise AttributeError(name)
        # Only now: the scope is made without it.
        self.environ = found = application_environ(self.request, self.config)
        return found

    def _make_scope(self) -> dict[str, Any]:
        r, config = self.request, self.config
        connection = r.connection
        path, mount = r.uri, _mount(r, config)
        if not path.isascii():
            try:
                path = path.encode("latin-1").decode("utf-8")
                mount = mount.encode("latin-1").decode("utf-8")
            except UnicodeDecodeError:
                raise RequestError("the path is not UTF-8") from None
        headers = []
        own = r.__dict__
        for name, value in own["headers_in"].items() if "headers_in" in own else r.fields:
            wire = wire_names.get(name, b"?")
            if wire == b"?":
                wire = _wire_name(name)
            if wire is not None:
                headers.append((wire, value.encode("latin-1")))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": "1.1" if r.proto_num == HTTP_1_1 else "1.0",
            "method": r.method,
            "scheme": "http",
            "path": path,
            "query_string": r.args.encode("latin-1") if r.args else b"",
            "root_path": mount,
            "headers": headers,
            "client": connection.client_pair,
            "server": connection.server_pair,
            "extensions": {
                "sapi": {
                    "name": self.sapi.name,
                    "remote_user": r.user,
                    "auth_type": r.ap_auth_type,
                    "settings": {**config.values, **config.admin},
                },
                "http.response.pathsend": {},
            },
        }
        if r.prev is None:
            scope["raw_path"] = r.unparsed_uri.partition("?")[0].encode("latin-1")
        return scope

    async def read_post(self, size: int) -> bytes:
        data: bytes = await self.request.body.aread(size)
        return data

    @property
    def post_ended(self) -> bool:  # type: ignore[override]
        return bool(self.request.body.at_end)

    async def flush(self) -> None:
        if not self.ended:
            self._pass(FLUSH)
            await self.request.connection.transport.drained()

    async def finish(self) -> None:
        if not self.ended:
            self._pass(EOS)
            self.ended = True

    async def wait_disconnect(self) -> None:
        await self.request.connection.transport.wait_disconnect()


# -- hooks ----------------------------------------------------------------------------------------


def _ours(r: Request) -> Config | None:
    """Return what is configured when the request is for an application."""
    config: Config = r.per_dir_config[sapi_module]
    return config if config.app is not None and config.engine else None


def _map_to_storage(r: Request) -> int:
    """An application in a Location is no file: nothing is looked for on the disk."""
    config = _ours(r)
    if config is None or dir_config(r).handler != HANDLER or config.mount is None:
        return DECLINED
    return OK


def _handler(r: Request) -> int | Awaitable[int]:
    if r.handler != HANDLER:
        return DECLINED
    config = _ours(r)
    if config is None:
        r.log(f"SetHandler {HANDLER} without SapiApp")
        return DECLINED
    applications = r.server.process.provided["applications"]
    cycle, asynchronous, sapi = applications.get(config)
    on_loop = r.connection.transport.asynchronous
    if not asynchronous:
        if on_loop:
            return r.in_thread(lambda r: _run(cycle, ModExchange(sapi, r, config)))
        return _run(cycle, ModExchange(sapi, r, config))
    if not on_loop:
        from .bridge import run_beside

        environ = application_environ(r, config)
        return int(run_beside(applications.loop(), cycle, sapi, r, environ))
    if r.upgrade is not None:
        from .mod_websocket import exchange_for

        return _run_upgrade(cycle, exchange_for(sapi, r, config))
    found: Awaitable[int] = cycle(AsyncModExchange(sapi, r, config))
    return found  # it returns None, which is as good as OK


def _run(cycle: Any, exchange: ModExchange) -> int:
    try:
        cycle(exchange)
    except ClientDisconnected:
        pass
    exchange.environ = {}  # it holds the exchange in wsgi.input: a circle for the collector
    return OK


async def _run_upgrade(cycle: Any, exchange: Any) -> int:
    await cycle(exchange)
    return SUSPENDED if exchange.request.connection.transport.upgraded else OK


def application_environ(r: Request, config: Config) -> dict[str, Any]:
    """Return the meta-variables of *r*, with the settings of its section."""
    environ = environ_of(r, _mount(r, config))
    environ["sapi.settings"] = {**config.values, **config.admin}
    return environ


def _mount(r: Request, config: Config) -> str:
    """Return what of the path is the application's own name (SCRIPT_NAME)."""
    mount = config.mount
    if mount is None:
        # The code points of a URI are bytes, those of path_info are the file system's.
        return r.uri[: len(r.uri) - len(os.fsencode(r.path_info))] if r.path_info else r.uri
    return mount if r.uri.startswith(mount) else ""


# -- the application as an output filter ----------------------------------------------------------

FILTER = "SAPI"
"""SetOutputFilter SAPI: what other handlers make passes the application (apache2filter's role)."""
_MOST_FILTERED = 64 << 20


def _filter(f: Filter, brigade: Brigade) -> None:
    """Keep the response until it is whole, then send what the application makes of it.

    The application gets it as the body of a request that is otherwise the client's, with
    ``environ["sapi.role"]`` ``"filter"``; its status, fields and body take the response's place.
    """
    r = f.request
    held: list[bytes] = f.context
    for bucket in brigade:
        if isinstance(bucket, bytes):
            held.append(bucket)
        elif isinstance(bucket, FileBucket):
            held.extend(blocks(bucket))
        if sum(map(len, held)) > _MOST_FILTERED:
            raise RequestError(
                f"a response of more than {_MOST_FILTERED} bytes cannot be filtered",
                INTERNAL_SERVER_ERROR,
            )
    if not brigade or brigade[-1] is not EOS:
        return
    f.remove()
    content, config = b"".join(held), _ours(r)
    if config is None or r.status != 200 or r.main is not None:
        r.output_filters.pass_brigade([content, EOS] if content else [EOS])
        return
    applications = r.server.process.provided["applications"]
    cycle, asynchronous, sapi = applications.get(config)
    environ = application_environ(r, config)
    environ["sapi.role"] = "filter"
    environ["CONTENT_LENGTH"] = str(len(content))
    environ["CONTENT_TYPE"] = r.content_type or ""
    r.body = Given(content)
    for name in ("Content-Length", "ETag", "Last-Modified", "Accept-Ranges"):
        r.headers_out.unset(name)
    if not asynchronous:
        exchange = ModExchange(sapi, r, config)
        exchange.environ = environ
        cycle(exchange)
    elif r.connection.asynchronous:
        awaited = AsyncModExchange(sapi, r, config)
        awaited.environ = environ
        transport = r.connection.transport
        if threading.get_ident() == transport.thread:
            raise RequestError(
                "an ASGI application filters what threads make, not what the loop does",
                INTERNAL_SERVER_ERROR,
            )
        _run_on(transport.loop, cycle(awaited))
    else:
        from .bridge import run_beside

        run_beside(applications.loop(), cycle, sapi, r, environ)


def _run_on(loop: Any, coroutine: Any) -> None:
    """Run *coroutine* on *loop* from a thread beside it, to its end."""
    import asyncio

    asyncio.run_coroutine_threadsafe(coroutine, loop).result()


class Given:
    """A body that is there already."""

    length: int | None
    unread = False
    continued = True

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.length = len(data)
        self.trailers: list[tuple[str, str]] = []

    @property
    def at_end(self) -> bool:
        """Whether everything has been read."""
        return not self._data

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        data, self._data = self._data[:size], self._data[size:]
        return data

    async def aread(self, size: int) -> bytes:
        """The same, awaited."""
        return self.read(size)


def _start_filter(f: Filter) -> None:
    f.context = []


def _check_config(host: Host) -> int:
    host.register_output_filter(OutputFilter(FILTER, _filter, RESOURCE, _start_filter))
    host.provided.setdefault("blocking_filters", set()).add(FILTER)
    return OK


def _post_config(host: Host) -> int:
    if host.pass_ == 1:
        return OK  # the configuration is only being tried
    if "applications" not in host.provided:
        raise ConfigurationError("mod_sapi: the program around the host loads no applications")
    return OK


def _child_init(host: Host) -> None:
    host.provided["applications"].start(host, sapi_module)


def _register(hooks: Hooks) -> None:
    hooks.add("check_config", _check_config)
    hooks.add("post_config", _post_config)
    hooks.add("child_init", _child_init)
    hooks.add("map_to_storage", _map_to_storage, order=FIRST)
    hooks.add("handler", _handler)


_ANYWHERE = RSRC_CONF | ACCESS_CONF
sapi_module = Module(
    "mod_sapi",
    commands=(
        Command("SapiApp", _app, TAKE1, _ANYWHERE, "module:attribute of the application"),
        Command("SapiInterface", _interface, TAKE1, _ANYWHERE, "wsgi, asgi, asgi2 or auto"),
        Command("SapiPythonPath", _python_path, TAKE1, _ANYWHERE, "a directory"),
        Command("SapiEngine", _engine, TAKE1, _ANYWHERE | OR_OPTIONS, "On or Off"),
        Command("SapiValue", _value(admin=False, flag=False), TAKE2, _ANYWHERE | OR_OPTIONS),
        Command("SapiFlag", _value(admin=False, flag=True), TAKE2, _ANYWHERE | OR_OPTIONS),
        Command("SapiAdminValue", _value(admin=True, flag=False), TAKE2, _ANYWHERE),
        Command("SapiAdminFlag", _value(admin=True, flag=True), TAKE2, _ANYWHERE),
    ),
    create_dir_config=lambda path: Config(),
    merge_dir_config=Config.merged,
    register_hooks=_register,
)
