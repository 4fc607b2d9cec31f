"""Warming: what is declared is computed before anybody asks, by one process of all, and never against an invalidation."""

from __future__ import annotations

import base64
import gc
import io
import json
import os
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import Future
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest

from cachesync import Cache, KeyArgumentError, KeyTemplateError, LayerError, MemoryShared, Policy, PolicyError, Settings, Warmed
from cachesync.command_line.warm import Progress
from cachesync.coordination import warmer
from cachesync.coordination.events import Event
from cachesync.core.settings import CoordinationSettings, WarmingSettings
from cachesync.core.steps import Failed, Fetch, Lease, Replies, Reply, SharedStep, Store, Together
from cachesync.core.switches import place_of
from cachesync.protocols import Shared
from cachesync.testing import FakeClock
from support.commands import Printed, Run, call, forget_settings
from support.desk import Desk
from support.nodes import COLOURS, LONG, Caller, Colour, HoldingShared, LoopThread, Origin, engine_of, operations_of, until, use
from support.scripts import Script
from support.servers import Server

TESTS: Final = Path(__file__).parent
UNTOLD: Final = [f"item:{number}" for number in range(3)]


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    with LoopThread() as thread:
        yield thread


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever warms by itself looks every 20 ms, and tries again soon what has failed."""
    monkeypatch.setattr(warmer, "LOOK", 0.02)
    monkeypatch.setattr(warmer, "RETRY", 0.2)


class Shop(Caller):
    """A process, as far as the cache is concerned, with a cached function of one colour: ``item(number)``, key ``item:{number}``.

    ``names`` is what the policy declares, ``calls`` what the decorator does. Each computation is noted in ``computed``.
    """

    def __init__(
        self,
        shared: Shared | None,
        origin: Origin,
        *,
        colour: Colour,
        loop: LoopThread,
        names: Any = (),
        calls: Any = None,
        spread: float = 0.0,
        concurrency: int = 4,
        pause: float = 0.0,
        clock: FakeClock | None = None,
        encryption_keys: str | None = None,
        enabled: bool = True,
        **policy: Any,
    ) -> None:
        self.events: list[Event] = []
        coordination = CoordinationSettings(max_lag=60.0, budget=LONG, lease=2.0)
        warming = WarmingSettings(spread=spread, concurrency=concurrency, pause=pause)
        settings = Settings(coordination=coordination, warming=warming, enabled=enabled)
        options: dict[str, Any] = {"ttl": "1h"} | policy
        items = Policy(name="items", match="item:*", warm=names, **options)
        policies = [items, Policy(name="others", match="*", ttl="1h")]
        super().__init__(
            Cache(settings, policies=policies, shared=shared, on_event=self.events.append, clock=clock, encryption_keys=encryption_keys),
            colour,
            loop,
        )
        self.origin = origin
        self.computed: list[int] = []
        self.item: Any
        decorate = self.cache.cached("item:{number}", warm=calls)
        if colour == "def":

            @decorate
            def item(number: int) -> int:
                self.computed.append(number)
                return origin.read()

            self.item = item
        else:

            @decorate
            async def aitem(number: int) -> int:
                self.computed.append(number)
                return await origin.aread()

            self.item = aitem

    def warm(self, *policies: str, **how: Any) -> Warmed:
        warmed: Warmed = self.start_warm(*policies, **how).result(LONG)
        return warmed

    def start_warm(self, *policies: str, **how: Any) -> Future[Any]:
        return self.start(self.cache.warm if self.colour == "def" else self.cache.awarm, *policies, **how)

    def warm_behind(self) -> None:
        """From now on: in a thread, or in a task of the loop."""
        if self.colour == "def":
            self.cache.warm_behind()
        else:
            self.loop.run(self._behind())

    async def _behind(self) -> None:
        self.cache.warm_behind()

    def told(self, name: str) -> list[Mapping[str, Any]]:
        return [event.fields for event in self.events if event.name == name]

    def read(self, number: int) -> int:
        value: int = self.do(self.item, number)
        return value


def counts(warmed: Warmed) -> tuple[int, int, int, int]:
    return warmed.computed, warmed.fresh, warmed.failed, warmed.skipped


# --- by call ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", COLOURS)
def test_what_a_policy_names_is_computed_once_in_all_processes(colour: Colour, loop: LoopThread) -> None:
    """Who comes second finds it fresh, and whoever asks then has a hit."""
    shared, origin = MemoryShared(), Origin()
    first, second = (Shop(shared, origin, colour=colour, loop=loop, names=UNTOLD) for _ in range(2))
    warmed = first.warm()
    assert (warmed.total, *counts(warmed)) == (3, 3, 0, 0, 0)
    assert counts(second.warm()) == (0, 3, 0, 0)
    assert (sorted(first.computed), second.computed) == ([0, 1, 2], [])
    assert [second.read(number) for number in range(3)] == [1, 1, 1]
    (event,) = first.told("warmed")
    assert (event["computed"], event["fresh"], event["failed"], event["skipped"]) == (3, 0, 0, 0)
    assert origin.computations == 3


@pytest.mark.parametrize("colour", COLOURS)
def test_without_a_shared_layer_each_process_warms_its_own(colour: Colour, loop: LoopThread) -> None:
    """And holds it in its memory."""
    shop = Shop(None, Origin(), colour=colour, loop=loop, names=UNTOLD)
    assert counts(shop.warm()) == (3, 0, 0, 0)
    assert counts(shop.warm()) == (0, 3, 0, 0)
    assert shop.read(2) == 1
    assert len(shop.computed) == 3


@pytest.mark.parametrize("colour", COLOURS)
def test_two_rounds_at_once_compute_each_key_once(colour: Colour, loop: LoopThread) -> None:
    """In one process or in two: the second waits for what the first computes, as any caller does."""
    shared, origin = MemoryShared(), Origin()
    first, second = (Shop(shared, origin, colour=colour, loop=loop, names=UNTOLD, concurrency=3) for _ in range(2))
    gates = [origin.hold() for _ in range(3)]
    rounds = [first.start_warm()]
    for gate in gates:
        gate.wait()
    rounds += [first.start_warm(), second.start_warm()]
    for gate in gates:
        gate.open()
    for one in rounds:
        assert one.result(LONG).failed == 0
    assert origin.computations == 3


@pytest.mark.parametrize("colour", COLOURS)
def test_what_is_stale_is_computed_and_not_served(colour: Colour, loop: LoopThread) -> None:
    """A value in its stale window is none that a warm cache has."""
    clock = FakeClock()
    shared, origin = MemoryShared(clock.monotonic), Origin()
    stale: dict[str, Any] = {"ttl": 10, "stale_while_revalidate": 600, "stale_if_error": 600}
    first, second = (Shop(shared, origin, colour=colour, loop=loop, names=UNTOLD, clock=clock, **stale) for _ in range(2))
    assert counts(first.warm()) == (3, 0, 0, 0)
    clock.advance(11)
    origin.version = 2
    assert counts(second.warm()) == (3, 0, 0, 0)
    assert counts(first.warm()) == (0, 3, 0, 0)
    assert first.read(1) == 2


@pytest.mark.parametrize("colour", COLOURS)
def test_an_old_value_that_stands_in_for_a_failure_is_no_success(colour: Colour, loop: LoopThread) -> None:
    """The key counts as failed, also where callers would be served a spare."""
    clock, origin = FakeClock(), Origin()
    shop = Shop(None, origin, colour=colour, loop=loop, names=["item:1"], clock=clock, ttl=10, stale_if_error=600)
    shop.warm()
    clock.advance(11)
    origin.fail(LookupError("not today"))
    assert counts(shop.warm()) == (0, 0, 1, 0)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_key_that_fails_ends_nothing(colour: Colour, loop: LoopThread) -> None:
    """The others are computed; the first errors are told, each with its key, and so does an event."""
    shop = Shop(MemoryShared(), Origin(), colour=colour, loop=loop, names=[*UNTOLD, "item:x:y", "item:~none"], concurrency=1)
    shop.origin.fail(LookupError("not today"))
    warmed = shop.warm()
    assert (warmed.total, *counts(warmed)) == (5, 3, 0, 2, 0)
    assert shop.origin.computations == 4
    missing, failed = warmed.errors
    assert "no function here has the key 'item:x:y'" in missing and missing.startswith("policy.items.warm: ")
    assert failed == "item:0: LookupError('not today')"
    assert [one["error"] for one in shop.told("warming_failed")] == [missing, failed]
    assert {one["policy"] for one in shop.told("warming_failed")} == {"items"}


@pytest.mark.parametrize("colour", COLOURS)
def test_an_invalidation_in_the_middle_wins(colour: Colour, loop: LoopThread) -> None:
    """What was computed before it is not stored after it, in this process or another."""
    shared, origin = MemoryShared(), Origin()
    shop, other = (Shop(shared, origin, colour=colour, loop=loop, names=["item:1"]) for _ in range(2))
    gate = origin.hold()
    warming = shop.start_warm()
    gate.wait()
    origin.version = 2
    stamp = other.drop("item:1")
    gate.open()
    warming.result(LONG)
    assert other.get("item:1") is None
    until(lambda: shop.has_applied(stamp))
    assert shop.get("item:1") is None
    assert [shop.read(1), other.read(1)] == [2, 2]


@pytest.mark.parametrize("colour", COLOURS)
def test_so_many_are_computed_at_once_and_no_more(colour: Colour, loop: LoopThread) -> None:
    """The origin is bounded by ``concurrency``, of the settings or of the call."""
    names = [f"item:{number}" for number in range(6)]
    for how, most in (({}, 2), ({"concurrency": 3}, 3)):
        origin = Origin()
        shop = Shop(MemoryShared(), origin, colour=colour, loop=loop, names=names, concurrency=2)
        gates = [origin.hold() for _ in range(6)]
        warming = shop.start_warm(**how)
        for gate in gates[:most]:
            gate.wait()
        assert origin.computations == most
        for gate in gates:
            gate.open()
        assert counts(warming.result(LONG)) == (6, 0, 0, 0)


@pytest.mark.parametrize("colour", COLOURS)
def test_progress_is_told_the_sums_after_each_key(colour: Colour, loop: LoopThread) -> None:
    """How many there are is known from the beginning; what it raises ends the round, and reaches whoever began it."""
    shop = Shop(MemoryShared(), Origin(), colour=colour, loop=loop, names=UNTOLD, concurrency=1)
    seen: list[Warmed] = []
    shop.warm(progress=seen.append)
    assert [(warmed.done, warmed.total) for warmed in seen] == [(1, 3), (2, 3), (3, 3)]
    shop.drop("*")

    def tired(warmed: Warmed) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        shop.warm(progress=tired)
    (event,) = shop.told("warming_stopped")
    assert (event["computed"], event["skipped"]) == (1, 2)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_dry_run_looks_and_computes_nothing(colour: Colour, loop: LoopThread) -> None:
    """What would be computed counts as skipped."""
    shop = Shop(MemoryShared(), Origin(), colour=colour, loop=loop, names=UNTOLD)
    shop.read(1)
    assert counts(shop.warm(dry_run=True)) == (0, 1, 0, 2)
    assert shop.computed == [1]
    assert shop.told("warmed") == []


@pytest.mark.parametrize("colour", COLOURS)
def test_only_some_policies_are_warmed_where_they_are_named(colour: Colour, loop: LoopThread) -> None:
    """A name that is none is an error with the nearest."""
    shop = Shop(MemoryShared(), Origin(), colour=colour, loop=loop, names=UNTOLD)
    assert shop.warm("others") == Warmed(seconds=shop.cache.stats().warming.last.seconds)
    assert shop.warm("items").computed == 3
    with pytest.raises(PolicyError, match=r"policy\.item: there is no such policy; did you mean 'items'\?"):
        shop.warm("item")


@pytest.mark.parametrize("colour", COLOURS)
def test_where_caching_is_switched_off_nothing_is_warmed(colour: Colour, loop: LoopThread) -> None:
    """It could not be stored."""
    shop = Shop(None, Origin(), colour=colour, loop=loop, names=UNTOLD, enabled=False)
    assert counts(shop.warm()) == (0, 0, 0, 0)
    assert shop.computed == []


@pytest.mark.parametrize("colour", COLOURS)
def test_what_is_switched_off_in_the_middle_is_computed_no_more(colour: Colour, loop: LoopThread) -> None:
    """The keys that are left are skipped: whoever asks for them would compute them all the same."""
    shop = Shop(MemoryShared(), Origin(), colour=colour, loop=loop, names=UNTOLD, concurrency=1)

    def switch(warmed: Warmed) -> None:
        shop.cache.switch_here("items", "off")

    assert counts(shop.warm(progress=switch)) == (1, 0, 0, 2)
    assert len(shop.computed) == 1


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("has_shared", [False, True])
def test_keys_that_are_not_cached_are_not_warmed(colour: Colour, loop: LoopThread, has_shared: bool, dry_run: bool) -> None:
    """Those outside of a ramp, and strict ones where lifetimes alone decide or Redis is switched off. A dry run finds the same."""
    names = [f"item:{number}" for number in range(40)]
    inside = [number for number in range(40) if place_of(f"item:{number}") < 0.3]
    shared = MemoryShared() if has_shared else None
    shop = Shop(shared, Origin(), colour=colour, loop=loop, names=names, ramp=0.3)
    warmed = shop.warm(dry_run=dry_run)
    assert (warmed.total, warmed.computed + warmed.skipped) == (len(inside), len(inside))
    assert sorted(shop.computed) == ([] if dry_run else inside)
    if not has_shared:
        return
    for target, value in (("all", "ttl"), ("redis", "off")):
        shop = Shop(shared, Origin(), colour=colour, loop=loop, names=UNTOLD, consistency="strict")
        shop.cache.switch_here(target, value)
        assert shop.warm(dry_run=dry_run).total == 0
        assert shop.computed == []


@pytest.mark.parametrize("colour", COLOURS)
def test_where_redis_is_switched_off_each_process_warms_its_own(colour: Colour, loop: LoopThread) -> None:
    """Nothing is asked of it, as for any caller; from the next key on where it is switched in the middle."""
    shared, origin = MemoryShared(), Origin()
    counted = HoldingShared(shared)
    first = Shop(shared, origin, colour=colour, loop=loop, names=UNTOLD)
    shop = Shop(counted, origin, colour=colour, loop=loop, names=UNTOLD, concurrency=1)
    first.warm()

    def switch(warmed: Warmed) -> None:
        if warmed.done == 1:
            shop.cache.switch_here("redis", "off")

    assert counts(shop.warm(progress=switch)) == (2, 1, 0, 0)
    assert counts(shop.warm()) == (0, 3, 0, 0)
    assert (sorted(shop.computed), counted.count(Fetch), counted.count(Lease)) == ([1, 2], 1, 0)
    assert [shop.read(number) for number in range(3)] == [1, 1, 1]
    assert origin.computations == 5


@pytest.mark.parametrize("colour", COLOURS)
def test_where_the_shared_layer_fails_nothing_is_computed(colour: Colour, loop: LoopThread, fresh_server: Server) -> None:
    """Every process would compute all of it, and none could give it to the others."""
    origin, events = Origin(), list[Event]()
    settings = Settings(coordination=CoordinationSettings(budget=LONG))
    policies = [Policy(name="items", match="item:*", ttl="1h", warm=UNTOLD)]
    shop = Caller(Cache(settings, policies=policies, redis=fresh_server.url, on_event=events.append), colour, loop)

    @shop.cached("item:{number}")
    async def item(number: int) -> int:
        return origin.read()

    fresh_server.kill()
    warmed = shop.do(shop.cache.warm if colour == "def" else shop.cache.awarm)
    assert counts(warmed) == (0, 0, 3, 0)
    assert origin.computations == 0
    shop.close()


def test_a_def_warms_no_async_def(loop: LoopThread) -> None:
    """It says where it can be done. In an event loop both are warmed, and with ``same_as`` the one that can be."""
    cache = Cache(policies=[Policy(name="all", match="*", ttl="1h", warm=["one:1", "two:1", "three:1"])])

    @cache.cached("one:{number}")
    def one(number: int) -> int:
        return number

    @cache.cached("two:{number}")
    async def two(number: int) -> int:
        return number

    @cache.cached("three:{number}")
    async def athree(number: int) -> int:
        return number

    @cache.cached("three:{number}", same_as=athree)
    def three(number: int) -> int:
        return number

    warmed = cache.warm()
    assert counts(warmed) == (2, 0, 1, 0)
    assert "two: an async def is warmed where it can be awaited: by cache.awarm()" in warmed.errors[0]
    assert counts(loop.run(cache.awarm())) == (1, 2, 0, 0)


@pytest.mark.parametrize("colour", COLOURS)
def test_warming_inside_of_a_computation_does_not_wait_for_it(colour: Colour, loop: LoopThread) -> None:
    """What is warmed may be made of what is being computed around it: that is called directly, as anywhere else in a circle."""
    shop = Caller(Cache(policies=[Policy(name="all", match="*", ttl="1h")]), colour, loop)
    warmed: list[Warmed] = []

    @shop.cached("one:{number}")
    async def one(number: int) -> int:
        if not warmed:
            warmed.append(Warmed())
            warmed.append(await use(two.warm, [(number,)]))
        return number

    @shop.cached("two:{number}")
    async def two(number: int) -> int:
        return int(await use(one, number)) + 1

    assert shop.do(one, 1) == 1
    assert counts(warmed[1]) == (1, 0, 0, 0)
    assert shop.do(two, 1) == 2


def test_a_def_that_is_warmed_in_a_loop_does_not_wait_for_the_computation_around(loop: LoopThread) -> None:
    """Its thread belongs to that computation, too."""
    cache = Cache(policies=[Policy(name="all", match="*", ttl="1h", warm=["two:1"])])
    warmed: list[Warmed] = []

    @cache.cached("one:{number}")
    async def aone(number: int) -> int:
        warmed.append(await cache.awarm())
        return number

    @cache.cached("one:{number}", same_as=aone)
    def one(number: int) -> int:
        return number

    @cache.cached("two:{number}")
    def two(number: int) -> int:
        return one(number) + 1

    assert loop.run(aone(1)) == 1
    assert counts(warmed[0]) == (1, 0, 0, 0)
    assert two(1) == 2


# --- what is declared -----------------------------------------------------------------------------------------------------------------


class Size(Enum):
    SMALL = "s"
    LARGE = "l"


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (str, "a b"),
        (str, "50%:x"),
        (int, -7),
        (bool, True),
        (float, 1.5),
        (bytes, b"\x00\xff"),
        (UUID, UUID(int=7)),
        (Decimal, Decimal("1.50")),
        (date, date(2026, 1, 2)),
        (datetime, datetime(2026, 1, 2, 3, 4, 5)),  # noqa: DTZ001 - as callers may give them
        (datetime, datetime(2026, 1, 2, 3, 4, 5, fold=1)),  # noqa: DTZ001
        (Size, Size.LARGE),
        (str | None, None),
        (int, "7"),
        (str, 7),
        (object, False),
    ],
)
def test_a_key_as_text_is_read_back_as_the_argument_that_it_stands_for(annotation: Any, value: Any) -> None:
    """The function is called with what a caller would have given, and the caller then has a hit."""
    given: list[Any] = []

    def stored(one: Any, other: int = 5) -> str:
        given.append((one, other))
        return "stored"

    stored.__annotations__["one"] = annotation
    cache = Cache(policies=[Policy(name="all", match="*", ttl="1h")])
    key = cache.cached("thing:{one}:{other}")(stored).key(value)
    cache = Cache(policies=[Policy(name="all", match="*", ttl="1h", warm=[key])])
    thing = cache.cached("thing:{one}:{other}")(stored)
    assert counts(cache.warm()) == (1, 0, 0, 0)
    assert thing(value) == "stored"
    assert given == [(value, 5)] and given[0][0].__class__ is value.__class__


def test_a_key_that_does_not_tell_the_arguments_is_told_as_that() -> None:
    """A part of an argument, a value that is marked and complex, a parameter that is left out: the function is not called."""
    cache = Cache(policies=[Policy(name="all", match="*", ttl="1h", warm=["part:7", "marked:~[i1]", "left:1", "number:007", "share:1.50"])])

    @cache.cached("part:{user.id}")
    def part(user: Any) -> None:
        raise AssertionError

    @cache.cached("marked:{numbers}")
    def marked(numbers: list[int]) -> None:
        raise AssertionError

    @cache.cached("left:{number}", ignore=["session"])
    def left(number: int, session: Any) -> None:
        raise AssertionError

    @cache.cached("number:{number}")
    def number(number: int) -> None:
        raise AssertionError

    @cache.cached("share:{share}")
    def share(share: float) -> None:
        raise AssertionError

    warmed = cache.warm()
    assert counts(warmed) == (0, 0, 5, 0)
    for error, problem in zip(
        warmed.errors,
        (
            "{user.id} can not be read back",
            "{numbers} can not be read back",
            "'session' does not stand in the key",
            "{number} can not be read",
            "{share} can not be read",
        ),
        strict=True,
    ):
        assert problem in error and error.endswith("name calls of the function instead, beside it: warm=[...]")


@pytest.mark.parametrize("colour", COLOURS)
def test_a_decorator_names_calls_or_who_tells_them(colour: Colour, loop: LoopThread) -> None:
    """Tuples of arguments and dicts of named ones, in a list, from a function or a generator; in a loop also from what is awaited."""

    def told() -> Iterator[Any]:
        yield (1,)
        yield {"number": 2}

    async def atold() -> list[Any]:
        return [(1,), {"number": 2}]

    async def streamed() -> AsyncIterator[Any]:
        yield (1,)
        yield {"number": 2}

    for calls in ([(1,), {"number": 2}], told, atold, streamed):
        shop = Shop(MemoryShared(), Origin(), colour=colour, loop=loop, calls=calls)
        warmed = shop.warm()
        if colour == "def" and calls in (atold, streamed):
            assert counts(warmed) == (0, 0, 1, 0)
            assert "an async def tells what to warm: that takes cache.awarm()" in warmed.errors[0]
        else:
            assert counts(warmed) == (2, 0, 0, 0)
            assert sorted(shop.computed) == [1, 2]


@pytest.mark.parametrize("colour", COLOURS)
def test_a_function_is_warmed_by_its_own_attribute(colour: Colour, loop: LoopThread) -> None:
    """With calls, with who tells them, or with what its decorator declares. What is no call of it is an error at once."""
    shop = Shop(MemoryShared(), Origin(), colour=colour, loop=loop, calls=[(1,)])
    assert counts(shop.do(shop.item.warm)) == (1, 0, 0, 0)
    assert counts(shop.do(shop.item.warm, [(1,), (2,), (2,)])) == (1, 1, 0, 0)
    assert counts(shop.do(shop.item.warm, lambda: [{"number": 3}])) == (1, 0, 0, 0)
    for wrong in ("12", ["12"], [()], [(1, 2)], [{"no": 1}], 5):
        with pytest.raises(KeyArgumentError, match="warm"):
            shop.do(shop.item.warm, wrong)
    with pytest.raises(TypeError, match="concurrency is a whole number from 1 to 1000, not 0"):
        shop.do(partial(shop.item.warm, concurrency=0))
    with pytest.raises(TypeError, match="progress is a function that is given the sums, not int"):
        shop.do(partial(shop.item.warm, progress=5))


@pytest.mark.parametrize("wrong", ["12", {"number": 1}, 5, ["12"], [1], [()], [(1, 2)], [{"no": 1}]])
def test_calls_that_are_none_are_an_error_at_decoration(wrong: Any) -> None:
    """The message says how they are written."""
    cache = Cache(policies=[Policy(name="all", match="*", ttl="1h")])
    with pytest.raises(KeyTemplateError, match="item: warm"):

        @cache.cached("item:{number}", warm=wrong)
        def item(number: int) -> int:
            return number


@pytest.mark.parametrize("colour", COLOURS)
def test_a_function_of_many_arguments_is_warmed_page_by_page(colour: Colour, loop: LoopThread) -> None:
    """One call for each page, whether calls are named or keys as text; what is fresh is not asked for."""
    asked: list[list[int]] = []
    names = [f"item:{number}" for number in range(5)]
    shop = Caller(Cache(policies=[Policy(name="all", match="*", ttl="1h", warm=names)], shared=MemoryShared()), colour, loop)
    decorate = shop.cache.cached_many("item:{number}", page=2, warm=[([4, 5, 6],)])
    items: Any
    if colour == "def":

        @decorate
        def plain(numbers: list[int]) -> dict[int, int]:
            asked.append(numbers)
            return {number: number for number in numbers}

        items = plain
    else:

        @decorate
        async def awaited(numbers: list[int]) -> dict[int, int]:
            asked.append(numbers)
            return {number: number for number in numbers}

        items = awaited
    shop.do(items, [1])
    warm = partial(shop.cache.warm if colour == "def" else shop.cache.awarm, concurrency=1)
    assert counts(shop.do(warm)) == (6, 1, 0, 0)
    assert asked == [[1], [0], [2, 3], [4], [5, 6]]
    assert counts(shop.do(partial(items.warm, concurrency=1), [([6, 7],)])) == (1, 1, 0, 0)
    assert asked[5:] == [[7]]


@pytest.mark.parametrize("colour", COLOURS)
def test_a_policy_names_who_tells_its_keys(colour: Colour, loop: LoopThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``module:function``, as entry points are written. Each mistake is told with what to do."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "popular_things", raising=False)
    (tmp_path / "popular_things.py").write_text(
        "NUMBER = 7\n"
        "class Lists:\n    @staticmethod\n    def items():\n        return (f'item:{number}' for number in range(2))\n"
        "def text():\n    return 'item:1'\n"
        "def pattern():\n    return ['item:*', 5]\n"
        "def fails():\n    raise LookupError('not today')\n"
    )
    (tmp_path / "broken_things.py").write_text("import nothing_like_that\n")

    def warmed_by(provider: str) -> Warmed:
        return Shop(MemoryShared(), Origin(), colour=colour, loop=loop, names=provider).warm()

    assert counts(warmed_by("popular_things:Lists.items")) == (2, 0, 0, 0)
    for provider, problem in {
        "item:JKT": "there is no module 'item' in which 'JKT' could be found; if it is meant to be a key, write it in a list: ['item:JKT']",
        "popular_things:Lists.stores": "the module 'popular_things' has no 'Lists.stores'; it is at ",
        "popular_things:NUMBER": "'popular_things:NUMBER' is no function, but int",
        "popular_things:text": "a list is expected of what to warm, not str",
        "popular_things:fails": "LookupError('not today')",
        "broken_things:anything": "'broken_things:anything' can not be imported: ModuleNotFoundError(",
    }.items():
        warmed = warmed_by(provider)
        assert counts(warmed) == (0, 0, 1, 0)
        assert warmed.errors[0].startswith("policy.items.warm: ") and problem in warmed.errors[0]
    warmed = warmed_by("popular_things:pattern")
    assert counts(warmed) == (0, 0, 2, 0)
    assert "'item:*' is a pattern" in warmed.errors[0] and "a key is a text, not int" in warmed.errors[1]


def test_what_a_policy_can_not_warm_is_an_error_at_start() -> None:
    """A pattern, a key of another policy, a text that is no function."""
    for wrong, problem in {
        ("item:*",): 'policy.items.warm[0]: "item:*" is a pattern, and only whole keys can be computed',
        ("item:1", "other:1"): 'policy.items.warm[1]: "other:1" is no key of this policy, whose match is "item:*"',
        ("",): "policy.items.warm[0]",
    }.items():
        with pytest.raises(PolicyError) as caught:
            Policy(name="items", match="item:*", ttl=1, warm=wrong)
        assert problem in str(caught.value)
    for text in ("item 1", "item:", ":function", "a:b:c", "item:1"):
        with pytest.raises(PolicyError, match="is not a function; write one such as"):
            Policy(name="items", match="item:*", ttl=1, warm=text)
    with pytest.raises(PolicyError, match="is not a list of keys"):
        Policy(name="items", match="item:*", ttl=1, warm=5)  # type: ignore[arg-type]


def test_masked_fields_are_shown_to_nobody() -> None:
    """Not in errors, whether a list or a key fails."""
    seen: list[str] = []
    policies = [Policy(name="items", match="item:*", ttl="1h", warm=["item:hunter2", "item:hunter2:x"], mask=["code"])]
    cache = Cache(policies=policies, on_event=lambda event: seen.append(str(event)))

    @cache.cached("item:{code}")
    def item(code: str) -> None:
        raise LookupError(code)

    warmed = cache.warm()
    assert counts(warmed) == (0, 0, 2, 0)
    assert "hunter2" not in f"{warmed}{seen}" and "item:***" in f"{warmed}"


# --- ending ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", COLOURS)
def test_closing_the_cache_ends_a_round_soon_and_says_so(colour: Colour, loop: LoopThread) -> None:
    """What is being computed is not waited for long, and nothing else is begun."""
    origin = Origin()
    shop = Shop(MemoryShared(), origin, colour=colour, loop=loop, names=UNTOLD, concurrency=1)
    gate = origin.hold()
    shop.warm_behind()
    gate.wait()
    shop.close() if colour == "async def" else shop.cache.close()
    until(lambda: shop.told("warming_stopped"))
    gate.open()
    (event,) = shop.told("warming_stopped")
    assert (event["computed"], event["failed"], event["skipped"] >= 2) == (0, 0, True), "it was still being computed"
    assert origin.computations == 1
    assert shop.warm() == Warmed(seconds=shop.cache.stats().warming.last.seconds, total=3, skipped=3), "nothing is begun any more"


@pytest.mark.parametrize("colour", COLOURS)
def test_a_round_that_was_ended_is_not_taken_for_done(colour: Colour, loop: LoopThread) -> None:
    """Another process goes on at once with what is left."""
    shared, origin = MemoryShared(), Origin()
    first, second = (Shop(shared, origin, colour=colour, loop=loop, names=UNTOLD, concurrency=1) for _ in range(2))
    gates = [origin.hold(), origin.hold()]
    first.warm_behind()
    gates[0].wait()
    gates[0].open()
    gates[1].wait()
    first.close()
    gates[1].open()
    second.warm_behind()
    until(partial(knows_it_is_warm, second))
    assert [second.get(f"item:{number}") for number in range(3)] == [1, 1, 1]
    assert 0 not in second.computed
    second.close()


@pytest.mark.parametrize("colour", COLOURS)
def test_a_pause_follows_each_computation_and_ends_with_the_round(colour: Colour, loop: LoopThread) -> None:
    """The origin is not hit without a rest; what was fresh costs it nothing, and nobody rests after that."""
    shared, origin = MemoryShared(), Origin()
    shop = Shop(shared, origin, colour=colour, loop=loop, names=UNTOLD, concurrency=1, pause=3.15e7)
    shop.read(0)
    warming = shop.start_warm()
    until(lambda: shop.cache.stats().warming.last.done == 2)
    assert shop.computed == [0, 1]
    shop.close()
    assert counts(warming.result(LONG)) == (1, 1, 0, 1)


def test_whoever_is_cancelled_ends_its_round(loop: LoopThread) -> None:
    """The computations that nobody else waits for end with it."""
    origin = Origin()
    shop = Shop(MemoryShared(), origin, colour="async def", loop=loop, names=UNTOLD, concurrency=2)
    gates = [origin.hold(), origin.hold()]
    warming = shop.start_warm()
    for gate in gates:
        gate.wait()
    warming.cancel()
    until(lambda: shop.told("warming_stopped"))
    for gate in gates:
        gate.open()
    assert origin.computations == 2
    assert shop.cache.stats().warming.is_under_way is False


@pytest.mark.parametrize("colour", COLOURS)
def test_stats_say_how_far_it_is(colour: Colour, loop: LoopThread) -> None:
    """While it goes on, and afterwards the sums of the last round."""
    origin = Origin()
    shop = Shop(MemoryShared(), origin, colour=colour, loop=loop, names=UNTOLD, concurrency=1)
    assert shop.cache.stats().warming.last == Warmed()
    gates = [origin.hold(), origin.hold()]
    warming = shop.start_warm()
    gates[0].wait()
    gates[0].open()
    gates[1].wait()
    stats = shop.cache.stats().warming
    assert (stats.is_under_way, stats.last.total, stats.last.computed) == (True, 3, 1)
    gates[1].open()
    warming.result(LONG)
    stats = shop.cache.stats().warming
    assert (stats.is_under_way, stats.last.computed) == (False, 3)
    assert shop.cache.stats().as_dict()["warming"]["last"]["computed"] == 3


# --- behind everybody's back ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", COLOURS)
def test_one_process_of_all_warms_and_the_others_do_nothing(colour: Colour, loop: LoopThread) -> None:
    """Not even the list is asked for a second time, nor by a process that starts later."""
    shared, origin = MemoryShared(), Origin()
    asked: list[int] = []

    def told() -> list[tuple[int]]:
        asked.append(1)
        return [(number,) for number in range(3)]

    shops = [Shop(shared, origin, colour=colour, loop=loop, calls=told) for _ in range(3)]
    gates = [origin.hold() for _ in range(3)]
    for shop in shops[:2]:
        shop.warm_behind()
    for gate in gates:
        gate.wait()
        gate.open()
    until(lambda: sum(len(shop.told("warmed")) for shop in shops) == 1)
    looks = HoldingShared(shared)
    late = Shop(looks, origin, colour=colour, loop=loop, calls=told)
    late.warm_behind()
    until(lambda: late.cache.stats().position is not None)
    for shop in shops[:2]:
        until(partial(knows_it_is_warm, shop))
    until(partial(knows_it_is_warm, late))
    assert (len(asked), origin.computations) == (1, 3)
    for shop in (*shops, late):
        shop.close()


def knows_it_is_warm(shop: Caller) -> object:
    """Under which key, and as of when."""
    return operations_of(shop.cache).warmer._warmed  # pyright: ignore[reportPrivateUsage] - there is no public way to it


@pytest.mark.parametrize("colour", COLOURS)
def test_each_process_waits_for_a_part_of_the_spread_before_it_begins(colour: Colour, loop: LoopThread) -> None:
    """At the start, and again before it warms once more: many processes that see a reset do not come at once."""
    shop = Shop(MemoryShared(), Origin(), colour=colour, loop=loop, names=UNTOLD, spread=600.0)
    warms = operations_of(shop.cache).warmer

    def turn() -> float:
        seconds: float = shop.do(warms.step if colour == "def" else warms.astep)
        return seconds

    for computed in (3, 6):
        waits = turn()
        assert waits != warmer.LOOK and 0 <= waits <= 600
        assert shop.origin.computations == computed - 3
        assert [turn(), turn()] == [warmer.LOOK] * 2
        assert shop.origin.computations == computed
        shop.drop("*")


@pytest.mark.parametrize("colour", COLOURS)
def test_what_another_process_can_not_warm_is_not_taken_for_warmed(colour: Colour, loop: LoopThread) -> None:
    """A process that knows no function for a key, or can not await it, leaves it to one that can."""
    shared, origin = MemoryShared(), Origin()
    poor = Caller(Cache(policies=[Policy(name="items", match="item:*", ttl="1h", warm=UNTOLD)], shared=shared), "def", loop)
    shop = Shop(shared, origin, colour=colour, loop=loop, names=UNTOLD)
    poor.cache.warm_behind()
    until(partial(knows_it_is_warm, poor))
    assert origin.computations == 0
    if colour == "async def":
        shop.cache.warm_behind()  # in a thread
        until(lambda: shop.told("warming_failed"))
        assert origin.computations == 0
    shop.warm_behind()
    until(lambda: origin.computations == 3)
    for caller in (poor, shop):
        caller.close()


@pytest.mark.parametrize("colour", COLOURS)
def test_a_shared_layer_that_fails_in_the_middle_is_come_back_to(colour: Colour, loop: LoopThread) -> None:
    """What could not be stored was not warmed: it is done when the layer answers again."""
    shared, origin = MemoryShared(), Origin()
    shop = Shop(shared, origin, colour=colour, loop=loop, names=UNTOLD, concurrency=1)
    gate = origin.hold()
    shop.warm_behind()
    gate.wait()
    with shared.outage():
        gate.open()
        until(lambda: shop.told("warmed"))
        assert origin.computations == 1
    until(lambda: sorted({*shop.computed}) == [0, 1, 2])
    until(lambda: shop.told("warmed")[-1]["failed"] == 0)
    shop.close()


class NodeError(LayerError):
    """A node of a cluster does not answer, which is no outage of the whole layer."""

    part = "10.0.0.3:6379"


class Torn(MemoryShared):
    """A shared layer that fails with steps of one kind for the keys of items, while ``is_torn``."""

    def __init__(self, kind: type[Lease | Store]) -> None:
        super().__init__()
        self._kind = kind
        self.is_torn = True

    def perform(self, step: SharedStep, /) -> Reply:
        if isinstance(step, Together):
            return Replies(tuple(self.perform(one) for one in step.steps))
        if self.is_torn and isinstance(step, self._kind) and step.key.startswith("item:"):
            return Failed(NodeError("no answer"))
        return super().perform(step)


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("kind", [Lease, Store])
def test_what_could_not_be_stored_was_not_warmed(colour: Colour, loop: LoopThread, kind: type[Lease | Store]) -> None:
    """It has failed, also where this process has a copy of it, and is come back to when the layer takes it."""
    shared, origin = Torn(kind), Origin()
    shop = Shop(shared, origin, colour=colour, loop=loop, names=UNTOLD)
    for _ in range(2):
        warmed = shop.warm()
        assert counts(warmed) == (0, 0, 3, 0)
        assert "it was computed, and the shared layer could not be told" in warmed.errors[0]
    shop.warm_behind()
    until(lambda: len(shop.told("warmed")) > 2)
    assert knows_it_is_warm(shop) is None
    shared.is_torn = False
    until(partial(knows_it_is_warm, shop))
    late, computations = Shop(shared, origin, colour=colour, loop=loop), origin.computations
    assert [late.read(number) for number in range(3)] == [1, 1, 1]
    assert origin.computations == computations
    shop.close()


def test_a_cache_that_was_dropped_is_not_kept_by_its_warmer(loop: LoopThread) -> None:
    """Neither by its thread nor by its task."""
    for colour in COLOURS:
        shop = Shop(MemoryShared(), Origin(), colour=colour, loop=loop, names=UNTOLD)
        shop.warm_behind()
        until(partial(knows_it_is_warm, shop))
        dropped = weakref.ref(shop.cache)
        del shop

        def is_gone(dropped: weakref.ref[Cache] = dropped) -> bool:
            gc.collect()
            return dropped() is None and not any(thread.name == "cachesync-warm" for thread in threading.enumerate())

        until(is_gone)


@pytest.mark.parametrize("colour", COLOURS)
def test_what_ends_everything_is_followed_by_warming(colour: Colour, loop: LoopThread) -> None:
    """Everything is invalidated: it is warmed again, in one process, and with what is true now."""
    shared, origin = MemoryShared(), Origin()
    first, second = (Shop(shared, origin, colour=colour, loop=loop, names=UNTOLD) for _ in range(2))
    for shop in (first, second):
        shop.warm_behind()
    until(lambda: origin.computations == 3)
    for shop in (first, second):
        until(partial(knows_it_is_warm, shop))
    origin.version = 2
    first.drop("item:1")
    second.drop("item:*")
    assert origin.computations == 3, "a part is computed when it is asked for"
    second.drop("*")
    until(lambda: origin.computations == 6)
    until(lambda: len(first.told("warmed")) + len(second.told("warmed")) == 2)
    assert [first.get(f"item:{number}") for number in range(3)] == [2, 2, 2]
    for shop in (first, second):
        shop.close()


@pytest.mark.parametrize("colour", COLOURS)
def test_everything_invalidated_in_the_middle_is_warmed_once_more(colour: Colour, loop: LoopThread) -> None:
    """A round that began before is not taken for one that came after."""
    origin = Origin()
    shop = Shop(MemoryShared(), origin, colour=colour, loop=loop, names=["item:1"])
    gate = origin.hold()
    shop.warm_behind()
    gate.wait()
    origin.version = 2
    shop.drop("*")
    gate.open()
    until(lambda: shop.get("item:1") == 2)
    shop.close()


@pytest.mark.parametrize("colour", COLOURS)
def test_another_version_is_warmed_anew(colour: Colour, loop: LoopThread) -> None:
    """Its values are others. The process of the older version, which still runs, is not disturbed."""
    shared, origin = MemoryShared(), Origin()
    old = Shop(shared, origin, colour=colour, loop=loop, names=UNTOLD, version=1)
    old.warm_behind()
    until(lambda: old.told("warmed"))
    new = Shop(shared, origin, colour=colour, loop=loop, names=UNTOLD, version=2)
    new.warm_behind()
    until(lambda: new.told("warmed"))
    assert (len(old.computed), len(new.computed)) == (3, 3)
    for shop in (old, new):
        shop.close()


@pytest.mark.parametrize("colour", COLOURS)
def test_what_was_warmed_by_lifetimes_alone_is_warmed_again_when_invalidations_count(colour: Colour, loop: LoopThread) -> None:
    """Nobody could say of it whether it was invalidated, so nobody is served it."""
    shop = Shop(MemoryShared(), Origin(), colour=colour, loop=loop, names=UNTOLD)
    shop.cache.switch_here("all", "ttl")
    shop.warm_behind()
    until(partial(knows_it_is_warm, shop))
    assert shop.origin.computations == 3
    shop.cache.switch_here("all", "full")
    until(lambda: len(shop.told("warmed")) == 2)
    assert shop.origin.computations == 6
    assert [shop.read(number) for number in range(3)] == [1, 1, 1]
    assert shop.origin.computations == 6
    shop.close()


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize(("before", "after"), [({"encrypt": False}, {"encrypt": True}), ({"ramp": 0.001}, {"ramp": 1.0})])
def test_what_a_reload_makes_new_is_warmed(colour: Colour, loop: LoopThread, before: dict[str, Any], after: dict[str, Any]) -> None:
    """What was stored in clear is not served any more, and of what a ramp leaves out nothing was stored."""
    keys = "1:" + base64.b64encode(bytes(32)).decode()
    shop = Shop(MemoryShared(), Origin(), colour=colour, loop=loop, names=UNTOLD, encryption_keys=keys, **before)
    shop.warm_behind()
    until(partial(knows_it_is_warm, shop))
    known, computed = knows_it_is_warm(shop), shop.origin.computations
    options: dict[str, Any] = {"ttl": "1h", "warm": UNTOLD} | after
    shop.cache.reload(policies=[Policy(name="items", match="item:*", **options), Policy(name="others", match="*", ttl="1h")])
    until(lambda: knows_it_is_warm(shop) != known)
    assert shop.origin.computations == computed + 3
    assert [shop.read(number) for number in range(3)] == [1, 1, 1]
    assert shop.origin.computations == computed + 3
    shop.close()


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize(("mode", "computations"), [("ttl", 4), ("off", 3)])
def test_what_was_switched_in_the_middle_of_a_round_is_made_up_for(colour: Colour, loop: LoopThread, mode: str, computations: int) -> None:
    """Also where it is as before at the end: the round is not taken for a whole one."""
    shop = Shop(MemoryShared(), Origin(), colour=colour, loop=loop, names=UNTOLD, concurrency=1)
    gates = [shop.origin.hold() for _ in range(2 if mode == "ttl" else 1)]
    shop.warm_behind()
    gates[0].wait()
    shop.cache.switch_here("items", mode)
    gates[0].open()
    if mode == "ttl":
        gates[1].wait()
    else:
        until(lambda: shop.told("warmed"))
    shop.cache.switch_here("items", "full")
    if mode == "ttl":
        gates[1].open()
    until(partial(knows_it_is_warm, shop))
    assert len(shop.told("warmed")) > 1
    assert [shop.read(number) for number in range(3)] == [1, 1, 1]
    assert shop.origin.computations == computations
    shop.close()


@pytest.mark.parametrize("colour", COLOURS)
def test_a_list_that_can_not_be_told_is_asked_for_again(colour: Colour, loop: LoopThread) -> None:
    """By one process at a time, and not at once; until then nothing counts as warmed."""
    origin, asked = Origin(), list[int]()

    def told() -> list[tuple[int]]:
        asked.append(1)
        if len(asked) == 1:
            raise LookupError("not today")
        return [(1,)]

    shop = Shop(MemoryShared(), origin, colour=colour, loop=loop, names=["item:0"], calls=told)
    shop.warm_behind()
    until(lambda: origin.computations == 2)
    assert sorted(shop.computed) == [0, 1]
    assert len(shop.told("left_alone")) == 1
    shop.close()


@pytest.mark.parametrize("colour", COLOURS)
def test_that_it_was_warmed_depends_on_nothing_that_was_read_for_it(colour: Colour, loop: LoopThread) -> None:
    """Who tells the list may ask the cache: an invalidation of that does not make everything be warmed again."""
    made: list[Cache] = []

    def told() -> list[tuple[int]]:
        return [(number,) for number in made[0].get_or_compute("popular", lambda: [1, 2])]

    shop = Shop(MemoryShared(), Origin(), colour=colour, loop=loop, calls=told)
    made.append(shop.cache)
    shop.warm_behind()
    until(partial(knows_it_is_warm, shop))
    known = knows_it_is_warm(shop)
    shop.drop("popular")
    late = Shop(engine_shared(shop), shop.origin, colour=colour, loop=loop, calls=told)
    late.warm_behind()
    until(partial(knows_it_is_warm, late))
    assert knows_it_is_warm(late) == known
    assert late.told("warmed") == []
    for one in (shop, late):
        one.close()


def engine_shared(shop: Caller) -> Shared:
    shared = engine_of(shop.cache).shared
    assert shared is not None
    return shared


# --- with processes and a server --------------------------------------------------------------------------------------------------------

NUMBERS: Final = 12
PROGRAM: Final = """
sys.path.append(sys.argv.pop(1))
from pathlib import Path

from cachesync import Cache, Policy, Settings
from cachesync.coordination import log_reader, warmer
from cachesync.core.settings import CoordinationSettings, WarmingSettings
from support.desk import Desk

url, namespace, folder, colour, version, numbers = sys.argv[1:]
warmer.__dict__["LOOK"] = 0.05
log_reader.__dict__["PATIENCE"] = 20.0  # a busy machine is no outage
desk = Desk(Path(folder))


def tell(event):
    if event.name in ("warmed", "warming_stopped"):
        say(event.name, *(event.fields[name] for name in ("computed", "fresh", "failed", "skipped")))


cache = Cache(
    Settings(
        coordination=CoordinationSettings(budget=20.0, max_lag=5.0, lease=2.0),
        warming=WarmingSettings(spread=0.05, concurrency=2),
    ),
    policies=[Policy(name="items", match="item:*", ttl="1h", version=int(version), warm=[f"item:{n}" for n in range(int(numbers))])],
    redis=url,
    namespace=namespace,
    on_event=tell,
)


def compute(number):
    desk.note("computed", number)
    value = desk.version
    desk.stand(f"computing-{number}")
    return value


def work(start):
    if colour == "def":

        @cache.cached("item:{number}")
        def item(number: int) -> int:
            return compute(number)

        start()
        wait()
        cache.close()
    else:

        @cache.cached("item:{number}")
        async def item(number: int) -> int:
            return await asyncio.to_thread(compute, number)

        async def main():
            start()
            await asyncio.to_thread(wait)
            await cache.aclose()

        asyncio.run(main())
"""
BEHIND: Final = PROGRAM + "\nwork(cache.warm_behind)\n"


class Street:
    """Processes around one server, and the desk at which they note what they compute."""

    def __init__(self, server: Server, namespace: str, colour: Colour, folder: Path) -> None:
        self._server = server
        self._namespace = namespace
        self._colour = colour
        self.desk = Desk(folder)
        self.desk.version = 1

    def open(self, program: str = BEHIND, *, version: int = 1) -> Script:
        arguments = (self._server.url, self._namespace, str(self.desk.folder), self._colour, str(version), str(NUMBERS))
        return Script(program, str(TESTS), *arguments)

    def computed(self) -> list[int]:
        return sorted(map(int, self.desk.notes("computed")))

    def until_computed(self, times: int) -> None:
        until(lambda: len(self.computed()) == times * NUMBERS, f"all of it {times} times")


@pytest.fixture(params=COLOURS)
def street(request: pytest.FixtureRequest, fresh_server: Server, tmp_path: Path) -> Street:
    return Street(fresh_server, "street", request.param, tmp_path)


def test_processes_that_start_at_once_compute_each_key_once(street: Street) -> None:
    """One of them warms, and the other finds that it was done. Whoever asks then has a hit of Redis."""
    with street.open() as first, street.open() as second:
        street.until_computed(1)
        for script in (first, second):
            script.say()
        assert street.computed() == list(range(NUMBERS))


def test_where_the_process_dies_that_warms_another_one_goes_on(street: Street) -> None:
    """What was stored is not computed again: only what was under way is."""
    street.desk.hold("computing-5")
    with street.open() as first:
        street.desk.wait("computing-5")
        with street.open() as second:
            until(lambda: len(street.computed()) == NUMBERS, "everything but what is held")
            first.kill()
            street.desk.release("computing-5")
            computed, fresh, failed, skipped = map(int, second.hear("warmed").split())
            again = street.computed()
            second.say()
            second.end()
    assert (failed, skipped) == (0, 0)
    assert set(again) == set(range(NUMBERS)) and len(again) <= NUMBERS + 2, again
    assert 1 <= computed <= 3 and computed + fresh == NUMBERS


def test_after_a_flush_it_is_warmed_again(street: Street, fresh_server: Server) -> None:
    """The log was begun anew, and nobody has to ask for it."""
    with street.open() as first, street.open() as second:
        street.until_computed(1)
        fresh_server.client().flushall()
        street.until_computed(2)
        for script in (first, second):
            script.say()
    assert street.computed() == sorted([*range(NUMBERS)] * 2)


def test_another_version_of_the_schema_is_warmed_by_the_process_that_has_it(street: Street) -> None:
    """The older one, which still runs, keeps what it has."""
    with street.open() as old:
        street.until_computed(1)
        with street.open(version=2) as new:
            assert new.hear("warmed").split()[0] == str(NUMBERS)
            new.say()
        old.say()
    assert street.computed() == sorted([*range(NUMBERS)] * 2)


def test_processes_that_warm_by_call_compute_each_key_once(street: Street) -> None:
    """A key that another one computes is waited for, as any caller does."""
    program = PROGRAM + (
        "\ndef start():\n"
        "    if colour == 'def':\n        cache.warm()\n"
        "    else:\n        global warming\n        warming = asyncio.create_task(cache.awarm())\n"
        "work(start)\n"
    )
    with street.open(program) as first, street.open(program) as second:
        told = [list(map(int, script.hear("warmed").split())) for script in (first, second)]
        for script in (first, second):
            script.say()
            script.end()
    assert street.computed() == list(range(NUMBERS))
    assert sum(computed for computed, *_ in told) == NUMBERS
    assert all(computed + fresh == NUMBERS for computed, fresh, *_ in told)


def test_forked_workers_go_on_as_the_master_began(fresh_server: Server, tmp_path: Path) -> None:
    """``preload_app``: the master warms, its children do nothing; after a reset one of them all warms again, also if the master is gone."""
    program = PROGRAM + (
        "\n@cache.cached('item:{number}')\ndef item(number: int) -> int:\n    return compute(number)\n"
        "cache.warm_behind()\n"
        "until(lambda: cache._operations.warmer._warmed is not None)\n"
        "def serve():\n    item(0)\n    say('serving')\n    wait()\n    cache.close()\n"
        "pids = [fork(serve) for _ in range(2)]\n"
        "cache.close()\n"
        "say('master closed')\n"
        "ended(*pids)\n"
    )
    street = Street(fresh_server, "street", "def", tmp_path)
    with street.open(program) as script:
        heard = sorted(script.hear() for _ in range(4))
        assert heard == ["master closed", "serving", "serving", f"warmed {NUMBERS} 0 0 0"]
        fresh_server.client().flushall()
        assert script.hear("warmed").split()[0] == str(NUMBERS)
        script.say("go")
        script.say("go")
        script.end()
    assert street.computed() == sorted([*range(NUMBERS)] * 2)


# --- the command ------------------------------------------------------------------------------------------------------------------------

APPLICATION: Final = """
import os
from cachesync import Cache, Policy

prices = Policy(name="prices", match="price:*", ttl="1h", warm=["price:1"])
cache = Cache(policies=[Policy(name="stores", match="store:*", ttl="1h", warm=["store:JKT", "store:BDG"]), prices])
beside = 5

@cache.cached("store:{code}")
async def store(code: str) -> str:
    if code == os.environ.get("FAILING"):
        raise LookupError(code)
    return code.lower()

@cache.cached("price:{number}")
def price(number: int) -> int:
    return number
"""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """``cachesync warm`` in a folder with an application: the exit code, the output and the errors."""
    forget_settings(monkeypatch)
    folder = tmp_path / "here"
    (folder / "shop").mkdir(parents=True)
    (folder / "shop" / "__init__.py").write_text("")
    (folder / "shop" / "main.py").write_text(APPLICATION)
    (folder / "shop" / "empty.py").write_text("")
    (folder / "shop" / "broken.py").write_text("import nothing_like_that")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def called(*argv: str) -> Printed:
        for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
            del sys.modules[name]
        return call(capsys, "warm", *argv)

    return called


def test_the_command_warms_the_cache_of_an_application(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its module is imported from the working directory. The sums come last, and a key that failed makes the answer 1."""
    code, out, err = run("shop.main:cache")
    assert (code, out.startswith("3 keys in "), out.endswith(": 3 computed, 0 fresh already\n")) == (0, True, True)
    assert "cachesync warm: 3 of 3 keys" in err
    code, out, _ = run("shop.main:cache", "--policy", "stores", "--dry-run", "--json")
    told = json.loads(out)
    assert (code, told["dry_run"], told["total"], told["skipped"], told["computed"]) == (0, True, 2, 2, 0)
    monkeypatch.setenv("FAILING", "BDG")
    code, out, err = run("shop.main:cache", "--concurrency", "1")
    assert code == 1
    assert out.endswith(": 2 computed, 0 fresh already, 1 failed\n")
    assert "cachesync warm: store:BDG: LookupError('BDG')\n" in err


@pytest.mark.parametrize(
    ("argv", "code", "problem"),
    [
        (("shop.main",), 2, "'shop.main' names no cache: write MODULE:CACHE, such as myapp.main:cache"),
        (("stop.main:cache",), 2, "there is no module 'stop' in "),
        (("shop.stores:cache",), 2, "there is no module 'shop.stores' in "),
        (("shop.main:cash",), 2, "the module 'shop.main' has no 'cash'; it has shop.main:cache"),
        (("shop.main:beside",), 2, "'shop.main:beside' is no Cache, but int; it has shop.main:cache"),
        (("shop.empty:cache",), 2, "it has no Cache at all"),
        (("shop.broken:cache",), 1, "ModuleNotFoundError: No module named 'nothing_like_that'"),
        (("shop.main:cache", "--policy", "store"), 2, "policy.store: there is no such policy; did you mean 'stores'?"),
        (("shop.main:cache", "--concurrency", "0"), 2, "is not a number of computations"),
    ],
)
def test_a_cache_that_is_not_there_is_told_with_the_next_step(run: Run, argv: tuple[str, ...], code: int, problem: str) -> None:
    """A name that is wrong is misuse; a module that raises is not, and its traceback is shown."""
    found, out, err = run(*argv)
    assert (found, out) == (code, "")
    assert problem in err


def test_a_module_that_raises_is_shown_from_its_own_first_line_on(run: Run) -> None:
    """Neither our own frames nor those of the import stand before it."""
    _, _, err = run("shop.broken:cache")
    assert [Path(line.split('"')[1]).name for line in err.splitlines() if line.startswith("  File ")] == ["broken.py"]


def test_where_nothing_is_declared_the_command_says_how_that_is_done(run: Run) -> None:
    """It is no mistake. Where caching is switched off it is one."""
    Path("shop/empty.py").write_text(
        "from cachesync import Cache, Policy\ncache = Cache(policies=[Policy(name='all', match='*', ttl=1)])\n"
    )
    code, out, _ = run("shop.empty:cache")
    assert (code, out.startswith("nothing is declared to be warmed: write warm = ")) == (0, True)
    Path("cachesync.toml").write_text('[policy.all]\nmatch = "*"\nttl = "1m"\n')
    Path("shop/empty.py").write_text("from cachesync import Cache\ncache = Cache.from_file('cachesync.toml')\n")
    os.environ["CACHESYNC_ENABLED"] = "false"
    try:
        code, out, err = run("shop.empty:cache")
    finally:
        del os.environ["CACHESYNC_ENABLED"]
    assert (code, out) == (1, "") and "CACHESYNC_ENABLED is false" in err


def test_a_terminal_is_shown_one_line_that_moves() -> None:
    """It is taken away at the end."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    progress = Progress(terminal)
    progress.show(Warmed(total=4, computed=1))
    progress.clear()
    assert terminal.getvalue().startswith("\r[#####...............] 4 keys in 0s: 1 computed, 0 fresh already")
    assert terminal.getvalue().endswith("\r")
