#!/usr/bin/env python
"""The program that flup's users begin with."""

import sys

from flup.server.fcgi import WSGIServer


def myapp(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return ["Hello World!\n"]


WSGIServer(myapp, bindAddress=sys.argv[1] if len(sys.argv) > 1 else None).run()
