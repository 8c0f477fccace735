"""Imports run downward only: a protocol knows no application, a gateway no wire."""

from __future__ import annotations

import subprocess
import sys

import pytest
from shape import floors
from shape.floors import Import


def test_no_import_goes_up_or_through_a_wall():
    wrong = floors.complaints()
    assert not wrong, "\n".join(["", *wrong, "", floors.picture()])


def test_every_file_stands_on_a_floor():
    homeless = [file for file in floors.modules() if floors.floor(file) is None]
    assert not homeless, f"no floor for {homeless}: give them one in tests/shape/floors.py"


def test_the_interface_imports_nothing_of_the_project():
    assert [each for each in floors.imports() if each.file == "sapi"] == []


def test_the_manager_imports_nothing_of_the_project_but_its_errors():
    assert {
        floors.room(each.target) for each in floors.imports() if floors.room(each.file) == "manager"
    } <= {"manager", "sapi"}


@pytest.mark.parametrize(
    ("file", "source", "wrong"),
    [
        ("sapi", "from .extension import x", None),
        ("sapi", "from .names import x", "above"),
        ("sapi", "def f():\n    from .running import run", "above"),
        ("sapi", "if TYPE_CHECKING:\n    from .running import run", None),
        ("sapi", "if TYPE_CHECKING:\n    pass\nelse:\n    from .running import run", "above"),
        ("sapi", "import sapi_adapters.running", "above"),
        ("sapi", "import sapi_adapters", "above"),
        ("protocols.fastcgi", "from ..sapi import ProtocolError", None),
        ("protocols.fastcgi", "from .cgi import mend", None),
        ("protocols.fastcgi", "from ..gateways.wsgi import WsgiGateway", "stranger"),
        ("protocols.fastcgi", "from ..gateways import wsgi", "stranger"),
        ("protocols.fastcgi", "from .. import sapi", None),
        ("protocols.fastcgi", "from .. import run", "above"),
        ("gateways.wsgi", "from ..protocols.cgi import mend", "stranger"),
        ("gateways.wsgi", "from ..servers.blocking import x", "above"),
        ("servers.blocking", "from ..manager.children import x", "wall"),
        ("servers.blocking", "from ..protocols.fastcgi import x", None),
        ("adapters.server", "from ..manager.children import x", None),
        ("adapters.embed", "from ..loading import gateway_for", "above"),
        ("adapters.cgi", "from ..gateways.wsgi import WsgiGateway", "stranger"),
        ("manager.master", "from .children import x", None),
        ("manager.master", "from ..sapi import x", None),
        ("manager.master", "from ..servers.listener import x", "wall"),
        ("commands.serve", "from ..manager.master import x", None),
        ("commands.serve", "from .. import in_cgi_process", None),
        ("attic", "from .sapi import x", "no floor"),
        ("names", "from .attic import x", "no floor"),
        ("names", "import os.path\nfrom os import path", None),
    ],
)
def test_the_reader_of_floors_sees_what_is_wrong(file, source, wrong):
    known = {*floors.modules(), "attic"}
    found = [floors.objection(each) for each in floors.imports_of(file, source, known)]
    if wrong is None:
        assert found in ([], [None])
    else:
        assert len(found) == 1 and found[0] is not None and wrong in found[0]


def test_the_picture_shows_every_file():
    done = subprocess.run(
        [sys.executable, floors.__file__],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert [file for file in floors.modules() if f" {file} " not in done.stdout] == []
    assert done.stderr == ""


def test_an_import_is_found_where_it_stands():
    source = "x = 1\n\ndef f():\n    from ..sapi import a, b\n"
    found = floors.imports_of("servers.blocking", source, set(floors.modules()))
    assert found == [Import("servers.blocking", 4, "sapi")] * 2
