"""``--debug``, for development: an error shows its traceback in the browser.

Under WSGI it is Werkzeug's debugger, with a console in each frame that a PIN opens; under ASGI
Starlette's page. Both packages are imported here and nowhere else.

Who reaches the debugger may run code here and read the source. So it serves this machine only:
:func:`refuse_unless_loopback` looks at the sockets, and as a web server that the world reaches
may stand in front of them, each request is looked at, too. Other users of this machine can
pretend to be a front end: they see tracebacks, but not the PIN.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Any

from .sapi import ConfigurationError, interface_of
from .servers.listener import is_loopback

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from .servers.listener import Listener

    Event = dict[str, Any]

_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-real-ip")
"""Headers of proxies. What came through one is another's, though its last step began here: a
tunnel from the outside ends at a loopback address."""


def refuse_unless_loopback(listeners: Sequence[Listener]) -> None:
    """Raise :class:`ConfigurationError` unless all *listeners* are of the loopback interface."""
    if not listeners:
        raise ConfigurationError("--debug needs a server: --bind 127.0.0.1:PORT")
    for each in listeners:
        if each.family == socket.AF_UNIX:
            raise ConfigurationError(
                f"--debug refuses {each.describe()}: a web server that others reach may stand in"
                " front of a Unix socket; use --bind 127.0.0.1:PORT"
            )
        if not each.is_local():
            raise ConfigurationError(
                f"--debug refuses {each.describe()}: others may reach it; use --bind 127.0.0.1:PORT"
            )


def wrap(application: Any, interface: str, where: Sequence[str]) -> Any:
    """Return *application* with a debugger around it, and say on standard error that it is on.

    *interface* is one of :data:`~sapi_adapters.loading.INTERFACES`, *where* the addresses that
    the message names. Werkzeug's console lives in the process that failed, so there may be no
    more than one worker. A request that did not begin on this machine is served as if there were
    no debugger. Raises :class:`ConfigurationError`.
    """
    if interface == "auto":
        interface = interface_of(application)
    debugger: _Wsgi | _Asgi
    if interface == "wsgi":
        debugger = _Wsgi(application)
        hint = f", PIN {debugger.pin}"
    elif interface == "asgi":
        debugger = _Asgi(application)
        hint = ""
    else:
        raise ConfigurationError(
            f"--debug takes no {interface} application: make it asgi, with"
            " asgiref.compatibility.guarantee_single_callable"
        )
    sys.stderr.write(f"debugger: for this machine's own requests by {', '.join(where)}{hint}\n")
    sys.stderr.flush()
    return debugger


def _missing(package: str, error: ModuleNotFoundError) -> ConfigurationError:
    """Return what to raise when *package* is not there; its own missing imports pass through."""
    name = package.partition(">")[0]
    if (error.name or "").partition(".")[0] != name:
        raise error
    return ConfigurationError(f"--debug needs {name}: pip install '{package}'")


class _Wsgi:
    """Werkzeug's debugger around *application*."""

    def __init__(self, application: Any) -> None:
        package = "werkzeug>=3.0.3"
        try:
            from werkzeug.debug import DebuggedApplication
        except ModuleNotFoundError as error:
            raise _missing(package, error) from None
        self.application = application
        # No console without an error: /console may be a page of the application's.
        self.debugged = DebuggedApplication(self._application, evalex=True, console_path="")
        if not hasattr(self.debugged, "trusted_hosts"):  # CVE-2024-34069
            raise ConfigurationError(
                "--debug: this Werkzeug lets other sites' pages use its console:"
                f" pip install '{package}'"
            )
        if self.debugged.pin is None:
            raise ConfigurationError(
                "--debug: without its PIN the console is open to every user of this machine:"
                " unset WERKZEUG_DEBUG_PIN"
            )
        self.pin = self.debugged.pin
        # Flask answers its errors itself, unless it is told to let them pass.
        config = getattr(application, "config", None)
        if isinstance(config, dict) and config.get("PROPAGATE_EXCEPTIONS", False) is None:
            config["PROPAGATE_EXCEPTIONS"] = True

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        forwarded = (f"HTTP_{name.upper().replace('-', '_')}" in environ for name in _FORWARDED)
        if any(forwarded) or not is_loopback(environ.get("REMOTE_ADDR", "")):
            return self.application(environ, start_response)  # type: ignore[no-any-return]
        return self._debug(environ, _Start(start_response))

    def _debug(self, environ: dict[str, Any], start: _Start) -> Iterator[bytes]:
        yield from self.debugged(environ, start)
        if start.late is not None:
            raise start.late

    def _application(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        __traceback_hide__ = True  # Werkzeug leaves frames out that have it
        return self.application(environ, start.given)  # type: ignore[no-any-return]


class _Start:
    """``start_response`` for the debugger's page, where the application may have called it, too.

    Werkzeug calls it without the exception that PEP 3333 asks for then. *late* is the exception
    that came when the response had begun and nothing could be shown: Werkzeug would let the cut
    response pass for a whole one.
    """

    def __init__(self, given: Any) -> None:
        self.given = given
        self.late: BaseException | None = None

    def __call__(self, status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], Any]:
        if exc_info is None and sys.exc_info()[0] is not None:
            exc_info = sys.exc_info()
        try:
            return self.given(status, headers, exc_info)  # type: ignore[no-any-return]
        except BaseException as error:
            self.late = error
            raise


class _Asgi:
    """Starlette's page around *application*; its life span and web sockets pass through."""

    def __init__(self, application: Any) -> None:
        try:
            from starlette.middleware.errors import ServerErrorMiddleware
        except ModuleNotFoundError as error:
            raise _missing("starlette", error) from None
        self.application = application
        self.debugged = ServerErrorMiddleware(self._hold, debug=True)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and _began_here(scope):
            await self.debugged(scope, receive, send)
        else:
            await self.application(scope, receive, send)

    async def _hold(self, scope: Any, receive: Any, send: Callable[[Event], Awaitable[Any]]) -> Any:
        """Run the application, and keep a whole answer of 500 until it returns.

        Frameworks give theirs and then raise, for the server's log: it makes room for the page.
        """
        held: list[Event] = []

        async def hold(event: Any) -> None:
            kind = event["type"]
            if (kind == "http.response.start" and event.get("status") == 500) or (
                len(held) == 1 and kind == "http.response.body" and not event.get("more_body")
            ):
                held.append(event)
            else:
                while held:
                    await send(held.pop(0))
                await send(event)

        await self.application(scope, receive, hold)
        for event in held:
            await send(event)


def _began_here(scope: Any) -> bool:
    """Tell whether the client of *scope* is on this machine."""
    if any(name.decode("latin-1").lower() in _FORWARDED for name, _ in scope["headers"]):
        return False
    client = scope.get("client")
    return client is not None and is_loopback(client[0])
