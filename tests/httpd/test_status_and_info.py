"""The pages server-status and server-info of the host, and sapi_info()."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from httpd.hosting import hosting
from serving import until

from sapi_adapters.extension import register_extension, unregister_extension
from sapi_adapters.httpd.modules.mod_status import Counts
from sapi_adapters.info import Section, is_secret, plain, sapi_info, shown

STATUS = """
LoadModule status_module mod_status
<Location /status>
    SetHandler server-status
</Location>
"""
INFO = """
LoadModule info_module mod_info
<Location /info>
    SetHandler server-info
</Location>
"""
MODULE = """
from sapi_adapters.httpd.filters import EOS
from sapi_adapters.httpd.hooks import DECLINED, OK
from sapi_adapters.httpd.module import Module

def handler(r):
    if r.uri != "/sized":
        return DECLINED
    r.output_filters.pass_brigade([b"x" * 10240, EOS])
    return OK

def status(r, page):
    page.add("Cache <b>", [("CacheEntries", 7), ("CacheNote", "<i>")])

def register(hooks):
    hooks.add("handler", handler)
    hooks.add("status_hook", status)

more_module = Module("mod_more", register_hooks=register)
"""
MORE = "LoadModule more_module mod_more.py\n"

# The keys of Apache 2.4.71, in its order, without those of its connections in mpm_event.
PLAIN = """ServerVersion ServerMPM Server_Built CurrentTime RestartTime
ParentServerConfigGeneration ParentServerMPMGeneration ServerUptimeSeconds ServerUptime
Load1 Load5 Load15""".split()
EXTENDED = """Total_Accesses Total_kBytes Total_Duration CPUUser CPUSystem CPUChildrenUser
CPUChildrenSystem CPULoad Uptime ReqPerSec BytesPerSec BytesPerReq DurationPerReq""".split()
WORKERS = "BusyWorkers GracefulWorkers IdleWorkers".split()
EVENT = "Processes Stopping".split()


def auto(host: Any) -> dict[str, str]:
    """Return what ?auto says, in its order; the name of the server is under ""."""
    answer = host.get("/status?auto")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    name, *lines = answer.body.decode().splitlines()
    return {"": name, **dict(line.split(": ", 1) for line in lines)}


@pytest.mark.parametrize("mpm", ["prefork", "worker", "event"])
def test_auto_has_the_keys_of_apache(tmp_path: Path, mpm: str) -> None:
    (tmp_path / "mod_more.py").write_text(MODULE)
    with hosting(tmp_path, STATUS + MORE, mpm) as host:
        for _ in range(5):
            assert len(host.get("/sized").body) == 10240
        until(lambda: float(auto(host)["ServerUptimeSeconds"]) >= 1, what="a second of life")
        found = auto(host)
    name, *keys = found
    expected = [*PLAIN, *EXTENDED, *WORKERS, *(EVENT if mpm == "event" else ()), "Scoreboard"]
    assert [key.replace(" ", "_") for key in keys] == [*expected, "CacheEntries", "CacheNote"]
    assert (name, found[""], found["ServerMPM"]) == ("", "localhost", mpm)
    assert int(found["Total Accesses"]) >= 6
    assert 50 <= int(found["Total kBytes"]) < 200
    assert float(found["BytesPerReq"]) > 100
    assert float(found["ReqPerSec"]) > 0
    assert 1 <= int(found["BusyWorkers"]) <= found["Scoreboard"].count("W")
    assert int(found["IdleWorkers"]) == found["Scoreboard"].count("_")
    assert set(found["Scoreboard"]) <= set("_SRWKDCLGI.")
    assert re.fullmatch(r"\w+day, \d\d-\w{3}-\d{4} \d\d:\d\d:\d\d \w+", found["CurrentTime"])
    assert re.fullmatch(r"\d+ seconds?", found["ServerUptime"])
    assert (found["CacheEntries"], found["CacheNote"]) == ("7", "<i>")


def test_counts_are_those_of_all_processes_and_survive_them(tmp_path: Path) -> None:
    (tmp_path / "mod_more.py").write_text(MODULE)
    with hosting(tmp_path, STATUS + MORE) as host:
        for _ in range(20):
            host.get("/sized")
        before = auto(host)
        assert 200 <= int(before["Total kBytes"]) < 300
        killed = host.workers()
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        until(lambda: host.workers() and not set(killed) & set(host.workers()), what="others")
        host.get("/sized")
        after = auto(host)
    assert int(after["Total kBytes"]) >= int(before["Total kBytes"]) + 10
    assert int(after["Total Accesses"]) >= 22


def test_without_extended_status_nothing_is_counted(tmp_path: Path) -> None:
    with hosting(tmp_path, STATUS + "ExtendedStatus Off\n") as host:
        keys = [key.replace(" ", "_") for key in auto(host)][1:]
        facts = json.loads(host.get("/status?json").body)
        page = host.get("/status").body.decode()
    assert keys == [*PLAIN, *WORKERS, "Scoreboard"]
    assert facts["workers"] == [] and facts["bytes"] == 0
    assert '<section id="workers" class="card" hidden>' in page


@pytest.mark.parametrize("mpm", ["prefork", "event"])
def test_the_page_shows_who_does_what(tmp_path: Path, mpm: str) -> None:
    (tmp_path / "mod_more.py").write_text(MODULE)
    with hosting(tmp_path, STATUS + MORE, mpm) as host:
        answer = host.get("/status?refresh=7")
        facts = json.loads(host.get("/status?json").body)
        workers = host.workers()
    page = answer.body.decode()
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and policy.count("'sha256-") == 2
    assert "<td>GET /status?refresh=7</td>" in page
    assert '<body data-period="7">' in page
    assert '<h2>Cache &lt;b&gt;</h2><table><tr><th scope="row">CacheEntries</th>' in page
    assert "<li>mod_status</li>" in page and "generation 1" in page
    assert re.search(r"<!--\w+-->", page) is None
    assert {each["pid"] for each in facts["workers"]} <= set(workers)
    assert facts["workers"][0]["request"].startswith("GET /status")
    assert facts["modules"][-2:] == ["mod_status", "mod_more"]
    assert facts["more"] == [["Cache <b>", [["CacheEntries", "7"], ["CacheNote", "<i>"]]]]


def test_what_clients_sent_is_text(tmp_path: Path) -> None:
    with hosting(tmp_path, STATUS) as host:
        page = host.get("/status?<script>alert(1)</script>&<!--name-->").body.decode()
    assert "<script>alert" not in page
    assert "GET /status?&lt;script&gt;alert(1)&lt;/script&gt;&amp;&lt;!--name--&gt;" in page


def test_only_get_and_head_are_answered(tmp_path: Path) -> None:
    with hosting(tmp_path, STATUS + INFO) as host:
        for path in ("/status", "/info"):
            answer = host.request("POST", path, b"x")
            assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
            answer = host.request("HEAD", path)
            assert (answer.status, answer.body) == (200, b"")
        assert host.get("/elsewhere").status == 404


def test_a_slot_is_of_one_process_until_it_ends() -> None:
    counts = Counts()
    counts.claim()
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        counts.claim()
        counts.view[counts.at] += 5
        os.write(writing, bytes([counts.at]))
        os._exit(0)
    try:
        slot = os.read(reading, 1)[0]
        assert os.waitpid(pid, 0)[1] == 0
    finally:
        os.close(reading)
        os.close(writing)
    assert (counts.at, slot) == (0, Counts.WIDTH)
    counts.view[counts.at] += 2
    assert counts.totals()[0] == 7


# -- server-info


CONF = f"""{INFO}{STATUS}
LoadModule env_module mod_env
SetEnv DB_PASSWORD hunter2
AddModuleInfo mod_status.c "See <the> manual"
<VirtualHost *:*>
    ServerName first
    <Location /deep>
        SetHandler server-status
        SetEnv API_TOKEN abcdef
        SetEnv PLAIN text
    </Location>
</VirtualHost>
"""


@pytest.fixture(scope="module")
def informing(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with hosting(tmp_path_factory.mktemp("info"), CONF) as host:
        yield host


def said(host: Any, query: str, **headers: str) -> str:
    answer = host.get(f"/info?{query}&text", **headers)
    assert answer.status == 200, answer.body
    text: str = answer.body.decode()
    return text


def test_info_lists_modules(informing: Any) -> None:
    text = said(informing, "list")
    assert "core => built in => 1.0" in text
    assert "mod_status => sapi_adapters.httpd.modules.mod_status => 1.0" in text


def test_info_shows_the_server(informing: Any) -> None:
    text = said(informing, "server")
    assert f"ServerRoot => {informing.folder}" in text
    assert f"Configuration file => {informing.folder}/httpd.conf" in text
    assert "Virtual hosts => first" in text
    assert "Process model => prefork" in text


def test_info_shows_hooks_in_their_order(informing: Any) -> None:
    lines = said(informing, "hooks").splitlines()
    handlers = next(line for line in lines if line.startswith("handler => "))
    kind, modules = handlers.split(" => ")[1:]
    assert kind == "RUN_FIRST"
    order = modules.split(", ")
    assert order.index("mod_info") < order.index("mod_status") < order.index("core")
    assert lines.index("Hooks of the server") < lines.index("Hooks of connections and requests")


def test_info_shows_where_directives_stand(informing: Any) -> None:
    text = said(informing, "config")
    conf = informing.folder / "httpd.conf"
    for number, line in enumerate(conf.read_text().splitlines(), 1):
        if "SetHandler" in line or line.startswith("AddModuleInfo"):
            assert f"{conf}:{number} => " in text
    assert "=>     <Location /deep>" in text
    assert "=>         SetHandler server-status" in text
    assert "hunter2" not in text and "abcdef" not in text
    assert "SetEnv DB_PASSWORD •••••" in text and "SetEnv API_TOKEN •••••" in text


@pytest.mark.parametrize("name", ["mod_status.c", "mod_status", "mod_status.py"])
def test_info_shows_one_module(informing: Any, name: str) -> None:
    text = said(informing, name)
    assert "ExtendedStatus => FLAG => server, virtual host => On or Off" in text
    assert "Content handlers => yes" in text
    assert "More => See <the> manual" in text
    assert "mod_info" not in text


def test_info_shows_a_modules_directives_within_their_sections(informing: Any) -> None:
    lines = said(informing, "mod_env.c").splitlines()
    found = [line.partition(" => ")[2] for line in lines if line.startswith(str(informing.folder))]
    assert found == [
        "SetEnv DB_PASSWORD •••••",
        "<VirtualHost *:*>",
        "    <Location /deep>",
        "        SetEnv API_TOKEN •••••",
        "        SetEnv PLAIN text",
    ]


def test_info_of_no_module_is_not_found(informing: Any) -> None:
    assert informing.get("/info?mod_none.c").status == 404


def test_everything_is_one_page(informing: Any) -> None:
    answer = informing.get("/info", Authorization="Basic Zm9vOmJhcg==", X_Odd="<i>&amp;")
    page = answer.body.decode()
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Zm9vOmJhcg==" not in page
    assert "&lt;i&gt;&amp;amp;" in page and "<i>" not in page
    assert "See &lt;the&gt; manual" in page
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    for title in ("Server settings", "Modules", "mod_info", "Life cycle", "Slots of the SAPI"):
        assert title in titles
    for target in re.findall(r'href="#(\w+)"', page):
        assert f'id="{target}"' in page


def test_a_module_that_is_not_asked_for_serves_nothing(tmp_path: Path) -> None:
    text = "LoadModule info_module mod_info\nLoadModule status_module mod_status\n"
    with hosting(tmp_path, text) as host:
        for path in ("/server-info", "/server-status", "/info"):
            assert host.get(path).status == 404


# -- sapi_info()


class _Timing:
    def module_startup(self, sapi: Any) -> None:
        pass

    def request_shutdown(self, exchange: Any) -> None:
        pass


def rows_of(text: str) -> dict[str, str]:
    return dict(line.split(" => ", 1) for line in text.splitlines() if " => " in line)


def test_sapi_info_tells_what_runs() -> None:
    register_extension(_Timing(), "timing<b>")
    try:
        text, page = sapi_info(text=True), sapi_info()
    finally:
        unregister_extension("timing<b>")
    rows = rows_of(text)
    assert rows["SAPI"] == "cli"
    assert rows["Process"] == f"{os.getpid()}, child of {os.getppid()}"
    assert rows["timing<b>"] == "module_startup, request_shutdown"
    assert rows["Module start-up"] == "MINIT => timing<b> => once per process tree"
    assert rows["Request start-up"] == "RINIT =>  => before the application"
    assert rows["pytest"] and rows["Compiler"]
    assert "timing&lt;b&gt;" in page and "timing<b>" not in page
    assert page.startswith("<!DOCTYPE html>") and "http-equiv" in page
    assert re.search(r"<!--\w+-->", page) is None


def test_sapi_info_shows_a_wsgi_request() -> None:
    environ = {
        "REQUEST_METHOD": "GET",
        "QUERY_STRING": "page=2&access_token=abc123&sig=def456",
        "REQUEST_URI": "/?page=2&access_token=abc123",
        "HTTP_AUTHORIZATION": "Bearer ghi789",
        "HTTP_COOKIE": "sid=jkl012",
        "HTTP_X_API_KEY": "mno345",
        "HTTP_ACCEPT": "text/<html>",
        "HTTP_X_NAME": "J\xc3\xb6rg",
        "wsgi.version": (1, 0),
        "wsgi.input": object(),
        "sapi.settings": {"db.password": "pqr678", "display": "1"},
    }
    text = sapi_info(environ, text=True)
    rows = rows_of(text)
    for secret in ("abc123", "def456", "ghi789", "jkl012", "mno345", "pqr678"):
        assert secret not in text and secret not in sapi_info(environ)
    assert rows["QUERY_STRING"] == "page=2&access_token=•••••&sig=•••••"
    assert rows["HTTP_COOKIE"] == "••••• (10 characters)"
    assert rows["HTTP_ACCEPT"] == "text/<html>"
    assert rows["HTTP_X_NAME"] == "Jörg"
    assert rows["wsgi.version"] == "(1, 0)"
    assert rows["wsgi.input"] == "<builtins.object>"
    assert rows["display"] == "1"
    assert "text/&lt;html&gt;" in sapi_info(environ)


def test_sapi_info_shows_an_asgi_request() -> None:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "path": "/",
        "query_string": b"token=abc",
        "headers": [(b"cookie", b"a=secret1"), (b"accept", b"*/*")],
        "state": {"password": "secret2", "pool": object()},
    }
    rows = rows_of(sapi_info(scope, text=True))
    assert rows["query_string"] == "token=•••••"
    assert rows["cookie"] == "••••• (9 characters)"
    assert rows["accept"] == "*/*"
    assert rows["state"] == "{password: ••••• (7 characters), pool: <builtins.object>}"


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        *[(name, True) for name in ("DB_PASS", "Pgpassword", "AWS_SECRET_ACCESS_KEY", "dsn")],
        *[(name, True) for name in ("SESSION_ID", "x-csrf", "PROXY_AUTHORIZATION", "MY.PWD")],
        *[(name, False) for name in ("PATH", "AUTH_TYPE", "REMOTE_USER", "PASSENGERS", "PWD")],
    ],
)
def test_secrets_are_told_by_their_names(name: str, secret: bool) -> None:
    assert is_secret(name) == secret


def test_secrets_in_values_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://me:hunter2@db/shop?x=1&password=hunter3")
    text = sapi_info(text=True)
    assert "hunter" not in text
    assert rows_of(text)["DATABASE_URL"] == "postgres://•••••@db/shop?x=1&password=•••••"
    assert shown("X", "y" * 5000) == "y" * 2000 + "…"


def test_plain_text_has_nothing_that_a_terminal_obeys() -> None:
    text = plain("t", [Section("s", [("a\x1b[31m", "b\r\nc")])])
    assert "\x1b" not in text and "\r" not in text and r"a\x1b[31m => b\r\nc" in text
