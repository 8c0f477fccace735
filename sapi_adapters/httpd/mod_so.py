"""mod_so: LoadModule. Built in, as everything else comes by it."""

from __future__ import annotations

from typing import Any

from .config import Parameters
from .module import EXEC_ON_READ, RSRC_CONF, TAKE2, Command, Module, load


def _load_module(cmd: Parameters, config: Any, symbol: str, where: str) -> str | None:
    host = cmd.host
    present = host.find_module(symbol)
    if present is not None:
        if present.name in ("core", "mod_so"):
            return f"module {symbol} is built-in and can't be loaded"
        host.warn(f"module {symbol} is already loaded, skipping")
        return None
    host.add_module(load(symbol, where, host.root))
    return None


so_module = Module(
    "mod_so",
    commands=(
        Command(
            "LoadModule",
            _load_module,
            TAKE2,
            RSRC_CONF | EXEC_ON_READ,
            "a module's name and its file or dotted name",
        ),
    ),
)
so_module.symbol = "so_module"
