"""Regular expressions of directives, and ``$1`` in what replaces their matches (ap_pregsub)."""

from __future__ import annotations

import re
from collections.abc import Callable

from ...sapi import ConfigurationError

_DOLLARS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\$", re.DOTALL)
"""Dollars, and what may have others: an escape, a set."""
_MARKS = re.compile(r"\\(.)|\$([0-9])", re.DOTALL)


def pattern(source: str, flags: int = 0) -> re.Pattern[str]:
    """Return *source* compiled as Apache does: a dot is any character, ``$`` only the very end.

    Otherwise a ``%0A`` in a path would slip through (RegexDefaultOptions DOTALL DOLLAR_ENDONLY).
    Raises :class:`ConfigurationError`.
    """
    source = _DOLLARS.sub(lambda found: r"\Z" if found[0] == "$" else found[0], source)
    try:
        return re.compile(source, flags | re.DOTALL)
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigurationError(f"{source!r} is no regular expression: {error}") from None


def expand(template: str, match: re.Match[str], convert: Callable[[str], str] | None = None) -> str:
    r"""Return *template* with the groups of *match* for ``$0`` to ``$9``, each through *convert*.

    A group that is not there is empty; a backslash takes the sign after it as it is.
    """
    if "$" not in template and "\\" not in template:
        return template

    def put(mark: re.Match[str]) -> str:
        if mark[1] is not None:
            found: str = mark[1]
            return found
        number = int(mark[2])
        group = match[number] if number <= match.re.groups else None
        if group is None:
            return ""
        return group if convert is None else convert(group)

    return _MARKS.sub(put, template)
