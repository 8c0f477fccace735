"""The conformance table: one list of cases that every SAPI is put through, ours or anybody's.

Here live the table, the two applications that it talks to (`wsgi_app`, `asgi_app`) and the three
types in between (`Request`, `Response`, `Case`); nothing that starts a server.  The author of an
adapter serves one of the applications and supplies a function that sends a request to it::

    from sapi_adapters.testing import Request, Response, cases

    def send(request: Request) -> Response:
        ...

    for case in cases(interface="wsgi"):
        case.run(send)

A case that does not hold raises `Failure`.  Both applications answer the same paths, so most cases
are one row for both interfaces.  The checks never use `assert`: they hold under ``python -O`` too.

docs/testing-an-adapter.md is the guide to it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    Scope = MutableMapping[str, Any]
    Event = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Event]]
    SendEvent = Callable[[Event], Awaitable[None]]

__all__ = [
    "NEEDS",
    "Case",
    "Failure",
    "Request",
    "Response",
    "Trial",
    "asgi_app",
    "cases",
    "cgi_environ",
    "cgi_response",
    "pattern",
    "wsgi_app",
]

Headers = Sequence[tuple[str, str]]


class Failure(AssertionError):
    """A case did not hold; the message says what came and what should have come."""


class Request(NamedTuple):
    """One HTTP request, as a client would send it.

    `target` is the request target as it stands in the request line, still encoded.  The sender adds
    `Host` unless `headers` hold one, and `Content-Length` unless `body` is None; ``b""`` means a
    body of length 0, announced as such.
    """

    method: str = "GET"
    target: str = "/"
    headers: Headers = ()
    body: bytes | None = None


class Response(NamedTuple):
    """One HTTP response, as a client saw it; `headers` in the order in which they came."""

    status: int
    reason: str
    headers: Headers
    body: bytes

    def values(self, name: str) -> list[str]:
        """The values of every header called `name`, whatever its case, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    @property
    def report(self) -> dict[str, Any]:
        """What the application saw of the request: the JSON that `/report` answers with."""
        same("status", self.status, 200, self)
        try:
            report = json.loads(self.body)
        except ValueError:
            report = None
        if not isinstance(report, dict):
            raise Failure(f"no report of the application: {_brief(self.body)}")
        return report


Send = Callable[[Request], Response]


class Trial(NamedTuple):
    """What a check may know about the run it is part of."""

    send: Send
    interface: str
    mount: str
    sapi_name: str | None


class Case(NamedTuple):
    """One row of the table: a request and a check of what comes back.

    `needs` names what the way to the application must be able to do (the keys of `NEEDS`); most
    cases need nothing.  `interface` is ``"wsgi"``, ``"asgi"`` or ``"both"`` in the table, and the
    one that was asked for in what `cases()` returns.
    """

    name: str
    request: Request
    check: Callable[[Response, Trial], None]
    needs: frozenset[str] = frozenset()
    interface: str = "both"

    def run(self, send: Send, *, mount: str = "", sapi_name: str | None = None) -> None:
        """Send the request and check the response.

        `mount` is the path under which the application is served (``""`` for the root, else
        ``"/mount"``): it is put before every target and expected as SCRIPT_NAME or root_path.
        `sapi_name` is the name that the application should see; None accepts any name.

        Raises `Failure`, or whatever `send` raises.
        """

        def send_mounted(request: Request) -> Response:
            return send(request._replace(target=mount + request.target))

        trial = Trial(send_mounted, self.interface, mount, sapi_name)
        self.check(send_mounted(self.request), trial)


# What a front end or a protocol may by its nature be unable to carry.  Cases are marked with these
# so that a runner can leave out a whole group, with the reason given here or a better one.
NEEDS = {
    "mount": "the application is served below a path, not at the root",
    "unknown-method": "methods that no standard names reach the application",
    "options-method": "OPTIONS reaches the application instead of being answered on the way",
    "custom-reason": "the reason phrase of the application reaches the client",
    "content-length": "a Content-Length set by the application reaches the client",
    "repeated-headers": "request headers of one name that come twice both arrive",
    "non-ascii-headers": "request header values outside ASCII are passed",
    "authorization": "the Authorization header is passed to the application",
    "any-path": "every encoded octet may stand in a path",
    "http-client": "requests come in over HTTP, from a client with an address",
    "files": "all processes that serve the application share one directory for temporary files",
    "lifespan": "the ASGI lifespan protocol is run, with state",
    "sapi-name": "the application is told which SAPI it runs under",
}


# -- checks -----------------------------------------------------------------------------------


def same(what: str, got: object, wanted: object, response: Response | None = None) -> None:
    """Raise `Failure` unless `got` equals `wanted`; long values are cut in the message only."""
    if got != wanted or type(got) is not type(wanted):
        message = f"{what}: {_brief(got)}, should be {_brief(wanted)}"
        if response is not None:
            message += f"; the response was {response.status} {response.reason!r} with "
            message += f"{_brief(list(response.headers))} and {_brief(response.body)}"
        raise Failure(message)


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 400 else f"{text[:300]}...{text[-60:]} ({len(text)} characters)"


def pattern(length: int) -> bytes:
    """`length` octets of every value; the period is a prime, so that any shift or loss shows."""
    block = bytes(range(256)) + b"\r\n\0\xff\r\n\r\n" + b"-----\n"
    block = block[:263]
    return (block * (length // len(block) + 1))[:length]


Check = Callable[[Response, Trial], None]


def _reports(**wanted: object) -> Check:
    """The application saw what `wanted` says, and the mount as it should be."""

    def check(response: Response, trial: Trial) -> None:
        report = response.report
        same("mount", report["mount"], trial.mount, response)
        for key, value in wanted.items():
            same(key, report[key], value)

    return check


def _saw_header(name: str, value: str) -> Check:
    def check(response: Response, trial: Trial) -> None:
        values = [v for n, v in response.report["headers"] if n == name]
        same(f"request header {name}", values, [value])

    return check


def _answers(
    status: int = 200,
    body: bytes | None = None,
    reason: str | None = None,
    **headers: list[str],
) -> Check:
    """The response has this status, body, reason, and exactly these values of these headers."""

    def check(response: Response, trial: Trial) -> None:
        same("status", response.status, status, response)
        if body is not None:
            same("body length", len(response.body), len(body), response)
            same("body", response.body, body)
        if reason is not None:
            same("reason", response.reason, reason)
        for key, values in headers.items():
            name = key.replace("_", "-")
            same(f"response header {name}", response.values(name), values, response)
        for value in response.values("content-length"):
            if response.body:
                same("content-length", value, str(len(response.body)), response)

    return check


def _noted(path: str, method: str = "GET") -> Check:
    """A request to `path` leaves a note; a later request finds it, in whatever process."""

    def check(response: Response, trial: Trial) -> None:
        same("status", response.status, 200, response)
        token = os.urandom(12).hex()
        first = trial.send(Request(method, f"{path}?{token}"))
        same("status", first.status, 200, first)
        # The application may finish after the client has read the whole response.
        deadline = time.monotonic() + 10
        while True:
            answer = trial.send(Request(target=f"/noted?{token}"))
            same("status", answer.status, 200, answer)
            if answer.body == b"yes":
                return
            if time.monotonic() > deadline:
                raise Failure(f"{path} left no note within ten seconds")
            time.sleep(0.02)

    return check


def _body(length: int, **more: object) -> Check:
    data = pattern(length)
    digest = hashlib.sha256(data).hexdigest()
    return _reports(body_length=length, body_sha256=digest, content_length=str(length), **more)


# -- what both applications answer ------------------------------------------------------------


class _Answer(NamedTuple):
    """A response that does not depend on the interface."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    chunks: Iterable[bytes]


_TEXT = ("Content-Type", "text/plain; charset=utf-8")
_OCTETS = ("Content-Type", "application/octet-stream")
_SMALL = b"sixteen octets.\n"
_LARGE = 1 << 20


def _text(body: bytes | str, *headers: tuple[str, str]) -> _Answer:
    data = body.encode() if isinstance(body, str) else body
    return _Answer(200, "OK", [_TEXT, ("Content-Length", str(len(data))), *headers], [data])


def _chunks(*chunks: bytes) -> _Answer:
    # A generator, so that no server may count on len().
    return _Answer(200, "OK", [_TEXT], (chunk for chunk in chunks))


def _status(status: int, reason: str, *headers: tuple[str, str]) -> _Answer:
    body = f"{status}\n".encode()
    return _Answer(status, reason, [_TEXT, ("Content-Length", str(len(body))), *headers], [body])


_PLAIN: dict[str, Callable[[], _Answer]] = {
    "/": lambda: _text("root\n"),
    "/small": lambda: _text(_SMALL),
    "/status/204": lambda: _Answer(204, "No Content", [("X-Kept", "yes")], []),
    "/status/299": lambda: _status(299, "Quite Fine"),
    "/status/304": lambda: _Answer(304, "Not Modified", [("ETag", '"one"')], []),
    "/status/404": lambda: _status(404, "Not Found"),
    "/status/410": lambda: _status(410, "Gone"),
    "/status/418": lambda: _status(418, "I'm a teapot"),
    "/status/500": lambda: _status(500, "Internal Server Error"),
    "/status/503": lambda: _status(503, "Service Unavailable", ("Retry-After", "7")),
    "/redirect/path": lambda: _status(302, "Found", ("Location", "/small?a=1")),
    "/redirect/url": lambda: _status(301, "Moved", ("Location", "http://example.test/x?y=%20")),
    "/redirect/303": lambda: _status(303, "See Other", ("Location", "/small")),
    "/redirect/308": lambda: _status(308, "Permanent Redirect", ("Location", "/small")),
    "/cookies": lambda: _text(
        "cookies\n",
        ("Set-Cookie", "a=1; Path=/"),
        ("Set-Cookie", "b=2; Expires=Wed, 21 Oct 2065 07:28:00 GMT"),
        ("Set-Cookie", "c=3; HttpOnly"),
    ),
    "/headers": lambda: _text(
        "headers\n",
        ("X-First", "one, two"),
        ("X-Colon", "a: b: c"),
        ("X-Long", "l" * 2000),
        ("Cache-Control", "no-store"),
        ("ETag", '"tagged"'),
    ),
    "/type": lambda: _Answer(200, "OK", [("Content-Type", "image/x-none")], [b"\x00\xff"]),
    "/length/none": lambda: _chunks(b"one ", b"two ", b"three\n"),
    "/length/zero": lambda: _Answer(200, "OK", [_TEXT, ("Content-Length", "0")], []),
    "/length/more": lambda: _Answer(200, "OK", [_TEXT, ("Content-Length", "5")], [b"12345678"]),
    "/chunks/nothing": lambda: _Answer(200, "OK", [_TEXT], []),
    "/chunks/one-empty": lambda: _Answer(200, "OK", [_TEXT], [b""]),
    "/chunks/between": lambda: _chunks(b"one ", b"", b"two ", b"", b"", b"three\n", b""),
    "/chunks/leading": lambda: _chunks(b"", b"", b"late\n"),
    "/chunks/many": lambda: _chunks(*(b"%d\n" % number for number in range(1000))),
    "/large/one": lambda: _Answer(200, "OK", [_OCTETS], [pattern(_LARGE)]),
    "/large/pieces": lambda: _Answer(200, "OK", [_OCTETS], _pieces(pattern(_LARGE), 10007)),
    "/large/announced": lambda: _Answer(
        200, "OK", [_OCTETS, ("Content-Length", str(_LARGE))], _pieces(pattern(_LARGE), 65536)
    ),
}


def _pieces(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def _print_to_stdout() -> None:
    print("stdout: printed by the application")  # noqa: T201 - what the case is about
    if sys.stdout is not None:
        sys.stdout.flush()
    with contextlib.suppress(OSError):  # Descriptor 1 may be closed: nothing leaks through that.
        os.write(1, b"stdout: written to the descriptor by the application\n")


def _note_path(query: str) -> str:
    import tempfile

    if not re.fullmatch("[0-9a-f]{24}", query):
        raise ValueError("a note's name is 24 hexadecimal digits")
    return os.path.join(tempfile.gettempdir(), f"sapi-adapters-note-{query}")


def _leave_note(query: str) -> None:
    os.close(os.open(_note_path(query), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _take_note(query: str) -> _Answer:
    try:
        os.unlink(_note_path(query))
    except FileNotFoundError:
        return _text("no")
    return _text("yes")


def _sapi_name() -> str:
    from sapi_adapters import sapi_name

    return sapi_name()


def _json(value: object) -> _Answer:
    data = json.dumps(value).encode()
    return _Answer(
        200,
        "OK",
        [("Content-Type", "application/json"), ("Content-Length", str(len(data)))],
        [data],
    )


# -- the WSGI application ---------------------------------------------------------------------


class _Noting:
    """An iterable of one chunk whose close() leaves a note."""

    def __init__(self, query: str, chunks: Iterable[bytes]) -> None:
        self.query = query
        self.chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.chunks)

    def close(self) -> None:
        _leave_note(self.query)


def wsgi_app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The table's application, by PEP 3333."""
    path = environ.get("PATH_INFO", "")
    route = _WSGI_ROUTES.get(path)
    if route is not None:
        return route(environ, start_response)
    if path in _PLAIN:
        return _start(start_response, _PLAIN[path]())
    if path == "" or path == "/report" or path.startswith("/report/"):
        return _start(start_response, _json(_wsgi_report(environ)))
    return _start(start_response, _status(404, "Not Found"))


def _start(start_response: StartResponse, answer: _Answer) -> Iterable[bytes]:
    start_response(f"{answer.status} {answer.reason}", answer.headers)
    return answer.chunks


def _read_input(environ: WSGIEnvironment) -> bytes:
    stream = environ["wsgi.input"]
    blocks = []
    while block := stream.read(65536):
        blocks.append(block)
    return b"".join(blocks)


def _wsgi_report(environ: WSGIEnvironment) -> dict[str, object]:
    body = _read_input(environ)
    headers = [
        (key[5:].lower().replace("_", "-"), value)
        for key, value in environ.items()
        if key.startswith("HTTP_")
    ]
    protocol = environ["SERVER_PROTOCOL"]
    return {
        "method": environ["REQUEST_METHOD"],
        "mount": environ.get("SCRIPT_NAME", ""),
        "path": environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace"),
        "query": environ.get("QUERY_STRING", ""),
        "headers": headers,
        "content_type": environ.get("CONTENT_TYPE") or None,
        "content_length": environ.get("CONTENT_LENGTH") or None,
        "body_length": len(body),
        "body_sha256": hashlib.sha256(body).hexdigest(),
        "scheme": environ["wsgi.url_scheme"],
        "http_version": protocol[5:] if protocol.startswith("HTTP/") else protocol,
        "client": environ.get("REMOTE_ADDR"),
        "server_port": environ["SERVER_PORT"],
        "http_proxy": os.environ.get("HTTP_PROXY"),
        "environ": {key: value for key, value in environ.items() if isinstance(value, str)},
        "types": {key: type(value).__name__ for key, value in environ.items()},
        "is_dict": type(environ) is dict,
        "version": list(environ["wsgi.version"]),
    }


def _wsgi_readline(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    stream = environ["wsgi.input"]
    lines = [stream.readline(), stream.readline(3), stream.readline(), stream.readline()]
    lines += [stream.readline(), stream.readline()]
    return _start(start_response, _text(b"|".join(lines)))


def _wsgi_readlines(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    lines = environ["wsgi.input"].readlines()
    return _start(start_response, _text(b"|".join(lines)))


def _wsgi_iterate(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return _start(start_response, _text(b"|".join(environ["wsgi.input"])))


def _wsgi_past_end(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    stream = environ["wsgi.input"]
    got = [
        stream.read(1000),
        stream.read(1000),
        stream.read(),
        stream.read(0),
        stream.readline(),
        b"".join(stream.readlines()),
    ]
    return _start(start_response, _text(b"|".join(got)))


def _wsgi_read_all(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return _start(start_response, _text(environ["wsgi.input"].read()))


def _wsgi_read_pieces(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    stream = environ["wsgi.input"]
    got = [stream.read(1), stream.read(2), stream.readline(), stream.read(3), stream.read(-1)]
    return _start(start_response, _text(b"|".join(got)))


def _wsgi_write(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    write = start_response("200 OK", [_TEXT])
    write(b"written ")
    write(b"")
    write(b"twice\n")
    return []


def _wsgi_write_and_iterate(
    environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]:
    write = start_response("200 OK", [_TEXT])
    write(b"written, ")
    return [b"then ", b"returned\n"]


def _wsgi_exc_info(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [_TEXT, ("X-Replaced", "no")])
    try:
        raise ValueError("replaces the response that was begun")
    except ValueError:
        start_response("503 Replaced", [_TEXT], sys.exc_info())
    return [b"replaced\n"]


def _wsgi_exc_info_empty(
    environ: WSGIEnvironment, start_response: StartResponse
) -> Iterator[bytes]:
    # An empty chunk must not send the head, so that the response can still be replaced.
    start_response("200 OK", [_TEXT])
    yield b""
    try:
        raise ValueError("replaces the response after an empty chunk")
    except ValueError:
        start_response("503 Replaced", [_TEXT], sys.exc_info())
    yield b"replaced\n"


def _wsgi_start_twice(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [_TEXT])
    try:
        start_response("200 Again", [_TEXT])
    except Exception:
        return [b"refused\n"]
    return [b"accepted\n"]


def _wsgi_lazy(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [_TEXT])
    yield b"started "
    yield b"late\n"


def _wsgi_close(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    answer = _text("closing\n")
    return _Noting(environ["QUERY_STRING"], _start(start_response, answer))


def _wsgi_noted(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return _start(start_response, _take_note(environ["QUERY_STRING"]))


def _wsgi_file(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    import tempfile

    file = tempfile.TemporaryFile()  # noqa: SIM115 - the server closes it
    file.write(pattern(100_000))
    file.seek(10)  # A wrapper begins at the current offset.
    start_response("200 OK", [_OCTETS])
    return _wrap(environ, file)


def _wsgi_file_like(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    import io

    start_response("200 OK", [_OCTETS])
    return _wrap(environ, io.BytesIO(pattern(100_000)))


def _wrap(environ: WSGIEnvironment, file: Any) -> Iterable[bytes]:
    wrapper = environ.get("wsgi.file_wrapper")
    if wrapper is None:  # PEP 3333 leaves it to the server to offer one.
        return iter(lambda: file.read(8192), b"")
    wrapped: Iterable[bytes] = wrapper(file, 8192)
    return wrapped


def _wsgi_raise(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    raise RuntimeError("raised on purpose, before start_response")


def _wsgi_raise_late(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [_TEXT])
    yield b""
    raise RuntimeError("raised on purpose, before the first octet")


def _wsgi_silent(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return [b"no start_response"]


def _wsgi_bad_header(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [_TEXT, ("X-Split", "a\r\nX-Injected: yes")])
    return [b"sent\n"]


def _wsgi_bad_status(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK\r\nX-Injected: yes", [_TEXT])
    return [b"sent\n"]


def _wsgi_hop_by_hop(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [_TEXT, ("Transfer-Encoding", "chunked")])
    return [b"0\r\n\r\n"]


def _wsgi_stdout(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    _print_to_stdout()
    return _start(start_response, _text(_SMALL))


def _wsgi_errors(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    errors = environ["wsgi.errors"]
    errors.write("wsgi.errors: written by the application\n")
    errors.writelines(["wsgi.errors: one\n", "wsgi.errors: two \u2713\n"])
    errors.flush()
    return _start(start_response, _text("written\n"))


def _wsgi_name(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    names = {"function": _sapi_name(), "request": environ.get("sapi.name")}
    return _start(start_response, _json(names))


def _wsgi_leak(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    leaked = "sapi_adapters.testing.leak" in environ
    environ["sapi_adapters.testing.leak"] = "left by an earlier request"
    environ["QUERY_STRING"] = "left by an earlier request"
    return _start(start_response, _text("leaked\n" if leaked else "fresh\n"))


def _wsgi_validated(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    from wsgiref.validate import validator

    def inner(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        data = environ["wsgi.input"].read(100) + environ["wsgi.input"].readline(100)
        body = b"valid: %d\n" % len(data)
        start_response("200 OK", [_TEXT, ("Content-Length", str(len(body)))])
        return [body]

    return validator(inner)(environ, start_response)


_WSGI_ROUTES: dict[str, Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]] = {
    "/input/readline": _wsgi_readline,
    "/input/readlines": _wsgi_readlines,
    "/input/iterate": _wsgi_iterate,
    "/input/past-end": _wsgi_past_end,
    "/input/all": _wsgi_read_all,
    "/input/pieces": _wsgi_read_pieces,
    "/write": _wsgi_write,
    "/write/iterate": _wsgi_write_and_iterate,
    "/start/exc-info": _wsgi_exc_info,
    "/start/exc-info-empty": _wsgi_exc_info_empty,
    "/start/twice": _wsgi_start_twice,
    "/start/lazy": _wsgi_lazy,
    "/close": _wsgi_close,
    "/noted": _wsgi_noted,
    "/file": _wsgi_file,
    "/file/like": _wsgi_file_like,
    "/error/raise": _wsgi_raise,
    "/error/raise-late": _wsgi_raise_late,
    "/error/silent": _wsgi_silent,
    "/error/bad-header": _wsgi_bad_header,
    "/error/bad-status": _wsgi_bad_status,
    "/error/hop-by-hop": _wsgi_hop_by_hop,
    "/stdout": _wsgi_stdout,
    "/errors": _wsgi_errors,
    "/name": _wsgi_name,
    "/leak": _wsgi_leak,
    "/validated": _wsgi_validated,
}


# -- the ASGI application ---------------------------------------------------------------------

# Nothing here imports asyncio: under CGI that import would cost more than the rest of the request.


async def asgi_app(scope: Scope, receive: Receive, send: SendEvent) -> None:
    """The table's application, by ASGI 3; lifespan included."""
    if scope["type"] == "lifespan":
        await _asgi_lifespan(scope, receive, send)
        return
    if scope["type"] != "http":
        raise ValueError(f"the table has no cases for {scope['type']!r}")
    path = _asgi_path(scope)
    route = _ASGI_ROUTES.get(path)
    if route is not None:
        await route(scope, receive, send)
    elif path in _PLAIN:
        await _respond(send, _PLAIN[path]())
    elif path == "" or path == "/report" or path.startswith("/report/"):
        await _respond(send, _json(await _asgi_report(scope, receive)))
    else:
        await _respond(send, _status(404, "Not Found"))


def _asgi_path(scope: Scope) -> str:
    path: str = scope["path"]
    mount: str = scope.get("root_path", "")
    return path[len(mount) :] if path.startswith(mount) else path


async def _asgi_lifespan(scope: Scope, receive: Receive, send: SendEvent) -> None:
    while True:
        event = await receive()
        if event["type"] == "lifespan.startup":
            if "state" in scope:
                scope["state"]["started"] = os.getpid()
            await send({"type": "lifespan.startup.complete"})
        elif event["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return


def _asgi_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]


async def _respond(send: SendEvent, answer: _Answer) -> None:
    headers = _asgi_headers(answer.headers)
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    for chunk in answer.chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body"})


async def _read_events(receive: Receive) -> list[Event]:
    events: list[Event] = []
    while not events or events[-1].get("more_body", False):
        event = await receive()
        if event["type"] != "http.request":
            raise ValueError(f"{event['type']!r} came in place of the request body")
        events.append(event)
    return events


def _printable(value: object) -> object:
    """Scope values as JSON: bytes become latin-1 text, whose type is told in "types"."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, dict):
        return {str(key): _printable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_printable(item) for item in value]
    return value if isinstance(value, (str, int, type(None))) else repr(value)


async def _asgi_report(scope: Scope, receive: Receive) -> dict[str, object]:
    body = b"".join(event.get("body", b"") for event in await _read_events(receive))
    headers = [
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
    ]
    single: dict[str, str] = {}
    for name in ("content-type", "content-length"):
        # The first one is taken out; a second one stays among the headers and fails its case.
        for index, (key, value) in enumerate(headers):
            if key == name:
                single[name] = value
                del headers[index]
                break
    client = scope.get("client")
    return {
        "method": scope["method"],
        "mount": scope.get("root_path", ""),
        "path": _asgi_path(scope),
        "query": scope["query_string"].decode("latin-1"),
        "headers": headers,
        "content_type": single.get("content-type"),
        "content_length": single.get("content-length"),
        "body_length": len(body),
        "body_sha256": hashlib.sha256(body).hexdigest(),
        "scheme": scope.get("scheme", "http"),
        "http_version": scope["http_version"],
        "client": client[0] if client else None,
        "server_port": str(scope["server"][1]) if scope.get("server") else None,
        "http_proxy": os.environ.get("HTTP_PROXY"),
        "scope": {key: _printable(value) for key, value in scope.items()},
        "types": {key: type(value).__name__ for key, value in scope.items()},
        "header_types": sorted({type(item).__name__ for pair in scope["headers"] for item in pair}),
        "is_dict": isinstance(scope, dict),
    }


async def _asgi_events(scope: Scope, receive: Receive, send: SendEvent) -> None:
    events = await _read_events(receive)
    report = {
        "types": sorted({event["type"] for event in events}),
        "body_types": sorted({type(event.get("body", b"")).__name__ for event in events}),
        "length": sum(len(event.get("body", b"")) for event in events),
        "largest": max(len(event.get("body", b"")) for event in events),
    }
    await _respond(send, _json(report))


async def _asgi_raise(scope: Scope, receive: Receive, send: SendEvent) -> None:
    raise RuntimeError("raised on purpose, before http.response.start")


async def _asgi_raise_late(scope: Scope, receive: Receive, send: SendEvent) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": _asgi_headers([_TEXT])})
    raise RuntimeError("raised on purpose, before the first octet")


async def _asgi_silent(scope: Scope, receive: Receive, send: SendEvent) -> None:
    return


async def _asgi_bad_header(scope: Scope, receive: Receive, send: SendEvent) -> None:
    headers = _asgi_headers([_TEXT, ("X-Split", "a\r\nX-Injected: yes")])
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"sent\n"})


async def _asgi_transfer_encoding(scope: Scope, receive: Receive, send: SendEvent) -> None:
    # The specification has servers ignore this header, not refuse it.
    headers = _asgi_headers([_TEXT, ("Transfer-Encoding", "chunked")])
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _SMALL})


async def _asgi_out_of_order(scope: Scope, receive: Receive, send: SendEvent) -> None:
    refused = []
    for event in ({"type": "http.response.body", "body": b"early"}, {"type": "http.none"}):
        try:
            await send(dict(event))
        except Exception:
            refused.append(event["type"])
    await _respond(send, _json(refused))


async def _asgi_text_body(scope: Scope, receive: Receive, send: SendEvent) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": _asgi_headers([_TEXT])})
    try:
        await send({"type": "http.response.body", "body": "text", "more_body": True})
    except Exception:
        await send({"type": "http.response.body", "body": b"refused\n"})
    else:
        await send({"type": "http.response.body", "body": b"accepted\n"})


async def _asgi_extra_keys(scope: Scope, receive: Receive, send: SendEvent) -> None:
    start = {"type": "http.response.start", "status": 200, "headers": _asgi_headers([_TEXT])}
    await send({**start, "x-unknown": 1})
    await send({"type": "http.response.body", "body": b"ignored\n", "x-unknown": 1})


async def _asgi_tuple_headers(scope: Scope, receive: Receive, send: SendEvent) -> None:
    # Any iterable of two-item iterables is allowed; headers may be left out of a start event.
    headers = iter([[b"content-type", b"text/plain"], (b"x-tuple", b"yes")])
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"tuple\n", "more_body": False})


async def _asgi_after_end(scope: Scope, receive: Receive, send: SendEvent) -> None:
    await _respond(send, _text(_SMALL))
    await send({"type": "http.response.body", "body": b"too late", "more_body": False})


async def _asgi_disconnect(scope: Scope, receive: Receive, send: SendEvent) -> None:
    await _read_events(receive)
    await _respond(send, _text("answered\n"))
    for _ in range(2):
        if (await receive())["type"] != "http.disconnect":
            return
    _leave_note(scope["query_string"].decode("ascii"))


async def _asgi_background(scope: Scope, receive: Receive, send: SendEvent) -> None:
    await _respond(send, _text("answered\n"))
    _leave_note(scope["query_string"].decode("ascii"))


async def _asgi_noted(scope: Scope, receive: Receive, send: SendEvent) -> None:
    await _respond(send, _take_note(scope["query_string"].decode("ascii")))


async def _asgi_file(scope: Scope, receive: Receive, send: SendEvent) -> None:
    import tempfile

    data = pattern(100_000)
    headers = _asgi_headers([_OCTETS, ("Content-Length", str(len(data)))])
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if "http.response.pathsend" in (scope.get("extensions") or {}):
            await send({"type": "http.response.pathsend", "path": file.name})
        else:  # An extension, so the server may not offer it.
            await send({"type": "http.response.body", "body": data})


async def _asgi_stdout(scope: Scope, receive: Receive, send: SendEvent) -> None:
    _print_to_stdout()
    await _respond(send, _text(_SMALL))


async def _asgi_name(scope: Scope, receive: Receive, send: SendEvent) -> None:
    extension = (scope.get("extensions") or {}).get("sapi") or {}
    await _respond(send, _json({"function": _sapi_name(), "request": extension.get("name")}))


async def _asgi_leak(scope: Scope, receive: Receive, send: SendEvent) -> None:
    leaked = "sapi_adapters.testing.leak" in scope
    scope["sapi_adapters.testing.leak"] = "left by an earlier request"
    scope["query_string"] = b"left by an earlier request"
    await _respond(send, _text("leaked\n" if leaked else "fresh\n"))


async def _asgi_state(scope: Scope, receive: Receive, send: SendEvent) -> None:
    state = scope.get("state")
    seen = None
    if state is not None:
        seen = {"started": type(state.get("started")).__name__, "leaked": "left" in state}
        state["left"] = True
    await _respond(send, _json(seen))


_ASGI_ROUTES: dict[str, Callable[[Scope, Receive, SendEvent], Awaitable[None]]] = {
    "/events": _asgi_events,
    "/error/raise": _asgi_raise,
    "/error/raise-late": _asgi_raise_late,
    "/error/silent": _asgi_silent,
    "/error/bad-header": _asgi_bad_header,
    "/transfer-encoding": _asgi_transfer_encoding,
    "/send/out-of-order": _asgi_out_of_order,
    "/send/text": _asgi_text_body,
    "/send/extra-keys": _asgi_extra_keys,
    "/send/tuple-headers": _asgi_tuple_headers,
    "/send/after-end": _asgi_after_end,
    "/disconnect": _asgi_disconnect,
    "/background": _asgi_background,
    "/noted": _asgi_noted,
    "/file": _asgi_file,
    "/stdout": _asgi_stdout,
    "/name": _asgi_name,
    "/leak": _asgi_leak,
    "/state": _asgi_state,
}


# -- checks of one case -----------------------------------------------------------------------


def _check_no_body(response: Response, trial: Trial) -> None:
    report = response.report
    same("body length", report["body_length"], 0)
    if report["content_length"] not in (None, "0"):  # Some front ends say 0 for "no body".
        raise Failure(f"content length of a request without a body: {report['content_length']!r}")


def _check_head(response: Response, trial: Trial) -> None:
    same("status", response.status, 200, response)
    same("body", response.body, b"", response)
    same("content-type", response.values("content-type"), [_TEXT[1]])


def _check_no_proxy_header(response: Response, trial: Trial) -> None:
    report = response.report
    names = [name for name, _ in report["headers"]]
    if "proxy" in names:
        raise Failure("the request header Proxy reached the application (httpoxy)")
    same("HTTP_PROXY in os.environ", report["http_proxy"], None)
    same("a header beside it", [v for n, v in report["headers"] if n == "x-beside"], ["kept"])


def _check_content_fields(response: Response, trial: Trial) -> None:
    report = response.report
    same("content type", report["content_type"], "text/x-plain; a=b")
    same("content length", report["content_length"], "5")
    twice = [name for name, _ in report["headers"] if name in ("content-type", "content-length")]
    same("content headers given a second time", twice, [])


def _check_repeated(response: Response, trial: Trial) -> None:
    values = [value for name, value in response.report["headers"] if name == "x-repeated"]
    joined = [item.strip() for value in values for item in value.split(",")]
    same("values of a header that came twice", joined, ["one", "two"])


def _check_cookies(response: Response, trial: Trial) -> None:
    values = [value for name, value in response.report["headers"] if name == "cookie"]
    same("cookie", values, ["a=1; b=two; c=%20"])


def _check_redirect(response: Response, trial: Trial) -> None:
    # A front end must not follow it by itself (a "local redirect", RFC 3875 section 6.2.2), but
    # it may put scheme and host before the path.
    same("status", response.status, 302, response)
    values = response.values("location")
    if len(values) != 1 or not re.fullmatch(r"(http://[^/]+)?/small\?a=1", values[0]):
        raise Failure(f"location: {values!r}")


def _check_empty_304(response: Response, trial: Trial) -> None:
    same("status", response.status, 304, response)
    same("body", response.body, b"", response)
    same("etag", response.values("etag"), ['"one"'], response)


def _check_not_injected(response: Response, trial: Trial) -> None:
    same("status", response.status, 500, response)
    same("injected header", response.values("x-injected"), [], response)


def _check_no_transfer_encoding(response: Response, trial: Trial) -> None:
    same("status", response.status, 200, response)
    same("body", response.body, _SMALL, response)


def _check_invalid_utf8(response: Response, trial: Trial) -> None:
    # WSGI hands the octets over; an ASGI path is text, so such a request cannot be expressed.
    if trial.interface == "asgi":
        same("status", response.status, 400, response)
    else:
        same("PATH_INFO", response.report["environ"]["PATH_INFO"], "/report/\xff\xfe")


def _check_name(response: Response, trial: Trial) -> None:
    names = response.report
    wanted = names["function"] if trial.sapi_name is None else trial.sapi_name
    same("sapi_name()", names["function"], wanted)
    same("the name in the request", names["request"], wanted)
    if not isinstance(wanted, str) or not wanted:
        raise Failure(f"sapi_name() is {wanted!r}")


def _check_fresh(response: Response, trial: Trial) -> None:
    for answer in (
        response,
        trial.send(Request(target="/leak")),
        trial.send(Request("GET", "/leak")),
    ):
        same("body", answer.body, b"fresh\n", answer)


def _check_independent(response: Response, trial: Trial) -> None:
    first = Request("POST", "/report/one?q=1", [("X-One", "1"), ("Content-Type", "a/b")], b"first")
    report = trial.send(first).report
    same("body length", report["body_length"], 5)
    report = trial.send(Request(target="/report/two")).report
    same("path", report["path"], "/report/two")
    same("query", report["query"], "")
    same("body length", report["body_length"], 0)
    same("content type", report["content_type"], None)
    same("old header", [name for name, _ in report["headers"] if name == "x-one"], [])
    report = trial.send(first).report
    same("body", report["body_sha256"], hashlib.sha256(b"first").hexdigest())


def _check_after_error(response: Response, trial: Trial) -> None:
    same("status", response.status, 500, response)
    for _ in range(4):
        answer = trial.send(Request(target="/small"))
        same("status after an error", answer.status, 200, answer)
        same("body after an error", answer.body, _SMALL)


def _check_environ(response: Response, trial: Trial) -> None:
    report = response.report
    environ, types = report["environ"], report["types"]
    same("environ is a dict", report["is_dict"], True)
    same("wsgi.version", report["version"], [1, 0])
    for key in ("wsgi.multithread", "wsgi.multiprocess", "wsgi.run_once"):
        if key not in types:
            raise Failure(f"{key} is missing")
    for key in ("wsgi.input", "wsgi.errors"):
        if types.get(key, "NoneType") == "NoneType":
            raise Failure(f"{key} is missing")
    same("wsgi.url_scheme", environ.get("wsgi.url_scheme"), "http")
    for key in ("REQUEST_METHOD", "SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL"):
        if not environ.get(key):
            raise Failure(f"{key} is missing or empty: {environ.get(key)!r}")
    if not environ["SERVER_PORT"].isdigit():
        raise Failure(f"SERVER_PORT is no number: {environ['SERVER_PORT']!r}")
    for key, kind in types.items():
        if "." not in key and kind != "str":
            raise Failure(f"{key} is of type {kind}, not str")
    for key, value in environ.items():
        if any(character > "\xff" for character in value):
            raise Failure(f"{key} holds characters beyond latin-1: {value!r}")


def _check_scope(response: Response, trial: Trial) -> None:
    report = response.report
    scope, types = report["scope"], report["types"]
    same("scope is a dict", report["is_dict"], True)
    same("type", scope["type"], "http")
    same("asgi version", scope["asgi"]["version"], "3.0")
    if scope["asgi"].get("spec_version", "2.0") not in ("2.0", "2.1", "2.2", "2.3", "2.4", "2.5"):
        raise Failure(f"spec_version: {scope['asgi']['spec_version']!r}")
    if scope["http_version"] not in ("1.0", "1.1", "2"):
        raise Failure(f"http_version: {scope['http_version']!r}")
    for key, kind in {
        "method": "str",
        "path": "str",
        "query_string": "bytes",
        "http_version": "str",
        "asgi": "dict",
    }.items():
        same(f"type of {key}", types.get(key), kind)
    for key, kind in {"scheme": "str", "root_path": "str", "raw_path": "bytes"}.items():
        if key in types and types[key] not in (kind, "NoneType"):
            raise Failure(f"type of {key}: {types[key]}")
    same("types in headers", report["header_types"], ["bytes"])
    for name, _ in scope["headers"]:
        if name != name.lower():
            raise Failure(f"header name is not lower case: {name!r}")
    for key in ("client", "server"):
        if scope.get(key) is not None:
            same(f"length of {key}", len(scope[key]), 2)
            if not isinstance(scope[key][0], str) or not scope[key][0]:
                raise Failure(f"{key}: {scope[key]!r}")


def _check_raw_path(response: Response, trial: Trial) -> None:
    # It may be left out where the front end does not tell; a wrong one is worse than none.
    scope = response.report["scope"]
    if scope.get("raw_path") is not None:
        same("raw_path", scope["raw_path"], f"{trial.mount}/report/a%20b%C3%A9")
    same("path", scope["path"], f"{trial.mount}/report/a b\xe9")


def _check_path_latin1(response: Response, trial: Trial) -> None:
    same("PATH_INFO", response.report["environ"]["PATH_INFO"], "/report/\xc3\xa9\xe2\x82\xac")


def _check_mount(response: Response, trial: Trial) -> None:
    report = response.report
    same("mount", report["mount"], trial.mount)
    same("path", report["path"], "")


def _check_client(response: Response, trial: Trial) -> None:
    client = response.report["client"]
    if not isinstance(client, str) or not re.fullmatch(r"[0-9a-f.:]+", client):
        raise Failure(f"address of the client: {client!r}")


def _check_state(response: Response, trial: Trial) -> None:
    for answer in (response, trial.send(Request(target="/state"))):
        same("status", answer.status, 200, answer)
        same("state", json.loads(answer.body), {"started": "int", "leaked": False})


def _check_events(response: Response, trial: Trial) -> None:
    report = response.report
    same("types of events", report["types"], ["http.request"])
    same("types of bodies", report["body_types"], ["bytes"])
    same("length of all bodies", report["length"], 300_000)


def _check_out_of_order(response: Response, trial: Trial) -> None:
    same("status", response.status, 200, response)
    same("refused events", json.loads(response.body), ["http.response.body", "http.none"])


# -- the table --------------------------------------------------------------------------------


def _need(*needs: str) -> frozenset[str]:
    return frozenset(needs)


def _get(target: str, *headers: tuple[str, str]) -> Request:
    return Request("GET", target, headers)


def _post(target: str, body: bytes, *headers: tuple[str, str]) -> Request:
    return Request("POST", target, headers or [("Content-Type", "application/x-none")], body)


_LINES = b"first line\nsecond\n\nlast"
_NO_BODY = hashlib.sha256(b"").hexdigest()

_TABLE: tuple[Case, ...] = (
    # The request line.
    Case("get", _get("/report"), _reports(method="GET", path="/report", query="", scheme="http")),
    Case("head", Request("HEAD", "/small"), _check_head),
    Case("head-streamed", Request("HEAD", "/length/none"), _check_head),
    Case("head-report", Request("HEAD", "/report"), _answers(200, b"")),
    Case("post", _post("/report", b"x"), _reports(method="POST", body_length=1)),
    Case("put", Request("PUT", "/report", (), b"x"), _reports(method="PUT", body_length=1)),
    Case("patch", Request("PATCH", "/report", (), b"x"), _reports(method="PATCH", body_length=1)),
    Case("delete", Request("DELETE", "/report"), _reports(method="DELETE", body_length=0)),
    Case(
        "options",
        Request("OPTIONS", "/report"),
        _reports(method="OPTIONS"),
        _need("options-method"),
    ),
    Case(
        "unknown-method",
        Request("BREW", "/report"),
        _reports(method="BREW"),
        _need("unknown-method"),
    ),
    Case("query", _get("/report?a=1&b=2"), _reports(query="a=1&b=2", path="/report")),
    Case("query-encoded", _get("/report?a=%C3%A9&b=%26"), _reports(query="a=%C3%A9&b=%26")),
    Case("query-plus", _get("/report?a+b=c+d"), _reports(query="a+b=c+d")),
    Case("query-empty", _get("/report?"), _reports(query="", path="/report")),
    Case("query-option", _get("/report?-s"), _reports(query="-s")),
    Case("query-options", _get("/report?--help+-d+x%3D1"), _reports(query="--help+-d+x%3D1")),
    Case("query-no-equals", _get("/report?word"), _reports(query="word")),
    Case("query-question-mark", _get("/report?a=?&/b"), _reports(query="a=?&/b")),
    Case("path-space", _get("/report/a%20b"), _reports(path="/report/a b")),
    Case("path-utf-8", _get("/report/%C3%A9%E2%82%AC"), _reports(path="/report/\xe9\u20ac")),
    Case(
        "path-latin-1-in-environ",
        _get("/report/%C3%A9%E2%82%AC"),
        _check_path_latin1,
        interface="wsgi",
    ),
    Case("path-raw", _get("/report/a%20b%C3%A9?x=%20"), _check_raw_path, interface="asgi"),
    Case("path-plus", _get("/report/a+b"), _reports(path="/report/a+b")),
    Case("path-percent", _get("/report/100%25"), _reports(path="/report/100%")),
    Case("path-decoded-once", _get("/report/%252e"), _reports(path="/report/%2e")),
    Case("path-semicolon", _get("/report/a;b=c"), _reports(path="/report/a;b=c")),
    Case("path-question-mark", _get("/report/a%3Fb?c"), _reports(path="/report/a?b", query="c")),
    Case("path-trailing-slash", _get("/report/x/"), _reports(path="/report/x/")),
    Case("path-invalid-utf-8", _get("/report/%FF%FE"), _check_invalid_utf8, _need("any-path")),
    Case("root", _get("/"), _answers(200, b"root\n")),
    Case("mount-itself", _get(""), _check_mount, _need("mount")),
    # Request headers.
    Case("header", _get("/report", ("X-Plain", "a b")), _saw_header("x-plain", "a b")),
    Case(
        "header-user-agent",
        _get("/report", ("User-Agent", "t/1")),
        _saw_header("user-agent", "t/1"),
    ),
    Case(
        "header-host-with-port",
        _get("/report", ("Host", "example.test:8123")),
        _saw_header("host", "example.test:8123"),
    ),
    Case("header-cookie", _get("/report", ("Cookie", "a=1; b=two; c=%20")), _check_cookies),
    Case(
        "header-repeated",
        _get("/report", ("X-Repeated", "one"), ("X-Repeated", "two")),
        _check_repeated,
        _need("repeated-headers"),
    ),
    # 127 and 128 are the border between FastCGI's short and long lengths.
    Case("header-127", _get("/report", ("X-Long", "v" * 127)), _saw_header("x-long", "v" * 127)),
    Case("header-128", _get("/report", ("X-Long", "v" * 128)), _saw_header("x-long", "v" * 128)),
    Case("header-4000", _get("/report", ("X-Long", "v" * 4000)), _saw_header("x-long", "v" * 4000)),
    Case(
        "header-non-ascii",
        _get("/report", ("X-Text", "\xc3\xa9\xff")),
        _saw_header("x-text", "\xc3\xa9\xff"),
        _need("non-ascii-headers"),
    ),
    Case(
        "header-authorization",
        _get("/report", ("Authorization", "Bearer abc")),
        _saw_header("authorization", "Bearer abc"),
        _need("authorization"),
    ),
    Case(
        "header-proxy",
        _get("/report", ("Proxy", "http://proxy.test:3128"), ("X-Beside", "kept")),
        _check_no_proxy_header,
    ),
    Case(
        "header-content-fields",
        _post("/report", b"12345", ("Content-Type", "text/x-plain; a=b")),
        _check_content_fields,
    ),
    # The request body.
    Case("body-none", _get("/report"), _check_no_body),
    Case("body-empty", _post("/report", b""), _reports(body_length=0, body_sha256=_NO_BODY)),
    Case("body-5", _post("/report", pattern(5)), _body(5)),
    Case("body-64k", _post("/report", pattern(65536)), _body(65536)),
    Case("body-65535", _post("/report", pattern(65535)), _body(65535)),
    Case("body-1m", Request("PUT", "/report", (), pattern(_LARGE)), _body(_LARGE, method="PUT")),
    Case("body-unread", _post("/small", pattern(100_000)), _answers(200, _SMALL)),
    Case(
        "input-readline",
        _post("/input/readline", _LINES),
        _answers(200, b"first line\n|sec|ond\n|\n|last|"),
        interface="wsgi",
    ),
    Case(
        "input-readlines",
        _post("/input/readlines", _LINES),
        _answers(200, b"first line\n|second\n|\n|last"),
        interface="wsgi",
    ),
    Case(
        "input-iteration",
        _post("/input/iterate", _LINES),
        _answers(200, b"first line\n|second\n|\n|last"),
        interface="wsgi",
    ),
    Case(
        "input-past-its-end",
        _post("/input/past-end", b"12345"),
        _answers(200, b"12345|||||"),
        interface="wsgi",
    ),
    Case("input-past-no-body", _get("/input/past-end"), _answers(200, b"|||||"), interface="wsgi"),
    Case(
        "input-read-without-size",
        _post("/input/all", pattern(70_000)),
        _answers(200, pattern(70_000)),
        interface="wsgi",
    ),
    Case(
        "input-mixed-reads",
        _post("/input/pieces", _LINES),
        _answers(200, b"f|ir|st line\n|sec|ond\n\nlast"),
        interface="wsgi",
    ),
    Case("receive-events", _post("/events", pattern(300_000)), _check_events, interface="asgi"),
    # Status and response headers.
    Case("status-204", _get("/status/204"), _answers(204, b"", x_kept=["yes"])),
    Case("status-304", _get("/status/304"), _check_empty_304),
    Case("status-404", _get("/status/404"), _answers(404, b"404\n")),
    Case("status-410", _get("/status/410"), _answers(410, b"410\n")),
    Case("status-418", _get("/status/418"), _answers(418, b"418\n")),
    Case("status-500", _get("/status/500"), _answers(500, b"500\n")),
    Case("status-503", _get("/status/503"), _answers(503, b"503\n", retry_after=["7"])),
    Case("status-unregistered", _get("/status/299"), _answers(299, b"299\n")),
    Case(
        "status-reason",
        _get("/status/299"),
        _answers(299, b"299\n", reason="Quite Fine"),
        _need("custom-reason"),
        interface="wsgi",
    ),
    Case("redirect-path", _get("/redirect/path"), _check_redirect),
    Case(
        "redirect-url",
        _get("/redirect/url"),
        _answers(301, b"301\n", location=["http://example.test/x?y=%20"]),
    ),
    Case("redirect-303", _post("/redirect/303", b"x"), _answers(303, b"303\n")),
    Case("redirect-308", _post("/redirect/308", b"x"), _answers(308, b"308\n")),
    Case(
        "set-cookie-kept-apart",
        _get("/cookies"),
        _answers(
            200,
            b"cookies\n",
            set_cookie=[
                "a=1; Path=/",
                "b=2; Expires=Wed, 21 Oct 2065 07:28:00 GMT",
                "c=3; HttpOnly",
            ],
        ),
    ),
    Case(
        "response-headers",
        _get("/headers"),
        _answers(
            200,
            b"headers\n",
            x_first=["one, two"],
            x_colon=["a: b: c"],
            x_long=["l" * 2000],
            cache_control=["no-store"],
            etag=['"tagged"'],
        ),
    ),
    Case(
        "content-type",
        _get("/type"),
        _answers(200, b"\x00\xff", content_type=["image/x-none"]),
    ),
    # The response body.
    Case("content-length-given", _get("/small"), _answers(200, _SMALL)),
    Case(
        "content-length-kept",
        _get("/small"),
        _answers(200, _SMALL, content_length=["16"]),
        _need("content-length"),
    ),
    Case("content-length-not-given", _get("/length/none"), _answers(200, b"one two three\n")),
    Case("content-length-zero", _get("/length/zero"), _answers(200, b"")),
    Case("content-length-exceeded", _get("/length/more"), _answers(200, b"12345")),
    Case("body-without-chunks", _get("/chunks/nothing"), _answers(200, b"")),
    Case("body-of-one-empty-chunk", _get("/chunks/one-empty"), _answers(200, b"")),
    Case("empty-chunks-between", _get("/chunks/between"), _answers(200, b"one two three\n")),
    Case("empty-chunks-first", _get("/chunks/leading"), _answers(200, b"late\n")),
    Case(
        "thousand-chunks",
        _get("/chunks/many"),
        _answers(200, b"".join(b"%d\n" % number for number in range(1000))),
    ),
    Case("large-in-one-chunk", _get("/large/one"), _answers(200, pattern(_LARGE))),
    Case("large-in-pieces", _get("/large/pieces"), _answers(200, pattern(_LARGE))),
    Case("large-announced", _get("/large/announced"), _answers(200, pattern(_LARGE))),
    Case("file", _get("/file"), _answers(200, pattern(100_000)), interface="asgi"),
    Case(
        "file-wrapper-from-offset",
        _get("/file"),
        _answers(200, pattern(100_000)[10:]),
        interface="wsgi",
    ),
    Case(
        "file-wrapper-without-descriptor",
        _get("/file/like"),
        _answers(200, pattern(100_000)),
        interface="wsgi",
    ),
    # start_response, write and close.
    Case("write", _get("/write"), _answers(200, b"written twice\n"), interface="wsgi"),
    Case(
        "write-and-iterate",
        _get("/write/iterate"),
        _answers(200, b"written, then returned\n"),
        interface="wsgi",
    ),
    Case(
        "exc-info-before-the-head",
        _get("/start/exc-info"),
        _answers(503, b"replaced\n", x_replaced=[]),
        interface="wsgi",
    ),
    Case(
        "exc-info-after-empty-chunk",
        _get("/start/exc-info-empty"),
        _answers(503, b"replaced\n"),
        interface="wsgi",
    ),
    Case(
        "start-response-twice",
        _get("/start/twice"),
        _answers(200, b"refused\n"),
        interface="wsgi",
    ),
    Case(
        "start-response-in-iteration",
        _get("/start/lazy"),
        _answers(200, b"started late\n"),
        interface="wsgi",
    ),
    Case("close", _get("/small"), _noted("/close"), _need("files"), "wsgi"),
    Case("close-after-head", _get("/small"), _noted("/close", "HEAD"), _need("files"), "wsgi"),
    # The order of ASGI events.
    Case("send-out-of-order", _get("/send/out-of-order"), _check_out_of_order, interface="asgi"),
    Case("send-text-body", _get("/send/text"), _answers(200, b"refused\n"), interface="asgi"),
    Case(
        "send-extra-keys", _get("/send/extra-keys"), _answers(200, b"ignored\n"), interface="asgi"
    ),
    Case(
        "send-any-iterable-of-headers",
        _get("/send/tuple-headers"),
        _answers(200, b"tuple\n", x_tuple=["yes"]),
        interface="asgi",
    ),
    Case("send-after-the-end", _get("/send/after-end"), _answers(200, _SMALL), interface="asgi"),
    Case(
        "transfer-encoding-ignored",
        _get("/transfer-encoding"),
        _check_no_transfer_encoding,
        interface="asgi",
    ),
    Case(
        "disconnect-after-response", _get("/small"), _noted("/disconnect"), _need("files"), "asgi"
    ),
    Case("work-after-response", _get("/small"), _noted("/background"), _need("files"), "asgi"),
    # Errors of the application.
    Case("exception-before-the-head", _get("/error/raise"), _answers(500)),
    Case("exception-before-first-octet", _get("/error/raise-late"), _answers(500)),
    Case("no-response-started", _get("/error/silent"), _answers(500)),
    Case("header-with-line-break", _get("/error/bad-header"), _check_not_injected),
    Case(
        "status-with-line-break", _get("/error/bad-status"), _check_not_injected, interface="wsgi"
    ),
    Case("hop-by-hop-header", _get("/error/hop-by-hop"), _answers(500), interface="wsgi"),
    Case("requests-after-an-error", _get("/error/raise"), _check_after_error),
    # The environment of the application.
    Case("environ", _post("/report?a=b", b"12345"), _check_environ, interface="wsgi"),
    Case("scope", _post("/report?a=b", b"12345", ("X-Upper", "1")), _check_scope, interface="asgi"),
    Case("wsgiref-validator", _get("/validated"), _answers(200, b"valid: 0\n"), interface="wsgi"),
    Case(
        "wsgiref-validator-post",
        _post("/validated", b"12345"),
        _answers(200, b"valid: 5\n"),
        interface="wsgi",
    ),
    Case("wsgi-errors", _get("/errors"), _answers(200, b"written\n"), interface="wsgi"),
    Case("stdout-is-not-the-response", _get("/stdout"), _answers(200, _SMALL)),
    Case("client-address", _get("/report"), _check_client, _need("http-client")),
    Case("requests-share-no-environ", _get("/leak"), _check_fresh),
    Case("requests-are-independent", _get("/small"), _check_independent),
    Case("lifespan-state", _get("/state"), _check_state, _need("lifespan"), "asgi"),
    Case("sapi-name", _get("/name"), _check_name, _need("sapi-name")),
)


def cases(interface: str = "wsgi", *, without: Iterable[str] = ()) -> list[Case]:
    """The rows of the table for one interface, ``"wsgi"`` or ``"asgi"``.

    `without` leaves out cases, by their own names or by what they need (a key of `NEEDS`).  A name
    that is neither raises `ValueError`: an exception that fits nothing is an old one.
    """
    if interface not in ("wsgi", "asgi"):
        raise ValueError(f"interface is 'wsgi' or 'asgi', not {interface!r}")
    left_out = frozenset(without)
    unknown = left_out - {case.name for case in _TABLE} - NEEDS.keys()
    if unknown:
        raise ValueError(f"no case and no need is called {', '.join(sorted(unknown))}")
    return [
        case._replace(interface=interface)
        for case in _TABLE
        if case.interface in ("both", interface)
        and case.name not in left_out
        and not (case.needs & left_out)
    ]


# -- for senders without an HTTP server in between --------------------------------------------


def cgi_environ(request: Request, *, mount: str = "") -> dict[str, str]:
    """The CGI meta-variables (RFC 3875) that a web server makes of `request`.

    `mount` is the part of the target's path that becomes SCRIPT_NAME.  Values are latin-1 text.
    """
    from urllib.parse import unquote_to_bytes

    path, _, query = request.target.partition("?")
    decoded = unquote_to_bytes(path).decode("latin-1")
    environ = {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "PATH_INFO": decoded.removeprefix(mount),
        "QUERY_STRING": query,
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "40000",
        "REQUEST_METHOD": request.method,
        "REQUEST_URI": request.target,
        "SCRIPT_NAME": mount,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "sapi_adapters.testing",
        "HTTP_HOST": "localhost",
    }
    seen = set()
    for name, value in request.headers:
        key = name.upper().replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = f"HTTP_{key}"
        if key in seen:
            value = f"{environ[key]}, {value}"
        seen.add(key)
        environ[key] = value
    if request.body is not None:
        environ["CONTENT_LENGTH"] = str(len(request.body))
    return environ


def cgi_response(output: bytes, *, head: bool = False) -> Response:
    """The response that a web server makes of a CGI program's `output`; `head` for HEAD requests.

    Raises `Failure` when the output is no CGI response (RFC 3875 section 6) or when it is one that
    a server would answer by a redirect of its own.
    """
    block, separator, body = output.partition(b"\r\n\r\n")
    if not separator:
        block, separator, body = output.partition(b"\n\n")
    if not separator:
        raise Failure(f"no empty line ends the head: {output[:300]!r}")
    status, reason, headers = 200, "OK", []
    location = False
    stated = False
    for line in block.decode("latin-1").replace("\r\n", "\n").split("\n"):
        name, colon, value = line.partition(":")
        if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise Failure(f"no header line: {line!r}")
        value = value.strip()
        if name.lower() == "status":
            stated = True
            code, _, reason = value.partition(" ")
            status = int(code)
        else:
            location = location or name.lower() == "location"
            headers.append((name, value))
    if location and not stated:
        raise Failure("Location without Status: a web server would redirect by itself")
    if body and (head or status in (204, 304)):
        raise Failure(f"{len(body)} octets of body where the response has none")
    return Response(status, reason, headers, body)
