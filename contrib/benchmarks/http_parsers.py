"""HTTP/1.1 parsers of PyPI: what each accepts that must be refused, and how fast each is.

    python -m contrib.benchmarks.http_parsers [--rounds N] [--seconds S] [--all]

Every hostile request goes through every parser that is installed, in one piece on a new parser,
and so do some that must be accepted. A parser "accepts" one if it reports a whole request; what
it does with the next is not asked. Then all parse the same good requests over and over on one
connection, in turn; a ratio is taken inside a round, and the median of the rounds is shown.

The table is in docs/http-parser.md, with what was decided. `--all` prints a row for each request.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

Feed = Callable[[bytes], int]
"""Takes bytes of one connection; returns how many requests they completed, or raises."""


class Refused(Exception):
    """The parser did not take it."""


def project() -> Feed:
    from sapi_adapters.protocols.http import End, Head, Limits, Parser, Refusal

    parser = Parser(Limits())

    def feed(data: bytes) -> int:
        parser.receive(data)
        events, complete = parser.events, 0
        while events:
            event = events.popleft()
            if isinstance(event, Refusal):
                raise Refused(event.status)
            complete += isinstance(event, End) or (isinstance(event, Head) and event.length == 0)
        return complete

    return feed


class Callbacks:
    """What an application server does with httptools at the least: text for method and headers."""

    def __init__(self) -> None:
        import httptools

        self.parser = httptools.HttpRequestParser(self)
        self.complete = 0

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers: list[tuple[str, str]] = []
        self.body: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self.method = self.parser.get_method().decode()
        self.version = self.parser.get_http_version()
        self.keep_alive = self.parser.should_keep_alive()
        self.target = self.url.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        self.body.append(data)

    def on_message_complete(self) -> None:
        self.complete += 1


def httptools() -> Feed:
    from httptools import HttpParserUpgrade

    callbacks = Callbacks()
    feed_data = callbacks.parser.feed_data

    def feed(data: bytes) -> int:
        callbacks.complete = 0
        try:
            feed_data(data)
        except HttpParserUpgrade:
            pass
        return callbacks.complete

    return feed


def h11() -> Feed:
    import h11

    connection = h11.Connection(h11.SERVER)

    def feed(data: bytes) -> int:
        nonlocal connection
        connection.receive_data(data)
        complete = 0
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                return complete
            if type(event) is h11.EndOfMessage:
                complete += 1
            if event is h11.PAUSED:
                if connection.our_state is h11.MIGHT_SWITCH_PROTOCOL or (
                    connection.their_state is h11.MIGHT_SWITCH_PROTOCOL
                ):
                    return complete
                connection.send(h11.Response(status_code=204, headers=[]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                    return complete
                connection.start_next_cycle()
                if not connection.trailing_data[0]:
                    return complete

    return feed


def aiohttp() -> Feed:
    from unittest.mock import Mock

    from aiohttp.base_protocol import BaseProtocol
    from aiohttp.http_parser import HttpRequestParser

    loop = Mock(asyncio.AbstractEventLoop)
    parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16)
    bodies: list[Any] = []

    def feed(data: bytes) -> int:
        messages, _, _ = parser.feed_data(data)
        bodies.extend(body for _, body in messages)
        complete = 0
        while bodies and bodies[0].is_eof():
            if bodies[0].exception() is not None:
                raise Refused(bodies[0].exception())
            bodies.pop(0)
            complete += 1
        if bodies and bodies[0].exception() is not None:
            raise Refused(bodies[0].exception())
        return complete

    return feed


def zttp() -> Feed:
    import zttp

    connection = zttp.Connection(zttp.SERVER)

    def feed(data: bytes) -> int:
        complete = 0
        event = connection.receive_event(data)
        while event is not zttp.NEED_DATA and not isinstance(event, zttp.ConnectionClosed):
            if isinstance(event, zttp.Request):
                list(event.headers)
            if isinstance(event, zttp.EndOfMessage) or getattr(event, "end_stream", False):
                complete += 1
                connection.start_next_cycle()
            event = connection.next_event()
        return complete

    return feed


PARSERS: dict[str, Callable[[], Feed]] = {
    "httptools": httptools,
    "this project": project,
    "h11": h11,
    "aiohttp": aiohttp,
    "zttp": zttp,
}


def request(*lines: bytes, line: bytes = b"POST / HTTP/1.1", body: bytes = b"") -> bytes:
    return b"\r\n".join([line, b"Host: a", *lines, b"", body])


CHUNKED = b"Transfer-Encoding: chunked"
END = b"0\r\n\r\n"
FIVE = b"5\r\nhello\r\n" + END


def chunks(data: bytes) -> bytes:
    return request(CHUNKED, body=data)


HOSTILE = {
    "Content-Length and chunked": request(b"Content-Length: 5", CHUNKED, body=FIVE),
    "chunked and Content-Length": request(CHUNKED, b"Content-Length: 5", body=FIVE),
    "chunked in HTTP/1.0": request(CHUNKED, line=b"POST / HTTP/1.0", body=FIVE),
    "chunked in two fields": request(CHUNKED, CHUNKED, body=FIVE),
    "`chunked, chunked`": request(b"Transfer-Encoding: chunked, chunked", body=FIVE),
    "`gzip, chunked`": request(b"Transfer-Encoding: gzip, chunked", body=FIVE),
    "`chunked, gzip`": request(b"Transfer-Encoding: chunked, gzip", body=FIVE),
    "`identity`": request(b"Transfer-Encoding: identity"),
    "`xchunked`": request(b"Transfer-Encoding: xchunked", body=FIVE),
    "chunked after VT": request(b"Transfer-Encoding: \x0bchunked", body=FIVE),
    "chunked after NEL": request(b"Transfer-Encoding: \x85chunked", body=FIVE),
    "empty Transfer-Encoding": request(b"Transfer-Encoding:"),
    "Content-Length twice": request(b"Content-Length: 0", b"Content-Length: 5", body=b"hello"),
    "Content-Length twice the same": request(*[b"Content-Length: 5"] * 2, body=b"hello"),
    "`Content-Length: 5, 5`": request(b"Content-Length: 5, 5", body=b"hello"),
    "`Content-Length: +5`": request(b"Content-Length: +5", body=b"hello"),
    "`Content-Length: 0_5`": request(b"Content-Length: 0_5", body=b"hello"),
    "`Content-Length: 0x5`": request(b"Content-Length: 0x5", body=b"hello"),
    "empty Content-Length": request(b"Content-Length:"),
    "Content-Length 2^64": request(b"Content-Length: 18446744073709551616"),
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "Host twice": request(b"Host: b"),
    "empty Host": b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    "Host with `/`": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "Host with user": b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
    "Host with blank": b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    "Host with bad port": b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n",
    "bare LF everywhere": b"GET / HTTP/1.1\nHost: a\n\n",
    "bare LF after a field": b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
    "bare LF at the end": b"GET / HTTP/1.1\r\nHost: a\r\n\n",
    "bare CR in a value": request(b"X: a\rY: b"),
    "NUL in a value": request(b"X: a\0b"),
    "ESC in a value": request(b"X: a\x1bb"),
    "folded field": request(b"X: a", b" b"),
    "folded first field": b"GET / HTTP/1.1\r\n X: a\r\nHost: a\r\n\r\n",
    "blank before the colon": request(b"X : a"),
    "empty name": request(b": a"),
    "no colon": request(b"X"),
    "name of latin-1": request(b"X\xe9: a"),
    "X-A beside X_A": request(b"X-A: 1", b"X_A: 2"),
    "two blanks before the target": request(line=b"GET  / HTTP/1.1"),
    "two blanks after it": request(line=b"GET /  HTTP/1.1"),
    "HTAB in the request line": request(line=b"GET\t/ HTTP/1.1"),
    "blank at its end": request(line=b"GET / HTTP/1.1 "),
    "many empty lines first": b"\r\n" * 9 + request(),
    "bare LF first": b"\n" + request(),
    "method no token": request(line=b"G(T / HTTP/1.1"),
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/0.9 by name": request(line=b"GET / HTTP/0.9"),
    "HTTP/1.2": request(line=b"GET / HTTP/1.2"),
    "HTTP/2.0": request(line=b"GET / HTTP/2.0"),
    "`http/1.1`": request(line=b"GET / http/1.1"),
    "NUL in the target": request(line=b"GET /\0 HTTP/1.1"),
    "latin-1 in the target": request(line=b"GET /\xe9 HTTP/1.1"),
    "fragment": request(line=b"GET /#a HTTP/1.1"),
    "`*` with GET": request(line=b"GET * HTTP/1.1"),
    "authority-form": request(line=b"GET a:443 HTTP/1.1"),
    "relative target": request(line=b"GET a HTTP/1.1"),
    "user in the target": request(line=b"GET http://u@a/ HTTP/1.1"),
    "CONNECT": request(line=b"CONNECT a:443 HTTP/1.1"),
    "unknown expectation": request(b"Expect: 200-ok"),
    "200 fields": request(*[b"X: a"] * 200),
    "field of 60 KiB": request(b"X: " + b"a" * 61440),
    "line of 60 KiB": request(line=b"GET /%b HTTP/1.1" % (b"a" * 61440)),
    "chunk `+5`": chunks(b"+" + FIVE),
    "chunk `0x5`": chunks(b"0x" + FIVE),
    "chunk of 17 digits": chunks(b"0" * 16 + FIVE),
    "blank after the size": chunks(b"5 \r\nhello\r\n" + END),
    "chunk without CRLF": chunks(b"5\r\nhelloXX" + END),
    "chunk line with LF": chunks(b"5\nhello\r\n" + END),
    "LF after a chunk": chunks(b"5\r\nhello\n" + END),
    "LF in an extension": chunks(b"5;a\nb\r\nhello\r\n" + END),
    "extension of 30 KiB": chunks(b"5;" + b"a" * 30720 + b"\r\nhello\r\n" + END),
    "folded trailer": chunks(b"0\r\nX: a\r\n b\r\n\r\n"),
    "upgrade with a body": request(
        b"Connection: upgrade", b"Upgrade: h2c", b"Content-Length: 31",
        body=b"GET /smuggled HTTP/1.1\r\nX: aa\r\n\r\n"[:31],
    ),
}  # fmt: skip
GOOD = {
    "plain": request(),
    "HTTP/1.0 without Host": b"GET / HTTP/1.0\r\n\r\n",
    "empty line first": b"\r\n" + request(),
    "`OPTIONS *`": request(line=b"OPTIONS * HTTP/1.1"),
    "absolute-form": request(line=b"GET http://a:80/b?c HTTP/1.1"),
    "latin-1 in a value": request(b"X: \xe9"),
    "odd name": request(b"!#$%&'*+-.^_`|~: a"),
    "Content-Length with blanks": request(b"Content-Length: \t5 ", body=b"hello"),
    "`Chunked`": request(b"Transfer-Encoding: Chunked", body=FIVE),
    "extensions": chunks(b'5;a;b=c;d="e; f"\r\nhello\r\n' + END),
    "trailer": chunks(b"5\r\nhello\r\n0\r\nX: a\r\n\r\n"),
}
"""What no parser may refuse."""

NOT_THEIRS = {"upgrade with a body"}
"""Good requests that are read wrongly: accepted means that the body is taken for what follows."""

GET = (
    b"GET /articles/index.html?page=2 HTTP/1.1\r\n"
    b"Host: www.example.org\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
    b"Accept-Language: en-US,en;q=0.5\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\n"
    b"%b\r\n\r\n"
)
POST = (
    b"POST /articles HTTP/1.1\r\n"
    b"Host: www.example.org\r\n"
    b"User-Agent: curl/8.5.0\r\n"
    b"Accept: */*\r\n"
    b"%b\r\n"
    b"Content-Type: application/octet-stream\r\n"
    b"Content-Length: 1024\r\n\r\n" + b"x" * 1024
)
SAME = [b"Connection: keep-alive"] * 16
OTHER = [b"Cookie: session=%016d" % number for number in range(16)]
LOADS = {
    "GET, 6 headers": [GET % line for line in SAME],
    "GET, 6 headers, always others": [GET % line for line in OTHER],
    "POST of 1 KiB": [POST % line for line in SAME],
    "POST of 1 KiB, always others": [POST % line for line in OTHER],
}


def accepts(make: Callable[[], Feed], data: bytes, wrongly: bool = False) -> bool:
    """Say whether a new parser takes all of *data* for one request or more."""
    try:
        feed = make()
        complete = feed(data)
        if wrongly:  # the body has nothing to do with completeness if it is not read as one
            complete = make()(data[: data.index(b"\r\n\r\n") + 4])
        return complete > 0
    except Exception:  # each has its own
        return False


def rate(make: Callable[[], Feed], load: list[bytes], seconds: float) -> float:
    """Return requests per second."""
    feed = make()
    count, begin = 0, time.perf_counter()
    while (now := time.perf_counter()) - begin < seconds:
        for data in load * 16:
            if feed(data) != 1:
                raise Refused("a good request")
        count += 16 * len(load)
    return count / (now - begin)


def installed() -> Iterator[tuple[str, str]]:
    for name, make in PARSERS.items():
        try:
            make()
        except ImportError as error:
            print(f"{name} is left out: {error}; pip install {name}", file=sys.stderr)
            continue
        yield name, "" if name == "this project" else importlib.metadata.version(name)


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--seconds", type=float, default=0.5)
    arguments.add_argument("--all", action="store_true")
    options = arguments.parse_args()
    versions = dict(installed())

    def head(first: str) -> None:
        row(first, *(f"{name} {version}".strip() for name, version in versions.items()))
        row("---", *("---" for _ in versions))

    head("request")
    totals = dict.fromkeys(versions, 0)
    for title, data in HOSTILE.items():
        taken = [name for name in versions if accepts(PARSERS[name], data, title in NOT_THEIRS)]
        for name in taken:
            totals[name] += 1
        if taken or options.all:
            row(title, *("accepted" if name in taken else "" for name in versions))
    row(f"accepted of {len(HOSTILE)}", *totals.values())
    refused = {
        name: [title for title, data in GOOD.items() if not accepts(PARSERS[name], data)]
        for name in versions
    }
    row(f"refused of {len(GOOD)} good", *(", ".join(titles) or 0 for titles in refused.values()))
    print()
    head("requests/s, as a ratio")
    for title, load in LOADS.items():
        ratios: dict[str, list[float]] = {name: [] for name in versions}
        for number in range(options.rounds):
            order = list(versions) if number % 2 else list(reversed(versions))
            rates = {name: rate(PARSERS[name], load, options.seconds) for name in order}
            for name in versions:
                ratios[name].append(rates[name] / rates["httptools"])
        row(title, *(f"{statistics.median(values):.2f}" for values in ratios.values()))


if __name__ == "__main__":
    main()
