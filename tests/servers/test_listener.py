"""Listening sockets: made, inherited, replaced when stale, never stolen."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from fastcgi_client import fetch
from serving import serving

from sapi_adapters.sapi import ConfigurationError
from sapi_adapters.servers import listener


def test_a_unix_socket_is_born_0660(tmp_path):
    path = str(tmp_path / "s")
    before = os.umask(0)
    try:
        made = listener.bind_unix(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    made.close()
    assert not os.path.exists(path)


def test_mode_owner_and_group_are_set(tmp_path):
    path = str(tmp_path / "s")
    made = listener.bind_unix(path, mode=0o600, owner=str(os.getuid()), group=str(os.getgid()))
    status = os.stat(path)
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o600, os.getuid())
    made.close()


@pytest.mark.parametrize("who", [{"owner": "no-such-user"}, {"group": "no-such-group"}])
def test_unknown_owners_are_named_and_leave_nothing_behind(tmp_path, who):
    path = str(tmp_path / "s")
    with pytest.raises(ConfigurationError, match="no-such"):
        listener.bind_unix(path, **who)
    assert not os.path.exists(path)


def test_a_stale_socket_is_replaced(tmp_path):
    path = str(tmp_path / "s")
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(path)
    dead.close()
    made = listener.bind_unix(path)
    made.close()


def test_a_live_socket_is_never_stolen(tmp_path):
    path = str(tmp_path / "s")
    live = listener.bind_unix(path)
    inode = os.stat(path).st_ino
    with pytest.raises(ConfigurationError, match="another process listens"):
        listener.bind_unix(path)
    assert os.stat(path).st_ino == inode
    live.close()


def test_a_file_of_another_kind_is_left_alone(tmp_path):
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ConfigurationError, match="another kind"):
        listener.bind_unix(str(path))
    assert path.read_text() == "data"


def test_close_removes_only_its_own_socket_file(tmp_path):
    path = str(tmp_path / "s")
    first = listener.bind_unix(path)
    os.unlink(path)
    second = listener.bind_unix(path)
    first.close()
    assert os.path.exists(path)
    second.close()


def test_a_missing_directory_is_one_clear_line(tmp_path):
    with pytest.raises(ConfigurationError, match=r"cannot listen on .*No such file"):
        listener.bind_unix(str(tmp_path / "none" / "s"))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9000", ("127.0.0.1", 9000)),
        (":9000", ("", 9000)),
        ("9000", ("", 9000)),
        ("[::1]:80", ("::1", 80)),
    ],
)
def test_addresses(text, address):
    assert listener.parse_address(text) == address


@pytest.mark.parametrize("text", ["", "localhost", "::1:80", "host:99999", "host:-1", "host:٣"])
def test_what_is_no_address(text):
    with pytest.raises(ConfigurationError):
        listener.parse_address(text)


@pytest.mark.parametrize("text", ["127.0.0.1:0", "[::1]:0"])
def test_tcp(text):
    made = listener.bind_tcp(text)
    assert made.describe().startswith(text[:-1])
    with pytest.raises(ConfigurationError, match="in use"):
        listener.bind_tcp(made.describe())
    made.close()


def test_only_listening_sockets_are_inherited():
    one, two = socket.socketpair()
    with one, two, pytest.raises(ConfigurationError, match="no listening socket"):
        listener.inherit(one.fileno())
    reader, writer = os.pipe()
    with pytest.raises(ConfigurationError):
        listener.inherit(reader)
    os.close(reader)
    os.close(writer)


def test_the_allow_list_compares_whole_addresses():
    made = listener.bind_tcp("127.0.0.1:0")
    listener.allow_web_servers([made], "127.0.0.1, ::2")
    allows = made.allows
    assert allows is not None
    assert allows(("127.0.0.1", 5))
    assert allows(("::ffff:127.0.0.1", 5, 0, 0))
    assert allows(("::2", 5, 0, 0))
    assert not allows(("::2:0", 5, 0, 0))  # CVE-2026-91768: 12 of 16 bytes were compared
    assert not allows(("127.0.0.2", 5))
    assert not allows("")  # a Unix socket has no address
    made.close()


def test_an_allow_list_that_does_not_parse_lets_nobody_in():
    with pytest.raises(ConfigurationError, match="FCGI_WEB_SERVER_ADDRS"):
        listener.allow_web_servers([], "127.0.0.1,nonsense")


def _spawned(script: str, **options) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), **options.pop("env", {})},
        **options,
    )


RUN = "from sapi_adapters import run; from server_apps import wsgi; run(wsgi)"


def test_descriptor_0_as_web_servers_start_it(tmp_path):
    """fd 0 listens, 1 and 2 are closed: one worker, this very process (mod_fcgid, lighttpd)."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        closed = f"import os; os.close(1); os.close(2); {RUN}"
        process = _spawned(closed, stdin=listening.fileno())
    try:
        answer = fetch(path, SCRIPT_NAME="/app.fcgi", PATH_INFO="/pid")
        assert int(answer.body) == process.pid
    finally:
        process.terminate()
        assert process.wait(10) == 0
    assert os.path.exists(path)  # it is the web server's


def test_descriptor_0_with_sapi_workers(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        process = _spawned(RUN, stdin=listening.fileno(), env={"SAPI_WORKERS": "2"})
    try:
        assert int(fetch(path, PATH_INFO="/pid").body) != process.pid
    finally:
        process.terminate()
        assert process.wait(10) == 0


def test_systemd_sockets(tmp_path):
    path = str(tmp_path / "s")
    activate = (
        "import os, socket, sys;"
        "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen();"
        "os.dup2(s.fileno(), 3); os.set_inheritable(3, True);"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1');"
        f"os.execv(sys.executable, [sys.executable, '-c', {RUN!r}])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", activate, path],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "WEB_CONCURRENCY": "1"},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert fetch(path, PATH_INFO="/x").body == b"/x"
    finally:
        process.terminate()
        assert process.wait(10) == 0


def test_an_inherited_descriptor_by_number(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        process = subprocess.Popen(
            [sys.executable, "-m", "sapi_adapters", "server_apps:wsgi"]
            + ["--fd", str(listening.fileno())],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
            pass_fds=[listening.fileno()],
            stderr=subprocess.DEVNULL,
        )
    try:
        assert fetch(path, PATH_INFO="/x").body == b"/x"
    finally:
        process.terminate()
        assert process.wait(10) == 0


def test_a_peer_that_is_not_listed_is_closed_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("FCGI_WEB_SERVER_ADDRS", "192.0.2.1")
    options = ("--sapi", "fcgi-threaded", "--bind", "127.0.0.1:0")
    with serving(tmp_path, "server_apps:wsgi", *options) as served:
        where = served.text.split(", on ")[1].split()[0]
        host, port = where.split(":")
        with socket.create_connection((host, int(port)), 10) as connection:
            assert connection.recv(1) == b""
