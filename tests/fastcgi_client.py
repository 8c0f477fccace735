"""A FastCGI client for the tests, on our own client codec, with a deadline on every wait."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field
from typing import Any

from sapi_adapters.protocols import fastcgi
from sapi_adapters.protocols.fastcgi import (
    ClientConnection,
    RequestEnded,
    StderrReceived,
    StdoutReceived,
    UnknownTypeReceived,
    ValuesReceived,
)

PARAMS = {
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/",
    "QUERY_STRING": "",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REMOTE_ADDR": "127.0.0.1",
}


@dataclass
class Answer:
    """What came for one request."""

    stdout: bytes = b""
    stderr: bytes = b""
    ended: RequestEnded | None = None
    values: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """The response's status."""
        head = self.stdout.partition(b"\r\n\r\n")[0].decode("latin-1")
        return int(next(x[8:11] for x in head.split("\r\n") if x.startswith("Status: ")))

    @property
    def body(self) -> bytes:
        """The response's body."""
        return self.stdout.partition(b"\r\n\r\n")[2]


def connect(address: Any, seconds: float = 10.0) -> socket.socket:
    """Connect to a Unix path or (host, port), waiting for the server to appear."""
    end = time.monotonic() + seconds
    while True:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.settimeout(seconds)
        try:
            sock.connect(address)
            return sock
        except OSError:
            sock.close()
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


class Client:
    """One connection."""

    def __init__(self, address: Any) -> None:
        self.socket = connect(address)
        self.codec = ClientConnection()
        self.answers: dict[int, Answer] = {}
        self.eof = False

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def begin(self, id: int = 1, *, keep: bool = False, role: int = 1, **params: str) -> None:
        """Send BEGIN_REQUEST and all parameters."""
        pairs = [
            (k.encode("latin-1"), v.encode("latin-1")) for k, v in {**PARAMS, **params}.items()
        ]
        self.answers[id] = Answer()
        self.socket.sendall(self.codec.begin(id, pairs, keep_conn=keep, role=role))

    def stdin(self, data: bytes, id: int = 1) -> None:
        """Send bytes of the body, b"" for its end."""
        self.socket.sendall(self.codec.stdin(id, data))

    def send(self, id: int = 1, *, body: bytes = b"", keep: bool = False, **params: str) -> None:
        """Send a whole request in one write."""
        if body:
            params = {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": str(len(body)), **params}
        pairs = [
            (k.encode("latin-1"), v.encode("latin-1")) for k, v in {**PARAMS, **params}.items()
        ]
        self.answers[id] = Answer()
        data = self.codec.begin(id, pairs, keep_conn=keep)
        if body:
            data += self.codec.stdin(id, body)
        self.socket.sendall(data + self.codec.stdin(id, b""))

    def receive(self) -> bool:
        """Take what comes next; False at the end of the connection."""
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
            self.reset = True
        if not data:
            self.eof = True
            return False
        for event in self.codec.receive_data(data):
            if isinstance(event, StdoutReceived):
                self.answers[event.request_id].stdout += event.data
            elif isinstance(event, StderrReceived):
                self.answers[event.request_id].stderr += event.data
            elif isinstance(event, RequestEnded):
                self.answers[event.request_id].ended = event
            elif isinstance(event, ValuesReceived):
                self.answers.setdefault(0, Answer()).values = event.values
            elif isinstance(event, UnknownTypeReceived):
                self.answers.setdefault(0, Answer()).stderr = bytes((event.type,))
        return True

    def answer(self, id: int = 1) -> Answer:
        """Return the complete answer of request *id*, or what there is at the connection's end."""
        while self.answers[id].ended is None and self.receive():
            pass
        return self.answers[id]


def fetch(address: Any, *, body: bytes = b"", **params: str) -> Answer:
    """Make one request on a connection of its own."""
    with Client(address) as client:
        client.send(body=body, **params)
        return client.answer()


__all__ = ["Answer", "Client", "connect", "fastcgi", "fetch"]
