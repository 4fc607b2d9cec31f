"""Sizes: an invalidation of very many keys. It is announced in parts, between which others are served, and what is kept is bounded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from cachesync import MISSING, Cache, Event, MemoryShared, Policy, RedisShared, Settings, Stamp
from cachesync.core.names import Names
from cachesync.core.records import TEXTS_OF_A_PART
from cachesync.core.settings import CoordinationSettings
from cachesync.core.steps import Announce
from cachesync.layers.redis_wire import Bounds
from cachesync.protocols import Shared
from support.nodes import COLOURS, LONG, Caller, Colour, HoldingShared, LoopThread, operations_of, read_log, until
from support.servers import Server

KEYS: Final = 100_000
BANS: Final = 5_000
MANY: Final = tuple(f"item:{number}" for number in range(KEYS))


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    with LoopThread() as loop:
        yield loop


@pytest.fixture(params=COLOURS)
def colour(request: pytest.FixtureRequest) -> Colour:
    chosen: Colour = request.param
    return chosen


def caller_of(shared: Shared | None, colour: Colour, loop: LoopThread, events: list[Event], *, listen: bool = False) -> Caller:
    settings = Settings(coordination=CoordinationSettings(budget=LONG, max_lag=60.0, bans=BANS))
    policies = [Policy(name="all", match="*", ttl="1h")]
    return Caller(Cache(settings, policies=policies, shared=shared, listen=listen, on_event=events.append), colour, loop)


def test_many_keys_are_announced_in_parts_between_which_others_are_served(
    server: Server, namespace: str, colour: Colour, loop: LoopThread
) -> None:
    """One announcement of all of them would keep Redis from everybody else. All of it holds here before the first part is told, and
    what Redis keeps, and a new process reads, is bounded by its number of texts.
    """
    events: list[Event] = []
    bounds = Bounds(bans=BANS)
    holding = HoldingShared(RedisShared(server.url, namespace=namespace, bounds=bounds))
    a, b = (
        caller_of(shared, colour, loop, events, listen=True)
        for shared in (holding, RedisShared(server.url, namespace=namespace, bounds=bounds))
    )
    for number in (0, KEYS - 1, KEYS):
        a.put(f"item:{number}", number)
    assert [b.get(f"item:{number}") for number in (0, KEYS - 1, KEYS)] == [0, KEYS - 1, KEYS]
    first = b.stamp()
    events.clear()
    gate = holding.hold(Announce)
    dropping = a.start(a.cache.invalidate if colour == "def" else a.cache.ainvalidate, *MANY)
    gate.wait()
    assert a.get(MANY[-1], MISSING) is MISSING, "it holds here"
    assert b.get(MANY[-1]) == KEYS - 1, "it was not announced yet"
    assert b.get_or_compute("other:1", lambda: 1) == 1
    gate.open()
    last = dropping.result(LONG)
    assert isinstance(last, Stamp)
    assert (last.pending, last.number - first.number) == (False, KEYS // TEXTS_OF_A_PART)
    sizes = [sum(len(targets.texts) for targets in step.targets) for step in holding.steps if isinstance(step, Announce)]
    assert max(sizes) <= TEXTS_OF_A_PART
    until(lambda: b.has_applied(last), "hearing")
    assert [b.get(f"item:{number}", MISSING) for number in (0, KEYS - 1)] == [MISSING, MISSING]
    bans: int = server.client().zcard(Names.of(namespace).bans)
    assert bans <= BANS + 1
    new = caller_of(RedisShared(server.url, namespace=namespace, bounds=bounds), colour, loop, events)
    assert [new.get(f"item:{number}", MISSING) for number in (0, KEYS - 1)] == [MISSING, MISSING]
    assert not [event for event in events if event.name != "invalidated"]
    assert sum(len(event.fields["patterns"]) for event in events) == KEYS, "listeners are told all of it"
    assert max(len(str(event)) for event in events) < 500, "people are told some"
    for caller in (a, b, new):
        caller.close()


def test_many_keys_at_once_are_bounded_before_the_next_number_is_due(
    server: Server, namespace: str, colour: Colour, loop: LoopThread
) -> None:
    """Each time, though few numbers were given."""
    a = caller_of(RedisShared(server.url, namespace=namespace, bounds=Bounds(bans=100)), colour, loop, [])
    for at in range(5):
        assert not a.drop(*MANY[at * 400 : at * 400 + 400]).pending
        bans: int = server.client().zcard(Names.of(namespace).bans)
        assert bans <= 101
    a.close()


def test_a_part_that_could_not_be_announced_takes_the_rest_with_it(colour: Colour, loop: LoopThread) -> None:
    """All of it is pending then, holds here, and is announced when the layer is back."""
    shared, events = MemoryShared(), list[Event]()
    holding = HoldingShared(shared)
    a, b = (caller_of(layer, colour, loop, events) for layer in (holding, shared))
    wanted = MANY[: 6 * TEXTS_OF_A_PART]
    for key in (wanted[0], wanted[-1]):
        assert (a.put(key, 1).pending, b.get(key)) == (False, 1)
    gate = holding.hold(Announce)
    dropping = a.start(a.cache.invalidate if colour == "def" else a.cache.ainvalidate, *wanted)
    gate.wait()
    with shared.outage():
        gate.open()
        assert dropping.result(LONG).pending
        assert [a.get(key, MISSING) for key in (wanted[0], wanted[-1])] == [MISSING, MISSING]
        queued = operations_of(a.cache).engine.ledger.tickets.queued
        assert sum(len(targets.texts) for ticket in queued for targets in ticket.targets) == len(wanted) - TEXTS_OF_A_PART
        assert holding.count(Announce) - 2 == 2, "nobody waits for the layer once for each part"
    until(lambda: read_log(a.cache) and not a.cache.stats().log.queued, "it is announced")
    assert read_log(b.cache)
    assert [b.get(key, MISSING) for key in (wanted[0], wanted[-1])] == [MISSING, MISSING]
    a.close()
    b.close()


def test_more_texts_than_can_be_remembered_become_everything(colour: Colour, loop: LoopThread) -> None:
    """More is invalidated than was asked for, never less."""
    shared, events = MemoryShared(), list[Event]()
    a, b = (caller_of(shared, colour, loop, events) for _ in range(2))
    assert (a.put("other", 1).pending, b.get("other")) == (False, 1)
    with shared.outage():
        assert a.drop(*MANY, "one more").pending
        assert len(operations_of(a.cache).engine.ledger.tickets.queued) <= 2
    until(lambda: read_log(a.cache) and not a.cache.stats().log.queued, "it is announced")
    assert read_log(b.cache)
    assert b.get("other", MISSING) is MISSING
    a.close()
    b.close()
