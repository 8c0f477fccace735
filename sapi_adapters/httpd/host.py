"""The host: one generation of configuration, with its modules, hooks, filters and servers.

A restart makes another :class:`Host` from the files as they are by then; the old one serves until
the new one is whole. Its objects are shared by all requests and changed by none.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..sapi import ConfigurationError
from .config import MAIN, Parameters, Reader
from .coreconfig import dir_config
from .hooks import OK, Hooks, run_all, run_void
from .records import Server

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .config import Directive
    from .filters import InputFilter, OutputFilter
    from .module import Command, Module, Vector
    from .records import Request

LEVELS = ("emerg", "alert", "crit", "error", "warn", "notice", "info", "debug")
_TRACE = tuple(f"trace{n}" for n in range(1, 9))


class Host:
    """The configuration of the host and what it brings with it.

    *text* is read before *file*, which may be None. *defines* are Define's names. *retained*
    outlives generations, see :attr:`retained`. *pass_* is 1 for the reading that only shows that
    the configuration is right, as httpd makes it at its start, and 2 for one that serves.
    """

    def __init__(
        self,
        file: str | None = None,
        text: str = "",
        *,
        defines: Mapping[str, str] | None = None,
        root: str | None = None,
        retained: dict[str, Any] | None = None,
        pass_: int = 2,
        log: Callable[[str, str], None] | None = None,
    ) -> None:
        self.file = file
        self.text = text
        self.root = root or os.getcwd()
        """ServerRoot: what relative names in the configuration are below."""
        self.pass_ = pass_
        self.retained = {} if retained is None else retained
        """What modules keep over restarts, by a name of theirs (ap_retained_data)."""
        self.defines = dict(defines or {})
        self.modules: list[Module] = []
        self.commands: dict[str, list[tuple[Command, Module]]] = {}
        """By name in lower case; a section's begins with ``<``."""
        self.hooks = Hooks()
        self.output_filters: dict[str, OutputFilter] = {}
        """By name in lower case."""
        self.input_filters: dict[str, InputFilter] = {}
        self.tree: list[Directive] = []
        self.servers: list[Server] = []
        """Virtual hosts, in the order of the file."""
        self.listen: list[str] = []
        """What to listen on: ``"ADDRESS:PORT"``, or the path of a Unix socket."""
        self.mpm = ""
        """``"prefork"``, ``"worker"``, ``"event"``; empty when the configuration leaves it open."""
        self.settings: dict[str, Any] = {}
        """Directives of the process models and of the process, by name in lower case."""
        self.provided: dict[str, Any] = {}
        """What the program around the host gives to its modules, such as the loader of
        applications and the scoreboard."""
        self.warnings: list[str] = []
        self.generation = 1
        self.htaccess: dict[str, Any] = {}
        """What is in the .htaccess files that were read; htaccess.py's."""
        self._log = log or _to_stderr
        self._cleanups: list[Callable[[], object]] = []
        self._merged: dict[tuple[int, ...], tuple[Vector, Vector, Sequence[Vector]]] = {}
        self.main = Server(self)
        self._configured = False

    # -- making it

    def configure(self) -> None:
        """Read the configuration and execute it: pre_config to post_config.

        Raises :class:`ConfigurationError`; then :meth:`destroy` is still to be called.
        """
        from . import core, mod_so

        for built_in in (core.core_module, mod_so.so_module):
            self.add_module(built_in)
        reader = Reader(self)
        if self.text:
            self.tree += reader.read_text(self.text, "command line")
        if self.file is not None:
            self.tree += reader.read_file(self.file)
        self._run("pre_config")
        main = Parameters(self, self.main, _nothing(), MAIN, self.main.lookup_defaults)
        main.walk(self.tree, self.main.lookup_defaults, None, "")
        self._merge_servers()
        self.hooks.sort()
        self._run("check_config")
        self._configured = True

    def open(self) -> None:
        """Open the logs and let modules prepare themselves: still in the first process."""
        self._run("open_logs")
        self._run("post_config")

    def _run(self, hook: str) -> None:
        self.hooks.sort()
        if run_all(getattr(self.hooks, hook), self) != OK:
            raise ConfigurationError(f"a module failed in {hook}")

    def add_module(self, module: Module) -> None:
        """Take *module* in: its directives, hooks and configurations."""
        self.modules.append(module)
        if module.create_server_config is not None:
            self.main.module_config[module] = module.create_server_config(self.main)
        if module.create_dir_config is not None:
            self.main.lookup_defaults[module] = module.create_dir_config(None)
        for command in module.commands:
            self.commands.setdefault(command.name.lower(), []).append((command, module))
        if module.register_hooks is not None:
            self.hooks.module = module.name
            module.register_hooks(self.hooks)

    def has_module(self, name: str) -> bool:
        """Tell whether a module is there, by ``mod_x.c``, ``mod_x`` or ``x_module``."""
        wanted = name.removesuffix(".c").removesuffix(".py")
        return any(wanted in (module.name, module.symbol) for module in self.modules)

    def find_module(self, symbol: str) -> Module | None:
        """Return the module that LoadModule calls *symbol*."""
        return next((module for module in self.modules if module.symbol == symbol), None)

    def register_output_filter(self, registered: OutputFilter) -> None:
        """Make an output filter known by its name."""
        self.output_filters[registered.name.lower()] = registered

    def register_input_filter(self, registered: InputFilter) -> None:
        """Make an input filter known by its name."""
        self.input_filters[registered.name.lower()] = registered

    def add_server(self, server: Server) -> None:
        """Take in a virtual host; what it does not say is merged in later."""
        self.servers.append(server)

    def _merge_servers(self) -> None:
        main = self.main
        for server in self.servers:
            for module, base in main.module_config.items():
                own = server.module_config.get(module, base)
                if own is not base and module.merge_server_config is not None:
                    own = module.merge_server_config(base, own)
                server.module_config[module] = own
            server.lookup_defaults = self.merge(main.lookup_defaults, server.lookup_defaults)

    def merge(self, base: Vector, added: Vector) -> Vector:
        """Return *base* with what *added* says, each module's by its own rule."""
        merged = dict(base)
        for module, new in added.items():
            if module in merged and module.merge_dir_config is not None:
                new = module.merge_dir_config(merged[module], new)
            merged[module] = new
        return merged

    def merged(self, base: Vector, sections: Sequence[Vector]) -> Vector:
        """The same for several *sections*, remembered: requests meet few combinations."""
        if not sections:
            return base
        key = (id(base), *map(id, sections))
        known = self._merged.get(key)
        if known is not None:
            return known[0]
        found = base
        for section in sections:
            found = self.merge(found, section)
        if len(self._merged) < 10_000:
            self._merged[key] = (found, base, sections)  # they live on, so their ids are theirs
        return found

    # -- its life

    def start_child(self) -> None:
        """In a process that serves, once it is what it shall be (child_init)."""
        run_void(self.hooks.child_init, self)

    def stop_child(self, graceful: bool) -> None:
        """At the end of such a process."""
        run_void(self.hooks.child_stopping, self, graceful)

    def cleanup(self, function: Callable[[], object]) -> None:
        """Call *function* when this configuration is given up, the last one first (pconf)."""
        self._cleanups.append(function)

    def destroy(self) -> None:
        """Give the configuration up; modules loaded from files are forgotten."""
        while self._cleanups:
            function = self._cleanups.pop()
            try:
                function()
            except Exception:
                self.log_exception("clean-up of the configuration")

    # -- which server

    def find_servers(self, local: tuple[str, int]) -> list[Server]:
        """Return the virtual hosts for connections to *local*, the default one first.

        The most specific address counts: exact ones before ``*``. The main server when there are
        none.
        """
        best, found = 0, []
        for server in self.servers:
            for address, port in server.addrs:
                if address not in ("*", local[0]) or port not in (0, local[1]):
                    continue
                rank = 2 * (address != "*") + (port != 0) + 1
                if rank > best:
                    best, found = rank, [server]
                elif rank == best and server not in found:
                    found.append(server)
        return found or [self.main]

    def find_server(self, servers: Sequence[Server], hostname: str | None) -> Server:
        """Return the one of *servers* that is called *hostname*; the first one for any other."""
        if hostname is None or len(servers) == 1:
            return servers[0]
        for server in servers:
            if server.server_hostname is not None and server.server_hostname.lower() == hostname:
                return server
            if hostname in server.names:
                return server
        from fnmatch import fnmatchcase

        for server in servers:
            if any(fnmatchcase(hostname, pattern) for pattern in server.wild_names):
                return server
        return servers[0]

    def canonical_names(self, r: Request) -> bool:
        """Whether UseCanonicalName is on: the server's own name counts, not the client's."""
        return dir_config(r).use_canonical_name

    # -- log

    def warn(self, message: str) -> None:
        """Say *message* about the configuration."""
        self.warnings.append(message)
        self.log(message, "warn")

    def log(self, message: str, level: str = "error") -> None:
        """Write *message* to the error log."""
        self._log(message, level)

    def log_request(self, request: Request, message: str, level: str = "error") -> None:
        """Write *message* about *request*, if its server's LogLevel has that level."""
        if level_number(level) <= level_number(request.server.loglevel):
            client = f"{request.connection.client_ip}:{request.connection.client_port}"
            self._log(f"[client {client}] {message}", level)

    def log_exception(self, doing: str, request: Request | None = None) -> None:
        """Write the exception being handled, with its traceback."""
        text = f"{doing}\n{traceback.format_exc().rstrip()}"
        if request is None:
            self._log(text, "error")
        else:
            self.log_request(request, text)


def level_number(level: str) -> int:
    """Return how talkative *level* is: 0 for emerg, 7 for debug, more for traces."""
    try:
        return (LEVELS + _TRACE).index(level)
    except ValueError:
        raise ConfigurationError(f"LogLevel must be one of {', '.join(LEVELS)}") from None


def _nothing() -> Directive:
    from .config import Directive

    return Directive("", "", "", 0)


def _to_stderr(message: str, level: str) -> None:
    sys.stderr.write(f"[{level}] {message}\n")
