"""The two ways to the plain name: ``install()``, and the distribution ``flup``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
MODULES = (
    "client client.fcgi_app client.scgi_app server server.ajp server.ajp_base server.ajp_fork"
    " server.cgi server.fcgi server.fcgi_base server.fcgi_fork server.fcgi_single"
    " server.paste_factory server.preforkserver server.scgi server.scgi_base server.scgi_fork"
    " server.singleserver server.threadedserver server.threadpool"
).split()
RUNNERS = {
    f"{protocol}{suffix}": f"flup.server.paste_factory:run_{protocol}_{model}"
    for protocol in ("ajp", "fcgi", "scgi")
    for suffix, model in (("", "thread"), ("_thread", "thread"), ("_fork", "fork"))
}
INSTALLED = "import sapi_adapters.flup\nsapi_adapters.flup.install()\n"


def run(program: str, *path: Path) -> subprocess.CompletedProcess[str]:
    """Run *program* in an interpreter of its own, where warnings are errors."""
    first = f"import sys\nsys.path[:0] = {[str(p) for p in path]!r}\n"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", first + program],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )


def passes(program: str, *path: Path) -> None:
    """Fail unless *program* ends without a word."""
    done = run(program, *path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture
def other_flup(tmp_path) -> Path:
    """A folder with another package of that name."""
    package = tmp_path / "other" / "flup" / "server"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "fcgi.py").write_text("raise RuntimeError('the other flup was read')")
    return tmp_path / "other"


@pytest.fixture(params=["install()", "the distribution"])
def prologue(request, other_flup) -> tuple[str, list[Path]]:
    """What a program says first, and where it looks for modules."""
    if request.param == "install()":
        return INSTALLED, [other_flup]
    return "", [request.getfixturevalue("distribution")]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_the_same_object_under_both_names(name, prologue):
    first, path = prologue
    passes(
        f"{first}import flup.{name}\n"
        f"import sapi_adapters.flup.{name} as ours\n"
        f"assert flup.{name} is ours, flup.{name}\n"
        f"assert sys.modules['flup.{name}'] is ours\n"
        f"assert ours.__name__ == ours.__spec__.name == 'sapi_adapters.flup.{name}'",
        *path,
    )


def test_the_classes_are_the_same_whichever_name_comes_first(prologue):
    first, path = prologue
    passes(
        f"{first}"
        "from flup.client.fcgi_app import FCGIApp\n"
        "from sapi_adapters.flup.client import fcgi_app\n"
        "assert fcgi_app.FCGIApp is FCGIApp\n"
        "from sapi_adapters.flup.client.scgi_app import SCGIApp\n"
        "import flup.client.scgi_app\n"
        "assert flup.client.scgi_app.SCGIApp is SCGIApp",
        *path,
    )


def test_sub_modules_are_imported_when_they_are_asked_for(prologue):
    first, path = prologue
    passes(
        f"{first}import flup.server\n"
        "assert not [n for n in sys.modules if n.startswith('sapi_adapters.flup.server.')]\n"
        "assert 'sapi_adapters.flup.client' not in sys.modules",
        *path,
    )


def test_what_flup_never_had_is_not_found(prologue):
    first, path = prologue
    passes(
        f"{first}"
        "for name in 'flup.middleware', 'flup.server.nonesuch', 'flup.server.fcgi.nonesuch':\n"
        "    try:\n"
        "        __import__(name)\n"
        "    except ModuleNotFoundError as error:\n"
        "        assert error.name == name, error.name\n"
        "    else:\n"
        "        raise AssertionError(name)",
        *path,
    )


def test_other_names_are_left_alone():
    passes(
        INSTALLED + "import importlib.util\n"
        "for name in 'flupper', 'x.flup', 'fl':\n"
        "    assert sys.meta_path[0].find_spec(name) is None"
    )


def test_threads_may_import_at_the_same_time(prologue):
    first, path = prologue
    passes(
        f"{first}"
        "import importlib, threading\n"
        "names = ['flup.server.fcgi_base', 'sapi_adapters.flup.server.fcgi_base'] * 4\n"
        "found = []\n"
        "def load(name): found.append(importlib.import_module(name))\n"
        "threads = [threading.Thread(target=load, args=(n,), daemon=True) for n in names]\n"
        "for t in threads: t.start()\n"
        "for t in threads: t.join(30)\n"
        "assert len(found) == 8 and len(set(map(id, found))) == 1, found",
        *path,
    )


LAZY = """
import importlib.util
class Lazy:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        spec = self.finder.find_spec(name, path, target)
        if spec is not None and name.partition(".")[0] == "flup":
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec
sys.meta_path[:] = [Lazy(finder) for finder in sys.meta_path]
"""


def test_a_lazy_importer_may_stand_before_all_finders(prologue):
    """As Mercurial's does."""
    first, path = prologue
    passes(
        f"{first}{LAZY}"
        "from flup.client.fcgi_app import FCGIApp\n"
        "import sapi_adapters.flup.client.fcgi_app as ours\n"
        "assert ours.FCGIApp is FCGIApp and sys.modules['flup.client.fcgi_app'] is ours\n"
        "assert ours.__spec__.name == 'sapi_adapters.flup.client.fcgi_app'",
        *path,
    )


def test_a_flup_that_is_installed_beside_is_not_read(other_flup):
    assert "the other flup was read" in run("import flup.server.fcgi", other_flup).stderr
    passes(INSTALLED + "import flup.client.fcgi_app", other_flup)


def test_installing_twice_is_installing_once():
    passes(
        INSTALLED + "assert sys.modules['flup'] is sapi_adapters.flup\n"
        "before = list(sys.meta_path)\n"
        "import flup.client.scgi_app\n"
        "sapi_adapters.flup.install()\n"
        "assert sys.meta_path == before and sys.modules['flup'] is sapi_adapters.flup"
    )


def test_install_and_the_distribution_go_together(distribution):
    passes(INSTALLED + "import flup.client.fcgi_app", distribution)
    passes("import flup.client.fcgi_app\n" + INSTALLED + "import flup.server", distribution)


def test_another_flup_that_is_imported_already_is_an_error(other_flup):
    done = run("import flup.server\n" + INSTALLED, other_flup)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        f"RuntimeError: flup is imported already, from {other_flup}/flup/__init__.py"
    )
    assert "call sapi_adapters.flup.install() before" in last


def test_the_distribution_has_flups_entry_points(distribution):
    passes(
        "from importlib.metadata import distribution, version\n"
        "found = distribution('Flup').entry_points\n"
        "assert {e.group for e in found} == {'paste.server_runner'}\n"
        f"assert {{e.name: e.value for e in found}} == {RUNNERS!r}\n"
        "import sapi_adapters.flup.server.paste_factory as ours\n"
        "for e in found: assert e.load() is getattr(ours, e.attr)\n"
        "assert tuple(map(int, version('flup').split('.'))) > (1, 0, 3)",
        distribution,
    )
