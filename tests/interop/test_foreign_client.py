"""cgi-fcgi, the client of the original FastCGI library, in front of our servers."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest
from deployments import Deployments
from fronts import BACKENDS
from processes import Address, StartError

from sapi_adapters.testing import Case, Request, Response, Send, cases, cgi_environ, cgi_response

# backend -> the SAPI the application is then under
SAPIS = {"unix-unmended": "fcgi-prefork", "tcp": "fcgi-threaded"}
MOUNT = "/mount"
LOST_ITS_BUFFER = 253


def cgi_fcgi(program: str, address: Address, mount: str) -> Send:
    """A sender that is a web server's part: it gives CGI variables, and reads a CGI response."""
    connect = address if isinstance(address, str) else "{}:{}".format(*address)

    def send(request: Request) -> Response:
        variables = cgi_environ(request, mount=mount)
        # cgi-fcgi sometimes reads on while it holds records that it has not looked at; when the
        # server has closed by then it drops them and says so by this status (seen by strace).
        for _ in range(5):
            done = subprocess.run(
                [program, "-bind", "-connect", connect],
                env={key.encode(): value.encode("latin-1") for key, value in variables.items()},
                input=request.body or b"",
                capture_output=True,
                timeout=20,
                check=False,
            )
            if done.returncode != LOST_ITS_BUFFER:
                break
        assert done.stdout, done.stderr.decode(errors="replace")
        return cgi_response(done.stdout, head=request.method == "HEAD")

    return send


def rows() -> Iterator[object]:
    for backend in SAPIS:
        for interface in ("wsgi", "asgi"):
            without = ("mount",) if backend == "tcp" else ()
            for case in cases(interface, without=without):
                yield pytest.param(backend, case, id=f"{backend}-{interface}-{case.name}")


@pytest.mark.parametrize(("backend", "case"), list(rows()))
def test_case(
    backend: str, case: Case, deployments: Deployments, program: Callable[[str], str]
) -> None:
    client = program("cgi-fcgi")
    assert backend in BACKENDS
    try:
        address = deployments.address(backend, case.interface)
    except StartError as error:
        pytest.fail(f"did not start: {error}", pytrace=False)
    mount = "" if backend == "tcp" else MOUNT
    case.run(cgi_fcgi(client, address, mount), mount=mount, sapi_name=SAPIS[backend])
