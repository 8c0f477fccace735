"""What the master tells systemd, or whoever else speaks its protocol: sd_notify(3).

One datagram a message, to the socket that NOTIFY_SOCKET names. Nobody waits for an answer, and a
message that cannot be sent is no reason to serve worse.
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_LONGEST = 4096
"""Bytes of a message: systemd ignores a longer one (NOTIFY_BUFFER_MAX)."""


class Notifier:
    """Takes its variables out of *environ*, so that workers do not think them theirs.

    Each method returns whether the message was sent: False without systemd, and when its queue
    is full, which a later message may find better. None of them raises or waits.
    """

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        variables = os.environ if environ is None else environ
        self._taken = {name: variables.pop(name) for name in _VARIABLES if name in variables}
        self._pid = os.getpid()
        self._address = _address(self._taken.get("NOTIFY_SOCKET", ""))
        self.watchdog_interval = self._interval()
        """Seconds from one :meth:`watchdog` to the next; None when nobody watches this process.

        It is half of what systemd allows, as sd_watchdog_enabled(3) advises.
        """

    def _interval(self) -> float | None:
        allowed = self._taken.get("WATCHDOG_USEC", "")
        if self._taken.get("WATCHDOG_PID", str(self._pid)) != str(self._pid):
            return None  # another process is watched
        if self._address is None or not (allowed.isascii() and allowed.isdigit()):
            return None
        return int(allowed) / 2e6 or None

    def ready(self, status: str = "") -> bool:
        """Say that the start, or a reload, has come to its end."""
        lines = ["READY=1"]
        if os.getpid() != self._pid:  # it became a daemon meanwhile
            lines.append(f"MAINPID={os.getpid()}")
        return self._send(*lines, status=status)

    def reloading(self) -> bool:
        """Say that a reload begins; :meth:`ready` ends it, also one that failed."""
        # With the time, systemd knows a READY=1 from before the reload from one after it.
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        return self._send("RELOADING=1", f"MONOTONIC_USEC={microseconds}")

    def stopping(self) -> bool:
        """Say that the end begins."""
        return self._send("STOPPING=1")

    def status(self, text: str) -> bool:
        """Say what ``systemctl status`` shows; one line."""
        return self._send(status=text)

    def watchdog(self) -> bool:
        """Say that this process is well."""
        return self._send("WATCHDOG=1")

    def environment(self) -> dict[str, str]:
        """Return the variables that were taken, for a program that takes this one's place."""
        given = dict(self._taken)
        if given.get("WATCHDOG_PID") == str(self._pid):
            given["WATCHDOG_PID"] = str(os.getpid())
        return given

    def _send(self, *lines: str, status: str = "") -> bool:
        if self._address is None:
            return False
        message = "\n".join(lines)
        if status:
            # A line of its own would be another assignment.
            message = f"{message}\nSTATUS={' '.join(status.split())}".lstrip()
        data = message.encode("utf-8", "backslashreplace")[:_LONGEST]
        data = data.decode("utf-8", "ignore").encode()  # no half character at the cut
        try:
            with socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            ) as sender:
                return sender.sendto(data, self._address) == len(data)
        except OSError:
            return False


def _address(name: str) -> bytes | None:
    """Return the socket's address: a path, or a name in Linux's abstract namespace."""
    if len(name) > 1 and name[0] == "@":
        return b"\0" + os.fsencode(name[1:])
    return os.fsencode(name) if name.startswith("/") else None
