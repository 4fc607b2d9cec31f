"""Invalidating 1,000 of 1k, 100k and a million keys, beside cashews, django-redis and aiocache: milliseconds and commands.

Each library in its own way: a tag or a prefix with us, a tag or a pattern in cashews, ``delete_pattern`` in django-redis (as it comes,
and with larger pages), a namespace in aiocache. The 1,000 keys are stored anew, through the library, before each turn; before it some of
them must be found, and after it none. All use the same server, and the other keys are the same for all: entries of ours.

"a tag over all" is the tag that all those others carry: 1k, 100k or a million entries at once. The first call finds them alive, the
others find them dead; that makes no difference, because nobody looks.

Commands are those that the server counts during a call, inside of scripts included. Ours are counted at a cache that reads no log: what
a reader asks meanwhile is not part of the call. The time is that of a cache that does read it, as it is in an application.
aiocache's few commands are ``KEYS``, which stops the server for everybody as long as it takes.

Run it: ``python -m benchmarks.invalidation``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from benchmarks.alone import options_of, show
from benchmarks.counting import commands, observer, reset_commands
from benchmarks.filling import fill
from benchmarks.measure import OURS, Bench, Field, peer
from benchmarks.server import Server, valkey
from benchmarks.spread import spread
from cachesync import Cache, Policy

SIZES: Final = (1_000, 100_000, 1_000_000)
QUICK_SIZES: Final = (1_000, 5_000)
MATCHING: Final = 1_000
TURNS: Final = 3
TAG_CALLS: Final = 50
SAMPLE: Final = range(0, MATCHING, MATCHING // 20)
HOUR: Final = 3_600
PAGE: Final = 10_000
"""Keys that django-redis asks for at once, where it is told. Its own setting is 10."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way of invalidating the 1,000: store them, do it, and tell how many of the sample are there."""

    load: Callable[[], object]
    invalidate: Callable[[], object]
    found: Callable[[], int]


# --- the ways -------------------------------------------------------------------------------------------------------------------------


def _our_cache(server: Server, bench: Bench, namespace: str, *, listen: bool) -> Cache:
    cache = Cache(policies=[Policy(name="all", match="*", ttl="1h")], redis=server.url, namespace=namespace, listen=listen)
    bench.close(cache.close)
    return cache


def _ours(server: Server, bench: Bench, *, by: str, listen: bool = True) -> Way:
    cache = _our_cache(server, bench, f"ours-{by}", listen=listen)

    @cache.cached("hot:{number}", tags=["hot"])
    def hot(number: int) -> int:
        return number

    return Way(
        load=lambda: hot.many((number,) for number in range(MATCHING)),
        invalidate={"tag": lambda: cache.invalidate(tags=["hot"]), "prefix": lambda: cache.invalidate("hot:*")}[by],
        found=lambda: sum(hot.peek(number) is not None for number in SAMPLE),
    )


def _cashews(server: Server, bench: Bench, *, by: str) -> Way:
    cache = peer("cashews").Cache()
    cache.setup(server.url)
    bench.aclose(cache.close)
    head = f"cashews-{by}"
    if by == "tag":
        cache.register_tag("hot", head + ":{number}")
    tags = ["hot"] if by == "tag" else []

    async def load() -> None:
        for number in range(MATCHING):
            await cache.set(f"{head}:{number}", number, expire=HOUR, tags=tags)

    async def invalidate() -> None:
        if by == "tag":
            await cache.delete_tags("hot")
        else:
            await cache.delete_match(f"{head}:*")

    async def found() -> int:
        return sum([await cache.get(f"{head}:{number}") is not None for number in SAMPLE])

    run = bench.runner.run
    return Way(lambda: run(load()), lambda: run(invalidate()), lambda: run(found()))


def _django(server: Server, bench: Bench, *, page: int | None) -> Way:
    settings: Any = peer("django.conf").settings
    if not settings.configured:
        settings.configure()
    cache = peer("django_redis.cache").RedisCache(server.url, {"KEY_PREFIX": f"django-{page}", "TIMEOUT": HOUR})
    bench.close(cache.client.get_client().connection_pool.disconnect)
    pages = {} if page is None else {"itersize": page}
    return Way(
        load=lambda: cache.set_many({f"hot:{number}": number for number in range(MATCHING)}),
        invalidate=lambda: cache.delete_pattern("hot:*", **pages),
        found=lambda: sum(cache.get(f"hot:{number}") is not None for number in SAMPLE),
    )


def _aiocache(server: Server, bench: Bench) -> Way:
    cache = peer("aiocache.backends.redis").RedisCache(namespace="aiocache", endpoint="127.0.0.1", port=server.port)
    bench.aclose(cache.close)
    run = bench.runner.run

    async def load() -> None:
        await cache.multi_set([(f"hot:{number}", str(number)) for number in range(MATCHING)], ttl=HOUR)

    async def found() -> int:
        return sum([await cache.get(f"hot:{number}") is not None for number in SAMPLE])

    return Way(lambda: run(load()), lambda: run(cache.clear(namespace="aiocache")), lambda: run(found()))


OUR_WAYS: Final = {f"{OURS}, {by}": partial(_ours, by=by) for by in ("tag", "prefix")}
WAYS: Final[Mapping[str, Callable[[Server, Bench], Way]]] = {
    **OUR_WAYS,
    "cashews, tag": partial(_cashews, by="tag"),
    "cashews, pattern": partial(_cashews, by="pattern"),
    "django-redis, pattern": partial(_django, page=None),
    "django-redis, in pages": partial(_django, page=PAGE),
    "aiocache, namespace": _aiocache,
}
ALL: Final = f"{OURS}, a tag over all"


# --- measuring ------------------------------------------------------------------------------------------------------------------------


def _of_way(make: Callable[[Server, Bench], Way], server: Server, turns: int) -> dict[str, float]:
    spent: list[float] = []
    counted = 0
    with ExitStack() as stack, observer(server.port) as client:
        way = make(server, Bench(stack))
        for _ in range(turns):
            way.load()
            _require(way.found(), len(SAMPLE), "before")
            reset_commands(client)
            begun = time.perf_counter()
            way.invalidate()
            spent.append((time.perf_counter() - begun) * 1000)
            counted = sum(commands(client).values())
            _require(way.found(), 0, "after")
    return {"best": min(spent), "median": statistics.median(spent), "commands": float(counted)}


def _of_our_way(make: Callable[..., Way], server: Server, turns: int) -> dict[str, float]:
    """Timed where the log is read, and counted where it is not."""
    return _of_way(make, server, turns) | {"commands": _of_way(partial(make, listen=False), server, 1)["commands"]}


def _require(found: int, wanted: int, when: str, of: int = len(SAMPLE)) -> None:
    if found != wanted:
        raise RuntimeError(f"{found} of {of} keys were found {when} the invalidation, not {wanted}")


def _of_all(server: Server, size: int, calls: int) -> dict[str, float]:
    """The tag of ``size`` entries, which this makes: they are in Redis and nowhere else."""
    sample = range(1, size, max(1, size // 20))
    spent: list[float] = []
    counted = 0
    with observer(server.port) as client:
        for listen in (True, False):
            with ExitStack() as stack:
                cache = _our_cache(server, Bench(stack), "others", listen=listen)

                @cache.cached("items:{number}", tags=["all"])
                def item(number: int) -> int:
                    return number

                def found() -> int:
                    return sum(item.peek(number) is not None for number in sample)

                item(0)
                fill(client, "others", "items:0", size)
                _require(found(), len(sample), "before", len(sample))
                if listen:
                    for _ in range(calls):
                        begun = time.perf_counter()
                        cache.invalidate(tags=["all"])
                        spent.append((time.perf_counter() - begun) * 1000)
                else:
                    reset_commands(client)
                    cache.invalidate(tags=["all"])
                    counted = sum(commands(client).values())
                _require(found(), 0, "after", len(sample))
    return spread(spent) | {"best": min(spent), "median": statistics.median(spent), "first": spent[0], "commands": float(counted)}


def run(*, quick: bool = False, sizes: Sequence[int] = (), turns: int = 0) -> dict[str, Any]:
    """``{"unit", "rows": {"1,000 of 1,000,000 keys": {way: {"best", "median", "commands"}}}, "sizes", "server", "missing"}``."""
    sizes = sizes or (QUICK_SIZES if quick else SIZES)
    turns = turns or (1 if quick else TURNS)
    rows: dict[str, dict[str, dict[str, float]]] = {}
    field = Field()
    version = ""
    for size in sizes:
        with valkey() as server:
            version = server.version
            all_of_them = field.enter({ALL: partial(_of_all, server, size, TAG_CALLS)})  # it fills the cache for the others, too
            row = rows.setdefault(f"1,000 of {size:,} keys", {})
            for name, make in WAYS.items():
                measure = _of_our_way if name in OUR_WAYS else _of_way
                row |= field.enter({name: partial(measure, make, server, turns)})
            row |= all_of_them
    return {"unit": "ms", "rows": rows, "sizes": list(sizes), "server": version, "missing": field.missing}


def main(arguments: list[str] | None = None) -> None:
    """Measure it alone."""
    parser = options_of("invalidation", __doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[], help=f"keys in the cache (default: {' '.join(map(str, SIZES))})")
    parser.add_argument("--turns", type=int, default=0, help=f"of each way (default: {TURNS})")
    options = parser.parse_args(arguments)
    show("invalidation", options, lambda: run(quick=options.quick, sizes=options.sizes, turns=options.turns))


if __name__ == "__main__":
    main()
