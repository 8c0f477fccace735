"""Extensions: code that takes part in the life cycle of every SAPI, as a PHP extension does.

An extension is any object with some of four callables, the four of PHP's ``zend_module_entry``:

=================== ========== ==================================================================
callable            PHP        called
=================== ========== ==================================================================
module_startup      MINIT      with the :class:`~sapi_adapters.sapi.Sapi`, once per process tree;
                               in a pre-forking server in the master, before the first fork
request_startup     RINIT      with the exchange, before the application
request_shutdown    RSHUTDOWN  with the exchange, after it, whatever happened
module_shutdown     MSHUTDOWN  with the Sapi, at the end of each process that inherited it
=================== ========== ==================================================================

Start-up runs in the order of registration, shutdown in the reverse. The exchange's ``environ``
may be read and, at request start-up, added to. Under the event server requests of one process
overlap: what an extension keeps per request belongs on the exchange or in a context variable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import sapi

if TYPE_CHECKING:
    from collections.abc import Callable


def _nothing(_: Any) -> None:
    """Stand in for a callable that an extension leaves out."""


class Extension:
    """A registered extension: its name and its four callables, looked up once."""

    def __init__(self, source: object, name: str) -> None:
        self.source = source
        self.name = name
        self.start_module = self._slot("module_startup")
        self.start_request = self._slot("request_startup")
        self.stop_request = self._slot("request_shutdown")
        self.stop_module = self._slot("module_shutdown")
        if {self.start_module, self.start_request, self.stop_request, self.stop_module} == {
            _nothing
        }:
            raise sapi.ConfigurationError(
                f"extension {name!r} has none of module_startup, request_startup,"
                " request_shutdown, module_shutdown"
            )

    def _slot(self, name: str) -> Callable[[Any], Any]:
        slot = getattr(self.source, name, None)
        if slot is None:
            return _nothing
        if not callable(slot):
            raise sapi.ConfigurationError(f"extension {self.name!r}: {name} is not callable")
        found: Callable[[Any], Any] = slot
        return found


def register_extension(source: object, name: str | None = None) -> Extension:
    """Register *source* for every SAPI that starts after this call; return its record.

    *name* is what :func:`loaded_extensions` shows: by default the object's ``name``, else its
    ``__name__``, else its class's. Raises :class:`~sapi_adapters.sapi.ConfigurationError` when
    the name is taken or the object has none of the four callables.
    """
    if name is None:
        name = str(
            getattr(source, "name", None)
            or getattr(source, "__name__", None)
            or type(source).__name__
        )
    if name in loaded_extensions():
        raise sapi.ConfigurationError(f"an extension named {name!r} is registered already")
    extension = Extension(source, name)
    sapi.extensions.append(extension)
    return extension


def unregister_extension(name: str) -> None:
    """Forget the extension *name*; :class:`KeyError` when there is none."""
    for extension in sapi.extensions:
        if extension.name == name:
            sapi.extensions.remove(extension)
            return
    raise KeyError(name)


def loaded_extensions() -> list[str]:
    """Return the names of the registered extensions in the order of their registration."""
    return [extension.name for extension in sapi.extensions]
