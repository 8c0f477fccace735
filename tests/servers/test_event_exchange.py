"""The event server's exchange where a real socket would need a minute."""

from __future__ import annotations

import asyncio

import pytest

from sapi_adapters.adapters import exchanges
from sapi_adapters.adapters.fastcgi_event import EventExchange
from sapi_adapters.protocols.fastcgi import Request
from sapi_adapters.sapi import ClientDisconnected, Sapi


class Link:
    sapi = Sapi()

    def wanted(self, exchange):
        """Nobody is asked for a body."""


def test_a_peer_that_stops_sending_its_body_is_given_up(monkeypatch):
    monkeypatch.setattr(exchanges, "BODY_SECONDS", 0.05)

    async def read():
        exchange = EventExchange(Link(), {}, b"", True, Request(1, 1, True))
        with pytest.raises(ClientDisconnected, match="nothing came"):
            await exchange.read_post(10)
        assert exchange.aborted

    asyncio.run(asyncio.wait_for(read(), 10))
