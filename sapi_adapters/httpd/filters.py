"""Filters: what the bytes of a response pass on their way out, and those of a request's body.

A brigade is a list of buckets: ``bytes``, a :class:`FileBucket`, :data:`FLUSH`, :data:`EOS`. An
output filter gets itself and a brigade, and passes what it makes of it on to ``f.next``. It may
take itself out of the chain. Filters are sorted by type: what changes the resource comes first,
the network last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from .records import Request

RESOURCE, CONTENT_SET, PROTOCOL, TRANSCODE, CONNECTION, NETWORK = 10, 20, 30, 40, 50, 60
"""Types of filters: changes of the content; of its coding; HTTP; transfer coding; the wire's."""


class _Mark:
    """A bucket without data."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


FLUSH = _Mark("FLUSH")
"""What came before is to be sent now."""
EOS = _Mark("EOS")
"""The response is complete."""


class FileBucket:
    """*length* bytes of the open file *fd*, from *offset* on; the network sends them by sendfile.

    Whoever makes one keeps *fd* open until the request is over.
    """

    __slots__ = ("fd", "length", "offset")

    def __init__(self, fd: int, offset: int, length: int) -> None:
        self.fd = fd
        self.offset = offset
        self.length = length

    def __len__(self) -> int:
        return self.length

    def read(self) -> bytes:
        """Return all of it, for a filter that must see the bytes; see :func:`blocks`."""
        return b"".join(blocks(self))


Bucket: TypeAlias = "bytes | FileBucket | _Mark"
Brigade: TypeAlias = "list[Bucket]"


def blocks(bucket: FileBucket, size: int = 65536) -> Any:
    """Yield the bytes of a file's bucket in blocks of up to *size* bytes."""
    import os

    offset, left = bucket.offset, bucket.length
    while left > 0:
        data = os.pread(bucket.fd, min(size, left), offset)
        if not data:
            raise OSError("the file became shorter while it was being sent")
        yield data
        offset, left = offset + len(data), left - len(data)


class Filter:
    """One filter in the chain of one request (ap_filter_t)."""

    __slots__ = ("context", "function", "name", "next", "request", "type")

    def __init__(
        self,
        function: Callable[[Filter, Brigade], None],
        request: Request,
        next: Filter | None,
        type: int = NETWORK,
        name: str = "CORE",
    ) -> None:
        self.function = function
        self.request = request
        self.next = next
        self.type = type
        self.name = name
        self.context: Any = None
        """The filter's own."""

    def pass_brigade(self, brigade: Brigade) -> None:
        """Let this filter have *brigade*."""
        self.function(self, brigade)

    def pass_on(self, brigade: Brigade) -> None:
        """Give *brigade* to the next filter."""
        following = self.next
        assert following is not None  # noqa: S101 - the network's filter does not call it
        following.function(following, brigade)

    def remove(self) -> None:
        """Leave the chain."""
        request = self.request
        if request.output_filters is self:
            assert self.next is not None  # noqa: S101 - the network's filter never leaves
            request.output_filters = self.next
            return
        before = request.output_filters
        while before.next is not None and before.next is not self:
            before = before.next
        before.next = self.next


class OutputFilter:
    """A registered output filter (ap_register_output_filter)."""

    def __init__(
        self,
        name: str,
        function: Callable[[Filter, Brigade], None],
        type: int,
        start: Callable[[Filter], None] | None = None,
    ) -> None:
        self.name = name
        self.function = function
        self.type = type
        self.start = start
        """Called when it comes into a chain."""


class InputFilter:
    """A registered input filter: *make* is called with the request and returns an object.

    That has ``receive(data: bytes) -> bytes``, called with ``b""`` at the body's end, and gives
    what the body is from there on.
    """

    def __init__(self, name: str, make: Callable[[Request], Any]) -> None:
        self.name = name
        self.make = make


def insert_output(request: Request, name: str) -> Filter:
    """Put the registered filter *name* in its place in the chain of *request*."""
    registered = request.host.output_filters[name.lower()]
    added = Filter(registered.function, request, None, registered.type, registered.name)
    before: Filter | None = None
    at: Filter | None = request.output_filters
    while at is not None and at.type <= added.type and at.function is not network_output:
        before, at = at, at.next
    added.next = at
    if before is None:
        request.output_filters = added
    else:
        before.next = added
    if registered.start is not None:
        registered.start(added)
    return added


def network_output(f: Filter, brigade: Brigade) -> None:
    """The last filter: everything goes to the connection (ap_core_output_filter)."""
    f.request.connection.transport.send_brigade(f.request, brigade)
