"""Shadow validation: a share of hits is computed again behind the caller's back, and a difference that stands is a stale incident.

No test waits for the grace: it is as short as can be, and what happens during it is done while a computation is held open.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cachesync import Cache, MemoryShared, Policies, Policy, RedisShared, Settings
from cachesync.coordination import shadow
from cachesync.coordination.events import Event
from cachesync.coordination.stats import FunctionStats
from cachesync.core.flows import Ask
from cachesync.core.settings import CoordinationSettings
from cachesync.core.steps import Begin, Failed, Rest, Store
from support.nodes import COLOURS, LONG, Caller, Colour, Gate, HoldingShared, LoopThread, Origin, operations_of, read_log, until, use
from support.servers import Server

SOON = 0.001


class OriginError(Exception):
    """What the origin raises."""


class Watched:
    """A process whose hits are all checked, and another one that invalidates. ``item(number)`` returns the origin's version."""

    def __init__(self, shared: Callable[[], Any] | None, colour: Colour, loop: LoopThread, **options: Any) -> None:
        self.origin = Origin()
        self.events: list[Event] = []
        self.layer = None if shared is None else HoldingShared(shared())
        how: dict[str, Any] = {"shadow": 1.0, **options}
        policy = Policy(name="all", match="*", ttl="1h", **how)
        settings = Settings(coordination=CoordinationSettings(budget=LONG, max_lag=10_000.0))
        cache = Cache(settings, policies=[policy], shared=self.layer, listen=False, on_event=self.events.append)
        self.caller = self.other = Caller(cache, colour, loop)
        if shared is not None:
            self.other = Caller(Cache(settings, policies=[policy], shared=shared(), listen=False), colour, loop)
        self.shadow = operations_of(self.caller.cache).shadow
        self.shadow.grace = lambda: SOON
        self.item = self._item(self.caller)
        self.its_item = self.item if shared is None else self._item(self.other)

    def _item(self, caller: Caller) -> Any:
        if caller.colour == "def":

            def item(number: int) -> Any:
                return self.origin.read()

            return caller.cache.cached("item:{number}", tags=["items"])(item)

        async def aitem(number: int) -> Any:
            return await self.origin.aread()

        return caller.cache.cached("item:{number}", tags=["items"])(aitem)

    def read(self, number: int = 1) -> Any:
        return self.caller.do(self.item, number)

    def cached(self, number: int = 1) -> None:
        """Let the value be cached without a check: a computation is no hit."""
        assert self.read(number) == self.origin.version
        assert self.shadow.under_way == 0

    def hear(self) -> None:
        if self.layer is not None:
            assert read_log(self.caller.cache)

    def wait(self) -> FunctionStats:
        """Wait until no check is under way. What has come of them."""
        until(lambda: self.shadow.under_way == 0, "checking")
        return self.counts

    @property
    def counts(self) -> FunctionStats:
        return self.caller.cache.stats().total

    def told(self, name: str) -> list[Event]:
        return [event for event in list(self.events) if event.name == name]

    def close(self) -> None:
        self.caller.close()
        if self.other is not self.caller:
            self.other.close()


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    with LoopThread() as loop:
        yield loop


@pytest.fixture(params=COLOURS)
def colour(request: pytest.FixtureRequest) -> Colour:
    chosen: Colour = request.param
    return chosen


@pytest.fixture(params=["alone", "memory", "redis"])
def layers(request: pytest.FixtureRequest, server: Server, namespace: str) -> Callable[[], Any] | None:
    memory = MemoryShared()
    if request.param == "redis":
        return lambda: RedisShared(server.url, namespace=namespace)
    return None if request.param == "alone" else lambda: memory


@pytest.fixture
def watched(layers: Callable[[], Any] | None, colour: Colour, loop: LoopThread) -> Iterator[Watched]:
    made = Watched(layers, colour, loop)
    yield made
    made.close()


# --- what is an incident ------------------------------------------------------------------------------------------------------------


def test_a_hit_that_is_still_right_is_compared_and_nothing_else(watched: Watched) -> None:
    """The caller has the cached value at once; the computation behind his back stores nothing and is told to nobody."""
    watched.cached()
    gate = watched.origin.hold()
    assert watched.read() == 1
    gate.wait()
    gate.open()
    counts = watched.wait()
    assert (counts.shadowed, counts.stale_incidents, counts.shadow_unstable, counts.stored) == (1, 0, 0, 1)
    assert watched.origin.computations == 2
    assert [event.name for event in watched.events if event.name != "invalidated"] == []


def test_a_forgotten_invalidation_is_a_stale_incident(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    """The data has changed and nobody said so: every hit is wrong. It is told with its key, and nothing is repaired."""
    watched.cached()
    watched.origin.version = 2
    assert watched.read() == 1
    counts = watched.wait()
    assert (counts.shadowed, counts.stale_incidents, counts.shadow_unstable) == (1, 1, 0)
    (event,) = watched.told("stale_incident")
    assert (event.fields["key"], event.fields["policy"], event.level) == ("item:1", "all", logging.ERROR)
    assert event.fields["age"] >= 0.0
    entry = watched.caller.peek("item:1")
    assert entry is not None
    assert (entry.value, event.fields["stamp"]) == (1, str(entry.stamp))
    assert watched.caller.cache.stats().events["stale_incident"] == 1
    assert [reason.name for reason in watched.caller.cache.health().reasons] == ["stale_incident"]


def test_a_hit_of_the_shared_layer_is_checked_too(colour: Colour, loop: LoopThread) -> None:
    """It was computed and stored by another process."""
    memory = MemoryShared()
    watched = Watched(lambda: memory, colour, loop)
    assert watched.other.do(watched.its_item, 1) == 1
    watched.origin.version = 2
    assert watched.read() == 1
    assert watched.wait().stale_incidents == 1
    watched.close()


def test_a_strict_hit_is_checked_too(colour: Colour, loop: LoopThread) -> None:
    """No copy of it is in this process: the second look is one into the shared layer."""
    memory = MemoryShared()
    watched = Watched(lambda: memory, colour, loop, consistency="strict")
    watched.cached()
    watched.origin.version = 2
    assert watched.read() == 1
    assert watched.wait().stale_incidents == 1
    watched.close()


@pytest.mark.parametrize("how", ["key", "tag", "soft", "set"])
@pytest.mark.parametrize("when", ["first", "second"])
def test_an_invalidation_that_comes_meanwhile_is_no_incident(watched: Watched, how: str, when: str) -> None:
    """It was on its way when the hit was served: during the first computation, or as late as during the second."""
    watched.cached()
    gates = [watched.origin.hold() for _ in range(1 if when == "first" else 2)]
    watched.origin.version = 2
    assert watched.read() == 1
    for gate in gates[:-1]:
        gate.wait()
        gate.open()
    gates[-1].wait()
    if how == "set":
        watched.other.do(watched.its_item.set, 2, 1)
    else:
        watched.other.drop(*([] if how == "tag" else ["item:1"]), tags=["items"] if how == "tag" else [], soft=how == "soft")
    watched.hear()
    gates[-1].open()
    counts = watched.wait()
    assert (counts.shadowed, counts.stale_incidents, counts.shadow_unstable) == (1, 0, 0)
    assert watched.told("stale_incident") == watched.told("shadow_unstable") == []


def test_an_invalidation_that_is_in_the_log_and_was_not_heard_is_no_incident(colour: Colour, loop: LoopThread) -> None:
    """Before anything is told, the master is asked where the log ends, and all of it is applied."""
    memory = MemoryShared()
    watched = Watched(lambda: memory, colour, loop)
    watched.cached()
    watched.origin.version = 2
    watched.other.drop("item:1")
    assert watched.read() == 1  # this process has not heard of it
    assert watched.wait().stale_incidents == 0
    watched.close()


def test_while_the_log_can_not_be_confirmed_nothing_is_told(colour: Colour, loop: LoopThread) -> None:
    """Nobody knows whether an invalidation has come."""
    memory = MemoryShared()
    watched = Watched(lambda: memory, colour, loop)
    watched.cached()
    gates = [watched.origin.hold(), watched.origin.hold()]
    watched.origin.version = 2
    assert watched.read() == 1
    gates[0].wait()
    gates[0].open()
    gates[1].wait()
    with memory.outage():
        gates[1].open()
        counts = watched.wait()
    assert (counts.shadowed, counts.stale_incidents, counts.shadow_dropped) == (0, 0, 1)
    watched.close()


def test_data_that_changes_between_the_two_computations_is_no_incident(watched: Watched) -> None:
    """And none that was changed back. A function that answers otherwise each time can not be checked, which is told once."""
    watched.cached()
    for version in (2, 4):
        gates = [watched.origin.hold(), watched.origin.hold()]
        watched.origin.version = version
        assert watched.read() == 1
        gates[0].wait()
        watched.origin.version = version + 1
        for gate in gates:
            gate.open()
        counts = watched.wait()
    assert (counts.shadowed, counts.stale_incidents, counts.shadow_unstable) == (2, 0, 2)
    (event,) = watched.told("shadow_unstable")
    assert event.fields == {"key": "item:1", "policy": "all"}
    gates = [watched.origin.hold(), watched.origin.hold()]
    assert watched.read() == 1
    gates[0].wait()
    watched.origin.version = 1
    for gate in gates:
        gate.open()
    assert watched.wait().stale_incidents == 0


def test_a_computation_that_fails_is_told_and_no_incident(watched: Watched) -> None:
    """The first one or the second. Its caller has the cached value, and sees nothing of it."""
    watched.cached()
    watched.origin.fail(OriginError("not today"))
    assert watched.read() == 1
    assert watched.wait().shadow_failed == 1
    watched.origin.version = 2
    gates = [watched.origin.hold(), watched.origin.hold()]
    assert watched.read() == 1
    gates[0].wait()
    gates[0].open()
    gates[1].wait()
    watched.origin.fail(OriginError("nor tomorrow"))
    gates[1].open()
    counts = watched.wait()
    assert (counts.shadow_failed, counts.stale_incidents) == (2, 0)
    assert [event.fields["error"] for event in watched.told("shadow_failed")] == ["OriginError('not today')", "OriginError('nor tomorrow')"]


def test_a_check_is_no_part_of_the_computation_that_had_the_hit(colour: Colour, loop: LoopThread) -> None:
    """What it computes may need that computation, and waits for it as anybody does."""
    watched = Watched(None, colour, loop)
    gate, pages, needs = Gate(), list[int](), list[bool]()

    @watched.caller.cached("part:{number}")
    async def part(number: int) -> int:
        return int(await use(page, number)) if needs else 1

    @watched.caller.cached("page:{number}")
    async def page(number: int) -> int:
        pages.append(number)
        found: int = await use(part, number)
        if not gate.is_reached:
            await gate.astand() if colour == "async def" else gate.stand()
        return found

    assert watched.caller.do(part, 1) == 1
    needs.append(True)
    reading = watched.caller.start(page, 1)
    gate.wait()
    until(lambda: watched.counts.joined or len(pages) > 1, "the check needs the page")
    gate.open()
    assert reading.result(LONG) == 1
    assert watched.wait().shadowed == 1
    assert pages == [1]
    watched.close()


def test_a_function_that_is_left_alone_is_not_computed_to_be_compared(colour: Colour, loop: LoopThread) -> None:
    """``errors`` says so for everybody, for as long as it takes."""
    watched = Watched(None, colour, loop, errors="1h")
    watched.cached()
    engine = operations_of(watched.caller.cache).engine
    ask = _asked(watched, "item:1")
    engine.rest(Rest(ask, engine.begin(Begin(0)), Failed(OriginError("not today"))))
    assert watched.read() == 1
    assert watched.wait().shadow_dropped == 1
    assert watched.origin.computations == 1
    watched.close()


def test_what_is_computed_from_something_stale_says_nothing(colour: Colour, loop: LoopThread) -> None:
    """The page would be compared with one that is made of an old item."""
    memory = MemoryShared()
    watched = Watched(lambda: memory, colour, loop, shadow=0.0, stale_while_revalidate="1h")
    versions = {"value": 1}

    @watched.caller.cached("page:{number}")
    async def page(number: int) -> list[Any]:
        return [versions["value"], await use(watched.item, number)]

    watched.cached()
    assert watched.caller.do(page, 1) == [1, 1]
    engine = operations_of(watched.caller.cache).engine
    ask = _asked(watched, "page:1")
    served = engine.at_hand(ask)
    assert served is not None
    watched.caller.drop("item:1", soft=True)
    versions["value"] = 2
    gate = watched.origin.hold()
    _check(watched, ask, served)
    counts = watched.wait()
    gate.open()
    assert (counts.shadowed, counts.shadow_dropped, counts.stale_incidents) == (0, 1, 0)
    watched.close()


def _asked(watched: Watched, key: str) -> Ask:
    site, address = watched.caller.cache._registry.find(key)  # pyright: ignore[reportPrivateUsage] - a hit that no door would sample now
    return operations_of(watched.caller.cache).engine.ask(site, address, (1,))


def _check(watched: Watched, ask: Any, served: Any) -> None:
    """As a hit does it that is one of the share."""

    async def check() -> None:
        watched.shadow.check(ask, served.value, served.stamp, served.made)

    if watched.caller.colour == "async def":
        watched.caller.loop.run(check())
    else:
        watched.shadow.check(ask, served.value, served.stamp, served.made)


# --- comparing ----------------------------------------------------------------------------------------------------------------------


def test_values_are_compared_as_their_codec_writes_them(colour: Colour, loop: LoopThread) -> None:
    """A set has no order. A value that a caller has changed is found out."""
    watched = Watched(None, colour, loop)
    numbers = itertools.count()

    @watched.caller.cached("set:{number}")
    async def names(number: int) -> set[str]:
        return {"b", "a"} if next(numbers) else {"a", "b"}

    first = watched.caller.do(names, 1)
    assert watched.caller.do(names, 1) == {"a", "b"}
    assert watched.wait().shadowed == 1
    first.add("c")
    assert watched.caller.do(names, 1) == {"a", "b", "c"}
    assert watched.wait().stale_incidents == 1
    watched.close()


class Opaque:
    """Has no bytes, and is equal to what has the same number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque) and other.number == self.number

    __hash__ = None  # type: ignore[assignment]


def test_values_without_bytes_are_compared_as_they_are(colour: Colour, loop: LoopThread) -> None:
    watched = Watched(None, colour, loop)

    @watched.caller.cached("opaque:{number}")
    async def opaque(number: int) -> Opaque:
        return Opaque(watched.origin.version)

    for _ in range(2):
        watched.caller.do(opaque, 1)
    assert (watched.wait().shadowed, watched.counts.stale_incidents) == (1, 0)
    watched.origin.version = 2
    watched.caller.do(opaque, 1)
    assert watched.wait().stale_incidents == 1
    watched.close()


# --- which hits ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("many", [False, True])
def test_the_share_is_a_share_of_hits(colour: Colour, loop: LoopThread, monkeypatch: pytest.MonkeyPatch, many: bool) -> None:
    """Each hit is one of them with this probability, whichever layer it came from and however it was asked for."""
    drawn = iter([0.5, 0.24, 0.25, 0.0, 0.9])
    monkeypatch.setattr(random, "random", lambda: next(drawn))
    watched = Watched(None, colour, loop, shadow=0.25)
    watched.cached()
    for _ in range(5):
        assert (watched.caller.do(watched.item.many, [(1,)]) if many else watched.read()) in (1, [1])
        watched.wait()
    assert watched.counts.shadowed == 2
    assert next(drawn, None) is None
    watched.close()


def test_items_of_a_function_of_many_arguments_are_checked_one_by_one(colour: Colour, loop: LoopThread) -> None:
    watched = Watched(None, colour, loop)
    asked: list[list[int]] = []
    how = watched.caller.cache.cached_many("many:{number}")
    many: Any
    if colour == "def":

        @how
        def plain(numbers: list[int]) -> dict[int, int]:
            asked.append(numbers)
            return dict.fromkeys(numbers, watched.origin.version)

        many = plain
    else:

        @how
        async def awaited(numbers: list[int]) -> dict[int, int]:
            asked.append(numbers)
            return dict.fromkeys(numbers, watched.origin.version)

        many = awaited
    assert watched.caller.do(many, [1, 2]) == {1: 1, 2: 1}
    watched.origin.version = 2
    assert watched.caller.do(many, [1, 2]) == {1: 1, 2: 1}
    assert watched.wait().stale_incidents == 2
    assert sorted(asked[1:]) == [[1], [1], [2], [2]]
    watched.close()


def test_what_a_caller_brings_to_compute_is_computed_again(colour: Colour, loop: LoopThread) -> None:
    watched = Watched(None, colour, loop)
    numbers = itertools.count()
    for _ in range(2):
        assert watched.caller.get_or_compute("a", lambda: next(numbers)) == 0
    assert watched.wait().shadow_unstable == 1
    watched.close()


def test_what_can_not_be_computed_is_not_checked(watched: Watched) -> None:
    """`get` knows a key and no function to call. What was stale, or was computed just now, is no hit either."""
    watched.cached()
    assert watched.caller.get("item:1") == 1
    assert watched.read(2) == 1
    assert (watched.wait().shadowed, watched.counts.shadow_dropped) == (0, 0)
    assert watched.origin.computations == 2


def test_without_a_share_nothing_is_checked(colour: Colour, loop: LoopThread) -> None:
    """And a hit does not even look whether it should be."""
    watched = Watched(None, colour, loop, shadow=0.0)
    watched.cached()
    for _ in range(10):
        assert watched.read() == 1
    assert watched.origin.computations == 1
    assert "_cs_random" not in watched.item.__code__.co_names
    watched.close()


# --- bounds and ends ----------------------------------------------------------------------------------------------------------------


def test_a_key_is_checked_once_at_a_time(watched: Watched) -> None:
    """What comes meanwhile is served as ever, and counted."""
    watched.cached()
    gate = watched.origin.hold()
    assert [watched.read() for _ in range(3)] == [1, 1, 1]
    gate.open()
    counts = watched.wait()
    assert (counts.shadowed, counts.shadow_dropped) == (1, 2)


def test_so_many_are_checked_at_once(colour: Colour, loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow function can not pile them up. A ``def`` has two threads for them."""
    monkeypatch.setattr(shadow, "MAX_UNDER_WAY", 3)
    watched = Watched(None, colour, loop)
    for number in range(5):
        watched.cached(number)
    gates = [watched.origin.hold() for _ in range(3)]
    assert [watched.read(number) for number in range(5)] == [1] * 5
    assert (watched.shadow.under_way, watched.counts.shadow_dropped) == (3, 2)
    for gate in gates:
        gate.open()
    assert watched.wait().shadowed == 3
    watched.close()


def test_what_waits_to_be_confirmed_ends_with_the_cache(colour: Colour, loop: LoopThread) -> None:
    """It is counted, nothing is computed any more, and no thread stays behind."""
    watched = Watched(None, colour, loop)
    watched.shadow.grace = lambda: LONG if colour == "def" else 0.05
    watched.cached()
    watched.origin.version = 2
    assert watched.read() == 1
    until(lambda: watched.origin.computations == 2, "the first computation")
    until(lambda: colour == "async def" or any(isinstance(one, threading.Timer) for one in threading.enumerate()), "the waiting")
    watched.close()
    counts = watched.wait()
    assert (counts.shadowed, counts.stale_incidents, counts.shadow_dropped) == (0, 0, 1)
    assert watched.origin.computations == 2
    until(lambda: not any(isinstance(one, threading.Timer) for one in threading.enumerate()), "the end of the thread")


def test_the_grace_is_that_of_now(colour: Colour, loop: LoopThread) -> None:
    """A reload that shortens `max_lag` shortens the waiting of every check that is confirmed after it."""

    def made(max_lag: float) -> Settings:
        coordination = CoordinationSettings(budget=LONG, max_lag=max_lag)
        return Settings(coordination=coordination, policies=Policies([Policy(name="all", match="*", ttl="1h", shadow=1.0)]))

    cache = Cache(made(10_000.0))
    caller = Caller(cache, colour, loop)
    versions = itertools.count(1)
    assert caller.get_or_compute("a", lambda: next(versions)) == 1
    caller.do(cache.reload if colour == "def" else cache.areload, made(0.05))
    assert caller.get_or_compute("a", lambda: next(versions)) == 1
    until(lambda: cache.stats().total.shadow_unstable == 1, "confirming")
    caller.close()


def test_a_computation_that_is_under_way_when_the_cache_closes_is_the_last(colour: Colour, loop: LoopThread) -> None:
    watched = Watched(None, colour, loop)
    watched.cached()
    watched.origin.version = 2
    gate: Gate = watched.origin.hold()
    assert watched.read() == 1
    gate.wait()
    watched.close()
    gate.open()
    counts = watched.wait()
    assert (counts.shadowed, counts.shadow_dropped) == (0, 1)
    assert watched.read() in (1, 2)
    assert watched.wait().shadow_dropped >= 1
    assert watched.origin.computations <= 3


def test_a_loop_that_ends_ends_its_checks() -> None:
    """They are counted, and nothing is left unawaited."""
    cache = Cache(policies=[Policy(name="all", match="*", ttl="1h", shadow=1.0)])
    gate = asyncio.Event()
    calls: list[int] = []

    @cache.cached("item:{number}")
    async def item(number: int) -> int:
        calls.append(number)
        if len(calls) > 1:
            await gate.wait()
        return number

    async def main() -> None:
        assert [await item(1), await item(1)] == [1, 1]
        await asyncio.sleep(0)

    asyncio.run(main())
    assert operations_of(cache).shadow.under_way == 0
    assert cache.stats().total.shadow_dropped == 1


def test_a_coroutine_that_is_driven_by_hand_has_no_loop_for_checks() -> None:
    cache = Cache(policies=[Policy(name="all", match="*", ttl="1h", shadow=1.0)])

    @cache.cached("item:{number}")
    async def item(number: int) -> int:
        return number

    asyncio.run(item(1))
    with pytest.raises(StopIteration) as end:
        item(1).send(None)
    assert end.value.value == 1
    assert cache.stats().total.shadow_dropped == 1


def test_a_codec_that_fails_is_compared_without() -> None:
    """Bytes are a way to compare, and not the only one."""

    class Broken:
        name = "broken"

        def encode(self, value: object, /) -> bytes:
            raise ValueError("no bytes today")

        def decode(self, payload: bytes | memoryview, /) -> Any:
            raise AssertionError("nothing is stored")

    cache = Cache(policies=[Policy(name="all", match="*", ttl="1h", shadow=1.0)])

    @cache.cached("item:{number}", codec=Broken())
    def item(number: int) -> int:
        return number

    assert [item(1), item(1)] == [1, 1]
    until(lambda: cache.stats().total.shadowed == 1, "comparing")
    cache.close()


def test_values_that_can_not_be_compared_are_told() -> None:
    """What ``==`` raises harms nobody."""

    class Stubborn:
        def __eq__(self, other: object) -> bool:
            raise TypeError("nothing is like me")

        __hash__ = None  # type: ignore[assignment]

    events: list[Event] = []
    cache = Cache(policies=[Policy(name="all", match="*", ttl="1h", shadow=1.0)], on_event=events.append)

    @cache.cached("item:{number}")
    def item(number: int) -> Any:
        return Stubborn()

    for _ in range(2):
        item(1)
    until(lambda: [event.name for event in events] == ["shadow_failed"], "telling")
    assert cache.stats().total.shadow_failed == 1
    cache.close()


def test_nothing_of_a_check_is_stored(colour: Colour, loop: LoopThread) -> None:
    """Neither here nor in the shared layer: there may be an invalidation on its way that the computation has not seen."""
    memory = MemoryShared()
    watched = Watched(lambda: memory, colour, loop)
    watched.cached()
    assert watched.layer is not None
    watched.origin.version = 2
    steps = watched.layer.count(Store)
    assert watched.read() == 1
    watched.wait()
    assert watched.layer.count(Store) == steps
    assert (watched.caller.get("item:1"), watched.counts.stored) == (1, 1)
    watched.close()


def test_what_a_policy_masks_is_not_told(colour: Colour, loop: LoopThread) -> None:
    watched = Watched(None, colour, loop, mask=["number"])
    watched.cached(4711)
    watched.origin.version = 2
    assert watched.read(4711) == 1
    watched.wait()
    (event,) = watched.told("stale_incident")
    assert "4711" not in str(event)
    watched.close()


def test_a_forked_child_begins_with_no_checks(loop: LoopThread) -> None:
    """The parent's go on in the parent, which alone has the threads."""
    watched = Watched(None, "def", loop)
    watched.cached()
    gate = watched.origin.hold()
    assert watched.read() == 1
    gate.wait()
    operations_of(watched.caller.cache).after_fork()
    assert watched.shadow.under_way == 0
    assert watched.read() == 1
    assert watched.wait().shadowed == 1
    gate.open()
    watched.close()
