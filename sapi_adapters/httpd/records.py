"""The records that modules work with: server, connection and request, and tables of headers.

Field names are Apache's (``server_rec``, ``conn_rec``, ``request_rec``), so that what is known of
these is true here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from .filters import FLUSH, Filter, insert_output, network_output
from .http_out import HTTP_1_1, HTTP_OUT

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from .host import Host
    from .module import Vector


class Table:
    """Header fields or the like: names without case, each with one or more values (apr_table_t)."""

    __slots__ = ("_items",)

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        self._items: dict[str, list[tuple[str, str]]] = {}
        for name, value in items:
            key = name.lower()
            found = self._items.get(key)
            if found is None:
                self._items[key] = [(name, value)]
            else:
                found.append((name, value))

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the first value of *name*."""
        found = self._items.get(name.lower())
        return default if found is None else found[0][1]

    def all(self, name: str) -> list[str]:
        """Return every value of *name*."""
        return [value for _, value in self._items.get(name.lower(), ())]

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._items

    def __len__(self) -> int:
        return sum(map(len, self._items.values()))

    def set(self, name: str, value: str) -> None:
        """Let *name* have *value* alone."""
        self._items[name.lower()] = [(name, value)]

    def add(self, name: str, value: str) -> None:
        """Give *name* a further value."""
        self._items.setdefault(name.lower(), []).append((name, value))

    def merge(self, name: str, value: str) -> None:
        """Append *value* to the first one, after a comma; or set it."""
        found = self._items.get(name.lower())
        if found:
            found[0] = (found[0][0], f"{found[0][1]}, {value}")
        else:
            self.set(name, value)

    def unset(self, name: str) -> None:
        """Remove *name*."""
        self._items.pop(name.lower(), None)

    def keys(self) -> Collection[str]:
        """Return the names, in lower case."""
        return self._items.keys()

    def items(self) -> Iterator[tuple[str, str]]:
        """Yield every name, as it was given, with each of its values."""
        for found in self._items.values():
            yield from found

    def copy(self) -> Table:
        """Return another table with the same content."""
        other = Table()
        other._items = {key: list(found) for key, found in self._items.items()}
        return other

    def clear(self) -> None:
        """Remove everything."""
        self._items.clear()

    def __repr__(self) -> str:
        return f"Table({list(self.items())!r})"


class Server:
    """The main server or a virtual host (server_rec)."""

    def __init__(self, host: Host, defn_name: str = "", defn_line_number: int = 0) -> None:
        self.process = host
        self.defn_name = defn_name
        self.defn_line_number = defn_line_number
        self.is_virtual = False
        self.module_config: Vector = {}
        """Each module's per-server configuration."""
        self.lookup_defaults: Vector = {}
        self.walked: dict[str, Any] = {}
        """The same for directories."""
        self.located: dict[tuple[int, str], Any] = {}
        """What was found for paths; walks.py's."""
        """Each module's per-directory configuration outside of all sections."""
        self.server_scheme: str | None = None
        self.server_admin: str | None = None
        self.server_hostname: str | None = None
        self.port = 0
        """Of ServerName; 0 when it names none."""
        self.addrs: list[tuple[str, int]] = []
        """What a virtual host is for: addresses (``"*"`` for any) and ports (0 for any)."""
        self.names: list[str] = []
        """ServerAlias, in lower case."""
        self.wild_names: list[str] = []
        """Those of them with ``*`` or ``?``."""
        self.timeout: float = 60.0
        self.keep_alive = True
        self.keep_alive_max = 100
        """Requests on one connection; 0 for any number."""
        self.keep_alive_timeout: float = 5.0
        self.limit_req_line = 8190
        self.limit_req_fieldsize = 8190
        self.limit_req_fields = 100
        self.error_fname: str | None = None
        self.loglevel = "warn"
        self.merge_slashes = True
        self.signature = "sapi_adapters"
        """The Server field of its responses."""

    def __repr__(self) -> str:
        return f"<Server {self.server_hostname or 'main'}>"


class Connection:
    """One connection of a client (conn_rec).

    The host's drivers fill :attr:`transport`, see transport.py's interface in filters.py.
    """

    aborted = False
    """The client has gone: what is written goes nowhere."""
    keepalives = 0
    """Requests that were served before the present one."""
    keepalive = False
    """Whether another request may come."""
    input_codec: Any = None
    """Set by a module in pre_connection: translates the bytes of the connection, as TLS does."""
    remote_host: str | None = None
    environ: Any = None
    """The variables that its requests share; environ.py's."""
    log_id: str | None = None

    def __init__(
        self,
        base_server: Server,
        transport: Any,
        client: tuple[str, int],
        local: tuple[str, int],
        id: int = 0,
    ) -> None:
        self.base_server = base_server
        self.transport = transport
        self.client_ip, self.client_port = client
        self.local_ip, self.local_port = local
        self.client_pair = client if client[0] else None
        """As ASGI has it: None without an address."""
        self.server_pair = (local[0], base_server.port or local[1]) if local[0] else None
        self.id = id
        self.notes: dict[str, Any] = {}
        self.conn_config: dict[Any, Any] = {}
        """Modules keep here what is a connection's, by their record."""
        self.vhosts: Any = None
        """The virtual hosts of its address; kept by the host."""

    @property
    def asynchronous(self) -> bool:
        """Whether handlers run on an event loop, where nothing may block: see in_thread."""
        found: bool = self.transport.asynchronous
        return found


class Request:
    """One request and the response to it (request_rec).

    Most fields have a default on the class and are set only where they differ.
    """

    next: Request | None = None
    prev: Request | None = None
    """The one that was redirected internally to this one."""
    main: Request | None = None
    """The one whose subrequest this is."""
    assbackwards = False
    """HTTP/0.9: never, here."""
    header_only = False
    """A HEAD request: no body is sent."""
    proto_num = HTTP_1_1
    protocol = "HTTP/1.1"
    hostname: str | None = None
    """Of the Host field or of an absolute target, without the port, in lower case."""
    status = 200
    status_line: str | None = None
    """``"404 Gone fishing"``, where the reason is not the usual one."""
    sent_bodyct = False
    bytes_sent = 0
    """Bytes of the body that the network was given, without chunked framing."""
    bytes_out = 0
    """All bytes that the network was given, with the head (mod_logio's %O)."""
    mtime = 0.0
    """When the resource was changed, in seconds since the epoch; 0 when it is not known."""
    range: str | None = None
    clength: int | None = None
    """Of the response."""
    chunked = False
    """The response's body is sent in chunks."""
    expecting_100 = False
    upgrade: str | None = None
    """The protocols that the client would rather speak, in lower case."""
    content_type: str | None = None
    handler: str | None = None
    content_encoding: str | None = None
    content_languages: tuple[str, ...] = ()
    user: str | None = None
    ap_auth_type: str | None = None
    filename: str | None = None
    """What the URI was mapped to."""
    canonical_filename: str | None = None
    path_info = ""
    """What of the URI is behind the file."""
    used_path_info: bool | None = None
    """AcceptPathInfo: None to let the handler decide."""
    eos_sent = False
    headers_sent = False
    """The head is on its way: it can be changed no more, and no error page can replace it."""
    no_cache = False
    no_local_copy = False
    finfo: Any = None
    """``os.stat_result`` of :attr:`filename`, None when there is no such file."""
    proxyreq = False
    log_id: str | None = None
    redirects = 0
    """How many internal redirects led here."""
    server_protocol_included = False
    """It is a subrequest whose output is a part of another's."""
    read_body = True
    allowed: frozenset[str] = frozenset()
    """Methods that the resource takes, for Allow."""
    auth_tried = False
    fields_out: Any = None
    """What an application answered, until somebody asks for :attr:`headers_out`."""

    connection: Connection
    server: Server
    the_request: str
    fields: list[tuple[str, str]]
    """The header fields as they came; :attr:`headers_in` is made of them."""
    method: str
    unparsed_uri: str
    """The target as it came, without what makes it absolute."""
    uri: str
    """Its path, decoded."""
    args: str | None
    """The query, None when there is no ``?``."""
    headers_in: Table
    headers_out: Table
    err_headers_out: Table
    """Also sent with errors, and kept over internal redirects."""
    subprocess_env: dict[str, str]
    """What the configuration sets for programs and applications."""
    notes: dict[str, str]
    per_dir_config: Vector
    """Each module's configuration for the sections that hold for the request."""
    request_config: dict[Any, Any]
    """Modules keep here what is a request's, by their record."""
    output_filters: Filter
    body: Any
    """Where the request's body comes from: see :class:`~.filters.Body`."""

    def __init__(
        self,
        connection: Connection,
        server: Server,
        the_request: str,
        method: str,
        unparsed_uri: str,
        fields: list[tuple[str, str]],
        body: Any,
    ) -> None:
        self.connection = connection
        self.server = server
        self.the_request = the_request
        self.method = method
        self.unparsed_uri = self.uri = unparsed_uri
        self.args = None
        self.fields = fields
        self.per_dir_config = server.lookup_defaults
        self.request_time = time.time()
        self.request_clock = time.monotonic()
        self.body = body

    def __getattr__(self, name: str) -> Any:
        """Make what most requests never ask for, when it is asked for."""
        make = _LATER.get(name)
        if make is None:
            raise AttributeError(f"a request has no {name!r}")
        made = self.__dict__[name] = make(self)
        return made

    # -- for handlers

    @property
    def host(self) -> Host:
        """The host that serves it."""
        return self.server.process

    @property
    def aborted(self) -> bool:
        """Whether the client has gone."""
        return self.connection.aborted

    def read(self, size: int) -> bytes:
        """Return the next 1 to *size* bytes of the body, ``b""`` at its end. Blocks.

        On an event loop only for functions that :meth:`in_thread` runs. Raises
        :class:`~sapi_adapters.sapi.ClientDisconnected` when the client has gone, and
        :class:`~sapi_adapters.sapi.RequestError` for a body that is too large or malformed.
        """
        data: bytes = self.body.read(size)
        return data

    def write(self, data: bytes) -> None:
        """Send *data* through the output filters (ap_rwrite)."""
        if data:
            self.output_filters.pass_brigade([data])

    def flush(self) -> None:
        """Send what the filters hold (ap_rflush)."""
        self.output_filters.pass_brigade([FLUSH])

    async def drained(self) -> None:
        """On an event loop: wait until the client has taken most of what was written."""
        await self.connection.transport.drained()

    def in_thread(self, function: Callable[[Request], int]) -> int | Awaitable[int]:
        """Call *function* with this request where it may block: at once, or in a thread.

        What it returns is a handler's to return: the result, or under an event loop an awaitable
        of it.
        """
        if self.connection.asynchronous:
            found: Awaitable[int] = self.connection.transport.in_thread(function, self)
            return found
        return function(self)

    def cleanup(self, function: Callable[[], object]) -> None:
        """Call *function* when the request is over, the last one first (phase 11)."""
        self._cleanups.append(function)

    def run_cleanups(self) -> None:
        """Phase 11."""
        while "_cleanups" in self.__dict__ and self._cleanups:
            function = self._cleanups.pop()
            try:
                function()
            except Exception:
                self.host.log_exception(f"clean-up after {self.the_request!a}")

    def add_output_filter(self, name: str) -> None:
        """Put the registered output filter *name* into the chain, by its type.

        Raises :class:`LookupError` when there is none.
        """
        insert_output(self, name)

    def log(self, message: str, level: str = "error") -> None:
        """Write *message* about this request to the error log (ap_log_rerror)."""
        self.host.log_request(self, message, level)

    @property
    def is_initial(self) -> bool:
        """Neither a subrequest nor the result of an internal redirect (ap_is_initial_req)."""
        return self.main is None and self.prev is None

    def __repr__(self) -> str:
        return f"<Request {self.the_request}>"


def _headers_out(r: Request) -> Table:
    """Return the header fields of the response, those of an application's too."""
    given, r.fields_out = r.fields_out, None
    if given is None:
        return Table()
    return Table(pair for pair in given[0] if pair[0].lower() != "content-type")


def _output_filters(r: Request) -> Filter:
    """Return the chain that every response passes: HTTP, then the network."""
    network = Filter(network_output, r, None)
    return Filter(HTTP_OUT.function, r, network, HTTP_OUT.type, HTTP_OUT.name)


_LATER: dict[str, Callable[[Request], Any]] = {
    "headers_in": lambda r: Table(r.fields),
    "headers_out": _headers_out,
    "err_headers_out": lambda r: Table(),
    "subprocess_env": lambda r: {},
    "notes": lambda r: {},
    "request_config": lambda r: {},
    "output_filters": _output_filters,
    "_cleanups": lambda r: [],
}
