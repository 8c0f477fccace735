"""FastCGI with threads::

    from flup.server.fcgi import WSGIServer
    WSGIServer(application, bindAddress="/run/app.sock").run()

Started by a web server that speaks CGI, the program serves that one request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .fcgi_base import FCGI_RESPONDER, BaseFCGIServer
from .threadedserver import ThreadedServer

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["WSGIServer"]


class WSGIServer(BaseFCGIServer, ThreadedServer):
    """A WSGI application over FastCGI, a thread for each request.

    See :class:`~.fcgi_base.BaseFCGIServer`. *multithreaded* False lets one request at a time into
    the application. *kw*: *minSpare*, *maxSpare* and *maxThreads* of the threads.
    """

    def __init__(
        self,
        application: Any,
        environ: Any = None,
        multithreaded: bool = True,
        multiprocess: bool = False,
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
            multithreaded=multithreaded,
            multiprocess=multiprocess,
            bindAddress=bindAddress,
            umask=umask,
            multiplexed=multiplexed,
            debug=debug,
            roles=roles,
            forceCGI=forceCGI,
        )
        for name in ("jobClass", "jobArgs"):
            kw.pop(name, None)
        ThreadedServer.__init__(self, jobClass=self._connectionClass, jobArgs=(self, None), **kw)
        self._can(self._most(), multiplexed)

    def run(self) -> bool:  # type: ignore[override]
        """Serve until HUP, INT or TERM; return whether it was HUP."""
        sock = self._setupSocket()
        try:
            reload = ThreadedServer.run(self, sock)
        finally:
            self._cleanupSocket(sock)
        self.shutdown()
        return reload
