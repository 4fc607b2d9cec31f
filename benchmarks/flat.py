"""Does memory stay flat? Everything that a cache does, ten million times over, in one process.

Two caches of one process share a layer in memory, one listens to the other's log; time is moved by hand, so that whatever has a lifetime
reaches its end. Run it: ``python -m benchmarks.flat [--quick]``.
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from benchmarks.alone import command_of, options_of, show
from cachesync import Cache, Event, MemoryShared, Policy, Settings
from cachesync.core.settings import CoordinationSettings, LocalSettings
from cachesync.testing import FakeClock

OPERATIONS: Final = 10_000_000
QUICK: Final = 20_000
LOOKS: Final = 10
"""So often the size of the process is noted, the first time after a tenth of the operations."""
KEYS: Final = 500
TAGS: Final = 40
HITS: Final = 200
"""Local hits in each turn, the most of what a cache does."""
_STATM: Final = Path("/proc/self/statm")


class OriginError(Exception):
    """A computation failed."""


class Churn:
    """What is done, turn by turn: each of the public ways to read, to write and to invalidate, in both colours.

    ``keys`` come again and again, and local memory has room for a fifth of them. ``step`` is how many seconds pass with each turn, and
    ``hits`` how many of its operations are local hits.
    """

    def __init__(self, *, keys: int = KEYS, step: float = 0.05, hits: int = HITS) -> None:
        self.operations = 0
        self._keys, self._step, self._hits = keys, step, hits
        self.events: dict[str, int] = {}
        self.clock = FakeClock()
        self._shared = MemoryShared(self.clock.monotonic)
        self._runner = asyncio.Runner()
        self._here, self._there = self._cache(), self._cache()
        self._turn = 0
        self._item, self._fails, self._page, self._seen, self._aitem = self._functions()

    def _cache(self) -> Cache:
        settings = Settings(coordination=CoordinationSettings(max_lag=60.0), local=LocalSettings(max_entries=max(1, self._keys // 5)))
        policies = [
            Policy(name="items", match="item:*", ttl=60.0, stale_while_revalidate=5.0, early_refresh=0.9, tags=["items"]),
            Policy(name="fails", match="fails:*", ttl=60.0, errors=10.0, stale_if_error=30.0),
            Policy(name="pages", match="page:*", ttl=60.0),
        ]
        return Cache(settings, policies=policies, shared=self._shared, clock=self.clock, listen=False, on_event=self._note)

    def _note(self, event: Event) -> None:
        self.events[event.name] = self.events.get(event.name, 0) + 1

    def _functions(self) -> tuple[Any, Any, Any, Any, Any]:
        cache = self._here

        @cache.cached("item:{tag}:{number}", tags=["tag:{tag}"])
        def item(tag: int, number: int) -> dict[str, int]:
            return {"number": number}

        @cache.cached("fails:{number}")
        def fails(number: int) -> int:
            raise OriginError

        @cache.cached("page:{number}")
        def page(number: int) -> list[dict[str, int]]:
            cache.depends_on(tags=[f"tag:{number % TAGS}"])
            return [item(number % TAGS, number), item((number + 1) % TAGS, number + 1)]

        @self._there.cached("item:{tag}:{number}", tags=["tag:{tag}"])
        def seen(tag: int, number: int) -> dict[str, int]:
            return {"number": number}

        @cache.cached("item:{tag}:{number}", tags=["tag:{tag}"], same_as=item)
        async def aitem(tag: int, number: int) -> dict[str, int]:
            return {"number": number}

        return item, fails, page, seen, aitem

    def run(self, operations: int) -> None:
        """Do at least so many operations more."""
        until = self.operations + operations
        while self.operations < until:
            self._turn += 1
            self.clock.advance(self._step)
            self.operations += self._do(self._turn)
            if self._turn % 5 == 0:
                self.operations += self._runner.run(self._ado(self._turn))

    def close(self) -> None:
        """End the caches."""
        self._runner.run(self._here.aclose())
        self._there.close()
        self._runner.close()

    def _do(self, turn: int) -> int:
        cache, item, number = self._here, self._item, turn % self._keys
        tag = number % TAGS
        for _ in range(self._hits):
            item(tag, number)
        self._page(number)
        self._seen(tag, number)
        item.many([(other % TAGS, other) for other in range(number, number + 5)])
        with suppress(OriginError):
            self._fails(number)
        cache.get(f"item:{tag}:{number}")
        item.peek(tag, number)
        cache.get_or_compute(f"page:once:{turn}", lambda: turn)  # a key that never comes again
        done = self._hits + 7
        match turn % 8:
            case 0:
                cache.invalidate(f"item:{tag}:{number}")
            case 1:
                stamp = cache.invalidate(tags=[f"tag:{tag}"])
                self._seen.at_least(stamp, tag, number)
            case 2:
                cache.invalidate(f"page:{number}*", soft=True)
            case 3:
                cache.invalidate(f"*:{number}")
            case 4:
                cache.set(f"item:{tag}:{number}", {"number": turn})
            case 5:
                with cache.update(f"item:{tag}:{number}") as update:
                    update.set({"number": turn})
            case 6:
                item.refresh(tag, number)
            case _:
                item.invalidate(tag, number)
        if turn % 1_000 == 0:
            cache.invalidate("*")
            cache.sweep()
        return done + 1

    async def _ado(self, turn: int) -> int:
        number = turn % self._keys
        tag = number % TAGS
        await asyncio.gather(*(self._aitem(tag, number) for _ in range(5)))
        await self._aitem.many([(tag, number), ((number + 1) % TAGS, number + 1)])
        await self._here.aget(f"item:{tag}:{number}")
        await self._aitem.invalidate(tag, number)
        task = asyncio.ensure_future(self._aitem(tag, number))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return 9


def _resident() -> int:
    return int(_STATM.read_text().split()[1]) * 4096


def _grow(operations: int) -> dict[str, Any]:
    """The size of this process, in bytes, at ten moments of so many operations."""
    churn, sizes = Churn(), list[int]()
    began = time.perf_counter()
    for _ in range(LOOKS):
        churn.run(operations // LOOKS)
        gc.collect()
        sizes.append(_resident())
    seconds = time.perf_counter() - began
    churn.close()
    return {"operations": churn.operations, "seconds": round(seconds, 1), "resident": sizes, "events": churn.events}


def run(*, quick: bool = False) -> dict[str, Any]:
    """``{"operations", "seconds", "resident": [bytes], "events": {name: count}}``, measured in a process of its own (Linux only)."""
    if not _STATM.exists():
        return {}
    command = command_of("benchmarks.flat", "--one", str(QUICK if quick else OPERATIONS))
    told: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return told


def main(arguments: list[str] | None = None) -> None:
    """Print what was measured."""
    options = options_of("flat", __doc__).parse_args(arguments)
    show("flat", options, lambda: run(quick=options.quick))


if __name__ == "__main__":
    if "--one" in sys.argv:
        print(json.dumps(_grow(int(sys.argv[2]))))
    else:
        main()
