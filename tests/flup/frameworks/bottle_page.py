"""Bottle: bottle_page.py ADDRESS.  bottle.run() drives flup."""

import sys

import bottle
from waiting import wait_in

app = bottle.Bottle()


@app.get("/hello/<who>")
def hello(who: str) -> str:
    return f"hello {who}, {bottle.request.query.greeting}"


@app.post("/form")
def form() -> str:
    return f"got {bottle.request.forms.name}"


@app.post("/echo")
def echo() -> bytes:
    bottle.response.content_type = "application/octet-stream"
    return bottle.request.body.read()


@app.get("/wait")
def wait() -> str:
    return wait_in(bottle.request.query.directory)


address = sys.argv[1]
if "/" in address:
    bottle.run(app, server="flup", bindAddress=address)
else:
    host, port = address.split(":")
    bottle.run(app, server="flup", host=host, port=int(port))
