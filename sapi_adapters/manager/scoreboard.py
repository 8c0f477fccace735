"""Memory that workers share with their master: one slot each, written by the worker.

The master reads numbers from it, which it checks, and nothing else: no pid, no text, no offset.
"""

from __future__ import annotations

import mmap
from struct import Struct

_number = Struct("d")
_SIZE = 64  # one cache line a slot


class Slot:
    """One worker's part."""

    __slots__ = ("_at", "_memory")

    def __init__(self, memory: mmap.mmap, at: int) -> None:
        self._memory = memory
        self._at = at

    @property
    def busy_since(self) -> float:
        """Monotonic time at which the oldest running request began, 0 when none runs."""
        since: float = _number.unpack_from(self._memory, self._at)[0]
        return since

    @busy_since.setter
    def busy_since(self, since: float) -> None:
        _number.pack_into(self._memory, self._at, since)

    def clear(self) -> None:
        """Make it a new worker's."""
        self._memory[self._at : self._at + _SIZE] = bytes(_SIZE)


class Scoreboard:
    """The slots of at most *size* workers, in anonymous shared memory."""

    def __init__(self, size: int) -> None:
        self._memory = mmap.mmap(-1, size * _SIZE)

    def slot(self, index: int) -> Slot:
        """Return slot *index*."""
        return Slot(self._memory, index * _SIZE)
