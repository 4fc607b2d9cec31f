"""Hit ratio and time per request of caches that hold 1 % of the keys, on three traces.

Each cache is played as its users must use it: cachetools under a lock, the others as they are. A request is a look, and a put
after a miss. Run it: ``python -m benchmarks.hit_ratio``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from benchmarks import traces
from cachesync.core.entry import Held
from cachesync.core.stamps import Stamp
from cachesync.protocols import LocalLayer

CAPACITY: Final = traces.KEYS // 100
OURS: Final = "cachesync"

Player = Callable[[list[int]], int]
"""Plays a trace against a new cache and returns the number of hits."""

_FOREVER: Final = float("inf")
_STAMP: Final = Stamp("0" * 16, 0)


def _of_layer(make: Callable[[], LocalLayer]) -> Player:
    """Ours: a hit as the compiled wrapper of a cached function does it, without its two comparisons."""

    def play(trace: list[int]) -> int:
        shelf = make().shelf()
        copies, put = shelf.copies, shelf.put
        hits = 0
        for key in trace:
            try:
                copies[key].hits += 1
                hits += 1
            except KeyError:
                put(key, Held(key, until=_FOREVER, mark=None, made=0.0, deadline=_FOREVER, stamp=_STAMP, checked=0))
        return hits

    return play


def _of_mapping(make: Callable[[], Any]) -> Player:
    """A cache of cachetools, under the lock that threads need."""

    def play(trace: list[int]) -> int:
        cache, lock = make(), threading.Lock()
        hits = 0
        for key in trace:
            with lock:
                try:
                    cache[key]
                    hits += 1
                except KeyError:
                    cache[key] = key
        return hits

    return play


def _of_cachebox(make: Callable[[], Any]) -> Player:
    def play(trace: list[int]) -> int:
        cache = make()
        get, insert = cache.get, cache.insert
        hits = 0
        for key in trace:
            if get(key) is None:
                insert(key, key)
            else:
                hits += 1
        return hits

    return play


def _of_theine(make: Callable[[], Any]) -> Player:
    def play(trace: list[int]) -> int:
        cache = make()
        get, put = cache.get, cache.set
        hits = 0
        for key in trace:
            if get(key)[1]:
                hits += 1
            else:
                put(key, key)
        cache.close()
        return hits

    return play


def _ours() -> dict[str, Player]:
    from cachesync.layers.local import LocalMemory

    return {OURS: _of_layer(lambda: LocalMemory(max_entries=CAPACITY))}


def _cachetools() -> dict[str, Player]:
    import cachetools

    from cachesync.layers.plugged import CachetoolsMemory

    def lru() -> cachetools.LRUCache[Any, Any]:
        return cachetools.LRUCache(CAPACITY)

    def lfu() -> cachetools.LFUCache[Any, Any]:
        return cachetools.LFUCache(CAPACITY)

    def ttl() -> cachetools.Cache[Any, Any]:
        return cachetools.TTLCache[Any, Any](CAPACITY, ttl=3600)

    return {
        "cachesync over cachetools LRU": _of_layer(lambda: CachetoolsMemory(lru())),
        "cachetools LRU": _of_mapping(lru),
        "cachetools LFU": _of_mapping(lfu),
        "cachetools TTL": _of_mapping(ttl),
    }


def _cachebox() -> dict[str, Player]:
    import cachebox

    return {
        "cachebox LRU": _of_cachebox(lambda: cachebox.LRUCache[int, int](CAPACITY)),
        "cachebox LFU": _of_cachebox(lambda: cachebox.LFUCache[int, int](CAPACITY)),
        "cachebox TTL (FIFO)": _of_cachebox(lambda: cachebox.TTLCache[int, int](CAPACITY, 3600)),
    }


def _theine() -> dict[str, Player]:
    import theine

    return {"theine (W-TinyLFU)": _of_theine(lambda: theine.Cache[int, int](CAPACITY))}


def run() -> dict[str, Any]:
    """``{"capacity", "keys", "requests", "traces": {trace: {cache: {"ratio", "ns"}}}, "missing": [line]}``."""
    players: dict[str, Player] = {}
    missing: list[str] = []
    for peers in (_ours, _cachetools, _cachebox, _theine):
        try:
            players |= peers()
        except ImportError as error:
            missing.append(f"{error.name} is not installed")
    table: dict[str, dict[str, dict[str, float]]] = {}
    for name, trace in traces.every().items():
        table[name] = {}
        for cache, play in players.items():
            begun = time.perf_counter_ns()
            hits = play(trace)
            spent = time.perf_counter_ns() - begun
            table[name][cache] = {"ratio": hits / len(trace), "ns": spent / len(trace)}
    return {"capacity": CAPACITY, "keys": traces.KEYS, "requests": traces.REQUESTS, "traces": table, "missing": missing}


def main() -> None:
    """Print the table."""
    result = run()
    table: dict[str, dict[str, dict[str, float]]] = result["traces"]
    print(f"hit ratio and ns per request; {result['capacity']:,} of {result['keys']:,} keys, {result['requests']:,} requests")
    print(f"{'':32}" + "".join(f"{name:>16}" for name in table))
    for cache in next(iter(table.values())):
        print(f"{cache:32}" + "".join(f"{row[cache]['ratio']:>10.4f}{row[cache]['ns']:>6.0f}" for row in table.values()))
    for line in result["missing"]:
        print(line)


if __name__ == "__main__":
    main()
