"""Copying and hashing the state of real objects, so that an explorer can go back to it and recognise it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import is_dataclass
from functools import lru_cache
from typing import Any, Final, Generic, TypeVar, cast

from cachesync.core.entry import Held
from cachesync.core.ledger import Mark
from cachesync.core.stamps import Lineage

T = TypeVar("T")

_SHELF: Final = frozenset({"hits", "raw", "shelf", "size"})
"""What a copy has for the sake of its shelf: it changes nothing of what is served."""


def clone(value: Any) -> Any:
    """A copy that shares nothing that could change. Marks and values are shared: they are only compared."""
    cls = value.__class__
    if issubclass(cls, dict):
        copied: Any = cast("Any", cls)()
        for key, one in value.items():
            copied[key] = clone(one)
        return copied
    if cls is list:
        return [clone(one) for one in value]
    if cls is set or cls is deque:
        return value.copy()
    if not _changes(cls):
        return value
    copy = cls.__new__(cls)
    for name in names_of(value):
        setattr(copy, name, clone(getattr(value, name)))
    return copy


def freeze(value: Any, mark: Mark) -> Hashable:
    """Something hashable that is equal for equal states. Of marks it only matters which is the current one."""
    cls = value.__class__
    if issubclass(cls, dict):
        return tuple([(key, freeze(one, mark)) for key, one in value.items()])
    if cls in {list, deque, tuple}:
        return tuple([freeze(one, mark) for one in value])
    if cls is set:
        return frozenset(value)
    if cls is Mark:
        return value is mark
    if cls is Lineage:
        return value.epoch, tuple(value.cuts.items())
    if not _changes(cls):
        return cast("Hashable", value)
    left_out = _SHELF if cls is Held else frozenset[str]()
    return (cls.__name__, *(freeze(getattr(value, name), mark) for name in names_of(value) if name not in left_out))


def names_of(value: object) -> tuple[str, ...]:
    """The names of all that an object holds."""
    found = _slots(cast("Hashable", value.__class__))
    return found or tuple(vars(value))


@lru_cache(maxsize=256)
def _slots(cls: Any) -> tuple[str, ...]:
    named: list[str] = []
    for base in reversed(cls.__mro__):
        slots = base.__dict__.get("__slots__", ())
        named += (slots,) if isinstance(slots, str) else slots
    return tuple(named)


@lru_cache(maxsize=256)
def _changes(cls: type[Any]) -> bool:
    """Whether objects of a class have a state of their own that may change."""
    if cls is Mark or issubclass(cls, (tuple, str, bytes, int, float, type(None), frozenset, BaseException)):
        return False
    if is_dataclass(cls):
        return not cast("Any", cls).__dataclass_params__.frozen
    if cls.__module__.startswith(("cachesync.", "model.")):
        return True
    raise TypeError(f"the model does not know how to copy a {cls.__qualname__}")


class Interned(Generic[T]):
    """Gives small numbers to values, equal ones the same."""

    def __init__(self, key: Callable[[T], Hashable]) -> None:
        self._key = key
        self._numbers: dict[Hashable, int] = {}
        self.values: list[T] = []

    def number(self, value: T) -> int:
        """The number of a value."""
        key = self._key(value)
        number = self._numbers.setdefault(key, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number
