"""Sizing: how many bytes a value takes, without running the user's code and without looking at everything."""

from __future__ import annotations

import dataclasses
import json
import sys
import tracemalloc
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesync.core.entry import SIZE_UNIT
from cachesync.layers import sizing
from cachesync.layers.sizing import MOST_OBJECTS, measure


@dataclasses.dataclass
class Plain:
    number: int
    text: str
    items: list[int]


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    number: int
    text: str
    items: list[int]


class Model(pydantic.BaseModel):
    number: int
    text: str
    items: list[int]


def units(size: int) -> int:
    return -(-size // SIZE_UNIT)


@pytest.mark.parametrize("value", [None, True, 1, 1.5, "", "text", b"bytes", 10**1000, "x" * 10_000, bytearray(5_000), 1j])
def test_a_plain_value_is_as_large_as_it_says(value: object) -> None:
    assert measure(value) == max(1, units(sys.getsizeof(value)))


def test_a_container_counts_what_is_in_it() -> None:
    text = "x" * 1_000
    assert measure([text]) == units(sys.getsizeof([text]) + sys.getsizeof(text))
    assert measure({"key": text}) == units(sys.getsizeof({"key": text}) + sys.getsizeof("key") + sys.getsizeof(text))
    for container in ([text], (text,), {text}, frozenset({text}), {1: text}, {text: 1}, deque([text]), [[[text]]], {(1, text): 2}):
        assert measure(container) >= units(1_000), container
    ordered: OrderedDict[str, str] = OrderedDict(a=text)
    assert measure(ordered) >= units(1_000)
    assert measure(defaultdict(str, a=text)) >= units(1_000)


def model(number: int, text: str, items: list[int]) -> Model:
    return Model(number=number, text=text, items=items)


@pytest.mark.parametrize("make", [Plain, Slotted, model])
def test_an_object_counts_its_fields(make: Callable[[int, str, list[int]], object]) -> None:
    small = measure(make(1, "", []))
    assert 1 <= small <= 16
    assert measure(make(1, "x" * 64_000, [])) >= small + 1_000
    assert measure(make(1, "", [0] * 8_000)) >= small + 1_000


def test_looking_at_an_object_does_not_make_it_grow() -> None:
    """Reading ``__dict__`` would build one in every instance."""
    values = [Plain(number, "text", []) for number in range(1_000)]
    measure(Plain(1, "text", []))
    tracemalloc.start()
    try:
        for value in values:
            measure(value)
        assert tracemalloc.get_traced_memory()[0] < 5_000
    finally:
        tracemalloc.stop()


def test_what_is_shared_counts_once() -> None:
    text = "x" * 64_000
    assert measure([text] * 100) < measure([text]) + 20
    assert measure({"a": text, "b": text}) < measure({"a": text}) + 5
    assert measure([{"a": text}, {"a": text}]) < measure([{"a": text}]) + 10
    assert measure([text] * 100_000) < units(64_000 + 8 * 100_000) + 20


def test_cycles_end() -> None:
    loop: list[Any] = ["x" * 1_000]
    loop.append(loop)
    assert units(1_000) <= measure(loop) <= units(1_400)
    record: dict[str, Any] = {}
    record["me"] = {"back": record}
    assert measure(record) < 20


def test_modules_classes_and_functions_do_not_count() -> None:
    def function() -> str:
        return "x" * 100_000

    class Class:
        attribute = "x" * 64_000

    for value in (sys, Class, function, len, Class(), [sys, Class, function], {"f": function, "m": json}):
        assert measure(value) <= 10, value


def test_no_code_of_the_users_runs() -> None:
    class Trap:
        @property
        def field(self) -> str:
            raise AssertionError("a property was read")

        @property
        def __class__(self) -> Any:
            raise AssertionError("the class was asked for")

        @__class__.setter
        def __class__(self, value: Any) -> None: ...

        def __getattr__(self, name: str) -> Any:
            raise AssertionError("an attribute was asked for")

        def __len__(self) -> int:
            raise AssertionError("the length was asked for")

        def __eq__(self, other: object) -> bool:
            raise AssertionError("it was compared")

        __hash__ = None  # type: ignore[assignment]

    assert measure(Trap()) <= 10
    assert measure([Trap(), {"a": Trap()}]) <= 30


def test_an_object_that_does_not_say_its_size_counts_something() -> None:
    class Refuses:
        def __init__(self) -> None:
            self.text = "x" * 1_000

        def __sizeof__(self) -> int:
            raise RuntimeError("no")

    class Lies:
        def __sizeof__(self) -> Any:
            return "much"

    class Negative:
        def __sizeof__(self) -> int:
            return -(10**6)

    assert measure(Refuses()) >= units(1_000)
    assert measure(Lies()) >= 1
    assert measure(Negative()) >= 1


def made(make: Callable[[], object]) -> tuple[object, int]:
    """A value and the bytes that making it took."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        value = make()
        return value, tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


LARGE: dict[str, Callable[[], object]] = {
    "records": lambda: [{f"field {field}": row * field + 1_000 for field in range(20)} for row in range(3_000)],
    "JSON": lambda: json.loads(json.dumps([{f"field {field}": row * field + 1_000 for field in range(20)} for row in range(1_000)])),
    "texts": lambda: [f"text number {number}" for number in range(100_000)],
    "dict of texts": lambda: {f"key {number}": f"value {number}" for number in range(50_000)},
    "set": lambda: {f"key {number}" for number in range(50_000)},
    "lists of lists": lambda: [[row * 1_000 + 1_000 + column for column in range(1_000)] for row in range(300)],
    "one long text in twenty": lambda: [("x" * (0 if number % 20 else 10_000)) + str(number) for number in range(10_000)],
    "dataclasses": lambda: [Plain(number + 1_000, f"text {number}", [1, 2]) for number in range(5_000)],
    "slotted": lambda: [Slotted(number + 1_000, f"text {number}", [1, 2]) for number in range(5_000)],
    "models": lambda: [Model(number=number + 1_000, text=f"text {number}", items=[1, 2]) for number in range(2_000)],
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_value_is_estimated_within_a_quarter(name: str) -> None:
    value, true = made(LARGE[name])
    assert 0.75 * true <= measure(value) * SIZE_UNIT <= 1.25 * true


def test_work_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However large a value is, a bounded number of its objects is asked for its size."""
    asked = 0

    def counting(item: object) -> int:
        nonlocal asked
        asked += 1
        return sys.getsizeof(item)

    monkeypatch.setattr(sizing, "getsizeof", counting)
    deep: Any = None
    for _ in range(100_000):
        deep = [deep]
    wide = [[[number] * 3 for number in range(300)] for _ in range(300)]
    for value in (deep, wide, list(range(10**6)), {number: [number] for number in range(200_000)}):
        asked = 0
        measure(value)
        assert asked <= 2 * MOST_OBJECTS
    while deep is not None:
        deep = deep[0]


def test_a_container_that_changes_meanwhile_does_not_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(value: object) -> float:
        raise RuntimeError("dictionary changed size during iteration")

    monkeypatch.setattr(sizing, "_walk", broken)
    assert measure([1, 2]) >= 1


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner) | st.frozensets(st.integers()),
)


@given(VALUES)
def test_any_value_has_a_size(value: object) -> None:
    """At least its own, and a list of it is not smaller."""
    size = measure(value)
    assert size >= max(1, sys.getsizeof(value) // SIZE_UNIT)
    assert measure([value]) >= size
    assert measure(value) == size
