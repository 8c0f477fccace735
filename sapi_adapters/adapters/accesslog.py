"""The access log: one request, one record, one line, in the combined format of Apache."""

from __future__ import annotations

import os
import time
from typing import Any

from ..sapi import ConfigurationError


class AccessLog:
    """Appends lines to *path*, ``"-"`` being standard error.

    Each line leaves in one write to a file opened for appending, so those of several workers do
    not mix. A line that cannot be written is dropped: a full disk fails no request.
    """

    def __init__(self, path: str) -> None:
        self.dropped = 0
        self._path = path
        self._fd = 2 if path == "-" else self._open()

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            return os.open(self._path, flags, 0o640)
        except OSError as error:
            raise ConfigurationError(f"cannot write {self._path}: {error.strerror}") from error

    def reopen(self) -> None:
        """Open the file by its name again, after somebody rotated it."""
        if self._path != "-":
            fresh = self._open()
            os.dup2(fresh, self._fd, inheritable=False)
            os.close(fresh)

    def begin(self, exchange: Any) -> None:
        """Note when the request began."""
        exchange.request_time = time.time()

    def end(self, exchange: Any) -> None:
        """Write the request's line."""
        get = exchange.environ.get
        began = time.strftime("%d/%b/%Y:%H:%M:%S %z", time.localtime(exchange.request_time))
        uri = get("REQUEST_URI") or get("SCRIPT_NAME", "") + get("PATH_INFO", "")
        line = (
            f"{_field(get('REMOTE_ADDR'))} - {_field(get('REMOTE_USER'))} [{began}]"
            f' "{_quoted(get("REQUEST_METHOD", ""))} {_quoted(uri)}'
            f' {_quoted(get("SERVER_PROTOCOL", ""))}"'
            f" {exchange.status[:3] or '-'} {exchange.written or '-'}"
            f' "{_quoted(get("HTTP_REFERER", "-"))}" "{_quoted(get("HTTP_USER_AGENT", "-"))}"\n'
        )
        try:
            os.write(self._fd, line.encode("ascii"))
        except OSError:
            self.dropped += 1


def _quoted(text: str) -> str:
    """Return *text* as it may stand between quotation marks: nothing in it can end the line."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return ascii(text)[1:-1].replace('"', '\\"')


def _field(text: str | None) -> str:
    return _quoted(text).replace(" ", "+") if text else "-"
