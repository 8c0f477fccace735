#!/usr/bin/env python
"""As the documentation of flup's SCGI server has it: status 42 asks to be started again."""

import os
import sys

from flup.server.scgi import WSGIServer


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield str(os.getpid())


ret = WSGIServer(app, bindAddress=sys.argv[1]).run()
sys.exit((ret and 42) or 0)
