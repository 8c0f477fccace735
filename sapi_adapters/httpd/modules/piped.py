"""A program that keeps the program of a piped log running: ``python piped.py PROGRAM ARG...``.

Standard input is the log's pipe. A program that ends is started again, once a second at most;
what was written meanwhile waits in the pipe. When nobody has the other end any more, the host and
its processes are gone: the program gets what is left and has ten seconds to end by itself.

The master cannot do it: it starts nothing but its workers, and these have no rights to.
Executed as a file, in an interpreter of its own; it imports nothing of the project.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

_AGAIN = 1.0
_LAST = 10.0


def main(program: list[str]) -> int:
    """Run *program* until the pipe is closed; return what it ended with."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    poll = select.poll()
    poll.register(0, 0)  # only that it was closed
    poll.register(reading, select.POLLIN)
    while True:
        began = time.monotonic()
        child = _start(program)
        ended = None if child else 127
        while ended is None:
            if any(fd == 0 for fd, _ in poll.poll()):
                return _finish(child)
            os.read(reading, 512)
            ended = _ended(child)
        _say(f"{program[0]} ended with status {ended}, it starts again")
        time.sleep(max(0.0, began + _AGAIN - time.monotonic()))
        if any(fd == 0 for fd, _ in poll.poll(0)):
            return _finish(_start(program))  # for what was written meanwhile


def _start(program: list[str]) -> int:
    """Return the pid of *program*, 0 when it cannot be started."""
    try:
        return os.posix_spawnp(program[0], program, os.environ)
    except OSError as error:
        _say(f"{program[0]}: {error.strerror}")
        return 0


def _finish(child: int) -> int:
    """Let *child* read to the end; end it if it does not."""
    for number in (0, signal.SIGTERM, signal.SIGKILL) if child else ():
        if number:
            os.kill(child, number)
        end = time.monotonic() + _LAST
        while time.monotonic() < end:
            status = _ended(child)
            if status is not None:
                return status & 0xFF
            time.sleep(0.05)
    return 1


def _ended(child: int) -> int | None:
    """Return the exit status of *child*, None while it runs."""
    pid, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if pid else None


def _say(text: str) -> None:
    try:
        sys.stderr.write(f"piped log: {text}\n")
        sys.stderr.flush()
    except OSError:
        pass  # there is nobody to tell


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
