"""The master process: forks workers, watches them, acts on signals. It serves nothing itself.

It knows nothing of protocols, gateways or adapters: :meth:`Master.run` returns in a child with
its :class:`~sapi_adapters.manager.children.Worker`, and in the master with an exit status. What
is to be done is decided in policy.py; pool.py does it for one pool; signal handlers only note
the signal.

======== ======================================================================================
signal   effect on the master
======== ======================================================================================
INT TERM fast stop: workers end now
QUIT     graceful stop: workers finish their requests
USR1     the logs are opened again, in the workers too; nobody is replaced
HUP USR2 graceful reload: the configuration is read again and a new generation of workers is
         started; when all of it is ready, the old one finishes its requests and leaves; when it
         fails, the old one goes on
CHLD     a worker ended; it is replaced
======== ======================================================================================

That is php-fpm's way; the HTTP host has httpd's, see :data:`HTTPD`.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..sapi import ConfigurationError
from .children import MANAGED
from .config import ONDEMAND
from .control import Control
from .pool import Gone, Group, Service
from .systemd import Notifier
from .upgrade import Program, command, describe_group, execute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

    from .children import Child, Worker
    from .config import Global
    from .log import ErrorLog

_TICK = 1.0
_DRAIN = 8
"""Reads that empty any pipe."""
_QUICK = 0.1
"""Seconds between two looks while something is due soon."""


class Signals(NamedTuple):
    """Which signals mean what to a master."""

    fast: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)
    graceful: tuple[int, ...] = (signal.SIGQUIT,)
    reopen: tuple[int, ...] = (signal.SIGUSR1,)
    reload: tuple[int, ...] = (signal.SIGHUP, signal.SIGUSR2)
    restart: tuple[int, ...] = ()
    """A reload whose old workers do not finish their requests."""


PHP_FPM = Signals()
HTTPD = Signals(
    graceful=(signal.SIGWINCH, signal.SIGQUIT),
    reopen=(),
    reload=(signal.SIGUSR1, signal.SIGUSR2),
    restart=(signal.SIGHUP,),
)
"""httpd's: HUP restarts at once, USR1 gracefully, WINCH stops gracefully. A restart opens the logs
again, so no signal is left for that alone."""


class Restart(Exception):
    """Raised by *reconfigure* when what has changed takes a new program, and why."""


class Waiting:
    """What the master waits for: descriptors, each with what is called when it can be read."""

    def __init__(self) -> None:
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._edges = hasattr(select, "epoll")
        self._poll: Any = select.epoll() if self._edges else select.poll()

    @property
    def has_edges(self) -> bool:
        """Whether :meth:`add` can tell of each new connection, once."""
        return self._edges

    def add(self, fd: int, callback: Callable[[], object], *, edge: bool = False) -> None:
        """Call *callback* when *fd* can be read; with *edge* once for each time that more came."""
        self._callbacks[fd] = callback
        if self._edges:
            self._poll.register(fd, select.EPOLLIN | (select.EPOLLET if edge else 0))
        else:
            self._poll.register(fd, select.POLLIN)

    def remove(self, fd: int) -> None:
        """Forget *fd*."""
        if self._callbacks.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def wait(self, seconds: float) -> None:
        """Wait that long at most, and call what is due."""
        for fd, _ in self._poll.poll(seconds if self._edges else seconds * 1000):
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback()

    def close(self) -> None:
        """Give up the descriptor; in a worker, so that the master's set is not touched."""
        if self._edges:
            self._poll.close()


class Master:
    """Keeps the pools of *services* running.

    *log* is the error log. *reconfigure* gives the configuration and the services of
    a reload, of which those that are as before may be the same objects; what it raises
    (:class:`ConfigurationError`) fails the reload. *ready* is called once, when every pool
    accepts. *reopen* opens the master's own logs again. *hand_over* makes the listening sockets
    live on in another program and returns what that must know of them; *state* is what
    :func:`upgrade.inherited` gave.

    With *signals* None it leaves signals alone, as it must off the main thread, and has no control
    socket: :meth:`ask` tells it what to do, and that a worker has ended it learns from the
    worker's link. It reaps no process but its workers then.
    """

    def __init__(
        self,
        config: Global,
        services: Sequence[Service],
        log: ErrorLog,
        *,
        reconfigure: Callable[[], tuple[Global, Sequence[Service]]] | None = None,
        ready: Callable[[str], None] = lambda how: None,
        reopen: Callable[[], None] = lambda: None,
        notifier: Notifier | None = None,
        signals: Signals | None = PHP_FPM,
        hand_over: Callable[[], dict[str, Any]] = dict,
        state: dict[str, Any] | None = None,
    ) -> None:
        self._config = config
        self._log = log.log
        self._error_log = log
        self._reconfigure = reconfigure or (lambda: (config, services))
        self._ready = ready
        self._reopen = reopen
        self._signals = signals
        self._notifier = notifier or Notifier()
        self._waiting = Waiting()
        self._groups: list[Group] = []
        self._leaving: list[Group] = []
        """Pools that the configuration no longer has."""
        self._wanted: Sequence[Service] = ()
        """What a reload that is being begun brings."""
        self._stopping = ""
        self._status = 0
        self._announced = False
        self._noted: list[int] = []
        self._handlers: dict[int, Any] = {}
        """What signals did before."""
        self._orders: list[str] = []
        """What :meth:`ask` was given."""
        self._wake = -1
        """What is written to it ends the loop's wait; there while the loop runs."""
        self._mute = False
        """A worker's link has ended and the worker may not have been reaped yet."""
        self._next_tick = self._counted_at = time.monotonic()
        self._next_watchdog = self._next_status = 0.0
        self._counted = 0
        self._pending: set[int] = set()
        self._control = Control(self._asked, log.log)
        self._reload_failures: list[str] = []
        self._reloading = False
        self._hand_over = hand_over
        self._program = Program()
        known = {} if state is None else {group["name"]: group for group in state["groups"]}
        alone = sum(not service.hidden for service in services) == 1
        for service in services:
            found = known.pop(service.pool.name, None)
            self._groups.append(self._group(service, alone, found))
        for name, found in known.items():  # pools that the new program's configuration lacks
            self._leaving.append(self._group(Gone(name), False, found))
        if state is not None:
            self._control.adopt(state["asking"], self._waiting)
            self._announced = True
            self._upgraded = True

    _upgraded = False
    """An earlier program's workers serve, and the first thing to do is a reload."""

    def _group(self, service: Service, alone: bool, known: dict[str, Any] | None = None) -> Group:
        group = Group(
            service,
            self._config,
            self._error_log,
            alone=alone,
            forget=self._waiting.remove,
            in_use=self._listeners,
            known=known,
        )
        self._watch_arrivals(group)
        for child in group.children.values():
            self._listen_to(group, child)
        return group

    # -- the loop

    def run(self) -> Worker | int:
        """Run until stopped; return the exit status, or in each forked child its worker."""
        reader, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._signals is not None:
            self._handle_signals(self._signals, self._wake)
        self._waiting.add(reader, partial(_drain, reader))
        if self._signals is not None:
            self._control.open(self._waiting)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, MANAGED)
        if self._upgraded:
            self._take_place()
        try:
            while True:
                self._act_on_orders()
                if self._signals is not None:
                    self._act_on_signals(self._signals)
                self._reap()
                worker = self._act()
                if worker is not None:
                    self._leave_to(worker)
                    self._close_pipe(reader)
                    return worker
                self._settle()
                if self._stopping and not any(g.children for g in self._all()):
                    break
                self._waiting.wait(self._pause())
        except BaseException:
            for group in self._all():
                for child in group.children.values():
                    child.tell("KILL")
            raise
        if self._signals is not None:
            signal.set_wakeup_fd(-1)
        self._control.close()
        self._waiting.close()
        self._close_pipe(reader)
        return self._status

    def _close_pipe(self, reader: int) -> None:
        writer, self._wake = self._wake, -1  # whoever asks from now on writes nowhere
        os.close(reader)
        os.close(writer)

    def ask(self, what: str) -> None:
        """Let the loop do *what*, one of the control socket's orders or ``"renew"``.

        That is: fresh workers take the place of all, and nothing is read again. For any
        thread, and for signal handlers.
        """
        self._orders.append(what)
        try:
            os.write(self._wake, b"x")
        except OSError:
            pass  # it is full, so the loop is awake; or there is none, before and after the loop

    def _act_on_orders(self) -> None:
        while self._orders:
            self._asked(self._orders.pop(0))

    def services(self) -> list[Service]:
        """Return all whose listeners are open: they start, finish or serve."""
        groups = self._all()
        found = [*self._wanted, *(g.next_service for g in groups), *(g.service for g in groups)]
        return list({id(service): service for service in found}.values())

    def _listeners(self) -> list[Any]:
        return [listener for service in self.services() for listener in service.listeners]

    def _all(self) -> list[Group]:
        return [*self._groups, *self._leaving]

    def _leave_to(self, worker: Worker) -> None:
        """In a child: close what is the master's, and other pools'."""
        worker.boards = {group.name: group.board for group in self._all()}
        self._waiting.close()
        self._control.close()
        for group in self._all():
            for child in group.children.values():
                child.close()
            for service in {id(s): s for s in (group.service, group.next_service)}.values():
                if service is not worker.service:
                    service.abandon(worker.service)

    def let_go_of_signals(self) -> None:
        """Let signals do what they did before; after :meth:`run`, when all is cleaned up."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _handle_signals(self, signals: Signals, writer: int) -> None:
        def note(number: int, frame: FrameType | None) -> None:
            self._noted.append(number)

        for number in {signal.SIGCHLD, *(each for group in signals for each in group)}:
            self._handlers[number] = signal.signal(number, note)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def _act_on_signals(self, signals: Signals) -> None:
        noted, self._noted = {*self._noted}, []
        if not noted.isdisjoint(signals.fast):
            self.stop("fast")
        elif not noted.isdisjoint(signals.graceful):
            self.stop("graceful")
        if self._stopping:
            return
        if not noted.isdisjoint(signals.reopen):
            self.reopen_logs()
        if not noted.isdisjoint(signals.restart):
            self.reload(fast=True)
        elif not noted.isdisjoint(signals.reload):
            self.reload()

    def _asked(self, what: str) -> None:
        """Do what somebody asks for over the control socket."""
        if what == "reload":
            self.reload()
        elif what == "upgrade":
            self.upgrade()
        elif what == "reopen":
            self.reopen_logs()
        elif what == "renew":
            self.renew()
        elif what in ("stop", "quit"):
            self.stop("fast" if what == "stop" else "graceful")

    def stop(self, how: str) -> None:
        """Stop, ``"graceful"`` or ``"fast"``; a fast stop overtakes a graceful one."""
        if self._stopping in (how, "fast"):
            return
        self._stopping = how
        self._program.give_up()
        if how == "fast":
            self._log("Terminating ...", "notice")
        else:
            self._log("Finishing ...: workers end after their requests", "notice")
        self._notifier.stopping()

    def reopen_logs(self) -> None:
        """Open the logs by their names again, after somebody rotated them."""
        try:
            self._reopen()
            for group in self._all():
                descriptors = group.reopen()
                for child in group.children.values():
                    child.give(descriptors)
        except ConfigurationError as error:
            self._log(f"the logs cannot be opened again: {error}", "error")
        else:
            self._log("the logs were opened again", "notice")

    # -- reload

    def reload(self, *, fast: bool = False) -> None:
        """Read the configuration again and bring up a new generation of every pool.

        With *fast* the old workers' requests are cut, once the new ones are there.
        """
        if self._stopping:
            self._control.answer("error: the server is stopping")
            return
        if self._program.changed():
            self._log("the program itself was replaced: executing it again", "notice")
            self.upgrade()
            return
        self._reload_failures = []
        self._reloading = True
        self._notifier.reloading()
        self.reopen_logs()
        try:
            config, services = self._reconfigure()
        except Restart as why:
            self._log(f"{why}: executing the program again", "notice")
            self._reloading = False
            self.upgrade()
            return
        except ConfigurationError as error:
            self._log(f"reload failed: {error}; what runs goes on", "error")
            self._reload_failures.append(str(error))
            for group in self._groups:
                group.abandon(str(error))
            return
        self._config = config
        self._wanted = services
        wanted = {service.pool.name: service for service in services}
        for group in list(self._groups):
            service = wanted.pop(group.name, None)
            if service is None:
                group.log("the configuration has it no longer: it finishes")
                self._groups.remove(group)
                self._leaving.append(group)
            else:
                group.reload(service, config, fast=fast)
                self._watch_arrivals(group)
        for service in wanted.values():
            self._groups.append(self._group(service, alone=False))
        self._wanted = ()

    def renew(self) -> None:
        """Bring up a new generation of every pool, of what is there already."""
        for group in self._groups if not self._stopping else ():
            group.reload(group.service, self._config)
            self._watch_arrivals(group)

    # -- another program

    def upgrade(self) -> None:
        """Try the program as it is on the disk now, and become it when it would start."""
        if self._stopping or self._program.trial:
            if self._stopping:
                self._control.answer("error: the server is stopping")
            return
        self._log(f"trying the new program: {' '.join(command())}", "notice")
        self._notifier.reloading()
        try:
            labels = [listener.label for listener in self._listeners()]
            serving = {"labels": labels, "pid": self._config.pid}
            self._program.try_it(self._notifier.environment(), serving)
        except ConfigurationError as error:
            self._upgrade_failed(str(error))

    def _upgrade_failed(self, why: str) -> None:
        self._log(f"upgrade failed: {why}; this program goes on", "error")
        for group in self._groups:
            group.abandon(why)
        self._notifier.ready(self._summary())
        self._control.answer(f"error: {why}")

    def _tried(self, code: int) -> None:
        """The trial has ended."""
        self._program.trial = 0
        if self._stopping:
            return
        if code != 0:
            self._upgrade_failed(f"the new program's trial ended with status {code}")
            return
        descriptors = self._control.asking()
        groups = [describe_group(group, descriptors) for group in self._all()]
        asking = self._control.asking()
        state = {**self._hand_over(), "groups": groups, "asking": asking}
        self._log("executing the new program", "notice")
        try:
            execute(state, descriptors, self._notifier.environment())
        except OSError as error:
            self._upgrade_failed(f"cannot be executed: {error.strerror}")

    def _take_place(self) -> None:
        """Put this program's workers in the place of those that were here before."""
        self._reloading = True
        for group in self._groups:
            if group.children:
                group.reload(group.service, self._config)

    def _settle(self) -> None:
        """See whether a start or a reload has come to its end, and say so."""
        for group in self._leaving[:]:
            if not group.children:
                self._leaving.remove(group)
                group.close()
        for group in self._groups:
            if group.wants_reload:
                group.wants_reload = False
                self.reload()
                break
        if not self._announced:
            self._settle_start()
        if self._reloading and all(g.settled for g in self._groups):
            self._reloading = False
            self._notifier.ready(self._summary())
            failures = self._reload_failures or [
                f"{g.name}: {g.failure}" for g in self._groups if g.failure
            ]
            if failures:
                self._control.answer("error: " + "\n".join(failures))
            else:
                self._control.answer("ok")

    def _settle_start(self) -> None:
        """Say that it serves, once every pool does or cannot; end when none can."""
        groups = [group for group in self._groups if not group.service.hidden]
        if self._stopping or not all(g.announced or g.fatal is not None for g in groups):
            return
        if any(group.announced for group in groups):
            self._announced = True
            self._ready(self._how())
            self._notifier.ready(self._summary())
            return
        for group in groups:
            sys.stderr.write(f"{group.failure}\n")
            self._status = self._status or group.fatal or 1
        self._stopping = "fast"  # the next workers would say the same

    def _how(self) -> str:
        children = [c for g in self._groups for c in g.children.values() if c.how]
        return children[0].how if children else ""

    def _watch_arrivals(self, group: Group) -> None:
        """Let connections to a pool on demand be told of."""
        for service in (group.service, group.next_service):
            if service.pool.pm == ONDEMAND:
                if not self._waiting.has_edges:
                    raise ConfigurationError("pm = ondemand needs epoll, which this system lacks")
                for listener in service.listeners:
                    self._waiting.remove(listener.fd)
                    self._waiting.add(listener.fd, partial(_arrival, group), edge=True)
            else:
                for listener in service.listeners:
                    self._waiting.remove(listener.fd)

    # -- workers

    def _act(self) -> Worker | None:
        now = time.monotonic()
        tick = now >= self._next_tick
        if tick:
            self._each_second(now)
            self._next_tick = max(self._next_tick + _TICK, now + _TICK / 2)
        for group in self._all():
            stopping = self._stopping or ("graceful" if group in self._leaving else "")
            room = 1 << 30
            if self._config.process_max:
                running = sum(len(g.children) for g in self._all())
                room = max(0, self._config.process_max - running)
            before = set(group.children)
            group.look_at_traces(now)
            worker = group.act(now, stopping=stopping, tick=tick, room=room)
            if worker is not None:
                return worker
            for pid in set(group.children) - before:
                self._listen_to(group, group.children[pid])
        return None

    def _listen_to(self, group: Group, child: Child) -> None:
        def heard() -> None:
            if not group.hear(child):
                self._waiting.remove(fd)
                self._mute = self._signals is None

        fd = child.link.fileno()
        self._waiting.add(fd, heard)
        for reader, stream in child.readers:
            output = group.output_of(child, stream)
            child.outputs[reader] = output
            self._waiting.add(reader, partial(self._read_output, child, reader))

    def _read_output(self, child: Child, reader: int) -> None:
        """Take what a worker printed, a bounded part of it each turn."""
        if not child.outputs[reader].read(reader):
            self._close_output(child, reader)

    def _close_output(self, child: Child, reader: int) -> None:
        self._waiting.remove(reader)
        del child.outputs[reader]
        child.readers = [each for each in child.readers if each[0] != reader]
        os.close(reader)

    def _ended(self) -> Iterator[tuple[int, int]]:
        """Yield process id and status of each child that has ended."""
        if self._signals is None:  # other children are other people's
            for pid in [pid for group in self._all() for pid in group.children]:
                try:
                    found, status = os.waitpid(pid, os.WNOHANG)
                except ChildProcessError:  # somebody else has reaped it
                    found, status = pid, 0
                if found:
                    yield found, status
            return
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            yield pid, status

    def _reap(self) -> None:
        for pid, status in self._ended():
            self._mute = False
            group = next((g for g in self._all() if pid in g.children), None)
            if pid == self._program.trial:
                self._tried(os.waitstatus_to_exitcode(status))
                continue
            if group is None:
                self._log(f"reaped process {pid}, which is not a worker", "debug")
                continue
            child = group.children[pid]
            self._waiting.remove(child.link.fileno())
            for reader in list(child.outputs):
                self._drain_output(child, reader)
            group.ended(child, os.waitstatus_to_exitcode(status), stopping=bool(self._stopping))
        self._look_for_emergency()

    def _drain_output(self, child: Child, reader: int) -> None:
        """Take the last words of a worker that has ended; a child of it may hold the pipe open."""
        for _ in range(_DRAIN):
            if reader in child.outputs:
                self._read_output(child, reader)
        if reader in child.outputs:
            child.outputs[reader].close()
            self._close_output(child, reader)

    def _look_for_emergency(self) -> None:
        """Reload when too many workers crashed within a time (emergency_restart_threshold)."""
        threshold = self._config.emergency_restart_threshold
        since = time.monotonic() - self._config.emergency_restart_interval
        crashes = sorted(moment for g in self._groups for moment in g.crashes if moment >= since)
        for group in self._groups:
            group.crashes = [moment for moment in group.crashes if moment >= since]
        if threshold and len(crashes) >= threshold and not self._stopping:
            self._log(f"{len(crashes)} workers crashed: emergency restart", "warning")
            for group in self._groups:
                group.crashes.clear()
            self.reload()

    def _each_second(self, now: float) -> None:
        """What is looked at once a second: socket files, what workers print, systemd."""
        pending = set()
        for group in self._all():
            for child in group.children.values():
                for reader, output in child.outputs.items():
                    if output.pending and reader in self._pending:
                        output.flush()  # a line whose end does not come, such as a prompt
                    elif output.pending:
                        pending.add(reader)
        self._pending = pending
        for group in self._groups:
            if not self._stopping and not group.reloading:
                try:
                    if group.lost_sockets():
                        group.reload(group.service, self._config)
                        self._watch_arrivals(group)
                except ConfigurationError as error:
                    group.log(f"{error}", "error")
        if self._program.late(now):
            self._log("the new program's trial takes too long: KILL", "warning")
        if now >= self._next_watchdog:
            self._notifier.watchdog()
            self._next_watchdog = now + (self._notifier.watchdog_interval or 1e9)
        if self._config.systemd_interval and now >= self._next_status:
            self._notifier.status(self._summary())
            self._next_status = now + self._config.systemd_interval

    def _summary(self) -> str:
        """Return php-fpm's status line for systemd."""
        children = [c for g in self._groups for c in g.children.values()]
        active = sum(c.slot.active() > 0 for c in children)
        heads = [group.board.head for group in self._groups]
        requests = sum(h.accepted for h in heads) + sum(c.slot.begun() for c in children)
        now = time.monotonic()
        rate = (requests - self._counted) / max(0.001, now - self._counted_at)
        self._counted, self._counted_at = requests, now
        return (
            f"Processes active: {active}, idle: {len(children) - active}, Requests: {requests},"
            f" slow: {sum(h.slow for h in heads)}, Traffic: {max(0.0, rate):.2f}req/sec"
        )

    def _pause(self) -> float:
        """Return how long nothing can be due, in seconds."""
        left = self._next_tick - time.monotonic()
        for group in self._all():
            told = any(child.told for child in group.children.values())
            if group.failures or group.tracing or told or self._mute:
                left = min(left, _QUICK)
            limits = (group.settings.request_timeout, group.settings.slow_after)
            shortest = min((limit for limit in limits if limit), default=0.0)
            if shortest:
                left = min(left, max(0.13, shortest / 3))
        return max(0.0, left)


def _arrival(group: Group) -> None:
    group.arrivals += 1


def _drain(reader: int) -> None:
    try:
        while os.read(reader, 4096):
            pass
    except BlockingIOError:
        pass
