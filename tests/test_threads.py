"""The threads of a cache: what it does where the system has none to give."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cachesync import Cache, MemoryShared, Policy
from cachesync.coordination import policy_watcher
from cachesync.coordination.events import Event, Events
from cachesync.testing import FakeClock
from support.nodes import COLOURS, LONG, Caller, Colour, LoopThread, operations_of, until

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
