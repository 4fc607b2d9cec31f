"""The store dashboard on FastAPI: answers are cached, browsers ask with ETags, and a change is heard by all workers.

    uvicorn --app-dir examples fastapi_app:app
    curl -i -H "Authorization: Bearer let-me-in" localhost:8000/admin/stores/CGK

With CACHESYNC_REDIS_URL=redis://localhost:6379/0 workers share what they have computed.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import Body, Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from store_data import USERS, Database, Overview, Store, UserStats, VideoStats, code_in, failure, named, ok

from cachesync import Cache
from cachesync.asgi import CacheMiddleware

cache = Cache.from_file(Path(__file__).with_name("stores.toml"))
database = Database()


@cache.cached("lists:stores")
async def find_stores() -> list[Store]:
    return database.stores()


@cache.cached("stores:{code}")
async def find_store(code: str) -> Store | None:
    return database.store(code)


@cache.cached("stores:{code}:users")
async def find_user_stats(code: str) -> UserStats | None:
    return database.user_stats(code)


@cache.cached("stores:{code}:videos")
async def find_video_stats(code: str) -> VideoStats | None:
    return database.video_stats(code)


@cache.cached("analytics:overview")
async def find_overview() -> Overview:
    return database.overview()


@cache.invalidates("stores:{code}", "stores:*:users", "stores:{code}:videos", tags=["stores"])
async def sync_store(code: str) -> bool:
    """First commit, then invalidate: whoever asks after this has returned is not given what was before."""
    return database.sync(code)


def who(scope: Any) -> str | None:
    """Whose request it is: a 304 is said to nobody else, and before any handler runs."""
    return USERS.get(dict(scope["headers"]).get(b"authorization", b"").decode("latin-1"))


def logged_in(request: Request) -> None:
    if who(request.scope) is None:
        raise HTTPException(401, "send Authorization: Bearer let-me-in")


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    yield
    await cache.aclose()


app = FastAPI(title="Stores", lifespan=lifespan, dependencies=[Depends(logged_in)])
app.add_middleware(CacheMiddleware, cache=cache, identify=who)


@app.exception_handler(HTTPException)
async def say_why(_: Request, error: HTTPException) -> JSONResponse:
    return JSONResponse(failure("refused", error.detail), error.status_code)


def found(data: Any) -> dict[str, Any]:
    if data is None:
        raise HTTPException(404, "there is no such store")
    return ok(data)


@app.get("/admin/stores")
async def read_stores() -> dict[str, Any]:
    return found(await find_stores())


@app.get("/admin/stores/{code}")
async def read_store(code: str) -> dict[str, Any]:
    return found(await find_store(code))


@app.get("/admin/stores/{code}/user-stats")
async def read_user_stats(code: str) -> dict[str, Any]:
    return found(await find_user_stats(code))


@app.get("/admin/stores/{code}/video-stats")
async def read_video_stats(code: str) -> dict[str, Any]:
    return found(await find_video_stats(code))


@app.get("/admin/analytics/overview")
async def read_overview() -> dict[str, Any]:
    return found(await find_overview())


@app.post("/admin/sync")
async def sync(body: Annotated[Any, Body()]) -> dict[str, Any]:
    try:
        code = code_in(body)
    except ValueError as error:
        raise HTTPException(400, str(error)) from error
    return found(await sync_store(code) or None)


@app.post("/admin/cache/invalidate")
async def invalidate(body: Annotated[Any, Body()]) -> dict[str, Any]:
    try:
        patterns, tags = named(body)
    except ValueError as error:
        raise HTTPException(400, str(error)) from error
    return ok({"stamp": str(await cache.ainvalidate(*patterns, tags=tags))})


@app.get("/admin/cache/stats")
async def read_stats() -> dict[str, Any]:
    total = cache.stats().total
    return ok({"calls": total.calls, "computed": total.computed, "hit_rate": total.hit_rate})
