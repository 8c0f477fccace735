"""Workers that leave after so many requests: exactly, and after another is there."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from chaos.load import Load
from chaos.program import Program, running
from serving import until

pytestmark = pytest.mark.slow

LIMIT, JITTER, WORKERS = 60, 20, 3


@pytest.mark.parametrize(
    "directives",
    [{}, {"sapi": "fcgi-threaded", "threads": "4"}, {"app": "changing:asgi"}],
    ids=["prefork", "threaded", "event"],
)
def test_workers_take_turns_without_a_failure(tmp_path, directives):
    shown = str(tmp_path / "status.sock")
    pool = {
        "pm.max_children": str(WORKERS),
        "pm.max_requests": str(LIMIT),
        "pm.max_requests_jitter": str(JITTER),
        "pm.status_listen": shown,
        **directives,
    }
    program = Program(tmp_path, {"www": pool}, log_level="debug")
    with running(program):
        with Load(program.address("www"), rate=300, path="/pid") as load:
            until(lambda: len(re.findall(r"exited with status 0", program.text)) >= 8, 30)
        seen = load.seen
        assert not seen.failures
        assert program.status()["accepted conn"] == seen.paced
        served = Counter(pid for *_, pid in seen.answers)
        gone = set(re.findall(r"worker (\d+) exited with status 0", program.text))
        counts = sorted(served[pid] for pid in gone if pid in served)
        print(f"\n{len(gone)} workers left, after {counts[0]} to {counts[-1]} requests")
        assert counts[0] >= LIMIT - JITTER
        # What runs beside the last one is finished, too, and so is what was accepted before it.
        beside = 4 if directives else 1
        assert counts[-1] <= LIMIT + beside
        assert len(set(counts)) > 1, "not all leave after the same number"
        alive, least = 0, []
        for event in re.findall(r"worker \d+ (started|exited)", program.text):
            alive += 1 if event == "started" else -1
            least.append(alive)
        assert min(least[WORKERS:]) >= WORKERS, "the replacement is there before"
