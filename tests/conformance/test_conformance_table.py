"""The table itself: a broken server does not pass it, and its own tools tell right from wrong."""

from __future__ import annotations

from collections import Counter

import pytest

from sapi_adapters.testing import (
    NEEDS,
    Case,
    Failure,
    Request,
    Response,
    asgi_app,
    cases,
    cgi_environ,
    cgi_response,
    pattern,
    wsgi_app,
)

ALL = [*cases("wsgi"), *cases("asgi")]


def nothing(request: Request) -> Response:
    """A server that answers everything politely and wrongly."""
    return Response(202, "Accepted", [("Content-Type", "text/html")], b"<p>fine</p>")


@pytest.mark.parametrize("case", ALL, ids=lambda case: f"{case.interface}-{case.name}")
def test_every_case_can_fail(case: Case) -> None:
    with pytest.raises(Failure):
        case.run(nothing, mount="/m", sapi_name="none")


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_names_are_unique(interface: str) -> None:
    names = Counter(case.name for case in cases(interface))
    assert [name for name, count in names.items() if count > 1] == []


def test_needs_are_explained_and_used() -> None:
    assert set().union(*(case.needs for case in ALL)) == NEEDS.keys()


def test_cases_are_left_out_by_name_and_by_need() -> None:
    names = {case.name for case in cases("wsgi", without=["get", "mount"])}
    assert names == {case.name for case in cases("wsgi")} - {"get", "mount-itself"}


def test_an_old_exception_is_refused() -> None:
    with pytest.raises(ValueError, match="no-such-case"):
        cases("wsgi", without=["no-such-case"])
    with pytest.raises(ValueError, match="rack"):
        cases("rack")


def test_the_mount_stands_before_every_target() -> None:
    seen = []

    def send(request: Request) -> Response:
        seen.append(request.target)
        return nothing(request)

    with pytest.raises(Failure):
        cases("wsgi")[0].run(send, mount="/m")
    assert seen == ["/m/report"]


def test_applications_are_what_they_say() -> None:
    from inspect import iscoroutinefunction

    assert iscoroutinefunction(asgi_app)
    assert not iscoroutinefunction(wsgi_app)


@pytest.mark.parametrize("length", [0, 1, 262, 263, 264, 100_000])
def test_pattern(length: int) -> None:
    assert len(pattern(length)) == length
    assert pattern(length) == pattern(200_000)[:length]


def test_cgi_environ() -> None:
    headers = [("X-A", "1"), ("Content-Type", "t/p"), ("X-A", "2")]
    environ = cgi_environ(Request("PUT", "/m/a%20b%C3%A9?q=%20", headers, b"123"), mount="/m")
    assert environ["SCRIPT_NAME"] == "/m"
    assert environ["PATH_INFO"] == "/a b\xc3\xa9"
    assert environ["QUERY_STRING"] == "q=%20"
    assert environ["HTTP_X_A"] == "1, 2"
    assert environ["CONTENT_TYPE"] == "t/p"
    assert environ["CONTENT_LENGTH"] == "3"
    assert "HTTP_CONTENT_TYPE" not in environ
    assert "CONTENT_LENGTH" not in cgi_environ(Request())


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_cgi_response(end: bytes) -> None:
    head = [b"Status: 404 Not Here", b"Set-Cookie: a", b"Set-Cookie: b", b"", b"body\n\n"]
    response = cgi_response(end.join(head))
    assert response == (404, "Not Here", [("Set-Cookie", "a"), ("Set-Cookie", "b")], b"body\n\n")


@pytest.mark.parametrize(
    ("output", "head"),
    [
        (b"Content-Type: t/p", False),
        (b"no header\n\n", False),
        (b"X : y\n\n", False),
        (b"Location: /local\n\n", False),
        (b"Status: 204 No Content\n\nbody", False),
        (b"Content-Type: t/p\n\nbody", True),
    ],
)
def test_what_is_no_cgi_response(output: bytes, head: bool) -> None:
    with pytest.raises(Failure):
        cgi_response(output, head=head)
