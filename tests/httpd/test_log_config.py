"""The access logs of the host: what a line says, and what becomes of it when nobody takes it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from httpd.hosting import free_port, hosting
from serving import until

from sapi_adapters.httpd.host import Host
from sapi_adapters.httpd.modules import mod_log_config
from sapi_adapters.httpd.records import Connection, Request
from sapi_adapters.sapi import ConfigurationError

LOAD = "LoadModule log_config_module mod_log_config\n"


class _Body:
    taken = 12
    trailers = (("Sum", "1b2c"),)


class _Transport:
    asynchronous = False


def a_request(host: Host) -> Request:
    """Return a request with something in every field that a token shows."""
    connection = Connection(host.main, _Transport(), ("192.0.2.7", 4711), ("192.0.2.1", 8080))
    connection.keepalives, connection.keepalive = 3, True
    fields = [
        ("Host", "example.org"),
        ("User-Agent", 'a "b" \\c\t\x01\xe9'),
        ("Cookie", "first=1; Second = two;third"),
        ("Empty", ""),
    ]
    line = "GET /a%20b?x=1 HTTP/1.1"
    r = Request(connection, host.main, line, "GET", "/a%20b?x=1", fields, _Body())
    r.uri, r.args, r.hostname = "/a b", "x=1", "example.org"
    r.request_time -= 2.5
    r.request_clock -= 2.5
    r.bytes_sent, r.bytes_out = 123, 456
    r.filename = "/srv/\u00e4"
    r.handler, r.content_type = "default-handler", "text/plain"
    r.headers_out.set("ETag", '"x"')
    r.err_headers_out.set("X-Error", "e")
    r.subprocess_env["VAR"] = "value"
    r.notes["note"] = "noted"
    return r


@pytest.fixture
def logged(tmp_path: Path) -> Any:
    """Return a function: the line that a format makes of a request."""
    hosts: list[Host] = []

    def log(format: str, change: Any = None) -> str:
        path = tmp_path / f"{len(hosts)}.log"
        quoted = format.replace("\\", "\\\\").replace('"', '\\"')
        text = f'{LOAD}ServerName main.example:8000\nCustomLog {path} "{quoted}"\n'
        host = Host(text=text, root=str(tmp_path))
        hosts.append(host)
        host.configure()
        host.open()
        r = a_request(host)
        if change is not None:
            change(r)
        assert mod_log_config._log_transaction(r) == 0
        line = path.read_bytes().decode("ascii")
        assert line.endswith("\n")
        return line[:-1]

    yield log
    for host in hosts:
        host.destroy()


TOKENS = {
    "%a %{c}a %A": "192.0.2.7 192.0.2.7 192.0.2.1",
    "%B %b": "123 123",
    "%{first}C %{second}C %{third}C": "1 two -",
    "%{VAR}e %{NONE}e": "value -",
    "%f": r"/srv/\xc3\xa4",
    "%h %l %u": "192.0.2.7 - -",
    "%H %m": "HTTP/1.1 GET",
    "%{user-agent}i": r"a \"b\" \\c\t\x01\xe9",
    "[%{Empty}i] [%{None}i]": "[] [-]",
    "%I %O %S": "129 456 585",
    "%k %X": "3 +",
    "%{note}n %{other}n": "noted -",
    "%{etag}o %{Content-Type}o %{x-error}o %{x}o": r"\"x\" text/plain e -",
    "%p %{canonical}p %{local}p %{remote}p": "8000 8000 8080 4711",
    "%P %{pid}P": f"{os.getpid()} {os.getpid()}",
    "%q %U %R": "?x=1 /a b default-handler",
    "%r": "GET /a%20b?x=1 HTTP/1.1",
    "%s %>s %<s": "200 200 200",
    "%T %{s}T": "2 2",
    "%v %V": "main.example example.org",
    "%{sum}^ti": "1b2c",
    "100%% {sure}\\t\\\\": "100% {sure}\t\\",
    "%200,304{VAR}e %404{VAR}e %!200{VAR}e %!404,500{VAR}e": "value - - value",
}


@pytest.mark.parametrize("format", TOKENS)
def test_tokens(logged: Any, format: str) -> None:
    assert logged(format) == TOKENS[format]


def test_times(logged: Any) -> None:
    line = logged(
        "%t|%{%Y}t|%{sec}t|%{begin:msec}t|%{usec}t|%{msec_frac}t|%{usec_frac}t|%{end:sec}t"
    )
    default, year, sec, msec, usec, thousandth, millionth, end = line.split("|")
    assert re.fullmatch(r"\[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]", default)
    assert default[8:12] == year
    assert int(msec) // 1000 == int(usec) // 1_000_000 == int(sec)
    assert (msec[-3:], usec[-6:]) == (thousandth, millionth)
    assert 2 <= int(end) - int(sec) <= 60
    assert 2.4e6 < int(logged("%D")) < 60e6
    assert 2.4e3 < int(logged("%{ms}T")) < 60e3
    assert re.fullmatch(r"\d+ [0-9a-f]+", logged("%{tid}P %{hextid}P"))


def test_tokens_of_other_requests(logged: Any) -> None:
    def nothing(r: Request) -> None:
        r.bytes_sent, r.args, r.user, r.filename = 0, None, "", None
        r.connection.aborted = True

    assert logged('%b %B [%q] %u %f %X "%{Referer}i"', nothing) == '- 0 [] "" - X "-"'

    def last(r: Request) -> None:
        r.connection.keepalive = False
        r.user = 'joe "x"\n'

    assert logged("%X %u", last) == r"- joe \"x\"\n"


def test_after_a_redirect_some_tokens_are_of_the_first_request(logged: Any) -> None:
    def redirect(r: Request) -> None:
        r.status = 404
        fresh = Request(
            r.connection, r.server, r.the_request, "GET", "/", [("User-Agent", "x")], r.body
        )
        fresh.uri, fresh.status, fresh.bytes_sent, r.next = "/404.html", 200, 9, fresh

    assert logged("%s %>s %U %>U %b %<b %{User-Agent}i", redirect).startswith(
        "404 200 /a b /404.html 9 123 x"
    )


def test_a_line_that_is_too_long_is_cut(logged: Any) -> None:
    line = logged("%{long}n", lambda r: r.notes.__setitem__("long", "\xe9" * 9000))
    assert len(line) == 8192 and line.endswith("...") and line.startswith(r"\xe9\xe9")


@pytest.mark.parametrize(
    ("directive", "said"),
    [
        ('CustomLog x "%z"', "Unrecognized LogFormat directive %z"),
        ('LogFormat "%200"', "Ran off end of LogFormat"),
        ('LogFormat "%{x"', "LogFormat"),
        ('LogFormat "%i" x', "%i needs a name"),
        ('LogFormat "%{fast}T" x', "%T knows s, ms, us, not 'fast'"),
        ('LogFormat "%{x}s" x', "%s knows no argument"),
        ("LogFormat x %y", "a nickname has no percent sign"),
        ("CustomLog x common expr=1", "error in condition clause"),
        ("CustomLog x common env=", "error in condition clause"),
        ('CustomLog "|/no/such/program" common', "there is no program /no/such/program"),
        ('CustomLog "|$cat" common', "without a shell"),
        ('CustomLog "| " common', "names no program"),
        ("<VirtualHost *>\nGlobalLog x common\n</VirtualHost>", "for the whole server"),
    ],
)
def test_mistakes_name_their_line(directive: str, said: str) -> None:
    host = Host(text=f"{LOAD}{directive}\n")
    with pytest.raises(ConfigurationError, match=re.escape(said)) as caught:
        host.configure()
    assert "line 2 of" in str(caught.value) or "line 3 of" in str(caught.value)


def test_an_unknown_nickname_is_warned_about(tmp_path: Path) -> None:
    host = Host(text=f"{LOAD}CustomLog x combind\n", root=str(tmp_path), log=lambda *said: None)
    host.configure()
    assert "no LogFormat is called 'combind'" in host.warnings[0]


def test_a_log_that_cannot_be_opened_stops_the_start(tmp_path: Path) -> None:
    host = Host(text=f"{LOAD}CustomLog no/such/log common\n", root=str(tmp_path))
    host.configure()
    with pytest.raises(
        ConfigurationError, match=r"cannot open the log .*no/such/log: No such file"
    ):
        host.open()
    host.destroy()


# -- sinks that do not take lines


def test_a_full_disk_drops_lines_and_fails_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    sink = mod_log_config.open_sink("/dev/full", said.append)
    try:
        for _ in range(3):
            sink.write(b"line\n")
        assert sink.dropped == 3
        assert said == ["cannot write /dev/full, lines are dropped: No space left on device"]
    finally:
        sink.close()
    sink.write(b"after the end\n")
    assert sink.dropped == 4


def test_a_log_that_takes_lines_again_says_what_it_lacks(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    said: list[str] = []
    sink = mod_log_config.open_sink(str(fifo), said.append)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        line = b"x" * 999 + b"\n"
        for _ in range(1000):
            sink.write(line)  # nobody reads: it must not wait
        assert 0 < sink.dropped < 1000
        taken = os.read(reader, 1 << 20)
        sink.write(b"again\n")
        *lines, again = (taken + os.read(reader, 1 << 20)).splitlines(keepends=True)
        notes = [each for each in lines if each.startswith(b"#")]
        assert again == b"again\n" and len(lines) - len(notes) == 1000 - sink.dropped
        assert {each for each in lines if each not in notes} == {line}
        lost = [
            int(re.findall(rb"# .* (\d+) lines of this log were dropped: .*unavailable", each)[0])
            for each in notes
        ]
        assert sum(lost) == sink.dropped and lost
        assert said[-1] == f"{fifo} takes lines again; {lost[-1]} were dropped"
    finally:
        os.close(reader)
        sink.close()


def test_standard_error_may_be_a_socket(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    code = (
        "from sapi_adapters.httpd.modules.sinks import open_sink\n"
        "open_sink('/dev/stderr', print).write(b'one line\\n')\n"
        "open_sink('/dev/stdout', print).write(b'another\\n')\n"
    )
    with ours, theirs:
        done = subprocess.run(
            [sys.executable, "-c", code], stderr=theirs, stdout=subprocess.PIPE, timeout=30
        )
        assert (done.returncode, done.stdout) == (0, b"another\n")
        ours.settimeout(10)
        assert ours.recv(100) == b"one line\n"


# -- in a host


def lines_of(path: Path, least: int) -> list[str]:
    """Return the lines of a log once there are *least* of them."""
    until(lambda: path.exists() and path.read_text().count("\n") >= least, what=f"{path.name}")
    return path.read_text().splitlines()


@pytest.mark.parametrize("mpm", ["prefork", "worker", "event"])
def test_requests_are_logged(tmp_path: Path, mpm: str) -> None:
    (tmp_path / "page.txt").write_text("hello\n")
    text = f"""{LOAD}DocumentRoot {tmp_path}
    LogFormat "%m %U %>s %B %O %{{X}}i" short
    CustomLog short.log SHORT
    CustomLog combined.log combined
    TransferLog common.log
    """
    with hosting(tmp_path, text, mpm) as host:
        answer = host.get("/page.txt", X='"q"', User_Agent="me", Referer="/from")
        assert answer.status == 200
        size = int(lines_of(tmp_path / "short.log", 1)[0].split()[4])
        lines_of(tmp_path / "combined.log", 1)  # threads log when they come to it
        host.request("HEAD", "/page.txt")
        lines_of(tmp_path / "combined.log", 2)
        host.get("/none")
        lines_of(tmp_path / "combined.log", 3)
        asked(host.port, b"BAD\r\n\r\n")
        short = lines_of(tmp_path / "short.log", 4)
    assert short[0] == f'GET /page.txt 200 6 {size} \\"q\\"'
    assert size > 6 + len("HTTP/1.1 200 OK")
    assert re.fullmatch(r"HEAD /page.txt 200 0 \d+ -", short[1])
    assert any(re.fullmatch(r"GET /none 404 [1-9]\d+ \d+ -", each) for each in short)
    assert any(" 400 " in each for each in short)
    stamp = r"\[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]"
    common = rf'127\.0\.0\.1 - - {stamp} "GET /page.txt HTTP/1.1" 200 6'
    assert re.fullmatch(common, (tmp_path / "common.log").read_text().splitlines()[0])
    combined = (tmp_path / "combined.log").read_text().splitlines()
    assert re.fullmatch(common + ' "/from" "me"', combined[0])
    assert combined[1].endswith('200 - "-" "-"')


def test_an_error_document_shows_both_statuses(tmp_path: Path) -> None:
    (tmp_path / "sorry.txt").write_text("sorry\n")
    text = f"""{LOAD}DocumentRoot {tmp_path}
    ErrorDocument 404 /sorry.txt
    CustomLog log "%s %>s %U %f %B %{{REDIRECT_STATUS}}e"
    """
    with hosting(tmp_path, text) as host:
        assert host.get("/none").body == b"sorry\n"
        line = lines_of(tmp_path / "log", 1)[0]
    assert line == f"404 404 /none {tmp_path.resolve()}/sorry.txt 6 404"


def test_conditions_and_virtual_hosts(tmp_path: Path) -> None:
    module = tmp_path / "mod_mark.py"
    module.write_text(
        "from sapi_adapters.httpd.module import Module\n"
        "def mark(r):\n"
        "    if 'x' in (r.args or ''): r.subprocess_env['MARK'] = '1'\n"
        "    return 0\n"
        "mark_module = Module('mod_mark', register_hooks=lambda h: h.add('fixups', mark))\n"
    )
    text = f"""{LOAD}LoadModule mark_module mod_mark.py
    DocumentRoot {tmp_path}
    LogFormat "main %v %q" line
    CustomLog main.log line
    GlobalLog all.log line
    CustomLog marked.log "%q" env=MARK
    CustomLog unmarked.log "%q" env=!MARK
    <VirtualHost *:*>
        ServerName plain
    </VirtualHost>
    <VirtualHost *:*>
        ServerName own
        LogFormat "own %v %q" line
        CustomLog own.log line
    </VirtualHost>
    """
    with hosting(tmp_path, text) as host:
        for name, query in (("plain", "x"), ("plain", "y"), ("own", "x")):
            host.get(f"/?{query}", Host=name)
        everything = lines_of(tmp_path / "all.log", 3)
    assert everything == ["main plain ?x", "main plain ?y", "main own ?x"]
    assert lines_of(tmp_path / "main.log", 2) == ["main plain ?x", "main plain ?y"]
    assert lines_of(tmp_path / "own.log", 1) == ["own own ?x"]
    assert lines_of(tmp_path / "marked.log", 1) == ["?x"]
    assert lines_of(tmp_path / "unmarked.log", 1) == ["?y"]


def test_a_full_disk_is_reported_once_and_requests_go_on(tmp_path: Path) -> None:
    text = f"{LOAD}DocumentRoot {tmp_path}\nCustomLog /dev/full common\n"
    with hosting(tmp_path, text) as host:
        for _ in range(3):
            assert host.get("/none").status == 404
        until(lambda: "lines are dropped" in host.log, what="the report")
        assert host.log.count("lines are dropped: No space left on device") == 1


PROGRAM = """
import os, sys
with open(sys.argv[1] + ".pids", "a") as file:
    file.write(f"{os.getpid()}\\n")
for line in sys.stdin:
    with open(sys.argv[1], "a") as file:
        file.write(line)
    if "die" in line:
        sys.exit(3)
with open(sys.argv[1], "a") as file:
    file.write("the end\\n")
"""


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("mpm", ["prefork", "event"])
def test_piped_logs(tmp_path: Path, mpm: str) -> None:
    """Without a shell, started again when it dies, read to the end when the host ends."""
    program, out = tmp_path / "a program.py", tmp_path / "out"
    program.write_text(PROGRAM)
    text = f"""{LOAD}DocumentRoot {tmp_path}
    CustomLog "|{sys.executable} '{program}' {out}" "%U %q $HOME"
    """
    with hosting(tmp_path, text, mpm) as host:
        host.get("/one")
        assert lines_of(out, 1) == ["/one  $HOME"]
        host.get("/die")
        lines_of(out, 2)
        host.get("/three")  # waits in the pipe for the next one
        assert lines_of(out, 3)[2] == "/three  $HOME"
        pids = [int(pid) for pid in lines_of(Path(f"{out}.pids"), 2)]
        assert len(pids) == 2
        assert "ended with status 3, it starts again" in host.log
        keeper = int(Path(f"/proc/{pids[1]}/stat").read_text().rpartition(")")[2].split()[1])
    assert lines_of(out, 4)[3] == "the end"
    until(lambda: not any(map(alive, [*pids, keeper])), what="the end of the program")


def test_a_graceful_restart_opens_logs_anew(tmp_path: Path) -> None:
    program, out = tmp_path / "program.py", tmp_path / "out"
    program.write_text(PROGRAM)
    log, pids = tmp_path / "log", tmp_path / "out.pids"
    text = f"""{LOAD}DocumentRoot {tmp_path}
    CustomLog log "%U"
    CustomLog "|{sys.executable} {program} {out}" "%U"
    """
    with hosting(tmp_path, text) as host:
        host.get("/before")
        assert lines_of(out, 1) == lines_of(log, 1) == ["/before"]
        first = int(lines_of(pids, 1)[0])
        log.rename(tmp_path / "log.1")
        os.kill(host.process.pid, signal.SIGUSR1)
        until(lambda: "generation 2 serves" in host.log, what="the restart")
        until(lambda: not alive(first), what="the end of the program before")
        host.get("/after")
        assert lines_of(log, 1) == ["/after"]
        assert lines_of(out, 3) == ["/before", "the end", "/after"]
        assert host.process.poll() is None


KEEPER = """
import sys
sys.path.insert(0, sys.argv[1])
import piped
piped._LAST = 0.2
sys.exit(piped.main(sys.argv[2:]))
"""


def test_a_program_that_does_not_heed_the_end_is_ended() -> None:
    folder = Path(mod_log_config.__file__).parent
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)"
    program = [sys.executable, "-c", f"{stubborn}; time.sleep(600)"]
    keeper = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", KEEPER, str(folder), *program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert keeper.stdin is not None and keeper.stdout is not None
    with keeper.stdout:
        assert keeper.stdout.readline() == b"1\n"
        keeper.stdin.close()
        assert keeper.wait(20) == -signal.SIGKILL & 0xFF
        assert keeper.stdout.read() == b""  # nobody has it open any more


# -- as Apache

APACHE = shutil.which("apache2", path="/usr/sbin:/usr/local/sbin")
LINE = (
    '%h %l %u "%r" %>s %s %m %U %q %H %{X}i "%{X}i" %{none}i %{a}C %X %k %v %V %{c}a %A'
    " %400,404{X}i %!404{X}i %200{Content-Type}o %{NONE}e %{NONE}n %l"
)
REQUESTS = [
    b"GET /page.txt HTTP/1.1\r\nHost: other\r\nX: plain\r\nCookie: b=2; a=1\r\n\r\n",
    b'GET /page.txt?a%22b HTTP/1.0\r\nX: q"uo\\te\ttab\xe9\r\n\r\n',
    b"HEAD /no%22%5c%c3%a9?x HTTP/1.1\r\nHost: Other:80\r\nX: \xc3\xa9\r\n\r\n",
]


def asked(port: int, request: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as wire:
        wire.sendall(request)
        wire.shutdown(socket.SHUT_WR)
        while wire.recv(65536):
            pass


@pytest.mark.skipif(APACHE is None, reason="apt-get install apache2")
def test_lines_are_apaches(tmp_path: Path) -> None:
    """The same requests give the same lines."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "page.txt").write_text("hello\n")
    for each in (tmp_path, root):
        each.chmod(0o755)
    quoted = LINE.replace('"', '\\"')
    common = f'DocumentRoot {root}\nCustomLog {tmp_path}/%s.log "{quoted}"\n'
    port = free_port()
    conf = tmp_path / "apache.conf"
    conf.write_text(
        f"ServerRoot {tmp_path}\nServerName localhost\nListen 127.0.0.1:{port}\n"
        f"PidFile {tmp_path}/pid\nErrorLog {tmp_path}/error.log\nTypesConfig /dev/null\n"
        + "".join(
            f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"
            for name in ("mpm_prefork", "mime", "authz_core")
        )
        + "StartServers 1\nAddType text/plain .txt\n"
        + common.replace("%s", "theirs", 1)
    )
    apache = subprocess.Popen(
        [str(APACHE), "-X", "-f", str(conf)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: _listens(port), what="Apache")
        for request in REQUESTS:
            asked(port, request)
        theirs = lines_of(tmp_path / "theirs.log", len(REQUESTS))
    finally:
        apache.terminate()
        apache.wait(15)
    text = f"{LOAD}LoadModule mime_module mod_mime\nAddType text/plain .txt\n"
    with hosting(tmp_path, text + common.replace("%s", "ours", 1)) as host:
        for request in REQUESTS:
            asked(host.port, request)
        ours = lines_of(tmp_path / "ours.log", len(REQUESTS))
    assert ours == theirs


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
