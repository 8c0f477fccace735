"""``FCGIApp`` and ``SCGIApp``: what they send, what they make of answers, and real servers."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import serving, until

from sapi_adapters.flup.client.fcgi_app import FCGIApp
from sapi_adapters.flup.client.scgi_app import SCGIApp, encodeNetstring
from sapi_adapters.protocols import fastcgi, scgi

PHP_FPM = "/usr/sbin/php-fpm8.2"
HEAD = b"Content-Type: text/plain\r\n\r\n"

pytestmark = pytest.mark.usefixtures("deadline")


def environ(**variables: Any) -> dict[str, Any]:
    """A request as WSGI has it."""
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a b",
        "QUERY_STRING": "q=1",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        **variables,
    }


class Caller:
    """Calls an application; keeps what it said."""

    status: str
    headers: list[tuple[str, str]]

    def start_response(self, status: str, headers: list[tuple[str, str]]) -> None:
        assert type(status) is str
        assert all(type(text) is str for pair in headers for text in pair)
        self.status, self.headers = status, headers

    def __call__(self, app: Any, **variables: Any) -> bytes:
        """Return the body of the response."""
        response = app(environ(**variables), self.start_response)
        try:
            return b"".join(response)
        finally:
            response.close()


@pytest.fixture
def call() -> Caller:
    return Caller()


class Dripping(socket.socket):
    """A connection on which bytes come one by one."""

    def recv(self, size: int, flags: int = 0) -> bytes:
        return super().recv(1, flags)


class Fake:
    """The other end of a client's connection, where the test itself is the server."""

    def __init__(self, kind: type[Any], **options: Any) -> None:
        self.ours, theirs = socket.socketpair()
        self.ours.settimeout(10)
        for end in (self.ours, theirs):  # what one says is held until the other listens
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.app = kind(connect="/nowhere", **options)
        self.app._getConnection = lambda: self.theirs
        self.theirs = theirs
        self.fastcgi = kind is FCGIApp

    def say(self, data: bytes) -> None:
        """Send *data* as a part of the response."""
        self.ours.sendall(fastcgi.stream(fastcgi.STDOUT, 1, data) if self.fastcgi else data)

    def end(self) -> None:
        """End the response."""
        if self.fastcgi:
            self.ours.sendall(fastcgi.end_response(1))
        else:
            self.ours.shutdown(socket.SHUT_WR)

    def answer(self, data: bytes) -> None:
        """Send *data* as the whole response."""
        self.say(data)
        self.end()

    def heard(self) -> bytes:
        """Return all that the client sent; it has closed."""
        parts = []
        while data := self.ours.recv(65536):
            parts.append(data)
        return b"".join(parts)

    def request(self) -> tuple[dict[str, str], bytes]:
        """Return the variables and the body that the client sent."""
        data = self.heard()
        if not self.fastcgi:
            found = scgi.parse_whole(data)
            assert found is not None
            return found
        whole = fastcgi.parse_whole(data)
        assert whole is not None and whole[1] is False
        return whole[0], whole[2]


@pytest.fixture(params=[FCGIApp, SCGIApp])
def fake(request) -> Iterator[Fake]:
    fake = Fake(request.param)
    yield fake
    fake.ours.close()
    fake.theirs.close()


@pytest.fixture
def fcgi() -> Iterator[Fake]:
    fake = Fake(FCGIApp)
    yield fake
    fake.ours.close()
    fake.theirs.close()


# -- construction ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (FCGIApp, {}),
        (FCGIApp, {"command": "x", "connect": "/s"}),
        (FCGIApp, {"host": "h"}),
        (SCGIApp, {}),
        (SCGIApp, {"host": "h"}),
    ],
)
def test_one_address_is_needed(kind, arguments):
    with pytest.raises(AssertionError):
        kind(**arguments)


def test_starting_a_program_is_not_implemented(call):
    with pytest.raises(NotImplementedError):
        call(FCGIApp(command="/bin/true"))


@pytest.mark.parametrize("kind", [FCGIApp, SCGIApp])
@pytest.mark.parametrize("how", ["path", "tuple", "host and port", "port as text"])
def test_it_connects(kind, how, tmp_path, call):
    """F11"""
    path = str(tmp_path / "s")
    listener = socket.socket(socket.AF_UNIX) if how == "path" else socket.socket()
    with listener:
        listener.bind(path if how == "path" else ("127.0.0.1", 0))
        listener.listen()
        host, port = ("", 0) if how == "path" else listener.getsockname()
        app = {
            "path": lambda: kind(connect=path),
            "tuple": lambda: kind(connect=(host, port)),
            "host and port": lambda: kind(host=host, port=port),
            "port as text": lambda: kind(host=host, port=str(port)),
        }[how]()

        def serve() -> None:
            connection = listener.accept()[0]
            with connection:
                connection.settimeout(10)
                connection.recv(65536)
                answer = HEAD + b"here"
                if kind is FCGIApp:
                    answer = fastcgi.stream(fastcgi.STDOUT, 1, answer) + fastcgi.end_response(1)
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):  # until the client closes: no reset
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        assert call(app) == b"here"
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize("kind", [FCGIApp, SCGIApp])
def test_nobody_there_is_an_os_error(kind, tmp_path, call):
    with pytest.raises(FileNotFoundError):
        call(kind(connect=str(tmp_path / "s")))
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            call(kind(connect=holder.getsockname()))


def test_a_full_queue_is_waited_for_no_longer_than_the_timeout(tmp_path, call):
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        first.connect(str(tmp_path / "s"))
        with pytest.raises(TimeoutError, match="takes no connection"):
            call(FCGIApp(connect=str(tmp_path / "s"), timeout=0.1))


# -- requests -------------------------------------------------------------------------------------


def test_variables_are_chosen_by_name(fake, call):
    fake.app._environPrefixes = [*fake.app._environPrefixes, "DOCUMENT_"]
    fake.app._environRenames = {"x.user": "REMOTE_USER"}
    fake.answer(HEAD)
    call(
        fake.app,
        **{
            "HTTP_HOST": "h",
            "HTTP_PROXY": "http://evil/",
            "DOCUMENT_ROOT": "/d",
            "OTHER": "no",
            "x.user": "me",
            "HTTP_X": "\xe9",
        },
    )
    params, body = fake.request()
    assert body == b""
    del params["CONTENT_LENGTH" if not fake.fastcgi else "SERVER_NAME"]
    params.pop("SERVER_NAME", None)
    assert params == {
        "DOCUMENT_ROOT": "/d",
        "HTTP_HOST": "h",
        "HTTP_X": "\xe9",
        "PATH_INFO": "/a b",
        "QUERY_STRING": "q=1",
        "REMOTE_USER": "me",
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
    }


def test_without_the_filter_all_upper_case_names_are_passed_on(fake, call):
    fake.app._filterEnviron = False
    fake.answer(HEAD)
    call(fake.app, OTHER="yes", Mixed="no")
    params, _ = fake.request()
    assert params["OTHER"] == "yes"
    assert "Mixed" not in params and "wsgi.input" not in params


def test_the_lists_of_names_are_each_clients_own():
    for name in ("_environPrefixes", "_environCopies", "_environRenames"):
        assert getattr(FCGIApp, name) == getattr(SCGIApp, name)
        assert getattr(FCGIApp, name) is not getattr(SCGIApp, name)


def test_a_value_that_is_no_text_is_named(fake, call):
    with pytest.raises(TypeError, match="REMOTE_PORT"):
        call(fake.app, REMOTE_PORT=80)
    assert fake.theirs.fileno() == -1


def test_parameters_may_be_larger_than_a_record(fcgi, call):
    fcgi.answer(HEAD)
    call(fcgi.app, HTTP_X="x" * 70000)
    requests = fastcgi.Connection().receive_data(fcgi.heard())
    assert requests[0].request.params["HTTP_X"] == "x" * 70000


class Upload:
    """A body that is answered when the last of it is read."""

    def __init__(self, fake: Fake, file: Any, size: int) -> None:
        self._fake, self._file, self._left = fake, file, size

    def read(self, size: int) -> Any:
        data = self._file.read(size)
        self._left -= len(data)
        if not self._left:
            self._fake.answer(HEAD)
        return data


@pytest.mark.parametrize("size", [0, 1, 4096, 65536, 100_000])
def test_the_body_is_sent_as_long_as_content_length_says(fake, call, size):
    body = os.urandom(size)
    upload = Upload(fake, io.BytesIO(body + b"of the next request"), size)
    if not size:
        fake.answer(HEAD)
    call(fake.app, **{"CONTENT_LENGTH": str(size), "wsgi.input": upload})
    assert fake.request()[1] == body


@pytest.mark.parametrize("kind", [FCGIApp, SCGIApp])
@pytest.mark.parametrize("length", ["-1", "+5", "1e3", "5 "])
def test_a_length_that_is_no_number_is_refused(kind, length, call):
    fake = Fake(kind)
    with pytest.raises(ValueError, match="CONTENT_LENGTH"):
        call(fake.app, CONTENT_LENGTH=length)
    fake.ours.close()
    fake.theirs.close()


def test_a_body_may_be_text(fake, call):
    """In programs that make up their requests."""
    upload = Upload(fake, io.StringIO("ab\xe9"), 3)
    call(fake.app, **{"CONTENT_LENGTH": "3", "wsgi.input": upload})
    assert fake.request()[1] == b"ab\xe9"


def test_a_body_that_is_too_short_is_not_passed_on_as_a_whole_one(fake, call):
    with pytest.raises(ConnectionError, match="ends 3 bytes too early"):
        call(fake.app, **{"CONTENT_LENGTH": "5", "wsgi.input": io.BytesIO(b"12")})
    with pytest.raises(AssertionError):
        fake.request()


def test_input_without_a_body_may_be_text_or_missing(fake, call):
    """As monitoring agents have it, which ask php-fpm for its status."""
    fake.answer(HEAD + b"x")
    variables = environ(**{"CONTENT_LENGTH": "0", "wsgi.input": io.StringIO()})
    del variables["wsgi.errors"]
    assert fake.app(variables, lambda *args, **kwargs: "")[0] == b"x"
    assert fake.request()[1] == b""


# -- answers --------------------------------------------------------------------------------------

HEADS = [
    (b"Status: 404 Not Found\r\nX-A: 1\r\n\r\n", "404 Not Found", [("x-a", "1")]),
    (b"Status: 404 Not Found\nX-A: 1\n\n", "404 Not Found", [("x-a", "1")]),  # F13
    (b"status:404\n\n", "404 Not Found", []),
    (b"Status: 299\n\n", "299 Unknown", []),
    (b"Content-type: a/b\r\n\r\n", "200 OK", [("content-type", "a/b")]),
    (b"X-A: 1\r\n\r\n", "200 OK", [("x-a", "1")]),
    (b"\r\n", "200 OK", []),
    (b"\n", "200 OK", []),
    (b"Location: http://h/\r\n\r\n", "302 Found", [("location", "http://h/")]),
    (b"Status: 201 Created\nLocation: /x\n\n", "201 Created", [("location", "/x")]),
    (
        b"Status: 200 Fine\r\nSet-Cookie: a=1\r\nSet-Cookie: b=\xe9\r\n\r\n",
        "200 Fine",
        [("set-cookie", "a=1"), ("set-cookie", "b=\xe9")],
    ),
    (
        b"Content-Length: 4\r\nContent-Type: a/b\r\nConnection: close\r\n\r\n",
        "200 OK",
        [("content-type", "a/b"), ("content-length", "4")],
    ),
]


@pytest.mark.parametrize(("head", "status", "headers"), HEADS)
@pytest.mark.parametrize("cut", [False, True])
def test_a_head_is_read(fake, call, head, status, headers, cut):
    """F14"""
    if cut:
        fake.theirs = Dripping(fileno=fake.theirs.detach())
    fake.answer(head + b"body")
    assert call(fake.app) == b"body"
    assert (call.status, call.headers) == (status, headers)


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (b"no header\r\n\r\n", "Bad header"),
        (b"X-A: 1\r\n continued\r\n\r\n", "Bad header"),
        (b"X-A: a\rSet-Cookie: b\r\n\r\n", "control character"),
        (b"Status: fine\r\n\r\n", "Status is"),
        (b"Status: 200\r\nStatus: 500\r\n\r\n", "twice"),
        (b"Content-Length: 4\r\nContent-Length: 5\r\n\r\n", "twice"),
        (b"Content-Length: -4\r\n\r\n", "Content-Length is"),
        (b"X-A: 1\r\n", "before the head was"),
        (b"", "before the head was"),
        (b"X-A: " + b"x" * 66000 + b"\r\n\r\n", "65536 bytes"),
        (b"X-A: x\r\n" * 9000, "65536 bytes"),
    ],
)
def test_a_head_that_is_no_head_is_a_connection_error(fake, call, head, why):
    fake.answer(head)
    with pytest.raises(ConnectionError, match=why):
        call(fake.app)
    assert not hasattr(call, "status")
    assert fake.theirs.fileno() == -1, "the connection is closed"


def test_a_response_comes_while_it_is_being_made(fake, call):
    fake.say(HEAD + b"one")
    response = fake.app(environ(), call.start_response)
    assert call.status == "200 OK"
    assert next(response) == b"one"
    fake.say(b"two")
    assert next(response) == b"two"
    fake.end()
    assert list(response) == []
    assert fake.theirs.fileno() == -1, "the connection is closed"


def test_closing_the_response_closes_the_connection(fake, call):
    fake.say(HEAD + b"one")
    response = fake.app(environ(), call.start_response)
    assert next(response) == b"one"
    response.close()
    response.close()
    fake.heard()
    assert list(response) == []


def test_a_response_that_is_forgotten_is_closed(fake, call):
    fake.say(HEAD)
    fake.app(environ(), call.start_response)
    fake.heard()


def test_the_first_item_is_the_whole_body(fake, call):
    """flup's response was a list of one block, and programs say ``app(..)[0]``."""
    fake.say(HEAD + b"one")
    response = fake.app(environ(), call.start_response)
    fake.say(b"two")
    fake.end()
    assert response[0] == response[-1] == b"onetwo"
    assert list(response) == list(response) == [b"onetwo"]
    with pytest.raises(IndexError):
        response[1]


def test_an_answer_may_come_before_the_body_is_taken(fake, call):
    """And nothing of the body is taken before the answer is."""
    size = 5_000_000
    fake.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    failed: list[Any] = []

    def serve() -> None:
        try:
            fake.say(HEAD + b"x" * size)  # more than the sockets hold
            while fake.ours.recv(1 << 20):
                pass
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    response = fake.app(
        environ(**{"CONTENT_LENGTH": str(size), "wsgi.input": io.BytesIO(b"y" * size)}),
        call.start_response,
    )
    got = 0
    while got < size:
        got += len(next(response))
    response.close()
    thread.join(10)
    assert (got, failed) == (size, [])
    assert not thread.is_alive()


def test_a_server_that_takes_no_body_is_heard(fake, call):
    """It answered and stopped reading: the broken pipe is not the answer."""

    class Input:
        def read(self, size: int) -> bytes:
            fake.ours.shutdown(socket.SHUT_RD)
            fake.answer(HEAD + b"too large")
            return b"y" * size

    variables = {"CONTENT_LENGTH": "50000", "wsgi.input": Input()}
    assert call(fake.app, **variables) == b"too large"


@pytest.mark.parametrize("part", [b"", HEAD, HEAD + b"some"])
def test_a_silent_server_is_a_timeout(fake, call, part):
    fake.app._timeout = 0.1
    if part:
        fake.say(part)
    with pytest.raises(TimeoutError, match=r"silent for 0\.1 s"):
        call(fake.app)
    fake.heard()


def test_the_limit_of_the_connection_comes_first(fake, call):
    fake.theirs.settimeout(0.1)
    with pytest.raises(TimeoutError, match=r"silent for 0\.1 s"):
        call(fake.app)


def test_a_response_shorter_than_its_content_length_is_an_error(fake, call):
    fake.answer(b"Content-Length: 5\r\n\r\n123")
    response = fake.app(environ(), call.start_response)
    assert next(response) == b"123"
    with pytest.raises(ConnectionError, match="2 bytes before"):
        next(response)


def test_a_response_longer_than_its_content_length_is_cut(fake, call):
    fake.answer(b"Content-Length: 5\r\n\r\n1234567")
    assert call(fake.app) == b"12345"


def test_a_response_that_is_complete_by_its_content_length_is_complete(fake, call):
    """Although the server, or a child of it, holds the connection."""
    fake.app._timeout = 0.1
    fake.say(b"Content-Length: 5\r\n\r\n12345")
    assert call(fake.app) == b"12345"


@pytest.mark.parametrize(
    ("method", "head"), [("HEAD", b"Content-Length: 5\r\n"), ("GET", b"Status: 304 Same\r\n")]
)
def test_a_response_without_a_body_may_have_a_content_length(fake, call, method, head):
    fake.answer(head + b"\r\n")
    assert call(fake.app, REQUEST_METHOD=method) == b""


def test_stderr_goes_to_the_error_stream(fcgi, call):
    """F12; a character may lie in two records, and need not be one."""
    errors = io.StringIO()
    for piece in (b"caf\xc3", b"\xa9 \xff\n"):
        fcgi.ours.sendall(fastcgi.stream(fastcgi.STDERR, 1, piece))
    fcgi.answer(HEAD + b"x")
    assert call(fcgi.app, **{"wsgi.errors": errors}) == b"x"
    assert errors.getvalue() == "caf\xe9 \\xff\n"


@pytest.mark.parametrize(
    ("status", "error", "why"),
    [
        (fastcgi.OVERLOADED, ConnectionRefusedError, "overloaded"),
        (fastcgi.CANT_MPX_CONN, ConnectionRefusedError, "overloaded"),
        (fastcgi.UNKNOWN_ROLE, ConnectionError, "refused the request: 3"),
    ],
)
def test_a_refusal_is_an_error(fcgi, call, status, error, why):
    fcgi.ours.sendall(fastcgi.end_response(1, status=status))
    with pytest.raises(error, match=why):
        call(fcgi.app)


@pytest.mark.parametrize("said", [b"", HEAD + b"so"])
def test_a_fastcgi_server_that_dies_has_not_answered(fcgi, call, said):
    fcgi.say(said)
    fcgi.ours.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionError, match="before it had answered"):
        call(fcgi.app)


def test_what_breaks_the_protocol_is_a_connection_error(fcgi, call):
    fcgi.ours.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ConnectionError, match="breaks the protocol"):
        call(fcgi.app)


@pytest.mark.parametrize("kind", [str, str.encode])
def test_values_are_asked_for(fcgi, kind):
    """F2; names that are text get text."""
    pairs = [(b"FCGI_MAX_CONNS", b"7"), (b"FCGI_OTHER", b"x")]
    fcgi.ours.sendall(fastcgi.record(fastcgi.GET_VALUES_RESULT, 0, fastcgi.encode_pairs(pairs)))
    asked = [kind("FCGI_MAX_CONNS"), kind("FCGI_MAX_REQS")]
    assert fcgi.app._fcgiGetValues(fcgi.theirs, asked) == {kind("FCGI_MAX_CONNS"): kind("7")}
    question = fcgi.ours.recv(100)
    assert dict(fastcgi.iter_pairs(question[8:])) == {b"FCGI_MAX_CONNS": b"", b"FCGI_MAX_REQS": b""}


def test_a_subclass_may_say_what_is_sent(call):
    class Mine(FCGIApp):
        def _defaultFilterEnviron(self, environ):
            return {**super()._defaultFilterEnviron(environ), "SCRIPT_FILENAME": "/x.php"}

        def _fcgiParams(self, sock, requestId, params):
            if params:
                params["EXTRA"] = "1"
            super()._fcgiParams(sock, requestId, params)

    fake = Fake(FCGIApp)
    app = Mine(connect="/nowhere")
    app._getConnection = lambda: fake.theirs
    fake.answer(HEAD)
    call(app)
    params, _ = fake.request()
    assert (params["SCRIPT_FILENAME"], params["EXTRA"]) == ("/x.php", "1")
    fake.ours.close()


def test_a_program_may_speak_for_itself_with_the_records_of_the_module(fcgi):
    """Subclasses replace ``__call__`` and take these names from the client's module."""
    from sapi_adapters.flup.client import fcgi_app

    begin = fcgi_app.Record(fcgi_app.FCGI_BEGIN_REQUEST, 1)
    begin.contentData = bytes((0, fcgi_app.FCGI_RESPONDER, 0, 0, 0, 0, 0, 0))
    begin.contentLength = len(begin.contentData)
    begin.write(fcgi.theirs)
    fcgi.app._fcgiParams(fcgi.theirs, 1, {"A": "b"})
    fcgi.app._fcgiParams(fcgi.theirs, 1, {})
    fcgi.answer(b"out")
    answer = fcgi_app.Record()
    answer.read(fcgi.theirs)
    assert (answer.type, answer.contentData) == (fcgi_app.FCGI_STDOUT, b"out")
    events = fastcgi.Connection().receive_data(fcgi.ours.recv(4096))
    assert events[0].request.params == {"A": "b"}
    assert fcgi_app.decode_pair(fcgi_app.encode_pair(b"a", b"b")) == (4, (b"a", b"b"))
    with pytest.raises(AttributeError):
        fcgi_app.nonesuch  # noqa: B018 - raises


def test_a_netstring():
    assert encodeNetstring(b"hello") == b"5:hello,"


# -- real servers ---------------------------------------------------------------------------------

TARGET = """
import sys, time

def wsgi(environ, start_response):
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body = environ["wsgi.input"].read(length)
    print("heard", environ["PATH_INFO"], file=environ["wsgi.errors"])
    start_response("201 Created", [("Content-Type", "text/plain"), ("X-Sapi", sapi())])
    yield environ["REQUEST_METHOD"].encode() + b" " + environ["PATH_INFO"].encode("latin-1")
    yield b"?" + environ["QUERY_STRING"].encode() + b" "
    yield body[::-1]

def sapi():
    from sapi_adapters import sapi_name
    return sapi_name()
"""


@pytest.mark.parametrize(
    ("kind", "sapi"),
    [
        (FCGIApp, "fcgi-threaded"),
        (FCGIApp, "fcgi-prefork"),
        (SCGIApp, "scgi-threaded"),
        (SCGIApp, "scgi-prefork"),
    ],
)
def test_our_own_servers_answer(kind, sapi, tmp_path, call):
    (tmp_path / "client_target.py").write_text(TARGET)
    with serving(tmp_path, "client_target:wsgi", "--sapi", sapi, path=tmp_path) as served:
        app = kind(connect=served.address)
        for body in (b"", b"abc", bytes(range(256)) * 4000):
            got = call(
                app,
                **{
                    "REQUEST_METHOD": "POST",
                    "CONTENT_LENGTH": str(len(body)),
                    "wsgi.input": io.BytesIO(body),
                },
            )
            assert got == b"POST /a b?q=1 " + body[::-1]
            assert call.status == "201 Created"
            assert dict(call.headers)["x-sapi"] == sapi
        if kind is FCGIApp:
            with app._getConnection() as sock:
                values = app._fcgiGetValues(sock, ["FCGI_MPXS_CONNS"])
            assert values["FCGI_MPXS_CONNS"] in ("0", "1")


PAGE = """<?php
http_response_code(203);
header('X-Method: ' . $_SERVER['REQUEST_METHOD']);
error_log('caf\u00e9 went wrong');
echo strrev(file_get_contents('php://input'));
"""
POOL = """[global]
daemonize = no
error_log = {folder}/error.log
[www]
listen = {folder}/s
pm = static
pm.max_children = 2
pm.status_path = /status
ping.path = /ping
{user}
"""


@pytest.fixture(scope="module")
def php_fpm(tmp_path_factory) -> Iterator[Path]:
    """The folder of a php-fpm: its socket is ``s``, its page ``page.php``."""
    if not os.access(PHP_FPM, os.X_OK):
        assert not os.environ.get("CI"), f"there is no {PHP_FPM}"
        pytest.skip(f"there is no {PHP_FPM}")
    folder = tmp_path_factory.mktemp("fpm")
    (folder / "page.php").write_text(PAGE)
    user = "user = root\ngroup = root" if os.geteuid() == 0 else ""
    (folder / "fpm.conf").write_text(POOL.format(folder=folder, user=user))
    command = [PHP_FPM, "-n", "-F", "-y", str(folder / "fpm.conf")]
    if os.geteuid() == 0:
        command.append("-R")
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder
        )
    try:
        log = folder / "error.log"
        until(
            lambda: (
                "ready to handle" in (log.read_text() if log.exists() else "")
                or process.poll() is not None
            ),
            what="php-fpm",
        )
        assert process.poll() is None, (folder / "output").read_text()
        yield folder
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize("size", [0, 10, 300_000])
def test_php_fpm_answers(php_fpm, call, size):
    class Php(FCGIApp):
        _environPrefixes = [*FCGIApp._environPrefixes, "SCRIPT_"]  # noqa: RUF012 - as flup's

    body = os.urandom(size)
    errors = io.StringIO()
    got = call(
        Php(connect=str(php_fpm / "s")),
        **{
            "REQUEST_METHOD": "POST",
            "CONTENT_TYPE": "application/octet-stream",
            "CONTENT_LENGTH": str(size),
            "SCRIPT_NAME": "/page.php",
            "SCRIPT_FILENAME": str(php_fpm / "page.php"),
            "PATH_INFO": "",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": errors,
        },
    )
    assert got == body[::-1]
    assert call.status == "203 Non-Authoritative Information"
    assert dict(call.headers)["x-method"] == "POST"
    assert "caf\xe9 went wrong" in errors.getvalue()


def test_a_page_that_php_fpm_has_not_got(php_fpm, call):
    errors = io.StringIO()
    app = FCGIApp(connect=str(php_fpm / "s"), filterEnviron=False)
    path = str(php_fpm / "none.php")
    got = call(app, **{"SCRIPT_FILENAME": path, "wsgi.errors": errors})
    assert (call.status, got) == ("404 Not Found", b"File not found.\n")
    assert "Primary script unknown" in errors.getvalue()


MONITOR = """
import io, json, sys
import sapi_adapters.flup
sapi_adapters.flup.install()
from flup.client.fcgi_app import FCGIApp
import socket
FCGIApp._environPrefixes.extend(("DOCUMENT_", "SCRIPT_"))
def connection(self):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(self._connect)
    return sock
FCGIApp._getConnection = connection
def get(route, query=""):
    env = {
        "CONTENT_LENGTH": "0", "CONTENT_TYPE": "", "DOCUMENT_ROOT": "/",
        "GATEWAY_INTERFACE": "FastCGI/1.1", "QUERY_STRING": query, "REQUEST_METHOD": "GET",
        "REQUEST_URI": route, "SCRIPT_FILENAME": route, "SCRIPT_NAME": route,
        "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.errors": io.StringIO(), "wsgi.input": io.StringIO(),
    }
    return FCGIApp(connect=sys.argv[1])(env, lambda *args, **kwargs: "")[0]
assert get("/ping") == b"pong", get("/ping")
assert json.loads(get("/status", "json"))["total processes"] == 2
"""


def test_a_monitoring_agent_asks_php_fpm_for_its_status(php_fpm):
    """The class changed in place, its connection replaced, the body taken by its index."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", MONITOR, str(php_fpm / "s")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
