"""The floors of the house, read from its imports; run this file to see the picture.

An import goes down or stays on its floor, never up. Imports for type checkers only do not count;
those inside functions do.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parent.parent.parent / "sapi_adapters"
NAME = PACKAGE.name

FLOORS = [
    (0, "the interface", ["sapi", "reasons", "extension", "sendfile", "info"]),
    (1, "wires and callers", ["protocols", "gateways"]),
    (2, "those who touch connected sockets", ["servers"]),
    (3, "the SAPIs", ["adapters"]),
    (
        4,
        "names, options, commands",
        ["names", "loading", "running", "embedding", "debugging", "commands", "__init__"],
    ),
    (4, "and what stands before them", ["__main__", "testing", "flup"]),
    (-1, "forks, signals, counts", ["manager"]),
    (-1, "modules and phases", ["httpd"]),
]
"""(floor, what it is, its rooms): a room is a file or a folder of the package."""

STRANGERS = {("protocols", "gateways"), ("gateways", "protocols"), ("adapters", "gateways")}
"""Rooms that know nothing of each other although their floors would let them."""

BESIDE = -1
KNOWN = {"manager": {"sapi"}, "httpd": {"sapi", "reasons", "info", "protocols"}}
"""What those beside the house may know of it: its errors, and the host a wire's codec."""
LANDINGS = {3, 4}
"""Floors with a door to what stands beside the house."""


class Import(NamedTuple):
    file: str  # as "adapters.cgi"
    line: int
    target: str


def room(module: str) -> str:
    return module.partition(".")[0]


def floor(module: str) -> int | None:
    return next((number for number, _, rooms in FLOORS if room(module) in rooms), None)


def modules() -> dict[str, Path]:
    """Return every file of the package by its dotted name inside it."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


class _Imports(ast.NodeVisitor):
    """Collects what a file imports of the package, TYPE_CHECKING blocks left out."""

    def __init__(self, file: str, known: set[str]) -> None:
        self.file, self.known = file, known
        self.found: list[Import] = []

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" in ast.unparse(node.test):
            for statement in node.orelse:
                self.visit(statement)
        else:
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name == NAME or alias.name.startswith(NAME + "."):
                self._add(node.lineno, alias.name[len(NAME) + 1 :], "")

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            inside = self.file.split(".")[: -node.level]
            base = ".".join([*inside, *([base] if base else [])])
        elif base == NAME or base.startswith(NAME + "."):
            base = base[len(NAME) + 1 :]
        else:
            return
        for alias in node.names:
            self._add(node.lineno, base, alias.name)

    def _add(self, line: int, base: str, name: str) -> None:
        whole = f"{base}.{name}".strip(".")
        target = whole if whole in self.known else base or "__init__"
        self.found.append(Import(self.file, line, target))


def imports_of(file: str, source: str, known: set[str]) -> list[Import]:
    visitor = _Imports(file, known)
    visitor.visit(ast.parse(source))
    return visitor.found


def imports() -> list[Import]:
    known = modules()
    return [
        found
        for file, path in known.items()
        for found in imports_of(file, path.read_text(), set(known))
    ]


def objection(found: Import) -> str | None:
    """Say what is wrong with an import, or nothing."""
    here, there = floor(found.file), floor(found.target)
    if here is None:
        return "stands on no floor"
    if there is None:
        return f"imports {found.target}, which stands on no floor"
    if (room(found.file), room(found.target)) in STRANGERS:
        return f"imports {found.target}, a stranger"
    if here == BESIDE and room(found.target) in KNOWN[room(found.file)]:
        return None
    if here == BESIDE or there == BESIDE:
        if room(found.file) != room(found.target) and not (there == BESIDE and here in LANDINGS):
            return f"imports {found.target} through a wall"
    elif there > here:
        return f"imports {found.target}, which is above it"
    return None


def picture() -> str:
    """Return the house as text: floors, rooms, what each file stands on."""
    lines = []
    found = imports()
    for number, what, rooms in reversed(FLOORS):
        lines.append(f"{f'floor {number}' if number >= 0 else 'beside':8}    {what}")
        for file in modules():
            if room(file) in rooms:
                below = sorted({each.target for each in found if each.file == file})
                lines.append(f"            {file:28} {', '.join(below) or '-'}")
    return "\n".join(lines)


def complaints() -> list[str]:
    return [
        f"sapi_adapters/{each.file.replace('.', '/')}.py:{each.line} {wrong}"
        for each in imports()
        if (wrong := objection(each)) is not None
    ]


if __name__ == "__main__":
    print(picture())
    print(*complaints(), sep="\n")
    sys.exit(bool(complaints()))
