"""One WSGI or ASGI application, unchanged, under every runtime.

The public names, loaded on first use, and :func:`run`, whose first step decides for CGI here: a
CGI process pays for every file it reads. The sub-packages have no ``__init__.py`` for that reason.
"""

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .embedding import AsyncEmbed as AsyncEmbed
    from .embedding import Embed as Embed
    from .extension import loaded_extensions as loaded_extensions
    from .extension import register_extension as register_extension
    from .info import sapi_info as sapi_info
    from .sapi import ApplicationError as ApplicationError
    from .sapi import ClientDisconnected as ClientDisconnected
    from .sapi import ConfigurationError as ConfigurationError
    from .sapi import Exchange as Exchange
    from .sapi import ProtocolError as ProtocolError
    from .sapi import RequestError as RequestError
    from .sapi import Sapi as Sapi
    from .sapi import SapiError as SapiError
    from .sapi import __version__ as __version__
    from .sapi import sapi_name as sapi_name

_HOMES = {
    "__version__": "sapi",
    "ApplicationError": "sapi",
    "AsyncEmbed": "embedding",
    "ClientDisconnected": "sapi",
    "ConfigurationError": "sapi",
    "Embed": "embedding",
    "Exchange": "sapi",
    "ProtocolError": "sapi",
    "RequestError": "sapi",
    "Sapi": "sapi",
    "SapiError": "sapi",
    "loaded_extensions": "extension",
    "register_extension": "extension",
    "sapi_info": "info",
    "sapi_name": "sapi",
}

__all__ = ["run", *_HOMES]  # noqa: PLE0604 - the names above, by __getattr__


def __getattr__(name: str) -> "Any":
    if name in _HOMES:
        from importlib import import_module

        found = globals()[name] = getattr(import_module(f".{_HOMES[name]}", __name__), name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def run(app: "Any", sapi: "str | None" = None, **options: "Any") -> int:
    """Serve *app* under the SAPI named *sapi* and return the exit status, 0 for success.

    *app* is a WSGI or ASGI application, or ``"module:attribute"``. Without *sapi* the
    environment decides: a CGI environment means ``cgi``; a listening socket on descriptor 0 or
    systemd's LISTEN_FDS means ``fcgi-prefork``, as does the option ``socket``; else it is ``mod``,
    the HTTP host on 127.0.0.1:8000 or where the option ``bind`` says. *options* are those of the
    command ``serve``, with underscores; under ``cgi`` also ``environ``, ``stdin``, ``stdout``,
    ``stderr`` in place of the process's own.

    A mistake in the arguments raises :class:`ConfigurationError` when *sapi* was named; without
    it, in a script that anybody may start, it is one line on standard error and SystemExit(2).
    """
    if sapi == "cgi" or (sapi is None and in_cgi_process() and not options):
        # Straight: no table of names, no option but the streams. Five files in all.
        if not isinstance(app, str) and options.keys() <= _CGI_OPTIONS:
            from .adapters.cgi import Cgi
            from .sapi import interface_of

            runtime = Cgi(**options)
            interface = interface_of(app)
            if interface == "wsgi":
                from .gateways.wsgi import WsgiGateway

                return runtime.run(lambda: WsgiGateway(app, runtime))
            if interface == "asgi":
                from .gateways.asgi import AsgiGateway

                return runtime.run(lambda: AsgiGateway(app, runtime))
    from .running import run

    return run(app, sapi, **options)


_CGI_OPTIONS = {"environ", "stdin", "stdout", "stderr", "script_name"}


def in_cgi_process() -> bool:
    """Tell whether a web server started this process as a CGI program.

    GATEWAY_INTERFACE or REQUEST_METHOD in the environment says so, unless descriptor 0 is a
    listening socket. A *connected* socket there is CGI as well: Apache's mod_cgid gives one.
    """
    from .sapi import process_environ

    environ = process_environ()
    if b"GATEWAY_INTERFACE" not in environ and b"REQUEST_METHOD" not in environ:
        return False
    try:
        if posix.fstat(0).st_mode & 0o170000 != 0o140000:  # no socket
            return True
    except OSError:  # closed
        return True
    from _socket import SO_ACCEPTCONN, SOL_SOCKET, socket

    probe = socket(fileno=0)
    try:
        return not probe.getsockopt(SOL_SOCKET, SO_ACCEPTCONN)
    finally:
        probe.detach()
