"""The SAPI ``cli``: one request from the command line, the response on standard output."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import unquote_to_bytes, urlsplit

from ..protocols.cgi import mend
from ..sapi import (
    TOKEN,
    ConfigurationError,
    Exchange,
    RequestError,
    Sapi,
    check_header_value,
    header_kind,
)
from ..sapi import ApplicationError as _BadHeader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..sapi import Headers, Load


def request_environ(
    method: str, target: str, headers: Sequence[tuple[str, str]], length: int | None
) -> dict[str, Any]:
    """Return the CGI meta-variables of a request that no server received.

    *target* is a path with its query, or an absolute URL; *length* the body's, None for none.
    Raises :class:`ConfigurationError` for what no client could send.
    """
    if not TOKEN.issuperset(method) or not method:
        raise ConfigurationError(f"{method!r} is no request method")
    host, port, secure, rest = _split_target(target)
    raw, question, query = rest.partition("?")
    environ = {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(raw).decode("latin-1"),
        "QUERY_STRING": _latin(query),
        "REQUEST_URI": _latin(raw + question + query),
        "SERVER_NAME": host,
        "SERVER_PORT": str(port or (443 if secure else 80)),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "sapi_adapters",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": f"{host}:{port}" if port else host,
    }
    if secure:
        environ["HTTPS"] = "on"
    seen: set[str] = set()
    for name, value in headers:
        try:
            header_kind(name)
            check_header_value(name, value)
        except _BadHeader as error:
            raise ConfigurationError(f"request header: {error}") from error
        variable = name.upper().replace("-", "_")
        if variable not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            variable = f"HTTP_{variable}"
        if variable == "CONTENT_LENGTH" and not (value.isascii() and value.isdigit()):
            raise ConfigurationError(f"Content-Length {value!r} is not a number")
        if variable in seen:  # RFC 3875 §4.1.18
            joint = "; " if variable == "HTTP_COOKIE" else ", "
            value = environ[variable] + joint + value
        seen.add(variable)
        environ[variable] = value
    if length is not None:
        environ["CONTENT_LENGTH"] = str(length)
    return environ


def _split_target(target: str) -> tuple[str, int | None, bool, str]:
    """Return host, port, whether it is https, and path with query, of a path or absolute URL."""
    if not target.isprintable():
        raise ConfigurationError(f"{target!r} holds a control character: percent-encode it")
    target = target.partition("#")[0]
    if target.startswith("/"):
        return "localhost", None, False, target
    try:
        parts = urlsplit(target)
        port = parts.port
    except ValueError as error:
        raise ConfigurationError(f"{target!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"{target!r} is no path: it must begin with a slash")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    query = f"?{parts.query}" if parts.query else ""
    return host, port, parts.scheme == "https", (parts.path or "/") + query


def _latin(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


class CliExchange(Exchange):
    """The one exchange of the command line."""

    def __init__(
        self, sapi: Sapi, environ: dict[str, Any], body: BinaryIO, output: BinaryIO, include: bool
    ) -> None:
        self.sapi = sapi
        self.environ = environ
        self.status = ""
        self.complete = False
        self._body = body
        self._output = output
        self._include = include

    def read_post(self, size: int) -> bytes:
        data = self._body.read(size)
        self.post_ended = not data
        return data

    def send_headers(self, status: str, headers: Headers) -> None:
        self.status = status
        if self._include:
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
            self._put(f"HTTP/1.1 {status}\r\n{lines}\r\n".encode("latin-1"))

    def ub_write(self, data: bytes) -> None:
        self._put(data)

    def flush(self) -> None:
        try:
            if not self.aborted:
                self._output.flush()
        except OSError:
            self.aborted = True

    def finish(self) -> None:
        self.flush()
        self.complete = not self.aborted

    def cut(self) -> None:
        self.flush()

    def log_message(self, message: str) -> None:
        sys.stderr.write(message)

    def wait_disconnect(self) -> None:
        self.aborted = True  # nobody else can act: waiting would be for ever

    def _put(self, data: bytes) -> None:
        try:
            if not self.aborted:
                self._output.write(data)
        except OSError:  # the reader of a pipe has gone
            self.aborted = True


class Cli(Sapi):
    """One request from the command line.

    *request* is (METHOD, TARGET), or only a target, or nothing: GET /. *headers* are
    ``"Name: value"``; *data* is the body, ``"@file"`` the file's content, ``"@-"`` standard
    input's. *include* shows the head. The exit status is 0 below 400, else 1.
    """

    name = "cli"
    pretty_name = "command line"
    run_once = True

    def __init__(
        self,
        *,
        request: Sequence[str] = (),
        headers: Sequence[str] = (),
        data: str | None = None,
        include: bool = False,
        stdout: BinaryIO | None = None,
    ) -> None:
        if len(request) > 2:
            raise ConfigurationError(f"{' '.join(request)!r} is more than METHOD TARGET")
        method = "GET" if data is None else "POST"
        if len(request) == 2:
            method = request[0]
        pairs = []
        for header in headers:
            name, colon, value = header.partition(":")
            if not colon:
                raise ConfigurationError(f"header {header!r} is no 'Name: value'")
            pairs.append((_latin(name), _latin(value.strip())))
        self._body = _body(data)
        length = None if data is None else _size(self._body)
        if data is not None and not any(n.lower() == "content-type" for n, _ in pairs):
            pairs.append(("Content-Type", "application/x-www-form-urlencoded"))
        self._environ = request_environ(method, request[-1] if request else "/", pairs, length)
        self._include = include
        self._stdout = stdout

    def run(self, load: Load) -> int:
        output = self._stdout
        if output is None:
            # The response is all that standard output gets; what the application prints does not.
            output = os.fdopen(os.dup(1), "wb")
            os.dup2(2, 1)
        try:
            mend(self._environ)
        except RequestError as error:
            raise ConfigurationError(f"the request: {error}") from error
        exchange = CliExchange(self, self._environ, self._body, output, self._include)
        self.module_startup()
        try:
            self.child_startup()
            gateway = load()
            gateway.run_once(self.bind(gateway), exchange)
        finally:
            self._body.close()
            if self._stdout is None:
                _close(output)
            self.module_shutdown()
        good = exchange.complete and exchange.status[:1] in "123"
        return 0 if good else 1


def _body(data: str | None) -> BinaryIO:
    import io

    if data is None:
        return io.BytesIO()
    if not data.startswith("@"):
        return io.BytesIO(data.encode("utf-8", "surrogateescape"))
    if data == "@-":
        return io.BytesIO(sys.stdin.buffer.read())
    try:
        file = open(data[1:], "rb")  # noqa: SIM115 - closed by run()
    except OSError as error:
        raise ConfigurationError(f"cannot read {data[1:]}: {error.strerror}") from error
    if file.seekable():
        return file
    with file:  # a pipe, whose length is known when all of it has come
        return io.BytesIO(file.read())


def _close(output: BinaryIO) -> None:
    try:
        output.close()
    except OSError:  # the reader has gone: the exit status says so
        pass


def _size(body: BinaryIO) -> int:
    size = body.seek(0, 2)
    body.seek(0)
    return size
