"""contrib/embed: applications run from C, with the example and with a driver that looks closer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NoReturn

import pytest

SOURCES = Path(__file__).parents[2] / "contrib" / "embed"
DRIVER = Path(__file__).with_name("embed_driver.c")
DEADLINE = 60.0

APPLICATION = '''
import asyncio
import gc
import itertools
import json
import os
import sys
import threading

from sapi_adapters import sapi_name

at_import = sapi_name()


def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/boom":
        raise ValueError("boom")
    body = environ["wsgi.input"]
    start_response("200 OK", [("X-Same", "1"), ("X-Same", "2")])
    if path == "/steps":
        return steps(body)
    if path == "/late":
        return late()
    if path == "/pipe":
        reader, writer = os.pipe()
        os.close(reader)
        try:
            os.write(writer, b"lost")
        except BrokenPipeError:
            return [b"broken pipe"]
    if path == "/endless":
        return itertools.repeat(b"one")
    if path == "/left":  # to a thread that outlives the request
        left.append(threading.Thread(target=after, args=(body, environ["wsgi.errors"])))
        left[0].start()
        return []
    if path == "/release":
        over.set()
        left[0].join(30)
    if path == "/environ":
        known = {key: value for key, value in environ.items() if type(value) in (str, bool)}
        known.update(names=[at_import, sapi_name()], body=body.read().decode(), path=sys.path)
        known.update(python=sys.executable)
        return [json.dumps(known).encode()]
    return [answer(path, environ["QUERY_STRING"], body.read())]


def answer(path, query, body):
    if path == "/blocks":
        if query == "collect":
            gc.collect()
        return b"%d" % sys.getallocatedblocks()
    return query.encode() + b" " + body


def steps(body):
    """What was written comes back as the body: it must have left before the next step."""
    for step in (b"one", b"two", b"three"):
        yield step
        assert body.read(len(step)) == step


def late():
    yield b"half"
    raise ValueError("late")


left = []
over = threading.Event()


def after(body, errors):
    over.wait(30)
    try:
        body.read()
    except OSError as error:
        print("afterwards", error, file=errors)


gone = asyncio.Event()


async def after_asgi(receive):
    await gone.wait()
    return await receive()


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        for stage in ("startup", "shutdown"):
            await receive()
            print(stage, flush=True)
            await send({"type": f"lifespan.{stage}.complete"})
        return
    path = scope["path"]
    if path == "/boom":
        raise ValueError("boom")
    headers = [(b"x-same", b"1"), (b"x-same", b"2")]
    start = {"type": "http.response.start", "status": 200, "headers": headers}
    if path == "/steps":
        await send(start)
        for step in (b"one", b"two", b"three"):
            await send({"type": "http.response.body", "body": step, "more_body": True})
            assert (await receive())["body"] == step
        await send({"type": "http.response.body"})
        return
    if path == "/endless":
        await send(start)
        while True:
            await send({"type": "http.response.body", "body": b"one", "more_body": True})
    if path == "/left":
        left.append(asyncio.ensure_future(after_asgi(receive)))
    if path == "/release":
        gone.set()
        await send(start)
        event = await asyncio.wait_for(left[0], 20)
        await send({"type": "http.response.body", "body": event["type"].encode()})
        return
    if path in ("/late", "/left"):
        await send(start)
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError("late")
    body, more = b"", True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise OSError("disconnect")
        body, more = body + event["body"], event["more_body"]
    await send(start)
    text = answer(path, scope["query_string"].decode(), body)
    if path == "/environ":
        names = [at_import, sapi_name(), scope["extensions"]["sapi"]["name"]]
        text = json.dumps({"names": names, "body": body.decode()}).encode()
    await send({"type": "http.response.body", "body": text})


def refuses(environ, start_response):
    raise SystemExit("not today")
'''

both = pytest.mark.parametrize("interface", ["wsgi", "asgi"])


def missing(what: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


def checked(command: list[str], directory: Path) -> None:
    done = subprocess.run(
        command,
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the example, the driver and applications."""
    for program in ("cc", "make"):
        if shutil.which(program) is None:
            missing(f"{program} is missing: apt install gcc libc6-dev make")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        missing("Python.h is missing: apt install libpython3-dev")
    version = sysconfig.get_config_var("VERSION")
    if not Path(sysconfig.get_config_var("BINDIR"), f"python{version}-config").exists():
        missing(f"python{version}-config is missing: apt install libpython3-dev")
    directory = tmp_path_factory.mktemp("embed")
    for source in ("Makefile", "example.c", "host.py", "sapi_embed.c", "sapi_embed.h"):
        shutil.copy(SOURCES / source, directory)
    make = ["make", f"PYTHON={sys.executable}", "CC=cc", "CFLAGS=-O1 -g -Werror -pthread"]
    checked(make, directory)
    shutil.move(directory / "example", directory / "first")
    shutil.copy(DRIVER, directory / "example.c")
    checked(make, directory)
    shutil.move(directory / "example", directory / "driver")
    shutil.move(directory / "first", directory / "example")
    (directory / "app.py").write_text(APPLICATION)
    (directory / "broken.py").write_text("raise RuntimeError('cannot be\\nimported')\n")
    (directory / "leaving.py").write_text("raise SystemExit(0)\n")
    return directory


def run(built: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(built / command[0]), *command[1:]],
        cwd=built,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def driven(built: Path, *arguments: str) -> list[str]:
    """The lines that the driver prints."""
    done = run(built, "driver", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line not in ("startup", "shutdown")]


# -- the example


@both
def test_the_example_prints_a_response(built: Path, interface: str) -> None:
    done = run(built, "example", f"app:{interface}", "GET", "/echo?a=%20b")
    lines = [line.lower() for line in done.stdout.splitlines() if "up" not in line[-4:]]
    assert lines[:3] == ["http/1.1 200 ok", "x-same: 1", "x-same: 2"]
    assert done.stdout.count("\n\na=%20b ") == 1
    assert (done.returncode, done.stderr) == (0, "")


@both
def test_the_application_knows_its_sapi(built: Path, interface: str) -> None:
    done = run(built, "example", f"app:{interface}", "POST", "/environ", "a=b")
    _, _, body = done.stdout.partition("\n\n")
    answer = json.loads(body.partition("}")[0] + "}")
    assert set(answer["names"]) == {"embed"}
    assert answer["body"] == "a=b"


def test_the_environment_is_complete(built: Path) -> None:
    done = run(built, "example", "app:wsgi", "POST", "/environ/%C3%A9?q=1", "a=b")
    assert done.stdout.endswith("q=1 a=b")
    done = run(built, "example", "app:wsgi", "POST", "/environ?q=%201", "a=b")
    environ = json.loads(done.stdout.partition("\n\n")[2])
    expected = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/environ",
        "QUERY_STRING": "q=%201",
        "REQUEST_URI": "/environ?q=%201",
        "CONTENT_TYPE": "application/x-www-form-urlencoded",
        "CONTENT_LENGTH": "3",
        "HTTP_USER_AGENT": "example",
        "REMOTE_USER": "ada",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "sapi.name": "embed",
        "wsgi.url_scheme": "http",
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    assert {name: environ.get(name) for name in expected} == expected
    assert environ["path"][0] == str(built)
    assert environ["python"] == sys.executable


@both
def test_an_application_that_raises_is_answered_with_500(built: Path, interface: str) -> None:
    done = run(built, "example", f"app:{interface}", "GET", "/boom")
    assert "HTTP/1.1 500 Internal Server Error\n" in done.stdout
    assert done.returncode == 0
    assert done.stderr.startswith("request <3> application raised: GET /boom\nTraceback")
    assert done.stderr.endswith("ValueError: boom\n")


@both
def test_a_response_that_breaks_off_is_an_error(built: Path, interface: str) -> None:
    done = run(built, "example", f"app:{interface}", "GET", "/late")
    assert "\n\nhalf" in done.stdout
    assert done.returncode == 1
    assert done.stderr.endswith("example: the application cut its response\n")


@pytest.mark.parametrize(
    ("application", "said"),
    [
        ("app", "'app' is no application: write MODULE:ATTRIBUTE, like app:wsgi"),
        ("app:nothing", "module 'app' has no attribute 'nothing'"),
        ("nowhere:app", "there is no module 'nowhere' (looked along sys.path)"),
        ("app:at_import", "'app:at_import' is not callable"),
        ("broken:app", "RuntimeError: cannot be imported"),
        ("leaving:app", "SystemExit: 0"),
    ],
)
def test_an_application_that_cannot_be_had_is_named(
    built: Path, application: str, said: str
) -> None:
    done = run(built, "example", application, "GET", "/")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == f"example: {said}"


def test_an_application_that_exits_does_not_end_the_program(built: Path) -> None:
    done = run(built, "example", "app:refuses", "GET", "/")
    assert (done.returncode, done.stdout[:12]) == (0, "HTTP/1.1 500")
    assert done.stderr.endswith("SystemExit: not today\n")


def test_a_broken_pipe_does_not_end_the_program(built: Path) -> None:
    done = run(built, "example", "app:wsgi", "GET", "/pipe")
    assert (done.returncode, done.stdout[-11:]) == (0, "broken pipe")


def test_a_wrong_use_of_the_example_is_told(built: Path) -> None:
    done = run(built, "example", "app:wsgi")
    assert done.returncode == 2
    assert done.stderr.startswith("usage:")


# -- the driver


@both
def test_what_is_flushed_arrives_at_once(built: Path, interface: str) -> None:
    """read_post gives back what ub_write got, which the application waits for."""
    lines = driven(built, "show", f"app:{interface}", "POST", "/steps", "e", "4000")
    assert lines[0] == "head 200 OK"
    assert [line.lower() for line in lines[1:3]] == ["  x-same=1", "  x-same=2"]
    assert lines[-1] == "code 0 "
    steps = [line for line in lines if line.startswith(("write", "read"))]
    steps = [step for step in steps if step != "read 0"]
    assert steps == ["write one", "read 3", "write two", "read 3", "write three", "read 5"]
    assert lines[lines.index("write one") + 1] == "flush"


@both
def test_a_client_that_has_gone_ends_the_body(built: Path, interface: str) -> None:
    lines = driven(built, "show", f"app:{interface}", "POST", "/body", "g", "4000")
    if interface == "wsgi":
        assert lines == ["code 4 the application cut its response"]
    else:  # which is told by an event, and raises
        assert lines[0] == "log 3 request: application raised: POST /body"
        assert lines[1] == "head 500 Internal Server Error"


@both
@pytest.mark.parametrize(("gives_up", "writes"), [("e", ["one", "two"]), ("h", [])])
def test_a_program_that_takes_no_more_ends_the_response(
    built: Path, interface: str, gives_up: str, writes: list[str]
) -> None:
    lines = driven(built, "show", f"app:{interface}", "POST", "/steps", gives_up, "4")
    assert lines[-1] == "code 4 the program did not take the whole response"
    written = [line.partition(" ")[2] for line in lines if line.startswith("write")]
    assert written == writes


@both
def test_an_endless_response_ends_when_the_program_takes_no_more(
    built: Path, interface: str
) -> None:
    lines = driven(built, "show", f"app:{interface}", "GET", "/endless", "-", "4")
    assert lines[-1] == "code 4 the program did not take the whole response"
    assert lines.count("write one") == 2


@both
def test_without_slots_the_standard_streams_are_used(built: Path, interface: str) -> None:
    done = run(built, "driver", "bare", f"app:{interface}", "/echo?x")
    said = "x " if interface == "wsgi" else "startup\nx shutdown\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "code 0 \n")
    done = run(built, "driver", "bare", f"app:{interface}", "/boom")
    assert "500 Internal Server Error" in done.stdout
    assert done.stderr.startswith("application raised: GET /boom\nTraceback")
    assert done.stderr.endswith("ValueError: boom\ncode 0 \n")


def test_a_standard_output_that_takes_no_more_cuts_the_response(built: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [str(built / "driver"), "bare", "app:wsgi", "/echo?x"],
            cwd=built,
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
    assert done.stderr == "code 4 the program did not take the whole response\n"


@both
def test_requests_in_several_threads(built: Path, interface: str) -> None:
    assert driven(built, "threads", f"app:{interface}", "1000") == ["well"] * 4


@both
def test_a_slot_may_wait_for_another_thread(built: Path, interface: str) -> None:
    lines = driven(built, "show", f"app:{interface}", "POST", "/echo?here", "t", "4000")
    assert "elsewhere 0 elsewhere " in lines
    assert lines[-1] == "code 0 "


@both
def test_requests_leave_nothing_behind(built: Path, interface: str) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("the resident size is read from /proc")
    requests = 5000
    lines = driven(built, "leak", f"app:{interface}", f"{requests}")
    blocks, kibibytes = map(int, lines[0].split())
    assert blocks < requests / 2
    assert kibibytes < requests / 5


@pytest.mark.parametrize(
    ("interface", "lines"),
    [
        ("wsgi", ["log 5 process: afterwards the request is over", " "]),
        ("asgi", ["log 3 request: application raised: POST /left", "http.disconnect"]),
    ],
)
def test_what_is_left_behind_does_not_reach_the_program(
    built: Path, interface: str, lines: list[str]
) -> None:
    assert driven(built, "left", f"app:{interface}") == lines


def test_the_life_span_is_around_the_requests(built: Path) -> None:
    done = run(built, "driver", "show", "app:asgi", "GET", "/echo", "-", "4000")
    lines = done.stdout.splitlines()
    assert lines.index("startup") < lines.index("code 0 ") < lines.index("shutdown")


@both
def test_wrong_calls_are_answered(built: Path, interface: str) -> None:
    assert driven(built, "misuse", f"app:{interface}") == [
        "request before: 1 sapi_embed is not initialised",
        "shutdown before: 1 sapi_embed is not initialised",
        "no name: 2 no application was named",
        "no python: 2 /nowhere/python cannot be run: No such file or directory",
        "no module: 2 there is no module 'nowhere' (looked along sys.path)",
        "no interface: 2 interface 'cgi' is none of auto, wsgi, asgi, asgi2",
        "init twice: 1 sapi_embed is initialised already",
        "shutdown elsewhere: 1 only the thread that initialised may shut down",
        "no request: 2 the request has no uri",
        "bad method: 2 'G T' is no request method",
        "bad uri: 2 'no-slash' is no path: it must begin with a slash",
        "bad header: 2 request header: header 'Transfer-Encoding' belongs to one connection:"
        " only servers set it",
        "bad length: 2 CONTENT_LENGTH 'ten' is not a number",
        "shutdown in a request: 1 requests are running",
        "request after all: 0 ",
        "init again: 1 Python cannot start twice in a process",
        "request after the end: 1 sapi_embed is not initialised",
        "shutdown again: 1 sapi_embed is not initialised",
    ]
