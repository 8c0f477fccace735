"""FastCGI, threaded: one process whose threads serve requests side by side.

For applications that wait (for a database, for other services) and that are thread-safe::

    serve app:application --sapi fcgi-threaded --socket /tmp/app.sock --threads 8

The threads share the module's variables, so what they change needs a lock.
"""

import threading

from sapi_adapters import sapi_name

visits = 0
lock = threading.Lock()


def application(environ, start_response):
    global visits
    with lock:
        visits += 1
        mine = visits
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{sapi_name()}: visit {mine}, in {threading.current_thread().name}\n".encode()]
