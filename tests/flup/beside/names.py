"""Prints, as JSON, the public names of flup's modules: ``names.py WHICH``."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import types
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from program import use

MODULES = """
    flup flup.client flup.client.fcgi_app flup.client.scgi_app flup.server flup.server.ajp
    flup.server.ajp_base flup.server.ajp_fork flup.server.cgi flup.server.fcgi
    flup.server.fcgi_base flup.server.fcgi_fork flup.server.fcgi_single flup.server.paste_factory
    flup.server.preforkserver flup.server.scgi flup.server.scgi_base flup.server.scgi_fork
    flup.server.singleserver flup.server.threadedserver flup.server.threadpool
""".split()


def signature(callable: Any) -> str:
    """Return names, kinds and defaults of the parameters, without annotations."""
    try:
        found = inspect.signature(callable)
    except (TypeError, ValueError):
        return "none"
    bare = [
        each.replace(
            annotation=each.empty,
            default=each.empty if each.default is each.empty else Default(each.default),
        )
        for each in found.parameters.values()
    ]
    return str(found.replace(parameters=bare, return_annotation=found.empty))


class Default:
    """A default value that shows itself the same on both sides."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return self.value.__name__ if isinstance(self.value, type) else repr(self.value)


def describe(value: Any) -> Any:
    """Return what *value* is."""
    if isinstance(value, type):
        methods = {
            name: signature(function)
            for name, function in inspect.getmembers(value, callable)
            if not name.startswith("__") or name == "__init__"
        }
        plain = {
            name: repr(each)
            for name, each in inspect.getmembers(value)
            if isinstance(each, (int, str, list, dict)) and not name.startswith("__")
        }
        return {"methods": methods, "values": plain}
    if callable(value):
        return signature(value)
    return repr(value)


def main(which: str) -> None:
    use(which)
    found: dict[str, dict[str, Any]] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        found[name] = {
            key: describe(value)
            for key, value in vars(module).items()
            if not key.startswith("_") and not isinstance(value, types.ModuleType)
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
