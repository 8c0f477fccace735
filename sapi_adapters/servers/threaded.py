"""The threaded server: one process, several threads, each serving one request at a time.

No thread hands a connection to another: each accepts for itself, and the kernel wakes one of
those that wait. Connections that are kept, or read while their requests run, wait in one set for
any idle thread. The main thread serves nothing: it is there for signals, deadlines and the tick.

Threads are started as they are needed. Whoever takes something to do looks, after it has left the
idle ones, how many of them remain, and starts another before it begins if they are too few. So
whatever comes next finds a thread, unless there are as many as there may be.
"""

from __future__ import annotations

import itertools
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
_QUIET = 0.9
"""Seconds without anything to do after which a thread beyond max_spare ends; less than it waits."""
_COMPLAIN_EVERY = 60.0


class ThreadedServer:
    """Serves *listeners* with up to *threads* threads; what is not told here is as in
    ``BlockingServer``.

    *min_spare* threads, at least one, wait for something to do, as long as no more than *threads*
    are there; of those that have waited for about a second *max_spare* stay (no fewer than
    *min_spare*), all if it is None. *session* may be called by several threads at once, for one
    connection too if it was given to :meth:`watch`.
    """

    def __init__(
        self,
        listeners: Sequence[Listener],
        session: Session,
        sapi: Sapi,
        *,
        threads: int,
        min_spare: int = 1,
        max_spare: int | None = None,
        timeout: float = 60.0,
        idle_timeout: float = 10.0,
        max_kept: int = 1000,
        tick: Callable[[], bool] | None = None,
    ) -> None:
        self._listeners = {listener.fd: listener for listener in listeners}
        self._session = session
        self._sapi = sapi
        self._most = threads
        self._min_spare = max(1, min_spare)
        self.max_spare = max_spare
        """May be changed while the server runs."""
        self._timeout = timeout
        self._idle_timeout = idle_timeout
        self._max_kept = max_kept
        self._tick = tick
        self._parked: dict[int, Channel] = {}
        self._jobs: deque[Callable[[], Any]] = deque()
        self._poller = Poller()
        self._job_ready, self._job_put = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._waker, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._idle: list[None] = []
        """One for each idle thread. A counter would want a lock; append() and pop() do not."""
        self._workers: set[threading.Thread] = set()
        self._numbers = itertools.count()
        self._changing = threading.Lock()
        """Held while threads are started or leave. Signal handlers must not ask for it."""
        self._complain_after = 0.0
        self.stopping = False

    @property
    def idle(self) -> int:
        """How many threads have nothing to do."""
        return len(self._idle)

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
        self._jobs.clear()
        with socket.socket(socket.AF_UNIX) as deaf:
            for fd in self._listeners:
                os.dup2(deaf.fileno(), fd, inheritable=False)

    def run(self) -> None:
        """Serve until :meth:`stop`, or *tick* or the SAPI's ``terminating`` says so.

        Raises what :meth:`threading.Thread.start` raised if not one thread can be started.
        """
        for listener in self._listeners.values():
            listener.socket.setblocking(False)
            self._poller.add(listener.fd)
        self._poller.add(self._job_ready)
        waiting = Poller()
        waiting.add(self._waker)
        try:
            self._grow()
            while not self.stopping:
                waiting.wait(1.0)
                self._close_late()
                self._grow()  # one may have failed to start, or have died of an exception
                if self._tick is not None and not self._tick():
                    self.stopping = True
            self._join()
            self._serve_late()
        finally:
            self.stopping = True
            waiting.close()
            for channel in list(self._parked.values()):
                self._parked.pop(channel.fd, None)
                channel.close()
            if not self._workers:  # else this was left by an exception, and threads still serve
                self._close()

    def _join(self) -> None:
        """Wait for the threads to end, when :attr:`stopping` is set."""
        with self._changing:  # from here on none is started
            workers = list(self._workers)
        try:
            os.write(self._job_put, b"x" * len(workers))  # wakes each thread that waits
        except BlockingIOError:
            pass  # it is full of jobs: they wake as well
        for worker in workers:
            while worker.is_alive():
                worker.join(1.0)
                if self._tick is not None:
                    self._tick()
        self._workers.clear()
        self._idle.clear()

    def _close(self) -> None:
        # stop() may come at any time, and must not write to a number that is somebody else's.
        pipes = (self._job_ready, self._job_put, self._waker, self._wake)
        self._job_ready = self._job_put = self._waker = self._wake = -1
        for fd in pipes:
            os.close(fd)
        self._poller.close()

    def _serve_late(self) -> None:
        """As ``BlockingServer._serve_late``, when the threads have ended."""
        end = time.monotonic() + LATE_SECONDS
        for channel in list(self._parked.values()):
            if channel.wait(1, 0.0) and self._parked.pop(channel.fd, None) is channel:
                self._turn(channel)
        while True:
            self._run_jobs()
            late = [channel for channel in self._parked.values() if channel.deadline]
            if not late or time.monotonic() > end:
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

    def _grow(self) -> None:
        """Start threads until enough are idle, or there are as many as there may be.

        One that cannot be started is tried again by the main thread, once a second. Raises what
        it failed with if nobody is there to serve.
        """
        if len(self._idle) >= self._min_spare or len(self._workers) >= self._most:
            return
        failure = None
        with self._changing:
            while (
                len(self._idle) < self._min_spare
                and len(self._workers) < self._most
                and not self.stopping
            ):
                name = f"worker-{next(self._numbers)}"
                worker = threading.Thread(target=self._live, name=name, daemon=True)
                # Idle from its birth: who looks meanwhile need not start one, too.
                self._workers.add(worker)
                self._idle.append(None)
                try:
                    worker.start()
                except (RuntimeError, MemoryError, OSError) as error:
                    self._workers.discard(worker)
                    self._idle.pop()
                    if not self._workers:
                        raise
                    failure = error
                    break
            there = len(self._workers)
        if failure is not None and time.monotonic() >= self._complain_after:
            self._complain_after = time.monotonic() + _COMPLAIN_EVERY
            self._sapi.log_message(f"a thread cannot be started: {failure}; there are {there}")

    def _leaves(self, since: float) -> bool:
        """Tell whether the calling thread, with nothing to do *since* then, is to end as one too
        many. It is no longer counted then.

        *since* is 0 in a wait that began before :attr:`max_spare` was set.
        """
        most = self.max_spare
        if most is None or len(self._idle) <= most or time.monotonic() - since < _QUIET:
            return False
        with self._changing:
            # First gone, then counted, as those do that take something and do not ask for the
            # lock: of two that go at once the second sees that both have.
            self._idle.pop()
            if self.stopping or len(self._idle) < max(most, self._min_spare):
                self._idle.append(None)
                return False
            self._workers.discard(threading.current_thread())
            return True

    def _live(self) -> None:
        """Be one of the threads."""
        try:
            self._work()
        except BaseException:
            with self._changing:
                self._idle.pop()
                self._workers.discard(threading.current_thread())
            raise
        # Nobody else takes what was submitted and not begun when the server was stopped.
        if self.stopping:
            self._run_jobs()

    def _work(self) -> None:
        listeners = list(self._listeners.values())
        accept, family = listeners[0].accept, listeners[0].family
        only = listeners[0] if len(listeners) == 1 else None
        idle, parked, jobs = self._idle, self._parked, self._jobs
        since = 0.0
        while not self.stopping:
            if not parked and not jobs and only is not None:
                try:
                    fd, peer = accept()
                except BlockingIOError:
                    pass
                except OSError as error:
                    self._failed(error)
                    continue
                else:
                    if only.allows is not None and not only.allows(peer):
                        os.close(fd)
                    else:
                        since = 0.0
                        self._begin()
                        try:
                            self._fresh(fd, family)
                        finally:
                            idle.append(None)
                    continue
            if not since and self.max_spare is not None:  # else nobody asks
                since = time.monotonic()
            if self._wait():
                since = 0.0
            elif self._leaves(since):
                return

    def _begin(self) -> None:
        """Be idle no longer, and see that somebody is. Who calls it appends to ``_idle`` again."""
        idle = self._idle
        idle.pop()
        if len(idle) < self._min_spare and len(self._workers) < self._most:
            self._grow()

    def _wait(self) -> bool:
        """Take one thing to do: a connection, a kept connection's request, a job. False if none
        came."""
        idle = self._idle
        served = False
        for fd in self._poller.wait(1.0, 1):
            channel = self._parked.pop(fd, None)
            if channel is not None:
                served = True
                self._begin()
                try:
                    self._turn(channel)
                finally:
                    idle.append(None)
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
                served = True
                self._begin()
                try:
                    self._fresh(fresh, listener.family)
                finally:
                    idle.append(None)
            elif fd == self._job_ready:
                try:
                    os.read(fd, 1)
                    job = self._jobs.popleft()
                except (BlockingIOError, IndexError):
                    continue
                served = True
                self._begin()
                try:
                    self._guard(job)
                finally:
                    idle.append(None)
        return served

    def _run_jobs(self) -> None:
        """Do what was submitted and not begun, when no thread waits for it any more."""
        while True:
            try:
                job = self._jobs.popleft()
            except IndexError:
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
