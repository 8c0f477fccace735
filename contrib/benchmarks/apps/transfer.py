"""The applications for the memory benchmark: they take and give large bodies in small pieces.

The path /up reads the request's body and answers its length; /down/N sends N bytes. Both hold one
piece of 64 KiB at a time, so what the process grows by is the server's doing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

PIECE = 64 * 1024


def _pieces(size: int) -> Iterator[bytes]:
    block = bytes(PIECE)
    for _ in range(size // PIECE):
        yield block
    if size % PIECE:
        yield block[: size % PIECE]


def wsgi(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Take or give a body under WSGI."""
    path = environ["PATH_INFO"]
    if path.startswith("/down/"):
        size = int(path[6:])
        start_response(
            "200 OK",
            [("Content-Type", "application/octet-stream"), ("Content-Length", str(size))],
        )
        return _pieces(size)
    taken = 0
    read = environ["wsgi.input"].read
    while piece := read(PIECE):
        taken += len(piece)
    answer = str(taken).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return [answer]


async def asgi(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Take or give a body under ASGI."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"].startswith("/down/"):
        size = int(scope["path"][6:])
        await send(_start(b"application/octet-stream", size))
        for piece in _pieces(size):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return
    taken = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        taken += len(message.get("body", b""))
        if not message.get("more_body", False):
            break
    answer = str(taken).encode()
    await send(_start(b"text/plain", len(answer)))
    await send({"type": "http.response.body", "body": answer})


def _start(content_type: bytes, size: int) -> dict[str, Any]:
    return {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-type", content_type), (b"content-length", b"%d" % size)],
    }
