"""Who may come in: Require and its containers, Basic authentication, password and group files."""

from __future__ import annotations

import base64
import http.client
import ipaddress
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hosting import hosting
from real_apache import accepted, apache, loads

from sapi_adapters.httpd.host import Host
from sapi_adapters.httpd.modules import (
    changing_files,
    mod_auth_basic,
    mod_authn_core,
    mod_authn_file,
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
        "AUTH\n<RequireAll>\nRequire valid-user\n<RequireNone>\nRequire env key\nRequire user bob\n</RequireNone>\n</RequireAll>",
        "",
        "401 401 403 200 401 401 401 403",
    ),
    (
        "nested",
        "AUTH\n<RequireAll>\n<RequireAny>\nRequire env key\nRequire group chiefs\n</RequireAny>\nRequire method GET\n</RequireAll>",
        "",
        "401 403 200 200 401 401 401 200",
    ),
    (
        "manual",
        "AUTH\n<RequireAny>\n<RequireAll>\nRequire user bob\n<RequireAny>\nRequire env key\nRequire group staff\n</RequireAny>\n<RequireNone>\nRequire group chiefs\n</RequireNone>\n</RequireAll>\nRequire method PUT\n</RequireAny>",
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


def configuration(folder: Path, modules: bool = True) -> str:
    """All of TABLE in one configuration, for files in *folder*."""
    (folder / "passwords").write_text(PASSWORDS)
    (folder / "groups").write_text(GROUPS)
    (folder / "page.html").write_text("in\n")
    lines = [f'AliasMatch "^/" "{folder}/page.html"', "SetEnvIf X-Key yes key"]
    for name, outer, inner, _ in TABLE:
        for path, text in ((name, outer), (f"{name}/inner", inner)):
            if text:
                lines.append(f"<Location /{path}>\n{text}\n</Location>")
    auth = 'AuthType Basic\nAuthName "the inner room"\nAuthUserFile F/passwords\nAuthGroupFile F/groups'
    text = "\n".join(lines).replace("AUTH\n", auth + "\n").replace("AUTH<", auth + "<")
    text = text.replace("F/", f"{folder}/")
    return loads(MODULES) + text if modules else text


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
