"""Races by name: something is held open, an invalidation lands, and whatever was held ends. Nothing old outlives it.

Every kind of invalidation, both colours, without a shared layer, with one in memory and with a real server; invalidated by the cache
that computes, or by another one. Two caches stand for two processes here; `test_races_processes.py` has real ones.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import pytest

from cachesync import Cache, MemoryShared, Policy, RedisShared, Stamp
from cachesync.core.bans import BanIndex
from cachesync.core.entry import Dependency
from cachesync.core.names import Names
from cachesync.core.steps import Announce, Begin, Called, Fetch, Keep, Lease, ReadLog, Release, Snapshot, Store
from cachesync.protocols import Shared
from cachesync.testing import FakeClock
from support.nodes import (
    COLOURS,
    KEY_KINDS,
    KINDS,
    LONG,
    Caller,
    Callers,
    Colour,
    HoldingShared,
    LoopThread,
    Node,
    Origin,
    engine_of,
    read_log,
    sites_of,
    until,
    use,
)
from support.servers import Server

PLACES = [
    ("none", "itself"),
    ("memory", "itself"),
    ("memory", "another"),
    ("redis", "itself"),
    ("redis", "another"),
]
"""Where values are kept besides local memory, and who invalidates."""
SHARED_PLACES = PLACES[1:]
LAYERS = ["memory", "redis"]
OWN_KEYS = ["log", "meta", "bans"]


class Cluster:
    """Nodes of one colour around one shared layer and one origin."""

    def __init__(self, layer: str, colour: Colour, loop: LoopThread, server: Server, namespace: str) -> None:
        self.origin = Origin()
        self.names = Names.of(namespace)
        self.namespace = namespace
        self.server = server
        self.clock: FakeClock | None = None
        self._layer = layer
        self._memory = MemoryShared()
        self._colour: Colour = colour
        self._loop = loop
        self._nodes: list[Node] = []

    def use_fake_clock(self) -> FakeClock:
        """From now on time stands still, in the nodes and in the layer (which is the one in memory)."""
        assert self._layer == "memory"
        self.clock = FakeClock()
        self._memory = MemoryShared(self.clock.monotonic)
        return self.clock

    def shared(self) -> Shared | None:
        """The shared layer, as a new process opens it."""
        if self._layer == "none":
            return None
        return self._memory if self._layer == "memory" else RedisShared(self.server.url, namespace=self.namespace)

    def node(self, shared: Shared | None = None, *, lease: float = 10.0) -> Node:
        node = Node(shared or self.shared(), self.origin, colour=self._colour, loop=self._loop, clock=self.clock, lease=lease)
        self._nodes.append(node)
        return node

    def holding(self) -> HoldingShared:
        shared = self.shared()
        assert shared is not None
        return HoldingShared(shared)

    def pair(self, invalidator: str) -> tuple[Node, Node]:
        """A node that computes, and the one that invalidates: itself, or another."""
        node = self.node()
        return node, node if invalidator == "itself" else self.node()

    def lose_everything(self) -> None:
        """What FLUSHALL does, as far as this namespace is concerned."""
        if self._layer == "memory":
            self._memory.flush()
        else:
            client = self.server.client()
            client.unlink(*client.keys(f"*{self.namespace}*"))

    def lose(self, own: str) -> None:
        """One of our own keys is gone from the server."""
        assert self.server.client().unlink(getattr(self.names, own)) == 1

    def close(self) -> None:
        for node in self._nodes:
            node.close()


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    with LoopThread() as loop:
        yield loop


@pytest.fixture(params=COLOURS)
def colour(request: pytest.FixtureRequest) -> Colour:
    chosen: Colour = request.param
    return chosen


@pytest.fixture
def cluster_of(colour: Colour, loop: LoopThread, server: Server, namespace: str) -> Iterator[Callable[[str], Cluster]]:
    """Makes a cluster around the layer that is named: ``none``, ``memory`` or ``redis``."""
    made: list[Cluster] = []

    def make(layer: str) -> Cluster:
        made.append(Cluster(layer, colour, loop, server, namespace))
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()


MakeCluster = Callable[[str], Cluster]


def applied(stamp: Stamp, *nodes: Node) -> None:
    """The invalidation was acknowledged; every node applies the log up to it."""
    assert not stamp.pending
    for node in nodes:
        if engine_of(node.cache).shared is not None:
            node.read_log()
        position = node.cache.stats().position
        assert position is not None
        assert position.epoch == stamp.epoch
        assert position.number >= stamp.number


# --- a computation held open ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layer", "invalidator"), PLACES)
def test_a_value_computed_before_an_invalidation_is_not_stored_after_it(
    cluster_of: MakeCluster, layer: str, invalidator: str, kind: str
) -> None:
    """Not in local memory, and not as valid in the shared layer; its own caller has it, the next one computes anew."""
    cluster = cluster_of(layer)
    node, other = cluster.pair(invalidator)
    gate = cluster.origin.hold()
    reading = node.start_read()
    gate.wait()
    cluster.origin.version = 2
    stamp = other.invalidate(kind)
    gate.open()
    assert reading.result(LONG) == 1
    applied(stamp, node, other)
    if layer != "none":
        assert cluster.node().valid() is None, "a new process finds it valid"
    assert cluster.origin.computations == 1
    assert node.read() == 2
    assert cluster.origin.computations == 2
    assert other.read() == 2
    assert node.read() == 2
    if layer != "none":
        assert cluster.node().read() == 2
        assert cluster.origin.computations == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layer", "invalidator"), PLACES)
def test_what_is_held_is_dead_after_an_invalidation(cluster_of: MakeCluster, layer: str, invalidator: str, kind: str) -> None:
    """The plain case: every copy was there before, and none is served after."""
    cluster = cluster_of(layer)
    node, other = cluster.pair(invalidator)
    assert (node.read(), node.read(), other.read(), other.read()) == (1, 1, 1, 1)
    assert cluster.origin.computations == 1
    cluster.origin.version = 2
    applied(other.invalidate(kind), node, other)
    assert (node.read(), other.read(), node.read()) == (2, 2, 2)
    assert cluster.origin.computations == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", LAYERS)
def test_the_invalidating_process_applies_it_to_itself_first(cluster_of: MakeCluster, layer: str, kind: str) -> None:
    """Without reading the log: when the call returns, its own copies and flights are out of date, though others wrote before it."""
    cluster = cluster_of(layer)
    node, other = cluster.node(), cluster.node()
    assert (node.read(), node.read()) == (1, 1)
    other.invalidate("key as text", 7)  # so that the node is behind when it invalidates
    cluster.origin.version = 2
    node.invalidate(kind)
    assert node.read() == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layer", "invalidator"), PLACES)
def test_a_late_caller_does_not_join_the_older_flight(cluster_of: MakeCluster, layer: str, invalidator: str, kind: str) -> None:
    cluster = cluster_of(layer)
    holding = cluster.holding() if layer != "none" else None
    node = cluster.node(holding)
    other = node if invalidator == "itself" else cluster.node()
    gate = cluster.origin.hold()
    early = node.start_read()
    gate.wait()
    cluster.origin.version = 2
    applied(other.invalidate(kind), node)
    late = node.start_read()
    if holding is None or kind in KEY_KINDS:
        assert late.result(LONG) == 2, "it has a flight of its own, and no lease to wait for"
    else:
        until(lambda: holding.count(Lease) >= 2 or node.cache.stats().total.joined, "asking for a lease")
    gate.open()
    assert (early.result(LONG), late.result(LONG), node.read()) == (1, 2, 2)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_late_caller_does_not_join_a_flight_of_an_epoch_that_is_over(cluster_of: MakeCluster, layer: str) -> None:
    """The log was lost, and this process has joined the next one: what was computing before may be from before anything."""
    cluster = cluster_of(layer)
    node, other = cluster.node(), cluster.node()
    node.read(9)
    gate = cluster.origin.hold()
    early = node.start_read()
    gate.wait()
    cluster.lose_everything()
    cluster.origin.version = 2
    applied(other.invalidate("key as text", 3), node)
    assert node.read() == 2
    gate.open()
    assert early.result(LONG) == 1
    assert node.read() == 2


@pytest.mark.parametrize("layer", ["none", *LAYERS])
def test_the_end_of_an_older_flight_leaves_the_newer_one_to_be_joined(cluster_of: MakeCluster, layer: str) -> None:
    """Three callers, an invalidation after the first: the third joins the second, though the first one's flight has landed."""
    cluster = cluster_of(layer)
    node = cluster.node()
    node.read(9)
    older, newer = cluster.origin.hold(), cluster.origin.hold()
    first = node.start_read()
    older.wait()
    cluster.origin.version = 2
    node.invalidate("key as text")
    second = node.start_read()
    newer.wait()
    older.open()
    assert first.result(LONG) == 1
    third = node.start_read()
    until(lambda: node.cache.stats().total.joined == 1 or cluster.origin.computations > 3, "joining")
    newer.open()
    assert (second.result(LONG), third.result(LONG)) == (2, 2)
    assert cluster.origin.computations == 3


@pytest.mark.parametrize("layer", ["none", *LAYERS])
def test_callers_share_a_flight_that_nothing_has_invalidated(cluster_of: MakeCluster, layer: str) -> None:
    """Ten callers of one key, one computation; an invalidation of another key changes nothing."""
    cluster = cluster_of(layer)
    node = cluster.node()
    node.read(9)  # so that it has joined the log: whoever joins it parts with older flights
    gate = cluster.origin.hold()
    readings = [node.start_read() for _ in range(10)]
    gate.wait()
    node.invalidate("key as text", 2)
    node.invalidate("glob", 2)
    node.invalidate("tag of the decorator", 2)
    until(lambda: node.cache.stats().total.joined == 9, "joining")
    gate.open()
    assert [reading.result(LONG) for reading in readings] == [1] * 10
    assert node.read() == 1
    assert cluster.origin.computations == 2


@pytest.mark.parametrize("layer", ["none", *LAYERS])
def test_an_exception_releases_every_waiter(cluster_of: MakeCluster, layer: str) -> None:
    """All who waited get it as it was raised; the next caller computes."""
    cluster = cluster_of(layer)
    node = cluster.node()
    node.read(9)  # so that it has joined the log: whoever joins it parts with older flights
    gate = cluster.origin.hold()
    readings = [node.start_read() for _ in range(3)]
    gate.wait()
    until(lambda: node.cache.stats().total.joined == 2, "joining")
    cluster.origin.fail(problem := LookupError("no such item"))
    gate.open()
    for reading in readings:
        assert reading.exception(LONG) is problem
    assert node.read() == 1
    assert cluster.origin.computations == 3


# --- a read of the shared layer on its way to local memory ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layer", "invalidator"), SHARED_PLACES)
def test_a_reply_that_an_invalidation_overtook_is_not_held(cluster_of: MakeCluster, layer: str, invalidator: str, kind: str) -> None:
    """The shared layer has answered, the answer is under way, the invalidation lands first."""
    cluster = cluster_of(layer)
    assert cluster.node().read() == 1
    holding = cluster.holding()
    node = cluster.node(holding)
    node.read(2)  # so that it has joined the log
    other = node if invalidator == "itself" else cluster.node()
    gate = holding.hold(Fetch)
    reading = node.start_read()
    gate.wait()
    cluster.origin.version = 2
    applied(other.invalidate(kind), node)
    gate.open()
    assert reading.result(LONG) == 2, "the position was applied before the answer was judged"
    assert node.read() == 2
    assert cluster.node().valid() == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", LAYERS)
def test_a_reply_from_before_an_invalidation_dies_when_the_log_says_so(cluster_of: MakeCluster, layer: str, kind: str) -> None:
    """It was delivered before this process heard of the invalidation, and held; it does not stay."""
    cluster = cluster_of(layer)
    other = cluster.node()
    assert other.read() == 1
    holding = cluster.holding()
    node = cluster.node(holding)
    node.read(2)
    gate = holding.hold(Fetch)
    reading = node.start_read()
    gate.wait()
    cluster.origin.version = 2
    stamp = other.invalidate(kind)
    gate.open()
    assert reading.result(LONG) in (1, 2)
    applied(stamp, node)
    assert node.read() == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", LAYERS)
def test_a_process_that_is_behind_catches_up_before_it_believes_an_entry(cluster_of: MakeCluster, layer: str, kind: str) -> None:
    """Its reader has not heard of the invalidation; the trip that brings the entry brings the log's head too."""
    cluster = cluster_of(layer)
    node, other = cluster.node(), cluster.node()
    assert (node.read(9), other.read()) == (1, 1)
    cluster.origin.version = 2
    other.invalidate(kind)
    assert node.read() == 2
    assert other.read() == 2


def test_the_age_of_an_entry_goes_on_while_its_reply_is_on_its_way(cluster_of: MakeCluster) -> None:
    """A process may be frozen between the answer and looking at it: how long does not make the value younger."""
    cluster = cluster_of("memory")
    clock = cluster.use_fake_clock()
    holding = cluster.holding()
    other, node = cluster.node(), cluster.node(holding)
    assert (other.read(), node.read(9)) == (1, 1)
    gate = holding.hold(Fetch)
    reading = node.start_read()
    gate.wait()
    clock.advance(3500)
    node.read_log()
    gate.open()
    assert reading.result(LONG) == 1
    clock.advance(101)
    node.read_log()
    assert node.valid() is None


def test_a_late_caller_does_not_join_what_began_before_the_log_fell_silent(cluster_of: MakeCluster) -> None:
    """Nobody can say what has been invalidated since then: it is given what was begun within ``max_lag``, or computed for it."""
    cluster = cluster_of("memory")
    clock = cluster.use_fake_clock()
    memory = cluster.shared()
    assert isinstance(memory, MemoryShared)
    node = cluster.node()
    node.read(9)
    gate = cluster.origin.hold()
    early = node.start_read()
    gate.wait()
    cluster.origin.version = 2
    with memory.outage():
        clock.advance(61)
        late = node.start_read()
        until(lambda: node.cache.stats().total.joined, "joining")
        gate.open()
        assert (early.result(LONG), late.result(LONG)) == (1, 2)


@pytest.mark.parametrize("layer", LAYERS)
def test_what_another_process_filled_meanwhile_is_not_computed_again(cluster_of: MakeCluster, layer: str) -> None:
    """This process looked, the other one computed and stored, this one asks for the lease: it gets the entry."""
    cluster = cluster_of(layer)
    holding = cluster.holding()
    node, other = cluster.node(holding), cluster.node()
    node.read(9)
    gate = holding.hold(Fetch)
    reading = node.start_read()
    gate.wait()
    assert other.read() == 1
    gate.open()
    assert reading.result(LONG) == 1
    assert cluster.origin.computations == 2


@pytest.mark.parametrize("layer", LAYERS)
def test_many_judges_each_reply_against_what_landed_meanwhile(cluster_of: MakeCluster, layer: str) -> None:
    """A batch is one trip; an invalidation that overtakes it makes misses of those it matches, and of no others."""
    cluster = cluster_of(layer)
    first = cluster.node()
    for number in (1, 2, 3):
        first.read(number)
    holding = cluster.holding()
    node = cluster.node(holding)
    node.read(4)
    gate = holding.hold(Fetch)
    reading = node.start(node.item.many, [(1,), (2,), (3,), (2,)])
    gate.wait()
    cluster.origin.version = 2
    applied(first.invalidate("tag of the decorator", 2), node)
    gate.open()
    assert reading.result(LONG) == [1, 2, 1, 2]
    assert cluster.origin.computations == 5


@pytest.mark.parametrize("layer", LAYERS)
def test_a_copy_is_not_placed_between_judging_it_and_an_invalidation(
    cluster_of: MakeCluster, layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The invalidation lands while the value is decoded: after its age was judged, before the copy is placed."""
    cluster = cluster_of(layer)
    assert cluster.node().read() == 1
    node, other = cluster.node(), cluster.node()
    node.read(2)
    engine = engine_of(node.cache)
    opened: Callable[..., object] = getattr(engine, "_open")  # noqa: B009 - private, and the place where time passes

    def open_slowly(*args: object) -> object:
        monkeypatch.setattr(engine, "_open", opened)  # once
        value = opened(*args)
        cluster.origin.version = 2
        other.cache.invalidate(tags=["items"])
        landed = threading.Thread(target=node.read_log)
        landed.start()
        landed.join(LONG)
        return value

    monkeypatch.setattr(engine, "_open", open_slowly)
    assert node.read() == 2
    assert node.read() == 2


# --- refresh and set --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layer", "invalidator"), PLACES)
def test_an_invalidation_during_a_refresh_wins(cluster_of: MakeCluster, layer: str, invalidator: str, kind: str) -> None:
    """The refreshed value was obtained before it, so it is nobody's but its caller's."""
    cluster = cluster_of(layer)
    node, other = cluster.pair(invalidator)
    assert (node.read(), node.read()) == (1, 1)
    gate = cluster.origin.hold()
    refreshing = node.start_refresh()
    gate.wait()
    cluster.origin.version = 2
    stamp = other.invalidate(kind)
    gate.open()
    assert refreshing.result(LONG) == 1
    applied(stamp, node, other)
    if layer != "none":
        assert cluster.node().valid() is None
    assert (node.read(), other.read(), node.read()) == (2, 2, 2)


@pytest.mark.parametrize(("layer", "setter"), PLACES)
def test_a_set_during_a_computation_wins(cluster_of: MakeCluster, layer: str, setter: str) -> None:
    """The computation began before; what was set stays, here and in the shared layer."""
    cluster = cluster_of(layer)
    node, other = cluster.pair(setter)
    gate = cluster.origin.hold()
    reading = node.start_read()
    gate.wait()
    stamp = other.set(10)
    gate.open()
    assert reading.result(LONG) == 1
    applied(stamp, node)
    assert (node.read(), other.read()) == (10, 10)
    if layer != "none":
        assert cluster.node().read() == 10
    assert cluster.origin.computations == 1


@pytest.mark.parametrize(("layer", "setter"), PLACES)
def test_a_set_during_a_refresh_is_not_undone_by_it(cluster_of: MakeCluster, layer: str, setter: str) -> None:
    """What the refresh had read is older than what was set. Either the set value stays, or nothing does."""
    cluster = cluster_of(layer)
    node, other = cluster.pair(setter)
    gate = cluster.origin.hold()
    refreshing = node.start_refresh()
    gate.wait()
    cluster.origin.version = 10
    stamp = other.set(10)
    gate.open()
    assert refreshing.result(LONG) == 1
    applied(stamp, node)
    assert (node.read(), other.read()) == (10, 10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layer", "invalidator"), PLACES)
def test_an_invalidation_during_an_update_wins(cluster_of: MakeCluster, layer: str, invalidator: str, kind: str) -> None:
    """The new value is read, the invalidation lands, the value is set: it is from before, and stored nowhere."""
    cluster = cluster_of(layer)
    node, other = cluster.pair(invalidator)
    assert (node.read(), other.read()) == (1, 1)
    with node.update("item:1") as put:
        obtained = cluster.origin.version
        cluster.origin.version = 2
        stamp = other.invalidate(kind)
        put(obtained)
    applied(stamp, node, other)
    assert node.valid() is None
    if layer != "none":
        assert cluster.node().valid() is None
    assert (node.read(), other.read()) == (2, 2)


@pytest.mark.parametrize("layer", ["none", *LAYERS])
def test_an_update_that_nothing_disturbs_is_there_for_everybody(cluster_of: MakeCluster, layer: str) -> None:
    """Other copies end; one that gives up has changed nothing, and keeps nobody waiting."""
    cluster = cluster_of(layer)
    node, other = cluster.pair("another" if layer != "none" else "itself")
    assert [one.read() for one in (node, other) * 2] == [1] * 4
    with node.update("item:1") as put:
        applied(put(7), node, other)
    assert [one.read() for one in (node, other) * 2] == [7] * 4
    with node.update("item:1"):
        assert other.valid() == 7
    assert [one.read() for one in (node, other) * 2] == [7] * 4
    applied(node.invalidate("key as text"), node, other)
    with node.update("item:1"):
        pass
    assert other.read() == 1


@pytest.mark.parametrize(("layer", "other_node"), SHARED_PLACES)
def test_set_and_refresh_reach_every_copy(cluster_of: MakeCluster, layer: str, other_node: str) -> None:
    """Other processes drop what they hold, and find the new value in the shared layer without computing."""
    cluster = cluster_of(layer)
    node, other = cluster.pair(other_node)
    assert (node.read(), other.read(), other.read()) == (1, 1, 1)
    applied(node.set(10), other)
    assert (node.read(), other.read(), other.read()) == (10, 10, 10)
    assert cluster.origin.computations == 1
    cluster.origin.version = 11
    assert node.do(node.item.refresh, 1) == 11
    other.read_log()
    assert (node.read(), other.read()) == (11, 11)
    assert cluster.origin.computations == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", ["none", *LAYERS])
def test_a_set_value_dies_by_a_later_invalidation(cluster_of: MakeCluster, layer: str, kind: str) -> None:
    """Its own record does not refuse it; any later one does."""
    cluster = cluster_of(layer)
    node = cluster.node()
    node.set(10)
    assert node.read() == 10
    cluster.origin.version = 11
    node.invalidate(kind)
    if layer != "none":
        assert cluster.node().valid() is None
    assert node.read() == 11


@pytest.mark.parametrize("layer", LAYERS)
def test_a_set_value_does_not_hide_what_came_between(cluster_of: MakeCluster, layer: str) -> None:
    """Two sets: the value of the older one is dead though the key's newest record is of a set too."""
    cluster = cluster_of(layer)
    node, other = cluster.node(), cluster.node()
    node.set(10)
    assert node.read() == 10
    applied(other.set(11), node)
    assert (node.read(), other.read(), cluster.node().read()) == (11, 11, 11)


def test_a_value_is_not_held_under_a_number_that_is_not_applied_here(cluster_of: MakeCluster) -> None:
    """A set or refresh was announced, and what others announced before it could not be read yet: the copy waits for that."""
    cluster = cluster_of("memory")
    node = cluster.node()
    assert node.read() == 1
    engine = engine_of(node.cache)
    site = sites_of(node.cache)[0]
    ask = engine.ask(site, site.address((5,)), (5,))
    begun = engine.begin(Begin(0))
    assert begun.stamp is not None
    assert not engine.keep(Keep(ask, Called(7, 0.0, 60.0), begun, own=begun.stamp.number + 2)).done
    assert engine.keep(Keep(ask, Called(7, 0.0, 60.0), begun, own=begun.stamp.number)).done


def test_a_tag_that_was_declared_since_counts_too(cluster_of: MakeCluster) -> None:
    """The entry was stored by an older program, which did not know the tag."""
    cluster = cluster_of("memory")
    policies = [Policy(name="items", match="item:*", ttl="1h")]
    computed: list[int] = []

    def item(number: int) -> int:
        computed.append(number)
        return len(computed)

    with Cache(policies=policies, shared=cluster.shared(), listen=False) as older:
        assert older.cached("item:{number}")(item)(1) == 1
    with Cache(policies=policies, shared=cluster.shared(), listen=False) as newer:
        newer_item = newer.cached("item:{number}", tags=["red"])(item)
        assert newer_item(1) == 1
        newer.invalidate(tags=["red"])
        assert newer_item(1) == 2


# --- leases -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
def test_a_key_is_computed_once_in_a_cluster(cluster_of: MakeCluster, layer: str) -> None:
    """The second process waits for the first and gets its result."""
    cluster = cluster_of(layer)
    holding = cluster.holding()
    holder, loser = cluster.node(), cluster.node(holding)
    gate = cluster.origin.hold()
    first = holder.start_read()
    gate.wait()
    second = loser.start_read()
    until(lambda: holding.count(Lease) >= 3, "asking again for a lease")
    gate.open()
    assert (first.result(LONG), second.result(LONG)) == (1, 1)
    assert cluster.origin.computations == 1


@pytest.mark.parametrize("layer", LAYERS)
def test_a_holder_that_raises_lets_the_other_compute(cluster_of: MakeCluster, layer: str) -> None:
    cluster = cluster_of(layer)
    holding = cluster.holding()
    holder, loser = cluster.node(), cluster.node(holding)
    gate = cluster.origin.hold()
    first = holder.start_read()
    gate.wait()
    second = loser.start_read()
    until(lambda: holding.count(Lease) >= 2, "asking again for a lease")
    cluster.origin.fail(LookupError("not today"))
    gate.open()
    assert isinstance(first.exception(LONG), LookupError)
    assert second.result(LONG) == 1
    assert cluster.origin.computations == 2


@pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
@pytest.mark.parametrize("refreshing", [False, True], ids=["read", "refresh"])
def test_the_time_a_function_takes_is_not_the_layers(cluster_of: MakeCluster, refreshing: bool, fails: bool) -> None:
    """However long it took, and however it ended: what is asked of the layer afterwards has a budget left."""
    cluster = cluster_of("memory")
    clock = cluster.use_fake_clock()
    holding = cluster.holding()
    node = cluster.node(holding, lease=1000)
    gate = cluster.origin.hold()
    reading = node.start_refresh() if refreshing else node.start_read()
    gate.wait()
    before = len(holding.steps)
    clock.advance(500)
    if fails:
        cluster.origin.fail(LookupError("late"))
    gate.open()
    assert isinstance(reading.exception(LONG), LookupError if fails else type(None))
    after = holding.steps[before:]
    assert type(after[-1]) is (Release if fails else Store)
    assert all(step.deadline > clock.monotonic() for step in after)
    assert engine_of(node.cache).leases == {}


def _asks_again(holding: HoldingShared, before: int) -> bool:
    return holding.count(Lease) > before


def test_a_lease_is_extended_while_its_holder_lives(cluster_of: MakeCluster) -> None:
    """A computation of five leases: nobody else computes meanwhile, and its result is stored."""
    cluster = cluster_of("memory")
    clock = cluster.use_fake_clock()
    holding = cluster.holding()
    holder, loser = cluster.node(lease=10), cluster.node(holding, lease=10)
    gate = cluster.origin.hold()
    first = holder.start_read()
    gate.wait()
    second = loser.start_read()
    for _ in range(10):
        clock.advance(5)
        holder.read_log()
        until(partial(_asks_again, holding, holding.count(Lease)), "asking again for a lease")
    gate.open()
    assert (first.result(LONG), second.result(LONG), cluster.node().valid()) == (1, 1, 1)
    assert cluster.origin.computations == 1


def test_a_refresh_longer_than_its_lease_is_stored(cluster_of: MakeCluster) -> None:
    """The lease of a refresh is extended like any other."""
    cluster = cluster_of("memory")
    clock = cluster.use_fake_clock()
    node = cluster.node(lease=10)
    gate = cluster.origin.hold()
    refreshing = node.start_refresh()
    gate.wait()
    for _ in range(6):
        clock.advance(5)
        node.read_log()
    gate.open()
    assert refreshing.result(LONG) == 1
    assert cluster.node().valid() == 1


def test_a_lease_lapses_when_nobody_extends_it(cluster_of: MakeCluster) -> None:
    """The holder is dead or frozen: another computes. A lapsed holder's result goes to its own caller and nowhere else."""
    cluster = cluster_of("memory")
    clock = cluster.use_fake_clock()
    holder, other = cluster.node(lease=10), cluster.node(lease=10)
    gate = cluster.origin.hold()
    first = holder.start_read()
    gate.wait()
    clock.advance(10.5)
    cluster.origin.version = 2
    assert other.read() == 2
    gate.open()
    assert first.result(LONG) == 1
    assert (holder.read(), other.read(), cluster.node().read()) == (2, 2, 2)
    assert cluster.origin.computations == 2


def test_a_lapsed_holder_stores_nothing_even_where_nothing_is(cluster_of: MakeCluster) -> None:
    """It does not know what happened since: somebody may have computed and been invalidated."""
    cluster = cluster_of("memory")
    clock = cluster.use_fake_clock()
    holder = cluster.node(lease=10)
    gate = cluster.origin.hold()
    first = holder.start_read()
    gate.wait()
    clock.advance(10.5)
    gate.open()
    assert first.result(LONG) == 1
    assert cluster.node().valid() is None
    assert holder.valid() is None


@pytest.mark.parametrize("kind", KEY_KINDS)
def test_an_invalidation_of_a_key_takes_the_lease_away(cluster_of: MakeCluster, kind: str) -> None:
    """Seen on the server: entry and lease are gone, and the older holder can not store; the next one can."""
    cluster = cluster_of("redis")
    client = cluster.server.client()
    entry, lease = cluster.names.entry("item:1"), cluster.names.lease("item:1")
    node, other = cluster.node(), cluster.node()
    gate = cluster.origin.hold()
    reading = node.start_read()
    gate.wait()
    assert client.exists(lease) == 1
    other.invalidate(kind)
    assert client.exists(lease) == 0
    gate.open()
    assert reading.result(LONG) == 1
    assert client.exists(entry, lease) == 0
    assert node.read() == 1
    assert client.exists(entry) == 1
    assert client.exists(lease) == 0
    assert client.pttl(entry) > 0
    other.invalidate(kind)
    assert client.exists(entry) == 0


def test_a_detached_flight_gives_its_lease_back(cluster_of: MakeCluster) -> None:
    """What it brings may not be stored, so there is nothing to wait for: seen on the server, while it still computes."""
    cluster = cluster_of("redis")
    client, lease = cluster.server.client(), cluster.names.lease("item:1")
    node, other = cluster.node(), cluster.node()
    gate = cluster.origin.hold()
    reading = node.start_read()
    gate.wait()
    assert client.exists(lease) == 1
    applied(other.invalidate("tag of the policy"), node)
    node.read_log()
    assert client.exists(lease) == 0
    gate.open()
    assert reading.result(LONG) == 1


@pytest.mark.parametrize("how", ["stores", "raises", "is invalidated"])
def test_whoever_waits_for_a_lease_is_woken(
    server: Server, namespace: str, colour: Colour, loop: LoopThread, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """When its holder stores, gives it back, or is overtaken by an invalidation. Here nobody looks again by himself."""
    for name in ("FIRST_WAIT", "LONGEST_WAIT"):
        monkeypatch.setattr(f"cachesync.core.flows.{name}", 10 * LONG)
    callers = Callers(server.url, namespace, colour, loop)
    holder, waiter, other = (callers.new() for _ in range(3))
    origin = Origin()

    def on(caller: Caller) -> Any:
        @caller.cached("item:{number}", tags=["items"])
        async def item(number: int) -> int:
            return int(await use(origin.aread if colour == "async def" else origin.read))

        return item

    theirs, ours = on(holder), on(waiter)
    callers.apply(other.drop("other:1"))
    for caller in (holder, waiter):
        caller.stamp()
    callers.apply(other.drop("other:1"))
    gate = origin.hold()
    first = holder.start(theirs, 1)
    gate.wait()
    second = waiter.start(ours, 1)
    waiters = engine_of(waiter.cache).waiters
    until(lambda: len(waiters) == 1, "waiting")
    callers.apply(other.drop("other:1"))  # from here on it hears of the lease, and whatever woke it at first has
    until(lambda: len(waiters) == 1, "waiting again")
    if how == "is invalidated":
        other.drop("item:1")  # the lease has gone with it, and nobody is there who would give it back
        assert second.result(LONG) == 1
        gate.open()
    else:
        if how == "raises":
            origin.fail(LookupError("not today"))
        gate.open()
        assert second.result(LONG) == 1
    assert isinstance(first.exception(LONG), LookupError if how == "raises" else type(None))
    assert origin.computations == (1 if how == "stores" else 2)
    callers.close()


def test_an_older_holder_can_not_use_the_lease_of_a_newer_one(cluster_of: MakeCluster) -> None:
    """The invalidation took the lease, another process has taken it anew: the token tells the two apart."""
    cluster = cluster_of("redis")
    lease = cluster.names.lease("item:1")
    older, newer = cluster.node(), cluster.node()
    first_gate = cluster.origin.hold()
    first = older.start_read()
    first_gate.wait()
    cluster.origin.version = 2
    newer.invalidate("key as text")
    second_gate = cluster.origin.hold()
    second = newer.start_read()
    second_gate.wait()
    token = cluster.server.client().get(lease)
    first_gate.open()
    assert first.result(LONG) == 1
    assert cluster.server.client().get(lease) == token
    assert cluster.node().valid() is None
    second_gate.open()
    assert second.result(LONG) == 2
    assert cluster.node().valid() == 2


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("step", [Snapshot, Store])
def test_a_caller_cancelled_while_the_layer_is_asked_leaves_no_lease_behind(
    layer: str, step: type, loop: LoopThread, server: Server, namespace: str
) -> None:
    """The only one who wanted the value has gone, in the middle of a trip. The lease may lapse, but nobody extends it."""
    cluster = Cluster(layer, "async def", loop, server, namespace)
    holding = cluster.holding()
    node = cluster.node(holding)
    gate = holding.hold(step)
    reading = node.start_read()
    gate.wait()
    reading.cancel()
    until(lambda: not engine_of(node.cache).leases, "forgetting the lease")
    gate.open()
    node.read_log()
    assert cluster.node().read() == 1
    cluster.close()


# --- what a new process believes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", LAYERS)
def test_a_new_process_does_not_revive_what_was_invalidated(cluster_of: MakeCluster, layer: str, kind: str) -> None:
    """Its very first call comes right after the invalidation: a dead entry is still stored, and it is refused."""
    cluster = cluster_of(layer)
    node = cluster.node()
    assert node.read() == 1
    cluster.origin.version = 2
    node.invalidate(kind)
    assert cluster.node().valid() is None
    fresh = cluster.node()
    assert (fresh.read(), fresh.read(), node.read()) == (2, 2, 2)
    assert cluster.origin.computations == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", LAYERS)
def test_nothing_older_is_served_after_everything_was_lost(cluster_of: MakeCluster, layer: str, kind: str) -> None:
    """FLUSHALL, then an invalidation: neither its own process nor another serves a copy from before."""
    cluster = cluster_of(layer)
    node, other = cluster.node(), cluster.node()
    for _ in range(3):
        assert (node.read(), other.read()) == (1, 1)
    cluster.lose_everything()
    cluster.origin.version = 2
    stamp = node.invalidate(kind)
    assert node.read() == 2, "the invalidating process itself"
    applied(stamp, other)
    assert (other.read(), cluster.node().read()) == (2, 2)


def test_an_entry_of_an_epoch_that_is_over_is_refused_whatever_its_number(cluster_of: MakeCluster) -> None:
    """The numbers begin anew: that of the dead entry is today's head, and means nothing."""
    cluster = cluster_of("redis")
    node = cluster.node()
    assert node.read() == 1
    cluster.origin.version = 2
    node.invalidate("tag of the policy")
    cluster.lose("meta")
    assert cluster.node().valid() is None
    assert (cluster.node().read(), node.read()) == (2, 2)


def test_a_value_of_an_epoch_that_is_over_is_not_held_either(cluster_of: MakeCluster) -> None:
    """Its storing got no answer, so nobody has refused it; its number is higher than any of the new epoch."""
    cluster = cluster_of("memory")
    memory = cluster.shared()
    assert isinstance(memory, MemoryShared)
    node, other = cluster.node(), cluster.node()
    for _ in range(3):
        other.invalidate("key as text", 3)
    node.read(9)
    gate = cluster.origin.hold()
    reading = node.start_read()
    gate.wait()
    memory.flush()
    cluster.origin.version = 2
    applied(other.invalidate("tag of the policy"), node)
    with memory.outage():
        gate.open()
        assert reading.result(LONG) == 1
    node.read_log()
    assert node.read() == 2


@pytest.mark.parametrize("layer", LAYERS)
def test_copies_of_an_epoch_that_is_over_are_let_go(cluster_of: MakeCluster, layer: str) -> None:
    """None of them can be served again."""
    cluster = cluster_of(layer)
    node, other = cluster.node(), cluster.node()
    for number in range(5):
        node.read(number)
    assert node.cache.stats().local.entries == 5
    cluster.lose_everything()
    applied(other.invalidate("key as text", 9), node)
    assert node.cache.stats().local.entries == 0


@pytest.mark.parametrize("layer", LAYERS)
def test_a_computation_that_began_before_everything_was_lost_is_not_stored(cluster_of: MakeCluster, layer: str) -> None:
    """Its stamp is of an epoch that ended, so nobody can say what it missed."""
    cluster = cluster_of(layer)
    node, other = cluster.node(), cluster.node()
    gate = cluster.origin.hold()
    reading = node.start_read()
    gate.wait()
    cluster.lose_everything()
    cluster.origin.version = 2
    applied(other.invalidate("tag of the policy"), node)
    gate.open()
    assert reading.result(LONG) == 1
    assert cluster.node().valid() is None
    assert node.read() == 2


def test_a_real_flushall_makes_misses(fresh_server: Server, loop: LoopThread, colour: Colour) -> None:
    """With the server's own command: old copies go, new ones come, numbers begin anew in another epoch."""
    cluster = Cluster("redis", colour, loop, fresh_server, "flushed")
    node, other = cluster.node(), cluster.node()
    assert (node.read(), node.read(), other.read(), other.read()) == (1, 1, 1, 1)
    before = node.invalidate("key as text", 3)
    fresh_server.client().flushall()
    node.read_log()
    other.read_log()
    cluster.origin.version = 2
    assert (node.read(), other.read()) == (2, 2)
    after = node.invalidate("key as text", 3)
    assert before.epoch != after.epoch
    cluster.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own", OWN_KEYS)
def test_losing_our_own_book_keeping_before_an_invalidation_serves_nothing_stale(cluster_of: MakeCluster, own: str, kind: str) -> None:
    """One of log, meta and bans is evicted, then an invalidation lands: loss makes misses, never hits."""
    cluster = cluster_of("redis")
    node, other = cluster.node(), cluster.node()
    node.invalidate("key as text", 3)  # so that all three exist
    for _ in range(3):
        node.read_log()
        other.read_log()
        assert (node.read(), other.read()) == (1, 1)
    cluster.lose(own)
    cluster.origin.version = 2
    stamp = node.invalidate(kind)
    assert node.read() == 2, "the invalidating process itself"
    applied(stamp, other)
    assert (other.read(), cluster.node().read()) == (2, 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own", OWN_KEYS)
def test_losing_our_own_book_keeping_after_an_invalidation_revives_nothing(cluster_of: MakeCluster, own: str, kind: str) -> None:
    """The dead entry is still there and what killed it is gone; neither a process that was behind nor a new one serves it."""
    cluster = cluster_of("redis")
    node, other = cluster.node(), cluster.node()
    node.invalidate("key as text", 3)
    for _ in range(3):
        node.read_log()
        other.read_log()
        assert (node.read(), other.read()) == (1, 1)
    cluster.origin.version = 2
    node.invalidate(kind)
    cluster.lose(own)
    assert cluster.node().valid() is None
    other.read_log()
    assert (other.read(), cluster.node().read(), node.read()) == (2, 2, 2)


@pytest.mark.parametrize("kind", KEY_KINDS)
@pytest.mark.parametrize("was_set", [False, True], ids=["computed", "set"])
def test_an_entry_that_a_failover_brings_back_is_refused(cluster_of: MakeCluster, kind: str, was_set: bool) -> None:
    """A replica that had not heard of the unlinking holds the entry again: the record of the key refuses it all the same."""
    cluster = cluster_of("redis")
    client, entry = cluster.server.client(), cluster.names.entry("item:1")
    node = cluster.node()
    if was_set:
        node.set(1)
    assert node.read() == 1
    blob = client.get(entry)
    assert isinstance(blob, bytes)
    cluster.origin.version = 2
    node.invalidate(kind)
    client.set(entry, blob, px=60_000)
    assert cluster.node().valid() is None
    assert (node.read(), cluster.node().read()) == (2, 2)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_reader_that_missed_records_rejoins_and_keeps_what_is_untouched(cluster_of: MakeCluster, layer: str) -> None:
    """The log is gone but for its end: what was invalidated meanwhile is dead here too, the rest stays."""
    cluster = cluster_of(layer)
    node, other = cluster.node(), cluster.node()
    for _ in range(2):
        assert (node.read(1), node.read(2)) == (1, 1)
    cluster.origin.version = 2
    other.invalidate("key as text", 1)
    if layer == "redis":
        cluster.lose("log")
        other.invalidate("key as text", 3)
    node.read_log()
    assert (node.read(1), node.read(2)) == (2, 1)


# --- what an invalidation matches -------------------------------------------------------------------------------------------------


ODD_NAMES = {
    "spaces": "a b  c ",
    "braces": "}x{y}{",
    "a colon": "a:b",
    "a percent sign": "50%25",
    "stars": "*x*",
    "NUL": "a\x00b",
    "emoji": "🦊🇮🇩é",
    "10 kB": "k" * 10_000,
    "10 kB of emoji": "🦊" * 2_500,
    "nothing": "",
    "quotes": "\"'\\",
    "a line break": "a\r\nb",
    "a lone surrogate": "\ud83d",
    "a tilde": "~sx",
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", ODD_NAMES.values(), ids=ODD_NAMES.keys())
def test_odd_keys_are_invalidated_exactly(cluster_of: MakeCluster, colour: Colour, loop: LoopThread, layer: str, name: str) -> None:
    """By the function, by the key's text and by tag, in the process itself and in a new one; a neighbour's entry stays."""
    cluster = cluster_of(layer)
    computed: list[str] = []
    policies = [Policy(name="users", match="users:*", ttl="1h")]

    async def user(name: str) -> int:
        computed.append(name)
        return len(computed)

    with (
        Cache(policies=policies, shared=cluster.shared(), listen=False) as first,
        Cache(policies=policies, shared=cluster.shared(), listen=False) as second,
    ):
        one, other = Caller(first, colour, loop), Caller(second, colour, loop)
        here, there = (caller.cached("users:{name}", tags=["name:{name}"])(user) for caller in (one, other))
        neighbour = name + "x"
        key: str = here.key(name)
        ways: list[Callable[[], Stamp]] = [
            lambda: one.do(here.invalidate, name),
            lambda: one.drop(key),
            lambda: one.drop(tags=[key.replace("users:", "name:", 1)]),
        ]
        for invalidate in ways:
            before = (one.do(here, name), one.do(here, neighbour))
            assert (other.do(there, name), other.do(there, neighbour)) == before
            invalidate()
            assert read_log(second)
            after = (other.do(there, name), other.do(there, neighbour))
            assert after[0] > max(before), "the one that was named"
            assert after[1] == before[1], "its neighbour"
            assert (one.do(here, name), one.do(here, neighbour)) == after
        one.close()
        other.close()


@pytest.mark.parametrize("layer", LAYERS)
def test_a_prefix_ends_where_it_says(cluster_of: MakeCluster, colour: Colour, loop: LoopThread, layer: str) -> None:
    """``users:*`` does not touch ``usersAbc:1``; ``users*`` does."""
    cluster = cluster_of(layer)
    policies = [Policy(name="all", match="*", ttl="1h")]
    with Cache(policies=policies, shared=cluster.shared(), listen=False) as cache:
        one = Caller(cache, colour, loop)
        computed: list[str] = []

        @one.cached("users:{number}")
        async def user(number: int) -> int:
            computed.append("user")
            return len(computed)

        @one.cached("usersAbc:{number}")
        async def user_abc(number: int) -> int:
            computed.append("abc")
            return len(computed)

        def read() -> list[str]:
            computed.clear()
            one.do(user, 1)
            one.do(user_abc, 1)
            return computed

        assert read() == ["user", "abc"]
        assert read() == []
        one.drop("users:*")
        assert read() == ["user"]
        one.drop("usersA*")
        assert read() == ["abc"]
        for pattern in ("users:", "users", "user:*"):
            one.drop(pattern)
        assert read() == []
        one.drop("users*")
        assert read() == ["user", "abc"]
        one.drop("*:1")
        assert read() == ["user", "abc"]
        one.close()


def test_a_ban_that_was_dropped_before_a_copy_was_judged_by_it_ends_the_copy(cluster_of: MakeCluster) -> None:
    """So many keys were invalidated that this one's ban made room before the copy was asked for: nobody can say that it is alive."""
    cluster = cluster_of("memory")
    node, other = cluster.node(), cluster.node()
    assert (node.read(), node.read()) == (1, 1)
    engine_of(node.cache).ledger.bans = BanIndex(limit=1)
    cluster.origin.version = 2
    other.invalidate("key as text", 1)
    applied(other.invalidate("key as text", 7), node)
    assert node.read() == 2


def test_a_ban_that_was_dropped_while_a_reply_was_on_its_way_ends_the_reply(cluster_of: MakeCluster) -> None:
    """The same for an entry that was read before the invalidation, and is judged after its ban made room."""
    cluster = cluster_of("memory")
    holding = cluster.holding()
    node, other = cluster.node(holding), cluster.node()
    assert (other.read(), node.read(9)) == (1, 1)
    engine_of(node.cache).ledger.bans = BanIndex(limit=1)
    gate = holding.hold(Fetch)
    reading = node.start_read()
    gate.wait()
    cluster.origin.version = 2
    other.invalidate("key as text", 1)
    applied(other.invalidate("key as text", 7), node)
    gate.open()
    assert (reading.result(LONG), node.read()) == (2, 2)


def test_the_bans_are_only_asked_under_the_lock() -> None:
    """The log's reader adds to them while callers ask: an index that changes under a question raises in the caller's face."""
    asked: list[bool] = []

    class Guarded(BanIndex):
        def newest(self, key: str, dependencies: object, *, own: int = 0) -> int:
            asked.append(engine.is_busy_here())
            return 0

    shared = MemoryShared()
    policies = [Policy(name="items", match="item:*", ttl="1h")]
    with Cache(policies=policies, shared=shared, listen=False) as first, Cache(policies=policies, shared=shared, listen=False) as second:
        engine = engine_of(second)
        first.set("item:1", 1)
        assert read_log(second)
        engine.ledger.bans = Guarded()
        engine.ledger.bans.highest = 1_000_000  # or nobody would ask
        assert second.get("item:1") == 1
        assert second.get("item:1") == 1
        second.invalidate("item:3")
        assert second.get("item:1") == 1
    assert asked
    assert all(asked)


# --- the layer fails in the middle ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_invalidation_that_can_not_be_announced_holds_here_and_is_announced_later(cluster_of: MakeCluster, kind: str) -> None:
    """It is pending, and says so; other processes hear of it when the layer is back."""
    cluster = cluster_of("memory")
    clock = cluster.use_fake_clock()
    memory = cluster.shared()
    assert isinstance(memory, MemoryShared)
    node, other = cluster.node(), cluster.node()
    assert (node.read(), node.read(), other.read(), other.read()) == (1, 1, 1, 1)
    cluster.origin.version = 2
    with memory.outage():
        stamp = node.invalidate(kind)
        assert stamp.pending
        assert node.read() == 2
        assert other.read() == 1, "it can not know yet, and hears the log within max_lag"
    clock.advance(1.5)
    assert node.read() == 2
    assert cluster.node().read() in (1, 2), "nobody was told yet"
    node.read_log()
    other.read_log()
    assert (node.read(), other.read(), cluster.node().read()) == (2, 2, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_whose_storing_got_no_answer_dies_with_the_next_invalidation(cluster_of: MakeCluster, kind: str) -> None:
    """The layer failed at the last step: the value is held here, under the stamp of its computation."""
    cluster = cluster_of("memory")
    memory = cluster.shared()
    assert isinstance(memory, MemoryShared)
    node, other = cluster.node(), cluster.node()
    gate = cluster.origin.hold()
    reading = node.start_read()
    gate.wait()
    cluster.origin.version = 2
    other.invalidate(kind)
    with memory.outage():
        gate.open()
        assert reading.result(LONG) == 1
    node.read_log()
    assert node.read() == 2


def test_the_order_of_an_announcement_is_unlink_then_log(cluster_of: MakeCluster) -> None:
    """As the server heard it: logged first, a lease holder could store between the two."""
    cluster = cluster_of("redis")
    node = cluster.node()
    node.read()
    client = cluster.server.client()
    entry, log = cluster.names.entry("item:1").decode(), cluster.names.log.decode()
    with cast("Any", client).monitor() as monitor:
        node.invalidate("key as text")
        heard: list[str] = []
        for said in monitor.listen():
            command: str = said["command"]
            if cluster.namespace in command:
                heard.append(command)
            if log in command and "XADD" in command.upper():
                break
    unlinked = next(index for index, command in enumerate(heard) if command.upper().startswith("UNLINK") and entry in command)
    assert unlinked < len(heard) - 1


@pytest.mark.parametrize("layer", LAYERS)
def test_a_record_bans_what_it_names_before_anyone_reads_the_log(cluster_of: MakeCluster, layer: str) -> None:
    """The same trip that appends the record leaves the ban for processes that start later."""
    cluster = cluster_of(layer)
    node = cluster.node()
    stamp = node.invalidate("tag of the decorator")
    fresh = cluster.node()
    fresh.read_log()
    ledger = engine_of(fresh.cache).ledger
    assert ledger.position == stamp
    assert ledger.refuses("item:1", (Dependency("t", "owner:1"),), stamp.number - 1)
    assert not ledger.refuses("item:1", (Dependency("t", "owner:1"),), stamp.number)
    assert not ledger.refuses("item:2", (Dependency("t", "owner:2"),), stamp.number - 1)


def test_a_tag_that_does_not_fit_an_envelope_costs_the_storing_and_not_the_result(cluster_of: MakeCluster) -> None:
    """A tag text of more than 65,535 bytes: the caller has the result, no lease stays."""
    cluster = cluster_of("memory")
    events: list[str] = []
    with Cache(
        policies=[Policy(name="items", match="item:*", ttl="1h")],
        shared=cluster.shared(),
        listen=False,
        on_event=lambda event: events.append(event.name),
    ) as cache:

        @cache.cached("item:{name}", tags=["tag:{name}"])
        def item(name: str) -> int:
            return len(name)

        assert item("é" * 40_000) == 40_000
        assert engine_of(cache).leases == {}
    assert "not_stored" in events


def test_steps_of_one_flow_are_what_a_miss_and_a_hit_cost(cluster_of: MakeCluster) -> None:
    """A hit in the shared layer is one trip; an invalidation is one trip; a local hit is none."""
    cluster = cluster_of("memory")
    cluster.node().read()
    holding = cluster.holding()
    node = cluster.node(holding)
    node.read(2)
    node.read(2)
    del holding.steps[:]
    node.read()
    assert [type(step) for step in holding.steps] == [Fetch]
    node.read()
    assert len(holding.steps) == 1
    node.invalidate("prefix")
    assert [type(step) for step in holding.steps] == [Fetch, Announce]
    node.read()
    assert [type(step) for step in holding.steps[2:]] == [Fetch, Lease, Store]
    assert not holding.count(ReadLog)


async def _three_readers(item: Callable[[int], object]) -> None:
    await asyncio.gather(*(asyncio.to_thread(item, 1) for _ in range(3)))


def test_both_colours_share_one_flight() -> None:
    """A ``def`` and an ``async def`` that return the same: whoever computes, the other waits for it, and an invalidation parts them."""
    origin = Origin()
    with Cache(policies=[Policy(name="items", match="item:*", ttl="1h")], listen=False) as cache, LoopThread() as loop:

        @cache.cached("item:{number}")
        def item(number: int) -> int:
            return origin.read()

        @cache.cached("item:{number}", same_as=item)
        async def aitem(number: int) -> int:
            return await origin.aread()

        gate = origin.hold()
        first = loop.submit(aitem(1))
        gate.wait()
        others = loop.submit(_three_readers(item))
        until(lambda: cache.stats().total.joined == 3, "joining")
        origin.version = 2
        cache.invalidate("item:1")
        assert item(1) == 2
        gate.open()
        assert first.result(LONG) == 1
        others.result(LONG)
        assert (item(1), loop.run(aitem(1))) == (2, 2)
        assert origin.computations == 2
