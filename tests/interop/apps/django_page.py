"""One Django page, without a project around it."""

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, JsonResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["localhost", "127.0.0.1"], ROOT_URLCONF=__name__, SECRET_KEY="only a test"
)
django.setup()


def hello(request: HttpRequest, name: str) -> JsonResponse:
    return JsonResponse(
        {
            "framework": "django",
            "name": name,
            "query": request.GET["q"],
            "body": request.body.decode(),
            "mount": request.META["SCRIPT_NAME"],
        }
    )


urlpatterns = [path("hello/<str:name>", hello)]

app = WSGIHandler()
