"""The command line: one request, its response on standard output, an exit status.

Beside this file::

    serve app:application --sapi cli GET '/greet?name=Ada'
    serve app:application --sapi cli -i -d 'name=Ada' /greet     # POST, with the head
    serve app:application --sapi cli GET /missing || echo failed

The exit status is 0 for a response below 400 and 1 otherwise, so that a shell script, a cron job
or a monitor can ask an application directly, without a server in between.
"""

from urllib.parse import parse_qs


def application(environ, start_response):
    if environ["PATH_INFO"] != "/greet":
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"there is only /greet\n"]
    form = environ["QUERY_STRING"]
    if environ["REQUEST_METHOD"] == "POST":
        form = environ["wsgi.input"].read().decode()
    name = parse_qs(form).get("name", ["nobody"])[0]
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [f"Hello, {name}!\n".encode()]
