"""mod_cgi: programs of every kind, on a real host."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from httpd.hosting import Hosted, hosting
from serving import until

CONFIGURATION = """
LoadModule cgi_module mod_cgi
DocumentRoot {root}
Timeout 20
LimitRequestBody 0
<Location /cgi>
    SetHandler cgi-script
</Location>
<Directory {root}/cgi>
    Options ExecCGI
</Directory>
<Directory {root}/cgi/auth>
    CGIPassAuth On
    Options ExecCGI
</Directory>
"""
SHELL = {
    "hello": "echo 'Content-Type: text/plain'; echo; echo hello",
    "crlf": r"printf 'Content-Type: text/plain\r\nStatus: 201 Made\r\n\r\nbody\r\n'",
    "env": "echo 'Content-Type: text/plain'; echo; env",
    "auth/env": "echo 'Content-Type: text/plain'; echo; env",
    "arguments": "echo 'Content-Type: text/plain'; echo; echo \"$#:$*\"",
    "where": "echo 'Content-Type: text/plain'; echo; pwd; ls -l /proc/self/fd | wc -l",
    "signals": "echo 'Content-Type: text/plain'; echo; exec cat /proc/self/status",
    "away": "echo 'Location: http://elsewhere.test/x'; echo",
    "away-page": "echo 'Status: 307 Go'; echo 'Location: /cgi/hello'; echo 'Content-Type: a/b'"
    "; echo; echo page",
    "local": "echo 'Set-Cookie: a=b'; echo 'Location: /cgi/env?x=y'; echo; cat",
    "for-ever": "echo 'Location: /cgi/for-ever'; echo",
    "missing": "echo 'Status: 404 Gone fishing'; echo 'Content-Type: text/plain'; echo; echo no",
    "says": "printf 'one\\ntw\\033o' >&2; echo 'Content-Type: text/plain'; echo; echo said",
    "silent": "exit 3",
    "no-head": "echo 'this is no header'; echo; echo body",
    "injected": r"printf 'Content-Type: text/plain\nX-A: b\rSet-Cookie: c=d\n\n'",
    "folded": r"printf 'Content-Type: text/plain\nX-A: b\n  c: d\n\n'",
    "typeless": r"printf 'X-A: b\n\nbody'",
    "twice": r"printf 'Status: 200\nStatus: 404\n\n'",
    "early": r"printf 'Status: 100 Continue\n\n'",
    "chunked": r"printf 'Content-Type: text/plain\nTransfer-Encoding: chunked\n\nplain'",
    "endless-head": "yes 'X-A: bcdefghijklmnopqrstuvwxyz'",
    "short": r"printf 'Content-Type: text/plain\nContent-Length: 10\n\nshort'",
    "long": r"printf 'Content-Type: text/plain\nContent-Length: 4\n\nlonger'",
    "killed": "echo 'Content-Type: text/plain'; echo; echo begun; kill -9 $$",
    "killed-late": "echo 'Content-Type: text/plain'; echo; echo begun; sleep 0.2; kill -9 $$",
    "killed-before": "kill -9 $$",
    "failing": "echo 'Content-Type: text/plain'; echo; echo whole; exit 1",
    "nph-raw": r"printf 'HTTP/1.1 299 Own\r\nX-Own: yes\r\n\r\nraw'",
    "nph-wrong": "echo 'Content-Type: text/plain'; echo; echo wrong",
    "deaf": "echo 'Status: 413 Too much'; echo 'Content-Type: text/plain'; echo; echo full",
    "slow": "echo 'Content-Type: text/plain'; echo; echo first; read word < fifo; echo second",
    "stuck": "trap '' TERM PIPE; sleep 600 & echo $! > pid2; echo $$ > pid;"
    " echo 'Content-Type: text/plain'; echo; while true; do echo word; sleep 0.1; done",
    "mute": "sleep 600",
    "late": "echo 'Content-Type: text/plain'; echo; echo begun; sleep 600",
}
PYTHON = {
    "echo": """
import os, sys
length = int(os.environ.get("CONTENT_LENGTH", -1))
data = sys.stdin.buffer.read()
print("Content-Type: text/plain")
print(f"X-Length: {length} {len(data)}")
print(f"X-Coding: {os.environ.get('HTTP_TRANSFER_ENCODING')}\\n", flush=True)
sys.stdout.buffer.write(data)
""",
    "mirror": """
import os
os.write(1, b"Content-Type: text/plain\\n\\n")
while data := os.read(0, 65536):
    while data:
        data = data[os.write(1, data):]
""",
    "state": """
import os
print("Content-Type: text/plain\\n")
print(os.getpid() == os.getpgid(0), sorted(int(n) for n in os.listdir("/proc/self/fd"))[:4])
""",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A document root with all the programs."""
    found = tmp_path_factory.mktemp("root")
    (found / "cgi/auth").mkdir(parents=True)
    (found / "bare").mkdir()
    for name, text in SHELL.items():
        (found / "cgi" / name).write_text(f"#!/bin/sh\n{text}\n")
    for name, text in PYTHON.items():
        (found / "cgi" / name).write_text(f"#!{sys.executable}\n{text}\n")
    (found / "cgi/h\xe9llo").write_text("#!/bin/sh\necho 'Content-Type: a/b'; echo; env\n")
    for path in (found / "cgi").rglob("*"):
        path.chmod(0o755)
    (found / "cgi/unexecutable").write_text("#!/bin/sh\n")
    (found / "cgi/not-a-program").write_text("echo\n")
    (found / "cgi/not-a-program").chmod(0o755)
    os.mkfifo(found / "cgi/fifo")
    return found


@pytest.fixture(scope="module", params=["prefork", "event"])
def host(request: Any, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosted]:
    folder = tmp_path_factory.mktemp(f"host-{request.param}")
    with hosting(folder, CONFIGURATION.format(root=root), request.param) as hosted:
        yield hosted


def raw(host: Hosted, request: bytes) -> bytes:
    """Return all that comes for the bytes *request* until the connection ends."""
    with socket.create_connection(host.address, timeout=20) as connection:
        connection.sendall(request)
        got = b""
        try:
            while data := connection.recv(65536):
                got += data
        except ConnectionResetError:
            got += b"<reset>"
        return got


def get(path: str, *fields: str) -> bytes:
    """Return a GET request of one connection."""
    return "\r\n".join(
        [f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *fields, "\r\n"]
    ).encode()


def environ_of(body: bytes) -> dict[str, str]:
    """Return what ``env`` printed."""
    return dict(line.split("=", 1) for line in body.decode("latin-1").splitlines() if "=" in line)


# -- what a program gets --------------------------------------------------------------------------


def test_meta_variables_are_apaches_and_nothing_else_is_in_the_environment(
    host: Hosted, root: Path
) -> None:
    answer = host.request(
        "GET", "/cgi/env/more%20path?q=%20x", headers={"Proxy": "evil", "X-A": "b"}
    )
    environ = environ_of(answer.body)
    expected = {
        "SCRIPT_NAME": "/cgi/env",
        "PATH_INFO": "/more path",
        "PATH_TRANSLATED": f"{root}/more path",
        "SCRIPT_FILENAME": f"{root}/cgi/env",
        "DOCUMENT_ROOT": str(root),
        "QUERY_STRING": "q=%20x",
        "REQUEST_URI": "/cgi/env/more%20path?q=%20x",
        "REQUEST_METHOD": "GET",
        "GATEWAY_INTERFACE": "CGI/1.1",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": str(host.port),
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_X_A": "b",
    }
    assert {name: environ.get(name) for name in expected} == expected
    ours = {"PATH", "PWD", "SHLVL", "_", "OLDPWD", "TZ"}
    others = set(environ) - set(expected) - ours
    allowed = ("HTTP_", "SERVER_", "REMOTE_PORT", "REQUEST_SCHEME")
    assert [name for name in others if not name.startswith(allowed)] == []
    assert "HTTP_PROXY" not in environ
    assert "PYTHONPATH" not in environ  # the host itself has it
    assert "CONTENT_LENGTH" not in environ


def test_a_path_that_is_not_ascii_arrives_as_its_bytes(host: Hosted, root: Path) -> None:
    body = host.get("/cgi/h%C3%A9llo/%C3%A9").body
    lines = body.split(b"\n")
    assert b"SCRIPT_NAME=/cgi/h\xc3\xa9llo" in lines
    assert b"PATH_INFO=/\xc3\xa9" in lines
    assert b"SCRIPT_FILENAME=%s/cgi/h\xc3\xa9llo" % os.fsencode(root) in lines
    assert b"PATH_TRANSLATED=%s/\xc3\xa9" % os.fsencode(root) in lines


def test_credentials_are_shown_only_where_cgipassauth_says_so(host: Hosted) -> None:
    assert b"HTTP_AUTHORIZATION" not in host.get("/cgi/env", Authorization="Basic eA==").body
    assert (
        b"HTTP_AUTHORIZATION=Basic eA=="
        in host.get("/cgi/auth/env", Authorization="Basic eA==").body
    )


@pytest.mark.parametrize("query", ["-s", "x+y+-s", "--help", "a%20b"])
def test_words_of_the_query_never_become_arguments_cve_2012_1823(host: Hosted, query: str) -> None:
    assert host.get(f"/cgi/arguments?{query}").body == b"0:\n"


def test_a_program_runs_in_its_directory_in_its_own_group_without_other_descriptors(
    host: Hosted, root: Path
) -> None:
    assert host.get("/cgi/where").body.splitlines()[0] == os.fsencode(root / "cgi")
    # 3 is the directory that it looks at.
    assert host.get("/cgi/state").body == b"True [0, 1, 2, 3]\n"
    lines = host.get("/cgi/signals").body.splitlines()
    fields = dict(line.split(b":\t", 1) for line in lines if line.startswith(b"Sig"))
    ignored = int(fields[b"SigIgn"], 16)
    for number in (signal.SIGPIPE, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        assert not ignored & 1 << number - 1, number
    assert int(fields[b"SigBlk"], 16) == 0


@pytest.mark.parametrize("size", [0, 5, 70_000, 1_000_000])
def test_the_body_is_on_its_standard_input(host: Hosted, size: int) -> None:
    body = os.urandom(size)
    answer = host.request("POST", "/cgi/echo", body, {"Content-Length": str(size)})
    assert answer.getheader("X-Length") == f"{size} {size}"
    assert answer.body == body


def test_a_body_in_chunks_has_its_length_and_no_coding(host: Hosted) -> None:
    answer = host.request("POST", "/cgi/echo", iter([b"one", b"two" * 50_000]))
    assert answer.getheader("X-Length") == "150003 150003"
    assert answer.getheader("X-Coding") == "None"
    assert answer.body == b"one" + b"two" * 50_000


def test_a_client_that_sends_all_before_it_reads_stops_nobody(host: Hosted) -> None:
    body = os.urandom(1 << 20) * 24  # more than sockets and pipes hold
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.settimeout(20)
        connection.connect(host.address)
        connection.sendall(b"POST /cgi/mirror HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body))
        connection.sendall(body)
        got = bytearray()
        while data := connection.recv(1 << 20):
            got += data
    assert got.partition(b"\r\n\r\n")[2] == body


def test_the_body_waits_for_100_continue(host: Hosted) -> None:
    with socket.create_connection(host.address, timeout=20) as connection:
        connection.sendall(
            b"POST /cgi/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n"
            b"Expect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        file = connection.makefile("rb")
        assert file.readline() == b"HTTP/1.1 100 Continue\r\n"
        connection.sendall(b"~" * 100_000)
        assert file.read().count(b"~") == 100_000


def test_a_program_that_does_not_read_answers_before_the_body_has_come(host: Hosted) -> None:
    with socket.create_connection(host.address, timeout=20) as connection:
        connection.sendall(b"POST /cgi/deaf HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n")
        connection.sendall(b"x" * 1000)
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 Too much\r\n")


# -- what it answers ------------------------------------------------------------------------------


def test_a_document(host: Hosted) -> None:
    answer = host.get("/cgi/hello")
    assert (answer.status, answer.getheader("Content-Type"), answer.body) == (
        200,
        "text/plain",
        b"hello\n",
    )


def test_head_has_the_head_alone(host: Hosted) -> None:
    answer = host.request("HEAD", "/cgi/hello")
    assert (answer.status, answer.getheader("Content-Type"), answer.body) == (
        200,
        "text/plain",
        b"",
    )


def test_status_with_and_without_a_reason(host: Hosted) -> None:
    answer = host.get("/cgi/crlf")
    assert (answer.status, answer.reason, answer.body) == (201, "Made", b"body\r\n")
    answer = host.get("/cgi/missing")
    assert (answer.status, answer.reason, answer.body) == (404, "Gone fishing", b"no\n")


def test_location_alone_is_a_redirect_of_the_client(host: Hosted) -> None:
    answer = host.get("/cgi/away")
    assert (answer.status, answer.getheader("Location")) == (302, "http://elsewhere.test/x")
    answer = host.get("/cgi/away-page")
    assert (answer.status, answer.getheader("Location")) == (307, "/cgi/hello")
    assert answer.body == b"page\n"


def test_a_local_redirect_is_served_as_a_get_without_a_body(host: Hosted) -> None:
    answer = host.request("POST", "/cgi/local", b"x" * 100_000)
    environ = environ_of(answer.body)
    assert answer.status == 200
    assert answer.getheader("Set-Cookie") == "a=b"
    assert answer.getheader("Location") is None
    assert environ["REQUEST_METHOD"] == "GET"
    assert environ["QUERY_STRING"] == "x=y"
    assert environ["REDIRECT_URL"] == "/cgi/local"
    assert environ["REDIRECT_STATUS"] == "200"
    assert "CONTENT_LENGTH" not in environ


def test_local_redirects_in_a_circle_end(host: Hosted) -> None:
    assert host.get("/cgi/for-ever").status == 500
    assert "exceeded the limit of 10 internal redirects" in host.log


def test_output_is_sent_as_it_comes(host: Hosted, root: Path) -> None:
    with socket.create_connection(host.address, timeout=20) as connection:
        connection.sendall(get("/cgi/slow"))
        got = b""
        while b"first\n" not in got:
            got += connection.recv(65536)
        (root / "cgi/fifo").write_text("go\n")
        while data := connection.recv(65536):
            got += data
        assert b"second\n" in got


def test_messages_go_to_the_error_log_line_by_line(host: Hosted) -> None:
    assert host.get("/cgi/says").body == b"said\n"
    until(lambda: "tw" in host.log)
    lines = host.log.splitlines()
    assert any(line.endswith("/cgi/says: one") for line in lines)
    assert any(line.endswith(r"/cgi/says: tw\x1bo") for line in lines)


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/cgi/silent", 500, "End of script output before headers"),
        ("/cgi/killed-before", 500, "killed by signal 9"),
        ("/cgi/no-head", 500, "Bad header: 'this is no header'"),
        ("/cgi/injected", 500, "control character in X-A"),
        ("/cgi/folded", 500, "Bad header: '  c: d'"),
        ("/cgi/typeless", 500, "no Content-Type, no Location, no Status"),
        ("/cgi/twice", 500, "Status comes twice"),
        ("/cgi/early", 500, "Status is '100 Continue'"),
        ("/cgi/endless-head", 500, "larger than 65536 bytes"),
        ("/cgi/nph-wrong", 500, "malformed header from nph script"),
        ("/cgi/not-a-program", 500, "couldn't create child process"),
        ("/cgi/unexecutable", 403, "file permissions deny server execution"),
        ("/cgi/auth", 403, "attempt to invoke directory as script"),
        ("/cgi/absent", 404, ""),
    ],
)
def test_what_is_wrong_is_answered_and_logged(
    host: Hosted, path: str, status: int, said: str
) -> None:
    answer = host.get(path)
    assert answer.status == status
    assert answer.getheader("Set-Cookie") is None
    assert said in host.log
    assert host.get("/cgi/hello").status == 200


@pytest.mark.parametrize(
    ("path", "said"),
    [("/cgi/killed", b"begun\n"), ("/cgi/short", b"short"), ("/cgi/killed-late", b"begun\n")],
)
def test_an_answer_that_was_not_finished_is_cut_so_that_the_client_sees_it(
    host: Hosted, path: str, said: bytes
) -> None:
    head, _, body = raw(host, get(path)).partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 500 "):
        assert said not in body  # it had not left yet: there could be a better answer
    elif b"Content-Length: 10" in head:
        assert len(body.replace(b"<reset>", b"")) < 10
    else:
        assert b"Transfer-Encoding: chunked" in head
        assert not body.endswith(b"0\r\n\r\n")


def test_a_status_of_failure_alone_cuts_nothing(host: Hosted) -> None:
    assert host.get("/cgi/failing").body == b"whole\n"


def test_what_exceeds_the_content_length_is_cut_off(host: Hosted) -> None:
    assert host.get("/cgi/long").body == b"long"
    assert "longer than its Content-Length" in host.log


def test_the_programs_own_framing_is_not_the_clients(host: Hosted) -> None:
    assert host.get("/cgi/chunked").body == b"plain"


def test_a_program_that_is_not_parsed_has_the_connection(host: Hosted) -> None:
    assert raw(host, get("/cgi/nph-raw")) == b"HTTP/1.1 299 Own\r\nX-Own: yes\r\n\r\nraw"


# -- time -----------------------------------------------------------------------------------------


def alive(pid: int) -> bool:
    """Whether *pid* runs and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_when_the_client_goes_the_whole_group_of_the_program_ends(host: Hosted, root: Path) -> None:
    for name in ("pid", "pid2"):
        (root / "cgi" / name).unlink(missing_ok=True)
    connection = socket.create_connection(host.address, timeout=20)
    connection.sendall(get("/cgi/stuck"))
    assert connection.recv(65536)
    until(lambda: (root / "cgi/pid2").exists() and (root / "cgi/pid2").read_text())
    pids = [int((root / "cgi" / name).read_text()) for name in ("pid", "pid2")]
    assert all(map(alive, pids))
    connection.close()
    until(lambda: not any(map(alive, pids)), what="the end of the group, TERM being ignored")


@pytest.fixture(scope="module", params=["prefork", "event"])
def hasty(request: Any, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosted]:
    """A host with a short Timeout."""
    text = CONFIGURATION.format(root=root).replace("Timeout 20", "Timeout 1")
    with hosting(tmp_path_factory.mktemp("hasty"), text, request.param) as hosted:
        yield hosted


def test_a_silent_program_is_a_504_and_one_that_falls_silent_is_cut(hasty: Hosted) -> None:
    assert hasty.get("/cgi/mute").status == 504
    got = raw(hasty, get("/cgi/late"))
    assert not got.endswith(b"0\r\n\r\n")
    assert "Timeout waiting for output" in hasty.log


def test_a_client_that_stops_sending_is_a_408(hasty: Hosted) -> None:
    head = b"POST /cgi/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\nsome"
    assert raw(hasty, head).startswith(b"HTTP/1.1 408 ")


# -- who may be started ---------------------------------------------------------------------------


def test_without_execcgi_nothing_is_started(tmp_path: Path, root: Path) -> None:
    text = CONFIGURATION.format(root=root).replace("Options ExecCGI", "Options None")
    with hosting(tmp_path, text) as hosted:
        assert hosted.get("/cgi/hello").status == 403
        assert "Options ExecCGI is off" in hosted.log


def test_scriptalias_needs_no_execcgi(tmp_path: Path, root: Path) -> None:
    pytest.importorskip("sapi_adapters.httpd.modules.mod_alias")
    text = (
        "LoadModule cgi_module mod_cgi\nLoadModule alias_module mod_alias\n"
        f"DocumentRoot {root}/bare\nScriptAlias /run/ {root}/cgi/\n"
    )
    with hosting(tmp_path, text) as hosted:
        answer = hosted.get("/run/env/x")
        assert environ_of(answer.body)["SCRIPT_NAME"] == "/run/env"
        assert environ_of(answer.body)["PATH_TRANSLATED"] == f"{root}/bare/x"


# -- our own adapter ------------------------------------------------------------------------------

WSGI = """
def application(environ, start_response):
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Path", environ["PATH_INFO"])])
    return [environ["SCRIPT_NAME"].encode(), b" wsgi ", body]
"""
ASGI = """
async def application(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("http alone")
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 201, "headers": [
        (b"content-type", b"text/plain"), (b"x-path", scope["path"].encode())]})
    body = scope["root_path"].encode() + b" asgi " + body
    await send({"type": "http.response.body", "body": body})
"""
REDIRECTING = """
def application(environ, start_response):
    start_response("302 Found", [("Location", "/cgi/hello")])
    return []
"""


@pytest.fixture(params=["prefork", "event"])
def own(request: Any, tmp_path: Path, root: Path) -> Iterator[Hosted]:
    """A host with scripts of three lines."""
    scripts = tmp_path / "cgi"
    scripts.mkdir()
    for name, text in (("wsgi", WSGI), ("asgi", ASGI), ("redirecting", REDIRECTING)):
        (scripts / f"{name}_app.py").write_text(text)
        script = scripts / f"{name}.cgi"
        script.write_text(
            f"#!{sys.executable}\nfrom {name}_app import application\n"
            "from sapi_adapters import run\nrun(application)\n"
        )
        script.chmod(0o755)
    with hosting(tmp_path, CONFIGURATION.format(root=tmp_path), request.param) as hosted:
        yield hosted


def test_the_three_line_script_serves_wsgi_and_asgi(own: Hosted) -> None:
    for kind, status in (("wsgi", 200), ("asgi", 201)):
        answer = own.request("POST", f"/cgi/{kind}.cgi/some/path", b"body" * 50_000)
        assert answer.status == status, own.log
        assert answer.body == f"/cgi/{kind}.cgi {kind} ".encode() + b"body" * 50_000
        assert (answer.getheader("X-Path") or "").endswith("/some/path")


def test_its_redirects_are_the_clients(own: Hosted) -> None:
    answer = own.get("/cgi/redirecting.cgi")
    assert (answer.status, answer.getheader("Location")) == (302, "/cgi/hello")


def test_several_at_once(host: Hosted) -> None:
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(host.get("/cgi/hello").body))
        for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [b"hello\n"] * 12
