"""The log's reader: how it stays in contact, what it does about what was not heard, and about what nobody thought of."""

from __future__ import annotations

import logging
import threading

import pytest

from cachesync import Cache, Event, LayerError, Policy, Settings
from cachesync.coordination.log_reader import LogReader, Turn
from cachesync.core.records import Record
from cachesync.core.settings import CoordinationSettings
from cachesync.core.stamps import NOWHERE
from cachesync.core.steps import Announce, Extend, Failed, Hear, Heard, Lease, Leased, Reply, SharedStep, Together, Torn
from cachesync.layers.memory import MemoryEar, MemoryShared
from cachesync.testing import ChaosLayer, FakeClock
from support.nodes import LONG, HoldingShared, engine_of, operations_of, read_log, until

POLICIES = [Policy(name="items", match="item:*", ttl="1h")]
SOON = 0.05
"""Seconds that a test gives to something that has nothing to wait for."""


class LossyShared(MemoryShared):
    """What is published may be lost or torn on its way to the ears: by number, ``lost`` and ``torn``. ``asked`` counts questions."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        super().__init__() if clock is None else super().__init__(clock.monotonic)
        self.lost: set[int] = set()
        self.torn: set[int] = set()
        self.asked = 0

    def ear(self) -> MemoryEar:
        return LossyEar(self)


class LossyEar(MemoryEar):
    def __init__(self, shared: LossyShared) -> None:
        super().__init__(shared)
        self._shared = shared

    def perform(self, step: Hear, /) -> Heard | Failed:
        self._shared.asked += step.beat
        heard = super().perform(step)
        if isinstance(heard, Failed):
            return heard
        items = [Torn() if isinstance(one, Record) and one.number in self._shared.torn else one for one in heard.items]
        return Heard(tuple(one for one in items if not (isinstance(one, Record) and one.number in self._shared.lost)))


# --- contact ----------------------------------------------------------------------------------------------------------------------


def test_the_master_is_asked_several_times_within_max_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that one answer which is late does not make copies worthless. A quiet log costs no more than that."""
    clock = FakeClock()
    monkeypatch.setattr("cachesync.coordination.log_reader.time", clock)
    shared = LossyShared(clock)
    settings = Settings(coordination=CoordinationSettings(max_lag=0.625))
    with Cache(settings, policies=POLICIES, shared=shared, clock=clock, listen=False) as cache:
        assert read_log(cache)
        asked = shared.asked
        for _ in range(20):
            clock.advance(0.0625)  # half of a fifth of max_lag
            assert operations_of(cache).reader.turn()
            assert cache.stats().log.lag <= 0.125
        assert shared.asked - asked == 10


@pytest.mark.parametrize("queued", [False, True], ids=["nothing is queued", "an invalidation is queued"])
def test_a_log_that_falls_silent_is_told_once_and_when_it_is_heard_again(queued: bool) -> None:
    """After ``max_lag``, and not at each turn of the reader: whether or not somebody has something to announce."""
    events: list[Event] = []
    clock = FakeClock()
    shared = MemoryShared(clock.monotonic)
    with Cache(policies=POLICIES, shared=shared, clock=clock, listen=False, on_event=events.append) as cache:
        reader = operations_of(cache).reader
        cache.set("item:1", 1)
        assert read_log(cache)
        with shared.outage():
            if queued:
                assert cache.invalidate("item:2").pending
            clock.advance(1.0)
            assert not reader.turn()
            assert "log_silent" not in [event.name for event in events], "it may come again within max_lag"
            clock.advance(1.5)
            for _ in range(3):
                assert not reader.turn()
            [silent] = [event for event in events if event.name == "log_silent"]
            assert silent.fields == {"lag": 2.5}
            assert not cache.stats().log.is_heard
        assert read_log(cache)
        assert cache.stats().log.is_heard
        assert [event.name for event in events if event.name.startswith("log_")] == ["log_silent", "log_heard"]


def test_a_log_that_was_never_heard_is_silent_from_the_start_and_not_before() -> None:
    """In a forked child, which has a position and no contact: only when it has tried for ``max_lag``."""
    events: list[Event] = []
    clock = FakeClock()
    shared = MemoryShared(clock.monotonic)
    with Cache(policies=POLICIES, shared=shared, clock=clock, listen=False, on_event=events.append) as cache:
        reader, engine = operations_of(cache).reader, engine_of(cache)
        cache.set("item:1", 1)
        assert read_log(cache)
        engine.after_fork()
        reader.after_fork()
        engine.waiters.ear = shared.ear()
        with shared.outage():
            assert not reader.turn()
            assert "log_silent" not in [event.name for event in events]
            clock.advance(2.5)
            assert not reader.turn()
        [silent] = [event for event in events if event.name == "log_silent"]
        assert silent.fields == {"lag": 2.5}


def test_contact_is_not_proven_by_what_is_published() -> None:
    """A server that was replaced goes on publishing what it is told; only the answer to a question that agrees with all is contact."""
    clock = FakeClock()
    shared = MemoryShared(clock.monotonic)
    with Cache(policies=POLICIES, shared=shared, clock=clock, listen=False) as cache, Cache(policies=POLICIES, shared=shared) as other:
        assert read_log(cache)
        clock.advance(1.0)
        contact = engine_of(cache).ledger.contact
        other.invalidate("item:1")
        reader = operations_of(cache).reader
        reader._due = float("inf")  # pyright: ignore[reportPrivateUsage] - no question is due
        assert reader.turn()
        position = cache.stats().position
        assert position is not None
        assert position.number == 1
        assert engine_of(cache).ledger.contact == contact
        assert read_log(cache)
        assert engine_of(cache).ledger.contact == clock.monotonic()


def test_an_answer_that_was_overtaken_is_contact_and_no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The master says where the log ends; before that is taken in, this process has announced something itself, and so has another.

    All that there was when the question was sent is applied: nothing is asked again, and nothing is told of a log that was joined anew.
    """
    events: list[Event] = []
    clock = FakeClock()
    monkeypatch.setattr("cachesync.coordination.log_reader.time", clock)
    shared = MemoryShared(clock.monotonic)
    with (
        Cache(policies=POLICIES, shared=shared, clock=clock, listen=False, on_event=events.append) as cache,
        Cache(policies=POLICIES, shared=shared, clock=clock, listen=False) as other,
    ):
        assert read_log(cache)
        reader, engine = operations_of(cache).reader, engine_of(cache)
        clock.advance(1.0)
        turn = reader.begin()
        assert turn.step.beat
        assert engine.waiters.ear is not None
        heard = engine.waiters.ear.perform(turn.step)
        asked = clock.monotonic()
        clock.advance(1.0)
        assert [str(one.invalidate("item:1")).rpartition(":")[2] for one in (cache, other)] == ["1", "2"]
        layer = HoldingShared(shared)
        engine.shared = layer
        assert reader.end(turn, heard)
        assert layer.steps == []
        assert engine.ledger.contact == asked
        assert [event.name for event in events if event.name.startswith("log_")] == []


# --- its beginning and its end ----------------------------------------------------------------------------------------------------


def test_a_reader_that_is_stopped_while_it_is_started_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise everybody would leave a layer that has failed to a thread which is not there."""
    shared, begun, go = MemoryShared(), threading.Event(), threading.Event()
    with Cache(policies=POLICIES, shared=shared, listen=False) as cache:
        reader, breaker = operations_of(cache).reader, engine_of(cache).breaker
        make_ear = shared.ear

        def slow_ear() -> MemoryEar:
            begun.set()
            assert go.wait(LONG)
            return make_ear()

        monkeypatch.setattr(shared, "ear", slow_ear)
        starting, stopping = threading.Thread(target=reader.start), threading.Thread(target=reader.stop)
        starting.start()
        assert begun.wait(LONG)
        stopping.start()
        until(reader._stop.is_set, "stopping begins")  # pyright: ignore[reportPrivateUsage] - nothing else shows it
        stopping.join(SOON)
        go.set()
        starting.join(LONG)
        stopping.join(LONG)
        assert (breaker.is_tried, reader.is_running, reader.is_alive) == (False, False, False)


# --- leases -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [[1], [1, 2, 3]], ids=["one", "several in one trip"])
def test_a_lost_trip_gives_up_no_lease(numbers: list[int]) -> None:
    """Nobody knows whether it was extended. It is tried again, and the computation under it is stored."""
    clock = FakeClock()
    chaos = ChaosLayer(MemoryShared(clock.monotonic), seed=1, clock=clock)
    settings = Settings(coordination=CoordinationSettings(budget=LONG, max_lag=1000.0, lease=10.0))
    begun, go = threading.Event(), threading.Event()
    caches = [Cache(settings, policies=POLICIES, shared=chaos, clock=clock, listen=False) for _ in range(2)]

    @caches[0].cached_many("item:{number}")
    def items(numbers: list[int]) -> dict[int, int]:
        begun.set()
        assert go.wait(LONG)
        return {number: number for number in numbers}

    computing = threading.Thread(target=items, args=(numbers,))
    computing.start()
    assert begun.wait(LONG)
    clock.advance(5.0)
    chaos.inject("fail", Extend if len(numbers) == 1 else Together)
    assert read_log(caches[0])
    assert len(chaos.injected) == 1
    for _ in range(5):
        clock.advance(2.0)
        assert read_log(caches[0])
    go.set()
    computing.join(LONG)
    assert caches[1].get_many([f"item:{number}" for number in numbers]) == {f"item:{number}": number for number in numbers}
    for cache in caches:
        cache.close()


def test_a_lease_that_has_lapsed_is_extended_no_more() -> None:
    """The answer says so, and the reader forgets it."""
    clock = FakeClock()
    settings = Settings(coordination=CoordinationSettings(budget=LONG, max_lag=1000.0, lease=10.0))
    begun, go = threading.Event(), threading.Event()
    with Cache(settings, policies=POLICIES, shared=MemoryShared(clock.monotonic), clock=clock, listen=False) as cache:

        @cache.cached("item:{number}")
        def item(number: int) -> int:
            begun.set()
            assert go.wait(LONG)
            return number

        computing = threading.Thread(target=item, args=(1,))
        computing.start()
        assert begun.wait(LONG)
        clock.advance(10.5)
        assert read_log(cache)
        assert engine_of(cache).leases == {}
        go.set()
        computing.join(LONG)


# --- announcing -------------------------------------------------------------------------------------------------------------------


class SlowShared(MemoryShared):
    """An announcement takes a while. Those of ``away`` fail, as they do where one of several servers is silent."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock.monotonic)
        self._clock = clock
        self.away: set[str] = set()

    def silent(self) -> dict[str, str]:
        return {"a:1": "no answer in time"} if self.away else {}

    def perform(self, step: SharedStep, /) -> Reply:
        if not isinstance(step, Announce) or self.down:
            return super().perform(step)
        self._clock.advance(0.04)
        if self.away.isdisjoint(step.unlink):
            return super().perform(step)
        error = LayerError("no answer in time")
        error.part = "a:1"
        return Failed(error)

    def is_free(self, key: str) -> bool:
        reply = super().perform(Lease(key, "somebody else", NOWHERE, 1, None))
        return isinstance(reply, Leased) and reply.granted


def test_while_much_is_announced_the_log_is_heard_and_leases_are_extended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a slow line it takes minutes. A computation meanwhile is done once, and no copy is worthless because nobody heard the log."""
    clock = FakeClock()
    monkeypatch.setattr("cachesync.coordination.log_reader.time", clock)
    shared = SlowShared(clock)
    settings = Settings(coordination=CoordinationSettings(budget=LONG, max_lag=2.0, lease=2.0))
    begun, go = threading.Event(), threading.Event()
    with (
        Cache(settings, policies=POLICIES, shared=shared, clock=clock, listen=False) as cache,
        Cache(settings, policies=POLICIES, shared=shared, clock=clock, listen=False) as other,
    ):
        reader = operations_of(cache).reader

        @cache.cached("item:{number}")
        def item(number: int) -> int:
            begun.set()
            assert go.wait(LONG)
            return number

        cache.set("item:1", 7)
        assert read_log(cache)
        ear = engine_of(cache).waiters.ear
        assert ear is not None
        with shared.outage():
            assert all(cache.invalidate(f"item:{number}").pending for number in range(100, 200))
        engine_of(cache).answered()
        computing = threading.Thread(target=item, args=(2,), daemon=True)
        operations_of(cache).reader.is_running = True  # nobody else announces what is queued
        computing.start()
        assert begun.wait(LONG)
        turns = 0
        while queued := cache.stats().log.queued:
            if turns == 10:
                assert cache.get("item:1") == 7
                other.invalidate("item:1")
            began = clock.monotonic()
            turn = reader.begin()
            is_waiting = not turn.step.beat and turn.step.seconds > 0
            assert not (is_waiting and cache.stats().log.queued), "what comes is heard, and nothing is waited for"
            assert reader.end(turn, ear.perform(turn.step))
            assert clock.monotonic() - began < 0.4, "the time between two questions"
            assert cache.stats().log.is_heard
            assert cache.stats().log.queued < queued
            assert not shared.is_free("item:2")
            turns += 1
            if turns == 15:
                assert cache.get("item:1", None) is None
        assert turns > 15
        go.set()
        computing.join(LONG)
        operations_of(cache).reader.is_running = False


def test_what_waits_for_a_silent_server_does_not_come_before_the_rest_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn has no time for all of it: the next one goes on where this one has ended."""
    clock = FakeClock()
    monkeypatch.setattr("cachesync.coordination.log_reader.time", clock)
    shared = SlowShared(clock)
    with Cache(policies=POLICIES, shared=shared, clock=clock, listen=False) as cache:
        assert read_log(cache)
        with shared.outage():
            assert all(cache.invalidate(f"item:{number}").pending for number in range(60))
        engine_of(cache).answered()
        shared.away = {f"item:{number}" for number in range(59)}
        for left in (59, 0):
            turns = 0
            while cache.stats().log.queued > left:
                assert operations_of(cache).reader.turn()
                turns += 1
                assert turns <= 30
            shared.away = set()


# --- what was not heard -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [{1}, {2}, {3}, {1, 2}, {2, 3}, {1, 2, 3}])
@pytest.mark.parametrize("how", ["lost", "torn"])
def test_a_record_that_was_not_heard_is_read_from_the_log(how: str, lost: set[int]) -> None:
    """The next one does not follow what is known, or the answer of the master does not agree. What it did not concern stays."""
    events: list[Event] = []
    shared = LossyShared()
    with (
        Cache(policies=POLICIES, shared=shared, listen=False, on_event=events.append) as cache,
        Cache(policies=POLICIES, shared=shared, listen=False) as other,
    ):
        computed: list[int] = []

        @cache.cached("item:{number}")
        def item(number: int) -> int:
            computed.append(number)
            return number

        assert read_log(cache)
        for number in range(5):
            item(number)
        getattr(shared, how).update(lost)
        for number in range(3):
            assert other.invalidate(f"item:{number}").number == number + 1
        assert read_log(cache)
        position = cache.stats().position
        assert position is not None
        assert position.number == 3
        assert [item(number) for number in range(5)] == list(range(5))
        assert computed == [0, 1, 2, 3, 4, 0, 1, 2], "the others are still held"
        assert [event.name for event in events if event.name.startswith("log_")] == []


def test_what_is_torn_and_no_record_costs_a_question_and_nothing_else() -> None:
    """Another program publishes on the channel."""
    shared = MemoryShared()
    events: list[Event] = []
    with Cache(policies=POLICIES, shared=shared, listen=False, on_event=events.append) as cache:
        assert read_log(cache)
        cache.set("item:1", 1)
        with shared.changed:
            for ear in shared.ears:
                ear._heard += [Torn(), Torn()]  # pyright: ignore[reportPrivateUsage] - there is no public way to say such a thing
        assert read_log(cache)
        assert cache.get("item:1") == 1
        assert [event.name for event in events] == ["invalidated"]


# --- mistakes of ours -------------------------------------------------------------------------------------------------------------


class Stumble:
    """A mistake of ours in the log's reader, as often as ``times`` says. ``turns`` counts the turns after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        self.times = times
        self.turns = 0
        begin = LogReader.begin

        def stumbling(reader: LogReader) -> Turn:
            if self.times > 0:
                self.times -= 1
                raise AssertionError("nobody thought of this")
            self.turns += 1
            return begin(reader)

        monkeypatch.setattr(LogReader, "begin", stumbling)


def test_a_mistake_of_the_reader_is_told_as_what_it_is(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Not as trouble with a layer that is well: calls go on asking it. An error in the log once, until the reader is well again."""
    events: list[Event] = []
    policy = Policy(name="items", match="item:*", ttl="1h")
    with Cache(policies=[policy], shared=MemoryShared(), listen=False, on_event=events.append) as cache:
        assert read_log(cache)
        reader = operations_of(cache).reader
        mistake = Stumble(monkeypatch, times=2)
        with caplog.at_level(logging.DEBUG, "cachesync"):
            assert not reader.told(reader.turn)
            assert not reader.told(reader.turn)
            assert engine_of(cache).uses_shared()
            assert [event.name for event in events] == ["reader_failed", "reader_failed"]
            assert events[0].fields["error"] == "AssertionError('nobody thought of this')"
            assert "in stumbling" in events[0].fields["traceback"]
            assert reader.told(reader.turn)
            mistake.times = 1
            assert not reader.told(reader.turn)
        assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.DEBUG, logging.ERROR]


def test_a_mistake_ends_no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again a moment later, and what others announce goes on arriving."""
    told = threading.Event()

    def listener(event: Event) -> None:
        if event.name == "reader_failed":
            told.set()

    shared = MemoryShared()
    mistake = Stumble(monkeypatch, times=1)
    policies = [Policy(name="items", match="item:*", ttl="1h")]
    with Cache(policies=policies, shared=shared, on_event=listener) as cache, Cache(policies=policies, shared=shared) as other:
        cache.set("item:1", 1)
        until(told.is_set, "the mistake is told")
        until(lambda: mistake.turns > 0, "the reader goes on")
        other.set("item:1", 2)
        until(lambda: cache.get("item:1") == 2, "the invalidation arrives")


def test_a_mistake_while_the_cache_is_closed_is_nobodys_business(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers are being closed under the reader's feet: whatever it meets then is no news."""
    events: list[Event] = []
    cache = Cache(policies=[Policy(name="items", match="item:*", ttl="1h")], shared=MemoryShared(), listen=False, on_event=events.append)
    reader = operations_of(cache).reader
    cache.close()
    Stumble(monkeypatch, times=1)
    assert not reader.told(reader.turn)
    assert events == []
