"""SCGI with threads."""

from __future__ import annotations

import logging
from typing import Any

from . import NoDefault
from .base import Connection
from .scgi_base import BaseSCGIServer
from .threadedserver import ThreadedServer

__all__ = ["WSGIServer"]


class WSGIServer(BaseSCGIServer, ThreadedServer):
    """A WSGI application over SCGI, a thread for each request.

    See :class:`~.scgi_base.BaseSCGIServer`. *multithreaded* False lets one request at a time into
    the application. *kw*: *minSpare*, *maxSpare* and *maxThreads* of the threads.
    """

    def __init__(
        self,
        application: Any,
        scriptName: Any = NoDefault,
        environ: Any = None,
        multithreaded: bool = True,
        multiprocess: bool = False,
        bindAddress: Any = ("localhost", 4000),
        umask: int | None = None,
        allowedServers: Any = None,
        loggingLevel: int = logging.INFO,
        debug: bool = False,
        **kw: Any,
    ) -> None:
        BaseSCGIServer.__init__(
            self,
            application,
            scriptName=scriptName,
            environ=environ,
            multithreaded=multithreaded,
            multiprocess=multiprocess,
            bindAddress=bindAddress,
            umask=umask,
            allowedServers=allowedServers,
            loggingLevel=loggingLevel,
            debug=debug,
        )
        for name in ("jobClass", "jobArgs"):
            kw.pop(name, None)
        ThreadedServer.__init__(self, jobClass=Connection, jobArgs=(self, None), **kw)

    def run(self) -> bool:  # type: ignore[override]
        """Serve until HUP, INT or TERM; return whether it was HUP.

        Raises :class:`OSError` when it cannot listen.
        """
        reload = self._run_logged(lambda sock: ThreadedServer.run(self, sock))
        self.shutdown()
        return reload
