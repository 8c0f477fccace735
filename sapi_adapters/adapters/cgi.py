"""The SAPI ``cgi``: a process per request, the request in the environment (RFC 3875).

A CGI process pays for every import, so this file and what it imports hold to what a bare
interpreter has loaded already; tests/shape counts it. Arguments of the command line are never
looked at: a web server puts words of the query string there (CVE-2012-1823, CVE-2024-4577).
"""

import _signal  # what signal wraps, and a bare interpreter has loaded
import posix
import sys

from ..protocols.cgi import is_nph, mend, normal_mount, render_head, render_nph_head
from ..sapi import (
    WARNING,
    ClientDisconnected,
    ConfigurationError,
    Exchange,
    RequestError,
    Sapi,
    process_environ,
    refuse,
    request_line,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO, TextIO

    from ..sapi import Headers, Load

_DRAINED = 64 << 20  # bytes of an unread body that are taken before the response is closed
_HELD = 65536  # bytes of the response that may wait for the next flush


class CgiExchange(Exchange):
    """The one exchange of a CGI process."""

    def __init__(
        self,
        sapi: Sapi,
        environ: dict[str, str],
        read: "Callable[[int], bytes]",
        write: "Callable[[bytes], int]",
        close: "Callable[[], None]",
        length: int,
        nph: bool,
        descriptor: "int | None",
    ) -> None:
        self.sapi = sapi
        self._descriptor = descriptor
        self.environ = environ
        self.complete = False
        self._read = read
        self._write = write
        self._close = close
        self._left = max(length, 0)  # no CONTENT_LENGTH, no body (RFC 3875 §4.2)
        self._nph = nph
        self._held = b""
        self._ended = False
        self._written = 0
        self._announced: int | None = None
        self.post_ended = self._left == 0

    def read_post(self, size: int) -> bytes:
        if self._left == 0:
            return b""
        try:
            data = self._read(min(size, self._left))
        except OSError as error:
            self.aborted = True
            raise ClientDisconnected(f"reading the body: {error}") from error
        if not data:
            self.aborted = True
            raise ClientDisconnected(f"the body ends {self._left} bytes before CONTENT_LENGTH")
        self._left -= len(data)
        self.post_ended = self._left == 0
        return data

    def send_headers(self, status: str, headers: "Headers") -> None:
        for name, value in headers:
            if name.lower() == "content-length":
                self._announced = 0 if self.environ.get("REQUEST_METHOD") == "HEAD" else int(value)
        if self._nph:
            self._held = render_nph_head(
                status, headers, self.environ.get("SERVER_PROTOCOL", ""), _http_date(headers)
            )
        else:
            self._held = render_head(status, headers)

    def ub_write(self, data: bytes) -> None:
        self._written += len(data)
        self._held += data
        if len(self._held) > _HELD:
            self.flush()

    def flush(self) -> None:
        data, self._held = self._held, b""
        try:
            while data and not self.aborted:
                try:
                    data = data[self._write(data) :]
                except BlockingIOError:  # the server made the pipe non-blocking
                    self._wait_writable()
        except OSError:  # EPIPE: the client has gone, or the server gave the request up
            self.aborted = True

    def _wait_writable(self) -> None:
        import select

        poll = select.poll()
        poll.register(self.fileno() or 1, select.POLLOUT)
        poll.poll()

    def finish(self) -> None:
        if not self._ended:
            self._ended = True
            self.flush()
            self.complete = not self.aborted

    def terminate(self, number: int, frame: object) -> None:
        """Handle TERM: end the process, unless the response is complete.

        lighttpd sends it as soon as it has all that was announced; the application may have its
        ``close()`` or work of its own to do after that.
        """
        if self._ended or (self._announced is not None and self._written >= self._announced):
            return
        _signal.signal(number, _signal.SIG_DFL)
        posix.kill(posix.getpid(), number)

    def cut(self) -> None:
        if not self._ended:
            self._ended = True
            self.flush()  # CGI has no way to say more than the exit status does

    def close(self) -> None:
        """Close the response: the server may end this process from now on.

        Not before the application has returned, so that its work after the response is done.
        Apache's mod_cgid talks over one socket both ways, on which unread bytes of the body
        would destroy the response: there they are read first, up to a limit.
        """
        try:
            if self._left and self._descriptor is not None and _is_socket(self._descriptor):
                self._left = min(self._left, _DRAINED)
                while not self.aborted and self.read_post(_HELD):
                    pass
        except OSError:
            pass  # the client has gone: there is nothing left to save
        try:
            self._close()
        except OSError:
            pass

    def log_message(self, message: str) -> None:
        self.sapi.log_message(message)

    def wait_disconnect(self) -> None:
        if self._descriptor is not None and not self._ended:
            import select  # only an application that waits for nothing else gets here

            poll = select.poll()
            poll.register(self._descriptor, 0)  # POLLERR and POLLHUP come unasked
            poll.poll()
        self.aborted = True

    def fileno(self) -> "int | None":
        return self._descriptor


class Cgi(Sapi):
    """A classic CGI program.

    *environ*, *stdin*, *stdout*, *stderr* take the place of the process's own, for tests:
    *environ* holds str, each byte one code point; the streams are binary but *stderr*, which is
    text.
    *script_name* is the path the application is mounted at, where the server's split differs.
    """

    name = "cgi"
    pretty_name = "CGI/1.1"
    multiprocess = True
    run_once = True

    def __init__(
        self,
        *,
        environ: "dict[str, str] | None" = None,
        stdin: "BinaryIO | None" = None,
        stdout: "BinaryIO | None" = None,
        stderr: "TextIO | None" = None,
        script_name: "str | None" = None,
    ) -> None:
        self._environ = environ
        self._stdin = stdin
        self._stdout = stdout
        self._stderr = stderr
        self._mount = None if script_name is None else normal_mount(script_name)

    def run(self, load: "Load") -> int:
        """Serve the one request. Returns 0 when a whole response went out, else 1."""
        environ = _process_environ() if self._environ is None else dict(self._environ)
        read, write, close, sink = self._streams(bool(environ.get("CONTENT_LENGTH")))
        nph = is_nph(environ)
        try:
            length = mend(environ, self._mount)
            error = None
        except RequestError as refused:
            length, error = 0, refused
        exchange = CgiExchange(self, environ, read, write, close, length, nph, sink)
        if error is not None:
            self.sapi_error(error, request_line(environ))
            refuse(exchange, error.status)
            exchange.finish()
            exchange.close()
            return 0 if exchange.complete else 1
        self.module_startup()
        if sink is not None and _in_main_thread():
            _signal.signal(_signal.SIGTERM, exchange.terminate)
        try:
            self.child_startup()
            gateway = load()
            if not gateway.run_once(self.bind(gateway), exchange):
                return 1
            return 0 if exchange.complete else 1
        finally:
            exchange.cut()
            exchange.close()
            self.module_shutdown()

    def log_message(self, message: str, level: str = WARNING) -> None:
        if self._stderr is None:
            super().log_message(message.rstrip("\n"), level)
        else:
            self._stderr.write(f"[{level}] {message}\n")

    def _streams(
        self, body: bool
    ) -> "tuple[Callable[[int], bytes], Callable[[bytes], int], Callable[[], None], int | None]":
        """Return read, write and close of the request and response, and the descriptor written to.

        The process's own descriptors 0 and 1 are put out of the application's reach: what it
        prints goes to the error log instead of into the response.
        """
        stdin, stdout = self._stdin, self._stdout
        if stdout is not None:

            def put(data: bytes) -> int:
                written = stdout.write(data)
                stdout.flush()
                return len(data) if written is None else written

            def get(size: int) -> bytes:
                return b"" if stdin is None else stdin.read(size)

            return get, put, _nothing, None
        if stdin is not None:
            raise ConfigurationError("stdin was given to run() without stdout")
        null = posix.open("/dev/null", posix.O_RDWR)
        while null <= 2:  # a closed 0, 1 or 2 is filled before anything else can take its place
            null = posix.dup(null)
        source = posix.dup(0) if body else null
        sink = posix.dup(1)
        posix.dup2(null, 0)
        posix.dup2(2, 1)

        def read(size: int) -> bytes:
            return posix.read(source, size)

        def write(data: bytes) -> int:
            return posix.write(sink, data)

        def close() -> None:
            posix.close(sink)

        return read, write, close, sink


def _in_main_thread() -> bool:
    threading = sys.modules.get("threading")
    return threading is None or threading.current_thread() is threading.main_thread()


def _is_socket(fd: int) -> bool:
    return posix.fstat(fd).st_mode & 0o170000 == 0o140000


def _nothing() -> None:
    """Close what belongs to the caller: not at all."""


def _process_environ() -> dict[str, str]:
    """Return the process's environment as CGI text: each byte one code point."""
    environ = process_environ()
    environ.pop(b"HTTP_PROXY", None)  # httpoxy: nor for what the application imports or starts
    posix.unsetenv(b"HTTP_PROXY")
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in environ.items()}


def _http_date(headers: "Headers") -> str:
    """Return the present as an HTTP date (RFC 9110 §5.6.7), ``""`` when *headers* have one."""
    if any(name.lower() == "date" for name, _ in headers):
        return ""
    import time

    year, month, day, hour, minute, second, weekday, _, _ = time.gmtime()
    days = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    months = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
    clock = f"{hour:02}:{minute:02}:{second:02}"
    return f"{days[weekday]}, {day:02} {months[month - 1]} {year} {clock} GMT"
