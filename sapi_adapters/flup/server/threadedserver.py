"""``ThreadedServer``: a thread for each request, or for each connection that a job serves."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from .serving import Pool, Serving, serve_alone, serve_jobs
from .serving import setCloseOnExec as setCloseOnExec  # one of flup's names
from .threadpool import ThreadPool

if TYPE_CHECKING:
    import socket

__all__ = ["ThreadedServer"]


class _Job:
    """A connection that waits for a thread."""

    def __init__(self, server: ThreadedServer, connection: socket.socket, address: Any) -> None:
        # sys.exit() ends a thread, and that is the pool's.
        self.run = partial(server._run_job, connection, address, BaseException)


class ThreadedServer(Serving):
    """Serves with threads. *kw* is for :class:`ThreadPool`.

    Without a protocol each connection is given to ``jobClass(socket, address, *jobArgs).run()``.
    """

    _threaded = True

    def __init__(self, jobClass: Any = None, jobArgs: Any = (), **kw: Any) -> None:
        self._jobClass = jobClass
        self._jobArgs = jobArgs
        self._threadPool = ThreadPool(**kw)

    def run(self, sock: socket.socket, timeout: float = 1.0) -> bool:
        """Serve *sock*, which listens, until a signal; return whether that was SIGHUP."""
        return self._run_with_signals(lambda: self._serve(sock))

    def shutdown(self) -> None:
        """Wait for running threads to finish."""
        self._threadPool.shutdown()

    def _serve(self, sock: socket.socket) -> None:
        sapi = self._make_sapi(sock)
        try:
            if sapi is None:
                serve_jobs(self, sock, self._start_job)
            else:
                serve_alone(sapi)
        finally:
            self._threadPool.shows(None)

    def _start_job(self, connection: socket.socket, address: Any) -> None:
        if not self._threadPool.addJob(_Job(self, connection, address), allowQueuing=False):
            connection.close()

    def _most(self) -> int:
        return self._threadPool._maxThreads

    def _pool(self) -> Pool:
        return Pool(name="flup", app="application", threads=self._most(), pm_max_children=1)

    def _spare_threads(self) -> dict[str, Any]:
        pool = self._threadPool
        return {"min_spare": pool._minSpare, "max_spare": pool._maxSpare}

    def _serves(self, server: Any) -> None:
        self._threadPool.shows(server)
        super()._serves(server)
