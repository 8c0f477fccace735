"""The status page's counters are exact, whatever workers come and go."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest
from chaos.program import Program, running

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[2] / "contrib" / "benchmarks" / "fcgibench.c"
KINDS = {
    "prefork": {"pm.max_children": "3"},
    "threaded": {"sapi": "fcgi-threaded", "threads": "4"},
    "event": {"app": "changing:asgi"},
}


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    """The load client, compiled."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    path = tmp_path_factory.mktemp("bench") / "fcgibench"
    subprocess.run(["cc", "-O2", "-o", path, SOURCE], check=True, timeout=120)
    return path


@pytest.mark.parametrize(
    ("requests", "limit"), [(20_000, 500), pytest.param(1_000_000, 5000, marks=pytest.mark.long)]
)
def test_every_request_is_counted_once(tmp_path, bench, requests, limit):
    """Also while workers leave at their limit, and generations are replaced."""
    pools = {
        name: {
            **directives,
            "pm.max_requests": str(limit),
            "pm.max_requests_jitter": str(limit // 5),
            "pm.status_listen": str(tmp_path / f"{name}.status"),
        }
        for name, directives in KINDS.items()
    }
    each = requests // len(pools)
    with running(Program(tmp_path, pools)) as program:
        begun = time.monotonic()
        clients = {
            pool: subprocess.Popen(
                [bench, "-c", "8", "-n", str(each), program.address(pool)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for pool in pools
        }
        counts = dict.fromkeys(pools, 0)
        looks = reloads = 0
        try:
            next_reload = begun + 0.5
            while any(client.poll() is None for client in clients.values()):
                for pool in pools:
                    count = program.status(pool)["accepted conn"]
                    assert counts[pool] <= count <= each, "a counter never falls"
                    counts[pool] = count
                    looks += 1
                if time.monotonic() > next_reload:
                    assert program.ask("reload") == "ok"
                    reloads += 1
                    next_reload = time.monotonic() + 1
        finally:
            said = {pool: client.communicate()[0].strip() for pool, client in clients.items()}
        print(f"\n{time.monotonic() - begun:.1f} s, {looks} looks, {reloads} reloads")
        for pool, client in clients.items():
            page = program.status(pool)
            print(f"{pool}: {said[pool]}; accepted conn {page['accepted conn']}")
            assert client.returncode == 0, said[pool]
            assert page["accepted conn"] == each
            assert page["lost requests"] == 0
