"""One FastAPI page."""

from fastapi import FastAPI, Request

app = FastAPI()


@app.post("/hello/{name}")
async def hello(name: str, q: str, request: Request) -> dict[str, str]:
    return {
        "framework": "fastapi",
        "name": name,
        "query": q,
        "body": (await request.body()).decode(),
        "mount": request.scope["root_path"],
    }
