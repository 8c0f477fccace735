"""A client that sends bytes as they are, and says where a server's answers are not as expected.

A :class:`Case` is a list of pieces to send and the answers to come; :func:`run` plays it.  What
happens to the connection afterwards is found out without waiting: a further request, the probe,
asks for a path of its own and for the end of the connection.  It is answered on a connection that
was kept and in step; a closed one ends.  So time matters only where a server is silent though an
answer is due.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Address = str | tuple[str, int]
"""A Unix socket's path, or host and port."""

PATIENCE = 5.0
"""Seconds of silence, while an answer is due, after which the client closes its side."""
DEADLINE = 20.0
"""Seconds for a whole case."""
BREATH = 0.004
"""Seconds between two pieces: enough, mostly, for a server to see them apart."""

PROBE = "/is-it-kept"
_PROBE = b"GET /is-it-kept HTTP/1.1\r\nHost: h.test\r\nConnection: close\r\n\r\n"

NOTHING = 0
"""In :attr:`Answer.statuses`: the connection may be closed without an answer."""
CLOSING = frozenset((400, 408, 413, 414, 431, 501, 505))
"""Statuses after which nothing that follows may be read as a request."""


@dataclass(frozen=True)
class Seen:
    """What the application must have been given; None where anything will do."""

    method: str
    uri: str | None
    path: str | None
    query: str | None = ""
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of the environ's HTTP_*: white space around commas does not count."""
    absent: tuple[str, ...] = ()
    """HTTP_* variables that may not be there."""


@dataclass(frozen=True)
class Answer:
    """One final response: what is allowed."""

    statuses: tuple[int, ...]
    seen: Seen | None = None
    """Checked for status 200 alone. None for a response that is not the echo."""
    close: bool | None = None
    """Whether the connection ends with it; None for either, except after CLOSING statuses."""
    head: bool = False
    """The request is a HEAD, so that no body follows."""
    interim: bool | None = None
    """Whether 100 must come before it (True), must not (False), or may (None)."""
    fields: tuple[tuple[str, str], ...] = ()
    """Fields that the response must have, names and values in lower case."""


Piece = bytes | None


@dataclass(frozen=True)
class Case:
    """One conversation: what is sent, and the answers."""

    id: str
    kind: str
    """Its class, as in docs/hostile-requests.md."""
    pieces: tuple[Piece, ...]
    """What is sent. None stands for waiting until the server says 100 or answers."""
    answers: tuple[Answer, ...]
    half_close: bool = False
    """The client closes its side at the end, and there is no probe."""


@dataclass
class Response:
    """A response that came."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes = b""
    interim: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """What is wrong with its own syntax."""

    def get(self, name: str) -> str | None:
        """The first field of that name, in lower case."""
        for key, value in self.fields:
            if key == name:
                return value
        return None

    def echo(self) -> dict[str, Any] | None:
        """What the application told, None when it is not its answer."""
        if self.status != 200 or self.get("content-type") != "application/json":
            return None
        try:
            found = json.loads(self.body)
        except ValueError:
            return None
        return found if isinstance(found, dict) else None


@dataclass
class Transcript:
    """All that came on the connection of a case."""

    responses: list[Response]
    """Without the probe's."""
    kept: bool
    """The probe was answered."""
    end: str
    """``closed``, ``reset``, or ``silent``: nothing came though the client had closed its side."""
    silent: bool
    """An answer was due and did not come in time."""


_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9]) [\t\x20-\x7e\x80-\xff]*")
_FIELD = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*((?:[\t\x20-\x7e\x80-\xff]*[^ \t])?)[ \t]*"
)
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t\x20-\x7e]*)?")


class _Connection:
    """A socket with what was read of it; reading never raises."""

    def __init__(self, address: Address, patience: float) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family)
        self.patience = patience
        self.until = time.monotonic() + DEADLINE
        self.data = b""
        self.end = ""
        self.silent = False
        self.socket.settimeout(patience)
        try:
            self.socket.connect(address)
        except BaseException:
            self.socket.close()
            raise
        if family == socket.AF_INET:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data: bytes) -> None:
        # A server may have answered and closed long before it was told everything.
        with contextlib.suppress(OSError):
            self.socket.sendall(data)

    def half_close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def more(self) -> bool:
        """Read what comes next; False at the end."""
        while not self.end:
            left = self.until - time.monotonic()
            self.socket.settimeout(max(0.01, min(self.patience, left)))
            try:
                block = self.socket.recv(65536)
            except TimeoutError:
                if self.silent or left <= 0:
                    self.end = "silent"
                self.silent = True
                self.half_close()
                continue
            except OSError:
                self.end = "reset"
                break
            if block:
                self.data += block
                return True
            self.end = "closed"
        return False

    def find(self, mark: bytes) -> bool:
        """Read until *mark* is there."""
        while mark not in self.data:
            if not self.more():
                return False
        return True

    def take(self, size: int) -> bytes:
        """Return *size* bytes, fewer at the end."""
        while len(self.data) < size and self.more():
            pass
        found, self.data = self.data[:size], self.data[size:]
        return found

    def line(self) -> bytes | None:
        """Return what is before the next CRLF, None when none comes."""
        if not self.find(b"\r\n"):
            return None
        found, _, self.data = self.data.partition(b"\r\n")
        return found

    # -- responses

    def await_interim(self) -> list[int]:
        """Wait for a response's head; take it when it is an interim one."""
        if self.find(b"\r\n\r\n") and re.match(rb"HTTP/1\.1 1[0-9][0-9] ", self.data):
            head, _, self.data = self.data.partition(b"\r\n\r\n")
            return [int(head[9:12])]
        return []

    def response(self, head_only: bool, interim: list[int]) -> Response | None:
        """Read a final response, None when the connection ends before it."""
        while True:
            if not self.data and not self.more():
                return None
            if not self.find(b"\r\n\r\n") or _STATUS.match(self.data.split(b"\r\n", 1)[0]) is None:
                # HTTP/0.9, or rubbish: all of it is one response.
                while self.more():
                    pass
                body, self.data = self.data, b""
                return Response(-1, [], body, interim, [f"no head of HTTP/1: {body[:60]!r}"])
            head, _, self.data = self.data.partition(b"\r\n\r\n")
            response = _read_head(head)
            if response.status >= 200:
                break
            interim = [*interim, response.status]
        response.interim = interim
        if not head_only and response.status not in (204, 304):
            self._body(response)
        return response

    def _body(self, response: Response) -> None:
        lengths = [value for name, value in response.fields if name == "content-length"]
        codings = [value for name, value in response.fields if name == "transfer-encoding"]
        if codings:
            if codings != ["chunked"] or lengths:
                response.faults.append(f"framed by {codings} and {lengths}")
            response.body = self._chunked(response.faults)
        elif lengths:
            if len(lengths) > 1 or re.fullmatch("[0-9]{1,12}", lengths[0]) is None:
                response.faults.append(f"Content-Length {lengths}")
                return
            response.body = self.take(int(lengths[0]))
            if len(response.body) < int(lengths[0]):
                response.faults.append("the body is short")
        else:
            while self.more():
                pass
            response.body, self.data = self.data, b""

    def _chunked(self, faults: list[str]) -> bytes:
        body = b""
        while True:
            line = self.line()
            found = None if line is None else _SIZE.fullmatch(line)
            if found is None:
                faults.append(f"size of a chunk: {line!r}")
                return body
            size = int(found[1], 16)
            if not size:
                break
            chunk = self.take(size + 2)
            body += chunk[:-2]
            if chunk[-2:] != b"\r\n" or len(chunk) != size + 2:
                faults.append("a chunk has no end")
                return body
        while line := self.line():
            if _FIELD.fullmatch(line) is None:
                faults.append(f"trailer {line!r}")
        if line is None:
            faults.append("no end after the last chunk")
        return body


def _read_head(head: bytes) -> Response:
    first, *rest = head.split(b"\r\n")
    status = _STATUS.fullmatch(first)
    response = Response(int(first[9:12]), [])
    if status is None:
        response.faults.append(f"status line {first!r}")
    for line in rest:
        found = _FIELD.fullmatch(line)
        if found is None:
            response.faults.append(f"field {line!r}")
            continue
        value = found[2].strip(b" \t").decode("latin-1")
        response.fields.append((found[1].decode().lower(), value.lower()))
    return response


def converse(address: Address, case: Case, patience: float = PATIENCE) -> Transcript:
    """Send a case's pieces and read all that comes, until the connection has ended."""
    connection = _Connection(address, patience)
    try:
        return _converse(connection, case)
    finally:
        connection.socket.close()


def _converse(connection: _Connection, case: Case) -> Transcript:
    interim: list[int] = []
    for number, piece in enumerate(case.pieces):
        if piece is None:
            interim += connection.await_interim()
            if not interim:
                break  # A final answer, or the end: what would follow is not wanted.
            continue
        if number:
            time.sleep(BREATH)
        connection.send(piece)
    if case.half_close:
        connection.half_close()
    responses: list[Response] = []
    for answer in case.answers:
        response = connection.response(answer.head, interim)
        if response is None:
            break
        responses.append(response)
        interim = []
    silent = connection.silent
    if not case.half_close and not connection.end:
        connection.send(_PROBE)
    kept = False
    while (response := connection.response(False, [])) is not None:
        echo = response.echo()
        if echo is not None and echo.get("path") == PROBE and not kept:
            kept = True
        else:
            responses.append(response)
    return Transcript(responses, kept, connection.end, silent)


def run(address: Address, case: Case, patience: float = PATIENCE) -> list[str]:
    """Play *case* to the server at *address*; return where it deviates, empty when it conforms."""
    return deviations(case, converse(address, case, patience))


def deviations(case: Case, transcript: Transcript) -> list[str]:
    """Compare what came with what a case expects."""
    found = []
    if transcript.silent:
        found.append("an answer was due, and nothing came")
    came = transcript.responses
    for number, answer in enumerate(case.answers, 1):
        if number > len(came):
            if NOTHING not in answer.statuses:
                found.append(f"answer {number}: none, the connection was {transcript.end}")
            return found
        found += [f"answer {number}: {text}" for text in _compare(answer, came[number - 1])]
    found += [f"further answer: {_short(extra)}" for extra in came[len(case.answers) :]]
    if not case.half_close and case.answers:
        last = case.answers[-1]
        close = last.close
        if close is None and came[len(case.answers) - 1].status in CLOSING:
            close = True
        if close and transcript.kept:
            found.append("the connection was kept")
        if close is False and not transcript.kept:
            found.append(f"the connection was {transcript.end}")
    return found


def _short(response: Response) -> str:
    echo = response.echo()
    return str(response.status) if echo is None else f"200 for {echo.get('uri')!r:.60}"


def _compare(answer: Answer, response: Response) -> list[str]:
    found = list(response.faults)
    if response.status not in answer.statuses:
        return [*found, f"{_short(response)} instead of {answer.statuses}"]
    if answer.interim is not None and answer.interim is not (100 in response.interim):
        found.append("100 came" if response.interim else "100 did not come")
    for name, value in answer.fields:
        if response.get(name) != value:
            found.append(f"{name} is {response.get(name)!r}, not {value!r}")
    if response.status == 200 and answer.seen is not None and not answer.head:
        echo = response.echo()
        if echo is None:
            found.append(f"not the application's answer: {response.body[:60]!r}")
        else:
            found += _compare_seen(answer.seen, echo)
    return found


def _compare_seen(seen: Seen, echo: dict[str, Any]) -> list[str]:
    found = []
    for name in ("method", "uri", "path", "query"):
        wanted = getattr(seen, name)
        if wanted is not None and echo.get(name) != wanted:
            found.append(f"{name} is {echo.get(name)!r:.80}, not {wanted!r:.80}")
    body = bytes.fromhex(echo.get("body", ""))
    if body != seen.body:
        found.append(f"body is {len(body)} bytes {body[:40]!r}, not {seen.body[:40]!r}")
    headers = echo.get("headers", {})
    for name, value in seen.headers.items():
        given = headers.get(name)
        if given is None or _list(given) != _list(value):
            found.append(f"{name} is {given!r:.60}, not {value!r:.60}")
    found += [f"{name} is there: {headers[name]!r:.60}" for name in seen.absent if name in headers]
    return found


def _list(value: str) -> str:
    return re.sub(r"[ \t]*,[ \t]*", ",", value)
