"""Large files leave by the front end: which files it may send, and by which header.

==================== =================== ============================================
header               front end           value
==================== =================== ============================================
X-Accel-Redirect     nginx               a URI of an ``internal`` location
X-Sendfile           Apache, lighttpd    the file's path
X-LIGHTTPD-send-file lighttpd, old name  the file's path
==================== =================== ============================================
"""

from __future__ import annotations

import io
import os
import stat
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from .sapi import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

_HEADERS = {
    "x-accel-redirect": "X-Accel-Redirect",
    "x-sendfile": "X-Sendfile",
    "x-lighttpd-send-file": "X-LIGHTTPD-send-file",
}


class SendfileMap:
    """The directories whose files the front end sends, from texts like these::

        x-accel-redirect=/protected:/srv/files     nginx: the URI prefix, then the directory
        x-sendfile=/srv/files                      Apache, lighttpd: the directory

    Raises :class:`ConfigurationError` for a text that says neither, or no directory.
    """

    def __init__(self, rules: Iterable[str]) -> None:
        self._rules: list[tuple[str, str, str]] = []
        for rule in rules:
            name, _, rest = rule.partition("=")
            header = _HEADERS.get(name.lower())
            if header is None:
                raise ConfigurationError(f"sendfile {rule!r}: write {' or '.join(_HEADERS)}=...")
            prefix, directory = "", rest
            if header == "X-Accel-Redirect":
                prefix, _, directory = rest.partition(":")
                if not prefix.startswith("/"):
                    raise ConfigurationError(f"sendfile {rule!r}: write {name}=/uri:/directory")
            if not os.path.isdir(directory):
                raise ConfigurationError(f"sendfile {rule!r}: {directory!r} is no directory")
            self._rules.append((header, prefix.rstrip("/"), os.path.realpath(directory)))

    def header_for(self, file: Any, length: int) -> tuple[str, str] | None:
        """Return the header that makes the front end send *file*, or None to send it here.

        None unless *file* is a regular file, read from its start and to its end (*length* is
        the announced Content-Length, -1 for none), opened by an absolute path that lies, links
        resolved, in a mapped directory and still names the very file that is open.
        """
        file = getattr(file, "file", file)  # tempfile's wrapper
        if not isinstance(file, (io.FileIO, io.BufferedReader, io.BufferedRandom)):
            return None  # what it yields need not be what the file holds: gzip, encryption
        path = getattr(file, "name", None)
        if not isinstance(path, str) or not os.path.isabs(path):
            return None
        try:
            opened = os.fstat(file.fileno())
            if file.tell() != 0 or not stat.S_ISREG(opened.st_mode):
                return None
            real = os.path.realpath(path, strict=True)
            named = os.lstat(real)
        except (OSError, ValueError, AttributeError):
            return None
        if (named.st_dev, named.st_ino) != (opened.st_dev, opened.st_ino):
            return None
        if length not in (-1, opened.st_size):
            return None
        for header, prefix, directory in self._rules:
            if real.startswith(directory.rstrip(os.sep) + os.sep):
                value = real
                if header == "X-Accel-Redirect":
                    value = prefix + quote(os.fsencode(real[len(directory.rstrip(os.sep)) :]))
                if value.isascii() and value.isprintable():
                    return header, value
        return None
