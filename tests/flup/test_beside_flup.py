"""The same programs on flup 1.0.3 and on its replacement: requests, signals, sockets, names.

What differs is listed beside each case, with what either side shows, under an id that
docs/migration-flup.md explains. A difference that is not listed fails, and so does a listed one
that is gone. What runs stands in the directory beside.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

# The programs are no tests, and no package: they also run by themselves. Their names are not to be
# found by other tests.
BESIDE = str(Path(__file__).with_name("beside"))
sys.path.append(BESIDE)
try:
    from beside_cases import REFUSING, Case, Differs, compare, requests, same_value
    from beside_scenes import CHANGED, HOOKS, INNER, MISSING, SCENES, surface
    from beside_sides import FLUP, SHIM, SIDES, Both, place_flup
finally:
    sys.path.remove(BESIDE)

ROWS = list(requests())
PAGE = Path(__file__).parents[2] / "docs" / "migration-flup.md"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """Both sides, with the programs that are running."""
    directory = tmp_path_factory.mktemp("flup")
    flup = place_flup(directory / "lib")
    if flup is None:
        pytest.skip("flup 1.0.3 is not installed")
    sides = Both(flup, directory)
    yield sides
    sides.close()


def judge(found: dict[str, tuple[Any, Any]], listed: dict[str, Differs]) -> list[str]:
    """Return what of *found* is not as *listed*."""
    wrong = []
    for aspect, (flup, shim) in found.items():
        known = listed.get(aspect)
        if known is None:
            wrong.append(f"{aspect} differs: flup {flup!r}, here {shim!r}")
        elif not (same_value(known.flup, flup) and same_value(known.shim, shim)):
            wrong.append(f"{aspect} differs otherwise than {known}: flup {flup!r}, here {shim!r}")
    wrong += [f"{aspect} does not differ" for aspect in listed if aspect not in found]
    return wrong


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_a_request_is_answered_as_flup_does(both: Both, case: Case) -> None:
    flup, shim = (both.ask(side, case) for side in SIDES)
    if case.server in REFUSING:  # how it ends depends on whether the request came before
        flup, shim = (
            replace(each, end="closed" if each.end == "reset" else each.end)
            for each in (flup, shim)
        )
    wrong = judge(compare(flup, shim, case.app), case.differs)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", SCENES)
def test_what_happens_is_what_happens_with_flup(both: Both, name: str) -> None:
    play, differs = SCENES[name]
    with ThreadPoolExecutor(len(SIDES)) as stages:
        flup, shim = stages.map(lambda side: play(both, side), SIDES)
    if differs is None:
        assert shim == flup
    else:
        assert (flup, shim) == (differs.flup, differs.shim)


def test_every_name_of_flup_is_there(both: Both) -> None:
    flup, shim = surface(both, FLUP), surface(both, SHIM)
    lost = {
        f"{module}.{name}"
        for module, names in flup.items()
        for name in names
        if name not in shim[module] and not MISSING.fullmatch(f"{module}.{name}")
    }
    assert lost == set()


def test_constants_are_flups(both: Both) -> None:
    flup, shim = surface(both, FLUP), surface(both, SHIM)
    changed = {
        f"{module}.{name}"
        for module, names in flup.items()
        for name, value in names.items()
        if not isinstance(value, dict) and shim[module].get(name, value) != value
    }
    assert changed <= CHANGED


def pairs_of_classes(both: Both) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield each public class of flup: its name, and what it is on both sides."""
    flup, shim = surface(both, FLUP), surface(both, SHIM)
    for module, names in flup.items():
        for name, value in names.items():
            if isinstance(value, dict) and name in shim[module]:
                yield f"{module}.{name}", value, shim[module][name]


def test_constructors_take_what_flups_take(both: Both) -> None:
    wrong = []
    for name, flup, shim in pairs_of_classes(both):
        ours, theirs = flup["methods"].get("__init__"), shim["methods"].get("__init__")
        if ours == theirs or name.endswith(INNER):
            continue
        # What is new may only come after what was there: with a default, before **kw.
        known = [each for each in split(ours) if not each.startswith("**")]
        now = split(theirs)
        more = [each for each in now[len(known) :] if not each.startswith("*")]
        if now[: len(known)] != known or not all("=" in each for each in more):
            wrong.append(f"{name}: {ours} became {theirs}")
        if "**kw" in split(ours) and not any(each.startswith("**") for each in now):
            wrong.append(f"{name}: unknown keywords are no longer taken")
    assert wrong == []


def split(signature: str) -> list[str]:
    """Return the parameters of *signature*."""
    return re.split(r", (?![^(]*\))", signature[1:-1])


def test_methods_and_hooks_are_there(both: Both) -> None:
    lost = set()
    for name, flup, shim in pairs_of_classes(both):
        if name.endswith(INNER):
            continue
        for method, ours in flup["methods"].items():
            if method.startswith("_") and method not in HOOKS:
                continue
            theirs = shim["methods"].get(method)
            if theirs is None or len(split(theirs)) < len(split(ours)):
                lost.add(f"{name}.{method}{ours}")
        # Attributes that subclasses set.
        lost |= {
            f"{name}.{key}"
            for key in flup["values"]
            if key not in shim["values"] and (key in HOOKS or not key.startswith("_"))
        }
    assert lost == set()


def listed_ids() -> set[str]:
    """Return the ids of all differences that a row or a scene shows."""
    shown = {differs.id for row in ROWS for differs in row.differs.values()}
    return shown | {differs.id for _, differs in SCENES.values() if differs is not None}


def test_the_page_explains_each_difference_and_no_other() -> None:
    text = PAGE.read_text()
    table = text.partition("\n## Differences\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|", table, re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == listed_ids()
