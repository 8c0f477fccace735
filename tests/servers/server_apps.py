"""Applications for the tests of the servers; imported in the served processes too."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from pathlib import Path


def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    headers = [("Content-Type", "text/plain")]
    if path == "/hash":
        digest = hashlib.sha256()
        while block := environ["wsgi.input"].read(65536):
            digest.update(block)
        start_response("200 OK", headers)
        return [digest.hexdigest().encode()]
    if path == "/big":
        size = int(environ["QUERY_STRING"])
        start_response("200 OK", headers)
        return (b"x" * 65536 for _ in range(size // 65536))
    if path == "/wait":  # until a file appears
        marker = Path(environ["QUERY_STRING"])
        Path(f"{marker}.begun").touch()
        end = time.monotonic() + 20
        while not marker.exists() and time.monotonic() < end:
            time.sleep(0.01)
        start_response("200 OK", headers)
        return [b"waited"]
    if path == "/read":  # reports how reading the body ended
        marker = Path(environ["QUERY_STRING"])
        start_response("200 OK", headers)
        try:
            environ["wsgi.input"].read()
            marker.write_text("whole")
        except OSError as error:
            marker.write_text(type(error).__name__)
        return [b"read"]
    if path == "/cut":
        length = [("Content-Length", "100")] if environ["QUERY_STRING"] == "announced" else []
        start_response("200 OK", headers + length)

        def broken():
            yield b"first"
            raise ValueError("in the middle")

        return broken()
    if path == "/errors":
        environ["wsgi.errors"].write("for the web server's log\nand its unfinished line")
    if path == "/pid":
        start_response("200 OK", headers)
        return [str(os.getpid()).encode()]
    if path == "/kill":
        os.kill(os.getpid(), 9)
    if path == "/exit":
        raise SystemExit(3)
    start_response("200 OK", headers)
    return [path.encode("latin-1")]


async def asgi(scope, receive, send):
    if scope["type"] != "http":
        raise ValueError("http only")
    path, query = scope["path"], scope["query_string"].decode()
    start = {"type": "http.response.start", "status": 200, "headers": []}

    async def answer(body):
        await send(start)
        await send({"type": "http.response.body", "body": body})

    if path == "/hash":
        digest, more = hashlib.sha256(), True
        while more:
            event = await receive()
            digest.update(event["body"])
            more = event["more_body"]
        await answer(digest.hexdigest().encode())
    elif path == "/big":
        await send(start)
        for _ in range(int(query) // 65536):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        await send({"type": "http.response.body"})
    elif path == "/wait":
        Path(f"{query}.begun").touch()
        for _ in range(2000):
            if Path(query).exists():
                break
            await asyncio.sleep(0.01)
        await answer(b"waited")
    elif path == "/read":
        event = {"type": "http.request", "more_body": True}
        while event["type"] == "http.request" and event["more_body"]:
            event = await receive()
        Path(query).write_text("whole" if event["type"] == "http.request" else event["type"])
        await answer(b"read")
    elif path == "/gone":
        await receive()
        event = await receive()
        Path(query).write_text(event["type"])
        try:
            await answer(b"late")
        except OSError as error:
            Path(query).write_text(f"{event['type']} {type(error).__name__}")
            raise
    elif path == "/cut":
        if query == "announced":
            start["headers"] = [(b"content-length", b"100")]
        await send(start)
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        raise ValueError("in the middle")
    elif path == "/pid":
        await answer(str(os.getpid()).encode())
    else:
        await answer(path.encode())
