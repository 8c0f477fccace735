"""An ASGI application with a life span, behind FastCGI: the event server, without being asked.

Beside this file::

    serve app:application --sapi fcgi-prefork --socket /tmp/app.sock --workers 2

Each worker process runs start-up before its first request and shutdown after its last one. What
start-up puts into ``scope["state"]``, every request of that worker finds there.
"""

import asyncio
import time


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        await life_span(scope, receive, send)
    elif scope["type"] == "http":
        await page(scope, receive, send)


async def life_span(scope, receive, send):
    await receive()  # lifespan.startup
    scope["state"]["started"] = time.monotonic()
    await send({"type": "lifespan.startup.complete"})
    await receive()  # lifespan.shutdown
    await send({"type": "lifespan.shutdown.complete"})


async def page(scope, receive, send):
    await asyncio.sleep(0.05)  # others are served meanwhile, by the same process
    age = time.monotonic() - scope["state"]["started"]
    sapi = scope["extensions"]["sapi"]["name"]
    body = f"{sapi}: {scope['path']}, {age:.2f} s after start-up\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
