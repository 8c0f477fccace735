"""SCGI (N. Schemenauer, 23 June 2008): bytes to events and back. Pure: no I/O, no clock.

Three things are here:

- :func:`parse_whole`, for what nearly every request is: one that lies complete in one buffer.
- :class:`Connection`, the application's side, for everything else. It is the judge of bad input.
- :func:`request`, the web server's side.

The response is CGI's; the connection's end is its end, so a connection carries one request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..sapi import ProtocolError, RequestError, SapiError
from .cgi import join_pairs, render_head
from .single import BodyEnded, BodyReceived, RequestReceived

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .single import Event

MAX_HEADERS: Final = 65536
"""Bytes of headers that a request may have, unless told otherwise."""

_COMMA = ord(",")
_ONCE = ("CONTENT_LENGTH", "REQUEST_METHOD")
"""What frames a request: two servers could disagree about which of two values holds."""


def parse_whole(data: bytes, max_headers: int = MAX_HEADERS) -> tuple[dict[str, str], bytes] | None:
    """Return the variables and the body of *data* when it is one whole request, strictly right.

    None for anything else, also for malformed bytes, for a name that comes twice and for bytes
    behind the body: then :class:`Connection` is to judge.
    """
    start = data.find(b":", 0, 8) + 1
    digits = data[: start - 1]
    if start < 2 or not digits.isdigit() or digits[0] == 48:  # 48: a leading zero
        return None
    size = int(digits)
    stop = start + size
    if size > max_headers or data[stop - 1 : stop + 1] != b"\0,":
        return None
    # The whole block is decoded and split once; dict() then sees to the pairs in C.
    strings = data[start : stop - 1].decode("latin-1").split("\0")
    each = iter(strings)
    environ = dict(zip(each, each, strict=False))
    if 2 * len(environ) != len(strings) or environ.pop("SCGI", "") != "1" or "" in environ:
        return None
    body = data[stop + 1 :]
    length = environ.get("CONTENT_LENGTH", "")
    if environ.get("HTTP_CONTENT_LENGTH", length) != length:
        return None
    if length == "0":
        return None if body else (environ, body)
    if not _is_number(length) or int(length) != len(body):
        return None
    return environ, body


def request(pairs: Iterable[tuple[bytes, bytes]], length: int) -> bytes:
    """Return the head of a request with a body of *length* bytes, which are to follow.

    CONTENT_LENGTH and SCGI are added; those in *pairs* do not count. Raises :class:`ValueError`
    for a name that is empty and for a NUL.
    """
    strings = [b"CONTENT_LENGTH", b"%d" % length, b"SCGI", b"1"]
    for name, value in pairs:
        if not name or b"\0" in name or b"\0" in value:
            raise ValueError(f"SCGI cannot carry the variable {name!r}: {value!r}")
        if name not in (b"CONTENT_LENGTH", b"SCGI"):
            strings += name, value
    block = b"\0".join(strings) + b"\0"
    return b"%d:%b," % (len(block), block)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


class Connection:
    """The application's side of one connection; see :class:`~.single.Codec`.

    *max_headers* bounds the header block in bytes. *strict* refuses a request without ``SCGI=1``,
    as the standard does.
    """

    def __init__(self, *, max_headers: int = MAX_HEADERS, strict: bool = True) -> None:
        self.environ: dict[str, str] = {}
        self.reusable = False
        self.idle = True
        self._max_headers = max_headers
        self._strict = strict
        self._buffer = bytearray()
        self._start = self._stop = 0
        """Where the header block lies in the buffer, once its length is known."""
        self._left = -1
        """Bytes of the body that are due; -1 before the headers are there."""
        self._over = False

    def receive_data(self, data: bytes) -> list[Event]:
        """Take bytes from the peer; return what happened.

        Bytes behind the body are ignored. The body's end is known by CONTENT_LENGTH alone, so it
        is never short here: a peer that closes before has gone.
        """
        if self._over:
            return []
        try:
            return self._receive(data)
        except SapiError:
            self._over = True
            raise

    def data_to_send(self) -> bytes:
        """Return ``b""``: SCGI itself answers nothing."""
        return b""

    def head(self, status: str, headers: list[tuple[str, str]]) -> bytes:
        """Return a CGI response head."""
        return render_head(status, headers)

    def body(self, data: bytes) -> bytes:
        """Return *data*: the body has no framing."""
        return data

    def flush(self) -> bytes:
        """Return ``b""``: there is no such request."""
        return b""

    def ask(self) -> bytes:
        """Return ``b""``: the body comes unasked."""
        return b""

    def end(self, last: bool = False) -> bytes:
        """Return ``b""``: the connection is to be closed."""
        self._over = self.idle = True
        return b""

    def _receive(self, data: bytes) -> list[Event]:
        if self._left >= 0:
            return self._body(data)
        buffer = self._buffer
        buffer += data
        self.idle = not buffer
        if not self._stop and not self._measure():
            return []
        start, stop = self._start, self._stop
        if len(buffer) <= stop:
            return []
        if buffer[stop] != _COMMA:
            raise ProtocolError("the header block's length is wrong: no comma ends it")
        block, rest = bytes(buffer[start:stop]), bytes(buffer[stop + 1 :])
        buffer.clear()
        self._left = self._variables(block)
        return [RequestReceived(self.environ), *self._body(rest)]

    def _measure(self) -> bool:
        """Read the netstring's length; False while it is incomplete."""
        digits, colon, _ = bytes(self._buffer[:8]).partition(b":")
        right = digits.isdigit() if digits else not colon
        if not right or (digits[0:1] == b"0" and len(digits) > 1) or len(digits) > 7:
            raise ProtocolError(f"SCGI begins with a length, not {digits + colon!r}")
        if not colon:
            return False
        size = int(digits)
        if size > self._max_headers:
            raise RequestError(
                f"{size} bytes of headers, {self._max_headers} are allowed",
                "431 Request Header Fields Too Large",
            )
        self._start = len(digits) + 1
        self._stop = self._start + size
        return True

    def _variables(self, block: bytes) -> int:
        """Set the variables that *block* holds; return the body's length."""
        if block[-1:] != b"\0":
            raise ProtocolError("the header block does not end in a NUL")
        strings = block[:-1].decode("latin-1").split("\0")
        if len(strings) % 2:
            raise ProtocolError("a header has no value")
        names = strings[::2]
        if "" in names:
            raise ProtocolError("a header has no name")
        self.environ = environ = join_pairs(zip(names, strings[1::2], strict=True))
        scgi = environ.pop("SCGI", None)
        if self._strict and scgi != "1":
            raise ProtocolError(f"SCGI is {scgi!r}, not '1'")
        length = environ.get("CONTENT_LENGTH")
        if length is None:
            raise ProtocolError("there is no CONTENT_LENGTH")
        for name in _ONCE:
            if names.count(name) > 1:
                raise RequestError(f"{name} comes more than once")
        if not _is_number(length):
            raise RequestError(f"CONTENT_LENGTH {length!r} is not a number of bytes")
        # With "scgi_request_buffering off" nginx counts what it has of the body by now, and then
        # sends all of it; the client's header, which it has checked, tells how much that is.
        whole = environ.get("HTTP_CONTENT_LENGTH", "")
        if _is_number(whole) and int(whole) > int(length):
            length = environ["CONTENT_LENGTH"] = whole
        return int(length)

    def _body(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        data = data[: self._left]
        if data:
            self._left -= len(data)
            events.append(BodyReceived(data))
        if not self._left:
            self._over = True
            events.append(BodyEnded(short=False))
        return events
