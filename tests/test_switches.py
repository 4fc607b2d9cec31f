"""Switches: turning caching down in a running system, and up again without serving what was let pass meanwhile.

Nodes around a layer in memory stand for processes where the order of things matters; real processes and a real server where it is
about who is told.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from cachesync import (
    Cache,
    Event,
    LayerError,
    MemoryShared,
    Policy,
    PolicyError,
    RedisShared,
    Settings,
    SwitchError,
    Switches,
    load_settings,
)
from cachesync.core.names import Names
from cachesync.core.settings import CoordinationSettings
from cachesync.core.stamps import BY_LIFETIME, Stamp
from cachesync.core.steps import Beat, Confirm, Fetch, Joined, Lease, ReadLog, Snapshot, Store, Throw
from cachesync.core.switches import (
    MODES,
    NOTHING_THROWN,
    Thrown,
    changed,
    is_thrown,
    place_of,
    read_switch,
    read_switches,
    read_thrown,
)
from cachesync.layers.local import LocalMemory
from cachesync.testing import FakeClock
from support.commands import Printed, Run, call
from support.nodes import (
    COLOURS,
    KINDS,
    LONG,
    BatchNode,
    Caller,
    Callers,
    Colour,
    HoldingShared,
    LoopThread,
    Origin,
    engine_of,
    operations_of,
    read_log,
    sites_of,
    until,
    use,
)
from support.proxy import Proxy
from support.servers import Server
from support.worker import Worker, each_colour

POLICIES: Final = ("items", "pages", "local")


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    with LoopThread() as loop:
        yield loop


@pytest.fixture(params=COLOURS)
def colour(request: pytest.FixtureRequest) -> Colour:
    chosen: Colour = request.param
    return chosen


class System:
    """Two processes that listen, around one layer in memory. Each one's steps are counted."""

    def __init__(self, colour: Colour, loop: LoopThread) -> None:
        self.origin = Origin()
        self.memory = MemoryShared()
        self.layers = [HoldingShared(self.memory) for _ in range(2)]
        self.nodes = [BatchNode(layer, self.origin, colour=colour, loop=loop, listen=True) for layer in self.layers]
        for node in self.nodes:
            node.stamp()  # from now on it listens

    def switch(self, target: str, value: str) -> None:
        """For all, and wait until all obey."""
        self.nodes[0].switch(target, value)
        version = self.nodes[0].cache.switches().version
        until(lambda: all(node.cache.switches().version == version for node in self.nodes), "obeying")

    def has_heard(self) -> None:
        """Wait until both have applied all that was announced."""
        head = self.memory.head()
        assert head is not None
        for node in self.nodes:
            until(partial(node.has_applied, head), "applying the log")


@pytest.fixture
def system(colour: Colour, loop: LoopThread) -> Iterator[System]:
    made = System(colour, loop)
    yield made
    for node in made.nodes:
        node.close()


# --- what is asked for ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "value", "meant"),
    [
        ("all", "ttl", ("all", "ttl")),
        ("items", "off", ("policy.items", "off")),
        ("policy.items", "headers", ("policy.items", "headers")),
        ("local", "off", ("local", "off")),
        ("policy.local", "full", ("policy.local", "full")),
        ("redis", "on", ("redis", "on")),
    ],
)
def test_a_target_is_everything_a_layer_or_a_policy(target: str, value: str, meant: tuple[str, str]) -> None:
    """A policy that is called as something else can be named in full."""
    assert read_switch(target, value, POLICIES) == meant


@pytest.mark.parametrize(
    ("target", "value", "says"),
    [
        ("itens", "off", '"itens" is nothing to switch: "all", "local", "redis", "items", "local", "pages"; write "items"'),
        ("policy.pagse", "off", '; write "pages"'),
        ("", "off", '"" is nothing to switch'),
        ("all", "of", '"of" is nothing that "all" can be: "off", "headers", "ttl", "full"; write "off"'),
        ("all", "on", '; write "full"'),
        ("redis", "ttl", '"ttl" is nothing that "redis" can be: "off", "on"; write "on"'),
        ("redis", "false", '; write "off"'),
        ("items", "", '; write "full"'),
    ],
)
def test_what_can_not_be_switched_is_refused_with_what_can(target: str, value: str, says: str) -> None:
    """Whoever is in a hurry is told the nearest that would be right."""
    with pytest.raises(SwitchError) as caught:
        read_switch(target, value, POLICIES)
    assert says in str(caught.value)


def test_several_are_one_text() -> None:
    """As the environment has them."""
    assert read_switches("all=ttl, items=off,redis=on", POLICIES) == {"all": "ttl", "policy.items": "off", "redis": "on"}


def test_all_mistakes_in_a_text_are_told_at_once() -> None:
    """Not one in each start."""
    with pytest.raises(SwitchError) as caught:
        read_switches("al=ttl,items,redis=off,redis=on", POLICIES)
    assert [line.partition(";")[0][:30] for line in str(caught.value).splitlines()] == [
        '"al" is nothing to switch: "al',
        '"items" is no switch',
        '"redis" is switched twice',
    ]


def test_what_is_as_usual_is_not_named() -> None:
    """The state for all processes grows with what is switched, not with what ever was."""
    assert changed({"all": "ttl", "redis": "off"}, [("all", "full"), ("policy.items", "off")]) == {"redis": "off", "policy.items": "off"}
    assert changed({"redis": "off"}, [("redis", "on")]) == {}


@pytest.mark.parametrize(
    ("environment", "here", "everywhere", "items", "pages"),
    [
        ({}, {}, {}, "full", "full"),
        ({}, {}, {"all": "ttl"}, "ttl", "ttl"),
        ({"all": "off"}, {}, {"all": "ttl"}, "off", "off"),
        ({}, {"policy.items": "headers"}, {"all": "ttl"}, "headers", "ttl"),
        ({"policy.items": "ttl"}, {"policy.items": "off"}, {"policy.items": "headers"}, "off", "full"),
        ({}, {"policy.items": "full"}, {"all": "ttl"}, "ttl", "ttl"),
        ({}, {}, {"policy.items": "from a later release"}, "off", "full"),
    ],
)
def test_the_most_cautious_counts(
    environment: dict[str, str], here: dict[str, str], everywhere: dict[str, str], items: str, pages: str
) -> None:
    """Nobody can turn up what somebody else has turned down."""
    switches = Switches(environment, here, everywhere)
    assert (switches.mode_of("items"), switches.mode_of("pages")) == (items, pages)


def test_a_layer_is_off_when_anybody_says_so() -> None:
    """And what is as usual does not count as switched."""
    switches = Switches({"local": "off"}, {"local": "on"}, {"redis": "off", "all": "full"})
    assert (switches.local, switches.redis) == (False, False)
    assert switches.effective == {"local": "off", "redis": "off"}
    assert (Switches().local, Switches().redis, Switches().effective) == (True, True, {})


@pytest.mark.parametrize("switched", [{}, {"all": "full"}, {"policy.items": "ttl"}])
def test_where_caching_is_not_enabled_everything_is_off(switched: dict[str, str]) -> None:
    """Whatever is switched: the environment of the process has the last word."""
    switches = Switches(here=switched, is_enabled=False)
    assert (switches.mode_of("items"), switches.mode_of("pages"), switches.is_usual) == ("off", "off", False)
    assert Switches(here={"all": "full"}).is_usual and not Switches(here={"redis": "off"}).is_usual


def test_what_is_thrown_is_written_and_read() -> None:
    """As it lies in Redis and travels on the log's channel."""
    thrown = Thrown(1_767_225_600_000, (("all", "ttl"), ("redis", "off")))
    assert str(thrown) == '{"v":1767225600000,"s":{"all":"ttl","redis":"off"}}'
    assert is_thrown(str(thrown)) and read_thrown(str(thrown)) == thrown
    for nonsense in ("", "1", "[]", "{}", '{"v":"x","s":{}}', '{"v":1,"s":[]}', '{"v":1}', "[" * 100_000):
        with pytest.raises(ValueError):
            read_thrown(nonsense)


# --- off: functions are called ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["off", "headers"])
def test_off_calls_the_function_each_time(system: System, mode: str) -> None:
    """For functions ``headers`` is the same; who asks can tell the two."""
    near, far = system.nodes
    assert (near.read(), far.read(), system.origin.computations) == (1, 1, 1)
    system.switch("all", mode)
    for reads, node in enumerate((near, far, near), 2):
        assert (node.read(), system.origin.computations) == (1, reads)
    assert near.valid() is None and near.peek("item:1") is None
    assert near.do(near.item.many, [(1,), (2,)]) == [1, 1] and system.origin.computations == 6
    assert near.read_many(1, 2) == {1: 1, 2: 1}
    assert near.cache.switches().mode_of("items") == mode


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_invalidated_while_off_is_not_served_afterwards(system: System, kind: str) -> None:
    """Invalidations are announced and heard all the time; what they did not concern is still there."""
    near, far = system.nodes
    for number in (1, 2):
        near.read(number)
        far.read(number)
    system.switch("all", "off")
    system.origin.version = 2
    far.invalidate(kind, 1)
    system.has_heard()
    system.switch("all", "full")
    computed = system.origin.computations
    assert [node.read(1) for node in (near, far)] == [2, 2]
    if kind not in {"prefix", "tag of the policy", "everything"}:
        assert [node.read(2) for node in (near, far)] == [1, 1]
        assert system.origin.computations == computed + 1


def test_one_policy_is_switched_off(system: System) -> None:
    """The others go on."""
    near = system.nodes[0]
    near.do(near.page, 1)
    system.switch("items", "off")
    computed = system.origin.computations
    near.do(near.page, 1)
    assert system.origin.computations == computed
    near.read()
    assert system.origin.computations == computed + 1


@pytest.mark.parametrize("way", ["set", "refresh", "update"])
def test_a_value_that_is_set_while_off_ends_the_copies_of_others(system: System, way: str) -> None:
    """It is stored nowhere, and what it replaces is served by nobody afterwards."""
    near, far = system.nodes
    near.read()
    far.read()
    system.switch("all", "off")
    system.origin.version = 2
    if way == "set":
        near.set(2)
    elif way == "refresh":
        assert near.start_refresh().result(LONG) == 2
    else:
        with near.update("item:1") as update:
            update(2)
    system.has_heard()
    system.switch("all", "full")
    assert far.valid() is None and near.valid() is None
    assert (far.read(), near.read()) == (2, 2)


def test_what_is_made_of_something_bypassed_ends_with_it(system: System) -> None:
    """The tags and the key of a function that is only called are inherited all the same."""
    for kind in ("key as text", "tag of the decorator", "tag of the policy"):
        near, far = system.nodes
        system.switch("items", "off")
        before = near.do(near.page, 1)
        assert near.get("page:1") == before
        system.origin.version += 1
        far.invalidate(kind)
        system.has_heard()
        assert near.do(near.page, 1) == [1, system.origin.version]


def test_what_is_made_of_something_bypassed_lives_no_longer_than_that(colour: Colour, loop: LoopThread) -> None:
    """Its own policy would let it be fresh for an hour."""
    cache = Cache(policies=[Policy(name="short", match="short:*", ttl="10s"), Policy(name="long", match="long:*", ttl="1h")])
    caller = Caller(cache, colour, loop)
    cache.switch_here("short", "off")

    @caller.cached("short:{n}")
    async def short(n: int) -> int:
        return n

    @caller.cached("long:{n}")
    async def long(n: int) -> int:
        return int(await use(short, n))

    assert caller.do(long, 1) == 1
    (held,) = [held for site in sites_of(cache) for held in site.shelf]
    assert held.deadline - held.made < 60.0
    caller.close()


def test_what_is_only_called_and_stale_counts_once(colour: Colour, loop: LoopThread) -> None:
    """However it is asked for."""
    clock = FakeClock()
    policies = [
        Policy(name="part", match="part:*", ttl="10s", stale_while_revalidate="1h"),
        Policy(name="whole", match="whole:*", ttl="1h"),
    ]
    caller = Caller(Cache(policies=policies, clock=clock), colour, loop)
    caller.cache.switch_here("whole", "off")

    @caller.cached("part:{n}")
    async def part(n: int) -> int:
        return n

    @caller.cached("whole:{n}")
    async def whole(n: int) -> int:
        return int(await use(part, n))

    asking: list[Callable[[int], Any]] = [
        lambda n: caller.do(whole, n),
        lambda n: caller.do(whole.many, [(n,), (n,)]),
        lambda n: caller.do(whole.refresh, n),
    ]
    for n, ask in enumerate(asking):
        caller.do(part, n)
        clock.advance(20.0)
        before = caller.cache.stats().total.stale
        ask(n)
        assert caller.cache.stats().total.stale - before == 2, "the part and the whole"
    caller.close()


class Strict:
    """A process with a strict function that is made of cached ones, and another one."""

    def __init__(self, colour: Colour, loop: LoopThread) -> None:
        memory = MemoryShared()
        self.layer = HoldingShared(memory)
        self.computed: list[int] = []
        self.version = 1
        policies = [Policy(name="whole", match="whole:*", ttl="1h", consistency="strict"), Policy(name="part", match="part:*", ttl="1h")]
        self.near, self.far = (Caller(Cache(policies=policies, shared=layer, listen=False), colour, loop) for layer in (self.layer, memory))

        @self.near.cached("part:{n}")
        async def part(n: int) -> int:
            self.computed.append(n)
            return n * self.version

        @self.near.cached("whole:{n}")
        async def whole(n: int) -> int:
            return sum([await use(part, one) for one in range(n)])

        self.part, self.whole = part, whole

    def trips(self) -> int:
        return sum(self.layer.count(kind) for kind in (Confirm, Fetch, Lease, Store, ReadLog, Snapshot))


@pytest.fixture
def strict(colour: Colour, loop: LoopThread) -> Iterator[Strict]:
    made = Strict(colour, loop)
    yield made
    made.near.close()
    made.far.close()


@pytest.mark.parametrize("is_batch", [False, True])
def test_a_strict_function_that_is_only_called_is_made_of_what_is_confirmed_once(strict: Strict, *, is_batch: bool) -> None:
    """One trip confirms where the log ends; local copies that are as new are served. What was invalidated is computed anew."""
    near = strict.near
    assert near.do(strict.whole, 10) == 45
    near.cache.switch_here("whole", "off")
    ask = partial(strict.whole.many, [(10,), (9,)]) if is_batch else partial(strict.whole, 10)
    expected: Any = [45, 36] if is_batch else 45

    def asked() -> Any:
        strict.computed.clear()
        return near.do(ask)

    before = strict.trips()
    assert asked() == expected
    assert strict.computed == []
    assert strict.trips() == before + 1
    strict.version = 2
    strict.far.drop("part:5")
    assert asked() == ([50, 41] if is_batch else 50)
    assert strict.computed == [5]


@pytest.mark.parametrize("how", ["redis is off", "redis is away", "everything is off", "everything is by lifetime"])
def test_a_strict_function_that_can_not_be_confirmed_is_computed_whole(strict: Strict, how: str) -> None:
    """Without a trip for each of its parts: for what nothing there can be new enough, nothing is asked."""
    near = strict.near
    assert near.do(strict.whole, 10) == 45
    near.cache.switch_here("whole", "off")
    switches = {"redis is off": ("redis", "off"), "everything is off": ("all", "off"), "everything is by lifetime": ("all", "ttl")}
    if how in switches:
        near.cache.switch_here(*switches[how])
    before = strict.trips()
    strict.computed.clear()
    if how == "redis is away":
        memory: Any = strict.layer.inner
        with memory.outage():
            assert near.do(strict.whole, 10) == 45
        assert strict.trips() == before + 1
    else:
        assert near.do(strict.whole, 10) == 45
        assert strict.trips() == before
    assert strict.computed == list(range(10))


@pytest.mark.parametrize("way", ["at_least", "many", "get", "get_many"])
def test_for_who_asks_for_a_pending_stamp_no_trip_is_made(strict: Strict, way: str) -> None:
    """No entry can be known to be as new as an invalidation that has no number yet."""
    near = strict.near
    near.do(strict.part, 3)
    pending = Stamp("0" * 16, 7, pending=True)
    near.do(strict.part.at_least, pending, 3)
    before = strict.trips()
    strict.computed.clear()
    if way == "at_least":
        near.do(strict.part.at_least, pending, 3)
    elif way == "many":

        def compute(keys: list[str]) -> Any:
            return dict.fromkeys(keys, 1)

        async def acompute(keys: list[str]) -> Any:
            return compute(keys)

        cache = near.cache
        ask, how = (cache.get_or_compute_many, compute) if near.colour == "def" else (cache.aget_or_compute_many, acompute)
        assert near.do(ask, ["part:3"], how, at_least=pending) == {"part:3": 1}
    elif way == "get":
        assert near.get("part:3", at_least=pending) is None
    else:
        get_many = near.cache.get_many if near.colour == "def" else near.cache.aget_many
        assert near.do(get_many, ["part:3"], at_least=pending) == {}
    assert strict.trips() == before


# --- ttl: lifetimes alone ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_by_lifetime_alone_no_invalidation_counts_until_they_count_again(system: System, kind: str) -> None:
    """Neither for a copy nor for an entry; with ``full`` all that came meanwhile counts at once."""
    near, far = system.nodes
    near.read()
    system.switch("all", "ttl")
    system.origin.version = 2
    stamp = far.invalidate(kind)
    system.has_heard()
    assert near.read() == 1
    if "key" not in kind:  # an entry that is named by its key is unlinked
        assert far.read() == 1
    system.switch("all", "full")
    assert (near.read(), far.read()) == (2, 2)
    assert near.has_applied(stamp)


def test_by_lifetime_alone_the_log_is_not_asked(colour: Colour, loop: LoopThread) -> None:
    """A process that never joined the log fills and serves: one computation, and no question about the log."""
    layer, origin = HoldingShared(MemoryShared()), Origin()
    nodes = [BatchNode(layer, origin, colour=colour, loop=loop) for _ in range(2)]
    for node in nodes:
        node.cache.switch_here("all", "ttl")
    assert [node.read() for node in nodes for _ in range(2)] == [1] * 4
    assert [node.read_many(1, 2) for node in nodes] == [{1: 1, 2: 1}] * 2
    assert origin.computations == 2
    assert layer.count(Snapshot) == layer.count(Confirm) == layer.count(ReadLog) == 0
    for node in nodes:
        node.close()


def test_a_lifetime_still_ends(colour: Colour, loop: LoopThread) -> None:
    """It is all that counts."""
    clock, origin = FakeClock(), Origin()
    node = BatchNode(MemoryShared(clock.monotonic), origin, colour=colour, loop=loop, clock=clock, ttl=10.0)
    node.cache.switch_here("all", "ttl")
    node.read()
    clock.advance(9.0)
    assert (node.read(), origin.computations) == (1, 1)
    clock.advance(2.0)
    assert (node.read(), origin.computations) == (1, 2)
    node.close()


def test_a_computation_that_began_by_lifetime_is_not_valid_where_invalidations_count(system: System) -> None:
    """Held open across the switch back, with an invalidation in between that nobody looked at when it began."""
    near, far = system.nodes
    system.switch("all", "ttl")
    gate = system.origin.hold()
    reading = near.start_read()
    gate.wait()
    system.origin.version = 2
    far.invalidate("tag of the decorator")
    system.switch("all", "full")
    gate.open()
    assert reading.result(LONG) == 1
    assert (near.valid(), far.valid()) == (None, None)
    assert (near.read(), far.read()) == (2, 2)


def test_nobody_who_asks_in_full_joins_a_computation_by_lifetime(system: System) -> None:
    """Its result may be older than an invalidation that counts for who comes later."""
    near, far = system.nodes
    system.switch("all", "ttl")
    gate = system.origin.hold()
    first = near.start_read()
    gate.wait()
    system.origin.version = 2
    far.invalidate("tag of the decorator")
    system.switch("all", "full")
    second = near.start_read()
    until(lambda: near.cache.stats().total.joined or second.done(), "joining")
    gate.open()
    assert (first.result(LONG), second.result(LONG)) == (1, 2)


def test_a_computation_that_began_in_full_is_judged_when_invalidations_count_again(system: System) -> None:
    """It was stored while nobody looked; what came meanwhile refuses it."""
    near, far = system.nodes
    gate = system.origin.hold()
    reading = near.start_read()
    gate.wait()
    system.switch("all", "ttl")
    system.origin.version = 2
    far.invalidate("tag of the decorator")
    gate.open()
    assert reading.result(LONG) == 1
    system.has_heard()
    system.switch("all", "full")
    assert (near.read(), far.read()) == (2, 2)


def test_a_computation_across_off_is_judged_afterwards(system: System) -> None:
    """It began before ``off`` and before an invalidation, and ends while everything is off, or after that."""
    near, far = system.nodes
    for number, is_late in ((1, False), (2, True)):
        gate = system.origin.hold()
        reading = near.start_read(number)
        gate.wait()
        system.switch("all", "off")
        system.origin.version += 1
        far.invalidate("tag of the decorator", number)
        if not is_late:
            gate.open()
            reading.result(LONG)
            assert near.read(number) == system.origin.version  # it is nowhere to be hit
        system.has_heard()
        system.switch("all", "full")
        gate.open()
        assert reading.result(LONG) == system.origin.version - 1
        assert (near.read(number), far.read(number)) == (system.origin.version, system.origin.version)


def test_what_was_computed_across_off_is_not_hit_while_off(system: System) -> None:
    """Nothing has invalidated it; it may be stored, and is served again when everything is as usual."""
    near = system.nodes[0]
    gate = system.origin.hold()
    reading = near.start_read()
    gate.wait()
    system.switch("all", "off")
    gate.open()
    reading.result(LONG)
    near.read()
    assert system.origin.computations == 2
    system.switch("all", "full")
    near.read()
    assert system.origin.computations == 2


def test_a_question_of_before_off_leaves_no_copy_that_would_be_hit(system: System) -> None:
    """It was asked in full and is answered, by the copy that is there, when functions are called each time."""
    near = system.nodes[0]
    near.read()
    engine, site = engine_of(near.cache), sites_of(near.cache)[0]
    ask = engine.ask(site, site.address((1,)), (1,))
    system.switch("all", "off")
    assert engine.at_hand(ask) is not None
    near.read()
    assert system.origin.computations == 2


@pytest.mark.parametrize("is_held", [True, False])
def test_a_question_of_before_the_switch_leaves_no_copy_that_would_be_served_after_it(system: System, *, is_held: bool) -> None:
    """It was asked by lifetime, and is answered when invalidations count again: from a copy, or from an entry."""
    near, far = system.nodes
    (far if not is_held else near).read()
    system.switch("all", "ttl")
    engine, site = engine_of(near.cache), sites_of(near.cache)[0]
    ask = engine.ask(site, site.address((1,)), (1,))
    assert ask.by_ttl
    system.origin.version = 2
    far.invalidate("tag of the decorator")
    system.has_heard()
    system.switch("all", "full")
    if is_held:
        held = engine.at_hand(ask)
        assert held is not None and held.stamp == BY_LIFETIME
    else:
        fetched: Any = system.memory.perform(Fetch((ask.key,)))
        judged: Any = engine.judge(ask, fetched.blobs[0], fetched.head, fetched.now)
        assert judged.value == 1
    assert near.read() == 2


def test_what_is_made_of_something_by_lifetime_is_not_stored(system: System) -> None:
    """Nobody knows what the parts have missed. Where lifetimes decide for all of it, it is."""
    near, far = system.nodes
    near.read(1)
    far.read(2)
    system.switch("items", "ttl")
    for number in (1, 2, 3):  # from a copy, from an entry, and computed
        assert near.do(near.page, number) == [number, 1]
        assert near.get(f"page:{number}") is None
    system.switch("pages", "ttl")
    near.do(near.page, 1)
    assert near.get("page:1") == [1, 1]
    system.switch("pages", "full")
    assert near.get("page:1") is None


def test_nor_is_what_is_made_of_that(system: System) -> None:
    """However deep it is."""
    near = system.nodes[0]

    @near.cached("page:{number}:of:{items}")
    async def book(number: int, items: int) -> list[Any]:
        return [await use(near.page, number), items]

    system.switch("items", "ttl")
    assert near.do(book, 1, 2) == [[1, 1], 2]
    assert near.get("page:1:of:2") is None


def test_what_a_lifetime_can_not_promise_is_computed(system: System) -> None:
    """Not older than a stamp; not older than the log."""
    near, far = system.nodes
    near.read()
    system.switch("all", "ttl")
    system.origin.version = 2
    stamp = far.invalidate("tag of the decorator")
    assert near.do(near.item.at_least, stamp, 1) == 2
    assert near.get("item:1", at_least=stamp) is None
    assert near.read() == 1


def test_a_strict_policy_is_computed_by_lifetime(colour: Colour, loop: LoopThread) -> None:
    """Every read would have to ask where the log ends."""
    cache = Cache(policies=[Policy(name="all", match="*", ttl="1h", consistency="strict")], shared=MemoryShared(), listen=False)
    caller = Caller(cache, colour, loop)
    caller.put("a", 1)
    assert caller.get("a") == 1
    cache.switch_here("all", "ttl")
    assert caller.get("a") is None
    assert [caller.get_or_compute("a", partial(int, value)) for value in (2, 3)] == [2, 3]
    caller.close()


def test_an_audit_finds_nothing_wrong_where_invalidations_do_not_count(system: System) -> None:
    """Serving what was invalidated is what somebody wanted."""
    from cachesync.core.auditing import Question
    from cachesync.core.records import TAG, Targets

    near, far = system.nodes
    near.read()
    question = Question("q", Targets(TAG, ("owner:1",)), far.stamp())
    auditor = operations_of(near.cache)._auditor  # pyright: ignore[reportPrivateUsage] - it answers in the reader's thread
    system.switch("all", "ttl")
    stamp = far.invalidate("tag of the decorator")
    system.has_heard()
    assert near.read() == 1
    assert auditor.examine(Question("q", question.targets, stamp)) is None


# --- layers -----------------------------------------------------------------------------------------------------------------------


def test_without_redis_nobody_asks_for_entries_or_leases_and_invalidations_go_on(system: System) -> None:
    """What stands in Redis is right when it comes back: nothing has to be wiped."""
    near, far = system.nodes
    for number in (1, 2):
        near.read(number)
    system.switch("redis", "off")
    asked = [sum(layer.count(kind) for kind in (Fetch, Lease, Store)) for layer in system.layers]
    assert [near.read(number) for number in (1, 2, 3)] == [1, 1, 1]
    assert [far.read(3) for _ in range(2)] == [1, 1]
    assert far.valid(4) is None
    system.origin.version = 2
    far.invalidate("tag of the decorator", 1)
    system.has_heard()
    assert near.read(1) == 2
    far.set(7, 2)
    system.has_heard()
    assert [near.read(2), far.read(2)] == [2, 2]
    assert [sum(layer.count(kind) for kind in (Fetch, Lease, Store)) for layer in system.layers] == asked
    near.invalidate("everything")
    system.has_heard()
    system.switch("redis", "on")
    assert [node.read(number) for node in (near, far) for number in (1, 2, 3)] == [2] * 6


def test_an_entry_that_nothing_concerned_is_served_again_when_redis_comes_back(system: System) -> None:
    """It was not asked for meanwhile, that is all."""
    near, far = system.nodes
    near.read()
    system.switch("redis", "off")
    far.invalidate("tag of the decorator", 2)
    system.switch("redis", "on")
    assert (far.read(), system.origin.computations) == (1, 1)


def test_whoever_waits_for_a_lease_stops_waiting_when_redis_is_switched_off(system: System) -> None:
    """The computation of the other process may be what is in trouble."""
    near, far = system.nodes
    gate = system.origin.hold()
    first = near.start_read()
    gate.wait()
    second = far.start_read()
    until(lambda: system.layers[1].count(Lease), "asking for the lease")
    system.switch("redis", "off")
    assert second.result(LONG) == 1
    assert not first.done()
    gate.open()
    assert first.result(LONG) == 1


def test_without_local_memory_no_copy_is_kept_or_served(system: System) -> None:
    """What was there leaves, and every hit asks Redis."""
    near, far = system.nodes
    near.read()
    system.switch("local", "off")
    assert [node.cache.stats().local.entries for node in (near, far)] == [0, 0]
    for _ in range(3):
        fetched = system.layers[0].count(Fetch)
        assert (near.read(), system.layers[0].count(Fetch)) == (1, fetched + 1)
    assert (far.read(), system.origin.computations) == (1, 1)
    near.read(2)
    assert [node.cache.stats().local.entries for node in (near, far)] == [0, 0]
    system.switch("local", "on")
    near.read()
    assert near.cache.stats().local.entries == 1


class KeepingLocal(LocalMemory):
    """Local memory that was plugged in, and when it ``fails``, drops none of its copies."""

    fails = False

    def clear(self) -> None:
        if self.fails:
            raise RuntimeError("it can not")
        super().clear()


@pytest.mark.parametrize("everywhere", [False, True])
def test_copies_that_could_not_be_dropped_are_not_served(colour: Colour, loop: LoopThread, *, everywhere: bool) -> None:
    """The switch holds whole, whatever the layer raises; the trouble is told."""
    events: list[Event] = []
    policy = Policy(name="all", match="*", ttl="1h", stale_if_error="1h")
    local = KeepingLocal()
    caller = Caller(Cache(policies=[policy], shared=MemoryShared(), local=local, on_event=events.append), colour, loop)
    values = iter(range(10))

    @caller.cached("a")
    async def function() -> int:
        return next(values)

    caller.stamp()
    assert [caller.do(function) for _ in range(2)] == [0, 0]
    local.fails = True
    for layer in ("redis", "local"):
        if everywhere:
            caller.switch(layer, "off")
        else:
            caller.cache.switch_here(layer, "off")
    assert [caller.do(function) for _ in range(2)] == [1, 2]
    values = iter(())
    with pytest.raises((StopIteration, RuntimeError)):  # no copy stands in for it, either
        caller.do(function)
    failed = [event.fields for event in events if event.name == "layer_failed"]
    assert [(fields["layer"], fields["step"]) for fields in failed] == [("local", "clear")]
    caller.close()


def test_after_a_loss_copies_that_could_not_be_dropped_are_not_served(colour: Colour, loop: LoopThread) -> None:
    """The log was begun anew, and nothing from before holds, whatever the local layer raises; the trouble is told."""
    events: list[Event] = []
    shared, local = MemoryShared(), KeepingLocal()
    policy = Policy(name="all", match="*", ttl="1h")
    caller = Caller(Cache(policies=[policy], shared=shared, local=local, listen=False, on_event=events.append), colour, loop)
    values = iter(range(10))

    @caller.cached("a")
    async def function() -> int:
        return next(values)

    caller.stamp()
    assert caller.do(function) == 0
    local.fails = True
    shared.flush()
    caller.stamp()
    read_log(caller.cache)
    assert caller.do(function) == 1
    failed = [event.fields for event in events if event.name == "layer_failed"]
    assert [(fields["layer"], fields["step"]) for fields in failed] == [("local", "clear")]
    caller.close()


def test_both_layers_off_computes_once_for_those_who_ask_together(system: System) -> None:
    """As a cache that holds nothing: callers of one process still share what is under way."""
    near = system.nodes[0]
    system.switch("local", "off")
    system.switch("redis", "off")
    gate = system.origin.hold()
    reading = [near.start_read() for _ in range(2)]
    gate.wait()
    until(lambda: near.cache.stats().total.joined, "joining")
    gate.open()
    assert [one.result(LONG) for one in reading] == [1, 1]
    assert near.read() == 1 and system.origin.computations == 2


# --- batches of several modes -----------------------------------------------------------------------------------------------------


def test_a_batch_is_answered_key_by_key_as_each_is_switched(system: System) -> None:
    """Those of a policy that is off are computed, the others cached; ``compute`` is called once for either."""
    near = system.nodes[0]
    asked: list[list[str]] = []

    def compute(keys: list[str]) -> dict[str, int]:
        asked.append(keys)
        return dict.fromkeys(keys, len(asked))

    async def acompute(keys: list[str]) -> dict[str, int]:
        return compute(keys)

    def ask() -> Any:
        keys = ["item:1", "page:1", "item:2"]
        if near.colour == "def":
            return near.do(near.cache.get_or_compute_many, keys, compute)
        return near.do(near.cache.aget_or_compute_many, keys, acompute)

    system.switch("items", "off")
    assert ask() == {"item:1": 2, "page:1": 1, "item:2": 2}
    assert ask() == {"item:1": 3, "page:1": 1, "item:2": 3}
    assert asked == [["page:1"], ["item:1", "item:2"], ["item:1", "item:2"]]
    found = near.do(near.cache.get_many if near.colour == "def" else near.cache.aget_many, ["item:1", "page:1"])
    assert found == {"page:1": 1}


# --- who is told ------------------------------------------------------------------------------------------------------------------


def test_what_is_switched_here_concerns_nobody_else(system: System) -> None:
    """And needs nobody."""
    near, far = system.nodes
    with system.memory.outage():
        near.cache.switch_here("items", "off")
    assert near.cache.switches().here == {"policy.items": "off"}
    far.read()
    assert far.cache.switches().effective == {}
    near.cache.switch_here("items", "full")
    assert near.cache.switches().effective == {}


def test_what_is_heard_late_does_not_count(system: System) -> None:
    """Messages and answers come on different connections."""
    engine = engine_of(system.nodes[0].cache)
    assert engine.obey(Thrown(5, (("all", "ttl"),)))
    assert not engine.obey(Thrown(5, (("all", "off"),))) and not engine.obey(Thrown(4))
    assert engine.switches.effective == {"all": "ttl"}


def test_a_switch_that_can_not_be_announced_changes_nothing(system: System) -> None:
    """Who has thrown it is told."""
    near = system.nodes[0]
    with system.memory.outage(), pytest.raises(LayerError, match="nothing was switched"):
        near.switch("all", "off")
    assert near.cache.switches().effective == {}


def test_each_change_is_an_event_and_is_seen_in_stats_and_health(system: System) -> None:
    """Nobody has to guess why so much is computed."""
    far = system.nodes[1]
    system.switch("all", "ttl")
    system.switch("all", "ttl")
    until(lambda: far.told("switched"), "telling")
    assert [event.fields for event in far.told("switched")] == [{"switched": ["all=ttl"], "by": "for all processes"}]
    assert far.cache.stats().as_dict()["switches"] == {"all": "ttl"}
    health = far.cache.health()
    assert health.status == "degraded" and [reason.name for reason in health.reasons] == ["switched"]
    assert health.reasons[0].text.endswith(": all=ttl")
    system.switch("all", "full")
    until(lambda: len(far.told("switched")) == 2, "telling")
    assert far.told("switched")[-1].fields == {"switched": [], "by": "for all processes"}
    assert far.cache.health().status == "ok"


def test_what_is_switched_can_be_taken_back_when_its_policy_has_gone(system: System, colour: Colour) -> None:
    """A reload that gives a policy another name says what is switched of the one that is no more; the old name is no mistake."""
    near, far = system.nodes
    old = list(near.cache.settings.policies)
    system.switch(old[0].name, "off")
    near.do(near.cache.reload if colour == "def" else near.cache.areload, policies=[replace(old[0], name="renamed"), *old[1:]])
    assert [event.fields for event in near.told("switch_without_effect")] == [{"switched": [f"policy.{old[0].name}=off"]}]
    assert not far.told("switch_without_effect")
    system.switch(old[0].name, "full")
    assert far.cache.switches().effective == {}
    with pytest.raises(SwitchError, match="is nothing to switch"):
        near.switch(old[0].name, "full")
    near.do(near.cache.reload if colour == "def" else near.cache.areload, policies=old)
    assert len(near.told("switch_without_effect")) == 1


def test_what_is_switched_here_can_be_taken_back_too(colour: Colour, loop: LoopThread) -> None:
    """Nobody else knows of it."""
    caller = Caller(Cache(policies=[Policy(name="old", match="*", ttl="1h")]), colour, loop)
    caller.cache.switch_here("old", "off")
    caller.cache.reload(policies=[Policy(name="new", match="*", ttl="1h")])
    assert caller.cache.switches().effective == {"policy.old": "off"}
    caller.cache.switch_here("policy.old", "full")
    assert caller.cache.switches().effective == {}


def test_a_switch_that_is_thrown_again_is_a_warning_again(system: System, caplog: pytest.LogCaptureFixture) -> None:
    """The log tells how often caching was turned down and up, and not only of the first time."""
    with caplog.at_level(logging.WARNING, logger="cachesync"):
        for mode in ("off", "full", "off", "full"):
            system.nodes[0].cache.switch_here("all", mode)
    assert [record.getMessage().partition(", by=")[0] for record in caplog.records] == [
        "switched: switched=['all=off']",
        "switched: switched=[]",
    ] * 2


def test_switches_need_no_redis(colour: Colour, loop: LoopThread) -> None:
    """In one process a switch for all is one for this process."""
    caller = Caller(Cache(policies=[Policy(name="all", match="*", ttl="1h")]), colour, loop)
    assert caller.get_or_compute("a", lambda: 1) == 1
    caller.switch("all", "off")
    assert caller.get_or_compute("a", lambda: 2) == 2
    caller.switch("all", "full")
    assert caller.get_or_compute("a", lambda: 3) == 1
    caller.close()


def test_a_cache_says_what_can_not_be_switched(colour: Colour, loop: LoopThread) -> None:
    """At the call, and nobody is told."""
    caller = Caller(Cache(policies=[Policy(name="stores", match="*", ttl="1h")]), colour, loop)
    with pytest.raises(SwitchError, match='write "stores"'):
        caller.switch("store", "off")
    with pytest.raises(SwitchError, match="are texts"):
        caller.cache.switch_here("all", False)  # type: ignore[arg-type]
    caller.close()


def test_a_cache_that_does_not_listen_is_told_by_a_trip_and_listens_from_then_on(system: System, colour: Colour, loop: LoopThread) -> None:
    """It might make no other trip, and would never learn that it is over."""
    quiet = BatchNode(system.memory, system.origin, colour=colour, loop=loop)
    system.switch("all", "off")
    quiet.read()
    quiet.obeys(all="off")
    quiet.read()
    system.switch("all", "full")
    quiet.obeys()
    quiet.close()


# --- the environment --------------------------------------------------------------------------------------------------------------

FILE: Final = """\
namespace = "{namespace}"
[policy.stores]
match = "stores:*"
ttl = "10m"
"""


@pytest.fixture
def file(tmp_path: Path, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CACHESYNC_REDIS_URL", "CACHESYNC_SWITCH", "CACHESYNC_ENABLED", "CACHESYNC_REDIS_ENABLED", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "cachesync.toml"
    path.write_text(FILE.format(namespace=namespace))
    monkeypatch.setenv("CACHESYNC_FILE", str(path))
    return path


def test_the_environment_switches_one_process(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its start on; an event says so."""
    monkeypatch.setenv("CACHESYNC_SWITCH", "all=ttl,stores=off")
    events: list[Any] = []
    with Cache.from_file(file, on_event=events.append) as cache:
        assert cache.switches().environment == {"all": "ttl", "policy.stores": "off"}
        assert [(event.name, event.fields) for event in events] == [
            ("switched", {"switched": ["all=ttl", "policy.stores=off"], "by": "the environment"})
        ]
        assert [cache.get_or_compute("stores:a", partial(int, value)) for value in (1, 2)] == [1, 2]


def test_a_mistake_in_the_environment_is_told_at_start(file: Path) -> None:
    """With all the others."""
    with pytest.raises(PolicyError) as caught:
        load_settings(file, {"CACHESYNC_SWITCH": "stors=off,all=on", "CACHESYNC_ENABLED": "maybe"})
    assert [problem.partition(";")[0] for problem in caught.value.problems] == [
        'environment: CACHESYNC_ENABLED: "maybe" is not a switch',
        'environment: CACHESYNC_SWITCH: "stors" is nothing to switch: "all", "local", "redis", "stores"',
        'environment: CACHESYNC_SWITCH: "on" is nothing that "all" can be: "off", "headers", "ttl", "full"',
    ]


# --- the command ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(file: Path, every_server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("CACHESYNC_REDIS_URL", every_server.url)

    def called(*argv: str) -> Printed:
        return call(capsys, "switch", *argv)

    return called


def test_the_command_switches_and_shows(run: Run, every_server: Server, namespace: str) -> None:
    """In every process: here one that runs."""
    stores = Policy(name="stores", match="stores:*", ttl="10m")
    patient = Settings(coordination=CoordinationSettings(budget=LONG))
    with Cache(patient, policies=[stores], namespace=namespace, redis=every_server.url) as cache:
        cache.stamp()
        until(lambda: cache.stats().log.is_heard, "hearing the log")
        assert run()[:2] == (0, "nothing is switched: everything is cached as its policy says\n")
        code, out, errors = run("redis", "off")
        assert (code, errors) == (0, "") and "redis" in out and "for all processes" in out
        until(lambda: not cache.switches().redis, "obeying")
        assert run("stores", "ttl")[0] == 0
        until(lambda: cache.switches().effective == {"policy.stores": "ttl", "redis": "off"}, "obeying")
        told = json.loads(run("--json")[1])
        assert told["ok"] and told["switched"] == {"policy.stores": "ttl", "redis": "off"} and told["changed"].startswith("20")
        assert run("redis", "on")[0] == run("stores", "full")[0] == 0
        until(lambda: cache.switches().effective == {}, "obeying")
        assert run()[1].startswith("nothing is switched: everything is cached as its policy says (since 20")


def test_the_command_says_what_can_not_be_switched(run: Run) -> None:
    """With the exit code of misuse."""
    assert run("store", "off")[::2] == (
        2,
        'cachesync switch: "store" is nothing to switch: "all", "local", "redis", "stores"; write "stores"\n',
    )
    assert run("stores", "none")[0] == run("stores")[0] == 2


def test_the_command_takes_back_what_is_switched_of_a_policy_that_has_gone(run: Run, every_server: Server, namespace: str) -> None:
    """The file has another name for it by now."""
    with Cache(policies=[Policy(name="shops", match="*", ttl="10m")], namespace=namespace, redis=every_server.url) as cache:
        cache.switch("shops", "off")
    assert run("shop", "full")[0] == 2
    assert run("shops", "none")[0] == 2
    assert run("shops", "full")[::2] == (0, "")
    assert run()[1].startswith("nothing is switched")
    assert run("shops", "full")[0] == 2


def test_the_command_says_when_redis_does_not_answer(run: Run, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was switched for certain, and to say it again does no harm."""
    monkeypatch.setenv("CACHESYNC_REDIS_URL", proxy.url)
    proxy.refuse()
    code, out, errors = run("all", "off", "--timeout", "300ms")
    assert (code, out) == (1, "") and "could not be asked within 300ms" in errors and "say it again" in errors
    code, out, errors = run("--timeout", "300ms", "--json")
    assert code == 1 and json.loads(out)["ok"] is False
    assert "nothing" not in out


# --- in Redis ---------------------------------------------------------------------------------------------------------------------


def test_the_newest_counts_whoever_says_it(every_server: Server, namespace: str) -> None:
    """Versions only grow; what was lost is put back unless something newer stands there; what can not be read counts as lost."""
    layer = RedisShared(every_server.url, namespace=namespace)
    meta = Names.of(namespace).meta.decode()
    with every_server.client() as client:
        first: Any = layer.sync.perform(Throw((("all", "ttl"), ("redis", "off"))))
        assert first.switched == (("all", "ttl"), ("redis", "off"))
        second: Any = layer.sync.perform(Throw((("all", "full"),)))
        assert second.switched == (("redis", "off"),) and second.version > first.version
        assert layer.sync.perform(Throw((), first)) == second
        for nonsense in ("", "x", "{}", '{"v":"1","s":{}}', '{"v":1,"s":3}'):
            client.hset(meta, "s", nonsense)
            assert _told(layer) == NOTHING_THROWN
            assert layer.sync.perform(Throw((), first)) == first
            assert _told(layer) == first
        assert client.hdel(meta, "s") == 1
        assert _told(layer) == NOTHING_THROWN
        third: Any = layer.sync.perform(Throw((("policy.é\N{SNOWMAN}", "off"),)))
        assert third.switched == (("policy.é\N{SNOWMAN}", "off"),)
    layer.close()


def _told(layer: RedisShared) -> Thrown | None:
    beat, joined = layer.sync.perform(Confirm()), layer.sync.perform(Snapshot())
    assert isinstance(beat, Beat) and isinstance(joined, Joined) and beat.thrown == joined.thrown
    return beat.thrown


def test_a_switch_outlives_the_epoch(every_server: Server, namespace: str) -> None:
    """A log that has to be begun anew loses its numbers, and not what somebody has switched."""
    layer = RedisShared(every_server.url, namespace=namespace)
    before: Any = layer.sync.perform(Snapshot())
    thrown = layer.sync.perform(Throw((("all", "off"),)))
    with every_server.client() as client:
        client.hdel(Names.of(namespace).meta.decode(), "e", "n")
    after: Any = layer.sync.perform(Snapshot())
    assert after.head.epoch != before.head.epoch and after.thrown == thrown
    layer.close()


def test_a_full_server_takes_a_switch(fresh_server: Server, namespace: str) -> None:
    """It may be what helps."""
    layer = RedisShared(fresh_server.url, namespace=namespace)
    layer.sync.perform(Snapshot())
    with fresh_server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        thrown = layer.sync.perform(Throw((("all", "off"),)))
        assert isinstance(thrown, Thrown) and thrown.switched == (("all", "off"),)
    layer.close()


# --- real processes ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workers(server: Server) -> Iterator[tuple[Worker, Worker]]:
    with Worker(server.url) as one, Worker(server.url) as other:
        yield one, other


def obeys(worker: Worker, own: str, colour: Colour, switched: dict[str, str]) -> float:
    """Wait until exactly this is switched in a process. Returns how many seconds that took."""
    began = time.monotonic()
    until(lambda: worker.do("switched", own, colour) == switched, f"obeying {switched}")
    return time.monotonic() - began


def test_a_switch_reaches_every_process_at_once(workers: tuple[Worker, Worker], namespace: str) -> None:
    """By what is published: the bound of this test is above a second only because the machine may be busy."""
    one, other = workers
    for own, colour in each_colour(namespace):
        assert [worker.do("read", own, colour, 1) for worker in workers] == [1, 1]
        for mode in MODES:
            one.do("switch", own, colour, "all", mode)
            expected: dict[str, str] = {} if mode == "full" else {"all": mode}
            assert obeys(other, own, colour, expected) < LONG
            before = other.do("computations", own, colour)
            other.do("read", own, colour, 1)
            assert other.do("computations", own, colour) - before == (mode in {"off", "headers"})


def test_a_switch_is_obeyed_by_a_process_that_starts_later(server: Server, namespace: str) -> None:
    """Also when all that knew of it are gone."""
    for own, colour in each_colour(namespace):
        with Worker(server.url) as first:
            assert first.do("read", own, colour, 1) == 1
            first.do("switch", own, colour, "items", "off")
            first.kill()
        with Worker(server.url) as second:
            second.do("version", own, colour, 2)
            assert second.do("read", own, colour, 1) == 2  # the very first call: what is in Redis is not served
            obeys(second, own, colour, {"policy.items": "off"})
            second.do("version", own, colour, 3)
            assert second.do("read", own, colour, 1) == 3
            second.do("switch", own, colour, "items", "full")


def test_a_process_that_was_cut_off_obeys_when_it_is_back(server: Server, namespace: str) -> None:
    """It has heard nothing of it: where the log ends tells what is switched, too."""
    with Proxy("127.0.0.1", server.port) as network, Worker(server.url) as near, Worker(network.url, budget=0.5, max_lag=2.0) as far:
        for own, colour in each_colour(namespace):
            assert [worker.do("read", own, colour, 1) for worker in (near, far)] == [1, 1]
            network.refuse()
            near.do("switch", own, colour, "all", "off")
            assert far.do("switched", own, colour) == {}
            network.admit()
            obeys(far, own, colour, {"all": "off"})
            near.do("switch", own, colour, "all", "full")
            obeys(far, own, colour, {})


def test_a_server_that_has_lost_it_is_told_again(fresh_server: Server, namespace: str) -> None:
    """By any process that runs: so another one that starts obeys, although everything was flushed."""
    with fresh_server.client() as client:
        for own, colour in each_colour(namespace):
            with Worker(fresh_server.url) as knowing:
                knowing.do("read", own, colour, 1)
                knowing.do("switch", own, colour, "redis", "off")
                client.flushall()
                until(partial(client.hget, Names.of(own).meta.decode(), "s"), "telling it again")
                assert knowing.do("switched", own, colour) == {"redis": "off"}
            with Worker(fresh_server.url) as starting:
                starting.do("read", own, colour, 1)
                obeys(starting, own, colour, {"redis": "off"})


def test_callers_of_a_real_server_are_switched_in_both_colours(server: Server, namespace: str, colour: Colour, loop: LoopThread) -> None:
    """From ``full`` to each mode and back, with nothing left behind that should not be served."""
    callers = Callers(server.url, namespace, colour, loop)
    one, other = callers.new(), callers.new()
    for version, mode in enumerate(MODES):
        assert one.get_or_compute("a", partial(int, version)) == version
        assert other.get_or_compute("a", lambda: -1) == version
        one.switch("all", mode)
        other.obeys(**({} if mode == "full" else {"all": mode}))
        callers.apply(one.drop("a"))
        one.switch("all", "full")
        other.obeys()
        assert other.get("a") is None and one.get("a") is None
    callers.close()


# --- ramps ------------------------------------------------------------------------------------------------------------------------


def test_where_a_key_stands_is_the_same_everywhere() -> None:
    """In every process, release and language: XXH3, 64 bits, seed 0, over 2**64."""
    assert [place_of(key) for key in ("", "stores:JKT", "stores:\udc80")] == [
        0x2D06800538D394C2 / 2**64,
        0x9B15A2939DDEB2B4 / 2**64,
        0x0BAFD4E24E36D829 / 2**64,
    ]


def test_a_ramp_takes_its_share_and_what_is_in_stays_in() -> None:
    """A key that is cached at 0.1 is cached at 0.2."""
    places = [place_of(f"stores:{number}") for number in range(10_000)]
    for share in (0.01, 0.1, 0.2, 0.5):
        assert abs(sum(place < share for place in places) / len(places) - share) < 0.02
    assert all(0 <= place < 1 for place in places)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_ramp_caches_only_its_share(colour: Colour, loop: LoopThread, share: float) -> None:
    """The function is called for the other keys. They can be set and invalidated, and two processes agree on which they are."""
    shared = MemoryShared()
    ramped = Policy(name="all", match="*", ttl="1h", ramp=share)
    callers = [Caller(Cache(policies=[policy], shared=shared), colour, loop) for policy in (ramped, ramped)]
    keys = [f"item:{number}" for number in range(40)]
    computed: list[str] = []

    def compute(key: str) -> int:
        computed.append(key)
        return 1

    for caller in callers:
        for key in keys:
            assert caller.get_or_compute(key, partial(compute, key)) == 1
    assert {key: computed.count(key) for key in keys} == {key: 1 if place_of(key) < share else 2 for key in keys}
    one, other = callers
    for key in keys[:4]:
        until(partial(other.has_applied, one.put(key, 2)), "hearing")
        assert other.get(key) == (2 if place_of(key) < share else None)
        until(partial(other.has_applied, one.drop(key)), "hearing")
        assert other.get(key) is None
    for caller in callers:
        caller.close()


def test_what_a_larger_ramp_left_behind_is_right_when_it_grows_again(colour: Colour, loop: LoopThread) -> None:
    """A process with a smaller ramp that sets a key it does not cache ends the copies of one that does."""
    shared = MemoryShared()
    whole, none = (
        Caller(Cache(policies=[Policy(name="all", match="*", ttl="1h", ramp=ramp)], shared=shared), colour, loop) for ramp in (1.0, 0.0)
    )
    assert whole.get_or_compute("a", lambda: 1) == 1
    stamp = none.put("a", 2)
    until(lambda: whole.has_applied(stamp), "hearing")
    assert whole.get_or_compute("a", lambda: 3) == 3
    whole.close()
    none.close()
