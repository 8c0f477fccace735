"""The three process models: their directives, and what a host becomes by them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from httpd.hosting import hosting
from serving import until

from sapi_adapters.httpd.host import Host
from sapi_adapters.sapi import ConfigurationError

APP = """
import os, threading

meeting = threading.Barrier(2)

def app(environ, start_response):
    if environ["PATH_INFO"] == "/meet":
        try:
            meeting.wait(10)
            answer = "met"
        except threading.BrokenBarrierError:
            answer = "alone"
            meeting.reset()
    else:
        answer = f"{os.getpid()} {environ['wsgi.multithread']} {environ['wsgi.multiprocess']}"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [answer.encode()]


async def asgi(scope, receive, send):
    global waiting
    if scope["type"] != "http":
        raise NotImplementedError
    import asyncio
    waiting = globals().get("waiting") or asyncio.Event()
    if scope["path"] == "/app/first":
        await asyncio.wait_for(waiting.wait(), 10)
    else:
        waiting.set()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"met"})
"""
CONFIGURATION = """
LoadModule sapi_module sapi_adapters.adapters.mod_sapi
<Location /app>
    SetHandler sapi-script
    SapiApp mpm_app:{name}
</Location>
"""


def made(mpm: str, text: str = "") -> Host:
    host = Host(text=f"LoadModule mpm_{mpm}_module mod_mpm_{mpm}\n{text}", log=lambda *_: None)
    host.configure()
    return host


@pytest.mark.parametrize("mpm", ["prefork", "worker", "event"])
def test_loading_one_chooses_it(mpm: str) -> None:
    assert made(mpm).mpm == mpm


def test_there_is_only_one() -> None:
    with pytest.raises(ConfigurationError, match=r"More than one MPM loaded: mpm_\w+ and mpm_"):
        made("prefork", "LoadModule mpm_event_module mod_mpm_event\n")


def test_the_same_one_twice_is_a_warning() -> None:
    host = made("prefork", "LoadModule mpm_prefork_module mod_mpm_prefork\n")
    assert host.mpm == "prefork"
    assert "already loaded" in host.warnings[0]


@pytest.mark.parametrize(
    ("mpm", "text", "settings"),
    [
        (
            "prefork",
            "StartServers 3\nMinSpareServers 2\nMaxSpareServers 9\nMaxRequestWorkers 50",
            {
                "startservers": "3",
                "minspareservers": "2",
                "maxspareservers": "9",
                "maxrequestworkers": "50",
            },
        ),
        ("prefork", "MaxClients 20", {"maxrequestworkers": "20"}),
        ("prefork", "MaxRequestsPerChild 7", {"maxconnectionsperchild": "7"}),
        ("prefork", "MaxConnectionsPerChild 0", {"maxconnectionsperchild": "0"}),
        ("prefork", "MaxClients 5\nMaxRequestWorkers 6", {"maxrequestworkers": "6"}),
        ("prefork", "ServerLimit 40", {"serverlimit": "40", "maxrequestworkers": "40"}),
        ("prefork", "MinSpareServers 8\nMaxSpareServers 8", {"maxspareservers": "9"}),
        ("worker", "", {"maxrequestworkers": "400"}),
        ("worker", "ThreadsPerChild 10", {"threadsperchild": "10", "maxrequestworkers": "160"}),
        ("event", "ThreadLimit 100\nThreadsPerChild 90", {"threadsperchild": "90"}),
        (
            "event",
            "ThreadsPerChild 10\nMinSpareThreads 20\nMaxSpareThreads 25",
            {"minsparethreads": "20", "maxsparethreads": "30"},
        ),
        ("event", "AsyncRequestWorkerFactor 1.5", {"asyncrequestworkerfactor": "1.5"}),
    ],
)
def test_directives(mpm: str, text: str, settings: dict[str, str]) -> None:
    host = made(mpm, text)
    assert {name: host.settings.get(name) for name in settings} == settings
    assert host.warnings == []


@pytest.mark.parametrize(
    ("mpm", "text", "settings", "said"),
    [
        ("prefork", "MaxRequestWorkers 300", {"maxrequestworkers": "256"}, "ServerLimit of 256"),
        ("worker", "ThreadsPerChild 65", {"threadsperchild": "64"}, "ThreadLimit of 64"),
        ("worker", "MaxRequestWorkers 60", {"maxrequestworkers": "50"}, "no multiple"),
        ("event", "MaxRequestWorkers 10", {"maxrequestworkers": "25"}, "increasing to 25"),
        ("event", "MaxRequestWorkers 500", {"maxrequestworkers": "400"}, "ServerLimit of 16"),
    ],
)
def test_numbers_that_do_not_fit_are_warned_of(
    mpm: str, text: str, settings: dict[str, str], said: str
) -> None:
    host = made(mpm, text)
    assert {name: host.settings.get(name) for name in settings} == settings
    assert len(host.warnings) == 1
    assert said in host.warnings[0]


@pytest.mark.parametrize(
    ("mpm", "text", "said"),
    [
        ("prefork", "StartServers", "StartServers takes one argument, the number of processes"),
        ("prefork", "StartServers many", "StartServers: 'many' is not a number"),
        ("prefork", "StartServers 0", "StartServers must be at least 1, not 0"),
        ("prefork", "MaxClients -1", "MaxClients: '-1' is not a number"),
        ("prefork", "ThreadsPerChild 5", "Invalid command 'ThreadsPerChild'"),
        ("worker", "MinSpareServers 5", "Invalid command 'MinSpareServers'"),
        ("worker", "AsyncRequestWorkerFactor 2", "Invalid command 'AsyncRequestWorkerFactor'"),
        ("event", "AsyncRequestWorkerFactor 0", "must be a positive number, not '0'"),
        ("event", "AsyncRequestWorkerFactor nan", "must be a positive number, not 'nan'"),
        (
            "event",
            "<VirtualHost *:80>\nThreadsPerChild 5\n</VirtualHost>",
            "ThreadsPerChild is for the whole server",
        ),
        ("event", "<Location />\nThreadsPerChild 5\n</Location>", "not allowed in <Location>"),
    ],
)
def test_mistakes(mpm: str, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        made(mpm, text)


# -- running --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mpm", "threads", "processes"),
    [("prefork", "False", "True"), ("worker", "True", "True"), ("event", "True", "True")],
)
def test_applications_learn_of_it(tmp_path: Path, mpm: str, threads: str, processes: str) -> None:
    (tmp_path / "mpm_app.py").write_text(APP)
    text = CONFIGURATION.format(name="app") + "MaxRequestWorkers 8\n"
    with hosting(tmp_path, text, mpm) as host:
        pid, multithread, multiprocess = host.get("/app").body.decode().split()
        assert int(pid) in host.workers()
        assert (multithread, multiprocess) == (threads, processes)


@pytest.mark.parametrize(
    ("mpm", "name", "paths"),
    [
        ("worker", "app", ("/app/meet", "/app/meet")),
        ("event", "app", ("/app/meet", "/app/meet")),
        ("worker", "asgi", ("/app/first", "/app/second")),
        ("event", "asgi", ("/app/first", "/app/second")),
    ],
)
def test_requests_in_one_process_run_at_a_time(
    tmp_path: Path, mpm: str, name: str, paths: tuple[str, str]
) -> None:
    (tmp_path / "mpm_app.py").write_text(APP)
    with hosting(tmp_path, CONFIGURATION.format(name=name), mpm) as host:
        assert len(host.workers()) == 1
        found: list[bytes] = []
        asking = [
            threading.Thread(target=lambda path=path: found.append(host.get(path).body))
            for path in paths
        ]
        for each in asking:
            each.start()
        for each in asking:
            each.join(20)
        assert found == [b"met", b"met"]


@pytest.mark.parametrize("mpm", ["prefork", "worker", "event"])
def test_a_process_is_replaced_after_its_connections(tmp_path: Path, mpm: str) -> None:
    (tmp_path / "mpm_app.py").write_text(APP)
    text = CONFIGURATION.format(name="app") + "MaxConnectionsPerChild 5\n"
    with hosting(tmp_path, text, mpm) as host:
        pids = set()

        def others() -> bool:
            pids.add(host.get("/app").body.split()[0])
            return len(pids) > 2

        until(others, what="another process")
