"""Hooks: where modules take part in the life of the server, a connection and a request.

Each hook has a kind. RUN_ALL calls every function until one returns neither OK nor DECLINED;
RUN_FIRST calls them until one does not decline; VOID calls all of them. Functions are ordered by
the order they ask for, then by the modules that they name as predecessors and successors, then as
they were registered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from ..sapi import ConfigurationError

REALLY_FIRST, FIRST, MIDDLE, LAST, REALLY_LAST = -10, 0, 10, 20, 30

OK, DECLINED, DONE = 0, -1, -2
"""What a hook function returns: it has seen to it; it is none of its business; the whole request
is served. Else an HTTP status, such as 403."""

RUN_FIRST, RUN_ALL, VOID = "RUN_FIRST", "RUN_ALL", "VOID"

HOOKS = {
    # the server; *host* is the Host whose configuration is being made
    "pre_config": RUN_ALL,  # (host)
    "check_config": RUN_ALL,  # (host)
    "test_config": VOID,  # (host): with -t
    "open_logs": RUN_ALL,  # (host): still as root
    "post_config": RUN_ALL,  # (host): twice at a start, see Host.pass_
    "child_init": VOID,  # (host): in each process that serves, after privileges are dropped
    "child_stopping": VOID,  # (host, graceful)
    "monitor": VOID,  # (host): about once a second, in each process that serves
    # a connection
    "pre_connection": RUN_ALL,  # (connection)
    "process_connection": RUN_FIRST,  # (connection): OK when it has served it in another protocol
    # a request; the eleven phases are marked with their numbers
    "create_request": RUN_ALL,  # (request)
    "post_read_request": RUN_ALL,  # 1
    "http_scheme": RUN_FIRST,
    "default_port": RUN_FIRST,
    "quick_handler": RUN_FIRST,  # (request, lookup): before all others
    "pre_translate_name": RUN_FIRST,
    "translate_name": RUN_FIRST,  # 2
    "map_to_storage": RUN_FIRST,
    "post_perdir_config": RUN_ALL,
    "header_parser": RUN_ALL,  # 3
    "access_checker": RUN_ALL,  # 4
    "access_checker_ex": RUN_FIRST,
    "force_authn": RUN_FIRST,
    "check_user_id": RUN_FIRST,  # 5
    "note_auth_failure": RUN_FIRST,  # (request, type)
    "auth_checker": RUN_FIRST,  # 6
    "type_checker": RUN_FIRST,  # 7
    "fixups": RUN_ALL,  # 8
    "insert_filter": VOID,
    "insert_error_filter": VOID,
    "handler": RUN_FIRST,  # 9: may return an awaitable of the result, see Request.in_thread
    "log_transaction": RUN_ALL,  # 10
    # modules among themselves
    "status_hook": VOID,  # (request, page): more for the status page
}
"""Every hook and its kind; the arguments are the request unless the comment says otherwise.
Phase 11 are the clean-ups of :meth:`Request.cleanup`."""


class _Entry(NamedTuple):
    function: Callable[..., Any]
    module: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    order: int


class Hooks:
    """The functions of all modules, by hook; after :meth:`sort` each is a tuple attribute."""

    quick_handler: Sequence[Callable[..., Any]]

    def __init__(self) -> None:
        self._entries: dict[str, list[_Entry]] = {name: [] for name in HOOKS}
        self.module = ""
        """The name of the module whose hooks are being registered."""
        self.wrap: Callable[[str, str, Callable[..., Any]], Callable[..., Any]] | None = None
        """Given hook, module and function, returns what is called instead: for tracing."""
        self.sort()

    def add(
        self,
        hook: str,
        function: Callable[..., Any],
        *,
        predecessors: Iterable[str] = (),
        successors: Iterable[str] = (),
        order: int = MIDDLE,
    ) -> None:
        """Call *function* in *hook* (ap_hook_NAME): after the *predecessors*, names of modules
        such as ``mod_alias``, and before the *successors*.

        Raises :class:`ConfigurationError` for a hook that does not exist.
        """
        if hook not in self._entries:
            raise ConfigurationError(f"{self.module}: there is no hook {hook!r}")
        entry = _Entry(function, self.module, tuple(successors), tuple(predecessors), order)
        self._entries[hook].append(entry)

    def sort(self) -> None:
        """Order the functions of every hook. Raises :class:`ConfigurationError` for a circle."""
        for hook, entries in self._entries.items():
            functions = []
            for entry in _sorted(hook, entries):
                function = entry.function
                if self.wrap is not None:
                    function = self.wrap(hook, entry.module, function)
                functions.append(function)
            setattr(self, hook, tuple(functions))

    def table(self) -> dict[str, list[str]]:
        """Return the modules of each hook that has any, in the order in which they are called."""
        return {
            hook: [entry.module for entry in _sorted(hook, entries)]
            for hook, entries in self._entries.items()
            if entries
        }

    def __getattr__(self, name: str) -> Sequence[Callable[..., Any]]:
        raise AttributeError(f"there is no hook {name!r}")


def _sorted(hook: str, entries: list[_Entry]) -> list[_Entry]:
    """Return *entries* by order, each after those that must come before it."""
    waiting = sorted(entries, key=lambda entry: entry.order)
    done: list[_Entry] = []
    while waiting:
        for entry in waiting:
            others = [each for each in waiting if each is not entry]
            if not any(e.module in entry.after or entry.module in e.before for e in others):
                break
        else:
            names = ", ".join(sorted({entry.module for entry in waiting}))
            raise ConfigurationError(f"the order of hook {hook} goes round in a circle: {names}")
        waiting.remove(entry)
        done.append(entry)
    return done


def run_all(functions: Sequence[Callable[..., int]], *arguments: Any) -> int:
    """Call all *functions*; return the first result that is neither OK nor DECLINED, else OK."""
    for function in functions:
        result = function(*arguments)
        if result and result != DECLINED:
            return result
    return OK


def run_first(functions: Sequence[Callable[..., Any]], *arguments: Any) -> Any:
    """Call *functions* until one does not decline; return its result, else DECLINED."""
    for function in functions:
        result = function(*arguments)
        if result != DECLINED:
            return result
    return DECLINED


def run_void(functions: Sequence[Callable[..., object]], *arguments: Any) -> None:
    """Call all *functions*."""
    for function in functions:
        function(*arguments)
