"""CGI meta-variables of a request (RFC 3875 §4.1): ap_add_common_vars and ap_add_cgi_vars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..sapi import __version__

if TYPE_CHECKING:
    from .records import Request

SOFTWARE = f"sapi_adapters/{__version__}"
_names: dict[str, str | None] = {}
"""Header fields, in lower case, and their variables: None for those that have none. Bounded."""
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


def variable_of(field: str) -> str | None:
    """Return the variable for a header field's name in lower case, such as ``HTTP_HOST``.

    None for those that could be mistaken for another one, or for the process's own (httpoxy).
    """
    if field in ("proxy", "content-length", "content-type"):
        found = {"content-length": "CONTENT_LENGTH", "content-type": "CONTENT_TYPE"}.get(field)
    elif field and _LETTERS.issuperset(field):
        found = "HTTP_" + field.upper().replace("-", "_")
    else:
        found = None
    if len(_names) < 1000:  # clients choose the names
        _names[field] = found
    return found


def environ_of(r: Request, mount: str = "") -> dict[str, Any]:
    """Return the variables of *r*, for an application mounted at the path *mount*.

    What the configuration sets comes first: it replaces nothing that is computed here.
    """
    connection, server = r.connection, r.server
    environ: dict[str, Any] = dict(r.subprocess_env) if r.subprocess_env else {}
    host = r.headers_in.get("Host")
    name = server.server_hostname
    port = server.port or connection.local_port
    if r.hostname is not None:
        name = r.hostname
        if server.process.canonical_names(r):
            name = server.server_hostname or name
    secure = connection.notes.get("ssl") is not None if connection.notes else False
    for key, found in r.headers_in._items.items():
        variable = _names.get(key, "")
        if variable == "":
            variable = variable_of(key)
        if variable is not None:
            value = found[0][1]
            if len(found) > 1:
                value = ("; " if key == "cookie" else ", ").join([pair[1] for pair in found])
            environ[variable] = value
    environ["GATEWAY_INTERFACE"] = "CGI/1.1"
    environ["SERVER_SOFTWARE"] = SOFTWARE
    environ["SERVER_PROTOCOL"] = r.protocol
    environ["SERVER_NAME"] = name or connection.local_ip or "localhost"
    environ["SERVER_PORT"] = str(port or (443 if secure else 80))
    environ["REQUEST_METHOD"] = r.method
    environ["REQUEST_URI"] = r.unparsed_uri
    environ["REQUEST_SCHEME"] = "https" if secure else "http"
    environ["QUERY_STRING"] = r.args or ""
    environ["SCRIPT_NAME"] = mount
    environ["PATH_INFO"] = r.uri[len(mount) :]
    if connection.client_ip:
        environ["REMOTE_ADDR"] = connection.client_ip
        environ["REMOTE_PORT"] = str(connection.client_port)
        environ["SERVER_ADDR"] = connection.local_ip
    else:
        environ["REMOTE_ADDR"] = ""
    if r.user is not None:
        environ["REMOTE_USER"] = r.user
        environ["AUTH_TYPE"] = r.ap_auth_type or ""
    if secure:
        environ["HTTPS"] = "on"
        environ.update(connection.notes["ssl"])
    if host is None and r.hostname is not None:
        environ["HTTP_HOST"] = r.hostname
    return environ
