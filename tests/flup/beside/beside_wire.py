"""The requests of the comparison as bytes, and answers in one form for all four protocols."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastcgi_client import Answer, Client, connect

SECONDS = 20.0
PROGRAM = Path(__file__).with_name("program.py")

# What nginx's fastcgi_params and scgi_params send, less what flup's users leave out.
VARIABLES = {
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/",
    "QUERY_STRING": "",
    "REQUEST_URI": "/",
    "SERVER_NAME": "example.org",
    "SERVER_PORT": "8080",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "SERVER_SOFTWARE": "front/1.0",
    "GATEWAY_INTERFACE": "CGI/1.1",
    "REMOTE_ADDR": "192.0.2.7",
    "REMOTE_PORT": "51234",
    "DOCUMENT_ROOT": "/srv/www",
    "HTTP_HOST": "example.org:8080",
    "HTTP_ACCEPT": "*/*",
}


@dataclass
class Seen:
    """What a front end got for one request, and its program's standard error was told."""

    status: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    end: str = ""
    errors: list[str] = field(default_factory=list)


def variables(app: str, body: bytes, given: dict[str, str | None]) -> dict[str, str]:
    """Return a request's variables: *given* ones replace the usual, None takes one away."""
    made: dict[str, str | None] = {**VARIABLES, "HTTP_TEST_APP": app}
    if body:
        made.update(REQUEST_METHOD="POST", CONTENT_LENGTH=str(len(body)))
    made.update(given)
    return {name: value for name, value in made.items() if value is not None}


def marked(text: str) -> list[str]:
    """Return what follows ``beside:`` in the lines of *text* that have it.

    What stands before it is a time stamp or an exception's class. The line of the source that a
    traceback shows does not count.
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("raise ")]
    return [line.partition("beside: ")[2].strip() for line in lines if "beside:" in line]


def read_head(raw: bytes, end: str, errors: str) -> Seen:
    """Take a CGI response apart."""
    head, blank, body = raw.partition(b"\r\n\r\n")
    seen = Seen(end=end, errors=marked(errors))
    if not blank:
        seen.body = raw
        return seen
    for line in head.decode("latin-1").split("\r\n"):
        name, _, value = line.partition(":")
        if name.lower() == "status":
            seen.status = value.removeprefix(" ")
        else:
            seen.headers.append((name, value.removeprefix(" ")))
    seen.body = body
    return seen


def end_of(answer: Answer) -> str:
    """Return how a FastCGI request ended: application and protocol status, or without END."""
    if answer.ended is None:
        return "cut"
    return f"{int(answer.ended.app_status)}/{int(answer.ended.status)}"


def send(sock: socket.socket, data: bytes) -> bool:
    """Send *data*; tell whether there still was somebody to take it."""
    try:
        sock.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def fastcgi(
    address: Any,
    app: str,
    body: bytes = b"",
    *,
    given: dict[str, str | None] | None = None,
    sent: bytes | None = None,
    role: int = 1,
) -> Seen:
    """Make a FastCGI request; *sent* goes out in place of *body*, whose length is announced."""
    with Client(address) as client:
        client.socket.settimeout(SECONDS)
        names = variables(app, body, given or {})
        pairs = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in names.items()]
        client.answers[1] = answer = Answer()
        data = client.codec.begin(1, pairs, role=role)
        out = body if sent is None else sent
        if out:
            data += client.codec.stdin(1, out)
        send(client.socket, data + client.codec.stdin(1, b""))
        client.answer()
    return read_head(answer.stdout, end_of(answer), answer.stderr.decode())


def scgi_block(names: dict[str, str]) -> bytes:
    """Return a netstring of variables, CONTENT_LENGTH and SCGI first."""
    names = {"CONTENT_LENGTH": "0", "SCGI": "1", **names}
    block = b"".join(f"{n}\0{v}\0".encode("latin-1") for n, v in names.items())
    return b"%d:%b," % (len(block), block)


def until_closed(sock: socket.socket) -> tuple[bytes, str]:
    """Return all that comes, and how the connection ended."""
    parts = []
    try:
        while part := sock.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        return b"".join(parts), "reset"
    except TimeoutError:
        return b"".join(parts), "no answer"
    return b"".join(parts), "closed"


def scgi(
    address: Any,
    app: str,
    body: bytes = b"",
    *,
    given: dict[str, str | None] | None = None,
    sent: bytes | None = None,
    block: bytes | None = None,
    open_for: float = 0.0,
) -> Seen:
    """Make an SCGI request; *block* goes out in place of the variables.

    The client closes its half after the body, as flup waits for that when an application reads
    all; with *open_for* it does not, and waits no longer than so many seconds for the answer.
    """
    with connect(address) as sock:
        sock.settimeout(open_for or SECONDS)
        head = scgi_block(variables(app, body, given or {})) if block is None else block
        if send(sock, head + (body if sent is None else sent)) and not open_for:
            with suppress(OSError):  # it is closed already
                sock.shutdown(socket.SHUT_WR)
        raw, end = until_closed(sock)
    return read_head(raw, end, "")


METHODS = {"GET": 2, "HEAD": 3, "POST": 4, "PUT": 5, "by name": 255}
REQUEST_CODES = {"content-type": 7, "content-length": 8, "host": 11, "user-agent": 14}
RESPONSE_CODES = dict(
    enumerate(
        "Content-Type Content-Language Content-Length Date Last-Modified Location Set-Cookie "
        "Set-Cookie2 Servlet-Engine Status WWW-Authenticate".split(),
        1,
    )
)


def ajp_string(text: str) -> bytes:
    """Return a string of AJP13."""
    return struct.pack("!H", len(text)) + text.encode("latin-1") + b"\0"


def ajp_packet(payload: bytes) -> bytes:
    """Return a packet of the front end."""
    return b"\x12\x34" + struct.pack("!H", len(payload)) + payload


def ajp_request(
    app: str,
    body: bytes,
    uri: str,
    method: str | None,
    ssl: bool,
    headers: dict[str, str],
    attributes: bytes,
) -> bytes:
    """Return a FORWARD_REQUEST."""
    method = method or ("POST" if body else "GET")
    made = {"host": "example.org:8080", "test-app": app, **headers}
    if body:
        made.setdefault("content-length", str(len(body)))
    data = bytes((2, METHODS[method])) + ajp_string("HTTP/1.1") + ajp_string(uri)
    data += ajp_string("192.0.2.7") + ajp_string("") + ajp_string("example.org")
    data += struct.pack("!HBH", 8080, ssl, len(made))
    for name, value in made.items():
        code = REQUEST_CODES.get(name)
        data += bytes((0xA0, code)) if code else ajp_string(name)
        data += ajp_string(value)
    return ajp_packet(data + attributes + b"\xff")


class AjpConnection:
    """A front end's connection over AJP13."""

    def __init__(self, address: Any) -> None:
        self.socket = connect(address)
        self.socket.settimeout(SECONDS)
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> AjpConnection:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()
        self.socket.close()

    def packet(self) -> bytes:
        """Return the next packet's payload, b"" at the end."""
        head = self.file.read(4)
        if len(head) < 4:
            return b""
        assert head[:2] == b"AB"
        return self.file.read(struct.unpack("!H", head[2:])[0])

    def request(
        self,
        app: str,
        body: bytes = b"",
        *,
        uri: str = "/",
        method: str | None = None,
        ssl: bool = False,
        headers: dict[str, str] | None = None,
        attributes: bytes = b"",
    ) -> Seen:
        """Make one request."""
        data = ajp_request(app, body, uri, method, ssl, headers or {}, attributes)
        rest = memoryview(body)
        if body:
            data += self.chunk(rest[:8186])
            rest = rest[8186:]
        send(self.socket, data)
        seen = Seen(end="closed")
        try:
            while payload := self.packet():
                kind = payload[0]
                if kind == 4:
                    self.read_head(payload, seen)
                elif kind == 3:
                    (length,) = struct.unpack_from("!H", payload, 1)
                    seen.body += payload[3 : 3 + length]
                elif kind == 6:
                    (length,) = struct.unpack_from("!H", payload, 1)
                    length = min(length, 8186)
                    self.socket.sendall(self.chunk(rest[:length]))
                    rest = rest[length:]
                else:
                    assert kind == 5, payload
                    seen.end = f"reuse {payload[1]}"
                    break
        except ConnectionResetError:
            seen.end = "reset"
        return seen

    @staticmethod
    def chunk(data: memoryview) -> bytes:
        """Return a body packet."""
        return ajp_packet(struct.pack("!H", len(data)) + bytes(data))

    @staticmethod
    def read_head(payload: bytes, seen: Seen) -> None:
        """Take SEND_HEADERS apart."""

        def string(at: int) -> tuple[str, int]:
            (length,) = struct.unpack_from("!H", payload, at)
            return payload[at + 2 : at + 2 + length].decode("latin-1"), at + 3 + length

        assert not seen.status, "a second head"
        (code,) = struct.unpack_from("!H", payload, 1)
        reason, at = string(3)
        seen.status = f"{code} {reason}"
        (count,) = struct.unpack_from("!H", payload, at)
        at += 2
        for _ in range(count):
            if payload[at] == 0xA0:
                name, at = RESPONSE_CODES[payload[at + 1]], at + 2
            else:
                name, at = string(at)
            value, at = string(at)
            seen.headers.append((name, value))


def ajp(address: Any, app: str, body: bytes = b"", **options: Any) -> Seen:
    """Make an AJP13 request on a connection of its own."""
    with AjpConnection(address) as connection:
        return connection.request(app, body, **options)


def cgi(
    which: str,
    module: str,
    result: Path,
    options: str,
    app: str,
    body: bytes = b"",
    *,
    given: dict[str, str | None] | None = None,
    sent: bytes | None = None,
    stdin: Any = None,
    seconds: float = 60.0,
) -> Seen:
    """Run the program as a web server runs a CGI program; *stdin* in place of a pipe."""
    try:
        done = subprocess.run(
            [sys.executable, str(PROGRAM), which, module, "-", str(result), options],
            **({"input": body if sent is None else sent} if stdin is None else {"stdin": stdin}),
            capture_output=True,
            env={**variables(app, body, given or {}), "PATH": "/usr/bin:/bin"},
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return Seen(end="did not end")
    seen = read_head(done.stdout, f"exit {done.returncode}", done.stderr.decode())
    seen.end += f", {result.read_text()}" if result.exists() else ""
    return seen


def until(condition: Any, what: str, seconds: float = SECONDS) -> Any:
    """Wait until *condition* holds, and return what it gave."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)
