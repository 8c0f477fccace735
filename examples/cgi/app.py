#!/usr/bin/env python3
"""The three-line script: serves wherever a web server starts it, and works out how by itself.

Apache's mod_cgi and mod_cgid and lighttpd's mod_cgi run it once for each request (``cgi``);
mod_fcgid, lighttpd's bin-path and spawn-fcgi leave it a listening socket (``fcgi-prefork``).
Make it executable, and let its first line name an interpreter that has sapi_adapters:
``#!/srv/app/venv/bin/python3``.
"""

from hello import application

from sapi_adapters import run

run(application)
