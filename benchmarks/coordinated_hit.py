"""What keeping in step costs a local hit: a cache with Redis, whose log reader runs, beside one that has no shared layer.

Nanoseconds of a call whose result is held by this process, of the same function in both caches. A coordinated copy is trusted only so
long as the log was heard, so now and then a hit renews it; that is part of the price. In "while 100 others are invalidated each second"
another process does that, and each time the copy has to be judged once before it is served again; beside it, the cache without a shared
layer has the same noise on the machine.

Run it: ``python -m benchmarks.coordinated_hit``.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
import timeit
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from itertools import count, repeat
from typing import Any, Final

from benchmarks.alone import command_of, options_of, show
from benchmarks.measure import JAKARTA, Bench, Contestant, Field, Figures, Pace, Store, computed, only_hits, scaled
from benchmarks.server import Server, valkey
from cachesync import Cache, Policy

WITH: Final = "with the log"
WITHOUT: Final = "without"
FULL: Final = Pace(rounds=60, seconds=0.015)
QUICK: Final = Pace(rounds=6, seconds=0.004)
RATE: Final = 100
STORM: Final = f"while {RATE} others are invalidated each second"
NAMESPACE: Final = "coordinated"
POLICY: Final = Policy(name="all", match="*", ttl="1h")


def _plain(cache: Cache) -> Any:
    @cache.cached("stores:{a}")
    def store(a: int) -> Store:
        computed["calls"] += 1
        return JAKARTA

    return store


def _keyword(cache: Cache) -> Any:
    @cache.cached("others:{a}:{x}")
    def store(a: int, x: str = "b") -> Store:
        computed["calls"] += 1
        return JAKARTA

    return store


def _async_plain(cache: Cache) -> Any:
    @cache.cached("later:{a}")
    async def store(a: int) -> Store:
        computed["calls"] += 1
        return JAKARTA

    return store


def _awaits(store: Any, runner: asyncio.Runner) -> Contestant:
    async def spend(calls: int) -> float:
        begun = time.perf_counter()
        for _ in repeat(None, calls):
            await store(1)
        return time.perf_counter() - begun

    return lambda calls: runner.run(spend(calls))


def _calls(store: Any, statement: str) -> Contestant:
    return timeit.Timer(statement, globals={"f": store}).timeit


@contextmanager
def invalidating(server: Server, rate: int) -> Generator[None]:
    """Another process invalidates a key that nobody holds, so many times each second."""
    command = command_of("benchmarks.coordinated_hit", "--invalidate", server.url, str(rate))
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "begun\n":
            raise RuntimeError("the process that invalidates did not begin")
        yield
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def invalidate(url: str, rate: int) -> None:
    """Do so until this process is ended."""
    with Cache(policies=[POLICY], redis=url, namespace=NAMESPACE) as cache:
        begun = time.monotonic()
        for number in count(1):
            cache.invalidate(f"nobody:{number}")
            if number == 1:
                print("begun", flush=True)
            time.sleep(max(0.0, begun + number / rate - time.monotonic()))


def run(*, quick: bool = False) -> dict[str, Any]:
    """``{"unit", "rows": {row: {"with the log" | "without": {"best", "median"}}}, "server", "missing"}``, nanoseconds."""
    pace = QUICK if quick else FULL
    field = Field()
    with ExitStack() as stack:
        server = stack.enter_context(valkey())
        bench = Bench(stack)
        caches = {WITH: Cache(policies=[POLICY], redis=server.url, namespace=NAMESPACE), WITHOUT: Cache(policies=[POLICY])}
        for cache in caches.values():
            bench.aclose(cache.aclose)
        plain = {name: _plain(cache) for name, cache in caches.items()}
        keyword = {name: _keyword(cache) for name, cache in caches.items()}
        awaited = {name: _async_plain(cache) for name, cache in caches.items()}
        rows: dict[str, dict[str, Contestant]] = {
            "def, f(1)": {name: _calls(each, "f(1)") for name, each in plain.items()},
            'def, f(1, x="a")': {name: _calls(each, 'f(1, x="a")') for name, each in keyword.items()},
            "async def, f(1)": {name: _awaits(each, bench.runner) for name, each in awaited.items()},
        }
        checked = {row: {name: only_hits(each, warm_up=200) for name, each in ones.items()} for row, ones in rows.items()}
        figures: Figures = field.take_turns(checked, pace)
        with invalidating(server, RATE):
            stormy = {f"def, f(1), {STORM}": checked["def, f(1)"]}
            figures |= field.take_turns(stormy, pace)
        version = server.version
    return {"unit": "ns", "rows": scaled(figures, lambda seconds: seconds * 1e9), "server": version, "missing": field.missing}


def main(arguments: list[str] | None = None) -> None:
    """Measure it alone, or be the process that invalidates."""
    parser = options_of("coordinated_hit", __doc__)
    parser.add_argument("--invalidate", nargs=2, metavar=("URL", "RATE"), help="be the process that invalidates in a run")
    options = parser.parse_args(arguments)
    if options.invalidate:
        url, rate = options.invalidate
        invalidate(url, int(rate))
    else:
        show("coordinated_hit", options, lambda: run(quick=options.quick))


if __name__ == "__main__":
    main()
