"""The fixtures themselves: nothing is skipped silently, no process and no port is left behind."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path

import deployments
import fronts
import processes
import pytest
from fronts import FRONTS, SENDFILE_FRONTS


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(fronts.SERVERS, "absent", ("no-such-program", "no-such-package"))
    return "absent"


def test_a_missing_server_fails_a_ci_run(
    absent: str, program: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt install no-such-package"):
        program(absent)


def test_a_missing_server_skips_elsewhere_and_says_what_to_install(
    absent: str, program: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt install no-such-package"):
        program(absent)


def test_names_are_unique() -> None:
    names = [front.name for front in (*FRONTS, *SENDFILE_FRONTS)]
    assert len(set(names)) == len(names)


def test_a_held_port_is_given_to_nobody_else_and_can_be_listened_on() -> None:
    ports = {processes.hold_port() for _ in range(50)}
    assert len(ports) == 50
    for port in ports:
        with socket.create_server(("127.0.0.1", port)):
            assert processes.answers(("127.0.0.1", port))


def test_a_server_that_ends_at_once_is_reported_with_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('out of order')"]
    process = processes.Process(command, tmp_path / "log")
    with pytest.raises(processes.StartError, match="out of order"):
        process.wait_for(("127.0.0.1", processes.hold_port()))
    assert process.stop() == 1


def test_a_server_that_does_not_heed_its_signal_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "STOP_DEADLINE", 0.5)
    port = processes.hold_port()
    code = (
        "import signal, socket, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"server = socket.create_server(('127.0.0.1', {port}))\n"
        "time.sleep(60)\n"
    )
    process = processes.Process([sys.executable, "-c", code], tmp_path / "log")
    process.wait_for(("127.0.0.1", port))
    assert process.stop() == -9


def test_the_environment_of_a_server_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.test")
    assert "HTTP_PROXY" not in deployments.environment()
