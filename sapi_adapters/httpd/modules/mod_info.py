"""mod_info: the handler ``server-info`` shows the configuration; AddModuleInfo.

``?server``, ``?list``, ``?hooks``, ``?config`` and ``?mod_NAME.c`` show a part, nothing shows all
of it with ``sapi_info()``. Whoever sees this page knows the server: it is served nowhere unless
SetHandler says so, and belongs behind a password. Directives that are executed while the file is
read, as LoadModule and Define are, and Include leave nothing behind that could be shown. Left
out: ``?providers``; handlers of modules are told by the hook alone.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from ...info import Section, is_secret, page, plain, sections, shown, template
from ...sapi import __version__
from ..config import words
from ..environ import environ_of
from ..filters import EOS
from ..hooks import DECLINED, HOOKS, OK
from ..module import (
    ACCESS_CONF,
    API_MAJOR,
    API_MINOR,
    EXEC_ON_READ,
    OR_AUTHCFG,
    OR_FILEINFO,
    OR_INDEXES,
    OR_LIMIT,
    OR_OPTIONS,
    RSRC_CONF,
    TAKE2,
    Command,
    Module,
    Settings,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from ..config import Directive, Parameters
    from ..hooks import Hooks
    from ..host import Host
    from ..records import Request

_WHERE = (
    (RSRC_CONF, "server, virtual host"),
    (ACCESS_CONF, "section"),
    (OR_LIMIT, "Limit"),
    (OR_OPTIONS, "Options"),
    (OR_FILEINFO, "FileInfo"),
    (OR_AUTHCFG, "AuthConfig"),
    (OR_INDEXES, "Indexes"),
    (EXEC_ON_READ, "while it is read"),
)
_NAME = re.compile(r"[\w.-]+")
_STARTUP = 8
"""How many of the hooks are the server's own; the others are those of connections and requests."""


class Config(Settings):
    """What AddModuleInfo says."""

    added: tuple[tuple[str, str], ...] = ()


def _add_module_info(cmd: Parameters, config: Config, module: str, text: str) -> None:
    config.added = (*config.added, (_bare(module), text))


def _bare(name: str) -> str:
    return name.removesuffix(".c").removesuffix(".py")


# -- the parts ------------------------------------------------------------------------------------


def _server(r: Request) -> list[Section]:
    host, server = r.host, r.server
    signature = f"sapi_adapters/{__version__}"
    rows = [
        ("Server version", signature),
        ("Module interface", f"{API_MAJOR}.{API_MINOR}"),
        ("Name and port", f"{server.server_hostname or r.hostname}:{r.connection.local_port}"),
        (
            "Timeouts",
            f"connection {server.timeout:g} s, keep-alive {server.keep_alive_timeout:g} s",
        ),
        ("Process model", host.mpm or "chosen by the program"),
        ("Event loop", "yes" if r.connection.asynchronous else "no"),
        ("ServerRoot", host.root),
        ("Configuration file", host.file or "none, the program's options"),
        ("Listen", ", ".join(host.listen) or "as the program says"),
        ("Virtual hosts", ", ".join(_names(host)) or "none"),
        ("Generation", str(_generation(host))),
        ("Defines", ", ".join(sorted(host.defines)) or "none"),
    ]
    rows += [(name, shown(name, value)) for name, value in sorted(host.settings.items())]
    return [Section("Server settings", rows)]


def _names(host: Host) -> list[str]:
    return [server.server_hostname or f"line {server.defn_line_number}" for server in host.servers]


def _generation(host: Host) -> int:
    board = host.provided.get("board")
    found: int = host.generation if board is None else board.read()[0].generation
    return found


def _list(r: Request) -> list[Section]:
    rows = [
        (module.name, module.file or "built in", f"{module.version}.{module.minor_version}")
        for module in r.host.modules
    ]
    return [Section("Modules", rows, ("Name", "From", "Interface"))]


def _hooks(r: Request) -> list[Section]:
    table = r.host.hooks.table()
    names = list(HOOKS)
    parts = (
        ("Hooks of the server", names[:_STARTUP]),
        ("Hooks of connections and requests", names[_STARTUP:]),
    )
    return [
        Section(
            title,
            [(name, HOOKS[name], ", ".join(table[name])) for name in group if name in table],
            ("Hook", "Kind", "Modules, in the order of their calls"),
        )
        for title, group in parts
    ]


def _walk(tree: Sequence[Directive], depth: int = 0) -> Iterator[tuple[Directive, int]]:
    for directive in tree:
        yield directive, depth
        if directive.children is not None:
            yield from _walk(directive.children, depth + 1)


def _told(directive: Directive) -> str:
    """Return the directive, without what looks like a secret."""
    parts: list[str] = []
    hidden = False
    try:
        arguments = words(directive)
    except Exception:
        arguments = directive.args.split()
    for word in arguments:
        parts.append("•••••" if hidden else shown("", word))
        hidden = hidden or (_NAME.fullmatch(word) is not None and is_secret(word))
    told = directive.args if parts == arguments else " ".join(parts)
    text = f"{directive.name} {told}".strip()
    return text if directive.children is None else f"<{text}>"


def _lines(host: Host, module: Module | None = None) -> list[tuple[str, str]]:
    """Return (place, directive) of the configuration, or of what *module* has in it.

    Around a module's there are the sections that it is in.
    """
    found: list[tuple[str, str]] = []
    around: list[Directive] = []
    told: set[int] = set()
    for directive, depth in _walk(host.tree):
        section = directive.children is not None
        name = f"<{directive.name}" if section else directive.name
        owners = [owner for _, owner in host.commands.get(name.lower(), ())]
        around[depth:] = [directive]
        if module is None or module in owners:
            new = [(n, each) for n, each in enumerate(around) if id(each) not in told]
            told.update(id(each) for _, each in new)
            found += [_line(each, n) for n, each in new]
    return found


def _line(directive: Directive, depth: int) -> tuple[str, str]:
    return f"{directive.file}:{directive.line}", "    " * depth + _told(directive)


def _config(r: Request) -> list[Section]:
    return [Section("Configuration", _lines(r.host), ("Place", "Directive"))]


def _module(r: Request, module: Module) -> list[Section]:
    host = r.host
    hooks = [hook for hook, modules in host.hooks.table().items() if module.name in modules]
    kinds = [
        name.removesuffix("_config").replace("_", " ")
        for name in (
            *("create_dir_config", "merge_dir_config"),
            *("create_server_config", "merge_server_config"),
        )
        if getattr(module, name) is not None
    ]
    config: Config = host.main.module_config[info_module]
    rows = [
        ("Loaded as", module.symbol or "built in"),
        ("From", module.file or "built in"),
        ("Configurations", ", ".join(kinds) or "none"),
        ("Content handlers", "yes" if "handler" in hooks else "none"),
        ("Hooks", ", ".join(hooks) or "none"),
    ]
    rows += [("More", text) for name, text in config.added if name == module.name]
    found = [Section(module.name, rows)]
    if module.commands:
        found.append(
            Section(
                f"{module.name}: directives",
                [(_name(c), c.how, _where(c), c.help) for c in module.commands],
                ("Name", "Arguments", "Where", "What"),
            )
        )
    lines = _lines(host, module)
    if lines:
        found.append(Section(f"{module.name}: configured", lines, ("Place", "Directive")))
    return found


def _name(command: Command) -> str:
    return f"{command.name}>" if command.name.startswith("<") else command.name


def _where(command: Command) -> str:
    return ", ".join(name for bit, name in _WHERE if command.where & bit)


def _everything(r: Request) -> list[Section]:
    found = [*_server(r), *_list(r), *_hooks(r)]
    for module in r.host.modules:
        found += _module(r, module)
    return found + sections(environ_of(r), r.host.provided.get("sapi"))


_PARTS: dict[str, Callable[[Request], list[Section]]] = {
    "": _everything,
    "server": _server,
    "list": _list,
    "hooks": _hooks,
    "config": _config,
}


# -- hooks ----------------------------------------------------------------------------------------


def _handler(r: Request) -> int | Awaitable[int]:
    if r.handler != "server-info":
        return DECLINED
    if r.method not in ("GET", "HEAD"):
        r.allowed = frozenset(("GET", "HEAD"))
        return 405
    return r.in_thread(_answer)


def _answer(r: Request) -> int:
    query, _, form = (r.args or "").partition("&")
    made = _PARTS.get(query)
    if made is None:
        module = next((m for m in r.host.modules if m.name == _bare(query)), None)
        if module is None:
            return 404
        found = _module(r, module)
    else:
        found = made(r)
    r.headers_out.set("Cache-Control", "no-store")
    r.headers_out.set("X-Content-Type-Options", "nosniff")
    if form == "text":
        r.content_type = "text/plain; charset=utf-8"
        body = plain("server-info", found)
    else:
        r.content_type = "text/html; charset=utf-8"
        name = r.server.server_hostname or r.hostname or "server"
        body = page(name, f"sapi_adapters {__version__} · {r.host.mpm or 'mod'}", found, _links(r))
    r.output_filters.pass_brigade([body.encode("utf-8", "replace"), EOS])
    return OK


def _links(r: Request) -> str:
    names = [("", "everything"), *((name, name) for name in _PARTS if name)]
    names += [(f"{module.name}.c", module.name) for module in r.host.modules]
    links = "".join(f'<a href="?{quote(query)}">{html.escape(name)}</a>\n' for query, name in names)
    return f'<nav aria-label="Parts">{links}</nav>'


def _post_config(host: Host) -> int:
    template()  # before a change of root hides the file
    return OK


def _register(hooks: Hooks) -> None:
    hooks.add("post_config", _post_config)
    hooks.add("handler", _handler)


info_module = Module(
    "mod_info",
    commands=(
        Command("AddModuleInfo", _add_module_info, TAKE2, RSRC_CONF, "a module's name and a text"),
    ),
    create_server_config=lambda server: Config(),
    merge_server_config=Config.merged,
    register_hooks=_register,
)
