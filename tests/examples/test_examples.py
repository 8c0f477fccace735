"""Every program of examples/, run as its docstring says to run it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest
from fastcgi_client import Client, fetch
from serving import Served, serving, until

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
DEADLINE = 30.0


def environment(**more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **more}


def ran(example: str, *command: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess:
    """Run *command* with this interpreter, beside the example; return what it said."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=EXAMPLES / example,
        env=environment(**more),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def serve(example: str, *arguments: str) -> subprocess.CompletedProcess:
    return ran(example, "-m", "sapi_adapters", *arguments)


@contextmanager
def served(tmp_path: Path, example: str, *options: str) -> Iterator[Served]:
    """Serve an example's app.py over FastCGI on a Unix socket."""
    directory = EXAMPLES / example
    with serving(tmp_path, "app:application", "--chdir", str(directory), *options) as running:
        yield running


def test_cgi() -> None:
    done = ran("cgi", "app.py", GATEWAY_INTERFACE="CGI/1.1", REQUEST_METHOD="GET", PATH_INFO="/x")
    assert (done.returncode, done.stderr) == (0, "")
    head, _, body = done.stdout.replace("\r\n", "\n").partition("\n\n")
    assert "Status: 200 OK" in head.split("\n")
    assert body == "cgi serves /x\n"


def test_cgi_script_can_be_started_by_a_web_server() -> None:
    script = EXAMPLES / "cgi" / "app.py"
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env python3\n")


def test_fcgi_prefork(tmp_path: Path) -> None:
    with served(tmp_path, "fcgi-prefork", "--sapi", "fcgi-prefork", "--workers", "2") as running:
        until(lambda: len(running.workers()) == 2, what="two workers")
        workers = running.workers()
        answers = [fetch(running.address).body.decode() for _ in range(20)]
    pattern = re.compile(r"fcgi-prefork: request (\d+) of worker (\d+)\n")
    found = [pattern.fullmatch(answer) for answer in answers]
    assert all(found), answers
    counts: dict[int, list[int]] = {}
    for match in found:
        counts.setdefault(int(match[2]), []).append(int(match[1]))
    assert set(counts) <= set(workers)
    for numbers in counts.values():  # each worker counts for itself
        assert numbers == list(range(1, len(numbers) + 1))


def test_fcgi_prefork_as_a_program(tmp_path: Path) -> None:
    socket = tmp_path / "app.sock"
    process = subprocess.Popen(
        [sys.executable, "app.py", str(socket)],
        cwd=EXAMPLES / "fcgi-prefork",
        env=environment(),
        stderr=subprocess.DEVNULL,
    )
    try:
        assert fetch(str(socket)).body.startswith(b"fcgi-prefork: request 1 of worker ")
    finally:
        process.terminate()
        assert process.wait(DEADLINE) == 0
    assert not socket.exists()


def test_fcgi_threaded(tmp_path: Path) -> None:
    with served(tmp_path, "fcgi-threaded", "--sapi", "fcgi-threaded", "--threads", "4") as running:
        answers = [fetch(running.address).body.decode() for _ in range(8)]
    found = [re.fullmatch(r"fcgi-threaded: visit (\d+), in worker-\d\n", a) for a in answers]
    assert all(found), answers
    assert [int(match[1]) for match in found] == list(range(1, 9))


@pytest.fixture
def pools(tmp_path: Path) -> Iterator[Path]:
    """The directory of examples/pools, copied, with its two pools running."""
    place = tmp_path / "pools"
    shutil.copytree(EXAMPLES / "pools", place, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sapi_adapters", "--config", "pools.conf", *AS_ROOT],
            cwd=place,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        until(
            lambda: ready_in(place / "error.log") or process.poll() is not None,
            DEADLINE,
            "the pools",
        )
        assert process.poll() is None, (tmp_path / "output").read_text()
        yield place
        assert tell(place, "quit").returncode == 0
        assert process.wait(DEADLINE) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(DEADLINE)
    assert not [each.name for each in place.iterdir() if each.suffix in (".sock", ".pid")]


AS_ROOT = ("--allow-root",) if os.geteuid() == 0 else ()


def ready_in(log: Path) -> bool:
    return log.exists() and "ready to handle connections" in log.read_text()


def tell(place: Path, order: str) -> subprocess.CompletedProcess:
    return serve(str(place), "--config", "pools.conf", "--signal", order)


def status(place: Path, *options: str) -> str:
    module = "sapi_adapters.commands.tools"
    done = ran(str(place), "-m", module, "status", "shop.sock", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pools_file_is_right() -> None:
    done = serve("pools", "--config", "pools.conf", "--test", *AS_ROOT)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr.endswith("the configuration file pools.conf is right\n")


def test_pools_serve_both_applications(pools: Path) -> None:
    assert re.fullmatch(rb"the shop by worker \d+\n", fetch(str(pools / "shop.sock")).body)
    assert fetch(str(pools / "events.sock")).body == b"fcgi-prefork: no news\n"
    assert fetch(str(pools / "shop.sock"), PATH_INFO="/ping").body == b"pong"
    log = pools / "shop.access.log"
    until(lambda: '"GET /ping" 200\n' in log.read_text(), what="the line of the last request")


def test_pools_are_reloaded(pools: Path) -> None:
    assert re.search(r"^generation: +1$", status(pools), re.M)
    done = tell(pools, "reload")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^generation: +2$", status(pools), re.M)
    assert fetch(str(pools / "shop.sock")).status == 200


def test_pools_tell_where_a_slow_request_is(pools: Path) -> None:
    path = {"PATH_INFO": "/slow", "QUERY_STRING": "3", "REQUEST_URI": "/slow?3"}
    answer = fetch(str(pools / "shop.sock"), **path)
    assert answer.status == 200
    log = pools / "shop.slow.log"
    until(lambda: "script_filename" in log.read_text(), what="the record")
    where = rf"wait_for_the_database\(\) {re.escape(str(pools))}/app\.py:\d+"
    record = rf"^\+\+\+ GET /slow\?3, .*\n\[0x\w+\] {where}$"
    assert re.search(record, log.read_text(), re.M), log.read_text()
    until(lambda: re.search(r"^slow requests: +1$", status(pools), re.M), what="its count")


@pytest.mark.parametrize(
    ("arguments", "status", "output"),
    [
        (["GET", "/greet?name=Ada"], 0, "Hello, Ada!\n"),
        (["-d", "name=Ada", "/greet"], 0, "Hello, Ada!\n"),
        (["GET", "/missing"], 1, "there is only /greet\n"),
    ],
)
def test_cli(arguments: list[str], status: int, output: str) -> None:
    done = serve("cli", "app:application", "--sapi", "cli", *arguments)
    assert (done.returncode, done.stdout) == (status, output), done.stderr


def test_cli_with_the_head() -> None:
    done = serve("cli", "app:application", "--sapi", "cli", "-i", "-d", "name=Ada", "/greet")
    assert done.stdout.startswith("HTTP/1.1 200 OK\n"), done.stdout
    assert done.stdout.endswith("\n\nHello, Ada!\n")


def test_embed() -> None:
    done = ran("embed", "program.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "before: cli",
        "200 OK text/plain; charset=utf-8",
        "embed read 5 bytes",
        "and sends a second piece",
        "piece: embed read 0 bytes",
        "piece: and sends a second piece",
        "after: cli",
    ]


def test_embed_async() -> None:
    done = ran("embed", "program_async.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "lifespan.startup",
        "200 /0",
        "200 /1",
        "200 /2",
        "lifespan.shutdown",
    ]


def test_asgi_requests_share_one_process(tmp_path: Path) -> None:
    with served(tmp_path, "asgi", "--sapi", "fcgi-prefork", "--workers", "1") as running:
        clients = [Client(running.address) for _ in range(10)]
        for number, client in enumerate(clients):
            client.send(PATH_INFO=f"/{number}")
        for number, client in enumerate(clients):
            answer = client.answer()
            client.socket.close()
            assert answer.status == 200
            pattern = rf"fcgi-prefork: /{number}, \d+\.\d\d s after start-up\n"
            assert re.fullmatch(pattern, answer.body.decode()), answer.body


def test_extension(tmp_path: Path) -> None:
    with served(tmp_path, "extension", "--workers", "1", "--extension", "timing:timing") as running:
        answers = [fetch(running.address) for _ in range(3)]
    for answer in answers:
        assert answer.body == b"extensions: timing:timing\n"
        assert re.search(rb"\r\nServer-Timing: app;dur=\d+\.\d\d\r\n", answer.stdout)
    assert "3 requests in this process" in running.text


LINES = "GET /\nDELETE /nowhere?x=1\n"
ANSWERS = "200 OK\nGET under lines\n404 Not Found\nDELETE under lines\n"


def test_custom_sapi() -> None:
    done = ran("custom-sapi", "lines.py", stdin=LINES)
    assert (done.returncode, done.stdout, done.stderr) == (0, ANSWERS, "")


def test_custom_sapi_by_its_entry_point(tmp_path: Path) -> None:
    package = tmp_path / "lines-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: lines\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[sapi_adapters.sapis]\nlines = lines:Lines\n")
    path = os.pathsep.join((str(ROOT), str(tmp_path)))
    command = ("-m", "sapi_adapters", "app:application", "--sapi", "lines")
    done = ran("custom-sapi", *command, stdin=LINES, PYTHONPATH=path)
    assert (done.returncode, done.stdout, done.stderr) == (0, ANSWERS, "")


def test_the_custom_sapi_is_as_small_as_documented() -> None:
    assert len((EXAMPLES / "custom-sapi" / "lines.py").read_text().splitlines()) < 60


@contextmanager
def hosted(tmp_path: Path, file: Path) -> Iterator[str]:
    """Run the host of an example's httpd.conf at a free port; give HOST:PORT."""
    with socket.socket() as probing:
        probing.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probing.getsockname()[1]}"
    log = tmp_path / "log"
    command = ["-m", "sapi_adapters", "-f", str(file), "--define", f"port={address[10:]}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        until(
            lambda: ready_in(log) or process.poll() is not None,
            DEADLINE,
            "the host",
        )
        assert process.poll() is None, log.read_text()
        yield address
    finally:
        process.terminate()
        assert process.wait(DEADLINE) == 0, log.read_text()


def asked(address: str, path: str, method: str = "GET") -> tuple[int, bytes]:
    connection = HTTPConnection(address, timeout=DEADLINE)
    connection.request(method, path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


def test_a_module_of_the_host(tmp_path: Path) -> None:
    with hosted(tmp_path, EXAMPLES / "modules" / "httpd.conf") as address:
        assert asked(address, "/hello/Ada") == (200, b"Hello, Ada!\n")
        assert asked(address, "/hello/") == (200, b"Hello, World!\n")
        assert asked(address, "/hello/fr/%C3%89va") == (200, "Bonjour, \u00c9va!\n".encode())
        assert asked(address, "/loud/Ada") == (200, b"HELLO, ADA!\n")
        refused = {
            path: asked(address, path)[0]
            for path in ("/hello/Mallory", "/hello/fr/Mallory", "/hello/Eve", "/hello/fr/Eve")
        }
        assert list(refused.values()) == [403, 403, 200, 403]
        assert asked(address, "/hello/Ada", "HEAD") == (200, b"")
        assert asked(address, "/hello/Ada", "DELETE")[0] == 405
        assert asked(address, "/nowhere")[0] == 404


def test_a_module_of_the_host_says_what_is_wrong(tmp_path: Path) -> None:
    directory = EXAMPLES / "modules"
    text = (directory / "httpd.conf").read_text().replace("Eve", "3ve")
    file = tmp_path / "httpd.conf"
    file.write_text(text.replace("mod_hello.py", str(directory / "mod_hello.py")))
    done = serve("modules", "-f", str(file), "-t")
    assert done.returncode == 2
    line = 1 + text[: text.index("3ve")].count("\n")
    assert f"Syntax error on line {line} of {file}: HelloRefuse: '3ve' is no name" in done.stderr


# -- the demonstration


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Served]:
    options = ("--workers", "1", "--extension", "lifecycle:lifecycle")
    with served(tmp_path, "demo", *options) as running:
        yield running


def test_demo_shows_where_it_runs(demo: Served) -> None:
    answer = fetch(demo.address, HTTP_ACCEPT="text/<b>", HTTP_COOKIE="session=0123456789abcdef")
    page = answer.body.decode()
    assert answer.status == 200
    assert "Served under <code>fcgi-prefork</code>" in page
    assert "request 1 of this process" in page
    assert "text/&lt;b&gt;" in page
    assert "text/<b>" not in page
    assert "0123456789" not in page, "a cookie is shown shortened"


def test_demo_works_below_a_mount(demo: Served) -> None:
    page = fetch(demo.address, SCRIPT_NAME="/demo").body.decode()
    assert 'href="/demo/upload"' in page


def test_demo_streams(demo: Served) -> None:
    with Client(demo.address) as client:
        client.send(PATH_INFO="/stream")
        pieces = 0
        while client.answers[1].ended is None and client.receive():
            pieces += 1
    assert pieces >= 12, "each row leaves by itself"
    assert client.answer().body.count(b"<tr>") == 12


FORM = (
    b"--cut\r\nContent-Disposition: form-data; name=file; filename=a<b>.txt\r\n"
    b"Content-Type: text/plain\r\n\r\nhello\r\n--cut--\r\n"
)


def test_demo_takes_an_upload(demo: Served) -> None:
    kind = "multipart/form-data; boundary=cut"
    page = fetch(demo.address, body=FORM, PATH_INFO="/upload", CONTENT_TYPE=kind).body.decode()
    assert "5 bytes" in page
    assert "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824" in page
    assert "a&lt;b&gt;.txt" in page


@pytest.mark.parametrize(("path", "status"), [("/error", 500), ("/nowhere", 404), ("/upload", 200)])
def test_demo_answers(demo: Served, path: str, status: int) -> None:
    assert fetch(demo.address, PATH_INFO=path).status == status


def test_demo_refuses_a_large_upload_unread(demo: Served) -> None:
    with Client(demo.address) as client:
        client.begin(PATH_INFO="/upload", REQUEST_METHOD="POST", CONTENT_LENGTH="99999999")
        assert client.answer().status == 413


WITHOUT_NGINX = """
import shutil, sys
shutil.which = lambda *arguments, **options: None
sys.argv = ["demo.py", "0"]
import demo
demo.main()
"""


@pytest.mark.parametrize("how", ["as it is", "without nginx"])
def test_make_demo(tmp_path: Path, how: str) -> None:
    command = ["demo.py", "0"] if how == "as it is" else ["-c", WITHOUT_NGINX]
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=EXAMPLES / "demo",
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        until(
            lambda: "http://" in log.read_text() or process.poll() is not None,
            DEADLINE,
            "its address",
        )
        said = re.search(r"http://127\.0\.0\.1:(\d+)/", log.read_text())
        assert said, log.read_text()
        connection = HTTPConnection("127.0.0.1", int(said[1]), timeout=DEADLINE)
        connection.request("GET", "/")
        response = connection.getresponse()
        page = response.read().decode()
        connection.close()
        assert response.status == 200
        assert re.search("Served under <code>(fcgi-prefork|embed)</code>", page)
    finally:
        process.terminate()
        assert process.wait(DEADLINE) == 0, log.read_text()
