"""HTTP/1.1, the server's side (RFC 9112), without I/O: bytes in, events out, bytes out.

llhttp, through httptools, decides the framing: where a request ends and which bytes are its body.
In front of it stands a guard that is stricter than llhttp and only refuses. It sees every line of
a head, of a chunk's beginning and of a trailer before llhttp does, and leaves nothing on which two
servers could disagree; what it has checked it cuts into fields. Where the two do not come to the
same end, the request is refused.

What each refuses, and what it costs, is in docs/http-parser.md.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeAlias

import httptools

from ..sapi import ApplicationError

Fields: TypeAlias = "list[tuple[str, str]]"
"""Names as sent and values without the blanks around them, as latin-1, in the order sent."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest head: Apache's LimitRequestLine, LimitRequestFieldSize, LimitRequestFields.

    Bytes of a line without its CRLF; trailers have the last two for themselves.
    """

    line: int = 8190
    field_size: int = 8190
    fields: int = 100


# -- events ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Head:
    """The head of a request. Its body follows as ``bytes`` and :class:`End`, unless length is 0."""

    method: str
    target: str
    """As sent, latin-1: origin-form, absolute-form (http, https), or ``*`` with OPTIONS."""
    protocol: str
    proto_num: int
    """1000 or 1001."""
    the_request: str
    """The request line."""
    headers: Fields
    keep_alive: bool
    """False: the connection is closed after the response, and nothing after this is parsed."""
    length: int | None
    """Bytes of the body. 0: there is none, the request is complete. None: chunked."""
    expects_continue: bool
    """A body follows once 100 (Continue) is sent, RFC 9110 section 10.1.1."""
    upgrade: str | None
    """The Upgrade field in lower case, if Connection names it."""
    host: str | None
    """The Host field as sent. None only in HTTP/1.0, empty only with the target ``*``."""


@dataclass(slots=True)
class End:
    """A request with a body is complete."""

    trailers: Fields = field(default_factory=list)
    """Without the names that RFC 9110 section 6.5.1 forbids; they are no part of the headers."""


@dataclass(slots=True)
class Refusal:
    """The request is not served. Nothing after it is parsed; the connection must be closed."""

    status: str
    message: str
    """For the log."""
    the_request: str = ""
    """The request line, if it could be read."""


Event: TypeAlias = "Head | bytes | End | Refusal"

BAD_REQUEST = "400 Bad Request"
METHOD_NOT_ALLOWED = "405 Method Not Allowed"
URI_TOO_LONG = "414 URI Too Long"
EXPECTATION_FAILED = "417 Expectation Failed"
FIELDS_TOO_LARGE = "431 Request Header Fields Too Large"
NOT_IMPLEMENTED = "501 Not Implemented"
VERSION_NOT_SUPPORTED = "505 HTTP Version Not Supported"


class _Refused(Exception):
    """Raised while a request is read; becomes a :class:`Refusal`."""

    def __init__(self, message: str, status: str = BAD_REQUEST) -> None:
        super().__init__(message)
        self.status = status


# -- grammar --------------------------------------------------------------------------------------
# Every expression is linear: no two neighbours in one can take the same character. ``\d``, ``\s``
# and str methods that know Unicode are not for bytes of the wire.

_TCHAR = r"!#$%&'*+\-.^_`|~0-9A-Za-z"
_VALUE = r"(?:[\x21-\x7e\x80-\xff][\t\x20-\x7e\x80-\xff]*)?"

_PLAIN_REQUEST_LINE = re.compile(
    rf"([{_TCHAR}]+) (/[\x21\x22\x24-\x7e]*) (?=HTTP/1\.[01]\r\n)"  # no fragment: "#"
)
_REQUEST_LINE = re.compile(rf"([{_TCHAR}]+) ([\x21-\x7e\x80-\xff]+) (HTTP/[0-9]\.[0-9])\r\n")
_FIELD = re.compile(rf"(?m)^([{_TCHAR}]+):[\t ]*({_VALUE})\r\n")
_PLAIN_FIELD = re.compile(rf"(?m)^([0-9A-Za-z-]+):[\t ]*({_VALUE})(?<![\t ])\r\n")
"""A field without blanks at its end, whose name is nothing special: `_one_name_each`."""
_HOST = r"(?:[0-9A-Za-z._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?"
_ABSOLUTE = re.compile(rf"(?i:https?)://{_HOST}(?:[/?].*)?")
_LENGTH = re.compile(r"[0-9]{1,19}")
_TOKENS = re.compile(rf"[{_TCHAR}]+(?:[\t ]*,[\t ]*[{_TCHAR}]+)*")
_CHUNK = re.compile(
    rb"([0-9A-Fa-f]{1,16})"
    rb"(?:;[%(t)b]+(?:=(?:[%(t)b]+|\"[\t !\x23-\x5b\x5d-\x7e\x80-\xff]*\"))?)*\r\n"
    % {b"t": _TCHAR.encode()}
)
_BLANKS = re.compile(rb"[\t ]+(?=\r\n)")
_DISGUISED = re.compile(rb"(?im)^upgrade(?=:)")

METHODS = frozenset(
    """ACL BIND CHECKOUT COPY DELETE GET HEAD LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR
    MKCOL MOVE NOTIFY OPTIONS PATCH POST PROPFIND PROPPATCH PURGE PUT QUERY REBIND REPORT SEARCH
    SOURCE SUBSCRIBE TRACE UNBIND UNLINK UNLOCK UNSUBSCRIBE""".split()
)
"""The methods that llhttp knows in HTTP/1, but CONNECT."""

_TOKEN_BYTES = frozenset(
    b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)
_LARGEST = 2**63 - 1
_CHUNK_LINE = 1024
"""Bytes of a chunk's first line. Extensions mean nothing to anybody but proxies' tests."""
_CHUNK_EXCESS = 16384
"""Bytes of chunk lines that a body may have beyond 16, and twice its data (Go: CVE-2023-39326)."""

_FRAMING = frozenset(
    ("host", "content-length", "transfer-encoding", "connection", "expect", "upgrade")
)
_ONLY_HOST = {"host"}

_NOT_IN_TRAILERS = frozenset(
    """age authorization cache-control connection content-encoding content-length content-range
    content-type cookie date expect expires forwarded host if-match if-modified-since
    if-none-match if-range if-unmodified-since keep-alive location max-forwards pragma
    proxy-authenticate proxy-authorization proxy-connection range retry-after set-cookie te
    trailer transfer-encoding upgrade vary via www-authenticate x-client-ip x-forwarded-for
    x-forwarded-host x-forwarded-port x-forwarded-proto x-real-ip""".split()
)
"""Names for framing, routing, authentication, conditions and content (RFC 9110 section 6.5.1)."""


@lru_cache(maxsize=256)
def _host_is_valid(host: str) -> bool:
    return re.fullmatch(_HOST, host) is not None


def _read_request_line(line: str) -> str:
    """Return the request line (given with its CRLF) without the CRLF, or raise :class:`_Refused`.

    The exception's second argument is the line, where one could be read.
    """
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        if not line.endswith("\r\n"):
            raise _Refused("a line ends with a bare LF")
        raise _Refused("the request line is malformed")
    return match[0][:-2]


def _check_request_line(the_request: str) -> None:
    """Refuse a well-formed request line that is not served."""
    method, target, protocol = the_request.split(" ")
    if protocol not in ("HTTP/1.1", "HTTP/1.0"):
        if the_request == "PRI * HTTP/2.0":
            raise _Refused("HTTP/2 is not spoken here")
        raise _Refused(f"{protocol} is not spoken here", VERSION_NOT_SUPPORTED)
    if method == "CONNECT":
        raise _Refused("CONNECT is not for an origin server", METHOD_NOT_ALLOWED)
    if "#" in target or not target.isascii():
        raise _Refused("the target has a fragment or bytes that must be encoded")
    if target[0] == "/" or (target == "*" and method == "OPTIONS"):
        return
    if _ABSOLUTE.fullmatch(target) is None:
        raise _Refused("the target is of no form that goes with the method")


def _one_name_each(fields: Fields) -> None:
    """Refuse two names that are one as CGI variables: X_Forwarded_For and X-Forwarded-For.

    Whoever stands in front checks the one and lets the other pass (CVE-2024-45614).
    """
    names: dict[str, str] = {}
    for name, _ in fields:
        name = name.lower()
        variable = re.sub("[^0-9a-z]", "_", name)
        if names.setdefault(variable, name) != name:
            raise _Refused(f"the fields {names[variable]} and {name} are one variable")


def _value(name: str, keys: list[str], fields: Fields) -> str:
    """Return the value of the field *name*, which is there; of several, the list of all."""
    if keys.count(name) == 1:
        return fields[keys.index(name)][1]
    return ", ".join([fields[index][1] for index, key in enumerate(keys) if key == name])


@lru_cache(maxsize=256)
def _tokens(value: str) -> list[str]:
    """Return the members of a list, in lower case; the empty ones count for nothing."""
    return [token.strip("\t ") for token in value.lower().split(",")]


def _check_coding(value: str, minor: str) -> None:
    """Refuse a Transfer-Encoding that is not one "chunked" (RFC 9112 section 6.1)."""
    if minor == "0":
        raise _Refused("Transfer-Encoding in HTTP/1.0")
    if value.lower() == "chunked":
        return
    if _TOKENS.fullmatch(value) is None:
        raise _Refused("Transfer-Encoding is malformed")
    codings = _tokens(value)
    if "chunked" in codings[:-1]:
        raise _Refused("chunked is not the last transfer coding, or is there twice")
    raise _Refused(f"transfer coding {codings[0]} is unknown", NOT_IMPLEMENTED)


def _content_length(value: str) -> int:
    """Return the one number; two of it make a list, which is none, also if they are equal."""
    if _LENGTH.fullmatch(value) is None or int(value) > _LARGEST:
        raise _Refused("Content-Length is no number, or too large a one")
    return int(value)


@dataclass(slots=True)
class _Block:
    """What a head says from its version on, which on one connection is often the same again."""

    text: str
    fields: Fields
    keep_alive: bool
    length: int | None
    expects_continue: bool
    upgrade: str | None
    host: str | None
    disguised: bool
    """There is an Upgrade field, which llhttp is not to see."""


def _plain_fields(text: str, limits: Limits) -> Fields | None:
    """Return the fields of *text*, a version and fields; None if not all are of the usual kind."""
    fields: Fields = _PLAIN_FIELD.findall(text, 10)
    # Each match is one whole line. So if there are as many as lines, all lines are fields.
    if len(fields) != text.count("\n") - 2 or len(fields) > limits.fields:
        return None
    return fields


def _odd_fields(text: str) -> Fields:
    """Return the fields of *text*, whose lines have been checked one by one."""
    fields = [(name, value.rstrip("\t ")) for name, value in _FIELD.findall(text, 10)]
    _one_name_each(fields)
    return fields


def _read_block(text: str, target: str, fields: Fields) -> _Block:
    """Return what *fields* say of the request; raise :class:`_Refused`."""
    minor = text[7]
    keys = [name.lower() for name, _ in fields]
    framing = _FRAMING.intersection(keys)
    host = None
    if "host" in framing:
        host = fields[keys.index("host")][1]
        if keys.count("host") != 1:
            raise _Refused("Host twice")
        if not _host_is_valid(host) and (host or target != "*"):
            raise _Refused("Host is malformed")
    elif minor == "1":
        raise _Refused("HTTP/1.1 without Host")
    length: int | None = 0
    keep_alive = minor == "1"
    expects_continue = False
    upgrade = None
    if framing != _ONLY_HOST:
        if "transfer-encoding" in framing:
            if "content-length" in framing:
                raise _Refused("Transfer-Encoding and Content-Length")
            _check_coding(_value("transfer-encoding", keys, fields), minor)
            length = None
        elif "content-length" in framing:
            length = _content_length(_value("content-length", keys, fields))
        if "expect" in framing:
            if _value("expect", keys, fields).lower() != "100-continue":
                raise _Refused("an expectation other than 100-continue", EXPECTATION_FAILED)
            expects_continue = minor == "1" and length != 0
        if "connection" in framing:
            options = _tokens(_value("connection", keys, fields))
            if "close" in options:
                keep_alive = False
            elif minor == "0":
                keep_alive = "keep-alive" in options
            if "upgrade" in options and "upgrade" in framing and minor == "1":
                upgrade = _value("upgrade", keys, fields).lower()
    disguised = "upgrade" in framing
    return _Block(text, fields, keep_alive, length, expects_continue, upgrade, host, disguised)


# -- the parser -----------------------------------------------------------------------------------

_HEAD, _LENGTH_BODY, _CHUNK_SIZE, _CHUNK_DATA, _CHUNK_END, _TRAILERS, _HELD, _OVER = range(8)


class _Seen:
    """What llhttp calls. It knows no Parser, so that none is left to the garbage collector."""

    __slots__ = ("complete", "on_body")

    def __init__(self, events: deque[Event]) -> None:
        self.on_body = events.append
        self.complete = False

    def on_message_complete(self) -> None:
        self.complete = True


class Parser:
    """The requests of one connection.

    >>> parser = Parser(Limits())
    >>> parser.receive(b"POST / HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 2\\r\\n\\r\\nhi")
    >>> [type(event).__name__ for event in parser.events]
    ['Head', 'bytes', 'End']

    Events are the same, however the bytes were cut, but for the cuts between ``bytes``.

    *upgrades*: the host may take an upgrade. Then what follows a request without a body that asks
    for one is kept unparsed until :meth:`stop` or :meth:`resume` is called.
    """

    __slots__ = (
        "_buffer",
        "_count",
        "_excess",
        "_fast",
        "_feed",
        "_keep_alive",
        "_left",
        "_line",
        "_said",
        "_searched",
        "_seen",
        "_skipped",
        "_state",
        "_the_request",
        "_upgrades",
        "events",
        "limits",
    )

    def __init__(self, limits: Limits, upgrades: bool = False) -> None:
        self.limits = limits
        self.events: deque[Event] = deque()
        self._seen = _Seen(self.events)
        llhttp = httptools.HttpRequestParser(self._seen)
        # Whether the connection goes on is ours to say: llhttp takes Proxy-Connection for
        # Connection. After a request that is the last one it gets nothing more.
        llhttp.set_dangerous_leniencies(lenient_keep_alive=True)
        self._feed = llhttp.feed_data
        self._upgrades = upgrades
        self._fast = min(limits.line, limits.field_size)
        self._state = _HEAD
        self._keep_alive = True
        self._buffer = bytearray()
        self._skipped = False
        self._left = self._excess = 0
        self._line = self._searched = self._count = 0
        self._the_request = ""
        self._said: _Block | None = None

    @property
    def head_begun(self) -> bool:
        """Some bytes of a head have come, and not all."""
        return self._state == _HEAD and len(self._buffer) > 0

    @property
    def in_message(self) -> bool:
        """A head or a body is incomplete: the time for reading it runs."""
        state = self._state
        return state < _HELD and (state != _HEAD or len(self._buffer) > 0)

    @property
    def announced(self) -> int:
        """How many bytes of a body, or of the chunk it is at, are known to be still to come."""
        return self._left if self._state in (_LENGTH_BODY, _CHUNK_DATA) else 0

    def receive(self, data: bytes) -> None:
        """Take *data* from the client."""
        state = self._state
        if state >= _HELD:
            if state == _HELD:
                self._buffer += data
            return
        try:
            if self._buffer:
                self._buffer += data
                data = b""
                if state in (_HEAD, _TRAILERS):
                    if not self._lines():
                        return
                    data = self._known()
                else:
                    data = bytes(self._buffer)
                    self._buffer.clear()
            self._parse(data)
        except _Refused as refused:
            self._refuse(refused.status, str(refused))
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._refuse(BAD_REQUEST, f"llhttp: {error}")

    def receive_eof(self) -> None:
        """Take the client's end of its half; a request that it cuts is refused."""
        if self.in_message:
            self._refuse(BAD_REQUEST, "the connection ended within a request")
        elif self._state != _HELD:
            self._state = _OVER

    def stop(self) -> None:
        """Parse nothing more; :meth:`rest` has what comes from now on, too."""
        self._state = _HELD

    def resume(self) -> None:
        """Parse what follows a request whose upgrade was not taken."""
        if self._state == _HELD:
            self._state = _HEAD if self._keep_alive else _OVER
            data = bytes(self._buffer)
            self._buffer.clear()
            self.receive(data)

    def rest(self) -> bytes:
        """Return the bytes that were not parsed, once."""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    # -- steps ------------------------------------------------------------------------------------

    def _refuse(self, status: str, message: str) -> None:
        self.events.append(Refusal(status, message, self._the_request))
        self._state = _OVER
        self._buffer.clear()

    def _known(self) -> bytes:
        """Read the head or trailer whose lines are all there; return what follows it."""
        end = self._line
        block = bytes(self._buffer)
        self._buffer.clear()
        if self._state == _TRAILERS:
            self._end(self._trailers(block[:end]))
        else:
            the_request = self._the_request
            method, target, version = the_request.split(" ")
            text = block[len(the_request) - len(version) : end].decode("latin-1")
            said = _read_block(text, target, _odd_fields(text))
            # llhttp sees values without the blanks behind them, as everybody is to read them.
            self._begin(method, target, the_request, said, _BLANKS.sub(b"", block[:end]))
        return block[end:]

    def _parse(self, data: bytes) -> None:
        at, size = 0, len(data)
        while at < size:
            state = self._state
            if state == _HEAD:
                end = data.find(b"\r\n\r\n", at) + 4
                if 4 <= end <= at + self._fast and self._plain(
                    data if end == size and not at else data[at:end]
                ):
                    at = end
                    continue
                self._buffer += data if not at else data[at:]
                if not self._lines():
                    return
                data = self._known()
                at, size = 0, len(data)
            elif state == _LENGTH_BODY:
                end = min(size, at + self._left)
                self._left -= end - at
                self._feed(data if not at and end == size else memoryview(data)[at:end])
                at = end
                if not self._left:
                    self._end([])
                elif self._seen.complete:
                    raise _Refused("the body's end is disputed")
            elif state == _TRAILERS:
                self._buffer += data[at:]
                if not self._lines():
                    return
                data = self._known()
                at, size = 0, len(data)
            elif state < _HELD:
                at = self._chunks(data, at)
                if at < size and self._state in (_CHUNK_SIZE, _CHUNK_END):
                    self._buffer += data[at:]
                    return
            else:
                if state == _HELD:
                    self._buffer += data[at:]
                return

    def _lines(self) -> bool:
        """Look at the lines of a head or trailer that have come; True when it is complete.

        Then ``_line`` is its end. The same lines get the same answer, whether they come one by
        one or in one piece: each is looked at when it is whole or too long.
        """
        buffer = self._buffer
        head = self._state == _HEAD
        while True:
            start = self._line
            first = head and not self._count
            if first and start == 0 and not self._skipped and buffer.startswith(b"\r"):
                # RFC 9112 section 2.2: one empty line before a request is ignored.
                if len(buffer) == 1:
                    return False
                if buffer[1] == 10:
                    del buffer[:2]
                    self._skipped = True
            if first and buffer and buffer[0] not in _TOKEN_BYTES:
                raise _Refused("this does not begin as a request")
            limit = self.limits.line if first else self.limits.field_size
            end = buffer.find(b"\n", max(start, self._searched))
            if end - start - 1 > limit or (end < 0 and len(buffer) - start - 1 > limit):
                if first:
                    raise _Refused("the request line is too long", URI_TOO_LONG)
                raise _Refused("a field is too large", FIELDS_TOO_LARGE)
            if end < 0:
                self._searched = len(buffer)
                return False
            self._line = self._searched = end + 1
            line = buffer[start : end + 1].decode("latin-1")
            if first:
                self._the_request = _read_request_line(line)
                _check_request_line(self._the_request)
            elif line == "\r\n":
                return True
            else:
                if not line.endswith("\r\n"):
                    raise _Refused("a line ends with a bare LF")
                if self._count >= self.limits.fields + head:
                    raise _Refused("too many fields", FIELDS_TOO_LARGE)
                if _FIELD.fullmatch(line) is None:
                    raise _Refused("a field is malformed")
            self._count += 1

    def _plain(self, block: bytes) -> bool:
        """Take the head that is *block*, if it is of the usual kind and nothing is wrong.

        Else return False: line by line is the way to find out what is.
        """
        text = block.decode("latin-1")
        match = _PLAIN_REQUEST_LINE.match(text)
        if match is None:
            return False
        method, target = match.groups()
        if method == "CONNECT":
            return False
        start = match.end()
        said = self._said
        if said is None or text[start:] != said.text:
            text = text[start:]
            fields = _plain_fields(text, self.limits)
            if fields is None:
                return False
            try:
                said = self._said = _read_block(text, target, fields)
            except _Refused:
                return False
            text = match.string
        self._begin(method, target, text[: start + 8], said, block)
        return True

    def _begin(
        self, method: str, target: str, the_request: str, said: _Block, block: bytes
    ) -> None:
        """Give llhttp the head that is *block*, and then out."""
        self._the_request = the_request
        if method not in METHODS:
            # No method but CONNECT bears on the framing, and llhttp refuses those it does not know.
            block = b"POST" + block[len(method) :]
        length, upgrade = said.length, said.upgrade
        if said.disguised:
            # llhttp would take all that follows, and a body too, for another protocol.
            block = _DISGUISED.sub(b"ignored", block)
        seen = self._seen
        seen.complete = False
        self._feed(block)
        if seen.complete is not (length == 0):
            raise _Refused("the body's length is disputed")
        self._keep_alive = said.keep_alive
        protocol = the_request[-8:]
        self.events.append(
            Head(
                method,
                target,
                protocol,
                1001 if protocol == "HTTP/1.1" else 1000,
                the_request,
                said.fields.copy(),
                said.keep_alive,
                length,
                said.expects_continue,
                upgrade,
                said.host,
            )
        )
        if length == 0:
            self._next(self._upgrades and upgrade is not None)
        elif length is None:
            self._state = _CHUNK_SIZE
            self._excess = 0
        else:
            self._state = _LENGTH_BODY
            self._left = length

    def _next(self, held: bool = False) -> None:
        """A request is complete."""
        self._line = self._searched = self._count = 0
        self._the_request = ""
        self._skipped = False
        self._state = _HELD if held else _HEAD if self._keep_alive else _OVER

    def _end(self, trailers: Fields) -> None:
        if not self._seen.complete:
            raise _Refused("the body's end is disputed")
        self.events.append(End(trailers))
        self._next()

    def _chunks(self, data: bytes, at: int) -> int:
        """Give llhttp of a chunked body what can be judged; return where that ends in *data*."""
        begin, size = at, len(data)
        fault = ""
        while at < size:
            if self._state == _CHUNK_DATA:
                end = min(size, at + self._left)
                self._left -= end - at
                at = end
                if not self._left:
                    self._state = _CHUNK_END
            elif self._state == _CHUNK_END:
                if data.startswith(b"\r\n", at):
                    at += 2
                    self._state = _CHUNK_SIZE
                else:
                    if size - at > 1 or data[at] != 13:
                        fault = "a chunk is longer than its size says"
                    break
            else:
                match = _CHUNK.match(data, at, at + _CHUNK_LINE)
                if match is None:
                    if size - at >= _CHUNK_LINE or data.find(b"\n", at) >= 0:
                        fault = "a chunk's size is malformed or its line too long"
                    break
                self._left = int(match[1], 16)
                line = match.end() - at
                self._excess = max(0, self._excess + line - 16 - 2 * self._left)
                if self._left > _LARGEST or self._excess > _CHUNK_EXCESS:
                    fault = "a chunk is too large, or chunks have more lines than data"
                    break
                at = match.end()
                if self._left:
                    self._state = _CHUNK_DATA
                else:
                    self._state = _TRAILERS
                    break
        if at > begin:
            self._feed(memoryview(data)[begin:at])
            if self._seen.complete:
                raise _Refused("the body's end is disputed")
        if fault:
            raise _Refused(fault)
        if self._state == _TRAILERS:
            self._line = self._searched = self._count = 0
            if data.startswith(b"\r\n", at):
                at += 2
                self._end(self._trailers(b""))
        return at

    def _trailers(self, block: bytes) -> Fields:
        """Return the fields of a trailer. llhttp gets none: what it makes of some is its own."""
        self._feed(b"\r\n")
        fields: Fields = [
            (name, value.rstrip("\t ")) for name, value in _FIELD.findall(block.decode("latin-1"))
        ]
        return [pair for pair in fields if pair[0].lower() not in _NOT_IN_TRAILERS]


# -- responses ------------------------------------------------------------------------------------

LAST_CHUNK = b"0\r\n\r\n"

_TEXT = bytes((9, *range(32, 127), *range(128, 256)))


def response_head(status_line: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """Return the head of a response; *status_line* is such as ``"HTTP/1.1 200 OK"``.

    Raises :class:`ApplicationError` for control characters and for what is not latin-1; names
    are the caller's to check.
    """
    lines = [f"{name}: {value}" for name, value in headers]
    try:
        head = "\r\n".join([status_line, *lines, "\r\n"]).encode("latin-1")
    except UnicodeEncodeError:
        raise ApplicationError("a response header has characters beyond latin-1") from None
    if head.translate(None, _TEXT) != b"\r\n" * (len(lines) + 2):
        raise ApplicationError("a response header has control characters")
    return head


def chunk(data: bytes) -> bytes:
    """Return *data*, which is not empty, as a chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


# -- dates ----------------------------------------------------------------------------------------

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_CLOCK = r"([0-9]{2}):([0-9]{2}):([0-9]{2})"
_MONTH = "|".join(_MONTHS)
_DAY = "|".join(_DAYS)
_IMF = re.compile(rf"(?:{_DAY}), ([0-9]{{2}}) ({_MONTH}) ([0-9]{{4}}) {_CLOCK} GMT")
_RFC850 = re.compile(
    r"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, "
    rf"([0-9]{{2}})-({_MONTH})-([0-9]{{2}}) {_CLOCK} GMT"
)
_ASCTIME = re.compile(rf"(?:{_DAY}) ({_MONTH}) ([0-9 ][0-9]) {_CLOCK} ([0-9]{{4}})")


@lru_cache(maxsize=64)
def _date(second: int) -> str:
    moment = time.gmtime(second)
    return (
        f"{_DAYS[moment.tm_wday]}, {moment.tm_mday:02} {_MONTHS[moment.tm_mon - 1]} "
        f"{moment.tm_year:04} {moment.tm_hour:02}:{moment.tm_min:02}:{moment.tm_sec:02} GMT"
    )


def http_date(epoch: float) -> str:
    """Return *epoch*, seconds, as an IMF-fixdate (RFC 9110 section 5.6.7)."""
    return _date(int(epoch))


def parse_http_date(text: str) -> float | None:
    """Return the seconds since the epoch of a date in any form of RFC 9110, or None."""
    if match := _IMF.fullmatch(text):
        day, month, year, *clock = match.groups()
    elif match := _RFC850.fullmatch(text):
        day, month, year, *clock = match.groups()
        # Two digits that seem to be over 50 years ahead are of the last century.
        this = time.gmtime().tm_year
        full = this - this % 100 + int(year)
        year = str(full - 100 if full > this + 50 else full)
    elif match := _ASCTIME.fullmatch(text):
        month, day, *clock, year = match.groups()
    else:
        return None
    from datetime import datetime, timezone

    hour, minute, second = map(int, clock)
    try:
        moment = datetime(
            int(year),
            _MONTHS.index(month) + 1,
            int(day),
            hour,
            minute,
            59 if second == 60 else second,  # a leap second
            tzinfo=timezone.utc,
        )
    except ValueError:
        return None
    return moment.timestamp()
