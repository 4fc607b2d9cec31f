"""Soft invalidation: the old value may be served stale, flagged, while one refresh runs; and sweeping, which leaves such values alone.

Two caches around a real server stand for two processes; where time matters it is a clock of the test's, and the layer is in memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from cachesync import Cache, LayerError, MemoryShared, Policy, RedisShared, Settings
from cachesync.coordination.drivers import run
from cachesync.coordination.worlds import LEFT_ALONE, ThreadWorld
from cachesync.core.flows import Ask
from cachesync.core.settings import CoordinationSettings
from cachesync.core.steps import Flow, Heads, Scan, Step
from cachesync.core.sweeping import ENTRIES_OF_A_PAGE, Swept
from cachesync.testing import FakeClock
from support.nodes import COLOURS, KINDS, LONG, Caller, Callers, Colour, HoldingShared, LoopThread, Node, Origin, operations_of, until, use
from support.proxy import Proxy
from support.servers import Server

WINDOW = 100.0
STALE = Policy(name="all", match="*", ttl="1h", stale_while_revalidate="1h")
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


class Pair:
    """Two nodes around one layer in memory whose clock is the test's."""

    def __init__(self, colour: Colour, loop: LoopThread, *, stale: float = WINDOW, ttl: float = 3600.0) -> None:
        self.clock = FakeClock()
        self.origin = Origin()
        self.shared = MemoryShared(self.clock.monotonic)
        self.nodes = [Node(self.shared, self.origin, colour=colour, loop=loop, clock=self.clock, stale=stale, ttl=ttl) for _ in range(2)]

    def hear(self) -> None:
        for node in self.nodes:
            node.read_log()

    def close(self) -> None:
        for node in self.nodes:
            node.close()


@pytest.fixture
def pair(colour: Colour, loop: LoopThread) -> Iterator[Pair]:
    made = Pair(colour, loop)
    yield made
    made.close()


# --- what is served ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("who", [0, 1], ids=["itself", "another"])
def test_after_a_soft_invalidation_the_old_value_is_served_at_once_and_refreshed_once(pair: Pair, kind: str, who: int) -> None:
    """By whichever way it was named. Whoever asks meanwhile has the old value, flagged; afterwards everybody has the new one."""
    node, other = pair.nodes
    assert [one.read() for one in pair.nodes * 2] == [1] * 4
    pair.origin.version = 2
    pair.nodes[who].invalidate(kind, soft=True)
    pair.hear()
    gate = pair.origin.hold()
    assert node.read() == 1
    gate.wait()
    entry = node.peek("item:1")
    assert entry is not None
    assert (entry.value, entry.is_stale) == (1, True)
    assert [one.read() for one in pair.nodes * 2] == [1] * 4
    gate.open()
    until(lambda: node.valid() == 2, "refreshing")
    until(lambda: other.read() == 2, "finding what was refreshed")
    assert pair.origin.computations == 2
    entry = node.peek("item:1")
    assert entry is not None
    assert not entry.is_stale


@pytest.mark.parametrize("kind", KINDS)
def test_the_window_is_counted_from_the_invalidation(pair: Pair, kind: str) -> None:
    """Not from when the value would have expired: then it is a miss, and what was served stale is gone."""
    node, other = pair.nodes
    assert [one.read() for one in pair.nodes * 2] == [1] * 4
    pair.hear()
    other.invalidate(kind, soft=True)
    pair.hear()
    pair.origin.version = 2
    pair.clock.advance(WINDOW - 1)
    pair.hear()
    assert node.valid() == 1
    pair.clock.advance(2)
    pair.hear()
    assert node.valid() is None
    assert node.read() == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("who", [0, 1], ids=["the process that made it", "another that had heard it"])
def test_a_failover_that_loses_a_soft_invalidation_lengthens_no_window(pair: Pair, kind: str, who: int) -> None:
    """Whoever had applied it goes on counting from then, while it waits to be announced again and when it was."""
    node, other = pair.nodes
    assert [one.read() for one in pair.nodes * 2] == [1] * 4
    pair.hear()
    pair.nodes[who].invalidate(kind, soft=True)
    pair.hear()
    pair.origin.version = 2
    pair.clock.advance(WINDOW - 2)
    pair.shared.fail_over(lost=1)
    node.read_log()
    assert node.told("possible_loss")
    assert node.valid() == 1, "the entry has outlived the failover, and its window is not over"
    pair.clock.advance(1)
    node.read_log()
    assert node.cache.stats().log.pending == 0
    assert node.valid() == 1
    other.read_log()
    other.read_log()
    pair.clock.advance(2)
    pair.hear()
    assert (node.valid(), other.valid()) == (None, None)
    assert (node.read(), other.read()) == (2, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_window_a_soft_invalidation_leaves_nothing(colour: Colour, loop: LoopThread, kind: str) -> None:
    """There is nothing that the policy would allow to be served."""
    pair = Pair(colour, loop, stale=0.0)
    node, other = pair.nodes
    assert [one.read() for one in pair.nodes * 2] == [1] * 4
    pair.origin.version = 2
    other.invalidate(kind, soft=True)
    pair.hear()
    assert node.valid() is None
    assert (node.read(), other.read()) == (2, 2)
    pair.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", ["soft", "hard"])
def test_a_hard_invalidation_beside_a_soft_one_leaves_nothing(pair: Pair, kind: str, first: str) -> None:
    """Whichever came first."""
    node, other = pair.nodes
    assert [one.read() for one in pair.nodes * 2] == [1] * 4
    pair.origin.version = 2
    other.invalidate(kind, soft=first == "soft")
    other.invalidate("tag of the policy", soft=first != "soft")
    pair.hear()
    assert (node.valid(), other.valid()) == (None, None)
    assert (node.read(), other.read()) == (2, 2)


def test_a_refresh_that_fails_leaves_the_stale_value_for_its_window(pair: Pair) -> None:
    """Nobody sees the error; an event tells of it, and whoever asks next begins another refresh."""
    node = pair.nodes[0]
    assert (node.read(), node.read()) == (1, 1)
    pair.origin.version = 2
    pair.origin.fail(LookupError("not today"))
    node.invalidate("key as text", soft=True)
    assert node.read() == 1
    until(lambda: node.told("refresh_failed"), "failing")
    assert node.valid() == 1
    assert node.read() == 1
    until(lambda: node.valid() == 2, "refreshing")
    assert pair.origin.computations == 3


def test_what_has_expired_by_time_is_soft_by_nature(colour: Colour, loop: LoopThread) -> None:
    """It is served stale within the window, and not beyond, with nobody invalidating anything."""
    pair = Pair(colour, loop, ttl=10.0)
    node = pair.nodes[0]
    assert (node.read(), node.read()) == (1, 1)
    pair.origin.version = 2
    pair.clock.advance(11)
    node.read_log()
    gate = pair.origin.hold()
    assert node.read() == 1
    gate.wait()
    pair.clock.advance(WINDOW)
    node.read_log()
    assert node.valid() is None
    gate.open()
    assert node.read() == 2
    pair.close()


def test_what_is_made_of_something_stale_is_not_for_those_who_come_after_its_window(pair: Pair) -> None:
    """It is computed while its part may be served stale, and handed to whoever asked then. Who comes later gets a part of its own."""
    node = pair.nodes[0]
    item, origin = node.item, pair.origin
    composing = Origin()

    @node.cached("page:composed:{number}")
    async def page(number: int) -> list[int]:
        part = await use(item, number)
        await use(composing.aread if node.colour == "async def" else composing.read)
        return [part]

    assert (node.read(), node.read()) == (1, 1)
    node.invalidate("key as text", soft=True)
    origin.version = 2
    refreshing, gate = origin.hold(), composing.hold()
    early = node.start(page, 1)
    gate.wait()
    pair.clock.advance(WINDOW + 1)
    node.read_log()
    late = node.start(page, 1)
    until(lambda: node.cache.stats().total.joined, "joining")
    gate.open()
    refreshing.open()
    assert (early.result(LONG), late.result(LONG)) == ([1], [2])


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("joins", [False, True], ids=["never joined", "joins meanwhile"])
def test_before_the_log_was_heard_an_own_invalidation_concerns_those_who_join_later(
    colour: Colour, loop: LoopThread, soft: bool, joins: bool
) -> None:
    """Nobody knew what the page would be made of, so its flight went on; and it has no stamp. Without a window soft is as good as hard."""
    pair = Pair(colour, loop, stale=0.0)
    node, gate = pair.nodes[0], pair.origin.hold()
    pair.shared.down = True
    early = node.start(node.page, 1)
    gate.wait()
    pair.origin.version = 2
    assert node.invalidate("tag of the policy", soft=soft).pending
    late = node.start(node.page, 1)
    until(lambda: node.cache.stats().total.joined, "joining")
    if joins:
        pair.shared.down = False
        node.read_log()

        def is_announced() -> bool:
            node.read_log()
            return not node.cache.stats().log.pending

        until(is_announced, "announcing")
    gate.open()
    assert (early.result(LONG), late.result(LONG)) == ([1, 1], [1, 2])
    pair.close()


def test_what_was_softly_invalidated_while_it_was_computed_is_stale_for_those_who_join_later(pair: Pair) -> None:
    """Nobody knew while it was computed what it is made of. What they make of it is not stored, and for a stamp it is computed anew."""
    node = pair.nodes[0]
    item, origin = node.item, pair.origin
    composing = Origin()

    @node.cached("page:composed:{number}")
    async def page(number: int) -> list[int]:
        part = await use(item, number)
        await use(composing.aread if node.colour == "async def" else composing.read)
        return [part]

    @node.cached("page:outer:{number}")
    async def outer(number: int) -> list[list[int]]:
        return [await use(page, number)]

    assert node.read() == 1
    gate = composing.hold()
    early = node.start(page, 1)
    gate.wait()
    stamp = node.invalidate("key as text", soft=True)
    origin.version = 2
    late = node.start(outer, 1)
    until(lambda: node.cache.stats().total.joined == 1, "joining")
    asking = node.start(page.at_least, stamp, 1)
    until(lambda: node.cache.stats().total.joined == 2, "joining")
    gate.open()
    assert (early.result(LONG), late.result(LONG), asking.result(LONG)) == ([1], [[1]], [2])
    assert node.get("page:outer:1") is None
    assert node.do(outer, 1) == [[2]]


def test_a_stale_window_is_no_leave_to_serve_while_cut_off(pair: Pair) -> None:
    """That is another setting (``on_disconnect``): without it, a process that hears nothing computes."""
    node = pair.nodes[0]
    assert (node.read(), node.read()) == (1, 1)
    pair.origin.version = 2
    with pair.shared.outage():
        pair.clock.advance(61)
        assert node.valid() is None
        assert node.read() == 2


def test_the_window_is_counted_from_when_the_log_was_last_heard_without_the_invalidation(pair: Pair) -> None:
    """Nobody tells when it was made, and no two clocks are compared: it came after the last time that the log was heard to its end."""
    node, other = pair.nodes
    assert (node.read(), node.read()) == (1, 1)
    node.read_log()
    other.invalidate("key as text", soft=True)
    pair.clock.advance(WINDOW / 2)
    node.read_log()
    assert node.valid() == 1
    pair.clock.advance(WINDOW / 2 + 1)
    node.read_log()
    assert node.valid() is None


def test_one_refresh_of_a_key_is_under_way_in_a_process(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are served the stale value meanwhile: they cost no thread and no task."""
    node = pair.nodes[0]
    assert (node.read(), node.read()) == (1, 1)
    pair.origin.version = 2
    node.invalidate("key as text", soft=True)
    refresher = operations_of(node.cache).refresher
    begun: list[str] = []
    renewing = refresher._renewing  # pyright: ignore[reportPrivateUsage] - what begins a refresh has no public name

    def counted(ask: Ask) -> Flow:
        begun.append(ask.key)
        return renewing(ask)

    monkeypatch.setattr(refresher, "_renewing", counted)
    gate = pair.origin.hold()
    assert [node.read() for _ in range(10)] == [1] * 10
    gate.wait()
    gate.open()
    until(lambda: node.valid() == 2, "refreshing")
    assert begun == ["item:1"]


# --- on a real server -------------------------------------------------------------------------------------------------------------


def test_a_soft_invalidation_reaches_other_processes_and_one_of_them_refreshes(callers: Callers) -> None:
    """The entry stays where it is, which is what is served; the refresh is announced by nobody: its entry replaces the old one."""
    origin = Origin()
    readers = [Reader(callers.new(STALE), origin) for _ in range(2)]
    assert [one.read() for one in readers * 2] == [1] * 4
    origin.version = 2
    stamp = callers.new(STALE).drop("item:1", soft=True)
    callers.apply(stamp)
    gate = origin.hold()
    assert readers[1].read() == 1
    gate.wait()
    assert [one.read() for one in readers * 2] == [1] * 4
    gate.open()
    until(lambda: [one.read() for one in readers] == [2, 2], "refreshing")
    assert origin.computations == 2


class Reader:
    """``item:1`` of one process."""

    def __init__(self, caller: Caller, origin: Origin) -> None:
        self.caller = caller

        @caller.cached("item:{number}", tags=["items"])
        async def item(number: int) -> int:
            return await origin.aread() if caller.colour == "async def" else origin.read()

        self.item: Any = item

    def read(self) -> int:
        value: int = self.caller.do(self.item, 1)
        return value


# --- sweeping ---------------------------------------------------------------------------------------------------------------------


def swept(caller: Caller, told: list[Swept] | None = None) -> Swept:
    ask = caller.cache.sweep if caller.colour == "def" else caller.cache.asweep
    found: Swept = caller.do(ask, None if told is None else told.append)
    return found


@pytest.mark.parametrize("kind", ["prefix", "glob", "tag", "part", "everything"])
def test_a_sweep_deletes_exactly_what_is_dead_and_counts_it(callers: Callers, server: Server, kind: str) -> None:
    """Whoever sweeps need not have heard of the invalidation. What is alive stays, and what may be served stale, too."""
    a = callers.new(STALE)

    @a.cached("item:{number}", tags=["tag:{number}"])
    async def item(number: int) -> int:
        a.cache.depends_on(f"part:{number % 2}")
        return number

    numbers = range(2 * ENTRIES_OF_A_PAGE + 100)
    a.do(item.many, [(number,) for number in numbers])
    sweeper = callers.new(STALE, listen=False)
    sweeper.stamp()
    dead = {
        "prefix": {number for number in numbers if str(number).startswith("1")},
        "glob": {number for number in numbers if str(number).endswith("1")},
        "tag": {7},
        "part": set(numbers[1::2]),
        "everything": set(numbers),
    }[kind]
    patterns = {"prefix": "item:1*", "glob": "*tem:*1", "part": "part:1", "everything": "*"}
    a.drop("item:2", soft=True)
    a.drop(*([patterns[kind]] if kind in patterns else []), tags=[] if kind in patterns else ["tag:7"])
    told: list[Swept] = []
    assert swept(sweeper, told) == Swept(len(numbers), len(dead), 0)
    assert told[-1] == Swept(len(numbers), len(dead), 0)
    assert len(told) >= 3
    assert all(one.examined <= two.examined and one.deleted <= two.deleted for one, two in itertools.pairwise(told))
    entries = [callers.names.entry(f"item:{number}") for number in numbers]
    assert {number for number, there in zip(numbers, server.client().mget(entries), strict=True) if there is None} == dead
    assert swept(sweeper) == Swept(len(numbers) - len(dead), 0, 0)


def test_a_sweep_deletes_what_is_of_an_epoch_that_is_over(callers: Callers, server: Server) -> None:
    """The log was lost: no entry from before it can ever be served again."""
    a = callers.new()
    for number in range(10):
        a.put(f"item:{number}", number)
    server.client().unlink(callers.names.meta)
    a.drop("other:1")
    a.put("item:3", 3)
    assert swept(callers.new()) == Swept(10, 9, 0)
    assert a.get("item:3") == 3


def test_what_comes_while_a_sweep_judges_is_not_deleted(callers: Callers, server: Server) -> None:
    """An entry is deleted only if it is still the one that was judged."""
    a = callers.new()
    a.put("item:1", 1)
    a.put("item:2", 2)
    a.drop("item:*")
    holding = HoldingShared(RedisShared(server.url, namespace=callers.namespace))
    with Cache(Settings(coordination=CoordinationSettings(budget=LONG)), policies=[STALE], shared=holding, listen=False) as cache:
        sweeper = Caller(cache, callers.colour, callers.loop)
        gate = holding.hold(Heads)
        sweeping = sweeper.start(partial(swept, sweeper))
        gate.wait()
        a.put("item:1", 3)
        gate.open()
        assert sweeping.result(LONG) == Swept(2, 1, 0)
        sweeper.close()
    assert (a.get("item:1"), callers.new().get("item:1")) == (3, 3)


def test_a_sweep_that_can_not_ask_raises(callers: Callers, proxy: Proxy) -> None:
    """Nothing is known to be dead where the log can not be read."""
    a = callers.new(url=proxy.url, coordination=QUICK)
    a.put("item:1", 1)
    a.drop(tags=["some"])
    proxy.refuse()
    proxy.cut()
    with pytest.raises(LayerError):
        swept(a)


def test_what_a_sweep_raises_is_nobody_elses() -> None:
    """A layer that is left alone answers everybody with one reply. Raising what it holds would make its traceback longer each time."""
    with Cache(policies=[STALE], shared=MemoryShared(), listen=False) as cache:
        operations = operations_of(cache)
        world = ThreadWorld(operations.engine)

        def perform(step: Step) -> Any:
            return LEFT_ALONE if isinstance(step, Scan) else world.perform(step)

        for _ in range(3):
            with pytest.raises(LayerError, match="left alone") as caught:
                run(operations.sweeping(None), perform)
            assert caught.value is not LEFT_ALONE.error
            assert LEFT_ALONE.error.__traceback__ is None


def test_without_a_shared_layer_there_is_nothing_to_sweep(colour: Colour, loop: LoopThread) -> None:
    """All of it is in this process."""
    with Cache(policies=[STALE]) as cache:
        caller = Caller(cache, colour, loop)
        caller.put("item:1", 1)
        caller.drop("item:1")
        assert swept(caller) == Swept()
