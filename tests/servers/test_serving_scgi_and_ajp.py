"""SCGI and AJP under real sockets, by clients of the tests' own: pieces, bodies, cuts, ends."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import signal
import socket
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fastcgi_client import connect
from protocols import ajp_oracle as ajp
from serving import serving, until

from sapi_adapters.adapters import single, single_event
from sapi_adapters.adapters.exchanges import HEAD_SECONDS
from sapi_adapters.adapters.single import Session
from sapi_adapters.manager.scoreboard import IDLE, READING
from sapi_adapters.protocols.ajp import Connection as AjpConnection
from sapi_adapters.protocols.scgi import Connection as ScgiConnection
from sapi_adapters.sapi import ProtocolError, Sapi
from sapi_adapters.servers.channel import Channel
from sapi_adapters.servers.event import EventServer
from sapi_adapters.servers.event import Stream as EventStream

HERE = Path(__file__).parent

APP = '''
"""What server_apps does not do."""

import asyncio
import json
import time
from pathlib import Path

import server_apps

text = [("Content-Type", "text/plain")]
kept = []


def appears(path):
    end = time.monotonic() + 20
    while not Path(path).exists() and time.monotonic() < end:
        time.sleep(0.01)


def wsgi(environ, start_response):
    path, query, post = environ["PATH_INFO"], environ["QUERY_STRING"], environ["wsgi.input"]
    if path == "/environ":
        start_response("200 OK", text)
        return [json.dumps({k: v for k, v in environ.items() if type(v) is str}).encode()]
    if path == "/part":  # reads so many bytes and leaves the rest
        start_response("200 OK", text)
        return [b"%d" % len(post.read(int(query)))]
    if path == "/lines":
        start_response("200 OK", text)
        return [b"%d" % sum(1 for line in post)]
    if path == "/head":
        start_response("200 OK", [*text, ("X-Long", "x" * int(query))])
        return [b"it fits"]
    if path == "/swallowed":  # the failure to send a head is hidden from the gateway
        write = start_response("200 OK", [*text, ("X-Long", "x" * 9000)])
        try:
            write(b"body")
        except Exception:
            pass
        return iter([b"more"] if query else [])
    if path == "/held":  # fails while what it has given is still held
        start_response("200 OK", text)
        return [b"first", "no bytes"]
    if path == "/status":
        start_response(f"{query} Thing", [] if query in ("204", "304") else text)
        return [b"body"]
    if path == "/raise":
        raise ValueError("before the head")
    if path == "/steps":
        start_response("200 OK", text)

        def steps():
            yield b"one"
            appears(query)
            yield b"two"

        return steps()
    if path == "/endless":
        start_response("200 OK", text)

        def endless():
            try:
                while True:
                    yield b"x" * 65536
            finally:
                Path(query).write_text("closed")

        return endless()
    if path == "/keep":
        kept[:] = [post]
        start_response("200 OK", text)
        return [b"kept"]
    if path == "/kept":  # reads the body of a request that is over
        start_response("200 OK", text)
        try:
            return [b"read " + kept.pop().read()]
        except OSError as error:
            return [type(error).__name__.encode()]
    return server_apps.wsgi(environ, start_response)


async def asgi(scope, receive, send):
    if scope["type"] != "http":
        raise ValueError("http only")
    path, query = scope["path"], scope["query_string"].decode()

    async def start(status=200, headers=((b"content-type", b"text/plain"),)):
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})

    async def body(data, more=False):
        await send({"type": "http.response.body", "body": data, "more_body": more})

    if path == "/environ":
        await start()
        found = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        found["user"] = scope["extensions"]["sapi"]["remote_user"]
        await body(json.dumps(found).encode())
    elif path == "/part":
        size, wanted = 0, int(query)
        while size < wanted:
            event = await receive()
            size += len(event["body"])
            if not event["more_body"]:
                break
        await start()
        await body(b"%d" % min(size, wanted))
    elif path == "/lines":
        found, more = b"", True
        while more:
            event = await receive()
            found += event["body"]
            more = event["more_body"]
        await start()
        await body(b"%d" % len(found.splitlines()))
    elif path == "/head":
        await start(headers=[(b"x-long", b"x" * int(query))])
        await body(b"it fits")
    elif path == "/swallowed":
        await start(headers=[(b"x-long", b"x" * 9000)])
        try:
            await body(b"body", more=True)
        except Exception:
            pass
        if query:
            await body(b"more", more=True)
        await body(b"")
    elif path == "/held":
        await start(headers=[(b"content-length", b"100")])
        await body(b"first")
    elif path == "/status":
        kind = () if query in ("204", "304") else [(b"content-type", b"text/plain")]
        await start(int(query), kind)
        await body(b"body")
    elif path == "/raise":
        raise ValueError("before the head")
    elif path == "/steps":
        await start()
        await body(b"one", more=True)
        while not Path(query).exists():
            await asyncio.sleep(0.01)
        await body(b"two")
    elif path == "/endless":
        await start()
        try:
            while True:
                await body(b"x" * 65536, more=True)
        finally:
            Path(query).write_text("closed")
    elif path == "/slow":  # takes its body only when a file appears
        first = await receive()
        Path(f"{query}.begun").touch()
        while not Path(query).exists():
            await asyncio.sleep(0.01)
        size, event = len(first["body"]), first
        while event["more_body"]:
            event = await receive()
            size += len(event["body"])
        await start()
        await body(b"%d" % size)
    elif path == "/beside":  # a task still wants the body when the response is complete
        await receive()
        reader = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        await start()
        await body(b"done")
        Path(query).write_text((await reader)["type"])
    else:
        await server_apps.asgi(scope, receive, send)
'''

KINDS = {
    "prefork": ("wsgi", "prefork", "--workers", "1"),
    "threaded": ("wsgi", "threaded", "--threads", "4"),
    "event": ("asgi", "prefork", "--workers", "1"),
}
WIRES = ("scgi", "ajp")


# -- clients --------------------------------------------------------------------------------------


@dataclass
class Answer:
    """What came for one request."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    complete: bool = False
    """The wire says that the response is over."""
    reset: bool = False
    reuse: int | None = None
    heads: int = 0
    chunks: int = 0
    """Packets of the body, flushes among them."""

    def header(self, name):
        return next((v for n, v in self.headers if n.lower() == name.lower()), None)


class Peer:
    """A web server's side of one connection, with a deadline on every wait."""

    def __init__(self, address):
        self.socket = connect(address)
        if self.socket.family == socket.AF_INET:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = b""
        self.reset = False

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.socket.close()

    def receive(self):
        """Take what comes; False at the connection's end."""
        try:
            data = self.socket.recv(1 << 20)
        except ConnectionResetError:
            self.reset = True
            return False
        self.data += data
        return bool(data)

    def write(self, data):
        """Send, to a server that may have answered and gone."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def closed(self):
        """Wait for the connection's end; return what came before it."""
        while self.receive():
            pass
        return self.data


class ScgiPeer(Peer):
    wire = "scgi"

    @staticmethod
    def head(pairs):
        """A header block of *pairs*, as they are."""
        block = "".join(f"{name}\0{value}\0" for name, value in pairs).encode("latin-1")
        return b"%d:%b," % (len(block), block)

    def request(self, path="/", *, method="GET", query="", body=b"", length=None, **more):
        size = len(body) if length is None else length
        pairs = {
            "CONTENT_LENGTH": str(size),
            "SCGI": "1",
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_URI": f"{path}?{query}" if query else path,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "192.0.2.1",
            **more,
        }
        return ScgiPeer.head(pairs.items()) + body

    def send(self, path="/", **more):
        self.write(self.request(path, **more))

    def answer(self):
        data = self.closed()
        head, border, body = data.partition(b"\r\n\r\n")
        answer = Answer(body=body, complete=bool(border) and not self.reset, reset=self.reset)
        for line in head.decode("latin-1").split("\r\n") if border else ():
            name, _, value = line.partition(": ")
            if name == "Status":
                answer.status = int(value[:3])
                answer.heads += 1
            else:
                answer.headers.append((name, value))
        return answer


class AjpPeer(Peer):
    wire = "ajp"

    def __init__(self, address):
        super().__init__(address)
        self.body = memoryview(b"")
        """What is still to be sent, packet by packet."""
        self.asked = 0

    def request(
        self,
        path="/",
        *,
        method="GET",
        query="",
        body=b"",
        length=None,
        headers=(),
        attributes=b"",
        chunked=False,
    ):
        headers = [("host", "localhost"), *headers]
        if chunked:
            headers.append(("Transfer-Encoding", "chunked"))
        elif body or length:
            headers.append(("content-length", str(len(body) if length is None else length)))
        if query:
            attributes += ajp.attribute("query_string", query)
        return ajp.forward(method, path, *headers, attributes=attributes)

    def packet(self):
        """The next packet of the body, the empty one at its end."""
        data, self.body = self.body[:8186], self.body[8186:]
        return ajp.body(bytes(data)) if data else ajp.EMPTY

    def send(self, path="/", *, body=b"", chunked=False, length=None, **more):
        data = self.request(path, body=body, chunked=chunked, length=length, **more)
        self.body, self.asked = memoryview(body), 0
        self.write(data + (self.packet() if (body or length) and not chunked else b""))

    def read(self):
        """Return the next packet in the oracle's words, None at the end."""
        while len(self.data) < 4 or len(self.data) < 4 + int.from_bytes(self.data[2:4], "big"):
            if not self.receive():
                return None
        size = 4 + int.from_bytes(self.data[2:4], "big")
        packet, self.data = self.data[:size], self.data[size:]
        (found,) = ajp.answers(packet, 65536)
        return found

    def answer(self):
        answer = Answer()
        while (packet := self.read()) is not None:
            if packet[0] == "head":
                _, answer.status, _, answer.headers = packet
                answer.heads += 1
            elif packet[0] == "chunk":
                assert answer.heads == 1
                answer.chunks += 1
                answer.body += packet[1]
            elif packet[0] == "ask":
                self.asked += 1
                self.write(self.packet())
            elif packet[0] == "end":
                answer.complete, answer.reuse = True, packet[1]
                break
        answer.reset = self.reset
        return answer

    def ping(self):
        self.socket.sendall(ajp.CPING)
        return self.read()


PEERS = {"scgi": ScgiPeer, "ajp": AjpPeer}


# -- servers --------------------------------------------------------------------------------------


@contextmanager
def started(directory, wire, kind, *options, transport="unix", **more):
    """A server of *kind*, with ``peer()``, which connects to it, and ``fetch()``."""
    app, model, *rest = KINDS[kind]
    (directory / "apps.py").write_text(APP)
    if transport == "tcp":
        rest += ["--bind", "127.0.0.1:0"]
    path = Path(f"{directory}{os.pathsep}{HERE}")
    sapi = f"{wire}-{model}"
    with serving(
        directory, f"apps:{app}", "--sapi", sapi, *rest, *options, path=path, **more
    ) as it:
        if transport == "tcp":
            until(lambda: re.search(r" on 127\.0\.0\.1:(\d+)", it.text))
            it.address = ("127.0.0.1", int(re.search(r" on 127\.0\.0\.1:(\d+)", it.text)[1]))
        it.kind, it.wire, it.transport = kind, wire, transport
        it.peer = lambda: PEERS[wire](it.address)

        def fetch(path="/", **request):
            with it.peer() as peer:
                peer.send(path, **request)
                return peer.answer()

        it.fetch = fetch
        yield it


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Servers that many tests share, by wire, kind and transport."""
    with ExitStack() as stack:
        made = {}

        def get(*key):
            if key not in made:
                directory = tmp_path_factory.mktemp("s")
                wire, kind, transport = key
                made[key] = stack.enter_context(started(directory, wire, kind, transport=transport))
            return made[key]

        yield get


KEYS = [(wire, kind, to) for wire in WIRES for kind in KINDS for to in ("unix", "tcp")]
names = "-".join


@pytest.fixture(params=KEYS, ids=names)
def server(pool, request):
    return pool(*request.param)


@pytest.fixture(params=[key for key in KEYS if key[0] == "scgi"], ids=names)
def scgi(pool, request):
    return pool(*request.param)


@pytest.fixture(params=[key for key in KEYS if key[0] == "ajp"], ids=names)
def ajp_server(pool, request):
    return pool(*request.param)


both = pytest.mark.parametrize("wire", WIRES)
all_kinds = pytest.mark.parametrize("kind", KINDS)
blocking_kinds = pytest.mark.parametrize("kind", ["prefork", "threaded"])


# -- both: what a request and its answer are ------------------------------------------------------


def test_a_request_and_its_answer(server):
    answer = server.fetch("/hello")
    assert (answer.status, answer.body, answer.complete) == (200, b"/hello", True)
    assert answer.header("content-length") == "6"


def test_a_request_in_single_bytes(server):
    with server.peer() as peer:
        data = peer.request("/hash", method="POST", body=b"hello")
        if server.wire == "ajp":
            data += ajp.body(b"hello")
        for at in range(len(data)):
            peer.socket.sendall(data[at : at + 1])
        assert peer.answer().body == hashlib.sha256(b"hello").hexdigest().encode()


@pytest.mark.parametrize("size", [1, 8186, 8187, 65536, 300_000, 4 << 20])
def test_bodies_of_all_sizes_arrive_whole(server, size):
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    answer = server.fetch("/hash", method="POST", body=body)
    assert answer.body == hashlib.sha256(body).hexdigest().encode()


def test_a_large_response_arrives_whole(server):
    answer = server.fetch("/big", query=str(16 << 20))
    assert answer.complete
    assert len(answer.body) == 16 << 20


@pytest.mark.parametrize("status", ["204", "304"])
def test_what_has_no_body_is_sent_without(server, status):
    answer = server.fetch("/status", query=status)
    assert (answer.status, answer.body, answer.complete) == (int(status), b"", True)
    assert answer.header("content-length") is None
    assert answer.chunks == 0


def test_head_has_the_head_alone(server):
    answer = server.fetch("/status", method="HEAD", query="200")
    assert (answer.status, answer.body, answer.complete) == (200, b"", True)
    answer = server.fetch("/big", method="HEAD", query="196608")
    assert (answer.body, answer.chunks, answer.complete) == (b"", 0, True)


def test_an_error_before_the_head_is_a_page(server):
    answer = server.fetch("/raise")
    assert (answer.status, answer.complete) == (500, True)
    assert b"500" in answer.body
    until(lambda: "before the head" in server.text)


def test_a_cut_response_of_unknown_length_is_seen_to_be_cut(server):
    answer = server.fetch("/cut")
    assert (answer.status, answer.body) == (200, b"first")
    if server.wire == "ajp":
        assert not answer.complete
    else:  # a Unix socket cannot show it
        assert answer.reset is (server.transport == "tcp")


def test_a_cut_response_ends_a_connection_that_was_kept_or_waited_for_its_body(server):
    with server.peer() as peer:
        if server.wire == "ajp":
            peer.send("/x")
            assert peer.answer().reuse == 1
            peer.send("/cut")
            assert not peer.answer().complete
            assert peer.closed() == b""
        else:
            peer.send("/cut", method="POST", body=b"some", length=10)
            answer = peer.answer()
            assert answer.body == b"first"
            assert answer.reset is (server.transport == "tcp")


def test_a_cut_response_of_known_length_is_short(server):
    answer = server.fetch("/cut", query="announced")
    assert (answer.status, answer.body) == (200, b"first")
    # Apache drops the length of what comes over AJP: only a missing end shows it there.
    assert answer.complete is (server.wire == "scgi")


def test_a_streamed_response_is_seen_before_its_end(server, tmp_path):
    marker = tmp_path / "go"
    with server.peer() as peer:
        peer.send("/steps", query=str(marker))
        if server.wire == "ajp":
            assert [peer.read() for _ in range(3)][1:] == [("chunk", b"one"), ("chunk", b"")]
        else:
            while not peer.data.endswith(b"one"):
                assert peer.receive()
        marker.touch()
        if server.wire == "ajp":
            assert peer.read() == ("chunk", b"two")
            assert [p for p in iter(peer.read, ("end", 1)) if p != ("chunk", b"")] == []
        else:
            assert peer.answer().body == b"onetwo"


@pytest.mark.parametrize("how", ["none", "half", "all"])
def test_a_body_need_not_be_read(server, how):
    size = 200_000
    wanted = {"none": 0, "half": size // 2, "all": size}[how]
    with server.peer() as peer:
        peer.send("/part", method="POST", body=b"x" * size, query=str(wanted))
        answer = peer.answer()
        assert answer.body == b"%d" % wanted
        assert answer.complete
        if server.wire == "ajp":  # a packet for each 8 KiB that was read, and one unasked
            assert peer.asked <= -(-max(wanted, 65536) // 8186) - 1
    assert server.fetch("/after").body == b"/after"


def test_a_body_by_lines(server):
    answer = server.fetch("/lines", method="POST", body=b"a line of it\n" * 5000)
    assert answer.body == b"5000"


def test_a_body_cut_short_is_never_taken_for_whole(server, tmp_path):
    report = tmp_path / "report"
    with server.peer() as peer:
        data = peer.request("/read", method="POST", length=1000, query=str(report))
        peer.socket.sendall(data + (ajp.body(b"some") if server.wire == "ajp" else b"some"))
        peer.socket.shutdown(socket.SHUT_WR)
        until(report.exists)
        until(lambda: report.read_text() in ("ClientDisconnected", "http.disconnect"))


def test_a_silent_or_halting_peer_keeps_nobody_waiting(server):
    with server.peer(), server.peer() as half:
        half.socket.sendall(half.request("/")[:11])
        assert server.fetch("/x").body == b"/x"


def test_bad_bytes_close_the_connection_and_nothing_else(server):
    with server.peer() as peer:
        peer.socket.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert peer.closed() == b""
    assert server.fetch("/x").body == b"/x"
    until(lambda: "reading from the web server" in server.text)


def test_a_peer_that_goes_away_before_it_said_anything_is_no_failure(server):
    before = len(server.text)
    for _ in range(3):
        server.peer().socket.close()
    assert server.fetch("/x").body == b"/x"
    assert server.text[before:] == ""


def test_asgi_learns_at_once_that_the_client_has_gone(pool, tmp_path):
    for wire in WIRES:
        report = tmp_path / wire
        server = pool(wire, "event", "unix")
        with server.peer() as peer:
            peer.send("/gone", query=str(report))
        until(report.exists)
        until(lambda report=report: report.read_text() == "http.disconnect ClientDisconnected")
        assert "Traceback" not in server.text.replace("before the head", "").partition("gone")[2]


def test_an_application_whose_client_is_gone_is_closed_at_its_next_write(server, tmp_path):
    report = tmp_path / "report"
    with server.peer() as peer:
        peer.send("/endless", query=str(report))
        assert peer.receive()
    until(report.exists)
    assert server.fetch("/x").body == b"/x"


# -- SCGI -----------------------------------------------------------------------------------------

CLOSED = {
    "a letter in the length": b"x:",
    "a sign": b"-1:,",
    "a space": b" 5:,",
    "a leading zero": b"024:",
    "too many digits": b"12345678:",
    "digits without an end": b"123456789",
    "an empty block": b"0:,",
    "no comma": b"24:CONTENT_LENGTH\0000\0SCGI\0001\0;",
    "no NUL at the end": b"23:CONTENT_LENGTH\0000\0SCGI\0001,",
    "a name without a value": b"25:CONTENT_LENGTH\0000\0SCGI\0001\0a\0,",
    "no CONTENT_LENGTH": ScgiPeer.head([("SCGI", "1"), ("REQUEST_METHOD", "GET")]),
    "no SCGI": ScgiPeer.head([("CONTENT_LENGTH", "0"), ("REQUEST_METHOD", "GET")]),
    "another SCGI": ScgiPeer.head([("CONTENT_LENGTH", "0"), ("SCGI", "2")]),
    "an empty name": ScgiPeer.head([("CONTENT_LENGTH", "0"), ("SCGI", "1"), ("", "x")]),
}
REFUSED = {
    "a length that is no number": {"CONTENT_LENGTH": "5x"},
    "a length of many digits": {"CONTENT_LENGTH": "9" * 30},
    "no method": {"REQUEST_METHOD": ""},
    "a method that is none": {"REQUEST_METHOD": "GE T"},
    "a NUL in the path": {"PATH_INFO": "/a", "SCRIPT_NAME": "\0"},
}


@pytest.mark.parametrize("what", CLOSED)
def test_what_is_no_scgi_is_closed_unanswered(scgi, what):
    with scgi.peer() as peer:
        peer.write(CLOSED[what])
        assert peer.closed() == b""


@pytest.mark.parametrize("what", [w for w in REFUSED if "NUL" not in w])
def test_a_request_that_cannot_be_served_is_answered_with_400(scgi, what):
    answer = scgi.fetch("/x", **REFUSED[what])
    assert (answer.status, answer.complete) == (400, True)


@pytest.mark.parametrize("name", ["CONTENT_LENGTH", "REQUEST_METHOD"])
def test_what_frames_a_request_must_not_come_twice(scgi, name):
    with scgi.peer() as peer:
        pairs = [("CONTENT_LENGTH", "0"), ("SCGI", "1"), ("REQUEST_METHOD", "GET"), (name, "0")]
        peer.socket.sendall(peer.head(pairs))
        assert peer.answer().status == 400


def test_content_length_may_stand_anywhere(scgi):
    with scgi.peer() as peer:
        pairs = [("REQUEST_METHOD", "GET"), ("SCGI", "1"), ("PATH_INFO", "/x"), ("SCRIPT_NAME", "")]
        peer.socket.sendall(peer.head([*pairs, ("CONTENT_LENGTH", "0")]))
        assert peer.answer().body == b"/x"


@all_kinds
def test_more_headers_than_allowed_are_answered_with_431(tmp_path, kind):
    with started(tmp_path, "scgi", kind, "--set", "scgi.max_headers=2048") as server:
        assert server.fetch("/x", HTTP_X="x" * 1500).status == 200
        answer = server.fetch("/x", HTTP_X="x" * 2048)
        assert (answer.status, answer.complete) == (431, True)
        until(lambda: "2048 are allowed" in server.text)


@all_kinds
def test_a_request_without_scgi_where_that_is_allowed(tmp_path, kind):
    pairs = [("CONTENT_LENGTH", "0"), ("REQUEST_METHOD", "GET"), ("PATH_INFO", "/x")]
    with started(tmp_path, "scgi", kind, "--set", "scgi.strict=no") as server:
        with server.peer() as peer:
            peer.socket.sendall(peer.head(pairs))
            assert peer.answer().body == b"/x"
        assert server.fetch("/y").body == b"/y"


def test_bytes_behind_the_body_are_ignored(scgi):
    with scgi.peer() as peer:
        request = peer.request("/hash", method="POST", body=b"body")
        peer.socket.sendall(request + b"more" + peer.request("/smuggled"))
        answer = peer.answer()
        assert answer.heads == 1
        assert answer.body == hashlib.sha256(b"body").hexdigest().encode()


@pytest.mark.parametrize("body", [b"", b"some body"])
def test_bytes_behind_the_body_are_ignored_while_the_request_runs(scgi, tmp_path, body):
    """Garbage, and a whole second request."""
    for number, more in enumerate([b"\r\n", ScgiPeer.request(None, "/second"), b"9" * 70_000]):
        marker = tmp_path / str(number)
        with scgi.peer() as peer:
            peer.send("/wait", query=str(marker), method="POST", body=body)
            until(lambda marker=marker: Path(f"{marker}.begun").exists())
            peer.socket.sendall(more)
            if scgi.kind == "event":  # it looks at them; a request of its own shows that it has
                assert scgi.fetch("/x").body == b"/x"
            marker.touch()
            while b"waited" not in peer.data and peer.receive():
                pass
            assert peer.data.endswith(b"\r\n\r\nwaited")
    assert "internal" not in scgi.text


def test_a_body_is_as_long_as_the_clients_header_says(scgi):
    """nginx with scgi_request_buffering off counts what it has by now."""
    body = b"0123456789" * 1000
    with scgi.peer() as peer:
        head = peer.request("/hash", method="POST", length=10, HTTP_CONTENT_LENGTH="10000")
        peer.socket.sendall(head + body[:10])
        peer.socket.sendall(body[10:])
        assert peer.answer().body == hashlib.sha256(body).hexdigest().encode()
    answer = scgi.fetch("/environ", body=b"0123456789", length=10, HTTP_CONTENT_LENGTH="10")
    seen = json.loads(answer.body)
    assert seen.get("CONTENT_LENGTH", seen.get("content-length")) == "10"
    assert "HTTP_CONTENT_LENGTH" not in seen


# -- AJP ------------------------------------------------------------------------------------------


def test_many_requests_and_pings_on_one_connection(ajp_server):
    with ajp_server.peer() as peer:
        for n in range(50):
            if n % 3 == 0:
                assert peer.ping() == ("pong",)
            if n % 5 == 0:
                body = b"x" * (n * 1000)
                peer.send("/hash", method="POST", body=body)
                assert peer.answer().body == hashlib.sha256(body).hexdigest().encode()
                continue
            peer.send(f"/{n}")
            answer = peer.answer()
            assert (answer.body, answer.reuse) == (f"/{n}".encode(), 1)


def test_a_ping_and_a_request_in_one_write(ajp_server):
    with ajp_server.peer() as peer:
        peer.socket.sendall(ajp.CPING + peer.request("/x"))
        assert peer.read() == ("pong",)
        assert peer.answer().body == b"/x"
        peer.socket.sendall(ajp.CPING + ajp.CPING[:3])
        assert peer.read() == ("pong",)
        peer.socket.sendall(ajp.CPING[3:] + peer.request("/y"))
        assert peer.read() == ("pong",)
        assert peer.answer().body == b"/y"


@pytest.mark.parametrize("size", [0, 1, 8186, 100_000])
def test_chunked_bodies_are_asked_for_from_the_start(ajp_server, size):
    body = b"y" * size
    with ajp_server.peer() as peer:
        for _ in range(2):
            peer.send("/hash", method="POST", body=body, chunked=True)
            answer = peer.answer()
            assert answer.body == hashlib.sha256(body).hexdigest().encode()
            assert peer.asked == -(-size // 8186) + 1
            assert answer.reuse == 1
        peer.send("/part", method="POST", body=body, chunked=True, query="0")
        assert peer.answer().reuse == 1
        peer.send("/next")
        assert peer.answer().body == b"/next"


@pytest.mark.parametrize("end", [ajp.EMPTY, ajp.BARE_EMPTY])
def test_a_body_that_ends_before_its_length_is_short(ajp_server, tmp_path, end):
    report = tmp_path / "report"
    with ajp_server.peer() as peer:
        head = peer.request("/read", method="POST", length=1000, query=str(report))
        peer.socket.sendall(head + ajp.body(b"some"))
        while peer.read() != ("ask", 8186):
            pass
        peer.socket.sendall(end)
        until(report.exists)
        until(lambda: report.read_text() in ("ClientDisconnected", "http.disconnect"))
        assert peer.answer().reuse in (0, None)


def test_a_body_that_was_not_read_leaves_the_connection_usable(ajp_server):
    """The one packet that came unasked is consumed; nothing else is on its way."""
    with ajp_server.peer() as peer:
        for _ in range(3):
            peer.send("/part", method="POST", body=b"x" * 100_000, query="0")
            answer = peer.answer()
            assert answer.reuse == 1
        peer.send("/next")
        assert peer.answer().body == b"/next"


def test_a_connection_whose_body_is_still_due_is_not_used_again(ajp_server):
    with ajp_server.peer() as peer:
        peer.socket.sendall(peer.request("/hello", method="POST", length=100_000))
        answer = peer.answer()
        assert (answer.body, answer.reuse) == (b"/hello", 0)
        peer.write(ajp.body(b"x" * 8186) + peer.request("/next"))  # was on its way
        assert peer.closed() == b""


def test_a_head_larger_than_a_packet_is_an_error(ajp_server):
    answer = ajp_server.fetch("/head", query="8000")
    assert (answer.status, answer.body) == (200, b"it fits")
    answer = ajp_server.fetch("/head", query="8180")
    assert (answer.status, answer.heads, answer.complete, answer.reuse) == (500, 1, True, 1)
    until(lambda: "raise ajp.packet_size" in ajp_server.text)


@pytest.mark.parametrize("more", ["", "more"])
def test_a_head_that_does_not_fit_is_an_error_even_if_the_application_hides_it(ajp_server, more):
    with ajp_server.peer() as peer:
        peer.send("/swallowed", query=more)
        answer = peer.answer()
        assert (answer.status, answer.heads, answer.complete) == (500, 1, True)
        assert b"more" not in answer.body
        peer.send("/next")
        assert peer.answer().body == b"/next"


@all_kinds
def test_larger_packets_where_both_ends_have_them(tmp_path, kind):
    with started(tmp_path, "ajp", kind, "--set", "ajp.packet_size=32768") as server:
        assert server.fetch("/head", query="32000").body == b"it fits"
        with server.peer() as peer:
            body = b"z" * 32762
            peer.send("/hash", method="POST", length=len(body))  # an empty packet first: short
        with server.peer() as peer:
            peer.socket.sendall(peer.request("/hash", method="POST", body=body) + ajp.body(body))
            assert peer.answer().body == hashlib.sha256(body).hexdigest().encode()


WRONG = {
    "another magic": b"\x12\x35\0\1\n",
    "a packet too large": b"\x12\x34\x20\x00",
    "an empty packet": ajp.BARE_EMPTY,
    "an unknown type": ajp.packet(b"\x63"),
    "a ping of old": ajp.packet(b"\x08"),
    "a body that nobody asked for": ajp.body(b"data"),
    "a shutdown": ajp.packet(b"\x07"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_ajp_is_closed_unanswered(ajp_server, what):
    with ajp_server.peer() as peer:
        peer.send("/x")
        assert peer.answer().complete
        peer.write(WRONG[what])
        assert peer.closed() == b""
    if what == "a shutdown":
        until(lambda: "shutdown, which is never obeyed" in ajp_server.text)
    assert ajp_server.fetch("/x").body == b"/x"


@pytest.mark.parametrize(
    "packet",
    [
        ajp.forward(99, "/x"),
        ajp.forward("GET", "/x", count=5),
        ajp.forward("GET", "/x", (0xA00F, "v")),
        ajp.forward("GET", "/x", ("content-length", "5"), ("content-length", "5")),
        ajp.forward("GET", "/x", ("content-length", "5"), ("transfer-encoding", "chunked")),
        ajp.forward("GET", "/x", ("x-y", "a\nb")),
        ajp.forward("GET", "/x", attributes=b"\x20"),
        ajp.forward("GET", "/x", end=b""),
        ajp.forward("GET", "/%00"),
    ],
)
def test_a_malformed_request_is_answered_once_with_400_and_closed(ajp_server, packet):
    """CVE-2022-1319: an answer that let the connection be used again hung the web server."""
    with ajp_server.peer() as peer:
        peer.socket.sendall(packet)
        answer = peer.answer()
        assert (answer.status, answer.heads, answer.complete) == (400, 1, True)
        if b"%00" not in packet:  # that one is a well-formed packet
            assert answer.reuse == 0
            assert peer.closed() == b""


def test_something_in_the_middle_of_a_request_ends_both(ajp_server, tmp_path):
    marker = tmp_path / "go"
    with ajp_server.peer() as peer:
        peer.send("/wait", query=str(marker))
        until(lambda: Path(f"{marker}.begun").exists())
        peer.socket.sendall(ajp.CPING)
        marker.touch()
        if ajp_server.kind == "event":
            assert not peer.answer().complete
        else:  # nobody looks; it is a ping when the request is over
            assert peer.answer().complete
            assert peer.read() == ("pong",)
    assert ajp_server.fetch("/x").body == b"/x"


def test_a_request_attribute_that_nobody_allowed_is_refused(ajp_server):
    """Ghostcat, CVE-2020-1938."""
    for name in ("javax.servlet.include.path_info", "wsgi.input", "X_ANY"):
        attributes = ajp.attribute("req_attribute", name, "/etc/passwd")
        answer = ajp_server.fetch("/x", attributes=attributes)
        assert (answer.status, answer.reuse) == (403, 0)


def test_the_user_is_believed_only_if_told_so(ajp_server, tmp_path):
    attributes = ajp.attribute("remote_user", "alice") + ajp.attribute("auth_type", "Basic")
    seen = json.loads(ajp_server.fetch("/environ", attributes=attributes).body)
    assert "alice" not in seen.values()
    with started(tmp_path, "ajp", ajp_server.kind, "--set", "ajp.remote_user=yes") as server:
        seen = json.loads(server.fetch("/environ", attributes=attributes).body)
        assert "alice" in seen.values()


@all_kinds
def test_secret_and_allowed_attributes(tmp_path, kind):
    settings = ("--set", "ajp.secret=s3cret", "--set", "ajp.allowed_attributes=X_[A-Z]+")
    with started(tmp_path, "ajp", kind, *settings) as server:
        for value in (None, "", "s3cre", "s3cret2", "S3CRET"):
            secret = b"" if value is None else ajp.attribute("secret", value)
            answer = server.fetch("/environ", attributes=secret)
            assert (answer.status, answer.reuse) == (403, 0)
        secret = ajp.attribute("secret", "s3cret")
        attributes = secret + ajp.attribute("req_attribute", "X_TEAM", "red")
        answer = server.fetch("/environ", attributes=attributes)
        assert answer.status == 200
        assert b"s3cret" not in answer.body
        if kind != "event":
            assert json.loads(answer.body)["X_TEAM"] == "red"
        for name in ("X_team", "REMOTE_USER", "X_TEAM2"):
            attributes = secret + ajp.attribute("req_attribute", name, "x")
            assert server.fetch("/environ", attributes=attributes).status == 403
        assert "s3cret" not in server.text


@pytest.mark.parametrize("settings", [[], ["ajp.secret=s"], ["listen.allowed_clients=127.0.0.1"]])
def test_others_than_this_machine_need_a_secret_and_a_list(tmp_path, settings):
    app, _, *rest = KINDS["prefork"]
    sets = [word for setting in settings for word in ("--set", setting)]
    options = ("--sapi", "ajp-prefork", *rest, "--bind", "0.0.0.0:0", *sets)
    also = ("--socket", str(tmp_path / "also.sock"))
    with serving(tmp_path, f"server_apps:{app}", *options, *also, ready=False) as server:
        assert server.wait() not in (0, None)
        assert "needs ajp.secret and listen.allowed_clients" in server.text
        assert "Traceback" not in server.text
        assert not (tmp_path / "also.sock").exists()


def test_others_than_this_machine_are_served_with_both(tmp_path):
    sets = ("--set", "ajp.secret=s", "--set", "listen.allowed_clients=127.0.0.1")
    with started(tmp_path, "ajp", "prefork", "--bind", "0.0.0.0:0", *sets) as server:
        until(lambda: re.search(r" on 0\.0\.0\.0:(\d+)", server.text))
        server.address = ("127.0.0.1", int(re.search(r" on 0\.0\.0\.0:(\d+)", server.text)[1]))
        assert server.fetch("/x").status == 403
        assert server.fetch("/x", attributes=ajp.attribute("secret", "s")).body == b"/x"


def test_hundreds_of_idle_connections_beside_live_requests(ajp_server):
    """Tomcat's threaded connector needed a thread for each."""
    with ExitStack() as stack:
        idle = [stack.enter_context(ajp_server.peer()) for _ in range(300)]
        for n, peer in enumerate(idle):
            peer.send(f"/{n}")
            assert peer.answer().body == f"/{n}".encode()
        for _ in range(3):
            assert ajp_server.fetch("/live").body == b"/live"
        for n, peer in enumerate(idle):
            peer.send(f"/again/{n}")
        for n, peer in enumerate(idle):
            assert peer.answer().body == f"/again/{n}".encode()


@blocking_kinds
def test_an_input_that_is_over_takes_nothing_of_the_next_request(pool, kind):
    server = pool("ajp", kind, "unix")
    with server.peer() as peer:
        peer.send("/keep", method="POST", body=b"x" * 20_000)
        assert peer.answer().reuse == 1
        peer.send("/kept", method="POST", body=b"y" * 20_000)
        answer = peer.answer()
        assert answer.body == b"ClientDisconnected"
        assert peer.asked == 0
        peer.send("/next")
        assert peer.answer().body == b"/next"


def test_a_task_that_reads_when_the_response_is_over_asks_for_nothing(pool, tmp_path):
    for wire in WIRES:
        report = tmp_path / wire
        server = pool(wire, "event", "unix")
        with server.peer() as peer:
            if wire == "ajp":
                head = peer.request("/beside", method="POST", length=9000, query=str(report))
                peer.socket.sendall(head + ajp.body(b"x" * 8000))
                while (packet := peer.read())[0] != "end":
                    assert packet[0] in ("head", "chunk", "ask")
            else:
                head = peer.request("/beside", method="POST", length=9000, query=str(report))
                peer.socket.sendall(head + b"x" * 8000)
                peer.answer()
            until(report.exists)
            until(lambda report=report: report.read_text() == "http.disconnect")


# -- time, ends, and what is shown ----------------------------------------------------------------


class Runtime(Sapi):
    """As much of a SAPI as a session without a server wants."""

    mount, split = None, False
    shows_short_bodies = True
    whole = None

    def __init__(self, codec):
        self.codec = codec
        self.stages = []
        self.note = self.stages.append


class Scripted(Channel):
    """A channel that has nothing but what it is given."""

    def __init__(self):
        self.data, self.session, self.fd, self.timeout = b"", None, -1, 1.0
        self.sent, self.ended = b"", None

    def receive_now(self):
        return None

    def send(self, data, flags=0):
        self.sent += data

    def send_last(self, data, exchange):
        self.sent += data

    def close(self):
        self.ended = "closed"

    def close_lingering(self, seconds=2.0, limit=1 << 20):
        self.ended = "closed lingering"

    def reset(self):
        self.ended = "reset"


def answer_path(exchange):
    """The least of a gateway: the whole body comes back."""
    read = b"".join(iter(lambda: exchange.read_post(1000), b""))
    exchange.send_headers("200 OK", [("X-Path", exchange.environ["PATH_INFO"])])
    exchange.ub_write(read or b"nothing")
    exchange.finish()


CODECS = {"scgi": ScgiConnection, "ajp": AjpConnection}


@both
def test_a_request_cut_at_every_byte(wire):
    """The blocking servers' session, without a socket: what comes is exactly what is given."""
    peer = PEERS[wire].__new__(PEERS[wire])
    for body in (b"", b"some body"):
        method = "POST" if body else "GET"
        request = peer.request("/x", method=method, body=body)
        if body and wire == "ajp":
            request += ajp.body(body)
        for cut in range(1, len(request)):
            session, channel = Session(Runtime(CODECS[wire]), answer_path), Scripted()
            pieces = [request[cut:]]
            channel.receive = lambda pieces=pieces: pieces.pop(0)
            channel.data = request[:cut]
            outlook = session(channel)
            if pieces:  # else the head was there and the body was waited for
                assert 9.0 < outlook <= HEAD_SECONDS
                channel.data = pieces.pop()
                outlook = session(channel)
            if wire == "ajp":
                found = ajp.answers(channel.sent)
                assert found[-2:] == [("chunk", body or b"nothing"), ("end", 1)]
                assert outlook == 0.0
                assert channel.session is None  # so it may be closed when there are too many
            else:
                assert channel.sent.endswith(b"\r\n\r\n" + (body or b"nothing"))
                assert outlook is None
                assert channel.ended == "closed"


@both
def test_dripping_bytes_do_not_prolong_the_deadline(wire, monkeypatch):
    now = 100.0
    monkeypatch.setattr(single.time, "monotonic", lambda: now)
    runtime = Runtime(CODECS[wire])
    session, channel = Session(runtime, answer_path), Scripted()
    peer = PEERS[wire].__new__(PEERS[wire])
    head = peer.request("/x")
    channel.data = head[:3]
    assert session(channel) == HEAD_SECONDS
    for at in range(3, 6):
        now += 3.0
        channel.data = head[at : at + 1]
        assert session(channel) == HEAD_SECONDS - (now - 100.0)
    now += 5.0
    channel.data = head[6:7]
    assert 0 < session(channel) < 0.01
    assert set(runtime.stages) == {READING}
    channel.session.dropped()
    assert runtime.stages[-1] == IDLE


@both
def test_bad_bytes_behind_good_ones_leave_no_stage_behind(wire):
    runtime = Runtime(CODECS[wire])
    session, channel = Session(runtime, answer_path), Scripted()
    head = PEERS[wire].__new__(PEERS[wire]).request("/x")
    channel.data = head[:2]
    assert session(channel) > 0
    assert runtime.stages == [READING]
    channel.data = b"\xff" * 200
    with pytest.raises(ProtocolError):
        session(channel)
    assert runtime.stages[-1] == IDLE


@both
def test_a_second_request_has_a_deadline_of_its_own(wire, monkeypatch):
    if wire == "scgi":
        return  # has no second request
    now = 100.0
    monkeypatch.setattr(single.time, "monotonic", lambda: now)
    session, channel = Session(Runtime(CODECS[wire]), answer_path), Scripted()
    head = AjpPeer.__new__(AjpPeer).request("/x")
    for _ in range(3):
        channel.data = head[:9]
        assert session(channel) == HEAD_SECONDS
        now += 8.0
        channel.data = head[9:]
        assert session(channel) == 0.0


@both
def test_the_event_server_ends_a_head_that_drips(wire, monkeypatch):
    now = 100.0
    monkeypatch.setattr(single_event.time, "monotonic", lambda: now)

    class Stream:
        deadline, watched = 110.0, False

        def watch(self):
            self.watched = True

    stream = Stream()
    runtime = Runtime(CODECS[wire])
    handler = single_event.SingleHandler(None, stream, runtime, None)
    head = PEERS[wire].__new__(PEERS[wire]).request("/x")
    for at in range(6):
        handler.data_received(head[at : at + 1])
        now += 1.0
        assert stream.deadline == 110.0  # that of the connection's beginning
    stream.deadline = 0.0  # as between two requests
    handler.data_received(head[6:7])
    assert stream.deadline == now + HEAD_SECONDS
    assert not handler.late()


@both
@all_kinds
def test_graceful_stop_finishes_what_runs_and_waits_for_no_idle_connection(tmp_path, wire, kind):
    marker = tmp_path / "go"
    with started(tmp_path, wire, kind) as server, ExitStack() as stack:
        idle = [stack.enter_context(server.peer()) for _ in range(3)]
        for peer in idle[: 2 if wire == "ajp" else 0]:
            peer.send("/x")
            assert peer.answer().complete
        peer = stack.enter_context(server.peer())
        peer.send("/wait", query=str(marker))
        until(lambda: Path(f"{marker}.begun").exists())
        server.signal(signal.SIGQUIT)
        marker.touch()
        answer = peer.answer()
        assert (answer.body, answer.complete) == (b"waited", True)
        assert server.wait() == 0
        assert not Path(server.address).exists()


@both
@all_kinds
def test_fast_stop_does_not_wait(tmp_path, wire, kind):
    marker = tmp_path / "never"
    with started(tmp_path, wire, kind) as server, server.peer() as peer:
        peer.send("/wait", query=str(marker))
        until(lambda: Path(f"{marker}.begun").exists())
        server.signal(signal.SIGTERM)
        assert server.wait(8) == 0
        assert peer.answer().body != b"waited"


@both
@all_kinds
def test_reload_serves_on_and_lets_the_old_workers_finish(tmp_path, wire, kind):
    marker = tmp_path / "go"
    options = ("--workers", "1", "--set", "pm.max_memory=4G")  # a master, for threads too
    with started(tmp_path, wire, kind, *options) as server, server.peer() as peer:
        (before,) = server.workers()
        peer.send("/wait", query=str(marker))
        until(lambda: Path(f"{marker}.begun").exists())
        server.signal(signal.SIGHUP)
        until(lambda: server.fetch("/pid").body not in (b"", b"%d" % before))
        marker.touch()
        assert peer.answer().body == b"waited"
        until(lambda: before not in server.workers())
        if wire == "ajp":  # the kept connection was the old worker's
            assert peer.closed() == b""


@both
@all_kinds
def test_a_request_that_takes_too_long_is_answered_with_504(tmp_path, wire, kind):
    options = ("--request-timeout", "1")
    with started(tmp_path, wire, kind, *options) as server:
        answer = server.fetch("/wait", query=str(tmp_path / "never"))
        assert (answer.status, answer.complete) == (504, True)
        until(lambda: "request_terminate_timeout" in server.text)
        assert server.fetch("/x").body == b"/x"


@both
@all_kinds
def test_a_worker_leaves_after_its_last_request(tmp_path, wire, kind):
    """Exactly, over connections that are kept."""
    options = ("--workers", "1", "--max-requests", "5", "--set", "pm.max_memory=4G")
    with started(tmp_path, wire, kind, *options) as server:
        served = []
        while len(set(served)) < 4:
            with server.peer() as peer:
                while True:
                    peer.send("/pid")
                    answer = peer.answer()
                    if not answer.complete:
                        break
                    served.append(answer.body)
                    if wire == "ajp" and kind == "prefork":  # the web server is told
                        assert not answer.reuse or served.count(answer.body) < 5
                    if wire == "scgi" or answer.reuse == 0:
                        break
            assert len(served) < 100
        counts = [served.count(pid) for pid in dict.fromkeys(served)][:3]
        # A client may be quicker with its next request than the worker with its leaving.
        beside = {"prefork": 0, "threaded": 4, "event": 1}[kind]
        assert min(counts) >= 5
        assert max(counts) <= 5 + beside


@both
@all_kinds
def test_status_page_and_access_log(tmp_path, wire, kind):
    log = tmp_path / "access.log"
    options = ("--status-path", "/status-page", "--access-log", str(log))
    with started(tmp_path, wire, kind, *options) as server:
        for path in ("/a", "/raise", "/cut", "/held"):
            server.fetch(path)
        server.fetch("/hash", method="POST", body=b"x" * 20_000)
        with server.peer() as peer:
            peer.write(ajp.forward(99, "/bad") if wire == "ajp" else b"70000:")
            assert peer.answer().status == (400 if wire == "ajp" else 431)
        answer = server.fetch("/status-page", query="json&full")
        status = json.loads(answer.body)
        assert status["accepted conn"] == 7
        assert any(process["requests"] for process in status["processes"])
        server.signal(signal.SIGQUIT)
        assert server.wait() == 0
    text = log.read_text()
    assert len(text.splitlines()) == 7
    page = len(b"500 Internal Server Error\n")
    for method, path, status, size in [
        ("GET", "/a", 200, 2),
        ("GET", "/raise", 500, page),
        ("GET", "/held", 500, page),
        ("GET", "/cut", 200, 5),
        ("POST", "/hash", 200, 64),
    ]:
        assert f'"{method} {path} HTTP/1.1" {status} {size} ' in text
    assert (" 400 " if wire == "ajp" else " 431 ") in text


@both
def test_the_stage_of_a_request_that_comes_in_pieces_is_shown(tmp_path, wire):
    options = ("--workers", "1", "--set", f"pm.status_listen={tmp_path}/status.sock")
    options += ("--status-path", "/status")

    def stage():
        with PEERS[wire](f"{tmp_path}/status.sock") as peer:
            peer.send("/status", query="json&full")
            status = json.loads(peer.answer().body)
        return status["processes"][0]["state"]

    with started(tmp_path, wire, "prefork", *options) as server:
        assert stage() == "Idle"
        with server.peer() as peer:
            peer.socket.sendall(peer.request("/x")[:20])
            until(lambda: stage() == "Reading headers")
            peer.write(peer.request("/x")[20:])
            assert peer.answer().complete
            until(lambda: stage() == "Idle")
        with server.peer() as peer:
            peer.send("/endless", query=str(tmp_path / "report"))
            until(lambda: stage() == "Running")
        until(lambda: stage() == "Idle")
        with server.peer() as peer:
            peer.socket.sendall(peer.request("/x")[:20])
            until(lambda: stage() == "Reading headers")
            peer.write(b"\xff" * 9000)
            peer.closed()
            until(lambda: stage() == "Idle")


@both
def test_an_upload_waits_for_its_application(tmp_path, wire):
    """Memory does not grow with what nobody takes."""
    marker, size = tmp_path / "go", 48 << 20
    with started(tmp_path, wire, "event") as server, server.peer() as peer:
        server.fetch("/hash", method="POST", body=b"x" * 100_000)
        before = memory(server)
        peer.send("/slow", method="POST", query=str(marker), body=b"x" * 60_000, length=size)
        peer.socket.settimeout(1.0)
        sent = 60_000
        if wire == "scgi":
            until(lambda: Path(f"{marker}.begun").exists())
            with pytest.raises(TimeoutError):
                while sent < size:
                    sent += peer.socket.send(b"x" * min(1 << 20, size - sent))
            assert sent < size // 2
        else:  # nothing was asked for
            until(lambda: Path(f"{marker}.begun").exists())
            with pytest.raises(TimeoutError):
                peer.socket.recv(1)
        assert memory(server) < before + (8 << 20)
        marker.touch()
        peer.socket.settimeout(10.0)
        if wire == "scgi":
            while sent < size:
                sent += peer.socket.send(b"x" * min(1 << 20, size - sent))
        else:
            peer.body = memoryview(b"x" * (size - 8186))
        assert peer.answer().body == b"%d" % size
        assert memory(server) < before + (8 << 20)


def memory(server):
    """Bytes that the server's worker has in memory."""
    (pid,) = server.workers() or [server.process.pid]
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@both
def test_a_response_waits_for_its_peer(tmp_path, wire):
    report = tmp_path / "report"
    with started(tmp_path, wire, "event") as server, server.peer() as peer:
        server.fetch("/big", query=str(1 << 20))
        before = memory(server)
        peer.send("/endless", query=str(report))
        peer.receive()
        for _ in range(20):
            assert server.fetch("/x").body == b"/x"
        assert memory(server) < before + (8 << 20)
        peer.socket.close()
        until(report.exists)


@both
@pytest.mark.parametrize("awaited", [False, True], ids=["blocking", "event"])
def test_a_peer_that_takes_nothing_is_given_up(wire, awaited):
    """Where a real server would need a minute."""
    ours, theirs = socket.socketpair()
    with theirs:
        if awaited:
            asyncio.run(asyncio.wait_for(_stall(wire, ours, theirs), 20))
            return
        request = PEERS[wire].__new__(PEERS[wire]).request("/x")
        seen = []

        def endless(exchange):
            exchange.send_headers("200 OK", [])
            while not exchange.aborted:
                exchange.ub_write(b"x" * 65536)
                exchange.flush()
            seen.append(exchange)

        channel = Channel(ours, ours.fileno(), 0.05)
        channel.data = request
        assert Session(Runtime(CODECS[wire]), endless)(channel) is None
        assert seen
        assert ours.fileno() == -1


async def _stall(wire, ours, theirs):
    runtime = Runtime(CODECS[wire])
    ended = asyncio.Event()

    async def endless(exchange):
        exchange.send_headers("200 OK", [])
        try:
            while not exchange.aborted:
                exchange.ub_write(b"x" * 65536)
                await exchange.flush()
        finally:
            ended.set()

    server = EventServer([], None, runtime, start=None, stop_application=None, timeout=0.05)
    server.loop = asyncio.get_running_loop()
    ours.setblocking(False)
    stream = EventStream(server, ours, ours.fileno())
    stream.handler = single_event.SingleHandler(server, stream, runtime, endless)
    server.streams.add(stream)
    theirs.sendall(PEERS[wire].__new__(PEERS[wire]).request("/x"))
    stream.watch()
    while not ended.is_set():
        server._close_late()
        await asyncio.sleep(0.01)
    assert stream.closed


@blocking_kinds
def test_a_request_that_came_on_a_kept_connection_before_the_end_is_served(tmp_path, kind):
    marker = tmp_path / "go"
    options = ("--threads", "1") if kind == "threaded" else ()
    with started(tmp_path, "ajp", kind, *options) as server, ExitStack() as stack:
        kept = [stack.enter_context(server.peer()) for _ in range(3)]
        for peer in kept:
            peer.send("/x")
            assert peer.answer().reuse == 1
        kept[0].send("/wait", query=str(marker))
        until(lambda: Path(f"{marker}.begun").exists())
        kept[1].send("/arrived")
        os.kill((server.workers() or [server.process.pid])[0], signal.SIGQUIT)
        marker.touch()
        answers = [peer.answer() for peer in kept[:2]]
        assert [answer.body for answer in answers] == [b"waited", b"/arrived"]
        if kind == "prefork":  # a thread may be quicker than its process hears the signal
            assert [answer.reuse for answer in answers] == [0, 0]
