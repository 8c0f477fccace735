"""SCGI with children."""

from __future__ import annotations

import logging
from typing import Any

from . import NoDefault
from .base import Connection
from .preforkserver import PreforkServer
from .scgi_base import BaseSCGIServer

__all__ = ["WSGIServer"]


class WSGIServer(BaseSCGIServer, PreforkServer):
    """A WSGI application over SCGI, in children that are forked before requests come.

    See :class:`~.scgi_base.BaseSCGIServer`. A request that takes longer than *timeout* seconds has
    ``TimeoutException`` raised. *kw*: *minSpare*, *maxSpare*, *maxChildren*, *maxRequests* and
    *sockTimeout*.
    """

    def __init__(
        self,
        application: Any,
        scriptName: Any = NoDefault,
        environ: Any = None,
        bindAddress: Any = ("localhost", 4000),
        umask: int | None = None,
        allowedServers: Any = None,
        loggingLevel: int = logging.INFO,
        debug: bool = False,
        timeout: float | None = None,
        **kw: Any,
    ) -> None:
        BaseSCGIServer.__init__(
            self,
            application,
            scriptName=scriptName,
            environ=environ,
            multithreaded=False,
            multiprocess=True,
            bindAddress=bindAddress,
            umask=umask,
            allowedServers=allowedServers,
            loggingLevel=loggingLevel,
            debug=debug,
        )
        for name in ("multithreaded", "multiprocess", "jobClass", "jobArgs"):
            kw.pop(name, None)
        PreforkServer.__init__(self, jobClass=Connection, jobArgs=(self, timeout), **kw)

    def run(self) -> bool:  # type: ignore[override]
        """Serve until HUP, INT or TERM; return whether it was HUP. In a child it never returns.

        Raises :class:`OSError` when it cannot listen.
        """
        return self._run_logged(lambda sock: PreforkServer.run(self, sock))
