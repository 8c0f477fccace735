"""``--signal upgrade``: the master becomes another program, and no request notices."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from chaos.load import Load
from chaos.program import Program, end, running
from fastcgi_client import fetch
from serving import until

pytestmark = pytest.mark.slow

KINDS = {
    "prefork": {"pm.max_children": "4"},
    "threaded": {"sapi": "fcgi-threaded", "threads": "4"},
    "event": {"app": "changing:asgi"},
}
_GROWTH = 6 << 20


def release(program, version):
    """Put another version of the package there."""
    path = program.package / "sapi.py"
    lines = path.read_text().splitlines()
    number = next(n for n, line in enumerate(lines) if line.startswith("__version__ = "))
    lines[number] = f'__version__ = "{version}"'
    path.write_text("\n".join(lines) + "\n")


def socket_of(path):
    """Return the inode of the socket that listens on *path*, as the kernel knows it."""
    rows = (line.split() for line in Path("/proc/net/unix").read_text().splitlines())
    return {row[6] for row in rows if row[-1] == path and row[3] == "00010000"}


def test_an_upgrade_under_load_fails_nothing(tmp_path):
    with running(Program(tmp_path, KINDS)) as program, ExitStack() as stack:
        pid = program.pid
        sockets = {pool: socket_of(program.address(pool)) for pool in KINDS}
        started = {pool: program.status(pool)["start time"] for pool in KINDS}
        loads = {
            pool: stack.enter_context(
                Load(program.address(pool), rate=60, uploads=1, longs=1, seconds=3)
            )
            for pool in KINDS
        }
        for version in ("90.1", "90.2"):
            before = {pool: program.status(pool)["accepted conn"] for pool in KINDS}
            release(program, version)
            program.code(version)
            told = program.tell("upgrade")
            assert told.returncode == 0, told.stderr + program.text
            for pool in KINDS:
                page = program.status(pool)
                assert page["version"] == version
                assert page["accepted conn"] > before[pool]
                assert fetch(program.address(pool)).body.decode() == version
        stack.close()
        for pool, load in loads.items():
            assert not load.seen.failures, (load.seen.failures[:5], program.text)
            assert load.seen.uploads and load.seen.longs
            longest = load.seen.longest() * 1e3
            print(f"\n{pool}: {load.seen.good} requests, longest to a first byte {longest:.0f} ms")
            page = program.status(pool)
            # 2 + 2 looks at the version, 2 + 2 at the answer, the first one and this one
            assert page["accepted conn"] == load.seen.good + 2 * 3 + 2
            assert page["lost requests"] == 0
            assert page["start time"] == started[pool]
            assert socket_of(program.address(pool)) == sockets[pool]
        assert program.process.poll() is None
        assert int(program.pid_file.read_text()) == pid
        assert program.text.count("executing the new program") == 2
        program.settle()


def opened(pid):
    """Return how many descriptors *pid* has."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_upgrades_leave_nothing_behind(tmp_path):
    pool = {"request_terminate_timeout": "20", "catch_workers_output": "yes"}
    with running(Program(tmp_path, {"www": pool})) as program:
        assert program.ask("upgrade") == "ok"
        program.settle()
        descriptors, resident = program.descriptors(), program.resident()
        workers = [opened(pid) for pid in program.children()]
        for _ in range(5):
            assert program.ask("upgrade") == "ok"
            program.settle()
        assert program.descriptors() == descriptors
        print(f"\nafter 5 upgrades the master grew by {program.resident() - resident >> 10} KiB")
        assert program.resident() - resident < _GROWTH
        until(lambda: max(opened(pid) for pid in program.children()) <= max(workers))


def test_changed_files_of_the_program_turn_a_reload_into_an_upgrade(tmp_path):
    with running(Program(tmp_path, {"www": {}})) as program:
        release(program, "90.3")
        assert program.tell("reload").returncode == 0
        assert "the program itself was replaced" in program.text
        assert program.status()["version"] == "90.3"


@pytest.mark.parametrize("order", ["upgrade", "reload"])
def test_a_program_that_does_not_start_keeps_the_old_one(tmp_path, order):
    with running(Program(tmp_path, {"www": {}})) as program:
        right = (program.package / "running.py").read_text()
        before = program.status()
        (program.package / "running.py").write_text("import no_such_module\n")
        with Load(program.address("www"), rate=100) as load:
            told = program.tell(order)
        assert told.returncode == 1
        assert "upgrade failed" in program.text
        assert not load.seen.failures
        after = program.status()
        assert after["failed reloads"] == before["failed reloads"] + 1
        assert "trial" in after["last failure"]
        (program.package / "running.py").write_text(right)
        assert program.ask(order) == "ok"
        assert program.status()["last failure"] == "-"


def occupied(program, stack):
    listening = stack.enter_context(socket.socket(socket.AF_UNIX))
    listening.bind(program.address("other"))
    listening.listen()
    program.pools["other"] = {}
    program.configure()
    return "another process listens there"


def unknown_directive(program, stack):
    program.configure(no_such_directive="1")
    return "no_such_directive"


def log_without_directory(program, stack):
    program.configure(error_log=str(program.folder / "none" / "log"))
    return "error_log: there is no directory"


def pid_without_directory(program, stack):
    program.configure(pid=str(program.folder / "none" / "pid"))
    return "none/pid"


def broken_application(program, stack):
    program.code(source="import no_such_module")
    return "no_such_module"


@pytest.mark.parametrize(
    "mistake",
    [
        unknown_directive,
        occupied,
        log_without_directory,
        pid_without_directory,
        broken_application,
    ],
)
def test_a_mistake_keeps_the_old_workers(tmp_path, mistake):
    with running(Program(tmp_path, {"www": {}})) as program, ExitStack() as stack:
        right = program.file.read_text()
        why = mistake(program, stack)
        with Load(program.address("www"), rate=100) as load:
            told = program.tell("upgrade")
        assert program.process.poll() is None, (tmp_path / "output").read_text() + program.text
        assert told.returncode == 1
        assert not load.seen.failures
        assert {body for *_, body in load.seen.answers} == {"first"}
        assert why in told.stderr + (tmp_path / "output").read_text() + program.text
        stack.close()
        program.file.write_text(right)
        program.code("mended")
        program.pools.pop("other", None)
        assert program.ask("upgrade") == "ok"
        assert fetch(program.address("www")).body == b"mended"


def test_pools_come_and_go_with_an_upgrade(tmp_path):
    with running(Program(tmp_path, {"www": {}, "old": {}})) as program:
        with Load(program.address("old"), rate=0, longs=1, seconds=2) as load:
            until(lambda: program.status("old")["active requests"] == 2)  # and this one
            del program.pools["old"]
            program.pools["new"] = {"pm": "ondemand"}
            program.configure()
            assert program.ask("upgrade") == "ok"
            assert fetch(program.address("new")).body == b"first"
            assert fetch(program.address("www")).body == b"first"
        assert load.seen.longs and not load.seen.failures
        until(lambda: not Path(program.address("old")).exists())
        until(lambda: len(program.children()) == 3)


def test_a_pool_on_demand_goes_on_being_on_demand(tmp_path):
    pool = {"pm": "ondemand", "pm.max_children": "2", "pm.process_idle_timeout": "1s"}
    with running(Program(tmp_path, {"www": pool})) as program:
        assert fetch(program.address("www")).body == b"first"
        program.code("second")
        assert program.ask("upgrade") == "ok"
        assert fetch(program.address("www")).body == b"second"
        until(lambda: not program.children(), 20)
        program.code("third")
        assert program.ask("upgrade") == "ok"
        assert fetch(program.address("www")).body == b"third"


def test_a_stop_while_the_new_program_is_tried(tmp_path):
    with running(Program(tmp_path, {"www": {}})) as program:
        program.change("running.py", "import os\n", "import os, time; time.sleep(30)\n")
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(f"\0sapi_adapters/{program.pid}")
            asking.sendall(b"upgrade")
            until(lambda: "trying the new program" in program.text)
            until(lambda: len(program.children()) == 3)
            trial = program.children()[-1]
            program.signal(signal.SIGTERM)
            assert program.process.wait(15) == 0
        if Path(f"/proc/{trial}").exists():
            os.kill(trial, signal.SIGKILL)
            pytest.fail("the trial was left behind")


@contextmanager
def started(folder, command, **keywords):
    """Run ``serve`` with flags, as the last words of *command*."""
    program = Program(folder, {"www": {}})
    log = folder / "flags.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [
                *command,
                *(sys.executable, "-m", "sapi_adapters", "changing:wsgi", "--workers", "2"),
                *("--set", "pm.status_path=/status", "--error-log", str(program.log)),
                *keywords.pop("options", ()),
            ],
            env=program.environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            **keywords,
        )
    program.process = process
    try:
        yield program
    finally:
        end(process)


def test_an_inherited_socket_lives_on(tmp_path):
    path = str(tmp_path / "www.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(64)
        number = str(listening.fileno())
        with started(
            tmp_path, [], options=["--fd", number], pass_fds=[listening.fileno()]
        ) as program:
            upgraded_twice(program)


@pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None, reason="there is no systemd-socket-activate"
)
def test_the_sockets_of_systemd_live_on(tmp_path):
    path = str(tmp_path / "www.sock")
    activate = ["systemd-socket-activate", "-l", path]
    keep = [f"--setenv={name}" for name in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")]
    with started(tmp_path, [*activate, *keep]) as program:
        upgraded_twice(program)


def upgraded_twice(program):
    """Upgrade it under load; the socket it was given is served all the time."""
    assert fetch(program.address("www")).body == b"first"
    until(lambda: "ready to handle" in program.text)
    with Load(program.address("www"), rate=100) as load:
        for version in ("second", "third"):
            program.code(version)
            assert program.ask("upgrade") == "ok"
            assert fetch(program.address("www")).body.decode() == version
    assert not load.seen.failures
