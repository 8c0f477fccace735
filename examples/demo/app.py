"""The demonstration: one plain WSGI application that shows where it runs and what reached it.

Nothing but the standard library, and nothing from outside the page: it looks the same behind any
web server, and offline. The pages are in pages.py.
"""

import hashlib
import os
import time
from email.parser import BytesParser

import pages

from sapi_adapters import loaded_extensions, sapi_name

MAX_UPLOAD = 8 << 20
_BLOCK = 65536


def application(environ, start_response):
    path = environ["PATH_INFO"] or "/"
    page = PAGES.get(path)
    if page is None:
        html = pages.message(environ, "Not found", f"There is no page {path!r} here.")
        return respond(start_response, html, "404 Not Found")
    return page(environ, start_response)


def respond(start_response, html, status="200 OK", *more):
    body = html.encode()
    start_response(status, [*HEADERS, ("Content-Length", str(len(body))), *more])
    return [body]


HEADERS = [
    ("Content-Type", "text/html; charset=utf-8"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'",
    ),
]


def overview(environ, start_response):
    """What runs here: the SAPI, its flags, the life cycle as far as it has come, the variables."""
    html = pages.overview(environ, sapi_name(), loaded_extensions())
    return respond(start_response, html)


def stream(environ, start_response):
    """A page whose rows leave one by one; a browser shows each as it comes."""
    # nginx holds a response back for efficiency; this header asks it not to.
    start_response("200 OK", [*HEADERS, ("X-Accel-Buffering", "no")])
    began = time.monotonic()
    yield pages.stream_head(environ).encode()
    for number in range(1, 13):
        time.sleep(0.25)
        yield pages.stream_row(number, time.monotonic() - began, os.getpid()).encode()
    yield pages.stream_tail().encode()


def upload(environ, start_response):
    """A form, and what arrived of it: read in blocks, never beyond a limit."""
    if environ["REQUEST_METHOD"] != "POST":
        return respond(start_response, pages.upload(environ, MAX_UPLOAD))
    length = environ.get("CONTENT_LENGTH", "")
    if not length.isdigit():
        html = pages.message(environ, "Length required", "The request says no length.")
        return respond(start_response, html, "411 Length Required")
    if int(length) > MAX_UPLOAD:
        html = pages.message(environ, "Too large", f"This form takes {MAX_UPLOAD >> 20} MiB.")
        return respond(start_response, html, "413 Content Too Large")
    began = time.monotonic()
    blocks = []
    while block := environ["wsgi.input"].read(_BLOCK):
        blocks.append(block)
    seconds = time.monotonic() - began
    files = list(parts(environ.get("CONTENT_TYPE", ""), b"".join(blocks)))
    html = pages.upload(environ, MAX_UPLOAD, files, int(length), len(blocks), seconds)
    return respond(start_response, html)


def parts(content_type, body):
    """Yield (file name, media type, size, digest) of each file in a multipart form."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1", "replace")
    for part in BytesParser().parsebytes(head + body).walk():
        name = part.get_filename()
        if name:
            data = part.get_payload(decode=True) or b""
            digest = hashlib.sha256(data).hexdigest()
            yield name, part.get_content_type(), len(data), digest


def error(environ, start_response):
    """Raise, on purpose: the client gets a plain 500, the traceback is in the error log."""
    raise RuntimeError("the demonstration's error page was asked for")


PAGES = {"/": overview, "/stream": stream, "/upload": upload, "/error": error}
