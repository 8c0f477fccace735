"""CherryPy: cherrypy_page.py PROTOCOL [ADDRESS].  Its engine runs flup in a thread and stops it."""

import os
import sys

import cherrypy
from cherrypy.process import servers
from waiting import wait_in

SERVERS = {"fcgi": servers.FlupFCGIServer, "scgi": servers.FlupSCGIServer}


class Page:
    @cherrypy.expose
    def hello(self, who: str, greeting: str) -> str:
        return f"hello {who}, {greeting}"

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def form(self, name: str) -> str:
        return f"got {name}"

    @cherrypy.expose
    @cherrypy.config(**{"request.process_request_body": False})
    @cherrypy.tools.allow(methods=["POST"])
    def echo(self) -> bytes:
        cherrypy.response.headers["Content-Type"] = "application/octet-stream"
        return cherrypy.request.body.fp.read()

    @cherrypy.expose
    def wait(self, directory: str) -> str:
        return wait_in(directory)


protocol, *rest = sys.argv[1:]
address = None
if rest:
    host, _, port = rest[0].partition(":")
    address = (host, int(port)) if port else host

cherrypy.config.update({"engine.autoreload.on": False, "log.screen": protocol != "cgi"})
# CherryPy looks at whole paths: under CGI its applications are below the script.
cherrypy.tree.mount(Page(), os.environ.get("SCRIPT_NAME", "/"))
cherrypy.server.unsubscribe()
if protocol == "cgi":
    # One request, in the main thread; there is nothing to wait for and nothing to stop.
    servers.FlupCGIServer(application=cherrypy.tree).start()
else:
    server = SERVERS[protocol](application=cherrypy.tree, bindAddress=address)
    servers.ServerAdapter(cherrypy.engine, httpserver=server, bind_addr=address).subscribe()
    cherrypy.engine.signals.subscribe()
    cherrypy.engine.start()
    cherrypy.engine.block()
