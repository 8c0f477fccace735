"""mod_authz_groupfile: AuthGroupFile and ``Require group NAME ...``.

A line of the file is ``GROUP: USER USER ...``. It is read again when it has changed. Left out:
``Require file-group``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...sapi import ConfigurationError
from ..hooks import OK
from ..module import ACCESS_CONF, OR_AUTHCFG, TAKE1, Command, Module, Settings
from .changing_files import ChangingFiles
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


class Config(Settings):
    """What is configured for a section."""

    file: str | None = None


def _members(data: bytes) -> dict[str, frozenset[str]]:
    """Return the users of each group; the lines of one group add up."""
    groups: dict[str, frozenset[str]] = {}
    for line in data.decode("latin-1").split("\n"):
        name, colon, users = line.strip(" \t\r").partition(":")
        if colon and not name.startswith("#"):
            groups[name.strip(" \t")] = groups.get(name.strip(" \t"), frozenset()).union(
                users.replace("\t", " ").split(" ")
            ) - {""}
    return groups


_files = ChangingFiles(_members)


def _group_file(cmd: Parameters, config: Config, path: str) -> None:
    config.file = cmd.server_path(path)


def _parse_group(cmd: Parameters, given: list[str]) -> frozenset[str]:
    if not given:
        raise ConfigurationError("'Require group' needs the names of groups")
    return frozenset(map(octets, given))


def _check_group(r: Request, names: frozenset[str]) -> int:
    if r.user is None:
        return DENIED_NO_USER
    config: Config = r.per_dir_config[authz_groupfile_module]
    if config.file is None:
        r.log("No group file was specified in the configuration")
        return DENIED
    try:
        groups = _files.get(config.file)
    except OSError as error:
        r.log(f"Could not open group file: {config.file!a}: {error.strerror}")
        return DENIED
    user = r.user
    return GRANTED if any(user in groups.get(name, ()) for name in names) else DENIED


def _provide(host: Host) -> int:
    register_authz_provider(host, "group", Provider(_check_group, _parse_group))
    return OK


def _register(hooks: Hooks) -> None:
    hooks.add("pre_config", _provide)


authz_groupfile_module = Module(
    "mod_authz_groupfile",
    commands=(
        Command("AuthGroupFile", _group_file, TAKE1, ACCESS_CONF | OR_AUTHCFG, "a file of groups"),
    ),
    create_dir_config=lambda path: Config(),
    merge_dir_config=Config.merged,
    register_hooks=_register,
)
