"""An application that the extension beside it times: see timing.py."""

from sapi_adapters import loaded_extensions


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [f"extensions: {', '.join(loaded_extensions())}\n".encode()]
