"""The real process tree: respawn, reload, stop, faults."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fastcgi_client import Client, fetch
from serving import serving, until

GOOD = """
def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"{answer}"]
"""


@pytest.fixture
def app(tmp_path):
    """A module of its own, whose source a test may change; returns a function that writes it."""
    folder = tmp_path / "app"
    folder.mkdir()

    def write(source: str) -> Path:
        # One size a version, and no stale byte code: reloads come within a second.
        (folder / "changing.py").write_text(source)
        for cached in folder.glob("__pycache__/*"):
            cached.unlink()
        return folder

    write(GOOD.format(answer="first"))
    write.folder = folder  # type: ignore[attr-defined]
    return write


def test_a_killed_worker_is_replaced_and_one_request_is_lost_at_most(tmp_path):
    with serving(tmp_path, "server_apps:wsgi", "--workers", "2") as served:
        until(lambda: len(served.workers()) == 2)
        before = set(served.workers())
        assert fetch(served.address, PATH_INFO="/kill").ended is None
        for _ in range(20):
            assert fetch(served.address, PATH_INFO="/x").body == b"/x"
        until(lambda: len(served.workers()) == 2 and set(served.workers()) != before)


def test_system_exit_in_the_application_is_a_500_and_the_worker_lives(tmp_path):
    with serving(tmp_path, "server_apps:wsgi", "--workers", "1") as served:
        pid = fetch(served.address, PATH_INFO="/pid").body
        assert fetch(served.address, PATH_INFO="/exit").status == 500
        assert fetch(served.address, PATH_INFO="/pid").body == pid


def test_reload_brings_new_code_without_a_failure(tmp_path, app):
    with serving(tmp_path, "changing:wsgi", "--workers", "2", path=app.folder) as served:
        failures, stop = [], threading.Event()

        def load() -> None:
            while not stop.is_set():
                try:
                    answer = fetch(served.address)
                    if answer.ended is None or answer.body not in (b"first", b"other"):
                        failures.append(answer)
                except OSError as error:
                    failures.append(error)

        threads = [threading.Thread(target=load) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            app(GOOD.format(answer="other"))
            served.signal(signal.SIGHUP)
            until(lambda: "generation 2 serves" in served.text)
            until(lambda: len(served.workers()) == 2)
            for _ in range(10):
                assert fetch(served.address).body == b"other"
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert not failures


@pytest.mark.parametrize(
    "source",
    [
        "import no_such_module_anywhere",
        "def broken(:",
        "raise SystemExit(1)",
        "import os; os._exit(7)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "nothing = 1",
    ],
)
def test_a_reload_that_fails_keeps_the_old_generation(tmp_path, app, source):
    with serving(tmp_path, "changing:wsgi", "--workers", "2", path=app.folder) as served:
        app(source)
        served.signal(signal.SIGUSR2)
        until(lambda: "reload failed" in served.text)
        for _ in range(10):
            assert fetch(served.address).body == b"first"
        app(GOOD.format(answer="mended"))
        served.signal(signal.SIGHUP)
        until(lambda: fetch(served.address).body == b"mended")


def test_a_storm_of_reloads_is_survived(tmp_path):
    with serving(tmp_path, "server_apps:wsgi", "--workers", "1") as served:
        for _ in range(200):
            served.signal(signal.SIGHUP)
        until(lambda: " serves" in served.text)
        assert fetch(served.address, PATH_INFO="/x").body == b"/x"
        until(lambda: len(served.workers()) == 1, 20)


@pytest.mark.parametrize(
    ("app_name", "status", "said"),
    [
        ("no_such_module:app", 2, "serve: there is no module 'no_such_module'"),
        ("server_apps:nothing", 2, "serve: module 'server_apps' has no attribute 'nothing'"),
        ("server_apps:Path.cwd.__doc__", 2, "serve:"),
        ("server_apps", 2, "MODULE:ATTRIBUTE"),
    ],
)
def test_mistakes_are_one_line_and_status_2(tmp_path, app_name, status, said):
    with serving(tmp_path, app_name, "--workers", "3", ready=False) as served:
        assert served.wait() == status
        assert said in served.text
        assert served.text.count("\n") == 1, served.text
        assert not Path(served.address).exists()


def test_a_module_that_raises_shows_its_own_traceback_once(tmp_path, app):
    app("raise KeyError('its own')")
    with serving(tmp_path, "changing:wsgi", "--workers", "3", path=app.folder, ready=False) as s:
        assert s.wait() == 1
        assert s.text.count("KeyError: 'its own'") == 1
        assert "changing.py" in s.text


def test_an_application_that_refuses_to_start_says_why(tmp_path, app):
    app(
        "async def asgi(scope, receive, send):\n"
        "    await receive()\n"
        "    await send({'type': 'lifespan.startup.failed', 'message': 'no database'})\n"
    )
    with serving(tmp_path, "changing:asgi", path=app.folder, ready=False) as served:
        assert served.wait() == 1
        assert "no database" in served.text


def test_workers_end_when_the_master_is_killed(tmp_path):
    with serving(tmp_path, "server_apps:wsgi", "--workers", "2") as served:
        until(lambda: len(served.workers()) == 2)
        workers = served.workers()
        served.process.kill()
        served.wait()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    with serving(tmp_path, "server_apps:wsgi", "--workers", "1") as served:  # takes the socket over
        assert fetch(served.address, PATH_INFO="/x").body == b"/x"


def test_max_requests_is_exact(tmp_path):
    options = ("--workers", "1", "--max-requests", "3")
    with serving(tmp_path, "server_apps:wsgi", *options) as served:
        pids = [fetch(served.address, PATH_INFO="/pid").body for _ in range(9)]
        assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 3]


def test_max_requests_counts_requests_and_not_what_else_comes(tmp_path):
    options = ("--workers", "1", "--max-requests", "3")
    with serving(tmp_path, "server_apps:wsgi", *options) as served, Client(served.address) as one:
        first = int(fetch(served.address, PATH_INFO="/pid").body)
        for _ in range(5):  # questions are no requests
            one.socket.sendall(one.codec.get_values(b"FCGI_MAX_REQS"))
            while 0 not in one.answers:
                assert one.receive()
            del one.answers[0]
        body = b"x" * 300_000  # nor are the pieces of one
        assert fetch(served.address, PATH_INFO="/hash", body=body).status == 200
        assert int(fetch(served.address, PATH_INFO="/pid").body) == first
        assert int(fetch(served.address, PATH_INFO="/pid").body) != first


@pytest.mark.parametrize("app_name", ["wsgi", "asgi"])
def test_max_requests_loses_nothing_under_load(tmp_path, app_name):
    options = ("--sapi", "fcgi-threaded", "--workers", "2", "--max-requests", "20")
    with serving(tmp_path, f"server_apps:{app_name}", *options) as served:
        failures = []

        def load() -> None:
            for n in range(100):
                answer = fetch(served.address, PATH_INFO=f"/{n}")
                if answer.body != f"/{n}".encode():
                    failures.append(answer)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures


@pytest.mark.parametrize("kind", ["wsgi --sapi fcgi-prefork", "wsgi --sapi fcgi-threaded", "asgi"])
def test_out_of_descriptors_the_server_waits_and_comes_back(tmp_path, kind):
    """EMFILE: no busy loop, no crash; connections that wait are served once there is room."""
    app_name, *options = kind.split()
    with serving(tmp_path, f"server_apps:{app_name}", "--workers", "1", *options) as served:
        assert fetch(served.address, PATH_INFO="/x").body == b"/x"
        pid = int(fetch(served.address, PATH_INFO="/pid").body)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (40, 40))
        held = [Client(served.address) for _ in range(60)]
        until(lambda: "Too many open files" in served.text)
        for client in held:
            client.socket.close()
        assert fetch(served.address, PATH_INFO="/x").body == b"/x"
        assert int(fetch(served.address, PATH_INFO="/pid").body) == pid


@pytest.mark.parametrize("sapi", ["fcgi-prefork", "fcgi-threaded"])
def test_a_request_that_takes_too_long_is_ended(tmp_path, sapi):
    options = ("--sapi", sapi, "--workers", "1", "--request-timeout", "0.5")
    with serving(tmp_path, "server_apps:wsgi", *options) as served:
        with Client(served.address) as client:
            client.send(PATH_INFO="/wait", QUERY_STRING=str(tmp_path / "never"))
            answer = client.answer()
            assert answer.status == 504
        assert fetch(served.address, PATH_INFO="/x").body == b"/x"
        until(lambda: "a request took longer" in served.text)


def test_a_slow_asgi_request_is_cancelled_and_others_go_on(tmp_path):
    options = ("--workers", "1", "--request-timeout", "0.5")
    with serving(tmp_path, "server_apps:asgi", *options) as served:
        pid = fetch(served.address, PATH_INFO="/pid").body
        answer = fetch(served.address, PATH_INFO="/wait", QUERY_STRING=str(tmp_path / "never"))
        assert answer.status == 504
        assert fetch(served.address, PATH_INFO="/pid").body == pid


def test_the_pid_file_is_written_and_removed(tmp_path):
    pid = tmp_path / "pid"
    with serving(tmp_path, "server_apps:wsgi", "--workers", "1", "--pid", str(pid)) as served:
        assert int(pid.read_text()) == served.process.pid
        served.signal(signal.SIGTERM)
        served.wait()
        assert not pid.exists()


def test_logs(tmp_path):
    access, error = tmp_path / "access", tmp_path / "error"
    options = ("--workers", "1", "--access-log", str(access), "--error-log", str(error))
    with serving(tmp_path, "server_apps:wsgi", *options, ready=False) as served:
        fetch(served.address, PATH_INFO="/exit", REQUEST_URI='/a"b\x1b[31m\xff')
        until(lambda: access.exists() and access.read_text())
        line = access.read_text()
        assert line.startswith("127.0.0.1 - - [")
        assert '"GET /a\\"b\\x1b[31m\\xff HTTP/1.1" 500 ' in line
        until(lambda: "SystemExit" in error.read_text())


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_rotated_logs_are_opened_again(tmp_path, number):
    access = tmp_path / "access"
    options = ("--workers", "1", "--access-log", str(access))
    with serving(tmp_path, "server_apps:wsgi", *options) as served:
        fetch(served.address, PATH_INFO="/before")
        until(lambda: "/before" in access.read_text())
        workers = served.workers()
        access.rename(tmp_path / "rotated")
        served.signal(number)
        until(lambda: "the logs were opened again" in served.text)
        if number == signal.SIGHUP:
            until(lambda: "generation 2 serves" in served.text)
        else:
            assert served.workers() == workers, "nobody is replaced for a log"
        fetch(served.address, PATH_INFO="/after")
        until(lambda: access.exists() and "/after" in access.read_text())
        assert "/before" in (tmp_path / "rotated").read_text()


def test_a_full_disk_fails_no_request(tmp_path):
    options = ("--workers", "1", "--access-log", "/dev/full")
    with serving(tmp_path, "server_apps:wsgi", *options) as served:
        assert fetch(served.address, PATH_INFO="/x").body == b"/x"


def test_a_source_change_reloads(tmp_path, app):
    options = ("--reload",)
    with serving(tmp_path, "changing:wsgi", *options, path=app.folder) as served:
        assert fetch(served.address).body == b"first"
        source = app(GOOD.format(answer="other")) / "changing.py"
        os.utime(source, (source.stat().st_mtime + 5,) * 2)
        until(lambda: fetch(served.address).body == b"other", 20)


def test_a_child_does_not_run_the_callers_code(tmp_path):
    """run() forks inside somebody's program: only the master returns from it."""
    script = tmp_path / "program.py"
    script.write_text(
        "import sys, atexit\n"
        "from sapi_adapters import run\n"
        "from server_apps import wsgi\n"
        "atexit.register(lambda: open(sys.argv[2], 'a').write('exit\\n'))\n"
        "status = run(wsgi, socket=sys.argv[1], workers=3)\n"
        "open(sys.argv[2], 'a').write(f'returned {status}\\n')\n"
    )
    notes, path = tmp_path / "notes", str(tmp_path / "s")
    process = subprocess.Popen(
        [sys.executable, str(script), path, str(notes)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent / "servers")},
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    try:
        assert fetch(path, PATH_INFO="/x").body == b"/x"
    finally:
        process.send_signal(signal.SIGQUIT)
        assert process.wait(15) == 0
    assert notes.read_text() == "returned 0\nexit\n"


def test_a_head_that_comes_slowly_shows_and_holds_nobody(tmp_path):
    status = str(tmp_path / "status.sock")
    options = ("--status-path", "/status", "--set", f"pm.status_listen={status}")
    with serving(tmp_path, "server_apps:wsgi", "--workers", "1", *options) as served:

        def state() -> str:
            page = fetch(status, PATH_INFO="/status", QUERY_STRING="json&full").body
            return json.loads(page)["processes"][0]["state"]

        until(lambda: state() == "Idle")
        with Client(served.address) as slow:
            head = slow.codec.begin(1, [(b"REQUEST_METHOD", b"GET")])
            slow.socket.sendall(head[:30])
            until(lambda: state() == "Reading headers")
            assert fetch(served.address, PATH_INFO="/y").body == b"/y"
        until(lambda: state() == "Idle")
