"""CGI's cold start: how long a whole process takes, from its start to its end, for one request.

    python -m contrib.benchmarks.cgi [--runs N] [--only NAME,...] [--json FILE]

Every program answers the same request with the same 13 bytes. They are run in turn, a round after
the other, on one core; differences and ratios are taken inside a round. A process is started with
posix_spawn and waited for with wait4, so wall time ends when the kernel says that it ended, and its
user and system time come from the same call.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from contrib.benchmarks.measure import (
    ROOT,
    cores,
    exit_on_terminate,
    machine,
    pinned,
    progress,
    table,
)

LIMIT_SECONDS = 20

WSGI_APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
    return [b"Hello, World!"]

"""

ASGI_APP = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-type", b"text/plain"), (b"content-length", b"13")]})
    await send({"type": "http.response.body", "body": b"Hello, World!"})

"""

# Without site there is no installed package either; each script gets the same line for that.
PATH_LINE = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
WSGIREF = "from wsgiref.handlers import CGIHandler\n" + WSGI_APP + "CGIHandler().run(app)\n"
PROJECT_WSGI = "from sapi_adapters import run\n" + WSGI_APP + "run(app)\n"
PROJECT_ASGI = "from sapi_adapters import run\n" + ASGI_APP + "run(app)\n"

BARE_FLAGS = ("-I", "-S")


@dataclass
class Program:
    """A row of the table."""

    name: str
    source: str
    flags: tuple[str, ...] = BARE_FLAGS
    script: Path = Path()
    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)

    @property
    def argv(self) -> list[str]:
        """The command; the bare interpreter reads no file at all."""
        tail = [str(self.script)] if self.source else ["-c", "pass"]
        return [sys.executable, *self.flags, *tail]


def programs() -> list[Program]:
    """Return the table: each program without site, then with it."""
    return [
        Program("bare", ""),
        Program("wsgiref", WSGIREF),
        Program("project-wsgi", PROJECT_WSGI),
        Program("project-asgi", PROJECT_ASGI),
        Program("bare-site", "", ()),
        Program("wsgiref-site", WSGIREF, ()),
        Program("project-wsgi-site", PROJECT_WSGI, ()),
        Program("project-asgi-site", PROJECT_ASGI, ()),
    ]


# What Apache's mod_cgid gives a script, with a browser's head.
REQUEST = {
    "GATEWAY_INTERFACE": "CGI/1.1",
    "SERVER_SOFTWARE": "Apache/2.4.62 (Debian)",
    "SERVER_NAME": "localhost",
    "SERVER_ADDR": "127.0.0.1",
    "SERVER_PORT": "8080",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REMOTE_ADDR": "127.0.0.1",
    "REMOTE_PORT": "51234",
    "REQUEST_METHOD": "GET",
    "REQUEST_SCHEME": "http",
    "REQUEST_URI": "/cgi-bin/hello/?a=1&b=two",
    "SCRIPT_NAME": "/cgi-bin/hello",
    "PATH_INFO": "/",
    "QUERY_STRING": "a=1&b=two",
    "DOCUMENT_ROOT": "/var/www/html",
    "CONTEXT_PREFIX": "/cgi-bin/",
    "HTTP_HOST": "localhost:8080",
    "HTTP_USER_AGENT": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
    "HTTP_ACCEPT": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "HTTP_ACCEPT_LANGUAGE": "en-GB,en;q=0.5",
    "HTTP_ACCEPT_ENCODING": "gzip, deflate, br",
    "HTTP_COOKIE": "session=eyJhbGciOiJIUzI1NiJ9.e30.XmNK3GpH3Ys; theme=dark",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
}

# Runs a script and writes down what it had imported at its end, however it ends.
PROBE = """
import sys, atexit, posix
target, script = sys.argv[1:3]
def report():
    with open(target, "w") as file:
        file.write("\\n".join(sorted(sys.modules)))
def leave(status, really=posix._exit):
    report()
    really(status)
posix._exit = leave
if "os" in sys.modules:
    sys.modules["os"]._exit = leave
atexit.register(report)
del sys.argv[1]
with open(script) as file:
    code = compile(file.read(), script, "exec")
exec(code, {"__name__": "__main__", "__file__": script})
"""


class ProgramFailed(Exception):
    """A program did not end with status 0, or not in time, or gave another answer."""


def run(argv: list[str], output: Path, errors: Path) -> tuple[float, float]:
    """Run one process; return wall and processor time in milliseconds. Raises ProgramFailed."""
    writing = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(output), writing, 0o600),
        (os.POSIX_SPAWN_OPEN, 2, str(errors), writing, 0o600),
    ]
    begin = time.perf_counter_ns()
    pid = os.posix_spawn(argv[0], argv, REQUEST, file_actions=actions)
    signal.alarm(LIMIT_SECONDS)
    try:
        _, status, usage = os.wait4(pid, 0)
    except TimeoutError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise ProgramFailed(f"did not end within {LIMIT_SECONDS} s") from None
    finally:
        signal.alarm(0)
    wall = time.perf_counter_ns() - begin
    if status != 0:
        text = errors.read_text(errors="replace").strip()[-400:]
        raise ProgramFailed(f"status {os.waitstatus_to_exitcode(status)}: {text}")
    return wall / 1e6, (usage.ru_utime + usage.ru_stime) * 1e3


def prepare(program: Program, directory: Path) -> None:
    """Write the script, look at its answer, list its modules. Raises ProgramFailed."""
    # The script's directory is first on sys.path: its name must be nobody else's module.
    program.script = directory / f"script-{program.name}.py"
    program.script.write_text(PATH_LINE + program.source if program.source else "pass\n")
    output, errors = directory / "stdout", directory / "stderr"
    # Twice: the first one may have to write the .pyc files that every later one reads.
    for _ in range(2):
        run(program.argv, output, errors)
    answer = output.read_bytes()
    if program.source and not answer.endswith(b"\r\n\r\nHello, World!"):
        raise ProgramFailed(f"answered {answer[:200]!r}")
    listing = directory / "modules"
    probe = [sys.executable, *program.flags, "-c", PROBE, str(listing), str(program.script)]
    run(probe, output, errors)
    program.modules = listing.read_text().split("\n")


def quartiles(values: Sequence[float], digits: int) -> str:
    """Return the median with the quartiles, as in '2.1 (2.0..2.3)'."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"


def against(
    one: Program, other: Program | None, compare: Callable[[float, float], float], digits: int
) -> str:
    """Compare two programs round by round."""
    if other is None:
        return "-"
    pairs = zip(one.wall_ms, other.wall_ms, strict=True)
    return quartiles([compare(a, b) for a, b in pairs], digits)


def report(measured: Sequence[Program]) -> str:
    """Return the table: every program against the bare interpreter and wsgiref of its half."""
    by_name = {program.name: program for program in measured}
    rows = []
    for program in measured:
        half = "" if program.flags else "-site"
        bare, wsgiref = by_name.get(f"bare{half}"), by_name.get(f"wsgiref{half}")
        beyond = len(set(program.modules) - set(bare.modules)) if bare else None
        rows.append(
            [
                program.name,
                quartiles(program.wall_ms, 2),
                against(program, bare, lambda a, b: a - b, 2),
                against(program, bare, lambda a, b: a / b, 2),
                against(program, wsgiref, lambda a, b: a / b, 2),
                f"{statistics.median(program.cpu_ms):.2f}",
                str(beyond) if beyond is not None else "-",
            ]
        )
    header = [
        "program",
        "wall ms",
        "ms over bare",
        "x bare",
        "x wsgiref",
        "processor ms",
        "modules",
    ]
    return table(header, rows)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m contrib.benchmarks.cgi",
        description="Measure the whole process of one CGI request, in turn with its peers.",
    )
    parser.add_argument("--runs", type=int, default=200, help="of each program (200)")
    parser.add_argument("--only", metavar="NAME,...", help="these rows")
    parser.add_argument("--json", metavar="FILE", help="write every run there as well")
    options = parser.parse_args(argv)
    if not 2 <= options.runs <= 5000:
        parser.error("2 to 5000 runs")
    known = {program.name for program in programs()}
    for name in (options.only or "").split(","):
        if name and name not in known:
            parser.error(f"no row is called {name!r}; there are {', '.join(sorted(known))}")
    return options


def _too_long(signum: int, frame: object) -> None:
    raise TimeoutError


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table on stdout, return 1 when a program failed."""
    options = arguments(argv)
    exit_on_terminate()
    signal.signal(signal.SIGALRM, _too_long)
    wanted = options.only.split(",") if options.only else None
    chosen = [program for program in programs() if wanted is None or program.name in wanted]
    failures: dict[str, str] = {}
    server_core, _, _ = cores()
    with tempfile.TemporaryDirectory(prefix="bench") as name, pinned(server_core):
        directory = Path(name)
        output, errors = directory / "stdout", directory / "stderr"
        for program in chosen:
            if "sapi_adapters" in program.source and not importlib.util.find_spec("sapi_adapters"):
                failures[program.name] = "missing: sapi_adapters: pip install ."
                continue
            try:
                prepare(program, directory)
            except ProgramFailed as error:
                failures[program.name] = str(error)
        measured = [program for program in chosen if program.name not in failures]
        for number in range(options.runs):
            if number % 50 == 0:
                progress(f"round {number + 1} of {options.runs}")
            for program in measured if number % 2 == 0 else reversed(measured):
                wall, processor = run(program.argv, output, errors)
                program.wall_ms.append(wall)
                program.cpu_ms.append(processor)
    print(f"{machine()}. {options.runs} runs of each.\n")
    print(report(measured))
    for program in measured:
        bare = next((p for p in measured if not p.source and p.flags == program.flags), None)
        if bare and program.source.startswith("from sapi_adapters"):
            beyond = sorted(set(program.modules) - set(bare.modules))
            print(f"\n{program.name} imports {', '.join(beyond)}")
    for name, why in failures.items():
        print(f"\n{name}: {why}")
    if options.json:
        data = {p.name: {"wall_ms": p.wall_ms, "cpu_ms": p.cpu_ms} for p in measured}
        Path(options.json).write_text(json.dumps({"machine": machine(), "programs": data}))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
