"""What the master does next for a pool, as a pure function of what it knows: no forks, no clock.

How many workers a pool wants is its *target*. A worker that dies by itself is replaced, as the
target stays; php-fpm's algorithm changes the target, once per tick of a second.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from .config import DYNAMIC, ONDEMAND, STATIC

if TYPE_CHECKING:
    from collections.abc import Sequence

STARTING, READY, LEAVING = "starting", "ready", "leaving"
"""A worker's states: forked; accepting; told to leave."""


@dataclass(frozen=True)
class Settings:
    """How many workers there are and how long things may take, in seconds; 0 is no limit."""

    workers: int
    """At most, except while one takes another's place."""
    pm: str = STATIC
    start: int = 1
    min_spare: int = 1
    max_spare: int = 1
    max_spawn_rate: int = 32
    idle_timeout: float = 10.0
    slow_after: float = 0.0
    request_timeout: float = 0.0
    max_memory: int = 0
    start_timeout: float = 60.0
    grace: float = 30.0
    """How long a worker has to finish; 0 is not at all."""
    kill_after: float = 3.0
    max_backoff: float = 10.0

    def first_target(self) -> int:
        """Return how many workers a fresh pool starts with."""
        return {STATIC: self.workers, DYNAMIC: self.start}.get(self.pm, 0)

    def next_target(self, running: int) -> int:
        """Return how many workers the next generation starts with, in place of *running*.

        At least one, on demand too: it shows that the application loads.
        """
        if self.pm == STATIC:
            return self.workers
        return max(1, min(self.workers, max(running, self.first_target())))


@dataclass(frozen=True)
class View:
    """What the master knows of one worker. Times are monotonic seconds."""

    number: int
    generation: int
    state: str
    since: float
    """When it came into that state."""
    told: str = ""
    idle: bool = True
    """It could take a request at once."""
    busy_since: float = 0.0
    """When the oldest of its running requests began; 0 when none runs."""
    slow_since: float = 0.0
    """The same, of those whose stack was not asked for yet."""
    patience: float = 0.0
    """How much longer than the limit a request may take, where the worker ends it by itself."""
    last_activity: float = 0.0
    memory: int = 0
    """Resident bytes."""
    first_memory: int = 0
    """The same, when it was ready: no other could be smaller."""
    retiring: str = ""
    """Why another takes its place: ``"requests"``, and it leaves by itself, or ``"memory"``."""


@dataclass(frozen=True)
class Pace:
    """php-fpm's memory between two ticks."""

    target: int
    rate: int = 1
    """How many workers may be forked at the next tick that lacks some."""
    warned: bool = False
    """It was said that the pool is at its limit, and it has not been below since."""


@dataclass(frozen=True)
class Snapshot:
    """What the master knows of a pool."""

    generation: int
    """The one that serves."""
    next_generation: int
    """The one that is being started; equal to *generation* when none is."""
    workers: Sequence[View]
    pace: Pace
    next_target: int = 0
    """How many workers the next generation needs to take over."""
    failures: int = 0
    """Workers in a row that died before they were ready."""
    last_failure: float = 0.0
    stopping: str = ""
    """``""``, ``"graceful"`` or ``"fast"``."""
    tick: bool = False
    """A second has passed since the last one."""
    arrivals: int = 0
    """Times that a connection came to a pool on demand since the last look."""
    waiting: bool = False
    """There are connections that nobody has accepted."""
    room: int = 1 << 30
    """How many workers more process.max permits."""
    old_gets: str = "QUIT"
    """What workers of an older generation are told."""


@dataclass(frozen=True)
class Spawn:
    """Fork one worker of *generation*."""

    generation: int


@dataclass(frozen=True)
class Tell:
    """Send worker *number* the signal *what*: QUIT, TERM or KILL."""

    number: int
    what: str
    why: str = ""


@dataclass(frozen=True)
class Trace:
    """Ask worker *number* for its stacks: its request is slow."""

    number: int
    seconds: float


@dataclass(frozen=True)
class Retire:
    """Let another take the place of worker *number*, which leaves when that is ready."""

    number: int
    why: str


@dataclass(frozen=True)
class Promote:
    """The next generation is ready: it is the one that serves now."""


@dataclass(frozen=True)
class Keep:
    """Remember *pace* for the next time."""

    pace: Pace


@dataclass(frozen=True)
class Reached:
    """The pool is at pm.max_children and would need more: count and say it."""


@dataclass(frozen=True)
class Warn:
    """Say *text*."""

    text: str


Action: TypeAlias = Spawn | Tell | Trace | Retire | Promote | Keep | Reached | Warn


def decide(settings: Settings, snapshot: Snapshot, now: float) -> list[Action]:
    """Return what is to be done at the monotonic time *now*."""
    actions: list[Action] = []
    for worker in snapshot.workers:
        actions += _overdue(settings, snapshot, worker, now)
    if snapshot.stopping:
        return actions
    snapshot = _with_told(snapshot, actions)
    if snapshot.next_generation != snapshot.generation:
        return actions + _start_next(settings, snapshot, now)
    pace = snapshot.pace
    if snapshot.tick and settings.pm != STATIC:
        told, pace = _tick(settings, snapshot, now)
        actions += told
        snapshot = _with_told(snapshot, told)
    if settings.pm == ONDEMAND and (snapshot.arrivals or (snapshot.tick and snapshot.waiting)):
        told, pace = _arrived(settings, snapshot, pace)
        actions += told
    if pace != snapshot.pace:
        actions.append(Keep(pace))
    actions += _replace(settings, snapshot, snapshot.generation, pace.target, now)
    actions += [
        Tell(w.number, snapshot.old_gets, "of an older generation")
        for w in snapshot.workers
        if w.generation != snapshot.generation and not w.told
    ]
    return actions + _retire(settings, snapshot, pace.target)


def _with_told(snapshot: Snapshot, actions: Sequence[Action]) -> Snapshot:
    """Return *snapshot* with those marked whom *actions* send away: nobody is told twice."""
    told = {action.number: action.what for action in actions if isinstance(action, Tell)}
    if not told:
        return snapshot
    workers = [replace(w, told=told.get(w.number, w.told)) for w in snapshot.workers]
    return replace(snapshot, workers=workers)


def _alive(snapshot: Snapshot, generation: int) -> list[View]:
    """Return those who were not told to leave."""
    return [w for w in snapshot.workers if w.generation == generation and not w.told]


def _start_next(settings: Settings, snapshot: Snapshot, now: float) -> list[Action]:
    """Bring the next generation up beside the one that serves, which is kept whole."""
    coming = _alive(snapshot, snapshot.next_generation)
    ready = sum(w.state == READY for w in coming)
    if ready >= snapshot.next_target:
        return [Promote()]
    if snapshot.room <= 0 and not any(w.told for w in snapshot.workers):
        # process.max: the two generations do not fit in beside each other.
        if coming and ready == len(coming):
            return [Promote()]  # the application loads; the others come as the old ones leave
        serving = [w for w in _alive(snapshot, snapshot.generation) if w.state == READY]
        if not coming and serving:
            eldest = min(serving, key=lambda w: (not w.idle, w.number))
            return [Tell(eldest.number, "QUIT", "makes room for the next generation")]
    wanted = [
        (snapshot.generation, snapshot.pace.target),
        (snapshot.next_generation, snapshot.next_target),
    ]
    if not coming:
        wanted.reverse()  # with little room the first of the next generation comes first
    actions: list[Action] = []
    for generation, target in wanted:
        room = max(0, snapshot.room - len(actions))
        actions += _replace(settings, replace(snapshot, room=room), generation, target, now)
    return actions


def _replace(
    settings: Settings, snapshot: Snapshot, generation: int, target: int, now: float
) -> list[Action]:
    """Fork what *generation* lacks."""
    if now < snapshot.last_failure + backoff(settings, snapshot.failures):
        return []
    there = sum(not w.retiring for w in _alive(snapshot, generation))
    missing = max(0, target - there)
    if snapshot.failures:
        missing = min(missing, 1)  # the next one shows whether the cause is gone
    spawned: list[Action] = [Spawn(generation)] * min(missing, snapshot.room)
    if missing > snapshot.room:
        spawned.append(Warn("process.max is reached: no worker is started"))
    return spawned


def _tick(settings: Settings, snapshot: Snapshot, now: float) -> tuple[list[Action], Pace]:
    """php-fpm's maintenance of idle workers; those that start, or are about to, count as idle."""
    pace = snapshot.pace
    workers = [w for w in _alive(snapshot, snapshot.generation) if not w.retiring]
    idle = [w for w in workers if w.idle or w.state == STARTING]
    eldest = min((w for w in idle if w.state == READY), key=lambda w: w.number, default=None)
    if settings.pm == ONDEMAND:
        if eldest is not None and now - eldest.last_activity > settings.idle_timeout:
            return [Tell(eldest.number, "QUIT", "idle")], replace(pace, target=pace.target - 1)
        return [], pace
    running = max(pace.target, len(workers))
    spare = len(idle) + running - len(workers)
    if spare > settings.max_spare and eldest is not None:
        return [Tell(eldest.number, "QUIT", "idle")], replace(pace, target=pace.target - 1, rate=1)
    if spare >= settings.min_spare:
        return [], replace(pace, rate=1)
    if running >= settings.workers:
        said: list[Action] = [] if pace.warned else [Reached()]
        return said, replace(pace, rate=1, warned=True)
    more = min(pace.rate, settings.min_spare - spare, settings.workers - running)
    actions: list[Action] = []
    if pace.rate >= 8:
        actions.append(
            Warn(
                f"seems busy: {more} workers more, of {running} {spare} are idle"
                " (pm.start_servers or pm.min/max_spare_servers may be too low)"
            )
        )
    rate = pace.rate * 2 if pace.rate < settings.max_spawn_rate else pace.rate
    return actions, Pace(running + more, rate)


def _arrived(settings: Settings, snapshot: Snapshot, pace: Pace) -> tuple[list[Action], Pace]:
    """A connection came to a pool on demand: one worker more, unless one is idle."""
    workers = [w for w in _alive(snapshot, snapshot.generation) if not w.retiring]
    if any(w.idle and w.state == READY for w in workers):
        return [], pace
    if snapshot.failures or (not snapshot.arrivals and pace.target > len(workers)):
        return [], pace
    more = min(max(snapshot.arrivals, 1), settings.workers - pace.target)
    if more > 0:
        return [], replace(pace, target=pace.target + more, warned=False)
    return ([] if pace.warned else [Reached()]), replace(pace, warned=True)


def _retire(settings: Settings, snapshot: Snapshot, target: int) -> list[Action]:
    """Let others take the place of those that grew too large, then send those away."""
    actions: list[Action] = []
    workers = _alive(snapshot, snapshot.generation)
    fresh = sum(w.state == READY and not w.retiring for w in workers)
    coming = any(w.told or w.state == STARTING for w in snapshot.workers)
    crowded = snapshot.room <= 0 and not coming  # by process.max: no other can come before
    for worker in sorted(workers, key=lambda w: w.number):
        if worker.retiring == "memory" and (fresh >= target or crowded):
            actions.append(Tell(worker.number, "QUIT", "above pm.max_memory"))
            crowded = False
        elif (
            settings.max_memory
            and not worker.retiring
            and worker.state == READY
            and worker.first_memory <= settings.max_memory < worker.memory
        ):
            actions.append(Retire(worker.number, "memory"))
    return actions


def backoff(settings: Settings, failures: int) -> float:
    """Return how many seconds to wait before the next fork after *failures* in a row."""
    return 0.0 if failures == 0 else min(settings.max_backoff, 0.1 * 2.0 ** min(failures - 1, 20))


def _overdue(settings: Settings, snapshot: Snapshot, worker: View, now: float) -> list[Action]:
    """Climb the ladder QUIT, TERM, KILL for a worker that is late."""
    since = now - worker.since
    tell: Tell | None = None
    if worker.told == "KILL":
        return []
    if worker.told == "TERM":
        if since >= settings.kill_after:
            return [Tell(worker.number, "KILL", "did not end after TERM")]
        return []
    if snapshot.stopping == "fast":
        return [Tell(worker.number, "TERM")]
    if worker.told == "QUIT":
        if since >= settings.grace:
            return [Tell(worker.number, "TERM", f"did not finish within {settings.grace:g} s")]
    elif snapshot.stopping == "graceful":
        tell = Tell(worker.number, "QUIT")
    elif worker.state == STARTING and settings.start_timeout and since >= settings.start_timeout:
        return [Tell(worker.number, "TERM", f"was not ready within {settings.start_timeout:g} s")]
    actions: list[Action] = []
    slow = now - worker.slow_since if worker.slow_since else 0.0
    if settings.slow_after and slow >= settings.slow_after:
        actions.append(Trace(worker.number, slow))
    busy = now - worker.busy_since if worker.busy_since else 0.0
    if settings.request_timeout and busy >= settings.request_timeout + worker.patience:
        why = f"a request took longer than {busy:.1f} s"
        return [*actions, Tell(worker.number, "TERM", why)]
    return actions if tell is None else [*actions, tell]
