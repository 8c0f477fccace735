"""An extension: code around every request of whatever application, under whatever SAPI.

This one adds a ``Server-Timing`` header and counts. It is named to ``serve``, so that neither the
application nor the web server's configuration has to know of it::

    serve app:application --extension timing:timing --socket /tmp/app.sock
"""

import time


class Timing:
    """Measures from request start-up to the moment the response's head is sent."""

    def module_startup(self, sapi):
        """Runs once, in the master before it forks."""
        self.requests = 0

    def request_startup(self, exchange):
        began = time.perf_counter()

        def add_header(headers):
            spent = (time.perf_counter() - began) * 1000
            return [*headers, ("Server-Timing", f"app;dur={spent:.2f}")]

        exchange.header_handler = add_header

    def request_shutdown(self, exchange):
        """Runs always: after an exception of the application and after an abort, too."""
        self.requests += 1

    def module_shutdown(self, sapi):
        """Runs at the end of each process; every worker has counted for itself."""
        sapi.log_message(f"{self.requests} requests in this process", "notice")


timing = Timing()
