"""The layer that does harm on purpose: what it does, that a seed repeats it, and that a cache answers rightly whatever it does."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any, cast

import pytest
from cachetools import LRUCache

from cachesync import Cache, CachetoolsMemory, Event, MemoryShared, Policy, RedisShared, Settings
from cachesync.coordination import log_reader
from cachesync.core.records import TAG, Record, Targets
from cachesync.core.settings import CoordinationSettings
from cachesync.core.stamps import NOWHERE, Stamp
from cachesync.core.steps import (
    Announce,
    Announced,
    Beat,
    Confirm,
    Done,
    Extend,
    Failed,
    Fetch,
    Fetched,
    Hear,
    Heard,
    Lease,
    Leased,
    Reply,
    Seize,
    SharedStep,
    Store,
    Woken,
)
from cachesync.errors import LayerError
from cachesync.layers import breaker
from cachesync.protocols import Shared
from cachesync.testing import ChaosLayer, FakeClock, Listening, SharedLayerContract
from cachesync.testing.chaos import TO_STEPS, Fault
from support.nodes import COLOURS, LONG, Caller, Colour, LoopThread, read_log, until
from support.servers import Server

SOON = 0.1
POLICIES = [Policy(name="items", match="item:*", ttl="1h", tags=["items"])]


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    with LoopThread() as loop:
        yield loop


@pytest.fixture(params=COLOURS)
def colour(request: pytest.FixtureRequest) -> Colour:
    chosen: Colour = request.param
    return chosen


# --- without harm -----------------------------------------------------------------------------------------------------------------


class TestCalm(SharedLayerContract):
    """A layer that does no harm is the layer that it stands around."""

    clock: FakeClock

    def make_shared(self) -> Shared:
        self.clock = FakeClock()
        return ChaosLayer(MemoryShared(self.clock.monotonic), clock=self.clock)

    @staticmethod
    def inside(shared: Shared) -> MemoryShared:
        return cast("MemoryShared", cast("ChaosLayer", shared).inner)

    def lose_everything(self, shared: Shared) -> None:
        self.inside(shared).flush()

    def cut_off(self, shared: Shared) -> AbstractContextManager[None]:
        return self.inside(shared).outage()

    def pass_time(self, shared: Shared, seconds: float) -> None:
        self.clock.advance(seconds)


class TestCalmAsync(TestCalm):
    colour = "async def"


class TestCalmRedis(SharedLayerContract):
    """Around a server in another process, too: steps that are asked at once may travel together."""

    colour = "async def"
    server: Server
    namespace: str

    @pytest.fixture(autouse=True)
    def _connect(self, server: Server, namespace: str) -> None:
        self.server, self.namespace = server, namespace

    def make_shared(self) -> Shared:
        return ChaosLayer(RedisShared(self.server.url, namespace=self.namespace))

    def lose_everything(self, shared: Shared) -> None:
        client = self.server.client()
        for name in cast("Iterator[bytes]", client.scan_iter(match=f"*{self.namespace}*", count=1_000)):
            client.delete(name)

    @contextmanager
    def cut_off(self, shared: Shared) -> Generator[None, None, None]:
        self.server.client().client_kill_filter(_type="pubsub")
        yield


# --- what happens to a step -------------------------------------------------------------------------------------------------------


def perform(layer: Shared, step: SharedStep, colour: Colour, loop: LoopThread) -> Reply:
    async def performing() -> Reply:
        return await layer.of_loop().perform(step)

    return layer.sync.perform(step) if colour == "def" else loop.run(performing())


def lease_of(memory: MemoryShared, key: str = "a") -> bool:
    """Whether somebody holds the lease of a key."""
    reply = memory.perform(Extend(key, "mine", 60_000))
    assert isinstance(reply, Done)
    return reply.done


LEASE = Lease("a", "mine", NOWHERE, 60_000, None)


@pytest.mark.parametrize(("fault", "is_done"), [("fail", False), ("hang", False), ("lose", True)])
def test_a_step_that_meets_a_fault_has_failed(fault: Fault, is_done: bool, colour: Colour, loop: LoopThread) -> None:
    """A failure is a reply that says what was asked. Only the step whose reply was lost is done."""
    memory, clock = MemoryShared(), FakeClock()
    chaos = ChaosLayer(memory, seed=1, clock=clock)
    chaos.inject(fault, Lease)
    reply = perform(chaos, LEASE._replace(deadline=clock.monotonic() + 5.0), colour, loop)
    assert isinstance(reply, Failed)
    assert isinstance(reply.error, LayerError)
    assert "chaos, lease: " in str(reply.error)
    assert lease_of(memory) is is_done
    assert clock.monotonic() == (1_005.0 if fault == "hang" else 1_000.0)
    assert isinstance(perform(chaos, LEASE, colour, loop), Leased)
    assert [str(one) for one in chaos.injected] == [f"{fault} Lease 1 (a)"]


def test_a_step_may_throw(colour: Colour, loop: LoopThread) -> None:
    """Which no layer may, but one with a mistake does."""
    memory = MemoryShared()
    chaos = ChaosLayer(memory, seed=1, throw={Lease: 1.0})
    with pytest.raises(RuntimeError, match="chaos: lease was to throw"):
        perform(chaos, LEASE, colour, loop)
    assert not lease_of(memory)
    assert isinstance(perform(chaos, Fetch(("a",)), colour, loop), Fetched)


def test_a_step_that_is_done_twice_is_answered_by_the_second_reply(colour: Colour, loop: LoopThread) -> None:
    """As after a reconnection that nobody was told of: a fill that ended its lease finds it gone."""
    memory = MemoryShared()
    chaos = ChaosLayer(memory, seed=1)
    for kind in (Store, Announce):
        chaos.inject("duplicate", kind)
    announced = perform(chaos, Announce((Targets(TAG, ("t",)),), ("nonce",), "me", ()), colour, loop)
    assert isinstance(announced, Announced)
    assert announced.last.number == 2
    perform(chaos, LEASE, colour, loop)
    assert perform(chaos, Store("a", "mine", b"blob", 60_000), colour, loop) == Done(done=False)
    fetched = perform(chaos, Fetch(("a",)), colour, loop)
    assert isinstance(fetched, Fetched)
    assert fetched.blobs == (b"blob",)


def test_a_delay_takes_its_time_and_no_longer_than_the_deadline(colour: Colour, loop: LoopThread) -> None:
    """On a clock that is moved by hand nobody waits for it."""
    memory, clock = MemoryShared(), FakeClock()
    chaos = ChaosLayer(memory, seed=1, clock=clock, seconds=(1.0, 2.0))
    chaos.inject("delay", Fetch, seconds=3.0)
    assert isinstance(perform(chaos, Fetch(("a",), clock.monotonic() + 5.0), colour, loop), Fetched)
    assert clock.monotonic() == 1_003.0
    chaos.inject("delay", Fetch, seconds=3.0)
    assert isinstance(perform(chaos, Fetch(("a",), clock.monotonic() + 2.0), colour, loop), Failed)
    assert clock.monotonic() == 1_005.0
    chaos.inject("delay", Fetch)
    perform(chaos, Fetch(("a",)), colour, loop)
    assert 1_006.0 <= clock.monotonic() <= 1_007.0


def test_a_delay_may_come_after_the_step_was_done(colour: Colour, loop: LoopThread) -> None:
    """On its way there the step is too late for its deadline, on its way back only its reply is: of many, some are done."""
    memory, clock = MemoryShared(), FakeClock()
    chaos = ChaosLayer(memory, seed=1, clock=clock, delay={Lease: 1.0}, seconds=(10.0, 10.0))
    done: list[bool] = []
    for number in range(50):
        key = f"key:{number}"
        reply = perform(chaos, Lease(key, "mine", NOWHERE, 60_000, None, None, clock.monotonic() + 1.0), colour, loop)
        assert isinstance(reply, Failed)
        done.append(lease_of(memory, key))
    assert 10 < sum(done) < 40


def test_a_step_in_real_time_hangs_until_its_deadline(colour: Colour, loop: LoopThread) -> None:
    """And a step without a deadline fails at once: nobody could wait for it."""
    chaos = ChaosLayer(MemoryShared(), seed=1, hang={Fetch: 1.0})
    began = time.monotonic()
    assert isinstance(perform(chaos, Fetch(("a",), began + 0.1), colour, loop), Failed)
    assert time.monotonic() >= began + 0.1
    assert isinstance(perform(chaos, Fetch(("a",)), colour, loop), Failed)
    assert isinstance(perform(chaos, Fetch(("a",), began), colour, loop), Failed), "its time is over already"


def test_a_caller_that_gives_up_leaves_a_step_that_hangs() -> None:
    """A task can be cancelled while it waits."""

    async def main() -> None:
        chaos = ChaosLayer(MemoryShared(), seed=1, hang={Fetch: 1.0})
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(chaos.of_loop().perform(Fetch(("a",), time.monotonic() + 600.0)), 0.01)

    asyncio.run(main())


# --- which step it is -------------------------------------------------------------------------------------------------------------


def kinds_of(number: int) -> SharedStep:
    return Fetch((f"key:{number}",)) if number % 2 else Confirm()


def test_a_seed_repeats_what_happens_to_the_nth_of_a_kind(colour: Colour, loop: LoopThread) -> None:
    """Whatever else happens in between, in whatever order: a run can be repeated though its threads are not in step."""

    def play(seed: int, order: list[int]) -> dict[str, list[str]]:
        chaos = ChaosLayer(MemoryShared(), seed=seed, fail=0.1, lose=0.1, duplicate=0.1)
        for number in order:
            perform(chaos, kinds_of(number), colour, loop)
        found: dict[str, list[str]] = {}
        for one in chaos.injected:
            found.setdefault(one.kind, []).append(f"{one.fault} {one.nth}")
        return found

    order = list(range(200))
    assert play(7, order) == play(7, sorted(order, key=lambda number: number % 2))
    assert play(7, order) != play(8, order)
    assert set(play(7, order)) == {"Fetch", "Confirm"}


def test_a_seed_that_was_drawn_is_told() -> None:
    """So that a run that failed can be repeated. The text says what was asked for, and what has happened."""
    chaos = ChaosLayer(MemoryShared(), fail={Fetch: 0.5}, hang=0.25)
    assert 0 <= chaos.seed < 2**32
    assert chaos.seed != ChaosLayer(MemoryShared()).seed
    assert repr(chaos) == f"<ChaosLayer(MemoryShared, seed={chaos.seed}, fail={{Fetch: 0.5}}, hang=0.25): nothing>"
    chaos.inject("fail", Confirm)
    chaos.sync.perform(Confirm())
    assert repr(chaos).endswith(": fail Confirm: 1>")
    assert chaos.counts == {"fail Confirm": 1}


def test_rates_are_shares(colour: Colour, loop: LoopThread) -> None:
    """Of everything that a fault can happen to, or of the kinds that are named."""
    chaos = ChaosLayer(MemoryShared(), seed=3, fail=0.2, lose={Fetch: 0.3})
    for number in range(2_000):
        perform(chaos, kinds_of(number), colour, loop)
    counts = chaos.counts
    assert 150 < counts["fail Fetch"] < 250
    assert 150 < counts["fail Confirm"] < 250
    assert 240 < counts["lose Fetch"] < 360
    assert not counts["lose Confirm"]


def test_the_nth_from_now_on_meets_what_a_test_says() -> None:
    """Each kind counts for itself."""
    chaos = ChaosLayer(MemoryShared())

    def fails(step: SharedStep) -> bool:
        return isinstance(chaos.sync.perform(step), Failed)

    assert not fails(Fetch(()))
    chaos.inject("fail", Fetch, nth=3)
    assert [fails(kinds_of(number)) for number in range(8)] == [False] * 5 + [True, False, False]
    chaos.inject("fail", Fetch)
    chaos.inject("lose", Fetch, nth=2)
    assert [fails(Fetch(())) for _ in range(3)] == [True, True, False]
    assert [str(one) for one in chaos.injected] == ["fail Fetch 4 (key:5)", "fail Fetch 6", "lose Fetch 7"]


def test_nothing_happens_while_it_is_calm() -> None:
    """Nor is anything counted: what a test prepares is not part of its story."""
    chaos = ChaosLayer(MemoryShared(), fail=1.0)
    chaos.inject("lose", Fetch, nth=2)
    with chaos.calm():
        assert all(isinstance(chaos.sync.perform(Fetch(())), Fetched) for _ in range(5))
        with chaos.calm():
            pass
        assert isinstance(chaos.sync.perform(Fetch(())), Fetched)
    assert not chaos.injected
    for _ in range(2):
        chaos.sync.perform(Fetch(()))
    assert [one.fault for one in chaos.injected] == ["fail", "lose"]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"fail": 1.5}, "a rate is between 0 and 1, not 1.5"),
        ({"lose": {Fetch: -0.1}}, "lose of Fetch: a rate is between 0 and 1"),
        ({"fail": 0.6, "lose": {Fetch: 0.6}}, "the rates for Fetch come to 1.2"),
        ({"reorder": {Fetch: 0.1}}, "'reorder' can not happen to Fetch, but to Record"),
        ({"duplicate": {Hear: 0.1}}, "'duplicate' can not happen to Hear"),
        ({"fail": {Record: 0.1}}, "'fail' can not happen to Record"),
        ({"fail": {str: 0.1}}, "'fail' can not happen to str"),
        ({"seconds": (2.0, 1.0)}, "the shortest and the longest delay"),
    ],
)
def test_rates_that_make_no_sense_are_refused(how: dict[str, Any], says: str) -> None:
    """At once, with what was expected."""
    with pytest.raises(ValueError, match=says):
        ChaosLayer(MemoryShared(), **how)


def test_redis_lives_in_real_time() -> None:
    """A clock that is moved by hand would let its steps seem late, or never."""
    with pytest.raises(ValueError, match=r"goes with MemoryShared\(clock\.monotonic\)"):
        ChaosLayer(RedisShared("redis://localhost:1/0", namespace="ns"), clock=FakeClock())


def test_a_fault_that_can_not_happen_is_refused() -> None:
    """And so is a place in the row before the next one."""
    chaos = ChaosLayer(MemoryShared())
    with pytest.raises(ValueError, match="'reorder' can not happen to Store"):
        chaos.inject("reorder", Store)
    with pytest.raises(ValueError, match="'burn' is no fault; there are fail, throw"):
        chaos.inject(cast("Fault", "burn"), Store)
    with pytest.raises(ValueError, match="nth counts from 1"):
        chaos.inject("fail", Store, nth=0)


# --- what is heard ----------------------------------------------------------------------------------------------------------------


def announce(shared: Shared, *numbers: int) -> None:
    for number in numbers:
        shared.sync.perform(Announce((Targets(TAG, (f"t{number}",)),), (f"nonce{number}",), "me", ()))


@pytest.mark.parametrize(
    ("fault", "kind", "heard"),
    [
        ("lose", Record, [1, 3, 4]),
        ("duplicate", Record, [1, 2, 2, 3, 4]),
        ("reorder", Record, [1, 3, 2, 4]),
    ],
)
def test_a_record_is_lost_doubled_or_late(fault: Fault, kind: type, heard: list[int]) -> None:
    """On its way to one ear: the log has it all the same, and other ears hear it."""
    chaos = ChaosLayer(MemoryShared(), seed=1)
    with Listening(chaos.ear()) as other:
        with Listening(chaos.ear()) as listening:
            chaos.inject(fault, kind, nth=2)
            announce(chaos, 1, 2, 3, 4)
            listening.until(lambda: len(listening.records) >= len(heard))
            assert [record.number for record in listening.records] == heard
        other.until(lambda: len(other.records) == 4)
        assert [record.number for record in other.records] == [1, 2, 3, 4]


def test_what_is_held_back_is_heard_though_nothing_overtakes_it() -> None:
    """A moment later: also where the ear was to wait for long."""
    chaos = ChaosLayer(MemoryShared(), seed=1)
    ear = chaos.ear()
    with Listening(ear):
        chaos.inject("reorder", Record)
        announce(chaos, 1)
        assert ear.perform(Hear(0.0, False, LONG)) == Heard(())
        late = ear.perform(Hear(600.0, False, 600.0))
        assert isinstance(late, Heard)
        assert [item.number for item in late.items if isinstance(item, Record)] == [1]


def test_the_end_of_a_lease_may_not_be_heard() -> None:
    """Whoever waits has to look for himself then."""
    chaos = ChaosLayer(MemoryShared(), seed=1, lose={Woken: 1.0})
    with Listening(chaos.ear()) as listening:
        listening.ear.watch("a")
        listening.beat()
        assert listening.woken == []
        assert chaos.counts["lose Woken"] == 1


@pytest.mark.parametrize("fault", ["fail", "hang", "lose"])
def test_an_ear_that_was_cut_off_forgets_what_it_held_back(fault: Fault) -> None:
    """It may have missed more than that. What is lost with its connection is not heard at all."""
    chaos = ChaosLayer(MemoryShared(), seed=1)
    ear = chaos.ear()
    with Listening(ear) as listening:
        chaos.inject("reorder", Record)
        announce(chaos, 1)
        assert ear.perform(Hear(0.0, False, LONG)) == Heard(())
        chaos.inject(fault, Hear)
        announce(chaos, 2)
        reply = ear.perform(Hear(0.01, False, 0.05))
        assert isinstance(reply, Failed)
        assert "chaos, hear: " in str(reply.error)
        listening.beat()
        assert [record.number for record in listening.records] == ([] if fault == "lose" else [2])


def test_an_ear_that_hangs_can_be_woken() -> None:
    """Who wants it to end does not wait for its patience."""
    chaos = ChaosLayer(MemoryShared(), seed=1)
    with Listening(chaos.ear()) as listening:
        chaos.inject("hang", Hear)
        found: list[object] = []
        thread = threading.Thread(target=lambda: found.append(listening.ear.perform(Hear(600.0, False, 600.0))), daemon=True)
        thread.start()
        listening.ear.wake()
        thread.join(LONG)
        assert isinstance(found[0], Failed)


# --- a cache in the midst of it ---------------------------------------------------------------------------------------------------


def chaos_of(fault: Fault, rates: dict[type, float]) -> ChaosLayer:
    how: dict[str, Any] = {fault: rates}
    return ChaosLayer(MemoryShared(), seed=1, **how)


def caller_of(
    shared: Shared, colour: Colour, loop: LoopThread, events: list[Event] | None = None, *, budget: float = LONG, max_lag: float = 60.0
) -> Caller:
    settings = Settings(coordination=CoordinationSettings(budget=budget, max_lag=max_lag))
    return Caller(Cache(settings, policies=POLICIES, shared=shared, on_event=None if events is None else events.append), colour, loop)


@pytest.fixture
def soon_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has failed is tried again after a tenth of a second. For how long it is left alone, `test_breaker` says."""
    monkeypatch.setattr(breaker, "FIRST_REST", SOON)
    monkeypatch.setattr(log_reader, "LONGEST_PAUSE", SOON)


@pytest.mark.usefixtures("soon_tried")
@pytest.mark.parametrize("kind", [Fetch, Lease, Store, Announce, Seize, Hear])
@pytest.mark.parametrize("fault", ["throw", "fail", "lose", "hang"])
def test_a_step_that_goes_wrong_costs_nobody_an_answer(fault: Fault, kind: type, colour: Colour, loop: LoopThread) -> None:
    """Each call answers with what the function returns, every invalidation holds, and an event tells of the trouble."""
    events: list[Event] = []
    chaos = chaos_of(fault, {kind: 1.0})
    caller = caller_of(chaos, colour, loop, events, budget=0.05 if fault == "hang" else LONG)
    values = [0]

    @caller.cached("item:{number}")
    async def item(number: int) -> int:
        return values[0]

    for version in range(1, 4):
        values[0] = version
        caller.drop("item:1")
        assert caller.do(item, 1) == version
        assert caller.do(item.many, [(1,), (2,)])[0] == version
        assert caller.get("item:1", version) == version
        caller.put("item:3", version)
        assert caller.get("item:3", version) == version
        with caller.update("item:4") as put:
            put(version)
    until(lambda: chaos.counts[f"{fault} {kind.__name__}"] and [one for one in events if one.name == "layer_failed"], "the trouble")
    with chaos.calm():
        until(lambda: not caller.cache.stats().log.queued and caller.cache.stats().log.is_heard, "the end of it")
        last = caller.drop("item:1")
        until(lambda: caller.has_applied(last) or last.pending, "applying")
        caller.close()
    assert "reader_failed" not in {event.name for event in events}


def has_met(chaos: ChaosLayer, what: str, times: int) -> bool:
    return chaos.counts[what] >= times


def test_a_log_reader_outlives_an_ear_that_throws(loop: LoopThread) -> None:
    """It hears again what others announce when the ear does."""
    events: list[Event] = []
    chaos = ChaosLayer(MemoryShared(), seed=1)
    a, b = (caller_of(chaos, "def", loop, events, max_lag=0.5) for _ in range(2))
    a.put("item:1", 1)
    until(lambda: b.get("item:1") == 1)
    for count in range(1, 5):  # some of them one after the other in one of the two readers
        chaos.inject("throw", Hear)
        until(partial(has_met, chaos, "throw Hear", count), "throwing")
    stamp = a.drop("item:1")
    until(lambda: b.has_applied(stamp), "hearing")
    a.close()
    b.close()


def test_an_invalidation_whose_reply_was_lost_is_announced_again(colour: Colour, loop: LoopThread) -> None:
    """It holds here at once, and in the log twice: once more than needed, and never less."""
    memory = MemoryShared()
    chaos = ChaosLayer(memory, seed=1)
    with ExitStack() as stack:
        a, b = (caller_of(layer, colour, loop) for layer in (chaos, memory))
        stack.callback(a.close)
        stack.callback(b.close)
        a.put("item:1", 1)
        assert b.get("item:1") == 1
        chaos.inject("lose", Announce)
        stamp = a.drop("item:1")
        assert stamp.pending
        assert a.get("item:1") is None
        until(lambda: not a.cache.stats().log.pending, "announcing it again")
        until(lambda: b.get("item:1") is None, "hearing it")
        head = memory.head()
        assert head is not None
        assert head.number == 3


@pytest.mark.parametrize("fault", ["lose", "duplicate", "reorder"])
def test_a_reader_of_the_log_is_not_misled_by_what_it_hears(fault: Fault, loop: LoopThread) -> None:
    """Records have numbers and know their predecessors: what is missing is read, what is known already is passed over."""
    chaos = chaos_of(fault, {Record: 0.5, Beat: 0.2})
    a, b = (caller_of(chaos, "def", loop, max_lag=0.5) for _ in range(2))
    assert b.get("item:0") is None, "it listens from now on"
    stamp: Stamp | None = None
    for number in range(50):
        stamp = a.put(f"item:{number % 5}", number)
        assert b.get(f"item:{number % 5}", at_least=stamp) == number, "it has a copy from now on"
        stamp = a.drop(f"item:{number % 5}", tags=["others"])
        until(partial(b.has_applied, stamp), "applying")
        assert b.get(f"item:{number % 5}") is None
    assert stamp is not None
    assert stamp.number == 150
    assert chaos.counts[f"{fault} Record"] > 50
    a.close()
    b.close()


def no_size(_: object) -> float:
    raise LookupError("it has no size")


def test_a_local_layer_that_raises_costs_a_copy_and_no_call(colour: Colour, loop: LoopThread) -> None:
    """The value is with its caller and in the shared layer, and an event tells."""
    events, computed = list[Event](), list[int]()
    memory = CachetoolsMemory(LRUCache(100, getsizeof=no_size))
    cache = Cache(policies=POLICIES, shared=MemoryShared(), local=memory, on_event=events.append)
    caller = Caller(cache, colour, loop)

    @caller.cached("item:{number}")
    async def item(number: int) -> int:
        computed.append(number)
        return number

    for _ in range(3):
        assert caller.do(item, 1) == 1
    caller.put("item:2", 2)
    assert caller.get("item:2") == 2
    assert computed == [1], "it is found in the shared layer"
    assert memory.usage().entries == 0
    told = [event.fields for event in events if event.name == "layer_failed"]
    assert told[0] == {"layer": "local", "step": "put", "error": "LookupError('it has no size')"}
    caller.close()


def test_with_a_clock_that_is_moved_by_hand_a_silent_layer_costs_no_time() -> None:
    """The clock has moved by the budget, and the function's result is there."""
    clock = FakeClock()
    chaos = ChaosLayer(MemoryShared(clock.monotonic), clock=clock, hang={Fetch: 1.0})
    settings = Settings(coordination=CoordinationSettings(budget=0.25))
    with Cache(settings, policies=POLICIES, shared=chaos, clock=clock, listen=False) as cache:

        @cache.cached("item:{number}")
        def item(number: int) -> int:
            return number

        assert item(3) == 3
        waited = clock.monotonic() - 1_000
        assert 0.24 < waited <= 0.25
        assert item(4) == 4
        assert clock.monotonic() - 1_000 == waited, "the layer is left alone for a moment"
        clock.advance(2.0)
        with chaos.calm():
            assert item(5) == 5
            assert read_log(cache)
        assert chaos.counts == {"hang Fetch": 1}


def test_every_fault_of_a_step_is_described() -> None:
    """In the class's table, by name."""
    assert all(f"``{fault}``" in (ChaosLayer.__doc__ or "") for fault in (*TO_STEPS, "reorder"))
