"""Embedding: an ordinary program asks an application, without sockets or processes.

Run it beside this file: python program.py
"""

from sapi_adapters import Embed, sapi_name


def application(environ, start_response):
    size = len(environ["wsgi.input"].read())
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    yield f"{sapi_name()} read {size} bytes\n".encode()
    yield b"and sends a second piece\n"


def main():
    print("before:", sapi_name())
    with Embed(application) as host:
        response = host.request("POST", "/", headers=[("Accept", "text/plain")], body=b"hello")
        print(response.status, response.reason, response.header("content-type"))
        print(response.text, end="")
        for piece in host.stream("GET", "/"):  # each piece as the application makes it
            print("piece:", piece.decode().rstrip())
    print("after:", sapi_name())


if __name__ == "__main__":
    main()
