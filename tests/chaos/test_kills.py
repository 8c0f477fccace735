"""Workers that are killed under load: what that costs, and that every request is accounted for."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from chaos.load import Load
from chaos.program import Program, running
from serving import until

WORKERS = 4


@pytest.mark.parametrize(
    ("seconds", "directives"),
    [
        (8, {}),
        (3, {"app": "changing:asgi"}),
        (3, {"sapi": "fcgi-threaded", "threads": "4"}),
        pytest.param(60, {}, marks=pytest.mark.long),
    ],
    ids=["prefork", "event", "threaded", "prefork-long"],
)
def test_a_killed_worker_costs_its_own_requests_and_no_other(tmp_path, seconds, directives):
    shown = str(tmp_path / "status.sock")
    pool = {"pm.max_children": str(WORKERS), "pm.status_listen": shown, **directives}
    with running(Program(tmp_path, {"www": pool})) as program:
        killed = []
        with Load(program.address("www"), rate=200, path="/pid") as load:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(0.5)
                victim = random.choice(program.workers())["pid"]
                killed.append(time.monotonic())
                os.kill(victim, signal.SIGKILL)
            until(lambda: len(program.workers()) == WORKERS, 20)
            time.sleep(0.5)  # of load on all of them
        seen = load.seen
        first: dict[str, float] = {}
        for sent, delay, pid in sorted(seen.answers):
            first.setdefault(pid, sent + delay)
        fresh = sorted(first.values())[WORKERS:]
        back = [at - when for at, when in zip(fresh, killed, strict=False)]
        page = program.status()
        begun, lost = page["accepted conn"], page["lost requests"]
        print(
            f"\n{len(killed)} kills, {seen.paced} requests, {len(seen.failures)} failures,"
            f" {lost} lost; a new worker answered after {max(back, default=0) * 1e3:.0f} ms at"
            f" most, {sum(back) / max(1, len(back)) * 1e3:.0f} ms on average"
        )
        if not directives:
            assert len(seen.failures) <= len(killed), seen.failures
        # A request that failed had been begun, or only accepted.
        assert seen.paced <= begun <= seen.paced + len(seen.failures)
        assert begun - seen.paced <= lost <= len(killed) * (1 if not directives else 100)
        assert len(page["processes"]) == WORKERS
