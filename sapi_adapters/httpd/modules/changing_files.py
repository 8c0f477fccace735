"""Small files of which requests need the content: read again only when they have changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Content = TypeVar("Content")

_MOST = 100
"""Files that are remembered; .htaccess files can name any number."""
_SETTLED = 0.1
"""Seconds after which a further change is sure to have another time: file systems keep time in
steps of up to some milliseconds."""


class ChangingFiles(Generic[Content]):
    """Files by their path, as *parse* understands their bytes."""

    def __init__(self, parse: Callable[[bytes], Content]) -> None:
        self._parse = parse
        self._known: dict[str, tuple[tuple[int, ...], Content]] = {}

    def get(self, path: str) -> Content:
        """Return the content of *path* as it is now. Raises :class:`OSError`."""
        found = self._known.get(path)
        if found is not None and found[0] == _stamp(os.stat(path)):
            return found[1]
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            content = self._parse(file.read())
        if abs(time.time() - status.st_mtime) > _SETTLED:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[path] = (_stamp(status), content)
        return content


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return (
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_size,
        status.st_ino,
        status.st_dev,
    )
