"""flup's servers by their promises: signatures, run(), signals, threads, children, hooks."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from fastcgi_client import Client, connect, fastcgi, fetch
from serving import until

from sapi_adapters.flup.server import NoDefault, ajp_base, fcgi_base, scgi_base
from sapi_adapters.flup.server.threadpool import ThreadPool
from sapi_adapters.sapi import ConfigurationError

APPS = Path(__file__).with_name("apps.py")
SERVERS = ("fcgi", "fcgi_fork", "fcgi_single", "scgi", "scgi_fork", "ajp", "ajp_fork")
FORKS = ("fcgi_fork", "scgi_fork", "ajp_fork")


def module(name: str) -> Any:
    return importlib.import_module(f"sapi_adapters.flup.server.{name}")


# -- talking to them ------------------------------------------------------------------------------


def scgi(address: Any, path: str, **variables: str) -> bytes:
    """Make an SCGI request; return the response."""
    pairs = {
        "CONTENT_LENGTH": "0",
        "REQUEST_METHOD": "GET",
        "REQUEST_URI": path,
        "SERVER_PROTOCOL": "HTTP/1.1",
        **variables,
    }
    head = "".join(f"{name}\0{value}\0" for name, value in pairs.items()).encode("latin-1")
    with connect(address) as sock:
        sock.sendall(b"%d:%b," % (len(head), head))
        return b"".join(iter(lambda: sock.recv(65536), b""))


def _string(text: str) -> bytes:
    return pack(">H", len(text)) + text.encode("latin-1") + b"\0"


def ajp(address: Any, path: str) -> bytes:
    """Make an AJP request for *path*; return the packets of the response."""
    packet = b"\x02\x02" + b"".join(
        map(_string, ("HTTP/1.1", path, "127.0.0.1", "client", "localhost"))
    )
    packet += pack(">HBH", 80, 0, 1) + b"\xa0\x0b" + _string("localhost") + b"\xff"
    with connect(address) as sock:
        sock.sendall(b"\x12\x34" + pack(">H", len(packet)) + packet)
        data = b""
        while not data.endswith((b"AB\0\x02\x05\x01", b"AB\0\x02\x05\0")):
            data += sock.recv(65536) or pytest.fail(f"the connection ended: {data!r}")
        return data


def get(name: str, address: Any, path: str) -> bytes:
    """Return the whole answer of server *name* to a GET of *path*."""
    if name.startswith("fcgi"):
        return fetch(address, PATH_INFO=path, REQUEST_URI=path).stdout
    return (scgi if name.startswith("scgi") else ajp)(address, path)


# -- running them ---------------------------------------------------------------------------------


class Program:
    """A program of apps.py."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, address: str) -> None:
        self.process = process
        self.address = address
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, number: int | None = None) -> str:
        """Send it a signal, or a line; return what it printed when it has ended."""
        if number is not None:
            self.process.send_signal(number)
        out, _ = self.process.communicate(b"\n" if number is None else None, timeout=20)
        assert self.process.returncode == 0, self.log
        return out.decode()

    def children(self) -> set[int]:
        pid = self.process.pid
        found: set[int] = set()
        for task in Path(f"/proc/{pid}/task").iterdir():
            found.update(int(child) for child in (task / "children").read_text().split())
        return found


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    begun: list[subprocess.Popen[bytes]] = []

    def begin(case: str, *arguments: str, environ: dict[str, str] | None = None) -> Program:
        address = str(tmp_path / "app.sock")
        log = tmp_path / "stderr.log"
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-W", "error", str(APPS), case, arguments[0], address]
                + list(arguments[1:]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, **(environ or {})},
            )
        begun.append(process)
        return Program(process, log, address)

    yield begin
    for process in begun:
        if process.poll() is None:
            children = Program(process, tmp_path, "").children()
            process.kill()
            for pid in children:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        process.wait(10)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


@contextmanager
def running(server: Any) -> Iterator[Any]:
    """Run *server* in a thread of this process."""
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(server.run()))
    thread.start()
    try:
        yield server
    finally:
        server._keepGoing = False
        thread.join(20)
        assert not thread.is_alive()
    assert results == [False]


def here(application: Any, tmp_path: Path, base: type | None = None, **options: Any) -> Any:
    """Return a FastCGI server for *application* on a Unix socket."""
    kind = module(options.pop("module", "fcgi")).WSGIServer
    if base is not None:
        kind = type("WSGIServer", (base, kind), {})
    return kind(application, bindAddress=str(tmp_path / "app.sock"), **options)


def answering(body: Any = ("x",), status: Any = "200 OK", headers: Any = ()) -> Any:
    """Return an application that answers so."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(status, list(headers))
        return body

    return application


# -- signatures -----------------------------------------------------------------------------------

SIGNATURES = {
    "fcgi": "application, environ=None, multithreaded=True, multiprocess=False, bindAddress=None,"
    " umask=None, multiplexed=False, debug=False, roles=(1,), forceCGI=False, **kw",
    "fcgi_fork": "application, environ=None, bindAddress=None, umask=None, multiplexed=False,"
    " debug=False, roles=(1,), forceCGI=False, timeout=None, **kw",
    "fcgi_single": "application, environ=None, bindAddress=None, umask=None, multiplexed=False,"
    " debug=False, roles=(1,), forceCGI=False, **kw",
    "scgi": "application, scriptName=NoDefault, environ=None, multithreaded=True,"
    " multiprocess=False, bindAddress=('localhost', 4000), umask=None, allowedServers=None,"
    " loggingLevel=20, debug=False, **kw",
    "scgi_fork": "application, scriptName=NoDefault, environ=None,"
    " bindAddress=('localhost', 4000), umask=None, allowedServers=None, loggingLevel=20,"
    " debug=False, timeout=None, **kw",
    "ajp": "application, scriptName='', environ=None, multithreaded=True, multiprocess=False,"
    " bindAddress=('localhost', 8009), allowedServers=None, loggingLevel=20, debug=False,"
    " secret=None, trustRemoteUser=True, **kw",
    "ajp_fork": "application, scriptName='', environ=None, bindAddress=('localhost', 8009),"
    " allowedServers=None, loggingLevel=20, debug=False, timeout=None,"
    " secret=None, trustRemoteUser=True, **kw",
    "cgi": "application, **kw",
    "threadedserver": "jobClass=None, jobArgs=(), **kw",
    "singleserver": "jobClass=None, jobArgs=(), **kw",
    "preforkserver": "minSpare=1, maxSpare=5, maxChildren=50, maxRequests=0, sockTimeout=0,"
    " jobClass=None, jobArgs=()",
    "threadpool": f"minSpare=1, maxSpare=5, maxThreads={sys.maxsize}",
}
CLASSES = {
    "threadedserver": "ThreadedServer",
    "singleserver": "SingleServer",
    "preforkserver": "PreforkServer",
    "threadpool": "ThreadPool",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_arguments_and_their_defaults_are_flups(name: str) -> None:
    kind = getattr(module(name), CLASSES.get(name, "WSGIServer"))
    parts = []
    for each in list(inspect.signature(kind.__init__).parameters.values())[1:]:
        if each.kind is each.VAR_KEYWORD:
            parts.append(f"**{each.name}")
        elif each.default is each.empty:
            parts.append(each.name)
        else:
            value = "NoDefault" if each.default is NoDefault else repr(each.default)
            parts.append(f"{each.name}={value}")
    assert ", ".join(parts) == SIGNATURES[name]


@pytest.mark.parametrize("name", SERVERS)
def test_keywords_that_flup_dropped_are_dropped(name: str) -> None:
    module(name).WSGIServer(None, jobClass=1, jobArgs=2, minSpare=2, maxSpare=3)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"minSpare": 0}, "minSpare"),
        ({"minSpare": 3, "maxSpare": 2}, "maxSpare"),
        ({"sockTimeout": -1}, "sockTimeout"),
        ({"sockTimeout": "5"}, "sockTimeout"),
    ],
)
def test_numbers_of_children_that_do_not_fit_are_refused(
    options: dict[str, Any], word: str
) -> None:
    with pytest.raises(ValueError, match=word):
        module("preforkserver").PreforkServer(**options)


# -- run(), as a process --------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVERS)
def test_run_serves_and_tells_hangup_from_terminate(
    program: Callable[..., Program], name: str
) -> None:
    threads = name in ("fcgi", "scgi", "ajp")
    sapi = f"{name[:4].rstrip('_')}-{'threaded' if threads else 'prefork'}".encode()
    flags = [threads, name in FORKS, False]
    for number, result in ((signal.SIGHUP, "True"), (signal.SIGTERM, "False")):
        it = program("plain", name)
        assert b"%b " % sapi in get(name, it.address, "/")
        assert str(flags).encode() in get(name, it.address, "/")
        assert it.end(number) == f"run() returned {result}\n"


@pytest.mark.parametrize("case", ["threaded", "off_main"])
@pytest.mark.parametrize("name", ["fcgi", "fcgi_fork", "fcgi_single", "scgi", "ajp_fork"])
def test_run_works_off_the_main_thread(
    program: Callable[..., Program], name: str, case: str
) -> None:
    it = program(case, name)
    answer = get(name, it.address, "/")
    assert (b"from a thread" in answer) is (case == "threaded")
    assert it.end() == f"run() returned {case == 'off_main'}\n"


@pytest.mark.parametrize("name", ["fcgi", "scgi_fork"])
def test_signal_handlers_of_a_subclass_are_the_ones(
    program: Callable[..., Program], name: str
) -> None:
    it = program("handlers", name)
    get(name, it.address, "/")
    it.signal(signal.SIGHUP)
    get(name, it.address, "/")
    assert it.end(signal.SIGINT) == "my HUP\nmy INT\nrun() returned False\n"


@pytest.mark.parametrize("name", ["fcgi", "scgi", "fcgi_single"])
def test_the_periodic_hook_is_called_and_may_end_it(
    program: Callable[..., Program], name: str
) -> None:
    it = program("periodic", name)
    out, _ = it.process.communicate(timeout=20)
    assert out == b"run() returned True\n"


def test_a_stop_waits_for_the_request_that_runs(program: Callable[..., Program]) -> None:
    for name in ("fcgi", "fcgi_fork", "fcgi_single"):
        it = program("plain", name)
        with Client(it.address) as client:
            client.send(PATH_INFO="/sleep/0.5")
            with Client(it.address) as another:  # so the first is on its way
                another.send(PATH_INFO="/")
                another.answer()
            it.signal(signal.SIGTERM)
            assert client.answer().status == 200
        assert it.end() == "run() returned False\n"


# -- children -------------------------------------------------------------------------------------


def test_usr1_replaces_every_child_and_loses_no_request(program: Callable[..., Program]) -> None:
    it = program("plain", "fcgi_fork", "minSpare=2", "maxSpare=2")
    get("fcgi", it.address, "/")
    before = it.children()
    assert len(before) == 2
    it.signal(signal.SIGUSR1)
    until(lambda: fetch(it.address).status == 200 and not before & it.children())
    assert it.end(signal.SIGTERM) == "run() returned False\n"


@pytest.mark.parametrize("case", ["plain", "off_main"])
def test_a_child_that_dies_is_replaced(program: Callable[..., Program], case: str) -> None:
    it = program(case, "fcgi_fork", *(["maxSpare=1"] if case == "plain" else []))
    get("fcgi", it.address, "/")
    until(lambda: len(it.children()) == (1 if case == "plain" else 5))
    before = it.children()
    with Client(it.address) as client:
        client.send(PATH_INFO="/die")
        while client.receive():
            pass
    until(lambda: len(it.children()) == len(before) and it.children() != before)
    assert fetch(it.address).status == 200
    it.end(signal.SIGTERM if case == "plain" else None)


def test_busy_children_make_others_start_up_to_the_most(program: Callable[..., Program]) -> None:
    it = program("plain", "fcgi_fork", "minSpare=1", "maxSpare=1", "maxChildren=3")
    clients = [Client(it.address) for _ in range(3)]
    for client in clients:
        client.send(PATH_INFO="/sleep/4")
    until(lambda: len(it.children()) == 3)
    pids = {client.answer().body.split()[1] for client in clients}
    assert len(pids) == 3
    for client in clients:
        client.socket.close()
    it.end(signal.SIGTERM)


def test_a_child_leaves_after_its_requests(program: Callable[..., Program]) -> None:
    it = program("plain", "fcgi_fork", "maxSpare=1", "maxRequests=3")
    pids = [fetch(it.address).body.split()[1] for _ in range(9)]
    assert len(set(pids)) >= 3
    assert max(map(pids.count, pids)) <= 3
    it.end(signal.SIGTERM)


def test_children_of_the_program_itself_are_left_to_it(program: Callable[..., Program]) -> None:
    it = program("other_children", "fcgi_fork")
    get("fcgi", it.address, "/")
    assert it.end(signal.SIGHUP) == "run() returned True\nown child 5\n"


@pytest.mark.parametrize("name", FORKS)
def test_a_request_that_takes_too_long_gets_the_error_page(
    program: Callable[..., Program], name: str
) -> None:
    it = program("timeout", name)
    answer = get(name, it.address, "/sleep/15")
    assert b"Unhandled Exception" in answer
    assert b"500" in answer or b"\x01\xf4" in answer
    assert b"-prefork" in get(name, it.address, "/")  # the child goes on
    it.end(signal.SIGTERM)
    assert "Timeout Exceeded" in it.log or name == "fcgi_fork"


def test_the_stack_of_a_late_request_goes_to_the_web_server(
    program: Callable[..., Program],
) -> None:
    it = program("timeout", "fcgi_fork")
    answer = fetch(it.address, PATH_INFO="/sleep/15")
    assert b"Timeout Exceeded" in answer.stderr
    assert b"time.sleep(" in answer.stderr
    it.end(signal.SIGTERM)


# -- descriptor 0 and CGI -------------------------------------------------------------------------


def run_on_zero(
    stdin: Any, case: str = "plain", name: str = "fcgi", data: bytes | None = None, **environ: str
) -> subprocess.CompletedProcess[bytes]:
    arguments = [name, "0"] if case == "plain" else []
    return subprocess.run(
        [sys.executable, "-W", "error", str(APPS), case, *arguments],
        **({"input": data} if data is not None else {"stdin": stdin}),
        capture_output=True,
        env={**os.environ, **environ},
        timeout=20,
    )


CGI = {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "3", "PATH_INFO": "/x", "QUERY_STRING": ""}


@pytest.mark.parametrize("name", ["fcgi", "fcgi_fork", "fcgi_single"])
def test_without_a_listening_socket_it_is_a_cgi_program(name: str) -> None:
    done = run_on_zero(None, name=name, data=b"abc", **CGI)
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    assert b"Status: 200 OK" in head
    assert body.startswith(b"cgi ")
    assert b"[False, True, True]" in body
    assert done.returncode == 0  # by sys.exit(), before run() returns
    assert b"run() returned" not in done.stderr + done.stdout


def test_a_connected_socket_is_no_fastcgi() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = run_on_zero(theirs, **{**CGI, "CONTENT_LENGTH": "0"})
    assert b"cgi " in done.stdout


def test_cgi_started_by_hand_gets_a_get() -> None:
    done = subprocess.run(
        [sys.executable, str(APPS), "plain", "fcgi", "0"],
        input=b"",
        capture_output=True,
        env={k: v for k, v in os.environ.items() if k not in CGI},
        timeout=20,
    )
    assert b"Status: 200 OK" in done.stdout


def test_cgi_may_be_forced_and_handled() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        done = run_on_zero(listening, FCGI_FORCE_CGI="y", **{**CGI, "CONTENT_LENGTH": "0"})
        assert b"cgi " in done.stdout
    done = run_on_zero(None, "cgi_handler", data=b"abc", **CGI)
    assert done.stdout.endswith(b"POST b'abc'")
    assert done.returncode == 3


def test_a_listening_descriptor_0_is_served(tmp_path: Path) -> None:
    address = str(tmp_path / "zero.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        process = subprocess.Popen(
            [sys.executable, "-W", "error", str(APPS), "plain", "fcgi_fork", "0"],
            stdin=listening,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    try:
        assert fetch(address).body.startswith(b"fcgi-prefork ")
        process.send_signal(signal.SIGHUP)
        _, err = process.communicate(timeout=20)
        assert b"run() returned True" in err  # what it prints does not go to descriptor 1
    finally:
        process.kill()
        process.wait(10)
        assert process.stderr is not None
        process.stderr.close()


# -- where it listens, and for whom ---------------------------------------------------------------


def test_a_socket_file_gets_what_the_umask_leaves(tmp_path: Path) -> None:
    with running(here(answering(), tmp_path, umask=0o117)) as server:
        fetch(server._bindAddress)
        assert stat.S_IMODE(os.stat(server._bindAddress).st_mode) == 0o660
    assert os.path.exists(server._bindAddress)  # flup left it, too


def test_a_live_socket_is_not_stolen(tmp_path: Path) -> None:
    with running(here(answering(), tmp_path)) as server:
        fetch(server._bindAddress)
        for name in ("fcgi", "scgi"):
            with pytest.raises(OSError, match="another process listens"):
                here(answering(), tmp_path, module=name).run()
        assert fetch(server._bindAddress).status == 200


def test_a_port_in_use_is_an_oserror() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for name in SERVERS:
            with pytest.raises(OSError, match=r"cannot listen on 127\.0\.0\.1"):
                module(name).WSGIServer(None, bindAddress=taken.getsockname()).run()


def tcp() -> socket.socket:
    """Return a socket that listens on loopback."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    return listening


class GivenSocket:
    """Listens on a socket that somebody else has made."""

    given: socket.socket
    cleaned = False

    def _setupSocket(self) -> socket.socket:
        return self.given

    def _cleanupSocket(self, sock: socket.socket) -> None:
        assert sock is self.given
        self.cleaned = True


@pytest.mark.parametrize(
    ("addresses", "served"),
    [("127.0.0.1", True), ("10.0.0.1, 127.0.0.1", True), ("10.1.1.1", False)],
)
def test_only_named_web_servers_may_connect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, addresses: str, served: bool
) -> None:
    monkeypatch.setenv("FCGI_WEB_SERVER_ADDRS", addresses)
    with tcp() as listening:
        server = here(answering(), tmp_path, GivenSocket)
        server.given = listening
        with running(server):
            assert bool(fetch(listening.getsockname()).stdout) is served
        assert server.cleaned
        assert server._isClientAllowed(("127.0.0.1", 1)) is served


def test_who_may_connect_may_be_overridden(tmp_path: Path) -> None:
    asked: list[object] = []

    class Nobody(GivenSocket):
        def _isClientAllowed(self, address: object) -> bool:
            asked.append(address)
            return False

    with tcp() as listening:
        for name in ("fcgi", "scgi"):
            server = here(answering(), tmp_path, Nobody, module=name)
            server.given = listening
            with running(server), connect(listening.getsockname()) as sock:
                assert sock.recv(1) == b""
    assert len(asked) == 2


@pytest.mark.parametrize("name", ["scgi", "ajp"])
@pytest.mark.parametrize(
    ("allowed", "served"),
    [(None, True), (["127.0.0.1", "a-name"], True), (["10.0.0.1"], False), ([], False)],
)
def test_allowed_servers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, allowed: Any, served: bool
) -> None:
    base = type("Given", (GivenSocket,), {})
    with tcp() as listening:
        base.given = listening  # type: ignore[attr-defined]
        server = here(answering(), tmp_path, base, module=name, allowedServers=allowed)
        with running(server):
            if served:
                assert b"200" in get(name, listening.getsockname(), "/") or name == "ajp"
            else:
                with connect(listening.getsockname()) as sock:
                    assert sock.recv(1) == b""
    assert ("disallowed" in caplog.text) is not served


def test_ajp_that_others_reach_needs_a_secret() -> None:
    for options in ({}, {"secret": "s"}, {"allowedServers": ["127.0.0.1"]}):
        with pytest.raises(ConfigurationError, match="needs secret= and allowedServers="):
            module("ajp").WSGIServer(None, bindAddress=("", 0), **options).run()


# -- hooks ----------------------------------------------------------------------------------------


def test_a_handler_of_ones_own_decides_the_end(tmp_path: Path) -> None:
    seen: list[Any] = []

    class Own:
        def handler(self, req: Any) -> tuple[int, int]:
            seen.append((req.role, req.requestId, req.aborted, req.server is self))
            req.stderr.write("to the log\n")
            req.stdout.write("Status: 203 Maybe\nX-Mine: 1\n\n")
            req.stdout.write(b"body of " + req.stdin.read())
            return 0, 42

    with running(here(None, tmp_path, Own)) as server:
        answer = fetch(server._bindAddress, body=b"mine")
        assert (answer.status, answer.body) == (203, b"body of mine")
        assert b"X-Mine: 1\r\n" in answer.stdout
        assert answer.stderr == b"to the log\n"
        assert answer.ended is not None
        assert answer.ended.app_status == 42
    assert seen == [(1, 1, False, True)]


@pytest.mark.parametrize(
    "head", ["X: a\0b\n\n", "no header\n\n", "X y: z\n\n", "X: y\n", "Status: abc\n\n"]
)
def test_a_head_that_may_not_pass_is_refused(tmp_path: Path, head: str) -> None:
    class Own:
        def handler(self, req: Any) -> tuple[int, int]:
            req.stdout.write(head)
            return 0, 0

    with running(here(None, tmp_path, Own)) as server:
        assert fetch(server._bindAddress).status == 500


def test_a_handler_may_call_flups(tmp_path: Path) -> None:
    class Around:
        def handler(self, req: Any) -> Any:
            req.params["HELLO"] = "hello"
            try:
                return super().handler(req)  # type: ignore[misc]
            except KeyError:
                req.stdout.write(b"Status: 404 Not Found\r\n\r\nnone")
                return 0, 0

    def application(environ: dict[str, Any], start_response: Any) -> list[str]:
        if environ["PATH_INFO"] == "/none":
            raise KeyError
        start_response("200 OK", [])
        return [environ["HELLO"]]

    with running(here(application, tmp_path, Around)) as server:
        assert fetch(server._bindAddress).body == b"hello"
        assert fetch(server._bindAddress, PATH_INFO="/none").status == 404


@pytest.mark.parametrize("name", ["fcgi", "scgi", "ajp", "fcgi_single"])
def test_error_may_be_overridden(tmp_path: Path, name: str) -> None:
    class Own:
        def error(self, req: Any) -> None:
            assert sys.exc_info()[0] is ZeroDivisionError
            if name == "ajp":
                req.startResponse(503, b"Sorry", [(b"X-Mine", b"1")])
                req.write(b"my page")
            else:
                req.stdout.write(b"Status: 503 Sorry\r\nX-Mine: 1\r\n\r\nmy page")

    def application(environ: object, start_response: object) -> Any:
        return 1 / 0

    with running(here(application, tmp_path, Own, module=name)) as server:
        answer = get(name, server._bindAddress, "/")
        assert b"my page" in answer
        assert b"Sorry" in answer
        assert b"X-Mine" in answer


@pytest.mark.parametrize("name", ["fcgi", "scgi", "ajp"])
def test_an_error_hook_that_fails_leaves_an_error(tmp_path: Path, name: str) -> None:
    class Own:
        def error(self, req: Any) -> None:
            raise RuntimeError("in error()")

    with running(here(None, tmp_path, Own, module=name)) as server:
        answer = get(name, server._bindAddress, "/")
        assert b"500 Internal Server Error" in answer or b"\x01\xf4" in answer


def test_a_request_class_of_ones_own_is_used(tmp_path: Path) -> None:
    class Mine(fcgi_base.Request):
        def run(self) -> None:
            self.params["HELLO"] = type(self).__name__
            super().run()

    def application(environ: dict[str, Any], start_response: Any) -> list[str]:
        start_response("200 OK", [])
        return [environ["HELLO"]]

    server = here(application, tmp_path, type("Base", (), {"request_class": Mine}))
    with running(server):
        assert fetch(server._bindAddress).body == b"Mine"


def test_the_environment_may_be_sanitized_by_a_subclass(tmp_path: Path) -> None:
    class Own:
        def _sanitizeEnv(self, environ: dict[str, Any]) -> None:
            super()._sanitizeEnv(environ)  # type: ignore[misc]
            environ["PATH_INFO"] = environ["PATH_INFO"].upper()

    def application(environ: dict[str, Any], start_response: Any) -> list[str]:
        start_response("200 OK", [])
        return [environ["PATH_INFO"]]

    with running(here(application, tmp_path, Own)) as server:
        answer = fetch(server._bindAddress, PATH_INFO="", REQUEST_URI="/a%62?q")
        assert answer.body == b"/AB"


# -- what an application may do -------------------------------------------------------------------


class Blocks:
    """Something with a length that is no list."""

    closed = False

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        return iter(["text"])

    def close(self) -> None:
        type(self).closed = True


TOLERATED = [
    # what the application answers: blocks, status, headers; then status, a line, the body
    ((["ä"], "200 OK", []), "200 OK", "Content-Length: 1", b"\xe4"),
    ((("ab",), b"200 OK", [(b"X-A", b"1")]), "200 OK", "X-A: 1", b"ab"),
    ((("ab",), "200 OK", []), "200 OK", "Content-Length: 2", b"ab"),
    ((Blocks(), "200 OK", []), "200 OK", "Content-Length: 4", b"text"),
    ((iter(["", "a", b"b"]), "200 OK", [("X", b"y")]), "200 OK", "X: y", b"ab"),
    (([], "404 ", []), "404 Not Found", "Content-Length: 0", b""),
    (([b"a"], "200 OK", [("Connection", "close"), ("X", "1")]), "200 OK", "X: 1", b"a"),
    (([b"hello"], "200 OK", [("Content-Length", "3")]), "200 OK", "Content-Length: 3", b"hel"),
    (([b"a"], "200 OK", [("Status", "404 No")]), "200 OK", "Content-Length: 1", b"a"),
]


@pytest.mark.parametrize(("given", "status", "line", "body"), TOLERATED)
def test_what_flup_took_is_taken(
    tmp_path: Path, given: Any, status: str, line: str, body: bytes
) -> None:
    with running(here(answering(*given), tmp_path)) as server:
        answer = fetch(server._bindAddress)
    head = answer.stdout.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    assert f"Status: {status}" in head
    assert line in head
    assert answer.body == body
    assert not any(each.startswith(("Connection:", "Status: 404 No")) for each in head[:-1])


REFUSED = [
    ([b"a"], "200", []),
    ([b"a"], "OK 200", []),
    ([b"a"], b"200 OK\r\nX: y", []),
    ([b"a"], "200 OK", [("X", "a\r\nY: b")]),
    ([b"a"], "200 OK", [(b"X\r\nY", b"b")]),
    ([b"a"], "200 OK", [("X", 1)]),
    ([b"a"], "200 OK", [("X",)]),
    ([1], "200 OK", []),
    (["\u20ac"], "200 OK", []),
]


@pytest.mark.parametrize(("body", "status", "headers"), REFUSED)
def test_what_could_split_a_response_is_refused(
    tmp_path: Path, body: Any, status: Any, headers: Any
) -> None:
    with running(here(answering(body, status, headers), tmp_path)) as server:
        answer = fetch(server._bindAddress)
    assert answer.status == 500
    assert b"Unhandled Exception" in answer.body
    assert b"Error" in answer.stderr


def test_write_takes_text_and_bytes(tmp_path: Path) -> None:
    def application(environ: object, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [])
        write("a")
        write(b"b")
        return []

    with running(here(application, tmp_path)) as server:
        assert fetch(server._bindAddress).body == b"ab"


def test_given_variables_win_over_the_request(tmp_path: Path) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[str]:
        start_response("200 OK", [])
        return [f"{environ['REMOTE_ADDR']} {environ['wsgi.url_scheme']}"]

    server = here(application, tmp_path, environ={"REMOTE_ADDR": "9.9.9.9", "HTTPS": "ON"})
    with running(server):
        assert fetch(server._bindAddress).body == b"9.9.9.9 https"


def test_an_application_for_one_thread_is_entered_by_one(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []
    both = threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> list[str]:
        inside.append(1)
        most.append(len(inside))
        both.wait(0.2)
        inside.pop()
        start_response("200 OK", [])
        return [str(environ["wsgi.multithread"])]

    with running(here(application, tmp_path, multithreaded=False)) as server:
        clients = [Client(server._bindAddress) for _ in range(3)]
        for client in clients:
            client.send()
        assert [client.answer().body for client in clients] == [b"False"] * 3
        for client in clients:
            client.socket.close()
    assert max(most) == 1


PATHS = [
    # SCRIPT_NAME, PATH_INFO, REQUEST_URI: then SCRIPT_NAME, PATH_INFO, QUERY_STRING
    (("", "/a", "/b"), ("", "/a", "")),
    (("", "", "/a%20b?q=1"), ("", "/a b", "q=1")),
    (("/app", "", "/app/x"), ("/app", "/x", "")),
    (("/my app", "", "/my%20app/x"), ("/my app", "/x", "")),
    (("/app", "", "/other"), ("/app", "", "")),
    (("/whole/path", "", "/whole/path"), ("/whole/path", "", "")),
]


@pytest.mark.parametrize(("given", "found"), PATHS)
def test_the_path_comes_from_the_uri_where_it_is_missing(
    tmp_path: Path, given: tuple[str, ...], found: tuple[str, ...]
) -> None:
    names = ("SCRIPT_NAME", "PATH_INFO", "REQUEST_URI", "QUERY_STRING")

    def application(environ: dict[str, Any], start_response: Any) -> list[str]:
        start_response("200 OK", [])
        return ["|".join(environ[name] for name in (*names[:2], names[3]))]

    with running(here(application, tmp_path)) as server:
        answer = fetch(server._bindAddress, **dict(zip(names, given, strict=False)))
        assert answer.body.decode() == "|".join(found)


def test_the_uri_is_left_encoded_when_that_is_wanted(tmp_path: Path) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[str]:
        start_response("200 OK", [])
        return [environ["PATH_INFO"]]

    base = type("AsItCame", (), {"unquotePathInfo": False})
    with running(here(application, tmp_path, base)) as server:
        answer = fetch(server._bindAddress, PATH_INFO="", REQUEST_URI="/a%20b")
        assert answer.body == b"/a%20b"


@pytest.mark.parametrize(
    ("name", "options", "found"),
    [
        ("scgi", {}, b"/app|/x"),
        ("scgi", {"scriptName": ""}, b"|/app/x"),
        ("scgi", {"scriptName": "/app/x"}, b"/app/x|"),
        ("scgi", {"scriptName": None}, b"/app|/x"),
        ("scgi", {"environ": {"WSGI_SCRIPT_NAME": "/app/x"}}, b"/app/x|"),
        ("ajp", {}, b"|/app/x"),
        ("ajp", {"scriptName": "/app"}, b"/app|/x"),
        ("ajp", {"scriptName": "/other"}, b"|/app/x"),
    ],
)
def test_script_names(tmp_path: Path, name: str, options: dict[str, Any], found: bytes) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[str]:
        start_response("200 OK", [("X", "y")])
        return [f"<{environ['SCRIPT_NAME']}|{environ['PATH_INFO']}>"]

    with running(here(application, tmp_path, module=name, **options)) as server:
        if name == "scgi":
            answer = scgi(server._bindAddress, "/app/x", SCRIPT_NAME="/app", PATH_INFO="/x")
        else:
            answer = ajp(server._bindAddress, "/app/x")
        assert b"<%b>" % found in answer


def test_errors_go_to_the_web_server_and_to_standard_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.errors"].write("a complaint\n")
        environ["wsgi.errors"].write(b"in bytes")
        start_response("200 OK", [])
        return [b"x"]

    with running(here(application, tmp_path)) as server:
        assert fetch(server._bindAddress).stderr == b"a complaint\nin bytes"
    assert "a complaint\nin bytes" in capfd.readouterr().err


@pytest.mark.parametrize("debug", [False, True])
def test_the_error_page_shows_the_traceback_only_in_debug(tmp_path: Path, debug: bool) -> None:
    def application(environ: object, start_response: object) -> Any:
        raise ValueError("<secret>")

    with running(here(application, tmp_path, debug=debug)) as server:
        answer = fetch(server._bindAddress)
    assert answer.status == 500
    assert b"<secret>" not in answer.body
    assert (b"&lt;secret&gt;" in answer.body) is debug
    assert b"ValueError: <secret>" in answer.stderr


def test_a_response_that_fails_midway_is_cut(tmp_path: Path) -> None:
    def application(environ: object, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "10")])
        yield b"half"
        raise ValueError

    with running(here(application, tmp_path)) as server:
        answer = fetch(server._bindAddress)
    assert answer.body == b"half"
    assert answer.stdout.count(b"Status:") == 1


# -- FastCGI itself -------------------------------------------------------------------------------


def test_roles_that_are_not_served_are_refused_at_once(tmp_path: Path) -> None:
    with running(here(answering(), tmp_path)) as server, connect(server._bindAddress) as sock:
        # An authorizer's request, without its parameters.
        sock.sendall(fastcgi.record(fastcgi.BEGIN_REQUEST, 1, b"\0\2\1" + bytes(5)))
        refused = fastcgi.end_response(1, status=fastcgi.UNKNOWN_ROLE)
        assert sock.recv(len(refused), socket.MSG_WAITALL) == refused


def test_roles_that_are_served_reach_the_application(tmp_path: Path) -> None:
    server = here(answering(["ok"]), tmp_path, roles=(2,))
    with running(server):
        with Client(server._bindAddress) as client:
            client.begin(role=2)
            assert client.answer().body == b"ok"
        with Client(server._bindAddress) as client:
            client.send()
            ended = client.answer().ended
            assert ended is not None
            assert ended.status == fcgi_base.FCGI_UNKNOWN_ROLE


@pytest.mark.parametrize("multiplexed", [False, True])
def test_a_connection_carries_as_many_requests_as_it_says(
    tmp_path: Path, multiplexed: bool
) -> None:
    first = threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> list[str]:
        if environ["PATH_INFO"] == "/first":
            environ["wsgi.input"].read()  # so it runs while the second one comes
            first.wait(10 if multiplexed else 0)
        else:
            first.set()
        start_response("200 OK", [])
        return [environ["PATH_INFO"]]

    server = here(application, tmp_path, multiplexed=multiplexed, maxThreads=7)
    with running(server), Client(server._bindAddress) as client:
        names = [b"FCGI_MAX_CONNS", b"FCGI_MAX_REQS", b"FCGI_MPXS_CONNS"]
        client.socket.sendall(client.codec.get_values(*names))
        while 0 not in client.answers:
            client.receive()
        assert client.answers[0].values == {
            b"FCGI_MAX_CONNS": b"7",
            b"FCGI_MAX_REQS": b"7",
            b"FCGI_MPXS_CONNS": b"%d" % multiplexed,
        }
        client.begin(1, keep=True, PATH_INFO="/first")
        client.begin(2, keep=True, PATH_INFO="/second")
        client.stdin(b"", 2)
        client.stdin(b"", 1)
        assert client.answer(1).body == b"/first"
        ended = client.answer(2).ended
        assert ended is not None
        assert ended.status == (0 if multiplexed else fcgi_base.FCGI_CANT_MPX_CONN)


def test_pairs_and_records_are_flups() -> None:
    long = b"v" * 300
    both = fcgi_base.encode_pair(b"name", long) + fcgi_base.encode_pair(b"", b"x")
    end, pair = fcgi_base.decode_pair(both)
    assert pair == (b"name", long)
    assert fcgi_base.decode_pair(both, end) == (len(both), (b"", b"x"))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        record = fcgi_base.Record(fcgi_base.FCGI_STDOUT, 3)
        record.contentData, record.contentLength = b"hello", 5
        record.write(ours)
        ours.close()
        found = fcgi_base.Record()
        found.read(theirs)
        assert (found.type, found.requestId, found.contentData) == (6, 3, b"hello")
        with pytest.raises(EOFError):
            found.read(theirs)


def test_names_of_the_base_modules_are_there() -> None:
    for name in (
        "InputStream MultiplexedInputStream OutputStream TeeOutputStream StdoutWrapper Record"
        " Request CGIRequest Connection MultiplexedConnection TimeoutException BaseFCGIServer"
        " FCGI_LISTENSOCK_FILENO FCGI_HEADER_LEN FCGI_NULL_REQUEST_ID FCGI_FILTER"
    ).split():
        assert hasattr(fcgi_base, name)
    for name in "ProtocolError recvall readNetstring Request TimeoutException Connection".split():
        assert hasattr(scgi_base, name)
    assert ajp_base.methodTable[2] == b"GET"
    assert ajp_base.requestHeaderTable[11] == b"Host"
    assert ajp_base.responseHeaderTable[11] == b"www-authenticate"
    assert ajp_base.attributeTable[11] == b"SSL_KEY_SIZE"


def test_netstrings() -> None:
    for sent, found in (
        (b"5:hello,", b"hello"),
        (b"5:hello;", scgi_base.ProtocolError),
        (b"x:", scgi_base.ProtocolError),
        (b"5:hel", EOFError),
        (b"", EOFError),
    ):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.sendall(sent)
            ours.shutdown(socket.SHUT_WR)
            if isinstance(found, bytes):
                assert scgi_base.readNetstring(theirs) == found
            else:
                with pytest.raises(found):
                    scgi_base.readNetstring(theirs)


def test_ajp_strings_and_headers() -> None:
    data = ajp_base.encodeString(b"abc") + ajp_base.encodeResponseHeader(b"Location", b"/x")
    text, at = ajp_base.decodeString(data)
    assert text == b"abc"
    assert data[at : at + 2] == b"\xa0\x06"
    assert ajp_base.decodeRequestHeader(b"\xa0\x0b" + ajp_base.encodeString(b"h")) == (
        b"Host",
        b"h",
        6,
    )
    assert ajp_base.decodeAttribute(b"\x0b\x01\x00") == (b"SSL_KEY_SIZE", "256", 3)
    assert ajp_base.decodeAttribute(b"\xff") == (None, None, 1)
    for broken in (b"", b"\x00", b"\x00\x05abc"):
        with pytest.raises(ajp_base.ProtocolError):
            ajp_base.decodeString(broken)


# -- process models and the pool by themselves ----------------------------------------------------


@pytest.mark.parametrize("kind", ["ThreadedServer", "SingleServer", "PreforkServer"])
def test_models_give_connections_to_jobs(program: Callable[..., Program], kind: str) -> None:
    it = program("jobs", kind)
    for word in (b"fail", b"one", b"two"):
        with connect(it.address) as sock:
            file = sock.makefile("rb")
            pid, rest = file.readline().split(maxsplit=1)
            assert rest == b"('x', 1)\n"
            assert (int(pid) == it.process.pid) is (kind != "PreforkServer")
            sock.sendall(word)
            assert file.read() == (b"" if word == b"fail" else word)
            file.close()
    until(lambda: "the job fails" in it.log)
    assert it.end(signal.SIGHUP) == "run() returned True\n"


class Call:
    """A job."""

    def __init__(self, run: Callable[[], Any]) -> None:
        self.run = run


def test_a_pool_starts_threads_as_jobs_come_and_has_a_limit() -> None:
    pool = ThreadPool(minSpare=1, maxSpare=2, maxThreads=3)
    assert pool._workerCount == 0
    go, began = threading.Event(), threading.Semaphore(0)

    def block() -> None:
        began.release()
        go.wait(20)

    for _ in range(3):
        assert pool.addJob(Call(block), allowQueuing=False)
    for _ in range(3):
        assert began.acquire(timeout=10)
    done = threading.Event()
    assert not pool.addJob(Call(done.set), allowQueuing=False)
    assert pool.addJob(Call(done.set))
    assert not done.is_set()
    go.set()
    assert done.wait(10)
    until(lambda: pool._workerCount == 2 == pool._idleCount)
    pool.maxSpare = 0
    until(lambda: pool._workerCount == 0)
    pool.shutdown()


def test_a_job_that_raises_is_reported_and_the_pool_goes_on(
    capfd: pytest.CaptureFixture[str],
) -> None:
    pool = ThreadPool(maxThreads=1)
    done = threading.Event()
    assert pool.addJob(Call(lambda: 1 / 0))
    assert pool.addJob(Call(done.set))
    assert done.wait(10)
    pool.shutdown()
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_the_pool_of_a_server_shows_its_threads(tmp_path: Path) -> None:
    with running(here(answering(), tmp_path, minSpare=2, maxSpare=4)) as server:
        pool = server._threadPool
        assert fetch(server._bindAddress).status == 200
        until(lambda: pool._idleCount >= 2)
        pool.maxSpare = pool._idleCount
        assert pool.maxSpare >= 2
        pool.maxSpare = 0
    assert pool._idleCount == 0


def test_no_thread_is_there_before_the_server_runs() -> None:
    before = threading.active_count()
    server = module("fcgi").WSGIServer(None)
    assert threading.active_count() == before
    assert server._threadPool._idleCount == 0
    assert server._threadPool._maxThreads == 500


def test_the_log_of_scgi_has_each_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running(here(answering(), tmp_path, module="scgi")) as server:
        scgi(server._bindAddress, "/\x1b[1m")
    assert "GET /\\x1b[1m" in caplog.text
    caplog.clear()
    quiet = here(answering(), tmp_path, module="scgi", loggingLevel=logging.WARNING)
    with running(quiet):
        scgi(quiet._bindAddress, "/")
    assert "GET" not in caplog.text
