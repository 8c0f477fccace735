"""The SAPI ``embed``: an application run from inside a program, without sockets or processes.

Here are its exchanges and its two hosts, for ordinary programs and for those inside an event loop;
embedding.py makes :class:`sapi_adapters.Embed` and :class:`sapi_adapters.AsyncEmbed` of them. An
application may embed another: while it runs, ``sapi_name()`` says ``embed`` there, and the outer
name again afterwards.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any

from .. import sapi as interface
from ..protocols.cgi import mend, normal_mount
from ..sapi import AsyncExchange, ClientDisconnected, Exchange, RequestError, Sapi, refuse
from .cli import request_environ

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
    from types import TracebackType

    from typing_extensions import Self

    from ..sapi import Gateway, Headers

    HeaderPairs = Sequence[tuple[str, str]]

_nested: ContextVar[str] = ContextVar("sapi_adapters.nested")


def _innermost(process: str) -> str:
    return _nested.get(process)


class _Pieces:
    """The pieces of one body, as the application makes them. *end* is called once."""

    def __init__(
        self,
        exchange: EmbedExchange | AsyncEmbedExchange,
        first: bytes | None,
        fetch: Callable[[], bytes | None],
        end: Callable[[], None],
    ) -> None:
        self._exchange = exchange
        self._next: list[bytes | None] = [first]
        self._fetch = fetch
        self._end = end
        self._over = False

    def __iter__(self) -> _Pieces:
        return self

    def __next__(self) -> bytes:
        while not self._over:
            piece = self._next.pop() if self._next else self._fetch()
            if piece:
                return piece
            if piece is None:
                self._over = True
                self._end()
                if self._exchange.was_cut:
                    raise ClientDisconnected("the application cut its response")
        raise StopIteration

    def close(self) -> None:
        """Give the request up: the application sees a client that has gone."""
        if not self._over:
            self._over = True
            self._exchange.give_up()
            self._end()


class Response:
    """A response: *status* (int), *reason*, *headers* (pairs, in order) and the body.

    Iterating a streamed response gives the body's pieces as the application makes them; ``body``
    is the whole of it. One that is not read to its end is to be closed, or used in a ``with``.
    """

    def __init__(self, status: str, headers: Headers, pieces: _Pieces | None) -> None:
        self.status = int(status[:3])
        self.reason = status[4:]
        self.headers = headers
        self._pieces = pieces
        self._body: bytes | None = None

    def header(self, name: str, default: str | None = None) -> str | None:
        """Return the first header called *name*, in whatever case, or *default*."""
        return next((v for n, v in self.headers if n.lower() == name.lower()), default)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces or ())

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up what is not read yet."""
        if self._pieces is not None:
            self._pieces.close()

    @property
    def body(self) -> bytes:
        """The whole body. :class:`ClientDisconnected` when the application cut it."""
        if self._body is None:
            self._body = b"".join(self)
        return self._body

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode()


class _Body:
    """A request's body: bytes, or an iterable of them that is asked as the application reads."""

    def __init__(self, body: bytes | Iterable[bytes]) -> None:
        self.length = len(body) if isinstance(body, bytes) else None
        self._blocks = iter((body,)) if isinstance(body, bytes) else iter(body)
        self._rest = b""
        self.ended = body == b""

    def read(self, size: int) -> bytes:
        while not self._rest and not self.ended:
            block = next(self._blocks, None)
            if block is None:
                self.ended = True
            else:
                self._rest = block
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


class _Held:
    """What both exchanges of this SAPI share: the response is handed on in pieces."""

    status = ""
    written = 0
    ended = False
    aborted: bool
    response_headers: Headers
    _piece: bytes = b""

    def send_headers(self, status: str, headers: Headers) -> None:
        self.status = status
        self.response_headers = headers

    def ub_write(self, data: bytes) -> None:
        self.written += len(data)
        self._piece = self._piece + data if self._piece else data

    def _take(self) -> bytes:
        data, self._piece = self._piece, b""
        return data


class EmbedExchange(_Held, Exchange):
    """One request to a WSGI application; *put* takes the response's pieces, None at the end."""

    def __init__(
        self,
        sapi: Sapi,
        environ: dict[str, Any],
        body: _Body,
        put: Callable[[EmbedExchange, bytes | None], None],
    ) -> None:
        self.sapi = sapi
        self.environ = environ
        self.was_cut = False
        self._input = body
        self._put = put
        self.post_ended = body.ended

    def read_post(self, size: int) -> bytes:
        data = self._input.read(size)
        self.post_ended = self._input.ended and not data
        return data

    def flush(self) -> None:
        data = self._take()
        if not self.aborted:
            self._put(self, data)

    def finish(self) -> None:
        if not self.ended:
            self.ended = True
            data = self._take()
            if data:
                self._put(self, data)
            self._put(self, None)

    def cut(self) -> None:
        if not self.ended:
            self.was_cut = True
            self.finish()

    def give_up(self) -> None:
        """Nobody reads the response any more."""
        self.aborted = True

    def wait_disconnect(self) -> None:
        self.aborted = True


class AsyncEmbedExchange(_Held, AsyncExchange):
    """The same for an ASGI application: *pieces* takes the response, one piece at a time."""

    def __init__(self, sapi: Sapi, environ: dict[str, Any], body: _Body) -> None:
        self.sapi = sapi
        self.environ = environ
        self.was_cut = False
        self.pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._input = body
        self._gone = asyncio.Event()
        self._taken = asyncio.Event()
        self.post_ended = body.ended

    async def read_post(self, size: int) -> bytes:
        data = self._input.read(size)
        self.post_ended = self._input.ended and not data
        return data

    async def flush(self) -> None:
        if not self.aborted and not self.ended:
            self.pieces.put_nowait(self._take())
            while self.pieces.qsize() > 1 and not self.aborted:  # the reader sets the pace
                self._taken.clear()
                await self._taken.wait()

    async def finish(self) -> None:
        self._finish()

    def _finish(self) -> None:
        if not self.ended:
            self.ended = True
            data = self._take()
            if data or not self.status:
                self.pieces.put_nowait(data)
            self.pieces.put_nowait(None)
            self._gone.set()

    def cut(self) -> None:
        if not self.ended:
            self.was_cut = True
            self._finish()

    def give_up(self) -> None:
        """Nobody reads the response any more."""
        self.aborted = True
        self._gone.set()
        self._taken.set()

    async def next_piece(self) -> bytes | None:
        """Return the next piece, None at the end."""
        piece = await self.pieces.get()
        self._taken.set()
        return piece

    async def wait_disconnect(self) -> None:
        await self._gone.wait()


class EmbedSapi(Sapi):
    """The runtime behind both."""

    name = "embed"
    pretty_name = "embedded"
    multithread = True
    nested = True

    def run(self, load: Callable[[], Gateway]) -> int:
        raise interface.ConfigurationError("embed serves nothing by itself: use Embed(app)")


class _Host:
    """What both hosts share."""

    def __init__(self, load: Callable[[Sapi], Gateway], script_name: str) -> None:
        self._gateway_for = load
        self._mount = normal_mount(script_name)
        self._sapi = EmbedSapi()
        self._gateway: Any = None
        self._cycle: Any = None

    def _load(self) -> None:
        interface.nested_name = _innermost
        self._sapi.module_startup()
        try:
            self._gateway = self._gateway_for(self._sapi)
            self._cycle = self._sapi.bind(self._gateway)
        except BaseException:
            self._sapi.module_shutdown()
            raise

    def _environ(
        self, method: str, target: str, headers: HeaderPairs, body: _Body
    ) -> dict[str, Any]:
        length = body.length
        if not length and method in ("GET", "HEAD", "OPTIONS", "DELETE"):
            length = None
        return request_environ(method, target, headers, length)

    def _run(self, exchange: EmbedExchange) -> None:
        _nested.set(self._sapi.name)
        try:
            mend(exchange.environ, self._mount)
        except RequestError as error:
            refuse(exchange, error.status)
            exchange.finish()
            return
        try:
            self._cycle(exchange)
        finally:
            exchange.cut()


class BlockingHost(_Host):
    """What :class:`sapi_adapters.Embed` is made of; *load* gives the gateway for a SAPI."""

    _loop: asyncio.AbstractEventLoop | None = None
    _thread: threading.Thread | None = None

    def __init__(self, load: Callable[[Sapi], Gateway], script_name: str) -> None:
        super().__init__(load, script_name)
        self._open: set[_Pieces] = set()

    def __enter__(self) -> Self:
        self._load()
        if self._gateway.asynchronous:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._loop.run_forever, name="embed", daemon=True
            )
            self._thread.start()
            try:
                self._on_loop(self._gateway.lifespan.start())
            except BaseException:
                self._stop_loop()
                self._sapi.module_shutdown()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for body in list(self._open):
            body.close()
        if self._loop is not None:
            try:
                self._on_loop(self._gateway.lifespan.stop())
            finally:
                self._stop_loop()
        self._sapi.module_shutdown()

    def request(
        self,
        method: str,
        target: str,
        headers: HeaderPairs = (),
        body: bytes | Iterable[bytes] = b"",
    ) -> Response:
        """Send one request and return the whole response.

        *target* is a path with its query, percent-encoded, or an absolute URL. A *body* that is
        no bytes is an iterable of them, read as the application asks.
        """
        response = self.stream(method, target, headers, body)
        response.body  # noqa: B018 - reads it to the end
        return response

    def stream(
        self,
        method: str,
        target: str,
        headers: HeaderPairs = (),
        body: bytes | Iterable[bytes] = b"",
    ) -> Response:
        """Send one request and return the response as soon as its head is there.

        The application runs in a thread of its own (WSGI) or on the loop (ASGI), not more than
        two pieces ahead of the reader.
        """
        given = _Body(body)
        environ = self._environ(method, target, headers, given)
        if self._loop is not None:
            return self._stream_async(environ, given)
        pieces: queue.Queue[tuple[EmbedExchange, bytes | None]] = queue.Queue(1)
        exchange = EmbedExchange(self._sapi, environ, given, lambda e, p: pieces.put((e, p)))
        context = copy_context()
        thread = threading.Thread(
            target=context.run, args=(self._run, exchange), name="embed", daemon=True
        )
        thread.start()
        _, first = pieces.get()

        def end() -> None:
            while thread.is_alive() or not pieces.empty():  # it may wait with a last piece
                try:
                    pieces.get(timeout=0.05)
                except queue.Empty:
                    pass
            thread.join()

        return self._response(exchange, first, lambda: pieces.get()[1], end)

    def _response(
        self,
        exchange: EmbedExchange | AsyncEmbedExchange,
        first: bytes | None,
        fetch: Callable[[], bytes | None],
        end: Callable[[], None],
    ) -> Response:
        if not exchange.status:  # cut before there was a head
            end()
            raise ClientDisconnected("the application cut its response")

        def over() -> None:
            self._open.discard(body)
            end()

        body = _Pieces(exchange, first, fetch, over)
        self._open.add(body)
        return Response(exchange.status, exchange.response_headers, body)

    def _stream_async(self, environ: dict[str, Any], body: _Body) -> Response:
        exchange, task = self._on_loop(_start(self, environ, body))
        first = self._on_loop(exchange.next_piece())
        return self._response(
            exchange,
            first,
            lambda: self._on_loop(exchange.next_piece()),
            lambda: self._on_loop(_end(exchange, task)),
        )

    def _on_loop(self, coroutine: Any) -> Any:
        assert self._loop is not None  # noqa: S101 - only called with one
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _stop_loop(self) -> None:
        assert self._loop is not None  # noqa: S101 - only called with one
        assert self._thread is not None  # noqa: S101 - started with the loop
        # On its own thread: the caller's may be inside a loop that is running.
        self._on_loop(self._loop.shutdown_asyncgens())
        self._on_loop(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = None


async def _start(
    host: _Host, environ: dict[str, Any], body: _Body
) -> tuple[AsyncEmbedExchange, asyncio.Task[None]]:
    """Start one request to an ASGI application on the running loop."""
    exchange = AsyncEmbedExchange(host._sapi, environ, body)

    async def serve() -> None:
        _nested.set(host._sapi.name)
        try:
            mend(environ, host._mount)
        except RequestError as error:
            refuse(exchange, error.status)
            await exchange.finish()
            return
        try:
            await host._cycle(exchange)
        finally:
            exchange.cut()

    return exchange, asyncio.get_running_loop().create_task(serve())


async def _end(exchange: AsyncEmbedExchange, task: asyncio.Task[None]) -> None:
    """Wait for the application's own end, after its response was read or given up."""
    exchange.give_up()
    await asyncio.wait([task])


class _AsyncPieces:
    """:class:`_Pieces`, awaited."""

    def __init__(
        self,
        exchange: EmbedExchange | AsyncEmbedExchange,
        first: bytes | None,
        fetch: Callable[[], Awaitable[bytes | None]],
        end: Callable[[], Awaitable[Any]],
    ) -> None:
        self._exchange = exchange
        self._next: list[bytes | None] = [first]
        self._fetch = fetch
        self._end = end
        self._over = False

    def __aiter__(self) -> _AsyncPieces:
        return self

    async def __anext__(self) -> bytes:
        while not self._over:
            piece = self._next.pop() if self._next else await self._fetch()
            if piece:
                return piece
            if piece is None:
                self._over = True
                await self._end()
                if self._exchange.was_cut:
                    raise ClientDisconnected("the application cut its response")
        raise StopAsyncIteration

    async def close(self) -> None:
        if not self._over:
            self._over = True
            self._exchange.give_up()
            await self._end()


class AsyncResponse(Response):
    """The response of an async host: iterate it with ``async for``, or ``await read()``."""

    def __init__(self, status: str, headers: Headers, pieces: _AsyncPieces) -> None:
        super().__init__(status, headers, None)
        self._later = pieces

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._later

    async def __aenter__(self) -> AsyncResponse:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Give up what is not read yet."""
        await self._later.close()

    async def read(self) -> bytes:
        """Return the whole body."""
        if self._body is None:
            self._body = b"".join([piece async for piece in self._later])
        return self._body


class AsyncHost(_Host):
    """What :class:`sapi_adapters.AsyncEmbed` is made of; *load* gives the gateway for a SAPI."""

    async def __aenter__(self) -> Self:
        self._load()
        if self._gateway.asynchronous:
            try:
                await self._gateway.lifespan.start()
            except BaseException:
                self._sapi.module_shutdown()
                raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._gateway.asynchronous:
            await self._gateway.lifespan.stop()
        self._sapi.module_shutdown()

    async def request(
        self,
        method: str,
        target: str,
        headers: HeaderPairs = (),
        body: bytes | Iterable[bytes] = b"",
    ) -> AsyncResponse:
        """Send one request and return the whole response; see :meth:`BlockingHost.request`."""
        response = await self.stream(method, target, headers, body)
        await response.read()
        return response

    async def stream(
        self,
        method: str,
        target: str,
        headers: HeaderPairs = (),
        body: bytes | Iterable[bytes] = b"",
    ) -> AsyncResponse:
        """Send one request and return the response as soon as its head is there."""
        given = _Body(body)
        environ = self._environ(method, target, headers, given)
        if not self._gateway.asynchronous:
            return await self._stream_blocking(environ, given)
        exchange, task = await _start(self, environ, given)
        first = await exchange.next_piece()
        return await self._response(
            exchange, first, exchange.next_piece, lambda: _end(exchange, task)
        )

    async def _stream_blocking(self, environ: dict[str, Any], body: _Body) -> AsyncResponse:
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[bytes | None] = asyncio.Queue(1)

        def put(exchange: EmbedExchange, piece: bytes | None) -> None:
            asyncio.run_coroutine_threadsafe(pieces.put(piece), loop).result()

        exchange = EmbedExchange(self._sapi, environ, body, put)
        context = copy_context()
        running = loop.run_in_executor(None, context.run, self._run, exchange)
        first = await pieces.get()

        async def end() -> None:
            while not running.done():
                while not pieces.empty():
                    pieces.get_nowait()
                await asyncio.wait([running], timeout=0.01)
            await running

        return await self._response(exchange, first, pieces.get, end)

    async def _response(
        self,
        exchange: EmbedExchange | AsyncEmbedExchange,
        first: bytes | None,
        fetch: Callable[[], Awaitable[bytes | None]],
        end: Callable[[], Awaitable[Any]],
    ) -> AsyncResponse:
        if not exchange.status:  # cut before there was a head
            await end()
            raise ClientDisconnected("the application cut its response")
        pieces = _AsyncPieces(exchange, first, fetch, end)
        return AsyncResponse(exchange.status, exchange.response_headers, pieces)
