"""mod_ext_filter: programs as filters. They read the body on standard input and write what it is.

::

    ExtFilterDefine slowdown mode=output cmd="/usr/bin/sed s/verd/vert/g" intype=text/html
    <Location />
        SetOutputFilter slowdown
    </Location>

A program is started for each body, by its arguments and without a shell, in a process group of its
own, and is ended with the request. Of the request it gets nothing but the body: its environment
has PATH, TZ and the locale (Apache gives it the CGI variables too). It is fed and read at the same
time, so neither side waits for the other; when it does neither for Timeout, or fails, the response
does too. ``ExtFilterOptions Onfail=remove`` leaves the body as it is when the program cannot be
started. DebugLevel is ignored.

Under the event MPM a file, or an application in a thread, is filtered in that thread. What writes
on the event loop itself (an ASGI application) cannot be, nor can request bodies (mode=input): both
are refused.
"""

from __future__ import annotations

import asyncio
import os
import select
import shlex
import signal
import subprocess
from typing import TYPE_CHECKING, Any

from ...sapi import ClientDisconnected, RequestError
from ..filters import (
    CONTENT_SET,
    EOS,
    FLUSH,
    RESOURCE,
    Brigade,
    FileBucket,
    Filter,
    InputFilter,
    OutputFilter,
    blocks,
)
from ..http_out import error_page
from ..module import (
    ACCESS_CONF,
    ITERATE,
    RAW_ARGS,
    RSRC_CONF,
    Command,
    Module,
    Settings,
)
from ..static import BLOCKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..config import Parameters
    from ..records import Request

_BLOCK = 65536
_HELD = 1 << 24
"""Bytes of a request body that a program may write at once, as at its end."""
_FAILED = "500 Internal Server Error"
_ENVIRONMENT = ("PATH", "TZ", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE")
_NONE = ("none", "*/*", "")


class Definition:
    """What ExtFilterDefine says."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.mode = "output"
        self.command: list[str] = []
        self.intype: str | None = None
        self.outtype: str | None = None
        self.type = RESOURCE
        self.preserves_length = False
        self.enable: tuple[str, str | None] | None = None
        self.disable: tuple[str, str | None] | None = None


class Config(Settings):
    """What is configured for a section."""

    log_stderr = False
    remove_on_failure = False


# -- directives -----------------------------------------------------------------------------------


def _define(cmd: Parameters, config: Any, rest: str) -> str | None:
    """ExtFilterDefine name parameter=value ...; a value may be in double quotes."""
    try:
        name, *parameters = shlex.split(rest)
    except ValueError as error:
        return f"ExtFilterDefine: {error}"
    definition = Definition(name.lower())
    for parameter in parameters:
        key, equals, value = parameter.partition("=")
        key = key.lower()
        if key == "preservescontentlength" and not equals:
            definition.preserves_length = True
        elif not equals or key not in _PARAMETERS:
            return f"ExtFilterDefine: unexpected parameter {parameter!r}"
        else:
            said = _PARAMETERS[key](definition, value)
            if said is not None:
                return f"ExtFilterDefine: {said}"
    if not definition.command:
        return "ExtFilterDefine: cmd= is missing"
    known = cmd.host.output_filters.keys() | cmd.host.input_filters.keys()
    if definition.name in known:
        return f"filter {definition.name!r} is already defined"
    if definition.mode == "input":
        if cmd.host.mpm == "event":
            return "ExtFilterDefine: mode=input is not for the event MPM"
        cmd.host.register_input_filter(InputFilter(definition.name, _input_of(definition)))
    else:
        cmd.host.provided.setdefault(BLOCKING, set()).add(definition.name)
        cmd.host.register_output_filter(
            OutputFilter(definition.name, _output_of(definition), definition.type)
        )
    return None


def _set_mode(definition: Definition, value: str) -> str | None:
    if value.lower() not in ("output", "input"):
        return f"mode must be output or input, not {value}"
    definition.mode = value.lower()
    return None


def _set_command(definition: Definition, value: str) -> str | None:
    try:
        definition.command = shlex.split(value)
    except ValueError as error:
        return f"cmd: {error}"
    return None if definition.command else "cmd is empty"


def _set_type(definition: Definition, value: str) -> str | None:
    if not (value.isascii() and value.isdigit() and RESOURCE <= int(value) <= CONTENT_SET):
        return f"ftype must be a number from {RESOURCE} to {CONTENT_SET}, not {value}"
    definition.type = int(value)
    return None


def _text(name: str) -> Callable[[Definition, str], str | None]:
    def store(definition: Definition, value: str) -> None:
        setattr(definition, name, None if value.lower() in _NONE else value)

    return store


def _variable(name: str) -> Callable[[Definition, str], str | None]:
    def store(definition: Definition, value: str) -> None:
        variable, equals, wanted = value.partition("=")
        setattr(definition, name, (variable, wanted if equals else None))

    return store


_PARAMETERS: dict[str, Callable[[Definition, str], str | None]] = {
    "mode": _set_mode,
    "cmd": _set_command,
    "ftype": _set_type,
    "intype": _text("intype"),
    "outtype": _text("outtype"),
    "enableenv": _variable("enable"),
    "disableenv": _variable("disable"),
}


def _options(cmd: Parameters, config: Config, option: str) -> str | None:
    lower = option.lower()
    if lower in ("logstderr", "nologstderr"):
        config.log_stderr = lower == "logstderr"
    elif lower in ("onfail=abort", "onfail=remove"):
        config.remove_on_failure = lower == "onfail=remove"
    elif not lower.startswith("debuglevel="):
        return f"Invalid ExtFilterOptions option: {option}"
    return None


# -- the program ----------------------------------------------------------------------------------


class Program:
    """A running program between two pipes, for one body. Its methods may block.

    Raises :class:`OSError` when it cannot be started.
    """

    def __init__(self, command: list[str], timeout: float, *, log_stderr: bool) -> None:
        self._command = command
        self._timeout = timeout
        self._process = subprocess.Popen(  # noqa: S603 - the configuration names it
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if log_stderr else subprocess.DEVNULL,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            start_new_session=True,
            bufsize=0,
        )
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101
        self._in, self._out = self._process.stdin, self._process.stdout
        os.set_blocking(self._in.fileno(), False)
        os.set_blocking(self._out.fileno(), False)
        self._reading = True
        """It still reads: one that needs no more than the beginning is right to stop."""
        self._writing = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Give it all of *data*; yield what it writes meanwhile."""
        rest = memoryview(data)
        while rest and self._reading and self._writing:
            readable, writable = self._wait(feeding=True)
            if writable:
                try:
                    rest = rest[os.write(self._in.fileno(), rest) :]
                except BlockingIOError:
                    pass
                except BrokenPipeError:
                    self._reading = False
            if readable:
                yield from self._read()

    def finish(self) -> Iterator[bytes]:
        """Tell it that this was all; yield the rest of what it writes.

        Raises :class:`RequestError` when it fails.
        """
        self._in.close()
        while self._writing:
            self._wait(feeding=False)
            yield from self._read()
        try:
            status = self._process.wait(self._timeout)
        except subprocess.TimeoutExpired:
            raise self._failure("does not end") from None
        if status:
            raise self._failure(f"ended with status {status}")

    def _read(self) -> Iterator[bytes]:
        try:
            data = os.read(self._out.fileno(), _BLOCK)
        except BlockingIOError:
            return
        if data:
            yield data
        else:
            self._writing = False

    def _wait(self, *, feeding: bool) -> tuple[bool, bool]:
        """Wait until it can be read or, when *feeding*, written to."""
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        if feeding:
            poll.register(self._in, select.POLLOUT)
        ready = {fd for fd, _ in poll.poll(self._timeout * 1000)}
        if not ready:
            raise self._failure(f"did nothing for {self._timeout:.0f} s")
        return self._out.fileno() in ready, feeding and self._in.fileno() in ready

    def _failure(self, what: str) -> RequestError:
        return RequestError(f"filter program {self._command[0]} {what}", _FAILED)

    def end(self) -> None:
        """End it, if it still runs, with whatever it has started."""
        self._in.close()
        self._out.close()
        if self._process.poll() is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._process.wait()


def _start(definition: Definition, r: Request) -> Program | None:
    """Start the program for *r*; None when it cannot be and Onfail=remove.

    Raises :class:`RequestError`.
    """
    config: Config = r.per_dir_config[ext_filter_module]
    try:
        program = Program(
            definition.command, r.server.timeout or 60.0, log_stderr=config.log_stderr
        )
    except OSError as error:
        message = f"couldn't create child process to run {definition.command[0]!r}: {error}"
        if not config.remove_on_failure:
            raise RequestError(message, _FAILED) from None
        r.log(message)
        return None
    r.cleanup(program.end)
    return program


# -- the filters ----------------------------------------------------------------------------------


def _output_of(definition: Definition) -> Callable[[Filter, Brigade], None]:
    """Return the function of the output filter that *definition* is about."""

    def filter_output(f: Filter, brigade: Brigade) -> None:
        if f.context is None and not brigade:
            return
        try:
            if f.context is None:
                f.context = _begin(definition, f)
            if f.context is None:
                f.remove()
                f.pass_on(brigade)
                return
            for each in _through(f.context, brigade):
                f.pass_on([each])
                if f.request.aborted:
                    raise ClientDisconnected("the client has gone")
        except RequestError as error:
            _fail(f, error)

    return filter_output


def _fail(f: Filter, error: RequestError) -> None:
    """Answer with an error, or make the client see that the response is incomplete.

    That is done here, as those who write are not prepared for an exception at the end. What they
    still write goes nowhere.
    """
    r = f.request
    r.log(str(error))
    f.context = _BROKEN
    if r.headers_sent:
        r.connection.aborted = True  # it is reset when the request ends
        raise ClientDisconnected(str(error))
    http: Filter | None = f
    while http is not None and http.name != "HTTP":
        http = http.next
    if http is not None:
        http.context = None  # what it holds
        r.output_filters, r.status_line = http, None
        error_page(r, 500)
        r.output_filters = f


def _through(program: Program | object, brigade: Brigade) -> Iterator[Any]:
    """Yield what *program* makes of *brigade*."""
    for bucket in brigade:
        if not isinstance(program, Program):
            if program is _NOTHING and bucket is EOS:
                yield EOS
        elif bucket is EOS:
            yield from program.finish()
            yield EOS
        elif bucket is FLUSH:
            yield FLUSH
        else:
            for block in blocks(bucket) if isinstance(bucket, FileBucket) else [bucket]:
                yield from program.feed(block)  # type: ignore[arg-type]


_NOTHING, _BROKEN = object(), object()
"""In a program's place: there is no body to filter, as the answer is to HEAD; it has failed."""


def _begin(definition: Definition, f: Filter) -> Program | object | None:
    """Decide, and start the program; None when the response stays as it is."""
    r = f.request
    if r.status in (204, 304) or not _concerns(definition, r):
        return None
    program: Program | object | None = _NOTHING
    if not r.header_only:
        if r.connection.asynchronous and _on_loop():
            raise RequestError(
                f"filter {definition.name!r}: a program cannot filter what is written on the event"
                " loop",
                _FAILED,
            )
        program = _start(definition, r)
        if program is None:
            return None
    if definition.outtype is not None:
        r.content_type = definition.outtype
    headers = r.headers_out
    if not definition.preserves_length:
        headers.unset("Content-Length")
    headers.unset("Accept-Ranges")
    headers.unset("Content-MD5")
    return program


def _on_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _concerns(definition: Definition, r: Request) -> bool:
    """Whether the type of the response and the environment are those of *definition*."""
    if definition.intype is not None:
        kind = (r.content_type or "").partition(";")[0].strip()
        if kind.lower() != definition.intype.lower():
            return False
    return _holds(definition.enable, r, True) and not _holds(definition.disable, r, False)


def _holds(condition: tuple[str, str | None] | None, r: Request, default: bool) -> bool:
    if condition is None:
        return default
    name, wanted = condition
    value = r.subprocess_env.get(name)
    return value is not None and wanted in (None, value)


class _Input:
    """The program for one request body; see :class:`~..filters.InputFilter`."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def receive(self, data: bytes) -> bytes:
        """Return what the program has written by now; at the end, the rest of it.

        :class:`RequestError` when that is more than one would hold in memory.
        """
        out: list[bytes] = []
        size = 0
        for block in self._program.feed(data) if data else self._program.finish():
            out.append(block)
            size += len(block)
            if size > _HELD:
                raise RequestError(
                    f"a filter program wrote over {_HELD} bytes at once", "413 Content Too Large"
                )
        return b"".join(out)


class _AsItIs:
    """What stands in the place of a filter that has nothing to do."""

    def receive(self, data: bytes) -> bytes:
        """Return *data*."""
        return data


def _input_of(definition: Definition) -> Callable[[Request], Any]:
    def make(r: Request) -> Any:
        if r.body.at_end:
            return _AsItIs()
        if definition.intype is not None:
            kind = (r.headers_in.get("Content-Type") or "").partition(";")[0].strip()
            if kind.lower() != definition.intype.lower():
                return _AsItIs()
        if not (_holds(definition.enable, r, True) and not _holds(definition.disable, r, False)):
            return _AsItIs()
        if r.connection.asynchronous:
            raise RequestError(f"filter {definition.name!r}: mode=input is not for event", _FAILED)
        program = _start(definition, r)
        if program is None:
            return _AsItIs()
        if not definition.preserves_length:
            r.headers_in.unset("Content-Length")
        if definition.outtype is not None:
            r.headers_in.set("Content-Type", definition.outtype)
        return _Input(program)

    return make


ext_filter_module = Module(
    "mod_ext_filter",
    commands=(
        Command("ExtFilterDefine", _define, RAW_ARGS, RSRC_CONF, "a name and parameters"),
        Command("ExtFilterOptions", _options, ITERATE, RSRC_CONF | ACCESS_CONF),
    ),
    create_dir_config=lambda path: Config(),
    merge_dir_config=Config.merged,
)
