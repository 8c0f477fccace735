"""A paced load on one FastCGI address, from a process of its own; what it saw, as numbers.

Each request has its own connection. Beside the paced ones there are slow uploads, whose bodies
trickle, and long requests; as soon as one has ended the next one begins. A request is good when
its response is complete, has the status 200 and, for an upload, the right digest.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from sapi_adapters.protocols.fastcgi import ClientConnection, RequestEnded, StdoutReceived

_DEADLINE = 60.0
"""Seconds after which a request without an answer is a failure."""
PARAMS = {
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "",
    "QUERY_STRING": "",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REMOTE_ADDR": "127.0.0.1",
}


@dataclass
class Seen:
    """What became of the requests. Times are monotonic, the same in every process."""

    paced: int = 0
    uploads: int = 0
    longs: int = 0
    failures: list[str] = field(default_factory=list)
    answers: list[tuple[float, float, str]] = field(default_factory=list)
    """Of the paced ones: when it was sent, seconds to the first byte, the body."""

    @property
    def good(self) -> int:
        """How many were answered."""
        return self.paced + self.uploads + self.longs

    def longest(self) -> float:
        """Return the longest time to a first byte, in seconds."""
        return max((delay for _, delay, _ in self.answers), default=0.0)

    def delay(self, part: float) -> float:
        """Return the time to the first byte that *part* of the requests kept."""
        delays = sorted(delay for _, delay, _ in self.answers)
        return delays[min(len(delays) - 1, int(part * len(delays)))]


class Load:
    """Such a process. Leaving the block ends it, after the requests that are under way."""

    def __init__(self, address: Any, **options: Any) -> None:
        """*options* are :func:`_load`'s."""
        self._command = [sys.executable, __file__, json.dumps({"address": address, **options})]
        self.seen = Seen()
        """Empty until the end."""

    def __enter__(self) -> Load:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"begun\n"
        return self

    def __exit__(self, *error: object) -> None:
        try:
            printed, _ = self._process.communicate(timeout=_DEADLINE + 20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise
        found = json.loads(printed)
        found["answers"] = [tuple(answer) for answer in found["answers"]]
        self.seen = Seen(**found)


class _Failed(Exception):
    pass


async def _load(
    address: Any,
    rate: float = 200.0,
    uploads: int = 0,
    longs: int = 0,
    path: str = "/",
    query: str = "",
    seconds: float = 2.0,
    trickle: tuple[float, float] = (3.0, 5.0),
) -> Seen:
    """*rate* requests for *path* a second; *longs* and *uploads* are how many at a time.

    Long ones take *seconds*, uploads between the two of *trickle*.
    """
    if isinstance(address, list):
        address = tuple(address)
    seen, stopped = Seen(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), stopped.set)

    async def guarded(kind: str, request: Any) -> None:
        try:
            sent, delay, body = await asyncio.wait_for(request, _DEADLINE)
        except (_Failed, OSError, asyncio.TimeoutError) as error:
            seen.failures.append(f"{time.monotonic():.3f} {kind}: {error!r}")
            return
        setattr(seen, kind, getattr(seen, kind) + 1)
        if kind == "paced":
            seen.answers.append((sent, delay, body))

    async def forever(kind: str) -> None:
        while not stopped.is_set():
            before = len(seen.failures)
            if kind == "uploads":
                await guarded(kind, _upload(address, trickle))
            else:
                await guarded(kind, _ask(address, "/sleep", str(seconds)))
            if len(seen.failures) > before:
                await asyncio.sleep(0.1)

    tasks = {asyncio.ensure_future(forever("uploads")) for _ in range(uploads)}
    tasks |= {asyncio.ensure_future(forever("longs")) for _ in range(longs)}
    print("begun", flush=True)
    begun, number = time.monotonic(), 0
    while not stopped.is_set():
        while number < (time.monotonic() - begun) * rate:
            task = asyncio.ensure_future(guarded("paced", _ask(address, path, query)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
        await asyncio.sleep(1 / (2 * rate) if rate else 0.1)
    loop.remove_reader(sys.stdin.fileno())
    await asyncio.gather(*tasks)
    return seen


def _request(path: str, query: str = "", **params: str) -> tuple[ClientConnection, bytes]:
    codec = ClientConnection()
    pairs = {**PARAMS, "PATH_INFO": path, "REQUEST_URI": path, "QUERY_STRING": query, **params}
    return codec, codec.begin(1, [(k.encode(), v.encode()) for k, v in pairs.items()])


def _connect(address: Any) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    connection.setblocking(False)
    try:
        connection.connect(address)
    except BlockingIOError:
        if isinstance(address, str):  # the queue is full; over TCP the rest is on its way
            connection.close()
            raise
    except OSError:
        connection.close()
        raise
    return connection


async def _ask(address: Any, path: str, query: str = "") -> tuple[float, float, str]:
    codec, request = _request(path, query)
    sent = time.monotonic()
    with _connect(address) as connection:
        await asyncio.get_running_loop().sock_sendall(connection, request + codec.stdin(1, b""))
        first, body = await _answer(codec, connection)
        return sent, first - sent, body


async def _upload(address: Any, trickle: tuple[float, float]) -> tuple[float, float, str]:
    loop = asyncio.get_running_loop()
    pieces = [random.randbytes(2000) for _ in range(20)]
    pause = random.uniform(*trickle) / len(pieces)
    length = str(sum(map(len, pieces)))
    codec, request = _request("/hash", REQUEST_METHOD="POST", CONTENT_LENGTH=length)
    sent = time.monotonic()
    with _connect(address) as connection:
        await loop.sock_sendall(connection, request)
        for piece in pieces:
            await asyncio.sleep(pause)
            await loop.sock_sendall(connection, codec.stdin(1, piece))
        await loop.sock_sendall(connection, codec.stdin(1, b""))
        first, body = await _answer(codec, connection)
        if body != hashlib.sha256(b"".join(pieces)).hexdigest():
            raise _Failed(f"the digest is wrong: {body}")
        return sent, first - sent, body


async def _answer(codec: ClientConnection, connection: socket.socket) -> tuple[float, str]:
    loop, first, output, ended = asyncio.get_running_loop(), 0.0, b"", None
    while data := await loop.sock_recv(connection, 65536):
        first = first or time.monotonic()
        for event in codec.receive_data(data):
            if isinstance(event, StdoutReceived):
                output += event.data
            elif isinstance(event, RequestEnded):
                ended = event
    if ended is None:
        raise _Failed(f"the connection ended after {output!r}")
    head, _, body = output.partition(b"\r\n\r\n")
    if b"Status: 200 " not in head:
        raise _Failed(f"{head!r}")
    return first, body.decode()


if __name__ == "__main__":
    print(json.dumps(vars(asyncio.run(_load(**json.loads(sys.argv[1]))))))
