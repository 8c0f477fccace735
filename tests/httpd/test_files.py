"""Files: the default handler with conditions, ranges and links; mod_mime and mod_dir."""

from __future__ import annotations

import email
import hashlib
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from httpd.hosting import Hosted, hosting

from sapi_adapters.httpd import static
from sapi_adapters.httpd.modules.mod_mime import standard_types
from sapi_adapters.sapi import ConfigurationError

OLD = 1_000_000_000
OLD_DATE = "Sun, 09 Sep 2001 01:46:40 GMT"
BODY = b"0123456789" * 10
BIG = 1 << 30
MPMS = ("prefork", "worker", "event")

APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{environ['PATH_INFO']}|{environ['REQUEST_URI']}".encode()]
"""

CONFIGURATION = """
LoadModule mime_module mod_mime
LoadModule dir_module mod_dir
LoadModule sapi_module sapi_adapters.adapters.mod_sapi
DocumentRoot www
AddType text/x-own;level=1 .own
AddHandler default-handler .hand
AddEncoding gzip .gz
AddLanguage de .de
AddLanguage fr .fr
AddCharset UTF-8 .utf8
RemoveType .bin
<Directory {folder}/www/linked>
    Options FollowSymLinks
</Directory>
<Directory {folder}/www/owned>
    Options SymLinksIfOwnerMatch
</Directory>
<Directory {folder}/www/plain>
    EnableSendfile Off
</Directory>
<Directory {folder}/www/tagless>
    FileETag None
</Directory>
<Directory {folder}/www/inode>
    FileETag All
</Directory>
<Directory {folder}/www/info>
    AcceptPathInfo On
</Directory>
<Directory {folder}/www/unslashed>
    DirectorySlash Off
</Directory>
<Directory {folder}/www/two>
    DirectoryIndex none.html second.html
</Directory>
<Directory {folder}/www/elsewhere>
    DirectoryIndex disabled
    DirectoryIndex /a.txt
    DirectoryIndexRedirect On
</Directory>
<Directory {folder}/www/fallback>
    FallbackResource /fallback/front.html
</Directory>
<Directory {folder}/www/circle>
    FallbackResource /circle/none.html
</Directory>
<Directory {folder}/www/toapp>
    FallbackResource /application
</Directory>
<Directory {folder}/www/checked>
    DirectoryCheckHandler On
    SetHandler sapi-script
    SapiApp files_app:app
</Directory>
<Location /application>
    SetHandler sapi-script
    SapiApp files_app:app
</Location>
<Files forbidden.html>
    SetHandler nobody
</Files>
<FilesMatch "secret">
    ErrorDocument 404 /a.txt
</FilesMatch>
"""

FILES = (
    "a.txt", "a.own", "a.hand", "a.html.de", "a.html.utf8", "a.tar.gz", "a.html.de.fr", "a.bin",
    ".png", "a.HTML", "noext", "a.nosuch", "a.js", "sub/index.html", "empty/other.html",
    "linked/real", "owned/real", "plain/a.txt", "tagless/a.txt", "inode/a.txt", "info/a.txt",
    "two/second.html", "two/index.html", "elsewhere/index.html", "fallback/front.html",
    "circle/a.txt", "unslashed/index.html", "toapp/a.txt", "checked/index.html",
    "with space%/index.html",
)  # fmt: skip


def of_somebody_else(folder: Path) -> Path:
    """Return a file that belongs to another user."""
    path = Path("/etc/hostname")
    if os.getuid() == 0:
        path = folder / "of-nobody"
        path.write_bytes(b"x")
        os.chown(path, 65534, 65534)
    return path


def make_site(folder: Path) -> None:
    """Make the files, all of the same old time."""
    for name in FILES:
        path = folder / "www" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(BODY)
        os.utime(path, (OLD, OLD))
    (folder / "www/empty.txt").write_bytes(b"")
    (folder / "www/new.txt").write_bytes(BODY)
    later = time.time() + 1000
    os.utime(folder / "www/new.txt", (later, later))
    for name in ("linked", "owned", "inode"):
        (folder / f"www/{name}/link").symlink_to(folder / "www/a.txt")
    (folder / "www/owned/alien").symlink_to(of_somebody_else(folder))
    (folder / "www/way").symlink_to(folder / "www/sub")
    (folder / "files_app.py").write_text(APP)


@pytest.fixture(scope="module", params=MPMS)
def site(request: Any, tmp_path_factory: Any) -> Iterator[Hosted]:
    folder = tmp_path_factory.mktemp("site")
    make_site(folder)
    with hosting(folder, CONFIGURATION.format(folder=folder), request.param) as hosted:
        yield hosted


def fields(answer: Any, *names: str) -> list[str | None]:
    return [answer.getheader(name) for name in names]


# -- the handler ----------------------------------------------------------------------------------


def test_a_file_is_sent_with_its_validators(site: Hosted) -> None:
    answer = site.get("/a.txt")
    assert (answer.status, answer.body) == (200, BODY)
    tag = f'"64-{OLD * 1_000_000:x}"'
    assert fields(answer, "ETag", "Last-Modified", "Accept-Ranges", "Content-Length") == [
        tag,
        OLD_DATE,
        "bytes",
        "100",
    ]
    for path, size in (("/a.txt", "100"), ("/plain/a.txt", "100"), ("/empty.txt", "0")):
        head = site.request("HEAD", path)
        assert (head.status, head.body, head.getheader("Content-Length")) == (200, b"", size)
    assert site.request("HEAD", "/a.txt").getheader("ETag") == tag


@pytest.mark.parametrize("path", ["/plain/a.txt", "/linked/link", "/owned/link"])
def test_a_file_is_sent_without_sendfile_and_over_links_that_are_allowed(
    site: Hosted, path: str
) -> None:
    answer = site.get(path)
    assert (answer.status, answer.body, answer.getheader("Content-Length")) == (200, BODY, "100")


def test_an_empty_file_has_no_ranges(site: Hosted) -> None:
    answer = site.get("/empty.txt", Range="bytes=0-")
    assert (answer.status, answer.body, answer.getheader("Content-Length")) == (200, b"", "0")


def test_file_etag_is_as_configured(site: Hosted) -> None:
    assert site.get("/tagless/a.txt").getheader("ETag") is None
    inode = (site.folder / "www/inode/a.txt").stat().st_ino
    assert site.get("/inode/a.txt").getheader("ETag") == f'"{inode:x}-64-{OLD * 1_000_000:x}"'


def test_what_changed_just_now_has_a_weak_tag_and_no_date_of_the_future(site: Hosted) -> None:
    answer = site.get("/new.txt")
    assert answer.getheader("ETag").startswith('W/"')
    assert answer.getheader("Last-Modified") == answer.getheader("Date")
    assert site.get("/new.txt", If_Match=answer.getheader("ETag")).status == 412
    assert site.get("/new.txt", If_None_Match=answer.getheader("ETag")).status == 304


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("POST", "/a.txt", 405, "GET, HEAD, OPTIONS"),
        ("DELETE", "/a.txt", 405, "GET, HEAD, OPTIONS"),
        ("OPTIONS", "/a.txt", 200, "GET, HEAD, OPTIONS"),
        ("OPTIONS", "*", 200, None),
        ("GET", "/missing", 404, None),
        ("GET", "/a.txt/more", 404, None),
        ("GET", "/info/a.txt/more", 200, None),
        ("GET", "/empty/", 403, None),
        ("GET", "/inode/link", 403, None),
        ("GET", "/owned/alien", 403, None),
        ("GET", "/way/index.html", 403, None),
    ],
)
def test_what_is_served_and_what_is_not(
    site: Hosted, method: str, path: str, status: int, allow: str | None
) -> None:
    answer = site.request(method, path)
    assert (answer.status, answer.getheader("Allow")) == (status, allow)


def test_conditions_do_not_count_for_error_documents(site: Hosted) -> None:
    answer = site.get("/secret", If_None_Match="*", Range="bytes=0-1")
    assert (answer.status, answer.body) == (404, BODY)


# -- conditions -----------------------------------------------------------------------------------

TAG = f'"64-{OLD * 1_000_000:x}"'
BEFORE, AFTER = "Sun, 09 Sep 2001 01:46:39 GMT", "Sun, 09 Sep 2001 01:46:41 GMT"


@pytest.mark.parametrize(
    ("status", "asked"),
    [
        (304, {"If-None-Match": TAG}),
        (304, {"If-None-Match": f'"x", W/{TAG}'}),
        (304, {"If-None-Match": "*"}),
        (200, {"If-None-Match": '"x"'}),
        (200, {"If-None-Match": '"x"', "If-Modified-Since": OLD_DATE}),
        (304, {"If-None-Match": TAG, "If-Modified-Since": BEFORE}),
        (304, {"If-Modified-Since": OLD_DATE}),
        (304, {"If-Modified-Since": "Sunday, 09-Sep-01 01:46:40 GMT"}),
        (200, {"If-Modified-Since": BEFORE}),
        (200, {"If-Modified-Since": "yesterday"}),
        (200, {"If-Match": TAG}),
        (200, {"If-Match": "*"}),
        (412, {"If-Match": '"x"'}),
        (412, {"If-Match": f"W/{TAG}"}),
        (412, {"If-Match": '"x"', "If-None-Match": TAG}),
        (304, {"If-Match": TAG, "If-None-Match": TAG}),
        (200, {"If-Unmodified-Since": OLD_DATE}),
        (412, {"If-Unmodified-Since": BEFORE}),
        (200, {"If-Match": TAG, "If-Unmodified-Since": BEFORE}),
        (304, {"If-Unmodified-Since": AFTER, "If-Modified-Since": AFTER}),
    ],
)
def test_conditions(site: Hosted, status: int, asked: dict[str, str]) -> None:
    answer = site.request("GET", "/a.txt", headers=asked)
    assert answer.status == status
    if status == 304:
        assert (answer.body, answer.getheader("ETag")) == (b"", TAG)


# -- ranges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/a.txt", "/plain/a.txt"])
@pytest.mark.parametrize(
    ("asked", "content_range", "body"),
    [
        ("bytes=0-9", "bytes 0-9/100", BODY[:10]),
        ("bytes=90-", "bytes 90-99/100", BODY[90:]),
        ("bytes=-1", "bytes 99-99/100", b"9"),
        ("bytes=-1000", "bytes 0-99/100", BODY),
        ("bytes=5-1000", "bytes 5-99/100", BODY[5:]),
        ("Bytes= 5-5 ", "bytes 5-5/100", b"5"),
        ("bytes=7-7,500-", "bytes 7-7/100", b"7"),
        ("bytes=99-99999999999999999999999", "bytes 99-99/100", b"9"),
    ],
)
def test_a_range(site: Hosted, path: str, asked: str, content_range: str, body: bytes) -> None:
    answer = site.get(path, Range=asked)
    assert (answer.status, answer.body) == (206, body)
    assert fields(answer, "Content-Range", "Content-Length") == [content_range, str(len(body))]


def test_several_ranges_are_parts(site: Hosted) -> None:
    answer = site.get("/a.txt", Range="bytes=0-1,50-52,-1")
    assert answer.status == 206
    assert answer.getheader("Content-Range") is None
    head = f"Content-Type: {answer.getheader('Content-Type')}\r\n\r\n".encode()
    message = email.message_from_bytes(head + answer.body)
    found = [
        (part["Content-Type"], part["Content-Range"], part.get_payload(decode=True))
        for part in message.get_payload()  # type: ignore[union-attr]
    ]
    assert found == [
        ("text/plain", "bytes 0-1/100", b"01"),
        ("text/plain", "bytes 50-52/100", b"012"),
        ("text/plain", "bytes 99-99/100", b"9"),
    ]


@pytest.mark.parametrize("asked", ["bytes=100-", "bytes=-0", "bytes=500-600,700-"])
def test_a_range_behind_the_end(site: Hosted, asked: str) -> None:
    answer = site.get("/a.txt", Range=asked)
    assert (answer.status, answer.getheader("Content-Range")) == (416, "bytes */100")


@pytest.mark.parametrize(
    "asked",
    [
        "lines=0-1",
        "bytes=",
        "bytes=5-4",
        "bytes=a-b",
        "bytes=0-1,x",
        "bytes=-",
        "bytes=" + ",".join(["0-0"] * 201),
        "bytes=" + ",".join(["0-"] * 30),
        "bytes=" + ",".join(f"{n}-{n}" for n in range(60, 20, -1)),
    ],
)
def test_a_range_that_is_ignored(site: Hosted, asked: str) -> None:
    answer = site.get("/a.txt", Range=asked)
    assert (answer.status, answer.body) == (200, BODY)


def test_as_many_ranges_as_are_allowed() -> None:
    text = "bytes=" + ",".join(f"{2 * n}-{2 * n}" for n in range(200))
    found = static.parse_ranges(text, 1000)
    assert found is not None and len(found) == 200
    assert static.parse_ranges(f"{text},998-998", 1000) is None


@pytest.mark.parametrize(
    ("condition", "status"),
    [(TAG, 206), ('"x"', 200), (f"W/{TAG}", 200), (OLD_DATE, 206), (AFTER, 200), ("x", 200)],
)
def test_if_range(site: Hosted, condition: str, status: int) -> None:
    answer = site.get("/a.txt", Range="bytes=0-0", If_Range=condition)
    assert answer.status == status


def test_head_has_no_range(site: Hosted) -> None:
    answer = site.request("HEAD", "/a.txt", headers={"Range": "bytes=0-0"})
    assert (answer.status, answer.getheader("Content-Length")) == (200, "100")


# -- large files ----------------------------------------------------------------------------------


def peak(hosted: Hosted) -> int:
    """Return the most memory that a child of the host has had, in KiB."""
    texts = [Path(f"/proc/{pid}/status").read_text() for pid in hosted.workers()]
    return max(int(match[1]) for text in texts if (match := re.search(r"VmHWM:\s+(\d+)", text)))


@pytest.mark.parametrize("mpm", MPMS)
@pytest.mark.parametrize("sendfile", ["On", "Off"])
def test_a_large_file_takes_no_memory(tmp_path: Path, mpm: str, sendfile: str) -> None:
    size = BIG if sendfile == "On" else BIG // 4
    (tmp_path / "www").mkdir()
    with (tmp_path / "www/big").open("wb") as file:
        file.truncate(size)
        file.seek(size - 5)
        file.write(b"12345")
    (tmp_path / "www/small").write_bytes(BODY)
    with hosting(tmp_path, f"DocumentRoot www\nEnableSendfile {sendfile}\n", mpm) as hosted:
        hosted.get("/small")
        before = peak(hosted)
        connection = hosted.connect()
        connection.request("GET", "/big")
        answer = connection.getresponse()
        assert answer.getheader("Content-Length") == str(size)
        taken, last = 0, b""
        while data := answer.read(1 << 20):
            taken, last = taken + len(data), (last + data)[-5:]
        assert (taken, last) == (size, b"12345")
        connection.request("GET", "/small")
        assert connection.getresponse().read() == BODY
        connection.close()
        assert peak(hosted) - before < 8192


@pytest.mark.parametrize("mpm", ["prefork", "event"])
def test_descriptors_are_given_back(tmp_path: Path, mpm: str) -> None:
    (tmp_path / "www").mkdir()
    with (tmp_path / "www/big").open("wb") as file:
        file.truncate(64 << 20)
    (tmp_path / "www/small").write_bytes(BODY)

    def open_files() -> int:
        return sum(
            "/www/" in os.readlink(f"/proc/{pid}/fd/{fd}")
            for pid in hosted.workers()
            for fd in os.listdir(f"/proc/{pid}/fd")
            if os.path.lexists(f"/proc/{pid}/fd/{fd}")
        )

    with hosting(tmp_path, "DocumentRoot www\n", mpm) as hosted:
        for _ in range(5):
            with socket.create_connection(hosted.address, timeout=10) as client:
                client.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert client.recv(1000)  # and goes away in the middle
            assert hosted.get("/small").body == BODY
        end = time.monotonic() + 10
        while open_files() and time.monotonic() < end:
            time.sleep(0.02)
        assert open_files() == 0


# -- links ----------------------------------------------------------------------------------------

NONE: frozenset[str] = frozenset()
OWNER = frozenset(("SymLinksIfOwnerMatch",))
FOLLOW = frozenset(("FollowSymLinks",))


@pytest.fixture(params=["openat2", "steps"])
def way(request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to open a file without following links."""
    if request.param == "steps":
        monkeypatch.setattr(static, "_openat2", lambda: None)
    elif static._openat2() is None:
        pytest.skip("no openat2 here")
    return str(request.param)


def read(path: Path, options: frozenset[str], root: Path | None = None) -> bytes:
    fd = static.open_file(str(path), options, None if root is None else str(root))
    try:
        return os.read(fd, 1000)
    finally:
        os.close(fd)


def test_a_link_that_was_put_in_the_way_is_not_followed(way: str, tmp_path: Path) -> None:
    tmp_path = tmp_path.resolve()
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_bytes(b"x")
    (tmp_path / "directory").symlink_to("real")
    (tmp_path / "real/link").symlink_to("file")
    assert read(tmp_path / "real/file", NONE) == b"x"
    for path in (tmp_path / "directory/file", tmp_path / "real/link"):
        with pytest.raises(OSError) as caught:
            read(path, NONE)
        assert caught.value.errno == 40  # ELOOP
        assert read(path, FOLLOW) == b"x"
        assert read(path, OWNER) == b"x"


def test_links_of_another_owner_are_not_followed(tmp_path: Path) -> None:
    tmp_path = tmp_path.resolve()
    (tmp_path / "link").symlink_to(of_somebody_else(tmp_path))
    with pytest.raises(OSError) as caught:
        read(tmp_path / "link", OWNER)
    assert caught.value.errno == 40


def test_nothing_outside_of_a_root_is_opened(way: str, tmp_path: Path) -> None:
    root = tmp_path.resolve() / "root"
    (root / "inner").mkdir(parents=True)
    (tmp_path / "outside").write_bytes(b"outside")
    (root / "inner/file").write_bytes(b"x")
    (root / "inner/out").symlink_to(tmp_path / "outside")
    (root / "inner/up").symlink_to("../../outside")
    assert read(root / "inner/file", NONE, root) == b"x"
    assert read(root / "inner/../inner/file", FOLLOW, root) == b"x"
    for name in ("inner/out", "inner/up", "../outside", "inner/../../outside"):
        for options in (NONE, OWNER, FOLLOW):
            with pytest.raises(OSError):
                read(root / name, options, root)


def test_a_fifo_in_the_place_of_a_file_makes_nobody_wait(way: str, tmp_path: Path) -> None:
    fifo = tmp_path.resolve() / "fifo"
    os.mkfifo(fifo)
    os.close(static.open_file(str(fifo), NONE))


# -- mod_mime -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind", "encoding", "language"),
    [
        ("/a.txt", "text/plain", None, None),
        ("/a.HTML", "text/html", None, None),
        ("/a.own", "text/x-own;level=1", None, None),
        ("/a.html.de", "text/html", None, "de"),
        ("/a.html.de.fr", "text/html", None, "de, fr"),
        ("/a.html.utf8", "text/html; charset=UTF-8", None, None),
        ("/a.tar.gz", "application/x-tar", "gzip", None),
        ("/a.js", "text/javascript", None, None),
        ("/a.bin", None, None, None),
        ("/.png", None, None, None),
        ("/noext", None, None, None),
        ("/a.nosuch", None, None, None),
    ],
)
def test_what_extensions_say(
    site: Hosted, path: str, kind: str | None, encoding: str | None, language: str | None
) -> None:
    answer = site.get(path)
    assert answer.body == BODY
    found = fields(answer, "Content-Type", "Content-Encoding", "Content-Language")
    assert found == [kind, encoding, language]


def test_add_handler_chooses_code_and_add_type_does_not(tmp_path: Path) -> None:
    make_site(tmp_path)
    text = (
        "LoadModule mime_module mod_mime\n"
        "LoadModule sapi_module sapi_adapters.adapters.mod_sapi\n"
        "DocumentRoot www\nSapiApp files_app:app\nAddHandler sapi-script .hand\n"
        f"<Directory {tmp_path}/www/sub>\nRemoveHandler .hand\n</Directory>\n"
    )
    (tmp_path / "www/sub/a.hand").write_bytes(BODY)
    with hosting(tmp_path, text) as hosted:
        assert hosted.get("/a.hand/more").body.endswith(b"|/a.hand/more")
        assert hosted.get("/a.txt").body == BODY
        assert hosted.get("/sub/a.hand").body == BODY
    for wrong in ("sapi-script", "text", "text/", "/html", "text/a b"):
        with hosting(tmp_path, f'{text}AddType "{wrong}" .txt\n', ready=False) as hosted:
            assert hosted.process.wait(15) != 0
            assert "is no media type" in hosted.log


def test_types_config_takes_the_place_of_the_built_in_types(tmp_path: Path) -> None:
    make_site(tmp_path)
    (tmp_path / "types").write_text("# none\ntext/x-t txt nosuch # more\ntext/x-none\n")
    text = "LoadModule mime_module mod_mime\nDocumentRoot www\nTypesConfig types\n"
    with hosting(tmp_path, text) as hosted:
        kinds = [hosted.get(f"/a.{end}").getheader("Content-Type") for end in ("txt", "nosuch")]
        assert kinds == ["text/x-t", "text/x-t"]
        assert hosted.get("/a.js").getheader("Content-Type") is None


def test_types_do_not_come_from_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    import mimetypes

    mimetypes.add_type("text/x-of-somebody", ".files-test")  # to the table of the process
    try:
        assert "files-test" not in standard_types()
    finally:
        mimetypes.init()
    assert standard_types()["html"] == "text/html"


def test_a_types_config_that_is_missing_is_an_error(tmp_path: Path) -> None:
    from sapi_adapters.httpd.modules.mod_mime import read_types

    with pytest.raises(ConfigurationError, match="could not open mime types"):
        read_types(str(tmp_path / "none"))


# -- mod_dir --------------------------------------------------------------------------------------


def test_a_directory_without_its_slash_is_redirected(site: Hosted) -> None:
    base = f"http://127.0.0.1:{site.port}"
    for path, location in (
        ("/sub", "/sub/"),
        ("/sub?a=b&c", "/sub/?a=b&c"),
        ("/with%20space%25", "/with%20space%25/"),
    ):
        answer = site.get(path)
        assert (answer.status, answer.getheader("Location")) == (301, base + location)
    assert site.get("/unslashed").status == 403


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/sub/", 200),
        ("/sub/?a=b", 200),
        ("/two/", 200),
        ("/with%20space%25/", 200),
        ("/empty/", 403),
        ("/unslashed/", 200),
        ("/fallback/index.html", 200),
        ("/fallback/none/at/all", 200),
        ("/fallback/", 200),
        ("/circle/missing", 404),
        ("/circle/", 403),
    ],
)
def test_what_stands_for_a_directory_or_a_missing_file(
    site: Hosted, path: str, status: int
) -> None:
    answer = site.get(path)
    assert answer.status == status
    if status == 200:
        assert (answer.body, answer.getheader("Content-Type")) == (BODY, "text/html")


def test_an_index_elsewhere_by_a_redirect(site: Hosted) -> None:
    answer = site.get("/elsewhere/?a=b")
    assert answer.status == 302
    assert answer.getheader("Location") == f"http://127.0.0.1:{site.port}/a.txt?a=b"


def test_a_fallback_may_be_an_application(site: Hosted) -> None:
    assert site.get("/toapp/x/y?q").body == b"|/toapp/x/y?q"
    assert site.get("/toapp/a.txt").body == BODY


def test_a_handler_for_the_directory_goes_first_when_that_is_asked_for(site: Hosted) -> None:
    assert site.get("/checked/").body.endswith(b"|/checked/")


def test_the_index_is_served_only_if_the_index_may_be(tmp_path: Path) -> None:
    make_site(tmp_path)
    (tmp_path / "www/empty/index.html").symlink_to(tmp_path / "www/a.txt")
    text = (
        "LoadModule dir_module mod_dir\nDocumentRoot www\n"
        f"<Directory {tmp_path}/www/two>\n"
        "DirectoryIndex none.html %zz\n</Directory>\n"
    )
    with hosting(tmp_path, text) as hosted:
        assert hosted.get("/two/").status == 400  # what the index would be answered with
        assert hosted.get("/empty/").status == 403
        assert "Symbolic link not allowed" in hosted.log


def test_no_module_is_needed_for_a_directory_to_be_refused(tmp_path: Path) -> None:
    make_site(tmp_path)
    with hosting(tmp_path, "DocumentRoot www\n") as hosted:
        assert hosted.get("/sub/").status == 403


def test_a_large_download_is_finished_before_its_worker_ends(tmp_path: Path) -> None:
    (tmp_path / "www").mkdir()
    content = os.urandom(1 << 20) * 32
    (tmp_path / "www/big").write_bytes(content)
    with hosting(tmp_path, "DocumentRoot www\nGracefulShutdownTimeout 20\n", "event") as hosted:
        connection = hosted.connect()
        connection.request("GET", "/big")
        answer = connection.getresponse()
        digest = hashlib.sha256(answer.read(1000))
        hosted.process.send_signal(28)  # SIGWINCH: end gracefully
        for _ in range(150):
            if not hosted.workers():
                break
            time.sleep(0.02)
        assert hosted.workers(), "it went while its client was still reading"
        while data := answer.read(65536):
            digest.update(data)
        assert digest.digest() == hashlib.sha256(content).digest()
        connection.close()
        assert hosted.process.wait(15) == 0
