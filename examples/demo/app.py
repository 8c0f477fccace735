"""The demonstration: one application that shows where it runs and what reached it.

Plain WSGI, unchanged under every SAPI; ``asgi_application`` is its other half, for hosts that
serve both side by side. Nothing but the standard library, and nothing from outside the page: it
looks the same behind any web server, and offline. Everything that is shown is escaped.

    serve -f httpd.conf                                      the host, on 127.0.0.1:8000
    serve app:application --socket /tmp/app.sock             FastCGI, for any web server
    serve app:application --sapi cli GET /                   the command line
"""

import asyncio
import hashlib
import os
import platform
import time
from email.parser import BytesParser
from html import escape

from lifecycle import current

from sapi_adapters import loaded_extensions, sapi_name

MAX_UPLOAD = 8 << 20
_BLOCK = 65536


def application(environ, start_response):
    path = environ["PATH_INFO"] or "/"
    page = PAGES.get(path)
    if page is None:
        html = message_page(environ, "Not found", f"There is no page {path!r} here.")
        return respond(start_response, html, "404 Not Found")
    return page(environ, start_response)


def respond(start_response, html, status="200 OK", *more):
    body = html.encode()
    start_response(status, [*HEADERS, ("Content-Length", str(len(body))), *more])
    return [body]


HEADERS = [
    ("Content-Type", "text/html; charset=utf-8"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'",
    ),
]


def overview(environ, start_response):
    """What runs here: the SAPI, its flags, the life cycle as far as it has come, the variables."""
    flags = {
        "Web server": environ.get("SERVER_SOFTWARE") or "no web server",
        "Processes": "several" if environ["wsgi.multiprocess"] else "one",
        "Threads": "several" if environ["wsgi.multithread"] else "one",
        "Runs": "once, for this request" if environ["wsgi.run_once"] else "until stopped",
        "Extensions": ", ".join(loaded_extensions()) or "none",
    }
    return respond(start_response, overview_page(environ, "WSGI", flags))


def stream(environ, start_response):
    """A page whose rows leave one by one; a browser shows each as it comes."""
    # nginx holds a response back for efficiency; this header asks it not to.
    start_response("200 OK", [*HEADERS, ("X-Accel-Buffering", "no")])
    began = time.monotonic()
    yield stream_head(environ).encode()
    for number in range(1, 13):
        time.sleep(0.25)
        yield stream_row(number, time.monotonic() - began, os.getpid()).encode()
    yield stream_tail().encode()


def upload(environ, start_response):
    """A form, and what arrived of it: read in blocks, never beyond a limit."""
    if environ["REQUEST_METHOD"] != "POST":
        return respond(start_response, upload_page(environ, MAX_UPLOAD))
    length = environ.get("CONTENT_LENGTH", "")
    if not length.isdigit():
        html = message_page(environ, "Length required", "The request says no length.")
        return respond(start_response, html, "411 Length Required")
    if int(length) > MAX_UPLOAD:
        html = message_page(environ, "Too large", f"This form takes {MAX_UPLOAD >> 20} MiB.")
        return respond(start_response, html, "413 Content Too Large")
    began = time.monotonic()
    blocks = []
    while block := environ["wsgi.input"].read(_BLOCK):
        blocks.append(block)
    seconds = time.monotonic() - began
    files = list(parts(environ.get("CONTENT_TYPE", ""), b"".join(blocks)))
    html = upload_page(environ, MAX_UPLOAD, files, int(length), len(blocks), seconds)
    return respond(start_response, html)


def parts(content_type, body):
    """Yield (file name, media type, size, digest) of each file in a multipart form."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1", "replace")
    for part in BytesParser().parsebytes(head + body).walk():
        name = part.get_filename()
        if name:
            data = part.get_payload(decode=True) or b""
            digest = hashlib.sha256(data).hexdigest()
            yield name, part.get_content_type(), len(data), digest


def error(environ, start_response):
    """Raise, on purpose: the client gets a plain 500, the traceback is in the error log."""
    raise RuntimeError("the demonstration's error page was asked for")


PAGES = {"/": overview, "/stream": stream, "/upload": upload, "/error": error}

# -- the same over ASGI


async def asgi_application(scope, receive, send):
    """Show where this runs to whoever speaks ASGI; under the host beside the WSGI half."""
    if scope["type"] == "lifespan":
        while True:
            event = await receive()
            await send({"type": f"{event['type']}.complete"})
            if event["type"] == "lifespan.shutdown":
                return
    environ, status = asgi_environ(scope), 200
    if environ["PATH_INFO"] in ("", "/"):
        loop = type(asyncio.get_running_loop())
        flags = {
            "Interface": f"ASGI {scope['asgi']['version']}",
            "HTTP": scope["http_version"],
            "Event loop": loop.__module__.partition(".")[0],
            "Runs": "until stopped",
            "Extensions": ", ".join(loaded_extensions()) or "none",
        }
        html = overview_page(environ, "ASGI", flags)
    else:
        html, status = message_page(environ, "Not found", "There is no such page."), 404
    body = html.encode()
    headers = [*HEADERS, ("Content-Length", str(len(body)))]
    raw = [(name.lower().encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def asgi_environ(scope):
    """Return what the pages need, under the names that CGI has for it, and the rest of *scope*."""
    environ = {name: value for name, value in scope.items() if name != "headers"}
    root = scope.get("root_path", "")
    environ["SCRIPT_NAME"], environ["PATH_INFO"] = root, scope["path"].removeprefix(root)
    for name, value in scope["headers"]:
        key = "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
        environ[key] = value.decode("latin-1")
    return environ


# -- pages

STYLE = """
:root { color-scheme: light dark;
  --paper: #f6f7f9; --card: #ffffff; --ink: #1b2330; --soft: #5d6a7c; --line: #e1e5eb;
  --accent: #3257d6; --accent-soft: #e8edfd; --good: #157f4b; --shadow: 0 1px 2px #1b23300f; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #10141b; --card: #191f29; --ink: #e6eaf1; --soft: #97a4b6; --line: #2a3240;
  --accent: #8fabff; --accent-soft: #222d4a; --good: #5fd09a; --shadow: none; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main, header, footer { max-width: 60rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.5rem; padding-bottom: 1.5rem; }
header p { margin: 0; color: var(--soft); font-size: .875rem; letter-spacing: .02em; }
h1 { margin: .25rem 0 .5rem; font-size: clamp(1.9rem, 6vw, 2.75rem); line-height: 1.15;
  letter-spacing: -.02em; font-weight: 700; overflow-wrap: anywhere; }
h1 code { color: var(--accent); font-size: .95em; white-space: nowrap; }
h2 { margin: 0 0 .75rem; font-size: 1.0625rem; font-weight: 650; }
a { color: var(--accent); text-underline-offset: .2em; }
code, td, .steps small { font-family: ui-monospace, "Cascadia Code", "SF Mono", Menlo, Consolas,
  "DejaVu Sans Mono", monospace; }
.lead { color: var(--soft); font-size: 1.0625rem; max-width: 42rem; margin: 0; }
nav { display: flex; flex-wrap: wrap; gap: .5rem; margin-top: 1.25rem; }
nav a { padding: .375rem .875rem; border-radius: 99rem; border: 1px solid transparent;
  background: var(--accent-soft); text-decoration: none; font-size: .9375rem; }
nav a:hover, a:focus-visible, summary:focus-visible, button:focus-visible {
  outline: 2px solid var(--accent); outline-offset: 2px; }
nav .host { background: none; border-color: var(--line); }
nav a[aria-current] { background: var(--accent); color: var(--card); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .875rem;
  box-shadow: var(--shadow); padding: 1.25rem; margin-bottom: 1.25rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(7.5rem, 1fr)); gap: 1rem;
  margin: 0; }
.facts div { min-width: 0; }
.facts dt { color: var(--soft); font-size: .8125rem; }
.facts dd { margin: 0; font-size: 1.0625rem; line-height: 1.35; font-weight: 600;
  overflow-wrap: anywhere; }
.steps { list-style: none; display: grid; gap: 1rem .75rem; margin: 0; padding: 0;
  grid-template-columns: repeat(3, 1fr); }
.steps li { border-top: 3px solid var(--line); padding-top: .5rem; }
.steps li.done { border-color: var(--good); }
.steps li.now { border-color: var(--accent); }
.steps b { display: block; font-size: .9375rem; font-weight: 650; }
.steps small { color: var(--soft); font-size: .75rem; }
.steps span { display: block; color: var(--soft); font-size: .8125rem; line-height: 1.4; }
table { width: 100%; border-collapse: collapse; table-layout: fixed; }
th { text-align: left; color: var(--soft); font-size: .8125rem; font-weight: 500; }
th, td { padding: .375rem .75rem .375rem 0; border-top: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere; }
tr:first-child > * { border-top: 0; }
td { font-size: .8125rem; }
th[scope=row] { font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  width: 16rem; }
.soft { color: var(--soft); }
details > summary { cursor: pointer; font-weight: 650; font-size: 1.0625rem; }
details[open] > summary { margin-bottom: .75rem; }
form { display: flex; flex-wrap: wrap; gap: .75rem; align-items: center; }
input[type=file] { flex: 1 1 14rem; min-width: 0; color: var(--soft); font: inherit; }
button { font: inherit; font-weight: 600; padding: .5rem 1.25rem; border: 0; border-radius: .625rem;
  background: var(--accent); color: var(--card); cursor: pointer; }
td.mid { vertical-align: middle; }
.bar { height: .5rem; border-radius: .25rem; background: var(--accent); }
footer { padding-top: .5rem; padding-bottom: 2.5rem; color: var(--soft); font-size: .875rem; }
@media (max-width: 40rem) {
  header { padding-top: 1.5rem; }
  .steps { grid-template-columns: repeat(2, 1fr); }
  .vars, .vars tbody, .vars tr, .vars th, .vars td { display: block; width: auto; }
  .vars th { border-top: 1px solid var(--line); padding-bottom: 0; }
  .vars td { border-top: 0; padding-top: 0; }
  .vars tr:first-child th { border-top: 0; } }
"""

LINKS = [("/", "Overview"), ("/stream", "Streaming"), ("/upload", "Upload"), ("/error", "Error")]
"""The pages of the WSGI half."""

SENSITIVE = ("AUTHORIZATION", "COOKIE", "PASSWD", "PASSWORD", "SECRET", "TOKEN", "KEY", "CERT")


def _head(environ, heading, lead=""):
    mount = environ["SCRIPT_NAME"]
    here = mount + (environ["PATH_INFO"] or "/")
    pages = LINKS if "wsgi.version" in environ else LINKS[:1]
    links = [_link(mount + path, name, here) for path, name in pages]
    for pair in current.get({}).get("settings", {}).get("demo.links", "").split():
        name, _, path = pair.partition("=")
        links.append(_link(path, name, here, "host"))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>sapi_adapters: demonstration</title><link rel="icon" href="data:,">
<style>{STYLE}</style></head><body>
<header><p>sapi_adapters &middot; demonstration</p><h1>{heading}</h1>
<p class="lead">{lead}</p><nav aria-label="Pages">{"".join(links)}</nav></header><main>
"""


def _link(path, name, here, style=""):
    current_page = ' aria-current="page"' if path == here and not style else ""
    style = f' class="{style}"' if style else ""
    return f'<a href="{escape(path)}"{style}{current_page}>{escape(name)}</a>'


def _tail():
    return f"""</main><footer>Python {platform.python_version()} &middot; process {os.getpid()}
&middot; no framework</footer></body></html>
"""


def message_page(environ, heading, text):
    return _head(environ, escape(heading), escape(text)) + _tail()


def overview_page(environ, interface, flags):
    life = current.get({})
    facts = "".join(
        f"<div><dt>{name}</dt><dd>{escape(value).replace(':', ':<wbr>')}</dd></div>"
        for name, value in flags.items()
    )
    pretty = escape(life.get("pretty_name", ""))
    return (
        _head(
            environ,
            f"Served under <code>{escape(sapi_name())}</code>",
            f"This page is an ordinary {interface} application. It knows nothing of its runtime"
            f"{f' ({pretty})' if pretty else ''}; it asked <code>sapi_name()</code>."
            " Below is what reached it.",
        )
        + f'<section class="card"><dl class="facts">{facts}</dl></section>'
        + (_life_cycle(life) if life else "")
        + _variables(environ, interface)
        + _tail()
    )


def _life_cycle(life):
    clock = time.strftime("%H:%M:%S", time.localtime(life["began"]))
    age = max(0.0, life["began"] - life["started"])
    forked = life["master"] != life["worker"]
    steps = [
        ("done", "Module start-up", "MINIT", f"{_duration(age)} ago, in process {life['master']}"),
        (
            "done",
            "Child start-up",
            "child_startup",
            f"after the fork, in process {life['worker']}" if forked else "the same process",
        ),
        ("done", "Request start-up", "RINIT", f"request {life['request']} of this process"),
        ("now", "Your request", "the application", clock),
        ("", "Request shutdown", "RSHUTDOWN", "always, after an error too"),
        ("", "Module shutdown", "MSHUTDOWN", "at the end of each process"),
    ]
    items = "".join(
        f'<li class="{state}"><b>{name}</b><small>{php}</small><span>{escape(text)}</span></li>'
        for state, name, php, text in steps
    )
    return f'<section class="card"><h2>Life cycle</h2><ol class="steps">{items}</ol></section>'


def _duration(seconds):
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _variables(environ, interface):
    rest = f"{interface} and extensions"
    first = "Server variables" if interface == "WSGI" else rest
    groups = {first: [], "Request headers": [], rest: []}
    for name, value in sorted(environ.items()):
        if name.startswith("HTTP_"):
            groups["Request headers"].append((name, value))
        elif name.isupper():
            if interface == "WSGI":  # for ASGI the pages' own, made of the scope
                groups[first].append((name, value))
        else:
            groups[rest].append((name, value))
    sections = []
    for heading, rows in groups.items():
        if not rows:
            continue
        cells = "".join(
            f'<tr><th scope="row">{escape(name)}</th><td>{_value(name, value)}</td></tr>'
            for name, value in rows
        )
        opened = "" if sections else " open"
        sections.append(
            f'<details class="card"{opened}><summary>{heading}'
            f' <span class="soft">{len(rows)}</span></summary>'
            f'<table class="vars"><tbody>{cells}</tbody></table></details>'
        )
    return "".join(sections)


def _value(name, value):
    """Show *value*, shortened where it may be a secret or is merely long."""
    if not isinstance(value, str):
        value = repr(value)
    elif any(word in name for word in SENSITIVE):
        return f'{escape(value[:4])}&hellip; <span class="soft">({len(value)} characters)</span>'
    try:
        value = value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        pass  # it stays what the bytes are in latin-1
    if len(value) > 200:
        value = value[:200] + "…"
    return escape(value) or '<span class="soft">empty</span>'


def stream_head(environ):
    # Some browsers wait for a first kilobyte; the style sheet is longer than that.
    return (
        _head(
            environ,
            "Streaming",
            "Twelve rows, one every quarter of a second. Each leaves as soon as it is made,"
            " where the web server in front passes it on.",
        )
        + '<section class="card"><table><tbody>'
    )


def stream_row(number, seconds, process):
    return (
        f'<tr><td style="width:4rem">row {number}</td><td style="width:6rem">{seconds:.2f} s</td>'
        f'<td class="mid"><div class="bar" style="width:{number / 12:.0%}"></div></td></tr>\n'
    )


def stream_tail():
    return "</tbody></table></section>" + _tail()


def upload_page(environ, limit, files=None, length=0, blocks=0, seconds=0.0):
    result = ""
    if files is not None:
        rows = "".join(
            f'<tr><th scope="row">{escape(name)}</th><td>{escape(kind)}<br>{size:,} bytes'
            f'<br><span class="soft">SHA-256 {digest}</span></td></tr>'
            for name, kind, size, digest in files
        )
        rows = rows or '<tr><td class="soft">no file was chosen</td></tr>'
        result = (
            f'<section class="card"><h2>Received</h2><table class="vars"><tbody>{rows}</tbody>'
            f'</table><p class="soft">{length:,} bytes in {blocks} blocks,'
            f" {seconds * 1000:.1f} ms. Nothing was stored.</p></section>"
        )
    return (
        _head(
            environ,
            "Upload",
            f"Send a file of up to {limit >> 20} MiB; the answer is its size and digest.",
        )
        + '<section class="card"><form method="post" enctype="multipart/form-data">'
        + '<input type="file" name="file" aria-label="File"><button>Send</button></form></section>'
        + result
        + _tail()
    )
