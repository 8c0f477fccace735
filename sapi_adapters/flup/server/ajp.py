"""AJP 1.3 with threads."""

from __future__ import annotations

import logging
from typing import Any

from .ajp_base import BaseAJPServer
from .base import Connection
from .threadedserver import ThreadedServer

__all__ = ["WSGIServer"]


class WSGIServer(BaseAJPServer, ThreadedServer):
    """A WSGI application over AJP 1.3, a thread for each request.

    See :class:`~.ajp_base.BaseAJPServer`. *multithreaded* False lets one request at a time into the
    application. *kw*: *minSpare*, *maxSpare* and *maxThreads* of the threads.
    """

    def __init__(
        self,
        application: Any,
        scriptName: str = "",
        environ: Any = None,
        multithreaded: bool = True,
        multiprocess: bool = False,
        bindAddress: Any = ("localhost", 8009),
        allowedServers: Any = None,
        loggingLevel: int = logging.INFO,
        debug: bool = False,
        secret: str | None = None,
        trustRemoteUser: bool = True,
        **kw: Any,
    ) -> None:
        BaseAJPServer.__init__(
            self,
            application,
            scriptName=scriptName,
            environ=environ,
            multithreaded=multithreaded,
            multiprocess=multiprocess,
            bindAddress=bindAddress,
            allowedServers=allowedServers,
            loggingLevel=loggingLevel,
            debug=debug,
            secret=secret,
            trustRemoteUser=trustRemoteUser,
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
