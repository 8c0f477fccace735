"""The ready-made configurations of contrib/: each is accepted by its server, and serves.

Only what names the place is changed for the test: the port, the socket and the directory.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path

import pytest
from deployments import MissingServer, environment, require
from fronts import AS_WWW_DATA, ROOT
from processes import Process, StartError, hold_port, release_ports

CONTRIB = ROOT / "contrib"
DEADLINE = 30.0

APPLICATION = '''
"""Answers with what it was told about the request."""
import json

from sapi_adapters import sapi_name


def application(environ, start_response):
    body = environ["wsgi.input"].read().decode()
    names = ("SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "HTTP_AUTHORIZATION")
    answer = {name: environ.get(name) for name in names}
    answer.update(sapi=sapi_name(), body=body)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
'''

SCRIPT = f"""#!{sys.executable}
from app import application
from sapi_adapters import run
run(application)
"""


# What the documentation of CGI advises for a rewriting that hides the script's name.
AT_THE_ROOT = SCRIPT.replace("run(application)", 'run(application, script_name="/")')


@dataclass(frozen=True)
class Configuration:
    """One file of contrib/: how its server checks it, and what the application then sees."""

    file: str
    server: str
    # Makes the whole configuration around the file; returns the commands to check and to run it.
    surround: Callable[[Place, str], tuple[list[str], list[str]]]
    sapi: str = "fcgi-prefork"
    # Options of serve; None where the web server starts the script.
    options: tuple[str, ...] | None = ()
    # The path the application is reached at, and what SCRIPT_NAME is when it is not that.
    mount: str = ""
    script_name: str | None = None
    script: str = SCRIPT
    # What the file itself says may be changed in it.
    change: tuple[str, str] | None = None
    more: Mapping[str, str] = field(default_factory=dict)
    # Whether the Authorization header arrives.
    authorization: bool = True


@dataclass(frozen=True)
class Place:
    """Where one configuration is tried."""

    configuration: Configuration
    directory: Path
    port: int

    @property
    def socket(self) -> str:
        return str(self.directory / "app.sock")

    def text(self) -> str:
        """The file, with this place in it."""
        text = (CONTRIB / self.configuration.file).read_text()
        for old, new in {
            "/run/app/app.sock": self.socket,
            "/run/lighttpd/app.sock": str(self.directory / "lighttpd.sock"),
            "/srv/app": str(self.directory / "srv"),
            "listen 80;": f"listen 127.0.0.1:{self.port};",
            "<VirtualHost *:80>": f"<VirtualHost 127.0.0.1:{self.port}>",
            "bind :80": f"bind 127.0.0.1:{self.port}",
            "http://example.org": f"http://127.0.0.1:{self.port}",
            "LANG C.UTF-8": f"PYTHONPATH {ROOT}",
        }.items():
            text = text.replace(old, new)
        if self.configuration.change is not None:
            old, new = self.configuration.change
            assert old in text
            text = text.replace(old, new)
        return text

    def write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text)
        return path


def nginx(place: Place, text: str) -> tuple[list[str], list[str]]:
    directory = place.directory
    temporary = "".join(
        f"{kind}_temp_path {directory}/{kind};"
        for kind in ("client_body", "fastcgi", "proxy", "scgi", "uwsgi")
    )
    included = re.sub(r"include (\w+_params;)", r"include /etc/nginx/\1", text)
    file = place.write(
        "nginx.conf",
        f"""
        {"user root;" if os.geteuid() == 0 else ""}
        daemon off;
        pid {directory}/nginx.pid;
        error_log stderr;
        events {{ worker_connections 64; }}
        http {{
            access_log off;
            {temporary}
            {included}
        }}
        """,
    )
    command = [require("nginx"), "-e", "stderr", "-p", str(directory), "-c", str(file)]
    return [*command, "-t"], command


def apache(place: Place, text: str) -> tuple[list[str], list[str]]:
    directory = place.directory
    more = place.configuration.more
    modules = f"mpm_event authz_core alias env {more['modules']}".split()
    loads = (f"LoadModule {n}_module /usr/lib/apache2/modules/mod_{n}.so" for n in modules)
    newline = "\n"
    directives = more.get("directives", "").replace("{directory}", str(directory))
    file = place.write(
        "apache.conf",
        f"""
{newline.join(loads)}
ServerRoot {directory}
DefaultRuntimeDir {directory}
PidFile {directory}/apache.pid
ServerName localhost
ErrorLog {directory}/error.log
Listen 127.0.0.1:{place.port}
StartServers 1
ServerLimit 2
ThreadsPerChild 8
MaxRequestWorkers 16
{directives}
{text}
""",
    )
    command = [require("apache"), "-d", str(directory), "-f", str(file)]
    start = [*command, "-DFOREGROUND"]
    return [*command, "-t"], [*AS_WWW_DATA, *start] if os.geteuid() == 0 else start


def htaccess(place: Place, text: str) -> tuple[list[str], list[str]]:
    root = place.directory / "srv"
    (root / ".htaccess").write_text(text)
    host = f"""
<VirtualHost 127.0.0.1:{place.port}>
    DocumentRoot {root}
    SetEnv PYTHONPATH {ROOT}
    <Directory {root}>
        Require all granted
        AllowOverride FileInfo Options AuthConfig
        Options FollowSymLinks
    </Directory>
</VirtualHost>"""
    return apache(place, host)


def lighttpd(place: Place, text: str) -> tuple[list[str], list[str]]:
    directory = place.directory
    (directory / "upload").mkdir()
    file = place.write(
        "lighttpd.conf",
        f"""
server.document-root = "{directory}/srv"
server.bind = "127.0.0.1"
server.port = {place.port}
server.errorlog = "{directory}/error.log"
server.upload-dirs = ( "{directory}/upload" )
server.modules = ( "mod_setenv" )
setenv.add-environment = ( "PYTHONPATH" => "{ROOT}" )
{text}
""",
    )
    command = [require("lighttpd"), "-f", str(file)]
    return [*command, "-tt"], [*command, "-D"]


def haproxy(place: Place, text: str) -> tuple[list[str], list[str]]:
    command = [require("haproxy"), "-f", str(place.write("haproxy.cfg", text))]
    return [*command, "-c"], [*command, "-db"]


def caddy(place: Place, text: str) -> tuple[list[str], list[str]]:
    file = place.write("Caddyfile", "{\n\tadmin off\n}\n" + text)
    program = shutil.which("caddy")
    if program is None:
        raise MissingServer("caddy is missing: apt install caddy")
    options = ["--config", str(file), "--adapter", "caddyfile"]
    return [program, "validate", *options], [program, "run", *options]


FCGID = """
FcgidIPCDir {directory}/fcgid
FcgidProcessTableFile {directory}/fcgid.shm
FcgidMaxProcessesPerClass 2
"""
# A host that has mod_fcgid and lets .htaccess use it passes what the programs need.
FCGID_ENVIRONMENT = f"FcgidInitialEnv PYTHONPATH {ROOT}"

CONFIGURATIONS = [
    Configuration("nginx/app.conf", "nginx", nginx),
    Configuration(
        "nginx/app-mounted.conf", "nginx", nginx, options=("--script-name", "/app"), mount="/app"
    ),
    Configuration(
        "apache/mod_proxy_fcgi.conf", "apache", apache, more={"modules": "proxy proxy_fcgi"}
    ),
    Configuration(
        "nginx/scgi.conf", "nginx", nginx, sapi="scgi-prefork", options=("--sapi", "scgi-prefork")
    ),
    Configuration(
        "apache/mod_proxy_scgi.conf",
        "apache",
        apache,
        sapi="scgi-prefork",
        options=("--sapi", "scgi-prefork"),
        more={"modules": "proxy proxy_scgi"},
    ),
    Configuration(
        "apache/mod_proxy_ajp.conf",
        "apache",
        apache,
        sapi="ajp-prefork",
        options=("--sapi", "ajp-prefork"),
        more={"modules": "proxy proxy_ajp"},
    ),
    Configuration(
        "apache/mod_fcgid.conf",
        "apache",
        apache,
        options=None,
        more={
            "modules": "fcgid",
            "directives": FCGID,
        },
    ),
    Configuration(
        "apache/mod_cgi.conf",
        "apache",
        apache,
        sapi="cgi",
        options=None,
        more={"modules": "cgid", "directives": "ScriptSock {directory}/cgid.sock"},
    ),
    Configuration(
        "apache/htaccess",
        "apache",
        htaccess,
        sapi="cgi",
        options=None,
        # The rewriting leaves the script's name out of the URL, and only there.
        script_name="/serve.py",
        more={
            "modules": "cgid mime rewrite",
            "directives": "ScriptSock {directory}/cgid.sock\nTypesConfig /dev/null",
        },
    ),
    Configuration(
        "apache/htaccess",
        "apache",
        htaccess,
        sapi="cgi",
        options=None,
        script=AT_THE_ROOT,
        more={
            "modules": "cgid mime rewrite",
            "directives": "ScriptSock {directory}/cgid.sock\nTypesConfig /dev/null",
        },
    ),
    Configuration(
        "apache/htaccess",
        "apache",
        htaccess,
        options=None,
        script_name="/serve.py",
        change=("AddHandler cgi-script", "AddHandler fcgid-script"),
        more={
            "modules": "fcgid mime rewrite",
            "directives": f"TypesConfig /dev/null\n{FCGID}{FCGID_ENVIRONMENT}",
        },
    ),
    Configuration("lighttpd/fastcgi.conf", "lighttpd", lighttpd),
    Configuration(
        "lighttpd/scgi.conf",
        "lighttpd",
        lighttpd,
        sapi="scgi-prefork",
        options=("--sapi", "scgi-prefork"),
    ),
    Configuration("lighttpd/bin-path.conf", "lighttpd", lighttpd, options=None),
    Configuration(
        "lighttpd/cgi.conf",
        "lighttpd",
        lighttpd,
        sapi="cgi",
        options=None,
        mount="/cgi-bin/serve.py",
    ),
    Configuration("haproxy/haproxy.cfg", "haproxy", haproxy, authorization=False),
    Configuration("caddy/Caddyfile", "caddy", caddy),
]
every = pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=lambda c: c.file)


@pytest.fixture
def place(configuration: Configuration) -> Iterator[Place]:
    # Not pytest's directory: a Unix socket's path may have 107 bytes at most.
    directory = Path(tempfile.mkdtemp(prefix="sapi-"))
    directory.chmod(0o777)
    srv = directory / "srv"
    for part in ("", "static", "files"):
        (srv / part).mkdir()
    (srv / "static" / "plain.txt").write_text("a file\n")
    (srv / "app.py").write_text(APPLICATION)
    (srv / "serve.py").write_text(configuration.script)
    (srv / "serve.py").chmod(0o755)
    try:
        yield Place(configuration, directory, hold_port())
    finally:
        release_ports()
        shutil.rmtree(directory, ignore_errors=True)


def surrounded(place: Place) -> tuple[list[str], list[str]]:
    """The commands that check and run the server; skips or fails when it is not installed."""
    configuration = place.configuration
    try:
        return configuration.surround(place, place.text())
    except MissingServer as error:
        if os.environ.get("CI"):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


def checked(command: list[str]) -> None:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"


@every
def test_the_server_accepts_it(place: Place) -> None:
    check, _ = surrounded(place)
    checked(check)


@every
def test_it_serves(place: Place) -> None:
    configuration = place.configuration
    _, start = surrounded(place)
    running: list[Process] = []

    def begin(command: list[str], name: str, address: str | tuple[str, int]) -> None:
        log = place.directory / name
        running.append(
            Process(
                command,
                log,
                environment={**environment(), "PYTHONPATH": str(ROOT)},
                cwd=place.directory,
                more_logs=[place.directory / "error.log"],
            )
        )
        running[-1].wait_for(address)

    try:
        if configuration.options is not None:
            serve = [sys.executable, "-m", "sapi_adapters", "app:application"]
            serve += ["--chdir", str(place.directory / "srv"), "--socket", place.socket]
            begin([*serve, "--workers", "1", *configuration.options], "app.log", place.socket)
        begin(start, "server.log", ("127.0.0.1", place.port))
        connection = HTTPConnection("127.0.0.1", place.port, timeout=DEADLINE)
        mount = configuration.mount
        connection.request(
            "POST", f"{mount}/a%20path?x=1", b"a body", {"Authorization": "Basic Og=="}
        )
        response = connection.getresponse()
        text = response.read().decode()
        logs = "\n".join(process.log_text() for process in running)
        assert response.status == 200, f"{text}\n{logs}"
        answer = json.loads(text)
        passed = answer.pop("HTTP_AUTHORIZATION")
        assert (passed == "Basic Og==") == configuration.authorization
        assert answer == {
            "SCRIPT_NAME": mount
            if configuration.script_name is None
            else configuration.script_name,
            "PATH_INFO": "/a path",
            "QUERY_STRING": "x=1",
            "sapi": configuration.sapi,
            "body": "a body",
        }
        if "/static/" in place.text():
            connection.request("GET", "/static/plain.txt")
            assert connection.getresponse().read() == b"a file\n"
        connection.close()
    except StartError as error:
        pytest.fail(f"did not start: {error}", pytrace=False)
    finally:
        for process in reversed(running):
            process.stop()


@pytest.mark.parametrize("units", [["app.service", "app.socket"], ["app-standalone.service"]])
def test_systemd_accepts_the_units(units: list[str], tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("systemd-analyze is missing: apt install systemd")
        pytest.skip("systemd-analyze is missing: apt install systemd")
    serve = tmp_path / "serve"
    serve.write_text("#!/bin/sh\n")
    serve.chmod(0o755)
    paths = []
    for unit in units:
        text = (CONTRIB / "systemd" / unit).read_text()
        # The program must exist; the user and the directory are looked up only when it starts.
        (tmp_path / unit).write_text(text.replace("/srv/app/venv/bin/serve", str(serve)))
        paths.append(str(tmp_path / unit))
    done = subprocess.run(
        [program, "verify", "--man=no", "--recursive-errors=no", *paths],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_file_is_tried() -> None:
    servers = ("nginx", "apache", "lighttpd", "haproxy", "caddy")
    found = {
        str(path.relative_to(CONTRIB))
        for server in servers
        for path in (CONTRIB / server).iterdir()
        if path.name != "README.md"
    }
    assert found == {configuration.file for configuration in CONFIGURATIONS}
