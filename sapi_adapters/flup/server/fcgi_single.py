"""FastCGI in this process alone, one request at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .fcgi_base import FCGI_MAX_CONNS as FCGI_MAX_CONNS
from .fcgi_base import FCGI_MAX_REQS as FCGI_MAX_REQS
from .fcgi_base import FCGI_MPXS_CONNS as FCGI_MPXS_CONNS
from .fcgi_base import FCGI_RESPONDER, BaseFCGIServer
from .singleserver import SingleServer

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["WSGIServer"]


class WSGIServer(BaseFCGIServer, SingleServer):
    """A WSGI application over FastCGI, one request at a time.

    See :class:`~.fcgi_base.BaseFCGIServer`. *kw* says nothing, as with flup.
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
        **kw: Any,
    ) -> None:
        BaseFCGIServer.__init__(
            self,
            application,
            environ=environ,
            multithreaded=False,
            multiprocess=False,
            bindAddress=bindAddress,
            umask=umask,
            multiplexed=multiplexed,
            debug=debug,
            roles=roles,
            forceCGI=forceCGI,
        )
        for name in ("jobClass", "jobArgs"):
            kw.pop(name, None)
        SingleServer.__init__(self, jobClass=self._connectionClass, jobArgs=(self, None), **kw)
        self._can(self._most())

    def run(self) -> bool:  # type: ignore[override]
        """Serve until HUP, INT or TERM; return whether it was HUP."""
        sock = self._setupSocket()
        try:
            return SingleServer.run(self, sock)
        finally:
            self._cleanupSocket(sock)
