"""The hostile requests, sent to Apache and nginx: every difference from what is expected is listed.

What a case expects is what this project's own host does; where two servers in wide use do
otherwise, differences.py says how, so that a case nobody else meets is known for what it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from deployments import MissingServer, environment, require
from fronts import APACHE_MODULES, AS_WWW_DATA, ROOT
from httpd.corpus import BODY_LIMIT, CASES
from httpd.differences import APACHE, NGINX
from httpd.raw_client import Address, run
from processes import Process, hold_port, release_ports

PATIENCE = 4.0
"""Seconds of silence before the client gives up; what keeps it waiting is in the tables."""
CONNECTIONS = 24
"""Conversations at a time."""

# 8 KiB hold a line of 8190 bytes.  A half-closed client is not a client that has gone.
NGINX_CONF = """
{user}
worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log info;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_max_body_size {limit};
    client_body_temp_path {directory}/body;
    fastcgi_temp_path {directory}/fastcgi;
    proxy_temp_path {directory}/proxy;
    scgi_temp_path {directory}/scgi;
    uwsgi_temp_path {directory}/uwsgi;
    large_client_header_buffers 100 8192;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            fastcgi_pass 127.0.0.1:{backend};
            fastcgi_ignore_client_abort on;
            fastcgi_param SCRIPT_NAME "";
            fastcgi_param PATH_INFO $uri;
            fastcgi_param QUERY_STRING $query_string;
            fastcgi_param REQUEST_METHOD $request_method;
            fastcgi_param REQUEST_URI $request_uri;
            fastcgi_param CONTENT_TYPE $content_type;
            fastcgi_param CONTENT_LENGTH $content_length;
            fastcgi_param SERVER_PROTOCOL $server_protocol;
            fastcgi_param SERVER_NAME $server_name;
            fastcgi_param SERVER_PORT $server_port;
        }}
    }}
}}
"""

# The handler as php-fpm's users write it: the file is found, the rest is PATH_INFO.
APACHE_CONF = """
ServerRoot {directory}
DefaultRuntimeDir {directory}
PidFile {directory}/apache.pid
ServerName localhost
ErrorLog {directory}/error.log
LogLevel info
Timeout 60
MaxKeepAliveRequests 0
Listen 127.0.0.1:{port}
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule alias_module {modules}/mod_alias.so
LoadModule proxy_module {modules}/mod_proxy.so
LoadModule proxy_fcgi_module {modules}/mod_proxy_fcgi.so
StartServers 1
ServerLimit 1
ThreadsPerChild 64
MaxRequestWorkers 64
LimitRequestBody {limit}
Alias / {directory}/files/echo/
<Directory {directory}/files>
    Require all granted
    SetHandler "proxy:fcgi://127.0.0.1:{backend}"
</Directory>
"""


@dataclass(frozen=True)
class Started:
    """A running server."""

    address: Address
    process: Process


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="sapi-"))
    directory.chmod(0o755)
    yield directory
    release_ports()
    shutil.rmtree(directory, ignore_errors=True)


def program(name: str) -> str:
    """The path of a server; a missing one fails a CI run and skips elsewhere."""
    try:
        return require(name)
    except MissingServer as error:
        if os.environ.get("CI"):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


def start(command: list[str], directory: Path, name: str, port: int) -> Process:
    environ = environment()
    environ["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    log = directory / f"{name}.log"
    logs = [directory / "error.log"]
    process = Process(command, log, environment=environ, cwd=directory, more_logs=logs)
    try:
        process.wait_for(("127.0.0.1", port))
    except BaseException:
        process.stop()
        raise
    return process


@pytest.fixture(scope="module")
def backend(directory: Path) -> Iterator[int]:
    """The port at which the echo answers FastCGI."""
    port = hold_port()
    command = [sys.executable, "-m", "sapi_adapters", "httpd.echo:app", "--sapi", "fcgi-threaded"]
    command += ["--threads", "32", "--bind", f"127.0.0.1:{port}"]
    process = start(command, directory, "echo", port)
    yield port
    process.stop()


@pytest.fixture(scope="module")
def nginx(directory: Path, backend: int) -> Iterator[Started]:
    own = directory / "nginx"
    own.mkdir()
    port = hold_port()
    user = "user root;" if os.geteuid() == 0 else ""
    text = NGINX_CONF.format(directory=own, port=port, backend=backend, user=user, limit=BODY_LIMIT)
    (own / "nginx.conf").write_text(text)
    command = [program("nginx"), "-e", str(own / "error.log"), "-p", str(own)]
    process = start([*command, "-c", str(own / "nginx.conf")], own, "nginx", port)
    yield Started(("127.0.0.1", port), process)
    process.stop()


@pytest.fixture(scope="module")
def apache(directory: Path, backend: int) -> Iterator[Started]:
    own = directory / "apache"
    (own / "files").mkdir(parents=True)
    (own / "files" / "echo").touch()
    port = hold_port()
    text = APACHE_CONF.format(
        directory=own, port=port, backend=backend, modules=APACHE_MODULES, limit=BODY_LIMIT
    )
    (own / "apache.conf").write_text(text)
    command = [program("apache"), "-d", str(own), "-f", str(own / "apache.conf"), "-DFOREGROUND"]
    if os.geteuid() == 0:
        # Apache does not serve as root.
        command = [*AS_WWW_DATA, *command]
        shutil.chown(own, "www-data")
    process = start(command, own, "apache", port)
    yield Started(("127.0.0.1", port), process)
    process.stop()


def deviating(address: Address) -> dict[str, list[str]]:
    """All cases in which a server deviates, and how."""
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        results = pool.map(lambda case: run(address, case, PATIENCE), CASES)
        return {case.id: found for case, found in zip(CASES, results, strict=True) if found}


def explained(table: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """The cases that a table names, with the reasons, and the patterns that name none."""
    found: dict[str, str] = {}
    useless = []
    for why, patterns in table.items():
        for pattern in patterns.split():
            ids = [case.id for case in CASES if fnmatchcase(case.id, pattern)]
            if not ids:
                useless.append(pattern)
            found.update(dict.fromkeys(ids, why))
    return found, useless


def check(server: Started, table: dict[str, str]) -> None:
    found = deviating(server.address)
    reasons, useless = explained(table)
    problems = [f"{id}: {'; '.join(how)}" for id, how in found.items() if id not in reasons]
    problems += [f"{id} conforms, though: {why}" for id, why in reasons.items() if id not in found]
    problems += [f"{pattern} names no case" for pattern in useless]
    assert not problems, "\n".join([*problems[:40], server.process.log_text(1500)])


@pytest.fixture
def version() -> Callable[[str, str, str], None]:
    """Skip where a server is of another line than the table is about."""

    def check(name: str, option: str, line: str) -> None:
        done = subprocess.run([program(name), option], capture_output=True, text=True, timeout=20)
        told = done.stdout + done.stderr
        if f"/{line}." not in told:
            pytest.skip(f"the table is about {name} {line}, this is {told.splitlines()[0]}")

    return check


def test_apache_differs_where_the_table_says(
    version: Callable[[str, str, str], None], apache: Started
) -> None:
    version("apache", "-v", "2.4")
    check(apache, APACHE)


def test_nginx_differs_where_the_table_says(
    version: Callable[[str, str, str], None], nginx: Started
) -> None:
    version("nginx", "-v", "1.22")
    check(nginx, NGINX)


def test_the_documentation_has_every_difference() -> None:
    text = (ROOT / "docs" / "hostile-requests.md").read_text()
    for table in (APACHE, NGINX):
        reasons = Counter(explained(table)[0].values())
        missing = [why for why in table if f"| {why} | {reasons[why]} |\n" not in text]
        assert missing == []
        assert f"{reasons.total()} cases end otherwise" in text


def test_no_case_differs_for_two_reasons() -> None:
    for table in (APACHE, NGINX):
        for id in (case.id for case in CASES):
            reasons = [
                why
                for why, patterns in table.items()
                if any(fnmatchcase(id, pattern) for pattern in patterns.split())
            ]
            assert len(reasons) <= 1, (id, reasons)
