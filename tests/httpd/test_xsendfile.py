"""mod_xsendfile: files that applications, programs and backends name, on a real host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from httpd.hosting import Hosted, hosting

CONTENT = bytes(range(256)) * 1000
APP = """
from urllib.parse import unquote

def wsgi(environ, start_response):
    status, _, name = environ["QUERY_STRING"].partition("&")
    headers = [("Content-Type", "image/x-own"), ("Content-Length", "4"), ("X-More", "yes")]
    if name:
        headers.append(("x-sendfile", unquote(name, "latin-1")))
    start_response(status + " Said", headers)
    return [b"body"]

async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    status, _, name = scope["query_string"].partition(b"&")
    headers = [(b"content-type", b"image/x-own"), (b"x-more", b"yes")]
    if name:
        headers.append((b"x-sendfile", unquote(name.decode(), "latin-1").encode("latin-1")))
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    await send({"type": "http.response.body", "body": b"bo", "more_body": True})
    await send({"type": "http.response.body", "body": b"dy"})
"""
SCRIPT = """#!/bin/sh
echo 'Content-Type: image/x-own'
echo 'X-More: yes'
echo "X-Sendfile: ${QUERY_STRING#*&}"
echo
echo body
"""
CONFIGURATION = """
LoadModule xsendfile_module mod_xsendfile
LoadModule cgi_module mod_cgi
LoadModule sapi_module sapi_adapters.adapters.mod_sapi
DocumentRoot {root}
<Directory {root}>
    Options ExecCGI FollowSymLinks
</Directory>
<Files script>
    SetHandler cgi-script
</Files>
<Location /off>
    SetHandler sapi-script
    SapiApp sent:wsgi
</Location>
ErrorDocument 403 "not there"
{on}
"""
ON = """
XSendFilePath {files} {root}/more
<Location /wsgi>
    SetHandler sapi-script
    SapiApp sent:wsgi
    XSendFile On
    Options FollowSymLinks
</Location>
<Location /asgi>
    SetHandler sapi-script
    SapiApp sent:asgi
    XSendFile On
    Options FollowSymLinks
</Location>
<Files script>
    XSendFile On
</Files>
"""


@pytest.fixture(scope="module", params=["prefork", "event"])
def host(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosted]:
    folder = tmp_path_factory.mktemp(f"host-{request.param}")
    root, files = folder / "root", folder / "files"
    (root / "more").mkdir(parents=True)
    (files / "inner").mkdir(parents=True)
    (folder / "sent.py").write_text(APP)
    (files / "data").write_bytes(CONTENT)
    (files / "empty").write_bytes(b"")
    (files / "inner/a b%41\xe9").write_bytes(b"name")
    (root / "more/other").write_bytes(b"other")
    (folder / "secret").write_bytes(b"secret")
    (folder / "files-too").mkdir()
    (folder / "files-too/data").write_bytes(b"secret")
    (files / "out").symlink_to("../secret")
    (files / "absolute").symlink_to(folder / "secret")
    (files / "within").symlink_to("inner/../data")
    os.mkfifo(files / "fifo")
    (root / "script").write_text(SCRIPT)
    (root / "script").chmod(0o755)
    text = CONFIGURATION.format(root=root, on=ON.format(root=root, files=files))
    with hosting(folder, text, request.param) as hosted:
        yield hosted


def ask(host: Hosted, path: str, name: str, status: int = 200, **fields: str) -> Any:
    """Return the answer of what is at *path* when it names the file *name*."""
    return host.get(f"{path}?{status}&{quote(os.fsencode(name))}", **fields)


KINDS = pytest.mark.parametrize("path", ["/wsgi", "/asgi", "/script"])


@KINDS
def test_the_file_is_the_body_and_the_field_is_not_shown(host: Hosted, path: str) -> None:
    answer = ask(host, path, f"{host.folder}/files/data")
    assert (answer.status, answer.body) == (200, CONTENT), host.log
    assert answer.getheader("X-Sendfile") is None
    assert answer.getheader("Content-Length") == str(len(CONTENT))
    assert answer.getheader("Content-Type") == "image/x-own"
    assert answer.getheader("X-More") == "yes"
    assert answer.getheader("ETag") and answer.getheader("Last-Modified")


@KINDS
def test_ranges_and_conditions_hold_for_it(host: Hosted, path: str) -> None:
    name = f"{host.folder}/files/data"
    answer = ask(host, path, name, Range="bytes=10-19")
    assert (answer.status, answer.body) == (206, CONTENT[10:20])
    tag = ask(host, path, name).getheader("ETag")
    answer = ask(host, path, name, If_None_Match=tag)
    assert (answer.status, answer.body) == (304, b"")
    assert ask(host, path, name, Range="bytes=9999999-").status == 416
    assert ask(host, path, name, If_Match='"other"').status == 412


@pytest.mark.parametrize("path", ["/wsgi", "/asgi"])
def test_the_connection_is_of_use_afterwards(host: Hosted, path: str) -> None:
    connection = host.connect()
    try:
        for name, body in (("data", CONTENT), ("empty", b""), ("data", CONTENT)):
            connection.request("GET", f"{path}?200&{host.folder}/files/{name}")
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, body)
        connection.request("HEAD", f"{path}?200&{host.folder}/files/data")
        answer = connection.getresponse()
        assert (answer.read(), answer.getheader("Content-Length")) == (b"", str(len(CONTENT)))
    finally:
        connection.close()


def test_names(host: Hosted) -> None:
    files = f"{host.folder}/files"
    assert ask(host, "/wsgi", f"{files}/inner/a b%41\xe9").body == b"name"
    assert ask(host, "/wsgi", "inner/a b%41\xe9").body == b"name"  # below any of the directories
    assert ask(host, "/wsgi", "other").body == b"other"
    assert ask(host, "/wsgi", f"{files}/within").body == CONTENT


@KINDS
@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("{}/secret", 403),
        ("{}/files/../secret", 403),
        ("{}/files/inner/../../secret", 403),
        ("{}/files-too/data", 403),
        ("/etc/passwd", 403),
        ("../secret", 403),
        ("{}/files/out", 403),
        ("{}/files/absolute", 403),
        ("{}/files/fifo", 403),
        ("{}/files", 403),
        ("{}/files/inner", 403),
        ("{}/files/absent", 404),
        ("absent", 404),
    ],
)
def test_nothing_else_is_sent(host: Hosted, path: str, name: str, status: int) -> None:
    answer = ask(host, path, name.format(host.folder))
    assert answer.status == status
    assert b"secret" not in answer.body
    if status == 403:
        assert answer.body == b"not there"  # the error document
        assert name.format(host.folder) in host.log


@pytest.mark.parametrize("path", ["/wsgi", "/asgi"])
def test_other_responses_are_untouched(host: Hosted, path: str) -> None:
    answer = ask(host, path, f"{host.folder}/files/data", status=201)
    assert (answer.status, answer.body) == (201, b"body")
    assert answer.getheader("X-Sendfile") is None
    answer = host.get(f"{path}?200")
    assert (answer.status, answer.body) == (200, b"body")


def test_it_is_off_by_default_and_then_nothing_is_touched(host: Hosted) -> None:
    answer = ask(host, "/off", f"{host.folder}/files/data")
    assert (answer.status, answer.body) == (200, b"body")
    assert answer.getheader("X-Sendfile") == f"{host.folder}/files/data"


def test_without_a_directory_nothing_may_be_sent(tmp_path: Path) -> None:
    (tmp_path / "sent.py").write_text(APP)
    on = "<Location /wsgi>\nSetHandler sapi-script\nSapiApp sent:wsgi\nXSendFile On\n</Location>"
    with hosting(tmp_path, CONFIGURATION.format(root=tmp_path, on=on)) as host:
        assert ask(host, "/wsgi", f"{tmp_path}/sent.py").status == 403


def test_a_filter_may_see_the_file(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "sent.py").write_text(APP)
    (tmp_path / "data").write_bytes(CONTENT)
    on = (
        f"LoadModule deflate_module mod_deflate\nXSendFilePath {tmp_path}\n"
        "<Location /{0}>\nSetHandler sapi-script\nSapiApp sent:{0}\nXSendFile On\n"
        "SetOutputFilter DEFLATE\n</Location>\n"
    )
    text = CONFIGURATION.format(root=tmp_path, on=on.format("wsgi") + on.format("asgi"))
    for mpm in ("prefork", "event"):
        with hosting(tmp_path, text, mpm) as host:
            for path in ("/wsgi", "/asgi"):
                answer = ask(host, path, f"{tmp_path}/data", Accept_Encoding="gzip")
                assert answer.getheader("Content-Encoding") == "gzip", host.log
                assert gzip.decompress(answer.body) == CONTENT
