"""The table of requests that flup and its replacement are compared by, and where they may differ.

A row is a request to one server. What is seen of its answer must be the same on both sides but
for what its row names: the aspect, the id of the difference, and what either side shows. The ids
are explained in docs/migration-flup.md.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from beside_wire import Seen, ajp_string, scgi_block, variables


class Differs(NamedTuple):
    """One aspect in which the two are known to differ."""

    id: str
    flup: Any
    shim: Any


@dataclass(frozen=True)
class Server:
    """A program on flup."""

    module: str
    options: dict[str, Any] = field(default_factory=dict)
    tcp: bool = False
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def protocol(self) -> str:
        """The protocol's name: fcgi, scgi or ajp."""
        return self.module.partition("_")[0]


SERVERS = {
    "fcgi": Server("fcgi"),
    "fcgi_fork": Server("fcgi_fork"),
    "fcgi_single": Server("fcgi_single"),
    "scgi": Server("scgi"),
    "scgi_fork": Server("scgi_fork"),
    "ajp": Server("ajp", tcp=True),
    "ajp_fork": Server("ajp_fork", tcp=True),
    "fcgi tcp": Server("fcgi", tcp=True),
    "fcgi multiplexed": Server("fcgi", {"multiplexed": True}),
    "fcgi locked": Server("fcgi", {"multithreaded": False}),
    "fcgi multiprocess": Server("fcgi", {"multiprocess": True}),
    "fcgi environ": Server(
        "fcgi", {"environ": {"REMOTE_ADDR": "198.51.100.1", "trac.env_path": "/srv/trac"}}
    ),
    "fcgi debug": Server("fcgi", {"debug": True}),
    "fcgi authorizer": Server("fcgi", {"roles": [1, 2]}),
    "fcgi error": Server("fcgi", {"how": ["error"]}),
    "fcgi sanitize": Server("fcgi", {"how": ["sanitize"]}),
    "fcgi handler": Server("fcgi", {"how": ["handler"]}),
    "fcgi nobody": Server("fcgi", {"how": ["nobody"]}),
    "fcgi addresses": Server(
        "fcgi", tcp=True, environment={"FCGI_WEB_SERVER_ADDRS": "192.0.2.1, 127.0.0.1"}
    ),
    "fcgi other addresses": Server(
        "fcgi", tcp=True, environment={"FCGI_WEB_SERVER_ADDRS": "192.0.2.1"}
    ),
    "fcgi addresses unix": Server("fcgi", environment={"FCGI_WEB_SERVER_ADDRS": "127.0.0.1"}),
    "fcgi_fork timeout": Server("fcgi_fork", {"timeout": 1}),
    "fcgi_fork error": Server("fcgi_fork", {"how": ["error"]}),
    "scgi locked": Server("scgi", {"multithreaded": False}),
    "scgi environ": Server("scgi", {"environ": {"REMOTE_ADDR": "198.51.100.1", "a": "b"}}),
    "scgi mounted": Server("scgi", {"scriptName": "/app"}),
    "scgi unmounted": Server("scgi", {"scriptName": None}),
    "scgi debug": Server("scgi", {"debug": True}),
    "scgi error": Server("scgi", {"how": ["error"]}),
    "scgi allowed": Server("scgi", {"allowedServers": ["127.0.0.1"]}, tcp=True),
    "scgi not allowed": Server("scgi", {"allowedServers": ["192.0.2.1"]}, tcp=True),
    "scgi_fork timeout": Server("scgi_fork", {"timeout": 1}),
    "ajp mounted": Server("ajp", {"scriptName": "/app"}, tcp=True),
    "ajp environ": Server("ajp", {"environ": {"REMOTE_ADDR": "198.51.100.1"}}, tcp=True),
    "ajp debug": Server("ajp", {"debug": True}, tcp=True),
    "ajp error": Server("ajp", {"how": ["error"]}, tcp=True),
    "ajp not allowed": Server("ajp", {"allowedServers": ["192.0.2.1"]}, tcp=True),
}


@dataclass(frozen=True)
class Case:
    """A request to a server, and how the answers to it differ."""

    name: str
    server: str
    app: str
    body: bytes = b""
    options: dict[str, Any] = field(default_factory=dict)
    differs: dict[str, Differs] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.server}: {self.name}"


# Those that let nobody in.
REFUSING = (
    "fcgi other addresses",
    "fcgi addresses unix",
    "fcgi nobody",
    "scgi not allowed",
    "ajp not allowed",
)


def sapi_of(server: str) -> str:
    """Return the name of the SAPI that a server's application sees."""
    if server == CGI:
        return CGI
    module = SERVERS[server].module
    protocol, _, model = module.partition("_")
    return f"{protocol}-{'prefork' if model in ('fork', 'single') else 'threaded'}"


PLAIN = ("fcgi", "fcgi_fork", "fcgi_single", "scgi", "scgi_fork", "ajp", "ajp_fork")
CGI = "cgi"

# -- what differs ---------------------------------------------------------------------------------


def status(id: str, flup: Any, shim: Any) -> dict[str, Differs]:
    """Return a difference of the status, from which the rest follows."""
    return {"status": Differs(id, flup, shim)}


def gone(id: str, name: str, value: str) -> dict[str, Differs]:
    """Return that the variable *name* is not passed on."""
    return {f"environ {name}": Differs(id, repr(value), None)}


def became(id: str, name: str, flup: str, shim: str) -> dict[str, Differs]:
    """Return that the variable *name* has another value."""
    return {f"environ {name}": Differs(id, repr(flup), repr(shim))}


def new(id: str, name: str, value: str) -> dict[str, Differs]:
    """Return that the variable *name* is added."""
    return {f"environ {name}": Differs(id, None, repr(value))}


def length(id: str, flup: str | None, shim: str | None) -> dict[str, Differs]:
    """Return a difference of the Content-Length."""
    return {"header Content-Length": Differs(id, *([] if n is None else [n] for n in (flup, shim)))}


def said(id: str, flup: str, shim: str) -> dict[str, Differs]:
    """Return a difference of the body and, with it, of its length."""
    found = {"body": Differs(id, flup, shim)}
    if len(flup) != len(shim):
        found.update(length(id, str(len(flup)), str(len(shim))))
    return found


def end(id: str, flup: str, shim: str) -> dict[str, Differs]:
    """Return a difference of how the answer ends."""
    return {"end": Differs(id, flup, shim)}


def ajp_only(id: str) -> dict[str, Differs]:
    """Return that flup drops the connection where an answer is due."""
    return {**status(id, "", "200 OK"), **end(id, "closed", "reuse 1")}


BAD = "400 Bad Request\n"

# Variables that are there in addition.
EXTRA = {
    "environ wsgi.file_wrapper": Differs("environ-more", None, "an object"),
    "environ wsgi.input_terminated": Differs("environ-more", None, "True"),
}
PROTOCOLS = {
    "scgi": gone("scgi-variable", "SCGI", "1"),
    "ajp": gone("ajp-remote-host", "REMOTE_HOST", ""),
}

NO_ANSWER = {
    **status("scgi-strict", "200 OK", ""),
    **length("scgi-strict", "5", None),
    "body": Differs("scgi-strict", "hello", ""),
    "header Content-Type": Differs("scgi-strict", ["text/plain"], []),
}
PASSES = "head-control"
# What makes flup's debug page left the standard library with 3.13: there a request has no end.
CGITB_GONE = sys.version_info >= (3, 13)
CGITB = "" if CGITB_GONE else "500 Internal Server Error"
LISTED: dict[str, dict[str, Differs]] = {
    # The response's head.
    "no_block": length("length-zero", None, "0"),
    "redirect": length("length-zero", None, "0"),
    "local_redirect": length("length-zero", None, "0"),
    "status_empty_reason": status("status-reason", "200 ", "200 OK"),
    "status_099": status("status-range", "099 Odd", "500 page"),
    "ajp: status_099": status("status-range", "99 Odd", "500 page"),
    "header_with_lines": status(PASSES, "200 OK", "500 page"),
    "header_with_nul": status(PASSES, "200 OK", "500 page"),
    "header_name_with_colon": status(PASSES, "200 OK", "500 page"),
    "hop_by_hop": {"header Connection": Differs("hop-by-hop", ["close"], [])},
    "length_too_short": {"body": Differs("length-kept", "hello", "hel")},
    "length_too_long": {
        **status("length-kept", "200 OK", "500 Internal Server Error"),
        **length("length-kept", "9", "26"),
        "body": Differs("length-kept", "hello", "500 Internal Server Error\n"),
        "header Content-Type": Differs(
            "length-kept", ["text/plain"], ["text/plain; charset=utf-8"]
        ),
    },
    "no_content_with_block": {
        **length("no-content", "5", None),
        "body": Differs("no-content", "hello", ""),
    },
    "HEAD one_block": {"body": Differs("head-body", "hello", "")},
    "HEAD two_blocks": {"body": Differs("head-body", "hello, world", "")},
    "HEAD length_right": {"body": Differs("head-body", "hello", "")},
    # Errors.
    "raises_in_blocks": end("cut", "0/0", "cut"),
    "closes_after_error": end("cut", "0/0", "cut"),
    "scgi: raises_in_blocks": {},
    "scgi: closes_after_error": {},
    "cgi: raises_in_blocks": {},
    "ajp: raises_in_blocks": end("cut", "reuse 1", "reset"),
    "ajp: closes_after_error": end("cut", "reuse 1", "reset"),
    "raises_epipe": {
        **status("epipe", "", "500 page"),
        "errors": Differs("epipe", [], ["a pipe of the application"]),
    },
    "scgi: raises_epipe": status("epipe", "", "500 page"),
    "ajp: raises_epipe": status("epipe", "", "500 page"),
    "error_too_late": {
        "body": Differs("exc-info", "half, the same object: False", "half, the same object: True")
    },
    "fcgi debug: raises": status("debug-page", CGITB, "500 page"),
    "scgi debug: raises": status("debug-page", CGITB, "500 page"),
    "ajp debug: raises": status("debug-page", "500 Internal Server Error", "500 page"),
    # The body.
    "body_lines_limited": said(
        "readline-size",
        repr([b"one\n", b"two lines\n", b"thre", b"e"]),
        repr([b"one\n", b"two ", b"line", b"s\n", b"thre", b"e"]),
    ),
    "scgi: body_lines_limited": {},
    "ajp: body_lines_limited": said(
        "readline-size",
        repr([b"one\n", b"two lines\n", b"three"]),
        repr([b"one\n", b"two ", b"line", b"s\n", b"thre", b"e"]),
    ),
    "body_read_none": status("read-none", "500 page", "200 OK"),
    "ajp: body_read_none": status("read-none", "200 page", "200 OK"),
    "scgi: body_read_none": {},
    "scgi: body_unread": end("scgi-reset", "reset", "closed"),
    "cgi: body": said("cgi-text", "'a=1&b=2'", "b'a=1&b=2'"),
    "cgi: body_lines": said(
        "cgi-text", repr(["one\n", "two\n", "three"]), repr([b"one\n", b"two\n", b"three"])
    ),
    "cgi: body_type": said("cgi-text", "'str'", "'bytes'"),
    "more body than announced": said("body-length", "b'0123456789'", "b'01234'"),
    "less body than announced": said("body-length", "b'01234'", "OSError"),
    "scgi: less body than announced": {
        **status("body-length", "200 OK", ""),
        **length("body-length", "8", None),
        "body": Differs("body-length", "b'01234'", ""),
        "header Content-Type": Differs("body-length", ["text/plain"], []),
    },
    "a length that is none": {
        **status("body-length", "200 OK", "400 Bad Request"),
        **said("body-length", "b'01234'", BAD),
        "header Content-Type": Differs(
            "body-length", ["text/plain"], ["text/plain; charset=utf-8"]
        ),
    },
    "scgi: a body, nothing closed": {
        **status("scgi-body", "", "200 OK"),
        **end("scgi-body", "no answer", "closed"),
        **length("scgi-body", None, "13"),
        "body": Differs("scgi-body", "", "b'0123456789'"),
        "header Content-Type": Differs("scgi-body", [], ["text/plain"]),
    },
    # The variables.
    "path from an encoded URI": became(
        "path-decoded", "PATH_INFO", "/a%20b/%E2%82%AC", "/a b/\xe2\x82\xac"
    ),
    "SCRIPT_NAME not in URI": became("path-guess", "PATH_INFO", "y/a", ""),
    "a proxy header": gone("proxy-header", "HTTP_PROXY", "http://192.0.2.66"),
    "a header with a length": {
        **gone("header-copies", "HTTP_CONTENT_LENGTH", "5"),
        **gone("header-copies", "HTTP_CONTENT_TYPE", "text/x"),
    },
    "scgi: a header with a length": {
        **gone("header-copies", "HTTP_CONTENT_LENGTH", "5"),
        **gone("header-copies", "HTTP_CONTENT_TYPE", "text/x"),
        **became("scgi-nginx-length", "CONTENT_LENGTH", "0", "5"),
    },
    "empty content variables": {
        **gone("empty-content", "CONTENT_LENGTH", ""),
        **gone("empty-content", "CONTENT_TYPE", ""),
    },
    "HTTPS=ON": became("https-words", "wsgi.url_scheme", "http", "https"),
    "HTTPS=true": became("https-words", "wsgi.url_scheme", "http", "https"),
    "HTTPS=https": became("https-words", "wsgi.url_scheme", "http", "https"),
    "scgi: nothing but a method": {
        **new("scgi-defaults", "SERVER_NAME", "localhost"),
        **new("scgi-defaults", "SERVER_PORT", "80"),
        **new("scgi-defaults", "SERVER_PROTOCOL", "HTTP/1.0"),
    },
    "WSGI_SCRIPT_NAME none": new("scgi-defaults", "PATH_INFO", ""),
    "scgi unmounted: all in SCRIPT_NAME": new("scgi-defaults", "PATH_INFO", ""),
    "scgi unmounted: nginx's set": new("scgi-defaults", "PATH_INFO", ""),
    "another mount": {
        **became("mount", "PATH_INFO", "er/a", "/other/a"),
        **became("mount", "SCRIPT_NAME", "/app", ""),
    },
    # SCGI's own.
    "a sign before the length": NO_ANSWER,
    "a zero before the length": NO_ANSWER,
    "an empty name": NO_ANSWER,
    "scgi: a length that is none": end("scgi-reset", "reset", "closed"),
    "a negative CONTENT_LENGTH": {
        **status("scgi-400", "", "400 Bad Request"),
        **length("scgi-400", None, str(len(BAD))),
        "body": Differs("scgi-400", "", BAD),
        "header Content-Type": Differs("scgi-400", [], ["text/plain; charset=utf-8"]),
    },
    # AJP's own.
    "ajp: an encoded path": became("path-decoded", "PATH_INFO", "/app/a%20b", "/app/a b"),
    "ajp mounted: an encoded path": became("path-decoded", "PATH_INFO", "/a%20b", "/a b"),
    "ajp: a query": became("ajp-uri", "REQUEST_URI", "/app/a", "/app/a?x=1&y=%26"),
    "ajp: a query in the URI": became("ajp-uri", "QUERY_STRING", "x=1", ""),
    "ajp mounted: https": {
        **became("mount", "PATH_INFO", "", "/"),
        **became("mount", "SCRIPT_NAME", "/app", ""),
    },
    "ajp: a certificate": {
        **gone("ajp-tls", "SSL_CERT", "MII"),
        **new("ajp-tls", "SSL_CLIENT_CERT", "MII"),
        **gone("ajp-tls", "SSL_SESSION", "1234"),
        **new("ajp-tls", "SSL_SESSION_ID", "1234"),
    },
    "ajp: a key's size": ajp_only("ajp-tls"),
    "ajp: an attribute of the front end": {
        **gone("ajp-attributes", "AJP_REMOTE_PORT", "51234"),
        **new("ajp-attributes", "REMOTE_PORT", "51234"),
    },
    "ajp: an attribute of one's own": {
        **status("ajp-attributes", "200 OK", "403 Forbidden"),
        **end("ajp-attributes", "reuse 1", "reuse 0"),
    },
    "ajp: a secret": ajp_only("ajp-secret"),
    "ajp: a method by name": ajp_only("ajp-method"),
    "ajp: a context": {
        **gone("ajp-attributes", "CONTEXT", "/context"),
        **gone("ajp-attributes", "SERVLET_PATH", "/servlet"),
    },
    "ajp: an underscore in a name": gone("header-names", "HTTP_X_NAME", "1"),
}
# Under AJP flup's page for a failed application says 200.
for _app in """
    str_beyond_latin_1 number_block none_result status_without_reason status_no_number status_none
    header_beyond_latin_1 header_number headers_tuple no_start started_twice raises
    raises_after_start raises_exit raises_oserror
""".split():
    LISTED[f"ajp: {_app}"] = status("ajp-error-status", "200 page", "500 page")
LISTED["ajp error: raises"] = {}
if CGITB_GONE:
    LISTED["ajp debug: raises"].update(end("debug-page", "closed", "reuse 1"))


# -- the rows --------------------------------------------------------------------------------------

# Every application that needs no particular request, under each of the seven servers.
APPLICATIONS = """
    one_block two_blocks tuple_of_one generator empty_block no_block empty_blocks_first str_block
    str_latin_1 str_beyond_latin_1 str_result number_block none_result large large_generator
    status_bytes headers_bytes head_bytes status_latin_1 status_without_reason status_empty_reason
    status_no_number status_099 status_none header_latin_1 header_beyond_latin_1 header_number
    header_with_lines header_with_nul header_name_with_colon headers_tuple headers_many cookies
    hop_by_hop length_right length_too_short length_too_long no_content no_content_with_block
    not_modified redirect local_redirect not_found teapot headers_changed_later no_start late_start
    started_twice write write_str write_and_block write_empty raises raises_after_start
    raises_in_blocks raises_exit raises_oserror raises_epipe closes closes_after_error
    error_replaced error_too_late complains prints_to_errors complains_without_end environ
""".split()

# Those that read a body.
BODIES = {
    "body": b"a=1&b=2",
    "body_length": bytes(range(256)) * 400,
    "body_in_parts": b"0123456789",
    "body_negative": b"0123456789",
    "body_lines": b"one\ntwo\nthree",
    "body_lines_limited": b"one\ntwo lines\nthree",
    "body_readlines": b"one\ntwo\nthree",
    "body_readlines_hint": b"one\ntwo\nthree",
    "body_iterated": b"one\ntwo\nthree",
    "body_read_none": b"0123456789",
    "body_past_the_end": b"0123456789",
    "body_type": b"0123456789",
    "body_announced": b"0123456789",
    "body_unread": b"0123456789",
    "echo": b"0123456789" * 2000,
}

# Under CGI a process is started for each, so only some.
UNDER_CGI = """
    one_block generator empty_block no_block str_latin_1 head_bytes raises raises_in_blocks
    raises_exit complains closes environ write_and_block header_with_lines
""".split()


def requests() -> Iterator[Case]:
    """Yield the rows, each with what is listed of its differences."""
    for case in _requests():
        differs: dict[str, Differs] = {}
        if case.app == "environ" and case.server not in REFUSING:
            differs.update(EXTRA)
            differs["environ sapi.name"] = Differs("environ-more", None, repr(sapi_of(case.server)))
        protocol = CGI if case.server == CGI else SERVERS[case.server].protocol
        # What is said of a server stands before what is said of its protocol, and that before all.
        for key in (str(case), f"{protocol}: {case.name}", case.name):
            if key in LISTED:
                differs.update(LISTED[key])
                break
        if differs and case.app == "environ":
            differs.update(PROTOCOLS.get(protocol, {}))
        if "status" in differs:
            # There are no variables to compare.
            differs = {k: v for k, v in differs.items() if not k.startswith("environ ")}
        yield replace(case, differs=differs)


def _requests() -> Iterator[Case]:
    for server in PLAIN:
        for app in APPLICATIONS:
            yield Case(app, server, app)
        for app, body in BODIES.items():
            yield Case(app, server, app, body)
        head = (
            {"method": "HEAD"}
            if server.startswith("ajp")
            else {"given": {"REQUEST_METHOD": "HEAD"}}
        )
        for app in ("one_block", "two_blocks", "no_block", "length_right"):
            yield Case(f"HEAD {app}", server, app, options=head)
    for app in UNDER_CGI:
        yield Case(app, CGI, app)
    for app in ("body", "body_lines", "body_type"):
        yield Case(app, CGI, app, BODIES[app])
    yield from fastcgi_requests()
    yield from scgi_requests()
    yield from ajp_requests()


def environ(name: str, server: str, **given: str | None) -> Case:
    """Return a row that looks at the variables, of a request with these *given*."""
    return Case(name, server, "environ", options={"given": given})


def fastcgi_requests() -> Iterator[Case]:
    """Yield the rows that are FastCGI's own."""
    for server in ("fcgi", "fcgi_fork", "fcgi_single", CGI):
        yield environ(
            "variables, with an encoded path",
            server,
            SCRIPT_NAME="/app",
            PATH_INFO="/a b",
            REQUEST_URI="/app/a%20b?x=1",
            QUERY_STRING="x=1",
        )
        yield environ(
            "PATH_INFO missing",
            server,
            SCRIPT_NAME="/app",
            PATH_INFO=None,
            REQUEST_URI="/app/a?x=1",
            QUERY_STRING=None,
        )
    for server in ("fcgi", "scgi"):
        for name, given in {
            "path from an encoded URI": {"PATH_INFO": None, "REQUEST_URI": "/a%20b/%E2%82%AC"},
            "no path, no URI": {"PATH_INFO": None, "REQUEST_URI": None, "QUERY_STRING": None},
            "no SCRIPT_NAME": {"SCRIPT_NAME": None},
            "SCRIPT_NAME not in URI": {
                "SCRIPT_NAME": "/x",
                "PATH_INFO": "",
                "REQUEST_URI": "/yy/a",
            },
            "empty PATH_INFO": {"SCRIPT_NAME": "/app", "PATH_INFO": "", "REQUEST_URI": "/app"},
            "query from the URI": {"QUERY_STRING": "", "REQUEST_URI": "/?a=%26"},
            "path in bytes": {"PATH_INFO": "/caf\xc3\xa9", "REQUEST_URI": "/caf%C3%A9"},
            "absolute URI": {"REQUEST_URI": "http://example.org/a?b", "PATH_INFO": "/a"},
            "nothing but a method": dict.fromkeys(
                (
                    "REQUEST_URI",
                    "SERVER_NAME",
                    "SERVER_PORT",
                    "SERVER_PROTOCOL",
                    "PATH_INFO",
                    "SCRIPT_NAME",
                    "QUERY_STRING",
                )
            ),
            "a proxy header": {"HTTP_PROXY": "http://192.0.2.66"},
            "a header with a length": {"HTTP_CONTENT_LENGTH": "5", "HTTP_CONTENT_TYPE": "text/x"},
            "empty content variables": {"CONTENT_LENGTH": "", "CONTENT_TYPE": ""},
            "a credential": {"HTTP_AUTHORIZATION": "Basic eDp5"},
            "values in latin-1": {"HTTP_X_NAME": "caf\xe9"},
            "an empty value": {"HTTP_X_EMPTY": ""},
            "a name of the server's": {"SSL_CLIENT_S_DN": "CN=x", "lower": "case"},
            "a name of WSGI's": {"wsgi.url_scheme": "gopher", "wsgi.multithread": "maybe"},
            "another script's file": {"SCRIPT_FILENAME": "/srv/www/app.fcgi"},
        }.items():
            if server == "scgi" and given.get("CONTENT_LENGTH") == "":
                continue
            yield environ(name, server, **given)
        for value in ("on", "1", "ON", "true", "https", "off", "0", ""):
            yield environ(f"HTTPS={value}", server, HTTPS=value)
    yield environ("no method", "fcgi", REQUEST_METHOD=None)
    yield Case("a role it has not", "fcgi", "one_block", options={"role": 2})
    yield Case("a role it was given", "fcgi authorizer", "one_block", options={"role": 2})
    yield Case("more body than announced", "fcgi", "body", b"01234", {"sent": b"0123456789"})
    yield Case("less body than announced", "fcgi", "body", b"0123456789", {"sent": b"01234"})
    yield Case(
        "a body without length",
        "fcgi",
        "body",
        options={"sent": b"01234", "given": {"REQUEST_METHOD": "POST"}},
    )
    yield Case(
        "a length that is none", "fcgi", "body", b"01234", {"given": {"CONTENT_LENGTH": "five"}}
    )
    for server in (
        "fcgi tcp",
        "fcgi multiplexed",
        "fcgi locked",
        "fcgi multiprocess",
        "fcgi environ",
        "fcgi sanitize",
        "fcgi handler",
        "fcgi addresses",
        "fcgi other addresses",
        "fcgi addresses unix",
        "fcgi nobody",
        "fcgi_fork timeout",
    ):
        yield Case("environ", server, "environ")
    for server in (
        *(() if CGITB_GONE else ("fcgi debug",)),
        "fcgi error",
        "fcgi_fork error",
        "fcgi multiplexed",
    ):
        yield Case("raises", server, "raises")
        yield Case("raises_in_blocks", server, "raises_in_blocks")
    yield Case("echo", "fcgi multiplexed", "echo", BODIES["echo"])
    yield Case("too slow", "fcgi_fork timeout", "slow")
    yield Case("in time", "fcgi_fork timeout", "one_block")


def scgi_requests() -> Iterator[Case]:
    """Yield the rows that are SCGI's own."""
    for server in ("scgi", "scgi mounted", "scgi unmounted", "scgi_fork"):
        yield environ(
            "a path below",
            server,
            SCRIPT_NAME="/app",
            PATH_INFO="/a b",
            REQUEST_URI="/app/a%20b?x=1",
            QUERY_STRING="x=1",
        )
        yield environ(
            "all in SCRIPT_NAME",
            server,
            SCRIPT_NAME="/app/a",
            PATH_INFO=None,
            REQUEST_URI="/app/a?x=1",
            QUERY_STRING="x=1",
        )
        yield environ(
            "nginx's set",
            server,
            SCRIPT_NAME="/app/a",
            PATH_INFO=None,
            DOCUMENT_URI="/app/a",
            REQUEST_URI="/app/a?x=1",
            QUERY_STRING="x=1",
        )
    yield environ(
        "another mount",
        "scgi mounted",
        SCRIPT_NAME="/other",
        PATH_INFO="/a",
        REQUEST_URI="/other/a",
    )
    yield environ(
        "WSGI_SCRIPT_NAME",
        "scgi",
        WSGI_SCRIPT_NAME="/app",
        SCRIPT_NAME="/app/a",
        PATH_INFO=None,
        REQUEST_URI="/app/a",
    )
    yield environ(
        "WSGI_SCRIPT_NAME none",
        "scgi",
        WSGI_SCRIPT_NAME="None",
        SCRIPT_NAME="/app/a",
        PATH_INFO=None,
        REQUEST_URI="/app/a",
    )
    for server in (
        "scgi locked",
        "scgi environ",
        "scgi allowed",
        "scgi not allowed",
        "scgi_fork timeout",
    ):
        yield Case("environ", server, "environ")
    for server in ("scgi debug", "scgi error"):
        yield Case("raises", server, "raises")
    yield Case("too slow", "scgi_fork timeout", "slow")
    usual = variables("one_block", b"", {})
    plain = scgi_block(usual)
    without = b"".join(f"{n}\0{v}\0".encode() for n, v in usual.items() if n != "CONTENT_LENGTH")
    for name, block in {
        "no SCGI": scgi_block({**usual, "SCGI": "0"}),
        "CONTENT_LENGTH not first": scgi_block(
            dict(reversed({**usual, "CONTENT_LENGTH": "0"}.items()))
        ),
        "no CONTENT_LENGTH": b"%d:%b," % (len(without), without),
        "no comma": plain[:-1] + b";",
        "a sign before the length": b"+" + plain,
        "a zero before the length": b"0" + plain,
        "a length that is none": b"x" + plain,
        "an odd number of strings": b"%d:%b," % (len(without) + 2, without + b"A\0"),
        "no last NUL": b"%d:%b," % (len(without) - 1, without[:-1]),
        "a negative CONTENT_LENGTH": scgi_block({**usual, "CONTENT_LENGTH": "-1"}),
        "an empty name": scgi_block({**usual, "": "x"}),
    }.items():
        yield Case(name, "scgi", "one_block", options={"block": block})
    yield Case("more body than announced", "scgi", "body", b"01234", {"sent": b"0123456789"})
    yield Case("less body than announced", "scgi", "body", b"0123456789", {"sent": b"01234"})
    yield Case("a body, nothing closed", "scgi", "body", b"0123456789", {"open_for": 1.0})


def ajp_requests() -> Iterator[Case]:
    """Yield the rows that are AJP13's own."""

    def attribute(code: int, *texts: str) -> bytes:
        return bytes((code,)) + b"".join(map(ajp_string, texts))

    rows: dict[str, dict[str, Any]] = {
        "a path": {"uri": "/app/a"},
        "an encoded path": {"uri": "/app/a%20b"},
        "a query": {"uri": "/app/a", "attributes": attribute(5, "x=1&y=%26")},
        "a query in the URI": {"uri": "/app/a?x=1"},
        "https": {"ssl": True},
        "a user": {"attributes": attribute(3, "alice") + attribute(4, "Basic")},
        "a route": {"attributes": attribute(6, "node1")},
        "a certificate": {
            "attributes": attribute(7, "MII") + attribute(8, "AES128") + attribute(9, "1234")
        },
        "a key's size": {"attributes": b"\x0b\x01\x00"},
        "an attribute of the front end": {"attributes": attribute(10, "AJP_REMOTE_PORT", "51234")},
        "an attribute of one's own": {
            "attributes": attribute(10, "SCRIPT_FILENAME", "/etc/passwd")
        },
        "a secret": {"attributes": attribute(12, "sesame")},
        "a method by name": {"method": "by name", "attributes": attribute(13, "QUERY")},
        "a context": {"attributes": attribute(1, "/context") + attribute(2, "/servlet")},
        "coded headers": {"headers": {"user-agent": "x/1", "content-type": "text/plain"}},
        "PUT": {"method": "PUT"},
        "an underscore in a name": {"headers": {"x_name": "1"}},
        "a proxy header": {"headers": {"proxy": "http://192.0.2.66"}},
    }
    for name, options in rows.items():
        yield Case(name, "ajp", "environ", options=options)
    for name in ("a path", "an encoded path", "a query", "https"):
        yield Case(name, "ajp mounted", "environ", options=rows[name])
    for server in ("ajp environ", "ajp not allowed"):
        yield Case("environ", server, "environ")
    for server in ("ajp debug", "ajp error"):
        yield Case("raises", server, "raises")


def same_value(expected: Any, found: Any) -> bool:
    """Tell whether *found* is as a row says: a value, or a pattern of it."""
    if isinstance(expected, re.Pattern):
        return isinstance(found, str) and expected.search(found) is not None
    return bool(expected == found)


def failed(seen: Seen) -> Seen:
    """Return *seen*; of the server's own page, whose text is its own, only that it is that."""
    if b"<h1>Unhandled Exception</h1>" not in seen.body:
        return seen
    return replace(seen, status=f"{seen.status[:3]} page", headers=[], body=b"")


def compare(flup: Seen, shim: Seen, app: str) -> dict[str, tuple[Any, Any]]:
    """Return by aspect what differs between two answers."""
    import json

    found: dict[str, tuple[Any, Any]] = {}
    flup, shim = failed(flup), failed(shim)
    if flup.status != shim.status and "page" in flup.status + shim.status:
        # The rest follows from it.
        flup, shim = (replace(seen, headers=[], body=b"") for seen in (flup, shim))
    if app == "environ" and flup.body[:1] == shim.body[:1] == b"{":
        first, second = json.loads(flup.body), json.loads(shim.body)
        for name in sorted({*first, *second}):
            if first.get(name) != second.get(name):
                found[f"environ {name}"] = first.get(name), second.get(name)
        flup, shim = (
            replace(seen, body=b"", headers=[h for h in seen.headers if h[0] != "Content-Length"])
            for seen in (flup, shim)
        )
    elif app == "environ":
        # One of the two has no variables to show: no answer, or one that refuses.
        flup, shim = (replace(seen, headers=[], body=b"") for seen in (flup, shim))
    for aspect in ("status", "end", "errors"):
        pair = getattr(flup, aspect), getattr(shim, aspect)
        if pair[0] != pair[1]:
            found[aspect] = pair
    if flup.body != shim.body:
        found["body"] = tuple(each.body.decode("latin-1") for each in (flup, shim))
    names = {name for seen in (flup, shim) for name, _ in seen.headers}
    for name in sorted(names):
        values = [[v for n, v in seen.headers if n == name] for seen in (flup, shim)]
        if values[0] != values[1]:
            found[f"header {name}"] = values[0], values[1]
    if not found and flup.headers != shim.headers:
        found["header order"] = flup.headers, shim.headers
    return found
