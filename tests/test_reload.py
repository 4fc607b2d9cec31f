"""Reloads: other policies in a running process, for what is held, what is under way and what comes.

Caches of one test stand for processes. How old a value is tells a clock of the test's. Where a real server is asked
nothing depends on age.
"""

from __future__ import annotations

import base64
import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesync import MISSING, Cache, Changes, LayerError, MemoryShared, Policies, Policy, PolicyError, RestingError, Settings
from cachesync.coordination import policy_watcher, warmer
from cachesync.coordination.engine import spendable
from cachesync.coordination.events import Event, Events
from cachesync.core.encryption_keys import KEY_BYTES
from cachesync.core.entry import NEVER
from cachesync.core.freshness import life_of, longest_freshness
from cachesync.core.names import Names
from cachesync.core.reloads import ends_copies, shortened
from cachesync.core.settings import CoordinationSettings, LocalSettings, RedisSettings, WarmingSettings
from cachesync.core.steps import Done, Failed, Fetch, Release, Reply, SharedStep, Store
from cachesync.core.warming import MARK
from cachesync.layers.codecs import AnyCodec
from cachesync.layers.redis import RedisShared
from cachesync.protocols import SharedLayer
from cachesync.testing import FakeClock
from support.nodes import (
    COLOURS,
    LONG,
    Caller,
    Colour,
    Gate,
    HoldingShared,
    LoopThread,
    Origin,
    engine_of,
    operations_of,
    read_log,
    sites_of,
    until,
)
from support.scripts import Script
from support.servers import Server

TTL = 10.0
KEYS = f"1:{base64.b64encode(bytes(KEY_BYTES)).decode()}"
WIDE = CoordinationSettings(budget=LONG, max_lag=10_000.0)


def items(**options: Any) -> Policy:
    """The policy of ``item:*``."""
    chosen: dict[str, Any] = {"name": "items", "match": "item:*", "ttl": TTL, **options}
    return Policy(**chosen)


class App(Caller):
    """A process with one function, ``item(number)``, whose value is the origin's version."""

    def __init__(
        self, colour: Colour, loop: LoopThread, *policies: Policy, origin: Origin | None = None, keys: str | None = None, **how: Any
    ) -> None:
        self.clock: FakeClock = how.pop("clock", None) or FakeClock()
        self.origin = origin or Origin()
        self.events: list[Event] = []
        coordination: CoordinationSettings = how.pop("coordination", WIDE)
        settings = Settings(coordination=coordination, warming=how.pop("warming", WarmingSettings()))
        options: dict[str, Any] = {"clock": self.clock, "listen": False, **how}
        if options["clock"] is REAL:
            del options["clock"]
        cache = Cache(settings, policies=policies or [items()], on_event=self.events.append, encryption_keys=keys, **options)
        super().__init__(cache, colour, loop)
        self.item = self.decorate()

    def decorate(self, template: str = "item:{number}", **how: Any) -> Any:
        decorator, origin = self.cache.cached(template, **how), self.origin
        if self.colour == "def":

            def item(number: int) -> int:
                return origin.read()

            return decorator(item)

        async def aitem(number: int) -> int:
            return await origin.aread()

        return decorator(aitem)

    def read(self, number: int = 1) -> Any:
        return self.do(self.item, number)

    def reload(self, *policies: Policy) -> Changes:
        changes: Changes = self.do(self.cache.reload if self.colour == "def" else self.cache.areload, policies=policies)
        return changes

    def told(self, name: str) -> list[Event]:
        return [event for event in list(self.events) if event.name == name]


REAL: Any = object()
"""In place of a clock: that of the machine."""


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    with LoopThread() as loop:
        yield loop


@pytest.fixture(params=COLOURS)
def colour(request: pytest.FixtureRequest) -> Colour:
    chosen: Colour = request.param
    return chosen


Make = Callable[..., App]


@pytest.fixture(params=["alone", "shared"])
def make(request: pytest.FixtureRequest, colour: Colour, loop: LoopThread) -> Iterator[Make]:
    """Makes processes that share a clock and an origin: each by itself, or around one layer."""
    clock, origin, made = FakeClock(), Origin(), list[App]()
    shared = MemoryShared(clock.monotonic) if request.param == "shared" else None

    def new(*policies: Policy, **how: Any) -> App:
        app = App(colour, loop, *policies, origin=origin, clock=clock, shared=shared, **how)
        made.append(app)
        return app

    yield new
    for app in made:
        app.close()


@pytest.fixture
def around(server: Server, namespace: str, colour: Colour, loop: LoopThread) -> Iterator[Make]:
    """Makes processes around one Redis."""
    made: list[App] = []

    def new(*policies: Policy, **how: Any) -> App:
        shared = HoldingShared(RedisShared(server.url, namespace=namespace))
        app = App(colour, loop, *policies, shared=shared, clock=REAL, keys=KEYS, **how)
        made.append(app)
        return app

    yield new
    for app in made:
        app.close()


# --- what is held -----------------------------------------------------------------------------------------------------------------


def test_what_is_held_ends_with_the_shorter_ttl(make: Make) -> None:
    """A copy that was to live for ten seconds is out of date after three, if the new policy says so; in either layer."""
    app = make()
    assert app.read() == 1
    app.origin.version = 2
    app.clock.advance(2)
    app.reload(items(ttl=3))
    assert app.read() == 1, "it is two seconds old"
    app.clock.advance(1.5)
    assert app.read() == 2
    app.clock.advance(3.5)
    app.origin.version = 3
    assert app.read() == 3, "new entries live as long as the new policy says"


def test_what_is_held_lives_no_longer_with_the_longer_ttl(make: Make) -> None:
    """Where a reload lengthens, only new entries get more."""
    app = make()
    assert app.read() == 1
    app.reload(items(ttl=100))
    app.origin.version = 2
    app.clock.advance(TTL + 1)
    assert app.read() == 2
    app.origin.version = 3
    app.clock.advance(99)
    assert app.read() == 2


def test_two_reloads_before_a_copy_is_met_count_both(make: Make) -> None:
    """A copy that nobody asked for in between keeps the least of all."""
    app = make()
    assert app.read() == 1
    app.reload(items(ttl=3))
    app.reload(items(ttl=100))
    app.origin.version = 2
    app.clock.advance(TTL + 1)
    assert app.read() == 2


@pytest.mark.parametrize("window", ["stale_while_revalidate", "stale_if_error"])
def test_stale_windows_are_shortened_too(make: Make, window: str) -> None:
    """What might have been served stale for another hundred seconds is not any more."""
    app = make(items(**{window: 100.0}))
    assert app.read() == 1
    app.reload(items(**{window: 5.0}))
    app.origin.version = 2
    app.clock.advance(TTL + 6)
    app.origin.fail(LookupError("away"))
    with pytest.raises(LookupError):
        app.read()


def test_what_is_held_here_is_asked_for_again_after_the_shorter_local_ttl(colour: Colour, loop: LoopThread) -> None:
    """``local_ttl`` counts from when the value was made, because nobody notes when a copy came."""
    clock = FakeClock()
    shared = HoldingShared(MemoryShared(clock.monotonic))
    app = App(colour, loop, clock=clock, shared=shared)
    assert app.read() == 1
    app.reload(items(local_ttl=2))
    shared.steps.clear()
    assert app.read() == 1
    assert shared.steps == []
    clock.advance(2)
    assert app.read() == 1
    assert len(shared.steps) == 1
    assert app.origin.computations == 1
    app.close()


def test_the_lesser_of_two_processes_policies_counts(colour: Colour, loop: LoopThread) -> None:
    """While a new file is rolled out, an entry made under the old one is read under the new one, and the other way round."""
    clock, origin = FakeClock(), Origin()
    shared = MemoryShared(clock.monotonic)
    old, new = (App(colour, loop, clock=clock, shared=shared, origin=origin) for _ in range(2))
    new.reload(items(ttl=3))
    assert old.read() == 1
    origin.version = 2
    clock.advance(4)
    assert new.read() == 2, "made under ten seconds, read under three"
    origin.version = 3
    clock.advance(4)
    read_log(old.cache)
    assert App(colour, loop, clock=clock, shared=shared, origin=origin).read() == 3, "made under three, read under ten"


def test_copies_of_another_policy_stay(make: Make) -> None:
    """A reload that concerns other keys costs nothing but a look."""
    app = make(items(), Policy(name="pages", match="page:*", ttl=5))
    assert app.read() == 1
    app.reload(items(), Policy(name="pages", match="page:*", ttl=1, version=2))
    app.origin.version = 2
    app.clock.advance(TTL - 1)
    assert app.read() == 1
    assert app.origin.computations == 1


# --- what ends ----------------------------------------------------------------------------------------------------------------


def test_older_entries_are_never_read_again_after_the_version_was_raised(make: Make) -> None:
    """Neither here nor in the shared layer."""
    app = make()
    assert app.read() == 1
    app.origin.version = 2
    app.reload(items(version=2))
    assert app.read() == 2
    assert app.origin.computations == 2


def test_nobody_joins_a_computation_from_before_the_version_was_raised(make: Make) -> None:
    """It goes to its own caller, and is not stored."""
    app = make()
    gate = app.origin.hold()
    older = app.start(app.item, 1)
    gate.wait()
    app.origin.version = 2
    app.reload(items(version=2))
    newer = app.start(app.item, 1)
    read_log(app.cache) if engine_of(app.cache).shared is not None else None
    assert newer.result(LONG) == 2
    gate.open()
    assert older.result(LONG) == 1
    assert app.read() == 2


def test_a_tag_that_was_added_reaches_what_was_made_before(make: Make) -> None:
    """What is held has not got the tag, so it is looked for anew."""
    app = make()
    assert app.read() == 1
    app.reload(items(tags=["new"]))
    app.drop(tags=["new"])
    app.origin.version = 2
    assert app.read() == 2


def test_a_tag_that_was_added_reaches_what_is_being_computed(make: Make) -> None:
    """The computation began without the tag, and is invalidated by it."""
    app = make()
    gate = app.origin.hold()
    older = app.start(app.item, 1)
    gate.wait()
    app.reload(items(tags=["new"]))
    app.drop(tags=["new"])
    app.origin.version = 2
    gate.open()
    assert older.result(LONG) == 1
    assert app.read() == 2


def test_copy_can_be_switched_on_and_off(colour: Colour, loop: LoopThread) -> None:
    """Once it is on, nobody shares what he is given: also not with those who were given it before."""
    app = App(colour, loop)

    @app.cached("item:list:{number}")
    async def numbers(number: int) -> list[int]:
        return [number]

    first = app.do(numbers, 1)
    assert app.do(numbers, 1) is first
    app.reload(items(copy=True))
    first.append(2)
    for _ in range(2):  # the first computes, the others are hits
        second = app.do(numbers, 1)
        second.append(3)
    assert app.do(numbers, 1) == [1]
    app.reload(items(copy=False))
    assert app.do(numbers, 1) is app.do(numbers, 1)
    app.close()


def test_shadow_can_be_switched_on_and_off(colour: Colour, loop: LoopThread) -> None:
    """A hit is compiled without it, so the function is compiled anew."""
    app = App(colour, loop)
    counts = app.cache.stats
    assert [app.read(), app.read()] == [1, 1]
    app.reload(items(shadow=1.0))
    app.read()  # the copy is judged by the new policy, the long way
    until(lambda: app.read() == 1 and counts().total.shadowed > 1, "hits are checked")  # one at a time
    app.reload(items())
    until(lambda: not operations_of(app.cache).shadow.under_way, "what was begun has ended")
    before = counts().total.computed
    assert [app.read() for _ in range(20)] == [1] * 20
    assert counts().total.computed == before
    app.close()


def test_strict_can_be_switched_on(colour: Colour, loop: LoopThread) -> None:
    """From then on each read is confirmed, and what was held here before is not served."""
    clock, origin = FakeClock(), Origin()
    layer = MemoryShared(clock.monotonic)
    shared = HoldingShared(layer)
    app, other = (App(colour, loop, clock=clock, shared=one, origin=origin) for one in (shared, layer))
    assert app.read() == 1
    app.reload(items(consistency="strict"))
    other.do(other.item.invalidate, 1)
    origin.version = 2
    assert app.read() == 2
    shared.steps.clear()
    assert app.read() == 2
    assert len(shared.steps) == 1
    for one in (app, other):
        one.close()


# --- what is under way --------------------------------------------------------------------------------------------------------


def test_a_computation_across_a_reload_is_stored_for_the_lesser_time(make: Make) -> None:
    """It began under ten seconds, and three are allowed when it is stored: in this process and for others."""
    app, other = make(), make()
    gate = app.origin.hold()
    reading = app.start(app.item, 1)
    gate.wait()
    app.reload(items(ttl=3))
    gate.open()
    assert reading.result(LONG) == 1
    app.origin.version = 2
    app.clock.advance(4)
    assert (other if engine_of(app.cache).shared is not None else app).read() == 2


def test_a_computation_from_before_the_version_was_raised_is_stored_nowhere(make: Make) -> None:
    """Its own caller has it, and the next one computes."""
    app = make()
    gate = app.origin.hold()
    reading = app.start(app.item, 1)
    gate.wait()
    app.reload(items(version=2))
    gate.open()
    assert reading.result(LONG) == 1
    app.origin.version = 2
    assert app.read() == 2


@pytest.mark.parametrize("when", ["on its way", "being decoded"])
@pytest.mark.parametrize("change", ["a shorter ttl", "another version"])
def test_an_entry_that_is_read_across_a_reload_is_under_the_new_policy(colour: Colour, loop: LoopThread, when: str, change: str) -> None:
    """It was asked for under the old one, and is held for the lesser time, or computed anew."""
    gates: list[Gate] = []

    class Holding(AnyCodec):
        def decode(self, payload: bytes | memoryview, /) -> Any:
            if gates:
                gates.pop().stand()
            return super().decode(payload)

    clock, computed = FakeClock(), list[int]()
    shared = HoldingShared(MemoryShared(clock.monotonic))
    one, two = (App(colour, loop, clock=clock, shared=layer) for layer in (shared, shared.inner))

    def decorated(app: App) -> Any:
        @app.cached("item:text:{number}", codec=Holding())
        async def text(number: int) -> int:
            computed.append(number)
            return len(computed)

        return text

    first, second = decorated(one), decorated(two)
    assert two.do(second, 1) == 1
    gate = shared.hold(Fetch) if when == "on its way" else Gate()
    if when == "being decoded":
        gates.append(gate)
    reading = ThreadPoolExecutor(1).submit(one.do, first, 1)
    gate.wait()
    one.cache.reload(policies=[items(ttl=3) if change == "a shorter ttl" else items(version=2)])
    gate.open()
    assert reading.result(LONG) == (1 if change == "a shorter ttl" else 2)
    clock.advance(4 if change == "a shorter ttl" else 0)
    assert one.do(first, 1) == 2
    for app in (one, two):
        app.close()


@pytest.mark.parametrize("step", ["while it computes", "while it is packed"])
def test_nothing_is_stored_in_clear_after_encryption_was_switched_on(around: Make, server: Server, namespace: str, step: str) -> None:
    """A computation that began before is stored encrypted, or not at all."""
    gate = Gate()

    class Holding(AnyCodec):
        def encode(self, value: Any, /) -> bytes:
            if step == "while it is packed" and not gate.is_reached:
                gate.stand()
            return super().encode(value)

    app = around()

    @app.cached("item:text:{number}", codec=Holding())
    async def text(number: int) -> str:
        if step == "while it computes" and not gate.is_reached:
            gate.stand()
        return "in clear"

    reading = ThreadPoolExecutor(1).submit(app.do, text, 1)
    gate.wait()
    app.cache.reload(policies=[items(encrypt=True)])
    gate.open()
    assert reading.result(LONG) == "in clear"
    stored = server.client().get(Names.of(namespace).entry("item:text:1"))
    assert not isinstance(stored, bytes) or b"in clear" not in stored
    assert (stored is not None) == (step == "while it computes")
    assert app.do(text, 1) == "in clear"


def test_what_is_on_its_way_in_clear_is_taken_back(around: Make, server: Server, namespace: str) -> None:
    """The bytes were sent when encryption was switched on: when the reload returns, they do not lie in Redis."""
    app = around()
    assert isinstance(engine_of(app.cache).shared, HoldingShared)
    gate = engine_of(app.cache).shared.hold(Store)  # type: ignore[union-attr]
    reading = app.start(app.item, 1)
    gate.wait()
    name = Names.of(namespace).entry("item:1")
    assert server.client().get(name) is not None
    app.cache.reload(policies=[items(encrypt=True)])
    assert server.client().get(name) is None
    gate.open()
    assert reading.result(LONG) == 1
    assert server.client().get(name) is None


class LateLayer:
    """A layer that says of each `Store` that it has failed. ``late`` are those that may still arrive."""

    def __init__(self, inner: SharedLayer) -> None:
        self._inner = inner
        self.late: list[Store] = []

    def perform(self, step: SharedStep, /) -> Reply:
        if isinstance(step, Store):
            self.late.append(step)
            return Failed(LayerError("it is silent"))
        return self._inner.perform(step)


def test_what_was_sent_in_clear_and_not_answered_can_not_arrive_later(monkeypatch: pytest.MonkeyPatch, loop: LoopThread) -> None:
    """A server that was silent may act on it when the reload has returned: by then the lease is gone."""
    clock = FakeClock()
    shared = MemoryShared(clock.monotonic)
    layer, late = shared.sync, LateLayer(shared.sync)
    monkeypatch.setattr(shared, "sync", late)
    app = App("def", loop, clock=clock, shared=shared, keys=KEYS)
    assert app.read() == 1
    engine_of(app.cache).breaker.end_rest()
    app.reload(items(encrypt=True))
    (sent,) = late.late
    assert layer.perform(sent) == Done(done=False)
    read_log(app.cache)
    assert engine_of(app.cache).sending == {}, "nothing is kept of it when the lease was given back"
    app.close()


class RefusalError(LayerError):
    """The server answers, and does not do it."""

    is_refusal = True


def refuse(monkeypatch: pytest.MonkeyPatch, *refused: type) -> None:
    """From now on the shared layer refuses these steps."""
    perform: Callable[[MemoryShared, SharedStep], Reply] = MemoryShared.perform

    def performed(layer: MemoryShared, step: SharedStep) -> Reply:
        return Failed(RefusalError("OOM")) if isinstance(step, refused) else perform(layer, step)

    monkeypatch.setattr(MemoryShared, "perform", performed)


def test_what_was_sent_is_forgotten_when_its_lease_is_over(monkeypatch: pytest.MonkeyPatch, colour: Colour, loop: LoopThread) -> None:
    """Neither was it stored nor could its lease be given back. When that has ended by itself, nothing of it can arrive any more."""
    clock = FakeClock()
    app = App(colour, loop, clock=clock, shared=MemoryShared(clock.monotonic))
    engine = engine_of(app.cache)
    refuse(monkeypatch, Store, Release)
    for number in range(3):
        assert app.read(number) == 1
        read_log(app.cache)
    assert (len(engine.sending), engine.forsaken) == (3, []), "it may arrive"
    clock.advance(2 * WIDE.lease)
    read_log(app.cache)
    assert engine.sending == {}
    assert not engine.ending
    app.close()


def test_without_a_reader_the_next_caller_gives_leases_back(monkeypatch: pytest.MonkeyPatch, colour: Colour, loop: LoopThread) -> None:
    """Nobody else would: they would be noted here for ever, and other processes would wait until they end."""
    clock = FakeClock()
    app = App(colour, loop, clock=clock, shared=MemoryShared(clock.monotonic))
    engine = engine_of(app.cache)
    refuse(monkeypatch, Store)
    for number in range(5):
        assert app.read(number) == 1
        assert len(engine.forsaken) == len(engine.sending) == 1, "its own"
    monkeypatch.undo()
    assert app.read(5) == 1
    assert (engine.forsaken, engine.sending, engine.leases) == ([], {}, {})
    app.close()


def test_what_a_computation_failed_with_is_not_left_in_clear(around: Make, server: Server, namespace: str) -> None:
    """An exception may quote the value, and under ``errors`` its text is left in Redis, but not under ``encrypt``."""
    app = around(items(errors=60))
    gate = app.origin.hold()
    app.origin.fail(LookupError("in clear"))
    reading = app.start(app.item, 1)
    gate.wait()
    app.cache.reload(policies=[items(errors=60, encrypt=True)])
    gate.open()
    with pytest.raises(LookupError):
        reading.result(LONG)
    left = server.client().get(Names.of(namespace).lease("item:1"))
    assert isinstance(left, bytes)
    assert b"in clear" not in left


@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize(("seconds", "left"), [(None, 0.0), (2.0, 0.0), (3.0, 1.0), (60.0, 28.0)])
def test_a_pause_lasts_no_longer_than_the_new_policy_says(
    colour: Colour, loop: LoopThread, who: int, seconds: float | None, left: float
) -> None:
    """Counted from the failure, in the process that has failed and in others. It is not lengthened either."""
    clock, origin = FakeClock(), Origin()
    shared = MemoryShared(clock.monotonic)
    apps = [App(colour, loop, items(errors=30), origin=origin, clock=clock, shared=shared) for _ in range(2)]
    origin.fail(LookupError("not today"))
    for _ in range(2):
        with pytest.raises(LookupError):
            apps[0].read()
    clock.advance(2)
    for app in apps:
        app.reload(items(errors=seconds))
    if left:
        clock.advance(left - 0.5)
        with pytest.raises(RestingError if who else LookupError):
            apps[who].read()
        assert origin.computations == 1
        clock.advance(0.5)
    assert apps[who].read() == 1
    assert origin.computations == 2
    for app in apps:
        app.close()


def test_nothing_shows_a_field_after_it_was_masked(make: Make) -> None:
    """Events, errors and what a computation under way fails with."""
    app = make(items(stale_if_error=100))
    assert app.read(7002) == 1
    gate = app.origin.hold()
    app.origin.fail(LookupError("7001 is not known"))
    reading = app.start(app.item, 7001)
    gate.wait()
    app.reload(items(stale_if_error=100, mask=["number"]))
    app.events.clear()
    gate.open()
    with pytest.raises(LookupError):
        reading.result(LONG)
    app.clock.advance(TTL)
    app.origin.fail(LookupError("7002 is not known"))
    assert app.read(7002) == 1
    app.drop("item:7001")
    told = " ".join(map(str, app.events))
    assert "item:***" in told
    assert "700" not in told
    app.reload(items(stale_if_error=100))
    app.drop("item:7001")
    assert "7001" in str(app.events[-1])


# --- keys written as text ---------------------------------------------------------------------------------------------------------


def test_keys_as_text_follow_their_policy(make: Make) -> None:
    """What was set under another ttl ends with the shorter one."""
    app = make()
    app.put("item:text:1", "old")
    app.reload(items(ttl=3))
    assert app.get("item:text:1") == "old"
    app.clock.advance(3)
    assert app.get("item:text:1") is None


def test_keys_as_text_may_get_another_policy(make: Make, colour: Colour) -> None:
    """A new policy takes some of them: they are under it, and nothing of what is under way for the old one is stored."""
    app = make(items(), Policy(name="texts", match="text:*", ttl=TTL))
    app.put("text:a", "old")
    app.put("text:b", "old")
    gate = Gate()

    def compute() -> str:
        gate.stand()
        return "older"

    with ThreadPoolExecutor(1) as threads:
        older = threads.submit(app.get_or_compute, "text:a:2", compute)
        gate.wait()
        app.cache.reload(
            policies=[items(), Policy(name="texts", match="text:*", ttl=TTL), Policy(name="some", match="text:a*", ttl=2, version=2)]
        )
        gate.open()
        assert older.result(LONG) == "older"
    assert app.get("text:a:2") is None
    assert app.get("text:a") is None, "it has another version"
    app.put("text:a", "new")
    app.clock.advance(2)
    assert app.get("text:a") is None


def test_a_key_as_text_that_gets_another_policy_while_it_is_computed_is_not_stored(around: Make, server: Server, namespace: str) -> None:
    """The other policy may want it encrypted. It was asked for under the one that has lost it."""
    texts = Policy(name="texts", match="text:*", ttl=TTL)
    app, gate = around(items(), texts), Gate()

    def compute() -> str:
        gate.stand()
        return "in clear"

    with ThreadPoolExecutor(1) as threads:
        computing = threads.submit(app.get_or_compute, "text:a:1", compute)
        gate.wait()
        app.cache.reload(policies=[items(), texts, Policy(name="some", match="text:a*", ttl=TTL, encrypt=True)])
        gate.open()
        assert computing.result(LONG) == "in clear"
    assert server.client().get(Names.of(namespace).entry("text:a:1")) is None
    assert app.get("text:a:1") is None


# --- what is refused --------------------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[list[Policy], str]] = {
    "a function would have no policy": ([Policy(name="pages", match="page:*", ttl=1)], "item: no policy matches"),
    "its keys would have several": ([items(match="item:1*")], "matches only a part"),
    "it would have to say how long": ([items(ttl=None, min_ttl=1, max_ttl=2)], 'ttl = "dynamic"'),
    "it has no such field": ([items(mask=["phone"])], "masks 'phone'"),
    "nothing could be encrypted": ([items(encrypt=True)], "policy.items.encrypt"),
    "there is none": ([], "policies: there is none"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_does_not_fit_is_refused_as_a_whole(colour: Colour, loop: LoopThread, why: str) -> None:
    """The old policies stay, an event says why, and the function is named."""
    policies, says = REFUSED[why]
    clock = FakeClock()
    app = App(colour, loop, items(), clock=clock, shared=MemoryShared(clock.monotonic))
    assert app.read() == 1
    before, mark = app.cache.settings, engine_of(app.cache).ledger.mark
    with pytest.raises(PolicyError) as refused:
        app.reload(*policies)
    assert says in str(refused.value)
    (event,) = app.told("policies_refused")
    assert event.fields["problems"] == list(refused.value.problems)
    assert app.cache.settings is before
    assert engine_of(app.cache).ledger.mark is mark
    assert app.read() == 1
    app.close()


def test_a_function_with_a_ttl_of_its_own_keeps_a_dynamic_policy(colour: Colour, loop: LoopThread) -> None:
    """A policy that ceases to be dynamic does not fit a decorator that says how long."""
    dynamic = Policy(name="own", match="own:*", ttl=None, min_ttl=1, max_ttl=100)
    app = App(colour, loop, items(), dynamic)

    def lives(value: int) -> float:
        return 50.0 * value

    own = app.decorate("own:{number}", ttl=lives)
    assert app.do(own, 1) == 1
    with pytest.raises(PolicyError, match="has a ttl of its own"):
        app.reload(items(), Policy(name="own", match="own:*", ttl=5))
    app.reload(items(), Policy(name="own", match="own:*", ttl=None, min_ttl=1, max_ttl=20))
    app.origin.version = 2
    app.clock.advance(21)
    assert app.do(own, 1) == 2
    app.close()


def test_keys_as_text_that_are_in_use_keep_a_policy(colour: Colour, loop: LoopThread) -> None:
    """The next call with one of them would fail."""
    app = App(colour, loop, items(), Policy(name="texts", match="text:*", ttl=TTL))
    app.put("text:1", 1)
    for others in (
        [],
        [Policy(name="texts", match="text:a*", ttl=1)],
        [Policy(name="texts", match="text:*", ttl=None, min_ttl=1, max_ttl=2)],
    ):
        with pytest.raises(PolicyError, match="keys of policy texts: they are in use as text"):
            app.reload(items(), *others)
    app.reload(items(), Policy(name="all", match="*", ttl=1))
    app.put("text:1", 1)
    app.reload(Policy(name="all", match="*", ttl=2))
    app.close()


def test_what_needs_a_restart_is_refused(colour: Colour, loop: LoopThread) -> None:
    """All of it at once, and no URL or key is shown."""
    old = Settings(policies=engine_of(App(colour, loop).cache).settings.policies, redis=RedisSettings("redis://:hush@nowhere"))
    cache = Cache(old, shared=MemoryShared(), listen=False)
    new = Settings(namespace="other", policies=old.policies, redis=RedisSettings("redis://:still@elsewhere"), enabled=False)
    with pytest.raises(PolicyError) as refused:
        cache.reload(new)
    assert [problem.split(":")[0] for problem in refused.value.problems] == ["namespace", "redis.url", "CACHESYNC_ENABLED"]
    assert "hush" not in str(refused.value)
    assert "still" not in str(refused.value)


def test_a_cache_made_from_objects_has_no_file(colour: Colour, loop: LoopThread) -> None:
    """It says so, whether it is to be read again or watched."""
    app = App(colour, loop)
    with pytest.raises(PolicyError, match="made from objects"):
        app.cache.reload()
    with pytest.raises(PolicyError, match="no file to watch"):
        Cache(policies=[items()], watch=True)
    app.close()


@pytest.mark.parametrize("change", ["a ttl", "the version of all others"])
def test_a_round_of_warming_goes_on_across_a_reload(colour: Colour, loop: LoopThread, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process keeps the lease of the round, and no other one begins the same."""
    monkeypatch.setattr(warmer, "LOOK", 0.02)
    shared, settings = HoldingShared(MemoryShared()), WarmingSettings(spread=0, concurrency=1)
    warmed = items(warm=[f"item:{number}" for number in range(3)])
    rest = [] if change == "a ttl" else [Policy(name="rest", match="*", ttl=TTL)]
    one, two = (
        App(colour, loop, warmed, *rest, shared=layer, clock=REAL, listen=True, warming=settings) for layer in (shared.inner, shared)
    )

    async def warm_behind(app: App) -> None:
        app.cache.warm_behind()

    def begin(app: App) -> None:
        app.cache.warm_behind() if colour == "def" else loop.run(warm_behind(app))

    gate = one.origin.hold()
    begin(one)
    gate.wait()
    if rest:
        one.reload(warmed, Policy(name="rest", match="*", ttl=TTL, version=2))
    else:
        one.reload(items(warm=warmed.warm, ttl=3600))
    assert [lease.key[: len(MARK)] for lease in engine_of(one.cache).leases.values()].count(MARK) == 1
    begin(two)

    def looks() -> int:
        return sum(isinstance(step, Fetch) and step.keys[0].startswith(MARK) for step in list(shared.steps))

    until(lambda: looks() > 3, "looking whether it is warm")
    assert two.origin.computations == 0
    gate.open()
    until(lambda: one.told("warmed"))
    assert (one.origin.computations, two.origin.computations) == (3, 0)
    for app in (one, two):
        app.close()


# --- functions --------------------------------------------------------------------------------------------------------------------


def test_functions_decorated_later_are_under_the_new_policies(make: Make) -> None:
    """Also one that shares its entries with an older function."""
    app = make()
    assert app.read() == 1
    app.reload(items(ttl=3))
    twin = app.decorate(same_as=app.item)
    assert sites_of(app.cache)[0].policy is sites_of(app.cache)[-1].policy
    app.origin.version = 2
    app.clock.advance(3.5)
    assert app.do(twin, 1) == 2


def test_a_function_that_was_defined_anew_follows_too(colour: Colour, loop: LoopThread) -> None:
    """As long as somebody has the old one; where its keys have no policy any more, it stores nothing."""
    app = App(colour, loop, items(), Policy(name="old", match="old:*", ttl=TTL))

    def decorated(template: str) -> Any:
        def again(number: int) -> int:
            return app.origin.read()

        again.__qualname__ = "again"
        return app.cache.cached(template)(again)

    one, two = decorated("item:one:{number}"), decorated("old:{number}")
    decorated("item:three:{number}")
    assert one(1) == two(1) == 1
    app.reload(items(version=2))
    app.origin.version = 2
    assert (one(1), two(1)) == (2, 2)
    app.origin.version = 3
    assert (one(1), two(1)) == (2, 3)
    app.close()


# --- other settings ---------------------------------------------------------------------------------------------------------------


def test_other_settings_follow(colour: Colour, loop: LoopThread) -> None:
    """Budget, lease, max_lag, the bounds of local memory and the names of durations."""
    app = App(colour, loop)
    for number in range(10):
        app.read(number)
    new = Settings(
        policies=app.cache.settings.policies,
        coordination=CoordinationSettings(budget=7, lease=9, max_lag=5),
        local=LocalSettings(max_entries=3),
        ttl={"short": 5},
    )
    changes = app.cache.reload(new)
    assert changes == Changes(
        settings=("coordination.max_lag", "coordination.budget", "coordination.lease", "local.max_entries", "ttl.short")
    )
    assert app.cache.stats().local.entries == 3
    assert app.cache.stats().local.max_entries == 3
    assert app.cache.ttl("short") == 5.0
    engine = engine_of(app.cache)
    assert (engine.budget, engine.lease, engine.breaker.budget) == (spendable(7.0), 9000, spendable(7.0))
    app.close()


def test_bans_live_as_long_as_the_new_policies_need(server: Server, namespace: str) -> None:
    """Redis is told with the next invalidation."""
    with Cache(policies=[items()], redis=server.url, namespace=namespace, listen=False) as cache:
        cache.reload(policies=[items(ttl="5h")])
        cache.invalidate("item:1")
    life = server.client().hget(Names.of(namespace).meta, "l")
    assert life is not None
    assert int(life) == (5 * 3600 + 10) * 1000


def test_what_has_changed_is_told(colour: Colour, loop: LoopThread) -> None:
    """By name: policies that came, went or are another, with their settings. Nothing is told of what stays."""
    app = App(colour, loop, items(), Policy(name="pages", match="page:*", ttl=1), Policy(name="gone", match="gone:*", ttl=1))
    changes = app.reload(
        items(ttl=3, tags=["new"]), Policy(name="pages", match="page:*", ttl=1), Policy(name="come", match="come:*", ttl=1)
    )
    assert changes == Changes(("come",), ("gone",), {"items": ("ttl", "tags")})
    (event,) = app.told("policies_reloaded")
    assert event.fields == {"added": ["come"], "removed": ["gone"], "settings": ["policy.items.ttl", "policy.items.tags"]}
    mark = engine_of(app.cache).ledger.mark
    assert not app.reload(*app.cache.settings.policies)
    assert engine_of(app.cache).ledger.mark is mark
    assert len(app.told("policies_reloaded")) == 1
    app.close()


def test_a_bound_that_local_memory_can_not_keep_is_refused_before_anything_changes(file: Path) -> None:
    """The policies of the same file are not in force either."""
    cache, events = Cache.from_file(file), list[Event]()
    cache.on_event(events.append)
    file.write_text(FILE.format(ttl="3s") + "[local]\nmax_bytes = 127\n")
    with pytest.raises(PolicyError, match=r"local\.max_bytes: 127 is too small"):
        cache.reload()
    assert [event.name for event in events] == ["policies_refused"]
    assert [policy.ttl for policy in cache.settings.policies] == [TTL]
    file.write_text(FILE.format(ttl="3s") + "[local]\nmax_bytes = 128\n")
    cache.reload()
    assert cache.stats().local.max_bytes == 128
    cache.close()


def test_how_warming_goes_on_may_change(colour: Colour, loop: LoopThread) -> None:
    """Also if nothing else does."""
    app = App(colour, loop)
    new = Settings(policies=app.cache.settings.policies, coordination=WIDE, warming=WarmingSettings(concurrency=9, pause=1))
    assert app.cache.reload(new) == Changes(settings=("warming.concurrency", "warming.pause"))
    assert app.cache.settings.warming.concurrency == 9
    (event,) = app.told("policies_reloaded")
    assert event.fields["settings"] == ["warming.concurrency", "warming.pause"]
    app.close()


def test_a_reload_that_shrinks_local_memory_waits_for_nobody_who_waits_for_it(loop: LoopThread) -> None:
    """A value that leaves calls this cache from its finalizer, while another thread is about to hold a copy."""
    app = App("def", loop)
    said: list[int] = []

    @app.cache.cached("item:small:{number}")
    def small(number: int) -> int:
        return number

    class Value:
        def __del__(self) -> None:
            if not said:
                said.append(0)
                other = threading.Thread(target=small, args=(1,), daemon=True)
                other.start()
                other.join(0.5)  # as far as it can come
                said.append(small(2))

    @app.cache.cached("item:large:{number}")
    def large(number: int) -> Value:
        return Value()

    large(1)
    large(2)
    new = Settings(policies=app.cache.settings.policies, local=LocalSettings(max_entries=1), coordination=WIDE)
    reloading = threading.Thread(target=app.cache.reload, args=(new,), daemon=True)
    reloading.start()
    reloading.join(LONG)
    assert not reloading.is_alive(), "it waits for ever"
    assert said == [0, 2]
    assert small(1) == 1
    app.close()


# --- all at once ------------------------------------------------------------------------------------------------------------------


def test_nobody_sees_half_of_a_reload(make: Make) -> None:
    """Threads call while policies come and go: tags, masks, lifetimes and copies are always those of one policy."""
    app = make()
    one = items(tags=["one"], mask=["number"])
    two = items(tags=["two"], ttl=5, copy=True)
    app.reload(one)
    site = sites_of(app.cache)[0]
    over, wrong = threading.Event(), list[Any]()

    def hammer(seed: int) -> int:
        calls = 0
        while not over.is_set():
            address = site.address((seed,))
            if [text for _, text in address.dependencies] != list(address.policy.tags):
                wrong.append(address)
            found = app.do(app.item, seed) if calls % 50 == 0 else app.cache.get(f"item:{seed}")
            if found not in (1, MISSING):
                wrong.append(found)
            calls += 1
        return calls

    with ThreadPoolExecutor(3) as threads:
        hammering = [threads.submit(hammer, seed) for seed in range(3)]
        for turn in range(100):
            app.cache.reload(policies=[two if turn % 2 == 0 else one])
        over.set()
        assert all(future.result(LONG) > 0 for future in hammering)
    assert wrong == []
    app.cache.reload(policies=[items(version=7)])
    app.origin.version = 2
    assert app.read(0) == 2


@given(st.data())
def test_a_shortened_life_is_never_longer(data: st.DataObject) -> None:
    """Whatever the policies are."""
    seconds = st.sampled_from([1.0, 2.0, 5.0, 10.0])
    windows, locals_ = st.sampled_from([0.0, 1.0, 7.0]), st.none() | seconds

    def policy() -> Policy:
        return items(
            ttl=data.draw(seconds),
            local_ttl=data.draw(locals_),
            stale_while_revalidate=data.draw(windows),
            stale_if_error=data.draw(windows),
            negative_ttl=data.draw(locals_),
        )

    old, new, value = policy(), policy(), data.draw(st.sampled_from([None, 1]))
    life = life_of(old, 0.0, longest_freshness(old, value), data.draw(st.none() | seconds))
    less = shortened(life, new, made=0.0, value=value)
    assert all(shorter <= longer for shorter, longer in zip(less, life, strict=True))
    assert less.fresh <= longest_freshness(new, value)
    assert all(end == NEVER or end <= longest_freshness(new, value) + 7.0 for end in less[1:])
    longer = items(ttl=100, stale_while_revalidate=200, stale_if_error=200)
    assert shortened(life, longer, made=0.0, value=value) == life


def test_what_ends_copies() -> None:
    """Version, copy, strict and a tag more; not what comes back, and not lifetimes."""
    plain = items()
    for options in ({"version": 2}, {"copy": True}, {"consistency": "strict"}, {"tags": ["a"]}):
        assert ends_copies(plain, items(**options))
        assert ends_copies(items(**options), plain) == ("version" in options)
    assert not ends_copies(plain, items(ttl=1, encrypt=True, mask=["x"], local_ttl=1))


# --- the file -----------------------------------------------------------------------------------------------------------------

FILE = """
[policy.items]
match = "item:*"
ttl = "{ttl}"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cachesync.toml"
    path.write_text(FILE.format(ttl="10s"))
    return path


class Watched:
    """A cache that watches a file, and what it was told."""

    def __init__(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(policy_watcher, "INTERVAL", 0.01)
        self.events: list[Event] = []
        self.cache = Cache.from_file(file, watch=True, on_event=self.events.append)
        self.cache.get("item:1")  # it is watched from the first use on

    def has_ttl(self, seconds: float) -> bool:
        return self.ttl == seconds

    @property
    def ttl(self) -> float | None:
        return next(iter(self.cache.settings.policies)).ttl

    def refused(self) -> list[str]:
        return [problem for event in list(self.events) if event.name == "policies_refused" for problem in event.fields["problems"]]


@pytest.fixture
def watched(file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    watched = Watched(file, monkeypatch)
    yield watched
    watched.cache.close()


def test_the_file_is_read_again_by_call(file: Path, colour: Colour, loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the process has gone meanwhile. What was given beside the file stays."""
    monkeypatch.chdir(file.parent)
    cache = Cache.from_file(file.name, namespace="given")
    monkeypatch.chdir("/")
    caller = Caller(cache, colour, loop)
    file.write_text(FILE.format(ttl="3s") + "stale_if_error = 5\n")
    changes = caller.do(cache.reload if colour == "def" else cache.areload)
    assert changes.changed == {"items": ("ttl", "stale_if_error")}
    assert cache.settings.namespace == "given"
    file.write_text(FILE.format(ttl="3 secs") + 'jitter = "none"\n')
    with pytest.raises(PolicyError) as refused:
        cache.reload()
    assert [problem.split(": ")[0] for problem in refused.value.problems] == [f"{file}:4", f"{file}:5"]
    caller.close()


def test_encryption_may_be_switched_on_in_a_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the keys that the process was started with; other keys need a restart."""
    monkeypatch.setenv("CACHESYNC_ENCRYPTION_KEYS", KEYS)
    cache = Cache.from_file(file, shared=MemoryShared(), listen=False)
    file.write_text(FILE.format(ttl="10s") + "encrypt = true\n")
    assert cache.reload().changed == {"items": ("encrypt",)}
    monkeypatch.setenv("CACHESYNC_ENCRYPTION_KEYS", KEYS.replace("1:", "2:"))
    with pytest.raises(PolicyError, match="CACHESYNC_ENCRYPTION_KEYS: this can not change") as refused:
        cache.reload()
    assert KEYS[2:] not in str(refused.value)


def test_settings_take_the_place_of_the_policies_that_were_given(colour: Colour, loop: LoopThread) -> None:
    """What was given besides, such as the namespace, stays."""
    cache = Cache(policies=[items()], namespace="given")
    changes = cache.reload(Settings(policies=Policies([items(ttl=3)])))
    assert changes.changed == {"items": ("ttl",)}
    assert cache.settings.namespace == "given"


def test_a_mistake_in_the_watcher_ends_no_watching(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the next change is tried again."""
    loads: list[int] = []

    def reload() -> None:
        loads.append(1)
        raise AssertionError("a mistake")

    watcher = policy_watcher.PolicyWatcher(str(file), reload, Events())
    for _ in range(4):
        watcher.look()
    assert "could not be taken over" in caplog.text
    file.write_text(FILE.format(ttl="3s"))
    for _ in range(4):
        watcher.look()
    assert len(loads) == 2


def _in_place(file: Path, text: str) -> None:
    file.write_text(text)


def _renamed(file: Path, text: str) -> None:
    other = file.with_suffix(".new")
    other.write_text(text)
    other.replace(file)


def _removed_first(file: Path, text: str) -> None:
    file.unlink()
    file.write_text(text)


@pytest.mark.parametrize("write", [_in_place, _renamed, _removed_first])
def test_a_file_that_is_watched_is_followed(file: Path, watched: Watched, write: Callable[[Path, str], None]) -> None:
    """However it is written."""
    for seconds in (3.0, 4.0, 5.0):
        write(file, FILE.format(ttl=f"{seconds:g}s"))
        until(partial(watched.has_ttl, seconds))


def test_a_link_that_is_turned_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Kubernetes updates the files of a config map: the folder behind a link is another one."""
    for name, ttl in (("one", "10s"), ("two", "3s")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cachesync.toml").write_text(FILE.format(ttl=ttl))
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "cachesync.toml").symlink_to("..data/cachesync.toml")
    watched = Watched(tmp_path / "cachesync.toml", monkeypatch)
    (tmp_path / "..new").symlink_to("two")
    (tmp_path / "..new").replace(tmp_path / "..data")
    until(lambda: watched.ttl == 3.0)
    watched.cache.close()


def test_a_wrong_file_is_refused_once_and_tried_again_when_it_changes(file: Path, watched: Watched) -> None:
    """The old policies stay, and one event tells each mistake."""
    file.write_text("[policy.items\n")
    until(lambda: len(watched.refused()) == 1)
    assert "this is not TOML" in watched.refused()[0]
    file.unlink()
    until(lambda: len(watched.refused()) == 2)
    assert "can not be read" in watched.refused()[1]
    assert watched.ttl == 10.0
    file.write_text(FILE.format(ttl="3s"))
    until(lambda: watched.ttl == 3.0)
    assert len(watched.refused()) == 2
    file.write_text(FILE.format(ttl="ten"))
    until(lambda: len(watched.refused()) == 3)
    file.write_text(FILE.format(ttl="3s"))
    until(lambda: watched.events[-1].name == "policies_reloaded")
    assert watched.events[-1].fields == {"added": [], "removed": [], "settings": []}


def test_a_file_that_is_being_written_is_not_taken(file: Path) -> None:
    """What is found once may be the first half of a file, which may be whole by chance."""
    loads: list[str] = []
    watcher = policy_watcher.PolicyWatcher(str(file), lambda: loads.append(file.read_text()), Events())
    watcher.look()
    watcher.look()
    half = FILE.format(ttl="10s") + "[policy.others]\nmatch = 'other:*'\nttl = 1\n"
    file.write_text(half)
    watcher.look()
    file.write_text(half + "encrypt = true\n")
    watcher.look()
    assert len(loads) == 1
    watcher.look()
    watcher.look()
    assert loads[1:] == [half + "encrypt = true\n"]


def test_a_watcher_ends_with_its_cache(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed, or dropped without a word."""
    monkeypatch.setattr(policy_watcher, "INTERVAL", 0.01)

    def threads() -> int:
        return sum(thread.name == "cachesync-policies" for thread in threading.enumerate())

    cache = Cache.from_file(file, watch=True)
    assert threads() == 0, "it is watched from the first use on"
    cache.get("item:1")
    assert threads() == 1
    cache.close()
    assert threads() == 0
    cache = Cache.from_file(file, watch=True)
    cache.get("item:1")
    del cache
    gc.collect()
    until(lambda: threads() == 0)


def test_a_child_watches_for_itself(file: Path, colour: Colour) -> None:
    """The parent's thread did not come along. Neither of them keeps its process alive."""
    script = Script(
        f"""
from cachesync import Cache
from cachesync.coordination import policy_watcher, warmer

policy_watcher.INTERVAL = 0.01
cache = Cache.from_file({str(file)!r}, watch=True)
cache.get("item:1")

def follow():
    until(lambda: next(iter(cache.settings.policies)).ttl == 3.0)

def child():
    say("ready")
    follow()

pid = fork(child)
say("ready")
follow()
ended(pid)
say("followed")
"""
    )
    with script:
        for _ in ("the parent", "the child"):
            script.hear("ready")
        _renamed(file, FILE.format(ttl="3s"))
        script.hear("followed")
        script.end()
