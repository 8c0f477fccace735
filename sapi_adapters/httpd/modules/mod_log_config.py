"""mod_log_config: LogFormat, CustomLog, TransferLog, GlobalLog; with the bytes of mod_logio.

=============== ================================ ================= ===============================
token           what it shows                    token             what it shows
=============== ================================ ================= ===============================
``%a %{c}a``    address of the client            ``%p``            port; canonical, local, remote
``%A``          the host's own address           ``%P``            pid; pid, tid, hextid
``%b %B``       bytes of the body; none: -, 0    ``%q``            query with its ``?``
``%{x}C``       a cookie                         ``%r``            first line of the request *
``%D``          duration in microseconds *       ``%R``            handler *
``%{x}e``       a variable of the environment    ``%s``            status *
``%f``          file                             ``%t``            time: strftime's; sec, msec,
``%h %{c}h``    name or address of the client                      usec, msec_frac, usec_frac, each
``%H``          protocol                                           after begin: or end:
``%{x}i``       a header of the request          ``%T``            duration *: s, ms, us
``%I``          bytes received, with the head    ``%u``            user
``%k``          requests before on connection    ``%U``            path without the query *
``%l``          never known: ``-``               ``%v %V``         ServerName; the name asked for
``%L %{c}L``    id in the error log *            ``%X``            aborted X, kept +, closed -
``%m``          method                           ``%{x}^ti``       a trailer of the request
``%{x}n``       a note                           ``%O %S``         bytes sent, with the head; both
``%{x}o``       a header of the response         ``%%``            a percent sign
=============== ================================ ================= ===============================

After an internal redirect those with * are of the request as it came, the others of the last one;
``%<s`` and ``%>s`` choose. ``%400,501{x}i`` and ``%!200{x}i`` show ``-`` for other statuses of the
last one. What is absent is ``-``. Quotation marks, backslashes, control characters and bytes that
are not ASCII are escaped, as ``\\"``, ``\\\\``, ``\\n`` and ``\\xhh``. A line longer than 8192
bytes, in a pipe 4095, is cut and ends with ``...``.

``%I`` is what the head has when it is written without superfluous blanks, and the body without
its chunks. Left out: ``%{x}^to`` (responses have no trailers here), ``%^FB``, ``expr=``,
BufferedLogs, CookieLog, and ``|$`` for a shell.

A format becomes one function when the logs are opened, so that a request pays for what its line
shows and for nothing else.
"""

from __future__ import annotations

import os
import re
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ...sapi import ConfigurationError
from ..hooks import OK
from ..module import RSRC_CONF, TAKE1, TAKE12, TAKE23, Command, Module, Settings
from .sinks import Sink, check_program, open_sink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..config import Parameters
    from ..hooks import Hooks
    from ..host import Host
    from ..records import Request

COMMON = '%h %l %u %t "%r" %>s %b'
COMBINED = COMMON + ' "%{Referer}i" "%{User-Agent}i"'

# {r} is the request the token is about. Those of _OURS need no escaping.
_ADDRESS = "{r}.connection.client_ip or '-'"
_OURS: dict[str, dict[str, str]] = {
    "a": {"": _ADDRESS, "c": _ADDRESS},
    "A": {"": "{r}.connection.local_ip or '-'"},
    "b": {"": "{r}.bytes_sent or '-'"},
    "B": {"": "{r}.bytes_sent"},
    "D": {"": "int((monotonic() - {r}.request_clock) * 1e6)"},
    "H": {"": "{r}.protocol"},
    "I": {"": "received({r})"},
    "k": {"": "{r}.connection.keepalives"},
    "l": {"": "'-'"},
    "O": {"": "last.bytes_out"},
    "p": dict.fromkeys(("", "canonical"), "{r}.server.port or {r}.connection.local_port")
    | {"local": "{r}.connection.local_port", "remote": "{r}.connection.client_port"},
    "P": dict.fromkeys(("", "pid"), "getpid()")
    | {"tid": "get_native_id()", "hextid": "f'{{get_native_id():x}}'"},
    "s": {"": "{r}.status"},
    "S": {"": "received({r}) + last.bytes_out"},
    "T": dict.fromkeys(("", "s"), "int(monotonic() - {r}.request_clock)")
    | {
        "ms": "int((monotonic() - {r}.request_clock) * 1e3)",
        "us": "int((monotonic() - {r}.request_clock) * 1e6)",
    },
    "X": {"": "'X' if r.connection.aborted else '+' if r.connection.keepalive else '-'"},
}
"""The arguments that a token knows, and the expression for each."""
_NAME = "{r}.server.server_hostname or {r}.connection.local_ip or '-'"
_CLIENT = "{r}.connection.remote_host or {r}.connection.client_ip or '-'"
_OUTSIDE: dict[str, dict[str, str]] = {
    "f": {"": "named({r}.filename)"},
    "h": {"": _CLIENT, "c": _CLIENT},
    "L": {"": "{r}.log_id or '-'", "c": "{r}.connection.log_id or '-'"},
    "m": {"": "{r}.method"},
    "q": {"": "'' if {r}.args is None else '?' + {r}.args"},
    "r": {"": "{r}.the_request"},
    "R": {"": "{r}.handler or '-'"},
    "u": {"": "'-' if {r}.user is None else {r}.user or EMPTY"},
    "U": {"": "{r}.uri"},
    "v": {"": _NAME},
    "V": {"": "canonical({r})"},
}
"""The same for what comes from outside."""
_NAMED = {
    "C": "cookie({r}, {name!r})",
    "e": "{r}.subprocess_env.get({name!r}, '-')",
    "i": "seen_{r}.get({lower!r}, '-')",
    "n": "{r}.notes.get({name!r}, '-')",
    "o": "header_out({r}, {lower!r})",
    "^ti": "trailer({r}, {lower!r})",
}
"""Tokens whose argument is a name; from outside, too."""
_ORIGINAL = frozenset("sUTDrRL")
"""Tokens that are about the request as it came."""
_FRACTIONS = {
    "sec": "int({t})",
    "msec": "int({t} * 1000)",
    "usec": "int({t} * 1000000)",
    "msec_frac": "f'{{int({t} * 1000) % 1000:03}}'",
    "usec_frac": "f'{{int({t} * 1000000) % 1000000:06}}'",
}

_SAFE = bytes(set(range(32, 127)) - set(b'"\\'))
"""Bytes that a value may have as they are."""
_ESCAPES = {
    **{code: f"\\x{code:02x}" for code in [*range(32), *range(127, 256)]},
    **dict(zip(b'\b\t\n\v\r"\\', ("\\b", "\\t", "\\n", "\\v", "\\r", '\\"', "\\\\"), strict=True)),
}
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


# -- configuration --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Log:
    """One CustomLog, TransferLog or GlobalLog."""

    target: str
    format: str | None
    """A format or a nickname; None for the server's LogFormat without a nickname."""
    condition: str
    """``VAR``, ``!VAR`` or empty."""
    everywhere: bool
    place: str
    home: Config
    """Whose nicknames count."""


class Config(Settings):
    """The logs of a server."""

    formats: dict[str, str] = {  # noqa: RUF012 - replaced, never changed
        "common": COMMON,
        "clf": COMMON,
        "combined": COMBINED,
    }
    """By nickname, in lower case."""
    default: str = COMMON
    """What TransferLog writes."""
    logs: tuple[_Log, ...] = ()
    writers: tuple[Callable[[Request, Request], None], ...] = ()
    """What a request calls; made when the logs are opened."""

    def merged(self, new: Config) -> Config:
        """A virtual host with logs of its own has no others but those of GlobalLog."""
        result: Config = super().merged(new)
        result.formats = {**self.formats, **new.formats}
        own = tuple(_Log(**{**vars(log), "home": result}) for log in new.logs)
        result.logs = own + tuple(log for log in self.logs if log.everywhere or not own)
        return result

    def format_of(self, log: _Log) -> str:
        """Return the format of *log*, one of this server's."""
        if log.format is None:
            return self.default
        return self.formats.get(log.format.lower(), log.format)


def _log_format(cmd: Parameters, config: Config, format: str, nickname: str | None) -> str | None:
    parse(format)
    if nickname is None:
        config.default = format
        return None
    if "%" in nickname:
        return "LogFormat: a nickname has no percent sign"
    config.formats = {**config.formats, nickname.lower(): format}
    return None


def _transfer_log(cmd: Parameters, config: Config, target: str) -> str | None:
    return _add(cmd, config, target, None, None)


def _custom_log(
    cmd: Parameters, config: Config, target: str, format: str, clause: str | None
) -> str | None:
    return _add(cmd, config, target, format, clause)


def _global_log(
    cmd: Parameters, config: Config, target: str, format: str, clause: str | None
) -> str | None:
    if cmd.server.is_virtual:
        return "GlobalLog is for the whole server"
    return _add(cmd, config, target, format, clause, everywhere=True)


def _add(
    cmd: Parameters,
    config: Config,
    target: str,
    format: str | None,
    clause: str | None,
    *,
    everywhere: bool = False,
) -> str | None:
    condition = ""
    if clause is not None:
        name, _, condition = clause.partition("=")
        if name.lower() != "env" or not condition.lstrip("!"):
            return f"error in condition clause {clause!r}: only env=VAR and env=!VAR are known"
    if target.startswith("|"):
        check_program(target)
    elif not target.startswith("/dev/"):
        target = cmd.server_path(target)
    if format is not None:
        parse(format)
    place = f"line {cmd.directive.line} of {cmd.directive.file}"
    config.logs = (*config.logs, _Log(target, format, condition, everywhere, place, config))
    return None


# -- a format becomes a function ------------------------------------------------------------------


class _Piece(NamedTuple):
    """A part of a line: a literal text, or an expression and whether it comes from outside."""

    literal: str = ""
    value: str = ""
    outside: bool = False
    clock: _Clock | None = None
    field: tuple[str, str] | None = None
    """The request and the name, in lower case, of a header field that it shows."""


class _Clock(dict[int, str]):
    """Seconds since the epoch to text: most requests share their second with others."""

    def __init__(self, format: str) -> None:
        self._format = format

    def __missing__(self, second: int) -> str:
        if len(self) > 100:  # requests that last long ask for seconds gone by
            self.clear()
        at = time.localtime(second)
        text = time.strftime(self._format, at) if self._format else f"[{_time(at)}]"
        self[second] = text
        return text


def _time(at: time.struct_time) -> str:
    """Return ``%d/%b/%Y:%H:%M:%S %z``, whatever locale an application chose."""
    sign, offset = "-" if at.tm_gmtoff < 0 else "+", abs(at.tm_gmtoff) // 60
    return (
        f"{at.tm_mday:02}/{_MONTHS[at.tm_mon - 1]}/{at.tm_year}"
        f":{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} {sign}{offset // 60:02}{offset % 60:02}"
    )


_TOKEN = re.compile(r"%([!<>,0-9]*)(?:\{([^}]*)\})?([!<>,0-9]*)(\^..|[^!<>,0-9{])", re.DOTALL)


def parse(format: str) -> list[_Piece]:
    """Return the pieces of *format*. Raises :class:`ConfigurationError`."""
    pieces: list[_Piece] = []
    at = 0
    while at < len(format):
        if format[at] != "%":
            end = format.find("%", at)
            end = len(format) if end < 0 else end
            pieces.append(_Piece(_literal(format[at:end])))
            at = end
            continue
        if format.startswith("%%", at):
            pieces.append(_Piece("%"))
            at += 2
            continue
        token = _TOKEN.match(format, at)
        if token is None:
            raise ConfigurationError("Ran off end of LogFormat parsing args to some directive")
        pieces.append(_piece(token[4], token[2] or "", token[1] + token[3]))
        at = token.end()
    return pieces


def _literal(text: str) -> str:
    """Return *text* with its escapes replaced."""
    escapes = {"\\\\": "\\", "\\n": "\n", "\\r": "\r", "\\t": "\t"}
    return re.sub(r"\\[\\nrt]", lambda match: escapes[match[0]], text)


def _piece(code: str, argument: str, modifiers: str) -> _Piece:
    """Return what ``%{argument}code`` shows. Raises :class:`ConfigurationError`."""
    request = "r" if code in _ORIGINAL else "last"
    for sign in modifiers:
        if sign in "<>":
            request = "r" if sign == "<" else "last"
    clock = None
    outside = code in _OUTSIDE or code in _NAMED
    known = _OURS.get(code) or _OUTSIDE.get(code)
    if code == "t":
        value, clock = _when(argument, request)
    elif code in _NAMED:
        if not argument:
            raise ConfigurationError(f"%{code} needs a name: %{{NAME}}{code}")
        value = _NAMED[code].format(r=request, name=argument, lower=argument.lower())
    elif known is None:
        raise ConfigurationError(f"Unrecognized LogFormat directive %{code}")
    elif argument not in known:
        names = ", ".join(name for name in known if name)
        raise ConfigurationError(f"%{code} knows {names or 'no argument'}, not {argument!r}")
    else:
        value = known[argument].format(r=request)
    statuses = ", ".join(re.findall("[0-9]+", modifiers))
    if clock is not None:
        value = f"CLOCK[{value}]"
    if statuses:
        negated = "not " if modifiers.count("!") % 2 else ""
        value = f"({value}) if last.status {negated}in ({statuses},) else '-'"
    field = (request, argument.lower()) if code == "i" else None
    return _Piece(value=value, outside=outside, clock=clock, field=field)


def _when(argument: str, request: str) -> tuple[str, _Clock | None]:
    """Return the expression of ``%{argument}t``, and the clock that its seconds are given to."""
    moment = f"{request}.request_time"
    if argument.startswith("end:"):
        moment = "now()"
    argument = argument.removeprefix("begin:").removeprefix("end:")
    fraction = _FRACTIONS.get(argument)
    if fraction is not None:
        return fraction.format(t=moment), None
    try:
        time.strftime(argument)
    except ValueError as error:
        raise ConfigurationError(f"%{{{argument}}}t: {error}") from None
    return f"int({moment})", _Clock(argument)


def compile_format(
    pieces: list[_Piece], sink: Sink, condition: str = ""
) -> Callable[[Request, Request], None]:
    """Return what writes the line of a request: given it as it came, and after redirects."""

    def careful(values: tuple[Any, ...]) -> bytes:
        """Return the line with every value escaped, cut when it is too long."""
        rest = iter(values)
        line = _bytes("".join([_shown(each, rest) for each in pieces]))
        most = sink.longest - 1
        return (line if len(line) <= most else line[: most - 3] + b"...") + b"\n"

    literals = "".join(each.literal for each in pieces)
    names: dict[str, Any] = {
        "EMPTY": _Plain('""'),
        "SAFE": _SAFE,
        "canonical": _canonical,
        "careful": careful,
        "cookie": _cookie,
        "fields_of": _fields_of,
        "get_native_id": threading.get_native_id,
        "getpid": os.getpid,
        "header_out": _header_out,
        "longest": sink.longest,
        "monotonic": time.monotonic,
        "named": _named,
        "now": time.time,
        "own": _bytes(f"{literals}\n").translate(None, _SAFE),
        "received": _received,
        "trailer": _trailer,
        "write": sink.write,
    }
    body = []
    if condition:
        unwanted = "in" if condition.startswith("!") else "not in"
        variables = "last.__dict__.get('subprocess_env', ())"
        body.append(f"if {condition.lstrip('!')!r} {unwanted} {variables}: return")
    for request in ("r", "last"):
        wanted = {each.field[1] for each in pieces if each.field and each.field[0] == request}
        if wanted:
            names[f"names_{request}"] = frozenset(wanted)
            names[f"lengths_{request}"] = frozenset(map(len, wanted))
            body += [
                f"seen_{request} = {{}}",
                f"for name, value in fields_of({request}):",
                f"    if len(name) in lengths_{request}:",
                "        name = name.lower()",
                f"        if name in names_{request} and name not in seen_{request}:",
                f"            seen_{request}[name] = value",
            ]
    template = values = ""
    for number, piece in enumerate(pieces):
        if not piece.value:
            template += piece.literal.replace("{", "{{").replace("}", "}}")
            continue
        names[f"clock{number}"] = piece.clock
        body.append(f"v{number} = {piece.value.replace('CLOCK', f'clock{number}')}")
        template += f"{{v{number}}}"
        values += f"v{number}, "
    template += "\n"
    # One look at the whole line does for all its values: what is not safe must be the format's.
    body += [
        f"data = f{template!r}.encode('utf-8', 'backslashreplace')",
        "if data.translate(None, SAFE) != own or len(data) > longest:",
        f"    data = careful(({values}))",
        "write(data)",
    ]
    source = "\n ".join(["def log(r, last):", *body])
    # Made of the tables above; what the configuration says is in it as quoted text.
    exec(compile(source, "<LogFormat>", "exec"), names)  # noqa: S102
    found: Callable[[Request, Request], None] = names["log"]
    return found


class _Plain(str):
    """Text of ours where others' is expected."""

    __slots__ = ()


def _shown(piece: _Piece, values: Any) -> str:
    if not piece.value:
        return piece.literal
    value = next(values)
    if not piece.outside or value.__class__ is _Plain:
        return str(value)
    text = str(value).translate(_ESCAPES)
    if text.isascii():
        return text
    return "".join([chr(code) if code < 128 else f"\\x{code:02x}" for code in _bytes(text)])


def _bytes(text: str) -> bytes:
    """Return *text* in UTF-8; bytes that were none, in the configuration, stay as they are."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")


# -- what the functions call ----------------------------------------------------------------------


def _header_out(r: Request, name: str) -> str:
    if name == "content-type" and r.content_type is not None:
        return r.content_type
    return r.headers_out.get(name) or r.err_headers_out.get(name) or "-"


def _fields_of(r: Request) -> Iterable[tuple[str, str]]:
    """Return the header fields of a request, without making a table of them for this alone."""
    own = r.__dict__
    return own["headers_in"].items() if "headers_in" in own else r.fields


def _cookie(r: Request, name: str) -> str:
    for field in r.headers_in.all("cookie"):
        for pair in field.split(";"):
            key, equals, value = pair.partition("=")
            if equals and key.strip().lower() == name.lower():
                return value.strip()
    return "-"


def _trailer(r: Request, name: str) -> str:
    found = [value for key, value in getattr(r.body, "trailers", ()) if key.lower() == name]
    return found[0] if found else "-"


def _canonical(r: Request) -> str:
    own = r.server.server_hostname
    found = own if own and r.host.canonical_names(r) else r.hostname or own
    return found or r.connection.local_ip or "-"


def _named(path: str | None) -> str:
    """Return a file's name as its bytes, which is what is escaped."""
    if path is None:
        return "-"
    return path if path.isascii() else os.fsencode(path).decode("latin-1")


def _received(r: Request) -> int:
    fields = sum(len(name) + len(value) + 4 for name, value in _fields_of(r))
    taken: int = getattr(r.body, "taken", 0)
    return len(r.the_request) + 4 + fields + taken


# -- hooks ----------------------------------------------------------------------------------------


def _configs(host: Host) -> list[Config]:
    """Return the configurations of all servers, each once."""
    found: list[Config] = []
    for server in (host.main, *host.servers):
        config = server.module_config[log_config_module]
        if all(config is not each for each in found):
            found.append(config)
    return found


def _check_config(host: Host) -> int:
    for config in _configs(host):
        for log in config.logs:
            format = log.home.format_of(log)
            if "%" not in format:
                host.warn(f"{log.place}: no LogFormat is called {format!r}: it is what is logged")
    return OK


def _open_logs(host: Host) -> int:
    """Open every log once, as root. Programs are started only for the pass that serves."""
    sinks: dict[str, Sink] = {}
    opened: list[dict[str, Sink]] = host.retained.setdefault("mod_log_config", [])
    opened.append(sinks)
    host.cleanup(lambda: opened.remove(sinks))
    for config in _configs(host):
        writers = []
        for log in config.logs:
            if log.target.startswith("|") and host.pass_ == 1:
                continue
            sink = sinks.get(log.target)
            if sink is None:
                sink = sinks[log.target] = open_sink(log.target, host.log)
                host.cleanup(sink.close)
            pieces = parse(log.home.format_of(log))
            writers.append(compile_format(pieces, sink, log.condition))
        config.writers = tuple(writers)
    return OK


def _child_init(host: Host) -> None:
    """Give up the logs of the generation before, which a new process has inherited.

    Its programs would not see the end of their pipes otherwise.
    """
    for sinks in host.retained.get("mod_log_config", ())[:-1]:
        for sink in sinks.values():
            sink.close()


def _log_transaction(r: Request) -> int:
    writers = r.server.module_config[log_config_module].writers
    if writers:
        last = r
        while last.next is not None:
            last = last.next
        for write in writers:
            write(r, last)
    return OK


def _register(hooks: Hooks) -> None:
    hooks.add("check_config", _check_config)
    hooks.add("open_logs", _open_logs)
    hooks.add("child_init", _child_init)
    hooks.add("log_transaction", _log_transaction)


_FORMAT = "a file or |program, a format or its nickname, and env=[!]VAR or nothing"
log_config_module = Module(
    "mod_log_config",
    commands=(
        Command("LogFormat", _log_format, TAKE12, RSRC_CONF, "a format and its nickname"),
        Command("CustomLog", _custom_log, TAKE23, RSRC_CONF, _FORMAT),
        Command("GlobalLog", _global_log, TAKE23, RSRC_CONF, _FORMAT),
        Command("TransferLog", _transfer_log, TAKE1, RSRC_CONF, "a file or |program"),
    ),
    create_server_config=lambda server: Config(),
    merge_server_config=Config.merged,
    register_hooks=_register,
)
