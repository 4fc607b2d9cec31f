"""Local layers: the contract on ours and on cachetools' caches, the facts of S3-FIFO, bounds and books over any sequence."""

from __future__ import annotations

import dis
import gc
import os
import signal
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import cachetools
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cachesync.core.entry import NEVER, SIZE_UNIT, Held
from cachesync.core.stamps import Stamp
from cachesync.layers.local import LOOKS, Ghost, LocalMemory
from cachesync.layers.plugged import CachetoolsMemory, Place
from cachesync.protocols import LocalLayer, Shelf
from cachesync.testing import FakeClock, LocalLayerContract, run_together

FOREVER = float("inf")
STAMP = Stamp("0" * 16, 0)


def held(value: Any = None, *, size: int = 1, deadline: float = FOREVER, stale: float = NEVER) -> Held:
    return Held(value, until=deadline, mark=None, made=0.0, deadline=deadline, stamp=STAMP, checked=0, size=size, stale=stale)


def read(shelf: Shelf, raw: object, times: int = 1) -> bool:
    """Ask as a cached function does: a hit counts, a miss puts."""
    copy = shelf.copies.get(raw)
    if copy is None:
        shelf.put(raw, held(raw))
        return False
    copy.hits += times
    return True


# --- the contract -----------------------------------------------------------------------------------------------------------------


def in_an_hour(_place: Place, _copy: Held, now: float) -> float:
    return now + 3600.0


class TestLocalMemory(LocalLayerContract):
    def make_layer(self) -> LocalLayer:
        return LocalMemory(max_entries=100)


class TestLocalMemoryBoundByBytes(LocalLayerContract):
    def make_layer(self) -> LocalLayer:
        return LocalMemory(max_bytes=100 * SIZE_UNIT)


class TestLRU(LocalLayerContract):
    def make_layer(self) -> LocalLayer:
        return CachetoolsMemory(cachetools.LRUCache(100))


class TestLFU(LocalLayerContract):
    def make_layer(self) -> LocalLayer:
        return CachetoolsMemory(cachetools.LFUCache(100))


class TestFIFO(LocalLayerContract):
    def make_layer(self) -> LocalLayer:
        return CachetoolsMemory(cachetools.FIFOCache(100))


class TestRR(LocalLayerContract):
    def make_layer(self) -> LocalLayer:
        return CachetoolsMemory(cachetools.RRCache(100))


class TestTTL(LocalLayerContract):
    def make_layer(self) -> LocalLayer:
        cache: cachetools.Cache[Place, Held] = cachetools.TTLCache[Place, Held](100, ttl=3600)
        return CachetoolsMemory(cache)


class TestTLRU(LocalLayerContract):
    def make_layer(self) -> LocalLayer:
        return CachetoolsMemory(cachetools.TLRUCache(100, ttu=in_an_hour))


class TestPlainCache(LocalLayerContract):
    def make_layer(self) -> LocalLayer:
        return CachetoolsMemory(cachetools.Cache(100))


class TestSizedLRU(LocalLayerContract):
    def make_layer(self) -> LocalLayer:
        return CachetoolsMemory(cachetools.LRUCache(100 * SIZE_UNIT, getsizeof=lambda copy: copy.size * SIZE_UNIT))


class Headless(cachetools.Cache[Place, Held]):
    """Evicts the first entry without asking ``popitem``, as a user's own subclass may."""

    def __setitem__(self, key: Place, value: Held) -> None:
        if key not in self and len(self) >= self.maxsize:
            del self[next(iter(self))]
        super().__setitem__(key, value)


class TestSubclassThatEvictsInItsOwnWay(LocalLayerContract):
    def make_layer(self) -> LocalLayer:
        return CachetoolsMemory(Headless(100))


# --- S3-FIFO ----------------------------------------------------------------------------------------------------------------------


def test_a_scan_leaves_what_is_popular() -> None:
    """A hundred popular keys outlive ten thousand that are asked for once."""
    shelf = LocalMemory(max_entries=200).shelf()
    for _ in range(3):
        for raw in range(100):
            read(shelf, raw)
    for raw in range(1_000, 11_000):
        read(shelf, raw)
        if raw % 50 == 0:
            for popular in range(100):
                read(shelf, popular)
    assert all(raw in shelf.copies for raw in range(100))


def test_one_hit_wonders_leave_first() -> None:
    shelf = LocalMemory(max_entries=100).shelf()
    for raw in range(100):
        read(shelf, raw)
    for raw in range(0, 100, 2):
        read(shelf, raw, times=2)
    for raw in range(1_000, 1_050):
        read(shelf, raw)
    assert all((raw in shelf.copies) is (raw % 2 == 0) for raw in range(100))


def test_one_hit_in_small_is_not_enough_to_stay() -> None:
    """Two requests in quick succession are often one event (the paper's threshold)."""
    shelf = LocalMemory(max_entries=10).shelf()
    for raw in range(10):
        read(shelf, raw)
    read(shelf, 0, times=1)
    read(shelf, 1, times=2)
    read(shelf, "new")
    read(shelf, "newer")
    assert 0 not in shelf.copies
    assert 1 in shelf.copies


def test_a_key_the_ghost_knows_enters_main() -> None:
    """It then survives a scan that is longer than *small*, without having been hit."""
    shelf = LocalMemory(max_entries=100).shelf()
    for raw in range(101):
        read(shelf, raw)
    assert 0 not in shelf.copies
    read(shelf, 0)
    for raw in range(1_000, 1_200):
        read(shelf, raw)
    assert 0 in shelf.copies
    assert 50 not in shelf.copies


def test_the_ghost_forgets() -> None:
    ghost = Ghost()
    for number in range(1_000):
        ghost.note(hash((7, number)), among=100)
    remembered = [number for number in range(1_000) if ghost.recall(hash((7, number)))]
    assert min(remembered) >= 900, "at most as many as there are copies"
    assert len(remembered) >= 40, "at least nearly half as many"
    assert not any(ghost.recall(hash((7, number))) for number in remembered), "a memory serves once"


def test_a_ghost_that_saw_nothing_knows_nothing() -> None:
    assert not any(Ghost().recall(hashed) for hashed in (0, 1, -1, 2**62))


def test_an_eviction_looks_at_a_bounded_number_of_copies() -> None:
    """All copies are popular: the first put over the bound does not walk through all of them."""
    shelf = LocalMemory(max_entries=5_000).shelf()
    for raw in range(5_000):
        shelf.put(raw, held()).hits = 10
    copies = list(shelf)
    read(shelf, "one more")
    assert len(shelf) == 5_000
    assert sum(copy.hits != 10 for copy in copies) <= LOOKS + 1


def test_hits_survive_the_evictor() -> None:
    """What the evictor takes from a copy's count, the shelf keeps."""
    layer = LocalMemory(max_entries=50)
    shelf = layer.shelf()
    served = 0
    for number in range(5_000):
        served += read(shelf, number * number % 211)
        assert shelf.hits == served
    assert layer.usage().evictions > 0


# --- bounds -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("max_entries", "max_bytes"), [(0, 1_000), (10, 127)])
def test_a_bound_too_small_for_a_copy_is_refused(max_entries: int, max_bytes: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        LocalMemory(max_entries, max_bytes)


def test_a_value_larger_than_half_of_the_memory_is_not_kept() -> None:
    layer = LocalMemory(max_bytes=100 * SIZE_UNIT)
    shelf = layer.shelf()
    small = shelf.put("small", held())
    large = held(size=51)
    assert shelf.put("large", large) is large
    assert large.shelf is None
    assert large.until == FOREVER, "its caller may use it"
    assert "large" not in shelf.copies
    assert small.shelf is not None
    assert shelf.put("half", held(size=50)).shelf is not None


def test_a_value_that_grew_too_large_takes_the_old_one_away() -> None:
    layer = LocalMemory(max_bytes=100 * SIZE_UNIT)
    shelf = layer.shelf()
    old = shelf.put("key", held("old"))
    new = held("new", size=51)
    assert shelf.put("key", new) is new
    assert "key" not in shelf.copies
    assert old.shelf is None
    assert layer.usage().bytes == 0


def test_a_value_that_grew_pushes_out_others_and_stays() -> None:
    layer = LocalMemory(max_bytes=100 * SIZE_UNIT)
    shelf = layer.shelf()
    for raw in range(100):
        shelf.put(raw, held(raw))
    kept = shelf.put(0, held("grown", size=50))
    assert shelf.copies[0] is kept
    assert kept.value == "grown"
    assert layer.usage().bytes == 100 * SIZE_UNIT
    assert len(shelf) == 51


def test_memory_does_not_grow_in_a_storm_of_invalidations() -> None:
    """A million puts and drops; a tenth of them over again under tracemalloc, so that the measure itself takes no memory."""
    layer = LocalMemory()
    shelf = layer.shelf()
    for raw in range(50):
        shelf.put(("stays", raw), held())

    def storm(rounds: int) -> None:
        for raw in range(rounds):
            shelf.put(raw & 7, held(raw))
            shelf.drop(raw & 7)

    storm(900_000)
    gc.collect()
    tracemalloc.start()
    try:
        storm(1_000)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        storm(100_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - before < 100_000
    assert layer.usage().entries == 50


def test_tombstones_of_large_values_are_swept_early() -> None:
    """What dropped copies still hold in the queues stays below an eighth of the bound, and one copy."""
    layer = LocalMemory(max_bytes=800 * SIZE_UNIT)
    shelf = layer.shelf()
    for raw in range(200):
        shelf.put(raw, held())

    class Value:
        pass

    values: list[weakref.ref[Value]] = []
    for _ in range(50):
        value = Value()
        values.append(weakref.ref(value))
        shelf.put("large", held(value, size=40))
        del value
        shelf.drop("large")
    gc.collect()
    assert sum(value() is not None for value in values) <= 3


# --- time -------------------------------------------------------------------------------------------------------------------------


def test_an_expired_copy_leaves_from_the_end_of_a_queue() -> None:
    clock = FakeClock()
    layer = LocalMemory(clock=clock.monotonic)
    shelf = layer.shelf()
    for raw in range(10):
        shelf.put(raw, held(deadline=clock.monotonic() + 5))
    clock.advance(5)
    for raw in range(100, 105):
        shelf.put(raw, held())
    assert [copy.raw for copy in shelf] == [100, 101, 102, 103, 104]
    assert layer.usage().evictions == 0, "their time had come"


def test_an_expired_copy_behind_a_fresh_one_leaves_too() -> None:
    clock = FakeClock()
    layer = LocalMemory(clock=clock.monotonic)
    shelf = layer.shelf()
    shelf.put("fresh", held())
    for raw in range(1_000):
        shelf.put(raw, held(deadline=clock.monotonic() + 5))
    clock.advance(5)
    for raw in range(1_100):
        shelf.put(("new", raw), held())
    assert layer.usage().entries == 1_101
    assert "fresh" in shelf.copies


def test_what_may_still_be_served_stale_stays_and_leaves_when_that_is_over() -> None:
    """At the ends of the queues and in the middle alike."""
    clock = FakeClock()
    layer = LocalMemory(clock=clock.monotonic)
    shelf = layer.shelf()
    for raw in range(10):
        shelf.put(raw, held(deadline=clock.monotonic() + 5, stale=clock.monotonic() + 50))
    for seconds, stale in ((5, 10), (44, 10), (1, 0)):
        clock.advance(seconds)
        for _ in range(100):
            shelf.put(("new", clock.monotonic()), held())
            shelf.drop(("new", clock.monotonic()))
        shelf.put("new", held())
        assert len(shelf.copies) == stale + 1


def test_renewing_an_expired_copy_keeps_it() -> None:
    clock = FakeClock()
    layer = LocalMemory(clock=clock.monotonic)
    shelf = layer.shelf()
    first = shelf.put("key", held("old", deadline=clock.monotonic() + 5))
    for round_number in range(1_000):
        clock.advance(5)
        kept = shelf.put("key", held(round_number, deadline=clock.monotonic() + 5))
        assert kept is first
        assert shelf.copies["key"] is first
    assert layer.usage().entries == 1


def test_the_time_of_a_timed_cache_takes_copies_away() -> None:
    """A TTLCache expires them: the books follow, hits included."""
    clock = FakeClock()
    layer = CachetoolsMemory(cachetools.TTLCache(100, ttl=10, timer=clock.monotonic))
    shelf = layer.shelf()
    copy = shelf.put("key", held())
    assert read(shelf, "key")
    clock.advance(10)
    assert "key" not in shelf.copies
    assert shelf.copies.get("key") is None
    assert len(shelf) == 0
    assert copy.raw is None
    assert copy.until <= 0
    assert shelf.hits == 1
    assert layer.usage().evictions == 0
    assert shelf.drop("key") is False
    again = shelf.put("key", held("again"))
    assert shelf.copies["key"] is again


def test_a_time_to_use_that_is_over_means_not_kept() -> None:
    clock = FakeClock()

    def deadline(place: Place, copy: Held, now: float) -> float:
        return copy.deadline

    layer = CachetoolsMemory(cachetools.TLRUCache(100, ttu=deadline, timer=clock.monotonic))
    shelf = layer.shelf()
    standing = shelf.put("key", held("old", deadline=clock.monotonic() + 5))
    late = held("late", deadline=clock.monotonic())
    assert shelf.put("key", late) is late
    assert standing.shelf is None
    assert len(shelf) == 0
    assert layer.usage().entries == 0


# --- cachetools -------------------------------------------------------------------------------------------------------------------


def test_the_cache_decides_who_leaves() -> None:
    shelf = CachetoolsMemory(cachetools.LRUCache(3)).shelf()
    for raw in "abc":
        shelf.put(raw, held())
    read(shelf, "a")
    shelf.put("d", held())
    assert sorted(map(str, shelf.copies)) == ["a", "c", "d"]


def test_what_a_cache_refuses_is_returned_as_it_is() -> None:
    layer = CachetoolsMemory(cachetools.LRUCache(10, getsizeof=lambda copy: copy.size))
    shelf = layer.shelf()
    standing = shelf.put("key", held(size=2))
    large = held(size=11)
    assert shelf.put("other", large) is large
    assert large.shelf is None
    assert standing.shelf is not None
    assert shelf.put("key", large) is large
    assert standing.shelf is None
    assert layer.usage().entries == layer.usage().bytes == 0


def test_growth_that_pushes_the_copy_itself_out_still_keeps_it() -> None:
    layer = CachetoolsMemory(cachetools.LRUCache(10, getsizeof=lambda copy: copy.size))
    shelf = layer.shelf()
    first = shelf.put("a", held(size=4))
    shelf.put("b", held(size=4))
    kept = shelf.put("a", held("grown", size=10))
    assert kept is first
    assert shelf.copies["a"] is first
    assert first.raw == "a"
    assert first.until == FOREVER
    assert layer.usage().entries == 1
    assert layer.usage().bytes == 10


def test_usage_shows_what_is_known_of_a_cache() -> None:
    plain = CachetoolsMemory(cachetools.LRUCache(10)).usage()
    assert (plain.max_entries, plain.max_bytes) == (10, 0)
    sized = CachetoolsMemory(cachetools.LRUCache(640, getsizeof=lambda copy: copy.size * SIZE_UNIT)).usage()
    assert (sized.max_entries, sized.max_bytes) == (0, 640)
    endless = CachetoolsMemory(cachetools.LRUCache(FOREVER)).usage()
    assert (endless.max_entries, endless.max_bytes) == (0, 0)


def test_a_cache_in_use_is_refused() -> None:
    cache: cachetools.LRUCache[Place, Held] = cachetools.LRUCache(10)
    cache[0, "mine"] = held()
    with pytest.raises(ValueError, match="not empty"):
        CachetoolsMemory(cache)


# --- any sequence -----------------------------------------------------------------------------------------------------------------

RAWS = st.integers(0, 30)
SIZES = st.integers(1, 14)


class Books(RuleBasedStateMachine):
    """A layer beside a model that knows what was put last, how often each shelf served, and nothing of eviction."""

    MAX_ENTRIES = 12
    MAX_UNITS = 24

    def make(self) -> LocalLayer:
        return LocalMemory(max_entries=self.MAX_ENTRIES, max_bytes=self.MAX_UNITS * SIZE_UNIT, clock=self.clock.monotonic)

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.layer = self.make()
        self.shelves = [self.layer.shelf(), self.layer.shelf()]
        self.last: dict[tuple[int, int], Held] = {}
        self.served = [0, 0]
        self.seen: list[Held] = []

    @rule(which=st.integers(0, 1), raw=RAWS, size=SIZES, life=st.sampled_from([1.0, 5.0, FOREVER]))
    def put(self, which: int, raw: int, size: int, life: float) -> None:
        """What was put stands there, unless it is larger than half of the memory."""
        new = held((which, raw), size=size, deadline=self.clock.monotonic() + life)
        kept = self.shelves[which].put(raw, new)
        self.last[which, raw] = new
        self.seen.append(kept)
        if size > self.MAX_UNITS // 2:
            assert kept is new
            assert raw not in self.shelves[which].copies
        else:
            assert self.shelves[which].copies[raw] is kept
            assert (kept.size, kept.deadline) == (size, new.deadline)

    @rule(which=st.integers(0, 1), raw=RAWS, times=st.integers(1, 5))
    def hit(self, which: int, raw: int, times: int) -> None:
        copy = self.shelves[which].copies.get(raw)
        if copy is not None:
            copy.hits += times
            self.served[which] += times
            assert copy.value == (which, raw)
            assert copy.size == self.last[which, raw].size

    @rule(which=st.integers(0, 1), raw=RAWS)
    def drop(self, which: int, raw: int) -> None:
        was = raw in self.shelves[which].copies
        assert self.shelves[which].drop(raw) is was
        assert raw not in self.shelves[which].copies

    @rule(seconds=st.sampled_from([0.5, 2.0, 10.0]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: len(self.seen) > 20)
    @rule()
    def clear(self) -> None:
        self.layer.clear()
        self.seen.clear()
        assert self.layer.usage().entries == 0

    @precondition(lambda self: len(self.seen) > 10)
    @rule(which=st.integers(0, 1))
    def abandon(self, which: int) -> None:
        self.shelves[which] = self.layer.shelf()
        self.served[which] = 0

    @invariant()
    def books_are_right(self) -> None:
        usage = self.layer.usage()
        copies = [copy for shelf in self.shelves for copy in shelf]
        assert usage.entries == len(copies) == sum(len(shelf) for shelf in self.shelves) <= self.MAX_ENTRIES
        assert usage.bytes == SIZE_UNIT * sum(copy.size for copy in copies) <= self.MAX_UNITS * SIZE_UNIT
        assert [shelf.hits for shelf in self.shelves] == self.served
        here = set(map(id, copies))
        for copy in self.seen:
            assert (copy.shelf is not None) is (id(copy) in here) is (copy.raw is not None or id(copy) in here)
        for shelf in self.shelves:
            for copy in shelf:
                assert shelf.copies[copy.raw] is copy


class PluggedBooks(Books):
    def make(self) -> LocalLayer:
        return CachetoolsMemory(cachetools.LRUCache(self.MAX_UNITS * SIZE_UNIT // 2, getsizeof=lambda copy: copy.size * SIZE_UNIT))

    MAX_ENTRIES = 24


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestPluggedBooks = PluggedBooks.TestCase
TestPluggedBooks.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)


# --- threads, forks, the collector ------------------------------------------------------------------------------------------------


def test_no_hit_is_lost_while_the_evictor_runs() -> None:
    """Two threads hit without a lock, two make the evictor lower the counts they add to."""
    layer = LocalMemory(max_entries=20)
    shelf = layer.shelf()
    served = [0, 0]
    done = threading.Event()

    def hitter(me: int) -> None:
        while not done.is_set():
            for raw in range(10):
                copy = shelf.copies.get(raw)
                if copy is None:
                    continue
                if copy.until > 0.0:
                    copy.hits += 1
                    served[me] += 1

    def putter(me: int) -> None:
        for number in range(20_000):
            shelf.put(number % 10 if number % 3 else (me, number), held())
        done.set()

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        run_together([lambda: hitter(0), lambda: hitter(1), lambda: putter(0), lambda: putter(1)])
    finally:
        sys.setswitchinterval(switch)
    assert shelf.hits == sum(served) > 0
    assert layer.usage().entries == len(shelf) == 20


@pytest.mark.parametrize(
    ("step", "last"),
    [(LocalMemory._evict, "hits"), (LocalMemory._depart, "until")],  # pyright: ignore[reportPrivateUsage]
)
def test_no_thread_gives_way_while_hits_change_hands(step: Callable[..., None], last: str) -> None:
    """From where the evictor reads ``hits`` to where it has written them (and closed the copy to readers) nothing is called, and no
    loop jumps back: only there does an interpreter with a global lock turn to another thread.
    """
    code = list(dis.get_instructions(step))
    written = next(at for at, each in enumerate(code) if (each.opname, each.argval) == ("STORE_ATTR", "hits"))
    read = max(at for at, each in enumerate(code[:written]) if (each.opname, each.argval) == ("LOAD_ATTR", "hits"))
    end = next(at for at, each in enumerate(code) if at >= written and (each.opname, each.argval) == ("STORE_ATTR", last))
    between = [each.opname for each in code[read : end + 1]]
    assert len(between) >= 4
    assert not [name for name in between if name.startswith(("CALL", "PRECALL", "JUMP_BACKWARD", "FOR_ITER", "RESUME", "LOAD_METHOD"))]


def test_a_finalizer_may_use_the_layer() -> None:
    """A value that is evicted calls the layer from ``__del__``, in the middle of the put that evicts it."""
    layer = LocalMemory(max_entries=10)
    shelf = layer.shelf()
    finalized: list[int] = []

    class Value:
        def __init__(self, number: int) -> None:
            self.number = number

        def __del__(self) -> None:
            finalized.append(self.number)
            shelf.put(("finalized", self.number), held())

    for number in range(200):
        shelf.put(number, held(Value(number)))
    usage = layer.usage()
    assert len(finalized) > 150
    assert usage.entries == len(shelf) <= 11
    assert usage.bytes == usage.entries * SIZE_UNIT
    layer.clear()


def test_a_layer_nobody_holds_is_freed() -> None:
    layer = LocalMemory()
    shelf = layer.shelf()

    class Value:
        pass

    value = Value()
    alive = weakref.ref(value)
    shelf.put("key", held(value))
    del layer, shelf, value
    gc.collect()
    assert alive() is None


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 and later warn of the very thing tested
def test_a_forked_child_finds_the_lock_free() -> None:
    """A thread is inside the layer, again and again, while the process forks."""
    layer = LocalMemory(max_entries=100)
    shelf = layer.shelf()
    done = threading.Event()

    def work() -> None:
        number = 0
        while not done.is_set():
            number += 1
            shelf.put(number, held())

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(20):
            child = os.fork()
            if child == 0:
                # The child can not fail a test: it says by its exit code how it went, or is killed by the alarm.
                signal.alarm(10)
                usage = layer.usage()
                shelf.put("child", held())
                os._exit(0 if usage.entries == len(shelf) - (usage.entries < 100) else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        done.set()
        thread.join()
