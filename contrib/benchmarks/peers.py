"""The peers that are Python libraries without a command of their own, each started on a socket.

    python -m contrib.benchmarks.peers NAME SOCKET

One process per peer, listening on the Unix socket SOCKET. `SERVERS` is the table of names.
"""

from __future__ import annotations

import importlib
import socket
import sys
from collections.abc import Callable


def bare(path: str) -> None:
    """Accept, receive, send a constant, close: what no server in Python can beat."""
    content = (
        b"Status: 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, World!"
    )
    padding = -len(content) % 8
    response = (
        b"\x01\x06\x00\x01" + len(content).to_bytes(2, "big") + bytes([padding, 0])
        + content + bytes(padding)
        + b"\x01\x03\x00\x01\x00\x08\x00\x00" + bytes(8)
    )  # fmt: skip
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1024)
    accept = listener.accept
    while True:
        connection, _ = accept()
        connection.recv(65536)
        connection.sendall(response)
        connection.close()


def flup_threaded(path: str) -> None:
    """Serve with flup's thread pool, as large as it likes to be."""
    from contrib.benchmarks.apps.hello import wsgi

    importlib.import_module("flup.server.fcgi").WSGIServer(wsgi, bindAddress=path).run()


def flup_fork(path: str) -> None:
    """Serve with flup's pre-forking server, with one child."""
    from contrib.benchmarks.apps.hello import wsgi

    server = importlib.import_module("flup.server.fcgi_fork").WSGIServer
    server(wsgi, bindAddress=path, minSpare=1, maxSpare=1, maxChildren=1).run()


def shim_threaded(path: str) -> None:
    """Serve as flup_threaded does, with the project's own flup."""
    from contrib.benchmarks.apps.hello import wsgi
    from sapi_adapters.flup.server.fcgi import WSGIServer

    WSGIServer(wsgi, bindAddress=path).run()


def shim_fork(path: str) -> None:
    """Serve as flup_fork does, with the project's own flup."""
    from contrib.benchmarks.apps.hello import wsgi
    from sapi_adapters.flup.server.fcgi_fork import WSGIServer

    WSGIServer(wsgi, bindAddress=path, minSpare=1, maxSpare=1, maxChildren=1).run()


def fcgisgi_wsgi(path: str) -> None:
    """Serve with fcgisgi's WSGI side: asyncio and a pool of threads."""
    import asyncio

    from contrib.benchmarks.apps.hello import wsgi

    asyncio.run(importlib.import_module("fcgisgi").run_wsgi_server(wsgi, bind_address=path))


def fcgisgi_asgi(path: str) -> None:
    """Serve with fcgisgi's ASGI side on asyncio, which is what its documentation shows."""
    import asyncio

    from contrib.benchmarks.apps.hello import asgi

    asyncio.run(importlib.import_module("fcgisgi").run_asgi_server(asgi, bind_address=path))


def fcgisgi_asgi_uvloop(path: str) -> None:
    """Serve with fcgisgi's ASGI side on uvloop, which it does not choose by itself."""
    from contrib.benchmarks.apps.hello import asgi

    importlib.import_module("uvloop").run(
        importlib.import_module("fcgisgi").run_asgi_server(asgi, bind_address=path)
    )


SERVERS: dict[str, Callable[[str], None]] = {
    "bare": bare,
    "flup-threaded": flup_threaded,
    "flup-fork": flup_fork,
    "shim-threaded": shim_threaded,
    "shim-fork": shim_fork,
    "fcgisgi-wsgi": fcgisgi_wsgi,
    "fcgisgi-asgi": fcgisgi_asgi,
    "fcgisgi-asgi-uvloop": fcgisgi_asgi_uvloop,
}

if __name__ == "__main__":
    SERVERS[sys.argv[1]](sys.argv[2])
