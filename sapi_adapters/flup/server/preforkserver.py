"""``PreforkServer``: children that serve a request at a time each."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from .serving import DYNAMIC, JobSapi, Pool, Serving, serve_with_children
from .serving import setCloseOnExec as setCloseOnExec  # one of flup's names

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from types import FrameType

    from ...manager.master import Master

__all__ = ["PreforkServer"]


class PreforkServer(Serving):
    """Serves with children: *maxSpare* at first, then as many as keep *minSpare* idle.

    At most *maxChildren*. Each leaves after *maxRequests*, 0 for no limit. *sockTimeout* is how
    many seconds a peer may be silent, 0 for the usual 60. Raises :class:`ValueError` for numbers
    that do not fit together.

    Without a protocol each connection is given to ``jobClass(socket, address, *jobArgs).run()``.
    """

    def __init__(
        self,
        minSpare: int = 1,
        maxSpare: int = 5,
        maxChildren: int = 50,
        maxRequests: int = 0,
        sockTimeout: float = 0,
        jobClass: Any = None,
        jobArgs: Any = (),
    ) -> None:
        self._minSpare = minSpare
        self._maxSpare = maxSpare
        self._maxChildren = max(maxSpare, maxChildren)
        self._maxRequests = maxRequests
        self._sockTimeout = sockTimeout
        self._jobClass = jobClass
        self._jobArgs = jobArgs
        self._master: Master | None = None
        if minSpare < 1:
            raise ValueError(f"minSpare must be at least 1, not {minSpare}")
        if maxSpare < minSpare:
            raise ValueError(f"maxSpare must be at least minSpare, {minSpare}, not {maxSpare}")
        if type(sockTimeout) not in (int, float) or sockTimeout < 0:
            raise ValueError(f"sockTimeout must be a number of seconds, not {sockTimeout!r}")

    def run(self, sock: socket.socket) -> bool:
        """Serve *sock*, which listens, until a signal; return whether that was SIGHUP.

        In a child this never returns.
        """
        return self._run_with_signals(lambda: self._serve(sock))

    def _serve(self, sock: socket.socket) -> None:
        sapi = self._make_sapi(sock) or JobSapi(self, sock, self._pool())
        try:
            serve_with_children(self, sapi)
        finally:
            self._master = None

    def _manages(self, master: Master) -> None:
        self._master = master
        self._stop = lambda: master.ask("quit")
        if not self._keepGoing:  # a signal came meanwhile
            self._stop()

    def _most(self) -> int:
        return self._maxChildren

    def _pool(self) -> Pool:
        return Pool(
            name="flup",
            app="application",
            threads=1,
            pm=DYNAMIC,
            pm_max_children=self._maxChildren,
            pm_start_servers=self._maxSpare,
            pm_min_spare_servers=self._minSpare,
            pm_max_spare_servers=self._maxSpare,
            pm_max_requests=max(0, self._maxRequests),
        )

    # Signal handlers

    def _chldHandler(self, signum: int, frame: FrameType | None) -> None:
        """Never installed, with flup neither: the master hears of a child's end by its link."""

    def _usr1Handler(self, signum: int, frame: FrameType | None) -> None:
        """Let fresh children take the place of all, once they are ready."""
        if self._master is not None:
            self._master.ask("renew")

    def _handlers(self) -> dict[int, Callable[[int, FrameType | None], Any]]:
        return {**super()._handlers(), signal.SIGUSR1: self._usr1Handler}
