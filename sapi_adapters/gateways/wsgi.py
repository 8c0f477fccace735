"""The WSGI gateway: how a PEP 3333 application is called, whatever the SAPI.

It knows exchanges and nothing of any wire.
"""

import io

from ..sapi import (
    CONTENT_LENGTH,
    ERROR,
    INTERNAL_SERVER_ERROR,
    WARNING,
    ApplicationError,
    ClientDisconnected,
    RequestError,
    check_header_value,
    check_status,
    content_length,
    forbids_body,
    header_kind,
    header_kinds,
    is_https,
    refuse,
    request_line,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Any, TypeAlias

    from ..sapi import Exchange, Headers, Sapi

    ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]
    Application: TypeAlias = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_BLOCK = 65536


class WsgiGateway:
    """Calls one WSGI application for exchanges, one at a time per thread."""

    asynchronous = False

    def __init__(self, application: "Application", sapi: "Sapi") -> None:
        self.application = application
        self.sapi = sapi
        self.constants: dict[str, Any] = {
            "wsgi.version": (1, 0),
            "wsgi.multithread": sapi.multithread,
            "wsgi.multiprocess": sapi.multiprocess,
            "wsgi.run_once": sapi.run_once,
            "wsgi.file_wrapper": FileWrapper,
            "wsgi.input_terminated": True,
            "sapi.name": sapi.name,
        }

    def __call__(self, exchange: "Exchange") -> None:
        """Run the application for *exchange*, to the end of the response.

        Never raises for what the application did: that is logged, and answered with 500 before
        the head has gone and by a visibly cut response after it. KeyboardInterrupt passes.
        """
        environ = exchange.environ
        environ.update(self.constants)
        environ["wsgi.url_scheme"] = "https" if is_https(environ) else "http"
        environ["wsgi.input"] = Input(exchange)
        environ["wsgi.errors"] = errors = Errors(exchange)
        response = Response(exchange, environ["REQUEST_METHOD"] == "HEAD")
        try:
            result = self.application(environ, response.start_response)
            try:
                # The common answer, a list of one block: its length is known (PEP 3333 lets it be
                # announced), and head, body and end leave in one write.
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
            if errors.part:
                errors.flush()
            response.finish()
        except ClientDisconnected:
            exchange.cut()  # nobody is there to be told; close() has been called
        except (Exception, SystemExit) as error:
            self._failed(exchange, response, error)
        except BaseException:
            exchange.cut()
            raise
        finally:
            if errors.part:
                errors.flush()

    def run_once(self, cycle: "Callable[[Any], Any]", exchange: "Exchange") -> bool:
        """Run *cycle* for the one exchange of a process: WSGI knows no life span."""
        cycle(exchange)
        return True

    def _failed(self, exchange: "Exchange", response: "Response", error: BaseException) -> None:
        request, status = request_line(exchange.environ), INTERNAL_SERVER_ERROR
        if isinstance(error, ApplicationError):
            self.sapi.log_message(f"application: {request}: {error}", ERROR)
        elif isinstance(error, RequestError):  # of the body, while the application read it
            self.sapi.sapi_error(error, request)
            status = error.status
        else:
            self.sapi.log_exception(f"application raised: {request}")
        if response.sent:
            exchange.cut()
            return
        refuse(exchange, status)
        exchange.finish()


class Response:
    """One call of the application: ``start_response``, ``write`` and the sending of blocks."""

    __slots__ = (
        "declared",
        "exchange",
        "head_only",
        "headers",
        "left",
        "sent",
        "status",
    )

    def __init__(self, exchange: "Exchange", head_only: bool) -> None:
        self.exchange = exchange
        self.head_only = head_only
        self.status = ""
        self.sent = False  # the head has been given to the exchange
        self.declared = False
        self.left = -1  # bytes still to come under a declared Content-Length

    def start_response(
        self, status: str, headers: "Headers", exc_info: "ExcInfo | None" = None
    ) -> "Callable[[bytes], None]":
        """PEP 3333's ``start_response``; errors are raised to the application, here."""
        if self.status:
            if exc_info is None:
                raise ApplicationError("start_response was called again without exc_info")
            if self.sent:
                try:
                    raise exc_info[1].with_traceback(exc_info[2])
                finally:
                    exc_info = None  # no circle of frames, as the PEP asks
        if type(status) is not str or not (
            status.isascii()
            and status.isprintable()
            and status[:3].isdigit()
            and status[0] != "0"
            and status[3:4] == " "
            and status[-1] != " "
        ):
            check_status(status)
        if type(headers) is not list:
            raise ApplicationError(f"headers are no list but {type(headers).__name__}")
        left = -1
        for item in headers:
            try:
                name, value = item
            except (TypeError, ValueError):
                raise ApplicationError(f"header {item!r} is no pair of name and value") from None
            kind = header_kinds.get(name) if type(name) is str else header_kind(name)
            if kind is None:
                kind = header_kind(name)
            if type(value) is not str or not (value.isascii() and value.isprintable()):
                check_header_value(name, value)
            if kind == CONTENT_LENGTH:
                length = content_length(value)
                if left not in (-1, length):
                    raise ApplicationError("two Content-Length headers differ")
                left = length
        self.status = status
        self.headers = list(headers)
        self.left = left
        self.declared = left >= 0
        return self.write

    def send_head(self) -> None:
        """Give the head to the exchange; what cannot have a body loses its Content-Length."""
        if not self.status:
            raise ApplicationError("the application sent a block before it called start_response")
        if forbids_body(self.status):
            if self.declared and self.status[:3] != "304":
                self.headers = [h for h in self.headers if h[0].lower() != "content-length"]
            self.head_only = True
        if self.head_only:
            self.left = -1
        handler = self.exchange.header_handler
        self.sent = True
        self.exchange.send_headers(
            self.status, self.headers if handler is None else handler(self.headers)
        )

    def send_only(self, block: bytes) -> None:
        """Send *block* as the whole body; its length is the Content-Length (PEP 3333)."""
        if self.left < 0:
            if not forbids_body(self.status):
                self.headers.append(("Content-Length", str(len(block))))
        elif self.left != len(block):
            self.send_all([block])
            return
        self.send_head()
        self.left = -1
        if not self.head_only:
            self.exchange.ub_write(block)

    def send_all(self, blocks: "Iterable[bytes]") -> None:
        """Send each block before the next one is asked for, the head with the first non-empty."""
        exchange = self.exchange
        made = type(blocks) is list or type(blocks) is tuple  # no application between the blocks
        for block in blocks:
            if type(block) is not bytes and not isinstance(block, bytes):
                raise ApplicationError(
                    f"a block of the body is no bytes but {type(block).__name__}"
                )
            if block:
                if not self.sent:
                    self.send_head()
                if self.head_only:
                    return  # the rest, which may be endless, would go nowhere
                self._put(block)
                if made:
                    continue  # leaves when much is held, or with the end of the response
                exchange.flush()
                if exchange.aborted:
                    raise ClientDisconnected("the client has gone")

    def _put(self, block: bytes) -> None:
        if self.declared:
            if len(block) > self.left:
                self.exchange.sapi.log_message(
                    "application: more bytes than Content-Length: the rest is cut off", WARNING
                )
                block = block[: self.left]
                if not block:
                    return
            self.left -= len(block)
        self.exchange.ub_write(block)

    def write(self, block: bytes) -> None:
        """Send *block* now: PEP 3333's ``write`` for applications that cannot return blocks."""
        if not isinstance(block, bytes):
            raise ApplicationError(f"write() was given no bytes but {type(block).__name__}")
        if not self.sent:
            self.send_head()
        if self.head_only:
            return
        if block:
            self._put(block)
        self.exchange.flush()
        if self.exchange.aborted:
            raise ClientDisconnected("the client has gone")

    def send_file(self, wrapper: "FileWrapper", sapi: "Sapi") -> None:
        """Send a wrapped file: by the front end where it may, else in blocks of bounded size."""
        if sapi.sendfile is not None and self.status and not self.sent and not self.head_only:
            header = sapi.sendfile.header_for(wrapper.filelike, self.left)
            if header is not None:
                self.headers = [h for h in self.headers if h[0].lower() != "content-length"]
                self.headers.append(header)
                self.send_head()
                self.left = -1
                self.declared = False
                return
        self.send_all(wrapper if self.left < 0 else wrapper.limited(self.left))

    def finish(self) -> None:
        """End the response; a body shorter than announced is cut, not called complete."""
        if not self.sent:
            if not self.status:
                raise ApplicationError("the application did not call start_response")
            if not forbids_body(self.status) and not self.head_only:
                self._check_length()
                if not self.declared:
                    self.headers.append(("Content-Length", "0"))
            self.send_head()
        self._check_length()
        self.exchange.finish()

    def _check_length(self) -> None:
        if self.left > 0:
            raise ApplicationError(f"the body is {self.left} bytes shorter than its Content-Length")


class FileWrapper:
    """``wsgi.file_wrapper``: an iterable over a file-like object, from its current position.

    Reads at least 64 KiB at a time, whatever *block_size* says, as the block size is a hint.
    """

    def __init__(self, filelike: "Any", block_size: int = 8192) -> None:
        self.filelike = filelike
        self.block_size = max(block_size, _BLOCK)
        if hasattr(filelike, "close"):
            self.close = filelike.close

    def __iter__(self) -> "Iterator[bytes]":
        read, size = self.filelike.read, self.block_size
        while block := read(size):
            yield block

    def limited(self, length: int) -> "Iterator[bytes]":
        """Yield at most *length* bytes: what the application announced (PEP 3333)."""
        read, size = self.filelike.read, self.block_size
        while length > 0 and (block := read(min(size, length))):
            length -= len(block)
            yield block


class _PostReader(io.RawIOBase):
    """The exchange's body as a raw stream, for ``io.BufferedReader`` to stand on."""

    def __init__(self, exchange: "Exchange") -> None:
        self._read_post = exchange.read_post

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "Any") -> int:
        data = self._read_post(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class Input:
    """``wsgi.input``: ends at the end of the body; a body cut short raises, it never looks whole.

    :class:`~sapi_adapters.sapi.ClientDisconnected`, an OSError, is what is raised.
    """

    __slots__ = ("_buffered", "_exchange")

    def __init__(self, exchange: "Exchange") -> None:
        self._exchange = exchange
        self._buffered: io.BufferedReader | None = None

    def _reader(self) -> io.BufferedReader:
        if self._buffered is None:
            self._buffered = io.BufferedReader(_PostReader(self._exchange), _BLOCK)
        return self._buffered

    def read(self, size: "int | None" = -1) -> bytes:
        """Return up to *size* bytes, all that is left for None or a negative one."""
        return self._reader().read(-1 if size is None else size)

    def readline(self, size: "int | None" = -1) -> bytes:
        """Return one line, at most *size* bytes of it."""
        return self._reader().readline(-1 if size is None else size)

    def readlines(self, hint: "int | None" = -1) -> list[bytes]:
        """Return the lines, stopping after about *hint* bytes."""
        return self._reader().readlines(-1 if hint is None else hint)

    def __iter__(self) -> "Iterator[bytes]":
        return iter(self._reader())


class Errors:
    """``wsgi.errors``: a text stream; whole lines go to the exchange's log as they end."""

    __slots__ = ("_exchange", "part")

    def __init__(self, exchange: "Exchange") -> None:
        self._exchange = exchange
        self.part = ""

    def write(self, text: str) -> int:
        """Take *text*; each finished line is logged."""
        if type(text) is not str:
            raise TypeError(f"wsgi.errors takes str, not {type(text).__name__}")
        lines, newline, rest = (self.part + text).rpartition("\n")
        if newline:
            self._exchange.log_message(lines + newline)
        self.part = rest
        return len(text)

    def writelines(self, lines: "Iterable[str]") -> None:
        """Write each of *lines*."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Log what is there of an unfinished line."""
        if self.part:
            self._exchange.log_message(self.part)
            self.part = ""
