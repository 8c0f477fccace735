"""The interface itself: names, slots with defaults, start-up and shutdown in their order."""

from __future__ import annotations

import asyncio
import io
import os
import types
from collections.abc import Iterator
from typing import Any

import pytest
from gateways.recording import AsyncRecording, Recording, RecordingSapi

import sapi_adapters
from sapi_adapters import Embed, extension, run, sapi
from sapi_adapters.extension import (
    loaded_extensions,
    register_extension,
    unregister_extension,
)
from sapi_adapters.gateways.asgi import AsgiGateway
from sapi_adapters.gateways.wsgi import WsgiGateway
from sapi_adapters.sapi import (
    ApplicationError,
    ConfigurationError,
    ProtocolError,
    RequestError,
    Sapi,
    sapi_name,
)


@pytest.fixture(autouse=True)
def no_extensions() -> Iterator[None]:
    before = sapi.extensions[:]
    sapi.extensions.clear()
    name = sapi._process_name
    yield
    sapi.extensions[:] = before
    sapi._process_name = name


class Noting:
    """An extension that notes each call, and fails where it is told to."""

    def __init__(self, name: str, notes: list[str], fails: str = "") -> None:
        self.name, self.notes, self.fails = name, notes, fails

    def note(self, what: str, given: Any) -> None:
        self.notes.append(f"{self.name} {what}")
        if what == self.fails:
            raise RuntimeError(f"{self.name} fails in {what}")

    def module_startup(self, given: Any) -> None:
        assert isinstance(given, Sapi)
        self.note("MINIT", given)

    def request_startup(self, given: Any) -> None:
        assert given.environ["REQUEST_METHOD"] == "GET"
        self.note("RINIT", given)

    def request_shutdown(self, given: Any) -> None:
        assert given.environ["REQUEST_METHOD"] == "GET"
        self.note("RSHUTDOWN", given)

    def module_shutdown(self, given: Any) -> None:
        assert isinstance(given, Sapi)
        self.note("MSHUTDOWN", given)


class Slots(RecordingSapi):
    """A SAPI that fills every slot of the life cycle."""

    name = "slots"

    def __init__(self, notes: list[str], fails: str = "") -> None:
        super().__init__()
        self.notes, self.fails = notes, fails

    def note(self, what: str) -> None:
        self.notes.append(what)
        if what == self.fails:
            raise RuntimeError(f"the SAPI fails in {what}")

    def startup(self) -> None:
        self.note("startup")

    def shutdown(self) -> None:
        self.note("shutdown")

    def activate(self, exchange: Any) -> None:
        self.note("activate")

    def deactivate(self, exchange: Any) -> None:
        self.note("deactivate")


def wsgi_app(notes: list[str], error: BaseException | None = None) -> Any:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        notes.append("application")
        if error is not None:
            raise error
        start_response("200 OK", [])
        return [b"x"]

    return application


def asgi_app(notes: list[str], error: BaseException | None = None) -> Any:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            wsgi_app(notes, error)({}, lambda *_: None)
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"x"})

    return application


def cycle(kind: str, runtime: Sapi, notes: list[str], error: BaseException | None = None) -> Any:
    """Run one request through the bound gateway, between module start-up and shutdown."""
    runtime.module_startup()
    try:
        if kind == "wsgi":
            exchange: Any = Recording(sapi=runtime)
            runtime.bind(WsgiGateway(wsgi_app(notes, error), runtime))(exchange)
            return exchange

        async def main() -> Any:
            exchange = AsyncRecording(sapi=runtime)
            await runtime.bind(AsgiGateway(asgi_app(notes, error), runtime))(exchange)
            return exchange

        return asyncio.run(main())
    finally:
        runtime.module_shutdown()


BEFORE = ["startup", "a MINIT", "b MINIT", "activate", "a RINIT", "b RINIT"]
AFTER = ["b RSHUTDOWN", "a RSHUTDOWN", "deactivate", "b MSHUTDOWN", "a MSHUTDOWN", "shutdown"]
KINDS = ["wsgi", "asgi"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_life_cycle_is_phps(kind):
    notes: list[str] = []
    for name in "ab":
        register_extension(Noting(name, notes))
    exchange = cycle(kind, Slots(notes), notes)
    assert notes == [*BEFORE, "application", *AFTER]
    assert (exchange.status, exchange.end) == (200, "finish")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1), KeyboardInterrupt()])
def test_request_shutdown_comes_after_a_failure_too(kind, error):
    notes: list[str] = []
    register_extension(Noting("a", notes))
    runtime = Slots(notes)
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            cycle(kind, runtime, notes, error)
    else:
        assert cycle(kind, runtime, notes, error).status == 500
    assert notes[-4:] == ["a RSHUTDOWN", "deactivate", "a MSHUTDOWN", "shutdown"]
    assert notes.count("a RSHUTDOWN") == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("who", ["a", "b", "activate"])
def test_a_failed_request_startup_is_500_without_the_application(kind, who):
    notes: list[str] = []
    for name in "ab":
        register_extension(Noting(name, notes, "RINIT" if name == who else ""))
    runtime = Slots(notes, who)
    exchange = cycle(kind, runtime, notes)
    assert "application" not in notes
    assert (exchange.status, exchange.end) == (500, "finish")
    assert notes[-6:] == AFTER, "request shutdown runs for everybody"
    assert "fails in" in runtime.log


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fails", ["RSHUTDOWN", "MSHUTDOWN", "deactivate", "shutdown"])
def test_a_failure_in_one_shutdown_step_skips_no_other(kind, fails):
    notes: list[str] = []
    for name in "ab":
        register_extension(Noting(name, notes, fails))
    runtime = Slots(notes, fails)
    exchange = cycle(kind, runtime, notes)
    assert notes == [*BEFORE, "application", *AFTER]
    assert (exchange.status, exchange.end) == (200, "finish")
    assert "fails in" in runtime.log


def test_a_failed_module_startup_stops_the_start_and_what_was_started_is_shut_down():
    notes: list[str] = []
    register_extension(Noting("a", notes))
    register_extension(Noting("b", notes, "MINIT"))
    with pytest.raises(RuntimeError, match="b fails in MINIT"):
        under_cgi(wsgi_app(notes))
    assert notes[:2] == ["a MINIT", "b MINIT"]
    assert "application" not in notes
    assert "a MSHUTDOWN" in notes
    assert sapi_name() == "cli"


def test_without_slots_and_extensions_a_request_pays_nothing():
    runtime = RecordingSapi()
    gateway = WsgiGateway(wsgi_app([]), runtime)
    assert runtime.bind(gateway) is gateway


def test_an_extension_may_add_to_the_request_and_rewrite_headers():
    def request_startup(exchange: Any) -> None:
        exchange.environ["added"] = "yes"
        exchange.header_handler = lambda headers: [*headers, ("X-Added", exchange.environ["added"])]

    register_extension(types.SimpleNamespace(request_startup=request_startup, name="adds"))
    for kind in KINDS:
        assert cycle(kind, RecordingSapi(), []).headers["x-added"] == "yes"


# -- registering extensions -----------------------------------------------------------------------


def test_extensions_are_listed_in_the_order_of_their_registration():
    module = types.ModuleType("some_module")
    module.module_startup = lambda given: None  # type: ignore[attr-defined]
    register_extension(module)
    register_extension(Noting("named", []))
    register_extension(Noting("other", []), "given")
    register_extension(type("Plain", (), {"request_shutdown": print})())
    assert loaded_extensions() == ["some_module", "named", "given", "Plain"]
    assert sapi_adapters.loaded_extensions() == loaded_extensions()
    unregister_extension("named")
    assert loaded_extensions() == ["some_module", "given", "Plain"]
    with pytest.raises(KeyError):
        unregister_extension("named")


def test_callbacks_that_are_left_out_are_nothing():
    register_extension(types.SimpleNamespace(name="x", request_startup=lambda given: None))
    assert cycle("wsgi", RecordingSapi(), []).status == 200


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (object(), "none of module_startup"),
        (types.SimpleNamespace(module_startup=None), "none of module_startup"),
        (types.SimpleNamespace(module_startup=7), "not callable"),
    ],
)
def test_what_is_no_extension_is_refused(source, message):
    with pytest.raises(ConfigurationError, match=message):
        register_extension(source, "x")
    assert loaded_extensions() == []


def test_a_name_is_taken_once():
    register_extension(Noting("a", []))
    with pytest.raises(ConfigurationError, match="registered already"):
        register_extension(Noting("a", []))


def test_an_extension_record_remembers_its_source():
    source = Noting("a", [])
    record = register_extension(source)
    assert (record.source, record.name) == (source, "a")
    assert isinstance(record, extension.Extension)


# -- slots with defaults --------------------------------------------------------------------------


def test_getenv_asks_the_request_and_never_the_process(monkeypatch):
    """E2: what the process has is not the request's; httpoxy, CVE-2016-5385."""
    monkeypatch.setenv("ONLY_IN_PROCESS", "x")
    exchange = Recording(HTTP_PROXY="evil", HTTP_HOST="h")
    runtime = exchange.sapi
    assert runtime.getenv(exchange, "HTTP_HOST") == "h"
    assert runtime.getenv(exchange, "HTTP_PROXY") is None
    assert runtime.getenv(exchange, "ONLY_IN_PROCESS") is None
    assert "HTTP_HOST" not in os.environ


def test_get_stat_is_the_scripts(tmp_path):
    path = tmp_path / "script"
    path.write_bytes(b"12345")
    runtime = RecordingSapi()
    assert runtime.get_stat(Recording(SCRIPT_FILENAME=str(path))).st_size == 5
    assert runtime.get_stat(Recording(SCRIPT_FILENAME="/nonexistent")) is None
    assert runtime.get_stat(Recording()) is None


def test_the_request_time_is_taken_once():
    exchange = Recording()
    first = exchange.sapi.get_request_time(exchange)
    assert exchange.sapi.get_request_time(exchange) == first > 1e9


def test_read_cookies_gives_the_header():
    assert Recording(HTTP_COOKIE="a=1").read_cookies() == "a=1"
    assert Recording().read_cookies() is None


def test_terminate_process_ends_the_worker_after_the_exchange():
    runtime = Sapi()
    assert runtime.terminating is False
    runtime.terminate_process()
    assert runtime.terminating is True


def test_a_sapi_without_run_says_so():
    with pytest.raises(ConfigurationError, match="no run"):
        Sapi().run(lambda: None)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    ("level", "written"), [("error", True), ("notice", True), ("info", False), ("debug", False)]
)
def test_log_message_writes_what_is_serious_enough(capsys, level, written):
    Sapi().log_message("hello", level)
    assert capsys.readouterr().err == (f"[{level}] hello\n" if written else "")


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("stream", [None, Broken(), io.StringIO()])
def test_a_log_that_cannot_be_written_fails_nothing(monkeypatch, stream):
    if isinstance(stream, io.StringIO) and not isinstance(stream, Broken):
        stream.close()
    monkeypatch.setattr("sys.stderr", stream)
    Sapi().log_message("hello")


@pytest.mark.parametrize(
    ("error", "whose"),
    [
        (ConfigurationError("x"), "configuration"),
        (ProtocolError("x"), "peer"),
        (RequestError("x"), "request"),
        (ApplicationError("x"), "application"),
        (ValueError("x"), "internal"),
    ],
)
def test_an_error_says_whose_fault_it_is(capsys, error, whose):
    Sapi().sapi_error(error, "doing this")
    assert capsys.readouterr().err == f"[error] {whose}: doing this: x\n"


def test_a_request_error_carries_its_status():
    assert RequestError("x").status == "400 Bad Request"
    assert RequestError("x", "413 Content Too Large").status == "413 Content Too Large"


def test_an_exchange_without_a_web_servers_log_uses_the_runtimes():
    class Quiet(Recording):
        log_message = sapi.BaseExchange.log_message

    exchange = Quiet()
    exchange.log_message("hello\n")
    assert exchange.sapi.lines == [("notice", "hello")]
    assert exchange.fileno() is None


# -- the name -------------------------------------------------------------------------------------


def names_app(seen: list[Any], inner: Any = None) -> Any:
    """Notes both names, before and after it has embedded *inner*, if there is one."""

    def application(environ: Any, start_response: Any) -> list[bytes]:
        seen.append((sapi_name(), environ["sapi.name"]))
        if inner is not None:
            with Embed(inner) as host:
                host.request("GET", "/")
            seen.append((sapi_name(), environ["sapi.name"]))
        start_response("200 OK", [])
        return [b"x"]

    return application


async def names_asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        raise ValueError
    body = f"{sapi_name()} {scope['extensions']['sapi']['name']}".encode()
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": body})


def under_cgi(application: Any) -> bytes:
    stdout = io.BytesIO()
    environ = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": "/"}
    assert run(application, "cgi", environ=environ, stdout=stdout, stderr=io.StringIO()) == 0
    return stdout.getvalue().partition(b"\r\n\r\n")[2]


def test_a_program_that_started_no_sapi_runs_under_cli():
    assert sapi_name() == "cli"


def test_the_name_is_the_innermost_while_it_lasts():
    seen: list[Any] = []
    under_cgi(names_app(seen, names_app(seen, names_app(seen))))
    cgi, embed = ("cgi", "cgi"), ("embed", "embed")
    assert seen == [cgi, embed, embed, embed, cgi]
    assert sapi_name() == "cli"


def test_the_name_is_the_same_in_an_asgi_scope():
    assert under_cgi(names_asgi) == b"cgi cgi"
    with Embed(names_asgi) as host:
        assert host.request("GET", "/").body == b"embed embed"
        assert sapi_name() == "cli", "outside of the application nothing changed"


def test_the_name_is_given_back_after_a_failure():
    def application(environ: Any, start_response: Any) -> list[bytes]:
        raise ValueError

    stdout, stderr = io.BytesIO(), io.StringIO()
    environ = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": "/"}
    run(application, "cgi", environ=environ, stdout=stdout, stderr=stderr)
    assert sapi_name() == "cli"
