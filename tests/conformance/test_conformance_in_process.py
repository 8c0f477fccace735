"""The conformance table without a web server: embedded, as a CGI call, and by the command line."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sapi_adapters import Embed, run
from sapi_adapters.testing import (
    Case,
    Request,
    Response,
    Send,
    asgi_app,
    cases,
    cgi_environ,
    cgi_response,
    wsgi_app,
)

ROOT = Path(__file__).resolve().parent.parent.parent
APPS: Mapping[str, Any] = {"wsgi": wsgi_app, "asgi": asgi_app}
MOUNT = "/mount"


@contextlib.contextmanager
def embedded(interface: str, directory: Path) -> Iterator[Send]:
    with Embed(APPS[interface]) as host:

        def send(request: Request) -> Response:
            answer = host.request(
                request.method,
                request.target,
                headers=list(request.headers),
                body=request.body or b"",
            )
            return Response(answer.status, answer.reason, answer.headers, answer.body)

        yield send


@contextlib.contextmanager
def called(interface: str, directory: Path) -> Iterator[Send]:
    def send(request: Request) -> Response:
        stdout = io.BytesIO()
        status = run(
            APPS[interface],
            sapi="cgi",
            environ=cgi_environ(request, mount=MOUNT),
            stdin=io.BytesIO(request.body or b""),
            stdout=stdout,
            stderr=io.StringIO(),
        )
        assert status == 0
        return cgi_response(stdout.getvalue(), head=request.method == "HEAD")

    yield send


@contextlib.contextmanager
def programmed(interface: str, directory: Path) -> Iterator[Send]:
    """A CGI program as a web server starts it: a process, its environment, its descriptors."""
    script = directory / "app.py"
    script.write_text(
        "from sapi_adapters import run\n"
        f"from sapi_adapters.testing import {interface}_app\n"
        f"run({interface}_app)\n"
    )

    def send(request: Request) -> Response:
        variables = cgi_environ(request, mount=MOUNT)
        environ = {key.encode(): value.encode("latin-1") for key, value in variables.items()}
        environ[b"PYTHONPATH"] = os.fsencode(ROOT)
        done = subprocess.run(
            # Words of a query are passed as arguments by some servers; they mean nothing.
            [sys.executable, str(script), "-s", "--help"],
            env=environ,
            input=request.body or b"",
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return cgi_response(done.stdout, head=request.method == "HEAD")

    yield send


@contextlib.contextmanager
def typed(interface: str, directory: Path) -> Iterator[Send]:
    """The command line: ``--sapi cli METHOD TARGET``."""
    app = f"sapi_adapters.testing:{interface}_app"

    def send(request: Request) -> Response:
        command = [sys.executable, "-m", "sapi_adapters", app, "--sapi", "cli"]
        arguments = [request.method, request.target, "-i"]
        for name, value in request.headers:
            arguments += ["-H", f"{name}: {value}"]
        if request.body is not None:
            body = directory / "body"
            body.write_bytes(request.body)
            arguments += ["-d", f"@{body}"]
        done = subprocess.run(
            [*map(os.fsencode, command), *(text.encode("latin-1") for text in arguments)],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert done.stdout, done.stderr.decode(errors="replace")
        response = printed(done.stdout)
        assert done.returncode == (0 if response.status < 400 else 1)
        if request.method == "HEAD":
            assert response.body == b""
        return response

    yield send


def printed(output: bytes) -> Response:
    """What ``-i`` prints: a status line, headers, an empty line, the body."""
    first, _, rest = output.partition(b"\n")
    version, _, status = first.decode("latin-1").strip().partition(" ")
    assert version.startswith("HTTP/"), output[:200]
    return cgi_response(b"Status: " + status.encode("latin-1") + b"\r\n" + rest)


Way = Callable[[str, Path], contextlib.AbstractContextManager[Send]]

# way -> how to send, the mount, the name the application should see, cases left out with reasons
WAYS: Mapping[str, tuple[Way, str, str, Mapping[str, str]]] = {
    "embed": (
        embedded,
        "",
        "embed",
        {"mount": "an embedded application is served at the root"},
    ),
    "cgi-call": (called, MOUNT, "cgi", {}),
    "cgi-process": (programmed, MOUNT, "cgi", {}),
    "cli": (
        typed,
        "",
        "cli",
        {"mount": "the command line serves at the root"},
    ),
}


def rows() -> Iterator[object]:
    for way, (_, _, _, left_out) in WAYS.items():
        for interface in ("wsgi", "asgi"):
            for case in cases(interface, without=left_out):
                yield pytest.param(way, case, id=f"{way}-{interface}-{case.name}")


@pytest.mark.parametrize(("way", "case"), list(rows()))
def test_case(way: str, case: Case, tmp_path: Path) -> None:
    sending, mount, name, _ = WAYS[way]
    with sending(case.interface, tmp_path) as send:
        case.run(send, mount=mount, sapi_name=name)
