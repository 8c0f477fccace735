"""Hostile, broken and unusual requests, and what an HTTP/1.1 host has to answer.

The classes H1 to H18 and E3 are those of docs/hostile-requests.md; ``legal`` holds what must be
accepted exactly, so that a server that refuses everything fails as well.  Most refused requests
are followed by a second one, which may never be answered: where two parties disagree on the end of
a request, that is what an attacker hides.

Names of families are a case's first words, so ``H3-value-*`` finds one.
"""

from __future__ import annotations

from collections.abc import Iterator

from httpd.raw_client import NOTHING, Answer, Case, Piece, Seen

HOST = b"Host: h.test\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST
POST = b"POST /post HTTP/1.1\r\n" + HOST
END = b"\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\n" + HOST + END
CHUNKED = b"Transfer-Encoding: chunked\r\n"
HELLO = b"5\r\nhello\r\n0\r\n\r\n"
BODY = b"hello"

CONTROLS = [*range(0x20), 0x7F]
TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
NOT_TOKEN = b'"(),/:;<=>?@[\\]{}'
"""The visible characters that a token cannot have."""

# Apache's limits, and the host's: LimitRequestLine, LimitRequestFieldSize, LimitRequestFields.
LINE = FIELD = 8190
FIELDS = 100
BODY_LIMIT = 1 << 30


# -- how a case is written ----------------------------------------------------------------------


def seen(
    method: str = "GET",
    uri: str | None = "/",
    path: str | None = None,
    query: str | None = None,
    body: bytes = b"",
    absent: tuple[str, ...] = (),
    **headers: str,
) -> Seen:
    """What the application gets; path and query are those of *uri* unless given.

    Headers are named without HTTP_.
    """
    if uri is not None:
        bare, _, rest = uri.partition("?")
        path = bare if path is None else path
        query = rest if query is None else query
    named = {f"HTTP_{name}": value for name, value in headers.items()}
    return Seen(method, uri, path, query, body, named, tuple(f"HTTP_{name}" for name in absent))


def ok(told: Seen | None = None, **more: object) -> Answer:
    """A 200, after which the connection is kept unless *more* says otherwise."""
    more.setdefault("close", False)
    return Answer((200,), told if told is not None else seen(), **more)  # type: ignore[arg-type]


def no(*statuses: int) -> Answer:
    """A refusal, 400 when nothing is given, after which the connection is closed."""
    return Answer(statuses or (400,), close=True)


def maybe(told: Seen | None, *statuses: int) -> Answer:
    """Accepted exactly, or refused: 400 when nothing is given."""
    return Answer((200, *(statuses or (400,))), told)


def refused(id: str, raw: bytes, *statuses: int, more: bytes = SMUGGLED) -> Case:
    """A case of one request that is refused, and of a second one that goes unheard."""
    return Case(id, id.split("-")[0], (raw + more,), (no(*statuses),))


def taken(id: str, raw: bytes, told: Seen | None = None, **more: object) -> Case:
    """A case of one request that is accepted."""
    return Case(id, id.split("-")[0], (raw,), (ok(told, **more),))


def either(id: str, raw: bytes, told: Seen | None, *statuses: int) -> Case:
    """A case of one request that is accepted exactly or refused."""
    return Case(id, id.split("-")[0], (raw,), (maybe(told, *statuses),))


def talk(id: str, pieces: tuple[Piece, ...], *answers: Answer, half_close: bool = False) -> Case:
    """A case with several pieces or answers."""
    return Case(id, id.split("-")[0], pieces, answers, half_close)


_WORDS = {0: "NUL", 9: "TAB", 10: "LF", 13: "CR", 32: "SP"}


def name_of(data: bytes) -> str:
    """Bytes as a part of an id, without what shells and patterns know: ``5SP6``, ``x5b::1x5d``."""
    if len(data) > 60:
        return f"{name_of(data[:8])}-{len(data)}"
    plain = b"-._:=,;/@+%~"
    return (
        "".join(
            chr(c) if c < 0x80 and (chr(c).isalnum() or c in plain) else _WORDS.get(c, f"x{c:02x}")
            for c in data
        )
        or "empty"
    )


def chunks(*parts: bytes) -> bytes:
    """A chunked body."""
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (*parts, b""))


# -- H1, H2: Transfer-Encoding ------------------------------------------------------------------

# Values that are not exactly `chunked`, though some server has read them so or has read nothing.
CODINGS = (
    b"",
    b'"chunked"',
    b"'chunked'",
    b"chunked,",
    b",chunked",
    b",",
    b"chunked, chunked",
    b"chunked chunked",
    b"chunked, identity",
    b"identity, chunked",
    b"identity",
    b"gzip, chunked",
    b"chunked, gzip",
    b"gzip",
    b"x-gzip",
    b"xchunked",
    b"x-chunked",
    b"chunkedx",
    b"chunke",
    b"chun ked",
    b"chunked;q=1",
    b"chunked;",
    b"chunked;foo=bar",
    b"chunked/1",
    b":chunked",
    b"chunked:",
    b"=chunked",
    b"%63hunked",
    b"\\chunked",
    b"(x)chunked",
    b"\x00chunked",
    b"chunked\x00",
    b"\x08chunked",
    b"\x0bchunked",
    b"chunked\x0b",
    b"\x0cchunked",
    b"chunked\x0c",
    b"chunked\x1f",
    b"chunked\x7f",
    b"\x85chunked",
    b"chunked\x85",
    b"\xa0chunked",
    b"chunked\xa0",
    b"\xef\xbb\xbfchunked",
    b"chun\xe2\x84\xaaed",  # KELVIN SIGN, which is k in lower case
    b"c\xe8unked",
    b"\rchunked",
    b"chunked\r",
    b"\nchunked",
    b"0",
    b"true",
)

# Lines that look like a Transfer-Encoding to somebody.
CODING_LINES = (
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding\t: chunked\r\n",
    b" Transfer-Encoding: chunked\r\n",
    b"\tTransfer-Encoding: chunked\r\n",
    b"\x00Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding\x00: chunked\r\n",
    b"Transfer-Encoding\x0b: chunked\r\n",
    b"Transfer-Encoding\x0c: chunked\r\n",
    b"Transfer-Encoding\x85: chunked\r\n",
    b"Transfer-Encoding\xa0: chunked\r\n",
    b"\xa0Transfer-Encoding: chunked\r\n",
    b"\xef\xbb\xbfTransfer-Encoding: chunked\r\n",
    b"Transfer Encoding: chunked\r\n",
    b"Transfer-\xc3\x8bncoding: chunked\r\n",
    b"Transfer-Encod\xc4\xb1ng: chunked\r\n",
    b"Transfer-Encoding= chunked\r\n",
    b"Transfer-Encoding; chunked\r\n",
    b"Transfer-Encoding chunked\r\n",
    b'"Transfer-Encoding": chunked\r\n',
    b"Transfer-Encoding\r\n: chunked\r\n",
    b"Transfer-Encoding:\r\n chunked\r\n",
    b"Transfer-Encoding: \r\n\tchunked\r\n",
    b"Transfer-Encoding: chunked\r\n \r\n",
    b"X-A: b\nTransfer-Encoding: chunked\r\n",
    b"X-A: b\rTransfer-Encoding: chunked\r\n",
    b"X-A: b\n\rTransfer-Encoding: chunked\r\n",
    b"X-A: b\r\r\nTransfer-Encoding: chunked\r\n",
    b"X-A: b\r\n Transfer-Encoding: chunked\r\n",
    b"X-A: b\r\n\rTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\n",
    b"Transfer-Encoding: chunked\r",
    b"Transfer-Encoding\n: chunked\r\n",
)


def coding_and_length() -> Iterator[Case]:
    """H1: both framings, in any dress."""
    length = b"Content-Length: 5\r\n"
    yield refused("H1-both-coding-first", POST + CHUNKED + length + END + HELLO)
    yield refused("H1-both-length-first", POST + length + CHUNKED + END + HELLO)
    for number in (0, 3, 100, len(HELLO), len(HELLO) + len(SMUGGLED)):
        line = b"Content-Length: %d\r\n" % number
        yield refused(f"H1-both-length-{number}", POST + line + CHUNKED + END + HELLO)
    hidden = b"0\r\n\r\n" + SMUGGLED
    line = b"Content-Length: %d\r\n" % len(hidden)
    yield refused("H1-classic-length-then-coding", POST + line + CHUNKED + END + hidden)
    hidden = b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
    yield refused(
        "H1-classic-coding-then-length", POST + CHUNKED + b"Content-Length: 4\r\n\r\n" + hidden
    )
    yield refused("H1-both-on-get", GET + CHUNKED + length + END + HELLO)
    yield refused(
        "H1-both-on-delete", b"DELETE / HTTP/1.1\r\n" + HOST + CHUNKED + length + END + HELLO
    )
    yield refused("H1-both-length-twice", POST + length + CHUNKED + length + END + HELLO)
    yield refused("H1-both-coding-twice", POST + CHUNKED + length + CHUNKED + END + HELLO)
    yield refused("H1-both-bad-length", POST + b"Content-Length: x\r\n" + CHUNKED + END + HELLO)
    yield refused("H1-both-empty-length", POST + b"Content-Length:\r\n" + CHUNKED + END + HELLO)
    yield refused("H1-both-lower-case", POST + (CHUNKED + length).lower() + END + HELLO)
    yield refused("H1-both-upper-case", POST + CHUNKED.upper() + length.upper() + END + HELLO)
    yield refused(
        "H1-both-in-1.0",
        b"POST / HTTP/1.0\r\nConnection: keep-alive\r\n" + CHUNKED + length + END + HELLO,
    )
    yield refused(
        "H1-both-named-by-connection",
        POST + b"Connection: Content-Length\r\n" + CHUNKED + length + END + HELLO,
    )
    yield refused(
        "H1-both-coding-named-by-connection",
        POST + b"Connection: Transfer-Encoding\r\n" + CHUNKED + length + END + HELLO,
    )
    yield refused("H1-both-far-apart", POST + length + b"X-A: b\r\n" * 90 + CHUNKED + END + HELLO)
    for value in CODINGS:
        yield refused(
            f"H1-value-{name_of(value)}",
            POST + b"Transfer-Encoding: " + value + b"\r\n" + length + END + BODY,
            400,
            501,
        )
    for line in CODING_LINES:
        yield refused(f"H1-line-{name_of(line)}", POST + length + line + END + HELLO)


def codings() -> Iterator[Case]:
    """H2: Transfer-Encoding alone."""
    for value in CODINGS:
        yield refused(
            f"H2-value-{name_of(value)}",
            POST + b"Transfer-Encoding: " + value + b"\r\n\r\n" + HELLO,
            400,
            501,
        )
    for first, second in (
        (b"chunked", b"chunked"),
        (b"chunked", b"identity"),
        (b"identity", b"chunked"),
        (b"gzip", b"chunked"),
        (b"chunked", b"gzip"),
        (b"chunked", b""),
        (b"", b"chunked"),
        (b"chunked", b"x"),
        (b"x", b"chunked"),
    ):
        lines = b"Transfer-Encoding: %b\r\nTransfer-Encoding: %b\r\n" % (first, second)
        name = f"H2-twice-{name_of(first)}-{name_of(second)}"
        yield refused(name, POST + lines + END + HELLO, 400, 501)
    yield refused(
        "H2-twice-in-two-cases", POST + CHUNKED + CHUNKED.swapcase() + END + HELLO, 400, 501
    )
    yield refused(
        "H2-twice-apart", POST + CHUNKED + b"X-A: b\r\n" * 20 + CHUNKED + END + HELLO, 400, 501
    )
    old = b"POST / HTTP/1.0\r\n" + HOST
    yield refused("H2-old-chunked", old + CHUNKED + END + HELLO, 400, 501)
    yield refused(
        "H2-old-chunked-kept", old + b"Connection: keep-alive\r\n" + CHUNKED + END + HELLO, 400, 501
    )
    yield refused("H2-old-identity", old + b"Transfer-Encoding: identity\r\n\r\n", 400, 501)
    yield refused("H2-old-gzip", old + b"Transfer-Encoding: gzip\r\n\r\n", 400, 501)
    yield refused("H2-old-empty", old + b"Transfer-Encoding:\r\n\r\n", 400, 501)
    yield refused("H2-old-without-host", b"POST / HTTP/1.0\r\n" + CHUNKED + END + HELLO, 400, 501)
    yield refused("H2-old-get", b"GET / HTTP/1.0\r\n" + HOST + CHUNKED + END + HELLO, 400, 501)
    hidden = chunks(SMUGGLED)
    yield refused(
        "H2-hidden-in-unknown", POST + b"Transfer-Encoding: zchunked\r\n\r\n" + hidden, 400, 501
    )
    # The field TE is another one.
    yield taken("H2-te-is-no-coding", GET + b"TE: chunked\r\n\r\n", seen(TE="chunked"))
    yield taken(
        "H2-te-beside-length",
        POST + b"TE: chunked\r\nContent-Length: 5\r\n\r\n" + BODY,
        seen("POST", "/post", body=BODY),
    )
    yield taken(
        "H2-longer-name",
        POST + b"X-Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + BODY,
        seen("POST", "/post", body=BODY, X_TRANSFER_ENCODING="chunked"),
    )
    yield taken(
        "H2-underscore-name",
        POST + b"Transfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + BODY,
        seen("POST", "/post", body=BODY, absent=("TRANSFER_ENCODING",)),
    )
    for value in (b"CHUNKED", b"Chunked", b"cHuNkEd", b"  chunked", b"\tchunked", b"chunked \t "):
        yield taken(
            f"H2-exact-{name_of(value)}",
            POST + b"Transfer-Encoding:" + value + b"\r\n\r\n" + HELLO,
            seen("POST", "/post", body=BODY),
        )


# -- H3: Content-Length -------------------------------------------------------------------------

LENGTHS = (
    b"",
    b" ",
    b"+5",
    b"-5",
    b"-0",
    b"+",
    b"-",
    b"5,5",
    b"5, 5",
    b"5,6",
    b"0, 5",
    b"5,",
    b",5",
    b",",
    b"5 5",
    b"5;",
    b"5;a=b",
    b"0x5",
    b"0X5",
    b"5h",
    b"0b101",
    b"0o5",
    b"5_0",
    b"_5",
    b"5_",
    b"5.",
    b"5.0",
    b".5",
    b"5e0",
    b"1e1",
    b"5L",
    b"a",
    b"five",
    b"NaN",
    b"inf",
    b"null",
    b'"5"',
    b"'5'",
    b"(5)",
    b"%35",
    b"=5",
    b":5",
    b"5:",
    b"\\5",
    b"5\x00",
    b"\x005",
    b"\x0b5",
    b"5\x0b",
    b"\x0c5",
    b"5\x0c",
    b"5\x1c",
    b"5\x1f",
    b"5\x7f",
    b"\x855",
    b"5\x85",
    b"\xa05",
    b"5\xa0",
    b"5\r",
    b"\n5",
    b"\xb2",
    b"\xd9\xa5",  # ARABIC-INDIC DIGIT FIVE
    b"\xef\xbc\x95",  # FULLWIDTH DIGIT FIVE
    b"\xe2\x81\xb5",  # SUPERSCRIPT FIVE
    b"\xef\xbb\xbf5",
    b"18446744073709551616",
    b"18446744073709551621",
    b"9223372036854775808",
    b"9999999999999999999",
    b"99999999999999999999999999999999",
    b"9" * 400,
    b"-18446744073709551611",
)

LENGTH_LINES = (
    b"Content-Length : 5\r\n",
    b"Content-Length\t: 5\r\n",
    b" Content-Length: 5\r\n",
    b"Content-Length\x00: 5\r\n",
    b"Content-Length\x0b: 5\r\n",
    b"Content-Length\xa0: 5\r\n",
    b"Content Length: 5\r\n",
    b"Content-Length= 5\r\n",
    b"Content-Length 5\r\n",
    b"Content-Length:\r\n 5\r\n",
    b"Content-Length: 5\r\n 0\r\n",
    b"X-A: b\nContent-Length: 5\r\n",
    b"X-A: b\rContent-Length: 5\r\n",
    b"X-A: b\r\n\rContent-Length: 5\r\n",
    b"Content-Length: 5\n",
)


def lengths() -> Iterator[Case]:
    """H3: Content-Length."""
    for value in LENGTHS:
        yield refused(
            f"H3-value-{name_of(value)}", POST + b"Content-Length: " + value + b"\r\n\r\n" + BODY
        )
    for line in LENGTH_LINES:
        yield refused(f"H3-line-{name_of(line)}", POST + line + END + BODY)
    for first, second in (
        (b"5", b"5"),
        (b"5", b"0"),
        (b"0", b"5"),
        (b"0", b"0"),
        (b"5", b"6"),
        (b"5", b"05"),
        (b"5", b""),
        (b"", b"5"),
        (b"5", b"x"),
        (b"x", b"5"),
        (b"5", b"-5"),
    ):
        lines = b"Content-Length: %b\r\nContent-Length: %b\r\n" % (first, second)
        yield refused(f"H3-twice-{name_of(first)}-{name_of(second)}", POST + lines + END + BODY)
    line = b"Content-Length: 5\r\n"
    yield refused("H3-twice-in-two-cases", POST + line + line.upper() + END + BODY)
    yield refused("H3-twice-apart", POST + line + b"X-A: b\r\n" * 20 + line + END + BODY)
    yield refused("H3-thrice", POST + line * 3 + END + BODY)
    yield refused("H3-twice-on-get", GET + line + b"Content-Length: 0\r\n\r\n" + BODY)
    yield refused("H3-bad-on-get", GET + b"Content-Length: x\r\n\r\n")
    yield refused(
        "H3-bad-on-delete", b"DELETE / HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n"
    )
    yield refused("H3-bad-in-1.0", b"POST / HTTP/1.0\r\nContent-Length: 5,5\r\n\r\n" + BODY)
    hidden = b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED)
    yield refused("H3-twice-hides-a-request", POST + hidden)
    for value, body in (
        (b"0", b""),
        (b"00", b""),
        (b"5", BODY),
        (b"05", BODY),
        (b"00000000005", BODY),
        (b"5 \t", BODY),
        (b"\t5", BODY),
    ):
        yield taken(
            f"H3-exact-{name_of(value)}",
            POST + b"Content-Length:" + value + b"\r\n\r\n" + body,
            seen("POST", "/post", body=body),
        )
    yield refused(
        "H3-underscore-name", POST + b"Content_Length: 500\r\nContent-Length: 5\r\n\r\n" + BODY
    )
    yield taken(
        "H3-underscore-name-alone",
        b"POST /post HTTP/1.1\r\nContent_Length: 500\r\n" + HOST + END,
        seen("POST", "/post", absent=("CONTENT_LENGTH",)),
    )


# -- H4: Host -----------------------------------------------------------------------------------

# Characters that the generic syntax allows in a name, though no name in use has them.
SUB_DELIMS = b"!$&'()*+,;=~"

BAD_HOSTS = (
    b"h.test,evil.test/",
    b"u@h.test",
    b"u:p@h.test",
    b"@h.test",
    b"h.test@",
    b"h.test:80@evil.test",
    b"http://h.test",
    b"//h.test",
    b"h.test/",
    b"h.test/x",
    b"h.test?x",
    b"h.test#x",
    b"h.test\\x",
    b"h.test evil.test",
    b"h.test\tevil.test",
    b"h.test:80 evil",
    b'"h.test"',
    b"<h.test>",
    b"h.test:-1",
    b"h.test:+80",
    b"h.test:80x",
    b"h.test:0x50",
    b"h.test:8_0",
    b"h.test:8 0",
    b"h.test: 80",
    b"h.test :80",
    b"h.test:http",
    b"h.test:80:80",
    b"h.test:80/",
    b"h.test:\xd9\xa8\xd9\xa0",
    b"h.test:\xef\xbc\x98\xef\xbc\x90",
    b"h.test:80\xb2",
    b"h.test\x0b",
    b"h.test\x0c",
    b"h.test\xa0",
    b"\xa0h.test",
    b"h.test\x85",
    b"[::1",
    b"::1]",
    b"::1",
    b"[::1]80",
    b"[::1]h.test",
    b"h.test[::1]",
    b"[::1]:x",
    b"[::1]]",
    b"[[::1]]",
    b"[::1/64]",
    b"[::g]",
    b"[h.test]",
    b"[]",
    b"[ ::1 ]",
    b"[::1]:80:80",
    b"h%zz",
    b"h%2",
    b"h%00",
)

# Hosts that have a grammar, or none, but no illegal character.
ODD_HOSTS = (
    b"",
    b":80",
    b"h..test",
    b".h.test",
    b".",
    b"-h.test",
    b"h%2etest",
    b"h.test:0",
    b"h.test:65536",
    b"h.test:99999999999999999999",
    b"h.test:080",
    b"[v1.x]",
    b"[fe80::1%25eth0]",
    b"[1.2.3.4]",
    b"[:::1]",
    b"[1:2:3:4:5:6:7]",
    b"[1:2:3:4:5:6:7:8:9]",
    b"1.2.3",
    b"999.1.1.1",
    b"a" * 300 + b".test",
)

GOOD_HOSTS = (
    b"h.test",
    b"H.Test",
    b"h.test.",
    b"h.test:80",
    b"h.test:65535",
    b"h.test:",
    b"localhost",
    b"a",
    b"x-y_z.h.test",
    b"xn--bcher-kva.test",
    b"127.0.0.1",
    b"127.0.0.1:8080",
    b"[::1]",
    b"[::1]:8080",
    b"[2001:DB8::a]",
    b"[::ffff:192.0.2.1]",
)


def hosts() -> Iterator[Case]:
    """H4: Host."""
    line = b"GET / HTTP/1.1\r\n"
    yield refused("H4-missing", line + END)
    yield refused("H4-missing-with-others", line + b"X-Host: h.test\r\nX-A: b\r\n\r\n")
    yield refused("H4-missing-but-absolute", b"GET http://h.test/ HTTP/1.1\r\n\r\n")
    yield refused("H4-missing-on-post", b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n" + BODY)
    yield refused("H4-missing-on-options", b"OPTIONS * HTTP/1.1\r\n\r\n")
    yield refused("H4-underscore-only", line + b"Host_: h.test\r\n\r\n")
    yield refused("H4-twice-same", line + HOST + HOST + END)
    yield refused("H4-twice-different", line + HOST + b"Host: evil.test\r\n\r\n")
    yield refused("H4-twice-two-cases", line + HOST + b"HOST: h.test\r\n\r\n")
    yield refused("H4-twice-apart", line + HOST + b"X-A: b\r\n" * 20 + b"Host: evil.test\r\n\r\n")
    yield refused("H4-twice-second-empty", line + HOST + b"Host:\r\n\r\n")
    yield refused("H4-twice-first-empty", line + b"Host:\r\n" + HOST + END)
    yield refused("H4-twice-in-1.0", b"GET / HTTP/1.0\r\n" + HOST + b"Host: evil.test\r\n\r\n")
    yield refused(
        "H4-twice-but-absolute",
        b"GET http://h.test/ HTTP/1.1\r\n" + HOST + b"Host: evil.test\r\n\r\n",
    )
    yield refused("H4-bad-in-1.0", b"GET / HTTP/1.0\r\nHost: h/x\r\n\r\n")
    yield refused("H4-bad-but-absolute", b"GET http://h.test/ HTTP/1.1\r\nHost: h/x\r\n\r\n")
    yield refused("H4-folded", line + b"Host: h.test\r\n .evil\r\n\r\n")
    yield refused("H4-folded-first", line + b"Host:\r\n h.test\r\n\r\n")
    yield refused("H4-space-before-colon", line + b"Host : h.test\r\n\r\n")
    yield refused("H4-tab-before-colon", line + b"Host\t: h.test\r\n\r\n")
    yield refused("H4-space-before-name", line + b" Host: h.test\r\n\r\n")
    yield refused("H4-hidden-behind-cr", line + b"X-A: b\rHost: h.test\r\n\r\n")
    yield refused("H4-hidden-behind-lf", line + b"X-A: b\nHost: h.test\r\n\r\n")
    yield refused("H4-hidden-second-behind-lf", line + HOST + b"X-A: b\nHost: evil.test\r\n\r\n")
    for character in (*b'"#/<>?@[\\]^`{|} ', 0x80, 0xC3, 0xFF):
        value = b"h%c.test" % character
        yield refused(f"H4-character-x{character:02x}", line + b"Host: " + value + b"\r\n\r\n")
    for value in BAD_HOSTS:
        yield refused(f"H4-bad-{name_of(value)}", line + b"Host: " + value + b"\r\n\r\n")
    for character in SUB_DELIMS:
        value = b"h%c.test" % character
        yield either(
            f"H4-delimiter-x{character:02x}",
            line + b"Host: " + value + b"\r\n\r\n",
            seen(HOST=value.decode()),
        )
    for value in ODD_HOSTS:
        headers = {"HOST": value.decode()} if value else {}
        yield either(
            f"H4-odd-{name_of(value)}", line + b"Host: " + value + b"\r\n\r\n", seen(**headers)
        )
    for value in GOOD_HOSTS:
        yield taken(
            f"H4-good-{name_of(value)}",
            line + b"Host: " + value + b"\r\n\r\n",
            seen(HOST=value.decode()),
        )
    yield taken("H4-good-white-space", line + b"Host:\t h.test \t\r\n\r\n", seen(HOST="h.test"))
    yield taken("H4-good-no-space", line + b"Host:h.test\r\n\r\n", seen(HOST="h.test"))
    yield taken("H4-good-last", line + b"X-A: b\r\n" * 50 + HOST + END, seen(HOST="h.test"))
    yield taken("H4-good-lower-case-name", line + b"host: h.test\r\n\r\n", seen(HOST="h.test"))
    yield taken("H4-missing-in-1.0", b"GET / HTTP/1.0\r\n\r\n", close=True)


# -- H5: the bytes of a head --------------------------------------------------------------------


def controls() -> Iterator[Case]:
    """H5, H6: each control character in each place of a head."""
    for code in CONTROLS:
        c = b"%c" % code
        at = f"x{code:02x}"
        line_statuses = (400, 505)
        yield refused(
            f"H6-control-method-{at}", b"GE" + c + b"T / HTTP/1.1\r\n" + HOST + END, *line_statuses
        )
        yield refused(
            f"H6-control-target-{at}",
            b"GET /a" + c + b"b HTTP/1.1\r\n" + HOST + END,
            *line_statuses,
        )
        yield refused(
            f"H6-control-version-{at}", b"GET / HTTP/1" + c + b".1\r\n" + HOST + END, *line_statuses
        )
        yield refused(f"H5-control-name-{at}", GET + b"X" + c + b"A: b\r\n\r\n")
        yield refused(f"H4-control-host-{at}", b"GET / HTTP/1.1\r\nHost: h" + c + b".test\r\n\r\n")
        if code != 0x09:
            yield refused(f"H5-control-value-{at}", GET + b"X-A: a" + c + b"X-B: b\r\n\r\n")
    # What str.strip() takes off, and bytes.strip() does not, and the other way round.
    for code in (0x00, 0x0B, 0x0C, 0x1C, 0x1D, 0x1E, 0x1F, 0x7F):
        c = b"%c" % code
        yield refused(f"H5-control-value-end-x{code:02x}", GET + b"X-A: b" + c + b"\r\n\r\n")
        yield refused(f"H5-control-value-start-x{code:02x}", GET + b"X-A:" + c + b"b\r\n\r\n")
    for text in (b"\x85", b"\xa0", b"\xff", b"\xc2\xa0", b"\xe2\x80\xa8"):
        value = text + b"b" + text
        yield taken(
            f"H5-high-value-{name_of(text)}",
            GET + b"X-A: " + value + b"\r\n\r\n",
            seen(X_A=value.decode("latin-1")),
        )


def names() -> Iterator[Case]:
    """H5: names of fields."""
    for code in (*NOT_TOKEN.replace(b":", b""), 0x20, 0x80, 0x85, 0xA0, 0xC3, 0xFF):
        c = b"%c" % code
        yield refused(f"H5-name-character-x{code:02x}", GET + b"X" + c + b"A: b\r\n\r\n")
    for name, text in (
        ("empty", b": b\r\n"),
        ("empty-and-no-value", b":\r\n"),
        ("empty-after-space", b" : b\r\n"),
        ("no-colon", b"X-A\r\n"),
        ("no-colon-but-words", b"X-A b c\r\n"),
        ("space-before-colon", b"X-A : b\r\n"),
        ("spaces-before-colon", b"X-A    : b\r\n"),
        ("tab-before-colon", b"X-A\t: b\r\n"),
        ("high-before-colon", b"X-A\xa0: b\r\n"),
        ("space-first", b" X-A: b\r\n"),
        ("tab-first", b"\tX-A: b\r\n"),
        ("only-space", b" \r\n"),
        ("only-tab", b"\t\r\n"),
        ("equals", b"X-A=b\r\n"),
        ("second-request-line", b"GET /smuggled HTTP/1.1\r\n"),
        ("nul-alone", b"\x00\r\n"),
    ):
        yield refused(f"H5-name-{name}", GET + text + END)
        yield refused(f"H5-name-first-{name}", b"GET / HTTP/1.1\r\n" + text + HOST + END)


def line_ends() -> Iterator[Case]:
    """H5: bare CR, bare LF, obsolete folding."""
    lf = b"\n"
    yield refused("H5-lf-everywhere", (GET + END).replace(b"\r\n", lf))
    yield refused("H5-lf-request-line", b"GET / HTTP/1.1\n" + HOST + END, 400, 505)
    yield refused("H5-lf-field", b"GET / HTTP/1.1\r\nHost: h.test\n\r\n")
    yield refused("H5-lf-second-field", GET + b"X-A: b\n\r\n")
    yield refused("H5-lf-empty-line", GET + b"X-A: b\r\n\n")
    yield refused("H5-lf-lf", GET + b"X-A: b\n\n")
    yield refused("H5-lf-in-1.0", b"GET / HTTP/1.0\n\n")
    yield refused("H5-lf-post", (POST + b"Content-Length: 5\r\n\r\n").replace(b"\r\n", lf) + BODY)
    yield refused("H5-lf-before-chunks", POST + CHUNKED + b"\n" + HELLO)
    yield refused("H5-cr-everywhere", (GET + END).replace(b"\r\n", b"\r") + END + END)
    yield refused("H5-cr-request-line", b"GET / HTTP/1.1\r" + HOST + END, 400, 505)
    yield refused("H5-cr-field", b"GET / HTTP/1.1\r\nHost: h.test\rX-A: b\r\n\r\n")
    yield refused("H5-cr-cr-lf", b"GET / HTTP/1.1\r\r\n" + HOST + END, 400, 505)
    yield refused("H5-cr-cr-lf-field", GET + b"X-A: b\r\r\n\r\n")
    yield refused("H5-cr-cr-lf-empty-line", GET + b"\r\r\n")
    yield refused("H5-cr-x-instead-of-empty-line", GET + b"\rX\r\n\r\n")
    yield refused("H5-lf-cr", GET + b"X-A: b\n\r\n\r")
    yield refused("H5-lf-before-request-line", b"\n" + GET + END)
    yield refused("H5-cr-before-request-line", b"\r" + GET + END)
    yield refused("H5-space-line-before-request-line", b" \r\n" + GET + END)
    for name, fold in (("space", b" "), ("tab", b"\t"), ("spaces", b"    "), ("mixed", b" \t ")):
        yield refused(f"H5-fold-{name}", GET + b"X-A: b\r\n" + fold + b"c\r\n\r\n")
    yield refused("H5-fold-twice", GET + b"X-A: b\r\n c\r\n d\r\n\r\n")
    yield refused("H5-fold-empty", GET + b"X-A: b\r\n \r\n\r\n")
    yield refused("H5-fold-of-empty-value", GET + b"X-A:\r\n b\r\n\r\n")
    yield refused("H5-fold-request-line", b"GET /\r\n HTTP/1.1\r\n" + HOST + END, 400, 505)
    yield refused("H5-fold-by-lf", GET + b"X-A: b\n c\r\n\r\n")
    yield refused("H5-fold-by-cr", GET + b"X-A: b\r c\r\n\r\n")
    yield refused("H5-fold-of-a-name", GET + b"X-\r\n A: b\r\n\r\n")
    yield refused("H5-fold-hides-a-field", GET + b"X-A: b\r\n\tContent-Length: 5\r\n\r\n" + BODY)
    yield refused("H5-fold-in-1.0", b"GET / HTTP/1.0\r\nX-A: b\r\n c\r\n\r\n")


# -- H6: the request line -----------------------------------------------------------------------

VERSIONS = (
    b"HTTP/0.9",
    b"HTTP/0.0",
    b"HTTP/2",
    b"HTTP/2.0",
    b"HTTP/3.0",
    b"HTTP/9.9",
    b"HTTP/1",
    b"HTTP/1.",
    b"HTTP/.1",
    b"HTTP/",
    b"HTTP",
    b"HTTP/1.10",
    b"HTTP/1.01",
    b"HTTP/01.1",
    b"HTTP/11.1",
    b"HTTP/10.1",
    b"HTTP/1.1.1",
    b"HTTP/1.1a",
    b"HTTP/a.1",
    b"HTTP/1,1",
    b"HTTP/1_1",
    b"HTTP/1-1",
    b"HTTP/-1.1",
    b"HTTP/+1.1",
    b"HTTP/1.-1",
    b"HTTP/1.+1",
    b"HTTP/ 1.1",
    b"HTTP /1.1",
    b"HTTP/1 .1",
    b"HTTP/1. 1",
    b"HTTP 1.1",
    b"HTTP//1.1",
    b"HTTP\\1.1",
    b"HTTP:1.1",
    b"HTTP1.1",
    b"http/1.1",
    b"Http/1.1",
    b"hTTP/1.1",
    b"HTTPS/1.1",
    b"XHTTP/1.1",
    b"HTT/1.1",
    b"ICY/1.1",
    b"RTSP/1.0",
    b"SIP/2.0",
    b"FTP/1.1",
    b"HTTP/\xd9\xa1.1",
    b"HTTP/1.\xef\xbc\x91",
    b"HTTP/1.\xb9",
    b"HTTP/1.1\x00",
    b"HTTP/1.1\x0b",
    b"HTTP/1.1\xa0",
    b"HTTP/1.1;",
    b"HTTP/1.1,",
    b"HTTP/1.1 x",
    b"HTTP/1.1 HTTP/1.1",
    b"HTTP/1.0 HTTP/1.1",
    b"HTTP/4294967297.1",
    b"HTTP/1.4294967297",
)


def request_lines() -> Iterator[Case]:
    """H6: method, spaces, version."""
    rest = HOST + END
    for code in (*NOT_TOKEN, 0x80, 0xA0, 0xC3, 0xFF):
        line = b"GE%cT / HTTP/1.1\r\n" % code
        yield refused(f"H6-method-character-x{code:02x}", line + rest, 400, 501)
    for name, line in (
        ("method-missing", b"/ HTTP/1.1"),
        ("method-empty", b" / HTTP/1.1"),
        ("method-quoted", b'"GET" / HTTP/1.1'),
        ("method-with-bom", b"\xef\xbb\xbfGET / HTTP/1.1"),
        ("method-fullwidth", b"\xef\xbc\xa7ET / HTTP/1.1"),
        ("space-two-first", b"GET  / HTTP/1.1"),
        ("space-two-second", b"GET /  HTTP/1.1"),
        ("space-before", b" GET / HTTP/1.1"),
        ("space-after", b"GET / HTTP/1.1 "),
        ("space-in-target", b"GET /a b HTTP/1.1"),
        ("space-tab-first", b"GET\t/ HTTP/1.1"),
        ("space-tab-second", b"GET /\tHTTP/1.1"),
        ("space-tab-both", b"GET\t/\tHTTP/1.1"),
        ("space-tab-before", b"\tGET / HTTP/1.1"),
        ("space-tab-after", b"GET / HTTP/1.1\t"),
        ("space-vt", b"GET\x0b/\x0bHTTP/1.1"),
        ("space-ff", b"GET\x0c/\x0cHTTP/1.1"),
        ("space-high", b"GET\xa0/\xa0HTTP/1.1"),
        ("space-missing-first", b"GET/ HTTP/1.1"),
        ("space-missing-second", b"GET /HTTP/1.1"),
        ("space-only", b" "),
        ("word", b"GET"),
        ("word-and-space", b"GET "),
        ("target-missing", b"GET HTTP/1.1"),
        ("target-empty", b"GET  HTTP/1.1"),
        ("old", b"GET /"),
        ("old-space", b"GET / "),
        ("old-post", b"POST /"),
        ("old-absolute", b"GET http://h.test/"),
        ("four-words", b"GET / HTTP/1.1 extra"),
        ("response", b"HTTP/1.1 200 OK"),
        ("field", b"Host: h.test"),
        ("lower-case-all", b"get / http/1.1"),
        ("tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        ("fastcgi", b"\x01\x01\x00\x01\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00"),
        ("proxy-protocol", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2"),
        ("smtp", b"EHLO h.test"),
        ("redis", b"*1"),
        ("memcached", b"stats"),
        ("json", b'{"method": "GET"}'),
    ):
        yield refused(f"H6-line-{name}", line + END + rest, 400, 501, 505)
    for version in VERSIONS:
        raw = b"GET / " + version + END + rest
        yield refused(f"H6-version-{name_of(version)}", raw, 400, 505)
    yield either("H6-newer-minor-1.2", b"GET / HTTP/1.2\r\n" + rest, seen(), 400, 505)
    yield either("H6-newer-minor-1.9", b"GET / HTTP/1.9\r\n" + rest, seen(), 400, 505)
    # Followed by a body and a second request, where HTTP/0.9 would have ended the connection.
    yield refused("H6-old-with-body", b"POST /\r\nContent-Length: 5\r\n\r\n" + BODY, 400, 505)
    yield refused("H6-old-pipelined", b"GET /one\r\nGET /two\r\n", 400, 505)
    yield refused("H6-empty-lines-only", b"\r\n" * 500 + b"X\r\n\r\n", 400, 505)
    yield refused("H6-rubbish", bytes(range(1, 256)) + END + END, 400, 501, 505)
    yield refused("H6-zeroes", bytes(2000) + END + END, 400, 501, 505)


# -- H7: chunks ---------------------------------------------------------------------------------

SIZES = (
    b"",
    b" ",
    b"-1",
    b"-5",
    b"+5",
    b"-0",
    b"0x5",
    b"0X5",
    b"x5",
    b"5x",
    b"5h",
    b"$5",
    b"#5",
    b"5_0",
    b"_5",
    b"5.0",
    b"5,",
    b"5 5",
    b"g",
    b"five",
    b"{5}",
    b'"5"',
    b"%35",
    b"5=5",
    b"5:",
    b" 5",
    b"\t5",
    b"5 ",
    b"5\t",
    b"5\r",
    b"5\x00",
    b"\x005",
    b"5\x0b",
    b"\x0b5",
    b"5\x0c",
    b"5\x1f",
    b"5\x7f",
    b"5\x85",
    b"5\xa0",
    b"\xa05",
    b"\xd9\xa5",
    b"\xef\xbc\x95",
    b"\xef\xbc\xa1",
    b"\xb2",
    b"\xef\xbb\xbf5",
    b"00000000000000005",
    b"10000000000000005",
    b"100000000000000000000000000000005",
    b"f" * 17,
    b"0" * 400 + b"5",
)

# Between a size and the data: what an extension cannot be.
EXTENSIONS = (
    b";\x00",
    b";a\x00b",
    b";a\rb",
    b";a\nb",
    b";\n",
    b";a=\x01",
    b";a=\x0b",
    b";a=\x7f",
    b';a="b\nc"',
    b';a="b\rc"',
    b';a="b\x00c"',
)

# The ends of a chunk's data that are not CRLF.
CHUNK_ENDS = (
    b"",
    b"\n",
    b"\r",
    b"\r\r\n",
    b"\n\r",
    b"\n\n",
    b"XX",
    b"X\r\n",
    b"\r\nX",
    b" \r\n",
    b"\x00\x00",
    b";\r\n",
)


def chunked() -> Iterator[Case]:
    """H7: the chunks of a body."""
    start = POST + CHUNKED + END
    for size in SIZES:
        raw = start + size + b"\r\nhello\r\n0\r\n\r\n"
        yield refused(f"H7-size-{name_of(size)}", raw, 400, 413)
        if size in (b"-5", b"", b" ", b"0x5", b"5 ", b"+5"):
            # As the last of several, where 0 is expected.
            last = size.replace(b"5", b"0")
            yield refused(
                f"H7-last-{name_of(size)}", start + b"5\r\nhello\r\n" + last + b"\r\n\r\n", 400, 413
            )
    for size in (b"f" * 16, b"8000000000000000", b"7fffffffffffffff", b"fffffffffffffffb"):
        yield refused(f"H7-huge-{name_of(size)}", start + size + b"\r\nhello\r\n", 400, 413)
    for text in EXTENSIONS:
        raw = start + b"5" + text + b"\r\nhello\r\n0\r\n\r\n"
        yield refused(f"H7-extension-{name_of(text)}", raw)
    # An LF in an extension: one side's data is the other side's chunk.
    hidden = b"2;\nxx\r\n4c\r\n0\r\n\r\n" + SMUGGLED + b"0\r\n\r\n"
    yield refused("H7-extension-lf-hides-a-request", start + hidden)
    for end in CHUNK_ENDS:
        raw = start + b"5\r\nhello" + end + b"0\r\n\r\n"
        yield refused(f"H7-end-{name_of(end)}", raw)
    yield refused("H7-end-xx-then-chunk", start + b"5\r\nhelloXX5\r\nworld\r\n0\r\n\r\n")
    yield refused("H7-size-lf", start + b"5\nhello\r\n0\r\n\r\n")
    yield refused("H7-size-cr", start + b"5\rhello\r\n0\r\n\r\n")
    yield refused("H7-lf-everywhere", start + HELLO.replace(b"\r\n", b"\n"))
    yield refused("H7-data-longer", start + b"3\r\nhello\r\n0\r\n\r\n")
    yield refused("H7-data-shorter", start + b"7\r\nhello\r\n0\r\n\r\n")
    yield refused("H7-no-chunks", start + b"hello\r\n\r\n")
    yield refused("H7-empty-line-first", start + END + HELLO)
    yield refused("H7-last-lf", start + b"5\r\nhello\r\n0\n\r\n")
    yield refused("H7-last-then-lf", start + b"5\r\nhello\r\n0\r\n\n")
    yield refused("H7-last-then-cr-x", start + b"5\r\nhello\r\n0\r\n\rX")
    yield refused("H7-last-then-x", start + b"5\r\nhello\r\n0\r\nX\r\n\r\n")
    yield refused("H7-size-after-request-in-data", start + b"1\r\nZ\r\nQ\r\n\r\n")
    long = b";a=" + b"b" * 20000
    yield refused("H7-extension-long", start + b"5" + long + b"\r\nhello\r\n0\r\n\r\n", 400, 413)
    yield refused("H7-extension-long-last", start + b"0" + long + b"\r\n\r\n", 400, 413)
    yield refused("H7-extension-endless", start + b"5;" + b"b" * 100000, 400, 413, more=b"")
    yield refused("H7-size-endless", start + b"0" * 100000, 400, 413, more=b"")
    told = seen("POST", "/post", body=BODY)
    for text in (
        b';a="\\"b\\\\"',
        b";",
        b" ;a",
        b"\t;a",
        b";a =b",
        b"; a",
        b";a= b",
        b';a="b',
        b";;",
        b";=",
        b";a=b c",
    ):
        yield either(
            f"H7-odd-{name_of(text)}", start + b"5" + text + b"\r\nhello\r\n0\r\n\r\n", told
        )
    yield either("H7-odd-high-extension", start + b"5;a=\xe9\r\nhello\r\n0\r\n\r\n", told)
    many = b"1;" + b"a" * 200 + b"\r\nx\r\n"
    yield either(
        "H7-odd-many-extensions",
        start + many * 400 + b"0\r\n\r\n",
        seen("POST", "/post", body=b"x" * 400),
        400,
        413,
    )
    for name, raw, body in (
        ("upper-case", b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
        ("lower-case", b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
        ("looks-like-an-exponent", b"1e0\r\n%b\r\n0\r\n\r\n" % (b"e" * 480), b"e" * 480),
        ("sixteen-digits", b"0000000000000005\r\nhello\r\n0000000000000000\r\n\r\n", BODY),
        ("zeroes-last", b"5\r\nhello\r\n000\r\n\r\n", BODY),
        ("extension", b"5;a\r\nhello\r\n0\r\n\r\n", BODY),
        ("extension-value", b"5;a=b\r\nhello\r\n0\r\n\r\n", BODY),
        ("extension-quoted", b'5;a="b c"\r\nhello\r\n0\r\n\r\n', BODY),
        ("extension-semicolon-quoted", b'5;a=";0"\r\nhello\r\n0\r\n\r\n', BODY),
        ("extensions", b"5;a;b=c;d=e\r\nhello\r\n0;f\r\n\r\n", BODY),
        ("extension-like-a-size", b"5;5=5\r\nhello\r\n0\r\n\r\n", BODY),
        ("empty", b"0\r\n\r\n", b""),
        ("one-by-one", b"1\r\nh\r\n1\r\ne\r\n1\r\nl\r\n1\r\nl\r\n1\r\no\r\n0\r\n\r\n", BODY),
        ("data-of-line-ends", b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
        ("data-like-the-last-chunk", b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n"),
    ):
        yield taken(f"H7-exact-{name}", start + raw, seen("POST", "/post", body=body))


# -- H8: trailers -------------------------------------------------------------------------------


def trailers() -> Iterator[Case]:
    """H8: fields after a chunked body."""
    start = POST + CHUNKED + b"Trailer: X-T\r\n\r\n5\r\nhello\r\n0\r\n"

    def told(*absent: str) -> Seen:
        return seen("POST", "/post", body=BODY, absent=absent, HOST="h.test")

    yield taken("H8-one", start + b"X-T: v\r\n\r\n", told("X_T"))
    yield taken("H8-three", start + b"X-T: v\r\nX-U: w\r\nX-T: x\r\n\r\n", told("X_T", "X_U"))
    yield taken("H8-empty-value", start + b"X-T:\r\n\r\n", told("X_T"))
    yield taken("H8-high-value", start + b"X-T: \xe9\r\n\r\n", told("X_T"))
    yield taken(
        "H8-not-announced", start.replace(b"Trailer: X-T\r\n", b"") + b"X-T: v\r\n\r\n", told("X_T")
    )
    for line in (
        b"Content-Length: 5",
        b"Content-Length: 0",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: identity",
        b"Host: evil.test",
        b"Authorization: Basic dTpw",
        b"Proxy-Authorization: Basic dTpw",
        b"Cookie: a=b",
        b"Content-Type: text/html",
        b"Content-Encoding: gzip",
        b"Content-Range: bytes 0-1/5",
        b"Expect: 100-continue",
        b"Max-Forwards: 0",
        b"TE: chunked",
        b"Trailer: X-U",
        b"Cache-Control: no-store",
        b"Range: bytes=0-0",
        b"If-Match: x",
        b"X-Forwarded-For: 192.0.2.1",
        b"X-Forwarded-Proto: https",
        b"Forwarded: for=192.0.2.1",
        b"Proxy: http://evil.test/",
        b"Upgrade: h2c",
        b"Connection: X-T",
    ):
        name = line.partition(b":")[0].decode()
        variable = name.upper().replace("-", "_")
        absent = () if name == "Host" else (variable,)
        if name in ("Trailer", "Transfer-Encoding"):
            absent = ()  # It was in the head as well.
        yield taken(f"H8-forbidden-{name_of(line)}", start + line + b"\r\n\r\n", told(*absent))
    for name, text in (
        ("no-colon", b"X-T\r\n"),
        ("empty-name", b": v\r\n"),
        ("space-before-colon", b"X-T : v\r\n"),
        ("space-first", b" X-T: v\r\n"),
        ("fold", b"X-T: v\r\n w\r\n"),
        ("lf", b"X-T: v\nX-U: w\r\n"),
        ("lf-end", b"X-T: v\n"),
        ("cr", b"X-T: v\rX-U: w\r\n"),
        ("nul", b"X-T: v\x00\r\n"),
        ("control", b"X-T: v\x01\r\n"),
        ("delete", b"X-T: v\x7f\r\n"),
        ("bad-name", b"X(T: v\r\n"),
        ("high-name", b"X\xe9T: v\r\n"),
        ("request-line", b"GET /smuggled HTTP/1.1\r\n"),
        ("chunk", b"5\r\nhello\r\n0\r\n"),
    ):
        yield refused(f"H8-bad-{name}", start + text + END)
    yield refused("H8-bad-lf-empty-line", start + b"X-T: v\r\n\n")
    yield refused("H8-long", start + b"X-T: " + b"v" * 20000 + b"\r\n\r\n", 400, 413, 431)
    yield refused("H8-many", start + b"X-T: v\r\n" * 2000 + END, 400, 413, 431)
    yield talk(
        "H8-then-a-request",
        (start + b"X-T: v\r\nContent-Length: 60\r\n\r\n" + b"GET /two HTTP/1.1\r\n" + HOST + END,),
        ok(told("X_T")),
        ok(seen("GET", "/two", absent=("X_T",))),
    )


# -- H9: what follows ---------------------------------------------------------------------------


def leftovers() -> Iterator[Case]:
    """H9: bodies that nobody read, which are no requests."""
    hidden = SMUGGLED
    length = b"Content-Length: %d\r\n" % len(hidden)
    coded = chunks(hidden)

    def both(id: str, line: bytes, *answers: Answer, fields: bytes = HOST) -> Iterator[Case]:
        head = line + b" HTTP/1.1\r\n" + fields
        yield talk(f"{id}-length", (head + length + END + hidden,), *answers)
        yield talk(f"{id}-chunked", (head + CHUNKED + END + coded,), *answers)
        # The body comes later, perhaps after the response.
        yield talk(f"{id}-length-later", (head + length + END, hidden), *answers)
        yield talk(f"{id}-chunked-later", (head + CHUNKED + END, coded), *answers)

    unread = Answer((200,), seen("POST", "/unread"))
    yield from both("H9-unread", b"POST /unread", unread)
    yield from both("H9-unread-get", b"GET /unread", Answer((200,), seen("GET", "/unread")))
    yield from both("H9-unread-head", b"HEAD /unread", Answer((200,), None, head=True))
    yield from both("H9-read-get", b"GET /x", ok(seen("GET", "/x", body=hidden)))
    yield from both("H9-read-head", b"HEAD /x", Answer((200,), None, head=True, close=False))
    yield from both("H9-read-delete", b"DELETE /x", ok(seen("DELETE", "/x", body=hidden)))
    yield from both("H9-no-content", b"POST /status/204", Answer((204,)))
    yield from both("H9-not-modified", b"POST /status/304", Answer((304,)))
    yield from both("H9-bad-path", b"POST /%00", no())
    yield from both("H9-above-root", b"POST /../x", no())
    yield from both("H9-encoded-slash", b"POST /a%2Fb", Answer((404,)))
    yield from both(
        "H9-expectation", b"POST /x", Answer((417,)), fields=HOST + b"Expect: miracles\r\n"
    )
    yield from both("H9-connect", b"CONNECT h.test:443", Answer((400, 405, 501)))
    yield from both("H9-options-all", b"OPTIONS *", Answer((200, 204, 400, 405), None))
    yield from both("H9-no-host", b"POST /x", no(), fields=b"")
    yield from both("H9-ambiguous", b"POST /x", no(), fields=HOST + b"X_A: 1\r\nX-A: 2\r\n")
    big = b"x" * 300_000
    yield talk(
        "H9-unread-large",
        (b"POST /unread HTTP/1.1\r\n" + HOST + b"Content-Length: 300000\r\n\r\n" + big,),
        unread,
    )
    requests = SMUGGLED * 5000
    yield talk(
        "H9-unread-large-of-requests",
        (
            b"POST /unread HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(requests),
            requests,
        ),
        unread,
    )
    yield talk(
        "H9-unread-and-close",
        (
            b"POST /unread HTTP/1.1\r\nConnection: close\r\n"
            + HOST
            + length
            + END
            + hidden
            + SMUGGLED,
        ),
        Answer((200,), seen("POST", "/unread"), close=True),
    )
    yield talk(
        "H9-unread-bad-chunks",
        (b"POST /unread HTTP/1.1\r\n" + HOST + CHUNKED + END + b"zz\r\n" + SMUGGLED,),
        Answer((200, 400), None, close=True),
    )


# -- H10: half-closed ---------------------------------------------------------------------------


def half_closed() -> Iterator[Case]:
    """H10: the client closes its side: whole requests are answered, broken off ones are not."""
    broken_off = Answer((NOTHING, 400, 408))
    length = b"Content-Length: 5\r\n\r\n"
    for name, raw in (
        ("request-line", b"GET / HT"),
        ("after-request-line", b"GET / HTTP/1.1\r\n"),
        ("name", b"GET / HTTP/1.1\r\nHos"),
        ("value", b"GET / HTTP/1.1\r\nHost: h.te"),
        ("before-empty-line", GET),
        ("in-empty-line", GET + b"\r"),
        ("before-body", POST + length),
        ("in-body", POST + length + b"hell"),
        ("before-chunks", POST + CHUNKED + END),
        ("in-size", POST + CHUNKED + END + b"5"),
        ("after-size", POST + CHUNKED + END + b"5\r\n"),
        ("in-chunk", POST + CHUNKED + END + b"5\r\nhel"),
        ("after-chunk-data", POST + CHUNKED + END + b"5\r\nhello"),
        ("before-last-chunk", POST + CHUNKED + END + b"5\r\nhello\r\n"),
        ("after-last-size", POST + CHUNKED + END + b"5\r\nhello\r\n0\r\n"),
        ("before-the-last-lf", POST + CHUNKED + END + b"5\r\nhello\r\n0\r\n\r"),
        ("in-trailer", POST + CHUNKED + END + b"5\r\nhello\r\n0\r\nX-T: v"),
        ("after-trailer", POST + CHUNKED + END + b"5\r\nhello\r\n0\r\nX-T: v\r\n"),
    ):
        yield talk(f"H10-broken-off-{name}", (raw,), broken_off, half_close=True)
    yield talk("H10-nothing", (), Answer((NOTHING,)), half_close=True)
    yield talk("H10-empty-line", (END,), broken_off, half_close=True)
    yield talk("H10-whole-get", (GET + END,), ok(), half_close=True)
    told = seen("POST", "/post", body=BODY)
    yield talk("H10-whole-length", (POST + length + BODY,), ok(told), half_close=True)
    yield talk("H10-whole-chunked", (POST + CHUNKED + END + HELLO,), ok(told), half_close=True)
    second = b"GET /two HTTP/1.1\r\n" + HOST + END
    yield talk(
        "H10-whole-two", (GET + END + second,), ok(), ok(seen("GET", "/two")), half_close=True
    )
    yield talk("H10-whole-and-broken-off", (GET + END + POST,), ok(), broken_off, half_close=True)


# -- H11, H12: limits ---------------------------------------------------------------------------


def padded(before: bytes, after: bytes, size: int) -> bytes:
    """*before*, as many letters as make *size*, *after*."""
    return before + b"a" * (size - len(before) - len(after)) + after


def limits() -> Iterator[Case]:
    """H11, H12: just within each limit, and just beyond."""
    for name, before in (("path", b"GET /"), ("query", b"GET /?"), ("segment", b"GET /a/b/c/")):
        line = padded(before, b" HTTP/1.1", LINE)
        uri = line.split(b" ")[1].decode()
        yield taken(f"H11-line-{name}-{LINE}", line + END + HOST + END, seen("GET", uri))
        line = padded(before, b" HTTP/1.1", LINE + 1)
        yield refused(f"H11-line-{name}-{LINE + 1}", line + END + HOST + END, 414)
    line = padded(b"GET http://h.test/", b" HTTP/1.1", LINE + 1)
    yield refused(f"H11-line-absolute-{LINE + 1}", line + END + HOST + END, 414)
    line = padded(b"", b" / HTTP/1.1", LINE + 1)
    yield refused(f"H11-line-method-{LINE + 1}", line + END + HOST + END, 400, 414, 501)
    line = padded(b"GET / HTTP/1.1", b"", LINE + 1)
    yield refused(f"H11-line-version-{LINE + 1}", line + END + HOST + END, 400, 414, 505)
    yield refused("H11-line-20000", b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n" + HOST + END, 414)
    yield refused("H11-line-100000", b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\n" + HOST + END, 414)
    yield refused("H11-line-endless", b"GET /" + b"a" * 100000, 414, more=b"")
    yield refused("H11-line-endless-method", b"a" * 100000, 400, 414, 501, more=b"")
    yield refused("H11-line-endless-escapes", b"GET /" + b"%61" * 30000, 414, more=b"")
    for name, before, variable in (
        ("value", b"X-A: ", "X_A"),
        ("cookie", b"Cookie: ", "COOKIE"),
        ("agent", b"User-Agent: ", "USER_AGENT"),
    ):
        line = padded(before, b"", FIELD)
        told = seen(**{variable: line[len(before) :].decode()})
        yield taken(f"H11-field-{name}-{FIELD}", GET + line + END + END, told)
        line = padded(before, b"", FIELD + 1)
        yield refused(f"H11-field-{name}-{FIELD + 1}", GET + line + END + END, 431)
    line = padded(b"", b": b", FIELD + 1)
    yield refused(f"H11-field-name-{FIELD + 1}", GET + line + END + END, 431)
    line = b"Host: h.test".ljust(FIELD + 1)
    yield refused(f"H11-field-host-{FIELD + 1}", b"GET / HTTP/1.1\r\n" + line + END + END, 431)
    yield refused("H11-field-20000", GET + b"X-A: " + b"a" * 20000 + END + END, 431)
    yield refused("H11-field-endless", GET + b"X-A: " + b"a" * 100000, 431, more=b"")
    yield refused("H11-field-endless-name", GET + b"a" * 100000, 400, 431, more=b"")
    yield refused(
        "H11-field-last-of-many", GET + b"A: b\r\n" * 50 + b"X: " + b"a" * 9000 + END + END, 431
    )
    for name, line in (("same", b"X-A: b\r\n"), ("empty", b"X-A:\r\n"), ("short", b"A:\r\n")):
        yield taken(f"H11-fields-{name}-{FIELDS}", GET + line * (FIELDS - 1) + END)
        yield refused(f"H11-fields-{name}-{FIELDS + 1}", GET + line * FIELDS + END, 431)
    different = b"".join(b"X-%d: b\r\n" % number for number in range(FIELDS))
    yield taken(
        f"H11-fields-different-{FIELDS}",
        GET + different[: different.rindex(b"X-")] + END,
        seen(X_0="b", X_98="b"),
    )
    yield refused(f"H11-fields-different-{FIELDS + 1}", GET + different + END, 431)
    yield refused("H11-fields-5000", GET + b"X-A: b\r\n" * 5000 + END, 431)
    yield refused("H11-fields-endless", GET + b"X-A: b\r\n" * 5000, 431, more=b"")
    yield refused("H11-fields-in-1.0", b"GET / HTTP/1.0\r\n" + b"X-A: b\r\n" * 101 + END, 431)
    many = b"".join(b"X-%d: %b\r\n" % (number, b"v" * 4000) for number in range(20))
    yield taken("H11-head-80000", GET + many + END, seen(X_19="v" * 4000))
    # What comes after a head does not count.
    yield taken(
        "H11-body-long-line",
        POST + b"Content-Length: 20000\r\n\r\n" + b"a" * 20000,
        seen("POST", "/post", body=b"a" * 20000),
    )
    over = b"Content-Length: %d\r\n" % (BODY_LIMIT + 1)
    yield refused("H12-length", POST + over + END, 413)
    yield refused("H12-length-with-some", POST + over + END + BODY, 413)
    yield refused("H12-length-in-1.0", b"POST / HTTP/1.0\r\n" + over + END, 413)
    yield refused("H12-length-on-get", GET + over + END, 413)
    for value in (b"4294967301", b"9223372036854775807"):
        yield refused(
            f"H12-length-{name_of(value)}", POST + b"Content-Length: " + value + END + END, 400, 413
        )
    yield talk(
        "H12-length-expected",
        (POST + over + b"Expect: 100-continue\r\n\r\n", None),
        Answer((413,), close=True, interim=False),
    )
    yield refused("H12-chunk", POST + CHUNKED + END + b"40000001\r\nhello", 413, 400)


# -- H14: time ----------------------------------------------------------------------------------


def slow_patterns() -> Iterator[Case]:
    """H14: heads on which a careless pattern takes quadratic time."""
    long = 8000
    yield taken(
        "H14-spaces-before-value", GET + b"X-A:" + b" " * long + b"b\r\n\r\n", seen(X_A="b")
    )
    yield taken(
        "H14-spaces-after-value", GET + b"X-A: b" + b" " * long + b"\r\n\r\n", seen(X_A="b")
    )
    yield taken(
        "H14-spaces-inside-value",
        GET + b"X-A: b" + b" " * long + b"c\r\n\r\n",
        seen(X_A="b" + " " * long + "c"),
    )
    yield refused("H14-spaces-then-control", GET + b"X-A: b" + b" " * long + b"\x01\r\n\r\n")
    yield refused("H14-letters-then-control", GET + b"X-A: " + b"a" * long + b"\x10\r\n\r\n")
    yield refused("H14-high-then-control", GET + b"X-A: " + b"\xe9" * long + b"\x10\r\n\r\n")
    yield refused("H14-name-then-bad", GET + b"X" * long + b"(: b\r\n\r\n")
    yield taken("H14-commas-in-connection", GET + b"Connection: " + b"," * long + END + END)
    yield taken("H14-quotes-in-value", GET + b"X-A: " + b'"' * long + END + END)
    yield refused(
        "H14-commas-in-coding",
        POST + b"Transfer-Encoding: " + b"," * long + b"\r\n\r\n" + HELLO,
        400,
        501,
    )
    yield refused("H14-commas-in-length", POST + b"Content-Length: " + b"5," * 4000 + b"\r\n\r\n")
    yield refused("H14-digits-in-length", POST + b"Content-Length: " + b"9" * long + b"\r\n\r\n")
    yield refused("H14-digits-in-size", POST + CHUNKED + END + b"9" * 5000 + END, 400, 413)
    yield taken(
        "H14-dots-in-path",
        b"GET /" + b"./" * 4000 + b" HTTP/1.1\r\n" + HOST + END,
        seen("GET", "/" + "./" * 4000, "/"),
    )
    yield refused("H14-dots-above-root", b"GET /" + b"../" * 2600 + b" HTTP/1.1\r\n" + HOST + END)
    path = "/" + "a/" * 1500 + "../" * 1500
    yield taken(
        "H14-dots-to-root",
        b"GET " + path.encode() + b" HTTP/1.1\r\n" + HOST + END,
        seen("GET", path, "/"),
    )
    yield taken(
        "H14-slashes",
        b"GET " + b"/" * long + b"a HTTP/1.1\r\n" + HOST + END,
        seen("GET", "/" * long + "a", "/a"),
    )
    yield taken(
        "H14-colons-in-host-port",
        b"GET / HTTP/1.1\r\nHost: h.test\r\nX-A: " + b":" * long + END + END,
    )
    yield refused("H14-colons-in-host", b"GET / HTTP/1.1\r\nHost: [" + b":" * long + END + END)


# -- H15: forms of the target -------------------------------------------------------------------


def targets() -> Iterator[Case]:
    """H15: absolute-form, authority-form, asterisk-form, and what is none of the four."""

    def line(target: bytes, method: bytes = b"GET", host: bytes = b"h.test") -> bytes:
        return method + b" " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"

    for name, target, told in (
        ("path", b"http://h.test/x", seen("GET", "/x", HOST="h.test")),
        ("query", b"http://h.test/x?y=/z", seen("GET", "/x?y=/z", HOST="h.test")),
        ("port", b"http://h.test:80/x", seen("GET", "/x")),
        ("upper-case", b"HTTP://H.TEST/X", seen("GET", "/X")),
        ("escapes", b"http://h.test/%41", seen("GET", "/%41", "/A")),
        ("nested", b"http://h.test/http://x/", seen("GET", "/http://x/", "/http:/x/")),
        ("at-in-path", b"http://h.test/u@x", seen("GET", "/u@x")),
        ("ipv6", b"http://[::1]/x", seen("GET", "/x")),
    ):
        yield taken(f"H15-absolute-{name}", line(target), told)
    yield taken(
        "H15-absolute-host-wins", line(b"http://other.test/x"), seen("GET", "/x", HOST="other.test")
    )
    yield taken(
        "H15-absolute-in-1.0",
        b"GET http://h.test/x HTTP/1.0\r\n\r\n",
        seen("GET", "/x"),
        close=True,
    )
    yield taken("H15-absolute-no-path", line(b"http://h.test"), seen("GET", None, "/", ""))
    yield either(
        "H15-absolute-query-only", line(b"http://h.test?x=y"), seen("GET", None, "/", "x=y")
    )
    yield either("H15-absolute-https", line(b"https://h.test/x"), seen("GET", "/x"), 400, 421)
    yield taken(
        "H15-absolute-post",
        b"POST http://h.test/x HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\n" + BODY,
        seen("POST", "/x", body=BODY),
    )
    for name, target in (
        ("no-host", b"http:///x"),
        ("no-slashes", b"http:x"),
        ("one-slash", b"http:/x"),
        ("empty", b"http://"),
        ("userinfo", b"http://u@h.test/x"),
        ("userinfo-password", b"http://u:p@h.test/x"),
        ("bad-port", b"http://h.test:x/"),
        ("bad-host", b"http://h^.test/x"),
        ("backslash", b"http:\\\\h.test\\x"),
        ("other-scheme", b"ftp://h.test/x"),
        ("file", b"file:///etc/passwd"),
        ("data", b"data:text/plain,x"),
        ("above-root", b"http://h.test/../x"),
        ("no-scheme", b"://h.test/x"),
        ("bad-scheme", b"ht^tp://h.test/x"),
    ):
        yield refused(f"H15-absolute-bad-{name}", line(target), 400, 403, 404, 421)
    for name, target in (
        ("authority", b"h.test:80"),
        ("host", b"h.test"),
        ("asterisk", b"*"),
        ("relative", b"x"),
        ("relative-path", b"x/y"),
        ("dots", b"../x"),
        ("dot", b"."),
        ("query", b"?x=y"),
        ("fragment", b"#x"),
        ("backslash", b"\\x"),
        ("escape", b"%2Fx"),
        ("two-asterisks", b"**"),
        ("asterisk-path", b"*/x"),
        ("mail", b"u@h.test"),
    ):
        yield refused(f"H15-form-{name}", line(target), 400, 404, 405)
    yield refused("H15-form-post-asterisk", line(b"*", b"POST"), 400, 404, 405)
    yield refused("H15-form-delete-asterisk", line(b"*", b"DELETE"), 400, 404, 405)
    yield refused("H15-fragment", line(b"/x#y"))
    # CONNECT belongs to proxies; what follows it belongs to nobody.
    for name, target in (
        ("authority", b"h.test:443"),
        ("no-port", b"h.test"),
        ("path", b"/x"),
        ("absolute", b"http://h.test/"),
        ("asterisk", b"*"),
        ("ipv6", b"[::1]:443"),
        ("empty-port", b"h.test:"),
    ):
        raw = line(target, b"CONNECT")
        yield talk(f"H15-connect-{name}", (raw,), Answer((400, 405, 501)))
    yield talk("H15-options-all", (line(b"*", b"OPTIONS"),), Answer((200, 204)))
    yield taken("H15-options-asterisk-path", line(b"/*", b"OPTIONS"), seen("OPTIONS", "/*"))


# -- H16: Expect --------------------------------------------------------------------------------


def expectations() -> Iterator[Case]:
    """H16: Expect."""
    want = b"Expect: 100-continue\r\n"
    length = b"Content-Length: 5\r\n"
    told = seen("POST", "/post", body=BODY)
    yield talk("H16-waits", (POST + want + length + END, None, BODY), ok(told, interim=True))
    yield talk(
        "H16-waits-chunked", (POST + want + CHUNKED + END, None, HELLO), ok(told, interim=True)
    )
    upper = b"eXpECT: 100-CONTINUE\r\n"
    yield talk(
        "H16-waits-upper-case", (POST + upper + length + END, None, BODY), ok(told, interim=True)
    )
    yield talk(
        "H16-waits-in-pieces",
        (POST + want + length + END, None, b"he", b"llo"),
        ok(told, interim=True),
    )
    yield talk(
        "H16-waits-and-goes-on",
        (POST + want + length + END, None, BODY + GET + END),
        ok(told, interim=True),
        ok(interim=False),
    )
    yield talk(
        "H16-waits-twice",
        (POST + want + length + END, None, BODY + POST + want + length + END, None, BODY),
        ok(told, interim=True),
        ok(told),
    )
    yield taken("H16-at-once", POST + want + length + END + BODY, told)
    yield taken("H16-at-once-chunked", POST + want + CHUNKED + END + HELLO, told)
    yield talk(
        "H16-at-once-and-goes-on", (POST + want + length + END + BODY + GET + END,), ok(told), ok()
    )
    yield taken("H16-without-body", GET + want + END, seen())
    yield taken(
        "H16-length-zero", POST + want + b"Content-Length: 0\r\n\r\n", seen("POST", "/post")
    )
    old = b"POST /post HTTP/1.0\r\n" + HOST + want + length
    yield taken("H16-old-is-not-told", old + END + BODY, told, interim=False, close=True)
    yield taken(
        "H16-old-kept-is-not-told",
        old + b"Connection: keep-alive\r\n\r\n" + BODY,
        told,
        interim=False,
    )
    unknown = old.replace(b"100-continue", b"x")
    yield talk("H16-old-unknown", (unknown + END + BODY,), Answer((200, 417), told, close=True))
    for value in (
        b"miracles",
        b"100-continue, x",
        b"x, 100-continue",
        b"100-continue;q=1",
        b"100_continue",
        b"100 continue",
        b"100-continu",
        b"100-continuee",
        b"200-ok",
        b'"100-continue"',
        b"100-continue\xa0",
    ):
        # The body is withheld, as after a 417 it may be.
        yield talk(
            f"H16-unknown-{name_of(value)}",
            (POST + b"Expect: " + value + END + length + END, None),
            Answer((417,), close=True, interim=False),
        )
    yield talk("H16-unknown-on-get", (GET + b"Expect: x\r\n\r\n",), Answer((417,)))
    yield either("H16-empty", POST + b"Expect:\r\n" + length + END + BODY, told, 400, 417)
    yield either("H16-twice", POST + want + want + length + END + BODY, told, 400, 417)
    unread = b"POST /unread HTTP/1.1\r\n" + HOST + want
    # Nobody asked for the body, so it may or may not come: what comes is no request.
    yield talk(
        "H16-unread-withheld",
        (unread + length + END, None),
        Answer((200,), seen("POST", "/unread"), close=True, interim=False),
    )
    yield talk(
        "H16-unread-withheld-chunked",
        (unread + CHUNKED + END, None),
        Answer((200,), seen("POST", "/unread"), close=True, interim=False),
    )
    yield talk(
        "H16-unread-at-once",
        (unread + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,),
        Answer((200,), seen("POST", "/unread")),
    )
    yield refused("H16-bad-length", POST + want + b"Content-Length: x\r\n\r\n" + BODY)
    yield refused("H16-both", POST + want + length + CHUNKED + END + HELLO)
    yield talk(
        "H16-bad-chunk-after-100",
        (POST + want + CHUNKED + END, None, b"zz\r\nhello\r\n0\r\n\r\n" + SMUGGLED),
        Answer((400,), close=True),
    )


# -- H17: other protocols -----------------------------------------------------------------------


def upgrades() -> Iterator[Case]:
    """H17: Upgrade is not heeded; the preface of HTTP/2 is an error."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    yield refused("H17-preface", preface, 400, 405, 505)
    settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    yield refused("H17-preface-and-settings", preface + settings, 400, 405, 505)
    yield refused("H17-preface-later", b"PRI * HTTP/1.1\r\n" + HOST + END, 400, 404, 405, 501)
    yield refused("H17-preface-without-body", b"PRI * HTTP/2.0\r\n\r\n", 400, 405, 505)
    h2c = (
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
    )
    yield taken("H17-h2c", GET + h2c + END, seen(UPGRADE="h2c"))
    yield taken(
        "H17-h2c-post",
        POST + h2c + b"Content-Length: 5\r\n\r\n" + BODY,
        seen("POST", "/post", body=BODY),
    )
    yield talk("H17-h2c-and-goes-on", (GET + h2c + END + GET + END,), ok(), ok())
    websocket = (
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    yield taken("H17-websocket", GET + websocket + END, seen(UPGRADE="websocket"))
    yield talk("H17-websocket-and-goes-on", (GET + websocket + END + GET + END,), ok(), ok())
    yield taken("H17-unknown", GET + b"Connection: upgrade\r\nUpgrade: foo/2\r\n\r\n")
    yield taken("H17-without-connection", GET + b"Upgrade: h2c\r\n\r\n")
    yield taken("H17-connection-alone", GET + b"Connection: upgrade\r\n\r\n")
    yield taken("H17-tls", GET + b"Connection: Upgrade\r\nUpgrade: TLS/1.0, HTTP/1.1\r\n\r\n")
    yield taken("H17-empty", GET + b"Connection: upgrade\r\nUpgrade:\r\n\r\n")
    yield taken(
        "H17-old",
        b"GET / HTTP/1.0\r\n" + HOST + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        close=True,
    )


# -- H18: pipelining, H19: keep-alive -----------------------------------------------------------


def numbered(number: int) -> bytes:
    return b"GET /%d HTTP/1.1\r\n" % number + HOST + END


def pipelines() -> Iterator[Case]:
    """H18: several requests at once are answered in order, and none after an error."""

    def told(number: int) -> Answer:
        return ok(seen("GET", f"/{number}"))

    for count in (2, 3, 10, 50):
        raw = b"".join(map(numbered, range(count)))
        yield talk(f"H18-{count}", (raw,), *map(told, range(count)))
    length = POST + b"Content-Length: 5\r\n\r\n" + BODY
    coded = POST + CHUNKED + END + HELLO
    posted = ok(seen("POST", "/post", body=BODY))
    head = b"HEAD /x HTTP/1.1\r\n" + HOST + END
    headed = Answer((200,), None, head=True, close=False)
    yield talk("H18-length-then-get", (length + GET + END,), posted, ok())
    yield talk("H18-chunked-then-get", (coded + GET + END,), posted, ok())
    yield talk("H18-head-then-get", (head + GET + END,), headed, ok())
    yield talk("H18-heads", (head * 3,), headed, headed, headed)
    yield talk(
        "H18-mixed",
        (length + coded + head + GET + END + coded + length,),
        *(posted, posted, headed, ok(), posted, posted),
    )
    yield talk("H18-empty-line-between", (GET + END + END + GET + END,), ok(), ok())
    yield talk("H18-empty-line-after-body", (length + END + GET + END,), posted, ok())
    yield talk("H18-empty-line-after-chunks", (coded + END + GET + END,), posted, ok())
    for name, bad, statuses in (
        ("both", POST + b"Content-Length: 5\r\n" + CHUNKED + END + HELLO, (400,)),
        ("length", POST + b"Content-Length: +5\r\n\r\n" + BODY, (400,)),
        ("coding", POST + b"Transfer-Encoding: x\r\n\r\n" + HELLO, (400, 501)),
        ("host", b"GET / HTTP/1.1\r\n\r\n", (400,)),
        ("name", GET + b"X : b\r\n\r\n", (400,)),
        ("version", b"GET / HTTP/2.0\r\n" + HOST + END, (400, 505)),
        ("escape", b"GET /%zz HTTP/1.1\r\n" + HOST + END, (400,)),
        ("chunk", POST + CHUNKED + END + b"zz\r\n", (400,)),
        ("line", b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + END, (414,)),
        ("fields", GET + b"A: b\r\n" * 101 + END, (431,)),
        ("rubbish", b"\x00\x01\x02\r\n\r\n", (400,)),
        ("spaces", b"   \r\n\r\n", (400,)),
    ):
        yield talk(f"H18-second-bad-{name}", (GET + END + bad + SMUGGLED,), ok(), no(*statuses))
    yield talk(
        "H18-third-bad",
        (GET + END + length + GET + b"\x00: b\r\n\r\n" + SMUGGLED,),
        ok(),
        posted,
        no(),
    )
    # Bytes beyond a body are the next request's, even when they are rubbish.
    yield talk("H18-body-longer", (length + b"X" + GET + END,), posted, maybe(seen("XGET"), 501))
    yield talk("H18-body-longer-bad", (length + b"(" + GET + END + SMUGGLED,), posted, no(400, 501))
    # Pieces.
    raw = numbered(0) + length + coded + numbered(1)
    answers = (told(0), posted, posted, told(1))
    yield talk("H18-pieces-of-one", tuple(raw[n : n + 1] for n in range(len(raw))), *answers)
    for size in (2, 7, 16, 61):
        pieces = tuple(raw[n : n + size] for n in range(0, len(raw), size))
        yield talk(f"H18-pieces-of-{size}", pieces, *answers)
    yield talk("H18-split-in-line-end", (numbered(0)[:-1], b"\n" + numbered(1)), told(0), told(1))
    yield talk(
        "H18-split-before-line-end", (numbered(0)[:-2], b"\r\n" + numbered(1)), told(0), told(1)
    )
    yield talk(
        "H18-split-in-second",
        (numbered(0) + b"GE", b"T /1 HTTP/1.1\r\n" + HOST + END),
        told(0),
        told(1),
    )
    yield talk(
        "H18-split-in-size", (POST + CHUNKED + END + b"0", b"5\r\nhello\r\n0\r\n\r\n"), posted
    )
    yield talk(
        "H18-split-in-size-end", (POST + CHUNKED + END + b"5\r", b"\nhello\r\n0\r\n\r\n"), posted
    )
    yield talk(
        "H18-split-in-chunk-end", (POST + CHUNKED + END + b"5\r\nhello\r", b"\n0\r\n\r\n"), posted
    )
    yield talk(
        "H18-split-in-last", (POST + CHUNKED + END + b"5\r\nhello\r\n0\r\n\r", b"\n"), posted
    )
    yield talk("H18-split-head-and-body", (POST + b"Content-Length: 5\r\n\r\n", BODY), posted)
    yield talk(
        "H18-split-body", (POST + b"Content-Length: 5\r\n\r\nhe", b"llo" + GET + END), posted, ok()
    )


def keeping() -> Iterator[Case]:
    """H19: when a connection is kept."""
    closed = (("connection", "close"),)

    def stop(
        id: str, raw: bytes, told: Seen | None = None, fields: tuple[tuple[str, str], ...] = ()
    ) -> Case:
        return talk(id, (raw + SMUGGLED,), ok(told, close=True, fields=fields))

    for name, value in (
        ("plain", b"close"),
        ("upper-case", b"CLOSE"),
        ("in-list", b"foo, close"),
        ("in-list-first", b"close, foo"),
        ("without-space", b"foo,close,bar"),
        ("among-empty", b",, close ,"),
        ("with-keep-alive", b"keep-alive, close"),
        ("before-keep-alive", b"close, keep-alive"),
        ("white-space", b"\t close \t"),
    ):
        yield stop(f"H19-close-{name}", GET + b"Connection: " + value + END + END, fields=closed)
    yield stop("H19-close-second-field", GET + b"Connection: x\r\nConnection: close\r\n\r\n")
    yield stop(
        "H19-close-beside-keep-alive", GET + b"Connection: keep-alive\r\nConnection: close\r\n\r\n"
    )
    yield stop(
        "H19-close-post",
        POST + b"Connection: close\r\nContent-Length: 5\r\n\r\n" + BODY,
        seen("POST", "/post", body=BODY),
    )
    yield stop(
        "H19-close-chunked",
        POST + b"Connection: close\r\n" + CHUNKED + END + HELLO,
        seen("POST", "/post", body=BODY),
    )
    for name, fields in (
        ("plain", b"Connection: keep-alive\r\n"),
        ("absent", b""),
        ("closed", b"Connection: closed\r\n"),
        ("clos", b"Connection: clos\r\n"),
        ("quoted", b'Connection: "close"\r\n'),
        ("close-with-parameter", b"Connection: close;q=1\r\n"),
        ("x-connection", b"X-Connection: close\r\n"),
        ("underscore", b"Connection_: close\r\n"),
        ("empty", b"Connection:\r\n"),
        ("keep-alive-field", b"Keep-Alive: timeout=1, max=1\r\n"),
        ("proxy-connection", b"Proxy-Connection: close\r\n"),
        ("names-a-field", b"Connection: X-A\r\nX-A: b\r\n"),
    ):
        yield talk(f"H19-kept-{name}", (GET + fields + END + GET + END,), ok(), ok())
    old = b"GET / HTTP/1.0\r\n" + HOST
    for name, fields in (
        ("plain", b""),
        ("close", b"Connection: close\r\n"),
        ("both", b"Connection: keep-alive, close\r\n"),
        ("proxy-connection", b"Proxy-Connection: keep-alive\r\n"),
        ("keep-alive-field", b"Keep-Alive: 300\r\n"),
        ("other", b"Connection: keep\r\n"),
    ):
        yield stop(f"H19-old-closed-{name}", old + fields + END)
    yield stop(
        "H19-old-closed-post",
        b"POST /post HTTP/1.0\r\nContent-Length: 5\r\n\r\n" + BODY,
        seen("POST", "/post", body=BODY),
    )
    yield stop("H19-old-closed-without-host", b"GET / HTTP/1.0\r\n\r\n")
    for name, value in (
        ("plain", b"keep-alive"),
        ("cased", b"Keep-Alive"),
        ("list", b"x, keep-alive"),
    ):
        yield taken(
            f"H19-old-kept-{name}",
            old + b"Connection: " + value + END + END,
            fields=(("connection", "keep-alive"),) if name != "list" else (),
        )
    yield talk(
        "H19-old-kept-post",
        (
            b"POST /post HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n"
            + BODY
            + GET
            + END,
        ),
        ok(seen("POST", "/post", body=BODY)),
        ok(),
    )
    yield talk(
        "H19-old-without-length",
        (b"POST /post HTTP/1.0\r\n\r\n",),
        ok(seen("POST", "/post"), close=True),
    )
    yield talk("H19-version-changes", (GET + END + old + END + SMUGGLED,), ok(), ok(close=True))
    head = b"HEAD /x HTTP/1.1\r\n" + HOST
    headed = Answer((200,), None, head=True, close=False)
    yield talk("H19-head", (head + END,), headed)
    yield talk(
        "H19-head-close",
        (head + b"Connection: close\r\n\r\n" + SMUGGLED,),
        Answer((200,), head=True, close=True),
    )
    yield talk(
        "H19-head-old",
        (b"HEAD /x HTTP/1.0\r\n\r\n" + SMUGGLED,),
        Answer((200,), head=True, close=True),
    )
    for status in (204, 304):
        line = b"GET /status/%d HTTP/1.1\r\n" % status + HOST + END
        answer = Answer((status,), close=False)
        yield talk(f"H19-status-{status}", (line + GET + END,), answer, ok())
        line = line.replace(b"GET", b"HEAD")
        yield talk(
            f"H19-status-{status}-head",
            (line + GET + END,),
            Answer((status,), head=True, close=False),
            ok(),
        )


# -- E3, E1: names of variables -----------------------------------------------------------------


def variables() -> Iterator[Case]:
    """E3: two names that become one variable; names that become none."""
    for name, fields in (
        ("forwarded", b"X_Forwarded_For: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.2\r\n"),
        ("forwarded-order", b"X-Forwarded-For: 192.0.2.2\r\nX_Forwarded_For: 192.0.2.1\r\n"),
        ("mixed", b"X-Forwarded_For: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.2\r\n"),
        ("same-value", b"X_A: 1\r\nX-A: 1\r\n"),
        ("other-case", b"x_a: 1\r\nX-A: 2\r\n"),
        ("remote", b"Remote_User: a\r\nRemote-User: b\r\n"),
        ("apart", b"X_A: 1\r\n" + b"X-B: 2\r\n" * 30 + b"X-A: 3\r\n"),
        ("empty-value", b"X-A:\r\nX_A: 1\r\n"),
    ):
        yield refused(f"E3-two-{name}", GET + fields + END)
    yield refused("E3-two-host", GET + b"X-Host: a\r\nX_Host: b\r\n\r\n")
    for name, field, variable in (
        ("underscore", b"X_A: 1", "X_A"),
        ("forwarded", b"X_Forwarded_For: 192.0.2.1", "X_FORWARDED_FOR"),
        ("content-type", b"Content_Type: text/html", "CONTENT_TYPE"),
        ("dot", b"X.A: 1", "X_A"),
        ("tilde", b"X~A: 1", "X~A"),
        ("plus", b"X+A: 1", "X_A"),
        ("percent", b"X%2DA: 1", "X%2DA"),
        ("trailing-underscore", b"X-A_: 1", "X_A_"),
        ("leading-underscore", b"_X-A: 1", "_X_A"),
        ("all-token", TOKEN + b": 1", TOKEN.decode().upper().replace("-", "_")),
    ):
        yield taken(f"E3-none-{name}", GET + field + END + END, seen(absent=(variable,)))
    yield either("E3-dot-and-hyphen", GET + b"X.A: 1\r\nX-A: 2\r\n\r\n", seen(X_A="2"))
    for name in (b"Proxy", b"proxy", b"PROXY"):
        yield taken(
            f"E1-{name_of(name)}",
            GET + name + b": http://evil.test:8080/\r\n\r\n",
            seen(absent=("PROXY",)),
        )
    yield taken("E1-proxy-twice", GET + b"Proxy: a\r\nProxy: b\r\n\r\n", seen(absent=("PROXY",)))
    yield taken(
        "E1-longer-name", GET + b"Proxy-Foo: a\r\n\r\n", seen(absent=("PROXY",), PROXY_FOO="a")
    )
    yield taken("E3-digits", GET + b"1-2: 3\r\n\r\n", seen(**{"1_2": "3"}))
    yield taken("E3-hyphens", GET + b"X--A-: 1\r\n\r\n", seen(X__A_="1"))
    yield taken("E3-one-letter", GET + b"x: 1\r\n\r\n", seen(X="1"))
    yield taken("E3-repeated", GET + b"X-A: 1\r\nx-a: 2\r\n\r\n", seen(X_A="1, 2"))
    yield taken(
        "E3-repeated-thrice",
        GET + b"X-A: 1\r\nX-B: 0\r\nX-A: 2\r\nX-A: 3\r\n\r\n",
        seen(X_A="1, 2, 3", X_B="0"),
    )
    yield taken(
        "E3-redirect-status", GET + b"Redirect-Status: 200\r\n\r\n", seen(REDIRECT_STATUS="200")
    )


# -- E9: paths ----------------------------------------------------------------------------------


def paths() -> Iterator[Case]:
    """E9: one decoding, a path normalised as Apache does it, a URI that stays as it came."""

    def line(target: bytes) -> bytes:
        return b"GET " + target + b" HTTP/1.1\r\n" + HOST + END

    for target in (
        *(b"/%00", b"/a%00b", b"/a%00.html", b"/a/%00"),
        *(b"/%", b"/%2", b"/a%", b"/a%2", b"/%zz", b"/%g1", b"/%1g", b"/%%", b"/%%41", b"/%-1"),
        *(b"/%+1", b"/%u0041", b"/%0x41", b"/%/a", b"/a%\xc3\xa9", b"/%4", b"/%2%2f"),
        *(
            b"/..",
            b"/../",
            b"/../a",
            b"/a/../..",
            b"/a/../../b",
            b"/./../a",
            b"//../a",
            b"/a//../../../b",
        ),
        *(b"/%2e%2e/a", b"/%2E%2E/a", b"/.%2e/a", b"/%2e./a", b"/a/%2e%2e/%2e%2e/b"),
        *(b"/../../../../etc/passwd", b"/..?x", b"/a/b/../../../c"),
    ):
        yield refused(f"E9-bad-{name_of(target)}", line(target))
    for target in (
        b"/%2F",
        b"/%2f",
        b"/a%2Fb",
        b"/a%2f",
        b"/%2fetc/passwd",
        b"/a/%2F/b",
        b"/a%2f?x=%2F",
    ):
        yield talk(f"E9-slash-{name_of(target)}", (line(target),), Answer((404,)))
    for target in (b"/a/..%2fb", b"/..%2f", b"/%2e%2e%2fetc", b"/..%2F..%2Fetc"):
        yield talk(f"E9-slash-{name_of(target)}", (line(target),), Answer((400, 404)))
    for target, path in (
        ("/%41", "/A"),
        ("/%61%62", "/ab"),
        ("/%7euser", "/~user"),
        ("/%7Euser", "/~user"),
        ("/a%20b", "/a b"),
        ("/a+b", "/a+b"),
        ("/a%2Bb", "/a+b"),
        ("/%25", "/%"),
        ("/%2541", "/%41"),
        ("/%252F", "/%2F"),
        ("/%252e%252e/a", "/%2e%2e/a"),
        ("/%2500", "/%00"),
        ("/a%3Fb", "/a?b"),
        ("/a%23b", "/a#b"),
        ("/a%3Bb", "/a;b"),
        ("/a%5Cb", "/a\\b"),
        ("/%5C..%5Ca", "/\\..\\a"),
        ("/a%0Ab", "/a\nb"),
        ("/a%0Db", "/a\rb"),
        ("/a%0D%0AX-A:%20b", "/a\r\nX-A: b"),
        ("/a%09b", "/a\tb"),
        ("/a%7Fb", "/a\x7fb"),
        ("/a%01b", "/a\x01b"),
        ("/%C3%A9", "/\xc3\xa9"),
        ("/%c3%a9", "/\xc3\xa9"),
        ("/%E9", "/\xe9"),
        ("/%FF%FE", "/\xff\xfe"),
        ("/%C0%AF", "/\xc0\xaf"),
        ("/%C0%AE%C0%AE/a", "/\xc0\xae\xc0\xae/a"),
        ("/%ED%A0%80", "/\xed\xa0\x80"),
        ("/%EF%BC%8F", "/\xef\xbc\x8f"),
        ("/.", "/"),
        ("/./", "/"),
        ("/./a", "/a"),
        ("/a/./b", "/a/b"),
        ("/a/.", "/a/"),
        ("/a/..", "/"),
        ("/a/../b", "/b"),
        ("/a/b/../c", "/a/c"),
        ("/a/b/../../c", "/c"),
        ("/a/b/..", "/a/"),
        ("/a/%2e%2e/b", "/b"),
        ("/a/.%2E/b", "/b"),
        ("/%2e/a", "/a"),
        ("/a/%2E", "/a/"),
        ("/...", "/..."),
        ("/.../a", "/.../a"),
        ("/..a", "/..a"),
        ("/a..", "/a.."),
        ("/.a", "/.a"),
        ("/a.", "/a."),
        ("/a/..;/b", "/a/..;/b"),
        ("/..;/a", "/..;/a"),
        ("/a;b=c/d", "/a;b=c/d"),
        ("/a/..b/c", "/a/..b/c"),
        ("//", "/"),
        ("///", "/"),
        ("//a", "/a"),
        ("//evil.test/a", "/evil.test/a"),
        ("/a//b", "/a/b"),
        ("/a///b//", "/a/b/"),
        ("/a//../b", "/b"),
        ("/a/.//b", "/a/b"),
        ("/a:b@c", "/a:b@c"),
        ("/!$&'()*+,;=:@-._~", "/!$&'()*+,;=:@-._~"),
        ("/http://h.test/", "/http:/h.test/"),
        ("/*", "/*"),
        ("/a?", "/a"),
        ("/a?/../b", "/a"),
        ("/a?//b", "/a"),
        ("/a?%zz", "/a"),
        ("/a?%00", "/a"),
        ("/a?%", "/a"),
        ("/a?%2F", "/a"),
        ("/a?b?c", "/a"),
        ("/a??", "/a"),
        ("/?a=b&c=d;e", "/"),
        ("/?http://h.test/", "/"),
        ("/?-d+x", "/"),
        ("/?" + "a=b&" * 500, "/"),
    ):
        yield taken(
            f"E9-path-{name_of(target.encode())}", line(target.encode()), seen("GET", target, path)
        )
    for character in b'"<>\\^`{|}':
        target = b"/a%cb" % character
        yield either(f"E9-raw-x{character:02x}", line(target), seen("GET", target.decode()))
    # Gone before it is decoded, or not.
    yield either("E9-nul-in-dots", line(b"/%00/.."), seen("GET", "/%00/..", "/"))
    for text in (b"/\xc3\xa9", b"/\xe9", b"/a?\xc3\xa9", b'/a?b=<">'):
        yield either(f"E9-raw-{name_of(text)}", line(text), seen("GET", text.decode("latin-1")))


# -- legal --------------------------------------------------------------------------------------


def legal() -> Iterator[Case]:
    """Unusual, and right: accepted exactly."""
    length = b"Content-Length: 5\r\n\r\n"
    for method in (
        *("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "PROPPATCH", "REPORT"),
        *("MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "SEARCH", "M-SEARCH", "PURGE"),
    ):
        raw = method.encode() + b" /x HTTP/1.1\r\n" + HOST
        yield taken(f"legal-method-{method}", raw + END, seen(method, "/x"))
    # A server need not know every method; it may not take one for another.
    for method in (
        *("FOO", "get", "Get", "Post", "A", "VERSION-CONTROL", "QUERY", "X" * 60),
        *("!#$%&'*+-.^_`|~0", "GET1", "GETT", "GE", "0", "-"),
    ):
        raw = method.encode() + b" /x HTTP/1.1\r\n" + HOST
        yield either(
            f"legal-method-other-{name_of(method.encode())}", raw + END, seen(method, "/x"), 501
        )
    for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS", "REPORT"):
        raw = method.encode() + b" /x HTTP/1.1\r\n" + HOST
        told = seen(method, "/x", body=BODY)
        yield taken(f"legal-body-length-{method}", raw + length + BODY, told)
        yield taken(f"legal-body-chunked-{method}", raw + CHUNKED + END + HELLO, told)
    yield taken("legal-post-without-body", POST + END, seen("POST", "/post"))
    for name, body in (
        ("all-bytes", bytes(range(256))),
        ("nul", b"\x00" * 100),
        ("line-ends", b"\r\n\r\n\r\n\r\n"),
        ("lf", b"\n\n\n\n"),
        ("like-a-request", SMUGGLED),
        ("like-a-response", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("like-chunks", HELLO),
        ("large", bytes(range(256)) * 4096),
    ):
        told = seen("POST", "/post", body=body)
        raw = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
        yield taken(f"legal-content-{name}", raw, told)
        yield taken(f"legal-content-chunked-{name}", POST + CHUNKED + END + chunks(body), told)
    body = b"0123456789abcdef" * 64
    raw = POST + CHUNKED + END + chunks(*(body[n : n + 1] for n in range(len(body))))
    yield taken("legal-content-thousand-chunks", raw, seen("POST", "/post", body=body))
    visible = bytes(range(0x21, 0x7F))
    for name, text, value in (
        ("no-space", b"b", "b"),
        ("tab", b"\tb", "b"),
        ("white-space", b" \t b \t ", "b"),
        ("inner-tab", b" b\tc", "b\tc"),
        ("inner-spaces", b" b   c", "b   c"),
        ("empty", b"", ""),
        ("only-white-space", b" \t ", ""),
        ("colon", b" :", ":"),
        ("colons", b" a:b:c", "a:b:c"),
        ("visible", b" " + visible, visible.decode()),
        ("high", b" \x80\xff", "\x80\xff"),
        ("utf-8", b" \xc3\xa9", "\xc3\xa9"),
        ("quoted", b' "a, b"', '"a, b"'),
        ("comment", b" a (b)", "a (b)"),
        ("like-a-field", b" Host: evil.test", "Host: evil.test"),
        ("like-escapes", b" %0d%0aX: y", "%0d%0aX: y"),
        ("backslash-n", b" a\\r\\nb", "a\\r\\nb"),
        ("long", b" " + b"v" * 7000, "v" * 7000),
    ):
        raw = GET + b"X-A:" + text + END + END
        # An empty field may be an empty variable or none.
        yield taken(f"legal-value-{name}", raw, seen(X_A=value) if value else seen())
    long = b"X-" + b"a" * 500
    yield taken("legal-name-long", GET + long + b": 1\r\n\r\n", seen(**{"X_" + "A" * 500: "1"}))
    yield taken("legal-name-cases", GET + b"x-AbC: 1\r\n\r\n", seen(X_ABC="1"))
    for name, fields, headers in (
        ("te-trailers", b"TE: trailers\r\nConnection: TE\r\n", {"TE": "trailers"}),
        ("cookie", b"Cookie: a=b; c=d\r\n", {"COOKIE": "a=b; c=d"}),
        ("via", b"Via: 1.1 x\r\n", {"VIA": "1.1 x"}),
        ("max-forwards", b"Max-Forwards: 0\r\n", {"MAX_FORWARDS": "0"}),
        ("pragma", b"Pragma: no-cache\r\n", {"PRAGMA": "no-cache"}),
        ("accept-encoding", b"Accept-Encoding: gzip;q=0\r\n", {"ACCEPT_ENCODING": "gzip;q=0"}),
        ("date", b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n", {}),
        ("trailer", b"Trailer: X-T\r\n", {}),
        ("origin", b"Origin: null\r\n", {"ORIGIN": "null"}),
        ("content-type-on-get", b"Content-Type: text/plain\r\n", {}),
        ("unknown-content-encoding", b"Content-Encoding: x\r\n", {}),
        (
            "method-override",
            b"X-HTTP-Method-Override: DELETE\r\n",
            {"X_HTTP_METHOD_OVERRIDE": "DELETE"},
        ),
        ("original-url", b"X-Original-URL: /admin\r\n", {"X_ORIGINAL_URL": "/admin"}),
        ("script-name", b"Script-Name: /x\r\n", {"SCRIPT_NAME": "/x"}),
        ("path-info", b"Path-Info: /x\r\n", {"PATH_INFO": "/x"}),
        ("https", b"HTTPS: on\r\n", {"HTTPS": "on"}),
        ("http-host", b"HTTP-Host: evil.test\r\n", {"HTTP_HOST": "evil.test", "HOST": "h.test"}),
    ):
        yield taken(f"legal-field-{name}", GET + fields + END, seen(**headers))
    yield taken("legal-empty-line-first", END + GET + END)
    yield taken("legal-old", b"GET /x HTTP/1.0\r\n\r\n", seen("GET", "/x"), close=True)
    yield taken(
        "legal-old-with-query",
        b"GET /x?y HTTP/1.0\r\nX-A: b\r\n\r\n",
        seen("GET", "/x?y", X_A="b"),
        close=True,
    )
    raw = GET + b"X-A: b\r\n\r\n"
    told = seen(X_A="b")
    yield talk("legal-pieces-of-one", tuple(raw[n : n + 1] for n in range(len(raw))), ok(told))
    for name, mark in (
        ("method", 2),
        ("target", 5),
        ("version", 10),
        ("line-end", 15),
        ("name", 18),
    ):
        yield talk(f"legal-split-in-{name}", (raw[:mark], raw[mark:]), ok(told))


def corpus() -> Iterator[Case]:
    """All families."""
    yield from coding_and_length()
    yield from codings()
    yield from lengths()
    yield from hosts()
    yield from controls()
    yield from names()
    yield from line_ends()
    yield from request_lines()
    yield from chunked()
    yield from trailers()
    yield from leftovers()
    yield from half_closed()
    yield from limits()
    yield from slow_patterns()
    yield from targets()
    yield from expectations()
    yield from upgrades()
    yield from pipelines()
    yield from keeping()
    yield from variables()
    yield from paths()
    yield from legal()


CASES: tuple[Case, ...] = tuple(corpus())
