"""mod_mpm_event: an event loop in each process, with any number of connections.

ThreadsPerChild is what of MaxRequestWorkers one process counts for. Requests that may block run in
threads; connections wait in the loop, so AsyncRequestWorkerFactor, which bounds those that wait
beyond the threads in httpd, is checked and has no effect.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ..hooks import FIRST
from ..module import RSRC_CONF, TAKE1, Command, Module
from .mod_mpm_prefork import THREADED, check_threaded, chosen

if TYPE_CHECKING:
    from ..config import Parameters
    from ..hooks import Hooks


def _factor(cmd: Parameters, config: Any, value: str) -> str | None:
    if cmd.server.is_virtual:
        return "AsyncRequestWorkerFactor is for the whole server"
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value) or float(value) <= 0:
        return f"AsyncRequestWorkerFactor must be a positive number, not {value!r}"
    cmd.host.settings["asyncrequestworkerfactor"] = value
    return None


def _register(hooks: Hooks) -> None:
    hooks.add("pre_config", chosen("event"), order=FIRST)
    hooks.add("check_config", check_threaded)


mpm_event_module = Module(
    "mod_mpm_event",
    commands=(
        *THREADED,
        Command("AsyncRequestWorkerFactor", _factor, TAKE1, RSRC_CONF, "connections per thread"),
    ),
    register_hooks=_register,
)
