"""What tests of the shim want."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent.parent / "contrib" / "flup"


@pytest.fixture(scope="session")
def distribution(tmp_path_factory) -> Path:
    """A folder in which the distribution ``flup`` is installed."""
    folder = tmp_path_factory.mktemp("distribution")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"]
    offline = ["--no-deps", "--no-index"]
    for arguments in (
        ["wheel", *offline, "--no-build-isolation", "-w", str(folder), str(SOURCE)],
        ["install", *offline, "--target", str(folder / "lib"), "flup", "-f", str(folder)],
    ):
        done = subprocess.run([*pip, *arguments], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    return folder / "lib"
