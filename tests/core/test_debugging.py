"""The debugger of ``--debug``: what it shows, and to whom it shows nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from urllib.parse import urlencode

import pytest
from fastcgi_client import Answer, Client, fetch
from serving import until

from sapi_adapters import debugging
from sapi_adapters.sapi import ConfigurationError
from sapi_adapters.servers.listener import Listener, bind_tcp, bind_unix

SERVER = """
import sys
from sapi_adapters.debugging import refuse_unless_loopback, wrap
from sapi_adapters.loading import gateway_for, load
from sapi_adapters.names import sapi_class

name, interface, reference, *options = sys.argv[1:]
sapi = sapi_class(name)(bind="127.0.0.1:0", workers=1)

def gateway():
    refuse_unless_loopback(sapi.listeners)
    application = load(reference)
    where = [each.describe() for each in sapi.listeners]
    if "plain" not in options:
        application = wrap(application, interface, where)
    return gateway_for(application, sapi, interface="wsgi" if interface == "wsgi" else "asgi")

sys.exit(sapi.run(gateway))
"""

APPS = """
from flask import Flask
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute


def wsgi(environ, start_response):
    secret_of_the_frame = 6 * 7
    path = environ["PATH_INFO"]
    if path == "/before":
        raise ValueError("before the head <b>")
    length = [("Content-Length", "100")] if path == "/announced" else []
    start_response("200 OK", [("Content-Type", "text/plain"), *length])
    if path == "/twice":
        try:
            raise KeyError
        except KeyError:
            start_response("404 Not Found", [])
    if path == "/head":
        raise ValueError("after the head")
    if path in ("/late", "/announced"):
        return late()
    return [b"fine " + path.encode()]


def late():
    yield b"first"
    raise ValueError("in the middle")


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["started"] = b"in its life span"
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/before":
        raise ValueError("before the head <b>")
    status = 500 if scope["path"] in ("/500", "/stream500") else 200
    await send({"type": "http.response.start", "status": status, "headers": []})
    if scope["path"] == "/late":
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        raise ValueError("in the middle")
    if scope["path"] == "/stream500":
        for piece in (b"one ", b"two "):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": scope["state"]["started"]})


flask = Flask(__name__)


@flask.route("/before")
def before():
    raise ValueError("in Flask")


def fails(request):
    raise ValueError("in Starlette")


starlette = Starlette(routes=[Route("/before", fails)])
"""


class Server:
    """A server in a process of its own, with a debugger."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def text(self) -> str:
        """What it wrote on standard error so far."""
        return self._log.read_text(errors="replace")

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        found = re.search(r"on 127\.0\.0\.1:(\d+)", self.text)
        assert found, self.text
        return "127.0.0.1", int(found[1])

    def get(self, path: str = "/before", query: str = "", **params: str) -> Answer:
        """Make one request as a browser on this machine would, by way of a web server here."""
        given = {"HTTP_HOST": "localhost:8080", "HTTP_ACCEPT": "text/html", **params}
        return fetch(self.address, PATH_INFO=path, QUERY_STRING=query, **given)


@contextmanager
def debugged(
    tmp_path: Path, interface: str, application: str, sapi: str = "fcgi-prefork", *options: str
) -> Iterator[Server]:
    (tmp_path / "failing.py").write_text(APPS)
    (tmp_path / "server.py").write_text(SERVER)
    log = tmp_path / "stderr.log"
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("WERKZEUG", "FLASK"))}
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "server.py", sapi, interface, f"failing:{application}", *options],
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            env=environ,
            cwd=tmp_path,
        )
    server = Server(process, log)
    try:
        until(lambda: "nginx:" in server.text or process.poll() is not None, 30, "the start-up")
        assert process.poll() is None, server.text
        yield server
    finally:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        pids = [int(pid) for pid in children.read_text().split()] if process.poll() is None else []
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            for pid in [*pids, process.pid]:
                os.kill(pid, signal.SIGKILL)
            process.wait(15)


def head(answer: Answer) -> str:
    return answer.stdout.partition(b"\r\n\r\n")[0].decode("latin-1")


class Console:
    """Werkzeug's page, used as the script in it would."""

    def __init__(self, server: Server, page: Answer, **params: str) -> None:
        self._server = server
        self._params = params
        self._text = page.body.decode()
        self.secret = self._find(r'SECRET = "(\w+)"')
        self.may_evaluate = self._find(r"EVALEX = (\w+)") == "true"
        # The innermost frame is the last one of the page.
        self.frames = re.findall(r'id="frame-(\d+)"', self._text)
        self.cookie = ""

    def _find(self, pattern: str) -> str:
        found = re.search(pattern, self._text)
        assert found, self._text[:1000]
        return found[1]

    def ask(self, **args: str) -> Answer:
        """Send one of the debugger's commands."""
        query = urlencode({"__debugger__": "yes", "s": self.secret, **args})
        params = {**self._params, **({"HTTP_COOKIE": self.cookie} if self.cookie else {})}
        return self._server.get("/before", query, **params)

    def enter(self, pin: str) -> bool:
        """Give the PIN; keep the cookie that comes for the right one."""
        answer = self.ask(cmd="pinauth", pin=pin)
        assert answer.status == 200, answer
        cookie = re.search(r"(?im)^set-cookie: ([^;]+)", head(answer))
        self.cookie = cookie[1] if cookie else ""
        right: bool = json.loads(answer.body)["auth"]
        return right

    def evaluate(self, text: str) -> str:
        """Evaluate *text* in the innermost frame."""
        answer = self.ask(cmd=text, frm=self.frames[-1])
        return unescape(re.sub("<[^>]+>", "", answer.body.decode()))


def pin_of(server: Server) -> str:
    """Return the PIN from the server's start-up message."""
    found = re.search(
        r"^debugger: for this machine's own requests by 127\.0\.0\.1:\d+, PIN ([\d-]+)$",
        server.text,
        re.M,
    )
    assert found, server.text
    return found[1]


# -- Werkzeug's debugger


@pytest.mark.parametrize("sapi", ["fcgi-prefork", "fcgi-threaded"])
def test_a_wsgi_error_shows_its_traceback_and_a_console_in_its_frames(
    tmp_path: Path, sapi: str
) -> None:
    with debugged(tmp_path, "wsgi", "wsgi", sapi) as server:
        assert server.get("/other").body == b"fine /other"
        page = server.get()
        assert page.status == 500
        text = page.body.decode()
        assert "ValueError: before the head &lt;b&gt;" in text
        assert "failing.py" in text
        assert "sapi_adapters/debugging.py" not in text, "our own frames are no news"
        console = Console(server, page)
        assert console.may_evaluate
        assert console.enter(pin_of(server))
        assert console.evaluate("secret_of_the_frame * 2").endswith("\n84")
        assert "'/before'" in console.evaluate("environ['PATH_INFO']")
        console.evaluate("kept = path * 2")
        assert "'/before/before'" in console.evaluate("kept")
        assert b"EVALEX_TRUSTED" in console.ask(cmd="resource", f="debugger.js").body


def test_the_console_is_shut_without_the_pin(tmp_path: Path) -> None:
    with debugged(tmp_path, "wsgi", "wsgi") as server:
        console = Console(server, server.get())
        assert not console.enter("000-000-001")
        assert not console.cookie
        answer = console.ask(cmd="path * 2", frm=console.frames[-1])
        assert answer.status == 500
        assert b"/before/before" not in answer.body
        console.secret = "guessed"
        console.ask(cmd="pinauth", pin=pin_of(server))
        assert not console.cookie


def test_the_page_of_another_site_gets_no_console(tmp_path: Path) -> None:
    with debugged(tmp_path, "wsgi", "wsgi") as server:
        console = Console(server, server.get(HTTP_HOST="rebound.example.org"))
        assert not console.may_evaluate


def test_a_console_without_an_error_does_not_take_a_page_from_the_application(
    tmp_path: Path,
) -> None:
    with debugged(tmp_path, "wsgi", "wsgi") as server:
        assert server.get("/console").body == b"fine /console"


def test_the_page_replaces_a_head_that_has_not_gone(tmp_path: Path) -> None:
    with debugged(tmp_path, "wsgi", "wsgi") as server:
        answer = server.get("/head")
        assert answer.status == 500
        assert b"ValueError: after the head" in answer.body


def test_the_application_breaks_the_same_rules_as_without_the_debugger(tmp_path: Path) -> None:
    with debugged(tmp_path, "wsgi", "wsgi") as server:
        answer = server.get("/twice")
        assert answer.status == 500
        assert b"start_response was called again without exc_info" in answer.body


@pytest.mark.parametrize("path", ["/late", "/announced"])
def test_a_response_that_breaks_off_is_cut_as_without_the_debugger(
    tmp_path: Path, path: str
) -> None:
    results = []
    for options in ((), ("plain",)):
        with debugged(tmp_path, "wsgi", "wsgi", "fcgi-prefork", *options) as server:
            with Client(server.address) as client:
                client.send(PATH_INFO=path)
                answer = client.answer()
                results.append((answer.stdout, answer.ended, getattr(client, "reset", False)))
            until(lambda: "ValueError: in the middle" in server.text)
    assert results[0] == results[1]
    assert results[0][0].endswith(b"first")


def test_flask_lets_its_errors_pass(tmp_path: Path) -> None:
    with debugged(tmp_path, "wsgi", "flask") as server:
        page = server.get()
        assert b"ValueError: in Flask" in page.body
        console = Console(server, page)
        assert console.enter(pin_of(server))
        assert console.evaluate("6 * 7").endswith("\n42")


# -- Starlette's page


@pytest.mark.parametrize(("application", "text"), [("asgi", "before"), ("starlette", "Starlette")])
def test_an_asgi_error_shows_its_traceback(tmp_path: Path, application: str, text: str) -> None:
    with debugged(tmp_path, "asgi", application) as server:
        page = server.get()
        assert page.status == 500
        assert b"<html>" in page.body
        assert b"ValueError" in page.body
        assert text.encode() in page.body
        assert b"failing.py" in page.body
        # The log has it, too, once the response has gone.
        until(lambda: "application raised: GET /before" in server.text)


def test_an_asgi_application_keeps_its_life_span_and_its_own_answers(tmp_path: Path) -> None:
    with debugged(tmp_path, "asgi", "asgi") as server:
        assert server.get("/fine").body == b"in its life span"
        own = server.get("/500")
        assert (own.status, own.body) == (500, b"in its life span")
        streamed = server.get("/stream500")
        assert (streamed.status, streamed.body) == (500, b"one two in its life span")
        late = server.get("/late")
        assert (late.status, late.body) == (200, b"first")
        until(lambda: "ValueError: in the middle" in server.text)


def test_what_is_no_http_passes_by_the_debugger() -> None:
    import asyncio

    seen = []

    async def application(scope: object, receive: object, send: object) -> None:
        seen.append((scope, receive, send))
        raise KeyError("its own business")

    wrapped = debugging.wrap(application, "asgi", ["here"])
    for kind in ("lifespan", "websocket"):
        call = ({"type": kind}, object(), object())
        with pytest.raises(KeyError):
            asyncio.run(wrapped(*call))
        assert seen.pop() == call


# -- who gets nothing

ELSEWHERE = {
    "another machine": {"REMOTE_ADDR": "192.0.2.7"},
    "another machine by IPv6": {"REMOTE_ADDR": "2001:db8::7"},
    "another machine, mapped": {"REMOTE_ADDR": "::ffff:192.0.2.7"},
    "a Unix socket of the web server": {"REMOTE_ADDR": "unix:"},
    "nobody knows where": {"REMOTE_ADDR": ""},
    "the end of a tunnel": {"HTTP_X_FORWARDED_FOR": "192.0.2.7"},
    "a proxy that says so in the new way": {"HTTP_FORWARDED": "for=192.0.2.7"},
    "a proxy that names the client": {"HTTP_X_REAL_IP": "192.0.2.7"},
    "a proxy that names itself": {"HTTP_VIA": "1.1 proxy"},
}


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_a_request_from_elsewhere_is_served_as_without_the_debugger(
    tmp_path: Path, interface: str
) -> None:
    with debugged(tmp_path, interface, interface, "fcgi-prefork", "plain") as server:
        plain = server.get(REMOTE_ADDR="192.0.2.7")
        assert plain.status == 500
    with debugged(tmp_path, interface, interface) as server:
        page = server.get()
        assert b"failing.py" in page.body, "there is a debugger"
        for name, params in ELSEWHERE.items():
            answer = server.get(**params)
            assert answer.stdout == plain.stdout, name
            assert answer.stderr == plain.stderr, name
        logged = "application raised: GET /before"
        until(lambda: server.text.count(logged) >= len(ELSEWHERE), what="the log of the errors")
        for address in ("127.8.0.1", "::1", "::ffff:127.0.0.1"):
            assert b"failing.py" in server.get(REMOTE_ADDR=address).body, address


def test_the_console_is_shut_to_requests_from_elsewhere(tmp_path: Path) -> None:
    with debugged(tmp_path, "wsgi", "wsgi") as server:
        console = Console(server, server.get())
        assert console.enter(pin_of(server))
        assert "'/before/before'" in console.evaluate("path * 2")
        for params in ELSEWHERE.values():
            away = Console(server, server.get(), **params)
            away.cookie = console.cookie
            assert "/before/before" not in away.evaluate("path * 2")
            assert away.ask(cmd="resource", f="debugger.js").status == 500, "it is unknown there"
        assert "'/before/before'" in console.evaluate("path * 2")


# -- where it may listen


@contextmanager
def listening(*listeners: Listener) -> Iterator[list[Listener]]:
    try:
        yield list(listeners)
    finally:
        for each in listeners:
            each.close()


def test_loopback_addresses_pass() -> None:
    with listening(bind_tcp("127.0.0.1:0"), bind_tcp("127.1.2.3:0")) as listeners:
        debugging.refuse_unless_loopback(listeners)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_the_loopback_address_of_ipv6_passes() -> None:
    try:
        one = bind_tcp("[::1]:0")
    except ConfigurationError:
        pytest.skip("no IPv6 on the loopback interface")
    with listening(one) as listeners:
        debugging.refuse_unless_loopback(listeners)


@pytest.mark.parametrize("address", ["0.0.0.0:0", ":0"])
def test_an_address_that_others_reach_is_refused(address: str) -> None:
    with listening(bind_tcp("127.0.0.1:0"), bind_tcp(address)) as listeners:
        port = listeners[1].socket.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf":{port}: .*use --bind 127\.0\.0\.1:PORT"):
            debugging.refuse_unless_loopback(listeners)


def test_a_unix_socket_is_refused_as_a_web_server_may_stand_in_front(tmp_path: Path) -> None:
    refusal = pytest.raises(ConfigurationError, match=r"app\.sock: a web server .*--bind 127")
    with listening(bind_unix(str(tmp_path / "app.sock"))) as listeners, refusal:
        debugging.refuse_unless_loopback(listeners)


def test_what_does_not_listen_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="needs a server"):
        debugging.refuse_unless_loopback([])


# -- what it needs


@pytest.mark.parametrize(
    ("interface", "module", "install"),
    [
        ("wsgi", "werkzeug.debug", "pip install 'werkzeug>=3.0.3'"),
        ("asgi", "starlette.middleware.errors", "pip install 'starlette'"),
    ],
)
def test_a_missing_package_is_named_with_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, interface: str, module: str, install: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError) as caught:
        debugging.wrap(print, interface, ["here"])
    assert str(caught.value).endswith(install)
    assert "\n" not in str(caught.value)


def test_a_package_that_lacks_one_of_its_own_is_not_called_missing() -> None:
    code = (
        "import sys; sys.modules['markupsafe'] = None\n"
        "from sapi_adapters.debugging import wrap\n"
        "try: wrap(print, 'wsgi', ['here'])\n"
        "except ModuleNotFoundError as error: assert error.name == 'markupsafe', error\n"
        "else: sys.exit(1)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_interface_is_found_out() -> None:
    def wsgi(environ: object, start_response: object) -> list[bytes]:
        return [b"called"]

    wrapped = debugging.wrap(wsgi, "auto", ["here"])
    assert wrapped({"REMOTE_ADDR": "192.0.2.7"}, None) == [b"called"]


def test_an_open_console_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WERKZEUG_DEBUG_PIN", "off")
    with pytest.raises(ConfigurationError, match="unset WERKZEUG_DEBUG_PIN"):
        debugging.wrap(print, "wsgi", ["here"])


def test_the_older_asgi_is_refused() -> None:
    def application(scope: object) -> None:
        raise AssertionError

    for interface in ("asgi2", "auto"):
        with pytest.raises(ConfigurationError, match="guarantee_single_callable"):
            debugging.wrap(application, interface, ["here"])


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    code = (
        "import sys, sapi_adapters.debugging, sapi_adapters.running;"
        "assert not {'werkzeug', 'starlette'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
