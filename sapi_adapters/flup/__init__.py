"""flup 1.0.3, the same modules and names, on this project's protocols, servers and manager.

A program that can be edited imports ``sapi_adapters.flup.server.fcgi`` where it said
``flup.server.fcgi``. One that cannot gets the plain name by :func:`install`, called before its own
imports, or by the distribution in ``contrib/flup``, which needs no line at all.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

__all__ = ["install"]

_PLAIN = "flup"


class _Alias:
    """Finds ``flup.X``, which is ``sapi_adapters.flup.X``."""

    def __init__(self) -> None:
        self._own: dict[str, tuple[ModuleSpec | None, Any]] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how *name* is found; None for what is not flup's or what the shim lacks."""
        if name != _PLAIN and not name.startswith(f"{_PLAIN}."):
            return None
        from importlib.machinery import ModuleSpec
        from importlib.util import find_spec

        real = find_spec(_real(name))
        if real is None:
            return None
        package = real.submodule_search_locations is not None
        return ModuleSpec(name, self, origin=real.origin, is_package=package)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import what *spec* stands for: that module, and not one in its place.

        A lazy importer (Mercurial's, :class:`importlib.util.LazyLoader`) raises when loading a
        module puts another one into :data:`sys.modules`.
        """
        from importlib import import_module

        module = import_module(_real(spec.name))
        self._own[spec.name] = module.__spec__, module.__loader__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give *module* its own ``__spec__`` back, which the import system has replaced."""
        name = _PLAIN + module.__name__[len(__name__) :]
        module.__spec__, module.__loader__ = self._own.pop(name)


def _real(name: str) -> str:
    return __name__ + name[len(_PLAIN) :]


_alias = _Alias()


def install() -> None:
    """Let ``flup`` and its sub-modules, in this process, be those of this package::

        import sapi_adapters.flup
        sapi_adapters.flup.install()

        from flup.server.fcgi import WSGIServer

    Sub-modules are imported when they are asked for, and are the same objects under both names. A
    flup that is installed beside is not read. Calling this again does nothing.

    Raises :class:`RuntimeError` when another flup has been imported before: whoever did it holds
    its classes, and half a program on each would be worse than a program that does not start.
    """
    for name, module in list(sys.modules.items()):
        if name == _PLAIN or name.startswith(f"{_PLAIN}."):
            # The distribution's ``flup`` is known by having this very function.
            ours = getattr(module, "__name__", None) == _real(name)
            if not ours and getattr(module, "install", None) is not install:
                where = getattr(module, "__file__", None) or "nowhere"
                raise RuntimeError(
                    f"{name} is imported already, from {where}: call {__name__}.install() before"
                    f" anything imports {_PLAIN}"
                )
    sys.modules.setdefault(_PLAIN, sys.modules[__name__])
    if _alias not in sys.meta_path:
        sys.meta_path.insert(0, _alias)
