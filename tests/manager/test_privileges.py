"""What a worker gives up: really given up, in a process of its own, or it is refused."""

from __future__ import annotations

import grp
import json
import os
import pwd
import resource
import subprocess
import sys
from typing import Any

import pytest

from sapi_adapters.manager import privileges
from sapi_adapters.sapi import ConfigurationError

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its user")
linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc and prctl() are Linux's")

# Confines itself as the first argument says, then reports. The second argument runs before.
WORKER = """
import ctypes, json, os, resource, sys
from sapi_adapters.manager import privileges
from sapi_adapters.sapi import ConfigurationError

def prctl(*arguments):
    assert ctypes.CDLL(None).prctl(*arguments) == 0, arguments

calls = []
LIMITS = resource.RLIMIT_NOFILE, resource.RLIMIT_CORE
settings = json.loads(sys.argv[1])
exec(sys.argv[2])
status = os.open("/proc/self/status", os.O_RDONLY)
try:
    user, group = settings.pop("user", None), settings.pop("group", None)
    privileges.confine(identity=privileges.resolve(user, group), **settings)
except ConfigurationError as error:
    print(json.dumps({"error": str(error)}))
    sys.exit()
lines = dict(line.split(":", 1) for line in os.read(status, 65536).decode().splitlines())
mask = os.umask(0)
print(json.dumps({
    "uids": os.getresuid(),
    "gids": os.getresgid(),
    "groups": sorted(os.getgroups()),
    "capabilities": [int(lines[name], 16) for name in ("CapPrm", "CapEff")],
    "directory": os.getcwd(),
    "files": sorted(os.listdir(".")) if settings.get("chroot") else None,
    "limits": [resource.getrlimit(limit) for limit in LIMITS],
    "priority": os.getpriority(os.PRIO_PROCESS, 0),
    "umask": mask,
    "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),
    "calls": calls,
}))
"""


def worker(before: str = "", environ: dict[str, str] | None = None, **settings: Any) -> Any:
    """Return what a worker with *settings* says of itself; *before* is code that it runs first."""
    done = subprocess.run(
        [sys.executable, "-c", WORKER, json.dumps(settings), before],
        stdout=subprocess.PIPE,
        timeout=30,
        check=True,
        env={**os.environ, **(environ or {})},
    )
    return json.loads(done.stdout)


@pytest.fixture
def somebody() -> pwd.struct_passwd:
    return pwd.getpwnam("nobody")


# -- resolve


def test_nobody_asked_for_is_no_change():
    assert privileges.resolve(None, None) is None


def test_a_user_comes_with_his_own_group_and_home(somebody):
    found = privileges.resolve("nobody", None)
    assert found is not None
    assert (found.uid, found.gid) == (somebody.pw_uid, somebody.pw_gid)
    assert (found.user, found.home) == ("nobody", somebody.pw_dir)
    assert found.groups == tuple(sorted(set(os.getgrouplist("nobody", somebody.pw_gid))))
    assert privileges.resolve(str(somebody.pw_uid), None) == found


def test_a_given_group_takes_the_place_of_the_users_own(somebody):
    daemon = grp.getgrnam("daemon").gr_gid
    found = privileges.resolve("nobody", "daemon")
    assert found is not None
    assert found.gid == daemon
    assert daemon in found.groups
    assert somebody.pw_gid not in found.groups
    assert privileges.resolve("nobody", str(daemon)) == found


def test_supplementary_groups_are_looked_up(monkeypatch, somebody):
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: [7, gid, 5, 7])
    found = privileges.resolve("nobody", "6")
    assert found is not None
    assert found.groups == (5, 6, 7)


def test_a_number_without_an_entry_needs_a_group():
    found = privileges.resolve("3999999", "3999998")
    assert found == privileges.Identity(3999999, 3999998, (3999998,), "3999999", None)
    with pytest.raises(ConfigurationError, match="set group, too"):
        privileges.resolve("3999999", None)


@pytest.mark.parametrize(
    ("user", "group", "message"),
    [
        ("no-such-user", None, "there is no user 'no-such-user'"),
        ("nobody", "no-such-group", "there is no group 'no-such-group'"),
        (None, "daemon", "set user, too"),
        ("4294967295", "1", "highest number"),  # -1: "leave it as it is"
        ("1", "4294967295", "highest number"),
        ("-1", "1", "there is no user '-1'"),
        ("", None, "there is no user ''"),
    ],
)
def test_who_is_nobody_is_refused(user, group, message):
    with pytest.raises(ConfigurationError, match=message):
        privileges.resolve(user, group)


# -- confine


@root
@linux
def test_all_of_root_is_given_up(somebody):
    is_now = worker(user="nobody")
    assert is_now["uids"] == [somebody.pw_uid] * 3
    assert is_now["gids"] == [somebody.pw_gid] * 3
    assert is_now["groups"] == sorted(set(os.getgrouplist("nobody", somebody.pw_gid)))
    assert is_now["capabilities"] == [0, 0]


@root
@linux
def test_former_groups_are_gone():
    is_now = worker("os.setgroups([0, 4, 27])", user="3999999", group="3999998")
    assert is_now["groups"] == [3999998]


RECORD = """
def recorded(module, name):
    call = getattr(module, name)
    setattr(module, name, lambda *arguments: (calls.append(name), call(*arguments)))

recorded(resource, "setrlimit")
for name in ("setpriority", "chroot", "chdir", "setgroups", "setresgid", "setresuid"):
    recorded(os, name)
"""


@root
@linux
def test_everything_at_once_in_the_right_order(tmp_path):
    """Priority, limits and chroot need root: they come before the change of user."""
    (tmp_path / "inside").mkdir()
    tmp_path.chmod(0o755)
    is_now = worker(
        RECORD,
        user="3999999",
        group="3999998",
        chroot=str(tmp_path),
        chdir="/",
        umask=0o27,
        rlimit_files=200,
        rlimit_core=0,
        priority=3,
    )
    assert is_now["uids"] == [3999999] * 3
    assert (is_now["directory"], is_now["files"]) == ("/", ["inside"])
    assert is_now["limits"] == [[200, 200], [0, 0]]
    assert (is_now["priority"], is_now["umask"]) == (3, 0o27)
    assert is_now["capabilities"] == [0, 0]
    order = "setrlimit setpriority chroot chdir setgroups setresgid setresuid"
    assert list(dict.fromkeys(is_now["calls"])) == order.split()


@root
@linux
@pytest.mark.parametrize(("chdir", "directory"), [(None, "/"), ("/inside", "/inside")])
def test_chdir_is_inside_of_the_chroot(tmp_path, chdir, directory):
    (tmp_path / "inside").mkdir()
    assert worker(chroot=str(tmp_path), chdir=chdir)["directory"] == directory


@root
@linux
def test_an_open_directory_would_lead_out_of_a_chroot(tmp_path):
    said = worker("os.open('/', os.O_RDONLY)", user="nobody", chroot=str(tmp_path))
    assert "is an open directory, a way out" in said["error"]


@root
@linux
@pytest.mark.parametrize(("asked", "dumpable"), [(False, 0), (True, 1)])
def test_dumpable_only_when_asked_for(asked, dumpable):
    assert worker(user="nobody", dumpable=asked)["dumpable"] == dumpable


@root
@linux
def test_capabilities_that_survive_the_change_are_found():
    """PR_SET_KEEPCAPS: the user changes, and root's power stays, one call away."""
    said = worker("prctl(8, 1, 0, 0, 0)", user="nobody")
    assert "capabilities are left" in said["error"]


@root
@linux
def test_a_way_back_to_root_is_found():
    """SECBIT_NO_SETUID_FIXUP: setresuid() succeeds and takes nothing away."""
    said = worker("prctl(28, 4, 0, 0, 0)", user="nobody")
    assert "gives root back" in said["error"]


@root
@linux
@pytest.mark.parametrize("call", ["setgroups", "setresgid", "setresuid"])
def test_a_step_that_lies_is_found(call):
    said = worker(f"os.{call} = lambda *arguments: None", user="3999999", group="3999998")
    assert "instead of" in said["error"]


@root
@linux
@pytest.mark.parametrize("step", ["setgroups", "setresgid", "setresuid", "chroot", "setpriority"])
def test_a_step_that_fails_is_named(tmp_path, step):
    broken = f"""
def fail(*arguments):
    raise PermissionError(1, "Operation not permitted")
os.{step} = fail
"""
    said = worker(broken, user="nobody", chroot=str(tmp_path), priority=1)
    names = {
        "setgroups": "supplementary groups",
        "setresgid": "user nobody: group ",
        "setresuid": "user nobody: uid ",
        "chroot": f"chroot {tmp_path}",
        "setpriority": "process.priority 1",
    }
    assert names[step] in said["error"]
    assert "Operation not permitted" in said["error"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chdir": "/no/such"}, "chdir /no/such: No such file"),
        ({"rlimit_files": 2**62}, f"rlimit_files {2**62} (the hard limit is "),
    ],
)
@linux
def test_what_cannot_be_is_refused(settings, message):
    assert message in worker(**settings)["error"]


@linux
def test_without_settings_nothing_changes():
    is_now = worker()
    assert is_now["uids"] == list(os.getresuid())
    assert is_now["limits"] == [
        list(resource.getrlimit(which)) for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)
    ]
    assert is_now["umask"] == _umask()
    assert is_now["directory"] == os.getcwd()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


BECOME = "os.setgroups([{g}]); os.setresgid({g}, {g}, {g}); os.setresuid({u}, {u}, {u})"


@root
@linux
def test_without_root_nobody_becomes_another():
    said = worker(BECOME.format(u=3999999, g=3999998), user="3999997", group="3999998")
    assert said["error"].endswith("Operation not permitted; only root may")


@root
@linux
def test_who_is_already_the_user_stays_it_without_root():
    is_now = worker(BECOME.format(u=3999999, g=3999998), user="3999999", group="3999998")
    assert is_now["uids"] == [3999999] * 3


# -- environment


ENVIRONMENT = """
import json, os, sys, time
from sapi_adapters.manager import privileges
clear, env, user, print_zone = json.loads(sys.argv[1])
privileges.environment(clear, env, privileges.resolve(user, None))
# What the C library has, not only Python's copy of it.
os.system("env >&2") if not print_zone else print(time.tzname[0], file=sys.stderr)
"""


def environment(clear: bool, env: dict[str, str], user: str | None = None, zone: bool = False):
    done = subprocess.run(
        [sys.executable, "-c", ENVIRONMENT, json.dumps([clear, env, user, zone])],
        stderr=subprocess.PIPE,
        timeout=30,
        check=True,
        text=True,
        env={"PATH": os.environ["PATH"], "SECRET": "of the master", "TZ": "UTC0"},
    )
    if zone:
        return done.stderr.strip()
    found = dict(line.split("=", 1) for line in done.stderr.splitlines())
    return {k: v for k, v in found.items() if k not in ("PWD", "OLDPWD", "SHLVL", "_", "LC_CTYPE")}


def test_a_cleared_environment_holds_what_was_set_and_nothing_else():
    assert environment(True, {"A": "1", "LANG": "C"}) == {"A": "1", "LANG": "C"}


def test_an_environment_that_is_kept_is_added_to():
    found = environment(False, {"SECRET": "other"})
    assert found["SECRET"] == "other"
    assert "PATH" in found


def test_a_user_brings_his_name_and_home(somebody):
    assert environment(True, {}, "nobody") == {"USER": "nobody", "HOME": somebody.pw_dir}
    assert environment(True, {"USER": "mine"}, "nobody")["USER"] == "mine"


@pytest.mark.parametrize(
    ("clear", "env", "name"), [(False, {"TZ": "XYZ-3"}, "XYZ"), (False, {}, "UTC")]
)
def test_a_time_zone_takes_effect(clear, env, name):
    assert environment(clear, env, zone=True) == name


@pytest.mark.parametrize("env", [{"": "x"}, {"A=B": "x"}, {"A": "x\0y"}])
def test_what_no_variable_can_be_is_refused(env):
    before = dict(os.environ)
    with pytest.raises(ConfigurationError, match="not a variable"):
        privileges.environment(True, env)
    assert dict(os.environ) == before
