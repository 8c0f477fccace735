"""CGI meta-variables of a request (RFC 3875 §4.1): ap_add_common_vars and ap_add_cgi_vars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..sapi import __version__
from .hooks import DECLINED, run_first

if TYPE_CHECKING:
    from .records import Request

SOFTWARE = f"sapi_adapters/{__version__}"
_names: dict[str, str | None] = {}
"""Header fields as they are spelt, and their variables: None for those that have none. Bounded."""
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


def variable_of(field: str) -> str | None:
    """Return the variable for a header field's name, such as ``HTTP_HOST``.

    None for those that could be mistaken for another one, or for the process's own (httpoxy).
    """
    lower = field.lower()
    if lower in ("proxy", "content-length", "content-type"):
        found = {"content-length": "CONTENT_LENGTH", "content-type": "CONTENT_TYPE"}.get(lower)
    elif lower and _LETTERS.issuperset(lower):
        found = "HTTP_" + lower.upper().replace("-", "_")
    else:
        found = None
    if len(_names) < 1000:  # clients choose the names
        _names[field] = found
    return found


def environ_of(r: Request, mount: str = "") -> dict[str, Any]:
    """Return the variables of *r*, for an application mounted at the path *mount*.

    What the configuration sets comes first: it replaces nothing that is computed here.
    """
    connection, server, own = r.connection, r.server, r.__dict__
    known = connection.environ
    if known is None or known[0] is not server or known[1] != r.hostname:
        constant = _constant(r)
        connection.environ = (server, r.hostname, constant)
    else:
        constant = known[2]
    environ: dict[str, Any] = constant.copy()
    for name, value in own["headers_in"].items() if "headers_in" in own else r.fields:
        variable = _names.get(name, "")
        if variable == "":
            variable = variable_of(name)
        if variable is not None:
            if variable in environ:
                joint = "; " if variable == "HTTP_COOKIE" else ", "
                value = environ[variable] + joint + value
            environ[variable] = value
    environ["SERVER_PROTOCOL"] = r.protocol
    environ["REQUEST_METHOD"] = r.method
    environ["REQUEST_URI"] = r.unparsed_uri
    environ["QUERY_STRING"] = r.args or ""
    environ["SCRIPT_NAME"] = mount
    environ["PATH_INFO"] = r.uri[len(mount) :] if mount else r.uri
    if r.user is not None:
        environ["REMOTE_USER"] = r.user
        environ["AUTH_TYPE"] = r.ap_auth_type or ""
    if "HTTP_HOST" not in environ and r.hostname is not None:
        environ["HTTP_HOST"] = r.hostname
    if "subprocess_env" in own and r.subprocess_env:
        return {**r.subprocess_env, **environ}
    return environ


def _default_port(r: Request) -> int:
    found: int = run_first(r.host.hooks.default_port, r)
    return 80 if found == DECLINED else found


def _constant(r: Request) -> dict[str, Any]:
    """Return what is the same for all requests of a connection to one name."""
    connection, server = r.connection, r.server
    name = r.hostname
    if name is None or server.process.canonical_names(r):
        name = server.server_hostname or name
    secure = connection.notes.get("ssl")
    port = server.port or connection.local_port or _default_port(r)
    environ: dict[str, Any] = {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "SERVER_SOFTWARE": SOFTWARE,
        "SERVER_NAME": name or connection.local_ip or "localhost",
        "SERVER_PORT": str(port),
        "REQUEST_SCHEME": "http" if secure is None else "https",
        "REMOTE_ADDR": connection.client_ip,
    }
    if connection.client_ip:
        environ["REMOTE_PORT"] = str(connection.client_port)
        environ["SERVER_ADDR"] = connection.local_ip
    if secure is not None:
        environ["HTTPS"] = "on"
        environ.update(secure)
    return environ
