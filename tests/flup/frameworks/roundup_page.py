"""Roundup: roundup_page.py TRACKER PROTOCOL HOST:PORT, as its installation guide has it."""

import importlib
import sys

from roundup.cgi.wsgi_handler import RequestDispatcher

tracker, protocol, address = sys.argv[1:]
host, port = address.split(":")
options = {"scriptName": "/mount"} if protocol == "scgi" else {}
server = importlib.import_module(f"flup.server.{protocol}")
application = RequestDispatcher(tracker)
ret = server.WSGIServer(application, bindAddress=(host, int(port)), **options).run()
sys.exit((ret and 42) or 0)
