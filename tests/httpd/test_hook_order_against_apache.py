"""The hooks that a request passes are those of Apache httpd, in its order.

mod_log_debug writes the trace on both servers, from one configuration. docs/hooks.md has the
table: it is made of Apache's traces by ``python tests/httpd/test_hook_order_against_apache.py``,
Apache is held against it where it is installed, and the host everywhere.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pytest

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "interop")]

from httpd.apache_beside import apache
from httpd.hosting import Hosted, hosting
from serving import until

from sapi_adapters.httpd.hooks import HOOKS
from sapi_adapters.httpd.host import Host
from sapi_adapters.sapi import ConfigurationError

PAGE = Path(__file__).parents[2] / "docs" / "hooks.md"
MODULES = (
    *("log_debug", "authz_core", "authz_host", "authz_user", "authn_core", "authn_file"),
    *("auth_basic", "alias", "dir", "cgi"),
)
CONFIGURATION = (
    "".join(f"LoadModule {name}_module modules/mod_{name}.so\n" for name in MODULES)
    + """LogLevel debug
DocumentRoot {site}
LogMessage "%{{REQUEST_URI}}" hook=all
<Directory {site}/denied>
    Require all denied
</Directory>
<Directory {site}/private>
    AuthType Basic
    AuthName private
    AuthBasicProvider file
    AuthUserFile {site}/../users
    Require valid-user
</Directory>
<Directory {site}/some>
    AuthType Basic
    AuthName some
    AuthBasicProvider file
    AuthUserFile {site}/../users
    Require user bob
</Directory>
<Directory {site}/listed>
    DirectoryIndex missing.html index.html
</Directory>
<Directory {site}/listed-denied>
    DirectoryIndex index.html
    <Files index.html>
        Require all denied
    </Files>
</Directory>
<Directory {site}/bare>
    DirectoryIndex disabled
</Directory>
<Directory {site}/fallback>
    FallbackResource /plain.txt
</Directory>
<Location /gone/page>
    ErrorDocument 404 /errors/missing.html
</Location>
<Location /gone/text>
    ErrorDocument 404 "it is not here"
</Location>
<Location /gone/elsewhere>
    ErrorDocument 404 http://localhost/elsewhere
</Location>
<Location /gone/twice>
    ErrorDocument 404 /errors/none.html
</Location>
<Location /denied/page>
    ErrorDocument 403 /errors/missing.html
</Location>
<Location /private/page>
    ErrorDocument 401 /errors/missing.html
</Location>
<Location /unhandled>
    SetHandler nobody
</Location>
Redirect 302 /old /plain.txt
Redirect gone /past
Alias /alias {site}/plain.txt
ScriptAlias /cgi/ {site}/../cgi/
"""
)
FILES = (
    *("plain.txt", "denied/a.txt", "private/a.txt", "some/a.txt", "listed/index.html"),
    *("listed-denied/index.html", "bare/a.txt", "errors/missing.html", "fallback/a.txt"),
)
CGI = {
    "hello": "printf 'Content-Type: text/plain\\n\\nhello\\n'",
    "local": "printf 'Location: /plain.txt\\n\\n'",
    "away": "printf 'Location: http://localhost/\\n\\n'",
    "missing": "printf 'Status: 404 Not Found\\nContent-Type: text/plain\\n\\nnone\\n'",
    "broken": "exit 1",
}


class Asked(NamedTuple):
    """A request, and what it is to show."""

    what: str
    target: str
    method: str = "GET"
    fields: str = ""


USER = "Authorization: Basic YWxpY2U6c2VjcmV0"  # alice:secret
WRONG = "Authorization: Basic YWxpY2U6d3Jvbmc="  # alice:wrong
REQUESTS = (
    Asked("a file", "/plain.txt"),
    Asked("its head", "/plain.txt", "HEAD"),
    Asked("a part of it", "/plain.txt", fields="Range: bytes=0-1"),
    Asked("a part that is not there", "/plain.txt", fields="Range: bytes=99-"),
    Asked("only if it has changed", "/plain.txt", fields="If-None-Match: *"),
    Asked("only if it is the same", "/plain.txt", fields='If-Match: "other"'),
    Asked("with a query", "/plain.txt?a=b"),
    Asked("its methods", "/plain.txt", "OPTIONS"),
    Asked("the server's methods", "*", "OPTIONS"),
    Asked("a method that files do not take", "/plain.txt", "DELETE"),
    Asked("dots and slashes", "/listed/.//../plain.txt"),
    Asked("above the root", "/../plain.txt"),
    Asked("an encoded slash", "/listed%2findex.html"),
    Asked("an encoded NUL", "/plain.txt%00"),
    Asked("an encoded letter", "/pl%61in.txt"),
    Asked("a wrong escape", "/plain%zz"),
    Asked("a path behind a file", "/plain.txt/more"),
    Asked("Alias", "/alias"),
    Asked("no such file", "/none.txt"),
    Asked("a handler that nobody has", "/unhandled"),
    Asked("Redirect", "/old/a"),
    Asked("Redirect gone", "/past"),
    Asked("a directory without its slash", "/listed"),
    Asked("a directory with an index", "/listed/"),
    Asked("the head of an index", "/listed/", "HEAD"),
    Asked("a directory whose index is forbidden", "/listed-denied/"),
    Asked("a directory without an index", "/bare/"),
    Asked("FallbackResource", "/fallback/none"),
    Asked("Require all denied", "/denied/a.txt"),
    Asked("no password", "/private/a.txt"),
    Asked("a wrong password", "/private/a.txt", fields=WRONG),
    Asked("the password", "/private/a.txt", fields=USER),
    Asked("the password of somebody else", "/some/a.txt", fields=USER),
    Asked("a password that nobody asked for", "/plain.txt", fields=USER),
    Asked("ErrorDocument, a local path", "/gone/page"),
    Asked("ErrorDocument for HEAD", "/gone/page", "HEAD"),
    Asked("ErrorDocument, a text", "/gone/text"),
    Asked("ErrorDocument, a URL", "/gone/elsewhere"),
    Asked("ErrorDocument that is missing itself", "/gone/twice"),
    Asked("ErrorDocument for 403", "/denied/page"),
    Asked("ErrorDocument for 401", "/private/page"),
    Asked("a CGI program", "/cgi/hello"),
    Asked("with a path behind it", "/cgi/hello/more"),
    Asked("its local redirect", "/cgi/local"),
    Asked("its redirect", "/cgi/away"),
    Asked("its own 404", "/cgi/missing"),
    Asked("a CGI program without an answer", "/cgi/broken"),
    Asked("no such CGI program", "/cgi/none"),
)
_AS_IT_CAME = "a URI that is refused stays as it came; Apache's is decoded by then"
DIFFERENCES = {
    "above the root": _AS_IT_CAME,
    "an encoded slash": _AS_IT_CAME,
    "an encoded NUL": "400, as it is no path; and the URI stays as it came",
    "a directory without an index": "403, as the directory is there",
}
"""Requests that the host serves otherwise -> why."""
_LINE = re.compile(r"\] (\S+) \((\w+) hook, ")

Traces = dict[Asked, tuple[int, list[tuple[str, str]]]]
"""The status and the trace, pairs of URI and hook, of each request."""


def make_site(folder: Path) -> str:
    """Make the files below *folder*; return the configuration."""
    site = folder / "site"
    for name in FILES:
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")
    (folder / "cgi").mkdir()
    for name, script in CGI.items():
        path = folder / "cgi" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    (folder / "users").write_text("alice:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n")  # secret
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o444))
    return CONFIGURATION.format(site=site.resolve())


def trace(server: Hosted, asked: Asked) -> tuple[int, list[tuple[str, str]]]:
    """Return the status of the answer and what was logged until the request was over."""
    before = len(server.log)
    fields = dict([asked.fields.split(": ", 1)] if asked.fields else [])
    answer = server.request(asked.method, asked.target, headers=fields)

    def found() -> list[tuple[str, str]]:
        return [(match[1], match[2]) for match in _LINE.finditer(server.log[before:])]

    until(lambda: any(hook == "log_transaction" for _, hook in found()), what=str(asked))
    return answer.status, found()


def traces(server: Hosted) -> Traces:
    """Return those of every request."""
    return {asked: trace(server, asked) for asked in REQUESTS}


# -- the table ------------------------------------------------------------------------------------


def row(asked: Asked, status: int, passed: list[tuple[str, str]]) -> str:
    """Return a line of the table; its first column is what is asked for."""
    steps = [
        f"`{uri}` {', '.join(hook for _, hook in hooks)}"
        for uri, hooks in groupby(passed, key=lambda step: step[0])
    ]
    request = f"`{asked.method} {asked.target}`"
    if asked.fields:
        request += f" `{asked.fields}`"
    return f"| {asked.what} | {request} | {status} | {'<br>'.join(steps)} |"


def rows(found: Traces) -> dict[str, str]:
    """Return the lines of the table by what is asked for."""
    return {asked.what: row(asked, *told) for asked, told in found.items()}


def documented(table: str) -> dict[str, str]:
    """Return the lines of a table of the page, ``"apache"`` or ``"host"``."""
    _, _, rest = PAGE.read_text().partition(f"<!-- {table} -->\n")
    lines = rest.partition("<!-- end -->\n")[0].splitlines()[2:]
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines}


def compare(found: dict[str, str], said: dict[str, str]) -> None:
    """Compare the lines *found* with those of the page."""
    assert list(found) == list(said)
    different = [
        f"{found[what]}\n  not {said[what]}" for what in found if found[what] != said[what]
    ]
    assert not different, "\n".join(different)


def expected() -> dict[str, str]:
    """Return what the host is to do: Apache's table, but for the differences."""
    other = documented("host")
    assert other.keys() == DIFFERENCES.keys()
    said = documented("apache")
    for what, line in other.items():
        line, _, why = line.removesuffix(" |").rpartition(" | ")
        assert why == DIFFERENCES[what]
        assert f"{line} |" != said[what], f"{what} is no difference"
        said[what] = f"{line} |"
    return said


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("hooks")
    yield folder, make_site(folder)


def test_apache_does_what_the_page_says(configuration: tuple[Path, str]) -> None:
    folder, text = configuration
    with apache(folder / "apache", text) as server:
        compare(rows(traces(server)), documented("apache"))


@pytest.mark.parametrize("mpm", ["prefork", "worker", "event"])
def test_the_host_does_what_apache_does(configuration: tuple[Path, str], mpm: str) -> None:
    pytest.importorskip("bcrypt", reason="passwords are the work of sapi_adapters[auth]")
    folder, text = configuration
    (folder / mpm).mkdir()
    with hosting(folder / mpm, text, mpm) as server:
        compare(rows(traces(server)), expected())


def test_the_page_tells_of_every_hook_and_phase() -> None:
    text = PAGE.read_text()
    for name, kind in HOOKS.items():
        assert re.search(rf"^\| .*`{name}`.* \| {kind} \|", text, re.M), name


# -- LogMessage -----------------------------------------------------------------------------------

LOADS = "LoadModule authz_core_module modules/mod_authz_core.so\n" + (
    "LoadModule log_debug_module modules/mod_log_debug.so\n"
)
REFUSED = {
    "LogMessage": "LogMessage takes one, two or three arguments",
    "LogMessage x hook=nothing": "Invalid hook name: nothing",
    "LogMessage x hook=handler hook=fixups": "Only one hook= may be given",
    "LogMessage x handler": "Invalid argument: handler",
    "LogMessage x expr=true": "expr= is not supported",
    "LogMessage x hook=all expr=true": "expr= is not supported",
    "LogMessage %{NOTHING}": "there is no %{NOTHING} here",
    "LogMessage %{nothing:x}": "there is no %{nothing:x} here",
    "LogMessage %{REQUEST_URI": "a variable's } is missing",
    "LogMessage %{req:}": "there is no %{req:} here",
}


@pytest.mark.parametrize("directive", REFUSED)
def test_what_logmessage_refuses(tmp_path: Path, directive: str) -> None:
    host = Host(text=LOADS + directive, root=str(tmp_path), log=lambda message, level: None)
    with pytest.raises(ConfigurationError) as caught:
        host.configure()
    host.destroy()
    assert REFUSED[directive] in str(caught.value)


MESSAGES = """
LogMessage "main %{REQUEST_METHOD} %{REQUEST_URI} %{QUERY_STRING} %{REQUEST_STATUS} %{req:X-A}."
LogMessage "half % {REQUEST_URI}" hook=fixups
LogMessage "100% of it" hook=fixups
<Directory {site}/listed>
    LogMessage "directory" hook=HANDLER
</Directory>
<Files plain.txt>
    LogMessage "file %{HANDLER} [%{REMOTE_USER}] %{note:x}%{reqenv:x}" hook=fixups
</Files>
<Location /listed>
    LogMessage "location %{IS_SUBREQ}" hook=type_checker
    LogMessage "status %{REQUEST_STATUS}"
</Location>
"""


def test_what_logmessage_writes(configuration: tuple[Path, str], tmp_path: Path) -> None:
    """The same on both servers, from every context; at the level info without the hook's name."""
    folder, _ = configuration
    text = MESSAGES.replace("{site}", f"{folder}/site")
    text = f"{LOADS}DocumentRoot {folder}/site\nLogLevel info\n{text}"
    (tmp_path / "host").mkdir()
    for server in (hosting(tmp_path / "host", text), apache(tmp_path / "apache", text)):
        with server as running:
            running.get("/plain.txt?q=1", X_A="b")
            until(lambda r=running: "main GET /plain.txt q=1 200 b." in r.log)
            running.get("/listed/index.html")
            until(lambda r=running: "main GET /listed/index.html  200 ." in r.log)
            said = re.findall(
                r"\] ((?:main|half|100%|directory|file|location|status).*)", running.log
            )
        assert said == [
            "half % {REQUEST_URI}",
            "100% of it",
            "file  [] ",
            "main GET /plain.txt q=1 200 b.",
            "location false",
            "half % {REQUEST_URI}",
            "100% of it",
            "directory",
            "main GET /listed/index.html  200 .",
            "status 200",
        ]


def test_a_message_is_one_line(tmp_path: Path) -> None:
    text = f'{LOADS}DocumentRoot {tmp_path}\nLogLevel info\nLogMessage "at %{{REQUEST_URI}}"\n'
    with hosting(tmp_path, text) as server:
        server.get("/a%0aERROR:%20forged%7f")
        until(lambda: "at /a" in server.log)
        assert "at /a\\x0aERROR: forged\\x7f\n" in server.log


# -- making it ------------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> None:
    """Write the tables into the page; with an argument only show the host's lines that differ."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = make_site(folder)
        (folder / "host").mkdir()
        with hosting(folder / "host", text) as server:
            ours = rows(traces(server))
        if arguments:
            said = documented("apache")
            print("\n".join(line for what, line in ours.items() if line != said.get(what)))
            return
        with apache(folder / "apache", text) as server:
            theirs = rows(traces(server))
    _write(
        "apache", ["| request | | status | hooks |", "| --- | --- | --- | --- |"], theirs.values()
    )
    differing = [f"{ours[what]} {why} |" for what, why in DIFFERENCES.items()]
    head = ["| request | | status | hooks | why |", "| --- | --- | --- | --- | --- |"]
    _write("host", head, differing)


def _write(table: str, head: list[str], lines: Iterable[str]) -> None:
    mark = f"<!-- {table} -->\n"
    before, _, rest = PAGE.read_text().partition(mark)
    after = rest.partition("<!-- end -->\n")[2]
    body = "".join(f"{line}\n" for line in (*head, *lines))
    PAGE.write_text(f"{before}{mark}{body}<!-- end -->\n{after}")


if __name__ == "__main__":
    main(sys.argv[1:])
