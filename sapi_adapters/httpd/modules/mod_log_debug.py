"""mod_log_debug: LogMessage, which writes a line to the error log where a request passes a hook.

With ``LogMessage "%{REQUEST_URI}" hook=all`` the log shows which phases a request went through,
here and, by the same file, in httpd; docs/hooks.md is made of such lines. They have level info;
at LogLevel debug each names its hook and the directive that wrote it, as httpd's does.

Left out: ``expr=``, which is refused, and of the expressions in the text all but the variables in
:data:`VARIABLES` and :data:`FUNCTIONS`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ..hooks import DECLINED, FIRST, HOOKS, VOID
from ..host import level_number
from ..module import ACCESS_CONF, RSRC_CONF, TAKE123, Command, Module, Settings

if TYPE_CHECKING:
    from ..config import Parameters
    from ..hooks import Hooks
    from ..records import Request

TRACED = {
    "log_transaction": "log_transaction",
    "quick_handler": "quick_handler",
    "handler": "handler",
    "pre_translate_name": "pre_translate_name",
    "translate_name": "translate_name",
    "map_to_storage": "map_to_storage",
    "fixups": "fixups",
    "type_checker": "type_checker",
    "check_access": "access_checker",
    "check_access_ex": "access_checker_ex",
    "check_authn": "check_user_id",
    "check_authz": "auth_checker",
    "insert_filter": "insert_filter",
}
"""What ``hook=`` takes, and the hook that each is."""

VARIABLES: dict[str, Callable[[Request], str | None]] = {
    "REQUEST_METHOD": lambda r: r.method,
    "REQUEST_URI": lambda r: r.uri,
    "REQUEST_FILENAME": lambda r: r.filename,
    "REQUEST_STATUS": lambda r: str(r.status),
    "QUERY_STRING": lambda r: r.args,
    "THE_REQUEST": lambda r: r.the_request,
    "PATH_INFO": lambda r: r.path_info,
    "HANDLER": lambda r: r.handler,
    "CONTENT_TYPE": lambda r: r.content_type,
    "REMOTE_ADDR": lambda r: r.connection.client_ip,
    "REMOTE_USER": lambda r: r.user,
    "SERVER_NAME": lambda r: r.server.server_hostname,
    "HTTP_HOST": lambda r: r.headers_in.get("Host"),
    "IS_SUBREQ": lambda r: "false" if r.main is None else "true",
}
"""``%{NAME}`` in the text; what is not there is empty."""

FUNCTIONS: dict[str, Callable[[Request, str], str | None]] = {
    "req": lambda r, name: r.headers_in.get(name),
    "http": lambda r, name: r.headers_in.get(name),
    "resp": lambda r, name: r.headers_out.get(name, r.err_headers_out.get(name)),
    "reqenv": lambda r, name: r.subprocess_env.get(name),
    "note": lambda r, name: r.notes.get(name),
    "osenv": lambda r, name: os.environ.get(name),
}
"""``%{function:argument}`` in the text."""

_MARK = re.compile(r"%\{([^}]*)\}")
_ODD = {ord(character): f"\\x{ord(character):02x}" for character in map(chr, (*range(32), 127))}
"""What a client sends ends no line of the log."""

Part = Callable[["Request"], "str | None"]


class Message(NamedTuple):
    """One LogMessage."""

    parts: tuple[str | Part, ...]
    hook: str
    """A key of :data:`TRACED`, or ``"all"``."""
    place: str
    """The directive's file and line."""


class Config(Settings):
    """What is configured for a section: its messages come after those of the outer ones."""

    messages: tuple[Message, ...] = ()

    def merged(self, new: Config) -> Config:
        """Both log."""
        result: Config = super().merged(new)
        result.messages = self.messages + new.messages
        return result


def _log_message(
    cmd: Parameters, config: Config, text: str, second: str | None, third: str | None
) -> str | None:
    parts: list[str | Part] = []
    at = 0
    for mark in _MARK.finditer(text):
        parts.append(text[at : mark.start()])
        part = _part(mark[1])
        if part is None:
            return f"Could not parse expression '{text}': there is no {mark[0]} here"
        parts.append(part)
        at = mark.end()
    if "%{" in text[at:]:
        return f"Could not parse expression '{text}': a variable's }} is missing"
    parts.append(text[at:])
    hook = None
    for option in (second, third):
        if option is None:
            continue
        name, equals, value = option.partition("=")
        if name.lower() == "expr" and equals:
            return "expr= is not supported: conditions of LogMessage are httpd's alone"
        if name.lower() != "hook" or not equals:
            return f"Invalid argument: {option}"
        if hook is not None:
            return "Only one hook= may be given"
        hook = value.lower()
        if hook != "all" and hook not in TRACED:
            return f"Invalid hook name: {value}"
    place = f"{cmd.directive.file}:{cmd.directive.line}"
    message = Message(tuple(part for part in parts if part), hook or "log_transaction", place)
    config.messages = (*config.messages, message)
    return None


def _part(name: str) -> Part | None:
    """Return what ``%{name}`` stands for."""
    function, colon, argument = name.partition(":")
    if not colon:
        return VARIABLES.get(name.upper())
    found = FUNCTIONS.get(function.lower())
    if found is None or not argument:
        return None
    return lambda r: found(r, argument)


def _write(r: Request, hook: str, messages: tuple[Message, ...]) -> None:
    for message in messages:
        if message.hook not in (hook, "all"):
            continue
        text = "".join(part if isinstance(part, str) else part(r) or "" for part in message.parts)
        text = text.translate(_ODD)
        if level_number(r.server.loglevel) >= level_number("debug"):
            text = f"{text} ({hook} hook, {message.place})"
        r.log(text, "info")


def _in(hook: str) -> Callable[..., int | None]:
    """Return the function for *hook*, a key of :data:`TRACED`."""
    nothing = None if HOOKS[TRACED[hook]] == VOID else DECLINED

    def trace(r: Request, *more: object) -> int | None:
        messages = r.per_dir_config[log_debug_module].messages
        if messages:
            _write(r, hook, messages)
        return nothing

    return trace


def _register(hooks: Hooks) -> None:
    for name, hook in TRACED.items():
        hooks.add(hook, _in(name), order=FIRST)


log_debug_module = Module(
    "mod_log_debug",
    commands=(
        Command(
            "LogMessage",
            _log_message,
            TAKE123,
            RSRC_CONF | ACCESS_CONF,
            "a text and hook=NAME or hook=all",
        ),
    ),
    create_dir_config=lambda path: Config(),
    merge_dir_config=Config.merged,
    register_hooks=_register,
)
