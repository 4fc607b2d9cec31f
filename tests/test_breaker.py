"""The circuit breaker: an outage costs one budget, and whoever comes meanwhile asks nothing of a layer that does not answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cachesync import Cache, Event, MemoryShared, Policy, Stamp
from cachesync.coordination.worlds import ThreadWorld
from cachesync.core.settings import CoordinationSettings, Settings
from cachesync.core.stamps import NOWHERE
from cachesync.core.steps import Announce, Beat, Confirm, Done, Failed, Lease, Release, Replies, Reply, SharedStep, Together
from cachesync.errors import LayerError
from cachesync.layers.breaker import FIRST_REST, LONGEST_REST, SPREAD, Breaker
from cachesync.testing import FakeClock
from support.nodes import COLOURS, LONG, Caller, Colour, HoldingShared, LoopThread, engine_of, operations_of, until

BUDGET = 0.25
POLICIES = [Policy(name="items", match="item:*", ttl="1h")]


def _breaker(clock: FakeClock) -> Breaker:
    return Breaker(clock.monotonic, threading.RLock(), BUDGET)


def test_a_breaker_is_closed_until_a_step_fails_and_again_when_one_is_answered() -> None:
    clock = FakeClock()
    breaker = _breaker(clock)
    assert (breaker.state, breaker.admits(), breaker.may_try()) == ("closed", True, False)
    breaker.failed()
    assert (breaker.state, breaker.admits()) == ("open", False)
    breaker.answered()
    assert (breaker.state, breaker.admits()) == ("closed", True)


def test_after_a_rest_one_at_a_time_tries() -> None:
    """Who tries has his budget for it; after that the next may."""
    clock = FakeClock()
    breaker = _breaker(clock)
    breaker.failed()
    clock.advance((1 + SPREAD) * FIRST_REST)
    assert breaker.state == "half-open"
    assert [breaker.admits() for _ in range(3)] == [True, False, False]
    clock.advance(BUDGET)
    assert [breaker.admits() for _ in range(2)] == [True, False]


def test_rests_are_doubled_up_to_a_limit_while_it_goes_on_failing() -> None:
    """What fails in a rest was sent before it was known, and makes it no longer."""
    clock = FakeClock()
    breaker = _breaker(clock)
    for rest in (1, 2, 4, 8, 8, 8):
        began = clock.monotonic()
        breaker.failed()
        until_ = breaker.resting_until
        assert (1 - SPREAD) * rest <= until_ - began <= (1 + SPREAD) * rest
        breaker.failed()
        assert breaker.resting_until == until_
        clock.advance(until_ - began)


def test_a_layer_that_flaps_is_left_alone_for_longer_each_time() -> None:
    """An answer closes the breaker, and does not make the next failure the first; only calm does."""
    clock = FakeClock()
    breaker = _breaker(clock)
    rests: list[float] = []
    for calm in (0.0, 1.0, 1.0, 3 * LONGEST_REST):
        clock.advance(calm)
        breaker.failed()
        rests.append(breaker.resting_until - clock.monotonic())
        clock.advance(rests[-1])
        breaker.answered()
    assert [round(rest / (1 + 1.01 * SPREAD), 9) <= wanted for rest, wanted in zip(rests, (1, 2, 4, 1), strict=True)] == [True] * 4
    assert rests[0] < rests[1] < rests[2] > rests[3]


def test_rests_of_many_processes_do_not_end_together() -> None:
    clock = FakeClock()
    ends: set[float] = set()
    for _ in range(50):
        breaker = _breaker(clock)
        breaker.failed()
        ends.add(breaker.resting_until)
    assert len(ends) > 40


def test_to_look_is_no_trial() -> None:
    clock = FakeClock()
    breaker = _breaker(clock)
    seen = [breaker.is_passable]
    breaker.failed()
    seen += [breaker.is_passable]
    clock.advance(2 * FIRST_REST)
    seen += [breaker.is_passable, breaker.is_passable, breaker.admits(), breaker.is_passable]
    clock.advance(BUDGET)
    seen += [breaker.is_passable]
    breaker.is_tried = True
    seen += [breaker.is_passable]
    assert seen == [True, False, True, True, True, False, True, False], "not where another one tries, nor where the reader does"


def test_where_the_reader_tries_no_caller_does() -> None:
    clock = FakeClock()
    breaker = _breaker(clock)
    breaker.is_tried = True
    breaker.failed()
    clock.advance(2 * FIRST_REST)
    assert not breaker.admits()
    assert (breaker.leaves_alone, breaker.may_try()) == (True, True)


def test_a_sign_of_life_ends_a_rest() -> None:
    clock = FakeClock()
    breaker = _breaker(clock)
    breaker.failed()
    breaker.end_rest()
    assert [breaker.may_try(), breaker.may_try()] == [True, False]


# --- the whole cache ----------------------------------------------------------------------------------------------------------------


class Asked(MemoryShared):
    """Notes which steps it is asked by whom but the log's reader."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[SharedStep] = []

    def perform(self, step: SharedStep, /) -> Reply:
        if threading.current_thread().name != "cachesync-log":
            self.steps.append(step)
        return super().perform(step)


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    with LoopThread() as loop:
        yield loop


@contextmanager
def _process(colour: Colour, loop: LoopThread, *, listen: bool = True) -> Generator[tuple[Caller, Any, Asked]]:
    """A cache, a function of its, and its layer."""
    shared = Asked()
    settings = Settings(coordination=CoordinationSettings(budget=LONG, max_lag=LONG))
    caller = Caller(Cache(settings, policies=POLICIES, shared=shared, listen=listen), colour, loop)

    @caller.cached("item:{number}")
    async def item(number: int) -> int:
        return number

    try:
        yield caller, item, shared
    finally:
        caller.close()


def _is_noticed(caller: Caller) -> None:
    """The log's reader hears nothing: from here on no answer from before is under way to it."""
    reader = operations_of(caller.cache).reader
    until(lambda: getattr(reader, "_is_deaf"), "the reader hears nothing")  # noqa: B009 - private


def _invalidate(caller: Caller, key: str) -> Stamp:
    cache = caller.cache
    stamp: Stamp = caller.do(cache.invalidate if caller.colour == "def" else cache.ainvalidate, key)
    return stamp


@pytest.mark.parametrize("colour", COLOURS)
def test_nobody_asks_a_layer_that_has_failed_but_the_reader(colour: Colour, loop: LoopThread) -> None:
    """The first call finds out; hundred others ask nothing. When it is back the reader knows, and nobody has to try."""
    with _process(colour, loop) as (caller, item, shared):
        steps = shared.steps
        breaker = engine_of(caller.cache).breaker
        caller.do(item, 0)
        with shared.outage():
            _is_noticed(caller)
            assert caller.do(item, 1) == 1
            assert breaker.leaves_alone
            before = len(steps)
            assert [caller.do(item, number) for number in range(2, 102)] == list(range(2, 102))
            assert len(steps) == before
            breaker.end_rest()
            assert caller.do(item, 102) == 102
            assert len(steps) == before, "also when its rest is over"
        until(lambda: breaker.state == "closed", "the reader has found out")
        assert len(steps) == before
        caller.do(item, 1000)
        assert len(steps) > before


@pytest.mark.parametrize("colour", COLOURS)
def test_what_is_invalidated_meanwhile_is_queued_at_once(colour: Colour, loop: LoopThread) -> None:
    """It holds here, its stamp is pending, the layer is not asked; the reader announces it when the layer is back."""
    with _process(colour, loop) as (caller, item, shared):
        steps = shared.steps
        cache = caller.cache
        caller.do(item, 0)
        caller.do(item, 1)
        with shared.outage():
            _is_noticed(caller)
            caller.do(item, 2)
            before = len(steps)
            stamp = _invalidate(caller, "item:1")
            assert stamp.pending
            assert len(steps) == before
            assert cache.stats().log.queued == 1
        until(lambda: cache.stats().log.queued == 0, "it is announced")
        assert not any(isinstance(step, Announce) for step in steps)
        until(lambda: engine_of(cache).breaker.state == "closed", "the layer is used again")
        assert not _invalidate(caller, "item:1").pending


def test_without_a_reader_one_caller_at_a_time_tries(loop: LoopThread) -> None:
    with _process("def", loop, listen=False) as (caller, item, shared):
        steps = shared.steps
        breaker = engine_of(caller.cache).breaker
        caller.do(item, 0)
        with shared.outage():
            caller.do(item, 1)
            before = len(steps)
            caller.do(item, 2)
            assert len(steps) == before
            breaker.end_rest()
            assert breaker.may_try(), "this one tries"
            caller.do(item, 3)
            assert len(steps) == before
        breaker.end_rest()
        caller.do(item, 4)
        assert breaker.state == "closed"
        assert len(steps) > before


def _reads(caller: Caller, item: Any) -> None:
    caller.do(item, 7)


def _reads_many(caller: Caller, item: Any) -> None:
    caller.do(item.many, [(7,), (8,)])


def _looks(caller: Caller, item: Any) -> None:
    caller.get("item:7")


def _looks_for_many(caller: Caller, item: Any) -> None:
    caller.do(caller.cache.get_many if caller.colour == "def" else caller.cache.aget_many, ["item:7"])


def _peeks(caller: Caller, item: Any) -> None:
    caller.peek("item:7")


def _sets(caller: Caller, item: Any) -> None:
    caller.put("item:7", 7)


def _refreshes(caller: Caller, item: Any) -> None:
    caller.do(item.refresh, 7)


def _invalidates(caller: Caller, item: Any) -> None:
    assert not _invalidate(caller, "item:7").pending


@pytest.mark.parametrize("use", [_reads, _reads_many, _looks, _looks_for_many, _peeks, _sets, _refreshes, _invalidates])
@pytest.mark.parametrize("colour", COLOURS)
def test_without_a_reader_what_is_queued_is_announced_by_who_asks_next(
    colour: Colour, loop: LoopThread, use: Callable[[Caller, Any], None]
) -> None:
    """Otherwise nobody else would hear of it, and here what it matches would be computed each time."""
    with _process(colour, loop, listen=False) as (caller, item, shared):
        caller.do(item, 1)
        with shared.outage():
            assert _invalidate(caller, "item:1").pending
            assert _invalidate(caller, "item:2").pending
        engine_of(caller.cache).breaker.end_rest()
        shared.steps.clear()
        use(caller, item)
        assert caller.cache.stats().log.queued == 0
        announced = [step.targets[0].texts for step in shared.steps if isinstance(step, Announce)]
        assert announced[:2] == [("item:1",), ("item:2",)], "the oldest first"
        before = caller.cache.stats().total.computed
        assert [caller.do(item, 1) for _ in range(3)] == [1, 1, 1]
        assert caller.cache.stats().total.computed == before + 1


def _drops(caller: Caller, item: Any) -> None:
    caller.drop("item:7")


def _updates(caller: Caller, item: Any) -> None:
    with caller.update("item:7") as replace:
        replace(7)


def _updates_in_vain(caller: Caller, item: Any) -> None:
    with caller.update("item:7"):
        pass


@pytest.mark.parametrize("use", [_sets, _refreshes, _drops, _updates, _updates_in_vain])
@pytest.mark.parametrize("colour", COLOURS)
def test_without_a_reader_a_change_asks_a_layer_that_has_failed_as_seldom_as_a_read(
    colour: Colour, loop: LoopThread, use: Callable[[Caller, Any], None]
) -> None:
    """Each question may take the whole budget: while it rests there is none, and after that one."""
    with _process(colour, loop, listen=False) as (caller, item, shared):
        breaker, steps = engine_of(caller.cache).breaker, shared.steps
        caller.do(item, 1)
        with shared.outage():
            caller.do(item, 2)
            steps.clear()
            use(caller, item)
            assert steps == []
            breaker.end_rest()
            assert breaker.may_try(), "somebody else tries"
            use(caller, item)
            assert steps == []
            breaker.end_rest()
            use(caller, item)
            assert len(steps) == 1
            use(caller, item)
            assert len(steps) == 1
        breaker.end_rest()
        use(caller, item)
        assert breaker.state == "closed"
        caller.do(item, 3)
        assert caller.cache.stats().log.queued == 0


@pytest.mark.parametrize("queues", [False, True])
@pytest.mark.parametrize("colour", COLOURS)
def test_a_set_that_is_the_one_to_try_asks_one_question_first(colour: Colour, loop: LoopThread, queues: bool) -> None:
    """Where that fails it asks no other; where it is answered it goes on as always, whether or not something was queued before."""
    with _process(colour, loop, listen=False) as (caller, item, shared):
        breaker = engine_of(caller.cache).breaker
        caller.do(item, 1)
        with shared.outage():
            caller.do(item, 2)
            assert not queues or _invalidate(caller, "item:1").pending
            shared.steps.clear()
            breaker.end_rest()
            assert caller.put("item:2", 2).pending
            assert len(shared.steps) == 1
        caller.cache.check() if colour == "def" else caller.do(caller.cache.acheck)
        with shared.outage():
            caller.do(item, 3)
        breaker.end_rest()
        assert not caller.put("item:2", 2).pending
        assert caller.cache.stats().log.queued == 0


@pytest.mark.parametrize("colour", COLOURS)
def test_what_can_not_be_announced_goes_on_waiting_at_the_cost_of_one_try(colour: Colour, loop: LoopThread) -> None:
    with _process(colour, loop, listen=False) as (caller, item, shared):
        caller.do(item, 1)
        with shared.outage():
            for number in range(1, 6):
                assert _invalidate(caller, f"item:{number}").pending
            engine_of(caller.cache).breaker.end_rest()
            before = len(shared.steps)
            assert caller.do(item, 9) == 9
            assert len(shared.steps) == before + 1
            assert caller.cache.stats().log.queued == 5


@pytest.mark.parametrize("colour", COLOURS)
def test_a_closed_cache_announces_what_is_queued_when_it_is_used_again(colour: Colour, loop: LoopThread) -> None:
    with _process(colour, loop) as (caller, item, shared):
        caller.do(item, 1)
        with shared.outage():
            _is_noticed(caller)
            caller.do(item, 2)
            assert _invalidate(caller, "item:1").pending
            caller.close()
        engine_of(caller.cache).breaker.end_rest()
        caller.do(item, 3)
        assert caller.cache.stats().log.queued == 0


@pytest.mark.parametrize("colour", COLOURS)
def test_closing_asks_a_layer_that_fails_once(colour: Colour, loop: LoopThread) -> None:
    """However much is queued: an answer may take a second to fail. It is told to nobody, and counts all the same."""
    with _process(colour, loop, listen=False) as (caller, item, shared):
        caller.do(item, 0)
        with shared.outage():
            assert all(_invalidate(caller, f"item:{number}").pending for number in range(1, 6))
            engine_of(caller.cache).answered()  # it was back for a moment
            shared.steps.clear()
            events: list[str] = []
            caller.cache.on_event(lambda event: events.append(event.name))
            caller.close()
            assert [type(step) for step in shared.steps] == [Announce]
            assert events == ["invalidation_lost"]


@pytest.mark.parametrize("colour", COLOURS)
def test_what_is_queued_after_the_last_chance_is_told_as_lost(colour: Colour, loop: LoopThread) -> None:
    """An invalidation was under way while the cache was closed, and could not be announced."""
    events: list[Event] = []
    inner = MemoryShared()
    shared = HoldingShared(inner)
    settings = Settings(coordination=CoordinationSettings(budget=LONG, max_lag=LONG))
    cache = Cache(settings, policies=POLICIES, shared=shared, listen=False, on_event=events.append)
    caller = Caller(cache, colour, loop)
    with inner.outage():
        gate = shared.hold(Announce)
        invalidating = caller.start(cache.invalidate if colour == "def" else cache.ainvalidate, "item:1")
        gate.wait()
        caller.close()
        assert events == []
        gate.open()
        assert invalidating.result(LONG).pending
    assert [event.name for event in events] == ["layer_failed", "invalidation_queued", "invalidation_lost"]
    assert events[-1].fields == {"patterns": ["item:1"], "tags": []}


def test_what_is_forked_while_a_cache_is_closed_is_told_of_trouble() -> None:
    """The child uses the cache, which nobody is closing there."""
    events: list[Event] = []
    shared = MemoryShared()
    with Cache(policies=POLICIES, shared=shared, listen=False, on_event=events.append) as cache:
        operations, engine = operations_of(cache), engine_of(cache)
        operations.reader.stop()
        assert engine.closing
        operations.after_fork()
        with shared.outage():
            assert cache.invalidate("item:1").pending
        assert engine.breaker.is_open
        assert [event.name for event in events] == ["layer_failed", "invalidation_queued"]


@pytest.mark.parametrize("colour", COLOURS)
def test_to_find_that_a_value_should_be_refreshed_is_no_trial(colour: Colour, loop: LoopThread) -> None:
    """It is the refresh that tries a layer which has failed, and so brings its result to it."""
    clock = FakeClock()
    shared = MemoryShared(clock.monotonic)
    settings = Settings(coordination=CoordinationSettings(budget=LONG, max_lag=10 * LONG))
    policy = Policy(name="items", match="item:*", ttl=10.0, stale_while_revalidate=100.0)
    caller = Caller(Cache(settings, policies=[policy], shared=shared, clock=clock, listen=False), colour, loop)
    versions = iter((1, 2, 3))

    @caller.cached("item:{number}")
    async def item(number: int) -> int:
        return next(versions)

    breaker = engine_of(caller.cache).breaker
    assert caller.do(item, 1) == 1
    with shared.outage():
        assert caller.do(item, 2) == 2
    clock.advance(20.0)
    assert caller.do(item, 1) == 1
    until(lambda: caller.get("item:1") == 3, "the refresh")
    assert breaker.state == "closed"
    caller.close()


# --- a trip -------------------------------------------------------------------------------------------------------------------------

ANSWERED: list[tuple[SharedStep, Any]] = [(Confirm(), Beat(None, "", True, True)), (Release("a", "me"), Done(done=True))]
LEASE = Lease("b", "me", NOWHERE, 1_000, None)


def _failure(part: str | None = None) -> Failed:
    error = LayerError("no answer in time")
    error.part = part
    return Failed(error)


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize(
    ("failed", "with_", "state", "told"),
    [
        ([LEASE, LEASE], [], "open", ["layer_failed"]),
        ([LEASE, LEASE], ANSWERED[:1], "closed", ["layer_failed"]),
        ([LEASE, LEASE], ANSWERED[1:], "open", ["layer_failed"]),
    ],
    ids=["nothing answered", "something answered", "the log may be elsewhere"],
)
def test_a_trip_is_judged_as_one(
    failed: list[SharedStep], with_: list[tuple[SharedStep, Any]], state: str, told: list[str], is_first: bool
) -> None:
    """What failed in it, and what was answered, come in no order. It is an outage if nothing was answered that concerns the log."""
    failures: list[tuple[SharedStep, Any]] = [(step, _failure()) for step in failed]
    trip = [*failures, *with_] if is_first else [*with_, *failures]
    assert _judged(trip) == (state, told)


def test_one_of_several_servers_is_no_outage() -> None:
    """Nor is it if nothing else was asked. Each of them is told once, however many steps it has failed."""
    parts: list[tuple[SharedStep, Any]] = [(LEASE, _failure("a:1")), (LEASE, _failure("b:1")), (LEASE, _failure("a:1"))]
    assert _judged(parts) == ("closed", ["layer_failed", "layer_failed"])


def _judged(trip: list[tuple[SharedStep, Any]]) -> tuple[str, list[str]]:
    """The state of the breaker after a trip, and the events. Nothing is asked but what the test says: there is no reader."""
    events: list[Event] = []
    with Cache(policies=POLICIES, shared=MemoryShared(), listen=False, on_event=events.append) as cache:
        engine = engine_of(cache)
        step = Together(tuple(one for one, _ in trip))
        ThreadWorld(engine).note_all(step, engine.now(), Replies(tuple(reply for _, reply in trip)), [None] * len(trip))
        return engine.breaker.state, [event.name for event in events if event.name.startswith("layer_failed")]


def test_what_was_asked_before_the_failure_does_not_say_that_it_is_over() -> None:
    """Its answer may have been on its way for long, in a thread that had to wait for its turn."""
    clock = FakeClock()
    with Cache(policies=POLICIES, shared=MemoryShared(clock.monotonic), clock=clock, listen=False) as cache:
        engine = engine_of(cache)
        world, asked = ThreadWorld(engine), engine.now()
        clock.advance(0.1)
        world.note(LEASE, engine.now(), _failure())
        world.note(ANSWERED[0][0], asked, ANSWERED[0][1])
        assert engine.breaker.is_open
        world.note(ANSWERED[0][0], engine.now(), ANSWERED[0][1])
        assert [engine.breaker.is_open, engine.breaker.state] == [False, "closed"]
