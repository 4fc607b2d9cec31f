"""``many``: several calls in one trip, each key computed once, and one slow key costs the others nothing. What takes time beside the
shared layer is no trouble of the layer's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from cachesync import Cache, Event, MemoryShared, Policy, Settings
from cachesync.coordination.operations import Operations
from cachesync.core.settings import CoordinationSettings
from cachesync.core.steps import Failed, Fetch, Reply, SharedStep, Store
from cachesync.core.switches import place_of
from cachesync.errors import LayerError
from cachesync.layers.memory import MemoryEar
from cachesync.testing import FakeClock
from support.nodes import COLOURS, Caller, Colour, LoopThread


class PunctualShared:
    """A shared layer that fails every step whose deadline has passed, as Redis does, and notes what it was asked."""

    def __init__(self, clock: FakeClock) -> None:
        self.memory = MemoryShared(clock.monotonic)
        self.clock = clock
        self.steps: list[SharedStep] = []
        self.sync = self
        self.takes = 0.0
        """Seconds of the test's clock that each answer takes."""

    def perform(self, step: SharedStep, /) -> Reply:
        if step.deadline < self.clock.monotonic():
            return Failed(LayerError("too late"))
        self.steps.append(step)
        reply = self.memory.perform(step)
        self.clock.advance(self.takes)
        return reply

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


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("way", ["many", "cached_many"])
def test_keys_outside_of_a_ramp_take_no_time_from_those_inside(colour: Colour, loop: LoopThread, way: str) -> None:
    """What is only called takes longer than the shared layer is given; the others are found there, and are stored there."""
    clock, events, computed = FakeClock(), list[Event](), list[int]()
    shared = PunctualShared(clock)
    inside, outside = ([n for n in range(20) if (place_of(f"square:{n}") < 0.5) is is_inside] for is_inside in (True, False))

    def ask(numbers: list[int]) -> dict[int, int]:
        policy = Policy(name="all", match="*", ttl="1h", ramp=0.5)
        cache = Cache(policies=[policy], shared=shared, clock=clock, listen=False, on_event=events.append)
        caller = Caller(cache, colour, loop)

        def squares(numbers: list[int]) -> dict[int, int]:
            clock.advance(0.5)
            computed.extend(numbers)
            return {n: n * n for n in numbers}

        async def asquares(numbers: list[int]) -> dict[int, int]:
            return squares(numbers)

        async def square(n: int) -> int:
            return squares([n])[n]

        if way == "many":
            many = caller.cached("square:{n}")(square).many
            return dict(zip(numbers, caller.do(many, [(n,) for n in numbers]), strict=True))
        function: Any = cache.cached_many("square:{n}")(squares if colour == "def" else asquares)
        return dict(caller.do(function, numbers))

    assert ask(outside[:2] + inside[:3]) == {n: n * n for n in outside[:2] + inside[:3]}
    assert sorted(computed) == sorted(outside[:2] + inside[:3])
    computed.clear()
    assert ask(outside[:2] + inside[:4]) == {n: n * n for n in outside[:2] + inside[:4]}
    assert sorted(computed) == sorted([*outside[:2], inside[3]])
    assert [event.name for event in events] == []


@pytest.mark.parametrize("colour", COLOURS)
def test_what_is_not_cached_is_called_page_by_page_too(colour: Colour, loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not all of a long batch at once; and no key twice in one batch, as where it is cached."""
    monkeypatch.setattr(Operations.obtaining_many, "__kwdefaults__", {**(Operations.obtaining_many.__kwdefaults__ or {}), "page": 10})
    caller = Caller(Cache(policies=[Policy(name="all", match="*", ttl="1h")]), colour, loop)
    caller.cache.switch_here("all", "off")
    computed: list[int] = []
    under_way, most = [0], [0]

    async def work(n: int) -> int:
        computed.append(n)
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        if colour == "async def":
            await asyncio.sleep(0)
        under_way[0] -= 1
        return n * n

    square = caller.cached("square:{n}")(work)
    numbers = [*range(35), 3, *range(35)]
    for _ in range(2):
        assert caller.do(square.many, [(n,) for n in numbers]) == [n * n for n in numbers]
        assert sorted(computed) == list(range(35))
        computed.clear()
    assert most[0] == (10 if colour == "async def" else 1)


class SlowCodec:
    """Integers as text; each takes time of the test's clock to encode and to decode. Raises like any other."""

    name = "slow"

    def __init__(self, clock: FakeClock, *, encoding: float = 0.0, decoding: float = 0.0) -> None:
        self._clock = clock
        self.encoding = encoding
        self.decoding = decoding

    def encode(self, value: object, /) -> bytes:
        self._clock.advance(self.encoding)
        return str(value).encode()

    def decode(self, payload: bytes | memoryview, /) -> Any:
        self._clock.advance(self.decoding)
        return int(bytes(payload))


class Slow:
    """Two processes around a layer that fails what is asked too late. ``items(numbers)``, ``item(number)``: 10 times the number."""

    def __init__(self, colour: Colour, loop: LoopThread, **policy: Any) -> None:
        self.clock = FakeClock()
        self.shared = PunctualShared(self.clock)
        self.events: list[Event] = []
        self.codec = SlowCodec(self.clock)
        self.asked: list[list[int]] = []
        self.callers = [
            Caller(
                Cache(
                    Settings(coordination=CoordinationSettings(budget=0.25, max_lag=2.0)),
                    policies=[Policy(name="all", match="*", ttl="1h", **policy)],
                    shared=self.shared,
                    clock=self.clock,
                    listen=False,
                    on_event=self.events.append,
                ),
                colour,
                loop,
            )
            for _ in range(2)
        ]
        self.item, self.items = zip(*map(self._functions, self.callers), strict=True)

    def _functions(self, caller: Caller) -> tuple[Any, Any]:
        @caller.cached("item:{number}", codec=self.codec, tags=["items"])
        async def item(number: int) -> int:
            self.asked.append([number])
            return 10 * number

        how = caller.cache.cached_many("item:{number}", codec=self.codec, tags=["items"], same_as=item)
        if caller.colour == "def":

            def items(numbers: list[int]) -> dict[int, int]:
                self.asked.append(numbers)
                return {number: 10 * number for number in numbers}

            return item, how(items)

        async def aitems(numbers: list[int]) -> dict[int, int]:
            self.asked.append(numbers)
            return {number: 10 * number for number in numbers}

        return item, how(aitems)

    def trouble(self) -> list[str]:
        return [str(event) for event in self.events if event.name != "invalidated"]

    def stored(self) -> set[str]:
        return {step.key for trip in self.shared.steps for step in getattr(trip, "steps", (trip,)) if isinstance(step, Store)}

    def close(self) -> None:
        for caller in self.callers:
            caller.close()


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    with LoopThread() as loop:
        yield loop


@pytest.mark.parametrize("colour", COLOURS)
def test_values_that_take_long_to_encode_are_stored(colour: Colour, loop: LoopThread) -> None:
    """The budget is for what the shared layer costs. Those of a batch are encoded one after the other before the first is stored."""
    slow = Slow(colour, loop)
    slow.codec.encoding = 1.0
    assert slow.callers[0].do(slow.items[0], [1, 2, 3]) == {1: 10, 2: 20, 3: 30}
    assert slow.callers[0].do(slow.item[0], 4) == 40
    slow.callers[0].put("item:5", 50)
    slow.callers[0].do(slow.items[0].refresh, [1, 2])
    assert slow.trouble() == []
    asked = len(slow.asked)
    assert slow.callers[1].do(slow.items[1], [1, 2, 3, 4, 5]) == {1: 10, 2: 20, 3: 30, 4: 40, 5: 50}
    assert len(slow.asked) == asked
    slow.close()


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("consistency", ["bounded", "strict"])
def test_a_page_that_takes_long_to_decode_leaves_time_for_what_is_missing(colour: Colour, loop: LoopThread, consistency: str) -> None:
    """Its leases are asked for in time, and what it computes is stored; also where it is longer than the log is trusted."""
    slow = Slow(colour, loop, consistency=consistency)
    slow.callers[0].do(slow.items[0], [1, 2, 3])
    slow.codec.decoding = 1.0
    assert slow.callers[1].do(slow.items[1], [1, 2, 3, 4, 5]) == {1: 10, 2: 20, 3: 30, 4: 40, 5: 50}
    assert slow.asked == [[1, 2, 3], [4, 5]]
    assert slow.trouble() == []
    assert slow.stored() == {f"item:{number}" for number in range(1, 6)}
    get_many = slow.callers[0].cache.get_many if colour == "def" else slow.callers[0].cache.aget_many
    keys = [f"item:{number}" for number in range(1, 6)]
    assert slow.callers[0].do(get_many, keys) == {f"item:{number}": 10 * number for number in range(1, 6)}
    assert slow.trouble() == []
    slow.close()


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("consistency", ["bounded", "strict"])
def test_a_value_that_is_refused_after_it_was_decoded_is_computed_in_time(colour: Colour, loop: LoopThread, consistency: str) -> None:
    slow = Slow(colour, loop, consistency=consistency)
    slow.callers[0].do(slow.item[0], 1)
    slow.callers[1].stamp()
    slow.callers[1].drop(tags=["items"])
    slow.codec.decoding = 1.0
    assert slow.callers[1].do(slow.item[1], 1) == 10
    assert slow.asked == [[1], [1]]
    assert slow.trouble() == []
    slow.codec.decoding = 0.0
    assert slow.callers[0].do(slow.item[0], 1) == 10
    assert slow.asked == [[1], [1]]
    slow.close()


@pytest.mark.parametrize("colour", COLOURS)
def test_what_is_asked_too_late_says_nothing_about_the_layer(colour: Colour, loop: LoopThread) -> None:
    """The layer did not fail, so nobody leaves it alone; an event tells."""
    slow = Slow(colour, loop)
    slow.callers[0].stamp()
    slow.shared.takes = 0.3
    assert slow.callers[0].do(slow.item[0], 1) == 10
    slow.shared.takes = 0.0
    assert slow.stored() == set()
    [event] = [event for event in slow.events if event.name == "layer_failed"]
    assert event.fields == {
        "layer": "shared",
        "step": "Lease",
        "error": "it was asked when the time for it was over; the shared layer has not failed",
    }
    assert slow.callers[0].cache.health().status == "ok"
    assert slow.callers[0].do(slow.item[0], 2) == 20
    assert slow.stored() == {"item:2"}
    slow.close()
