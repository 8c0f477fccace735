"""What tests of several rooms want."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture
def deadline() -> Iterator[None]:
    """End, within a minute, a test of what must not wait."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
