"""``sapi_info()``: a page that says what runs here and how; our ``phpinfo()``.

It tells whoever reads it more than they need for an attack: nothing serves it unless asked, and
it belongs behind a password. Secrets are masked by the names that they have: a value under a name
that nobody would call a secret is shown. Lives on the ground floor: the host's mod_info uses it.
"""

from __future__ import annotations

import base64
import hashlib
import html
import os
import platform
import re
import sys
import sysconfig
import threading
import time
from functools import lru_cache
from importlib.metadata import distributions
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

from . import sapi
from .sapi import __version__, sapi_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_LONGEST = 2000
"""Characters of a value that are shown."""
_SECRET = re.compile(
    "auth|cookie|passw|passphrase|secret|token|key|credential|session|signature|private|dsn|salt"
    r"|(^|[_.-])(pass|pwd|pw|sig|csrf|jwt|otp|pin)([_.-]|$)",
    re.IGNORECASE,
)
_NO_SECRET = frozenset(
    ("AUTH_TYPE", "PWD", "OLDPWD", "SSH_AUTH_SOCK", "XDG_SESSION_TYPE", "XDG_SESSION_ID")
)
_PAIR = re.compile(r"([\w.%\[\]-]+)=([^&;\s\"']+)")
_LOGIN = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s@]+@", re.IGNORECASE)
_MASK = "•••••"

_STEPS = (
    ("Module start-up", "MINIT", "startup", "module_startup", "once per process tree"),
    ("Child start-up", "", "child_startup", "", "after the fork, in each process that serves"),
    ("Request start-up", "RINIT", "activate", "request_startup", "before the application"),
    ("The application", "", "", "", "WSGI or ASGI"),
    ("Request shutdown", "RSHUTDOWN", "deactivate", "request_shutdown", "whatever happened"),
    ("Module shutdown", "MSHUTDOWN", "shutdown", "module_shutdown", "at the end of each process"),
)
"""Step, PHP's name, slot of the SAPI, callable of an extension, when."""
_SLOTS = (
    *("startup", "child_startup", "shutdown", "activate", "deactivate", "getenv", "get_stat"),
    *("get_request_time", "log_message", "sapi_error", "terminate_process", "run"),
)


class Section(NamedTuple):
    """A part of the page: a table. Its first column is names."""

    title: str
    rows: Sequence[tuple[str, ...]]
    columns: tuple[str, ...] = ()
    note: str = ""


def sapi_info(
    request: Mapping[str, Any] | None = None,
    *,
    text: bool = False,
    runtime: sapi.Sapi | None = None,
    more: Iterable[Section] = (),
) -> str:
    """Return what is known of this process as an HTML page, or as plain *text*.

    *request* is a WSGI environ or an ASGI scope; its variables are shown, too. *runtime* is the
    :class:`~sapi_adapters.sapi.Sapi`, where the caller has it: then its slots are listed. *more*
    comes after that. Everything is escaped. What is called a password, key, token, cookie and the
    like is masked, in queries and URLs as well.

    >>> start_response("200 OK", [("Content-Type", "text/html; charset=utf-8")])
    >>> return [sapi_info(environ).encode()]
    """
    found = [*sections(request, runtime), *more]
    about = f"sapi_adapters {__version__} · Python {platform.python_version()}"
    if text:
        return plain("sapi_info()", found)
    return page(sapi_name(), about, found)


def sections(
    request: Mapping[str, Any] | None = None, runtime: sapi.Sapi | None = None
) -> list[Section]:
    """Return the parts of the page."""
    found = [_overview(runtime), _life_cycle(runtime)]
    if runtime is not None:
        found.append(_slots(runtime))
    if request is not None:
        found += _request(request)
    found += [_extensions(), _python(), _build(), _path(), _libraries(), _environment()]
    return [each for each in found if each.rows]


# -- what is known --------------------------------------------------------------------------------


def _overview(runtime: sapi.Sapi | None) -> Section:
    rows = [("SAPI", sapi_name())]
    if runtime is not None:
        rows.append(("For people", runtime.pretty_name))
    rows += [
        ("sapi_adapters", __version__),
        ("Python", f"{platform.python_version()} ({platform.python_implementation()})"),
        ("System", f"{platform.system()} {platform.release()} {platform.machine()}"),
        ("Process", f"{os.getpid()}, child of {os.getppid()}"),
        ("User and group", f"{os.geteuid()}:{os.getegid()}"),
        ("Thread", f"{threading.current_thread().name}, one of {threading.active_count()}"),
        ("Directory", _cwd()),
        ("Time", time.strftime("%Y-%m-%d %H:%M:%S %z")),
    ]
    return Section("Overview", rows)


def _cwd() -> str:
    try:
        return os.getcwd()
    except OSError as error:
        return f"unknown: {error.strerror}"


def _life_cycle(runtime: sapi.Sapi | None) -> Section:
    rows = []
    for step, php, slot, callable_, when in _STEPS:
        takers = [
            extension.name
            for extension in sapi.extensions
            if callable_ and getattr(extension.source, callable_, None) is not None
        ]
        if runtime is not None and slot and _fills(runtime, slot):
            takers.insert(0, f"{runtime.name} ({slot})")
        rows.append((step, php, ", ".join(takers), when))
    return Section("Life cycle", rows, ("Step", "PHP", "Who takes part", "When"))


def _fills(runtime: sapi.Sapi, slot: str) -> bool:
    return getattr(type(runtime), slot, None) is not getattr(sapi.Sapi, slot, None)


def _slots(runtime: sapi.Sapi) -> Section:
    rows = []
    for slot in _SLOTS:
        found = getattr(type(runtime), slot, None)
        where = "not called" if found is None else getattr(found, "__qualname__", type(found))
        rows.append((slot, str(where)))
    return Section("Slots of the SAPI", rows, ("Slot", "Filled by"))


def _extensions() -> Section:
    rows = []
    for extension in sapi.extensions:
        calls = [step[3] for step in _STEPS if step[3] and hasattr(extension.source, step[3])]
        rows.append((extension.name, ", ".join(calls)))
    return Section("Extensions", rows, ("Name", "Is called for"))


def _request(request: Mapping[str, Any]) -> list[Section]:
    if "asgi" in request and "REQUEST_METHOD" not in request:
        return _scope(request)
    groups: dict[str, list[tuple[str, str]]] = {
        "Server variables": [],
        "Request headers": [],
        "WSGI": [],
    }
    settings = request.get("sapi.settings")
    for name in sorted(map(str, request)):
        if name == "sapi.settings":
            continue
        kind = "Request headers" if name.startswith("HTTP_") else "Server variables"
        groups[kind if name.isupper() else "WSGI"].append((name, shown(name, request[name])))
    found = [Section(title, rows) for title, rows in groups.items()]
    if isinstance(settings, dict):
        rows = [(str(name), shown(str(name), value)) for name, value in sorted(settings.items())]
        found.insert(0, Section("Settings", rows))
    return found


def _scope(scope: Mapping[str, Any]) -> list[Section]:
    headers = [
        (name, shown(name, value))
        for name, value in (
            (raw.decode("latin-1"), value.decode("latin-1"))
            for raw, value in scope.get("headers", ())
        )
    ]
    rows = [(name, shown(name, scope[name])) for name in sorted(scope) if name != "headers"]
    return [Section("ASGI scope", rows), Section("Request headers", headers)]


def _python() -> Section:
    flags = [
        f"{name}={getattr(sys.flags, name)}"
        for name in dir(sys.flags)
        if not name.startswith(("_", "n_")) and name not in ("count", "index")
    ]
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    rows = [
        ("Executable", sys.executable or "none"),
        ("Prefix", sys.prefix),
        ("Virtual environment", "yes" if sys.prefix != sys.base_prefix else "no"),
        ("Encoding of files", sys.getfilesystemencoding()),
        ("Recursion limit", str(sys.getrecursionlimit())),
        ("Global interpreter lock", "yes" if gil else "no"),
        ("Byte order", sys.byteorder),
        ("Modules imported", str(len(sys.modules))),
        ("Flags", " ".join(flags)),
    ]
    return Section("Python", rows)


def _build() -> Section:
    variables = ("CC", "OPT", "CONFIG_ARGS", "SOABI", "MULTIARCH", "LDLIBRARY", "HOST_GNU_TYPE")
    rows = [
        ("Build", ", ".join(platform.python_build())),
        ("Compiler", platform.python_compiler()),
        ("C library", " ".join(platform.libc_ver()).strip() or "unknown"),
        ("Threads", " ".join(str(part) for part in sys.thread_info if part)),
    ]
    rows += [(name, str(value)) for name in variables if (value := sysconfig.get_config_var(name))]
    for module, attribute in (("ssl", "OPENSSL_VERSION"), ("zlib", "ZLIB_RUNTIME_VERSION")):
        if module in sys.modules:  # what is not in use is not loaded for this
            rows.append((module, str(getattr(sys.modules[module], attribute, ""))))
    return Section("Build", rows)


def _path() -> Section:
    return Section("sys.path", [(str(n), each) for n, each in enumerate(sys.path)])


def _libraries() -> Section:
    names: dict[str, str] = {}
    for each in distributions():
        name = each.metadata["Name"]
        if name:
            names.setdefault(str(name), str(each.version))
    rows = [(name, names[name]) for name in sorted(names, key=str.lower)]
    return Section("Libraries", rows, ("Distribution", "Version"))


def _environment() -> Section:
    rows = [(name, shown(name, value)) for name, value in sorted(os.environ.items())]
    return Section("Environment of the process", rows)


# -- values ---------------------------------------------------------------------------------------


def shown(name: str, value: object) -> str:
    """Return *value*, called *name*, for people: masked when it is a secret, never too long.

    Of objects only the kind is shown: what they print may be anything.
    """
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if not isinstance(value, str):
        if isinstance(value, dict):
            parts = [f"{key}: {shown(str(key), each)}" for key, each in value.items()]
            value = f"{{{', '.join(parts)}}}"
        elif isinstance(value, (list, tuple)):
            value = f"({', '.join([shown(name, each) for each in value])})"
        elif value is None or isinstance(value, (bool, int, float)):
            value = str(value)
        else:
            kind = type(value)
            return f"<{kind.__module__}.{kind.__qualname__}>"
        return value[:_LONGEST]
    if is_secret(name):
        return f"{_MASK} ({len(value)} characters)" if value else ""
    value = _LOGIN.sub(rf"\1{_MASK}@", value)
    value = _PAIR.sub(lambda m: f"{m[1]}={_MASK}" if is_secret(m[1]) else m[0], value)
    try:
        value = value.encode("latin-1").decode()
    except UnicodeError:
        pass  # it is text already, or no UTF-8
    return value if len(value) <= _LONGEST else f"{value[:_LONGEST]}…"


def is_secret(name: str) -> bool:
    """Whether something of that name is not shown."""
    return name not in _NO_SECRET and _SECRET.search(name) is not None


# -- rendering ------------------------------------------------------------------------------------


@lru_cache(1)
def template() -> tuple[str, str]:
    """Return the page with its marks, and the digest of its style for a Content-Security-Policy.

    Read once: call it before a change of root hides the file.
    """
    page = files(__package__ or "").joinpath("infopage.html").read_text(encoding="utf-8")
    style = page.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return page, f"sha256-{digest}"


def page(title: str, about: str, found: Sequence[Section], links: str = "") -> str:
    """Return *found* as an HTML page; *links* is HTML for its head."""
    text, digest = template()
    parts = {
        "policy": f"default-src 'none'; style-src '{digest}'; img-src data:; base-uri 'none'",
        "title": html.escape(printable(title)),
        "about": html.escape(printable(about)),
        "links": links,
        "contents": "".join(
            f'<li><a href="#part{n}">{html.escape(each.title)}</a></li>'
            for n, each in enumerate(found)
            if ": " not in each.title  # what belongs to the part before it
        ),
        "sections": "\n".join(_table(n, each) for n, each in enumerate(found)),
    }
    # In one pass: what a value holds is never taken for a mark.
    return re.sub(r"<!--(\w+)-->", lambda mark: parts[mark[1]], text)


def _table(number: int, section: Section) -> str:
    def cells(row: tuple[str, ...]) -> str:
        first, *rest = (html.escape(printable(cell)) for cell in row)
        return f'<tr><th scope="row">{first}</th>{"".join(f"<td>{c}</td>" for c in rest)}</tr>'

    names = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in section.columns)
    note = f"<p>{html.escape(section.note)}</p>" if section.note else ""
    return (
        f'<section id="part{number}"><h2>{html.escape(section.title)}</h2>{note}'
        f'<div class="scroll"><table>{f"<thead><tr>{names}</tr></thead>" if names else ""}<tbody>'
        + "\n".join(map(cells, section.rows))
        + "</tbody></table></div></section>"
    )


def plain(title: str, found: Iterable[Section]) -> str:
    """Return *found* as text: ``name => value``, as phpinfo() has it on the command line."""
    parts = [title]
    for section in found:
        parts.append(f"\n{section.title}\n")
        parts += [section.note] if section.note else []
        parts += [" => ".join(printable(cell) for cell in row) for row in section.rows]
    return "\n".join(parts) + "\n"


def printable(text: str) -> str:
    """Return *text* without anything that a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
