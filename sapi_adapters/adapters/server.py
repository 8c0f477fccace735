"""What every SAPI over listening sockets shares: options, sockets, processes, servers, logs.

A protocol's adapter subclasses :class:`ServerSapi` and says how one connection is served: by
:meth:`~ServerSapi.session` under the blocking and threaded servers, by
:meth:`~ServerSapi.connect` under the event server.
"""

from __future__ import annotations

import os
import sys
import time
from itertools import count
from typing import TYPE_CHECKING, Any

from ..manager.children import BROKEN, MISTAKE, Terminated, Worker
from ..manager.master import Master
from ..manager.policy import Settings
from ..protocols.cgi import normal_mount
from ..sapi import ConfigurationError, Sapi, __version__
from ..servers import listener
from .accesslog import AccessLog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..sapi import Gateway, Load
    from ..servers.blocking import Session
    from ..servers.event import EventServer, Handler, Stream
    from ..servers.listener import Listener


class ServerSapi(Sapi):
    """A SAPI that listens. Options, all by keyword:

    Where: *socket* (a Unix path, created with *socket_mode*, *socket_owner*, *socket_group*),
    *bind* (``"HOST:PORT"``), *fd* (an inherited listening socket); without any of them what the
    environment gives: systemd's sockets, or descriptor 0.

    How: *workers* and *threads*; *script_name* (the path the application is mounted at, None to
    believe the front end); *max_requests* per worker, 0 for no limit; *request_timeout* in
    seconds, 0 for none; *grace*, how many seconds a graceful stop waits; *pid* (a file),
    *access_log* and *error_log* (files, ``"-"`` for standard error); *reload*, for development:
    a change of a source file makes the master reload.
    """

    threads_by_default = 1
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
        reload: bool = False,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        variables = os.environ if environ is None else environ
        self.started_by_server = False
        self.listeners: list[Listener] = []
        self._where = (socket, socket_mode, socket_owner, socket_group, bind, fd)
        self._addresses = variables.get("FCGI_WEB_SERVER_ADDRS")
        self.mount = None if script_name is None else normal_mount(script_name)
        self.split = False
        self.workers = workers if workers is not None else _workers_asked(variables)
        self.threads = threads or self.threads_by_default
        self._max_requests = max_requests
        self._request_timeout = request_timeout
        self._grace = grace
        self._pid_file = pid
        self._access_log = None if access_log is None else AccessLog(access_log)
        self._error_log = error_log
        self._reload = reload
        if reload:
            if self.workers not in (None, 1):
                raise ConfigurationError("--reload is for development: with one worker")
            self.workers = 1
        if self._access_log is not None:
            self.activate = self._access_log.begin
            self.deactivate = self._access_log.end
        for name, value in (("workers", self.workers), ("threads", self.threads)):
            if value is not None and value < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {value}")

    # -- what an adapter fills in

    def session(self, cycle: Callable[[Any], Any], server: Any) -> Session:
        """Return what serves a connection under the blocking (*server* None) or threaded server."""
        raise NotImplementedError

    def connect(self, cycle: Callable[[Any], Any], server: EventServer, stream: Stream) -> Handler:
        """Return the handler of a connection under the event server."""
        raise NotImplementedError

    def hint(self) -> str:
        """Return what to put into a web server's configuration, for the start-up message."""
        return ""

    # -- the life of the process tree

    def startup(self) -> None:
        """Open the sockets and logs."""
        self.listeners = self._open()
        listener.allow_web_servers(self.listeners, self._addresses)
        if self._error_log is not None and self._error_log != "-":
            _redirect_errors(self._error_log)
        if self.workers is None:
            self.workers = 1 if self.started_by_server else os.cpu_count() or 1
        self.multiprocess = self.workers > 1
        self.multithread = self.threads > 1

    def run(self, load: Load) -> int:
        """Serve until a signal ends it. In a forked worker this never returns."""
        self.module_startup()
        worker: Worker | None = None
        try:
            if self._pid_file is not None:
                _write_pid(self._pid_file)
            if self.needs_master():
                outcome = Master(
                    self._settings(), self.log_message, self._announce, self._reopen_logs
                ).run()
                if isinstance(outcome, int):
                    return outcome
                worker = outcome
            else:
                status = self._work(Worker(), load)
                return 1 if status == BROKEN else status
        except Terminated:
            return 0
        finally:
            if worker is None:
                if self._pid_file is not None:
                    _remove_pid(self._pid_file)
                for each in self.listeners:
                    each.close()
                self.module_shutdown()
        try:
            status = self._work(worker, load)
        except Terminated:
            status = 0
        except BaseException:
            self.log_exception("internal: a worker ends")
            status = 1
        self.module_shutdown()
        return worker.exit(status)

    def _reopen_logs(self) -> None:
        """Open the logs by their names again, after somebody rotated them."""
        if self._access_log is not None:
            self._access_log.reopen()
        if self._error_log is not None and self._error_log != "-":
            _redirect_errors(self._error_log)

    def needs_master(self) -> bool:
        """Tell whether a master process is wanted, beside the workers."""
        # Started on descriptor 0, this process is itself the worker its web server counts.
        alone = (self.started_by_server or not self.supervised) and not self._reload
        return not alone or self.workers != 1 or self._request_timeout > 0

    def _settings(self) -> Settings:
        assert self.workers is not None  # noqa: S101 - startup() has set it
        return Settings(self.workers, self._request_timeout, grace=self._grace)

    def _work(self, worker: Worker, load: Load) -> int:
        """Be *worker*; return its exit status."""
        output = _join_output()
        try:
            return self._load_and_serve(worker, load)
        finally:
            if output is not None and not worker.has_master:
                os.dup2(output, 1)

    def _load_and_serve(self, worker: Worker, load: Load) -> int:
        try:
            self.child_startup()
            gateway = load()
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

    def _serve(self, worker: Worker, gateway: Gateway) -> int:
        cycle = self._counted(gateway, self._timed(gateway, worker))
        shared: dict[str, Any] = {"tick": worker.tick}
        if gateway.asynchronous:
            self._serve_events(worker, gateway, cycle, shared)
            return 0
        if self.threads > 1:
            from ..servers.threaded import ThreadedServer

            threaded = ThreadedServer(
                self.listeners, self._late_session, self, threads=self.threads, **shared
            )
            self._session = self.session(cycle, threaded)
            worker.handle_signals(threaded.stop)
            self._started(worker, f"with {self.threads} threads")
            threaded.run()
            return 0
        from ..servers.blocking import BlockingServer

        blocking = BlockingServer(self.listeners, self.session(cycle, None), self, **shared)
        worker.handle_signals(blocking.stop)
        self._started(worker, "")
        blocking.run()
        return 0

    def _late_session(self, channel: Any) -> float | None:
        return self._session(channel)

    def _serve_events(
        self, worker: Worker, gateway: Any, cycle: Callable[[Any], Any], shared: dict[str, Any]
    ) -> None:
        from ..servers.event import EventServer

        server = EventServer(
            self.listeners,
            lambda stream: self.connect(cycle, server, stream),
            self,
            start=gateway.lifespan.start,
            stop_application=gateway.lifespan.stop,
            ready=lambda: self._started(worker, "with an event loop"),
            grace=self._grace,
            **shared,
        )
        worker.handle_signals(server.stop, server.terminate)
        server.run()

    def _timed(self, gateway: Gateway, worker: Worker) -> Callable[[Any], Any]:
        """Return the gateway's cycle; with a request time-out, one that the master can watch."""
        cycle = self.bind(gateway)
        if not self._request_timeout:
            return cycle
        if gateway.asynchronous:
            return _timed_out(self, cycle, self._request_timeout)
        running: dict[object, float] = {}
        slot = worker.slot

        def timed(exchange: Any) -> None:
            running[exchange] = time.monotonic()
            slot.busy_since = min(running.values())
            try:
                cycle(exchange)
            finally:
                del running[exchange]
                slot.busy_since = min(running.values(), default=0.0)

        return timed

    def _counted(self, gateway: Gateway, cycle: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return *cycle*; with a limit of requests, one that ends the worker when it is reached."""
        if not self._max_requests:
            return cycle
        numbers, last = count(1), self._max_requests

        def counted(exchange: Any) -> None:
            try:
                cycle(exchange)
            finally:
                if next(numbers) >= last:
                    self.terminate_process()

        async def counted_async(exchange: Any) -> None:
            try:
                await cycle(exchange)
            finally:
                if next(numbers) >= last:
                    self.terminate_process()

        return counted_async if gateway.asynchronous else counted

    def _started(self, worker: Worker, how: str) -> None:
        if not worker.has_master:
            self._announce(how)
        worker.ready(how)

    def _announce(self, how: str) -> None:
        """Say on standard error what runs where; a web server that started us knows."""
        if self.started_by_server:
            return
        where = ", ".join(each.describe() for each in self.listeners)
        workers = f"{self.workers} worker{'s' if self.workers != 1 else ''}"
        sys.stderr.write(
            f"sapi_adapters {__version__}: {self.name}, {' '.join([workers, how]).strip()},"
            f" on {where}\n{self.hint()}"
        )
        sys.stderr.flush()

    def _open(self) -> list[Listener]:
        socket, mode, owner, group, bind, fd = self._where
        found = []
        if socket is not None:
            found.append(listener.bind_unix(socket, mode=mode, owner=owner, group=group))
        if bind is not None:
            found.append(listener.bind_tcp(bind))
        if fd is not None:
            found.append(listener.inherit(fd))
        if not found:
            found = listener.from_systemd()
        if not found and listener.is_listening(0):
            _fill_standard_descriptors()
            found.append(listener.inherit(0))
            self.started_by_server = self.split = True
        if not found:
            raise ConfigurationError(
                f"{self.name} needs somewhere to listen: --socket PATH or --bind HOST:PORT"
            )
        return found


def _timed_out(sapi: Sapi, cycle: Callable[[Any], Any], seconds: float) -> Callable[[Any], Any]:
    """Return *cycle* with a limit of *seconds*: the request is cancelled, the others go on."""
    import asyncio

    async def timed(exchange: Any) -> None:
        task = asyncio.ensure_future(cycle(exchange))
        try:
            await asyncio.wait_for(task, seconds)
        except asyncio.TimeoutError:
            sapi.log_message(f"a request took longer than {seconds:g} s and was cancelled")

    return timed


def _workers_asked(variables: Mapping[str, str]) -> int | None:
    for name in ("SAPI_WORKERS", "WEB_CONCURRENCY"):
        value = variables.get(name)
        if value:
            if not (value.isascii() and value.isdigit() and int(value)):
                raise ConfigurationError(f"{name} is {value!r}, not a number of workers")
            return int(value)
    return None


def _fill_standard_descriptors() -> None:
    """Put /dev/null on closed descriptors 1 and 2, before anything else is opened there.

    What the application prints must not reach the wire, so 1 becomes 2.
    """
    null = os.open("/dev/null", os.O_RDWR)
    while null <= 2:
        null = os.dup(null)
    os.close(null)
    os.dup2(2, 1)


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


def _redirect_errors(path: str) -> None:
    try:
        log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from error
    sys.stderr.flush()
    os.dup2(log, 2)
    os.close(log)


def _write_pid(path: str) -> None:
    """Write the pid file whole or not at all, never through a link."""
    part = f"{path}.{os.getpid()}"
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        os.write(fd, f"{os.getpid()}\n".encode())
        os.close(fd)
        os.rename(part, path)
    except OSError as error:
        raise ConfigurationError(f"cannot write the pid file {path}: {error.strerror}") from error


def _remove_pid(path: str) -> None:
    try:
        with open(path) as file:
            ours = file.read().strip() == str(os.getpid())
        if ours:
            os.unlink(path)
    except OSError:
        pass
