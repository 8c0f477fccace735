"""What the master decides, without processes and without a clock."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapi_adapters.manager.policy import (
    LEAVING,
    READY,
    STARTING,
    Keep,
    Pace,
    Promote,
    Reached,
    Retire,
    Settings,
    Snapshot,
    Spawn,
    Tell,
    Trace,
    View,
    Warn,
    backoff,
    decide,
)

TWO = Settings(workers=2, request_timeout=5.0, start_timeout=60.0, grace=30.0, kill_after=3.0)
SLOW = replace(TWO, slow_after=2.0)
FAT = Settings(workers=2, max_memory=100)
DYNAMIC = Settings(
    workers=40, pm="dynamic", start=4, min_spare=10, max_spare=20, request_timeout=0.0
)
ONDEMAND = Settings(workers=3, pm="ondemand", idle_timeout=10.0)
FULL = Warn("process.max is reached: no worker is started")


def ready(number: int, generation: int = 1, **more: object) -> View:
    return View(number, generation, READY, 0.0, **more)  # type: ignore[arg-type]


def busy(number: int, generation: int = 1, **more: object) -> View:
    return ready(number, generation, idle=False, **more)


def starting(number: int, generation: int = 1) -> View:
    return View(number, generation, STARTING, 0.0)


def told(number: int, what: str, since: float = 0.0, generation: int = 1) -> View:
    return View(number, generation, LEAVING, since, told=what)


def look(workers: list[View], generation: int = 1, following: int = 0, **more: object) -> Snapshot:
    """Return a snapshot with the target of two; *following* is the next generation."""
    more = {"pace": Pace(2), "next_target": 2, **more}
    return Snapshot(generation, following or generation, workers, **more)  # type: ignore[arg-type]


STATIC_CASES = {
    "at the start all are forked": (look([]), 0.0, [Spawn(1), Spawn(1)]),
    "enough are enough": (look([ready(1), ready(2)]), 1.0, []),
    "a dead one is replaced at once": (look([ready(1)]), 1.0, [Spawn(1)]),
    "one that leaves is replaced": (look([ready(1), told(2, "QUIT")]), 1.0, [Spawn(1)]),
    "load changes nothing": (look([busy(1), busy(2)], tick=True), 1.0, []),
    "nor do connections that wait": (
        look([busy(1), busy(2)], tick=True, waiting=True, arrivals=3),
        1.0,
        [],
    ),
    "after failures one by one": (look([], failures=1, last_failure=0.0), 0.2, [Spawn(1)]),
    "a crash loop backs off": (look([], failures=5, last_failure=0.0), 0.5, []),
    "until its time has come": (look([], failures=5, last_failure=0.0), 1.6, [Spawn(1)]),
    "process.max stops a fork": (look([ready(1)], room=0), 1.0, [FULL]),
    "process.max lets some through": (look([], room=1), 1.0, [Spawn(1), FULL]),
    "process.max is nothing to a full pool": (look([ready(1), ready(2)], room=0), 1.0, []),
}

GENERATION_CASES = {
    "a reload starts the next generation beside the old": (
        look([ready(1), ready(2)], 1, 2),
        1.0,
        [Spawn(2), Spawn(2)],
    ),
    "half a generation is not promoted": (
        look([ready(1), ready(2), ready(3, 2), starting(4, 2)], 1, 2),
        1.0,
        [],
    ),
    "a whole one is": (
        look([ready(1), ready(2), ready(3, 2), ready(4, 2)], 1, 2),
        1.0,
        [Promote()],
    ),
    "one worker of a generation that leaves again is started anew": (
        look([ready(1), ready(2), ready(3, 2), told(4, "TERM", generation=2)], 1, 2),
        1.0,
        [Spawn(2)],
    ),
    "then the old one finishes": (
        look([ready(1), ready(2), ready(3, 2), ready(4, 2)], 2),
        1.0,
        [Tell(1, "QUIT", "of an older generation"), Tell(2, "QUIT", "of an older generation")],
    ),
    "an abandoned next generation is not kept": (
        look([ready(1), ready(2), starting(3, 2)], 1),
        1.0,
        [Tell(3, "QUIT", "of an older generation")],
    ),
    "the old one is kept whole while the next starts": (
        look([ready(1), starting(3, 2), starting(4, 2)], 1, 2),
        1.0,
        [Spawn(1)],
    ),
    "no size is changed while the next starts": (
        look([ready(1), ready(2), starting(3, 2), starting(4, 2)], 1, 2, tick=True, arrivals=5),
        1.0,
        [],
    ),
    "process.max takes room for the old one first": (
        look([ready(1), starting(3, 2)], 1, 2, room=1),
        1.0,
        [Spawn(1), FULL],
    ),
    "but not before the first of the next": (
        look([ready(1)], 1, 2, room=1),
        1.0,
        [Spawn(2), FULL, FULL],
    ),
    "without room one of the old ones goes first": (
        look([busy(1), ready(2)], 1, 2, room=0),
        1.0,
        [Tell(2, "QUIT", "makes room for the next generation")],
    ),
    "the eldest when all are busy": (
        look([busy(2), busy(1)], 1, 2, room=0),
        1.0,
        [Tell(1, "QUIT", "makes room for the next generation")],
    ),
    "one is enough": (
        look([ready(1), told(2, "QUIT")], 1, 2, room=0),
        1.0,
        [FULL, FULL],
    ),
    "without room a part of the next generation takes over": (
        look([ready(1), ready(3, 2)], 1, 2, room=0),
        1.0,
        [Promote()],
    ),
    "when that is ready": (
        look([ready(1), starting(3, 2)], 1, 2, room=0),
        1.0,
        [FULL, FULL],
    ),
}

LADDER_CASES = {
    "a leaver has its time": (look([ready(1), ready(2), told(3, "QUIT")]), 29.9, []),
    "a late leaver gets TERM": (
        look([ready(1), ready(2), told(3, "QUIT")]),
        30.0,
        [Tell(3, "TERM", "did not finish within 30 s")],
    ),
    "TERM has its time": (look([ready(1), ready(2), told(3, "TERM")]), 2.9, []),
    "then KILL": (
        look([ready(1), ready(2), told(3, "TERM")]),
        3.0,
        [Tell(3, "KILL", "did not end after TERM")],
    ),
    "and no more": (look([ready(1), ready(2), told(3, "KILL")]), 99.0, []),
    "a request that takes too long is ended and its worker replaced": (
        look([ready(1), busy(2, busy_since=1.0)]),
        6.0,
        [Tell(2, "TERM", "a request took longer than 5.0 s"), Spawn(1)],
    ),
    "a quick one is not": (look([ready(1), busy(2, busy_since=1.5)]), 6.0, []),
    "a worker that ends requests by itself has patience": (
        look([ready(1), busy(2, busy_since=1.0, patience=2.0)]),
        7.9,
        [],
    ),
    "but not for ever": (
        look([ready(1), busy(2, busy_since=1.0, patience=2.0)]),
        8.0,
        [Tell(2, "TERM", "a request took longer than 7.0 s"), Spawn(1)],
    ),
    "also of a worker that leaves": (
        look([ready(1), ready(2), replace(told(3, "QUIT", 5.0), busy_since=1.0)]),
        6.0,
        [Tell(3, "TERM", "a request took longer than 5.0 s")],
    ),
    "one that never gets ready is ended": (
        look([ready(1), starting(2)]),
        60.0,
        [Tell(2, "TERM", "was not ready within 60 s"), Spawn(1)],
    ),
    "a late one of an older generation is told once": (
        look([ready(3, 2), ready(4, 2), busy(1, busy_since=1.0)], 2),
        6.0,
        [Tell(1, "TERM", "a request took longer than 5.0 s")],
    ),
    "a late one of the next generation is no part of it": (
        look([ready(1), ready(2), ready(3, 2), busy(4, 2, busy_since=1.0)], 1, 2),
        6.0,
        [Tell(4, "TERM", "a request took longer than 5.0 s"), Spawn(2)],
    ),
    "a graceful stop": (
        look([ready(1), told(2, "QUIT")], stopping="graceful"),
        1.0,
        [Tell(1, "QUIT")],
    ),
    "a graceful stop waits no longer than a request may take": (
        look([busy(1, busy_since=1.0)], stopping="graceful"),
        6.0,
        [Tell(1, "TERM", "a request took longer than 5.0 s")],
    ),
    "a graceful stop climbs the ladder": (
        look([told(1, "QUIT"), told(2, "TERM")], stopping="graceful"),
        30.0,
        [Tell(1, "TERM", "did not finish within 30 s"), Tell(2, "KILL", "did not end after TERM")],
    ),
    "a fast stop": (
        look([ready(1), told(2, "QUIT"), starting(3)], stopping="fast"),
        1.0,
        [Tell(1, "TERM"), Tell(2, "TERM"), Tell(3, "TERM")],
    ),
    "a fast stop says TERM once": (look([told(1, "TERM")], stopping="fast"), 1.0, []),
    "nothing is forked while stopping": (look([], stopping="fast"), 1.0, []),
    "nor while finishing, whatever comes": (
        look([], 1, 2, stopping="graceful", tick=True, arrivals=9),
        1.0,
        [],
    ),
}

SLOW_CASES = {
    "a slow request is traced": (look([ready(1), busy(2, slow_since=1.0)]), 3.0, [Trace(2, 2.0)]),
    "one that is not slow yet is not": (look([ready(1), busy(2, slow_since=1.5)]), 3.0, []),
    "nor one that was traced": (look([ready(1), busy(2, busy_since=1.0)]), 3.0, []),
    "slow is looked at before the limit": (
        look([ready(1), busy(2, slow_since=1.0, busy_since=1.0)]),
        6.0,
        [Trace(2, 5.0), Tell(2, "TERM", "a request took longer than 5.0 s"), Spawn(1)],
    ),
    "in a worker that leaves, too": (
        look([ready(1), ready(2), replace(told(3, "QUIT"), slow_since=1.0)]),
        3.0,
        [Trace(3, 2.0)],
    ),
    "not in one that is being ended": (
        look([ready(1), ready(2), replace(told(3, "TERM", 2.0), slow_since=1.0)]),
        3.0,
        [],
    ),
}

MEMORY_CASES = {
    "one that is too large is retired": (
        look([ready(1, memory=101), ready(2, memory=100)]),
        1.0,
        [Retire(1, "memory")],
    ),
    "not one that began so large: another would, too": (
        look([replace(ready(1), memory=120, first_memory=101)]),
        1.0,
        [Spawn(1)],
    ),
    "its place is taken first": (
        look([ready(1, memory=101, retiring="memory"), ready(2)]),
        1.0,
        [Spawn(1)],
    ),
    "it stays until that one is ready": (
        look([ready(1, memory=101, retiring="memory"), ready(2), starting(3)]),
        1.0,
        [],
    ),
    "then it goes": (
        look([ready(1, memory=101, retiring="memory"), ready(2), ready(3)]),
        1.0,
        [Tell(1, "QUIT", "above pm.max_memory")],
    ),
    "one that starts is not measured": (
        look([ready(1), replace(starting(2), memory=101)]),
        1.0,
        [],
    ),
    "one near its last request is replaced and leaves by itself": (
        look([ready(1, retiring="requests"), ready(2)]),
        1.0,
        [Spawn(1)],
    ),
    "also when it grew, it is told nothing": (
        look([ready(1, retiring="requests", memory=101), ready(2), ready(3)]),
        1.0,
        [],
    ),
    "without room for another it goes first": (
        look(
            [
                ready(1, memory=101, retiring="memory"),
                ready(2, memory=101, retiring="memory"),
            ],
            room=0,
        ),
        1.0,
        [FULL, Tell(1, "QUIT", "above pm.max_memory")],
    ),
    "one at a time": (
        look([told(1, "QUIT"), ready(2, memory=101, retiring="memory")], room=0),
        1.0,
        [FULL],
    ),
    "and not while one starts": (
        look([starting(3), ready(2, memory=101, retiring="memory")], room=0),
        1.0,
        [FULL],
    ),
}


@pytest.mark.parametrize(
    ("limits", "case"),
    [
        pytest.param(limits, case, id=name)
        for limits, cases in (
            (TWO, STATIC_CASES),
            (TWO, GENERATION_CASES),
            (TWO, LADDER_CASES),
            (SLOW, SLOW_CASES),
            (FAT, MEMORY_CASES),
        )
        for name, case in cases.items()
    ],
)
def test_decide(limits, case):
    snapshot, now, actions = case
    assert decide(limits, snapshot, now) == actions


@pytest.mark.parametrize("limit", ["grace", "start_timeout", "request_timeout", "slow_after"])
def test_zero_is_no_limit_but_for_the_grace(limit):
    settings = replace(SLOW, **{limit: 0.0})
    late = [
        busy(1, busy_since=1.0) if limit == "request_timeout" else ready(1),
        busy(2, slow_since=1.0) if limit == "slow_after" else ready(2),
        told(3, "QUIT", 100.0) if limit == "grace" else starting(3),
    ]
    now = 100.0 if limit == "grace" else 1e6
    late = late[:2] if limit in ("request_timeout", "slow_after") else late
    said = [a for a in decide(settings, look(late), now) if isinstance(a, Tell | Trace)]
    assert said == ([Tell(3, "TERM", "did not finish within 0 s")] if limit == "grace" else [])


def test_backoff_doubles_to_its_limit():
    waits = [backoff(TWO, n) for n in range(12)]
    assert waits[:4] == [0.0, 0.1, 0.2, 0.4]
    assert waits[-1] == TWO.max_backoff
    assert backoff(TWO, 10_000) == TWO.max_backoff


# -- dynamic ----------------------------------------------------------------------------------


def ticks(settings: Settings, workers: list[View], pace: Pace, count: int, room: int = 1 << 30):
    """Yield after each of *count* ticks: the workers, the pace, the actions.

    Those that are forked are busy, or idle as *workers* are, at once; those told to leave are
    gone.
    """
    number = max((w.number for w in workers), default=0)
    like = workers[-1] if workers else ready(0)
    for second in range(count):
        actions = decide(settings, look(workers, pace=pace, tick=True, room=room), float(second))
        for action in actions:
            if isinstance(action, Keep):
                pace = action.pace
            elif isinstance(action, Spawn):
                number += 1
                workers = [*workers, replace(like, number=number)]
            elif isinstance(action, Tell):
                workers = [w for w in workers if w.number != action.number]
        yield workers, pace, actions


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        # 1, 2, 4, 8 more; then min_spare limits it to ten; then max_children.
        (DYNAMIC, [5, 7, 11, 19, 29, 39, 40, 40]),
        (replace(DYNAMIC, max_spawn_rate=1), [5, 6, 7, 8, 9]),
        # The rate doubles while it is below the limit, and so beyond it: 1, 2, 4, 4 with 3.
        (replace(DYNAMIC, max_spawn_rate=3), [5, 7, 11, 15, 19]),
        (replace(DYNAMIC, max_spawn_rate=4), [5, 7, 11, 15, 19]),
        (replace(DYNAMIC, min_spare=3), [5, 7, 10, 13, 16]),
        (replace(DYNAMIC, workers=8), [5, 7, 8, 8]),
    ],
)
def test_the_spawn_rate_doubles_while_all_are_busy(settings, counts):
    workers = [busy(n) for n in range(1, 5)]
    found = [len(w) for w, _, _ in ticks(settings, workers, Pace(4), len(counts))]
    assert found == counts


def test_a_pool_that_seems_busy_is_warned_of_from_eight_on():
    workers = [busy(n) for n in range(1, 5)]
    said = [
        [a.text for a in actions if isinstance(a, Warn)]
        for _, _, actions in ticks(DYNAMIC, workers, Pace(4), 5)
    ]
    assert said[:3] == [[], [], []]
    assert said[3][0].startswith("seems busy: 8 workers more, of 11 0 are idle")
    assert said[4][0].startswith("seems busy: 10 workers more, of 19 0 are idle")


def test_idle_ones_are_retired_one_a_tick_the_eldest_first():
    workers = [ready(n) for n in range(1, 25)]
    random.Random(1).shuffle(workers)
    found = list(ticks(DYNAMIC, workers, Pace(24, rate=8), 6))
    assert [len(w) for w, _, _ in found] == [23, 22, 21, 20, 20, 20]
    assert [a for _, _, actions in found for a in actions if isinstance(a, Tell)] == [
        Tell(n, "QUIT", "idle") for n in (1, 2, 3, 4)
    ]
    assert found[0][1] == Pace(23, rate=1)


def test_a_busy_elder_is_not_retired():
    workers = [busy(1), starting(2), *(ready(n) for n in range(3, 25))]
    assert decide(DYNAMIC, look(workers, pace=Pace(24), tick=True), 1.0) == [
        Tell(3, "QUIT", "idle"),
        Keep(Pace(23)),
    ]


def test_enough_idle_ones_reset_the_rate_and_nothing_else():
    for idle in (10, 20):
        pace = Pace(idle + 1, rate=16, warned=True)
        workers = [busy(1), *(ready(n) for n in range(2, idle + 2))]
        assert decide(DYNAMIC, look(workers, pace=pace, tick=True), 1.0) == [
            Keep(replace(pace, rate=1))
        ]


def test_those_that_start_count_as_idle():
    workers = [busy(1), *(starting(n) for n in range(2, 12))]
    assert decide(DYNAMIC, look(workers, pace=Pace(11), tick=True), 1.0) == []


def test_those_that_are_still_to_be_forked_count_as_idle():
    """Else a pool would begin with one more than it is to start with, and grow by each death."""
    assert decide(DYNAMIC, look([], pace=Pace(10), tick=True), 0.0) == [Spawn(1)] * 10
    broken = look([busy(1)], pace=Pace(11), tick=True, failures=9, last_failure=0.0)
    assert decide(DYNAMIC, broken, 1.0) == []
    full = look([busy(n) for n in range(1, 32)], pace=Pace(40), tick=True)
    assert decide(DYNAMIC, full, 1.0) == [Reached(), Keep(Pace(40, warned=True)), *[Spawn(1)] * 9]


def test_those_that_leave_or_are_replaced_do_not_count():
    workers = [
        *(ready(n) for n in range(1, 10)),
        told(10, "QUIT"),
        ready(11, retiring="memory"),
        ready(12, retiring="requests"),
    ]
    actions = decide(DYNAMIC, look(workers, pace=Pace(9), tick=True), 1.0)
    assert actions == [
        Keep(Pace(10, rate=2)),
        Spawn(1),
    ]


def test_between_ticks_load_changes_nothing():
    workers = [busy(n) for n in range(1, 5)]
    assert decide(DYNAMIC, look(workers, pace=Pace(4), arrivals=3), 1.0) == []


def test_a_full_pool_is_counted_once_per_episode():
    full = [busy(n) for n in range(1, 41)]
    first, *others = ticks(DYNAMIC, full, Pace(40, rate=16), 3)
    assert first[2] == [Reached(), Keep(Pace(40, rate=1, warned=True))]
    assert [actions for _, _, actions in others] == [[], []]
    # Idle again, and busy again: still the same episode, as nobody was forked.
    calm = [ready(n) for n in range(1, 21)] + full[20:]
    pace = Pace(40, rate=1, warned=True)
    assert decide(DYNAMIC, look(calm, pace=pace, tick=True), 1.0) == []
    # A fork in between ends it.
    workers, pace, actions = next(iter(ticks(DYNAMIC, full[:39], replace(pace, target=39), 1)))
    assert actions == [Keep(Pace(40, rate=2)), Spawn(1)]
    assert Reached() in decide(DYNAMIC, look(workers, pace=pace, tick=True), 2.0)


def test_a_dead_one_of_a_dynamic_pool_is_replaced_between_ticks():
    workers = [ready(n) for n in range(1, 12)]
    assert decide(DYNAMIC, look(workers, pace=Pace(12)), 1.0) == [Spawn(1)]


def test_process_max_holds_a_growing_pool():
    workers = [busy(n) for n in range(1, 5)]
    actions = decide(DYNAMIC, look(workers, pace=Pace(4, rate=4), tick=True, room=1), 1.0)
    assert actions == [Keep(Pace(8, rate=8)), Spawn(1), FULL]


def test_a_late_request_of_a_worker_with_room_does_not_make_it_told_twice():
    """A worker of several threads is idle in the manager's eyes while a request of it is late."""
    settings = replace(DYNAMIC, request_timeout=5.0)
    workers = [ready(1, busy_since=1.0), *(ready(n) for n in range(2, 24))]
    actions = decide(settings, look(workers, pace=Pace(23), tick=True), 10.0)
    said = [(a.number, a.what) for a in actions if isinstance(a, Tell)]
    assert said == [(1, "TERM"), (2, "QUIT")]


@pytest.mark.parametrize(
    ("settings", "first", "running", "next_target"),
    [
        (TWO, 2, 2, 2),
        (TWO, 2, 0, 2),
        (DYNAMIC, 4, 0, 4),
        (DYNAMIC, 4, 17, 17),
        (DYNAMIC, 4, 50, 40),
        (ONDEMAND, 0, 0, 1),
        (ONDEMAND, 0, 2, 2),
        (ONDEMAND, 0, 9, 3),
    ],
)
def test_with_how_many_a_generation_starts(settings, first, running, next_target):
    assert settings.first_target() == first
    assert settings.next_target(running) == next_target


# -- on demand --------------------------------------------------------------------------------

ARRIVALS = {
    "nobody waits for nobody": ([], Pace(0), {"tick": True}, []),
    "the first connection": ([], Pace(0), {"arrivals": 1}, [Keep(Pace(1)), Spawn(1)]),
    "several": ([], Pace(0), {"arrivals": 2}, [Keep(Pace(2)), Spawn(1), Spawn(1)]),
    "more than may be": (
        [],
        Pace(0),
        {"arrivals": 9},
        [Keep(Pace(3)), Spawn(1), Spawn(1), Spawn(1)],
    ),
    "one is idle": ([busy(1), ready(2)], Pace(2), {"arrivals": 1}, []),
    "all are busy": ([busy(1), busy(2)], Pace(2), {"arrivals": 1}, [Keep(Pace(3)), Spawn(1)]),
    "one that starts has its own to serve": (
        [starting(1)],
        Pace(1),
        {"arrivals": 1},
        [Keep(Pace(2)), Spawn(1)],
    ),
    "one that leaves is none": (
        [told(1, "QUIT")],
        Pace(0),
        {"arrivals": 1},
        [Keep(Pace(1)), Spawn(1)],
    ),
    "the pool is full": (
        [busy(1), busy(2), busy(3)],
        Pace(3),
        {"arrivals": 1},
        [Reached(), Keep(Pace(3, warned=True))],
    ),
    "and it was said": ([busy(1), busy(2), busy(3)], Pace(3, warned=True), {"arrivals": 4}, []),
    "a fork ends the episode": (
        [busy(1), busy(2)],
        Pace(2, warned=True),
        {"arrivals": 1},
        [Keep(Pace(3)), Spawn(1)],
    ),
    "a connection that nobody was told of": (
        [busy(1)],
        Pace(1),
        {"tick": True, "waiting": True},
        [Keep(Pace(2)), Spawn(1)],
    ),
    "it is looked for once a second": ([busy(1)], Pace(1), {"waiting": True}, []),
    "not while one is idle": ([ready(1)], Pace(1), {"tick": True, "waiting": True}, []),
    "not while one is to be forked": (
        [],
        Pace(1),
        {"tick": True, "waiting": True, "failures": 0},
        [Spawn(1)],
    ),
    "a broken application gets no more of them": (
        [busy(1)],
        Pace(1),
        {"arrivals": 5, "failures": 2, "last_failure": 1.0},
        [],
    ),
    "process.max": ([busy(1)], Pace(1), {"arrivals": 1, "room": 0}, [Keep(Pace(2)), FULL]),
}


@pytest.mark.parametrize("case", ARRIVALS)
def test_on_demand(case):
    workers, pace, more, actions = ARRIVALS[case]
    assert decide(ONDEMAND, look(workers, pace=pace, **more), 1.0) == actions


def test_an_idle_worker_on_demand_leaves_after_its_time_one_a_tick():
    workers = [ready(n, last_activity=5.0) for n in (3, 2, 1)]
    for now in (14.0, 15.0):
        assert decide(ONDEMAND, look(workers, pace=Pace(3), tick=True), now) == []
    assert decide(ONDEMAND, look(workers, pace=Pace(3), tick=False), 15.1) == []
    assert decide(ONDEMAND, look(workers, pace=Pace(3), tick=True), 15.1) == [
        Tell(1, "QUIT", "idle"),
        Keep(Pace(2)),
    ]


def test_one_that_is_sent_away_is_not_counted_on_for_a_connection():
    workers = [ready(1)]
    assert decide(ONDEMAND, look(workers, pace=Pace(1), tick=True, arrivals=1), 20.0) == [
        Tell(1, "QUIT", "idle"),
        Spawn(1),
    ]


# -- a pool simulated -------------------------------------------------------------------------

RUNGS = ("", "QUIT", "TERM", "KILL")


@dataclass
class Process:
    """A worker of the simulation."""

    number: int
    generation: int
    since: float
    comes_up: float
    state: str = STARTING
    told: str = ""
    until: float = 0.0
    begun: float = 0.0
    last: float = 0.0
    stubborn: bool = False
    memory: int = 0
    retiring: str = ""
    traced: bool = False

    def view(self) -> View:
        running = self.until > 0
        return View(
            self.number,
            self.generation,
            self.state,
            self.since,
            told=self.told,
            idle=not running,
            busy_since=self.begun if running else 0.0,
            slow_since=self.begun if running and not self.traced else 0.0,
            last_activity=self.last,
            memory=self.memory,
            retiring=self.retiring,
        )


@dataclass
class Simulation:
    """A pool whose processes obey, or do not, with a clock of its own; it checks every decision."""

    settings: Settings
    process_max: int
    shuffle: random.Random
    now: float = 100.0
    generation: int = 1
    following: int = 1
    next_target: int = 0
    pace: Pace = field(default_factory=lambda: Pace(0))
    failures: int = 0
    last_failure: float = 0.0
    stopping: str = ""
    number: int = 0
    waiting: int = 0
    arrivals: int = 0
    broken: bool = False
    processes: dict[int, Process] = field(default_factory=dict)

    def step(self, seconds: float) -> None:
        """Let time pass; then the manager decides."""
        before, self.now = int(self.now), self.now + seconds
        for process in list(self.processes.values()):
            self.live(process)
        snapshot = self.snapshot(tick=int(self.now) > before)
        self.arrivals = 0
        actions = decide(self.settings, snapshot, self.now)
        self.check(snapshot, actions)
        for action in actions:
            self.do(action)

    def live(self, process: Process) -> None:
        """Let one worker do what it does."""
        if process.told == "KILL" or (process.told == "TERM" and not process.stubborn):
            del self.processes[process.number]
        elif process.state == STARTING and self.now >= process.comes_up:
            if self.broken:
                self.die(process)
            else:
                process.state, process.since, process.last = READY, self.now, self.now
                self.failures = 0
        elif process.until and self.now >= process.until and not process.stubborn:
            process.until, process.last = 0.0, self.now
        if process.state == READY and not process.until and self.waiting:
            self.waiting -= 1
            process.begun = process.last = self.now
            process.until = self.now + self.shuffle.choice([0.1, 1.0, 4.0])
            process.traced = False
        elif process.told == "QUIT" and not process.until and not process.stubborn:
            self.processes.pop(process.number, None)

    def die(self, process: Process) -> None:
        """Let one die; before it was ready that is a failure."""
        del self.processes[process.number]
        if process.state == STARTING and not process.told:
            self.failures += 1
            self.last_failure = self.now
            if process.generation == self.following != self.generation:
                self.abandon()

    def abandon(self) -> None:
        """Give the next generation up."""
        for other in self.processes.values():
            if other.generation == self.following and not other.told:
                other.told, other.state, other.since = "TERM", LEAVING, self.now
        self.following, self.failures = self.generation, 0

    def reload(self) -> None:
        """Start another generation."""
        if self.following != self.generation:
            self.abandon()
        newest = max((p.generation for p in self.processes.values()), default=0)
        self.following = max(self.generation, newest) + 1
        running = sum(
            p.generation == self.generation and not p.told for p in self.processes.values()
        )
        self.next_target, self.failures = self.settings.next_target(running), 0

    def snapshot(self, tick: bool) -> Snapshot:
        room = self.process_max - len(self.processes) if self.process_max else 1 << 30
        return Snapshot(
            self.generation,
            self.following,
            [process.view() for process in self.processes.values()],
            self.pace,
            next_target=self.next_target,
            failures=self.failures,
            last_failure=self.last_failure,
            stopping=self.stopping,
            tick=tick,
            arrivals=self.arrivals,
            waiting=tick and self.waiting > 0,
            room=max(0, room),
        )

    def check(self, snapshot: Snapshot, actions: list) -> None:
        """What has to hold for every decision."""
        assert decide(self.settings, snapshot, self.now) == actions, "it has no memory"
        shuffled = list(snapshot.workers)
        self.shuffle.shuffle(shuffled)
        other = decide(self.settings, replace(snapshot, workers=shuffled), self.now)
        assert sorted(map(repr, other)) == sorted(map(repr, actions)), "the order says nothing"
        known = {w.number: w for w in snapshot.workers}
        said = [a for a in actions if isinstance(a, Tell)]
        assert len({a.number for a in said}) == len(said), "nobody is told two things"
        for action in said:
            rung = RUNGS.index(known[action.number].told)
            assert RUNGS.index(action.what) > rung, "nobody is told the same twice"
        touched = {a.number for a in actions if isinstance(a, Retire | Trace)}
        assert touched <= known.keys()
        spawned = [a.generation for a in actions if isinstance(a, Spawn)]
        assert len(spawned) <= snapshot.room
        assert set(spawned) <= {snapshot.generation, snapshot.next_generation}
        assert not (snapshot.stopping and spawned)
        assert sum(isinstance(a, Keep) for a in actions) <= 1
        gone = {a.number for a in said}
        for generation in {*spawned}:
            staying = [
                w
                for w in snapshot.workers
                if w.generation == generation
                and not w.told
                and not w.retiring
                and w.number not in gone
            ]
            assert len(staying) + spawned.count(generation) <= self.settings.workers
        idle = [a for a in said if a.why == "idle"]
        assert len(idle) <= (snapshot.tick and self.settings.pm != "static"), "one a tick"

    def do(self, action: object) -> None:
        """Do what was decided, as a pool does."""
        if isinstance(action, Spawn):
            self.number += 1
            up = self.now + self.shuffle.choice([0.1, 0.5, 2.0])
            process = Process(self.number, action.generation, self.now, up, last=self.now)
            self.processes[self.number] = process
        elif isinstance(action, Promote):
            self.generation = self.following
            self.pace = Pace(self.next_target)
        elif isinstance(action, Keep):
            assert 0 <= action.pace.target <= self.settings.workers
            self.pace = action.pace
        elif isinstance(action, Retire):
            self.processes[action.number].retiring = action.why
        elif isinstance(action, Trace):
            self.processes[action.number].traced = True
        elif isinstance(action, Tell):
            process = self.processes[action.number]
            process.told, process.state, process.since = action.what, LEAVING, self.now


POOLS = st.one_of(
    st.builds(Settings, workers=st.integers(1, 6), pm=st.just("static")),
    st.builds(
        lambda low, wide, over, rate: Settings(
            workers=low + wide + over,
            pm="dynamic",
            start=low,
            min_spare=low,
            max_spare=low + wide,
            max_spawn_rate=rate,
        ),
        st.integers(1, 4),
        st.integers(0, 4),
        st.integers(0, 6),
        st.integers(1, 9),
    ),
    st.builds(
        Settings, workers=st.integers(1, 6), pm=st.just("ondemand"), idle_timeout=st.just(5.0)
    ),
)
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["come", "come", "come", "die", "reload", "hang", "grow", "near", "break", "mend", ""]
        ),
        st.integers(0, 9),
        st.sampled_from([0.0, 0.1, 0.3, 1.0, 3.0]),
    ),
    max_size=40,
)


def play(simulation: Simulation, events: list[tuple[str, int, float]]) -> None:
    """Let *events* happen to a pool."""
    simulation.pace = Pace(simulation.settings.first_target())
    for what, which, seconds in events:
        alive = list(simulation.processes.values())
        chosen = alive[which % len(alive)] if alive else None
        if what == "come":
            simulation.waiting += which
            simulation.arrivals += bool(which)
        elif what == "reload":
            simulation.reload()
        elif what in ("break", "mend"):
            simulation.broken = what == "break"
        elif chosen is None:
            pass
        elif what == "die":
            simulation.die(chosen)
        elif what == "hang":
            chosen.stubborn, chosen.until, chosen.begun = True, simulation.now, simulation.now
        elif what == "grow":
            chosen.memory = 1000
        elif what == "near" and not chosen.told and chosen.state == READY:
            chosen.retiring = chosen.retiring or "requests"
        simulation.step(seconds)


@settings(max_examples=300, deadline=None)
@given(POOLS, st.integers(0, 8), st.booleans(), st.booleans(), EVENTS, st.integers(0, 2**32))
def test_a_pool_comes_to_rest(pool, process_max, limited, timed, events, seed):
    pool = replace(
        pool,
        max_memory=500 if limited else 0,
        request_timeout=10.0 if timed else 0.0,
        slow_after=1.0 if timed else 0.0,
        grace=4.0,
    )
    simulation = Simulation(pool, process_max, random.Random(seed))
    play(simulation, events)
    simulation.broken = False
    for process in simulation.processes.values():  # who does nothing else leaves as announced
        if process.retiring == "requests" or (process.stubborn and not timed):
            process.told, process.state = "KILL", LEAVING
    for _ in range(150):
        simulation.step(1.0)
    rest = list(simulation.processes.values())
    assert simulation.following == simulation.generation
    assert simulation.waiting == 0
    assert all(
        p.state == READY and not p.told and p.generation == simulation.generation for p in rest
    )
    assert not any(p.memory > 500 for p in rest) or not limited
    least, most = {
        "static": (pool.workers, pool.workers),
        "dynamic": (min(pool.min_spare, pool.workers), pool.max_spare),
        "ondemand": (0, 0),
    }[pool.pm]
    if process_max:
        least, most = min(least, process_max), min(most, process_max)
        assert least <= len(rest) <= most
    else:
        assert least <= len(rest) == simulation.pace.target <= most


@settings(max_examples=100, deadline=None)
@given(POOLS, EVENTS, st.sampled_from(["graceful", "fast"]), st.integers(0, 2**32))
def test_a_pool_that_stops_ends(pool, events, how, seed):
    pool = replace(pool, grace=4.0)
    simulation = Simulation(pool, 0, random.Random(seed))
    play(simulation, events)
    simulation.stopping = how
    for _ in range(20):
        simulation.step(1.0)
    assert not simulation.processes
