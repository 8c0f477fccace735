"""The three servers under real sockets: kept connections, multiplexing, aborts, ends."""

from __future__ import annotations

import hashlib
import signal
import socket
from pathlib import Path

import pytest
from fastcgi_client import Client, fastcgi, fetch
from serving import serving, until

KINDS = {
    "prefork": ("server_apps:wsgi", "--sapi", "fcgi-prefork", "--workers", "1"),
    "threaded": ("server_apps:wsgi", "--sapi", "fcgi-threaded", "--threads", "4"),
    "event": ("server_apps:asgi", "--sapi", "fcgi-prefork", "--workers", "1"),
}


@pytest.fixture(scope="module", params=KINDS)
def server(request, tmp_path_factory):
    app, *options = KINDS[request.param]
    with serving(tmp_path_factory.mktemp("served"), app, *options) as served:
        served.kind = request.param
        yield served


def test_a_request_on_a_connection_of_its_own(server):
    answer = fetch(server.address, PATH_INFO="/hello")
    assert (answer.status, answer.body) == (200, b"/hello")
    assert answer.ended == (1, 0, fastcgi.REQUEST_COMPLETE)


def test_the_connection_is_closed_without_keep_conn(server):
    with Client(server.address) as client:
        client.send()
        client.answer()
        assert not client.receive()


def test_32_kept_connections_on_one_worker_are_all_served(server):
    """php-fpm and libfcgi starve here: an idle kept connection captures the process."""
    clients = [Client(server.address) for _ in range(32)]
    try:
        for turn in range(3):
            for n, client in enumerate(clients):
                client.send(keep=True, PATH_INFO=f"/{turn}/{n}")
            for n, client in enumerate(clients):
                assert client.answer().body == f"/{turn}/{n}".encode()
    finally:
        for client in clients:
            client.socket.close()


def test_an_id_is_free_as_soon_as_its_end_was_sent(server):
    """The peer may begin the next request while the server still leaves the last one."""
    with Client(server.address) as client:
        for n in range(400):
            client.send(keep=True, PATH_INFO=f"/{n}")
            assert client.answer().body == f"/{n}".encode()


def test_a_silent_connection_keeps_nobody_waiting(server):
    with Client(server.address), Client(server.address) as half:
        half.socket.sendall(fastcgi.record(fastcgi.BEGIN_REQUEST, 1, b"\0\1\0\0\0\0\0\0")[:11])
        assert fetch(server.address, PATH_INFO="/x").body == b"/x"


def test_a_request_in_single_bytes(server):
    with Client(server.address) as client:
        data = client.codec.begin(1, [(b"REQUEST_METHOD", b"POST"), (b"PATH_INFO", b"/hash")])
        data += client.codec.stdin(1, b"hello") + client.codec.stdin(1, b"")
        client.answers[1] = type(fetch(server.address))()
        for at in range(len(data)):
            client.socket.sendall(data[at : at + 1])
        assert client.answer().body == hashlib.sha256(b"hello").hexdigest().encode()


@pytest.mark.parametrize("size", [1, 65535, 65536, 300_000, 8 << 20])
def test_bodies_of_all_sizes_arrive_whole(server, size):
    body = bytes(range(256)) * (size // 256 + 1)
    answer = fetch(server.address, PATH_INFO="/hash", body=body[:size])
    assert answer.body == hashlib.sha256(body[:size]).hexdigest().encode()


def test_a_large_body_on_a_kept_connection(server):
    body = b"0123456789abcdef" * (1 << 18)
    with Client(server.address) as client:
        for _ in range(2):
            client.send(keep=True, PATH_INFO="/hash", body=body)
            assert client.answer().body == hashlib.sha256(body).hexdigest().encode()


def test_a_large_response_arrives_whole(server):
    size = 16 << 20
    answer = fetch(server.address, PATH_INFO="/big", QUERY_STRING=str(size))
    assert len(answer.body) == size
    assert answer.ended is not None


def test_an_unread_body_does_not_become_a_request(server):
    """CVE-2026-129289 of php-fpm: the rest of a body on a kept connection, taken for records."""
    inner = b"".join(
        fastcgi.record(kind, 1, content)
        for kind, content in [
            (fastcgi.BEGIN_REQUEST, b"\0\1\1\0\0\0\0\0"),
            (fastcgi.PARAMS, fastcgi.encode_pair(b"REQUEST_METHOD", b"GET")),
            (fastcgi.PARAMS, b""),
            (fastcgi.STDIN, b""),
        ]
    )
    with Client(server.address) as client:
        client.begin(keep=True, REQUEST_METHOD="POST", CONTENT_LENGTH=str(len(inner) * 2000))
        assert client.answer().status == 200  # before the body was sent
        for _ in range(2000):
            client.stdin(inner)
        client.stdin(b"")
        client.send(keep=True, PATH_INFO="/next")
        assert client.answer().body == b"/next"


def test_get_values_are_answered_without_the_application(server):
    with Client(server.address) as client:
        asked = (b"FCGI_MAX_CONNS", b"FCGI_MPXS_CONNS", b"FCGI_NONE")
        client.socket.sendall(client.codec.get_values(*asked))
        while 0 not in client.answers:
            assert client.receive()
        values = client.answers[0].values
        assert values.keys() == {b"FCGI_MAX_CONNS", b"FCGI_MPXS_CONNS"}
        assert values[b"FCGI_MPXS_CONNS"] == (b"0" if server.kind == "prefork" else b"1")
        client.send(keep=True, PATH_INFO="/after")
        assert client.answer().body == b"/after"


def test_unknown_management_types_are_named_and_the_connection_lives(server):
    with Client(server.address) as client:
        client.socket.sendall(fastcgi.record(77, 0, b"?"))
        while 0 not in client.answers:
            assert client.receive()
        assert client.answers[0].stderr == bytes((77,))
        client.send(PATH_INFO="/after")
        assert client.answer().body == b"/after"


def test_several_requests_at_once_on_one_connection(server, tmp_path):
    marker = tmp_path / "go"
    with Client(server.address) as client:
        client.send(1, keep=True, PATH_INFO="/wait", QUERY_STRING=str(marker))
        until(lambda: Path(f"{marker}.begun").exists())
        client.send(2, keep=True, PATH_INFO="/second")
        if server.kind == "prefork":
            marker.touch()
            assert client.answer(1).body == b"waited"
            # One process serves one request: the second waits its turn on the same connection.
            assert client.answer(2).body == b"/second"
        else:
            assert client.answer(2).body == b"/second"
            assert client.answers[1].ended is None
            marker.touch()
            assert client.answer(1).body == b"waited"


def test_interleaved_requests_are_refused_or_served(server):
    """Records of two requests mixed: without multiplexing the second is told so."""
    with Client(server.address) as client:
        begin_one = client.codec.begin(
            1, [(b"REQUEST_METHOD", b"POST"), (b"PATH_INFO", b"/hash")], keep_conn=True
        )
        begin_two = client.codec.begin(
            2, [(b"REQUEST_METHOD", b"POST"), (b"PATH_INFO", b"/hash")], keep_conn=True
        )
        client.answers = {1: type(fetch(server.address))(), 2: type(fetch(server.address))()}
        client.socket.sendall(begin_one + begin_two)
        client.socket.sendall(client.codec.stdin(1, b"one") + client.codec.stdin(2, b"two"))
        client.socket.sendall(client.codec.stdin(2, b"") + client.codec.stdin(1, b""))
        one, two = client.answer(1), client.answer(2)
        assert one.body == hashlib.sha256(b"one").hexdigest().encode()
        if server.kind == "prefork":
            assert two.ended is not None
            assert two.ended.status == fastcgi.CANT_MPX_CONN
        else:
            assert two.body == hashlib.sha256(b"two").hexdigest().encode()


def test_an_unknown_role_is_refused(server):
    with Client(server.address) as client:
        client.begin(role=7, keep=True)
        answer = client.answer()
        assert answer.ended is not None
        assert answer.ended.status == fastcgi.UNKNOWN_ROLE
        client.stdin(b"")
        client.send(keep=True, PATH_INFO="/after")
        assert client.answer().body == b"/after"


@pytest.mark.parametrize("how", ["abort", "close", "short"])
def test_a_body_cut_short_is_never_taken_for_whole(server, tmp_path, how):
    report = tmp_path / "report"
    with Client(server.address) as client:
        client.begin(
            keep=True,
            REQUEST_METHOD="POST",
            CONTENT_LENGTH="1000",
            PATH_INFO="/read",
            QUERY_STRING=str(report),
        )
        client.stdin(b"some")
        if how == "abort":
            client.socket.sendall(client.codec.abort(1))
        elif how == "short":
            client.stdin(b"")
        else:
            client.socket.shutdown(socket.SHUT_WR)
        until(report.exists)
        until(lambda: report.read_text() in ("ClientDisconnected", "http.disconnect"))


def test_abort_is_answered_and_the_connection_lives(server, tmp_path):
    with Client(server.address) as client:
        client.begin(keep=True, REQUEST_METHOD="POST", CONTENT_LENGTH="9", PATH_INFO="/hash")
        client.socket.sendall(client.codec.abort(1))
        answer = client.answer()
        assert answer.ended is not None
        assert answer.ended.status == fastcgi.REQUEST_COMPLETE
        client.send(2, keep=True, PATH_INFO="/after")
        assert client.answer(2).body == b"/after"


def test_a_broken_response_of_unknown_length_is_seen_to_be_cut(server):
    with Client(server.address) as client:
        client.send(PATH_INFO="/cut")
        answer = client.answer()
        assert answer.body == b"first"
        assert answer.ended is None


def test_a_broken_response_of_known_length_is_short(server):
    answer = fetch(server.address, PATH_INFO="/cut", QUERY_STRING="announced")
    assert answer.body == b"first"
    assert answer.ended is not None


def test_bad_bytes_close_the_connection_and_nothing_else(server):
    with Client(server.address) as client:
        client.socket.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not client.receive()
    assert fetch(server.address, PATH_INFO="/x").body == b"/x"


def test_bad_bytes_beside_a_running_request_end_that_too(server, tmp_path):
    marker = tmp_path / "go"
    with Client(server.address) as client:
        client.send(keep=True, PATH_INFO="/wait", QUERY_STRING=str(marker))
        until(lambda: Path(f"{marker}.begun").exists())
        client.socket.sendall(b"\7" * 64)
        marker.touch()
        while client.receive():
            pass
    for n in range(20):  # nothing of the dead connection disturbs those that follow
        assert fetch(server.address, PATH_INFO=f"/{n}").body == f"/{n}".encode()
    assert "internal" not in server.text


def test_the_missing_include_of_nginx_is_named(server):
    with Client(server.address) as client:
        client.answers[1] = type(fetch(server.address))()
        client.socket.sendall(
            client.codec.begin(1, [(b"HTTP_HOST", b"x")]) + client.codec.stdin(1, b"")
        )
        assert client.answer().status == 400
    until(lambda: "include fastcgi_params" in server.text)


def test_wsgi_errors_go_to_the_web_servers_log(server):
    if server.kind == "event":
        return  # ASGI has no such stream
    answer = fetch(server.address, PATH_INFO="/errors")
    assert answer.stderr == b"for the web server's log\nand its unfinished line"
    assert answer.body == b"/errors"


def test_asgi_learns_that_the_client_has_gone(tmp_path):
    report = tmp_path / "report"
    with serving(tmp_path, *KINDS["event"]) as server:
        with Client(server.address) as client:
            client.send(PATH_INFO="/gone", QUERY_STRING=str(report))
        until(report.exists)
        until(lambda: report.read_text() == "http.disconnect ClientDisconnected")
        assert "Traceback" not in server.text


@pytest.mark.parametrize("kind", KINDS)
def test_graceful_stop_finishes_what_runs(tmp_path, kind):
    marker = tmp_path / "go"
    app, *options = KINDS[kind]
    with serving(tmp_path, app, *options) as server, Client(server.address) as client:
        client.send(PATH_INFO="/wait", QUERY_STRING=str(marker))
        until(lambda: Path(f"{marker}.begun").exists())
        server.signal(signal.SIGQUIT)
        marker.touch()
        assert client.answer().body == b"waited"
        assert server.wait() == 0
        assert not Path(server.address).exists()


@pytest.mark.parametrize("kind", KINDS)
def test_fast_stop_does_not_wait(tmp_path, kind):
    marker = tmp_path / "never"
    app, *options = KINDS[kind]
    with serving(tmp_path, app, *options) as server, Client(server.address) as client:
        client.send(PATH_INFO="/wait", QUERY_STRING=str(marker))
        until(lambda: Path(f"{marker}.begun").exists())
        server.signal(signal.SIGTERM)
        assert server.wait(5) == 0
        assert client.answer().body != b"waited"
