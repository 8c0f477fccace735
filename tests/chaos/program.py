"""Runs a master with a configuration file, from a copy of the package that tests may change."""

from __future__ import annotations

import compileall
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastcgi_client import fetch
from serving import until

import sapi_adapters
from sapi_adapters.manager.control import ask

_HERE = Path(__file__).parent
_CHANGING = "from apps import make\nwsgi, asgi = make({version!r})\n"


class Program:
    """A master, its configuration file and the module ``changing`` that its pools serve.

    The pools are *pools*: a name and its directives, beside the usual ones.
    """

    def __init__(self, folder: Path, pools: dict[str, dict[str, str]], **directives: str) -> None:
        self.folder = folder
        self.package = folder / "program" / "sapi_adapters"
        self.site = folder / "site"
        self.file = folder / "file.conf"
        self.log = folder / "error.log"
        self.pid_file = folder / "master.pid"
        self.directives = directives
        self.pools = pools
        self.process: subprocess.Popen[bytes]
        shutil.copytree(Path(sapi_adapters.__file__).parent, self.package)
        compileall.compile_dir(self.package, quiet=2)
        self.site.mkdir()
        shutil.copy(_HERE / "apps.py", self.site)
        self.environment = {
            **os.environ,
            "PYTHONPATH": f"{self.package.parent}:{self.site}",
            # Versions of a module come within one second, and have one size.
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.code("first")
        self.configure()

    def configure(self, **changes: str) -> None:
        """Write the file; *changes* are for the section [global]."""
        self.directives.update(changes)
        lines = [
            "[global]",
            f"pid = {self.pid_file}",
            f"error_log = {self.directives.get('error_log', self.log)}",
            *(f"{name} = {value}" for name, value in self.directives.items()),
        ]
        for name, directives in self.pools.items():
            usual = {
                "app": "changing:wsgi",
                "listen": self.address(name),
                "pm": "static",
                "pm.max_children": "2",
                "pm.status_path": "/status",
            }
            merged = {**usual, **directives}
            lines += [f"[{name}]", *(f"{key} = {value}" for key, value in merged.items())]
        self.file.write_text("\n".join(lines) + "\n")

    def code(self, version: str = "", source: str = "") -> None:
        """Let the module answer with *version*, or be *source*."""
        part = self.site / "changing.part"
        part.write_text(source or _CHANGING.format(version=version))
        part.rename(self.site / "changing.py")

    def change(self, file: str, old: str, new: str) -> None:
        """Put *new* in the place of *old* in a file of the package."""
        path = self.package / file
        source = path.read_text()
        assert old in source, f"{file} has no {old!r}"
        path.write_text(source.replace(old, new))

    def address(self, pool: str) -> str:
        """Return where a pool listens, unless its directives say something else."""
        return str(self.folder / f"{pool}.sock")

    # -- the running program

    @property
    def pid(self) -> int:
        """The master's."""
        return self.process.pid

    @property
    def text(self) -> str:
        """What is in the log so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def ask(self, order: str) -> str:
        """Tell the master *order*, as ``--signal`` does; return its answer."""
        return ask(self.pid, order, 60)

    def tell(self, order: str) -> subprocess.CompletedProcess[str]:
        """Run ``serve --signal`` itself."""
        return subprocess.run(
            [sys.executable, "-m", "sapi_adapters", "--signal", order, "--pid", self.pid_file],
            env={**self.environment, "PYTHONPATH": str(Path(sapi_adapters.__file__).parents[1])},
            cwd=self.folder,
            text=True,
            capture_output=True,
            timeout=90,
        )

    def signal(self, number: int) -> None:
        """Send the master a signal."""
        self.process.send_signal(number)

    def status(self, pool: str = "www") -> dict[str, Any]:
        """Return a pool's status page; with a pm.status_listen that is no request of the pool."""
        directives = self.pools[pool]
        address = directives.get("pm.status_listen") or directives.get("listen")
        found = fetch(
            address or self.address(pool),
            SCRIPT_NAME="/status",
            PATH_INFO="",
            QUERY_STRING="json&full",
        )
        assert found.ended is not None and found.status == 200, (found, self.text[-4000:])
        page: dict[str, Any] = json.loads(found.body)
        return page

    def workers(self, pool: str = "www") -> list[dict[str, Any]]:
        """Return the serving generation's workers as the status page has them."""
        page = self.status(pool)
        return [row for row in page["processes"] if row["generation"] == page["generation"]]

    def children(self) -> list[int]:
        """Return the pids of the master's children."""
        path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def descriptors(self) -> list[str]:
        """Return what the master has open, without what differs between two of a kind."""
        found = []
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                found.append(os.readlink(link).partition("[")[0].partition(":")[0])
            except FileNotFoundError:
                pass
        return sorted(found)

    def resident(self) -> int:
        """Return the master's resident bytes."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def quiet(self) -> bool:
        """Tell whether nobody leaves or starts: as many children as workers that serve."""
        ready = sum(len(self.workers(pool)) for pool in self.pools)
        return ready == len(self.children())

    def settle(self) -> None:
        """Wait until that is so."""
        until(self.quiet, 40, "workers that leave have left")


@contextmanager
def running(
    program: Program,
    *options: str,
    wrapper: Sequence[str] = (),
    ready: bool = True,
    **keywords: Any,
) -> Iterator[Program]:
    """Run *program*, as an argument of *wrapper*; wait until it is ready, and end it."""
    keywords.setdefault("stdin", subprocess.DEVNULL)
    output = program.folder / "output"
    with output.open("wb") as file:
        keywords.setdefault("stdout", file)
        keywords.setdefault("stderr", file)
        command = [sys.executable, "-m", "sapi_adapters", "-R", "--config", str(program.file)]
        process = program.process = subprocess.Popen(
            [*wrapper, *command, *options],
            env=program.environment,
            cwd=program.folder,
            **keywords,
        )
    try:
        if ready:
            until(
                lambda: "ready to handle" in program.text or process.poll() is not None,
                what="the start-up",
            )
            assert process.poll() is None, program.text + output.read_text()
        yield program
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a master and what it left."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            process.kill()
            process.wait(10)
            for pid in children.split():
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    pass
            raise AssertionError("the master did not end after TERM") from None
