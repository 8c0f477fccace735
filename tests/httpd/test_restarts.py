"""Signals of the host, as httpd's: restarts under load lose nothing, and stops are graceful."""

from __future__ import annotations

import http.client
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from httpd.hosting import Hosted, hosting
from serving import until

pytestmark = pytest.mark.slow

CONFIGURATION = """
LoadModule sapi_module sapi_adapters.adapters.mod_sapi
KeepAliveTimeout 30
<Location />
    SetHandler sapi-script
    SapiApp restarted:{app}
</Location>
"""
APP = """
import asyncio, os, time
VERSION = {version!r}
def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        time.sleep(1)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [VERSION.encode()]
async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({{"type": "lifespan.startup.complete"}})
        await send({{"type": "lifespan.shutdown.complete"}})
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(1)
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": VERSION.encode()}})
"""
WAYS = [("prefork", "wsgi"), ("worker", "wsgi"), ("event", "asgi")]


class Load:
    """Threads that ask without pause: on kept connections, and on one for each request."""

    def __init__(self, hosted: Hosted, threads: int = 4) -> None:
        self._hosted = hosted
        self.failures: list[str] = []
        self.answers: list[str] = []
        self._over = False
        self._threads = [
            threading.Thread(target=self._ask, args=(number % 2 == 0,)) for number in range(threads)
        ]

    def _ask(self, keep: bool) -> None:
        connection = self._hosted.connect()
        while not self._over:
            try:
                connection.request("GET", "/")
                answer = connection.getresponse()
                body = answer.read().decode()
                if answer.status != 200:
                    self.failures.append(f"{answer.status}: {body[:80]}")
                self.answers.append(body)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"{'kept' if keep else 'fresh'}: {error!r}")
                connection.close()
            if not keep:
                connection.close()  # a kept one is opened again only if the answer said so
            time.sleep(0.005)
        connection.close()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        until(lambda: self.answers or self.failures)
        return self

    def __exit__(self, *error: object) -> None:
        self._over = True
        for thread in self._threads:
            thread.join(30)


def write(folder: Path, version: str) -> None:
    part = folder / "restarted.part"
    part.write_text(APP.format(version=version))
    part.rename(folder / "restarted.py")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # versions come within one second
    write(tmp_path, "first")
    return tmp_path


@pytest.mark.parametrize(("mpm", "app"), WAYS)
@pytest.mark.parametrize("restarts", [5, pytest.param(100, marks=pytest.mark.long)])
def test_graceful_restarts_under_load_fail_nothing(
    folder: Path, mpm: str, app: str, restarts: int
) -> None:
    with hosting(folder, CONFIGURATION.format(app=app), mpm) as hosted, Load(hosted) as load:
        for number in range(restarts):
            write(folder, f"version {number}")
            hosted.process.send_signal(signal.SIGUSR1)
            until(lambda number=number: load.answers[-1] == f"version {number}", 20)
    print(f"\n{mpm}: {restarts} graceful restarts, {len(load.answers)} requests")
    assert not load.failures, (len(load.failures), load.failures[:5], hosted.log[-2000:])


@pytest.mark.parametrize(("mpm", "app"), WAYS)
def test_hup_restarts_at_once(folder: Path, mpm: str, app: str) -> None:
    """A request that runs is cut, as httpd does; the next one gets the new code."""
    with hosting(folder, CONFIGURATION.format(app=app), mpm) as hosted:
        seen: list[Any] = []

        def slow() -> None:
            try:
                seen.append(hosted.get("/slow").status)
            except (OSError, http.client.HTTPException) as error:
                seen.append(error)

        asking = threading.Thread(target=slow)
        asking.start()
        before = hosted.workers()
        time.sleep(0.3)
        write(folder, "second")
        hosted.process.send_signal(signal.SIGHUP)
        until(lambda: hosted.get("/").body == b"second")
        asking.join(10)
        assert seen and seen[0] != 200, seen
        until(lambda: not set(before) & set(hosted.workers()))


@pytest.mark.parametrize(("mpm", "app"), WAYS)
def test_winch_stops_gracefully_and_term_at_once(folder: Path, mpm: str, app: str) -> None:
    for number, status in ((signal.SIGWINCH, 200), (signal.SIGTERM, None)):
        seen: list[Any] = []
        with hosting(folder, CONFIGURATION.format(app=app), mpm) as hosted:

            def slow(hosted: Hosted = hosted, seen: list[Any] = seen) -> None:
                try:
                    seen.append(hosted.get("/slow").status)
                except (OSError, http.client.HTTPException):
                    seen.append(None)

            asking = threading.Thread(target=slow)
            asking.start()
            time.sleep(0.4)
            hosted.process.send_signal(number)
            assert hosted.process.wait(15) == 0
            asking.join(10)
        assert seen in ([status], [503] if status is None else []), (number, seen)


def test_a_broken_file_keeps_the_old_generation(folder: Path) -> None:
    with hosting(folder, CONFIGURATION.format(app="wsgi")) as hosted:
        file = folder / "httpd.conf"
        right = file.read_text()
        file.write_text(right + "NoSuchDirective On\n")
        hosted.process.send_signal(signal.SIGUSR1)
        until(lambda: "Invalid command 'NoSuchDirective'" in hosted.log)
        assert hosted.get("/").body == b"first"
        write(folder, "second")
        file.write_text(right)
        hosted.process.send_signal(signal.SIGUSR1)
        until(lambda: hosted.get("/").body == b"second")
        assert os.path.exists(f"/proc/{hosted.process.pid}")
