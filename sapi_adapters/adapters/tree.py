"""The process tree: a master over one or more pools, or a single process without a master.

What the command line says and what a configuration file says meet here: both are a
:class:`~sapi_adapters.manager.config.Global` and SAPIs with their pools.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from ..manager.children import BROKEN, Terminated, Worker
from ..manager.daemon import daemonize, remove_pid, write_pid
from ..manager.log import ErrorLog
from ..manager.master import Master, Restart
from ..manager.privileges import confine
from ..manager.rules import check
from ..manager.systemd import Notifier
from ..manager.upgrade import TRIAL, inherited
from ..sapi import ConfigurationError
from ..servers.listener import from_systemd, hand_over, restore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..manager.config import Global
    from ..servers.listener import Listener
    from .server import ServerSapi

    Reconfigure = Callable[[], tuple[Global, Sequence["ServerSapi"]]]


_FOR_A_START = (
    "pid",
    "error_log",
    "syslog_ident",
    "syslog_facility",
    "log_level",
    "log_limit",
    "process_priority",
    "rlimit_files",
    "rlimit_core",
)
"""Of the global settings, those that a master takes when it starts."""


def run_pools(
    config: Global, sapis: Sequence[ServerSapi], reconfigure: Reconfigure | None = None
) -> int:
    """Serve every pool until a signal ends it; return the exit status.

    In a forked worker this never returns. *reconfigure* reads the configuration anew for a
    reload. Raises :class:`ConfigurationError` before anything is served.
    """
    if reconfigure is None:  # a file was checked; flags may make root serve, as containers do
        check(config, root=os.geteuid() == 0, allow_root=True)
    fill_standard_descriptors()
    if TRIAL in os.environ:
        _try(config, sapis, json.loads(os.environ.pop(TRIAL)))
        return 0  # it would start, which is all that was asked
    state = inherited()
    # An earlier program of this process is in the background already.
    before = os.getcwd()
    report = daemonize() if config.daemonize and state is None else None
    if reconfigure is None:  # flags mean paths from here, and so may the application
        os.chdir(before)
    try:
        return _Tree(config, sapis, reconfigure, report, state).run()
    except ConfigurationError as error:
        if report is None:
            raise
        report(2, f"serve: {error}\n")
        return 2


class _Held:
    """Stands for a listener that the program has which is to be replaced."""

    family = socket.AF_UNIX
    allows = allowed = None

    def lost(self) -> bool:
        """It is taken over."""
        return False


def _try(config: Global, sapis: Sequence[ServerSapi], serving: dict[str, Any]) -> None:
    """Start, as far as that can be done beside a program that serves; close it all again.

    *serving* is what :data:`TRIAL` says of that. Raises :class:`ConfigurationError`.
    """
    _confine(config)
    held: dict[str, Any] = {label: _Held() for label in serving["labels"]}
    everyone = _with_twins(sapis)
    try:
        for sapi in everyone:
            sapi.inherit(held)
            sapi.startup()
    finally:
        for sapi in everyone:
            sapi.retire(held.values())
    if config.pid not in (None, serving["pid"]):
        write_pid(config.pid)
        remove_pid(config.pid)
    _open_log(config)


def _confine(config: Global) -> None:
    confine(
        rlimit_files=config.rlimit_files,
        rlimit_core=config.rlimit_core,
        priority=config.process_priority,
    )


class _Tree:
    """One run of :func:`run_pools`."""

    def __init__(
        self,
        config: Global,
        sapis: Sequence[ServerSapi],
        reconfigure: Reconfigure | None,
        report: Callable[[int, str], None] | None,
        state: dict[str, Any] | None,
    ) -> None:
        self._config = config
        self._sapis = _with_twins(sapis)
        self._first = sapis[0]
        self._read_again = reconfigure
        self._report = report
        self._log = _open_log(config)
        self._notifier = Notifier()
        self._started = False
        self._state = state
        self._running: Master | None = None

    def run(self) -> int:
        """Open everything and serve."""
        outcome: Worker | int = 1
        pid = self._config.pid
        written = False
        try:
            self._start()
            if pid is not None:
                write_pid(pid)
                written = True
            before = None if self._state is None else self._state["pid"]
            if before not in (None, pid):
                with suppress(FileNotFoundError):  # somebody has tidied up
                    os.unlink(before)
            # Who wrote a file reloads it, also one with a single worker.
            from_file = self._read_again is not None
            if from_file or len(self._sapis) > 1 or self._first.needs_master():
                self._running = self._master()
                outcome = self._running.run()
            else:
                status = self._first.work(Worker())
                outcome = 1 if status == BROKEN else status
        except Terminated:
            outcome = 0
        finally:
            if not isinstance(outcome, Worker):
                if written and pid is not None:
                    remove_pid(pid)
                for sapi in self._serving():
                    sapi.retire(())
                if self._started:
                    self._first.module_shutdown()
                if self._running is not None:
                    self._running.let_go_of_signals()
        return self._be(outcome) if isinstance(outcome, Worker) else outcome

    def _start(self) -> None:
        """Open sockets and logs, and run module start-up, once for the whole tree."""
        _confine(self._config)
        handed = [] if self._state is None else restore(self._state["sockets"])
        if self._read_again is not None:
            handed += self._from_systemd()
        known = {listener.label: listener for listener in handed}
        for sapi in self._sapis:
            sapi.log = self._log
            sapi.inherit(known)
            if sapi is self._first:
                sapi.module_startup()
                self._started = True
            else:
                sapi.startup()
        used = [listener for sapi in self._sapis for listener in sapi.listeners]
        for listener in handed:
            if listener not in used:
                listener.close()
        for warning in self._config.warnings:
            self._log.log(warning, "warning")

    def _from_systemd(self) -> list[Listener]:
        """Return the sockets that systemd holds for the pools of a file, each with its address."""
        given = from_systemd()
        addresses = [sapi.pool.listen for sapi in self._sapis if sapi.pool.listen is not None]
        for listener in given:
            found = [address for address in addresses if listener.listens_on(address)]
            if found:
                listener.label = found[0]
            else:
                self._log.log(f"no pool listens on systemd's {listener.describe()}", "warning")
        return given

    def _be(self, worker: Worker) -> NoReturn:
        """Be *worker*, to its end."""
        sapi: ServerSapi = worker.service
        sapi.take_process(self._first)
        try:
            status = sapi.work(worker)
        except Terminated:
            status = 0
        except BaseException:
            sapi.log_exception("internal: a worker ends")
            status = 1
        sapi.module_shutdown()
        worker.exit(status)

    # -- what the master calls

    def _master(self) -> Master:
        return Master(
            self._config,
            self._sapis,
            self._log,
            reconfigure=self._reconfigure if self._read_again is not None else None,
            ready=self._ready,
            reopen=self._reopen,
            notifier=self._notifier,
            signals=self._first.signals,
            hand_over=self._hand_over,
            state=self._state,
        )

    def _serving(self) -> Sequence[Any]:
        """Return every SAPI whose listeners are open. The last reload's may not be among them."""
        return self._sapis if self._running is None else self._running.services()

    def _listeners(self) -> list[Listener]:
        found = {id(each): each for sapi in self._serving() for each in sapi.listeners}
        return list(found.values())

    def _hand_over(self) -> dict[str, Any]:
        return {"sockets": hand_over(self._listeners()), "pid": self._config.pid}

    def _ready(self, how: str) -> None:
        if self._read_again is None:
            self._first.announce(how)
        else:
            pools = sum(not sapi.hidden for sapi in self._sapis)
            self._log.log(
                f"serving {pools} pool{'s' if pools != 1 else ''}, pid {os.getpid()}", "notice"
            )
        self._log.log("ready to handle connections", "notice")
        if self._report is not None:
            self._report(0, "")
            self._report = None
            if self._config.error_log is None:
                self._log.reopen()  # standard error has been let go of

    def _reopen(self) -> None:
        if self._config.error_log not in (None, "syslog"):
            self._log.reopen()
            os.dup2(self._log.fileno(), 2)

    def _reconfigure(self) -> tuple[Global, Sequence[ServerSapi]]:
        """Read the configuration, and open what it names and nobody has open yet."""
        assert self._read_again is not None  # noqa: S101 - it is not called without
        config, wanted = self._read_again()
        for name in _FOR_A_START:
            if getattr(config, name) != getattr(self._config, name):
                raise Restart(f"{name} has changed")
        current = {each.label: each for each in self._listeners()}
        sapis = _with_twins(wanted)
        try:
            for sapi in sapis:
                sapi.log = self._log
                sapi.inherit(current)
                sapi.startup()
        except ConfigurationError:
            for sapi in sapis:
                sapi.retire(current.values())
            raise
        self._sapis = sapis
        return config, sapis


def fill_standard_descriptors() -> None:
    """Put /dev/null where descriptor 0, 1 or 2 is closed: no socket and no log may get these."""
    null = os.open(os.devnull, os.O_RDWR)
    while null <= 2:
        os.set_inheritable(null, True)
        null = os.dup(null)
    os.close(null)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - it stays
    if sys.stderr is None:
        sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115 - it stays


def _with_twins(sapis: Sequence[ServerSapi]) -> list[ServerSapi]:
    """Return *sapis* and the pools that answer for their status."""
    twins = (sapi.status_twin() for sapi in sapis)
    return [*sapis, *(twin for twin in twins if twin is not None)]


def _open_log(config: Global) -> ErrorLog:
    """Open the error log; standard error goes there, too."""
    log = ErrorLog(
        config.error_log,
        config.log_level,
        syslog_ident=config.syslog_ident,
        syslog_facility=config.syslog_facility,
        limit=config.log_limit,
    )
    if config.error_log not in (None, "syslog"):
        sys.stderr.flush()
        os.dup2(log.fileno(), 2)
    return log
