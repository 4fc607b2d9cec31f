"""Consistency: stamps, ``at_least`` and "strict", between caches around a real server and between real processes.

A cache with ``listen=False`` stands for a process that has not heard of an invalidation yet, however long that takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cachesync import MISSING, Cache, Policy, RedisShared, Stamp
from cachesync.core.settings import CoordinationSettings
from cachesync.core.steps import Fetch
from support.nodes import COLOURS, KINDS, Caller, Callers, Colour, HoldingShared, LoopThread, Node, Origin, until, use
from support.proxy import Proxy
from support.servers import Server
from support.worker import Worker, change, each_colour

STRICT = Policy(name="all", match="*", ttl="1h", consistency="strict")
QUICK = CoordinationSettings(budget=0.3, max_lag=60.0)


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


class Versions:
    """A function whose value changes, in any number of processes."""

    def __init__(self) -> None:
        self.version = 1
        self.computed = 0

    def on(self, caller: Caller) -> Any:
        @caller.cached("item:{number}", tags=["items"])
        async def item(number: int) -> int:
            self.computed += 1
            return self.version

        return item


# --- at_least ---------------------------------------------------------------------------------------------------------------------


def test_nobody_answers_with_less_than_the_stamp_that_was_asked_for(callers: Callers) -> None:
    """Another process has heard of nothing: an ordinary read serves its copy, within ``max_lag``; one with the stamp does not."""
    versions = Versions()
    a, b = callers.new(), callers.new(listen=False)
    there = versions.on(b)
    assert (b.do(there, 1), b.do(there, 1)) == (1, 1)
    versions.version = 2
    stamp = a.drop(tags=["items"])
    assert b.do(there, 1) == 1, "it can not know yet"
    assert b.get("item:1", MISSING, at_least=stamp) is MISSING
    assert b.do(there.at_least, stamp, 1) == 2
    assert b.get("item:1", at_least=stamp) == 2
    assert (b.do(there, 1), versions.computed) == (2, 2)


def test_get_or_compute_takes_a_stamp_too(callers: Callers) -> None:
    """By text, without a function."""
    a, b = callers.new(), callers.new(listen=False)
    assert b.get_or_compute("item:1", lambda: 1) == 1
    stamp = a.drop("item:*")
    assert b.get_or_compute("item:1", lambda: 2) == 1
    assert b.get_or_compute("item:1", lambda: 2, at_least=stamp) == 2
    assert b.get_or_compute("item:1", lambda: 3) == 2


def test_a_stamp_that_is_applied_already_costs_no_trip(server: Server, namespace: str, colour: Colour, loop: LoopThread) -> None:
    """The copy here is good enough, and nobody is asked."""
    holding = HoldingShared(RedisShared(server.url, namespace=namespace))
    node = Node(holding, Origin(), colour=colour, loop=loop)
    stamp = node.invalidate("key as text", 7)
    assert (node.read(), node.read()) == (1, 1)
    before = len(holding.steps)
    assert node.do(node.item.at_least, stamp, 1) == 1
    assert node.get("item:1", at_least=stamp) == 1
    assert len(holding.steps) == before
    node.close()


def test_what_was_softly_invalidated_is_too_old_for_a_stamp(callers: Callers) -> None:
    """A stale answer is an older one."""
    policy = Policy(name="all", match="*", ttl="1h", stale_while_revalidate="1h")
    versions = Versions()
    a, b = callers.new(policy), callers.new(policy)
    there = versions.on(b)
    assert b.do(there, 1) == 1
    versions.version = 2
    stamp = a.drop("item:1", soft=True)
    callers.apply(stamp)
    assert b.get("item:1", at_least=stamp) is None
    assert b.do(there.at_least, stamp, 1) == 2


@pytest.mark.parametrize("what", ["an unknown epoch", "a pending stamp", "a pending stamp of today's epoch"])
def test_a_stamp_that_nobody_can_reach_means_to_compute(callers: Callers, what: str) -> None:
    """Each time, and what is computed is stored nowhere: nobody can say what it has seen."""
    versions = Versions()
    b = callers.new()
    there = versions.on(b)
    assert b.do(there, 1) == 1
    epoch = b.stamp().epoch if "today" in what else "00" * 8
    stamp = Stamp(epoch, 0, pending=True) if "pending" in what else Stamp(epoch, 5)
    versions.version = 2
    assert b.get("item:1", at_least=stamp) is None
    assert [b.do(there.at_least, stamp, 1) for _ in range(2)] == [2, 2]
    assert versions.computed == 3
    assert b.do(there, 1) == 1, "nothing has been invalidated"


def test_a_stamp_that_can_not_be_confirmed_means_to_compute(callers: Callers, proxy: Proxy) -> None:
    """Redis is away. The copy may be newer than the stamp, and may not: nobody is there to say."""
    versions = Versions()
    a, b = callers.new(), callers.new(url=proxy.url, listen=False, coordination=QUICK)
    there = versions.on(b)
    assert b.do(there, 1) == 1
    versions.version = 2
    stamp = a.drop("item:1")
    proxy.hold()
    assert b.do(there.at_least, stamp, 1) == 2
    assert b.get("item:1", MISSING, at_least=stamp) is MISSING
    assert b.do(there, 1) == 1
    proxy.cut()
    proxy.release()
    until(lambda: b.do(there.at_least, stamp, 1) == b.get("item:1") == 2, "confirming")


def test_what_is_made_for_a_stamp_that_can_not_be_confirmed_is_made_of_nothing_that_is_cached(callers: Callers, proxy: Proxy) -> None:
    """The parts are asked for the same stamp as the whole, though their caller does not say so."""
    versions = Versions()
    a, b = callers.new(), callers.new(url=proxy.url, listen=False, coordination=QUICK)
    part = versions.on(b)

    @b.cached("whole:{number}")
    async def whole(number: int) -> list[int]:
        return [await use(part, number)]

    assert (b.do(part, 1), b.do(part, 1)) == (1, 1)
    versions.version = 2
    stamp = a.drop("item:1")
    proxy.hold()
    assert b.do(whole.at_least, stamp, 1) == [2]


@pytest.mark.parametrize("kind", KINDS)
def test_one_process_reads_what_another_has_written(server: Server, namespace: str, kind: str) -> None:
    """The stamp travels from the writer to the reader, as text, and the reader asks at once: ten times."""
    with Worker(server.url) as a, Worker(server.url) as b:
        for own, colour in each_colour(namespace):
            assert b.do("read", own, colour, 1) == 1
            for version in range(2, 12):
                change(version, own, colour, a, b)
                stamp = a.do("invalidate", own, colour, kind, 1)
                if version % 2:
                    assert b.do("valid_at_least", own, colour, stamp, 1) is None
                assert b.do("at_least", own, colour, stamp, 1) == version
                assert b.do("valid_at_least", own, colour, stamp, 1) == version


# --- strict -----------------------------------------------------------------------------------------------------------------------


def test_a_strict_read_sees_every_invalidation_that_has_returned(callers: Callers) -> None:
    """In a process that hears nothing. What is valid is not computed again; many at once are as strict."""
    versions = Versions()
    a, b = callers.new(STRICT), callers.new(STRICT, listen=False)
    there = versions.on(b)
    for version in range(1, 6):
        versions.version = version
        a.drop(tags=["items"])
        assert [b.do(there, 1) for _ in range(3)] == [version] * 3
        assert b.do(there.many, [(1,), (2,), (1,)]) == [version] * 3
        assert b.get("item:1") == version
    assert versions.computed == 10


def test_a_strict_read_confirms_each_time_and_holds_nothing_here(server: Server, namespace: str, colour: Colour, loop: LoopThread) -> None:
    """One trip for each read: entry and head of the log come in the same one."""
    holding = HoldingShared(RedisShared(server.url, namespace=namespace))
    with Cache(policies=[STRICT], shared=holding, listen=False) as cache:
        caller = Caller(cache, colour, loop)
        item = Versions().on(caller)
        assert caller.do(item, 1) == 1
        before = len(holding.steps)
        assert [caller.do(item, 1) for _ in range(5)] == [1] * 5
        after = holding.steps[before:]
        assert [type(step) for step in after] == [Fetch] * 5
        assert all(isinstance(step, Fetch) and step.strict for step in after)
        assert cache.stats().local.entries == 0
        caller.close()


def test_a_strict_read_that_can_not_confirm_computes_and_stores_nothing(callers: Callers, proxy: Proxy) -> None:
    """Redis is away: the answer is current all the same."""
    versions = Versions()
    b = callers.new(STRICT, url=proxy.url, coordination=QUICK)
    there = versions.on(b)
    assert b.do(there, 1) == 1
    proxy.hold()
    versions.version = 2
    assert (b.do(there, 1), b.get("item:1", MISSING)) == (2, MISSING)
    versions.version = 3
    assert b.do(there, 1) == 3
    proxy.cut()
    proxy.release()
    until(lambda: b.get("item:1") == 1, "confirming")


def test_a_strict_caller_does_not_join_a_computation_from_before_an_invalidation(callers: Callers) -> None:
    """The invalidation has returned elsewhere, and this process hears of it by the strict caller's own trip."""
    origin = Origin()
    a, b = callers.new(STRICT), callers.new(STRICT, listen=False)

    @b.cached("item:{number}", tags=["items"])
    async def item(number: int) -> int:
        return int(await use(origin.aread if callers.colour == "async def" else origin.read))

    b.stamp()
    gate = origin.hold()
    early = b.start(item, 1)
    gate.wait()
    origin.version = 2
    a.drop("item:1")
    assert b.do(item, 1) == 2
    gate.open()
    assert early.result() == 1
    assert b.do(item, 1) == 2


# --- cache.stamp() ----------------------------------------------------------------------------------------------------------------


def test_the_stamp_now_is_what_this_process_has_applied(callers: Callers) -> None:
    """Not the head of the log: a process that hears nothing stays where it is, and a new one joins first."""
    a, deaf = callers.new(), callers.new(listen=False)
    first = a.stamp()
    assert deaf.stamp() == first
    second = a.drop("item:1")
    assert (second.epoch, second.number) == (first.epoch, first.number + 1)
    assert a.stamp() == second
    assert deaf.stamp() == first
    deaf.get("item:1", at_least=second)
    assert deaf.stamp() == second


def test_the_stamp_of_one_process_is_a_bound_for_another(callers: Callers) -> None:
    """Whatever the first one has seen, the second has seen too before it answers."""
    versions = Versions()
    a, b, deaf = callers.new(), callers.new(), callers.new(listen=False)
    there = versions.on(deaf)
    assert deaf.do(there, 1) == 1
    versions.version = 2
    callers.apply(a.drop(tags=["items"]))
    assert deaf.do(there.at_least, b.stamp(), 1) == 2


def test_without_a_shared_layer_stamps_are_numbers_of_this_process(colour: Colour, loop: LoopThread) -> None:
    """And ``at_least`` and "strict" mean what they say."""
    with Cache(policies=[STRICT]) as cache:
        caller, versions = Caller(cache, colour, loop), Versions()
        item = versions.on(caller)
        assert (caller.do(item, 1), caller.do(item, 1), versions.computed) == (1, 1, 1)
        versions.version = 2
        stamp = caller.drop(tags=["items"])
        assert caller.stamp() == stamp
        assert caller.do(item.at_least, stamp, 1) == 2
        assert caller.do(item.at_least, Stamp("00" * 8, 1), 1) == 2
        assert versions.computed == 3
