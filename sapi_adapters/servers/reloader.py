"""Watching source files, for development: Werkzeug's reloader decides what changed."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

from ..sapi import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable


def watch_sources(changed: Callable[[], None]) -> None:
    """Call *changed*, from a thread, each time a file of an imported module was written.

    Raises :class:`ConfigurationError` without Werkzeug.
    """
    try:
        from werkzeug import _reloader
    except ImportError:
        raise ConfigurationError("--reload needs Werkzeug: pip install werkzeug") from None

    class Watcher(_reloader.StatReloaderLoop):
        def trigger_reload(self, filename: str) -> None:
            sys.stderr.write(f"[notice] {filename} changed\n")
            self.mtimes.clear()
            changed()

    watcher = Watcher()
    watcher.__enter__()  # notes the present now: no change is missed before the thread runs
    threading.Thread(target=watcher.run, name="reloader", daemon=True).start()
