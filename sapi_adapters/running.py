"""``run(app, sapi=None, **options)``: from what somebody wants to a SAPI that serves it."""

from __future__ import annotations

import os
import sys
from typing import Any

from .extension import register_extension
from .loading import gateway_for, load
from .names import guess, sapi_class
from .sapi import ConfigurationError

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
    test: bool = False,
    **options: Any,
) -> int:
    """Serve *app*: see :func:`sapi_adapters.run`.

    Without *sapi* this is a script that a web server or a person starts: a mistake is then one
    line on standard error and SystemExit(2), where a caller that names the SAPI gets
    :class:`ConfigurationError` raised.

    *extensions* are ``"module:attribute"``. *sendfile* maps directories to the front end, see
    :mod:`sapi_adapters.sendfile`. With *test* everything is made and imported, but nothing is
    served. What else there is goes to the SAPI.
    """
    if sapi is None:
        try:
            name = guess(options)
            return run(
                app,
                name,
                interface=interface,
                factory=factory,
                extensions=extensions,
                sendfile=sendfile,
                chdir=chdir,
                test=test,
                **options,
            )
        except ConfigurationError as error:
            sys.stderr.write(f"{os.path.basename(sys.argv[0])}: {error}\n")
            raise SystemExit(2) from error
    for name in _PATHS:  # they are meant from here, not from where chdir leads
        if options.get(name) not in (None, "-"):
            options[name] = os.path.abspath(options[name])
    if chdir is not None:
        try:
            os.chdir(chdir)
        except OSError as error:
            raise ConfigurationError(f"cannot change to {chdir}: {error.strerror}") from error
    runtime_class = sapi_class(sapi)
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
    if test:
        gateway_for(app, runtime, interface=interface, factory=factory)
        sys.stderr.write(f"{app!r} loads, and {sapi} takes these options\n")
        return 0
    return runtime.run(lambda: gateway_for(app, runtime, interface=interface, factory=factory))
