"""Who may come in: Require and its containers, Basic authentication, password and group files."""

from __future__ import annotations

import base64
import http.client
import ipaddress
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from httpd.hosting import hosting
from httpd.real_apache import accepted, apache, loads

from sapi_adapters.httpd.host import Host
from sapi_adapters.httpd.modules import (
    changing_files,
    mod_auth_basic,
    mod_authn_core,
    mod_authn_file,
    mod_authz_core,
    mod_authz_groupfile,
    mod_authz_host,
)
from sapi_adapters.sapi import ConfigurationError

pytest.importorskip("passlib", reason="the extra sapi_adapters[auth]")
pytest.importorskip("bcrypt", reason="the extra sapi_adapters[auth]")

MODULES = (
    "authn_core authz_core authn_file authz_user authz_groupfile authz_host auth_basic"
    " alias setenvif".split()
)

# What htpasswd -nb wrote: for alice -m, for bob -s, for carol -B, for dave -5, for erin -2.
PASSWORDS = """\
alice:$apr1$IytMJ90j$59ZgQHNWHZKF.Gry6h9Ag1
bob:{SHA}oPFJCiDQIRyZe0S8NX4Zct6riuM=
carol:$2y$05$HiRp1d2LKRCeekoyX05pLegLRW9cUsnG5r0i0RGwdCe3olzIZBaZK
dave:$6$qCDNR4Md7u8ZhMLv$HA7s6tGfqCRAVGcFVp7x98EeCuoqQ3.qPVFrQkzCLaq8sDuji4NNtvYqYYN0bQBlsal1b4/ZW5oMpuWuGRkQm1
erin:$5$z3ZpqVEBzx5DD24G$E0tAmkgK4A6G1ekF56pWFV6kGlrsSC.HXKqw5mQL3Z5
plain:s
crypted:aWQt3Kxr4ZLmc
"""
GROUPS = "# who is what\nstaff: alice bob\nchiefs:alice\nstaff: carol\n"


def basic(user: str, password: str = "s") -> dict[str, str]:
    """The field of a browser that knows the password."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


# -- a table of configurations --------------------------------------------------------------------

PROBES: list[tuple[str, dict[str, str]]] = [
    ("GET", {}),
    ("PUT", {}),
    ("GET", {"X-Key": "yes"}),
    ("GET", basic("alice")),
    ("GET", basic("alice", "wrong")),
    ("GET", basic("bob")),
    ("GET", basic("nobody")),
    ("HEAD", {**basic("carol"), "X-Key": "yes"}),
]
# What is granted to PUT is then refused by the file: 405.

# name, what is in <Location /NAME>, what is in <Location /NAME/inner>, the statuses of PROBES
TABLE: list[tuple[str, str, str, str]] = [
    ("nothing", "", "", "200 405 200 200 200 200 200 200"),
    ("type-alone", "AUTH", "", "500 500 500 500 500 500 500 500"),
    ("granted", "Require all granted", "", "200 405 200 200 200 200 200 200"),
    ("denied", "Require all denied", "", "403 403 403 403 403 403 403 403"),
    ("denied-with-type", "AUTH\nRequire all denied", "", "403 403 403 403 403 403 403 403"),
    ("valid", "AUTH\nRequire valid-user", "", "401 401 401 200 401 200 401 200"),
    ("user", "AUTH\nRequire user alice carol", "", "401 401 401 200 401 401 401 200"),
    ("group", "AUTH\nRequire group chiefs", "", "401 401 401 200 401 401 401 401"),
    ("groups", "AUTH\nRequire group x staff", "", "401 401 401 200 401 200 401 200"),
    (
        "two-lines",
        "AUTH\nRequire user bob\nRequire group chiefs",
        "",
        "401 401 401 200 401 200 401 401",
    ),
    ("type-missing", "Require valid-user", "", "500 500 500 500 500 500 500 500"),
    (
        "name-missing",
        "AuthType Basic\nAuthUserFile F/passwords\nRequire valid-user",
        "",
        "500 500 500 500 500 500 500 500",
    ),
    ("type-none", "AUTH\nAuthType None\nRequire valid-user", "", "500 500 500 500 500 500 500 500"),
    (
        "no-file",
        "AuthType Basic\nAuthName x\nRequire valid-user",
        "",
        "401 401 401 500 500 500 500 500",
    ),
    (
        "file-missing",
        "AUTH\nAuthUserFile F/missing\nRequire valid-user",
        "",
        "401 401 401 500 500 500 500 500",
    ),
    (
        "groups-missing",
        "AUTH\nAuthGroupFile F/missing\nRequire group staff",
        "",
        "401 401 401 401 401 401 401 401",
    ),
    ("env", "Require env key", "", "403 403 200 403 403 403 403 200"),
    ("env-any", "Require env other key", "", "403 403 200 403 403 403 403 200"),
    ("method", "Require method GET", "", "200 403 200 200 200 200 200 200"),
    ("method-put", "Require method PUT OPTIONS", "", "403 405 403 403 403 403 403 403"),
    ("method-head", "Require method HEAD", "", "200 403 200 200 200 200 200 200"),
    ("ip", "Require ip 127.0.0.1", "", "200 405 200 200 200 200 200 200"),
    ("ip-other", "Require ip 10.0.0.0/8 192.168", "", "403 403 403 403 403 403 403 403"),
    ("ip-partial", "Require ip 10 127.0", "", "200 405 200 200 200 200 200 200"),
    ("ip-cidr", "Require ip 127.1.2.3/8", "", "200 405 200 200 200 200 200 200"),
    ("ip-mask", "Require ip 127.0.0.0/255.255.255.0", "", "200 405 200 200 200 200 200 200"),
    ("ip-six", "Require ip ::1 2001:db8::/32", "", "403 403 403 403 403 403 403 403"),
    ("local", "Require local", "", "200 405 200 200 200 200 200 200"),
    (
        "ip-or-user",
        "AUTH\nRequire ip 127.0.0.1\nRequire valid-user",
        "",
        "200 405 200 200 200 200 200 200",
    ),
    (
        "other-ip-or-user",
        "AUTH\nRequire ip 10\nRequire user alice",
        "",
        "401 401 401 200 401 401 401 401",
    ),
    (
        "all-of",
        "AUTH\n<RequireAll>\nRequire ip 127\nRequire user alice\n</RequireAll>",
        "",
        "401 401 401 200 401 401 401 401",
    ),
    (
        "all-denied",
        "AUTH\n<RequireAll>\nRequire ip 10\nRequire user alice\n</RequireAll>",
        "",
        "403 403 403 403 403 403 403 403",
    ),
    (
        "all-user-first",
        "AUTH\n<RequireAll>\nRequire user alice\nRequire ip 10\n</RequireAll>",
        "",
        "403 403 403 403 403 403 403 403",
    ),
    (
        "all-env-user",
        "AUTH\n<RequireAll>\nRequire env key\nRequire valid-user\n</RequireAll>",
        "",
        "403 403 401 403 403 403 403 200",
    ),
    (
        "all-not",
        "<RequireAll>\nRequire all granted\nRequire not env key\n</RequireAll>",
        "",
        "200 405 403 200 200 200 200 403",
    ),
    (
        "all-not-user",
        "AUTH\n<RequireAll>\nRequire valid-user\nRequire not user bob\n</RequireAll>",
        "",
        "401 401 401 200 401 401 401 200",
    ),
    (
        "not-user-alone-with-granted",
        "AUTH\n<RequireAll>\nRequire all granted\nRequire not user bob\n</RequireAll>",
        "",
        "200 405 200 200 200 200 200 200",
    ),
    (
        "none",
        "AUTH\n<RequireAll>\nRequire valid-user\n<RequireNone>\nRequire env key\n"
        "Require user bob\n</RequireNone>\n</RequireAll>",
        "",
        "401 401 403 200 401 401 401 403",
    ),
    (
        "nested",
        "AUTH\n<RequireAll>\n<RequireAny>\nRequire env key\nRequire group chiefs\n"
        "</RequireAny>\nRequire method GET\n</RequireAll>",
        "",
        "401 403 200 200 401 401 401 200",
    ),
    (
        "manual",
        "AUTH\n<RequireAny>\n<RequireAll>\nRequire user bob\n<RequireAny>\n"
        "Require env key\nRequire group staff\n</RequireAny>\n<RequireNone>\n"
        "Require group chiefs\n</RequireNone>\n</RequireAll>\nRequire method PUT\n"
        "</RequireAny>",
        "",
        "401 405 401 401 401 200 401 401",
    ),
    (
        "inner-replaces",
        "Require all denied",
        "Require all granted",
        "200 405 200 200 200 200 200 200",
    ),
    ("inner-inherits", "Require all denied", "AuthName x", "403 403 403 403 403 403 403 403"),
    (
        "inner-and",
        "AUTH\nRequire valid-user",
        "AuthMerging And\nRequire env key",
        "403 403 401 403 403 403 403 200",
    ),
    (
        "inner-or",
        "AUTH\nRequire user alice",
        "AuthMerging Or\nRequire env key",
        "401 401 200 200 401 401 401 200",
    ),
    (
        "inner-off",
        "Require all denied",
        "AuthMerging Off\nRequire env key",
        "403 403 200 403 403 403 403 200",
    ),
    ("inner-off-alone", "Require all denied", "AuthMerging Off", "200 405 200 200 200 200 200 200"),
    ("inner-and-alone", "Require all denied", "AuthMerging And", "403 403 403 403 403 403 403 403"),
    (
        "inner-and-two",
        "AUTH\nRequire valid-user",
        "AuthMerging And\nRequire env key\nRequire user bob",
        "401 401 401 401 401 200 401 200",
    ),
    (
        "forbidden",
        "AUTH\nAuthzSendForbiddenOnFailure On\nRequire user alice",
        "",
        "401 401 401 200 401 403 401 403",
    ),
    (
        "inner-forbidden",
        "AUTH\nRequire user alice",
        "AuthzSendForbiddenOnFailure On",
        "401 401 401 200 401 403 401 403",
    ),
    (
        "not-authoritative",
        "AUTH\nAuthBasicAuthoritative Off\nRequire valid-user",
        "",
        "401 401 401 200 401 200 500 200",
    ),
    (
        "provider",
        "AUTH\nAuthBasicProvider file\nRequire valid-user",
        "",
        "401 401 401 200 401 200 401 200",
    ),
]


def configuration(folder: Path) -> str:
    """All of TABLE in one configuration, for files in *folder*."""
    (folder / "passwords").write_text(PASSWORDS)
    (folder / "groups").write_text(GROUPS)
    (folder / "page.html").write_text("in\n")
    lines = [f'AliasMatch "^/" "{folder}/page.html"', "SetEnvIf X-Key yes key"]
    for name, outer, inner, _ in TABLE:
        for path, text in ((name, outer), (f"{name}/inner", inner)):
            if text:
                lines.append(f"<Location /{path}>\n{text}\n</Location>")
    auth = "AuthType Basic\nAuthName room\nAuthUserFile F/passwords\nAuthGroupFile F/groups"
    text = "\n".join(lines).replace("AUTH\n", auth + "\n")
    return text.replace("F/", f"{folder}/")


def statuses(address: tuple[str, int], name: str) -> str:
    """What a server answers to PROBES."""
    found = []
    connection = http.client.HTTPConnection(*address, timeout=20)
    for method, headers in PROBES:
        connection.request(method, f"/{name}/inner/x", headers=headers)
        answer = connection.getresponse()
        answer.read()
        found.append(str(answer.status))
        challenge = answer.getheader("WWW-Authenticate")
        assert (challenge is not None) == (answer.status == 401), (name, challenge)
    connection.close()
    return " ".join(found)


@pytest.mark.parametrize("mpm", ["prefork", "event"])
def test_require_decides_as_the_table_has_it(tmp_path: Path, mpm: str) -> None:
    with hosting(tmp_path, loads(MODULES) + configuration(tmp_path), mpm) as host:
        found = {name: statuses(host.address, name) for name, *_ in TABLE}
    assert found == {name: wanted for name, _, _, wanted in TABLE}


def test_apache_decides_the_same(tmp_path: Path) -> None:
    with apache(tmp_path, MODULES, configuration(tmp_path)) as address:
        found = {name: statuses(address, name) for name, *_ in TABLE}
    assert found == {name: wanted for name, _, _, wanted in TABLE}


# What is in a Location, and what is said about it; what is taken by Apache has a reason.
REFUSED: list[tuple[str, str, str]] = [
    ("Require not ip 10.0.0.1", "negative Require directive has no effect", ""),
    ("<RequireAll>\n</RequireAll>", "contains no authorization directives", ""),
    ("<RequireNone>\nRequire all denied\n</RequireNone>", "has no effect in <RequireAny>", ""),
    ("<RequireAll>\nRequire not env x\n</RequireAll>", "only negative authorization", ""),
    ("<RequireAny>\nRequire not env x\n</RequireAny>", "no effect in <RequireAny>", ""),
    ("<RequireNone>\nRequire not env x\n</RequireNone>", "no effect in <RequireNone>", ""),
    ("<RequireAny x>\nRequire all granted\n</RequireAny>", "takes no arguments", ""),
    ("Require nope x", "Unknown Authz provider: nope", ""),
    ("Require All granted", "Unknown Authz provider: All", ""),
    ("Require all", "must be 'granted' or 'denied'", ""),
    ("Require method FOO", "Unknown Method 'FOO'", ""),
    ("Require ip", "needs addresses", ""),
    ("Require ip 300.1.2.3", "'300.1.2.3' appears to be invalid", ""),
    ("Require ip 10.0.0.0/33", "appears to be invalid", ""),
    ("Require ip ::ffff:10.0.0.0/8", "appears to be invalid", ""),
    ("Require ip example.org", "appears to be invalid", ""),
    ("AuthMerging Xor", "Off | And | Or", ""),
    ("AuthBasicProvider nope", "Unknown Authn provider: nope", ""),
    ("Require ip 10.0.0.0/0.255.255.255", "no netmask", "masks with gaps"),
    ("Require user", "needs the names of users", "nobody is meant"),
    ("Require env", "needs the names of variables", "nobody is meant"),
    ("Require local x", "does not take any arguments", "they mean nothing"),
]


def host_of(folder: Path, text: str, modules: list[str] | None = None) -> Host:
    """A host with that configuration, which serves nobody."""
    lines = f"ServerRoot {folder}\nServerName x\n{loads(modules or MODULES)}{text}\n"
    host = Host(text=lines, log=lambda message, level: None)
    host.configure()
    return host


@pytest.mark.parametrize(("text", "said", "reason"), REFUSED)
def test_what_means_nothing_is_refused(tmp_path: Path, text: str, said: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        host_of(tmp_path, f"<Location />\n{text}\n</Location>")
    assert said in str(caught.value)


def test_apache_refuses_the_same(tmp_path: Path) -> None:
    taken = {
        text
        for text, _, _ in REFUSED
        if accepted(tmp_path, MODULES, f"<Location />\n{text}\n</Location>")
    }
    assert taken == {text for text, _, reason in REFUSED if reason}


def test_what_is_not_forbidden_is_not_granted_for_that() -> None:
    r: Any = None
    container = mod_authz_core.Container("<RequireAll>", mod_authz_core.AND)
    lines = {
        said: mod_authz_core.Line(lambda r, said: int(said), said, True)
        for said in (
            mod_authz_core.DENIED,
            mod_authz_core.DENIED_NO_USER,
            mod_authz_core.NEUTRAL,
        )
    }
    for line in lines.values():
        assert line.decide(r) == mod_authz_core.NEUTRAL
        assert container.add(line, "Require") is None
    assert container.decide(r) == mod_authz_core.NEUTRAL
    failing = mod_authz_core.Line(lambda r, said: int(said), mod_authz_core.GENERAL_ERROR, True)
    container.add(failing, "Require")
    assert container.decide(r) == mod_authz_core.GENERAL_ERROR


def test_an_authentication_that_no_module_knows_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "passwords").write_text(PASSWORDS)
    text = login(tmp_path).replace("AuthType Basic", "AuthType Digest")
    with hosting(tmp_path, text) as host:
        answer = host.request("GET", "/", headers=basic("alice"))
        assert (answer.status, answer.getheader("WWW-Authenticate")) == (500, None)
        assert "AuthType Digest configured without corresponding module" in host.log


def test_require_does_not_stand_outside_of_sections(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Require not allowed here"):
        host_of(tmp_path, "Require all granted")


def test_a_provider_is_there_only_with_its_module(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Unknown Authz provider: user"):
        host_of(
            tmp_path,
            "<Location />\nRequire user alice\n</Location>",
            ["authn_core", "authz_core"],
        )


# -- files ----------------------------------------------------------------------------------------

LOGIN = """
<Location />
AuthType Basic
AuthName "a \\"quoted\\" käse"
AuthUserFile {folder}/passwords
AuthGroupFile {folder}/groups
Require {required}
</Location>
AliasMatch "^/" "{folder}/page.html"
"""


def login(folder: Path, required: str = "valid-user") -> str:
    (folder / "page.html").write_text("in\n")
    return loads(MODULES) + LOGIN.format(folder=folder, required=required)


def test_formats_of_htpasswd(tmp_path: Path) -> None:
    program = shutil.which("htpasswd")
    if program is None:
        pytest.skip("htpasswd is missing: apt-get install apache2-utils")
    lines = []
    for name, option in {"a": "-m", "b": "-s", "c": "-B", "d": "-2", "e": "-5"}.items():
        made = subprocess.run(
            [program, "-nb", option, name, f"pass:{name} ü"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        lines.append(made.stdout.strip())
    long = subprocess.run(
        [program, "-nbB", "long", "x" * 80], capture_output=True, text=True, timeout=30, check=True
    )
    (tmp_path / "passwords").write_text("\n".join([*lines, long.stdout.strip(), ""]))
    (tmp_path / "groups").write_text("")
    with hosting(tmp_path, login(tmp_path)) as host:
        for name in "abcde":
            right = host.request("GET", "/", headers=basic(name, f"pass:{name} ü"))
            wrong = host.request("GET", "/", headers=basic(name, f"pass:{name} u"))
            assert (name, right.status, wrong.status) == (name, 200, 401)
        assert host.request("GET", "/", headers=basic("long", "x" * 80)).status == 200
        assert host.request("GET", "/", headers=basic("long", "x" * 60)).status == 401


def test_plain_text_and_old_crypt_are_refused_and_the_log_says_so(tmp_path: Path) -> None:
    (tmp_path / "passwords").write_text(PASSWORDS + "broken:$2y$05$x\nempty:\n")
    (tmp_path / "groups").write_text("")
    with hosting(tmp_path, login(tmp_path)) as host:
        for name in ("plain", "crypted", "broken", "empty"):
            for password in ("s", "", "$2y$05$x"):
                assert host.request("GET", "/", headers=basic(name, password)).status == 401
            assert f"user '{name}': the entry in" in host.log
        for name in ("alice", "bob", "carol", "dave", "erin"):
            assert host.request("GET", "/", headers=basic(name)).status == 200


def test_changed_files_count_at_once(tmp_path: Path) -> None:
    (tmp_path / "passwords").write_text(PASSWORDS)
    (tmp_path / "groups").write_text("staff: alice\n")
    with hosting(tmp_path, login(tmp_path, "group staff")) as host:
        for _ in range(3):
            assert host.request("GET", "/", headers=basic("alice")).status == 200
            assert host.request("GET", "/", headers=basic("bobby")).status == 401
            (tmp_path / "groups").write_text("staff: bobby\n")
            assert host.request("GET", "/", headers=basic("alice")).status == 401
            (tmp_path / "passwords").write_text(PASSWORDS.replace("bob:", "bobby:"))
            assert host.request("GET", "/", headers=basic("bobby")).status == 200
            (tmp_path / "passwords").write_text(PASSWORDS.replace("alice:", "alicf:"))
            (tmp_path / "groups").write_text("staff: alice\n")
            assert host.request("GET", "/", headers=basic("alice")).status == 401
            (tmp_path / "passwords").write_text(PASSWORDS)


def test_a_file_is_parsed_again_only_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    os.utime(path, (1, 1))
    parsed: list[bytes] = []

    def parse(data: bytes) -> bytes:
        parsed.append(data)
        return data

    files = changing_files.ChangingFiles(parse)
    assert [files.get(str(path)) for _ in range(3)] == [b"one"] * 3
    assert parsed == [b"one"]
    path.write_bytes(b"two")
    os.utime(path, (1, 1))  # of the same size and time
    assert files.get(str(path)) == b"two"
    # one that has just been written might be written once more at the same time
    monkeypatch.setattr(changing_files.time, "time", lambda: 1.05)
    os.utime(path, (1, 1))
    assert [files.get(str(path)) for _ in range(3)] == [b"two"] * 3
    assert parsed[2:] == [b"two"] * 3
    path.unlink()
    with pytest.raises(FileNotFoundError):
        files.get(str(path))


def test_groups_of_several_lines_add_up(tmp_path: Path) -> None:
    found = mod_authz_groupfile._members(b"# x: y\na: u v\r\n\n b :w\na:x\n#c: d\n")
    assert found == {"a": {"u", "v", "x"}, "b": {"w"}}


# -- the challenge, the log, the user -------------------------------------------------------------

PROBE = """
from sapi_adapters.httpd.hooks import DECLINED, OK
from sapi_adapters.httpd.module import Module

def handler(r):
    if r.handler != "probe":
        return DECLINED
    r.content_type = "text/plain"
    r.write(f"{r.user} {r.ap_auth_type} {r.prev.user if r.prev else None}".encode("latin-1"))
    return OK

probe_module = Module("mod_probe", register_hooks=lambda hooks: hooks.add("handler", handler))
"""


def test_the_challenge_quotes_the_realm(tmp_path: Path) -> None:
    (tmp_path / "passwords").write_text(PASSWORDS)
    (tmp_path / "groups").write_text("")
    with hosting(tmp_path, login(tmp_path)) as host:
        answer = host.get("/")
        assert answer.status == 401
        realm = answer.getheader("WWW-Authenticate").encode("latin-1").decode()
        assert realm == 'Basic realm="a \\"quoted\\" käse"'


def test_credentials_that_are_none(tmp_path: Path) -> None:
    def field(text: str) -> str:
        return "Basic " + base64.b64encode(text.encode("latin-1")).decode()

    read = mod_auth_basic.credentials
    assert read(field("a:b:c")) == ("a", b"b:c")
    assert read("bAsIc " + field("ü:")[6:] + " ") == ("ü", b"")
    for value in (
        "Basic",
        "Basic !!!!",
        "Basic YTpi YTpi",
        "Basic é",
        "Bearer YTpi",
        field("no colon"),
        field("a\rb:c"),
        field("a\0:c"),
        field("a\x7f:c"),
    ):
        assert read(value) is None, value


def test_failures_are_logged_with_the_user_escaped(tmp_path: Path) -> None:
    (tmp_path / "passwords").write_text(PASSWORDS)
    (tmp_path / "groups").write_text("")
    with hosting(tmp_path, login(tmp_path)) as host:
        for name, password in (("alice", "bad"), ("h\xe4cker\x9b31m", "bad"), ("a\nb", "bad")):
            text = base64.b64encode(f"{name}:{password}".encode("latin-1")).decode()
            assert host.get("/x", Authorization=f"Basic {text}").status == 401
        assert "[client 127.0.0.1:" in host.log
        assert "user 'alice': authentication failure for '/x': Password Mismatch" in host.log
        assert r"user 'h\xe4cker\x9b31m' not found: '/x'" in host.log
        assert "bad" not in host.log.replace("bad\n", "")


def test_error_documents_know_no_user_who_was_refused(tmp_path: Path) -> None:
    (tmp_path / "passwords").write_text(PASSWORDS)
    (tmp_path / "groups").write_text("")
    (tmp_path / "mod_probe.py").write_text(PROBE)
    text = login(tmp_path) + (
        "LoadModule probe_module mod_probe.py\n<Location />\nSetHandler probe\n"
        "ErrorDocument 401 /failed\n</Location>"
    )
    with hosting(tmp_path, text) as host:
        assert host.request("GET", "/", headers=basic("carol")).body == b"carol Basic None"
        refused = host.request("GET", "/", headers=basic("carol", "no"))
        assert (refused.status, refused.body) == (401, b"None Basic None")
        assert refused.getheader("WWW-Authenticate") is not None


def test_htaccess_may_require_where_authconfig_is_allowed(tmp_path: Path) -> None:
    www = tmp_path / "www"
    for name in ("open", "closed"):
        (www / name).mkdir(parents=True)
        (www / name / "f.txt").write_text("in\n")
        (www / name / ".htaccess").write_text(
            f"AuthType Basic\nAuthName x\nAuthUserFile {tmp_path}/passwords\n"
            "<RequireAll>\nRequire valid-user\nRequire not user bob\n</RequireAll>\n"
        )
    (tmp_path / "passwords").write_text(PASSWORDS)
    text = loads(MODULES) + (
        f"DocumentRoot {www}\n<Directory {www}/open>\nAllowOverride AuthConfig\n</Directory>\n"
        f"<Directory {www}/closed>\nAllowOverride FileInfo\n</Directory>\n"
    )
    with hosting(tmp_path, text) as host:
        for name, wanted in ((None, 401), ("alice", 200), ("bob", 401)):
            headers = {} if name is None else basic(name)
            assert host.request("GET", "/open/f.txt", headers=headers).status == wanted
        assert host.get("/closed/f.txt").status == 500
        (www / "open" / ".htaccess").write_text("Require nope\n")
        assert host.get("/open/f.txt").status == 500


# -- how passwords are verified -------------------------------------------------------------------


class Asking:
    """What check_password wants of a request."""

    def __init__(self, path: Path) -> None:
        config = mod_authn_file.Config()
        config.file = str(path)
        self.per_dir_config = {mod_authn_file.authn_file_module: config}
        self.logged: list[str] = []

    def log(self, message: str, level: str = "error") -> None:
        self.logged.append(message)

    def __call__(self, user: str, password: bytes) -> int:
        return mod_authn_file.check_password(self, user, password)  # type: ignore[arg-type]


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bytes]]:
    """The hashes that were computed, with the passwords, from here on."""
    calls: list[tuple[str, bytes]] = []
    original = mod_authn_file.Hash.verify

    def verify(self: Any, password: bytes) -> bool:
        calls.append((self.text, password))
        return original(self, password)

    monkeypatch.setattr(mod_authn_file.Hash, "verify", verify)
    monkeypatch.setattr(mod_authn_file, "_verified", mod_authn_file.Verified())
    return calls


def test_unknown_users_cost_what_known_ones_do(
    tmp_path: Path, verified: list[tuple[str, bytes]]
) -> None:
    path = tmp_path / "passwords"
    path.write_text(PASSWORDS)
    ask = Asking(path)
    assert ask("alice", b"no") == mod_authn_core.AUTH_DENIED
    assert ask("plain", b"s") == mod_authn_core.AUTH_DENIED
    assert len(verified) == 2
    del verified[:]
    names = [f"user{n}" for n in range(40)]
    for name in names * 2:
        assert ask(name, b"s") == mod_authn_core.AUTH_USER_NOT_FOUND  # "s" is everybody's
    assert len(verified) == 80
    first, second = verified[:40], verified[40:]
    assert first == second  # the same hash each time
    assert len({text for text, _ in first}) > 2  # and of all that are there


def test_a_right_password_is_verified_once_and_a_wrong_one_each_time(
    tmp_path: Path, verified: list[tuple[str, bytes]]
) -> None:
    path = tmp_path / "passwords"
    path.write_text(PASSWORDS)
    ask = Asking(path)
    assert [ask("carol", b"s") for _ in range(3)] == [mod_authn_core.AUTH_GRANTED] * 3
    assert len(verified) == 1
    assert [ask("carol", b"S") for _ in range(3)] == [mod_authn_core.AUTH_DENIED] * 3
    assert len(verified) == 4
    # the same password, of another user, or after the hash has changed
    assert ask("bob", b"s") == mod_authn_core.AUTH_GRANTED
    assert len(verified) == 5
    path.write_text(PASSWORDS.replace("carol:$2y$05$H", "carol:$2y$05$I"))
    assert ask("carol", b"s") == mod_authn_core.AUTH_DENIED
    assert len(verified) == 6


def test_what_was_verified_is_forgotten_in_time_and_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr(mod_authn_file.time, "monotonic", lambda: now[0])
    kept = mod_authn_file.Verified(seconds=10, most=3)
    digests = [kept.digest(b"user", str(n).encode()) for n in range(5)]
    for digest in digests:
        kept.add(digest)
    assert [kept.has(digest) for digest in digests] == [False, False, True, True, True]
    now[0] += 11
    assert not any(map(kept.has, digests))
    kept.add(digests[0])
    kept.renew()
    assert not kept.has(digests[0])
    assert kept.digest(b"user", b"0") != digests[0]  # another key


def test_passwords_that_cannot_be(tmp_path: Path, verified: list[tuple[str, bytes]]) -> None:
    path = tmp_path / "passwords"
    path.write_text(PASSWORDS)
    ask = Asking(path)
    for password in (b"s\0", b"\0", b"s" * 1025):
        for user in ("carol", "alice", "nobody"):
            assert ask(user, password) == mod_authn_core.AUTH_DENIED
    assert verified == []
    assert ask("carol", b"s" * 1024) == mod_authn_core.AUTH_DENIED
    assert ask("dave", b"s" * 1024) == mod_authn_core.AUTH_DENIED


@pytest.mark.parametrize("missing", ["passlib.hash", "bcrypt"])
def test_without_the_library_the_configuration_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigurationError, match=r"sapi_adapters\[auth\]"):
        host_of(tmp_path, "<Location />\nAuthUserFile x\n</Location>")
    host_of(tmp_path, "<Location />\nRequire valid-user\n</Location>")


# -- addresses and names --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("10", "10.255.0.1", "11.0.0.1"),
        ("10.", "10.255.0.1", "11.0.0.1"),
        ("10.1", "10.1.255.255", "10.2.0.0"),
        ("10.1.2.", "10.1.2.9", "10.1.3.9"),
        ("10.1.2.3", "10.1.2.3", "10.1.2.4"),
        ("10.1.2.3/8", "10.255.0.1", "11.0.0.1"),
        ("10.0.0.0/255.255.0.0", "10.0.9.9", "10.1.0.0"),
        ("10.0.0.1", "::ffff:10.0.0.1", "::ffff:10.0.0.2"),
        ("::ffff:10.0.0.0/104", "10.255.0.1", "11.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1", "10.0.0.2"),
        ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
        ("fe80::/10", "fe80::1%eth0", "10.0.0.1"),
        ("::/0", "::1", "10.0.0.1"),
        ("0.0.0.0/0", "10.0.0.1", "::1"),
        ("10.0.0.0/8", "10.0.0.1", ""),
    ],
)
def test_networks(text: str, inside: str, outside: str) -> None:
    network = mod_authz_host.network_of(text)
    assert mod_authz_host.address_of(inside) in network
    other = mod_authz_host.address_of(outside)
    assert other is None or other not in network


@pytest.mark.parametrize(
    "text",
    ["", "10.1/16", "10.1.2.3.4", "010.1.2.3", "10.256", "1 0", "10..1", "٣.1.1.1", "10.0.0.0/",
     "10.0.0.0/0.0.0.255", "10.0.0.0/255.0.255.0", "::ffff:0:0/95", "fe80::1%eth0/64x"],
)  # fmt: skip
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ValueError):
        mod_authz_host.network_of(text)


def test_domains_end_at_dots() -> None:
    inside = mod_authz_host.in_domain
    assert inside("example.org", "example.org")
    assert inside("example.org", "www.example.org")
    assert inside(".example.org", "www.example.org")
    assert not inside(".example.org", "example.org")
    assert not inside("example.org", "badexample.org")
    assert not inside("example.org", "example.org.bad.test")


def test_a_name_must_have_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def named(address: str) -> tuple[str, list[str], list[str]]:
        return ("Liar.Example.Org." if address == "192.0.2.1" else "good.example.org", [], [])

    def addresses(name: str, port: None, type: int = 0) -> list[Any]:
        own = ["192.0.2.9", "::ffff:192.0.2.2"] if name == "good.example.org" else ["192.0.2.7"]
        return [(2, 1, 6, "", (each, 0)) for each in own]

    monkeypatch.setattr(mod_authz_host.socket, "gethostbyaddr", named)
    monkeypatch.setattr(mod_authz_host.socket, "getaddrinfo", addresses)
    assert mod_authz_host.verified_name("192.0.2.1") is None
    assert mod_authz_host.verified_name("192.0.2.2") == "good.example.org"


def test_look_ups_are_bounded(monkeypatch: pytest.MonkeyPatch, deadline: None) -> None:
    go, asked = threading.Event(), []

    def slow(address: str) -> str:
        asked.append(address)
        go.wait(30)
        return "late.example.org"

    monkeypatch.setattr(mod_authz_host, "verified_name", slow)
    names = mod_authz_host.Names(patience=0.01)
    addresses = [ipaddress.ip_address(f"192.0.2.{n}") for n in range(8)]
    assert [names.of(each) for each in addresses] == [None] * 8
    assert len(asked) == 4
    go.set()
    for thread in threading.enumerate():
        if thread.name == "look-up":
            thread.join(20)
    names._patience = 20
    assert names.of(addresses[7]) == "late.example.org"
    assert names.of(addresses[7]) == "late.example.org"
    assert len(asked) == 5  # it is remembered, as are those who had none
    assert names.of(addresses[0]) is None
    assert len(asked) == 5


@pytest.mark.parametrize("mpm", ["prefork", "event"])
def test_require_host_asks_the_resolver(tmp_path: Path, mpm: str) -> None:
    if mod_authz_host.verified_name("127.0.0.1") != "localhost":
        pytest.skip("127.0.0.1 is not localhost here")
    (tmp_path / "page.html").write_text("in\n")
    text = loads(MODULES) + (
        f'AliasMatch "^/" "{tmp_path}/page.html"\n'
        "<Location /in>\nRequire host example.org LOCALHOST\n</Location>\n"
        "<Location /out>\nRequire host example.org calhost\n</Location>\n"
    )
    with hosting(tmp_path, text, mpm) as host:
        assert (host.get("/in").status, host.get("/out").status) == (200, 403)


def test_a_unix_socket_is_at_no_address() -> None:
    class Connection:
        client_ip = local_ip = ""

    class Request:
        connection = Connection()

    r: Any = Request()
    assert mod_authz_host._check_local(r, None) == mod_authz_host.DENIED
    everything = (mod_authz_host.network_of("0.0.0.0/0"), mod_authz_host.network_of("::/0"))
    assert mod_authz_host._check_ip(r, everything) == mod_authz_host.DENIED
