"""Memory that a pool's workers share with their master: what each of them is doing, and counts.

A worker has a slot, and in it one entry for each request that it can serve at a time. It writes
its own entries and how many they are; the master writes the head of the pool and of the slots.
Anybody reads: the worker that answers a request for the status page, and the master, which takes
checked numbers from the entries and nothing else: no process id, no text, no offset.

Numbers are exact: an entry has one writer, and counts what it began. What a worker has counted
goes to the pool's head, in one step for the reader, when its slot becomes another's.
"""

from __future__ import annotations

import mmap
import os
import time
from dataclasses import dataclass, fields
from struct import Struct
from typing import NamedTuple

IDLE, READING, INFORMATION, RUNNING, ENDING, FINISHING = range(1, 7)
STAGES = (
    "Idle",
    "Idle",
    "Reading headers",
    "Getting request information",
    "Running",
    "Ending",
    "Finishing",
)
"""php-fpm's names, by number."""

BEGIN = Struct("=B7xQddd16s16s64s256s120s")
"""An entry: stage, requests begun, monotonic time of the last begin and end, CPU seconds of the
last request; method, content length, user, URI and script of the request, as latin-1."""
END = Struct("=B7xQddd")
"""Its numbers."""
ENTRY = 512
ENTRIES = 100
"""Of a slot. A worker that serves more at a time describes the first ones and counts all."""
LAYOUT = 1
"""Raised whenever the memory's form changes: a master of another version must not read it."""

_SLOT_HEAD = Struct("=QQQBxxxIddQ")
"""Process id, number, generation, leaving, capacity, start (monotonic, epoch), resident bytes."""
_CAPACITY, _CAPACITY_AT = Struct("=I"), 28
_SLOT_HEAD_SIZE = 64
_POOL_HEAD_SIZE = 1024
_SEQUENCE = Struct("=Q")
_LARGEST = (1 << 64) - 1
_MOST_REQUESTS = 1 << 48
"""More than that no worker serves: its sums fit into eight bytes, whatever it writes."""
_LATEST = 1e11
"""Seconds; no clock shows more."""


@dataclass
class Head:
    """What the master tells of the pool as a whole."""

    started: float = 0.0
    """Seconds since the epoch."""
    started_clock: float = 0.0
    """The same moment on the monotonic clock."""
    accepted: int = 0
    """Requests begun by workers that are gone."""
    lost: int = 0
    """Requests whose worker died under them."""
    listen_queue: int = 0
    max_listen_queue: int = 0
    listen_queue_len: int = 0
    max_active: int = 0
    max_children_reached: int = 0
    slow: int = 0
    generation: int = 1
    reloads: int = 0
    failed_reloads: int = 0
    memory_peak: int = 0
    dropped: int = 0
    """Lines of logs that could not be written."""
    last_failure: str = ""


_NUMBERS = tuple(f.name for f in fields(Head) if f.name != "last_failure")
_HEAD = Struct("=dd" + "Q" * (len(_NUMBERS) - 2) + "512s")


class Request(NamedTuple):
    """What an entry says of its running or last request."""

    stage: int
    begun: int
    started: float
    ended: float
    cpu: float
    method: str
    content_length: int
    user: str
    uri: str
    script: str


class Row(NamedTuple):
    """What the memory says of one worker."""

    pid: int
    number: int
    generation: int
    leaving: bool
    started: float
    started_epoch: float
    memory: int
    capacity: int
    requests: tuple[Request, ...]


class Slot:
    """One worker's part of the memory at *at*, with *entries* entries."""

    __slots__ = ("_at", "_entries", "capacity", "memory")

    def __init__(self, memory: mmap.mmap, at: int, entries: int) -> None:
        self.memory = memory
        self.capacity = 1
        """How many of the entries its worker uses."""
        self._entries = entries
        self._at = at

    def set_capacity(self, capacity: int) -> int:
        """Use *capacity* entries, or as many as there are; return how many.

        It is shown at once: a reader must not overlook what the other entries count.
        """
        self.capacity = max(1, min(capacity, self._entries))
        at = self._at + _CAPACITY_AT
        self.memory[at : at + _CAPACITY.size] = _CAPACITY.pack(self.capacity)
        return self.capacity

    def entry(self, index: int) -> int:
        """Return the offset of entry *index*, for its writer."""
        return self._at + _SLOT_HEAD_SIZE + index * ENTRY

    def clear(self) -> None:
        """Make it a new worker's."""
        size = _SLOT_HEAD_SIZE + self._entries * ENTRY
        self.memory[self._at : self._at + size] = bytes(size)

    def write_head(
        self,
        pid: int,
        number: int,
        generation: int,
        leaving: bool,
        started: float,
        epoch: float,
        memory: int,
    ) -> None:
        """Say who has the slot; the master's to write."""
        head = (pid, number, generation, leaving, self.capacity, started, epoch, memory)
        # pack_into() would fill the place with zeros first, and a reader miss the worker.
        self.memory[self._at : self._at + _SLOT_HEAD.size] = _SLOT_HEAD.pack(*head)

    def times(self) -> list[tuple[int, int, float, float]]:
        """Return stage, requests begun, begin and end of each entry."""
        found = (END.unpack_from(self.memory, self.entry(n)) for n in range(self.capacity))
        return [
            (stage, min(begun, _MOST_REQUESTS), started, ended)
            for stage, begun, started, ended, _ in found
        ]

    def active(self) -> int:
        """Return how many requests are running."""
        return sum(RUNNING <= stage <= FINISHING for stage, *_ in self.times())

    def begun(self) -> int:
        """Return how many requests its worker has begun."""
        return sum(begun for _, begun, *_ in self.times())

    def request(self, index: int) -> Request:
        """Return what entry *index* says."""
        stage, begun, started, ended, cpu, method, length, user, uri, script = BEGIN.unpack_from(
            self.memory, self.entry(index)
        )
        length = length.rstrip(b"\0")
        return Request(
            stage if stage < len(STAGES) else IDLE,
            min(begun, _MOST_REQUESTS),
            _seconds(started),
            _seconds(ended),
            _seconds(cpu),
            _text(method),
            int(length) if length.isdigit() else 0,
            _text(user),
            _text(uri),
            _text(script),
        )

    def row(self) -> Row | None:
        """Return all of it; None when no worker has it."""
        pid, number, generation, leaving, capacity, started, epoch, memory = _SLOT_HEAD.unpack_from(
            self.memory, self._at
        )
        if not pid:
            return None
        capacity = max(1, min(capacity, self._entries))
        requests = tuple(self.request(n) for n in range(capacity))
        return Row(
            pid,
            number,
            generation,
            bool(leaving),
            _seconds(started),
            _seconds(epoch),
            memory,
            capacity,
            requests,
        )


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("latin-1")


def _seconds(value: float) -> float:
    """Return *value*, or 0 when it is no time: a worker can write what it likes."""
    return value if 0.0 <= value <= _LATEST else 0.0


class Scoreboard:
    """The memory of one pool: *size* slots of *entries* each.

    It has a descriptor, so that it outlives an exec of the master: *fd* is that of an earlier one
    of the same size.
    """

    def __init__(self, size: int, entries: int = ENTRIES, fd: int = -1) -> None:
        self.size = size
        self.entries = entries
        self._slot_size = _SLOT_HEAD_SIZE + entries * ENTRY
        total = _POOL_HEAD_SIZE + size * self._slot_size
        if fd < 0:
            fd = _anonymous_file()
            os.ftruncate(fd, total)
        self.fd = fd
        self.memory = mmap.mmap(fd, total)
        self.head = Head()

    def close(self) -> None:
        """Give the descriptor back; the memory stays with those who have it mapped."""
        os.close(self.fd)

    def grow(self, size: int) -> range:
        """Become a memory of *size* slots; return the new ones, none where that cannot be done.

        Who has the memory already goes on seeing the slots that it knows.
        """
        before = self.size
        if size > before:
            try:
                self.memory.resize(_POOL_HEAD_SIZE + size * self._slot_size)
            except (SystemError, OSError, ValueError):
                return range(0)  # there is no mremap() here
            self.size = size
        return range(before, self.size)

    def slot(self, index: int) -> Slot:
        """Return slot *index*."""
        return Slot(self.memory, _POOL_HEAD_SIZE + index * self._slot_size, self.entries)

    def publish(self, freed: int | None = None) -> None:
        """Show :attr:`head`; slot *freed* is cleared in the same step, as a reader sees it."""
        (sequence,) = _SEQUENCE.unpack_from(self.memory, 0)
        self._set_sequence(sequence | 1)
        if freed is not None:
            self.slot(freed).clear()
        numbers = [getattr(self.head, name) for name in _NUMBERS]
        counts = [min(number, _LARGEST) for number in numbers[2:]]
        text = self.head.last_failure.encode("utf-8", "replace")[:512]
        _HEAD.pack_into(self.memory, _SEQUENCE.size, *numbers[:2], *counts, text)
        self._set_sequence((sequence | 1) + 1 & _LARGEST)

    def _set_sequence(self, sequence: int) -> None:
        self.memory[: _SEQUENCE.size] = _SEQUENCE.pack(sequence)

    def read(self) -> tuple[Head, list[Row]]:
        """Return the pool's head and its workers, as of one moment."""
        for _ in range(1000):
            (before,) = _SEQUENCE.unpack_from(self.memory, 0)
            *numbers, text = _HEAD.unpack_from(self.memory, _SEQUENCE.size)
            rows = [row for n in range(self.size) if (row := self.slot(n).row()) is not None]
            (after,) = _SEQUENCE.unpack_from(self.memory, 0)
            if before == after and not before & 1:
                break
            time.sleep(0)  # the master is in the middle of it
        head = Head(*numbers)
        head.started, head.started_clock = _seconds(head.started), _seconds(head.started_clock)
        head.last_failure = text.rstrip(b"\0").decode("utf-8", "replace")
        return head, rows

    def load_head(self) -> None:
        """Take over the head that an earlier master of this process left."""
        self.head, _ = self.read()


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("scoreboard", os.MFD_CLOEXEC)
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
