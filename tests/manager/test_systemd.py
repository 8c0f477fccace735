"""What systemd hears: a socket of the test takes its place. And its unit files."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sapi_adapters.manager.systemd import Notifier

CONTRIB = Path(__file__).resolve().parent.parent.parent / "contrib" / "systemd"


class Systemd:
    """The receiving end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + name[1:] if name.startswith("@") else name)
        self.socket.settimeout(10)

    def environ(self, **more: str) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self.name, **more}

    def heard(self) -> dict[str, str]:
        """Return the assignments of the next message."""
        lines = self.socket.recv(65536).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    receiver = Systemd(str(tmp_path / "notify"))
    yield receiver
    receiver.socket.close()


def test_what_it_says(systemd):
    notifier = Notifier(systemd.environ())
    assert notifier.ready("all well")
    assert systemd.heard() == {"READY": "1", "STATUS": "all well"}
    assert notifier.ready()
    assert systemd.heard() == {"READY": "1"}
    assert notifier.stopping()
    assert systemd.heard() == {"STOPPING": "1"}
    assert notifier.status("Processes active: 1")
    assert systemd.heard() == {"STATUS": "Processes active: 1"}
    assert notifier.watchdog()
    assert systemd.heard() == {"WATCHDOG": "1"}


def test_a_reload_comes_with_the_time(systemd):
    before = time.monotonic_ns() // 1000
    assert Notifier(systemd.environ()).reloading()
    heard = systemd.heard()
    assert heard.keys() == {"RELOADING", "MONOTONIC_USEC"}
    assert before <= int(heard["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_an_abstract_socket():
    receiver = Systemd(f"@sapi-adapters-test-{os.getpid()}")
    assert Notifier(receiver.environ()).ready()
    assert receiver.heard() == {"READY": "1"}
    receiver.socket.close()


def test_a_status_is_one_line_and_cannot_say_more_than_that(systemd):
    Notifier(systemd.environ()).status("broken:\nMAINPID=1\r\n  line 3\n")
    assert systemd.heard() == {"STATUS": "broken: MAINPID=1 line 3"}


def test_a_long_status_is_cut_as_systemd_would_not_read_it(systemd):
    Notifier(systemd.environ()).ready("ä" * 5000)
    data = systemd.socket.recv(65536)
    assert 4090 < len(data) <= 4096
    assert set(data.decode().partition("STATUS=")[2]) == {"ä"}


def test_a_status_that_is_no_utf8_is_told_all_the_same(systemd):
    Notifier(systemd.environ()).status("bad \udcff name")
    assert systemd.heard() == {"STATUS": "bad \\udcff name"}


def test_its_variables_are_taken_out_and_given_back(systemd, monkeypatch):
    given = systemd.environ(WATCHDOG_USEC="8000000", WATCHDOG_PID=str(os.getpid()))
    environ = {**given, "PATH": "/bin"}
    notifier = Notifier(environ)
    assert environ == {"PATH": "/bin"}
    assert notifier.environment() == given
    monkeypatch.setenv("NOTIFY_SOCKET", systemd.name)
    Notifier()
    assert "NOTIFY_SOCKET" not in os.environ


def test_a_process_that_became_a_daemon_says_so(systemd, monkeypatch):
    notifier = Notifier(systemd.environ(WATCHDOG_USEC="1000000", WATCHDOG_PID=str(os.getpid())))
    monkeypatch.setattr(os, "getpid", lambda: 4242)
    notifier.ready("x")
    assert systemd.heard() == {"READY": "1", "MAINPID": "4242", "STATUS": "x"}
    assert notifier.environment()["WATCHDOG_PID"] == "4242"


@pytest.mark.parametrize(
    ("variables", "interval"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_wants_to_hear_twice_in_its_time(systemd, variables, interval):
    assert Notifier(systemd.environ(**variables)).watchdog_interval == interval


def test_another_process_watchdog_is_given_back_as_it_was(systemd):
    given = systemd.environ(WATCHDOG_USEC="1000000", WATCHDOG_PID="1")
    assert Notifier(dict(given)).environment() == given


@pytest.mark.parametrize(
    "name",
    [None, "", "@", "relative", "vsock:2:1234", "/no/such/socket", "/" + "x" * 200, "/nul\0"],
)
def test_without_anybody_to_hear_it_nothing_happens(name):
    notifier = Notifier({} if name is None else {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "5"})
    assert not notifier.ready("x")
    assert not notifier.reloading()
    assert not notifier.stopping()
    assert not notifier.watchdog()


def test_a_queue_that_is_full_is_not_waited_for(systemd):
    notifier = Notifier(systemd.environ())
    sent = 0
    while notifier.watchdog():
        sent += 1
        assert sent < 100_000
    systemd.heard()
    assert notifier.watchdog()


# -- the unit files

UNITS = [["app-pools.service"], ["app-pools-activated.service", "app-pools-activated.socket"]]


@pytest.mark.parametrize("units", UNITS)
def test_systemd_accepts_the_units(units, tmp_path):
    program = shutil.which("systemd-analyze")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("systemd-analyze is missing: apt install systemd")
        pytest.skip("systemd-analyze is missing: apt install systemd")
    serve = tmp_path / "serve"
    serve.write_text("#!/bin/sh\n")
    serve.chmod(0o755)
    for unit in units:
        text = (CONTRIB / unit).read_text()
        # The program must exist; users and directories are looked up only when it starts.
        (tmp_path / unit).write_text(text.replace("/srv/app/venv/bin/serve", str(serve)))
    done = subprocess.run(
        [program, "verify", "--man=no", "--recursive-errors=no", *(tmp_path / u for u in units)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def commands(unit: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the words of each command of *unit*."""
    for line in (CONTRIB / unit).read_text().splitlines():
        found = re.match(r"(Exec\w+)=(?:\S*/)?serve (.*)", line)
        if found is not None:
            yield found[1], found[2].split()


@pytest.mark.parametrize("unit", [units[0] for units in UNITS])
def test_start_and_reload_name_one_configuration(unit):
    found = dict(commands(unit))
    assert found.keys() == {"ExecStart", "ExecReload"}
    named = {words[words.index("--config") + 1] for words in found.values()}
    assert len(named) == 1
    assert found["ExecReload"][-2:] == ["--signal", "reload"]
