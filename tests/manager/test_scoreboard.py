"""The memory that workers and their master share: exact, whole for a reader, and not believed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastcgi_client import Client, fetch
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import serving, until

from sapi_adapters.adapters import observing
from sapi_adapters.adapters.observing import Entry, Limit, Threaded
from sapi_adapters.manager.children import Child
from sapi_adapters.manager.config import Pool
from sapi_adapters.manager.scoreboard import (
    ENDING,
    ENTRIES,
    ENTRY,
    FINISHING,
    IDLE,
    READING,
    RUNNING,
    Head,
    Scoreboard,
)
from sapi_adapters.manager.status import render
from sapi_adapters.manager.summary import summarize

KINDS = ("", "full", "html&full", "xml&full", "json&full", "openmetrics", "openmetrics=strict")


def exchange(**environ: str) -> SimpleNamespace:
    return SimpleNamespace(environ=environ, note_stage=None, noted=None, task=None)


@pytest.fixture
def board():
    made = Scoreboard(3, 4)
    yield made
    made.close()


def seat(board: Scoreboard, index: int = 0, capacity: int = 1, **more: float) -> Entry:
    """Put a worker into a slot; return its first entry."""
    slot = board.slot(index)
    slot.set_capacity(capacity)
    head = {"pid": 100 + index, "number": 1 + index, "generation": 1, "leaving": False}
    slot.write_head(**{**head, "started": 1.0, "epoch": 2.0, "memory": 4096, **more})
    return Entry(slot, 0)


def summary(board: Scoreboard, **more: object):
    return summarize(board, Pool(**more), sapi="fcgi-prefork", version="1")  # type: ignore[arg-type]


def totals(board: Scoreboard) -> int:
    """Return how many requests were begun, as a reader sees it."""
    head, rows = board.read()
    return head.accepted + sum(r.begun for row in rows for r in row.requests)


# -- what is written is read ------------------------------------------------------------------


def test_an_entry_tells_of_its_request(board):
    entry = seat(board)
    request = exchange(
        REQUEST_METHOD="POST",
        CONTENT_LENGTH="12",
        REMOTE_USER="j\xe9",
        REQUEST_URI="/a?b",
        SCRIPT_FILENAME="/s",
    )
    entry.begin(request)
    (row,) = board.read()[1]
    assert (row.pid, row.number, row.generation, row.leaving) == (100, 1, 1, False)
    assert (row.started, row.started_epoch, row.memory, row.capacity) == (1.0, 2.0, 4096, 1)
    (found,) = row.requests
    assert (found.stage, found.begun, found.ended) == (RUNNING, 1, 0.0)
    assert found[5:] == ("POST", 12, "j\xe9", "/a?b", "/s")
    entry.note(ENDING)
    assert board.slot(0).request(0).stage == ENDING
    entry.end()
    after = board.slot(0).request(0)
    assert (after.stage, after.begun, after.started) == (IDLE, 1, found.started)
    assert after.ended >= after.started > 0
    assert after[5:] == found[5:], "the last request stays to be seen"


def test_what_is_too_long_is_cut_and_what_is_missing_is_empty(board):
    entry = seat(board)
    entry.begin(exchange(REQUEST_URI="/" + "x" * 5000, CONTENT_LENGTH="9" * 40))
    found = board.slot(0).request(0)
    assert found.uri == "/" + "x" * 255
    assert found.content_length == int("9" * 16)
    entry.begin(exchange(PATH_INFO="/path", CONTENT_LENGTH="many"))
    found = board.slot(0).request(0)
    assert (found.uri, found.method, found.content_length) == ("/path", "", 0)


def test_entries_and_slots_do_not_touch_each_other(board):
    entries = []
    for index in range(3):
        seat(board, index, capacity=4)
        entries += [Entry(board.slot(index), n) for n in range(4)]
    assert Entry(board.slot(1), 0).at - Entry(board.slot(0), 3).at >= ENTRY
    for count, entry in enumerate(entries, 1):
        for _ in range(count):
            entry.begin(exchange(REQUEST_URI="/" * 400, SCRIPT_FILENAME="/" * 400))
    rows = board.read()[1]
    assert [r.begun for row in rows for r in row.requests] == list(range(1, 13))
    assert [sum(r.stage == RUNNING for r in row.requests) for row in rows] == [4, 4, 4]


def test_capacity_is_what_there_is(board):
    slot = board.slot(0)
    assert [slot.set_capacity(n) for n in (-5, 0, 3, 99)] == [1, 1, 3, 4]


def test_a_worker_shows_its_entries_before_its_master_does(board):
    """Else requests go uncounted until the master looks again."""
    seat(board)
    board.slot(0).set_capacity(3)
    for n in range(3):
        Entry(board.slot(0), n).begin(exchange())
    assert totals(board) == 3


def test_the_head_is_read_as_it_was_published(board):
    board.head = Head(*range(1, 15 + 1), last_failure="why \N{EURO SIGN}" * 200)
    board.publish()
    head, rows = board.read()
    assert rows == []
    assert head.last_failure.startswith("why \N{EURO SIGN}why")
    assert len(head.last_failure.encode()) <= 516
    assert {**vars(head), "last_failure": ""} == {**vars(board.head), "last_failure": ""}
    board.head = Head()
    board.load_head()
    assert board.head.max_listen_queue == 6


def test_the_memory_is_found_again_by_its_descriptor(board):
    seat(board, 2).begin(exchange())
    board.head.accepted = 5
    board.publish()
    again = Scoreboard(3, 4, fd=os.dup(board.fd))
    again.load_head()
    assert again.head.accepted == 5
    assert totals(again) == 6
    again.close()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot move a mapping")
def test_it_grows_and_those_who_had_it_see_what_they_know(board):
    before = Scoreboard(3, 4, fd=os.dup(board.fd))
    old = seat(board, 2)
    old.begin(exchange())
    assert board.grow(3) == range(3, 3)
    assert board.grow(5) == range(3, 5)
    new = seat(board, 4)
    new.begin(exchange())
    old.begin(exchange())
    board.head.accepted = 10
    board.publish()
    assert totals(board) == 13
    assert totals(before) == 12
    after = Scoreboard(5, 4, fd=os.dup(board.fd))
    assert totals(after) == 13
    before.close()
    after.close()


# -- the counts are exact -------------------------------------------------------------------------


def test_threads_count_each_request_once(board):
    seat(board, capacity=4)
    slot = board.slot(0)
    slot.set_capacity(4)
    observed = Threaded(lambda exchange: None, slot, 0.0)
    barrier = threading.Barrier(4)

    def serve(requests: int) -> None:
        barrier.wait(10)
        for _ in range(requests):
            observed(exchange())

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(serve, 500 + n) for n in range(4)]:
            done.result(20)
    assert slot.begun() == totals(board) == 2006
    assert slot.active() == 0


def test_a_slot_that_is_another_workers_now_begins_anew(board):
    entry = seat(board, 1)
    for _ in range(7):
        entry.begin(exchange(REQUEST_URI="/secret", REMOTE_USER="somebody"))
    board.head.accepted += board.slot(1).begun()
    board.publish(freed=1)
    assert totals(board) == 7
    seat(board, 1).begin(exchange())
    assert totals(board) == 8
    (row,) = board.read()[1]
    assert row.requests[0][5:] == ("", 0, "", "", "")


def json_status(address: str) -> dict[str, object]:
    answer = fetch(address, SCRIPT_NAME="/status", PATH_INFO="", QUERY_STRING="json&full")
    found = json.loads(answer.body)
    assert isinstance(found, dict)
    return found


class Load:
    """Requests from several threads; counts those that were answered."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.answered = 0

    def run(self, threads: int, requests: int) -> None:
        def some() -> int:
            return sum(fetch(self.address, PATH_INFO="/x").body == b"/x" for _ in range(requests))

        with ThreadPoolExecutor(threads) as pool:
            self.answered += sum(pool.map(lambda _: some(), range(threads)))


@pytest.mark.parametrize("sapi", ["fcgi-prefork", "fcgi-threaded"])
def test_accepted_is_exact_over_workers_that_come_and_go(tmp_path, sapi):
    options = ("--sapi", sapi, "--workers", "2", "--max-requests", "9", "--status-path", "/status")
    with serving(tmp_path, "server_apps:wsgi", *options) as served:
        load = Load(served.address)
        load.run(4, 25)
        served.signal(signal.SIGUSR2)
        load.run(4, 25)
        until(lambda: "generation 2 serves" in served.text)
        load.run(2, 5)
        assert load.answered == 210
        assert json_status(served.address)["accepted conn"] == 211  # this one, too


def test_accepted_and_lost_are_exact_over_kills(tmp_path):
    options = ("--workers", "2", "--status-path", "/status")
    with serving(tmp_path, "server_apps:wsgi", *options) as served:
        load = Load(served.address)
        for kills in range(1, 4):
            load.run(2, 10)
            assert fetch(served.address, PATH_INFO="/kill").ended is None
            until(
                lambda kills=kills: json_status(served.address)["lost requests"] == kills,
            )
        before = json_status(served.address)["accepted conn"]
        load.run(2, 10)
        assert json_status(served.address)["accepted conn"] == before + 21
        assert load.answered == 80


# -- a reader sees one moment ---------------------------------------------------------------------

WRITER = """
import sys, time
from types import SimpleNamespace
from sapi_adapters.adapters.observing import Entry
from sapi_adapters.manager.scoreboard import Scoreboard
board = Scoreboard(2, 4, fd=int(sys.argv[1]))
environ = {"REQUEST_URI": "/" + "x" * 200}
request = SimpleNamespace(environ=environ, note_stage=None, noted=None, task=None)
slot = board.slot(1)
print("writing", flush=True)
end = time.monotonic() + 20
number = 0
while time.monotonic() < end:
    number += 1
    slot.write_head(100, number, 1, False, 1.0, 2.0, 4096)
    entry = Entry(slot, 0)
    for _ in range(200):
        entry.begin(request)
        entry.end()
    board.head.accepted += slot.begun()
    board.head.lost += 200
    board.publish(freed=1)
    slot.write_head(100, number, 1, False, 1.0, 2.0, 4096)
    for _ in range(20):
        slot.write_head(100, number, 1, False, 1.0, 2.0, 4096)
"""


def test_counts_never_fall_while_they_are_written():
    """What a worker has counted goes to the head when its slot is cleared, in one step."""
    board = Scoreboard(2, 4)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(board.fd)], pass_fds=[board.fd], stdout=subprocess.PIPE
    )
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        until(lambda: totals(board) > 0)
        seen = 0
        for _ in range(20_000):
            head, rows = board.read()
            now = head.accepted + sum(r.begun for row in rows for r in row.requests)
            assert now >= seen
            assert head.lost == head.accepted
            assert len(rows) <= 1
            seen = now
            if seen > 100_000:
                break
        assert seen > 1000
    finally:
        writer.kill()
        writer.communicate(timeout=10)
        board.close()


def test_a_worker_does_not_vanish_while_its_head_is_written():
    board = Scoreboard(2, 4)
    writer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            WRITER.replace("board.publish(freed=1)", "").replace("range(20)", "range(100000)"),
            str(board.fd),
        ],
        pass_fds=[board.fd],
        stdout=subprocess.PIPE,
    )
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        until(lambda: board.read()[1])
        assert all(len(board.read()[1]) == 1 for _ in range(50_000))
    finally:
        writer.kill()
        writer.communicate(timeout=10)
        board.close()


def test_a_head_that_is_never_whole_is_read_all_the_same(board):
    """Its writer died in the middle: reading ends nevertheless, and the next writer mends it."""
    seat(board).begin(exchange())
    board.memory[0] = 7
    assert totals(board) == 1
    board.publish()
    assert board.memory[0] == 8


# -- what a worker writes is not believed ---------------------------------------------------------


def hostile(board: Scoreboard, data: bytes, at: int) -> None:
    """Write what a worker could write."""
    size = len(board.memory)
    at %= size
    board.memory[at : at + len(data)] = data[: size - at]


BYTES = st.one_of(
    st.binary(min_size=1, max_size=600),
    st.sampled_from([b"\xff", b"\x00", b"\x7f", b"\x80"]).map(lambda byte: byte * 700),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e308, -1e308]).map(
        lambda value: __import__("struct").pack("=64d", *[value] * 64)
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(BYTES, st.integers(0, 20_000)), max_size=6), st.integers(0, 2**32))
def test_nothing_that_a_worker_writes_raises(written, seed):
    board = Scoreboard(3, 4)
    try:
        for index in range(3):
            entry = seat(board, index, capacity=4)
            entry.begin(exchange(REQUEST_URI="/x"))
        board.publish()
        for data, at in written:
            hostile(board, data, at)
        child = Child(1, 1, 100, None, board.slot(0), 0, started=50.0)  # type: ignore[arg-type]
        child.slot.set_capacity(random.Random(seed).randint(1, 4))
        for finishing in (False, True):
            view = child.view(100.0, finishing)
            for moment in (view.busy_since, view.slow_since):
                assert moment == 0.0 or 50.0 <= moment <= 100.0
            assert 50.0 <= view.last_activity <= 100.0
        assert 0 <= child.slot.active() <= child.slot.capacity
        assert 0 <= child.slot.begun() <= child.slot.capacity << 48
        found = summary(board)
        for kind in KINDS:
            render(found, kind)
        assert all(p.active_requests <= p.capacity <= 4 for p in found.processes)
        assert all(0 <= p.request_duration < 1e12 for p in found.processes)
        assert all(0 <= p.start_since < 1e12 for p in found.processes)
        # The master goes on counting, whatever it found.
        board.head.accepted += sum(board.slot(n).begun() for n in range(3))
        board.publish(freed=0)
        assert board.read()[0].accepted == board.head.accepted
    finally:
        board.close()


def test_counts_that_do_not_fit_are_published_as_the_largest(board):
    board.head.accepted = board.head.lost = 1 << 70
    board.publish()
    assert board.read()[0].accepted == (1 << 64) - 1


@pytest.mark.parametrize("sequence", [b"\xff" * 8, b"\xfe" + b"\xff" * 7])
def test_a_spoilt_sequence_does_not_stop_the_master(board, sequence):
    board.memory[:8] = sequence
    board.head.accepted = 3
    board.publish()
    assert board.read()[0].accepted == 3


# -- the summary ----------------------------------------------------------------------------------


def test_a_summary_tells_idle_from_active():
    board = Scoreboard(4, 4)
    try:
        seat(board, 0)
        seat(board, 1).begin(exchange(REQUEST_METHOD="GET", REQUEST_URI="/one"))
        crowd = seat(board, 2, capacity=2)
        crowd.begin(exchange(REQUEST_URI="/eldest"))
        full = seat(board, 3, capacity=2, number=9)
        full.begin(exchange(REQUEST_URI="/first"))
        Entry(board.slot(3), 1).begin(exchange(REQUEST_URI="/second"))
        board.head.accepted, board.head.lost, board.head.max_active = 40, 2, 1
        board.head.listen_queue, board.head.slow = 5, 6
        board.publish()
        found = summary(board, name="www", pm="dynamic", pm_max_children=7)
        assert (found.pool, found.process_manager, found.max_children) == ("www", "dynamic", 7)
        assert found.accepted_conn == 44
        assert (found.idle_processes, found.active_processes) == (2, 2)
        assert found.max_active_processes == 2
        assert (found.active_requests, found.lost_requests) == (4, 2)
        assert (found.listen_queue, found.slow_requests) == (5, 6)
        assert found.memory == 4 * 4096
        assert [p.state for p in found.processes] == ["Idle", "Running", "Running", "Running"]
        assert [p.request_uri for p in found.processes] == ["", "/one", "/eldest", "/first"]
        assert [p.requests for p in found.processes] == [0, 1, 1, 2]
        assert [p.capacity for p in found.processes] == [1, 1, 2, 2]
    finally:
        board.close()


def test_a_worker_is_told_by_its_longest_request_then_by_its_last(board, monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: clock.now, thread_time=lambda: clock.cpu)
    clock.now, clock.cpu = 100.0, 0.0
    monkeypatch.setattr(observing, "time", clock)
    monkeypatch.setattr("sapi_adapters.manager.summary.time", clock)
    seat(board, capacity=2)
    one, two = Entry(board.slot(0), 0), Entry(board.slot(0), 1)
    one.begin(exchange(REQUEST_URI="/one"))
    clock.now = 103.0
    two.begin(exchange(REQUEST_URI="/two"))
    clock.now = 105.0
    (shown,) = summary(board).processes
    assert (shown.request_uri, shown.request_duration, shown.state) == ("/one", 5.0, "Running")
    assert (shown.last_request_cpu, shown.last_request_memory) == (0.0, 0)
    one.end()
    (shown,) = summary(board).processes
    assert (shown.request_uri, shown.request_duration) == ("/two", 2.0)
    clock.now = 107.0
    two.end()
    clock.now = 500.0
    (shown,) = summary(board).processes
    assert (shown.request_uri, shown.request_duration, shown.state) == ("/two", 4.0, "Idle")
    assert shown.last_request_memory == 4096
    # The clock of CPU time is read after a request that took long.
    clock.cpu = 10.0
    two.begin(exchange(REQUEST_URI="/third"))
    clock.now, clock.cpu = 510.0, 12.5
    two.end()
    (shown,) = summary(board).processes
    assert (shown.request_uri, shown.last_request_cpu) == ("/third", 25.0)


@pytest.mark.parametrize(
    ("stage", "name", "active"),
    [
        (IDLE, "Idle", 0),
        (READING, "Reading headers", 0),
        (RUNNING, "Running", 1),
        (ENDING, "Ending", 1),
        (FINISHING, "Finishing", 1),
        (77, "Idle", 0),
    ],
)
def test_stages_have_their_names(board, stage, name, active):
    entry = seat(board)
    entry.begin(exchange())
    entry.note(stage)
    found = summary(board)
    assert [p.state for p in found.processes] == [name]
    assert found.active_requests == active


# -- the limit of requests ------------------------------------------------------------------------


class Leaver:
    """Stands for a worker and its SAPI: notes when what was said."""

    def __init__(self, now: float, took: float) -> None:
        self.started = now - took
        self.served = 0
        self.announced: list[int] = []
        self.ended: list[int] = []

    def last_requests(self) -> None:
        self.announced.append(self.served)

    def terminate_process(self) -> None:
        self.ended.append(self.served)


def serve_to_the_end(monkeypatch, last: int, took: float, each: float, most: int) -> Leaver:
    clock = SimpleNamespace(monotonic=lambda: clock.now)
    clock.now = 1000.0
    monkeypatch.setattr(observing, "time", clock)
    leaver = Leaver(clock.now, took)
    limit = Limit(leaver, leaver, last)  # type: ignore[arg-type]
    while not leaver.ended and leaver.served < most:
        leaver.served += 1
        limit.begin()
        clock.now += each
        limit.end()
    return leaver


@pytest.mark.parametrize("last", [1, 2, 3, 10, 100, 5000])
@pytest.mark.parametrize(("took", "each"), [(0.5, 0.001), (0.5, 0.1), (0.0, 0.01), (3.0, 10.0)])
def test_a_limit_is_exact_and_announced_in_time(monkeypatch, last, took, each):
    leaver = serve_to_the_end(monkeypatch, last, took, each, last + 5)
    assert leaver.ended == [last]
    assert len(leaver.announced) == 1
    left = (last - leaver.announced[0]) * each
    # In time for another to start, but never in the first half, where nothing is known of the pace.
    assert left >= took - each or leaver.announced[0] <= max(1, last // 2)
    assert left <= max(4 * took + 2 * each, each)


def test_a_limit_counts_what_ends_not_what_begins():
    leaver = Leaver(0.0, 0.0)
    limit = Limit(leaver, leaver, 2)  # type: ignore[arg-type]
    for _ in range(3):
        limit.begin()
    assert leaver.ended == []
    limit.end()
    assert leaver.ended == []
    limit.end()
    assert len(leaver.ended) == 1


def test_a_limit_of_threads_is_announced_once():
    leaver = Leaver(0.0, 0.0)
    limit = Limit(leaver, leaver, 4000)  # type: ignore[arg-type]
    barrier = threading.Barrier(4)

    def serve() -> None:
        barrier.wait(10)
        for _ in range(1000):
            limit.begin()
            limit.end()

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(serve) for _ in range(4)]:
            done.result(20)
    assert 1 <= len(leaver.announced) <= 4  # the master takes it for one word
    assert len(leaver.ended) == 1


def test_a_reload_with_more_slots_keeps_the_counts(tmp_path):
    """The workers of the old generation may be on another memory than the new ones."""
    conf, app = tmp_path / "pool.conf", Path(__file__).parent.parent / "servers"
    address, marker = str(tmp_path / "s"), tmp_path / "go"
    text = (
        "[www]\n"
        f"app = server_apps:wsgi\npython_path = {app}\nlisten = {address}\n"
        "pm = static\npm.max_children = {children}\npm.status_path = /status\n"
    )
    conf.write_text(text.format(children=2))
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sapi_adapters", "-R", "--config", str(conf)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=tmp_path,
        )
    try:
        load = Load(address)
        load.run(2, 10)
        with Client(address) as held:
            held.send(PATH_INFO="/wait", QUERY_STRING=str(marker))
            until(Path(f"{marker}.begun").exists)
            conf.write_text(text.format(children=4))
            process.send_signal(signal.SIGHUP)
            until(lambda: "generation 2 serves" in log.read_text())
            load.run(2, 10)
            before = json_status(address)["accepted conn"]
            marker.touch()
            assert held.answer().body == b"waited"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        until(lambda: len(children.read_text().split()) == 4)
        after = json_status(address)["accepted conn"]
        assert after == before + 1  # type: ignore[operator]
        assert load.answered == 40
    finally:
        process.terminate()
        process.wait(15)


def test_a_scoreboard_has_room_for_what_an_event_loop_serves():
    assert ENTRIES == 100
    board = Scoreboard(1)
    try:
        assert board.slot(0).set_capacity(500) == 100
    finally:
        board.close()
