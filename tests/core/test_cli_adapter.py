"""The SAPI ``cli``: one request from the command line."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sapi_adapters import ConfigurationError, run
from sapi_adapters.gateways import asgi

ROOT = Path(__file__).resolve().parent.parent.parent


def answering(status: str = "200 OK", *blocks: bytes, headers: Any = ()) -> Any:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response(status, list(headers))
        return list(blocks)

    return application


def typed(application: Any, *request: str, **options: Any) -> tuple[int, bytes]:
    stdout = io.BytesIO()
    return run(application, "cli", request=request, stdout=stdout, **options), stdout.getvalue()


def seen(*request: str, **options: Any) -> dict[str, Any]:
    """Return the environ of a request, with its body under ``"body"``."""
    found: dict[str, Any] = {}

    def application(environ: Any, start_response: Any) -> list[bytes]:
        found.update(environ, body=environ["wsgi.input"].read())
        start_response("200 OK", [])
        return []

    assert typed(application, *request, **options) == (0, b"")
    return found


@pytest.mark.parametrize(
    ("status", "exit_status"),
    [("200 OK", 0), ("204 No Content", 0), ("302 Found", 0), ("399 X", 0), ("400 Bad", 1)]
    + [("404 Not Found", 1), ("500 Broken", 1), ("999 X", 1)],
)
def test_the_exit_status_is_0_below_400(status, exit_status):
    assert typed(answering(status), "/")[0] == exit_status


def test_the_body_is_the_output_and_the_head_with_include():
    application = answering("200 OK", b"a", b"b", headers=[("X-A", "\xe9"), ("X-A", "2")])
    assert typed(application) == (0, b"ab")
    head = b"HTTP/1.1 200 OK\r\nX-A: \xe9\r\nX-A: 2\r\n\r\n"
    assert typed(application, include=True) == (0, head + b"ab")


def test_a_failing_application_is_1_with_its_traceback_on_stderr(capsys):
    def application(environ: Any, start_response: Any) -> Any:
        raise ValueError("boom")

    assert typed(application, "/") == (1, b"500 Internal Server Error\n")
    assert "Traceback" in (errors := capsys.readouterr().err) and "boom" in errors


def test_a_cut_response_is_1(capsys):
    application = answering("200 OK", b"a", headers=[("Content-Length", "9")])
    assert typed(application, "/") == (1, b"a")


@pytest.mark.parametrize(
    ("request_", "options", "wanted"),
    [
        ((), {}, {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "SCRIPT_NAME": ""}),
        (("/a%20b?x=1&y",), {}, {"PATH_INFO": "/a b", "QUERY_STRING": "x=1&y"}),
        (("/a%20b?x=1",), {}, {"REQUEST_URI": "/a%20b?x=1"}),
        (("DELETE", "/x"), {}, {"REQUEST_METHOD": "DELETE", "PATH_INFO": "/x"}),
        (("/é",), {}, {"PATH_INFO": "/\xc3\xa9"}),
        (("/%C3%A9%FF",), {}, {"PATH_INFO": "/\xc3\xa9\xff"}),
        (("//a//b",), {}, {"PATH_INFO": "//a//b", "REQUEST_URI": "//a//b"}),
        (("/a?b?c",), {}, {"QUERY_STRING": "b?c"}),
        (
            ("http://h.example:8080/x?y",),
            {},
            {"SERVER_NAME": "h.example", "SERVER_PORT": "8080", "HTTP_HOST": "h.example:8080"}
            | {"PATH_INFO": "/x", "wsgi.url_scheme": "http"},
        ),
        (("https://h",), {}, {"SERVER_PORT": "443", "wsgi.url_scheme": "https", "PATH_INFO": "/"}),
        (("http://[::1]/",), {}, {"SERVER_NAME": "[::1]", "HTTP_HOST": "[::1]"}),
        (("/",), {"headers": ["X-Y: a b "]}, {"HTTP_X_Y": "a b"}),
        (("/",), {"headers": ["A: 1", "a: 2"]}, {"HTTP_A": "1, 2"}),
        (("/",), {"headers": ["Cookie: a=1", "Cookie: b=2"]}, {"HTTP_COOKIE": "a=1; b=2"}),
        (("/",), {"headers": ["Host: other"]}, {"HTTP_HOST": "other"}),
        (("/",), {"headers": ["Empty:"]}, {"HTTP_EMPTY": ""}),
        (("/",), {"headers": ["Proxy: http://evil/"]}, {"HTTP_PROXY": None}),
        (
            ("/",),
            {"data": "a=1"},
            {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "3", "body": b"a=1"}
            | {"CONTENT_TYPE": "application/x-www-form-urlencoded"},
        ),
        (
            ("PUT", "/"),
            {"data": "é", "headers": ["content-type: text/plain"]},
            {"REQUEST_METHOD": "PUT", "CONTENT_LENGTH": "2", "body": b"\xc3\xa9"}
            | {"CONTENT_TYPE": "text/plain"},
        ),
        (("/",), {"data": ""}, {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "0", "body": b""}),
        ((), {}, {"sapi.name": "cli", "wsgi.run_once": True, "wsgi.multiprocess": False}),
    ],
)
def test_a_request_is_made_of_its_words(request_, options, wanted):
    environ = seen(*request_, **options)
    assert {name: environ.get(name) for name in wanted} == wanted


def test_a_body_may_come_from_a_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"\0\xffdata")
    environ = seen("/", data=f"@{path}")
    assert (environ["body"], environ["CONTENT_LENGTH"]) == (b"\0\xffdata", "6")


@pytest.mark.parametrize(
    ("request_", "options", "message"),
    [
        (("GET", "/", "x"), {}, "more than METHOD TARGET"),
        (("G T", "/"), {}, "no request method"),
        (("", "/"), {}, "no request method"),
        (("x",), {}, "must begin with a slash"),
        (("",), {}, "must begin with a slash"),
        (("ftp://h/",), {}, "must begin with a slash"),
        (("http://h:99999/",), {}, "[Pp]ort"),
        (("http://[::1/",), {}, "IPv6"),
        (("/a\nb",), {}, "control character"),
        (("/a%00b",), {}, "NUL"),
        (("/",), {"headers": ["nothing"]}, "no 'Name: value'"),
        (("/",), {"headers": ["A B: x"]}, "not a token"),
        (("/",), {"headers": ["A: x\ny"]}, "control character"),
        (("/",), {"headers": ["Content-Length: x"]}, "Content-Length"),
        (("/",), {"data": "@/nonexistent"}, "cannot read /nonexistent"),
    ],
)
def test_what_no_client_could_send_is_a_mistake(request_, options, message):
    with pytest.raises(ConfigurationError, match=message):
        typed(answering(), *request_, **options)


def test_an_asgi_application_is_typed_too():
    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            scope["state"]["word"] = b"alive"
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 201})
        await send({"type": "http.response.body", "body": body + scope["state"]["word"]})

    assert typed(application, "/", data="still ", include=True) == (
        0,
        b"HTTP/1.1 201 Created\r\ncontent-length: 11\r\n\r\nstill alive",
    )


def test_driven_by_hand_an_application_that_waits_learns_that_it_is_alone(monkeypatch):
    monkeypatch.setattr(asgi, "_LOOPS", frozenset())

    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await receive()
        await receive()

    assert typed(application, "/")[0] == 1


class Gone(io.RawIOBase):
    """A pipe whose reader has gone, found out at writing or at flushing."""

    def __init__(self, when: str) -> None:
        self.when = when

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.when == "write":
            raise BrokenPipeError
        return len(data)

    def flush(self) -> None:
        if self.when == "flush" and not self.closed:
            self.when = ""
            raise BrokenPipeError


@pytest.mark.parametrize("when", ["write", "flush"])
def test_a_reader_that_has_gone_ends_the_response(when):
    closed: list[bool] = []

    class Endless:
        def __iter__(self) -> Any:
            while True:
                yield b"x"

        def close(self) -> None:
            closed.append(True)

    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return Endless()

    assert run(application, "cli", stdout=Gone(when)) == 1
    assert closed == [True]


APP = """
import sys
def app(environ, start_response):
    print("printed", flush=True)
    environ["wsgi.errors"].write("logged\\n")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["wsgi.input"].read() or b"nothing"]
"""


@pytest.mark.parametrize(
    ("words", "stdin", "output"),
    [
        (("GET", "/"), b"", b"nothing"),
        (("/", "-d", "@-"), b"from stdin", b"from stdin"),
        (("/", "-d", "text"), b"", b"text"),
        (("/", "-d", "@/dev/stdin"), b"a pipe", b"a pipe"),
        (("/", "-d", "@body"), b"", b"a file"),
        (
            ("/", "-i", "-H", "A: b"),
            b"",
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 7\r\n\r\nnothing",
        ),
    ],
)
def test_the_command_writes_the_response_only(tmp_path, words, stdin, output):
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "body").write_bytes(b"a file")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "sapi_adapters", "app:app", "--sapi", "cli", *words],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, output), done.stderr.decode()
    assert sorted(done.stderr.split()) == [b"logged", b"printed"]
