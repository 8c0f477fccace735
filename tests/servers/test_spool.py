"""The queue of bytes that goes to a file when it grows."""

from __future__ import annotations

import random

from sapi_adapters.servers import spool
from sapi_adapters.servers.spool import Spool


def test_first_in_first_out_across_memory_and_file(monkeypatch):
    monkeypatch.setattr(spool, "MEMORY", 1000)
    chooser = random.Random(7)
    queue, expected, got = Spool(), b"", b""
    for _ in range(2000):
        if chooser.random() < 0.5:
            data = chooser.randbytes(chooser.choice([0, 1, 10, 300, 1500]))
            queue.put(data)
            expected += data
        else:
            piece = queue.get(chooser.choice([1, 64, 2000]))
            assert piece or not len(queue)
            got += piece
        assert len(queue) == len(expected) - len(got)
    while piece := queue.get(100):
        got += piece
    assert got == expected
    queue.close()


def test_memory_is_bounded():
    queue = Spool()
    for _ in range(64):
        queue.put(b"x" * 65536)
    assert sum(map(len, queue._blocks)) <= spool.MEMORY
    assert len(queue) == 64 * 65536
    queue.close()
    assert not len(queue)
