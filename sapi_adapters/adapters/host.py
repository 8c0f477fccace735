"""The SAPI ``mod``: applications in the process of our own Apache-like HTTP server.

To servers and manager the host is one more application: a request's way through httpd's phases is
what a gateway is elsewhere. What an application is to mod_sapi is kept here, too.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

from ..httpd.config import quote
from ..httpd.hooks import run_void
from ..httpd.host import Host
from ..httpd.module import seconds
from ..httpd.phases import die, finish, process_request, run_now
from ..manager.config import DYNAMIC, STATIC, Global, Pool
from ..manager.master import HTTPD, Signals
from ..manager.scoreboard import Scoreboard
from ..manager.summary import summarize
from ..sapi import DEBUG, ERROR, NOTICE, WARNING, ConfigurationError, __version__
from .http_wire import HttpSession
from .server import ServerSapi

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from ..httpd.module import Module
    from ..manager.children import Worker
    from ..sapi import Gateway
    from ..servers.event import EventServer, Stream
    from ..servers.listener import Listener
    from .http_event import EventWire
    from .http_wire import HttpExchange
    from .mod import Config

DEFAULT_BIND = "127.0.0.1:8000"
_LEVELS = {"warn": WARNING, "notice": NOTICE, "info": NOTICE, "debug": DEBUG}


class Applications:
    """The applications of one process that serves, each loaded once.

    *load* is given a name (or an object's stand-in), an interface and the SAPI, and returns the
    gateway.
    """

    def __init__(self, sapi: HostSapi, load: Callable[[str, str, Any], Gateway]) -> None:
        self._sapi = sapi
        self._load = load
        self._known: dict[tuple[str, str], tuple[Any, Gateway]] = {}
        self._beside: Any = None
        self._making = threading.Lock()

    def start(self, host: Host, module: Module) -> None:
        """Load every application that the configuration names (child_init)."""
        for server, own in host.provided.get("sapi_configs", ()):
            base = server.lookup_defaults[module]
            config = own if own is base else base.merged(own)
            if (config.app, config.interface or "") not in self._known:
                self._add(config.app, config.interface or "", config.python_path)

    def _add(self, name: str, interface: str, path: Sequence[str]) -> tuple[Any, Gateway]:
        for directory in reversed(path):
            if directory not in sys.path:
                sys.path.insert(0, directory)
        gateway = self._load(name, interface or "auto", self._sapi)
        found = (self._sapi.bind_application(gateway), gateway)
        self._known[name, interface] = found
        return found

    def get(self, config: Config) -> tuple[Any, bool, Any]:
        """Return the cycle of the application that *config* names, whether it is awaited, and
        the SAPI."""
        assert config.app is not None  # noqa: S101 - the caller looked
        key = (config.app, config.interface or "")
        found = self._known.get(key)
        if found is None:
            found = self._add(*key, config.python_path)
        return found[0], found[1].asynchronous, self._sapi

    @property
    def gateways(self) -> list[Gateway]:
        """All that are loaded."""
        return [gateway for _, gateway in self._known.values()]

    def loop(self) -> Any:
        """Return the event loop beside a process without one, for applications that need it."""
        with self._making:  # several threads may be the first
            if self._beside is None:
                self._beside = self._make_loop()
        return self._beside

    def _make_loop(self) -> Any:
        from .bridge import Beside

        lifespans = [
            each.lifespan  # type: ignore[attr-defined]
            for each in self.gateways
            if each.asynchronous
        ]
        return Beside(lifespans)

    def stop(self) -> None:
        """End that loop, with the life span of its applications."""
        if self._beside is not None:
            self._beside.stop()


class Lifespan:
    """The life spans of all applications on the loop of a worker."""

    def __init__(self, gateways: Sequence[Any]) -> None:
        self._lifespans = [each.lifespan for each in gateways if each.asynchronous]
        self._started: list[Any] = []

    async def start(self) -> None:
        """Start all; :class:`ConfigurationError` when one refuses."""
        for each in self._lifespans:
            await each.start()
            self._started.append(each)

    async def stop(self) -> None:
        """Stop those that were started, the last one first."""
        for each in reversed(self._started):
            await each.stop()


class HostGateway:
    """What serves an exchange of the host: the phases of its request."""

    asynchronous = False

    def __init__(self, lifespan: Lifespan) -> None:
        self.lifespan = lifespan

    def __call__(self, exchange: HttpExchange) -> Any:
        """Serve the request of *exchange*."""
        if exchange.refused:
            run_now(_answer_refused(exchange))
        else:
            run_now(process_request(exchange.request))

    def run_once(self, cycle: Any, exchange: Any) -> bool:
        """A host never lives for one request."""
        raise NotImplementedError


class AsyncHostGateway(HostGateway):
    """The same on an event loop."""

    asynchronous = True

    def __call__(self, exchange: HttpExchange) -> Any:
        """Return what serves the request of *exchange*, to be awaited."""
        if exchange.direct:
            return _serve_plain(exchange)
        if exchange.refused:
            return _answer_refused(exchange)
        return process_request(exchange.request)


async def _serve_plain(exchange: Any) -> None:
    await exchange.plan.cycle(exchange)
    exchange.conclude()


async def _answer_refused(exchange: HttpExchange) -> None:
    """Answer a head that was refused: no phase sees it but the log."""
    from ..httpd.hooks import run_all

    r = exchange.request
    r.log(f"request refused: {exchange.refused}", "info")
    await die(int(exchange.refused[:3]), r)
    finish(r)
    run_all(r.host.hooks.log_transaction, r)
    r.run_cleanups()


class HostSapi(ServerSapi):
    """The host. Without a configuration file its own options make one.

    Beside :class:`ServerSapi`'s: *static*, ``"URL=DIR"`` pairs of what is served as files; *file*,
    an httpd.conf, which leaves no other option but *defines*, and *loader*, which loads what its
    SapiApp directives name.
    """

    name = "mod"
    pretty_name = "module of the host"

    def __init__(
        self,
        *,
        bind: str | None = None,
        static: Sequence[str] = (),
        access_log: str | None = None,
        file: str | None = None,
        defines: Mapping[str, str] | None = None,
        loader: Callable[[str, str, Any], Gateway] | None = None,
        info: bool = False,
        host: Host | None = None,
        **options: Any,
    ) -> None:
        from_file = file is not None
        if not from_file:
            if bind is None and options.get("socket") is None and options.get("fd") is None:
                bind = DEFAULT_BIND
            if access_log is None:
                access_log = "-"
        super().__init__(bind=bind, **options)
        self.file = file
        self.host: Host | None = host
        self.split = False
        self._static = tuple(static)
        self._log_to = access_log
        self._info = info
        self._defines = dict(defines or {})
        self._loader = loader or self._only_application
        self._sessions: HttpSession | None = None
        self._serves = False
        """This process is one that serves, not the master."""
        self.host_warnings: list[str] = []
        """What was said while the configuration was read."""
        self._applications = Applications(self, self._loader)
        if from_file:
            assert host is not None  # noqa: S101 - read_host() made both
            _take_settings(self.pool, self.config, host)
            self.threads = self.pool.threads or 1

    def _only_application(self, name: str, interface: str, sapi: Any) -> Gateway:
        """Without a file there is one, the one that the program was given."""
        return self.load()

    # -- the configuration

    def configuration(self) -> str:
        """Return the configuration that the options mean, in httpd.conf's syntax."""
        mount = quote((self.mount or "") + "/" if self.mount else "/")
        lines = [
            *(f"LoadModule {name}_module mod_{name}" for name in self._modules()),
            "LoadModule sapi_module sapi_adapters.adapters.mod_sapi",
            f"Timeout {60}",
            f"<Location {mount}>",
            "    SetHandler sapi-script",
            "    SapiApp application",
            "    AllowEncodedSlashes On",
            "    LimitRequestBody 0",
            "</Location>",
            "MergeSlashes Off",
            "MaxKeepAliveRequests 1000",
        ]
        for pair in self._static:
            url, equals, directory = pair.partition("=")
            directory = os.path.realpath(directory)  # links above it are the operator's
            if not equals or not url.startswith("/") or not os.path.isdir(directory):
                raise ConfigurationError(f"--static {pair!r} is no /URL=DIRECTORY")
            lines += [
                f"Alias {quote(url)} {quote(directory)}",
                f"<Location {quote(url)}>",
                "    SetHandler default-handler",
                "    SapiEngine Off",
                "</Location>",
            ]
        status = self.pool.pm_status_path
        if status is not None:
            lines += [
                f"<Location {quote(status)}>",
                "    SetHandler server-status",
                "</Location>",
            ]
        if self._info:
            lines += ["<Location /server-info>", "    SetHandler server-info", "</Location>"]
        if self._log_to not in (None, "off"):
            target = "/dev/stderr" if self._log_to == "-" else self._log_to
            lines += [f"CustomLog {quote(target)} combined"]
        return "\n".join(lines) + "\n"

    def _modules(self) -> list[str]:
        """Return the modules that the options need, and no other: each costs every request."""
        wanted = {
            "reqtimeout": True,
            "mime": self._static,
            "dir": self._static,
            "alias": self._static,
            "log_config": self._log_to not in (None, "off"),
            "status": self.pool.pm_status_path,
            "info": self._info,
        }
        return [name for name, needed in wanted.items() if needed]

    def _made(self, pass_: int) -> Host:
        host = Host(
            text=self.configuration(),
            defines=self._defines,
            pass_=pass_,
            log=self._log_line,
        )
        host.provided["applications"] = self._applications
        host.provided["sapi"] = self
        host.configure()
        return host

    def _log_line(self, message: str, level: str) -> None:
        self.log_message(message, _LEVELS.get(level, ERROR))

    def startup(self) -> None:
        if self.host is None:
            tried = self._made(1)
            try:
                tried.open()
            finally:
                tried.destroy()
            self.host = self._made(2)
        self.host._log = self._log_line
        self.host.provided["applications"] = self._applications
        self.host.provided["sapi"] = self
        self.host.open()
        super().startup()

    def _open(self) -> list[Listener]:
        host = self.host
        if host is None or not host.listen:
            return super()._open()
        found = []
        for address in host.listen:
            opened: Any = (
                (lambda a=address: self._bind_unix(a))
                if address.startswith("/")
                else (lambda a=address: self._bind_tcp(a))
            )
            found.append(self._inherited_or(address, opened))
        return found

    def choose_workers(self) -> int:
        return 1

    # -- a worker's life

    def _gateway(self, worker: Worker) -> Any:
        host = self.host
        assert host is not None  # noqa: S101 - startup() made it
        self._serves = True
        if worker.slot is None:
            worker.show_alone(self.pool.name, Scoreboard(1))
        host.provided["worker"] = worker
        board = host.provided["board"] = worker.boards[self.pool.name]
        host.provided["status"] = lambda: summarize(
            board, self.pool, sapi=self.name, version=__version__
        )
        # Under the event MPM WSGI applications run in threads beside the loop.
        self.multithread = self.multithread or host.mpm == "event"
        host.start_child()
        gateways = self._applications.gateways
        asynchronous = host.mpm == "event" or (
            not host.mpm and self.threads == 1 and any(each.asynchronous for each in gateways)
        )
        kind = AsyncHostGateway if asynchronous else HostGateway
        return kind(Lifespan(gateways if asynchronous else ()))

    def ticker(self, worker: Worker) -> Callable[[], bool]:
        host = self.host
        assert host is not None  # noqa: S101 - startup() made it
        if not host.hooks.monitor:
            return worker.tick

        def tick() -> bool:
            run_void(host.hooks.monitor, host)
            return worker.tick()

        return tick

    def bind(self, gateway: Gateway) -> Callable[[Any], Any]:
        """The host itself has no request start-up: its applications have."""
        return gateway

    def bind_application(self, gateway: Gateway) -> Callable[[Any], Any]:
        """Return *gateway* with request start-up and shutdown around it."""
        return super().bind(gateway)

    def session(self, cycle: Callable[[Any], Any], server: Any) -> HttpSession:
        assert self.host is not None  # noqa: S101 - startup() made it
        return HttpSession(self, self.host, cycle)

    def connect(
        self, cycle: Callable[[Any], Any], server: EventServer, stream: Stream
    ) -> EventWire:
        from .http_event import EventWire
        from .lane import lane_of

        if self._sessions is None:
            assert self.host is not None  # noqa: S101 - startup() made it
            self._sessions = HttpSession(self, self.host, cycle)
            self._sessions.lane = lane_of(self.host)
        return EventWire(self._sessions, server, stream)

    @property
    def signals(self) -> Signals:  # type: ignore[override]
        """httpd's; but a terminal that changes its size sends WINCH, too."""
        on_terminal = any(os.isatty(fd) for fd in (0, 1, 2))
        return HTTPD._replace(graceful=(signal.SIGQUIT,)) if on_terminal else HTTPD

    def retire(self, kept: Collection[Any]) -> None:
        super().retire(kept)
        if self.host is not None:
            self.host.destroy()

    def shutdown(self) -> None:
        self._applications.stop()
        if self.host is not None and self._serves:
            self.host.stop_child(True)

    def hint(self) -> str:
        where = [each.describe() for each in self.listeners]
        urls = [f"http://{name}/" for name in where if not name.startswith("/")]
        return f"{', '.join(urls)}  (TERM stops, WINCH stops gracefully)\n" if urls else ""


def read_host(
    file: str,
    defines: Mapping[str, str],
    log: Callable[[str, str], None] | None,
    pass_: int,
    retained: dict[str, Any] | None = None,
) -> Host:
    """Return the host that the configuration *file* describes."""
    host = Host(
        file,
        defines=defines,
        root=os.path.dirname(os.path.abspath(file)),
        pass_=pass_,
        log=log,
        retained=retained,
    )
    try:
        host.configure()
    except BaseException:
        host.destroy()
        raise
    return host


def host_from_file(
    path: str,
    defines: Mapping[str, str],
    loader: Callable[[str, str, Any], Gateway],
    pass_: int = 2,
    retained: dict[str, Any] | None = None,
) -> HostSapi:
    """Return the SAPI for the httpd.conf *path*; with *pass_* 1 only to see whether it is right."""
    warnings: list[str] = []
    host = read_host(
        path, defines, lambda message, level: warnings.append(message), pass_, retained
    )
    pool, config = Pool(name="host", sapi=HostSapi.name, app="(of the host)"), Global()
    config.pools.append(pool)
    config.warnings += warnings
    sapi = HostSapi(file=path, host=host, pool=pool, config=config, loader=loader)
    sapi.host_warnings = warnings
    return sapi


def _take_settings(pool: Pool, config: Global, host: Host) -> None:
    """Let *pool* and *config* be what the directives of the process and its MPM say."""
    settings = host.settings

    def number(name: str, default: int) -> int:
        value = settings.get(name)
        return default if value is None else int(value)

    threaded = host.mpm in ("worker", "event")
    per_child = number("threadsperchild", 25) if threaded else 1
    pool.threads = per_child if host.mpm == "worker" else 1
    most = number("maxrequestworkers", 400 if threaded else 256)
    pool.pm_max_children = max(1, most // per_child)
    pool.pm = DYNAMIC
    low = number("minsparethreads", 75) // per_child if threaded else number("minspareservers", 5)
    high = (
        number("maxsparethreads", 250) // per_child if threaded else number("maxspareservers", 10)
    )
    pool.pm_min_spare_servers = max(1, min(low, pool.pm_max_children))
    pool.pm_max_spare_servers = min(max(high, pool.pm_min_spare_servers), pool.pm_max_children)
    start = number("startservers", 3 if threaded else 5)
    pool.pm_start_servers = min(max(start, pool.pm_min_spare_servers), pool.pm_max_spare_servers)
    if pool.pm_max_children == 1:
        pool.pm = STATIC
    pool.pm_max_requests = number("maxconnectionsperchild", 0)
    pool.listen_backlog = number("listenbacklog", 511)
    pool.user, pool.group = settings.get("user"), settings.get("group")
    config.process_control_timeout = seconds(settings.get("gracefulshutdowntimeout", "30")) or 1e9
    config.pid = settings.get("pidfile") and os.path.join(host.root, settings["pidfile"])
    log = settings.get("errorlog")
    if log is not None:
        config.error_log = "syslog" if log.startswith("syslog") else os.path.join(host.root, log)
