"""Nothing is held back: the client has the first chunk before the application makes the second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from deployments import Deployed
from fronts import FRONTS, Front
from httpclient import StreamedResponse


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
@pytest.mark.parametrize("front", FRONTS, ids=lambda front: front.name)
def test_first_chunk_comes_before_the_second_is_made(
    front: Front, interface: str, deploy: Callable[[Front, str], Deployed], tmp_path: Path
) -> None:
    deployed = deploy(front, f"streaming-{interface}")
    gate = tmp_path / "gate-open"
    stream = StreamedResponse(deployed.site.port, f"{deployed.mount}/?{gate}")
    try:
        assert stream.read_until(b"first\n"), stream.data
        # The application waits for this file, and only now can it go on.
        gate.touch()
        assert stream.read_until(b"second\n"), stream.data
        assert b"not seen" not in stream.data
    finally:
        gate.touch()
        stream.close()
