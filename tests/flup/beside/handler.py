#!/usr/bin/env python
"""A server without WSGI, on the request objects of flup: ``handler.py PROTOCOL ADDRESS``."""

import sys

PROTOCOL, ADDRESS = sys.argv[1:]

if PROTOCOL == "fcgi":
    from flup.server.fcgi import WSGIServer as Base
    from flup.server.fcgi_base import FCGI_REQUEST_COMPLETE

    class Server(Base):
        def handler(self, req):
            body = req.stdin.read()
            req.stderr.write(b"beside: handled\n")
            req.stdout.write(b"Status: 200 OK\r\nContent-Type: text/plain\r\n\r\n")
            req.stdout.write(req.params["REQUEST_METHOD"].encode() + b" " + body)
            return FCGI_REQUEST_COMPLETE, 7

    address = ADDRESS
elif PROTOCOL == "scgi":
    from flup.server.scgi import WSGIServer as Base

    class Server(Base):
        def handler(self, request):
            body = request.stdin.read(int(request.environ["CONTENT_LENGTH"]))
            request.stdout.write(b"Status: 200 OK\r\nContent-Type: text/plain\r\n\r\n")
            request.stdout.write(request.environ["REQUEST_METHOD"].encode() + b" " + body)

    address = ADDRESS
else:
    from flup.server.ajp import WSGIServer as Base

    class Server(Base):
        def handler(self, request):
            body = request.input.read()
            request.startResponse(200, b"OK", [(b"Content-Type", b"text/plain")])
            request.write(request.environ["REQUEST_METHOD"].encode() + b" " + body)

    host, _, port = ADDRESS.rpartition(":")
    address = (host, int(port))

Server(None, bindAddress=address).run()
