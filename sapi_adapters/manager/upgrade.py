"""The master becomes another program in place: same process id, same sockets, same workers.

It executes its own command line again, which finds the new version of everything. Its children
stay its children. What the new program must know goes through a file without a name, of which the
environment has the descriptor: the listening sockets, and of each pool its generation, its
scoreboard and its workers, which serve until the new program's own are ready.

Before that the command line is tried in a child (:data:`TRIAL` in its environment): a program
that does not start, a configuration that it refuses, or an address, a log or a pid file that it
cannot have, ends nothing.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

from ..sapi import ConfigurationError
from .children import MANAGED, Child
from .policy import LEAVING, READY, STARTING
from .scoreboard import LAYOUT, Scoreboard

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .pool import Group

TRIAL = "SAPI_ADAPTERS_TRIAL"
"""Set in the environment of a program that is only to see whether it would start. It holds what
that would be given: the labels of the listeners, and the pid file."""
STATE = "SAPI_ADAPTERS_STATE"
"""Holds the process id and the descriptor of what an earlier program left."""
_TRIAL_SECONDS = 60.0
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_directory = os.getcwd()
_command = [sys.executable, *sys.orig_argv[1:]]


def command() -> list[str]:
    """Return the command line of this program."""
    return list(_command)


def _fingerprint() -> dict[str, tuple[int, int] | None]:
    """Return what the files of this program look like: the interpreter's, and the project's.

    Empty when that cannot be known, as without a free descriptor.
    """
    files = [sys.executable]
    errors: list[OSError] = []
    for folder, _, names in os.walk(_PACKAGE, onerror=errors.append):
        files += [os.path.join(folder, name) for name in names if name.endswith(".py")]
    found: dict[str, tuple[int, int] | None] = {}
    for path in files:
        try:
            status = os.stat(path)
        except OSError:
            found[path] = None
        else:
            found[path] = status.st_mtime_ns, status.st_size
    return {} if errors else found


class Program:
    """This program as it was when it started."""

    def __init__(self) -> None:
        self._files = _fingerprint()
        self.trial = 0
        """The process that tries whether the new program would start; 0 when none does."""
        self.trial_until = 0.0

    def changed(self) -> bool:
        """Tell whether it was replaced on the disk: new workers would be of two versions."""
        return _fingerprint() not in ({}, self._files)

    def try_it(self, environ: dict[str, str], serving: dict[str, Any]) -> None:
        """Start the trial, which is told what is *serving*.

        Raises :class:`ConfigurationError` when not even that is possible.
        """
        environ = {**os.environ, **environ, TRIAL: json.dumps(serving)}
        try:
            where = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.chdir(_directory)
                self.trial = os.posix_spawn(_command[0], _command, environ)
            finally:
                os.fchdir(where)
                os.close(where)
        except OSError as error:
            raise ConfigurationError(f"cannot start {_command[0]}: {error.strerror}") from error
        self.trial_until = time.monotonic() + _TRIAL_SECONDS

    def late(self, now: float) -> bool:
        """Tell whether the trial takes too long; it is killed then."""
        if self.trial and now > self.trial_until:
            self.give_up()
            return True
        return False

    def give_up(self) -> None:
        """End the trial, if there is one."""
        if self.trial:
            os.kill(self.trial, signal.SIGKILL)


def execute(state: dict[str, Any], descriptors: Iterable[int], environ: dict[str, str]) -> None:
    """Become the new program; returns only by raising OSError.

    *state* is for :func:`inherited`; *descriptors* live on. Signals wait until the new program
    has its handlers.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    fd = _write(state)
    kept = [*descriptors, fd]
    for each in kept:
        os.set_inheritable(each, True)
    before = os.getcwd()
    signal.pthread_sigmask(signal.SIG_BLOCK, MANAGED)
    try:
        os.chdir(_directory)
        os.execve(  # noqa: S606 - its own command line
            _command[0], _command, {**os.environ, **environ, STATE: f"{os.getpid()}:{fd}"}
        )
    finally:
        os.chdir(before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, MANAGED)
        for each in kept:
            os.set_inheritable(each, False)
        os.close(fd)


def _write(state: dict[str, Any]) -> int:
    import tempfile

    with tempfile.TemporaryFile() as file:
        file.write(json.dumps(state).encode())
        file.flush()
        return os.dup(file.fileno())


def labels_before() -> list[str]:
    """Return what the program that this one is to replace listens on; empty when there is none."""
    if TRIAL in os.environ:
        labels: list[str] = json.loads(os.environ[TRIAL])["labels"]
        return labels
    _, _, fd = os.environ.get(STATE, "").partition(":")
    try:
        sockets = json.loads(json.loads(os.pread(int(fd), 1 << 24, 0))["sockets"])
    except (OSError, ValueError, KeyError):
        return []
    return [each["label"] for each in sockets]


def inherited() -> dict[str, Any] | None:
    """Return what an earlier program of this process left, once; None when there was none."""
    pid, _, fd = os.environ.pop(STATE, "").partition(":")
    if pid != str(os.getpid()) or not fd.isdigit():
        return None
    try:
        with open(int(fd), "rb") as file:
            file.seek(0)
            state: dict[str, Any] = json.load(file)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{STATE}: {error}") from error
    return state


def describe_group(group: Group, descriptors: list[int]) -> dict[str, Any]:
    """Return what the next program must know of *group*; adds to *descriptors* what lives on."""
    board = group.board
    descriptors.append(board.fd)
    children = []
    for child in group.children.values():
        descriptors += [child.link.fileno(), *child.outputs]
        if child.trace_fd >= 0:
            descriptors.append(child.trace_fd)
        children.append(
            {
                "number": child.number,
                "generation": child.generation,
                "pid": child.pid,
                "link": child.link.fileno(),
                "index": child.index if child.slot.memory is board.memory else -1,
                "started": child.started,
                "state": child.state,
                "told": child.told,
                "since": child.since,
                "how": child.how,
                "patience": child.patience,
                "capacity": child.slot.capacity,
                "trace": child.trace_fd,
                "readers": [(fd, name) for fd, name in child.readers if fd in child.outputs],
            }
        )
    return {
        "name": group.name,
        "layout": LAYOUT,
        "board": board.fd,
        "size": board.size,
        "generation": group.generation,
        "number": group.number,
        "retired": group.retired,
        "children": children,
    }


def board_of(known: dict[str, Any]) -> Scoreboard | None:
    """Return the scoreboard that *known* tells of; None when it has another form by now."""
    if known["layout"] != LAYOUT:
        os.close(known["board"])
        return None
    os.set_inheritable(known["board"], False)
    board = Scoreboard(known["size"], fd=known["board"])
    board.load_head()
    return board


def children_of(known: dict[str, Any], board: Scoreboard | None) -> list[Child]:
    """Return the workers that *known* tells of; on a *board* of another form they show nothing."""
    found = []
    for each in known["children"]:
        fds: Sequence[int] = [each["link"], *(fd for fd, _ in each["readers"])]
        for fd in fds:
            os.set_inheritable(fd, False)
        link = socket.socket(fileno=each["link"])
        link.setblocking(False)
        own = board is not None and each["index"] >= 0
        slots = board if own and board is not None else Scoreboard(1)
        index = each["index"] if own else 0
        child = Child(
            each["number"],
            each["generation"],
            each["pid"],
            link,
            slots.slot(index),
            index,
            each["started"],
        )
        child.state = each["state"] if each["state"] in (READY, LEAVING) else STARTING
        child.told, child.since, child.how = each["told"], each["since"], each["how"]
        child.patience, child.trace_fd = each["patience"], each["trace"]
        child.slot.set_capacity(each["capacity"])
        child.readers = [(fd, name) for fd, name in each["readers"]]
        if child.trace_fd >= 0:
            os.set_inheritable(child.trace_fd, False)
        found.append(child)
    return found
