"""mod_proxy_fcgi: FastCGI applications behind a real host: our own, php-fpm, ill-behaved ones."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from httpd.hosting import Hosted, hosting
from serving import serving, until

from sapi_adapters.protocols import fastcgi

APP = """
import os, time

def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    body = environ["wsgi.input"].read()
    headers = [("Content-Type", "text/plain"), ("X-Pid", str(os.getpid()))]
    if path.endswith("/big"):
        start_response("200 OK", headers)
        return [b"x" * 1000000] * 8
    if path.endswith("/log"):
        environ["wsgi.errors"].write("a message\\n")
    if path.endswith("/fails"):
        start_response("200 OK", headers)
        return failing()
    if path.endswith("/away"):
        start_response("302 Found", [("Location", "/elsewhere")])
        return []
    start_response("200 OK", headers)
    names = ("SCRIPT_NAME", "PATH_INFO", "SCRIPT_FILENAME", "CONTENT_LENGTH", "QUERY_STRING",
             "HTTP_AUTHORIZATION", "HTTP_PROXY", "REQUEST_METHOD", "DOCUMENT_ROOT")
    lines = [f"{name}={environ.get(name)}\\n".encode() for name in names]
    return [*lines, b"\\n", body]

def failing():
    yield b"begun" * 20000
    raise RuntimeError("half way")

async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"\\n" + body})
"""
CONFIGURATION = """
LoadModule proxy_fcgi_module mod_proxy_fcgi
DocumentRoot {root}
Timeout 20
LimitRequestBody 0
"""


def lines_of(answer: Any) -> dict[str, str]:
    """Return the variables that the application shows."""
    text = answer.body.partition(b"\n\n")[0].decode()
    return dict(line.split("=", 1) for line in text.splitlines())


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Our own FastCGI servers: their sockets by name."""
    folder = tmp_path_factory.mktemp("apps")
    (folder / "proxied.py").write_text(APP)
    found = {}
    with contextmanager(_stack)() as enter:
        for kind, name, options in (
            ("prefork", "wsgi", ("--workers", "2")),
            ("threaded", "wsgi", ("--threads", "4")),
            ("event", "asgi", ()),
        ):
            here = folder / kind
            here.mkdir()
            sapi = "fcgi-prefork" if kind == "prefork" else "fcgi-threaded"
            if kind == "event":
                options = ()
                sapi = "fcgi-prefork"
            enter(serving(here, f"proxied:{name}", "--sapi", sapi, *options, path=folder))
            found[kind] = str(here / "app.sock")
        yield found


def _stack() -> Iterator[Callable[[Any], Any]]:
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield stack.enter_context


@pytest.fixture(scope="module", params=["prefork", "event"])
def host(
    request: Any, apps: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hosted]:
    folder = tmp_path_factory.mktemp(f"host-{request.param}")
    root = folder / "root"
    root.mkdir()
    (root / "script").write_text("")
    text = CONFIGURATION.format(root=root)
    for kind, path in apps.items():
        text += f"ProxyPass /{kind}/not !\nProxyPass /{kind} unix:{path}|fcgi://localhost/base\n"
    text += (
        f'<Files script>\nSetHandler "proxy:unix:{apps["threaded"]}|fcgi://localhost/"\n'
        "ProxyFCGIBackendType GENERIC\n</Files>\n"
        f"<Location /located>\nProxyPass unix:{apps['threaded']}|fcgi://localhost\n"
        "CGIPassAuth On\n</Location>\n"
    )
    with hosting(folder, text, request.param) as hosted:
        yield hosted


def test_proxypass_gives_the_whole_path_as_apache_does(host: Hosted) -> None:
    shown = lines_of(host.get("/prefork/a%20b?x=y", Proxy="evil", Authorization="Basic eA=="))
    assert shown["SCRIPT_FILENAME"] == "/base/a b"  # without proxy:fcgi://, which mend() takes off
    assert shown["QUERY_STRING"] == "x=y"
    assert shown["HTTP_PROXY"] == shown["HTTP_AUTHORIZATION"] == "None"
    assert shown["SCRIPT_NAME"] + shown["PATH_INFO"] == "/prefork/a b"


def test_sethandler_tells_script_and_path(host: Hosted) -> None:
    shown = lines_of(host.get("/script/more"))
    assert (shown["SCRIPT_NAME"], shown["PATH_INFO"]) == ("/script", "/more")
    assert shown["SCRIPT_FILENAME"] == f"{host.folder}/root/script"


def test_a_location_has_its_own_pass_and_may_show_credentials(host: Hosted) -> None:
    shown = lines_of(host.get("/located/x", Authorization="Basic eA=="))
    assert shown["HTTP_AUTHORIZATION"] == "Basic eA=="


def test_what_is_left_out_and_what_only_begins_alike_is_not_passed(host: Hosted) -> None:
    assert host.get("/prefork/not/x").status == 404
    assert host.get("/preforked").status == 404


@pytest.mark.parametrize("kind", ["prefork", "threaded", "event"])
@pytest.mark.parametrize("size", [0, 10, 100_000, 3_000_000])
def test_bodies_arrive(host: Hosted, kind: str, size: int) -> None:
    body = os.urandom(size)
    answer = host.request("POST", f"/{kind}/x", body)
    assert answer.body.partition(b"\n\n")[2] == body or answer.body == b"\n" + body
    answer = host.request("POST", f"/{kind}/x", iter([body, b"end"]))
    assert answer.body.endswith(b"\n" + body + b"end")
    if kind != "event":
        assert lines_of(answer)["CONTENT_LENGTH"] == str(size + 3)


def test_a_large_answer_arrives(host: Hosted) -> None:
    assert host.get("/prefork/big").body == b"x" * 8_000_000


def test_head_has_no_body(host: Hosted) -> None:
    answer = host.request("HEAD", "/prefork/x")
    assert (answer.status, answer.body) == (200, b"")


def test_redirects_of_an_application_are_the_clients(host: Hosted) -> None:
    answer = host.get("/prefork/away")
    assert (answer.status, answer.getheader("Location")) == (302, "/elsewhere")


def test_messages_of_an_application_are_logged(host: Hosted) -> None:
    host.get("/prefork/log")
    until(lambda: "a message" in host.log)


def test_an_answer_that_ends_half_way_is_cut(host: Hosted) -> None:
    got = raw(host, b"GET /prefork/fails HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"begun" not in got or not got.endswith(b"0\r\n\r\n")


def raw(host: Hosted, request: bytes) -> bytes:
    """Return all that comes for the bytes *request* until the connection ends."""
    with socket.create_connection(host.address, timeout=20) as connection:
        connection.sendall(request)
        got = b""
        with suppress(ConnectionResetError):
            while data := connection.recv(65536):
                got += data
        return got


# -- backends that do as they please --------------------------------------------------------------


class Backend:
    """A FastCGI server of one thread per connection, each of which runs *act*."""

    def __init__(self, path: Path, act: Callable[[Exchange], None]) -> None:
        self.path = path
        self.count = 0
        """Connections so far."""
        self.events: list[Any] = []
        self._act = act
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(16)
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.count += 1
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(20)
        with connection, suppress(OSError):
            self._act(Exchange(self, connection))

    def close(self) -> None:
        """End it."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(20)
        for thread in self._threads:
            thread.join(25)


class Exchange:
    """One connection to such a server."""

    def __init__(self, backend: Backend, connection: socket.socket) -> None:
        self.backend = backend
        self.connection = connection
        self.codec = fastcgi.Connection()
        self.number = backend.count
        """Which one it is, from 1."""
        self.served = 0
        self._waiting: list[Any] = []

    def next(self, kind: type) -> Any:
        """Return the next event of *kind*; all go to the backend's list. None at the end."""
        while True:
            while self._waiting:
                event = self._waiting.pop(0)
                if isinstance(event, kind):
                    return event
            data = self.connection.recv(65536)
            if not data:
                return None
            events = self.codec.receive_data(data)
            self.backend.events += events
            self._waiting += events

    def say(self, data: bytes) -> None:
        """Send *data* as the answer's output."""
        self.connection.sendall(fastcgi.stream(fastcgi.STDOUT, 1, data))

    def end(self, request: Any = None, **options: Any) -> None:
        """Send the end of the answer."""
        self.connection.sendall(fastcgi.end_response(1, **options))
        if request is not None:
            self.codec.end(request)


@contextmanager
def behind(
    folder: Path, mpm: str, act: Callable[[Exchange], None], more: str = "", **options: Any
) -> Iterator[tuple[Hosted, Backend]]:
    """A host with /app before a backend that does *act*."""
    path = folder / "backend.sock"
    backend = Backend(path, act)
    text = CONFIGURATION.format(root=folder) + (
        f"ProxyPass /app unix:{path}|fcgi://localhost {more}\n"
    )
    try:
        with hosting(folder, text, mpm) as hosted:
            yield hosted, backend
    finally:
        backend.close()


BOTH = pytest.mark.parametrize("mpm", ["prefork", "event"])


def refuse(exchange: Exchange) -> None:
    exchange.next(fastcgi.RequestReceived)
    exchange.end(status=fastcgi.OVERLOADED)


def garble(exchange: Exchange) -> None:
    exchange.next(fastcgi.RequestReceived)
    exchange.connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")


def bad_head(exchange: Exchange) -> None:
    exchange.next(fastcgi.RequestReceived)
    exchange.say(b"no header\n\nbody")
    exchange.end()


def vanish(exchange: Exchange) -> None:
    exchange.next(fastcgi.RequestReceived)


def no_head(exchange: Exchange) -> None:
    exchange.next(fastcgi.RequestReceived)
    exchange.end()


@BOTH
@pytest.mark.parametrize(
    ("act", "status", "said"),
    [
        (refuse, 503, "overloaded"),
        (garble, 502, "breaks the protocol"),
        (bad_head, 502, "Bad header: 'no header'"),
        (vanish, 502, "closed the connection"),
        (no_head, 502, "End of script output before headers"),
    ],
)
def test_a_backend_that_breaks_the_rules(
    tmp_path: Path, mpm: str, act: Any, status: int, said: str
) -> None:
    with behind(tmp_path, mpm, act) as (host, _):
        assert host.get("/app").status == status
        assert said in host.log


@BOTH
def test_a_backend_that_is_down_is_a_503(tmp_path: Path, mpm: str) -> None:
    text = CONFIGURATION.format(root=tmp_path) + (
        f"ProxyPass /app unix:{tmp_path}/nobody|fcgi://localhost\n"
    )
    with hosting(tmp_path, text, mpm) as host:
        assert host.get("/app").status == 503
        assert "attempt to connect" in host.log


@BOTH
def test_a_silent_backend_is_a_504(tmp_path: Path, mpm: str) -> None:
    def wait(exchange: Exchange) -> None:
        exchange.next(fastcgi.Aborted)

    with behind(tmp_path, mpm, wait, "timeout=1") as (host, _):
        assert host.get("/app").status == 504


@BOTH
def test_an_answer_that_breaks_off_is_cut(tmp_path: Path, mpm: str) -> None:
    def begin(exchange: Exchange) -> None:
        exchange.next(fastcgi.RequestReceived)
        exchange.say(b"Content-Type: text/plain\n\n" + b"begun" * 40_000)

    with behind(tmp_path, mpm, begin) as (host, _):
        got = raw(host, b"GET /app HTTP/1.1\r\nHost: a\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 200 ")
        assert not got.endswith(b"0\r\n\r\n")
        assert "it is cut" in host.log


@BOTH
def test_an_answer_may_come_before_the_body(tmp_path: Path, mpm: str) -> None:
    def early(exchange: Exchange) -> None:
        request = exchange.next(fastcgi.RequestReceived).request
        exchange.say(b"Status: 413\nContent-Type: text/plain\n\nfull")
        exchange.end(request)
        exchange.next(fastcgi.Aborted)

    with (
        behind(tmp_path, mpm, early) as (host, _),
        socket.create_connection(host.address, timeout=20) as connection,
    ):
        connection.sendall(b"POST /app HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\nxx")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


@BOTH
def test_output_is_sent_as_it_comes_and_abort_when_the_client_goes(
    tmp_path: Path, mpm: str
) -> None:
    gone = threading.Event()

    def endless(exchange: Exchange) -> None:
        exchange.next(fastcgi.RequestReceived)
        exchange.say(b"Content-Type: text/plain\n\nfirst\n")
        exchange.connection.settimeout(0.1)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                if exchange.next(fastcgi.Aborted) is not None:
                    gone.set()
                return
            except TimeoutError:
                exchange.say(b"more\n")

    with behind(tmp_path, mpm, endless) as (host, _):
        connection = socket.create_connection(host.address, timeout=20)
        connection.sendall(b"GET /app HTTP/1.1\r\nHost: a\r\n\r\n")
        got = b""
        while b"first\n" not in got:
            got += connection.recv(65536)
        connection.close()
        assert gone.wait(20), "ABORT_REQUEST"


def answer_all(exchange: Exchange) -> None:
    """Answer every request on the connection with its number and the connection's."""
    while (received := exchange.next(fastcgi.RequestReceived)) is not None:
        request = received.request
        assert request.params["REQUEST_METHOD"] in ("GET", "POST")
        while not request.stdin_ended:
            exchange.next(fastcgi.StdinEnded)
        exchange.served += 1
        text = f"{exchange.number} {exchange.served}"
        exchange.say(b"Content-Type: text/plain\n\n" + text.encode())
        exchange.end(request)
        if not request.keep_conn:
            return


@BOTH
def test_connections_are_kept_when_that_is_asked_for_but_not_for_what_cannot_be_repeated(
    tmp_path: Path, mpm: str
) -> None:
    with behind(tmp_path, mpm, answer_all, "enablereuse=on") as (host, backend):
        assert [host.get("/app").body for _ in range(3)] == [b"1 1", b"1 2", b"1 3"]
        assert host.request("POST", "/app", b"x").body == b"2 1"
        assert host.get("/app").body == b"2 2"
    assert backend.count == 2


@BOTH
def test_connections_are_not_kept_by_default(tmp_path: Path, mpm: str) -> None:
    with behind(tmp_path, mpm, answer_all) as (host, _):
        assert [host.get("/app").body for _ in range(2)] == [b"1 1", b"2 1"]


@BOTH
def test_a_kept_connection_that_has_ended_meanwhile_is_replaced(tmp_path: Path, mpm: str) -> None:
    def once(exchange: Exchange) -> None:
        request = exchange.next(fastcgi.RequestReceived).request
        exchange.say(b"Content-Type: text/plain\n\n%d" % exchange.number)
        exchange.end(request)
        if exchange.next(fastcgi.RequestReceived):  # it ends when the next request has come
            return

    with behind(tmp_path, mpm, once, "enablereuse=on") as (host, backend):
        assert [host.get("/app").body for _ in range(3)] == [b"1", b"2", b"3"]
        assert backend.count == 3


@BOTH
def test_a_program_for_the_error_document_gets_no_body(tmp_path: Path, mpm: str) -> None:
    more = (
        f"\nErrorDocument 404 /app/error\nProxySet unix:{tmp_path}/backend.sock|fcgi://x timeout=9"
    )
    with behind(tmp_path, mpm, answer_all, more) as (host, backend):
        answer = host.request("POST", "/absent", b"body")
        assert (answer.status, answer.body) == (404, b"1 1")
        params = backend.events[0].request.params
        assert "CONTENT_LENGTH" not in params
        assert params["REDIRECT_STATUS"] == "404"


def test_what_is_wrong_in_the_configuration_is_said(tmp_path: Path) -> None:
    for line in (
        "ProxyPass /app http://localhost/",
        "ProxyPass app fcgi://localhost/",
        "ProxyPass /app fcgi://localhost:99999/",
        "ProxyPass /app fcgi://localhost/ retry=1",
        "ProxySet fcgi://localhost enablereuse=perhaps",
        "ProxyFCGIBackendType PHP",
    ):
        text = CONFIGURATION.format(root=tmp_path) + line
        with hosting(tmp_path, text, ready=False) as host:
            until(lambda host=host: host.process.poll() is not None)
            assert host.process.returncode != 0, line
            assert line.split()[0] in host.log, line


# -- php-fpm --------------------------------------------------------------------------------------

FPM = shutil.which("php-fpm8.2") or shutil.which("php-fpm")
PHP = """<?php
header("X-Sapi: " . PHP_SAPI);
setcookie("a", "b"); setcookie("c", "d");
if (isset($_GET["away"])) { header("Location: /elsewhere"); exit; }
error_log("php says so");
echo $_SERVER["SCRIPT_NAME"], "|", $_SERVER["PATH_INFO"] ?? "", "|", $_SERVER["SCRIPT_FILENAME"],
    "|", file_get_contents("php://input");
"""


@pytest.fixture
def fpm(tmp_path: Path) -> Iterator[str]:
    """The socket of a php-fpm."""
    path = tmp_path / "fpm.sock"
    user = pwd.getpwuid(os.geteuid())  # who may read the folder
    (tmp_path / "fpm.conf").write_text(
        f"[global]\nerror_log = {tmp_path}/fpm.log\ndaemonize = no\n[www]\nlisten = {path}\n"
        f"user = {user.pw_name}\ngroup = {user.pw_gid}\nlisten.mode = 0666\n"
        "pm = static\npm.max_children = 2\n"
    )
    process = subprocess.Popen(
        [str(FPM), "-n", "-R", "-y", str(tmp_path / "fpm.conf")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(path.exists)
        yield str(path)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(15)


@pytest.mark.skipif(FPM is None, reason="php-fpm is not installed")
@BOTH
def test_php_fpm(tmp_path: Path, mpm: str, fpm: str) -> None:
    (tmp_path / "x.php").write_text(PHP)
    text = CONFIGURATION.format(root=tmp_path) + (
        f'<FilesMatch "\\.php$">\nSetHandler "proxy:unix:{fpm}|fcgi://localhost/"\n</FilesMatch>\n'
        f"ProxySet unix:{fpm}|fcgi://localhost/ enablereuse=on\n"
    )
    file = f"{tmp_path}/x.php"
    with hosting(tmp_path, text, mpm) as host:
        for _ in range(3):
            answer = host.request("POST", "/x.php/more?x=y", b"body" * 30_000)
            assert answer.body == f"/x.php|/more|{file}|".encode() + b"body" * 30_000, host.log
            assert answer.getheader("X-Sapi") == "fpm-fcgi"
            assert len(answer.headers.get_all("Set-Cookie") or ()) == 2
        assert host.get("/x.php").body == f"/x.php||{file}|".encode()
        assert host.get("/x.php?away=1").status == 302
        assert host.get("/absent.php").status == 404
        until(lambda: "php says so" in host.log)
