"""mod_authz_user: ``Require user NAME ...`` and ``Require valid-user``.

Left out: expressions in the names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...sapi import ConfigurationError
from ..hooks import OK
from ..module import Module
from .mod_authz_core import (
    DENIED,
    DENIED_NO_USER,
    GRANTED,
    Provider,
    register_authz_provider,
)
from .octets import octets

if TYPE_CHECKING:
    from ..config import Parameters
    from ..hooks import Hooks
    from ..host import Host
    from ..records import Request


def _parse_user(cmd: Parameters, given: list[str]) -> frozenset[str]:
    if not given:
        raise ConfigurationError("'Require user' needs the names of users")
    return frozenset(map(octets, given))


def _check_user(r: Request, names: frozenset[str]) -> int:
    if r.user is None:
        return DENIED_NO_USER
    return GRANTED if r.user in names else DENIED


def _parse_valid(cmd: Parameters, given: list[str]) -> None:
    if given:
        raise ConfigurationError("'Require valid-user' takes nothing more")


def _check_valid(r: Request, nothing: None) -> int:
    return DENIED_NO_USER if r.user is None else GRANTED


def _provide(host: Host) -> int:
    register_authz_provider(host, "user", Provider(_check_user, _parse_user))
    register_authz_provider(host, "valid-user", Provider(_check_valid, _parse_valid))
    return OK


def _register(hooks: Hooks) -> None:
    hooks.add("pre_config", _provide)


authz_user_module = Module("mod_authz_user", register_hooks=_register)
