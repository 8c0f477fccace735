"""How a request goes through its phases, in Apache's order; redirects, subrequests and errors.

The functions that may reach a handler are coroutines, so that a handler on an event loop can be
awaited. Without a loop nothing in them ever suspends: :func:`run_now` drives them to their end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ..reasons import REASONS
from ..sapi import ClientDisconnected, RequestError
from .coreconfig import core_module, dir_config, server_config
from .filters import EOS, Filter
from .hooks import DECLINED, DONE, OK, run_all, run_first, run_void
from .http_out import error_page
from .records import Request
from .walks import decode_path, location_walk, normal_path

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from .filters import Brigade

SUSPENDED = -3
"""A handler's result when the connection is no longer the host's, as after an upgrade."""


def run_now(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return what *coroutine*, which never suspends, returns."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise RuntimeError("a handler awaited where there is no event loop")


# -- the phases up to the handler -----------------------------------------------------------------


def process_request_internal(r: Request) -> int:
    """Run the phases from the translation of the URI to the fix-ups; return OK or a status."""
    hooks = r.server.process.hooks
    defaults = r.server.lookup_defaults
    if r.redirects and r.redirects > server_config(r.server).recursion:
        r.log(f"more than {r.redirects - 1} internal redirects or subrequests within each other")
        return 500
    inner = r.main is not None and r.filename is not None  # a subrequest for a file
    result: int
    if not inner:
        path = r.uri
        if path[:1] == "/":
            normal = normal_path(path, merge_slashes=r.server.merge_slashes)
            if normal is None:
                r.log(f"invalid URI path ({path!a})")
                return 400
            r.uri = path = normal
        elif path != "*":
            return 400
        r.per_dir_config = defaults
        location_walk(r)
        decode = True
        if hooks.pre_translate_name:
            result = run_first(hooks.pre_translate_name, r)
            if result not in (OK, DECLINED):
                return result
            path = r.uri
            decode = result != OK  # OK: it is translated, and is not to be touched any more
        if decode:
            decoded = decode_path(path, r.per_dir_config[core_module].encoded_slashes)
            if decoded.__class__ is int:
                return decoded
            if decoded != path:
                r.uri = decoded  # type: ignore[assignment]
                r.per_dir_config = defaults
                location_walk(r)
        if hooks.translate_name:
            result = run_first(hooks.translate_name, r)
            if result not in (OK, DECLINED):
                return result
    located, r.per_dir_config = r.per_dir_config, defaults
    result = run_first(hooks.map_to_storage, r)
    if result not in (OK, DECLINED):
        return result
    if not inner:
        if r.per_dir_config is defaults:
            r.per_dir_config = located  # nothing came in between: it would be found again
        else:
            location_walk(r)
    if hooks.post_perdir_config:
        result = run_all(hooks.post_perdir_config, r)
        if result != OK:
            return result
    if hooks.header_parser and r.main is None:
        result = run_all(hooks.header_parser, r)
        if result != OK:
            return result
    if hooks.access_checker or hooks.access_checker_ex:
        result = _authorize(r)
        if result != OK:
            return result
    if hooks.type_checker:
        result = run_first(hooks.type_checker, r)
        if result not in (OK, DECLINED):
            return result
    return run_all(hooks.fixups, r)


def _authorize(r: Request) -> int:
    """Phases 4 to 6: access by address, who it is, whether that one may."""
    hooks = r.host.hooks
    origin = r.main or r.prev
    if (
        origin is not None
        and origin.per_dir_config is r.per_dir_config
        and (r.finfo is not None or r.per_dir_config is r.server.lookup_defaults)
    ):
        # Granted already. Apache asks again for a file that is missing in a Directory section.
        r.user, r.ap_auth_type = origin.user, origin.ap_auth_type
        return OK
    result: int = run_all(hooks.access_checker, r)
    if result != OK:
        return result
    result = run_first(hooks.access_checker_ex, r)
    if result == OK and run_first(hooks.force_authn, r) != OK:
        return OK
    if result not in (OK, DECLINED):
        return result
    if result == DECLINED and not hooks.access_checker_ex:
        return OK  # no module guards anything
    result = run_first(hooks.check_user_id, r)
    if result == DECLINED or (result == OK and r.user is None):
        r.log("AuthType is not set, or no module provides it: check_user_id gave no user")
        return 500
    if result != OK:
        return result
    result = run_first(hooks.auth_checker, r)
    if result == DECLINED:
        r.log("no module decided about the authorization")
        return 500
    return result


# -- the handler ----------------------------------------------------------------------------------


async def invoke_handler(r: Request) -> int:
    """Run the handler (ap_invoke_handler); return OK, DONE, SUSPENDED or a status."""
    hooks = r.server.process.hooks
    for insert in hooks.insert_filter:
        insert(r)
    if r.handler is None:
        if r.content_type is not None and "/" in r.content_type:
            r.handler = r.content_type.partition(";")[0].strip().lower()
        else:
            r.handler = "default-handler"
    for function in hooks.handler:
        result = function(r)
        if result.__class__ is not int:
            result = await result
            if result is None:
                return OK
        if result != DECLINED:
            break
    else:
        r.log(f"handler {r.handler!r} not found for: {r.filename}", "warn")
        return 500
    if result in (OK, DONE, SUSPENDED):
        found: int = result
        return found
    if result not in REASONS and not 200 <= result < 600:
        r.log(f"handler {r.handler!r} returned invalid result {result!r}")
        return 500
    return int(result)


async def process_request(r: Request) -> int:
    """Serve *r* to its end (ap_process_request); return SUSPENDED if the connection is taken."""
    hooks = r.server.process.hooks
    try:
        result = _prepare(r)
        if result == OK:
            result = run_first(hooks.quick_handler, r, False) if hooks.quick_handler else DECLINED
            if result == DECLINED:
                result = process_request_internal(r)
                if result == OK:
                    result = await invoke_handler(r)
        if result not in (OK, SUSPENDED):
            await die(result, r)
    except RequestError as error:
        r.log(str(error))
        result = await _failed(r, int(error.status[:3]))
    except ClientDisconnected:
        r.connection.aborted = True
        result = OK
    except Exception:
        r.host.log_exception(f"internal: {r.the_request!a} failed", r)
        result = await _failed(r)
    if result != SUSPENDED:
        try:
            finish(r)
        except Exception:
            r.host.log_exception("internal: a response could not be completed", r)
            r.connection.transport.cut(last_of(r))
    if hooks.log_transaction:
        try:
            run_all(hooks.log_transaction, r)
        except Exception:
            r.host.log_exception("internal: the request could not be logged", r)
    last: Request | None = r
    while last is not None:
        if "_cleanups" in last.__dict__:
            last.run_cleanups()
        last.__dict__.pop("output_filters", None)  # it holds the request: a circle otherwise
        last = last.next
    return result


def _prepare(r: Request) -> int:
    """Fill in what the head says, and run the first phase."""
    hooks = r.server.process.hooks
    result = run_all(hooks.create_request, r) if hooks.create_request else OK
    if result == OK and hooks.post_read_request:
        result = run_all(hooks.post_read_request, r)
    return result


async def _failed(r: Request, status: int = 500) -> int:
    """Answer a request whose processing raised, if that is still possible."""
    try:
        await die(status, r)
    except Exception:
        r.host.log_exception("internal: the error page failed, too", r)
        r.connection.transport.cut(last_of(r))
    return OK


def last_of(r: Request) -> Request:
    """Return the request that *r* was redirected to at last, itself without redirects."""
    while r.next is not None:
        r = r.next
    return r


def finish(r: Request) -> None:
    """See to it that the response is complete."""
    last = last_of(r)
    if not last.eos_sent and not r.connection.aborted:
        last.output_filters.pass_brigade([EOS])


# -- errors ---------------------------------------------------------------------------------------


async def die(status: int, r: Request) -> None:
    """Answer with *status* (ap_die): by the ErrorDocument, else by a page of our own."""
    r = last_of(r)
    if status in (DONE, DECLINED):
        if status == DECLINED:
            await die(404, r)
        return
    if r.headers_sent:
        # Too late for any page: what is there is all there is, and the client must see that.
        r.log(f"{status} after the response has begun: it is cut")
        r.connection.transport.cut(r)
        return
    recursive = r.status if r.status != 200 else 0
    if recursive:
        # While an error was being answered there was another one: the first is what is told.
        while r.prev is not None and r.prev.status != 200:
            r = r.prev
        r = last_of(r)
        r.log(f"{status} while an error document was being made for {recursive}")
        _send_error(r, recursive)
        return
    r.status = status
    r.status_line = None
    if status == 401:
        run_first(r.host.hooks.note_auth_failure, r, r.ap_auth_type or "Basic")
    custom = dir_config(r).error_documents.get(status)
    if custom is None or custom.lower() == "default":
        _send_error(r, status)
    elif custom.startswith("/"):
        r.subprocess_env["REQUEST_METHOD"] = r.method
        r.no_cache = True
        if r.notes.get("error-notes"):
            r.subprocess_env["ERROR_NOTES"] = r.notes["error-notes"]
        fresh = _redirected(custom, r)
        if not r.header_only:
            fresh.method = "GET"
        fresh.status = status
        await _process_redirected(fresh)
    elif custom.startswith('"'):
        _clear(r)
        run_void(r.host.hooks.insert_error_filter, r)
        r.content_type = "text/html; charset=utf-8"
        r.output_filters.pass_brigade([custom[1:].encode("utf-8", "surrogateescape"), EOS])
    else:
        r.status = 302
        r.headers_out.set("Location", custom)
        r.notes["location"] = custom
        location = r.headers_out.get("Location")
        _send_error(r, 302)
        assert location  # noqa: S101 - it was set above


def _clear(r: Request) -> None:
    """Forget what was said about a response that is not sent; err_headers_out stays."""
    location = r.headers_out.get("Location")
    r.headers_out.clear()
    if location is not None and 300 <= r.status < 400:
        r.headers_out.set("Location", location)
    r.content_encoding = None
    r.output_filters = _protocol_filters(r)
    r.eos_sent = False


def _protocol_filters(r: Request) -> Filter:
    """Return the chain without what the content had passed (RESET_CONTENT_FILTERS)."""
    at = r.output_filters
    while at.next is not None and at.name != "HTTP":
        at = at.next
    at.context = None
    return at


def _send_error(r: Request, status: int) -> None:
    location = r.headers_out.get("Location")
    _clear(r)
    run_void(r.host.hooks.insert_error_filter, r)
    r.status = status
    if location is not None and 300 <= status < 400:
        r.notes["location"] = location
        r.err_headers_out.set("Location", location)
    error_page(r, status)


# -- internal redirects ---------------------------------------------------------------------------


async def internal_redirect(uri: str, r: Request, *, quick: bool = True) -> None:
    """Serve *uri*, a local path with its query, in the place of *r* (ap_internal_redirect).

    Without *quick* the quick handlers are left out, as for what a program redirects to
    (ap_internal_redirect_handler).
    """
    await _process_redirected(_redirected(uri, r), quick=quick)


async def _process_redirected(fresh: Request, *, quick: bool = True) -> None:
    if fresh.redirects > server_config(fresh.server).recursion:
        fresh.log(f"request exceeded the limit of {fresh.redirects - 1} internal redirects")
        _send_error(fresh, 500)  # not the previous one: the filters are this one's by now
        return
    result = DECLINED
    if quick and fresh.host.hooks.quick_handler:
        result = run_first(fresh.host.hooks.quick_handler, fresh, False)
    if result == DECLINED:
        result = process_request_internal(fresh)
        if result == OK:
            result = await invoke_handler(fresh)
    if result not in (OK, SUSPENDED):
        await die(result, fresh)


def _redirected(uri: str, r: Request) -> Request:
    """Return the request that takes the place of *r*."""
    fresh = Request(
        r.connection, r.server, r.the_request, r.method, r.unparsed_uri, r.fields, r.body
    )
    fresh.headers_in = r.headers_in
    fresh.prev, r.next = r, fresh
    fresh.main = r.main
    fresh.redirects = r.redirects + 1
    _set_uri(fresh, uri)
    for name in _KEPT:
        setattr(fresh, name, getattr(r, name))
    fresh.err_headers_out = r.err_headers_out
    fresh.subprocess_env = {f"REDIRECT_{name}": value for name, value in r.subprocess_env.items()}
    fresh.subprocess_env["REDIRECT_URL"] = r.uri
    if r.args is not None:
        fresh.subprocess_env["REDIRECT_QUERY_STRING"] = r.args
    fresh.subprocess_env["REDIRECT_STATUS"] = str(r.status)
    fresh.output_filters = _protocol_filters(r)
    at: Filter | None = fresh.output_filters
    while at is not None:
        at.request = fresh
        at = at.next
    run_all(r.host.hooks.create_request, fresh)
    return fresh


_KEPT = (
    "header_only",
    "proto_num",
    "protocol",
    "hostname",
    "status",
    "request_time",
    "request_clock",
    "range",
    "expecting_100",
    "no_cache",
    "log_id",
    "server_protocol_included",
)


def _set_uri(r: Request, uri: str) -> None:
    path, mark, query = uri.partition("?")
    r.uri, r.args = path, query if mark else None


# -- subrequests ----------------------------------------------------------------------------------


def sub_req_lookup_uri(
    uri: str, r: Request, method: str = "GET", *, quick: bool = False
) -> Request:
    """Return a subrequest for *uri* (ap_sub_req_lookup_uri), up to the fix-ups.

    With *quick*, for one that is to be run, the quick handlers are asked first.
    Its ``status`` tells what :func:`run_sub_req` would answer with. A relative *uri* is one beside
    that of *r*.
    """
    sub = _sub_request(r, method)
    if not uri.startswith("/"):
        uri = f"{_escaped(r.uri.rpartition('/')[0])}/{uri}"
    _set_uri(sub, uri)
    result = DECLINED
    if quick and r.host.hooks.quick_handler:
        result = run_first(r.host.hooks.quick_handler, sub, True)
    if result != OK:
        result = process_request_internal(sub)
    sub.status = 200 if result == OK else result
    return sub


def sub_req_lookup_file(filename: str, r: Request) -> Request:
    """Return a subrequest for the file *filename*, a path or a name beside that of *r*."""
    sub = _sub_request(r, "GET")
    if not filename.startswith("/"):
        directory = (r.filename or "").rpartition("/")[0]
        sub.uri = f"{r.uri.rpartition('/')[0]}/{filename}"
        filename = f"{directory}/{filename}"
    else:
        sub.uri = ""
    sub.filename = sub.canonical_filename = filename
    result = process_request_internal(sub)
    sub.status = 200 if result == OK else result
    return sub


async def run_sub_req(sub: Request) -> int:
    """Run the handler of a subrequest: what it writes passes the filters of the main request."""
    result: int = DECLINED
    hooks = sub.host.hooks
    if hooks.quick_handler:
        result = run_first(hooks.quick_handler, sub, False)
    if result == DECLINED:
        result = await invoke_handler(sub)
    sub.run_cleanups()
    return result


def _escaped(path: str) -> str:
    """Return the decoded *path* as it stands in a URI (ap_escape_uri)."""
    return quote(path.encode("latin-1"), safe="/:@!$&'()*+,;=~")


def _sub_request(r: Request, method: str) -> Request:
    fields = [pair for pair in r.headers_in.items() if pair[0].lower() not in _OF_A_BODY]
    sub = Request(
        r.connection, r.server, r.the_request, method, r.unparsed_uri, fields, r.body.none()
    )
    sub.main = r
    sub.hostname, sub.protocol, sub.proto_num = r.hostname, "INCLUDED", r.proto_num
    sub.server_protocol_included = True
    sub.request_time, sub.request_clock = r.request_time, r.request_clock
    sub.redirects = r.redirects + 1  # they nest no deeper than redirects follow each other
    sub.subprocess_env = dict(r.subprocess_env)
    sub.output_filters = Filter(_to_main, sub, None, 30, "SUBREQ_CORE")
    run_all(r.host.hooks.create_request, sub)
    return sub


def _to_main(f: Filter, brigade: Brigade) -> None:
    main = f.request.main
    assert main is not None  # noqa: S101 - a subrequest has one
    kept = [bucket for bucket in brigade if bucket is not EOS]
    if kept:
        main.output_filters.pass_brigade(kept)


_OF_A_BODY = frozenset(
    (
        "content-length",
        "content-type",
        "content-encoding",
        "transfer-encoding",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "range",
        "expect",
    )
)
