"""What the master does next, as pure functions of what it knows: no forks, no signals, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

STARTING, READY, LEAVING = "starting", "ready", "leaving"
"""A worker's states: forked; accepting; told to leave."""


@dataclass(frozen=True)
class Settings:
    """How many workers there are and how long things may take, in seconds; 0 is no limit."""

    workers: int
    request_timeout: float = 0.0
    start_timeout: float = 60.0
    grace: float = 30.0
    kill_after: float = 3.0
    max_backoff: float = 10.0


@dataclass(frozen=True)
class View:
    """What the master knows of one worker. Times are monotonic seconds."""

    number: int
    generation: int
    state: str
    since: float
    busy_since: float = 0.0
    told: str = ""


@dataclass(frozen=True)
class Snapshot:
    """What the master knows of all."""

    generation: int
    """The one that serves."""
    next_generation: int
    """The one that is being started; equal to *generation* when none is."""
    workers: Sequence[View]
    failures: int = 0
    """Workers in a row that died before they were ready."""
    last_failure: float = 0.0
    stopping: str = ""
    """``""``, ``"graceful"`` or ``"fast"``."""


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
class Promote:
    """The next generation is ready: it is the one that serves now."""


Action: TypeAlias = Spawn | Tell | Promote


def decide(settings: Settings, snapshot: Snapshot, now: float) -> list[Action]:
    """Return what is to be done at the monotonic time *now*."""
    actions: list[Action] = []
    for worker in snapshot.workers:
        told = _overdue(settings, snapshot, worker, now)
        if told is not None:
            actions.append(told)
    if snapshot.stopping:
        return actions
    coming = snapshot.next_generation
    if coming != snapshot.generation:
        ready = sum(w.generation == coming and w.state == READY for w in snapshot.workers)
        if ready >= settings.workers:
            return [*actions, Promote()]
    if now >= snapshot.last_failure + backoff(settings, snapshot.failures):
        for generation in sorted({snapshot.generation, coming}):
            alive = [w for w in snapshot.workers if w.generation == generation]
            missing = settings.workers - sum(w.state != LEAVING for w in alive)
            # After failures one at a time: the next one shows whether the cause is gone.
            actions += [Spawn(generation)] * max(
                0, min(missing, 1) if snapshot.failures else missing
            )
    if coming == snapshot.generation:
        actions += [
            Tell(w.number, "QUIT", "of an older generation")
            for w in snapshot.workers
            if w.generation != coming and not w.told
        ]
    return actions


def backoff(settings: Settings, failures: int) -> float:
    """Return how many seconds to wait before the next fork after *failures* in a row."""
    return 0.0 if failures == 0 else min(settings.max_backoff, 0.1 * 2.0 ** min(failures - 1, 20))


def _overdue(settings: Settings, snapshot: Snapshot, worker: View, now: float) -> Tell | None:
    """Climb the ladder QUIT, TERM, KILL for a worker that is late."""
    since = now - worker.since
    if worker.told == "KILL":
        return None
    if worker.told == "TERM":
        if since >= settings.kill_after:
            return Tell(worker.number, "KILL", "did not end after TERM")
        return None
    if snapshot.stopping == "fast":
        return Tell(worker.number, "TERM")
    if worker.told == "QUIT":
        if settings.grace and since >= settings.grace:
            return Tell(worker.number, "TERM", f"did not finish within {settings.grace:g} s")
    elif snapshot.stopping == "graceful":
        return Tell(worker.number, "QUIT")
    elif worker.state == STARTING and settings.start_timeout and since >= settings.start_timeout:
        return Tell(worker.number, "TERM", f"was not ready within {settings.start_timeout:g} s")
    if settings.request_timeout and worker.busy_since:
        busy = now - worker.busy_since
        if busy >= settings.request_timeout:
            return Tell(worker.number, "TERM", f"a request took longer than {busy:.1f} s")
    return None
