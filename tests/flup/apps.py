"""Programs over flup's servers that the tests run as processes: ``apps.py CASE ARGUMENT...``."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

from sapi_adapters import sapi_name


def show(environ: dict[str, Any], start_response: Any) -> list[str]:
    """Answer with what the server is, in text as flup took it; some paths do something else."""
    path = environ["PATH_INFO"]
    if path == "/boom":
        raise ValueError("boom")
    if path == "/die":
        os._exit(7)
    if path.startswith("/sleep/"):
        time.sleep(float(path[7:]))
    start_response(b"200 OK", [(b"Content-Type", "text/plain")])
    flags = [environ[f"wsgi.{name}"] for name in ("multithread", "multiprocess", "run_once")]
    return [f"{sapi_name()} {os.getpid()} {flags} {environ.get('HELLO')}"]


def server(module: str, address: str, base: type | None = None, **options: Any) -> Any:
    """Return a ``WSGIServer`` of *module* on *address*, with *base*'s methods before its own."""
    kind: Any = importlib.import_module(f"sapi_adapters.flup.server.{module}").WSGIServer
    if base is not None:
        kind = type("WSGIServer", (base, kind), {})
    if address != "0":
        options["bindAddress"] = address
    return kind(show, **options)


def report(result: object) -> None:
    """Say what run() returned."""
    print("run() returned", result, flush=True)


def plain(module: str, address: str, *options: str) -> None:
    """Serve with *options*, as ``maxSpare=3``; then say whether the handlers are the old ones."""
    values = {name: int(value) for name, _, value in (each.partition("=") for each in options)}

    def before(number: int, frame: object) -> None:
        raise AssertionError("the old handler was called")

    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    for number in numbers:
        signal.signal(number, before)
    report(server(module, address, **values).run())
    assert all(signal.getsignal(number) is before for number in numbers)


def threaded(module: str, address: str) -> None:
    """Serve from a thread that is not the main one, until a line comes; end it as CherryPy does."""
    it = server(module, address, environ={"HELLO": "from a thread"})
    it._installSignalHandlers = lambda: None
    it._oldSIGs = []
    thread = threading.Thread(target=lambda: report(it.run()))
    thread.start()
    sys.stdin.readline()
    it._keepGoing = False
    if hasattr(it, "_threadPool"):
        it._threadPool.maxSpare = it._threadPool._idleCount
    thread.join()


def off_main(module: str, address: str) -> None:
    """The same, with everything of the server left as it is."""
    it = server(module, address)
    thread = threading.Thread(target=lambda: report(it.run()))
    thread.start()
    sys.stdin.readline()
    it._exit(reload=True)
    thread.join()


def other_children(module: str, address: str) -> None:
    """Have a child of one's own while a fork server runs: it is still there to be waited for."""
    pid = os.fork()
    if not pid:
        os._exit(5)
    report(server(module, address).run())
    print("own child", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


class Handlers:
    """Signals as a subclass in the wild has them."""

    _keepGoing: bool

    def _hupHandler(self, number: int, frame: object) -> None:
        print("my HUP", flush=True)

    def _intHandler(self, number: int, frame: object) -> None:
        print("my INT", flush=True)
        self._keepGoing = False


def handlers(module: str, address: str) -> None:
    """Serve with signal handlers of a subclass."""
    report(server(module, address, Handlers).run())


class Periodic:
    """Leaves by itself."""

    def _mainloopPeriodic(self) -> None:
        self._exit(reload=True)  # type: ignore[attr-defined]


def periodic(module: str, address: str) -> None:
    """Serve until the periodic hook ends it."""
    report(server(module, address, Periodic).run())


class Handler:
    """Serves requests by itself, and counts on flup's request."""

    def handler(self, req: Any) -> tuple[int, int]:
        req.stdout.write(b"Status: 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        req.stdout.write(f"{req.params['REQUEST_METHOD']} {req.stdin.read()!r}".encode())
        return 0, 3


def cgi_handler() -> None:
    """Be a CGI program whose server has a handler of its own."""
    report(server("fcgi", "0", Handler, forceCGI=True).run())


class Job:
    """Greets first, then says back what it is told."""

    def __init__(self, sock: socket.socket, address: object, *arguments: object) -> None:
        self.sock = sock
        self.arguments = arguments

    def run(self) -> None:
        self.sock.sendall(f"{os.getpid()} {self.arguments}\n".encode())
        word = self.sock.recv(100)
        if word == b"fail":
            raise ValueError("the job fails")
        self.sock.sendall(word)
        self.sock.close()


def jobs(kind: str, path: str, **options: Any) -> None:
    """Serve jobs, by flup's process models alone."""
    module = importlib.import_module(f"sapi_adapters.flup.server.{kind.lower()}")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()
    report(getattr(module, kind)(jobClass=Job, jobArgs=("x", 1)).run(listening))
    listening.close()


def timeout(module: str, address: str) -> None:
    """Serve with a limit of a second for each request."""
    report(server(module, address, timeout=1).run())


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
