"""CGI/1.1 (RFC 3875): meta-variables in, the response head out. Pure: no files, no sockets.

FastCGI, SCGI and CGI itself share this: all three hand over CGI meta-variables, and take a CGI
response. Every front end's quirk about those is mended here, in :func:`mend`, and nowhere else.
"""

from ..sapi import TOKEN, ConfigurationError, RequestError, is_https, unquote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..sapi import Headers

_SINGLE = frozenset(
    "HTTP_AUTHORIZATION HTTP_FROM HTTP_HOST HTTP_IF_MODIFIED_SINCE HTTP_IF_RANGE"
    " HTTP_IF_UNMODIFIED_SINCE HTTP_MAX_FORWARDS HTTP_ORIGIN HTTP_PROXY_AUTHORIZATION HTTP_RANGE"
    " HTTP_REFERER HTTP_USER_AGENT".split()
)
"""Headers that have no list form: an operator's override after nginx's include file wins."""


def join_pairs(pairs: "Iterable[tuple[str, str]]") -> dict[str, str]:
    """Return *pairs*, of which several may have one name, as variables.

    The last value wins. Request headers that are lists are joined into one of the same meaning
    instead (RFC 3875 §4.1.18). Where the two that frame the request differ, the value is made
    one that cannot be served.
    """
    joined: dict[str, str] = {}
    for name, value in pairs:
        before = joined.get(name)
        if before is not None and before != value:
            if name in _SINGLE:
                pass
            elif name == "HTTP_COOKIE":
                value = f"{before}; {value}"
            elif name.startswith("HTTP_") or name in ("CONTENT_LENGTH", "REQUEST_METHOD"):
                value = f"{before}, {value}"
        joined[name] = value
    return joined


def mend(environ: dict[str, str], mount: "str | None" = None, *, split: bool = True) -> int:
    """Bring *environ* into the form the standard names, in place; return the body's length.

    *environ* holds meta-variables as the front end sent them. The result is CONTENT_LENGTH in
    bytes, or -1 where there is none. *mount* is the configured SCRIPT_NAME (``"/app"``, ``""``
    for the root) and None when nobody configured one. *split* tells that the front end names a
    script and splits the path behind it by itself, as those do that start the script; otherwise
    a path that came whole in SCRIPT_NAME, without any PATH_INFO, is taken for a path below the
    root.

    Raises :class:`RequestError` (400) for a request that no application can be given.
    """
    method = environ.get("REQUEST_METHOD")
    if not method:
        raise RequestError(
            "the front end sent no REQUEST_METHOD: nginx needs"
            " 'include fastcgi_params;' (or scgi_params) in its location"
        )
    if not (method.isascii() and method.isalpha()) and not TOKEN.issuperset(method):
        raise RequestError(f"REQUEST_METHOD {method!r} is no token")
    # httpoxy: a "Proxy:" header must never look like the operator's proxy setting.
    if "HTTP_PROXY" in environ:
        del environ["HTTP_PROXY"]
    # nginx and Caddy send these two as headers as well; the body arrives without its coding.
    if "HTTP_CONTENT_LENGTH" in environ:
        del environ["HTTP_CONTENT_LENGTH"]
    if "HTTP_CONTENT_TYPE" in environ:
        del environ["HTTP_CONTENT_TYPE"]
    if "HTTP_TRANSFER_ENCODING" in environ:
        del environ["HTTP_TRANSFER_ENCODING"]

    length = -1
    if "CONTENT_LENGTH" in environ:
        text = environ["CONTENT_LENGTH"]
        if not text:  # nginx sends it empty on GET: the same as absent (RFC 3875 §4.1)
            del environ["CONTENT_LENGTH"]
        elif text.isascii() and text.isdigit() and len(text) < 20:
            length = int(text)
        else:
            raise RequestError(f"CONTENT_LENGTH {text!r} is not a number of bytes")
    if "CONTENT_TYPE" in environ and not environ["CONTENT_TYPE"]:
        del environ["CONTENT_TYPE"]

    if (
        mount is not None
        or "PATH_INFO" not in environ
        or "SCRIPT_NAME" not in environ
        or environ["SCRIPT_NAME"][-1:] == "/"
    ):
        _split_path(environ, mount, split)
    elif "\0" in environ["PATH_INFO"] or "\0" in environ["SCRIPT_NAME"]:
        raise RequestError("the path holds a NUL")

    if environ.get("SERVER_PROTOCOL", "") in ("", "INCLUDED"):  # a server-side include
        environ["SERVER_PROTOCOL"] = "HTTP/1.0"
    if "QUERY_STRING" not in environ:
        environ["QUERY_STRING"] = ""
    name = environ.get("SERVER_NAME")
    if not name:  # PEP 3333: neither of the two is ever empty
        environ["SERVER_NAME"] = "localhost"
    elif ":" in name:
        _cut_port(environ, name)
    if not environ.get("SERVER_PORT"):
        environ["SERVER_PORT"] = "443" if is_https(environ) else "80"
    file = environ.get("SCRIPT_FILENAME")
    if file is not None and file.startswith("proxy:"):
        environ["SCRIPT_FILENAME"] = _without_proxy(file)
    return length


def normal_mount(script_name: str) -> str:
    """Return the path an application is mounted at as :func:`mend` takes it.

    Given as text, without a slash at its end; raises :class:`ConfigurationError` for a path that
    does not begin with one.
    """
    mount = script_name.rstrip("/")
    if mount and not mount.startswith("/"):
        raise ConfigurationError(f"script name {script_name!r} must begin with a slash")
    return mount.encode("utf-8").decode("latin-1")


def _split_path(environ: dict[str, str], mount: "str | None", split: bool) -> None:
    """Settle SCRIPT_NAME and PATH_INFO.

    One rule fits every front end: with a mount M and P = SCRIPT_NAME + PATH_INFO, if P begins
    with M on a segment's border then SCRIPT_NAME is M and PATH_INFO the rest. No arithmetic on
    lengths the client chose and no walking of the file system (PHP's CVE-2019-11043).
    """
    whole = (
        "PATH_INFO" not in environ
        and not split
        and not environ.get("SERVER_SOFTWARE", "").startswith("lighttpd")  # always splits
    )
    script = environ.get("SCRIPT_NAME")
    path = environ.get("PATH_INFO", "")
    if script is None:
        # nginx's scgi_params name neither of the two, but the decoded path of the URL.
        script = "" if "PATH_INFO" in environ else environ.get("DOCUMENT_URI", "")
    if "\0" in script or "\0" in path:
        raise RequestError("the path holds a NUL")
    if mount is not None:
        both = script + path
        if script and path and _hides_script(environ, script, mount, split):
            script = mount
        elif both.startswith(mount) and both[len(mount) : len(mount) + 1] in ("", "/"):
            script, path = mount, both[len(mount) :]
    elif whole:
        # nginx's own include file, ProxyPass and HAProxy without path-info send the whole path
        # as SCRIPT_NAME; an application that nobody mounted stands at the root.
        script, path = "", script
    environ["SCRIPT_NAME"] = script.rstrip("/")
    environ["PATH_INFO"] = path


def _hides_script(environ: dict[str, str], script: str, mount: str, split: bool) -> bool:
    """Tell whether a rewrite rule led to *script*, which the client's URL does not show.

    The URL, which the front end has not normalised, decides about SCRIPT_NAME only; PATH_INFO
    stays what the front end made it.
    """
    uri = environ.get("REQUEST_URI", "").partition("?")[0].encode("latin-1", "replace")
    asked = unquote(uri).decode("latin-1")
    if asked == mount + environ["PATH_INFO"]:
        return True
    return split and asked[:1] == "/" and not f"{asked}/".startswith(f"{script}/")


def _cut_port(environ: dict[str, str], name: str) -> None:
    """Take the port out of SERVER_NAME, where HAProxy leaves it; spare IPv6 literals."""
    host, _, port = name.rpartition(":")
    if host and port.isdigit() and (host.endswith("]") or ":" not in host):
        environ["SERVER_NAME"] = host


def _without_proxy(file: str) -> str:
    """Return the path in Apache's ``proxy:fcgi://host:port/path?query`` SCRIPT_FILENAME."""
    _, _, rest = file.partition("://")
    slash = rest.find("/")
    return "" if slash < 0 else rest[slash:].partition("?")[0]


def render_head(status: str, headers: "Headers") -> bytes:
    """Return a CGI response head (RFC 3875 §6): the headers, Status, an empty line.

    Status is always written, also beside Location, so that no front end takes a relative
    Location for a local redirect (§6.2.2); and last, as HAProxy 2.6 makes a 302 of whatever
    stands before Location.
    """
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    return f"{lines}Status: {status}\r\n\r\n".encode("latin-1")


def render_nph_head(status: str, headers: "Headers", protocol: str, date: str) -> bytes:
    """Return a full HTTP head for a script that is not parsed (RFC 3875 §5).

    *protocol* is SERVER_PROTOCOL; *date* the value of the Date header, ``""`` for none. The
    connection's end is the body's end.
    """
    version = protocol if protocol in ("HTTP/1.0", "HTTP/1.1") else "HTTP/1.0"
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    dated = f"Date: {date}\r\n" if date else ""
    return f"{version} {status}\r\n{dated}{lines}Connection: close\r\n\r\n".encode("latin-1")


def is_nph(environ: dict[str, str]) -> bool:
    """Tell whether the script's name says that its head is not parsed (RFC 3875 §5)."""
    for name in ("SCRIPT_NAME", "SCRIPT_FILENAME"):
        if environ.get(name, "").rpartition("/")[2].startswith("nph-"):
            return True
    return False
