"""Giving up what a worker does not need: its user, its root directory, its limits, its variables.

A name is looked up in the master, where the user database is; the rest happens in the worker that
was just forked, in the one order that works: what needs root first, root itself last. Every step
is checked afterwards. A worker that is not exactly what was asked for must not serve.
"""

from __future__ import annotations

import grp
import os
import pwd
import resource
import stat
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..sapi import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_NOBODYS = 2**32 - 1  # -1 means "leave it" to setresuid() and chown()
_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4


@dataclass(frozen=True)
class Identity:
    """Whom a worker becomes."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    """All groups it is in, sorted."""
    user: str
    """The name; the number in digits where the user database has none."""
    home: str | None


def resolve(user: str | None, group: str | None) -> Identity | None:
    """Return whom *user* and *group*, names or numbers, stand for; None when neither is given.

    Without *group* it is the user's own. The user's supplementary groups come along, as login
    gives them. Raises :class:`ConfigurationError` for a name or number that stands for nobody.
    """
    if user is None:
        if group is None:
            return None
        raise ConfigurationError(f"group is {group!r}, but there is no user: set user, too")
    entry = _entry(user)
    if group is not None:
        gid = group_id(group)
    elif entry is not None:
        gid = entry.pw_gid
    else:
        raise ConfigurationError(f"user {user} is not in the user database: set group, too")
    if entry is None:
        return Identity(int(user), gid, (gid,), user, None)
    groups = tuple(sorted(set(os.getgrouplist(entry.pw_name, gid))))
    return Identity(entry.pw_uid, gid, groups, entry.pw_name, entry.pw_dir)


def _entry(user: str) -> pwd.struct_passwd | None:
    number = _number(user)
    try:
        return pwd.getpwnam(user) if number is None else pwd.getpwuid(number)
    except KeyError:
        if number is not None:
            return None
    raise ConfigurationError(f"there is no user {user!r}: create it, or write another or a number")


def group_id(group: str) -> int:
    """Return the number of *group*, a name or a number; see :func:`resolve`."""
    number = _number(group)
    if number is not None:
        return number
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        pass
    raise ConfigurationError(
        f"there is no group {group!r}: create it, or write another or a number"
    )


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit()):
        return None
    if int(text) >= _NOBODYS:
        raise ConfigurationError(f"{text} is no user or group: the highest number is 4294967294")
    return int(text)


def confine(
    *,
    identity: Identity | None = None,
    chroot: str | None = None,
    chdir: str | None = None,
    umask: int | None = None,
    rlimit_files: int | None = None,
    rlimit_core: int | None = None,
    priority: int | None = None,
    dumpable: bool = False,
) -> None:
    """Make this process, a worker that was just forked, what the pool's settings say.

    None leaves a thing as it is; a *rlimit_core* of -1 is unlimited; *chdir* is inside of
    *chroot*, and ``/`` there when it is None. A change of user makes a process that cannot be
    traced and leaves no core: *dumpable* allows both again.

    After a chroot Python imports only what lies inside. Raises :class:`ConfigurationError` that
    names the step; then the process is in between, and is good for nothing but to end.
    """
    changes = identity is not None and identity.uid != 0
    status = _open_status() if changes else None
    allow_dump = _dumpable() if dumpable else None  # found before a chroot hides the C library
    if rlimit_files is not None:
        _limit("rlimit_files", resource.RLIMIT_NOFILE, rlimit_files)
    if rlimit_core is not None:
        core = resource.RLIM_INFINITY if rlimit_core == -1 else rlimit_core
        _limit("rlimit_core", resource.RLIMIT_CORE, core)
    if priority is not None:
        _do(f"process.priority {priority}", os.setpriority, os.PRIO_PROCESS, 0, priority)
    if chroot is not None:
        _no_way_out()
        _do(f"chroot {chroot}", os.chroot, chroot)
        _do(f"chdir {chdir or '/'} in {chroot}", os.chdir, chdir or "/")
    elif chdir is not None:
        _do(f"chdir {chdir}", os.chdir, chdir)
    if umask is not None:
        os.umask(umask)
    if identity is not None:
        _become(identity)
        if changes:
            _cannot_return(identity)
            _has_no_capabilities(status)
    if allow_dump is not None:
        _do("process.dumpable", allow_dump)


def _do(step: str, call: Callable[..., object], *arguments: Any) -> None:
    try:
        call(*arguments)
    except (OSError, ValueError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        if isinstance(error, PermissionError) and os.geteuid() != 0:
            why += "; only root may"
        raise ConfigurationError(f"{step}: {why}") from error


def _limit(name: str, which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    most = "unlimited" if hard == resource.RLIM_INFINITY else hard
    step = f"{name} {value} (the hard limit is {most})"
    _do(step, resource.setrlimit, which, (value, value))


def _no_way_out() -> None:
    """Refuse a chroot while a directory is open: fchdir() through it leads out, for any user."""
    try:
        names = os.listdir("/dev/fd")
    except OSError:
        return
    for name in names:
        try:
            found = stat.S_ISDIR(os.fstat(int(name)).st_mode)
        except (OSError, ValueError):
            continue  # it was the listing itself
        if found:
            raise ConfigurationError(f"chroot: descriptor {name} is an open directory, a way out")


def _become(identity: Identity) -> None:
    """Change groups and user, and see that nothing of the former ones is left."""
    who = f"user {identity.user}"
    groups = list(identity.groups)
    # Who is in them already needs no right to say so.
    if sorted(os.getgroups()) != groups:
        _do(f"{who}: supplementary groups", os.setgroups, groups)
    _do(f"{who}: group {identity.gid}", os.setresgid, *[identity.gid] * 3)
    _do(f"{who}: uid {identity.uid}", os.setresuid, *[identity.uid] * 3)
    for what, wanted, got in (
        ("user ids", (identity.uid,) * 3, os.getresuid()),
        ("group ids", (identity.gid,) * 3, os.getresgid()),
        ("groups", groups, sorted(os.getgroups())),
    ):
        if got != wanted:
            raise ConfigurationError(f"{who}: {what} are {got} instead of {wanted}")


def _cannot_return(identity: Identity) -> None:
    """See that this process cannot become root again, whatever call it tries."""
    ways: list[tuple[str, Callable[[], object]]] = [
        ("setresuid", lambda: os.setresuid(0, 0, 0)),
        ("seteuid", lambda: os.seteuid(0)),
        ("setgroups", lambda: os.setgroups([0])),
    ]
    if identity.gid != 0:
        ways.append(("setresgid", lambda: os.setresgid(0, 0, 0)))
    for name, way in ways:
        try:
            way()
        except OSError:
            continue
        raise ConfigurationError(f"user {identity.user}: {name} gives root back")


def _open_status() -> int | None:
    """Open what tells this process's capabilities, to be read when /proc is out of sight."""
    if sys.platform != "linux":
        return None
    try:
        return os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None  # no /proc here


def _has_no_capabilities(status: int | None) -> None:
    """See that no part of root's power is left; securebits and ambient sets can keep some."""
    if status is None:
        return
    try:
        lines = os.read(status, 65536).splitlines()
    except OSError:
        return
    finally:
        os.close(status)
    for line in lines:
        name, _, value = line.partition(b":")
        if name in (b"CapPrm", b"CapEff") and int(value, 16):
            raise ConfigurationError(
                f"capabilities are left after the change of user: {name.decode()} is"
                f" {value.strip().decode()}"
            )


def _dumpable() -> Callable[[], None]:
    """Return what makes this process traceable again; Python has no prctl()."""
    if sys.platform != "linux":
        raise ConfigurationError("process.dumpable works on Linux only")
    import ctypes

    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]

    def allow() -> None:
        prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
        if prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) != 1:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    return allow


def environment(clear: bool, env: Mapping[str, str], identity: Identity | None = None) -> None:
    """Set this worker's variables: *env*; with *clear* nothing else of what the master has.

    As php-fpm does: a worker with an *identity* gets USER and HOME, which *env* may say
    otherwise, and PATH goes with the rest. To be called before :func:`confine`, as a time zone
    is a file. What Python and the C library read when they started (PYTHON*, LANG) is done with.
    Raises :class:`ConfigurationError` for a name that no variable can have.
    """
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + value:
            raise ConfigurationError(f"env[{name}]: not a variable's name and value")
    zone = os.environ.get("TZ")
    if clear:
        os.environ.clear()
    if identity is not None:
        os.environ["USER"] = identity.user
        if identity.home is not None:
            os.environ["HOME"] = identity.home
    os.environ.update(env)
    if os.environ.get("TZ") != zone:
        time.tzset()
