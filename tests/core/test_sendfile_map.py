"""Which files the front end may send, and what it is told."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import tempfile
import zipfile
from typing import Any

import pytest

from sapi_adapters.sapi import ConfigurationError
from sapi_adapters.sendfile import SendfileMap

DATA = b"0123456789"


@pytest.fixture
def tree(tmp_path):
    """A mapped directory ``in`` with a file, and one beside it."""
    for path in ("in/file", "in/sub/deep", "in2/file", "out/file"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(DATA)
    (tmp_path / "in/to_out").symlink_to(tmp_path / "out/file")
    (tmp_path / "in/to_sub").symlink_to("sub/deep")
    (tmp_path / "out/to_in").symlink_to(tmp_path / "in/file")
    (tmp_path / "in/dir_out").symlink_to(tmp_path / "out")
    (tmp_path / "link_to_in").symlink_to("in")
    return tmp_path


def opened(path: Any, **options: Any) -> Any:
    return open(path, "rb", **options)


def header(rule: str, file: Any, length: int = -1) -> tuple[str, str] | None:
    with file:
        return SendfileMap([rule]).header_for(file, length)


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("in/file", "in/file"),
        ("in/sub/deep", "in/sub/deep"),
        ("in/to_sub", "in/sub/deep"),
        ("out/to_in", "in/file"),
        ("link_to_in/file", "in/file"),
        ("in/sub/../file", "in/file"),
        ("in/to_out", None),
        ("in/dir_out/file", None),
        ("in/../out/file", None),
        ("in2/file", None),
        ("out/file", None),
    ],
)
def test_only_files_that_really_lie_in_the_directory_are_handed_over(tree, path, sent):
    got = header(f"x-sendfile={tree}/in", (tree / path).open("rb"))
    # pathlib would drop the dots of "in/../out"; open() by text does not
    with open(f"{tree}/{path}", "rb") as file:
        assert SendfileMap([f"x-sendfile={tree}/in"]).header_for(file, -1) == got
    assert got == (None if sent is None else ("X-Sendfile", f"{tree}/{sent}"))


@pytest.mark.parametrize(
    ("rule", "name", "value"),
    [
        ("x-sendfile={in}", "X-Sendfile", "{in}/file"),
        ("X-Sendfile={in}", "X-Sendfile", "{in}/file"),
        ("x-lighttpd-send-file={in}", "X-LIGHTTPD-send-file", "{in}/file"),
        ("x-accel-redirect=/files:{in}", "X-Accel-Redirect", "/files/file"),
        ("x-accel-redirect=/files/:{in}/", "X-Accel-Redirect", "/files/file"),
        ("x-accel-redirect=/:{in}", "X-Accel-Redirect", "/file"),
        ("x-accel-redirect=/a/b:{link}", "X-Accel-Redirect", "/a/b/file"),
    ],
)
def test_each_front_end_gets_its_header(tree, rule, name, value):
    places = {"in": tree / "in", "link": tree / "link_to_in"}
    got = header(rule.format(**places), (tree / "in/file").open("rb"))
    assert got == (name, value.format(**places))


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        (b"a b%?#", "a%20b%25%3F%23"),
        ("é".encode(), "%C3%A9"),
        (b"\xff", "%FF"),
        (b"new\nline", "new%0Aline"),
    ],
)
def test_a_uri_is_quoted_whatever_the_name(tree, name, quoted):
    path = os.fsdecode(os.fsencode(tree / "in") + b"/" + name)
    with open(path, "wb") as file:
        file.write(DATA)
    rule = f"x-accel-redirect=/p:{tree}/in"
    assert header(rule, opened(path)) == ("X-Accel-Redirect", f"/p/{quoted}")


@pytest.mark.parametrize("name", [b"\xc3\xa9", b"\xff", b"new\nline", b"\x7f"])
def test_a_path_that_no_header_can_hold_is_sent_from_here(tree, name):
    path = os.fsdecode(os.fsencode(tree / "in") + b"/" + name)
    with open(path, "wb") as file:
        file.write(DATA)
    assert header(f"x-sendfile={tree}/in", opened(path)) is None


@pytest.mark.parametrize(
    ("length", "handed"), [(-1, True), (10, True), (9, False), (11, False), (0, False)]
)
def test_a_length_must_be_the_whole_files(tree, length, handed):
    got = header(f"x-sendfile={tree}/in", (tree / "in/file").open("rb"), length)
    assert bool(got) == handed


def test_a_file_that_was_read_from_is_sent_from_here(tree):
    file = (tree / "in/file").open("rb")
    file.read(1)
    assert header(f"x-sendfile={tree}/in", file) is None


def test_a_name_that_means_another_file_by_now_is_sent_from_here(tree):
    path = tree / "in/file"
    file = path.open("rb")
    path.rename(tree / "in/renamed")
    path.write_bytes(b"another!!!")
    assert header(f"x-sendfile={tree}/in", file) is None


def test_a_file_that_was_removed_is_sent_from_here(tree):
    file = (tree / "in/file").open("rb")
    (tree / "in/file").unlink()
    assert header(f"x-sendfile={tree}/in", file) is None


def test_a_name_swapped_for_a_link_to_the_outside_is_sent_from_here(tree):
    path = tree / "in/file"
    file = path.open("rb")
    path.unlink()
    path.symlink_to(tree / "out/file")
    assert header(f"x-sendfile={tree}/in", file) is None


def compressed(module: Any) -> Any:
    def make(path: str) -> Any:
        with module.open(path, "wb") as file:
            file.write(b"decompressed")
        return module.open(path, "rb")

    return make


def member(path: str) -> Any:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("name", "member")
    archive = zipfile.ZipFile(path)
    return archive.open("name")


@pytest.mark.parametrize("make", [compressed(gzip), compressed(bz2), member])
def test_an_object_whose_bytes_are_not_the_files_is_sent_from_here(tree, make):
    """It has the name and the descriptor of the file, but reads something else from it."""
    assert header(f"x-sendfile={tree}/in", make(str(tree / "in/packed"))) is None


def test_what_is_no_file_by_its_path_is_sent_from_here(tree, monkeypatch):
    rule = f"x-sendfile={tree}/in"
    assert header(rule, io.BytesIO(DATA)) is None
    assert header(rule, opened(os.open(tree / "in/file", os.O_RDONLY))) is None
    monkeypatch.chdir(tree)
    assert header(rule, opened("in/file")) is None
    os.mkfifo(tree / "in/fifo")
    fifo = os.open(tree / "in/fifo", os.O_RDONLY | os.O_NONBLOCK)
    assert header(rule, opened(tree / "in/fifo", opener=lambda *_: fifo)) is None

    class Liar(io.BytesIO):
        name = str(tree / "in/file")

    assert header(rule, Liar(DATA)) is None
    closed = (tree / "in/file").open("rb")
    closed.close()
    assert SendfileMap([rule]).header_for(closed, -1) is None


def test_temporary_files_are_files(tree):
    with tempfile.NamedTemporaryFile(dir=tree / "in") as file:
        file.write(DATA)
        file.seek(0)
        got = SendfileMap([f"x-sendfile={tree}/in"]).header_for(file, -1)
        assert got in (("X-Sendfile", file.name), None)


def test_the_first_directory_that_fits_counts(tree):
    rules = [f"x-sendfile={tree}/in2", f"x-accel-redirect=/a:{tree}/in", f"x-sendfile={tree}"]
    with (tree / "in/file").open("rb") as file:
        assert SendfileMap(rules).header_for(file, -1) == ("X-Accel-Redirect", "/a/file")
    with (tree / "out/file").open("rb") as file:
        assert SendfileMap(rules).header_for(file, -1) == ("X-Sendfile", f"{tree}/out/file")
    with (tree / "in/file").open("rb") as file:
        assert SendfileMap([]).header_for(file, -1) is None


def test_the_whole_file_system_may_be_mapped(tree):
    got = header("x-sendfile=/", (tree / "in/file").open("rb"))
    assert got == ("X-Sendfile", f"{tree}/in/file")


@pytest.mark.parametrize(
    "rule",
    ["", "x-sendfile", "x-sendfile=", "x-sendfile=/nonexistent", "x-other=/tmp", "/tmp"]
    + ["x-accel-redirect=/tmp", "x-accel-redirect=files:/tmp", "x-accel-redirect=/files:/nowhere"],
)
def test_a_rule_that_maps_nothing_is_refused(rule):
    with pytest.raises(ConfigurationError, match="sendfile"):
        SendfileMap([rule])
