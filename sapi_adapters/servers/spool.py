"""A queue of bytes with bounded memory: what does not fit goes to a temporary file."""

from __future__ import annotations

import tempfile
from collections import deque
from typing import IO

MEMORY = 256 * 1024
"""Bytes one spool keeps in memory."""


class Spool:
    """First in, first out. Used where a protocol without flow control has to be read on.

    Not thread-safe. ``len()`` is the number of bytes inside.
    """

    __slots__ = ("_blocks", "_file", "_in_file", "_in_memory", "_read_at")

    def __init__(self) -> None:
        self._blocks: deque[bytes] = deque()
        self._in_memory = 0
        self._file: IO[bytes] | None = None
        self._read_at = 0
        self._in_file = 0

    def __len__(self) -> int:
        return self._in_memory + self._in_file

    def put(self, data: bytes) -> None:
        """Append *data*. OSError when the disk is full."""
        if not self._in_file and self._in_memory + len(data) <= MEMORY:
            if data:
                self._blocks.append(data)
                self._in_memory += len(data)
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="sapi-body-")  # noqa: SIM115 - see close()
        self._file.seek(0, 2)
        self._file.write(data)
        self._in_file += len(data)

    def get(self, size: int) -> bytes:
        """Remove and return 1 to *size* bytes, ``b""`` when there are none."""
        if self._blocks:
            data = self._blocks.popleft()
            if len(data) > size:
                self._blocks.appendleft(data[size:])
                data = data[:size]
            self._in_memory -= len(data)
            return data
        if not self._in_file or self._file is None:
            return b""
        self._file.seek(self._read_at)
        data = self._file.read(min(size, self._in_file))
        self._read_at += len(data)
        self._in_file -= len(data)
        if not self._in_file:
            self._file.seek(0)
            self._file.truncate()
            self._read_at = 0
        return data

    def close(self) -> None:
        """Forget everything, the file too."""
        self._blocks.clear()
        self._in_memory = self._in_file = 0
        if self._file is not None:
            self._file.close()
            self._file = None
