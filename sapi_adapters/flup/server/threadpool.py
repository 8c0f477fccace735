"""``ThreadPool``: jobs in threads; for a running server, a view of its threads."""

from __future__ import annotations

import sys
import threading
import traceback
from collections import deque
from typing import TYPE_CHECKING, Any

from .gateway import write_standard_error
from .serving import MOST_THREADS

if TYPE_CHECKING:
    from ...servers.threaded import ThreadedServer


class ThreadPool:
    """Runs jobs, objects with ``run()``, in threads that are started as they are needed.

    At most *maxThreads*, 500 where flup had no limit; *maxSpare* of them stay when idle.
    *minSpare* is kept by servers; here a thread is started when a job finds none.
    """

    def __init__(self, minSpare: int = 1, maxSpare: int = 5, maxThreads: int = sys.maxsize) -> None:
        self._minSpare = minSpare
        self._maxSpare = maxSpare
        self._maxThreads = max(minSpare, MOST_THREADS if maxThreads == sys.maxsize else maxThreads)
        self._server: ThreadedServer | None = None
        """Whose threads are looked at; None for this object's own."""
        self._changed = threading.Condition()
        self._jobs: deque[Any] = deque()
        self._threads: set[threading.Thread] = set()
        self._waiting = 0
        self._ended = False

    @property
    def maxSpare(self) -> int:
        """How many idle threads stay. May be set at any time."""
        return self._maxSpare

    @maxSpare.setter
    def maxSpare(self, most: int) -> None:
        self._maxSpare = most
        if self._server is not None:
            self._server.max_spare = most
        with self._changed:
            self._changed.notify_all()

    @property
    def _idleCount(self) -> int:
        """How many threads have nothing to do."""
        return self._waiting if self._server is None else self._server.idle

    @property
    def _workerCount(self) -> int:
        return len(self._threads)

    def shows(self, server: Any) -> None:
        """Be a view of *server*, a ``ThreadedServer`` of ours; None ends that."""
        self._server = server if hasattr(server, "max_spare") else None

    def addJob(self, job: Any, allowQueuing: bool = True) -> bool:
        """Run *job* in a thread; return whether that will happen.

        When no thread is free and none can be started it waits for one, unless *allowQueuing* is
        false.
        """
        with self._changed:
            self._ended = False
            if self._waiting <= len(self._jobs) and not self._start() and not allowQueuing:
                return False
            if not self._threads:
                return False
            self._jobs.append(job)
            self._changed.notify()
            return True

    def shutdown(self) -> None:
        """Let the threads end, and wait for the jobs that run."""
        with self._changed:
            self._ended = True
            self._jobs.clear()
            self._changed.notify_all()
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    def _start(self) -> bool:
        """Start one more thread, under the lock; it counts as waiting from now on."""
        if len(self._threads) >= self._maxThreads:
            return False
        thread = threading.Thread(target=self._work, name="flup-job", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # can't start new thread
            return False
        self._threads.add(thread)
        self._waiting += 1
        return True

    def _work(self) -> None:
        with self._changed:
            while True:
                while not self._jobs and not self._ended and self._waiting <= self._maxSpare:
                    self._changed.wait()
                self._waiting -= 1
                if not self._jobs:
                    self._threads.discard(threading.current_thread())
                    return
                job = self._jobs.popleft()
                self._changed.release()
                try:
                    job.run()
                except BaseException:
                    write_standard_error(f"a job failed\n{traceback.format_exc()}")
                finally:
                    self._changed.acquire()
                self._waiting += 1
