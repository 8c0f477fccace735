"""mod_authz_host: ``Require ip``, ``Require host`` and ``Require local``.

The address is the connection's, with IPv4-mapped IPv6 addresses taken for IPv4. A client of a Unix
socket has none: it is at no address, and not local either, as it may be a front end that asks for
somebody else.

``Require host`` looks the client's name up, and then the name's addresses, of which one must be
the client's. Answers are kept for five minutes, failures for half a minute. At most four look-ups
are under way at a time and none is waited for longer than three seconds; what is not known by then
denies. **On an event loop all other requests of the process wait with it**: prefer ``Require ip``
there. Left out: ``Require forward-dns``, and expressions in the names.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
import time
from typing import TYPE_CHECKING, TypeAlias

from ...sapi import ConfigurationError
from ..hooks import OK
from ..module import Module
from .mod_authz_core import DENIED, GRANTED, Provider, register_authz_provider

if TYPE_CHECKING:
    from ..config import Parameters
    from ..hooks import Hooks
    from ..host import Host
    from ..records import Request

Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"
Network: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"

_PARTIAL = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){0,2}\.?")
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_MOST = 1000
"""Addresses whose names are remembered."""
_LOOKUPS = 4
_PATIENCE = 3.0
_KNOWN_FOR, _UNKNOWN_FOR = 300.0, 30.0


def address_of(text: str) -> Address | None:
    """Return the address that *text* is, None for anything else; IPv4-mapped ones are IPv4."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if address.version == 6 else None
    return mapped or address


def network_of(text: str) -> Network:
    """Return the network of ``10.1``, ``10.1.0.0/16``, ``10.1.0.0/255.255.0.0``, ``2001:db8::/32``.

    Raises :class:`ValueError`. Bits behind the mask are of no account.
    """
    if _PARTIAL.fullmatch(text) is not None:
        parts = text.rstrip(".").split(".")
        padded = ".".join([*parts, "0", "0", "0"][:4])
        return ipaddress.IPv4Network(f"{padded}/{8 * len(parts)}")
    found = ipaddress.ip_network(text, strict=False)
    mask = text.partition("/")[2]
    if "." in mask and ipaddress.ip_address(mask) != found.netmask:
        raise ValueError(f"{mask} is no netmask")  # the library takes 0.0.255.255 for one, reversed
    if found.version == 6 and ipaddress.IPv6Address(text.partition("/")[0]) in _MAPPED:
        if found.prefixlen < 96:
            raise ValueError("a mask that short covers more than the IPv4 addresses it is given as")
        mapped = found.network_address.ipv4_mapped
        return ipaddress.IPv4Network(f"{mapped}/{found.prefixlen - 96}")
    return found


# -- by address -----------------------------------------------------------------------------------


def _parse_ip(cmd: Parameters, given: list[str]) -> tuple[Network, ...]:
    if not given:
        raise ConfigurationError("'Require ip' needs addresses or networks")
    found = []
    for text in given:
        try:
            found.append(network_of(text))
        except ValueError as error:
            raise ConfigurationError(
                f"ip address {text!r} appears to be invalid: {error}"
            ) from None
    return tuple(found)


def _check_ip(r: Request, networks: tuple[Network, ...]) -> int:
    address = address_of(r.connection.client_ip)
    if address is None:
        return DENIED
    return GRANTED if any(address in network for network in networks) else DENIED


def _parse_local(cmd: Parameters, given: list[str]) -> None:
    if given:
        raise ConfigurationError("'Require local' does not take any arguments")


def _check_local(r: Request, nothing: None) -> int:
    address = address_of(r.connection.client_ip)
    if address is None:
        return DENIED
    own = address.is_loopback or address == address_of(r.connection.local_ip)
    return GRANTED if own else DENIED


# -- by name --------------------------------------------------------------------------------------


class Names:
    """The names of clients, verified by a double look-up, and remembered for a while."""

    def __init__(self, patience: float = _PATIENCE) -> None:
        self._patience = patience
        self._known: dict[str, tuple[float, str | None]] = {}
        self._under_way = threading.BoundedSemaphore(_LOOKUPS)

    def of(self, address: Address) -> str | None:
        """Return the name of *address* in lower case, None if it has none that is its own."""
        key = str(address)
        now = time.monotonic()
        found = self._known.get(key)
        if found is not None and now < found[0]:
            return found[1]
        if not self._under_way.acquire(blocking=False):
            return None
        answer: list[str | None] = []
        thread = threading.Thread(
            target=self._look_up, args=(key, answer), name="look-up", daemon=True
        )
        thread.start()
        thread.join(self._patience)
        name = answer[0] if answer else None
        if len(self._known) >= _MOST:
            self._known.clear()
        kept = _UNKNOWN_FOR if name is None else _KNOWN_FOR
        self._known[key] = (now + kept, name)
        return name

    def _look_up(self, address: str, answer: list[str | None]) -> None:
        try:
            answer.append(verified_name(address))
        finally:
            self._under_way.release()


def verified_name(address: str) -> str | None:
    """Return the name of *address* if that name has this address. Blocks, as the resolver does."""
    try:
        name, _, _ = socket.gethostbyaddr(address)
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return None
    own = address_of(address)
    if any(address_of(str(each[4][0])) == own for each in found):
        return name.lower().rstrip(".")
    return None


_names = Names()


def in_domain(domain: str, name: str) -> bool:
    """Whether *name* is *domain* or below it, at a dot."""
    if domain.startswith("."):
        return name.endswith(domain)
    return name == domain or name.endswith("." + domain)


def _parse_host(cmd: Parameters, given: list[str]) -> tuple[str, ...]:
    if not given:
        raise ConfigurationError("'Require host' needs names")
    return tuple(name.lower().rstrip(".") for name in given)


def _check_host(r: Request, domains: tuple[str, ...]) -> int:
    address = address_of(r.connection.client_ip)
    name = None if address is None else _names.of(address)
    if name is None:
        r.log("access denied: the client's name could not be determined", "info")
        return DENIED
    return GRANTED if any(in_domain(domain, name) for domain in domains) else DENIED


def _provide(host: Host) -> int:
    register_authz_provider(host, "ip", Provider(_check_ip, _parse_ip))
    register_authz_provider(host, "host", Provider(_check_host, _parse_host))
    register_authz_provider(host, "local", Provider(_check_local, _parse_local))
    return OK


def _register(hooks: Hooks) -> None:
    hooks.add("pre_config", _provide)


authz_host_module = Module("mod_authz_host", register_hooks=_register)
