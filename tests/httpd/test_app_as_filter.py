"""An application as an output filter, the role that PHP had as apache2filter."""

from __future__ import annotations

from pathlib import Path

import pytest
from httpd.hosting import hosting

APP = """
def shout(data, environ_or_scope, role):
    return ("<" + role + ">").encode() + data.upper()

def wsgi(environ, start_response):
    body = shout(environ["wsgi.input"].read(), environ, environ["sapi.role"])
    start_response("203 Shouted", [("Content-Type", "text/x-loud"), ("X-By", "wsgi")])
    return [body]

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = await receive()
            await send({"type": event["type"] + ".complete"})
            if event["type"] == "lifespan.shutdown":
                return
    data = b""
    while True:
        event = await receive()
        data += event["body"]
        if not event["more_body"]:
            break
    await send({"type": "http.response.start", "status": 203,
                "headers": [(b"content-type", b"text/x-loud"), (b"x-by", b"asgi")]})
    await send({"type": "http.response.body", "body": shout(data, scope, "filter")})
"""
CONFIGURATION = """
LoadModule sapi_module sapi_adapters.adapters.mod_sapi
LoadModule mime_module mod_mime
DocumentRoot {root}
<Location /loud>
    SapiApp loud:{interface}
    SetOutputFilter SAPI
</Location>
"""


@pytest.mark.parametrize("mpm", ["prefork", "worker", "event"])
@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_files_pass_the_application(tmp_path: Path, mpm: str, interface: str) -> None:
    (tmp_path / "loud.py").write_text(APP)
    for folder in ("root/loud", "root/quiet"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.txt").write_text("hello")
        (tmp_path / folder / "large.txt").write_text("x" * 300_000)
    text = CONFIGURATION.format(root=tmp_path / "root", interface=interface)
    with hosting(tmp_path, text, mpm) as hosted:
        answer = hosted.get("/loud/a.txt")
        assert (answer.status, answer.body) == (203, b"<filter>HELLO"), hosted.log
        assert answer.getheader("Content-Type") == "text/x-loud"
        assert answer.getheader("X-By") == interface
        assert answer.getheader("ETag") is None and answer.getheader("Last-Modified") is None
        assert hosted.get("/loud/large.txt").body == b"<filter>" + b"X" * 300_000
        assert hosted.request("HEAD", "/loud/a.txt").body == b""  # type: ignore[attr-defined]
        assert hosted.get("/loud/none.txt").status == 404, "errors pass it as they are"
        assert hosted.get("/quiet/a.txt").body == b"hello"
