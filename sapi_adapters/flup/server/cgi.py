"""Plain CGI: the one request of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import BaseServer, Connection, View, serve_cgi
from .gateway import Output, StandardErrors, fill_path, write_traceback

if TYPE_CHECKING:
    from ...sapi import Exchange
    from .gateway import Gateway

__all__ = ["WSGIServer"]


class _Request(View):
    """What ``error()`` is given."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self.stdout = Output(conn.exchange)

    def _flush(self) -> None:
        self.stdout.close()


class WSGIServer(BaseServer):
    """A WSGI application as a CGI program. *kw* is of use to no CGI program, and ignored."""

    def __init__(self, application: Any, **kw: Any) -> None:
        BaseServer.__init__(self, application, None, False, True, None, None, False)

    def run(self) -> None:
        """Serve the request."""
        serve_cgi(self)

    def _sanitizeEnv(self, environ: dict[str, Any]) -> None:
        if not environ.get("PATH_INFO") or not environ.get("QUERY_STRING"):
            fill_path(environ, lambda text: None, self.unquotePathInfo)

    def _wants_views(self) -> bool:
        return False

    def _view(self, exchange: Exchange, gateway: Gateway) -> _Request:
        conn = Connection(None, None, self, None)
        conn.exchange, conn.gateway = exchange, gateway
        return _Request(conn)

    def _errors_of(self, exchange: Exchange) -> StandardErrors:
        return StandardErrors()

    def _report(self, exchange: Exchange) -> None:
        write_traceback()
