"""What the programs of these tests serve: ``make(version)``, for modules that tests rewrite."""

from __future__ import annotations

import asyncio
import hashlib
import os
import select
import time


def make(version: str):
    """Return a WSGI and an ASGI application that answer with *version*, or do what is asked."""
    plain = [("Content-Type", "text/plain")]

    def wsgi(environ, start_response):
        path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
        body = version
        if path == "/hash":
            digest = hashlib.sha256()
            while block := environ["wsgi.input"].read(65536):
                digest.update(block)
            body = digest.hexdigest()
        elif path == "/sleep":
            select.select([], [], [], float(query))  # a sleep that no faked clock ends early
        elif path == "/pid":
            time.sleep(float(query or 0))
            body = str(os.getpid())
        start_response("200 OK", plain)
        return [body.encode()]

    async def asgi(scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                event = await receive()
                await send({"type": f"{event['type']}.complete"})
                if event["type"] == "lifespan.shutdown":
                    return
        path, query = scope["path"], scope["query_string"].decode()
        body = version
        if path == "/hash":
            digest, more = hashlib.sha256(), True
            while more:
                event = await receive()
                digest.update(event["body"])
                more = event["more_body"]
            body = digest.hexdigest()
        elif path == "/sleep":
            await asyncio.sleep(float(query))
        elif path == "/pid":
            await asyncio.sleep(float(query or 0))
            body = str(os.getpid())
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body.encode()})

    return wsgi, asgi
