"""HTTP on the way out: the head, the length, chunks, and the pages that say what went wrong."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from ..protocols.http import LAST_CHUNK, http_date, response_head
from ..reasons import REASONS
from ..sapi import __version__
from .filters import EOS, FLUSH, PROTOCOL, Brigade, FileBucket, Filter, OutputFilter

if TYPE_CHECKING:
    from .records import Request

HTTP_1_0, HTTP_1_1 = 1000, 1001
"""Values of ``Request.proto_num``."""
BODILESS = frozenset((204, 304))
_CLOSING = frozenset((400, 408, 411, 413, 414, 431, 500, 501, 503))
"""After these the connection is of no further use, or may be none (RFC 9112 §9.3)."""


def status_line(r: Request) -> str:
    """Return the status with its reason."""
    return r.status_line or f"{r.status} {REASONS.get(r.status, 'Unknown')}"


def server_signature(tokens: str) -> str:
    """Return the Server field for a value of ServerTokens."""
    if tokens.startswith("prod"):
        return "sapi_adapters"
    version = __version__.split(".")
    parts = {"major": 1, "min": 3, "minor": 2}.get(tokens, 3)
    return f"sapi_adapters/{'.'.join(version[:parts])}"


def http_output(f: Filter, brigade: Brigade) -> None:
    """Send the head before the first bytes, then the body as its framing wants it.

    Here the length of a response that is complete at once becomes its Content-Length. One filter
    does what is three in Apache (CONTENT_LENGTH, HTTP_HEADER, CHUNK): most responses pass it once.
    """
    r = f.request
    if r.headers_sent:
        _send_body(f, r, brigade)
        return
    complete = bool(brigade) and brigade[-1] is EOS
    if not complete and not any(bucket is FLUSH for bucket in brigade):
        held = f.context = (f.context or []) + brigade
        if sum(len(bucket) for bucket in held if isinstance(bucket, (bytes, FileBucket))) < 65536:
            return  # the next brigade may be the last, and then its length is known
        brigade = held
    elif f.context:
        brigade = f.context + brigade
    f.context = None
    head = _head(r, brigade, complete)
    r.headers_sent = True
    if r.header_only or r.status in BODILESS:
        body: Brigade = [EOS] if complete else [FLUSH]
        f.pass_on([head, *body])
        return
    _count(r, brigade)
    if r.chunked:
        brigade = _chunks(brigade)
    f.pass_on([head, *brigade])


def _count(r: Request, brigade: Brigade) -> None:
    """Count the bytes of a body."""
    for bucket in brigade:
        if bucket.__class__ is bytes or bucket.__class__ is FileBucket:
            r.bytes_sent += len(bucket)


def _send_body(f: Filter, r: Request, brigade: Brigade) -> None:
    if r.header_only or r.status in BODILESS:
        brigade = [bucket for bucket in brigade if bucket in (EOS, FLUSH)]
    else:
        _count(r, brigade)
        if r.chunked:
            brigade = _chunks(brigade)
    f.pass_on(brigade)


def _chunks(brigade: Brigade) -> Brigade:
    """Return *brigade* in chunks (RFC 9112 §7.1)."""
    framed: Brigade = []
    for bucket in brigade:
        if bucket is EOS:
            framed += [LAST_CHUNK, EOS]
        elif bucket is FLUSH:
            framed.append(FLUSH)
        elif len(bucket):  # type: ignore[arg-type]
            framed += [b"%x\r\n" % len(bucket), bucket, b"\r\n"]  # type: ignore[arg-type]
    return framed


def _head(r: Request, brigade: Brigade, complete: bool) -> bytes:
    """Return the response's head, and decide how the body is framed and whether to go on."""
    connection = r.connection
    status = r.status
    if r.fields_out is not None and status not in BODILESS:
        return _head_of_application(r, brigade, complete)
    headers = r.headers_out
    if status in BODILESS:
        headers.unset("Content-Length")
        if status == 304:
            headers.unset("Content-Type")
    elif "Content-Length" not in headers:
        if complete:
            size = sum(len(b) for b in brigade if isinstance(b, (bytes, FileBucket)))
            if size or not r.header_only:
                headers.set("Content-Length", str(size))
        elif r.proto_num >= HTTP_1_1:
            r.chunked = True
            headers.set("Transfer-Encoding", "chunked")
        else:
            connection.keepalive = False
    if r.body.unread and (status in _CLOSING or not r.body.continued):
        connection.keepalive = False
    lines: list[tuple[str, str]] = []
    there = headers.keys()
    if "date" not in there:
        lines.append(("Date", http_date(r.request_time)))
    if "server" not in there:
        lines.append(("Server", r.server.signature))
    if r.content_type is not None and status != 304 and "content-type" not in there:
        lines.append(("Content-Type", r.content_type))
    if r.content_encoding is not None and "content-encoding" not in there:
        lines.append(("Content-Encoding", r.content_encoding))
    lines += headers.items()
    if "err_headers_out" in r.__dict__:
        lines += r.err_headers_out.items()
    if not connection.keepalive:
        lines.append(("Connection", "close"))
    elif r.proto_num < HTTP_1_1:
        lines.append(("Connection", "keep-alive"))
    return response_head(f"HTTP/1.1 {status_line(r)}", lines)


def _head_of_application(r: Request, brigade: Brigade, complete: bool) -> bytes:
    """The same for fields that nobody has looked at since the gateway checked them."""
    fields, flags = r.fields_out
    connection = r.connection
    text = f"HTTP/1.1 {r.status_line}\r\n"
    if not flags & DATE:
        text += f"Date: {http_date(r.request_time)}\r\n"
    if not flags & SERVER:
        text += f"Server: {r.server.signature}\r\n"
    for name, value in fields:
        text += f"{name}: {value}\r\n"
    if not flags & LENGTH:
        if complete:
            size = 0
            for bucket in brigade:
                if bucket.__class__ is bytes:
                    size += len(bucket)
            if size or not r.header_only:
                text += f"Content-Length: {size}\r\n"
        elif r.proto_num >= HTTP_1_1:
            r.chunked = True
            text += "Transfer-Encoding: chunked\r\n"
        else:
            connection.keepalive = False
    if r.body.unread and (r.status in _CLOSING or not r.body.continued):
        connection.keepalive = False
    if "err_headers_out" in r.__dict__:
        for name, value in r.err_headers_out.items():
            text += f"{name}: {value}\r\n"
    if not connection.keepalive:
        text += "Connection: close\r\n"
    elif r.proto_num < HTTP_1_1:
        text += "Connection: keep-alive\r\n"
    return (text + "\r\n").encode("latin-1")


def send_whole(r: Request, body: list[bytes]) -> None:
    """Send an application's whole response past the filters: there are none but HTTP's own.

    What :func:`http_output` and the network's filter do, in one step: most responses are this.
    """
    head = _head_of_application(r, body, True)  # type: ignore[arg-type]
    r.headers_sent = r.eos_sent = True
    data = head
    if body and not r.header_only and r.status not in BODILESS:
        content = body[0] if len(body) == 1 else b"".join(body)
        r.bytes_sent += len(content)
        data = head + content
    r.bytes_out += len(data)
    r.connection.transport.send_bytes(data)


LENGTH, DATE, SERVER = 1, 2, 4
"""What of an application's fields is special here."""


def error_page(r: Request, status: int) -> None:
    """Answer with *status* and a short page (ap_send_error_response)."""
    r.status = status
    r.headers_out.clear()
    r.content_encoding = None
    if status == 400:
        r.connection.keepalive = False  # what follows cannot be trusted either
    if status == 401 and not r.err_headers_out.all("WWW-Authenticate"):
        r.log(f"{status} without a challenge: no authentication is configured")
    if status in (405, 501) and r.allowed:
        r.headers_out.set("Allow", ", ".join(sorted(r.allowed)))
    if status in BODILESS:
        r.output_filters.pass_brigade([EOS])
        return
    title = status_line(r)
    target = r.notes.get("location")
    said = r.notes.get("error-notes") or _SAYS.get(status, "")
    if target:
        said = f'The document has moved <a href="{html.escape(target)}">here</a>.'
    page = (
        f"<!DOCTYPE html>\n<html><head><title>{html.escape(title)}</title></head>\n"
        f"<body><h1>{html.escape(title[4:])}</h1>\n<p>{said}</p>\n</body></html>\n"
    )
    r.content_type = "text/html; charset=utf-8"
    r.output_filters.pass_brigade([page.encode("utf-8"), EOS])


_SAYS = {
    400: "The request cannot be understood.",
    401: "This needs a user's name and password that are right.",
    403: "You don't have permission to access this resource.",
    404: "The requested URL was not found on this server.",
    405: "The resource does not take this method.",
    408: "The request took too long to come.",
    413: "The request is larger than the resource takes.",
    416: "None of the requested ranges is in the resource.",
    500: "The server met an error of its own; its log says more.",
    503: "The server cannot answer at the moment.",
}

HTTP_OUT = OutputFilter("HTTP", http_output, PROTOCOL)
FILTERS = (HTTP_OUT,)
