"""Logs: a descriptor that takes whole lines and never waits, the error log, what workers print.

Nothing here raises or blocks once a log is open. What cannot be written is dropped and counted;
the log itself says how much that was as soon as it takes lines again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import stat
import sys
import time
from functools import partial
from threading import RLock
from typing import TYPE_CHECKING

from ..sapi import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

LONGEST = 8193
"""Bytes of the longest line of a file, its newline included."""
PIPE_BUF = select.PIPE_BUF
"""Bytes that a pipe takes whole or not at all (POSIX, write): no more are given to it at once."""
MESSAGE = 65536
"""Characters of one message; of a longer one the middle is left out."""
TURN = 16384
"""Bytes read from a worker's pipe at a time, so that a chatty worker cannot hold the master."""
SYSLOG = "/dev/log"

_STANDARD = {
    **dict.fromkeys(("-", "/dev/stderr", "/dev/fd/2", "/proc/self/fd/2"), 2),
    **dict.fromkeys(("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"), 1),
}
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()

_NAMES = {
    "alert": "ALERT",
    "error": "ERROR",
    "warning": "WARNING",
    "notice": "NOTICE",
    "info": "NOTICE",  # php-fpm has no such level
    "debug": "DEBUG",
}
_SERIOUSNESS = {"ALERT": 0, "ERROR": 1, "WARNING": 2, "NOTICE": 3, "DEBUG": 4}
_SEVERITIES = {"ALERT": 1, "ERROR": 3, "WARNING": 4, "NOTICE": 5, "DEBUG": 7}  # RFC 3164 §4.1.1
_FACILITIES = {
    **{
        name: number
        for number, name in enumerate(
            "kern user mail daemon auth syslog lpr news uucp cron authpriv ftp".split()
        )
    },
    **{f"local{number}": 16 + number for number in range(8)},
}


class LogFile:
    """An open log: a file, a FIFO, a terminal, or a socket somebody made standard error.

    *path* is opened for appending; ``"-"`` is standard error as it is at this moment. *fd*, when
    given, is used in its place and belongs to this object. *note* makes the line that says how
    many were dropped, and why. Raises :class:`ConfigurationError`.

    Several threads and processes may write: each call is one write of whole lines. On a file
    whose disk is full, and on some sockets, a write may end inside a line; what is left of the
    line is then tried once more and, when that fails too, the next write begins with ``...`` and
    a newline.
    """

    def __init__(self, path: str, note: Callable[[int, str], bytes], fd: int | None = None) -> None:
        self.dropped = 0
        """Lines that this process could not write."""
        self._path = path
        self._note = note
        self._lost = 0  # of those dropped, the ones the log has not reported
        self._torn = False
        self._why = ""
        self._lock = RLock()  # a signal's handler may log where the lock is held
        self._pid = os.getpid()
        self._socket: socket.socket | None = None
        self._put: Callable[[bytes], int] = _closed
        self._fd = -1
        if fd is not None:
            os.set_inheritable(fd, False)
        self._fd = self._open() if fd is None else fd
        self._settle()

    def __del__(self) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the descriptor; it stays the same until :meth:`close`."""
        return self._fd

    def close(self) -> None:
        """Close the descriptor; what is written later is dropped."""
        if self._fd >= 0:
            self._put = _closed
            if self._socket is not None:
                self._socket.detach()
                self._socket = None
            os.close(self._fd)
            self._fd = -1

    def reopen(self) -> None:
        """Open the path again, after somebody rotated the file.

        The new one is open before the old one is given up; when it cannot be opened, the old one
        stays and :class:`ConfigurationError` is raised.
        """
        self.replace(self._open())

    def replace(self, fd: int) -> None:
        """Write to *fd* from now on, which is taken over; no line of another thread is lost."""
        os.dup2(fd, self._fd, inheritable=False)
        os.close(fd)
        self._settle()

    def write(self, data: bytes) -> None:
        """Append *data*, one or more whole lines, in one write; or drop and count them."""
        if self._lost and not self._report():
            self._drop(data.count(b"\n"), self._why)
            return
        try:
            written = self._put(data)
        except OSError as error:
            self._drop(data.count(b"\n"), _reason(error))
        else:
            if written != len(data):
                self._finish(data, written)

    def pieces(self, lines: bytes) -> Iterator[bytes]:
        """Return *lines* in parts that are each written whole."""
        while len(lines) > self.chunk:
            end = lines.rfind(b"\n", 0, self.chunk) + 1
            yield lines[:end]
            lines = lines[end:]
        yield lines

    # -- opening

    def _open(self) -> int:
        """Return a descriptor above the standard ones, whose flags are ours to choose."""
        standard = _STANDARD.get(self._path)
        try:
            if standard is not None:
                return _open_standard(standard)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            try:
                return _open_high(self._path, flags)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                # A FIFO that nobody reads yet: what is written waits in it for the reader.
                return _open_high(self._path, os.O_RDWR)
        except OSError as error:
            raise ConfigurationError(f"cannot write {self._path}: {error.strerror}") from error

    def _settle(self) -> None:
        """Choose how to write without waiting, by what the descriptor is."""
        mode = os.fstat(self._fd).st_mode
        pipe = stat.S_ISFIFO(mode)
        self.longest = PIPE_BUF if pipe else LONGEST
        self.chunk = PIPE_BUF if pipe else sys.maxsize
        if stat.S_ISSOCK(mode):
            if self._socket is None:
                self._socket = _socket_of(self._fd)
            # The flag of this one call: the description may be shared with the whole service.
            how = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)
            send = self._socket.send
            self._put = lambda data: send(data, how)
        elif stat.S_ISREG(mode) or not os.get_blocking(self._fd):
            self._put = partial(os.write, self._fd)
        else:
            self._put = partial(_write_if_ready, self._fd)

    # -- what could not be written

    def _guard(self) -> AbstractContextManager[object]:
        """Return the lock of the counters; after a fork they begin anew."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._lock = RLock()  # another thread of the parent's may have held it
            self.dropped = self._lost = 0
            self._torn = False
        return self._lock

    def _drop(self, lines: int, why: str) -> None:
        lines = max(lines, 1)  # a datagram has no newline
        with self._guard():
            self.dropped += lines
            self._lost += lines
            self._why = why

    def _finish(self, data: bytes, written: int) -> None:
        """Write what a first write of *data* left over, or note where it was torn."""
        why = "short write"
        try:
            while written < len(data):
                more = self._put(data[written:])
                if not more:
                    break
                written += more
        except OSError as error:
            why = _reason(error)
        if written < len(data):
            self._drop(data.count(b"\n", written), why)
            if written and data[written - 1 : written] != b"\n":
                self._torn = True

    def _report(self) -> bool:
        """Write into the log how many lines it lacks. False when it still takes none."""
        with self._guard():
            lost = self._lost
            if not lost:  # another thread was faster, or this is another process
                return True
            line = self._note(lost, self._why)
            if self._torn:
                line = b"...\n" + line
            try:
                written = self._put(line)
            except OSError as error:
                self._why = _reason(error)
                return False
            self._torn = written != len(line)
            if self._torn:
                return False
            self._lost -= lost
            return True


def _open_high(path: str, flags: int) -> int:
    """Open *path*, never as one of the standard descriptors should these be closed."""
    flags |= os.O_NONBLOCK | os.O_NOCTTY
    fd = os.open(path, flags, 0o640)
    if fd > 2:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


def _open_standard(number: int) -> int:
    """Return a descriptor for what standard descriptor *number* is.

    Others share its description and its flags: a pipe or terminal is therefore opened anew where
    the system allows it. A file is shared, with the position others write at; opened for
    appending beside them, its lines would be overwritten.
    """
    try:
        mode = os.fstat(number).st_mode
    except OSError:  # closed: there is nobody to write to
        return _open_high(os.devnull, os.O_WRONLY)
    if not stat.S_ISREG(mode) and not stat.S_ISSOCK(mode):
        try:
            return _open_high(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_APPEND)
        except OSError:
            pass  # another user's pipe, as in a container that runs as nobody; or no /proc
    return fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)


def _socket_of(fd: int) -> socket.socket:
    """Return a socket object on *fd* without touching its flags."""
    seconds = socket.getdefaulttimeout()
    if seconds is None:
        return socket.socket(fileno=fd)
    socket.setdefaulttimeout(None)  # a default time-out would make the description non-blocking
    try:
        return socket.socket(fileno=fd)
    finally:
        socket.setdefaulttimeout(seconds)


def _write_if_ready(fd: int, data: bytes) -> int:
    """Write to a shared pipe or terminal that may block, when it says it would not.

    A pipe that polls as writable has room for PIPE_BUF bytes.
    """
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not poll.poll(0):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return os.write(fd, data)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _closed(data: bytes) -> int:
    raise OSError(errno.EBADF, os.strerror(errno.EBADF))


class _Syslog(LogFile):
    """The local syslog's socket, connected; a message is one datagram (RFC 3164).

    It is connected before a worker changes its root and user, and again when syslogd restarted.
    """

    def _open(self) -> int:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
            try:
                made.connect(self._path)
                return fcntl.fcntl(made.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
            except OSError as error:
                raise ConfigurationError(f"cannot write {self._path}: {error.strerror}") from error

    def _settle(self) -> None:
        super()._settle()
        send = self._put

        def send_again(data: bytes) -> int:
            try:
                return send(data)
            except OSError as error:
                if error.errno not in (errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOTCONN):
                    raise
                try:
                    os.dup2(fresh := self._open(), self._fd, inheritable=False)
                    os.close(fresh)
                except ConfigurationError:
                    raise error from None
                return send(data)

        self._put = send_again


class ErrorLog:
    """The error log, in php-fpm's form: ``[21-Nov-2026 05:58:36] NOTICE: text``.

    *path* is a file, ``"syslog"``, or None for standard error. *level* is the least serious that
    is written: alert, error, warning, notice or debug; at debug a line has microseconds and the
    pid. *limit* is for :class:`WorkerOutput`: bytes of a line that are kept together.

    The second and further lines of a message are indented by four blanks: a record begins at
    each ``[`` at the start of a line and nowhere else, whatever a message holds. Blank lines are
    left out, control characters are escaped. Syslog gets each line as a datagram of its own.

    Once made, it never raises and never waits. It survives forks and a change of user: the
    descriptor is inherited. Raises :class:`ConfigurationError`.
    """

    def __init__(
        self,
        path: str | None,
        level: str = "notice",
        *,
        syslog_ident: str = "sapi-adapters",
        syslog_facility: str = "daemon",
        limit: int = 1024,
    ) -> None:
        if level not in _NAMES or level == "info":
            raise ConfigurationError(
                f"log_level is {level!r}, not alert, error, warning, notice or debug"
            )
        if syslog_facility.lower() not in _FACILITIES:
            raise ConfigurationError(f"syslog.facility {syslog_facility!r} is not known")
        self.limit = limit
        self._level = _SERIOUSNESS[_NAMES[level]]
        self._detailed = level == "debug"
        self._ident = _printable(syslog_ident)
        self._facility = _FACILITIES[syslog_facility.lower()]
        self._syslog = path == "syslog"
        kind, where = (_Syslog, SYSLOG) if self._syslog else (LogFile, path or "-")
        self._file = kind(where, self._dropped_note)

    @property
    def dropped(self) -> int:
        """Lines that this process could not write."""
        return self._file.dropped

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._file.fileno()

    def reopen(self) -> None:
        """Open the log by its name again; on :class:`ConfigurationError` the old one stays."""
        self._file.reopen()

    def replace(self, fd: int) -> None:
        """Write to *fd* from now on, which is taken over."""
        self._file.replace(fd)

    def close(self) -> None:
        """Close the log; later messages are dropped."""
        self._file.close()

    def log(self, message: str, level: str = "error") -> None:
        """Write *message*; one of an unknown level counts as an error."""
        name = _NAMES.get(level, "ERROR")
        if _SERIOUSNESS[name] <= self._level:
            if len(message) > MESSAGE:
                message = (
                    f"{message[: MESSAGE // 4]}\n... {len(message) - MESSAGE} characters left out"
                    f" ...\n{message[-MESSAGE // 4 * 3 :]}"
                )
            first, *rest = [_printable(line) for line in message.split("\n") if line] or [""]
            self._emit([self._head(name) + first, *(self._next(name) + each for each in rest)])

    def output(self, lines: list[str], *, decorated: bool) -> None:
        """Write *lines* that a worker printed, each as a record, whatever the level is.

        They have no level of their own; *decorated* ones are shown as warnings, as php-fpm does,
        the others bare.
        """
        if decorated or self._syslog:
            head = self._head("WARNING")
            lines = [head + each for each in lines]
        self._emit(lines)

    def _head(self, name: str) -> str:
        """Return what stands before the first line of a message."""
        now = time.time()
        at = time.localtime(now)
        clock = f"{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}"
        month = _MONTHS[at.tm_mon - 1]  # strftime would use the application's locale
        if self._syslog:
            priority = self._facility * 8 + _SEVERITIES[name]
            tag = f"{self._ident}[{os.getpid()}]"
            return f"<{priority}>{month} {at.tm_mday:2} {clock} {tag}: [{name}] "
        date = f"{at.tm_mday:02}-{month}-{at.tm_year}"
        if self._detailed:
            return f"[{date} {clock}.{int(now % 1 * 1e6):06}] {name}: pid {os.getpid()}: "
        return f"[{date} {clock}] {name}: "

    def _next(self, name: str) -> str:
        """Return what stands before the further lines."""
        return f"{self._head(name)}    " if self._syslog else "    "

    def _emit(self, lines: list[str]) -> None:
        """Write *lines* in one piece; a pipe gets pieces that it takes whole."""
        encoded = [each.encode("utf-8", "backslashreplace") for each in lines]
        if self._syslog:
            for each in encoded:
                self._file.write(each)
            return
        most = self._file.chunk
        piece: list[bytes] = []
        size = 0
        for each in encoded:
            if len(each) >= most:
                each = each[: most - 4].decode("utf-8", "ignore").encode() + b"..."
            if size + len(each) >= most:
                self._file.write(b"\n".join([*piece, b""]))
                piece, size = [], 0
            piece.append(each)
            size += len(each) + 1
        if piece:
            self._file.write(b"\n".join([*piece, b""]))

    def _dropped_note(self, lines: int, why: str) -> bytes:
        text = f"{self._head('WARNING')}{lines} lines of this log were dropped: {why}"
        return text.encode() + (b"" if self._syslog else b"\n")


class WorkerOutput:
    """What one worker writes to its standard output or error, on its way to *log*.

    Lines are shown as php-fpm shows them, ``[pool www] child 123 said into stderr: "text"``, or
    bare when *decorate* is False. A line longer than the log's limit becomes several, blank ones
    are left out, as there. Bytes that are no UTF-8 and control characters are escaped.
    """

    def __init__(
        self, log: ErrorLog, pool: str, pid: int, stream: str = "stderr", *, decorate: bool = True
    ) -> None:
        self._log = log
        self._head = f"[pool {_printable(pool)}] child {pid} said into {stream}: "
        self._decorate = decorate
        self._limit = max(log.limit, 4)  # one character of UTF-8
        self._part = b""

    @property
    def pending(self) -> bool:
        """Whether the beginning of a line waits for its end."""
        return bool(self._part)

    def read(self, fd: int) -> bool:
        """Read once from *fd*, which is ready or non-blocking; False when it was closed."""
        try:
            data = os.read(fd, TURN)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            self.close()
            return False
        self.feed(data)
        return True

    def feed(self, data: bytes) -> None:
        """Take what came from the pipe: log the lines that are complete."""
        *lines, self._part = (self._part + data).split(b"\n")
        ready: list[bytes] = []
        for line in lines:
            ready += self._broken(line, last=True)
        ready += self._broken(self._part, last=False)
        self._say(ready)

    def flush(self) -> None:
        """Log the beginning of a line as it is; its end will be a line of its own."""
        part, self._part = self._part, b""
        self._say([part])

    def close(self) -> None:
        """Log the beginning of a line whose end will not come, and say so."""
        part, self._part = self._part, b""
        self._say([part], ", pipe is closed")

    def _broken(self, line: bytes, last: bool) -> list[bytes]:
        """Return *line* in pieces of at most the limit; if it is not the *last*, keep the rest."""
        pieces = []
        start, size, limit = 0, len(line), self._limit
        while size - start > limit:
            end = start + limit
            while end > start + limit - 3 and line[end] & 0xC0 == 0x80:
                end -= 1  # not inside a character
            pieces.append(line[start:end])
            start = end
        if last:
            pieces.append(line[start:])
        else:
            self._part = line[start:]
        return pieces

    def _say(self, lines: list[bytes], mark: str = "") -> None:
        texts = [_printable(each.decode("utf-8", "backslashreplace")) for each in lines if each]
        if self._decorate:
            texts = [f'{self._head}"{each}"{mark}' for each in texts]
        if texts:
            self._log.output(texts, decorated=self._decorate)


def _printable(text: str) -> str:
    """Return *text* as one line that a terminal shows as it is."""
    if text.isprintable():
        return text
    return "".join(
        each if each == "\t" or each.isprintable() else ascii(each)[1:-1] for each in text
    )
