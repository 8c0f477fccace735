"""The configuration in httpd.conf's syntax: reading it into a tree, and executing the directives.

Reading joins continued lines, expands ``${NAME}``, follows Include, and decides IfModule, IfDefine
and IfFile. Directives marked EXEC_ON_READ (LoadModule, Define ...) are executed at once, so that
what they bring is known to the lines below. All others are executed when the whole tree is there.
"""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..sapi import ConfigurationError
from . import module as api

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .host import Host
    from .module import Command, Module, Vector
    from .records import Server

_DEEPEST = 10
"""Files that include each other."""
_VARIABLE = re.compile(r"\$\{([^}:]+)\}")
_SECTION = re.compile(r"<\s*([A-Za-z][A-Za-z0-9_]*)\s*(.*?)\s*>\s*$", re.DOTALL)
_END = re.compile(r"</\s*([A-Za-z][A-Za-z0-9_]*)\s*>\s*$")

MAIN = (api.RSRC_CONF | api.OR_ALL) & ~(api.OR_AUTHCFG | api.OR_LIMIT)
"""What may stand outside of sections, and in VirtualHost."""
SECTION = api.ACCESS_CONF | api.OR_ALL
"""What may stand in Directory, Location and Files."""


class SyntaxError(ConfigurationError):
    """A directive that is wrong, with the place."""

    def __init__(self, message: str, directive: Directive) -> None:
        super().__init__(f"Syntax error on line {directive.line} of {directive.file}: {message}")


@dataclass
class Directive:
    """One directive of the tree; *children* is None unless it is a section."""

    name: str
    args: str
    """The rest of the line."""
    file: str
    line: int
    children: list[Directive] | None = None

    def __str__(self) -> str:
        name = f"{self.name} {self.args}".strip()
        return name if self.children is None else f"<{name}>"


@dataclass
class Parameters:
    """What a directive's function gets to know of where it stands (cmd_parms)."""

    host: Host
    server: Server
    directive: Directive
    override: int
    """What may stand here: RSRC_CONF, ACCESS_CONF and the classes OR_*."""
    vector: Vector
    """The configurations of the section, by module."""
    path: str | None = None
    """The path or pattern of the section; None outside of all."""
    context: str = ""
    """The name of the innermost section, in lower case; ``".htaccess"`` in such a file."""
    module: Module | None = None
    command: Command | None = None
    info: dict[str, Any] = field(default_factory=dict)
    """What directives of one section want to tell each other."""

    def walk(
        self,
        children: Sequence[Directive],
        vector: Vector,
        path: str | None,
        context: str,
        *,
        override: int | None = None,
        server: Server | None = None,
        info: dict[str, Any] | None = None,
    ) -> None:
        """Execute the directives of a section. Raises :class:`SyntaxError`."""
        for child in children:
            inner = Parameters(
                self.host,
                server or self.server,
                child,
                self.override if override is None else override,
                vector,
                path,
                context,
                info=self.info if info is None else info,
            )
            execute(inner)

    def server_path(self, name: str) -> str:
        """Return *name* as a path below ServerRoot (ap_server_root_relative)."""
        return os.path.join(self.host.root, name)


# -- reading --------------------------------------------------------------------------------------


class Reader:
    """Reads files into a tree of directives.

    With *override*, for .htaccess files, nothing is included, and what is executed on reading must
    be permitted as all else is.
    """

    def __init__(self, host: Host, override: int | None = None) -> None:
        self._host = host
        self._override = override
        self._open: list[str] = []

    def read_file(self, path: str) -> list[Directive]:
        """Return the directives of the file *path*. Raises :class:`ConfigurationError`."""
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                text = file.read()
        except OSError as error:
            raise ConfigurationError(
                f"Could not open configuration file {path}: {error.strerror}"
            ) from None
        if path in self._open or len(self._open) >= _DEEPEST:
            raise ConfigurationError(f"{path} includes itself: {' -> '.join([*self._open, path])}")
        self._open.append(path)
        try:
            return self.read_text(text, path)
        finally:
            self._open.pop()

    def read_text(self, text: str, file: str) -> list[Directive]:
        """Return the directives of *text*; *file* is what messages call it."""
        lines = self._logical(text, file)
        return self._block(lines, None, active=True)

    def _logical(self, text: str, file: str) -> Iterator[Directive]:
        """Yield each logical line as a directive whose name is not split off yet."""
        held, first = "", 0
        for number, line in enumerate(text.splitlines(), 1):
            if not held:
                first = number
            if line.endswith("\\"):
                held += line[:-1]
                continue
            whole, held = (held + line).strip(), ""
            if whole and not whole.startswith("#"):
                yield Directive("", whole, file, first)
        whole = held.strip()
        if whole and not whole.startswith("#"):
            yield Directive("", whole, file, first)

    def _block(
        self, lines: Iterator[Directive], opened: Directive | None, *, active: bool
    ) -> list[Directive]:
        found: list[Directive] = []
        for line in lines:
            text = line.args
            end = _END.match(text)
            if end is not None:
                if opened is None or end[1].lower() != opened.name.lower():
                    expected = "" if opened is None else f", expected </{opened.name}>"
                    raise SyntaxError(f"unexpected {text}{expected}", line)
                return found
            if active:
                text = self._expand(text)
            if text.startswith("<"):
                found += self._section(lines, line, text, active)
            elif active:
                line.name, _, rest = text.partition(" ") if " " in text else (text, "", "")
                if "\t" in line.name:
                    line.name, _, rest = text.partition("\t")
                line.args = rest.strip()
                found += self._simple(line)
        if opened is not None:
            raise SyntaxError(f"<{opened.name}> was not closed", opened)
        return found

    def _section(
        self, lines: Iterator[Directive], line: Directive, text: str, active: bool
    ) -> list[Directive]:
        match = _SECTION.match(text)
        if match is None:
            raise SyntaxError(f"{text} lacks its '>'", line)
        line.name, line.args = match[1], match[2]
        decided = _CONDITIONS.get(line.name.lower())
        if decided is None:
            line.children = self._block(lines, line, active=active)
            return [line] if active else []
        holds = active and decided(self._host, line)
        inner = self._block(lines, line, active=holds)
        return inner if holds else []

    def _simple(self, line: Directive) -> list[Directive]:
        name = line.name.lower()
        if name in ("include", "includeoptional"):
            if self._override is not None:
                raise SyntaxError(f"{line.name} not allowed here", line)
            return self._include(line, optional=name != "include")
        for command, module in self._host.commands.get(name, ()):
            if command.where & api.EXEC_ON_READ:
                if self._override is not None and not command.where & self._override:
                    raise SyntaxError(f"{line.name} not allowed here", line)
                main = self._host.main
                parameters = Parameters(
                    self._host, main, line, MAIN, main.lookup_defaults, module=module
                )
                parameters.command = command
                invoke(parameters, command, module)
                return []
        return [line]

    def _include(self, line: Directive, *, optional: bool) -> list[Directive]:
        arguments = words(line)
        if len(arguments) != 1:
            raise SyntaxError(f"{line.name} takes one argument, the name of a file", line)
        pattern = os.path.join(self._host.root, arguments[0])
        if os.path.isdir(pattern):
            pattern = os.path.join(pattern, "*")
        names = sorted(each for each in glob.glob(pattern) if not os.path.isdir(each))
        if not names and not optional:
            if glob.has_magic(pattern):
                raise SyntaxError(f"No matches for the wildcard '{pattern}'", line)
            names = [pattern]
        found: list[Directive] = []
        for name in names:
            try:
                found += self.read_file(name)
            except SyntaxError:
                raise
            except ConfigurationError as error:
                raise SyntaxError(str(error), line) from None
        return found

    def _expand(self, text: str) -> str:
        def value(match: re.Match[str]) -> str:
            name = match[1]
            known = self._host.defines.get(name)
            if known is None:
                known = os.environ.get(name)
            if known is None:
                self._host.warn(f"Config variable ${{{name}}} is not defined")
                return match[0]
            return known

        return _VARIABLE.sub(value, text) if "${" in text else text


def _if_module(host: Host, line: Directive) -> bool:
    name, negated = _negated(line)
    return negated != host.has_module(name)


def _if_define(host: Host, line: Directive) -> bool:
    name, negated = _negated(line)
    return negated != (name in host.defines)


def _if_file(host: Host, line: Directive) -> bool:
    name, negated = _negated(line)
    return negated != os.path.exists(os.path.join(host.root, name))


def _negated(line: Directive) -> tuple[str, bool]:
    arguments = words(line)
    if len(arguments) != 1:
        raise SyntaxError(f"<{line.name}> takes one argument", line)
    return arguments[0].removeprefix("!"), arguments[0].startswith("!")


_CONDITIONS: dict[str, Callable[[Host, Directive], bool]] = {
    "ifmodule": _if_module,
    "ifdefine": _if_define,
    "iffile": _if_file,
}


def words(directive: Directive) -> list[str]:
    """Return the arguments of *directive*: words, or quoted with ``"`` or ``'``."""
    text, found, at = directive.args, [], 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        quote = text[at] if text[at] in "\"'" else ""
        word, at = "", at + len(quote)
        while at < len(text) and (text[at] != quote if quote else not text[at].isspace()):
            escaped = text[at] == "\\" and at + 1 < len(text)
            if escaped and (text[at + 1] == "\\" or (quote and text[at + 1] == quote)):
                at += 1
            word += text[at]
            at += 1
        if quote and at >= len(text):
            raise SyntaxError(
                f"{directive.name}: an argument's closing {quote} is missing", directive
            )
        found.append(word)
        at += len(quote)
    return found


def quote(word: str) -> str:
    """Return *word* so that :func:`words` gives it back."""
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


# -- executing ------------------------------------------------------------------------------------


def execute(parameters: Parameters) -> None:
    """Execute one directive. Raises :class:`SyntaxError`."""
    directive = parameters.directive
    shown = f"<{directive.name}" if directive.children is not None else directive.name
    candidates = parameters.host.commands.get(shown.lower(), ())
    if not candidates:
        raise SyntaxError(
            f"Invalid command '{shown}', perhaps misspelled or defined by a module not included"
            " in the server configuration",
            directive,
        )
    for command, module in candidates:
        if not command.where & parameters.override:
            where = f"in <{parameters.context}> context" if parameters.context else "here"
            raise SyntaxError(f"{shown} not allowed {where}", directive)
        parameters.command, parameters.module = command, module
        if invoke(parameters, command, module) != DECLINE:
            return


DECLINE = "\a\b"
"""Returned by a directive's function that leaves it to another module's of the same name."""


def invoke(parameters: Parameters, command: Command, module: Module) -> str | None:
    """Call the directive's function with its arguments. Raises :class:`SyntaxError`."""
    directive = parameters.directive
    config = _configuration(parameters, command, module)

    def call(*arguments: Any) -> str | None:
        try:
            said = command.function(parameters, config, *arguments)
        except SyntaxError:
            raise
        except ConfigurationError as error:
            raise SyntaxError(str(error), directive) from None
        if said is not None and said != DECLINE:
            raise SyntaxError(said, directive)
        return said

    if command.how == api.RAW_ARGS:
        return call(directive.args)
    given = words(directive)
    how = command.how
    if how == api.NO_ARGS:
        if given:
            raise SyntaxError(f"{command.name} takes no arguments", directive)
        return call()
    if how == api.FLAG:
        value = given[0].lower() if len(given) == 1 else ""
        if value not in ("on", "off"):
            raise SyntaxError(f"{command.name} must be On or Off", directive)
        return call(value == "on")
    if how == api.TAKE_ARGV:
        return call(given)
    if how == api.ITERATE:
        _check_count(command, directive, given, least=1)
        said = None
        for each in given:
            said = call(each)
        return said
    if how == api.ITERATE2:
        _check_count(command, directive, given, least=2)
        said = None
        for each in given[1:]:
            said = call(given[0], each)
        return said
    counts = [int(digit) for digit in how.removeprefix("TAKE")]
    if len(given) not in counts:
        raise SyntaxError(f"{command.name} takes {_COUNTS[how]}{_help(command)}", directive)
    return call(*given, *[None] * (max(counts) - len(given)))


_COUNTS = {
    api.TAKE1: "one argument",
    api.TAKE2: "two arguments",
    api.TAKE3: "three arguments",
    api.TAKE12: "1-2 arguments",
    api.TAKE23: "two or three arguments",
    api.TAKE13: "one or three arguments",
    api.TAKE123: "one, two or three arguments",
}


def _check_count(command: Command, directive: Directive, given: list[str], least: int) -> None:
    if len(given) < least:
        raise SyntaxError(
            f"{command.name} requires at least {'two arguments' if least == 2 else 'one argument'}"
            f"{_help(command)}",
            directive,
        )


def _help(command: Command) -> str:
    return f", {command.help}" if command.help else ""


def _configuration(parameters: Parameters, command: Command, module: Module) -> Any:
    """Return the configuration that *command* changes, made now if it was not there."""
    if command.where & ~(api.RSRC_CONF | api.EXEC_ON_READ) == 0:
        vector = parameters.server.module_config
        if module not in vector and module.create_server_config is not None:
            vector[module] = module.create_server_config(parameters.server)
        return vector.get(module)
    vector = parameters.vector
    if module not in vector and module.create_dir_config is not None:
        vector[module] = module.create_dir_config(parameters.path)
    return vector.get(module)
