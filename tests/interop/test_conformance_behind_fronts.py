"""The conformance table, through every front end, for the WSGI and the ASGI application."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator

import pytest
from deployments import Deployed
from fronts import FRONTS, Front

from sapi_adapters.testing import Case, Failure, cases


def rows() -> Iterator[object]:
    for front in FRONTS:
        # The one group that may be left out: an application at the root has no mount to look at.
        without = () if front.mount else ("mount",)
        for interface in ("wsgi", "asgi"):
            for case in cases(interface, without=without):
                marks = []
                if case.name in front.differences:
                    marks.append(
                        pytest.mark.xfail(
                            reason=front.differences[case.name],
                            raises=(Failure, OSError, http.client.HTTPException),
                            strict=True,
                        )
                    )
                yield pytest.param(
                    front, case, marks=marks, id=f"{front.name}-{interface}-{case.name}"
                )


@pytest.mark.parametrize(("front", "case"), list(rows()))
def test_case(front: Front, case: Case, deploy: Callable[[Front, str], Deployed]) -> None:
    deployed = deploy(front, case.interface)
    case.run(deployed.send, mount=deployed.mount, sapi_name=front.sapi)


@pytest.mark.parametrize("front", FRONTS, ids=lambda front: front.name)
def test_every_difference_names_a_case(front: Front) -> None:
    names = {case.name for interface in ("wsgi", "asgi") for case in cases(interface)}
    assert front.differences.keys() <= names
