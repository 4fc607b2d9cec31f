"""The store dashboard on Django: cached functions, Django's own cache, and its middleware are one cache.

    python examples/django_app.py runserver
    curl -i -H "Authorization: Bearer let-me-in" localhost:8000/admin/stores/CGK

With CACHESYNC_REDIS_URL=redis://localhost:6379/0 workers share what they have computed.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.cache import cache as django_cache
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.http import require_POST
from store_data import USERS, code_in, failure, named, ok
from store_functions import cache, find_overview, find_store, find_stores, find_user_stats, find_video_stats, sync_store


def who(request: HttpRequest) -> str | None:
    """Whose request it is: a 304 is said to nobody else, and before any view runs."""
    return USERS.get(request.headers.get("Authorization", ""))


def logged_in(get_response: Any) -> Any:
    """The middleware in front of all views."""
    refusal = failure("refused", "send Authorization: Bearer let-me-in")

    def answer(request: HttpRequest) -> Any:
        return get_response(request) if who(request) else JsonResponse(refusal, status=401)

    return answer


settings.configure(
    SECRET_KEY="not a secret: this is an example",
    DEBUG=False,
    ALLOWED_HOSTS=["localhost", "127.0.0.1"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["cachesync.django.middleware.CacheMiddleware", f"{__name__}.logged_in"],
    CACHES={"default": {"BACKEND": "cachesync.django.CachesyncCache", "LOCATION": cache}},
    CACHESYNC={"IDENTIFY": who},
)


def found(data: Any) -> JsonResponse:
    if data is None:
        return JsonResponse(failure("refused", "there is no such store"), status=404)
    return JsonResponse(ok(data), json_dumps_params={"default": vars})


@require_POST
def sync(request: HttpRequest) -> JsonResponse:
    try:
        code = code_in(json.loads(request.body))
    except ValueError as error:
        return JsonResponse(failure("refused", str(error)), status=400)
    django_cache.get_or_set("syncs", 0, timeout=None)
    django_cache.incr("syncs")  # exact, whichever worker counts
    return found(sync_store(code) or None)


@require_POST
def invalidate(request: HttpRequest) -> JsonResponse:
    try:
        patterns, tags = named(json.loads(request.body))
    except ValueError as error:
        return JsonResponse(failure("refused", str(error)), status=400)
    return found({"stamp": str(cache.invalidate(*patterns, tags=tags))})


def read_stats(_: HttpRequest) -> JsonResponse:
    total = cache.stats().total
    return found({"calls": total.calls, "computed": total.computed, "hit_rate": total.hit_rate, "syncs": django_cache.get("syncs", 0)})


def shows(find: Callable[..., Any]) -> Callable[..., JsonResponse]:
    """A view of what a cached function finds."""

    def view(_: HttpRequest, **of: str) -> JsonResponse:
        return found(find(**of))

    return view


urlpatterns = [
    path("admin/stores", shows(find_stores)),
    path("admin/stores/<code>", shows(find_store)),
    path("admin/stores/<code>/user-stats", shows(find_user_stats)),
    path("admin/stores/<code>/video-stats", shows(find_video_stats)),
    path("admin/analytics/overview", shows(find_overview)),
    path("admin/sync", sync),
    path("admin/cache/invalidate", invalidate),
    path("admin/cache/stats", read_stats),
]
application = get_wsgi_application()

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
