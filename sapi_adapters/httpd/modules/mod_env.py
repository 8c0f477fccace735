"""mod_env: SetEnv, UnsetEnv, PassEnv: variables for applications, set in the fix-ups.

That is after access was decided: for ``Require env`` there is mod_setenvif, and what it has set
by then stays.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..hooks import DECLINED, OK
from ..module import ACCESS_CONF, ITERATE, OR_FILEINFO, RSRC_CONF, TAKE12, Command, Module, Settings
from .octets import octets

if TYPE_CHECKING:
    from ..config import Parameters
    from ..hooks import Hooks
    from ..records import Request


class Config(Settings):
    """What is configured for a section."""

    variables: dict[str, str] = {}  # noqa: RUF012 - replaced, never changed
    unset: frozenset[str] = frozenset()
    """What an outer section has set, and is not to be seen here."""

    def merged(self, new: Config) -> Config:
        """What the new section unsets is gone even where it sets it itself."""
        result: Config = super().merged(new)
        both = {**self.variables, **new.variables}
        result.variables = {name: both[name] for name in both if name not in new.unset}
        result.__dict__.pop("unset", None)
        return result


def _set(cmd: Parameters, config: Config, name: str, value: str | None) -> None:
    if "=" in name:
        cmd.host.warn(f"SetEnv {name} is ignored: the value is an argument of its own")
        return
    config.variables = {**config.variables, name: octets(value or "")}


def _unset(cmd: Parameters, config: Config, name: str) -> None:
    config.unset = config.unset | {name}


def _pass(cmd: Parameters, config: Config, name: str) -> None:
    value = os.environ.get(name)
    if value is None:
        cmd.host.warn(f"PassEnv variable {name} was undefined")
        return
    config.variables = {**config.variables, name: octets(value)}


def _fixup(r: Request) -> int:
    config: Config = r.per_dir_config[env_module]
    if not config.variables:
        return DECLINED
    r.subprocess_env = {**config.variables, **r.subprocess_env}
    return OK


def _register(hooks: Hooks) -> None:
    hooks.add("fixups", _fixup)


_WHERE = RSRC_CONF | ACCESS_CONF | OR_FILEINFO

env_module = Module(
    "mod_env",
    commands=(
        Command("SetEnv", _set, TAKE12, _WHERE, "a name and a value"),
        Command("UnsetEnv", _unset, ITERATE, _WHERE, "names"),
        Command("PassEnv", _pass, ITERATE, _WHERE, "names"),
    ),
    create_dir_config=lambda path: Config(),
    merge_dir_config=Config.merged,
    register_hooks=_register,
)
