"""Memory stays flat, however much is done: nothing is kept of what is over."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from benchmarks import flat
from benchmarks.flat import Churn
from benchmarks.table import lines
from cachesync import MemoryShared
from cachesync.core.stamps import NOWHERE
from cachesync.core.steps import Fetch, Fetched, Lease, Seize, Store
from cachesync.testing import FakeClock

LOOKS = 20
OPERATIONS = 200
"""Between two looks."""


def test_memory_stays_flat_over_many_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads, fills, evictions, failures, cancelled callers, every kind of invalidation, in both colours: what they leave behind is
    bounded. ``python -m benchmarks.flat`` does it ten million times.
    """
    for bound in ("layers.memory.LOG_LENGTH", "layers.memory.SLACK", "core.policies._MEMO"):
        monkeypatch.setattr(f"cachesync.{bound}", 100)  # so that what is bounded is full before it is measured
    monkeypatch.setattr("cachesync.core.bans.TIMES_OF_A_BAN", 2)
    gc.collect()
    gc.freeze()  # what other tests have left is not looked through again and again
    tracemalloc.start()
    churn, sizes = Churn(keys=25, step=2.0, hits=5), list[int]()
    try:
        churn.run(LOOKS * OPERATIONS)
        for _ in range(LOOKS):
            churn.run(OPERATIONS)
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
        gc.unfreeze()
        churn.close()
    grown = max(sizes[LOOKS // 2 :]) - max(sizes[: LOOKS // 2])
    assert grown < 40_000, sizes
    assert {"invalidated", "left_alone"} <= churn.events.keys()


def test_a_layer_in_memory_forgets_what_has_expired() -> None:
    """It is looked for now and then, so that keys that never come again do not stay."""
    clock = FakeClock()
    memory = MemoryShared(clock.monotonic)
    for number in range(10_000):
        key = f"key:{number}"
        memory.perform(Lease(key, "mine", NOWHERE, 1_000, None))
        if number % 2:
            memory.perform(Store(key, "mine", b"blob" * 8, 1_000))
        if number % 5 == 0:
            memory.perform(Seize(key, "mine", NOWHERE, 1_000, unlink=False))
        clock.advance(0.01)
    assert len(memory._entries) + len(memory._leases) < 2_500  # pyright: ignore[reportPrivateUsage]
    fetched = memory.perform(Fetch(("key:9999", "key:1")))
    assert isinstance(fetched, Fetched)
    assert fetched.blobs == (b"blob" * 8, None)


def test_the_measure_of_memory_runs() -> None:
    """A short one: its size is noted all along. How much it grows is for people to look at."""
    told = flat.run(quick=True)
    assert told["operations"] >= flat.QUICK
    assert len(told["resident"]) == flat.LOOKS
    assert told["events"]["invalidated"]
    assert any("Size of a process" in line for line in lines({"flat": told}))
