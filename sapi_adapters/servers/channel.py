"""A connected socket with deadlines, and the set of descriptors a server waits on.

Only the rooms in servers/ touch a connected socket. Reads and writes are first tried without
waiting, as front ends write a request right after they connect and read the response while it is
written; only what would have to wait pays for a poll.
"""

from __future__ import annotations

import select
import selectors
import socket
from typing import TYPE_CHECKING

from ..sapi import ClientDisconnected

if TYPE_CHECKING:
    from typing import Any

_DONTWAIT = socket.MSG_DONTWAIT
MORE = _DONTWAIT | getattr(socket, "MSG_MORE", 0)
_BLOCK = 65536

DETACHED = -1.0
"""What a session returns when it has arranged itself for what becomes of the connection."""


class Channel:
    """One accepted connection, in the blocking servers.

    *timeout* is how many seconds the peer may neither send what is due nor take what is sent.
    """

    __slots__ = ("data", "deadline", "fd", "registered", "session", "socket", "timeout")

    def __init__(self, connection: socket.SocketType, fd: int, timeout: float) -> None:
        self.socket = connection
        self.fd = fd
        self.timeout = timeout
        self.data = b""
        """What came already and nobody has looked at."""
        self.deadline = 0.0
        self.registered = False
        self.session: Any = None
        """What the adapter keeps about this connection from one turn to the next."""

    def receive(self) -> bytes:
        """Return the next bytes, ``b""`` at the end; wait for them.

        Raises :class:`ClientDisconnected` when the peer is gone or stays silent for *timeout*.
        """
        try:
            return self.socket.recv(_BLOCK, _DONTWAIT)
        except BlockingIOError:
            pass
        except OSError as error:
            raise ClientDisconnected(str(error)) from error
        if not self.wait(select.POLLIN, self.timeout):
            raise ClientDisconnected(f"nothing came for {self.timeout:.0f} s")
        try:
            return self.socket.recv(_BLOCK)
        except OSError as error:
            raise ClientDisconnected(str(error)) from error

    def receive_now(self) -> bytes | None:
        """Return what is there, ``b""`` at the end, None when there is nothing yet."""
        try:
            return self.socket.recv(_BLOCK, _DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def send(self, data: bytes, flags: int = _DONTWAIT) -> None:
        """Send all of *data*; :class:`ClientDisconnected` when the peer does not take it.

        With :data:`MORE` as *flags* it may wait in the kernel for what is sent right after it.
        """
        try:
            sent = self.socket.send(data, flags)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise ClientDisconnected(str(error)) from error
        if sent != len(data):
            self._send_rest(memoryview(data)[sent:])

    def send_last(self, data: bytes, exchange: Any) -> None:
        """As :meth:`send`; *exchange* is told, by ``is_ending()``, if the peer is waited for."""
        try:
            sent = self.socket.send(data, _DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise ClientDisconnected(str(error)) from error
        if sent != len(data):
            exchange.is_ending()
            self._send_rest(memoryview(data)[sent:])

    def _send_rest(self, data: memoryview) -> None:
        while data:
            if not self.wait(select.POLLOUT, self.timeout):
                raise ClientDisconnected(f"nothing was taken for {self.timeout:.0f} s")
            try:
                data = data[self.socket.send(data, _DONTWAIT) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise ClientDisconnected(str(error)) from error

    def send_file(self, fd: int, offset: int, length: int) -> None:
        """Send *length* bytes of the file *fd* from *offset* on, without reading them here.

        Raises :class:`ClientDisconnected` as :meth:`send`, and when the file is shorter by now.
        """
        import os

        while length > 0:
            try:
                sent = os.sendfile(self.fd, fd, offset, min(length, 1 << 30))
            except BlockingIOError:
                if not self.wait(select.POLLOUT, self.timeout):
                    raise ClientDisconnected(
                        f"nothing was taken for {self.timeout:.0f} s"
                    ) from None
                continue
            except OSError as error:
                raise ClientDisconnected(str(error)) from error
            if not sent:
                raise ClientDisconnected("the file became shorter while it was being sent")
            offset, length = offset + sent, length - sent

    def wait(self, mask: int, timeout: float) -> bool:
        """Wait until the socket can be read or written; False when *timeout* seconds passed."""
        poll = select.poll()
        poll.register(self.fd, mask)
        return bool(poll.poll(timeout * 1000))

    def close(self) -> None:
        """Close a connection on which nothing is outstanding."""
        self.socket.close()

    def close_lingering(self, seconds: float = 2.0, limit: int = 1 << 20) -> None:
        """Close while the peer may still be sending, and let it read the response first.

        Closing over unread bytes resets the connection and can destroy the response, so the
        write side goes first and what still comes is drained, bounded in time and bytes.
        """
        import time

        try:
            self.socket.shutdown(socket.SHUT_WR)
            end = time.monotonic() + seconds
            while limit > 0 and (left := end - time.monotonic()) > 0:
                if not self.wait(select.POLLIN, left):
                    break
                data = self.socket.recv(_BLOCK, _DONTWAIT)
                if not data:
                    break
                limit -= len(data)
        except OSError:
            pass
        self.socket.close()

    def reset(self) -> None:
        """Close so that the peer sees a failure and no plain end, where the socket can tell."""
        try:
            linger = b"\1\0\0\0\0\0\0\0"  # struct linger {1, 0}
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        except OSError:
            pass
        self.socket.close()


class Poller:
    """The descriptors one server waits on: epoll where there is one, else what selectors finds."""

    def __init__(self) -> None:
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        self._selector = selectors.DefaultSelector() if self._epoll is None else None

    @property
    def forgets(self) -> bool:
        """Whether a descriptor that is closed need not be removed before: epoll's way."""
        return self._epoll is not None

    def add_listener(self, fd: int) -> None:
        """Watch a listening socket that other processes watch too: one of them is woken."""
        if self._epoll is not None:
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        else:
            self.add(fd)

    def add(self, fd: int, *, once: bool = False) -> None:
        """Watch *fd* for reading; with *once* it is reported one time, until :meth:`again`."""
        if self._epoll is not None:
            self._epoll.register(fd, select.EPOLLIN | (select.EPOLLONESHOT if once else 0))
        elif self._selector is not None:
            self._selector.register(fd, selectors.EVENT_READ)

    def again(self, fd: int) -> None:
        """Watch *fd*, which was reported once, one more time."""
        if self._epoll is not None:
            self._epoll.modify(fd, select.EPOLLIN | select.EPOLLONESHOT)

    def remove(self, fd: int) -> None:
        """Watch *fd* no longer."""
        if self._epoll is not None:
            self._epoll.unregister(fd)
        elif self._selector is not None:
            self._selector.unregister(fd)

    def wait(self, timeout: float, limit: int = -1) -> list[int]:
        """Return the readable descriptors, at most *limit*; wait up to *timeout* seconds."""
        if self._epoll is not None:
            return [fd for fd, _ in self._epoll.poll(timeout, limit)]
        assert self._selector is not None  # noqa: S101 - one of the two is always there
        return [key.fd for key, _ in self._selector.select(timeout)]

    def close(self) -> None:
        """Give the descriptor back."""
        (self._epoll or self._selector).close()  # type: ignore[union-attr]
