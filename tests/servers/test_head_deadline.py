"""A request that never finishes its parameters is given up, however its bytes drip in."""

from __future__ import annotations

from sapi_adapters.adapters import fastcgi_exchange
from sapi_adapters.adapters.exchanges import HEAD_SECONDS
from sapi_adapters.adapters.fastcgi_exchange import Session
from sapi_adapters.protocols import fastcgi
from sapi_adapters.sapi import Sapi
from sapi_adapters.servers.channel import Channel


class Silent(Channel):
    def __init__(self):
        self.data, self.session, self.fd, self.timeout = b"", None, -1, 1.0

    def receive_now(self):
        return None


class Runtime(Sapi):
    mount, split = None, False


def test_dripping_bytes_do_not_prolong_the_deadline(monkeypatch):
    now = 100.0
    monkeypatch.setattr(fastcgi_exchange.time, "monotonic", lambda: now)
    session, channel = Session(Runtime(), lambda exchange: None, {}), Silent()
    channel.data = fastcgi.record(fastcgi.BEGIN_REQUEST, 1, b"\0\1\1\0\0\0\0\0")
    assert session(channel) == HEAD_SECONDS
    for _ in range(3):
        now += 3.0
        channel.data = fastcgi.record(fastcgi.PARAMS, 1, b"\1\1ab")
        assert session(channel) == HEAD_SECONDS - (now - 100.0)
    now += 5.0
    channel.data = fastcgi.record(fastcgi.PARAMS, 1, b"\1\1ab")
    assert 0 < session(channel) < 0.01
