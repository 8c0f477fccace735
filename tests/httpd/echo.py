"""The application of the hostile requests: it tells what it was given.

``/unread`` and all below it answers without reading the body; ``/status/204`` and ``/status/304``
answer with that status and no body.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer with what the request was, as JSON (WSGI)."""
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    if path in ("/status/204", "/status/304"):
        start_response(f"{path[8:]} Nothing", [])
        return []
    body = b"" if path.startswith("/unread") else environ["wsgi.input"].read()
    told = {
        "method": environ["REQUEST_METHOD"],
        "uri": environ.get("REQUEST_URI"),
        "path": path,
        "query": environ.get("QUERY_STRING", ""),
        "body": body.hex(),
        "headers": {name: value for name, value in environ.items() if name.startswith("HTTP_")},
    }
    data = json.dumps(told).encode()
    start_response(
        "200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(data)))]
    )
    return [data]
