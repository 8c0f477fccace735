"""Exchanges over a wire: what FastCGI, SCGI and AJP have in common.

A response is held until it must go or is complete; how it is framed, ended and cut is the wire's.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ..manager.scoreboard import ENDING, FINISHING
from ..sapi import (
    INTERNAL_SERVER_ERROR,
    WARNING,
    AsyncExchange,
    ClientDisconnected,
    Sapi,
    refuse,
)
from ..servers.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..sapi import Headers

HELD = 65536  # bytes of a response that may wait for the next flush
HEAD_SECONDS = 10.0  # how long a request may take to send its whole head
BODY_SECONDS = 60.0
"""How long a peer may send nothing of a body that the application waits for."""


class WireResponse:
    """The response half of an exchange, for the blocking and the awaitable form."""

    sapi: Sapi
    environ: dict[str, Any]
    aborted: bool
    _head = b""
    _body = b""
    _headers: Headers
    status = ""
    written = 0
    """Bytes of the body that were taken, for the access log."""
    _sent = False
    ended = False
    broken = False
    """The response was cut: the connection must end in a way that shows it."""
    failure_status = INTERNAL_SERVER_ERROR
    """What a client gets whose response is cut before it began."""
    note_stage: Callable[[int], None] | None = None
    """Told that the response is complete, where the application may go on after it."""
    _input = b""
    post_ended: bool
    short = False
    """The body ends before its CONTENT_LENGTH."""

    def set_length(self, length: int) -> None:
        """Hold a body that came whole to its CONTENT_LENGTH."""
        if len(self._input) > length:
            self.sapi.log_message("request: bytes beyond CONTENT_LENGTH are discarded", WARNING)
            self._input = self._input[:length]
        else:
            self.short = True
        self.post_ended = not self._input and not self.short

    def is_ending(self) -> None:
        """Show that the response is complete, and the web server still has to take it."""
        note = self.note_stage or getattr(self.sapi, "note", None)
        if note is not None:
            note(ENDING)

    # -- what a wire fills in

    def _take(self) -> bytes:
        """Return what is held, framed."""
        raise NotImplementedError

    def _take_all(self) -> bytes:
        """Return what is held and what ends the request."""
        raise NotImplementedError

    def _take_aborted(self) -> bytes:
        """Return what ends a request that the web server gave up."""
        return b""

    def _take_short(self) -> bytes:
        """Return what is held of a response whose announced length shows that it was cut."""
        return self._take()

    def _drop_body(self) -> None:
        """Forget a body of which nothing has left: an error page is to replace it."""
        self._body = b""
        self.written = 0

    @property
    def announced_is_seen(self) -> bool:
        """Whether the web server compares the body with its announced length."""
        return True

    def _take_cut(self) -> bytes:
        """Return what may still be sent of a response that cannot be completed.

        Before anything has left, an error page replaces it. After that the front end learns from
        a short body that it was cut if a length was announced, and by a reset otherwise
        (``broken``).
        """
        if not self._sent:
            self._drop_body()
            refuse(self, self.failure_status)  # type: ignore[arg-type]
            return self._take_all()
        announced = self.announced_is_seen and any(
            name.lower() == "content-length" for name, _ in self._headers
        )
        self.broken = not announced
        return self._take_short() if announced else self._take()


class AwaitedExchange(WireResponse, AsyncExchange):
    """One request that the event server serves; *link* is its connection.

    A *body* that came whole is given; else the link puts bytes in as they come.
    """

    input_ended = True
    _spool: Spool | None = None
    _news: asyncio.Future[None] | None = None

    def __init__(self, link: Any, environ: dict[str, Any], body: bytes, *, whole: bool) -> None:
        self.sapi = link.sapi
        self.environ = environ
        self.input_ended = whole
        self.post_ended = whole and not body
        self._link = link
        self._input = body

    # -- what the link says

    def put(self, data: bytes) -> None:
        """Take bytes of the body."""
        if self._spool is None:
            self._spool = Spool()
        self._spool.put(data)
        self.wake()

    def unread(self) -> int:
        """Return how many bytes of the body wait to be read."""
        return 0 if self._spool is None else len(self._spool)

    def give_up(self) -> None:
        """The client has gone."""
        self.aborted = True
        self.wake()

    def wake(self) -> None:
        """Let whoever waits look again."""
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _next_news(self) -> asyncio.Future[None]:
        """Return what is done at the next :meth:`wake`, from this very moment on."""
        if self._news is None or self._news.done():
            self._news = asyncio.get_running_loop().create_future()
        return asyncio.shield(self._news)

    # -- the interface

    async def read_post(self, size: int) -> bytes:
        while True:
            if self._input:
                data = self._input[:size]
                self._input = self._input[size:]
            elif self._spool is not None and self._spool:
                data = self._spool.get(size)
                self._link.taken(self)
            else:
                data = b""
            if data or (self.input_ended and not self.short):
                left = self._input or self._spool
                self.post_ended = self.input_ended and not self.short and not left
                return data
            if self.aborted or self.short or self.ended:  # what comes next is the next request's
                raise ClientDisconnected("the request is over, or its body ends short")
            self._link.wanted(self)
            try:
                await asyncio.wait_for(self._next_news(), BODY_SECONDS)
            except asyncio.TimeoutError:
                self.give_up()
                raise ClientDisconnected(f"nothing came for {BODY_SECONDS:.0f} s") from None

    async def flush(self) -> None:
        if not self.aborted and not self.ended:
            self._link.stream.write(self._take())
            await self._link.stream.drained()

    async def finish(self) -> None:
        if not self.ended:
            self.ended = True
            data = self._take_aborted() if self.aborted else self._take_all()
            self._link.stream.write(data)
            if self.note_stage is not None:
                self.note_stage(FINISHING)
            self._link.over(self)
            self.wake()

    def cut(self) -> None:
        if not self.ended:
            data = self._take_aborted() if self.aborted else self._take_cut()
            self._link.stream.write(data)
            self.ended = True
            self._link.over(self)
            self.wake()

    def ub_write(self, data: bytes) -> None:
        self.written += len(data)
        self._body = self._body + data if self._body else data
        if len(self._body) > HELD and not self.aborted and not self.ended:
            self._link.stream.write(self._take())

    async def wait_disconnect(self) -> None:
        while not self.aborted and not self.ended:
            await self._next_news()

    async def read_file(self, file: Any, size: int) -> bytes:
        loop = asyncio.get_running_loop()
        data: bytes = await loop.run_in_executor(None, file.read, size)
        return data

    def fileno(self) -> int | None:
        return self._link.stream.fileno()  # type: ignore[no-any-return]
