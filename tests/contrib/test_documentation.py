"""The documentation agrees with what it speaks of: configurations, options, files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sapi_adapters.commands import tools
from sapi_adapters.commands.serve import command

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))

page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)

# The language of a code block -> the directory of contrib/ whose files it is taken from.
CONFIGURED = {
    "nginx": "nginx",
    "apache": "apache",
    "lighttpd": "lighttpd",
    "haproxy": "haproxy",
    "caddy": "caddy",
    "ini": "systemd",
}


def blocks(path: Path) -> Iterator[tuple[str, str]]:
    """Language and text of each code block of a page."""
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", path.read_text(), re.M | re.S):
        yield match[1], match[2]


def lines(text: str) -> set[str]:
    """What the lines of a configuration say, however they are indented or continued."""
    stripped = (line.strip().rstrip(",") for line in text.splitlines())
    return {line for line in stripped if line}


@page
def test_configurations_are_those_of_contrib(page: Path) -> None:
    for language, text in blocks(page):
        if language in CONFIGURED:
            known: set[str] = set()
            for file in (ROOT / "contrib" / CONFIGURED[language]).iterdir():
                known |= lines(file.read_text())
                known |= lines(re.sub(r"^( *)# (?=\w+ \w)", r"\1", file.read_text(), flags=re.M))
            assert lines(text) <= known, f"{page.name}: {sorted(lines(text) - known)}"


@page
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)]+)\)", prose):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = page if not path else (page.parent / path).resolve()
        assert found.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", found.read_text(), re.M)
            anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in anchors, f"{page.name}: {target}; there are {sorted(anchors)}"


def options(*commands: Any) -> set[str]:
    """Every long option of *commands*."""
    parameters = [parameter for each in commands for parameter in each.params]
    return {name for parameter in parameters for name in parameter.opts if name[:2] == "--"}


SERVE = options(command)
ALL = SERVE | options(*tools.command.commands.values()) | {"--help"}


def test_every_option_is_documented() -> None:
    text = (DOCS / "serve.md").read_text() + (DOCS / "sapi-cli.md").read_text()
    missing = {name for name in SERVE if not re.search(rf"`[^`]*{name}\b", text)}
    assert missing <= {"--version"}


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.name != "benchmarks.md"], ids=lambda p: p.name
)  # that one speaks of other programs
def test_no_option_is_invented(page: Path) -> None:
    text = re.sub(r"^.*\bpytest\b.*$", "", page.read_text(), flags=re.M)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    assert named <= ALL, f"{page.name}: {sorted(named - ALL)}"


def test_python_blocks_compile() -> None:
    for path in PAGES:
        for language, text in blocks(path):
            if language == "python":
                # await at the top is for the reader's own coroutine
                flags = 0x2000 if "await" in text or "async with" in text else 0
                compile(text, path.name, "exec", flags)


def test_the_sapi_shown_is_the_example() -> None:
    example = (ROOT / "examples" / "custom-sapi" / "lines.py").read_text()
    shown = [text for _, text in blocks(DOCS / "writing-a-sapi.md") if text.startswith("class ")]
    assert len(shown) == 2
    for text in shown:
        assert text in example
