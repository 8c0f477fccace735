"""The SAPIs ``scgi-prefork`` and ``scgi-threaded``: SCGI over servers and manager."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..protocols.scgi import Connection, parse_whole
from .single import SingleSapi

if TYPE_CHECKING:
    from ..protocols.single import Codec


class ScgiSapi(SingleSapi):
    """What both have in common: SCGI's answers are CGI's, and end with the connection."""

    def startup(self) -> None:
        super().startup()
        most = self.pool.scgi_max_headers
        self.whole = partial(parse_whole, max_headers=most)
        self._connection = partial(Connection, max_headers=most, strict=self.pool.scgi_strict)

    def codec(self) -> Codec:
        return self._connection()

    def hint(self) -> str:
        first = self.listeners[0].describe()
        address = f"unix:{first}" if first.startswith("/") else first
        return (
            f"nginx: location / {{ include scgi_params; scgi_pass {address}; }}\n"
            f"{self.signals_hint()}\n"
        )


class ScgiPrefork(ScgiSapi):
    """SCGI, a process per request at a time; an ASGI application gets the event server."""

    name = "scgi-prefork"
    pretty_name = "SCGI, pre-forking"


class ScgiThreaded(ScgiSapi):
    """SCGI, a thread per request at a time; an ASGI application gets the event server."""

    name = "scgi-threaded"
    pretty_name = "SCGI, threaded"
    multithread = True
    threads_by_default = 8
    supervised = False

    def choose_workers(self) -> int:
        return 1
