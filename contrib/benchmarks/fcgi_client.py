"""A FastCGI client of a few lines, blocking, for one request on one connection.

The benchmarks use it to look at an answer before they measure, and to move large bodies. It is
written against the specification alone and shares no code with the project, so that an error in the
project's codec cannot hide in it.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

BEGIN_REQUEST, END_REQUEST, PARAMS, STDIN, STDOUT, STDERR = 1, 3, 4, 5, 6, 7
# A multiple of eight, so that no record needs padding, and half of the largest one.
PIECE = 32 * 1024


class ClientError(Exception):
    """The server did not answer as FastCGI 1.0 says, or not in time."""


@dataclass
class Answer:
    """What came back: head and body of STDOUT (the body only up to `keep` bytes), and STDERR."""

    head: bytes
    body: bytes
    body_size: int
    stdout_size: int
    stderr: bytes

    @property
    def status(self) -> int:
        """The CGI status, 200 where the head has none."""
        for line in self.head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"status":
                return int(value.split()[0])
        return 200


def pair(name: str, value: str) -> bytes:
    """Encode one name-value pair (FastCGI 1.0, section 3.4)."""
    raw_name, raw_value = name.encode("latin-1"), value.encode("latin-1")
    lengths = b"".join(
        bytes([len(raw)]) if len(raw) < 128 else struct.pack("!I", len(raw) | 0x80000000)
        for raw in (raw_name, raw_value)
    )
    return lengths + raw_name + raw_value


def record(kind: int, content: bytes) -> bytes:
    """Encode one record of request 1."""
    return struct.pack("!BBHHBB", 1, kind, 1, len(content), 0, 0) + content


def opening(params: Mapping[str, str]) -> bytes:
    """BEGIN_REQUEST for a responder without KEEP_CONN, and the parameters."""
    block = b"".join(pair(name, value) for name, value in params.items())
    records = [record(BEGIN_REQUEST, b"\x00\x01\x00\x00\x00\x00\x00\x00")]
    records += [record(PARAMS, block[i : i + 65528]) for i in range(0, len(block), 65528)]
    return b"".join([*records, record(PARAMS, b"")])


def parameters(path: str = "/", body_size: int = 0) -> dict[str, str]:
    """Return the CGI variables a small request has."""
    return {
        "REQUEST_METHOD": "POST" if body_size else "GET",
        "CONTENT_TYPE": "application/octet-stream" if body_size else "",
        "CONTENT_LENGTH": str(body_size) if body_size else "",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "REQUEST_URI": path,
        "DOCUMENT_URI": path,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REQUEST_SCHEME": "http",
        "GATEWAY_INTERFACE": "CGI/1.1",
        "SERVER_SOFTWARE": "benchmark",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "51234",
        "SERVER_ADDR": "127.0.0.1",
        "SERVER_PORT": "8080",
        "SERVER_NAME": "localhost",
        "HTTP_HOST": "localhost:8080",
    }


def request_scgi(path: str, params: Mapping[str, str], *, timeout: float = 10.0) -> Answer:
    """Send one SCGI request without a body; as :func:`request`."""
    pairs = {**params, "CONTENT_LENGTH": "0", "SCGI": "1"}
    block = "".join(f"{name}\0{value}\0" for name, value in pairs.items()).encode("latin-1")
    reader = _Reader(65536)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.connect(path)
        connection.sendall(b"%d:%b," % (len(block), block))
        while data := connection.recv(262144):
            reader.output += data
    return reader.answer()


def _chunks(params: Mapping[str, str], body_size: int) -> Iterator[bytes]:
    yield opening(params)
    full = record(STDIN, bytes(PIECE))
    for _ in range(body_size // PIECE):
        yield full
    if body_size % PIECE:
        yield record(STDIN, bytes(body_size % PIECE))
    yield record(STDIN, b"")


class _Reader:
    """Takes bytes as they come and holds no more of a body than it was asked to keep."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.pending = bytearray()
        self.output = bytearray()
        self.dropped = 0
        self.stderr = bytearray()
        self.finished = False

    def feed(self, data: bytes) -> None:
        self.pending += data
        position = 0
        while len(self.pending) - position >= 8:
            _, kind, _, size, padding, _ = struct.unpack_from("!BBHHBB", self.pending, position)
            end = position + 8 + size + padding
            if len(self.pending) < end:
                break
            content = self.pending[position + 8 : position + 8 + size]
            position = end
            if kind == STDOUT:
                room = max(0, self.keep - len(self.output))
                self.output += content[:room]
                self.dropped += max(0, size - room)
            elif kind == STDERR:
                self.stderr += content[:65536]
            elif kind == END_REQUEST:
                if content[4] != 0:
                    raise ClientError(f"END_REQUEST with protocol status {content[4]}")
                self.finished = True
        del self.pending[:position]

    def answer(self) -> Answer:
        head, separator, body = bytes(self.output).partition(b"\r\n\r\n")
        if not separator:
            raise ClientError(f"no head in STDOUT: {head[:200]!r}")
        size = len(self.output) + self.dropped
        body_size = size - len(head) - len(separator)
        return Answer(head, body, body_size, size, bytes(self.stderr))


def request(
    path: str,
    params: Mapping[str, str],
    body_size: int = 0,
    *,
    timeout: float = 10.0,
    keep: int = 65536,
) -> Answer:
    """Send one request to the Unix socket `path`, with `body_size` zero bytes as its body.

    Sends and receives at the same time, so a server may answer before it has the whole body.
    `timeout` is for all of it, in seconds. Raises ClientError, or OSError from the socket.
    """
    deadline = time.monotonic() + timeout
    reader = _Reader(keep)
    chunks = _chunks(params, body_size)
    to_send: memoryview | None = memoryview(next(chunks))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.connect(path)
        connection.setblocking(False)
        poll = select.poll()
        poll.register(connection, select.POLLIN | select.POLLOUT)
        while not reader.finished:
            left = deadline - time.monotonic()
            ready = poll.poll(left * 1000) if left > 0 else []
            if not ready:
                raise ClientError(f"no answer within {timeout:g} s")
            events = ready[0][1]
            if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                data = connection.recv(262144)
                if not data:
                    raise ClientError("the connection ended before END_REQUEST")
                reader.feed(data)
            elif to_send is not None:
                to_send = to_send[connection.send(to_send) :]
                if not to_send:
                    following = next(chunks, None)
                    to_send = memoryview(following) if following is not None else None
                    if to_send is None:
                        poll.modify(connection, select.POLLIN)
    return reader.answer()
