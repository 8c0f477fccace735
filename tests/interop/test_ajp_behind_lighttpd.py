"""lighttpd's mod_ajp13, which sends AJP in forms of its own: what works through it, and what not.

What does not is stated as well: when such a test fails, lighttpd has been mended, and the page on
AJP is to be changed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from deployments import Deployed
from fronts import BACKENDS, FRONTS, Front, configure_lighttpd

from sapi_adapters.testing import Request, cases

MODULES = [Path(f"/usr/{lib}/lighttpd/mod_ajp13.so") for lib in ("lib", "lib64")]
pytestmark = pytest.mark.skipif(
    not any(module.exists() for module in MODULES), reason="lighttpd has no mod_ajp13"
)


def front(name: str, backend: str, where: str) -> Front:
    return dataclasses.replace(
        next(row for row in FRONTS if row.name == "apache-ajp-unix"),
        name=name,
        server="lighttpd",
        configure=configure_lighttpd,
        backend=backend,
        mount="",
        options={
            "module": "mod_ajp13",
            "site": f'ajp13.server = ("/" => (({where}, "check-local" => "disable")))',
        },
    )


PLAIN = front("lighttpd-ajp", "ajp-root", '"socket" => "{socket}"')
WITH_SECRET = front("lighttpd-ajp-secret", "ajp-tcp", '"host" => "{host}", "port" => {port}')


@pytest.fixture
def behind(
    deploy: Callable[[Front, str], Deployed], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Front], Deployed]:
    options = ["--sapi", "ajp-prefork", "--workers", "2", "--script-name", "/"]
    monkeypatch.setitem(BACKENDS, "ajp-root", options)
    return lambda front: deploy(front, "wsgi")


def path_of(deployed: Deployed, target: str) -> str:
    response = deployed.send(Request("GET", target))
    assert response.status == 200
    path: str = json.loads(response.body)["path"]
    return path


@pytest.mark.parametrize("name", ["query-encoded", "head", "header-4000", "content-length-given"])
def test_requests_of_one_segment_and_no_body(behind, name):
    (case,) = [case for case in cases("wsgi") if case.name == name]
    deployed = behind(PLAIN)
    for _ in range(3):
        case.run(deployed.send, sapi_name="ajp-prefork")


def test_what_follows_the_first_segment_is_lost(behind):
    assert path_of(behind(PLAIN), "/report/more") == "/report"


def test_a_path_is_decoded_twice(behind):
    assert path_of(behind(PLAIN), "/repor%2574") == "/report"


def test_a_body_is_refused(behind):
    """It comes without the length inside its packet, which all others send."""
    deployed = behind(PLAIN)
    assert path_of(deployed, "/report") == "/report"
    assert deployed.send(Request("POST", "/report", (), b"some body")).status == 500
    assert "a packet of the body does not hold what it says" in deployed.processes[0].log_text()


def test_a_secret_cannot_be_sent(behind):
    """1.4.69 knows no setting for it."""
    deployed = behind(WITH_SECRET)
    assert deployed.send(Request("GET", "/report")).status == 403
    assert path_of(behind(PLAIN), "/report") == "/report"
