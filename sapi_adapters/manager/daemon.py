"""Becoming a daemon, and the pid file: what the master is to the shell that started it.

The pid file is locked as long as its process lives, so whether it is stale is asked of the kernel
and not guessed from a number that may be another's by now.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import sys
import time
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from ..sapi import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

FAILED = 1
"""Exit status of the process that was started, when the daemon did not say one."""


def daemonize(wait: float = 10.0) -> Callable[[int, str], None]:
    """Go on in a new session, without a terminal, in ``/``; return what reports to the shell.

    The process that was started waits for the word of the daemon, at most *wait* seconds: it
    prints the message of ``report(status, message)`` and exits with the status, 0 for ready. A
    daemon that ends without a word, or has none in time, is a failure. Only the first word
    counts, and only the daemon's: to a worker ``report`` does nothing.

    Descriptor 0 is ``/dev/null`` from now on, and so is 1, unless it is a file. Standard error
    stays the shell's until the daemon is ready, and is ``/dev/null`` then and in workers, unless
    it is a file or was redirected. To be called before locks are taken and threads are started.
    Raises :class:`ConfigurationError` when there is no room for another process.
    """
    null = os.open(os.devnull, os.O_RDWR)
    while null <= 2:  # whoever started this closed standard descriptors: they are not for a pipe
        null = os.dup(null)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.fork()
    except OSError as error:
        for fd in (null, reader, writer):
            os.close(fd)
        raise ConfigurationError(f"cannot become a daemon: {error.strerror}") from error
    if pid:
        os.close(writer)
        _exit_as_told(reader, pid, wait)
    os.close(reader)
    os.setsid()
    try:
        if os.fork():
            os._exit(0)  # a session's leader could get a terminal again; its child cannot
    except OSError as error:
        _write(writer, FAILED, f"cannot become a daemon: {error.strerror}\n")
        os._exit(FAILED)
    os.chdir("/")
    os.dup2(null, 0)
    if not _is_file(1):
        os.dup2(null, 1)
    return _Reporter(writer, null).report


def _exit_as_told(reader: int, child: int, wait: float) -> NoReturn:
    """Be the process that was started. It never returns: what is above is the daemon's now."""
    status, message = FAILED, ""
    try:
        os.waitpid(child, 0)
        said = _read(reader, time.monotonic() + wait)
        if said is None:
            message = f"the daemon was not ready within {wait:g} s; it goes on\n"
        elif not said:
            message = "the daemon ended before it was ready\n"
        else:
            status, message = said[0], said[1:].decode("utf-8", "replace")
        if message:
            os.write(2, message.encode("utf-8", "backslashreplace"))
    except BaseException:  # such as Ctrl-C
        os._exit(FAILED)
    os._exit(status)


def _read(reader: int, deadline: float) -> bytes | None:
    """Return all that comes until the other side closes; None when it does not in time."""
    said = b""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            return None
        part = os.read(reader, 65536)
        if not part:
            return said
        said += part


def _write(writer: int, status: int, message: str) -> None:
    said = bytes([status]) + message.encode("utf-8", "backslashreplace")
    try:
        while said:
            said = said[os.write(writer, said) :]
    except OSError:
        pass  # nobody waits any more


def _is_file(fd: int) -> bool:
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:
        return False


class _Reporter:
    """The daemon's end of the pipe, and its standard error before it is ready."""

    def __init__(self, writer: int, null: int) -> None:
        self._writer = writer
        self._null = null
        self._errors = os.fstat(2)
        # A worker must not keep the pipe open, nor the terminal.
        os.register_at_fork(after_in_child=self._let_go)

    def report(self, status: int, message: str) -> None:
        """Tell the process that was started how it went; see :func:`daemonize`."""
        if self._writer < 0:
            return
        _write(self._writer, status, message)
        if status == 0:
            self._let_go()
        else:
            os.close(self._writer)
            self._writer = -1

    def _let_go(self) -> None:
        if self._writer < 0:
            return
        os.close(self._writer)
        self._writer = -1
        # While it is the shell's, a pipe that somebody reads to its end would not end.
        try:
            if not _is_file(2) and os.path.samestat(os.fstat(2), self._errors):
                os.dup2(self._null, 2)
        except OSError:
            pass  # somebody closed it
        os.close(self._null)


# -- the pid file


class _Held(NamedTuple):
    path: str
    pid: int
    fd: int


_held: dict[str, _Held] = {}
"""Pid files of this process, by the path they were asked for."""


def write_pid(path: str) -> None:
    """Write this process's id to *path*, whole or not at all, and lock the file.

    A stale file is replaced. Raises :class:`ConfigurationError` when the process that wrote it
    lives, when *path* is a link or holds anything but a pid, or cannot be written. The lock is
    this process's alone: call it after :func:`daemonize`, and do not open the file elsewhere in
    the process, since closing it would give up the lock (fcntl(2)).
    """
    absolute = os.path.abspath(path)
    before = _held.pop(path, None)
    if before is not None:
        os.close(before.fd)
    try:
        directory = os.open(os.path.dirname(absolute), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigurationError(f"cannot write the pid file {path}: {error.strerror}") from error
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)  # two that start at once do not both find it stale
        other = holder(absolute)
        if other is not None:
            raise ConfigurationError(f"pid file {path}: process {other} runs already")
        _held[path] = _Held(absolute, os.getpid(), _write_and_lock(absolute))
    except OSError as error:
        raise ConfigurationError(f"cannot write the pid file {path}: {error.strerror}") from error
    finally:
        os.close(directory)


def _write_and_lock(path: str) -> int:
    part = f"{path}.{os.getpid()}"
    try:
        os.unlink(part)  # of a former process with this number
    except FileNotFoundError:
        pass
    fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(fd, f"{os.getpid()}\n".encode())
        os.rename(part, path)
    except OSError:
        os.unlink(part)
        os.close(fd)
        raise
    return fd


def remove_pid(path: str) -> None:
    """Remove what :func:`write_pid` wrote to *path*, if it is still this process's."""
    held = _held.get(path)
    if held is None or held.pid != os.getpid():
        return
    del _held[path]
    try:
        if os.path.samestat(os.lstat(held.path), os.fstat(held.fd)):
            os.unlink(held.path)
    except OSError:
        pass
    os.close(held.fd)


def holder(path: str) -> int | None:
    """Return the id of the living process that wrote the pid file *path*; None if there is none.

    Raises :class:`ConfigurationError` when *path* is a link, holds anything but a pid, or cannot
    be read.
    """
    absolute = os.path.abspath(path)
    for held in _held.values():
        if held.path == absolute and held.pid == os.getpid():
            return held.pid  # its own lock does not stop a process, and opening it would lose it
    try:
        fd = os.open(absolute, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        why = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise ConfigurationError(f"pid file {path}: {why}") from error
    try:
        text = os.read(fd, 64).strip() if stat.S_ISREG(os.fstat(fd).st_mode) else b"?"
        fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        locked = False
    except (BlockingIOError, PermissionError):
        locked = True
    except OSError as error:
        raise ConfigurationError(f"pid file {path}: {error.strerror}") from error
    finally:
        os.close(fd)
    # A file that was cut to nothing, as by a full disk, is stale; any other text is somebody's.
    if not (text.isdigit() or (text == b"" and not locked)):
        raise ConfigurationError(f"pid file {path}: there is a file of another kind")
    return int(text) if locked else None
