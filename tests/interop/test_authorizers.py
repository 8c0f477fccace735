"""The authorizer role: lighttpd asks before it serves a file, Apache before it believes a password.

Apache's mod_authnz_fcgi sends no STDIN at all, not even the empty record that ends it; lighttpd
follows the standard. Both take ``Variable-NAME`` headers of a 200 as variables of the request.
"""

from __future__ import annotations

import http.client
import os
import shutil
import sys
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fronts import APACHE_MODULES, AS_WWW_DATA
from processes import Process, hold_port

APP = """
def wsgi(environ, start_response):
    role = environ["FCGI_ROLE"]
    given = environ.get("REMOTE_PASSWD") or environ.get("HTTP_X_KEY")
    if role != "AUTHORIZER" or given != "sesame":
        start_response("403 Forbidden", [("Content-Type", "text/plain")])
        return [b"not you"]
    start_response("200 OK", [("Variable-TEAM", "red")])
    return []


async def asgi(scope, receive, send):
    headers = dict(scope["headers"])
    good = headers.get(b"x-key") == b"sesame"
    start = {"type": "http.response.start", "status": 200 if good else 403, "headers": []}
    await send(start)
    await send({"type": "http.response.body", "body": b"" if good else b"not you"})
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that www-data can pass through, which pytest's own are not."""
    made = Path(tempfile.mkdtemp(prefix="sapi-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def started(folder: Path) -> Iterator[Callable[..., Process]]:
    processes: list[Process] = []

    def start(command: list[str], name: str, address: object, **more: object) -> Process:
        process = Process(command, folder / f"{name}.log", **more)  # type: ignore[arg-type]
        processes.append(process)
        process.wait_for(address)  # type: ignore[arg-type]
        return process

    yield start
    for process in reversed(processes):
        process.stop()


def serve(start: Callable[..., Process], folder: Path, app: str, *where: str) -> None:
    (folder / "gate.py").write_text(APP)
    address: object = where[1]
    if where[0] == "--bind":
        host, _, port = where[1].partition(":")
        address = (host, int(port))
    command = [sys.executable, "-m", "sapi_adapters", f"gate:{app}", "--workers", "1", *where]
    more = {"cwd": folder, "environment": {**os.environ, "PYTHONPATH": str(folder)}}
    start([*command, "--sapi", "fcgi-prefork"], "gate", address, **more)


def get(port: int, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize("app", ["wsgi", "asgi"])
def test_lighttpd_serves_a_file_when_the_application_allows_it(
    folder: Path, started: Callable[..., Process], program: Callable[[str], str], app: str
) -> None:
    lighttpd = program("lighttpd")
    serve(started, folder, app, "--socket", str(folder / "gate.sock"))
    files = folder / "files"
    files.mkdir()
    (files / "secret.txt").write_text("the secret")
    port = hold_port()
    (folder / "lighttpd.conf").write_text(f"""
server.modules = ("mod_fastcgi")
server.document-root = "{files}"
server.bind = "127.0.0.1"
server.port = {port}
server.errorlog = "{folder}/error.log"
fastcgi.server = ("/" => ((
    "socket" => "{folder}/gate.sock", "mode" => "authorizer", "docroot" => "{files}"
)))
""")
    command = [lighttpd, "-D", "-f", str(folder / "lighttpd.conf")]
    started(command, "lighttpd", ("127.0.0.1", port))
    assert get(port, "/secret.txt", {})[0] == 403
    assert get(port, "/secret.txt", {"X-Key": "sesame"}) == (200, b"the secret")


def test_apache_asks_the_application_for_the_password(
    folder: Path, started: Callable[..., Process], program: Callable[[str], str]
) -> None:
    apache = program("apache")
    backend, port = hold_port(), hold_port()
    serve(started, folder, "wsgi", "--bind", f"127.0.0.1:{backend}")
    files = folder / "files"
    files.mkdir()
    (files / "secret.txt").write_text("the secret")
    names = "mpm_event authz_core authn_core authz_user auth_basic authnz_fcgi"
    loads = "\n".join(
        f"LoadModule {name}_module {APACHE_MODULES}/mod_{name}.so" for name in names.split()
    )
    run = folder / "run"
    run.mkdir(mode=0o777)
    (folder / "apache.conf").write_text(f"""
ServerRoot {folder}
DefaultRuntimeDir {run}
PidFile {run}/apache.pid
ServerName localhost
ErrorLog {run}/error.log
{loads}
Listen 127.0.0.1:{port}
DocumentRoot {files}
AuthnzFcgiDefineProvider authn Gate fcgi://127.0.0.1:{backend}/
<Directory {files}>
    AuthType Basic
    AuthName gate
    AuthBasicProvider Gate
    Require valid-user
</Directory>
""")
    run.chmod(0o777)
    command = [apache, "-d", str(folder), "-f", str(folder / "apache.conf"), "-DFOREGROUND"]
    if os.geteuid() == 0:
        command = [*AS_WWW_DATA, *command]
    started(command, "apache", ("127.0.0.1", port), more_logs=[run / "error.log"])

    def basic(password: str) -> dict[str, str]:
        return {"Authorization": "Basic " + b64encode(f"ali:{password}".encode()).decode()}

    assert get(port, "/secret.txt", {})[0] == 401
    assert get(port, "/secret.txt", basic("wrong"))[0] == 401
    assert get(port, "/secret.txt", basic("sesame")) == (200, b"the secret")
