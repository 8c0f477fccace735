"""``run(app, sapi=None, **options)``: from what somebody wants to a SAPI that serves it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from .extension import register_extension
from .loading import gateway_for, load
from .names import guess, sapi_class
from .sapi import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .adapters.server import ServerSapi
    from .manager.config import Global, Pool
    from .sapi import Gateway

_PATHS = ("socket", "pid", "access_log", "error_log")


def run(
    app: Any,
    sapi: str | None = None,
    *,
    interface: str = "auto",
    factory: bool = False,
    extensions: tuple[str, ...] = (),
    sendfile: tuple[str, ...] = (),
    chdir: str | None = None,
    debug: bool = False,
    test: bool = False,
    **options: Any,
) -> int:
    """Serve *app*: see :func:`sapi_adapters.run`.

    Without *sapi* this is a script that a web server or a person starts: a mistake is then one
    line on standard error and SystemExit with the status, where a caller that names the SAPI gets
    :class:`ConfigurationError` raised.

    *extensions* are ``"module:attribute"``. *sendfile* maps directories to the front end, see
    :mod:`sapi_adapters.sendfile`. With *debug* errors show their traceback in the browser, see
    :mod:`sapi_adapters.debugging`. With *test* everything is made and imported, but nothing is
    served. What else there is goes to the SAPI.
    """
    if sapi is None:
        try:
            name = guess(options)
            status = run(
                app,
                name,
                interface=interface,
                factory=factory,
                extensions=extensions,
                sendfile=sendfile,
                chdir=chdir,
                debug=debug,
                test=test,
                **options,
            )
        except ConfigurationError as error:
            sys.stderr.write(f"{os.path.basename(sys.argv[0])}: {error}\n")
            raise SystemExit(2) from error
        if status:
            raise SystemExit(status)
        return status
    for name in _PATHS:  # they are meant from here, not from where chdir leads
        if options.get(name) not in (None, "-", "off"):
            options[name] = os.path.abspath(options[name])
    if chdir is not None:
        try:
            os.chdir(chdir)
        except OSError as error:
            raise ConfigurationError(f"cannot change to {chdir}: {error.strerror}") from error
    runtime_class = sapi_class(sapi)
    if debug:
        from .adapters.server import ServerSapi

        if not issubclass(runtime_class, ServerSapi):
            raise ConfigurationError(f"--debug needs a SAPI that listens, and {sapi} does not")
        options.setdefault("workers", 1)
    try:
        runtime = runtime_class(**options)
    except TypeError as error:
        if "keyword argument" not in str(error):
            raise
        option = str(error).rpartition("argument ")[2]
        raise ConfigurationError(f"the SAPI {sapi!r} has no option {option}") from error
    for reference in extensions:
        register_extension(load(reference), reference)
    if sendfile:
        from .sendfile import SendfileMap

        runtime.sendfile = SendfileMap(sendfile)
    wrap = _debugger(runtime) if debug and not test else None

    def load_gateway() -> Gateway:
        return gateway_for(app, runtime, interface=interface, factory=factory, wrap=wrap)

    if test:
        load_gateway()
        sys.stderr.write(f"{app!r} loads, and {sapi} takes these options\n")
        return 0
    return runtime.run(load_gateway)


def _debugger(runtime: Any) -> Callable[[Any, str], Any]:
    """Return what puts a debugger around an application; *runtime* must be safe for it."""
    from .debugging import refuse_unless_loopback, wrap

    if runtime.workers != 1:
        raise ConfigurationError("--debug is for development: with one worker")
    runtime.inspect = refuse_unless_loopback

    def debugged(application: Any, interface: str) -> Any:
        return wrap(application, interface, [each.describe() for each in runtime.listeners])

    return debugged


def run_file(
    path: str,
    *,
    prefix: str | None = None,
    settings: Sequence[str] = (),
    allow_root: bool = False,
) -> int:
    """Serve the pools of the configuration file *path*, in php-fpm's syntax; return the status.

    *prefix* is where its relative paths begin. *settings* are ``"NAME=VALUE"`` and win over the
    file, each time it is read: HUP reads it again. With *allow_root* a pool's workers may run as
    root. Raises :class:`ConfigurationError` for a file that is refused.
    """
    from .adapters.tree import run_pools

    def configure() -> tuple[Global, list[ServerSapi]]:
        config = _read_file(path, prefix, settings, allow_root)
        return config, [_sapi_of(config, pool) for pool in config.pools]

    path = os.path.abspath(path)
    config, sapis = configure()
    return run_pools(config, sapis, configure)


def test_file(
    path: str,
    *,
    show: bool = False,
    prefix: str | None = None,
    settings: Sequence[str] = (),
    allow_root: bool = False,
) -> str:
    """Return what a test of the configuration file *path* says, with *show* all of its settings.

    Arguments and errors are those of :func:`run_file`. The applications are not loaded.
    """
    from .manager.configfile import dump

    config = _read_file(path, prefix, settings, allow_root)
    for pool in config.pools:
        _sapi_of(config, pool)
    lines = [*config.warnings, *([dump(config)] if show else [])]
    return "\n".join([*lines, f"the configuration file {path} is right"])


def run_host(path: str, *, defines: Sequence[str] = ()) -> int:
    """Serve what the configuration *path*, in httpd.conf's syntax, describes; return the status.

    *defines* are ``"NAME"`` or ``"NAME=VALUE"``, as Define has them. The file is read twice at the
    start and once for each restart. Raises :class:`ConfigurationError` for one that is refused.
    """
    from .adapters.host import host_from_file
    from .adapters.tree import run_pools

    path = os.path.abspath(path)
    known = _defines(defines)
    retained: dict[str, Any] = {}

    def configure() -> tuple[Global, list[ServerSapi]]:
        sapi = host_from_file(path, known, _load_application, retained=retained)
        if sapi.pool.user or sapi.pool.chroot:
            _preload()
        return sapi.config, [sapi]

    tried = host_from_file(path, known, _load_application, pass_=1, retained=retained).host
    assert tried is not None  # noqa: S101 - it comes from a file
    try:
        tried.open()
    finally:
        tried.destroy()
    config, sapis = configure()
    return run_pools(config, sapis, configure)


def test_host(path: str, *, defines: Sequence[str] = ()) -> str:
    """Return what a test of the httpd.conf *path* says. Nothing is opened or loaded."""
    from .adapters.host import host_from_file

    sapi = host_from_file(os.path.abspath(path), _defines(defines), _load_application, pass_=1)
    assert sapi.host is not None  # noqa: S101 - it comes from a file
    for tell in sapi.host.hooks.test_config:
        tell(sapi.host)
    return "\n".join([*sapi.host_warnings, "Syntax OK"])


def modules_of(path: str, *, defines: Sequence[str] = (), hooks: bool = False) -> list[str]:
    """Return a line for each module that the httpd.conf *path* loads, as ``httpd -M`` has them.

    With *hooks* also whom each hook calls, in order.
    """
    from .adapters.host import host_from_file

    sapi = host_from_file(os.path.abspath(path), _defines(defines), _load_application, pass_=1)
    assert sapi.host is not None  # noqa: S101 - it comes from a file
    lines = []
    for module in sapi.host.modules:
        kind = f"shared, {module.file}" if module.file else "static"
        lines.append(f"{module.symbol} ({kind})")
    if hooks:
        table = sapi.host.hooks.table()
        lines += [f"{hook}: {', '.join(names)}" for hook, names in table.items()]
    return lines


def _defines(given: Sequence[str]) -> dict[str, str]:
    return {name: value for name, _, value in (each.partition("=") for each in given)}


def _load_application(name: str, interface: str, runtime: Any) -> Gateway:
    """Load what a SapiApp directive names."""
    return gateway_for(name, runtime, interface=interface, factory=False)


def _read_file(path: str, prefix: str | None, settings: Sequence[str], allow_root: bool) -> Global:
    from .manager.configfile import read
    from .manager.rules import check

    overrides = []
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ConfigurationError(f"{setting!r} is no NAME=VALUE")
        overrides.append((name.strip(), value.strip()))
    config = read(path, prefix=prefix, overrides=overrides)
    check(config, root=os.geteuid() == 0, allow_root=allow_root)
    return config


def _sapi_of(config: Global, pool: Pool) -> ServerSapi:
    from .adapters.accesslog import check_format
    from .adapters.server import ServerSapi

    kind = sapi_class(pool.sapi)
    if not issubclass(kind, ServerSapi):
        raise ConfigurationError(f"pool {pool.name}: sapi = {pool.sapi} does not listen")
    if pool.access_log is not None:
        check_format(pool.access_format)
    if pool.user or pool.chroot:
        _preload()
    sapi = kind(pool=pool, config=config)
    sapi.load = lambda: gateway_for(pool.app, sapi, interface=pool.interface, factory=pool.factory)
    return sapi


def _preload() -> None:
    """Import what a worker needs to serve: later it may not see Python's own files any more."""
    import asyncio  # noqa: F401
    import encodings.idna  # noqa: F401 - for the lookup of addresses
    import traceback  # noqa: F401

    from .gateways import asgi, wsgi  # noqa: F401
    from .manager.status import page
    from .servers import blocking, event, threaded  # noqa: F401

    page()
    event.new_event_loop().close()
