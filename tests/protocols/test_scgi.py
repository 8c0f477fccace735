"""The SCGI codec: bad input and its answers, every cut of it, the short way, the client's side."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sapi_adapters.protocols.cgi import mend
from sapi_adapters.protocols.scgi import Connection, parse_whole, request
from sapi_adapters.protocols.single import BodyEnded, BodyReceived, Codec, RequestReceived
from sapi_adapters.sapi import ProtocolError, RequestError

examples = settings(
    derandomize=True,
    max_examples=400,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

CLOSE = "close"
BAD_REQUEST = "400 Bad Request"
TOO_LARGE = "431 Request Header Fields Too Large"


def netstring(block: bytes, length: bytes | None = None, end: bytes = b",") -> bytes:
    return (str(len(block)).encode() if length is None else length) + b":" + block + end


def block(*pairs: tuple[str, str]) -> bytes:
    return b"".join(f"{name}\0{value}\0".encode("latin-1") for name, value in pairs)


def scgi(*pairs: tuple[str, str], length: str | None = "0", flag: str | None = "1") -> bytes:
    """Return the head of a request, as the standard orders it."""
    first = [] if length is None else [("CONTENT_LENGTH", length)]
    second = [] if flag is None else [("SCGI", flag)]
    return netstring(block(*first, *second, *pairs))


# -- the judge: what a stream means, written from the rules ---------------------------------------


def joined(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Return variables of pairs that may repeat; single-valued headers are not in these tests."""
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found and name.startswith("HTTP_") and found[name] != value:
            value = found[name] + ("; " if name == "HTTP_COOKIE" else ", ") + value
        found[name] = value
    return found


def judge(data: bytes, limit: int = 65536, strict: bool = True) -> Any:
    """Return CLOSE, a status, None for an unfinished head, or (environ, body, whether all came)."""
    length = re.match(rb"(0|[1-9][0-9]{0,6}):", data)
    if length is None:
        return None if re.fullmatch(rb"(0|[1-9][0-9]{0,6})?", data) else CLOSE
    size = int(length[1])
    if size > limit:
        return TOO_LARGE
    rest = data[length.end() :]
    if len(rest) <= size:
        return None
    if not re.fullmatch(rb"([^\0]+\0[^\0]*\0)+", rest[:size]) or rest[size] != ord(","):
        return CLOSE
    pairs = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in re.findall(rb"([^\0]+)\0([^\0]*)\0", rest[:size])
    ]
    environ = joined(pairs)
    names = [name for name, _ in pairs]
    if (strict and environ.get("SCGI") != "1") or "CONTENT_LENGTH" not in names:
        return CLOSE
    if names.count("CONTENT_LENGTH") > 1 or names.count("REQUEST_METHOD") > 1:
        return BAD_REQUEST
    if not re.fullmatch("[0-9]{1,19}", environ["CONTENT_LENGTH"]):
        return BAD_REQUEST
    environ.pop("SCGI", None)
    due = int(environ["CONTENT_LENGTH"])
    body = rest[size + 1 :][:due]
    return environ, body, len(body) == due


def outcome(connection: Connection, *pieces: bytes) -> Any:
    """Return what *connection* makes of *pieces*, in the judge's words."""
    environ, body, ended = None, b"", False
    for piece in pieces:
        try:
            events = connection.receive_data(piece)
        except ProtocolError:
            assert environ is None
            return CLOSE
        except RequestError as error:
            assert environ is None
            return error.status
        for event in events:
            assert not ended
            if isinstance(event, RequestReceived):
                assert environ is None and event.environ is connection.environ
                environ = event.environ
            elif isinstance(event, BodyReceived):
                assert environ is not None and event.data
                body += event.data
            else:
                assert isinstance(event, BodyEnded) and not event.short
                ended = True
    return None if environ is None else (environ, body, ended)


def each_byte(data: bytes) -> list[bytes]:
    return [bytes((byte,)) for byte in data]


# -- (a) input and its answer ---------------------------------------------------------------------

GET = scgi(("REQUEST_METHOD", "GET"))
GOT = ({"CONTENT_LENGTH": "0", "REQUEST_METHOD": "GET"}, b"", True)


class Case(NamedTuple):
    data: bytes
    answer: Any
    settings: dict[str, Any] = {}  # noqa: RUF012 - never changed


CASES = {
    "the standard's example": Case(
        b"70:CONTENT_LENGTH\x0027\0SCGI\x001\0REQUEST_METHOD\0POST\0REQUEST_URI\0/deepthought\0,"
        b"What is the answer to life?",
        (
            {
                "CONTENT_LENGTH": "27",
                "REQUEST_METHOD": "POST",
                "REQUEST_URI": "/deepthought",
            },
            b"What is the answer to life?",
            True,
        ),
    ),
    "a request without a body": Case(GET, GOT),
    "bytes behind the body are ignored": Case(
        scgi(length="2") + b"abcdef", ({"CONTENT_LENGTH": "2"}, b"ab", True)
    ),
    "bytes behind no body are ignored": Case(GET + GET, GOT),
    "a body that is not all there": Case(
        scgi(length="5") + b"abc", ({"CONTENT_LENGTH": "5"}, b"abc", False)
    ),
    "an empty value": Case(scgi(("A", "")), ({"CONTENT_LENGTH": "0", "A": ""}, b"", True)),
    "bytes of values are latin-1": Case(
        scgi(("A", "\x01\xe9\xff,:")), ({"CONTENT_LENGTH": "0", "A": "\x01\xe9\xff,:"}, b"", True)
    ),
    "CONTENT_LENGTH anywhere": Case(
        netstring(block(("SCGI", "1"), ("A", "b"), ("CONTENT_LENGTH", "1"))) + b"x",
        ({"A": "b", "CONTENT_LENGTH": "1"}, b"x", True),
    ),
    "CONTENT_LENGTH with leading zeros": Case(
        scgi(length="003") + b"abc", ({"CONTENT_LENGTH": "003"}, b"abc", True)
    ),
    "a letter in the length": Case(b"1x:", CLOSE),
    "a sign": Case(b"+70:", CLOSE),
    "a space": Case(b" 70:", CLOSE),
    "a space behind the length": Case(b"70 :", CLOSE),
    "no length": Case(b":" + GET, CLOSE),
    "a leading zero": Case(b"0" + GET, CLOSE),
    "two zeros": Case(b"00:,", CLOSE),
    "eight digits": Case(b"10000000", CLOSE),
    "eight digits and a colon": Case(b"10000000:", CLOSE),
    "seven digits": Case(b"1000000", None),
    "HTTP": Case(b"GET / HTTP/1.1\r\n\r\n", CLOSE),
    "FastCGI": Case(b"\x01\x01\0\x01\0\x08\0\0", CLOSE),
    "a superscript digit": Case("²".encode("latin-1") + b":", CLOSE),
    "a length over the limit": Case(b"65537:", TOO_LARGE),
    "a length of the limit": Case(b"65536:", None),
    "a length over the limit that was set": Case(GET, TOO_LARGE, {"max_headers": len(GET) - 5}),
    "a length of the limit that was set": Case(GET, GOT, {"max_headers": len(GET) - 4}),
    "seven digits are within a limit": Case(b"1048576:", None, {"max_headers": 1 << 20}),
    "no comma": Case(netstring(block(("CONTENT_LENGTH", "0"), ("SCGI", "1")), end=b";"), CLOSE),
    "a length one too small": Case(netstring(block(("CONTENT_LENGTH", "0")), b"16"), CLOSE),
    "a length one too large": Case(netstring(block(("CONTENT_LENGTH", "0")), b"18") + b"x", CLOSE),
    "no headers": Case(b"0:,", CLOSE),
    "a block that does not end in a NUL": Case(
        netstring(block(("CONTENT_LENGTH", "0"), ("SCGI", "1")) + b"A\0b"), CLOSE
    ),
    "an odd number of strings": Case(
        netstring(block(("CONTENT_LENGTH", "0"), ("SCGI", "1")) + b"A\0"), CLOSE
    ),
    "an empty name": Case(scgi(("", "x")), CLOSE),
    "an empty name at the end": Case(scgi(("", "")), CLOSE),
    "no CONTENT_LENGTH": Case(scgi(("REQUEST_METHOD", "GET"), length=None), CLOSE),
    **{
        f"CONTENT_LENGTH {length!r}": Case(scgi(length=length), BAD_REQUEST)
        for length in ("", "-1", "+1", "1 ", "0x1", "1_0", "1.0", "²", "1, 1", "9" * 20, "9" * 5000)
    },
    "no SCGI": Case(scgi(flag=None), CLOSE),
    "SCGI is not 1": Case(scgi(flag="2"), CLOSE),
    "no SCGI, not strict": Case(
        scgi(flag=None), ({"CONTENT_LENGTH": "0"}, b"", True), {"strict": False}
    ),
    "SCGI is not 1, not strict": Case(
        scgi(flag=""), ({"CONTENT_LENGTH": "0"}, b"", True), {"strict": False}
    ),
    "no CONTENT_LENGTH, not strict": Case(scgi(length=None), CLOSE, {"strict": False}),
    "CONTENT_LENGTH twice": Case(scgi(("CONTENT_LENGTH", "1")) + b"x", BAD_REQUEST),
    "CONTENT_LENGTH twice the same": Case(scgi(("CONTENT_LENGTH", "0")), BAD_REQUEST),
    "REQUEST_METHOD twice": Case(
        scgi(("REQUEST_METHOD", "GET"), ("REQUEST_METHOD", "POST")), BAD_REQUEST
    ),
    "other names twice: the last value": Case(
        scgi(("PATH_INFO", "/a"), ("PATH_INFO", "/b")),
        ({"CONTENT_LENGTH": "0", "PATH_INFO": "/b"}, b"", True),
    ),
    "nginx sends equal headers one by one": Case(
        scgi(
            ("HTTP_ACCEPT", "a"),
            ("HTTP_COOKIE", "c=1"),
            ("HTTP_HOST", "one"),
            ("HTTP_ACCEPT", "b"),
            ("HTTP_COOKIE", "d=2"),
            ("HTTP_HOST", "two"),
        ),
        (
            {
                "CONTENT_LENGTH": "0",
                "HTTP_ACCEPT": "a, b",
                "HTTP_COOKIE": "c=1; d=2",
                "HTTP_HOST": "two",
            },
            b"",
            True,
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_input_and_its_answer(name):
    case = CASES[name]
    assert outcome(Connection(**case.settings), case.data) == case.answer
    assert outcome(Connection(**case.settings), *each_byte(case.data)) == case.answer


@pytest.mark.parametrize("name", CASES)
def test_every_cut_in_two_gives_the_same(name):
    case = CASES[name]
    for at in range(min(len(case.data), 200)):
        pieces = case.data[:at], case.data[at:]
        assert outcome(Connection(**case.settings), *pieces) == case.answer


@pytest.mark.parametrize("name", [name for name in CASES if "equal headers" not in name])
def test_the_judge_agrees(name):
    case = CASES[name]
    limit = case.settings.get("max_headers", 65536)
    assert judge(case.data, limit, case.settings.get("strict", True)) == case.answer


@pytest.mark.parametrize("name", CASES)
def test_the_short_way_takes_whole_requests_only_and_says_the_same(name):
    case = CASES[name]
    found = parse_whole(case.data, case.settings.get("max_headers", 65536))
    if found is not None:
        assert (*found, True) == case.answer


def test_the_short_way_takes_what_nearly_every_request_is():
    taken = {name for name, case in CASES.items() if parse_whole(case.data) is not None}
    assert taken >= {
        "the standard's example",
        "a request without a body",
        "an empty value",
        "bytes of values are latin-1",
        "CONTENT_LENGTH anywhere",
    }
    assert not taken & {
        "bytes behind the body are ignored",
        "bytes behind no body are ignored",
        "a body that is not all there",
        "no SCGI, not strict",
        "other names twice: the last value",
    }


def test_a_limit_holds_on_the_short_way():
    assert parse_whole(GET, max_headers=len(GET) - 4) is not None
    assert parse_whole(GET, max_headers=len(GET) - 5) is None


def test_what_is_known_of_a_refused_request_is_told():
    connection = Connection()
    with pytest.raises(RequestError):
        connection.receive_data(scgi(("REQUEST_METHOD", "PUT"), length="x"))
    assert connection.environ == {"REQUEST_METHOD": "PUT", "CONTENT_LENGTH": "x"}


@pytest.mark.parametrize("data", [b"x", scgi(length="x"), b"70000:"])
def test_after_an_error_nothing_is_read(data):
    connection = Connection()
    with pytest.raises((ProtocolError, RequestError)):
        connection.receive_data(data)
    assert connection.receive_data(GET) == []


def test_the_body_comes_as_it_arrives():
    connection = Connection()
    assert connection.receive_data(scgi(length="6") + b"ab") == [
        RequestReceived({"CONTENT_LENGTH": "6"}),
        BodyReceived(b"ab"),
    ]
    assert connection.receive_data(b"") == []
    assert connection.receive_data(b"cde") == [BodyReceived(b"cde")]
    assert connection.receive_data(b"fgh") == [BodyReceived(b"f"), BodyEnded(short=False)]
    assert connection.receive_data(b"ijk") == []


def test_a_connection_is_idle_until_a_byte_comes():
    connection = Connection()
    assert connection.idle
    assert connection.receive_data(b"") == [] and connection.idle
    connection.receive_data(b"2")
    assert not connection.idle


def test_a_connection_carries_one_request():
    connection = Connection()
    connection.receive_data(GET)
    assert not connection.idle
    assert connection.end() == b""
    assert not connection.reusable
    assert connection.receive_data(GET) == []


def test_the_answer_is_cgis():
    connection: Codec = Connection()
    connection.receive_data(scgi(length="5"))
    assert connection.ask() == connection.flush() == connection.data_to_send() == b""
    head = connection.head("404 Not Found", [("Content-Type", "text/plain"), ("X", "\xe9")])
    assert head == b"Content-Type: text/plain\r\nX: \xe9\r\nStatus: 404 Not Found\r\n\r\n"
    assert connection.body(b"a\0b") == b"a\0b"


def test_what_nginx_sends_can_be_served():
    """CONTENT_LENGTH first, the order of scgi_params, copies of two headers."""
    environ, body = parse_whole(
        scgi(
            ("REQUEST_METHOD", "GET"),
            ("REQUEST_URI", "/a%20b?q"),
            ("QUERY_STRING", "q"),
            ("CONTENT_TYPE", ""),
            ("DOCUMENT_URI", "/a b"),
            ("DOCUMENT_ROOT", "/usr/share/nginx/html"),
            ("SERVER_PROTOCOL", "HTTP/1.1"),
            ("REQUEST_SCHEME", "http"),
            ("REMOTE_ADDR", "127.0.0.1"),
            ("REMOTE_PORT", "40000"),
            ("SERVER_PORT", "80"),
            ("SERVER_NAME", "localhost"),
            ("HTTP_HOST", "localhost"),
            ("HTTP_PROXY", "http://evil"),
            ("HTTP_CONTENT_LENGTH", "0"),
        )
    ) or ({}, b"")
    assert mend(environ) == 0
    assert environ["REQUEST_METHOD"] == "GET" and not body
    assert not {"SCGI", "HTTP_PROXY", "HTTP_CONTENT_LENGTH", "CONTENT_TYPE"} & environ.keys()


# -- (b) at random --------------------------------------------------------------------------------

names = st.sampled_from(
    "REQUEST_METHOD PATH_INFO HTTP_ACCEPT HTTP_COOKIE HTTP_X SCGI CONTENT_LENGTH A".split()
) | st.text("AB_\xe9", min_size=1, max_size=200)
values = st.sampled_from(["", "0", "1", "2", "GET"]) | st.text(
    st.characters(min_codepoint=1, max_codepoint=255), max_size=300
)
heads = st.builds(
    lambda pairs, length, flag: scgi(*pairs, length=length, flag=flag),
    st.lists(st.tuples(names, values), max_size=6),
    st.sampled_from(["0", "0", "3", "12", None, "x"]),
    st.sampled_from(["1", "1", "1", None]),
)
streams = st.builds(lambda head, body: head + body, heads, st.binary(max_size=16))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A stream of which some bytes were changed, inserted or lost."""
    data = bytearray(draw(streams))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(data)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


places = st.lists(st.integers(0, 10**6), max_size=8)


@examples
@given(streams | damaged(), places, st.booleans())
def test_any_bytes_in_any_cut_are_judged_as_the_rules_say(data, places, strict):
    expected = judge(data, strict=strict)
    assert outcome(Connection(strict=strict), *cut(data, places)) == expected


@examples
@given(streams | damaged())
def test_the_short_way_never_says_anything_else(data):
    found = parse_whole(data)
    if found is not None:
        assert (*found, True) == judge(data)


@examples
@given(st.lists(st.tuples(st.sampled_from("ABCD"), values), max_size=5), st.binary(max_size=9))
def test_the_short_way_takes_every_right_request_without_repetition(pairs, body):
    distinct = dict(pairs)
    data = scgi(*distinct.items(), length=str(len(body))) + body
    assert parse_whole(data) == ({"CONTENT_LENGTH": str(len(body)), **distinct}, body)


# -- (c) the client's side ------------------------------------------------------------------------


def test_a_request_has_its_length_first_and_the_flag():
    assert request([(b"REQUEST_METHOD", b"GET")], 3) == (
        b"43:CONTENT_LENGTH\x003\0SCGI\x001\0REQUEST_METHOD\0GET\0,"
    )


def test_length_and_flag_of_the_caller_do_not_count():
    head = request([(b"CONTENT_LENGTH", b"9"), (b"SCGI", b"2"), (b"A", b"\xff")], 1)
    assert parse_whole(head + b"x") == ({"CONTENT_LENGTH": "1", "A": "\xff"}, b"x")


@pytest.mark.parametrize("pair", [(b"", b"x"), (b"A\0", b"x"), (b"A", b"x\0B\0y")])
def test_what_would_become_another_variable_is_refused(pair):
    with pytest.raises(ValueError):
        request([pair], 0)


def test_the_largest_head_may_come_byte_by_byte():
    data = request([(b"A", b"x" * 65400)], 0)
    assert outcome(Connection(), *each_byte(data))[2]
