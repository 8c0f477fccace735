"""Workers that are killed under load: what that costs, and that every request is accounted for."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from datetime import datetime

import pytest
from chaos.load import Load
from chaos.program import Program, running
from serving import until

pytestmark = pytest.mark.slow

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
    with running(Program(tmp_path, {"www": pool}, log_level="debug")) as program:
        killed = []
        with Load(program.address("www"), rate=200, path="/pid", query="0.01") as load:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(0.5)
                victim = random.choice(program.workers())["pid"]
                killed.append(time.time())
                os.kill(victim, signal.SIGKILL)
            until(lambda: back_again(program, victim), 20)
        seen = load.seen
        # The first ones, and the one that answers for the status, were there before.
        ready = re.findall(r"\[([^]]+)\] .*worker \d+ is ready", program.text)[WORKERS + 1 :]
        moments = [datetime.strptime(at, "%d-%b-%Y %H:%M:%S.%f").timestamp() for at in ready]
        back = [at - when for at, when in zip(moments, killed, strict=False)]
        page = program.status()
        begun, lost = page["accepted conn"], page["lost requests"]
        print(
            f"\n{len(killed)} kills, {seen.paced} requests, {len(seen.failures)} failures,"
            f" {lost} lost; another was ready after {max(back, default=0) * 1e3:.0f} ms at most"
        )
        if not directives:
            assert len(seen.failures) <= len(killed), seen.failures
        # A request that failed had been begun, or only accepted.
        assert seen.paced <= begun <= seen.paced + len(seen.failures)
        assert begun - seen.paced <= lost <= len(killed) * (1 if not directives else 100)
        assert len(page["processes"]) == WORKERS


def back_again(program, victim):
    """Tell whether there are as many workers as before *victim* was killed."""
    pids = [row["pid"] for row in program.workers()]
    return victim not in pids and len(pids) == WORKERS
