"""A SAPI of somebody else's: each line of standard input is a request, ``METHOD /path?query``.

Try: printf 'GET /\nDELETE /nowhere\n' | python lines.py
"""

import sys

from sapi_adapters import ConfigurationError, Exchange, Sapi, run
from sapi_adapters.names import SAPIS
from sapi_adapters.protocols.cgi import mend


class LineExchange(Exchange):
    post_ended = True  # a line has no body

    def __init__(self, sapi, line):
        method, _, target = line.partition(" ")
        path, _, query = target.partition("?")
        self.sapi = sapi
        self.environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query}
        mend(self.environ, "")  # fills in what the standards want, and judges

    def read_post(self, size):
        return b""

    def send_headers(self, status, headers):
        self.ub_write(f"{status}\n".encode("latin-1"))

    def ub_write(self, data):
        sys.stdout.buffer.write(data)

    def flush(self):
        sys.stdout.buffer.flush()

    finish = cut = flush


class Lines(Sapi):
    name = "lines"
    pretty_name = "lines of standard input"

    def run(self, load):
        self.module_startup()
        try:
            self.child_startup()
            gateway = load()
            if gateway.asynchronous:
                raise ConfigurationError("lines serves WSGI applications only")
            cycle = self.bind(gateway)
            for line in sys.stdin:
                cycle(LineExchange(self, line.strip()))
        finally:
            self.module_shutdown()
        return 0


if __name__ == "__main__":
    SAPIS["lines"] = "lines:Lines"  # a package of its own has an entry point instead
    sys.exit(run("app:application", "lines"))
