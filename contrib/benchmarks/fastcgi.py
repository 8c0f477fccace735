"""The project and its peers under load, alternated, as ratios.

    python -m contrib.benchmarks.fastcgi [--only NAME,...] [--rounds N] [--requests N] [--conns N]
                                         [-k] [--body BYTES] [--json FILE] [--list]

Two groups: `fastcgi`, where the C client speaks FastCGI to each server's Unix socket, and `nginx`,
where wrk speaks HTTP to one nginx with every server behind it. Each server has one worker and one
core, the client has another. A round measures every server once, the next one in the opposite
order, and a ratio is taken inside a round, so that a machine which slows down for a minute slows
both sides.

Only Unix sockets and the loopback interface are used. Every run is bounded in requests and seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import http.client
import importlib.util
import json
import os
import pwd
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contrib.benchmarks import fcgi_client
from contrib.benchmarks.measure import (
    HERE,
    ROOT,
    Missing,
    Process,
    core_seconds,
    cores,
    descendants,
    exit_on_terminate,
    find_program,
    machine,
    pinned,
    progress,
    spread,
    table,
    wait_until,
)

HELLO = "contrib.benchmarks.apps.hello"
EXPECTED = b"Hello, World!"
FAILED = "failed"

# A run is disturbed when something else took more than this share of a core it used. It is made
# again, so many times at most. Its figures have no part in that decision.
DISTURBED = 0.10
ATTEMPTS = 4


@dataclass(frozen=True)
class Launch:
    """How one server is started: the command, and what differs from the others."""

    argv: Sequence[str]
    stop_signal: int = signal.SIGTERM
    params: dict[str, str] = field(default_factory=dict)
    uvloop: bool | None = None


@dataclass(frozen=True)
class Setting:
    """What a server is told: where to listen, and where it may put files."""

    socket: str
    directory: Path
    conns: int


@dataclass(frozen=True)
class Contender:
    """A row of the table: a server, how to start it, and what speaks to it."""

    name: str
    launch: Callable[[Setting], Launch]
    group: str = "fastcgi"
    http: bool = False
    keeps: bool = True
    scgi: bool = False


# How each server is started. A launcher raises Missing when its program or library is not there.


def _need_module(module: str, install: str) -> None:
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise Missing(f"{module}: {install}")


def _project(sapi: str, application: str, setting: Setting) -> Launch:
    _need_module("sapi_adapters.__main__", "pip install .")
    asgi = application.endswith(":asgi")
    if asgi and "asyncio" not in application:
        _need_module("uvloop", "pip install uvloop")
    argv = [sys.executable, "-m", "sapi_adapters", application, "--sapi", sapi]
    return Launch(
        [*argv, "--socket", setting.socket, "--workers", "1"],
        uvloop="asyncio" not in application if asgi else None,
    )


def _library(name: str, needs: str, setting: Setting) -> Launch:
    for module in needs.split():
        _need_module(module.replace("/", "."), f"pip install {module.partition('/')[0]}")
    argv = [sys.executable, "-m", "contrib.benchmarks.peers", name, setting.socket]
    return Launch(argv, uvloop="uvloop" in name)


def _uwsgi(setting: Setting) -> Launch:
    install = "pip install uWSGI"
    program = find_program("uwsgi", install)
    # Debian's build has Python in a plugin, the one from pip has it built in.
    plugin = ["--plugins", "python3"] if "debian" in output_of(program, "--version") else []
    if "--wsgi-file" not in output_of(program, *plugin, "--help"):
        raise Missing(f"uwsgi without its Python plugin: {install}")
    return Launch(
        [
            *(program, *plugin, "--fastcgi-socket", setting.socket),
            *("--wsgi-file", str(HERE / "apps" / "hello.py"), "--callable", "wsgi"),
            *("--pythonpath", str(ROOT), "--need-app", "--master", "--processes", "1"),
            *("--listen", str(max(100, setting.conns)), "--disable-logging", "--die-on-term"),
        ]
    )


def _libfcgi(setting: Setting) -> Launch:
    program = setting.directory / "cecho"
    compile_c(HERE / "cecho.c", program, "-lfcgi", install="apt-get install libfcgi-dev")
    return Launch([str(program), setting.socket])


def _php_fpm(setting: Setting) -> Launch:
    install = "apt-get install php-fpm"
    names = ["php-fpm", *(f"php-fpm8.{minor}" for minor in range(5, 0, -1))]
    for name in names:
        with contextlib.suppress(Missing):
            program = find_program(name, install)
            break
    else:
        raise Missing(f"php-fpm: {install}")
    root = os.geteuid() == 0
    user = f"user = {_user()}\ngroup = {_user()}\n" if root else ""
    config = setting.directory / f"{Path(setting.socket).stem}.conf"
    config.write_text(
        f"[global]\nerror_log = /dev/stderr\ndaemonize = no\n"
        f"[hello]\nlisten = {setting.socket}\nlisten.mode = 0600\n{user}"
        "pm = static\npm.max_children = 1\n"
    )
    argv = [program, "-F", "-y", str(config), *(["-R"] if root else [])]
    script = str(HERE / "apps" / "hello.php")
    # PATH_INFO means "what follows the script" to php-fpm, so it gets the script's own names.
    return Launch(argv, params={"SCRIPT_FILENAME": script})


def _uvicorn(loop: str, setting: Setting) -> Launch:
    program = find_program("uvicorn", "pip install uvicorn httptools uvloop")
    _need_module("httptools", "pip install httptools")
    if loop == "uvloop":
        _need_module("uvloop", "pip install uvloop")
    argv = [program, f"{HELLO}:asgi", "--uds", setting.socket, "--loop", loop]
    quiet = ["--http", "httptools", "--no-access-log", "--log-level", "warning"]
    return Launch([*argv, *quiet], uvloop=loop == "uvloop")


def _gunicorn(setting: Setting) -> Launch:
    program = find_program("gunicorn", "pip install gunicorn")
    argv = [program, f"{HELLO}:wsgi", "--bind", f"unix:{setting.socket}", "--workers", "1"]
    return Launch([*argv, "--worker-class", "gthread", "--threads", "4", "--log-level", "warning"])


def _contenders() -> list[Contender]:
    part = functools.partial
    prefork_wsgi = part(_project, "fcgi-prefork", f"{HELLO}:wsgi")
    threaded_wsgi = part(_project, "fcgi-threaded", f"{HELLO}:wsgi")
    event_uvloop = part(_project, "fcgi-prefork", f"{HELLO}:asgi")
    event_asyncio = part(_project, "fcgi-prefork", f"{HELLO}_asyncio:asgi")
    flup = "flup/server/fcgi"
    return [
        # uWSGI closes the connection whatever it was asked; the bare loop answers once and closes.
        Contender("uwsgi", _uwsgi, keeps=False),
        Contender("bare", part(_library, "bare", ""), keeps=False),
        Contender("libfcgi", _libfcgi),
        Contender("php-fpm", _php_fpm),
        Contender("prefork-wsgi", prefork_wsgi),
        Contender("threaded-wsgi", threaded_wsgi),
        Contender("flup-threaded", part(_library, "flup-threaded", flup)),
        Contender("flup-fork", part(_library, "flup-fork", flup)),
        Contender("shim-threaded", part(_library, "shim-threaded", "sapi_adapters")),
        Contender("shim-fork", part(_library, "shim-fork", "sapi_adapters")),
        Contender(
            "scgi-prefork", part(_project, "scgi-prefork", f"{HELLO}:wsgi"), keeps=False, scgi=True
        ),
        Contender("fcgisgi-wsgi", part(_library, "fcgisgi-wsgi", "fcgisgi")),
        Contender("event-asgi-uvloop", event_uvloop),
        Contender("event-asgi-asyncio", event_asyncio),
        Contender("fcgisgi-asgi", part(_library, "fcgisgi-asgi", "fcgisgi")),
        Contender("fcgisgi-asgi-uvloop", part(_library, "fcgisgi-asgi-uvloop", "fcgisgi uvloop")),
        Contender("nginx-uvicorn", part(_uvicorn, "uvloop"), "nginx", http=True),
        Contender("nginx-uvicorn-asyncio", part(_uvicorn, "asyncio"), "nginx", http=True),
        Contender("nginx-gunicorn", _gunicorn, "nginx", http=True),
        Contender("nginx-php-fpm", _php_fpm, "nginx"),
        Contender("nginx-uwsgi", _uwsgi, "nginx", keeps=False),
        Contender("nginx-prefork-wsgi", prefork_wsgi, "nginx"),
        Contender("nginx-threaded-wsgi", threaded_wsgi, "nginx"),
        Contender("nginx-event-asgi-uvloop", event_uvloop, "nginx"),
        Contender("nginx-event-asgi-asyncio", event_asyncio, "nginx"),
    ]


CONTENDERS = _contenders()

# The row that is 1.00: the first of these that was measured.
BASES = {
    "fastcgi": ["uwsgi", "flup-threaded"],
    "nginx": ["nginx-uvicorn", "nginx-uvicorn-asyncio", "nginx-gunicorn"],
}

# What the project holds itself to: (ours, at least so many times, theirs). None is a comparison to
# look at without being a target: fcgisgi on uvloop is not how fcgisgi runs by itself.
TARGETS: list[tuple[str, float | None, str]] = [
    ("prefork-wsgi", 0.65, "uwsgi"),
    ("prefork-wsgi", 3.5, "flup-threaded"),
    ("threaded-wsgi", 2.5, "flup-threaded"),
    ("shim-threaded", 2.5, "flup-threaded"),
    ("shim-fork", 3.0, "flup-fork"),
    ("scgi-prefork", 0.9, "prefork-wsgi"),
    ("event-asgi-uvloop", 2.0, "fcgisgi-asgi"),
    ("event-asgi-uvloop", None, "fcgisgi-asgi-uvloop"),
    ("event-asgi-asyncio", 2.0, "fcgisgi-asgi"),
    ("nginx-event-asgi-uvloop", 0.8, "nginx-uvicorn"),
    ("nginx-event-asgi-asyncio", 0.8, "nginx-uvicorn-asyncio"),
]


# Small tools.


def _user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def output_of(*argv: str) -> str:
    """Return what a command prints, on either stream and with whatever status."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
    return done.stdout + done.stderr


def compile_c(source: Path, program: Path, *libraries: str, install: str) -> None:
    """Compile one C file. Raises Missing with `install` when that does not work."""
    if program.exists():
        return
    compiler = find_program("cc", "apt-get install gcc libc6-dev")
    argv = [compiler, "-O2", "-o", str(program), str(source), *libraries]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        first = (done.stderr.strip() or "the compiler failed").splitlines()[0]
        raise Missing(f"{source.name}: {install} ({first})")


def free_ports(count: int) -> list[int]:
    """Ports the kernel chose; all are held at once so that no two are the same."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def nginx_config(directory: Path, behind: Sequence[Server], keep: bool) -> str:
    """Write an nginx configuration with one server block for each contender."""
    user = f"user {_user()};\n" if os.geteuid() == 0 else ""
    temporary = "".join(
        f"  {kind}_temp_path {directory}/nginx-{kind};\n"
        for kind in ("client_body", "fastcgi", "proxy", "scgi", "uwsgi")
    )
    blocks = []
    for server in behind:
        name = f"up_{server.contender.name.replace('-', '_')}"
        kept = "keepalive 64;" if keep else ""
        blocks.append(f"  upstream {name} {{ server unix:{server.socket}; {kept} }}\n")
        if server.contender.http:
            lines = [f"proxy_pass http://{name};", "proxy_set_header Host $host;"]
            if keep:
                lines += ["proxy_http_version 1.1;", 'proxy_set_header Connection "";']
        else:
            script = server.launch.params.get("SCRIPT_FILENAME")
            path = (
                [("SCRIPT_FILENAME", script), ("SCRIPT_NAME", "/hello.php")]
                if script
                else [("SCRIPT_NAME", '""'), ("PATH_INFO", "$document_uri")]
            )
            lines = [f"fastcgi_pass {name};"]
            lines += [f"fastcgi_param {key} {value};" for key, value in [*NGINX_PARAMS, *path]]
            if keep:
                lines.append("fastcgi_keep_conn on;")
        body = "\n      ".join(lines)
        blocks.append(
            f"  server {{\n    listen 127.0.0.1:{server.port} backlog=1024;\n"
            f"    location / {{\n      {body}\n    }}\n  }}\n"
        )
    return (
        f"{user}daemon off;\nworker_processes 1;\npid {directory}/nginx.pid;\n"
        f"error_log stderr error;\n"
        "events { worker_connections 2048; }\n"
        f"http {{\n  access_log off;\n  keepalive_requests 1000000000;\n{temporary}"
        f"{''.join(blocks)}}}\n"
    )


# Debian's fastcgi_params, without the script's names, which differ.
NGINX_PARAMS = [
    ("QUERY_STRING", "$query_string"),
    ("REQUEST_METHOD", "$request_method"),
    ("CONTENT_TYPE", "$content_type"),
    ("CONTENT_LENGTH", "$content_length"),
    ("REQUEST_URI", "$request_uri"),
    ("DOCUMENT_URI", "$document_uri"),
    ("DOCUMENT_ROOT", "$document_root"),
    ("SERVER_PROTOCOL", "$server_protocol"),
    ("REQUEST_SCHEME", "$scheme"),
    ("HTTPS", "$https if_not_empty"),
    ("GATEWAY_INTERFACE", "CGI/1.1"),
    ("SERVER_SOFTWARE", "nginx/$nginx_version"),
    ("REMOTE_ADDR", "$remote_addr"),
    ("REMOTE_PORT", "$remote_port"),
    ("REMOTE_USER", "$remote_user"),
    ("SERVER_ADDR", "$server_addr"),
    ("SERVER_PORT", "$server_port"),
    ("SERVER_NAME", "$server_name"),
    ("REDIRECT_STATUS", "200"),
]

# The head of a browser's request, the one the C client sends too.
BROWSER = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/120.0 Safari/537.36",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language": "en-GB,en;q=0.5",
    "Accept-Encoding": "gzip, deflate, br",
    "Cookie": "session=eyJhbGciOiJIUzI1NiJ9.e30.XmNK3GpH3Ys_7wsYBfq4C3M6goz71I7dTgUkuIa5lyQ; "
    "theme=dark",
}


# Measuring.


@dataclass(frozen=True)
class Run:
    """One measurement of one server."""

    rate: float
    p50_us: float
    p99_us: float
    good: int
    bad: int
    seconds: float
    cpu_us: float
    busy: float
    client_busy: float
    others: float = 0.0
    complaint: str = ""

    @property
    def failed(self) -> bool:
        """Whether any request failed, which makes the rate meaningless."""
        return self.bad > 0 or bool(self.complaint)

    @property
    def disturbed(self) -> bool:
        """Whether something else ran on these cores at the same time."""
        return self.others > DISTURBED


class Server:
    """A contender that was started, with its runs."""

    def __init__(self, contender: Contender, directory: Path, port: int, conns: int) -> None:
        self.contender = contender
        self.port = port
        self.socket = str(directory / f"{contender.name}.sock")
        self.launch = contender.launch(Setting(self.socket, directory, conns))
        self.process: Process | None = None
        self.stdout_size = 0
        self.warm_rate = 0.0
        self.runs: list[Run] = []

    def start(self, directory: Path, core: int) -> None:
        """Start it and wait for its first right answer. Raises RuntimeError when none comes."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        environ["PYTHONPATH"] = str(ROOT)
        self.process = Process(
            self.launch.argv,
            core=core,
            log=directory / f"{self.contender.name}.log",
            cwd=ROOT,
            environ=environ,
            stop_signal=self.launch.stop_signal,
        )
        wait_until(self.answers, self.process)
        self.check_loop()

    def answers(self) -> bool:
        """Whether it gives the one right answer; a wrong one is a RuntimeError."""
        if self.contender.http:
            return self._answers_http()
        params = fcgi_client.parameters() | self.launch.params
        ask = fcgi_client.request_scgi if self.contender.scgi else fcgi_client.request
        try:
            answer = ask(self.socket, params, timeout=5)
        except (OSError, fcgi_client.ClientError):
            return False
        if answer.status != 200 or answer.body != EXPECTED:
            raise RuntimeError(f"answered {answer.head!r} {answer.body[:80]!r} {answer.stderr!r}")
        self.stdout_size = answer.stdout_size
        return True

    def _answers_http(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(5)
                connection.connect(self.socket)
                connection.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
                response = http.client.HTTPResponse(connection)
                response.begin()
                body = response.read()
        except (OSError, http.client.HTTPException):
            return False
        if response.status != 200 or body != EXPECTED:
            raise RuntimeError(f"answered {response.status} {body[:80]!r}")
        return True

    def check_loop(self) -> None:
        """See that a row called uvloop runs on it and the others do not."""
        if self.launch.uvloop is None or self.process is None:
            return
        maps = ""
        for pid in descendants(self.process.popen.pid):
            with contextlib.suppress(OSError):
                maps += Path(f"/proc/{pid}/maps").read_text()
        if ("/uvloop/" in maps) != self.launch.uvloop:
            found = "runs" if "/uvloop/" in maps else "does not run"
            raise RuntimeError(f"{found} on uvloop, against its name")


def processor_seconds(before: dict[int, float], after: dict[int, float]) -> float:
    """Processor time spent between two looks; a process that is new counts in full."""
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())


class Bench:
    """The programs that make the load, and the bounds they are given."""

    def __init__(self, options: argparse.Namespace, directory: Path) -> None:
        self.options = options
        self.directory = directory
        self.server_core, self.client_core, self.front_core = cores()
        self.client = ""
        self.wrk = ""
        self.script = directory / "request.lua"
        self.front: Process | None = None

    def prepare(self, group: str) -> None:
        """Find or build the client of one group. Raises Missing."""
        if group == "fastcgi":
            program = self.directory / "fcgibench"
            compile_c(HERE / "fcgibench.c", program, install="apt-get install gcc libc6-dev")
            self.client = str(program)
        else:
            self.wrk = find_program("wrk", "apt-get install wrk")
            head = "".join(f'wrk.headers["{k}"] = "{v}"\n' for k, v in BROWSER.items())
            body = self.options.body
            post = f'wrk.method = "POST"\nwrk.body = string.rep("x", {body})\n' if body else ""
            self.script.write_text(head + post)

    def measure(self, server: Server) -> None:
        """Warm one server up, then measure it once; not again once it has failed.

        A server that starves kept connections would cost the client's ten seconds in every round.
        """
        options = self.options
        if any(run.failed for run in server.runs):
            return
        warm = int(server.warm_rate * 0.2) or 300
        first = self._run(server, min(warm, options.requests), 1)
        if first.failed:
            server.runs.append(first)
            return
        server.warm_rate = first.rate
        count = min(options.requests, max(200, int(first.rate * options.seconds)))
        for _ in range(ATTEMPTS):
            run = self._run(server, count, max(1, round(options.seconds)))
            if run.failed or not run.disturbed:
                break
        server.runs.append(run)

    def _run(self, server: Server, requests: int, seconds: int) -> Run:
        assert server.process is not None
        if not server.process.running:
            return _failure(f"the server ended: {server.process.tail()}")
        if server.contender.group == "fastcgi":
            argv = [self.client, "-c", str(self.options.conns), "-n", str(requests), "-u", "/"]
            argv += ["-b", str(self.options.body)] if self.options.body else []
            argv += ["-k"] if self.options.keep else []
            argv += ["-s"] if server.contender.scgi else []
            for name, value in server.launch.params.items():
                argv += ["-p", f"{name}={value}"]
            argv.append(server.socket)
        else:
            argv = [self.wrk, "-t1", f"-c{self.options.conns}", f"-d{seconds}s", "--latency"]
            argv += ["--timeout", "10s", "-s", str(self.script), f"http://127.0.0.1:{server.port}/"]
        before, used = server.process.cpu(), _children_seconds()
        front = self.front.cpu() if self.front else {}
        busy = [core_seconds(core) for core in (self.server_core, self.client_core)]
        with pinned(self.client_core):
            try:
                done = subprocess.run(argv, capture_output=True, text=True, timeout=90, check=False)
            except subprocess.TimeoutExpired:
                return _failure("the client did not end within 90 s")
        spent = processor_seconds(before, server.process.cpu())
        client = _children_seconds() - used
        if self.front and self.front_core == self.client_core:
            client += processor_seconds(front, self.front.cpu())
        busy = [
            core_seconds(core) - before
            for core, before in zip((self.server_core, self.client_core), busy, strict=True)
        ]
        read = _read_fcgibench if server.contender.group == "fastcgi" else _read_wrk
        run = read(done, spent, client, server.stdout_size)
        if run.failed:
            return run
        expected = [spent, client] if self.server_core != self.client_core else [spent + client] * 2
        others = max(all_of_it - ours for all_of_it, ours in zip(busy, expected, strict=True))
        return dataclasses.replace(run, others=max(0.0, others / run.seconds))


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _failure(complaint: str) -> Run:
    return Run(0, 0, 0, 0, 0, 0, 0, 0, 0, complaint=complaint)


def _read_fcgibench(
    done: subprocess.CompletedProcess[str], spent: float, client: float, stdout_size: int
) -> Run:
    found = dict(re.findall(r"(\w+)=([\d.]+)", done.stdout))
    if "rps" not in found:
        return _failure(f"{done.stdout.strip()} {done.stderr.strip()}"[:300])
    good, seconds = int(found["good"]), max(float(found["secs"]), 0.01)
    complaint = done.stderr.strip()
    # The client counts any STDOUT as an answer; a page that says "error" has another length.
    if not complaint and int(found["out"]) != good * stdout_size:
        complaint = f"{found['out']} bytes came for {good} answers of {stdout_size} bytes"
    return Run(
        rate=float(found["rps"]),
        p50_us=float(found["p50"]),
        p99_us=float(found["p99"]),
        good=good,
        bad=int(found["bad"]),
        seconds=seconds,
        cpu_us=spent / good * 1e6,
        busy=spent / seconds,
        client_busy=client / seconds,
        complaint=complaint,
    )


def _read_wrk(
    done: subprocess.CompletedProcess[str], spent: float, client: float, stdout_size: int
) -> Run:
    text = done.stdout
    total = re.search(r"(\d+) requests in ([\d.]+)(m?s|m),", text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if not total or not rate or int(total[1]) == 0:
        return _failure(f"{text.strip()} {done.stderr.strip()}"[:300])
    errors = re.search(r"Socket errors: (.*)", text)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    bad = sum(map(int, re.findall(r"\d+", errors[1]))) if errors else 0
    bad += int(refused[1]) if refused else 0
    good, seconds = int(total[1]), float(total[2]) * {"s": 1, "ms": 0.001, "m": 60}[total[3]]
    return Run(
        rate=float(rate[1]),
        p50_us=_percentile(text, 50),
        p99_us=_percentile(text, 99),
        good=good,
        bad=bad,
        seconds=seconds,
        cpu_us=spent / good * 1e6,
        busy=spent / seconds,
        client_busy=client / seconds,
    )


def _percentile(text: str, percent: int) -> float:
    found = re.search(rf"\n\s+{percent}%\s+([\d.]+)(us|ms|s)", text)
    return float(found[1]) * {"us": 1, "ms": 1e3, "s": 1e6}[found[2]] if found else 0.0


def measure_group(
    group: str, contenders: Sequence[Contender], bench: Bench, missing: dict[str, str]
) -> list[Server]:
    """Start every server of a group, measure them in turn, stop them."""
    options = bench.options
    servers: list[Server] = []
    ports = free_ports(len(contenders))
    with contextlib.ExitStack() as stack:
        for contender, port in zip(contenders, ports, strict=True):
            if options.keep and not contender.keeps:
                missing[contender.name] = "keeps no connections, so it is left out with -k"
                continue
            try:
                server = Server(contender, bench.directory, port, options.conns)
                progress(f"starting {contender.name}")
                try:
                    server.start(bench.directory, bench.server_core)
                finally:
                    if server.process is not None:
                        stack.callback(server.process.stop)
            except Missing as error:
                missing[contender.name] = str(error)
                continue
            except RuntimeError as error:
                missing[contender.name] = f"did not start: {error}"
                continue
            servers.append(server)
        if group == "nginx" and servers:
            bench.front = start_nginx(bench, servers)
            stack.callback(bench.front.stop)
        for number in range(options.rounds):
            progress(f"{group}: round {number + 1} of {options.rounds}")
            for server in servers if number % 2 == 0 else reversed(servers):
                bench.measure(server)
                progress(f"  {server.contender.name}: {_short(server.runs[-1])}")
    return servers


def start_nginx(bench: Bench, servers: Sequence[Server]) -> Process:
    """Start nginx on a core that is not the servers', with all of them behind it."""
    program = find_program("nginx", "apt-get install nginx")
    config = bench.directory / "nginx.conf"
    config.write_text(nginx_config(bench.directory, servers, bench.options.keep))
    process = Process(
        [program, "-e", "stderr", "-p", str(bench.directory), "-c", str(config)],
        core=bench.front_core,
        log=bench.directory / "nginx.log",
        cwd=bench.directory,
        environ=os.environ,
    )

    def ready() -> bool:
        for server in servers:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
                connection.request("GET", "/")
                response = connection.getresponse()
                body = response.read()
                connection.close()
            except OSError:
                return False
            if response.status != 200 or body != EXPECTED:
                raise RuntimeError(f"{server.contender.name} behind nginx: {response.status}")
        return True

    try:
        wait_until(ready, process)
    except BaseException:
        process.stop()
        raise
    return process


# The report.


def _short(run: Run) -> str:
    if run.failed:
        return f"FAILED, {run.bad} bad. {run.complaint}"
    return (
        f"{run.rate:.0f}/s, {run.cpu_us:.1f} us of processor each, core {run.busy:.0%}, "
        f"client {run.client_busy:.0%}, others {run.others:.0%}"
    )


def ratios(ours: Server, theirs: Server, value: Callable[[Run], float]) -> list[float]:
    """Ratios inside each round; empty when a run of either side failed.

    Rounds in which either run was disturbed are left out, unless that leaves none.
    """
    if any(run.failed for run in [*ours.runs, *theirs.runs]):
        return []
    pairs = quiet_pairs(ours, theirs) or list(zip(ours.runs, theirs.runs, strict=True))
    return [value(a) / value(b) for a, b in pairs]


def quiet_pairs(ours: Server, theirs: Server) -> list[tuple[Run, Run]]:
    """Return the runs of the rounds in which neither side was disturbed."""
    pairs = zip(ours.runs, theirs.runs, strict=True)
    return [(a, b) for a, b in pairs if not a.disturbed and not b.disturbed]


def rate(run: Run) -> float:
    """Return requests per second."""
    return run.rate


def thrift(run: Run) -> float:
    """Return requests per second of processor time, which a slow client does not lower."""
    return 1e6 / run.cpu_us


def at_best(ours: Server, theirs: Server) -> float:
    """Compare the least processor time for a request that each side ever needed.

    What disturbs a run unseen (another machine on the same chip, a slower clock) only makes it
    slower, so the best runs of both sides are the least disturbed ones.
    """
    return min(run.cpu_us for run in theirs.runs) / min(run.cpu_us for run in ours.runs)


def choose_base(group: str, servers: Sequence[Server], wanted: str | None) -> Server | None:
    """Return the row that is 1.00."""
    sound = {s.contender.name: s for s in servers if not any(r.failed for r in s.runs)}
    for name in [wanted, *BASES[group]] if wanted else BASES[group]:
        if name in sound:
            return sound[name]
    return next(iter(sound.values()), None)


def report_group(servers: Sequence[Server], base: Server) -> str:
    """One group's table."""
    name = base.contender.name
    header = [
        "server",
        "requests/s",
        f"x {name}",
        "processor us each",
        f"processor x {name}",
        "at best",
        "p99 ms",
        "core",
        "client",
        "quiet",
    ]
    rows = []
    for server in servers:
        runs = server.runs
        figures = [run for run in runs if not run.disturbed] or runs
        if any(run.failed for run in runs):
            rows.append([server.contender.name, FAILED, *["-"] * (len(header) - 2)])
            continue

        def middle(value: Callable[[Run], float], runs: list[Run] = figures) -> float:
            return statistics.median(map(value, runs))

        rows.append(
            [
                server.contender.name,
                f"{middle(rate):.0f}",
                spread(ratios(server, base, rate)),
                f"{middle(lambda run: run.cpu_us):.1f}",
                spread(ratios(server, base, thrift)),
                f"{at_best(server, base):.2f}",
                f"{middle(lambda run: run.p99_us) / 1e3:.2f}",
                f"{middle(lambda run: run.busy):.0%}",
                f"{middle(lambda run: run.client_busy):.0%}",
                f"{sum(not run.disturbed for run in runs)}/{len(runs)}",
            ]
        )
    return table(header, rows)


def report_targets(servers: Sequence[Server]) -> str:
    """Compare with the ratios the project holds itself to, where both sides were measured."""
    by_name = {server.contender.name: server for server in servers}
    rows = []
    for ours, wanted, theirs in TARGETS:
        if ours not in by_name or theirs not in by_name:
            continue
        found = ratios(by_name[ours], by_name[theirs], rate)
        least = "-" if wanted is None else f"{wanted:g}"
        if not found:
            rows.append([f"{ours} / {theirs}", least, FAILED, "-", "-", "-"])
            continue
        reached = "-"
        if wanted is not None and not quiet_pairs(by_name[ours], by_name[theirs]):
            reached = "disturbed"
        elif wanted is not None:
            reached = "yes" if statistics.median(found) >= wanted else "NO"
        processor = spread(ratios(by_name[ours], by_name[theirs], thrift))
        best = f"{at_best(by_name[ours], by_name[theirs]):.2f}"
        rows.append([f"{ours} / {theirs}", least, spread(found), reached, processor, best])
    header = ["ratio of requests/s", "at least", "measured", "reached", "of processor", "at best"]
    return table(header, rows) if rows else ""


def as_json(options: argparse.Namespace, servers: Sequence[Server], missing: dict[str, str]) -> Any:
    """Everything that was measured, run by run."""
    return {
        "machine": machine(),
        "options": {k: v for k, v in vars(options).items() if k != "json"},
        "servers": {
            server.contender.name: {
                "group": server.contender.group,
                "runs": [vars(run) for run in server.runs],
            }
            for server in servers
        },
        "missing": missing,
    }


def report(
    options: argparse.Namespace, groups: dict[str, list[Server]], missing: dict[str, str]
) -> tuple[str, bool]:
    """Put the whole report together, and say whether every run was sound."""
    parts = [
        f"{machine()}. {options.rounds} rounds, {options.conns} connections, "
        f"{'kept connections' if options.keep else 'a new connection for each request'}"
        f"{f', {options.body} bytes of body' if options.body else ''}."
    ]
    sound = True
    everyone: list[Server] = []
    for group, servers in groups.items():
        everyone += servers
        base = choose_base(group, servers, options.base)
        if base is not None:
            parts += [f"### {group}", report_group(servers, base)]
    # They are set for new connections and requests without a body.
    targets = "" if options.keep or options.body else report_targets(everyone)
    if targets:
        parts += ["### targets", targets]
    failures = [
        f"- {server.contender.name}: round {number}: {run.bad} of {run.good + run.bad} requests "
        f"failed. {run.complaint}".rstrip()
        for server in everyone
        for number, run in enumerate(server.runs, 1)
        if run.failed
    ]
    if failures:
        sound = False
        parts += ["### failures", "\n".join(failures)]
    if missing:
        by_reason: dict[str, list[str]] = {}
        for name, why in missing.items():
            by_reason.setdefault(why, []).append(name)
        lines = [f"- {', '.join(names)}: {why}" for why, names in by_reason.items()]
        parts += ["### missing", "\n".join(lines)]
    return "\n\n".join(parts), sound


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m contrib.benchmarks.fastcgi",
        description="Measure the project and its peers over FastCGI and behind nginx, as ratios.",
    )
    parser.add_argument("--only", metavar="NAME,...", help="these rows; `fastcgi` and `nginx` work")
    parser.add_argument("--rounds", type=int, default=9, help="how often each is measured (9)")
    parser.add_argument("--requests", type=int, default=20000, help="at most, in one run (20000)")
    parser.add_argument("--seconds", type=float, default=0.5, help="about, for one run (0.5)")
    parser.add_argument("--conns", type=int, default=32, help="requests under way at once (32)")
    parser.add_argument(
        "-k", dest="keep", action="store_true", help="keep connections to the servers open"
    )
    parser.add_argument("--body", type=int, default=0, metavar="BYTES", help="POST so many bytes")
    parser.add_argument("--base", metavar="NAME", help="the row that is 1.00")
    parser.add_argument("--json", metavar="FILE", help="write every run there as well")
    parser.add_argument("--list", action="store_true", help="print the rows' names and stop")
    options = parser.parse_args(argv)
    if not 1 <= options.rounds <= 100 or not 1 <= options.requests <= 1_000_000:
        parser.error("1 to 100 rounds and 1 to 1000000 requests")
    if not 0 < options.seconds <= 30 or not 1 <= options.conns <= 1000:
        parser.error("at most 30 seconds and 1000 connections")
    if not 0 <= options.body <= 1 << 26:
        parser.error("a body of at most 64 MiB")
    known = {contender.name for contender in CONTENDERS} | {"fastcgi", "nginx"}
    for name in [*(options.only or "").split(","), options.base or ""]:
        if name and name not in known:
            parser.error(f"no row is called {name!r}; --list names them")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the report on stdout, return 1 when a run failed."""
    options = arguments(argv)
    if options.list:
        print("\n".join(contender.name for contender in CONTENDERS))
        return 0
    only = set(options.only.split(",")) if options.only else {"fastcgi", "nginx"}
    chosen = [c for c in CONTENDERS if c.name in only or c.group in only]
    exit_on_terminate()
    missing: dict[str, str] = {}
    groups: dict[str, list[Server]] = {}
    with tempfile.TemporaryDirectory(prefix="bench") as name:
        bench = Bench(options, Path(name))
        if bench.server_core == bench.client_core:
            progress("only one core: server and client share it, and the ratios mean little")
        for group in dict.fromkeys(contender.group for contender in chosen):
            contenders = [contender for contender in chosen if contender.group == group]
            try:
                bench.prepare(group)
                groups[group] = measure_group(group, contenders, bench, missing)
            except Missing as error:
                missing.update((contender.name, str(error)) for contender in contenders)
    text, sound = report(options, groups, missing)
    print(text)
    if options.json:
        everyone = [server for servers in groups.values() for server in servers]
        Path(options.json).write_text(json.dumps(as_json(options, everyone, missing), indent=1))
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
