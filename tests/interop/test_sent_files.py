"""Files that the front end sends in the application's place, and those that it must not send.

A front end that reads the file adds Last-Modified, which the application never sets: that tells who
sent it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from deployments import Deployed, Deployments
from fronts import SENDFILE_FRONTS, Front

from sapi_adapters.testing import Request, Response, pattern

DATA = pattern(300_000)
INTERFACES = pytest.mark.parametrize("interface", ["wsgi", "asgi"])
THROUGH = pytest.mark.parametrize("front", SENDFILE_FRONTS, ids=lambda front: front.name)
Deploy = Callable[[Front, str], Deployed]


def ask(deployed: Deployed, path: Path, offset: int = 0) -> Response:
    target = f"{deployed.mount}/?{offset}:{quote(str(path))}"
    response = deployed.send(Request("GET", target))
    assert response.status == 200, response
    assert response.values("content-type") == ["application/x-tested"]
    # The headers between application and front end stay between them.
    for name in ("x-accel-redirect", "x-sendfile", "x-lighttpd-send-file"):
        assert response.values(name) == []
    return response


@INTERFACES
@THROUGH
@pytest.mark.parametrize("name", ["plain", "a b", "100%", "a%20b", "Zo\xeb", "a?b#c", "sub/file"])
def test_a_file_inside_is_sent_by_the_front_end(
    front: Front, interface: str, name: str, deploy: Deploy, deployments: Deployments
) -> None:
    deployed = deploy(front, f"files-{interface}")
    path = deployments.files / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(DATA)
    response = ask(deployed, path)
    assert response.body == DATA
    # X-Accel-Redirect holds an encoded URI.  X-Sendfile holds the bare path, which can stand in a
    # header only when it is ASCII: other files are streamed.
    by_front_end = name.isascii() or front.server == "nginx"
    assert bool(response.values("last-modified")) == by_front_end, response.headers


@INTERFACES
@THROUGH
def test_a_file_outside_is_streamed(
    front: Front, interface: str, deploy: Deploy, tmp_path: Path
) -> None:
    deployed = deploy(front, f"files-{interface}")
    path = tmp_path / "outside"
    path.write_bytes(DATA)
    response = ask(deployed, path)
    assert response.body == DATA
    assert not response.values("last-modified")


@INTERFACES
@THROUGH
def test_a_link_that_leads_outside_is_streamed(
    front: Front, interface: str, deploy: Deploy, deployments: Deployments, tmp_path: Path
) -> None:
    deployed = deploy(front, f"files-{interface}")
    (tmp_path / "outside").write_bytes(DATA)
    link = deployments.files / f"link-{front.name}-{interface}"
    link.symlink_to(tmp_path / "outside")
    response = ask(deployed, link)
    assert response.body == DATA
    assert not response.values("last-modified")


@INTERFACES
@THROUGH
def test_a_directory_with_a_like_name_is_outside(
    front: Front, interface: str, deploy: Deploy, deployments: Deployments
) -> None:
    deployed = deploy(front, f"files-{interface}")
    path = deployments.files.with_name(deployments.files.name + "-beside") / "file"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(DATA)
    response = ask(deployed, path)
    assert response.body == DATA
    assert not response.values("last-modified")


@THROUGH
def test_from_an_offset_it_is_streamed(
    front: Front, deploy: Deploy, deployments: Deployments
) -> None:
    deployed = deploy(front, "files-wsgi")
    path = deployments.files / "offset"
    path.write_bytes(DATA)
    response = ask(deployed, path, offset=1000)
    assert response.body == DATA[1000:]
