"""The pages that a worker answers itself, before the application: status and ping of its pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..manager.status import no_cache, render, security_policy
from ..manager.summary import summarize
from ..sapi import __version__, refuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..manager.config import Pool
    from ..manager.scoreboard import Scoreboard
    from ..sapi import Headers, Sapi

_NOT_FOUND = "404 Not Found"


class Pages:
    """Answers ``pm.status_path`` and ``ping.path`` of *pool* from its *board*."""

    def __init__(self, pool: Pool, board: Scoreboard, sapi: Sapi) -> None:
        self.paths: dict[str, Callable[[Any], tuple[Headers, bytes]]] = {}
        self._pool = pool
        self._board = board
        self._sapi = sapi
        if pool.pm_status_path:
            self.paths[pool.pm_status_path] = self._status
        if pool.ping_path:
            self.paths[pool.ping_path] = self._ping

    def _status(self, environ: dict[str, Any]) -> tuple[Headers, bytes]:
        status = summarize(self._board, self._pool, sapi=self._sapi.name, version=__version__)
        kind, body = render(status, environ.get("QUERY_STRING", ""))
        headers = [("Content-Type", kind), *no_cache]
        if kind.startswith("text/html"):
            headers.append(("Content-Security-Policy", security_policy))
        return headers, body

    def _ping(self, environ: dict[str, Any]) -> tuple[Headers, bytes]:
        headers = [("Content-Type", "text/plain;charset=UTF-8"), *no_cache]
        return headers, self._pool.ping_response.encode()

    def answer(self, exchange: Any) -> bool:
        """Take the answer into *exchange* if it asks for one of the pages; it is not finished."""
        environ = exchange.environ
        make = self.paths.get(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""))
        if make is None:
            return False
        headers, body = make(environ)
        exchange.send_headers("200 OK", [*headers, ("Content-Length", str(len(body)))])
        if environ.get("REQUEST_METHOD") != "HEAD" and body:
            exchange.ub_write(body)
        return True


class PagesGateway:
    """Puts *pages* before *gateway*."""

    def __init__(self, gateway: Any, pages: Pages) -> None:
        self._gateway = gateway
        self._pages = pages

    asynchronous = False

    def __call__(self, exchange: Any) -> None:
        if self._pages.answer(exchange):
            exchange.finish()
        else:
            self._gateway(exchange)


class AsyncPagesGateway(PagesGateway):
    """The same, awaited."""

    asynchronous = True

    def __init__(self, gateway: Any, pages: Pages) -> None:
        super().__init__(gateway, pages)
        self.lifespan = gateway.lifespan

    async def __call__(self, exchange: Any) -> None:  # type: ignore[override]
        if self._pages.answer(exchange):
            await exchange.finish()
        else:
            await self._gateway(exchange)


class PagesOnly:
    """The gateway of a pool that has no application, ``pm.status_listen``."""

    asynchronous = False

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def __call__(self, exchange: Any) -> None:
        if not self._pages.answer(exchange):
            refuse(exchange, _NOT_FOUND)
        exchange.finish()
