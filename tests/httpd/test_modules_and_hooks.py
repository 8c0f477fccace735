"""Modules of third parties and the hooks that they take part in."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from httpd.hosting import Hosted, hosting
from serving import until

from sapi_adapters.httpd.hooks import (
    DECLINED,
    DONE,
    FIRST,
    HOOKS,
    LAST,
    MIDDLE,
    OK,
    REALLY_FIRST,
    REALLY_LAST,
    Hooks,
    run_all,
    run_first,
    run_void,
)
from sapi_adapters.sapi import ConfigurationError

# -- the order ------------------------------------------------------------------------------------

Entry = tuple[str, dict[str, Any]]

ORDERS: list[tuple[str, list[Entry], str]] = [
    ("as they are registered", [("a", {}), ("b", {}), ("c", {})], "a b c"),
    (
        "by the order that they ask for",
        [
            ("e", {"order": REALLY_LAST}),
            ("d", {"order": LAST}),
            ("c", {"order": MIDDLE}),
            ("b", {"order": FIRST}),
            ("a", {"order": REALLY_FIRST}),
        ],
        "a b c d e",
    ),
    ("between these", [("b", {"order": FIRST + 1}), ("a", {"order": FIRST})], "a b"),
    (
        "without one in the middle",
        [("b", {}), ("c", {"order": LAST}), ("a", {"order": 9})],
        "a b c",
    ),
    ("behind predecessors", [("b", {"predecessors": ["a"]}), ("a", {})], "a b"),
    ("before successors", [("b", {}), ("a", {"successors": ["b"]})], "a b"),
    (
        "behind predecessors of a later order",
        [("b", {"order": FIRST, "predecessors": ["a"]}), ("a", {"order": LAST})],
        "a b",
    ),
    (
        "before successors of an earlier order",
        [("b", {"order": FIRST}), ("a", {"order": LAST, "successors": ["b"]})],
        "a b",
    ),
    ("neighbours that are not there", [("a", {"predecessors": ["x"], "successors": ["y"]})], "a"),
    (
        "a chain",
        [
            ("d", {"predecessors": ["c"]}),
            ("c", {"predecessors": ["b"]}),
            ("b", {"predecessors": ["a"]}),
            ("a", {}),
        ],
        "a b c d",
    ),
    (
        "others stay where they are",
        [("a", {}), ("d", {"predecessors": ["c"]}), ("b", {}), ("c", {})],
        "a b c d",
    ),
    ("twice the same module", [("a", {}), ("b", {}), ("a", {"order": FIRST})], "a a b"),
    ("its own name says nothing", [("a", {"predecessors": ["a"]}), ("b", {})], "a b"),
]


def registered(entries: list[Entry], hook: str = "fixups") -> Hooks:
    hooks = Hooks()
    for module, options in entries:
        hooks.module = module
        hooks.add(hook, lambda module=module: module, **options)
    hooks.sort()
    return hooks


@pytest.mark.parametrize(("what", "entries", "expected"), ORDERS, ids=[row[0] for row in ORDERS])
def test_functions_are_ordered(what: str, entries: list[Entry], expected: str) -> None:
    hooks = registered(entries)
    assert [function() for function in hooks.fixups] == expected.split()
    assert hooks.table() == {"fixups": expected.split()}


CIRCLES: list[list[Entry]] = [
    [("a", {"predecessors": ["b"]}), ("b", {"predecessors": ["a"]})],
    [("a", {"successors": ["b"]}), ("b", {"successors": ["a"]})],
    [("a", {"predecessors": ["b"], "successors": ["b"]}), ("b", {})],
    [
        ("a", {"predecessors": ["c"]}),
        ("b", {"predecessors": ["a"]}),
        ("c", {"predecessors": ["b"]}),
    ],
]


@pytest.mark.parametrize("entries", CIRCLES)
def test_a_circle_is_an_error(entries: list[Entry]) -> None:
    with pytest.raises(ConfigurationError, match="hook fixups goes round in a circle: a, b"):
        registered(entries)


def test_there_are_no_other_hooks() -> None:
    hooks = Hooks()
    hooks.module = "mod_x"
    with pytest.raises(ConfigurationError, match="mod_x: there is no hook 'handlers'"):
        hooks.add("handlers", len)
    with pytest.raises(AttributeError):
        hooks.handlers  # noqa: B018


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_begins_empty(name: str) -> None:
    assert getattr(Hooks(), name) == ()


def test_functions_can_be_wrapped() -> None:
    hooks = Hooks()
    hooks.wrap = lambda hook, module, function: lambda: (hook, module, function())
    hooks.module = "a"
    hooks.add("handler", lambda: OK)
    hooks.sort()
    assert hooks.handler[0]() == ("handler", "a", OK)


RESULTS = [
    # what the functions return; what run_all and run_first make of it, and how many they call
    ([], OK, 0, DECLINED, 0),
    ([OK, OK], OK, 2, OK, 1),
    ([DECLINED, OK], OK, 2, OK, 2),
    ([DECLINED, DECLINED], OK, 2, DECLINED, 2),
    ([OK, 403, OK], 403, 2, OK, 1),
    ([DECLINED, 403, 404], 403, 2, 403, 2),
    ([DONE, OK], DONE, 1, DONE, 1),
    ([DECLINED, DONE, OK], DONE, 2, DONE, 2),
]


@pytest.mark.parametrize(("results", "of_all", "all_called", "of_first", "first_called"), RESULTS)
def test_kinds_of_hooks(
    results: list[int], of_all: int, all_called: int, of_first: int, first_called: int
) -> None:
    called: list[int] = []

    def returning(result: int) -> Any:
        def function(argument: str) -> int:
            assert argument == "argument"
            called.append(result)
            return result

        return function

    functions = [returning(result) for result in results]
    assert run_all(functions, "argument") == of_all
    assert len(called) == all_called
    called.clear()
    assert run_first(functions, "argument") == of_first
    assert len(called) == first_called
    called.clear()
    run_void(functions, "argument")
    assert called == results


# -- a module with a function in every hook, on running servers -----------------------------------

MODULE = '''
import json, os
from sapi_adapters.httpd.filters import (
    CONTENT_SET, EOS, PROTOCOL, RESOURCE, InputFilter, OutputFilter)
from sapi_adapters.httpd.hooks import DECLINED, DONE, FIRST, HOOKS, OK, REALLY_FIRST
from sapi_adapters.httpd.module import (
    ACCESS_CONF, OR_FILEINFO, RSRC_CONF, TAKE1, Command, Module, Settings)
from sapi_adapters.httpd.phases import (
    internal_redirect, run_sub_req, sub_req_lookup_file, sub_req_lookup_uri)
from sapi_adapters.httpd.records import Connection, Request, Server

LOG = os.path.join(os.path.dirname(__file__), "trace")
SERVER = ("pre_config", "check_config", "test_config", "open_logs", "post_config", "child_init",
          "child_stopping", "monitor")


def note(*words):
    """One line, by one write: processes share the file."""
    with open(LOG, "ab", buffering=0) as file:
        file.write((json.dumps(words) + "\\n").encode())


class Config(Settings):
    do = ""


def _do(cmd, config, what):
    config.do = what


def traced(hook):
    void = HOOKS[hook] == "VOID"
    def function(subject, *more):
        if hook in SERVER:
            if hook == "pre_config":
                subject.cleanup(lambda: note("cleanup", os.getpid(), subject.pass_))
            note(hook, os.getpid(), subject.pass_)
        elif isinstance(subject, Connection):
            note(hook, os.getpid(), subject.client_ip)
        else:
            note(hook, subject.uri, *more)
        return None if void else DECLINED
    return function


def do(r):
    return r.per_dir_config[every_module].do


def ending(hook):
    """What ends a request for /end/HOOK=RESULT; not every phase has its section yet."""
    def function(r, *more):
        wanted, _, result = r.uri.removeprefix("/end/").partition("=")
        if wanted != hook or r.main is not None or r.prev is not None:
            return DECLINED
        if result == "OK":
            return OK
        if result == "DONE":
            r.content_type = "text/plain"
            r.write(b"done in " + hook.encode())
            return DONE
        if result == "raise":
            raise RuntimeError("as it was told to")
        return int(result)
    return function


def clean(r):
    if do(r) == "cleanups":
        for number in range(3):
            r.cleanup(lambda number=number: note("cleaned", number))
        r.cleanup(lambda: 1 / 0)
    r.cleanup(lambda: note("over", r.uri))
    return DECLINED


def fields(r):
    body = r.read(100) if r.method == "POST" else b""
    r.content_type = "application/json"
    found = {name: getattr(r, name) for name in (
        "the_request", "method", "uri", "args", "unparsed_uri", "protocol", "proto_num", "hostname",
        "status", "header_only", "handler", "filename", "path_info", "user", "is_initial",
        "redirects", "aborted", "assbackwards", "no_cache")}
    found["fields"] = list(r.headers_in.items())
    found["body"] = body.decode()
    found["server"] = r.server.server_hostname
    found["client"] = r.connection.client_ip
    found["local"] = [r.connection.local_ip, r.connection.local_port]
    found["keepalives"] = r.connection.keepalives
    found["finfo"] = None if r.finfo is None else r.finfo.st_size
    r.write(json.dumps(found).encode())
    return OK


async def redirect(r):
    r.notes["left"] = "behind"
    r.err_headers_out.set("X-Kept", "yes")
    r.headers_out.set("X-Lost", "yes")
    r.subprocess_env["VARIABLE"] = "value"
    r.request_config[every_module] = "of the first"
    await internal_redirect("/landed?new=query", r)
    return OK


def landed(r):
    r.content_type = "application/json"
    first = r.prev
    r.write(json.dumps({
        "uri": r.uri, "args": r.args, "method": r.method, "redirects": r.redirects,
        "prev": first.uri, "next of prev": first.next is r, "note of prev": first.notes["left"],
        "notes": r.notes, "env": r.subprocess_env, "config": every_module in r.request_config,
        "initial": [r.is_initial, first.is_initial], "unparsed": r.unparsed_uri,
        "the_request": r.the_request}).encode())
    return OK


async def subrequest(r):
    found = {}
    r.content_type = "text/plain"
    r.notes["of main"] = "1"
    for target in ("inner.txt", "/do/sub/inner.txt", "/do/sub/none.txt", "/do/403/x",
                   "/do/sub/in%6eer.txt"):
        sub = sub_req_lookup_uri(target, r)
        found[target] = [sub.status, sub.uri, sub.filename and os.path.basename(sub.filename),
                         sub.main is r, sub.is_initial, sub.notes, sub.finfo is not None]
        sub.run_cleanups()
    sub = sub_req_lookup_file("inner.txt", r)
    found["file"] = [sub.status, sub.uri, os.path.basename(sub.filename), sub.finfo is not None]
    r.write(b"before|")
    found["run"] = await run_sub_req(sub_req_lookup_uri("inner.txt", r))
    r.write(b"|behind|")
    r.write(json.dumps(found).encode())
    return OK


def filtered(r):
    r.content_type = "text/plain"
    for name in ("WIRE", "SECOND", "FIRST", "OTHER-SECOND"):
        r.add_output_filter(name)
    r.write(b"x")
    r.write(b"y")
    return OK


def received(r):
    r.body.add_filter(r.host.input_filters["double"].make(r))
    r.body.add_filter(r.host.input_filters["brackets"].make(r))
    def read(r):
        pieces = []
        while piece := r.read(65536):
            pieces.append(piece)
        r.content_type = "text/plain"
        r.write(b"".join(pieces))
        return OK
    return r.in_thread(read)


async def loop(r):
    await internal_redirect("/do/loop", r)
    return OK


def flushing(r):
    r.content_type = "text/plain"
    r.write(b"one,")
    r.flush()
    r.write(b"two")
    return OK


HANDLERS = {"fields": lambda r: r.in_thread(fields), "redirect": redirect, "landed": landed,
            "subrequest": subrequest, "filtered": filtered, "received": received,
            "flushing": flushing, "raise": lambda r: 1 / 0, "invalid": lambda r: 1234,
            "cleanups": lambda r: r.in_thread(fields), "loop": loop}


def handler(r):
    chosen = HANDLERS.get(do(r))
    return DECLINED if chosen is None else chosen(r)


def suffix(name):
    """A filter that shows where in the chain it is."""
    def function(f, brigade):
        made = []
        for bucket in brigade:
            if bucket is EOS:
                made.append(b"<" + name.encode())
            made.append(bucket)
        f.pass_on(made)
    return function


class Double:
    def __init__(self, r):
        pass
    def receive(self, data):
        return data + data if data else b"(end of double)"


class Brackets:
    def __init__(self, r):
        pass
    def receive(self, data):
        return b"[" + data + b"]" if data else b""


def check(host):
    for name, kind in (("FIRST", RESOURCE), ("SECOND", CONTENT_SET), ("OTHER-SECOND", CONTENT_SET),
                       ("WIRE", PROTOCOL - 1)):
        host.register_output_filter(OutputFilter(name, suffix(name), kind))
    host.register_input_filter(InputFilter("double", Double))
    host.register_input_filter(InputFilter("brackets", Brackets))
    return OK


def register(hooks):
    for hook in HOOKS:
        hooks.add(hook, traced(hook), order=REALLY_FIRST)
    for hook in ("post_read_request", "quick_handler", "pre_translate_name", "translate_name",
                 "map_to_storage", "post_perdir_config", "header_parser", "access_checker",
                 "check_user_id", "type_checker", "fixups"):
        hooks.add(hook, ending(hook), order=FIRST)
    hooks.add("fixups", clean)
    hooks.add("handler", handler)
    hooks.add("check_config", check)


every_module = Module(
    "mod_every",
    commands=(Command("Do", _do, TAKE1, RSRC_CONF | ACCESS_CONF | OR_FILEINFO),),
    create_dir_config=lambda path: Config(),
    merge_dir_config=Config.merged,
    register_hooks=register,
)
'''

ENDS = [
    *(
        "quick_handler=DONE",
        "pre_translate_name=DONE",
        "translate_name=DONE",
        "map_to_storage=DONE",
    ),
    *("post_perdir_config=DONE", "header_parser=DONE", "access_checker=DONE", "type_checker=DONE"),
    *("fixups=DONE", "translate_name=404", "map_to_storage=403", "header_parser=400"),
    *("access_checker=403", "type_checker=500", "fixups=410", "translate_name=raise"),
    *("fixups=raise", "post_perdir_config=503"),
]
"""What the module lets a phase return for a path of that name."""


def configuration(folder: Path) -> str:
    (folder / "mod_every.py").write_text(MODULE)
    site = folder / "site"
    (site / "do" / "sub").mkdir(parents=True)
    (site / "do" / "sub" / "inner.txt").write_text("inner")
    (site / "plain.txt").write_text("plain\n")
    names = ("fields", "redirect", "filtered", "received", "flushing", "raise", "invalid", "loop")
    handlers = [f"<Location /do/{name}>\nDo {name}\n</Location>" for name in (*names, "cleanups")]
    return f"""LoadModule every_module mod_every.py
LoadModule authz_core_module modules/mod_authz_core.so
LoadModule dir_module modules/mod_dir.so
DocumentRoot {site}
LogLevel info
{chr(10).join(handlers)}
<Location /do/sub/page>
Do subrequest
</Location>
<Location /landed>
Do landed
</Location>
<Location /do/403>
Require all denied
</Location>
"""


def trace(folder: Path) -> list[list[Any]]:
    """Return what the module noted."""
    path = folder / "trace"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="module", params=["prefork", "worker", "event"])
def server(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Hosted]:
    folder = tmp_path_factory.mktemp(request.param)
    with hosting(folder, configuration(folder), request.param) as server:
        yield server


def passed(server: Hosted, method: str, path: str, **options: Any) -> tuple[Any, list[list[Any]]]:
    """Return the answer to a request and what its hooks noted, to its clean-up."""
    before = len(trace(server.folder))
    answer = server.request(method, path, **options)

    def since() -> list[list[Any]]:
        return trace(server.folder)[before:]

    until(lambda: any(line[0] == "log_transaction" for line in since()), what=str(since()))
    return answer, since()


CONNECTION = {"create_connection", "pre_connection", "process_connection", "pre_close_connection"}


def logged(server: Hosted) -> int:
    """Return how many requests are over."""
    return sum(line[0] == "log_transaction" for line in trace(server.folder))


def over(server: Hosted, since: int) -> set[str]:
    """Return the URIs of the requests whose clean-ups have run."""
    return {line[1] for line in trace(server.folder)[since:] if line[0] == "over"}


def of_request(lines: list[list[Any]]) -> list[str]:
    """Return the hooks of the requests among *lines*."""
    return [
        line[0] for line in lines if line[0] not in {*CONNECTION, *OF_SERVER, "over", "cleaned"}
    ]


OF_SERVER = {"monitor", "child_init", "child_stopping", "pre_config", "post_config", "cleanup"}
BEFORE_ACCESS = [
    *("create_request", "post_read_request", "quick_handler", "pre_translate_name"),
    *("translate_name", "map_to_storage", "post_perdir_config", "header_parser"),
]
"""Where access is free to all, force_authn asks whether the user shall be known all the same."""
PHASES = [
    *BEFORE_ACCESS,
    *("access_checker", "access_checker_ex", "force_authn", "type_checker", "fixups"),
    *("insert_filter", "handler", "log_transaction"),
]


def test_a_request_passes_every_phase(server: Hosted) -> None:
    answer, lines = passed(server, "GET", "/plain.txt")
    assert (answer.status, answer.body) == (200, b"plain\n")
    assert of_request(lines) == PHASES


def test_a_connection_is_told_of_before_its_requests(server: Hosted) -> None:
    _, lines = passed(server, "GET", "/plain.txt")
    names = [line[0] for line in lines]
    assert names.index("pre_connection") < names.index("create_request")
    workers = server.workers()
    assert all(line[1] in workers for line in lines if line[0] == "pre_connection")


@pytest.mark.parametrize("what", ENDS)
def test_a_phase_ends_the_request(server: Hosted, what: str) -> None:
    hook, _, result = what.partition("=")
    answer, lines = passed(server, "GET", f"/end/{what}")
    until_hook = PHASES[: PHASES.index(hook) + 1]
    if result == "DONE":
        assert (answer.status, answer.body) == (200, b"done in " + hook.encode())
        assert of_request(lines) == [*until_hook, "log_transaction"]
    else:
        assert answer.status == (500 if result == "raise" else int(result))
        assert of_request(lines) == [*until_hook, "insert_error_filter", "log_transaction"]
    if result == "raise":
        assert "RuntimeError: as it was told to" in server.log


def test_a_handler_that_raises(server: Hosted) -> None:
    answer, lines = passed(server, "GET", "/do/raise")
    assert answer.status == 500
    assert "ZeroDivisionError" in server.log
    assert of_request(lines)[-2:] == ["insert_error_filter", "log_transaction"]
    assert passed(server, "GET", "/plain.txt")[0].status == 200


def test_a_handler_that_returns_nonsense(server: Hosted) -> None:
    answer, _ = passed(server, "GET", "/do/invalid")
    assert answer.status == 500
    assert "returned invalid result 1234" in server.log


def test_what_is_in_a_request(server: Hosted) -> None:
    fields = {"X-One": "1", "x-two": "2"}
    answer, _ = passed(server, "POST", "/do/fields/%C3%A9?a=b&c", body=b"a body", headers=fields)
    found = json.loads(answer.body)
    assert {name: found[name] for name in EXPECTED} == EXPECTED
    assert found["fields"][-2:] == [["X-One", "1"], ["x-two", "2"]]
    assert found["local"] == ["127.0.0.1", server.port]
    assert found["filename"] == f"{server.folder.resolve()}/site/do/fields"


EXPECTED = {
    "the_request": "POST /do/fields/%C3%A9?a=b&c HTTP/1.1",
    "method": "POST",
    "uri": "/do/fields/\u00c3\u00a9",
    "args": "a=b&c",
    "unparsed_uri": "/do/fields/%C3%A9?a=b&c",
    "protocol": "HTTP/1.1",
    "proto_num": 1001,
    "hostname": "127.0.0.1",
    "status": 200,
    "header_only": False,
    "handler": "default-handler",
    "path_info": "/\u00e9",
    "user": None,
    "is_initial": True,
    "redirects": 0,
    "aborted": False,
    "assbackwards": False,
    "no_cache": False,
    "body": "a body",
    "server": "localhost",
    "client": "127.0.0.1",
    "keepalives": 0,
    "finfo": None,
}
"""The path's bytes are code points; the rest behind a file that is not there is path_info."""


def test_a_head_request(server: Hosted) -> None:
    answer, lines = passed(server, "HEAD", "/do/fields")
    assert (answer.status, answer.body) == (200, b"")
    assert of_request(lines) == PHASES
    assert int(answer.getheader("Content-Length")) > 100


def test_requests_of_a_connection_are_counted(server: Hosted) -> None:
    before = logged(server)
    connection = server.connect()
    for number in range(3):
        connection.request("GET", "/do/fields")
        assert json.loads(connection.getresponse().read())["keepalives"] == number
    connection.close()
    until(lambda: logged(server) == before + 3)


def test_an_internal_redirect(server: Hosted) -> None:
    before = len(trace(server.folder))
    answer, lines = passed(server, "GET", "/do/redirect?old=query")
    assert answer.status == 200
    assert json.loads(answer.body) == {
        "uri": "/landed",
        "args": "new=query",
        "method": "GET",
        "redirects": 1,
        "prev": "/do/redirect",
        "next of prev": True,
        "note of prev": "behind",
        "notes": {},
        "env": {
            "REDIRECT_VARIABLE": "value",
            "REDIRECT_URL": "/do/redirect",
            "REDIRECT_QUERY_STRING": "old=query",
            "REDIRECT_STATUS": "200",
        },
        "config": False,
        "initial": [False, True],
        "unparsed": "/do/redirect?old=query",
        "the_request": "GET /do/redirect?old=query HTTP/1.1",
    }
    assert answer.getheader("X-Kept") == "yes"
    assert answer.getheader("X-Lost") is None
    again = [name for name in PHASES[:-1] if name != "post_read_request"]
    assert of_request(lines) == [*PHASES[:-1], *again, "log_transaction"]
    # Clean-ups come after the log.
    until(lambda: {"/do/redirect", "/landed"} == over(server, before), what="the clean-ups")


def test_redirects_without_an_end(server: Hosted) -> None:
    answer, lines = passed(server, "GET", "/do/loop")
    assert answer.status == 500
    assert Counter(of_request(lines))["handler"] == 11
    assert "exceeded the limit of 10 internal redirects" in server.log


def test_subrequests(server: Hosted) -> None:
    answer, lines = passed(server, "GET", "/do/sub/page")
    before, inner, rest = answer.body.split(b"|", 2)
    behind, _, found = rest.partition(b"|")
    assert (before, inner, behind) == (b"before", b"inner", b"behind")
    inner_txt = [200, "/do/sub/inner.txt", "inner.txt", True, False, {}, True]
    assert json.loads(found) == {
        "inner.txt": inner_txt,
        "/do/sub/inner.txt": inner_txt,
        "/do/sub/in%6eer.txt": inner_txt,
        "/do/sub/none.txt": [200, "/do/sub/none.txt", "none.txt", True, False, {}, False],
        "/do/403/x": [403, "/do/403/x", "403", True, False, {}, False],
        "file": [200, "/do/sub/inner.txt", "inner.txt", True],
        "run": 0,
    }
    of_subs = [line for line in lines if line[1] != "/do/sub/page"]
    names = Counter(of_request(of_subs))
    assert of_request(lines).count("create_request") == 1 + 7
    assert names["handler"] == names["insert_filter"] == 1
    assert names["header_parser"] == names["log_transaction"] == names["post_read_request"] == 0
    assert names["translate_name"] == 6  # not for the one that was looked up as a file


def test_output_filters_are_sorted_by_type(server: Hosted) -> None:
    answer, _ = passed(server, "GET", "/do/filtered")
    assert answer.body == b"xy<FIRST<SECOND<OTHER-SECOND<WIRE"


def test_input_filters_see_the_body_in_the_order_of_their_coming(server: Hosted) -> None:
    answer, _ = passed(server, "POST", "/do/received", body=b"abc")
    assert answer.body == b"[abcabc][(end of double)]"
    chunked = iter([b"abc"])
    answer, _ = passed(server, "POST", "/do/received", body=chunked)
    assert answer.body == b"[abcabc][(end of double)]"


def test_a_flush_sends_what_there_is(server: Hosted) -> None:
    answer, _ = passed(server, "GET", "/do/flushing")
    assert answer.getheader("Transfer-Encoding") == "chunked"
    assert answer.body == b"one,two"


def test_clean_ups_run_backwards_and_all_of_them(server: Hosted) -> None:
    answer, lines = passed(server, "GET", "/do/cleanups")
    assert answer.status == 200
    before = len(trace(server.folder)) - len(lines)

    def done() -> list[list[Any]]:
        lines = trace(server.folder)[before:]
        return [line for line in lines if line[0] in ("log_transaction", "cleaned", "over")]

    until(lambda: len(done()) == 5, what=str(done()))
    assert done() == [
        ["log_transaction", "/do/cleanups"],
        ["over", "/do/cleanups"],
        ["cleaned", 2],
        ["cleaned", 1],
        ["cleaned", 0],
    ]
    assert "clean-up after 'GET /do/cleanups HTTP/1.1'" in server.log


# -- the server's life ----------------------------------------------------------------------------

START = ["pre_config", "check_config", "open_logs", "post_config"]
LIFE = {*START, "cleanup", "child_init", "child_stopping", "test_config"}


def life(folder: Path) -> list[list[Any]]:
    return [line for line in trace(folder) if line[0] in LIFE]


@pytest.mark.parametrize("mpm", ["prefork", "event"])
def test_the_life_of_a_server(tmp_path: Path, mpm: str) -> None:
    """The configuration is made twice at the start, once for a restart, and given up each time."""
    with hosting(tmp_path, configuration(tmp_path), mpm) as server:
        master = server.process.pid
        until(lambda: any(line[0] == "child_init" for line in life(tmp_path)))
        first = life(tmp_path)
        assert first[:9] == [
            *([name, master, 1] for name in START),
            ["cleanup", master, 1],
            *([name, master, 2] for name in START),
        ]
        assert [name for name, _, _ in first[9:]] == ["child_init"]
        child = first[9][1]
        assert child != master
        server.process.send_signal(signal.SIGUSR1)
        until(lambda: ["child_stopping", child, 2] in life(tmp_path), what="the old child's end")
        second = life(tmp_path)[len(first) :]
        assert second[:4] == [[name, master, 2] for name in START]
        names = [name for name, pid, _ in second[4:] if pid == master]
        assert names == ["cleanup"]
        assert any(name == "child_init" and pid != child for name, pid, _ in second[4:])
    third = life(tmp_path)[len(first) + len(second) :]
    assert [line for line in third if line[1] == master] == [["cleanup", master, 2]]
    started = {pid for name, pid, _ in life(tmp_path) if name == "child_init"}
    stopped = {pid for name, pid, _ in life(tmp_path) if name == "child_stopping"}
    assert started == stopped


FAILING = """
from sapi_adapters.httpd.module import Module

def fail(host):
    {what}

failing_module = Module(
    "mod_failing", register_hooks=lambda hooks: hooks.add("{hook}", fail))
"""


@pytest.mark.parametrize("hook", START)
def test_a_module_that_fails_stops_the_start(tmp_path: Path, hook: str) -> None:
    (tmp_path / "mod_failing.py").write_text(FAILING.format(what="return 500", hook=hook))
    text = "LoadModule failing_module mod_failing.py\n"
    with hosting(tmp_path, text, ready=False) as server:
        assert server.process.wait(30) != 0
        assert f"a module failed in {hook}" in server.log


def test_modules_in_a_circle_stop_the_start(tmp_path: Path) -> None:
    for name, other in (("one", "two"), ("two", "one")):
        (tmp_path / f"mod_{name}.py").write_text(
            "from sapi_adapters.httpd.module import Module\n"
            f"def register(hooks): hooks.add('fixups', len, predecessors=['mod_{other}'])\n"
            f"{name}_module = Module('mod_{name}', register_hooks=register)\n"
        )
    text = "LoadModule one_module mod_one.py\nLoadModule two_module mod_two.py\n"
    with hosting(tmp_path, text, ready=False) as server:
        assert server.process.wait(30) == 2
        assert "hook fixups goes round in a circle: mod_one, mod_two" in server.log
