"""One page each of Flask, Django, FastAPI and Starlette, through every front end."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from deployments import Deployed
from fronts import FRONTS, Front

from sapi_adapters.testing import Request


@pytest.mark.parametrize("framework", ["flask", "django", "fastapi", "starlette"])
@pytest.mark.parametrize("front", FRONTS, ids=lambda front: front.name)
def test_one_page(front: Front, framework: str, deploy: Callable[[Front, str], Deployed]) -> None:
    deployed = deploy(front, framework)
    target = f"{deployed.mount}/hello/Zo%C3%AB?q=%C3%A9+1"
    response = deployed.send(Request("POST", target, [("Content-Type", "text/plain")], b"b" * 70))
    assert response.status == 200, response
    assert json.loads(response.body) == {
        "framework": framework,
        "name": "Zo\xeb",
        "query": "\xe9 1",
        "body": "b" * 70,
        "mount": deployed.mount,
    }


@pytest.mark.parametrize("framework", ["flask", "django", "fastapi", "starlette"])
@pytest.mark.parametrize("front", FRONTS, ids=lambda front: front.name)
def test_a_page_that_is_not_there(
    front: Front, framework: str, deploy: Callable[[Front, str], Deployed]
) -> None:
    deployed = deploy(front, framework)
    response = deployed.send(Request("GET", f"{deployed.mount}/elsewhere"))
    assert response.status == 404, response
