"""Frameworks as they come from PyPI, on flup's names, behind a real nginx or Apache.

The programs in frameworks/ are what a user of the framework writes; none knows this project.  Every
row of PROGRAMS is started, asked what people ask of it, and ended with SIGTERM.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from deployments import MissingServer, environment, require
from fronts import FRONTS, ROOT, Front, Site, configure_apache, configure_nginx
from httpclient import fetch
from processes import STOP_DEADLINE, Address, Process, answers, hold_port, release_ports, wait_until

from sapi_adapters.testing import Request, Response

FRAMEWORKS = Path(__file__).resolve().parent / "frameworks"
MEGABYTES = bytes(range(256)) * 12_288
FORM = ("Content-Type", "application/x-www-form-urlencoded")
# A command that a test runs to its end: a tracker is made, a repository cloned.
COMMAND_DEADLINE = 60.0

Ask = Callable[["Running"], None]
Asks = tuple[Ask, ...]


@dataclass(frozen=True)
class Program:
    """One row: a program of a framework, how it is started and how it is asked."""

    name: str
    # The distributions that have to be installed, with pip's words for them.
    needs: tuple[str, ...]
    # What is run; {python}, {programs}, {directory}, {address}, {host} and {port} are filled in.
    command: tuple[str, ...]
    # What is asked of it, one after the other; the last one ends it.
    asks: Asks
    # The module of flup that it is expected to have served with.
    module: str
    # "unix", "tcp"; "spawn-fcgi" when the program finds the socket as its descriptor 0; "cgi".
    listens: str = "unix"
    mount: str = ""
    # Files of the directory, filled in as the command is.
    files: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[Path], None] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    # flup is a distribution of its own, and not a name that install() made.
    distribution: bool = False

    @property
    def protocol(self) -> str:
        return "cgi" if self.listens == "cgi" else self.module.split(".")[-1].split("_")[0]


@dataclass
class Running:
    """A program behind a web server, both running."""

    program: Program
    directory: Path
    port: int
    mount: str
    address: Address
    # What to end; for a CGI program the web server.
    server: Process

    def ask(
        self,
        path: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: list[tuple[str, str]] | None = None,
    ) -> Response:
        target = self.mount + path
        host = ("Host", f"localhost:{self.port}")
        return fetch(self.port, Request(method, target, [host, *(headers or [])], body))


# -- what the pages of this directory answer ----------------------------------------------------


def greets(running: Running) -> None:
    """A query; a path that is decoded once, as UTF-8, and keeps a plus sign and a percent sign."""
    response = running.ask("/hello/Zo%C3%AB%20%2541+1?greeting=b%26b+%E2%82%AC")
    assert response.status == 200, response
    assert response.body.decode() == "hello Zoë %41+1, b&b €"


def takes_a_form(running: Running) -> None:
    response = running.ask("/form", "POST", urlencode({"name": "Ünal"}).encode(), [FORM])
    assert (response.status, response.body.decode()) == (200, "got Ünal")


def has_a_404_of_its_own(running: Running) -> None:
    assert running.ask("/nowhere/at/all").status == 404


def echoes_megabytes(running: Running) -> None:
    kind = ("Content-Type", "application/octet-stream")
    response = running.ask("/echo", "POST", MEGABYTES, [kind])
    assert response.status == 200, response
    assert len(response.body) == len(MEGABYTES)
    assert response.body == MEGABYTES


def answers_several_at_once(running: Running) -> None:
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(running.ask, f"/hello/{n}?greeting=x") for n in range(24)]
        bodies = [future.result().body.decode() for future in asked]
    assert bodies == [f"hello {n}, x" for n in range(24)]


def ends_when_told(running: Running) -> None:
    """SIGTERM: the program returns from run(), and nothing of it stays behind."""
    running.server.popen.send_signal(signal.SIGTERM)
    ended(running)


def ends_with_42_at_sighup(running: Running) -> None:
    """run() is true after SIGHUP: by 42 programs ask what started them to start them again."""
    running.server.popen.send_signal(signal.SIGHUP)
    ended(running, 42)


def ends_after_what_it_began(running: Running) -> None:
    """SIGTERM in the middle of a request: the answer is whole."""
    last = running.directory / "last"
    last.mkdir()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(running.ask, f"/wait?directory={last}")
        wait_until((last / "begun").exists, "the last request")
        running.server.popen.send_signal(signal.SIGTERM)
        (last / "go").touch()
        response = asked.result()
    assert (response.status, response.body) == (200, b"went on")
    ended(running)


def ended(running: Running, status: int = 0) -> None:
    popen = running.server.popen
    assert popen.wait(STOP_DEADLINE) == status
    assert not answers(running.address)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(popen.pid, 0)
        pytest.fail("a process of the program is left")
    log = running.server.log_text()
    assert "Traceback" not in log


PAGES = (
    greets,
    takes_a_form,
    has_a_404_of_its_own,
    echoes_megabytes,
    answers_several_at_once,
    ends_after_what_it_began,
)
# A process for each request, which ends by itself.
CGI_PAGES = (greets, takes_a_form, has_a_404_of_its_own, echoes_megabytes)


# -- Mercurial ----------------------------------------------------------------------------------


def run(*command: str, cwd: Path, **environ: str) -> bytes:
    """Run a command to its end; its standard output."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**environment(), "HOME": str(cwd), **environ},
        capture_output=True,
        timeout=COMMAND_DEADLINE,
    )
    assert done.returncode == 0, f"{command}: {done.stderr.decode(errors='replace')}"
    return done.stdout


def hg(*arguments: str, cwd: Path) -> bytes:
    command = [sys.executable, "-m", "mercurial", *arguments]
    return run(*command, cwd=cwd, HGRCPATH="", HGPLAIN="1", HGUSER="tester")


def make_repository(directory: Path) -> None:
    repository = directory / "repository"
    hg("init", str(repository), cwd=directory)
    # Noise: what the repository cannot make small again.
    (repository / "noise").write_bytes(os.urandom(2_000_000))
    hg("commit", "--addremove", "--message", "the first", cwd=repository)
    web = "[web]\nallow-push = *\npush_ssl = false\n"
    (directory / "hgweb.config").write_text(f"[paths]\n/ = {repository}\n{web}")
    (repository / ".hg" / "hgrc").write_text(web)


def speaks_mercurials_protocol(running: Running) -> None:
    response = running.ask("/?cmd=capabilities")
    assert response.status == 200, response
    assert "application/mercurial" in dict(response.headers)["Content-Type"]
    assert b"unbundle=" in response.body


def shows_a_changeset(running: Running) -> None:
    response = running.ask("/log?rev=the+first")
    assert response.status == 200, response
    assert b"the first" in response.body
    assert running.ask("/file/tip/no-such-file").status == 404


def clones_and_takes_a_push(running: Running) -> None:
    clone = running.directory / "clone"
    url = f"http://127.0.0.1:{running.port}{running.mount}"
    hg("clone", url, str(clone), cwd=running.directory)
    first = running.directory / "repository" / "noise"
    assert (clone / "noise").read_bytes() == first.read_bytes()
    noise = os.urandom(2_000_000)
    (clone / "more").write_bytes(noise)
    hg("commit", "--addremove", "--message", "the second", cwd=clone)
    hg("push", cwd=clone)
    assert running.ask("/raw-file/tip/more").body == noise


MERCURIAL = (
    speaks_mercurials_protocol,
    shows_a_changeset,
    clones_and_takes_a_push,
    ends_when_told,
)


def multipart(
    fields: Mapping[str, str], name: str, filename: str, data: bytes
) -> tuple[tuple[str, str], bytes]:
    """The header and the body of a form with a file."""
    parts = []
    for key, value in fields.items():
        head = f'--fold\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n'
        parts.append(head.encode() + value.encode() + b"\r\n")
    head = f'--fold\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
    parts.append(head.encode() + b"Content-Type: application/octet-stream\r\n\r\n" + data)
    kind = ("Content-Type", "multipart/form-data; boundary=fold")
    return kind, b"".join(parts) + b"\r\n--fold--\r\n"


# -- Trac ---------------------------------------------------------------------------------------


def make_trac(directory: Path) -> None:
    options = [
        ("project", "name", "Ours"),
        ("attachment", "max_size", "8000000"),
        ("logging", "log_type", "none"),
    ]
    program = (
        "from trac.env import Environment\n"
        "from trac.perm import PermissionSystem\n"
        f"env = Environment({str(directory / 'trac')!r}, create=True, options={options!r})\n"
        "PermissionSystem(env).grant_permission('anonymous', 'TRAC_ADMIN')\n"
        "env.shutdown()\n"
    )
    run(sys.executable, "-c", program, cwd=directory)


def trac_token(running: Running) -> tuple[str, list[tuple[str, str]]]:
    """The token that a form of Trac must bring, and the headers with its cookie."""
    response = running.ask("/wiki/Ours?action=edit")
    assert response.status == 200, response
    cookies = [value.split(";")[0] for name, value in response.headers if name == "Set-Cookie"]
    token = next(cookie for cookie in cookies if cookie.startswith("trac_form_token="))
    return token.partition("=")[2], [("Cookie", "; ".join(cookies))]


def edits_a_page_of_trac(running: Running) -> None:
    token, headers = trac_token(running)
    fields = {"__FORM_TOKEN": token, "action": "edit", "version": "0", "save": "1"}
    body = urlencode({**fields, "text": "Grüße an alle"}).encode()
    saved = running.ask("/wiki/Ours", "POST", body, [FORM, *headers])
    assert saved.status in (302, 303), saved
    # Not its host: Debian's fastcgi_params sends the name without the port.
    assert urlsplit(dict(saved.headers)["Location"]).path == f"{running.mount}/wiki/Ours"
    assert "Grüße an alle" in running.ask("/wiki/Ours").body.decode()
    assert "Grüße" in running.ask("/search?q=Gr%C3%BC%C3%9Fe&wiki=on&noquickjump=1").body.decode()


def has_no_such_ticket(running: Running) -> None:
    assert running.ask("/ticket/4711").status == 404


def attaches_a_large_file(running: Running) -> None:
    token, headers = trac_token(running)
    fields = {"__FORM_TOKEN": token, "action": "new", "realm": "wiki", "id": "Ours"}
    kind, body = multipart(fields, "attachment", "large file.bin", MEGABYTES)
    sent = running.ask("/attachment/wiki/Ours/?action=new", "POST", body, [kind, *headers])
    assert sent.status in (302, 303), sent
    response = running.ask("/raw-attachment/wiki/Ours/large%20file.bin")
    assert response.status == 200, response
    assert response.body == MEGABYTES


TRAC = (edits_a_page_of_trac, has_no_such_ticket, attaches_a_large_file)


# -- Roundup ------------------------------------------------------------------------------------

ROUNDUP_USER = ("Authorization", "Basic " + base64.b64encode(b"admin:secret").decode())
ROUNDUP_ORIGIN = [("X-Requested-With", "rest"), ("Origin", "http://localhost")]
ROUNDUP_HEADERS = [ROUNDUP_USER, *ROUNDUP_ORIGIN, ("Accept", "application/json")]


def make_tracker(directory: Path) -> None:
    program = "from roundup.scripts.roundup_admin import run; run()"
    admin = [sys.executable, "-c", program, "-i", str(directory / "tracker")]
    web = "tracker_web=http://localhost/mount/"
    mail = "mail_domain=localhost.invalid,mail_host=localhost"
    run(*admin, "install", "classic", "sqlite", f"{web},{mail}", cwd=directory)
    run(*admin, "initialise", "secret", cwd=directory)


def rest(response: Response) -> Any:
    return json.loads(response.body)["data"]


def finds_users_of_roundup(running: Running) -> None:
    response = running.ask("/rest/data/user?username=admin&@verbose=2", headers=ROUNDUP_HEADERS)
    assert response.status == 200, response
    (found,) = rest(response)["collection"]
    assert found["username"] == "admin"
    assert running.ask("/user?@template=item").status == 200


def opens_an_issue_of_roundup(running: Running) -> None:
    body = urlencode({"title": "Zoë wants 100 %"}).encode()
    made = running.ask("/rest/data/issue", "POST", body, [FORM, *ROUNDUP_HEADERS])
    assert made.status == 201, made
    shown = running.ask(f"/rest/data/issue/{rest(made)['id']}", headers=ROUNDUP_HEADERS)
    assert rest(shown)["attributes"]["title"] == "Zoë wants 100 %"


def has_no_such_issue(running: Running) -> None:
    assert running.ask("/rest/data/issue/4711", headers=ROUNDUP_HEADERS).status == 404
    assert running.ask("/nowhere").status == 404


def keeps_a_large_file(running: Running) -> None:
    fields = {"name": "large", "type": "application/octet-stream"}
    kind, body = multipart(fields, "content", "large", MEGABYTES)
    made = running.ask("/rest/data/file", "POST", body, [kind, *ROUNDUP_HEADERS])
    assert made.status == 201, made
    number = rest(made)["id"]
    response = running.ask(f"/file{number}/large", headers=[ROUNDUP_USER])
    assert response.status == 200, response
    assert response.body == MEGABYTES


ROUNDUP = (
    finds_users_of_roundup,
    opens_an_issue_of_roundup,
    has_no_such_issue,
    keeps_a_large_file,
)


# -- the rows -----------------------------------------------------------------------------------

PASTE_INI = """
[app:main]
paste.app_factory = paste_page:make_app

[server:main]
use = egg:{egg}
"""
SOCKET = "socket = {directory}/app.sock\n"
HOST = "host = {host}\nport = {port}\n"
TRAC_NEEDS = ("Trac", "setuptools<82")
PASTER = "from paste.script.command import run; run()"


def paste(egg: str, module: str, where: str, *, script: bool = False) -> Program:
    """An ini file that names the server by the entry point of an installed distribution."""
    serve = ("{programs}/paste_serve.py", "{directory}/paste.ini")
    paster = ("-c", PASTER, "serve", "{directory}/paste.ini")
    needs = ("Paste", "PasteDeploy", "PasteScript", "setuptools<82")
    return Program(
        name=f"paste-{egg.split('#')[1]}{'-paster' if script else ''}",
        needs=needs if script else needs[:2],
        command=("{python}", *(paster if script else serve)),
        asks=PAGES,
        module=module,
        listens="unix" if where == SOCKET else "tcp",
        files={"paste.ini": PASTE_INI.replace("{egg}", egg) + where},
        distribution=True,
    )


def page(
    name: str, needs: str, script: str, *arguments: str, module: str, **options: Any
) -> Program:
    command = ("{python}", "{programs}/" + script, *arguments)
    asks = CGI_PAGES if options.get("listens") == "cgi" else PAGES
    return Program(name, (needs,), command, asks, f"flup.server.{module}", **options)


def hgweb(name: str, asks: Asks, **options: Any) -> Program:
    return Program(
        name=name,
        needs=("mercurial",),
        command=("{python}", "{programs}/hgweb.fcgi"),
        asks=asks,
        module="flup.server.fcgi",
        listens="spawn-fcgi",
        mount="/mount",
        prepare=make_repository,
        environment={"HGWEB_CONFIG": "{directory}/hgweb.config", "HGRCPATH": ""},
        **options,
    )


def tracd(protocol: str, last: Ask, **options: Any) -> Program:
    where = ("--hostname={host}", "--port={port}", f"--protocol={protocol}")
    return Program(
        name=f"trac-tracd-{protocol}",
        needs=TRAC_NEEDS,
        command=("{python}", "-m", "trac.web.standalone", "-s", *where) + ("{directory}/trac",),
        asks=(*TRAC, last),
        module=f"flup.server.{protocol}",
        listens="tcp",
        prepare=make_trac,
        **options,
    )


PROGRAMS = (
    page("bottle-unix", "bottle", "bottle_page.py", "{address}", module="fcgi"),
    page("bottle-tcp", "bottle", "bottle_page.py", "{address}", module="fcgi", listens="tcp"),
    page("cherrypy-fcgi", "CherryPy", "cherrypy_page.py", "fcgi", "{address}", module="fcgi"),
    page(
        *("cherrypy-fcgi-tcp", "CherryPy", "cherrypy_page.py", "fcgi", "{address}"),
        module="fcgi",
        listens="tcp",
    ),
    page("cherrypy-scgi", "CherryPy", "cherrypy_page.py", "scgi", "{address}", module="scgi"),
    page("cherrypy-cgi", "CherryPy", "cherrypy_page.py", "cgi", module="cgi", listens="cgi"),
    page("web.py-fcgi", "web.py", "webpy_page.py", "fcgi", "{address}", module="fcgi"),
    page(
        *("web.py-scgi-tcp", "web.py", "webpy_page.py", "scgi", "{address}"),
        module="scgi",
        listens="tcp",
    ),
    # web.py finds FastCGI by this variable, which lighttpd sets, and CGI by SERVER_SOFTWARE.
    page(
        *("web.py-spawn-fcgi", "web.py", "webpy_page.py"),
        module="fcgi",
        listens="spawn-fcgi",
        environment={"PHP_FCGI_CHILDREN": "1"},
    ),
    page("web.py-cgi", "web.py", "webpy_page.py", module="fcgi", listens="cgi"),
    paste("flup#fcgi_thread", "flup.server.fcgi", SOCKET),
    paste("flup#fcgi_fork", "flup.server.fcgi_fork", SOCKET),
    paste("flup#fcgi_fork", "flup.server.fcgi_fork", HOST, script=True),
    paste("flup#scgi_thread", "flup.server.scgi", HOST),
    paste("flup#scgi_fork", "flup.server.scgi_fork", HOST),
    paste("PasteScript#flup_scgi_thread", "flup.server.scgi", HOST, script=True),
    hgweb("mercurial-hgweb.fcgi", MERCURIAL),
    # Found by the path and not by install(): Mercurial imports lazily, and the two differ there.
    hgweb(
        "mercurial-distribution", (speaks_mercurials_protocol, ends_when_told), distribution=True
    ),
    Program(
        name="trac-fcgi_frontend",
        needs=TRAC_NEEDS,
        command=("{python}", "-m", "trac.web.fcgi_frontend"),
        asks=(*TRAC, ends_when_told),
        module="flup.server.fcgi",
        listens="spawn-fcgi",
        mount="/mount",
        prepare=make_trac,
        environment={"TRAC_USE_FLUP": "1", "TRAC_ENV": "{directory}/trac"},
    ),
    tracd("scgi", ends_when_told, mount="/mount"),
    tracd("ajp", ends_with_42_at_sighup),
    *(
        Program(
            name=f"roundup-{protocol}",
            needs=("roundup",),
            command=("{python}", "{programs}/roundup_page.py", "{directory}/tracker", protocol)
            + ("{address}",),
            asks=(*ROUNDUP, last),
            module=f"flup.server.{protocol}",
            listens="tcp",
            mount="/mount",
            prepare=make_tracker,
        )
        for protocol, last in (("scgi", ends_when_told), ("fcgi_fork", ends_with_42_at_sighup))
    ),
)


# -- how a row runs -----------------------------------------------------------------------------


def nginx(program: Program) -> Front:
    protocol = "scgi" if program.protocol == "scgi" else "fastcgi"
    return Front(
        name="nginx",
        server="nginx",
        configure=configure_nginx,
        sapi=program.protocol,
        mount=program.mount,
        options={"protocol": protocol, "keep_conn": "off", "buffering": "on", "split": "yes"},
    )


def apache_ajp(program: Program) -> Front:
    return Front(
        name="apache-ajp",
        server="apache",
        configure=configure_apache,
        sapi="ajp",
        backend="ajp",
        mount=program.mount,
        options={"modules": "proxy proxy_ajp", "scheme": "ajp"},
    )


APACHE_CGI = next(front for front in FRONTS if front.name == "apache-cgid")
FRONT_OF = {"ajp": apache_ajp, "cgi": lambda program: APACHE_CGI}


@pytest.fixture(scope="module", autouse=True)
def ports() -> Iterator[None]:
    yield
    release_ports()


@pytest.fixture
def directory() -> Iterator[Path]:
    # Not pytest's directory: a Unix socket's path may have 107 bytes at most.
    made = Path(mkdtemp(prefix="sapi-"))
    made.chmod(0o755)
    yield made
    rmtree(made, ignore_errors=True)


def missing(what: str) -> None:
    """What is not installed fails a CI run and skips elsewhere, with the line that installs it."""
    if os.environ.get("CI"):
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


def require_distribution(need: str) -> None:
    name = need.split("<")[0]
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        missing(f"{name} is missing: pip install '{need}'")
    # Trac and PasteScript import what newer versions of setuptools no longer bring.
    if name == "setuptools" and importlib.util.find_spec("pkg_resources") is None:
        missing(f"pkg_resources is missing: pip install '{need}'")


def filled(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace("{" + name + "}", value)
    return text


@dataclass
class Place:
    """What is known of a program before it runs: its directory, address and environment."""

    program: Program
    directory: Path
    address: Address
    environ: dict[str, str]

    def __post_init__(self) -> None:
        host, port = self.address if isinstance(self.address, tuple) else ("", 0)
        values = {
            "python": sys.executable,
            "programs": str(FRAMEWORKS),
            "directory": str(self.directory),
            "address": f"{host}:{port}" if host else str(self.address),
            "host": host,
            "port": str(port),
        }
        self.command = [filled(part, values) for part in self.program.command]
        for name, text in self.program.files.items():
            (self.directory / name).write_text(filled(text, values))
        for name, text in self.program.environment.items():
            self.environ[name] = filled(text, values)

    def start(self) -> Process:
        """Start the program as a server that waits for a web server."""
        command = self.command
        if self.program.listens == "spawn-fcgi":
            spawn = [require("spawn-fcgi"), "-n", "-s", str(self.address), "-M", "0660", "--"]
            command = spawn + command
        log = self.directory / "program.log"
        return Process(command, log, environment=self.environ, cwd=self.directory)

    def script(self) -> Path:
        """Write the program as a CGI script: servers keep their environment to themselves."""
        path = self.directory / "scripts" / "program"
        path.parent.mkdir()
        values = " ".join(f"{name}={quote(value)}" for name, value in self.environ.items())
        path.write_text(f"#!/bin/sh\n{values} exec {' '.join(map(quote, self.command))}\n")
        path.chmod(0o755)
        return path

    def start_front(self, front: Front, site: Site) -> Process:
        """Start the web server."""
        require(front.server)
        directory = self.directory / "front"
        directory.mkdir(mode=0o770)
        return Process(
            front.configure(front, directory, [site]),
            directory / "output.log",
            environment=environment(),
            cwd=directory,
            more_logs=[directory / "error.log"],
        )


@contextlib.contextmanager
def serving(program: Program, directory: Path, path: list[str]) -> Iterator[Running]:
    """The program and its web server: both are started here and ended here."""
    tcp = program.listens == "tcp"
    address: Address = ("127.0.0.1", hold_port()) if tcp else str(directory / "app.sock")
    environ = {**environment(), "PYTHONPATH": os.pathsep.join(path)}
    if program.distribution:
        environ["FLUP_INSTALLED"] = "1"
    place = Place(program, directory, address, environ)
    if program.prepare is not None:
        program.prepare(directory)
    started: list[Process] = []
    try:
        if program.listens == "cgi":
            site = Site(program.name, hold_port(), place.script(), None)
        else:
            site = Site(program.name, hold_port(), directory, address)
            started.append(place.start())
            started[0].wait_for(address)
        front = FRONT_OF.get(program.protocol, nginx)(program)
        started.append(place.start_front(front, site))
        started[-1].wait_for(("127.0.0.1", site.port))
        yield Running(program, directory, site.port, front.mount_of(site), address, started[0])
    finally:
        for process in reversed(started):
            process.stop()
            # Where a failed test shows it.
            print(process.log_text())


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_a_program_of_a_framework(
    program: Program, directory: Path, request: pytest.FixtureRequest
) -> None:
    for need in program.needs:
        require_distribution(need)
    path = [str(FRAMEWORKS), str(ROOT)]
    if program.distribution:
        path.insert(0, str(request.getfixturevalue("distribution")))
    try:
        with serving(program, directory, path) as running:
            for ask in program.asks:
                ask(running)
            imported = re.findall(r"imported (\S+)", running.server.log_text())
            assert set(imported) == {f"sapi_adapters.{program.module}"}
    except MissingServer as error:
        missing(str(error))
