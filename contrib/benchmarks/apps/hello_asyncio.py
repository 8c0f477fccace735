"""The same ASGI application where uvloop cannot be imported, for the figures with asyncio alone.

A server picks uvloop when it is installed. Importing this module first takes that choice away in
this one process, whoever the server is, so both loops are measured in one environment.
"""

from __future__ import annotations

import sys
from typing import Any, cast

cast(dict[str, Any], sys.modules)["uvloop"] = None

from contrib.benchmarks.apps.hello import asgi  # noqa: E402

__all__ = ["asgi"]
