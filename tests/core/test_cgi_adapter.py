"""The SAPI ``cgi``: called in this process with streams, and as a web server starts it."""

from __future__ import annotations

import io
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sapi_adapters import run
from sapi_adapters.sapi import ConfigurationError

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = 30
ENVIRON = {
    "GATEWAY_INTERFACE": "CGI/1.1",
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "/cgi-bin/app.py",
    "PATH_INFO": "/",
    "QUERY_STRING": "",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.1",
}


class Answer(NamedTuple):
    status: int
    output: bytes
    errors: str

    @property
    def head(self) -> list[str]:
        head, found, _ = self.output.partition(b"\r\n\r\n")
        assert found, self
        return head.decode("latin-1").split("\r\n")

    @property
    def code(self) -> int:
        (line,) = [line for line in self.head if line.startswith("Status: ")]
        return int(line[8:11])

    @property
    def body(self) -> bytes:
        return self.output.partition(b"\r\n\r\n")[2]


# -- called in this process -----------------------------------------------------------------------


def called(application: Any, stdin: bytes | None = b"", **variables: str | None) -> Answer:
    environ = {**ENVIRON, **variables}
    stdout, stderr = io.BytesIO(), io.StringIO()
    options: dict[str, Any] = {} if stdin is None else {"stdin": io.BytesIO(stdin)}
    status = run(
        application,
        sapi="cgi",
        environ={name: value for name, value in environ.items() if value is not None},
        stdout=stdout,
        stderr=stderr,
        **options,
    )
    return Answer(status, stdout.getvalue(), stderr.getvalue())


def reading(environ: Any, start_response: Any) -> list[bytes]:
    data = environ["wsgi.input"].read()
    start_response("200 OK", [])
    return [data]


async def areading(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    data, more = b"", True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            data += b" disconnect"
            break
        data, more = data + event["body"], event["more_body"]
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": data})


def showing(*names: str) -> Any:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [repr([environ.get(name) for name in names]).encode()]

    return application


def answering(status: str, *headers: tuple[str, str]) -> Any:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response(status, list(headers))
        return [b"body"]

    return application


@pytest.mark.parametrize("application", [reading, areading])
@pytest.mark.parametrize(
    ("length", "stdin", "body"),
    [
        ("5", b"hello", b"hello"),
        ("5", b"hello and more", b"hello"),
        ("0", b"hello", b""),
        ("", b"hello", b""),
        (None, b"hello", b""),
        (None, None, b""),
    ],
)
def test_the_body_is_content_length_bytes(application, length, stdin, body):
    answer = called(application, stdin, REQUEST_METHOD="POST", CONTENT_LENGTH=length)
    assert (answer.status, answer.code, answer.body) == (0, 200, body)


def test_a_body_cut_short_raises_and_the_process_fails():
    answer = called(reading, b"hello", REQUEST_METHOD="POST", CONTENT_LENGTH="10")
    assert (answer.status, answer.output, answer.errors) == (1, b"", "")


def test_a_body_cut_short_is_a_disconnect():
    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        seen.extend([await receive(), await receive(), await receive()])

    seen: list[Any] = []
    called(application, b"hello", REQUEST_METHOD="POST", CONTENT_LENGTH="10")
    assert [event["type"] for event in seen[-2:]] == ["http.disconnect"] * 2


def test_a_read_that_fails_is_a_client_that_has_gone():
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    stdout = io.BytesIO()
    environ = {**ENVIRON, "CONTENT_LENGTH": "5"}
    status = run(reading, "cgi", environ=environ, stdin=Broken(), stdout=stdout)
    assert (status, stdout.getvalue()) == (1, b"")


@pytest.mark.parametrize("length", ["+5", " 5", "5_0", "\xd9\xa5", "-1", "5,5"])
def test_a_content_length_that_is_no_number_is_400_without_the_application(length):
    answer = called(showing("x"), b"hello", CONTENT_LENGTH=length)
    assert (answer.status, answer.code, answer.body) == (0, 400, b"400 Bad Request\n")
    assert "CONTENT_LENGTH" in answer.errors


@pytest.mark.parametrize("missing", ["REQUEST_METHOD", "SERVER_PROTOCOL", "SCRIPT_NAME"])
def test_what_the_server_left_out_breaks_nothing(missing):
    answer = called(showing("SCRIPT_NAME"), **{missing: None})
    assert answer.code == (400 if missing == "REQUEST_METHOD" else 200)
    assert answer.status == 0


def test_a_refusal_of_head_has_no_body():
    answer = called(reading, REQUEST_METHOD="HEAD", CONTENT_LENGTH="x")
    assert (answer.code, answer.body) == (400, b"")


@pytest.mark.parametrize(
    ("variables", "names", "values"),
    [
        ({"PATH_INFO": "/\xc3\xa9"}, ("PATH_INFO",), ["/\xc3\xa9"]),
        ({"PATH_INFO": None}, ("SCRIPT_NAME", "PATH_INFO"), ["/cgi-bin/app.py", ""]),
        ({"HTTP_PROXY": "http://evil/"}, ("HTTP_PROXY",), [None]),
        ({"SERVER_PROTOCOL": "INCLUDED"}, ("SERVER_PROTOCOL",), ["HTTP/1.0"]),
        ({}, ("wsgi.run_once", "wsgi.multiprocess", "wsgi.multithread"), [True, True, False]),
        ({}, ("sapi.name",), ["cgi"]),
        ({"REDIRECT_STATUS": "200"}, ("REDIRECT_STATUS",), ["200"]),
    ],
)
def test_the_environ(variables, names, values):
    assert called(showing(*names), **variables).body == repr(values).encode()


def test_the_path_of_the_scope_is_text():
    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": repr(scope["path"]).encode()})

    answer = called(application, PATH_INFO="/\xc3\xa9")
    assert answer.body == repr("/cgi-bin/app.py/é").encode()


@pytest.mark.parametrize(
    ("script_name", "path", "names"),
    [
        ("/app", "/app/x", ["/app", "/x"]),
        ("/app/", "/app/x", ["/app", "/x"]),
        ("/app", "/application", ["", "/application"]),
        ("/é", "/\xc3\xa9/x", ["/\xc3\xa9", "/x"]),
        ("", "/app/x", ["", "/app/x"]),
        ("/", "/app/x", ["", "/app/x"]),
    ],
)
def test_a_mount_may_be_told(script_name, path, names):
    stdout = io.BytesIO()
    environ = {**ENVIRON, "SCRIPT_NAME": "", "PATH_INFO": path}
    application = showing("SCRIPT_NAME", "PATH_INFO")
    assert run(application, "cgi", environ=environ, stdout=stdout, script_name=script_name) == 0
    assert stdout.getvalue().endswith(repr(names).encode())


def test_a_mount_begins_with_a_slash():
    with pytest.raises(ConfigurationError, match="slash"):
        run(reading, "cgi", environ=ENVIRON, stdout=io.BytesIO(), script_name="app")


def test_streams_are_given_together():
    with pytest.raises(ConfigurationError, match="without stdout"):
        run(reading, "cgi", environ=ENVIRON, stdin=io.BytesIO())


def test_the_environ_that_was_given_stays_as_it_is():
    environ = {**ENVIRON, "HTTP_PROXY": "x"}
    run(reading, "cgi", environ=environ, stdout=io.BytesIO())
    assert environ == {**ENVIRON, "HTTP_PROXY": "x"}


def test_location_goes_with_its_status():
    """Else a front end takes a path for a redirect of its own (RFC 3875 §6.2.2)."""
    answer = called(answering("302 Found", ("Location", "/x")))
    assert {"Status: 302 Found", "Location: /x"} <= set(answer.head)
    assert answer.code == 302


@pytest.mark.parametrize(("error", "code"), [(ValueError("boom"), 500), (SystemExit(3), 500)])
def test_a_failing_application_is_500_and_a_whole_response(error, code):
    def application(environ: Any, start_response: Any) -> Any:
        raise error

    answer = called(application)
    assert (answer.status, answer.code) == (0, code)
    assert type(error).__name__ in answer.errors


def test_a_failure_after_the_head_fails_the_process():
    def application(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"x"
        raise ValueError("boom")

    answer = called(application)
    assert (answer.status, answer.body) == (1, b"x")
    assert "ValueError: boom" in answer.errors


def test_an_application_that_refuses_to_start_is_500_and_fails_the_process():
    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan", "never called for the request"
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    answer = called(application)
    assert (answer.status, answer.code) == (1, 500)
    assert "no database" in answer.errors


def test_what_cannot_be_loaded_passes_and_sends_nothing():
    stdout = io.BytesIO()
    with pytest.raises(ConfigurationError):
        run("nosuch:app", "cgi", environ=ENVIRON, stdout=stdout)
    assert stdout.getvalue() == b""


NPH = "/cgi-bin/nph-app.py"


@pytest.mark.parametrize(
    ("protocol", "headers", "first"),
    [
        ("HTTP/1.1", (), "HTTP/1.1 200 OK"),
        ("HTTP/1.0", (), "HTTP/1.0 200 OK"),
        ("INCLUDED", (), "HTTP/1.0 200 OK"),
        ("HTTP/1.1", (("Date", "mine"),), "HTTP/1.1 200 OK"),
    ],
)
def test_an_nph_script_writes_a_whole_http_head(protocol, headers, first):
    application = answering("200 OK", *headers)
    answer = called(application, SCRIPT_NAME=NPH, SERVER_PROTOCOL=protocol)
    assert answer.head[0] == first
    assert answer.output.count(b"\n") == answer.output.count(b"\r\n")
    names = [line.partition(":")[0] for line in answer.head[1:]]
    assert sorted(names) == ["Connection", "Content-Length", "Date"]
    (date,) = [line for line in answer.head if line.startswith("Date: ")]
    if headers:
        assert date == "Date: mine"
    else:
        time.strptime(date, "Date: %a, %d %b %Y %H:%M:%S GMT")


def test_an_nph_script_that_is_refused_answers_in_http_too():
    answer = called(reading, SCRIPT_NAME=NPH, CONTENT_LENGTH="x")
    assert answer.head[0] == "HTTP/1.1 400 Bad Request"


def test_a_stream_leaves_block_by_block():
    written: list[bytes] = []

    class Noting(io.BytesIO):
        def write(self, data: Any) -> int:
            written.append(bytes(data))
            return len(data)

    def application(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"a"
        assert written[0].endswith(b"\r\n\r\na"), "head and first block in one write"
        yield b"b"
        assert written[-1] == b"b"

    run(application, "cgi", environ=ENVIRON, stdout=Noting())


def test_short_writes_are_continued():
    class Narrow(io.RawIOBase):
        def __init__(self) -> None:
            self.data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.data += bytes(data[:7])
            return min(len(data), 7)

    stdout = Narrow()
    assert run(answering("200 OK"), "cgi", environ=ENVIRON, stdout=stdout) == 0
    assert stdout.data.endswith(b"\r\n\r\nbody")


def test_a_stream_that_tells_no_count_has_taken_all():
    class Silent(io.BytesIO):
        def write(self, data: Any) -> Any:
            super().write(data)

    stdout = Silent()
    assert run(answering("200 OK"), "cgi", environ=ENVIRON, stdout=stdout) == 0
    assert stdout.getvalue().endswith(b"\r\n\r\nbody")


# -- as a web server starts it --------------------------------------------------------------------

SCRIPT = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from sapi_adapters import run

def app(environ, start_response):
    path = environ["PATH_INFO"]
    import os
    if path == "/read":
        body = environ["wsgi.input"].read()
    elif path == "/argv":
        body = repr(sys.argv[1:]).encode()
    elif path == "/print":
        print("printed", flush=True)
        os.write(1, b"written")
        os.system("echo from a child")
        body = b"body"
    elif path == "/stdin":
        body = repr(os.read(0, 100)).encode()
    elif path == "/proxy":
        body = repr([environ.get("HTTP_PROXY"), os.environ.get("HTTP_PROXY"),
                     os.environ.get("http_proxy")]).encode()
        os.system('echo "child: $HTTP_PROXY"')
    elif path == "/bytes":
        body = repr([environ["QUERY_STRING"], environ["HTTP_X"]]).encode()
    elif path == "/big":
        body = b"x" * 3000000
    elif path == "/endless":
        return Endless(start_response)
    elif path == "/unread":
        body = b"never read"
    elif path == "/fds":
        body = repr([os.fstat(n).st_rdev for n in (0, 1, 2)]).encode()
    elif path == "/raise":
        raise ValueError("boom")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]

class Endless:
    def __init__(self, start_response):
        start_response("200 OK", [])
    def __iter__(self):
        while True:
            yield b"x" * 65536
    def close(self):
        sys.stderr.write("closed\\n")

sys.exit(run(app))
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("cgi-bin") / "app.py"
    path.write_text(SCRIPT)
    return path


@contextmanager
def start(
    script: Path, *words: str, path: str, environ: Any = None, **streams: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Start *script*; whatever becomes of the test, it does not outlive the block."""
    given = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    named = {**ENVIRON, "PATH_INFO": path, "PATH": os.environ["PATH"]}
    variables = {os.fsencode(name): value for name, value in named.items()}
    variables.update((os.fsencode(name), value) for name, value in (environ or {}).items())
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(script), *words], env=variables, **{**given, **streams}
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(SECONDS)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None and not stream.closed:
                stream.close()


def first(stream: Any) -> bytes:
    """Return the first bytes that come."""
    assert select.select([stream], [], [], SECONDS)[0], "nothing came"
    return os.read(stream.fileno(), 10)


def started(
    script: Path,
    *words: str,
    path: str,
    environ: Any = None,
    data: bytes = b"",
    **streams: Any,
) -> Answer:
    with start(script, *words, path=path, environ=environ, **streams) as process:
        output, errors = process.communicate(data or None, timeout=SECONDS)
        status = process.returncode
    return Answer(status, output or b"", (errors or b"").decode())


def with_open_stdin(script: Path, data: bytes, **options: Any) -> Answer:
    """Run with a standard input that never ends."""
    read, write = os.pipe()
    try:
        os.write(write, data)
        return started(script, stdin=read, **options)
    finally:
        os.close(read)
        os.close(write)


def post(length: int | str) -> dict[str, str]:
    return {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": str(length)}


def test_stdin_that_never_ends_keeps_nobody_waiting(script):
    answer = with_open_stdin(script, b"hello", path="/read", environ=post(5))
    assert (answer.status, answer.body, answer.errors) == (0, b"hello", "")
    answer = with_open_stdin(script, b"hello and the next", path="/read", environ=post(5))
    assert answer.body == b"hello"


@pytest.mark.parametrize("length", [None, ""])
def test_without_content_length_stdin_is_not_read(script, length):
    environ = {} if length is None else post(length)
    answer = with_open_stdin(script, b"hello", path="/read", environ=environ)
    assert (answer.status, answer.body) == (0, b"")


def test_stdin_that_ends_early_is_a_client_that_has_gone(script):
    answer = started(script, path="/read", environ=post(10), data=b"hello")
    assert (answer.status, answer.output, answer.errors) == (1, b"", "")


def test_a_big_body_goes_both_ways(script):
    data = os.urandom(1 << 20)
    answer = started(script, path="/read", environ=post(len(data)), data=data)
    assert (answer.status, answer.body) == (0, data)


@pytest.mark.parametrize(
    "words",
    [("-s",), ("--help",), ("--version",), ("--config=/etc/passwd",), ("-d", "x=y"), ("\xad-s",)],
)
def test_cve_2012_1823_cve_2024_4577_words_of_the_query_are_no_options(script, words):
    """Apache passes the words of an indexed query as arguments."""
    answer = started(script, *words, path="/argv", stdin=subprocess.DEVNULL)
    assert (answer.status, answer.code, answer.errors) == (0, 200, "")
    assert answer.body == ascii(list(words)).encode() or words == ("\xad-s",)


def test_what_the_application_prints_goes_to_the_error_log(script):
    answer = started(script, path="/print", stdin=subprocess.DEVNULL)
    assert (answer.status, answer.body) == (0, b"body")
    assert sorted(answer.errors.replace("written", "written\n").split()) == sorted(
        "printed written from a child".split()
    )


def test_standard_input_is_out_of_the_applications_reach(script):
    answer = started(script, path="/stdin", environ=post(5), data=b"hello")
    assert answer.body == b"b''"


def test_httpoxy_cve_2016_1000110_the_clients_proxy_reaches_nobody(script):
    environ = {"HTTP_PROXY": "http://evil/", "http_proxy": "http://operator/"}
    answer = started(script, path="/proxy", environ=environ, stdin=subprocess.DEVNULL)
    assert answer.body == b"[None, None, 'http://operator/']"
    assert answer.errors == "child: \n"


def test_the_environments_bytes_are_code_points(script):
    environ = {b"QUERY_STRING": b"a=\xc3\xa9", b"HTTP_X": b"\xff\x80"}
    answer = started(
        script,
        path="/bytes",
        environ=environ,
        stdin=subprocess.DEVNULL,
    )
    assert answer.body.decode() == repr(["a=\xc3\xa9", "\xff\x80"])


def test_apaches_mod_cgid_gives_one_connected_socket_for_both_ways(script):
    ours, theirs = socket.socketpair()
    with ours:
        ours.settimeout(SECONDS)
        streams = {"stdin": theirs.fileno(), "stdout": theirs.fileno()}
        with start(script, path="/read", environ=post(5), **streams) as process:
            theirs.close()
            ours.sendall(b"hello")
            answer = b"".join(iter(lambda: ours.recv(65536), b""))
            assert process.wait(SECONDS) == 0
            assert process.stderr.read() == b""
    assert answer.endswith(b"\r\n\r\nhello")


def test_over_a_socket_an_unread_body_does_not_destroy_the_response(script):
    """A socket closed with unread bytes resets the connection (M20)."""
    ours, theirs = socket.socketpair()
    body = b"x" * 100_000
    with ours:
        ours.settimeout(SECONDS)
        streams = {"stdin": theirs.fileno(), "stdout": theirs.fileno()}
        with start(script, path="/unread", environ=post(len(body)), **streams) as process:
            theirs.close()
            ours.sendall(body)
            process.wait(SECONDS)
            process.stderr.read()
            answer = b"".join(iter(lambda: ours.recv(65536), b""))
    assert answer.endswith(b"\r\n\r\nnever read")


def test_epipe_is_a_client_that_has_gone_close_is_called_and_the_exit_is_quiet(script):
    with start(script, path="/endless", stdin=subprocess.DEVNULL) as process:
        assert first(process.stdout)
        process.stdout.close()
        status = process.wait(SECONDS)
        assert process.stderr.read() == b"closed\n"
    assert status == 1


def test_a_pipe_that_does_not_block_gets_the_whole_response(script):
    """The flag is the open file's: whoever shares the pipe may have set it."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with start(script, path="/big", stdin=subprocess.DEVNULL, stdout=write) as process:
        os.close(write)
        output = b""
        with open(read, "rb", buffering=0) as pipe:
            while select.select([pipe], [], [], SECONDS)[0] and (data := pipe.read(65536)):
                output += data
        assert process.wait(SECONDS) == 0
        assert process.stderr.read() == b""
    assert output.endswith(b"x" * 3_000_000)


def closing(*numbers: int) -> Callable[[], None]:
    def close() -> None:
        for number in numbers:
            os.close(number)

    return close


@pytest.mark.parametrize("closed", [(0,), (2,), (0, 2)])
def test_closed_descriptors_are_filled_before_anything_can_take_their_place(script, closed):
    answer = started(script, path="/fds", preexec_fn=closing(*closed), stdin=subprocess.DEVNULL)
    assert answer.code == 200
    null = os.stat("/dev/null").st_rdev
    kinds = eval(answer.body)
    assert all(kinds[n] == null for n in closed)


@pytest.mark.parametrize("path", ["/read", "/raise", "/big", "/print"])
def test_without_a_standard_output_nobody_is_answered_and_nothing_breaks(script, path):
    answer = started(script, path=path, preexec_fn=closing(1), stdin=subprocess.DEVNULL)
    assert answer.output == b""
    assert "boom" in answer.errors or "Traceback" not in answer.errors


def test_all_descriptors_may_be_closed(script):
    answer = started(script, path="/raise", preexec_fn=closing(0, 1, 2))
    assert (answer.output, answer.errors) == (b"", "")


def test_a_script_that_fails_to_import_shows_its_traceback_and_exits_1(tmp_path):
    path = tmp_path / "app.py"
    path.write_text(SCRIPT.replace("def app", "import a_module_that_is_missing\ndef app"))
    answer = started(path, path="/read", stdin=subprocess.DEVNULL)
    assert (answer.status, answer.output) == (1, b"")
    assert "a_module_that_is_missing" in answer.errors


ASGI_SCRIPT = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from sapi_adapters import run, sapi_name

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({{"type": "lifespan.startup.complete"}})
        await receive()
        sys.stderr.write("shutdown\\n")
        return
    event = await receive()
    await send({{"type": "http.response.start", "status": 200}})
    await send({{"type": "http.response.body", "body": event["body"] or b"first",
                "more_body": True}})
    if scope["path"].endswith("/wait"):
        sys.stderr.write((await receive())["type"] + "\\n")
    await send({{"type": "http.response.body", "body": sapi_name().encode()}})
    sys.stderr.write("after\\n")

sys.exit(run(app))
"""


@pytest.fixture(scope="module", params=["", "import asyncio\n"], ids=["by hand", "on a loop"])
def asgi_script(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("cgi-bin") / "app.py"
    path.write_text(request.param + ASGI_SCRIPT)
    return path


def test_an_asgi_script_serves_works_on_and_shuts_down(asgi_script):
    answer = started(asgi_script, path="/", environ=post(5), data=b"hello ")
    assert (answer.status, answer.body) == (0, b"hellocgi")
    assert answer.errors == "after\nshutdown\n"


def test_an_asgi_script_that_waits_learns_that_the_client_has_gone(tmp_path):
    path = tmp_path / "app.py"
    path.write_text(ASGI_SCRIPT)
    with start(path, path="/wait", stdin=subprocess.DEVNULL) as process:
        assert first(process.stdout)
        process.stdout.close()
        process.wait(SECONDS)
        assert b"http.disconnect\n" in process.stderr.read()
