"""A large upload arrives whole, through every front end."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from deployments import Deployed
from fronts import FRONTS, Front

from sapi_adapters.testing import Request, pattern

BODY = pattern(8 << 20)
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
@pytest.mark.parametrize("front", FRONTS, ids=lambda front: front.name)
def test_eight_mebibytes(
    front: Front, interface: str, deploy: Callable[[Front, str], Deployed]
) -> None:
    deployed = deploy(front, interface)
    report = deployed.send(Request("POST", f"{deployed.mount}/report", (), BODY)).report
    assert report["body_length"] == len(BODY)
    assert report["body_sha256"] == DIGEST


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
@pytest.mark.parametrize("front", FRONTS, ids=lambda front: front.name)
def test_an_upload_that_nobody_reads(
    front: Front, interface: str, deploy: Callable[[Front, str], Deployed]
) -> None:
    deployed = deploy(front, interface)
    for _ in range(2):
        response = deployed.send(Request("POST", f"{deployed.mount}/small", (), BODY[: 1 << 20]))
        assert (response.status, response.body) == (200, b"sixteen octets.\n")
        # What was not read must not be taken for the next request on a kept connection.
        assert deployed.send(Request("GET", f"{deployed.mount}/small")).status == 200
