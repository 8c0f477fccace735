"""mod_reqtimeout: how long a client may take to send a request's head and body.

``RequestReadTimeout header=20-40,MinRate=500 body=20,MinRate=500`` gives a head 20 seconds and one
more for each 500 bytes that came, up to 40. The connection's driver keeps the time: what is
configured stands in ``host.provided["request_timeouts"]``, by server. It is that of the first
server for an address until the request names another.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from ..hooks import OK
from ..module import RSRC_CONF, TAKE_ARGV, Command, Module, Settings

if TYPE_CHECKING:
    from ..config import Parameters
    from ..hooks import Hooks
    from ..host import Host

PROVIDED = "request_timeouts"
"""The key in ``Host.provided``: a dict from each :class:`Server` to its :class:`Timeouts`."""


class Stage(NamedTuple):
    """The time for one stage of a request."""

    initial: float
    """Seconds; 0 for no limit."""
    most: float = 0.0
    """Seconds with all that bytes add; 0 for no limit."""
    rate: int = 0
    """Bytes that add a second; 0 when none do."""

    def allowed(self, received: int) -> float | None:
        """Return how many seconds the stage may take once *received* bytes of it have come.

        None for any number. From the start of the stage, so that bytes that drip in do not
        prolong it by more than they are worth.

        >>> Stage(20, 40, 500).allowed(5000)
        30.0
        """
        if not self.initial:
            return None
        if not self.rate:
            return self.initial
        found = self.initial + received // self.rate
        return min(found, self.most) if self.most else found


class Timeouts(Settings):
    """What is configured for a server; without a word httpd's own defaults."""

    handshake = Stage(0)
    header = Stage(20.0, 40.0, 500)
    body = Stage(20.0, 0.0, 500)


_STAGE = re.compile(
    r"(handshake|header|body)=([0-9]{1,9})(?:-([0-9]{1,9}))?(?:,MinRate=([0-9]{1,9}))?",
    re.ASCII | re.IGNORECASE,
)


def _read_timeout(cmd: Parameters, config: Timeouts, words: list[str]) -> str | None:
    if not words:
        return "RequestReadTimeout takes at least one of handshake=, header= and body="
    for word in words:
        match = _STAGE.fullmatch(word)
        if match is None:
            return (
                f"RequestReadTimeout: {word!r} is not STAGE=SECONDS[-SECONDS][,MinRate=BYTES]"
                " with handshake, header or body"
            )
        name, initial, most, rate = match.groups()
        stage = Stage(float(initial), float(most or 0), int(rate or 0))
        if most is not None:
            if rate is None:
                return f"RequestReadTimeout: {word!r} has a maximum, but no MinRate"
            if stage.most <= stage.initial:
                return f"RequestReadTimeout: {word!r}: the maximum must be larger than the minimum"
        if rate is not None and not stage.rate:
            return f"RequestReadTimeout: {word!r}: MinRate must be larger than 0"
        setattr(config, name.lower(), stage)
    return None


def _check(host: Host) -> int:
    host.provided[PROVIDED] = {
        server: server.module_config[reqtimeout_module] for server in (host.main, *host.servers)
    }
    return OK


def _register(hooks: Hooks) -> None:
    hooks.add("check_config", _check)


def _made(server: Any) -> Timeouts:
    return Timeouts()


reqtimeout_module = Module(
    "mod_reqtimeout",
    commands=(
        Command(
            "RequestReadTimeout",
            _read_timeout,
            TAKE_ARGV,
            RSRC_CONF,
            "STAGE=SECONDS[-SECONDS][,MinRate=BYTES] ...",
        ),
    ),
    create_server_config=_made,
    merge_server_config=Timeouts.merged,
    register_hooks=_register,
)
