"""FastCGI 1.0 (Open Market, 29 April 1996): bytes to events and back. Pure: no I/O, no clock.

Three things are here:

- :func:`parse_whole`, for what nearly every request is: one responder request that lies complete
  in one buffer. It is the one place where long, unrolled code is right.
- :class:`Connection`, the application's side, for everything else: requests in pieces, several
  at once on one connection, the three roles, management records, aborts.
- :class:`ClientConnection`, the web server's side.

Bytes that break the protocol raise :class:`~sapi_adapters.sapi.ProtocolError`: the connection is
to be closed. What has an answer in the protocol is answered: see :meth:`Connection.data_to_send`.
"""

from __future__ import annotations

from struct import Struct
from struct import error as struct_error
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from ..sapi import ProtocolError
from .cgi import join_pairs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

VERSION: Final = 1

BEGIN_REQUEST: Final = 1
ABORT_REQUEST: Final = 2
END_REQUEST: Final = 3
PARAMS: Final = 4
STDIN: Final = 5
STDOUT: Final = 6
STDERR: Final = 7
DATA: Final = 8
GET_VALUES: Final = 9
GET_VALUES_RESULT: Final = 10
UNKNOWN_TYPE: Final = 11

RESPONDER: Final = 1
AUTHORIZER: Final = 2
FILTER: Final = 3

KEEP_CONN: Final = 1

REQUEST_COMPLETE: Final = 0
CANT_MPX_CONN: Final = 1
OVERLOADED: Final = 2
UNKNOWN_ROLE: Final = 3

MAX_CONTENT: Final = 65535
MAX_PARAMS: Final = 1 << 20
"""Bytes of parameters one request may have: Apache's and nginx's limits lie far below."""
MAX_UNFINISHED: Final = 64
"""Requests of one connection that have begun and not ended their parameters (golang/go 81548)."""

_header = Struct(">BBHHBx")
_begin = Struct(">HB5x")
_end = Struct(">IB3x")
_long = Struct(">I")


# -- records and pairs ----------------------------------------------------------------------------


def record(type: int, request_id: int, content: bytes) -> bytes:
    """Return one record; *content* of at most 65535 bytes, unpadded."""
    if len(content) > MAX_CONTENT:
        raise ValueError(f"a record holds at most {MAX_CONTENT} bytes, not {len(content)}")
    return _header.pack(VERSION, type, request_id, len(content), 0) + content


def stream(type: int, request_id: int, data: bytes) -> bytes:
    """Return *data* as records of a stream, none for ``b""``: an empty record would end it."""
    size = len(data)
    if size <= MAX_CONTENT:
        return _header.pack(VERSION, type, request_id, size, 0) + data if size else b""
    parts = []
    # 65528 is the largest content that leaves the next header aligned to 8 bytes (S§3.3).
    for start in range(0, size, 65528):
        content = data[start : start + 65528]
        parts.append(_header.pack(VERSION, type, request_id, len(content), 0))
        parts.append(content)
    return b"".join(parts)


def encode_pair(name: bytes, value: bytes) -> bytes:
    """Return one name-value pair (S§3.4)."""
    lengths = b"".join(
        bytes((n,)) if (n := len(text)) < 128 else _long.pack(n | 1 << 31) for text in (name, value)
    )
    return lengths + name + value


def encode_pairs(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the content of a parameter stream."""
    return b"".join([encode_pair(name, value) for name, value in pairs])


def decode_pairs(block: bytes) -> dict[str, str]:
    """Return the pairs of a whole parameter stream as latin-1 text.

    A name that comes twice is treated as :func:`.cgi.join_pairs` says.

    Raises :class:`ProtocolError` when a length reaches beyond the stream.
    """
    # The whole block is decoded once and sliced: a quarter of the time of iter_pairs().
    text = block.decode("latin-1")
    pairs: dict[str, str] = {}
    end = len(block)
    at = count = 0
    try:
        while at < end:
            count += 1
            name_size = block[at]
            value_size = block[at + 1]
            at += 2
            if value_size > 127 or name_size > 127:  # one of the two lengths has four bytes
                if name_size > 127:
                    (name_size,) = _long.unpack_from(block, at - 2)
                    name_size &= 0x7FFFFFFF
                    at += 3
                    value_size = block[at - 1]
                if value_size > 127:
                    (value_size,) = _long.unpack_from(block, at - 1)
                    value_size &= 0x7FFFFFFF
                    at += 3
            value_at = at + name_size
            stop = value_at + value_size
            pairs[text[at:value_at]] = text[value_at:stop]
            at = stop
    except (IndexError, struct_error):
        raise ProtocolError("the parameters end inside a length") from None
    if at != end:
        raise ProtocolError("a parameter is longer than the rest of its stream")
    if len(pairs) != count:
        return join_pairs(
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in iter_pairs(block)
        )
    return pairs


def iter_pairs(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield every pair of a whole parameter stream, in order, duplicates too.

    Raises :class:`ProtocolError` as :func:`decode_pairs` does.
    """
    at, end = 0, len(block)
    while at < end:
        sizes = []
        for _ in range(2):
            width = 1 if at < end and block[at] < 128 else 4
            if at + width > end:
                raise ProtocolError("the parameters end inside a length")
            sizes.append(int.from_bytes(block[at : at + width], "big") & 0x7FFFFFFF)
            at += width
        middle = at + sizes[0]
        stop = middle + sizes[1]
        if stop > end:
            raise ProtocolError("a parameter is longer than the rest of its stream")
        yield block[at:middle], block[middle:stop]
        at = stop


# -- the common case: one request, complete in one buffer -----------------------------------------

_BEGINS = {
    record(BEGIN_REQUEST, 1, _begin.pack(RESPONDER, 0)): False,
    record(BEGIN_REQUEST, 1, _begin.pack(RESPONDER, KEEP_CONN)): True,
}
_PARAMS_END = record(PARAMS, 1, b"")
_STDIN_END = record(STDIN, 1, b"")
_NO_BODY = _PARAMS_END + _STDIN_END


def parse_whole(data: bytes) -> tuple[dict[str, str], bool, bytes] | None:
    """Return parameters, KEEP_CONN and body of *data* when it is one whole responder request.

    None for anything else, also for malformed bytes and for an id other than 1: then
    :class:`Connection` is to judge. A request of 27 parameters takes two thirds of the time that
    the general way takes.
    """
    keep_conn = _BEGINS.get(data[:16])
    if keep_conn is None or len(data) < 24:
        return None
    version, type, request_id, size, padding = _header.unpack_from(data, 16)
    if type != PARAMS or version != VERSION or request_id != 1 or not size:
        return None
    stop = 24 + size
    at = stop + padding
    body = b""
    if data[at:] != _NO_BODY:
        if data[at : at + 8] != _PARAMS_END or data[-8:] != _STDIN_END:
            return None
        at += 8
        end = len(data) - 8
        while at < end:
            if end - at < 8:
                return None
            version, type, request_id, length, padding = _header.unpack_from(data, at)
            if type != STDIN or version != VERSION or request_id != 1 or not length:
                return None
            body += data[at + 8 : at + 8 + length]
            at += 8 + length + padding
        if at != end:
            return None
    try:
        return decode_pairs(data[24:stop]), keep_conn, body
    except ProtocolError:
        return None


_responses: dict[tuple[int, bool, int, int], bytes] = {}


def end_response(
    request_id: int, stderr: bool = False, app_status: int = 0, status: int = REQUEST_COMPLETE
) -> bytes:
    """Return what ends a request: empty STDOUT, empty STDERR if there was any, END_REQUEST.

    A request that is refused with a protocol *status* other than REQUEST_COMPLETE had no streams.
    """
    key = (request_id, stderr, app_status, status)
    found = _responses.get(key)
    if found is None:
        found = record(END_REQUEST, request_id, _end.pack(app_status & 0xFFFFFFFF, status))
        if stderr:
            found = record(STDERR, request_id, b"") + found
        if status == REQUEST_COMPLETE:
            found = record(STDOUT, request_id, b"") + found
        if len(_responses) < 256:
            _responses[key] = found
    return found


# -- the application's side -----------------------------------------------------------------------


class Request:
    """One request of a connection, from BEGIN_REQUEST to END_REQUEST."""

    __slots__ = (
        "_block",
        "_data_left",
        "content_left",
        "data_ended",
        "excess",
        "id",
        "keep_conn",
        "params",
        "params_ended",
        "role",
        "stdin_ended",
    )

    def __init__(self, id: int, role: int, keep_conn: bool) -> None:
        self.id = id
        self.role = role
        self.keep_conn = keep_conn
        self.params: dict[str, str] = {}
        self.params_ended = False
        self.stdin_ended = False
        self.data_ended = False
        self.content_left: int | None = None
        """Bytes of STDIN still due by CONTENT_LENGTH; None when that said nothing."""
        self.excess = 0
        """Bytes of STDIN beyond CONTENT_LENGTH; they are discarded."""
        self._block = bytearray()
        self._data_left: int | None = None


class RequestReceived(NamedTuple):
    """All parameters are there: the application may be called."""

    request: Request


class StdinReceived(NamedTuple):
    """The next bytes of the body."""

    request: Request
    data: bytes


class StdinEnded(NamedTuple):
    """The body is over. It is *short* when CONTENT_LENGTH announced more."""

    request: Request
    short: bool


class DataReceived(NamedTuple):
    """The next bytes of a filter's file; ``b""`` at its end.

    The end is *short* when FCGI_DATA_LENGTH announced more (S§6.4).
    """

    request: Request
    data: bytes
    short: bool = False


class Aborted(NamedTuple):
    """The web server gave the request up; END_REQUEST is still due."""

    request: Request


Event: TypeAlias = RequestReceived | StdinReceived | StdinEnded | DataReceived | Aborted


class _Records:
    """Cuts a byte stream into records."""

    def __init__(self) -> None:
        self._rest = b""

    def _split(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Return (type, request id, content) of each record that *data* completes."""
        if self._rest:
            data = self._rest + data
        records = []
        at, end = 0, len(data)
        while end - at >= 8:
            version, type, request_id, size, padding = _header.unpack_from(data, at)
            if version != VERSION:
                raise ProtocolError(f"FastCGI version {version}, not 1")
            start = at + 8
            stop = start + size
            if stop + padding > end:
                break
            records.append((type, request_id, data[start:stop]))
            at = stop + padding
        self._rest = data[at:]
        return records

    @property
    def pending(self) -> int:
        """Bytes held of a record that is not complete."""
        return len(self._rest)


def _number(params: dict[str, str], name: str) -> int | None:
    text = params.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


class Connection(_Records):
    """The application's side of one connection.

    *multiplex* allows several requests at a time, at most *max_requests*. *roles* are those the
    application serves. *values* answer GET_VALUES. *max_params* bounds one request's parameters
    in bytes, *max_ignored* what may come for requests that are over.
    """

    def __init__(
        self,
        *,
        multiplex: bool = False,
        max_requests: int = 1,
        roles: Iterable[int] = (RESPONDER, AUTHORIZER, FILTER),
        values: dict[bytes, bytes] | None = None,
        max_params: int = MAX_PARAMS,
        max_ignored: int = 64 << 20,
    ) -> None:
        super().__init__()
        self._multiplex = multiplex
        self._max_requests = max_requests
        self._roles = frozenset(roles)
        self._values = {} if values is None else values
        self._max_params = max_params
        self._max_ignored = max_ignored
        self._ignored = 0
        self._requests: dict[int, Request] = {}
        self._unfinished = 0
        self._closing = False
        self._out: list[bytes] = []

    @property
    def requests(self) -> list[Request]:
        """The active requests, in the order they began."""
        return list(self._requests.values())

    @property
    def unfinished(self) -> int:
        """How many requests have begun and not ended their parameters."""
        return self._unfinished

    @property
    def idle(self) -> bool:
        """No request is active and no record is half there."""
        return not self._requests and not self._rest

    @property
    def should_close(self) -> bool:
        """The connection's last request is over, and it was one without KEEP_CONN."""
        return self._closing and not self._requests

    def data_to_send(self) -> bytes:
        """Return, once, what the protocol itself has to answer; ``b""`` for nothing."""
        if not self._out:
            return b""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def receive_data(self, data: bytes) -> list[Event]:
        """Take bytes from the peer; return what happened.

        Raises :class:`ProtocolError` when the connection is to be closed. Requests that were
        complete before the offending record are lost with it, as the peer is not to be trusted.
        """
        events: list[Event] = []
        for type, request_id, content in self._split(data):
            if request_id == 0:
                self._management(type, content)
            elif type == BEGIN_REQUEST:
                self._begin(request_id, content)
            else:
                request = self._requests.get(request_id)
                if request is None:
                    self._ignore(content)
                elif type == PARAMS:
                    self._params(request, content, events)
                elif type == STDIN:
                    self._stdin(request, content, events)
                elif type == DATA:
                    self._data(request, content, events)
                elif type == ABORT_REQUEST:
                    self._abort(request, events)
                else:
                    raise ProtocolError(f"record type {type} for an active request")
        return events

    def end(self, request: Request) -> None:
        """Note that END_REQUEST is sent for *request*: its id is inactive from now on."""
        self._requests.pop(request.id, None)
        if not request.params_ended:
            self._unfinished -= 1
        if not request.keep_conn:
            self._closing = True
        self._ignored = 0

    def adopt(self, request_id: int, keep_conn: bool, params: dict[str, str]) -> Request:
        """Take over a request that :func:`parse_whole` gave, with its whole body."""
        request = Request(request_id, RESPONDER, keep_conn)
        request.params = params
        request.params_ended = request.stdin_ended = True
        request.content_left = _number(params, "CONTENT_LENGTH")
        self._requests[request_id] = request
        return request

    def _management(self, type: int, content: bytes) -> None:
        if type == GET_VALUES:
            asked = dict(iter_pairs(content))
            known = [(name, self._values[name]) for name in asked if name in self._values]
            self._out.append(record(GET_VALUES_RESULT, 0, encode_pairs(known)))
        elif type == 0 or type > UNKNOWN_TYPE:
            self._out.append(record(UNKNOWN_TYPE, 0, bytes((type,)) + bytes(7)))
        else:
            raise ProtocolError(f"record type {type} with the request id 0")

    def _begin(self, request_id: int, content: bytes) -> None:
        if len(content) != 8:
            raise ProtocolError(f"BEGIN_REQUEST of {len(content)} bytes, not 8")
        if request_id in self._requests:
            raise ProtocolError("BEGIN_REQUEST for an active request")
        role, flags = _begin.unpack(content)
        request = Request(request_id, role, bool(flags & KEEP_CONN))
        if self._requests and not self._multiplex:
            self._refuse(request, CANT_MPX_CONN)
        elif len(self._requests) >= self._max_requests or self._unfinished >= MAX_UNFINISHED:
            self._refuse(request, OVERLOADED)
        elif role not in self._roles:
            self._refuse(request, UNKNOWN_ROLE)
        else:
            self._requests[request_id] = request
            self._unfinished += 1

    def _refuse(self, request: Request, status: int) -> None:
        self._out.append(end_response(request.id, status=status))
        if not request.keep_conn and not self._requests:
            self._closing = True

    def _ignore(self, content: bytes) -> None:
        self._ignored += len(content)
        if self._ignored > self._max_ignored:
            raise ProtocolError("too much came for requests that are over")

    def _params(self, request: Request, content: bytes, events: list[Event]) -> None:
        if request.params_ended:
            raise ProtocolError("PARAMS after their end")
        if content:
            request._block += content
            if len(request._block) > self._max_params:
                self._out.append(end_response(request.id, status=OVERLOADED))
                self.end(request)
            return
        request.params = decode_pairs(bytes(request._block))
        request._block.clear()
        request.params_ended = True
        self._unfinished -= 1
        request.content_left = _number(request.params, "CONTENT_LENGTH")
        request._data_left = _number(request.params, "FCGI_DATA_LENGTH")
        events.append(RequestReceived(request))

    def _stdin(self, request: Request, content: bytes, events: list[Event]) -> None:
        if request.stdin_ended or not request.params_ended:
            raise ProtocolError("STDIN out of its order")
        left = request.content_left
        if not content:
            request.stdin_ended = True
            events.append(StdinEnded(request, bool(left)))
            return
        if left is not None:
            if len(content) > left:
                request.excess += len(content) - left
                content = content[:left]
            request.content_left = left - len(content)
        if content:
            events.append(StdinReceived(request, content))

    def _data(self, request: Request, content: bytes, events: list[Event]) -> None:
        if request.role != FILTER and not content:
            return  # flup's client ends a stream that it never began
        if request.role != FILTER or not request.stdin_ended or request.data_ended:
            raise ProtocolError("DATA out of its order")
        request.data_ended = not content
        left = request._data_left
        if left is not None and content:
            left = request._data_left = left - len(content)
        events.append(DataReceived(request, content, bool(left and left > 0 and not content)))

    def _abort(self, request: Request, events: list[Event]) -> None:
        if request.params_ended:
            events.append(Aborted(request))
        else:  # the application has not heard of it, so it is answered here
            self._out.append(end_response(request.id))
            self.end(request)


# -- the web server's side ------------------------------------------------------------------------


class StdoutReceived(NamedTuple):
    """Bytes of a response."""

    request_id: int
    data: bytes


class StderrReceived(NamedTuple):
    """Bytes for the web server's error log."""

    request_id: int
    data: bytes


class RequestEnded(NamedTuple):
    """END_REQUEST: *app_status* is an exit status, *status* the protocol's verdict."""

    request_id: int
    app_status: int
    status: int


class ValuesReceived(NamedTuple):
    """The answer to GET_VALUES."""

    values: dict[bytes, bytes]


class UnknownTypeReceived(NamedTuple):
    """The application does not know a management record's *type*."""

    type: int


ClientEvent: TypeAlias = (
    StdoutReceived | StderrReceived | RequestEnded | ValuesReceived | UnknownTypeReceived
)


class ClientConnection(_Records):
    """The web server's side of one connection: makes requests, reads responses."""

    def __init__(self) -> None:
        super().__init__()
        self._active: set[int] = set()

    def begin(
        self,
        request_id: int,
        params: Iterable[tuple[bytes, bytes]],
        *,
        role: int = RESPONDER,
        keep_conn: bool = False,
    ) -> bytes:
        """Return the records that begin a request and give it all its parameters."""
        if not 0 < request_id < 65536 or request_id in self._active:
            raise ValueError(f"request id {request_id} is in use or out of range")
        self._active.add(request_id)
        return (
            record(BEGIN_REQUEST, request_id, _begin.pack(role, KEEP_CONN if keep_conn else 0))
            + stream(PARAMS, request_id, encode_pairs(params))
            + record(PARAMS, request_id, b"")
        )

    def stdin(self, request_id: int, data: bytes) -> bytes:
        """Return *data* as records of the body; ``b""`` ends it."""
        return stream(STDIN, request_id, data) or record(STDIN, request_id, b"")

    def data(self, request_id: int, data: bytes) -> bytes:
        """Return *data* as records of a filter's file; ``b""`` ends it."""
        return stream(DATA, request_id, data) or record(DATA, request_id, b"")

    def abort(self, request_id: int) -> bytes:
        """Return the record that gives a request up."""
        return record(ABORT_REQUEST, request_id, b"")

    def get_values(self, *names: bytes) -> bytes:
        """Return the question for *names*: FCGI_MAX_CONNS, FCGI_MAX_REQS, FCGI_MPXS_CONNS."""
        return record(GET_VALUES, 0, encode_pairs((name, b"") for name in names))

    def receive_data(self, data: bytes) -> list[ClientEvent]:
        """Take bytes from the application; return what happened.

        Raises :class:`ProtocolError` when the connection is to be closed.
        """
        events: list[ClientEvent] = []
        for type, request_id, content in self._split(data):
            if request_id == 0:
                events.append(self._management(type, content))
            elif request_id not in self._active:
                raise ProtocolError(f"record type {type} for request {request_id}, which is over")
            elif type == STDOUT:
                if content:
                    events.append(StdoutReceived(request_id, content))
            elif type == STDERR:
                if content:
                    events.append(StderrReceived(request_id, content))
            elif type == END_REQUEST and len(content) == 8:
                app_status, status = _end.unpack(content)
                self._active.discard(request_id)
                events.append(RequestEnded(request_id, app_status, status))
            else:
                raise ProtocolError(f"record type {type} of {len(content)} bytes from the server")
        return events

    def _management(self, type: int, content: bytes) -> ClientEvent:
        if type == GET_VALUES_RESULT:
            return ValuesReceived(dict(iter_pairs(content)))
        if type == UNKNOWN_TYPE and len(content) == 8:
            return UnknownTypeReceived(content[0])
        raise ProtocolError(f"management record of type {type} from the application")
