"""The threads of a cache: what it does where the system has none to give, and where a computation never leaves one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import pytest

from cachesync import Cache, MemoryShared, Policies, Policy, Settings
from cachesync.coordination import policy_watcher, threads
from cachesync.coordination.events import Event, Events
from cachesync.coordination.refresher import THREADS
from cachesync.coordination.threads import Workers
from cachesync.testing import FakeClock
from support.nodes import COLOURS, LONG, Caller, Colour, LoopThread, Origin, operations_of, until
from support.scripts import Script

HOUR = Policy(name="all", match="*", ttl="1h")


class Limit:
    """What the system allows. While ``reached`` names a kind of thread, by how its name begins or by its class, none is started."""

    def __init__(self, start: Callable[[threading.Thread], None]) -> None:
        self.start = start
        self.reached = ""

    def asked(self, thread: threading.Thread) -> None:
        if self.reached and (thread.name.startswith(self.reached) or type(thread).__name__ == self.reached):
            raise RuntimeError("can't start new thread")
        self.start(thread)


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Limit:
    limit = Limit(threading.Thread.start)

    def start(thread: threading.Thread) -> None:
        limit.asked(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    return limit


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    with LoopThread() as loop:
        yield loop


@pytest.fixture(params=COLOURS)
def colour(request: pytest.FixtureRequest) -> Colour:
    chosen: Colour = request.param
    return chosen


def told(events: list[Event], name: str) -> list[Any]:
    """Which threads, or which keys, the events of a name were about."""
    return [event.fields.get("thread", event.fields.get("key")) for event in list(events) if event.name == name]


# --- The system has no thread to give ---------------------------------------------------------------------------------------------


def test_a_log_reader_that_could_not_be_started_is_started_by_the_next_caller(limit: Limit, colour: Colour, loop: LoopThread) -> None:
    """Nobody's call fails for it, and it is told."""
    events: list[Event] = []
    caller = Caller(Cache(policies=[HOUR], shared=MemoryShared(), on_event=events.append), colour, loop)
    reader = operations_of(caller.cache).reader
    limit.reached = "cachesync-log"
    assert caller.get_or_compute("a", lambda: 1) == 1
    assert told(events, "no_thread")[0] == "cachesync-log"
    health = caller.cache.health()
    assert (health.status, [reason.name for reason in health.reasons]) == ("degraded", ["reader_dead"])
    assert (reader.is_running, reader.is_alive) == (False, False)
    limit.reached = ""
    assert caller.get_or_compute("b", lambda: 2) == 2
    assert (reader.is_running, reader.is_alive) == (True, True)
    until(lambda: caller.cache.health().status == "ok", "all is well")
    caller.close()
    assert not reader.is_alive


def test_a_cache_whose_log_reader_never_ran_is_closed_as_any_other(limit: Limit, colour: Colour, loop: LoopThread) -> None:
    """What is queued gets its last chance, and connections are closed."""
    caller = Caller(Cache(policies=[HOUR], shared=MemoryShared()), colour, loop)
    limit.reached = "cachesync-log"
    assert caller.get_or_compute("a", lambda: 1) == 1
    caller.close()
    assert [reason.name for reason in caller.cache.health().reasons] == ["closed"]


@pytest.mark.parametrize("how", ["one", "many"])
@pytest.mark.parametrize("patience", ["soft_timeout", "hard_timeout"])
def test_where_no_thread_can_be_started_callers_compute_themselves(limit: Limit, how: str, patience: str) -> None:
    """Also with an old value at hand: the answer is right, however long it takes."""
    events: list[Event] = []
    clock = FakeClock()
    patiences: dict[str, Any] = {patience: LONG}
    policy = Policy(name="all", match="*", ttl=10, stale_if_error=100, **patiences)
    with Cache(policies=[policy], clock=clock, on_event=events.append) as cache:
        computed: list[str] = []

        @cache.cached_many("item:{number}")
        def items(numbers: list[int]) -> dict[int, int]:
            computed.append(threading.current_thread().name)
            return dict.fromkeys(numbers, len(computed))

        @cache.cached("other:{number}")
        def item(number: int) -> int:
            computed.append(threading.current_thread().name)
            return len(computed)

        def read() -> int:
            return item(1) if how == "one" else items([1, 2])[1]

        assert read() == 1
        clock.advance(11)
        limit.reached = "cachesync-compute"
        assert read() == 2
        limit.reached = ""
        clock.advance(11)
        assert read() == 3
        assert computed[1:] == [threading.current_thread().name, "cachesync-compute"]
        assert told(events, "no_thread") == ["cachesync-compute"]


def test_a_file_is_watched_as_soon_as_there_is_a_thread_for_it(limit: Limit, tmp_path: Path) -> None:
    """The next caller tries it again, and a forked child does."""
    file = tmp_path / "cachesync.toml"
    file.write_text("[policy.all]\nmatch = '*'\nttl = '1h'\n")
    events: list[Event] = []
    with Cache.from_file(file, watch=True, on_event=events.append) as cache:
        watcher = operations_of(cache).watcher
        assert watcher is not None
        limit.reached = policy_watcher.NAME
        assert cache.get("a", None) is None
        assert (watcher.is_running, told(events, "no_thread")) == (False, [policy_watcher.NAME])
        limit.reached = ""
        assert cache.get("a", None) is None
        assert watcher.is_running
    child = policy_watcher.PolicyWatcher(str(file), lambda: None, Events())
    child.is_running = True  # in the parent
    limit.reached = policy_watcher.NAME
    child.after_fork()
    assert not child.is_running
    child.stop()


def test_warming_begins_as_soon_as_there_is_a_thread_for_it(limit: Limit) -> None:
    events: list[Event] = []
    with Cache(policies=[HOUR], on_event=events.append) as cache:

        @cache.cached("item:{number}", warm=[(1,)])
        def item(number: int) -> int:
            return number

        limit.reached = "cachesync-warm"
        cache.warm_behind()
        assert told(events, "no_thread") == ["cachesync-warm"]
        limit.reached = ""
        assert cache.stats().warming.last.total == 0
        assert item(2) == 2
        until(lambda: cache.stats().warming.last.total == 1, "warming")


def test_a_check_that_can_not_be_confirmed_for_want_of_a_thread_is_dropped(limit: Limit) -> None:
    """It makes room for another one."""
    with Cache(policies=[Policy(name="all", match="*", ttl="1h", shadow=1.0)]) as cache:
        versions = iter(range(1, 100))

        @cache.cached("item:{number}")
        def item(number: int) -> int:
            return next(versions)

        limit.reached = "Timer"
        assert [item(1), item(1)] == [1, 1]
        until(lambda: not operations_of(cache).shadow.under_way, "dropping")
        assert cache.stats().total.shadow_dropped == 1


# --- A computation hangs behind everybody's back ----------------------------------------------------------------------------------


def lasting(hard_timeout: float) -> Settings:
    policy = Policy(name="all", match="*", ttl=10, stale_while_revalidate="1h", hard_timeout=hard_timeout)
    return Settings(policies=Policies([policy]))


@pytest.mark.parametrize("how", ["one by one", "in a batch"])
def test_refreshes_that_hang_are_given_up(colour: Colour, loop: LoopThread, how: str) -> None:
    """After ``hard_timeout``, which an event tells: other keys are refreshed, and in the end these are, too."""
    events: list[Event] = []
    clock = FakeClock()
    caller = Caller(Cache(lasting(LONG), clock=clock, on_event=events.append), colour, loop)
    version, hanging, going = 1, False, Future[None]()
    going.set_running_or_notify_cancel()
    numbers = list(range(THREADS + 1))

    def compute(number: int) -> int:
        if hanging and number < THREADS:
            going.result()
        return version

    async def acompute(number: int) -> int:
        if hanging and number < THREADS:
            await asyncio.wrap_future(going)
        return version

    item: Any = caller.cache.cached("item:{number}")(compute if colour == "def" else acompute)

    def read(*numbers: int) -> list[int]:
        if how == "in a batch":
            return cast("list[int]", caller.do(item.many, [(number,) for number in numbers]))
        return [caller.do(item, number) for number in numbers]

    assert read(*numbers) == [1] * len(numbers)
    hanging, version = True, 2
    caller.do(caller.cache.reload if colour == "def" else caller.cache.areload, lasting(0.05))
    clock.advance(11)
    for number in numbers[:THREADS]:
        assert read(number) == [1]
    until(lambda: read(THREADS) == [2], "the refresh of what does not hang")
    until(lambda: {f"item:{number}" for number in numbers[:THREADS]} <= set(told(events, "refresh_failed")), "giving up the others")
    assert "hard_timeout" in next(str(event) for event in events if event.name == "refresh_failed")
    hanging = False
    going.set_result(None)
    until(lambda: read(*numbers) == [2] * len(numbers), "the refresh of all")
    caller.close()


def test_what_is_being_refreshed_when_a_cache_is_closed_is_told(colour: Colour, loop: LoopThread) -> None:
    """Once, whatever becomes of it."""
    events: list[Event] = []
    clock, origin = FakeClock(), Origin()
    caller = Caller(Cache(lasting(LONG), clock=clock, on_event=events.append), colour, loop)

    def compute(number: int) -> int:
        return origin.read()

    async def acompute(number: int) -> int:
        return await origin.aread()

    item: Any = caller.cache.cached("item:{number}")(compute if colour == "def" else acompute)
    assert caller.do(item, 1) == 1
    clock.advance(11)
    gate = origin.hold()
    assert caller.do(item, 1) == 1
    gate.wait()
    caller.cache.close()
    assert told(events, "refresh_dropped") == ["item:1"]
    assert operations_of(caller.cache).refresher.under_way == 0
    origin.fail(ValueError("too late"))
    gate.open()
    caller.close()
    assert (told(events, "refresh_dropped"), told(events, "refresh_failed")) == (["item:1"], [])


@pytest.mark.parametrize("behind", ["stale_while_revalidate=60", "shadow=1.0"])
def test_a_computation_that_hangs_behind_a_callers_back_keeps_no_process_from_its_end(behind: str) -> None:
    script = Script(
        f"""
import threading
from cachesync import Cache, Policy
from cachesync.testing import FakeClock

clock = FakeClock()
cache = Cache(policies=[Policy(name="all", match="*", ttl=10, {behind})], clock=clock)
hangs = threading.Event()
first = True

@cache.cached("item:{{number}}")
def item(number):
    if not first:
        hangs.set()
        threading.Event().wait()
    return number

item(1)
first = False
clock.advance({11 if "stale" in behind else 1})
item(1)
assert hangs.wait(20)
cache.close()
say("closed")
"""
    )
    with script:
        script.hear("closed")
        script.end(errors="refresh_dropped" if "stale" in behind else "")


def test_threads_that_work_behind_callers_are_few_are_used_again_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What belongs to a thread, such as a database connection, is of use to the next refresh."""
    workers, names, gate = Workers(Events(), "test-workers", 2), set[int](), threading.Event()
    begun, done = list[int](), list[int]()

    def work() -> None:
        begun.append(1)
        names.add(threading.get_ident())
        assert gate.wait(LONG)
        done.append(1)

    def count() -> int:
        return sum(thread.name == "test-workers" for thread in threading.enumerate())

    assert all(workers.take(work) for _ in range(5))
    until(lambda: len(names) == 2, "two of them")
    gate.set()
    until(lambda: len(done) == 5, "all of it")
    gate.clear()
    monkeypatch.setattr(threads, "IDLE", 0.01)
    begun.clear()
    assert workers.take(work) and workers.take(work)
    until(lambda: len(begun) == 2, "the same two")
    gate.set()
    until(lambda: count() == 0, "the end of those that have nothing to do")
    assert (len(names), len(done)) == (2, 7)


def test_what_no_thread_can_do_is_done_by_the_next_that_is_free(limit: Limit) -> None:
    """Only where there is none at all it is given back."""
    workers, gate, done = Workers(Events(), "test-workers", 2), threading.Event(), list[int]()

    def work() -> None:
        assert gate.wait(LONG)
        done.append(1)

    limit.reached = "test-workers"
    assert not workers.take(work)
    limit.reached = ""
    assert workers.take(work)
    limit.reached = "test-workers"
    assert workers.take(work)
    gate.set()
    until(lambda: len(done) == 2, "both")


def test_a_refresh_without_a_thread_is_told(limit: Limit) -> None:
    events: list[Event] = []
    clock = FakeClock()
    with Cache(lasting(LONG), clock=clock, on_event=events.append) as cache:
        versions = iter(range(1, 100))

        @cache.cached("item:{number}")
        def item(number: int) -> int:
            return next(versions)

        assert item(1) == 1
        clock.advance(11)
        limit.reached = "cachesync-refresh"
        assert item(1) == 1
        assert told(events, "refresh_dropped") == ["item:1"]
        limit.reached = ""
        until(lambda: item(1) == 2, "the refresh")
