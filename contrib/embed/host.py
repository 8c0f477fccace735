"""The application's side of sapi_embed.c, which has this text compiled in.

``start``, ``request`` and ``stop`` are called from there, with addresses of what sapi_embed.h
describes, and return one of its codes and the error's text.
"""

from __future__ import annotations

import asyncio
import ctypes
import io
import os
import threading
from contextvars import ContextVar, copy_context
from ctypes import CFUNCTYPE, POINTER, Structure, c_char, c_char_p, c_int, c_size_t, c_void_p
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from sapi_adapters import ClientDisconnected, ConfigurationError
from sapi_adapters.adapters.embed import AsyncEmbedExchange, BlockingHost, EmbedSapi, _Body
from sapi_adapters.loading import gateway_for
from sapi_adapters.protocols.cgi import mend
from sapi_adapters.sapi import (
    DEBUG,
    ERROR,
    INFO,
    NOTICE,
    WARNING,
    Exchange,
    RequestError,
    refuse,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sapi_adapters.sapi import Headers

    Outcome = tuple[int, str]

OK, STATE, REFUSED, FAILED, CUT = range(5)
PRIORITIES = {ERROR: 3, WARNING: 4, NOTICE: 5, INFO: 6, DEBUG: 7}
BLOCK = 65536


# -- sapi_embed.h: its structures, field by field, and the types of its slots


class Pair(Structure):
    _fields_ = [("name", c_char_p), ("value", c_char_p)]


class Module(Structure):
    _fields_ = [
        ("executable_location", c_char_p),
        ("ub_write", c_void_p),
        ("flush", c_void_p),
        ("send_headers", c_void_p),
        ("read_post", c_void_p),
        ("log_message", c_void_p),
    ]


class Info(Structure):
    _fields_ = [
        ("method", c_char_p),
        ("uri", c_char_p),
        ("headers", POINTER(Pair)),
        ("variables", POINTER(Pair)),
        ("body", c_void_p),
        ("length", c_size_t),
    ]


# Called without the GIL, as everything that CFUNCTYPE and CDLL make is.
UB_WRITE = CFUNCTYPE(c_size_t, c_char_p, c_size_t, c_void_p)
FLUSH = CFUNCTYPE(None, c_void_p)
SEND_HEADERS = CFUNCTYPE(c_int, c_int, c_char_p, c_void_p, c_size_t, c_void_p)
READ_POST = CFUNCTYPE(c_size_t, c_void_p, c_size_t, c_void_p)
LOG_MESSAGE = CFUNCTYPE(None, c_char_p, c_int, c_void_p)

Block = c_char * BLOCK
libc = ctypes.CDLL(None)
libc.fwrite.argtypes = (c_char_p, c_size_t, c_size_t, c_void_p)
libc.fwrite.restype = c_size_t
libc.fflush.argtypes = (c_void_p,)


@lru_cache(64)  # a type made anew would be garbage with cycles
def pairs_type(count: int) -> Any:
    return Pair * count


def texts(pairs: Any) -> list[tuple[str, str]]:
    """Read the pairs up to the one without a name."""
    found: list[tuple[str, str]] = []
    while pairs and (name := pairs[len(found)].name) is not None:
        value = pairs[len(found)].value or b""
        found.append((name.decode("latin-1"), value.decode("latin-1")))
    return found


class Program:
    """The program's slots, or what stands in for those that are NULL.

    *context* is an address, like the C library's *output* and *errors*. The module is copied.
    """

    def __init__(self, module: int, output: int, errors: int) -> None:
        slots = Module.from_address(module) if module else Module()
        self._output = output
        self._errors = errors
        self._ub_write = UB_WRITE(slots.ub_write or 0)
        self._flush = FLUSH(slots.flush or 0)
        self._send_headers = SEND_HEADERS(slots.send_headers or 0)
        self._read_post = READ_POST(slots.read_post or 0)
        self._log_message = LOG_MESSAGE(slots.log_message or 0)

    def ub_write(self, context: int, data: bytes) -> bool:
        """Return whether all of it was taken."""
        data = bytes(data)
        if self._ub_write:
            return bool(self._ub_write(data, len(data), context) == len(data))
        return bool(libc.fwrite(data, 1, len(data), self._output) == len(data))

    def flush(self, context: int) -> bool:
        if self._flush:
            self._flush(context)
        return bool(self._ub_write) or libc.fflush(self._output) == 0

    def send_headers(self, context: int, status: str, headers: Headers) -> bool:
        """Return whether they were taken."""
        if not self._send_headers:
            return True
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        array = pairs_type(len(pairs) + 1)(*pairs)  # and one of NULL
        code, reason = int(status[:3]), status[4:].encode("latin-1")
        return bool(self._send_headers(code, reason, array, len(pairs), context) == 0)

    def read_post(self, context: int, size: int) -> bytes | None:
        """Return up to *size*, at most ``BLOCK``, bytes; None: the client has gone."""
        if not self._read_post:
            return b""
        block = Block()
        got = self._read_post(block, size, context)
        return None if got > size else ctypes.string_at(block, got)

    def log_message(self, context: int, message: bytes, priority: int) -> None:
        if self._log_message:
            self._log_message(message, priority, context)
        else:
            libc.fwrite(message + b"\n", 1, len(message) + 1, self._errors)


program: Program


# -- requests


class Client:
    """The program's side of one request: the slots, until the request is over.

    A thread that the application left behind finds them closed, as the context is then gone.
    """

    def __init__(self, context: int, variables: dict[str, str]) -> None:
        self._context = context
        self.variables = variables
        self._calls = 0
        self._over = False
        self._changed = threading.Condition()

    def call(self, slot: Callable[..., Any], *arguments: Any) -> Any:
        with self._changed:
            if self._over:
                raise ClientDisconnected("the request is over")
            self._calls += 1
        try:
            return slot(self._context, *arguments)
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    def send_headers(self, status: str, headers: Headers) -> bool:
        taken: bool = self.call(program.send_headers, status, headers)
        return taken

    def write(self, data: bytes) -> bool:
        taken: bool = self.call(program.ub_write, data)
        return taken

    def flush(self) -> bool:
        worked: bool = self.call(program.flush)
        return worked

    def end(self) -> None:
        with self._changed:
            self._over = True
            while self._calls:
                self._changed.wait()


current: ContextVar[Client | None] = ContextVar("sapi_embed.client", default=None)


class Post(_Body):
    """The request's body: *data*, or, when that is None, what the program gives in blocks."""

    def __init__(self, client: Client, data: bytes | None) -> None:
        self.length = None if data is None else len(data)
        self.waits = data is None
        if data is None:
            self._fetch: Callable[[int], bytes | None] = partial(client.call, program.read_post)
        else:
            self._fetch = io.BytesIO(data).read
        self._left = self.length
        self.ended = self.length == 0

    def expect(self, announced: str | None) -> None:
        """Take the CONTENT_LENGTH of a body that comes in blocks: neither more nor less is read."""
        if self.waits and announced:
            if not (announced.isascii() and announced.isdigit()):
                raise ConfigurationError(f"CONTENT_LENGTH {announced!r} is not a number")
            self._left = int(announced)
            self.ended = self._left == 0

    def read(self, size: int) -> bytes:
        if self.ended:
            return b""
        size = min(size, BLOCK)
        if self._left is not None:
            size = min(size, self._left)
        data = self._fetch(size)
        if data is None:
            raise ClientDisconnected("the client has gone")
        if self._left is not None:
            if not data:
                raise ClientDisconnected(f"{self._left} bytes of the body are missing")
            self._left -= len(data)
        self.ended = not data or self._left == 0
        return data


class ProgramSapi(EmbedSapi):
    """``embed``, as the name of the whole process."""

    nested = False

    def activate(self, exchange: Any) -> None:
        client = current.get()
        if client is not None:
            exchange.environ.update(client.variables)

    def log_message(self, message: str, level: str = ERROR) -> None:
        text = message.replace("\0", "\\0").encode("utf-8", "backslashreplace")
        client = current.get()
        try:
            if client is not None:
                client.call(program.log_message, text, PRIORITIES[level])
                return
        except ClientDisconnected:  # of a request that is over
            pass
        program.log_message(0, text, PRIORITIES[level])


class WsgiExchange(Exchange):
    """One request to a WSGI application, which runs in the program's thread."""

    def __init__(self, sapi: EmbedSapi, environ: dict[str, Any], body: Post, client: Client):
        self.sapi = sapi
        self.environ = environ
        self.post_ended = body.ended
        self.ended = self.was_cut = False
        self._body = body
        self._client = client

    def read_post(self, size: int) -> bytes:
        data = self._body.read(size)
        self.post_ended = self._body.ended
        return data

    def send_headers(self, status: str, headers: Headers) -> None:
        self._did(self._client.send_headers(status, headers))

    def ub_write(self, data: bytes) -> None:
        if not self.aborted:
            self._did(self._client.write(data))

    def flush(self) -> None:
        if not self.aborted:
            self._did(self._client.flush())

    def _did(self, well: bool) -> None:
        if not well:
            self.aborted = True

    def finish(self) -> None:
        if not self.ended:
            self.ended = True
            self.flush()

    def cut(self) -> None:
        if not self.ended:
            self.was_cut = self.ended = True

    def wait_disconnect(self) -> None:
        self.aborted = True


class AsgiExchange(AsyncEmbedExchange):
    """One request to an ASGI application, on the loop; the program's thread takes and gives.

    ``pieces`` also holds what that thread is to read for the application, so that the loop
    never waits for the program.
    """

    pieces: asyncio.Queue[Any]
    _input: Post

    async def read_post(self, size: int) -> bytes:
        if self._input.waits:
            if self.ended or self.aborted:  # nobody would answer
                raise ClientDisconnected("the request is over")
            block = asyncio.get_running_loop().create_future()
            self.pieces.put_nowait((size, block))
            data: bytes = await block
        else:
            data = self._input.read(size)
        self.post_ended = self._input.ended
        return data

    def give(self, block: asyncio.Future[bytes], data: bytes | Exception) -> None:
        if block.done():  # the application waits no more
            return
        if isinstance(data, Exception):
            block.set_exception(data)
        else:
            block.set_result(data)


class Host(BlockingHost):
    """The application, and requests to it in the program's threads."""

    def __init__(self, application: str, interface: str) -> None:
        super().__init__(partial(gateway_for, application, interface=interface), "")
        self._sapi = ProgramSapi()

    def serve(
        self, client: Client, method: str, uri: str, headers: Headers, body: bytes | None
    ) -> Outcome:
        """Run one request, in a context of its own."""
        post = Post(client, body)
        environ = self._environ(method, uri, headers, post)
        post.expect(client.variables.get("CONTENT_LENGTH", environ.get("CONTENT_LENGTH")))
        current.set(client)
        run = self._blocking if self._loop is None else self._on_the_loop
        try:
            return run(client, environ, post)
        finally:
            client.end()

    def _blocking(self, client: Client, environ: dict[str, Any], body: Post) -> Outcome:
        exchange: Any = WsgiExchange(self._sapi, environ, body, client)
        self._run(exchange)
        return _end_of(exchange, not exchange.aborted)

    def _on_the_loop(self, client: Client, environ: dict[str, Any], body: Post) -> Outcome:
        assert self._loop is not None
        exchange = AsgiExchange(self._sapi, environ, body)
        running = asyncio.run_coroutine_threadsafe(self._serve(exchange), self._loop)
        head_sent = False
        taken = True
        piece: Any = b""
        while piece is not None:
            piece = self._on_loop(exchange.next_piece())
            if isinstance(piece, tuple):
                size, block = piece
                try:
                    data: Any = body.read(size)
                except Exception as error:  # the application's to know
                    data = error
                self._loop.call_soon_threadsafe(exchange.give, block, data)
                continue
            if exchange.status and not head_sent:
                head_sent = True
                taken = client.send_headers(exchange.status, exchange.response_headers)
            if taken and piece:
                taken = client.write(piece)
            if taken:
                taken = client.flush()
            if not taken:
                self._loop.call_soon_threadsafe(exchange.give_up)
        running.result()
        return _end_of(exchange, taken)

    async def _serve(self, exchange: AsgiExchange) -> None:
        try:
            mend(exchange.environ, self._mount)
        except RequestError as error:
            refuse(exchange, error.status)
            await exchange.finish()
            return
        try:
            await self._cycle(exchange)
        finally:
            exchange.cut()


def _end_of(exchange: WsgiExchange | AsgiExchange, taken: bool) -> Outcome:
    if not taken:
        return CUT, "the program did not take the whole response"
    if exchange.was_cut:
        return CUT, "the application cut its response"
    return OK, ""


host: Host | None = None


def start(application: bytes, interface: bytes, module: int, output: int, errors: int) -> Outcome:
    global host, program
    program = Program(module, output, errors)
    starting = Host(os.fsdecode(application), os.fsdecode(interface))
    try:
        starting.__enter__()
    except ConfigurationError as error:
        return REFUSED, _line(error)
    except BaseException as error:  # SystemExit too: the process is the program's
        starting._sapi.log_exception("the application could not be loaded")
        return FAILED, f"{type(error).__name__}: {_line(error)}"
    host = starting
    return OK, ""


def request(address: int, context: int) -> Outcome:
    assert host is not None
    info = Info.from_address(address)
    try:
        return copy_context().run(
            host.serve,
            Client(context, dict(texts(info.variables))),
            (info.method or b"GET").decode("latin-1"),
            info.uri.decode("utf-8", "surrogateescape"),
            texts(info.headers),
            ctypes.string_at(info.body, info.length) if info.body else None,
        )
    except ConfigurationError as error:
        return REFUSED, _line(error)
    except BaseException as error:
        host._sapi.log_exception("the request failed")
        return FAILED, f"{type(error).__name__}: {_line(error)}"


def stop() -> Outcome:
    global host
    assert host is not None
    stopping, host = host, None
    try:
        stopping.__exit__(None, None, None)
    except BaseException as error:
        stopping._sapi.log_exception("the application's end failed")
        return FAILED, f"{type(error).__name__}: {_line(error)}"
    return OK, ""


def _line(error: BaseException) -> str:
    """What an error says, as C can take it: one line of UTF-8 without NUL."""
    line = " ".join(str(error).replace("\0", "\\0").split())
    return line.encode("utf-8", "backslashreplace").decode()
