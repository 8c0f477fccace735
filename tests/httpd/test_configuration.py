"""The configuration: reading it, its directives and errors, modules, and reloading it.

What is accepted is what Apache accepts: the table CASES is tried with Apache, too, where it is
installed.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from deployments import environment
from fronts import APACHE_MODULES
from httpd.apache_beside import apache, find_apache
from httpd.hosting import Hosted, free_port, hosting
from serving import until

from sapi_adapters.adapters.mod import sapi_module
from sapi_adapters.httpd import module as api
from sapi_adapters.httpd import modules as standard
from sapi_adapters.httpd.core import core_module
from sapi_adapters.httpd.host import Host
from sapi_adapters.httpd.mod_so import so_module
from sapi_adapters.httpd.module import Command, Module, Settings
from sapi_adapters.sapi import ConfigurationError


def configured(root: Path, content: str, *modules: Module, **options: Any) -> Host:
    """Return the host that the file *content* makes, with *modules* built in."""
    file = root / "httpd.conf"
    file.write_text(content)
    host = Host(str(file), root=str(root), log=lambda message, level: None, **options)
    for each in modules:
        host.add_module(each)
    try:
        host.configure()
    except ConfigurationError:
        host.destroy()
        raise
    return host


def refused(root: Path, text: str, *modules: Module) -> str:
    """Return the error of a configuration that is refused; ``FOLDER`` stands for *root*."""
    with pytest.raises(ConfigurationError) as caught:
        configured(root, text, *modules)
    return str(caught.value).replace(str(root), "FOLDER")


# -- what is accepted -----------------------------------------------------------------------------


class Case(NamedTuple):
    """A configuration: the error it makes, ``""`` for none, and why where Apache accepts it."""

    text: str
    error: str = ""
    differs: str = ""


UNKNOWN = "Invalid command 'Nonsense', perhaps misspelled or defined by a module not included"
UNQUOTED = "Apache takes the rest of the line"
CASES = [
    Case("ServerAdmin me@x"),
    Case("sErVeRaDmIn me@x"),
    Case("\tServerAdmin\tme@x\t"),
    Case('ServerAdmin "me at x"'),
    Case("ServerAdmin 'me at x'"),
    Case('ServerAdmin a"b'),
    Case('ServerAdmin "a"b', "line 8 .*: ServerAdmin takes one argument"),
    Case("ServerAdmin me@x # no comment", "line 8 .*: ServerAdmin takes one argument"),
    Case('ServerAdmin "unclosed', 'closing " is missing', UNQUOTED),
    Case("ServerAdmin", "ServerAdmin takes one argument, an address"),
    Case("# Nonsense"),
    Case("   # Nonsense"),
    Case("# a comment \\\nNonsense"),
    Case("ServerAdmin \\\n me@x"),
    Case("Server\\\nAdmin me@x"),
    Case("ServerAdmin \\\n\\\n me@x"),
    Case("ServerAdmin a \\\n# no comment", "line 8 .*: ServerAdmin takes one"),
    Case("Nonsense", f"^Syntax error on line 8 of FOLDER/httpd.conf: {UNKNOWN}"),
    Case("\n\n# two lines above\nNonsense", f"line 11 .*{UNKNOWN}"),
    Case("Nonsense On", UNKNOWN),
    Case("<Nonsense>\n</Nonsense>", "line 8 .*Invalid command '<Nonsense'"),
    # the nesting of sections
    Case("<Directory /x>", "line 8 .*<Directory> was not closed"),
    Case("</Directory>", "line 8 .*unexpected </Directory>"),
    Case("<Directory /x>\n</Location>", "line 9 .*</Location>, expected </Directory>"),
    Case("<directory /x>\n</DIRECTORY>"),
    Case("<Directory /x> \n</Directory> "),
    Case('<Directory "/x y">\n</Directory>'),
    Case("<Directory /x\n</Directory>", "line 8 .*lacks its '>'"),
    Case("<Directory /x> more\n</Directory>", "lacks its '>'", "Apache drops what is behind"),
    Case("<Directory>\n</Directory>", "<Directory> takes one argument"),
    Case("<Directory /x /y>\n</Directory>", "<Directory> takes one argument"),
    Case('<Directory ~ "^/(">\n</Directory>', "Regex could not be compiled"),
    Case('<DirectoryMatch "^/(">\n</DirectoryMatch>', "Regex could not be compiled"),
    Case('<FilesMatch "(">\n</FilesMatch>', "Regex could not be compiled"),
    Case('<LocationMatch "(">\n</LocationMatch>', "Regex could not be compiled"),
    Case("<Directory /x>\n<Files y>\n</Files>\n</Directory>"),
    Case("<Directory /x>\n<FilesMatch y>\n</FilesMatch>\n</Directory>"),
    Case("<Directory /x>\n<Location /y>\n</Location>\n</Directory>", "line 9 .*<Location not"),
    Case("<Directory /x>\n<Directory /y>\n</Directory>\n</Directory>", "line 9 .*<Directory not"),
    Case("<Location /y>\n<Directory /x>\n</Directory>\n</Location>", "not allowed in <Location>"),
    Case("<Location /y>\n<Location /x>\n</Location>\n</Location>", "not allowed in <Location>"),
    Case("<Location /y>\n<Files x>\n</Files>\n</Location>", "<Files> cannot be within <Location>"),
    Case("<Files x>\n<Directory /x>\n</Directory>\n</Files>", "not allowed in <Files> context"),
    Case("<Files x>\n<Location /x>\n</Location>\n</Files>", "not allowed in <Files> context"),
    Case("<VirtualHost *:80>\n<Directory /x>\n</Directory>\n</VirtualHost>"),
    Case("<VirtualHost *:80>\n<Location /x>\n</Location>\n</VirtualHost>"),
    Case("<VirtualHost *:80>\n<VirtualHost *:80>\n</VirtualHost>\n</VirtualHost>", "line 9 .*wit"),
    Case("<Directory /x>\n<VirtualHost *>\n</VirtualHost>\n</Directory>", "line 9 .*not allowed"),
    Case("<VirtualHost>\n</VirtualHost>", "requires additional arguments"),
    # where directives may stand
    Case("<Directory /x>\nServerAdmin me\n</Directory>", "not allowed in <Directory> context"),
    Case("<Directory /x>\nDocumentRoot /\n</Directory>", "not allowed in <Directory> context"),
    Case("<Location /x>\nListen 99\n</Location>", "Listen not allowed in <Location> context"),
    Case("<VirtualHost *>\nListen 99\n</VirtualHost>", "line 9 .*Listen is for the whole server"),
    Case("<VirtualHost *>\nServerAdmin me\n</VirtualHost>"),
    Case("<Directory /x>\nAllowOverride All\n</Directory>"),
    Case("<Directory /x>\nAllowOverride None\n</Directory>"),
    Case("<Directory /x>\nAllowOverride FileInfo Indexes\n</Directory>"),
    Case("<Directory /x>\nAllowOverride Options=Indexes\n</Directory>"),
    Case("<Directory /x>\nAllowOverride Nonsense\n</Directory>", "Illegal override option Nonsen"),
    Case("AllowOverride All", "AllowOverride not allowed here"),
    Case(
        "<Location /x>\nAllowOverride All\n</Location>",
        "AllowOverride not allowed here: only in <Directory>",
        "Apache warns that it is useless",
    ),
    # arguments
    Case("KeepAlive On"),
    Case("KeepAlive oFF"),
    Case("KeepAlive Maybe", "KeepAlive must be On or Off"),
    Case("KeepAlive", "KeepAlive must be On or Off"),
    Case("KeepAlive On Off", "KeepAlive must be On or Off", "Apache drops the rest"),
    Case("KeepAliveTimeout 100ms"),
    Case("KeepAliveTimeout x", "KeepAliveTimeout: 'x' is not a "),
    Case("KeepAliveTimeout 5 6", "KeepAliveTimeout takes one argument"),
    Case("Timeout 30"),
    Case("Timeout -1", "Timeout: '-1' is not a number", "Apache takes it"),
    Case("LimitRequestFields -1", "LimitRequestFields: '-1' is not a number"),
    Case("LimitRequestBody x", "LimitRequestBody: 'x' is not a number"),
    Case("Options"),
    Case("Options None"),
    Case("Options Indexes FollowSymLinks"),
    Case("Options +Indexes -FollowSymLinks"),
    Case("Options Nonsense", "Illegal option Nonsense"),
    Case("Options +Indexes FollowSymLinks", "Either all Options must start with"),
    Case("Options Indexes -FollowSymLinks", "Either all Options must start with"),
    Case("AcceptPathInfo Default"),
    Case("AcceptPathInfo maybe", "must be set to on, off or default"),
    Case("AllowEncodedSlashes NoDecode"),
    Case("AllowEncodedSlashes maybe", "must be set to on, off or nodecode"),
    Case("FileETag INode Size"),
    Case("FileETag Nonsense", "FileETag must be"),
    Case("LogLevel warn core:info"),
    Case("LogLevel nonsense", "LogLevel must be one of"),
    Case("ErrorDocument 404 /x"),
    Case("ErrorDocument 404 http://x/y"),
    Case('ErrorDocument 404 "a text"'),
    Case("ErrorDocument 404 default"),
    Case("ErrorDocument 404 text", "neither a path nor a URL nor quoted", "Apache sends it"),
    Case('ErrorDocument 404 "text', 'closing " is missing', UNQUOTED),
    Case("ErrorDocument 404", "ErrorDocument takes two arguments"),
    Case("ErrorDocument x /x", "Unsupported HTTP response code x"),
    Case("ErrorDocument 999 /x", "Unsupported HTTP response code 999"),
    Case("ErrorDocument 200 /x", "Unsupported HTTP response code 200", "Apache never uses it"),
    Case("ServerName http://x:80"),
    Case("ServerName a b", "ServerName takes one argument"),
    Case("ServerName x/y", "Invalid ServerName 'x/y'", "Apache takes it"),
    Case("Listen 127.0.0.1:{other}"),
    Case("Listen 127.0.0.1:{other} http"),
    Case("Listen", "Listen takes 1-2 arguments"),
    Case("Listen x", "Port must be specified"),
    Case("Listen 99999", "Port must be specified"),
    Case("DocumentRoot FOLDER/inc"),
    Case("DocumentRoot inc"),
    Case("DocumentRoot FOLDER/none", "DocumentRoot 'FOLDER/none' is not a directory"),
    Case("ServerRoot FOLDER/none", "ServerRoot must be a valid directory"),
    Case("SetEnv a"),
    Case("SetEnv", "SetEnv takes 1-2 arguments"),
    Case("SetEnv a b c", "SetEnv takes 1-2 arguments"),
    # Define
    Case("Define x"),
    Case("Define x me@x\nServerAdmin ${x}"),
    Case("Define x y\nDefine z ${x}${x}\nServerAdmin ${z}"),
    Case("Define x y z", "Define takes 1-2 arguments"),
    Case("Define a:b c", "must not have a colon|must not contain ':'"),
    Case("ServerAdmin ${undefined}"),
    Case("Define x Nonsense\n${x}", UNKNOWN),
    Case("Define x ServerAdmin\n${x} me"),
    Case("Define x\nUnDefine x\n<IfDefine x>\nNonsense\n</IfDefine>"),
    Case("UnDefine never"),
    # Include
    Case("Include inc/a.conf"),
    Case("Include FOLDER/inc/a.conf"),
    Case("Include inc/*.conf"),
    Case("Include inc/[ab].conf"),
    Case("Include inc"),
    Case("Include none.conf", "line 8 .*Could not open configuration file FOLDER/none.conf: No su"),
    Case("Include inc/none*.conf", "line 8 .*No matches for the wildcard"),
    Case("Include none/*.conf", "line 8 .*No matches for the wildcard"),
    Case("IncludeOptional inc/a.conf"),
    Case("IncludeOptional none.conf"),
    Case("IncludeOptional inc/none*.conf"),
    Case("IncludeOptional none/*.conf"),
    Case("Include", "Include takes one argument"),
    Case("Include inc/a.conf inc/b.conf", "Include takes one argument"),
    Case("Include self.conf", "FOLDER/self.conf includes itself"),
    Case("Include one.conf", "FOLDER/two.conf: .*includes itself"),
    Case("Include bad.conf", f"^Syntax error on line 2 of FOLDER/bad.conf: {UNKNOWN}"),
    Case("IncludeOptional bad.conf", "line 2 of FOLDER/bad.conf"),
    Case("Include open.conf\n</Directory>", "line 1 of FOLDER/open.conf: <Directory> was not clo"),
    Case("<Directory /x>\nInclude options.inc\n</Directory>"),
    Case("<Directory /x>\nInclude inc/a.conf\n</Directory>", "line 1 of FOLDER/inc/a.conf: Server"),
    # what depends
    Case("<IfModule mod_alias.c>\nNonsense\n</IfModule>", f"line 9 .*{UNKNOWN}"),
    Case("<IfModule alias_module>\nNonsense\n</IfModule>", UNKNOWN),
    Case("<IfModule !mod_alias.c>\nNonsense\n</IfModule>"),
    Case("<IfModule !mod_none.c>\nNonsense\n</IfModule>", UNKNOWN),
    Case("<IfModule mod_none.c>\nNonsense\n<Nonsense>\n</Nonsense>\n</IfModule>"),
    Case("<IfModule core.c>\nNonsense\n</IfModule>", UNKNOWN),
    Case("<IfModule mod_so.c>\nNonsense\n</IfModule>", UNKNOWN),
    Case("<IfModule mod_none.c>\n<IfModule mod_alias.c>\nNonsense\n</IfModule>\n</IfModule>"),
    Case(
        "<IfModule mod_alias.c>\n<IfModule !mod_none.c>\nNonsense\n</IfModule>\n</IfModule>",
        f"line 10 .*{UNKNOWN}",
    ),
    Case("<IfModule mod_none.c>\nInclude none.conf\n</IfModule>"),
    Case("<IfModule mod_none.c>\nDefine q\n</IfModule>\n<IfDefine q>\nNonsense\n</IfDefine>"),
    Case(
        "<IfModule mod_alias.c>\nDefine q\n</IfModule>\n<IfDefine q>\nNonsense\n</IfDefine>", "12"
    ),
    Case("<IfModule>\n</IfModule>", "<IfModule> takes one argument"),
    Case("<IfModule mod_none.c>\n</IfDefine>\n</IfModule>", "</IfDefine>, expected </IfModule>"),
    Case("<IfModule mod_none.c>", "<IfModule> was not closed"),
    Case("<IfModule mod_alias.c>", "<IfModule> was not closed", "Apache takes it, if it holds"),
    Case("<IfDefine q>\nNonsense\n</IfDefine>"),
    Case("<IfDefine !q>\nNonsense\n</IfDefine>", UNKNOWN),
    Case("Define q\n<IfDefine q>\nNonsense\n</IfDefine>", UNKNOWN),
    Case("Define q\n<IfDefine !q>\nNonsense\n</IfDefine>"),
    Case("<IfFile inc/a.conf>\nNonsense\n</IfFile>", UNKNOWN),
    Case("<IfFile FOLDER/inc>\nNonsense\n</IfFile>", UNKNOWN),
    Case("<IfFile !inc/a.conf>\nNonsense\n</IfFile>"),
    Case("<IfFile none>\nNonsense\n</IfFile>"),
    Case("<Directory /x>\n<IfModule mod_alias.c>\nOptions None\n</IfModule>\n</Directory>"),
    Case("<IfModule mod_alias.c>\n<Directory /x>\n</Directory>\n</IfModule>"),
    Case("<IfModule mod_alias.c>\n<Directory /x>\n</IfModule>\n</Directory>", "expected </Directo"),
    # LoadModule
    Case("LoadModule alias_module modules/mod_alias.so"),
    Case("LoadModule setenvif_module modules/mod_setenvif.so\nSetEnvIf a b c"),
    Case("SetEnvIf a b c\nLoadModule setenvif_module modules/mod_setenvif.so"),
    Case("LoadModule so_module modules/mod_alias.so", "module so_module is built-in and can't be"),
    Case("LoadModule x_module modules/mod_none.so", "Cannot load FOLDER/modules/mod_none.so into"),
    Case("LoadModule x_module modules/mod_setenvif.so", "Can't locate API module structure 'x_mod"),
    Case("LoadModule x", "LoadModule takes two arguments"),
]
HEAD = """ServerRoot FOLDER
ServerName localhost
Listen 127.0.0.1:{port}
LoadModule mpm_prefork_module modules/mod_mpm_prefork.so
LoadModule authz_core_module modules/mod_authz_core.so
LoadModule alias_module modules/mod_alias.so
LoadModule env_module modules/mod_env.so
"""
INCLUDED = {
    "inc/a.conf": "ServerAdmin a@x\n",
    "inc/b.conf": "ServerAdmin b@x\n",
    "self.conf": "Include self.conf\n",
    "one.conf": "Include two.conf\n",
    "two.conf": "Include one.conf\n",
    "bad.conf": "\nNonsense\n",
    "open.conf": "<Directory /x>\n",
    "options.inc": "Options None\n",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ServerRoot with files to include."""
    root = tmp_path_factory.mktemp("root")
    for name, text in INCLUDED.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    (root / "logs").mkdir()
    (root / "modules").symlink_to(APACHE_MODULES)
    return root


def whole(root: Path, case: Case) -> str:
    """Return the text of the whole file."""
    text = (HEAD + case.text + "\n").replace("FOLDER", str(root))
    return text.replace("{port}", str(free_port())).replace("{other}", str(free_port()))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.text.replace("\n", "|"))
def test_it_is_accepted_or_refused(root: Path, case: Case) -> None:
    if case.error:
        error = refused(root, whole(root, case))
        assert re.search(case.error, error), error
        assert error.startswith("Syntax error on line "), error
    else:
        configured(root, whole(root, case)).destroy()


def test_apache_accepts_and_refuses_the_same(root: Path) -> None:
    program = find_apache()
    differing = []
    for case in CASES:
        (root / "httpd.conf").write_text(whole(root, case))
        done = subprocess.run(
            [program, "-t", "-f", str(root / "httpd.conf")],
            capture_output=True,
            text=True,
            env=environment(),
            timeout=30,
            check=False,
        )
        accepts = not case.error or bool(case.differs)
        if (done.returncode == 0) != accepts:
            differing.append((case.text, done.stderr))
    assert differing == []


# -- what arguments are ---------------------------------------------------------------------------

QUOTED = {
    "plain": "plain",
    '"two words"': "two words",
    "'two words'": "two words",
    r'"a \"b\" c"': 'a "b" c',
    "'a \"b\" c'": 'a "b" c',
    r"'it\'s'": "it's",
    "a'b": "a'b",
    'a"b"c': 'a"b"c',
    r'"a\\b"': "a\\b",
    r"a\\b": "a\\b",
    r"a\b": "a\\b",
    r'"a\b"': "a\\b",
    "${v}": "value",
    '"${v} x"': "value x",
    "'${v}'": "value",
    r"\${v}": "\\value",
    "${v}${v}": "valuevalue",
    "${w}": "value2",
    "${unknown}": "${unknown}",
    "$v": "$v",
    "${}": "${}",
    "${v": "${v",
    "#x": "#x",
    "a#x": "a#x",
    "a\\\nb": "ab",
    "a \\\n": "a",
    '"x\\\n   y"': "x   y",
    '"a"    ': "a",
    '"a\tb"': "a\tb",
}
"""An argument as it is written -> what it is."""


def headers(site: Path) -> str:
    """Return a configuration in which each argument is a response's field."""
    lines = [f"Header set X-{number} {text}" for number, text in enumerate(QUOTED)]
    loads = [
        f"LoadModule {name}_module modules/mod_{name}.so" for name in ("authz_core", "headers")
    ]
    return "\n".join(
        [*loads, f"DocumentRoot {site}", "Define v value", "Define w ${v}2", *lines, ""]
    )


def make_site(folder: Path) -> Path:
    site = folder / "site"
    site.mkdir()
    (site / "a.txt").write_text("a\n")
    for path in (folder, site):
        path.chmod(0o755)
    return site


def seen(server: Hosted) -> dict[str, str | None]:
    answer = server.get("/a.txt")
    assert answer.status == 200, server.log
    return {text: answer.getheader(f"X-{number}") for number, text in enumerate(QUOTED)}


def test_arguments_are_what_they_are_quoted_to_be(tmp_path: Path) -> None:
    with hosting(tmp_path, headers(make_site(tmp_path))) as server:
        assert seen(server) == QUOTED


def test_arguments_are_so_in_apache(tmp_path: Path) -> None:
    with apache(tmp_path / "apache", headers(make_site(tmp_path))) as server:
        assert seen(server) == QUOTED


def probing(calls: list[Any]) -> Module:
    """Return a module with a directive for each way of taking arguments."""

    def note(cmd: Any, config: Any, *arguments: Any) -> str | None:
        calls.append(arguments)
        return "the module's own error" if "wrong" in arguments else None

    hows = (
        *("RAW_ARGS", "NO_ARGS", "FLAG", "TAKE1", "TAKE2", "TAKE3", "TAKE12", "TAKE23"),
        *("TAKE13", "TAKE123", "ITERATE", "ITERATE2", "TAKE_ARGV"),
    )
    commands = [Command(how, note, how, api.RSRC_CONF, "it's help") for how in hows]
    scopes = {
        "Server": api.RSRC_CONF,
        "Section": api.ACCESS_CONF,
        "Both": api.RSRC_CONF | api.ACCESS_CONF,
        "FileInfo": api.OR_FILEINFO,
        "Indexes": api.OR_INDEXES,
        "OfOptions": api.OR_OPTIONS,
        "Auth": api.OR_AUTHCFG,
        "OfLimit": api.OR_LIMIT,
        "Nowhere": api.OR_NONE,
        "AtOnce": api.RSRC_CONF | api.EXEC_ON_READ,
    }
    commands += [Command(name, note, "TAKE1", where) for name, where in scopes.items()]
    commands.append(Command("<Probe", note, "RAW_ARGS", api.RSRC_CONF))
    return Module("mod_probe", commands=tuple(commands))


ARGUMENTS: list[tuple[str, Any]] = [
    ('RAW_ARGS  a "b c"  d ', [('a "b c"  d',)]),
    ("RAW_ARGS", [("",)]),
    ("NO_ARGS", [()]),
    ("NO_ARGS x", "NO_ARGS takes no arguments"),
    ("FLAG On", [(True,)]),
    ("FLAG off", [(False,)]),
    ("FLAG 1", "FLAG must be On or Off"),
    ('TAKE1 "a b"', [("a b",)]),
    ("TAKE1", "TAKE1 takes one argument, it's help"),
    ("TAKE1 a b", "TAKE1 takes one argument, it's help"),
    ("TAKE2 a b", [("a", "b")]),
    ("TAKE2 a", "TAKE2 takes two arguments"),
    ("TAKE3 a b c", [("a", "b", "c")]),
    ("TAKE3 a b c d", "TAKE3 takes three arguments"),
    ("TAKE12 a", [("a", None)]),
    ("TAKE12 a b", [("a", "b")]),
    ("TAKE12", "TAKE12 takes 1-2 arguments"),
    ("TAKE23 a b", [("a", "b", None)]),
    ("TAKE23 a b c", [("a", "b", "c")]),
    ("TAKE23 a", "TAKE23 takes two or three arguments"),
    ("TAKE13 a", [("a", None, None)]),
    ("TAKE13 a b", "TAKE13 takes one or three arguments"),
    ("TAKE13 a b c", [("a", "b", "c")]),
    ("TAKE123 a", [("a", None, None)]),
    ("TAKE123 a b", [("a", "b", None)]),
    ("TAKE123 a b c", [("a", "b", "c")]),
    ("TAKE123 a b c d", "TAKE123 takes one, two or three arguments"),
    ("ITERATE a b c", [("a",), ("b",), ("c",)]),
    ("ITERATE", "ITERATE requires at least one argument"),
    ("ITERATE2 a b c", [("a", "b"), ("a", "c")]),
    ("ITERATE2 a", "ITERATE2 requires at least two arguments"),
    ("TAKE_ARGV a b", [(["a", "b"],)]),
    ("TAKE_ARGV", [([],)]),
    ("TAKE1 wrong", "line 1 of FOLDER/httpd.conf: the module's own error"),
    ("ITERATE a wrong b", "the module's own error"),
]


@pytest.mark.parametrize(("text", "expected"), ARGUMENTS, ids=[text for text, _ in ARGUMENTS])
def test_directives_get_their_arguments(tmp_path: Path, text: str, expected: Any) -> None:
    calls: list[Any] = []
    if isinstance(expected, str):
        assert expected in refused(tmp_path, text, probing(calls))
    else:
        configured(tmp_path, text, probing(calls)).destroy()
        assert calls == expected


MAIN, SECTION = "the main part", "a section"
SCOPES = {
    "Server": (True, False),
    "Section": (False, True),
    "Both": (True, True),
    "FileInfo": (True, True),
    "Indexes": (True, True),
    "OfOptions": (True, True),
    "Auth": (False, True),
    "OfLimit": (False, True),
    "Nowhere": (False, False),
}
"""Whether a directive may stand in the main part and in a section, by its class."""


@pytest.mark.parametrize("name", SCOPES)
@pytest.mark.parametrize(
    ("opening", "closing", "column", "where"),
    [
        ("", "", 0, "here"),
        ("<VirtualHost *:80>\n", "</VirtualHost>\n", 0, "in <VirtualHost> context"),
        ("<Directory /x>\n", "</Directory>\n", 1, "in <Directory> context"),
        ("<DirectoryMatch /x>\n", "</DirectoryMatch>\n", 1, "in <Directory> context"),
        ("<Location /x>\n", "</Location>\n", 1, "in <Location> context"),
        ("<LocationMatch /x>\n", "</LocationMatch>\n", 1, "in <Location> context"),
        ("<Files x>\n", "</Files>\n", 1, "in <Files> context"),
        ("<FilesMatch x>\n", "</FilesMatch>\n", 1, "in <Files> context"),
    ],
    ids=lambda value: value.strip() if isinstance(value, str) and value[:1] == "<" else None,
)
def test_directives_stand_where_they_may(
    tmp_path: Path, name: str, opening: str, closing: str, column: int, where: str
) -> None:
    calls: list[Any] = []
    text = f"{opening}{name} x\n{closing}"
    if SCOPES[name][column]:
        configured(tmp_path, text, probing(calls)).destroy()
        assert calls == [("x",)]
    else:
        line = 1 + opening.count("\n")
        assert refused(tmp_path, text, probing(calls)) == (
            f"Syntax error on line {line} of FOLDER/httpd.conf: {name} not allowed {where}"
        )
        assert calls == []


def test_what_is_executed_on_reading_comes_first(tmp_path: Path) -> None:
    calls: list[Any] = []
    text = "Server 1\nAtOnce 2\n<Directory /x>\nSection 3\n</Directory>\nAtOnce 4\nServer 5\n"
    configured(tmp_path, text, probing(calls)).destroy()
    assert calls == [("2",), ("4",), ("1",), ("3",), ("5",)]


def test_text_of_the_command_line_comes_before_the_file(tmp_path: Path) -> None:
    calls: list[Any] = []
    configured(tmp_path, "Server file", probing(calls), text="Server line").destroy()
    assert calls == [("line",), ("file",)]
    with pytest.raises(
        ConfigurationError, match=r"^Syntax error on line 2 of command line: Invalid"
    ):
        configured(tmp_path, "", text="\nNonsense")


def test_defines_of_the_command_line(tmp_path: Path) -> None:
    calls: list[Any] = []
    text = "<IfDefine given>\nServer ${given}\n</IfDefine>\n"
    configured(tmp_path, text, probing(calls), defines={"given": "value"}).destroy()
    assert calls == [("value",)]


def test_variables_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setenv("OF_THE_SHELL", "from there")
    text = 'Server "${OF_THE_SHELL}"\nDefine OF_THE_SHELL ours\nServer ${OF_THE_SHELL}\n'
    configured(tmp_path, text, probing(calls)).destroy()
    assert calls == [("from there",), ("ours",)]


def test_an_unknown_variable_is_warned_of(tmp_path: Path) -> None:
    host = configured(tmp_path, "ServerAdmin ${nobody}")
    host.destroy()
    assert host.warnings == ["Config variable ${nobody} is not defined"]
    assert host.main.server_admin == "${nobody}"


def test_included_files_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    calls: list[Any] = []
    (tmp_path / "conf.d").mkdir()
    for name in ("10-b.conf", "20-a.conf", "1-z.conf"):
        (tmp_path / "conf.d" / name).write_text(f"Server {name}\n")
    (tmp_path / "conf.d" / "folder.conf").mkdir()
    (tmp_path / "conf.d" / ".hidden.conf").write_text("Server hidden\n")
    text = "Server before\nInclude conf.d/*.conf\nServer behind\n"
    configured(tmp_path, text, probing(calls)).destroy()
    names = [name for (name,) in calls]
    assert names == ["before", "1-z.conf", "10-b.conf", "20-a.conf", "behind"]


def test_a_file_may_be_included_twice(tmp_path: Path) -> None:
    calls: list[Any] = []
    (tmp_path / "a.conf").write_text("Server ${which}\n")
    text = "Define which 1\nInclude a.conf\nDefine which 2\nInclude a.conf\n"
    configured(tmp_path, text, probing(calls)).destroy()
    assert calls == [("1",), ("2",)]


def test_files_include_each_other_ten_deep_at_most(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number}.conf").write_text(f"Include {number + 1}.conf\n")
    (tmp_path / "12.conf").write_text("")
    assert "includes itself" in refused(tmp_path, "Include 0.conf")
    configured(tmp_path, "Include 4.conf").destroy()


# -- virtual hosts --------------------------------------------------------------------------------


class Words(Settings):
    """A configuration that shows how it was merged."""

    words: tuple[str, ...] = ()

    def merged(self, new: Words) -> Words:
        result: Words = super().merged(new)
        result.words = (*self.words, *new.words)
        return result


def words_module() -> Module:
    def add(cmd: Any, config: Words, word: str) -> None:
        config.words = (*config.words, word)

    where = api.RSRC_CONF | api.ACCESS_CONF
    return Module(
        "mod_words",
        commands=(
            Command("ServerWord", add, "TAKE1", api.RSRC_CONF),
            Command("SectionWord", add, "TAKE1", where),
        ),
        create_dir_config=lambda path: Words(),
        merge_dir_config=Words.merged,
        create_server_config=lambda server: Words(),
        merge_server_config=Words.merged,
    )


def test_a_virtual_host_is_merged_over_the_main_server(tmp_path: Path) -> None:
    words = words_module()
    text = """
    <VirtualHost *:80>
        ServerName one
        ServerWord one
        SectionWord one
        Timeout 7
    </VirtualHost>
    ServerWord main
    SectionWord main
    KeepAliveTimeout 3
    <VirtualHost *:80>
        ServerName two
    </VirtualHost>
    """
    host = configured(tmp_path, text, words)
    one, two = host.servers
    assert [one.server_hostname, two.server_hostname] == ["one", "two"]
    assert host.main.module_config[words].words == ("main",)
    assert one.module_config[words].words == ("main", "one")
    assert two.module_config[words].words == ("main",)
    assert one.lookup_defaults[words].words == ("main", "one")
    assert two.lookup_defaults[words].words == ("main",)
    assert (one.timeout, two.timeout, host.main.timeout) == (7, 60, 60)
    assert (one.defn_line_number, two.defn_line_number) == (2, 11)
    host.destroy()


def test_a_module_without_a_merge_is_replaced(tmp_path: Path) -> None:
    words = words_module()
    words.merge_dir_config = words.merge_server_config = None
    text = "ServerWord main\nSectionWord main\n<VirtualHost *:80>\nServerWord x\n</VirtualHost>\n"
    host = configured(tmp_path, text, words)
    (virtual,) = host.servers
    assert virtual.module_config[words].words == ("x",)
    assert virtual.lookup_defaults[words].words == ("main",)
    host.destroy()


SITES = """
<VirtualHost *:*>
    ServerName first
    ServerAlias also-first *.wild
</VirtualHost>
<VirtualHost *:*>
    ServerName second:99
    ServerAlias exact.wild w?ld
</VirtualHost>
<VirtualHost 127.0.0.2:*>
    ServerName third
</VirtualHost>
<VirtualHost 127.0.0.2:80>
    ServerName fourth
</VirtualHost>
"""


@pytest.mark.parametrize(
    ("local", "name", "expected"),
    [
        (("127.0.0.1", 80), "first", "first"),
        (("127.0.0.1", 80), "second", "second"),
        (("127.0.0.1", 80), "also-first", "first"),
        (("127.0.0.1", 80), "unknown", "first"),
        (("127.0.0.1", 80), None, "first"),
        (("127.0.0.1", 80), "any.wild", "first"),
        (("127.0.0.1", 80), "exact.wild", "second"),
        (("127.0.0.1", 80), "wuld", "second"),
        (("127.0.0.1", 80), "third", "first"),
        (("127.0.0.2", 81), "first", "third"),
        (("127.0.0.2", 80), "third", "fourth"),
    ],
)
def test_the_virtual_host_is_found(
    tmp_path: Path, local: tuple[str, int], name: str | None, expected: str
) -> None:
    host = configured(tmp_path, SITES)
    assert host.find_server(host.find_servers(local), name).server_hostname == expected
    host.destroy()


# -- modules --------------------------------------------------------------------------------------

THIRD = """
from sapi_adapters.httpd.hooks import DECLINED, OK
from sapi_adapters.httpd.module import RSRC_CONF, TAKE1, Command, Module

def handler(r):
    if r.uri != "/third":
        return DECLINED
    r.content_type = "text/plain"
    r.write(b"{answer}")
    return OK

third_module = Module(
    "mod_third",
    commands=(Command("Third", lambda cmd, config, word: None, TAKE1, RSRC_CONF),),
    register_hooks=lambda hooks: hooks.add("handler", handler),
)
"""


def third(folder: Path, answer: str = "one", **changes: str) -> Path:
    """Write a module into *folder*, with parts of its text replaced; return its path."""
    text = THIRD.replace("{answer}", answer)
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path = folder / "mod_third.py"
    path.write_text(text)
    # Compiled code is known by the second and the size: two versions may be made in one second.
    for cached in folder.glob("__pycache__/*"):
        cached.unlink()
    return path


@pytest.mark.parametrize(
    ("where", "file"),
    [
        ("mod_mime", "sapi_adapters.httpd.modules.mod_mime"),
        ("modules/mod_mime.so", "sapi_adapters.httpd.modules.mod_mime"),
        ("/usr/lib/apache2/modules/mod_mime.so", "sapi_adapters.httpd.modules.mod_mime"),
        ("sapi_adapters.httpd.modules.mod_mime", "sapi_adapters.httpd.modules.mod_mime"),
    ],
)
def test_a_standard_module_has_several_names(tmp_path: Path, where: str, file: str) -> None:
    host = configured(tmp_path, f"LoadModule mime_module {where}\nAddType text/x .x\n")
    found = host.find_module("mime_module")
    assert found is not None
    assert (found.name, found.file) == ("mod_mime", file)
    assert host.has_module("mod_mime.c") and host.has_module("mime_module")
    host.destroy()


def test_a_module_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    path = third(tmp_path / "own")
    for where in ("own/mod_third.py", str(path)):
        host = configured(tmp_path, f"LoadModule third_module {where}\nThird x\n")
        found = host.find_module("third_module")
        assert found is not None and found.file == str(path)
        host.destroy()


def test_a_module_by_its_dotted_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "found_by_name"
    package.mkdir()
    third(package)
    monkeypatch.syspath_prepend(str(tmp_path))
    configured(tmp_path, "LoadModule third_module found_by_name.mod_third\nThird x\n").destroy()


BROKEN: list[tuple[dict[str, str], str]] = [
    ({"third_module = Module": "other_module = Module"}, "Can't locate API module structure"),
    ({"third_module = Module(": "third_module = dict(name="}, "is garbled: its magic is None"),
    (
        {'    "mod_third",': '    "mod_third", magic=0x41503230,'},
        "garbled: its magic is 1095774768, not 0x41503232",
    ),
    ({'    "mod_third",': '    "mod_third", version=2,'}, "for version 2 of the host's interface"),
    ({'"mod_third"': '"mod_other"'}, "calls itself mod_other"),
    ({"from sapi": "import nothing_of_that_name\nfrom sapi"}, "ModuleNotFoundError: No module"),
    ({"def handler(r):": "def handler(r:"}, "SyntaxError: "),
    ({"def handler(r):": "1 / 0\ndef handler(r):"}, "ZeroDivisionError: division by zero"),
    ({'add("handler"': 'add("no_such_hook"'}, "mod_third: there is no hook 'no_such_hook'"),
]


@pytest.mark.parametrize(("changes", "error"), BROKEN, ids=[error for _, error in BROKEN])
def test_a_broken_module_is_refused(tmp_path: Path, changes: dict[str, str], error: str) -> None:
    third(tmp_path, **changes)
    said = refused(tmp_path, "\nLoadModule third_module mod_third.py\n")
    assert said.startswith("Syntax error on line 2 of FOLDER/httpd.conf: ")
    assert error in said


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("third.py", "third.py is no module's name: that is mod_NAME"),
        ("mod_none.py", "Cannot load FOLDER/mod_none.py into server: No such file or directory"),
        ("mod_none", "Cannot load mod_none into server: No module named 'mod_none'"),
        ("nobody.mod_none", "Cannot load nobody.mod_none into server: No module named 'nobody'"),
        ("modules/mod_none.so", "Cannot load FOLDER/modules/mod_none.so into server: no such sta"),
    ],
)
def test_a_module_that_is_not_there(tmp_path: Path, where: str, error: str) -> None:
    assert error in refused(tmp_path, f"LoadModule third_module {where}\n")


def test_a_module_is_loaded_once(tmp_path: Path) -> None:
    third(tmp_path)
    line = "LoadModule third_module mod_third.py\n"
    host = configured(tmp_path, line + line)
    assert [module.name for module in host.modules].count("mod_third") == 1
    assert host.warnings == ["module third_module is already loaded, skipping"]
    host.destroy()


def test_core_cannot_be_loaded(tmp_path: Path) -> None:
    for symbol in ("core_module", "so_module"):
        said = refused(tmp_path, f"LoadModule {symbol} mod_mime\n")
        assert said.endswith(f"module {symbol} is built-in and can't be loaded")


# -- on a running server --------------------------------------------------------------------------


def checked(file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sapi_adapters", "-f", str(file), "-t", *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ,
    )


def test_the_command_tests_a_configuration(tmp_path: Path) -> None:
    file = tmp_path / "httpd.conf"
    file.write_text("ServerAdmin ${x}\n")
    done = checked(file)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "Config variable ${x} is not defined\nSyntax OK\n"
    assert checked(file, "--define", "x=me").stderr == "Syntax OK\n"
    file.write_text("\nNonsense\n")
    done = checked(file)
    assert done.returncode == 2
    assert f"Syntax error on line 2 of {file}: Invalid command 'Nonsense'" in done.stderr
    done = checked(tmp_path / "none.conf")
    assert done.returncode == 2
    assert "Could not open configuration file" in done.stderr


def test_a_configuration_that_is_wrong_does_not_start(tmp_path: Path) -> None:
    with hosting(tmp_path, "Nonsense", ready=False) as server:
        assert server.process.wait(30) == 2
        assert "Invalid command 'Nonsense'" in server.log


def change(server: Hosted, edit: Callable[[str], str], done: str) -> None:
    """Change the configuration of *server*, tell it, and wait for *done* in its log."""
    file = server.folder / "httpd.conf"
    file.write_text(edit(file.read_text()))
    before = len(server.log)
    server.process.send_signal(signal.SIGUSR1)
    until(lambda: done in server.log[before:], what=f"{done!r} in {server.log[before:]}")


def body(server: Hosted, path: str) -> tuple[int, bytes]:
    answer = server.get(path)
    return answer.status, answer.body


def answers(server: Hosted, path: str, expected: tuple[int, bytes | None]) -> None:
    """Wait until *path* is answered by the new generation; no request fails meanwhile."""

    def now() -> bool:
        status, found = body(server, path)
        assert status in (200, 404)
        return status == expected[0] and expected[1] in (None, found)

    until(now, what=f"{expected} for {path}; {server.log}")


@pytest.mark.parametrize("mpm", ["prefork", "event"])
def test_a_broken_file_keeps_what_runs(tmp_path: Path, mpm: str) -> None:
    site = make_site(tmp_path)
    with hosting(tmp_path, f"DocumentRoot {site}\n", mpm) as server:
        workers = set(server.workers())
        change(server, lambda text: text + "Nonsense\n", "reload failed")
        assert "Invalid command 'Nonsense'" in server.log
        assert body(server, "/a.txt") == (200, b"a\n")
        assert workers & set(server.workers())
        assert server.process.poll() is None
        third(tmp_path)
        load = "LoadModule third_module mod_third.py\n"
        change(server, lambda text: text.replace("Nonsense\n", load), "reload")
        answers(server, "/third", (200, b"one"))


@pytest.mark.parametrize("mpm", ["prefork", "event"])
def test_modules_come_and_go_with_a_reload(tmp_path: Path, mpm: str) -> None:
    """The server goes on all the while: one process, and no request fails."""
    site = make_site(tmp_path)
    load = "LoadModule third_module mod_third.py\n"
    with hosting(tmp_path, f"DocumentRoot {site}\n", mpm) as server:
        assert body(server, "/third")[0] == 404
        third(tmp_path)
        change(server, lambda text: text + load, "reload")
        answers(server, "/third", (200, b"one"))
        third(tmp_path, "two, as it was changed")
        change(server, lambda text: text, "reload")
        answers(server, "/third", (200, b"two, as it was changed"))
        change(server, lambda text: text.replace(load, ""), "reload")
        answers(server, "/third", (404, None))
        assert body(server, "/a.txt") == (200, b"a\n")
        assert server.process.poll() is None


# -- the documentation ----------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "host.md").read_text()


def standard_modules() -> list[Module]:
    """Return every module that comes with the host."""
    names = [each.name for each in pkgutil.iter_modules(standard.__path__)]
    found = [core_module, so_module, sapi_module]
    for name in names:
        if name.startswith("mod_"):
            record = name.removeprefix("mod_") + "_module"
            found.append(getattr(importlib.import_module(f"{api.STANDARD}.{name}"), record))
    return found


def test_the_page_has_every_directive_and_no_other() -> None:
    table = PAGE.partition("<!-- directives -->\n")[2].partition("<!-- end -->")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    shown = {
        row[0]: set(re.findall(r"`<?(\w+)>?`", row[2] if len(row) > 2 else "")) for row in rows
    }
    assert shown == {
        each.name: {command.name.lstrip("<") for command in each.commands}
        for each in standard_modules()
    }


def test_the_guide_shows_the_example() -> None:
    module = (ROOT / "examples" / "modules" / "mod_hello.py").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    assert len(blocks) == 7
    for block in blocks:
        assert block in module
    configuration = (ROOT / "examples" / "modules" / "httpd.conf").read_text()
    assert f"```text\n{configuration[configuration.index('LoadModule hello') :]}```" in PAGE


def test_the_guide_has_every_way_to_take_arguments() -> None:
    hows = {value for name, value in vars(api).items() if name == value and name.isupper()}
    assert len(hows) == 13
    for name in hows | {"RSRC_CONF", "ACCESS_CONF", "EXEC_ON_READ", "OR_LIMIT"}:
        assert f"`{name}`" in PAGE
