"""The slow HTTP/1.1 parser, the judge of the fast one: RFC 9112 as tables, nothing clever.

It shares nothing with the project. It sees all that one side sent in one piece, so that no cut of
the input can matter to it. The result is a list of ("head", ...), ("body", bytes), ("end",
trailers) and, last, ("refused", status); what is incomplete adds nothing but the body so far.
"""

from __future__ import annotations

from typing import Any

DIGIT = b"0123456789"
ALPHA = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
HEXDIG = {**{n + 48: n for n in range(10)}, **{c + n: 10 + n for c in (65, 97) for n in range(6)}}
TCHAR = DIGIT + ALPHA + b"!#$%&'*+-.^_`|~"
VCHAR = bytes(range(33, 127))
TEXT = bytes((9, *range(32, 127), *range(128, 256)))
QUOTED = bytes(c for c in TEXT if c not in b'"\\')
REG_NAME = DIGIT + ALPHA + b"._~-"

DROPPED = """authorization connection content-length content-type cookie host te trailer
transfer-encoding x-forwarded-for""".split()  # of those that the tests send


class Refused(Exception):
    pass


class Incomplete(Exception):
    pass


def need(condition: object, status: int = 400) -> None:
    if not condition:
        raise Refused(status)


def all_of(data: bytes, alphabet: bytes) -> bool:
    return len(data) > 0 and all(byte in alphabet for byte in data)


class Oracle:
    def __init__(self, data: bytes, line: int, field_size: int, fields: int) -> None:
        self.data, self.at = data, 0
        self.limits = line, field_size, fields
        self.events: list[Any] = []
        try:
            while self.request():
                pass
        except Incomplete:
            pass
        except Refused as refused:
            self.events.append(("refused", refused.args[0]))

    def line(self, limit: int, status: int) -> bytes:
        """The next line without its end; a line that has none yet may be too long already."""
        end = self.data.find(b"\n", self.at)
        size = (end if end >= 0 else len(self.data)) - self.at
        need(size <= limit + 1, status)
        if end < 0:
            raise Incomplete
        line, self.at = self.data[self.at : end + 1], end + 1
        need(line.endswith(b"\r\n"))
        return line[:-2]

    def bytes(self, length: int) -> bytes:
        self.at += length
        return self.data[self.at - length : self.at]

    def fields(self) -> list[tuple[str, str]]:
        fields: list[tuple[str, str]] = []
        while line := self.line(self.limits[1], 431):
            need(len(fields) < self.limits[2], 431)
            name, colon, value = line.partition(b":")
            need(colon and all_of(name, TCHAR) and all_of(value or b" ", TEXT))
            fields.append((name.decode("ascii"), value.strip(b"\t ").decode("latin-1")))
        return fields

    def request(self) -> bool:
        if self.data.startswith(b"\r\n", self.at):
            self.at += 2
        if self.data[self.at :] in (b"", b"\r") and self.data[self.at - 2 : self.at] != b"\r\n":
            raise Incomplete
        need(self.data[self.at : self.at + 1] in [b"", *(bytes((c,)) for c in TCHAR)])
        words = self.line(self.limits[0], 414).split(b" ")
        need(len(words) == 3)
        method, target, version = words
        need(all_of(method, TCHAR) and all_of(target, VCHAR + bytes(range(128, 256))))
        need(len(version) == 8 and version.startswith(b"HTTP/") and version[6:7] == b".")
        need(version[5] in DIGIT and version[7] in DIGIT)
        need(words != [b"PRI", b"*", b"HTTP/2.0"])
        need(version in (b"HTTP/1.0", b"HTTP/1.1"), 505)
        need(method != b"CONNECT", 405)
        need(all_of(target, VCHAR) and b"#" not in target)
        if not target.startswith(b"/") and (method, target) != (b"OPTIONS", b"*"):
            scheme, _, rest = target.partition(b"://")
            need(scheme.lower() in (b"http", b"https"))
            self.host(rest.replace(b"?", b"/").partition(b"/")[0])

        fields = self.fields()
        variables: dict[str, str] = {}
        for name in (name.lower() for name, _ in fields):
            variable = "".join(c if ord(c) in DIGIT + ALPHA else "_" for c in name)
            need(variables.setdefault(variable, name) == name)

        def of(name: str) -> list[str]:
            return [value for key, value in fields if key.lower() == name]

        new = version == b"HTTP/1.1"
        hosts, lengths, codings = of("host"), of("content-length"), of("transfer-encoding")
        need(len(hosts) == 1 or (not hosts and not new))
        if hosts and not (target == b"*" and hosts[0] == ""):
            self.host(hosts[0].encode("latin-1"))
        need(not (lengths and codings))
        length: int | None = 0
        if codings:
            need(new)
            coded = [coding.strip("\t ") for coding in ",".join(codings).lower().split(",")]
            need(all(all_of(coding.encode("latin-1"), TCHAR) for coding in coded))
            need("chunked" not in coded[:-1])
            need(coded == ["chunked"], 501)
            length = None
        elif lengths:
            number = lengths[0].encode("latin-1")
            need(len(lengths) == 1 and all_of(number, DIGIT) and len(number) < 20)
            length = 0
            for digit in number:
                length = length * 10 + digit - 48
            need(length < 2**63)
        expected = of("expect")
        need([word.lower() for word in expected] in ([], ["100-continue"]), 417)
        options = [word.strip("\t ") for word in ",".join(of("connection")).lower().split(",")]
        keep_alive = "close" not in options and (new or "keep-alive" in options)
        upgrade = ", ".join(of("upgrade")).lower() if of("upgrade") else None
        self.events.append((
            "head", method.decode(), target.decode(), version.decode(), fields, keep_alive, length,
            bool(expected) and new and length != 0,
            upgrade if new and "upgrade" in options else None, hosts[0] if hosts else None,
        ))  # fmt: skip
        if length is None:
            self.chunks()
        elif length:
            body = self.bytes(length)
            self.events.append(("body", body))
            if len(body) < length:
                raise Incomplete
            self.events.append(("end", []))
        return keep_alive

    def host(self, host: bytes) -> None:
        if host.startswith(b"["):
            name, bracket, port = host[1:].partition(b"]")
            need(bracket and all_of(name, bytes(HEXDIG) + b":."))
            need(port == b"" or port.startswith(b":"))
            port = port[1:]
        else:
            name, _, port = host.partition(b":")
            need(all_of(name, REG_NAME))
        need(all_of(port or b"0", DIGIT) and len(port) < 6)

    def chunks(self) -> None:
        excess = 0
        while True:
            begin = self.at
            line = self.line(1022, 400)
            size, *extensions = self.split(line)
            need(len(size) <= 16 and all_of(size, bytes(HEXDIG)))
            for extension in extensions:
                name, equals, value = extension.partition(b"=")
                need(all_of(name, TCHAR))
                if value[:1] == b'"' and value[-1:] == b'"' and len(value) > 1:
                    need(all_of(value[1:-1] or b" ", QUOTED))
                else:
                    need(not equals or all_of(value, TCHAR))
            length = 0
            for digit in size:
                length = length * 16 + HEXDIG[digit]
            excess = max(0, excess + self.at - begin - 16 - 2 * length)
            need(length < 2**63 and excess <= 16384)
            if not length:
                break
            data = self.bytes(length)
            self.events.append(("body", data))
            need(b"\r\n".startswith(self.data[self.at : self.at + 2]))
            if len(self.bytes(2)) < 2:
                raise Incomplete
        trailers = [pair for pair in self.fields() if pair[0].lower() not in DROPPED]
        self.events.append(("end", trailers))

    @staticmethod
    def split(line: bytes) -> list[bytes]:
        """Split at semicolons outside of quotes."""
        parts, inside = [b""], False
        for byte in line:
            inside ^= byte == 34
            if byte == 59 and not inside:
                parts.append(b"")
            else:
                parts[-1] += bytes((byte,))
        return parts
