"""From a request's head to its record: targets, names of hosts, virtual hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .records import Request

if TYPE_CHECKING:
    from ..protocols.http import Head
    from .records import Connection, Server


def make_request(connection: Connection, head: Head, body: Any) -> Request:
    """Return the record of a request whose head has come (ap_read_request)."""
    target, fields = head.target, head.headers
    authority = head.host
    if target[0] != "/" and target != "*":
        _, _, rest = target.partition("://")  # the absolute form; its host wins (RFC 9112 §3.2.2)
        authority, slash, path = rest.partition("/")
        authority, mark, query = authority.partition("?")
        target = slash + path or f"/{mark}{query}"
        fields = [pair for pair in fields if pair[0].lower() != "host"]
        fields.append(("Host", authority))
    hostname = host_name(authority)
    servers: list[Server] = connection.vhosts
    server = servers[0]
    if len(servers) > 1:
        server = connection.base_server.process.find_server(servers, hostname)
    r = Request(connection, server, head.the_request, head.method, target, fields, body)
    path, mark, query = target.partition("?")
    r.uri = path
    if mark:
        r.args = query
    r.hostname = hostname
    if head.method == "HEAD":
        r.header_only = True
    if head.proto_num != 1001:
        r.proto_num, r.protocol = head.proto_num, head.protocol
    if head.expects_continue:
        r.expecting_100 = True
    if head.upgrade is not None:
        r.upgrade = head.upgrade
    keep = head.keep_alive and server.keep_alive
    connection.keepalive = keep and (
        not server.keep_alive_max or connection.keepalives + 1 < server.keep_alive_max
    )
    return r


def host_name(authority: str | None) -> str | None:
    """Return the name in an authority, in lower case and without the port; None without one."""
    if not authority:
        return None
    if authority[0] == "[":
        return authority[: authority.find("]") + 1].lower()
    return authority.partition(":")[0].lower().rstrip(".") or None
