"""The two sides: the same program started on flup 1.0.3 and on its replacement."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import beside_wire as wire
from beside_cases import CGI, SERVERS, Case, Server

FLUP, SHIM = "flup", "shim"
SIDES = (FLUP, SHIM)


def place_flup(directory: Path) -> str | None:
    """Give flup 1.0.3, if it is installed and whole, a directory of its own.

    A package that only has its name, or that was installed over it, is none.
    """
    try:
        distribution = importlib.metadata.distribution("flup")
    except importlib.metadata.PackageNotFoundError:
        return None
    if distribution.version != "1.0.3":
        return None
    for file in distribution.files or ():
        if file.suffix == ".py" and file.hash is not None:
            digest = hashlib.sha256(file.read_binary()).digest()
            if base64.urlsafe_b64encode(digest).decode().rstrip("=") != file.hash.value:
                return None
    directory.mkdir()
    (directory / "flup").symlink_to(Path(str(distribution.locate_file("flup"))))
    return str(directory)


class Program:
    """A program on one side, started; ends with :meth:`end`."""

    def __init__(
        self,
        which: str,
        server: Server,
        directory: Path,
        *,
        stdin: Any = subprocess.DEVNULL,
        address: Any = None,
        umask: int = -1,
    ) -> None:
        directory.mkdir(parents=True)
        self.result = directory / "result"
        self.log = directory / "stderr"
        self.reserved: socket.socket | None = None
        self.address: Any = address or str(directory / "s")
        if server.tcp and address is None:
            # Held but not listened to, so that nobody else is given the port meanwhile.
            self.reserved = socket.socket()
            self.reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.reserved.bind(("127.0.0.1", 0))
            self.address = self.reserved.getsockname()
        unix = isinstance(self.address, str)
        where = self.address if unix else f"{self.address[0]}:{self.address[1]}"
        if stdin is not subprocess.DEVNULL:
            where = "-"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    str(wire.PROGRAM),
                    which,
                    server.module,
                    where,
                    str(self.result),
                    json.dumps(server.options),
                ],
                stdin=stdin,
                stdout=log,
                stderr=log,
                env={**os.environ, **server.environment},
                start_new_session=True,
                umask=umask,
            )

    @property
    def text(self) -> str:
        """What it wrote so far."""
        return self.log.read_text(errors="replace")

    def ready(self) -> None:
        """Wait until it can be connected to."""

        def connected() -> bool:
            assert self.process.poll() is None, self.text
            family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
            with socket.socket(family) as probe:
                return probe.connect_ex(self.address) == 0

        wire.until(connected, "the start-up")

    def ended(self) -> str | None:
        """Return what ``run()`` did and the exit status, once it has ended."""
        if self.process.poll() is None:
            return None
        said = self.result.read_text() if self.result.exists() else "nothing"
        return f"{said}, exit {self.process.returncode}"

    def end(self) -> None:
        """End it, with its children."""
        children = self.children()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if self.reserved is not None:
            self.reserved.close()

    def children(self) -> list[int]:
        """Return the pids of its children."""
        try:
            path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
            return [int(pid) for pid in path.read_text().split()]
        except OSError:
            return []


class Both:
    """The programs of both sides, started when first asked for."""

    def __init__(self, flup: str, directory: Path) -> None:
        self.which = {FLUP: flup, SHIM: "shim"}
        self.directory = directory
        self.programs: dict[tuple[str, str], Program] = {}
        self.count = itertools.count(1)

    def fresh(self) -> Path:
        """Return a new directory."""
        return self.directory / str(next(self.count))

    def start(self, side: str, server: Server, **options: Any) -> Program:
        """Start a program; whoever asked ends it."""
        return Program(self.which[side], server, self.fresh(), **options)

    def program(self, side: str, name: str) -> Program:
        """Return the program of the server *name*, the same one for all that ask."""
        found = self.programs.get((side, name))
        if found is None:
            found = self.programs[side, name] = self.start(side, SERVERS[name])
            found.ready()
        return found

    def ask(self, side: str, case: Case) -> wire.Seen:
        """Make the request of *case* to one side."""
        if case.server == CGI:
            directory = self.fresh()
            directory.mkdir()
            return wire.cgi(
                self.which[side],
                "fcgi",
                directory / "result",
                json.dumps({"forceCGI": True}),
                case.app,
                case.body,
                **case.options,
            )
        call: Any = {"fcgi": wire.fastcgi, "scgi": wire.scgi, "ajp": wire.ajp}[
            SERVERS[case.server].protocol
        ]
        seen: wire.Seen = call(
            self.program(side, case.server).address, case.app, case.body, **case.options
        )
        return seen

    def close(self) -> None:
        """End all programs."""
        for program in self.programs.values():
            program.end()
