"""The response of a server that was asked: sent the request's body, and read block by block.

Who is at fault has a class of its own among the OSErrors, which are what flup let through:
:class:`TimeoutError` for a server that is silent (504 to a client of ours), another
:class:`ConnectionError` for one that breaks the rules (502).
"""

from __future__ import annotations

import re
import select
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

from ...httpd.script import BLOCK, HEAD_LIMIT, Failed, Head, parse_head

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator


class Wire(Protocol):
    """How the protocol puts the body, and what it makes of the answer."""

    name: str
    """For messages: "the FastCGI server"."""
    ended: bool
    """The response is over."""

    def body(self, data: bytes) -> bytes:
        """Return what is sent for *data* of the request's body, for its end if that is ``b""``."""

    def receive(self, data: bytes) -> bytes:
        """Return what of the response is in *data*, which is ``b""`` when the server closed.

        Raises :class:`ConnectionError` for what breaks the protocol.
        """


class Response:
    """One response: an iterator of blocks.

    Reading is what sends the rest of the request's body, too, because a server may answer before
    it has all of it. The connection is closed at the end, by an error and by :meth:`close`.

    flup returned a list of one block; ``response[0]`` is that block still, once it is all there.
    There is no ``len()``: servers ask for it, and one block is not what they would be given.
    """

    def __init__(
        self, connection: socket.socket, wire: Wire, environ: dict[str, Any], timeout: float
    ) -> None:
        """*timeout* is in seconds without a byte in either direction."""
        self._connection = connection
        self._wire = wire
        self._timeout = timeout
        self._bodiless = environ.get("REQUEST_METHOD") == "HEAD"
        self._due = length_of(environ)
        self._input: Any = environ["wsgi.input"] if self._due else None
        self._pending = bytearray() if self._due else bytearray(wire.body(b""))
        self._kept = b""
        """What of the body came with the head."""
        self._closed = False
        self._whole: list[bytes] | None = None
        self._left: int | None = None
        """Bytes of the response that are due by its Content-Length."""
        connection.setblocking(False)

    def begin(self, start_response: Callable[..., Any]) -> None:
        """Read the head and call *start_response* with it.

        A head that says neither Status nor Location is one of 200, as flup took it; Location alone
        is 302 (RFC 3875 §6.2.3), also for a path, which only a server could follow by itself.
        """
        head = bytearray()
        match = None
        while match is None:
            before = len(head)
            if self._wire.ended:
                raise ConnectionError(f"{self._wire.name} ended its answer before the head was")
            head += self._more()
            match = _END.search(head, max(0, before - 2))
            if (len(head) if match is None else match.start()) > HEAD_LIMIT:
                raise ConnectionError(f"{self._wire.name} sends a head over {HEAD_LIMIT} bytes")
        block = bytes(head[: match.start()])
        if _SAYS.search(block) is None:
            block = b"Status: 200 OK\n" + block
        try:
            parsed = parse_head(block)
        except Failed as error:
            raise ConnectionError(f"{self._wire.name}: {error}") from None
        status = _status(parsed)
        headers = [(name.lower(), value) for name, value in parsed.fields]  # flup's spelling
        if parsed.content_type is not None:
            headers.insert(0, ("content-type", parsed.content_type))
        if parsed.length is not None:
            headers.append(("content-length", str(parsed.length)))
            if not self._bodiless and status[:3] not in ("204", "304"):
                self._left = parsed.length
        self._kept = bytes(head[match.end() :])
        start_response(status, headers)

    def __iter__(self) -> Iterator[bytes]:
        return self if self._whole is None else iter(self._whole)

    def __next__(self) -> bytes:
        try:
            while not self._closed:
                block, self._kept = self._kept, b""
                if not block:
                    if self._wire.ended:
                        break
                    block = self._more()
                if self._left is not None:
                    block = block[: self._left]
                    self._left -= len(block)
                if block:
                    return block
            if self._left and not self._closed:
                raise ConnectionError(
                    f"{self._wire.name} ended {self._left} bytes before its Content-Length"
                )
        except BaseException as error:
            self.close()
            # Complete is complete; it was only waited for because a server that is left could
            # stop what it does behind its answer.
            if self._left != 0 or not isinstance(error, OSError):
                raise
        self.close()
        raise StopIteration

    def __getitem__(self, index: int) -> bytes:
        if self._whole is None:
            self._whole = [b"".join(self)]
        return self._whole[index]

    def close(self) -> None:
        """Close the connection. Who serves the request learns by it that nobody waits."""
        self._closed = True
        self._connection.close()

    def __del__(self) -> None:
        self._connection.close()

    # -- the conversation -------------------------------------------------------------------------

    def _more(self) -> bytes:
        """Return what comes next of the response, ``b""`` too; send of the body meanwhile."""
        while True:
            if self._pending:
                self._send()
            data = self._receive()
            if data is not None:
                return self._wire.receive(data)
            if self._pending or not self._fill():
                self._wait(select.POLLIN | select.POLLOUT if self._pending else select.POLLIN)

    def _wait(self, mask: int) -> None:
        poller = select.poll()
        poller.register(self._connection, mask)
        deadline = time.monotonic() + self._timeout
        while True:
            if poller.poll(1000 * max(0.0, deadline - time.monotonic())):
                return
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{self._wire.name} was silent for {self._timeout:g} s")

    def _receive(self) -> bytes | None:
        try:
            return self._connection.recv(BLOCK)
        except BlockingIOError:
            return None

    def _send(self) -> None:
        try:
            del self._pending[: self._connection.send(self._pending)]
        except BlockingIOError:
            pass
        except ConnectionError:
            # It may have answered before it went: what it said is still to be read.
            self._pending.clear()
            self._due = 0

    def _fill(self) -> bool:
        """Take the next piece of the body; tell whether there was one."""
        if not self._due:
            return False
        data = self._input.read(min(self._due, BLOCK))
        if isinstance(data, str):  # programs that send nothing pass a StringIO
            data = data.encode("latin-1")
        if not data:
            raise ConnectionError(f"the request's body ends {self._due} bytes too early")
        self._due -= len(data)
        self._pending += self._wire.body(data)
        if not self._due:
            self._pending += self._wire.body(b"")
        return True


_END = re.compile(rb"(?:\A|\n)\r?\n")
_SAYS = re.compile(rb"^(?:status|location)[ \t]*:", re.IGNORECASE | re.MULTILINE)


def _status(head: Head) -> str:
    if head.status_line is not None:
        return head.status_line
    code = head.status or 302
    try:
        return f"{code} {HTTPStatus(code).phrase}"
    except ValueError:
        return f"{code} Unknown"


def length_of(environ: dict[str, Any]) -> int:
    """Return how long the body is by CONTENT_LENGTH, 0 without; :class:`ValueError` for others."""
    text = str(environ.get("CONTENT_LENGTH") or 0)
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"CONTENT_LENGTH is {text!a}")
    return int(text)
