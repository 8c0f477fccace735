"""The WSGI gateway against PEP 3333, on an exchange that writes down what is done to it."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from wsgiref.validate import validator

import pytest
from gateways.recording import Recording, RecordingSapi

from sapi_adapters.gateways.wsgi import Errors, FileWrapper, Input, WsgiGateway
from sapi_adapters.sapi import ApplicationError, ClientDisconnected
from sapi_adapters.sendfile import SendfileMap


def call(application: Any, *body: bytes, prepare: Any = None, **variables: str) -> Recording:
    exchange = Recording(body, **variables)
    if prepare is not None:
        prepare(exchange)
    WsgiGateway(application, exchange.sapi)(exchange)
    return exchange


class Blocks:
    """A body that notes whether, and in which thread, it was iterated and closed."""

    def __init__(self, *blocks: Any, error: BaseException | None = None) -> None:
        self.blocks = blocks
        self.error = error
        self.asked = 0
        self.closed = 0
        self.threads: set[int] = set()

    def __iter__(self) -> Iterator[Any]:
        for block in self.blocks:
            self.asked += 1
            self.threads.add(threading.get_ident())
            yield block
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.closed += 1


def app(*blocks: Any, status: Any = "200 OK", headers: Any = (), body: Any = None) -> Any:
    def application(environ: Any, start_response: Any) -> Any:
        start_response(status, headers if not isinstance(headers, tuple) else list(headers))
        return list(blocks) if body is None else body

    return application


# -- the environ ----------------------------------------------------------------------------------


def environ_of(*body: bytes, sapi: RecordingSapi | None = None, **variables: str) -> dict[str, Any]:
    seen: list[dict[str, Any]] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ)
        start_response("200 OK", [])
        return []

    exchange = Recording(body, sapi=sapi, **variables)
    WsgiGateway(application, exchange.sapi)(exchange)
    return seen[0]


def test_environ_is_a_plain_dict_fresh_for_each_request_and_the_applications_own():
    gateway_of: list[dict[str, Any]] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        gateway_of.append(environ)
        assert "mine" not in environ
        environ["mine"] = 1
        environ["wsgi.version"] = None
        start_response("200 OK", [])
        return []

    sapi = RecordingSapi()
    gateway = WsgiGateway(application, sapi)
    for _ in range(2):
        gateway(Recording(sapi=sapi))
    assert [type(environ) for environ in gateway_of] == [dict, dict]
    assert gateway_of[0] is not gateway_of[1]
    assert gateway.constants["wsgi.version"] == (1, 0)


def test_environ_holds_what_pep_3333_asks_for():
    environ = environ_of()
    assert environ["wsgi.version"] == (1, 0)
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["wsgi.input_terminated"] is True
    assert environ["wsgi.file_wrapper"] is FileWrapper
    assert environ["sapi.name"] == "recording"
    assert isinstance(environ["wsgi.input"], Input)
    assert isinstance(environ["wsgi.errors"], Errors)
    for name in ("REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "SERVER_NAME", "SERVER_PORT"):
        assert type(environ[name]) is str
    assert "REMOTE_USER" not in environ
    assert None not in environ.values()


@pytest.mark.parametrize("flag", ["multithread", "multiprocess", "run_once"])
def test_environ_tells_the_sapis_flags(flag):
    for value in (False, True):
        sapi = RecordingSapi()
        setattr(sapi, flag, value)
        assert environ_of(sapi=sapi)[f"wsgi.{flag}"] is value


@pytest.mark.parametrize(
    ("variables", "scheme"),
    [
        ({"HTTPS": "on"}, "https"),
        ({"HTTPS": "1"}, "https"),
        ({"HTTPS": "ON"}, "https"),
        ({"HTTPS": "off"}, "http"),
        ({"HTTPS": ""}, "http"),
        ({"REQUEST_SCHEME": "https"}, "https"),
        ({"HTTPS": "off", "REQUEST_SCHEME": "https"}, "http"),
        ({"HTTP_X_FORWARDED_PROTO": "https"}, "http"),
        ({"HTTP_HTTPS": "on"}, "http"),
    ],
)
def test_environ_tells_the_scheme(variables, scheme):
    assert environ_of(**variables)["wsgi.url_scheme"] == scheme


def test_parameters_cannot_stand_in_for_what_the_server_sets():
    forged = {"wsgi.input": "x", "wsgi.errors": "x", "wsgi.url_scheme": "x", "sapi.name": "x"}
    environ = environ_of(**forged)
    assert all(environ[name] != "x" for name in forged)


def test_bytes_of_the_path_stay_code_points_below_256():
    assert environ_of(PATH_INFO="/\xc3\xa9\xff")["PATH_INFO"] == "/\xc3\xa9\xff"


# -- wsgi.input and wsgi.errors -------------------------------------------------------------------

LINES = b"one\ntwo\n\nlast"


@pytest.mark.parametrize(
    ("use", "wanted"),
    [
        (lambda f: f.read(), LINES),
        (lambda f: f.read(-1), LINES),
        (lambda f: f.read(None), LINES),
        (lambda f: f.read(0), b""),
        (lambda f: f.read(5), b"one\nt"),
        (lambda f: f.read(999), LINES),
        (lambda f: [f.read(3), f.read(3), f.read(99), f.read(1), f.read()],
         [b"one", b"\ntw", b"o\n\nlast", b"", b""]),
        (lambda f: f.readline(), b"one\n"),
        (lambda f: f.readline(2), b"on"),
        (lambda f: f.readline(None), b"one\n"),
        (lambda f: [f.readline() for _ in range(6)],
         [b"one\n", b"two\n", b"\n", b"last", b"", b""]),
        (lambda f: f.readlines(), [b"one\n", b"two\n", b"\n", b"last"]),
        (lambda f: f.readlines(None), [b"one\n", b"two\n", b"\n", b"last"]),
        (lambda f: f.readlines(5), [b"one\n", b"two\n"]),
        (lambda f: list(f), [b"one\n", b"two\n", b"\n", b"last"]),
        (lambda f: [f.readline(), *f], [b"one\n", b"two\n", b"\n", b"last"]),
        (lambda f: io.TextIOWrapper(io.BytesIO(f.read())).read(), LINES.decode()),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 2, 4, 99])
def test_input_reads_as_pep_3333_says_however_the_body_comes(use, wanted, size):
    pieces = [LINES[at : at + size] for at in range(0, len(LINES), size)]
    assert use(Input(Recording(pieces))) == wanted


def test_input_of_no_body_is_empty_and_reads_nothing_more():
    exchange = Recording()
    assert [Input(exchange).read(), Input(exchange).readline(), list(Input(exchange))] == [
        b"",
        b"",
        [],
    ]


@pytest.mark.parametrize(
    "use",
    [lambda f: f.read(), lambda f: f.read(10), list, lambda f: f.readlines(),
     lambda f: [f.readline() for _ in range(5)], lambda f: [f.read(2) for _ in range(5)]],
)  # fmt: skip
def test_a_body_cut_short_raises_and_never_looks_whole(use):
    exchange = Recording([b"ab\n", b"cd"])
    exchange.cut_short = True
    with pytest.raises(ClientDisconnected):
        use(Input(exchange))
    assert issubclass(ClientDisconnected, OSError)


def test_the_input_is_asked_for_only_when_the_application_reads():
    assert "read" not in call(app(b"x"), b"body", CONTENT_LENGTH="4").steps


def test_errors_logs_whole_lines_and_the_rest_at_the_end():
    seen: list[str] = []

    def application(environ: Any, start_response: Any) -> list[bytes]:
        errors = environ["wsgi.errors"]
        errors.write("one\ntw")
        seen.append(exchange.logged)
        errors.writelines(["o\n", "three"])
        seen.append(exchange.logged)
        errors.flush()
        seen.append(exchange.logged)
        errors.flush()
        print("four", file=errors)
        assert errors.write("five") == 4
        start_response("200 OK", [])
        return [b"x"]

    exchange = Recording()
    WsgiGateway(application, exchange.sapi)(exchange)
    assert seen == ["one\n", "one\ntwo\n", "one\ntwo\nthree"]
    assert exchange.logged == "one\ntwo\nthreefour\nfive"


def test_errors_is_a_text_stream():
    with pytest.raises(TypeError):
        Errors(Recording()).write(b"x")  # type: ignore[arg-type]


# -- what is sent, and when -----------------------------------------------------------------------


class Sent(NamedTuple):
    application: Any
    steps: list[Any]
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed
    variables: dict[str, str] = {}  # noqa: RUF012 - never changed
    log: str = ""


def writing(*blocks: bytes, headers: Any = (), then: Any = ()) -> Any:
    def application(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", list(headers))
        for block in blocks:
            write(block)
        return then

    return application


def lazily(*blocks: Any, headers: Any = ()) -> Any:
    def application(environ: Any, start_response: Any) -> Iterator[Any]:
        start_response("200 OK", list(headers))
        yield from blocks

    return application


def again(*exc: Any, blocks: Any = (b"x",)) -> Any:
    """Starts a response, then another in place of it."""

    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("X-First", "1"), ("Content-Length", "99")])
        try:
            raise ValueError("the first failed")
        except ValueError:
            start_response("503 Sorry", [("X-Second", "1")], *[sys.exc_info() for _ in exc])
        return list(blocks)

    return application


def length(size: Any) -> tuple[tuple[str, str], ...]:
    return (("Content-Length", str(size)),)


HEAD = {"REQUEST_METHOD": "HEAD"}
TEXT = (("Content-Type", "text/plain"),)
SENT = {
    "one block: its length is the Content-Length": Sent(
        app(b"hello", headers=TEXT),
        ["head", b"hello", "finish"],
        {"content-type": "text/plain", "content-length": "5"},
    ),
    "one block in a tuple: no length is added but to a list": Sent(
        app(body=(b"hello",)), ["head", b"hello", "finish"]
    ),
    "one block with its length": Sent(
        app(b"hello", headers=length(5)), ["head", b"hello", "finish"], {"content-length": "5"}
    ),
    "no block at all": Sent(
        app(headers=TEXT),
        ["head", "finish"],
        {"content-type": "text/plain", "content-length": "0"},
    ),
    "one empty block": Sent(app(b""), ["head", "finish"], {"content-length": "0"}),
    "Content-Length: 0": Sent(app(headers=length(0)), ["head", "finish"], {"content-length": "0"}),
    "no Content-Type is invented, CVE-2020-24553": Sent(
        app(b"<html>"), ["head", b"<html>", "finish"], {"content-length": "6"}
    ),
    "a generator: each block on its way before the next": Sent(
        lazily(b"a", b"b"), ["head", b"a", "flush", b"b", "flush", "finish"], {}
    ),
    "a generator of one block: its length is not known": Sent(
        lazily(b"a"), ["head", b"a", "flush", "finish"], {}
    ),
    "empty blocks send nothing": Sent(
        lazily(b"", b"a", b"", b"b", b""), ["head", b"a", "flush", b"b", "flush", "finish"], {}
    ),
    "a generator of empty blocks": Sent(
        lazily(b"", b""), ["head", "finish"], {"content-length": "0"}
    ),
    "a generator that keeps its promise": Sent(
        lazily(b"ab", b"c", headers=length(3)),
        ["head", b"ab", "flush", b"c", "flush", "finish"],
        {"content-length": "3"},
    ),
    "write() sends at once": Sent(
        writing(b"a", b"b"), ["head", b"a", "flush", b"b", "flush", "finish"], {}
    ),
    "write() of nothing sends the head": Sent(writing(b""), ["head", "flush", "finish"], {}),
    "write() and then blocks": Sent(
        writing(b"a", then=[b"b"]), ["head", b"a", "flush", b"b", "finish"], {}
    ),
    "write() with a length": Sent(
        writing(b"ab", headers=length(2)),
        ["head", b"ab", "flush", "finish"],
        {"content-length": "2"},
    ),
    "HEAD: the headers of GET, no body": Sent(
        app(b"hello", headers=TEXT),
        ["head", "finish"],
        {"content-type": "text/plain", "content-length": "5"},
        HEAD,
    ),
    "HEAD with the length of the body it has not": Sent(
        app(headers=length(5)), ["head", "finish"], {"content-length": "5"}, HEAD
    ),
    "HEAD and no block: no length is invented": Sent(app(), ["head", "finish"], {}, HEAD),
    "HEAD and a generator": Sent(lazily(b"a", b"b"), ["head", "finish"], {}, HEAD),
    "HEAD and write()": Sent(writing(b"a", b"b"), ["head", "finish"], {}, HEAD),
    "204 has neither body nor length": Sent(
        app(b"no", status="204 No Content", headers=length(2)), ["head", "finish"], {}
    ),
    "204 with one block": Sent(app(b"no", status="204 No Content"), ["head", "finish"], {}),
    "204 and nothing": Sent(app(status="204 No Content"), ["head", "finish"], {}),
    "304 keeps the length it tells": Sent(
        app(b"no", status="304 Not Modified", headers=length(7)),
        ["head", "finish"],
        {"content-length": "7"},
    ),
    "103 has no body": Sent(app(b"no", status="103 Early"), ["head", "finish"], {}),
    "more than Content-Length is cut, with a log line": Sent(
        app(b"hello", headers=length(3)),
        ["head", b"hel", "finish"],
        {"content-length": "3"},
        {},
        "more bytes than Content-Length",
    ),
    "a block beyond Content-Length is dropped": Sent(
        app(b"hel", b"lo", headers=length(3)),
        ["head", b"hel", "finish"],
        {"content-length": "3"},
        {},
        "more bytes than Content-Length",
    ),
    "less than Content-Length is a visible failure": Sent(
        app(b"he", headers=length(3)),
        ["head", b"he", "cut"],
        {"content-length": "3"},
        {},
        "1 bytes shorter than its Content-Length",
    ),
    "nothing of a Content-Length: nothing was sent, so 500": Sent(
        app(headers=length(3)),
        ["head", b"500 Internal Server Error\n", "finish"],
        {"content-type": "text/plain; charset=utf-8", "content-length": "26"},
        {},
        "3 bytes shorter than its Content-Length",
    ),
    "two Content-Lengths that agree": Sent(
        app(b"abc", headers=length(3) + length(3)),
        ["head", b"abc", "finish"],
        {"content-length": "3"},
    ),
    "start_response with exc_info before the head replaces it": Sent(
        again("exc_info"), ["head", b"x", "finish"], {"x-second": "1", "content-length": "1"}
    ),
}


@pytest.mark.parametrize("name", SENT)
def test_what_is_sent(name):
    case = SENT[name]
    exchange = call(case.application, **case.variables)
    assert exchange.sent == case.steps
    assert exchange.headers == case.headers
    assert case.log in exchange.sapi.log
    assert bool(case.log) == bool(exchange.sapi.log)


def test_nothing_is_sent_at_start_response_nor_before_the_first_byte():
    stages: list[list[Any]] = []

    def application(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        stages.append(exchange.sent[:])
        yield b""
        stages.append(exchange.sent[:])
        yield b"a"
        stages.append(exchange.sent[:])

    exchange = Recording()
    WsgiGateway(application, exchange.sapi)(exchange)
    assert stages == [[], [], ["head", b"a", "flush"]]


def test_the_block_that_completes_content_length_is_not_held_back():
    """PEP 3333: the server must not delay the transmission of any block."""
    seen: list[list[Any]] = []

    def application(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "5")])
        yield b"hello"
        seen.append(exchange.sent[:])  # here an application may work on for minutes

    exchange = Recording()
    WsgiGateway(application, exchange.sapi)(exchange)
    assert seen == [["head", b"hello", "flush"]]


def test_start_response_may_come_with_the_first_block_asked_for():
    body = Blocks()

    class Late(Blocks):
        def __iter__(self) -> Iterator[bytes]:
            self.start("200 OK", [("X-A", "b")])
            yield b"x"

    def application(environ: Any, start_response: Any) -> Any:
        body = Late()
        body.start = start_response
        return body

    assert call(application).headers == {"x-a": "b"}
    assert body.closed == 0


@pytest.mark.parametrize("kind", [list, tuple, set, dict.fromkeys, iter, lambda b: (x for x in b)])
def test_any_iterable_is_a_body(kind):
    assert call(app(body=kind([b"hello"]))).body == b"hello"


def test_subclasses_of_bytes_and_lists_are_taken():
    class Bytes(bytes):
        pass

    class List(list):
        pass

    exchange = Recording()
    exchange.ub_write = lambda data: exchange.steps.append(("write", bytes(data)))
    WsgiGateway(app(body=List([Bytes(b"x")])), exchange.sapi)(exchange)
    assert exchange.body == b"x"


def test_no_other_attribute_of_the_body_is_used():
    class Bare:
        __slots__ = ("blocks",)

        def __init__(self) -> None:
            self.blocks = iter([b"x"])

        def __iter__(self) -> Iterator[bytes]:
            return self.blocks

        def __getattr__(self, name: str) -> Any:
            assert name == "close", name
            raise AttributeError(name)

    assert call(app(body=Bare())).body == b"x"


# -- close() --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "variables", "gone_at", "end"),
    [
        (Blocks(b"a", b"b"), {}, None, "finish"),
        (Blocks(), {}, None, "finish"),
        (Blocks(b"a"), HEAD, None, "finish"),
        (Blocks(b"a", error=ValueError("x")), {}, None, "cut"),
        (Blocks(error=ValueError("x")), {}, None, "finish"),
        (Blocks(b"a", error=SystemExit(3)), {}, None, "cut"),
        (Blocks(b"a", "text"), {}, None, "cut"),
        (Blocks(b"a", b"b", b"c"), {}, 1, "cut"),
    ],
)
def test_close_is_called_once_whatever_happens(body, variables, gone_at, end):
    def prepare(exchange: Recording) -> None:
        exchange.gone_at = gone_at

    exchange = call(app(body=body), prepare=prepare, **variables)
    assert body.closed == 1
    assert exchange.end == end
    assert body.threads == {threading.get_ident()}
    if gone_at:
        assert body.asked == gone_at, "nothing more is asked for once the client has gone"
        assert exchange.sapi.log == ""


def test_close_comes_after_the_last_block_and_before_the_end():
    body = Blocks(b"a")
    body.close = lambda: exchange.steps.append("close")
    exchange = Recording()
    WsgiGateway(app(body=body), exchange.sapi)(exchange)
    assert exchange.sent == ["head", b"a", "flush", "close", "finish"]


def test_an_exception_in_close_is_logged():
    def fail() -> None:
        raise ValueError("close failed")

    body = Blocks(b"a")
    body.close = fail
    exchange = call(app(body=body))
    assert "ValueError: close failed" in exchange.sapi.log
    assert exchange.over


def test_close_is_called_after_the_keyboard_too():
    body = Blocks(b"a", error=KeyboardInterrupt())
    exchange = Recording()
    with pytest.raises(KeyboardInterrupt):
        WsgiGateway(app(body=body), exchange.sapi)(exchange)
    assert (body.closed, exchange.end) == (1, "cut")


@pytest.mark.parametrize("variables", [HEAD, {}])
def test_a_body_that_goes_nowhere_is_not_iterated_for_ever(variables):
    class Endless(Blocks):
        def __iter__(self) -> Iterator[bytes]:
            while self.asked < 5000:
                self.asked += 1
                yield b"event\n"
            raise AssertionError("asked for 5000 blocks that nobody gets")

    body = Endless()
    status = "200 OK" if variables else "204 No Content"
    exchange = call(app(body=body, status=status), **variables)
    assert (exchange.end, exchange.body, exchange.sapi.log, body.closed) == ("finish", b"", "", 1)


# -- the client has gone --------------------------------------------------------------------------


def test_a_write_to_a_client_that_has_gone_raises_in_the_application_quietly():
    caught: list[BaseException] = []

    def application(environ: Any, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [])
        try:
            write(b"x")
        except OSError as error:
            caught.append(error)
            raise
        raise AssertionError

    def prepare(exchange: Recording) -> None:
        exchange.gone_at = 1

    exchange = call(application, prepare=prepare)
    assert isinstance(caught[0], ClientDisconnected)
    assert (exchange.end, exchange.sapi.log) == ("cut", "")


def test_an_application_that_lets_a_short_body_through_is_cut_without_a_log_line():
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    def prepare(exchange: Recording) -> None:
        exchange.cut_short = True

    exchange = call(application, b"ab", prepare=prepare, CONTENT_LENGTH="9")
    assert (exchange.sent, exchange.sapi.log) == (["cut"], "")


# -- mistakes of the application ------------------------------------------------------------------


def raising(error: BaseException, *blocks: bytes, headers: Any = ()) -> Any:
    def application(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(headers))
        yield from blocks
        raise error

    return application


def at_once(error: BaseException) -> Any:
    def application(environ: Any, start_response: Any) -> Any:
        raise error

    return application


class Wrong(NamedTuple):
    application: Any
    log: str
    cut: bool = False
    """Something had been sent: the response is cut. Else it is 500."""


def header(name: Any, value: Any) -> Any:
    return app(b"x", headers=[(name, value)])


WRONG = {
    "raises at once": Wrong(at_once(ValueError("boom")), "ValueError: boom"),
    "raises before the first byte": Wrong(raising(ValueError("boom"), b""), "ValueError: boom"),
    "raises in the body": Wrong(raising(ValueError("boom"), b"x"), "ValueError: boom", True),
    "SystemExit at once": Wrong(at_once(SystemExit(1)), "SystemExit"),
    "SystemExit in the body": Wrong(raising(SystemExit(1), b"x"), "SystemExit", True),
    "no start_response": Wrong(lambda e, s: [b"x"], "before it called start_response"),
    "no start_response, no block": Wrong(lambda e, s: [], "did not call start_response"),
    "returns None": Wrong(app(body=None) and (lambda e, s: s("200 OK", []) and None), "NoneType"),
    "a str in the body": Wrong(app("text"), "no bytes but str"),
    "a str later in the body": Wrong(lazily(b"x", "text"), "no bytes but str", True),
    "an int in the body": Wrong(lazily(7), "no bytes but int"),
    "a bytearray in the body": Wrong(lazily(bytearray(b"x")), "no bytes but bytearray"),
    "returns bytes": Wrong(app(body=b"text"), "no bytes but int"),
    "write() of a str": Wrong(writing("text"), "write() was given no bytes but str"),
    "start_response twice": Wrong(again(), "called again without exc_info"),
    # The status.
    **{
        f"status {status!r}": Wrong(app(b"x", status=status), "status")
        for status in (
            b"200 OK", 200, "", "20", "2x0 OK", "200OK", "200\tOK", "OK", "200 OK\r\nX: y",
            "200 \x7f", "200 \u20ac", "099 Low", "000 None", "200 OK ", " 200 OK", "\xb200 OK",
        )
    },
    # The headers.
    "no headers": Wrong(app(b"x", headers=None), "no list"),
    "headers in a tuple": Wrong(lambda e, s: s("200 OK", (("A", "b"),)), "no list"),
    "headers as a dict": Wrong(app(b"x", headers={"A": "b"}), "no list"),
    "a header of one": Wrong(app(b"x", headers=[("A",)]), "no pair"),
    "a header of three": Wrong(app(b"x", headers=[("A", "b", "c")]), "no pair"),
    "a header that is none": Wrong(app(b"x", headers=[7]), "no pair"),
    **{
        f"header name {name!r}": Wrong(header(name, "b"), "header name")
        for name in ("", "A B", "A:", "A\n", "A\0", "\xe4", b"A", None, "A\x7f", "(A)", "A\u20ac")
    },
    **{
        f"header value {value!r}": Wrong(header("A", value), "of header 'A'")
        for value in ("b\n", "b\r\nX: y", "\0", "\x1f", "\x7f", "\u20ac", "\udc80", b"b", 7, None)
    },
    "CVE-2026-0865: a control character in a known header": Wrong(
        header("Content-Type", "text/plain\x0b"), "control character"
    ),
    **{
        f"hop-by-hop header {name}": Wrong(header(name, "x"), "belongs to one connection")
        for name in (
            "Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "TE",
            "Trailer", "Trailers", "Transfer-Encoding", "Upgrade", "transfer-encoding",
        )
    },
    **{
        f"header {name} of the CGI interface": Wrong(header(name, "x"), "belongs to the CGI")
        for name in ("Status", "status", "X-CGI-Foo")
    },
    **{
        f"Content-Length {value!r}": Wrong(header("Content-Length", value), "Content-Length")
        for value in ("", "x", "+1", "-1", "1,1", " 1", "1_0", "\xb2")
    },
    "two Content-Lengths that differ": Wrong(
        app(b"x", headers=length(1) + length(2)), "two Content-Length headers differ"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_500_or_a_cut_and_a_log_line(name):
    case = WRONG[name]
    exchange = call(case.application)
    assert case.log in exchange.sapi.log
    assert exchange.sapi.lines[0][0] == "error"
    if case.cut:
        assert exchange.end == "cut"
    else:
        assert exchange.sent == ["head", b"500 Internal Server Error\n", "finish"]
        assert exchange.head[0] == "500 Internal Server Error"


@pytest.mark.parametrize("name", [n for n in WRONG if "header" in n or "status" in n])
def test_mistakes_in_the_head_are_raised_where_they_are_made(name):
    """So that the application can answer with something else."""
    case = WRONG[name]

    def guarded(environ: Any, start_response: Any) -> Any:
        def start(*arguments: Any) -> Any:
            try:
                return start_response(*arguments)
            except ApplicationError:
                return start_response("500 Mine", [("X-Mine", "1")])

        case.application(environ, start)
        return [b"sorry"]

    exchange = call(guarded)
    assert (exchange.head[0], exchange.body) == ("500 Mine", b"sorry")


def test_a_500_to_head_has_no_body():
    exchange = call(at_once(ValueError("x")), **HEAD)
    assert (exchange.status, exchange.body) == (500, b"")


def test_good_heads_pass_as_they_are():
    headers = [
        ("X-Tab", "a\tb"),
        ("X-Latin", "\xe9\x80"),
        ("Set-Cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("X-Sendfile", "/x"),
        ("X-Accel-Redirect", "/x"),
        ("!#$%&'*+-.^_`|~0", ""),
    ]
    exchange = call(app(b"x", status="299 \xe9t\xe9", headers=headers))
    assert exchange.head == ("299 \xe9t\xe9", [*headers, ("Content-Length", "1")])
    assert exchange.sapi.log == ""


def test_the_applications_list_of_headers_stays_its_own():
    headers = [("A", "b")]

    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", headers)
        headers.append(("Evil", "x\ny"))
        return [b"x"]

    assert call(application).headers == {"a": "b", "content-length": "1"}
    assert headers == [("A", "b"), ("Evil", "x\ny")]


def test_exc_info_after_the_head_is_raised():
    caught: list[BaseException] = []

    def application(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"x"
        try:
            raise ValueError("late")
        except ValueError:
            try:
                start_response("500 Late", [], sys.exc_info())
            except ValueError as error:
                caught.append(error)
                raise

    exchange = call(application)
    assert str(caught[0]) == "late"
    assert (exchange.end, exchange.status, exchange.body) == ("cut", 200, b"x")
    assert "ValueError: late" in exchange.sapi.log


def test_exc_info_at_the_first_call_is_taken():
    def application(environ: Any, start_response: Any) -> list[bytes]:
        try:
            raise ValueError
        except ValueError:
            start_response("503 Sorry", [], sys.exc_info())
        return [b"x"]

    assert call(application).head[0] == "503 Sorry"


def test_the_replacing_head_brings_its_own_length():
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "1")])
        try:
            raise ValueError
        except ValueError:
            start_response("503 Sorry", [("Content-Length", "5")], sys.exc_info())
        return [b"sorry"]

    exchange = call(application)
    assert (exchange.end, exchange.body) == ("finish", b"sorry")


def test_the_log_line_of_a_failure_cannot_be_forged_by_the_path():
    exchange = call(at_once(ValueError("x")), REQUEST_URI="/a\n[error] forged\x1b[1m")
    assert "\n[error] forged" not in exchange.sapi.log
    assert "\x1b" not in exchange.sapi.log


# -- the header handler, the name store, one-shot runs --------------------------------------------


@pytest.mark.parametrize("application", [app(b"x"), lazily(b"x"), writing(b"x"), app()])
def test_the_header_handler_has_the_last_word(application):
    def prepare(exchange: Recording) -> None:
        exchange.header_handler = lambda headers: [*headers, ("X-Last", "1")]

    assert call(application, prepare=prepare).headers["x-last"] == "1"


def test_the_store_of_checked_names_is_bounded():
    from sapi_adapters import sapi

    headers = [(f"X-{n}", "y") for n in range(2000)]
    assert len(call(app(b"x", headers=headers)).head[1]) == 2001
    assert len(sapi.header_kinds) <= 1000


def test_wsgi_has_no_life_span():
    exchange = Recording()
    gateway = WsgiGateway(app(b"x"), exchange.sapi)
    assert gateway.run_once(gateway, exchange) is True
    assert exchange.body == b"x"


# -- wsgi.file_wrapper ----------------------------------------------------------------------------


class Closing(io.BytesIO):
    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.asked: list[int] = []

    def read(self, size: int | None = -1) -> bytes:
        self.asked.append(-1 if size is None else size)
        return super().read(size)


def file_app(file: Any, headers: Any = (), wrap: Callable[[Any], Any] | None = None) -> Any:
    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", list(headers))
        return wrap(file) if wrap else environ["wsgi.file_wrapper"](file)

    return application


def test_a_wrapped_file_is_sent_from_where_it_stands_and_closed():
    file = Closing(b"0123456789")
    file.seek(4)
    exchange = call(file_app(file))
    assert (exchange.body, exchange.end, file.closed) == (b"456789", "finish", True)
    assert -1 not in file.asked, "in blocks of bounded size"


def test_a_wrapped_file_is_read_no_further_than_content_length():
    file = Closing(b"0123456789")
    file.close = lambda: None  # type: ignore[method-assign]
    exchange = call(file_app(file, headers=length(4)))
    assert (exchange.body, exchange.end, file.tell()) == (b"0123", "finish", 4)
    assert exchange.sapi.log == ""


def test_a_wrapped_file_shorter_than_content_length_is_cut():
    exchange = call(file_app(Closing(b"0123"), headers=length(9)))
    assert (exchange.body, exchange.end) == (b"0123", "cut")


def test_a_wrapped_object_needs_nothing_but_read():
    class Reader:
        def __init__(self) -> None:
            self.blocks = [b"a", b"b", b""]

        def read(self, size: int) -> bytes:
            return self.blocks.pop(0)

    assert call(file_app(Reader())).body == b"ab"


def test_a_big_file_goes_in_blocks():
    exchange = call(file_app(Closing(b"x" * 300_000)))
    blocks = [step for step in exchange.sent if isinstance(step, bytes)]
    assert len(blocks) > 1 and max(map(len, blocks)) <= 65536
    assert sum(map(len, blocks)) == 300_000


def test_a_wrapper_in_a_wrapper_of_middleware_is_an_iterable():
    exchange = call(file_app(Closing(b"abc"), wrap=lambda f: iter(FileWrapper(f, 2))))
    assert exchange.body == b"abc"


def test_a_block_size_larger_than_the_least_is_obeyed():
    file = Closing(b"x" * 10)
    assert list(FileWrapper(file, 1 << 20)) == [b"x" * 10]
    assert file.asked == [1 << 20, 1 << 20]


@pytest.mark.parametrize("headers", [(), length(10)])
def test_a_mapped_file_leaves_by_the_front_end(tmp_path, headers):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    file = path.open("rb")

    def prepare(exchange: Recording) -> None:
        exchange.sapi.sendfile = SendfileMap([f"x-sendfile={tmp_path}"])

    exchange = call(file_app(file, headers=[*TEXT, *headers]), prepare=prepare)
    assert exchange.sent == ["head", "finish"]
    assert exchange.headers == {"content-type": "text/plain", "x-sendfile": str(path)}
    assert file.closed and exchange.sapi.log == ""


@pytest.mark.parametrize("how", ["seek", "head", "short", "written"])
def test_a_mapped_file_is_sent_from_here_where_the_front_end_would_send_another(tmp_path, how):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")

    def application(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", list(length(4)) if how == "short" else [])
        file = path.open("rb")
        if how == "seek":
            file.seek(5)
        if how == "written":
            write(b"x")
        return environ["wsgi.file_wrapper"](file)

    def prepare(exchange: Recording) -> None:
        exchange.sapi.sendfile = SendfileMap([f"x-sendfile={tmp_path}"])

    exchange = call(application, prepare=prepare, **HEAD if how == "head" else {})
    wanted = {"seek": b"56789", "head": b"", "short": b"0123", "written": b"x0123456789"}
    assert (exchange.body, exchange.end) == (wanted[how], "finish")
    assert "x-sendfile" not in exchange.headers


def test_a_wrapped_file_without_start_response_is_a_mistake(tmp_path):
    def application(environ: Any, start_response: Any) -> Any:
        return environ["wsgi.file_wrapper"](io.BytesIO(b"x"))

    def prepare(exchange: Recording) -> None:
        exchange.sapi.sendfile = SendfileMap([f"x-sendfile={tmp_path}"])

    assert call(application, prepare=prepare).status == 500


# -- the judge of the standard library ------------------------------------------------------------


def validated_reader(environ: Any, start_response: Any) -> Iterator[bytes]:
    stream = environ["wsgi.input"]
    data = stream.readline() + stream.read(2) + b"".join(stream.readlines(1)) + b"".join(stream)
    environ["wsgi.errors"].write("a line\n")
    environ["wsgi.errors"].writelines(["b\n"])
    environ["wsgi.errors"].flush()
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield data


@pytest.mark.parametrize(
    "application",
    [
        app(b"hello", headers=TEXT),
        app(headers=TEXT),
        app(b"a", b"b", headers=TEXT),
        lazily(b"a", b"b", headers=TEXT),
        writing(b"a", headers=TEXT, then=[b"b"]),
        validated_reader,
        app(b"", status="204 No Content"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_wsgiref_validate_has_nothing_to_say(application, method, capsys):
    variables = {"REQUEST_METHOD": method, "CONTENT_LENGTH": str(len(LINES))}
    plain = call(application, LINES, **variables)
    exchange = call(validator(application), LINES, **variables)
    assert exchange.sapi.log == ""
    assert exchange.end == "finish"
    assert exchange.body == plain.body
    assert capsys.readouterr().err == "", "the validator complains there when close() was missed"
