"""Paste: an application factory, for an ini file that says `use = egg:flup#...` of its server."""

from paste.httpexceptions import HTTPNotFound
from paste.wsgiwrappers import WSGIRequest, WSGIResponse
from waiting import wait_in


def page(environ, start_response):
    request = WSGIRequest(environ)
    path = environ["PATH_INFO"].encode("latin-1").decode()
    kind = "text/plain; charset=utf-8"
    if path.startswith("/hello/"):
        content = f"hello {path[7:]}, {request.GET['greeting']}".encode()
    elif path == "/form" and request.method == "POST":
        content = f"got {request.POST['name']}".encode()
    elif path == "/echo" and request.method == "POST":
        kind = "application/octet-stream"
        content = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    elif path == "/wait":
        content = wait_in(request.GET["directory"]).encode()
    else:
        return HTTPNotFound(f"no {path} here")(environ, start_response)
    return WSGIResponse(content, kind)(environ, start_response)


def make_app(global_conf, **local_conf):
    return page
