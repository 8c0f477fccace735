"""The slow FastCGI codec, the judge of the fast one: written from the 1.0 specification as tables.

It shares nothing with the project but its vocabulary of events, and it takes one byte at a time,
so that no cut of the input can matter to it.
"""

from __future__ import annotations

from typing import Any

BEGIN, ABORT, END, PARAMS, STDIN, STDOUT, STDERR, DATA, GET_VALUES, RESULT, UNKNOWN = range(1, 12)

# What a record means, by the state of its request (S§3.3, S§6): (state, type, has content) ->
# (what is done, the next state). What is not here is an error of the peer.
RULES = {
    ("params", PARAMS, True): ("collect", "params"),
    ("params", PARAMS, False): ("dispatch", "stdin"),
    ("params", ABORT, False): ("give up", "over"),
    ("stdin", STDIN, True): ("body", "stdin"),
    ("stdin", STDIN, False): ("body ends", "data"),
    ("data", DATA, True): ("file", "data"),
    ("data", DATA, False): ("file ends", "complete"),
    **{(state, ABORT, False): ("abort", state) for state in ("stdin", "data", "complete")},
}
STATUS = {"busy": 1, "full": 2, "role": 3}


class Violation(Exception):
    """The peer broke the protocol: the connection is to be closed."""


def record(type: int, id: int, content: bytes = b"", padding: int = 0, version: int = 1) -> bytes:
    head = [version, type, id >> 8, id & 255, len(content) >> 8, len(content) & 255, padding, 0]
    return bytes(head) + content + b"\xaa" * padding


def end(id: int, status: int = 0, app_status: int = 0) -> bytes:
    """END_REQUEST, with the empty STDOUT before it that every accepted request has (S§3.3)."""
    streams = b"" if status else record(STDOUT, id)
    return streams + record(END, id, app_status.to_bytes(4, "big") + bytes((status, 0, 0, 0)))


def length(size: int, long: bool = False) -> bytes:
    return bytes((size,)) if size < 128 and not long else (size | 1 << 31).to_bytes(4, "big")


def pair(name: bytes, value: bytes, long: bool = False) -> bytes:
    return length(len(name), long) + length(len(value), long) + name + value


def pairs(block: bytes) -> list[tuple[str, str]]:
    found, text = [], list(block)
    while text:
        sizes = []
        for _ in "name", "value":
            if not text or (text[0] > 127 and len(text) < 4):
                raise Violation("cut length")
            octets = [text.pop(0) for _ in range(4 if text[0] > 127 else 1)]
            sizes.append(int.from_bytes(octets, "big") % (1 << 31))
        if sum(sizes) > len(text):
            raise Violation("cut pair")
        name, value = bytes(text[: sizes[0]]), bytes(text[sizes[0] : sum(sizes)])
        del text[: sum(sizes)]
        found.append((name.decode("latin-1"), value.decode("latin-1")))
    return found


def joined(found: list[tuple[str, str]]) -> dict[str, str]:
    """Duplicates: headers and what frames the request are joined, of the rest the last counts."""
    params: dict[str, str] = {}
    for name, value in found:
        if params.get(name, value) != value:
            if name == "HTTP_COOKIE":
                value = params[name] + "; " + value
            elif name.startswith("HTTP_") or name in ("CONTENT_LENGTH", "REQUEST_METHOD"):
                value = params[name] + ", " + value
        params[name] = value
    return params


class Oracle:
    """One connection: ``events``, ``answers`` and ``violated`` say what came of the bytes."""

    def __init__(self, multiplex: bool, max_requests: int, values: dict[bytes, bytes]) -> None:
        self.multiplex, self.max_requests, self.values = multiplex, max_requests, values
        self.events: list[tuple[Any, ...]] = []
        self.answers = b""
        self.violated = False
        self.active: dict[int, dict[str, Any]] = {}
        self.rest = b""

    def feed(self, data: bytes) -> None:
        for byte in data:
            if not self.violated:
                self.rest += bytes((byte,))
                try:
                    self._look()
                except Violation:
                    self.violated = True

    def end(self, id: int) -> None:
        self.active.pop(id, None)

    def _look(self) -> None:
        head = self.rest[:8]
        if len(head) == 8 and head[0] != 1:
            raise Violation("version")
        size = int.from_bytes(head[4:6], "big")
        if len(head) < 8 or len(self.rest) < 8 + size + head[6]:
            return
        content, self.rest = self.rest[8 : 8 + size], b""
        self._take(head[1], int.from_bytes(head[2:4], "big"), content)

    def _take(self, type: int, id: int, content: bytes) -> None:
        if id == 0:
            self._manage(type, content)
        elif type == BEGIN:
            self._begin(id, content)
        elif id in self.active:
            request = self.active[id]
            # An abort's content means nothing; it has none by the specification.
            if type == DATA and request["role"] != 3 and not content:
                return  # its end, from clients that end it whether or not there is one
            rule = RULES.get((request["state"], type, bool(content) and type != ABORT))
            if rule is None or (type == DATA and request["role"] != 3):
                raise Violation(f"type {type} while {request['state']}")
            request["state"] = rule[1]
            self._act(rule[0], id, request, content)

    def _manage(self, type: int, content: bytes) -> None:
        if type == GET_VALUES:
            asked = dict.fromkeys(name.encode("latin-1") for name, _ in pairs(content))
            known = [pair(name, self.values[name]) for name in asked if name in self.values]
            self.answers += record(RESULT, 0, b"".join(known))
        elif 1 <= type <= UNKNOWN:
            raise Violation(f"type {type} with id 0")
        else:
            self.answers += record(UNKNOWN, 0, bytes((type, 0, 0, 0, 0, 0, 0, 0)))

    def _begin(self, id: int, content: bytes) -> None:
        if len(content) != 8 or id in self.active:
            raise Violation("BEGIN_REQUEST")
        role = content[0] << 8 | content[1]
        unfinished = sum(r["state"] == "params" for r in self.active.values())
        if self.active and not self.multiplex:
            self.answers += end(id, STATUS["busy"])
        elif len(self.active) >= self.max_requests or unfinished >= 64:
            self.answers += end(id, STATUS["full"])
        elif role not in (1, 2, 3):
            self.answers += end(id, STATUS["role"])
        else:
            self.active[id] = {"role": role, "state": "params", "block": b"", "left": None}

    def _act(self, action: str, id: int, request: dict[str, Any], content: bytes) -> None:
        if action == "collect":
            request["block"] += content
            if len(request["block"]) > 1 << 20:
                self.answers += end(id, STATUS["full"])
                self.end(id)
        elif action == "dispatch":
            params = joined(pairs(request["block"]))
            text = params.get("CONTENT_LENGTH", "")
            if text and set(text) <= set("0123456789") and len(text) < 20:
                request["left"] = int(text)
            self.events.append(("request", id, request["role"], params))
        elif action == "body":
            if request["left"] is not None:
                content = content[: request["left"]]
                request["left"] -= len(content)
            if content:
                self.events.append(("stdin", id, content))
        elif action == "body ends":
            self.events.append(("stdin ends", id, bool(request["left"])))
        elif action in ("file", "file ends"):
            self.events.append(("data", id, content))
        elif action == "abort":
            self.events.append(("abort", id))
        else:  # given up before the application has heard of it
            self.answers += end(id)
            self.end(id)
