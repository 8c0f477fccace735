"""The SAPI ``embed``: applications run from inside a program, with and without an event loop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sapi_adapters import AsyncEmbed, ClientDisconnected, ConfigurationError, Embed, sapi
from sapi_adapters.adapters.embed import EmbedSapi
from sapi_adapters.extension import register_extension

SECONDS = 20.0


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("X-Method", environ["REQUEST_METHOD"]), ("X-Method", "again")])
    where = [environ["SCRIPT_NAME"], environ["PATH_INFO"], environ["QUERY_STRING"]]
    return [repr([*where, environ.get("HTTP_X"), body]).encode()]


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        raise ValueError
    body, more = b"", True
    while more:
        event = await receive()
        body, more = body + event["body"], event["more_body"]
    method = scope["method"].encode()
    headers = [(b"X-Method", method), (b"X-Method", b"again")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    root = scope["root_path"]
    where = [root, scope["path"][len(root) :], scope["query_string"].decode()]
    x = dict(scope["headers"]).get(b"x")
    text = repr([*where, x.decode() if x else None, body])
    await send({"type": "http.response.body", "body": text.encode()})


class Blocking:
    """Both hosts behind one face: ``Embed`` as it is."""

    def __init__(self, application: Any, **options: Any) -> None:
        self.host = Embed(application, **options)

    def __enter__(self) -> Any:
        return self.host.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.host.__exit__(*error)


class Awaited:
    """``AsyncEmbed``, run on a loop of its own for each step."""

    def __init__(self, application: Any, **options: Any) -> None:
        self.application, self.options = application, options

    def __enter__(self) -> Any:
        self.loop = asyncio.new_event_loop()
        self.host = AsyncEmbed(self.application, **self.options)
        try:
            self.run(self.host.__aenter__())
        except BaseException:
            self.loop.close()
            raise
        return self

    def run(self, step: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(step, SECONDS))

    def request(self, *arguments: Any, **options: Any) -> Any:
        return self.run(self.host.request(*arguments, **options))

    def __exit__(self, *error: Any) -> None:
        self.run(self.host.__aexit__(*error))
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


@pytest.fixture(params=[Blocking, Awaited], ids=["Embed", "AsyncEmbed"])
def host(request):
    return request.param


@pytest.mark.parametrize("application", [wsgi, asgi])
@pytest.mark.parametrize(
    ("request_", "options", "wanted"),
    [
        (("GET", "/"), {}, ["", "/", "", None, b""]),
        (("GET", "/a%20b?x=1"), {}, ["", "/a b", "x=1", None, b""]),
        (("GET", "/", [("X", "y")]), {}, ["", "/", "", "y", b""]),
        (("POST", "/", (), b"body"), {}, ["", "/", "", None, b"body"]),
        (("POST", "/", (), b""), {}, ["", "/", "", None, b""]),
        (("POST", "/", (), iter([b"a", b"", b"bc"])), {}, ["", "/", "", None, b"abc"]),
        (("GET", "//a//b"), {}, ["", "//a//b", "", None, b""]),
        (("GET", "/app/x"), {"script_name": "/app"}, ["/app", "/x", "", None, b""]),
        (("GET", "/app"), {"script_name": "/app/"}, ["/app", "", "", None, b""]),
        (("GET", "/application"), {"script_name": "/app"}, None),
    ],
)
def test_a_request_gets_its_response(host, application, request_, options, wanted):
    if wanted is None:
        wanted = ["", "/application", "", None, b""]
    if request_[-1] is not request_ and isinstance(request_[-1], Iterator):
        request_ = (*request_[:-1], [b"a", b"", b"bc"])
    with host(application, **options) as embedded:
        response = embedded.request(*request_)
    assert (response.status, response.reason) == (200, "OK")
    assert response.headers[:2] == [("X-Method", request_[0]), ("X-Method", "again")]
    assert response.header("x-METHOD") == request_[0]
    assert response.header("x-none", "default") == "default"
    assert response.text == repr(wanted) and response.body == response.body


@pytest.mark.parametrize("application", [wsgi, asgi])
def test_head_and_refused_requests(host, application):
    with host(application) as embedded:
        assert embedded.request("HEAD", "/").body == b""
        assert embedded.request("GET", "/%00").status == 400
        with pytest.raises(ConfigurationError):
            embedded.request("GET", "no slash")
        if application is asgi:
            assert embedded.request("GET", "/%FF").status == 400


@pytest.mark.parametrize("application", [wsgi, asgi])
def test_a_mount_may_hold_any_character(host, application):
    with host(application, script_name="/é") as embedded:
        response = embedded.request("GET", "/%C3%A9/x")
    mount = "/é" if application is asgi else "/\xc3\xa9"
    assert response.text == repr([mount, "/x", "", None, b""])


def failing(when: str, kind: str, error: BaseException) -> Any:
    """An application that fails before the head, before the first byte, or after it."""
    if kind == "wsgi":

        def blocking(environ: Any, start_response: Any) -> Iterator[bytes]:
            if when == "start":
                raise error
            start_response("200 OK", [])
            if when == "byte":
                raise error
            yield b"x"
            raise error

        return blocking

    async def awaited(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        if when == "start":
            raise error
        await send({"type": "http.response.start", "status": 200})
        if when == "byte":
            raise error
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        raise error

    return awaited


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
@pytest.mark.parametrize("when", ["start", "byte", "later"])
@pytest.mark.parametrize("error", [ValueError("boom"), ClientDisconnected("gone")])
def test_a_failing_application(host, kind, when, error, capsys):
    with host(failing(when, kind, error)) as embedded:
        if when == "later" or isinstance(error, ClientDisconnected):
            with pytest.raises(ClientDisconnected):
                embedded.request("GET", "/")
        else:
            assert embedded.request("GET", "/").status == 500
    assert ("boom" in capsys.readouterr().err) == isinstance(error, ValueError)


# -- streams --------------------------------------------------------------------------------------


class Source:
    """An application that makes blocks as fast as it is let, and tells how far it came."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.made = 0
        self.exhausted = threading.Event()
        self.closed = threading.Event()

    def wsgi(self, environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return self

    def __iter__(self) -> Iterator[bytes]:
        while self.made < self.blocks:
            self.made += 1
            yield b"%d," % self.made
        self.exhausted.set()

    def close(self) -> None:
        self.closed.set()

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200})
        try:
            for block in self:
                await send({"type": "http.response.body", "body": block, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self.close()


KINDS: list[Callable[[Source], Any]] = [lambda s: s.wsgi, lambda s: s.asgi]


@pytest.mark.parametrize("kind", KINDS, ids=["wsgi", "asgi"])
def test_a_stream_gives_the_pieces_as_they_are_made(kind):
    source = Source(50)
    with Embed(kind(source)) as embedded:
        response = embedded.stream("GET", "/")
        pieces = list(response)
    assert pieces == [b"%d," % n for n in range(1, 51)]
    assert source.closed.wait(SECONDS)


@pytest.mark.parametrize("kind", KINDS, ids=["wsgi", "asgi"])
def test_a_stream_runs_a_few_pieces_ahead_and_no_further(kind):
    source = Source(5000)
    with Embed(kind(source)) as embedded:
        response = embedded.stream("GET", "/")
        assert next(iter(response)) == b"1,"
        assert not source.exhausted.wait(0.2)
        assert source.made < 10
        assert len(response.body.split(b",")) == 5000


@pytest.mark.parametrize("kind", KINDS, ids=["wsgi", "asgi"])
def test_an_awaited_stream_runs_a_few_pieces_ahead_and_no_further(kind):
    source = Source(5000)

    async def main() -> None:
        async with AsyncEmbed(kind(source)) as embedded:
            response = await embedded.stream("GET", "/")
            assert await anext(aiter(response)) == b"1,"
            loop = asyncio.get_running_loop()
            assert not await loop.run_in_executor(None, source.exhausted.wait, 0.2)
            assert source.made < 10
            assert len((await response.read()).split(b",")) == 5000

    asyncio.run(asyncio.wait_for(main(), SECONDS))


@pytest.mark.parametrize("kind", KINDS, ids=["wsgi", "asgi"])
@pytest.mark.parametrize("read", [0, 1, 3])
@pytest.mark.parametrize("how", ["close", "with", "host"])
def test_a_stream_that_is_given_up_ends_the_application(kind, read, how):
    source = Source(20_000)
    with Embed(kind(source)) as embedded:
        response = embedded.stream("GET", "/")
        for _, piece in zip(range(read), response, strict=False):
            assert piece
        if how == "close":
            response.close()
        elif how == "with":
            with response:
                pass
        if how != "host":
            assert source.closed.wait(SECONDS)
    assert source.closed.wait(SECONDS)
    assert not source.exhausted.is_set()


@pytest.mark.parametrize("kind", KINDS, ids=["wsgi", "asgi"])
@pytest.mark.parametrize("read", [0, 1, 3])
def test_an_awaited_stream_that_is_given_up_ends_the_application(kind, read):
    source = Source(20_000)

    async def main() -> None:
        async with AsyncEmbed(kind(source)) as embedded:
            async with await embedded.stream("GET", "/") as response:
                for _ in range(read):
                    assert await anext(aiter(response))
            assert source.closed.is_set()

    asyncio.run(asyncio.wait_for(main(), SECONDS))


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_a_stream_that_is_cut_gives_what_came_and_raises(kind, capsys):
    with Embed(failing("later", kind, ValueError("boom"))) as embedded:
        got: list[bytes] = []
        with pytest.raises(ClientDisconnected):
            for piece in embedded.stream("GET", "/"):
                got.append(piece)
    assert got == [b"x"]


def test_a_body_is_read_as_the_application_asks():
    asked: list[int] = []

    def body() -> Iterator[bytes]:
        for n in range(3):
            asked.append(n)
            yield b"x" * 65536

    def application(environ: Any, start_response: Any) -> list[bytes]:
        assert asked == []
        environ["wsgi.input"].read(10)
        start_response("200 OK", [])
        return [repr(len(asked)).encode()]

    with Embed(application) as embedded:
        assert embedded.request("POST", "/", body=body()).body == b"1"


# -- loops, threads, contexts ---------------------------------------------------------------------


@pytest.mark.parametrize("application", [wsgi, asgi])
def test_embed_works_inside_a_running_loop(application):
    async def main() -> int:
        with Embed(application) as embedded:
            return int(embedded.request("GET", "/").status)

    assert asyncio.run(main()) == 200


@pytest.mark.parametrize("application", [wsgi, asgi])
def test_several_threads_may_ask_at_a_time(application):
    answers: list[str] = []
    together = threading.Barrier(8)

    def ask(n: int) -> None:
        together.wait(SECONDS)
        answers.append(embedded.request("GET", f"/{n}").text)

    with Embed(application) as embedded:
        threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
    assert sorted(answers) == [repr(["", f"/{n}", "", None, b""]) for n in range(8)]


def test_requests_overlap_on_the_awaited_host():
    async def main() -> list[int]:
        both = asyncio.Barrier(2) if hasattr(asyncio, "Barrier") else None
        arrived = asyncio.Event()
        count = 0

        async def application(scope: Any, receive: Any, send: Any) -> None:
            nonlocal count
            assert scope["type"] == "http"
            count += 1
            if count == 2:
                arrived.set()
            await arrived.wait()
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"x"})

        del both
        async with AsyncEmbed(application) as embedded:
            got = await asyncio.gather(*(embedded.request("GET", "/") for _ in range(2)))
        return [response.status for response in got]

    assert asyncio.run(asyncio.wait_for(main(), SECONDS)) == [200, 200]


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_each_request_has_a_context_of_its_own(kind):
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    def bump() -> bytes:
        variable.set(variable.get() + 1)
        return repr(variable.get()).encode()

    def blocking(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [bump()]

    async def awaited(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": bump()})

    with Embed(blocking if kind == "wsgi" else awaited) as embedded:
        assert [embedded.request("GET", "/").body for _ in range(2)] == [b"1", b"1"]
    assert variable.get() == 0


# -- life span and extensions ---------------------------------------------------------------------


def test_the_life_span_is_around_the_block(host):
    seen: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.append(scope["state"]["word"])
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"x"})
            return
        seen.append((await receive())["type"])
        scope["state"]["word"] = "state"
        await send({"type": "lifespan.startup.complete"})
        seen.append((await receive())["type"])
        await send({"type": "lifespan.shutdown.complete"})

    with host(application) as embedded:
        embedded.request("GET", "/")
        embedded.request("GET", "/")
        seen.append("end")
    assert seen == ["lifespan.startup", "state", "state", "end", "lifespan.shutdown"]


async def refusing(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
    await receive()


@pytest.fixture
def notes(monkeypatch):
    """What an extension heard."""
    monkeypatch.setattr(sapi, "extensions", [])
    heard: list[str] = []

    class Noting:
        def module_startup(self, given: Any) -> None:
            heard.append("MINIT")

        def request_startup(self, given: Any) -> None:
            heard.append("RINIT")

        def request_shutdown(self, given: Any) -> None:
            heard.append("RSHUTDOWN")

        def module_shutdown(self, given: Any) -> None:
            heard.append("MSHUTDOWN")

    register_extension(Noting())
    return heard


@pytest.mark.parametrize(
    ("application", "message"), [(refusing, "no database"), (7, "7 is not callable")]
)
def test_a_start_that_fails_is_shut_down_again(host, notes, application, message):
    with pytest.raises(ConfigurationError, match=message), host(application):
        raise AssertionError("entered")
    assert notes == ["MINIT", "MSHUTDOWN"]


@pytest.mark.parametrize("application", [wsgi, asgi])
def test_extensions_take_part(host, notes, application):
    with host(application) as embedded:
        embedded.request("GET", "/")
    assert notes == ["MINIT", "RINIT", "RSHUTDOWN", "MSHUTDOWN"]


@pytest.mark.parametrize("application", [wsgi, asgi])
def test_a_failing_request_startup_is_500(host, application, monkeypatch, capsys):
    monkeypatch.setattr(sapi, "extensions", [])

    class Failing:
        def request_startup(self, given: Any) -> None:
            raise ValueError("not today")

    register_extension(Failing())
    with host(application) as embedded:
        assert embedded.request("GET", "/").status == 500
    assert "not today" in capsys.readouterr().err


def test_a_factory_and_an_interface_may_be_told(host):
    with host(lambda: wsgi, factory=True) as embedded:
        assert embedded.request("GET", "/").status == 200
    with host(lambda *words: wsgi(*words), interface="wsgi") as embedded:
        assert embedded.request("GET", "/").status == 200


def test_a_host_may_be_entered_again():
    embedded = Embed(asgi)
    for _ in range(2):
        with embedded:
            assert embedded.request("GET", "/").status == 200


def test_embed_serves_nothing_by_itself():
    with pytest.raises(ConfigurationError, match="use Embed"):
        EmbedSapi().run(lambda: None)  # type: ignore[arg-type,return-value]
