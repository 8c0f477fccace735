"""``sapi top`` and ``sapi status``: over real sockets, and on a terminal of their own."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from manager.test_status import BUSY, HOSTILE, IDLE, STATUS, php_fpm  # noqa: F401 - a fixture

from sapi_adapters.commands import top
from sapi_adapters.commands.top import Picture, finish
from sapi_adapters.manager.status import render
from sapi_adapters.protocols.fastcgi import Connection, RequestReceived, end_response, stream

Answer = Callable[[dict[str, str]], bytes]


def status_page(params: dict[str, str]) -> bytes:
    kind, body = render(STATUS, params["QUERY_STRING"])
    return f"Content-Type: {kind}\r\n\r\n".encode() + body


class Pool:
    """A FastCGI server in a thread; *answer* may be changed while it runs."""

    def __init__(self, answer: Answer, listener: socket.socket) -> None:
        self.answer = answer
        self.asked: list[dict[str, str]] = []
        self._listener = listener
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                connection.settimeout(10)
                codec, done = Connection(), False
                while not done:
                    data = connection.recv(65536)
                    if not data:
                        return  # close() connects and says nothing
                    for event in codec.receive_data(data):
                        if isinstance(event, RequestReceived):
                            self.asked.append(event.request.params)
                            out = self.answer(event.request.params)
                            with contextlib.suppress(OSError):
                                connection.sendall(stream(6, 1, out) + end_response(1))
                            done = True

    def close(self) -> None:
        with socket.socket(self._listener.family) as last:
            last.connect(self._listener.getsockname())
        self._thread.join(10)
        self._listener.close()


@contextlib.contextmanager
def pool_at(path: str, answer: Answer = status_page) -> Iterator[Pool]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    pool = Pool(answer, listener)
    try:
        yield pool
    finally:
        pool.close()


@pytest.fixture
def where(tmp_path: Path) -> str:
    return str(tmp_path / "pool.sock")


COMMAND = [sys.executable, "-m", "sapi_adapters.commands.tools"]


def sapi(*arguments: str, **environ: str) -> tuple[int, str, str]:
    """Run the command with no terminal; return its status, output and errors."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environ},
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


# -- the picture


def sample(**changes: Any) -> dict[str, Any]:
    status = dataclasses.replace(STATUS, **changes)
    return json.loads(render(status, "json&full")[1])  # type: ignore[no-any-return]


def drawn(*samples: dict[str, Any], height: int = 0, width: int = 0) -> list[str]:
    """Return the lines after *samples*, which came two seconds after one another."""
    picture = Picture()
    for number, status in enumerate(samples):
        picture.take(status, 100.0 + 2 * number)
    return [finish(line, width) for line in picture.lines(height)]


def test_the_summary_names_what_matters():
    text = "\n".join(drawn(sample(last_failure="ImportError: shop")))
    for part in (
        "www  dynamic, fcgi-prefork, 0.1.0, up 8 min 8 s, generation 2",
        "1 active, 1 idle, at most 8; highest 2; limit reached 3 times",
        "1 of 511; highest 7",
        "- per second, 1,234 accepted, 4 slow, 6 lost",
        "60 MiB, largest worker so far 40 MiB",
        "last reload failed: ImportError: shop",
    ):
        assert part in text


def test_rates_come_from_two_samples():
    later = dataclasses.replace(BUSY, requests=BUSY.requests + 9)
    text = drawn(sample(), sample(accepted_conn=1334, processes=(IDLE, later)))
    assert any("50.0 per second" in line for line in text)
    rows = {line.split()[0]: line for line in text if line.strip().startswith("471")}
    assert " 4.5 " in rows["4712"] and " 0.0 " in rows["4711"]


def test_a_pool_that_began_anew_has_no_rate():
    text = "\n".join(drawn(sample(), sample(accepted_conn=3, processes=())))
    assert "- per second" in text


def test_workers_are_sorted_by_what_they_do():
    workers = (
        dataclasses.replace(IDLE, pid=1, requests=5),
        dataclasses.replace(BUSY, pid=2, request_duration=0.1),
        dataclasses.replace(IDLE, pid=3, requests=50),
        dataclasses.replace(BUSY, pid=4, request_duration=9.0),
        dataclasses.replace(IDLE, pid=5, requests=60, request_duration=99.0),
        dataclasses.replace(BUSY, pid=6, request_duration=0.0),
    )
    busier = (dataclasses.replace(workers[0], requests=25), *workers[1:])
    for samples, order in (([workers], "4 2 6 5 3 1"), ([workers, busier], "4 2 6 1 5 3")):
        rows = drawn(*(sample(processes=each) for each in samples))[-6:]
        assert [row.split()[0] for row in rows] == order.split()


def test_what_does_not_fit_is_counted():
    workers = tuple(dataclasses.replace(IDLE, pid=pid) for pid in range(100, 140))
    whole = drawn(sample(processes=workers))
    assert len(whole) == 48
    for height in range(1, 60):
        lines = drawn(sample(processes=workers), height=height)
        assert len(lines) == min(height, 48)
        assert lines[: height - 1] == whole[: height - 1]
        if 8 < height < 48:
            assert lines[-1] == f"and {48 - height + 1} more"


@pytest.mark.parametrize("width", [1, 7, 40, 79, 200])
def test_no_line_is_wider_than_the_terminal(width):
    worker = dataclasses.replace(BUSY, request_uri="/\u6f22\u5b57" * 100 + "e\u0301" * 100)
    for line in drawn(sample(processes=(worker,)), width=width):
        cells = sum(2 if "\u6f00" < c < "\u6fff" or c == "\u5b57" else c != "\u0301" for c in line)
        assert cells <= width


def test_a_pool_without_our_fields_is_drawn(php_fpm):  # noqa: F811
    status = json.loads(php_fpm("json&full").body)
    text = drawn(status)
    assert text[0].startswith("www  static, up ")
    assert len([line for line in text if "/status" in line]) == 2
    assert "memory " not in "\n".join(text) and "generation" not in "\n".join(text)


@pytest.mark.parametrize("odd", [None, "x", [], {}, -1, 1e300, True, "\x1b[2J", "9" * 50])
def test_odd_values_are_drawn_somehow(odd):
    status = dict.fromkeys(sample(), odd)
    status["processes"] = [dict.fromkeys(sample()["processes"][0], odd)] * 2
    for line in drawn(status, status):
        assert line.isprintable()


# -- without a terminal


def test_once_prints_plain_lines(where):
    hostile = dataclasses.replace(
        STATUS, pool="p\x1b", processes=(dataclasses.replace(IDLE, request_uri=HOSTILE), BUSY)
    )
    with pool_at(where, lambda params: b"\r\n\r\n" + render(hostile, params["QUERY_STRING"])[1]):
        status, output, errors = sapi("top", where)
        again = sapi("top", where, "--once")
    assert (status, errors) == (0, "") and again[0] == 0
    lines = output.removesuffix("\n").split("\n")
    assert all(line.isprintable() for line in lines) and len(lines) == 10
    assert "\\x1b[2J" in output and lines[-2].split()[:2] == ["4712", "Running,"]


def test_bars_are_plain_where_blocks_cannot_be_shown(where):
    with pool_at(where):
        status, output, _ = sapi("top", where, PYTHONIOENCODING="ascii")
    assert status == 0 and output.isascii() and "###." in output


def test_the_pool_is_asked_as_a_front_end_would(where):
    with pool_at(where) as pool:
        assert sapi("status", where, "--path", "/s", "--format", "xml", "--full")[0] == 0
    (asked,) = pool.asked
    assert asked["SCRIPT_NAME"] == asked["SCRIPT_FILENAME"] == "/s"
    assert (asked["QUERY_STRING"], asked["REQUEST_METHOD"]) == ("xml&full", "GET")


@pytest.mark.parametrize("kind", top.FORMATS)
def test_status_prints_the_page_itself(where, kind):
    with pool_at(where):
        output = sapi("status", where, "--format", kind)
    assert output == (0, render(STATUS, top.FORMATS[kind][0])[1].decode(), "")


@pytest.mark.parametrize("kind", [kind for kind in top.FORMATS if kind != "openmetrics-strict"])
def test_php_fpms_pages_are_known_too(php_fpm, kind):  # noqa: F811
    query, beginning = top.FORMATS[kind]
    assert php_fpm(query).body.startswith(beginning)


def test_a_pool_on_tcp():
    listener = socket.create_server(("127.0.0.1", 0))
    pool = Pool(status_page, listener)
    try:
        port = str(listener.getsockname()[1])
        for address in (port, f"127.0.0.1:{port}", f"localhost:{port}"):
            assert sapi("status", address)[1].startswith("pool: ")
    finally:
        pool.close()


ANSWERS = {
    "404": (b"Status: 404 Not Found\r\n\r\nno", "/status is answered with 404: is pm.status_path"),
    "403": (b"Status: 403 Forbidden\r\n\r\nno", "/status is answered with 403: is pm.status_path"),
    "500": (b"Status: 500\r\n\r\nno", "/status is answered with 500\n"),
    "no status code": (b"Status: \xb2\r\n\r\n", "/status is answered with 500\n"),
    "an application": (b"Content-Type: text/html\r\n\r\n<p>hello", "is no status page: is pm.st"),
    "nothing": (b"", "is no status page: is pm.st"),
    "half a page": (b'\r\n\r\n{"pool":"www"', "JSON that cannot be read"),
    "no UTF-8": (b'\r\n\r\n{"pool":"\xff"}', "JSON that cannot be read"),
    "no workers": (b'\r\n\r\n{"pool":"www"}', "lists no processes"),
    "odd workers": (b'\r\n\r\n{"pool":"www","processes":[1]}', "lists no processes"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_that_is_no_status_is_one_line(where, case):
    answer, message = ANSWERS[case]
    with pool_at(where, lambda params: answer):
        status, output, errors = sapi("top", where)
    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert errors.startswith("sapi: ") and message in errors


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["top", "/nonesuch\x1b.sock"], 2, "there is no socket /nonesuch\\x1b.sock"),
        (["status", __file__], 1, "test_top.py: Connection refused"),
        (["top", "127.0.0.1:99999"], 2, "127.0.0.1:99999 has no port between"),
        (["top", "x" * 200], 1, "AF_UNIX path too long"),
        (["top"], 2, "Missing argument 'SOCKET'"),
        (["top", "x", "--interval", "0"], 2, "--interval"),
        (["status", "x", "--format", "yaml"], 2, "yaml"),
        (["nonesuch"], 2, "nonesuch"),
    ],
)
def test_mistakes_are_one_line(arguments, status, message):
    found, output, errors = sapi(*arguments)
    assert (found, output, errors.count("\n")) == (status, "", 1)
    assert message in errors


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak FastCGI"),
        (b"", "closed before the answer was whole"),
        (stream(6, 1, b"Status: 200\r\n\r\n{"), "closed before the answer was whole"),
        (end_response(1, status=2), "overloaded"),
    ],
)
def test_what_is_no_fastcgi_is_told(where, said, message):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(where)
        listener.listen()
        listener.settimeout(30)

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        status, output, errors = sapi("status", where)
        thread.join()
    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert message in errors


def test_a_pool_that_does_not_answer(where, monkeypatch):
    monkeypatch.setattr(top, "TIMEOUT", 0.1)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(where)
        listener.listen()
        with pytest.raises(top.Trouble, match="did not answer within"):
            top.ask(where, "/status")


def test_no_arguments_show_the_help():
    status, output, _ = sapi()
    assert status == 0 and "top" in output and "status" in output


# -- on a terminal

SEQUENCES = r"\x1b\[(?:H|J|K|m|[\d;]+m|\?1049[hl]|\?25[hl])"


class Terminal:
    """A pseudo-terminal with a command in it."""

    def __init__(self, *arguments: str, columns: int = 100, lines: int = 24) -> None:
        self.output = b""
        self.master, self.slave = pty.openpty()
        self.resize(columns, lines)
        self.mode = termios.tcgetattr(self.slave)
        # Its own session, so that Ctrl-C and the window's size reach it by this terminal.
        claim = (
            "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
            "from sapi_adapters.commands.tools import main; main()"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", claim, *arguments],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
            env={**os.environ, "PYTHONIOENCODING": "utf-8", "TERM": "xterm"},
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def read(self) -> bool:
        """Take what is there; False when it was nothing."""
        if not select.select([self.master], [], [], 0.05)[0]:
            return False
        self.output += os.read(self.master, 65536)
        return True

    def until(self, condition: Callable[[], object], what: str = "") -> None:
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, f"{what}: {self.output[-3000:]!r}"
            self.read()

    def ended(self) -> int:
        self.until(lambda: self.process.poll() is not None, "its end")
        while self.read():
            pass
        return self.process.returncode

    @property
    def frames(self) -> list[list[str]]:
        """What was drawn, as lines of plain text, the last piece left out: it may grow."""
        pieces = self.output.decode("utf-8", "replace").split("\x1b[H")[1:-1]
        return [re.sub(SEQUENCES, "", piece).split("\r\n") for piece in pieces]

    def shows(self, text: str) -> bool:
        return bool(self.frames) and any(text in line for line in self.frames[-1])


def growing(params: dict[str, str]) -> bytes:
    growing.count += 1  # type: ignore[attr-defined]
    number = growing.count  # type: ignore[attr-defined]
    status = dataclasses.replace(
        STATUS,
        listen_queue=number,
        accepted_conn=1000 * number,
        processes=(IDLE, dataclasses.replace(BUSY, request_uri=HOSTILE)),
    )
    return b"Content-Type: application/json\r\n\r\n" + render(status, params["QUERY_STRING"])[1]


@pytest.fixture
def live(where: str) -> Iterator[tuple[Terminal, Pool]]:
    """``sapi top`` of a pool whose numbers grow."""
    growing.count = 0  # type: ignore[attr-defined]
    with pool_at(where, growing) as pool, Terminal("top", where, "--interval", "0.1") as terminal:
        terminal.until(lambda: terminal.shows("www"), "a picture")
        yield terminal, pool


def test_it_draws_in_place_and_again(live):
    terminal, _ = live
    terminal.until(lambda: terminal.shows("5 of 511"), "the fifth answer")
    assert terminal.output.count(b"\x1b[?1049h") == 1
    frame = terminal.frames[-1]
    assert re.search(r"\d per second", "\n".join(frame))
    assert len(frame) <= 24 and all(len(line) <= 100 for line in frame)
    # Erasing behind a full line would take its last cell.
    assert not re.search(rb"(?<!\n)(?<!\x1b\[H)\x1b\[K|(?<!\x1b\[K)\x1b\[J", terminal.output)
    rest = re.sub(SEQUENCES, "", terminal.output.decode("utf-8", "ignore"))
    assert all(character.isprintable() for character in rest.replace("\r\n", ""))


@pytest.mark.parametrize("key", [b"q", b"Q", b"\x03"])
def test_a_key_ends_it_and_the_terminal_is_as_before(live, key):
    terminal, _ = live
    assert termios.tcgetattr(terminal.slave) != terminal.mode
    terminal.type(key)
    assert terminal.ended() == 0
    assert termios.tcgetattr(terminal.slave) == terminal.mode
    assert terminal.output.endswith(b"\x1b[?25h\x1b[?1049l")


def test_a_signal_ends_it_and_the_terminal_is_as_before(live):
    terminal, _ = live
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.ended() == 128 + signal.SIGTERM
    assert termios.tcgetattr(terminal.slave) == terminal.mode
    assert terminal.output.endswith(b"\x1b[?25h\x1b[?1049l")


def test_it_fits_the_window_when_that_changes(where):
    with pool_at(where), Terminal("top", where, "--interval", "1000") as terminal:
        terminal.until(lambda: b"4711" in terminal.output, "a picture")
        terminal.output = b""
        terminal.resize(31, 5)  # no answer comes that could bring a new picture
        terminal.until(lambda: terminal.output.endswith(b"1,234 a"), "a smaller picture")
        terminal.output += b"\x1b[H"
        frame = terminal.frames[0]
        assert len(frame) == 5 and max(map(len, frame)) == 31


def test_it_comes_back_after_a_stop(live):
    terminal, _ = live
    terminal.type(b"\x1a")
    terminal.until(lambda: terminal.output.endswith(b"\x1b[?25h\x1b[?1049l"), "the first screen")
    state = Path(f"/proc/{terminal.process.pid}/stat")
    terminal.until(lambda: state.read_text().rpartition(")")[2].split()[0] == "T", "its stop")
    assert termios.tcgetattr(terminal.slave) == terminal.mode
    terminal.output = b""
    terminal.process.send_signal(signal.SIGCONT)
    terminal.until(lambda: terminal.output.startswith(b"\x1b[?1049h") and terminal.frames, "it")
    terminal.type(b"q")
    assert terminal.ended() == 0


def test_trouble_is_shown_until_it_is_over(live):
    terminal, pool = live
    pool.answer = lambda params: b"Status: 404 Not Found\r\n\r\n"
    terminal.until(lambda: terminal.shows("not up to date: /status is answered with 404"), "it")
    assert terminal.shows("4711")  # what was known stays
    pool.answer = growing
    terminal.until(lambda: not terminal.shows("not up to date"), "its end")
    terminal.type(b"q")
    assert terminal.ended() == 0


def test_trouble_at_the_first_question_leaves_the_screen_alone(where):
    with Terminal("top", where) as terminal:
        assert terminal.ended() == 2
    assert terminal.output.decode() == f"sapi: there is no socket {where}\r\n"


@pytest.mark.parametrize("arguments", [["top", "--once"], ["status", "--full"]])
def test_no_control_character_of_a_client_reaches_the_terminal(where, arguments):
    # As php-fpm writes it: raw.
    raw = b"pool:                 www\nrequest URI:          /\x1b]0;x\x07\xc2\x9b2J\n"
    worker = {"pid": 1, "request uri": "/\x1b]0;x\x07\x9b2J"}
    page = json.dumps({"pool": "www", "processes": [worker]}, separators=(",", ":")).encode()
    with (
        pool_at(where, lambda p: b"\r\n\r\n" + (page if "json" in p["QUERY_STRING"] else raw)),
        Terminal(arguments[0], where, *arguments[1:]) as terminal,
    ):
        assert terminal.ended() == 0
    text = terminal.output.decode()
    assert "/\\x1b]0;x\\x07\\x9b2J" in text
    assert text.replace("\r\n", "").isprintable()
