"""``SingleServer``: one request at a time, in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .serving import Pool, Serving, serve_alone, serve_jobs
from .serving import setCloseOnExec as setCloseOnExec  # one of flup's names

if TYPE_CHECKING:
    import socket

__all__ = ["SingleServer"]


class SingleServer(Serving):
    """Serves one request at a time, or one job; *kw* says nothing, as with flup."""

    def __init__(self, jobClass: Any = None, jobArgs: Any = (), **kw: Any) -> None:
        self._jobClass = jobClass
        self._jobArgs = jobArgs

    def run(self, sock: socket.socket, timeout: float = 1.0) -> bool:
        """Serve *sock*, which listens, until a signal; return whether that was SIGHUP."""
        return self._run_with_signals(lambda: self._serve(sock))

    def _serve(self, sock: socket.socket) -> None:
        sapi = self._make_sapi(sock)
        if sapi is None:
            serve_jobs(self, sock, self._run_job)
        else:
            serve_alone(sapi)

    def _most(self) -> int:
        return 1

    def _pool(self) -> Pool:
        return Pool(name="flup", app="application", threads=1, pm_max_children=1)
