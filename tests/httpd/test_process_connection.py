"""A module that speaks another protocol than HTTP, on a port of its own."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from httpd.hosting import free_port, hosting

MODULE = """
from sapi_adapters.httpd.hooks import DECLINED, OK
from sapi_adapters.httpd.module import RSRC_CONF, TAKE1, Command, Module

ports = []

def shout_port(cmd, config, port):
    ports.append(int(port))

def shout(connection):
    if connection.local_port not in ports:
        return DECLINED
    while data := connection.transport.receive():
        connection.transport.send(data.upper())
    return OK

shout_module = Module(
    "mod_shout",
    commands=(Command("ShoutPort", shout_port, TAKE1, RSRC_CONF),),
    register_hooks=lambda hooks: hooks.add("process_connection", shout),
)
"""


@pytest.mark.parametrize("mpm", ["prefork", "worker", "event"])
def test_a_connection_may_be_a_modules(tmp_path: Path, mpm: str) -> None:
    (tmp_path / "mod_shout.py").write_text(MODULE)
    (tmp_path / "a.txt").write_text("a file")
    port = free_port()
    text = (
        f"Listen 127.0.0.1:{port}\nLoadModule shout_module mod_shout.py\nShoutPort {port}\n"
        f"DocumentRoot {tmp_path}\n"
    )
    with hosting(tmp_path, text, mpm) as hosted:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(b"hello")
            assert client.recv(100) == b"HELLO", hosted.log
            client.sendall(b"again")
            assert client.recv(100) == b"AGAIN"
            client.shutdown(socket.SHUT_WR)
            assert client.recv(100) == b""
        for _ in range(3):
            assert hosted.get("/a.txt").body == b"a file"
