"""``Embed`` and ``AsyncEmbed``: from an application to a host that runs it inside this program."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from .adapters.embed import AsyncHost, BlockingHost
from .loading import gateway_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from .sapi import Gateway, Sapi


class Embed(BlockingHost):
    """Runs *app* inside this program::

        with Embed(app) as host:
            response = host.request("GET", "/", headers=[("Accept", "text/plain")])
            response.status, response.headers, response.body

    *app*, *interface* and *factory* are those of :func:`sapi_adapters.run`; *script_name* is the
    path it believes to be mounted at. An ASGI application runs on a loop in a thread of its own,
    with its life span around the ``with`` block, so that this works inside a running loop, too.
    Several threads may call :meth:`request` at a time. Raises
    :class:`~sapi_adapters.sapi.ConfigurationError` when the application refuses to start.
    """

    def __init__(
        self, app: Any, *, interface: str = "auto", factory: bool = False, script_name: str = ""
    ) -> None:
        super().__init__(_load(app, interface, factory), script_name)


class AsyncEmbed(AsyncHost):
    """Runs *app* inside a program that has an event loop::

        async with AsyncEmbed(app) as host:
            response = await host.request("GET", "/")

    As :class:`Embed`; an ASGI application runs on the caller's loop, a WSGI one in a thread.
    """

    def __init__(
        self, app: Any, *, interface: str = "auto", factory: bool = False, script_name: str = ""
    ) -> None:
        super().__init__(_load(app, interface, factory), script_name)


def _load(app: Any, interface: str, factory: bool) -> Callable[[Sapi], Gateway]:
    return partial(gateway_for, app, interface=interface, factory=factory)
