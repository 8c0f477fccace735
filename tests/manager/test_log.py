"""The error log and what workers print: php-fpm's lines, nothing that waits, nothing unsaid."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapi_adapters.manager import log as log_module
from sapi_adapters.manager.log import TURN, ErrorLog, LogFile, WorkerOutput
from sapi_adapters.sapi import ConfigurationError

pytestmark = pytest.mark.usefixtures("deadline")
STAMP = r"\[\d\d-[A-Z][a-z]{2}-\d{4} \d\d:\d\d:\d\d\]"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "error.log"


def bare(text: str) -> str:
    """Return *text* without its time stamps, each of which must be one."""
    return re.sub(rf"^{STAMP} ", "", text, flags=re.MULTILINE)


LEVELS = {
    "alert": ["ALERT"],
    "error": ["ALERT", "ERROR"],
    "warning": ["ALERT", "ERROR", "WARNING"],
    "notice": ["ALERT", "ERROR", "WARNING", "NOTICE", "NOTICE"],
    "debug": ["ALERT", "ERROR", "WARNING", "NOTICE", "NOTICE", "DEBUG"],
}


@pytest.mark.parametrize("level", LEVELS)
def test_levels(path, level):
    log = ErrorLog(str(path), level)
    for each in ("alert", "error", "warning", "notice", "info", "debug"):
        log.log("text", each)
    assert re.findall(r"\] ([A-Z]+): ", path.read_text()) == LEVELS[level]


def test_a_line_is_php_fpms(path):
    before = time.time()
    ErrorLog(str(path)).log("fpm is running, pid 7", "notice")
    text = path.read_text()
    assert re.fullmatch(rf"{STAMP} NOTICE: fpm is running, pid 7\n", text)
    stamp = time.mktime(time.strptime(text[1:21], "%d-%b-%Y %H:%M:%S"))
    assert int(before) <= stamp <= time.time()


def test_a_line_at_debug_level_has_microseconds_and_the_pid(path):
    ErrorLog(str(path), "debug").log("text", "warning")
    stamp = STAMP.replace(r"\]", r"\.\d{6}\]")
    assert re.fullmatch(rf"{stamp} WARNING: pid {os.getpid()}: text\n", path.read_text())


def test_an_unknown_level_is_an_error(path):
    ErrorLog(str(path)).log("text", "panic")
    assert bare(path.read_text()) == "ERROR: text\n"


WRONG = {
    "log_level is 'info'": {"level": "info"},
    "log_level is 'loud'": {"level": "loud"},
    "syslog.facility 'ours'": {"syslog_facility": "ours"},
}


@pytest.mark.parametrize("why", WRONG)
def test_mistakes_are_refused(path, why):
    with pytest.raises(ConfigurationError, match=why):
        ErrorLog(str(path), **WRONG[why])
    assert not path.exists()


def test_a_file_that_cannot_be_opened_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigurationError, match=r"none/log: No such file"):
        ErrorLog(str(tmp_path / "none/log"))
    monkeypatch.setattr(log_module, "SYSLOG", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="none: No such file"):
        ErrorLog("syslog")


MESSAGES = {
    "one\ntwo\n": "one\n    two\n",
    "Traceback:\n  File 'x'\n\n    y()\n": "Traceback:\n      File 'x'\n        y()\n",
    "a\n[21-Nov-2026 05:58:36] ALERT: forged": "a\n    [21-Nov-2026 05:58:36] ALERT: forged\n",
    "\n\nlate": "late\n",
    "": "\n",
    "\tTab and é and \u4e2d": "\tTab and é and \u4e2d\n",
    "\x1b[31m\0\r\x85\u2028\udcff": "\\x1b[31m\\x00\\r\\x85\\u2028\\udcff\n",
}


@pytest.mark.parametrize("message", MESSAGES)
def test_only_a_record_begins_with_a_bracket(path, message):
    ErrorLog(str(path)).log(message)
    assert bare(path.read_text(encoding="utf-8")) == "ERROR: " + MESSAGES[message]


@settings(deadline=None)
@given(message=st.text())
def test_a_message_is_one_record(tmp_path_factory, message):
    path = tmp_path_factory.mktemp("any") / "log"
    log = ErrorLog(str(path))
    log.log(message)
    log.close()
    first, *rest = path.read_text(encoding="utf-8").split("\n")
    assert re.match(STAMP, first)
    assert rest.pop() == ""
    assert all(each.startswith("    ") for each in rest)


def test_of_a_huge_message_the_beginning_and_the_end_are_kept(path):
    ErrorLog(str(path)).log("a" * 1_000_000 + "\n" + "b" * 50_000 + "end")
    first, left_out, rest = path.read_text().splitlines()
    assert bare(first) == "ERROR: " + "a" * 16384
    assert left_out == "    ... 984468 characters left out ..."
    assert rest == "    " + "b" * (49152 - 3) + "end"


def test_one_write_per_message(path, monkeypatch):
    log = ErrorLog(str(path))
    written = []
    monkeypatch.setattr(log._file, "_put", lambda data: written.append(data) or len(data))
    log.log("a\nb\nc" * 5000)
    assert len(written) == 1


# -- what cannot be written


def test_a_full_disk_drops_messages_and_the_log_says_how_many(path):
    log = ErrorLog("/dev/full")
    log.log("one")
    log.log("two\nof two lines")
    assert log.dropped == 3
    log.replace(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    log.log("three")
    assert bare(path.read_text()) == (
        "WARNING: 3 lines of this log were dropped: No space left on device\nERROR: three\n"
    )


def test_a_pipe_gets_a_long_message_in_pieces_of_whole_lines(path):
    reader, writer = os.pipe()
    log = ErrorLog("-")
    log.replace(writer)
    pieces = []
    for message in ("\n".join(f"{n:03} {'x' * 96}" for n in range(100)), "y" * 10_000):
        log.log(message)
        pieces.append(os.read(reader, 1 << 20))
    os.close(reader)
    first, second = (each.decode().splitlines() for each in pieces)
    assert [each[4:7] for each in first[1:]] == [f"{n:03}" for n in range(1, 100)]
    assert bare(second[0])[:10] == "ERROR: yyy"
    assert len(second[0]) == 4095 and second[0].endswith("...")
    assert log.dropped == 0


def test_a_pipe_that_nobody_empties(monkeypatch):
    reader, writer = os.pipe()
    monkeypatch.setitem(log_module._STANDARD, "-", writer)
    log = ErrorLog(None)
    count = 0
    while not log.dropped:
        log.log("x" * 80)
        count += 1
        assert count < 10_000
    assert os.get_blocking(writer), "the flags belong to everybody who has it"
    text = os.read(reader, 1 << 20).decode()
    assert text.count("\n") == count - 1 and text.endswith("x\n")
    log.log("again")
    assert bare(os.read(reader, 1 << 20).decode()) == (
        "WARNING: 1 lines of this log were dropped: Resource temporarily unavailable\n"
        "ERROR: again\n"
    )
    os.close(reader)
    os.close(writer)


TORN = """
import resource, signal, sys
from sapi_adapters.manager.log import LogFile
file = LogFile(sys.argv[1], lambda lines, why: f"{lines} lost: {why}\\n".encode())
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (15, hard))
file.write(b"whole line\\n")
file.write(b"torn line\\n")
file.write(b"lost line\\n")
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
file.write(b"last line\\n")
assert file.dropped == 2, file.dropped
"""


def test_a_line_that_was_torn_is_ended_and_marked(path):
    subprocess.run([sys.executable, "-c", TORN, str(path)], check=True, timeout=30)
    assert path.read_text() == "whole line\ntorn...\n2 lost: File too large\nlast line\n"


def test_a_short_write_is_finished(path):
    """As on a stream socket whose buffer is nearly full."""
    one, two = socket.socketpair()
    file = LogFile("-", lambda lines, why: b"note\n", two.detach())
    put = file._put
    file._put = lambda data: put(data[:3])
    file.write(b"whole line\n")
    assert one.recv(100) == b"whole line\n"
    assert file.dropped == 0
    one.close()


AFTER_FORK = """
import os, sys
from sapi_adapters.manager.log import ErrorLog
log = ErrorLog("/dev/full")
log.log("one")
if os.fork() == 0:
    log.replace(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    log.log("child")
    assert log.dropped == 0
    os._exit(0)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
assert log.dropped == 1
"""


def test_a_worker_counts_its_own(path):
    subprocess.run([sys.executable, "-c", AFTER_FORK, str(path)], check=True, timeout=30)
    assert bare(path.read_text()) == "ERROR: child\n"


CLOSED = """
import os, sys
os.close(0)
os.close(1)
os.close(2)
from sapi_adapters.manager.log import ErrorLog
log = ErrorLog(sys.argv[1])
assert log.fileno() > 2
ErrorLog(None).log("to nobody")
opened = [os.path.exists(f"/proc/self/fd/{number}") for number in range(3)]
log.log(f"{os.get_inheritable(log.fileno())} {opened}")
"""


def test_standard_descriptors_that_are_closed_stay_so(path):
    subprocess.run([sys.executable, "-c", CLOSED, str(path)], check=True, timeout=30)
    assert bare(path.read_text()) == "ERROR: False [False, False, False]\n"


def test_standard_error_that_is_a_file_is_shared(path, monkeypatch):
    """With its position: a shell's ``2>file`` is not opened for appending."""
    shared = os.open(path, os.O_WRONLY | os.O_CREAT)
    monkeypatch.setitem(log_module._STANDARD, "-", shared)
    log = ErrorLog(None)
    os.write(shared, b"before\n")
    log.log("ours")
    os.write(shared, b"after\n")
    os.close(shared)
    assert bare(path.read_text()) == "before\nERROR: ours\nafter\n"


def test_a_default_timeout_does_not_touch_a_shared_socket(monkeypatch):
    one, two = socket.socketpair()
    monkeypatch.setitem(log_module._STANDARD, "-", two.fileno())
    socket.setdefaulttimeout(5)
    try:
        ErrorLog(None).log("text")
        assert socket.getdefaulttimeout() == 5
    finally:
        socket.setdefaulttimeout(None)
    assert os.get_blocking(two.fileno())
    assert one.recv(100).endswith(b"ERROR: text\n")
    one.close()
    two.close()


# -- rotation


def test_reopening(path):
    log = ErrorLog(str(path))
    number = log.fileno()
    log.log("1")
    path.rename(path.with_name("old"))
    log.reopen()
    log.log("2")
    path.rename(path.with_name("older"))
    path.mkdir()
    with pytest.raises(ConfigurationError, match="Is a directory"):
        log.reopen()
    log.log("3")
    assert bare(path.with_name("old").read_text()) == "ERROR: 1\n"
    assert bare(path.with_name("older").read_text()) == "ERROR: 2\nERROR: 3\n"
    assert log.fileno() == number


def test_no_message_is_lost_while_the_file_is_rotated(path):
    log = ErrorLog(str(path))
    turn = threading.Barrier(4)

    def write(number: int) -> None:
        turn.wait(30)
        for each in range(1000):
            log.log(f"{number}-{each}\nsecond line of {number}-{each}")

    writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for each in writers:
        each.start()
    turn.wait(30)
    files = [path]
    while any(each.is_alive() for each in writers) and len(files) < 20:
        files.append(path.with_name(f"error.{len(files)}"))
        path.rename(files[-1])
        log.reopen()
    for each in writers:
        each.join(30)
    text = "".join(each.read_text() for each in files)
    seen = re.findall(rf"^{STAMP} ERROR: (\d-\d+)\n    second line of \1$", text, re.MULTILINE)
    assert len(seen) == 3000 and len(set(seen)) == 3000
    assert text.count("\n") == 6000
    assert len(files) > 2


# -- syslog


@pytest.fixture
def syslogd(tmp_path, monkeypatch) -> Iterator[socket.socket]:
    address = str(tmp_path / "dev-log")
    monkeypatch.setattr(log_module, "SYSLOG", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(address)
        made.settimeout(10)
        yield made


HEAD = rf"[A-Z][a-z]{{2}} [ \d]\d \d\d:\d\d:\d\d ours\[{os.getpid()}\]: "


def test_syslog(syslogd):
    log = ErrorLog("syslog", syslog_ident="ours", syslog_facility="local3")
    log.log("one\ntwo", "warning")
    log.log("none", "debug")
    log.log("three", "alert")
    assert [syslogd.recv(1000).decode() for _ in range(3)] == [
        Like(rf"<156>{HEAD}\[WARNING\] one"),
        Like(rf"<156>{HEAD}\[WARNING\]     two"),
        Like(rf"<153>{HEAD}\[ALERT\] three"),
    ]
    WorkerOutput(log, "www", 5, decorate=False).feed(b"bare\n")
    assert syslogd.recv(1000).decode() == Like(rf"<156>{HEAD}\[WARNING\] bare")


class Like(str):
    """Compares as the regular expression it is."""

    def __eq__(self, other: object) -> bool:
        return re.fullmatch(str(self), str(other)) is not None

    __hash__ = str.__hash__


def test_a_syslog_that_nobody_empties(syslogd):
    log = ErrorLog("syslog", syslog_ident="ours")
    count = 0
    while not log.dropped:
        log.log("text")
        count += 1
        assert count < 100_000
    for _ in range(count - 1):
        assert syslogd.recv(1000).endswith(b" text")
    log.log("again")
    assert syslogd.recv(1000).endswith(
        b"[WARNING] 1 lines of this log were dropped: Resource temporarily unavailable"
    )
    assert syslogd.recv(1000).endswith(b" again")


def test_a_syslog_that_was_restarted(syslogd):
    log = ErrorLog("syslog", syslog_ident="ours")
    address = syslogd.getsockname()
    syslogd.close()
    log.log("refused")
    os.unlink(address)
    log.log("missing")
    assert log.dropped == 2
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as again:
        again.bind(address)
        again.settimeout(10)
        log.log("back")
        assert b"2 lines of this log were dropped" in again.recv(1000)
        assert again.recv(1000).endswith(b"back")


# -- what workers print

SAID = 'WARNING: [pool www] child 7 said into stderr: "{}"\n'
X1, X2 = "x" * 20, "y" * 20
OUTPUTS = {
    "a line": (b"hello\n", SAID.format("hello")),
    "lines": (b"one\ntwo\n", SAID.format("one") + SAID.format("two")),
    "blank ones": (b"\n\na\n\n", SAID.format("a")),
    "no end": (b"par", 'WARNING: [pool www] child 7 said into stderr: "par", pipe is closed\n'),
    "as long as the limit": (f"{X1}\n".encode(), SAID.format(X1)),
    "longer": (f"{X1}a\n".encode(), SAID.format(X1) + SAID.format("a")),
    "twice as long": (f"{X1}{X2}\n".encode(), SAID.format(X1) + SAID.format(X2)),
    "UTF-8 at the limit": (
        f"{X1[1:]}é{X2}\n".encode(),
        SAID.format(X1[1:]) + SAID.format("é" + X2[2:]) + SAID.format(X2[:2]),
    ),
    "what is no text": (
        b"\x1b[31m\0\xff\xc3\xa9\r\n",
        SAID.format("\\x1b[31m\\x00\\xffé\\r"),
    ),
    "no UTF-8 at the limit": (
        b"\x80" * 21 + b"\n",
        SAID.format(r"\x80" * 17) + SAID.format(r"\x80" * 4),
    ),
    "a forged record": (
        b"[21-Nov-2026 05:58:36] ALERT: x\n",
        SAID.format("[21-Nov-2026 05:58:3") + SAID.format("6] ALERT: x"),
    ),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_what_a_worker_prints(path, case):
    data, shown = OUTPUTS[case]
    for cut in range(1, len(data) + 1):
        log = ErrorLog(str(path), limit=20)
        output = WorkerOutput(log, "www", 7)
        for start in range(0, len(data), cut):
            output.feed(data[start : start + cut])
        output.close()
        output.close()
        assert bare(path.read_text(encoding="utf-8")) == shown, f"in pieces of {cut}"
        log.close()
        path.unlink()


@settings(deadline=None)
@given(data=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=5))
def test_however_it_comes_it_is_the_same(tmp_path_factory, data, cuts):
    directory = tmp_path_factory.mktemp("cut")
    texts = []
    for points in ([0, len(data)], sorted({0, len(data), *(min(c, len(data)) for c in cuts)})):
        log = ErrorLog(str(directory / str(len(texts))), limit=20)
        output = WorkerOutput(log, "www", 7, decorate=False)
        for start, end in pairwise(points):
            output.feed(data[start:end])
        output.close()
        log.close()
        texts.append((directory / str(len(texts))).read_bytes())
    assert texts[0] == texts[1]
    lines = texts[0].decode().splitlines()
    assert len(lines) == texts[0].count(b"\n")
    assert len(lines) >= sum(1 for each in data.split(b"\n") if each)
    assert all(each.replace("\t", "").isprintable() for each in lines)


def test_it_is_shown_bare_and_at_every_level(path):
    log = ErrorLog(str(path), "alert")
    WorkerOutput(log, "www", 7, "stdout", decorate=False).feed(b"bare\nlines\n")
    WorkerOutput(log, "www", 7, "stdout").feed(b"decorated\n")
    assert bare(path.read_text()) == (
        'bare\nlines\nWARNING: [pool www] child 7 said into stdout: "decorated"\n'
    )


def test_a_part_can_be_had_before_its_end(path):
    output = WorkerOutput(ErrorLog(str(path)), "www", 7)
    output.feed(b"50 %")
    assert output.pending
    output.flush()
    assert not output.pending
    output.flush()
    output.feed(b" done\n")
    assert bare(path.read_text()) == SAID.format("50 %") + SAID.format(" done")


def test_reading_is_bounded_and_does_not_wait(path):
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    output = WorkerOutput(ErrorLog(str(path)), "www", 7)
    assert output.read(reader), "nothing has come yet"
    os.write(writer, b"x\n" * TURN)
    assert output.read(reader)
    assert path.read_text().count("\n") == TURN // 2
    assert output.read(reader)
    os.write(writer, b"last")
    os.close(writer)
    assert output.read(reader)
    assert not output.read(reader)
    os.close(reader)
    text = bare(path.read_text())
    assert text.count("\n") == TURN + 1
    assert text.endswith('"last", pipe is closed\n')
    assert not output.read(reader), "a descriptor that is closed is no error"


def test_a_worker_that_prints_into_a_log_that_is_full(path):
    log = ErrorLog("/dev/full")
    WorkerOutput(log, "www", 7).feed(b"one\ntwo\n")
    assert log.dropped == 2
