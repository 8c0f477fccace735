"""mod_authn_core: AuthType, AuthName, and who knows the passwords.

Left out: AuthnProviderAlias, and expressions as the values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from ..hooks import DECLINED, LAST
from ..module import ACCESS_CONF, OR_AUTHCFG, TAKE1, Command, Module, Settings, setter
from .octets import octets

if TYPE_CHECKING:
    from ..hooks import Hooks
    from ..host import Host
    from ..records import Request

AUTH_DENIED, AUTH_GRANTED, AUTH_USER_NOT_FOUND, AUTH_GENERAL_ERROR = range(4)
"""What a provider says of a user and a password (authn_status). GENERAL_ERROR it has logged."""

Provider: TypeAlias = "Callable[[Request, str, bytes], int]"
"""Given the request, the user as latin-1 text and the password's bytes."""


def register_authn_provider(host: Host, name: str, check: Provider) -> None:
    """Let *check* be what AuthBasicProvider calls *name*. To be called in the hook pre_config."""
    host.provided.setdefault("authn_providers", {})[name] = check


def authn_provider(host: Host, name: str) -> Provider | None:
    """Return what was registered as *name*."""
    found: Provider | None = host.provided.get("authn_providers", {}).get(name)
    return found


class Config(Settings):
    """What is configured for a section."""

    type: str | None = None
    """None also for ``AuthType None``, which takes back one from further out."""
    name: str | None = None


def auth_type(r: Request) -> str | None:
    """Return how users of *r* say who they are, such as ``"Basic"`` (ap_auth_type)."""
    config: Config | None = r.per_dir_config.get(authn_core_module)
    return None if config is None else config.type


def auth_name(r: Request) -> str | None:
    """Return the realm, as latin-1 text (ap_auth_name)."""
    config: Config | None = r.per_dir_config.get(authn_core_module)
    return None if config is None else config.name


def _type(name: str) -> str | None:
    return None if name.lower() == "none" else name


def _nobody_asks(r: Request) -> int:
    """check_user_id, after all others."""
    name = auth_type(r)
    if name is None:
        return DECLINED
    r.log(f"AuthType {name} configured without corresponding module, or none that decides")
    return 500


def _register(hooks: Hooks) -> None:
    hooks.add("check_user_id", _nobody_asks, order=LAST)


_WHERE = ACCESS_CONF | OR_AUTHCFG

authn_core_module = Module(
    "mod_authn_core",
    commands=(
        Command("AuthType", setter("type", _type), TAKE1, _WHERE, "Basic or None"),
        Command("AuthName", setter("name", octets), TAKE1, _WHERE, "the realm"),
    ),
    create_dir_config=lambda path: Config(),
    merge_dir_config=Config.merged,
    register_hooks=_register,
)
