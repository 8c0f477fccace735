"""Two pools under one master, by a configuration file in php-fpm's syntax.

Test the file, start it, look at a pool, reload it, stop it; beside this file, each in its turn::

    serve --config pools.conf --test
    serve --config pools.conf
    sapi status shop.sock
    serve --config pools.conf --signal reload
    serve --config pools.conf --signal quit

As root add ``--allow-root`` to the first two, or give each pool a ``user``.
"""

import asyncio
import os
import time

from sapi_adapters import sapi_name


def shop(environ, start_response):
    """Serve the pool ``shop``; ``/slow?SECONDS`` is for the slow log."""
    if environ["PATH_INFO"] == "/slow":
        wait_for_the_database(float(environ["QUERY_STRING"]))
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{os.environ['SHOP']} by worker {os.getpid()}\n".encode()]


def wait_for_the_database(seconds):
    time.sleep(seconds)


async def events(scope, receive, send):
    """Serve the pool ``events``: an ASGI application, which waits for many clients at a time."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    await asyncio.sleep(0.01)
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/plain; charset=utf-8")],
        }
    )
    await send({"type": "http.response.body", "body": f"{sapi_name()}: no news\n".encode()})
