"""mod_sapi on running hosts: several applications, their settings, and what reaches them."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import stat
import tempfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from httpd.hosting import Hosted, hosting
from serving import until

BOTH = ("prefork", "event")

APP = '''
import asyncio, json, os, sys, time

from sapi_adapters.extension import register_extension

calls = []


class Counting:
    name = "counting"

    def request_startup(self, exchange):
        calls.append("began")
        exchange.environ["test.extension"] = str(calls.count("began"))

    def request_shutdown(self, exchange):
        calls.append("ended")


register_extension(Counting())


def told(name, environ):
    shown = ("SCRIPT_NAME", "PATH_INFO", "REQUEST_METHOD", "QUERY_STRING")
    return {
        "app": name,
        **{each: environ.get(each, "") for each in shown},
        "settings": environ["sapi.settings"],
    }


def wait_for(name):
    end = time.monotonic() + 15
    while not os.path.exists(name):
        if time.monotonic() > end:
            raise TimeoutError(name)
        time.sleep(0.02)


def pieces(folder):
    yield b"first part\\n"
    wait_for(folder + "/go")
    yield b"second part\\n"


def answer(name, environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    if path == "/raise":
        raise RuntimeError("raised before the response")
    if path == "/status":
        start_response("404 Gone Fishing", [("Content-Type", "text/x-own")])
        return [b"the application's own page"]
    if path == "/fields":
        start_response("200 OK", [
            ("Content-Type", "text/x-own"), ("Content-Length", "5"), ("ETag", 'W/"own"'),
            ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT"), ("X-Own", "1"), ("X-Own", "2"),
            ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"),
        ])
        return [b"", b"abcde"]
    if path == "/pieces":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return pieces(os.environ["TEST_FOLDER"])
    if path == "/calls":
        body = json.dumps(calls)
    elif path == "/ids":
        body = json.dumps([*os.getresuid(), *os.getresgid(), sorted(os.getgroups())])
    else:
        body = json.dumps(told(name, environ))
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body.encode()]


def wsgi(environ, start_response):
    return answer("wsgi", environ, start_response)


def other(environ, start_response):
    return answer("other", environ, start_response)


def hidden(*arguments):
    """Neither its name nor its arguments tell which interface it is."""
    return asgi(*arguments)


async def asgi(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    root, path = scope["root_path"], scope["path"]
    assert path.startswith(root), (root, path)
    path = path[len(root):]
    folder = os.environ["TEST_FOLDER"]
    if path == "/raise":
        raise RuntimeError("raised before the response")

    async def start(*headers, status=200):
        await send({"type": "http.response.start", "status": status, "headers": headers})

    async def more(body):
        await send({"type": "http.response.body", "body": body, "more_body": True})

    if path == "/gone":
        await start((b"content-type", b"text/plain"))
        await more(b"begun\\n")
        while (event := await receive())["type"] != "http.disconnect":
            pass
        open(folder + "/disconnected", "w").close()
        return
    if path == "/pieces":
        await start((b"content-type", b"text/plain"))
        await more(b"first part\\n")
        end = time.monotonic() + 15
        while not os.path.exists(folder + "/go"):
            if time.monotonic() > end:
                raise TimeoutError
            await asyncio.sleep(0.02)
        await send({"type": "http.response.body", "body": b"second part\\n"})
        return
    if path == "/status":
        await start((b"content-type", b"text/x-own"), status=404)
        await send({"type": "http.response.body", "body": b"the application's own page"})
        return
    if path == "/fields":
        await start(
            (b"content-type", b"text/x-own"), (b"content-length", b"5"), (b"etag", b'W/"own"'),
            (b"last-modified", b"Sun, 06 Nov 1994 08:49:37 GMT"), (b"x-own", b"1"),
            (b"x-own", b"2"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"),
        )
        await send({"type": "http.response.body", "body": b"abcde"})
        return
    if path == "/calls":
        body = json.dumps(calls)
    else:
        body = json.dumps({
            "app": "asgi",
            "SCRIPT_NAME": root,
            "PATH_INFO": path,
            "REQUEST_METHOD": scope["method"],
            "QUERY_STRING": scope["query_string"].decode(),
            "settings": scope["extensions"]["sapi"]["settings"],
        })
    await start((b"content-type", b"application/json"))
    await send({"type": "http.response.body", "body": body.encode()})
'''

LOADED = """
LoadModule mime_module mod_mime
LoadModule deflate_module mod_deflate
LoadModule sapi_module sapi_adapters.adapters.mod_sapi
DocumentRoot site
<Directory site>
    Options FollowSymLinks
</Directory>
"""


def app_at(path: str, name: str, more: str = "") -> str:
    lines = f"SetHandler sapi-script\nSapiApp some_apps:{name}\n{more}"
    return f"<Location {path}>\n{lines}\n</Location>\n"


def prepare(folder: Path) -> Path:
    """Lay out the files of a site in *folder*."""
    (folder / "some_apps.py").write_text(APP)
    site = folder / "site"
    for name in ("sub/deep", "own", "refused", "open"):
        (site / name).mkdir(parents=True)
    for name in ("plain.txt", "s.app", "sub/deep/t.app", "own/file", "named.txt", "open/x.app"):
        (site / name).write_text(f"the file {name}\n")
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEST_FOLDER", str(tmp_path))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return prepare(tmp_path)


def told(hosted: Hosted, path: str, **headers: str) -> Any:
    found = hosted.get(path, **headers)
    assert found.status == 200, (path, found.status, found.body, hosted.log[-2000:])
    return json.loads(found.body)


def says(hosted: Hosted, text: str, since: int) -> bool:
    return text in hosted.log[since:]


def names(hosted: Hosted, path: str, **headers: str) -> tuple[str, str, str]:
    """Return which application answered for *path*, its SCRIPT_NAME and its PATH_INFO."""
    found = told(hosted, path, **headers)
    return found["app"], found["SCRIPT_NAME"], found["PATH_INFO"]


# -- a site that many tests look at ---------------------------------------------------------------

SITE = (
    LOADED
    + """
ErrorDocument 404 "the host's page"
ErrorDocument 500 "the host's page of 500"
SapiValue level server
SapiValue where server
SapiFlag flag On
SapiAdminValue fixed server
<Files s.app>
    SapiApp some_apps:wsgi
    SetHandler sapi-script
</Files>
<Directory site/sub>
    AddHandler sapi-script .app
    SapiApp some_apps:other
    SapiValue where directory
</Directory>
<Directory site/own>
    SetHandler sapi-script
    SapiApp some_apps:asgi
</Directory>
<Directory site/open>
    AllowOverride Options
    AddHandler sapi-script .app
    SapiApp some_apps:wsgi
</Directory>
<Location /no-app>
    SetHandler sapi-script
</Location>
<Location /not-handled>
    SapiApp some_apps:wsgi
</Location>
"""
    + app_at("/one", "wsgi", "SapiValue where one\nSapiValue fixed one\nSapiFlag flag Off")
    + app_at(
        "/one/inner", "other", "SapiValue level none\nSapiAdminFlag locked On\nSapiValue a.b 'x y'"
    )
    + app_at("/one/inner/most", "other", "SapiAdminValue fixed most\nSapiFlag locked Off")
    + app_at("/two", "asgi", "SapiValue where two\nSapiValue fixed two\nSapiAdminFlag locked yes")
    + app_at("/one/off", "wsgi", "SapiEngine Off")
    + app_at("/said", "hidden", "SapiInterface asgi")
    + app_at("/auto", "asgi", "SapiInterface auto")
    + app_at("/deflated", "wsgi", "SetOutputFilter DEFLATE")
    + app_at("/deflated-too", "asgi", "SetOutputFilter DEFLATE")
    + app_at("/", "other")
    .replace("<Location />", "<VirtualHost *>\nServerName all.example\n<Location />")
    .replace("</Location>", "</Location>\n</VirtualHost>")
    + "<VirtualHost *>\nServerName first.example\n"
    + app_at("/app", "wsgi", "SapiValue where first")
    + "</VirtualHost>\n<VirtualHost *>\nServerName second.example\n"
    + app_at("/app", "asgi")
    + "</VirtualHost>\n"
)
# The first VirtualHost is what other names get; this one is as the server outside of them.
SITE = SITE.replace(
    "<VirtualHost *>", "<VirtualHost *>\nServerName localhost\n</VirtualHost>\n<VirtualHost *>", 1
)


@pytest.fixture(scope="module", params=BOTH)
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hosted]:
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_FOLDER", str(folder))
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        with hosting(prepare(folder), SITE, request.param) as hosted:
            yield hosted


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/one", ("wsgi", "/one", "")),
        ("/one/", ("wsgi", "/one", "/")),
        ("/one/a/b", ("wsgi", "/one", "/a/b")),
        ("/one/%C3%A9", ("wsgi", "/one", "/\xc3\xa9")),
        ("/one/a?x=/y", ("wsgi", "/one", "/a")),
        ("/one/inner/x", ("other", "/one/inner", "/x")),
        ("/one/innermost", ("wsgi", "/one", "/innermost")),
        ("/two", ("asgi", "/two", "")),
        ("/two/a/b", ("asgi", "/two", "/a/b")),
        ("/two/%C3%A9", ("asgi", "/two", "/é")),
        ("/auto/x", ("asgi", "/auto", "/x")),
        ("/s.app", ("wsgi", "/s.app", "")),
        ("/s.app/more/of%20it", ("wsgi", "/s.app", "/more/of it")),
        ("/s.app/%E2%82%AC", ("wsgi", "/s.app", "/\xe2\x82\xac")),
        ("/sub/deep/t.app", ("other", "/sub/deep/t.app", "")),
        ("/sub/deep/t.app/x/", ("other", "/sub/deep/t.app", "/x/")),
        ("/own/file", ("asgi", "/own/file", "")),
        ("/own/file/x", ("asgi", "/own/file", "/x")),
    ],
)
def test_each_section_has_its_application_and_its_names(
    site: Hosted, path: str, expected: tuple[str, str, str]
) -> None:
    assert names(site, path) == expected


def test_an_application_of_the_interface_that_is_said(site: Hosted) -> None:
    assert names(site, "/said/x") == ("asgi", "/said", "/x")


@pytest.mark.parametrize(
    ("path", "host", "expected"),
    [
        ("/app/x", "first.example", ("wsgi", "/app", "/x")),
        ("/app/x", "second.example", ("asgi", "/app", "/x")),
        ("/app/x", "all.example", ("other", "", "/app/x")),
        ("/", "all.example", ("other", "", "/")),
        ("/one/x", "second.example", ("wsgi", "/one", "/x")),
    ],
)
def test_virtual_hosts_have_their_own(
    site: Hosted, path: str, host: str, expected: tuple[str, str, str]
) -> None:
    assert names(site, path, Host=host) == expected
    assert site.get("/app/x", Host="localhost").status == 404


def test_what_is_not_its_own_is_declined(site: Hosted) -> None:
    found = site.get("/plain.txt")
    assert (found.status, found.body) == (200, b"the file plain.txt\n")
    found = site.get("/nothing.txt")
    assert (found.status, found.body) == (404, b"the host's page")
    assert site.get("/onetwo").status == 404
    assert site.get("/not-handled/x").status == 404, "SapiApp alone is no handler"


def test_an_engine_that_is_off_declines(site: Hosted) -> None:
    assert site.get("/one/off/x").status == 404


def test_a_handler_without_an_application_is_declined_and_said(site: Hosted) -> None:
    assert site.get("/no-app").status == 404
    until(lambda: "SetHandler sapi-script without SapiApp" in site.log)


def test_settings_are_merged_from_section_to_section(site: Hosted) -> None:
    """An entry of SapiAdminValue is never replaced by one of SapiValue."""
    one = {"level": "server", "where": "one", "flag": "0", "fixed": "server"}
    assert told(site, "/one")["settings"] == one
    inner = {**one, "level": "", "locked": "1", "a.b": "x y"}
    assert told(site, "/one/inner")["settings"] == inner
    assert told(site, "/one/inner/most")["settings"] == {**inner, "fixed": "most"}
    assert told(site, "/sub/deep/t.app")["settings"]["where"] == "directory"
    assert told(site, "/app", Host="first.example")["settings"]["where"] == "first"
    assert told(site, "/app", Host="second.example")["settings"]["where"] == "server"


def test_a_htaccess_may_have_values_where_options_may_be_overridden(site: Hosted) -> None:
    folder = site.folder / "site/open"
    file = folder / ".htaccess"
    try:
        file.write_text("SapiValue where htaccess\nSapiFlag flag off\nSapiValue fixed htaccess\n")
        found = told(site, "/open/x.app")["settings"]
        assert (found["where"], found["flag"], found["fixed"]) == ("htaccess", "0", "server")
        file.write_text("# switched off\nSapiEngine Off\n")
        answer = site.get("/open/x.app")
        assert (answer.status, answer.body) == (200, b"the file open/x.app\n")
        for line in (
            "SapiAdminValue fixed htaccess",
            "SapiAdminFlag fixed on",
            "SapiApp some_apps:other",
            "SapiPythonPath .",
            "SapiInterface asgi",
        ):
            file.write_text(f"{line}\n")
            before = len(site.log)
            assert site.get("/open/x.app").status == 500
            until(partial(says, site, "not allowed", before))
            assert line.split()[0] in site.log[before:]
    finally:
        file.unlink()
    assert told(site, "/open/x.app")["settings"]["where"] == "server"


@pytest.mark.parametrize("app", ["one", "two"])
def test_a_response_reaches_the_client_as_it_is(site: Hosted, app: str) -> None:
    found = site.get(f"/{app}/fields")
    assert (found.status, found.body) == (200, b"abcde")
    fields = found.headers
    assert fields.get_all("Content-Length") == ["5"]
    assert fields.get_all("ETag") == ['W/"own"']
    assert fields.get_all("Last-Modified") == ["Sun, 06 Nov 1994 08:49:37 GMT"]
    assert fields.get_all("Content-Type") == ["text/x-own"]
    assert fields.get_all("X-Own") == ["1", "2"]
    assert fields.get_all("Set-Cookie") == ["a=1", "b=2"]
    assert fields.get("Transfer-Encoding") is None


@pytest.mark.parametrize("app", ["one", "two"])
def test_an_error_of_the_application_has_its_own_page(site: Hosted, app: str) -> None:
    found = site.get(f"/{app}/status")
    assert (found.status, found.body) == (404, b"the application's own page")
    assert found.headers["Content-Type"] == "text/x-own"


def test_a_reason_of_the_application_reaches_the_client(site: Hosted) -> None:
    assert site.get("/one/status").reason == "Gone Fishing"


@pytest.mark.parametrize("app", ["one", "two"])
def test_an_application_that_raises_is_a_500(site: Hosted, app: str) -> None:
    before = len(site.log)
    found = site.get(f"/{app}/raise")
    assert found.status == 500
    assert b"raised before" not in found.body
    until(lambda: "RuntimeError: raised before the response" in site.log[before:])
    assert site.get(f"/{app}/x").status == 200


@pytest.mark.parametrize("app", ["one", "two"])
def test_extensions_are_called_around_each_request(site: Hosted, app: str) -> None:
    """Around the one that asks, and around all before it, if they failed or not."""

    def in_pairs() -> bool:
        calls = told(site, f"/{app}/calls")
        return len(calls) > 2 and calls.count("began") == calls.count("ended") + 1

    assert site.get(f"/{app}/raise").status == 500
    until(in_pairs)


@pytest.mark.parametrize("path", ["/deflated/pieces", "/deflated-too/pieces"])
def test_a_flush_goes_through_the_output_filters(site: Hosted, path: str) -> None:
    """What is compressed comes piece by piece, too: the second waits for the first to be here."""
    go = site.folder / "go"
    go.unlink(missing_ok=True)
    connection = site.connect()
    try:
        connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
        answer = connection.getresponse()
        assert answer.headers["Content-Encoding"] == "gzip"
        unpacking = zlib.decompressobj(31)
        text = b""
        while b"first part\n" not in text:
            data = answer.read1()
            assert data, text
            text += unpacking.decompress(data)
        go.touch()
        text += unpacking.decompress(answer.read()) + unpacking.flush()
        assert text == b"first part\nsecond part\n"
        assert unpacking.eof
    finally:
        go.touch()
        connection.close()


# -- hosts of their own ---------------------------------------------------------------------------


@pytest.mark.parametrize("mpm", ["prefork", "worker", "event"])
def test_an_application_sees_that_its_client_has_gone(folder: Path, mpm: str) -> None:
    with hosting(folder, LOADED + app_at("/two", "asgi"), mpm) as hosted:
        with socket.create_connection(hosted.address, 20) as link:
            link.sendall(b"GET /two/gone HTTP/1.1\r\nHost: h\r\n\r\n")
            text = b""
            while b"begun\n" not in text:
                data = link.recv(4096)
                assert data, text
                text += data
            assert not (folder / "disconnected").exists()
        until((folder / "disconnected").exists)
        assert names(hosted, "/two/x") == ("asgi", "/two", "/x")


@pytest.mark.parametrize("mpm", BOTH)
def test_applications_are_imported_from_where_it_is_said(folder: Path, mpm: str) -> None:
    """Relative to ServerRoot, and of several the first wins."""
    for name in ("first", "second"):
        (folder / "libs" / name).mkdir(parents=True)
        text = APP.replace('"wsgi"', f'"{name}"')
        (folder / "libs" / name / "elsewhere.py").write_text(text)
    more = "SapiPythonPath libs/first\nSapiPythonPath libs/second"
    text = app_at("/one", "wsgi", more).replace("some_apps", "elsewhere")
    with hosting(folder, LOADED + text, mpm) as hosted:
        assert names(hosted, "/one/x") == ("first", "/one", "/x")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("SapiPythonPath missing", "missing is not a directory"),
        ("SapiInterface rack", "SapiInterface must be wsgi, asgi, asgi2 or auto, not rack"),
        ("SapiEngine Perhaps", "SapiEngine must be On or Off"),
        ("SapiValue 1st x", "'1st' is no name of a setting"),
        ("SapiValue alone", "SapiValue takes two arguments"),
        ("SapiApp", "SapiApp takes one argument"),
    ],
)
def test_a_mistake_is_told_with_file_and_line(folder: Path, line: str, message: str) -> None:
    with hosting(folder, f"{LOADED}\n{line}\n", ready=False) as hosted:
        assert hosted.process.wait(20) != 0
        assert message in hosted.log
        number = (folder / "httpd.conf").read_text().splitlines().index(line) + 1
        assert f"line {number} of {folder}/httpd.conf" in hosted.log
        assert "Traceback" not in hosted.log


@pytest.mark.parametrize("mpm", BOTH)
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise RuntimeError('no database today')", "RuntimeError: no database today"),
        ("x = 1", "wsgi"),
        (None, "broken"),
    ],
)
def test_an_application_that_cannot_be_imported_fails_the_start(
    folder: Path, mpm: str, source: str | None, message: str
) -> None:
    if source is not None:
        (folder / "broken.py").write_text(source)
    text = LOADED + app_at("/one", "wsgi") + app_at("/two", "wsgi").replace("some_apps", "broken")
    with hosting(folder, text, mpm, ready=False) as hosted:
        assert hosted.process.wait(30) != 0
        assert message in hosted.log
        assert "ready to handle" not in hosted.log


@pytest.mark.parametrize("mpm", BOTH)
def test_after_a_failed_restart_the_old_generation_goes_on(folder: Path, mpm: str) -> None:
    with hosting(folder, LOADED + app_at("/one", "wsgi"), mpm) as hosted:
        assert names(hosted, "/one") == ("wsgi", "/one", "")
        before = hosted.workers()
        (folder / "some_apps.py").write_text("raise RuntimeError('broken by the new version')")
        hosted.process.send_signal(signal.SIGUSR1)
        until(lambda: "broken by the new version" in hosted.log)
        until(lambda: hosted.workers() == before)
        for _ in range(3):
            assert names(hosted, "/one") == ("wsgi", "/one", "")
        (folder / "some_apps.py").write_text(APP.replace('"wsgi"', '"mended"'))
        hosted.process.send_signal(signal.SIGUSR1)
        until(lambda: names(hosted, "/one")[0] == "mended")


@pytest.mark.parametrize("mpm", ["prefork", "worker", "event"])
def test_asgi_applications_have_settings_in_their_scope(folder: Path, mpm: str) -> None:
    lines = "SapiValue level server\nSapiValue where server\nSapiAdminValue fixed server\n"
    text = app_at("/two", "asgi", "SapiValue where two\nSapiValue fixed two\nSapiFlag on yes")
    with hosting(folder, LOADED + lines + text, mpm) as hosted:
        expected = {"level": "server", "where": "two", "fixed": "server", "on": "0"}
        for _ in range(3):  # the first of a path goes another way than the next ones
            assert told(hosted, "/two/x")["settings"] == expected


@pytest.mark.parametrize("mpm", BOTH)
def test_settings_stay_in_their_section(folder: Path, mpm: str) -> None:
    """Settings of one section are not seen in its neighbours, nor by later requests there."""
    text = app_at("/one", "wsgi", "SapiValue mine 1") + app_at("/two", "wsgi", "SapiValue mine 2")
    with hosting(folder, LOADED + text + app_at("/three", "wsgi"), mpm) as hosted:
        for _ in range(2):
            assert told(hosted, "/one")["settings"] == {"mine": "1"}
            assert told(hosted, "/two")["settings"] == {"mine": "2"}
            assert told(hosted, "/three")["settings"] == {}


# -- as root --------------------------------------------------------------------------------------


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that every user may look into."""
    folder = Path(tempfile.mkdtemp(prefix="host."))
    folder.chmod(0o755)
    monkeypatch.setenv("TEST_FOLDER", str(folder))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    yield prepare(folder)
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become others")
@pytest.mark.parametrize("mpm", ["prefork", "worker", "event"])
def test_requests_are_served_as_the_user_that_is_said(public: Path, mpm: str) -> None:
    """Logs are opened before, where that user may not write."""
    entry = pwd.getpwnam("nobody")
    logs = public / "logs"
    logs.mkdir(mode=0o700)
    text = (
        "LoadModule log_config_module mod_log_config\n"
        "User nobody\nGroup nogroup\n"
        "ErrorLog logs/error.log\n"
        "CustomLog logs/access.log '%>s %U'\n" + LOADED + app_at("/one", "wsgi")
    )
    with hosting(public, text, mpm, ready=False) as hosted:
        error, access = logs / "error.log", logs / "access.log"

        def answers() -> bool:
            assert hosted.process.poll() is None, hosted.log
            try:
                return bool(hosted.get("/one/x").status)
            except OSError:
                return False

        until(answers)
        *ids, groups = told(hosted, "/one/ids")
        assert ids == [entry.pw_uid] * 3 + [65534] * 3
        assert groups == sorted({*os.getgrouplist("nobody", 65534)})
        for pid in hosted.workers():
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            capabilities = [line for line in lines if line.startswith(("CapPrm", "CapEff"))]
            assert [int(line.split()[1], 16) for line in capabilities] == [0, 0]
        assert hosted.get("/one/raise").status == 500
        until(lambda: "raised before the response" in error.read_text())
        until(lambda: "500 /one/raise" in access.read_text())
        for each in (error, access):
            found = each.stat()
            assert found.st_uid == 0
            assert not found.st_mode & stat.S_IWOTH


OWN_FIELDS = """
async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = await receive()
            await send({"type": event["type"] + ".complete"})
            if event["type"] == "lifespan.shutdown":
                return
    fields = [(b"dAte", b"Sat, 21 Nov 2026 00:00:00 GMT"), (b"Server", b"mine")]
    body = b"" if scope["method"] == "HEAD" else b"body"
    start = {"type": "http.response.start", "status": 200}
    await send({**start, "headers": fields if scope["path"] == "/own" else []})
    await send({"type": "http.response.body", "body": body})
"""


def test_an_asgi_application_may_have_fields_of_the_servers(tmp_path: Path) -> None:
    (tmp_path / "fields.py").write_text(OWN_FIELDS)
    text = (
        "LoadModule sapi_module sapi_adapters.adapters.mod_sapi\n"
        "<Location />\nSetHandler sapi-script\nSapiApp fields:asgi\n</Location>\n"
    )
    with hosting(tmp_path, text, "event") as hosted:
        for _ in range(3):  # the names are known from the second time on
            answer = hosted.get("/own")
            assert answer.headers.get_all("Date") == ["Sat, 21 Nov 2026 00:00:00 GMT"]
            assert answer.headers.get_all("Server") == ["mine"]
            assert len(hosted.get("/").headers.get_all("Date")) == 1
            head = hosted.request("HEAD", "/")
            assert head.getheader("Content-Length") is None, "nobody knows that of GET"
