"""Reloads to something that does not start: under load no request notices."""

from __future__ import annotations

import pytest
from chaos.load import Load
from chaos.program import Program, running
from fastcgi_client import fetch

pytestmark = pytest.mark.slow

LIFESPAN = """
async def asgi(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
"""
FACTORY = "from apps import make\ndef create():\n    return make({!r})[0]\n"
BROKEN = [
    ("import-error", {}, "import no_such_module", "No module named 'no_such_module'"),
    ("syntax-error", {}, "def broken(:", "SyntaxError"),
    ("system-exit", {}, "raise SystemExit(1)", "SystemExit"),
    ("exit", {}, "import os; os._exit(7)", "status 7"),
    ("exit-0", {}, "import os; os._exit(0)", "status 0"),
    ("kill", {}, "import os; os.kill(os.getpid(), 9)", "SIGKILL"),
    ("no-attribute", {}, "nothing = 1", "has no attribute 'wsgi'"),
    ("no-application", {}, "wsgi = 7", "wsgi"),
    ("hang", {}, "import time; time.sleep(1000)", "was not ready within 1 s"),
    ("lifespan", {"app": "changing:asgi"}, LIFESPAN, "no database"),
    (
        "factory",
        {"app": "changing:create", "factory": "yes"},
        "def create():\n    raise KeyError('its own')",
        "its own",
    ),
]


@pytest.mark.parametrize(
    ("directives", "source", "why"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN]
)
def test_a_broken_application_keeps_the_old_one(tmp_path, directives, source, why):
    program = Program(tmp_path, {"www": {"pm.start_timeout": "1s", **directives}})
    if "factory" in directives:
        program.code(source=FACTORY.format("first"))
    with running(program):
        with Load(program.address("www"), rate=100) as load:
            program.code(source=source)
            told = program.tell("reload")
            after = program.status()
        assert told.returncode == 1, program.text
        assert why in told.stderr
        assert not load.seen.failures
        assert {body for *_, body in load.seen.answers} == {"first"}
        assert "reload failed" in program.text
        assert (after["reloads"], after["failed reloads"], after["generation"]) == (0, 1, 1)
        assert why in after["last failure"]
        mended_again(program, "factory" in directives)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("pm = static", "pm = statik", "pm = statik"),
        ("[www]", "[www", "file.conf:"),
        ("pm.max_children = 2", "", "pm.max_children"),
        ("listen = ", "listen = /no/such/directory", "/no/such/directory"),
    ],
)
def test_a_broken_configuration_keeps_the_old_one(tmp_path, old, new, why):
    with running(Program(tmp_path, {"www": {}})) as program:
        right = program.file.read_text()
        with Load(program.address("www"), rate=100) as load:
            program.file.write_text(right.replace(old, new))
            told = program.tell("reload")
            after = program.status()
        assert told.returncode == 1
        assert why in told.stderr
        assert not load.seen.failures
        assert "reload failed" in program.text
        assert (after["reloads"], after["failed reloads"]) == (0, 1)
        assert why in after["last failure"]
        program.file.write_text(right)
        mended_again(program, False)


def mended_again(program, factory):
    """The next reload is none the worse for it."""
    if factory:
        program.code(source=FACTORY.format("mended"))
    else:
        program.code("mended")
    with Load(program.address("www"), rate=100) as load:
        told = program.tell("reload")
    page = program.status()
    assert told.returncode == 0, told.stderr
    assert not load.seen.failures
    assert fetch(program.address("www")).body == b"mended"
    assert (page["reloads"], page["failed reloads"], page["last failure"]) == (1, 1, "-")


def test_an_address_that_a_failed_reload_asked_for_is_given_back(tmp_path):
    """What the next generation would have listened on goes with it; what serves stays."""
    with running(Program(tmp_path, {"www": {}})) as program:
        old, new = program.address("www"), str(tmp_path / "other.sock")
        program.settle()
        descriptors = program.descriptors()
        for _ in range(2):
            program.pools["www"]["listen"] = new
            program.configure()
            program.code(source="import no_such_module")
            assert "no_such_module" in program.ask("reload")
            program.pools["www"]["listen"] = old
            program.code("mended")
            program.configure()
            assert program.ask("reload") == "ok"
        program.settle()
        assert program.descriptors() == descriptors
        program.pools["www"]["listen"] = new
        program.configure()
        assert program.ask("reload") == "ok"
        assert program.status()["reloads"] == 3


@pytest.mark.parametrize(
    ("source", "status", "said"),
    [
        ("import time; time.sleep(1)\nfrom apps import make\nwsgi, _ = make('late')", 0, ""),
        ("import no_such_module", 1, "two: "),
        ("import os; os.kill(os.getpid(), 9)", 1, "two: worker"),
    ],
)
def test_a_pool_that_a_reload_adds_is_waited_for(tmp_path, source, status, said):
    with running(Program(tmp_path, {"www": {}}, log_level="debug")) as program:
        (tmp_path / "site" / "added.py").write_text(source)
        program.pools["two"] = {"app": "added:wsgi"}
        program.configure()
        told = program.tell("reload")
        assert (told.returncode, said in told.stderr) == (status, True), program.text
        if not said:
            ready = [line for line in program.text.splitlines() if line.endswith("is ready")]
            assert any("[pool two] worker" in line for line in ready)
            assert fetch(program.address("two")).body == b"late"
        assert program.status()["reloads"] == 1, "the other pool is renewed all the same"


def test_a_pool_may_go_and_come_back_while_its_old_workers_finish(tmp_path):
    with running(Program(tmp_path, {"www": {}, "two": {}})) as program:
        with Load(program.address("two"), rate=0, longs=1, seconds=3) as load:
            two = program.pools.pop("two")
            program.configure()
            assert program.ask("reload") == "ok"
            program.pools["two"] = two
            program.configure()
            assert program.ask("reload") == "ok"
            assert program.status("two")["generation"]
        assert load.seen.longs and not load.seen.failures
