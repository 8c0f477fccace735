"""The short way of a plain request to an ASGI application in the host.

Where no module but core and mod_sapi takes part in a phase, the phases of a request without a body
have one outcome for each path. It is found once; then such a request goes from its head to the
application, and a response that comes whole to the network, without a request record and without
filters between. Whatever is not plain makes the record when it turns up, and goes on as any other
request does. Measured: a third of the time of the long way.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from ..httpd.coreconfig import core_module, server_config
from ..httpd.hooks import run_all
from ..httpd.phases import finish
from ..httpd.reading import make_request
from ..httpd.walks import sections_for
from ..protocols.http import http_date
from .http_wire import Nothing
from .mod import HANDLER, AsyncModExchange, sapi_module, wire_names

if TYPE_CHECKING:
    from ..httpd.host import Host
    from ..httpd.module import Vector
    from ..httpd.records import Request
    from ..protocols.http import Head
    from .http_event import EventWire

PHASES = (
    "create_request",
    "post_read_request",
    "quick_handler",
    "pre_translate_name",
    "translate_name",
    "map_to_storage",
    "post_perdir_config",
    "header_parser",
    "access_checker",
    "access_checker_ex",
    "check_user_id",
    "auth_checker",
    "type_checker",
    "fixups",
    "insert_filter",
)
_OURS = {"core", "mod_sapi"}
_PLAIN = re.compile(r"(?:/[0-9A-Za-z_~!$&'()*+,;=:@-][0-9A-Za-z_~!$&'()*+,;=:@.-]*)*/?")
"""Paths that mean what they say: no escapes, no dots at a segment's begin, no empty segments."""
_OWN = re.compile(rb"(?im)^(date|server):")
_MOST = 1000


class Plan:
    """What the phases come to for one path."""

    def __init__(self, config: Any, vector: Vector, sapi: Any, cycle: Any, path: str) -> None:
        self.config = config
        self.vector = vector
        self.sapi = sapi
        self.cycle = cycle
        self.path = path
        self.mount = config.mount
        self.settings = {**config.values, **config.admin}


class Lane:
    """The short way of one host, in one process."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.server = host.main
        self.log = host.hooks.log_transaction
        self._plans: dict[str, Plan | None] = {}
        self._lines: dict[int, bytes] = {}
        self._second = 0
        self._date = b""
        self._signed = f"Server: {host.main.signature}\r\n".encode("latin-1")

    def find(self, head: Head) -> Plan | None:
        """Return the plan for *head*, None if it goes the long way."""
        path = head.target.partition("?")[0]
        try:
            return self._plans[path]
        except KeyError:
            pass
        if len(self._plans) >= _MOST:
            self._plans.clear()
        plan = self._plans[path] = self._made(path)
        return plan

    def _made(self, path: str) -> Plan | None:
        if _PLAIN.fullmatch(path) is None:
            return None
        server = self.server
        vector = self.host.merged(server.lookup_defaults, sections_for(server, path))
        core, config = vector[core_module], vector[sapi_module]
        if core.handler != HANDLER or core.output_filters or core.input_filters:
            return None
        if config.app is None or not config.engine or config.mount is None:
            return None
        cycle, asynchronous, sapi = self.host.provided["applications"].get(config)
        if not asynchronous or not getattr(cycle, "takes_whole_responses", False):
            return None
        return Plan(config, vector, sapi, cycle, path)

    def begin_of(self, status: int, reason: str, fields: bytes) -> bytes:
        """Return the status line and the server's own fields, but those that are in *fields*."""
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._date = f"Date: {http_date(now)}\r\n".encode("latin-1")
        line = self._lines.get(status)
        if line is None:
            line = self._lines[status] = f"HTTP/1.1 {status} {reason}\r\n".encode("latin-1")
        own = {name.lower() for name in _OWN.findall(fields)}
        if own:
            date = b"" if b"date" in own else self._date
            return line + date + (b"" if b"server" in own else self._signed)
        return line + self._date + self._signed


def lane_of(host: Host) -> Lane | None:
    """Return the short way of *host*, None if other modules take part in its phases."""
    if sapi_module not in host.modules:
        return None
    table = host.hooks.table()
    if host.servers or any(set(table.get(phase, ())) - _OURS for phase in PHASES):
        return None
    if any(section.is_regex for section in server_config(host.main).locations):
        return None
    return Lane(host)


class LaneExchange(AsyncModExchange):
    """A plain request, for the gateway and for those who watch over requests.

    It is an :class:`AsyncModExchange` whose request record is made when it is asked for.
    """

    refused = ""
    status = ""
    failure_status = "500 Internal Server Error"
    note_stage = None
    direct = True

    def __init__(self, wire: EventWire, head: Head, plan: Plan, lane: Lane) -> None:
        self.sapi = plan.sapi
        self.config = plan.config
        self._wire = wire
        self._head = head
        self.plan = plan
        self._lane = lane
        self._held = []
        self._size = 0
        self.ended = False
        self.over = False
        """The servers are told that it has ended."""
        self.written = 0
        method, target = head.method.encode(), head.target.encode("latin-1")
        self.noted = (method, b"", b"", target, b"")

    def __getattr__(self, name: str) -> Any:
        if name == "request":
            self.request = made = self._make_request()
            return made
        if name == "environ":  # for messages: the application gets a scope
            head = self._head
            self.environ = {"REQUEST_METHOD": head.method, "REQUEST_URI": head.target}
            return self.environ
        raise AttributeError(name)

    def _make_request(self) -> Request:
        connection, plan = self._wire.connection, self.plan
        keepalive = connection.keepalive
        r = make_request(connection, self._head, Nothing(0))
        connection.keepalive = keepalive
        r.per_dir_config, r.handler = plan.vector, HANDLER
        return r

    @property
    def aborted(self) -> bool:  # type: ignore[override]
        return self._wire.connection.aborted

    post_ended = True

    async def read_post(self, size: int) -> bytes:
        return b""

    def make_scope(self) -> dict[str, Any]:
        """Return the ASGI scope, made of the head."""
        head, plan, connection = self._head, self.plan, self._wire.connection
        headers = []
        for name, value in head.headers:
            wire = wire_names.get(name, b"?")
            if wire == b"?":
                return self._make_scope()  # which learns the names
            if wire is not None:
                headers.append((wire, value.encode("latin-1")))
        _, mark, query = head.target.partition("?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": head.protocol[5:],
            "method": head.method,
            "scheme": "http",
            "path": plan.path,
            "raw_path": plan.path.encode(),
            "query_string": query.encode("latin-1") if mark else b"",
            "root_path": plan.mount,
            "headers": headers,
            "client": connection.client_pair,
            "server": connection.server_pair,
            "extensions": {
                "sapi": {
                    "name": self.sapi.name,
                    "remote_user": None,
                    "auth_type": None,
                    "settings": plan.settings.copy(),
                },
                "http.response.pathsend": {},
            },
        }

    # -- what the gateway gives whole

    def send_whole(
        self, status: int, reason: str, fields: bytes, body: bytes, length: bool
    ) -> None:
        """Send a complete response: *fields* are checked lines, *length* is whether they have a
        Content-Length."""
        self.ended = True
        wire, head = self._wire, self._head
        data = self._lane.begin_of(status, reason, fields) + fields
        if not length and (body or head.method != "HEAD"):
            data += b"Content-Length: %d\r\n" % len(body)
        if not wire.connection.keepalive:
            data += b"Connection: close\r\n"
        elif head.proto_num != 1001:
            data += b"Connection: keep-alive\r\n"
        if head.method != "HEAD":
            self.written = len(body)
            data += b"\r\n" + body
        else:
            data += b"\r\n"
        self._size = len(data)
        self._whole = (status, f"{status} {reason}")
        wire.stream.write(data)

    _whole: tuple[int, str] | None = None

    def cut(self) -> None:
        if not self.ended:
            super().cut()

    def conclude(self) -> None:
        """Log the request, if anybody does, and run what is to be run at its end."""
        r: Request | None = self.__dict__.get("request")
        if self._whole is None:
            r = self.request
            finish(r)
        elif r is None and not self._lane.log:
            return
        else:
            r = self.request
            r.status, r.status_line = self._whole
            r.headers_sent = r.eos_sent = True
            r.bytes_sent, r.bytes_out = self.written, self._size
        try:
            run_all(self._lane.log, r)
        except Exception:
            self._lane.host.log_exception("internal: the request could not be logged", r)
        r.run_cleanups()
