"""Which sections hold for a request: the walks over Location, Directory and Files.

They are merged in Apache's order: Directory and .htaccess by the length of the path, then the
patterns, Files, and Location last.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

from ..sapi import unquote
from .coreconfig import (
    FOLLOW_SYMLINKS,
    SYMLINKS_IF_OWNER,
    core_module,
    dir_config,
    server_config,
)
from .hooks import OK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .module import Vector
    from .records import Request, Server

_MOST_LOCATED, _LONG = 1000, 300
"""Paths that are remembered with the sections that hold for them: how many, how long."""
_ODD = re.compile(r"%|//|/\.")
_HIDDEN = re.compile(r"/\.\.?(?:/|\Z)")
_UNRESERVED = re.compile(r"%(2[DdEe]|3[0-9]|4[1-9A-Fa-f]|5[0-9AaFf]|6[1-9A-Fa-f]|7[0-9AaEe])")
_ESCAPES = re.compile(r"%(?![0-9A-Fa-f]{2})")


def compiled(pattern: str, flags: int = 0) -> re.Pattern[str]:
    """Compile *pattern* as Apache does since 2.4.30: a dot takes line ends, too, and ``$`` is the
    very end. Raises :class:`re.error`."""
    pieces = re.split(r"(\\.|\[\^?\]?(?:\\.|[^\]\\])*\])", pattern, flags=re.DOTALL)
    return re.compile(
        "".join(p if n % 2 else p.replace("$", r"\Z") for n, p in enumerate(pieces)),
        flags | re.DOTALL,
    )


class Section:
    """A section and what it configures. *pattern* may be a path, with wildcards, or a *regex*."""

    def __init__(self, pattern: str, vector: Vector, *, regex: bool) -> None:
        self.pattern = pattern
        self.vector = vector
        self.is_regex = regex
        self.wild = regex or any(sign in pattern for sign in "*?[")
        self._match = None
        if regex:
            self._match = compiled(pattern).search
        elif self.wild:
            self._match = re.compile(wildcard(pattern), re.DOTALL).fullmatch
        self._prefix = pattern if pattern.endswith("/") else pattern + "/"

    def holds_for_uri(self, uri: str) -> bool:
        """Whether *uri* is in this Location: the path itself or one below it.

        One with wildcards or of a regular expression holds for what matches, not for what is below.
        """
        if self._match is not None:
            return self._match(uri) is not None
        return uri == self.pattern or uri.startswith(self._prefix)

    def holds_for_directory(self, path: str) -> bool:
        """Whether *path*, a directory without a slash at its end, is this Directory."""
        if self._match is not None:
            return self._match(path if path != "" else "/") is not None
        return path == self.pattern.rstrip("/")

    def holds_for_name(self, name: str) -> bool:
        """Whether the file *name* is of these Files."""
        return self._match(name) is not None if self._match is not None else name == self.pattern


def wildcard(pattern: str) -> str:
    """Return the regular expression for a *pattern* of ``*``, ``?`` and ``[...]``.

    None of them stands for a slash (fnmatch(3) with FNM_PATHNAME).
    """
    found, at = "", 0
    while at < len(pattern):
        sign = pattern[at]
        at += 1
        end = pattern.find("]", at + 1) if sign == "[" else -1
        if sign == "*":
            found += "[^/]*"
        elif sign == "?":
            found += "[^/]"
        elif end > 0:
            inner = pattern[at:end].replace("\\", "\\\\").replace("[", "\\[")
            negated = inner[:1] in ("!", "^")
            found += f"(?!/)[{'^' if negated else ''}{inner[1:] if negated else inner}]"
            at = end + 1
        elif sign == "\\" and at < len(pattern):
            found += re.escape(pattern[at])
            at += 1
        else:
            found += re.escape(sign)
    return found


def normal_path(path: str, *, merge_slashes: bool) -> str | None:
    """Return *path* without ``.`` and ``..`` segments (RFC 3986 §5.2.4), None above the root.

    None, too, for a ``%`` that is no escape. Escapes of unreserved characters are decoded first,
    so that they hide no dots.
    """
    if _ODD.search(path) is None and not path.endswith("/."):
        return path
    if _ESCAPES.search(path) is not None:
        return None
    path = _UNRESERVED.sub(lambda match: chr(int(match[1], 16)), path)
    kept: list[str] = []
    segments = path.split("/")[1:]
    for index, segment in enumerate(segments):
        last = index == len(segments) - 1
        if segment in (".", ".."):
            if segment == "..":
                if not kept:
                    return None
                kept.pop()
            if last:
                kept.append("")
        elif segment or last or not merge_slashes:
            kept.append(segment)
    return "/" + "/".join(kept)


def decode_path(path: str, slashes: str) -> str | int:
    """Return *path* decoded once, or the status to answer with.

    *slashes* is AllowEncodedSlashes: ``"off"`` refuses ``%2F``, ``"nodecode"`` leaves it.
    """
    if "%" not in path:
        return path if "\0" not in path else 400
    if _ESCAPES.search(path) is not None or "%00" in path:
        return 400
    upper = path.upper()
    if "%2F" in upper:
        if slashes == "off":
            return 404
        if slashes == "nodecode":
            pieces = re.split("(?i)(%2f)", path)
            return "".join(
                piece if piece.lower() == "%2f" else _unquoted(piece) for piece in pieces
            )
    decoded = _unquoted(path)
    if _HIDDEN.search(decoded) is not None:
        return 400  # an escaped slash made a segment of dots
    return decoded


def _unquoted(path: str) -> str:
    return unquote(path.encode("latin-1", "replace")).decode("latin-1")


def unescape_to_path(uri: str) -> str:
    """Return the decoded *uri*, whose code points are bytes, as a path of the file system."""
    return uri if uri.isascii() else os.fsdecode(uri.encode("latin-1"))


def sections_for(server: Server, uri: str) -> list[Vector]:
    """Return the Locations of *server* that hold for *uri*."""
    sections = server_config(server).locations
    return [section.vector for section in sections if section.holds_for_uri(uri)]


def location_walk(r: Request) -> None:
    """Let the Locations that hold for the URI configure the request, over what it has."""

    server, uri = r.server, r.uri
    known = server.located
    key = (id(r.per_dir_config), uri)
    found = known.get(key)
    if found is None:
        found = (r.host.merged(r.per_dir_config, sections_for(server, uri)), r.per_dir_config)
        if len(known) >= _MOST_LOCATED:
            known.clear()
        if len(uri) <= _LONG:
            known[key] = found
    r.per_dir_config = found[0]


def _found_at_once(r: Request, filename: str, sections: Sequence[Section]) -> bool:
    """Take a file whose directories need no look: links are followed, no .htaccess is read.

    What is configured for a directory is remembered, what is in it is not.
    """
    parent = filename.rpartition("/")[0]
    known = r.server.walked
    found = known.get(parent)
    if found is None:
        vector, plain = r.server.lookup_defaults, True
        names = parent.split("/")
        for index in range(len(names)):
            directory = "/".join(names[: index + 1])
            matching = [
                s.vector for s in sections if not s.is_regex and s.holds_for_directory(directory)
            ]
            vector = r.host.merged(vector, matching)
            own = vector[core_module]
            follows = FOLLOW_SYMLINKS in own.options and SYMLINKS_IF_OWNER not in own.options
            plain = plain and follows and not own.override
        if len(known) >= _MOST_LOCATED:
            known.clear()
        found = known[parent] = (vector, plain)
    if not found[1]:
        return False
    try:
        status = os.stat(filename)
    except (OSError, ValueError):
        return False
    if not stat.S_ISREG(status.st_mode):
        return False
    r.per_dir_config, r.finfo, r.path_info = found[0], status, ""
    return True


def directory_walk(r: Request) -> int:
    """Find the file that the request is for, and let Directory sections configure it."""
    from .htaccess import sections_of

    assert r.filename is not None  # noqa: S101 - the caller looked
    host, config = r.host, server_config(r.server)
    if "//" in r.filename:
        # Else the sections of a directory would not hold for another spelling of its name.
        r.filename = re.sub("//+", "/", r.filename)
    if _HIDDEN.search(r.filename) is not None:
        r.log(f"the path {r.filename!a} has segments of dots")
        return 403
    if _found_at_once(r, r.filename, config.directories):
        return _after_directories(r)
    ordinary = [section for section in config.directories if not section.is_regex]
    r.per_dir_config = r.server.lookup_defaults
    names = r.filename.split("/")[1:]
    directory, found, rest = "", None, ""
    for index in range(len(names) + 1):
        matching = [s.vector for s in ordinary if s.holds_for_directory(directory)]
        r.per_dir_config = host.merged(r.per_dir_config, matching)
        own = dir_config(r)
        if own.override:
            added = sections_of(r, directory or "/", own, config.access_files)
            if isinstance(added, int):
                return added
            r.per_dir_config = host.merged(r.per_dir_config, added)
            own = dir_config(r)
        if index == len(names):
            break
        path = f"{directory}/{names[index]}"
        if not names[index]:
            directory_like = index == len(names) - 1
            if directory_like:
                break
        try:
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                target = os.stat(path)
                if SYMLINKS_IF_OWNER in own.options:  # it counts where both are there
                    follows = target.st_uid == status.st_uid
                else:
                    follows = FOLLOW_SYMLINKS in own.options
                if not follows:
                    r.log(f"Symbolic link not allowed: {path}")
                    return 403
                status = target
        except (FileNotFoundError, NotADirectoryError):
            rest = "/".join(names[index + 1 :])
            rest = f"/{rest}" if index + 1 < len(names) else ""
            r.filename, r.path_info, r.finfo = path, rest, None
            return _after_directories(r)
        except PermissionError:
            r.log(f"access to {r.uri} denied: search permissions are missing on {path}")
            return 403
        except (OSError, ValueError) as error:
            r.log(f"access to {r.uri} failed: {error}")
            return 403
        found = status
        if not stat.S_ISDIR(status.st_mode):
            if not stat.S_ISREG(status.st_mode):
                r.log(f"{path} is neither a file nor a directory")
                return 403
            rest = "/".join(names[index + 1 :])
            r.filename = path
            r.path_info = f"/{rest}" if index + 1 < len(names) else ""
            r.finfo = status
            return _after_directories(r)
        directory = path
    r.finfo = found if found is not None else os.stat("/")
    r.path_info = ""
    return _after_directories(r)


def _after_directories(r: Request) -> int:

    patterns = [section for section in server_config(r.server).directories if section.is_regex]
    if patterns:
        # As in httpd the whole name is looked at, that of the file, too: "/[.]git/" is for what is
        # in such a directory, and a "$" after a directory's name finds nothing.
        path = r.filename or ""
        matching = [s.vector for s in patterns if s.holds_for_directory(path)]
        r.per_dir_config = r.host.merged(r.per_dir_config, matching)
    return OK


def file_walk(r: Request) -> int:
    """Let Files sections configure the request."""

    sections = dir_config(r).files
    if sections and r.filename is not None:
        name = r.filename.rpartition("/")[2]
        matching = [section.vector for section in sections if section.holds_for_name(name)]
        r.per_dir_config = r.host.merged(r.per_dir_config, matching)
    return OK
