"""The master's control socket: who asks for a reload learns how it ended.

The socket has no file: its name is in Linux's abstract namespace and holds the master's process
id, so whoever knows the pid file knows the socket. Both sides ask the kernel who the other is:
the master serves its own user and root, and the client talks to no process but the one it means.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

from ..sapi import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .master import Waiting

ORDERS = {
    "reload": signal.SIGHUP,
    "upgrade": None,
    "reopen": signal.SIGUSR1,
    "quit": signal.SIGQUIT,
    "stop": signal.SIGTERM,
}
"""What may be asked for, and the signal that does the same without an answer."""
_ANSWERED_LATER = ("reload", "upgrade")
_LINE = 4096
_PEERS = 16
_PATIENCE = 3.0


def _name(pid: int) -> str:
    return f"\0sapi_adapters/{pid}"


def _peer(connection: socket.socket) -> tuple[int, int]:
    """Return process id and user id of the other side."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, _ = struct.unpack("=iII", raw)
    return pid, uid


class Control:
    """The master's side. *asked* is called with each order."""

    def __init__(self, asked: Callable[[str], None], log: Callable[[str, str], None]) -> None:
        self._asked = asked
        self._log = log
        self._socket: socket.socket | None = None
        self._waiting: Waiting | None = None
        self._clients: list[socket.socket] = []
        self._asking: list[socket.socket] = []
        """Those who wait for the end of a reload."""

    def open(self, waiting: Waiting) -> None:
        """Listen, where the system has such sockets; without one signals still do."""
        if not sys.platform.startswith("linux"):
            return
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(_name(os.getpid()))
            listening.listen(_PEERS)
        except OSError as error:
            listening.close()
            self._log(f"no control socket: {error.strerror}", "warning")
            return
        listening.setblocking(False)
        self._socket = listening
        self._waiting = waiting
        waiting.add(listening.fileno(), self._accept)

    def close(self) -> None:
        """Close it and every connection."""
        for client in self._clients:
            client.close()
        self._clients.clear()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _accept(self) -> None:
        assert self._socket is not None and self._waiting is not None  # noqa: S101 - open() set both
        try:
            client, _ = self._socket.accept()
        except OSError:
            return
        client.setblocking(False)
        _, user = _peer(client)
        if user not in (0, os.geteuid()) or len(self._clients) >= _PEERS:
            client.close()
            return
        self._clients.append(client)
        self._waiting.add(client.fileno(), partial(self._read, client))

    def _read(self, client: socket.socket) -> None:
        try:
            order = client.recv(_LINE).decode("ascii", "replace").strip()
        except OSError:
            order = ""
        if order not in ORDERS:
            self._drop(client)
            return
        self._log(f"asked to {order} over the control socket", "debug")
        if order in _ANSWERED_LATER:
            self._asking.append(client)
        self._asked(order)
        if order not in _ANSWERED_LATER:
            self._send(client, "ok")

    def asking(self) -> list[int]:
        """Return the descriptors of those who wait for an answer."""
        return [client.fileno() for client in self._asking]

    def adopt(self, descriptors: list[int], waiting: Waiting) -> None:
        """Take over those who asked an earlier program of this process."""
        self._waiting = waiting
        for fd in descriptors:
            client = socket.socket(fileno=fd)
            client.setblocking(False)
            client.set_inheritable(False)
            self._clients.append(client)
            self._asking.append(client)
            waiting.add(fd, partial(self._read, client))

    def answer(self, text: str) -> None:
        """Tell all who asked for a reload how it ended."""
        for client in list(self._asking):
            self._send(client, text)

    def _send(self, client: socket.socket, text: str) -> None:
        try:
            client.send(text.encode("utf-8", "replace")[:65536])
        except OSError:
            pass
        self._drop(client)

    def _drop(self, client: socket.socket) -> None:
        if self._waiting is not None:
            self._waiting.remove(client.fileno())
        for clients in (self._clients, self._asking):
            if client in clients:
                clients.remove(client)
        client.close()


def ask(pid: int, order: str, timeout: float = 600.0) -> str:
    """Ask the master *pid* for *order*; return what it answers: ``"ok"`` or ``"error: ..."``.

    Raises :class:`ConfigurationError` when there is no such master, or no answer in *timeout*
    seconds.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            _connect(connection, pid)
            if _peer(connection)[0] != pid:
                raise ConfigurationError(f"process {pid} is no master of ours")
            connection.sendall(order.encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        except TimeoutError:
            raise ConfigurationError(f"no answer to {order} within {timeout:g} s") from None
        except OSError as error:
            raise ConfigurationError(f"process {pid} does not answer: {error.strerror}") from error
    if not answer:
        raise ConfigurationError(f"process {pid} closed the connection: is it another user's?")
    return answer.decode("utf-8", "replace")


def _connect(connection: socket.socket, pid: int) -> None:
    """Connect; a master that is becoming another program has no socket for a moment."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            connection.connect(_name(pid))
        except ConnectionRefusedError:
            if time.monotonic() > end or not _lives(pid):
                raise
            time.sleep(0.05)
        else:
            return


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def read_pid(path: str) -> int:
    """Return the process id in the file *path*; :class:`ConfigurationError` without one."""
    try:
        with open(path) as file:
            text = file.read(64).strip()
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ConfigurationError(f"{path} holds no process id")
    return int(text)
