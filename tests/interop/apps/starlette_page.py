"""One Starlette page."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


async def hello(request: Request) -> JSONResponse:
    return JSONResponse(
        {
            "framework": "starlette",
            "name": request.path_params["name"],
            "query": request.query_params["q"],
            "body": (await request.body()).decode(),
            "mount": request.scope["root_path"],
        }
    )


app = Starlette(routes=[Route("/hello/{name}", hello, methods=["POST"])])
