"""The servers as PasteDeploy starts them (``paste.server_runner``), from a section of an ini file::

    [server:main]
    use = egg:flup#fcgi_thread
    socket = /run/app.sock
    umask = 18

All arguments are text. *umask* is read as a decimal number, as it always was: 18 is octal 022.
*debug* is that of ``[DEFAULT]`` where a section has none. Lists are split at white space. What is
neither true nor false, or no number, raises :class:`ValueError`; a socket beside a host, or one of
host and port without the other, :class:`AssertionError`, as in flup.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from . import NoDefault

_TRUE = frozenset("true yes on y t 1".split())
_FALSE = frozenset("false no off n f 0".split())


def asbool(obj: Any) -> bool:
    """Return the truth that text stands for, of any other object its own."""
    if not isinstance(obj, str):
        return bool(obj)
    word = obj.strip().lower()
    if word not in _TRUE and word not in _FALSE:
        raise ValueError(f"{obj!r} is neither true nor false")
    return word in _TRUE


def aslist(obj: Any, sep: str | None = None, strip: bool = True) -> Any:
    """Return what *sep*, or white space, divides in text; a list as it is; ``[]`` for None."""
    if isinstance(obj, str):
        items = obj.split(sep)
        return [item.strip() for item in items] if strip else items
    if isinstance(obj, (list, tuple)):
        return obj
    return [] if obj is None else [obj]


def _run(module: str, app: Any, global_conf: Any, debug: Any, counts: Any, **options: Any) -> None:
    """Serve *app* with ``WSGIServer`` of *module*; those of *counts* that are not None are ints."""
    if debug is NoDefault:
        debug = (global_conf or {}).get("debug", False)
    options["debug"] = asbool(debug)
    options.update({name: int(count) for name, count in counts.items() if count is not None})
    import_module(f".{module}", __package__).WSGIServer(app, **options).run()


def _address(host: Any, port: Any, socket: Any) -> Any:
    if (host is None) != (port is None):
        raise AssertionError(f"host is {host!r} and port {port!r}: both are needed, or none")
    if socket and host is not None:
        raise AssertionError("either a socket or host and port, not both")
    return socket or (None if host is None else (host, int(port)))


def run_ajp_thread(
    wsgi_app: Any,
    global_conf: Any,
    scriptName: Any = "",
    host: Any = "localhost",
    port: Any = "8009",
    allowedServers: Any = "127.0.0.1",
    debug: Any = NoDefault,
    minSpare: Any = None,
    maxSpare: Any = None,
    maxThreads: Any = None,
) -> None:
    """AJP 1.3, in threads."""
    _run(
        "ajp",
        wsgi_app,
        global_conf,
        debug,
        {"minSpare": minSpare, "maxSpare": maxSpare, "maxThreads": maxThreads},
        scriptName=scriptName,
        bindAddress=(host, int(port)),
        allowedServers=aslist(allowedServers),
    )


def run_ajp_fork(
    wsgi_app: Any,
    global_conf: Any,
    scriptName: Any = "",
    host: Any = "localhost",
    port: Any = "8009",
    allowedServers: Any = "127.0.0.1",
    debug: Any = NoDefault,
    minSpare: Any = None,
    maxSpare: Any = None,
    maxChildren: Any = None,
    maxRequests: Any = None,
) -> None:
    """AJP 1.3, in processes."""
    _run(
        "ajp_fork",
        wsgi_app,
        global_conf,
        debug,
        _processes(minSpare, maxSpare, maxChildren, maxRequests),
        scriptName=scriptName,
        bindAddress=(host, int(port)),
        allowedServers=aslist(allowedServers),
    )


def run_fcgi_thread(
    wsgi_app: Any,
    global_conf: Any,
    host: Any = None,
    port: Any = None,
    socket: Any = None,
    umask: Any = None,
    multiplexed: Any = False,
    debug: Any = NoDefault,
    minSpare: Any = None,
    maxSpare: Any = None,
    maxThreads: Any = None,
) -> None:
    """FastCGI, in threads; on descriptor 0 without an address."""
    _run(
        "fcgi",
        wsgi_app,
        global_conf,
        debug,
        {"minSpare": minSpare, "maxSpare": maxSpare, "maxThreads": maxThreads},
        bindAddress=_address(host, port, socket),
        umask=None if umask is None else int(umask),
        multiplexed=asbool(multiplexed),
    )


def run_fcgi_fork(
    wsgi_app: Any,
    global_conf: Any,
    host: Any = None,
    port: Any = None,
    socket: Any = None,
    umask: Any = None,
    multiplexed: Any = False,
    debug: Any = NoDefault,
    minSpare: Any = None,
    maxSpare: Any = None,
    maxChildren: Any = None,
    maxRequests: Any = None,
) -> None:
    """FastCGI, in processes; on descriptor 0 without an address."""
    _run(
        "fcgi_fork",
        wsgi_app,
        global_conf,
        debug,
        _processes(minSpare, maxSpare, maxChildren, maxRequests),
        bindAddress=_address(host, port, socket),
        umask=None if umask is None else int(umask),
        multiplexed=asbool(multiplexed),
    )


def run_scgi_thread(
    wsgi_app: Any,
    global_conf: Any,
    scriptName: Any = NoDefault,
    host: Any = "localhost",
    port: Any = "4000",
    allowedServers: Any = "127.0.0.1",
    debug: Any = NoDefault,
    minSpare: Any = None,
    maxSpare: Any = None,
    maxThreads: Any = None,
) -> None:
    """SCGI, in threads."""
    _run(
        "scgi",
        wsgi_app,
        global_conf,
        debug,
        {"minSpare": minSpare, "maxSpare": maxSpare, "maxThreads": maxThreads},
        scriptName=scriptName,
        bindAddress=(host, int(port)),
        allowedServers=aslist(allowedServers),
    )


def run_scgi_fork(
    wsgi_app: Any,
    global_conf: Any,
    scriptName: Any = NoDefault,
    host: Any = "localhost",
    port: Any = "4000",
    allowedServers: Any = "127.0.0.1",
    debug: Any = NoDefault,
    minSpare: Any = None,
    maxSpare: Any = None,
    maxChildren: Any = None,
    maxRequests: Any = None,
) -> None:
    """SCGI, in processes."""
    _run(
        "scgi_fork",
        wsgi_app,
        global_conf,
        debug,
        _processes(minSpare, maxSpare, maxChildren, maxRequests),
        scriptName=scriptName,
        bindAddress=(host, int(port)),
        allowedServers=aslist(allowedServers),
    )


def _processes(minSpare: Any, maxSpare: Any, maxChildren: Any, maxRequests: Any) -> dict[str, Any]:
    return {
        "minSpare": minSpare,
        "maxSpare": maxSpare,
        "maxChildren": maxChildren,
        "maxRequests": maxRequests,
    }
