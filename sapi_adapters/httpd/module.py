"""Modules of the host: what one is, its directives, and how it is found and checked.

A module is a :class:`Module` record in a file ``mod_NAME.py``, as Apache's is a ``module``
structure in ``mod_NAME.c``. It creates and merges its own configuration, brings directives and
hooks into the phases; the host calls nothing else of it. docs/host.md is the author's guide.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

from ..sapi import ConfigurationError

if TYPE_CHECKING:
    from .config import Parameters
    from .hooks import Hooks
    from .records import Server

MAGIC = 0x41503232
"""``"AP22"``: what tells a module's record from anything else of that name."""
API_MAJOR, API_MINOR = 1, 0
"""A module of another major number is refused; the minor number says what it may use."""
STANDARD = "sapi_adapters.httpd.modules"
"""The package of the modules that come with the host."""

# How the arguments of a directive are taken (args_how).
RAW_ARGS = "RAW_ARGS"
"""The rest of the line, as it is."""
NO_ARGS = "NO_ARGS"
FLAG = "FLAG"
"""``On`` or ``Off``, given as a bool."""
TAKE1, TAKE2, TAKE3 = "TAKE1", "TAKE2", "TAKE3"
TAKE12, TAKE23, TAKE13, TAKE123 = "TAKE12", "TAKE23", "TAKE13", "TAKE123"
"""Those that are absent are None."""
ITERATE = "ITERATE"
"""One or more, with a call for each."""
ITERATE2 = "ITERATE2"
"""The first one and each of the further ones, with a call for each of these."""
TAKE_ARGV = "TAKE_ARGV"
"""All of them, as a list."""

# Where a directive may stand (req_override), as Apache's bits.
OR_NONE = 0
OR_LIMIT, OR_OPTIONS, OR_FILEINFO, OR_AUTHCFG, OR_INDEXES = 1, 2, 4, 8, 16
"""In .htaccess files if AllowOverride permits the class, and wherever ACCESS_CONF is."""
ACCESS_CONF = 64
"""In Directory, Location and Files sections."""
RSRC_CONF = 128
"""Outside of these: in the main part and in VirtualHost sections."""
EXEC_ON_READ = 256
"""It is executed while the file is read, before everything else."""
OR_ALL = OR_LIMIT | OR_OPTIONS | OR_FILEINFO | OR_AUTHCFG | OR_INDEXES


@dataclass(frozen=True)
class Command:
    """One directive (command_rec).

    *function* is called with :class:`~.config.Parameters`, the module's configuration and the
    arguments as *how* says; the configuration is the section's where the directive stands in one
    or has a class of OR_*, ACCESS_CONF; else, for RSRC_CONF alone, the server's. It returns None,
    or a text that says what is wrong.
    """

    name: str
    function: Callable[..., str | None]
    how: str
    where: int
    help: str = ""
    """What the arguments are, for error messages."""


@dataclass(eq=False)
class Module:
    """A module (``module`` structure). Its configuration may be any object, None without one.

    A merge must return a new object and change neither of its arguments: requests share them.
    Without a merge function the new one takes the base's place.
    """

    name: str
    """``mod_NAME``, the same as its file's."""
    commands: tuple[Command, ...] = ()
    create_dir_config: Callable[[str | None], Any] | None = None
    """Given the section's path or pattern, None for the default one."""
    merge_dir_config: Callable[[Any, Any], Any] | None = None
    """Given the base and what is added."""
    create_server_config: Callable[[Server], Any] | None = None
    merge_server_config: Callable[[Any, Any], Any] | None = None
    register_hooks: Callable[[Hooks], None] | None = None
    version: int = API_MAJOR
    minor_version: int = API_MINOR
    magic: int = MAGIC
    symbol: str = field(default="", init=False)
    """What LoadModule calls it, such as ``mime_module``."""
    file: str = field(default="", init=False)
    """Where it came from: a path or a dotted name."""

    def of(self, vector: Vector) -> Any:
        """Return this module's configuration in *vector* (ap_get_module_config)."""
        return vector[self]


Vector: TypeAlias = dict[Module, Any]
"""The configurations of one server or section, by module."""


class Settings:
    """A base for configurations: attributes have their defaults on the class.

    Only those that a directive sets are in the object, so that one merge is right for all.
    Mutable values are replaced, never changed: merged objects share them.
    """

    def merged(self, new: Any) -> Any:
        """Return a new object with what this one says and, over it, what *new* says."""
        result = type(self)()
        result.__dict__ = {**self.__dict__, **new.__dict__}
        return result


def setter(name: str, convert: Callable[[str], Any] = str) -> Callable[..., str | None]:
    """Return a function for a TAKE1 directive that stores its argument as attribute *name*.

    What *convert* raises as :class:`ValueError` is the error's text.
    """

    def store(parameters: Parameters, config: Any, value: Any) -> str | None:
        try:
            setattr(config, name, value if isinstance(value, bool) else convert(value))
        except ValueError as error:
            command = parameters.command
            return f"{'' if command is None else command.name}: {error}"
        return None

    return store


def number(text: str) -> int:
    """Return the whole number that *text* is; :class:`ValueError` that says what is wrong."""
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ValueError(f"{text!r} is not a number")
    return int(text)


def seconds(text: str) -> float:
    """Return a time in seconds: a number, or one with ms, s, min, h or d behind it."""
    units = {"ms": 0.001, "s": 1.0, "mi": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = units.get(text[len(digits) :])
    if unit is None:
        raise ValueError(f"{text!r} is not a time")
    return number(digits) * unit


def is_standard(where: str) -> str | None:
    """Return the dotted name of the host's own module that *where* means, if there is one.

    ``mod_mime``, and ``modules/mod_mime.so`` of an existing httpd.conf.
    """
    stem, extension = os.path.splitext(os.path.basename(where))
    plain = where == stem and "." not in where
    if not (plain or extension == ".so") or not stem.startswith("mod_"):
        return None
    name = f"{STANDARD}.{stem}"
    return name if importlib.util.find_spec(name) is not None else None


def load(symbol: str, where: str, root: str) -> Module:
    """Return the record *symbol* of *where*: a path below *root*, or a dotted name.

    It is checked as Apache's loader does. A file is executed anew each time, so that a restart
    takes what it is by then. Raises :class:`ConfigurationError`.
    """
    standard = is_standard(where)
    dotted = standard or (where if _is_dotted(where) else None)
    name = dotted.rpartition(".")[2] if dotted else os.path.splitext(os.path.basename(where))[0]
    if not name.startswith("mod_"):
        raise ConfigurationError(f"{where} is no module's name: that is mod_NAME")
    path = os.path.join(root, where)
    found = _import(dotted, where) if dotted else _execute(path, name)
    record = getattr(found, symbol, None)
    if record is None:
        raise ConfigurationError(f"Can't locate API module structure '{symbol}' in {where}")
    check(record, symbol, where)
    if record.name != name:
        raise ConfigurationError(f"the module in {where} calls itself {record.name}")
    record.symbol, record.file = symbol, dotted or path
    module: Module = record
    return module


def check(record: Any, symbol: str, where: str) -> None:
    """Raise :class:`ConfigurationError` unless *record* is a module of this API."""
    if getattr(record, "magic", None) != MAGIC or not isinstance(record, Module):
        raise ConfigurationError(
            f"API module structure '{symbol}' in {where} is garbled: its magic is"
            f" {getattr(record, 'magic', None)!r}, not 0x{MAGIC:08x}"
        )
    if record.version != API_MAJOR:
        raise ConfigurationError(
            f"module {record.name} in {where} is for version {record.version} of the host's"
            f" interface, which is {API_MAJOR}"
        )


def _is_dotted(where: str) -> bool:
    return "/" not in where and not where.endswith((".py", ".so"))


def _import(dotted: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(dotted)
    except ModuleNotFoundError as error:
        if error.name is not None and (dotted + ".").startswith(error.name + "."):
            raise ConfigurationError(f"Cannot load {where} into server: {error}") from None
        raise _broken(where, error) from error
    except Exception as error:
        raise _broken(where, error) from error


def _execute(path: str, name: str) -> ModuleType:
    if not path.endswith(".py"):
        raise ConfigurationError(f"Cannot load {path} into server: no such standard module")
    spec = importlib.util.spec_from_file_location(f"sapi_adapters_loaded.{name}", path)
    assert spec is not None and spec.loader is not None  # noqa: S101 - the name ends with .py
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found  # dataclasses look themselves up there
    try:
        spec.loader.exec_module(found)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"Cannot load {path} into server: {error.strerror or error}"
        ) from None
    except Exception as error:
        raise _broken(path, error) from error
    return found


def _broken(where: str, error: BaseException) -> ConfigurationError:
    return ConfigurationError(f"Cannot load {where} into server: {type(error).__name__}: {error}")
