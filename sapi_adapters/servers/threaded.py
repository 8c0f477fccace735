"""The threaded server: one process, several threads, each serving one request at a time.

No thread hands a connection to another: each accepts for itself, and the kernel wakes one of
those that wait. Connections that are kept, or read while their requests run, wait in one set for
any idle thread. The main thread serves nothing: it is there for signals, deadlines and the tick.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from ..sapi import ClientDisconnected, ProtocolError
from .blocking import LATE_SECONDS, PATIENCE, accept_failed
from .channel import DETACHED, Channel, Poller

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..sapi import Sapi
    from .blocking import Session
    from .listener import Listener

_DONTWAIT = socket.MSG_DONTWAIT


class ThreadedServer:
    """Serves *listeners* with *threads* threads; the other arguments are ``BlockingServer``'s.

    *session* may be called by several threads at once, for one connection too if it was given to
    :meth:`watch`.
    """

    def __init__(
        self,
        listeners: Sequence[Listener],
        session: Session,
        sapi: Sapi,
        *,
        threads: int,
        timeout: float = 60.0,
        idle_timeout: float = 10.0,
        max_kept: int = 1000,
        tick: Callable[[], bool] | None = None,
    ) -> None:
        self._listeners = {listener.fd: listener for listener in listeners}
        self._session = session
        self._sapi = sapi
        self._threads = threads
        self._timeout = timeout
        self._idle_timeout = idle_timeout
        self._max_kept = max_kept
        self._tick = tick
        self._parked: dict[int, Channel] = {}
        self._jobs: deque[Callable[[], Any]] = deque()
        self._poller = Poller()
        self._job_ready, self._job_put = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._waker, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.stopping = False

    def stop(self) -> None:
        """End after the requests that are being served. May be called from a signal handler."""
        self.stopping = True
        try:
            os.write(self._wake, b"x")
        except OSError:
            pass

    def refuse_more(self) -> None:
        """Accept nothing from now on: the process is about to end. For a signal handler.

        An unconnected socket takes the listeners' numbers, so that no thread that is on its way
        to accept() takes a connection with it; those that wait there are another process's.
        """
        self.stopping = True
        with socket.socket(socket.AF_UNIX) as deaf:
            for fd in self._listeners:
                os.dup2(deaf.fileno(), fd, inheritable=False)

    def run(self) -> None:
        """Serve until :meth:`stop`, or *tick* or the SAPI's ``terminating`` says so."""
        for listener in self._listeners.values():
            listener.socket.setblocking(False)
            self._poller.add(listener.fd)
        self._poller.add(self._job_ready)
        workers = [
            threading.Thread(target=self._work, name=f"worker-{n}", daemon=True)
            for n in range(self._threads)
        ]
        for worker in workers:
            worker.start()
        waiting = Poller()
        waiting.add(self._waker)
        try:
            while not self.stopping:
                waiting.wait(1.0)
                self._close_late()
                if self._tick is not None and not self._tick():
                    self.stopping = True
            os.write(self._job_put, b"x" * len(workers))  # wakes each thread that waits
            for worker in workers:
                while worker.is_alive():
                    worker.join(1.0)
                    if self._tick is not None:
                        self._tick()
            self._serve_late()
        finally:
            self.stopping = True
            waiting.close()
            for channel in list(self._parked.values()):
                self._parked.pop(channel.fd, None)
                channel.close()

    def _serve_late(self) -> None:
        """As ``BlockingServer._serve_late``, when the threads have ended."""
        end = time.monotonic() + LATE_SECONDS
        while late := [channel for channel in self._parked.values() if channel.deadline]:
            if time.monotonic() > end:
                return
            for channel in late:
                if channel.wait(1, 0.01) and self._parked.pop(channel.fd, None) is channel:
                    self._turn(channel)

    # -- what a session asks for

    def submit(self, job: Callable[[], Any]) -> None:
        """Let an idle thread call *job*."""
        self._jobs.append(job)
        os.write(self._job_put, b"x")

    def watch(self, channel: Channel) -> None:
        """Call the session for *channel*, from any idle thread, when something can be read."""
        if self._parked.get(channel.fd) is not channel:
            channel.deadline = 0.0
            self._park(channel)

    def unwatch(self, channel: Channel) -> None:
        """Forget *channel*, which is about to be closed."""
        self._parked.pop(channel.fd, None)
        self._drop(channel)

    # -- the threads

    def _work(self) -> None:
        listeners = list(self._listeners.values())
        accept, family = listeners[0].accept, listeners[0].family
        only = listeners[0] if len(listeners) == 1 else None
        while not self.stopping:
            if only is None or self._parked or self._jobs:
                self._wait()
                continue
            try:
                fd, peer = accept()
            except BlockingIOError:
                self._wait()
            except OSError as error:
                self._failed(error)
            else:
                if only.allows is not None and not only.allows(peer):
                    os.close(fd)
                else:
                    self._fresh(fd, family)

    def _wait(self) -> None:
        """Take one thing to do: a connection, a kept connection's request, a job."""
        for fd in self._poller.wait(1.0, 1):
            channel = self._parked.pop(fd, None)
            if channel is not None:
                self._turn(channel)
                continue
            listener = self._listeners.get(fd)
            if listener is not None:
                try:
                    fresh, peer = listener.accept()
                except BlockingIOError:
                    continue
                except OSError as error:
                    self._failed(error)
                    continue
                if listener.allows is not None and not listener.allows(peer):
                    os.close(fresh)
                    continue
                self._fresh(fresh, listener.family)
            elif fd == self._job_ready:
                self._run_job()

    def _run_job(self) -> None:
        try:
            os.read(self._job_ready, 1)
            job = self._jobs.popleft()
        except (BlockingIOError, IndexError):
            return
        self._guard(job)

    def _fresh(self, fd: int, family: int) -> None:
        channel = Channel(socket.SocketType(family, socket.SOCK_STREAM, 0, fd), fd, self._timeout)
        try:
            channel.data = channel.socket.recv(65536, _DONTWAIT)
        except BlockingIOError:
            ready = False
        except OSError:
            channel.close()
            return
        else:
            ready = True
        if ready:
            self._handle(channel)
        elif channel.wait(1, PATIENCE):
            self._turn(channel)
        else:
            channel.deadline = time.monotonic() + self._idle_timeout
            self._park(channel)

    def _turn(self, channel: Channel) -> None:
        if channel.session is not None:  # the session reads for itself: others may be reading, too
            self._handle(channel)
            return
        data = channel.receive_now()
        if data is None:
            self._park(channel)
        elif data:
            channel.data = data
            self._handle(channel)
        else:
            self._drop(channel)
            channel.close()

    def _handle(self, channel: Channel) -> None:
        try:
            patience = self._session(channel)
        except (ClientDisconnected, ProtocolError) as error:
            if isinstance(error, ProtocolError):
                self._sapi.sapi_error(error, "reading from the web server")
            self._drop(channel)
            channel.reset()
            patience = None
        except Exception:
            self._sapi.log_exception("error in a worker thread")
            self._drop(channel)
            channel.reset()
            patience = None
        if self._sapi.terminating:
            self.stop()
        if patience is not None and patience != DETACHED:
            channel.deadline = time.monotonic() + patience if patience else 0.0
            self._park(channel)

    def _guard(self, job: Callable[[], Any]) -> None:
        try:
            job()
        except Exception:
            self._sapi.log_exception("error in a worker thread")

    def _park(self, channel: Channel) -> None:
        """Let the next thread that is idle take *channel* when it can be read."""
        if len(self._parked) >= self._max_kept:
            for fd, other in list(self._parked.items()):
                if other.session is None and self._parked.pop(fd, None) is other:
                    self._drop(other)
                    other.close()
                    break
        fd = channel.fd
        self._parked[fd] = channel
        if channel.registered:
            self._poller.again(fd)
        else:
            channel.registered = True
            self._poller.add(fd, once=True)

    def _drop(self, channel: Channel) -> None:
        if channel.registered:
            channel.registered = False
            try:
                self._poller.remove(channel.fd)
            except (OSError, KeyError, ValueError):  # closed already
                pass

    def _close_late(self) -> None:
        """Close connections that were silent too long before a request."""
        now = time.monotonic()
        for fd, channel in list(self._parked.items()):
            if channel.deadline and channel.deadline < now:
                if self._parked.pop(fd, None) is channel:  # else a thread has just taken it
                    self._drop(channel)
                    if channel.session is not None:
                        channel.session.dropped()
                    channel.close()

    def _failed(self, error: OSError) -> None:
        if self.stopping:
            return
        if not accept_failed(error, self._sapi):
            self.stop()
