"""Dependencies: what a value is made of ends it. Said inside the function, taken from its result, or inherited from what it calls.

One cache invalidates, another one has the copies; both listen to a real server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cachesync import Cache, MemoryShared, Policy, in_context
from cachesync.core.entry import MAX_DEPENDENCIES
from cachesync.core.settings import CoordinationSettings
from cachesync.testing import FakeClock
from support.nodes import COLOURS, LONG, Caller, Callers, Colour, LoopThread, Origin, read_log, use
from support.servers import Server


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    with LoopThread() as loop:
        yield loop


@pytest.fixture(params=COLOURS)
def colour(request: pytest.FixtureRequest) -> Colour:
    chosen: Colour = request.param
    return chosen


@pytest.fixture
def callers(server: Server, namespace: str, colour: Colour, loop: LoopThread) -> Iterator[Callers]:
    made = Callers(server.url, namespace, colour, loop)
    yield made
    made.close()


class Site:
    """The functions of one process: ``part(number)``, and ``whole(number)``, which comes to depend on it in one of several ways."""

    def __init__(self, caller: Caller, origin: Origin, way: str) -> None:
        self.caller = caller
        cache = caller.cache

        async def read() -> int:
            return int(await use(origin.aread if caller.colour == "async def" else origin.read))

        @caller.cached("part:{number}", tags=["piece:{number}"])
        async def part(number: int) -> int:
            return await read()

        @caller.cached("middle:{number}")
        async def middle(number: int) -> int:
            return int(await use(part, number))

        self.part = part

        async def whole(number: int) -> list[int]:
            if way == "a function it calls":
                value = await use(part, number)
            elif way == "a function that one it calls calls":
                value = await use(middle, number)
            elif way == "several it calls at once":
                value, _ = await use(part.many, [(number,), (number + 50,)])
            else:
                value = await read()
            if way == "said inside":
                cache.depends_on(f"part:{number}", tags=[f"piece:{number}"])
            return [number, value]

        def told(result: list[int]) -> list[str]:
            return [f"piece:{result[0]}"]

        how = {"tags_from": told} if way == "taken from its result" else {}
        self.whole = caller.cached("whole:{number}", **how)(whole)

    def read(self, number: int = 1) -> int:
        value: int = self.caller.do(self.whole, number)[1]
        return value


CALLING = ["a function it calls", "a function that one it calls calls", "several it calls at once"]
WAYS = ["said inside", "taken from its result", *CALLING]
ENDS: dict[str, Callable[[Caller], Any]] = {
    "key": lambda caller: caller.drop("part:1"),
    "prefix": lambda caller: caller.drop("part:1*"),
    "glob": lambda caller: caller.drop("*rt:1"),
    "tag": lambda caller: caller.drop(tags=["piece:1"]),
    "everything": lambda caller: caller.drop("*"),
}
CASES = [(way, end) for way in WAYS for end in ENDS if way != "taken from its result" or end in {"tag", "everything"}]


@pytest.mark.parametrize(("way", "end"), CASES)
def test_what_a_value_is_made_of_ends_it(callers: Callers, way: str, end: str) -> None:
    """In the process that invalidates, in one that hears of it, and in one that starts later; what is made of other parts stays."""
    origin = Origin()
    a, b = (Site(callers.new(), origin, way) for _ in range(2))
    assert [site.read(number) for number in (1, 2) for site in (a, b, a, b)] == [1] * 8
    origin.version = 2
    callers.apply(ENDS[end](a.caller))
    assert Site(callers.new(), origin, way).caller.get("whole:1") is None
    computed = origin.computations
    assert (b.read(), a.read(), b.read()) == (2, 2, 2)
    again = 2 if (way, end) == ("several it calls at once", "everything") else 1
    assert origin.computations == computed + again
    assert (a.read(2), b.read(2)) == ((1, 1) if end != "everything" else (2, 2))


@pytest.mark.parametrize("where", ["computed", "found in local memory", "found in Redis"])
@pytest.mark.parametrize("end", ENDS)
def test_an_answer_is_inherited_wherever_it_comes_from(callers: Callers, where: str, end: str) -> None:
    """A hit inside a computation is as much a part of the result as a computation."""
    origin = Origin()
    a, b = (Site(callers.new(), origin, "a function it calls") for _ in range(2))
    if where == "found in Redis":
        a.caller.do(a.part, 1)
    if where == "found in local memory":
        assert [b.caller.do(b.part, 1) for _ in range(2)] == [1, 1]
    assert (b.read(), b.read(), origin.computations) == (1, 1, 1)
    origin.version = 2
    callers.apply(ENDS[end](a.caller))
    assert b.read() == 2


@pytest.mark.parametrize(("way", "end"), CASES)
@pytest.mark.parametrize("by", ["itself", "another"])
def test_what_is_invalidated_after_it_was_used_is_not_stored_in_another_value(callers: Callers, way: str, end: str, by: str) -> None:
    """The whole has read its part and goes on computing when the part is invalidated: it is its caller's, and nobody else's."""
    origin = Origin()
    b = Site(callers.new(), origin, way)
    a = b if by == "itself" else Site(callers.new(), origin, way)
    b.caller.stamp()
    gate = origin.hold()
    early = b.caller.start(b.whole, 1)
    gate.wait()
    origin.version = 2
    callers.apply(ENDS[end](a.caller))
    late = b.caller.start(b.whole, 1)
    gate.open()
    assert early.result(LONG) == [1, 1]
    assert late.result(LONG) == [1, 2], "it came after the invalidation, so it is not given what is from before"
    assert Site(callers.new(), origin, way).read() == 2
    assert b.read() == 2


def test_more_dependencies_than_are_told_apart_are_anything(callers: Callers) -> None:
    """256 of them are kept one by one; with one more, every invalidation ends the value, whatever it names."""
    a, b = callers.new(), callers.new()
    origin = Origin()

    @b.cached("whole:{count}")
    async def whole(count: int) -> int:
        b.cache.depends_on(tags=[f"piece:{number}" for number in range(count)])
        return origin.read()

    few, many = MAX_DEPENDENCIES, MAX_DEPENDENCIES + 1
    assert [b.do(whole, count) for count in (few, many, few, many)] == [1] * 4
    origin.version = 2
    callers.apply(a.drop("something-else"))
    assert (b.do(whole, few), b.do(whole, many)) == (1, 2)
    origin.version = 3
    callers.apply(a.drop(tags=["piece:0"]))
    assert (b.do(whole, few), b.do(whole, many)) == (3, 3)


def test_where_bans_on_keys_are_forgotten_only_what_depends_on_keys_goes(callers: Callers) -> None:
    """The server's bound is exceeded. A process that starts later can not know which parts were invalidated: what is made of parts is
    dead to it, what stands alone is not.
    """
    small = CoordinationSettings(budget=LONG, max_lag=60.0, bans=100)
    origin = Origin()
    a = Site(callers.new(coordination=small), origin, "said inside")
    assert a.read() == 1
    a.caller.do(a.part, 7)
    for number in range(256):
        a.caller.drop(f"other:{number}")
    late = callers.new(coordination=small)
    assert late.get("part:7") == 1
    assert late.get("whole:1") is None


# --- how long it is fresh -----------------------------------------------------------------------------------------------------------


def timed(colour: Colour, loop: LoopThread, clock: FakeClock, *policies: Policy) -> Caller:
    cache = Cache(policies=policies, shared=MemoryShared(clock.monotonic), clock=clock, listen=False)
    return Caller(cache, colour, loop)


def test_a_value_is_fresh_no_longer_than_its_parts(colour: Colour, loop: LoopThread) -> None:
    """And its parts were computed before it was."""
    clock = FakeClock()
    policies = [Policy(name="parts", match="part:*", ttl="10m"), Policy(name="rest", match="*", ttl="1h")]
    origin = Origin()
    site = Site(timed(colour, loop, clock, *policies), origin, "a function that one it calls calls")
    site.caller.do(site.part, 1)
    clock.advance(400)
    assert site.read() == 1
    clock.advance(199)
    origin.version = 2
    assert site.read() == 1
    clock.advance(1)
    assert site.read() == 2
    site.caller.close()


def test_what_is_made_of_something_stale_is_its_callers_alone(colour: Colour, loop: LoopThread) -> None:
    """A part may be served stale while it is refreshed; what is made of it then was never fresh, and is stored nowhere."""
    clock = FakeClock()
    policies = [Policy(name="parts", match="part:*", ttl="1h", stale_while_revalidate="1h"), Policy(name="rest", match="*", ttl="1h")]
    origin = Origin()
    site = Site(timed(colour, loop, clock, *policies), origin, "a function that one it calls calls")
    site.caller.do(site.part, 1)
    gate = origin.hold()
    site.caller.drop("part:1", soft=True)
    origin.version = 2
    assert site.read() == 1, "while the part is refreshed"
    gate.wait()
    assert site.caller.get("whole:1") is None
    assert site.caller.get("middle:1") is None
    gate.open()
    site.caller.close()


# --- other threads and tasks --------------------------------------------------------------------------------------------------------


def test_what_a_pool_of_threads_reads_is_inherited_where_its_context_is_carried() -> None:
    """``in_context`` takes the computation along; an executor by itself knows nothing of it."""
    origin = Origin()
    with Cache(policies=[Policy(name="all", match="*", ttl="1h")]) as cache, ThreadPoolExecutor(2) as pool:

        @cache.cached("part:{number}")
        def part(number: int) -> int:
            return origin.read()

        @cache.cached("carried")
        def carried() -> int:
            return sum(pool.map(in_context(part), (1, 2)))

        @cache.cached("lost")
        def lost() -> int:
            return sum(pool.map(part, (1, 2)))

        assert (carried(), lost()) == (2, 2)
        origin.version = 2
        part.invalidate(2)
        assert (carried(), lost()) == (3, 2)


def test_what_tasks_and_threads_of_a_coroutine_read_is_inherited(loop: LoopThread) -> None:
    """They carry their context by themselves."""
    origin = Origin()
    with Cache(policies=[Policy(name="all", match="*", ttl="1h")]) as cache:

        @cache.cached("part:{number}")
        def part(number: int) -> int:
            return origin.read()

        @cache.cached("whole")
        async def whole() -> int:
            in_task = asyncio.create_task(asyncio.to_thread(part, 1))
            return await in_task + await asyncio.to_thread(part, 2)

        assert loop.run(whole()) == 2
        for number in (1, 2):
            origin.version += 1
            part.invalidate(number)
            assert loop.run(whole()) == origin.version + (1 if number == 1 else 2)


# --- several caches in one process ------------------------------------------------------------------------------------------------


class Beside:
    """Two caches of one process: ``part(number)`` of the one, and ``whole(number)`` of the other, which is made of it."""

    def __init__(self, colour: Colour, loop: LoopThread, *shared: MemoryShared, clock: FakeClock) -> None:
        self.origin = Origin()
        ttls = ("10s", "1h")
        self.inner, self.outer = (
            Caller(Cache(policies=[Policy(name="all", match="*", ttl=ttl)], shared=layer, clock=clock, listen=False), colour, loop)
            for ttl, layer in zip(ttls, shared, strict=True)
        )

        @self.inner.cached("part:{number}")
        async def part(number: int) -> int:
            return int(await use(self.origin.aread if colour == "async def" else self.origin.read))

        @self.outer.cached("whole:{number}")
        async def whole(number: int) -> list[int]:
            return [await use(part, number)]

        self.part, self.whole = part, whole

    def read(self) -> Any:
        return self.outer.do(self.whole, 1)

    def close(self) -> None:
        self.inner.close()
        self.outer.close()


def test_what_is_made_of_another_cache_that_is_a_moment_behind_is_not_stored(colour: Colour, loop: LoopThread) -> None:
    """It would be taken for as new as its own cache is, and nothing would ever end it."""
    clock = FakeClock()
    shared = MemoryShared(clock.monotonic)
    both = Beside(colour, loop, shared, shared, clock=clock)
    assert both.inner.do(both.part, 1) == 1
    both.outer.drop("part:1")
    both.origin.version = 2
    assert both.read() == [1], "the other cache has not heard of it, and may serve its copy for max_lag"
    assert read_log(both.inner.cache)
    assert both.read() == [2]
    stamp = both.inner.drop("part:1")
    assert read_log(both.outer.cache)
    both.origin.version = 3
    assert both.read() == [3], "where both have heard of it, it is inherited as ever"
    assert both.outer.do(both.whole.at_least, stamp, 1) == [3]
    both.close()


def test_of_a_cache_on_another_log_only_its_freshness_is_inherited(colour: Colour, loop: LoopThread) -> None:
    """Nobody here hears of its invalidations."""
    clock = FakeClock()
    both = Beside(colour, loop, MemoryShared(clock.monotonic), MemoryShared(clock.monotonic), clock=clock)
    assert (both.read(), both.read()) == ([1], [1]), "the first time neither knew the other's log"
    both.origin.version = 2
    both.inner.drop("part:1")
    assert both.read() == [1]
    clock.advance(10)
    assert both.read() == [2]
    stamp = both.outer.drop("other:1")
    assert both.outer.do(both.whole.at_least, stamp, 1) == [2]
    assert both.origin.computations == 2, "a stamp of the outer log means nothing to the inner one"
    both.close()
