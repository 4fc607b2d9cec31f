"""``many``: several calls in one trip, each key computed once, and one slow key costs the others nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cachesync import Cache, Event, MemoryShared, Policy
from cachesync.core.steps import Failed, Fetch, Reply, SharedStep, Store
from cachesync.errors import LayerError
from cachesync.layers.memory import MemoryEar
from cachesync.testing import FakeClock


class PunctualShared:
    """A shared layer that fails every step whose deadline has passed, as Redis does, and notes what it was asked."""

    def __init__(self, clock: FakeClock) -> None:
        self.memory = MemoryShared(clock.monotonic)
        self.clock = clock
        self.steps: list[SharedStep] = []
        self.sync = self

    def perform(self, step: SharedStep, /) -> Reply:
        self.steps.append(step)
        return Failed(LayerError("too late")) if step.deadline < self.clock.monotonic() else self.memory.perform(step)

    def of_loop(self) -> PunctualLoop:
        return PunctualLoop(self)

    def ear(self) -> MemoryEar:
        return self.memory.ear()

    def close(self) -> None: ...

    async def aclose(self) -> None: ...

    def after_fork(self) -> None: ...


class PunctualLoop:
    """The same for ``async def``."""

    def __init__(self, shared: PunctualShared) -> None:
        self._shared = shared

    async def perform(self, step: SharedStep, /) -> Reply:
        return self._shared.perform(step)


@pytest.mark.parametrize("colour", ["def", "async def"])
def test_slow_computations_of_a_batch_share_no_deadline(colour: str) -> None:
    """The budget is for what the shared layer costs: each result is stored, though all computations together take ten times as long."""
    clock, events = FakeClock(), list[Event]()
    shared = PunctualShared(clock)
    cache = Cache(policies=[Policy(name="all", match="*", ttl="1h")], shared=shared, clock=clock, listen=False, on_event=events.append)
    results: list[Any]

    if colour == "def":

        @cache.cached("square:{n}")
        def square(n: int) -> int:
            clock.advance(0.5)
            return n * n

        results = square.many([(n,) for n in range(5)])
    else:

        @cache.cached("square:{n}")
        async def asquare(n: int) -> int:
            clock.advance(0.5)
            return n * n

        results = asyncio.run(asquare.many([(n,) for n in range(5)]))

    assert results == [0, 1, 4, 9, 16]
    assert [event.name for event in events] == []
    assert len([step for step in shared.steps if isinstance(step, Fetch)]) == 1
    assert sorted(step.key for step in shared.steps if isinstance(step, Store)) == [f"square:{n}" for n in range(5)]


def test_a_batch_computes_each_key_once_and_keeps_the_order() -> None:
    """A call that is asked twice in one batch has one answer, in both places."""
    cache = Cache(policies=[Policy(name="all", match="*", ttl="1h")])
    computed: list[int] = []

    @cache.cached("square:{n}")
    def square(n: int) -> int:
        computed.append(n)
        return n * n

    assert square.many([(3,), (1,), (3,), (2,)]) == [9, 1, 9, 4]
    assert sorted(computed) == [1, 2, 3]
    assert square.many([]) == []
