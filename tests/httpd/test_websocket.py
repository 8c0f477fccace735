"""WebSockets of ASGI applications in the host, with a client library that knows nothing of it."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from httpd.hosting import Hosted, hosting
from serving import until

if os.environ.get("CI"):
    import websockets.sync.client as client
    import wsproto  # noqa: F401 - the host needs it
    from websockets.exceptions import ConnectionClosed, InvalidStatus
else:
    pytest.importorskip("wsproto")
    client = pytest.importorskip("websockets.sync.client")
    from websockets.exceptions import ConnectionClosed, InvalidStatus

APP = """
import asyncio, json

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["started"] = "yes"
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        body = str(sent).encode() if scope["path"].endswith("/sent") else b"plain"
        await send({"type": "http.response.body", "body": body})
        return
    await globals()[scope["path"].split("/")[2]](scope, receive, send)


async def echo(scope, receive, send):
    assert await receive() == {"type": "websocket.connect"}
    await send({"type": "websocket.accept"})
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            print("DISCONNECT", event["code"], event["reason"], flush=True)
            return
        await send({**event, "type": "websocket.send"})


async def tell(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept", "subprotocol": "second",
                "headers": [(b"x-more", b"of it")]})
    told = {name: scope[name] for name in
            ("type", "scheme", "path", "root_path", "subprotocols", "http_version", "state")}
    told["query"] = scope["query_string"].decode()
    told["extensions"] = sorted(scope["extensions"])
    told["method"] = "method" in scope
    await send({"type": "websocket.send", "text": json.dumps(told)})
    await send({"type": "websocket.close", "code": 3456, "reason": "f\\u00fcr Neues"})
    event = await receive()
    print("TOLD", event, flush=True)


async def refuse(scope, receive, send):
    await receive()
    await send({"type": "websocket.close"})


async def deny(scope, receive, send):
    await receive()
    await send({"type": "websocket.http.response.start", "status": 418,
                "headers": [(b"x-why", b"teapot")]})
    await send({"type": "websocket.http.response.body", "body": b"short ", "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b"and stout"})


async def silent(scope, receive, send):
    await receive()


async def broken(scope, receive, send):
    await receive()
    raise RuntimeError("before the answer")


async def breaks(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    raise RuntimeError("after the answer")


async def returns(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})


async def wrong(scope, receive, send):
    await receive()
    if "accept" in scope["path"]:
        await send({"type": "websocket.accept", "subprotocol": "nobody offered it"})
    await send({"type": "websocket.accept"})
    found = []
    for event in (
        {"type": "websocket.accept"},
        {"type": "websocket.send"},
        {"type": "websocket.send", "text": "a", "bytes": b"b"},
        {"type": "websocket.send", "text": b"a"},
        {"type": "websocket.send", "bytes": "b"},
        {"type": "websocket.close", "code": 1005},
        {"type": "websocket.close", "code": 1006},
        {"type": "websocket.close", "code": 99},
        {"type": "http.response.body", "body": b""},
    ):
        try:
            await send(event)
        except Exception as error:
            found.append(type(error).__name__)
    await send({"type": "websocket.send", "text": json.dumps(found)})


sent = 0

async def flood(scope, receive, send):
    global sent
    await receive()
    await send({"type": "websocket.accept"})
    try:
        for n in range(100000):
            await send({"type": "websocket.send", "bytes": bytes(100000)})
            sent = n
    except OSError as error:
        print("FLOOD ENDED", type(error).__name__, flush=True)


async def slow(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    first = await receive()
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            return
        if event.get("text") == "end":
            await send({"type": "websocket.send", "text": "ended"})
        await asyncio.sleep(0)


async def late(scope, receive, send):
    waiting = asyncio.ensure_future(receive())
    assert await waiting == {"type": "websocket.connect"}
    waiting = asyncio.ensure_future(receive())
    await asyncio.sleep(0.05)
    await send({"type": "websocket.accept"})
    event = await waiting
    await send({**event, "type": "websocket.send"})


async def gone(scope, receive, send):
    await receive()
    event = await receive()
    print("GONE", event["type"], event["code"], flush=True)


async def waits(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        print("CANCELLED", flush=True)
        raise
"""
CONFIGURATION = """
LoadModule sapi_module sapi_adapters.adapters.mod_sapi
<Location /app>
    SetHandler sapi-script
    SapiApp ws_app:app
</Location>
<Location /app/echo/small>
    SapiValue websocket.max_size 1000
</Location>
<Location /app/echo/deflate>
    SapiFlag websocket.deflate On
    SapiValue websocket.max_size 100000
</Location>
"""


def host_of(folder: Path, mpm: str = "event") -> Any:
    (folder / "ws_app.py").write_text(APP)
    return hosting(folder, CONFIGURATION, mpm)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosted]:
    with host_of(tmp_path_factory.mktemp("websocket")) as hosted:
        yield hosted


def connect(host: Hosted, name: str, **options: Any) -> Any:
    options.setdefault("compression", None)
    return client.connect(f"ws://127.0.0.1:{host.port}/app/{name}", open_timeout=15, **options)


# -- with the library -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        "",
        "hello",
        "für \U0001f40d",
        b"",
        b"\0\xff",
        "x" * 125,
        "x" * 126,
        b"y" * 65535,
        b"z" * 70000,
    ],
    ids=lambda message: f"{type(message).__name__}-{len(message)}",
)
def test_a_message_comes_back(host: Hosted, message: str | bytes) -> None:
    with connect(host, "echo") as websocket:
        websocket.send(message)
        assert websocket.recv(15) == message


def test_fragments_are_one_message(host: Hosted) -> None:
    with connect(host, "echo") as websocket:
        websocket.send(["a", "", "bc", "für"])
        assert websocket.recv(15) == "abcfür"
        websocket.send([b"a" * 70000, b"b" * 70000])
        assert websocket.recv(15) == b"a" * 70000 + b"b" * 70000


def test_many_messages_keep_their_order(host: Hosted) -> None:
    with connect(host, "echo") as websocket:
        for n in range(500):
            websocket.send(f"{n}" * 50)
        assert [websocket.recv(15) for _ in range(500)] == [f"{n}" * 50 for n in range(500)]


def test_a_large_message_passes(host: Hosted) -> None:
    with connect(host, "echo", max_size=None) as websocket:
        message = os.urandom(3 << 20)
        websocket.send(message)
        assert websocket.recv(15) == message


def test_pings_are_answered(host: Hosted) -> None:
    with connect(host, "echo") as websocket:
        assert websocket.ping(b"are you there").wait(15)


def test_the_scope_and_the_answer(host: Hosted) -> None:
    with connect(host, "tell/more?a=b", subprotocols=["first", "second"]) as websocket:
        told = json.loads(websocket.recv(15))
        assert websocket.subprotocol == "second"
        assert websocket.response.headers["X-More"] == "of it"
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv(15)
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (3456, "für Neues")
    assert told == {
        "type": "websocket",
        "scheme": "ws",
        "path": "/app/tell/more",
        "root_path": "/app",
        "query": "a=b",
        "subprotocols": ["first", "second"],
        "http_version": "1.1",
        "state": {"started": "yes"},
        "extensions": ["sapi", "websocket.http.response"],
        "method": False,
    }
    until(lambda: "TOLD {'type': 'websocket.disconnect', 'code': 3456" in host.log)


@pytest.mark.parametrize(
    ("name", "status", "body"),
    [
        ("refuse", 403, b"403 Forbidden\n"),
        ("deny", 418, b"short and stout"),
        ("silent", 500, b"500 Internal Server Error\n"),
        ("broken", 500, b"500 Internal Server Error\n"),
        ("wrong/accept", 500, b"500 Internal Server Error\n"),
    ],
)
def test_a_refusal_is_a_response(host: Hosted, name: str, status: int, body: bytes) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(host, name):
        pass
    response = refused.value.response
    assert (response.status_code, bytes(response.body)) == (status, body)
    if name == "deny":
        assert response.headers["X-Why"] == "teapot"


def test_the_client_closes(host: Hosted) -> None:
    with connect(host, "echo") as websocket:
        websocket.close(4001, "enough of it")
        assert websocket.close_code == 4001
    until(lambda: "DISCONNECT 4001 enough of it" in host.log)


def test_a_close_without_a_code_is_1005(host: Hosted) -> None:
    with Raw(host, "echo") as raw:
        raw.send(8, b"")
        assert raw.receive() == (8, b"")
        assert raw.ended()
    until(lambda: "DISCONNECT 1005" in host.log)


def test_a_client_that_vanishes_is_1006(host: Hosted) -> None:
    with Raw(host, "echo") as raw:
        raw.send(1, b"hi")
        assert raw.receive() == (1, b"hi")
    until(lambda: "DISCONNECT 1006" in host.log)


def test_a_client_that_vanishes_before_the_answer(host: Hosted) -> None:
    with Raw(host, "gone", answered=False):
        pass
    until(lambda: "GONE websocket.disconnect 1006" in host.log)


def test_an_application_that_raises_is_1011(host: Hosted) -> None:
    with connect(host, "breaks") as websocket, pytest.raises(ConnectionClosed) as closed:
        websocket.recv(15)
    assert closed.value.rcvd.code == 1011
    assert "after the answer" in host.log


def test_an_application_that_returns_is_1000(host: Hosted) -> None:
    with connect(host, "returns") as websocket, pytest.raises(ConnectionClosed) as closed:
        websocket.recv(15)
    assert closed.value.rcvd.code == 1000


def test_what_an_application_does_wrong_is_raised_to_it(host: Hosted) -> None:
    with connect(host, "wrong") as websocket:
        assert json.loads(websocket.recv(15)) == ["ApplicationError"] * 9


def test_receive_may_wait_while_another_task_accepts(host: Hosted) -> None:
    with connect(host, "late") as websocket:
        websocket.send("at last")
        assert websocket.recv(15) == "at last"


def test_deflate_is_used_where_it_is_on(host: Hosted) -> None:
    with connect(host, "echo/deflate", compression="deflate") as websocket:
        assert "permessage-deflate" in websocket.response.headers["Sec-WebSocket-Extensions"]
        for message in ("x" * 50000, os.urandom(1000), "", "y" * 50000):
            websocket.send(message)
            assert websocket.recv(15) == message
    with connect(host, "echo", compression="deflate") as websocket:
        assert "Sec-WebSocket-Extensions" not in websocket.response.headers
        websocket.send("x" * 5000)
        assert websocket.recv(15) == "x" * 5000


def test_what_expands_beyond_the_limit_is_1009(host: Hosted) -> None:
    with connect(host, "echo/deflate", compression="deflate") as websocket:
        websocket.send(bytes(50_000_000))
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv(15)
    assert closed.value.rcvd.code == 1009


# -- by hand --------------------------------------------------------------------------------------


KEY = base64.b64encode(bytes(range(16))).decode()


def handshake(name: str, **changes: str | None) -> bytes:
    fields: dict[str, str | None] = {
        "Host": "localhost",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }
    fields.update({key.replace("_", "-"): value for key, value in changes.items()})
    lines = [f"{key}: {value}" for key, value in fields.items() if value is not None]
    return "\r\n".join([f"GET /app/{name} HTTP/1.1", *lines, "", ""]).encode()


def frame(
    opcode: int, payload: bytes, *, fin: bool = True, mask: bool = True, rsv: int = 0
) -> bytes:
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    masked = 0x80 if mask else 0
    if len(payload) < 126:
        head = struct.pack("!BB", first, masked | len(payload))
    elif len(payload) < 65536:
        head = struct.pack("!BBH", first, masked | 126, len(payload))
    else:
        head = struct.pack("!BBQ", first, masked | 127, len(payload))
    return head + (bytes(4) if mask else b"") + payload


class Raw:
    """A client that says what it is told to."""

    def __init__(self, host: Hosted, name: str, early: bytes = b"", answered: bool = True) -> None:
        self.socket = socket.create_connection(host.address, 15)
        self.socket.settimeout(15)
        self.file = self.socket.makefile("rb")
        self.socket.sendall(handshake(name) + early)
        if answered:
            self.head = self.read_head()
            assert self.head.startswith(b"HTTP/1.1 101 "), self.head

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()
        self.socket.close()

    def read_head(self) -> bytes:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.file.readline()
            assert line, head
            head += line
        return head

    def send(self, opcode: int, payload: bytes, **how: Any) -> None:
        self.socket.sendall(frame(opcode, payload, **how))

    def receive(self) -> tuple[int, bytes]:
        first, size = self.file.read(2)
        if size == 126:
            (size,) = struct.unpack("!H", self.file.read(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self.file.read(8))
        return first & 15, self.file.read(size)

    def ended(self) -> bool:
        """Whether the server closes the connection, and says no more before."""
        try:
            return self.file.read(1) == b""
        except ConnectionResetError:
            return True


def close_of(found: tuple[int, bytes]) -> int:
    opcode, payload = found
    assert opcode == 8, found
    code: int = struct.unpack("!H", payload[:2])[0]
    return code


HOSTILE = {
    "text that is no UTF-8": (frame(1, b"\xff\xfe"), 1007),
    "text that is cut in a character": (frame(1, b"\xc3"), 1007),
    "a surrogate": (frame(1, b"\xed\xa0\x80"), 1007),
    "UTF-8 broken over fragments": (frame(1, b"\xc3", fin=False) + frame(0, b"\x28"), 1007),
    "no mask": (frame(1, b"hi", mask=False), 1002),
    "a reserved bit": (frame(1, b"hi", rsv=4), 1002),
    "a reserved opcode": (frame(3, b"hi"), 1002),
    "a reserved control opcode": (frame(11, b""), 1002),
    "a long ping": (frame(9, bytes(126)), 1002),
    "a fragmented ping": (frame(9, b"", fin=False), 1002),
    "a continuation of nothing": (frame(0, b"hi"), 1002),
    "a message within a message": (frame(1, b"a", fin=False) + frame(1, b"b"), 1002),
    "a close of one byte": (frame(8, b"\x03"), 1002),
    "a close with 1005": (frame(8, b"\x03\xed"), 1002),
    "a close with 999": (frame(8, b"\x03\xe7"), 1002),
    "a close with a reason that is no UTF-8": (frame(8, b"\x03\xe8\xff"), 1007),
    "a length with its highest bit": (b"\x82\xff" + b"\xff" * 8 + bytes(4), 1002),
    "a length that is too long": (b"\x82\xfe\x00\x05" + bytes(9), 1002),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("pieces", [False, True], ids=["whole", "bytewise"])
def test_what_breaks_the_protocol_closes_it(host: Hosted, case: str, pieces: bool) -> None:
    data, code = HOSTILE[case]
    with Raw(host, "echo") as raw:
        if pieces:
            raw.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(len(data)):
                try:
                    raw.socket.sendall(data[at : at + 1])
                except OSError:
                    break  # it was closed at an earlier byte
        else:
            raw.socket.sendall(data)
        assert close_of(raw.receive()) == code
        raw.socket.shutdown(socket.SHUT_WR)
        assert raw.ended()


def test_a_ping_between_fragments(host: Hosted) -> None:
    with Raw(host, "echo") as raw:
        raw.socket.sendall(frame(1, b"a", fin=False) + frame(9, b"now") + frame(0, b"b"))
        assert raw.receive() == (10, b"now")
        assert raw.receive() == (1, b"ab")


@pytest.mark.parametrize("fragments", [1, 20])
def test_a_message_beyond_the_limit_is_1009(host: Hosted, fragments: int) -> None:
    with Raw(host, "echo/small") as raw:
        raw.send(2, bytes(1000))
        assert raw.receive() == (2, bytes(1000))
        size = 2000 // fragments
        for n in range(fragments):
            raw.send(2 if n == 0 else 0, bytes(size), fin=n == fragments - 1)
        assert close_of(raw.receive()) == 1009
        raw.send(8, b"\x03\xf1")
        assert raw.ended()
    until(lambda: "DISCONNECT 1009" in host.log)


def test_the_limit_is_seen_before_the_message_has_come(host: Hosted) -> None:
    with Raw(host, "echo/small") as raw:
        raw.socket.sendall(b"\x82\xff" + struct.pack("!Q", 1 << 40) + bytes(4) + bytes(2000))
        assert close_of(raw.receive()) == 1009


def test_frames_that_come_with_the_handshake(host: Hosted) -> None:
    with Raw(host, "echo", frame(1, b"early") + frame(9, b"too")) as raw:
        assert {raw.receive(), raw.receive()} == {(1, b"early"), (10, b"too")}


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"Sec_WebSocket_Key": None}, 400),
        ({"Sec_WebSocket_Key": "c2hvcnQ="}, 400),
        ({"Sec_WebSocket_Key": "!" * 24}, 400),
        ({"Sec_WebSocket_Version": "8"}, 426),
        ({"Sec_WebSocket_Version": None}, 426),
        ({"Upgrade": "h2c"}, 200),
        ({"Upgrade": None}, 200),
        ({"Connection": "keep-alive"}, 200),
        ({"Connection": "keep-alive, UPGRADE", "Upgrade": "WebSocket"}, 101),
    ],
)
def test_handshakes(host: Hosted, changes: dict[str, str | None], status: int) -> None:
    with socket.create_connection(host.address, 15) as plain:
        name = "echo" if status != 200 else "plain"
        plain.sendall(handshake(name, **changes))
        file = plain.makefile("rb")
        head = file.readline()
        assert head.split(b" ")[1] == str(status).encode()
        if status == 426:
            fields = [line.lower() for line in iter(file.readline, b"\r\n")]
            assert b"sec-websocket-version: 13\r\n" in fields


def test_a_connection_goes_on_after_a_refusal(host: Hosted) -> None:
    with socket.create_connection(host.address, 15) as plain:
        file = plain.makefile("rb")
        plain.sendall(handshake("refuse") + b"GET /app/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 403 " in file.readline()
        rest = file.readline()
        while not rest.startswith(b"HTTP/1.1 "):
            rest = file.readline()
            assert rest
            rest = rest.removeprefix(b"403 Forbidden\n")
        assert b" 200 " in rest


def test_a_client_that_reads_nothing_stops_the_sender(host: Hosted) -> None:
    with Raw(host, "flood") as raw:
        assert raw.receive() == (2, bytes(100000))
        seen = [-1, int(host.get("/app/sent").body)]
        until(lambda: seen[-1] == seen[-2] or seen.append(int(host.get("/app/sent").body)))
        assert seen[-1] < 1000  # what the kernel holds for a client, and little more
    until(lambda: "FLOOD ENDED ClientDisconnected" in host.log)


def test_pings_of_a_client_that_reads_nothing_are_not_piled_up(host: Hosted) -> None:
    with Raw(host, "waits") as raw:
        raw.socket.settimeout(2)
        sent = 0
        block = frame(9, bytes(125)) * 500
        with pytest.raises(TimeoutError):
            while sent < 200 << 20:
                raw.socket.sendall(block)
                sent += len(block)
        assert sent < 100 << 20


def test_messages_nobody_takes_stop_the_client(host: Hosted) -> None:
    with Raw(host, "waits") as raw:
        raw.socket.settimeout(2)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 200 << 20:
                raw.socket.sendall(frame(2, bytes(100000)))
                sent += 100000
        assert sent < 100 << 20


def test_a_queue_that_was_full_is_read_on(host: Hosted) -> None:
    with connect(host, "slow") as websocket:
        for _ in range(300):
            websocket.send(bytes(10000))
        websocket.send("end")
        assert websocket.recv(15) == "ended"


# -- the end --------------------------------------------------------------------------------------


def test_a_graceful_stop_says_so(tmp_path: Path) -> None:
    with host_of(tmp_path) as host, connect(host, "echo") as websocket:
        websocket.send("x")
        assert websocket.recv(15) == "x"
        host.process.send_signal(signal.SIGWINCH)
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv(15)
        assert closed.value.rcvd.code == 1012
        assert host.process.wait(15) == 0
        assert "DISCONNECT 1012" in host.log


def test_a_stop_ends_it(tmp_path: Path) -> None:
    with host_of(tmp_path) as host, connect(host, "waits") as websocket:
        host.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            websocket.recv(15)
        assert host.process.wait(15) == 0
        assert "CANCELLED" in host.log


@pytest.mark.parametrize("mpm", ["prefork", "worker"])
def test_where_there_is_no_loop_an_upgrade_is_ignored(tmp_path: Path, mpm: str) -> None:
    (tmp_path / "ws_app.py").write_text(APP)
    with hosting(tmp_path, CONFIGURATION, mpm) as host:
        answer = host.get(
            "/app/echo",
            Connection="Upgrade",
            Upgrade="websocket",
            Sec_WebSocket_Key=KEY,
            Sec_WebSocket_Version="13",
        )
        assert (answer.status, answer.body) == (200, b"plain")


def test_without_the_library_an_upgrade_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "wsproto.py").write_text("raise ImportError('not here')\n")
    with host_of(tmp_path) as host:
        for _ in range(2):
            with socket.create_connection(host.address, 15) as plain:
                plain.sendall(handshake("echo", Connection="Upgrade, close"))
                assert plain.makefile("rb").read().startswith(b"HTTP/1.1 200 ")
        assert host.log.count("needs sapi_adapters[websocket]") == 1
