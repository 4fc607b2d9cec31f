"""Hits in local memory: nanoseconds of a call whose result is held by this process.

Each library is used through its decorator, with a lifetime of an hour where it knows lifetimes; cachetools gets the lock that threads
need. The value is a frozen dataclass, so that no library copies it. The loop around the calls counts for everyone;
"bare await" is the loop and a coroutine that returns.

Two threads (or two event loops, each in a thread of its own) share the interpreter: together they can be as fast as one, and each then
takes twice as long. What is above that, they do to each other.

Run it: ``python -m benchmarks --only local_hit``.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
import timeit
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from itertools import repeat
from typing import Any, Final, cast

from benchmarks.measure import JAKARTA, OURS, Bench, Contestant, Field, Figures, Pace, Store, computed, only_hits, peer, scaled
from cachesync import Cache, Policy

BARE: Final = "bare await"
FULL: Final = Pace(rounds=40, seconds=0.015)
QUICK: Final = Pace(rounds=8, seconds=0.004)
CAPACITY: Final = 1_000
HOUR: Final = 3_600

Decorate = Callable[[Any], Any]


def plain(a: int) -> Store:
    """Called as ``f(1)``."""
    computed["calls"] += 1
    return JAKARTA


def keyword(a: int, x: str = "b") -> Store:
    """Called as ``f(1, x="a")``."""
    computed["calls"] += 1
    return JAKARTA


async def aplain(a: int) -> Store:
    """Awaited as ``f(1)``."""
    computed["calls"] += 1
    return JAKARTA


async def akeyword(a: int, x: str = "b") -> Store:
    """Awaited as ``f(1, x="a")``."""
    computed["calls"] += 1
    return JAKARTA


async def _bare(a: int, x: str = "b") -> Store:
    return JAKARTA


# --- the libraries --------------------------------------------------------------------------------------------------------------------


def _ours(bench: Bench) -> Decorate:
    cache = Cache(policies=[Policy(name="all", match="*", ttl="1h")])
    bench.close(cache.close)

    def decorate(function: Any) -> Any:
        arguments = ":".join(f"{{{name}}}" for name in inspect.signature(function).parameters)
        cached: Any = cast("Any", cache.cached(f"{function.__name__}:{arguments}"))(function)
        return cached

    return decorate


def _lru_cache(bench: Bench) -> Decorate:
    decorate: Decorate = peer("functools").lru_cache(maxsize=CAPACITY)
    return decorate


def _cachetools(bench: Bench) -> Decorate:
    cachetools = peer("cachetools")

    def decorate(function: Any) -> Any:
        return cachetools.cached(cachetools.TTLCache(CAPACITY, ttl=HOUR), lock=threading.Lock())(function)

    return decorate


def _cachebox(bench: Bench) -> Decorate:
    cachebox = peer("cachebox")

    def decorate(function: Any) -> Any:
        return cachebox.cached(cachebox.TTLCache(CAPACITY, HOUR))(function)

    return decorate


def _theine(bench: Bench) -> Decorate:
    memoize = peer("theine").Memoize

    def decorate(function: Any) -> Any:
        how = memoize(CAPACITY, timedelta(hours=1))
        bench.close(how.cache.close)
        return how(function)

    return decorate


def _dogpile(bench: Bench) -> Decorate:
    region = peer("dogpile.cache").make_region().configure("dogpile.cache.memory", expiration_time=HOUR)
    keys = peer("dogpile.cache.util").kwarg_function_key_generator  # the usual one refuses keywords
    decorate: Decorate = region.cache_on_arguments(function_key_generator=keys)
    return decorate


def _aiocache(bench: Bench) -> Decorate:
    cached = peer("aiocache").cached
    return lambda function: cached(ttl=HOUR, namespace=function.__name__)(function)


def _cashews(bench: Bench) -> Decorate:
    cache = peer("cashews").Cache()
    cache.setup("mem://", size=CAPACITY)
    bench.aclose(cache.close)
    decorate: Decorate = cache(ttl=HOUR)
    return decorate


def _async_lru(bench: Bench) -> Decorate:
    decorate: Decorate = peer("async_lru").alru_cache(maxsize=CAPACITY, ttl=HOUR)
    return decorate


DEF: Final = {
    OURS: _ours,
    "lru_cache": _lru_cache,
    "cachetools": _cachetools,
    "cachebox": _cachebox,
    "theine": _theine,
    "dogpile": _dogpile,
}
ASYNC_DEF: Final = {
    OURS: _ours,
    "async_lru": _async_lru,
    "cachebox": _cachebox,
    "theine": _theine,
    "aiocache": _aiocache,
    "cashews": _cashews,
}


# --- calling --------------------------------------------------------------------------------------------------------------------------


def _calls(function: Any, statement: str) -> Contestant:
    timer = timeit.Timer(statement, globals={"f": function})
    return timer.timeit


async def _await_plain(function: Callable[[int], Awaitable[Any]], calls: int) -> float:
    begun = time.perf_counter()
    for _ in repeat(None, calls):
        await function(1)
    return time.perf_counter() - begun


async def _await_keyword(function: Callable[..., Awaitable[Any]], calls: int) -> float:
    begun = time.perf_counter()
    for _ in repeat(None, calls):
        await function(1, x="a")
    return time.perf_counter() - begun


def _awaits(function: Any, how: Callable[[Any, int], Coroutine[Any, Any, float]], runner: asyncio.Runner) -> Contestant:
    return lambda calls: runner.run(how(function, calls))


def _by_two(one: Contestant, other: Contestant) -> Contestant:
    """Two threads at once, each with half of the calls. The seconds that both together took."""

    def spend(calls: int) -> float:
        failures: list[BaseException] = []
        barrier = threading.Barrier(3)

        def work(contestant: Contestant) -> None:
            barrier.wait()
            try:
                contestant(calls // 2 or 1)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(each,)) for each in (one, other)]
        for thread in threads:
            thread.start()
        barrier.wait()
        begun = time.perf_counter()
        for thread in threads:
            thread.join()
        spent = time.perf_counter() - begun
        if failures:
            raise failures[0]
        return spent

    return spend


def _cached(function: Any, make: Callable[[Bench], Decorate], bench: Bench) -> Any:
    return make(bench)(function)


def run(*, quick: bool = False) -> dict[str, Any]:
    """``{"unit", "rows": {row: {contestant: {"best", "median"}}}, "missing": [line]}``, nanoseconds per call.

    For two threads it is the time in which both together make one call.
    """
    pace = QUICK if quick else FULL
    field = Field()
    with ExitStack() as stack:
        bench = Bench(stack)
        runner, second = bench.runner, stack.enter_context(asyncio.Runner())

        def cached(function: Any, makers: Mapping[str, Callable[[Bench], Decorate]]) -> dict[str, Any]:
            return field.enter({name: partial(_cached, function, make, bench) for name, make in makers.items()})

        f, g = cached(plain, DEF), cached(keyword, DEF)
        af, ag = ({BARE: _bare} | cached(function, ASYNC_DEF) for function in (aplain, akeyword))
        two = {BARE: _bare} | cached(aplain, ASYNC_DEF)  # functions of their own: some forget everything when the loop changes
        figures: Figures = {}
        for rows in (
            {
                "def, f(1)": {name: _calls(each, "f(1)") for name, each in f.items()},
                "def, f(1), 2 threads": {name: _by_two(_calls(each, "f(1)"), _calls(each, "f(1)")) for name, each in f.items()},
                'def, f(1, x="a")': {name: _calls(each, 'f(1, x="a")') for name, each in g.items()},
            },
            {
                "async def, f(1)": {name: _awaits(each, _await_plain, runner) for name, each in af.items()},
                "async def, f(1), 2 threads": {
                    name: _by_two(_awaits(each, _await_plain, runner), _awaits(each, _await_plain, second)) for name, each in two.items()
                },
                'async def, f(1, x="a")': {name: _awaits(each, _await_keyword, runner) for name, each in ag.items()},
            },
        ):
            checked = {row: {name: only_hits(each, warm_up=200) for name, each in ones.items()} for row, ones in rows.items()}
            figures |= field.take_turns(checked, pace)
    return {"unit": "ns", "rows": scaled(figures, lambda seconds: seconds * 1e9), "missing": field.missing}
