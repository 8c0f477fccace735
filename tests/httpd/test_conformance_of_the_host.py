"""The conformance table against the SAPI ``mod``: each interface in each process model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from httpclient import fetch
from httpd.hosting import Hosted, hosting

from sapi_adapters.testing import Case, cases

CONFIGURATION = """
LoadModule sapi_module sapi_adapters.adapters.mod_sapi
MergeSlashes Off
<Location {mount}>
    SetHandler sapi-script
    SapiApp sapi_adapters.testing:{interface}_app
    AllowEncodedSlashes On
</Location>
"""
WAYS = [
    (mpm, interface, mount)
    for mpm in ("prefork", "worker", "event")
    for interface in ("wsgi", "asgi")
    for mount in (["/mount", "/"] if mpm == "prefork" else ["/mount"])
]


class Hosts:
    """One running host for each way, started when the first case wants it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[tuple[str, str, str], Hosted] = {}
        self.stack = ExitStack()

    def of(self, way: tuple[str, str, str]) -> Hosted:
        if way not in self._running:
            mpm, interface, mount = way
            folder = self._folder / "-".join(way).replace("/", "_")
            folder.mkdir()
            text = CONFIGURATION.format(interface=interface, mount=mount)
            self._running[way] = self.stack.enter_context(hosting(folder, text, mpm))
        return self._running[way]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    made = Hosts(tmp_path_factory.mktemp("hosts"))
    with made.stack:
        yield made


def rows() -> Iterator[object]:
    for way in WAYS:
        mount = way[2].rstrip("/")
        for case in cases(way[1], without=() if mount else ("mount",)):
            yield pytest.param(way, case, id=f"{'-'.join(way)}-{case.name}")


@pytest.mark.parametrize(("way", "case"), list(rows()))
def test_case(way: tuple[str, str, str], case: Case, hosts: Hosts) -> None:
    hosted = hosts.of(way)
    case.run(lambda request: fetch(hosted.port, request), mount=way[2].rstrip("/"), sapi_name="mod")
