"""A FastAPI application whose endpoints are cached, with an administrator's route that puts the copies out of date.

    uvicorn --app-dir examples fastapi_app:app

With CACHESYNC_REDIS_URL=redis://localhost:6379/0 workers share their results, and a change at one is heard by all.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from cachesync import Cache


class Store(BaseModel):
    code: str
    city: str
    region: str
    visitors: int


class Change(BaseModel):
    visitors: int


# Stands for your database, which several workers would share.
DATABASE = {
    "CGK": Store(code="CGK", city="Jakarta", region="java", visitors=48),
    "SUB": Store(code="SUB", city="Surabaya", region="java", visitors=17),
    "DPS": Store(code="DPS", city="Denpasar", region="bali", visitors=24),
}

cache = Cache.from_file(Path(__file__).with_name("stores.toml"))


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    yield
    await cache.aclose()


app = FastAPI(title="Stores", lifespan=lifespan)


@cache.cached("stores:{code}")
async def find_store(code: str) -> Store | None:
    return DATABASE.get(code)


@cache.cached("regions:{region}:visitors")
async def count_visitors(region: str) -> int:
    return sum(store.visitors for store in DATABASE.values() if store.region == region)


@app.get("/stores/{code}")
async def read_store(code: str) -> Store:
    store = await find_store(code)
    if store is None:
        raise HTTPException(404, f"there is no store {code}")
    return store


@app.get("/regions/{region}/visitors")
async def read_visitors(region: str) -> int:
    return await count_visitors(region)


@app.put("/admin/stores/{code}")
async def change_store(code: str, change: Change) -> dict[str, str]:
    """First commit, then invalidate: whoever asks after this has returned is not given what was before."""
    if code not in DATABASE:
        raise HTTPException(404, f"there is no store {code}")
    DATABASE[code] = DATABASE[code].model_copy(update={"visitors": change.visitors})
    stamp = await cache.ainvalidate(find_store.key(code), tags=["stores"])
    return {"stamp": str(stamp)}


@app.get("/admin/cache")
async def read_cache() -> dict[str, float]:
    total = cache.stats().total
    return {"calls": total.calls, "computed": total.computed, "hit_rate": total.hit_rate}
