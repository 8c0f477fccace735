"""The demonstration's extension: notes when each step of the life cycle was reached.

What the page shows about start-up and requests comes from here; the application finds the record
of its own request in a context variable, which WSGI's threads and ASGI's tasks have alike.
"""

import os
import time
from contextvars import ContextVar

current = ContextVar("current")


class Lifecycle:
    started = None
    master = None
    requests = 0

    def module_startup(self, sapi):
        self.started = time.time()
        self.master = os.getpid()
        self.pretty_name = sapi.pretty_name

    def request_startup(self, exchange):
        self.requests += 1
        current.set(
            {
                "pretty_name": self.pretty_name,
                "started": self.started,
                "master": self.master,
                "worker": os.getpid(),
                "request": self.requests,
                "began": time.time(),
                "settings": exchange.environ.get("sapi.settings", {}),
            }
        )

    def module_shutdown(self, sapi):
        sapi.log_message(f"demonstration: {self.requests} requests in this process", "info")


lifecycle = Lifecycle()
