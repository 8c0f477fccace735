"""The applications of the comparison: one for each habit that programs for flup have.

The request header ``Test-App`` names the one that answers.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

Environ = dict[str, Any]
Start = Callable[..., Any]

PLAIN = [("Content-Type", "text/plain")]
PLACE: dict[str, Any] = {}
APPLICATIONS: dict[str, Callable[[Environ, Start], Any]] = {}


def application(environ: Environ, start_response: Start) -> Any:
    """Let the application answer that the request asks for."""
    return APPLICATIONS[environ["HTTP_TEST_APP"]](environ, start_response)


def app(function: Callable[[Environ, Start], Any]) -> Callable[[Environ, Start], Any]:
    """Enter *function* under its name."""
    APPLICATIONS[function.__name__] = function
    return function


def answers(name: str, result: Any, status: Any = "200 OK", headers: Any = None) -> None:
    """Enter an application that returns *result* under *name*."""

    def function(environ: Environ, start_response: Start) -> Any:
        start_response(status, list(PLAIN) if headers is None else headers)
        return result() if callable(result) else result

    APPLICATIONS[name] = function


# -- what is returned

answers("one_block", [b"hello"])
answers("two_blocks", [b"hello, ", b"world"])
answers("tuple_of_one", (b"hello",))
answers("generator", lambda: iter((b"hello, ", b"world")))
answers("empty_block", [b""])
answers("no_block", [])
answers("empty_blocks_first", [b"", b"", b"late"])
answers("str_block", ["hello"])
answers("str_latin_1", ["caf\xe9"])
answers("str_beyond_latin_1", ["snow\u2603"])
answers("str_result", "abc")
answers("number_block", [1])
answers("none_result", lambda: None)
answers("large", [bytes(range(256)) * 1024])
answers("large_generator", lambda: (b"x" * 50_000 for _ in range(8)))

# -- the head

answers("status_bytes", [b"hello"], b"200 OK")
answers("headers_bytes", [b"hello"], "200 OK", [(b"Content-Type", b"text/plain")])
answers("head_bytes", ["hello"], b"201 Created", [(b"X-One", "1"), ("X-Two", b"2")])
answers("status_latin_1", [b"hello"], "200 Tr\xe8s bien")
answers("status_without_reason", [b"hello"], "200")
answers("status_empty_reason", [b"hello"], "200 ")
answers("status_no_number", [b"hello"], "Okay then")
answers("status_099", [b"hello"], "099 Odd")
answers("status_none", [b"hello"], None)
answers("header_latin_1", [b"hello"], "200 OK", [*PLAIN, ("X-Name", "caf\xe9")])
answers("header_beyond_latin_1", [b"hello"], "200 OK", [*PLAIN, ("X-Name", "\u2603")])
answers("header_number", [b"hello"], "200 OK", [*PLAIN, ("X-Number", 5)])
answers("header_with_lines", [b"hello"], "200 OK", [*PLAIN, ("X-Two", "a\r\nX-Injected: b")])
answers("header_with_nul", [b"hello"], "200 OK", [*PLAIN, ("X-Nul", "a\x00b")])
answers("header_name_with_colon", [b"hello"], "200 OK", [*PLAIN, ("X-A: b\r\nX-C", "d")])
answers("headers_tuple", [b"hello"], "200 OK", (("Content-Type", "text/plain"),))
answers("headers_many", [b"hello"], "200 OK", [*PLAIN, *(("X-Many", str(n)) for n in range(60))])
answers("cookies", [b"hello"], "200 OK", [*PLAIN, ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
answers("hop_by_hop", [b"hello"], "200 OK", [*PLAIN, ("Connection", "close")])
answers("length_right", [b"hel", b"lo"], "200 OK", [*PLAIN, ("Content-Length", "5")])
answers("length_too_short", [b"hello"], "200 OK", [*PLAIN, ("Content-Length", "3")])
answers("length_too_long", [b"hello"], "200 OK", [*PLAIN, ("Content-Length", "9")])
answers("no_content", [], "204 No Content", [])
answers("no_content_with_block", [b"hello"], "204 No Content", [])
answers("not_modified", [], "304 Not Modified", [("ETag", '"1"')])
answers("redirect", [], "302 Found", [("Location", "http://example.org/there")])
answers("local_redirect", [], "302 Found", [("Location", "/there")])
answers("not_found", [b"nothing"], "404 Not Found")
answers("teapot", [b"short and stout"], "418 I'm a teapot")


@app
def headers_changed_later(environ: Environ, start_response: Start) -> Iterator[bytes]:
    headers = list(PLAIN)
    start_response("200 OK", headers)
    headers.append(("X-Late", "1"))
    yield b"hello"


@app
def no_start(environ: Environ, start_response: Start) -> Any:
    return [b"hello"]


@app
def late_start(environ: Environ, start_response: Start) -> Iterator[bytes]:
    yield b""
    start_response("200 OK", list(PLAIN))
    yield b"hello"


@app
def started_twice(environ: Environ, start_response: Start) -> Any:
    start_response("200 OK", list(PLAIN))
    start_response("201 Created", list(PLAIN))
    return [b"hello"]


# -- write()


@app
def write(environ: Environ, start_response: Start) -> Any:
    start_response("200 OK", list(PLAIN))(b"hello")
    return []


@app
def write_str(environ: Environ, start_response: Start) -> Any:
    start_response("200 OK", list(PLAIN))("caf\xe9")
    return []


@app
def write_and_block(environ: Environ, start_response: Start) -> Any:
    out = start_response("200 OK", list(PLAIN))
    out(b"hello, ")
    out(b"")
    return [b"world"]


@app
def write_empty(environ: Environ, start_response: Start) -> Any:
    start_response("200 OK", list(PLAIN))(b"")
    return []


# -- errors


@app
def raises(environ: Environ, start_response: Start) -> Any:
    raise ValueError("beside: no answer")


@app
def raises_after_start(environ: Environ, start_response: Start) -> Any:
    start_response("200 OK", list(PLAIN))
    raise ValueError("beside: started")


@app
def raises_in_blocks(environ: Environ, start_response: Start) -> Iterator[bytes]:
    start_response("200 OK", list(PLAIN))
    yield b"half"
    raise ValueError("beside: half")


@app
def raises_exit(environ: Environ, start_response: Start) -> Any:
    raise SystemExit("beside: leaving")


@app
def raises_oserror(environ: Environ, start_response: Start) -> Any:
    raise ConnectionRefusedError("beside: a database is away")


@app
def raises_epipe(environ: Environ, start_response: Start) -> Any:
    raise BrokenPipeError(32, "beside: a pipe of the application")


class Closed:
    """Blocks with a close()."""

    def __init__(self, errors: Any, blocks: Iterator[bytes]) -> None:
        self.errors, self.blocks = errors, blocks

    def __iter__(self) -> Iterator[bytes]:
        return self.blocks

    def close(self) -> None:
        self.errors.write("beside: closed\n")


@app
def closes(environ: Environ, start_response: Start) -> Any:
    start_response("200 OK", list(PLAIN))
    return Closed(environ["wsgi.errors"], iter((b"hello",)))


@app
def closes_after_error(environ: Environ, start_response: Start) -> Any:
    return Closed(environ["wsgi.errors"], raises_in_blocks(environ, start_response))


@app
def error_replaced(environ: Environ, start_response: Start) -> Any:
    start_response("200 OK", list(PLAIN))
    try:
        raise ValueError("beside: replaced")
    except ValueError:
        start_response("500 Mine", [("X-Mine", "1")], sys.exc_info())
    return [b"my own page"]


@app
def error_too_late(environ: Environ, start_response: Start) -> Iterator[bytes]:
    start_response("200 OK", list(PLAIN))
    yield b"half"
    try:
        raise KeyError("beside: too late")
    except KeyError as error:
        try:
            start_response("500 Mine", list(PLAIN), sys.exc_info())
        except KeyError as again:
            yield b", the same object: " + str(again is error).encode()


# -- wsgi.errors


@app
def complains(environ: Environ, start_response: Start) -> Any:
    errors = environ["wsgi.errors"]
    errors.write("beside: one\n")
    errors.writelines(["beside: two\n", "beside: three\n"])
    errors.flush()
    start_response("200 OK", list(PLAIN))
    return [b"complained"]


@app
def prints_to_errors(environ: Environ, start_response: Start) -> Any:
    print("beside: printed", 5, file=environ["wsgi.errors"])
    start_response("200 OK", list(PLAIN))
    return [b"complained"]


@app
def complains_without_end(environ: Environ, start_response: Start) -> Any:
    environ["wsgi.errors"].write("beside: no end of line")
    start_response("200 OK", list(PLAIN))
    return [b"complained"]


# -- the request


@app
def environ(environ: Environ, start_response: Start) -> Any:
    """Answer with all variables; objects by their kind."""
    seen = {}
    for name, value in environ.items():
        plain = isinstance(value, (str, bool, tuple))
        seen[name] = repr(value) if plain else "an object"
    start_response("200 OK", list(PLAIN))
    return [json.dumps(seen).encode()]


@app
def pid(environ: Environ, start_response: Start) -> Any:
    start_response("200 OK", list(PLAIN))
    return [str(os.getpid()).encode()]


@app
def slow(environ: Environ, start_response: Start) -> Any:
    """Work for longer than any time-out of the comparison."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        time.sleep(0.01)
    start_response("200 OK", list(PLAIN))
    return [b"at last"]


_both = threading.Barrier(2)


@app
def together(environ: Environ, start_response: Start) -> Any:
    """Tell whether two requests ran at the same time."""
    try:
        _both.wait(0.5 if not environ["wsgi.multithread"] else 20)
        said = b"together"
    except threading.BrokenBarrierError:
        _both.reset()
        said = b"alone"
    start_response("200 OK", list(PLAIN))
    return [said]


def reads(name: str, read: Callable[[Any], Any]) -> None:
    """Enter an application that answers with the repr of what *read* gets from the body."""

    def function(environ: Environ, start_response: Start) -> Any:
        try:
            said = repr(read(environ["wsgi.input"]))
        except OSError:
            said = "OSError"
        start_response("200 OK", list(PLAIN))
        return [said.encode()]

    APPLICATIONS[name] = function


def _until_empty(read: Callable[[], bytes]) -> list[bytes]:
    parts = []
    while part := read():
        parts.append(part)
    return parts


reads("body", lambda body: body.read())
reads("body_length", lambda body: len(body.read()))
reads("body_in_parts", lambda body: _until_empty(lambda: body.read(4)))
reads("body_negative", lambda body: body.read(-1))
reads("body_lines", lambda body: _until_empty(body.readline))
reads("body_lines_limited", lambda body: _until_empty(lambda: body.readline(4)))
reads("body_readlines", lambda body: body.readlines())
reads("body_readlines_hint", lambda body: body.readlines(3))
reads("body_iterated", lambda body: list(body))
reads("body_read_none", lambda body: body.read(None))
reads("body_past_the_end", lambda body: (body.read(), body.read(), body.read(1), body.readline()))
reads("body_type", lambda body: type(body.read()).__name__)


@app
def body_announced(environ: Environ, start_response: Start) -> Any:
    """Read what is announced and not more, as is needed where the body's end is not seen."""
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"] or 0))
    start_response("200 OK", list(PLAIN))
    return [str(len(body)).encode()]


@app
def body_unread(environ: Environ, start_response: Start) -> Any:
    start_response("200 OK", list(PLAIN))
    return [b"did not look"]


@app
def echo(environ: Environ, start_response: Start) -> Iterator[bytes]:
    start_response("200 OK", list(PLAIN))
    while block := environ["wsgi.input"].read(1000):
        yield block
