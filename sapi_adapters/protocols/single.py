"""What wires have in common that carry one request at a time (SCGI, AJP13): events, one codec.

Only names and meanings stand here; each wire's rules are in its own file. An adapter written
against :class:`Codec` serves them all.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeAlias


class RequestReceived(NamedTuple):
    """The request's head is there: CGI meta-variables, latin-1, not mended yet."""

    environ: dict[str, str]


class BodyReceived(NamedTuple):
    """The next bytes of the body."""

    data: bytes


class BodyEnded(NamedTuple):
    """The body is over. It is *short* when more was announced.

    Every request has this event, one without a body directly after :class:`RequestReceived`.
    """

    short: bool


Event: TypeAlias = RequestReceived | BodyReceived | BodyEnded


class Codec(Protocol):
    """The application's side of one connection. No I/O, no clock."""

    @property
    def environ(self) -> dict[str, str]:
        """What is known of the request that is being received, or was last."""
        ...

    @property
    def reusable(self) -> bool:
        """After :meth:`end`: whether the connection may carry another request."""
        ...

    @property
    def idle(self) -> bool:
        """Nothing of a request has come since the last one ended."""
        ...

    def receive_data(self, data: bytes) -> list[Event]:
        """Take bytes from the peer; return what happened.

        ``b""`` goes on with what is held, after :meth:`end`. Raises ``ProtocolError`` when the
        connection is to be closed at once, and ``RequestError`` when its status is to be
        answered before; :attr:`environ` then holds what is known. After either nothing more is
        read.
        """
        ...

    def data_to_send(self) -> bytes:
        """Return, once, what the protocol itself answers; ``b""`` for nothing."""
        ...

    def head(self, status: str, headers: list[tuple[str, str]]) -> bytes:
        """Return the response's head. All is latin-1 text that has been validated.

        Raises ``ApplicationError`` when the wire cannot carry it.
        """
        ...

    def body(self, data: bytes) -> bytes:
        """Return *data*, which is not empty, framed as part of the body."""
        ...

    def flush(self) -> bytes:
        """Return what asks the front end to pass on what it holds; ``b""`` where nothing does."""
        ...

    def ask(self) -> bytes:
        """Return what asks for more of the body.

        ``b""`` when it comes unasked, was asked for already, or is over.
        """
        ...

    def end(self, last: bool = False) -> bytes:
        """Return what ends the response, and settle :attr:`reusable`: not after the *last*."""
        ...
