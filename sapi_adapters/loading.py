"""From ``"module:attribute"`` to an application, and from an application to its gateway."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .sapi import ConfigurationError, interface_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from .sapi import Gateway, Sapi

INTERFACES = ("auto", "wsgi", "asgi", "asgi2")


def load(reference: str) -> Any:
    """Import what ``"module:attribute"`` names; the attribute may have dots.

    Raises :class:`ConfigurationError` when there is no such module or attribute. What the module
    itself raises, a missing import of its own too, passes through: its traceback tells more.
    """
    module_name, colon, attribute = reference.partition(":")
    if not (colon and module_name and attribute) or module_name.startswith("."):
        raise ConfigurationError(
            f"{reference!r} is no application: write MODULE:ATTRIBUTE, like app:wsgi"
        )
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name != missing and not module_name.startswith(missing + "."):
            raise
        raise ConfigurationError(
            f"there is no module {missing!r} (looked along sys.path)"
        ) from None
    found: Any = module
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ConfigurationError(
                f"module {module_name!r} has no attribute {attribute!r}"
            ) from None
    return found


def gateway_for(
    application: Any,
    sapi: Sapi,
    *,
    interface: str = "auto",
    factory: bool = False,
    wrap: Callable[[Any, str], Any] | None = None,
) -> Gateway:
    """Return the gateway of *application*, an object or ``"module:attribute"``.

    *interface* is ``"wsgi"``, ``"asgi"``, ``"asgi2"``, or ``"auto"`` to find out. With *factory*
    it is called, without arguments, for the application. *wrap* puts something around it, given
    the application and its interface. Raises :class:`ConfigurationError`.
    """
    if interface not in INTERFACES:
        raise ConfigurationError(f"interface {interface!r} is none of {', '.join(INTERFACES)}")
    named = repr(application)
    if isinstance(application, str):
        application = load(application)
    if not callable(application):
        raise ConfigurationError(f"{named} is not callable")
    if factory:
        try:
            application = application()
        except TypeError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                raise  # the factory's own
            raise ConfigurationError(f"{named} cannot be called as a factory: {error}") from error
        if not callable(application):
            raise ConfigurationError(f"the factory {named} returned nothing callable")
    if interface == "auto":
        interface = interface_of(application)
    if wrap is not None:
        application = wrap(application, interface)
    if interface == "wsgi":
        from .gateways.wsgi import WsgiGateway

        return WsgiGateway(application, sapi)
    from .gateways.asgi import AsgiGateway

    return AsgiGateway(application, sapi, two_step=interface == "asgi2")


def import_path(directory: str) -> None:
    """Put *directory* first on ``sys.path``, once."""
    if directory not in sys.path:
        sys.path.insert(0, directory)
