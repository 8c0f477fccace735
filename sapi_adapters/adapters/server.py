"""What every SAPI over listening sockets shares: options, sockets, processes, servers, logs.

A protocol's adapter subclasses :class:`ServerSapi` and says how one connection is served: by
:meth:`~ServerSapi.session` under the blocking and threaded servers, by
:meth:`~ServerSapi.connect` under the event server. The processes are tree.py's.
"""

from __future__ import annotations

import os
import sys
from copy import copy, deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any

from ..manager.children import BROKEN, MISTAKE, Worker
from ..manager.config import ONDEMAND, STATIC, Global, Pool
from ..manager.directives import override
from ..manager.master import PHP_FPM, Signals
from ..manager.privileges import confine, environment, resolve
from ..manager.scoreboard import Scoreboard
from ..manager.slowlog import Tracer
from ..protocols.cgi import normal_mount
from ..sapi import ERROR, ConfigurationError, Sapi, __version__
from ..servers import listener
from .accesslog import COMBINED, AccessLog
from .observing import Observed, observe
from .pages import AsyncPagesGateway, Pages, PagesGateway, PagesOnly
from .tree import run_pools

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from ..manager.log import ErrorLog
    from ..sapi import Gateway, Load
    from ..servers.blocking import Session
    from ..servers.event import EventServer, Handler, Stream
    from ..servers.listener import Listener

EVENT_REQUESTS = 100
"""How many requests at a time make a worker with an event loop count as busy."""
_FOREVER = 10 * 365 * 86400.0
STATUS_CHILDREN = 2
"""Workers of a pool that only answers ``pm.status_listen``."""


def _unnoted(exchange: Any, answer: Callable[[Any], Any]) -> Any:
    return answer(exchange)


class ServerSapi(Sapi):
    """A SAPI that listens. Options, all by keyword:

    Where: *socket* (a Unix path, created with *socket_mode*, *socket_owner*, *socket_group*),
    *bind* (``"HOST:PORT"``), *fd* (an inherited listening socket); without any of them what the
    environment gives: systemd's sockets, or descriptor 0.

    How: *workers* and *threads*; *script_name* (the path the application is mounted at, None to
    believe the front end); *max_requests* per worker, 0 for no limit; *request_timeout* in
    seconds, 0 for none; *grace*, how many seconds a graceful stop waits, 0 for ever; *pid* (a
    file), *access_log* and *error_log* (files, ``"-"`` for standard error); *status_path*, where
    the status page is; *reload*, for development: a change of a source file makes the master
    reload. *settings* are directives of a pool's configuration, ``"pm.max_memory=200M"``, of
    which the options above are short forms.

    A configuration file gives *pool* and *config* instead.
    """

    threads_by_default = 1
    signals: Signals = PHP_FPM
    """What signals mean to the master."""
    note: Callable[[int], None] | None = None
    """Shows the scoreboard's stage of a request that comes in pieces, where there is but one."""
    serve_instead: Callable[[Any, Callable[[Any], Any]], Any] = staticmethod(_unnoted)
    """Lets a function serve an exchange that is refused, noted as any request is."""
    supervised = True
    """A master watches the worker even if there is only one."""

    def __init__(
        self,
        *,
        socket: str | None = None,
        socket_mode: int = 0o660,
        socket_owner: str | None = None,
        socket_group: str | None = None,
        bind: str | None = None,
        fd: int | None = None,
        workers: int | None = None,
        threads: int | None = None,
        script_name: str | None = None,
        max_requests: int = 0,
        request_timeout: float = 0.0,
        grace: float = 30.0,
        pid: str | None = None,
        access_log: str | None = None,
        error_log: str | None = None,
        status_path: str | None = None,
        reload: bool = False,
        settings: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        pool: Pool | None = None,
        config: Global | None = None,
    ) -> None:
        variables = os.environ if environ is None else environ
        self.started_by_server = False
        self.listeners: list[Listener] = []
        self.log: ErrorLog | None = None
        self.load: Load = _nothing
        self._where: tuple[str | None, str | None, int | None] = (socket, bind, fd)
        self._reload = reload
        self._web_servers = None if pool else variables.get("FCGI_WEB_SERVER_ADDRS")
        self.inspect: Callable[[Sequence[Listener]], None] = lambda listeners: None
        """Called with the listeners before anything is served; raises to refuse them."""
        self._pages_of: Pool | None = None
        """The pool whose status this one is there to show."""
        self._inherited: dict[str, Listener] = {}
        if pool is None:
            workers = workers if workers is not None else _workers_asked(variables)
            if reload and workers not in (None, 1):
                raise ConfigurationError("--reload is for development: with one worker")
            pool = Pool(
                sapi=self.name,
                threads=threads,
                script_name=script_name,
                listen=socket or bind,
                listen_owner=socket_owner,
                listen_group=socket_group,
                listen_mode=socket_mode,
                app="application",
                pm_max_children=0 if workers is None else workers,
                pm_max_requests=max_requests,
                pm_status_path=status_path,
                request_terminate_timeout=request_timeout,
                access_log=access_log,
                access_format=COMBINED,
            )
            if workers is not None and workers < 1:
                raise ConfigurationError(f"workers must be at least 1, not {workers}")
            if reload:
                pool.pm_max_children = 1
            config = Global(
                pid=pid,
                error_log=None if error_log == "-" else error_log,
                process_control_timeout=grace or _FOREVER,
            )
            config.pools.append(pool)
            for setting in settings:
                name, equals, value = setting.partition("=")
                if not equals:
                    raise ConfigurationError(f"{setting!r} is no NAME=VALUE")
                override(config, name.strip(), value.strip())
        assert config is not None  # noqa: S101 - it comes with a pool
        self.pool = pool
        self.config = config
        self.mount = None if pool.script_name is None else normal_mount(pool.script_name)
        self.split = False
        self.threads = self.threads_by_default if pool.threads is None else pool.threads
        if self.threads < 1:
            raise ConfigurationError(f"threads must be at least 1, not {self.threads}")
        self._access_log: AccessLog | None = None
        self.server: Any = None
        """In a worker: what waits on its sockets. Its ``stopping`` says that it is to end."""

    @property
    def workers(self) -> int:
        """How many processes there are at most; 0 until :meth:`startup` has decided."""
        return self.pool.pm_max_children

    # -- what an adapter fills in

    def session(self, cycle: Callable[[Any], Any], server: Any) -> Session:
        """Return what serves a connection under the blocking (*server* None) or threaded server."""
        raise NotImplementedError

    def connect(self, cycle: Callable[[Any], Any], server: EventServer, stream: Stream) -> Handler:
        """Return the handler of a connection under the event server."""
        raise NotImplementedError

    def leaves(self) -> bool:
        return bool(self.retiring or self.terminating or self.server.stopping)

    def hint(self) -> str:
        """Return what to put into a web server's configuration, for the start-up message."""
        return ""

    def signals_hint(self) -> str:
        """Return what signals do, for the same message."""
        reload = ", HUP reloads gracefully" if self.needs_master() else ""
        return f"TERM stops, QUIT stops gracefully{reload}"

    # -- the life of the process tree

    def startup(self) -> None:
        """Open the sockets and logs."""
        self.listeners = self._open()
        self.inspect(self.listeners)
        listener.allow_clients(self.listeners, self.pool.listen_allowed_clients)
        listener.allow_web_servers(self.listeners, self._web_servers)
        if self.pool.access_log is not None:
            self._access_log = AccessLog(
                self.pool.access_log,
                self.pool.access_format,
                pool=self.pool.name,
                suppress=self.pool.access_suppress_path,
            )
        self.multiprocess = self.workers > 1
        self.multithread = self.threads > 1

    def choose_workers(self) -> int:
        """Return how many workers there are when nobody said it."""
        return 1 if self._given_by_server() else os.cpu_count() or 1

    def _given_by_server(self) -> bool:
        """Whether a web server or spawner started this process, with its socket on descriptor 0."""
        nowhere = self._where == (None, None, None) and self.pool.listen is None
        return nowhere and "LISTEN_FDS" not in os.environ and listener.is_listening(0)

    def run(self, load: Load) -> int:
        """Serve until a signal ends it. In a forked worker this never returns."""
        self.load = load
        self.pool.pm_max_children = self.pool.pm_max_children or self.choose_workers()
        return run_pools(self.config, [self])

    def needs_master(self) -> bool:
        """Tell whether a master process is wanted, beside the workers."""
        # Started on descriptor 0, this process is itself the worker its web server counts.
        pool = self.pool
        alone = (self.started_by_server or not self.supervised) and not self._reload
        watched = pool.request_terminate_timeout or pool.request_slowlog_timeout
        apart = pool.user or pool.chroot or pool.pm_max_memory or pool.pm != STATIC
        return not alone or self.workers != 1 or bool(watched or apart or self.config.daemonize)

    def status_twin(self) -> ServerSapi | None:
        """Return the pool that answers ``pm.status_listen``, if it is set."""
        if not self.pool.pm_status_listen or self._pages_of is not None:
            return None
        twin = copy(self)
        twin.pool = deepcopy(self.pool)
        twin.pool.name = f"{self.pool.name}_status"
        twin.pool.listen = self.pool.pm_status_listen
        twin.pool.pm, twin.pool.pm_max_children = ONDEMAND, STATUS_CHILDREN
        twin.pool.pm_status_listen = twin.pool.access_log = None
        twin.pool.pm_max_requests = twin.pool.pm_max_memory = 0
        twin.pool.request_slowlog_timeout = twin.pool.request_terminate_timeout = 0.0
        twin._where = (None, None, None)
        twin._pages_of = self.pool
        twin.listeners = []
        twin.threads = 1
        return twin

    # -- what the master asks of a service

    @property
    def hidden(self) -> bool:
        """Whether the configuration has no such pool: it is there to show another's status."""
        return self._pages_of is not None

    def log_descriptors(self) -> list[int]:
        """Open the access log again; return what a worker is to write to from now on."""
        found = []
        if self.log is not None and self.config.error_log not in (None, "syslog"):
            found.append(self.log.fileno())
        if self._access_log is not None:
            self._access_log.reopen()
            found.append(self._access_log.fileno())
        return found

    def retire(self, kept: Collection[Any]) -> None:
        """Close the listeners that are not in *kept*, and the log."""
        for each in self.listeners:
            if each not in kept:
                each.close()
        if self._access_log is not None:
            self._access_log.close()

    def abandon(self, serving: Any) -> None:
        """Close, in a worker of *serving*, the sockets that it does not use."""
        for each in self.listeners:
            if each not in serving.listeners:
                each.close(remove=False)

    def rebind(self, forget: Callable[[int], None]) -> None:
        """Listen again where a socket file is lost."""
        for index, each in enumerate(self.listeners):
            if each.lost():
                assert each.path is not None  # noqa: S101 - only files are lost
                fresh = self._bind_unix(each.path)
                fresh.allows, fresh.allowed = each.allows, each.allowed
                fresh.label = each.label
                forget(each.fd)
                each.close(remove=False)
                self.listeners[index] = fresh

    def log_message(self, message: str, level: str = ERROR) -> None:
        if self.log is None:
            super().log_message(message, level)
        else:
            self.log.log(message, level)

    # -- a worker's life

    def work(self, worker: Worker) -> int:
        """Be *worker*; return its exit status."""
        output = None
        if self.pool.catch_workers_output is None:
            output = _join_output()
        try:
            return self._load_and_serve(worker)
        finally:
            if output is not None and not worker.has_master:
                os.dup2(output, 1)

    def _confine(self) -> None:
        """Become what the pool's settings say."""
        pool = self.pool
        identity = resolve(pool.user, pool.group) if os.geteuid() == 0 else None
        environment(pool.clear_env, pool.env, identity)
        confine(
            identity=identity,
            chroot=pool.chroot,
            chdir=pool.chdir,
            umask=pool.umask,
            rlimit_files=pool.rlimit_files,
            rlimit_core=pool.rlimit_core,
            priority=pool.process_priority,
            dumpable=pool.process_dumpable,
        )
        for directory in reversed([*pool.python_path, *([pool.chdir] if pool.chdir else [])]):
            if directory not in sys.path:
                sys.path.insert(0, directory)

    def _load_and_serve(self, worker: Worker) -> int:
        try:
            if worker.has_master:
                self._confine()
            worker.reopened = self._take_logs
            self.child_startup()
            gateway = self._gateway(worker)
        except ConfigurationError as error:
            worker.failed(f"serve: {error}")
            return MISTAKE
        except (Exception, SystemExit):
            import traceback

            worker.failed(f"the application could not be imported\n{traceback.format_exc()}")
            return BROKEN
        if self._reload:
            from ..servers.reloader import watch_sources

            watch_sources(worker.reload_all)
        try:
            return self._serve(worker, gateway)
        except ConfigurationError as error:
            worker.failed(f"serve: {error}")
            return BROKEN

    def _take_logs(self, descriptors: list[int]) -> None:
        """Write to the logs' new *descriptors*, which :meth:`log_descriptors` gave."""
        if self.log is not None and self.config.error_log not in (None, "syslog"):
            if self.pool.catch_workers_output is None:
                os.dup2(descriptors[0], 2)
            self.log.replace(descriptors.pop(0))
        if self._access_log is not None:
            self._access_log.replace(descriptors.pop(0))

    def _gateway(self, worker: Worker) -> Any:
        if worker.slot is None:  # nobody else sees it: the limits and the status page want one
            worker.show_alone(self.pool.name, Scoreboard(1))
        pool = self._pages_of or self.pool
        pages = Pages(pool, worker.boards[pool.name], self)
        if self._pages_of is not None:
            return PagesOnly(pages)
        gateway = self.load()
        if not pages.paths:
            return gateway
        wrapper = AsyncPagesGateway if gateway.asynchronous else PagesGateway
        return wrapper(gateway, pages)

    def _serve(self, worker: Worker, gateway: Gateway) -> int:
        capacity = EVENT_REQUESTS if gateway.asynchronous else self.threads
        if self._access_log is not None and capacity == 1:
            self._access_log.hold()
        cycle = observe(
            self.bind(gateway),
            self,
            worker,
            self.pool,
            asynchronous=gateway.asynchronous,
            threads=self.threads,
            capacity=capacity,
            log=self._access_log,
        )
        self.serve_instead = cycle.serve
        if worker.trace_fd >= 0:
            depth = self.pool.request_slowlog_trace_depth
            threaded_now = self.threads > 1 and not gateway.asynchronous
            Tracer(worker.trace_fd, cycle.describe, depth, threaded_now).install()
        if self._access_log is not None:
            access_log = self._access_log
            worker.dropped = lambda: access_log.dropped
        shared: dict[str, Any] = {"tick": self.ticker(worker)}
        if gateway.asynchronous:
            self._serve_events(worker, gateway, cycle, shared)
            return 0
        shared.update(self.server_options())
        if self.threads > 1:
            from ..servers.threaded import ThreadedServer

            threaded = ThreadedServer(
                self.listeners, self._late_session, self, threads=self.threads, **shared
            )
            self.server = threaded
            self._session = self.session(cycle.serve, threaded)

            def terminate() -> None:
                threaded.refuse_more()
                cycle.cut_all()

            worker.handle_signals(threaded.stop, terminate)
            self._started(worker, f"with {self.threads} threads", capacity)
            threaded.run()
            return 0
        from ..servers.blocking import BlockingServer

        if self._access_log is not None:
            shared["idle"] = self._access_log.flush
        self.note = cycle.note
        session = self.session(cycle.serve, None)
        blocking = self.server = BlockingServer(self.listeners, session, self, **shared)
        worker.handle_signals(blocking.stop, cycle.blame_all)
        self._started(worker, "", capacity)
        try:
            blocking.run()
        finally:
            if self._access_log is not None:
                self._access_log.flush()
        return 0

    def ticker(self, worker: Worker) -> Callable[[], bool]:
        """Return what is called about once a second while *worker* serves; False ends it."""
        return worker.tick

    def server_options(self) -> dict[str, Any]:
        """Return more keyword arguments for the blocking or threaded server, as *timeout*."""
        return {}

    def _late_session(self, channel: Any) -> float | None:
        return self._session(channel)

    def _serve_events(
        self, worker: Worker, gateway: Any, cycle: Observed, shared: dict[str, Any]
    ) -> None:
        from ..servers.event import EventServer

        grace = self.config.process_control_timeout
        server = EventServer(
            self.listeners,
            lambda stream: self.connect(cycle.serve, server, stream),
            self,
            start=gateway.lifespan.start,
            stop_application=gateway.lifespan.stop,
            ready=lambda: self._started(worker, "with an event loop", EVENT_REQUESTS),
            grace=0.0 if grace == _FOREVER else grace or 0.001,
            blame=cycle.blame_all,
            **shared,
        )
        self.server = server
        worker.handle_signals(server.stop, server.terminate, unwind=False)
        server.run()

    def _started(self, worker: Worker, how: str, capacity: int) -> None:
        if not worker.has_master:
            self.announce(how)
        own = capacity == EVENT_REQUESTS
        worker.ready(how, capacity=capacity, own_timeouts=own)

    def announce(self, how: str) -> None:
        """Say on standard error what runs where; a web server that started us knows."""
        if self.started_by_server:
            return
        where = ", ".join(each.describe() for each in self.listeners)
        workers = f"{self.workers} worker{'s' if self.workers != 1 else ''}"
        if self.pool.pm != STATIC:
            workers = f"up to {workers} ({self.pool.pm})"
        sys.stderr.write(
            f"sapi_adapters {__version__}: {self.name}, {' '.join([workers, how]).strip()},"
            f" on {where}\n{self.hint()}"
        )
        sys.stderr.flush()

    # -- sockets

    def inherit(self, listeners: Mapping[str, Listener]) -> None:
        """Take over, at :meth:`startup`, those of *listeners*, by label, that are wanted."""
        self._inherited = dict(listeners)

    def _bind_unix(self, path: str) -> Listener:
        pool = self.pool
        return listener.bind_unix(
            path,
            mode=pool.listen_mode,
            owner=pool.listen_owner,
            group=pool.listen_group,
            backlog=pool.listen_backlog,
            acl_users=pool.listen_acl_users,
            acl_groups=pool.listen_acl_groups,
        )

    def _open(self) -> list[Listener]:
        socket, bind, fd = self._where
        listen = self.pool.listen
        if socket is None and bind is None and listen is not None:
            if listen.startswith("/"):
                socket = listen
            else:
                bind = listen
        found = [
            self._inherited_or(address, partial(open_it, address))
            for address, open_it in ((socket, self._bind_unix), (bind, self._bind_tcp))
            if address is not None
        ]
        if fd is not None:
            found.append(self._inherited_or(f"descriptor {fd}", partial(listener.inherit, fd)))
        if not found:
            found = [each for name, each in self._inherited.items() if name.startswith("given ")]
            self.started_by_server = self.split = "given by a server" in self._inherited
        if not found:
            found = listener.from_systemd()
            for index, each in enumerate(found):
                each.label = f"given by systemd {index}"
        if not found and listener.is_listening(0):
            os.dup2(2, 1)  # what the application prints must not reach the wire
            found.append(listener.inherit(0))
            found[0].label = "given by a server"
            self.started_by_server = self.split = True
        if not found:
            raise ConfigurationError(
                f"{self.name} needs somewhere to listen: --socket PATH or --bind HOST:PORT"
            )
        return found

    def _bind_tcp(self, address: str) -> Listener:
        return listener.bind_tcp(address, backlog=self.pool.listen_backlog)

    def _inherited_or(self, label: str, open_it: Callable[[], Listener]) -> Listener:
        """Return the listener that is known as *label*, or a new one."""
        found = self._inherited.get(label)
        if found is None or found.lost():
            found = open_it()
            found.label = label
        return found


def _nothing() -> Gateway:
    raise ConfigurationError("there is no application")


def _workers_asked(variables: Mapping[str, str]) -> int | None:
    for name in ("SAPI_WORKERS", "WEB_CONCURRENCY"):
        value = variables.get(name)
        if value:
            if not (value.isascii() and value.isdigit() and int(value)):
                raise ConfigurationError(f"{name} is {value!r}, not a number of workers")
            return int(value)
    return None


def _join_output() -> int | None:
    """Make standard output standard error's twin; return what it was, None when it was closed.

    What an application prints belongs into the log, whichever way it was started.
    """
    try:
        before = os.dup(1)
        sys.stdout.flush()
        os.dup2(2, 1)
    except (OSError, ValueError, AttributeError):
        return None
    return before
