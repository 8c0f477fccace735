"""web.py: webpy_page.py [fcgi|scgi [ADDRESS]].  application.run() finds out how to serve."""

import web
from waiting import wait_in

urls = ("/hello/(.*)", "Hello", "/form", "Form", "/echo", "Echo", "/wait", "Wait")


class Hello:
    def GET(self, who: str) -> str:
        return f"hello {who}, {web.input().greeting}"


class Form:
    def POST(self) -> str:
        return f"got {web.input().name}"


class Echo:
    def POST(self) -> bytes:
        web.header("Content-Type", "application/octet-stream")
        return web.data()


class Wait:
    def GET(self) -> str:
        return wait_in(web.input().directory)


app = web.application(urls, globals())

if __name__ == "__main__":
    app.run()
