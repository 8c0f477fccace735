"""Programs that use flup as old deployments do; test_flup_bugs.py runs each as a process.

    python bugs_support.py PACKAGE PROGRAM OPTIONS

PACKAGE is where flup's modules are, PROGRAM is a function of this file, OPTIONS its arguments, a
JSON object. What it has to say goes to standard error, as flup's users see it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

PACKAGE = ""
LIMIT = 30.0  # seconds after which an application that waits gives up


# -- the application ------------------------------------------------------------------------------


def application(environ: dict[str, Any], start_response: Any) -> Any:
    """Answer by the path: the functions below, else what is in *environ*."""
    return PATHS.get(environ["PATH_INFO"], show)(environ, start_response)


def show(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "application/json")])
    kept = {k: v for k, v in environ.items() if isinstance(v, str | bool)}
    return [json.dumps(kept).encode()]


def body(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Read the body; what came of it is also written to the file that the query string names."""
    report = environ["QUERY_STRING"]
    if report:
        Path(f"{report}.begun").touch()
    try:
        data = environ["wsgi.input"].read()
        outcome = f"{type(data).__name__} {len(data)}"
    except Exception as error:
        outcome = f"OSError {error}" if isinstance(error, OSError) else repr(error)
        raise
    finally:
        if report:
            Path(f"{report}.part").write_text(outcome)
            os.replace(f"{report}.part", report)
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return [type(data).__name__.encode() + b" ", data]


def hold(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Note in the directory that the query string names who serves, and wait for ``go`` there."""
    directory = Path(environ["QUERY_STRING"])
    (directory / f"{os.getpid()}-{threading.get_ident()}").touch()
    end = time.monotonic() + LIMIT
    while not (directory / "go").exists() and time.monotonic() < end:
        time.sleep(0.02)
    return pid(environ, start_response)


def pid(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]


def fail(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    raise ValueError("<b>what went wrong</b>")


def leave(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    raise SystemExit(3)


def fail_late(environ: dict[str, Any], start_response: Any) -> Any:
    """Fail after the first block; the query string is the announced length, if there is one."""
    length = environ["QUERY_STRING"]
    headers = [("Content-Type", "text/plain")]
    start_response("200 OK", [*headers, ("Content-Length", length)] if length else headers)
    yield b"first"
    raise ValueError("too late for a page")


class TwoArguments(Exception):
    """An exception that cannot be made again from its instance."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one, two)


def fail_again(environ: dict[str, Any], start_response: Any) -> Any:
    """Give start_response an exception when the head has gone; say what it raised."""
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"head; ")
    try:
        raise TwoArguments("one", "two")
    except TwoArguments as error:
        try:
            start_response("500 Late", [("Content-Type", "text/plain")], sys.exc_info())
        except Exception as raised:
            return [b"same" if raised is error else repr(raised).encode()]
    return [b"nothing"]


def head(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Send the status and headers that the query string holds as JSON."""
    status, headers = json.loads(environ["QUERY_STRING"])
    start_response(status, [tuple(header) for header in headers])
    return [b"sent"]


PATHS = {
    "/body": body,
    "/hold": hold,
    "/pid": pid,
    "/fail": fail,
    "/leave": leave,
    "/fail-late": fail_late,
    "/fail-again": fail_again,
    "/head": head,
}


# -- programs -------------------------------------------------------------------------------------


def flup(module: str) -> Any:
    """Return a module of flup."""
    return importlib.import_module(f"{PACKAGE}.{module}")


def say(*words: object) -> None:
    print(*words, file=sys.stderr, flush=True)


def serve(
    server: str,
    *,
    collect: bool = True,
    descriptors: int = 0,
    without: tuple[str, ...] = (),
    unwound: str | None = None,
    told: str | None = None,
    bindAddress: Any = None,
    **options: Any,
) -> None:
    """Run *server*'s WSGIServer with *options*, as a program of one line does.

    *collect* False leaves cycles alone, *descriptors* takes that many first, *without* names
    modules that cannot be imported, *unwound* is a file that gets the pid of each process that
    leaves run(), *told* one that gets the sockets and peers that overridden methods see.
    """
    for name in without:
        sys.modules[name] = None
    if not collect:
        gc.disable()
    if descriptors:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors * 2, hard))
        for _ in range(descriptors):
            os.dup(2)
    if isinstance(bindAddress, list):
        bindAddress = tuple(bindAddress)
    if server != "cgi" and bindAddress is not None:
        options["bindAddress"] = bindAddress
    kind = flup(f"server.{server}").WSGIServer
    if told is not None:
        kind = telling(kind, told)
    try:
        say("run() returned", kind(application, **options).run())
    finally:
        if unwound is not None:
            with open(unwound, "a") as file:
                file.write(f"{os.getpid()}\n")


def telling(base: Any, path: str) -> Any:
    """Return *base* with overridden methods that note what they see in the file *path*."""

    class Telling(base):
        def _setupSocket(self) -> Any:
            sock = super()._setupSocket()
            self.tell("socket", sock.family.name, sock.getsockname())
            return sock

        def _isClientAllowed(self, address: Any) -> Any:
            self.tell("peer", address)
            return super()._isClientAllowed(address)

        def tell(self, *words: object) -> None:
            with open(path, "a") as file:
                print(*words, file=file)

    return Telling


def serve_beside(server: str, **options: Any) -> None:
    """Serve in a second thread until standard input ends; the way out is the attribute's."""
    if isinstance(options["bindAddress"], list):
        options["bindAddress"] = tuple(options["bindAddress"])
    made = flup(f"server.{server}").WSGIServer(application, **options)
    returned: list[object] = []
    thread = threading.Thread(target=lambda: returned.append(made.run()))
    thread.start()
    sys.stdin.read()
    made._keepGoing = False
    thread.join(LIMIT)
    say("run() returned", *returned)


def paste(factory: str, config: dict[str, str], **options: str) -> None:
    """Serve as Paste Deploy does, which has text only."""
    getattr(flup("server.paste_factory"), factory)(application, config, **options)


def jobs(model: str, address: str, unwound: str, **options: Any) -> None:
    """Run a process model by itself with jobs, of which some raise."""

    class Job:
        def __init__(self, sock: socket.socket, peer: object) -> None:
            self.sock = sock

        def run(self) -> None:
            self.sock.settimeout(LIMIT)
            word = self.sock.recv(1)
            if word == b"!":
                raise RuntimeError("the job failed")
            if word == b".":
                sys.exit("the job left")
            self.sock.sendall(str(os.getpid()).encode())
            self.sock.close()

    sock = socket.socket(socket.AF_UNIX)
    sock.bind(address)
    sock.listen(16)
    try:
        kind = getattr(flup(f"server.{model.lower()}"), model)
        say("run() returned", kind(jobClass=Job, **options).run(sock))
    finally:
        with open(unwound, "a") as file:
            file.write(f"{os.getpid()}\n")


def main() -> None:
    global PACKAGE
    PACKAGE, program, options = sys.argv[1:]
    globals()[program](**json.loads(options))


if __name__ == "__main__":
    main()
