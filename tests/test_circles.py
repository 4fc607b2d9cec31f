"""Computations that wait for each other: none does so for ever, in threads, tasks, batches, and processes.

What a computation asks for is computed by somebody else, who asks for what the first one computes. Without a cache each would just
compute what it needs, and so does whoever would close the circle. Two caches around one layer in memory stand for two processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest

from cachesync import Cache, MemoryShared, Policy, Settings
from cachesync.coordination.flights import Flight, begin_waiting, end_waiting, would_wait_for_itself
from cachesync.core.settings import CoordinationSettings
from cachesync.testing import FakeClock
from support.nodes import COLOURS, LONG, Caller, Colour, Gate, LoopThread, engine_of, finished, until, use

LEASE = 0.5
"""Seconds: the shortest there is."""


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    with LoopThread() as loop:
        yield loop


@pytest.fixture(params=COLOURS)
def colour(request: pytest.FixtureRequest) -> Colour:
    chosen: Colour = request.param
    return chosen


def caller_of(colour: Colour, loop: LoopThread, shared: MemoryShared | None = None, **policy: Any) -> Caller:
    settings = Settings(coordination=CoordinationSettings(budget=LONG, max_lag=10 * LONG, lease=LEASE))
    return Caller(Cache(settings, policies=[Policy(name="all", match="*", ttl="1h", **policy)], shared=shared, listen=False), colour, loop)


class Asking:
    """``item(number)`` and ``items(numbers)`` of one process. The first computation of what stands in ``asks`` waits at its gate and
    then asks for something else; all others only answer: ten times the number.
    """

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.asks: dict[Any, Callable[[], Any]] = {}
        self.gates: dict[Any, Gate] = {}
        self.computed: list[Any] = []

        @caller.cached("item:{number}")
        async def item(number: int) -> int:
            await self._compute(number)
            return 10 * number

        self.item = item
        self.items = self._many()

    def _many(self) -> Any:
        how = self.caller.cache.cached_many("batch:{number}")
        if self.caller.colour == "def":

            def items(numbers: list[int]) -> dict[int, int]:
                finished(self._compute(tuple(numbers)))
                return {number: 10 * number for number in numbers}

            return how(items)

        async def aitems(numbers: list[int]) -> dict[int, int]:
            await self._compute(tuple(numbers))
            return {number: 10 * number for number in numbers}

        return how(aitems)

    async def _compute(self, what: Any) -> None:
        self.computed.append(what)
        ask, gate = self.asks.pop(what, None), self.gates.get(what)
        if ask is not None and gate is not None:
            await use(gate.stand if self.caller.colour == "def" else gate.astand)
            await use(ask)

    def asking(self, what: Any, ask: Callable[[], Any]) -> None:
        self.asks[what], self.gates[what] = ask, Gate()

    def start(self, what: int | tuple[int, ...]) -> Future[Any]:
        """Begin to compute an item, or a batch, which then stands at its gate."""
        started = self.caller.start(self.item, what) if isinstance(what, int) else self.caller.start(self.items, list(what))
        self.gates[what].wait()
        return started

    def close(self) -> None:
        self.caller.close()


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("policy", [{}, {"hard_timeout": 10 * LONG}], ids=["waits", "has a timeout"])
def test_computations_that_ask_for_each_other_in_a_ring_end(colour: Colour, loop: LoopThread, count: int, policy: dict[str, Any]) -> None:
    """The one that would close it computes what it asks for, the others wait as always."""
    process = Asking(caller_of(colour, loop, **policy))
    for number in range(count):
        process.asking(number, partial(process.item, (number + 1) % count))
    started = [process.start(number) for number in range(count)]
    for gate in process.gates.values():
        gate.open()
    assert [one.result(LONG) for one in started] == [10 * number for number in range(count)]
    assert len(process.computed) == count + 1
    assert [process.caller.do(process.item, number) for number in range(count)] == [10 * number for number in range(count)]
    assert len(process.computed) == count + 1, "all of them are cached"
    process.close()


def test_the_ring_may_go_through_several_caches(colour: Colour, loop: LoopThread) -> None:
    one, two = Asking(caller_of(colour, loop)), Asking(caller_of(colour, loop))
    one.asking(1, partial(two.item, 2))
    two.asking(2, partial(one.item, 1))
    started = [one.start(1), two.start(2)]
    one.gates[1].open()
    two.gates[2].open()
    assert [each.result(LONG) for each in started] == [10, 20]
    assert sorted(one.computed + two.computed) in ([1, 1, 2], [1, 2, 2])
    one.close()
    two.close()


def test_batches_that_ask_for_each_others_items_end(colour: Colour, loop: LoopThread) -> None:
    """One call computes all items of a batch, so whoever waits for one of them waits for all."""
    process = Asking(caller_of(colour, loop))
    process.asking((1, 2), partial(process.items, [9, 3, 4]))
    process.asking((3, 4), partial(process.items, [1, 8, 2]))
    started = [process.start((1, 2)), process.start((3, 4))]
    for gate in process.gates.values():
        gate.open()
    assert [one.result(LONG) for one in started] == [{1: 10, 2: 20}, {3: 30, 4: 40}]
    assert sorted(process.computed) in ([(1, 2), (1, 2), (3, 4), (8,), (9,)], [(1, 2), (3, 4), (3, 4), (8,), (9,)]), "and one call for them"
    process.close()


def test_a_circle_may_close_between_two_waits_of_a_batch(colour: Colour, loop: LoopThread) -> None:
    """What a batch waits for it waits for one by one, and looks each time."""
    process = Asking(caller_of(colour, loop))
    process.asking((7,), lambda: None)
    process.asking((1, 2), partial(process.items, [7, 3]))
    process.asking((3, 4), partial(process.items, [1]))
    started = [process.start(numbers) for numbers in ((7,), (1, 2), (3, 4))]
    process.gates[1, 2].open()
    until(lambda: process.caller.cache.stats().total.joined == 1, "the first waits for 7")
    process.gates[3, 4].open()
    until(lambda: process.caller.cache.stats().total.joined == 2, "the second waits for 1")
    process.gates[7,].open()
    assert [one.result(LONG) for one in started] == [{7: 70}, {1: 10, 2: 20}, {3: 30, 4: 40}]
    assert process.computed == [(7,), (1, 2), (3, 4), (3,)]
    process.close()


def test_a_batch_and_a_single_call_may_ask_for_each_other(colour: Colour, loop: LoopThread) -> None:
    process = Asking(caller_of(colour, loop))
    process.asking((1, 2), partial(process.item, 3))
    process.asking(3, partial(process.items, [2]))
    started = [process.start((1, 2)), process.start(3)]
    for gate in process.gates.values():
        gate.open()
    assert [one.result(LONG) for one in started] == [{1: 10, 2: 20}, 30]
    process.close()


@pytest.mark.parametrize("led", [False, True], ids=["asked inside", "asked by others before"])
@pytest.mark.parametrize("what", ["items", "batches"])
def test_processes_whose_computations_ask_for_each_other_go_on_alone(colour: Colour, loop: LoopThread, what: str, *, led: bool) -> None:
    """Neither knows what the other waits for. When a lease has lived once without its holder, had he died, they compute what they need;
    also where others of their process wait for that lease already, and they for those.
    """
    shared = MemoryShared(FakeClock().monotonic)  # no lease of it ever lapses
    one, two = Asking(caller_of(colour, loop, shared)), Asking(caller_of(colour, loop, shared))
    first: int | tuple[int, ...]
    second: int | tuple[int, ...]
    first, second = (1, 2) if what == "items" else ((1, 3), (2, 4))

    def ask(process: Asking, number: int) -> Callable[[], Any]:
        return partial(process.item, number) if what == "items" else partial(process.items, [number])

    one.asking(first, ask(one, 2))
    two.asking(second, ask(two, 1))
    started = [one.start(first), two.start(second)]
    if led:
        others = [one.caller.start(ask(one, 2)), two.caller.start(ask(two, 1))]
        until(lambda: all(waiting_for_leases(process) for process in (one, two)), "they wait for the leases")
        started += others
    one.gates[first].open()
    two.gates[second].open()
    expected: list[Any] = [10, 20, 20, 10] if what == "items" else [{1: 10, 3: 30}, {2: 20, 4: 40}, {2: 20}, {1: 10}]
    assert [each.result(LONG) for each in started] == expected[: len(started)]
    late = Asking(caller_of(colour, loop, shared))
    assert late.caller.do(late.item if what == "items" else late.items, 1 if what == "items" else [1, 2]) in (10, {1: 10, 2: 20})
    assert late.computed == [], "what was computed under a lease is stored"
    for process in (one, two, late):
        process.close()


def waiting_for_leases(process: Asking) -> int:
    return len(engine_of(process.caller.cache).waiters)


def test_blocks_of_two_processes_that_read_what_the_other_replaces_end(colour: Colour, loop: LoopThread) -> None:
    """Each holds the lease that the other waits for."""
    shared = MemoryShared(FakeClock().monotonic)
    one, two = Asking(caller_of(colour, loop, shared)), Asking(caller_of(colour, loop, shared))
    gates = [Gate(), Gate()]

    def update(process: Asking, gate: Gate, mine: int, other: int) -> Any:
        with process.caller.cache.update(f"item:{mine}") as updating:
            gate.stand()
            value = process.item(other)
            updating.set(value + 1)
            return value

    async def aupdate(process: Asking, gate: Gate, mine: int, other: int) -> Any:
        async with process.caller.cache.aupdate(f"item:{mine}") as updating:
            await gate.astand()
            value = await process.item(other)
            await updating.set(value + 1)
            return value

    block = update if colour == "def" else aupdate
    started = [one.caller.start(block, one, gates[0], 1, 2), two.caller.start(block, two, gates[1], 2, 1)]
    for gate in gates:
        gate.wait()
    for gate in gates:
        gate.open()
    assert sorted(each.result(LONG) for each in started) in ([10, 20], [10, 11], [20, 21])
    one.close()
    two.close()


def test_who_waits_for_no_computation_waits_for_a_lease_as_long_as_it_takes(colour: Colour, loop: LoopThread) -> None:
    """Only inside of a computation could the holder wait for us. Everybody else waits, and computes nothing."""
    shared = MemoryShared(FakeClock().monotonic)
    one, two = Asking(caller_of(colour, loop, shared)), Asking(caller_of(colour, loop, shared))
    one.asking(1, lambda: None)
    holding = one.start(1)
    waiting = two.caller.start(two.item, 1)
    with pytest.raises(TimeoutError):
        waiting.result(3 * LEASE)
    one.gates[1].open()
    assert (holding.result(LONG), waiting.result(LONG)) == (10, 10)
    assert two.computed == []
    one.close()
    two.close()


def test_what_is_no_circle_is_waited_for() -> None:
    """A graph of who waits for whom, by hand."""
    a, b, c = (Flight(key, (), key) for key in "abc")
    assert begin_waiting({a}, b)
    assert begin_waiting({b}, c)
    assert begin_waiting({a}, c)
    assert not begin_waiting({c}, a)
    assert not begin_waiting({c}, c)
    assert begin_waiting(set(), a), "who is inside of nothing may wait for anything"
    assert (a.awaited, b.awaited, c.awaited) == (0, 1, 2)
    end_waiting({b}, c)
    assert would_wait_for_itself({c}, b) is False
    assert begin_waiting({c}, b)
    for inside, flight in ((a, b), (a, c), (c, b)):
        end_waiting({inside}, flight)
    assert [(flight.awaits, flight.awaited) for flight in (a, b, c)] == [([], 0)] * 3
