"""The HTTP client of the interop tests: one connection per request, a deadline on every wait."""

from __future__ import annotations

import http.client
import socket

from sapi_adapters.testing import Request, Response, Send

TIMEOUT = 20.0


def sender(port: int) -> Send:
    """A function that sends a request to 127.0.0.1:`port` and returns the response."""

    def send(request: Request) -> Response:
        return fetch(port, request)

    return send


def fetch(port: int, request: Request) -> Response:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    # http.client refuses targets with characters that the table has encoded already; nothing more.
    try:
        names = {name.lower() for name, _ in request.headers}
        connection.putrequest(
            request.method, request.target, skip_host="host" in names, skip_accept_encoding=True
        )
        for name, value in request.headers:
            connection.putheader(name, value.encode("latin-1"))
        if request.body is not None:
            connection.putheader("Content-Length", str(len(request.body)))
        connection.putheader("Connection", "close")
        connection.endheaders()
        if request.body:
            try:
                connection.send(request.body)
            except (BrokenPipeError, ConnectionResetError):
                pass  # The answer may come before the body was read; getresponse() tells.
        response = connection.getresponse()
        body = response.read()
        return Response(response.status, response.reason, response.getheaders(), body)
    finally:
        connection.close()


class StreamedResponse:
    """A GET over a bare socket, for tests that must see what has come so far."""

    def __init__(self, port: int, target: str) -> None:
        self.data = b""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        self.socket.sendall(request.encode("ascii"))

    def read_until(self, text: bytes) -> bool:
        """Read until `text` has come; False when the response ends or the deadline passes first."""
        while text not in self.data:
            try:
                block = self.socket.recv(65536)
            except TimeoutError:
                return False
            if not block:
                return False
            self.data += block
        return True

    def close(self) -> None:
        self.socket.close()
