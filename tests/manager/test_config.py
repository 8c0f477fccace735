"""The configuration file: what is read, refused, filled in and written; and php-fpm's own opinion.

Small files go through both this reader and ``php-fpm8.2 -t``. They must agree, but for a table of
differences with their reasons.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sapi_adapters.loading import INTERFACES
from sapi_adapters.manager.config import DYNAMIC, ONDEMAND, STATIC, Global, Pool
from sapi_adapters.manager.configfile import dump, read
from sapi_adapters.manager.directives import GLOBAL, POOL, override, set_directive
from sapi_adapters.manager.rules import check
from sapi_adapters.manager.values import is_tcp
from sapi_adapters.sapi import ConfigurationError

PROJECT = Path(__file__).resolve().parents[2]
CONTRIB = PROJECT / "contrib" / "php-fpm"
PAGE = (PROJECT / "docs" / "migration-php-fpm.md").read_text()

ROOT = os.geteuid() == 0
USER = "nobody" if ROOT else pwd.getpwuid(os.geteuid()).pw_name
PHP_FPM = "php-fpm8.2"

HEAD = "[global]\nerror_log = {dir}/error.log\n"
POOL_LINES = {
    "app": "app = project.web:application",
    "user": f"user = {USER}",
    "listen": "listen = {dir}/www.sock",
    "pm": "pm = static",
    "pm.max_children": "pm.max_children = 3",
}
BODY = "".join(f"{line}\n" for line in POOL_LINES.values())
SECOND = BODY.replace("www.sock", "second.sock")
DYNAMIC_LINES = "pm = dynamic\npm.min_spare_servers = 1\npm.max_spare_servers = 3\n"


def without(name: str) -> str:
    """Return a whole file whose pool lacks one directive."""
    return HEAD + "[www]\n" + "".join(f"{v}\n" for k, v in POOL_LINES.items() if k != name)


def pool_file(lines: str) -> str:
    return f"{HEAD}[www]\n{BODY}{lines}\n"


def global_file(lines: str) -> str:
    return f"{HEAD}{lines}\n[www]\n{BODY}"


Write = Callable[[str], str]
"""Writes a file's text, in which ``{dir}`` is a directory of its own, and returns its path."""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> str:
        path = tmp_path / "server.conf"
        path.write_bytes(os.fsencode(text.replace("{dir}", str(tmp_path))))
        return str(path)

    return write


def configure(path: str, root: bool = ROOT, allow_root: bool = False) -> Global:
    config = read(path)
    check(config, root=root, allow_root=allow_root)
    return config


# -- what a value becomes

VALUES = [
    # (line, field, value)
    ("app = a.b:c.d", "app", "a.b:c.d"),
    ("interface = ASGI", "interface", "asgi"),
    ("factory = yes", "factory", True),
    ("sapi = other-protocol", "sapi", "other-protocol"),
    ("threads = 4", "threads", 4),
    ("python_path = /srv/a:lib:$prefix", "python_path", ("/srv/a", "{dir}/lib", "{dir}")),
    ("script_name = /shop", "script_name", "/shop"),
    ("scgi.max_headers = 1048576", "scgi_max_headers", 1048576),
    ("scgi.strict = no", "scgi_strict", False),
    ("ajp.secret = 'between us'", "ajp_secret", "between us"),
    ("ajp.packet_size = 65536", "ajp_packet_size", 65536),
    ('ajp.allowed_attributes = "x-.*"', "ajp_allowed_attributes", "x-.*"),
    ("ajp.remote_user = yes", "ajp_remote_user", True),
    ("prefix = {dir}", "prefix", "{dir}"),
    ("prefix = .", "prefix", "{dir}/."),
    ("prefix =", "prefix", None),
    ("user =", "user", None),
    ("group = root", "group", "root"),
    ("group =", "group", None),
    ("listen = 9000", "listen", "9000"),
    ("listen = 127.0.0.1:09000", "listen", "127.0.0.1:9000"),
    ("listen = *:9000", "listen", ":9000"),
    ("listen = [::1]:9000", "listen", "[::1]:9000"),
    ("listen = run.sock", "listen", "{dir}/run.sock"),
    ("listen = $prefix/run.sock", "listen", "{dir}/run.sock"),
    ("listen = {dir}/a:b.sock", "listen", "{dir}/a:b.sock"),
    ("listen = {dir}/$pool-$pool", "listen", "{dir}/www-www"),
    ("listen.backlog = 5", "listen_backlog", 5),
    ("listen.backlog = -1", "listen_backlog", 65535),
    ("listen.owner = root", "listen_owner", "root"),
    ("listen.group = 0", "listen_group", "0"),
    ("listen.owner =", "listen_owner", None),
    ("listen.group =", "listen_group", None),
    ("listen.mode = 0600", "listen_mode", 0o600),
    ("listen.acl_users = root, nobody,", "listen_acl_users", ("root", "nobody")),
    ("listen.acl_groups = root", "listen_acl_groups", ("root",)),
    ("listen.allowed_clients = 127.0.0.1, ::1", "listen_allowed_clients", ("127.0.0.1", "::1")),
    ("listen.allowed_clients = any", "listen_allowed_clients", ()),
    ("process.priority = -19", "process_priority", -19),
    ("process.dumpable = on", "process_dumpable", True),
    ("pm = Static", "pm", STATIC),
    ("pm.max_children = 7", "pm_max_children", 7),
    ("PM.Max_Children = 7", "pm_max_children", 7),
    ("pm.max_spawn_rate = 4", "pm_max_spawn_rate", 4),
    ("pm.process_idle_timeout = 1m", "pm_process_idle_timeout", 60.0),
    ("pm.max_requests = 500", "pm_max_requests", 500),
    ("pm.start_timeout = 5m", "pm_start_timeout", 300.0),
    ("pm.max_requests = 500\npm.max_requests_jitter = 50", "pm_max_requests_jitter", 50),
    ("pm.max_memory = 256M", "pm_max_memory", 256 * 2**20),
    ("pm.max_memory = 1g", "pm_max_memory", 2**30),
    ("pm.max_memory = 1000", "pm_max_memory", 1000),
    ("pm.status_path = /status", "pm_status_path", "/status"),
    ("pm.status_listen = 9001\npm.status_path = /s", "pm_status_listen", "9001"),
    ("pm.status_listen = s.sock\npm.status_path = /s", "pm_status_listen", "{dir}/s.sock"),
    ("ping.path = '/p-i_n.g~'", "ping_path", "/p-i_n.g~"),
    ("ping.response = 'I am here'", "ping_response", "I am here"),
    ("access.log = $pool.log", "access_log", "{dir}/www.log"),
    ("access.log =", "access_log", None),
    ("access.log = -", "access_log", "-"),
    ("access.format = \"%R '%m' %s\"", "access_format", "%R '%m' %s"),
    (
        "access.suppress_path[] = /ping\naccess.suppress_path[] = /status",
        "access_suppress_path",
        ("/ping", "/status"),
    ),
    ("slowlog = slow.log", "slowlog", "{dir}/slow.log"),
    ("slowlog =", "slowlog", None),
    ("slowlog = s\nrequest_slowlog_timeout = 0.25s", "request_slowlog_timeout", 0.25),
    ("slowlog = s\nrequest_slowlog_trace_depth = 5", "request_slowlog_trace_depth", 5),
    ("request_terminate_timeout = 2", "request_terminate_timeout", 2.0),
    ("request_terminate_timeout = 1.5h", "request_terminate_timeout", 5400.0),
    ("request_terminate_timeout = 2 d", "request_terminate_timeout", 172800.0),
    (
        "request_terminate_timeout_track_finished = true",
        "request_terminate_timeout_track_finished",
        True,
    ),
    ("rlimit_files = 1024", "rlimit_files", 1024),
    ("rlimit_files = 0", "rlimit_files", None),
    ("rlimit_core = unlimited", "rlimit_core", -1),
    ("rlimit_core = 0", "rlimit_core", 0),
    ("chroot =", "chroot", None),
    ("chroot = {dir}", "chroot", "{dir}"),
    ("chroot = $prefix\nchdir = /", "chdir", "/"),
    ("chdir = {dir}", "chdir", "{dir}"),
    ("chdir = .", "chdir", "{dir}/."),
    ("chdir =", "chdir", None),
    ("umask = 027", "umask", 0o027),
    ("catch_workers_output = no", "catch_workers_output", False),
    ("decorate_workers_output = none", "decorate_workers_output", False),
    ("clear_env = 0", "clear_env", False),
    ("env[KEY] = value", "env", {"KEY": "value"}),
    ("env['KEY'] = a\nenv[KEY] = b", "env", {"KEY": "b"}),
]


@pytest.mark.parametrize("line,field,value", VALUES, ids=[row[0] for row in VALUES])
def test_a_directive_of_a_pool(
    write: Write, tmp_path: Path, line: str, field: str, value: object
) -> None:
    def placed(value: object) -> object:
        return value.replace("{dir}", str(tmp_path)) if isinstance(value, str) else value

    config = configure(write(pool_file(line)), allow_root=True)
    expected = tuple(map(placed, value)) if isinstance(value, tuple) else placed(value)
    assert getattr(config.pools[0], field) == expected


GLOBALS = [
    ("pid = run.pid", "pid", "{dir}/run.pid"),
    ("pid = $prefix/run.pid", "pid", "{dir}/run.pid"),
    ("pid =", "pid", None),
    ("error_log = e.log", "error_log", "{dir}/e.log"),
    ("error_log = SysLog", "error_log", "syslog"),
    ("error_log = -", "error_log", None),
    ("syslog.ident = web", "syslog_ident", "web"),
    ("syslog.facility = LOCAL7", "syslog_facility", "local7"),
    ("log_buffering = no", "log_buffering", False),
    ("log_level = WARN", "log_level", "warning"),
    ("log_limit = 512", "log_limit", 512),
    ("emergency_restart_threshold = 3", "emergency_restart_threshold", 3),
    ("emergency_restart_interval = 1m", "emergency_restart_interval", 60.0),
    ("process_control_timeout = 0", "process_control_timeout", 0.0),
    ("process.max = 10", "process_max", 10),
    ("process.priority = 20", "process_priority", 20),
    ("daemonize = yes", "daemonize", True),
    ("rlimit_files = 100", "rlimit_files", 100),
    ("rlimit_core = 7", "rlimit_core", 7),
    ("systemd_interval = 5s", "systemd_interval", 5.0),
]


@pytest.mark.parametrize("line,field,value", GLOBALS, ids=[row[0] for row in GLOBALS])
def test_a_directive_of_global(
    write: Write, tmp_path: Path, line: str, field: str, value: object
) -> None:
    config = configure(write(global_file(line)))
    expected = value.replace("{dir}", str(tmp_path)) if isinstance(value, str) else value
    assert getattr(config, field) == expected


def test_every_directive_that_means_something_has_a_field_and_a_test() -> None:
    for table, target, rows in ((GLOBAL, Global(), GLOBALS), (POOL, Pool(), VALUES)):
        tested = {row[1] for row in rows}
        for directive in table:
            assert hasattr(target, directive.field) is not bool(directive.reason)
            # start and spare servers have tests of their own
            if not directive.reason and "_servers" not in directive.field:
                assert directive.field in tested | {"user"}


def test_the_defaults_of_a_file(write: Write) -> None:
    config = configure(write(pool_file("")))
    assert (config.process_control_timeout, config.daemonize) == (30.0, False)
    pool = config.pools[0]
    assert pool == Pool(
        name="www",
        app="project.web:application",
        user=USER,
        listen=pool.listen,
        pm_max_children=3,
        catch_workers_output=True,
        clear_env=True,
    )
    assert config.warnings == [] if ROOT else len(config.warnings) == 1


def test_the_interfaces_are_those_that_are_loaded(write: Write) -> None:
    for name in INTERFACES:
        assert configure(write(pool_file(f"interface = {name}"))).pools[0].interface == name
    with pytest.raises(ConfigurationError, match=", ".join(INTERFACES)):
        read(write(pool_file("interface = other")))


# -- syntax

SYNTAX = [
    ("a b  c   ", "a b  c"),
    ("a ; a comment", "a"),
    ('"a;b" ; a comment', "a;b"),
    ("'a;b'", "a;b"),
    ("a'b c'd", "ab cd"),
    ("a 'b'", "a b"),
    ('"a" "b"', "ab"),
    ('a b  "c"  d', "a bcd"),
    (r'"a\\b\"c\n\'d"', r"a\b\"c\n\'d".replace('\\"', '"')),
    (r"'a\'", "a\\"),
    ("on", "1"),
    ("YES ; a comment", "1"),
    ('"yes"', "yes"),
    ("only", "only"),
    ("on,off", "on,off"),
    ("${SOME}", "thing"),
    ("a/${SOME}/b", "a/thing/b"),
    ('"${SOME} $SOME"', "thing $SOME"),
    (r'"\${SOME}"', "${SOME}"),
    ("'${SOME}'", "${SOME}"),
    ("a$", "a$"),
    ("a$b", "a$b"),
    ("a{b}[c]", "a{b}[c]"),
    ("caf\u00e9", "caf\u00e9"),
    ("a #b", "a #b"),
    ("a\tb", "a\tb"),
    ("0660", "0660"),
    ("-1", "-1"),
    ("$pool of $pool", "www of www"),
    ("a\r", "a"),
]


@pytest.mark.parametrize("text,value", SYNTAX, ids=[row[0] for row in SYNTAX])
def test_a_value_is_taken_as_php_takes_it(
    write: Write, monkeypatch: pytest.MonkeyPatch, text: str, value: str
) -> None:
    monkeypatch.setenv("SOME", "thing")
    assert configure(write(pool_file(f"ping.response = {text}"))).pools[0].ping_response == value


def test_a_variable_of_the_master_s_environment(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "$secret")
    monkeypatch.delenv("NOT_THERE", raising=False)
    config = configure(write(pool_file("env[A] = $DATABASE_PASSWORD\nenv[B] = $NOT_THERE")))
    assert config.pools[0].env == {"A": "$secret", "B": ""}
    assert "$secret" not in dump(config)
    assert configure(write(dump(config))) == config
    set_directive(config.pools[0], "env[A]", "plain")
    assert configure(write(dump(config))).pools[0].env == {"A": "plain", "B": ""}


def test_sections(write: Write) -> None:
    text = f"pid = /p\n{HEAD}[ a ] ; first\n{BODY}[GLOBAL]\nlog_limit = 600\n['b c']\n{SECOND}"
    config = configure(write(text + "[A]\nping.path = /again\n[b c] pm.max_requests = 9\n"))
    assert [pool.name for pool in config.pools] == ["a", "b c"]
    assert (config.pid, config.log_limit) == ("/p", 600)
    assert (config.pools[0].ping_path, config.pools[1].ping_path) == ("/again", None)
    assert config.pools[1].pm_max_requests == 9


def test_a_pool_s_prefix_comes_before_the_file_s(write: Write, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    lines = "access.log = a.log\nlisten = run.sock\nslowlog = $prefix/s.log\nprefix = inner"
    pool = configure(write(pool_file(lines))).pools[0]
    assert (pool.prefix, pool.access_log, pool.listen, pool.slowlog) == tuple(
        f"{tmp_path}/inner{end}" for end in ("", "/a.log", "/run.sock", "/s.log")
    )


def test_the_prefix_of_the_command_line(write: Write, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    path = write(pool_file("access.log = a.log"))
    assert read(path, prefix=f"{tmp_path}/inner").pools[0].access_log == f"{tmp_path}/inner/a.log"
    with pytest.raises(ConfigurationError, match="not a directory"):
        read(path, prefix=f"{tmp_path}/none")


# -- include


def test_include_takes_the_files_in_order_and_within_the_section(
    write: Write, tmp_path: Path
) -> None:
    (tmp_path / "pool.d").mkdir()
    (tmp_path / "pool.d" / "sub.conf").mkdir()
    (tmp_path / "pool.d" / "b.conf").write_text(f"[b]\n{SECOND}".replace("{dir}", str(tmp_path)))
    (tmp_path / "pool.d" / "a.conf").write_text(f"[a]\n{BODY}".replace("{dir}", str(tmp_path)))
    (tmp_path / "more").write_text("ping.path = /more")
    config = configure(write(HEAD + "include = pool.d/*.conf\ninclude = more\nping.response = x\n"))
    assert [pool.name for pool in config.pools] == ["a", "b"]
    assert config.pools[1].ping_path == "/more"
    assert config.pools[1].ping_response == "x"
    assert config.pools[0].given["pm"] == f"{tmp_path}/pool.d/a.conf:5"


def test_any_number_of_files_may_be_included_side_by_side(write: Write, tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"{number}.part").write_text(f"log_limit = {600 + number}\n")
    assert configure(write(global_file("include = {dir}/*.part"))).log_limit == 608


def test_an_include_without_a_match_is_a_warning(write: Write, tmp_path: Path) -> None:
    config = configure(write(global_file("include = {dir}/none/*.conf")))
    assert f"server.conf:3] nothing matches include = {tmp_path}/none" in config.warnings[0]


@pytest.mark.parametrize("files,accepted", [(5, True), (6, False)])
def test_how_deep_files_may_include_one_another(
    write: Write, tmp_path: Path, files: int, accepted: bool
) -> None:
    for number in range(2, files + 1):
        (tmp_path / f"{number}.conf").write_text(f"include = {tmp_path}/{number + 1}.conf\n")
    path = write(global_file("include = {dir}/2.conf"))
    assert _ours(path) is accepted
    if shutil.which(PHP_FPM):
        assert _theirs(path, tmp_path) is accepted


def test_a_file_that_includes_itself_is_refused(write: Write) -> None:
    with pytest.raises(ConfigurationError, match="more than 5 files"):
        read(write(global_file("include = {dir}/server.conf")))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read .*none.conf: No such file"):
        read(f"{tmp_path}/none.conf")


# -- what is refused

REFUSED = [
    # (whole file, part of the message)
    (HEAD, "there is no pool"),
    ("", "there is no pool"),
    (without("app"), r"server.conf:3\] pool www does not say app: .* app = module:attribute"),
    (without("listen"), "does not say listen"),
    (without("pm"), "does not say pm: static, dynamic or ondemand"),
    (without("pm.max_children"), "does not say pm.max_children"),
    (pool_file("listen ="), "does not say listen"),
    (pool_file("pm.max_childen = 3"), r"server.conf:9\] unknown .*; did you mean pm.max_children?"),
    (pool_file("entirely = 3"), r"\] unknown directive entirely$"),
    (pool_file("pid = /p"), r"pid belongs into the section \[global\]"),
    (global_file("pm = static"), "pm belongs into a pool's section"),
    (global_file("env[A] = 1"), "env belongs into a pool's section"),
    (global_file("pid = /run/$pool"), r"\[global\] is no pool"),
    (pool_file("env = 1"), r"write env\[NAME\] = "),
    (pool_file("access.suppress_path = /x"), r"write access.suppress_path\[\] = "),
    (pool_file("pm[a] = static"), "write pm = "),
    (pool_file("Env[A] = 1"), r"unknown directive Env\[A\]; did you mean env?"),
    (pool_file("env[] = 1"), "needs a key"),
    (pool_file("php_value[] = 1"), "needs a key"),
    (pool_file("env[A B] = 1"), "'A B' is no name"),
    (pool_file("env[A=B] = 1"), "is no name"),
    (pool_file("env[A] ="), "must not be empty"),
    (pool_file("access.suppress_path[a] = /x"), "without a key"),
    (pool_file("access.suppress_path[] = x"), "begin with a slash"),
    # syntax
    (pool_file("# a comment"), "begins with ; and not with #"),
    (pool_file("junk"), "junk has no value"),
    (pool_file("= x"), "cannot begin with ="),
    (pool_file("[a"), r"not closed by \]"),
    (pool_file("env[A = a"), r"key of env\[ is not closed"),
    (pool_file("ping.response = a=b"), "with = must be quoted"),
    (pool_file("ping.response = a!"), "with ! must be quoted"),
    (pool_file("ping.response = (a)"), r"with \( must be quoted"),
    (pool_file('ping.response = "a'), "a quotation is not closed"),
    (pool_file("ping.response = a'b"), "a quotation is not closed"),
    (pool_file("ping.response = ${A"), "is not closed"),
    (pool_file("ping.response = a\x01"), "control character"),
    (pool_file("ping.response = 'a\x00b'"), "control character"),
    (f"{HEAD}[]\n{BODY}", "is no name for a pool"),
    (f"{HEAD}[$pool]\n{BODY}", "is no name for a pool"),
    # values
    (pool_file("app ="), "must not be empty"),
    (pool_file("sapi ="), "must not be empty"),
    (pool_file("threads = 0"), "not between 1 and"),
    (pool_file("script_name = shop"), "begin with a slash"),
    (pool_file("umask = 9"), "no mode in octal"),
    (pool_file("listen = 0"), "listen has port 0"),
    (pool_file("listen = 127.0.0.1:0"), "port 0"),
    (pool_file("listen = 70000"), "no port from 1 to 65535"),
    (pool_file("listen = 127.0.0.1:http"), "no port from 1 to 65535"),
    (pool_file("listen = 127.0.0.1"), "has no port"),
    (pool_file("listen = ::1:9000"), r"\[::1\]:9000"),
    (pool_file("listen = [::g]:9000"), r"\[::1\]:9000"),
    (pool_file('listen = "a host:9000"'), "has no host"),
    (pool_file("listen = {dir}/$prefix/x"), "the first part of a path"),
    (pool_file("listen = $prefixes/x"), "the first part of a path"),
    (pool_file("listen.backlog = -2"), "not between 0 and"),
    (pool_file("listen.mode = abc"), "no mode in octal"),
    (pool_file("listen.mode = 0999"), "no mode in octal"),
    (pool_file("listen.mode = 7777"), "no mode in octal"),
    (pool_file("listen.mode ="), "no mode in octal"),
    (pool_file("listen.allowed_clients = 127.0.0.1,elsewhere"), "'elsewhere', which is no IP"),
    (pool_file("listen.owner = no-such-one"), "there is no user no-such-one"),
    (pool_file("listen.group = no-such-one"), "there is no group no-such-one"),
    (pool_file("listen.acl_users = root,no-such-one"), "acl_users one is unknown"),
    (pool_file("listen.acl_groups = no-such-one"), "acl_groups one is unknown"),
    (pool_file("user = no-such-one"), "there is no user no-such-one"),
    (pool_file("group = no-such-one"), "there is no group no-such-one"),
    (pool_file("process.priority = 21"), "not between -19 and 20"),
    (pool_file("process.priority = -20"), "not between -19 and 20"),
    (pool_file("pm = often"), "is none of static, dynamic, ondemand"),
    (pool_file("pm.max_children = 0"), "not between 1 and"),
    (pool_file("pm.max_children = three"), "is no whole number"),
    (pool_file("pm.max_requests = -5"), "not between 0 and"),
    (pool_file("pm.max_requests ="), "is no whole number"),
    (pool_file("pm.max_requests = 99999999999"), "not between 0 and 2147483647"),
    (pool_file("pm.max_requests = 5\npm.max_requests_jitter = 5"), "less than pm.max_requests = 5"),
    (pool_file("pm.max_requests_jitter = 5"), "less than pm.max_requests = 0"),
    (pool_file("pm.max_memory = 5X"), "is no size"),
    (pool_file("request_terminate_timeout = x5s"), "is no time"),
    (pool_file("request_terminate_timeout = 5ms"), "is no time"),
    (pool_file("request_terminate_timeout = -5"), "is no time"),
    (pool_file("request_terminate_timeout ="), "is no time"),
    (pool_file("request_terminate_timeout = 9999999999d"), "too long"),
    (pool_file("clear_env = 2"), "neither yes nor no"),
    (pool_file("pm.status_listen = 70000"), "no port from 1 to 65535"),
    (pool_file("pm.status_path = /s\npm.status_listen = 0"), "pm.status_listen has port 0"),
    (pool_file("pm.status_path = status"), "no path of a page"),
    (pool_file("pm.status_path = /"), "no path of a page"),
    (pool_file("pm.status_path = /a?b"), "no path of a page"),
    (pool_file("ping.path = /a b"), "no path of a page"),
    (pool_file("ping.path = /ping\nping.response ="), "ping.response must not be empty"),
    (pool_file("access.format ="), "must not be empty"),
    (pool_file("access.log = {dir}/none/a.log"), "access.log there is no directory"),
    (pool_file("rlimit_core = -1"), "not between 0 and"),
    (pool_file("rlimit_files = -1"), "not between 0 and"),
    (global_file("error_log = {dir}/none/a.log"), "error_log: there is no directory"),
    (global_file("syslog.ident ="), "must not be empty"),
    (global_file("syslog.facility = mine"), "is none of auth, "),
    (global_file("log_level = info"), "is none of alert, error, warning, notice, debug"),
    (global_file("log_limit = 511"), "not between 512 and"),
    (global_file("process.max = -1"), "not between 0 and"),
    (global_file("systemd_interval = -1"), "is no time"),
    (global_file("daemonize = maybe"), "neither yes nor no"),
    # what does not fit together
    (pool_file("pm = dynamic"), "pm.min_spare_servers must be at least 1"),
    (pool_file("pm = dynamic\npm.min_spare_servers = 1"), "pm.max_spare_servers must be at least"),
    (pool_file(DYNAMIC_LINES + "pm.max_spare_servers = 4"), "4 is more than pm.max_children = 3"),
    (pool_file(DYNAMIC_LINES + "pm.max_spare_servers = 2\npm.min_spare_servers = 3"), "3 is more"),
    (pool_file(DYNAMIC_LINES + "pm.start_servers = 4"), "4 is not between"),
    (
        pool_file(DYNAMIC_LINES + "pm.min_spare_servers = 2\npm.start_servers = 1"),
        r"server.conf:13\] pool www: pm.start_servers 1 is not between pm.min_spare_servers = 2",
    ),
    (pool_file(DYNAMIC_LINES + "pm.max_spawn_rate = 0"), "pm.max_spawn_rate must be at least 1"),
    (pool_file("pm = ondemand\npm.process_idle_timeout = 0"), "must be more than 0"),
    (pool_file("request_slowlog_timeout = 5"), "slowlog is not set"),
    (pool_file("slowlog = {dir}/none/s\nrequest_slowlog_timeout = 5"), "slowlog there is no dir"),
    (
        pool_file("slowlog = s\nrequest_slowlog_timeout = 5\nrequest_terminate_timeout = 4.5"),
        "5 s is more than request_terminate_timeout = 4.5 s",
    ),
    (pool_file("request_slowlog_trace_depth = 5"), "slowlog is not set"),
    (pool_file("slowlog = s\nrequest_slowlog_trace_depth = 0"), "not between 1 and"),
    (pool_file("prefix = {dir}/none"), "none is no directory"),
    (pool_file("chroot = {dir}/none"), "none is no directory"),
    (pool_file("chdir = {dir}/none"), "none is no directory"),
    (pool_file("chroot = {dir}\nchdir = {dir}"), "not one inside the chroot"),
    (pool_file("chroot = {dir}\nchdir = srv"), "counts inside the chroot"),
    (pool_file("chroot = {dir}\npython_path = srv"), "counts inside the chroot"),
    (pool_file(f"[b]\n{BODY}"), r":12\] pool b: listen = .* is an address of pool www already"),
    (
        pool_file(f"listen = 9000\n[b]\n{BODY}listen = *:9000"),
        "listen = :9000 is an address of pool www already",
    ),
    (pool_file(f"[b]\n{BODY}listen = {{dir}}/./www.sock"), "is an address of pool www already"),
    (
        pool_file("pm.status_listen = {dir}/www.sock"),
        "pm.status_listen = .* is an address of pool www already",
    ),
]


@pytest.mark.parametrize("text,message", REFUSED, ids=[row[1] for row in REFUSED])
def test_it_is_refused_with_a_hint(write: Write, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as error:
        configure(write(text))
    assert "\n" not in str(error.value)


def test_root_is_refused_unless_allowed(write: Write) -> None:
    cases = {
        without("user"): "user must be set",
        pool_file("user = root"): "user is root",
        pool_file("user = 0"): "user is root",
        pool_file("user = nobody\ngroup = root"): "group is root's",
    }
    for text, message in cases.items():
        path = write(text)
        with pytest.raises(ConfigurationError, match=message):
            configure(path, root=True)
        configure(path, root=True, allow_root=True)
        configure(path, root=False)


def test_a_user_of_root_s_group_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = pwd.struct_passwd(("operator", "x", 1234, 0, "", "/", "/bin/false"))
    monkeypatch.setattr(pwd, "getpwnam", lambda name: operator)
    path = write(pool_file("user = operator"))
    with pytest.raises(ConfigurationError, match="group is root's"):
        configure(path, root=True)
    monkeypatch.undo()
    configure(write(pool_file("user = 1234")), root=True)


# -- what is said

WARNED = [
    ("security.limit_extensions = .py", r"server.conf:9\] security.limit_extensions has no effect"),
    ("apparmor_hat = web", "AppArmorProfile="),
    ("listen.setfib = 1", "listen.setfib has no effect"),
    ("php_value[memory_limit] = 32M", r"php_value\[memory_limit\] has no effect: there is no PHP"),
    ("php_flag[display_errors] = off", "has no effect"),
    ("php_admin_value[error_log] = /x", "has no effect"),
    ("php_admin_flag[log_errors] = on", "has no effect"),
    (DYNAMIC_LINES, "pm.start_servers is set to 2$"),
    ("listen.allowed_clients = ::1", "listen.allowed_clients has no effect on a Unix socket"),
    ("listen.acl_users = root\nlisten.owner = root", "listen.owner is ignored"),
    ("listen.acl_groups = root\nlisten.group = root", "listen.group is ignored"),
    ("pm.status_listen = {dir}/s.sock", "without pm.status_path"),
]


@pytest.mark.parametrize("lines,message", WARNED, ids=[row[1] for row in WARNED])
def test_a_warning(write: Write, lines: str, message: str) -> None:
    config = configure(write(pool_file(lines)), root=True)
    check(config, root=True)  # once more says nothing twice
    assert len(config.warnings) == 1
    assert re.search(message, config.warnings[0])


def test_every_directive_without_a_meaning_is_warned_of() -> None:
    warned = " ".join(row[0] for row in WARNED) + "events.mechanism"
    for directive in GLOBAL + POOL:
        assert not directive.reason or directive.name in warned


def test_a_warning_of_global(write: Write) -> None:
    config = configure(write(global_file("events.mechanism = epoll\nerror_log = -\ndaemonize = 1")))
    assert "events.mechanism has no effect" in config.warnings[0]
    assert "nobody sees the log" in config.warnings[-1] or not ROOT


def test_users_are_ignored_with_a_notice_when_the_master_is_not_root(write: Write) -> None:
    config = configure(write(pool_file(f"group = {0}\nchroot = {{dir}}")), root=False)
    assert [text.split(": ")[1].split()[0] for text in config.warnings] == [
        "user",
        "group",
        "chroot",
    ]


def test_ondemand_has_no_spare_servers(write: Write) -> None:
    pool = configure(write(pool_file(DYNAMIC_LINES + "pm = ondemand"))).pools[0]
    assert pool.pm == ONDEMAND
    assert (pool.pm_start_servers, pool.pm_min_spare_servers, pool.pm_max_spare_servers) == (0,) * 3


# -- from outside of the file


def test_overrides(write: Write) -> None:
    path = write(without("pm.max_children") + f"[second]\n{SECOND}")
    config = read(
        path,
        overrides=[
            ("log_level", "debug"),
            ("pm.max_children", "9"),
            ("[SECOND]pm.max_children", "4"),
            ("[global]rlimit_files", "5"),
            ("[www]rlimit_files", "6"),
            ("env[A]", "$pool"),
            ("access.log", "x.log"),
        ],
    )
    first, second = config.pools
    assert (config.log_level, config.rlimit_files) == ("debug", 5)
    assert (first.pm_max_children, second.pm_max_children) == (9, 4)
    assert (first.rlimit_files, second.rlimit_files) == (6, None)
    assert (first.env, second.env) == ({"A": "www"}, {"A": "second"})
    assert first.access_log == f"{Path(path).parent}/x.log"
    with pytest.raises(ConfigurationError, match=r"\[--set\] .*: there is no pool none"):
        override(config, "[none]pm", "static")
    with pytest.raises(ConfigurationError, match=r"\[--set\] unknown directive nothing"):
        override(config, "nothing", "1")


def test_set_directive_alone() -> None:
    pool = Pool(name="api")
    set_directive(pool, "access.log", "/var/log/$pool.log")
    set_directive(pool, "access.suppress_path[]", "/ping")
    assert (pool.access_log, pool.access_suppress_path) == ("/var/log/api.log", ("/ping",))
    with pytest.raises(ConfigurationError, match=r"^pm.max_children = x: this is no"):
        set_directive(pool, "pm.max_children", "x")
    set_directive(pool, "php_value[a]", "1")
    config = Global(pools=[pool])
    check(config, root=False)
    assert config.warnings == ["php_value[a] has no effect: there is no PHP here"]


FLAGS: list[tuple[dict[str, object], str]] = [
    # What command-line flags could have set without any file.
    ({"pm_max_children": 0}, "^pool www: pm.max_children = 0: this is not between 1 and"),
    ({"process_priority": 30}, "not between"),
    ({"listen_mode": 0o7777}, "octal"),
    ({"pm": DYNAMIC}, "^pool www: pm.min_spare_servers must be at least 1"),
    ({"pm": "other"}, "is none of"),
    ({"request_terminate_timeout": -1.0}, "is no time"),
    ({"listen": "host:99999"}, "no port"),
]


@pytest.mark.parametrize("fields,message", FLAGS, ids=[row[1] for row in FLAGS])
def test_check_holds_for_flags_as_well(fields: dict[str, object], message: str) -> None:
    pool = Pool(app="a:b", **fields)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=message):
        check(Global(pools=[pool]), root=False)


def test_what_flags_may_leave_out() -> None:
    with pytest.raises(ConfigurationError, match=r"^log_limit = 1: this is not between 512 and"):
        check(Global(log_limit=1, pools=[Pool()]), root=False)
    # An application that is an object, an inherited socket, the kernel's port.
    check(Global(pools=[Pool()]), root=False)
    check(Global(pools=[Pool(listen="127.0.0.1:0", access_log="access.log")]), root=False)
    with pytest.raises(ConfigurationError, match="two pools"):
        check(Global(pools=[Pool(), Pool(name="WWW")]), root=False)


def test_the_settings_alone_load_nothing_of_their_file() -> None:
    # Every worker has them; what reads, checks and writes them is the master's.
    script = "import sys, sapi_adapters.manager.config; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, timeout=60, check=True
    )
    loaded = {name for name in done.stdout.decode().split() if name.startswith("sapi_adapters.")}
    assert loaded == {"sapi_adapters.manager", "sapi_adapters.manager.config"}


def test_what_is_tcp() -> None:
    assert [is_tcp(text) for text in ("9000", ":9000", "a:1", "[::1]:1")] == [True] * 4
    assert [is_tcp(text) for text in ("", "/a:1", "a.sock", "$prefix/a:1")] == [False] * 4


# -- writing

_texts = st.text(
    st.characters(blacklist_categories=["Cs", "Cc"]) | st.sampled_from("\"'\\$;=[]{} "),
    min_size=1,
    max_size=12,
).filter(lambda text: "$pool" not in text and "$prefix" not in text)
_paths = st.text("abc/._-:", min_size=1, max_size=10).map(lambda text: f"/{text}")
_counts = st.integers(0, 2**31 - 1)
_times = st.integers(0, 10**7).map(lambda thousandths: thousandths / 1000)
_maybe = st.none() | _counts.filter(bool)
_priorities = st.none() | st.integers(-19, 20)
_pools = st.builds(
    Pool,
    name=_texts.map(str.strip).filter(
        lambda name: name.lower() not in ("", "global") and not set(name) & set("$\"'")
    ),
    app=_texts,
    interface=st.sampled_from(INTERFACES),
    factory=st.booleans(),
    sapi=_texts,
    threads=_maybe,
    python_path=st.lists(st.text("abc/.", min_size=1).map("/".__add__)).map(tuple),
    script_name=st.none() | _paths,
    scgi_max_headers=st.integers(1024, 1 << 20),
    scgi_strict=st.booleans(),
    ajp_secret=st.none() | _texts,
    ajp_packet_size=st.integers(8192, 65536),
    ajp_allowed_attributes=st.none() | _texts,
    ajp_remote_user=st.booleans(),
    user=st.none() | _texts,
    listen=_paths | st.integers(0, 65535).map(lambda port: f"[::1]:{port}"),
    listen_backlog=_counts,
    listen_owner=st.none() | _texts,
    listen_mode=st.integers(0, 0o777),
    listen_acl_users=st.lists(st.text("abc", min_size=1)).map(tuple),
    listen_allowed_clients=st.lists(st.ip_addresses().map(str)).map(tuple),
    process_priority=_priorities,
    process_dumpable=st.booleans(),
    pm=st.sampled_from([STATIC, DYNAMIC, ONDEMAND]),
    pm_max_children=_counts.filter(bool),
    pm_start_servers=_counts,
    pm_process_idle_timeout=_times,
    pm_max_memory=st.integers(0, 2**40) | st.integers(0, 64).map(lambda n: n * 2**20),
    pm_status_path=st.none() | st.text("aZ9_.~/-", min_size=1).map("/".__add__),
    ping_response=_texts | st.just(""),
    access_log=st.none() | _paths | st.just("-"),
    access_format=_texts,
    access_suppress_path=st.lists(_texts.map("/".__add__)).map(tuple),
    request_terminate_timeout=_times,
    rlimit_files=_maybe,
    rlimit_core=st.none() | st.integers(-1, 2**31 - 1),
    chdir=st.none() | _paths,
    umask=st.none() | st.integers(0, 0o777),
    catch_workers_output=st.booleans(),
    clear_env=st.booleans(),
    env=st.dictionaries(
        st.text("ABCabc_.-", min_size=1), _texts.filter(lambda text: text[0] != "$")
    ),
)
_configurations = st.builds(
    Global,
    pid=st.none() | _paths,
    error_log=st.none() | _paths | st.just("syslog"),
    syslog_ident=_texts,
    log_buffering=st.booleans(),
    log_level=st.sampled_from(["alert", "error", "warning", "notice", "debug"]),
    log_limit=st.integers(512, 2**31 - 1),
    process_control_timeout=_times,
    process_priority=_priorities,
    rlimit_core=st.none() | st.integers(-1, 2**31 - 1),
    pools=st.lists(_pools, max_size=3, unique_by=lambda pool: pool.name.lower()),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(config=_configurations)
def test_what_is_dumped_and_read_is_the_same(tmp_path: Path, config: Global) -> None:
    path = tmp_path / "dump.conf"
    path.write_bytes(os.fsencode(dump(config)))
    assert read(str(path)) == config


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.lists(
        st.sampled_from(["[www]", "[", "]", "pm", "env[", "=", '"', "'", "\\", "${", "}", "$", ";"])
        | st.sampled_from([*BODY.splitlines(keepends=True), " ", "\t", "\n", "\r\n", "\x00", "#"])
        | st.text(max_size=3)
    ).map("".join)
)
def test_any_text_is_read_or_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "any.conf"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        config = read(str(path))
        check(config, root=False)
    except ConfigurationError as error:
        assert "\n" not in str(error)
    else:
        assert config.pools


@pytest.mark.parametrize("name", ["a]b", "a[b", "a;b", "it's", 'the "best"', "a b", "a=b"])
def test_a_pool_s_name_is_dumped_so_that_it_can_be_read(write: Write, name: str) -> None:
    pool = Pool(name, app="a:b", listen="/x", catch_workers_output=True)
    assert read(write(dump(Global(pools=[pool])))).pools == [pool]


def test_a_dump_after_a_check_is_the_configuration_that_runs(write: Write) -> None:
    config = configure(write(pool_file(DYNAMIC_LINES)))
    text = dump(config)
    assert "pm.start_servers = 2\n" in text
    again = configure(write(text))
    assert again == config
    assert not any("start_servers" in warning for warning in again.warnings)


# -- php-fpm's own opinion


OWN = tuple(
    f"{name} =".encode()
    for name in (
        *("app", "interface", "factory", "sapi", "threads", "python_path", "script_name", "umask"),
        *("pm.start_timeout", "pm.max_requests_jitter", "pm.max_memory"),
        *("scgi.max_headers", "scgi.strict", "ajp.secret", "ajp.packet_size"),
        *("ajp.allowed_attributes", "ajp.remote_user"),
    )
)
"""How lines begin that php-fpm does not know."""


def _ours(path: str) -> bool:
    try:
        configure(path)
    except ConfigurationError:
        return False
    return True


def _php_fpm(path: str, directory: Path, test: str) -> tuple[int, str]:
    """Run php-fpm on the file, without the lines that are ours."""
    theirs = directory / "theirs.conf"
    lines = Path(path).read_bytes().split(b"\n")
    theirs.write_bytes(b"\n".join(line for line in lines if not line.startswith(OWN)))
    done = subprocess.run(
        [shutil.which(PHP_FPM) or PHP_FPM, "-n", test, "-O", "-y", str(theirs), "-p", directory],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=30,
        check=False,
    )
    return done.returncode, os.fsdecode(done.stderr)


def _theirs(path: str, directory: Path) -> bool:
    return _php_fpm(path, directory, "-t")[0] == 0


@pytest.fixture
def php_fpm() -> None:
    if shutil.which(PHP_FPM) is None:
        if os.environ.get("CI"):
            pytest.fail(f"{PHP_FPM} is missing")
        pytest.skip(f"{PHP_FPM} is missing")


AGREED = [
    *[pool_file(line) for line, _, _ in VALUES],
    *[global_file(line) for line, _, _ in GLOBALS],
    *[pool_file(lines) for lines, _ in WARNED],
    *[pool_file(f"env[A] = {text}") for text, _ in SYNTAX],
    *[text for text, _ in REFUSED],
    pool_file(DYNAMIC_LINES),
    pool_file("pm = ondemand"),
    pool_file("; a comment\n   ; another"),
    pool_file("env[ A ] = a"),
    pool_file('env["A"] = a'),
    pool_file("env[A]x = a"),
    pool_file('"ping.path" = /p'),
    pool_file("INCLUDE = /x"),
    pool_file("include = {dir}"),
    pool_file("user = 12345"),
    pool_file(f"[b]\n{SECOND}"),
    f"{HEAD}[a;b]\n{BODY}",
    f"{HEAD}[a]b]\n{BODY}",
    f"{HEAD}[a] b\n{BODY}",
    f"{HEAD}['a b']\n{BODY}",
    f"{HEAD}[GLOBAL]\n{BODY}",
    f"{HEAD}[www]\n{BODY}".replace("\n", "\r\n"),
    without("user"),
]
"""Files of which both must think the same; those of the next table are left out."""

DIFFERENCES = {
    "the directive is ours": [
        without("app"),
        *(pool_file(line) for line in ("app =", "sapi =", "threads = 0", "umask = 9")),
        *(pool_file(line) for line in ("script_name = shop", "pm.max_memory = 5X")),
        pool_file("pm.max_requests = 5\npm.max_requests_jitter = 5"),
        pool_file("pm.max_requests_jitter = 5"),
        pool_file("chroot = {dir}\npython_path = srv"),
    ],
    "php-fpm takes the digits at the beginning, whatever follows and however many": [
        pool_file("request_terminate_timeout = x5s"),
        pool_file("request_terminate_timeout = 5ms"),
        pool_file("request_terminate_timeout = 9999999999d"),
        pool_file("pm.max_requests = 99999999999"),
        pool_file("pm.max_requests ="),
    ],
    "php-fpm takes a negative number for none": [
        pool_file("request_terminate_timeout = -5"),
        pool_file("pm.max_requests = -5"),
        pool_file("rlimit_files = -1"),
        pool_file("listen.backlog = -2"),
        global_file("systemd_interval = -1"),
    ],
    "php-fpm takes 0 for the default": [
        pool_file("slowlog = s\nrequest_slowlog_trace_depth = 0"),
    ],
    "php-fpm looks at it when it starts, if ever": [
        *(pool_file(f"listen = {address}") for address in ("0", "70000", "127.0.0.1:0")),
        *(pool_file(f"listen = {address}") for address in ("127.0.0.1", "127.0.0.1:http")),
        *(pool_file(f"listen = {address}") for address in ("::1:9000", "[::g]:9000")),
        *(pool_file(f"listen = {address}") for address in ('"a host:9000"', "$prefixes/x")),
        pool_file("listen = {dir}/$prefix/x"),
        *(pool_file(f"listen.mode = {mode}") for mode in ("", "abc", "0999", "7777")),
        pool_file("listen.mode ="),
        pool_file("listen.allowed_clients = 127.0.0.1,elsewhere"),
        pool_file("listen.acl_users = root,no-such-one"),
        pool_file("listen.acl_groups = no-such-one"),
        pool_file("pm.status_listen = 70000"),
        pool_file("pm.status_path = /s\npm.status_listen = 0"),
        pool_file("access.format ="),
        global_file("syslog.ident ="),
        pool_file("env[A B] = 1"),
        pool_file("env[A=B] = 1"),
    ],
    "php-fpm refuses root, its group and nobody at all when it starts": [
        *(pool_file(line) for line in ("user = root", "group = root", "user =") if ROOT),
    ],
    "an empty value is none": [pool_file("access.log =")],
    "one address, written in two ways": [
        pool_file(f"[b]\n{BODY}listen = {{dir}}/./www.sock"),
        pool_file(f"listen = 9000\n[b]\n{BODY}listen = *:9000"),
    ],
    "a pool's name stands in paths and log lines": [
        f"{HEAD}[]\n{BODY}",
        f"{HEAD}[$pool]\n{BODY}",
    ],
    "PHP's reader calculates with operators, drops half a quotation, and takes any byte": [
        pool_file("ping.response = (a)"),
        pool_file("ping.response = 1|2"),
        pool_file("ping.response = a'b"),
        pool_file("ping.response = a\x01"),
    ],
    "PHP's reader knows constants, and words that must stand alone": [
        pool_file("pm.max_requests = PHP_INT_SIZE"),
        pool_file("ping.response = true x"),
    ],
    "php-fpm knows only small letters in quotes": [pool_file('clear_env = "Yes"')],
    "what has no effect is not looked at": [
        pool_file("php_flag[a] = maybe"),
        global_file("events.mechanism = other"),
        pool_file("listen.setfib = 1"),
    ],
    "the log itself looks at its format": [
        pool_file("access.log = a.log\naccess.format = %Z"),
    ],
    "20 is the default, which a dump shows": [pool_file("request_slowlog_trace_depth = 20")],
}
"""What the two see differently: why, and files that one takes and the other refuses."""

DIFFERENT = [text for texts in DIFFERENCES.values() for text in texts]


@pytest.mark.usefixtures("php_fpm")
@pytest.mark.parametrize("text", sorted(set(AGREED) - set(DIFFERENT)))
def test_php_fpm_agrees(write: Write, tmp_path: Path, text: str) -> None:
    path = write(text)
    assert _ours(path) is _theirs(path, tmp_path)


@pytest.mark.usefixtures("php_fpm")
@pytest.mark.parametrize("text", DIFFERENT)
def test_php_fpm_differs(write: Write, tmp_path: Path, text: str) -> None:
    path = write(text)
    assert _ours(path) is not _theirs(path, tmp_path)


@pytest.mark.usefixtures("php_fpm")
def test_the_dump_has_php_fpm_s_order(write: Write, tmp_path: Path) -> None:
    lines = "access.suppress_path[] = /x\nenv[A] = b\n"
    path = write(pool_file(lines))
    status, output = _php_fpm(path, tmp_path, "-tt")
    assert status == 0
    theirs = [line.split("\t")[1].split(" = ")[0] for line in output.split("\n") if "\t" in line]
    meaningless = {directive.name for directive in GLOBAL + POOL if directive.reason}
    ours = [
        line.strip("\t; ").split(" = ")[0]
        for line in dump(configure(path)).split("\n")
        if line.startswith("\t")
    ]
    common = set(theirs) - meaningless
    assert [name for name in ours if name in common] == [n for n in theirs if n in common]
    assert set(theirs) - meaningless <= set(ours)


# -- the page and its files


def moved(name: str, directory: Path) -> str:
    """Return a file of contrib/ with its places in *directory* and a user that is there."""
    text = (CONTRIB / name).read_text()
    text = re.sub("(?<== )/(?:run|srv|var/log)/(?:php|shop)", str(directory), text)
    text = re.sub("(?<=group = )www-data", str(pwd.getpwnam(USER).pw_gid), text)
    return text.replace("www-data", USER)


def test_the_file_after_is_accepted_without_a_warning(write: Write, tmp_path: Path) -> None:
    config = configure(write(moved("after.conf", tmp_path)), root=True, allow_root=True)
    assert config.warnings == []
    assert [pool.name for pool in config.pools] == ["shop"]


def test_the_file_before_needs_an_app_only(write: Write, tmp_path: Path) -> None:
    path = write(moved("before.conf", tmp_path))
    with pytest.raises(ConfigurationError, match="does not say app"):
        read(path)
    config = read(path, overrides=[("app", "shop.web:application")])
    check(config, root=True, allow_root=True)
    warned = [warning.split(" ")[1] for warning in config.warnings]
    assert warned == [
        "php_admin_value[memory_limit]",
        "php_admin_flag[log_errors]",
        "security.limit_extensions",
    ]


@pytest.mark.usefixtures("php_fpm")
def test_the_file_before_is_php_fpm_s(write: Write, tmp_path: Path) -> None:
    status, output = _php_fpm(write(moved("before.conf", tmp_path)), tmp_path, "-t")
    assert status == 0, output


def test_the_page_shows_the_files() -> None:
    shown = re.findall(r"^```conf\n(.*?)^```$", PAGE, re.M | re.S)
    assert shown == [(CONTRIB / name).read_text() for name in ("before.conf", "after.conf")]


def test_the_page_knows_every_directive() -> None:
    start, middle, end = (
        PAGE.index(heading) for heading in ("### In `[global]`", "### In a pool", "### How the")
    )
    for table, text in ((GLOBAL, PAGE[start:middle]), (POOL, PAGE[middle:end])):
        rows = re.findall(r"^\| (`.*?) \| (.*) \|$", text, re.M)
        said = {
            name: words for names, words in rows for name in re.findall(r"`([^`[]+)[^`]*`", names)
        }
        assert set(said) == {directive.name for directive in table}
        for directive in table:
            assert bool(directive.reason) is said[directive.name].startswith("warned of")
