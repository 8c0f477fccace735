"""Sends the file that the query names, from the offset that stands before the colon."""

import os
from urllib.parse import unquote

TYPE = "application/x-tested"


def asked(query):
    offset, _, path = unquote(query).partition(":")
    return int(offset), path


def wsgi_app(environ, start_response):
    offset, path = asked(environ["QUERY_STRING"])
    file = open(path, "rb")  # noqa: SIM115 - the server closes it
    file.seek(offset)
    start_response("200 OK", [("Content-Type", TYPE)])
    return environ["wsgi.file_wrapper"](file, 4096)


async def asgi_app(scope, receive, send):
    if scope["type"] != "http":
        raise ValueError("no lifespan here")
    offset, path = asked(scope["query_string"].decode())
    if offset:
        raise ValueError("http.response.pathsend sends whole files")
    headers = [
        (b"content-type", TYPE.encode()),
        (b"content-length", str(os.path.getsize(path)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.pathsend", "path": path})
