"""Reloads under load: no request fails, the new code answers, the master does not grow."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest
from chaos.load import Load
from chaos.program import Program, running

pytestmark = pytest.mark.slow

KINDS = {
    "prefork": {"pm.max_children": "4"},
    "threaded": {"sapi": "fcgi-threaded", "threads": "4"},
    "event": {"app": "changing:asgi"},
}
_GROWTH = 6 << 20
"""Bytes that a master may grow, at most, between its first reload and its last one."""


LONG = [pytest.param(100, 200, [kind], marks=pytest.mark.long) for kind in KINDS]
"""One pool at a time: three that import an application at once would wait for each other."""


@pytest.mark.parametrize(("reloads", "rate", "kinds"), [(12, 70, list(KINDS)), *LONG])
def test_reloads_under_load_fail_nothing(tmp_path, reloads, rate, kinds):
    pools = {kind: KINDS[kind] for kind in kinds}
    with running(Program(tmp_path, pools)) as program, ExitStack() as stack:
        warm(program)
        descriptors, resident = program.descriptors(), program.resident()
        loads = {
            pool: stack.enter_context(
                Load(program.address(pool), rate=rate, uploads=1 if pool == "prefork" else 2)
            )
            for pool in pools
        }
        asked, took = [], []
        for number in range(reloads):
            due = time.monotonic() + 1
            program.code(f"version {number}")
            asked.append(time.monotonic())
            assert program.ask("reload") == "ok"
            took.append(time.monotonic() - asked[-1])
            time.sleep(max(0.0, due - time.monotonic()))
        stack.close()
        for pool, load in loads.items():
            seen = load.seen
            assert not seen.failures, (pool, len(seen.failures), seen.failures[:5], program.text)
            assert seen.uploads and seen.paced > reloads * rate / 2
            versions = [first_answer(seen.answers, f"version {n}") for n in range(reloads)]
            delays = [at - when for at, when in zip(versions, asked, strict=True)]
            print(
                f"\n{pool}: {reloads} reloads, {seen.paced} requests, {seen.uploads} uploads,"
                f" 0 failures; a reload took {max(took):.2f} s at most, new code answered after"
                f" {max(delays):.2f} s at most; first byte: longest {seen.longest() * 1e3:.0f} ms,"
                f" 99.9 % {seen.delay(0.999) * 1e3:.0f} ms, half {seen.delay(0.5) * 1e3:.1f} ms"
            )
            page = program.status(pool)
            assert page["reloads"] == reloads + 2 and page["lost requests"] == 0
        program.settle()
        assert program.descriptors() == descriptors
        grown = program.resident() - resident
        print(f"the master grew by {grown >> 10} KiB; {len(descriptors)} descriptors")
        assert grown < _GROWTH


def warm(program):
    """Let the master have what it takes only once."""
    for _ in range(2):
        assert program.ask("reload") == "ok"
    program.settle()


def first_answer(answers, version):
    """Return when the first request was answered by *version*."""
    found = (sent + delay for sent, delay, body in answers if body == version)
    return min(found)


def test_the_old_workers_are_told_before_a_reload_is_said_to_be_done(tmp_path):
    """Who asked for the reload may rely on the new code, up to what was accepted before."""
    program = Program(tmp_path, {"www": {"pm.max_children": "4"}}, log_level="debug")
    with running(program):
        for number in range(1, 4):
            program.code(f"version {number}")
            assert program.ask("reload") == "ok"
            assert program.text.count("of an older generation: QUIT") == 4 * number
