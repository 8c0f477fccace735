"""What the pages share: a request that lasts until the test lets it go."""

import time
from pathlib import Path


def wait_in(directory: str) -> str:
    """Leave the file `begun` in `directory`, wait for the file `go`."""
    place = Path(directory)
    (place / "begun").touch()
    end = time.monotonic() + 20
    while not (place / "go").exists():
        if time.monotonic() > end:
            return "nobody let it go"
        time.sleep(0.02)
    return "went on"
