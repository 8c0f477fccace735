"""Becoming a daemon, in real processes; the pid file, which its process locks."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from serving import until

from sapi_adapters.manager import daemon
from sapi_adapters.sapi import ConfigurationError

# Becomes a daemon, says in a file what it is, runs the code it was given.
DAEMON = """
import json, os, sys, time
from sapi_adapters.manager.daemon import daemonize

def note(name, value):
    with open(f"{where}/{name}.part", "w") as file:
        json.dump(value, file)
    os.rename(f"{where}/{name}.part", f"{where}/{name}")

def descriptors():
    return [os.readlink(f"/proc/self/fd/{n}") for n in (0, 1, 2)]

def wait():
    for _ in range(1200):  # however a test ends, this one does
        time.sleep(0.05)
        if os.path.exists(f"{where}/end"):
            break

where = sys.argv[1]
exec(sys.argv[3])
report = daemonize(float(sys.argv[2]))
note("pid", os.getpid())
exec(sys.argv[4])
"""
READY = "report(0, ''); wait()"


@dataclass
class Started:
    """The process that was started, when it has ended, and the daemon it left."""

    status: int
    output: str
    errors: str
    where: Path

    def told(self, name: str = "told") -> Any:
        """Return what the daemon noted."""
        until((self.where / name).exists, what=name)
        return json.loads((self.where / name).read_text())

    @property
    def pid(self) -> int:
        pid: int = self.told("pid")
        return pid


def alive(pid: int) -> bool:
    """Tell whether *pid* runs; nobody here reaps a daemon, so a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    def start(
        code: str = READY,
        wait: float = 30.0,
        before: str = "",
        shell: str = "{command}",
        **options: Any,
    ) -> Started:
        environ = {**os.environ, "PYTHON": sys.executable, "DAEMON": DAEMON}
        environ |= {"BEFORE": before, "THEN": code}
        environ.pop("PYTHONUNBUFFERED", None)
        command = f'"$PYTHON" -c "$DAEMON" {tmp_path} {wait} "$BEFORE" "$THEN"'
        done = subprocess.run(
            ["/bin/sh", "-c", shell.format(command=command)],
            env=environ,
            timeout=60,
            text=True,
            **{"capture_output": True, **options},
        )
        return Started(done.returncode, done.stdout, done.stderr, tmp_path)

    yield start
    (tmp_path / "end").touch()
    if (tmp_path / "pid").exists():
        pid = json.loads((tmp_path / "pid").read_text())
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
            until(lambda: not alive(pid))


def test_the_daemon_lives_on_when_the_one_who_started_it_has_ended(start):
    # Both outputs are read to their end here: nothing of the daemon holds them.
    started = start()
    assert (started.status, started.output, started.errors) == (0, "", "")
    assert alive(started.pid)


def test_it_has_a_session_without_a_terminal_and_no_directory(start):
    code = "note('told', [os.getsid(0), os.getpgrp(), os.getcwd()]);" + READY
    started = start(code)
    session, group, directory = started.told()
    assert session == group != started.pid  # not its leader: it can get no terminal
    assert session != os.getsid(0)
    assert directory == "/"


def test_standard_descriptors_are_let_go(start):
    code = "note('early', descriptors()); report(0, ''); note('told', descriptors()); wait()"
    started = start(code)
    early = started.told("early")
    assert early[:2] == ["/dev/null"] * 2
    assert early[2].startswith("pipe:")
    assert started.told() == ["/dev/null"] * 3


def test_files_are_kept_as_logs(start, tmp_path):
    out, err = tmp_path / "out", tmp_path / "err"
    code = "os.write(1, b'1'); report(0, ''); os.write(2, b'2'); note('told', 0); wait()"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        started = start(code, capture_output=False, stdout=stdout, stderr=stderr)
    started.told()
    assert (out.read_text(), err.read_text()) == ("1", "2")


def test_an_error_log_that_was_opened_meanwhile_is_kept(start, tmp_path):
    log = tmp_path / "fifo"
    os.mkfifo(log)
    code = f"""
log = os.open({str(log)!r}, os.O_RDWR)
os.dup2(log, 2)
report(0, '')
note('told', descriptors())
wait()
"""
    assert start(code).told()[2] == str(log)


@pytest.mark.parametrize("closed", ["<&-", "<&- >&-", "<&- >&- 2>&-", "2>&-"])
def test_whoever_started_it_may_have_closed_standard_descriptors(start, closed):
    code = "report(0, ''); note('told', descriptors()); wait()"
    started = start(code, shell="{command} " + closed)
    assert (started.status, started.told()) == (0, ["/dev/null"] * 3)


def test_the_word_of_the_daemon_is_printed_and_its_status_passed_on(start):
    started = start("report(78, 'serve: no such pool: ü\\n')")
    assert (started.status, started.errors) == (78, "serve: no such pool: ü\n")


def test_what_it_writes_on_standard_error_before_it_is_ready_is_seen(start):
    started = start("os.write(2, b'warning\\n');" + READY)
    assert (started.status, started.errors) == (0, "warning\n")


def test_a_message_may_be_long(start):
    started = start("report(1, 'x' * 200000)")
    assert (started.status, len(started.errors)) == (1, 200000)


def test_only_the_first_word_counts(start):
    started = start("report(0, 'first'); report(1, 'second'); note('told', 1); wait()")
    assert (started.status, started.errors) == (0, "first")
    assert started.told() == 1


def test_a_daemon_that_ends_without_a_word_is_a_failure(start):
    started = start("os._exit(0)")
    assert (started.status, started.errors) == (1, "the daemon ended before it was ready\n")


def test_a_daemon_that_ends_is_noticed_although_its_workers_live(start):
    code = """
if os.fork() == 0:
    note("told", os.getpid())
    wait()
os._exit(0)
"""
    started = start(code)
    assert (started.status, started.errors) == (1, "the daemon ended before it was ready\n")
    worker = started.told()
    (started.where / "end").touch()
    until(lambda: not alive(worker))


def test_a_worker_cannot_speak_for_the_daemon(start):
    code = """
if os.fork() == 0:
    report(3, "I am ready")
    os._exit(0)
os.wait()
report(0, "")
wait()
"""
    started = start(code)
    assert (started.status, started.errors) == (0, "")


def test_workers_from_before_do_not_hold_the_shells_output(start):
    code = """
if os.fork() == 0:
    note("told", descriptors())
    wait()
    os._exit(0)
report(0, "")
wait()
"""
    assert start(code).told() == ["/dev/null"] * 3


def test_a_daemon_that_is_slow_is_not_waited_for(start, tmp_path):
    with (tmp_path / "err").open("wb") as stderr:  # it still has it, so a pipe would not end
        started = start("wait()", wait=0.3, capture_output=False, stderr=stderr)
    assert started.status == 1
    assert (tmp_path / "err").read_text() == "the daemon was not ready within 0.3 s; it goes on\n"
    assert alive(started.pid)


def test_a_late_word_does_no_harm(start, tmp_path):
    code = "wait(); report(0, 'late'); note('told', 1)"
    with (tmp_path / "err").open("wb") as stderr:
        started = start(code, wait=0.2, capture_output=False, stderr=stderr)
    (tmp_path / "end").touch()
    assert started.told() == 1


def test_no_room_for_a_process_is_one_clear_error(monkeypatch):
    def no_room():
        raise BlockingIOError(11, "no room")

    before = sorted(os.listdir("/dev/fd"))
    monkeypatch.setattr(os, "fork", no_room)
    with pytest.raises(ConfigurationError, match="cannot become a daemon: no room"):
        daemon.daemonize()
    assert sorted(os.listdir("/dev/fd")) == before


def test_no_room_for_the_second_process_is_told(start):
    before = """
fork = os.fork
def once():
    os.fork = no_room
    return fork()
def no_room():
    raise BlockingIOError(11, "no room")
os.fork = once
"""
    started = start(before=before)
    assert (started.status, started.errors) == (1, "cannot become a daemon: no room\n")


def test_what_was_printed_before_is_printed_once(start):
    started = start(before="print('starting')")
    assert started.output == "starting\n"


# -- the pid file


@pytest.fixture
def pid_file(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "pid-file")
    yield path
    daemon.remove_pid(path)


HOLD = """
import os, sys, time
from sapi_adapters.manager.daemon import write_pid
from sapi_adapters.sapi import ConfigurationError
try:
    write_pid(sys.argv[1])
except ConfigurationError as error:
    sys.exit(f"refused: {error}")
exec(sys.argv[2])
os.write(1, b"held\\n")
sys.stdin.read()
"""


@contextmanager
def another(path: str, then: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has written *path* and done *then*."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path, then], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()
            process.wait(30)


def test_the_pid_file_is_written_and_removed(pid_file):
    daemon.write_pid(pid_file)
    assert Path(pid_file).read_text() == f"{os.getpid()}\n"
    assert daemon.holder(pid_file) == os.getpid()
    daemon.remove_pid(pid_file)
    assert not os.path.exists(pid_file)
    assert os.listdir(os.path.dirname(pid_file)) == []
    assert daemon.holder(pid_file) is None


def test_a_living_process_keeps_its_pid_file(pid_file):
    with another(pid_file) as process:
        assert daemon.holder(pid_file) == process.pid
        with pytest.raises(ConfigurationError, match=f"process {process.pid} runs already"):
            daemon.write_pid(pid_file)
        daemon.remove_pid(pid_file)
        assert Path(pid_file).read_text() == f"{process.pid}\n"


def test_a_stale_pid_file_is_replaced(pid_file):
    with another(pid_file):
        pass
    assert os.path.exists(pid_file)  # it was killed
    assert daemon.holder(pid_file) is None
    daemon.write_pid(pid_file)
    assert Path(pid_file).read_text() == f"{os.getpid()}\n"


def test_a_number_that_is_anothers_by_now_is_stale(pid_file):
    """Whoever has the number today did not write the file."""
    Path(pid_file).write_text(f"{os.getppid()}\n")
    daemon.write_pid(pid_file)
    assert Path(pid_file).read_text() == f"{os.getpid()}\n"


def test_a_file_that_was_cut_to_nothing_is_stale(pid_file):
    Path(pid_file).touch()
    daemon.write_pid(pid_file)
    assert daemon.holder(pid_file) == os.getpid()


def test_writing_it_again_is_no_conflict(pid_file):
    daemon.write_pid(pid_file)
    os.unlink(pid_file)
    daemon.write_pid(pid_file)
    assert daemon.holder(pid_file) == os.getpid()


def test_an_exec_in_between_is_no_conflict(pid_file):
    again = "if not os.environ.get('AGAIN'): os.environ['AGAIN'] = '1';"
    again += " os.execv(sys.executable, sys.orig_argv)"
    with another(pid_file, again) as process:
        assert daemon.holder(pid_file) == process.pid


def test_a_worker_neither_holds_nor_removes_the_pid_file(pid_file):
    then = """
from sapi_adapters.manager.daemon import remove_pid
worker = os.fork()
if worker == 0:
    remove_pid(sys.argv[1])
    os.write(1, f"worker {os.getpid()}\\n".encode())
    sys.stdin.read()
    os._exit(0)
"""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, pid_file, then], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        said = sorted(process.stdout.readline() for _ in range(2))
        assert said[0] == b"held\n"
        worker = int(said[1].split()[1])
        try:
            assert daemon.holder(pid_file) == process.pid
            process.kill()
            process.wait(30)
            # The worker, its child, is alive and has the file open.
            assert alive(worker)
            assert daemon.holder(pid_file) is None
        finally:
            os.kill(worker, signal.SIGKILL)
    until(lambda: not alive(worker))


def test_a_link_is_not_followed(pid_file, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("1\n")
    os.symlink(precious, pid_file)
    with pytest.raises(ConfigurationError, match="it is a link"):
        daemon.write_pid(pid_file)
    assert precious.read_text() == "1\n"


@pytest.mark.parametrize("text", ["root:x:0:0", "12 34", "-1", "١٢"])
def test_a_file_of_another_kind_is_left_alone(pid_file, text):
    Path(pid_file).write_text(text)
    with pytest.raises(ConfigurationError, match="another kind"):
        daemon.write_pid(pid_file)
    assert Path(pid_file).read_text() == text
    os.unlink(pid_file)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_left_alone(pid_file, make):
    make(pid_file)
    with pytest.raises(ConfigurationError, match="another kind"):
        daemon.write_pid(pid_file)


def test_a_missing_directory_is_one_clear_line(tmp_path):
    with pytest.raises(ConfigurationError, match=r"cannot write the pid file .*No such file"):
        daemon.write_pid(str(tmp_path / "none" / "pid"))


def test_a_disk_that_is_full_leaves_nothing_behind(pid_file, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ConfigurationError, match="No space left"):
        daemon.write_pid(pid_file)
    monkeypatch.undo()
    assert os.listdir(os.path.dirname(pid_file)) == []


def test_a_part_of_a_former_process_is_not_in_the_way(pid_file):
    Path(f"{pid_file}.{os.getpid()}").write_text("old")
    daemon.write_pid(pid_file)
    assert daemon.holder(pid_file) == os.getpid()


def test_a_pid_file_that_became_anothers_is_not_removed(pid_file):
    daemon.write_pid(pid_file)
    os.unlink(pid_file)
    with another(pid_file) as process:
        daemon.remove_pid(pid_file)
        assert Path(pid_file).read_text() == f"{process.pid}\n"


def test_a_relative_path_is_still_right_in_another_directory(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    daemon.write_pid("p")
    monkeypatch.chdir("other")
    daemon.remove_pid("p")
    assert not (tmp_path / "p").exists()


def test_nobody_else_looks_while_it_is_decided(pid_file, monkeypatch):
    """Between the look at the old file and the new one nobody may find it stale as well."""
    looked = []

    def look(path: str) -> None:
        directory = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            looked.append(path)
        finally:
            os.close(directory)

    monkeypatch.setattr(daemon, "holder", look)
    daemon.write_pid(pid_file)
    assert looked == [pid_file]


def test_of_those_that_start_at_once_one_gets_it(pid_file):
    """Each that is refused ends; the one that holds the file waits for its input to end."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, pid_file, ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(6)
    ]
    try:
        until(lambda: sum(process.poll() is not None for process in processes) == 5)
        (left,) = (process for process in processes if process.poll() is None)
        until(lambda: daemon.holder(pid_file) == left.pid)
        for process in processes:
            if process is not left:
                assert process.stderr is not None
                assert b"runs already" in process.stderr.read()
    finally:
        for process in processes:
            process.kill()
            process.communicate(timeout=30)
