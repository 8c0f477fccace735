"""HTTP/1.1: bad input and its answers, every cut of it, bodies, the judge, output, dates."""

from __future__ import annotations

import gc
import time
import weakref
from typing import Any

import httptools
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from protocols.http_oracle import Oracle

from sapi_adapters.protocols import http
from sapi_adapters.protocols.http import (
    LAST_CHUNK,
    METHODS,
    End,
    Head,
    Limits,
    Parser,
    Refusal,
    chunk,
    http_date,
    parse_http_date,
    response_head,
)
from sapi_adapters.sapi import ApplicationError

judged = settings(
    derandomize=True,
    max_examples=1500,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
SMALL = Limits(line=200, field_size=100, fields=6)
HOST = b"Host: a\r\n"


def merged(events: list[Any]) -> list[Any]:
    """Join the pieces of bodies: where they are cut is nobody's promise."""
    result: list[Any] = []
    for event in events:
        if isinstance(event, bytes):
            if result and isinstance(result[-1], bytes):
                event = result.pop() + event
            if not event:
                continue
        result.append(event)
    return result


def parse(*pieces: bytes, limits: Limits = SMALL) -> list[Any]:
    parser = Parser(limits)
    for piece in pieces:
        parser.receive(piece)
    return merged(list(parser.events))


def single(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def same_however_cut(data: bytes) -> list[Any]:
    """Return the events, after a look at every cut into two and at single bytes."""
    events = parse(data)
    assert without_reasons(parse(*single(data))) == without_reasons(events)
    for at in range(1, len(data)):
        assert without_reasons(parse(data[:at], data[at:])) == without_reasons(events), at
    return events


def without_reasons(events: list[Any]) -> list[Any]:
    return [
        (event.status, event.the_request) if isinstance(event, Refusal) else event
        for event in events
    ]


def request(*lines: bytes, line: bytes = b"POST / HTTP/1.1", body: bytes = b"") -> bytes:
    return b"\r\n".join([line, b"Host: a", *lines, b"", body])


# -- what is refused ------------------------------------------------------------------------------

CHUNKED = b"Transfer-Encoding: chunked"
REFUSED = {
    # H1 to H3: where the body ends
    "length and chunked": (400, request(b"Content-Length: 5", CHUNKED, body=b"0\r\n\r\n")),
    "chunked and length": (400, request(CHUNKED, b"Content-Length: 5", body=b"0\r\n\r\n")),
    "chunked in 1.0": (400, request(CHUNKED, line=b"POST / HTTP/1.0")),
    "chunked twice": (400, request(CHUNKED, CHUNKED)),
    "chunked, chunked": (400, request(b"Transfer-Encoding: chunked, chunked")),
    "chunked not last": (400, request(b"Transfer-Encoding: chunked, gzip")),
    "no coding": (400, request(b"Transfer-Encoding:")),
    "empty coding": (400, request(b"Transfer-Encoding: ,chunked")),
    "coding with VT": (400, request(b"Transfer-Encoding: \x0bchunked")),
    "coding with NEL": (400, request(b"Transfer-Encoding: \x85chunked")),
    "quoted coding": (400, request(b'Transfer-Encoding: "chunked"')),
    "unknown coding": (501, request(b"Transfer-Encoding: xchunked")),
    "gzip": (501, request(b"Transfer-Encoding: gzip, chunked")),
    "identity": (501, request(b"Transfer-Encoding: identity")),
    "length twice": (400, request(b"Content-Length: 5", b"Content-Length: 6")),
    "length twice the same": (400, request(b"Content-Length: 5", b"content-length: 5")),
    "list of lengths": (400, request(b"Content-Length: 5, 5")),
    "length +": (400, request(b"Content-Length: +5")),
    "length -": (400, request(b"Content-Length: -5")),
    "length _": (400, request(b"Content-Length: 1_0")),
    "length 0x": (400, request(b"Content-Length: 0x5")),
    "length empty": (400, request(b"Content-Length:")),
    "length with blank": (400, request(b"Content-Length: 1 0")),
    "length superscript": (400, request(b"Content-Length: \xb2")),
    "length over 2**63": (400, request(b"Content-Length: 9223372036854775808")),
    "length over 2**64": (400, request(b"Content-Length: 18446744073709551617")),
    # H4
    "no host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "host twice": (400, request(HOST[:-2])),
    "host twice in another case": (400, request(b"HOST: a")),
    "host empty": (400, b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    **{
        f"host {bad!r}": (400, b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % bad)
        for bad in (b"a b", b"a/b", b"u@a", b"a,b", b"a:b", b"a:123456", b"[::1", b"[g]", b"\xe9",
                    b"a\\b", b"a?b", b"a#b", b"[::1]a", b":80", b"a:80:80", b"a\x0b", b"<a>")
    },
    # H5: lines
    "bare LF": (400, b"GET / HTTP/1.1\nHost: a\n\n"),
    "bare LF after a field": (400, b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n"),
    "bare LF at the end": (400, b"GET / HTTP/1.1\r\nHost: a\r\n\n"),
    "bare CR": (400, request(b"X: a\rY: b")),
    "CR CR LF": (400, request(b"X: a\r")),
    "NUL in a value": (400, request(b"X: a\0b")),
    "DEL in a value": (400, request(b"X: a\x7f")),
    "ESC in a value": (400, request(b"X: \x1b[0m")),
    "folded": (400, request(b"X: a", b" b")),
    "folded first": (400, b"GET / HTTP/1.1\r\n X: a\r\nHost: a\r\n\r\n"),
    "folded by HTAB": (400, request(b"X: a", b"\tTransfer-Encoding: chunked")),
    "blank before the colon": (400, request(b"X : a")),
    "HTAB before the colon": (400, request(b"Transfer-Encoding\t: chunked")),
    "no name": (400, request(b": a")),
    "no colon": (400, request(b"X")),
    "name with parenthesis": (400, request(b"X(y): a")),
    "name of latin-1": (400, request(b"X\xe9: a")),
    "name with NUL": (400, request(b"X\0: a")),
    # E3
    "one variable": (400, request(b"X-Forwarded-For: 1", b"X_Forwarded_For: 2")),
    "one variable, other case": (400, request(b"X_A: 1", b"x-a: 2")),
    "one variable by a dot": (400, request(b"Content.Length: 1", b"Content-Length: 1")),
    # H6: the request line
    "two blanks": (400, b"GET  / HTTP/1.1\r\n" + HOST),
    "two blanks later": (400, b"GET /  HTTP/1.1\r\n" + HOST),
    "blank at the end": (400, b"GET / HTTP/1.1 \r\n" + HOST),
    "blank first": (400, b" GET / HTTP/1.1\r\n" + HOST),
    "HTAB": (400, b"GET\t/ HTTP/1.1\r\n" + HOST),
    "method no token": (400, b"G(T / HTTP/1.1\r\n" + HOST),
    "no method": (400, b"/ HTTP/1.1\r\n" + HOST),
    "two empty lines": (400, b"\r\n\r\nGET / HTTP/1.1\r\n" + HOST),
    "empty line of LF": (400, b"\nGET / HTTP/1.1\r\n" + HOST),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01"),
    "HTTP/0.9": (400, b"GET /\r\n"),
    "HTTP/0.9 by name": (505, b"GET / HTTP/0.9\r\n\r\n"),
    "HTTP/2.0": (505, b"GET / HTTP/2.0\r\n\r\n"),
    "HTTP/1.2": (505, b"GET / HTTP/1.2\r\n" + HOST),
    "http/1.1": (400, b"GET / http/1.1\r\n" + HOST),
    "HTTP/1.10": (400, b"GET / HTTP/1.10\r\n" + HOST),
    "HTTP/01.1": (400, b"GET / HTTP/01.1\r\n" + HOST),
    "HTTPS/1.1": (400, b"GET / HTTPS/1.1\r\n" + HOST),
    "NUL in the target": (400, b"GET /\0 HTTP/1.1\r\n" + HOST),
    "bytes in the target": (400, b"GET /\xe9 HTTP/1.1\r\n" + HOST),
    "fragment": (400, b"GET /#a HTTP/1.1\r\n" + HOST),
    # H15 to H17
    "CONNECT": (405, b"CONNECT a:443 HTTP/1.1\r\n" + HOST),
    "CONNECT to a path": (405, request(line=b"CONNECT / HTTP/1.1")),
    "authority-form": (400, b"GET a:443 HTTP/1.1\r\n" + HOST),
    "asterisk-form": (400, b"GET * HTTP/1.1\r\n" + HOST),
    "ftp": (400, b"GET ftp://a/ HTTP/1.1\r\n" + HOST),
    "absolute without host": (400, b"GET http:///a HTTP/1.1\r\n" + HOST),
    "absolute with user": (400, b"GET http://u:p@a/ HTTP/1.1\r\n" + HOST),
    "relative": (400, b"GET a HTTP/1.1\r\n" + HOST),
    "expectation": (417, request(b"Expect: 200-ok")),
    "expectation twice": (417, request(b"Expect: 100-continue", b"Expect: 100-continue")),
    "HTTP/2 preface": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    # H11
    "long line": (414, b"GET /%b HTTP/1.1\r\n" % (b"a" * 187)),
    "long line without end": (414, b"GET /" + b"a" * 197),
    "long field": (431, request(b"X: " + b"a" * 98)),
    "long field without end": (431, b"GET / HTTP/1.1\r\nX: " + b"a" * 99),
    "many fields": (431, request(*[b"X%d: a" % n for n in range(6)])),
}  # fmt: skip


@pytest.mark.parametrize(("status", "data"), REFUSED.values(), ids=REFUSED)
def test_refused_and_nothing_after_it_is_parsed(status: int, data: bytes) -> None:
    good = request(line=b"GET /good HTTP/1.1")
    events = same_however_cut(good + data)
    assert isinstance(events[0], Head)
    assert isinstance(events[-1], Refusal)
    assert events[-1].status.startswith(f"{status} ")
    assert len(events) == 2
    parser = Parser(SMALL)
    parser.receive(data)
    parser.receive(good)
    parser.receive_eof()
    assert len(parser.events) == 1
    assert not parser.in_message
    assert not parser.rest()


CHUNKS = {
    "no size": b"\r\nhello\r\n",
    "sign": b"+5\r\nhello\r\n",
    "0x": b"0x5\r\nhello\r\n",
    "_": b"0_5\r\nhello\r\n",
    "blank before": b" 5\r\nhello\r\n",
    "blank after": b"5 \r\nhello\r\n",
    "17 digits": b"0" * 16 + b"5\r\nhello\r\n",
    "over 2**63": b"8" + b"0" * 15 + b"\r\nhello\r\n",
    "bare LF after the size": b"5\nhello\r\n",
    "bare LF after the data": b"5\r\nhello\n",
    "bare LF in an extension": b"5;a\nhello\r\n",
    "bare CR in an extension": b"5;a\rhello\r\n",
    "no CRLF after the data": b"5\r\nhelloXX0\r\n\r\n",
    "data too long": b"5\r\nhello!\r\n0\r\n\r\n",
    "CR X after the data": b"5\r\nhello\rX0\r\n\r\n",
    "extension without name": b"5;\r\nhello\r\n",
    "extension with control": b"5;a=\x01\r\nhello\r\n",
    "extension too long": b"5;" + b"a" * 1021 + b"\r\nhello\r\n",
    "extension without end": b"5;" + b"a" * 1022,
    "many extensions": (b"1;" + b"a" * 1000 + b"\r\nh\r\n") * 17,
    "many little chunks": b"1;aaaaaaaaaaaaaaaa\r\nh\r\n" * 8200,
    "trailer folded": b"0\r\nX: a\r\n b\r\n\r\n",
    "trailer without colon": b"0\r\nX\r\n\r\n",
    "trailer with bare LF": b"0\r\nX: a\n\r\n",
    "end with bare LF": b"0\r\n\n",
    "end that goes on": b"0\r\n\rX\n",
}


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
def test_bad_chunks_are_refused(chunks: bytes) -> None:
    data = request(CHUNKED, body=chunks)
    events = same_however_cut(data) if len(data) < 2000 else parse(data)
    assert [type(event) for event in events if not isinstance(event, bytes)] == [Head, Refusal]
    assert events[-1].status == "400 Bad Request"
    assert events[-1].the_request == "POST / HTTP/1.1"


def test_trailers_have_the_limits_of_fields() -> None:
    long = request(CHUNKED, body=b"0\r\nX: " + b"a" * 98 + b"\r\n\r\n")
    many = request(CHUNKED, body=b"0\r\n" + b"X: a\r\n" * 7 + b"\r\n")
    for data in (long, many):
        assert same_however_cut(data)[-1].status.startswith("431 ")


def test_the_largest_that_pass() -> None:
    line = b"GET /%b HTTP/1.1" % (b"a" * (SMALL.line - 14))
    fields = [b"X%d: %b" % (n, b"a" * (SMALL.field_size - 4)) for n in range(SMALL.fields - 1)]
    (head,) = same_however_cut(request(*fields, line=line))
    assert len(head.the_request) == SMALL.line
    assert len(head.headers) == SMALL.fields
    body = b"5;" + b"a" * 1020 + b"\r\nhello\r\n0\r\n" + b"X: a\r\n" * SMALL.fields + b"\r\n"
    _, data, end = same_however_cut(request(CHUNKED, body=body))
    assert data == b"hello"
    assert len(end.trailers) == SMALL.fields
    (head, *_) = parse(request(b"Content-Length: 9223372036854775807"))
    assert head.length == 2**63 - 1


def test_a_refusal_names_the_request_line_that_could_be_read() -> None:
    assert parse(b"GET /a HTTP/1.1\r\n\r\n")[-1].the_request == "GET /a HTTP/1.1"
    assert parse(b"GET /a HTTP/3.0\r\n\r\n")[-1].the_request == "GET /a HTTP/3.0"
    assert parse(b"GET /a\r\n")[-1].the_request == ""
    assert parse(request(), b"\x00")[-1].the_request == ""


@pytest.mark.usefixtures("deadline")
@pytest.mark.parametrize("unit", [b" ", b"\t", b"a ", b"a:", b",", b"a;", b'";', b"X: \r\n", b"\r"])
def test_bad_heads_take_linear_time(unit: bytes) -> None:
    """What is quadratic takes hours of so much (CVE-2020-5236)."""
    junk = unit * (1_000_000 // len(unit))
    limits = Limits(10**7, 10**7, 10**7)
    for name in (b"X", b"Host", b"Transfer-Encoding", b"Content-Length", b"Connection"):
        for value in (junk, b"a" + junk + b"\x01", junk + b"a"):
            parse(request(b"%b: %b" % (name, value)), limits=limits)
    parse(request(CHUNKED, body=b"5;" + junk))
    parse(request(line=b"GET /%b HTTP/1.1" % junk), limits=limits)


@pytest.mark.usefixtures("deadline")
def test_a_head_in_small_pieces_takes_linear_time() -> None:
    limits = Limits(10**6, 10**6, 10**6)
    data = request(*[b"X: a"] * 100_000)
    assert isinstance(parse(*single(data), limits=limits)[0], Head)
    limits = Limits(10**9, 10**9)
    assert parse(b"GET /" + b"a" * 2**25, *[b"a"] * 200_000, limits=limits) == []


# -- what is accepted -----------------------------------------------------------------------------


def test_a_head() -> None:
    data = b"GET /a%20b?c HTTP/1.1\r\nHost: A.b:80\r\nx-y:\t \xe9 z\t \r\nX!: \r\nX-y: 2\r\n\r\n"
    assert same_however_cut(data) == [
        Head(
            method="GET",
            target="/a%20b?c",
            protocol="HTTP/1.1",
            proto_num=1001,
            the_request="GET /a%20b?c HTTP/1.1",
            headers=[("Host", "A.b:80"), ("x-y", "\xe9 z"), ("X!", ""), ("X-y", "2")],
            keep_alive=True,
            length=0,
            expects_continue=False,
            upgrade=None,
            host="A.b:80",
        )
    ]


@pytest.mark.parametrize(
    ("line", "host"),
    [
        (b"OPTIONS * HTTP/1.1", b""),
        (b"GET http://a.b:80/c?d HTTP/1.1", b"other"),
        (b"GET HTTPS://[::1]?d HTTP/1.1", b"[::1]:8000"),
        (b"GET //a HTTP/1.1", b"a_b-c.d~:"),
        (b"M-SEARCH /a|b\"c HTTP/1.1", b"127.0.0.1"),
    ],
)  # fmt: skip
def test_targets_and_hosts(line: bytes, host: bytes) -> None:
    (head,) = same_however_cut(line + b"\r\nHost: " + host + b"\r\n\r\n")
    assert head.host == host.decode()
    assert head.the_request == line.decode()
    assert [head.method, head.target, head.protocol] == line.decode().split(" ")


@pytest.mark.parametrize(
    ("version", "fields", "expected"),
    [
        (b"1.1", [], True),
        (b"1.1", [b"Connection: close"], False),
        (b"1.1", [b"Connection: keep-alive, CLOSE"], False),
        (b"1.1", [b"Connection: x", b"connection: close"], False),
        (b"1.1", [b"Connection: closed"], True),
        (b"1.1", [b"Proxy-Connection: close"], True),
        (b"1.0", [], False),
        (b"1.0", [b"Connection: Keep-Alive"], True),
        (b"1.0", [b"Connection: keep-alive , close"], False),
        (b"1.0", [b"Proxy-Connection: keep-alive"], False),
    ],
)
def test_keep_alive(version: bytes, fields: list[bytes], expected: bool) -> None:
    data = request(*fields, line=b"GET / HTTP/" + version)
    first, *others = same_however_cut(data + data)
    assert first.keep_alive is expected
    assert others == ([first] if expected else [])  # nothing after the last request


def test_expect() -> None:
    long = b"Content-Length: 5"
    for line, fields, expected in (
        (b"POST / HTTP/1.1", [b"Expect: 100-Continue", long], True),
        (b"POST / HTTP/1.1", [b"Expect: 100-continue", CHUNKED], True),
        (b"POST / HTTP/1.1", [b"Expect: 100-continue"], False),
        (b"POST / HTTP/1.0", [b"Expect: 100-continue", long], False),
    ):
        (head,) = same_however_cut(request(*fields, line=line))
        assert head.expects_continue is expected


def test_a_body_of_known_length() -> None:
    data = request(b"Content-Length: 5", body=b"hello") + request(line=b"GET /2 HTTP/1.1")
    first, hello, end, second = same_however_cut(data)
    assert (first.length, hello, end, second.target) == (5, b"hello", End([]), "/2")
    assert parse(request(b"Content-Length: 0"))[0].length == 0


def test_a_chunked_body() -> None:
    chunks = b'005;a;b=c;d="e; f"\r\nhello\r\n'
    data = request(CHUNKED, body=chunks + b"A\r\n0123456789\r\n0;last\r\n\r\n") * 2
    assert [event if isinstance(event, bytes) else type(event) for event in parse(data)] == [
        Head,
        b"hello0123456789",
        End,
    ] * 2
    assert same_however_cut(data)[0].length is None


def test_what_the_response_side_writes_reads_back() -> None:
    body = chunk(b"x" * 300) + chunk(b"y") + LAST_CHUNK
    assert parse(request(CHUNKED, body=body))[1:] == [b"x" * 300 + b"y", End([])]


def test_trailers_are_no_headers_and_lose_what_they_must_not_have() -> None:
    """Merged ones changed a request after the checks (lighttpd before 1.4.81)."""
    trailer = b"X-Sum: 1 \r\nContent-Length: 7\r\nHost: b\r\nTransfer-Encoding: x\r\nx-sum: 2\r\n"
    data = request(CHUNKED, body=b"1\r\na\r\n0\r\n" + trailer + b"\r\n") + request()
    head, _, end, after = same_however_cut(data)
    assert head.headers == [("Host", "a"), ("Transfer-Encoding", "chunked")]
    assert end == End([("X-Sum", "1"), ("x-sum", "2")])
    assert isinstance(after, Head)


def test_an_empty_line_before_a_request_is_ignored() -> None:
    data = request(b"Content-Length: 1", body=b"x") + b"\r\n" + request() + b"\r\n"
    assert [type(event) for event in same_however_cut(data)] == [Head, bytes, End, Head]
    parser = Parser(SMALL)
    parser.receive(b"\r\n")
    assert not parser.head_begun
    assert not parser.in_message


def test_headers_of_the_same_text_are_not_the_same_list() -> None:
    """A module may change the headers of one request, and the next may look like it."""
    parser = Parser(SMALL)
    parser.receive(request() * 2)
    first, second = parser.events
    assert isinstance(first, Head)
    assert isinstance(second, Head)
    first.headers.append(("X", "y"))
    assert second.headers == [("Host", "a")]
    parser.receive(request(line=b"GET /b HTTP/1.0"))
    third = parser.events[-1]
    assert isinstance(third, Head)
    assert third.headers == [("Host", "a")]
    assert (third.method, third.protocol, third.keep_alive) == ("GET", "HTTP/1.0", False)


# -- states ---------------------------------------------------------------------------------------


def test_states_of_a_request() -> None:
    parser = Parser(SMALL)
    seen = []
    for byte in single(request(b"Content-Length: 2", body=b"hi")):
        seen.append((parser.in_message, parser.head_begun))
        parser.receive(byte)
    assert seen[0] == (False, False)
    assert set(seen[1:-2]) == {(True, True)}
    assert set(seen[-2:]) == {(True, False)}
    assert (parser.in_message, parser.head_begun) == (False, False)


@pytest.mark.parametrize("data", [b"G", request(CHUNKED), request(CHUNKED, body=b"0\r\nX: a\r\n")])
def test_the_end_within_a_request(data: bytes) -> None:
    parser = Parser(SMALL)
    parser.receive(data)
    parser.receive_eof()
    last = parser.events[-1]
    assert isinstance(last, Refusal)
    assert not parser.in_message


def test_the_end_between_requests() -> None:
    parser = Parser(SMALL)
    parser.receive(request())
    parser.receive_eof()
    parser.receive(request())
    assert len(parser.events) == 1


UPGRADE = [b"Connection: keep-alive, Upgrade", b"Upgrade: WebSocket"]


def test_an_upgrade_that_is_taken() -> None:
    for upgrades in (True, False):
        parser = Parser(SMALL, upgrades)
        parser.receive(request(*UPGRADE) + (b"\x81\x00" if upgrades else b""))
        (head,) = parser.events
        assert isinstance(head, Head)
        assert head.upgrade == "websocket"
        parser.stop()
        parser.receive(b"\x81\x01")
        assert parser.rest() == (b"\x81\x00\x81\x01" if upgrades else b"\x81\x01")
        assert not parser.in_message
        assert len(parser.events) == 1


def test_an_upgrade_that_is_not_taken() -> None:
    """It has the body that it says it has, for which llhttp alone would not look."""
    data = request(*UPGRADE, b"Content-Length: 5", body=b"hello") + request(*UPGRADE) + request()
    events = same_however_cut(data)
    assert [type(event) for event in events] == [Head, bytes, End, Head, Head]
    parser = Parser(SMALL, upgrades=True)
    for byte in single(data):
        parser.receive(byte)
    assert len(parser.events) == 8
    parser.resume()
    assert merged(list(parser.events)) == events
    for head in (request(UPGRADE[1]), request(*UPGRADE, line=b"GET / HTTP/1.0")):
        assert parse(head)[0].upgrade is None


def test_a_last_request_with_an_upgrade_is_the_last() -> None:
    parser = Parser(SMALL, upgrades=True)
    parser.receive(request(b"Connection: close, upgrade", UPGRADE[1]) + request())
    parser.resume()
    assert len(parser.events) == 1


# -- the judges -----------------------------------------------------------------------------------


class Llhttp:
    """What llhttp itself reads."""

    def __init__(self, data: bytes) -> None:
        self.fields: list[tuple[str, str]] = []
        self.target = b""
        parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass
        self.method = parser.get_method().decode()

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.decode("latin-1"), value.decode("latin-1").strip("\t ")))


def known(events: list[Any]) -> list[Any]:
    """Put the parser's events into the judge's words."""
    result: list[Any] = []
    for event in merged(events):
        if isinstance(event, Head):
            assert event.proto_num == (1001 if event.protocol == "HTTP/1.1" else 1000)
            assert event.the_request == f"{event.method} {event.target} {event.protocol}"
            result.append((
                "head", event.method, event.target, event.protocol, event.headers,
                event.keep_alive, event.length, event.expects_continue, event.upgrade, event.host,
            ))  # fmt: skip
        elif isinstance(event, bytes):
            result.append(("body", event))
        elif isinstance(event, End):
            result.append(("end", event.trailers))
        else:
            result.append(("refused", int(event.status[:3])))
    return result


def judge(data: bytes) -> list[Any]:
    events = Oracle(data, SMALL.line, SMALL.field_size, SMALL.fields).events
    pieces = merged([event[1] if event[0] == "body" else event for event in events])
    return [("body", piece) if isinstance(piece, bytes) else piece for piece in pieces]


LINES = [
    *("GET / HTTP/1.1", "POST /x HTTP/1.1", "POST /x HTTP/1.1", "GET /x HTTP/1.0"),
    *("OPTIONS * HTTP/1.1", "GET http://a:80/b HTTP/1.1", "PUT /?a HTTP/1.1"),
]
BAD_LINES = [
    *("GET  / HTTP/1.1", "GET /", "GET / HTTP/2.0", "FOO / HTTP/1.1", "CONNECT a:1 HTTP/1.1"),
    *("GET * HTTP/1.1", "GET http://u@a/ HTTP/1.1", "GET /%s HTTP/1.1" % ("a" * 190)),
    *("PRI * HTTP/2.0", "GET /\xe9 HTTP/1.1", "get / HTTP/1.1", "GET /#a HTTP/1.1"),
]
FIELDS = [
    *("Connection: close", "Connection: Keep-Alive, Upgrade", "Upgrade: websocket", "X-A: b"),
    *("Expect: 100-continue", "x: \xff\t y  ", "Proxy-Connection: close", "X-Forwarded-For: 1"),
    *("A: " + "b" * 97, "Content-Type: a/b", "Empty:", "connection:", "Upgrade: h2c"),
]
BAD_FIELDS = [
    *("Host: b:80", "host:[::1]:1 ", "Host: a,b", "Host:", "Content-Length: 5, 5", "X_A: c"),
    *("Content-Length: +5", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked\t"),
    *("Expect: x", "X: \x01", " fold: x", "A : b", ": b", "nocolon", "A: " + "b" * 98),
    *("Content-Length: 5", "Transfer-Encoding: chunked"),
]
CHUNKED_BODIES = [
    *("0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
    '5;a="x;y"\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n',
    "3;a=b\r\nabc\r\n0\r\nX-T: 1\r\nHost: b\r\n\r\n",
]
BAD_BODIES = [
    *("5\r\nhelloX\r\n", "0x5\r\nhello\r\n0\r\n\r\n", "5 \r\nhello\r\n0\r\n\r\n"),
    *("\r\n", "\r\n\r\n", "00000000000000005\r\n", "ffffffffffffffff\r\n"),
    "1;" + "b" * 1022 + "\r\nh\r\n",
]
SALT = b'\r\n :;\t\x00a0,/\x0b\x85"'


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Some requests, most of them good, with a few bytes changed."""
    stream = b""
    bad = draw(st.sampled_from([0, 0, 1, 3]))  # of ten
    for _ in range(draw(st.integers(1, 4))):

        def one_of(good: list[str], bads: list[str]) -> str:
            worse = draw(st.integers(0, 9)) < bad
            return draw(st.sampled_from(bads if worse else good))

        body, field = draw(
            st.sampled_from(
                [("", None), ("", None), ("hello", "Content-Length: 5")]
                + [(chunks, "Transfer-Encoding: chunked") for chunks in CHUNKED_BODIES]
            )
        )
        fields = ["Host: a"] if draw(st.integers(0, 19)) else []
        fields += [one_of(FIELDS, BAD_FIELDS) for _ in range(draw(st.integers(0, 4)))]
        if field is not None:
            fields.insert(draw(st.integers(0, len(fields))), field)
        lines = [one_of(LINES, BAD_LINES), *fields, "", one_of([body], BAD_BODIES)]
        stream += "\r\n".join(lines).encode("latin-1")
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(stream)))
        salt = bytes((draw(st.sampled_from(SALT)),)) * draw(st.integers(0, 1))
        stream = stream[:at] + salt + stream[at + draw(st.integers(0, 1)) :]
    return stream[: draw(st.integers(0, len(stream)))] if draw(st.booleans()) else stream


@judged
@given(st.data())
def test_the_judge_agrees(data: st.DataObject) -> None:
    stream = data.draw(streams())
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    expected = judge(stream)
    for way in ([stream], pieces, single(stream)):
        assert known(parse(*way)) == expected


@judged
@given(streams())
def test_llhttp_reads_the_same_fields(stream: bytes) -> None:
    """The guard cuts the head into fields; llhttp is asked only where it ends."""
    for event in parse(stream):
        if not isinstance(event, Head) or event.method not in METHODS:
            continue  # of the others it is told that they are POST
        head = event.the_request.encode() + b"\r\n"
        head += b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in event.headers)
        theirs = Llhttp(head + b"\r\n")
        assert theirs.fields == event.headers
        assert (theirs.method, theirs.target.decode()) == (event.method, event.target)


@pytest.mark.parametrize("byte", range(256))
def test_every_byte_in_every_place(byte: int) -> None:
    wild = bytes((byte,))
    for data in (
        b"G%bT / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1%b\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a%b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n%bX: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX%b: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX:%ba\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a%bb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1%b\r\n\r\nabcdefghijklmnopqrstuvwxyz",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked%b\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%b5\r\nhello",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1%b\r\nabcdefghijklmn",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a=%b\r\nabcdefghijkl",
        b'GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a="%b"\r\nabcdefghi',
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na%b\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX%b: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n%b\n",
    ):
        stream = data % wild
        expected = judge(stream)
        assert known(parse(stream)) == expected, stream
        assert known(parse(*single(stream))) == expected, stream


# -- output ---------------------------------------------------------------------------------------


def test_a_response_head() -> None:
    head = response_head("HTTP/1.1 200 OK", [("A", "b\t\xe9"), ("C", "")])
    assert head == b"HTTP/1.1 200 OK\r\nA: b\t\xe9\r\nC: \r\n\r\n"
    assert response_head("HTTP/1.1 100 Continue", []) == b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize("bad", ["\r", "\n", "\r\n", "\0", "\x1b", "\x7f", "\x0b", "€", "\ud800"])
def test_a_response_head_with_controls_is_an_error(bad: str) -> None:
    for status, name, value in (
        ("HTTP/1.1 200 " + bad, "A", "b"),
        ("HTTP/1.1 200 OK", "A" + bad, "b"),
        ("HTTP/1.1 200 OK", "A", bad + "b"),
    ):
        with pytest.raises(ApplicationError):
            response_head(status, [(name, value)])


def test_dates() -> None:
    assert http_date(784111777.9) == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert http_date(0) == "Thu, 01 Jan 1970 00:00:00 GMT"
    for text in (
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
    ):
        assert parse_http_date(text) == 784111777
    now = float(int(time.time()))
    assert parse_http_date(http_date(now)) == now
    assert parse_http_date("Sat, 31 Dec 2016 23:59:60 GMT") is not None
    year = time.gmtime().tm_year
    for ahead, century in ((49, 0), (51, -100)):
        text = f"Sunday, 06-Nov-{(year + ahead) % 100:02} 08:49:37 GMT"
        same = f"Sun, 06 Nov {year + ahead + century} 08:49:37 GMT"
        assert parse_http_date(text) == parse_http_date(same)


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "Sun, 06 Nov 1994 08:49:37", "Sun, 06 Nov 1994 08:49:37 UTC"),
        *("Sun, 31 Feb 1994 08:49:37 GMT", "Sun, 06 Nov 1994 24:00:00 GMT"),
        *("Sun, 06 Nov 1994 08:60:37 GMT", "Sun, 06 Nov 0000 08:49:37 GMT"),
        *("Sun, 06 Nov 1994 08:49:37 GMT ", "Sun,  6 Nov 1994 08:49:37 GMT"),
        *("Sun, \u0660\u0666 Nov 1994 08:49:37 GMT", "Sun Nov  6 08:49:37 94"),
        *("Sun Nov   08:49:37 1994", "Sun, 06 Nov 1994 08:49:61 GMT"),
    ],
)
def test_what_is_no_date(text: str) -> None:
    assert parse_http_date(text) is None


def test_no_garbage_is_left() -> None:
    """A parser for each connection, each in a cycle, would be the collector's daily work."""
    parser = Parser(SMALL)
    parser.receive(request(CHUNKED, body=b"1\r\na\r\n"))
    parser.events.clear()
    events = weakref.ref(parser.events)
    gc.disable()
    try:
        del parser
        assert events() is None
    finally:
        gc.enable()


def test_the_hosts_table_is_bounded() -> None:
    for n in range(1000):
        parse(b"GET / HTTP/1.1\r\nHost: a%d\r\n\r\n" % n)
    assert http._host_is_valid.cache_info().currsize <= 256
