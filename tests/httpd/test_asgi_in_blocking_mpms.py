"""ASGI applications under prefork and worker: a loop beside the threads that serve."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from httpd.hosting import Hosted, hosting
from serving import until

APP = '''
import asyncio, json, os, sys, threading, time

def say(*what):
    print(*what, flush=True)


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        assert (await receive())["type"] == "lifespan.startup"
        if os.path.exists("refuse"):
            await send({"type": "lifespan.startup.failed", "message": "not today"})
            return
        scope["state"]["thread"] = threading.current_thread().name
        scope["state"]["ticks"] = 0
        state = scope["state"]
        asyncio.ensure_future(tick(state))
        say("STARTED", os.getpid())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if os.path.exists("stay"):
            await asyncio.sleep(600)
        if os.path.exists("block"):
            time.sleep(600)
        say("STOPPED", os.getpid())
        await send({"type": "lifespan.shutdown.complete"})
        return
    await globals()[scope["path"].split("/")[2]](scope, receive, send)


async def tick(state):
    while True:
        await asyncio.sleep(0.01)
        state["ticks"] += 1


async def answer(send, body, status=200, more=False):
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def where(scope, receive, send):
    told = [scope["state"]["thread"], threading.current_thread().name, os.getpid()]
    await answer(send, json.dumps(told).encode())


async def echo(scope, receive, send):
    size, more = 0, True
    while more:
        event = await receive()
        size += len(event["body"])
        more = event["more_body"]
    await answer(send, str(size).encode())


async def large(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for n in range(100):
        await send({"type": "http.response.body", "body": bytes([n]) * 70000, "more_body": True})
    await send({"type": "http.response.body"})


async def fails(scope, receive, send):
    raise RuntimeError("before the response")


async def breaks(scope, receive, send):
    await answer(send, b"begun", more=True)
    raise RuntimeError("within the response")


async def both(scope, receive, send):
    """Send while the body has not come; say each piece of it back."""
    await answer(send, b"first.", more=True)
    reading = asyncio.ensure_future(receive())
    await asyncio.sleep(0.05)
    await send({"type": "http.response.body", "body": b"second.", "more_body": True})
    event = await reading
    await send({"type": "http.response.body", "body": event["body"]})


async def until_gone(scope, receive, send):
    while (event := await receive())["type"] == "http.request" and event["more_body"]:
        pass
    await answer(send, b"begun", more=True)
    say("WAITS")
    event = await receive()
    say("SAW", event["type"])


async def stream(scope, receive, send):
    """As frameworks do it: send until a task of its own has seen the client go."""
    while (await receive()).get("more_body"):
        pass
    gone = asyncio.ensure_future(receive())
    await answer(send, b"begun", more=True)
    n = 0
    while not gone.done():
        await asyncio.sleep(0.02)
        try:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        except OSError:
            break
        n += 1
    say("STREAM ENDED", (await asyncio.wait_for(gone, 10))["type"])


async def after(scope, receive, send):
    await answer(send, b"answered")
    await asyncio.sleep(0.3)
    say("AND AFTER")


async def disconnect_after(scope, receive, send):
    await receive()
    waiting = asyncio.ensure_future(receive())
    await asyncio.sleep(0.05)  # it waits by now
    await answer(send, b"answered")
    say("AFTER THE ANSWER", (await waiting)["type"])


async def sleeps(scope, receive, send):
    say("SLEEPS", os.getpid())
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        say("CANCELLED", os.getpid())
        raise


async def blocks(scope, receive, send):
    say("BLOCKS", os.getpid())
    time.sleep(600)


async def ticks(scope, receive, send):
    await answer(send, str(scope["state"]["ticks"]).encode())


meeting = []

async def meet(scope, receive, send):
    meeting.append(asyncio.get_running_loop())
    while len(meeting) < 3:
        await asyncio.sleep(0.01)
    await answer(send, str(len(set(map(id, meeting)))).encode())
'''
CONFIGURATION = """
LoadModule sapi_module sapi_adapters.adapters.mod_sapi
<Location /app>
    SetHandler sapi-script
    SapiApp beside_app:app
</Location>
"""
MPMS = ["prefork", "worker"]


def host_of(folder: Path, mpm: str, more: str = "") -> object:
    (folder / "beside_app.py").write_text(APP)
    return hosting(folder, CONFIGURATION + more, mpm)


@pytest.fixture(scope="module", params=MPMS)
def host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hosted]:
    folder = tmp_path_factory.mktemp("beside")
    (folder / "beside_app.py").write_text(APP)
    with hosting(folder, CONFIGURATION, request.param) as hosted:
        yield hosted


CHUNKED = -1


def begin(host: Hosted, path: str, body: bytes = b"", length: int | None = None) -> socket.socket:
    """Return a connection with a request on it, of whose body there may be more."""
    connected = socket.create_connection(host.address, 15)
    framing = f"Content-Length: {len(body) if length is None else length}"
    if length == CHUNKED:
        framing = "Transfer-Encoding: chunked"
    fields = f"Host: localhost\r\n{framing}\r\n\r\n"
    connected.sendall(f"POST {path} HTTP/1.1\r\n{fields}".encode() + body)
    return connected


def read_until(connected: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        block = connected.recv(65536)
        assert block, data
        data += block
    return data


def test_the_loop_has_a_thread_of_its_own(host: Hosted) -> None:
    started, serving, pid = json.loads(host.get("/app/where").body)
    assert started == serving == "asgi-loop"
    assert pid in host.workers()


def test_it_lives_between_requests(host: Hosted) -> None:
    pids = {json.loads(host.get("/app/where").body)[2] for _ in range(3)}
    before = int(host.get("/app/ticks").body)
    until(lambda: int(host.get("/app/ticks").body) > before + 10)
    assert all(host.log.count(f"STARTED {pid}\n") == 1 for pid in pids)


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 5_000_000])
def test_bodies_come_in(host: Hosted, size: int) -> None:
    assert host.request("POST", "/app/echo", bytes(size)).body == str(size).encode()


def test_a_body_in_chunks(host: Hosted) -> None:
    pieces = (bytes(n * 100) for n in range(1, 100))
    answer = host.request("POST", "/app/echo", pieces)  # no length is known, so it is chunked
    assert answer.body == b"495000"


def test_a_body_that_waits_for_100_continue(host: Hosted) -> None:
    with socket.create_connection(host.address, 15) as connected:
        connected.sendall(
            b"POST /app/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert read_until(connected, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        connected.sendall(b"hello")
        assert read_until(connected, b"\r\n\r\n5").startswith(b"HTTP/1.1 200 ")


def test_a_large_response(host: Hosted) -> None:
    assert host.get("/app/large").body == b"".join(bytes([n]) * 70000 for n in range(100))


def test_requests_on_one_connection(host: Hosted) -> None:
    connection = host.connect()
    for n in range(20):
        connection.request("POST", "/app/echo", body=bytes(n))
        assert connection.getresponse().read() == str(n).encode()
    connection.close()


def test_errors(host: Hosted) -> None:
    assert host.get("/app/fails").status == 500
    assert "before the response" in host.log
    with begin(host, "/app/breaks") as connected:
        data = b""
        try:
            while block := connected.recv(65536):
                data += block
        except ConnectionResetError:
            pass
        assert not data.endswith(b"0\r\n\r\n"), "the end of the chunks"
    assert "within the response" in host.log


def test_it_may_send_while_it_waits_for_the_body(host: Hosted) -> None:
    with begin(host, "/app/both", b"", CHUNKED) as connected:
        data = read_until(connected, b"second.\r\n")
        assert b"first." in data
        connected.sendall(b"4\r\nbody\r\n")
        assert read_until(connected, b"0\r\n\r\n").endswith(b"4\r\nbody\r\n0\r\n\r\n")


def test_a_client_that_goes_is_seen(host: Hosted) -> None:
    seen, waits = host.log.count("SAW http.disconnect"), host.log.count("WAITS")
    with begin(host, "/app/until_gone", b"hello") as connected:
        read_until(connected, b"begun\r\n")
        until(lambda: host.log.count("WAITS") > waits)
    until(lambda: host.log.count("SAW http.disconnect") > seen)


def test_a_client_that_goes_ends_a_stream(host: Hosted) -> None:
    with begin(host, "/app/stream") as connected:
        read_until(connected, b"x\r\n")
    until(lambda: "STREAM ENDED http.disconnect" in host.log)


def test_a_client_that_goes_within_its_body(host: Hosted) -> None:
    with begin(host, "/app/until_gone", b"hello", 100):
        pass
    assert host.get("/app/where").status == 200


def test_whoever_waits_for_a_disconnect_learns_of_the_end(host: Hosted) -> None:
    with begin(host, "/app/disconnect_after") as connected:  # which stays open
        read_until(connected, b"answered")
        until(lambda: "AFTER THE ANSWER http.disconnect" in host.log)


def test_work_after_the_response_is_done(host: Hosted) -> None:
    assert host.get("/app/after").body == b"answered"
    until(lambda: "AND AFTER" in host.log)


def test_what_a_client_sends_early_wakes_nobody(host: Hosted) -> None:
    """A second request waits while the first one's application waits for a disconnect."""
    with begin(host, "/app/after") as connected:
        connected.sendall(b"GET /app/where HTTP/1.1\r\nHost: localhost\r\n\r\n")
        data = read_until(connected, b"]")
        assert data.count(b"HTTP/1.1 200 ") == 2


def test_several_threads_share_one_loop(tmp_path: Path) -> None:
    with host_of(tmp_path, "worker") as host:  # type: ignore[attr-defined]
        found: list[bytes] = []
        asking = [
            threading.Thread(target=lambda: found.append(host.get("/app/meet").body))
            for _ in range(3)
        ]
        for each in asking:
            each.start()
        for each in asking:
            each.join(20)
        assert found == [b"1"] * 3
        assert host.log.count("STARTED") == 1


def test_many_requests_at_a_time(tmp_path: Path) -> None:
    with host_of(tmp_path, "worker") as host:  # type: ignore[attr-defined]
        found: list[bytes] = []

        def ask() -> None:
            connection = host.connect()
            for size in range(0, 200000, 10000):
                connection.request("POST", "/app/echo", body=bytes(size))
                found.append(connection.getresponse().read() == str(size).encode())
            connection.close()

        asking = [threading.Thread(target=ask) for _ in range(4)]
        for each in asking:
            each.start()
        for each in asking:
            each.join(30)
        assert found == [True] * 80


# -- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mpm", MPMS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGWINCH])
def test_the_life_span_ends_with_the_process(tmp_path: Path, mpm: str, number: int) -> None:
    with host_of(tmp_path, mpm) as host:  # type: ignore[attr-defined]
        pid = json.loads(host.get("/app/where").body)[2]
        host.process.send_signal(number)
        assert host.process.wait(15) == 0
        assert host.log.count(f"STOPPED {pid}\n") == 1


@pytest.mark.parametrize("mpm", MPMS)
@pytest.mark.parametrize("path", ["sleeps", "blocks"])
def test_a_running_request_does_not_hold_up_a_stop(tmp_path: Path, mpm: str, path: str) -> None:
    with host_of(tmp_path, mpm) as host:  # type: ignore[attr-defined]
        with begin(host, f"/app/{path}") as connected:
            until(lambda: path.upper() in host.log)
            host.process.send_signal(signal.SIGTERM)
            try:
                while connected.recv(65536):
                    pass
            except ConnectionResetError:
                pass
        assert host.process.wait(15) == 0
        if path == "sleeps":
            assert "CANCELLED" in host.log
            assert "STOPPED" in host.log


@pytest.mark.parametrize("mpm", MPMS)
@pytest.mark.parametrize("how", ["stay", "block"])
def test_a_life_span_that_does_not_end_is_left(tmp_path: Path, mpm: str, how: str) -> None:
    (tmp_path / how).touch()
    with host_of(tmp_path, mpm) as host:  # type: ignore[attr-defined]
        pid = json.loads(host.get("/app/where").body)[2]
        host.process.send_signal(signal.SIGTERM)
        assert host.process.wait(20) == 0
        assert not os.path.exists(f"/proc/{pid}")


@pytest.mark.parametrize("mpm", MPMS)
def test_a_graceful_stop_waits_for_the_response(tmp_path: Path, mpm: str) -> None:
    with host_of(tmp_path, mpm) as host, begin(host, "/app/both", b"", CHUNKED) as connected:  # type: ignore[attr-defined]
        read_until(connected, b"second.\r\n")
        host.process.send_signal(signal.SIGWINCH)
        connected.sendall(b"4\r\nbody\r\n0\r\n\r\n")
        assert read_until(connected, b"0\r\n\r\n").endswith(b"4\r\nbody\r\n0\r\n\r\n")
        assert host.process.wait(15) == 0
        assert "STOPPED" in host.log


@pytest.mark.parametrize("mpm", MPMS)
def test_an_application_that_refuses_to_start(tmp_path: Path, mpm: str) -> None:
    (tmp_path / "refuse").touch()
    with host_of(tmp_path, mpm) as host:  # type: ignore[attr-defined]
        for _ in range(2):
            assert host.get("/app/where").status == 500
        assert "the application refused to start: not today" in host.log
