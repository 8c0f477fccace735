"""The access log: php-fpm's format, one record one line whatever comes in, nothing that waits."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastcgi_client import fetch
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import serving, until

from sapi_adapters.adapters import accesslog
from sapi_adapters.adapters.accesslog import COMBINED, PHP_FPM, AccessLog, check_format
from sapi_adapters.manager import log as manager_log
from sapi_adapters.sapi import ConfigurationError

ENVIRON = {
    "REQUEST_METHOD": "POST",
    "REQUEST_URI": "/a/b?c=d",
    "SCRIPT_NAME": "/a",
    "PATH_INFO": "/b",
    "QUERY_STRING": "c=d",
    "SCRIPT_FILENAME": "/srv/app.py",
    "CONTENT_LENGTH": "17",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REMOTE_ADDR": "192.0.2.1",
    "REMOTE_USER": "bob",
    "HTTP_REFERER": "https://example.org/",
    "HTTP_USER_AGENT": "curl/8 (x; y)",
}
pytestmark = pytest.mark.usefixtures("deadline")
STARTED = 1795240716.5
TIME = time.strftime("%d/%b/%Y:%H:%M:%S %z", time.localtime(STARTED))


class Made:
    """An exchange after its response, as the adapters leave it."""

    def __init__(self, status: str = "200 OK", written: int = 5, **variables: Any) -> None:
        self.environ: dict[str, Any] = {**ENVIRON, **variables}
        self.status = status
        self.written = written
        self._headers = [("Content-Type", "text/plain"), ("X-Twice", "1"), ("x-twice", "2")]
        self.request_time = STARTED
        self.log_began = time.monotonic() - 2


class Bare:
    """An exchange that was refused before anything was known of it."""

    environ: dict[str, Any] = {}  # noqa: RUF012
    status = ""
    written = 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


def line(path: Path, format: str | None, exchange: Any = None, **options: Any) -> str:
    """Return the one line that is logged for *exchange*, without its newline."""
    log = AccessLog(str(path), format, **options)
    log.end(exchange or Made())
    log.close()
    text = path.read_bytes().decode("ascii")
    path.unlink()
    assert text[-1] == "\n" and text.count("\n") == 1
    return text[:-1]


SHOWN = {
    PHP_FPM: f'192.0.2.1 - bob {TIME} "POST /a/b" 200',
    COMBINED: f'192.0.2.1 - bob [{TIME}] "POST /a/b?c=d HTTP/1.1" 200 5'
    ' "https://example.org/" "curl/8 (x; y)"',
    "%%": "%",
    "%b %B": "5 5",
    "%{HTTP_REFERER}e %{HTTP_NONE}e": "https://example.org/ -",
    "%f": "/srv/app.py",
    "%l": "17",
    "%m": "POST",
    "%n": "www",
    "%{content-type}o %{X-TWICE}o %{X-None}o": "text/plain 1 -",
    "%p %P": f"{os.getpid()} {os.getppid()}",
    "%r%Q%q": "/a/b?c=d",
    "%{full}r": "/a/b?c=d",
    "%R": "192.0.2.1",
    "%s": "200",
    "%t": TIME,
    "%{%Y}t %{%s}t": f"{time.localtime(STARTED).tm_year} {int(STARTED)}",
    "%u": "bob",
    "{%u} {{}} 'x' \t é": "{bob} {{}} 'x' \t é",
}


@pytest.mark.parametrize("format", SHOWN)
def test_what_a_token_shows(path, format):
    log = AccessLog(str(path), format)
    log.end(Made())
    assert path.read_text(encoding="utf-8") == SHOWN[format] + "\n"


NUMBERS = {
    "%d": (r"2\.\d\d\d", 2, 10),
    "%{Seconds}d": (r"2\.\d\d\d", 2, 10),
    "%{milli}d": (r"\d+\.\d\d\d", 2000, 10000),
    "%{milliseconds}d": (r"\d+\.\d\d\d", 2000, 10000),
    "%{mili}d": (r"\d+\.\d\d\d", 2000, 10000),
    "%{micro}d": (r"\d+", 2000000, 10000000),
    "%{microseconds}d": (r"\d+", 2000000, 10000000),
    "%M": (r"\d+", 1 << 20, 1 << 40),
    "%{kilo}M": (r"\d+", 1 << 10, 1 << 30),
    "%{mega}M": (r"\d+", 1, 1 << 20),
    "%{%s}T": (r"\d+", int(time.time()), int(time.time()) + 86400),
}


@pytest.mark.parametrize("format", NUMBERS)
def test_what_is_measured(path, format):
    shape, least, most = NUMBERS[format]
    text = line(path, format)
    assert re.fullmatch(shape, text)
    assert least <= float(text) <= most


def test_the_cpu_time_is_that_of_the_request(path):
    log = AccessLog(str(path), "%C %{user}C %{system}C %{total}C")
    busy, idle = Made(), Made()
    log.begin(idle)
    log.end(idle)
    log.begin(busy)
    enough = time.thread_time() + 0.05
    while time.thread_time() < enough:
        pass
    log.end(busy)
    for text in path.read_text().split():
        assert re.fullmatch(r"\d+\.\d\d", text)
    total, user, system, again = map(float, path.read_text().splitlines()[1].split())
    assert total == again > 0
    assert user + system == pytest.approx(total, abs=0.02)


def test_nothing_is_measured_that_no_token_shows(path, monkeypatch):
    def measure(*given: Any) -> Any:
        raise AssertionError("measured")

    exchange = Made()
    monkeypatch.setattr(time, "monotonic", measure)
    monkeypatch.setattr(resource, "getrusage", measure)
    log = AccessLog(str(path), PHP_FPM)
    log.begin(exchange)
    log.end(exchange)
    assert path.read_text().count("\n") == 1


def test_the_pool_is_named(path):
    assert line(path, "%n", pool="shop") == "shop"


def test_a_request_without_anything(path):
    exchange = Bare()
    text = line(path, f"%d %C %{{X}}o %f %l %{{X}}e {COMBINED}", exchange)
    assert re.fullmatch(r'0\.000 0\.00 - - 0 - - - - \[.{26}\] "- - -" - - "-" "-"', text)
    path = path.with_name("other")
    assert line(path, '%r "%{full}r%Q%q"', Bare()) == '- "-"'


def test_a_request_without_request_uri(path):
    assert line(path, "%r %{full}r", Made(REQUEST_URI="")) == "/a/b /a/b?c=d"
    assert line(path, "%{full}r", Made(REQUEST_URI="", QUERY_STRING="")) == "/a/b"


def test_begin_notes_the_time(path):
    log = AccessLog(str(path), "%{%s}t %d")
    exchange = Made()
    before = int(time.time())
    log.begin(exchange)
    log.end(exchange)
    second, took = path.read_text().split()
    assert before <= int(second) <= time.time()
    assert float(took) < 2


def test_times_are_kept_for_the_second_they_belong_to(path):
    log = AccessLog(str(path), "%{%s}t")
    for second in [*range(300), 5]:
        exchange = Made()
        exchange.request_time = second + 0.9
        log.end(exchange)
    seconds = path.read_text().split()
    assert seconds[1:] == [*map(str, range(1, 300)), "5"]


WRONG = {
    "%z": (1, "%z is not known"),
    "%R %z": (4, "%z is not known"),
    "a%": (2, "percent sign without a code"),
    "%{milli}": (1, "percent sign without a code"),
    "ab%{milli": (3, "brace is not closed"),
    "%e": (1, "%e needs a name"),
    "%{}e": (1, "%e needs a name"),
    "%{}o": (1, "%o needs a name"),
    "%{x}p": (1, "%p knows no modifier"),
    "%{x}%": (1, "%% knows no modifier"),
    "%{x}n": (1, "%n knows no modifier"),
    "%{query}r": (1, "the modifiers full"),
    "%{total}d": (1, "the modifiers seconds, milli"),
    "%{seconds}C": (1, "the modifiers total, user, system"),
    "%{giga}M": (1, "the modifiers bytes, kilo"),
    "%R\n": (3, "control character"),
    "%R %u\0": (6, "control character"),
    "%{\0}t": (1, "null"),
}


@pytest.mark.parametrize("format", WRONG)
def test_a_wrong_format_is_refused_at_once(path, format):
    where, why = WRONG[format]
    with pytest.raises(ConfigurationError, match=re.escape(why)) as caught:
        AccessLog(str(path), format)
    assert str(caught.value).startswith(f"access.format, character {where}: ")
    assert not path.exists(), "nothing is opened for a format that cannot be used"
    with pytest.raises(ConfigurationError):
        check_format(format)
    check_format(PHP_FPM)


def test_other_mistakes_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="syslog"):
        AccessLog("syslog")
    with pytest.raises(ConfigurationError, match="No such file"):
        AccessLog(str(tmp_path / "none/log"))
    with pytest.raises(ConfigurationError, match="must begin with a slash"):
        AccessLog(str(tmp_path / "log"), suppress=["ping"])


# -- one record, one line

TEXT = st.text(st.characters(max_codepoint=0x100) | st.sampled_from('\n\r"\\ \u2028\ud800'))
FIELD = r"((?:[!#-\[\]-~]|\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\\[\\\"])*)"
QUOTED = FIELD.replace("!#", " !#")
RECORD = re.compile(
    rf'{FIELD} - {FIELD} \[[^]]*\] "{QUOTED}" {FIELD} "{QUOTED}" "{QUOTED}"\n', re.DOTALL
)
HOSTILE = '%R - %u [%t] "%m" %{X}e "%{HTTP_REFERER}e" "%{HTTP_USER_AGENT}e"'
NAMES = "REMOTE_ADDR REMOTE_USER REQUEST_METHOD X HTTP_REFERER HTTP_USER_AGENT".split()


def unescaped(text: str) -> str:
    return re.sub(
        r"\\(?:x(..)|u(....)|(.))",
        lambda found: found[3] or chr(int(found[1] or found[2], 16)),
        text,
    )


@settings(deadline=None)
@given(values=st.tuples(*[TEXT] * len(NAMES)))
def test_hostile_values_are_one_line_and_can_be_read_back(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("hostile") / "log"
    log = AccessLog(str(path), HOSTILE)
    log.end(Made(**dict(zip(NAMES, values, strict=True))))
    log.close()
    text = path.read_bytes().decode("ascii")
    found = RECORD.fullmatch(text)
    assert found, text
    assert [unescaped(each) for each in found.groups()] == [each or "-" for each in values]


@settings(deadline=None)
@given(values=st.tuples(*[TEXT] * 2))
def test_hostile_values_in_a_format_of_json(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("json") / "log"
    log = AccessLog(str(path), '{"user":"%u","agent":"%{HTTP_USER_AGENT}e","status":%s}')
    log.end(Made(REMOTE_USER=values[0], HTTP_USER_AGENT=values[1]))
    log.close()
    (text,) = path.read_text().splitlines()
    assert json.loads(text) == {
        "user": values[0] or "-",
        "agent": values[1] or "-",
        "status": 200,
    }


def test_values_an_application_put_in_place_of_text(path):
    assert line(path, "%u %m", Made(REMOTE_USER=7, REQUEST_METHOD=b"a b")) == "7 b'a\\x20b'"


def test_a_blank_outside_of_quotation_marks(path):
    assert line(path, '%u "%u"', Made(REMOTE_USER="a b")) == r'a\x20b "a b"'
    assert line(path, '{"a":%u}', Made(REMOTE_USER="a b")) == r'{"a":a\u0020b}'


def test_a_header_of_the_response_is_escaped_too(path):
    exchange = Made()
    exchange._headers = [("X", 'a "b" \xe9')]
    assert line(path, '"%{x}o" %{x}o', exchange) == (r'"a \"b\" \xe9" a\x20\"b\"\x20\xe9')


@pytest.mark.parametrize("letter", ["a", "\xe9", '"'])
def test_an_overlong_line_is_cut_and_says_so(path, letter):
    text = line(path, PHP_FPM, Made(REQUEST_URI="/" + letter * 100_000))
    assert len(text) == 8192
    assert text.startswith("192.0.2.1 - bob ") and text.endswith("...")


def test_the_longest_line_is_whole(path):
    rest = len(line(path, "%r", Made(REQUEST_URI="/")))
    assert line(path, "%r", Made(REQUEST_URI="/" * (8192 - rest + 1))) == "/" * 8192
    assert line(path, "%r", Made(REQUEST_URI="/" * 8193)) == "/" * 8189 + "..."


PING = {"REQUEST_URI": "/ping", "QUERY_STRING": "", "CONTENT_LENGTH": "", "REQUEST_METHOD": "GET"}
SUPPRESSED = {
    "as it is meant": ({}, "200 OK", True),
    "HEAD": ({"REQUEST_METHOD": "HEAD"}, "204 No Content", True),
    "a length of nothing": ({"CONTENT_LENGTH": "0"}, "200 OK", True),
    "another method": ({"REQUEST_METHOD": "POST"}, "200 OK", False),
    "a query": ({"REQUEST_URI": "/ping?a", "QUERY_STRING": "a"}, "200 OK", False),
    "a query that the URI does not show": ({"QUERY_STRING": "a"}, "200 OK", False),
    "a body": ({"CONTENT_LENGTH": "1"}, "200 OK", False),
    "an error": ({}, "500 Internal Server Error", False),
    "a redirection": ({}, "302 Found", False),
    "no answer": ({}, "", False),
    "another URI": ({"REQUEST_URI": "/ping/"}, "200 OK", False),
}


@pytest.mark.parametrize("case", SUPPRESSED)
def test_suppressed_paths(path, case):
    variables, status, out = SUPPRESSED[case]
    log = AccessLog(str(path), suppress=["/ping"])
    log.end(Made(status, **{**PING, **variables}))
    assert (path.read_text() == "") is out


# -- nothing waits, nothing is lost in silence


def test_a_full_disk_drops_lines_and_the_log_says_how_many(path):
    log = AccessLog("/dev/full", PHP_FPM)
    for _ in range(3):
        log.end(Made())
    assert log.dropped == 3
    log.replace(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    log.end(Made())
    log.end(Made())
    note, *lines = path.read_text().splitlines()
    assert re.fullmatch(
        r"# \S+ \S+ 3 lines of this log were dropped: No space left on device", note
    )
    assert lines == [SHOWN[PHP_FPM]] * 2
    assert log.dropped == 3


def filled(log: AccessLog) -> int:
    """Write until lines are dropped; return how many were not."""
    kept = 0
    while not log.dropped:
        log.end(Made())
        kept += 1
        assert kept < 100_000
    return kept - 1


def drained(fd: int) -> list[str]:
    os.set_blocking(fd, False)
    data = b""
    while True:
        try:
            data += os.read(fd, 1 << 20)
        except BlockingIOError:
            return data.decode().splitlines()


def test_a_fifo_that_nobody_empties(path):
    os.mkfifo(path)
    log = AccessLog(str(path), PHP_FPM)  # nor opens
    kept = filled(log)
    log.end(Made())
    assert log.dropped == 2
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    assert drained(reader) == [SHOWN[PHP_FPM]] * kept
    log.end(Made(REQUEST_URI="/" * 8000))
    note, last = drained(reader)
    assert "2 lines of this log were dropped: Resource temporarily unavailable" in note
    assert len(last) == 4095 and last.endswith("..."), "a pipe takes no more in one piece"
    os.close(reader)


@pytest.fixture(params=["pipe", "pipe of another user", "socket"])
def standard_error(request, monkeypatch) -> Iterator[tuple[int, int]]:
    """Both ends of what stands for standard error here, shared and blocking."""
    if request.param == "socket":
        import socket

        one, two = (each.detach() for each in socket.socketpair())
    else:
        one, two = os.pipe()
    monkeypatch.setitem(manager_log._STANDARD, "-", two)
    if request.param == "pipe of another user":

        def refuse(path: str, flags: int) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(manager_log, "_open_high", refuse)
    yield one, two
    os.close(one)
    os.close(two)


def test_a_standard_error_that_nobody_empties(standard_error):
    reader, shared = standard_error
    log = AccessLog("-", PHP_FPM)
    kept = filled(log)
    assert os.get_blocking(shared), "the flags belong to everybody who has it"
    assert drained(reader) == [SHOWN[PHP_FPM]] * kept
    log.end(Made())
    note, last = drained(reader)
    assert " 1 lines of this log were dropped: Resource temporarily unavailable" in note
    assert last == SHOWN[PHP_FPM]
    log.close()
    os.write(shared, b"still open\n")


def test_a_reader_that_went(path):
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    log = AccessLog("none", PHP_FPM, fd=writer)
    assert not os.get_inheritable(writer)
    os.close(reader)
    log.end(Made())
    assert log.dropped == 1
    assert log.fileno() == writer
    assert not path.with_name("none").exists()


def test_a_log_that_was_closed_writes_nowhere(path):
    log = AccessLog(str(path))
    log.close()
    other = os.open(path, os.O_WRONLY)
    log.end(Made())
    os.close(other)
    assert (log.dropped, path.read_text()) == (1, "")


def test_reopening_goes_on_in_a_new_file(path):
    log = AccessLog(str(path), "%r")
    number = log.fileno()
    log.end(Made(REQUEST_URI="/1"))
    path.rename(path.with_name("old"))
    log.end(Made(REQUEST_URI="/2"))
    log.reopen()
    log.end(Made(REQUEST_URI="/3"))
    assert path.with_name("old").read_text() == "/1\n/2\n"
    assert path.read_text() == "/3\n"
    assert log.fileno() == number
    assert not os.get_inheritable(number)


def test_reopening_that_fails_keeps_the_old_file(path):
    log = AccessLog(str(path), "%r")
    path.rename(path.with_name("old"))
    path.mkdir()
    with pytest.raises(ConfigurationError, match="Is a directory"):
        log.reopen()
    log.end(Made(REQUEST_URI="/1"))
    assert path.with_name("old").read_text() == "/1\n"


def test_no_line_is_lost_while_the_file_is_rotated(path):
    threads, lines, rotations = 4, 3000, 30
    log = AccessLog(str(path), '%{X}e "%{HTTP_USER_AGENT}e"')
    turn = threading.Barrier(threads + 1)

    def write(number: int) -> None:
        turn.wait(30)
        for each in range(lines):
            log.end(Made(X=f"{number}-{each}", HTTP_USER_AGENT="x" * (each % 200)))

    writers = [threading.Thread(target=write, args=(number,)) for number in range(threads)]
    for each in writers:
        each.start()
    turn.wait(30)
    files = [path]
    while any(each.is_alive() for each in writers) and len(files) <= rotations:
        files.append(path.with_name(f"access.{len(files)}"))
        path.rename(files[-1])
        log.reopen()
    for each in writers:
        each.join(30)
    seen = []
    for file in files:
        for text in file.read_text().splitlines():
            found = re.fullmatch(r'(\d-(\d+)) "(x+|-)"', text)
            assert found and len(found[3]) == (int(found[2]) % 200 or 1), text
            seen.append(found[1])
    assert len(files) > 2
    assert sorted(seen) == sorted(f"{n}-{each}" for n in range(threads) for each in range(lines))
    assert log.dropped == 0


WRITER = """
import sys
from sapi_adapters.adapters.accesslog import AccessLog
class Exchange: status = "200 OK"; written = 1
log = AccessLog(sys.argv[1], "%{X}e")
sys.stdin.read()
for number in range(2000):
    Exchange.environ = {"X": f"{sys.argv[2]}-{number}-" + "x" * (number % 300)}
    log.end(Exchange)
assert log.dropped == 0
"""


def test_lines_of_8_processes_do_not_mix(path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(number)], stdin=subprocess.PIPE
        )
        for number in range(8)
    ]
    try:
        for each in processes:
            assert each.stdin is not None
            each.stdin.close()  # all begin together
        assert [each.wait(60) for each in processes] == [0] * 8
    finally:
        for each in processes:
            each.kill()
            each.wait()
    lines = path.read_text().splitlines()
    assert set(lines) == {f"{p}-{n}-" + "x" * (n % 300) for p in range(8) for n in range(2000)}
    assert len(lines) == 16000


KINDS = {
    "blocking": ("server_apps:wsgi", "--workers", "1"),
    "threads": ("server_apps:wsgi", "--sapi", "fcgi-threaded", "--threads", "4"),
    "events": ("server_apps:asgi", "--workers", "1"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_under_every_server(tmp_path, path, kind):
    app, *options = KINDS[kind]
    with serving(tmp_path, app, *options, "--access-log", str(path)) as served:
        assert fetch(served.address, PATH_INFO="/hello", HTTP_USER_AGENT='"\n').body == b"/hello"
        until(lambda: path.exists() and path.read_text(), what="the line")
        assert re.fullmatch(
            r'\S+ - - \[.{26}\] "GET /hello HTTP/1\.\d" 200 6 "-" "\\"\\x0a"\n', path.read_text()
        )


def test_every_token_stands_in_the_table():
    known = set(accesslog._OURS) | set(accesslog._OUTSIDE)
    known |= set(accesslog._NAMED) | set(accesslog._TIMES)
    rows = re.findall(r"^``(%.*?)``", accesslog.__doc__ or "", re.MULTILINE)
    assert {each[1:] for row in rows for each in row.split()} == known
