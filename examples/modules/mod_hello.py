"""A module of the host: a handler, directives, a hook and an output filter.

From this directory:

    serve -f httpd.conf
    curl -i http://127.0.0.1:8080/hello/Ada
    curl -i http://127.0.0.1:8080/loud/Ada

docs/host.md goes through it.
"""

from __future__ import annotations

from sapi_adapters.httpd.config import Parameters
from sapi_adapters.httpd.filters import RESOURCE, Brigade, FileBucket, Filter, OutputFilter
from sapi_adapters.httpd.hooks import DECLINED, OK, Hooks
from sapi_adapters.httpd.host import Host
from sapi_adapters.httpd.module import (
    ACCESS_CONF,
    ITERATE,
    OR_FILEINFO,
    RSRC_CONF,
    TAKE1,
    Command,
    Module,
    Settings,
    setter,
)
from sapi_adapters.httpd.records import Request


class Config(Settings):
    """What is configured for a section: the object has what was set, the class has the rest."""

    greeting = "Hello"
    unwelcome: frozenset[str] = frozenset()

    def merged(self, new: Config) -> Config:
        """The inner section has the last word about the greeting; the unwelcome add up."""
        result: Config = super().merged(new)
        result.unwelcome = self.unwelcome | new.unwelcome
        return result


def refuse(cmd: Parameters, config: Config, name: str) -> str | None:
    """HelloRefuse NAME ...: called for each name."""
    if not name.isalpha():
        return f"HelloRefuse: {name!r} is no name"  # an error, at the directive's file and line
    config.unwelcome = config.unwelcome | {name}  # replaced, not changed: objects share it
    return None


def name_in(r: Request) -> str:
    """Return who is greeted: the last part of the path."""
    return r.uri.rpartition("/")[2] or "World"


def check_access(r: Request) -> int:
    """Phase 4: forbid those that are not welcome."""
    config: Config = r.per_dir_config[hello_module]
    if config.unwelcome and name_in(r) in config.unwelcome:
        r.log(f"{name_in(r)} is not welcome", "info")
        return 403
    return DECLINED


def handler(r: Request) -> int:
    """Phase 9: answer where ``SetHandler hello`` stands."""
    if r.handler != "hello":
        return DECLINED
    if r.method not in ("GET", "HEAD"):
        r.allowed = frozenset(("GET", "HEAD"))
        return 405
    config: Config = r.per_dir_config[hello_module]
    r.content_type = "text/plain; charset=utf-8"
    greeting = config.greeting.encode()
    r.write(b"%s, %s!\n" % (greeting, name_in(r).encode("latin-1")))  # a URI's signs are bytes
    return OK


def loud(f: Filter, brigade: Brigade) -> None:
    """The output filter LOUD: ASCII letters become capitals."""
    f.request.headers_out.unset("Content-Length")
    made: Brigade = []
    for bucket in brigade:
        if isinstance(bucket, FileBucket):
            bucket = bucket.read()
        made.append(bucket.upper() if isinstance(bucket, bytes) else bucket)
    f.pass_on(made)


def check_config(host: Host) -> int:
    """The configuration is there: make the filter known."""
    host.register_output_filter(OutputFilter("LOUD", loud, RESOURCE))
    return OK


def register(hooks: Hooks) -> None:
    """Take part in these hooks."""
    hooks.add("check_config", check_config)
    hooks.add("access_checker", check_access)
    hooks.add("handler", handler)


hello_module = Module(
    "mod_hello",
    commands=(
        Command(
            "HelloGreeting",
            setter("greeting"),
            TAKE1,
            RSRC_CONF | ACCESS_CONF | OR_FILEINFO,
            "what is said before the name",
        ),
        Command("HelloRefuse", refuse, ITERATE, RSRC_CONF | ACCESS_CONF, "names"),
    ),
    create_dir_config=lambda path: Config(),
    merge_dir_config=Config.merged,
    register_hooks=register,
)
