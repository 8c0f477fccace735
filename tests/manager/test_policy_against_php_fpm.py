"""The same load on php-fpm and on our manager: as many workers, step by step.

Requests are held until a file appears, so that load is a number of running requests and no
question of time. What is compared is the sequence of worker counts, one for each tick of a second
that changed something. When workers are forked, a count is one of them if it stood for
:data:`STOOD`: a master forks several one after the other, within milliseconds, and its next tick
is a second away, half a second when it was late. Workers that are idle leave one at a tick, so
there every count is one of them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from fastcgi_client import Client
from serving import Served, until

PHP_FPM = "/usr/sbin/php-fpm8.2"
STOOD = 0.3
HOLD_PHP = """<?php
$marker = $_SERVER['QUERY_STRING'];
for ($end = time() + 60; !file_exists($marker) && time() < $end; clearstatcache()) usleep(20000);
echo 'held';
"""
HOLD_PYTHON = """
import os, time
def wsgi(environ, start_response):
    end = time.monotonic() + 60
    while not os.path.exists(environ["QUERY_STRING"]) and time.monotonic() < end:
        time.sleep(0.02)
    start_response("200 OK", [])
    return [b"held"]
"""
GLOBAL = """
[global]
daemonize = no
error_log = {error_log}
log_level = notice
[www]
listen = {socket}
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.access(PHP_FPM, os.X_OK) and not os.environ.get("CI"),
        reason=f"there is no {PHP_FPM}",
    ),
]


class Side:
    """One of the two servers, and the counts of its workers over time."""

    def __init__(self, folder: Path, command: list[str], script: str) -> None:
        self.log = folder / "error.log"
        self.address = str(folder / "s")
        self._script = script
        self._output = (folder / "output").open("wb")
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output, cwd=folder
        )
        self.served = Served(self.process, self.log, self.address)
        self._changes: list[tuple[float, int]] = []
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._held: list[Client] = []

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            count = len(self.served.workers())
            if not self._changes or count != self._changes[-1][1]:
                self._changes.append((time.monotonic(), count))

    def begin(self, count: int) -> None:
        """Wait until *count* workers are there, and watch them from now on."""
        until(lambda: "ready to handle connections" in self.text, what=f"{self.process.args}")
        until(lambda: len(self.served.workers()) == count)
        self._watcher.start()

    @property
    def text(self) -> str:
        """What it logged so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def counts(self) -> list[int]:
        """Return the counts that stood, in their order."""
        changes = self._changes[:]
        following = [*changes[1:], (time.monotonic(), changes[-1][1] if changes else 0)]
        found: list[int] = []
        for (moment, count), (end, then) in zip(changes, following, strict=False):
            if (then < count or end - moment >= STOOD) and found[-1:] != [count]:
                found.append(count)
        return found

    def count(self) -> int:
        """Return the last count that stood."""
        return (self.counts() or [-1])[-1]

    def hold(self, marker: Path, requests: int) -> None:
        """Send requests that last until *marker* is there."""
        for _ in range(requests):
            client = Client(self.address)
            client.send(
                QUERY_STRING=str(marker),
                SCRIPT_NAME="/hold.php",
                SCRIPT_FILENAME=self._script,
                PATH_INFO="",
            )
            self._held.append(client)

    def release(self) -> None:
        """Take the answers of the requests that were held; their file is there."""
        for client in self._held:
            assert client.answer().stdout.endswith(b"held")
            client.socket.close()
        self._held.clear()

    def close(self) -> None:
        """End it."""
        self._done.set()
        if self._watcher.is_alive():
            self._watcher.join(10)
        for client in self._held:
            client.socket.close()
        workers = self.served.workers() if self.process.poll() is None else []
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            for pid in [*workers, self.process.pid]:
                os.kill(pid, 9)
            self.process.wait(10)
        self._output.close()


@pytest.fixture
def both(tmp_path):
    """Start php-fpm and ours with the same settings."""
    assert os.access(PHP_FPM, os.X_OK), "php-fpm is needed here, to compare with"
    (tmp_path / "hold.php").write_text(HOLD_PHP)
    (tmp_path / "holding.py").write_text(HOLD_PYTHON)
    with ExitStack() as stack:

        def start(settings: str) -> tuple[Side, Side]:
            sides = []
            # As root they stay root: the test's directory is nobody else's.
            for name, own, command in (
                ("php", "user = root\ngroup = root\n", [PHP_FPM, "-n", "-R", "-F", "-y"]),
                (
                    "ours",
                    f"app = holding:wsgi\npython_path = {tmp_path}\n",
                    [sys.executable, "-m", "sapi_adapters", "-R", "--config"],
                ),
            ):
                folder = tmp_path / name
                folder.mkdir()
                text = GLOBAL.format(error_log=folder / "error.log", socket=folder / "s")
                (folder / "conf").write_text(text + own + settings)
                side = Side(folder, [*command, str(folder / "conf")], str(tmp_path / "hold.php"))
                stack.callback(side.close)
                sides.append(side)
            return sides[0], sides[1]

        yield start


def busy_warnings(text: str) -> list[tuple[int, int]]:
    """Return what was warned of: how many are idle, of how many; php-fpm tells its rate first."""
    php = r"seems busy .*spawning \d+ children, there are (\d+) idle, and (\d+) total children"
    ours = r"seems busy: \d+ workers more, of (\d+) (\d+) are idle"
    return [
        *((int(idle), int(total)) for idle, total in re.findall(php, text)),
        *((int(idle), int(total)) for total, idle in re.findall(ours, text)),
    ]


def one_tick_more() -> None:
    """Let a tick go by, in which nothing is to change."""
    time.sleep(1.2)


def times_reached(text: str) -> int:
    """Return how often it was said that a pool is full."""
    return len(re.findall(r"server reached (?:pm\.)?max_children", text))


DYNAMIC = {
    # settings; how many requests are held; the counts when they come, and when they are over
    "the rate doubles up to max_children": (
        {"max_children": 40, "start_servers": 8, "min_spare_servers": 8, "max_spare_servers": 37},
        50,
        [8, 9, 11, 15, 23, 31, 39, 40],
        [39, 38, 37],
    ),
    "max_spawn_rate holds it": (
        {
            "max_children": 18,
            "start_servers": 5,
            "min_spare_servers": 5,
            "max_spare_servers": 15,
            "max_spawn_rate": 3,
        },
        25,
        [5, 6, 8, 12, 16, 18],
        [17, 16, 15],
    ),
    "until enough are idle, and then back": (
        {"max_children": 12, "start_servers": 2, "min_spare_servers": 2, "max_spare_servers": 4},
        6,
        [2, 3, 5, 7, 8],
        [7, 6, 5, 4],
    ),
}


@pytest.mark.parametrize("case", DYNAMIC)
def test_dynamic(tmp_path, both, case):
    values, requests, up, down = DYNAMIC[case]
    lines = "".join(f"pm.{name} = {value}\n" for name, value in values.items())
    sides = both(f"pm = dynamic\n{lines}")
    marker = tmp_path / "go"
    for side in sides:
        side.begin(up[0])
    for side in sides:
        until(lambda side=side: side.counts() == up[:1])
        side.hold(marker, requests)
    for side in sides:
        until(lambda side=side: side.count() == up[-1], 20)
    one_tick_more()
    marker.touch()
    for side in sides:
        side.release()
    for side in sides:
        until(lambda side=side: side.count() == down[-1], 20)
    one_tick_more()
    php, ours = sides
    assert php.counts() == up + down, "it is as we think of it"
    assert ours.counts() == php.counts()
    assert busy_warnings(ours.text) == busy_warnings(php.text)
    full = int(up[-1] == values["max_children"])
    assert [times_reached(side.text) for side in sides] == [full, full]


def test_on_demand(tmp_path, both):
    sides = both("pm = ondemand\npm.max_children = 3\npm.process_idle_timeout = 1s\n")
    marker = tmp_path / "go"
    for side in sides:
        side.begin(0)
    for side in sides:
        until(lambda side=side: side.counts() == [0])
    for count in (1, 2, 3):  # one after the other: what comes at once may be one event
        for side in sides:
            side.hold(marker, 1)
        for side in sides:
            until(lambda side=side, count=count: side.count() == count)
    for side in sides:
        side.hold(marker, 2)  # they wait
    for side in sides:
        until(lambda side=side: times_reached(side.text))
    marker.touch()
    for side in sides:
        side.release()
    for side in sides:
        until(lambda side=side: side.count() == 0, 20)
    php, ours = sides
    assert php.counts() == [0, 1, 2, 3, 2, 1, 0], "it is as we think of it"
    assert ours.counts() == php.counts()
    assert [times_reached(side.text) for side in sides] == [1, 1]
