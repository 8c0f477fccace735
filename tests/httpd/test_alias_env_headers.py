"""mod_alias, mod_env, mod_setenvif and mod_headers, each behaviour on the host and on Apache."""

from __future__ import annotations

import http.client
import os
from pathlib import Path

import pytest
from httpd.hosting import hosting
from httpd.real_apache import accepted, apache, loads

from sapi_adapters.httpd.host import Host
from sapi_adapters.httpd.modules import expansion, mod_headers
from sapi_adapters.httpd.modules.octets import octets, printable
from sapi_adapters.sapi import ConfigurationError

MODULES = "authz_core alias env setenvif headers".split()


def request(
    address: tuple[str, int], path: str, headers: dict[str, str] | None = None
) -> tuple[int, list[tuple[str, str]], str]:
    """What a server answers."""
    connection = http.client.HTTPConnection(*address, timeout=20)
    try:
        connection.putrequest("GET", path, skip_host=True)
        for name, value in {"Host": "site.example", **(headers or {})}.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.getheaders(), answer.read().decode("latin-1")
    finally:
        connection.close()


# -- Alias and Redirect ---------------------------------------------------------------------------

SITE = """
DocumentRoot F/www
Alias /one F/files/a
Alias /slash/ F/files/a/
Alias /file.txt F/files/b/other.txt
Alias /one/never F/files/b
Alias "/with space" "F/files/a"
AliasMatch "^/match/([a-z]+)/(.*)[.]htm$" "F/files/$1/$2.txt"
AliasMatch "^/nogroup" "F/files/a/x.txt"
Alias /gone F/files/a
Redirect /old http://other.example/new
Redirect permanent /perm /moved
RedirectTemp /temp http://other.example/
RedirectPermanent /forever http://other.example/x?own=query
Redirect seeother /see http://other.example/
Redirect 307 /keep http://other.example/
Redirect gone /gone
Redirect 404 /hidden
Redirect 503 /away
RedirectMatch "^/re/([^/]*)/([0-9]+)$" "http://other.example/$2/$1"
RedirectMatch 301 "^/relative/(.*)" "/one/$1"
RedirectMatch gone "[.]bak$"
"""
SECTIONS = """
DocumentRoot F/www
<Location /all>
Alias F/files/b/other.txt
</Location>
<Location /kept>
Alias F/files/a
AliasPreservePath On
</Location>
<LocationMatch "^/some[0-9]">
Alias F/files/a/x.txt
</LocationMatch>
<Location /to>
Redirect permanent http://other.example/place
</Location>
<Location /none>
Redirect 410
</Location>
<Directory F/www/dir>
Redirect /dir/away http://other.example/dir
RedirectMatch 303 "/dir/(m.)$" "http://other.example/?$1"
</Directory>
"""
# The request, what is answered, and where it leads or what the file has.
LEADS: list[tuple[str, int, str]] = [
    ("/one/x.txt", 200, "ax"),
    ("/one/missing", 404, ""),
    ("/slash/x.txt", 200, "ax"),
    ("/slash", 404, ""),
    ("/one/never/other.txt", 404, ""),
    ("/file.txt", 200, "other"),
    ("/file.txt/more", 404, ""),
    ("/with%20space/x.txt", 200, "ax"),
    ("/match/b/other.htm", 200, "other"),
    ("/match/b/other.html", 404, ""),
    ("/nogroup/at/all", 200, "ax"),
    ("/old", 302, "http://other.example/new"),
    ("/old/", 302, "http://other.example/new/"),
    ("/old/p%20q?x=%20y", 302, "http://other.example/new/p%20q?x=%20y"),
    ("/older", 404, ""),
    ("/perm/a", 301, "http://site.example/moved/a"),
    ("/temp", 302, "http://other.example/"),
    ("/forever", 301, "http://other.example/x?own=query"),
    ("/forever?a=b", 301, "http://other.example/x?own=query"),
    ("/see", 303, "http://other.example/"),
    ("/keep", 307, "http://other.example/"),
    ("/gone/x.txt", 410, ""),
    ("/hidden/x", 404, ""),
    ("/away", 503, ""),
    ("/re/name/12", 302, "http://other.example/12/name"),
    ("/relative/x.txt?q", 301, "http://site.example/one/x.txt?q"),
    ("/one/x.bak", 410, ""),
]
LEADS_IN_SECTIONS: list[tuple[str, int, str]] = [
    ("/all", 200, "other"),
    ("/kept/x.txt", 200, "ax"),
    ("/some1", 200, "ax"),
    ("/some", 404, ""),
    ("/to", 301, "http://other.example/place"),
    ("/to/more", 301, "http://other.example/place"),
    ("/none/x", 410, ""),
    ("/dir/away/x", 302, "http://other.example/dir/x"),
    ("/dir/m1", 303, "http://other.example/?m1"),
    ("/dir/f.txt", 200, "in dir"),
]


def site(folder: Path, text: str) -> str:
    """*text* with the files that it is about."""
    for name, content in {
        "files/a/x.txt": "ax",
        "files/b/other.txt": "other",
        "www/dir/f.txt": "in dir",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return text.replace("F/", f"{folder}/")


def leads(address: tuple[str, int], path: str) -> tuple[str, int, str]:
    """What a row of the tables has."""
    status, headers, body = request(address, path)
    where = dict(headers).get("Location", "")
    return path, status, where or (body if status == 200 else "")


@pytest.mark.parametrize("mpm", ["prefork", "event"])
@pytest.mark.parametrize(("text", "table"), [(SITE, LEADS), (SECTIONS, LEADS_IN_SECTIONS)])
def test_where_requests_lead(
    tmp_path: Path, mpm: str, text: str, table: list[tuple[str, int, str]]
) -> None:
    with hosting(tmp_path, loads(MODULES) + site(tmp_path, text), mpm) as host:
        assert [leads(host.address, path) for path, _, _ in table] == table


@pytest.mark.parametrize(("text", "table"), [(SITE, LEADS), (SECTIONS, LEADS_IN_SECTIONS)])
def test_they_lead_there_on_apache(
    tmp_path: Path, text: str, table: list[tuple[str, int, str]]
) -> None:
    with apache(tmp_path, MODULES, site(tmp_path, text)) as address:
        assert [leads(address, path) for path, _, _ in table] == table


# -- variables and headers ------------------------------------------------------------------------

# What is in <Location /NUMBER>, what is sent, and which fields of SHOWN come back. Variables are
# shown by %{NAME}e, the request's fields by echo.
SHOWN = ("content-type", "vary", "cache-control")
HEADERS: list[tuple[str, dict[str, str], str]] = [
    ("Header set X-A one", {}, ""),
    ("Header set X-A: 'o n e'\nHeader set x-a two", {}, ""),
    ("Header add X-A 1\nHeader add X-A 2", {}, ""),
    ("Header set X-A 1\nHeader append X-A 2", {}, ""),
    ("Header append X-A 1", {}, ""),
    ("Header set X-A 'a, b'\nHeader merge X-A b\nHeader merge X-A c\nHeader merge X-A B", {}, ""),
    ("Header set X-A '\"a, b\", c'\nHeader merge X-A b\nHeader merge X-A c", {}, ""),
    ("Header merge X-A b", {}, ""),
    ("Header set X-A 1\nHeader unset x-a\nHeader set X-B 2", {}, ""),
    ("Header add X-A 1\nHeader add X-A 2\nHeader setifempty X-A 3\nHeader setifempty X-B 4", {}, ""),
    ("Header set X-A 'abab'\nHeader edit X-A b c", {}, ""),
    ("Header set X-A 'abab'\nHeader edit* X-A b c", {}, ""),
    ("Header set X-A 'k=v'\nHeader edit X-A '(.)=(.)' '$2=$1;$0;$3'", {}, ""),
    ("Header add X-A b1\nHeader add X-A b2\nHeader edit X-A b c", {}, ""),
    ("Header edit X-A b c", {}, ""),
    ("Header set X-A 100%%\nHeader set X-B 100%", {}, ""),
    ("Header set X-A %{NOT_THERE}e", {}, ""),
    ("Header set Content-Type text/plain", {}, ""),
    ("Header always set Content-Type text/plain", {}, ""),
    ("Header unset Content-Type", {}, ""),
    ("Header edit Content-Type html x-$0", {}, ""),
    ("Header setifempty Content-Type text/plain", {}, ""),
    ("Header echo ^X-Sent", {"X-Sent-One": "1", "x-sent-two": "2", "Other": "3"}, ""),
    ("Header set X-A 1\nHeader note X-A N\nHeader set X-B 2", {}, ""),
    # the two tables, and errors
    ("Header always set X-A 1\nHeader set X-A 2", {}, ""),
    ("Header always set X-A 1\nHeader unset X-A", {}, ""),
    ("Header onsuccess set X-A 1\nHeader always set X-B 2\nRedirect 404", {}, ""),
    ("Header set X-A 1\nHeader always set X-B 2\nRedirect 410", {}, ""),
    ("Header set X-A 1\nHeader always set X-B 2\nRequire all denied", {}, ""),
    ("Header set X-A 1\nHeader always set X-B 2\nRedirect http://other.example/", {}, ""),
    ("Header always add X-B 1\nRedirect 404\nErrorDocument 404 /0/page", {}, ""),
    # conditions
    ("SetEnvIf X-Key y have\nHeader set X-A 1 env=have\nHeader set X-B 2 env=!have", {}, ""),
    (
        "SetEnvIf X-Key y have\nHeader set X-A 1 env=have\nHeader set X-B 2 env=!have",
        {"X-Key": "yes"},
        "",
    ),
    ("Header unset X-Never env=have\nHeader set X-A b\nHeader edit X-A b c env=have", {}, ""),
    # RequestHeader
    ("RequestHeader set X-A 1\nHeader echo ^X-A", {"X-A": "0"}, ""),
    ("RequestHeader add X-A 1\nHeader echo ^X-A", {"X-A": "0"}, ""),
    ("RequestHeader append X-A 1\nHeader echo ^X-A", {"X-A": "0"}, ""),
    ("RequestHeader merge X-A 1\nHeader echo ^X-A", {"X-A": "0, 1"}, ""),
    ("RequestHeader unset X-A\nHeader echo ^X-A", {"X-A": "0"}, ""),
    ("RequestHeader edit X-A ^.(.) $1$1\nHeader echo ^X-A", {"X-A": "abc"}, ""),
    ("RequestHeader setifempty X-A 1\nHeader echo ^X-A", {"X-A": "0"}, ""),
    ("RequestHeader setifempty X-A 1\nHeader echo ^X-A", {}, ""),
    ("SetEnvIf X-Key (.*) k=$1\nRequestHeader set X-A '<%{k}e>'\nHeader echo ^X-A", {"X-Key": "v"}, ""),
    # SetEnvIf
    ("SetEnvIf X-Key ^(a)(b)? k=$1-$2-$0-$9\nHeader set X-A '%{k}e'", {"X-Key": "ac"}, ""),
    ("SetEnvIf X-Key a A B=2 !C\nHeader set X-A '%{A}e %{B}e %{C}e'", {"X-Key": "a"}, ""),
    ("SetEnvIf X-Key a A\nSetEnvIf A 1 !A B\nHeader set X-A '%{A}e %{B}e'", {"X-Key": "a"}, ""),
    ("SetEnvIf X-Key ^$ none\nHeader set X-A '%{none}e'", {}, ""),
    ("SetEnvIf X-Key A k\nSetEnvIfNoCase X-Key A n\nHeader set X-A '%{k}e %{n}e'", {"X-Key": "a"}, ""),
    ("SetEnvIf ^X-K.*y$ (.*) k=$1\nHeader set X-A '%{k}e'", {"X-Kay": "a"}, ""),
    ("BrowserMatch Mozilla/([0-9]) m=$1\nHeader set X-A '%{m}e'", {"User-Agent": "Mozilla/5"}, ""),
    ("BrowserMatchNoCase mozilla m\nHeader set X-A '%{m}e'", {"User-Agent": "Mozilla/5"}, ""),
    ("SetEnvIf Remote_Addr (.*) a=$1\nHeader set X-A '%{a}e'", {}, ""),
    ("SetEnvIf Server_Addr (.*) a=$1\nHeader set X-A '%{a}e'", {}, ""),
    ("SetEnvIf Request_URI ^/[0-9]*(.*) a=$1\nHeader set X-A '%{a}e'", {}, ""),
    ("SetEnvIf Request_Method (.*) a=$1\nHeader set X-A '%{a}e'", {}, ""),
    ("SetEnvIf Request_Protocol (.*) a=$1\nHeader set X-A '%{a}e'", {}, ""),
    ("SetEnvIf X-Key a A=1\nHeader set X-A '%{A}e %{global}e'", {"X-Key": "glob"}, ""),
    # SetEnv, PassEnv; the server sets OUTER and BOTH
    ("SetEnv A 1\nSetEnv B\nHeader set X-A '<%{A}e><%{B}e>%{OUTER}e'", {}, ""),
    ("UnsetEnv OUTER\nSetEnv BOTH in\nHeader set X-A '%{OUTER}e %{BOTH}e'", {}, ""),
    ("SetEnv A 1\nUnsetEnv A\nHeader set X-A '%{A}e'", {}, ""),
    ("SetEnvIf X-Key (.*) BOTH=$1\nHeader set X-A '%{BOTH}e'", {"X-Key": "if"}, ""),
    ("Header set X-A '%{PASSED}e'", {}, ""),
]


def headers_site(folder: Path) -> str:
    """All of HEADERS in one configuration."""
    (folder / "page.html").write_text("page")
    lines = [
        f'AliasMatch "^/" "{folder}/page.html"',
        "<Location />\nForceType text/html\n</Location>",
        "SetEnv OUTER out\nSetEnv BOTH out\nPassEnv PASSED\nSetEnvIf X-Key glob global=g",
    ]
    for number, (text, _, _) in enumerate(HEADERS):
        lines.append(f"<Location /{number}>\n{text}\n</Location>")
    return "\n".join(lines)


def shown(address: tuple[str, int], number: int) -> str:
    """The fields that came back for a row of HEADERS, sorted, with the values of one in order."""
    _, headers, _ = request(address, f"/{number}/page", HEADERS[number][1])
    found = [
        (name.lower(), value)
        for name, value in headers
        if name.lower().startswith("x-") or name.lower() in SHOWN
    ]
    pairs = sorted(found, key=lambda pair: pair[0])
    return "; ".join(f"{name}: {value}" for name, value in pairs)
