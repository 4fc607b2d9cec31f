"""When a computation fails or takes too long: old values that stand in for it, patience, and leaving it alone.

Two caches around one layer in memory stand for two processes. How old a value is tells a clock of the test's; only patience is real.
"""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import traceback
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import pytest

from cachesync import Cache, MemoryShared, OverdueError, Policy, RestingError, Settings
from cachesync.coordination.engine import MAX_RAISED
from cachesync.coordination.events import Event
from cachesync.coordination.tracebacks import let_go
from cachesync.coordination.waiters import LoopWaiter
from cachesync.core.freshness import due_of
from cachesync.core.settings import CoordinationSettings
from cachesync.testing import FakeClock
from support.nodes import COLOURS, LONG, Caller, Colour, LoopThread, Origin, engine_of, operations_of, read_log, sites_of, until, use

TTL = 10.0
WINDOW = 100.0
SOON = 0.02
"""Seconds that a test waits for a computation that it holds."""


class OriginError(Exception):
    """What the origin raises."""


class Pair:
    """Two callers of ``item(number)`` and ``page(number)``, which is made of that item."""

    def __init__(self, colour: Colour, loop: LoopThread, *, alone: bool = False, **options: Any) -> None:
        self.clock = FakeClock()
        self.origin = Origin()
        self.events: list[Event] = []
        self.shared = None if alone else MemoryShared(self.clock.monotonic)
        settings = Settings(coordination=CoordinationSettings(budget=LONG, max_lag=10_000.0))
        policy = Policy(name="all", match="*", ttl=TTL, **options)
        self.callers = [
            Caller(
                Cache(settings, policies=[policy], shared=self.shared, clock=self.clock, listen=False, on_event=self.events.append),
                colour,
                loop,
            )
            for _ in range(1 if alone else 2)
        ]
        self.items = [self._item(caller) for caller in self.callers]
        self.pages = [self._page(caller, item) for caller, item in zip(self.callers, self.items, strict=True)]

    def _item(self, caller: Caller) -> Any:
        how = caller.cache.cached("item:{number}", tags=["items"])
        if caller.colour == "def":

            def item(number: int) -> int:
                return self.origin.read()

            return how(item)

        async def aitem(number: int) -> int:
            return await self.origin.aread()

        return how(aitem)

    def _page(self, caller: Caller, item: Any) -> Any:
        @caller.cached("page:{number}")
        async def page(number: int) -> list[int]:
            return [await use(item, number)]

        return page

    def read(self, who: int = 0, number: int = 1) -> Any:
        return self.callers[who].do(self.items[who], number)

    def hear(self) -> None:
        for caller in self.callers:
            if self.shared is not None:
                read_log(caller.cache)

    def told(self, name: str) -> list[Event]:
        return [event for event in self.events if event.name == name]

    def close(self) -> None:
        for caller in self.callers:
            caller.close()


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    with LoopThread() as loop:
        yield loop


@pytest.fixture(params=COLOURS)
def colour(request: pytest.FixtureRequest) -> Colour:
    chosen: Colour = request.param
    return chosen


@pytest.fixture(params=["alone", "shared"])
def alone(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "alone")


# --- stale_if_error ---------------------------------------------------------------------------------------------------------------


def test_an_old_value_stands_in_for_a_computation_that_fails(colour: Colour, loop: LoopThread, alone: bool) -> None:
    """RFC 5861, 4: for as long as the policy says after its freshness; each time it is tried again, and an event says why it was needed."""
    pair = Pair(colour, loop, alone=alone, stale_if_error=WINDOW)
    assert pair.read() == 1
    pair.origin.version = 2
    for passed in (TTL, WINDOW - 1):
        pair.clock.advance(passed)
        pair.origin.fail(OriginError("not today"))
        assert pair.read() == 1
    assert [event.fields["error"] for event in pair.told("spare_served")] == ["OriginError('not today')"] * 2
    assert pair.origin.computations == 3
    pair.clock.advance(1)
    pair.origin.fail(OriginError("not today"))
    with pytest.raises(OriginError):
        pair.read()
    assert pair.read() == 2
    pair.close()


def test_an_old_value_stands_in_for_a_computation_in_which_something_is_cancelled(colour: Colour, loop: LoopThread, alone: bool) -> None:
    """The function awaits something that is cancelled, and nobody cancels the call."""
    pair = Pair(colour, loop, alone=alone, stale_if_error=WINDOW)
    assert pair.read() == 1
    pair.clock.advance(TTL)
    pair.origin.fail(asyncio.CancelledError())
    assert pair.read() == 1
    pair.origin.fail(asyncio.CancelledError())
    assert pair.callers[0].do(pair.items[0].many, [(1,)]) == [1]
    assert pair.origin.computations == 3
    pair.close()


def test_nothing_stands_in_for_whoever_is_cancelled(loop: LoopThread) -> None:
    """Also where his own task computes, as it does while he replaces the value."""
    pair = Pair("async def", loop, stale_if_error=WINDOW)
    assert pair.read() == 1
    pair.clock.advance(TTL)
    gate, seen = pair.origin.hold(), list[Any]()

    async def replace() -> None:
        async with pair.callers[0].cache.aupdate("item:1"):
            try:
                seen.append(await pair.items[0](1))
            except asyncio.CancelledError as error:
                seen.append(error)
                raise

    replacing = loop.submit(replace())
    gate.wait()
    replacing.cancel()
    until(lambda: seen, "the call ends")
    gate.open()
    assert isinstance(seen[0], asyncio.CancelledError)
    pair.close()


def test_a_computation_that_succeeds_is_waited_for(colour: Colour, loop: LoopThread, alone: bool) -> None:
    """A spare is for trouble alone: without it nobody is given an old value."""
    pair = Pair(colour, loop, alone=alone, stale_if_error=WINDOW)
    assert pair.read() == 1
    pair.origin.version = 2
    pair.clock.advance(TTL)
    assert pair.read() == 2
    assert pair.told("spare_served") == []
    pair.close()


def test_a_spare_may_come_from_the_shared_layer(colour: Colour, loop: LoopThread) -> None:
    """A process that never held the value finds it there, past its freshness."""
    pair = Pair(colour, loop, stale_if_error=WINDOW)
    assert pair.read(0) == 1
    pair.clock.advance(TTL + 1)
    pair.origin.fail(OriginError("not today"))
    assert pair.read(1) == 1
    pair.close()


@pytest.mark.parametrize("who", [0, 1])
def test_what_was_invalidated_is_no_spare(colour: Colour, loop: LoopThread, who: int) -> None:
    """Whoever has invalidated it, and also while the computation is under way that then fails."""
    pair = Pair(colour, loop, stale_if_error=WINDOW)
    assert pair.read(0) == 1
    pair.callers[who].drop("item:1")
    pair.hear()
    pair.origin.fail(OriginError("not today"))
    with pytest.raises(OriginError):
        pair.read(0)
    assert pair.read(0) == 1
    pair.clock.advance(TTL)
    gate = pair.origin.hold()
    reading = pair.callers[0].start(pair.items[0], 1)
    gate.wait()
    pair.callers[who].drop(tags=["items"])
    pair.hear()
    pair.origin.fail(OriginError("not today"))
    gate.open()
    with pytest.raises(OriginError):
        reading.result(LONG)
    pair.close()


def test_what_was_softly_invalidated_is_a_spare_from_then_on(colour: Colour, loop: LoopThread) -> None:
    pair = Pair(colour, loop, stale_if_error=WINDOW)
    assert pair.read() == 1
    pair.callers[1].drop("item:1", soft=True)
    pair.hear()
    for passed in (0, WINDOW - 1):
        pair.clock.advance(passed)
        pair.origin.fail(OriginError("not today"))
        assert pair.read() == 1
    pair.clock.advance(2)
    pair.origin.fail(OriginError("not today"))
    with pytest.raises(OriginError):
        pair.read()
    pair.close()


def test_what_is_made_of_a_spare_is_not_stored(colour: Colour, loop: LoopThread, alone: bool) -> None:
    pair = Pair(colour, loop, alone=alone, stale_if_error=WINDOW)
    assert pair.read() == 1
    pair.clock.advance(TTL)
    pair.origin.fail(OriginError("not today"))
    assert pair.callers[0].do(pair.pages[0], 1) == [1]
    pair.origin.version = 2
    assert pair.callers[0].do(pair.pages[0], 1) == [2]
    pair.close()


def test_who_asks_for_a_stamp_is_given_no_spare(colour: Colour, loop: LoopThread) -> None:
    pair = Pair(colour, loop, stale_if_error=WINDOW)
    assert pair.read() == 1
    stamp = pair.callers[0].drop("other:1")
    pair.clock.advance(TTL)
    pair.origin.fail(OriginError("not today"))
    with pytest.raises(OriginError):
        pair.callers[0].do(pair.items[0].at_least, stamp, 1)
    pair.close()


def test_a_batch_has_spares_too(colour: Colour, loop: LoopThread, alone: bool) -> None:
    pair = Pair(colour, loop, alone=alone, stale_if_error=WINDOW)
    assert pair.read(number=1) == pair.read(number=2) == 1
    pair.origin.version = 2
    pair.clock.advance(TTL)
    pair.origin.fail(OriginError("not today"))
    assert sorted(pair.callers[0].do(pair.items[0].many, [(1,), (2,)])) == [1, 2]
    pair.close()


# --- soft_timeout, hard_timeout ---------------------------------------------------------------------------------------------------


def test_with_an_old_value_at_hand_nobody_waits_longer_than_the_soft_timeout(colour: Colour, loop: LoopThread, alone: bool) -> None:
    """The computation goes on behind, and its result is stored: for this process and for the others."""
    pair = Pair(colour, loop, alone=alone, stale_if_error=WINDOW, soft_timeout=SOON)
    assert pair.read() == 1
    pair.origin.version = 2
    pair.clock.advance(TTL)
    gate = pair.origin.hold()
    assert [pair.read(), pair.read()] == [1, 1]
    assert pair.origin.computations == 2, "the second caller joined"
    gate.open()
    until(lambda: pair.callers[0].get("item:1") == 2, "the late result is stored")
    assert pair.read(-1) == 2
    assert pair.origin.computations == 2
    pair.close()


@pytest.mark.parametrize("limits", [{"stale_if_error": WINDOW, "soft_timeout": SOON}, {"hard_timeout": SOON}], ids=["soft", "hard"])
def test_who_gives_up_ends_no_computation_that_others_have_left_behind(loop: LoopThread, alone: bool, limits: dict[str, float]) -> None:
    """They were given an old value, or an error, and the computation goes on: a caller who is cancelled later changes nothing."""
    pair = Pair("async def", loop, alone=alone, **limits)
    assert pair.read() == 1
    pair.origin.version = 2
    pair.clock.advance(TTL)
    gate = pair.origin.hold()
    with suppress(OverdueError):
        assert pair.read() == 1
    gate.wait()
    counts = sites_of(pair.callers[0].cache)[0].counts
    before = counts.joined

    async def give_up() -> None:
        asked = asyncio.create_task(pair.items[0](1))
        while counts.joined == before and not asked.done():  # noqa: ASYNC110 - there is no event, and it is a few ticks
            await asyncio.sleep(0)
        asked.cancel()
        await asyncio.wait([asked])

    loop.run(give_up())
    gate.open()
    until(lambda: pair.callers[0].get("item:1") == 2, "the late result is stored")
    assert pair.origin.computations == 2
    pair.close()


def test_callers_who_wait_no_more_leave_nothing_behind(loop: LoopThread, alone: bool) -> None:
    """However many were given an old value, or were cancelled, while a computation hangs: memory stays flat."""
    pair = Pair("async def", loop, alone=alone, stale_if_error=WINDOW, soft_timeout=SOON)
    assert pair.read() == 1
    pair.clock.advance(TTL)
    gate = pair.origin.hold()

    async def ask(count: int) -> None:
        asked = [asyncio.ensure_future(pair.items[0](1)) for _ in range(count)]
        gone = [asyncio.ensure_future(pair.items[0](1)) for _ in range(count)]
        for _ in range(5):
            await asyncio.sleep(0)
        for caller in gone:
            caller.cancel()
        await asyncio.wait([*asked, *gone])

    def kept() -> int:
        gc.collect()
        return sum(issubclass(type(one), (LoopWaiter, Future, asyncio.Future)) for one in gc.get_objects())

    loop.run(ask(1))
    before = kept()
    loop.run(ask(50))
    assert kept() < before + 10
    gate.open()
    pair.close()


def test_without_an_old_value_the_soft_timeout_does_not_count(colour: Colour, loop: LoopThread) -> None:
    pair = Pair(colour, loop, stale_if_error=WINDOW, soft_timeout=SOON)
    gate = pair.origin.hold()
    reading = pair.callers[0].start(pair.items[0], 1)
    gate.wait()
    with pytest.raises(TimeoutError):
        reading.result(5 * SOON)
    gate.open()
    assert reading.result(LONG) == 1
    pair.close()


def test_an_old_value_that_is_invalidated_while_somebody_waits_is_not_given_to_him(colour: Colour, loop: LoopThread) -> None:
    """He waits on, for what comes."""
    pair = Pair(colour, loop, stale_if_error=WINDOW, soft_timeout=5 * SOON)
    assert pair.read() == 1
    pair.clock.advance(TTL)
    pair.origin.version = 2
    gate = pair.origin.hold()
    reading = pair.callers[0].start(pair.items[0], 1)
    gate.wait()
    pair.callers[0].drop("item:1")
    gate.open()
    assert reading.result(LONG) == 2
    pair.close()


def test_nobody_waits_longer_than_the_hard_timeout(colour: Colour, loop: LoopThread, alone: bool) -> None:
    """The error says so, and the late result is stored all the same."""
    pair = Pair(colour, loop, alone=alone, hard_timeout=SOON)
    gate = pair.origin.hold()
    with pytest.raises(OverdueError, match=r"item:1: its computation takes longer than 0\.02 s"):
        pair.read()
    gate.open()
    until(lambda: pair.callers[0].get("item:1") == 1, "the late result is stored")
    assert pair.read(-1) == 1
    assert pair.origin.computations == 1
    pair.close()


@pytest.mark.parametrize("how", ["a call", "a batch", "for a stamp"])
def test_the_hard_timeout_holds_where_nothing_can_be_confirmed(colour: Colour, loop: LoopThread, how: str) -> None:
    """A strict function is called then, and one of whom a stamp is asked that nobody can reach. Its result is for its caller alone."""
    pair = Pair(colour, loop, hard_timeout=SOON, consistency="bounded" if how == "for a stamp" else "strict")
    caller, item = pair.callers[0], pair.items[0]
    assert pair.shared is not None
    with pair.shared.outage():
        stamp = caller.drop("other:1")
        gate = pair.origin.hold()
        asked: dict[str, tuple[Any, ...]] = {
            "a call": (item, 1),
            "a batch": (item.many, [(1,), (2,)]),
            "for a stamp": (item.at_least, stamp, 1),
        }
        with pytest.raises(OverdueError, match=r"item:.: its computation takes longer than 0\.02 s"):
            caller.do(*asked[how])
        assert len(engine_of(caller.cache).flights) == 0, "nobody joins it"
        gate.open()
    pair.close()


def test_a_function_that_calls_itself_where_nothing_can_be_confirmed_stays_where_it_is(colour: Colour, loop: LoopThread) -> None:
    """With a thread or a task for each level nothing would end one that does so for ever."""
    pair = Pair(colour, loop, hard_timeout=LONG, consistency="strict")
    where: list[object] = []

    @pair.callers[0].cached("deep:{number}")
    async def deep(number: int) -> int:
        where.append(threading.current_thread() if colour == "def" else asyncio.current_task())
        return 1 if len(where) == 5 else await use(deep, number)

    assert pair.shared is not None
    with pair.shared.outage():
        assert pair.callers[0].do(deep, 1) == 1
    assert (len(where), len(set(where))) == (5, 1)
    pair.close()


def test_the_hard_timeout_has_spares_too(colour: Colour, loop: LoopThread, alone: bool) -> None:
    pair = Pair(colour, loop, alone=alone, stale_if_error=WINDOW, hard_timeout=SOON)
    assert pair.read() == 1
    pair.clock.advance(TTL)
    gate = pair.origin.hold()
    assert pair.read() == 1
    gate.open()
    pair.close()


@pytest.mark.parametrize("who", [0, -1])
def test_a_computation_that_hangs_is_begun_anew_when_its_lease_is_over(colour: Colour, loop: LoopThread, alone: bool, who: int) -> None:
    """Nobody joins one that takes longer than it may, and its lease is extended no more: it lapses, for this process and for others."""
    pair = Pair(colour, loop, alone=alone, hard_timeout=SOON)
    gate = pair.origin.hold()
    with pytest.raises(OverdueError):
        pair.read()
    lease = engine_of(pair.callers[0].cache).settings.coordination.lease
    for _ in range(3):
        pair.hear()
        pair.clock.advance(0.4 * lease)
    pair.hear()
    assert pair.read(who) == 1
    assert pair.origin.computations == 2
    gate.open()
    pair.close()


# --- errors -----------------------------------------------------------------------------------------------------------------------


def test_a_computation_that_has_failed_is_left_alone(colour: Colour, loop: LoopThread, alone: bool) -> None:
    """In its own process the same exception is raised again; in another one an error that quotes it."""
    pair = Pair(colour, loop, alone=alone, errors=5.0)
    pair.origin.fail(OriginError("not today"))
    for _ in range(3):
        with pytest.raises(OriginError, match="not today"):
            pair.read(0)
    if not alone:
        with pytest.raises(RestingError, match=r"item:1: .*OriginError\('not today'\)"):
            pair.read(1)
    assert pair.origin.computations == 1
    assert len(pair.told("left_alone")) == 1
    pair.clock.advance(5.0)
    assert pair.read(-1) == 1
    assert pair.origin.computations == 2
    pair.close()


def test_raising_it_again_does_not_make_its_traceback_longer(colour: Colour, loop: LoopThread) -> None:
    pair = Pair(colour, loop, alone=True, errors=5.0)
    pair.origin.fail(OriginError("not today"))
    lengths: set[int] = set()
    for _ in range(5):
        with pytest.raises(OriginError) as caught:
            pair.read()
        lengths.add(len(caught.traceback))
    assert len(lengths) <= 2, "the first time, and all others"
    pair.close()


class Rows:
    """What an origin has at hand when it fails."""


def test_what_is_left_alone_keeps_nothing_that_the_function_had_at_hand(colour: Colour, loop: LoopThread) -> None:
    """A traceback holds the variables of every frame, also that of the exception that another one was raised from."""
    pair = Pair(colour, loop, alone=True, errors=5.0)
    held: list[weakref.ref[Rows]] = []

    async def query() -> None:
        rows = Rows()
        held.append(weakref.ref(rows))
        raise KeyError("rows")

    @pair.callers[0].cached("rows:{number}")
    async def find(number: int) -> None:
        rows = Rows()
        held.append(weakref.ref(rows))
        try:
            await query()
        except KeyError as error:
            raise OriginError("not today") from error

    for later in (False, True):
        with pytest.raises(OriginError, match="not today") as caught:
            pair.callers[0].do(find, 1)
        assert {"find", "query"} <= {entry.name for one in (caught.value, caught.value.__cause__) for entry in lines_of(one)}
        assert [one() is None for one in held] == [later, later], "who is told first can look at it"
        pair.clock.advance(2.0)
    pair.close()


def test_of_many_that_fail_at_once_few_keep_what_they_had_at_hand(colour: Colour, loop: LoopThread) -> None:
    """However many fail within the moment in which they are told."""
    pair = Pair(colour, loop, alone=True, errors=5.0)
    held: list[weakref.ref[Rows]] = []

    @pair.callers[0].cached("rows:{number}")
    async def find(number: int) -> None:
        rows = Rows()
        held.append(weakref.ref(rows))
        raise OriginError("not today")

    for number in range(MAX_RAISED + 20):
        with pytest.raises(OriginError):
            pair.callers[0].do(find, number)
    assert [one() is None for one in held[:20]] == [True] * 20
    pair.close()


def lines_of(error: BaseException | None) -> traceback.StackSummary:
    return traceback.extract_tb(None if error is None else error.__traceback__)


def test_what_waits_goes_on_though_an_exception_has_passed_it() -> None:
    """It has caught the exception, which somebody else has raised again."""
    kept: list[OriginError] = []

    def waits() -> Iterator[str]:
        found = "goes on"
        try:
            raise OriginError("not today")
        except OriginError as error:
            kept.append(error)
            yield "waits"
        yield found

    waiting = waits()
    assert next(waiting) == "waits"
    let_go(kept[0])
    assert next(waiting) == "goes on"


def test_what_a_caller_handles_keeps_what_it_has() -> None:
    """What is raised while an exception is handled leads to that, which is not ours."""
    held: list[weakref.ref[Rows]] = []

    def fails() -> None:
        rows = Rows()
        held.append(weakref.ref(rows))
        raise KeyError("rows")

    try:
        fails()
    except KeyError as handled:
        error = OriginError("not today")
        error.__context__ = handled
        let_go(error)
        assert held[0]() is not None


def test_what_rests_no_more_is_forgotten(colour: Colour, loop: LoopThread) -> None:
    """Also where nobody asks for it again: when something else fails."""
    pair = Pair(colour, loop, alone=True, errors=5.0)
    failures = engine_of(pair.callers[0].cache).failures
    for number in (1, 2, 3):
        pair.origin.fail(OriginError("not today"))
        with pytest.raises(OriginError):
            pair.read(number=number)
        pair.clock.advance(2.5)
    assert list(failures) == ["item:2", "item:3"]
    pair.close()


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("who", [0, 1])
def test_an_invalidation_ends_the_leaving_alone(colour: Colour, loop: LoopThread, who: int, *, soft: bool) -> None:
    """The source has changed, so the computation may succeed: whoever has invalidated, everybody tries again."""
    for reader in (0, 1):
        pair = Pair(colour, loop, errors=5.0)
        assert pair.read(reader, number=9) == 1
        pair.origin.fail(OriginError("not today"))
        with pytest.raises(OriginError):
            pair.read(0)
        pair.callers[who].drop(tags=["items"], soft=soft)
        pair.hear()
        assert pair.read(reader) == 1
        pair.close()


def test_a_computation_that_has_failed_is_left_alone_also_where_the_log_was_never_heard(colour: Colour, loop: LoopThread) -> None:
    """A process that starts while the shared layer is away, and whose origin is away too. Its own invalidation ends the rest."""
    pair = Pair(colour, loop, errors=5.0)
    assert pair.shared is not None
    with pair.shared.outage():
        pair.origin.fail(OriginError("not today"))
        for _ in range(3):
            with pytest.raises(OriginError, match="not today"):
                pair.read()
        assert pair.origin.computations == 1
        assert pair.callers[0].drop("item:1").pending
        assert pair.read() == 1
        pair.origin.fail(OriginError("not today"))
        for _ in range(2):
            with pytest.raises(OriginError, match="not today"):
                pair.read(number=2)
        assert pair.origin.computations == 3
    pair.hear()
    assert pair.read(number=2) == 1, "what was invalidated before the log was heard is not known"
    pair.close()


def test_an_old_value_stands_in_for_what_is_left_alone(colour: Colour, loop: LoopThread, alone: bool) -> None:
    pair = Pair(colour, loop, alone=alone, errors=5.0, stale_if_error=WINDOW)
    assert pair.read() == 1
    pair.clock.advance(TTL)
    pair.origin.fail(OriginError("not today"))
    assert [pair.read(), pair.read(), pair.read(-1)] == [1, 1, 1]
    assert pair.origin.computations == 2
    pair.close()


# --- early_refresh ----------------------------------------------------------------------------------------------------------------


def test_a_value_is_refreshed_before_its_time_behind_everybodys_back(colour: Colour, loop: LoopThread, alone: bool) -> None:
    """From that share of its freshness on, by one process."""
    pair = Pair(colour, loop, alone=alone, early_refresh=0.8)
    assert pair.read(0) == pair.read(-1) == 1
    pair.origin.version = 2
    pair.clock.advance(0.7 * TTL)
    assert pair.read(0) == pair.read(-1) == 1
    assert pair.origin.computations == 1
    pair.clock.advance(0.2 * TTL)
    gate = pair.origin.hold()
    assert pair.read(0) == 1
    gate.wait()
    assert pair.read(-1) == 1
    if not alone:
        refresher = operations_of(pair.callers[-1].cache).refresher
        until(lambda: not getattr(refresher, "_under_way"), "the other one leaves it to the first, and does not wait")  # noqa: B009
    gate.open()
    until(lambda: pair.read(0) == 2, "the new value is held")
    pair.clock.advance(0.2 * TTL)
    until(lambda: pair.read(-1) == 2, "the other one has it too")
    assert pair.origin.computations == 2
    pair.close()


def test_a_copy_that_lives_shorter_than_its_entry_is_not_due_before_the_entry_is(colour: Colour, loop: LoopThread) -> None:
    """``local_ttl`` says how long a process may go without asking, not how old the value is."""
    pair = Pair(colour, loop, early_refresh=0.8, local_ttl=0.2 * TTL)
    assert pair.read() == 1
    engine, site = engine_of(pair.callers[0].cache), sites_of(pair.callers[0].cache)[0]
    ask = engine.ask(site, site.address((1,)), (1,))
    for _ in range(3):
        pair.clock.advance(0.17 * TTL)
        found = engine.at_hand(ask)
        assert found is not None
        assert not found.is_due
        pair.clock.advance(0.04 * TTL)
        assert pair.read() == 1
    pair.origin.version = 2
    pair.clock.advance(0.2 * TTL)
    assert pair.read() == 1
    until(lambda: pair.read() == 2, "the refresh, when the entry is due")
    assert pair.origin.computations == 2
    pair.close()


@pytest.mark.parametrize(("seconds", "computations"), [(0.0, 1), (1e6 * TTL, 2)])
def test_a_probable_refresh_comes_the_sooner_the_longer_the_computation_takes(
    colour: Colour, loop: LoopThread, alone: bool, seconds: float, computations: int
) -> None:
    """Where it takes no time, not before the end; where it takes longer than the value is fresh, very probably at once."""
    pair = Pair(colour, loop, alone=alone, early_refresh="probabilistic")
    sites_of(pair.callers[0].cache)[0].counts.seconds = seconds
    assert pair.read() == 1
    pair.origin.version = 2
    pair.clock.advance(0.5 * TTL)
    assert pair.read() == 1
    if computations == 2:
        until(lambda: pair.read() == 2, "it is refreshed")
    assert pair.read() == computations
    assert pair.origin.computations == computations
    pair.close()


@pytest.mark.parametrize("passed", [0.5, 1.0, 2.0])
def test_of_many_processes_few_refresh_long_before_the_end(passed: float) -> None:
    """The share that does so before the last x times the computation's seconds is e to the power of -x."""
    policy = Policy(name="all", match="*", ttl=TTL, early_refresh="probabilistic")
    dues = [due_of(policy, 0.0, 100.0, seconds=3.0, luck=luck / 10_000) for luck in range(1, 10_001)]
    share = sum(due < 100.0 - 3.0 * passed for due in dues) / len(dues)
    assert share == pytest.approx(math.exp(-passed), abs=1e-3)
    assert all(0.0 <= due <= 100.0 for due in dues)


def test_an_early_refresh_that_fails_costs_nobody_anything(colour: Colour, loop: LoopThread, alone: bool) -> None:
    pair = Pair(colour, loop, alone=alone, early_refresh=0.5)
    assert pair.read() == 1
    pair.clock.advance(0.6 * TTL)
    pair.origin.fail(OriginError("not today"))
    assert pair.read() == 1
    until(lambda: pair.told("refresh_failed"), "the failure is told")
    assert pair.read() == 1
    pair.close()
