"""mod_alias, mod_env, mod_setenvif and mod_headers, each behaviour on the host and on Apache."""

from __future__ import annotations

import http.client
import re
import time
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
    (
        "Header set X-A one",
        {},
        "x-a: one",
    ),
    (
        "Header set X-A: 'o n e'\nHeader set x-a two",
        {},
        "x-a: two",
    ),
    (
        "Header add X-A 1\nHeader add X-A 2",
        {},
        "x-a: 1; x-a: 2",
    ),
    (
        "Header set X-A 1\nHeader append X-A 2",
        {},
        "x-a: 1, 2",
    ),
    (
        "Header append X-A 1",
        {},
        "x-a: 1",
    ),
    (
        "Header set X-A 'a, b'\nHeader merge X-A b\nHeader merge X-A c\nHeader merge X-A B",
        {},
        "x-a: a, b, c, B",
    ),
    (
        "Header set X-A '\"a, b\", c'\nHeader merge X-A b\nHeader merge X-A c",
        {},
        'x-a: "a, b", c, b',
    ),
    (
        "Header merge X-A b",
        {},
        "x-a: b",
    ),
    (
        "Header set X-A 1\nHeader unset x-a\nHeader set X-B 2",
        {},
        "x-b: 2",
    ),
    (
        "Header add X-A 1\nHeader add X-A 2\nHeader setifempty X-A 3\nHeader setifempty X-B 4",
        {},
        "x-a: 1; x-a: 2; x-b: 4",
    ),
    (
        "Header set X-A 'abab'\nHeader edit X-A b c",
        {},
        "x-a: acab",
    ),
    (
        "Header set X-A 'abab'\nHeader edit* X-A b c",
        {},
        "x-a: acac",
    ),
    (
        "Header set X-A 'k=v'\nHeader edit X-A '(.)=(.)' '$2=$1;$0;$3'",
        {},
        "x-a: v=k;k=v;",
    ),
    (
        "Header add X-A b1\nHeader add X-A b2\nHeader edit X-A b c",
        {},
        "x-a: c1; x-a: c2",
    ),
    (
        "Header edit X-A b c",
        {},
        "",
    ),
    (
        "Header set X-A 100%%\nHeader set X-B 100%",
        {},
        "x-a: 100%; x-b: 100%",
    ),
    (
        "Header set X-A %{NOT_THERE}e",
        {},
        "x-a: (null)",
    ),
    (
        "Header set Content-Type text/plain",
        {},
        "content-type: text/plain",
    ),
    (
        "Header always set Content-Type text/plain",
        {},
        "content-type: text/plain",
    ),
    (
        "Header unset Content-Type",
        {},
        "",
    ),
    (
        "Header edit Content-Type html x-$0",
        {},
        "content-type: text/x-html",
    ),
    (
        "Header echo ^X-Sent",
        {"X-Sent-One": "1", "X-Sent-Two": "2", "Other": "3"},
        "x-sent-one: 1; x-sent-two: 2",
    ),
    (
        "Header set X-A 1\nHeader note X-A N\nHeader set X-B 2",
        {},
        "x-a: 1; x-b: 2",
    ),
    # the two tables, and errors
    (
        "Header always set X-A 1\nHeader set X-A 1",
        {},
        "x-a: 1; x-a: 1",
    ),
    (
        "Header always set X-A 1\nHeader unset X-A",
        {},
        "x-a: 1",
    ),
    (
        "Header onsuccess set X-A 1\nHeader always set X-B 2\nRedirect 404",
        {},
        "x-b: 2",
    ),
    (
        "Header set X-A 1\nHeader always set X-B 2\nRedirect 410",
        {},
        "x-b: 2",
    ),
    (
        "Header set X-A 1\nHeader always set X-B 2\nRequire all denied",
        {},
        "x-b: 2",
    ),
    (
        "Header set X-A 1\nHeader always set X-B 2\nRedirect http://other.example/",
        {},
        "x-b: 2",
    ),
    (
        "Header always add X-B 1\nRedirect 404\nErrorDocument 404 /0/page",
        {},
        "x-a: one",
    ),
    # conditions
    (
        "SetEnvIf X-Key y have\nHeader set X-A 1 env=have\nHeader set X-B 2 env=!have",
        {},
        "x-b: 2",
    ),
    (
        "SetEnvIf X-Key y have\nHeader set X-A 1 env=have\nHeader set X-B 2 env=!have",
        {"X-Key": "yes"},
        "x-a: 1",
    ),
    (
        "Header unset X-Never env=have\nHeader set X-A b\nHeader edit X-A b c env=have",
        {},
        "x-a: b",
    ),
    # RequestHeader
    (
        "RequestHeader set X-A 1\nHeader echo ^X-A",
        {"X-A": "0"},
        "x-a: 1",
    ),
    (
        "RequestHeader add X-A 1\nHeader echo ^X-A",
        {"X-A": "0"},
        "x-a: 0; x-a: 1",
    ),
    (
        "RequestHeader append X-A 1\nHeader echo ^X-A",
        {"X-A": "0"},
        "x-a: 0, 1",
    ),
    (
        "RequestHeader merge X-A 1\nHeader echo ^X-A",
        {"X-A": "0, 1"},
        "x-a: 0, 1",
    ),
    (
        "RequestHeader unset X-A\nHeader echo ^X-A",
        {"X-A": "0"},
        "",
    ),
    (
        "RequestHeader edit X-A ^.(.) $1$1\nHeader echo ^X-A",
        {"X-A": "abc"},
        "x-a: bbc",
    ),
    (
        "RequestHeader setifempty X-A 1\nHeader echo ^X-A",
        {"X-A": "0"},
        "x-a: 0",
    ),
    (
        "RequestHeader setifempty X-A 1\nHeader echo ^X-A",
        {},
        "x-a: 1",
    ),
    (
        "SetEnvIf X-Key (.*) k=$1\nRequestHeader set X-A '<%{k}e>'\nHeader echo ^X-A",
        {"X-Key": "v"},
        "x-a: <v>",
    ),
    # SetEnvIf
    (
        "SetEnvIf X-Key ^(a)(b)? k=$1-$2-$0-$9\nHeader set X-A '%{k}e'",
        {"X-Key": "ac"},
        "x-a: a--a-",
    ),
    (
        "SetEnvIf X-Key a A B=2 !C\nHeader set X-A '%{A}e %{B}e %{C}e'",
        {"X-Key": "a"},
        "x-a: 1 2 (null)",
    ),
    (
        "SetEnvIf X-Key a A\nSetEnvIf A 1 !A B\nHeader set X-A '%{A}e %{B}e'",
        {"X-Key": "a"},
        "x-a: (null) 1",
    ),
    (
        "SetEnvIf X-Key ^$ none\nHeader set X-A '%{none}e'",
        {},
        "x-a: 1",
    ),
    (
        "SetEnvIf X-Key A k\nSetEnvIfNoCase X-Key A n\nHeader set X-A '%{k}e %{n}e'",
        {"X-Key": "a"},
        "x-a: (null) 1",
    ),
    (
        "SetEnvIf ^X-K.*y$ (.*) k=$1\nHeader set X-A '%{k}e'",
        {"X-Kay": "a"},
        "x-a: a",
    ),
    (
        "BrowserMatch Mozilla/([0-9]) m=$1\nHeader set X-A '%{m}e'",
        {"User-Agent": "Mozilla/5"},
        "x-a: 5",
    ),
    (
        "BrowserMatchNoCase mozilla m\nHeader set X-A '%{m}e'",
        {"User-Agent": "Mozilla/5"},
        "x-a: 1",
    ),
    (
        "SetEnvIf Remote_Addr (.*) a=$1\nHeader set X-A '%{a}e'",
        {},
        "x-a: 127.0.0.1",
    ),
    (
        "SetEnvIf Server_Addr (.*) a=$1\nHeader set X-A '%{a}e'",
        {},
        "x-a: 127.0.0.1",
    ),
    (
        "SetEnvIf Request_URI ^/[0-9]*(.*) a=$1\nHeader set X-A '%{a}e'",
        {},
        "x-a: /page",
    ),
    (
        "SetEnvIf Request_Method (.*) a=$1\nHeader set X-A '%{a}e'",
        {},
        "x-a: GET",
    ),
    (
        "SetEnvIf Request_Protocol (.*) a=$1\nHeader set X-A '%{a}e'",
        {},
        "x-a: HTTP/1.1",
    ),
    (
        "SetEnvIf X-Key a A=1\nHeader set X-A '%{A}e %{global}e'",
        {"X-Key": "glob"},
        "x-a: (null) g",
    ),
    # SetEnv, PassEnv; the server sets OUTER and BOTH
    (
        "SetEnv A 1\nSetEnv B\nHeader set X-A '<%{A}e><%{B}e>%{OUTER}e'",
        {},
        "x-a: <1><>out",
    ),
    (
        "UnsetEnv OUTER\nSetEnv BOTH in\nHeader set X-A '%{OUTER}e %{BOTH}e'",
        {},
        "x-a: (null) in",
    ),
    (
        "SetEnv A 1\nUnsetEnv A\nHeader set X-A '%{A}e'",
        {},
        "x-a: (null)",
    ),
    (
        "SetEnvIf X-Key (.*) BOTH=$1\nHeader set X-A '%{BOTH}e'",
        {"X-Key": "if"},
        "x-a: if",
    ),
    (
        "Header set X-A '%{PASSED}e'",
        {},
        "x-a: on",
    ),
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
    text = "; ".join(f"{name}: {value}" for name, value in pairs)
    text = re.sub("; charset=[a-z0-9-]*", "", text)
    return text.removeprefix("content-type: text/html").removeprefix("; ") or "-"


@pytest.mark.parametrize("mpm", ["prefork", "event"])
def test_headers_and_variables(tmp_path: Path, mpm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSED", "on")
    with hosting(tmp_path, loads(MODULES) + headers_site(tmp_path), mpm) as host:
        for number, (text, _, wanted) in enumerate(HEADERS):
            assert (text, shown(host.address, number)) == (text, wanted or "-")


def test_headers_and_variables_on_apache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSED", "on")
    with apache(tmp_path, MODULES, headers_site(tmp_path)) as address:
        for number, (text, _, wanted) in enumerate(HEADERS):
            assert (text, shown(address, number)) == (text, wanted or "-")


def test_what_is_unlike_apache(tmp_path: Path) -> None:
    text = site(tmp_path, SITE) + (
        "<Location /one>\nForceType text/html\nHeader setifempty Content-Type text/plain\n"
        "Header echo ^X-Sent\n</Location>"
    )
    with hosting(tmp_path, loads(MODULES) + text) as host:
        # what the client sent is escaped in a redirect, in capitals, and the query stays
        assert leads(host.address, "/re/n%3Fm%C3%A4/12?q") == (
            "/re/n%3Fm%C3%A4/12?q",
            302,
            "http://other.example/12/n%3Fm%C3%A4?q",
        )
        # a media type that will be sent is not empty, and names have no case
        _, headers, _ = request(host.address, "/one/x.txt", {"x-sENT": "1"})
        assert ("Content-Type", "text/html") in headers
        assert ("x-sENT", "1") in headers


def test_times_in_headers(tmp_path: Path) -> None:
    text = site(tmp_path, SITE) + "Header set X-T %t\nHeader set X-D '%D %%D'"
    before = time.time()
    with hosting(tmp_path, loads(MODULES) + text) as host:
        fields = dict(request(host.address, "/one/x.txt")[1])
    began = re.fullmatch("t=([0-9]{16})", fields["X-T"])
    assert began is not None
    assert before - 60 < int(began[1]) / 1e6 < time.time() + 60
    assert re.fullmatch("D=[0-9]{1,8} %D", fields["X-D"])


def test_what_a_client_sent_makes_no_further_field(tmp_path: Path) -> None:
    text = site(tmp_path, SITE) + (
        '<Location />\nSetEnvIf Request_URI "^/nogroup(.*)" rest=$1\n</Location>\n'
        'Header always set X-A "%{rest}e"\n'
        'RequestHeader set X-B "%{rest}e"\nHeader echo ^X-B\nHeader set X-C c\n'
        'Header edit X-C c "%{rest}e"\nRedirectMatch "^/nogroup/(to.*)" "/$1"\n'
        'RedirectMatch "^/gone/to(.*)" "http://other.example/$1"'
    )
    with hosting(tmp_path, loads(MODULES) + text) as host:
        status, headers, _ = request(host.address, "/nogroup%0d%0aX-Evil:%201")
        assert status == 200
        assert [each for each in headers if each[0].startswith("X-")] == [("X-C", "c")]
        assert "has control characters" in host.log
        assert leads(host.address, "/nogroup/to%0d%0aX-Evil:%201")[1:] == (
            302,
            "http://site.example/to%0D%0AX-Evil:%201",
        )


def test_text_beyond_ascii_is_sent_as_the_file_has_it(tmp_path: Path) -> None:
    text = site(tmp_path, SITE) + (
        'Alias /käse F/files/a\nHeader set X-A "käse ≤"\nSetEnvIf X-K ö k=ü\nHeader set X-B "%{k}e"'
    ).replace("F/", f"{tmp_path}/")
    with hosting(tmp_path, loads(MODULES) + text) as host:
        sent = {"X-K": "ö".encode().decode("latin-1")}
        status, headers, body = request(host.address, "/k%C3%A4se/x.txt", sent)
    fields = {name: value.encode("latin-1").decode() for name, value in headers}
    assert (status, body, fields["X-A"], fields["X-B"]) == (200, "ax", "käse ≤", "ü")


def test_virtual_hosts_come_first_and_have_what_the_main_server_has(tmp_path: Path) -> None:
    text = site(
        tmp_path,
        "DocumentRoot F/www\nAlias /x F/files/a/x.txt\nAlias /main F/files/a/x.txt\n"
        "Redirect /r http://main.example/\nSetEnvIf X-K (.*) k=main-$1\nSetEnv E main\n"
        'Header set X-K "%{k}e %{own}e %{E}e"\n'
        "<VirtualHost *>\nServerName one.example\n</VirtualHost>\n"
        "<VirtualHost *>\nServerName two.example\nAlias /x F/files/b/other.txt\n"
        "Redirect /r http://two.example/\nSetEnvIf X-K (.*) own=two-$1\nSetEnv E two\n"
        "</VirtualHost>\n",
    )
    with hosting(tmp_path, loads(MODULES) + text) as host:
        for name, body, where, shows in (
            ("one", "ax", "main", "main-v (null) main"),
            ("two", "other", "two", "main-v two-v two"),
        ):
            sent = {"Host": f"{name}.example", "X-K": "v"}
            _, headers, found = request(host.address, "/x", sent)
            assert (name, found, dict(headers)["X-K"]) == (name, body, shows)
            assert request(host.address, "/main", sent)[2] == "ax"
            moved = dict(request(host.address, "/r", sent)[1])
            assert moved["Location"] == f"http://{where}.example/"


def test_local_redirects_name_the_server_that_was_asked(tmp_path: Path) -> None:
    text = site(tmp_path, SITE) + "<Location /one>\nUseCanonicalName On\n</Location>"
    text = text.replace("Redirect /old", "Redirect /one/away /moved\nRedirect /old")
    with hosting(tmp_path, loads(MODULES) + text) as host:
        for authority, path, where in (
            ("a.example:81", "/perm/x", "http://a.example:81/moved/x"),
            ("A.example:80", "/perm/x", "http://a.example/moved/x"),
            ("[::1]:8080", "/perm/x", "http://[::1]:8080/moved/x"),
            ("a.example:81", "/one/away", "http://localhost/moved"),
        ):
            fields = dict(request(host.address, path, {"Host": authority})[1])
            assert (authority, fields["Location"]) == (authority, where)


def test_a_script_alias_chooses_the_handler(tmp_path: Path) -> None:
    (tmp_path / "mod_probe.py").write_text(
        "from sapi_adapters.httpd.hooks import DECLINED, FIRST, OK\n"
        "from sapi_adapters.httpd.module import Module\n"
        "def handler(r):\n"
        "    if r.handler != 'cgi-script':\n        return DECLINED\n"
        "    r.write(f'{r.filename} {r.path_info}'.encode())\n    return OK\n"
        "probe_module = Module('mod_probe', register_hooks=lambda hooks:"
        " hooks.add('handler', handler, order=FIRST))\n"
    )
    text = "LoadModule probe_module mod_probe.py\n" + site(
        tmp_path,
        "ScriptAlias /cgi/ F/files/a/\nScriptAliasMatch ^/run/([a-z]+)$ F/files/a/$1.txt\n"
        "<Location /only>\nScriptAlias F/files/a/x.txt\n</Location>\nAlias /plain F/files/a\n",
    )
    with hosting(tmp_path, loads(MODULES) + text) as host:
        script = f"{tmp_path}/files/a/x.txt"
        assert request(host.address, "/cgi/x.txt/more")[2] == f"{script} /more"
        assert request(host.address, "/run/x")[2] == f"{script} "
        assert request(host.address, "/only")[2] == f"{script} "
        assert request(host.address, "/plain/x.txt")[2] == "ax"


def test_aliases_go_through_symbolic_links_only_where_options_say_so(tmp_path: Path) -> None:
    text = site(
        tmp_path,
        "Alias /link F/link\nAlias /open F/open\n"
        "<Directory F/open/closed>\nRequire all denied\n</Directory>\n"
        "<Directory F/open>\nOptions FollowSymLinks\n</Directory>\n"
        "<Directory F/.>\nOptions FollowSymLinks\n</Directory>\n"
        "<Directory F/link>\nOptions None\n</Directory>\n",
    )
    for name in ("link", "open"):
        (tmp_path / name).symlink_to(tmp_path / "files")
    (tmp_path / "files" / "closed").mkdir()
    (tmp_path / "files" / "closed" / "y.txt").write_text("closed")
    (tmp_path / "files" / "escape").symlink_to(tmp_path / "www")
    with hosting(tmp_path, loads(MODULES) + text + "MergeSlashes Off\n") as host:
        assert leads(host.address, "/open/a/x.txt")[1:] == (200, "ax")
        for path in ("/open/closed/y.txt", "/open//closed/y.txt", "/link/escape/dir/f.txt"):
            assert leads(host.address, path) == (path, 403, "")


# -- what is refused ------------------------------------------------------------------------------

# What is in a Location (or, with a leading "-", outside), what is said, why Apache takes it.
REFUSED: list[tuple[str, str, str]] = [
    ("Alias /x /y", "may not stand in <Location>", ""),
    ("AliasMatch ^/x /y", "not allowed", ""),
    ("-Alias /x", "one argument may only stand in <Location>", ""),
    ("-AliasMatch ( /y", "no regular expression", ""),
    ("-Redirect http://y/", "URL to redirect to is missing", ""),
    ("-Redirect", "URL to redirect to is missing", ""),
    ("Redirect gone /x http://y/", "takes a path and no URL", ""),
    ("Redirect /x y", "non-URL", ""),
    ("Redirect foo /x /y", "one argument too many", ""),
    ("RedirectMatch ( http://y/", "no regular expression", ""),
    ("RedirectMatch ^/x", "URL to redirect to is missing", ""),
    ("Redirect 200 /x", "must be from 300 to 599", "it makes no sense of it"),
    ("Header set X", "lacks an argument", ""),
    ("Header", "must be one of", ""),
    ("Header unset X y", "should be env=", ""),
    ("Header echo ( ", "no regular expression", ""),
    ("Header edit X y", "lacks an argument", ""),
    ("Header edit X ( y", "no regular expression", ""),
    ("Header foo X y", "must be one of", ""),
    ("Header set X y z", "should be env=", ""),
    ("Header set X y env=!", "should be env=", ""),
    ("Header set X y env=a b", "too many arguments", ""),
    ("Header set X %q", "Unrecognized header format %q", ""),
    ("Header set X '%{a}'", "Unrecognized header format", ""),
    ("Header set X y early", "should be env=", "it is left out here"),
    ("Header set 'a b' y", "no name of a header field", "it fails at each request"),
    ("RequestHeader echo X", "must be one of", ""),
    ("RequestHeader note X y", "must be one of", ""),
    ("SetEnvIf X y", "at least one variable", ""),
    ("SetEnvIf X ( y", "no regular expression", ""),
    ("BrowserMatch x", "at least one variable", ""),
    ("SetEnvIf X y =b", "names no variable", "it has no name"),
    ("SetEnv", "takes 1-2 arguments", ""),
]


def _placed(text: str) -> str:
    return text[1:] if text[0] == "-" else f"<Location />\n{text}\n</Location>"


def host_of(folder: Path, text: str) -> Host:
    """A host with that configuration, which serves nobody."""
    host = Host(text=f"ServerRoot {folder}\n{loads(MODULES)}{text}", log=lambda text, level: None)
    host.configure()
    return host


@pytest.mark.parametrize(("text", "said", "reason"), REFUSED)
def test_what_means_nothing_is_refused(tmp_path: Path, text: str, said: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        host_of(tmp_path, _placed(text))
    assert said in str(caught.value)


def test_apache_refuses_the_same(tmp_path: Path) -> None:
    taken = {text for text, _, _ in REFUSED if accepted(tmp_path, MODULES, _placed(text))}
    assert taken == {text for text, _, reason in REFUSED if reason}


def test_variables_that_are_not_there_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_THERE", raising=False)
    host = host_of(tmp_path, "PassEnv NOT_THERE\nSetEnv A=b")
    assert host.warnings == [
        "PassEnv variable NOT_THERE was undefined",
        "SetEnv A=b is ignored: the value is an argument of its own",
    ]


# -- text -----------------------------------------------------------------------------------------


def test_expansion() -> None:
    match = expansion.pattern("(a)(b)?").search("xay")
    assert match is not None
    assert expansion.expand(r"$0-$1-$2-$3-\$1-\\-$x$", match) == "a-a---$1-\\-$x$"
    assert expansion.expand("$1$1", match, str.upper) == "AA"


@pytest.mark.parametrize(
    ("source", "text", "matches"),
    [
        ("^/a.b$", "/a\nb", True),
        ("b$", "/ab", True),
        ("b$", "/ab\n", False),
        (r"b\$", "b$", True),
        ("[$]", "$", True),
        ("[^$]$", "$", False),
        ("[]$]$", "$", True),
        (r"[\]$]x$", "$x", True),
        (r"\[$", "[", True),
        (r"\\$", "\\", True),
        ("(a|$)b?$", "c", True),
    ],
)
def test_newlines_slip_through_no_expression(source: str, text: str, matches: bool) -> None:
    assert (expansion.pattern(source).search(text) is not None) == matches


def test_lists_in_fields_know_quotes() -> None:
    listed = mod_headers._listed
    assert listed('a, "b, c" ,d;q="\\","') == ["a", '"b, c"', 'd;q="\\","']
    assert listed('a, "open, c') == ["a", '"open', "c"]
    assert listed("") == []


def test_octets_and_printable() -> None:
    assert octets("ü") == "\xc3\xbc"
    assert octets(b"\xfc".decode("utf-8", "surrogateescape")) == "\xfc"
    assert printable("a\tb \xe4") and not printable("a\nb") and not printable("\x7f")
    assert not printable("≤")
