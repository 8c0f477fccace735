"""The blocking server: one process, one thread, one request at a time.

A connection that asked to be kept is parked between its requests, together with those that have
not sent anything yet, so that no idle connection captures the process (php-fpm's and libfcgi's
weakness): each turn takes one new connection and one request of every kept one that is ready.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from typing import TYPE_CHECKING

from ..sapi import ClientDisconnected, ProtocolError
from .channel import DETACHED, Channel, Poller

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..sapi import Sapi
    from .listener import Listener

    Session = Callable[[Channel], float | None]
    """Serves what is in ``channel.data`` and tells what becomes of the connection: None, it is
    closed; 0, it is kept; DETACHED, the session sees to it; else it is kept for so many seconds,
    unless something comes."""

_DONTWAIT = socket.MSG_DONTWAIT
LATE_SECONDS = 1.0
"""How long a server that stops waits for requests on connections that it has accepted."""
PATIENCE = 0.005  # seconds a fresh connection may take for its first byte before it is parked


class BlockingServer:
    """Accepts connections on *listeners* and gives each, with its first bytes, to *session*.

    *timeout* is the channels'; *idle_timeout* how long a connection may be silent before its
    first byte; *max_kept* how many connections are parked at most (the one silent longest goes
    first). *tick* is called about once a second and returns False to end, *idle* before it waits.
    The SAPI's ``terminating`` ends the server after the running request.
    """

    def __init__(
        self,
        listeners: Sequence[Listener],
        session: Session,
        sapi: Sapi,
        *,
        timeout: float = 60.0,
        idle_timeout: float = 10.0,
        max_kept: int = 1000,
        tick: Callable[[], bool] | None = None,
        idle: Callable[[], None] | None = None,
    ) -> None:
        self._listeners = listeners
        self._session = session
        self._sapi = sapi
        self._timeout = timeout
        self._idle_timeout = idle_timeout
        self._max_kept = max_kept
        self._tick = tick
        self._idle = idle
        self._parked: dict[int, Channel] = {}
        self._next_tick = 0.0
        self._poller = Poller()
        self._waker, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.stopping = False

    def stop(self) -> None:
        """End after the request that is being served. May be called from a signal handler."""
        self.stopping = True
        try:
            os.write(self._wake, b"x")
        except OSError:
            pass

    def run(self) -> None:
        """Serve until :meth:`stop`, or *tick* or the SAPI's ``terminating`` says so."""
        for listener in self._listeners:
            listener.socket.setblocking(False)
            self._poller.add_listener(listener.fd)
        self._poller.add(self._waker)
        try:
            if len(self._listeners) == 1:
                self._serve(self._listeners[0])
            else:
                self._serve_several()
            self._serve_late()
        finally:
            for channel in list(self._parked.values()):
                self._close_parked(channel)
            for listener in self._listeners:
                self._poller.remove(listener.fd)
            self._poller.close()
            os.close(self._waker)
            os.close(self._wake)

    def _serve_late(self) -> None:
        """Serve connections that were taken and whose request is still on its way.

        Nobody else can: they are this process's. Idle ones that were kept are not waited for, but
        a request that has come on one is served.
        """
        self._serve_ready(0.0)
        end = time.monotonic() + LATE_SECONDS
        while any(channel.deadline for channel in self._parked.values()):
            left = end - time.monotonic()
            if left <= 0:
                return
            self._serve_ready(left)

    def _serve_ready(self, timeout: float) -> None:
        for fd in self._poller.wait(timeout):
            channel = self._parked.get(fd)
            if channel is not None:
                self._unpark(channel)
                self._turn(channel)

    def _serve(self, listener: Listener) -> None:
        accept, family, kind = listener.accept, listener.family, socket.SOCK_STREAM
        while not self.stopping:
            try:
                fd, peer = accept()
            except BlockingIOError:
                self._wait(1.0)
                continue
            except OSError as error:
                self._accept_failed(error)
                continue
            if listener.allows is not None and not listener.allows(peer):
                os.close(fd)
                continue
            channel = Channel(socket.SocketType(family, kind, 0, fd), fd, self._timeout)
            try:
                channel.data = channel.socket.recv(65536, _DONTWAIT)
            except BlockingIOError:
                ready = False
            except OSError:
                channel.close()
                continue
            else:
                ready = True
            if ready:
                self._handle(channel)
            elif channel.wait(1, PATIENCE):
                self._turn(channel)
            else:
                self._park(channel, self._idle_timeout)
            if self._parked or time.monotonic() >= self._next_tick:
                self._wait(0.0)

    def _serve_several(self) -> None:
        while not self.stopping:
            served = [self._accept_from(listener) for listener in self._listeners]
            self._wait(0.0 if any(served) else 1.0)

    def _accept_from(self, listener: Listener) -> bool:
        """Serve one new connection of *listener*; False when none waits."""
        if self.stopping:
            return False
        try:
            fd, peer = listener.accept()
        except BlockingIOError:
            return False
        except OSError as error:
            self._accept_failed(error)
            return False
        if listener.allows is not None and not listener.allows(peer):
            os.close(fd)
            return True
        connection = socket.SocketType(listener.family, socket.SOCK_STREAM, 0, fd)
        channel = Channel(connection, fd, self._timeout)
        if channel.wait(1, PATIENCE):
            self._turn(channel)
        else:
            self._park(channel, self._idle_timeout)
        return True

    def _turn(self, channel: Channel) -> None:
        """Serve one request of *channel*, which can be read."""
        data = channel.receive_now()
        if data is None:
            self._park(channel, self._idle_timeout)
        elif data:
            channel.data += data
            self._handle(channel)
        else:
            channel.close()

    def _handle(self, channel: Channel) -> None:
        try:
            patience = self._session(channel)
        except (ClientDisconnected, ProtocolError) as error:
            if isinstance(error, ProtocolError):
                self._sapi.sapi_error(error, "reading from the web server")
            channel.reset()
            patience = None
        except BaseException:
            channel.reset()
            raise
        if self._sapi.terminating:
            self.stopping = True
        if patience is not None and patience != DETACHED:
            self._park(channel, patience)

    def _park(self, channel: Channel, patience: float) -> None:
        """Wait for *channel* with the others; *patience* seconds, 0 for as long as it likes."""
        channel.deadline = time.monotonic() + patience if patience else 0.0
        if len(self._parked) >= self._max_kept:
            self._close_parked(next(iter(self._parked.values())))
        self._parked[channel.fd] = channel
        if not channel.registered:
            channel.registered = True
            self._poller.add(channel.fd)

    def _close_parked(self, channel: Channel) -> None:
        self._unpark(channel)
        if channel.session is not None:
            channel.session.dropped()
        channel.close()

    def _wait(self, timeout: float) -> None:
        """Serve one request of each parked connection that is ready; tick when it is time."""
        if any(channel.data for channel in self._parked.values()):
            timeout = 0.0
            for channel in [c for c in self._parked.values() if c.data]:
                self._unpark(channel)
                self._handle(channel)
        if timeout and self._idle is not None:
            self._idle()
        for fd in self._poller.wait(timeout):
            ready = self._parked.pop(fd, None)
            if ready is not None:
                if not self._poller.forgets:
                    self._forget(ready)
                self._turn(ready)
                if self.stopping:
                    break
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + 1.0
            for channel in list(self._parked.values()):
                if channel.deadline and channel.deadline < now:
                    self._close_parked(channel)
            if self._idle is not None:
                self._idle()
            if self._tick is not None and not self._tick():
                self.stopping = True

    def _unpark(self, channel: Channel) -> None:
        del self._parked[channel.fd]
        self._forget(channel)

    def _forget(self, channel: Channel) -> None:
        channel.registered = False
        self._poller.remove(channel.fd)

    def _accept_failed(self, error: OSError) -> None:
        if error.errno in _EXHAUSTED and self._parked:
            self._close_parked(next(iter(self._parked.values())))
        if not accept_failed(error, self._sapi):
            self.stopping = True


_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def accept_failed(error: OSError, sapi: Sapi) -> bool:
    """Judge a failed accept: True to go on, after a pause when the machine is out of something.

    A connection that was gone before it was taken (ECONNABORTED, EPROTO) is nobody's failure.
    """
    if error.errno in _EXHAUSTED:
        sapi.log_message(f"accept: {error.strerror}; waiting")
        time.sleep(0.1)
    elif error.errno in (errno.EBADF, errno.EINVAL, errno.ENOTSOCK):
        sapi.log_message(f"accept: {error.strerror}: the listening socket is gone")
        return False
    return True
