"""One Flask page."""

from flask import Flask, request

app = Flask(__name__)


@app.post("/hello/<name>")
def hello(name: str) -> dict[str, str]:
    return {
        "framework": "flask",
        "name": name,
        "query": request.args["q"],
        "body": request.get_data(as_text=True),
        "mount": request.script_root,
    }
