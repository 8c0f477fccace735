"""The SAPIs ``fcgi-prefork`` and ``fcgi-threaded``: FastCGI 1.0 over servers and manager."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from .fastcgi_exchange import Session, serve_linked
from .server import ServerSapi

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..servers.event import EventServer, Stream
    from .fastcgi_event import EventLink

_EVENT_REQUESTS = 100  # what one connection may have at a time under the event server


class FastcgiSapi(ServerSapi):
    """What both have in common."""

    def session(self, cycle: Callable[[Any], Any], server: Any) -> Session:
        if server is None:
            return Session(self, cycle, self._values(1, multiplex=False))
        session = Session(self, cycle, self._values(self.threads, multiplex=True))
        session.multiplex = True
        session.max_requests = self.threads * 4
        session.watch = server.watch
        session.unwatch = server.unwatch
        session.submit = lambda exchange: server.submit(partial(serve_linked, exchange))
        return session

    def connect(
        self, cycle: Callable[[Any], Any], server: EventServer, stream: Stream
    ) -> EventLink:
        from .fastcgi_event import EventLink

        values = self._values(_EVENT_REQUESTS, multiplex=True)
        return EventLink(server, stream, self, cycle, values, _EVENT_REQUESTS)

    def _values(self, per_worker: int, *, multiplex: bool) -> dict[bytes, bytes]:
        """Return the answers to GET_VALUES (S§4.1)."""
        total = str(per_worker * self.workers).encode()
        return {
            b"FCGI_MAX_CONNS": total,
            b"FCGI_MAX_REQS": total,
            b"FCGI_MPXS_CONNS": b"1" if multiplex else b"0",
        }

    def hint(self) -> str:
        first = self.listeners[0]
        where = first.describe()
        address = f"unix:{where}" if where.startswith("/") else where
        return (
            "nginx: location / { include fastcgi_params; fastcgi_keep_conn on;"
            f" fastcgi_pass {address}; }}\n"
            f"{self.signals_hint()}\n"
        )


class FcgiPrefork(FastcgiSapi):
    """FastCGI, a process per request at a time; an ASGI application gets the event server."""

    name = "fcgi-prefork"
    pretty_name = "FastCGI, pre-forking"


class FcgiThreaded(FastcgiSapi):
    """FastCGI, a thread per request at a time; an ASGI application gets the event server."""

    name = "fcgi-threaded"
    pretty_name = "FastCGI, threaded"
    multithread = True
    threads_by_default = 8
    supervised = False

    def choose_workers(self) -> int:
        return 1
