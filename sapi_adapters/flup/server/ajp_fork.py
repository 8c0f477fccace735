"""AJP 1.3 with children."""

from __future__ import annotations

import logging
from typing import Any

from .ajp_base import BaseAJPServer
from .base import Connection
from .preforkserver import PreforkServer

__all__ = ["WSGIServer"]


class WSGIServer(BaseAJPServer, PreforkServer):
    """A WSGI application over AJP 1.3, in children that are forked before requests come.

    See :class:`~.ajp_base.BaseAJPServer`. A request that takes longer than *timeout* seconds has
    ``TimeoutException`` raised. *kw*: *minSpare*, *maxSpare*, *maxChildren*, *maxRequests* and
    *sockTimeout*.
    """

    def __init__(
        self,
        application: Any,
        scriptName: str = "",
        environ: Any = None,
        bindAddress: Any = ("localhost", 8009),
        allowedServers: Any = None,
        loggingLevel: int = logging.INFO,
        debug: bool = False,
        timeout: float | None = None,
        secret: str | None = None,
        trustRemoteUser: bool = True,
        **kw: Any,
    ) -> None:
        BaseAJPServer.__init__(
            self,
            application,
            scriptName=scriptName,
            environ=environ,
            multithreaded=False,
            multiprocess=True,
            bindAddress=bindAddress,
            allowedServers=allowedServers,
            loggingLevel=loggingLevel,
            debug=debug,
            secret=secret,
            trustRemoteUser=trustRemoteUser,
        )
        for name in ("multithreaded", "multiprocess", "jobClass", "jobArgs"):
            kw.pop(name, None)
        PreforkServer.__init__(self, jobClass=Connection, jobArgs=(self, timeout), **kw)

    def run(self) -> bool:  # type: ignore[override]
        """Serve until HUP, INT or TERM; return whether it was HUP. In a child it never returns.

        Raises :class:`OSError` when it cannot listen.
        """
        return self._run_logged(lambda sock: PreforkServer.run(self, sock))
