"""Functions of many arguments: one call computes what is missing, and each item is cached, leased, invalidated and waited for by itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Optional, cast

import pytest

from cachesync import (
    BatchError,
    Cache,
    CodecError,
    KeyArgumentError,
    KeyTemplateError,
    MemoryShared,
    OverdueError,
    Policy,
    RedisShared,
    RestingError,
    Settings,
    Stamp,
)
from cachesync.coordination import batches, worlds
from cachesync.coordination.events import Event
from cachesync.coordination.flights import Flight
from cachesync.core.settings import CoordinationSettings
from cachesync.core.steps import Await, Awaits, Fetch, Hear, Heard, Lease, Step, Store, Waited
from cachesync.testing import FakeClock
from support.nodes import (
    COLOURS,
    KEY_KINDS,
    KINDS,
    LONG,
    BatchNode,
    Caller,
    Colour,
    Gate,
    HoldingShared,
    LoopThread,
    Origin,
    engine_of,
    operations_of,
    read_log,
    until,
    use,
)
from support.servers import Server

TTL = 10.0
WINDOW = 100.0
SOON = 0.02
"""Seconds that a test waits for a computation that it holds."""


@dataclass(frozen=True)
class Shop:
    code: str
    name: str


class OriginError(Exception):
    """What the origin raises."""


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    with LoopThread() as loop:
        yield loop


@pytest.fixture(params=COLOURS)
def colour(request: pytest.FixtureRequest) -> Colour:
    chosen: Colour = request.param
    return chosen


@pytest.fixture
def shared() -> HoldingShared:
    return HoldingShared(MemoryShared())


@pytest.fixture
def node(shared: HoldingShared, colour: Colour, loop: LoopThread) -> Iterator[BatchNode]:
    node = BatchNode(shared, Origin(), colour=colour, loop=loop)
    yield node
    node.close()


@pytest.fixture
def other(shared: HoldingShared, node: BatchNode, colour: Colour, loop: LoopThread) -> Iterator[BatchNode]:
    """Another process, with an origin of its own that has the same data."""
    other = BatchNode(shared, Origin(), colour=colour, loop=loop)
    yield other
    other.close()


def caller_of(colour: Colour, loop: LoopThread, *, shared: MemoryShared | None = None, **options: Any) -> Caller:
    policy = Policy(name="all", match="*", ttl="1h", **options)
    return Caller(Cache(policies=[policy], shared=shared, listen=False), colour, loop)


def cached_many(caller: Caller, key: str, function: Callable[..., Any], **how: Any) -> Any:
    """Decorates a plain function, in the colour of the caller."""
    if caller.colour == "def":
        return caller.cache.cached_many(key, **how)(function)

    async def waiting(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    waiting.__name__ = function.__name__
    waiting.__qualname__ = function.__qualname__
    waiting.__annotations__ = function.__annotations__
    waiting.__wrapped__ = function  # type: ignore[attr-defined]  # its signature is that of the function
    return caller.cache.cached_many(key, **how)(waiting)


# --- what is called, and with what ------------------------------------------------------------------------------------------------


def test_a_batch_is_one_call_with_just_the_misses(node: BatchNode, other: BatchNode, shared: HoldingShared) -> None:
    """In any mix of local hits, hits of the shared layer and misses: one trip reads, one takes leases, one stores."""
    assert other.read(1) == 1
    assert other.read(2) == 1
    assert node.read(2) == 1
    assert node.read(3) == 1
    assert node.origin.computations == 1, "2 came from the shared layer, 3 was computed"
    shared.steps.clear()
    shared.trips = 0
    assert node.read_many(1, 2, 3, 4, 5, 6) == {1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1}
    assert node.origin.batches == [[4, 5, 6]]
    assert node.origin.computations == 2
    assert [(step.__class__, getattr(step, "keys", None)) for step in shared.steps[:1]] == [
        (Fetch, ("item:1", "item:4", "item:5", "item:6"))
    ]
    assert (shared.count(Lease), shared.count(Store), shared.trips) == (3, 3, 3)


def test_what_a_batch_has_computed_is_cached_item_by_item(node: BatchNode, other: BatchNode) -> None:
    """Here and in other processes, for batches and for the function of one item that shares its entries."""
    assert node.read_many(1, 2) == {1: 1, 2: 1}
    node.origin.version = other.origin.version = 2
    assert node.read_many(2, 1) == {2: 1, 1: 1}
    assert node.read(1) == 1
    assert other.read(1) == 1
    assert other.read_many(1, 2) == {1: 1, 2: 1}
    assert (node.origin.computations, other.origin.computations) == (1, 0)
    stats = node.cache.stats()
    assert (stats.total.computed, stats.total.stored) == (2, 2)


def test_an_item_that_is_asked_for_twice_is_computed_once(node: BatchNode) -> None:
    assert node.read_many(1, 1, 2, 1) == {1: 1, 2: 1}
    assert node.origin.batches == [[1, 2]]


def test_nothing_is_computed_for_no_items(node: BatchNode, shared: HoldingShared) -> None:
    assert node.read_many() == {}
    assert node.do(node.items.keys, []) == []
    assert (node.origin.computations, shared.steps) == (0, [])


def test_a_list_has_a_result_for_each_item_in_their_order(colour: Colour, loop: LoopThread) -> None:
    caller = caller_of(colour, loop)
    asked: list[list[int]] = []

    def squares(numbers: Iterable[int]) -> list[int]:
        asked.append(list(numbers))
        return [number * number for number in asked[-1]]

    cached = cached_many(caller, "square:{number}", squares)
    assert caller.do(cached, [3, 1, 3]) == [9, 1, 9]
    assert caller.do(cached, (number for number in (2, 1, 3))) == [4, 1, 9]
    assert asked == [[3, 1], [2]]


def test_what_else_a_function_takes_is_part_of_every_key(colour: Colour, loop: LoopThread) -> None:
    """Wherever the items stand among its parameters; what is ignored is passed on."""
    caller = caller_of(colour, loop)
    asked: list[tuple[Any, ...]] = []

    def names(lang: str, codes: Sequence[str], *, upper: bool = False, trace: object = None) -> dict[str, str]:
        asked.append((lang, codes, upper, trace))
        return {code: f"{lang} {code}" for code in codes}

    cached = cached_many(caller, "names:{lang}:{upper}:{code}", names, ignore=["trace"])
    assert caller.do(cached, "id", ["JKT"], trace=7) == {"JKT": "id JKT"}
    assert caller.do(cached, "id", codes=["JKT", "BDG"]) == {"JKT": "id JKT", "BDG": "id BDG"}
    assert caller.do(cached, "en", ["JKT"], upper=True) == {"JKT": "en JKT"}
    assert asked == [("id", ["JKT"], False, 7), ("id", ["BDG"], False, None), ("en", ["JKT"], True, None)]
    assert cached.keys("id", ["JKT", "BDG"]) == ["names:id:false:JKT", "names:id:false:BDG"]


def test_a_function_is_given_the_collection_that_it_asks_for(colour: Colour, loop: LoopThread) -> None:
    caller = caller_of(colour, loop)
    given: list[Any] = []

    def answer(items: Collection[int]) -> dict[int, int]:
        given.append(items)
        return dict.fromkeys(items, 1)

    def a_tuple(items: tuple[int, ...]) -> dict[int, int]:
        return answer(items)

    def a_set(items: set[int]) -> dict[int, int]:
        return answer(items)

    def a_frozen_set(items: AbstractSet[int]) -> dict[int, int]:
        return answer(items)

    def maybe(items: list[int] | None = None) -> dict[int, int]:
        return answer(items or [])

    def variadic(*items: int) -> dict[int, int]:
        return answer(items)

    def after_a_default(lang: str = "en", *items: int) -> dict[int, int]:
        return answer(items)

    for function in (a_tuple, a_set, a_frozen_set, maybe):
        caller.do(cached_many(caller, f"{function.__name__}:{{item}}", function), [1, 2])
    assert caller.do(cached_many(caller, "variadic:{item}", variadic), 1, 2) == {1: 1, 2: 1}
    assert caller.do(cached_many(caller, "default:{lang}:{item}", after_a_default), "en", 1, 2) == {1: 1, 2: 1}
    assert given == [(1, 2), {1, 2}, frozenset({1, 2}), [1, 2], (1, 2), (1, 2)]
    assert [type(one) for one in given] == [tuple, set, frozenset, list, tuple, tuple]


def test_methods_may_take_many_items(colour: Colour, loop: LoopThread) -> None:
    caller = caller_of(colour, loop)

    def find(self: Any, numbers: list[int]) -> dict[int, str]:
        return {number: f"{self.name} {number}" for number in numbers}

    cached = cached_many(caller, "repo:{self.name}:{number}", find)

    class Repo:
        def __init__(self, name: str) -> None:
            self.name = name

    Repo.find = cached  # type: ignore[attr-defined]
    one, two = Repo("one"), Repo("two")
    assert caller.do(cached, one, [1]) == {1: "one 1"}
    assert caller.do(cached, two, [1]) == {1: "two 1"}
    assert one.find.__func__ is cached  # type: ignore[attr-defined]


def test_items_that_differ_and_have_one_key_are_one_item(colour: Colour, loop: LoopThread) -> None:
    """What tells items apart is their key: of two users with one id the first is asked for, and both are answered."""
    caller = caller_of(colour, loop)
    asked: list[list[Shop]] = []

    def visits(shops: list[Shop]) -> dict[Shop, int]:
        asked.append(shops)
        return dict.fromkeys(shops, 7)

    cached = cached_many(caller, "visits:{shop.code}", visits)
    one, same = Shop("JKT", "Jakarta"), Shop("JKT", "Jakarta Kota")
    assert caller.do(cached, [one, same]) == {one: 7, same: 7}
    assert asked == [[one]]


def test_a_large_batch_is_computed_page_by_page(colour: Colour, loop: LoopThread) -> None:
    """Memory and budget are those of a page. A page that fails ends the batch; what the pages before it have brought is cached."""
    shared = HoldingShared(MemoryShared())
    caller = caller_of(colour, loop, shared=shared)  # type: ignore[arg-type]
    asked: list[list[int]] = []

    def squares(numbers: list[int]) -> dict[int, int]:
        asked.append(numbers)
        if 99 in numbers:
            raise OriginError
        return {number: number * number for number in numbers}

    cached = cached_many(caller, "square:{number}", squares, page=2)
    assert caller.do(cached, [1, 2, 3, 1, 4, 5]) == {1: 1, 2: 4, 3: 9, 4: 16, 5: 25}
    assert asked == [[1, 2], [3, 4], [5]]
    with pytest.raises(OriginError):
        caller.do(cached, [6, 7, 99, 8, 9])
    assert asked[3:] == [[6, 7], [99, 8]]
    assert caller.do(cached, [6, 7]) == {6: 36, 7: 49}
    assert len(asked) == 5


# --- answers that do not fit ------------------------------------------------------------------------------------------------------


def test_an_item_that_is_left_out_counts_as_none(colour: Colour, loop: LoopThread) -> None:
    """It is cached as ``None``, for ``negative_ttl`` where the policy says so, and left out of a dict whose values are never ``None``."""
    clock = FakeClock()
    policy = Policy(name="all", match="*", ttl=TTL, negative_ttl=1.0)
    settings = Settings(coordination=CoordinationSettings(budget=LONG, max_lag=1000.0))
    shared = MemoryShared(clock.monotonic)
    caller = Caller(Cache(settings, policies=[policy], shared=shared, clock=clock, listen=False), colour, loop)
    asked: list[list[str]] = []

    def shops(codes: list[str]) -> dict[str, Shop]:
        asked.append(codes)
        return {code: Shop(code, "Jakarta") for code in codes if code != "???"}

    cached = cached_many(caller, "shops:{code}", shops)
    found = {"JKT": Shop("JKT", "Jakarta")}
    for _ in range(3):
        assert caller.do(cached, ["JKT", "???"]) == found
    assert asked == [["JKT", "???"]]
    clock.advance(2.0)
    read_log(caller.cache)
    assert caller.do(cached, ["JKT", "???"]) == found
    assert asked[1:] == [["???"]]


def test_where_none_is_a_result_an_item_that_is_left_out_is_none(colour: Colour, loop: LoopThread) -> None:
    caller = caller_of(colour, loop, shared=MemoryShared())

    def some(codes: list[str]) -> dict[str, str | None]:
        return {code: None if code == "none" else code for code in codes if code != "gone"}

    def older(codes: list[str]) -> Mapping[str, Optional[str]]:  # noqa: UP045 - it may be written so
        return some(codes)

    def anything(codes: list[str]) -> dict[str, Any]:
        return dict(some(codes))

    for function in (some, older, anything):
        cached = cached_many(caller, f"{function.__name__}:{{code}}", function)
        for _ in range(2):
            assert caller.do(cached, ["a", "none", "gone"]) == {"a": "a", "none": None, "gone": None}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({1: "1", 3: "3"}, "it returned a result for 3, which it was not asked for; it was given 1, 2"),
        ({"1": "1", "2": "2"}, "it returned a result for '1', '2', which it was not asked for; it was given 1, 2"),
        (["1", "2"], "it returned a list, where a dict of items to results was expected"),
        (None, "it returned None, where a dict of items to results was expected"),
    ],
)
def test_a_dict_with_other_items_is_a_clear_error(colour: Colour, loop: LoopThread, answer: Any, told: str) -> None:
    """Most often its keys are of another type: then every answer would be missed, and stored as missing."""
    caller = caller_of(colour, loop, shared=MemoryShared())

    def texts(numbers: list[int]) -> dict[int, str]:
        return cast("dict[int, str]", answer)

    cached = cached_many(caller, "text:{number}", texts)
    with pytest.raises(BatchError) as caught:
        caller.do(cached, [1, 2])
    assert str(caught.value).endswith(f"test_a_dict_with_other_items_is_a_clear_error.<locals>.texts: {told}")
    assert caller.get("text:1") is None
    assert caller.cache.stats().total.stored == 0


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (["1"], "it returned 1 result for 2 items; a list has one for each"),
        (["1", "2", "3"], "it returned 3 results for 2 items"),
        ({1: "1", 2: "2"}, "it returned a dict, where a list with a result for each item was expected"),
        ("12", "it returned a str, where a list with a result for each item was expected"),
    ],
)
def test_a_list_of_another_length_is_a_clear_error(colour: Colour, loop: LoopThread, answer: Any, told: str) -> None:
    """It names the function, and nothing is stored."""
    caller = caller_of(colour, loop, shared=MemoryShared())

    def texts(numbers: list[int]) -> list[str]:
        return cast("list[str]", answer)

    cached = cached_many(caller, "text:{number}", texts)
    with pytest.raises(BatchError) as caught:
        caller.do(cached, [1, 2])
    assert "texts: " + told in str(caught.value)
    assert caller.get("text:1") is None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("JKT", "codes are several items; write ['JKT'], not 'JKT'"),
        (7, "codes are several items, in a list; got an int"),
        ([["JKT"]], "its results stand in a dict by item, which has to be hashable; ['JKT'] is not"),
        ([1, True], "True is equal to another item, and has another key: they are one key of a dict"),
    ],
)
def test_what_holds_no_items_is_refused_before_anything_is_asked(colour: Colour, loop: LoopThread, given: Any, told: str) -> None:
    caller = caller_of(colour, loop)

    def names(codes: list[Any]) -> dict[Any, str]:
        raise AssertionError

    with pytest.raises(KeyArgumentError) as caught:
        caller.do(cached_many(caller, "names:{code}", names), given)
    assert told in str(caught.value)


# --- at decoration ----------------------------------------------------------------------------------------------------------------


def fits(codes: list[str]) -> dict[str, int]:
    raise AssertionError


def two(codes: list[str], lang: str) -> dict[str, int]:
    raise AssertionError


def a_text(codes: str) -> dict[str, int]:
    raise AssertionError


def no_annotation(codes: list[str]) -> Any:
    raise AssertionError


del no_annotation.__annotations__["return"]


def one_value(codes: list[str]) -> int:
    raise AssertionError


def a_pair(codes: list[str]) -> tuple[int, int]:
    raise AssertionError


def unordered(codes: set[str]) -> list[int]:
    raise AssertionError


def no_data(codes: list[str]) -> dict[str, Callable[[], int]]:
    raise AssertionError


def a_generator(codes: list[str]) -> Iterator[int]:
    yield 1


def method(self: Any, codes: list[str]) -> dict[str, int]:
    raise AssertionError


@pytest.mark.parametrize(
    ("function", "key", "how", "told"),
    [
        (fits, "stores:{codes}", {}, "each of its names is a parameter; one name that is none stands for one of the items"),
        (fits, "stores", {}, "each of its names is a parameter"),
        (fits, "stores:{code}:{x}", {}, "{code} and {x} are no parameters; one name that is none stands for one of the items"),
        (two, "stores:{code}", {}, "it leaves out 'codes', 'lang'; the one that it leaves out holds the items"),
        (two, "stores:{code}:{lang}:{codes}", {}, "it leaves out no parameter"),
        (method, "stores:{code}", {}, "it leaves out 'self', 'codes'"),
        (fits, "stores:{code}", {"tags": ["lang:{lang}"]}, "names no parameter of the function, which has: code"),
        (fits, "stores:{code}", {"ignore": ["nobody"]}, "ignore names 'nobody', which is no parameter"),
        (a_text, "stores:{code}", {}, "'codes' holds the items, and is annotated as str; write Sequence[str]"),
        (no_annotation, "stores:{code}", {}, "its return annotation says nothing; a function of many arguments returns dict[K, V]"),
        (one_value, "stores:{code}", {}, "its return annotation says int; a function of many arguments returns dict[K, V]"),
        (a_pair, "stores:{code}", {}, "its return annotation says tuple[int, int]"),
        (unordered, "stores:{code}", {}, "a set has no order that its results could be in"),
        (a_generator, "stores:{code}", {}, "is a generator"),
        (7, "stores:{code}", {}, "only a function can be cached, not int"),
        (fits, "stores:{code}", {"page": 0}, "page is a whole number from 1 to 10,000, not 0"),
        (fits, "stores:{code}", {"page": 10_001}, "page is a whole number from 1 to 10,000"),
        (fits, "stores:{code}", {"page": True}, "page is a whole number from 1 to 10,000"),
        (fits, "stores:{code}", {"ttl": float}, "has a ttl of its own"),
    ],
)
def test_what_does_not_fit_is_refused_at_decoration(function: Any, key: str, how: dict[str, Any], told: str) -> None:
    cache = Cache(policies=[Policy(name="stores", match="stores*", ttl="1h")])
    with pytest.raises(KeyTemplateError) as caught:
        cache.cached_many(key, **how)(function)
    assert told in str(caught.value)


def test_results_that_can_not_be_stored_are_refused_at_decoration() -> None:
    cache = Cache(policies=[Policy(name="all", match="*", ttl="1h")], shared=MemoryShared())
    with pytest.raises(CodecError, match="not data"):
        cache.cached_many("stores:{code}")(no_data)


def test_functions_of_one_and_of_many_items_share_entries_only_where_that_is_said() -> None:
    cache = Cache(policies=[Policy(name="all", match="*", ttl="1h")])

    @cache.cached("stores:{code}")
    def store(code: str) -> int:
        return 1

    with pytest.raises(KeyTemplateError, match="same_as=store"):
        cache.cached_many("stores:{code}")(fits)
    cached = cache.cached_many("stores:{code}", same_as=store)(lambda_of({"JKT": 2}))
    assert cached(["JKT"]) == {"JKT": 2}
    assert store("JKT") == 2


def lambda_of(answer: dict[str, int]) -> Callable[[list[str]], dict[str, int]]:
    def function(codes: list[str]) -> dict[str, int]:
        return answer

    return function


def test_a_result_type_may_be_defined_further_down(loop: LoopThread) -> None:
    """As with ``cached``: the annotation is looked at again when it is first needed."""
    cache = Cache(policies=[Policy(name="all", match="*", ttl="1h")], shared=MemoryShared(), listen=False)

    def stores(codes: list[str]) -> dict[str, Later]:  # type: ignore[name-defined]  # noqa: F821 - it comes later
        return {code: Later(code, "x") for code in codes}  # type: ignore[name-defined]  # noqa: F821

    decorate: Any = cache.cached_many("stores:{code}")
    cached: Callable[[list[str]], dict[str, Shop]] = decorate(stores)
    globals()["Later"] = Shop
    try:
        assert cached(["JKT"]) == {"JKT": Shop("JKT", "x")}
    finally:
        del globals()["Later"]


# --- invalidation -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_invalidation_during_the_call_concerns_what_it_matches(node: BatchNode, other: BatchNode, kind: str) -> None:
    """That item is stored nowhere, and whoever comes later does not join its computation; the others are stored."""
    gate = node.origin.hold()
    reading = node.start_many(1, 2)
    gate.wait()
    node.origin.version = other.origin.version = 2
    other.invalidate(kind, 1)
    node.read_log()
    late = node.start_read(1)
    until(lambda: node.origin.computations == 2 or kind not in KEY_KINDS)
    gate.open()
    assert reading.result(LONG) == {1: 1, 2: 1}
    assert late.result(LONG) == 2
    everything = kind in {"prefix", "tag of the policy", "everything"}
    assert other.valid(2) == (None if everything else 1)
    assert node.read_many(1, 2) == {1: 2, 2: 2 if everything else 1}
    assert other.read_many(1, 2) == {1: 2, 2: 2 if everything else 1}


@pytest.mark.parametrize("kind", KINDS)
def test_an_own_invalidation_during_the_call_concerns_what_it_matches(node: BatchNode, kind: str) -> None:
    gate = node.origin.hold()
    reading = node.start_many(1, 2)
    gate.wait()
    node.origin.version = 2
    node.invalidate(kind, 1)
    gate.open()
    assert reading.result(LONG) == {1: 1, 2: 1}
    assert node.valid(1) is None
    assert node.read(1) == 2


def test_items_are_invalidated_and_refreshed_together(node: BatchNode, other: BatchNode) -> None:
    node.read_many(1, 2, 3)
    other.read_many(1, 2, 3)
    node.origin.version = other.origin.version = 2
    stamp = node.do(node.items.invalidate, [1, 2])
    other.read_log()
    assert other.has_applied(stamp)
    assert other.read_many(1, 2, 3) == {1: 2, 2: 2, 3: 1}
    node.origin.version = 3
    assert node.do(node.items.refresh, [1, 3]) == {1: 3, 3: 3}
    assert node.origin.batches[-1] == [1, 3]
    other.read_log()
    assert other.read_many(1, 2, 3) == {1: 3, 2: 2, 3: 3}
    assert node.do(node.items.invalidate, []) == node.stamp()


def test_a_batch_is_not_older_than_the_stamp_that_is_asked_for(node: BatchNode, other: BatchNode, shared: HoldingShared) -> None:
    """In another process that has not heard of the invalidation yet, and in one trip for all of them."""
    assert node.read_many(1, 2) == other.read_many(1, 2) == {1: 1, 2: 1}
    node.origin.version = other.origin.version = 2
    stamp = other.invalidate("key as text", 1)
    assert node.read_many(1, 2) == {1: 1, 2: 1}, "it has not heard"
    shared.steps.clear()
    assert node.do(node.items.at_least, stamp, [1, 2]) == {1: 2, 2: 1}
    assert [step.keys for step in shared.steps if isinstance(step, Fetch)] == [("item:1", "item:2")]
    assert node.origin.batches[-1] == [1]
    with pytest.raises(KeyArgumentError, match="at_least is a Stamp"):
        node.do(node.items.at_least, None, [1])


def test_a_strict_policy_confirms_a_batch_in_one_trip(colour: Colour, loop: LoopThread) -> None:
    """Where that can not be done, one call computes everything, and nothing is stored."""
    memory = MemoryShared()
    shared = HoldingShared(memory)
    policies = [Policy(name="strict", match="*", ttl="1h", consistency="strict")]
    callers = [Caller(Cache(policies=policies, shared=shared, listen=False), colour, loop) for _ in range(2)]
    asked: list[list[int]] = []

    def squares(numbers: list[int]) -> dict[int, int]:
        asked.append(numbers)
        return {number: number * number for number in numbers}

    one, other = (cached_many(caller, "square:{number}", squares) for caller in callers)
    expected = {1: 1, 2: 4}
    assert callers[0].do(one, [1, 2]) == expected
    callers[1].drop("square:1")
    shared.steps.clear()
    assert callers[0].do(one, [1, 2]) == expected
    assert [step.strict for step in shared.steps if isinstance(step, Fetch)] == [True]
    assert asked == [[1, 2], [1]]
    callers[1].drop("*")
    with memory.outage():
        assert callers[0].do(one, [1, 2]) == expected
    assert asked[2:] == [[1, 2]]
    assert callers[1].do(other, [1, 2]) == expected
    assert asked[3:] == [[1, 2]], "nothing had been stored"


def test_a_batch_inside_of_an_update_does_not_wait_for_what_is_replaced(node: BatchNode) -> None:
    """The block computes that item itself, and what it sets is stored."""
    with node.update("item:1") as put:
        if node.colour == "def":
            assert node.items([1, 2]) == {1: 1, 2: 1}
        put(5)
    assert node.read_many(1, 2) == {1: 5, 2: 1}


# --- waiting for others -----------------------------------------------------------------------------------------------------------


def test_what_another_caller_computes_is_waited_for_and_the_rest_is_computed_at_once(node: BatchNode) -> None:
    """One call for what nobody computes yet, while the other goes on."""
    gate = node.origin.hold()
    one = node.start_read(1)
    gate.wait()
    batch = node.start_many(1, 2, 3)
    until(lambda: node.origin.batches == [[2, 3]], "the call for the rest")
    until(lambda: node.valid(3) == 1, "its results are there, though the batch still waits")
    assert not batch.done()
    gate.open()
    assert batch.result(LONG) == {1: 1, 2: 1, 3: 1}
    assert one.result(LONG) == 1
    assert node.origin.computations == 2
    assert node.cache.stats().total.joined == 1


def test_batches_that_overlap_in_opposite_order_compute_each_item_once(node: BatchNode) -> None:
    """In one process. Each goes on with what is its own, and waits for the other's with empty hands."""
    first, second = node.origin.hold(), node.origin.hold()
    one = node.start_many(1, 2, 3)
    first.wait()
    other = node.start_many(4, 3, 2, 1)
    second.wait()
    third = node.start_many(1, 4)
    first.open()
    second.open()
    assert one.result(LONG) == {1: 1, 2: 1, 3: 1}
    assert other.result(LONG) == {4: 1, 3: 1, 2: 1, 1: 1}
    assert third.result(LONG) == {1: 1, 4: 1}
    assert node.origin.batches == [[1, 2, 3], [4]]


def test_overlapping_batches_of_two_caches_compute_each_item_once(node: BatchNode, other: BatchNode) -> None:
    """Two processes, as far as the cache is concerned: leases keep them apart."""
    gates = [each.origin.hold() for each in (node, other)]
    one = node.start_many(1, 2)
    gates[0].wait()
    two = other.start_many(3, 2, 1)
    gates[1].wait()
    assert (node.origin.batches, other.origin.batches) == ([[1, 2]], [[3]])
    back = node.start_many(3, 1)
    gates[1].open()
    assert not two.done()
    gates[0].open()
    assert one.result(LONG) == {1: 1, 2: 1}
    assert two.result(LONG) == {3: 1, 2: 1, 1: 1}
    assert back.result(LONG) == {3: 1, 1: 1}
    assert (node.origin.batches, other.origin.batches) == ([[1, 2]], [[3]])


def test_an_exception_of_the_function_reaches_everybody_who_waits(node: BatchNode, other: BatchNode) -> None:
    """Those of the batch and those of single items, in this process; other processes compute anew."""
    gate = node.origin.hold()
    node.origin.fail(OriginError("not today"))
    batch = node.start_many(1, 2)
    gate.wait()
    waiting: list[Future[Any]] = [node.start_read(1), node.start_many(2, 1), node.start_read(2)]
    until(lambda: node.cache.stats().total.joined >= 3, "three callers wait")
    elsewhere = other.start_many(2, 3)
    until(lambda: other.origin.batches == [[3]], "the other process waits for 2")
    gate.open()
    everybody: list[Future[Any]] = [batch, *waiting]
    for each in everybody:
        with pytest.raises(OriginError):
            each.result(LONG)
    assert elsewhere.result(LONG) == {2: 1, 3: 1}
    assert other.origin.batches == [[3], [2]]
    assert node.read_many(1, 2) == {1: 1, 2: 1}


def test_a_lost_lease_of_one_item_is_computed_by_who_waits_for_it(node: BatchNode, other: BatchNode) -> None:
    """A key was invalidated while another process computed it: who waits takes over that key alone."""
    gate = node.origin.hold()
    one = node.start_many(1, 2)
    gate.wait()
    node.origin.version = other.origin.version = 2
    other.invalidate("key as text", 1)
    two = other.start_many(1, 2)
    until(lambda: other.origin.batches == [[1]], "the call for what lost its lease")
    gate.open()
    assert one.result(LONG) == {1: 1, 2: 1}
    assert two.result(LONG) == {1: 2, 2: 1}
    assert other.origin.batches == [[1]]


class QuietEar:
    """Hears nothing: who waits is woken by the test."""

    def perform(self, step: Hear, /) -> Heard:
        return Heard(())

    def watch(self, key: str) -> None: ...

    def unwatch(self, key: str) -> None: ...

    def wake(self) -> None: ...

    def close(self) -> None: ...


def test_of_several_leases_only_that_is_asked_for_again_which_has_ended(node: BatchNode) -> None:
    """Or those that were waited for long enough, in case nothing is heard."""
    operations = operations_of(node.cache)
    waiters = operations.engine.waiters
    waiters.ear = QuietEar()

    def flow(*awaits: Await) -> Generator[Step, Any, tuple[Waited | None, ...]]:
        waited: tuple[Waited | None, ...] = yield Awaits(awaits)
        return waited

    def wait(*awaits: Await) -> Future[tuple[Waited | None, ...]]:
        if node.colour == "def":
            return node.start(operations.run, flow(*awaits))
        return node.loop.submit(operations.arun(flow(*awaits)))

    long = [Await(f"item:{n}", f"token {n}", LONG) for n in range(3)]
    waiting = wait(*long)
    until(lambda: len(waiters) == 3)
    waiters.wake("item:1")
    assert [waited is not None for waited in waiting.result(LONG)] == [False, True, False]
    waiting = wait(long[0], long[1]._replace(seconds=SOON), long[2])
    assert [waited is not None for waited in waiting.result(LONG)] == [False, True, False]
    waiters.wake()
    assert [waited is not None for waited in wait(*long).result(LONG)] == [True, True, True]


def test_a_function_may_ask_for_its_own_items(colour: Colour, loop: LoopThread) -> None:
    """What it computes itself, further up, it does not wait for."""
    caller = caller_of(colour, loop, shared=MemoryShared())
    asked: list[list[int]] = []
    cached: Any = None

    def squares(numbers: list[int]) -> dict[int, int]:
        raise AssertionError

    async def body(numbers: list[int]) -> dict[int, int]:
        asked.append(numbers)
        if len(asked) == 1:
            await use(cached, [1, 2, 3])
        return {number: number * number for number in numbers}

    if colour == "async def":
        body.__annotations__ = squares.__annotations__
        cached = caller.cache.cached_many("square:{number}")(body)
    else:

        def plain(numbers: list[int]) -> dict[int, int]:
            asked.append(numbers)
            if len(asked) == 1:
                cached([1, 2, 3])
            return {number: number * number for number in numbers}

        cached = caller.cache.cached_many("square:{number}")(plain)
    assert caller.do(cached, [1, 2]) == {1: 1, 2: 4}
    assert sorted(map(sorted, asked)) == [[1, 2], [1, 2], [3]]


def test_a_cancelled_batch_takes_nothing_from_those_who_wait(shared: HoldingShared, loop: LoopThread) -> None:
    """Its call goes on as long as anybody waits for any of its items."""
    node = BatchNode(shared, Origin(), colour="async def", loop=loop)
    gate = node.origin.hold()
    batch = node.start_many(1, 2, 3)
    gate.wait()
    waiting = node.start_read(2)
    until(lambda: node.cache.stats().total.joined == 1)
    batch.cancel()
    gate.open()
    assert waiting.result(LONG) == 1
    until(lambda: node.valid(3) == 1, "the others are stored, too")
    assert node.origin.computations == 1
    node.close()


def test_a_cancelled_batch_ends_no_call_that_somebody_has_left_behind(loop: LoopThread) -> None:
    """One of its items was answered with an old value after the soft timeout, so the call goes on, for all of them."""
    caller = caller_of("async def", loop, stale_if_error="1h", soft_timeout=0.02)
    gates: list[Gate] = []

    async def squares(numbers: list[int]) -> dict[int, int]:
        if gates:
            await gates.pop().astand()
        return {number: number * number for number in numbers}

    many = caller.cache.cached_many("square:{number}")(squares)
    assert caller.do(many, [1]) == {1: 1}
    caller.drop("square:1", soft=True)
    gate = Gate()
    gates.append(gate)

    async def give_up() -> None:
        batch = asyncio.create_task(many([1, 2]))
        await asyncio.to_thread(gate.wait)
        assert await many([1]) == {1: 1}
        batch.cancel()
        await asyncio.wait([batch])

    loop.run(give_up())
    gate.open()
    until(lambda: caller.get("square:2") == 4, "it is stored")
    caller.close()


def test_a_batch_that_nobody_waits_for_is_cancelled_and_gives_its_leases_back(shared: HoldingShared, loop: LoopThread) -> None:
    """Another process computes at once, though the leases would have lived for long."""
    settings = Settings(coordination=CoordinationSettings(budget=LONG, lease=600.0))
    policy = Policy(name="all", match="*", ttl="1h")
    callers = [Caller(Cache(settings, policies=[policy], shared=shared, listen=False), "async def", loop) for _ in range(2)]
    began, ended = threading.Event(), threading.Event()

    async def endless(numbers: list[int]) -> dict[int, int]:
        began.set()
        try:
            await asyncio.sleep(10 * LONG)
        finally:
            ended.set()
        return {}

    async def squares(numbers: list[int]) -> dict[int, int]:
        return {number: number * number for number in numbers}

    batch = callers[0].start(callers[0].cache.cached_many("square:{number}")(endless), [1, 2])
    assert began.wait(LONG)
    batch.cancel()
    assert ended.wait(LONG)
    assert callers[1].do(callers[1].cache.cached_many("square:{number}")(squares), [1, 2]) == {1: 1, 2: 4}
    for caller in callers:
        caller.close()


class Interrupted(BaseException):
    """Comes from a signal handler, at any moment."""


@pytest.mark.parametrize("place", ["claiming", "leading", "computing", "waiting"])
def test_a_batch_that_is_interrupted_leaves_nothing_behind(place: str, shared: HoldingShared, loop: LoopThread, monkeypatch: Any) -> None:
    """Ctrl-C: no flight that nobody leads, no lease that keeps others waiting. Whoever asks next computes."""
    node = BatchNode(shared, Origin(), colour="def", loop=loop, lease=600.0)
    engine = engine_of(node.cache)
    reading: Future[int] | None = None
    gate: Gate | None = None
    if place == "claiming":
        join, joined = engine.flights.join, list[Flight]()

        def interrupted_join(mine: Flight, now: float) -> Flight:
            joined.append(join(mine, now))
            if len(joined) == 2:
                raise Interrupted
            return joined[-1]

        monkeypatch.setattr(engine.flights, "join", interrupted_join)
    elif place == "leading":
        monkeypatch.setattr(engine, "flight", raising(engine.flight, after=2))
    elif place == "computing":
        node.origin.fail(Interrupted())
    else:
        gate = node.origin.hold()
        reading = node.start_read(3)
        gate.wait()
        monkeypatch.setattr(batches, "result_of", raising(worlds.result_of, after=2))
    with pytest.raises(Interrupted):
        node.items([1, 2, 3])
    monkeypatch.undo()
    if gate is not None and reading is not None:
        assert len(engine.flights) == 1, "the other caller's"
        gate.open()
        assert reading.result(LONG) == 1
    assert len(engine.flights) == 0
    other = BatchNode(shared, Origin(), colour="def", loop=loop)
    assert other.read_many(1, 2, 3) == {1: 1, 2: 1, 3: 1}
    assert node.read_many(1, 2, 3) == {1: 1, 2: 1, 3: 1}
    node.close()
    other.close()


def raising(function: Callable[..., Any], *, after: int) -> Callable[..., Any]:
    """The function, which is interrupted when it is called once more than so often."""
    calls: list[object] = []

    def called(*args: Any) -> Any:
        calls.append(args)
        if len(calls) > after:
            raise Interrupted
        return function(*args)

    return called


# --- lifetimes, spares, patience ----------------------------------------------------------------------------------------------------


class Pair:
    """Two caches, as good as processes, around one layer in memory; ``items(numbers)`` in each. The clock is the test's."""

    def __init__(self, colour: Colour, loop: LoopThread, *, how: dict[str, Any] | None = None, **options: Any) -> None:
        self.clock = FakeClock()
        self.origin = Origin()
        self.events: list[Event] = []
        self.shared = shared = MemoryShared(self.clock.monotonic)
        settings = Settings(coordination=CoordinationSettings(budget=LONG, max_lag=10_000.0))
        policy = Policy(name="all", match="*", ttl=TTL, **options)
        self.callers = [
            Caller(
                Cache(settings, policies=[policy], shared=shared, clock=self.clock, listen=False, on_event=self.events.append), colour, loop
            )
            for _ in range(2)
        ]
        self.items = [self._items(caller, how or {}) for caller in self.callers]

    def _items(self, caller: Caller, how: dict[str, Any]) -> Any:
        origin = self.origin
        decorate = caller.cache.cached_many("item:{number}", **how)
        if caller.colour == "def":

            def items(numbers: list[int]) -> dict[int, int]:
                origin.batches.append(numbers)
                return dict.fromkeys(numbers, origin.read())

            return decorate(items)

        async def aitems(numbers: list[int]) -> dict[int, int]:
            origin.batches.append(numbers)
            return dict.fromkeys(numbers, await origin.aread())

        return decorate(aitems)

    def read(self, *numbers: int, who: int = 0) -> dict[int, int]:
        found: dict[int, int] = self.callers[who].do(self.items[who], list(numbers))
        return found

    def told(self, name: str) -> list[Event]:
        return [event for event in list(self.events) if event.name == name]

    def close(self) -> None:
        for caller in self.callers:
            caller.close()


def oddness(number: int) -> list[str]:
    return [f"odd:{number % 2}"]


def test_lifetimes_and_tags_are_told_item_by_item(colour: Colour, loop: LoopThread) -> None:
    """``ttl`` and ``tags_from`` are given the result of one item."""
    clock = FakeClock()
    policy = Policy(name="all", match="*", ttl="dynamic", min_ttl=1.0, max_ttl=100.0)
    shared = MemoryShared(clock.monotonic)
    settings = Settings(coordination=CoordinationSettings(budget=LONG, max_lag=1000.0))
    caller = Caller(Cache(settings, policies=[policy], shared=shared, clock=clock, listen=False), colour, loop)
    asked: list[list[int]] = []

    def lives(numbers: list[int]) -> list[int]:
        asked.append(numbers)
        return numbers

    cached = cached_many(caller, "life:{number}", lives, ttl=float, tags_from=oddness)
    assert caller.do(cached, [5, 10, 20, 21]) == [5, 10, 20, 21]
    clock.advance(7.0)
    read_log(caller.cache)
    assert caller.do(cached, [5, 10, 20, 21]) == [5, 10, 20, 21]
    assert asked[1:] == [[5]]
    caller.drop(tags=["odd:1"])
    caller.do(cached, [5, 10, 20, 21])
    assert asked[2:] == [[5, 21]]


def test_what_is_stale_is_served_and_refreshed_in_one_call(colour: Colour, loop: LoopThread) -> None:
    """Behind the caller's back, while what is missing is computed."""
    pair = Pair(colour, loop, stale_while_revalidate=WINDOW)
    assert pair.read(1, 2) == {1: 1, 2: 1}
    pair.clock.advance(TTL)
    pair.origin.version = 2
    assert pair.read(1, 2, 3) == {1: 1, 2: 1, 3: 2}
    until(lambda: len(pair.origin.batches) == 3, "the refresh")
    assert sorted(map(sorted, pair.origin.batches[1:])) == [[1, 2], [3]]
    until(lambda: pair.read(1, 2) == {1: 2, 2: 2}, "what it has brought")
    assert len(pair.origin.batches) == 3
    pair.close()


@pytest.mark.parametrize("error", [OriginError("not today"), asyncio.CancelledError()], ids=["it raises", "something in it is cancelled"])
def test_old_values_stand_in_item_by_item(colour: Colour, loop: LoopThread, error: BaseException) -> None:
    """A call that fails fails for those alone that have nothing to be served in its place."""
    pair = Pair(colour, loop, stale_if_error=WINDOW)
    assert pair.read(1, 2) == {1: 1, 2: 1}
    pair.clock.advance(TTL)
    pair.origin.fail(error)
    assert pair.read(1, 2) == {1: 1, 2: 1}
    assert sorted(event.fields["key"] for event in pair.told("spare_served")) == ["item:1", "item:2"]
    pair.origin.fail(OriginError("not today"))
    with pytest.raises(OriginError):
        pair.read(1, 3)
    assert pair.read(1, 3) == {1: 1, 3: 1}
    assert pair.origin.batches[-1] == [1, 3]
    pair.close()


def test_an_item_that_has_failed_alone_is_left_alone(colour: Colour, loop: LoopThread) -> None:
    """Here and in other processes. Whatever else is asked for is computed."""
    pair = Pair(colour, loop, errors=5.0)
    pair.origin.fail(OriginError("not today"))
    with pytest.raises(OriginError):
        pair.read(1)
    with pytest.raises(OriginError):
        pair.read(1, 2)
    with pytest.raises(RestingError, match="item:1"):
        pair.read(1, 3, who=1)
    assert pair.origin.batches == [[1], [2], [3]], "what is left alone is not computed, the others are"
    pair.clock.advance(5.0)
    assert pair.read(1, 2, 3) == {1: 1, 2: 1, 3: 1}
    assert pair.origin.batches[3:] == [[1]]
    pair.close()


def test_items_whose_call_has_failed_for_all_of_them_are_not_left_alone(colour: Colour, loop: LoopThread) -> None:
    """Nobody knows which of them it was: one item that always fails would keep all that are ever asked for beside it from being
    computed.
    """
    pair = Pair(colour, loop, errors=5.0)
    pair.origin.fail(OriginError("not today"))
    with pytest.raises(OriginError):
        pair.read(1, 2)
    assert pair.told("left_alone") == []
    assert pair.read(2) == {2: 1}
    assert pair.read(1, who=1) == {1: 1}
    assert pair.origin.batches == [[1, 2], [2], [1]]
    pair.close()


def test_an_answer_that_does_not_fit_lets_nothing_rest(colour: Colour, loop: LoopThread) -> None:
    """It is a mistake of the function's, and says nothing about the item."""
    caller = caller_of(colour, loop, shared=MemoryShared(), errors=60.0)
    answers: list[dict[int, int]] = [{7: 7}, {1: 1}]

    def numbers(numbers: list[int]) -> dict[int, int]:
        return answers.pop(0)

    cached = cached_many(caller, "number:{number}", numbers)
    with pytest.raises(BatchError):
        caller.do(cached, [1])
    assert caller.do(cached, [1]) == {1: 1}


def test_who_has_old_values_at_hand_waits_no_longer_than_the_soft_timeout(colour: Colour, loop: LoopThread) -> None:
    """The call goes on, and its results are stored for everybody."""
    pair = Pair(colour, loop, stale_if_error=WINDOW, soft_timeout=SOON)
    assert pair.read(1, 2) == {1: 1, 2: 1}
    pair.clock.advance(TTL)
    pair.origin.version = 2
    gate = pair.origin.hold()
    assert pair.read(1, 2) == {1: 1, 2: 1}
    gate.open()
    until(lambda: pair.callers[1].get("item:1") == 2, "the late result")
    assert pair.read(1, 2) == pair.read(1, 2, who=1) == {1: 2, 2: 2}
    assert len(pair.origin.batches) == 2
    pair.close()


def test_nobody_waits_for_a_batch_longer_than_the_hard_timeout(colour: Colour, loop: LoopThread) -> None:
    pair = Pair(colour, loop, hard_timeout=SOON)
    gate = pair.origin.hold()
    with pytest.raises(OverdueError, match="item:1"):
        pair.read(1, 2)
    gate.open()
    until(lambda: pair.callers[1].get("item:2") == 1, "the late result")
    pair.close()


def test_nobody_waits_longer_for_a_strict_batch_that_can_not_be_confirmed(colour: Colour, loop: LoopThread) -> None:
    """One call computes it all the same, for its caller alone."""
    pair = Pair(colour, loop, hard_timeout=SOON, consistency="strict")
    with pair.shared.outage():
        gate = pair.origin.hold()
        with pytest.raises(OverdueError, match="item:1"):
            pair.read(1, 2)
        assert pair.origin.batches == [[1, 2]]
        assert len(engine_of(pair.callers[0].cache).flights) == 0, "nobody joins it"
        gate.open()
    pair.close()


def test_what_a_batch_reads_all_its_items_are_made_of(colour: Colour, loop: LoopThread) -> None:
    caller = caller_of(colour, loop, shared=MemoryShared())

    @caller.cached("rate")
    async def rate() -> int:
        return len(asked)

    asked: list[list[int]] = []
    prices: Any

    if colour == "def":

        def plain(numbers: list[int]) -> dict[int, int]:
            asked.append(numbers)
            return dict.fromkeys(numbers, cast("int", rate()))

        prices = caller.cache.cached_many("price:{number}")(plain)
    else:

        async def waiting(numbers: list[int]) -> dict[int, int]:
            asked.append(numbers)
            return dict.fromkeys(numbers, cast("int", await rate()))

        prices = caller.cache.cached_many("price:{number}")(waiting)

    @caller.cached("sum")
    async def total() -> int:
        return sum((await use(prices, [1, 2])).values())

    assert caller.do(total) == 2
    caller.drop("rate")
    assert caller.do(total) == 4, "what is made of a batch is made of its items"
    assert asked == [[1, 2], [1, 2]]


# --- trouble ------------------------------------------------------------------------------------------------------------------------


def test_without_the_shared_layer_a_batch_is_still_one_call(colour: Colour, loop: LoopThread) -> None:
    """Its trouble is one event, and one failure: a batch of fifty does not make the layer rest longer."""
    events: list[Event] = []
    shared = MemoryShared()
    policy = Policy(name="all", match="*", ttl="1h")
    caller = Caller(Cache(policies=[policy], shared=shared, listen=False, on_event=events.append), colour, loop)
    asked: list[list[int]] = []

    def squares(numbers: list[int]) -> dict[int, int]:
        asked.append(numbers)
        return {number: number * number for number in numbers}

    cached = cached_many(caller, "square:{number}", squares)
    with shared.outage():
        assert caller.do(cached, [1, 2, 3]) == {1: 1, 2: 4, 3: 9}
    assert asked == [[1, 2, 3]]
    assert [event.name for event in events] == ["layer_failed"]


def test_a_layer_that_fails_between_reading_and_leasing_costs_one_failure(colour: Colour, loop: LoopThread) -> None:
    events: list[Event] = []
    memory = MemoryShared()
    shared = HoldingShared(memory)
    policy = Policy(name="all", match="*", ttl="1h")
    settings = Settings(coordination=CoordinationSettings(budget=LONG, max_lag=1000.0))
    caller = Caller(Cache(settings, policies=[policy], shared=shared, listen=False, on_event=events.append), colour, loop)
    caller.stamp()

    def squares(numbers: list[int]) -> dict[int, int]:
        return {number: number * number for number in numbers}

    cached = cached_many(caller, "square:{number}", squares)
    gate = shared.hold(Fetch)
    reading = caller.start(cached, [1, 2, 3])
    gate.wait()
    with memory.outage():
        gate.open()
        assert reading.result(LONG) == {1: 1, 2: 4, 3: 9}
    assert [event.name for event in events if event.name == "layer_failed"] == ["layer_failed"]
    assert engine_of(caller.cache).leases == {}


def test_a_cache_that_is_off_calls_once_with_everything(colour: Colour, loop: LoopThread) -> None:
    asked: list[list[int]] = []
    cache = Cache(Settings(enabled=False), policies=[Policy(name="all", match="*", ttl="1h")])
    caller = Caller(cache, colour, loop)

    def squares(numbers: list[int]) -> list[int]:
        asked.append(numbers)
        return [number * number for number in numbers]

    cached = cached_many(caller, "square:{number}", squares)
    for _ in range(2):
        assert caller.do(cached, [2, 3, 2]) == [4, 9, 4]
    assert asked == [[2, 3]] * 2


# --- get_many, get_or_compute_many --------------------------------------------------------------------------------------------------


def test_several_keys_are_looked_up_in_one_trip(node: BatchNode, other: BatchNode, shared: HoldingShared) -> None:
    """A dict of those that are there; nothing is computed."""
    other.read_many(1, 2)
    node.read(3)
    get_many = node.cache.get_many if node.colour == "def" else node.cache.aget_many
    shared.steps.clear()
    assert node.do(get_many, ["item:1", "item:2", "item:3", "item:4", "item:1"]) == {"item:1": 1, "item:2": 1, "item:3": 1}
    assert [step.keys for step in shared.steps if isinstance(step, Fetch)] == [("item:1", "item:2", "item:4")]
    assert node.do(get_many, []) == {}
    node.origin.version = other.origin.version = 2
    stamp = other.invalidate("key as text", 1)
    assert node.do(get_many, ["item:1", "item:2"]) == {"item:1": 1, "item:2": 1}, "it has not heard"
    assert node.do(get_many, ["item:1", "item:2"], at_least=stamp) == {"item:2": 1}
    assert node.do(get_many, ["item:2"], at_least=Stamp("0" * 16, 1)) == {}, "what can not be confirmed counts as missing"
    for wrong in ("item:1", 7, ["item:*"], [7]):
        with pytest.raises(KeyArgumentError):
            node.do(get_many, wrong)


def test_a_strict_policy_is_respected_by_looking_up_many(colour: Colour, loop: LoopThread) -> None:
    shared = MemoryShared()
    policies = [Policy(name="all", match="*", ttl="1h"), Policy(name="strict", match="strict:*", ttl="1h", consistency="strict")]
    one, two = (Caller(Cache(policies=policies, shared=shared, listen=False), colour, loop) for _ in range(2))
    for key in ("strict:1", "loose:1"):
        one.put(key, 1)
    get_many = two.cache.get_many if colour == "def" else two.cache.aget_many
    assert two.do(get_many, ["strict:1", "loose:1"]) == {"strict:1": 1, "loose:1": 1}
    one.drop("*")
    assert two.do(get_many, ["strict:1"]) == {}
    with shared.outage():
        assert two.do(get_many, ["strict:1"]) == {}


def test_keys_that_are_missing_are_computed_in_one_call(node: BatchNode, other: BatchNode) -> None:
    """They may belong to functions or to policies only. What the answer leaves out is ``None``, and cached as that."""
    asked: list[list[str]] = []

    def plain(keys: list[str]) -> dict[str, int]:
        asked.append(keys)
        return {key: 7 for key in keys if key != "item:none"}

    async def waiting(keys: list[str]) -> dict[str, int]:
        return plain(keys)

    def compute(node: BatchNode, keys: Iterable[str], how: Any = None) -> dict[str, int | None]:
        asking = node.cache.get_or_compute_many if node.colour == "def" else node.cache.aget_or_compute_many
        found: dict[str, int | None] = node.do(asking, keys, how or (plain if node.colour == "def" else waiting))
        return found

    node.read(1)
    expected = {"item:1": 1, "page:x": 7, "item:y": 7}
    for each in (node, other):
        for _ in range(2):
            assert compute(each, ["item:1", "page:x", "item:y"]) == expected
    for each in (other, node):
        assert compute(each, ["item:none", "item:y"]) == {"item:none": None, "item:y": 7}
    assert asked == [["page:x", "item:y"], ["item:none"]]
    with pytest.raises(TypeError, match="compute is a function"):
        compute(node, ["item:10"], 7)

    def unfit(keys: list[str]) -> dict[str, int]:
        return {"item:12": 1}

    problem: tuple[type[Exception], str] = (BatchError, "a result for 'item:12', which it was not asked for")
    if node.colour == "async def":
        problem = (TypeError, "a plain function is for get_or_compute_many")
    with pytest.raises(problem[0], match=problem[1]):
        compute(node, ["item:10", "item:11"], unfit)


# --- real servers -------------------------------------------------------------------------------------------------------------------


def test_a_batch_of_a_hundred_with_fifty_misses_is_105_commands(fresh_server: Server, namespace: str, loop: LoopThread) -> None:
    """In three trips: clock, head and one ``MGET``; clock, head and 50 leases; 50 fills."""
    client = fresh_server.client()
    for colour in COLOURS:
        shared = RedisShared(fresh_server.url, namespace=namespace + colour[:1])
        node, reader = (BatchNode(shared, Origin(), colour=colour, loop=loop) for _ in range(2))
        node.read_many(*range(50))
        reader.cache.stamp()
        client.config_resetstat()
        reader.read_many(*range(100))
        told: dict[str, Any] = client.info("commandstats")
        sent = {name: told[f"cmdstat_{name}"]["calls"] for name in ("time", "hmget", "mget", "evalsha")}
        assert sent == {"time": 2, "hmget": 2, "mget": 1, "evalsha": 100}
        assert sum(sent.values()) == 105
        node.close()
        reader.close()


def test_a_batch_takes_three_trips_however_many_items(every_server: Server, namespace: str, colour: Colour, loop: LoopThread) -> None:
    """Read, lease, store. Clock and head of the log are asked once in each of the first two."""
    for count in (4, 100):
        shared = HoldingShared(RedisShared(every_server.url, namespace=f"{namespace}{count}"))
        node = BatchNode(shared, Origin(), colour=colour, loop=loop)
        node.read_many(*range(0, count, 2))
        reader = BatchNode(shared, Origin(), colour=colour, loop=loop)
        reader.cache.stamp()
        shared.steps.clear()
        shared.trips = 0
        assert reader.read_many(*range(count)) == dict.fromkeys(range(count), 1)
        assert reader.origin.batches == [list(range(1, count, 2))]
        assert shared.trips == 3
        assert [len(step.keys) for step in shared.steps if isinstance(step, Fetch)] == [count]
        assert (shared.count(Lease), shared.count(Store)) == (count // 2, count // 2)
        node.close()
        reader.close()


def test_a_name_that_is_taken_by_something_else_costs_no_other_item_anything(
    server: Server, namespace: str, colour: Colour, loop: LoopThread
) -> None:
    """The lease of an item in the middle of a batch is no lease: it is taken all the same, and all of them are stored."""
    shared = RedisShared(server.url, namespace=namespace)
    node = BatchNode(shared, Origin(), colour=colour, loop=loop)
    node.stamp()
    client = server.client()
    client.rpush(shared.names.lease("item:2"), "not a lease")
    assert node.read_many(1, 2, 3) == {1: 1, 2: 1, 3: 1}
    other = BatchNode(shared, Origin(), colour=colour, loop=loop)
    assert other.read_many(1, 2, 3) == {1: 1, 2: 1, 3: 1}
    assert other.origin.computations == 0
    node.close()
    other.close()


def test_large_values_are_stored_in_trips_of_bounded_size(server: Server, namespace: str, colour: Colour, loop: LoopThread) -> None:
    shared = HoldingShared(RedisShared(server.url, namespace=namespace))
    settings = Settings(coordination=CoordinationSettings(budget=LONG))
    policy = Policy(name="all", match="*", ttl="1h", compress_over=None)
    callers = [Caller(Cache(settings, policies=[policy], shared=shared, listen=False), colour, loop) for _ in range(2)]

    def blobs(numbers: list[int]) -> dict[int, bytes]:
        return {number: bytes([number]) * 1_500_000 for number in numbers}

    cached = [cached_many(caller, "blob:{number}", blobs) for caller in callers]
    expected = blobs([1, 2, 3, 4, 5])
    assert callers[0].do(cached[0], [1, 2, 3, 4, 5]) == expected
    assert shared.count(Store) == 5
    assert shared.trips >= 5, "two values in each trip that stores"
    assert callers[1].do(cached[1], [1, 2, 3, 4, 5]) == expected
    assert callers[1].cache.stats().total.computed == 0
    for caller in callers:
        caller.close()
