"""mod_headers: Header and RequestHeader.

RequestHeader is applied last in the fix-ups, Header when the response passes on its way out: first
``always`` over ``err_headers_out``, then ``onsuccess`` (what is meant without either) over
``headers_out``. A response's media type is in neither: ``Content-Type`` is the request record's, so
that setifempty sees it, unlike in Apache. Names of fields that echo looks for have no case. The
pages of the server's own for errors have only the first; what an application
or an ErrorDocument answers has both. The two tables are apart, so a field can be in both of them.

Values have ``%t``, ``%D``, ``%{NAME}e`` and ``%%``, or a ``%`` at the end. A value that comes out
with control characters (a variable may have what the client sent) is not used, and the log says
so. Left out: ``early``, ``expr=``, ``%l``, ``%i``, ``%b`` and ``%{NAME}s``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ..config import words
from ..filters import PROTOCOL, Brigade, Filter, OutputFilter
from ..hooks import DECLINED, LAST, OK
from ..module import ACCESS_CONF, OR_FILEINFO, RAW_ARGS, RSRC_CONF, Command, Module, Settings
from .expansion import expand, pattern
from .octets import octets, printable

if TYPE_CHECKING:
    from ..config import Parameters
    from ..hooks import Hooks
    from ..host import Host
    from ..records import Request, Table

_FOR_BOTH = ("add", "append", "edit", "edit*", "merge", "set", "setifempty", "unset")
_FOR_RESPONSES = ("echo", "note")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FORMAT = re.compile(r"%(?:\{([^}]*)\}(.)|(.))")

Format = tuple[Callable[["Request"], str], ...]


class Edit(NamedTuple):
    """One directive."""

    action: str
    name: str
    value: Format
    """Empty where the action takes none; the replacement of an edit."""
    expression: re.Pattern[str] | None
    """What echo and edit look for."""
    variable: str | None
    """It holds only when this variable is set, with ``!`` before it only when it is not."""

    def holds(self, r: Request) -> bool:
        """Whether it is to be done for *r*."""
        if self.variable is None:
            return True
        if self.variable.startswith("!"):
            return self.variable[1:] not in r.subprocess_env
        return self.variable in r.subprocess_env

    def text(self, r: Request) -> str:
        """Return the value for *r*."""
        return "".join([piece(r) for piece in self.value])


class Config(Settings):
    """What is configured for a section."""

    request: tuple[Edit, ...] = ()
    always: tuple[Edit, ...] = ()
    onsuccess: tuple[Edit, ...] = ()

    def merged(self, new: Config) -> Config:
        """The new ones come after the others."""
        result = type(self)()
        result.request = self.request + new.request
        result.always = self.always + new.always
        result.onsuccess = self.onsuccess + new.onsuccess
        return result


# -- directives -----------------------------------------------------------------------------------


def _header(cmd: Parameters, config: Config, rest: str) -> str | None:
    given = words(cmd.directive)
    where = "onsuccess"
    if given and given[0].lower() in ("always", "onsuccess"):
        where = given.pop(0).lower()
    return _store(cmd, config, where, given, (*_FOR_BOTH, *_FOR_RESPONSES))


def _request_header(cmd: Parameters, config: Config, rest: str) -> str | None:
    return _store(cmd, config, "request", words(cmd.directive), _FOR_BOTH)


def _store(
    cmd: Parameters, config: Config, where: str, given: list[str], actions: tuple[str, ...]
) -> str | None:
    called = cmd.directive.name
    action = given.pop(0).lower() if given else ""
    if action not in actions:
        return f"{called}: the action must be one of {', '.join(sorted(actions))}"
    takes = 1 if action in ("unset", "echo") else 3 if action.startswith("edit") else 2
    if len(given) < takes:
        return f"{called} {action} lacks an argument"
    if len(given) > takes + 1:
        return f"{called} {action} has too many arguments"
    condition = given[takes] if len(given) > takes else None
    variable = None
    if condition is not None:
        if not condition.lower().startswith("env=") or condition[4:] in ("", "!"):
            return f"{called}: the condition {condition!r} should be env=NAME or env=!NAME"
        variable = condition[4:]
    name = given[0]
    expression = None
    if action == "echo":
        expression = pattern(name, re.IGNORECASE)
    else:
        name = name.removesuffix(":")
        if _NAME.fullmatch(name) is None:
            return f"{called}: {name!r} is no name of a header field"
    if takes == 3:
        expression = pattern(octets(given[1]))
    value = _format(octets(given[takes - 1])) if takes > 1 else ()
    if isinstance(value, str):
        return value
    added = Edit(action, name, value, expression, variable)
    setattr(config, where, (*getattr(config, where), added))
    return None


def _format(text: str) -> Format | str:
    """Return *text* in pieces that make a value, or what is wrong with it."""
    pieces: list[Callable[[Request], str]] = []
    at = 0
    for match in _FORMAT.finditer(text):
        pieces.append(_constant(text[at : match.start()]))
        at = match.end()
        argument, kind, sign = match[1], match[2], match[3]
        if kind == "e" and argument:
            pieces.append(_variable(argument))
        elif sign == "%":
            pieces.append(_constant("%"))
        elif sign == "t":
            pieces.append(lambda r: f"t={int(r.request_time * 1e6)}")
        elif sign == "D":
            pieces.append(lambda r: f"D={int((time.monotonic() - r.request_clock) * 1e6)}")
        else:
            return f"Unrecognized header format {match[0]}"
    pieces.append(_constant(text[at:]))
    return tuple(pieces)


def _constant(text: str) -> Callable[[Any], str]:
    return lambda r: text


def _variable(name: str) -> Callable[[Request], str]:
    return lambda r: r.subprocess_env.get(name, "(null)")


# -- doing it -------------------------------------------------------------------------------------


def _apply(r: Request, edits: tuple[Edit, ...], headers: Table) -> None:
    for edit in edits:
        if edit.holds(r):
            _ACTIONS[edit.action](r, edit, headers)


def _usable(r: Request, edit: Edit, value: str) -> bool:
    if printable(value):
        return True
    r.log(f"{edit.name}: the value {value!a} has control characters, and is not used", "warn")
    return False


def _is_type(r: Request, edit: Edit, headers: Table) -> bool:
    """Whether it is a response's media type, which is a field of the record and in no table."""
    if headers is r.headers_in or edit.name.lower() != "content-type":
        return False
    said = r.headers_out.get("Content-Type")
    if said is not None:
        r.content_type = said
        r.headers_out.unset("Content-Type")
    return True


def _set(r: Request, edit: Edit, headers: Table) -> None:
    value = edit.text(r)
    if not _usable(r, edit, value):
        return
    if _is_type(r, edit, headers):
        r.content_type = value
    else:
        headers.set(edit.name, value)


def _set_if_empty(r: Request, edit: Edit, headers: Table) -> None:
    typed = _is_type(r, edit, headers)
    if r.content_type is None if typed else edit.name not in headers:
        _set(r, edit, headers)


def _add(r: Request, edit: Edit, headers: Table) -> None:
    value = edit.text(r)
    if _usable(r, edit, value):
        headers.add(edit.name, value)


def _append(r: Request, edit: Edit, headers: Table) -> None:
    value = edit.text(r)
    if _usable(r, edit, value):
        headers.merge(edit.name, value)


def _merge(r: Request, edit: Edit, headers: Table) -> None:
    value = edit.text(r)
    if value not in _listed(headers.get(edit.name, "") or "") and _usable(r, edit, value):
        headers.merge(edit.name, value)


def _listed(value: str) -> list[str]:
    """Return the elements of a list; a comma in a quoted string is none."""
    return [each.strip(" \t") for each in re.findall(r'(?:"(?:[^"\\]|\\.)*"|[^,"]|")+', value)]


def _unset(r: Request, edit: Edit, headers: Table) -> None:
    if _is_type(r, edit, headers):
        r.content_type = None
    headers.unset(edit.name)


def _echo(r: Request, edit: Edit, headers: Table) -> None:
    assert edit.expression is not None  # noqa: S101 - the directive made one
    for name, value in r.headers_in.items():
        if edit.expression.search(name) is not None:
            headers.add(name, value)


def _note(r: Request, edit: Edit, headers: Table) -> None:
    value = headers.get(edit.name)
    if value is not None:
        r.notes[edit.text(r)] = value


def _edit(r: Request, edit: Edit, headers: Table) -> None:
    assert edit.expression is not None  # noqa: S101 - the directive made one
    expression, template = edit.expression, edit.text(r)
    once = 0 if edit.action == "edit*" else 1

    def edited(value: str) -> str:
        found = expression.sub(lambda match: expand(template, match), value, count=once)
        return found if found == value or _usable(r, edit, found) else value

    if _is_type(r, edit, headers) and r.content_type is not None:
        r.content_type = edited(r.content_type)
    values = headers.all(edit.name)
    headers.unset(edit.name)
    for value in values:
        headers.add(edit.name, edited(value))


_ACTIONS = {
    "add": _add,
    "append": _append,
    "echo": _echo,
    "edit": _edit,
    "edit*": _edit,
    "merge": _merge,
    "note": _note,
    "set": _set,
    "setifempty": _set_if_empty,
    "unset": _unset,
}


# -- hooks and filters ----------------------------------------------------------------------------


def _fixup(r: Request) -> int:
    config: Config = r.per_dir_config[headers_module]
    if not config.request:
        return DECLINED
    _apply(r, config.request, r.headers_in)
    return OK


def _insert(r: Request) -> None:
    config: Config = r.per_dir_config[headers_module]
    if config.always or config.onsuccess:
        r.add_output_filter("fixup_headers_out")


def _insert_for_error(r: Request) -> None:
    config: Config = r.per_dir_config[headers_module]
    if config.always:
        r.add_output_filter("fixup_headers_err")


def _out(f: Filter, brigade: Brigade) -> None:
    r = f.request
    config: Config = r.per_dir_config[headers_module]
    f.remove()
    _apply(r, config.always, r.err_headers_out)
    _apply(r, config.onsuccess, r.headers_out)
    f.pass_on(brigade)


def _out_with_error(f: Filter, brigade: Brigade) -> None:
    r = f.request
    config: Config = r.per_dir_config[headers_module]
    f.remove()
    _apply(r, config.always, r.err_headers_out)
    f.pass_on(brigade)


FILTERS = (
    OutputFilter("fixup_headers_out", _out, PROTOCOL - 1),
    OutputFilter("fixup_headers_err", _out_with_error, PROTOCOL - 1),
)
"""After all that change the content, and with it the head; Apache has them among these."""


def _check(host: Host) -> int:
    for registered in FILTERS:
        host.register_output_filter(registered)
    return OK


def _register(hooks: Hooks) -> None:
    hooks.add("check_config", _check)
    hooks.add("fixups", _fixup, order=LAST)
    hooks.add("insert_filter", _insert, order=LAST)
    hooks.add("insert_error_filter", _insert_for_error, order=LAST)


_WHERE = RSRC_CONF | ACCESS_CONF | OR_FILEINFO

headers_module = Module(
    "mod_headers",
    commands=(
        Command("Header", _header, RAW_ARGS, _WHERE),
        Command("RequestHeader", _request_header, RAW_ARGS, _WHERE),
    ),
    create_dir_config=lambda path: Config(),
    merge_dir_config=Config.merged,
    register_hooks=_register,
)
