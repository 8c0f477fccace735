"""The corpus is sound, and its client sees every kind of deviation."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from httpd.corpus import CASES, GET, no, ok, seen, talk
from httpd.echo import app
from httpd.raw_client import NOTHING, PROBE, Address, Answer, Case, run

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_ids_are_unique_and_safe_in_patterns_and_shells() -> None:
    ids = Counter(case.id for case in CASES)
    assert [id for id, count in ids.items() if count > 1] == []
    assert [id for id in ids if re.fullmatch(r"[-A-Za-z0-9._:=,;/@+%~]+", id) is None] == []


def test_no_two_cases_send_the_same() -> None:
    sent = Counter((case.pieces, case.half_close) for case in CASES)
    assert [pieces for pieces, count in sent.items() if count > 1] == []


def test_there_are_enough_of_both_sorts() -> None:
    accepted = [case for case in CASES if all(answer.statuses == (200,) for answer in case.answers)]
    assert len(CASES) >= 1300
    assert len(accepted) >= 400


def test_the_documentation_counts_the_cases() -> None:
    counts = Counter(case.kind for case in CASES)
    text = (DOCS / "hostile-requests.md").read_text()
    told = dict(re.findall(r"^\| (\w+) \|.*\| (\d+) \|$", text, re.MULTILINE))
    assert told == {kind: str(count) for kind, count in counts.items()}
    assert f"{len(CASES)} raw requests" in text


# -- a server that answers what the test says


Script = Callable[[socket.socket], None]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Script], Address]]:
    """A function that serves one connection by a script, and gives its address."""
    listener = socket.socket(socket.AF_UNIX)
    address = str(tmp_path / "socket")
    listener.bind(address)
    listener.listen()
    listener.settimeout(20)
    threads: list[threading.Thread] = []
    errors: list[BaseException] = []

    def start(script: Script) -> Address:
        def work() -> None:
            try:
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(20)
                    script(connection)
            except BaseException as error:
                errors.append(error)

        threads.append(threading.Thread(target=work))
        threads[-1].start()
        return address

    yield start
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    listener.close()
    assert errors == []


def until(connection: socket.socket, mark: bytes) -> bytes:
    data = b""
    while mark not in data:
        block = connection.recv(65536)
        if not block:
            break
        data += block
    return data


def response(body: bytes, status: bytes = b"200 OK", more: bytes = b"") -> bytes:
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\n" % status
    return head + b"Content-Length: %d\r\n%b\r\n%b" % (len(body), more, body)


def echo(path: str = "/", method: str = "GET", **more: object) -> bytes:
    told = {"method": method, "uri": path, "path": path, "query": "", "body": "", "headers": {}}
    return response(json.dumps({**told, **more}).encode())


def script(first: bytes, probe: bytes | None = None) -> Script:
    """Answer the request with *first*, and then the probe; without *probe*: close."""

    def work(connection: socket.socket) -> None:
        until(connection, b"\r\n\r\n")
        connection.sendall(first)
        if probe is not None:
            assert PROBE.encode() in until(connection, PROBE.encode())
            connection.sendall(probe)

    return work


KEPT = echo(PROBE)
ASKED = (GET + b"\r\n",)
REFUSED = response(b"no", b"400 Bad Request")
ACCEPT = talk("X-accept", ASKED, ok())
REFUSE = talk("X-refuse", ASKED, no())


@pytest.mark.parametrize(
    ("case", "first", "probe"),
    [
        (ACCEPT, echo(), KEPT),
        (ACCEPT, b"HTTP/1.1 100 Continue\r\n\r\n" + echo(), KEPT),
        (REFUSE, REFUSED, None),
        (talk("X", ASKED, Answer((400, NOTHING))), b"", None),
        (talk("X", ASKED, ok(seen(), interim=True)), b"HTTP/1.1 100 C\r\n\r\n" + echo(), KEPT),
        (talk("X", ASKED, ok(), ok()), echo() + echo(), KEPT),
        (talk("X", ASKED, Answer((204,)), ok()), b"HTTP/1.1 204 No\r\n\r\n" + echo(), KEPT),
        (
            talk("X", ASKED, Answer((200,), head=True), ok()),
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + echo(),
            KEPT,
        ),
        (
            talk("X", ASKED, ok(seen(X_A="1, 2"))),
            echo(headers={"HTTP_X_A": "1,2"}),
            KEPT,
        ),
    ],
)
def test_what_conforms(
    serve: Callable[[Script], Address], case: Case, first: bytes, probe: bytes | None
) -> None:
    assert run(serve(script(first, probe)), case) == []


@pytest.mark.parametrize(
    ("case", "first", "probe", "deviation"),
    [
        (ACCEPT, REFUSED, None, "answer 1: 400 instead of (200,)"),
        (ACCEPT, b"", None, "answer 1: none, the connection was closed"),
        (ACCEPT, echo(), None, "the connection was "),
        (ACCEPT, echo("/x"), KEPT, "answer 1: uri is '/x', not '/'"),
        (ACCEPT, echo(method="POST"), KEPT, "answer 1: method is 'POST', not 'GET'"),
        (ACCEPT, echo(query="a"), KEPT, "answer 1: query is 'a', not ''"),
        (ACCEPT, echo(body="61"), KEPT, "answer 1: body is 1 bytes b'a', not b''"),
        (ACCEPT, response(b"{"), KEPT, "answer 1: not the application's answer: b'{'"),
        (ACCEPT, echo() + echo("/smuggled"), KEPT, "further answer: 200 for '/smuggled'"),
        (ACCEPT, echo(), REFUSED, "further answer: 400"),
        (ACCEPT, echo()[:-1], None, "answer 1: the body is short"),
        (ACCEPT, b"hello", None, "answer 1: no head of HTTP/1: b'hello'"),
        (ACCEPT, echo().replace(b"OK\r", b"OK\n\r"), KEPT, "answer 1: status line"),
        (
            ACCEPT,
            echo().replace(b"Content-Type", b"A b: c\r\nContent-Type"),
            KEPT,
            "answer 1: field",
        ),
        (REFUSE, echo(), None, "answer 1: 200 for '/' instead of (400,)"),
        (REFUSE, REFUSED, KEPT, "the connection was kept"),
        (REFUSE, REFUSED + echo("/smuggled"), None, "further answer: 200 for '/smuggled'"),
        (talk("X", ASKED, ok(interim=True)), echo(), KEPT, "answer 1: 100 did not come"),
        (
            talk("X", ASKED, ok(interim=False)),
            b"HTTP/1.1 100 C\r\n\r\n" + echo(),
            KEPT,
            "answer 1: 100 came",
        ),
        (talk("X", ASKED, ok(seen(X_A="1"))), echo(), KEPT, "answer 1: HTTP_X_A is None, not '1'"),
        (
            talk("X", ASKED, ok(seen(absent=("PROXY",)))),
            echo(headers={"HTTP_PROXY": "x"}),
            KEPT,
            "answer 1: HTTP_PROXY is there: 'x'",
        ),
        (
            talk("X", ASKED, ok(fields=(("connection", "close"),))),
            echo(),
            KEPT,
            "answer 1: connection is None, not 'close'",
        ),
        (
            talk("X", ASKED, ok()),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX",
            None,
            "answer 1: a chunk has no end",
        ),
        (
            talk("X", ASKED, ok()),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
            KEPT,
            "answer 1: framed by",
        ),
    ],
)
def test_what_deviates(
    serve: Callable[[Script], Address],
    case: Case,
    first: bytes,
    probe: bytes | None,
    deviation: str,
) -> None:
    found = run(serve(script(first, probe)), case)
    assert any(text.startswith(deviation) for text in found), found


def test_a_silent_server_is_left_after_the_patience(serve: Callable[[Script], Address]) -> None:
    def silent(connection: socket.socket) -> None:
        until(connection, b"never")

    found = run(serve(silent), ACCEPT, patience=0.2)
    assert found == [
        "an answer was due, and nothing came",
        "answer 1: none, the connection was closed",
    ]


def test_a_client_that_waits_for_100_sends_its_body_then(
    serve: Callable[[Script], Address],
) -> None:
    def answer(connection: socket.socket) -> None:
        head = until(connection, b"\r\n\r\n")
        assert b"hello" not in head
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        until(connection, b"hello")
        connection.sendall(echo())
        until(connection, PROBE.encode())
        connection.sendall(KEPT)

    case = talk("X", (GET + b"\r\n", None, b"hello"), ok(interim=True))
    assert run(serve(answer), case) == []


def test_a_client_that_gets_no_100_keeps_its_body(serve: Callable[[Script], Address]) -> None:
    def refuse(connection: socket.socket) -> None:
        until(connection, b"\r\n\r\n")
        connection.sendall(response(b"", b"417 No"))
        connection.shutdown(socket.SHUT_WR)
        assert b"hello" not in until(connection, b"never")

    case = talk("X", (GET + b"\r\n", None, b"hello"), Answer((417,), close=True, interim=False))
    assert run(serve(refuse), case) == []


def test_a_half_closed_case_has_no_probe(serve: Callable[[Script], Address]) -> None:
    def answer(connection: socket.socket) -> None:
        assert PROBE.encode() not in until(connection, b"never")
        connection.sendall(echo())

    assert run(serve(answer), talk("X", (GET + b"\r\n",), ok(), half_close=True)) == []


def test_the_echo_tells_what_it_was_given() -> None:
    class Body:
        def read(self) -> bytes:
            return b"a"

    started: list[str] = []

    def start_response(status: str, headers: list[tuple[str, str]]) -> None:
        started.append(status)

    environ = {
        "REQUEST_METHOD": "PUT",
        "REQUEST_URI": "/s/x?q",
        "SCRIPT_NAME": "/s",
        "PATH_INFO": "/x",
        "QUERY_STRING": "q",
        "HTTP_X_A": "1",
        "CONTENT_LENGTH": "1",
        "wsgi.input": Body(),
    }
    assert json.loads(b"".join(app(environ, start_response))) == {
        "method": "PUT",
        "uri": "/s/x?q",
        "path": "/s/x",
        "query": "q",
        "body": "61",
        "headers": {"HTTP_X_A": "1"},
    }
    assert started == ["200 OK"]
    assert list(app({"PATH_INFO": "/status/204"}, start_response)) == []
    assert started[1] == "204 Nothing"
