"""What ``sapi`` shows: a pool's status page, fetched over FastCGI; as it is, or drawn live.

Only here is a terminal touched. Whatever a pool answers was typed by its clients: nothing of it
reaches a terminal that has not passed through :func:`~sapi_adapters.manager.status.printable`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import threading
import time
import unicodedata
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from ..manager.status import printable
from ..protocols.fastcgi import OVERLOADED, ClientConnection, RequestEnded, StdoutReceived
from ..sapi import ConfigurationError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

TIMEOUT: Final = 5.0
"""Seconds one answer may take."""
MAX_ANSWER: Final = 64 << 20
"""Bytes one answer may have."""

FORMATS: Final = {
    "text": ("", b"pool:"),
    "html": ("html", b"<!DOCTYPE html"),
    "xml": ("xml", b'<?xml version="1.0" ?>\n<status>'),
    "json": ("json", b'{"pool":'),
    "openmetrics": ("openmetrics", b"# HELP phpfpm_up"),
    "openmetrics-strict": ("openmetrics=strict", b"# HELP phpfpm_up"),
}
"""Name of a format: the query that asks for it, and how its pages begin."""


class Trouble(Exception):
    """The pool has no status to show. The text is one line that says why."""


# -- asking a pool --------------------------------------------------------------------------------


def connect(where: str) -> socket.socket:
    """Connect to a pool at *where*: a path, ``HOST:PORT``, ``[IPV6]:PORT`` or a port of this host.

    Raises :class:`ConfigurationError` when there can be nothing, :class:`Trouble` when nobody
    answers.
    """
    host, colon, port = where.rpartition(":")
    if "/" not in where and port.isascii() and port.isdigit() and (colon or not host):
        if not 0 < int(port) < 65536:
            raise ConfigurationError(f"{where} has no port between 1 and 65535")
        try:
            return socket.create_connection((host.strip("[]") or "localhost", int(port)), TIMEOUT)
        except OSError as error:
            raise Trouble(f"{printable(where)}: {error.strerror or error}") from None
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(TIMEOUT)
    try:
        client.connect(where)
    except FileNotFoundError:
        client.close()
        raise ConfigurationError(f"there is no socket {printable(where)}") from None
    except OSError as error:  # "AF_UNIX path too long" has no strerror
        client.close()
        raise Trouble(f"{printable(where)}: {error.strerror or error}") from None
    return client


def fetch(where: str, path: str, query: str, beginning: bytes) -> bytes:
    """Return the body that the pool at *where* answers for *path* with *query*.

    Raises :class:`Trouble` when it does not answer, or not with what has this *beginning*; and as
    :func:`connect` does.
    """
    params = {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": path,
        "SCRIPT_FILENAME": path,  # php-fpm looks at no request without one
        "QUERY_STRING": query,
        "REQUEST_URI": f"{path}?{query}" if query else path,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_SOFTWARE": "sapi",
        "REMOTE_ADDR": "127.0.0.1",
    }
    name = printable(where)
    with connect(where) as client:
        try:
            answer = _exchange(client, [(k.encode(), v.encode()) for k, v in params.items()])
        except ProtocolError:
            raise Trouble(f"{name} does not speak FastCGI") from None
        except TimeoutError:
            raise Trouble(
                f"{name} did not answer within {TIMEOUT:g} s:"
                " all workers are busy (pm.status_listen helps), or it is no FastCGI"
            ) from None
        except OSError as error:
            raise Trouble(f"{name}: {error.strerror or error}") from None
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        head, _, body = answer.partition(b"\n\n")
    status = 200
    for line in head.decode("latin-1").split("\n"):
        field, _, value = line.partition(":")
        if field.lower() == "status":
            code = value.split()[:1]
            status = int(code[0]) if code and code[0].isascii() and code[0].isdigit() else 500
    if status != 200:
        hint = ": is pm.status_path set to it?" if status in (403, 404) else ""
        raise Trouble(f"{path} is answered with {status}{hint}")
    if not body.startswith(beginning):
        raise Trouble(f"{path} is no status page: is pm.status_path set to it?")
    return body


def _exchange(client: socket.socket, params: list[tuple[bytes, bytes]]) -> bytes:
    """Make one request; return what came on STDOUT."""
    codec = ClientConnection()
    end = time.monotonic() + TIMEOUT
    client.sendall(codec.begin(1, params) + codec.stdin(1, b""))
    answer = bytearray()
    while len(answer) <= MAX_ANSWER:
        client.settimeout(max(end - time.monotonic(), 0.001))
        data = client.recv(65536)
        if not data:
            raise Trouble("the connection was closed before the answer was whole: is it FastCGI?")
        for event in codec.receive_data(data):
            if isinstance(event, StdoutReceived):
                answer += event.data
            elif isinstance(event, RequestEnded):
                if event.status == OVERLOADED:
                    raise Trouble("the pool is overloaded")
                return bytes(answer)
    raise Trouble(f"the answer has more than {MAX_ANSWER} bytes")


def ask(where: str, path: str) -> dict[str, Any]:
    """Return the pool's full status. Raises as :func:`fetch` does."""
    query, beginning = FORMATS["json"]
    try:
        status = json.loads(fetch(where, path, f"{query}&full", beginning))
    except ValueError:
        raise Trouble(f"{path} is answered with JSON that cannot be read") from None
    processes = status.get("processes")
    if not isinstance(processes, list) or not all(isinstance(p, dict) for p in processes):
        raise Trouble(f"{path} is no status page: it lists no processes")
    return dict(status)


# -- the picture ----------------------------------------------------------------------------------

Line: TypeAlias = "list[tuple[str, str]]"
"""Pieces of text, each with its SGR code or ``""``."""

_BOLD, _FAINT, _RED, _GREEN, _YELLOW, _BLUE = "1", "2", "31", "32", "33", "34"


class _Column(NamedTuple):
    title: str
    width: int
    """Negative: flush right."""


_COLUMNS: Final = (
    _Column("PID", -7),
    _Column("STATE", 16),
    _Column("LOAD", 6),
    _Column("REQUESTS", -9),
    _Column("REQ/S", -7),
    _Column("DURATION", -9),
    _Column("CPU", -4),
    _Column("MEMORY", -8),
    _Column("REQUEST", 0),
)


class Picture:
    """What is drawn of a pool. It remembers the sample before, for rates and smoothed loads."""

    def __init__(self, blocks: str = "█░") -> None:
        self.trouble = ""
        self._blocks = blocks
        self._status: dict[str, Any] = {}
        self._time = 0.0
        self._rate: float | None = None
        self._requests: dict[int, int] = {}
        self._rates: dict[int, float] = {}
        self._loads: dict[int, float] = {}

    def take(self, status: dict[str, Any], now: float) -> None:
        """Take the *status* that was fetched at *now*, in monotonic seconds."""
        elapsed = now - self._time
        accepted = _number(status, "accepted conn")
        before = _number(self._status, "accepted conn")
        known = bool(self._status) and elapsed > 0
        self._rate = (accepted - before) / elapsed if known and accepted >= before else None
        requests: dict[int, int] = {}
        rates: dict[int, float] = {}
        loads: dict[int, float] = {}
        for process in status["processes"]:
            pid = int(_number(process, "pid"))
            requests[pid] = int(_number(process, "requests"))
            done = requests[pid] - self._requests.get(pid, requests[pid] + 1)
            if known and done >= 0:
                rates[pid] = done / elapsed
            load = min(_active(process) / max(_number(process, "capacity"), 1), 1.0)
            old = self._loads.get(pid)
            loads[pid] = load if old is None else 0.7 * old + 0.3 * load
        self._status, self._time = status, now
        self._requests, self._rates, self._loads = requests, rates, loads

    def lines(self, height: int = 0, note: str = "") -> list[Line]:
        """Return the lines, at most *height* of them (0: all). *note* ends the first one."""
        lines = self._summary(note)
        lines.append([(" ".join([_fit(c.title, c.width) for c in _COLUMNS]), _FAINT)])
        workers = sorted(self._status["processes"], key=self._activity)
        room = max(height - len(lines), 0) if height else len(workers)
        if len(workers) > room:
            room = max(room - 1, 0)
            hidden = f"and {len(workers) - room} more"
            return [*lines, *map(self._row, workers[:room]), [(hidden, _FAINT)]][: height or None]
        return lines + [self._row(worker) for worker in workers]

    def _activity(self, process: Mapping[str, Any]) -> tuple[float, ...]:
        """Return the key that puts those at work first, the longest running of them on top."""
        pid = int(_number(process, "pid"))
        active = _active(process)
        running = _number(process, "request duration") if active else 0
        return (-bool(active), -running, -self._rates.get(pid, 0.0), -self._requests[pid], pid)

    def _bar(self, share: float, width: int, style: str = _BLUE) -> Line:
        full = round(min(max(share, 0.0), 1.0) * width)
        return [(self._blocks[0] * full, style), (self._blocks[1] * (width - full), _FAINT)]

    def _summary(self, note: str) -> list[Line]:
        status = self._status

        def count(name: str) -> str:
            return f"{int(_number(status, name)):,}"

        about = [_string(status, n) for n in ("process manager", "sapi", "version")]
        about.append(f"up {_age(_number(status, 'start since'))}")
        if "generation" in status:
            about.append(f"generation {count('generation')}")
        active, total = _number(status, "active processes"), _number(status, "total processes")
        most = _number(status, "max children") or total
        queue, backlog = _number(status, "listen queue"), _number(status, "listen queue len")
        reached = _number(status, "max children reached")
        lines: list[Line] = [
            [
                (_string(status, "pool"), _BOLD),
                ("  " + ", ".join(filter(None, about)), ""),
                (f"  {note}", _FAINT),
            ],
            [("", "")],
            [
                ("workers   ", _FAINT),
                *self._bar(active / most if most else 0, 24),
                (f"  {active:,.0f} active, {count('idle processes')} idle", ""),
                (f", at most {most:,.0f}" if "max children" in status else "", ""),
                (f"; highest {count('max active processes')}", _FAINT),
                (f"; limit reached {reached:,.0f} times" if reached else "", _YELLOW),
            ],
            [
                ("queue     ", _FAINT),
                *self._bar(queue / backlog if backlog else 0, 24, _YELLOW),
                (f"  {queue:,.0f} of {backlog:,.0f}", _YELLOW if queue else ""),
                (f"; highest {count('max listen queue')}", _FAINT),
            ],
            [
                ("requests  ", _FAINT),
                (f"{'-' if self._rate is None else f'{self._rate:,.1f}'} per second", _BOLD),
                (f", {count('accepted conn')} accepted", ""),
                *self._warning("slow requests", "slow"),
                *self._warning("lost requests", "lost"),
            ],
        ]
        if "memory" in status:
            memory, peak = _bytes(_number(status, "memory")), _number(status, "memory peak")
            lines.append(
                [("memory    ", _FAINT), (f"{memory}, largest worker so far {_bytes(peak)}", "")]
            )
        if _string(status, "last failure"):
            lines.append([(f"last reload failed: {_string(status, 'last failure')}", _RED)])
        if self.trouble:
            lines.append([(f"not up to date: {printable(self.trouble)}", _RED)])
        return [*lines, [("", "")]]

    def _warning(self, name: str, word: str) -> Line:
        number = _number(self._status, name)
        return [(f", {number:,.0f} {word}", _YELLOW if number else "")]

    def _row(self, process: Mapping[str, Any]) -> Line:
        pid = int(_number(process, "pid"))
        idle = not _active(process)
        leaving = process.get("leaving") is True
        state = _string(process, "state") + (", leaving" if leaving else "")
        memory = _number(process, "memory") or _number(process, "last request memory")
        rate = self._rates.get(pid)
        request = f"{_string(process, 'request method')} {_string(process, 'request uri')}"
        cells = iter(
            (
                f"{pid}",
                state,
                "",
                f"{self._requests[pid]:,}",
                "-" if rate is None else f"{rate:,.1f}",
                _took(_number(process, "request duration")),
                f"{_number(process, 'last request cpu'):.0f}%" if idle else "-",
                _bytes(memory),
                request,
            )
        )
        line: Line = []
        for column, cell in zip(_COLUMNS, cells, strict=True):
            style = _FAINT if idle else ""
            if column.title == "STATE":
                style = _YELLOW if leaving else _FAINT if idle else _GREEN
            if column.title == "LOAD":
                line += self._bar(self._loads[pid], column.width)
            else:
                line.append((_fit(cell, column.width), style))
            line.append((" ", ""))
        return line[:-1]


def finish(line: Line, width: int = 0, colour: bool = False) -> str:
    """Return *line* as text of at most *width* cells of a terminal (0: as long as it is)."""
    parts = []
    left = width or sys.maxsize
    for text, style in line:
        text, used = _clip(text, left)
        left -= used
        parts.append(f"\x1b[{style}m{text}\x1b[m" if colour and style and text else text)
    whole = "".join(parts)
    return whole if colour else whole.rstrip()


def _clip(text: str, width: int) -> tuple[str, int]:
    """Return the beginning of *text* that fits into *width* cells, and how many it takes."""
    if text.isascii():
        return text[:width], min(len(text), width)
    used = 0
    for at, character in enumerate(text):
        wide = unicodedata.east_asian_width(character) in "WF"
        cells = 0 if unicodedata.combining(character) else 1 + wide
        if used + cells > width:
            return text[:at], used
        used += cells
    return text, used


def _fit(text: str, width: int) -> str:
    """Return *text* in a column of *width* cells; as it is for 0, flush right below 0."""
    if not width:
        return text
    text, used = _clip(text, abs(width))
    space = " " * (abs(width) - used)
    return space + text if width < 0 else text + space


def _number(source: Mapping[str, Any], name: str) -> float:
    value = source.get(name)
    # Bounded, so that what a broken pool says is no number of a million digits here.
    return min(max(value, 0), 1 << 62) if isinstance(value, (int, float)) else 0


def _string(source: Mapping[str, Any], name: str) -> str:
    value = source.get(name)
    return "" if not isinstance(value, str) or value == "-" else printable(value)


def _active(process: Mapping[str, Any]) -> float:
    """Return how many requests a worker serves; php-fpm says it by the state."""
    if "active requests" in process:
        return _number(process, "active requests")
    return float(process.get("state") != "Idle")


def _bytes(number: float) -> str:
    units = ["GiB", "MiB", "KiB", "B"]
    while number >= 1 << 10 and len(units) > 1:
        number /= 1 << 10
        units.pop()
    small = number < 10 and units[-1] != "B"
    return f"{number:.1f} {units[-1]}" if small else f"{number:,.0f} {units[-1]}"


def _took(micro: float) -> str:
    if micro < 1000:
        return f"{micro:.0f} us"
    return f"{micro / 1e3:.1f} ms" if micro < 1e6 else f"{micro / 1e6:,.1f} s"


def _age(seconds: float) -> str:
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    first = next((n for n, (size, _) in enumerate(units) if seconds >= size), 3)
    parts = []
    for size, unit in units[first : first + 2]:
        parts.append(f"{seconds // size:.0f} {unit}")
        seconds %= size
    return " ".join(parts)


# -- the terminal ---------------------------------------------------------------------------------


def page(where: str, path: str, kind: str, full: bool) -> None:
    """Print the page of format *kind*: its bytes, or what of them a terminal can show."""
    query, beginning = FORMATS[kind]
    body = fetch(where, path, "&".join(filter(None, (query, "full" if full else ""))), beginning)
    if sys.stdout.isatty():
        _tolerate()
        for line in body.decode("utf-8", "replace").rstrip("\n").split("\n"):
            sys.stdout.write(f"{printable(line)}\n")
    else:
        sys.stdout.buffer.write(body)
    sys.stdout.flush()


def once(where: str, path: str) -> None:
    """Print the pool's workers as plain lines."""
    picture = Picture(_tolerate())
    picture.take(ask(where, path), time.monotonic())
    for line in picture.lines():
        sys.stdout.write(f"{finish(line)}\n")
    sys.stdout.flush()


def live(where: str, path: str, interval: float) -> None:
    """Draw the pool until q or Ctrl-C, and ask it every *interval* seconds.

    Trouble at the first question is raised; later it is shown, and the pool asked again.
    """
    picture = Picture(_tolerate())
    picture.take(ask(where, path), time.monotonic())
    samples: list[tuple[dict[str, Any] | None, str, float]] = []
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)

    def keep_asking() -> None:
        # In a thread: keys and the window's size are answered while a pool takes its time.
        while True:
            time.sleep(interval)
            try:
                samples.append((ask(where, path), "", time.monotonic()))
            except (Trouble, ConfigurationError) as error:
                samples.append((None, str(error), time.monotonic()))
            _wake(writer)

    threading.Thread(target=keep_asking, daemon=True).start()
    note = f"every {interval:g} s, q ends"
    with contextlib.suppress(KeyboardInterrupt), _Screen(writer):
        while True:
            width, height = _size()
            drawn = [
                finish(line, width, colour="NO_COLOR" not in os.environ)
                for line in picture.lines(height, note)
            ]
            # In place, so that nothing flickers. What was there is erased before each line, not
            # behind it: behind a full line the cursor still stands on its last cell.
            drawn[-1] = f"\x1b[J{drawn[-1]}"
            sys.stdout.write("\x1b[H\x1b[K" + "\n\x1b[K".join(drawn))
            sys.stdout.flush()
            ready, _, _ = select.select([0, reader], [], [])
            if 0 in ready:
                keys = os.read(0, 64)
                if not keys or b"q" in keys or b"Q" in keys:
                    return
            if reader in ready:
                os.read(reader, 4096)
            while samples:
                status, picture.trouble, taken = samples.pop(0)
                if status is not None:
                    picture.take(status, taken)


class _Screen:
    """The terminal while something is drawn on all of it: second screen, no cursor, bare keys.

    A byte on *wake* says that it is to be drawn again.
    """

    def __init__(self, wake: int) -> None:
        self._wake = wake
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        self._open()
        for number, handler in (
            (signal.SIGWINCH, self._draw_again),
            (signal.SIGTSTP, self._suspend),
            (signal.SIGTERM, self._end),
            (signal.SIGHUP, self._end),
        ):
            self._before[number] = signal.signal(number, handler)
        # A signal right before the wait begins would be handled only after it: the byte ends it.
        self._woken = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)

    def __exit__(self, *error: object) -> None:
        signal.set_wakeup_fd(self._woken)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._close()

    def _open(self) -> None:
        import termios
        import tty

        self._mode = termios.tcgetattr(0)
        tty.setcbreak(0, termios.TCSANOW)
        sys.stdout.write("\x1b[?1049h\x1b[?25l")

    def _close(self) -> None:
        import termios

        try:
            sys.stdout.write("\x1b[?25h\x1b[?1049l")
            sys.stdout.flush()
            termios.tcsetattr(0, termios.TCSANOW, self._mode)
        except (OSError, termios.error):
            pass  # the terminal has gone

    def _draw_again(self, number: int, frame: FrameType | None) -> None:
        _wake(self._wake)

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        self._close()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._open()
        _wake(self._wake)

    def _end(self, number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)


def _wake(writer: int) -> None:
    try:
        os.write(writer, b".")
    except BlockingIOError:
        pass  # there is enough in it to wake anybody


def _size() -> tuple[int, int]:
    """Return the terminal's width and height in cells."""
    try:
        size = os.get_terminal_size(1)
    except OSError:
        return 80, 24
    return size.columns or 80, size.lines or 24


def _tolerate() -> str:
    """Make standard output take any text; return the two characters of a bar that it can show."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        "█░".encode(sys.stdout.encoding or "ascii")
    except (LookupError, UnicodeError):
        return "#."
    return "█░"
