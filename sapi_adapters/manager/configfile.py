"""The configuration file, in php-fpm's syntax: :func:`read` and, its inverse, :func:`dump`.

A file is lines of sections and ``name = value``, taken apart as PHP's reader of INI files does it.
What the names mean is not known here but in ``directives.py``.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from ..sapi import ConfigurationError
from .config import Global, Pool
from .directives import BY_NAME, Directive, mistake, override, set_directive, warn
from .values import BOOL, CONTROL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_DEEPEST = 5
"""How many files may stand inside one another, php-fpm's number."""

_OBLIGATORY = {
    "listen": "such as listen = /run/app/app.sock",
    "app": "the application, as app = module:attribute",
    "pm": "static, dynamic or ondemand",
    "pm.max_children": "how many workers there are at most",
}
"""What a pool in a file must say, and what to tell who did not."""

_SECTION = re.compile(r"""\[(?:"([^"]*)"|'([^']*)'|([^\]"';]*))\][ \t]*""")
_LABEL = re.compile(r'[^=\t;&|^$~(){}!"\[\]\x00]+')
_OFFSET = re.compile(r"""\[[ \t]*(?:"([^"]*)"|'([^']*)'|([^\]"';]*?))[ \t]*\]""")
_PIECE = re.compile(
    r"""
    (?P<double> [ \t]* "(?P<quoted> (?: [^"\\] | \\. )* )" [ \t]* )  # takes the blanks around it
    | (?P<end> [ \t]* (?: ;.* )? \Z )
    | (?P<single> '(?P<literal> [^']* )' )
    | (?P<variable> \$\{ (?P<name> [^{}]+ ) \} )
    | (?P<bare> [ \t]+ | (?: [^$=\ \t;&|^~()!"'\x00] | \$(?!\{) )+ )
    """,
    re.VERBOSE | re.DOTALL,
)
_IN_QUOTES = re.compile(r"""\\(\$\{|["\\])|\$\{([^{}]+)\}""")
_HINTS = {
    '"': "a quotation is not closed",
    "'": "a quotation is not closed",
    "$": "${ is not closed; single quotes make it plain text",
}
_WORDS = {
    **dict.fromkeys(("true", "on", "yes"), "1"),
    **dict.fromkeys(("false", "off", "no", "none", "null"), ""),
}
"""Words that PHP's reader takes for others unless they are quoted."""


def read(
    path: str, *, prefix: str | None = None, overrides: Sequence[tuple[str, str]] = ()
) -> Global:
    """Return what the file *path* says, with the *overrides* (name, value) on top.

    Relative paths count from the pool's ``prefix``, else from *prefix*, else from the file's own
    directory. Raises :class:`ConfigurationError`; ``rules.check`` is still to be called.
    """
    base = os.path.abspath(prefix or os.path.dirname(os.path.abspath(path)))
    if not os.path.isdir(base):
        raise ConfigurationError(f"the prefix {base} is not a directory")
    config = Global()
    _Reader(config, base).file(path, "")
    for name, value in overrides:
        override(config, name, value)
    for pool in config.pools:
        for name, hint in _OBLIGATORY.items():
            if getattr(pool, name.replace(".", "_")) is None or name not in pool.given:
                raise mistake(pool.given[""], f"pool {pool.name} does not say {name}: {hint}")
    _complete(config, base, False)
    for pool in config.pools:
        _complete(pool, base, False, only="prefix")
        _complete(pool, pool.prefix or base, pool.chroot is not None)
    return config


class _Reader:
    """The files, line by line. A section goes on in and after an included file, as in php-fpm."""

    def __init__(self, config: Global, base: str) -> None:
        self._config = config
        self._base = base
        self._depth = 0
        self._target: Global | Pool = config

    def file(self, path: str, where: str) -> None:
        """Read one file; *where* is the line that includes it."""
        if self._depth == _DEEPEST:
            raise mistake(where, f"more than {_DEEPEST} files are included in one another")
        try:
            with open(path, "rb") as file:
                lines = file.read().split(b"\n")
        except OSError as error:
            raise mistake(where, f"cannot read {path}: {error.strerror}") from error
        self._depth += 1
        for number, line in enumerate(lines, 1):
            self._line(os.fsdecode(line.removesuffix(b"\r")), f"{path}:{number}")
        self._depth -= 1

    def _line(self, line: str, where: str) -> None:
        try:
            statements = list(_statements(line))
        except ValueError as error:
            raise mistake(where, str(error)) from None
        for name, value in statements:
            if value is None:
                self._section(name, where)
            elif name == "include":
                self._include(value, where)
            else:
                set_directive(self._target, name, value, where)

    def _include(self, pattern: str, where: str) -> None:
        from glob import glob  # needed by files only

        found = sorted(glob(os.path.join(self._base, pattern))) if pattern else []
        if not found:
            warn(self._config, f"[{where}] nothing matches include = {pattern}")
        for path in found:
            if not os.path.isdir(path):
                self.file(path, where)

    def _section(self, name: str, where: str) -> None:
        if name.lower() == "global":
            self._target = self._config
            return
        for pool in self._config.pools:
            if pool.name.lower() == name.lower():
                self._target = pool
                return
        if not name or "$" in name or CONTROL.search(name):
            raise mistake(where, f"[{name}] is no name for a pool")
        # In a file the defaults are php-fpm's, but that output is not thrown away: a traceback
        # that nobody sees helps nobody. What there is to warn about goes into one list.
        pool = Pool(name, clear_env=True, catch_workers_output=True, warnings=self._config.warnings)
        pool.given[""] = where
        self._config.pools.append(pool)
        self._target = pool


def _statements(line: str) -> Iterator[tuple[str, str | None]]:
    """Take a line apart as PHP's reader does: (section, None) and (name, value)."""
    rest = line.lstrip(" \t")
    while rest.startswith("["):
        section = _SECTION.match(rest)
        if not section:
            raise ValueError("a section's name is not closed by ]")
        yield (section[1] or section[2] or section[3] or "").strip(), None
        rest = rest[section.end() :]
    if not rest or rest.startswith(";"):
        return
    if rest.startswith("#"):
        raise ValueError("a comment begins with ; and not with #")
    label = _LABEL.match(rest)
    if not label:
        raise ValueError(f"a directive's name cannot begin with {rest[0]}")
    name, rest = label[0].strip(), rest[label.end() :]
    if rest.startswith("["):
        offset = _OFFSET.match(rest)
        if not offset:
            raise ValueError(f"the key of {name}[ is not closed by ]")
        name += f"[{offset[1] or offset[2] or offset[3] or ''}]"
        rest = rest[offset.end() :]
    rest = rest.lstrip(" \t")
    if not rest.startswith("="):
        raise ValueError(f"{name} has no value: write {name} = ...")
    yield name, _value(rest[1:].lstrip(" \t"))


def _value(text: str) -> str:
    pieces: list[str] = []
    position = 0
    while True:
        found = _PIECE.match(text, position)
        if found is None:
            character = text[position:].lstrip(" \t")[0]
            raise ValueError(_HINTS.get(character, f"a value with {character} must be quoted"))
        if found["end"] is not None:
            break
        pieces.append(_piece(found))
        position = found.end()
    whole = text[:position].lower()
    return _WORDS.get(whole, "".join(pieces))


def _piece(found: re.Match[str]) -> str:
    if found["double"] is not None:
        return _IN_QUOTES.sub(
            lambda inner: inner[1] or os.environ.get(inner[2], ""), found["quoted"]
        )
    if found["variable"] is not None:
        return os.environ.get(found["name"], "")
    return found["literal"] if found["single"] is not None else found["bare"]


def _complete(target: Global | Pool, base: str, chroot: bool, only: str = "") -> None:
    """Make the paths absolute, or that of the directive *only*."""
    for directive in BY_NAME[type(target)].values():
        value = getattr(target, directive.field, None)
        if directive.kind.complete is None or not value or only not in ("", directive.name):
            continue
        try:
            setattr(target, directive.field, directive.kind.complete(value, base, chroot))
        except ValueError as error:
            text = f"{directive.name} = {directive.kind.show(value)}: this {error}"
            raise mistake(target.given.get(directive.name, ""), text) from None


# -- writing it -----------------------------------------------------------------------------------

_PLAIN = re.compile(r"[A-Za-z0-9_./:@,+%*\[\]-]+")


def dump(config: Global) -> str:
    """Return the file that gives *config*; what has no value is a comment.

    Variables from the master's environment are named, not shown. The one thing that a file cannot
    say is a ``catch_workers_output`` of None.
    """
    lines = _section("global", config)
    for pool in config.pools:
        lines += ["", *_section(pool.name, pool)]
    return "\n".join(lines) + "\n"


def _section(name: str, target: Global | Pool) -> list[str]:
    quote = "" if not set(name) & set("[];\"'") else '"' if "'" in name else "'"
    lines = [f"[{quote}{name}{quote}]"]
    for directive in BY_NAME[type(target)].values():
        if not directive.reason:
            value = getattr(target, directive.field)
            lines += [f"\t{line}" for line in _SHOW[directive.array](directive, target, value)]
    return lines


def _show(directive: Directive, target: Global | Pool, value: Any) -> list[str]:
    if value in (None, "", ()) and directive.name != "ping.response":
        return [f"; {directive.name} = undefined"]
    text = directive.kind.show(value)
    return [f"{directive.name} = {text if directive.kind is BOOL else _quoted(text)}"]


def _show_list(directive: Directive, target: Global | Pool, value: Any) -> list[str]:
    return [f"{directive.name}[] = {_quoted(directive.kind.show(each))}" for each in value]


def _show_map(directive: Directive, target: Any, value: dict[str, str]) -> list[str]:
    sources = {key: f"${name}" for key, name in target.env_from.items()}
    return [
        f"{directive.name}[{key}] = {_quoted(sources.get(key, text))}"
        for key, text in value.items()
    ]


_SHOW = {"": _show, "list": _show_list, "map": _show_map}


def _quoted(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return "'" + text.replace("'", "'\"'\"'") + "'"
