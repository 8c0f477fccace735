"""The entry points of PasteDeploy: what an ini file's text becomes, and real ini files."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import hold_port, release_ports
from serving import until

from sapi_adapters.flup.client.fcgi_app import FCGIApp
from sapi_adapters.flup.client.scgi_app import SCGIApp
from sapi_adapters.flup.server import NoDefault, paste_factory

pytestmark = pytest.mark.usefixtures("deadline")

# -- text to values -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((word, True) for word in ("true", "yes", "on", "y", "t", "1", " True\n", "ON")),
        *((word, False) for word in ("false", "no", "off", "n", "f", "0", " False ")),
        (True, True),
        (0, False),
        (None, False),
    ],
)
def test_text_is_a_truth(text, value):
    """F1"""
    assert paste_factory.asbool(text) is value


@pytest.mark.parametrize("text", ["", "2", "maybe"])
def test_text_that_is_no_truth_is_an_error(text):
    with pytest.raises(ValueError, match="neither true nor false"):
        paste_factory.asbool(text)


def test_text_is_a_list():
    """F1"""
    assert paste_factory.aslist("a  b\n c ") == ["a", "b", "c"]
    assert paste_factory.aslist("a , b", ",") == ["a", "b"]
    assert paste_factory.aslist("a , b", ",", strip=False) == ["a ", " b"]
    assert paste_factory.aslist(None) == []
    assert paste_factory.aslist(7) == [7]
    given = ["a b"]
    assert paste_factory.aslist(given) is given


# -- what a runner starts -------------------------------------------------------------------------

THREADS = {"minSpare": "2", "maxSpare": "3", "maxThreads": "4"}
PROCESSES = {"minSpare": "2", "maxSpare": "3", "maxChildren": "4", "maxRequests": "5"}
LOCAL = {"allowedServers": ["127.0.0.1"], "debug": False}
AJP = {"scriptName": "", "bindAddress": ("localhost", 8009), **LOCAL}
SCGI = {"scriptName": NoDefault, "bindAddress": ("localhost", 4000), **LOCAL}
FCGI = {"bindAddress": None, "umask": None, "multiplexed": False, "debug": False}
ELSEWHERE = {"host": "h", "port": "1", "allowedServers": "10.0.0.1 10.0.0.2", "scriptName": "/x"}
THERE = {
    "bindAddress": ("h", 1),
    "allowedServers": ["10.0.0.1", "10.0.0.2"],
    "scriptName": "/x",
}
ON_A_SOCKET = {"socket": "/s", "umask": "18", "multiplexed": "yes", "debug": "on"}
SO = {"bindAddress": "/s", "umask": 18, "multiplexed": True, "debug": True}


def counts(texts: dict[str, str]) -> dict[str, int]:
    return {name: int(text) for name, text in texts.items()}


RUNNERS = [
    ("ajp_thread", "ajp", {}, AJP),
    ("ajp_thread", "ajp", {**ELSEWHERE, **THREADS}, {**AJP, **THERE, **counts(THREADS)}),
    ("ajp_fork", "ajp_fork", {}, AJP),
    ("ajp_fork", "ajp_fork", {**ELSEWHERE, **PROCESSES}, {**AJP, **THERE, **counts(PROCESSES)}),
    ("fcgi_thread", "fcgi", {}, FCGI),
    ("fcgi_thread", "fcgi", {**ON_A_SOCKET, **THREADS}, {**SO, **counts(THREADS)}),
    ("fcgi_thread", "fcgi", {"host": "h", "port": "1"}, {**FCGI, "bindAddress": ("h", 1)}),
    ("fcgi_fork", "fcgi_fork", {}, FCGI),
    ("fcgi_fork", "fcgi_fork", {**ON_A_SOCKET, **PROCESSES}, {**SO, **counts(PROCESSES)}),
    ("fcgi_fork", "fcgi_fork", {"host": "h", "port": "1"}, {**FCGI, "bindAddress": ("h", 1)}),
    ("scgi_thread", "scgi", {}, SCGI),
    ("scgi_thread", "scgi", {**ELSEWHERE, **THREADS}, {**SCGI, **THERE, **counts(THREADS)}),
    ("scgi_fork", "scgi_fork", {}, SCGI),
    ("scgi_fork", "scgi_fork", {**ELSEWHERE, **PROCESSES}, {**SCGI, **THERE, **counts(PROCESSES)}),
]


class Started:
    """Stands for ``WSGIServer`` of *module*; keeps what it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
        self.calls: list[Any] = []
        real = importlib.import_module(f"sapi_adapters.flup.server.{module}")
        self._signature = inspect.signature(real.WSGIServer)
        monkeypatch.setattr(real, "WSGIServer", self)

    def __call__(self, *args: Any, **options: Any) -> Any:
        self._signature.bind(*args, **options)
        self.calls.append([*args, options])
        return self

    def run(self) -> bool:
        self.calls.append("ran")
        return False


@pytest.mark.parametrize(("runner", "module", "given", "options"), RUNNERS)
def test_a_section_becomes_a_server(monkeypatch, runner, module, given, options):
    started = Started(monkeypatch, module)
    app = object()
    getattr(paste_factory, f"run_{runner}")(app, {}, **given)
    assert started.calls == [[app, options], "ran"]


@pytest.mark.parametrize(("runner", "module"), sorted({row[:2] for row in RUNNERS}))
@pytest.mark.parametrize(
    ("everywhere", "given", "debug"),
    [
        ({}, {}, False),
        ({"debug": "true"}, {}, True),
        ({"debug": "true"}, {"debug": "false"}, False),
        ({"debug": "no"}, {"debug": "yes"}, True),
        (None, {}, False),
    ],
)
def test_debug_is_that_of_all_sections_where_one_has_none(
    monkeypatch, runner, module, everywhere, given, debug
):
    started = Started(monkeypatch, module)
    getattr(paste_factory, f"run_{runner}")(None, everywhere, **given)
    assert started.calls[0][-1]["debug"] is debug


@pytest.mark.parametrize(
    ("runner", "module"), [("fcgi_thread", "fcgi"), ("fcgi_fork", "fcgi_fork")]
)
@pytest.mark.parametrize(
    "given",
    [
        {"socket": "/s", "host": "h", "port": "1"},
        {"socket": "/s", "port": "1"},
        {"host": "h"},
        {"port": "1"},
    ],
)
def test_two_addresses_or_half_of_one_are_an_error(monkeypatch, runner, module, given):
    started = Started(monkeypatch, module)
    with pytest.raises(AssertionError, match="host"):
        getattr(paste_factory, f"run_{runner}")(None, {}, **given)
    assert started.calls == []


# -- real ini files -------------------------------------------------------------------------------

APP = """
from sapi_adapters import sapi_name

def factory(global_conf, **local_conf):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{sapi_name()} {local_conf['greeting']}".encode()]
    return app
"""
INI = """
[DEFAULT]
debug = false

[app:main]
paste.app_factory = paste_target:factory
greeting = hello

[server:main]
use = egg:{egg}
{lines}
"""
PROGRAM = """
import sys
from paste.deploy import loadapp, loadserver
uri = "config:" + sys.argv[1]
loadserver(uri)(loadapp(uri))
"""
CPING = b"\x12\x34\x00\x01\x0a"
CPONG = b"AB\x00\x01\x09"


@pytest.fixture(scope="module", autouse=True)
def ports() -> Iterator[None]:
    yield
    release_ports()


@contextlib.contextmanager
def deployed(folder: Path, flup: Path, egg: str, **section: str) -> Iterator[None]:
    """Serve what an ini file says; end it, and see that it ends well."""
    if not os.environ.get("CI"):
        pytest.importorskip("paste.deploy")
    (folder / "paste_target.py").write_text(APP)
    ini = folder / "app.ini"
    lines = "\n".join(f"{name} = {value}" for name, value in section.items())
    ini.write_text(INI.format(egg=egg, lines=lines))
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PROGRAM, str(ini)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONPATH": f"{flup}:{folder}"},
            cwd=folder,
        )
    address: Any = section.get("socket") or (section["host"], int(section["port"]))
    try:

        def listens() -> bool:
            assert process.poll() is None, log.read_text()
            family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
            with socket.socket(family) as probe:
                return probe.connect_ex(address) == 0

        until(listens, what=f"{egg} at {address}")
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0, log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def ask(app: Any) -> bytes:
    """Return the body of the response to a request."""
    environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
    }
    return b"".join(app(environ, lambda status, headers: None))


@pytest.mark.parametrize(
    ("egg", "sapi"),
    [
        ("flup#fcgi", b"fcgi-threaded"),
        ("flup#fcgi_thread", b"fcgi-threaded"),
        ("Flup#fcgi_fork", b"fcgi-prefork"),
    ],
)
def test_an_ini_file_starts_fastcgi(tmp_path, distribution, egg, sapi):
    path = str(tmp_path / "s")
    with deployed(tmp_path, distribution, egg, socket=path, umask="0", maxSpare="2"):
        assert os.stat(path).st_mode & 0o777 == 0o777
        assert ask(FCGIApp(connect=path)) == sapi + b" hello"
        assert ask(FCGIApp(connect=path)) == sapi + b" hello"


@pytest.mark.parametrize(
    ("egg", "sapi"),
    [
        ("flup#scgi", b"scgi-threaded"),
        ("flup#scgi_thread", b"scgi-threaded"),
        ("flup#scgi_fork", b"scgi-prefork"),
    ],
)
def test_an_ini_file_starts_scgi(tmp_path, distribution, egg, sapi):
    port = hold_port()
    with deployed(tmp_path, distribution, egg, host="127.0.0.1", port=str(port)):
        assert ask(SCGIApp(host="127.0.0.1", port=port)) == sapi + b" hello"


@pytest.mark.parametrize("egg", ["flup#ajp", "flup#ajp_thread", "flup#ajp_fork"])
def test_an_ini_file_starts_ajp(tmp_path, distribution, egg):
    port = hold_port()
    with (
        deployed(tmp_path, distribution, egg, host="127.0.0.1", port=str(port)),
        socket.create_connection(("127.0.0.1", port), 10) as connection,
    ):
        connection.sendall(CPING)
        answer = b""
        while len(answer) < len(CPONG):
            data = connection.recv(100)
            assert data, answer
            answer += data
        assert answer == CPONG
