"""The access log: one request, one record, one line, in php-fpm's ``access.format``.

========= ============================================= ==========================================
token     what it shows                                 modifiers, as in ``%{milli}d``
========= ============================================= ==========================================
``%%``    a percent sign
``%b %B`` bytes of the response's body; none: ``-``, 0
``%C``    CPU time of the request, in percent of ``%d`` ``total``, ``user``, ``system``
``%d``    duration                                      ``seconds``, ``milli``, ``micro``
``%e``    a variable of the request                     its name
``%f``    SCRIPT_FILENAME
``%l``    length of the request's body
``%m``    method
``%M``    peak memory of the process                    ``bytes``, ``kilo``, ``mega``
``%n``    the pool
``%o``    a header of the response                      its name
``%p %P`` pid of the worker, and of its parent
``%q %Q`` query string, and ``?`` if there is one
``%r``    request URI without the query                 ``full``: with it
``%R``    address of the client
``%s``    status
``%t %T`` time of the start, and of logging             a format of strftime
``%u``    REMOTE_USER
========= ============================================= ==========================================

``%b``, ``%B`` and ``%{full}r`` are not php-fpm's. What is absent is ``-``; the query is empty.

A format becomes one function when the log is made, so that a request pays for what its line
shows and for nothing else.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from ..manager.log import LogFile
from ..sapi import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HELD = 32
"""Lines that are held back at most."""

PHP_FPM = '%R - %u %t "%m %r" %s'
"""php-fpm's own format."""
COMBINED = (
    '%R - %u [%t] "%m %{full}r %{SERVER_PROTOCOL}e" %s %b "%{HTTP_REFERER}e" "%{HTTP_USER_AGENT}e"'
)
"""Apache's combined format."""

_PEAK = f"usage(SELF).ru_maxrss * {1 if sys.platform == 'darwin' else 1024}"
_USER, _SYSTEM = "cpu.ru_utime - cpu_then.ru_utime", "cpu.ru_stime - cpu_then.ru_stime"
_OURS: dict[str, dict[tuple[str, ...], str]] = {
    "%": {("",): ""},
    "n": {("",): ""},
    "b": {("",): "exchange.written or '-'"},
    "B": {("",): "exchange.written"},
    "C": {
        ("", "total"): f"percent({_USER} + {_SYSTEM}, took)",
        ("user",): f"percent({_USER}, took)",
        ("system",): f"percent({_SYSTEM}, took)",
    },
    "d": {
        ("", "seconds"): "f'{took:.3f}'",
        # php-fpm wrote them with one l for years.
        ("milli", "milliseconds", "mili", "miliseconds"): "f'{took * 1e3:.3f}'",
        ("micro", "microseconds"): "int(took * 1e6)",
    },
    "M": {
        ("", "bytes"): _PEAK,
        ("kilo", "kilobytes"): f"{_PEAK} // 1024",
        ("mega", "megabytes"): f"{_PEAK} // 1048576",
    },
    "p": {("",): "getpid()"},
    "P": {("",): "getppid()"},
    "Q": {("",): "'?' if get('QUERY_STRING') else ''"},
    "s": {("",): "exchange.status[:3] or '-'"},
}
"""Tokens whose text is ours: the modifiers they know, and the expression for each."""
_OUTSIDE: dict[str, dict[tuple[str, ...], str]] = {
    "f": {("",): "get('SCRIPT_FILENAME') or '-'"},
    "l": {("",): "get('CONTENT_LENGTH') or 0"},
    "m": {("",): "get('REQUEST_METHOD') or '-'"},
    "q": {("",): "get('QUERY_STRING') or ''"},
    "r": {
        ("",): "(get('REQUEST_URI') or '').partition('?')[0] or path(get)",
        ("full",): "get('REQUEST_URI') or uri(get)",
    },
    "R": {("",): "get('REMOTE_ADDR') or '-'"},
    "u": {("",): "get('REMOTE_USER') or '-'"},
}
"""Tokens whose text comes from outside."""
_NAMED = {"e": "get({!r}) or '-'", "o": "header(exchange, {!r})"}
"""Tokens whose modifier is a name; from outside, too."""
_TIMES = {"t": "int(began)", "T": "int(time())"}

_SAFE = bytes(set(range(32, 127)) - set(b'"\\'))
"""Bytes that a value may have as they are, the blank only between quotation marks."""
_ESCAPES = {
    **{code: f"\\x{code:02x}" for code in [*range(32), *range(127, 256)]},
    ord('"'): '\\"',
    ord("\\"): "\\\\",
}
_JSON_ESCAPES = {code: text.replace("\\x", "\\u00") for code, text in _ESCAPES.items()}
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


class AccessLog:
    """Appends a line per request to *path*, ``"-"`` being standard error.

    *format* is php-fpm's, None is :data:`COMBINED`; *pool* is what ``%n`` shows. *suppress* names
    URIs whose requests are left out: those by GET or HEAD, without query or body, that were
    answered with 2xx. *fd* is the log, open already; it belongs to this object then.

    Nothing in a value can end a line or a quotation: control characters, quotation marks,
    backslashes and what is not ASCII are escaped, outside of quotation marks blanks, too. (Where
    the format begins with a brace the escapes are JSON's.) A line longer than 8192 bytes, in a
    pipe 4095, is cut and ends with ``...``.

    Lines of several threads and processes do not mix. A line that cannot be written at once is
    dropped: neither a full disk nor a pipe that nobody empties holds or fails a request. When the
    log takes lines again, the first is ``# time N lines of this log were dropped: reason``.

    Raises :class:`ConfigurationError`.
    """

    begin: Callable[[Any], None]
    """Note when the request began. Takes the exchange."""
    end: Callable[..., None]
    """Write the request's line; one that was refused before :attr:`begin` has one, too.

    Takes the exchange and, from who knows them, the monotonic times of its begin and end;
    :attr:`begin` is then needed only where :attr:`needs_begin` says so.
    """
    needs_begin: bool
    """The format shows what only :attr:`begin` can note."""

    def __init__(
        self,
        path: str,
        format: str | None = None,
        *,
        pool: str = "www",
        suppress: Iterable[str] = (),
        fd: int | None = None,
    ) -> None:
        if path == "syslog":
            raise ConfigurationError("an access log cannot go to syslog: name a file")
        unwanted = frozenset(suppress)
        for each in unwanted:
            if not each.startswith("/"):
                raise ConfigurationError(f"access.suppress_path {each!r} must begin with a slash")
        format = COMBINED if format is None else format
        escapes = _JSON_ESCAPES if format.startswith("{") else _ESCAPES
        pieces = _parse(format, pool, escapes)
        self._file = LogFile(path, _dropped_note, fd)
        self._lines = _formatter(pieces, self._file, escapes)
        self._held: list[tuple[Any, ...]] = []
        self._holder = 0
        self._format = (pieces, unwanted)
        self.needs_begin = any("cpu" in each.value for each in pieces)
        write, lines = self._file.write, self._lines
        self.begin, self.end = _compile(*self._format, lambda values: write(lines([values])))

    def hold(self) -> None:
        """Hold lines back from now on and write up to 32 in one go, or at :meth:`flush`.

        For a server of one thread that calls :meth:`flush` before it waits for anything.
        """
        self._holder = os.getpid()
        self.begin, self.end = _compile(*self._format, self._held.append, self._held, self.flush)

    def flush(self) -> None:
        """Write the lines that are held back. A fork of the process leaves them to the process."""
        if self._held:
            lines = self._lines(self._held)
            self._held.clear()
            if os.getpid() == self._holder:
                for at in self._file.pieces(lines):
                    self._file.write(at)

    @property
    def dropped(self) -> int:
        """Lines that this process could not write."""
        return self._file.dropped

    def fileno(self) -> int:
        """Return the descriptor, for handing it to another process."""
        return self._file.fileno()

    def reopen(self) -> None:
        """Open the file by its name again, after somebody rotated it.

        When that fails the old one stays and :class:`ConfigurationError` is raised.
        """
        self._file.reopen()

    def replace(self, fd: int) -> None:
        """Write to *fd* from now on, which is taken over: a file that another process opened."""
        self.flush()
        self._file.replace(fd)

    def close(self) -> None:
        """Close the log; what is logged later is dropped."""
        self.flush()
        self._file.close()


def check_format(format: str) -> None:
    """Raise :class:`ConfigurationError` unless *format* is one."""
    _parse(format, "", _ESCAPES)


class _Piece(NamedTuple):
    """A part of a line: a literal text, or an expression and what it may use."""

    literal: str = ""
    value: str = ""
    outside: bool = False
    quoted: bool = False
    clock: _Clock | None = None


class _Clock(dict[int, str]):
    """Seconds since the epoch to text: most requests share their second with others."""

    def __init__(self, format: str, escapes: dict[int, str]) -> None:
        self._format = format
        self._escapes = escapes

    def __missing__(self, second: int) -> str:
        if len(self) > 100:  # requests that last long ask for seconds gone by
            self.clear()
        at = time.localtime(second)
        text = time.strftime(self._format, at) if self._format else _default_time(at)
        self[second] = text = _escaped(text, self._escapes)
        return text


def _default_time(at: time.struct_time) -> str:
    """Return ``%d/%b/%Y:%H:%M:%S %z``, whatever locale the application chose."""
    sign, offset = "-" if at.tm_gmtoff < 0 else "+", abs(at.tm_gmtoff) // 60
    return (
        f"{at.tm_mday:02}/{_MONTHS[at.tm_mon - 1]}/{at.tm_year}"
        f":{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} {sign}{offset // 60:02}{offset % 60:02}"
    )


# -- a format becomes functions


def _parse(format: str, pool: str, escapes: dict[int, str]) -> list[_Piece]:
    """Return the pieces of *format*. Raises :class:`ConfigurationError`."""
    pieces: list[_Piece] = []
    quotes = start = 0
    try:
        while start < len(format):
            if format[start] == "%":
                code, modifier, end = _token(format, start)
                piece = _piece(code, modifier, escapes)
                if code == "n":
                    piece = _Piece(_escaped(pool, escapes))
                pieces.append(piece._replace(quoted=quotes % 2 == 1))
            else:
                end = format.find("%", start)
                end = len(format) if end < 0 else end
                literal = format[start:end]
                if not literal.replace("\t", "").isprintable():
                    raise ValueError(f"{literal!r} holds a control character")
                pieces.append(_Piece(literal))
                quotes += literal.count('"')
            start = end
    except ValueError as error:
        raise ConfigurationError(
            f"access.format, character {start + 1}: {error}: {format!r}"
        ) from None
    return pieces


def _token(format: str, start: int) -> tuple[str, str, int]:
    """Return the code and modifier that begin at *start*, and where they end."""
    modifier, at = "", start + 1
    if format[at : at + 1] == "{":
        closing = format.find("}", at)
        if closing < 0:
            raise ValueError("a brace is not closed")
        modifier, at = format[at + 1 : closing], closing + 1
    if at == len(format):
        raise ValueError("a percent sign without a code")
    return format[at], modifier, at + 1


def _piece(code: str, modifier: str, escapes: dict[int, str]) -> _Piece:
    """Return what *code* with *modifier* shows. Raises ValueError when there is no such thing."""
    if code in _TIMES:
        time.strftime(modifier)  # raises ValueError, too
        return _Piece(value=_TIMES[code], clock=_Clock(modifier, escapes))
    if code in _NAMED:
        if not modifier:
            raise ValueError(f"%{code} needs a name: %{{NAME}}{code}")
        name = modifier.lower() if code == "o" else modifier
        return _Piece(value=_NAMED[code].format(name), outside=True)
    known = _OURS.get(code) or _OUTSIDE.get(code)
    if known is None:
        raise ValueError(f"%{code} is not known")
    for modifiers, value in known.items():
        if modifier.lower() in modifiers:
            return _Piece("%" if code == "%" else "", value, code in _OUTSIDE)
    names = ", ".join(name for each in known for name in each if name)
    raise ValueError(f"%{code} knows {f'the modifiers {names}' if names else 'no modifier'}")


def _formatter(
    pieces: list[_Piece], file: LogFile, escapes: dict[int, str]
) -> Callable[[list[tuple[Any, ...]]], bytes]:
    """Return what makes lines for *file*, each of the values of one request."""
    template = names = unquoted = ""
    for number, piece in enumerate(pieces):
        if not piece.value:
            template += piece.literal.replace("{", "{{").replace("}", "}}")
            continue
        template += f"{{v{number}}}"
        names += f"v{number}, "
        if piece.outside and not piece.quoted:
            unquoted += f"{{v{number}}}"
    template += "\n"
    # What the format says may be neither safe nor without blanks: the values must be.
    source = (
        f"lambda r: ''.join([f{template!r} for ({names}) in r])",
        f"lambda r: ' ' in ''.join([f{unquoted!r} for ({names}) in r])",
    )
    form, blanks = (eval(each, {}) for each in source)  # noqa: S307 - made of the tables above
    literals = "".join(each.literal for each in pieces)
    own = len(f"{literals}\n".encode().translate(None, _SAFE))

    def lines(requests: list[tuple[Any, ...]]) -> bytes:
        data: bytes = form(requests).encode("utf-8", "backslashreplace")
        # One look at all lines does for all their values.
        if (
            len(data.translate(None, _SAFE)) == own * len(requests)
            and (len(data) <= file.longest or max(map(len, data.split(b"\n"))) < file.longest)
            and not blanks(requests)
        ):
            return data
        return b"".join(map(careful, requests))

    def careful(values: tuple[Any, ...]) -> bytes:
        """Return the line with every value escaped, cut when it is too long."""
        rest = iter(values)
        line = "".join(
            _shown(each, next(rest), escapes) if each.value else each.literal for each in pieces
        ).encode()
        most = file.longest - 1
        return (line if len(line) <= most else line[: most - 3] + b"...") + b"\n"

    return lines


def _compile(
    pieces: list[_Piece],
    suppress: frozenset[str],
    put: Callable[[tuple[Any, ...]], object],
    held: list[tuple[Any, ...]] | None = None,
    flush: Callable[[], None] | None = None,
) -> tuple[Callable[[Any], None], Callable[..., None]]:
    """Return what begins and what ends a request.

    Its values go to *put*; *flush* is called when that has filled *held*.
    """
    names: dict[str, Any] = {
        "SELF": resource.RUSAGE_SELF,
        "THREAD": getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF),
        "clocks": [each.clock for each in pieces if each.clock is not None],
        "flush": flush,
        "held": held,
        "getpid": os.getpid,
        "getppid": os.getppid,
        "header": _header,
        "is_plain": _is_plain,
        "monotonic": time.monotonic,
        "path": _path,
        "percent": _percent,
        "put": put,
        "suppress": suppress,
        "time": time.time,
        "uri": _uri,
        "usage": resource.getrusage,
    }
    code = compile(_source(pieces, bool(suppress), held is not None), "<access.format>", "exec")
    exec(code, names)  # noqa: S102 - made of the tables above; the format is in it as quoted text
    return names["begin"], names["end"]


def _source(pieces: list[_Piece], suppress: bool, hold: bool) -> str:
    """Return the functions ``begin`` and ``end`` as Python."""
    used = " ".join(each.value for each in pieces)
    begin = ["exchange.request_time = time()"]
    end = ["get = exchange.environ.get"]
    if suppress:
        end.append("if get('REQUEST_URI') in suppress and is_plain(exchange, get): return")
    if "began" in used:
        noted = "getattr(exchange, 'request_time', None) or time()"
        end.append(f"began = {noted} if ended is None else time() - (ended - started)")
    if "took" in used:
        begin.append("exchange.log_began = monotonic()")
        end.append("if ended is None: ended = monotonic()")
        end.append("if started is None: started = getattr(exchange, 'log_began', ended)")
        end.append("took = ended - started")
    if "cpu" in used:
        begin.append("exchange.log_cpu = usage(THREAD)")
        end += ["cpu = usage(THREAD)", "cpu_then = getattr(exchange, 'log_cpu', cpu)"]
    values = ""
    clocks = 0
    for piece in pieces:
        if piece.clock is not None:
            values += f"clocks[{clocks}][{piece.value}], "
            clocks += 1
        elif piece.value:
            values += f"{piece.value}, "
    end.append(f"put(({values}))")
    if hold:
        end.append(f"if len(held) >= {HELD}: flush()")
    return (
        "\n ".join(["def begin(exchange):", *begin])
        + "\n"
        + "\n ".join(["def end(exchange, started=None, ended=None):", *end])
    )


def _shown(piece: _Piece, value: object, escapes: dict[int, str]) -> str:
    if not piece.outside:
        return str(value)
    text = _escaped(str(value), escapes)
    return text if piece.quoted else text.replace(" ", escapes[0][:-2] + "20")


def _escaped(text: str, escapes: dict[int, str]) -> str:
    return text.translate(escapes).encode("ascii", "backslashreplace").decode()


# -- what the functions call


def _path(get: Callable[..., Any]) -> str:
    """Return the path of a request without REQUEST_URI."""
    return (get("SCRIPT_NAME") or "") + (get("PATH_INFO") or "") or "-"


def _uri(get: Callable[..., Any]) -> str:
    query = get("QUERY_STRING")
    return f"{_path(get)}?{query}" if query else _path(get)


def _header(exchange: Any, name: str) -> str:
    """Return the first header *name* of the response."""
    for key, value in getattr(exchange, "_headers", ()):
        if key.lower() == name:
            return value or "-"
    return "-"


def _percent(cpu: float, took: float) -> str:
    return f"{cpu / took * 100 if took > 0 and cpu > 0 else 0:.2f}"


def _is_plain(exchange: Any, get: Callable[..., Any]) -> bool:
    """Tell whether a request is one that ``suppress`` leaves out."""
    return (
        get("REQUEST_METHOD") in ("GET", "HEAD")
        and not get("QUERY_STRING")
        and get("CONTENT_LENGTH") in (None, "", "0")
        and exchange.status[:1] == "2"
    )


def _dropped_note(lines: int, why: str) -> bytes:
    now = _default_time(time.localtime())
    return f"# {now} {lines} lines of this log were dropped: {why}\n".encode()
