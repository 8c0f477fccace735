"""Fixtures of the interop tests: the pool of servers, and their logs in the report of a failure."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from deployments import Deployed, Deployments, MissingServer, require
from fronts import Front
from processes import Process, StartError, release_ports

WATCHED = pytest.StashKey[list[Process]]()


@pytest.fixture(scope="session")
def deployments() -> Iterator[Deployments]:
    # Not pytest's directory: a Unix socket's path may have 107 bytes at most.
    directory = Path(tempfile.mkdtemp(prefix="sapi-"))
    directory.chmod(0o755)
    pool = Deployments(directory)
    try:
        yield pool
    finally:
        pool.stop()
        release_ports()
        shutil.rmtree(directory, ignore_errors=True)


def missing(error: MissingServer) -> None:
    """A missing server fails a CI run and skips elsewhere, with the line that installs it."""
    if os.environ.get("CI"):
        pytest.fail(str(error), pytrace=False)
    pytest.skip(str(error))


@pytest.fixture
def deploy(
    deployments: Deployments, request: pytest.FixtureRequest
) -> Callable[[Front, str], Deployed]:
    """A function that gives an application behind a front end, both running."""

    def get(front: Front, app: str) -> Deployed:
        try:
            deployed = deployments.deployed(front, app)
        except MissingServer as error:
            missing(error)
            raise AssertionError("unreachable") from None
        except StartError as error:
            pytest.fail(f"did not start: {error}", pytrace=False)
        request.node.stash.setdefault(WATCHED, []).extend(deployed.processes)
        return deployed

    return get


@pytest.fixture
def program() -> Callable[[str], str]:
    """A function that gives the path of an installed server or client."""

    def get(name: str) -> str:
        try:
            return require(name)
        except MissingServer as error:
            missing(error)
            raise AssertionError("unreachable") from None

    return get


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for process in item.stash.get(WATCHED, []):
            report.sections.append((f"log of {process.command[0]}", process.log_text(2500)))
    return report
