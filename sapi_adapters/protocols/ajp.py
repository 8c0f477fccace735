"""AJP 1.3 (Apache Tomcat connectors, ajpv13a), the application's side. Pure: no I/O, no clock.

A connection carries one request after the other, never two at a time. The peer sends a request
and, if its length is known, the first packet of its body; every further packet is asked for, one
at a time. So whatever comes while nothing is due breaks the protocol.

The peer is believed in what it says of the client, its TLS and its address; who may connect is
the adapter's business, the secret and the attributes are settled here (Ghostcat, CVE-2020-1938).
A request that is refused here ends its connection: the reuse byte is 0 (CVE-2022-1319).
"""

from __future__ import annotations

import re
from hmac import compare_digest
from struct import Struct
from struct import error as struct_error
from typing import Final

from ..sapi import ApplicationError, ProtocolError, RequestError, SapiError, unquote
from .cgi import join_pairs
from .single import BodyEnded, BodyReceived, Event, RequestReceived

FORWARD_REQUEST: Final = 2
SEND_BODY_CHUNK: Final = 3
SEND_HEADERS: Final = 4
END_RESPONSE: Final = 5
GET_BODY_CHUNK: Final = 6
SHUTDOWN: Final = 7
CPONG_REPLY: Final = 9
CPING: Final = 10

PACKET_SIZE: Final = 8192
MAX_PACKET_SIZE: Final = 65536

METHODS: Final = (
    "OPTIONS GET HEAD POST PUT DELETE TRACE PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK ACL"
    " REPORT VERSION-CONTROL CHECKIN CHECKOUT UNCHECKOUT SEARCH MKWORKSPACE UPDATE LABEL MERGE"
    " BASELINE-CONTROL MKACTIVITY"
).split()
"""Methods by their code, from 1 on."""
STORED_METHOD: Final = 255
"""The code of a method whose name is in the attribute of that name."""

REQUEST_HEADERS: Final = (
    "accept accept-charset accept-encoding accept-language authorization connection content-type"
    " content-length cookie cookie2 host pragma referer user-agent"
).split()
"""Request headers by their code, from 0xA001 on."""
RESPONSE_HEADERS: Final = (
    "Content-Type Content-Language Content-Length Date Last-Modified Location Set-Cookie"
    " Set-Cookie2 Servlet-Engine Status WWW-Authenticate"
).split()
"""Response headers by their code, from 0xA001 on."""

REMOTE_USER, AUTH_TYPE, QUERY_STRING, SSL_CERT, REQ_ATTRIBUTE = 3, 4, 5, 7, 10
SSL_KEY_SIZE, SECRET, STORED_METHOD_NAME, ARE_DONE = 11, 12, 13, 255
ATTRIBUTES: Final = {
    1: None,  # context and servlet_path are historic
    2: None,
    REMOTE_USER: "REMOTE_USER",
    AUTH_TYPE: "AUTH_TYPE",
    QUERY_STRING: "QUERY_STRING",
    6: "JVM_ROUTE",
    SSL_CERT: "SSL_CLIENT_CERT",
    8: "SSL_CIPHER",
    9: "SSL_SESSION_ID",
}
"""Attributes that are one string, and the variables they become."""
NAMED_ATTRIBUTES: Final = {
    "AJP_REMOTE_PORT": "REMOTE_PORT",
    "AJP_LOCAL_ADDR": "SERVER_ADDR",
    "AJP_SSL_PROTOCOL": "SSL_PROTOCOL",
}
"""Request attributes that web servers send by themselves, and the variables they become."""

_RESERVED = frozenset(
    "AUTH_TYPE CONTENT_LENGTH CONTENT_TYPE DOCUMENT_ROOT DOCUMENT_URI GATEWAY_INTERFACE HTTPS"
    " JVM_ROUTE PATH_INFO PATH_TRANSLATED QUERY_STRING REMOTE_ADDR REMOTE_HOST REMOTE_IDENT"
    " REMOTE_PORT REMOTE_USER REQUEST_METHOD REQUEST_SCHEME REQUEST_URI SCRIPT_FILENAME"
    " SCRIPT_NAME SCRIPT_URI SCRIPT_URL SERVER_ADDR SERVER_NAME SERVER_PORT SERVER_PROTOCOL"
    " SERVER_SOFTWARE SSL_CIPHER SSL_CIPHER_USEKEYSIZE SSL_CLIENT_CERT SSL_PROTOCOL"
    " SSL_SESSION_ID".split()
)
"""Variables that say what a request is, where it goes or who sent it: no attribute sets them."""
_attribute_name = re.compile(r"(?!HTTP_)[A-Za-z_][A-Za-z0-9_]*", re.IGNORECASE | re.ASCII)
"""No dot: what servers and frameworks keep beside the variables has one (``wsgi.errors``)."""

_header_name = re.compile(r"[A-Za-z0-9-]+")
"""Others are dropped: Apache passes ``X_Under`` on, which would pass for ``X-Under``."""
_NULL = 0xFFFF
"""The length of a string that is not there; neither bytes nor a NUL follow."""

_MAGIC = b"\x12\x34"
_packet = Struct(">2sH")
_short = Struct(">H")
_chunk = Struct(">2sHBH")
_CPONG = b"AB\0\x01\x09"
_FLUSH = b"AB\0\x04\x03\0\0\0"
_EMPTY = b"\x12\x34\0\0"
_END = b"AB\0\x02\x05"


def _variable(name: str) -> str:
    """Return the variable of a request header; ``""`` for a name that is dropped."""
    if _header_name.fullmatch(name) is None:
        return ""
    variable = name.upper().replace("-", "_")
    return variable if variable in ("CONTENT_LENGTH", "CONTENT_TYPE") else "HTTP_" + variable


_CODED = [_variable(name) for name in REQUEST_HEADERS]
_variables: dict[str, str] = {}
"""What :func:`_variable` said of names that web servers send as text."""
_MAX_VARIABLES = 1024  # the names are the clients': a bound, and the function is there beyond it

_RESPONSE_CODES = {
    name.lower(): _short.pack(code) for code, name in enumerate(RESPONSE_HEADERS, 0xA001)
}


def _string(text: str) -> bytes:
    raw = text.encode("latin-1")
    return _short.pack(len(raw)) + raw + b"\0"


class Connection:
    """The application's side of one connection; see :class:`~.single.Codec`.

    *packet_size* is the largest packet in bytes, 8192 to 65536: both ends need the same. *secret*
    is what the web server has to send with every request. *allowed_attributes* matches the whole
    names of request attributes that may become variables of the same name; others are refused,
    but for :data:`NAMED_ATTRIBUTES`. Variables that say what a request is cannot be set so.
    *trust_remote_user* takes the web server's REMOTE_USER and AUTH_TYPE.
    """

    def __init__(
        self,
        *,
        packet_size: int = PACKET_SIZE,
        secret: str | None = None,
        allowed_attributes: re.Pattern[str] | None = None,
        trust_remote_user: bool = False,
    ) -> None:
        if not PACKET_SIZE <= packet_size <= MAX_PACKET_SIZE:
            raise ValueError(f"a packet has {PACKET_SIZE} to {MAX_PACKET_SIZE} bytes")
        self.environ: dict[str, str] = {}
        self.reusable = False
        self._payload_size = packet_size - 4
        self._body_size = packet_size - 6
        self._chunk_size = packet_size - 8
        self._ask = b"AB\0\x03\x06" + _short.pack(self._body_size)
        self._secret = None if secret is None else secret.encode("utf-8", "surrogateescape")
        self._allowed = allowed_attributes
        self._trust = trust_remote_user
        self._buffer = bytearray()
        self._out = b""
        self._active = False
        """A request has begun and is not ended."""
        self._left: int | None = 0
        """Bytes of the body still to come; None for an unknown number, 0 when it is over."""
        self._due = False
        """The peer owes a packet of the body."""
        self._empty = False
        """The peer may still send the end of a body that it announced to be empty."""
        self._wrong = False
        """Something was wrong with a request: nothing more is read."""

    @property
    def idle(self) -> bool:
        """Nothing of a request has come since the last one ended."""
        return not self._active and not self._buffer

    def receive_data(self, data: bytes) -> list[Event]:
        """Take bytes from the peer; return what happened."""
        if self._wrong:
            return []
        self._buffer += data
        events: list[Event] = []
        try:
            while True:
                payload = self._next()
                if payload is None:
                    return events
                if self._active:
                    self._body(payload, events)
                else:
                    self._request(payload, events)
        except SapiError:
            self._wrong = True
            self._buffer.clear()
            raise

    def data_to_send(self) -> bytes:
        """Return, once, the answer to a CPING."""
        data, self._out = self._out, b""
        return data

    def head(self, status: str, headers: list[tuple[str, str]]) -> bytes:
        """Return SEND_HEADERS.

        Raises :class:`ApplicationError` when it is larger than a packet.
        """
        code, _, reason = status.partition(" ")
        parts: list[bytes] = []
        try:
            parts += b"\x04", _short.pack(int(code)), _string(reason), _short.pack(len(headers))
            for name, value in headers:
                parts.append(_RESPONSE_CODES.get(name.lower()) or _string(name))
                parts.append(_string(value))
            payload = b"".join(parts)
        except struct_error:  # a string of 64 KiB, or as many headers
            payload = b""
        if not 0 < len(payload) <= self._payload_size:
            raise ApplicationError(
                f"the response's head does not fit {self._payload_size + 4} bytes, the size of an"
                " AJP packet: raise ajp.packet_size, and the web server's setting likewise"
            )
        return _packet.pack(b"AB", len(payload)) + payload

    def body(self, data: bytes) -> bytes:
        """Return *data* as SEND_BODY_CHUNKs."""
        size, most = len(data), self._chunk_size
        if size <= most:
            return _chunk.pack(b"AB", size + 4, SEND_BODY_CHUNK, size) + data + b"\0"
        parts: list[bytes] = []
        for start in range(0, size, most):
            chunk = data[start : start + most]
            size = len(chunk)
            parts += _chunk.pack(b"AB", size + 4, SEND_BODY_CHUNK, size), chunk, b"\0"
        return b"".join(parts)

    def flush(self) -> bytes:
        """Return the empty SEND_BODY_CHUNK: the web server is to pass on what it holds."""
        return _FLUSH

    def ask(self) -> bytes:
        """Return GET_BODY_CHUNK; ``b""`` while one is not answered and when the body is over."""
        if self._due or self._left == 0 or self._wrong:
            return b""
        self._due = True
        return self._ask

    def end(self, last: bool = False) -> bytes:
        """Return END_RESPONSE.

        The connection may be used again unless this is the *last* response, a packet of the body
        is still to come, which could be taken for a request, or the request was wrong or short.
        """
        self.reusable = not (last or self._due or self._wrong)
        self._wrong = not self.reusable
        self._active = self._due = False
        self._left = 0
        return _END + (b"\x01" if self.reusable else b"\0")

    # -- packets ----------------------------------------------------------------------------------

    def _next(self) -> bytes | None:
        """Cut the payload of the next packet from the buffer; None when it is not complete."""
        buffer = self._buffer
        if not buffer:
            return None
        if self._active and not self._due:
            if self._empty and _EMPTY.startswith(buffer[:4]) and len(buffer) <= 4:
                if len(buffer) == 4:
                    self._empty = False
                    buffer.clear()
                return None
            raise ProtocolError("something came in the middle of a request, unasked")
        if buffer[:2] != _MAGIC[: len(buffer)]:
            raise ProtocolError(f"a packet begins with 12 34, not {buffer[:2].hex(' ')}")
        if len(buffer) < 4:
            return None
        size = buffer[2] << 8 | buffer[3]
        if size > self._payload_size:
            raise ProtocolError(
                f"a packet of {size + 4} bytes, {self._payload_size + 4} are allowed: the web"
                " server's packet size must be that of ajp.packet_size"
            )
        if not size and not self._active:
            raise ProtocolError("an empty packet in a request's place")
        if len(buffer) < size + 4:
            return None
        payload = bytes(buffer[4 : size + 4])
        del buffer[: size + 4]
        return payload

    def _body(self, payload: bytes, events: list[Event]) -> None:
        """Take a packet of the body, which has no type but the length once more."""
        size = len(payload) - 2
        if payload and (size < 0 or (payload[0] << 8 | payload[1]) != size):
            raise ProtocolError("a packet of the body does not hold what it says")
        self._due = False
        if size <= 0:  # both forms: no payload at all, and a length of 0, which Apache sends
            short = self._left is not None
            self._wrong = short
            self._left = 0
            events.append(BodyEnded(short))
            return
        if self._left is not None:
            if size > self._left:
                raise ProtocolError("more of the body than its content-length says")
            self._left -= size
        events.append(BodyReceived(payload[2:]))
        if self._left == 0:
            events.append(BodyEnded(short=False))

    def _request(self, payload: bytes, events: list[Event]) -> None:
        """Take what comes between requests."""
        type = payload[0]
        if type == FORWARD_REQUEST:
            self._active = True
            self.environ = {}
            try:
                length = self._forward(payload)
            except (IndexError, struct_error):
                raise RequestError("a request ends in the middle of a field") from None
            self._left = length
            self._due = bool(length)  # the first packet comes unasked
            # lighttpd sends the end of a body, too, where it has announced that there is none.
            self._empty = length == 0 and "CONTENT_LENGTH" in self.environ
            events.append(RequestReceived(self.environ))
            if length == 0:
                events.append(BodyEnded(short=False))
        elif type == CPING and len(payload) == 1:
            self._out += _CPONG
        elif type == SHUTDOWN:
            raise ProtocolError("the web server asks for a shutdown, which is never obeyed")
        else:
            raise ProtocolError(f"a packet of type {type} and {len(payload)} bytes")

    # -- FORWARD_REQUEST --------------------------------------------------------------------------

    def _forward(self, packet: bytes) -> int | None:
        """Set the variables of a request; return its body's length, None for an unknown one.

        Reading beyond the end raises IndexError or struct.error.
        """
        environ = self.environ
        code = packet[1]
        if code != STORED_METHOD:
            if not 0 < code <= len(METHODS):
                raise RequestError(f"there is no method with the code {code}")
            environ["REQUEST_METHOD"] = METHODS[code - 1]
        text = packet.decode("latin-1")
        protocol, at = _read(packet, text, 2)
        uri, at = _read(packet, text, at)
        address, at = _read(packet, text, at)
        host, at = _read(packet, text, at)
        name, at = _read(packet, text, at)
        (port,) = _short.unpack_from(packet, at)
        secure = packet[at + 2]
        environ["SERVER_PROTOCOL"] = protocol
        environ["REQUEST_URI"] = uri
        environ["SCRIPT_NAME"] = ""
        environ["REMOTE_ADDR"] = address
        if host:
            environ["REMOTE_HOST"] = host
        environ["SERVER_NAME"] = name
        environ["SERVER_PORT"] = str(port)
        if secure:
            if secure != 1:
                raise RequestError(f"is_ssl is {secure}, neither 0 nor 1")
            environ["HTTPS"] = "on"
        if _has_line_end("".join(environ.values())):
            raise RequestError("a NUL or a line's end stands in the URI or beside it")
        environ["PATH_INFO"] = unquote(uri.encode("latin-1")).decode("latin-1")
        at, length = self._headers(packet, text, at + 3)
        self._attributes(packet, text, at)
        if "QUERY_STRING" in environ:
            environ["REQUEST_URI"] += "?" + environ["QUERY_STRING"]
        else:
            environ["QUERY_STRING"] = ""
        if code == STORED_METHOD and "REQUEST_METHOD" not in environ:
            raise RequestError("the method's name is missing")
        return length

    def _headers(self, packet: bytes, text: str, at: int) -> tuple[int, int | None]:
        """Read the headers; return where they end, and the body's length."""
        (count,) = _short.unpack_from(packet, at)
        at += 2
        pairs = []
        for _ in range(count):
            if packet[at] == 0xA0:
                code = packet[at + 1]
                at += 2
                if not 0 < code <= len(_CODED):
                    raise RequestError(f"there is no header with the code a0{code:02x}")
                variable = _CODED[code - 1]
            else:
                if packet[at : at + 2] == b"\xff\xff":
                    raise RequestError("a header has no name")
                name, at = _read(packet, text, at)
                if name in _variables:
                    variable = _variables[name]
                else:
                    variable = _variable(name)
                    if len(_variables) < _MAX_VARIABLES and len(name) <= 64:
                        _variables[name] = variable
            value, at = _read(packet, text, at)
            pairs.append((variable, value))
        if _has_line_end("".join([value for _, value in pairs])):
            raise RequestError("a NUL or a line's end stands in a header")
        headers = dict(pairs)
        if len(headers) != len(pairs):
            headers = join_pairs(pairs)
            variables = [variable for variable, _ in pairs]
            for name in ("CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING"):
                if variables.count(name) > 1:
                    raise RequestError(f"{name} comes more than once")
        headers.pop("", None)
        self.environ.update(headers)
        length = headers.get("CONTENT_LENGTH")
        coding = headers.get("HTTP_TRANSFER_ENCODING")
        if coding is not None:  # CVE-2022-26377: the two servers must agree on the body's end
            if coding.lower() != "chunked":
                raise RequestError(f"the transfer coding {coding!r} is not chunked")
            if length is not None:
                raise RequestError("content-length and transfer-encoding exclude each other")
            return at, None
        if length is None:
            return at, 0
        if not (length.isascii() and length.isdigit() and len(length) < 20):
            raise RequestError(f"content-length {length!r} is not a number of bytes")
        return at, int(length)

    def _attributes(self, packet: bytes, text: str, at: int) -> None:
        """Read the attributes, to the packet's end."""
        environ = self.environ
        allowed = self._secret is None
        while (code := packet[at]) != ARE_DONE:
            if code == SSL_KEY_SIZE:
                environ["SSL_CIPHER_USEKEYSIZE"] = str(packet[at + 1] << 8 | packet[at + 2])
                at += 3
                continue
            name = ""
            if code == REQ_ATTRIBUTE:
                name, at = _read(packet, text, at + 1)
                value, at = _read(packet, text, at)
            elif code in ATTRIBUTES or code in (SECRET, STORED_METHOD_NAME):
                value, at = _read(packet, text, at + 1)
            else:  # its length is unknown
                raise RequestError(f"there is no attribute with the code {code}")
            if code == SECRET:
                if self._secret is not None:
                    allowed = compare_digest(value.encode("latin-1"), self._secret)
                    if not allowed:
                        break
            elif "\0" in value if code == SSL_CERT else _has_line_end(value):  # it has lines
                raise RequestError(f"a NUL or a line's end stands in the attribute {code} {name}")
            else:
                self._attribute(code, name, value)
        if not allowed:
            raise RequestError("the secret is missing or wrong", "403 Forbidden")
        if at + 1 != len(packet):
            raise RequestError("something follows the end of a request")

    def _attribute(self, code: int, name: str, value: str) -> None:
        """Take one attribute that may be seen."""
        environ = self.environ
        if code == STORED_METHOD_NAME:
            if environ.setdefault("REQUEST_METHOD", value) != value:
                raise RequestError("the method's code and its name differ")
        elif code == REQ_ATTRIBUTE:
            variable = NAMED_ATTRIBUTES.get(name)
            if variable is None:
                self._check_attribute(name)
                variable = name
            environ[variable] = value
        else:
            known = ATTRIBUTES[code]
            if known is not None and (self._trust or code not in (REMOTE_USER, AUTH_TYPE)):
                environ[known] = value

    def _check_attribute(self, name: str) -> None:
        """Raise :class:`RequestError` for a request attribute that is not allowed."""
        if (
            self._allowed is None
            or self._allowed.fullmatch(name) is None
            or _attribute_name.fullmatch(name) is None
            or name.upper() in _RESERVED
        ):
            raise RequestError(
                f"the request attribute {name!r} is not allowed: see ajp.allowed_attributes",
                "403 Forbidden",
            )


def _has_line_end(text: str) -> bool:
    """Tell whether a line's end or a NUL is in *text*: a tenth of the time of an expression."""
    return "\n" in text or "\r" in text or "\0" in text


def _read(packet: bytes, text: str, at: int) -> tuple[str, int]:
    """Return the string at *at* of a packet, ``""`` for the null string, and where it ends.

    *text* is the packet as latin-1: decoded once and sliced.
    """
    size = packet[at] << 8 | packet[at + 1]
    if size == _NULL:
        return "", at + 2
    stop = at + 2 + size
    if packet[stop]:
        raise RequestError("a string does not end in a NUL")
    return text[at + 2 : stop], stop + 1
