"""A test for each bug of flup 1.0.3: programs that met it do not meet it here.

F1 to F41 are numbers of this list only. Most tests run a program as a process and talk to it over
a socket, as a web server does.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastcgi_client import PARAMS, Answer, Client, connect, fastcgi
from serving import Served, until

PACKAGE = "sapi_adapters.flup"
SUPPORT = Path(__file__).with_name("bugs_support.py")

FASTCGI = ("fcgi", "fcgi_fork", "fcgi_single")
SCGI = ("scgi", "scgi_fork")
AJP = ("ajp", "ajp_fork")
SERVERS = FASTCGI + SCGI + AJP
FORKING = ("fcgi_fork", "scgi_fork", "ajp_fork")


def flup(module: str) -> Any:
    """Return a module of flup."""
    return importlib.import_module(f"{PACKAGE}.{module}")


# -- programs -------------------------------------------------------------------------------------


def command(program: str, options: dict[str, Any], flags: tuple[str, ...] = ()) -> list[str]:
    return [sys.executable, *flags, str(SUPPORT), PACKAGE, program, json.dumps(options)]


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which no web server has started the program."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FCGI_", "HTTP", "LISTEN_"))}
    return {**kept, **more}


@contextmanager
def running(
    tmp_path: Path,
    server: str,
    *,
    program: str = "serve",
    flags: tuple[str, ...] = (),
    stdin: Any = subprocess.DEVNULL,
    wait: bool = True,
    tcp: bool = False,
    options: dict[str, Any] | None = None,
    **keywords: Any,
) -> Iterator[Served]:
    """Run *program* with *server*, listening in *tmp_path*, or on a port as AJP always does.

    *options* take the place of what the program is given by itself.
    """
    with ExitStack() as stack:
        address: Any = str(tmp_path / "app.sock")
        if tcp or server in AJP:
            # Bound and not listening, it keeps the port for the program, which asks to share it.
            held = stack.enter_context(socket.socket())
            held.bind(("127.0.0.1", 0))
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            address = held.getsockname()
        if options is None:
            options = {"server": server, "bindAddress": address, **keywords}
        log = tmp_path / "stderr.log"
        with log.open("ab") as stderr:
            process = subprocess.Popen(
                command(program, options, flags),
                stdin=stdin,
                stdout=stderr,
                stderr=stderr,
                cwd=tmp_path,
                env=environment(),
            )
        served = Served(process, log, address)
        served.server = server
        try:
            if wait:
                until(lambda: process.poll() is not None or connects(address), what="the start")
                assert process.poll() is None, served.text
            yield served
        finally:
            finish(served)


def finish(served: Served) -> None:
    """End what was started, with its children."""
    process = served.process
    if process.stdin is not None:
        process.stdin.close()
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            for pid in [*served.workers(), process.pid]:
                os.kill(pid, signal.SIGKILL)
            process.wait(10)


def connects(address: Any) -> bool:
    """Whether somebody listens; the connection is left without a word."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as sock:
        sock.settimeout(5)
        try:
            sock.connect(address)
        except OSError:
            return False
    return True


def descriptors(served: Served) -> int:
    """Return how many descriptors the program has open."""
    return len(os.listdir(f"/proc/{served.process.pid}/fd"))


def reset(sock: socket.socket) -> None:
    """Close *sock* as a peer that vanishes does."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


# -- requests over all protocols ------------------------------------------------------------------


@dataclass
class Reply:
    """What came for one request, whatever the protocol."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = False  # the protocol's end was seen

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


def reply(data: bytes, whole: bool) -> Reply:
    """Return what a CGI response says."""
    if not data:
        return Reply(whole=whole)
    head, blank, rest = data.partition(b"\r\n\r\n")
    assert blank, data
    pairs = [line.split(": ", 1) for line in head.decode("latin-1").split("\r\n")]
    headers = {name.lower(): value for name, value in pairs}
    return Reply(int(headers.pop("status")[:3]), headers, rest, whole)


def ask(served: Served, path: str, *, query: str = "", body: bytes = b"", **params: str) -> Reply:
    """Make one request over *served*'s protocol, on a connection of its own."""
    server = served.server
    if server in AJP:
        with connect(served.address) as sock:
            return ajp_ask(sock, path, query=query, body=body)
    params = {**PARAMS, "PATH_INFO": path, "QUERY_STRING": query, **params}
    if body:
        params = {**params, "REQUEST_METHOD": "POST", "CONTENT_LENGTH": str(len(body))}
    if server in SCGI:
        with connect(served.address) as sock:
            sock.sendall(scgi_head(params) + body)
            return scgi_reply(sock)
    with Client(served.address) as client:
        client.send(body=body, **params)
        answer = client.answer()
        return reply(answer.stdout, answer.ended is not None)


def scgi_head(params: dict[str, str]) -> bytes:
    """Return a request's head, the body left to the caller."""
    pairs = {"CONTENT_LENGTH": "0", "SCGI": "1", **params}
    block = "".join(f"{name}\0{value}\0" for name, value in pairs.items()).encode("latin-1")
    return b"%d:%b," % (len(block), block)


def scgi_reply(sock: socket.socket) -> Reply:
    """Return the response: it is whole when the connection was not reset."""
    data, whole = b"", True
    try:
        while piece := sock.recv(65536):
            data += piece
    except ConnectionResetError:
        whole = False
    return reply(data, whole)


def ajp_text(value: str) -> bytes:
    data = value.encode("latin-1")
    return struct.pack(">H", len(data)) + data + b"\0"


def ajp_packet(payload: bytes) -> bytes:
    return b"\x12\x34" + struct.pack(">H", len(payload)) + payload


def ajp_request(path: str, *, query: str = "", length: int = 0, attributes: bytes = b"") -> bytes:
    """Return a FORWARD_REQUEST; *attributes* are put in before the end mark as they are."""
    texts = ("HTTP/1.1", path, "127.0.0.1", "client", "localhost")
    payload = bytes((2, 4 if length else 2)) + b"".join(map(ajp_text, texts))
    payload += struct.pack(">HBH", 80, 0, 2 if length else 1)
    payload += b"\xa0\x0b" + ajp_text("example.org")
    if length:
        payload += b"\xa0\x08" + ajp_text(str(length))
    if query:
        payload += b"\5" + ajp_text(query)
    return ajp_packet(payload + attributes + b"\xff")


def ajp_ask(sock: socket.socket, path: str, *, body: bytes = b"", **more: Any) -> Reply:
    data = ajp_request(path, length=len(body), **more)
    if body:
        data += ajp_packet(struct.pack(">H", len(body)) + body)
    sock.sendall(data)
    return ajp_reply(sock)


def ajp_reply(sock: socket.socket) -> Reply:
    """Return the response; requests for more of the body are left unanswered."""
    found = Reply()
    names = (
        "Content-Type Content-Language Content-Length Date Last-Modified Location Set-Cookie "
        "Set-Cookie2 Servlet-Engine Status WWW-Authenticate"
    ).split()
    with sock.makefile("rb") as stream:
        while not found.whole:
            try:
                start = stream.read(4)
            except ConnectionResetError:
                break
            if len(start) < 4:
                break
            assert start[:2] == b"AB"
            payload = stream.read(int.from_bytes(start[2:], "big"))
            if payload[0] == 3:
                found.body += payload[3 : 3 + int.from_bytes(payload[1:3], "big")]
            elif payload[0] == 4:
                found.status = int.from_bytes(payload[1:3], "big")
                at = 3 + int.from_bytes(payload[3:5], "big") + 3
                count, at = int.from_bytes(payload[at : at + 2], "big"), at + 2
                texts = []
                for n in range(count * 2):
                    size = int.from_bytes(payload[at : at + 2], "big")
                    if n % 2 == 0 and size > 0xA000:
                        texts.append(names[size - 0xA001])
                        at += 2
                    else:
                        texts.append(payload[at + 2 : at + 2 + size].decode("latin-1"))
                        at += size + 3
                found.headers = {k.lower(): v for k, v in zip(texts[::2], texts[1::2], strict=True)}
            elif payload[0] == 5:
                found.whole = True
    return found


@pytest.fixture(scope="module", params=SERVERS)
def server(request, tmp_path_factory):
    """Each server, as its constructor makes it; one process for all tests of this file."""
    path = tmp_path_factory.mktemp(request.param)
    with running(path, request.param, environ={"REMOTE_ADDR": "10.9.8.7"}) as served:
        yield served


def only(*servers: str) -> Any:
    """Run a test on some of the servers."""
    return pytest.mark.parametrize("server", servers, indirect=True)


# -- Paste ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), (" Yes ", True), ("1", True), ("off", False), ("F", False), ("0", False)],
)
def test_f01_text_of_an_ini_file_is_read_as_a_boolean(text, value):
    assert flup("server.paste_factory").asbool(text) is value


def test_f01_a_boolean_that_is_none_is_refused():
    with pytest.raises(ValueError, match="maybe"):
        flup("server.paste_factory").asbool("maybe")


def test_f01_a_list_of_an_ini_file_is_split_at_white_space():
    assert flup("server.paste_factory").aslist("127.0.0.1  10.0.0.1\n") == ["127.0.0.1", "10.0.0.1"]


def test_f01_a_server_is_made_of_the_texts_of_an_ini_file(tmp_path):
    options = {
        "factory": "run_fcgi_thread",
        "config": {"debug": "false"},
        "socket": str(tmp_path / "app.sock"),
        "multiplexed": "true",
        "maxThreads": "4",
    }
    with running(tmp_path, "fcgi", program="paste", options=options) as served:
        assert ask(served, "/pid").body == str(served.process.pid).encode()


# -- the FastCGI protocol -------------------------------------------------------------------------


@only(*FASTCGI)
def test_f02_get_values_names_the_three_values(server):
    asked = (b"FCGI_MAX_CONNS", b"FCGI_MAX_REQS", b"FCGI_MPXS_CONNS")
    with Client(server.address) as client:
        client.socket.sendall(client.codec.get_values(*asked))
        while 0 not in client.answers:
            assert client.receive()
        values = client.answers[0].values
    assert set(values) == set(asked)
    assert int(values[b"FCGI_MAX_CONNS"]) > 0
    assert int(values[b"FCGI_MAX_REQS"]) > 0
    assert values[b"FCGI_MPXS_CONNS"] in (b"0", b"1")


def encoded(params: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in params.items()]


def expect(client: Client, request_id: int) -> None:
    """Let *client* know of a request that is sent without it."""
    client.codec.begin(request_id, [])
    client.answers[request_id] = Answer()


def begin(request_id: int, flags: int = 0, role: int = 1) -> bytes:
    """Return the record that begins a request."""
    content = struct.pack(">HB5x", role, flags)
    return fastcgi.record(fastcgi.BEGIN_REQUEST, request_id, content)


def test_f07_requests_beyond_the_limit_are_overloaded(tmp_path):
    """flup starts a thread for each, and where that fails, a NameError ends the connection."""
    limits = {"multiplexed": True, "minSpare": 1, "maxSpare": 2, "maxThreads": 2}
    directory = tmp_path / "held"
    directory.mkdir()
    ids = range(1, 51)
    with running(tmp_path, "fcgi", **limits) as served, Client(served.address) as client:
        pairs = {**PARAMS, "PATH_INFO": "/hold", "QUERY_STRING": str(directory)}
        raw = [(name.encode(), value.encode()) for name, value in pairs.items()]
        client.answers = {n: Answer() for n in ids}
        # In one piece: both threads may be busy before they have read much of more.
        requests = (client.codec.begin(n, raw, keep_conn=True) for n in ids)
        client.socket.sendall(
            b"".join(r + client.codec.stdin(n, b"") for n, r in zip(ids, requests, strict=True))
        )

        def ended() -> list[Answer]:
            return [answer for answer in client.answers.values() if answer.ended]

        while not ended():
            assert client.receive()
        (directory / "go").touch()
        answers = [client.answer(n) for n in ids]
    states = [answer.ended.status for answer in answers if answer.ended]
    assert len(states) == len(ids)
    assert set(states) == {fastcgi.OVERLOADED, fastcgi.REQUEST_COMPLETE}
    for answer in answers:
        if answer.ended.status == fastcgi.REQUEST_COMPLETE:
            assert answer.body == str(served.process.pid).encode()


@only(*FASTCGI)
def test_f08_parameters_that_straddle_records_are_joined(server):
    pairs = {**PARAMS, "PATH_INFO": "/straddle", "HTTP_X_LONG": "long " * 60}
    block = fastcgi.encode_pairs(encoded(pairs))
    with Client(server.address) as client:
        expect(client, 1)
        records = [fastcgi.record(fastcgi.PARAMS, 1, block[n : n + 1]) for n in range(len(block))]
        end = fastcgi.record(fastcgi.PARAMS, 1, b"") + fastcgi.record(fastcgi.STDIN, 1, b"")
        client.socket.sendall(begin(1) + b"".join(records) + end)
        environ = reply(client.answer().stdout, True).json
    assert (environ["PATH_INFO"], environ["HTTP_X_LONG"]) == ("/straddle", "long " * 60)


@only(*FASTCGI)
@pytest.mark.parametrize("flags", [0, fastcgi.KEEP_CONN])
def test_f31_an_aborted_request_ends_and_its_read_raises(server, tmp_path, flags):
    report = tmp_path / "report"
    with Client(server.address) as client:
        client.begin(
            keep=bool(flags),
            REQUEST_METHOD="POST",
            CONTENT_LENGTH="9",
            PATH_INFO="/body",
            QUERY_STRING=str(report),
        )
        client.stdin(b"some")
        until(Path(f"{report}.begun").exists)
        client.socket.sendall(client.codec.abort(1))
        ended = client.answer().ended
        assert ended is not None
        assert ended.status == fastcgi.REQUEST_COMPLETE
        until(report.exists)
        assert report.read_text().startswith("OSError")
        if flags:
            client.send(2, keep=True, PATH_INFO="/pid")
            assert client.answer(2).status == 200


@only(*FASTCGI)
def test_f32_bytes_beyond_the_content_length_do_not_reach_the_application(server):
    with Client(server.address) as client:
        client.begin(REQUEST_METHOD="POST", CONTENT_LENGTH="4", PATH_INFO="/body")
        client.stdin(b"four and more")
        client.stdin(b"")
        assert client.answer().body == b"bytes four"


@only(*SCGI)
def test_f32_bytes_beyond_an_scgi_body_do_not_reach_the_application(server):
    with connect(server.address) as sock:
        params = {**PARAMS, "REQUEST_METHOD": "POST", "PATH_INFO": "/body", "CONTENT_LENGTH": "4"}
        sock.sendall(scgi_head(params) + b"four and more")
        sock.shutdown(socket.SHUT_WR)
        assert scgi_reply(sock).body == b"bytes four"


def test_f32_a_body_that_ends_short_raises(server, tmp_path):
    report = tmp_path / "report"
    params = {
        "REQUEST_METHOD": "POST",
        "CONTENT_LENGTH": "9",
        "PATH_INFO": "/body",
        "QUERY_STRING": str(report),
    }
    if server.server in FASTCGI:
        with Client(server.address) as client:
            client.begin(**params)
            client.stdin(b"some")
            client.stdin(b"")
            until(report.exists)
    elif server.server in SCGI:
        with connect(server.address) as sock:
            sock.sendall(scgi_head({**PARAMS, **params}) + b"some")
            sock.shutdown(socket.SHUT_WR)
            until(report.exists)
    else:
        with connect(server.address) as sock:
            data = ajp_request("/body", query=str(report), length=9)
            sock.sendall(data + ajp_packet(b"\0\4some"))
            assert sock.recv(5) == b"AB\0\3\6"  # it asks for the rest
            sock.sendall(ajp_packet(b"\0\0"))
            until(report.exists)
    assert report.read_text().startswith("OSError")


@only(*FASTCGI)
def test_f33_an_unknown_role_is_refused_before_anything_of_it_is_taken(server):
    with Client(server.address) as client:
        expect(client, 1)
        client.socket.sendall(begin(1, fastcgi.KEEP_CONN, role=3))
        ended = client.answer().ended
        assert ended is not None
        assert ended.status == fastcgi.UNKNOWN_ROLE


@only(*FASTCGI)
def test_f33_an_unknown_record_within_a_request_closes_the_connection(server):
    with Client(server.address) as client:
        expect(client, 1)
        client.socket.sendall(begin(1, fastcgi.KEEP_CONN) + fastcgi.record(77, 1, b"?"))
        assert not client.receive()


# -- CGI ------------------------------------------------------------------------------------------

CGI = {
    "GATEWAY_INTERFACE": "CGI/1.1",
    "REQUEST_METHOD": "POST",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/body",
    "QUERY_STRING": "",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "CONTENT_LENGTH": "4",
}


def cgi(server: str, stdin: bytes, options: dict[str, Any], **params: str) -> Reply:
    """Run a program as CGI."""
    done = subprocess.run(
        command("serve", {"server": server, **options}),
        input=stdin,
        capture_output=True,
        env=environment(**{**CGI, **params}),
        timeout=30,
    )
    assert done.returncode == 0, done.stderr.decode()
    return reply(done.stdout, True)


@pytest.mark.parametrize("server", ["fcgi", "fcgi_fork", "fcgi_single", "cgi"])
@pytest.mark.parametrize("body", [b"\xff\0\r\n", b"text"])
def test_f03_f04_a_cgi_program_reads_and_writes_bytes(server, body):
    found = cgi(server, body, {})
    assert (found.status, found.body) == (200, b"bytes " + body)


@pytest.mark.parametrize("server", ["fcgi", "fcgi_fork", "fcgi_single"])
def test_f09_a_connected_socket_for_standard_input_is_cgi(server):
    """Apache's mod_cgid starts CGI programs so."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(30)
        process = subprocess.Popen(
            command("serve", {"server": server}),
            stdin=theirs,
            stdout=theirs,
            stderr=subprocess.PIPE,
            env=environment(**CGI),
        )
        theirs.close()
        try:
            ours.sendall(b"body")
            ours.shutdown(socket.SHUT_WR)
            data = b""
            while piece := ours.recv(65536):
                data += piece
            errors = process.communicate(timeout=30)[1]
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == 0, errors.decode()
    assert reply(data, True).body == b"bytes body"


def test_f10_a_unix_listener_on_descriptor_0_is_known_as_one(tmp_path):
    """flup takes it for an AF_INET socket: what overridden methods are told of it is wrong."""
    path, told = str(tmp_path / "app.sock"), tmp_path / "told"
    peer = str(tmp_path / "the-client-has-a-name.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as sock:
        listener.bind(path)
        listener.listen()
        options = {"server": "fcgi", "told": str(told)}
        with running(tmp_path, "fcgi", stdin=listener, options=options, wait=False):
            sock.bind(peer)
            sock.settimeout(30)
            sock.connect(path)
            codec = fastcgi.ClientConnection()
            sock.sendall(codec.begin(1, encoded(PARAMS)) + codec.stdin(1, b""))
            while sock.recv(65536):
                pass
            assert told.read_text().splitlines() == [f"socket AF_UNIX {path}", f"peer {peer}"]


# -- processes ------------------------------------------------------------------------------------


def held(directory: Path) -> set[int]:
    """Return the processes in which requests are held."""
    return {int(name.partition("-")[0]) for name in os.listdir(directory) if "-" in name}


@pytest.mark.parametrize("server", FORKING)
def test_f05_a_busy_prefork_child_counts_as_busy(tmp_path, server):
    """flup's pool stays at maxSpare: what comes then waits though maxChildren is far away."""
    directory = tmp_path / "held"
    directory.mkdir()
    limits = {"minSpare": 1, "maxSpare": 1, "maxChildren": 3}
    with running(tmp_path, server, **limits) as served:
        replies: list[Reply] = []

        def one() -> None:
            replies.append(ask(served, "/hold", query=str(directory)))

        threads = [threading.Thread(target=one) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            until(lambda: len(held(directory)) == 3, 12)
        finally:
            (directory / "go").touch()
            for thread in threads:
                thread.join(30)
        assert {int(found.body) for found in replies} == held(directory)


@pytest.mark.parametrize("server", FORKING)
def test_f06_usr1_replaces_the_children_and_nothing_is_lost(tmp_path, server):
    with running(tmp_path, server, minSpare=1, maxSpare=1) as served:
        first = ask(served, "/pid").body
        served.signal(signal.SIGUSR1)
        until(lambda: ask(served, "/pid").body != first)
        until(lambda: int(first) not in served.workers())
        assert served.process.poll() is None


@pytest.mark.parametrize("server", FORKING)
def test_f35_a_killed_child_is_reaped_and_replaced(tmp_path, server):
    with running(tmp_path, server, minSpare=1, maxSpare=1) as served:
        first = int(ask(served, "/pid").body)
        os.kill(first, signal.SIGKILL)
        until(lambda: len(served.workers()) == 1 and first not in served.workers())
        assert int(ask(served, "/pid").body) != first


@pytest.mark.parametrize("server", FORKING)
def test_f36_no_child_leaves_run(tmp_path, server):
    """In a child of flup the code that stands after run() is executed, too."""
    unwound = tmp_path / "unwound"
    with running(tmp_path, server, unwound=str(unwound), maxRequests=1) as served:
        assert ask(served, "/leave").status == 500
        assert ask(served, "/pid").status == 200
        served.signal(signal.SIGTERM)
        assert served.wait() == 0
    assert unwound.read_text().split() == [str(served.process.pid)]
    assert served.text.count("run() returned False") == 1


@pytest.mark.parametrize(
    ("model", "limits", "words"),
    [
        ("PreforkServer", {"minSpare": 1, "maxSpare": 1, "maxChildren": 1}, b"!?!.?"),
        ("ThreadedServer", {"minSpare": 1, "maxSpare": 1, "maxThreads": 9}, b"!?!.?"),
        ("SingleServer", {}, b"!?!?"),  # sys.exit() ends the program: it is its own job
    ],
)
def test_f24_f36_a_job_that_raises_ends_with_its_connection(tmp_path, model, limits, words):
    """The process models by themselves: the error is logged, the peer sees an end."""
    unwound = tmp_path / "unwound"
    options = {
        "model": model,
        "address": str(tmp_path / "app.sock"),
        "unwound": str(unwound),
        **limits,
    }
    with running(tmp_path, "fcgi", program="jobs", options=options) as served:
        for word in words:
            with connect(served.address) as sock:
                sock.sendall(bytes((word,)))
                said = sock.recv(100)
            assert bool(said) == (word == ord("?"))
        served.signal(signal.SIGTERM)
        assert served.wait() == 0
    assert served.text.count("RuntimeError: the job failed") == 2
    assert served.text.count("SystemExit: the job left") == words.count(b".")
    assert unwound.read_text().split() == [str(served.process.pid)]


@pytest.mark.parametrize("server", FORKING)
def test_f34_a_socket_timeout_keeps_no_child_at_the_listener(tmp_path, server):
    """flup makes the listener blocking: who loses the race for a connection cannot be ended."""
    with running(tmp_path, server, minSpare=5, maxSpare=5, sockTimeout=0.5) as served:
        for _ in range(20):
            assert ask(served, "/pid").status == 200
        served.signal(signal.SIGTERM)
        assert served.wait(9) == 0


@pytest.mark.parametrize("server", FORKING)
def test_f34_a_socket_timeout_ends_the_wait_for_a_body(tmp_path, server):
    """A peer that is silent does not keep the only child."""
    limits = {"minSpare": 1, "maxSpare": 1, "maxChildren": 1, "sockTimeout": 0.5}
    with running(tmp_path, server, **limits) as served, connect(served.address) as silent:
        params = {**PARAMS, "PATH_INFO": "/body", "REQUEST_METHOD": "POST", "CONTENT_LENGTH": "9"}
        if server == "fcgi_fork":
            silent.sendall(fastcgi.ClientConnection().begin(1, encoded(params)))
        elif server == "scgi_fork":
            silent.sendall(scgi_head(params))
        else:
            silent.sendall(ajp_request("/body", length=9))
        assert ask(served, "/pid").status == 200


@pytest.mark.parametrize("value", [-1, "1", None])
def test_f34_a_socket_timeout_is_a_number_of_seconds(value):
    with pytest.raises(ValueError, match="sockTimeout"):
        flup("server.preforkserver").PreforkServer(sockTimeout=value)


# -- sockets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["scgi", "scgi_fork", "ajp", "ajp_fork"])
def test_f15_an_address_in_use_is_named_and_ends_the_program(tmp_path, server):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        options = {"server": server, "bindAddress": taken.getsockname()}
        with running(tmp_path, server, options=options, wait=False) as served:
            assert served.wait() not in (0, None)
    assert "ddress already in use" in served.text
    assert "TypeError" not in served.text


def abandoned(client: Client) -> None:
    """Leave in the middle of the parameters."""
    client.socket.sendall(begin(1) + fastcgi.record(fastcgi.PARAMS, 1, b"\4\1name"))


def unsent(client: Client) -> None:
    """Leave before the body, when the application waits for it."""
    client.begin(REQUEST_METHOD="POST", CONTENT_LENGTH="9", PATH_INFO="/body")


@pytest.mark.parametrize("leave", [abandoned, unsent])
@pytest.mark.parametrize("multiplexed", [False, True])
def test_f19_f21_what_a_peer_leaves_behind_is_closed(
    tmp_path, leave: Callable[[Client], None], multiplexed
):
    """Without help of the garbage collector, for which flup's leftovers wait."""
    options = {"multiplexed": multiplexed, "collect": False, "maxSpare": 5}
    with running(tmp_path, "fcgi", **options) as served:
        assert ask(served, "/pid").status == 200
        until(lambda: descriptors(served) <= 20)
        before = descriptors(served)
        for _ in range(40):
            client = Client(served.address)
            leave(client)
            reset(client.socket)
        # One more in each thread: a thread may hold its last connection until the next one.
        until(lambda: descriptors(served) <= before + 5)
        assert ask(served, "/pid").status == 200


def test_f21_requests_of_a_vanished_peer_end(tmp_path):
    with running(tmp_path, "fcgi", multiplexed=True) as served:
        reports = [tmp_path / f"report{n}" for n in range(12)]
        for first in range(0, 12, 4):
            client = Client(served.address)
            for n in range(first, first + 4):
                client.begin(
                    n + 1,
                    keep=True,
                    REQUEST_METHOD="POST",
                    CONTENT_LENGTH="9",
                    PATH_INFO="/body",
                    QUERY_STRING=str(reports[n]),
                )
            until(lambda some=reports[first : first + 4]: all(map(begun, some)))
            reset(client.socket)
        for report in reports:
            until(report.exists)
            assert report.read_text().startswith("OSError")


def begun(report: Path) -> bool:
    return Path(f"{report}.begun").exists()


@pytest.mark.parametrize("server", ["fcgi", "fcgi_single", "scgi"])
def test_f20_a_peer_that_does_not_close_is_not_waited_for(tmp_path, server):
    """After the response flup drains the connection, for as long as the peer likes."""
    limits = {"minSpare": 1, "maxSpare": 1, "maxThreads": 1}
    with running(tmp_path, server, **limits) as served, connect(served.address) as silent:
        pairs = {**PARAMS, "PATH_INFO": "/pid"}
        if server == "scgi":
            silent.sendall(scgi_head(pairs))
        else:
            codec = fastcgi.ClientConnection()
            silent.sendall(codec.begin(1, encoded(pairs)) + codec.stdin(1, b""))
        while silent.recv(65536):
            pass
        until(lambda: served_now(served), 10)


def served_now(served: Served) -> bool:
    """Whether a request is answered at present."""
    try:
        return ask(served, "/pid").status == 200
    except OSError:
        return False


@only(*FASTCGI, *SCGI)
@pytest.mark.parametrize("length", ["", "1000000000000"])
def test_f20_a_peer_that_never_stops_sending_is_left(server, length):
    """Neither with bytes that nobody announced nor with a body that nobody reads."""
    params = {**PARAMS, "PATH_INFO": "/pid", "REQUEST_METHOD": "POST"}
    if length:
        params["CONTENT_LENGTH"] = length
    with connect(server.address) as sock:
        if server.server in SCGI:
            sock.sendall(scgi_head(params))
            more = b"more" * 256
        else:
            sock.sendall(fastcgi.ClientConnection().begin(1, encoded(params)))
            more = fastcgi.record(fastcgi.STDIN, 1, b"more" * 256)
            if not length:
                sock.sendall(fastcgi.record(fastcgi.STDIN, 1, b""))
        assert sock.recv(65536)

        def refused() -> bool:
            try:
                for _ in range(20):
                    sock.sendall(more)
            except OSError:
                return True
            return False

        until(refused)


@pytest.mark.parametrize("server", SERVERS)
def test_f22_descriptors_above_1024_are_served(tmp_path, server):
    if 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 2200:
        pytest.skip("the hard limit on descriptors is too low")
    with running(tmp_path, server, descriptors=1100) as served:
        assert ask(served, "/pid").status == 200
        assert ask(served, "/body", body=b"body").body == b"bytes body"
        served.signal(signal.SIGTERM)
        assert served.wait() == 0


@pytest.mark.parametrize("server", ["fcgi", "scgi"])
def test_f38_a_socket_somebody_listens_on_is_not_taken(tmp_path, server):
    second = tmp_path / "second"
    second.mkdir()
    with running(tmp_path, server) as served:
        options = {"server": server, "bindAddress": served.address}
        with running(second, server, options=options, wait=False) as other:
            assert other.wait() not in (0, None)
        assert f"{served.address}: another process listens there" in other.text
        assert ask(served, "/pid").body == str(served.process.pid).encode()


@pytest.mark.parametrize("server", ["fcgi", "scgi"])
def test_f38_a_socket_left_behind_is_replaced(tmp_path, server):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "app.sock"))
    with running(tmp_path, server) as served:
        assert ask(served, "/pid").status == 200


@pytest.mark.parametrize("server", ["fcgi", "scgi"])
def test_f38_a_file_that_is_no_socket_is_not_removed(tmp_path, server):
    path = tmp_path / "app.sock"
    path.write_text("somebody's")
    with running(tmp_path, server, wait=False) as served:
        assert served.wait() not in (0, None)
    assert path.read_text() == "somebody's"


# -- threads and signals --------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["fcgi", "scgi", "ajp"])
def test_f23_threads_are_started_when_they_are_wanted(tmp_path, server):
    with running(tmp_path, server, maxSpare=5, wait=False) as served:
        tasks = f"/proc/{served.process.pid}/task"
        until(lambda: listening(served))
        assert len(os.listdir(tasks)) <= 2  # the main thread, and one that waits for connections
        assert ask(served, "/pid").status == 200


def listening(served: Served) -> bool:
    """Whether the socket listens, found out without a connection."""
    if isinstance(served.address, str):
        table = Path("/proc/net/unix").read_text().splitlines()
        return any(line.split()[-1] == served.address and " 00010000 " in line for line in table)
    wanted = f":{served.address[1]:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1].endswith(wanted) and row[3] == "0A" for row in rows)


def test_f23_constructors_start_no_thread():
    before = threading.active_count()
    flup("server.threadpool").ThreadPool(minSpare=2, maxSpare=5)
    flup("server.fcgi").WSGIServer(None)
    assert threading.active_count() == before


class Job:
    """A job for a pool of threads, which notes that it ran."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.ran = threading.Event()

    def run(self) -> None:
        self.ran.set()
        if self.error is not None:
            raise self.error


def test_f24_what_a_job_raises_is_logged_and_the_thread_goes_on(capfd):
    pool = flup("server.threadpool").ThreadPool(minSpare=1, maxSpare=1, maxThreads=1)
    bad, good = Job(RuntimeError("the job failed")), Job()
    try:
        for job in (bad, good):
            assert pool.addJob(job)
            assert job.ran.wait(20)
    finally:
        pool.shutdown()
    assert "RuntimeError: the job failed" in capfd.readouterr().err


@pytest.mark.parametrize("server", ["fcgi", "fcgi_fork", "scgi", "scgi_fork", "ajp", "ajp_fork"])
def test_f25_a_server_runs_off_the_main_thread(tmp_path, server):
    with running(tmp_path, server, program="serve_beside", stdin=subprocess.PIPE) as served:
        assert ask(served, "/pid").status == 200
        served.process.stdin.close()
        assert served.wait(20) == 0
    assert "run() returned False" in served.text
    assert "Traceback" not in served.text


@pytest.mark.parametrize("server", SERVERS)
def test_f26_warnings_may_be_errors(tmp_path, server):
    with running(tmp_path, server, flags=("-W", "error")) as served:
        assert ask(served, "/pid").status == 200
        served.signal(signal.SIGHUP)
        assert served.wait() == 0
    assert "run() returned True" in served.text
    assert "Warning" not in served.text


def test_f28_no_module_names_what_python_no_longer_has():
    package = importlib.import_module(PACKAGE)
    gone = r"import \(?(cgitb|imp|dummy_threading|_dummy_thread|thread)\b|StringTypes|\bunicode\b"
    names = [found.name for found in pkgutil.walk_packages(package.__path__, f"{PACKAGE}.")]
    assert len(names) > 20
    for name in names:
        text = Path(importlib.import_module(name).__file__ or "").read_text()
        assert not re.search(gone, text), name


# -- requests and responses -----------------------------------------------------------------------


@pytest.mark.parametrize("server", ["fcgi", "fcgi_fork", "fcgi_single", "scgi", "ajp"])
def test_f27_the_debug_page_needs_no_cgitb(tmp_path, server):
    with running(tmp_path, server, debug=True, without=["cgitb"]) as served:
        found = ask(served, "/fail")
    assert found.status == 500
    assert b"ValueError" in found.body
    assert b"&lt;b&gt;what went wrong" in found.body
    assert b"<b>what went wrong" not in found.body


def test_f16_the_error_page_has_status_500_and_tells_nothing(server):
    found = ask(server, "/fail")
    assert (found.status, found.whole) == (500, True)
    assert b"went wrong" not in found.body


@only(*FASTCGI, *SCGI)
@pytest.mark.parametrize(
    ("value", "scheme"),
    [(value, "https") for value in ("on", "ON", "On", "1", "true", "True", "https", "HTTPS")]
    + [(value, "http") for value in ("off", "", "0", "false")],
)
def test_f29_https_is_told_in_any_case(server, value, scheme):
    assert ask(server, "/show", HTTPS=value).json["wsgi.url_scheme"] == scheme


def test_f30_what_the_program_sets_has_precedence_over_the_request(server):
    """Kept as it is: deployments set REMOTE_ADDR, HTTPS and the like so."""
    assert ask(server, "/show").json["REMOTE_ADDR"] == "10.9.8.7"


@only(*FASTCGI, *AJP)
def test_f37_a_response_that_breaks_off_does_not_look_complete(server):
    found = ask(server, "/fail-late")
    assert (found.status, found.body, found.whole) == (200, b"first", False)


@pytest.mark.parametrize("kind", SCGI)
def test_f37_a_response_over_scgi_is_cut_by_a_reset(tmp_path, kind):
    """Its end is the connection's; there is no such thing for a Unix socket."""
    with running(tmp_path, kind, tcp=True) as served:
        found = ask(served, "/fail-late")
    assert (found.status, found.body, found.whole) == (200, b"first", False)


def test_f37_a_response_of_known_length_is_short(server):
    found = ask(server, "/fail-late", query="100")
    assert (found.status, found.headers["content-length"], found.body) == (200, "100", b"first")


def test_f39_the_exception_given_to_start_response_is_raised_itself(server):
    assert ask(server, "/fail-again").body == b"head; same"


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("200 OK\r\nX-More: 1", []),
        ("200 OK\nX-More: 1", []),
        ("200 \0", []),
        ("2000 OK", []),
        ("020 OK", []),
        ("abc OK", []),
        ("200 OK", [["X-One", "1\r\nX-More: 1"]]),
        ("200 OK", [["X-One", "1\nX-More: 1"]]),
        ("200 OK", [["X-One", "1\rX-More: 1"]]),
        ("200 OK", [["X-One", "1\0"]]),
        ("200 OK", [["X-One: 1\r\nX-More", "1"]]),
        ("200 OK", [["X One", "1"]]),
    ],
    ids=repr,
)
def test_f40_control_characters_in_a_head_are_refused(server, status, headers):
    found = ask(server, "/head", query=json.dumps([status, headers]))
    assert found.status == 500
    assert not {"x-more", "x-one"} & set(found.headers)


def test_f40_a_good_head_is_not(server):
    head = ["404 Not Found", [["X-One", "caf\xe9 \t1"], ["Content-Type", "text/plain"]]]
    found = ask(server, "/head", query=json.dumps(head))
    assert (found.status, found.body, found.headers["x-one"]) == (404, b"sent", "caf\xe9 \t1")


@only(*FASTCGI, *SCGI)
def test_f41_a_path_made_of_the_request_uri_is_decoded(server):
    environ = ask(server, "", REQUEST_URI="/a%20b/caf%C3%A9?x=%20y", QUERY_STRING="").json
    assert environ["PATH_INFO"] == "/a b/caf\xc3\xa9"
    assert environ["QUERY_STRING"] == "x=%20y"


# -- AJP ------------------------------------------------------------------------------------------


@only(*AJP)
def test_f17_the_path_is_decoded_and_has_no_query(server):
    environ = ask(server, "/a%20b/caf%C3%A9", query="x=%20y").json
    assert environ["PATH_INFO"] == "/a b/caf\xc3\xa9"
    assert environ["QUERY_STRING"] == "x=%20y"
    assert environ["SCRIPT_NAME"] == ""


@only(*AJP)
@pytest.mark.parametrize("name", ["wsgi.input", "HTTP_HOST", "REMOTE_USER", "javax.servlet.x"])
def test_f18_no_attribute_gets_a_name_of_its_own_choice(server, name):
    attribute = b"\x0a" + ajp_text(name) + ajp_text("forged")
    with connect(server.address) as sock:
        found = ajp_ask(sock, "/show", attributes=attribute)
    assert b"forged" not in found.body
    assert found.status in (200, 403)


@only(*AJP)
def test_f18_an_attribute_cannot_break_the_environment(server):
    for code in (0, 14, 200):
        with connect(server.address) as sock:
            assert ajp_ask(sock, "/show", attributes=bytes((code,))).status == 400


@pytest.mark.parametrize("server", AJP)
def test_f18_a_secret_is_asked_for_and_not_passed_on(tmp_path, server):
    with running(tmp_path, server, secret="sesame") as served:
        for word, status in (("", 403), ("sesam", 403), ("Sesame", 403), ("sesame", 200)):
            attribute = b"\x0c" + ajp_text(word) if word else b""
            with connect(served.address) as sock:
                found = ajp_ask(sock, "/show", attributes=attribute)
            assert found.status == status
            assert b"sesame" not in found.body


@pytest.mark.parametrize("server", AJP)
@pytest.mark.parametrize("trusted", [False, True])
def test_f18_a_user_is_believed_only_if_the_program_says_so(tmp_path, server, trusted):
    with running(tmp_path, server, trustRemoteUser=trusted) as served:
        with connect(served.address) as sock:
            found = ajp_ask(sock, "/show", attributes=b"\3" + ajp_text("admin"))
        assert found.json.get("REMOTE_USER") == ("admin" if trusted else None)


@pytest.mark.parametrize("server", AJP)
def test_f18_other_machines_are_not_served_without_a_secret(tmp_path, server):
    options = {"server": server, "bindAddress": ["", 0]}
    with running(tmp_path, server, options=options, wait=False) as served:
        assert served.wait() not in (0, None)
    assert "secret" in served.text


# -- clients --------------------------------------------------------------------------------------


def fastcgi_response(head: bytes, body: bytes = b"body", errors: bytes = b"") -> bytes:
    data = fastcgi.stream(fastcgi.STDERR, 1, errors)
    data += fastcgi.stream(fastcgi.STDOUT, 1, head + body)
    data += fastcgi.record(fastcgi.STDOUT, 1, b"")
    return data + fastcgi.record(fastcgi.END_REQUEST, 1, bytes(8))


def scgi_response(head: bytes, body: bytes = b"body") -> bytes:
    return head + body


CLIENTS = {
    "fcgi": ("client.fcgi_app", "FCGIApp", fastcgi_response),
    "scgi": ("client.scgi_app", "SCGIApp", scgi_response),
}


@contextmanager
def upstream(address: Any, end: bytes, response: bytes) -> Iterator[Any]:
    """Listen for one connection, read until *end* came, send *response*; yield the address."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET

    def serve() -> None:
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(20)
            data = b""
            while end not in data:
                piece = sock.recv(65536)
                if not piece:
                    return
                data += piece
            sock.sendall(response)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass

    with socket.socket(family) as listener:
        listener.settimeout(20)
        listener.bind(address)
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            if not thread.is_alive():
                thread.join()
            else:
                # The client may have failed before it connected: let the thread see an end.
                if not connects(listener.getsockname()):
                    raise AssertionError("the upstream cannot be ended")
                thread.join(25)


@dataclass
class Called:
    """What a client that was called as an application gave."""

    status: Any
    headers: Any
    body: bytes
    errors: str


class Written:
    """``wsgi.errors`` as strict as PEP 3333."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        assert type(text) is str
        self.text += text

    def flush(self) -> None:
        pass


class Empty:
    """``wsgi.input`` without a body."""

    def read(self, size: int = -1) -> bytes:
        return b""


def call(kind: str, address: Any, response: bytes, by_host: bool = False) -> Called:
    """Call the client of *kind* with an upstream that gives *response*."""
    module, name, _ = CLIENTS[kind]
    end = fastcgi.record(fastcgi.STDIN, 1, b"") if kind == "fcgi" else b"\0,"
    errors = Written()
    environ = {**PARAMS, "wsgi.input": Empty(), "wsgi.errors": errors, "HTTP_HOST": "a"}
    heads: list[Any] = []
    with upstream(address, end, response) as where:
        arguments = {"host": where[0], "port": where[1]} if by_host else {"connect": where}
        app = getattr(flup(module), name)(**arguments)
        result = app(environ, lambda status, headers, *more: heads.append((status, headers)))
        try:
            body = b"".join(result)
        finally:
            getattr(result, "close", lambda: None)()
    return Called(*heads[-1], body, errors.text)


HEAD = b"Status: 404 Not Found\r\nContent-Type: text/plain\r\n\r\n"


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("way", ["path", "connect", "host"])
def test_f11_a_client_connects_to_a_path_and_to_a_port(tmp_path, kind, way):
    address = str(tmp_path / "up.sock") if way == "path" else ("127.0.0.1", 0)
    assert call(kind, address, CLIENTS[kind][2](HEAD), way == "host").body == b"body"


def test_f12_standard_error_of_the_application_goes_to_wsgi_errors(tmp_path):
    response = fastcgi_response(HEAD, errors=b"it complains \xff\n")
    found = call("fcgi", str(tmp_path / "up.sock"), response)
    assert "it complains" in found.errors
    assert found.body == b"body"


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_f13_f14_lines_of_a_head_are_whole_and_text(tmp_path, kind, newline):
    """Heads with bare LF; what start_response gets is str."""
    head = newline.join([b"Status: 404 Not Found", b"X-Word: caf\xe9", b"", b""])
    found = call(kind, str(tmp_path / "up.sock"), CLIENTS[kind][2](head))
    assert found.status == "404 Not Found"
    assert [(name.lower(), value) for name, value in found.headers] == [("x-word", "caf\xe9")]
    assert {type(text) for pair in found.headers for text in pair} == {str}
    assert found.body == b"body"


@pytest.mark.parametrize("kind", CLIENTS)
def test_f13_a_head_without_status_is_200(tmp_path, kind):
    response = CLIENTS[kind][2](b"Content-Type: text/plain\n\n")
    assert call(kind, str(tmp_path / "up.sock"), response).status.startswith("200 ")
