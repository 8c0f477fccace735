"""Programs that answer as CGI says: what mod_cgi and mod_proxy_fcgi share.

The request's meta-variables (RFC 3875 §4.1, as Apache names them), the response head (§6), local
redirects, and the conversation in which the request's body goes to a program while its answer is
read. How a program is reached is the modules' own.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .environ import environ_of
from .module import FLAG, OR_AUTHCFG, Command, Settings

if TYPE_CHECKING:
    from .config import Parameters
    from .records import Request

HEAD_LIMIT = 65536
"""Bytes of a response head: as much as one FastCGI record can hold."""
BLOCK = 65536
_HELD_IN_MEMORY = 65536
_HELD = 64 << 20
"""Bytes of an answer that are kept for a client that is still sending; then it has to take them."""
_LOOK = 0.5
"""Seconds between two looks whether the client is still there, while nothing happens."""
_LINE = 4096
"""Bytes of one line of a program's messages."""


# -- configuration --------------------------------------------------------------------------------


class ScriptConfig(Settings):
    """What is configured for a section."""

    pass_auth = False


def _pass_auth(cmd: Parameters, config: ScriptConfig, value: bool) -> str | None:
    from .config import DECLINE

    config.pass_auth = value
    return DECLINE  # the other module has it, too


PASS_AUTH = Command("CGIPassAuth", _pass_auth, FLAG, OR_AUTHCFG)
"""Whether programs see the client's Authorization. Core's in Apache; here each module has it."""


# -- the request ----------------------------------------------------------------------------------


def script_environ(r: Request, config: ScriptConfig) -> dict[str, str]:
    """Return the meta-variables of *r* for the script ``r.filename``; text whose characters are
    bytes, but for paths, which are as :func:`os.fsdecode` makes them: see :func:`to_bytes`.
    """
    rest = os.fsencode(r.path_info).decode("latin-1")
    name = r.uri[: len(r.uri) - len(rest)] if rest and r.uri.endswith(rest) else r.uri
    found = environ_of(r, name)
    environ = {key: text for key, text in found.items() if isinstance(text, str)}
    environ.pop("HTTP_TRANSFER_ENCODING", None)  # a program gets the body without it
    if not config.pass_auth:
        environ.pop("HTTP_AUTHORIZATION", None)
        environ.pop("HTTP_PROXY_AUTHORIZATION", None)
    if not r.body_due:  # type: ignore[attr-defined]
        pass
    environ["SERVER_SIGNATURE"] = ""
    return environ
