"""Sizes: large values, long keys, very many tags; and an invalidation of very many keys, which is announced in parts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import Final

import pytest

from cachesync import MISSING, Cache, CodecError, Event, KeyArgumentError, MemoryShared, Policy, RedisShared, Settings, Stamp
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


# --- values, keys and tags --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("megabytes", [1, 50])
def test_a_value_of_megabytes_reaches_another_process(
    server: Server, namespace: str, colour: Colour, loop: LoopThread, megabytes: int
) -> None:
    """To Redis and back, byte by byte, and into the memory of both. The budget has to suffice for its way."""
    value, events = os.urandom(1_000_000) * megabytes, list[Event]()
    a, b = (caller_of(RedisShared(server.url, namespace=namespace), colour, loop, events) for _ in range(2))
    assert a.get_or_compute("item:1", lambda: value) == value
    assert b.get_or_compute("item:1", lambda: b"") == value
    for caller in (a, b):
        assert caller.cache.stats().local.bytes >= len(value)
        assert caller.get("item:1") == value
    assert not events
    a.close()
    b.close()


def test_a_value_that_redis_would_not_take_is_refused_before_it_is_sent(
    server: Server, namespace: str, colour: Colour, loop: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis ends a connection on which a larger one comes. The result is with its caller, an event says why nowhere else; to set such
    a value is an error, and changes nothing.
    """
    monkeypatch.setattr("cachesync.coordination.engine.MAX_PAYLOAD", 1_000_000)
    events = list[Event]()
    a = caller_of(RedisShared(server.url, namespace=namespace), colour, loop, events)
    assert a.put("item:2", b"small").number == 1
    assert len(a.get_or_compute("item:1", lambda: bytes(1_000_001))) == 1_000_001
    [told] = [event for event in events if event.name == "not_stored"]
    assert "bytes as it is stored, and at most 1,000,000 can be stored" in told.fields["error"]
    for key in ("item:1", "item:2"):
        with pytest.raises(CodecError, match=r"at most 1,000,000 can be stored"):
            a.put(key, bytes(1_000_001))
    assert a.get("item:2") == b"small"
    assert a.get_or_compute("item:3", lambda: bytes(900_000)) == bytes(900_000)
    assert not [event for event in events if event.name == "layer_failed"]
    a.close()


def test_a_key_of_ten_kilobytes_is_a_key(server: Server, namespace: str, colour: Colour, loop: LoopThread) -> None:
    """It is stored, found by another process, and invalidated by itself, by its prefix and as part of a batch. Its neighbour stays."""
    events = list[Event]()
    a, b = (caller_of(RedisShared(server.url, namespace=namespace), colour, loop, events, listen=True) for _ in range(2))
    long, neighbour = "é" * 5_000, "é" * 4_999 + "e"
    computed: list[str] = []

    async def body(text: str) -> int:
        computed.append(text)
        return len(text)

    items = [caller.cached("item:{text}")(body) for caller in (a, b)]
    for item, caller in zip(items, (a, b), strict=True):
        assert caller.do(item, long) == 5_000
        assert caller.do(item.many, [(long,), (neighbour,)]) == [5_000, 5_000]
    assert computed == [long, neighbour]
    for pattern in (f"item:{long}", f"item:{long[:-1]}é*", f"*{long}"):
        stamp = a.drop(pattern)
        until(partial(b.has_applied, stamp), "hearing")
        assert b.get(f"item:{long}", MISSING) is MISSING
        assert b.get(f"item:{neighbour}") == 5_000
        assert b.do(items[1], long) == 5_000
    assert not [event for event in events if event.name != "invalidated"]
    a.close()
    b.close()


def test_a_key_of_more_than_65_536_characters_is_refused(colour: Colour, loop: LoopThread) -> None:
    """At the call, with the template and both numbers; the function is not called."""
    a = caller_of(MemoryShared(), colour, loop, [])

    @a.cached("item:{text}")
    async def item(text: str) -> int:
        raise AssertionError("it was called")

    with pytest.raises(KeyArgumentError, match=r"'item:\{text\}' would have 70,005 characters; at most 65,536 are allowed"):
        a.do(item, "x" * 70_000)
    for ask in (lambda: a.get("x" * 70_000), lambda: a.put("x" * 70_000, 1), lambda: a.drop("x" * 70_000)):
        with pytest.raises(KeyArgumentError, match=r"70,000 characters; at most 65,536 are allowed"):
            ask()
    a.close()


def test_a_hundred_thousand_tags_are_invalidated_at_once(server: Server, namespace: str, colour: Colour, loop: LoopThread) -> None:
    """By one call, in parts as keys are. What has one of them is dead in every process, and what has none lives."""
    events = list[Event]()
    bounds = Bounds(bans=2 * KEYS)
    a, b = (caller_of(RedisShared(server.url, namespace=namespace, bounds=bounds), colour, loop, events, listen=True) for _ in range(2))

    async def body(number: int) -> int:
        return number

    item, seen = (caller.cached("item:{number}", tags=["tag:{number}"])(body) for caller in (a, b))
    for number in (0, KEYS - 1, KEYS):
        assert a.do(item, number) == b.do(seen, number) == number
    stamp = a.drop(tags=[f"tag:{number}" for number in range(KEYS)])
    until(lambda: b.has_applied(stamp), "hearing")
    for caller, function in ((a, item), (b, seen)):
        assert [caller.do(function.peek, number) is None for number in (0, KEYS - 1, KEYS)] == [True, True, False]
    a.close()
    b.close()


def test_a_value_with_a_hundred_thousand_tags_depends_on_anything(server: Server, namespace: str, colour: Colour, loop: LoopThread) -> None:
    """More than 256 are not told apart. It is stored and served, and any invalidation ends it: more than was asked for, never less."""
    events = list[Event]()
    a, b = (caller_of(RedisShared(server.url, namespace=namespace), colour, loop, events, listen=True) for _ in range(2))
    computed: list[int] = []

    async def body(number: int) -> int:
        computed.append(number)
        return number

    def tags_of(_: int) -> list[str]:
        return [f"tag:{number}" for number in range(KEYS)]

    item, seen = (caller.cached("item:{number}", tags_from=tags_of)(body) for caller in (a, b))
    assert a.do(item, 1) == b.do(seen, 1) == a.do(item, 1) == 1
    assert computed == [1]
    for pattern, tag in (("", f"tag:{KEYS // 2}"), ("other:1", "")):
        stamp = b.drop(*([pattern] if pattern else []), tags=[tag] if tag else [])
        until(partial(a.has_applied, stamp), "hearing")
        assert a.do(item.peek, 1) is None
        assert a.do(item, 1) == 1
    assert computed == [1, 1, 1]
    assert not [event for event in events if event.name != "invalidated"]
    a.close()
    b.close()
