"""The demonstration under the host, and the host's own pages, in a real browser."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from httpd.hosting import free_port
from manager.test_status_page_in_a_browser import browse
from serving import until

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "demo" / "httpd.conf"
HOSTILE = "/?<img src=x onerror=\"document.title='owned'\">"


class Demo:
    """The running demonstration."""

    def __init__(self, port: int, log: Path) -> None:
        self.port = port
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def ask(self, target: str) -> None:
        """Send a request for *target* as it is, which no library does."""
        raw = target.replace(" ", "%20").replace('"', "%22").encode()
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as wire:
            wire.sendall(b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % raw)
            while wire.recv(65536):
                pass


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    port = free_port()
    log = tmp_path_factory.mktemp("demo") / "log"
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "sapi_adapters", "--define", f"PORT={port}", "-f", str(DEMO)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**kept, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    running = Demo(port, log)
    try:
        until(
            lambda: "ready to handle" in running.log or process.poll() is not None,
            30,
            "the demonstration",
        )
        assert process.poll() is None, running.log
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, running.log


@pytest.mark.parametrize(("path", "interface"), [("/", "WSGI"), ("/asgi/", "ASGI")])
def test_the_demonstration(demo: Demo, tmp_path: Path, path: str, interface: str) -> None:
    page, console = browse(tmp_path, demo.url(path))
    assert console == ""
    assert "Served under <code>mod</code>" in page
    assert f"an ordinary {interface} application" in page
    assert "request" in page and "<h2>Life cycle</h2>" in page
    links = dict(re.findall(r'<a href="([^"]+)" class="host">(\w+)</a>', page))
    assert links == {
        "/asgi/": "ASGI",
        "/": "WSGI",
        "/server-status": "Status",
        "/server-info": "Info",
    }
    assert page.count('aria-current="page"') == 1


def test_the_status_page_follows_the_host(demo: Demo, tmp_path: Path) -> None:
    demo.ask(HOSTILE)
    page, console = browse(tmp_path, demo.url("/server-status"))
    assert console == ""
    assert demo.log.count("GET /server-status?json ") >= 4
    assert re.search(r'<p id="live" class="">\d\d:\d\d:\d\d</p>', page)
    tiles = re.findall(r'<div class="card tile"><h2>(.*?)</h2><strong>(.*?)</strong>', page)
    assert [name for name, _ in tiles][:3] == ["Busy", "Processes", "Requests / s"]
    assert re.fullmatch(r"[\d.,]+", dict(tiles)["Requests / s"])
    assert page.count("<svg ") == 2 and page.count("<path ") == 4
    assert "<h2>Load per worker</h2>" in page
    workers = re.findall(r'<tr(?: class="idle")?><td class="number">(\d+)</td>', page)
    assert len(workers) >= 2
    assert '<span class="W" title="at work">W</span>' in page
    assert "<h2>Demonstration</h2>" in page and "<li>mod_demo</li>" in page
    assert "<title>localhost · server status</title>" in page and "<img" not in page


def test_the_info_page(demo: Demo, tmp_path: Path) -> None:
    page, console = browse(tmp_path, demo.url("/server-info"))
    assert console == ""
    assert "<script" not in page
    for title in ("Server settings", "mod_demo", "Life cycle", "Environment of the process"):
        assert f"<h2>{title}</h2>" in page
    assert "lifecycle:lifecycle" in page


def test_streaming_and_errors(demo: Demo, tmp_path: Path) -> None:
    page, console = browse(tmp_path / "stream", demo.url("/stream"))
    assert console == "" and page.count('<div class="bar"') == 12
    page, _ = browse(tmp_path / "error", demo.url("/error"))
    assert "Internal Server Error" in page
