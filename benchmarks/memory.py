"""Bytes per entry of local caches: small dict values under int keys.

``traced`` is what Python's allocator counts, the same for all; it does not see what Rust allocates (cachebox, theine). ``resident``
is how much the process grew (Linux only), each cache in a process of its own. Run it: ``python -m benchmarks.memory [--growth]``.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks.alone import command_of

ENTRIES: Final = 100_000
GROWTH: Final = (1_000, 100_000, 1_000_000)
_STATM: Final = Path("/proc/self/statm")


def _value(number: int) -> dict[str, object]:
    return {"code": number, "name": f"store {number}", "city": f"city {number}", "open": True}


def _dict(entries: int) -> object:
    return {number: _value(number) for number in range(entries)}


def _ours(entries: int, puts: int = 1) -> object:
    from cachesync.core.entry import Held
    from cachesync.core.stamps import Stamp
    from cachesync.layers.local import LocalMemory
    from cachesync.layers.sizing import measure

    layer = LocalMemory(max_entries=entries, max_bytes=1 << 40)
    shelf = layer.shelf()
    stamp, mark = Stamp("0" * 16, 7), object()
    for number in range(puts * entries):
        made = time.monotonic()
        deadline = made + 3600.0
        value = _value(number)
        size = measure(value)
        shelf.put(number, Held(value, until=deadline, mark=mark, made=made, deadline=deadline, stamp=stamp, checked=7, size=size))
    return layer, shelf


def _ours_evicting(entries: int) -> object:
    """Twice as many puts as there is room for: the ghost is full too."""
    return _ours(entries, puts=2)


def _cachetools(entries: int, puts: int = 1) -> object:
    import cachetools

    cache: cachetools.Cache[int, Any] = cachetools.TTLCache[int, Any](entries, ttl=3600)
    for number in range(puts * entries):
        cache[number] = _value(number)
    return cache


def _cachetools_evicting(entries: int) -> object:
    return _cachetools(entries, puts=2)


def _cachebox(entries: int) -> object:
    import cachebox

    cache: cachebox.TTLCache[int, Any] = cachebox.TTLCache(entries, 3600)
    for number in range(entries):
        cache.insert(number, _value(number))
    return cache


def _theine(entries: int) -> object:
    from datetime import timedelta

    import theine

    cache = theine.Cache[int, Any](entries)
    for number in range(entries):
        cache.set(number, _value(number), timedelta(hours=1))
    return cache


CACHES: Final[dict[str, Callable[[int], object]]] = {
    "dict": _dict,
    "cachesync": _ours,
    "cachesync, evicting": _ours_evicting,
    "cachetools TTL": _cachetools,
    "cachetools TTL, evicting": _cachetools_evicting,
    "cachebox TTL": _cachebox,
    "theine": _theine,
}


def _traced(make: Callable[[int], object], entries: int) -> float:
    make(10)
    gc.collect()
    tracemalloc.start()
    try:
        cache = make(entries)
        gc.collect()
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    del cache
    return used / entries


def _resident(name: str, entries: int) -> float | None:
    """Bytes per entry by which a new process grows; ``None`` where the system does not tell."""
    if not _STATM.exists():
        return None
    told = subprocess.run(command_of("benchmarks.memory", "--one", name, str(entries)), capture_output=True, text=True, check=True)
    return float(json.loads(told.stdout))


def _grow(name: str, entries: int) -> float:
    make = CACHES[name]
    warm = make(10)
    before = _pages()
    cache = make(entries)
    gc.collect()
    grown = (_pages() - before) * 4096 / entries
    del cache, warm
    return grown


def _pages() -> int:
    return int(_STATM.read_text().split()[1])


def run(*, growth: bool = False) -> dict[str, Any]:
    """``{"entries": {count: {cache: {"traced", "resident"}}}, "missing": [line]}``; with ``growth`` for 1k, 100k and 1M entries."""
    table: dict[str, dict[str, dict[str, float | None]]] = {}
    missing: list[str] = []
    for entries in GROWTH if growth else (ENTRIES,):
        rows = table.setdefault(str(entries), {})
        for name, make in CACHES.items():
            try:
                rows[name] = {"traced": _traced(make, entries), "resident": _resident(name, entries)}
            except ImportError as error:
                line = f"{error.name} is not installed"
                if line not in missing:
                    missing.append(line)
    return {"entries": table, "missing": missing}


def main() -> None:
    """Print the table."""
    result = run(growth="--growth" in sys.argv)
    for entries, rows in result["entries"].items():
        print(f"bytes per entry, {int(entries):,} entries{'':8}traced  resident")
        for name, row in rows.items():
            resident = "-" if row["resident"] is None else f"{row['resident']:.0f}"
            print(f"  {name:32}{row['traced']:>8.0f}{resident:>10}")
    for line in result["missing"]:
        print(line)


if __name__ == "__main__":
    if "--one" in sys.argv:
        print(json.dumps(_grow(sys.argv[2], int(sys.argv[3]))))
    else:
        main()
