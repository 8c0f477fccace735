"""Under CGI a client that goes is a pipe without a reader, with an event loop and without."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

SCRIPT = """
{first}
from pathlib import Path
from sapi_adapters import run

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise ValueError("http only")
    await receive()
    Path({waiting!r}).touch()
    event = await receive()
    Path({report!r}).write_text(event["type"])

run(app)
"""


@pytest.mark.parametrize("first", ["import asyncio", "import sys"])
def test_waiting_for_a_disconnect_ends_with_the_pipe(tmp_path, first):
    waiting, report = tmp_path / "waiting", tmp_path / "report"
    script = tmp_path / "app.py"
    script.write_text(SCRIPT.format(first=first, waiting=str(waiting), report=str(report)))
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "GATEWAY_INTERFACE": "CGI/1.1", "REQUEST_METHOD": "GET"},
    )
    try:
        end = time.monotonic() + 20
        while not waiting.exists():
            assert time.monotonic() < end, "the application did not start"
            time.sleep(0.01)
        assert not report.exists()
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(20) == 0  # the script ignores what run() returned
        assert report.read_text() == "http.disconnect"
    finally:
        process.kill()
        process.wait()
