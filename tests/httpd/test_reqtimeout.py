"""RequestReadTimeout: what it takes, what it comes to, and that late clients are answered."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from httpd.hosting import hosting

from sapi_adapters.httpd.host import Host
from sapi_adapters.httpd.modules.mod_reqtimeout import PROVIDED, Stage, Timeouts
from sapi_adapters.sapi import ConfigurationError


def made(text: str) -> Host:
    host = Host(text=f"LoadModule reqtimeout_module mod_reqtimeout\n{text}", log=lambda *_: None)
    host.configure()
    return host


def main_of(text: str) -> Timeouts:
    host = made(text)
    found: Timeouts = host.provided[PROVIDED][host.main]
    return found


@pytest.mark.parametrize(
    ("text", "handshake", "header", "body"),
    [
        ("", (0, 0, 0), (20, 40, 500), (20, 0, 500)),
        ("RequestReadTimeout header=10 body=30", (0, 0, 0), (10, 0, 0), (30, 0, 0)),
        ("RequestReadTimeout body=10,MinRate=1000", (0, 0, 0), (20, 40, 500), (10, 0, 1000)),
        (
            "RequestReadTimeout handshake=0 header=10-30,minrate=500",
            (0, 0, 0),
            (10, 30, 500),
            (20, 0, 500),
        ),
        (
            "RequestReadTimeout handshake=5\nRequestReadTimeout HEADER=0",
            (5, 0, 0),
            (0, 0, 0),
            (20, 0, 500),
        ),
    ],
)
def test_directives(
    text: str, handshake: tuple[int, ...], header: tuple[int, ...], body: tuple[int, ...]
) -> None:
    found = main_of(text)
    assert (found.handshake, found.header, found.body) == (handshake, header, body)


def test_a_virtual_host_has_its_own() -> None:
    host = made(
        "RequestReadTimeout header=10 body=11\n"
        "<VirtualHost *:80>\nRequestReadTimeout body=5\n</VirtualHost>\n"
        "<VirtualHost *:81>\n</VirtualHost>\n"
    )
    first, second = (host.provided[PROVIDED][server] for server in host.servers)
    assert (first.header.initial, first.body.initial) == (10, 5)
    assert (second.header.initial, second.body.initial) == (10, 11)


@pytest.mark.parametrize(
    ("stage", "received", "seconds"),
    [
        (Stage(20, 40, 500), 0, 20),
        (Stage(20, 40, 500), 499, 20),
        (Stage(20, 40, 500), 500, 21),
        (Stage(20, 40, 500), 10**9, 40),
        (Stage(20, 0, 500), 10**6, 2020),
        (Stage(20), 10**6, 20),
        (Stage(0), 0, None),
        (Stage(0, 40, 500), 0, None),
    ],
)
def test_bytes_that_come_give_more_time(stage: Stage, received: int, seconds: float | None) -> None:
    assert stage.allowed(received) == seconds


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "at least one of"),
        ("head=5", "is not STAGE=SECONDS"),
        ("header", "is not STAGE=SECONDS"),
        ("header=", "is not STAGE=SECONDS"),
        ("header=-5", "is not STAGE=SECONDS"),
        ("header=\u0665", "is not STAGE=SECONDS"),
        ("header=20-40", "has a maximum, but no MinRate"),
        ("header=20-20,MinRate=1", "must be larger than the minimum"),
        ("body=20,MinRate=0", "MinRate must be larger than 0"),
        ("body=20,Rate=5", "is not STAGE=SECONDS"),
    ],
)
def test_mistakes(arguments: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        made(f"RequestReadTimeout {arguments}")


def test_it_is_not_for_sections() -> None:
    with pytest.raises(ConfigurationError, match="not allowed"):
        made("<Location />\nRequestReadTimeout body=5\n</Location>")


# -- running --------------------------------------------------------------------------------------

APP = """
def app(environ, start_response):
    size = len(environ["wsgi.input"].read())
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(size).encode()]
"""
CONFIGURATION = """
LoadModule reqtimeout_module mod_reqtimeout
LoadModule sapi_module sapi_adapters.adapters.mod_sapi
RequestReadTimeout header=1-3,MinRate=10 body=1
<Location /app>
    SetHandler sapi-script
    SapiApp late_app:app
</Location>
"""
BODY = b"POST /app HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n\r\n"


@pytest.mark.parametrize("mpm", ["prefork", "worker", "event"])
@pytest.mark.parametrize(
    ("begin", "drip"),
    [
        (b"GET /app HTTP/1.1\r\nX-", b""),
        (b"GET /app HTTP/1.1\r\nX-", b"a"),
        (BODY, b""),
        (BODY, b"a"),
    ],
    ids=["head", "dripping head", "body", "dripping body"],
)
def test_a_late_request_is_answered_with_408(
    tmp_path: Path, mpm: str, begin: bytes, drip: bytes
) -> None:
    (tmp_path / "late_app.py").write_text(APP)
    with hosting(tmp_path, CONFIGURATION, mpm) as host:
        with socket.create_connection(host.address, 15) as late:
            late.sendall(begin)
            end = time.monotonic() + 15
            late.settimeout(0.2)
            answer = b""
            while time.monotonic() < end:
                try:
                    block = late.recv(65536)
                except TimeoutError:
                    try:
                        late.sendall(drip)
                    except OSError:
                        pass
                    continue
                except ConnectionResetError:
                    break
                if not block:
                    break
                answer += block
            assert answer.startswith(b"HTTP/1.1 408 "), answer
        assert host.get("/app").status == 200


@pytest.mark.parametrize("mpm", ["prefork", "event"])
def test_a_body_in_time_is_taken(tmp_path: Path, mpm: str) -> None:
    (tmp_path / "late_app.py").write_text(APP)
    with hosting(tmp_path, CONFIGURATION, mpm) as host:
        assert host.request("POST", "/app", bytes(200000)).body == b"200000"
