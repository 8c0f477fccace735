"""An application like any other: nothing in it knows about the SAPI beside it."""


def application(environ, start_response):
    known = environ["PATH_INFO"] == "/"
    start_response("200 OK" if known else "404 Not Found", [("Content-Type", "text/plain")])
    return [f"{environ['REQUEST_METHOD']} under {environ['sapi.name']}\n".encode()]
