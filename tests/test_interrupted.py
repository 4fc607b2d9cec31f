"""Whoever is cancelled or interrupted leaves nothing behind: no lease, no flight, no invalidation that is never announced."""

from __future__ import annotations

import asyncio
from typing import NoReturn

import pytest

from cachesync import Cache, Event, LayerError, MemoryShared, Policy
from cachesync.coordination.flights import Flight
from cachesync.core.flows import Ask
from cachesync.core.records import TEXTS_OF_A_PART
from cachesync.core.stamps import NOWHERE
from cachesync.core.steps import Announce, Called, Failed, Lease, Leased, Reply, SharedStep
from support.nodes import COLOURS, Colour, engine_of, read_log


class LosingShared(MemoryShared):
    """The answer to a lease is lost (``lost``), or on its way for as long as ``held`` is not set."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = False
        self.asked = asyncio.Event()
        self.holding: type[SharedStep] = Lease
        self.held: asyncio.Event | None = None
        self.sync = self

    def perform(self, step: SharedStep, /) -> Reply:
        reply = super().perform(step)
        return Failed(LayerError("lost on its way")) if self.lost and isinstance(step, Lease) else reply

    def of_loop(self) -> LosingLoop:  # type: ignore[override]  # another class, with the same one method
        return LosingLoop(self)

    def is_free(self, key: str) -> bool:
        reply = MemoryShared.perform(self, Lease(key, "somebody else", NOWHERE, 1, None))
        return isinstance(reply, Leased) and reply.granted


class LosingLoop:
    """The same for ``async def``."""

    def __init__(self, shared: LosingShared) -> None:
        self._shared = shared

    async def perform(self, step: SharedStep, /) -> Reply:
        reply = self._shared.perform(step)
        if isinstance(step, self._shared.holding) and self._shared.held is not None:
            self._shared.asked.set()
            await self._shared.held.wait()
        return reply


@pytest.mark.parametrize("lost", [False, True])
def test_a_caller_that_is_cancelled_while_it_asks_for_a_lease_leaves_none(lost: bool) -> None:
    """The lease was granted, but the answer did not arrive before its only caller went away: the next one does not wait for it."""

    async def story() -> None:
        shared = LosingShared()
        shared.lost, shared.held = lost, asyncio.Event()
        cache = Cache(policies=[Policy(name="all", match="*", ttl="1h")], shared=shared, listen=False)

        @cache.cached("square:{n}")
        async def square(n: int) -> int:
            return n * n

        caller = asyncio.create_task(square(3))
        await shared.asked.wait()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        while not shared.is_free("square:3"):  # noqa: ASYNC110 - it is given back within a few steps of the loop
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(story(), 20))


def test_a_lease_whose_answer_was_lost_is_given_back_by_the_reader_of_the_log() -> None:
    """The call goes on without a lease. Redis may have granted it, and then every other process would wait until it lapses."""
    shared = LosingShared()
    shared.lost = True
    cache = Cache(policies=[Policy(name="all", match="*", ttl="1h")], shared=shared, listen=False)

    @cache.cached("square:{n}")
    def square(n: int) -> int:
        return n * n

    assert square(3) == 9
    assert not shared.is_free("square:3")
    assert read_log(cache)
    assert shared.is_free("square:3")


def test_an_invalidation_whose_caller_was_cancelled_is_announced_all_the_same() -> None:
    """A client that hangs up leaves no invalidation that holds here for ever and is never announced."""

    async def story() -> None:
        shared = LosingShared()
        cache = Cache(policies=[Policy(name="all", match="*", ttl="1h")], shared=shared, listen=False)
        computed: list[int] = []

        @cache.cached("square:{n}")
        async def square(n: int) -> int:
            computed.append(n)
            return n * n

        await square(3)
        shared.holding, shared.held = Announce, asyncio.Event()
        caller = asyncio.create_task(cache.ainvalidate("*"))
        await shared.asked.wait()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        shared.held.set()
        assert read_log(cache)
        for _ in range(3):
            await square(3)
        assert computed == [3, 3]

    asyncio.run(asyncio.wait_for(story(), 20))


class Interrupted(BaseException):
    """Comes from a signal handler, at any moment."""


class InterruptingShared(MemoryShared):
    """Whoever announces while ``strikes`` is set is interrupted: its record is in the log, or is not."""

    def __init__(self) -> None:
        super().__init__()
        self.strikes: BaseException | None = None

    def perform(self, step: SharedStep, /) -> Reply:
        if isinstance(step, Announce) and self.strikes is not None:
            raise self.strikes
        return super().perform(step)


@pytest.mark.parametrize("where", ["in its first part", "while an older one is announced"])
@pytest.mark.parametrize("colour", COLOURS)
def test_an_invalidation_of_many_texts_that_is_interrupted_is_announced_as_a_whole(colour: Colour, where: str) -> None:
    """All of it held here before the first part was announced. What was not announced is queued, which an event tells of each part."""
    shared = InterruptingShared()
    events: list[Event] = []
    policies = [Policy(name="all", match="*", ttl="1h")]
    cache = Cache(policies=policies, shared=shared, listen=False, on_event=events.append)
    other = Cache(policies=policies, shared=shared, listen=False)
    older, keys = "key:0", [f"key:{number}" for number in range(1, 2 * TEXTS_OF_A_PART + 2)]
    for key in (older, keys[0], keys[-1]):
        other.set(key, "old")
    with shared.outage():
        queues = where == "while an older one is announced"
        assert not queues or cache.invalidate(older).pending
    engine_of(cache).answered()
    events.clear()
    shared.strikes = asyncio.CancelledError() if colour == "async def" else Interrupted()
    with pytest.raises(type(shared.strikes)):
        asyncio.run(cache.ainvalidate(*keys)) if colour == "async def" else cache.invalidate(*keys)
    shared.strikes = None
    assert [event.name for event in events] == ["invalidation_queued"] * 3
    assert sorted(text for event in events for text in event.fields["patterns"]) == sorted(keys)
    assert read_log(cache)
    assert engine_of(cache).ledger.tickets.held == ()
    assert read_log(other)
    assert [other.get(key, None) for key in (older, keys[0], keys[-1])] == [None if queues else "old", None, None]
    assert [cache.get_or_compute(keys[-1], lambda: "new") for _ in range(2)] == ["new", "new"]
    assert cache.stats().total.computed == 1


@pytest.mark.parametrize("has_joined", [False, True])
def test_an_invalidation_of_which_a_part_was_announced_queues_the_rest(has_joined: bool) -> None:
    """The part that has its number is not announced again, also where the process has yet to join the log that it is a number of."""
    shared = InterruptingShared()
    events: list[Event] = []
    cache = Cache(policies=[Policy(name="all", match="*", ttl="1h")], shared=shared, listen=False, on_event=events.append)

    assert not has_joined or read_log(cache)

    def strike(_event: Event) -> None:
        shared.strikes = Interrupted()

    cache.on_event(strike)
    with pytest.raises(Interrupted):
        cache.invalidate(*(f"key:{number}" for number in range(2 * TEXTS_OF_A_PART + 1)))
    assert [event.name for event in events] == ["invalidated", "invalidation_queued", "invalidation_queued"]
    assert cache.stats().log.queued == 2


@pytest.mark.parametrize("place", ["copies", "lock"])
def test_a_caller_that_is_interrupted_while_it_takes_the_lead_leaves_no_flight(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between joining and computing: whoever asks for the key next computes, and does not wait for nobody."""
    cache = Cache(policies=[Policy(name="all", match="*", ttl="1h")])
    engine = engine_of(cache)

    @cache.cached("square:{n}")
    def square(n: int) -> int:
        return n * n

    at_hand, join = engine.at_hand, engine.flights.join
    looks: list[Ask] = []

    def interrupted_look(ask: Ask, *, only_fresh: bool = False) -> Called | None:
        looks.append(ask)
        if len(looks) == 2:  # the first look is before joining, the second while leading
            raise Interrupted
        return at_hand(ask, only_fresh=only_fresh)

    def interrupted_join(mine: Flight, now: float) -> NoReturn:
        join(mine, now)
        raise Interrupted

    if place == "copies":
        monkeypatch.setattr(engine, "at_hand", interrupted_look)
    else:
        monkeypatch.setattr(engine.flights, "join", interrupted_join)
    with pytest.raises(Interrupted):
        square(3)
    monkeypatch.undo()
    assert len(engine.flights) == 0
    assert square(3) == 9
