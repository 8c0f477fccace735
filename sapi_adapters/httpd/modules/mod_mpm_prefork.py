"""mod_mpm_prefork: one request at a time in each process; and what all three MPMs share.

A multi-processing module says how processes and threads are used. Here it only brings the
directives, as httpd's have them, checked against each other; the process manager of the program
around the host reads them from ``Host.settings``, where each stands as text under its present name
in lower case.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...sapi import ConfigurationError
from ..hooks import FIRST, OK
from ..module import RSRC_CONF, TAKE1, Command, Module, number

if TYPE_CHECKING:
    from ..config import Parameters
    from ..hooks import Hooks
    from ..host import Host

_OLD_NAMES = {"maxclients": "maxrequestworkers", "maxrequestsperchild": "maxconnectionsperchild"}


def directive(name: str, least: int = 0, help: str = "a number") -> Command:
    """Return the directive *name*, a whole number of at least *least*."""
    key = _OLD_NAMES.get(name.lower(), name.lower())

    def store(cmd: Parameters, config: Any, value: str) -> str | None:
        if cmd.server.is_virtual:
            return f"{name} is for the whole server"
        try:
            given = number(value)
        except ValueError as error:
            return f"{name}: {error}"
        if given < least:
            return f"{name} must be at least {least}, not {given}"
        cmd.host.settings[key] = str(given)
        return None

    return Command(name, store, TAKE1, RSRC_CONF, help)


COMMON = (
    directive("StartServers", 1, "the number of processes at the start"),
    directive("ServerLimit", 1, "the most processes"),
    directive("MaxRequestWorkers", 1, "the most requests at a time"),
    directive("MaxClients", 1, "the most requests at a time"),
    directive("MaxConnectionsPerChild", 0, "connections before a process is replaced, 0 for never"),
    directive("MaxRequestsPerChild", 0, "connections before a process is replaced, 0 for never"),
)
"""The directives that every MPM has; the two old names mean the same as the new ones."""

THREADED = (
    *COMMON,
    directive("MinSpareThreads", 1, "the fewest idle threads"),
    directive("MaxSpareThreads", 1, "the most idle threads"),
    directive("ThreadsPerChild", 1, "the threads of each process"),
    directive("ThreadLimit", 1, "the most that ThreadsPerChild may be"),
)
"""Those of worker and event."""


def chosen(name: str) -> Callable[[Host], int]:
    """Return a pre_config function that makes *name* the host's MPM; there is only one."""

    def choose(host: Host) -> int:
        if host.mpm:
            raise ConfigurationError(
                f"More than one MPM loaded: mpm_{host.mpm} and mpm_{name}; take one of them out"
            )
        host.mpm = name
        return OK

    return choose


def setting(host: Host, name: str, default: int) -> int:
    """Return what directive *name* (in lower case) says, *default* without it."""
    return int(host.settings.get(name, default))


def lower(host: Host, name: str, shown: str, limit: int, why: str) -> None:
    """Let directive *name* be *limit*, with a warning."""
    host.warn(f"{shown} of {host.settings[name]} {why}, decreasing to {limit}")
    host.settings[name] = str(limit)


def raise_spare(host: Host, least: str, most: str, step: int) -> None:
    """See to it that there may be more idle ones than there must be, by at least *step*.

    Else each idle process that is ended would have to be replaced at once.
    """
    if least not in host.settings or most not in host.settings:
        return  # the defaults differ by far, and a manager bounds what it takes
    host.settings[most] = str(max(int(host.settings[most]), int(host.settings[least]) + step))


def check_threaded(host: Host) -> int:
    """check_config of worker and event: threads are bounded and processes whole."""
    settings = host.settings
    limit = setting(host, "threadlimit", 64)
    if "threadsperchild" in settings and int(settings["threadsperchild"]) > limit:
        lower(host, "threadsperchild", "ThreadsPerChild", limit, f"exceeds ThreadLimit of {limit}")
    threads = setting(host, "threadsperchild", 25)
    if "maxrequestworkers" in settings:
        most = int(settings["maxrequestworkers"])
        if most < threads:
            host.warn(
                f"MaxRequestWorkers of {most} is less than ThreadsPerChild, increasing to {threads}"
            )
            settings["maxrequestworkers"] = str(threads)
        elif most % threads:
            whole = most - most % threads
            why = f"is no multiple of ThreadsPerChild of {threads}"
            lower(host, "maxrequestworkers", "MaxRequestWorkers", whole, why)
        servers = setting(host, "serverlimit", 16)
        if int(settings["maxrequestworkers"]) > servers * threads:
            why = f"would need more processes than ServerLimit of {servers}"
            lower(host, "maxrequestworkers", "MaxRequestWorkers", servers * threads, why)
    else:
        settings["maxrequestworkers"] = str(setting(host, "serverlimit", 16) * threads)
    raise_spare(host, "minsparethreads", "maxsparethreads", threads)
    return OK


def _check(host: Host) -> int:
    servers = setting(host, "serverlimit", 256)
    if "maxrequestworkers" not in host.settings:
        host.settings["maxrequestworkers"] = str(servers)
    elif int(host.settings["maxrequestworkers"]) > servers:
        why = f"exceeds ServerLimit of {servers}"
        lower(host, "maxrequestworkers", "MaxRequestWorkers", servers, why)
    raise_spare(host, "minspareservers", "maxspareservers", 1)
    return OK


def _register(hooks: Hooks) -> None:
    hooks.add("pre_config", chosen("prefork"), order=FIRST)
    hooks.add("check_config", _check)


mpm_prefork_module = Module(
    "mod_mpm_prefork",
    commands=(
        *COMMON,
        directive("MinSpareServers", 1, "the fewest idle processes"),
        directive("MaxSpareServers", 1, "the most idle processes"),
    ),
    register_hooks=_register,
)
