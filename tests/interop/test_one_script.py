"""The same three lines serve wherever they are started, and know under what they run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from deployments import Deployed, Deployments, environment
from fronts import FRONTS, Front
from serving import until

from sapi_adapters.testing import Request

# front end -> what sapi_name() is in a script that this front end, or spawn-fcgi, starts
STARTED_BY = {
    "apache-cgi": "cgi",
    "apache-cgid": "cgi",
    "apache-fcgid": "fcgi-prefork",
    "lighttpd-cgi": "cgi",
    "lighttpd-bin-path": "fcgi-prefork",
    "nginx-spawn-fcgi": "fcgi-prefork",
}
STARTERS = [front for front in FRONTS if front.name in STARTED_BY]


@pytest.fixture
def script(deployments: Deployments) -> Path:
    return deployments.script("wsgi")


def test_the_script_has_three_lines(script: Path) -> None:
    shebang, *lines = script.read_text().splitlines()
    assert shebang.startswith("#!/")
    assert lines == [
        "from sapi_adapters import run",
        "from sapi_adapters.testing import wsgi_app",
        "run(wsgi_app)",
    ]


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
@pytest.mark.parametrize("front", STARTERS, ids=lambda front: front.name)
def test_sapi_name(front: Front, interface: str, deploy: Callable[[Front, str], Deployed]) -> None:
    deployed = deploy(front, interface)
    response = deployed.send(Request("GET", f"{deployed.mount}/name"))
    assert response.status == 200, response
    name = STARTED_BY[front.name]
    assert json.loads(response.body) == {"function": name, "request": name}


def test_every_starter_is_tried() -> None:
    assert {front.name for front in STARTERS} == STARTED_BY.keys()
    assert {front.name for front in FRONTS if front.backend in (None, "spawn-fcgi")} == (
        STARTED_BY.keys()
    )


@pytest.mark.parametrize("argument", [[], ["-s"], ["--help"]])
def test_from_a_terminal(script: Path, argument: list[str], tmp_path: Path) -> None:
    # Standard input is no socket here, and no web server has set GATEWAY_INTERFACE: it is the host.
    said = tmp_path / "said"
    with said.open("wb") as output:
        process = subprocess.Popen(
            [str(script), *argument],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=output,
        )
    try:
        until(lambda: "ready to handle" in said.read_text() or process.poll() is not None)
        if process.poll() is None:
            assert "http://127.0.0.1:8000/" in said.read_text()
        else:  # somebody else has the port
            assert process.returncode == 2
            assert "cannot listen on 127.0.0.1:8000" in said.read_text()
    finally:
        process.terminate()
        process.wait(20)
    assert "Traceback" not in said.read_text()
