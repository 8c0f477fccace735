"""The threaded server's threads: they come when they are needed, and go."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastcgi_client import PARAMS, Answer, Client, connect, fetch
from serving import serving, until

from sapi_adapters.adapters.observing import Threaded
from sapi_adapters.manager.scoreboard import Scoreboard
from sapi_adapters.sapi import Sapi
from sapi_adapters.servers import threaded
from sapi_adapters.servers.listener import bind_unix
from sapi_adapters.servers.threaded import ThreadedServer

pytestmark = pytest.mark.usefixtures("deadline")

CANNOT = "can't start new thread"


class Log(Sapi):
    """A SAPI that keeps what is logged."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def log_message(self, message, level="error"):
        self.lines.append(message)


class Running:
    """A threaded server that runs in a thread of this process.

    Its session answers each message with the same one: ``hold`` only after :meth:`release`, and
    after ``keep`` it keeps the connection.
    """

    def __init__(self, path, **options):
        self.path = str(path)
        self.sapi = Log()
        self.listener = bind_unix(self.path)
        self.held = []
        self._gate = threading.Event()
        self.failure = None
        self.server = ThreadedServer([self.listener], self.session, self.sapi, **options)
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            self.server.run()
        except BaseException as error:
            self.failure = error

    def session(self, channel):
        message, channel.data = channel.data, b""
        if message == b"die":
            channel.close()
            raise SystemExit
        if message == b"hold":
            gate = self._gate
            self.held.append(channel)
            assert gate.wait(30)
        channel.send(message)
        if message == b"keep":
            return 0.0
        channel.close()
        return None

    def start(self):
        self._thread.start()
        return self

    def leave_it_to_the_workers(self):
        """Start no thread from the main one, which mends each second what they miss."""
        grow = self.server._grow
        self.server._grow = lambda: threading.current_thread() is self._thread or grow()

    @property
    def threads(self):
        return len(self.server._workers)

    def send(self, message):
        client = connect(self.path)
        client.sendall(message)
        return client

    def ask(self, message=b"quick"):
        with self.send(message) as client:
            return client.recv(100)

    def hold(self, count):
        """Keep *count* more threads busy; return the clients."""
        wanted = len(self.held) + count
        clients = [self.send(b"hold") for _ in range(count)]
        until(lambda: len(self.held) == wanted, what="busy threads")
        return clients

    def release(self, clients=()):
        """Let those that are busy go on; see that *clients* are answered."""
        gate, self._gate = self._gate, threading.Event()
        gate.set()
        for client in clients:
            with client:
                assert client.recv(100) == b"hold"

    def end(self):
        self.release()
        self.server.stop()
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture
def run(tmp_path):
    """Return what starts a server; it is ended after the test."""
    with ExitStack() as stack:

        def start(**options):
            running = Running(tmp_path / "s", **options)
            stack.callback(running.listener.close)
            running.start()
            stack.callback(running.end)
            until(lambda: running.threads or running.failure, what="the first thread")
            return running

        yield start


# -- more threads


@pytest.mark.parametrize("min_spare", [1, 3])
def test_threads_come_as_they_are_needed(run, min_spare):
    running = run(threads=6, min_spare=min_spare)
    until(lambda: running.server.idle == running.threads == min_spare)
    clients = []
    for busy in range(1, 7):
        clients += running.hold(1)
        there = min(6, busy + min_spare)
        until(lambda: running.threads == there)  # noqa: B023 - it is called here
        until(lambda: running.server.idle == there - busy)  # noqa: B023
    running.release(clients)
    until(lambda: running.server.idle == 6)
    assert running.threads == 6


def test_no_thread_is_there_before_run_and_none_after(tmp_path):
    running = Running(tmp_path / "s", threads=4)
    assert (running.threads, running.server.idle) == (0, 0)
    running.start()
    clients = running.hold(3)
    names = {worker.name for worker in running.server._workers}
    running.release(clients)
    running.end()
    running.listener.close()
    assert (running.threads, running.server.idle) == (0, 0)
    assert not names & {thread.name for thread in threading.enumerate()}


def test_a_server_without_spare_threads_has_one_all_the_same(run):
    running = run(threads=2, min_spare=0, max_spare=0)
    running.leave_it_to_the_workers()
    assert running.ask() == b"quick"
    until(lambda: running.server.idle == running.threads == 1)


def test_requests_that_block_hinder_nobody_while_there_may_be_more_threads(run):
    running = run(threads=5)
    running.leave_it_to_the_workers()
    blocked = []
    with running.send(b"keep") as kept:
        for _ in range(4):
            assert kept.recv(100) == b"keep"
            blocked += running.hold(1)
            assert running.ask() == b"quick"
            kept.sendall(b"keep")
        assert kept.recv(100) == b"keep"
        done = threading.Event()
        running.server.submit(done.set)
        assert done.wait(20)
    assert running.threads == 5
    running.release(blocked)


def test_a_job_that_blocks_hinders_nobody(run):
    running = run(threads=2)
    running.leave_it_to_the_workers()
    begun, gate = threading.Event(), threading.Event()
    running.server.submit(lambda: begun.set() or gate.wait(30))
    assert begun.wait(20)
    assert running.ask() == b"quick"
    gate.set()


def test_when_all_threads_are_blocked_the_others_wait_and_are_served_then(run):
    running = run(threads=3)
    blocked = running.hold(3)
    assert (running.threads, running.server.idle) == (3, 0)
    waiting = [running.send(b"quick") for _ in range(20)]
    running.release(blocked)
    for client in waiting:
        with client:
            assert client.recv(100) == b"quick"
    assert running.threads == 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_died_is_replaced(run):
    running = run(threads=1)
    for _ in range(2):
        assert running.ask(b"die") == b""
        assert running.ask() == b"quick"
    until(lambda: running.server.idle == running.threads == 1)


# -- fewer threads


def test_threads_beyond_max_spare_leave_and_come_again(run):
    running = run(threads=8, max_spare=2)
    running.leave_it_to_the_workers()
    for _ in range(2):
        clients = running.hold(7)
        assert running.threads >= 7
        running.release(clients)
        until(lambda: running.server.idle == running.threads == 2)
        assert running.ask() == b"quick"


def test_those_that_are_busy_are_not_counted_as_spare(run):
    running = run(threads=8, max_spare=1)
    running.leave_it_to_the_workers()
    first = running.hold(1)
    running.release([*running.hold(6), *first])
    busy = running.hold(2)
    until(lambda: (running.server.idle, running.threads) == (1, 3))
    running.release(busy)
    until(lambda: (running.server.idle, running.threads) == (1, 1))


def test_max_spare_may_be_set_while_it_runs(run):
    running = run(threads=6, min_spare=2)
    running.release(running.hold(6))
    until(lambda: running.server.idle == running.threads == 6)
    running.server.max_spare = 4
    until(lambda: running.server.idle == running.threads == 4)
    running.server.max_spare = 0  # as many as min_spare stay
    until(lambda: running.server.idle == running.threads == 2)
    running.server.max_spare = None
    running.release(running.hold(5))
    until(lambda: running.server.idle == running.threads >= 5)


def test_nothing_is_lost_while_threads_come_and_go(run, monkeypatch):
    """Each leaves as soon as it has nothing to do: what it is woken for is another's to take."""
    monkeypatch.setattr(threaded, "_QUIET", 0.0)
    wait = threaded.Poller.wait

    def worker_waits_less(poller, timeout, limit=-1):
        return wait(poller, 0.001 if limit == 1 else timeout, limit)

    monkeypatch.setattr(threaded.Poller, "wait", worker_waits_less)
    running = run(threads=6, max_spare=1)
    running.leave_it_to_the_workers()
    right, gone = [], []
    leaves = running.server._leaves
    running.server._leaves = lambda since: leaves(since) and not gone.append(1)

    def some():
        with running.send(b"keep") as kept:
            n, end = 0, time.monotonic() + 20
            while n < 150 or (len(gone) < 20 and time.monotonic() < end):
                n += 1
                assert kept.recv(100) == b"keep"
                kept.sendall(b"keep")
                right.append(running.ask(b"%d" % n) == b"%d" % n)

    clients = [threading.Thread(target=some) for _ in range(8)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(50)
    assert len(right) >= 1200
    assert all(right)
    until(lambda: running.server.idle == running.threads == 1)
    assert len(gone) >= 20


# -- threads that cannot be started


class Starts:
    """Stands for ``Thread.start``: workers beyond *most* cannot be started."""

    def __init__(self, monkeypatch, most):
        self.most = most
        self.failed = 0
        start = threading.Thread.start

        def start_or_fail(thread):
            if thread.name.startswith("worker-"):
                if not self.most:
                    self.failed += 1
                    raise RuntimeError(CANNOT)
                self.most -= 1
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", start_or_fail)


def test_without_a_single_thread_run_raises(run, monkeypatch):
    before = len(os.listdir("/proc/self/fd"))
    Starts(monkeypatch, 0)
    running = run(threads=4)
    until(lambda: running.failure is not None)
    running._thread.join(20)
    assert isinstance(running.failure, RuntimeError)
    assert str(running.failure) == CANNOT
    assert running.server.idle == running.threads == 0
    running.listener.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_thread_that_cannot_be_started_is_logged_once_and_the_others_serve(run, monkeypatch):
    starts = Starts(monkeypatch, 2)
    running = run(threads=4, min_spare=3)
    until(lambda: starts.failed)
    for _ in range(10):
        assert running.ask() == b"quick"
    assert starts.failed > 5
    assert running.sapi.lines == [f"a thread cannot be started: {CANNOT}; there are 2"]
    assert (running.failure, running.threads) == (None, 2)
    until(lambda: running.server.idle == 2)


def test_it_is_logged_again_after_a_while(run, monkeypatch):
    monkeypatch.setattr(threaded, "_COMPLAIN_EVERY", 0.0)
    Starts(monkeypatch, 1)
    running = run(threads=2)
    for _ in range(3):
        assert running.ask() == b"quick"
    assert len(running.sapi.lines) >= 3


def test_it_is_tried_again_though_nothing_comes_to_an_end(run, monkeypatch):
    starts = Starts(monkeypatch, 1)
    running = run(threads=3)
    clients = running.hold(1)
    with running.send(b"quick") as waiting:
        until(lambda: starts.failed >= 2)
        starts.most = 5
        assert waiting.recv(100) == b"quick"
    running.release(clients)


# -- the end


def test_a_stop_while_a_thread_is_being_started(run, monkeypatch):
    starting, gate, started = threading.Event(), threading.Event(), []
    start = threading.Thread.start

    def slow_start(thread):
        if thread.name.startswith("worker-"):
            if started:
                starting.set()
                assert gate.wait(30)
            started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", slow_start)
    running = run(threads=4, min_spare=1)
    until(lambda: running.server.idle == 1)
    with running.send(b"quick") as client:
        assert starting.wait(20)
        running.server.stop()
        until(lambda: running.server.stopping)
        gate.set()
        assert client.recv(100) == b"quick"
    running._thread.join(20)
    assert len(started) == 2
    assert not any(worker.is_alive() for worker in started)
    assert running.failure is None


def test_nobody_is_started_after_a_stop(run):
    """Else one would be there that the end does not wait for."""
    running = run(threads=4)
    until(lambda: running.server.idle == 1)
    begin = running.server._begin

    def stop_first():
        running.server.stop()
        begin()

    running.server._begin = stop_first
    assert running.ask() == b"quick"
    running._thread.join(20)
    assert next(running.server._numbers) == 1
    assert running.failure is None


def test_a_stop_waits_for_what_runs_and_does_what_was_submitted(run):
    running = run(threads=2)
    clients = running.hold(2)
    done = []
    for n in range(3):
        running.server.submit(lambda n=n: done.append(n))
    running.server.stop()
    assert not done
    running.release(clients)
    running._thread.join(20)
    assert sorted(done) == [0, 1, 2]


def test_descriptors_are_given_back_and_a_late_stop_harms_nobody(run):
    before = len(os.listdir("/proc/self/fd"))
    running = run(threads=3)
    with running.send(b"keep") as kept:
        assert kept.recv(100) == b"keep"
        running.release(running.hold(2))
        running.end()
    running.listener.close()
    assert len(os.listdir("/proc/self/fd")) == before
    ends = [os.pipe() for _ in range(4)]  # on the numbers that became free
    running.server.stop()
    for reading, writing in ends:
        os.set_blocking(reading, False)
        with pytest.raises(BlockingIOError):
            os.read(reading, 1)
        os.close(reading)
        os.close(writing)


# -- the scoreboard


@pytest.fixture
def slot():
    board = Scoreboard(1, 4)
    slot = board.slot(0)
    slot.set_capacity(4)
    yield slot
    board.close()


def exchange(**environ):
    return SimpleNamespace(noted=None, environ=environ, note_stage=None)


@contextmanager
def served_at_once(observed, slot, count):
    """Have *count* requests, each in a thread of its own, that end with the block."""
    gate = threading.Event()
    busy = threading.Semaphore(0)

    def cycle(exchange):
        busy.release()
        assert gate.wait(30)

    threads = [
        threading.Thread(target=observed, args=(exchange(REQUEST_URI=f"/{n}"), cycle))
        for n in range(count)
    ]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert busy.acquire(timeout=20)
    yield {thread.ident for thread in threads}
    gate.set()
    for thread in threads:
        thread.join(20)


def test_the_scoreboard_is_right_after_many_threads_came_and_went(slot):
    observed = Threaded(lambda exchange: None, slot, 0.0)
    for _ in range(30):
        thread = threading.Thread(target=observed, args=(exchange(),))
        thread.start()
        thread.join(20)
    assert (slot.begun(), slot.active()) == (30, 0)
    for served in (34, 38):
        with served_at_once(observed, slot, 4) as idents:
            assert slot.active() == 4
            assert {slot.request(n).uri for n in range(4)} == {"/0", "/1", "/2", "/3"}
            assert {entry.thread for entry, _ in observed.running()} == idents
        assert (slot.begun(), slot.active()) == (served, 0)
        assert not list(observed.running())


def test_more_threads_than_entries_are_all_counted_and_found(slot):
    observed = Threaded(lambda exchange: None, slot, 0.0)
    for served in (11, 22):
        with served_at_once(observed, slot, 11) as idents:
            assert (slot.begun(), slot.active()) == (served, 4)
            assert {entry.thread for entry, _ in observed.running()} == idents
        assert (slot.begun(), slot.active()) == (served, 0)
        assert not list(observed.running())
    observed(exchange())
    assert slot.begun() == 23


def test_a_request_that_fails_gives_its_entry_back(slot):
    def fails(exchange):
        raise ValueError

    observed = Threaded(fails, slot, 0.0)
    for _ in range(10):
        with pytest.raises(ValueError, match=r"^$"):
            observed(exchange())
        with pytest.raises(AttributeError):  # before it has begun
            observed(SimpleNamespace(noted=None))
    with served_at_once(observed, slot, 4):
        assert slot.active() == 4
        assert {slot.request(n).uri for n in range(4)} == {"/0", "/1", "/2", "/3"}


# -- a served application

FCGI = ("server_apps:wsgi", "--sapi", "fcgi-threaded", "--threads", "4")


def test_fastcgi_threads_come_with_the_requests(tmp_path):
    def threads():
        return len(os.listdir(f"/proc/{served.process.pid}/task")) - 1

    def status():
        answer = fetch(served.address, SCRIPT_NAME="/status", PATH_INFO="", QUERY_STRING="json")
        return json.loads(answer.body)

    marker = tmp_path / "go"
    with serving(tmp_path, *FCGI, "--status-path", "/status") as served, ExitStack() as clients:
        until(lambda: threads() == 1)
        waiting = []
        for n in range(4):
            client = clients.enter_context(Client(served.address))
            begun = tmp_path / f"{n}.begun"
            (tmp_path / f"{n}").symlink_to(marker)
            client.send(PATH_INFO="/wait", QUERY_STRING=str(tmp_path / f"{n}"))
            until(begun.exists)
            waiting.append(client)
            assert min(n + 2, 4) <= threads() <= 4
            if n < 3:
                assert status()["active requests"] == n + 2  # with the one that asks
        last = clients.enter_context(Client(served.address))
        last.send(PATH_INFO="/last")
        marker.touch()
        assert [client.answer().body for client in waiting] == [b"waited"] * 4
        assert last.answer().body == b"/last"
        until(lambda: status()["active requests"] == 1)
        assert status()["accepted conn"] >= 10
        assert threads() == 4


def test_fastcgi_requests_taken_before_a_stop_are_answered(tmp_path):
    """Two come on one connection: the second is to be served by a thread that is busy still."""
    go, first = tmp_path / "go", tmp_path / "first"
    with (
        serving(tmp_path, *FCGI[:-1], "2") as served,
        Client(served.address) as busy,
        Client(served.address) as client,
    ):
        busy.send(PATH_INFO="/wait", QUERY_STRING=str(go))
        until(Path(f"{go}.begun").exists)
        data = b""
        for number, path in enumerate(("/wait", "/second"), 1):
            params = {**PARAMS, "PATH_INFO": path, "QUERY_STRING": str(first)}
            client.answers[number] = Answer()
            pairs = [(name.encode(), value.encode()) for name, value in params.items()]
            data += client.codec.begin(number, pairs, keep_conn=True)
            data += client.codec.stdin(number, b"")
        client.socket.sendall(data)
        until(Path(f"{first}.begun").exists)
        served.signal(signal.SIGQUIT)
        first.touch()
        go.touch()
        assert client.answer(1).body == b"waited"
        assert client.answer(2).body == b"/second"
        assert busy.answer().body == b"waited"
        assert served.wait() == 0
