"""Where access logs go: descriptors that take a line whole or not at all, and never wait.

A line that cannot be written is dropped and counted: neither a full disk nor a pipe that nobody
empties holds or fails a request. The log says how many it lacks as soon as it takes lines again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import shlex
import shutil
import signal
import socket
import stat
import sys
import time
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING

from ...sapi import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST = 8193
"""Bytes of the longest line of a file, its newline included."""
PIPE_BUF = select.PIPE_BUF
"""Bytes that a pipe takes whole or not at all (POSIX, write)."""
_STANDARD = {
    **dict.fromkeys(("/dev/stderr", "/dev/fd/2", "/proc/self/fd/2"), 2),
    **dict.fromkeys(("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"), 1),
}
_KEEPER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "piped.py")
_DEFAULT = (signal.SIGPIPE, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class Sink:
    """An open log: *fd*, which belongs to this object, is *name* to people.

    *report* is given a message when lines begin to be dropped, and the number of them at the end.
    """

    def __init__(self, name: str, fd: int, report: Callable[[str], None]) -> None:
        self.name = name
        self.dropped = 0
        """Lines that this process could not write."""
        self._report = report
        self._fd = fd
        self._lost = 0  # of these, the ones that the log does not tell of yet
        self._why = ""
        self._torn = False
        self._lock = Lock()
        self._socket: socket.socket | None = None
        mode = os.fstat(fd).st_mode
        self.longest = PIPE_BUF if stat.S_ISFIFO(mode) else LONGEST
        self._put: Callable[[bytes], int]
        if stat.S_ISSOCK(mode):
            self._socket = _socket_of(fd)
            # A flag of the call: the description may be shared with the whole service.
            how = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)
            send = self._socket.send
            self._put = lambda data: send(data, how)
        elif stat.S_ISREG(mode) or not os.get_blocking(fd):
            self._put = partial(os.write, fd)
        else:
            self._put = partial(_write_if_ready, fd)

    def close(self) -> None:
        """Close it; what is written later is dropped."""
        fd, self._fd = self._fd, -1
        self._put = _closed
        if self._socket is not None:
            self._socket.detach()
            self._socket = None
        if fd >= 0:
            os.close(fd)

    def write(self, line: bytes) -> None:
        """Append *line*, which ends with a newline, in one write; or drop and count it."""
        if self._lost and not self._tell():
            self._drop(self._why)
            return
        try:
            written = self._put(line)
        except OSError as error:
            self._drop(error.strerror or str(error))
        else:
            if written != len(line):
                self._torn = written > 0
                self._drop("short write")

    def _drop(self, why: str) -> None:
        with self._lock:
            self.dropped += 1
            self._lost += 1
            self._why = why
            first = self._lost == 1
        if first:
            self._report(f"cannot write {self.name}, lines are dropped: {why}")

    def _tell(self) -> bool:
        """Write into the log how many lines it lacks. False when it still takes none."""
        with self._lock:
            lost = self._lost
            if not lost:
                return True  # another thread was faster
            now = time.strftime("%Y-%m-%d %H:%M:%S %z")
            note = f"# {now} {lost} lines of this log were dropped: {self._why}\n".encode()
            if self._torn:
                note = b"...\n" + note
            try:
                written = self._put(note)
            except OSError as error:
                self._why = error.strerror or str(error)
                return False
            self._torn = written != len(note)
            if self._torn:
                return False
            self._lost = 0
        self._report(f"{self.name} takes lines again; {lost} were dropped")
        return True


def open_sink(target: str, report: Callable[[str], None]) -> Sink:
    """Return the log *target*: a file's path, or ``|program arguments``, which is started.

    Raises :class:`ConfigurationError`.
    """
    try:
        fd = _start(target) if target.startswith("|") else _open(target)
    except OSError as error:
        raise ConfigurationError(f"cannot open the log {target}: {error.strerror}") from error
    return Sink(target, fd, report)


def check_program(target: str) -> list[str]:
    """Return the arguments of ``|program``. Raises :class:`ConfigurationError`."""
    if target.startswith("|$"):
        raise ConfigurationError(f"{target}: programs of logs are started without a shell: use |")
    try:
        arguments = shlex.split(target.lstrip("|"))
    except ValueError as error:
        raise ConfigurationError(f"{target}: {error}") from None
    if not arguments:
        raise ConfigurationError(f"{target}: names no program")
    if shutil.which(arguments[0]) is None:
        raise ConfigurationError(f"{target}: there is no program {arguments[0]}")
    return arguments


# -- opening --------------------------------------------------------------------------------------


def _open(path: str) -> int:
    standard = _STANDARD.get(path)
    if standard is not None:
        return _open_standard(standard)
    try:
        return _open_high(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        # A FIFO that nobody reads yet: what is written waits in it for the reader.
        return _open_high(path, os.O_RDWR)


def _open_high(path: str, flags: int) -> int:
    """Open *path*, never as one of the standard descriptors should these be closed."""
    return _above(os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY, 0o640))


def _above(fd: int) -> int:
    if fd > 2:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


def _open_standard(number: int) -> int:
    """Return a descriptor for what standard descriptor *number* is.

    Others share its description and its flags: a pipe or terminal is therefore opened anew where
    the system allows it. A file is shared, with the position others write at.
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


def _start(target: str) -> int:
    """Start the program of *target* with its keeper; return the pipe's end for writing."""
    arguments = check_program(target)
    reading, writing = map(_above, os.pipe())
    try:
        os.set_blocking(writing, False)
        # A process group of its own: Ctrl-C ends the host, and its end is the program's.
        os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", _KEEPER, *arguments],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, reading, 0)],
            setpgroup=0,
            setsigmask=[],
            setsigdef=_DEFAULT,
        )
    except BaseException:
        os.close(writing)
        raise
    finally:
        os.close(reading)
    return writing


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
    """Write to a shared pipe or terminal that may block, when it says it would not."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not poll.poll(0):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return os.write(fd, data)


def _closed(data: bytes) -> int:
    raise OSError(errno.EBADF, os.strerror(errno.EBADF))
