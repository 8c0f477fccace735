"""What the package shows: names that resolve, types that ship, docstrings on all of it."""

from __future__ import annotations

import ast
import importlib

import pytest
from shape.floors import PACKAGE, modules

import sapi_adapters

DOCUMENTED = [f for f in modules() if f == "sapi" or f.startswith(("protocols.", "gateways."))]


@pytest.mark.parametrize("name", sapi_adapters.__all__)
def test_a_public_name_resolves(name):
    assert getattr(sapi_adapters, name) is not None
    if name in sapi_adapters._HOMES:
        home = importlib.import_module(f"sapi_adapters.{sapi_adapters._HOMES[name]}")
        assert getattr(sapi_adapters, name) is getattr(home, name)


def test_the_names_for_type_checkers_are_the_public_ones():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    typed = {
        alias.asname or alias.name
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }
    assert typed == set(sapi_adapters._HOMES)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonesuch"):
        sapi_adapters.nonesuch  # noqa: B018 - raises


def test_the_version_is_one():
    assert sapi_adapters.__version__[0].isdigit()


def test_the_types_ship():
    assert (PACKAGE / "py.typed").read_text() == ""


def test_the_subpackages_have_no_init_file():
    """A CGI process would read each of them. Those of flup had theirs, and no CGI process cares."""
    found = {path.parent.relative_to(PACKAGE) for path in PACKAGE.rglob("*/__init__.py")}
    assert {path.parts[0] for path in found if path.parts} <= {"flup"}


def undocumented(tree: ast.AST, inside: str = "") -> list[str]:
    found = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if node.name.startswith("_"):
                continue
            if ast.get_docstring(node) is None:
                found.append(f"{inside}{node.name} (line {node.lineno})")
            if isinstance(node, ast.ClassDef):
                found += undocumented(node, f"{inside}{node.name}.")
    return found


@pytest.mark.parametrize("file", DOCUMENTED)
def test_public_classes_and_functions_have_docstrings(file):
    assert undocumented(ast.parse(modules()[file].read_text())) == []


@pytest.mark.parametrize("file", modules())
def test_a_file_opens_by_saying_what_it_is(file):
    assert ast.get_docstring(ast.parse(modules()[file].read_text())), file
