"""Pools from a configuration file, as real process trees."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastcgi_client import Answer, Client, fetch
from processes import hold_port
from serving import Served, until

from sapi_adapters.protocols.fastcgi import ClientConnection

APP = """
import json, os, resource, signal, socket, sys, time

ANSWER = "{answer}"
kept = []

def facts():
    before = os.umask(0)
    os.umask(before)
    return {{
        "ids": [*os.getresuid(), *os.getresgid()],
        "groups": sorted(os.getgroups()),
        "cwd": os.getcwd(),
        "umask": before,
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "env": dict(os.environ),
        "root": sorted(os.listdir("/")),
    }}

def wsgi(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    body = ANSWER
    if path == "/facts":
        body = json.dumps(facts())
    elif path == "/pid":
        body = str(os.getpid())
    elif path == "/many":
        body = "x" * 60_000
    elif path == "/wait":
        open(query + ".begun", "w").close()
        end = time.monotonic() + 20
        while not os.path.exists(query) and time.monotonic() < end:
            time.sleep(0.01)
    elif path == "/print":
        print("said plainly", flush=True)
        print("said in error", file=sys.stderr, flush=True)
    elif path == "/grow":
        kept.append(bytearray(b"x" * (int(query) << 20)))
    elif path == "/say":  # over whatever leads to the master
        for fd in range(3, 64):
            try:
                link = socket.socket(fileno=os.dup(fd))
                if link.family == socket.AF_UNIX and link.type == socket.SOCK_SEQPACKET:
                    link.send(bytes.fromhex(query))
                link.close()
            except OSError:
                pass
    elif path == "/crash":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), signal.SIGSEGV)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body.encode()]
"""

ASGI = """
async def asgi(scope, receive, send):
    raise AssertionError("nobody asked for it")
"""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become others")


class Place:
    """A folder that every user may look into, with an application and a configuration file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.conf = folder / "pools.conf"
        self.app("first")

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def app(self, answer: str = "", source: str = "", name: str = "pooled") -> None:
        """Write the application anew."""
        for cached in self.folder.glob("__pycache__/*"):
            cached.unlink()
        (self.folder / f"{name}.py").write_text(source or APP.format(answer=answer))

    def pool(self, name: str, *lines: str, **directives: object) -> str:
        """Return the section of a pool; a directive of None is left out."""
        given: dict[str, object] = {
            "app": "pooled:wsgi",
            "python_path": self.folder,
            "listen": self.path(f"{name}.sock"),
            "pm": "static",
            "pm.max_children": 1,
            **{key.replace("__", "."): value for key, value in directives.items()},
        }
        written = [f"{key} = {value}" for key, value in given.items() if value is not None]
        return "\n".join([f"[{name}]", *written, *lines, ""])

    def write(self, *sections: str, top: str = "") -> None:
        self.conf.write_text(f"[global]\n{top}\n" + "\n".join(sections))

    @contextmanager
    def serving(
        self, *sections: str, top: str = "", ready: bool = True, root: bool = True, log: str = "log"
    ) -> Iterator[Served]:
        """Serve the pools."""
        self.write(*sections, top=top)
        stderr = self.folder / log
        with stderr.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "sapi_adapters", *["-R"] * root, "--config", str(self.conf)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env={**os.environ, "MASTERS_OWN": "seen", "PYTHONDONTWRITEBYTECODE": "1"},
            )
        served = Served(process, stderr, None)
        try:
            if ready:
                until(
                    lambda: (
                        "ready to handle connections" in served.text or process.poll() is not None
                    ),
                    what="the start-up",
                )
                assert process.poll() is None, served.text
            yield served
        finally:
            if process.poll() is None:
                workers = served.workers()
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    for pid in [*workers, process.pid]:
                        os.kill(pid, signal.SIGKILL)
                    process.wait(10)
                    raise


@pytest.fixture
def place() -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="pools."))
    folder.chmod(0o755)
    yield Place(folder)
    shutil.rmtree(folder)


def facts(address: Any) -> dict[str, Any]:
    found = json.loads(fetch(address, PATH_INFO="/facts").body)
    assert isinstance(found, dict)
    return found


def pid_of(address: Any) -> int:
    return int(fetch(address, PATH_INFO="/pid").body)


def page(address: Any, path: str, query: str = "") -> Answer:
    return fetch(address, SCRIPT_NAME=path, PATH_INFO="", QUERY_STRING=query)


def status(address: Any) -> dict[str, Any]:
    found = json.loads(page(address, "/status", "json&full").body)
    assert isinstance(found, dict)
    return found


def refused(address: Any) -> bool:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as probe:
        probe.settimeout(5)
        return probe.connect_ex(address) != 0


@contextmanager
def loaded(*addresses: Any, threads: int = 2) -> Iterator[list[object]]:
    """Ask all the time; yield the list of what failed, which is whole when it is left."""
    failures: list[object] = []
    asked: Counter[Any] = Counter()
    stop = threading.Event()

    def ask(address: Any) -> None:
        while not stop.is_set():
            try:
                answer = fetch(address, PATH_INFO="/x")
                if answer.ended is None or answer.status != 200:
                    failures.append(answer)
            except (OSError, StopIteration) as error:
                failures.append(error)
            asked[address] += 1

    running = [
        threading.Thread(target=ask, args=(address,))
        for address in addresses
        for _ in range(threads)
    ]
    for thread in running:
        thread.start()
    try:
        until(lambda: all(asked[address] > 2 for address in addresses))
        yield failures
        before = asked.copy()
        until(lambda: all(asked[a] > before[a] + 2 for a in addresses))
    finally:
        stop.set()
        for thread in running:
            thread.join(20)


# -- what a worker is -----------------------------------------------------------------------------


@as_root
def test_each_pool_has_its_user(place):
    users = {name: pwd.getpwnam(name) for name in ("www-data", "nobody")}
    sections = [place.pool(name, user=name, listen__mode="0666") for name in users]
    with place.serving(*sections, root=False):
        for name, entry in users.items():
            found = facts(place.path(f"{name}.sock"))
            assert found["ids"] == [entry.pw_uid] * 3 + [entry.pw_gid] * 3
            assert found["groups"] == sorted(set(os.getgrouplist(name, entry.pw_gid)))
            assert found["env"]["USER"] == name
            assert found["env"]["HOME"] == entry.pw_dir


@as_root
def test_a_group_of_ones_choice(place):
    section = place.pool("www", user="www-data", group="nogroup")
    with place.serving(section, root=False):
        found = facts(place.path("www.sock"))
        assert found["ids"][3:] == [65534] * 3


@pytest.mark.skipif(os.geteuid() != 0, reason="anybody else may not serve as root anyway")
@pytest.mark.parametrize("user", [None, "root"])
def test_root_serves_only_when_it_is_allowed(place, user):
    with place.serving(place.pool("www", user=user), ready=False, root=False) as served:
        assert served.wait() != 0
        assert "user" in served.text
        assert not Path(place.path("www.sock")).exists()


def test_a_worker_is_what_its_pool_says(place):
    place.folder.joinpath("inner").mkdir()
    section = place.pool(
        "www",
        "env[PLAIN] = value",
        "env[TAKEN] = $MASTERS_OWN",
        "env[MISSING] = $NO_SUCH_VARIABLE_ANYWHERE",
        chdir=place.path("inner"),
        umask="027",
        rlimit_files=123,
        rlimit_core=0,
        process__priority=7,
    )
    with place.serving(section):
        found = facts(place.path("www.sock"))
    assert found["cwd"] == place.path("inner")
    assert found["umask"] == 0o027
    assert found["files"] == [123, 123]
    assert found["core"] == [0, 0]
    assert found["nice"] == 7
    env = found["env"]
    assert (env["PLAIN"], env["TAKEN"], env["MISSING"]) == ("value", "seen", "")
    assert "MASTERS_OWN" not in env
    assert "PATH" not in env


def test_the_environment_may_be_kept(place):
    with place.serving(place.pool("www", clear_env="no")):
        found = facts(place.path("www.sock"))
    assert found["env"]["MASTERS_OWN"] == "seen"
    assert found["env"]["PATH"] == os.environ["PATH"]


@as_root
def test_a_chroot(place):
    """The application lies inside and imports nothing that Python has not loaded."""
    jail = place.folder / "jail"
    (jail / "code").mkdir(parents=True)
    (jail / "tmp").mkdir()
    shutil.copy(place.folder / "pooled.py", jail / "code" / "pooled.py")
    section = place.pool(
        "www", user="www-data", chroot=jail, chdir="/tmp", python_path="/code", listen__mode="0666"
    )
    with place.serving(section, root=False) as served:
        found = facts(place.path("www.sock"))
        assert found["root"] == ["code", "tmp"]
        assert found["cwd"] == "/tmp"
        assert found["ids"][0] == pwd.getpwnam("www-data").pw_uid
        assert fetch(place.path("www.sock")).body == b"first"
        served.signal(signal.SIGHUP)
        until(lambda: "generation 2 serves" in served.text)
        assert fetch(place.path("www.sock")).body == b"first"


def test_a_step_that_fails_is_named_and_ends_the_start(place):
    place.folder.joinpath("gone").mkdir()
    section = place.pool("www", rlimit_files=2**31 - 1)
    with place.serving(section, ready=False) as served:
        assert served.wait() != 0
        assert "rlimit_files 2147483647" in served.text


# -- where it listens -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["0600", "0666", None])
def test_the_mode_of_a_socket(place, mode):
    with place.serving(place.pool("www", listen__mode=mode)):
        found = Path(place.path("www.sock")).stat()
        assert stat.S_IMODE(found.st_mode) == int(mode or "0660", 8)


@as_root
def test_the_owner_of_a_socket(place):
    section = place.pool("www", user="nobody", listen__owner="www-data", listen__group="daemon")
    with place.serving(section, root=False):
        found = Path(place.path("www.sock")).stat()
        assert (found.st_uid, found.st_gid) == (
            pwd.getpwnam("www-data").pw_uid,
            pwd.getpwnam("daemon").pw_gid,
        )


def test_only_allowed_clients_are_served(place):
    ports = hold_port(), hold_port()
    allowed = ("127.0.0.2", "127.0.0.2,127.0.0.1")
    sections = [
        place.pool(f"p{port}", listen=f"127.0.0.1:{port}", listen__allowed_clients=clients)
        for port, clients in zip(ports, allowed, strict=True)
    ]
    with place.serving(*sections):
        assert fetch(("127.0.0.1", ports[1])).body == b"first"
        try:
            answer = fetch(("127.0.0.1", ports[0]))
        except OSError:
            pass  # it was faster than our request
        else:
            assert answer.stdout == b""
            assert answer.ended is None


def test_two_masters_on_one_socket(place):
    with place.serving(place.pool("www")) as first:
        with place.serving(place.pool("www"), ready=False, log="second") as second:
            assert second.wait() != 0
            assert place.path("www.sock") in second.text
        assert fetch(place.path("www.sock")).body == b"first"
        assert first.process.poll() is None
    assert not Path(place.path("www.sock")).exists()


def test_a_socket_file_that_is_deleted_is_made_again(place):
    path = Path(place.path("www.sock"))
    with place.serving(place.pool("www", listen__mode="0640")) as served:
        path.unlink()
        until(path.exists)
        assert fetch(str(path)).body == b"first"
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert "was deleted or replaced" in served.text
        until(lambda: "generation 2 serves" in served.text)
        until(lambda: len(served.workers()) == 1)
        assert fetch(str(path)).body == b"first"
    assert not path.exists()


def test_after_a_killed_master_nobody_is_left_and_another_takes_over(place):
    sections = [
        place.pool("www", pm__max_children=2),
        place.pool("asked", pm="dynamic", pm__max_children=3, pm__min_spare_servers=1,
                   pm__max_spare_servers=2),
    ]  # fmt: skip
    with place.serving(*sections) as served:
        until(lambda: len(served.workers()) == 3)
        workers = served.workers()
        served.process.kill()
        served.wait()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 10)
    with place.serving(*sections, log="again"):
        assert fetch(place.path("www.sock")).body == b"first"
        assert fetch(place.path("asked.sock")).body == b"first"


# -- what it shows and logs -----------------------------------------------------------------------


def test_status_and_ping(place):
    section = place.pool(
        "www",
        "ping.response = alive",
        pm__max_children=2,
        pm__status_path="/status",
        ping__path="/ping",
    )
    with place.serving(section) as served:
        until(lambda: len(served.workers()) == 2)
        address = place.path("www.sock")
        assert page(address, "/ping").body == b"alive"
        assert fetch(address, PATH_INFO="/ping").body == b"alive", "however it is split"
        assert fetch(address, PATH_INFO="/pinged").body == b"first"
        found = status(address)
        assert (found["pool"], found["process manager"]) == ("www", "static")
        # The one that answered before may not have come to the end of that yet.
        until(lambda: status(address)["active processes"] == 1)
        found = status(address)
        assert {process["pid"] for process in found["processes"]} == set(served.workers())


@pytest.mark.parametrize("sapi", ["fcgi-prefork", "fcgi-threaded"])
def test_status_listen_answers_while_everybody_is_busy(place, sapi):
    section = place.pool(
        "www",
        sapi=sapi,
        threads=None if sapi == "fcgi-prefork" else 1,
        pm__max_children=2,
        pm__status_path="/status",
        pm__status_listen=place.path("status.sock"),
    )
    marker = place.path("go")
    with place.serving(section) as served, ExitStack() as stack:
        held = [stack.enter_context(Client(place.path("www.sock"))) for _ in range(3)]
        for number, client in enumerate(held):
            client.send(PATH_INFO="/wait", QUERY_STRING=f"{marker}{number}")
        until(lambda: len(list(place.folder.glob("go*.begun"))) == 2)
        found = status(place.path("status.sock"))
        assert (found["pool"], found["active processes"]) == ("www", 2)
        assert found["accepted conn"] == 2, "questions for the status are not its own"
        assert page(place.path("status.sock"), "/else").status == 404
        until(lambda: status(place.path("status.sock"))["listen queue"] == 1)
        for number in range(3):
            Path(f"{marker}{number}").touch()
        assert [client.answer().body for client in held] == [b"first"] * 3
        until(lambda: status(place.path("status.sock"))["active processes"] == 0)
        assert status(place.path("status.sock"))["accepted conn"] == 3
        assert "www_status" not in served.text, "nobody made such a pool"


def test_logs(place):
    sections = [
        place.pool(name, f"access.format = {name} %m %r %s", access__log=place.path("$pool.access"))
        for name in ("one", "two")
    ]
    with place.serving(*sections, top=f"error_log = {place.path('error')}", ready=False):
        errors = place.folder / "error"
        until(lambda: errors.exists() and "ready to handle connections" in errors.read_text())
        for name in ("one", "two"):
            fetch(place.path(f"{name}.sock"), REQUEST_URI="/asked", PATH_INFO="/asked")
            log = place.folder / f"{name}.access"
            until(lambda log=log: log.read_text())
            assert log.read_text() == f"{name} GET /asked 200\n"


def test_what_workers_print_is_in_the_log(place):
    sections = [
        place.pool("default"),
        place.pool("bare", decorate_workers_output="no"),
        place.pool("none", catch_workers_output="no"),
    ]
    with place.serving(*sections) as served:
        for name in ("none", "bare", "default"):
            assert fetch(place.path(f"{name}.sock"), PATH_INFO="/print").status == 200
        pid = pid_of(place.path("default.sock"))
        until(lambda: f'child {pid} said into stderr: "said in error"' in served.text)
        until(lambda: f'child {pid} said into stdout: "said plainly"' in served.text)
        until(lambda: "\nsaid plainly\n" in served.text)
        until(lambda: "\nsaid in error\n" in served.text)
        assert served.text.count("said plainly") == 2
        assert served.text.count("said in error") == 2


# -- how many workers, and how long ---------------------------------------------------------------


def test_process_max_counts_over_all_pools_and_a_reload_goes_through(place):
    sections = [place.pool(name, pm__max_children=3) for name in ("one", "two")]
    with place.serving(*sections, top="process.max = 4") as served:
        until(lambda: len(served.workers()) == 4)
        until(lambda: "process.max is reached" in served.text)
        assert [fetch(place.path(f"{n}.sock")).body for n in ("one", "two")] == [b"first"] * 2
        place.app("second")
        served.signal(signal.SIGHUP)
        for name in ("one", "two"):
            until(lambda name=name: f"[pool {name}] generation 2 serves" in served.text)
            until(lambda name=name: fetch(place.path(f"{name}.sock")).body == b"second")
        until(lambda: len(served.workers()) == 4)


def test_a_worker_that_grows_is_replaced_and_no_request_lost(place):
    section = place.pool("www", pm__max_memory="100M")
    address = place.path("www.sock")
    with place.serving(section) as served:
        before = pid_of(address)
        with loaded(address) as failures:
            assert fetch(address, PATH_INFO="/grow", QUERY_STRING="150").body == b"first"
            until(lambda: f"worker {before} has grown" in served.text)
            until(lambda: before not in served.workers())
            until(lambda: len(served.workers()) == 1)
        assert failures == []
        assert pid_of(address) != before


def test_a_limit_below_what_a_worker_needs_at_its_start_replaces_nobody(place):
    section = place.pool("www", pm__max_memory="4M", pm__status_path="/status")
    address = place.path("www.sock")
    with place.serving(section, top="log_level = debug") as served:
        (before,) = served.workers()
        until(lambda: status(address)["memory peak"] > 4 << 20)  # the master has looked
        assert served.workers() == [before]
        assert "has grown" not in served.text
        assert served.text.count("pm.max_memory (4 MiB) is less than a worker needs") == 1


@pytest.mark.parametrize(
    "sapi", [{}, {"sapi": "fcgi-threaded", "threads": 2}, {"app": "asgi_pooled:asgi"}], ids=str
)
def test_a_request_that_is_refused_is_counted_and_logged(place, sapi):
    """Requests with a CONTENT_LENGTH that is no number, whole in one packet or in several."""
    place.app(name="asgi_pooled", source=ASGI)
    section = place.pool(
        "www",
        "access.format = %m %r %s",
        access__log=place.path("access"),
        pm__status_path="/status",
        pm__status_listen=place.path("status.sock"),
        **sapi,
    )
    address = place.path("www.sock")
    with place.serving(section):
        wrong = {"CONTENT_LENGTH": "x", "REQUEST_URI": "/wrong"}
        assert fetch(address, **wrong).status == 400
        with Client(address) as client:
            client.begin(**wrong)
            time.sleep(0.05)  # it is read before the rest comes
            client.stdin(b"")
            assert client.answer().status == 400
        access = place.folder / "access"
        until(lambda: access.read_text() == "GET /wrong 400\n" * 2)
        assert status(place.path("status.sock"))["accepted conn"] == 2


@pytest.mark.parametrize("sapi", [{}, {"sapi": "fcgi-threaded", "threads": 2}], ids=str)
def test_a_response_that_is_not_taken_is_ending(place, sapi):
    section = place.pool(
        "www",
        pm__status_path="/status",
        pm__status_listen=place.path("status.sock"),
        **{"listen": "127.0.0.1:0", **sapi},
    )
    port = hold_port()
    section = section.replace("127.0.0.1:0", f"127.0.0.1:{port}")

    def states() -> list[str]:
        return [each["state"] for each in status(place.path("status.sock"))["processes"]]

    with place.serving(section) as served:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect(("127.0.0.1", port))
            codec = ClientConnection()
            pairs = [(b"REQUEST_METHOD", b"GET"), (b"PATH_INFO", b"/many"), (b"SCRIPT_NAME", b"")]
            pairs += [(b"QUERY_STRING", b""), (b"SERVER_NAME", b"a"), (b"SERVER_PORT", b"80")]
            pairs += [(b"SERVER_PROTOCOL", b"HTTP/1.1")]
            for number in range(1, 400):  # one after the other, until nobody takes the answer
                asked = codec.begin(number, pairs, keep_conn=True)
                client.sendall(asked + codec.stdin(number, b""))
                if all("Ending" in states() for _ in range(3)):  # else it may just be slow
                    break
            else:
                pytest.fail(f"all was taken\n{served.text}")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        until(lambda: states() == ["Idle"])


def test_max_requests_is_exact_with_several_workers_and_no_request_is_lost(place):
    section = place.pool("www", pm__max_children=3, pm__max_requests=20)
    address = place.path("www.sock")
    with place.serving(section) as served:
        until(lambda: len(served.workers()) == 3)

        def some(_: int) -> list[bytes]:
            return [fetch(address, PATH_INFO="/pid").body for _ in range(100)]

        with ThreadPoolExecutor(4) as threads:
            answers = [pid for found in threads.map(some, range(4)) for pid in found]
        served_by = Counter(int(pid) for pid in answers)
        assert sum(served_by.values()) == 400
        # Those that have served their last are still on their way out.
        until(lambda: not any(served_by[pid] >= 20 for pid in served.workers()))
        living = set(served.workers())
        assert 3 <= len(living) <= 6, "one near its last request has another beside it"
        gone = {pid: count for pid, count in served_by.items() if pid not in living}
        assert len(gone) >= 15
        # A connection that it had accepted by then is served: no one else can do it.
        assert set(gone.values()) <= {20, 21}
        assert all(count < 20 for pid, count in served_by.items() if pid in living)


def test_on_demand_begins_with_nobody_and_ends_with_nobody(place):
    section = place.pool("www", pm="ondemand", pm__max_children=2, pm__process_idle_timeout="1s")
    address = place.path("www.sock")
    with place.serving(section) as served:
        assert served.workers() == []
        first = pid_of(address)
        assert served.workers() == [first]
        until(lambda: served.workers() == [])
        assert pid_of(address) != first


def test_crashes_within_the_interval_are_an_emergency(place):
    top = "emergency_restart_threshold = 3\nemergency_restart_interval = 60s"
    section = place.pool("www", pm__max_children=2)
    address = place.path("www.sock")
    with place.serving(section, top=top) as served:
        for crashes in range(1, 4):
            assert fetch(address, PATH_INFO="/crash").ended is None
            until(lambda crashes=crashes: served.text.count("killed by SIGSEGV") == crashes)
            if crashes < 3:
                assert "emergency restart" not in served.text
        until(lambda: "emergency restart" in served.text)
        until(lambda: "generation 2 serves" in served.text)
        assert fetch(address).body == b"first"
        assert served.text.count("emergency restart") == 1


@pytest.mark.parametrize(
    "message",
    [
        b"R",
        b"R1",
        b"R1 x how",
        b"R1 -5 how",
        b"R1 " + b"9" * 5000 + b" how",
        b"D",
        b"D" + b"9" * 40,
        b"D" + b"9" * 5000,
        b"D\xb2",
        b"F",
        b"F\xff",
        b"N",
        b"?",
        b"\xff" * 9,
    ],
    ids=lambda message: repr(message[:12]),
)
def test_what_a_worker_says_wrongly_does_no_harm_to_the_master(place, message):
    address = place.path("www.sock")
    section = place.pool("www", pm__max_children=2, pm__status_path="/status")
    with place.serving(section) as served:
        fetch(address, PATH_INFO="/say", QUERY_STRING=message.hex())
        fetch(address, PATH_INFO="/crash")  # the master sees what it said, at the latest now
        until(lambda: "killed by SIGSEGV" in served.text)
        # One that says it leaves soon has a successor beside it, for as long as it stays.
        wanted = (2, 3) if message == b"N" else (2,)
        until(lambda: len(served.workers()) in wanted)
        assert fetch(address).body == b"first"
        assert served.process.poll() is None
        assert status(address)["pool"] == "www"


# -- a pool among others --------------------------------------------------------------------------


def test_a_pool_that_cannot_start_does_not_keep_others_from_serving(place):
    place.app(source="raise KeyError('its own')", name="broken")
    sections = [place.pool("good"), place.pool("bad", app="broken:wsgi")]
    with place.serving(*sections) as served:
        assert fetch(place.path("good.sock")).body == b"first"
        until(lambda: "[pool bad]" in served.text)
        assert "KeyError: 'its own'" in served.text
        place.app("mended", name="broken")
        until(lambda: fetch(place.path("bad.sock")).body == b"mended")
        assert fetch(place.path("good.sock")).body == b"first"


def test_when_no_pool_can_start_the_master_ends(place):
    place.app(source="raise KeyError('its own')")
    with place.serving(place.pool("one"), place.pool("two"), ready=False) as served:
        assert served.wait() == 1
        assert "KeyError: 'its own'" in served.text
    assert not Path(place.path("one.sock")).exists()


def test_a_reload_adds_removes_and_changes_pools(place):
    kept, gone, new = (place.path(f"{name}.sock") for name in ("kept", "gone", "new"))
    with place.serving(place.pool("kept"), place.pool("gone")) as served:
        with Client(gone) as held:
            marker = place.path("go")
            held.send(PATH_INFO="/wait", QUERY_STRING=marker)
            until(Path(f"{marker}.begun").exists)
            with loaded(kept) as failures:
                place.write(
                    place.pool("kept", "env[CHANGED] = other", pm__max_children=2),
                    place.pool("new"),
                )
                served.signal(signal.SIGHUP)
                until(lambda: "[pool kept] generation 2 serves" in served.text)
                until(lambda: not refused(new))
            assert failures == []
            Path(marker).touch()
            assert held.answer().body == b"first", "what a pool has begun it finishes"
        until(lambda: refused(gone))
        until(lambda: not Path(gone).exists())
        until(lambda: len(served.workers()) == 3)
        assert facts(kept)["env"]["CHANGED"] == "other"
        assert fetch(new).body == b"first"


BROKEN_FILES: dict[str, Callable[[Place], None]] = {
    "unknown directive": lambda p: p.write(p.pool("one", "no.such = 1"), p.pool("two")),
    "no syntax": lambda p: p.write(p.pool("one"), "[two\n"),
    "wrong value": lambda p: p.write(p.pool("one", pm="sometimes"), p.pool("two")),
    "two on one address": lambda p: p.write(
        p.pool("one"), p.pool("two", listen=p.path("one.sock"))
    ),
    "no pool": lambda p: p.write(),
    "no file": lambda p: p.conf.unlink(),
    "an address that cannot be": lambda p: p.write(
        p.pool("one", listen=p.path("fresh.sock")),
        p.pool("two", listen=p.path("no/such/folder/sock")),
    ),
}


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_a_reload_of_a_broken_file_changes_nothing(place, case):
    addresses = [place.path(f"{name}.sock") for name in ("one", "two")]
    sections = [place.pool("one"), place.pool("two")]
    with place.serving(*sections) as served:
        pids = [pid_of(address) for address in addresses]
        place.app("second")
        with loaded(*addresses, threads=1) as failures:
            BROKEN_FILES[case](place)
            served.signal(signal.SIGHUP)
            until(lambda: "reload failed" in served.text)
        assert failures == []
        assert [pid_of(address) for address in addresses] == pids
        assert not Path(place.path("fresh.sock")).exists(), "what was opened for it is gone"
        place.write(*sections)
        served.signal(signal.SIGHUP)
        for address in addresses:
            until(lambda address=address: fetch(address).body == b"second")


def test_a_reload_that_breaks_one_pool_renews_the_others(place):
    one, two = place.path("one.sock"), place.path("two.sock")
    with place.serving(place.pool("one"), place.pool("two")) as served:
        pid = pid_of(one)
        place.write(place.pool("one", app="no_such_module:app"), place.pool("two"))
        place.app("second")
        served.signal(signal.SIGHUP)
        until(lambda: "[pool one] reload failed" in served.text)
        until(lambda: "[pool two] generation 2 serves" in served.text)
        until(lambda: fetch(two).body == b"second")
        assert pid_of(one) == pid
        assert fetch(one).body == b"first"


def test_a_reload_that_fails_with_more_workers_leaves_the_status_page_right(place):
    address = place.path("www.sock")
    section = place.pool("www", pm__status_path="/status")
    with place.serving(section) as served:
        pid = pid_of(address)
        place.write(place.pool("www", app="no_such:app", pm__max_children=9))
        served.signal(signal.SIGHUP)
        until(lambda: "reload failed" in served.text)
        until(lambda: status(address)["failed reloads"] == 1)
        until(lambda: [each["pid"] for each in status(address)["processes"]] == [pid])


def test_a_reload_changes_the_address(place):
    before, after = place.path("www.sock"), place.path("other.sock")
    with place.serving(place.pool("www")) as served:
        assert fetch(before).body == b"first"
        place.write(place.pool("www", listen=after))
        served.signal(signal.SIGHUP)
        until(lambda: "generation 2 serves" in served.text)
        assert fetch(after).body == b"first"
        until(lambda: not Path(before).exists())
        until(lambda: len(served.workers()) == 1)
    assert not Path(after).exists()


def test_two_pools_may_exchange_their_addresses(place):
    one, two = place.path("one.sock"), place.path("two.sock")
    place.app("other", name="otherwise")
    with place.serving(place.pool("one"), place.pool("two", app="otherwise:wsgi")) as served:
        assert (fetch(one).body, fetch(two).body) == (b"first", b"other")
        place.write(
            place.pool("one", listen=two), place.pool("two", app="otherwise:wsgi", listen=one)
        )
        served.signal(signal.SIGHUP)
        for name in ("one", "two"):
            until(lambda name=name: f"[pool {name}] generation 2 serves" in served.text)
        until(lambda: len(served.workers()) == 2)
        assert (fetch(one).body, fetch(two).body) == (b"other", b"first")
