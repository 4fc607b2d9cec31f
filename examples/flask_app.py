"""The store dashboard on Flask: answers are cached, browsers ask with ETags, and a change is heard by all workers.

    flask --app examples/flask_app.py run
    curl -i -H "Authorization: Bearer let-me-in" localhost:5000/admin/stores/CGK

With CACHESYNC_REDIS_URL=redis://localhost:6379/0 workers share what they have computed.
"""

from typing import Any

from flask import Flask, abort, request
from store_data import USERS, code_in, failure, named, ok
from store_functions import cache, find_overview, find_store, find_stores, find_user_stats, find_video_stats, sync_store
from werkzeug.exceptions import HTTPException

from cachesync.wsgi import CacheMiddleware


def who(environ: dict[str, Any]) -> str | None:
    """Whose request it is: a 304 is said to nobody else, and before any view runs."""
    return USERS.get(environ.get("HTTP_AUTHORIZATION", ""))


app = Flask(__name__)
web: Any = app
web.wsgi_app = CacheMiddleware(app.wsgi_app, cache, identify=who)


@app.before_request
def logged_in() -> None:
    if who(request.environ) is None:
        abort(401, "send Authorization: Bearer let-me-in")


@app.errorhandler(HTTPException)
def say_why(error: HTTPException) -> tuple[dict[str, Any], int]:
    return failure("refused", error.description or ""), error.code or 500


def found(data: Any) -> dict[str, Any]:
    if data is None:
        abort(404, "there is no such store")
    return ok(data)


@app.get("/admin/stores")
def read_stores() -> dict[str, Any]:
    return found(find_stores())


@app.get("/admin/stores/<code>")
def read_store(code: str) -> dict[str, Any]:
    return found(find_store(code))


@app.get("/admin/stores/<code>/user-stats")
def read_user_stats(code: str) -> dict[str, Any]:
    return found(find_user_stats(code))


@app.get("/admin/stores/<code>/video-stats")
def read_video_stats(code: str) -> dict[str, Any]:
    return found(find_video_stats(code))


@app.get("/admin/analytics/overview")
def read_overview() -> dict[str, Any]:
    return found(find_overview())


@app.post("/admin/sync")
def sync() -> dict[str, Any]:
    try:
        code = code_in(request.get_json())
    except ValueError as error:
        abort(400, str(error))
    return found(sync_store(code) or None)


@app.post("/admin/cache/invalidate")
def invalidate() -> dict[str, Any]:
    try:
        patterns, tags = named(request.get_json())
    except ValueError as error:
        abort(400, str(error))
    return ok({"stamp": str(cache.invalidate(*patterns, tags=tags))})


@app.get("/admin/cache/stats")
def read_stats() -> dict[str, Any]:
    total = cache.stats().total
    return ok({"calls": total.calls, "computed": total.computed, "hit_rate": total.hit_rate})
