"""FastCGI with children, each of which serves a request at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .fcgi_base import FCGI_MAX_CONNS as FCGI_MAX_CONNS
from .fcgi_base import FCGI_MAX_REQS as FCGI_MAX_REQS
from .fcgi_base import FCGI_MPXS_CONNS as FCGI_MPXS_CONNS
from .fcgi_base import FCGI_RESPONDER, BaseFCGIServer
from .preforkserver import PreforkServer

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["WSGIServer"]


class WSGIServer(BaseFCGIServer, PreforkServer):
    """A WSGI application over FastCGI, in children that are forked before requests come.

    See :class:`~.fcgi_base.BaseFCGIServer`. A request that takes longer than *timeout* seconds
    has :class:`~.fcgi_base.TimeoutException` raised. *kw*: *minSpare*, *maxSpare*, *maxChildren*,
    *maxRequests* and *sockTimeout*.
    """

    def __init__(
        self,
        application: Any,
        environ: Any = None,
        bindAddress: Any = None,
        umask: int | None = None,
        multiplexed: bool = False,
        debug: bool = False,
        roles: Iterable[int] = (FCGI_RESPONDER,),
        forceCGI: bool = False,
        timeout: float | None = None,
        **kw: Any,
    ) -> None:
        BaseFCGIServer.__init__(
            self,
            application,
            environ=environ,
            multithreaded=False,
            multiprocess=True,
            bindAddress=bindAddress,
            umask=umask,
            multiplexed=multiplexed,
            debug=debug,
            roles=roles,
            forceCGI=forceCGI,
        )
        for name in ("multithreaded", "multiprocess", "jobClass", "jobArgs"):
            kw.pop(name, None)
        PreforkServer.__init__(self, jobClass=self._connectionClass, jobArgs=(self, timeout), **kw)
        self._can(self._most())

    def run(self) -> bool:  # type: ignore[override]
        """Serve until HUP, INT or TERM; return whether it was HUP. In a child it never returns."""
        sock = self._setupSocket()
        try:
            return PreforkServer.run(self, sock)
        finally:
            self._cleanupSocket(sock)
