"""mod_demo: a module of the demonstration's own; httpd.conf loads it from this file.

It registers the demonstration's extension before the first process is made, and adds a table to
the status page.
"""

import os
import sys

from sapi_adapters import loaded_extensions, register_extension
from sapi_adapters.httpd.hooks import OK
from sapi_adapters.httpd.module import Module

NAME = "lifecycle:lifecycle"


def post_config(host):
    if host.pass_ == 2 and NAME not in loaded_extensions():
        sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
        from lifecycle import lifecycle

        register_extension(lifecycle, NAME)
    return OK


def status(request, page):
    from lifecycle import lifecycle

    page.add("Demonstration", [("Requests of this process", lifecycle.requests)])


def register(hooks):
    hooks.add("post_config", post_config)
    hooks.add("status_hook", status)


demo_module = Module("mod_demo", register_hooks=register)
