"""mod_deflate and mod_ext_filter: what filters make of responses and of request bodies."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import re
import socket
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from httpd.hosting import Hosted, hosting
from serving import until

from sapi_adapters.httpd.config import SyntaxError as ConfigurationSyntaxError
from sapi_adapters.httpd.host import Host
from sapi_adapters.httpd.modules.mod_deflate import Inflating, accepts_gzip
from sapi_adapters.sapi import RequestError

OLD = 1_000_000_000
TEXT = b"".join(b"line %d of a text that is worth it\n" % n for n in range(200))
TAG = f'"{len(TEXT):x}-{OLD * 1_000_000:x}"'
GZIP_TAG = TAG[:-1] + '-gzip"'
BOTH = ("prefork", "event")

APP = """
import hashlib

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/echo":
        length = environ.get("CONTENT_LENGTH", "none")
        coding = environ.get("HTTP_CONTENT_ENCODING", "none")
        digest, size = hashlib.sha256(), 0
        while data := environ["wsgi.input"].read(65536):
            digest.update(data)
            size += len(data)
        start_response("200 OK", [("Content-Type", "text/x-echo")])
        return [f"{length} {coding} {size} {digest.hexdigest()}".encode()]
    if path == "/environ":
        start_response("200 OK", [("Content-Type", "text/x-environ")])
        return [environ.get("HTTP_IF_NONE_MATCH", "none").encode()]
    kind = "image/png" if path == "/image" else "text/html; charset=utf-8"
    headers = [("Content-Type", kind)]
    if path == "/coded":
        headers.append(("Content-Encoding", "br"))
    if path == "/fixed":
        headers.append(("Cache-Control", "public, no-transform"))
    if path == "/varying":
        headers += [("Vary", "Cookie"), ("ETag", 'W/"x"'), ("Content-Length", "12000")]
    if path == "/empty":
        start_response("204 No Content", [])
        return []
    if path == "/parts":
        start_response("200 OK", headers)
        return (b"%d " % n * 10000 for n in range(20))
    if path == "/slow":
        return slow(environ, start_response(("200 OK"), headers))
    start_response("200 OK", headers)
    return [b"<p>hello</p>" * 1000]

def slow(environ, write):
    yield b"first part\\n"
    import os, time
    end = time.monotonic() + 15
    while not os.path.exists(os.environ["PYTHONPATH"].split(":")[0] + "/go"):
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)
    yield b"second part\\n"

async def asynchronous(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-type", b"text/html")]})
    await send({"type": "http.response.body", "body": b"<p>hello</p>" * 1000})
"""

CONFIGURATION = """
LoadModule mime_module mod_mime
LoadModule deflate_module mod_deflate
LoadModule setenvif_module mod_setenvif
LoadModule sapi_module sapi_adapters.adapters.mod_sapi
DocumentRoot www
LimitRequestBody 3000000
AddOutputFilterByType DEFLATE text/html text/plain
AddEncoding gzip .gz
SetEnvIf Request_URI plain no-gzip
<Location /app>
    SetHandler sapi-script
    SapiApp filters_app:app
</Location>
<Location /app/slow>
    SetOutputFilter DEFLATE
</Location>
<Location /app/echo>
    SetInputFilter INFLATE
</Location>
<Location /app/environ>
    SetOutputFilter DEFLATE
</Location>
<Location /async>
    SetHandler sapi-script
    SapiApp filters_app:asynchronous
</Location>
<Location /all/>
    SetOutputFilter DEFLATE
</Location>
<Location /error>
    ErrorDocument 404 /a.html
</Location>
"""


def make_site(folder: Path) -> None:
    """Make the files and the application."""
    for name in ("a.html", "a.css", "a.html.gz", "plain.html", "all/a.png"):
        path = folder / "www" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(TEXT)
        os.utime(path, (OLD, OLD))
    (folder / "www/empty.html").write_bytes(b"")
    (folder / "filters_app.py").write_text(APP)


@pytest.fixture(scope="module", params=BOTH)
def site(request: Any, tmp_path_factory: Any) -> Iterator[Hosted]:
    folder = tmp_path_factory.mktemp("site")
    make_site(folder)
    with hosting(folder, CONFIGURATION, request.param) as hosted:
        yield hosted


def fields(answer: Any, *names: str) -> list[str | None]:
    return [answer.getheader(name) for name in names]


# -- mod_deflate ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accepted", "values"),
    [
        (True, ["gzip"]),
        (True, ["deflate, GZIP;q=0.5"]),
        (True, ["br", "x-gzip"]),
        (True, ["*"]),
        (True, ["gzip; q=0.001"]),
        (True, ["identity;q=0.5, gzip;q=1.0"]),
        (False, []),
        (False, [""]),
        (False, ["br"]),
        (False, ["gzip;q=0"]),
        (False, ["gzip;q=0.000, *"]),
        (False, ["*;q=0"]),
        (False, ["identity, gzip;q=0.5"]),
        (False, ["gzip;q=x"]),
        (False, ["gzipped"]),
    ],
)
def test_accept_encoding(accepted: bool, values: list[str]) -> None:
    assert accepts_gzip(values) is accepted


def test_a_file_is_compressed_for_who_accepts_it(site: Hosted) -> None:
    answer = site.get("/a.html", Accept_Encoding="gzip")
    assert (answer.status, gzip.decompress(answer.body)) == (200, TEXT)
    assert len(answer.body) < len(TEXT) // 4
    names = ("Content-Encoding", "Vary", "ETag", "Accept-Ranges", "Content-Length", "Content-Type")
    size = str(len(answer.body))
    assert fields(answer, *names) == ["gzip", "Accept-Encoding", GZIP_TAG, None, size, "text/html"]
    plain = site.get("/a.html")
    assert plain.body == TEXT
    assert fields(plain, *names[:4]) == [None, "Accept-Encoding", TAG, "bytes"]


@pytest.mark.parametrize(
    ("path", "vary"),
    [
        ("/a.css", None),
        ("/plain.html", None),
        ("/empty.html", "Accept-Encoding"),
        ("/app/image", None),
        ("/app/coded", None),
        ("/app/fixed", None),
        ("/app/empty", None),
    ],
)
def test_what_is_not_compressed(site: Hosted, path: str, vary: str | None) -> None:
    answer = site.get(path, Accept_Encoding="gzip")
    assert answer.getheader("Content-Encoding") in (None, "br")
    assert answer.getheader("Vary") == vary
    with pytest.raises((gzip.BadGzipFile, EOFError)):
        assert gzip.decompress(answer.body) is None or answer.body == b""
        raise EOFError


def test_what_is_compressed_already_is_left_alone(site: Hosted) -> None:
    answer = site.get("/a.html.gz", Accept_Encoding="gzip")
    assert (answer.body, answer.getheader("Content-Encoding")) == (TEXT, "gzip")


def test_the_head_for_head_is_that_for_get(site: Hosted) -> None:
    answer = site.request("HEAD", "/a.html", headers={"Accept-Encoding": "gzip"})
    assert answer.body == b""
    names = ("Content-Encoding", "Vary", "ETag", "Accept-Ranges", "Content-Length")
    assert fields(answer, *names) == ["gzip", "Accept-Encoding", GZIP_TAG, None, None]


@pytest.mark.parametrize("path", ["/app/", "/app/varying", "/async"])
def test_an_application_is_compressed(site: Hosted, path: str) -> None:
    answer = site.get(path, Accept_Encoding="gzip")
    assert gzip.decompress(answer.body) == b"<p>hello</p>" * 1000
    assert answer.getheader("Content-Encoding") == "gzip"
    if path == "/app/varying":
        assert fields(answer, "Vary", "ETag") == ["Cookie, Accept-Encoding", 'W/"x-gzip"']


def test_a_response_in_parts_is_compressed_once(site: Hosted) -> None:
    answer = site.get("/app/parts", Accept_Encoding="gzip")
    assert gzip.decompress(answer.body) == b"".join(b"%d " % n * 10000 for n in range(20))


@pytest.mark.parametrize(
    ("asked", "status", "tag"),
    [
        ({"If-None-Match": GZIP_TAG}, 304, GZIP_TAG),
        ({"If-None-Match": TAG}, 304, TAG),
        ({"If-None-Match": '"x-gzip"'}, 200, GZIP_TAG),
        ({"If-Match": GZIP_TAG}, 200, GZIP_TAG),
        ({"If-Match": '"x-gzip"'}, 412, None),
    ],
)
def test_a_condition_with_the_tag_of_what_is_compressed(
    site: Hosted, asked: dict[str, str], status: int, tag: str | None
) -> None:
    answer = site.request("GET", "/a.html", headers={"Accept-Encoding": "gzip", **asked})
    assert (answer.status, answer.getheader("ETag")) == (status, tag)
    if status == 304:
        assert answer.getheader("Vary") == "Accept-Encoding"
        assert answer.getheader("Content-Encoding") is None


def test_an_application_sees_its_own_tags(site: Hosted) -> None:
    answer = site.get("/app/environ", If_None_Match='"x-gzip", W/"y-gzip"')
    assert answer.body == b'"x", W/"y"'


def test_ranges_are_of_what_is_not_compressed(site: Hosted) -> None:
    answer = site.get("/a.html", Accept_Encoding="gzip", Range="bytes=0-3")
    assert (answer.status, gzip.decompress(answer.body)) == (200, TEXT)
    answer = site.get("/a.html", Range="bytes=0-3")
    assert (answer.status, answer.body) == (206, TEXT[:4])
    answer = site.get("/all/a.png", Range="bytes=-4")
    assert (answer.status, answer.body) == (206, TEXT[-4:])
    answer = site.get("/all/a.png", Range="bytes=99999-", Accept_Encoding="gzip")
    assert answer.status == 200


def test_an_error_document_is_compressed(site: Hosted) -> None:
    answer = site.get("/error", Accept_Encoding="gzip")
    assert (answer.status, gzip.decompress(answer.body)) == (404, TEXT)


def test_a_flush_reaches_the_client(tmp_path: Path) -> None:
    make_site(tmp_path)
    with (
        hosting(tmp_path, CONFIGURATION) as hosted,
        socket.create_connection(hosted.address, timeout=20) as client,
    ):
        client.sendall(
            b"GET /app/slow HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n"
            b"Connection: close\r\n\r\n"
        )
        got = b""
        while b"first part\n" not in text_of(got):
            data = client.recv(65536)
            assert data, "the first part did not come by itself"
            got += data
        (tmp_path / "go").touch()
        while data := client.recv(65536):
            got += data
        assert text_of(got) == b"first part\nsecond part\n"


def text_of(response: bytes) -> bytes:
    """Return the text of as much of a chunked gzip response as there is."""
    _, _, rest = response.partition(b"\r\n\r\n")
    data = b""
    while (end := rest.find(b"\r\n")) > 0 and (size := int(rest[:end], 16)):
        if len(rest) < end + 4 + size:
            break
        data += rest[end + 2 : end + 2 + size]
        rest = rest[end + 4 + size :]
    return zlib.decompressobj(31).decompress(data)


def peak(hosted: Hosted) -> int:
    """Return the most memory that a child of the host has had, in KiB."""
    texts = [Path(f"/proc/{pid}/status").read_text() for pid in hosted.workers()]
    return max(int(match[1]) for text in texts if (match := re.search(r"VmHWM:\s+(\d+)", text)))


@pytest.mark.parametrize("mpm", BOTH)
@pytest.mark.parametrize("name", ["DEFLATE", "copy"])
def test_a_large_file_is_filtered_in_little_memory(tmp_path: Path, mpm: str, name: str) -> None:
    size = 96 << 20
    (tmp_path / "www").mkdir()
    block = os.urandom(1 << 20)
    with (tmp_path / "www/big").open("wb") as file:
        for _ in range(size >> 20):
            file.write(block)
    (tmp_path / "www/small").write_bytes(b"x" * 1000)
    text = (
        "LoadModule deflate_module mod_deflate\nLoadModule ext_filter_module mod_ext_filter\n"
        "ExtFilterDefine copy mode=output cmd=/bin/cat\nDeflateCompressionLevel 1\n"
        f"DocumentRoot www\nSetOutputFilter {name}\n"
    )
    with hosting(tmp_path, text, mpm) as hosted:
        hosted.get("/small", Accept_Encoding="gzip")
        before = peak(hosted)
        connection = hosted.connect()
        connection.request("GET", "/big", headers={"Accept-Encoding": "gzip"})
        answer = connection.getresponse()
        decoder = zlib.decompressobj(31) if name == "DEFLATE" else None
        digest, taken = hashlib.sha256(), 0
        while data := answer.read(1 << 18):
            data = decoder.decompress(data) if decoder else data
            digest.update(data)
            taken += len(data)
        connection.close()
        expected = hashlib.sha256()
        for _ in range(size >> 20):
            expected.update(block)
        assert (taken, digest.digest()) == (size, expected.digest())
        assert peak(hosted) - before < 12288


# -- request bodies -------------------------------------------------------------------------------


def post(site: Hosted, body: bytes, coding: str | None = "gzip") -> Any:
    headers = {} if coding is None else {"Content-Encoding": coding}
    return site.request("POST", "/app/echo", body=body, headers=headers)


@pytest.mark.parametrize("size", [0, 1, 70_000, 1_000_000])
def test_a_compressed_body_is_decoded(site: Hosted, size: int) -> None:
    body = os.urandom(size // 4) * 4
    answer = post(site, gzip.compress(body))
    digest = hashlib.sha256(body).hexdigest()
    assert (answer.status, answer.body.decode()) == (200, f"none none {len(body)} {digest}")


def test_other_bodies_are_left_alone(site: Hosted) -> None:
    digest = hashlib.sha256(TEXT).hexdigest()
    assert post(site, TEXT, None).body.decode() == f"{len(TEXT)} none {len(TEXT)} {digest}"
    assert post(site, TEXT, "br").body.decode() == f"{len(TEXT)} br {len(TEXT)} {digest}"
    coded = post(site, gzip.compress(TEXT), "br, gzip")
    assert coded.body.decode() == f"none br {len(TEXT)} {digest}"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (gzip.compress(os.urandom(3_100_000), 1)[:2_900_000], 400),
        (gzip.compress(bytes(3_000_001)), 413),
        (gzip.compress(os.urandom(1_500_001).hex().encode()), 413),
        (gzip.compress(TEXT)[:-9], 400),
        (TEXT, 400),
        (gzip.compress(TEXT) + b"and more", 400),
    ],
    ids=["cut", "bomb", "large", "end missing", "no gzip", "more behind it"],
)
def test_a_body_that_is_refused(site: Hosted, body: bytes, status: int) -> None:
    assert post(site, body).status == status
    assert site.get("/a.html").body == TEXT


@pytest.mark.parametrize("cut", [1, 7, 100, 65536])
def test_a_body_is_decoded_wherever_it_is_cut(cut: int) -> None:
    plain = TEXT * 30 + bytes(200_000)
    coded = gzip.compress(plain) + gzip.compress(b"a second member")
    decoder = Inflating(0, 100_000, 3)
    out = [decoder.receive(coded[at : at + cut]) for at in range(0, len(coded), cut)]
    assert b"".join(out) + decoder.receive(b"") == plain + b"a second member"


def test_a_bomb_is_stopped_by_its_ratio() -> None:
    bomb = gzip.compress(bytes(50 << 20))
    with pytest.raises(RequestError, match="over 200 times") as caught:
        Inflating(0, 200, 3).receive(bomb)
    assert caught.value.status.startswith("413")


# -- mod_ext_filter -------------------------------------------------------------------------------

UPPER = "import sys\nfor line in sys.stdin.buffer: sys.stdout.buffer.write(line.upper())"
GREEDY = "import sys; d = sys.stdin.buffer.read(); sys.stdout.buffer.write(d * 3)"
FAILS = (
    "import sys; sys.stdin.buffer.read(); print('x'); sys.stderr.write('is broken'); sys.exit(3)"
)
ENVIRONMENT = "import os, sys; sys.stdin.read(); print(sorted(os.environ))"
STUCK = (
    "import time; open('{folder}/pid', 'w').write(str(__import__('os').getpid())); time.sleep(99)"
)

FILTERS = """
LoadModule mime_module mod_mime
LoadModule ext_filter_module mod_ext_filter
LoadModule setenvif_module mod_setenvif
LoadModule sapi_module sapi_adapters.adapters.mod_sapi
Timeout 3
KeepAliveTimeout 60
DocumentRoot www
ExtFilterDefine Upper mode=output cmd="{python} upper.py" intype=text/html outtype=text/x-loud
ExtFilterDefine greedy cmd="{python} greedy.py"
ExtFilterDefine fails cmd="{python} fails.py"
ExtFilterDefine environment cmd="{python} environment.py"
ExtFilterDefine cut cmd="sh -c 'head -c 200000 /dev/zero; exit 1'"
ExtFilterDefine stuck cmd="{python} stuck.py"
ExtFilterDefine head cmd="head -c 5"
ExtFilterDefine args cmd="echo $HOME * 'a  b' ; exit"
ExtFilterDefine missing cmd=/nowhere/at/all
ExtFilterDefine chosen cmd="{python} upper.py" disableenv=quiet
SetEnvIf Request_URI quiet quiet
{sections}
<Location /app>
    SetHandler sapi-script
    SapiApp filters_app:app
    SetOutputFilter upper
</Location>
<Location /async>
    SetHandler sapi-script
    SapiApp filters_app:asynchronous
    SetOutputFilter upper
</Location>
<Location /fails>
    ExtFilterOptions LogStderr
</Location>
<Location /failing>
    SetHandler sapi-script
    SapiApp filters_app:app
    SetOutputFilter fails
</Location>
<Location /cut>
    SetHandler sapi-script
    SapiApp filters_app:app
    SetOutputFilter cut
</Location>
"""


def make_filters(folder: Path) -> str:
    """Make programs, and a directory for each, named after its filter; return the configuration."""
    make_site(folder)
    for name, text in {
        "upper": UPPER,
        "greedy": GREEDY,
        "fails": FAILS,
        "environment": ENVIRONMENT,
        "stuck": STUCK.format(folder=folder),
    }.items():
        (folder / f"{name}.py").write_text(text)
    sections = f"<Directory {folder}/www>\n<Files cut.html>\nSetOutputFilter cut\n</Files>\n"
    sections += "</Directory>\n"
    (folder / "www/cut.html").write_bytes(TEXT)
    names = ("upper", "greedy", "fails", "environment", "stuck", "head", "args", "chosen")
    for name in (*names, "none", "removed"):
        (folder / "www" / name).mkdir()
        (folder / "www" / name / "a.html").write_bytes(TEXT)
        (folder / "www" / name / "quiet.html").write_bytes(TEXT)
        (folder / "www" / name / "a.css").write_bytes(TEXT)
    for name in names:
        sections += f"<Directory {folder}/www/{name}>\nSetOutputFilter {name}\n</Directory>\n"
    sections += f"<Directory {folder}/www/none>\nAddOutputFilter missing .html\n</Directory>\n"
    sections += (
        f"<Directory {folder}/www/removed>\nAddOutputFilter missing .html\n"
        "ExtFilterOptions Onfail=remove\n</Directory>\n"
    )
    text = FILTERS.format(python=sys.executable, sections=sections)
    for name in ("upper", "greedy", "fails", "environment", "stuck"):
        text = text.replace(f" {name}.py", f" {folder}/{name}.py")
    return text


@pytest.fixture(scope="module", params=BOTH)
def filtered(request: Any, tmp_path_factory: Any) -> Iterator[Hosted]:
    folder = tmp_path_factory.mktemp("filtered")
    with hosting(folder, make_filters(folder), request.param) as hosted:
        yield hosted


def test_a_program_filters_a_file(filtered: Hosted) -> None:
    answer = filtered.get("/upper/a.html")
    assert (answer.status, answer.body) == (200, TEXT.upper())
    names = ("Content-Type", "Content-Length", "Accept-Ranges")
    assert fields(answer, *names) == ["text/x-loud", str(len(TEXT)), None]
    assert filtered.get("/upper/a.css").body == TEXT
    assert filtered.get("/upper/a.html", Range="bytes=0-1").body == TEXT.upper()


def test_a_program_filters_an_application(filtered: Hosted) -> None:
    assert filtered.get("/app/").body == b"<P>HELLO</P>" * 1000


def test_an_application_on_the_loop_is_refused(filtered: Hosted) -> None:
    answer = filtered.get("/async")
    if "mod_mpm_prefork" in (filtered.folder / "httpd.conf").read_text():
        assert answer.body == b"<P>HELLO</P>" * 1000
    else:
        assert answer.status == 500
        assert "cannot filter what is written on the event loop" in filtered.log


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/greedy/a.html", TEXT * 3),
        ("/head/a.html", TEXT[:5]),
        ("/chosen/a.html", TEXT.upper()),
        ("/chosen/quiet.html", TEXT),
    ],
)
def test_programs_of_many_kinds(filtered: Hosted, path: str, body: bytes) -> None:
    answer = filtered.get(path)
    assert (answer.status, answer.body) == (200, body)


def test_no_shell_expands_the_arguments(filtered: Hosted) -> None:
    assert filtered.get("/args/a.html").body == b"$HOME * a  b ; exit\n"


def test_a_program_gets_nothing_of_the_request(filtered: Hosted) -> None:
    found = eval(filtered.get("/environment/a.html", X_Shell="() { :; }").body)
    assert set(found) <= {"PATH", "TZ", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE"}


def test_a_head_needs_no_program(filtered: Hosted) -> None:
    answer = filtered.request("HEAD", "/stuck/a.html")
    assert (answer.status, answer.getheader("Content-Length")) == (200, None)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/fails/a.html", "ended with status 3"),
        ("/failing/", "ended with status 3"),
        ("/stuck/a.html", "did nothing for 3 s"),
        ("/none/a.html", "couldn't create child process"),
    ],
)
def test_a_program_that_fails(filtered: Hosted, path: str, said: str) -> None:
    answer = filtered.get(path)
    assert answer.status == 500
    until(lambda: said in filtered.log, what=said)
    if path == "/stuck/a.html":
        pid = int((filtered.folder / "pid").read_text())
        until(lambda: not os.path.exists(f"/proc/{pid}"), what="the end of the program")
    assert filtered.get("/upper/a.html").body == TEXT.upper()


@pytest.mark.parametrize("path", ["/cut/", "/cut.html"])
def test_a_response_that_a_program_does_not_complete_is_cut(filtered: Hosted, path: str) -> None:
    with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
        filtered.get(path)
    until(lambda: "ended with status 1" in filtered.log, what="the line about it")


def test_a_program_that_cannot_be_started_is_left_out_if_that_is_wanted(filtered: Hosted) -> None:
    assert filtered.get("/removed/a.html").body == TEXT


@pytest.mark.parametrize("mpm", BOTH)
def test_a_program_ends_with_its_request(tmp_path: Path, mpm: str) -> None:
    text = make_filters(tmp_path)
    (tmp_path / "stuck.py").write_text(
        "import os, time\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "for _ in range(100): os.write(1, b'x' * 100_000)\n"  # to a client that has gone
        "time.sleep(99)\n"
    )
    with hosting(tmp_path, text.replace("Timeout 3\n", "Timeout 60\n"), mpm) as hosted:
        with socket.create_connection(hosted.address, timeout=10) as client:
            client.sendall(b"GET /stuck/a.html HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(1000)
        pid = int((tmp_path / "pid").read_text())
        until(lambda: not os.path.exists(f"/proc/{pid}"), what="the end of the program")
        assert hosted.get("/upper/a.html").body == TEXT.upper()


INPUT = """
LoadModule ext_filter_module mod_ext_filter
LoadModule sapi_module sapi_adapters.adapters.mod_sapi
ExtFilterDefine double mode=input cmd="{python} {folder}/greedy.py"
ExtFilterDefine copy mode=input cmd=cat PreservesContentLength
ExtFilterDefine broken mode=input cmd=false
<Location /app>
    SetHandler sapi-script
    SapiApp filters_app:app
    SetInputFilter double
</Location>
<Location /copy>
    SetHandler sapi-script
    SapiApp filters_app:app
    SetInputFilter copy
</Location>
<Location /broken>
    SetHandler sapi-script
    SapiApp filters_app:app
    SetInputFilter broken
</Location>
"""


def test_a_program_filters_a_request_body(tmp_path: Path) -> None:
    make_filters(tmp_path)
    text = INPUT.format(python=sys.executable, folder=tmp_path)
    with hosting(tmp_path, text) as hosted:
        body = os.urandom(500_000)
        tripled = hashlib.sha256(body * 3).hexdigest()
        answer = hosted.request("POST", "/app/echo", body=body)
        assert answer.body.decode() == f"none none 1500000 {tripled}"
        answer = hosted.request("POST", "/copy/echo", body=body)
        same = hashlib.sha256(body).hexdigest()
        assert answer.body.decode() == f"500000 none 500000 {same}"
        assert hosted.request("POST", "/broken/echo", body=b"x").status == 500
        assert hosted.get("/app/echo").status == 200


def test_request_bodies_are_not_filtered_under_event(tmp_path: Path) -> None:
    make_filters(tmp_path)
    text = INPUT.format(python=sys.executable, folder=tmp_path)
    with hosting(tmp_path, text, "event", ready=False) as hosted:
        assert hosted.process.wait(15) != 0
        assert "mode=input is not for the event MPM" in hosted.log


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("x", "cmd= is missing"),
        ("x cmd=", "cmd is empty"),
        ('x cmd="a', "No closing quotation"),
        ("x mode=both cmd=a", "mode must be"),
        ("x cmd=a ftype=30", "ftype must be"),
        ("x cmd=a shell=yes", "unexpected parameter"),
    ],
)
def test_a_definition_that_is_wrong(rest: str, said: str) -> None:
    text = f"LoadModule ext_filter_module mod_ext_filter\nExtFilterDefine {rest}\n"
    with pytest.raises(ConfigurationSyntaxError, match=said):
        Host(text=text, log=lambda message, level: None).configure()
