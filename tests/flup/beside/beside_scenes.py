"""What a single request does not show: signals, sockets, descriptor 0, records, hooks, names.

A scene is a function that does something with the program of one side and returns what was seen.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import beside_wire as wire
from beside_cases import PLAIN, SERVERS, Differs, Server
from beside_sides import FLUP, Both, Program
from fastcgi_client import Client

Scene = Callable[[Both, str], Any]
SCENES: dict[str, tuple[Scene, Differs | None]] = {}


def scene(id: str = "", flup: Any = None, shim: Any = None) -> Callable[[Scene], Scene]:
    """Enter a scene; with an *id* the two sides differ, and show *flup* and *shim*."""

    def enter(function: Scene) -> Scene:
        differs = Differs(id, flup, shim) if id else None
        SCENES[function.__name__.replace("_", " ")] = function, differs
        return function

    return enter


def ask(program: Program, server: Server, app: str, body: bytes = b"", **options: Any) -> wire.Seen:
    """Make one request to *program*."""
    call: Any = {"fcgi": wire.fastcgi, "scgi": wire.scgi, "ajp": wire.ajp}[server.protocol]
    seen: wire.Seen = call(program.address, app, body, **options)
    return seen


def wait(program: Program, *, poke: bool = False) -> str:
    """Return how *program* ended; with *poke*, connect now and then until it has."""

    def ended() -> str | None:
        if poke:
            family = socket.AF_UNIX if isinstance(program.address, str) else socket.AF_INET
            with socket.socket(family) as probe:
                probe.connect_ex(program.address)
        return program.ended()

    found: str = wire.until(ended, "its end")
    return found


def settle(program: Program) -> None:
    """Wait until the main process has had nothing to do for a while."""
    stat = Path(f"/proc/{program.process.pid}/stat")
    before, same = "", 0

    def still() -> bool:
        nonlocal before, same
        now = stat.read_text().rpartition(")")[2]
        same = same + 1 if now == before and now.split()[0] == "S" else 0
        before = now
        return same >= 15

    wire.until(still, "rest")


# -- run(), by signals


def signalled(module: str, number: int) -> Scene:
    """Return a scene: a server that has answered gets a signal."""
    server = Server(module, tcp=module.startswith("ajp"))

    def function(both: Both, side: str) -> str:
        program = both.start(side, server)
        try:
            program.ready()
            assert ask(program, server, "one_block").body == b"hello"
            program.process.send_signal(number)
            return wait(program, poke=side == FLUP)
        finally:
            program.end()

    return function


for _module in PLAIN:
    for _number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        SCENES[f"{_module} ends by {_number.name}"] = signalled(_module, _number), None


@scene("signal-waits", "still there", "returned False, exit 0")
def an_idle_fork_server_gets_TERM(both: Both, side: str) -> str:
    server = Server("fcgi_fork")
    program = both.start(side, server)
    try:
        program.ready()
        assert ask(program, server, "one_block").body == b"hello"
        settle(program)
        program.process.send_signal(signal.SIGTERM)
        try:
            program.process.wait(1.0 if side == FLUP else 20)
        except subprocess.TimeoutExpired:
            return "still there"
        return program.ended() or ""
    finally:
        program.end()


def finished(module: str) -> Scene:
    """Return a scene: a signal comes while a request waits for the rest of its body."""

    def function(both: Both, side: str) -> list[Any]:
        program = both.start(side, Server(module))
        try:
            program.ready()
            with Client(program.address) as client:
                client.socket.settimeout(wire.SECONDS)
                client.begin(HTTP_TEST_APP="body", REQUEST_METHOD="POST", CONTENT_LENGTH="5")
                client.stdin(b"01")
                settle(program)
                program.process.send_signal(signal.SIGTERM)
                if side == FLUP and module == "fcgi_fork":
                    can_connect(program)  # or it would not look at its signals
                settle(program)
                client.stdin(b"234")
                client.stdin(b"")
                body = client.answer().body
            return [body, wait(program, poke=side == FLUP)]
        finally:
            program.end()

    return function


for _module in ("fcgi", "fcgi_fork", "fcgi_single"):
    SCENES[f"{_module} ends while a request runs"] = finished(_module), None


@scene()
def the_periodic_hook_ends_it(both: Both, side: str) -> str:
    program = both.start(side, Server("fcgi", {"how": ["periodic"]}))
    try:
        return wait(program)
    finally:
        program.end()


@scene()
def the_handler_of_HUP_is_overridden(both: Both, side: str) -> tuple[str, bool]:
    program = both.start(side, Server("fcgi", {"how": ["hup"]}))
    try:
        program.ready()
        program.process.send_signal(signal.SIGHUP)
        return wait(program), "beside: hup" in program.text
    finally:
        program.end()


@scene("off-main-thread", (False, "raised ValueError, exit 0"), (True, "killed"))
def run_off_the_main_thread(both: Both, side: str) -> tuple[bool, str]:
    server = Server("fcgi", {"how": ["thread"]})
    program = both.start(side, server)
    try:
        if side == FLUP:
            return False, wait(program)
        program.ready()
        return ask(program, server, "one_block").body == b"hello", "killed"
    finally:
        program.end()


# -- sockets


@scene()
def the_socket_file_stays(both: Both, side: str) -> bool:
    program = both.start(side, Server("fcgi"))
    try:
        program.ready()
        program.process.send_signal(signal.SIGTERM)
        wait(program)
        return os.path.exists(program.address)
    finally:
        program.end()


@scene()
def umask_is_the_sockets_mode(both: Both, side: str) -> list[str]:
    found = []
    for module in ("fcgi", "fcgi_fork", "scgi"):
        program = both.start(side, Server(module, {"umask": 0o017}))
        try:
            program.ready()
            found.append(oct(stat.S_IMODE(os.stat(program.address).st_mode)))
        finally:
            program.end()
    return found


@scene()
def without_umask_the_process_has_its_say(both: Both, side: str) -> str:
    program = both.start(side, Server("fcgi"), umask=0o022)
    try:
        program.ready()
        return oct(stat.S_IMODE(os.stat(program.address).st_mode))
    finally:
        program.end()


@scene("live-socket", "taken over", "refused")
def the_socket_of_a_living_server(both: Both, side: str) -> str:
    server = Server("fcgi")
    first = both.start(side, server)
    try:
        first.ready()
        before = os.stat(first.address).st_ino
        second = both.start(side, server, address=first.address)
        try:
            wire.until(
                lambda: (
                    second.process.poll() is not None
                    or (os.path.exists(first.address) and os.stat(first.address).st_ino != before)
                ),
                "the second server",
            )
            return "taken over" if second.process.poll() is None else "refused"
        finally:
            second.end()
    finally:
        first.end()


@scene()
def a_socket_left_over_is_replaced(both: Both, side: str) -> bytes:
    server = Server("fcgi")
    first = both.start(side, server)
    first.ready()
    first.end()
    assert os.path.exists(first.address)
    second = both.start(side, server, address=first.address)
    try:
        second.ready()
        return ask(second, server, "one_block").body
    finally:
        second.end()


def taken_port(module: str) -> Scene:
    """Return a scene: the port is somebody else's."""

    def function(both: Both, side: str) -> str:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            program = both.start(side, Server(module, tcp=True), address=other.getsockname())
            try:
                return wait(program)
            finally:
                program.end()

    return function


SCENES["fcgi: the port is taken"] = taken_port("fcgi"), None
SCENES["scgi: the port is taken"] = (
    taken_port("scgi"),
    Differs("bind-error", "raised TypeError, exit 1", "raised OSError, exit 1"),
)
SCENES["ajp: the port is taken"] = (
    taken_port("ajp"),
    Differs("bind-error", "raised TypeError, exit 1", "raised OSError, exit 1"),
)


@scene("ajp-address", "runs", "ConfigurationError")
def AJP_where_others_can_reach_it(both: Both, side: str) -> str:
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        address = ("0.0.0.0", held.getsockname()[1])
        return made_one(both, side, "ajp", {}, address).rpartition(".")[2]


# -- descriptor 0


@scene()
def descriptor_0_listens(both: Both, side: str) -> tuple[str, bytes, str]:
    """A spawner (spawn-fcgi, Apache's mod_fcgid) gives the listening socket."""
    server = Server("fcgi")
    directory = both.fresh()
    directory.mkdir()
    path = str(directory / "given")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        program = both.start(side, server, stdin=listening)
    program.address = path
    try:
        seen = ask(program, server, "complains")
        program.process.send_signal(signal.SIGTERM)
        return seen.end, seen.body, wait(program)
    finally:
        program.end()


def as_cgi(module: str, options: dict[str, Any], app: str, **more: Any) -> Scene:
    """Return a scene: the program is started as a CGI program."""

    def function(both: Both, side: str) -> dict[str, Any]:
        directory = both.fresh()
        directory.mkdir()
        seen = wire.cgi(
            both.which[side], module, directory / "result", json.dumps(options), app, **more
        )
        return {"status": seen.status, "headers": seen.headers, "body": seen.body, "end": seen.end}

    return function


def _nothing(why: str) -> dict[str, Any]:
    return {"status": "", "headers": [], "body": b"", "end": f"exit 1, {why}"}


_HELLO = {
    "status": "200 OK",
    "headers": [("Content-Type", "text/plain"), ("Content-Length", "5")],
    "body": b"hello",
    "end": "exit 0, raised SystemExit 0",
}
_PLAIN = {
    **_HELLO,
    "headers": [("Content-Type", "text/plain")],
    "end": "exit 0, returned None",
}
# The head has gone before the first block fails.
_CUT = {
    "status": "200 OK",
    "headers": [("Content-Type", "text/plain")],
    "body": b"",
    "end": "exit 1, raised TypeError",
}
_TYPE = {
    "status": "200 OK",
    "headers": [("Content-Type", "text/plain"), ("Content-Length", "7")],
    "body": b"'bytes'",
    "end": "exit 0, returned None",
}
SCENES["CGI without being told, standard input a pipe"] = (
    as_cgi("fcgi", {}, "one_block"),
    Differs("cgi-unrecognised", _nothing("raised OSError"), _HELLO),
)
SCENES["CGI by FCGI_FORCE_CGI"] = (
    as_cgi("fcgi", {}, "one_block", given={"FCGI_FORCE_CGI": "Y"}),
    None,
)
SCENES["CGI under fcgi_fork"] = as_cgi("fcgi_fork", {"forceCGI": True}, "one_block"), None
SCENES["CGI under fcgi_single"] = as_cgi("fcgi_single", {"forceCGI": True}, "one_block"), None
SCENES["flup.server.cgi, a str block"] = (
    as_cgi("cgi", {}, "str_block"),
    Differs("cgi-length", _PLAIN, {**_HELLO, "end": "exit 0, returned None"}),
)
SCENES["flup.server.cgi, a bytes block"] = (
    as_cgi("cgi", {}, "one_block"),
    Differs("cgi-bytes", _CUT, {**_HELLO, "end": "exit 0, returned None"}),
)
SCENES["flup.server.cgi, a body"] = (
    as_cgi("cgi", {}, "body_type", body=b"0123456789"),
    Differs("cgi-bytes", _CUT, _TYPE),
)


@scene("cgi-connection", ", exit 1, raised OSError", "200 OK, exit 0, raised SystemExit 0")
def descriptor_0_is_a_connection(both: Both, side: str) -> str:
    """Apache's mod_cgid gives a CGI program a connected socket as standard input."""
    directory = both.fresh()
    directory.mkdir()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"0123456789")
        ours.shutdown(socket.SHUT_WR)
        seen = wire.cgi(
            both.which[side],
            "fcgi",
            directory / "result",
            "{}",
            "one_block",
            stdin=theirs,
            seconds=5.0,
        )
    return f"{seen.status}, {seen.end}"


# -- FastCGI's records


def pairs(**names: str) -> bytes:
    """Encode short names and values."""
    return b"".join(bytes((len(n), len(v))) + n.encode() + v.encode() for n, v in names.items())


def record(kind: int, data: bytes = b"", id: int = 1) -> bytes:
    """Return one record."""
    return struct.pack("!BBHHBx", 1, kind, id, len(data), 0) + data


def begin(role: int = 1, flags: int = 0, id: int = 1) -> bytes:
    """Return BEGIN_REQUEST."""
    return record(1, struct.pack("!HB5x", role, flags), id)


def parameters(app: str) -> bytes:
    """Return the parameters of a usual request."""
    return pairs(**wire.variables(app, b"", {}))


def records(address: Any, data: bytes, until: Callable[[Client], bool]) -> Client:
    """Send raw records; return the client when *until* holds or the connection has ended."""
    with Client(address) as client:
        client.socket.settimeout(2.0)
        for id in (1, 2):
            client.codec.begin(id, [])
            client.answers[id] = type(client.answers.setdefault(0, wire.Answer()))()
        client.socket.sendall(data)
        try:
            while not until(client) and client.receive():
                pass
        except TimeoutError:
            client.answers[0].stderr = b"nothing more"
        return client


def all_of(*ids: int) -> Callable[[Client], bool]:
    """Tell whether these requests have ended."""
    return lambda client: all(client.answers[id].ended for id in ids)


@scene("get-values", [], ["FCGI_MAX_CONNS", "FCGI_MAX_REQS", "FCGI_MPXS_CONNS"])
def GET_VALUES(both: Both, side: str) -> list[str]:
    address = both.program(side, "fcgi").address
    asked = pairs(FCGI_MAX_CONNS="", FCGI_MAX_REQS="", FCGI_MPXS_CONNS="")
    client = records(address, record(9, asked, 0), lambda c: bool(c.answers[0].values) or c.eof)
    return sorted(name.decode() for name in client.answers[0].values)


@scene("split-parameters", "500 Internal Server Error", "200 OK")
def parameters_cut_in_two_records(both: Both, side: str) -> str:
    data = parameters("one_block")
    sent = begin() + record(4, data[:31]) + record(4, data[31:]) + record(4) + record(5)
    client = records(both.program(side, "fcgi").address, sent, all_of(1))
    return read(client, 1).status


def read(client: Client, id: int) -> wire.Seen:
    """Return what came for a request."""
    answer = client.answers[id]
    return wire.read_head(answer.stdout, wire.end_of(answer), "")


@scene()
def parameters_in_records_that_end_between_them(both: Both, side: str) -> bytes:
    names = wire.variables("one_block", b"", {})
    sent = begin() + b"".join(record(4, pairs(**{n: v})) for n, v in names.items())
    sent += record(4) + record(5)
    return read(records(both.program(side, "fcgi").address, sent, all_of(1)), 1).body


@scene()
def a_connection_is_kept(both: Both, side: str) -> tuple[list[bytes], bool]:
    found = []
    with Client(both.program(side, "fcgi").address) as client:
        client.socket.settimeout(wire.SECONDS)
        for id in (1, 1, 7):
            client.send(id, keep=True, HTTP_TEST_APP="one_block")
            found.append(client.answer(id).body)
        client.send(2, HTTP_TEST_APP="one_block")
        found.append(client.answer(2).body)
        while client.receive():
            pass
    return found, client.eof


@scene()
def a_second_request_at_a_time(both: Both, side: str) -> str:
    """It is refused by a server that does not multiplex."""
    sent = begin() + begin(id=2)
    return read(records(both.program(side, "fcgi").address, sent, all_of(2)), 2).end


@scene()
def requests_side_by_side_when_multiplexed(both: Both, side: str) -> list[bytes]:
    data = parameters("one_block")
    sent = begin() + begin(id=2) + record(4, data, 2) + record(4, data) + record(4, b"", 2)
    sent += record(4) + record(5) + record(5, b"", 2)
    client = records(both.program(side, "fcgi multiplexed").address, sent, all_of(1, 2))
    return [read(client, id).body for id in (1, 2)]


@scene()
def a_management_record_that_is_unknown(both: Both, side: str) -> bytes:
    sent = record(77, b"", 0)
    client = records(
        both.program(side, "fcgi").address, sent, lambda c: bool(c.answers[0].stderr) or c.eof
    )
    return client.answers[0].stderr


@scene("abort", b"nothing more", b"ended")
def an_abort_while_the_body_is_awaited(both: Both, side: str) -> bytes:
    names = {**wire.variables("body", b"", {}), "CONTENT_LENGTH": "10", "REQUEST_METHOD": "POST"}
    sent = begin() + record(4, pairs(**names)) + record(4) + record(5, b"01234") + record(2)
    client = records(both.program(side, "fcgi").address, sent, all_of(1))
    return b"ended" if client.answers[1].ended or client.eof else client.answers[0].stderr


@scene()
def records_of_no_request(both: Both, side: str) -> bytes:
    """Left-overs of a request that has ended are ignored."""
    data = parameters("one_block")
    sent = (
        record(5, b"x", 9) + record(4, b"", 9) + begin() + record(4, data) + record(4) + record(5)
    )
    return read(records(both.program(side, "fcgi").address, sent, all_of(1)), 1).body


# -- concurrency and processes


def two_at_once(name: str) -> Scene:
    """Return a scene: two requests that wait for each other."""

    def function(both: Both, side: str) -> list[bytes]:
        program, found = both.program(side, name), []

        def one() -> None:
            found.append(ask(program, SERVERS[name], "together").body)

        threads = [threading.Thread(target=one) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return found

    return function


for _name in ("fcgi", "fcgi locked", "fcgi multiplexed", "scgi", "scgi locked"):
    SCENES[f"{_name}: two at once"] = two_at_once(_name), None


@scene()
def a_child_serves_maxRequests(both: Both, side: str) -> list[int]:
    server = Server("scgi_fork", {"maxRequests": 2, "minSpare": 1, "maxSpare": 1, "maxChildren": 1})
    program = both.start(side, server)
    try:
        program.ready()
        # The probe of ready() is a connection without a request.
        pids = [ask(program, server, "pid").body for _ in range(4)]
    finally:
        program.end()
    most = max(pids.count(pid) for pid in pids)
    return [most, len(set(pids)) >= 2]


@scene("children-grow", "no answer", "hello")
def a_child_more_when_the_only_one_is_busy(both: Both, side: str) -> str:
    server = Server("fcgi_fork", {"minSpare": 1, "maxSpare": 1, "maxChildren": 3})
    program = both.start(side, server)
    try:
        program.ready()
        with Client(program.address) as busy:
            busy.begin(HTTP_TEST_APP="body", REQUEST_METHOD="POST", CONTENT_LENGTH="5")
            # Whoever has the request reads; it is an answer of nobody's that shows it.
            settle(program)
            with Client(program.address) as other:
                other.socket.settimeout(1.0 if side == FLUP else wire.SECONDS)
                other.send(HTTP_TEST_APP="one_block")
                try:
                    return read_body(other)
                except TimeoutError:
                    return "no answer"
    finally:
        program.end()


def read_body(client: Client) -> str:
    """Return the body that comes for request 1."""
    return client.answer().body.decode()


@scene("threads-exhausted", "cut", "0/0")
def a_request_more_than_threads(both: Both, side: str) -> str:
    server = Server("fcgi", {"minSpare": 1, "maxSpare": 1, "maxThreads": 1})
    program = both.start(side, server)
    try:
        program.ready()
        with Client(program.address) as busy:
            # flup's one thread is free again when it has seen the end of ready()'s connection.
            settle(program)
            busy.begin(HTTP_TEST_APP="body", REQUEST_METHOD="POST", CONTENT_LENGTH="5")
            settle(program)
            with Client(program.address) as other:
                other.socket.settimeout(wire.SECONDS)
                other.answers[1] = wire.Answer()
                try:
                    other.send(HTTP_TEST_APP="one_block")
                    if side != FLUP:
                        busy.stdin(b"12345")
                        busy.stdin(b"")
                    return wire.end_of(other.answer())
                except (BrokenPipeError, ConnectionResetError):
                    return "cut"
    finally:
        program.end()


@scene("usr1", "raised TypeError, exit 1", "other children")
def children_are_purged_by_USR1(both: Both, side: str) -> str:
    server = Server("fcgi_fork", {"minSpare": 1, "maxSpare": 1, "maxChildren": 1})
    program = both.start(side, server)
    try:
        program.ready()
        before = wire.until(program.children, "a child")
        settle(program)
        program.process.send_signal(signal.SIGUSR1)
        if side == FLUP:
            return wait(program, poke=True)
        wire.until(lambda: program.children() and not {*program.children()} & {*before}, "others")
        assert ask(program, server, "one_block").body == b"hello"
        return "other children"
    finally:
        program.end()


# -- the constructor


def made(*arguments: tuple[str, dict[str, Any]]) -> Scene:
    """Return a scene: whether constructors take what they are given, or what they raise."""

    def function(both: Both, side: str) -> list[str]:
        return [made_one(both, side, module, options) for module, options in arguments]

    return function


def made_one(
    both: Both, side: str, module: str, options: dict[str, Any], address: Any = None
) -> str:
    """Return "runs", or the class of the error."""
    server = Server(module, options, tcp=module.startswith("ajp"))
    program = both.start(side, server, address=address)
    try:
        if fate(program):
            return "runs"
        # Its texts are each side's own.
        return program.text.strip().splitlines()[-1].partition(":")[0]
    finally:
        program.end()


def fate(program: Program) -> bool:
    """Wait until *program* listens or has ended; tell whether it listens."""
    wire.until(lambda: program.process.poll() is not None or can_connect(program), "its fate")
    return program.process.poll() is None


def can_connect(program: Program) -> bool:
    """Tell whether *program* listens."""
    family = socket.AF_UNIX if isinstance(program.address, str) else socket.AF_INET
    with socket.socket(family) as probe:
        return probe.connect_ex(program.address) == 0


SCENES["pool sizes that make no sense"] = (
    made(
        ("fcgi_fork", {"minSpare": 0}),
        ("scgi_fork", {"minSpare": 5, "maxSpare": 2}),
        ("ajp_fork", {"sockTimeout": -1}),
        ("fcgi_fork", {"sockTimeout": "5"}),
    ),
    None,
)
SCENES["keywords that are dropped"] = (
    made(
        ("fcgi", {"jobClass": None, "jobArgs": []}),
        ("fcgi_fork", {"multithreaded": True, "multiprocess": False, "jobClass": None}),
        ("fcgi_single", {"minSpare": 1, "maxThreads": 3, "whatever": 1}),
    ),
    None,
)
SCENES["pool sizes are taken"] = (
    made(
        ("fcgi", {"minSpare": 1, "maxSpare": 2, "maxThreads": 3}),
        ("fcgi_fork", {"minSpare": 1, "maxSpare": 2, "maxChildren": 3, "maxRequests": 4}),
        ("scgi_fork", {"minSpare": 1, "maxSpare": 1, "maxChildren": 1, "sockTimeout": 5}),
    ),
    None,
)


SCENES["unknown keywords"] = (
    made(("fcgi", {"unknown": 1}), ("fcgi_fork", {"maxThreads": 1}), ("scgi", {"roles": [1]})),
    None,
)


# -- what goes to standard error


def told(name: str, app: str, lines: int) -> Scene:
    """Return a scene: the marked lines on the program's standard error after a request."""

    def function(both: Both, side: str) -> list[str]:
        program = both.start(side, SERVERS[name])
        try:
            program.ready()
            ask(program, SERVERS[name], app)
            wire.until(lambda: len(wire.marked(program.text)) >= lines, "the lines")
            # What comes after another request was not part of the first one.
            ask(program, SERVERS[name], "complains_without_end")
            wire.until(lambda: "no end of line" in program.text, "the line after")
            return wire.marked(program.text)
        finally:
            program.end()

    return function


for _name in ("fcgi", "fcgi_fork", "scgi", "ajp"):
    SCENES[f"{_name}: complaints on standard error"] = told(_name, "complains", 3), None
for _name in ("scgi", "ajp"):
    SCENES[f"{_name}: a traceback on standard error"] = told(_name, "raises", 1), None


def logged(module: str) -> Scene:
    """Return a scene: all that the server's own log says of a start, two requests and an end."""

    def function(both: Both, side: str) -> list[str]:
        server = Server(module, tcp=module == "ajp")
        program = both.start(side, server)
        try:
            wire.until(lambda: "starting up" in program.text, "the first line")
            program.ready()
            ask(program, server, "one_block")
            ask(program, server, "two_blocks")
            program.process.send_signal(signal.SIGHUP)
            wait(program)
            lines = [line.partition(" : ") for line in program.text.splitlines()]
            return [text for _, colon, text in lines if colon]
        finally:
            program.end()

    return function


for _name in ("scgi", "ajp"):
    SCENES[f"{_name}: the log"] = logged(_name), None


# -- programs as flup's documentation has them


def script(both: Both, side: str, name: str, *arguments: str) -> list[str]:
    """Return the command that runs the program *name*."""
    directory = Path(__file__).parent
    run, program = str(directory / "run.py"), str(directory / name)
    return [sys.executable, run, both.which[side], program, *arguments]


class Script(Program):
    """A program of this directory that knows nothing of the comparison."""

    def __init__(self, both: Both, command: list[str], address: Any) -> None:
        directory = both.fresh()
        directory.mkdir()
        self.result = directory / "result"
        self.log = directory / "stderr"
        self.reserved = None
        self.address = address
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stderr=log, stdout=log
            )

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()


def place(both: Both) -> str:
    """Return a path for a socket."""
    directory = both.fresh()
    directory.mkdir()
    return str(directory / "s")


@scene()
def the_first_program(both: Both, side: str) -> list[Any]:
    path = place(both)
    with Script(both, script(both, side, "hello.py", path), path) as program:
        program.ready()
        seen = wire.fastcgi(path, "")
        program.process.send_signal(signal.SIGTERM)
        return [seen.status, seen.headers, seen.body, program.process.wait(20)]


@scene()
def the_first_program_as_CGI(both: Both, side: str) -> list[Any]:
    done = subprocess.run(
        script(both, side, "hello.py"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        env={**wire.variables("", b"", {}), "FCGI_FORCE_CGI": "Y"},
    )
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    return [sorted(head.split(b"\r\n")), body, done.returncode]


@scene()
def the_wrapper_that_restarts_after_HUP(both: Both, side: str) -> list[Any]:
    path = place(both)
    wrapper = str(Path(__file__).with_name("restarting.sh"))
    command = ["sh", wrapper, *script(both, side, "restarted.py", path)]

    def pid(other: int) -> int:
        """Return the pid of a program that answers and is not *other*."""

        def one() -> int:
            try:
                found = int(wire.scgi(path, "").body or 0)
            except (OSError, ValueError):
                return 0
            return 0 if found == other else found

        found: int = wire.until(one, "an answer")
        return found

    with Script(both, command, path) as program:
        program.ready()
        first = pid(0)
        os.kill(first, signal.SIGHUP)
        second = pid(first)
        os.kill(second, signal.SIGTERM)
        return [first != second, program.process.wait(20)]


def jobs(model: str) -> Scene:
    """Return a scene: jobs under one of the process models."""

    def function(both: Both, side: str) -> list[Any]:
        path = place(both)
        with Script(both, script(both, side, "jobs.py", model, path), path) as program:
            found = [shout(path) for _ in range(3)]
            program.process.send_signal(signal.SIGHUP)

            def ended() -> bool:
                if model == "fork" and side == FLUP:
                    try:
                        shout(path)
                    except OSError:
                        pass
                return program.process.poll() is not None

            wire.until(ended, "its end")
            return [found, program.process.returncode]

    return function


def shout(path: str) -> tuple[bytes, str]:
    """Talk with a job."""
    with wire.connect(path) as sock:
        sock.settimeout(wire.SECONDS)
        sock.sendall(b"shout")
        return wire.until_closed(sock)


for _model in ("threads", "fork", "single"):
    SCENES[f"jobs of one's own, {_model}"] = jobs(_model), None


def handled(protocol: str) -> Scene:
    """Return a scene: ``handler()`` is overridden, and answers by the request object."""

    def function(both: Both, side: str) -> Any:
        server = Server(protocol, tcp=protocol == "ajp")
        with socket.socket() as held:
            address: Any = place(both)
            if server.tcp:
                held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                held.bind(("127.0.0.1", 0))
                address = held.getsockname()
            where = f"{address[0]}:{address[1]}" if server.tcp else address
            command = script(both, side, "handler.py", protocol, where)
            with Script(both, command, address) as program:
                program.ready()
                seen = ask(program, server, "", b"0123456789")
        return [seen.status, seen.headers, seen.body, seen.end, seen.errors]

    return function


for _name in ("fcgi", "scgi", "ajp"):
    SCENES[f"{_name}: a handler of one's own"] = handled(_name), None


def pasted(factory: str) -> Scene:
    """Return a scene: Paste starts a server."""

    def function(both: Both, side: str) -> Any:
        server = Server(factory.split("_")[1])
        with socket.socket() as held:
            address: Any = place(both)
            if server.protocol != "fcgi":
                held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                held.bind(("127.0.0.1", 0))
                address = held.getsockname()
            where = address if isinstance(address, str) else f"{address[0]}:{address[1]}"
            with Script(both, script(both, side, "pasted.py", factory, where), address) as program:
                if not fate(program):
                    return program.text.strip().splitlines()[-1].partition(":")[0]
                return ask(program, server, "one_block").body

    return function


for _name in ("fcgi", "scgi", "ajp"):
    for _model in ("thread", "fork"):
        SCENES[f"Paste: run_{_name}_{_model}"] = (
            pasted(f"run_{_name}_{_model}"),
            Differs("paste-booleans", "NameError", b"hello"),
        )


# -- the clients


def call(
    both: Both, side: str, kind: str, app: str, body: str = "", server: str = ""
) -> dict[str, Any]:
    """Let the client of one side call a server, of the same side if *server* names no other."""
    program = both.program(server or side, kind.partition(" ")[0])
    done = subprocess.run(
        script(both, side, "client.py", kind, program.address, app, body),
        capture_output=True,
        timeout=60,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def called(kind: str, app: str, *names: str, body: str = "") -> Scene:
    """Return a scene: what a client makes of an answer, of it what has these *names*."""

    def function(both: Both, side: str) -> Any:
        found = call(both, side, kind, app, body)
        return found.get("raised") or [found[name] for name in names]

    return function


_HEADERS = ["content-type", "text/plain", "content-length", "5"]
for _kind in ("fcgi", "scgi"):
    _all = ("status", "headers", "body", "errors")
    SCENES[f"{_kind} client"] = (
        called(_kind, "one_block", *_all),
        Differs("client-connect", "AttributeError", ["200 OK", _HEADERS, "hello", ""]),
    )
    for _how in ("own", "own unfiltered"):
        SCENES[f"{_kind} client, {_how}"] = called(f"{_kind} {_how}", "one_block", *_all), None
    SCENES[f"{_kind} client, a body"] = (
        called(f"{_kind} own", "body_announced", *_all, body="x" * 9000),
        None,
    )
    SCENES[f"{_kind} client, types"] = (
        called(f"{_kind} own", "one_block", "types"),
        Differs("client-text", [["bytes"]], [["str"]]),
    )
SCENES["scgi client, an error"] = called("scgi own", "raises", "status", "headers"), None


def crossed(kind: str, app: str, body: str = "") -> Scene:
    """Return a scene: flup's own client calls the server of either side."""

    def function(both: Both, side: str) -> Any:
        return call(both, FLUP, kind, app, body, server=side)

    return function


for _kind in ("fcgi", "scgi"):
    SCENES[f"{_kind} client of flup's"] = crossed(f"{_kind} own", "one_block"), None
    SCENES[f"{_kind} client of flup's, a body"] = (
        crossed(f"{_kind} own", "body_announced", "x" * 9000),
        None,
    )


@scene("client-errors", "NameError", ["200 OK", "beside: one\nbeside: two\nbeside: three\n"])
def fcgi_client_and_complaints(both: Both, side: str) -> Any:
    return called("fcgi own", "complains", "status", "errors")(both, side)


# -- the names


def surface(both: Both, side: str) -> dict[str, Any]:
    """Return all public names of all modules, with what they are."""
    names = str(Path(__file__).with_name("names.py"))
    done = subprocess.run(
        [sys.executable, names, both.which[side]],
        capture_output=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


MISSING = re.compile(
    r"flup\.(server\.fcgi_base|client\.fcgi_app)\.DEBUG(LOG)?"
    # The client's own copy of the protocol; the server's is there.
    r"|flup\.client\.fcgi_app\.(FCGI_\w+|Record|encode_pair|decode_pair)"
)
"""Names of flup that need not be there."""

CHANGED = {
    "flup.server.ajp_base.attributeTable",  # the variables have the names that web servers use
    "flup.server.ajp_base.methodTable",  # BASELINE-CONTROL, which was misspelt
    "flup.server.ajp_base.requestHeaderTable",  # in lower case
}
"""Constants with other values."""

INNER = ("Connection", "InputStream", "MultiplexedInputStream", "StdoutWrapper", "Packet", "Record")
"""Classes, or ends of their names, that programs get no objects of, or only to read from."""

HOOKS = """
    _mainloopPeriodic _exit _isClientAllowed _hupHandler _intHandler _usr1Handler _chldHandler
    _installSignalHandlers _restoreSignalHandlers _setupSocket _cleanupSocket _sanitizeEnv
    _environPrefixes _environCopies _environRenames _getConnection _end _flush
    _defaultFilterEnviron _lightFilterEnviron
""".split()
"""Methods that subclasses override although their names begin with an underscore."""
