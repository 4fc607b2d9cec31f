"""Hits in Redis: calls per second of a cached function whose value is in a real Valkey server, on loopback.

"redis-py GET" is what nobody can do without: the client's GET and the decoding of the value, here with our own codec, and no
protection whatever. dogpile, cashews and aiocache are used through their decorators, with their usual serializers (pickle).

Ours has a local layer that keeps nothing, or Redis would be asked once. All else is as in an application: a key made from the
arguments, one trip that also brings the clock and the head of the log, an envelope that is judged against the log, the typed value.

Run it: ``python -m benchmarks --only redis_hit``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from types import MappingProxyType
from typing import Any, Final

from benchmarks.measure import JAKARTA, OURS, Bench, Contestant, Field, Pace, Store, computed, only_hits, peer, scaled
from benchmarks.server import Server, valkey
from cachesync import Cache, Policy
from cachesync.core.entry import Held
from cachesync.layers.codecs import codec_for
from cachesync.protocols import Usage

BARE: Final = "redis-py GET"
KEYS: Final = 100
TASKS: Final = 50
ROWS: Final = {"def": 0, "async def, 1 task": 1, f"async def, {TASKS} tasks": TASKS}
FULL: Final = Pace(rounds=20, seconds=0.12)
QUICK: Final = Pace(rounds=4, seconds=0.05)

Function = Callable[[int], Any]


class EmptyShelf:
    """Has nothing, whatever it is given."""

    hits = 0
    copies: Mapping[Hashable, Held] = MappingProxyType({})

    def put(self, raw: Hashable, held: Held) -> Held:
        return held

    def drop(self, raw: Hashable) -> bool:
        return False

    def __iter__(self) -> Iterator[Held]:
        return iter(())

    def __len__(self) -> int:
        return 0


class NoMemory:
    """A local layer that keeps nothing: every call goes to Redis."""

    def shelf(self) -> EmptyShelf:
        return EmptyShelf()

    def clear(self) -> None:
        pass

    def usage(self) -> Usage:
        return Usage(0, 0, 0, 0, 0)


def _value(number: int) -> Store:
    """The function behind every cache."""
    computed["calls"] += 1
    return replace(JAKARTA, visits=number)


# --- def ------------------------------------------------------------------------------------------------------------------------------


def _ours(server: Server, bench: Bench) -> Function:
    cache = _cache(server)
    bench.close(cache.close)

    @cache.cached("stores:{number}")
    def store(number: int) -> Store:
        return _value(number)

    return store


def _cache(server: Server) -> Cache:
    policy = Policy(name="stores", match="stores:*", ttl="1h")
    return Cache(policies=[policy], redis=server.url, namespace="ours", local=NoMemory())


def _bare(server: Server, bench: Bench) -> Function:
    client = peer("redis").Redis(host="127.0.0.1", port=server.port)
    bench.close(client.close)
    codec = codec_for(Store)
    for number in range(KEYS):
        client.set(f"bare:{number}", codec.encode(_value(number)))

    def store(number: int) -> Any:
        return codec.decode(client.get(f"bare:{number}"))

    return store


def _dogpile(server: Server, bench: Bench) -> Function:
    region = peer("dogpile.cache").make_region()
    region.configure("dogpile.cache.redis", expiration_time=3600, arguments={"host": "127.0.0.1", "port": server.port})
    bench.close(region.backend.reader_client.close)
    cached: Function = region.cache_on_arguments()(_value)
    return cached


def _in_turn(store: Function) -> Contestant:
    def spend(calls: int) -> float:
        numbers = list(islice(cycle(range(KEYS)), calls))
        begun = time.perf_counter()
        for number in numbers:
            store(number)
        return time.perf_counter() - begun

    return spend


# --- async def ------------------------------------------------------------------------------------------------------------------------


def _ours_async(server: Server, bench: Bench) -> Function:
    cache = _cache(server)
    bench.aclose(cache.aclose)

    @cache.cached("stores:{number}")
    async def store(number: int) -> Store:
        return _value(number)

    return store


def _bare_async(server: Server, bench: Bench) -> Function:
    _bare(server, bench)  # it stores the values
    client = peer("redis.asyncio").Redis(host="127.0.0.1", port=server.port)
    bench.aclose(client.aclose)
    codec = codec_for(Store)

    async def store(number: int) -> Any:
        return codec.decode(await client.get(f"bare:{number}"))

    return store


async def _computed(number: int) -> Store:
    return _value(number)


def _cashews(server: Server, bench: Bench) -> Function:
    cache = peer("cashews").Cache()
    cache.setup(server.url, max_connections=TASKS)  # with fewer it computes whenever none is free
    bench.aclose(cache.close)
    cached: Function = cache(ttl="1h", key="cashews:{number}")(_computed)
    return cached


def _aiocache(server: Server, bench: Bench) -> Function:
    redis_cache = peer("aiocache.backends.redis").RedisCache
    pickled = peer("aiocache.serializers").PickleSerializer()
    decorate = peer("aiocache").cached(ttl=3600, cache=redis_cache, serializer=pickled, endpoint="127.0.0.1", port=server.port)
    cached: Function = decorate(_computed)
    bench.aclose(decorate.cache.close)
    return cached


def _in_tasks(store: Callable[[int], Awaitable[Any]], tasks: int, runner: asyncio.Runner) -> Contestant:
    async def one(numbers: list[int]) -> None:
        for number in numbers:
            await store(number)

    async def spend(calls: int) -> float:
        each = -(-calls // tasks)
        lists = [list(islice(cycle(range(task, KEYS, tasks)), each)) for task in range(tasks)]  # no two tasks ask for the same
        begun = time.perf_counter()
        if tasks == 1:
            await one(lists[0])
        else:
            await asyncio.gather(*map(one, lists))
        return (time.perf_counter() - begun) * calls / (each * tasks)

    return lambda calls: runner.run(spend(calls))


DEF: Final = {OURS: _ours, BARE: _bare, "dogpile": _dogpile}
ASYNC_DEF: Final = {OURS: _ours_async, BARE: _bare_async, "cashews": _cashews, "aiocache": _aiocache}


# --- the rows -------------------------------------------------------------------------------------------------------------------------


def run(*, quick: bool = False) -> dict[str, Any]:
    """``{"unit", "rows": {row: {contestant: {"best", "median"}}}, "server", "missing": [line]}``, calls per second."""
    pace = QUICK if quick else FULL
    field = Field()
    with ExitStack() as stack:
        server = stack.enter_context(valkey())
        bench = Bench(stack)
        functions, async_functions = (
            field.enter({name: partial(make, server, bench) for name, make in makers.items()}) for makers in (DEF, ASYNC_DEF)
        )
        rows: dict[str, dict[str, Contestant]] = {}
        for row, tasks in ROWS.items():
            contestants = {name: _in_turn(store) for name, store in functions.items()}
            if tasks:
                contestants = {name: _in_tasks(store, tasks, bench.runner) for name, store in async_functions.items()}
            rows[row] = {name: only_hits(each, warm_up=2 * KEYS * max(1, tasks)) for name, each in contestants.items()}
        figures = field.take_turns(rows, pace)
    return {"unit": "calls/s", "rows": scaled(figures, lambda seconds: 1 / seconds), "server": server.version, "missing": field.missing}
