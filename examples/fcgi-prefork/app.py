"""FastCGI, pre-forking: a master and several worker processes, one request at a time in each.

Start it beside this file, and put what it prints into nginx's configuration::

    serve app:application --sapi fcgi-prefork --socket /tmp/app.sock --workers 2

The same from Python is this file as a program::

    python app.py /tmp/app.sock
"""

import os
import sys

from sapi_adapters import run, sapi_name

served = 0  # in this worker only: processes share nothing


def application(environ, start_response):
    global served
    served += 1
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{sapi_name()}: request {served} of worker {os.getpid()}\n".encode()]


if __name__ == "__main__":
    sys.exit(run(application, "fcgi-prefork", socket=sys.argv[1], workers=2))
