"""The application that the three-line script serves: plain WSGI, it knows of no server."""

from sapi_adapters import sapi_name


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{sapi_name()} serves {environ['PATH_INFO'] or '/'}\n".encode()]
