"""A response whose second chunk is made only when somebody has seen the first one.

The query is the path of a file; the client creates it after the first chunk has reached it.
"""

import os
import sys
import time

DEADLINE = 15.0
HEADERS = [("Content-Type", "text/event-stream"), ("X-Accel-Buffering", "no")]


def gate(query):
    if not os.path.basename(query).startswith("gate-"):
        raise ValueError(f"not a gate: {query!r}")
    return query


def wsgi_app(environ, start_response):
    path = gate(environ["QUERY_STRING"])
    start_response("200 OK", HEADERS)
    yield b"first\n"
    end = time.monotonic() + DEADLINE
    while not os.path.exists(path):
        if time.monotonic() > end:
            yield b"the first chunk was not seen in time\n"
            return
        time.sleep(0.02)
    yield b"second\n"


async def asgi_app(scope, receive, send):
    if scope["type"] != "http":
        raise ValueError("no lifespan here")
    path = gate(scope["query_string"].decode())
    headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"first\n", "more_body": True})
    end = time.monotonic() + DEADLINE
    while not os.path.exists(path):
        if time.monotonic() > end:
            await send({"type": "http.response.body", "body": b"not seen in time\n"})
            return
        await sleep(0.02)
    await send({"type": "http.response.body", "body": b"second\n"})


async def sleep(seconds):
    # A program that serves one request may drive the coroutine without an event loop.
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        await asyncio.sleep(seconds)
    else:
        time.sleep(seconds)
