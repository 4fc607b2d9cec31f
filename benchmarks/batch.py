"""Batches: a function of many arguments is asked for 100 items at once, with a real Valkey server on loopback.

Two cases: all of them are in Redis, and half of them are nowhere. What is missing is computed in one call, which takes no time here, and
stored. aiocache has ``multi_cached``, dogpile ``cache_multi_on_arguments``; cashews has no decorator for it, so its ``get_many`` and
``set_many`` are called by hand. None of them takes leases or waits for others who compute the same, except for dogpile, which takes a
lock for each key in the process. "cachesync, f.many" is our own function of one item, asked for all of them.

Ours has a local layer that keeps nothing, as in ``redis_hit``. Run it: ``python -m benchmarks --only batch``.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, Final

from benchmarks.measure import JAKARTA, OURS, Bench, Contestant, Field, Pace, Store, computed, only_hits, peer, scaled
from benchmarks.redis_hit import NoMemory
from benchmarks.server import Server, valkey
from cachesync import Cache, Policy

ITEMS: Final = 100
ONE_BY_ONE: Final = f"{OURS}, f.many"
CASES: Final = {"all of them there": 0, "half of them missing": ITEMS // 2}
FULL: Final = Pace(rounds=20, seconds=0.2)
QUICK: Final = Pace(rounds=3, seconds=0.05)

Function = Callable[[list[int]], Any]


def _stores(numbers: list[int]) -> dict[int, Store]:
    """The function behind every cache."""
    computed["calls"] += 1
    return {number: replace(JAKARTA, visits=number) for number in numbers}


async def _stores_later(numbers: list[int]) -> dict[int, Store]:
    return _stores(numbers)


def _cache(server: Server, namespace: str) -> Cache:
    return Cache(policies=[Policy(name="stores", match="stores:*", ttl="1h")], redis=server.url, namespace=namespace, local=NoMemory())


# --- def ------------------------------------------------------------------------------------------------------------------------------


def _ours(server: Server, bench: Bench) -> Function:
    cache = _cache(server, "ours")
    bench.close(cache.close)
    return cache.cached_many("stores:{number}")(_stores)


def _one_by_one(server: Server, bench: Bench) -> Function:
    cache = _cache(server, "many")
    bench.close(cache.close)

    @cache.cached("stores:{number}")
    def store(number: int) -> Store:
        return _stores([number])[number]

    return lambda numbers: store.many((number,) for number in numbers)


def _dogpile(server: Server, bench: Bench) -> Function:
    region = peer("dogpile.cache").make_region()
    region.configure("dogpile.cache.redis", expiration_time=3600, arguments={"host": "127.0.0.1", "port": server.port})
    bench.close(region.backend.reader_client.close)

    def stores(*numbers: int) -> list[Store]:
        return list(_stores(list(numbers)).values())

    cached: Any = region.cache_multi_on_arguments()(stores)
    return lambda numbers: cached(*numbers)


def _in_turn(stores: Function, missing: int) -> Contestant:
    batches = _batches(missing)

    def spend(calls: int) -> float:
        asked = list(itertools.islice(batches, calls))
        begun = time.perf_counter()
        for numbers in asked:
            stores(numbers)
        return time.perf_counter() - begun

    return spend


def _batches(missing: int) -> Iterator[list[int]]:
    """What is asked for, batch by batch: ``missing`` of the numbers were never asked for before."""
    fresh = itertools.count(ITEMS)
    known = list(range(ITEMS - missing))
    while True:
        yield [*known, *itertools.islice(fresh, missing)]


# --- async def ------------------------------------------------------------------------------------------------------------------------


def _ours_async(server: Server, bench: Bench) -> Function:
    cache = _cache(server, "aours")
    bench.aclose(cache.aclose)
    return cache.cached_many("stores:{number}")(_stores_later)


def _one_by_one_async(server: Server, bench: Bench) -> Function:
    cache = _cache(server, "amany")
    bench.aclose(cache.aclose)

    @cache.cached("stores:{number}")
    async def store(number: int) -> Store:
        return _stores([number])[number]

    return lambda numbers: store.many((number,) for number in numbers)


def _aiocache(server: Server, bench: Bench) -> Function:
    redis_cache = peer("aiocache.backends.redis").RedisCache
    pickled = peer("aiocache.serializers").PickleSerializer()
    how = {"cache": redis_cache, "serializer": pickled, "namespace": "aiocache", "endpoint": "127.0.0.1", "port": server.port}
    decorate = peer("aiocache").multi_cached("numbers", ttl=3600, **how)
    cached: Function = decorate(_stores_later)
    bench.aclose(decorate.cache.close)
    return cached


def _cashews(server: Server, bench: Bench) -> Function:
    cache = peer("cashews").Cache()
    cache.setup(server.url)
    bench.aclose(cache.close)

    async def stores(numbers: list[int]) -> dict[int, Store]:
        found = dict(zip(numbers, await cache.get_many(*(f"cashews:{number}" for number in numbers)), strict=True))
        missing = [number for number, store in found.items() if store is None]
        if missing:
            made = await _stores_later(missing)
            await cache.set_many({f"cashews:{number}": store for number, store in made.items()}, expire=3600)
            found |= made
        return found

    return stores


def _in_loop(stores: Callable[[list[int]], Awaitable[Any]], missing: int, runner: asyncio.Runner) -> Contestant:
    batches = _batches(missing)

    async def spend(calls: int) -> float:
        asked = list(itertools.islice(batches, calls))
        begun = time.perf_counter()
        for numbers in asked:
            await stores(numbers)
        return time.perf_counter() - begun

    return lambda calls: runner.run(spend(calls))


DEF: Final = {OURS: _ours, ONE_BY_ONE: _one_by_one, "dogpile": _dogpile}
ASYNC_DEF: Final = {OURS: _ours_async, ONE_BY_ONE: _one_by_one_async, "aiocache": _aiocache, "cashews, by hand": _cashews}


# --- the rows -------------------------------------------------------------------------------------------------------------------------


def run(*, quick: bool = False) -> dict[str, Any]:
    """``{"unit", "rows": {row: {contestant: {"best", "median"}}}, "server", "missing": [line]}``, batches per second."""
    pace = QUICK if quick else FULL
    field = Field()
    with ExitStack() as stack:
        server = stack.enter_context(valkey())
        bench = Bench(stack)
        functions, async_functions = (
            field.enter({name: partial(make, server, bench) for name, make in makers.items()}) for makers in (DEF, ASYNC_DEF)
        )
        rows: dict[str, dict[str, Contestant]] = {}
        for case, missing in CASES.items():
            rows[f"def, {case}"] = {name: _in_turn(stores, missing) for name, stores in functions.items()}
            rows[f"async def, {case}"] = {name: _in_loop(stores, missing, bench.runner) for name, stores in async_functions.items()}
            if not missing:
                rows |= {row: {name: only_hits(one, warm_up=2) for name, one in ones.items()} for row, ones in rows.items()}
        figures = field.take_turns(rows, pace)
    return {"unit": "batches/s", "rows": scaled(figures, lambda seconds: 1 / seconds), "server": server.version, "missing": field.missing}
