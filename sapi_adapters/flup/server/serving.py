"""How flup's process models run: a SAPI of this project, and around it what flup's run() promised.

The models mix :class:`Serving` in: signals, ``_keepGoing``, the hooks of subclasses. A protocol's
server says by ``_make_sapi`` which SAPI serves; a model without a protocol gives each connection
to a job, as flup's did.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
import socket
import threading
import traceback
from collections.abc import Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NoReturn

from ...adapters.observing import Entry
from ...adapters.server import ServerSapi
from ...manager.children import Terminated, Worker
from ...manager.config import DYNAMIC, STATIC, Global, Pool
from ...manager.log import ErrorLog
from ...manager.master import Master
from ...sapi import ConfigurationError, Sapi
from ...servers.blocking import accept_failed
from ...servers.listener import (
    BACKLOG,
    Listener,
    allow_clients,
    allow_web_servers,
    bind_unix,
    listen_tcp,
)
from .gateway import write_standard_error

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType

    from ...sapi import Gateway

MOST_THREADS = 500
"""How many threads there are where flup had no limit."""
GRACE = 10.0
"""Seconds that children have to finish when their parent stops: flup's."""
SILENCE = 60.0
"""Seconds that a web server may send nothing where it is its turn, unless *sockTimeout* says."""


class Serving:
    """What the process models share."""

    _jobClass: Any = None
    _jobArgs: Any = ()
    _going = False
    _hupReceived = False
    _oldSIGs: list[tuple[int, Any]] = []  # noqa: RUF012 - replaced, never changed
    _stop: Callable[[], Any] | None = None
    """Wakes what serves at this moment, so that it ends."""

    @property
    def _keepGoing(self) -> bool:
        """Whether ``run()`` goes on. Set to False, by any thread or handler, it ends."""
        return self._going

    @_keepGoing.setter
    def _keepGoing(self, value: Any) -> None:
        self._going = bool(value)
        stop = self._stop
        if not value and stop is not None:
            stop()

    # -- what subclasses may override

    def _isClientAllowed(self, addr: Any) -> bool:
        """Judge a peer by its address; for access control."""
        return True

    def _mainloopPeriodic(self) -> None:
        """Called about once a second while the server runs."""

    def _exit(self, reload: bool = False) -> None:
        """End ``run()``, which then returns *reload*."""
        if self._keepGoing:
            self._hupReceived = reload
            self._keepGoing = False

    def _hupHandler(self, signum: int, frame: FrameType | None) -> None:
        self._hupReceived = True
        self._keepGoing = False

    def _intHandler(self, signum: int, frame: FrameType | None) -> None:
        self._keepGoing = False

    def _handlers(self) -> dict[int, Callable[[int, FrameType | None], Any]]:
        return {
            signal.SIGINT: self._intHandler,
            signal.SIGTERM: self._intHandler,
            signal.SIGHUP: self._hupHandler,
        }

    def _installSignalHandlers(self) -> None:
        """Take the signals over; off the main thread, where nobody can, leave them."""
        self._oldSIGs = []
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._handlers().items():
                self._oldSIGs.append((number, signal.signal(number, handler)))

    def _restoreSignalHandlers(self) -> None:
        for number, handler in self._oldSIGs:
            if handler is not None:  # None: something that is not Python's
                signal.signal(number, handler)

    # -- how run() goes

    _threaded = False

    def _most(self) -> int:
        """Return how many requests are served at a time, at most."""
        raise NotImplementedError

    def _pool(self) -> Pool:
        """Return what a SAPI is told."""
        raise NotImplementedError

    def _serves(self, server: Any) -> None:
        """*server* is about to serve, in this process."""
        self._stop = server.stop
        if not self._keepGoing:  # a signal came meanwhile
            server.stop()

    def _run_job(
        self, connection: socket.socket, address: Any, ends: type[BaseException] = Exception
    ) -> None:
        """Let a job serve *connection*. What it raises of *ends* ends the job only.

        That is reported before the peer sees an end.
        """
        try:
            self._jobClass(connection, address, *self._jobArgs).run()
        except ends:
            write_standard_error(f"a job failed\n{traceback.format_exc()}")
            connection.close()
        except BaseException:
            connection.close()
            raise

    def _guard(self, listeners: list[Listener]) -> None:
        """Let only those connect who may."""
        listeners[0].allows = self._isClientAllowed

    def _make_sapi(self, sock: socket.socket) -> Any:
        """Return the SAPI that serves *sock*; None where jobs do."""
        return None

    def _run_with_signals(self, serve: Callable[[], None]) -> bool:
        """Call *serve* as flup's ``run()`` did; return whether SIGHUP ended it."""
        self._hupReceived = False
        self._keepGoing = True
        self._installSignalHandlers()
        try:
            serve()
        finally:
            self._stop = None
            self._restoreSignalHandlers()
        return self._hupReceived

    def _overrides(self, name: str, base: type) -> bool:
        """Tell whether somebody replaced *base*'s method *name*, by a subclass or on the object."""
        found = getattr(getattr(self, name), "__func__", None)
        return found is not base.__dict__[name]


class FlupSapi(ServerSapi):
    """What the SAPIs of this package have beyond the protocol's, which they are, too."""

    def __init__(self, owner: Any, sock: socket.socket, pool: Pool) -> None:
        config = Global(process_control_timeout=GRACE, log_level="warning", pools=[pool])
        super().__init__(pool=pool, config=config)
        self.owner = owner
        self._given = sock

    def make_gateway(self) -> Gateway:
        """Return what calls the application."""
        gateway: Gateway = self.owner._make_gateway(self)
        return gateway

    def startup(self) -> None:
        """Take the socket that flup's server has set up."""
        self.load = self.make_gateway
        super().startup()
        self.owner._guard(self.listeners)

    def _open(self) -> list[Listener]:
        self.split = True  # SCRIPT_NAME is what the web server says, as flup had it
        return [Listener(self._given.dup())]

    def server_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"timeout": getattr(self.owner, "_sockTimeout", 0) or SILENCE}
        if self.threads > 1:
            options.update(self.owner._spare_threads())
        return options

    def work(self, worker: Worker) -> int:
        return self._load_and_serve(worker)  # where an application prints is its own affair

    def _confine(self) -> None:
        """A child of flup's is what its parent is."""

    def announce(self, how: str) -> None:
        """flup said nothing."""

    def _started(self, worker: Worker, how: str, capacity: int) -> None:
        super()._started(worker, how, capacity)
        if not worker.has_master:
            self.owner._serves(self.server)

    def ticker(self, worker: Worker) -> Callable[[], bool]:
        owner = self.owner

        def tick() -> bool:
            if not worker.has_master and owner._keepGoing:
                owner._mainloopPeriodic()
            return worker.tick() and owner._keepGoing

        return tick

    def be(self, worker: Worker) -> NoReturn:
        """Be *worker*, a child of the master, to its end."""
        self.owner._stop = None
        try:
            status = self.work(worker)
        except Terminated:
            status = 0
        except BaseException:
            self.log_exception("internal: a worker ends")
            status = 1
        self.module_shutdown()
        worker.exit(status)


class _Alone(Worker):
    """A worker that is the whole server: signals are flup's."""

    why = ""

    def handle_signals(
        self, stop: Callable[[], None], terminate_now: Callable[[], None], *, unwind: bool = True
    ) -> None:
        """Leave them."""

    def failed(self, why: str) -> None:
        self.why = why


def serve_alone(sapi: FlupSapi) -> None:
    """Let this process serve, until the server is told to stop."""
    worker = _Alone()
    started = False
    try:
        sapi.module_startup()
        started = True
        if sapi.work(worker):
            raise ConfigurationError(worker.why)
    finally:
        sapi.retire(())
        if started:
            sapi.module_shutdown()


def serve_with_children(owner: Any, sapi: FlupSapi) -> None:
    """Be the master of children that serve, until *owner* is told to stop."""
    log = ErrorLog(None, sapi.config.log_level)
    sapi.log = log
    started = False
    outcome: Worker | int = 1
    try:
        sapi.module_startup()
        started = True
        master = Master(sapi.config, [sapi], log, signals=None)
        owner._manages(master)
        outcome = master.run()
    finally:
        if not isinstance(outcome, Worker):
            sapi.retire(())
            if started:
                sapi.module_shutdown()
    if isinstance(outcome, Worker):
        sapi.be(outcome)


# -- jobs: connections that no protocol of ours serves --------------------------------------------


def accept_jobs(
    listener: Listener,
    start: Callable[[socket.socket, Any], Any],
    *,
    going: Callable[[], bool],
    waker: int,
    tick: Callable[[], Any],
) -> None:
    """Accept connections and call *start* with each, its socket and the peer's address.

    Ends when *going* says so; that is looked at once a second, after each connection, and when
    *waker* can be read.
    """
    listener.socket.setblocking(False)
    poll = select.poll()
    poll.register(listener.fd, select.POLLIN)
    poll.register(waker, select.POLLIN)
    while going():
        if any(fd == listener.fd for fd, _ in poll.poll(1000)):
            try:
                connection, address = listener.socket.accept()
            except BlockingIOError:
                continue
            except OSError as error:
                if not accept_failed(error, _log):
                    return
                continue
            connection.setblocking(True)
            if listener.allows is not None and not listener.allows(address):
                connection.close()
            else:
                start(connection, address)
        tick()


def serve_jobs(
    owner: Serving, sock: socket.socket, start: Callable[[socket.socket, Any], Any]
) -> None:
    """Accept connections on *sock* for *start*, in this thread, until *owner* is told to stop."""
    listener = Listener(sock.dup())
    waker, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    owner._guard([listener])
    owner._stop = lambda: os.write(wake, b"x")
    try:
        accept_jobs(
            listener,
            start,
            going=lambda: owner._keepGoing,
            waker=waker,
            tick=owner._mainloopPeriodic,
        )
    finally:
        owner._stop = None
        listener.close()
        os.close(waker)
        os.close(wake)


_log = Sapi()
"""What writes to standard error where no SAPI serves."""


class _Job:
    """A connection as the scoreboard sees it."""

    noted = (b"", b"", b"", b"", b"")


class JobSapi(FlupSapi):
    """Gives connections to jobs, in children or here. It has no protocol and so no name."""

    nested = True

    def _load_and_serve(self, worker: Worker) -> int:
        waker, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        stopping = False

        def stop() -> None:
            nonlocal stopping
            stopping = True
            os.write(wake, b"x")

        worker.handle_signals(stop, lambda: None)
        worker.ready("")
        assert worker.slot is not None  # noqa: S101 - a master has given it
        worker.slot.set_capacity(1)
        entry, job, left = Entry(worker.slot, 0), _Job(), self.pool.pm_max_requests

        def start(connection: socket.socket, address: Any) -> None:
            nonlocal left, stopping
            entry.begin(job)
            try:
                self.owner._run_job(connection, address)
            finally:
                entry.end()
            left -= 1
            stopping = stopping or left == 0

        accept_jobs(
            self.listeners[0],
            start,
            going=lambda: not stopping and worker.tick(),
            waker=waker,
            tick=lambda: None,
        )
        return 0


# -- where a server listens -----------------------------------------------------------------------


def bind(address: Any, umask: int | None) -> socket.socket:
    """Listen on *address*: a Unix path, ``(host, port)`` for IPv4, a longer tuple for IPv6.

    A socket file gets the mode that *umask* leaves, None for the process's own; nobody who listens
    there already is disturbed. Raises :class:`OSError`.
    """
    if isinstance(address, (str, os.PathLike)):
        mask = _own_umask() if umask is None else umask
        try:
            return bind_unix(os.fspath(address), mode=0o777 & ~mask).socket
        except ConfigurationError as error:
            number = getattr(error.__cause__, "errno", None) or errno.EADDRINUSE
            raise OSError(number, str(error)) from error
    family = socket.AF_INET6 if len(address) > 2 else socket.AF_INET
    try:
        return listen_tcp(family, tuple(address), BACKLOG, v6_only=False).socket
    except OSError as error:
        where = ":".join(str(part) for part in address[:2])
        raise OSError(error.errno, f"cannot listen on {where}: {error.strerror}") from error


def _own_umask() -> int:
    try:
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith("Umask:"):
                    return int(line.split()[1], 8)
    except OSError:
        pass  # no Linux: the one way that is left is not safe beside other threads
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def addresses_of(owner: Any, servers: Iterable[str]) -> list[str]:
    """Return those of *servers* that are IP addresses; a peer is never known by a name."""
    known = []
    for each in servers:
        try:
            ip_address(each)
        except ValueError:
            owner.logger.warning("allowedServers: %r is no IP address and matches nobody", each)
        else:
            known.append(each)
    return known


def allow_named(owner: Any, listeners: list[Listener], servers: Iterable[str] | None) -> None:
    """Let only the IP addresses *servers* connect by TCP; None is everybody."""
    if servers is None:
        return
    known = addresses_of(owner, servers)
    if known:
        allow_clients(listeners, known, "allowedServers")
        return
    for each in listeners:
        if each.family != socket.AF_UNIX:
            each.allows = _nobody


def setCloseOnExec(sock: socket.socket) -> None:
    """Keep *sock* from programs that this one starts."""
    sock.set_inheritable(False)


def _nobody(peer: Any) -> bool:
    return False


def log_to_standard_error(name: str) -> None:
    """Let the logger *name* write there, with the time; flup's do."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s : %(message)s", "%Y-%m-%d %H:%M:%S"))
    logging.getLogger(name).addHandler(handler)


__all__ = [
    "DYNAMIC",
    "MOST_THREADS",
    "STATIC",
    "FlupSapi",
    "JobSapi",
    "Pool",
    "Serving",
    "accept_jobs",
    "addresses_of",
    "allow_named",
    "allow_web_servers",
    "bind",
    "log_to_standard_error",
    "setCloseOnExec",
    "serve_alone",
    "serve_jobs",
    "serve_with_children",
]
