"""Embedding in a program with an event loop: an ASGI application on the program's own loop.

Run it beside this file: python program_async.py
"""

import asyncio

from sapi_adapters import AsyncEmbed


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = await receive()
            print(event["type"])
            await send({"type": event["type"] + ".complete"})
            if event["type"] == "lifespan.shutdown":
                return
    await asyncio.sleep(0.01)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


async def main():
    async with AsyncEmbed(application) as host:
        responses = await asyncio.gather(*(host.request("GET", f"/{n}") for n in range(3)))
        for response in responses:
            print(response.status, response.text)


if __name__ == "__main__":
    asyncio.run(main())
