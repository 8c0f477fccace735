"""The AJP codec: bad input and its answers, the body's dialogue, every cut of both, the output."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from protocols.ajp_oracle import (
    BARE_EMPTY,
    CPING,
    EMPTY,
    METHOD_CODES,
    REQUEST_CODES,
    RESPONSE_NAMES,
    answers,
    attribute,
    body,
    forward,
    judge,
    number,
    packet,
    string,
)

from sapi_adapters.protocols import ajp
from sapi_adapters.protocols.ajp import Connection
from sapi_adapters.protocols.cgi import mend
from sapi_adapters.protocols.single import BodyEnded, BodyReceived, Codec, RequestReceived
from sapi_adapters.sapi import ApplicationError, ProtocolError, RequestError

examples = settings(
    derandomize=True,
    max_examples=400,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

CLOSE, BAD, FORBIDDEN = "close", 400, 403
OVER = BodyEnded(short=False)
SHORT = BodyEnded(short=True)


def connection(**options: Any) -> Connection:
    if "allowed_attributes" in options:
        options["allowed_attributes"] = re.compile(options["allowed_attributes"])
    return Connection(**options)


def outcome(codec: Connection, *pieces: bytes) -> Any:
    """Return what *codec* makes of one packet in a request's place, in the judge's words."""
    found: list[Any] = []
    for piece in pieces:
        try:
            found += codec.receive_data(piece)
        except ProtocolError:
            return CLOSE
        except RequestError as error:
            return int(error.status[:3])
    if not found:
        return "pong" if answers(codec.data_to_send()) == [("pong",)] else None
    request, *rest = found
    assert isinstance(request, RequestReceived) and request.environ is codec.environ
    length = request.environ.get("CONTENT_LENGTH")
    if rest:
        assert rest == [OVER] and int(length or 0) == 0
        assert not codec.ask()
        return request.environ, 0
    if length is None:
        assert answers(codec.ask()) == [("ask", 8186)]
        return request.environ, None
    assert not codec.ask()  # the first packet comes unasked
    return request.environ, int(length)


def each_byte(data: bytes) -> list[bytes]:
    return [bytes((byte,)) for byte in data]


# -- (a) one packet and its answer ----------------------------------------------------------------

GET = forward()
GOT = {
    "REQUEST_METHOD": "GET",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REQUEST_URI": "/",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/",
    "QUERY_STRING": "",
    "REMOTE_ADDR": "192.0.2.1",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "80",
}
ANY = {"allowed_attributes": ".*"}
SECRET = {"secret": "tigerßtail"}
RIGHT = "tigerßtail".encode().decode("latin-1")


class Case(NamedTuple):
    data: bytes
    answer: Any
    settings: dict[str, Any] = {}  # noqa: RUF012 - never changed


def got(length: int | None = 0, **more: str) -> tuple[dict[str, str], int | None]:
    return {**GOT, **more}, length


def attributed(*attributes: bytes, **more: Any) -> bytes:
    return forward(attributes=b"".join(attributes), **more)


CASES = {
    "a request": Case(GET, got()),
    "CPING": Case(CPING, "pong"),
    "a magic that is not 12 34": Case(b"\x12\x35", CLOSE),
    "our own magic": Case(b"AB\0\x01\x0a", CLOSE),
    "HTTP": Case(b"GET / HTTP/1.1\r\n\r\n", CLOSE),
    "a packet larger than the limit": Case(b"\x12\x34" + number(8189), CLOSE),
    "a packet of the limit": Case(b"\x12\x34" + number(8188), None),
    "a packet of a larger limit": Case(b"\x12\x34" + number(65532), None, {"packet_size": 65536}),
    "a packet over a larger limit": Case(
        b"\x12\x34" + number(65533), CLOSE, {"packet_size": 65536}
    ),
    "no payload": Case(BARE_EMPTY, CLOSE),
    "an empty packet of a body": Case(EMPTY, CLOSE),
    "a packet of a body": Case(body(b"abc"), CLOSE),
    "SHUTDOWN": Case(packet(b"\x07"), CLOSE),
    "the historic PING": Case(packet(b"\x08"), CLOSE),
    "CPING with more in it": Case(packet(b"\x0a\0"), CLOSE),
    **{
        f"a packet of type {type}": Case(packet(bytes((type,))), CLOSE)
        for type in range(256)
        if type not in (2, 10)
    },
    **{
        f"the method {name}": Case(forward(name), got(REQUEST_METHOD=name)) for name in METHOD_CODES
    },
    **{f"the method's code {code}": Case(forward(code), BAD) for code in (0, 28, 254)},
    "a stored method": Case(
        attributed(attribute("stored_method", "BREW"), method=255), got(REQUEST_METHOD="BREW")
    ),
    "a stored method that is not there": Case(forward(255), BAD),
    "a method's code and another name": Case(attributed(attribute("stored_method", "POST")), BAD),
    "a method's code and its name": Case(attributed(attribute("stored_method", "GET")), got()),
    "two stored methods": Case(
        attributed(attribute("stored_method", "A"), attribute("stored_method", "B"), method=255),
        BAD,
    ),
    "a URI is decoded once": Case(
        forward(uri="/a%20b/%2541%zz%c3%a9?"),
        got(REQUEST_URI="/a%20b/%2541%zz%c3%a9?", PATH_INFO="/a b/%41%zz\xc3\xa9?"),
    ),
    "a query is not decoded": Case(
        attributed(attribute("query_string", "a=%20&b=\xe9"), uri="/x"),
        got(REQUEST_URI="/x?a=%20&b=\xe9", PATH_INFO="/x", QUERY_STRING="a=%20&b=\xe9"),
    ),
    "an empty query": Case(
        attributed(attribute("query_string", ""), uri="/x"), got(REQUEST_URI="/x?", PATH_INFO="/x")
    ),
    "the last query of two": Case(
        attributed(attribute("query_string", "a"), attribute("query_string", "b")),
        got(REQUEST_URI="/?b", QUERY_STRING="b"),
    ),
    "TLS, another port, a host": Case(
        forward(secure=1, port=65535, host="client.example"),
        got(HTTPS="on", SERVER_PORT="65535", REMOTE_HOST="client.example"),
    ),
    "an empty host is none": Case(forward(host=""), got()),
    "is_ssl is neither 0 nor 1": Case(forward(secure=2), BAD),
    "null strings are empty": Case(
        forward(protocol=None, uri=None, address=None, name=None),
        got(SERVER_PROTOCOL="", REQUEST_URI="", PATH_INFO="", REMOTE_ADDR="", SERVER_NAME=""),
    ),
    **{
        f"the header {name} by its code": Case(
            forward("GET", "/", (code, "0")), got(**{ajp._variable(name): "0"})
        )
        for name, code in REQUEST_CODES.items()
    },
    **{
        f"the header code {code:04x}": Case(forward("GET", "/", (code, "0")), BAD)
        for code in (0xA000, 0xA00F, 0xA0FF)
    },
    "a header by its name": Case(
        forward("GET", "/", ("X-Forwarded-For", "\xe9 x"), ("x2", "")),
        got(HTTP_X_FORWARDED_FOR="\xe9 x", HTTP_X2=""),
    ),
    "a coded header by its name": Case(
        forward("GET", "/", ("Content-Type", "a/b"), ("HOST", "h")),
        got(CONTENT_TYPE="a/b", HTTP_HOST="h"),
    ),
    "a null value": Case(forward("GET", "/", ("accept", None)), got(HTTP_ACCEPT="")),
    "a null name": Case(forward("GET", "/", (0xFFFF, "x")), BAD),
    "names that could pass for others are dropped": Case(
        forward(
            "GET",
            "/",
            ("X_Under", "1"),
            ("Content_Length", "5"),
            ("Content-Length ", "5"),
            ("Transfer-Encoding:", "x"),
            ("\xe9", "1"),
            ("", "1"),
            ("x.y", "1"),
            ("accept", "a"),
        ),
        got(HTTP_ACCEPT="a"),
    ),
    "a long name": Case(
        forward("GET", "/", ("x" * 100, "1")), got(**{"HTTP_" + "X" * 100: "1"})
    ),
    "Proxy is passed on, for mend() to drop": Case(
        forward("GET", "/", ("Proxy", "evil")), got(HTTP_PROXY="evil")
    ),
    "equal headers are joined": Case(
        forward(
            "GET", "/", ("Accept", "a"), ("accept", "b"), ("cookie", "c"), ("Cookie", "d"),
            ("host", "one"), ("host", "two"),
        ),
        got(HTTP_ACCEPT="a, b", HTTP_COOKIE="c; d", HTTP_HOST="two"),
    ),
    **{
        f"{what} in {where}": Case(data, BAD)
        for what, byte in {"NUL": "\0", "CR": "\r", "LF": "\n"}.items()
        for where, data in {
            "a value": forward("GET", "/", ("accept", f"a{byte}b")),
            "the value of a dropped header": forward("GET", "/", ("a_b", f"a{byte}b")),
            "a value that another replaces": forward("GET", "/", ("host", byte), ("host", "h")),
            "the URI": forward(uri=f"/{byte}"),
            "the protocol": forward(protocol=f"HTTP/1.1{byte}"),
            "the server's name": forward(name=byte),
            "the query": attributed(attribute("query_string", byte)),
            "the method": attributed(attribute("stored_method", byte), method=255),
            "an attribute": attributed(attribute("req_attribute", "AJP_REMOTE_PORT", byte)),
        }.items()
    },
    "an encoded NUL is mend()'s": Case(
        forward(uri="/%00"), got(REQUEST_URI="/%00", PATH_INFO="/\0")
    ),
    "lines in a certificate": Case(
        attributed(attribute("ssl_cert", "--\nx\r\n--")), got(SSL_CLIENT_CERT="--\nx\r\n--")
    ),
    "NUL in a certificate": Case(attributed(attribute("ssl_cert", "a\0b")), BAD),
    "content-length": Case(
        forward("GET", "/", ("content-length", "12")), got(12, CONTENT_LENGTH="12")
    ),
    "content-length 0": Case(forward("GET", "/", ("content-length", "0")), got(CONTENT_LENGTH="0")),
    **{
        f"content-length {value!r}": Case(forward("GET", "/", ("content-length", value)), BAD)
        for value in ("", "-1", "+1", " 1", "1, 1", "0x1", "1_0", "²", "9" * 20, "9" * 5000)
    },
    "content-length twice": Case(
        forward("GET", "/", ("content-length", "5"), ("content-length", "6")), BAD
    ),
    "content-length twice the same, by code and by name": Case(
        forward("GET", "/", ("content-length", "5"), ("Content-Length", "5")), BAD
    ),
    "CVE-2022-26377: content-length and transfer-encoding": Case(
        forward("GET", "/", ("content-length", "5"), ("Transfer-Encoding", "chunked")), BAD
    ),
    "transfer-encoding and content-length 0": Case(
        forward("GET", "/", ("Transfer-Encoding", "chunked"), ("content-length", "0")), BAD
    ),
    **{
        f"transfer-encoding {value!r}": Case(forward("GET", "/", ("Transfer-Encoding", value)), BAD)
        for value in ("", "gzip", "gzip, chunked", "chunked, chunked", "identity", "chunked ")
    },
    "transfer-encoding twice": Case(
        forward("GET", "/", *[("Transfer-Encoding", "chunked")] * 2), BAD
    ),
    "transfer-encoding chunked": Case(
        forward("GET", "/", ("Transfer-Encoding", "Chunked")),
        got(None, HTTP_TRANSFER_ENCODING="Chunked"),
    ),
    "fewer headers than announced": Case(forward("GET", "/", ("accept", "a"), count=2), BAD),
    "more headers than announced": Case(forward("GET", "/", ("accept", "a"), count=0), BAD),
    "65535 headers announced": Case(forward(count=65535), BAD),
    "no end of the attributes": Case(forward(end=b""), BAD),
    "something behind the end": Case(forward(end=b"\xff\xff"), BAD),
    "a type and nothing else": Case(packet(b"\x02"), BAD),
    "a string without its NUL": Case(
        packet(b"\x02\x02" + number(8) + b"HTTP/1.1" + string("/") * 4 + bytes(5) + b"\xff"), BAD
    ),
    "a header without its NUL": Case(
        packet(GET[4:-3] + b"\0\x01" + number(1) + b"aX" + string("x") + b"\xff"), BAD
    ),
    "a length beyond the packet": Case(packet(b"\x02\x02" + number(0x7FFF) + b"HTTP/1.1\0"), BAD),
    "a length of all but null": Case(packet(b"\x02\x02\xff\xfeHTTP/1.1\0"), BAD),
    **{
        f"a request that ends after {size} bytes": Case(packet(GET[4 : 4 + size]), BAD)
        for size in range(1, len(GET) - 4)
    },
    "historic attributes are ignored": Case(
        attributed(attribute("context", "/c"), attribute("servlet_path", "/s")), got()
    ),
    "a user is not believed": Case(
        attributed(attribute("remote_user", "root"), attribute("auth_type", "Basic")), got()
    ),
    "a user is believed when that is configured": Case(
        attributed(attribute("remote_user", "root"), attribute("auth_type", "Basic")),
        got(REMOTE_USER="root", AUTH_TYPE="Basic"),
        {"trust_remote_user": True},
    ),
    "attributes in any order": Case(
        attributed(
            attribute("ssl_key_size", 256),
            attribute("req_attribute", "AJP_SSL_PROTOCOL", "TLSv1.3"),
            attribute("ssl_cipher", "AES"),
            attribute("req_attribute", "AJP_LOCAL_ADDR", "192.0.2.9"),
            attribute("jvm_route", "node1"),
            attribute("ssl_session", "5e"),
            attribute("req_attribute", "AJP_REMOTE_PORT", "40000"),
            attribute("query_string", "q"),
            attribute("ssl_cert", "MII"),
            secure=1,
        ),
        got(
            HTTPS="on",
            SSL_CIPHER_USEKEYSIZE="256",
            SSL_PROTOCOL="TLSv1.3",
            SSL_CIPHER="AES",
            SERVER_ADDR="192.0.2.9",
            JVM_ROUTE="node1",
            SSL_SESSION_ID="5e",
            REMOTE_PORT="40000",
            REQUEST_URI="/?q",
            QUERY_STRING="q",
            SSL_CLIENT_CERT="MII",
        ),
    ),
    **{
        f"the attribute's code {code}": Case(
            attributed(bytes((code,)) + string("x")), BAD
        )
        for code in (0, 14, 254)
    },
    **{
        f"CVE-2020-1938: the attribute {name}": Case(
            attributed(attribute("req_attribute", name, "/WEB-INF/web.xml")), FORBIDDEN
        )
        for name in (
            "javax.servlet.include.request_uri",
            "javax.servlet.include.path_info",
            "javax.servlet.include.servlet_path",
            "SCRIPT_FILENAME",
            "x",
            "",
        )
    },
    "an attribute that is allowed": Case(
        attributed(attribute("req_attribute", "SHIB_uid", "ada")),
        got(SHIB_uid="ada"),
        {"allowed_attributes": "SHIB_.*"},
    ),
    "an attribute that is allowed in part": Case(
        attributed(attribute("req_attribute", "xSHIB_uid", "ada")),
        FORBIDDEN,
        {"allowed_attributes": "SHIB_.*"},
    ),
    **{
        f"no pattern allows the attribute {name}": Case(
            attributed(attribute("req_attribute", name, "x")), FORBIDDEN, ANY
        )
        for name in (
            "wsgi.input", "wsgi.url_scheme", "sapi.name", "HTTP_X", "http_x", "HTTP_PROXY", "HTTPS",
            "https", "REMOTE_USER", "Remote_User", "AUTH_TYPE", "REMOTE_ADDR", "SCRIPT_FILENAME",
            "SCRIPT_NAME", "PATH_INFO", "PATH_TRANSLATED", "DOCUMENT_ROOT", "REQUEST_METHOD",
            "REQUEST_URI", "QUERY_STRING", "CONTENT_LENGTH", "CONTENT_TYPE", "SERVER_PROTOCOL",
            "SERVER_NAME", "SERVER_SOFTWARE", "SSL_CLIENT_CERT", "", "a b", "a\n", "\xe9", "1x",
        )
    },
    "the right secret": Case(attributed(attribute("secret", RIGHT)), got(), SECRET),
    "no secret": Case(GET, FORBIDDEN, SECRET),
    "a wrong secret": Case(attributed(attribute("secret", "lion")), FORBIDDEN, SECRET),
    "a null secret": Case(attributed(attribute("secret", None)), FORBIDDEN, SECRET),
    "the beginning of the secret": Case(
        attributed(attribute("secret", "tiger")), FORBIDDEN, SECRET
    ),
    "a wrong secret, then the right one": Case(
        attributed(attribute("secret", "lion"), attribute("secret", RIGHT)), FORBIDDEN, SECRET
    ),
    "the right secret, then a wrong one": Case(
        attributed(attribute("secret", RIGHT), attribute("secret", "lion")), FORBIDDEN, SECRET
    ),
    "a secret that nobody wants is not shown": Case(attributed(attribute("secret", "x")), got()),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_packet_and_its_answer(name):
    case = CASES[name]
    assert outcome(connection(**case.settings), case.data) == case.answer
    assert outcome(connection(**case.settings), *each_byte(case.data)) == case.answer


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("no pattern")])
def test_the_judge_agrees(name):
    case = CASES[name]
    options = dict(case.settings)
    if "secret" in options:
        options["secret"] = RIGHT
    assert judge(case.data, **options) == case.answer


@pytest.mark.parametrize("name", CASES)
def test_an_error_in_a_packet_ends_the_connection_with_reuse_0(name):
    """CVE-2022-1319: an answer that said the connection lives, and a web server that waited."""
    case = CASES[name]
    codec = connection(**case.settings)
    if outcome(codec, case.data) in (BAD, FORBIDDEN):
        assert not codec.idle
        head = codec.head("400 Bad Request", [])
        assert answers(head + codec.body(b"no") + codec.end()) == [
            ("head", 400, "Bad Request", []),
            ("chunk", b"no"),
            ("end", 0),
        ]
        assert not codec.reusable
        assert codec.receive_data(GET) == []
        assert answers(codec.end()) == [("end", 0)]


def test_what_is_known_of_a_refused_request_is_told():
    codec = Connection(secret="x")
    with pytest.raises(RequestError):
        codec.receive_data(forward("PUT", "/up", ("host", "h")))
    known = {"REQUEST_METHOD": "PUT", "REQUEST_URI": "/up", "HTTP_HOST": "h"}
    assert known.items() <= codec.environ.items()


def test_a_shutdown_is_named_in_the_error():
    with pytest.raises(ProtocolError, match="shutdown"):
        Connection().receive_data(packet(b"\x07"))


def test_after_an_error_nothing_is_asked_for():
    codec = Connection()
    codec.receive_data(POST)
    with pytest.raises(ProtocolError):
        codec.receive_data(body(b"abcdef"))
    assert codec.ask() == b""


def test_the_secret_is_in_no_variable_and_in_no_error():
    codec = Connection(secret="tiger")
    codec.receive_data(attributed(attribute("secret", "tiger")))
    assert "tiger" not in "".join(codec.environ.values())
    with pytest.raises(RequestError) as caught:
        Connection(secret="tiger").receive_data(attributed(attribute("secret", "lion")))
    assert not re.search("tiger|lion", str(caught.value))


@pytest.mark.parametrize("size", [0, 8191, 65537])
def test_a_packet_size_out_of_the_standards_range_is_refused(size):
    with pytest.raises(ValueError):
        Connection(packet_size=size)


def test_a_request_of_apache_can_be_served():
    data = forward(
        "GET",
        "/a%20b/c",
        ("host", "h"),
        ("Proxy", "evil"),
        attributes=attribute("query_string", "q")
        + attribute("req_attribute", "AJP_REMOTE_PORT", "40000"),
    )
    request, over = Connection().receive_data(data)
    environ = request.environ
    assert over == OVER and mend(environ, "/a b") == -1
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/a b", "/c")
    assert "HTTP_PROXY" not in environ


def test_names_of_clients_do_not_fill_the_memory():
    codec = Connection()
    for at in range(0, 2000, 100):
        names = [(f"x-{at + n}", "1") for n in range(100)]
        (request, _) = codec.receive_data(forward("GET", "/", *names))
        assert {f"HTTP_X_{at + n}" for n in range(100)} <= request.environ.keys()
        codec.end()
    codec.receive_data(forward("GET", "/", ("y" * 65, "1")))
    assert len(ajp._variables) <= ajp._MAX_VARIABLES
    assert max(map(len, ajp._variables)) <= 64


# -- (b) the dialogue -----------------------------------------------------------------------------

POST = forward("POST", "/", ("content-length", "5"))
CHUNKED = forward("POST", "/", ("Transfer-Encoding", "chunked"))
ASK, END_0, END_1, PONG = ("ask", 8186), ("end", 0), ("end", 1), ("pong",)
REQUEST = "request"
FULL = forward("POST", "/", ("content-length", "16372"))

# What the web server sends, as bytes, and what the application does, as a word: "ask", "end",
# "data_to_send"; then what comes of it: events (the request as a word), packets, or CLOSE.
DIALOGUES: dict[str, list[tuple[bytes | str, Any]]] = {
    "two requests on one connection": [
        (GET, [REQUEST, OVER]), ("ask", []), ("end", [END_1]),
        (GET, [REQUEST, OVER]), ("end", [END_1]),
    ],
    "CPING before each request": [
        (CPING, []), ("data_to_send", [PONG]), ("data_to_send", []),
        (CPING + GET, [REQUEST, OVER]), ("data_to_send", [PONG]), ("end", [END_1]),
        (CPING, []), ("data_to_send", [PONG]),
    ],
    "CPING several times": [(CPING * 2, []), ("data_to_send", [PONG, PONG])],
    "a body that comes unasked": [
        (POST, [REQUEST]), ("ask", []), (body(b"abcde"), [BodyReceived(b"abcde"), OVER]),
        ("ask", []), ("end", [END_1]), (GET, [REQUEST, OVER]),
    ],
    "a body that comes with its request": [
        (POST + body(b"abcde"), [REQUEST, BodyReceived(b"abcde"), OVER]), ("end", [END_1]),
    ],
    "a body in several packets: one unasked, one for each question": [
        (POST + body(b"ab"), [REQUEST, BodyReceived(b"ab")]), ("ask", [ASK]), ("ask", []),
        (body(b"c"), [BodyReceived(b"c")]), ("ask", [ASK]),
        (body(b"de"), [BodyReceived(b"de"), OVER]), ("ask", []), ("end", [END_1]),
    ],
    "packets of the largest size": [
        (FULL + body(b"x" * 8186), [REQUEST, BodyReceived(b"x" * 8186)]), ("ask", [ASK]),
        (body(b"y" * 8186), [BodyReceived(b"y" * 8186), OVER]), ("end", [END_1]),
    ],
    "a packet larger than the largest": [
        (FULL, [REQUEST]), (b"\x12\x34" + number(8189) + number(8187), CLOSE),
    ],
    "no length: nothing comes unasked": [
        (CHUNKED, [REQUEST]), ("ask", [ASK]), ("ask", []),
        (body(b"abc"), [BodyReceived(b"abc")]), ("ask", [ASK]),
        (body(b"d"), [BodyReceived(b"d")]), ("ask", [ASK]), (EMPTY, [OVER]),
        ("ask", []), ("end", [END_1]), (GET, [REQUEST, OVER]),
    ],
    "no length, the other empty packet": [
        (CHUNKED, [REQUEST]), ("ask", [ASK]), (BARE_EMPTY, [OVER]), ("end", [END_1]),
    ],
    "a body that is not read: the first packet is on its way": [
        (POST, [REQUEST]), ("end", [END_0]), (body(b"abcde"), []), (GET, []),
    ],
    "half of the first packet is there": [
        (POST + body(b"abcde")[:6], [REQUEST]), ("end", [END_0]), (body(b"abcde")[6:], []),
    ],
    "a body that is not read: the first packet came, the rest is not asked for": [
        (POST + body(b"ab"), [REQUEST, BodyReceived(b"ab")]), ("end", [END_1]),
        (GET, [REQUEST, OVER]), ("end", [END_1]),
    ],
    "no length and not read: nothing is on its way": [
        (CHUNKED, [REQUEST]), ("end", [END_1]), (GET, [REQUEST, OVER]),
    ],
    "a question that is not answered": [
        (CHUNKED, [REQUEST]), ("ask", [ASK]), ("end", [END_0]), (body(b"abc"), []),
    ],
    "a body that ends short": [
        (POST + body(b"ab"), [REQUEST, BodyReceived(b"ab")]), ("ask", [ASK]), (EMPTY, [SHORT]),
        ("ask", []), ("end", [END_0]), (GET, []),
    ],
    "a body of which nothing comes": [(POST, [REQUEST]), (BARE_EMPTY, [SHORT]), ("end", [END_0])],
    "more than the content-length": [(POST, [REQUEST]), (body(b"abcdef"), CLOSE)],
    "more than the content-length, in the second packet": [
        (POST + body(b"abc"), [REQUEST, BodyReceived(b"abc")]), ("ask", [ASK]),
        (body(b"def"), CLOSE),
    ],
    "a packet of a body that has none": [(GET, [REQUEST, OVER]), (body(b"a"), CLOSE)],
    "an empty packet of a body that has none": [(GET, [REQUEST, OVER]), (EMPTY, CLOSE)],
    "a second packet that nobody asked for": [
        (POST + body(b"ab"), [REQUEST, BodyReceived(b"ab")]), (body(b"cde"), CLOSE),
    ],
    "a chunked body that nobody asked for": [(CHUNKED, [REQUEST]), (body(b"ab"), CLOSE)],
    "an answer to a question that was answered": [
        (CHUNKED, [REQUEST]), ("ask", [ASK]), (body(b"a"), [BodyReceived(b"a")]),
        (body(b"b"), CLOSE),
    ],
    "an empty packet behind the body's end": [
        (POST + body(b"abcde"), [REQUEST, BodyReceived(b"abcde"), OVER]), (EMPTY, CLOSE),
    ],
    "CPING in the middle of a request": [(GET, [REQUEST, OVER]), (CPING, CLOSE)],
    "CPING in place of a body": [(POST, [REQUEST]), (CPING, CLOSE)],
    "a request in the middle of another": [(GET, [REQUEST, OVER]), (GET, CLOSE)],
    "a request in place of a body": [(POST, [REQUEST]), (GET, CLOSE)],
    "lighttpd's body, without the length": [(POST, [REQUEST]), (packet(b"abcde"), CLOSE)],
    "a length in the packet that is too large": [
        (POST, [REQUEST]), (packet(number(4) + b"abc"), CLOSE),
    ],
    "a length in the packet that is too small": [
        (POST, [REQUEST]), (packet(number(2) + b"abc"), CLOSE),
    ],
    "a length of 0 and data": [(POST, [REQUEST]), (packet(number(0) + b"abc"), CLOSE)],
    "half a length in the packet": [(POST, [REQUEST]), (packet(b"\0"), CLOSE)],
    "our own magic in place of a body": [(POST, [REQUEST]), (b"AB\0\x02\0\0", CLOSE)],
    "a wrong request behind a right one": [
        (GET, [REQUEST, OVER]), ("end", [END_1]), (forward(0), BAD), ("end", [END_0]), (GET, []),
    ],
    "nothing to ask before a request": [("ask", []), (b"", [])],
}  # fmt: skip


def perform(dialogue: list[tuple[bytes | str, Any]], cutter: Any) -> None:
    codec = Connection()
    for said, expected in dialogue:
        if isinstance(said, str):
            assert answers(getattr(codec, said)()) == expected
            if said == "end":
                assert codec.reusable == (expected == [END_1])
            continue
        found: list[Any] = []
        try:
            for piece in cutter(said):
                found += codec.receive_data(piece)
        except ProtocolError:
            assert expected == CLOSE
            assert codec.receive_data(GET) == []
            return
        except RequestError as error:
            assert int(error.status[:3]) == expected
            continue
        assert [REQUEST if isinstance(e, RequestReceived) else e for e in found] == expected


@pytest.mark.parametrize("name", DIALOGUES)
def test_a_dialogue(name):
    perform(DIALOGUES[name], lambda data: [data])
    perform(DIALOGUES[name], each_byte)


@pytest.mark.parametrize("name", DIALOGUES)
def test_a_dialogue_cut_in_two_at_every_place(name):
    longest = max(len(said) for said, _ in DIALOGUES[name])
    for at in range(1, min(longest, 120)):
        perform(DIALOGUES[name], lambda data, at=at: [data[:at], data[at:]])


def test_a_larger_packet_is_asked_for_and_taken():
    codec = Connection(packet_size=65536)
    codec.receive_data(CHUNKED)
    assert answers(codec.ask(), 65536) == [("ask", 65530)]
    data = bytes(65530)
    assert codec.receive_data(body(data)) == [BodyReceived(data)]


def test_idle_is_a_connection_between_requests_only():
    codec: Codec = Connection()
    assert codec.idle
    codec.receive_data(CPING)
    assert codec.idle
    codec.receive_data(POST[:1])
    assert not codec.idle
    codec.receive_data(POST[1:])
    assert not codec.idle
    codec.receive_data(body(b"abcde"))
    assert not codec.idle
    codec.end()
    assert codec.idle and codec.reusable


def test_a_request_leaves_nothing_to_the_next_one():
    codec = Connection()
    first, _ = codec.receive_data(attributed(attribute("query_string", "q"), host="x", secure=1))
    codec.end()
    second, _ = codec.receive_data(GET)
    assert second.environ == GOT
    assert first.environ["QUERY_STRING"] == "q"


# -- (c) the response -----------------------------------------------------------------------------


def test_a_response():
    codec = Connection()
    codec.receive_data(GET)
    head = codec.head("200 OK", [("content-TYPE", "text/plain"), ("X-E", "\xe9"), ("Empty", "")])
    assert answers(head + codec.body(b"abc") + codec.flush() + codec.end()) == [
        ("head", 200, "OK", [("Content-Type", "text/plain"), ("X-E", "\xe9"), ("Empty", "")]),
        ("chunk", b"abc"),
        ("chunk", b""),
        ("end", 1),
    ]


def test_the_bytes_of_a_response():
    codec = Connection()
    head = "41 42 00 11 04 01 94 00 04 47 6f 6e 65 00 00 01 a0 03 00 00 00"
    assert codec.head("404 Gone", [("Content-Length", "")]).hex(" ") == head
    assert codec.body(b"hi").hex(" ") == "41 42 00 06 03 00 02 68 69 00"
    assert codec.flush().hex(" ") == "41 42 00 04 03 00 00 00"
    assert codec.end().hex(" ") == "41 42 00 02 05 01"
    codec.receive_data(CPING)
    assert codec.data_to_send().hex(" ") == "41 42 00 01 09"
    codec.receive_data(CHUNKED)
    assert codec.ask().hex(" ") == "41 42 00 03 06 1f fa"


@pytest.mark.parametrize("name", RESPONSE_NAMES.values())
def test_response_headers_that_have_codes_are_sent_by_them(name):
    head = Connection().head("200 OK", [(name.lower(), "x")])
    assert name.encode() not in head and name.lower().encode() not in head
    assert answers(head) == [("head", 200, "OK", [(name, "x")])]


def test_headers_may_repeat():
    pairs = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
    assert answers(Connection().head("200 OK", pairs)) == [("head", 200, "OK", pairs)]


@pytest.mark.parametrize("size", [1, 8183, 8184, 8185, 16368, 16369, 100_000])
@pytest.mark.parametrize("packet_size", [8192, 65536])
def test_a_body_goes_in_as_many_chunks_as_it_needs(size, packet_size):
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    chunks = answers(Connection(packet_size=packet_size).body(data), packet_size)
    assert b"".join(chunk for _, chunk in chunks) == data
    assert len(chunks) == -(-size // (packet_size - 8))
    assert all(chunk for _, chunk in chunks)


@pytest.mark.parametrize("packet_size", [8192, 65536])
def test_a_head_may_fill_the_packet_and_no_more(packet_size):
    codec = Connection(packet_size=packet_size)
    left = packet_size - len(codec.head("200 OK", [("X", "")]))
    assert len(codec.head("200 OK", [("X", "x" * left)])) == packet_size
    with pytest.raises(ApplicationError, match=r"raise ajp[.]packet_size"):
        codec.head("200 OK", [("X", "x" * (left + 1))])
    assert answers(codec.head("500 Internal Server Error", [])) != []


@pytest.mark.parametrize("headers", [[("X", "x" * 70000)], [("X", "")] * 70000])
def test_a_head_beyond_what_two_bytes_can_say_is_the_same_error(headers):
    with pytest.raises(ApplicationError, match=r"raise ajp[.]packet_size"):
        Connection().head("200 OK", headers)


# -- (d) at random --------------------------------------------------------------------------------

texts = st.none() | st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40)
names = (
    st.sampled_from([*REQUEST_CODES, "Transfer-Encoding", "X-A", "x-a", "Proxy", "X_B", "Cookie"])
    | st.sampled_from([0xA001, 0xA00E, 0xA00F])
    | st.text("ab-_.\xe9", max_size=90)
)
lengths = st.sampled_from(["0", "5", "12", "chunked", "x"])
attributes = st.one_of(
    st.builds(
        attribute,
        st.sampled_from(
            "context servlet_path remote_user auth_type query_string jvm_route ssl_cert ssl_cipher"
            " ssl_session".split()
        ),
        texts,
    ),
    st.builds(attribute, st.just("ssl_key_size"), st.integers(0, 65535)),
    st.builds(attribute, st.just("secret"), st.sampled_from(["right", "wrong"])),
    st.builds(attribute, st.just("stored_method"), st.sampled_from(["GET", "BREW"])),
    st.builds(
        attribute,
        st.just("req_attribute"),
        st.sampled_from(["AJP_REMOTE_PORT", "AJP_LOCAL_ADDR", "ok_1", "ok_2", "bad"]),
        texts,
    ),
)
requests = st.builds(
    lambda method, uri, headers, each, **more: forward(
        method, uri, *headers, attributes=b"".join(each), **more
    ),
    st.sampled_from([*METHOD_CODES, 255, 0]),
    st.sampled_from(["/", "/a%20b", "/%", "*", "/%25%zz%00", None]),
    st.lists(st.tuples(names, lengths | texts), max_size=6),
    st.lists(attributes, max_size=4),
    protocol=texts,
    address=texts,
    host=texts,
    name=texts,
    port=st.integers(0, 65535),
    secure=st.sampled_from([0, 0, 1, 2]),
)
options = st.fixed_dictionaries(
    {},
    optional={
        "secret": st.just("right"),
        "trust_remote_user": st.booleans(),
        "allowed_attributes": st.just("ok_[12]"),
    },
)
places = st.lists(st.integers(0, 10**6), max_size=8)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A packet of which some bytes were changed, inserted or lost; its length mostly right."""
    payload = bytearray(draw(requests)[4:])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(payload)))
        payload[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    data = packet(bytes(payload))
    if draw(st.integers(0, 5)):
        return data
    at = draw(st.integers(0, 3))
    return data[:at] + draw(st.binary(min_size=1, max_size=1)) + data[at + 1 :]


@examples
@given(requests | damaged(), options, places)
def test_any_packet_in_any_cut_is_judged_as_the_tables_say(data, options, places):
    expected = judge(data, **options)
    if len(data) > 4:  # what follows the one packet is not what this is about
        data = data[: 4 + int.from_bytes(data[2:4], "big")] if data[:2] == b"\x12\x34" else data
    assert outcome(connection(**options), *cut(data, places)) == expected


@examples
@given(st.sampled_from(sorted(DIALOGUES)), places)
def test_a_dialogue_is_the_same_in_any_cut(name, places):
    perform(DIALOGUES[name], lambda said: cut(said, places))


@examples
@given(
    st.lists(
        st.sampled_from([GET, POST, CHUNKED, CPING, EMPTY, BARE_EMPTY, body(b"ab"), body(b"abcde")])
        | st.binary(max_size=12)
        | damaged()
        | st.sampled_from(["ask", "end", "data_to_send"]),
        max_size=12,
    )
)
def test_whatever_comes_there_are_two_errors_and_an_end(said):
    """Between any bytes and any calls: no other exception, whole packets out, body as announced."""
    codec = Connection()
    due = asked = 0
    for each in said:
        if isinstance(each, str):
            packets = answers(getattr(codec, each)())
            asked += packets == [("ask", 8186)]
            assert asked <= 1
            if each == "end":
                asked = due = 0
            continue
        try:
            events = codec.receive_data(each)
        except (ProtocolError, RequestError):
            assert codec.receive_data(GET) == []
            assert answers(codec.end()) == [("end", 0)]
            return
        for event in events:
            if isinstance(event, RequestReceived):
                due = int(event.environ.get("CONTENT_LENGTH", "-1"))
                continue
            asked = 0
            if isinstance(event, BodyReceived):
                due -= len(event.data)
            elif due > 0:
                assert event.short
    assert codec.receive_data(b"") == []
