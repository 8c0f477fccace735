"""Runs the host with a configuration, as a real process tree on a loopback port."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving import until

_MPM = {
    "prefork": "StartServers 1\nMinSpareServers 1\nMaxSpareServers 2\nMaxRequestWorkers 2\n",
    "worker": "StartServers 1\nThreadsPerChild 4\nMinSpareThreads 4\nMaxSpareThreads 4\n"
    "MaxRequestWorkers 4\n",
    "event": "StartServers 1\nThreadsPerChild 4\nMinSpareThreads 4\nMaxSpareThreads 4\n"
    "MaxRequestWorkers 4\n",
}


class Hosted:
    """A running host."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, port: int) -> None:
        self.process = process
        self.folder = folder
        self.port = port
        self.address = ("127.0.0.1", port)

    @property
    def log(self) -> str:
        """What it said on standard error, which is the error log unless ErrorLog is given."""
        return (self.folder / "stderr.log").read_text(errors="replace")

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection to it."""
        return http.client.HTTPConnection(*self.address, timeout=20)

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> http.client.HTTPResponse:
        """Return the answer to a request on a connection of its own; ``.body`` is all of it."""
        connection = self.connect()
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            answer.body = answer.read()  # type: ignore[attr-defined]
            return answer
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Any:
        """The same for GET; the names of *headers* have ``_`` for ``-``."""
        return self.request(
            "GET", path, headers={name.replace("_", "-"): text for name, text in headers.items()}
        )

    def workers(self) -> list[int]:
        """Return the pids of its children."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]


def free_port() -> int:
    """Return a TCP port of loopback that nobody uses now."""
    with socket.socket() as probing:
        probing.bind(("127.0.0.1", 0))
        port: int = probing.getsockname()[1]
        return port


def write_configuration(folder: Path, text: str, mpm: str, port: int) -> Path:
    """Write an httpd.conf of *text*, listening on *port*; return its path."""
    path = folder / "httpd.conf"
    path.write_text(
        f"ServerRoot {folder}\nServerName localhost\nListen 127.0.0.1:{port}\n"
        f"LoadModule mpm_{mpm}_module mod_mpm_{mpm}\n{_MPM[mpm]}{text}\n"
    )
    return path


@contextmanager
def hosting(
    folder: Path,
    text: str,
    mpm: str = "prefork",
    *options: str,
    ready: bool = True,
    path: Path | None = None,
) -> Iterator[Hosted]:
    """Run the host with the configuration *text* in *folder*; *path* is where apps are."""
    port = free_port()
    file = write_configuration(folder, text, mpm, port)
    here = Path(__file__).parent
    environ = {**os.environ, "PYTHONPATH": f"{path or folder}:{here}"}
    with (folder / "stderr.log").open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "sapi_adapters", "-f", str(file), *options],
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            env=environ,
            cwd=folder,
        )
    hosted = Hosted(process, folder, port)
    try:
        if ready:
            until(
                lambda: "ready to handle" in hosted.log or process.poll() is not None,
                what="the start-up",
            )
            assert process.poll() is None, hosted.log
        yield hosted
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                for pid in hosted.workers():
                    os.kill(pid, signal.SIGKILL)
                process.kill()
                process.wait(10)
                raise AssertionError("the host did not end after TERM") from None
