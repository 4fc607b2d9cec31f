"""Masses: a million entries under one tag, and a storm of invalidations while others are served.

What it costs is measured by the benchmarks. Here is what it must not cost: an old value, a bound, a scan.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Final

import pytest

from cachesync import MISSING, Cache, RedisShared
from cachesync.core.bans import MAX_BANS_OF_A_KIND
from cachesync.core.records import KEY, TAG, Targets
from cachesync.core.steps import Announce, Announced
from support.nodes import COLOURS, LONG, Callers, Colour, LoopThread
from support.servers import Server

ENTRIES: Final = 1_000_000
STORM: Final = 200_000
RECORDS_OF_A_TRIP: Final = 200

COPY: Final = """
local entry = redis.call('GET', KEYS[1])
local before, after = string.match(KEYS[1], '^(.*item:)0(.*)$')
for number = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  redis.call('SET', before .. number .. after, entry, 'PX', 3600000)
end
"""
"""The same entry under many names: an envelope does not say whose it is."""


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    with LoopThread() as loop:
        yield loop


PACE: Final = 0.001
"""Seconds between two looks, so that the storm has the processor too."""

COUNTED: Final = ("evalsha", "xadd", "zadd", "publish", "spublish", "unlink", "del", "scan", "keys")


def commands(server: Server) -> dict[str, int]:
    """How often the server has run which command."""
    told: dict[str, Any] = server.client().info("commandstats")
    return {name.removeprefix("cmdstat_"): counts["calls"] for name, counts in told.items()}


@pytest.mark.parametrize("colour", COLOURS)
def test_a_million_entries_under_one_tag_end_with_one_record(fresh_server: Server, loop: LoopThread, colour: Colour) -> None:
    """It runs as many commands as where there are none, deletes nothing, and not one of the entries is served afterwards."""
    callers = Callers(fresh_server.url, "many", colour, loop)
    a, b = callers.new(), callers.new()

    @a.cached("item:{number}", tags=["items"])
    async def item(number: int) -> int:
        return 1

    assert a.do(item, 0) == 1
    client = fresh_server.client()
    fill: Any = client.register_script(COPY)
    for at in range(1, ENTRIES, 50_000):
        fill([callers.names.entry("item:0")], [at, min(at + 50_000, ENTRIES) - 1])
    there = client.dbsize()
    assert there >= ENTRIES
    some = range(0, ENTRIES, ENTRIES // 500)
    assert [b.get(f"item:{number}") for number in some[:100]] == [1] * 100, "they are valid before"
    cost: list[dict[str, int]] = []
    for tag in ("nobody", "items"):
        before = commands(fresh_server)
        stamp = a.drop(tags=[tag])
        after = commands(fresh_server)
        cost.append({name: after.get(name, 0) - before.get(name, 0) for name in COUNTED})
    assert cost[0] == cost[1]
    assert not any(cost[1][name] for name in ("unlink", "del", "scan", "keys"))
    callers.apply(stamp)
    assert [caller.get(f"item:{number}") for number in some for caller in (a, b)] == [None] * 2 * len(some)
    assert callers.new().get("item:1") is None
    assert client.dbsize() >= there
    callers.close()


class Hot:
    """A few keys that are asked for again and again, in both colours, by one process that listens. ``version`` is the origin's."""

    def __init__(self, cache: Cache) -> None:
        self.version = 1
        self._over = threading.Event()
        self.seen: dict[str, list[int]] = {}

        @cache.cached("hot:{number}", tags=["hot"])
        def item(number: int) -> int:
            return self.version

        @cache.cached("hot:{number}", tags=["hot"], same_as=item)
        async def aitem(number: int) -> int:
            return self.version

        self.item, self.aitem = item, aitem

    @contextmanager
    def being_read(self, loop: LoopThread) -> Generator[None, None, None]:
        """A thread and a task do nothing else."""
        thread, task = threading.Thread(target=self.read), loop.submit(self.aread())
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join(LONG)
            task.result(LONG)

    def read(self) -> None:
        seen = self.seen["def"] = []
        while not self._over.wait(PACE):
            seen.extend(self.item(number) for number in range(10))

    async def aread(self) -> None:
        seen = self.seen["async def"] = []
        while not self._over.is_set():
            seen.extend([await self.aitem(number) for number in range(10)])
            await asyncio.sleep(PACE)


def test_hot_keys_are_served_through_a_storm_of_invalidations(server: Server, namespace: str, loop: LoopThread) -> None:
    """200,000 records, of keys and tags, and now and then one of the hot keys themselves. A thread and a task read all the while:
    what an invalidation ended does not come back, and what is kept of the storm stays within its bounds.
    """
    callers = Callers(server.url, namespace, "def", loop)
    busy, other = callers.new(), callers.new(listen=False)
    hot, cache = Hot(busy.cache), busy.cache
    direct = RedisShared(server.url, namespace=namespace)
    with hot.being_read(loop):
        for first in range(0, STORM, RECORDS_OF_A_TRIP):
            if first % (STORM // 10) == 0:
                hot.version += 1
                callers.apply(other.drop(tags=["hot"]))
                assert cache.get("hot:1") in {MISSING, hot.version}
            numbers = range(first, first + RECORDS_OF_A_TRIP)
            targets = tuple(Targets((KEY, TAG)[number % 2], (f"cold:{number}",)) for number in numbers)
            nonces = tuple(f"{number:x}" for number in numbers)
            said = direct.sync.perform(Announce(targets, nonces, "storm", (), deadline=time.monotonic() + LONG))
            assert isinstance(said, Announced)
        hot.version += 1
        callers.apply(other.drop(tags=["hot"]))
        now = [hot.item(number) for number in range(10)] + [loop.run(hot.aitem(number)) for number in range(10)]
    direct.close()
    assert now == [hot.version] * 20
    for seen in hot.seen.values():
        of_key = [seen[number::10] for number in range(10)]
        assert all(earlier <= later for one in of_key for earlier, later in pairwise(one))
        assert len(seen) > 1000
    stats = cache.stats()
    assert stats.log.bans <= 2 * MAX_BANS_OF_A_KIND
    assert stats.total.local_hits > stats.total.computed
    callers.close()
