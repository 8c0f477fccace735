"""Which calling convention an application speaks, over the zoo of what frameworks hand out."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import pytest

from sapi_adapters.sapi import interface_of


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    return []


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    pass


def asgi2(scope: Any) -> Any:
    async def instance(receive: Any, send: Any) -> None:
        pass

    return instance


def generator(environ: Any, start_response: Any) -> Any:
    yield b""


def configured(config: Any, environ: Any, start_response: Any) -> list[bytes]:
    return []


async def aconfigured(config: Any, scope: Any, receive: Any, send: Any) -> None:
    pass


def anything(*arguments: Any, **options: Any) -> Any:
    return []


class Wsgi:
    def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
        return []

    def method(self, environ: Any, start_response: Any) -> list[bytes]:
        return []

    async def amethod(self, scope: Any, receive: Any, send: Any) -> None:
        pass

    @classmethod
    def for_class(cls, environ: Any, start_response: Any) -> list[bytes]:
        return []

    @staticmethod
    def static(environ: Any, start_response: Any) -> list[bytes]:
        return []

    @classmethod
    async def afor_class(cls, scope: Any, receive: Any, send: Any) -> None:
        pass

    def scope_method(self, scope: Any) -> Any:
        pass


class Asgi:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        pass


class AsgiChild(Asgi):
    pass


class Asgi2:
    """Old two-step ASGI as Channels 2 and Starlette 0.11 had it: the class is the application."""

    def __init__(self, scope: Any) -> None:
        pass

    async def __call__(self, receive: Any, send: Any) -> None:
        pass


class Asgi2Instance:
    def __call__(self, scope: Any) -> Any:
        pass


class WsgiClass:
    """PEP 3333's own example of a class as the application."""

    def __init__(self, environ: Any, start_response: Any) -> None:
        pass

    def __iter__(self) -> Any:
        return iter(())


class Slotted:
    __slots__ = ()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        pass


def decorated(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return function(*arguments)

    return wrapper


def marked(function: Any) -> Any:
    """Mark as ``inspect.markcoroutinefunction`` does from Python 3.12 on."""
    if hasattr(inspect, "markcoroutinefunction"):
        return inspect.markcoroutinefunction(function)
    function._is_coroutine_marker = object()
    return function


ZOO = {
    "a function": (wsgi, "wsgi"),
    "a generator function": (generator, "wsgi"),
    "a function of any arguments": (anything, "wsgi"),
    "a coroutine function": (asgi, "asgi"),
    "a function of the scope": (asgi2, "asgi2"),
    "a lambda": (lambda environ, start_response: [], "wsgi"),
    "a partial": (functools.partial(configured, 1), "wsgi"),
    "a partial of a coroutine function": (functools.partial(aconfigured, 1), "asgi"),
    "a partial of a partial": (
        functools.partial(functools.partial(aconfigured), 1),
        "asgi",
    ),
    "a partial of an instance": (functools.partial(Asgi()), "asgi"),
    "a bound method": (Wsgi().method, "wsgi"),
    "a bound coroutine method": (Wsgi().amethod, "asgi"),
    "a bound method of the scope": (Wsgi().scope_method, "asgi2"),
    "a partial of a bound coroutine method": (functools.partial(Wsgi().amethod), "asgi"),
    "a class method": (Wsgi.for_class, "wsgi"),
    "a coroutine class method": (Wsgi.afor_class, "asgi"),
    "a static method": (Wsgi.static, "wsgi"),
    "an instance": (Wsgi(), "wsgi"),
    "an instance with a coroutine __call__": (Asgi(), "asgi"),
    "an instance of a subclass": (AsgiChild(), "asgi"),
    "an instance with slots": (Slotted(), "asgi"),
    "an instance of the scope": (Asgi2Instance(), "asgi2"),
    "a class whose instances are iterated": (WsgiClass, "wsgi"),
    "a class whose instances are awaited": (Asgi2, "asgi2"),
    "a wrapper with the name of a coroutine function": (decorated(wsgi), "wsgi"),
    "a marked function": (marked(decorated(asgi)), "asgi"),
    "a marked instance": (marked(Wsgi()), "asgi"),
    "a builtin": (print, "wsgi"),
}


@pytest.mark.parametrize("name", ZOO)
def test_the_interface_is_found_out(name):
    application, interface = ZOO[name]
    assert interface_of(application) == interface


def test_asgirefs_mark_counts_on_every_python():
    sync = pytest.importorskip("asgiref.sync")
    assert interface_of(sync.markcoroutinefunction(decorated(asgi))) == "asgi"
    middleware = Wsgi()
    sync.markcoroutinefunction(middleware)
    assert interface_of(middleware) == "asgi"


def test_flask():
    flask = pytest.importorskip("flask")
    app = flask.Flask("zoo")
    assert interface_of(app) == interface_of(app.wsgi_app) == "wsgi"


def test_starlette_and_fastapi():
    applications = pytest.importorskip("starlette.applications")
    fastapi = pytest.importorskip("fastapi")
    app = fastapi.FastAPI()
    assert interface_of(applications.Starlette()) == interface_of(app) == "asgi"
    assert interface_of(app.router) == interface_of(app.router.app) == "asgi"


def test_django():
    pytest.importorskip("django")
    from django.conf import settings

    if not settings.configured:
        settings.configure(SECRET_KEY="x", ALLOWED_HOSTS=["*"])
    from django.core.handlers.asgi import ASGIHandler
    from django.core.handlers.wsgi import WSGIHandler

    assert interface_of(WSGIHandler()) == "wsgi"
    assert interface_of(ASGIHandler()) == "asgi"


def test_asgirefs_adapter_of_a_wsgi_application():
    adapter = pytest.importorskip("asgiref.wsgi")
    assert interface_of(adapter.WsgiToAsgi(wsgi)) == "asgi"
