"""A CGI process pays for each file and module it loads: what it may load is counted here."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from shape.floors import PACKAGE

APPLICATIONS = {
    "wsgi": """
def app(environ, start_response):
    body = environ["wsgi.input"].read() or b"no body"
    environ["wsgi.errors"].write("")
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Name", "value")])
    return [body]
""",
    "wsgi stream": """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    for line in environ["wsgi.input"]:
        yield line
    yield b"no body" if environ["REQUEST_METHOD"] == "GET" else b""
""",
    "asgi": """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        return
    event = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": event["body"] or b"no body"})
""",
}
REPORT = """
import sys
for name, module in sorted(sys.modules.items()):
    print(name, getattr(module, "__file__", None), sep="\\t", file=sys.stderr)
"""
SCRIPT = f"""
import sys
sys.path.insert(0, {str(PACKAGE.parent)!r})
from sapi_adapters import run
{{application}}
assert run(app) == 0
"""
ENVIRON = {
    "GATEWAY_INTERFACE": "CGI/1.1",
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "/cgi-bin/app.py",
    "PATH_INFO": "/x",
    "QUERY_STRING": "",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "HTTP_HOST": "localhost",
    "PATH": os.environ.get("PATH", ""),
}


def loaded(script: str, environ: dict[str, str], data: bytes = b"") -> tuple[bytes, dict[str, str]]:
    """Run *script* in a bare interpreter; return its output and the modules it ended with."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script + REPORT],
        env=environ,
        input=data,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    lines = [line.split("\t") for line in done.stderr.decode().splitlines()]
    return done.stdout, dict(lines)


@pytest.fixture(scope="module")
def bare():
    return loaded("pass", {})[1]


def serve(application: str, method: str) -> dict[str, str]:
    environ = {**ENVIRON, "REQUEST_METHOD": method}
    data = b"some body" if method == "POST" else b""
    if data:
        environ["CONTENT_LENGTH"] = str(len(data))
    script = SCRIPT.format(application=APPLICATIONS[application])
    output, modules = loaded(script, environ, data)
    assert output.endswith(data or b"no body"), output
    return modules


def of_ours(modules: dict[str, str]) -> dict[str, str]:
    return {name: file for name, file in modules.items() if name.split(".")[0] == PACKAGE.name}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("application", ["wsgi", "wsgi stream"])
def test_wsgi_under_cgi_reads_five_files_and_no_further_module(application, method, bare):
    modules = serve(application, method)
    files = sorted(file for file in of_ours(modules).values() if file != "None")
    assert len(files) <= 5, "\n".join(["more than five files:", *files])
    more = sorted(modules.keys() - bare.keys() - of_ours(modules).keys())
    assert more == [], f"the bare interpreter has not loaded {', '.join(more)}"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_asgi_under_cgi_imports_no_event_loop(method, bare):
    modules = serve("asgi", method)
    dear = {"asyncio", "selectors", "ssl", "concurrent.futures", "logging", "threading", "socket"}
    assert sorted(dear & modules.keys() - bare.keys()) == []


def test_the_package_itself_loads_nothing_but_its_own_file(bare):
    script = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); import sapi_adapters"
    _, modules = loaded(script, {})
    assert sorted(modules.keys() - bare.keys()) == ["sapi_adapters"]
