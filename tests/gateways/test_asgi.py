"""The ASGI gateway against ASGI 3.0, on exchanges that write down what is done to them.

What does not need other tasks runs three times: on an event loop, on a loop with a blocking
exchange lent to it (CGI, where the application uses asyncio), and driven by hand (CGI without).
"""

from __future__ import annotations

import asyncio
import http
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest
from gateways.recording import ENVIRON, AsyncRecording, Recording, RecordingSapi

from sapi_adapters.gateways import asgi
from sapi_adapters.gateways.asgi import AsgiGateway, http_scope
from sapi_adapters.sapi import (
    ApplicationError,
    ClientDisconnected,
    ConfigurationError,
    RequestError,
    interface_of,
)
from sapi_adapters.sendfile import SendfileMap

SECONDS = 20.0
Exchange = Any


def on_a_loop(main: Callable[[], Awaitable[Any]]) -> Any:
    """Run *main* with a deadline, so that a wait that should have ended fails its test."""

    async def limited() -> Any:
        return await asyncio.wait_for(main(), SECONDS)

    return asyncio.run(limited())


def loop(application: Any, *body: bytes, prepare: Any = None, **variables: str) -> Exchange:
    async def main() -> Exchange:
        exchange = AsyncRecording(body, **variables)
        if prepare is not None:
            prepare(exchange)
        await AsgiGateway(application, exchange.sapi)(exchange)
        return exchange

    return on_a_loop(main)


def lent(application: Any, *body: bytes, prepare: Any = None, **variables: str) -> Exchange:
    exchange = Recording(body, **variables)
    if prepare is not None:
        prepare(exchange)
    gateway = AsgiGateway(application, exchange.sapi)
    assert gateway.run_once(gateway, exchange) is True
    return exchange


def by_hand(application: Any, *body: bytes, prepare: Any = None, **variables: str) -> Exchange:
    known, asgi._LOOPS = asgi._LOOPS, frozenset()
    try:
        return lent(application, *body, prepare=prepare, **variables)
    finally:
        asgi._LOOPS = known


@pytest.fixture(params=[loop, lent, by_hand], ids=["loop", "lent", "by hand"])
def call(request):
    return request.param


def plain(application: Any) -> Any:
    """An application that refuses the life span, as Django's does."""

    async def refusing(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise ValueError(f"{scope['type']} is not for me")
        await application(scope, receive, send)

    return refusing


def start(status: Any = 200, *headers: Any, **more: Any) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers), **more}


def body(data: Any = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def sends(*events: Any) -> Any:
    @plain
    async def application(scope: Any, receive: Any, send: Any) -> None:
        for event in events:
            if isinstance(event, BaseException):
                raise event
            await send(event)

    return application


def length(size: Any) -> tuple[bytes, bytes]:
    return (b"content-length", str(size).encode())


HEAD = {"REQUEST_METHOD": "HEAD"}
TEXT = (b"content-type", b"text/plain")


# -- what is sent ---------------------------------------------------------------------------------


class Sent(NamedTuple):
    events: tuple[Any, ...]
    steps: list[Any]
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed
    variables: dict[str, str] = {}  # noqa: RUF012 - never changed
    log: str = ""


SENT = {
    "one body event: its length is known": Sent(
        (start(200, TEXT), body(b"hello")),
        ["head", b"hello", "finish"],
        {"content-type": "text/plain", "content-length": "5"},
    ),
    "one with its length": Sent(
        (start(200, length(5)), body(b"hello")),
        ["head", b"hello", "finish"],
        {"content-length": "5"},
    ),
    "an empty one": Sent((start(), body()), ["head", "finish"], {"content-length": "0"}),
    "keys that may be left out": Sent(
        ({"type": "http.response.start", "status": 200}, {"type": "http.response.body"}),
        ["head", "finish"],
        {"content-length": "0"},
    ),
    "keys nobody knows": Sent(
        (start(x=1), {**body(b"a"), "y": 2}), ["head", b"a", "finish"], {"content-length": "1"}
    ),
    "a stream: each block on its way before send() returns": Sent(
        (start(), body(b"a", True), body(b"b", True), body()),
        ["head", b"a", "flush", b"b", "flush", "finish"],
    ),
    "a stream whose last event has bytes": Sent(
        (start(), body(b"a", True), body(b"b")), ["head", b"a", "flush", b"b", "finish"]
    ),
    "the head waits for the first byte": Sent(
        (start(), body(b"", True), body(b"a")), ["head", b"a", "finish"], {"content-length": "1"}
    ),
    "a stream of a declared length": Sent(
        (start(200, length(2)), body(b"a", True), body(b"b", True), body()),
        ["head", b"a", "flush", b"b", "flush", "finish"],
        {"content-length": "2"},
    ),
    "bytearray and memoryview": Sent(
        (start(), body(bytearray(b"a"), True), body(memoryview(b"b"))),
        ["head", b"a", "flush", b"b", "finish"],
    ),
    "after the end nothing is sent any more": Sent(
        (start(), body(b"a"), body(b"b"), start(), {"type": "nonsense"}),
        ["head", b"a", "finish"],
        {"content-length": "1"},
    ),
    "HEAD: the headers of GET, no body": Sent(
        (start(), body(b"hello")), ["head", "finish"], {"content-length": "5"}, HEAD
    ),
    "HEAD and a length": Sent(
        (start(200, length(7)), body()), ["head", "finish"], {"content-length": "7"}, HEAD
    ),
    "HEAD and nothing: no length is invented": Sent(
        (start(), body()), ["head", "finish"], {}, HEAD
    ),
    "HEAD and a stream": Sent(
        (start(), body(b"a", True), body(b"b")), ["head", "flush", "finish"], {}, HEAD
    ),
    "204 has neither body nor length": Sent(
        (start(204, length(2)), body(b"no")), ["head", "finish"]
    ),
    "204 as some spell it": Sent(
        (start(204, (b"Content-Length", b"2")), body(b"no")), ["head", "finish"]
    ),
    "304 keeps its length": Sent(
        (start(304, length(2)), body(b"no")), ["head", "finish"], {"content-length": "2"}
    ),
    "304 without one": Sent((start(304), body()), ["head", "finish"]),
    "Transfer-Encoding is ignored, the rest of the connection's headers dropped": Sent(
        (start(200, *((name, b"x") for name in (
            b"transfer-encoding", b"connection", b"keep-alive", b"upgrade", b"te", b"Connection"))),
         body(b"a")),
        ["head", b"a", "finish"],
        {"content-length": "1"},
    ),
    "more than Content-Length is cut off, with a log line": Sent(
        (start(200, length(3)), body(b"hello")),
        ["head", b"hel", "finish"],
        {"content-length": "3"},
        {},
        "more bytes than Content-Length",
    ),
    "an event beyond Content-Length": Sent(
        (start(200, length(3)), body(b"hel", True), body(b"lo")),
        ["head", b"hel", "flush", "finish"],
        {"content-length": "3"},
        {},
        "more bytes than Content-Length",
    ),
    "less than Content-Length is a visible failure": Sent(
        (start(200, length(3)), body(b"h", True), body(b"e")),
        ["head", b"h", "flush", b"e", "cut"],
        {"content-length": "3"},
        {},
        "1 bytes shorter than its Content-Length",
    ),
    "two Content-Lengths that agree": Sent(
        (start(200, length(1), length(1)), body(b"a")),
        ["head", b"a", "finish"],
        {"content-length": "1"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SENT)
def test_what_is_sent(call, name):
    case = SENT[name]
    exchange = call(sends(*case.events), **case.variables)
    assert exchange.sent == case.steps
    assert exchange.headers == case.headers
    assert case.log in exchange.sapi.log
    assert bool(case.log) == bool(exchange.sapi.log)


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (200, "200 OK"),
        (404, "404 Not Found"),
        (418, "418 I'm a Teapot"),
        (299, "299 "),
        (999, "999 "),
        (http.HTTPStatus.CREATED, "201 Created"),
    ],
)
def test_a_status_gets_its_reason_and_an_unknown_one_an_empty_one(status, line):
    assert loop(sends(start(status), body(b"x"))).head[0] == line


@pytest.mark.parametrize("status", [s for s in http.HTTPStatus if s >= 200])
def test_the_reasons_are_those_of_the_registry(status):
    if status not in (413, 414, 416, 418, 422, 510):  # renamed between versions of Python
        assert asgi.REASONS[status] == status.phrase


def test_headers_keep_their_order_their_spelling_and_their_duplicates():
    headers = [
        (b"set-cookie", b"a=1"), [b"X-Tab", b"a\tb"], (b"set-cookie", b"b=\xe9"), (b"x", b""),
        (b"x-sendfile", b"/x"),
    ]  # fmt: skip
    exchange = loop(sends(start(200, *headers), body(b"x")))
    wanted = [(name.decode(), value.decode("latin-1")) for name, value in headers]
    assert exchange.head[1] == [*wanted, ("content-length", "1")]


def test_headers_may_be_any_iterable():
    event = {"type": "http.response.start", "status": 200, "headers": iter(((b"a", b"b"),))}
    assert loop(sends(event, body(b"x"))).headers == {"a": "b", "content-length": "1"}


def test_nothing_is_sent_at_response_start(call):
    seen: list[Any] = []

    @plain
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        seen.append(exchanges[0].sent[:])
        await send(body(b"", True))
        seen.append(exchanges[0].sent[:])
        await send(body(b"a", True))
        seen.append(exchanges[0].sent[:])
        await send(body())

    exchanges: list[Any] = []
    call(application, prepare=exchanges.append)
    assert seen == [[], [], ["head", b"a", "flush"]]


@pytest.mark.parametrize("events", [(body(b"x"),), (body(b"x", True), body())])
def test_the_header_handler_has_the_last_word(call, events):
    def prepare(exchange: Exchange) -> None:
        exchange.header_handler = lambda headers: [*headers, ("x-last", "1")]

    assert call(sends(start(), *events), prepare=prepare).headers["x-last"] == "1"


def test_the_stores_of_names_are_bounded():
    headers = [(b"x-%d" % n, b"y") for n in range(2000)]
    variables = {f"HTTP_X_{n}": "y" for n in range(2000)}
    assert len(loop(sends(start(200, *headers), body(b"x"))).head[1]) == 2001
    assert len(http_scope({**ENVIRON, **variables}, "x")["headers"]) == 2000
    assert len(asgi._response_names) <= 1000
    assert len(asgi._header_names) <= 1000


# -- mistakes of the application ------------------------------------------------------------------


class Wrong(NamedTuple):
    events: tuple[Any, ...]
    log: str
    cut: bool = False


def with_header(name: Any, value: Any) -> tuple[Any, ...]:
    return (start(200, (name, value)), body(b"x"))


BOOM = ValueError("boom")
WRONG = {
    "raises at once": Wrong((BOOM,), "ValueError: boom"),
    "raises between start and body: nothing has been sent yet": Wrong(
        (start(), BOOM), "ValueError: boom"
    ),
    "raises after an event without bytes": Wrong(
        (start(), body(b"", True), BOOM), "ValueError: boom"
    ),
    "raises in the body": Wrong((start(), body(b"x", True), BOOM), "ValueError: boom", True),
    "SystemExit": Wrong((SystemExit(3),), "SystemExit"),
    "SystemExit in the body": Wrong((start(), body(b"x", True), SystemExit(3)), "SystemExit", True),
    "returns without a response": Wrong((), "returned without a response"),
    "returns after start": Wrong((start(),), "returned"),
    "returns before the body's end": Wrong(
        (start(), body(b"x", True)), "returned before the body's end", True
    ),
    "a body before the start": Wrong((body(b"x"),), "where response start is due"),
    "two starts": Wrong((start(), start()), "where body is due"),
    "a start in the body": Wrong((start(), body(b"x", True), start()), "where body is due", True),
    "an unknown event": Wrong(({"type": "http.response.trailers"},), "http.response.trailers"),
    "an event of another kind": Wrong((start(), {"type": "websocket.send"}), "websocket.send"),
    "an event without a type": Wrong(({},), "KeyError: 'type'"),
    "a start without a status": Wrong(({"type": "http.response.start"},), "KeyError: 'status'"),
    **{
        f"status {status!r}": Wrong((start(status), body(b"x")), "is no number of three digits")
        for status in ("200", None, 99, 1000, 0, -200, 2.0)
    },
    "trailers": Wrong((start(trailers=True), body(b"x")), "trailers cannot pass"),
    **{
        f"a body that is {type(data).__name__}": Wrong((start(), body(data)), "no bytes but")
        for data in ("text", 7, None, [b"x"])
    },
    "a str in the body": Wrong((start(), body(b"x", True), body("text")), "no bytes but str", True),
    **{
        f"header {name!r}: {value!r}": Wrong(with_header(name, value), "header")
        for name, value in (
            ("a", b"b"), (b"a", "b"), (b"a", None), (None, b"b"), (b"", b"b"), (b"a b", b"b"),
            (b"a:", b"b"), (b"a\n", b"b"), (b"\xe9", b"b"), (b"a", b"b\n"), (b"a", b"b\r\nx: y"),
            (b"a", b"\0"), (b"a", b"\x7f"), (b"status", b"200"), (b"x-cgi-foo", b"1"),
            (b"proxy-authenticate", b"x"), (b"trailer", b"x"),
            (b"content-type", b"text/plain\x0b"),
        )
    },
    "a header of one": Wrong((start(200, (b"a",)),), "no pair of bytes"),
    "a header of three": Wrong((start(200, (b"a", b"b", b"c")),), "no pair of bytes"),
    "a header that is none": Wrong((start(200, 7),), "no pair of bytes"),
    **{
        f"content-length {value!r}": Wrong((start(200, length(value)),), "Content-Length")
        for value in ("", "x", "+1", "-1", "1,1", " 1")
    },
    "two Content-Lengths that differ": Wrong(
        (start(200, length(1), length(2)), body(b"x")), "two Content-Length headers differ"
    ),
    "pathsend before the start": Wrong(
        ({"type": "http.response.pathsend", "path": "/"},), "where response start is due"
    ),
    "pathsend in the body": Wrong(
        (start(), body(b"x", True), {"type": "http.response.pathsend", "path": "/"}),
        "where body is due",
        True,
    ),
    "pathsend of a relative path": Wrong(
        (start(), {"type": "http.response.pathsend", "path": "x"}), "absolute path"
    ),
    "pathsend of no file": Wrong(
        (start(), {"type": "http.response.pathsend", "path": "/nonexistent"}), "FileNotFoundError"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_500_or_a_cut_and_a_log_line(call, name):
    case = WRONG[name]
    exchange = call(sends(*case.events))
    assert case.log in exchange.sapi.log
    if case.cut:
        assert exchange.end == "cut"
    else:
        assert exchange.sent == ["head", b"500 Internal Server Error\n", "finish"]
        assert exchange.head[0] == "500 Internal Server Error"


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_raised_from_send(name):
    case = WRONG[name]
    if not case.events or not isinstance(case.events[-1], dict) or "returned" in case.log:
        return
    raised: list[BaseException] = []

    @plain
    async def application(scope: Any, receive: Any, send: Any) -> None:
        for event in case.events:
            try:
                await send(event)
            except Exception as error:
                raised.append(error)
                break

    loop(application)
    assert len(raised) == 1


def test_a_failure_after_the_response_is_logged_and_changes_nothing(call):
    exchange = call(sends(start(), body(b"x"), ValueError("afterwards")))
    assert exchange.sent == ["head", b"x", "finish"]
    assert "ValueError: afterwards" in exchange.sapi.log


def test_a_500_to_head_has_no_body(call):
    exchange = call(sends(BOOM), **HEAD)
    assert (exchange.status, exchange.body) == (500, b"")


@pytest.mark.parametrize("events", [(), (start(), body(b"x", True))])
def test_a_cancelled_application_is_cut_and_the_cancellation_passes(events):
    async def main() -> Exchange:
        waiting = asyncio.Event()

        @plain
        async def application(scope: Any, receive: Any, send: Any) -> None:
            for event in events:
                await send(event)
            waiting.set()
            await asyncio.sleep(3600)

        exchange = AsyncRecording()
        task = asyncio.create_task(AsgiGateway(application, exchange.sapi)(exchange))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return exchange

    exchange = on_a_loop(main)
    assert exchange.end == "cut"


def test_the_keyboard_passes_and_the_life_span_still_ends():
    seen: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            seen.append((await receive())["type"])
            await send({"type": "lifespan.shutdown.complete"})
        else:
            raise KeyboardInterrupt

    exchanges: list[Any] = []
    with pytest.raises(KeyboardInterrupt):
        by_hand(application, prepare=exchanges.append)
    assert (exchanges[0].end, seen) == ("cut", ["lifespan.shutdown"])


# -- receive --------------------------------------------------------------------------------------


def request(data: bytes = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": data, "more_body": more}


GONE = {"type": "http.disconnect"}


@pytest.mark.parametrize(
    ("blocks", "wanted"),
    [
        ((), [request()]),
        ((b"all",), [request(b"all")]),
        ((b"a", b"b"), [request(b"a", True), request(b"b")]),
    ],
)
def test_the_body_comes_in_events_then_disconnect_after_the_response(call, blocks, wanted):
    got: list[Any] = []

    @plain
    async def application(scope: Any, receive: Any, send: Any) -> None:
        got.append(await receive())
        while got[-1]["more_body"]:
            got.append(await receive())
        await send(start())
        await send(body(b"x"))
        for _ in range(3):
            got.append(await receive())

    exchange = call(application, *blocks)
    assert got == [*wanted, GONE, GONE, GONE]
    assert exchange.sent == ["head", b"x", "finish"]


def test_a_body_whose_end_comes_late_ends_with_an_empty_event():
    got: list[Any] = []

    @plain
    async def application(scope: Any, receive: Any, send: Any) -> None:
        got.extend([await receive(), await receive()])
        await send(start())
        await send(body(b"x"))

    async def main() -> None:
        class Late(AsyncRecording):
            async def read_post(self, size: int) -> bytes:
                data = self.incoming.pop() if self.incoming else b""
                self.post_ended = not data
                return data

        exchange = Late([b"a"])
        await AsgiGateway(application, exchange.sapi)(exchange)

    on_a_loop(main)
    assert got == [request(b"a", True), request()]


def test_a_body_is_read_as_the_application_asks():
    @plain
    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert "read" not in exchanges[0].steps
        await receive()
        assert exchanges[0].steps == ["read"]
        await send(start())
        await send(body(b"x"))

    exchanges: list[Any] = []
    assert loop(application, b"a", b"b", prepare=exchanges.append).body == b"x"


def test_a_big_body_comes_in_blocks_of_bounded_size(call):
    sizes: list[int] = []

    @plain
    async def application(scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            event = await receive()
            sizes.append(len(event["body"]))
            more = event["more_body"]
        await send(start())
        await send(body(b"x"))

    call(application, b"x" * 300_000)
    assert sum(sizes) == 300_000 and max(sizes) <= 65536


def test_a_body_cut_short_is_a_disconnect_at_once_and_every_time(call):
    got: list[Any] = []

    @plain
    async def application(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(4):
            got.append(await receive())

    def prepare(exchange: Exchange) -> None:
        exchange.cut_short = True

    call(application, b"ab", prepare=prepare, CONTENT_LENGTH="9")
    assert got == [request(b"ab", True), GONE, GONE, GONE]


def test_after_the_body_receive_waits_while_the_response_is_open():
    async def main() -> None:
        @plain
        async def application(scope: Any, receive: Any, send: Any) -> None:
            assert await receive() == request()
            watcher = asyncio.create_task(receive())
            await send(start())
            await send(body(b"x", True))
            for _ in range(5):
                await asyncio.sleep(0)
            assert not watcher.done()
            await send(body())
            assert await watcher == GONE

        exchange = AsyncRecording()
        await AsgiGateway(application, exchange.sapi)(exchange)
        assert exchange.end == "finish" and exchange.sapi.log == ""

    on_a_loop(main)


def test_receive_wakes_with_disconnect_when_the_client_goes():
    async def main() -> None:
        @plain
        async def application(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            watcher = asyncio.create_task(receive())
            await asyncio.sleep(0)
            exchange.give_up()
            assert await watcher == GONE
            assert await receive() == GONE
            with pytest.raises(OSError, match="gone"):
                await send(start())

        exchange = AsyncRecording()
        await AsgiGateway(application, exchange.sapi)(exchange)
        assert (exchange.end, exchange.sapi.log) == ("cut", "")

    on_a_loop(main)


def test_by_hand_to_wait_for_a_disconnect_blocks_on_the_exchange():
    got: list[Any] = []

    @plain
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        got.append(await receive())

    exchange = by_hand(application)
    assert got == [GONE]
    assert "wait" in exchange.steps


# -- the client has gone --------------------------------------------------------------------------


@pytest.mark.parametrize("let_out", [True, False])
def test_send_raises_an_oserror_once_the_client_has_gone_and_nothing_is_logged(call, let_out):
    raised: list[BaseException] = []

    @plain
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        for _ in range(3):
            try:
                await send(body(b"x", True))
            except OSError as error:
                raised.append(error)
        if let_out:
            raise raised[0]

    def prepare(exchange: Exchange) -> None:
        exchange.gone_at = 2

    exchange = call(application, prepare=prepare)
    assert [type(error) for error in raised] == [ClientDisconnected] * 2
    assert (exchange.sent, exchange.sapi.log) == (["head", b"x", "flush", b"x", "flush", "cut"], "")


# -- pressure, and work after the response --------------------------------------------------------


def test_send_waits_while_the_peers_buffers_are_full():
    async def main() -> None:
        sent: list[int] = []

        @plain
        async def application(scope: Any, receive: Any, send: Any) -> None:
            await send(start())
            for n in range(3):
                await send(body(b"x", True))
                sent.append(n)
            await send(body())

        exchange = AsyncRecording()
        exchange.gate.clear()
        task = asyncio.create_task(AsgiGateway(application, exchange.sapi)(exchange))
        while exchange.flushes == 0:
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        assert (sent, exchange.body) == ([], b"x")
        exchange.gate.set()
        await task
        assert (sent, exchange.end) == ([0, 1, 2], "finish")

    on_a_loop(main)


def test_an_application_may_work_on_after_the_response(call):
    seen: list[Any] = []

    @plain
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"x"))
        seen.append(exchanges[0].sent[:])

    exchanges: list[Any] = []
    call(application, prepare=exchanges.append)
    assert seen == [["head", b"x", "finish"]]


def test_lent_other_tasks_of_the_application_take_their_turn():
    order: list[str] = []

    @plain
    async def application(scope: Any, receive: Any, send: Any) -> None:
        async def other() -> None:
            order.append("other")

        task = asyncio.create_task(other())
        await send(start())
        await send(body(b"x", True))
        order.append("sent")
        await task
        await send(body())

    lent(application)
    assert order == ["other", "sent"]


def test_lent_a_watcher_of_the_disconnect_wakes_at_the_end_of_the_response():
    got: list[Any] = []

    @plain
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        watcher = asyncio.create_task(receive())
        await send(start())
        await send(body(b"x"))
        got.append(await asyncio.wait_for(watcher, SECONDS))

    lent(application)
    assert got == [GONE]


def test_a_lent_exchange_is_the_exchange():
    seen: list[Any] = []

    async def cycle(exchange: Any) -> None:
        exchange.log_message("hello")
        seen.append((exchange.environ, exchange.sapi, exchange.fileno(), exchange.aborted))
        await exchange.finish()

    exchange = Recording()
    gateway = AsgiGateway(sends(), exchange.sapi)
    gateway.run_once(cycle, exchange)
    assert seen == [(exchange.environ, exchange.sapi, None, False)]
    assert (exchange.logged, exchange.end) == ("hello", "finish")


def test_by_hand_an_application_that_needs_a_loop_is_told_and_its_finally_runs():
    seen: list[str] = []

    class Suspend:
        def __await__(self) -> Any:
            yield

    @plain
    async def application(scope: Any, receive: Any, send: Any) -> None:
        try:
            await Suspend()
        finally:
            seen.append("finally")

    exchange = by_hand(application)
    assert seen == ["finally"]
    assert exchange.over
    assert "loop" in exchange.sapi.log


def test_by_hand_an_application_that_will_not_end_is_left():
    class Suspend:
        def __await__(self) -> Any:
            yield

    @plain
    async def application(scope: Any, receive: Any, send: Any) -> None:
        try:
            await Suspend()
        finally:
            await Suspend()

    exchange = by_hand(application)
    assert "loop" in exchange.sapi.log


BARE = """
import sys
sys.path.insert(0, {root!r})
from sapi_adapters.gateways.asgi import AsgiGateway
from sapi_adapters.sapi import Exchange, Sapi

class Memory(Exchange):
    def __init__(self):
        self.environ = dict(REQUEST_METHOD="POST", SCRIPT_NAME="", PATH_INFO="/", QUERY_STRING="",
            SERVER_NAME="a", SERVER_PORT="80", SERVER_PROTOCOL="HTTP/1.1", CONTENT_LENGTH="4")
        self.sapi, self.left, self.out = Sapi(), [b"bo", b"dy"], b""
    def read_post(self, size):
        data = self.left.pop(0)
        self.post_ended = not self.left
        return data
    def send_headers(self, status, headers): self.out += status.encode()
    def ub_write(self, data): self.out += b" " + data
    def flush(self): self.out += b" flush"
    def finish(self): self.out += b" finish"
    def cut(self): pass

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        assert (await receive())["type"] == "lifespan.startup"
        scope["state"]["answer"] = 42
        await send({{"type": "lifespan.startup.complete"}})
        assert (await receive())["type"] == "lifespan.shutdown"
        exchange.out += b" shutdown"
        await send({{"type": "lifespan.shutdown.complete"}})
        return
    data, more = b"", True
    while more:
        event = await receive()
        data, more = data + event["body"], event["more_body"]
    await send({{"type": "http.response.start", "status": 200}})
    await send({{"type": "http.response.body", "body": data, "more_body": True}})
    await send({{"type": "http.response.body", "body": b"%d" % scope["state"]["answer"]}})

exchange = Memory()
gateway = AsgiGateway(app, exchange.sapi)
assert gateway.run_once(gateway, exchange)
print(exchange.out.decode())
assert "asyncio" not in sys.modules, "asyncio was imported"
"""


def test_by_hand_a_whole_request_with_its_life_span_goes_without_asyncio():
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", BARE.format(root=root)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stderr, done.stdout) == ("", "200 OK body flush 42 finish shutdown\n")


# -- the scope ------------------------------------------------------------------------------------


def scope_of(**variables: Any) -> dict[str, Any]:
    environ = {**ENVIRON, **variables}
    return http_scope({k: v for k, v in environ.items() if v is not None}, "some-sapi")


ABSENT = object()
TLS = {"HTTPS": "on", "SSL_PROTOCOL": "TLSv1.3"}
SCOPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "the least": (
        {},
        {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.5"}, "http_version": "1.1"}
        | {"method": "GET", "scheme": "http", "path": "/", "root_path": "", "query_string": b""}
        | {"headers": [], "client": None, "server": ("localhost", 80), "raw_path": ABSENT}
        | {"state": ABSENT},
    ),
    "a method is upper-cased": ({"REQUEST_METHOD": "get"}, {"method": "GET"}),
    "HTTP/1.0": ({"SERVER_PROTOCOL": "HTTP/1.0"}, {"http_version": "1.0"}),
    "HTTP/2.0": ({"SERVER_PROTOCOL": "HTTP/2.0"}, {"http_version": "2"}),
    "HTTP/2": ({"SERVER_PROTOCOL": "HTTP/2"}, {"http_version": "2"}),
    "HTTP/3.0": ({"SERVER_PROTOCOL": "HTTP/3.0"}, {"http_version": "3"}),
    "another protocol": ({"SERVER_PROTOCOL": "FOO"}, {"http_version": "1.0"}),
    "the path includes root_path": (
        {"SCRIPT_NAME": "/app", "PATH_INFO": "/x"},
        {"path": "/app/x", "root_path": "/app"},
    ),
    "paths are UTF-8": (
        {"SCRIPT_NAME": "/\xc3\xa4", "PATH_INFO": "/\xc3\xa9\xe2\x82\xac"},
        {"path": "/ä/é€", "root_path": "/ä"},
    ),
    "a character over the border of SCRIPT_NAME is none": (
        {"PATH_INFO": "/%41"},
        {"path": "/%41"},
    ),
    "the query stays encoded": (
        {"QUERY_STRING": "a=%20b&\xe9"},
        {"query_string": b"a=%20b&\xe9"},
    ),
    "headers: lower case, dashes, body headers, bytes": (
        {"HTTP_X_Y": "1", "HTTP_ACCEPT": "\xe9", "CONTENT_TYPE": "t", "CONTENT_LENGTH": "5"},
        {
            "headers": [
                (b"x-y", b"1"),
                (b"accept", b"\xe9"),
                (b"content-type", b"t"),
                (b"content-length", b"5"),
            ]
        },
    ),
    "https": ({"HTTPS": "on"}, {"scheme": "https"}),
    "https by REQUEST_SCHEME": ({"REQUEST_SCHEME": "https"}, {"scheme": "https"}),
    "X-Forwarded-Proto is a header as any other": (
        {"HTTP_X_FORWARDED_PROTO": "https", "HTTP_X_FORWARDED_FOR": "9.9.9.9"},
        {"scheme": "http", "client": None},
    ),
    "client": ({"REMOTE_ADDR": "::1", "REMOTE_PORT": "70"}, {"client": ("::1", 70)}),
    "client without a port": ({"REMOTE_ADDR": "1.2.3.4"}, {"client": ("1.2.3.4", 0)}),
    "client with nonsense for a port": (
        {"REMOTE_ADDR": "1.2.3.4", "REMOTE_PORT": "\xb2"},
        {"client": ("1.2.3.4", 0)},
    ),
    "client on a Unix socket": ({"REMOTE_ADDR": ""}, {"client": None}),
    "server by its address": (
        {"SERVER_ADDR": "10.0.0.1", "SERVER_PORT": "443"},
        {"server": ("10.0.0.1", 443)},
    ),
    "raw_path": ({"REQUEST_URI": "/?x"}, {"raw_path": b"/"}),
    "raw_path is what was received": (
        {"PATH_INFO": "/a b/\xc3\xa9", "REQUEST_URI": "/a%20b/%C3%A9?q=/x"},
        {"raw_path": b"/a%20b/%C3%A9"},
    ),
    "raw_path with encoded slashes": (
        {"SCRIPT_NAME": "/app", "PATH_INFO": "/a/b", "REQUEST_URI": "/app/a%2Fb"},
        {"raw_path": b"/app/a%2Fb"},
    ),
    "raw_path of the absolute form": (
        {"PATH_INFO": "/x", "REQUEST_URI": "http://h/x?y"},
        {"raw_path": b"/x"},
    ),
    "raw_path of an absolute form without a path": (
        {"REQUEST_URI": "http://h"},
        {"raw_path": ABSENT},
    ),
    "raw_path of the asterisk": ({"REQUEST_URI": "*"}, {"raw_path": ABSENT}),
    "raw_path after a rewrite is not known": (
        {"PATH_INFO": "/new", "REQUEST_URI": "/old"},
        {"raw_path": ABSENT},
    ),
    "raw_path where the front end merged slashes and dots": (
        {"PATH_INFO": "/a/c", "REQUEST_URI": "//a/./b/..//c"},
        {"raw_path": b"//a/./b/..//c"},
    ),
    "raw_path that ends in dots": (
        {"PATH_INFO": "/a/", "REQUEST_URI": "/a/b/.."},
        {"raw_path": b"/a/b/.."},
    ),
    "raw_path above the root": (
        {"PATH_INFO": "/a", "REQUEST_URI": "/../a"},
        {"raw_path": b"/../a"},
    ),
    "raw_path with lone percent signs": (
        {"PATH_INFO": "/%/%zz/% b", "REQUEST_URI": "/%/%zz/%%20b"},
        {"raw_path": b"/%/%zz/%%20b"},
    ),
    "raw_path is decoded once": (
        {"PATH_INFO": "/%41", "REQUEST_URI": "/%2541"},
        {"raw_path": b"/%2541"},
    ),
    "raw_path is not decoded twice": (
        {"PATH_INFO": "/A", "REQUEST_URI": "/%2541"},
        {"raw_path": ABSENT},
    ),
}


@pytest.mark.parametrize("name", SCOPES)
def test_the_scope_is_derived_from_the_meta_variables(name):
    variables, wanted = SCOPES[name]
    scope = scope_of(**variables)
    assert {key: scope.get(key, ABSENT) for key in wanted} == wanted


@pytest.mark.parametrize("name", ["PATH_INFO", "SCRIPT_NAME"])
def test_a_path_that_is_no_utf8_is_400(call, name):
    with pytest.raises(RequestError):
        scope_of(**{name: "/\xff"})
    exchange = call(sends(start(), body(b"x")), **{name: "/\xff"})
    assert exchange.sent == ["head", b"400 Bad Request\n", "finish"]
    assert "not UTF-8" in exchange.sapi.log


def test_each_request_has_a_scope_of_its_own():
    environ = dict(ENVIRON)
    one, two = http_scope(environ, "x"), http_scope(environ, "x")
    for key in ("asgi", "headers", "extensions"):
        assert one[key] is not two[key]
    one["asgi"]["version"] = "spoilt"
    assert http_scope(environ, "x")["asgi"]["version"] == "3.0"


def test_the_sapis_name_and_the_user_stand_under_extensions():
    scope = scope_of(REMOTE_USER="bob", AUTH_TYPE="Basic")
    assert scope["extensions"]["sapi"] == {
        "name": "some-sapi",
        "remote_user": "bob",
        "auth_type": "Basic",
    }


def test_no_extension_is_offered_that_cannot_pass_a_front_end():
    assert set(scope_of()["extensions"]) == {"sapi", "http.response.pathsend"}


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, {"tls_version": 0x0304, "client_cert_chain": [], "client_cert_error": None}),
        ({"SSL_PROTOCOL": "TLSv1.2"}, {"tls_version": 0x0303}),
        ({"SSL_PROTOCOL": "TLSv1.1"}, {"tls_version": 0x0302}),
        ({"SSL_PROTOCOL": "TLSv1"}, {"tls_version": 0x0301}),
        ({"SSL_PROTOCOL": "SSLv3"}, {"tls_version": None}),
        ({"SSL_CIPHER": "nonsense"}, {"cipher_suite": None}),
        ({"SSL_SERVER_CERT": "PEM"}, {"server_cert": "PEM"}),
        (
            {"SSL_CLIENT_CERT": "A", "SSL_CLIENT_CERT_CHAIN_0": "B", "SSL_CLIENT_CERT_CHAIN_1": "C"}
            | {"SSL_CLIENT_S_DN": "CN=bob", "SSL_CLIENT_VERIFY": "SUCCESS"},
            {
                "client_cert_chain": ["A", "B", "C"],
                "client_cert_name": "CN=bob",
                "client_cert_error": None,
            },
        ),
        ({"SSL_CLIENT_VERIFY": "NONE"}, {"client_cert_error": None}),
        (
            {"SSL_CLIENT_VERIFY": "FAILED:expired"},
            {"client_cert_error": "FAILED:expired"},
        ),
    ],
)
def test_the_tls_extension_comes_from_mod_ssls_variables(variables, wanted):
    tls = scope_of(**{**TLS, **variables})["extensions"]["tls"]
    assert {key: tls[key] for key in wanted} == wanted


def test_the_tls_extension_is_there_on_tls_connections_only():
    assert "tls" not in scope_of(SSL_PROTOCOL="TLSv1.3")["extensions"]
    assert "tls" not in scope_of(HTTPS="on")["extensions"]


# -- pathsend -------------------------------------------------------------------------------------


def pathsend(path: Any, *headers: Any, status: int = 200) -> Any:
    return sends(start(status, *headers), {"type": "http.response.pathsend", "path": str(path)})


def test_a_path_is_sent_in_blocks_with_its_length(call, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 150_000)
    exchange = call(pathsend(path, TEXT))
    assert exchange.headers == {"content-type": "text/plain", "content-length": "150000"}
    blocks = [step for step in exchange.sent if isinstance(step, bytes)]
    assert (len(blocks) > 1, max(map(len, blocks)) <= 65536) == (True, True)
    assert (exchange.body, exchange.end) == (b"x" * 150_000, "finish")


@pytest.mark.parametrize(
    ("data", "headers", "variables", "status", "steps", "sent"),
    [
        (b"", (), {}, 200, ["head", "finish"], {"content-length": "0"}),
        (b"0123", (length(4),), {}, 200, ["head", b"0123", "flush", "finish"],
         {"content-length": "4"}),
        (b"0123", (length(2),), {}, 200, ["head", b"01", "flush", "finish"],
         {"content-length": "2"}),
        (b"0123", (length(9),), {}, 200, ["head", b"0123", "flush", "cut"],
         {"content-length": "9"}),
        (b"0123", (), HEAD, 200, ["head", "flush", "finish"], {"content-length": "4"}),
        (b"", (), HEAD, 200, ["head", "finish"], {"content-length": "0"}),
        (b"0123", (), {}, 204, ["head", "flush", "finish"], {}),
    ],
)  # fmt: skip
def test_a_path_keeps_to_the_rules_of_bodies(
    call, tmp_path, data, headers, variables, status, steps, sent
):
    path = tmp_path / "file"
    path.write_bytes(data)
    exchange = call(pathsend(path, *headers, status=status), **variables)
    assert (exchange.sent, exchange.headers) == (steps, sent)


@pytest.mark.parametrize("headers", [(), (length(4),), ((b"Content-Length", b"4"),)])
def test_a_mapped_path_leaves_by_the_front_end(call, tmp_path, headers):
    path = tmp_path / "file"
    path.write_bytes(b"0123")

    def prepare(exchange: Exchange) -> None:
        exchange.sapi.sendfile = SendfileMap([f"x-accel-redirect=/files:{tmp_path}"])

    exchange = call(pathsend(path, TEXT, *headers), prepare=prepare)
    assert (exchange.sent, exchange.sapi.log) == (["head", "finish"], "")
    assert exchange.headers == {"content-type": "text/plain", "x-accel-redirect": "/files/file"}


@pytest.mark.parametrize(
    ("variables", "status", "size"), [(HEAD, 200, 4), ({}, 204, 4), ({}, 200, 2)]
)
def test_a_mapped_path_is_not_handed_over_where_it_is_not_the_body(
    call, tmp_path, variables, status, size
):
    path = tmp_path / "file"
    path.write_bytes(b"0123")

    def prepare(exchange: Exchange) -> None:
        exchange.sapi.sendfile = SendfileMap([f"x-sendfile={tmp_path}"])

    exchange = call(pathsend(path, length(size), status=status), prepare=prepare, **variables)
    assert "x-sendfile" not in exchange.headers


def test_nothing_follows_a_path(call, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"0123")
    event = {"type": "http.response.pathsend", "path": str(path)}
    exchange = call(sends(start(), event, body(b"more"), event))
    assert (exchange.body, exchange.end) == (b"0123", "finish")


# -- ASGI 2 ---------------------------------------------------------------------------------------


def test_an_asgi_2_application_is_called_in_two_steps(call):
    class Application:
        def __init__(self, scope: Any) -> None:
            assert scope["type"] == "http"
            self.scope = scope

        async def __call__(self, receive: Any, send: Any) -> None:
            event = await receive()
            await send(start())
            await send(body(self.scope["path"].encode() + event["body"]))

    assert interface_of(Application) == "asgi2"
    single = asgi._single_callable(Application)
    assert call(single, b"body", PATH_INFO="/p").body == b"/pbody"
    gateway = AsgiGateway(Application, RecordingSapi(), two_step=True)
    exchange = Recording(sapi=gateway.sapi)
    gateway.run_once(gateway, exchange)
    assert exchange.body == b"/"


# -- the life span --------------------------------------------------------------------------------

COMPLETE = {"type": "lifespan.startup.complete"}
FAILED = {"type": "lifespan.startup.failed", "message": "no database"}


def living(*startup: Any, shutdown: Any = ({"type": "lifespan.shutdown.complete"},)) -> Any:
    """An application whose life span does *startup*, waits, and does *shutdown*."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            application.seen.append(scope.get("state", ABSENT))
            await send(start())
            await send(body(b"x"))
            application.seen.append("request")
            return
        application.seen.append((await receive())["type"])
        scope["state"]["list"] = []
        for event in startup:
            if isinstance(event, BaseException):
                raise event
            if event is None:
                return
            await send(event)
        application.seen.append((await receive())["type"])
        assert (await receive())["type"] == "lifespan.shutdown"
        for event in shutdown:
            if isinstance(event, BaseException):
                raise event
            await send(event)

    application.seen = []
    return application


class Life(NamedTuple):
    application: Callable[[], Any]
    seen: list[Any]
    log: str = ""
    served: bool = True


BEGIN, END = "lifespan.startup", "lifespan.shutdown"
STATE: dict[str, Any] = {"list": []}
LIVES = {
    "startup and shutdown around the request": Life(
        lambda: living(COMPLETE), [BEGIN, STATE, "request", END]
    ),
    "startup.failed: no request, its message in the log": Life(
        lambda: living(FAILED), [BEGIN], "no database", False
    ),
    "startup.failed without a message": Life(
        lambda: living({"type": "lifespan.startup.failed"}), [BEGIN], "no reason given", False
    ),
    "startup.failed and an exception": Life(
        lambda: living(FAILED, BOOM), [BEGIN], "no database", False
    ),
    "an exception before any answer: goes on without": Life(
        lambda: living(BOOM), [BEGIN, ABSENT, "request"]
    ),
    "SystemExit before any answer": Life(lambda: living(SystemExit(1)), [BEGIN, ABSENT, "request"]),
    "a return before any answer": Life(lambda: living(None), [BEGIN, ABSENT, "request"]),
    "a return after complete": Life(lambda: living(COMPLETE, None), [BEGIN, STATE, "request"]),
    "an exception after complete": Life(
        lambda: living(COMPLETE, BOOM), [BEGIN, STATE, "request"], "ValueError: boom"
    ),
    "an exception at shutdown": Life(
        lambda: living(COMPLETE, shutdown=(BOOM,)),
        [BEGIN, STATE, "request", END],
        "ValueError: boom",
    ),
    "shutdown.failed": Life(
        lambda: living(
            COMPLETE, shutdown=({"type": "lifespan.shutdown.failed", "message": "no disk"},)
        ),
        [BEGIN, STATE, "request", END],
        "no disk",
    ),
    "an unknown event before any answer: goes on without": Life(
        lambda: living({"type": "http.response.start"}), [BEGIN, ABSENT, "request"]
    ),
}


def refused(call: Any, application: Any) -> tuple[Exchange, bool]:
    exchanges: list[Any] = []
    try:
        call(application, prepare=exchanges.append)
    except AssertionError:
        return exchanges[0], False
    return exchanges[0], True


@pytest.mark.parametrize("call", [lent, by_hand], ids=["lent", "by hand"])
@pytest.mark.parametrize("name", LIVES)
def test_the_life_span_of_a_process_of_one_request(call, name):
    life = LIVES[name]
    application = life.application()
    exchange, served = refused(call, application)
    if "before any answer" not in name and "at shutdown" not in name:
        assert application.seen == life.seen
    assert application.seen[: len(life.seen)] == life.seen
    assert served == life.served
    assert exchange.status == (200 if served else 500)
    assert exchange.end == "finish"
    assert life.log in exchange.sapi.log
    assert bool(life.log) == bool(exchange.sapi.log)


@pytest.mark.parametrize("name", LIVES)
def test_the_life_span_of_a_worker(name):
    life = LIVES[name]
    application = life.application()
    sapi = RecordingSapi()

    async def main() -> None:
        gateway = AsgiGateway(application, sapi)
        if not life.served:
            with pytest.raises(ConfigurationError, match=life.log):
                await gateway.lifespan.start()
            assert not gateway.lifespan.supported
            return
        await gateway.lifespan.start()
        await gateway(AsyncRecording(sapi=sapi))
        await gateway.lifespan.stop()

    on_a_loop(main)
    assert application.seen == life.seen
    if life.served:
        assert life.log in sapi.log
        assert bool(life.log) == bool(sapi.log)


def test_state_is_a_shallow_copy_for_each_request():
    states: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            scope["state"]["shared"] = []
            await send(COMPLETE)
            await receive()
            return
        states.append(scope["state"])
        scope["state"]["mine"] = len(states)
        scope["state"]["shared"].append(len(states))
        await send(start())
        await send(body(b"x"))

    async def main() -> None:
        sapi = RecordingSapi()
        gateway = AsgiGateway(application, sapi)
        await gateway.lifespan.start()
        for _ in range(2):
            await gateway(AsyncRecording(sapi=sapi))
        assert "mine" not in gateway.lifespan.state
        await gateway.lifespan.stop()

    on_a_loop(main)
    assert states[0] is not states[1]
    assert states[0]["shared"] is states[1]["shared"]
    assert [state["mine"] for state in states] == [1, 2]


def test_a_startup_that_never_answers_ends_at_its_limit():
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(3600)

    async def main() -> None:
        gateway = AsgiGateway(application, RecordingSapi())
        with pytest.raises(ConfigurationError, match="no answer"):
            await gateway.lifespan.start(0.01)

    on_a_loop(main)


def test_a_shutdown_that_never_ends_is_cancelled_with_a_log_line():
    ended: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(COMPLETE)
        await receive()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def main() -> RecordingSapi:
        gateway = AsgiGateway(application, RecordingSapi())
        await gateway.lifespan.start()
        await gateway.lifespan.stop(0.01)
        return gateway.sapi

    assert "no end of its life span" in on_a_loop(main).log
    assert ended == ["cancelled"]


def test_a_worker_without_a_started_life_span_has_none_to_stop():
    on_a_loop(lambda: AsgiGateway(sends(), RecordingSapi()).lifespan.stop())


def test_by_hand_a_startup_that_needs_a_loop_refuses_the_start():
    class Suspend:
        def __await__(self) -> Any:
            yield

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await Suspend()

    exchange, served = refused(by_hand, application)
    assert (served, exchange.status) == (False, 500)
    assert "event loop" in exchange.sapi.log


def test_by_hand_a_shutdown_that_needs_a_loop_is_left():
    class Suspend:
        def __await__(self) -> Any:
            yield

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send(start())
            await send(body(b"x"))
            return
        await receive()
        await send(COMPLETE)
        await receive()
        await Suspend()

    assert by_hand(application).end == "finish"


def test_the_lifespan_scope_is_the_specifications():
    scopes: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        raise ValueError

    by_hand(application)
    assert scopes[0] == {
        "type": "lifespan",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "state": {},
    }


def test_application_errors_are_the_projects_own_kind():
    assert issubclass(ApplicationError, Exception)
    assert issubclass(ClientDisconnected, OSError)
