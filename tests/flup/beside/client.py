"""Calls a server through flup's clients: ``client.py KIND ADDRESS APP BODY``; prints JSON.

KIND: fcgi or scgi, "own" for a connection that a subclass makes, "unfiltered" for all variables.
"""

import io
import json
import socket
import sys

KIND, ADDRESS, APP, BODY = sys.argv[1:]

if KIND.startswith("scgi"):
    from flup.client.scgi_app import SCGIApp as App
else:
    from flup.client.fcgi_app import FCGIApp as App


class Own(App):
    def _getConnection(self):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(ADDRESS)
        return sock


said = {}


def start_response(status, headers, exc_info=None):
    text = [str(each, "latin-1") if isinstance(each, bytes) else each for each in sum(headers, ())]
    said.update(
        status=str(status, "latin-1") if isinstance(status, bytes) else status,
        headers=text,
        types=sorted({type(each).__name__ for each in (status, *sum(headers, ()))}),
    )


environ = {
    "REQUEST_METHOD": "POST" if BODY else "GET",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/",
    "QUERY_STRING": "x=1",
    "CONTENT_LENGTH": str(len(BODY)),
    "HTTP_TEST_APP": APP,
    "SERVER_NAME": "example.org",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REMOTE_ADDR": "192.0.2.1",
    "DOCUMENT_ROOT": "/srv",
    "lower": "case",
    "wsgi.input": io.BytesIO(BODY.encode()),
    "wsgi.errors": io.StringIO(),
    "wsgi.url_scheme": "http",
}
try:
    cls = Own if "own" in KIND else App
    app = cls(connect=ADDRESS, filterEnviron="unfiltered" not in KIND)
    said["body"] = b"".join(app(environ, start_response)).decode("latin-1")
    said["errors"] = environ["wsgi.errors"].getvalue()
except Exception as error:
    said["raised"] = type(error).__name__
print(json.dumps(said))
