"""The web server's side of AJP 1.3 and a slow judge of requests, from the tables of ajpv13a.

It shares nothing with the codec. Numbers stand here as the standard writes them, one row each.
"""

from __future__ import annotations

import re
from typing import Any

METHOD_CODES = {
    "OPTIONS": 1,
    "GET": 2,
    "HEAD": 3,
    "POST": 4,
    "PUT": 5,
    "DELETE": 6,
    "TRACE": 7,
    "PROPFIND": 8,
    "PROPPATCH": 9,
    "MKCOL": 10,
    "COPY": 11,
    "MOVE": 12,
    "LOCK": 13,
    "UNLOCK": 14,
    "ACL": 15,
    "REPORT": 16,
    "VERSION-CONTROL": 17,
    "CHECKIN": 18,
    "CHECKOUT": 19,
    "UNCHECKOUT": 20,
    "SEARCH": 21,
    "MKWORKSPACE": 22,
    "UPDATE": 23,
    "LABEL": 24,
    "MERGE": 25,
    "BASELINE-CONTROL": 26,
    "MKACTIVITY": 27,
}
REQUEST_CODES = {
    "accept": 0xA001,
    "accept-charset": 0xA002,
    "accept-encoding": 0xA003,
    "accept-language": 0xA004,
    "authorization": 0xA005,
    "connection": 0xA006,
    "content-type": 0xA007,
    "content-length": 0xA008,
    "cookie": 0xA009,
    "cookie2": 0xA00A,
    "host": 0xA00B,
    "pragma": 0xA00C,
    "referer": 0xA00D,
    "user-agent": 0xA00E,
}
RESPONSE_NAMES = {
    0xA001: "Content-Type",
    0xA002: "Content-Language",
    0xA003: "Content-Length",
    0xA004: "Date",
    0xA005: "Last-Modified",
    0xA006: "Location",
    0xA007: "Set-Cookie",
    0xA008: "Set-Cookie2",
    0xA009: "Servlet-Engine",
    0xA00A: "Status",
    0xA00B: "WWW-Authenticate",
}
ATTRIBUTE_CODES = {
    "context": 1,
    "servlet_path": 2,
    "remote_user": 3,
    "auth_type": 4,
    "query_string": 5,
    "jvm_route": 6,
    "ssl_cert": 7,
    "ssl_cipher": 8,
    "ssl_session": 9,
    "req_attribute": 10,
    "ssl_key_size": 11,
    "secret": 12,
    "stored_method": 13,
}

CPING = bytes.fromhex("12 34 00 01 0a")
EMPTY = bytes.fromhex("12 34 00 02 00 00")
"""The end of a body, as Apache sends it."""
BARE_EMPTY = bytes.fromhex("12 34 00 00")
"""The other form of it."""


# -- what a web server sends ----------------------------------------------------------------------


def number(value: int) -> bytes:
    return bytes((value >> 8, value & 255))


def string(text: str | bytes | None) -> bytes:
    if text is None:
        return b"\xff\xff"
    raw = text.encode("latin-1") if isinstance(text, str) else text
    return number(len(raw)) + raw + b"\0"


def packet(payload: bytes) -> bytes:
    return b"\x12\x34" + number(len(payload)) + payload


def header(name: str | int, value: str | None) -> bytes:
    """One header; *name* as text, or its code."""
    return (number(name) if isinstance(name, int) else string(name)) + string(value)


def attribute(name: str, *values: str | int | None) -> bytes:
    code = bytes((ATTRIBUTE_CODES[name],))
    return code + b"".join(number(v) if isinstance(v, int) else string(v) for v in values)


def forward(
    method: str | int = "GET",
    uri: str | None = "/",
    *headers: tuple[str | int, str | None],
    attributes: bytes = b"",
    protocol: str | None = "HTTP/1.1",
    address: str | None = "192.0.2.1",
    host: str | None = None,
    name: str | None = "localhost",
    port: int = 80,
    secure: int = 0,
    count: int | None = None,
    end: bytes = b"\xff",
) -> bytes:
    """A FORWARD_REQUEST; headers that have codes are sent by them when named in lower case."""
    return packet(
        bytes((2, method if isinstance(method, int) else METHOD_CODES[method]))
        + b"".join(map(string, (protocol, uri, address, host, name)))
        + number(port)
        + bytes((secure,))
        + number(len(headers) if count is None else count)
        + b"".join(
            header(REQUEST_CODES.get(n, n) if isinstance(n, str) else n, v) for n, v in headers
        )
        + attributes
        + end
    )


def body(data: bytes) -> bytes:
    return packet(number(len(data)) + data)


# -- what the application answers -----------------------------------------------------------------


def answers(data: bytes, packet_size: int = 8192) -> list[tuple[Any, ...]]:
    """Return the packets of *data* as words; every rule about them is asserted."""
    found: list[tuple[Any, ...]] = []
    while data:
        assert data[:2] == b"AB"
        size = int.from_bytes(data[2:4], "big")
        payload, data = data[4 : 4 + size], data[4 + size :]
        assert len(payload) == size and size + 4 <= packet_size
        type, fields = payload[0], Fields(payload[1:])
        if type == 4:
            status, reason = fields.number(), fields.string()
            pairs = []
            for _ in range(fields.number()):
                code = fields.peek()
                name = RESPONSE_NAMES[fields.number()] if code >> 8 == 0xA0 else fields.string()
                pairs.append((name, fields.string()))
            found.append(("head", status, reason, pairs))
        elif type == 3:
            found.append(("chunk", fields.take(fields.number())))
            assert fields.take(1) == b"\0"
        elif type == 5:
            found.append(("end", fields.take(1)[0]))
        elif type == 6:
            found.append(("ask", fields.number()))
        else:
            assert type == 9
            found.append(("pong",))
        assert not fields.rest
    return found


class Cut(Exception):
    """The packet ends in the middle of a field."""


class Fields:
    """Takes fields off the front of bytes."""

    def __init__(self, data: bytes) -> None:
        self.rest = data

    def take(self, size: int) -> bytes:
        if size > len(self.rest):
            raise Cut
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken

    def peek(self) -> int:
        if len(self.rest) < 2:
            raise Cut
        return self.rest[0] * 256 + self.rest[1]

    def number(self) -> int:
        high, low = self.take(2)
        return high * 256 + low

    def string(self) -> str:
        size = self.number()
        if size == 0xFFFF:
            return ""
        text = self.take(size).decode("latin-1")
        if self.take(1) != b"\0":
            raise Cut
        return text


# -- the judge ------------------------------------------------------------------------------------

CLOSE = "close"
BAD = 400
FORBIDDEN = 403


def judge(data: bytes, **settings: Any) -> Any:
    """Return what one packet in a request's place means.

    None when it is not complete, CLOSE, BAD, FORBIDDEN, ``"pong"``, or the variables of a request
    and the length of its body, None for an unknown one.
    """
    if not b"\x12\x34".startswith(data[:2]):
        return CLOSE
    if len(data) < 4:
        return None
    size = int.from_bytes(data[2:4], "big")
    if not 1 <= size <= settings.get("packet_size", 8192) - 4:
        return CLOSE
    if len(data) < size + 4:
        return None
    payload = data[4 : size + 4]
    if payload == b"\x0a":
        return "pong"
    if payload[0] != 2:
        return CLOSE
    try:
        return _request(Fields(payload[1:]), **settings)
    except Cut:
        return BAD


# Headers that are no lists (RFC 9110): the last one counts.
ALONE = """authorization from host if_modified_since if_range if_unmodified_since max_forwards
    origin proxy_authorization range referer user_agent""".split()


def _request(fields: Fields, **settings: Any) -> Any:
    # Structure first, then meaning: of several faults, the status is that of the first class.
    code = fields.take(1)[0]
    texts = [fields.string() for _ in range(5)]
    port, secure = fields.number(), fields.take(1)[0]
    pairs = []
    for _ in range(fields.number()):
        if fields.peek() >> 8 == 0xA0:
            names = {number: name for name, number in REQUEST_CODES.items()}
            name = names.get(fields.number())
            if name is None:
                return BAD
        elif fields.peek() == 0xFFFF:
            return BAD
        else:
            name = fields.string()
        pairs.append((name, fields.string()))
    if code not in (*METHOD_CODES.values(), 255) or secure > 1:
        return BAD
    if any(re.search("[\0\r\n]", text) for text in [*texts, *(value for _, value in pairs)]):
        return BAD
    protocol, uri, address, host, server = texts
    environ = {
        "SERVER_PROTOCOL": protocol,
        "SCRIPT_NAME": "",
        "PATH_INFO": re.sub("%([0-9A-Fa-f]{2})", lambda found: chr(int(found[1], 16)), uri),
        "REMOTE_ADDR": address,
        "SERVER_NAME": server,
        "SERVER_PORT": f"{port}",
        **({"REMOTE_HOST": host} if host else {}),
        **({"HTTPS": "on"} if secure else {}),
    }
    lengths, codings = [], []
    for name, value in pairs:
        if not re.fullmatch("[A-Za-z0-9-]+", name):
            continue
        variable = name.upper().replace("-", "_")
        if variable == "CONTENT_LENGTH":
            lengths.append(value)
        elif variable == "TRANSFER_ENCODING":
            codings.append(value.lower())
        if variable not in ("CONTENT_LENGTH", "CONTENT_TYPE"):
            variable = "HTTP_" + variable
            if environ.get(variable, value) != value and variable.lower()[5:] not in ALONE:
                between = "; " if variable == "HTTP_COOKIE" else ", "
                value = environ[variable] + between + value
        environ[variable] = value
    if len(lengths) + len(codings) > 1 or set(codings) - {"chunked"}:
        return BAD
    if lengths and not re.fullmatch("[0-9]{1,19}", lengths[0]):
        return BAD
    verdict = _attributes(fields, code, environ, **settings)
    if verdict:
        return verdict
    query = environ.setdefault("QUERY_STRING", "\0")
    environ["REQUEST_URI"] = uri if query == "\0" else f"{uri}?{query}"
    environ["QUERY_STRING"] = query.replace("\0", "")
    return environ, int(lengths[0]) if lengths else None if codings else 0


def _attributes(fields: Fields, code: int, environ: dict[str, str], **settings: Any) -> Any:
    """Add the attributes to *environ*; return BAD or FORBIDDEN for those that have such answers."""
    secret, method = None, None
    methods = {number: name for name, number in METHOD_CODES.items()}
    variables = {
        "jvm_route": "JVM_ROUTE",
        "query_string": "QUERY_STRING",
        "ssl_cert": "SSL_CLIENT_CERT",
        "ssl_cipher": "SSL_CIPHER",
        "ssl_session": "SSL_SESSION_ID",
    }
    if settings.get("trust_remote_user"):
        variables.update(remote_user="REMOTE_USER", auth_type="AUTH_TYPE")
    names = {number: name for name, number in ATTRIBUTE_CODES.items()}
    while (kind := fields.take(1)[0]) != 255:
        name = names.get(kind)
        if name is None:
            return BAD
        if name == "ssl_key_size":
            environ["SSL_CIPHER_USEKEYSIZE"] = str(fields.number())
            continue
        key = fields.string() if name == "req_attribute" else ""
        value = fields.string()
        if name == "secret":
            secret = value
            if settings.get("secret") not in (None, secret):
                return FORBIDDEN
            continue
        if re.search("\0" if name == "ssl_cert" else "[\0\r\n]", value):
            return BAD
        if name == "req_attribute":
            known = {
                "AJP_REMOTE_PORT": "REMOTE_PORT",
                "AJP_LOCAL_ADDR": "SERVER_ADDR",
                "AJP_SSL_PROTOCOL": "SSL_PROTOCOL",
            }
            allowed = settings.get("allowed_attributes", "(?!)")
            if key not in known and not re.fullmatch(allowed, key):
                return FORBIDDEN
            environ[known.get(key, key)] = value
        elif name == "stored_method":
            if value != (method or methods.get(code, value)):
                return BAD
            method = value
        elif name in variables:
            environ[variables[name]] = value
    if settings.get("secret") is not None and secret is None:
        return FORBIDDEN
    environ["REQUEST_METHOD"] = methods.get(code, "") if method is None else method
    return BAD if fields.rest or (code == 255 and method is None) else None
