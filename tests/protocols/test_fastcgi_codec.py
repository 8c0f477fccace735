"""The FastCGI codec: bad input and its answers, every cut of it, pairs, output, both sides."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from protocols import oracle
from protocols.oracle import (
    ABORT,
    BEGIN,
    DATA,
    END,
    GET_VALUES,
    PARAMS,
    RESULT,
    STDERR,
    STDIN,
    STDOUT,
    UNKNOWN,
    Oracle,
    pair,
    record,
)

from sapi_adapters.protocols import fastcgi
from sapi_adapters.protocols.fastcgi import (
    Aborted,
    ClientConnection,
    Connection,
    DataReceived,
    RequestEnded,
    RequestReceived,
    StderrReceived,
    StdinEnded,
    StdinReceived,
    StdoutReceived,
    UnknownTypeReceived,
    ValuesReceived,
    decode_pairs,
    encode_pairs,
    end_response,
    iter_pairs,
    parse_whole,
    stream,
)
from sapi_adapters.sapi import ProtocolError

settings.register_profile(
    "codec",
    derandomize=True,
    max_examples=300,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("codec")

RESPONDER, AUTHORIZER, FILTER = 1, 2, 3
MULTIPLEX = {"multiplex": True, "max_requests": 8}


def begin(id: int = 1, role: int = RESPONDER, keep: bool = False) -> bytes:
    return record(BEGIN, id, bytes((role >> 8, role & 255, keep, 0, 0, 0, 0, 0)))


def params(id: int = 1, **variables: str) -> bytes:
    block = b"".join(pair(n.encode(), v.encode("latin-1")) for n, v in variables.items())
    return record(PARAMS, id, block) * bool(block) + record(PARAMS, id)


def stdin(id: int = 1, data: bytes = b"") -> bytes:
    return record(STDIN, id, data) * bool(data) + record(STDIN, id)


def plain(event: Any) -> tuple[Any, ...]:
    """Return an event of ``Connection`` in the oracle's words."""
    request = event.request
    if isinstance(event, RequestReceived):
        return ("request", request.id, request.role, request.params)
    if isinstance(event, StdinReceived):
        return ("stdin", request.id, event.data)
    if isinstance(event, StdinEnded):
        return ("stdin ends", request.id, event.short)
    if isinstance(event, DataReceived):
        return ("data", request.id, event.data)
    assert isinstance(event, Aborted)
    return ("abort", request.id)


class Outcome(NamedTuple):
    events: list[tuple[Any, ...]]
    answers: bytes
    violated: bool


def feed(connection: Connection, *pieces: bytes) -> Outcome:
    """Give *pieces* to *connection*, one after the other, up to the first violation."""
    events: list[tuple[Any, ...]] = []
    answers = b""
    for piece in pieces:
        try:
            events += map(plain, connection.receive_data(piece))
        except ProtocolError:
            return Outcome(events, answers + connection.data_to_send(), True)
        answers += connection.data_to_send()
    return Outcome(events, answers, False)


def each_byte(data: bytes) -> list[bytes]:
    return [bytes((byte,)) for byte in data]


# -- (a) bad input and its answers ----------------------------------------------------------------

GET = begin() + params(A="b") + stdin()
GOT = [("request", 1, RESPONDER, {"A": "b"}), ("stdin ends", 1, False)]
UP = begin() + params(CONTENT_LENGTH="5")
UP_GOT = ("request", 1, RESPONDER, {"CONTENT_LENGTH": "5"})
CLOSE = "close"
"""In place of an answer: the connection is to be closed."""


class Bad(NamedTuple):
    data: bytes
    answer: bytes | str = b""
    events: list[tuple[Any, ...]] = []  # noqa: RUF012 - never changed
    settings: dict[str, Any] = {}  # noqa: RUF012 - never changed


BAD = {
    "version 0": Bad(record(BEGIN, 1, bytes(8), version=0), CLOSE),
    "version 2, seen before the record is there": Bad(record(BEGIN, 1, version=2), CLOSE),
    "a TLS hello": Bad(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", CLOSE),
    "an HTTP request": Bad(b"GET / HTTP/1.1\r\n", CLOSE),
    **{
        f"management type {type} is unknown, the connection lives": Bad(
            record(type, 0, b"x") + GET, record(UNKNOWN, 0, bytes((type,)) + bytes(7)), GOT
        )
        for type in (0, 12, 200, 255)
    },
    **{
        f"type {type} with the id 0": Bad(record(type, 0, bytes(8)), CLOSE)
        for type in (1, 2, 3, 4, 5, 6, 7, 8, 10, 11)
    },
    **{
        f"type {type} for an inactive id is ignored": Bad(record(type, 7, b"zz") + GET, b"", GOT)
        for type in (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0, 12, 255)
    },
    **{
        f"type {type} for an active id": Bad(begin() + record(type, 1, b"zz"), CLOSE)
        for type in (3, 6, 7, 9, 10, 11, 0, 12, 255)
    },
    "BEGIN on an active id": Bad(begin() + begin(), CLOSE),
    "BEGIN on an active id, multiplexed": Bad(begin() + begin(), CLOSE, [], MULTIPLEX),
    "BEGIN of 7 bytes": Bad(record(BEGIN, 1, bytes(7)), CLOSE),
    "BEGIN of 9 bytes": Bad(record(BEGIN, 1, bytes(9)), CLOSE),
    "BEGIN of no bytes": Bad(record(BEGIN, 1), CLOSE),
    "a second id without multiplexing: the first goes on": Bad(
        begin(1) + begin(2) + params(2, X="y") + params(1, A="b") + stdin(2) + stdin(1),
        oracle.end(2, 1),
        GOT,
    ),
    "more ids than the connection may have": Bad(
        begin(1) + begin(2) + begin(3), oracle.end(3, 2), [], {"multiplex": True, "max_requests": 2}
    ),
    "a role that does not exist": Bad(begin(role=4), oracle.end(1, 3)),
    "a role of two bytes": Bad(begin(role=0x101), oracle.end(1, 3)),
    "a role that is not served": Bad(
        begin(role=FILTER, keep=True) + GET, oracle.end(1, 3), GOT, {"roles": (RESPONDER,)}
    ),
    "flags other than KEEP_CONN are ignored": Bad(
        record(BEGIN, 1, b"\0\1\xfe\1\2\3\4\5") + params(A="b") + stdin(), b"", GOT
    ),
    "reserved bytes are ignored": Bad(
        begin()[:7] + b"\xff" + begin()[8:] + params(A="b") + stdin(), b"", GOT
    ),
    "parameters beyond the limit": Bad(
        begin() + record(PARAMS, 1, bytes(33)) + record(PARAMS, 1, b"more") + record(PARAMS, 1),
        oracle.end(1, 2),
        [],
        {"max_params": 32},
    ),
    "parameters of just the limit": Bad(
        begin() + params(A="x" * 29) + stdin(),
        b"",
        [("request", 1, RESPONDER, {"A": "x" * 29}), ("stdin ends", 1, False)],
        {"max_params": 32},
    ),
    **{
        f"CVE-2025-23016, CVE-2025-40907: {what}": Bad(
            begin() + record(PARAMS, 1, block) + record(PARAMS, 1), CLOSE
        )
        for what, block in {
            "lengths whose sum overflows 32 bits": b"\xff\xff\xff\xff\xff\xff\xff\xff" + bytes(16),
            "lengths whose sum overflows to a small one": b"\xff\xff\xff\xff\x80\x00\x00\x02ab",
            "a name longer than the rest": b"\x05\x00abcd",
            "a value longer than the rest": b"\x01\x05abcde",
            "a long value longer than the rest": b"\x01\x80\x00\x01\x00a" + bytes(255),
            "one length": b"\x01",
            "a cut long length of a name": b"\x80\x00\x00",
            "a cut long length of a value": b"\x01\x80\x00\x00",
            "a long name and no length of a value": b"\x80\x00\x00\x01",
            "a good pair and an odd tail": b"\x01\x01ab\x01",
        }.items()
    },
    "PARAMS after their end": Bad(begin() + params(A="b") + record(PARAMS, 1, b"\0\0"), CLOSE),
    "empty PARAMS after their end": Bad(begin() + params(A="b") + record(PARAMS, 1), CLOSE),
    "STDIN after its end": Bad(GET + record(STDIN, 1, b"x"), CLOSE),
    "empty STDIN after its end": Bad(GET + record(STDIN, 1), CLOSE),
    "STDIN before the end of PARAMS": Bad(begin() + record(STDIN, 1, b"x"), CLOSE),
    "DATA for a responder": Bad(GET + record(DATA, 1, b"x"), CLOSE),
    "DATA for an authorizer": Bad(
        begin(role=AUTHORIZER) + params(A="b") + stdin() + record(DATA, 1, b"x"), CLOSE
    ),
    "DATA before the end of STDIN": Bad(
        begin(role=FILTER) + params(A="b") + record(DATA, 1, b"x"), CLOSE
    ),
    "DATA after its end": Bad(
        begin(role=FILTER) + params(A="b") + stdin() + record(DATA, 1) * 2, CLOSE
    ),
    "STDIN beyond CONTENT_LENGTH is discarded": Bad(
        UP + record(STDIN, 1, b"abc") + record(STDIN, 1, b"defgh") + stdin(1, b"ijk"),
        b"",
        [UP_GOT, ("stdin", 1, b"abc"), ("stdin", 1, b"de"), ("stdin ends", 1, False)],
    ),
    "STDIN ends short": Bad(
        UP + stdin(1, b"abcd"), b"", [UP_GOT, ("stdin", 1, b"abcd"), ("stdin ends", 1, True)]
    ),
    "an empty CONTENT_LENGTH is none": Bad(
        begin() + params(CONTENT_LENGTH="") + stdin(1, b"ab"),
        b"",
        [
            ("request", 1, RESPONDER, {"CONTENT_LENGTH": ""}),
            ("stdin", 1, b"ab"),
            ("stdin ends", 1, False),
        ],
    ),
    "ABORT of an active id": Bad(
        UP + record(ABORT, 1) + stdin(1, b"abcde"),
        b"",
        [UP_GOT, ("abort", 1), ("stdin", 1, b"abcde"), ("stdin ends", 1, False)],
    ),
    "ABORT before the end of PARAMS is answered here": Bad(
        begin(keep=True) + record(PARAMS, 1, b"\1") + record(ABORT, 1) + GET, oracle.end(1), GOT
    ),
    "ABORT of an inactive id": Bad(record(ABORT, 9) + GET, b"", GOT),
    "content of 65535 bytes with 255 of padding": Bad(
        begin() + params(A="b") + record(STDIN, 1, b"x" * 65535, 255) + record(STDIN, 1, b"", 255),
        b"",
        [GOT[0], ("stdin", 1, b"x" * 65535), ("stdin ends", 1, False)],
    ),
    "a duplicate parameter: the last counts": Bad(
        begin() + record(PARAMS, 1, pair(b"A", b"1") + pair(b"A", b"2")) + record(PARAMS, 1),
        b"",
        [("request", 1, RESPONDER, {"A": "2"})],
    ),
    "GET_VALUES: unknown names are left out, none is added": Bad(
        record(GET_VALUES, 0, pair(b"NOPE", b"") + pair(b"FCGI_MAX_REQS", b"")) + GET,
        record(RESULT, 0, pair(b"FCGI_MAX_REQS", b"7")),
        GOT,
        {"values": {b"FCGI_MAX_REQS": b"7", b"FCGI_MPXS_CONNS": b"0"}},
    ),
    "GET_VALUES of nothing": Bad(record(GET_VALUES, 0), record(RESULT, 0)),
    "GET_VALUES with a cut pair": Bad(record(GET_VALUES, 0, b"\x09\x00abc"), CLOSE),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_the_answer_of_the_table(name):
    case = BAD[name]
    for pieces in ([case.data], each_byte(case.data)):
        got = feed(Connection(**case.settings), *pieces)
        assert got.violated == (case.answer == CLOSE)
        if got.violated:
            assert got.answers == b""
        else:
            assert (got.events, got.answers) == (case.events, case.answer)


def test_a_refused_role_obeys_keep_conn():
    for keep in (False, True):
        connection = Connection()
        connection.receive_data(begin(role=9, keep=keep))
        assert connection.should_close == (not keep)
        assert connection.requests == []


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        (("5", "6"), "5, 6"),
        (("5", "5"), "5"),
    ],
)
@pytest.mark.parametrize("name", ["CONTENT_LENGTH", "REQUEST_METHOD"])
def test_framing_parameters_in_conflict_are_no_guess(name, values, kept):
    block = b"".join(pair(name.encode(), value.encode()) for value in values)
    assert decode_pairs(block) == {name: kept}


def test_repeated_headers_are_joined_and_cookies_with_a_semicolon():
    """nginx before 1.23 and HAProxy send each line of a repeated header as a parameter."""
    block = encode_pairs(
        [(b"HTTP_ACCEPT", b"a"), (b"HTTP_COOKIE", b"x=1"), (b"HTTP_ACCEPT", b"b")]
        + [(b"HTTP_COOKIE", b"y=2"), (b"QUERY_STRING", b"1"), (b"QUERY_STRING", b"2")]
    )
    assert decode_pairs(block) == {
        "HTTP_ACCEPT": "a, b",
        "HTTP_COOKIE": "x=1; y=2",
        "QUERY_STRING": "2",
    }


# -- the life of an id ----------------------------------------------------------------------------


def received(connection: Connection, data: bytes) -> Any:
    (request,) = [
        e.request for e in connection.receive_data(data) if isinstance(e, RequestReceived)
    ]
    return request


def test_php_fpm_cve_2026_129289_late_stdin_never_becomes_a_request():
    """What comes for a finished request is consumed as records of its id, whatever it holds."""
    connection = Connection()
    request = received(connection, begin(keep=True) + params(CONTENT_LENGTH="99"))
    connection.end(request)
    assert connection.idle
    hidden = begin() + params(EVIL="1") + stdin()
    got = feed(connection, record(STDIN, 1, hidden) + record(STDIN, 1) + GET)
    assert got == (GOT, b"", False)


def test_php_bug_67583_an_id_ends_once():
    connection = Connection()
    request = received(connection, begin(keep=True) + params(A="b"))
    connection.end(request)
    connection.end(request)
    assert (connection.requests, connection.unfinished, connection.should_close) == ([], 0, False)


def test_without_keep_conn_the_connection_closes_after_its_last_request():
    connection = Connection(**MULTIPLEX)
    first = received(connection, begin(1) + params(1, A="1"))
    second = received(connection, begin(2, keep=True) + params(2, A="2"))
    connection.end(first)
    assert not connection.should_close
    connection.end(second)
    assert connection.should_close


def test_late_input_is_bounded():
    connection = Connection(max_ignored=100)
    for _ in range(10):
        connection.receive_data(record(STDIN, 5, b"x" * 10))
    with pytest.raises(ProtocolError):
        connection.receive_data(record(STDIN, 5, b"x"))


def test_late_input_is_counted_anew_after_each_request():
    connection = Connection(max_ignored=100)
    for _ in range(5):
        request = received(connection, begin(keep=True) + params(A="b"))
        connection.end(request)
        connection.receive_data(record(STDIN, 1, b"x" * 90) + record(STDIN, 1))


def test_what_exceeds_content_length_is_counted():
    connection = Connection()
    request = received(connection, UP + stdin(1, b"hello, world"))
    assert (request.excess, request.content_left) == (7, 0)


def test_golang_issue_81548_a_flood_of_begins_is_answered_at_64():
    connection = Connection(multiplex=True, max_requests=1000)
    got = feed(connection, b"".join(begin(id, keep=True) for id in range(1, 201)))
    assert connection.unfinished == len(connection.requests) == fastcgi.MAX_UNFINISHED == 64
    assert got.answers == b"".join(oracle.end(id, 2) for id in range(65, 201))


def test_requests_that_are_complete_do_not_count_as_unfinished():
    connection = Connection(multiplex=True, max_requests=1000)
    sessions = [begin(id, keep=True) + params(id, A="b") for id in range(1, 101)]
    got = feed(connection, b"".join(sessions))
    assert (len(got.events), got.answers, connection.unfinished) == (100, b"", 0)


def test_a_mebibyte_of_parameters_is_the_limit():
    connection = Connection()
    block = pair(b"A", b"x" * 65527)
    assert len(block) == 65533
    connection.receive_data(begin(keep=True) + record(PARAMS, 1, block) * 16)
    assert connection.data_to_send() == b""
    connection.receive_data(record(PARAMS, 1, block))
    assert connection.data_to_send() == oracle.end(1, 2)
    assert feed(connection, record(PARAMS, 1, block) + record(PARAMS, 1) + GET).events == GOT


def test_a_hostile_length_allocates_nothing():
    block = b"\x01\xff\xff\xff\xffA" + bytes(100)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            decode_pairs(block)
        with pytest.raises(ProtocolError):
            list(iter_pairs(block))
        assert tracemalloc.get_traced_memory()[1] < 65536
    finally:
        tracemalloc.stop()


def test_parameters_in_tiny_records_cost_what_they_weigh():
    """Copying the whole block for every record would move 32 GiB here."""
    connection = Connection()
    connection.receive_data(begin())
    piece = record(PARAMS, 1, b"x") * 4096
    for _ in range(64):
        connection.receive_data(piece)
    (request,) = connection.requests
    joined = getattr(request, "_block", None)
    assert not isinstance(joined, bytes), "the block is copied again for every record"


def test_parse_whole_takes_over_into_a_connection():
    connection = Connection(**MULTIPLEX)
    request = connection.adopt(1, True, {"CONTENT_LENGTH": "3"})
    assert (request.params_ended, request.stdin_ended, connection.idle) == (True, True, False)
    with pytest.raises(ProtocolError):
        connection.receive_data(begin())
    connection.end(request)
    assert connection.idle and not connection.should_close


# -- (b) golden sessions, cut everywhere ----------------------------------------------------------

NGINX_BLOCK = b"".join(
    pair(name, value)
    for name, value in (
        (b"QUERY_STRING", b""),
        (b"REQUEST_METHOD", b"POST"),
        (b"CONTENT_LENGTH", b"11"),
        (b"SCRIPT_NAME", b"/a b"),
        (b"REQUEST_URI", b"/a%20b"),
        (b"HTTP_LONG", b"v" * 130),
        (b"HTTP_\xe9", b"\xff\x80"),
    )
)
NGINX = {
    "QUERY_STRING": "",
    "REQUEST_METHOD": "POST",
    "CONTENT_LENGTH": "11",
    "SCRIPT_NAME": "/a b",
    "REQUEST_URI": "/a%20b",
    "HTTP_LONG": "v" * 130,
    "HTTP_\xe9": "\xff\x80",
}


def cut(type: int, id: int, data: bytes, size: int) -> bytes:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(record(type, id, piece, at % 4) for at, piece in enumerate(pieces))


def pad(size: int) -> int:
    return -size % 8


class Golden(NamedTuple):
    data: bytes
    events: list[tuple[Any, ...]]
    answers: bytes = b""
    settings: dict[str, Any] = {}  # noqa: RUF012 - never changed


GOLDEN = {
    "nginx: one padded record of parameters, a padded body": Golden(
        begin()
        + record(PARAMS, 1, NGINX_BLOCK, pad(len(NGINX_BLOCK)))
        + record(PARAMS, 1)
        + record(STDIN, 1, b"hello world", 5)
        + record(STDIN, 1),
        [
            ("request", 1, RESPONDER, NGINX),
            ("stdin", 1, b"hello world"),
            ("stdin ends", 1, False),
        ],
    ),
    "records that cut pairs and their lengths": Golden(
        begin() + cut(PARAMS, 1, NGINX_BLOCK, 1) + record(PARAMS, 1) + stdin(1, b"hello world"),
        [
            ("request", 1, RESPONDER, NGINX),
            ("stdin", 1, b"hello world"),
            ("stdin ends", 1, False),
        ],
    ),
    "Apache: records on pair borders, the body in several": Golden(
        begin()
        + record(PARAMS, 1, pair(b"REQUEST_METHOD", b"PUT"))
        + record(PARAMS, 1, pair(b"CONTENT_LENGTH", b"6"))
        + record(PARAMS, 1)
        + record(STDIN, 1, b"abc")
        + record(STDIN, 1, b"def")
        + record(STDIN, 1),
        [
            ("request", 1, RESPONDER, {"REQUEST_METHOD": "PUT", "CONTENT_LENGTH": "6"}),
            ("stdin", 1, b"abc"),
            ("stdin", 1, b"def"),
            ("stdin ends", 1, False),
        ],
    ),
    "HAProxy: values asked first, then odd ids mixed on one connection": Golden(
        record(GET_VALUES, 0, pair(b"FCGI_MAX_REQS", b"") + pair(b"FCGI_MPXS_CONNS", b""))
        + begin(1, keep=True)
        + begin(3, keep=True)
        + params(3, CONTENT_LENGTH="2")
        + record(STDIN, 3, b"x")
        + params(1, A="b")
        + stdin(1)
        + stdin(3, b"y"),
        [
            ("request", 3, RESPONDER, {"CONTENT_LENGTH": "2"}),
            ("stdin", 3, b"x"),
            ("request", 1, RESPONDER, {"A": "b"}),
            ("stdin ends", 1, False),
            ("stdin", 3, b"y"),
            ("stdin ends", 3, False),
        ],
        record(RESULT, 0, pair(b"FCGI_MAX_REQS", b"8") + pair(b"FCGI_MPXS_CONNS", b"1")),
        {**MULTIPLEX, "values": {b"FCGI_MAX_REQS": b"8", b"FCGI_MPXS_CONNS": b"1"}},
    ),
    "mod_authnz_fcgi: an authorizer without any STDIN": Golden(
        begin(role=AUTHORIZER) + params(FCGI_ROLE="AUTHORIZER"),
        [("request", 1, AUTHORIZER, {"FCGI_ROLE": "AUTHORIZER"})],
    ),
    "flup's client: a responder's DATA ends as well": Golden(
        begin() + params(CONTENT_LENGTH="2") + stdin(1, b"in") + record(DATA, 1),
        [
            ("request", 1, RESPONDER, {"CONTENT_LENGTH": "2"}),
            ("stdin", 1, b"in"),
            ("stdin ends", 1, False),
        ],
    ),
    "a filter: the body, then the file": Golden(
        begin(role=FILTER)
        + params(CONTENT_LENGTH="2", FCGI_DATA_LENGTH="4")
        + stdin(1, b"in")
        + record(DATA, 1, b"fi")
        + record(DATA, 1, b"le", 7)
        + record(DATA, 1),
        [
            ("request", 1, FILTER, {"CONTENT_LENGTH": "2", "FCGI_DATA_LENGTH": "4"}),
            ("stdin", 1, b"in"),
            ("stdin ends", 1, False),
            ("data", 1, b"fi"),
            ("data", 1, b"le"),
            ("data", 1, b""),
        ],
    ),
    "an abort in the middle of the body": Golden(
        begin(65535, keep=True)
        + params(65535, CONTENT_LENGTH="9")
        + record(STDIN, 65535, b"abc")
        + record(ABORT, 65535),
        [
            ("request", 65535, RESPONDER, {"CONTENT_LENGTH": "9"}),
            ("stdin", 65535, b"abc"),
            ("abort", 65535),
        ],
    ),
    "long forms of short lengths, empty names and values": Golden(
        begin()
        + record(PARAMS, 1, pair(b"A", b"b", long=True) + pair(b"C", b"") + pair(b"", b"d"))
        + record(PARAMS, 1)
        + stdin(),
        [("request", 1, RESPONDER, {"A": "b", "C": "", "": "d"}), ("stdin ends", 1, False)],
    ),
    "no parameters at all": Golden(
        begin() + params() + stdin(), [("request", 1, RESPONDER, {}), ("stdin ends", 1, False)]
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_session_means_the_same_however_it_is_cut(name):
    golden = GOLDEN[name]
    whole = feed(Connection(**golden.settings), golden.data)
    assert whole == (golden.events, golden.answers, False)
    assert feed(Connection(**golden.settings), *each_byte(golden.data)) == whole
    for at in range(1, len(golden.data)):
        pieces = golden.data[:at], golden.data[at:]
        assert feed(Connection(**golden.settings), *pieces) == whole, f"cut at {at}"


@pytest.mark.parametrize("name", GOLDEN)
def test_trailing_bytes_wait_for_their_record(name):
    golden = GOLDEN[name]
    for size in (1, 7, 8, 15):
        connection = Connection(**golden.settings)
        got = feed(connection, golden.data + begin(9)[:size])
        assert got == (golden.events, golden.answers, False)
        assert (connection.pending, connection.idle) == (size, False)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_oracle_reads_the_golden_sessions_alike(name):
    golden = GOLDEN[name]
    judge = Oracle(**{"multiplex": False, "max_requests": 1, "values": {}, **golden.settings})
    judge.feed(golden.data)
    assert (judge.events, judge.answers, judge.violated) == (golden.events, golden.answers, False)


# -- (c) random streams against the oracle --------------------------------------------------------

texts = st.binary(max_size=6) | st.sampled_from([b"v" * 127, b"v" * 128, b"HTTP_X", b"HTTP_COOKIE"])
blocks = st.lists(
    st.tuples(texts, texts)
    | st.tuples(st.just(b"CONTENT_LENGTH"), st.sampled_from([b"3", b"", b"x"])),
    max_size=4,
).map(lambda found: b"".join(pair(n, v, long=len(v) == 5) for n, v in found))
ids = st.sampled_from([1, 1, 2, 258])
paddings = st.sampled_from([0, 0, 0, 1, 7, 255])


@st.composite
def noise(draw: Any) -> bytes:
    """One record of any kind, mostly one that fits nowhere."""
    content = draw(st.binary(max_size=10) | blocks | st.just(bytes((0, 1, 1, 0, 0, 0, 0, 0))))
    kinds = st.integers(0, 13) | st.just(255)
    version = draw(st.sampled_from([1] * 30 + [0]))
    return record(draw(kinds), draw(ids | st.just(0)), content, draw(paddings), version)


@st.composite
def requests(draw: Any, id: int) -> list[bytes | int]:
    """The records of one request that keeps the rules; an id in their place: its response ends."""
    role = draw(st.sampled_from([1, 1, 1, 2, 3, 4]))
    steps: list[bytes | int] = [begin(id, role, draw(st.booleans()))]
    block = draw(blocks)
    size = draw(st.integers(1, 40))
    steps += [
        record(PARAMS, id, block[at : at + size], draw(paddings))
        for at in range(0, len(block), size)
    ]
    steps.append(record(PARAMS, id, b"", draw(paddings)))
    for type in (STDIN, DATA)[: 2 if role == FILTER else 1]:
        bodies = draw(st.lists(st.binary(min_size=1, max_size=5), max_size=3))
        steps += [record(type, id, body, draw(paddings)) for body in bodies]
        steps.append(record(type, id))
    if draw(st.booleans()):
        steps.insert(draw(st.integers(1, len(steps))), record(ABORT, id))
    if draw(st.integers(0, 3)):
        steps.insert(draw(st.integers(3, len(steps))) if len(steps) > 3 else len(steps), id)
    return steps


@st.composite
def sessions(draw: Any) -> list[bytes | int]:
    """Requests one after the other or mixed, with some noise between them."""
    rows = [draw(requests(draw(ids))) for _ in range(draw(st.integers(0, 4)))]
    if draw(st.booleans()):
        steps = [step for row in rows for step in row]
    else:
        steps = []
        while any(rows):
            row = draw(st.sampled_from([row for row in rows if row]))
            steps.append(row.pop(0))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        steps.insert(draw(st.integers(0, len(steps))), draw(noise()))
    if draw(st.integers(0, 9)) == 0:
        steps.append(draw(noise())[: draw(st.integers(1, 12))])
    return steps


def runs(steps: list[bytes | int]) -> list[bytes | int]:
    """Join neighbouring bytes, so that cuts may fall anywhere."""
    joined: list[bytes | int] = []
    for step in steps:
        if isinstance(step, bytes) and joined and isinstance(joined[-1], bytes):
            joined[-1] += step
        else:
            joined.append(step)
    return joined


def play(steps: list[bytes | int], settings: dict[str, Any], pieces: Any) -> Outcome:
    connection = Connection(**settings)
    events: list[tuple[Any, ...]] = []
    answers = b""
    for step in runs(steps):
        if isinstance(step, int):
            for request in connection.requests:
                if request.id == step:
                    connection.end(request)
            continue
        got = feed(connection, *pieces(step))
        events += got.events
        answers += got.answers
        if got.violated:
            return Outcome(events, answers, True)
    return Outcome(events, answers, False)


def judged(steps: list[bytes | int], settings: dict[str, Any]) -> Outcome:
    judge = Oracle(**settings)
    for step in steps:
        if judge.violated:
            break
        if isinstance(step, int):
            judge.end(step)
        else:
            judge.feed(step)
    return Outcome(judge.events, judge.answers, judge.violated)


multiplexing = st.sampled_from([(False, 1), (True, 2), (True, 8)]).map(
    lambda found: {"multiplex": found[0], "max_requests": found[1], "values": {b"A": b"1"}}
)


@given(sessions(), multiplexing, st.data())
def test_connection_and_oracle_agree_on_any_stream_cut_anywhere(steps, settings, data):
    wanted = judged(steps, settings)
    assert play(steps, settings, each_byte) == wanted

    def pieces(step: bytes) -> list[bytes]:
        cuts = data.draw(st.lists(st.integers(0, len(step)), max_size=6))
        borders = [0, *sorted(cuts), len(step)]
        return [step[a:b] for a, b in pairwise(borders)]

    got = play(steps, settings, pieces)
    assert got.violated == wanted.violated
    if got.violated:  # what came in one piece with the offending record is lost with it
        assert wanted.events[: len(got.events)] == got.events
        assert wanted.answers.startswith(got.answers)
    else:
        assert got == wanted


@given(st.binary(max_size=80), st.binary(max_size=3))
def test_any_bytes_are_events_or_a_protocol_error(data, tail):
    settings = {"multiplex": True, "max_requests": 4, "values": {}}
    for start in (
        data,
        begin() + data,
        begin() + record(PARAMS, 1, data) + record(PARAMS, 1) + tail,
    ):
        assert play([start], settings, each_byte) == judged([start], settings)


@st.composite
def almost_whole(draw: Any) -> bytes:
    """One request in one buffer as nearly all are, sometimes not quite."""
    block = draw(blocks)
    at = draw(st.sampled_from([len(block), len(block), draw(st.integers(0, len(block)))]))
    body = draw(st.lists(st.binary(min_size=1, max_size=5), max_size=3))
    data = begin(draw(st.sampled_from([1, 1, 1, 2])), draw(st.sampled_from([1, 1, 1, 2, 4])),
                 draw(st.booleans()))  # fmt: skip
    data += b"".join(
        record(PARAMS, 1, piece, draw(paddings)) for piece in (block[:at], block[at:]) if piece
    )
    data += record(PARAMS, 1, b"", draw(st.sampled_from([0, 0, 0, 8])))
    data += b"".join(record(STDIN, 1, piece, draw(paddings)) for piece in body)
    data += record(STDIN, 1, b"", draw(st.sampled_from([0, 0, 0, 8])))
    if draw(st.booleans()):
        spot = draw(st.integers(0, len(data) - 1))
        change = draw(st.sampled_from(["none", "bit", "cut", "more", "twice"]))
        if change == "bit":
            flipped = bytes((data[spot] ^ 1 << draw(st.integers(0, 7)),))
            data = data[:spot] + flipped + data[spot + 1 :]
        elif change == "cut":
            data = data[:spot]
        elif change == "more":
            data += draw(st.binary(min_size=1, max_size=9))
        elif change == "twice":
            data = data[: 16 + spot // 2] + record(PARAMS, 1) + data[16 + spot // 2 :]
    return data


@settings(max_examples=600)
@given(almost_whole())
def test_parse_whole_agrees_with_the_connection_or_leaves_it_to_it(data):
    whole = parse_whole(data)
    if whole is None:
        return
    environ, keep, body = whole
    connection = Connection()
    got = feed(connection, data)
    assert (got.answers, got.violated, connection.pending) == (b"", False, 0)
    assert got.events[0] == ("request", 1, RESPONDER, environ)
    assert [e[0] for e in got.events[1:]] == ["stdin"] * (len(got.events) - 2) + ["stdin ends"]
    (request,) = connection.requests
    read = b"".join(e[2] for e in got.events[1:-1])
    assert (request.keep_conn, read) == (keep, body[: len(body) - request.excess])


def test_parse_whole_takes_what_nginx_sends():
    data = GOLDEN["nginx: one padded record of parameters, a padded body"].data
    assert parse_whole(data) == (NGINX, False, b"hello world")
    assert parse_whole(begin(keep=True) + params(A="b") + stdin()) == ({"A": "b"}, True, b"")
    assert parse_whole(begin() + params(A="b") + stdin(1, b"x")) == ({"A": "b"}, False, b"x")


@pytest.mark.parametrize(
    "data",
    {
        "an empty buffer": b"",
        "a begin": begin(),
        "another role": begin(role=FILTER) + params(A="b") + stdin(),
        "another id": begin(2) + params(2, A="b") + stdin(2),
        "an id that changes": begin() + params(2, A="b") + stdin(),
        "parameters in two records": begin()
        + record(PARAMS, 1, b"\1\0a")
        + params(A="b")
        + stdin(),
        "parameters that end twice": begin() + record(PARAMS, 1) * 2 + stdin(),
        "a body without its end": begin() + params(A="b") + record(STDIN, 1, b"x"),
        "a body record of another id": (
            begin() + params(A="b") + record(STDIN, 2, b"x") + record(STDIN, 1)
        ),
        "a body that ends twice": begin() + params(A="b") + stdin() + stdin(),
        "a body record cut in its header": (
            begin() + params(A="b") + record(STDIN, 1, b"x")[:4] + record(STDIN, 1)
        ),
        "a body record that swallows the end": (
            begin() + params(A="b") + record(STDIN, 1, b"x" * 9)[:-4] + record(STDIN, 1)
        ),
        "a bad pair": begin() + record(PARAMS, 1, b"\5\5a") + record(PARAMS, 1) + stdin(),
        "two requests": GET + GET,
    }.items(),
    ids=lambda item: item[0],
)
def test_parse_whole_leaves_the_rest_to_the_connection(data):
    assert parse_whole(data[1]) is None


# -- pairs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 129, 255, 256, 65535, 70000])
def test_a_pair_of_any_size_goes_round(size):
    for name, value in ((b"n" * size, b"v"), (b"n", b"v" * size), (b"n" * size, b"v" * size)):
        block = fastcgi.encode_pair(name, value)
        assert block == pair(name, value)
        assert list(iter_pairs(block)) == [(name, value)]
        assert decode_pairs(block) == {name.decode(): value.decode()}
        long = pair(name, value, long=True)
        assert decode_pairs(long) == {name.decode(): value.decode()}
        assert list(iter_pairs(long)) == [(name, value)]


@given(st.lists(st.tuples(texts, texts, st.booleans()), max_size=8))
def test_pairs_go_round_in_every_form(found):
    block = b"".join(pair(name, value, long) for name, value, long in found)
    assert list(iter_pairs(block)) == [(name, value) for name, value, _ in found]
    assert decode_pairs(block) == oracle.joined(oracle.pairs(block))
    assert encode_pairs((n, v) for n, v, _ in found) == b"".join(pair(n, v) for n, v, _ in found)


@given(st.binary(max_size=40))
def test_any_block_is_pairs_or_a_protocol_error(block):
    try:
        wanted = oracle.joined(oracle.pairs(block))
    except oracle.Violation:
        with pytest.raises(ProtocolError):
            decode_pairs(block)
        with pytest.raises(ProtocolError):
            list(iter_pairs(block))
    else:
        assert decode_pairs(block) == wanted


# -- (d) output -----------------------------------------------------------------------------------


def records_of(data: bytes) -> list[tuple[int, int, bytes]]:
    found = []
    while data:
        assert data[0] == 1 and data[7] == 0
        size = int.from_bytes(data[4:6], "big")
        found.append((data[1], int.from_bytes(data[2:4], "big"), data[8 : 8 + size]))
        data = data[8 + size + data[6] :]
    return found


@pytest.mark.parametrize("size", [0, 1, 65528, 65535, 65536, 65537, 131070, 131071, 300_000])
def test_output_is_split_and_no_length_wraps(size):
    data = bytes(range(256)) * (size // 256 + 1)
    found = records_of(stream(STDOUT, 258, data[:size]))
    assert b"".join(content for _, _, content in found) == data[:size]
    assert all(content and len(content) <= 65535 for _, _, content in found)
    assert {(type, id) for type, id, _ in found} <= {(STDOUT, 258)}


def test_a_record_that_would_wrap_is_refused():
    with pytest.raises(ValueError, match="65535"):
        fastcgi.record(STDOUT, 1, bytes(65536))


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ((1,), [(STDOUT, 1, b""), (END, 1, bytes(8))]),
        ((1, True), [(STDOUT, 1, b""), (STDERR, 1, b""), (END, 1, bytes(8))]),
        ((300, False, 1), [(STDOUT, 300, b""), (END, 300, b"\0\0\0\1\0\0\0\0")]),
        ((1, False, -1), [(STDOUT, 1, b""), (END, 1, b"\xff\xff\xff\xff\0\0\0\0")]),
        ((1, False, 0, fastcgi.CANT_MPX_CONN), [(END, 1, b"\0\0\0\0\1\0\0\0")]),
        ((1, False, 0, fastcgi.OVERLOADED), [(END, 1, b"\0\0\0\0\2\0\0\0")]),
        ((1, False, 0, fastcgi.UNKNOWN_ROLE), [(END, 1, b"\0\0\0\0\3\0\0\0")]),
    ],
)
def test_a_request_ends_with_its_streams_and_end_request(arguments, wanted):
    for _ in range(2):  # the second comes from the store of ready answers
        assert records_of(end_response(*arguments)) == wanted


def test_the_store_of_ready_answers_is_bounded():
    for id in range(1, 2000):
        assert records_of(end_response(id))[1][1] == id
    assert len(fastcgi._responses) <= 256


# -- both sides -----------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [RESPONDER, AUTHORIZER, FILTER])
def test_client_and_application_understand_each_other_in_every_role(role):
    client, server = ClientConnection(), Connection(values={b"FCGI_MAX_REQS": b"1"})
    assert plain_feed(server, client.get_values(b"FCGI_MAX_REQS", b"X")) == []
    assert client.receive_data(server.data_to_send()) == [ValuesReceived({b"FCGI_MAX_REQS": b"1"})]
    for turn in range(3):
        sent = client.begin(1, [(b"N", b"v" * 70_000)], role=role, keep_conn=True)
        events = plain_feed(server, sent)
        assert events == [("request", 1, role, {"N": "v" * 70_000})]
        body = b"x" * 100_000
        events = plain_feed(server, client.stdin(1, body) + client.stdin(1, b""))
        assert b"".join(e[2] for e in events[:-1]) == body
        assert events[-1] == ("stdin ends", 1, False)
        if role == FILTER:
            events = plain_feed(server, client.data(1, b"file") + client.data(1, b""))
            assert events == [("data", 1, b"file"), ("data", 1, b"")]
        answer = stream(STDERR, 1, b"log") + stream(STDOUT, 1, b"y" * 70_000)
        (request,) = server.requests
        server.end(request)
        got = client.receive_data(answer + end_response(1, True, turn))
        assert got[0] == StderrReceived(1, b"log")
        assert b"".join(e.data for e in got if isinstance(e, StdoutReceived)) == b"y" * 70_000
        assert got[-1] == RequestEnded(1, turn, fastcgi.REQUEST_COMPLETE)


def plain_feed(connection: Connection, data: bytes) -> list[tuple[Any, ...]]:
    return [plain(event) for event in connection.receive_data(data)]


def test_client_aborts():
    client, server = ClientConnection(), Connection()
    plain_feed(server, client.begin(1, [(b"A", b"b")]))
    assert plain_feed(server, client.abort(1)) == [("abort", 1)]


def test_client_chooses_ids_that_are_free():
    client = ClientConnection()
    client.begin(1, [])
    for id in (0, -1, 65536, 1):
        with pytest.raises(ValueError, match="in use or out of range"):
            client.begin(id, [])
    client.receive_data(end_response(1))
    client.begin(1, [])


@pytest.mark.parametrize(
    ("answer", "event"),
    [
        (record(UNKNOWN, 0, b"\x63" + bytes(7)), UnknownTypeReceived(99)),
        (record(RESULT, 0, pair(b"A", b"b")), ValuesReceived({b"A": b"b"})),
        (record(STDOUT, 1, b"x", 200), StdoutReceived(1, b"x")),
        (record(END, 1, b"\0\0\0\7\2" + bytes(3)), RequestEnded(1, 7, fastcgi.OVERLOADED)),
        (record(STDOUT, 1), None),
        (record(STDERR, 1), None),
    ],
)
def test_client_reads_answers(answer, event):
    client = ClientConnection()
    client.begin(1, [])
    got = [e for byte in each_byte(answer) for e in client.receive_data(byte)]
    assert got == ([] if event is None else [event])


@pytest.mark.parametrize(
    "answer",
    [
        record(STDOUT, 2, b"x"),
        record(END, 2, bytes(8)),
        record(END, 1, bytes(7)),
        record(STDIN, 1, b"x"),
        record(BEGIN, 1, bytes(8)),
        record(UNKNOWN, 0, bytes(7)),
        record(GET_VALUES, 0),
        record(STDOUT, 0, b"x"),
        record(STDOUT, 1, b"x", version=2),
    ],
)
def test_client_refuses_what_no_application_sends(answer):
    client = ClientConnection()
    client.begin(1, [])
    with pytest.raises(ProtocolError):
        client.receive_data(answer)
