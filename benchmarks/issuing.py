"""What it costs to issue one invalidation: milliseconds of the call, and commands that the server carries out for it.

By key, tag, prefix and everything; in an empty cache, in one with a million entries, and in one that remembers as many invalidations as
it ever does. Both figures must be the same everywhere: nothing is scanned and nothing is deleted but the key that is named.

The commands are those that the server counts itself, inside of scripts included. The cache that calls reads no log meanwhile, so they
are those of its calls.

Run it: ``python -m benchmarks.issuing``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, Final

import redis

from benchmarks.alone import options_of, show
from benchmarks.counting import commands, observer, reset_commands
from benchmarks.filling import fill
from benchmarks.server import valkey
from benchmarks.spread import spread
from cachesync import Cache, Policy

ENTRIES: Final = 1_000_000
BANS: Final = 60_000
CALLS: Final = 200
WARM_UP: Final = 20
NAMESPACE: Final = "issuing"
AT_ONCE: Final = 1_000

Issue = Callable[[int], object]
"""Issue the invalidation of so high a number: no two calls name the same."""


def _ways(cache: Cache) -> dict[str, Issue]:
    return {
        "key": lambda number: cache.invalidate(f"items:{number}"),
        "tag": lambda number: cache.invalidate(tags=[f"owner:{number}"]),
        "prefix": lambda number: cache.invalidate(f"items:{number}:*"),
        "everything": lambda number: cache.invalidate("*"),
    }


def timed(client: redis.Redis, issue: Issue, calls: int, *, first: int) -> dict[str, float]:
    """The spread of the times of ``calls`` invalidations numbered from ``first``, milliseconds, and ``commands`` for each."""
    for number in range(first - WARM_UP, first):
        issue(number)
    reset_commands(client)
    spent: list[float] = []
    for number in range(first, first + calls):
        begun = time.perf_counter()
        issue(number)
        spent.append((time.perf_counter() - begun) * 1000)
    return spread(spent) | {"commands": sum(commands(client).values()) / calls}


def run(*, quick: bool = False, entries: int = 0, bans: int = 0, calls: int = 0) -> dict[str, Any]:
    """``{"unit", "rows": {state of the cache: {way: {"p50", "p99", "max", "count", "commands"}}}, "server", "missing"}``."""
    entries = entries or (2_000 if quick else ENTRIES)
    bans = bans or (2_000 if quick else BANS)
    calls = calls or (20 if quick else CALLS)
    policy = Policy(name="items", match="items:*", ttl="1h", tags=["items"])
    rows: dict[str, dict[str, dict[str, float]]] = {}
    with (
        valkey() as server,
        observer(server.port) as client,
        closing(Cache(policies=[policy], redis=server.url, namespace=NAMESPACE, listen=False)) as cache,
    ):

        @cache.cached("items:{number}", tags=["owner:{number}"])
        def item(number: int) -> int:
            return number

        def measure(state: str) -> None:
            first = WARM_UP + 10_000_000 * (1 + len(rows))
            rows[state] = {way: timed(client, issue, calls, first=first) for way, issue in _ways(cache).items()}

        item(0)  # it joins the log
        measure("empty")
        item(0)
        fill(client, NAMESPACE, "items:0", entries)
        measure(f"{entries:,} entries")
        for begin in range(0, bans, AT_ONCE):
            cache.invalidate(*(f"others:{number}" for number in range(begin, min(begin + AT_ONCE, bans))))
        measure(f"{entries:,} entries, {bans:,} invalidations")
        version = server.version
    return {"unit": "ms", "rows": rows, "server": version, "missing": []}


def main(arguments: list[str] | None = None) -> None:
    """Measure it alone."""
    parser = options_of("issuing", __doc__)
    parser.add_argument("--entries", type=int, default=0, help=f"in the full cache (default: {ENTRIES:,})")
    parser.add_argument("--bans", type=int, default=0, help=f"invalidations that it remembers (default: {BANS:,})")
    parser.add_argument("--calls", type=int, default=0, help=f"of each way (default: {CALLS})")
    options = parser.parse_args(arguments)
    how = {"entries": options.entries, "bans": options.bans, "calls": options.calls}
    show("issuing", options, lambda: run(quick=options.quick, **how))


if __name__ == "__main__":
    main()
