"""In-memory exchanges that write down, in order, everything a gateway does to them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from sapi_adapters.sapi import AsyncExchange, ClientDisconnected, Exchange, Sapi

ENVIRON = {
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/",
    "QUERY_STRING": "",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.1",
}
"""What every protocol hands over, mended."""


class RecordingSapi(Sapi):
    """A SAPI that only keeps its log."""

    name = "recording"
    pretty_name = "recording"

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def log_message(self, message: str, level: str = "error") -> None:
        self.lines.append((level, message))

    @property
    def log(self) -> str:
        """What an operator reads; an application that knows no life span is no news."""
        return "\n".join(message for level, message in self.lines if level != "debug")


class Recorded:
    """What was done: ``steps`` of ("head", status, headers), ("write", bytes), and plain words."""

    def __init__(
        self, body: Iterable[bytes] = (), sapi: RecordingSapi | None = None, **variables: str
    ) -> None:
        self.sapi = sapi or RecordingSapi()
        self.environ: dict[str, Any] = {**ENVIRON, **variables}
        self.steps: list[Any] = []
        self.logged = ""
        self.incoming = list(body)
        self.post_ended = not self.incoming
        self.cut_short = False
        """The body ends before CONTENT_LENGTH: reading past what there is raises."""
        self.gone_at: int | None = None
        """The flush, counted from 1, at which the client turns out to have gone."""
        self.flushes = 0

    def send_headers(self, status: str, headers: Any) -> None:
        self.steps.append(("head", status, list(headers)))

    def ub_write(self, data: bytes) -> None:
        assert type(data) is bytes and data, "only real bytes, and some of them"
        self.steps.append(("write", data))

    def cut(self) -> None:
        if not self.over:
            self.steps.append("cut")

    def log_message(self, message: str) -> None:
        self.logged += message

    def _read(self, size: int) -> bytes:
        self.steps.append("read")
        if not self.incoming:
            if self.cut_short:
                raise ClientDisconnected("the body ends short")
            return b""
        data, self.incoming[0] = self.incoming[0][:size], self.incoming[0][size:]
        if not self.incoming[0]:
            del self.incoming[0]
        self.post_ended = not self.incoming and not self.cut_short
        return data

    def _flush(self) -> None:
        self.steps.append("flush")
        self.flushes += 1
        if self.gone_at is not None and self.flushes >= self.gone_at:
            self.aborted = True

    # -- what a test asks

    @property
    def over(self) -> bool:
        return "finish" in self.steps or "cut" in self.steps

    @property
    def end(self) -> str:
        """``"finish"`` or ``"cut"``; that it is the last step, and came once, is checked here."""
        assert self.over and self.steps[-1] in ("finish", "cut"), self.steps
        return str(self.steps[-1])

    @property
    def head(self) -> tuple[str, list[tuple[str, str]]]:
        """The one head that was sent."""
        ((_, status, headers),) = [step for step in self.steps if step[0] == "head"]
        return status, headers

    @property
    def status(self) -> int:
        return int(self.head[0][:3])

    @property
    def headers(self) -> dict[str, str]:
        """The headers by their names in lower case."""
        return {name.lower(): value for name, value in self.head[1]}

    @property
    def body(self) -> bytes:
        return b"".join(step[1] for step in self.steps if step[0] == "write")

    @property
    def sent(self) -> list[Any]:
        """The steps of the response in brief, reading left out: "head", bytes, "flush", the end."""
        brief = [step[0] if step[0] == "head" else step for step in self.steps if step != "read"]
        return [step[1] if step[0] == "write" else step for step in brief]


class Recording(Recorded, Exchange):
    """The blocking form."""

    def read_post(self, size: int) -> bytes:
        return self._read(size)

    def flush(self) -> None:
        self._flush()

    def finish(self) -> None:
        if not self.over:
            self.steps.append("finish")

    def wait_disconnect(self) -> None:
        self.steps.append("wait")
        self.aborted = True


class AsyncRecording(Recorded, AsyncExchange):
    """The awaitable form. ``gate`` holds flushes back while it is cleared; ``gone`` is the client.

    Made inside a running event loop.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.gate = asyncio.Event()
        self.gate.set()
        self.gone = asyncio.Event()

    async def read_post(self, size: int) -> bytes:
        await asyncio.sleep(0)
        return self._read(size)

    async def flush(self) -> None:
        self._flush()
        await self.gate.wait()
        if self.aborted:
            self.gone.set()

    async def finish(self) -> None:
        if not self.over:
            self.steps.append("finish")
        self.gone.set()

    def cut(self) -> None:
        super().cut()
        self.gone.set()

    def give_up(self) -> None:
        self.aborted = True
        self.gone.set()

    async def wait_disconnect(self) -> None:
        await self.gone.wait()
