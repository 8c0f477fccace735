"""mod_auth_basic: users say who they are by HTTP's Basic scheme (RFC 7617).

Left out: AuthBasicFake, AuthBasicUseDigestAlgorithm. Credentials with control characters are
refused, as the RFC has it. Failures are logged with client and user at level error, so that what
watches logs can count them. A user is there only once the password was right: unlike in Apache
the access log has none for those who were refused.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from ..hooks import DECLINED, OK
from ..module import ACCESS_CONF, FLAG, ITERATE, OR_AUTHCFG, Command, Module, Settings, setter
from .mod_authn_core import (
    AUTH_DENIED,
    AUTH_GRANTED,
    AUTH_USER_NOT_FOUND,
    auth_name,
    auth_type,
    authn_provider,
)
from .octets import printable

if TYPE_CHECKING:
    from ..config import Parameters
    from ..hooks import Hooks
    from ..records import Request


class Config(Settings):
    """What is configured for a section."""

    providers: tuple[str, ...] = ("file",)
    authoritative = True
    """Whether a user whom no provider knows is refused, or left to another module."""


def _is_basic(r: Request) -> bool:
    kind = auth_type(r)
    return kind is not None and kind.lower() == "basic"


def credentials(value: str) -> tuple[str, bytes] | None:
    """Return user and password of an Authorization field, None for another scheme or nonsense."""
    scheme, _, rest = value.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        decoded = base64.b64decode(rest.strip(" \t").encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        return None
    user, colon, password = decoded.partition(b":")
    name = user.decode("latin-1")
    if not colon or not all(" " <= sign != "\x7f" for sign in name):
        return None
    return name, password


def _check_user_id(r: Request) -> int:
    if not _is_basic(r):
        return DECLINED
    if auth_name(r) is None:
        r.log(f"need AuthName: {r.uri!a}")
        return 500
    r.ap_auth_type = "Basic"
    field = r.headers_in.get("Authorization")
    if field is None:
        return 401
    given = credentials(field)
    if given is None:
        r.log(f"client used wrong authentication scheme or a malformed field: {r.uri!a}")
        return 401
    user, password = given
    config: Config = r.per_dir_config[auth_basic_module]
    found = AUTH_USER_NOT_FOUND
    for name in config.providers:
        check = authn_provider(r.host, name)
        if check is None:
            r.log(f"no module provides AuthBasicProvider {name}")
            return 500
        found = check(r, user, password)
        if found != AUTH_USER_NOT_FOUND:
            break
    if found == AUTH_GRANTED:
        r.user = user  # not before: an error document may be an application that trusts it
        return OK
    if found == AUTH_USER_NOT_FOUND:
        if not config.authoritative:
            return DECLINED
        r.log(f"user {user!a} not found: {r.uri!a}")
        return 401
    if found == AUTH_DENIED:
        r.log(f"user {user!a}: authentication failure for {r.uri!a}: Password Mismatch")
        return 401
    return 500


def _challenge(r: Request, kind: str) -> int:
    """note_auth_failure: say how to log in."""
    if not _is_basic(r) or auth_name(r) is None:
        return DECLINED
    if "WWW-Authenticate" not in r.err_headers_out:
        realm = (auth_name(r) or "").replace("\\", "\\\\").replace('"', '\\"')
        if printable(realm):
            r.err_headers_out.set("WWW-Authenticate", f'Basic realm="{realm}"')
    return OK


def _provider(cmd: Parameters, config: Config, name: str) -> str | None:
    if authn_provider(cmd.host, name) is None:
        return f"Unknown Authn provider: {name}"
    config.providers = (*config.__dict__.get("providers", ()), name)
    return None


def _register(hooks: Hooks) -> None:
    hooks.add("check_user_id", _check_user_id)
    hooks.add("note_auth_failure", _challenge)


_WHERE = ACCESS_CONF | OR_AUTHCFG

auth_basic_module = Module(
    "mod_auth_basic",
    commands=(
        Command("AuthBasicProvider", _provider, ITERATE, _WHERE, "names of providers"),
        Command("AuthBasicAuthoritative", setter("authoritative"), FLAG, _WHERE),
    ),
    create_dir_config=lambda path: Config(),
    merge_dir_config=Config.merged,
    register_hooks=_register,
)
