"""Stats: each call is counted once, where it was answered, and the numbers of all doors are these."""

from __future__ import annotations

import gc
import json
import threading
import time
import traceback
import tracemalloc
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any, cast

import pytest

from cachesync import Cache, FunctionStats, MemoryShared, Policy, Settings
from cachesync.coordination.auditor import Auditor
from cachesync.coordination.events import CATALOGUE
from cachesync.core.auditing import Question
from cachesync.core.bans import BanIndex, SoftIndex
from cachesync.core.entry import SIZE_UNIT
from cachesync.core.records import GLOB, KEY, PREFIX, TAG, Kind, Targets
from cachesync.core.settings import LocalSettings
from cachesync.layers.local import SLACK, LocalMemory
from support.nodes import COLOURS, LONG, Caller, Colour, LoopThread, Node, Origin, engine_of, read_log, sites_of, until

POLICIES = [
    Policy(name="stores", match="stores:*", ttl="1h", stale_while_revalidate="1h"),
    Policy(name="others", match="*", ttl="1h"),
]


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    with LoopThread() as thread:
        yield thread


def row_of(cache: Cache, name: str) -> FunctionStats:
    return next(row for full, row in cache.stats().functions.items() if full.endswith(f".{name}"))


@pytest.mark.parametrize("colour", COLOURS)
def test_each_call_is_counted_where_it_was_answered(colour: Colour, loop: LoopThread) -> None:
    """Computed, from local memory, from the shared layer, not found: the sum of them is the calls."""
    shared = MemoryShared()
    first, second = (Caller(Cache(policies=POLICIES, shared=shared, listen=False), colour, loop) for _ in range(2))

    async def body(code: str) -> str:
        return code

    store, same = first.cached("stores:{code}")(body), second.cached("stores:{code}")(body)
    for function in (store, store, store, same, same):
        second.do(function, "JKT")
    assert second.get("stores:BDG") is None
    one, two = row_of(first.cache, "body"), row_of(second.cache, "body")
    assert (one.computed, one.local_hits, one.shared_hits, one.missed, one.stored, one.calls) == (1, 2, 0, 0, 1, 3)
    assert (two.computed, two.local_hits, two.shared_hits, two.missed, two.stored, two.calls) == (0, 1, 1, 1, 0, 3)
    assert one.hit_rate == two.hit_rate == 2 / 3
    assert (one.hits, two.hits) == (2, 2)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_stale_answer_is_counted_as_one(colour: Colour, loop: LoopThread) -> None:
    """It is a hit, too: of the layer that it came from."""
    node = Node(MemoryShared(), Origin(), colour=colour, loop=loop, stale=600.0)
    node.read()
    node.drop("item:*", soft=True)
    gate = node.origin.hold()
    assert node.read() == 1
    gate.wait()
    assert node.read() == 1
    row = row_of(node.cache, "item" if colour == "def" else "aitem")
    assert (row.stale, row.local_hits) == (2, 2)
    assert node.cache.stats().refreshes.under_way == 1
    gate.open()
    until(lambda: node.cache.stats().refreshes.under_way == 0, "the refresh")


def test_the_functions_of_a_policy_are_added_up() -> None:
    """By the policy's name; keys by text that belong to no function count too."""
    cache = Cache(policies=POLICIES)

    @cache.cached("stores:{code}")
    def store(code: str) -> str:
        return code

    @cache.cached("stores:{code}:size")
    def size(code: str) -> int:
        return len(code)

    @cache.cached("users:{number}")
    def user(number: int) -> int:
        return number

    assert (store("JKT"), store("JKT"), size("JKT"), user(1)) == ("JKT", "JKT", 3, 1)
    cache.get("stores:a:b:c")
    stats = cache.stats()
    assert [name.rpartition(".")[2] for name in stats.functions] == ["store", "size", "user", "keys of policy stores"]
    stores, others = stats.policies["stores"], stats.policies["others"]
    assert (stores.policy, stores.computed, stores.local_hits, stores.missed, stores.calls) == ("stores", 2, 1, 1, 4)
    assert (others.policy, others.computed, others.calls) == ("others", 1, 1)
    assert (stats.total.policy, stats.total.calls) == ("*", 5)
    assert stores.hit_rate == 1 / 4


def test_counting_waits_for_nobody_who_waits_for_it() -> None:
    """The copies of keys that went to another policy leave when somebody counts. One calls the cache from its finalizer, while another
    thread is about to hold a copy.
    """
    cache = Cache(policies=POLICIES)
    said: list[int] = []

    @cache.cached("users:{number}")
    def user(number: int) -> int:
        return number

    class Value:
        def __del__(self) -> None:
            if not said:
                said.append(0)
                other = threading.Thread(target=user, args=(1,), daemon=True)
                other.start()
                other.join(0.5)  # as far as it can come
                said.append(user(2))

    for number in range(2 * SLACK):  # so many that they are swept at once
        cache.set(f"stores:{number}", Value())
    cache.reload(policies=[Policy(name="shops", match="stores:*", ttl="1h"), POLICIES[1]])
    gc.collect()
    assert said == []
    counting = threading.Thread(target=cache.stats, daemon=True)
    counting.start()
    counting.join(LONG)
    assert not counting.is_alive(), "it waits for ever"
    assert said == [0, 2]
    assert user(1) == 1


class OwnedLock:
    """The lock of local memory, which notes each time that a thread takes it without the engine's."""

    def __init__(self, cache: Cache) -> None:
        self._inner, self._engine = threading.RLock(), engine_of(cache)
        self.alone: list[str] = []

    def __enter__(self) -> None:
        if not self._engine.is_busy_here():
            self.alone.append("".join(traceback.format_stack()))
        self._inner.acquire()

    def __exit__(self, *_: object) -> None:
        self._inner.release()


def test_nobody_takes_the_lock_of_local_memory_alone() -> None:
    """Whatever is done with a cache: the collector may run under any lock, and a finalizer may call the cache."""
    cache = Cache(policies=POLICIES, shared=MemoryShared(), listen=False)
    memory = engine_of(cache).local
    assert isinstance(memory, LocalMemory)
    lock = OwnedLock(cache)
    memory.lock = cast("Any", lock)

    @cache.cached("stores:{code}", tags=["a"])
    def store(code: str) -> str:
        return code

    assert [store("JKT"), store("JKT"), store("BDG")] == ["JKT", "JKT", "BDG"]
    auditor = Auditor(engine_of(cache), lambda key: (sites_of(cache)[0], sites_of(cache)[0].address(("JKT",))), lambda: sites_of(cache))
    assert auditor.examine(Question("", Targets(TAG, ("a",)), replace(cache.stamp(), number=99))) is not None
    cache.set("users:1", 1)
    cache.invalidate(tags=["a"])
    store.refresh("JKT")
    read_log(cache)
    assert cache.stats().functions
    cache.switch_here("local", "off")
    cache.reload(policies=[Policy(name="stores", match="stores:*", ttl="1m"), POLICIES[1]])
    cache.reload(Settings(local=LocalSettings(max_entries=1), policies=cache.settings.policies))
    cache.close()
    assert lock.alone == []


def test_all_of_it_is_json() -> None:
    """Also before the log was ever heard, when its lag has no end."""
    with Cache(policies=POLICIES, shared=MemoryShared(), listen=False) as cache:
        early = cache.stats()
        assert early.as_dict()["log"]["lag"] is None
        cache.invalidate("a:*")
        assert cache.get_or_compute("stores:x", lambda: 1) == 1
        stats = cache.stats()
        told: dict[str, Any] = json.loads(json.dumps(stats.as_dict(), allow_nan=False))
        assert told["log"]["position"] == str(stats.position)
        assert told["total"]["computed"] == told["policies"]["stores"]["computed"] == 1
        assert told["total"]["hit_rate"] == 0.0
        assert told["shared"] == {"breaker": "closed", "failing": None}
        assert list(told["events"]) == list(CATALOGUE) and told["events"]["invalidated"] == 1
        assert abs(told["since"] - time.time()) < 3600
        assert asdict(stats)["log"]["bans"] == 1


def test_counts_are_since_the_cache_was_made() -> None:
    """``since`` says when that was, by the clock of the machine."""
    before = time.time()
    cache = Cache(policies=POLICIES)
    assert before <= cache.stats().since <= time.time()
    assert cache.stats().since == cache.stats().since


def test_the_breaker_and_the_trouble_are_told() -> None:
    """Closed while the layer works; open after a failure; half open when the next who would ask tries; and closed again."""
    shared = MemoryShared()
    with Cache(policies=POLICIES, shared=shared, listen=False) as cache:
        cache.get("stores:x")
        assert cache.stats().shared.breaker == "closed" and cache.stats().shared.failing is None
        with shared.outage():
            cache.get("stores:x")
            assert cache.stats().shared.breaker == "open"
            failing = cache.stats().shared.failing
            assert failing is not None and failing >= 0
            engine_of(cache).breaker.end_rest()
            assert cache.stats().shared.breaker == "half-open"
        cache.get("stores:x")
        assert cache.stats().shared.breaker == "closed" and cache.stats().shared.failing is None


def test_whether_the_log_is_read_is_told() -> None:
    """By a thread of this process; without one, what is new is learned with each trip."""
    with Cache(policies=POLICIES, shared=MemoryShared()) as cache:
        assert not cache.stats().log.is_read, "it begins when it is first needed"
        cache.get("stores:x")
        assert cache.stats().log.is_read
    with Cache(policies=POLICIES, shared=MemoryShared(), listen=False) as silent:
        assert read_log(silent) and not silent.stats().log.is_read


@pytest.mark.parametrize("kind", [KEY, TAG, PREFIX, GLOB])
@pytest.mark.parametrize("soft", [False, True])
def test_what_the_index_weighs_is_about_what_it_takes(kind: Kind, *, soft: bool) -> None:
    """Within a factor of two of what the interpreter allocates for it; and a sample is enough for it."""
    texts = [f"customers:{number % 40}:{number:06}" + (":*:x" if kind == GLOB else "") for number in range(2_000)]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        index = SoftIndex() if soft else BanIndex()
        for number, text in enumerate(texts, 300):
            own = (text + " ")[:-1]  # a text of its own, as one that was read from the log
            if isinstance(index, SoftIndex):
                index.note(Targets(kind, (own,)), number, float(number))
            else:
                index.add(kind, own, number)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken / 2 < index.weigh() < 2 * taken
    assert len(index) == 2_000


def test_an_index_that_grows_weighs_more() -> None:
    """What one invalidation takes stays about the same."""
    cache = Cache(policies=POLICIES)
    assert cache.stats().log.bytes_per_ban == 0.0
    weights: list[float] = []
    for _ in range(3):
        for number in range(1_000):
            cache.invalidate(f"stores:{len(weights)}:{number}")
        weights.append(cache.stats().log.bytes_per_ban)
    assert 50 < min(weights) <= max(weights) < 1_000
    assert cache.stats().log.index_bytes > 100_000


def test_local_memory_is_told_in_bytes() -> None:
    """Its use, and its bound."""
    cache = Cache(policies=POLICIES)
    cache.get_or_compute("stores:x", lambda: "x" * 10_000)
    usage = cache.stats().local
    assert usage.entries == 1 and usage.bytes >= 10_000 - SIZE_UNIT and usage.max_bytes > 0
