"""What the master decides, without processes and without a clock."""

from __future__ import annotations

import pytest

from sapi_adapters.manager.policy import (
    LEAVING,
    READY,
    STARTING,
    Promote,
    Settings,
    Snapshot,
    Spawn,
    Tell,
    View,
    backoff,
    decide,
)

TWO = Settings(workers=2, request_timeout=5.0, start_timeout=60.0, grace=30.0, kill_after=3.0)


def ready(number: int, generation: int = 1, **more: object) -> View:
    return View(number, generation, READY, 0.0, **more)  # type: ignore[arg-type]


def told(number: int, what: str, since: float = 0.0, generation: int = 1) -> View:
    return View(number, generation, LEAVING, since, told=what)


CASES = {
    "at the start all are forked": (Snapshot(1, 1, []), 0.0, [Spawn(1), Spawn(1)]),
    "enough are enough": (Snapshot(1, 1, [ready(1), ready(2)]), 1.0, []),
    "a dead one is replaced at once": (Snapshot(1, 1, [ready(1)]), 1.0, [Spawn(1)]),
    "one that leaves is replaced": (
        Snapshot(1, 1, [ready(1), told(2, "QUIT")]),
        1.0,
        [Spawn(1)],
    ),
    "after failures one by one": (
        Snapshot(1, 1, [], failures=1, last_failure=0.0),
        0.2,
        [Spawn(1)],
    ),
    "a crash loop backs off": (Snapshot(1, 1, [], failures=5, last_failure=0.0), 0.5, []),
    "a reload starts the next generation beside the old": (
        Snapshot(1, 2, [ready(1), ready(2)]),
        1.0,
        [Spawn(2), Spawn(2)],
    ),
    "half a generation is not promoted": (
        Snapshot(1, 2, [ready(1), ready(2), ready(3, 2), View(4, 2, STARTING, 0.0)]),
        1.0,
        [],
    ),
    "a whole one is": (
        Snapshot(1, 2, [ready(1), ready(2), ready(3, 2), ready(4, 2)]),
        1.0,
        [Promote()],
    ),
    "then the old one finishes": (
        Snapshot(2, 2, [ready(1), ready(2), ready(3, 2), ready(4, 2)]),
        1.0,
        [Tell(1, "QUIT", "of an older generation"), Tell(2, "QUIT", "of an older generation")],
    ),
    "the old one is kept whole while the next starts": (
        Snapshot(1, 2, [ready(1), View(3, 2, STARTING, 0.0), View(4, 2, STARTING, 0.0)]),
        1.0,
        [Spawn(1)],
    ),
    "a late leaver gets TERM": (
        Snapshot(1, 1, [ready(1), ready(2), told(3, "QUIT")]),
        30.0,
        [Tell(3, "TERM", "did not finish within 30 s")],
    ),
    "then KILL": (
        Snapshot(1, 1, [ready(1), ready(2), told(3, "TERM")]),
        3.0,
        [Tell(3, "KILL", "did not end after TERM")],
    ),
    "and no more": (Snapshot(1, 1, [ready(1), ready(2), told(3, "KILL")]), 99.0, []),
    "a slow request is ended": (
        Snapshot(1, 1, [ready(1), ready(2, busy_since=1.0)]),
        6.0,
        [Tell(2, "TERM", "a request took longer than 5.0 s")],
    ),
    "a quick one is not": (Snapshot(1, 1, [ready(1), ready(2, busy_since=1.5)]), 6.0, []),
    "one that never gets ready is ended": (
        Snapshot(1, 1, [ready(1), View(2, 1, STARTING, 0.0)]),
        60.0,
        [Tell(2, "TERM", "was not ready within 60 s")],
    ),
    "a graceful stop": (
        Snapshot(1, 1, [ready(1), told(2, "QUIT")], stopping="graceful"),
        1.0,
        [Tell(1, "QUIT")],
    ),
    "a fast stop": (
        Snapshot(1, 1, [ready(1), told(2, "QUIT")], stopping="fast"),
        1.0,
        [Tell(1, "TERM"), Tell(2, "TERM")],
    ),
    "nothing is forked while stopping": (Snapshot(1, 1, [], stopping="fast"), 1.0, []),
}


@pytest.mark.parametrize("case", CASES)
def test_decide(case):
    snapshot, now, actions = CASES[case]
    assert decide(TWO, snapshot, now) == actions


def test_backoff_doubles_to_its_limit():
    waits = [backoff(TWO, n) for n in range(12)]
    assert waits[:4] == [0.0, 0.1, 0.2, 0.4]
    assert waits[-1] == TWO.max_backoff
    assert backoff(TWO, 10_000) == TWO.max_backoff
