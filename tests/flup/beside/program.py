"""A program that uses flup: ``program.py WHICH MODULE ADDRESS RESULT OPTIONS``.

WHICH is "shim", or the directory that holds flup itself. MODULE is one of flup's server modules.
ADDRESS is a Unix path, "HOST:PORT", or "-" for descriptor 0. What ``run()`` did goes into the file
RESULT. OPTIONS (JSON) are the constructor's, and under "how" what else is special. The program ends
as flup's documentation advises: with status 42 to be started again, else 0.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any


def use(which: str) -> None:
    """Make ``import flup`` give what *which* says."""
    if which == "shim":
        from sapi_adapters import flup

        flup.install()
    else:
        sys.path.insert(0, which)


def address_of(text: str) -> Any:
    """Return flup's bindAddress."""
    if text == "-":
        return None
    host, colon, port = text.rpartition(":")
    return (host, int(port)) if colon else text


def subclass(base: Any, how: list[str]) -> Any:
    """Return *base* with the methods overridden that *how* names, as programs in the wild do."""

    class Mine(base):  # type: ignore[misc]
        periods = 0

        if "error" in how:

            def error(self, req: Any) -> None:
                page = b"Status: 503 Later\r\nContent-Type: text/plain\r\n\r\nmine"
                if hasattr(req, "startResponse"):
                    req.startResponse(503, b"Later", [(b"Content-Type", b"text/plain")])
                    req.write(b"mine")
                else:
                    req.stdout.write(page)

        if "sanitize" in how:

            def _sanitizeEnv(self, environ: dict[str, Any]) -> None:
                super()._sanitizeEnv(environ)
                environ["PATH_INFO"] = environ["PATH_INFO"].upper()
                environ["beside.sanitized"] = "yes"

        if "nobody" in how:

            def _isClientAllowed(self, addr: Any) -> bool:
                return False

        if "periodic" in how:

            def _mainloopPeriodic(self) -> None:
                self.periods += 1
                if self.periods > 3:
                    self._exit(reload=True)

        if "hup" in how:

            def _hupHandler(self, signum: int, frame: Any) -> None:
                super()._hupHandler(signum, frame)
                print("beside: hup", file=sys.stderr, flush=True)

        if "handler" in how:

            def handler(self, req: Any) -> Any:
                environ = req.params if hasattr(req, "params") else req.environ
                environ["beside.handler"] = type(req).__name__
                return super().handler(req)

    return Mine


def main(which: str, name: str, address: str, result: str, options: dict[str, Any]) -> int:
    use(which)
    import applications

    how = options.pop("how", [])
    module = importlib.import_module(f"flup.server.{name}")
    base = module.WSGIServer
    if name != "cgi":
        options["bindAddress"] = address_of(address)
    if "roles" in options:
        options["roles"] = tuple(options["roles"])
    applications.PLACE.update(result=result)

    def serve() -> None:
        try:
            server = (subclass(base, how) if how else base)(applications.application, **options)
            applications.PLACE.update(server=server)
            ended.append(server.run())
            said = f"returned {ended[0]!r}"
        except BaseException as error:
            said = f"raised {type(error).__name__}"
            if isinstance(error, SystemExit):
                said += f" {error.code!r}"
            raise
        finally:
            # A child that unwinds through here is no end of the program.
            if os.getpid() == mine:
                Path(result).write_text(said)

    ended: list[Any] = []
    mine = os.getpid()
    if "thread" in how:
        thread = threading.Thread(target=serve)
        thread.start()
        thread.join()
    else:
        serve()
    return 42 if ended and ended[0] else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(main(*sys.argv[1:5], json.loads(sys.argv[5])))
