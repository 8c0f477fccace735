"""The pool of running servers: a front end or an application is started when a test first asks.

All stay up until the session ends; then they are ended in the opposite order.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fronts import APPS, BACKENDS, HERE, PYTHONPATH, ROOT, SERVERS, Front, Site, find, script_text
from httpclient import sender
from processes import Address, Process, StartError, hold_port

from sapi_adapters.testing import Send

Made = TypeVar("Made")


class MissingServer(Exception):
    """A web server is not installed; the message holds the line that installs it."""


def require(server: str) -> str:
    """The path of a server's program; raises MissingServer."""
    program = find(server)
    if program is None:
        _, packages = SERVERS[server]
        raise MissingServer(f"{server} is missing: apt install {packages}")
    return program


def environment() -> dict[str, str]:
    """The environment of a server that we start ourselves."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR")
    values = {name: os.environ[name] for name in kept if name in os.environ}
    return {**values, "PYTHONPATH": PYTHONPATH}


@dataclass(frozen=True)
class Deployed:
    """One application behind one running front end."""

    front: Front
    site: Site
    send: Send
    processes: tuple[Process, ...]

    @property
    def mount(self) -> str:
        return self.front.mount_of(self.site)


class Deployments:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.addresses: dict[tuple[str, str], Address] = {}
        self.started: dict[object, Process | Exception] = {}
        self.sites: dict[str, dict[str, Site]] = {}
        self.scripts = directory / "scripts"
        self.scripts.mkdir()
        # What a front end may send by itself, where --sendfile allows it.
        self.files = directory / "files"
        self.files.mkdir()
        for app in APPS:
            self._write_script(app)

    def _write_script(self, app: str) -> None:
        path = self.script(app)
        path.write_text(script_text(app))
        path.chmod(0o755)

    def script(self, app: str) -> Path:
        # The dash keeps the name from being imported: "flask.py" beside the script would be.
        return self.scripts / f"serve-{app}.py"

    def _once(self, key: object, start: Callable[[], Process]) -> Process:
        """Start a process once; a failed start and a death stay what they are."""
        if key not in self.started:
            try:
                self.started[key] = start()
            except (StartError, TimeoutError, OSError) as error:
                self.started[key] = error
        process = self.started[key]
        if isinstance(process, Exception):
            raise StartError(str(process))
        if process.popen.poll() is not None:
            raise StartError(f"{key} died during the tests\n{process.log_text()}")
        return process

    # -- applications

    def _address(self, backend: str, app: str) -> Address:
        key = (backend, app)
        if key not in self.addresses:
            if backend.endswith("tcp"):
                self.addresses[key] = ("127.0.0.1", hold_port())
            else:
                self.addresses[key] = str(self.directory / f"{backend}-{app}.sock")
        return self.addresses[key]

    def backend(self, backend: str, app: str) -> Process:
        """The running application `app`, served as BACKENDS says."""
        return self._once((backend, app), lambda: self._start_backend(backend, app))

    def _start_backend(self, backend: str, app: str) -> Process:
        address = self._address(backend, app)
        log = self.directory / f"{backend}-{app}.log"
        if backend == "spawn-fcgi":
            assert isinstance(address, str)
            command = [require("spawn-fcgi"), "-n", "-s", address, "-M", "0660", "--"]
            command.append(str(self.script(app)))
        else:
            options = [option.replace("{files}", str(self.files)) for option in BACKENDS[backend]]
            command = [sys.executable, "-m", "sapi_adapters", APPS[app], *options]
            if isinstance(address, str):
                command += ["--socket", address]
            else:
                command += ["--bind", "{}:{}".format(*address)]
        return self.start(command, log, address)

    def start(self, command: list[str], log: Path, *addresses: Address) -> Process:
        """Start a server of the test's own; it is ended with the others."""
        process = Process(command, log, environment=environment(), cwd=self.directory)
        try:
            process.wait_for(*addresses)
        except BaseException:
            process.stop()
            raise
        return process

    def address(self, backend: str, app: str) -> Address:
        """Where the application listens, once it runs."""
        self.backend(backend, app)
        return self._address(backend, app)

    # -- front ends

    def _start_front(self, front: Front) -> Process:
        require(front.server)
        directory = self.directory / front.name
        directory.mkdir()
        directory.chmod(0o770)
        sites = {}
        for app in APPS:
            backend = None if front.backend is None else self._address(front.backend, app)
            sites[app] = Site(app, hold_port(), self.script(app), backend)
        command = front.configure(front, directory, list(sites.values()))
        process = Process(
            command,
            directory / "output.log",
            environment=environment(),
            cwd=directory,
            more_logs=[directory / "error.log", directory / "breakage.log"],
        )
        try:
            process.wait_for(*(("127.0.0.1", site.port) for site in sites.values()))
        except BaseException:
            process.stop()
            raise
        self.sites[front.name] = sites
        return process

    def deployed(self, front: Front, app: str) -> Deployed:
        """`app` behind `front`, both running; raises MissingServer or StartError."""
        require(front.server)
        processes = []
        if front.backend is not None:
            if front.backend == "spawn-fcgi":
                require("spawn-fcgi")
            processes.append(self.backend(front.backend, app))
        processes.append(self._once(front.name, lambda: self._start_front(front)))
        site = self.sites[front.name][app]
        return Deployed(front, site, sender(site.port), tuple(processes))

    def stop(self) -> None:
        for process in reversed(list(self.started.values())):
            if isinstance(process, Process):
                process.stop()


__all__ = ["HERE", "ROOT", "Deployed", "Deployments", "MissingServer", "environment", "require"]
