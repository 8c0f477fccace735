"""From names to applications, SAPIs and options; mistakes are one clear line."""

from __future__ import annotations

import importlib.metadata
import os
import socket
import subprocess
import sys
import textwrap
import types
from typing import Any

import pytest

import sapi_adapters
from sapi_adapters import Sapi, run, running
from sapi_adapters.adapters.cgi import Cgi
from sapi_adapters.gateways.asgi import AsgiGateway
from sapi_adapters.gateways.wsgi import WsgiGateway
from sapi_adapters.loading import gateway_for, import_path, load
from sapi_adapters.names import SAPIS, guess, sapi_class
from sapi_adapters.sapi import ConfigurationError

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"x"]


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    pass


def asgi2(scope: Any) -> Any:
    return asgi


FILES = {
    "good.py": "class box:\n    class inner:\n        app = 7\napp = 1\n",
    "broken.py": "raise ValueError('my own')\n",
    "needs.py": "import a_module_that_is_missing\n",
    "pack/__init__.py": "",
    "pack/inner.py": "app = 2\n",
    "pack/needs.py": "from . import missing_sibling\n",
    "pack/deeper.py": "import pack.deeper_still\n",
    "failing/__init__.py": "raise ImportError('no licence')\n",
    "syntax.py": "def\n",
    "leaves.py": "raise SystemExit(5)\n",
    "app.py": (
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n    return [b'hello']\n"
        "def make(): return app\n"
        "class Extension:\n    name = 'noting'\n    def request_startup(self, exchange): pass\n"
        "extension = Extension()\nseven = 7\n"
    ),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("modules")
    for name, text in FILES.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(text)
    return directory


@pytest.fixture
def path(files, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(files), *sys.path])
    known = set(sys.modules)
    yield files
    for name in set(sys.modules) - known:
        del sys.modules[name]


# -- loading --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "value"),
    [("good:app", 1), ("good:box.inner.app", 7), ("pack.inner:app", 2)],
)
def test_a_reference_names_a_module_and_an_attribute(path, reference, value):
    assert load(reference) == value


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("good", "write MODULE:ATTRIBUTE"),
        ("good:", "write MODULE:ATTRIBUTE"),
        (":app", "write MODULE:ATTRIBUTE"),
        ("", "write MODULE:ATTRIBUTE"),
        (".good:app", "write MODULE:ATTRIBUTE"),
        ("nosuch:app", "no module 'nosuch'"),
        ("nosuch.inner:app", "no module 'nosuch'"),
        ("pack.nosuch:app", "no module 'pack.nosuch'"),
        ("good.inner:app", "no module 'good.inner'"),
        ("good:nosuch", "has no attribute 'nosuch'"),
        ("good:box.nosuch", "has no attribute 'box.nosuch'"),
        ("good:box..app", "has no attribute"),
    ],
)
def test_a_reference_to_nothing_is_a_mistake_of_the_operator(path, reference, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        load(reference)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("reference", "error", "message"),
    [
        ("broken:app", ValueError, "my own"),
        ("needs:app", ModuleNotFoundError, "a_module_that_is_missing"),
        ("pack.needs:app", ImportError, "missing_sibling"),
        ("pack.deeper:app", ModuleNotFoundError, "pack.deeper_still"),
        ("failing:app", ImportError, "no licence"),
        ("syntax:app", SyntaxError, "invalid|expected"),
        ("leaves:app", SystemExit, "5"),
    ],
)
def test_what_a_module_raises_passes_with_its_own_traceback(path, reference, error, message):
    with pytest.raises(error, match=message):
        load(reference)


@pytest.mark.parametrize(
    ("application", "options", "kind"),
    [
        (wsgi, {}, WsgiGateway),
        (asgi, {}, AsgiGateway),
        (asgi2, {}, AsgiGateway),
        (asgi, {"interface": "wsgi"}, WsgiGateway),
        (wsgi, {"interface": "asgi"}, AsgiGateway),
        (wsgi, {"interface": "asgi2"}, AsgiGateway),
        (lambda: asgi, {"factory": True}, AsgiGateway),
        (type("Factory", (), {"__call__": lambda self: wsgi})(), {"factory": True}, WsgiGateway),
        ("app:app", {}, WsgiGateway),
        ("app:make", {"factory": True}, WsgiGateway),
    ],
)
def test_an_application_gets_its_gateway(path, application, options, kind):
    gateway = gateway_for(application, Sapi(), **options)
    assert type(gateway) is kind
    assert gateway.asynchronous == (kind is AsgiGateway)


@pytest.mark.parametrize(
    ("application", "options", "message"),
    [
        (7, {}, "7 is not callable"),
        ("app:seven", {}, "'app:seven' is not callable"),
        (wsgi, {"interface": "rack"}, "none of auto, wsgi, asgi, asgi2"),
        (wsgi, {"factory": True}, "cannot be called as a factory"),
        (lambda: 7, {"factory": True}, "nothing callable"),
    ],
)
def test_what_is_no_application_is_refused(path, application, options, message):
    with pytest.raises(ConfigurationError, match=message):
        gateway_for(application, Sapi(), **options)


@pytest.mark.parametrize("error", [TypeError("mine"), ValueError("mine")])
def test_what_a_factory_raises_is_its_own(error):
    def factory() -> Any:
        raise error

    with pytest.raises(type(error), match="mine") as caught:
        gateway_for(factory, Sapi(), factory=True)
    assert caught.value is error


def test_the_import_path_gets_a_directory_once(monkeypatch):
    monkeypatch.setattr(sys, "path", ["a"])
    import_path("b")
    import_path("b")
    assert sys.path == ["b", "a"]


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAPIS)
def test_every_name_is_the_name_of_its_class(name):
    found = sapi_class(name)
    assert issubclass(found, Sapi)
    assert found.name == name
    assert found.pretty_name


def entry(name: str, value: Any) -> Any:
    return types.SimpleNamespace(name=name, value=f"module:{name}", load=lambda: value)


def test_other_distributions_add_names(monkeypatch):
    class Mine(Sapi):
        name = "mine"

    entries = [entry("mine", Mine), entry("odd", 7)]

    def entry_points(group: str, name: str | None = None) -> Any:
        assert group == "sapi_adapters.sapis"
        return [each for each in entries if name in (None, each.name)]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    assert sapi_class("mine") is Mine
    with pytest.raises(ConfigurationError, match="is no Sapi"):
        sapi_class("odd")
    with pytest.raises(ConfigurationError, match=r"no SAPI 'nosuch'; known are: cgi, .*mine, odd"):
        sapi_class("nosuch")


class Process:
    """What ``guess`` looks at, set up by a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch = monkeypatch
        for name in ("GATEWAY_INTERFACE", "REQUEST_METHOD", "LISTEN_PID", "LISTEN_FDS"):
            monkeypatch.delenv(name, raising=False)
        self.listening = False
        from sapi_adapters.servers import listener

        monkeypatch.setattr(listener, "is_listening", lambda fd: self.listening)


@pytest.fixture
def process(monkeypatch):
    return Process(monkeypatch)


@pytest.mark.parametrize(
    ("options", "cgi", "environ", "listening", "name"),
    [
        ({}, True, {}, False, "cgi"),
        ({"socket": "/x"}, False, {}, False, "fcgi-prefork"),
        ({"socket": "/x"}, True, {}, False, "fcgi-prefork"),
        ({"fd": 0}, False, {}, False, "fcgi-prefork"),
        ({"fd": None, "socket": None}, True, {}, False, "cgi"),
        ({}, False, {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}, False, "fcgi-prefork"),
        ({}, False, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, True, "fcgi-prefork"),
        ({}, False, {}, True, "fcgi-prefork"),
        ({"workers": 3}, False, {}, True, "fcgi-prefork"),
        ({}, False, {}, False, "mod"),
        ({"bind": "127.0.0.1:1"}, False, {}, False, "mod"),
        ({"bind": "127.0.0.1:1", "fd": 3}, False, {}, False, "fcgi-prefork"),
        ({"workers": 3}, False, {}, False, "mod"),
        ({"bind": "127.0.0.1:1"}, False, {}, True, "mod"),
    ],
)
def test_the_way_of_the_start_says_the_sapi(process, options, cgi, environ, listening, name):
    if cgi:
        process.patch.setenv("GATEWAY_INTERFACE", "CGI/1.1")
    process.listening = listening
    assert guess(options, environ) == name


PROBE = f"""
import sys
sys.path.insert(0, {ROOT!r})
from sapi_adapters import in_cgi_process
sys.stderr.write(str(in_cgi_process()))
"""


@pytest.mark.parametrize(
    ("environ", "stdin", "cgi"),
    [
        ({"GATEWAY_INTERFACE": "CGI/1.1"}, "null", True),
        ({"REQUEST_METHOD": "GET"}, "null", True),
        ({"REQUEST_METHOD": "GET"}, "pipe", True),
        ({"REQUEST_METHOD": "GET"}, "closed", True),
        ({"REQUEST_METHOD": "GET"}, "connected", True),
        ({"REQUEST_METHOD": "GET"}, "listening", False),
        ({}, "null", False),
        ({}, "connected", False),
    ],
)
def test_descriptor_0_tells_cgi_from_fastcgi(tmp_path, environ, stdin, cgi):
    """mod_cgid gives a CGI script one connected socket; a FastCGI program gets a listening one."""
    ours, theirs = socket.socketpair()
    listener = socket.socket(socket.AF_UNIX)
    read, write = os.pipe()
    try:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        streams = {"null": subprocess.DEVNULL, "pipe": read, "connected": theirs.fileno()}
        done = subprocess.run(
            [sys.executable, "-I", "-c", PROBE],
            env=environ,
            stdin={**streams, "listening": listener.fileno(), "closed": None}[stdin],
            preexec_fn=(lambda: os.close(0)) if stdin == "closed" else None,
            capture_output=True,
            timeout=60,
            check=False,
        )
    finally:
        for each in (ours, theirs, listener):
            each.close()
        os.close(read)
        os.close(write)
    assert done.stderr.decode() == str(cgi)


# -- run ------------------------------------------------------------------------------------------


class Taking(Sapi):
    """A SAPI that notes its options and what it is given to load."""

    name = "taking"
    made: list[Any] = []  # noqa: RUF012 - emptied by the fixture

    def __init__(self, *, socket: str | None = None, fail: bool = False) -> None:
        if fail:
            raise TypeError("my own mistake")
        self.socket = socket
        self.made.append(self)

    def run(self, load: Any) -> int:
        self.gateway = load()
        return 7


@pytest.fixture
def taking(monkeypatch):
    Taking.made.clear()
    monkeypatch.setattr(running, "sapi_class", lambda name: Taking)
    monkeypatch.setattr(sapi_adapters.sapi, "extensions", [])
    return Taking.made


def test_run_hands_the_options_to_the_sapi_and_returns_its_status(taking, path):
    status = run(
        "app:make", "taking", factory=True, socket="/x", extensions=("app:extension",),
        sendfile=(f"x-sendfile={path}",), chdir=str(path),
    )  # fmt: skip
    (runtime,) = taking
    assert (status, runtime.socket) == (7, "/x")
    assert type(runtime.gateway) is WsgiGateway
    assert runtime.sendfile is not None
    assert [each.source.name for each in sapi_adapters.sapi.extensions] == ["noting"]
    assert os.getcwd() == str(path)


@pytest.fixture(autouse=True)
def same_directory():
    before = os.getcwd()
    yield
    os.chdir(before)


def test_run_with_test_loads_everything_and_serves_nothing(taking, path, capsys):
    assert run("app:app", "taking", test=True) == 0
    assert not hasattr(taking[0], "gateway")
    assert "app:app" in capsys.readouterr().err
    with pytest.raises(ConfigurationError):
        run("app:nosuch", "taking", test=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chdir": "/nonexistent"}, "cannot change to /nonexistent"),
        ({"nosuch": 1}, "has no option"),
        ({"extensions": ("nosuch:x",)}, "no module 'nosuch'"),
        ({"sendfile": ("x",)}, "sendfile"),
    ],
)
def test_run_refuses_mistakes(taking, options, message):
    with pytest.raises(ConfigurationError, match=message):
        run(wsgi, "taking", **options)


def test_a_type_error_of_the_sapi_is_its_own(taking):
    with pytest.raises(TypeError, match="my own mistake"):
        run(wsgi, "taking", fail=True)


def test_run_guesses(taking, monkeypatch):
    monkeypatch.setattr(running, "guess", lambda options: "guessed" if options else "nothing")
    with pytest.raises(SystemExit) as ended:  # it is a script's last word
        run(wsgi, socket="/x")
    assert ended.value.code == 7


def test_run_under_cgi_refuses_an_option_it_has_not():
    with pytest.raises(ConfigurationError, match="'cgi' has no option"):
        run(wsgi, "cgi", nosuch=1)
    assert Cgi().name == "cgi"


SERVE = [sys.executable, "-m", "sapi_adapters"]


def command(*words: str, cwd: Any = None, **environ: str) -> Any:
    clean = {key: value for key, value in os.environ.items() if key != "REQUEST_METHOD"}
    return subprocess.run(
        [*SERVE, *words],
        cwd=cwd,
        env={**clean, "PYTHONPATH": ROOT, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nosuch:app", "--socket", "s"), "no module 'nosuch'"),
        (("app:nosuch", "--socket", "s", "--test"), "no attribute 'nosuch'"),
        (("app:seven", "--socket", "s", "--test"), "not callable"),
        (("app", "--socket", "s", "--test"), "write MODULE:ATTRIBUTE"),
        (("nosuch:app", "--bind", "127.0.0.1:0"), "no module 'nosuch'"),
        (("app:app", "--bind", "127.0.0.1:0", "--static", "/x=/no/such"), "--static"),
        (("app:app", "--bind", "nothing"), "nothing"),
        (("app:app", "--socket", "s", "--socket-mode", "9"), "is no file mode"),
        (("app:app", "--sapi", "nosuch", "--socket", "s"), "no SAPI 'nosuch'"),
        (("app:app", "GET", "/"), "only with --sapi cli"),
        (("app:app", "--sapi", "cgi", "--workers", "2"), "has no option"),
        (("app:app", "--socket", "/nonexistent/s"), "/nonexistent"),
        (("app:app", "--socket", "s", "--chdir", "/nonexistent"), "/nonexistent"),
    ],
)
def test_the_command_answers_a_mistake_with_a_line_and_status_2(files, words, message):
    done = command(*words, cwd=files)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("module", ["broken", "needs", "syntax"])
def test_the_command_shows_the_traceback_of_a_module_that_breaks(files, module):
    done = command(f"{module}:app", "--sapi", "cli", "/", cwd=files)
    assert done.returncode not in (0, None)
    assert f"{module}.py" in done.stderr and "Error" in done.stderr


def test_the_command_tests_a_configuration(files):
    done = command("app:app", "--socket", "s", "--test", cwd=files)
    assert (done.returncode, done.stdout) == (0, "")
    assert not (files / "s").exists()


def test_the_command_knows_its_version():
    done = command("--version")
    assert sapi_adapters.__version__ in done.stdout


@pytest.mark.parametrize("words", [("-s",), ("--help",), ("app:app", "--sapi", "cli", "/")])
def test_cve_2012_1823_the_command_looks_at_no_argument_under_cgi(files, words):
    """Nor CVE-2024-4577: the words are the client's."""
    done = command(*words, cwd=files, REQUEST_METHOD="GET", GATEWAY_INTERFACE="CGI/1.1")
    assert (done.stdout, done.returncode) == ("", 1)
    assert "CGI process" in done.stderr


def test_a_script_that_cannot_serve_says_so_in_one_line(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            from sapi_adapters import run
            run("nosuch:app")
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        env={"PYTHONPATH": ROOT, "PATH": os.environ.get("PATH", "")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
