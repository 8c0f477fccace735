"""The command ``serve app:application``: the host that options make, without a file."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from httpd.hosting import free_port
from serving import until

APP = """
import json, os, threading, time

VERSION = "first"
meeting = threading.Barrier(2)


def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/raise":
        raise RuntimeError("told in the browser")
    if path == "/sleep":
        time.sleep(20)
    if path == "/threads":
        meeting.wait(15)
    if path == "/processes":
        open(f"met.{os.getpid()}", "w").close()
        end = time.monotonic() + 15
        while len([name for name in os.listdir(".") if name.startswith("met.")]) < 2:
            if time.monotonic() > end:
                raise TimeoutError
            time.sleep(0.02)
    told = {
        "version": VERSION, "pid": os.getpid(), "script": environ["SCRIPT_NAME"], "path": path,
        "multithread": environ["wsgi.multithread"],
        "multiprocess": environ["wsgi.multiprocess"],
        "server": environ["SERVER_PORT"], "client": environ["REMOTE_ADDR"],
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(told).encode()]


async def asgi(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    if scope["path"] == "/raise":
        raise RuntimeError("told in the browser")
    told = {"version": VERSION, "pid": os.getpid(), "script": scope["root_path"],
            "path": scope["path"]}
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})
"""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(self._path)


class Running:
    """A server that the command started."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, address: Any) -> None:
        self.process = process
        self.folder = folder
        self.address = address

    @property
    def terminal(self) -> str:
        """What it wrote on standard error."""
        return (self.folder / "stderr").read_text(errors="replace")

    def connect(self) -> http.client.HTTPConnection:
        if isinstance(self.address, str):
            return UnixConnection(self.address)
        return http.client.HTTPConnection(*self.address, timeout=20)

    def get(self, path: str, **headers: str) -> Any:
        connection = self.connect()
        try:
            given = {name.replace("_", "-"): text for name, text in headers.items()}
            connection.request("GET", path, headers=given)
            answer: Any = connection.getresponse()
            answer.body = answer.read()
            return answer
        finally:
            connection.close()

    def told(self, path: str = "/") -> Any:
        answer = self.get(path)
        assert answer.status == 200, (answer.status, answer.body, self.terminal)
        return json.loads(answer.body)

    def listens(self) -> bool:
        family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
        with socket.socket(family) as probe:
            probe.settimeout(5)
            return probe.connect_ex(self.address) == 0

    def children(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]


@contextmanager
def serve(
    folder: Path, *arguments: str, address: Any = None, ready: bool = True
) -> Iterator[Running]:
    """Run ``serve`` in *folder*; without *address* on a port of loopback."""
    if address is None:
        address = ("127.0.0.1", free_port())
        arguments = (*arguments, "--bind", f"127.0.0.1:{address[1]}")
    with (folder / "stderr").open("wb") as stderr, (folder / "stdout").open("wb") as stdout:
        process = subprocess.Popen(
            [sys.executable, "-m", "sapi_adapters", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=folder,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
    running = Running(process, folder, address)
    try:
        if ready:
            until(
                lambda: (
                    any(each in running.terminal for each in ("worker", "ready to handle"))
                    or process.poll() is not None
                ),
                what="the start-up",
            )
            until(lambda: process.poll() is not None or running.listens(), what="listening")
            assert process.poll() is None, running.terminal
        yield running
    finally:
        if process.poll() is None:
            children = running.children()
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                for pid in [*children, process.pid]:
                    os.kill(pid, signal.SIGKILL)
                process.wait(10)
                raise AssertionError("the server did not end after TERM") from None
    assert (folder / "stdout").read_bytes() == b"", "a server prints nothing on standard output"


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``serve`` until it ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "sapi_adapters", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        cwd=folder,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "serve_app.py").write_text(APP)
    return tmp_path


@pytest.mark.parametrize("app", ["wsgi", "asgi"])
def test_an_application_alone_is_enough(folder: Path, app: str) -> None:
    address = ("127.0.0.1", 8000)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError:
            pytest.skip("somebody has the port 8000")
    with serve(folder, f"serve_app:{app}", address=address) as running:
        assert running.told("/x/y")["path"] == "/x/y"
        assert "http://127.0.0.1:8000/" in running.terminal


@pytest.mark.parametrize("app", ["wsgi", "asgi"])
def test_the_application_is_at_the_root(folder: Path, app: str) -> None:
    with serve(folder, f"serve_app:{app}") as running:
        for path in ("/", "/x", "/x/y/"):
            found = running.told(path)
            assert (found["script"], found["path"]) == ("", path)


@pytest.mark.parametrize("app", ["wsgi", "asgi"])
def test_the_access_log_is_on_the_terminal(folder: Path, app: str) -> None:
    with serve(folder, f"serve_app:{app}") as running:
        running.get("/a?b=c", Referer="http://from.example/", User_Agent="tests/1")
        line = '"GET /a?b=c HTTP/1.1" 200'
        until(lambda: line in running.terminal)
        found = next(each for each in running.terminal.splitlines() if line in each)
        assert found.startswith("127.0.0.1 - - [")
        assert found.endswith('"http://from.example/" "tests/1"')
        assert running.terminal.count(line) == 1


@pytest.mark.parametrize("app", ["wsgi", "asgi"])
def test_an_access_log_of_ones_choice(folder: Path, app: str) -> None:
    log = folder / "access.log"
    with serve(folder, f"serve_app:{app}", "--access-log", "access.log") as running:
        running.get("/a")
        until(lambda: log.exists() and '"GET /a HTTP/1.1" 200' in log.read_text())
        assert "GET /a" not in running.terminal


@pytest.mark.parametrize("app", ["wsgi", "asgi"])
def test_no_access_log(folder: Path, app: str) -> None:
    with serve(folder, f"serve_app:{app}", "--access-log", "off") as running:
        running.get("/a")
        running.get("/b")
        assert '"GET /' not in running.terminal
    said = (folder / "stderr").read_text()
    assert '"GET /' not in said and "given up" not in said
    assert not (folder / "off").exists()


@pytest.mark.parametrize("app", ["wsgi", "asgi"])
def test_static_files_beside_the_application(folder: Path, app: str) -> None:
    public = folder / "public"
    (public / "sub").mkdir(parents=True)
    (public / "bare").mkdir()
    (public / "a b.txt").write_text("0123456789")
    (public / "sub/index.html").write_text("<p>index</p>")
    (folder / "secret").write_text("not for everybody")
    with serve(folder, f"serve_app:{app}", "--static", "/files=public") as running:
        found = running.get("/files/a%20b.txt")
        assert (found.status, found.body) == (200, b"0123456789")
        assert found.headers["Content-Type"].startswith("text/plain")
        again = running.get("/files/a%20b.txt", If_None_Match=found.headers["ETag"])
        assert (again.status, again.body) == (304, b"")
        part = running.get("/files/a%20b.txt", Range="bytes=2-4")
        assert (part.status, part.body) == (206, b"234")
        assert part.headers["Content-Range"] == "bytes 2-4/10"
        assert running.get("/files/a%20b.txt", Range="bytes=50-").status == 416
        found = running.get("/files/sub/")
        assert (found.status, found.body) == (200, b"<p>index</p>")
        found = running.get("/files/sub")
        assert found.status == 301
        assert found.headers["Location"].endswith("/files/sub/")
        assert running.get("/files/missing").status == 404
        assert running.get("/files/bare/").status in (403, 404), "no listings"
        assert running.get("/files/a%20b.txt/more").status == 404
        for path in ("/filesystem", "/other"):
            assert running.told(path)["path"] == path


@pytest.mark.parametrize("app", ["wsgi", "asgi"])
@pytest.mark.parametrize(
    "path",
    [
        "/files/../secret",
        "/files/%2e%2e/secret",
        "/files/..%2fsecret",
        "/files/sub/../../secret",
        "/files/sub/%2e%2e/%2E%2E/secret",
        "/files/%00/../secret",
        "/files//../../secret",
        "/files../secret",
        "/files/.%00./secret",
        "/files/..\\secret",
    ],
)
def test_no_path_leads_out_of_the_static_files(folder: Path, app: str, path: str) -> None:
    (folder / "public/sub").mkdir(parents=True)
    (folder / "secret").write_text("not for everybody")
    with serve(folder, f"serve_app:{app}", "--static", "/files=public") as running:
        assert b"not for everybody" not in running.get(path).body


def test_no_link_leads_out_of_the_static_files(folder: Path) -> None:
    (folder / "public").mkdir()
    (folder / "secret").write_text("not for everybody")
    (folder / "public/link").symlink_to(folder / "secret")
    with serve(folder, "serve_app:wsgi", "--static", "/files=public") as running:
        found = running.get("/files/link")
    assert (found.status, b"not for everybody" in found.body) == (403, False)


@pytest.mark.parametrize("given", ["/files=missing", "files=public", "/files"])
def test_static_files_that_cannot_be(folder: Path, given: str) -> None:
    (folder / "public").mkdir()
    port = free_port()
    ended = command(folder, "serve_app:wsgi", "--bind", f"127.0.0.1:{port}", "--static", given)
    assert ended.returncode == 2
    assert repr(given) in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("app", ["wsgi", "asgi"])
def test_the_status_page(folder: Path, app: str) -> None:
    with serve(folder, f"serve_app:{app}", "--status-path", "/how") as running:
        running.get("/x")
        found = running.get("/how?auto")
        assert found.status == 200
        assert found.headers["Content-Type"].startswith("text/plain")
        assert b"Total Accesses" in found.body
        assert running.told("/however")["path"] == "/however"


def together(running: Running, path: str, count: int) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(running.told, [path] * count))


def test_two_workers(folder: Path) -> None:
    with serve(folder, "serve_app:wsgi", "--workers", "2") as running:
        found = together(running, "/processes", 2)
        assert len({each["pid"] for each in found}) == 2
        assert sorted(running.children()) == sorted(each["pid"] for each in found)
        assert all(each["multiprocess"] and not each["multithread"] for each in found)


def test_four_threads(folder: Path) -> None:
    with serve(folder, "serve_app:wsgi", "--threads", "4") as running:
        found = together(running, "/threads", 2)
        assert len({each["pid"] for each in found}) == 1
        assert all(each["multithread"] for each in found)


@pytest.mark.parametrize("app", ["wsgi", "asgi"])
def test_a_mount(folder: Path, app: str) -> None:
    with serve(folder, f"serve_app:{app}", "--script-name", "/m") as running:
        found = running.told("/m/x")
        assert found["script"] == "/m"
        assert found["path"] == ("/m/x" if app == "asgi" else "/x")
        assert running.told("/m/")["script"] == "/m"
        for path in ("/", "/x", "/mx"):
            assert running.get(path).status == 404


def test_a_request_that_takes_too_long(folder: Path) -> None:
    with serve(folder, "serve_app:wsgi", "--request-timeout", "1") as running:
        assert running.get("/sleep").status == 504
        until(lambda: running.told("/x")["path"] == "/x")


@pytest.mark.parametrize("app", ["wsgi", "asgi"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_workers_leave_after_some_requests_and_nobody_notices(
    folder: Path, app: str, workers: str
) -> None:
    options = ("--max-requests", "3", "--workers", workers)
    with serve(folder, f"serve_app:{app}", *options) as running:
        pids = [running.told("/x")["pid"] for _ in range(24)]
        assert len(set(pids)) >= 8
        kept = running.connect()
        for _ in range(24):
            kept.request("GET", "/kept")
            answer = kept.getresponse()  # it says so when the connection is over
            assert json.loads(answer.read())["path"] == "/kept"
        kept.close()


@pytest.mark.parametrize("app", ["wsgi", "asgi"])
def test_a_change_of_a_source_brings_the_new_code(folder: Path, app: str) -> None:
    pytest.importorskip("werkzeug")
    with serve(folder, f"serve_app:{app}", "--reload") as running:
        assert running.told()["version"] == "first"
        part = folder / "serve_app.part"
        part.write_text(APP.replace('"first"', '"the second"'))
        os.utime(part, (2_000_000_000, 2_000_000_000))
        part.rename(folder / "serve_app.py")
        until(lambda: running.told()["version"] == "the second")


def test_the_debugger_of_werkzeug(folder: Path) -> None:
    pytest.importorskip("werkzeug")
    with serve(folder, "serve_app:wsgi", "--debug") as running:
        found = running.get("/raise")
        assert found.status == 500
        assert b"Werkzeug Debugger" in found.body
        assert b"told in the browser" in found.body
        assert ", PIN " in running.terminal
        secret = running.get("/raise", X_Forwarded_For="192.0.2.1")
        assert secret.status == 500
        assert b"told in the browser" not in secret.body


def test_the_page_of_starlette(folder: Path) -> None:
    pytest.importorskip("starlette")
    with serve(folder, "serve_app:asgi", "--debug") as running:
        found = running.get("/raise", Accept="text/html")
        assert found.status == 500
        assert b"Traceback" in found.body
        assert b"told in the browser" in found.body
        assert running.told("/x")["path"] == "/x"


@pytest.mark.parametrize("app", ["wsgi", "asgi"])
@pytest.mark.parametrize("where", [["--bind", "0.0.0.0:0"], ["--sapi", "mod", "--socket", "s"]])
def test_no_debugger_for_others(folder: Path, app: str, where: list[str]) -> None:
    pytest.importorskip("werkzeug")
    pytest.importorskip("starlette")
    ended = command(folder, f"serve_app:{app}", "--debug", *where)
    assert ended.returncode == 2
    assert "--debug refuses" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("app", ["wsgi", "asgi"])
def test_a_unix_socket(folder: Path, app: str) -> None:
    path = str(folder / "s")
    options = ("--sapi", "mod", "--socket", path, "--socket-mode", "0600")
    with serve(folder, f"serve_app:{app}", *options, address=path) as running:
        assert running.told("/x")["path"] == "/x"
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert not os.path.exists(path)


def test_what_the_options_say_is_tested(folder: Path) -> None:
    assert command(folder, "serve_app:wsgi", "-t").returncode == 0
    ended = command(folder, "serve_app:missing", "-t")
    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False)


@pytest.mark.parametrize("app", ["wsgi", "asgi"])
@pytest.mark.parametrize("options", [[], ["--workers", "2"], ["--threads", "4"]])
def test_term_ends_it(folder: Path, app: str, options: list[str]) -> None:
    """With status 0, also while somebody keeps a connection."""
    with serve(folder, f"serve_app:{app}", *options) as running:
        kept = running.connect()
        kept.request("GET", "/x")
        assert kept.getresponse().read()
        children = running.children()
        running.process.terminate()
        assert running.process.wait(15) == 0
        assert not running.listens()
        for pid in children:
            assert not os.path.exists(f"/proc/{pid}")
        kept.close()
        assert "Traceback" not in running.terminal


# -- with a file ----------------------------------------------------------------------------------

FILE = """ServerName localhost
Listen 127.0.0.1:{port}
LoadModule mpm_event_module mod_mpm_event
LoadModule sapi_module sapi_adapters.adapters.mod_sapi
<IfDefine mounted>
LoadModule dir_module mod_dir
</IfDefine>
<Location /app>
    SetHandler sapi-script
    SapiApp serve_app:asgi
</Location>
"""


def test_a_file_is_served(folder: Path) -> None:
    """Applications are found beside the working directory's other modules."""
    address = ("127.0.0.1", free_port())
    (folder / "httpd.conf").write_text(FILE.format(port=address[1]))
    with serve(folder, "-f", "httpd.conf", address=address) as running:
        assert running.told("/app/x")["script"] == "/app"
        running.process.terminate()
        assert running.process.wait(15) == 0


def test_a_file_is_tested(folder: Path) -> None:
    """Nothing is opened or loaded: the port may be in use, the application missing."""
    (folder / "serve_app.py").unlink()
    with socket.create_server(("127.0.0.1", 0)) as busy:
        (folder / "httpd.conf").write_text(FILE.format(port=busy.getsockname()[1]))
        ended = command(folder, "-f", "httpd.conf", "-t")
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (0, "Syntax OK")
    (folder / "httpd.conf").write_text(FILE.format(port=1) + "Nonsense on\n")
    ended = command(folder, "-f", "httpd.conf", "-t")
    assert ended.returncode == 2
    assert f"Syntax error on line 12 of {folder}/httpd.conf" in ended.stderr
    assert "Invalid command 'Nonsense'" in ended.stderr
    ended = command(folder, "-f", "missing.conf", "-t")
    assert ended.returncode == 2
    assert "missing.conf" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_file_says_it_all(folder: Path) -> None:
    (folder / "httpd.conf").write_text(FILE.format(port=1))
    ended = command(folder, "-f", "httpd.conf", "serve_app:wsgi")
    assert ended.returncode == 2
    assert "--httpd-conf" in ended.stderr


def modules(folder: Path, *arguments: str) -> list[str]:
    program = "from sapi_adapters.commands.tools import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", program, "modules", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=folder,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.splitlines()


def test_the_modules_of_a_file(folder: Path) -> None:
    (folder / "httpd.conf").write_text(FILE.format(port=1))
    found = [line.split()[0] for line in modules(folder, "httpd.conf")]
    assert {"core_module", "so_module", "mpm_event_module", "sapi_module"} <= {*found}
    assert "dir_module" not in found
    found = [line.split()[0] for line in modules(folder, "httpd.conf", "--define", "mounted")]
    assert "dir_module" in found
    hooks = modules(folder, "httpd.conf", "--hooks")
    assert any(line.startswith("handler: ") and "mod_sapi" in line for line in hooks)
