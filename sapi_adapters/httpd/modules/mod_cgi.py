"""mod_cgi: programs that are started for each request (RFC 3875).

The handler ``cgi-script``, in directories with Options ExecCGI and for what ScriptAlias maps. A
program gets its own process group, the script's directory, the request's meta-variables and no
other environment than PATH and TZ. It never gets arguments, also not the words of a query without
``=`` (§4.4), which httpd passes: that was a way into php-cgi (CVE-2012-1823, CVE-2024-4577).

A body that comes in chunks is read before the program starts, as CONTENT_LENGTH has to be known.
There is no suexec, and no ScriptLog: the error log has what programs say on standard error.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import subprocess
import time
from typing import IO, TYPE_CHECKING, Any

from ...sapi import ClientDisconnected
from ..core import EXEC_CGI, options_of
from ..hooks import DECLINED
from ..module import Module
from ..script import (
    BLOCK,
    PASS_AUTH,
    Answer,
    Failed,
    Messages,
    ScriptConfig,
    converse,
    has_body,
    respond,
    script_environ,
    spooled_body,
    to_bytes,
    upload_of,
    variable_name,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ..hooks import Hooks
    from ..records import Request

HANDLERS = ("cgi-script", "application/x-httpd-cgi")
_INHERITED = {"PATH": "/usr/local/bin:/usr/bin:/bin", "TZ": ""}
"""What of the host's environment programs get, and what it is when the host has none."""
_PATIENCE = 3.0
"""Seconds from TERM to KILL, and that a program may go on after its answer (as in httpd)."""
_SETTLE = 1.0
"""Seconds that the end of an answer waits for the program's, which tells whether it was killed."""


class Program:
    """A running program: a :class:`~..script.Peer`."""

    def __init__(
        self, r: Request, answer: Answer, environ: dict[str, str], stdin: IO[bytes] | int
    ) -> None:
        assert r.filename is not None  # noqa: S101 - the handler looked
        self._answer = answer
        self._messages = Messages(r)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the configuration allows the file
                [os.fsencode(r.filename)],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=os.path.dirname(r.filename),
                env=_environment(environ),
                bufsize=0,
                close_fds=True,
                start_new_session=True,  # a process group of its own, for killpg()
            )
        except (OSError, ValueError) as error:
            raise Failed(f"couldn't create child process: {error}") from None
        process = self._process
        assert process.stdout is not None and process.stderr is not None  # noqa: S101 - asked for
        self._out: IO[bytes] = process.stdout
        self._err: IO[bytes] | None = process.stderr
        self._in = process.stdin
        for stream in (self._out, self._err, self._in):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
        self._pending = memoryview(b"")
        self._last = False
        self.ended = False
        self.deaf = self._in is None

    # -- while it answers

    @property
    def full(self) -> bool:
        """Whether it has not taken yet what it was given."""
        return len(self._pending) > 0

    def interest(self) -> list[tuple[int, int]]:
        """Return descriptors and what to poll them for."""
        found = [(self._out.fileno(), select.POLLIN)]
        if self._err is not None:
            found.append((self._err.fileno(), select.POLLIN))
        if self._in is not None:  # an error there says that it reads no more
            found.append((self._in.fileno(), select.POLLOUT if self._pending else 0))
        return found

    def give(self, data: bytes) -> None:
        """Let it read *data*; ``b""`` is the end."""
        self._pending, self._last = memoryview(data), not data
        self._write()

    def act(self, ready: dict[int, int]) -> None:
        """Read and write where it can be done."""
        if self._in is not None and self._in.fileno() in ready:
            if ready[self._in.fileno()] & select.POLLERR:
                self._close_in()
            else:
                self._write()
        if self._err is not None and self._err.fileno() in ready:
            self._read_messages()
        if self._out.fileno() in ready:
            data = self._out.read(BLOCK)
            if data:
                self._answer.receive(data)
            elif data is not None:
                self.ended = True

    def _write(self) -> None:
        if self._in is None:
            return
        try:
            if self._pending:
                self._pending = self._pending[os.write(self._in.fileno(), self._pending) :]
        except BlockingIOError:
            pass
        except OSError:
            self._close_in()
        if self._last and not self._pending:
            self._close_in()

    def _close_in(self) -> None:
        """Its standard input is at an end, or nobody reads it."""
        self._pending, self.deaf = memoryview(b""), True
        if self._in is not None:
            self._in.close()
            self._in = None

    def _read_messages(self) -> None:
        assert self._err is not None  # noqa: S101 - the caller looked
        data = self._err.read(BLOCK)
        if data:
            self._messages.receive(data)
        elif data is not None:
            self._err.close()
            self._err = None

    # -- its end

    def finish(self) -> None:
        """End the answer. Raises :class:`Failed` when it is not whole."""
        self._close_in()
        if not self._answer.complete and self._waited(_SETTLE):
            found = self._look()
            if found is not None and found.si_code != os.CLD_EXITED:
                raise Failed(f"the script was killed by signal {found.si_status}")
        self._answer.finish()
        self._waited(_PATIENCE)

    def _look(self) -> Any:
        """Return how it ended, None while it runs; its process id stays its own until then."""
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)

    def _waited(self, seconds: float) -> bool:
        """Wait until it has ended, and log what it says; False when *seconds* have passed."""
        end, pause = time.monotonic() + seconds, 0.5
        while True:
            poller = select.poll()
            if self._err is not None:
                poller.register(self._err.fileno(), select.POLLIN)
            over = self._look() is not None
            if poller.poll(0 if over else pause):
                self._read_messages()
            elif over:
                return True
            elif time.monotonic() > end:
                return False
            else:
                pause = min(2 * pause, 50.0)

    def close(self) -> None:
        """End it, if it still runs, and everything it has started."""
        self._close_in()
        self._out.close()
        if self._look() is None:
            self._kill(signal.SIGTERM)
            self._waited(_PATIENCE)
            self._kill(signal.SIGKILL)  # whatever is left of the group
        if self._err is not None:
            self._err.close()
        self._messages.finish()
        self._process.wait()

    def _kill(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):
            pass


def _environment(environ: dict[str, str]) -> dict[bytes, bytes]:
    """Return *environ* as a process can have it."""
    found = {variable_name(name): text for name, text in environ.items() if "\0" not in text}
    for name, default in _INHERITED.items():
        text = os.environ.get(name, default)
        if text:
            found[name] = text
    return {name.encode("latin-1", "replace"): to_bytes(text) for name, text in found.items()}


# -- hooks ----------------------------------------------------------------------------------------


def _handler(r: Request) -> int | Awaitable[int]:
    if r.handler not in HANDLERS:
        return DECLINED
    name = (r.filename or "").rpartition("/")[2]
    nph = name.startswith("nph-")
    aliased = r.notes.get("alias-forced-type") == "cgi-script"
    if EXEC_CGI not in options_of(r) and not aliased:
        return _refused(r, 403, "Options ExecCGI is off in this directory")
    if nph and r.protocol == "INCLUDED":
        return _refused(r, 403, "attempt to include NPH CGI script")
    if r.filename is None or r.finfo is None:
        return _refused(r, 404, "script not found or unable to stat")
    if stat.S_ISDIR(r.finfo.st_mode):
        return _refused(r, 403, "attempt to invoke directory as script")
    if r.used_path_info is False and r.path_info:
        return _refused(r, 404, "AcceptPathInfo off disallows user's path")
    if not os.access(r.filename, os.X_OK):
        return _refused(r, 403, "file permissions deny server execution")
    return respond(r, Answer(r, nph=nph), _run, 500)


def _refused(r: Request, status: int, why: str) -> int:
    r.log(f"{why}: {r.filename}", "info" if status == 404 else "error")
    return status


def _run(r: Request, answer: Answer) -> None:
    config: ScriptConfig = r.per_dir_config[cgi_module]
    spooled = spooled_body(r)
    file, length = spooled if spooled is not None else (None, None)
    if length is None and has_body(r):
        length = r.body.length
    piped = file is None and bool(length)
    stdin = subprocess.PIPE if piped else subprocess.DEVNULL
    try:
        program = Program(r, answer, script_environ(r, config, length), file or stdin)
    finally:
        if file is not None:
            file.close()
    try:
        converse(r, program, upload_of(r, None) if piped else None, answer, r.server.timeout)
        program.finish()
    except ClientDisconnected:
        r.log("the client has gone: the script is ended", "info")
        raise
    finally:
        program.close()


def _register(hooks: Hooks) -> None:
    hooks.add("handler", _handler)


cgi_module = Module(
    "mod_cgi",
    commands=(PASS_AUTH,),
    create_dir_config=lambda path: ScriptConfig(),
    merge_dir_config=ScriptConfig.merged,
    register_hooks=_register,
)
