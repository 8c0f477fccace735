"""The status page in all formats, beside the real php-fpm's."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
import os
import re
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from fastcgi_client import fetch
from serving import until

from sapi_adapters.manager import status as module
from sapi_adapters.manager.status import (
    Process,
    Status,
    no_cache,
    printable,
    render,
    security_policy,
)

PHP_FPM = "/usr/sbin/php-fpm8.2"

IDLE = Process(
    pid=4711,
    state="Idle",
    start_time=1795260426.9,
    start_since=61.7,
    requests=3,
    request_duration=0.0012345,
    request_method="GET",
    request_uri="/a?b=1",
    content_length=0,
    user="",
    script="/srv/app.py",
    last_request_cpu=12.345,
    last_request_memory=2097152,
    memory=31457280,
    active_requests=0,
    capacity=1,
    generation=2,
    leaving=False,
)
BUSY = dataclasses.replace(
    IDLE, pid=4712, state="Running", request_method="POST", active_requests=1, leaving=True
)
STATUS = Status(
    pool="www",
    process_manager="dynamic",
    start_time=1795260000.5,
    start_since=488.9,
    accepted_conn=1234,
    listen_queue=1,
    max_listen_queue=7,
    listen_queue_len=511,
    idle_processes=1,
    active_processes=1,
    max_active_processes=2,
    max_children_reached=3,
    slow_requests=4,
    memory=62914560,
    memory_peak=41943040,
    active_requests=1,
    max_children=8,
    start_servers=2,
    min_spare_servers=1,
    max_spare_servers=3,
    max_requests=500,
    max_memory=268435456,
    generation=2,
    reloads=1,
    failed_reloads=5,
    last_failure="",
    lost_requests=6,
    dropped_log_lines=9,
    sapi="fcgi-prefork",
    version="0.1.0",
    processes=(IDLE, BUSY),
)
HOSTILE = (
    "/<script>alert(1)</script>?a=\"&b='&c=]]>&d=\\\n\r\t\0\x1b[2J\x7f\x85\xa0\xe9"
    "\u2028\u202e\u2603\udcff{{}}<!--values-->"
)


def with_uri(uri: str) -> Status:
    return dataclasses.replace(STATUS, processes=(dataclasses.replace(IDLE, request_uri=uri),))


def page(query: str, status: Status = STATUS) -> str:
    return render(status, query)[1].decode()


# -- reading each format: ([pool's names], [a worker's names]) and values


class _Rows(HTMLParser):
    """Collects the cells of each table's rows, as text."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self._cell: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self._cell = []

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td"):
            assert self._cell is not None
            self.tables[-1][-1].append("".join(self._cell))
            self._cell = None


Read = tuple[list[tuple[str, Any]], list[list[tuple[str, Any]]]]


def read_text(body: str) -> Read:
    blocks = []
    for block in body.split(f"\n{'*' * 24}\n"):
        pairs = []
        for line in block.removesuffix("\n").split("\n"):
            found = re.fullmatch(r"(?=.{23})([\w ]+:) *(\S.*)", line)
            assert found is not None and found.start(2) == 22, line
            pairs.append((found[1][:-1], found[2]))
        blocks.append(pairs)
    return blocks[0], blocks[1:]


def read_json(body: str) -> Read:
    def pairs(found: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
        assert len({name for name, _ in found}) == len(found)
        return found

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    whole = json.loads(body, object_pairs_hook=pairs, parse_constant=refuse)
    if whole[-1][0] == "processes":
        return whole[:-1], whole[-1][1]
    return whole, []


def read_xml(body: str) -> Read:
    root = ElementTree.fromstring(body)
    own = [(child.tag, child.text) for child in root if child.tag != "processes"]
    return own, [[(field.tag, field.text) for field in process] for process in root.iter("process")]


def read_html(body: str) -> Read:
    parser = _Rows()
    parser.feed(body)
    values = next(table for table in parser.tables if table[:1] and table[0][0] == "pool")
    own = [(name, value) for name, value in values]
    workers = [table for table in parser.tables if table and table[0][:1] == ["pid"]]
    names, *rows = workers[0] if workers else [[]]
    return own, [list(zip(names, row, strict=True)) for row in rows]


READERS: dict[str, Callable[[str], Read]] = {
    "": read_text,
    "json": read_json,
    "xml": read_xml,
    "html": read_html,
}


def names(pairs: list[tuple[str, Any]]) -> list[str]:
    return [name for name, _ in pairs]


# -- beside the real one

STATES = "Idle|Running|Finishing|Ending|Reading headers|Getting request information"


@pytest.fixture(scope="module")
def php_fpm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """A function that fetches a query of php-fpm's status page."""
    if not os.access(PHP_FPM, os.X_OK):
        if os.environ.get("CI"):
            pytest.fail("apt-get install php8.2-fpm")
        pytest.skip("apt-get install php8.2-fpm")
    directory = tmp_path_factory.mktemp("fpm")
    path = str(directory / "fpm.sock")
    configuration = directory / "fpm.conf"
    configuration.write_text(
        f"[global]\nerror_log = {directory}/log\ndaemonize = no\n[www]\nlisten = {path}\n"
        "pm = static\npm.max_children = 2\npm.status_path = /status\n"
        + ("user = nobody\ngroup = nogroup\n" if os.getuid() == 0 else "")
    )
    process = subprocess.Popen(
        [PHP_FPM, "-F", "-y", str(configuration)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def get(query: str) -> Any:
        return fetch(
            path,
            SCRIPT_NAME="/status",
            SCRIPT_FILENAME="/status",
            QUERY_STRING=query,
            REQUEST_URI=f"/status?{query}",
        )

    try:
        until(lambda: os.path.exists(path), what="php-fpm's socket")
        until(
            lambda: all(p["requests"] for p in json.loads(get("json&full").body)["processes"]),
            what="a request for each worker to show",
        )
        yield get
    finally:
        process.terminate()
        process.wait(10)


def head_of(answer: Any) -> dict[str, str]:
    lines = answer.stdout.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


def as_type(value: Any) -> Any:
    """Return *value* with its content left out, its form left in."""
    if isinstance(value, str):
        return re.sub(r"\d+", "0", re.sub(r"[A-Z][a-z]{2}(?=/)", "Mon", value))
    return type(value)


@pytest.mark.parametrize("form", READERS)
@pytest.mark.parametrize("full", [False, True])
def test_every_format_begins_as_php_fpms(php_fpm, form, full):
    query = "&".join(filter(None, (form, "full" if full else "")))
    theirs = php_fpm(query)
    assert render(STATUS, query)[0] == head_of(theirs)["content-type"]
    # php-fpm's own words are used: their form, and how the values are written.
    status = dataclasses.replace(
        STATUS,
        process_manager="static",
        last_failure="why",
        processes=(
            dataclasses.replace(IDLE, request_uri="/status", script="-", last_request_cpu=0.0),
        ),
    )
    their_pool, their_workers = READERS[form](theirs.body.decode())
    our_pool, our_workers = READERS[form](page(query, status))
    assert names(our_pool)[: len(their_pool)] == names(their_pool)
    assert len(our_pool) == len(dataclasses.fields(Status))  # no processes, but their total
    for (name, ours), (_, real) in zip(our_pool, their_pool, strict=False):
        assert as_type(ours) == as_type(real), name
    assert bool(our_workers) == bool(their_workers) == full
    for real_worker in their_workers[:1]:
        assert names(our_workers[0])[: len(real_worker)] == names(real_worker)
        assert len(our_workers[0]) == len(dataclasses.fields(Process))
        for (name, ours), (_, real) in zip(our_workers[0], real_worker, strict=False):
            if name not in ("state", "request uri", "request-uri", "request URI"):
                assert as_type(ours) == as_type(real), name


@pytest.mark.parametrize("query", ["", "full", "xml", "xml&full", "json", "json&full"])
def test_what_lies_between_the_values_is_php_fpms(php_fpm, monkeypatch, query):
    """Byte by byte, for scrapers with regular expressions, with our fields left out."""
    monkeypatch.setattr(module, "_POOL", module._POOL[:14])
    monkeypatch.setattr(module, "_PROCESS", module._PROCESS[:13])
    worker = dataclasses.replace(IDLE, request_uri="/status?a&b", script="")
    status = dataclasses.replace(STATUS, process_manager="static", processes=(worker,) * 2)

    def blank(text: str) -> str:
        text = re.sub(f"\\b({STATES})\\b", "STATE", text)
        text = re.sub(r"(\\?/)status[^\"\n<]*", r"\1URI", text)
        return re.sub(r"\d+", "0", re.sub(r"/[A-Z][a-z]{2}/", "/Mon/", text))

    assert blank(page(query, status)) == blank(php_fpm(query).body.decode())


def test_openmetrics_begins_as_php_fpms(php_fpm):
    theirs = php_fpm("openmetrics")
    kind, body = render(dataclasses.replace(STATUS, process_manager="static"), "openmetrics")
    assert kind == head_of(theirs)["content-type"]
    expected = re.sub(r" \d+$", " 0", theirs.body.decode(), flags=re.M).removesuffix("# EOF\n")
    assert re.sub(r" \d+$", " 0", body.decode(), flags=re.M).startswith(expected)
    assert body.endswith(b"\n# EOF\n")


def test_the_headers_are_php_fpms(php_fpm):
    theirs = head_of(php_fpm(""))
    assert {name.lower(): value for name, value in no_cache}.items() <= theirs.items()


QUERIES = [
    *("html&xml", "xml&html", "json&xml", "openmetrics&json", "html&openmetrics"),
    *("json=", "json=0", "full=0&json=1", "json[]", "json[]=1&full", "json&full[]", "%6ason"),
    *("JSON", "+json", "&&json&", "json;full", "json+", "json.x", "=json", "[json", "json]"),
    *("json%5b%5d", "json[&full", "html=1=2", "jsonx", "fullish&xmlhtml", "unknown=1&json"),
]


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_chooses_as_it_does_in_php_fpm(php_fpm, query):
    theirs = php_fpm(query)
    kind, body = render(STATUS, query)
    assert kind == head_of(theirs)["content-type"]
    marks = (b"***", b'"processes"', b"<process>", b"<th>request uri</th>")
    assert any(mark in body for mark in marks) == any(mark in theirs.body for mark in marks)


# -- values


def test_text_is_padded_and_in_local_time(monkeypatch):
    monkeypatch.setenv("TZ", "XYZ-3:30")
    time.tzset()
    try:
        lines = page("full").split("\n")
    finally:
        monkeypatch.undo()
        time.tzset()
    assert lines[0] == "pool:                 www"
    assert lines[2] == "start time:           21/Nov/2026:14:50:00 +0330"
    assert "max children reached: 3" in lines
    assert "request duration:     1234" in lines
    assert "last request cpu:     12.35" in lines or "last request cpu:     12.34" in lines
    assert "last failure:         -" in lines
    assert "leaving:              yes" in lines


def test_json_types_are_those_that_strict_exporters_decode():
    status = json.loads(page("json&full"))
    texts = {"pool", "process manager", "last failure", "sapi", "version"}
    for name, value in status.items():
        if name != "processes":
            assert type(value) is (str if name in texts else int), name
    for process in status["processes"]:
        for name, value in process.items():
            kind = {"last request cpu": float, "leaving": bool}.get(name, int)
            if name in ("state", "request method", "request uri", "user", "script"):
                kind = str
            assert type(value) is kind, name
    assert status["start time"] == 1795260000
    assert status["total processes"] == 2
    assert status["processes"][0]["request duration"] == 1234
    assert status["processes"][0]["user"] == "-"
    assert [p["leaving"] for p in status["processes"]] == [False, True]


def test_names_differ_even_without_regard_to_case():
    """Some decoders find a field by a name of any case."""
    for pairs in (*[read_json(page("json&full"))[0]], *read_json(page("json&full"))[1]):
        assert len({name.lower() for name in names(pairs)}) == len(pairs)


@pytest.mark.parametrize("form", [*READERS, "openmetrics", "openmetrics=strict"])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -1.0, 1e300])
def test_a_number_that_is_none_breaks_no_format(form, number):
    odd = dataclasses.replace(
        IDLE, start_time=number, request_duration=number, last_request_cpu=number
    )
    status = dataclasses.replace(STATUS, start_time=number, start_since=number, processes=(odd,))
    body = page(f"{form}&full", status)
    assert not re.search(r"\b(nan|inf)\b", body.partition("<script>")[0])
    if form in READERS:
        own, (worker,) = READERS[form](body)
        for name, value in [*own, *worker]:
            if name.replace("-", " ") in ("start since", "request duration"):
                assert 0 <= int(value) < 1 << 63


@pytest.mark.parametrize("form", READERS)
@pytest.mark.parametrize(
    "uri", [HOSTILE, "", *map(chr, range(256)), "\ufffe", "\ud800", "\U0001f600"]
)
def test_no_uri_breaks_a_format(form, uri):
    status = dataclasses.replace(with_uri(uri), pool="p", last_failure=f"why {uri}")
    own, (worker,) = READERS[form](page(f"{form}&full", status))
    expected, (plain,) = READERS[form](page(f"{form}&full", with_uri("/")))
    assert names(own) == names(expected) and names(worker) == names(plain)
    shown = dict(worker)
    uris = [value for name, value in worker if name.lower().replace("-", " ") == "request uri"]
    if form != "json":
        assert all(value.isprintable() for _, value in [*own, *worker])
        assert uris == [printable(uri or "-")] or not uri.strip()
    else:
        assert all(value.encode() for _, value in worker if isinstance(value, str))
    assert shown["script"] == "/srv/app.py"


@pytest.mark.parametrize("query", ["", "xml", "html", "openmetrics"])
def test_one_record_is_one_line(query):
    ours = page(f"{query}&full", with_uri(HOSTILE))
    assert ours.splitlines() == ours.removesuffix("\n").split("\n")
    assert len(ours.split("\n")) == len(page(f"{query}&full", with_uri("/")).split("\n"))


def test_the_page_holds_no_markup_but_its_own():
    status = dataclasses.replace(
        with_uri(HOSTILE), pool="<b>&", last_failure=HOSTILE, sapi="<i>", version="<!--values-->"
    )
    tags = re.findall(r"<[^\s>]*", page("html&full", status).partition("<script>")[0])
    assert tags == re.findall(
        r"<[^\s>]*", page("html&full", with_uri("/")).partition("<script>")[0]
    )


PRINTABLE = {
    "/a?b=c d": "/a?b=c d",
    "caf\xc3\xa9": "café",
    "caf\xe9": "café",
    "\u2603": "\u2603",
    "\x1b[2J": "\\x1b[2J",
    "a\nb\r\t\0": "a\\nb\\r\\t\\x00",
    "\xe2\x80\xae": "\\u202e",
    "\x9b2J": "\\x9b2J",
    "\udcff": "\\udcff",
}


@pytest.mark.parametrize("text", PRINTABLE)
def test_what_a_terminal_would_obey_is_escaped(text):
    assert printable(text) == PRINTABLE[text]


# -- OpenMetrics


def families(body: str) -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Read OpenMetrics 1.0 by the letter: family to (type, [(sample, labels)])."""
    assert body.endswith("\n# EOF\n")
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    closed: set[str] = set()
    current = ""
    about: dict[str, set[str]] = {}
    label = r'[a-z_]+="(?:[^"\\\n]|\\["\\n])*"'
    for line in body.removesuffix("# EOF\n").removesuffix("\n").split("\n"):
        meta = re.fullmatch(r"# (HELP|TYPE) ([a-z_]+) (.+)", line)
        if meta is not None:
            word, family, rest = meta.groups()
            if family != current:
                assert family not in closed, f"{family} is in two pieces"
                closed.add(family)
                current = family
                found[family] = ("", [])
            assert word not in about.setdefault(family, set()) and not found[family][1]
            about[family].add(word)
            if word == "TYPE":
                found[family] = (rest, [])
            continue
        sample = re.fullmatch(rf"([a-z_]+)(\{{{label}(?:,{label})*\}})? (\d+)", line)
        assert sample is not None, line
        kind, samples = found[current]
        suffix = {"counter": "_total", "info": "_info", "gauge": ""}[kind]
        assert sample[1] == current + suffix, line
        samples.append((sample[1], sample[2] or ""))
    assert all(words == {"HELP", "TYPE"} for words in about.values())
    return found


def test_the_strict_form_keeps_to_the_letter():
    found = families(page("openmetrics=strict"))
    assert all(samples[0][1].startswith('{pool="www"') for _, samples in found.values())
    counters = {name for name, (kind, _) in found.items() if kind == "counter"}
    assert counters == {
        "phpfpm_accepted_connections",
        "phpfpm_max_children_reached",
        "phpfpm_slow_requests",
        "sapi_reloads",
        "sapi_failed_reloads",
        "sapi_lost_requests",
        "sapi_dropped_log_lines",
    }


def test_ours_keep_to_the_letter_in_both_forms_and_are_the_same():
    loose, strict = page("openmetrics"), page("openmetrics=strict")
    with pytest.raises(AssertionError, match="phpfpm_start_since"):
        families(loose)
    assert loose.partition("# HELP sapi_")[2] == strict.partition("# HELP sapi_")[2] != ""


def test_every_number_of_ours_is_a_metric():
    body = page("openmetrics", dataclasses.replace(STATUS, last_failure="broken"))
    for line in (
        'sapi_memory_bytes{pool="www"} 62914560',
        'sapi_max_memory_bytes{pool="www"} 268435456',
        'sapi_failed_reloads_total{pool="www"} 5',
        'sapi_last_reload_failed{pool="www"} 1',
        'sapi_info{pool="www",sapi="fcgi-prefork",version="0.1.0"} 1',
        "phpfpm_memory_peak 41943040",
    ):
        assert line in body.split("\n")
    ours = names(read_json(page("json"))[0])[15:]
    assert len(re.findall(r"^sapi_", body, flags=re.M)) == len(ours) - 1  # sapi and version: one


def test_labels_are_escaped():
    odd = dataclasses.replace(STATUS, pool='a"b\\c\n')
    assert 'sapi_generation{pool="a\\"b\\\\c\\\\n"} 2' in page("openmetrics", odd).split("\n")
    families(page("openmetrics=strict", odd))


# -- the page


def test_the_policy_allows_the_pages_own_style_and_script():
    body = page("html&full")
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", body, flags=re.S)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in security_policy, f"{tag} changed: it is {digest}"
    assert "unsafe" not in security_policy
    assert not re.search(r'\son\w+=|\sstyle=|(src|href)="(?!\?|data:,")', body)


def test_the_page_is_read_once(monkeypatch):
    module.page()
    monkeypatch.setattr("importlib.resources.files", None)
    assert render(STATUS, "html")[1].startswith(b"<!DOCTYPE html>")


def test_without_scripts_the_page_comes_again_by_itself():
    head = page("html").partition("</head>")[0]
    assert '<noscript><meta http-equiv="refresh"' in head
