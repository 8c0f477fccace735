"""The SAPIs ``ajp-prefork`` and ``ajp-threaded``: AJP 1.3 over servers and manager.

AJP's peer is believed whatever it says of a request: addresses, TLS, users. So who may connect is
settled before anything is served: see :meth:`AjpSapi.startup`.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from ..protocols.ajp import Connection
from ..sapi import ConfigurationError
from .single import SingleSapi

if TYPE_CHECKING:
    from ..protocols.single import Codec


class AjpSapi(SingleSapi):
    """What both have in common."""

    shows_short_bodies = False  # Apache takes the announced length away, unless it is told not to

    def startup(self) -> None:
        """Open the sockets; one that others than this machine can reach needs a secret.

        And a list of who may connect. Raises :class:`ConfigurationError`.
        """
        pool = self.pool
        pattern = pool.ajp_allowed_attributes
        try:
            allowed = None if pattern is None else re.compile(pattern)
        except re.error as error:
            raise ConfigurationError(
                f"ajp.allowed_attributes is no regular expression: {error}"
            ) from None
        self._connection = partial(
            Connection,
            packet_size=pool.ajp_packet_size,
            secret=pool.ajp_secret,
            allowed_attributes=allowed,
            trust_remote_user=pool.ajp_remote_user,
        )
        super().startup()
        for each in self.listeners:
            if not each.is_local() and not (pool.ajp_secret and pool.listen_allowed_clients):
                raise ConfigurationError(
                    f"AJP on {each.describe()}, which other machines can reach, needs ajp.secret"
                    " and listen.allowed_clients: its peer is believed whatever it says"
                )

    def codec(self) -> Codec:
        return self._connection()

    def hint(self) -> str:
        first = self.listeners[0].describe()
        address = f"unix:{first}|ajp://localhost" if first.startswith("/") else f"ajp://{first}"
        secret = " secret=..." if self.pool.ajp_secret else ""
        return f'Apache: ProxyPass "/" "{address}/"{secret}\n{self.signals_hint()}\n'


class AjpPrefork(AjpSapi):
    """AJP, a process per request at a time; an ASGI application gets the event server."""

    name = "ajp-prefork"
    pretty_name = "AJP, pre-forking"


class AjpThreaded(AjpSapi):
    """AJP, a thread per request at a time; an ASGI application gets the event server."""

    name = "ajp-threaded"
    pretty_name = "AJP, threaded"
    multithread = True
    threads_by_default = 8
    supervised = False

    def choose_workers(self) -> int:
        return 1
