"""The names of the SAPIs, what each one is, and which one the environment asks for."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

from . import in_cgi_process
from .sapi import ConfigurationError, Sapi

if TYPE_CHECKING:
    from collections.abc import Mapping

SAPIS = {
    "cgi": "sapi_adapters.adapters.cgi:Cgi",
    "fcgi-prefork": "sapi_adapters.adapters.fastcgi:FcgiPrefork",
    "fcgi-threaded": "sapi_adapters.adapters.fastcgi:FcgiThreaded",
    "scgi-prefork": "sapi_adapters.adapters.scgi:ScgiPrefork",
    "scgi-threaded": "sapi_adapters.adapters.scgi:ScgiThreaded",
    "ajp-prefork": "sapi_adapters.adapters.ajp:AjpPrefork",
    "ajp-threaded": "sapi_adapters.adapters.ajp:AjpThreaded",
    "mod": "sapi_adapters.adapters.host:HostSapi",
    "cli": "sapi_adapters.adapters.cli:Cli",
}
"""Name -> "module:class". Other distributions add theirs by the entry point group below.

``embed`` is not here: it does not serve, it is served; see :class:`sapi_adapters.Embed`.
"""

ENTRY_POINTS = "sapi_adapters.sapis"


def sapi_class(name: str) -> type[Sapi]:
    """Return the class of the SAPI *name*; :class:`ConfigurationError` when there is none."""
    home = SAPIS.get(name)
    if home is None:
        return _foreign(name)
    module, _, attribute = home.partition(":")
    found: type[Sapi] = getattr(import_module(module), attribute)
    return found


def _foreign(name: str) -> type[Sapi]:
    from importlib.metadata import entry_points

    for entry in entry_points(group=ENTRY_POINTS, name=name):
        found = entry.load()
        if not (isinstance(found, type) and issubclass(found, Sapi)):
            raise ConfigurationError(f"the entry point {entry.value} of {name!r} is no Sapi")
        return found
    known = ", ".join([*SAPIS, *(e.name for e in entry_points(group=ENTRY_POINTS))])
    raise ConfigurationError(f"there is no SAPI {name!r}; known are: {known}")


def guess(options: Mapping[str, object], environ: Mapping[str, str] = os.environ) -> str:
    """Return the SAPI that the way this process was started asks for.

    A CGI environment means ``cgi``. A Unix socket or descriptor to listen on, given as an option,
    by systemd or as a listening socket on descriptor 0, means ``fcgi-prefork``. Nothing of the
    kind, or a TCP address, means ``mod``: the HTTP host.
    """
    given = [name for name in ("socket", "bind", "fd") if options.get(name) is not None]
    if not given and in_cgi_process():
        return "cgi"
    if given and given != ["bind"]:
        return "fcgi-prefork"
    if not given and environ.get("LISTEN_PID") == str(os.getpid()):
        return "fcgi-prefork"
    if not given and ("SAPI_ADAPTERS_TRIAL" in environ or "SAPI_ADAPTERS_STATE" in environ):
        from .manager.upgrade import labels_before  # another program is to take over its sockets

        if any(label.startswith("given by") for label in labels_before()):
            return "fcgi-prefork"
        return "mod"
    if not given:
        from .servers.listener import is_listening

        if is_listening(0):
            return "fcgi-prefork"
    return "mod"
