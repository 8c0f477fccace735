"""CGI meta-variables as front ends really send them, mended; the response head as they want it."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from sapi_adapters.protocols.cgi import is_nph, mend, render_head, render_nph_head
from sapi_adapters.sapi import RequestError

PLAIN = {
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "/app",
    "PATH_INFO": "/x",
    "QUERY_STRING": "",
    "SERVER_NAME": "www.example.com",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.1",
}
ABSENT = None
"""The variable is not there: as a value of what arrives or of what is wanted."""


def mended(mount: str | None = None, split: bool = True, **variables: Any) -> dict[str, str]:
    environ = {**PLAIN, **variables}
    environ = {name: value for name, value in environ.items() if value is not ABSENT}
    mend(environ, mount, split=split)
    return environ


class Quirk(NamedTuple):
    sent: dict[str, Any]
    wanted: dict[str, Any]
    mount: str | None = None
    split: bool = False  # FastCGI over a socket; True where the front end names a script


WHOLE = {"SCRIPT_NAME": "/app/x", "PATH_INFO": ABSENT}
QUIRKS = {
    # Where the front end and the application draw the line between SCRIPT_NAME and PATH_INFO.
    "nginx, plain include: the whole path is SCRIPT_NAME, the application at the root": Quirk(
        WHOLE, {"SCRIPT_NAME": "", "PATH_INFO": "/app/x"}
    ),
    "nginx, plain include, with a mount": Quirk(
        WHOLE, {"SCRIPT_NAME": "/app", "PATH_INFO": "/x"}, "/app"
    ),
    "nginx, fastcgi_split_path_info": Quirk({}, {"SCRIPT_NAME": "/app", "PATH_INFO": "/x"}),
    "nginx, fastcgi_split_path_info, nothing behind the script": Quirk(
        {"PATH_INFO": ""}, {"SCRIPT_NAME": "/app", "PATH_INFO": ""}
    ),
    "nginx, the slash alone": Quirk(
        {"SCRIPT_NAME": "/", "PATH_INFO": ABSENT}, {"SCRIPT_NAME": "", "PATH_INFO": "/"}
    ),
    "Apache, ProxyPass fcgi: the whole path is SCRIPT_NAME": Quirk(
        WHOLE, {"SCRIPT_NAME": "", "PATH_INFO": "/app/x"}
    ),
    "Apache, ProxyPass fcgi, with a mount": Quirk(
        WHOLE, {"SCRIPT_NAME": "/app", "PATH_INFO": "/x"}, "/app"
    ),
    "Apache, SetHandler proxy:fcgi, splits rightly": Quirk(
        {}, {"SCRIPT_NAME": "/app", "PATH_INFO": "/x"}
    ),
    "mod_cgid, a script asked for without a path": Quirk(
        {"SCRIPT_NAME": "/cgi-bin/app.py", "PATH_INFO": ABSENT},
        {"SCRIPT_NAME": "/cgi-bin/app.py", "PATH_INFO": ""},
        split=True,
    ),
    "mod_fcgid, ScriptAlias rewritten, with a mount": Quirk(
        {"SCRIPT_NAME": "/app", "PATH_INFO": "/x/y"},
        {"SCRIPT_NAME": "", "PATH_INFO": "/app/x/y"},
        "",
        split=True,
    ),
    "lighttpd, prefix /app": Quirk(
        {"SERVER_SOFTWARE": "lighttpd/1.4.69"}, {"SCRIPT_NAME": "/app", "PATH_INFO": "/x"}
    ),
    "lighttpd, prefix /app, nothing behind it": Quirk(
        {"SERVER_SOFTWARE": "lighttpd/1.4.69", "PATH_INFO": ABSENT},
        {"SCRIPT_NAME": "/app", "PATH_INFO": ""},
    ),
    "lighttpd, prefix /: the first segment is SCRIPT_NAME; mended by the root as mount": Quirk(
        {"SCRIPT_NAME": "/a", "PATH_INFO": "/b", "SERVER_SOFTWARE": "lighttpd/1.4.69"},
        {"SCRIPT_NAME": "", "PATH_INFO": "/a/b"},
        "",
    ),
    "HAProxy without path-info": Quirk(WHOLE, {"SCRIPT_NAME": "", "PATH_INFO": "/app/x"}),
    "Caddy without split: SCRIPT_NAME empty": Quirk(
        {"SCRIPT_NAME": "", "PATH_INFO": "/app/x"}, {"SCRIPT_NAME": "", "PATH_INFO": "/app/x"}
    ),
    "Caddy without split, with a mount": Quirk(
        {"SCRIPT_NAME": "", "PATH_INFO": "/app/x"},
        {"SCRIPT_NAME": "/app", "PATH_INFO": "/x"},
        "/app",
    ),
    "a rewrite rule to a script that the URL does not show, with a mount": Quirk(
        {"SCRIPT_NAME": "/cgi-bin/app.py", "REQUEST_URI": "/app/x%20y?q=/z", "PATH_INFO": "/x y"},
        {"SCRIPT_NAME": "/app", "PATH_INFO": "/x y"},
        "/app",
        split=True,
    ),
    "a rewrite rule to a script, the application at the root": Quirk(
        {"SCRIPT_NAME": "/cgi-bin/app.py", "REQUEST_URI": "/x", "PATH_INFO": "/x"},
        {"SCRIPT_NAME": "", "PATH_INFO": "/x"},
        "",
        split=True,
    ),
    "a rewrite rule that changes the path as well": Quirk(
        {"SCRIPT_NAME": "/cgi-bin/app.py", "REQUEST_URI": "/old", "PATH_INFO": "/x"},
        {"SCRIPT_NAME": "", "PATH_INFO": "/x"},
        "",
        split=True,
    ),
    "the path that the front end normalised and checked is the one that counts": Quirk(
        {"SCRIPT_NAME": "/a", "REQUEST_URI": "/secret/../a/b", "PATH_INFO": "/b"},
        {"SCRIPT_NAME": "", "PATH_INFO": "/a/b"},
        "",
    ),
    "SCRIPT_NAME ends with a slash": Quirk(
        {"SCRIPT_NAME": "/app/"}, {"SCRIPT_NAME": "/app", "PATH_INFO": "/x"}
    ),
    "SCRIPT_NAME absent": Quirk(
        {"SCRIPT_NAME": ABSENT}, {"SCRIPT_NAME": "", "PATH_INFO": "/x"}, split=True
    ),
    "no path at all": Quirk(
        {"SCRIPT_NAME": ABSENT, "PATH_INFO": ABSENT}, {"SCRIPT_NAME": "", "PATH_INFO": ""}
    ),
    "path bytes that are no ASCII stay as they are": Quirk(
        {"PATH_INFO": "/\xc3\xa9\xff"}, {"PATH_INFO": "/\xc3\xa9\xff"}
    ),
    # The body.
    "nginx sends CONTENT_LENGTH and CONTENT_TYPE empty on GET": Quirk(
        {"CONTENT_LENGTH": "", "CONTENT_TYPE": ""},
        {"CONTENT_LENGTH": ABSENT, "CONTENT_TYPE": ABSENT},
    ),
    "nginx and Caddy send both forms of the body's headers": Quirk(
        {"CONTENT_LENGTH": "5", "CONTENT_TYPE": "text/plain"}
        | {"HTTP_CONTENT_LENGTH": "6", "HTTP_CONTENT_TYPE": "text/html"},
        {"CONTENT_LENGTH": "5", "CONTENT_TYPE": "text/plain"}
        | {"HTTP_CONTENT_LENGTH": ABSENT, "HTTP_CONTENT_TYPE": ABSENT},
    ),
    "nginx buffers a chunked upload and still sends its coding": Quirk(
        {"CONTENT_LENGTH": "5", "HTTP_TRANSFER_ENCODING": "chunked"},
        {"CONTENT_LENGTH": "5", "HTTP_TRANSFER_ENCODING": ABSENT},
    ),
    # Headers.
    "httpoxy, CVE-2016-5385: nginx passes the Proxy header": Quirk(
        {"HTTP_PROXY": "http://evil/", "HTTP_PROXY_AUTHORIZATION": "x"},
        {"HTTP_PROXY": ABSENT, "HTTP_PROXY_AUTHORIZATION": "x"},
    ),
    "X-Forwarded-* is passed and believed by nobody here": Quirk(
        {"HTTP_X_FORWARDED_PROTO": "https", "HTTP_X_FORWARDED_FOR": "1.2.3.4"},
        {"HTTP_X_FORWARDED_PROTO": "https", "SERVER_PORT": "80", "REMOTE_ADDR": ABSENT},
    ),
    # The server's name and protocol.
    "HAProxy: SERVER_NAME with its port": Quirk(
        {"SERVER_NAME": "www.example.com:8080"}, {"SERVER_NAME": "www.example.com"}
    ),
    "HAProxy: an IPv6 literal with its port": Quirk(
        {"SERVER_NAME": "[::1]:8080"}, {"SERVER_NAME": "[::1]"}
    ),
    "an IPv6 literal without a port": Quirk({"SERVER_NAME": "[::1]"}, {"SERVER_NAME": "[::1]"}),
    "an IPv6 address without brackets": Quirk(
        {"SERVER_NAME": "fe80::1"}, {"SERVER_NAME": "fe80::1"}
    ),
    "no number behind the colon": Quirk({"SERVER_NAME": "host:http"}, {"SERVER_NAME": "host:http"}),
    "an empty SERVER_NAME, as on a Unix socket": Quirk(
        {"SERVER_NAME": ""}, {"SERVER_NAME": "localhost"}
    ),
    "no SERVER_NAME, no SERVER_PORT": Quirk(
        {"SERVER_NAME": ABSENT, "SERVER_PORT": ABSENT},
        {"SERVER_NAME": "localhost", "SERVER_PORT": "80"},
    ),
    "an empty SERVER_PORT under TLS": Quirk(
        {"SERVER_PORT": "", "HTTPS": "on"}, {"SERVER_PORT": "443"}
    ),
    "an empty SERVER_PORT, TLS told by REQUEST_SCHEME": Quirk(
        {"SERVER_PORT": "", "REQUEST_SCHEME": "https"}, {"SERVER_PORT": "443"}
    ),
    "the port of Host is not taken for the server's": Quirk(
        {"HTTP_HOST": "example.com:8443"}, {"SERVER_PORT": "80"}
    ),
    "a server-side include": Quirk(
        {"SERVER_PROTOCOL": "INCLUDED"}, {"SERVER_PROTOCOL": "HTTP/1.0"}
    ),
    "no SERVER_PROTOCOL": Quirk({"SERVER_PROTOCOL": ABSENT}, {"SERVER_PROTOCOL": "HTTP/1.0"}),
    "an empty SERVER_PROTOCOL is the same as none": Quirk(
        {"SERVER_PROTOCOL": ""}, {"SERVER_PROTOCOL": "HTTP/1.0"}
    ),
    "no QUERY_STRING": Quirk({"QUERY_STRING": ABSENT}, {"QUERY_STRING": ""}),
    # Apache's SCRIPT_FILENAME.
    "Apache: proxy:fcgi:// in SCRIPT_FILENAME": Quirk(
        {"SCRIPT_FILENAME": "proxy:fcgi://127.0.0.1:9000/srv/app.py"},
        {"SCRIPT_FILENAME": "/srv/app.py"},
    ),
    "Apache: over a Unix socket": Quirk(
        {"SCRIPT_FILENAME": "proxy:unix:/run/a.sock|fcgi://localhost/srv/app.py"},
        {"SCRIPT_FILENAME": "/srv/app.py"},
    ),
    "Apache: old versions leave the query": Quirk(
        {"SCRIPT_FILENAME": "proxy:fcgi://127.0.0.1:9000/srv/app.py?a=/b"},
        {"SCRIPT_FILENAME": "/srv/app.py"},
    ),
    "Apache: proxy:balancer://": Quirk(
        {"SCRIPT_FILENAME": "proxy:balancer://pool/srv/app.py"}, {"SCRIPT_FILENAME": "/srv/app.py"}
    ),
    "Apache: no path": Quirk({"SCRIPT_FILENAME": "proxy:fcgi://host"}, {"SCRIPT_FILENAME": ""}),
    "a file that is none of Apache's": Quirk(
        {"SCRIPT_FILENAME": "/srv/proxy:x"}, {"SCRIPT_FILENAME": "/srv/proxy:x"}
    ),
}


@pytest.mark.parametrize("name", QUIRKS)
def test_front_ends_quirk_is_mended(name):
    quirk = QUIRKS[name]
    got = mended(quirk.mount, quirk.split, **quirk.sent)
    assert {key: got.get(key, ABSENT) for key in quirk.wanted} == quirk.wanted


@pytest.mark.parametrize(
    ("mount", "path", "rest"),
    [
        ("/app", "/app", ""),
        ("/app", "/app/", "/"),
        ("/app", "/app/x", "/x"),
        ("/app", "/app//x", "//x"),
        ("/app", "/application", ABSENT),
        ("/app", "/ap", ABSENT),
        ("/app", "/", ABSENT),
        ("/app", "", ABSENT),
        ("/app", "/APP/x", ABSENT),
        ("/a/b", "/a/b/c", "/c"),
        ("/a/b", "/a/bc", ABSENT),
        ("", "/x", "/x"),
        ("", "", ""),
        ("/app", "/app\n/x", ABSENT),
        ("/app", "/app/\nx", "/\nx"),
        ("/app", "/app\r", ABSENT),
        ("/app", "/app/%0a", "/%0a"),
    ],
)
def test_php_cve_2019_11043_the_mount_is_cut_at_the_border_of_a_segment(mount, path, rest):
    """Wherever the front end cut it: a newline, or no PATH_INFO at all, moves no border."""
    sent = [(path[:at], path[at:]) for at in range(len(path) + 1)] + [(path, ABSENT)]
    for script, info in sent:
        environ = mended(mount, SCRIPT_NAME=script, PATH_INFO=info)
        got = environ["SCRIPT_NAME"], environ["PATH_INFO"]
        if rest is ABSENT:  # not below the mount: left as it is
            assert got == (script.rstrip("/"), info or "")
        else:
            assert got == (mount, rest)


@pytest.mark.parametrize(
    ("text", "length"),
    [("0", 0), ("5", 5), ("007", 7), ("9" * 19, 10**19 - 1), ("", -1), (ABSENT, -1)],
)
def test_content_length_is_a_number_of_bytes(text, length):
    environ = {**PLAIN, "CONTENT_LENGTH": text}
    if text is ABSENT:
        del environ["CONTENT_LENGTH"]
    assert mend(environ) == length
    assert ("CONTENT_LENGTH" in environ) == bool(text)


@pytest.mark.parametrize(
    "text",
    [
        "+5",
        " 5",
        "5 ",
        "5_0",
        "\xd9\xa5",
        "\xb2",
        "-1",
        "0x5",
        "1,1",
        "5, 6",
        "5\n",
        "1e3",
        "9" * 20,
    ],
)
def test_content_length_in_any_other_form_is_400(text):
    """Caddy 2.6.2 sends -1 for a chunked body."""
    with pytest.raises(RequestError) as caught:
        mended(CONTENT_LENGTH=text)
    assert caught.value.status == "400 Bad Request"


@pytest.mark.parametrize(
    "variables",
    [
        {"PATH_INFO": "/\0"},
        {"PATH_INFO": ABSENT, "SCRIPT_NAME": "/a\0"},
        {"SCRIPT_NAME": "/a\0b"},
        {"SCRIPT_NAME": "/a\0/"},
    ],
)
@pytest.mark.parametrize("mount", [None, "", "/app"])
def test_a_nul_in_the_path_is_400(variables, mount):
    with pytest.raises(RequestError, match="NUL"):
        mended(mount, **variables)


@pytest.mark.parametrize("method", [ABSENT, "", "GET, POST", "GE T", "G\r\nX: y", "G\xc9T"])
def test_a_request_without_one_method_is_400(method):
    """Two methods that differ reach this point joined: they frame the request differently."""
    with pytest.raises(RequestError) as caught:
        mended(REQUEST_METHOD=method)
    assert caught.value.status == "400 Bad Request"


@pytest.mark.parametrize("method", ["GET", "M-SEARCH", "VERSION-CONTROL", "get", "X_Y"])
def test_any_token_is_a_method(method):
    assert mended(REQUEST_METHOD=method)["REQUEST_METHOD"] == method


def test_nginx_without_its_include_file_is_told_what_is_missing():
    with pytest.raises(RequestError, match="include fastcgi_params"):
        mended(REQUEST_METHOD=ABSENT)


# -- the response's head --------------------------------------------------------------------------


def lines(head: bytes) -> list[bytes]:
    *found, empty, rest = head.split(b"\r\n")
    assert (empty, rest) == (b"", b"")
    return found


def test_the_head_has_one_status_and_the_headers_in_their_order():
    headers = [("Content-Type", "text/plain"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=\xe9")]
    head = lines(render_head("200 OK", headers))
    assert head.count(b"Status: 200 OK") == 1
    head.remove(b"Status: 200 OK")
    assert head == [b"Content-Type: text/plain", b"Set-Cookie: a=1", b"Set-Cookie: b=\xe9"]


def test_location_never_stands_without_status():
    """Alone it would be a local redirect (RFC 3875 §6.2.2), which the front end follows itself."""
    head = lines(render_head("302 Found", [("Location", "/x")]))
    assert sorted(head) == [b"Location: /x", b"Status: 302 Found"]


def test_an_unknown_reason_keeps_its_space():
    assert render_head("299 ", []) == b"Status: 299 \r\n\r\n"


@pytest.mark.parametrize(
    ("protocol", "line"),
    [
        ("HTTP/1.0", b"HTTP/1.0"),
        ("HTTP/1.1", b"HTTP/1.1"),
        ("HTTP/2.0", b"HTTP/1.0"),
        ("INCLUDED", b"HTTP/1.0"),
    ],
)
def test_an_nph_script_writes_the_status_line_itself(protocol, line):
    assert render_nph_head("200 OK", [("A", "b")], protocol, "now") == (
        line + b" 200 OK\r\nDate: now\r\nA: b\r\nConnection: close\r\n\r\n"
    )


def test_an_nph_script_keeps_the_date_that_is_there():
    assert render_nph_head("200 OK", [("Date", "x")], "HTTP/1.1", "") == (
        b"HTTP/1.1 200 OK\r\nDate: x\r\nConnection: close\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("environ", "nph"),
    [
        ({}, False),
        ({"SCRIPT_NAME": "/cgi-bin/nph-x.py"}, True),
        ({"SCRIPT_NAME": "nph-x.py"}, True),
        ({"SCRIPT_NAME": "/nph-dir/x.py"}, False),
        ({"SCRIPT_NAME": "/x-nph-y"}, False),
        ({"SCRIPT_NAME": "/x", "SCRIPT_FILENAME": "/srv/nph-x.py"}, True),
        ({"SCRIPT_NAME": "/x", "PATH_INFO": "/nph-x"}, False),
    ],
)
def test_the_scripts_name_says_that_its_head_is_not_parsed(environ, nph):
    assert is_nph(environ) == nph
