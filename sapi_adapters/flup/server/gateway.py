"""How flup's servers call an application: as the WSGI gateway does, with flup's tolerance.

What flup took and PEP 3333 does not have is translated: blocks of text, a head in bytes. What
could split a response or desynchronise a connection is refused here as everywhere.
"""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from contextlib import contextmanager
from html import escape
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ...gateways.wsgi import Errors, FileWrapper, Input, Response
from ...sapi import (
    TOKEN,
    WARNING,
    ApplicationError,
    ClientDisconnected,
    check_header_value,
    check_status,
    forbids_body,
    header_kind,
    is_https,
    request_line,
    unquote,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

    from ...gateways.wsgi import ExcInfo
    from ...sapi import Exchange, Headers, Sapi

_HEAD = 65536
"""Bytes that a head may have which is written as a stream."""


class TimeoutException(Exception):
    """Raised in a request that takes longer than the server's *timeout*."""


class Gateway:
    """Calls the application of *owner*, a ``Base..Server``, for exchanges.

    *lock* is held around the application, where it may not run twice at a time. *timeout* is how
    many seconds a request may take, by SIGALRM: for a server whose main thread serves.
    """

    asynchronous = False

    def __init__(
        self,
        owner: Any,
        sapi: Sapi,
        *,
        lock: Any = None,
        timeout: float | None = None,
        once: bool = False,
    ) -> None:
        self.owner = owner
        self.sapi = sapi
        self._lock = lock
        self._timeout = timeout
        self._views = owner._wants_views()
        self.constants: dict[str, Any] = {
            "wsgi.version": (1, 0),
            "wsgi.multithread": not once and bool(owner.multithreaded),
            "wsgi.multiprocess": once or bool(owner.multiprocess),
            "wsgi.run_once": once,
            "wsgi.file_wrapper": FileWrapper,
            "wsgi.input_terminated": True,
            "sapi.name": sapi.name,
        }

    def __call__(self, exchange: Exchange) -> None:
        """Run the application for *exchange*, to the end of the response."""
        self.owner._begun(exchange)
        if self._views:
            self.view(exchange).run()
            return
        response = TolerantResponse(exchange)
        errors = self.owner._errors_of(exchange)
        try:
            self.respond(exchange.environ, Body(exchange), errors, response)
            errors.flush()
            exchange.finish()
        except ClientDisconnected:
            errors.flush()
            exchange.cut()  # nobody is there to be told; close() has been called
        except (Exception, SystemExit):
            errors.flush()
            self.owner._report(exchange)
            if response.sent:
                exchange.cut()
            else:
                self.apologise(self.view(exchange))
        except BaseException:
            exchange.cut()
            raise

    def run_once(self, cycle: Callable[[Any], Any], exchange: Exchange) -> bool:
        """Run *cycle* for the one exchange of a process."""
        cycle(exchange)
        return True

    def view(self, exchange: Exchange) -> Any:
        """Return *exchange* as the request object that flup's hooks are given."""
        return self.owner._view(exchange, self)

    def apologise(self, request: Any) -> None:
        """Let the server's ``error()`` answer, and end the request."""
        exchange = request.exchange
        try:
            self.owner.error(request)
            request._flush()
        except ClientDisconnected:
            exchange.cut()
        except Exception:
            self.sapi.log_exception(f"error(): {request_line(exchange.environ)}")
            exchange.cut()
        exchange.finish()

    def respond(
        self, environ: dict[str, Any], body: Any, errors: Any, response: TolerantResponse
    ) -> None:
        """Call the application and give what it answers to the exchange, which is not ended.

        Raises what the application raised.
        """
        owner = self.owner
        if owner.environ:
            environ.update(owner.environ)
        environ.update(self.constants)
        environ["wsgi.url_scheme"] = "https" if is_https(environ) else "http"
        environ["wsgi.input"] = body
        environ["wsgi.errors"] = errors
        owner._sanitizeEnv(environ)
        if self._timeout and not self._views:
            with self.limit(response.exchange):
                self._call(environ, response)
        elif self._lock is not None:
            with self._lock:
                self._call(environ, response)
        else:
            self._call(environ, response)

    @contextmanager
    def limit(self, exchange: Exchange) -> Iterator[None]:
        """Raise in what runs inside, by the request's own handler, when it takes too long."""
        # Off the main thread nobody could interrupt it.
        if not self._timeout or threading.current_thread() is not threading.main_thread():
            yield
            return

        def expired(number: int, frame: FrameType | None) -> None:
            self.owner._timed_out(exchange, self, number, frame)

        before = signal.signal(signal.SIGALRM, expired)
        signal.setitimer(signal.ITIMER_REAL, self._timeout)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def _call(self, environ: dict[str, Any], response: TolerantResponse) -> None:
        result = self.owner.application(environ, response.start_response)
        try:
            if type(result) is list and len(result) == 1 and not response.sent:
                block = result[0]
                if type(block) is bytes and block and response.status:
                    response.send_only(block)
                else:
                    response.send_all(result)
            elif type(result) is FileWrapper:
                response.send_file(result, self.sapi)
            else:
                response.send_all(result)
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()
        response.complete()


class TolerantResponse(Response):
    """A response whose application may give text for bytes, and bytes for text."""

    __slots__ = ()

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(exchange, exchange.environ.get("REQUEST_METHOD") == "HEAD")

    def start_response(
        self, status: Any, headers: Any, exc_info: ExcInfo | None = None
    ) -> Callable[[Any], None]:
        """``start_response``; status, names and values may be bytes."""
        try:
            return super().start_response(status, headers, exc_info)
        except ApplicationError:
            if type(headers) is not list or (self.status and not exc_info):
                raise
        native = clean(pairs_of(headers), self.exchange.sapi)
        return super().start_response(clean_status(status), native, exc_info)

    def write(self, block: Any) -> None:
        """Send *block*, bytes or latin-1 text, now."""
        super().write(block.encode("latin-1") if type(block) is str else block)

    def send_all(self, blocks: Iterable[Any]) -> None:
        """Send each block, as PEP 3333 has it; text as latin-1."""
        if not self.sent and type(blocks) is not list:
            # flup measured whatever has a length, not lists only.
            try:
                blocks = list(blocks) if len(blocks) == 1 else blocks  # type: ignore[arg-type]
            except TypeError:
                pass
        if type(blocks) is list or type(blocks) is tuple:
            found = [b.encode("latin-1") if type(b) is str else b for b in blocks]
            if len(found) == 1 and type(found[0]) is bytes and found[0] and self.status:
                if not self.sent and self.left in (-1, len(found[0])):
                    self.send_only(found[0])
                    return
            super().send_all(found)
        else:
            super().send_all(b.encode("latin-1") if type(b) is str else b for b in blocks)

    def complete(self) -> None:
        """See that all was sent, as ``finish()`` does, and leave the exchange open."""
        if not self.sent:
            if not self.status:
                raise ApplicationError("the application did not call start_response")
            if not forbids_body(self.status) and not self.head_only:
                self._check_length()
                if not self.declared:
                    self.headers.append(("Content-Length", "0"))
            self.send_head()
        self._check_length()


class Body(Input):
    """``wsgi.input``; it is its own iterator, as flup's was."""

    __slots__ = ()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        line = self.readline()
        if not line:
            raise StopIteration
        return line


class ErrorStream(Errors):
    """``wsgi.errors`` to the web server's log; takes bytes, too."""

    __slots__ = ()

    def write(self, text: Any) -> int:
        """Take *text*."""
        super().write(text if type(text) is str else bytes(text).decode("utf-8", "replace"))
        return len(text)


class TwofoldErrors(ErrorStream):
    """The same, and to this process's standard error."""

    __slots__ = ()

    def write(self, text: Any) -> int:
        """Take *text*."""
        native = text if type(text) is str else bytes(text).decode("utf-8", "replace")
        write_standard_error(native)
        return super().write(native)


class StandardErrors:
    """``wsgi.errors`` that is this process's standard error."""

    def write(self, text: Any) -> int:
        """Write *text*, str or bytes."""
        write_standard_error(text if type(text) is str else bytes(text).decode("utf-8", "replace"))
        return len(text)

    def writelines(self, lines: Iterable[Any]) -> None:
        """Write each of *lines*."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Nothing is held."""


def write_standard_error(text: str) -> None:
    """Write *text* to standard error; a log that cannot be written fails no request."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass


def write_traceback() -> None:
    """Write the exception that is being handled to standard error."""
    write_standard_error(traceback.format_exc())


# -- heads that come in other forms ---------------------------------------------------------------


def pairs_of(headers: Iterable[Any]) -> list[tuple[Any, Any]]:
    """Return *headers* as pairs; :class:`ApplicationError` for what is none."""
    pairs = []
    for item in headers:
        try:
            name, value = item
        except (TypeError, ValueError):
            raise ApplicationError(f"header {item!r} is no pair of name and value") from None
        pairs.append((name, value))
    return pairs


def clean(headers: Iterable[tuple[Any, Any]], sapi: Sapi) -> Headers:
    """Return *headers* as text, without those that belong to one connection or to CGI.

    flup let them pass, and web servers ignored them. Raises :class:`ApplicationError` for control
    characters and names that are no tokens.
    """
    found: Headers = []
    for raw_name, raw_value in headers:
        name, value = _text(raw_name), _text(raw_value)
        try:
            header_kind(name)
        except ApplicationError as error:
            if type(name) is not str or not name or not TOKEN.issuperset(name):
                raise
            sapi.log_message(f"application: {error}; it is left out", WARNING)
            continue
        value = value.strip(" \t") if type(value) is str else value
        check_header_value(name, value)
        found.append((name, value))
    return found


def clean_status(status: Any) -> str:
    """Return *status* as text with a reason; :class:`ApplicationError` for what is none."""
    text = _text(status)
    if type(text) is str and len(text) >= 4 and not text[3:].strip() and text[:3].isdigit():
        try:
            text = f"{text[:3]} {HTTPStatus(int(text[:3])).phrase}"
        except ValueError:
            text = f"{text[:3]} Unknown"
    text = text.rstrip(" ") if type(text) is str else text
    check_status(text)
    return text


def _text(value: Any) -> Any:
    return value.decode("latin-1") if isinstance(value, bytes) else value


class Output:
    """Takes a CGI response as a stream of bytes, and gives it to *exchange*: head, then body.

    For hooks that write ``req.stdout``. Each write goes to the web server at once.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._held = b""
        self.begun = False
        """Whether the head is over."""
        self.dataWritten = False
        """Whether something of a response has been written."""
        self.closed = False

    def write(self, data: Any) -> None:
        """Take *data*, bytes or text; :class:`ApplicationError` for a head that may not pass."""
        if self.closed:
            raise ValueError("write to a closed stream")
        if type(data) is str:
            data = data.encode()
        if not data:
            return
        self.dataWritten = True
        if self.begun:
            self._exchange.ub_write(data)
            self._exchange.flush()
            return
        self._held += data
        ends = [(at, size) for end, size in _ENDS if (at := self._held.find(end)) >= 0]
        if ends:
            at, size = min(ends)
            head, self._held = self._held[:at], self._held[at + size :]
            self.begun = True
            self._exchange.send_headers(*_parse_head(head, self._exchange.sapi))
            rest, self._held = self._held, b""
            if rest:
                self._exchange.ub_write(rest)
            self._exchange.flush()
        elif len(self._held) > _HEAD:
            raise ApplicationError("the head of the response does not end")

    def writelines(self, lines: Iterable[Any]) -> None:
        """Write each of *lines*."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Nothing is held that could go."""

    def close(self) -> None:
        """End the stream; :class:`ApplicationError` if that is inside the head."""
        self.closed = True
        if self._held:
            self._held = b""
            raise ApplicationError("the response ends inside its head")


_ENDS = ((b"\r\n\r\n", 4), (b"\n\n", 2), (b"\n\r\n", 3))


def _parse_head(head: bytes, sapi: Sapi) -> tuple[str, Headers]:
    """Return status and headers of a CGI response head (RFC 3875 §6.2)."""
    status = ""
    headers: list[tuple[str, str]] = []
    for line in head.decode("latin-1").replace("\r\n", "\n").split("\n"):
        name, colon, value = line.partition(":")
        if not colon:
            raise ApplicationError(f"{line!r} is no header")
        if name.lower() == "status":
            status = clean_status(value.strip() + " ")
        else:
            headers.append((name, value.strip(" \t")))
    found = clean(headers, sapi)
    if not status:
        redirects = any(name.lower() == "location" for name, _ in found)
        status = "302 Found" if redirects else "200 OK"
    return status, found


# -- what all servers of flup derive from a request -----------------------------------------------


def fill_path(environ: dict[str, Any], complain: Callable[[str], Any], decode: bool) -> None:
    """Fill PATH_INFO and QUERY_STRING from REQUEST_URI where they are missing or empty.

    With *decode* the path is percent-decoded once, as PEP 3333 has it; flup left it as it came.
    """
    uri = environ.get("REQUEST_URI")
    script = environ.setdefault("SCRIPT_NAME", "")
    path, _, query = uri.partition("?") if uri else ("", "", "")
    if not environ.get("PATH_INFO"):
        if decode and "%" in path:
            path = unquote(path.encode("latin-1", "replace")).decode("latin-1")
        if path.startswith(script):
            path = path[len(script) :]
        elif uri:
            complain("SCRIPT_NAME does not match REQUEST_URI")
            path = ""
        environ["PATH_INFO"] = path
    if not environ.get("QUERY_STRING"):
        environ["QUERY_STRING"] = query


def error_page(debug: bool) -> bytes:
    """Return the body of the answer to an exception, which is being handled; HTML.

    With *debug* it shows the traceback.
    """
    what = "The application failed."
    if debug:
        what = f"The application raised:</p>\n<pre>{escape(traceback.format_exc())}</pre>\n<p>"
    return (
        "<!DOCTYPE html>\n<html><head><title>Unhandled Exception</title></head>\n"
        f"<body><h1>Unhandled Exception</h1>\n<p>{what}</p></body></html>\n"
    ).encode("utf-8", "xmlcharrefreplace")
