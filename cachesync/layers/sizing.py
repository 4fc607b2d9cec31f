"""How many bytes a value takes in memory, with all that it refers to.

`measure` asks ``sys.getsizeof`` for each object and the garbage collector for what it refers to: no attribute is read and no code of
the user's runs, except a ``__sizeof__`` of their own. Dicts, lists, sets, dataclasses, slots and models are then all alike, and an
instance is not made to grow a ``__dict__`` by being looked at.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from gc import get_referents
from itertools import islice
from sys import getsizeof
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, GetSetDescriptorType, MemberDescriptorType, ModuleType
from typing import Any, Final

from cachesync.core.entry import SIZE_UNIT

MOST_OBJECTS: Final = 2_000
"""So many objects are looked at; what is larger is estimated from a sample."""
OVERHEAD: Final = 6
"""Units that a copy takes besides its value: the ``Held``, its times, its places in a dict and a queue (about 350 bytes)."""
GUESS: Final = 256
"""Bytes taken for an object that does not say its size."""

_FEWEST: Final = 8
"""Items looked at in any container, however little is left."""
_PARENTS: Final = 32
"""Containers looked into on a level that is too large to be looked at whole."""
_FLAT: Final = 64
_LONG: Final = 4_096
_GOLDEN: Final = 0.6180339887498949
_ATTRIBUTES: Final = 96
"""Bytes for the attributes of an instance whose class has no slots: ``sys.getsizeof`` leaves them out (CPython 3.11 and later)."""

_LEAVES: Final = frozenset({int, str, float, bool, bytes, complex, bytearray, type(None), range})
_CONTAINERS: Final = frozenset({dict, list, tuple, set, frozenset, deque})
_OUTSIDE: Final = (
    type, ModuleType, FunctionType, BuiltinFunctionType, CodeType, FrameType, GetSetDescriptorType, MemberDescriptorType,
)  # fmt: skip


_class_of: Callable[[object], type[Any]] = type
"""``type(item)``, and never ``item.__class__``, which may be a property."""
_only_leaves = _LEAVES.issuperset
_Groups = list[tuple[list[Any], float]]
"""Objects of one level, with the number of objects that each of them stands for."""


class Gauge:
    """Sizes of values that came as bytes: one in 16 is measured, the others are taken to be like it, by the length of their bytes.

    A value whose bytes are less than half or more than twice as many as those of the measured one is measured itself. Threads may
    share a gauge: at worst a value is measured once more, or once less.
    """

    __slots__ = ("_left", "_length", "_units")

    def __init__(self) -> None:
        self._left, self._length, self._units = 0, 1, 1

    def units(self, value: object, length: int) -> int:
        """The size of ``value``, which came as ``length`` bytes, in units of 64 bytes, at least 1."""
        if self._left and self._length < 2 * length < 4 * self._length:
            self._left -= 1
            return self._units * length // self._length or 1
        self._left, self._length, self._units = 15, length, measure(value)
        return self._units


def measure(value: object) -> int:
    """The size of ``value`` and of all it refers to, in units of 64 bytes, at least 1.

    An object met twice counts once; modules, classes and functions do not count. After 2,000 objects the rest is estimated from a
    sample. Never raises.
    """
    if type(value) in _LEAVES:
        return (getsizeof(value) + SIZE_UNIT - 1) // SIZE_UNIT
    try:
        return max(1, -(-int(_flat(value) or _walk(value)) // SIZE_UNIT))
    except Exception:  # another thread changed a container while it was looked at
        return -(-(_size(value) + GUESS) // SIZE_UNIT)


def _flat(record: Any) -> int:
    """Bytes of a small dict of plain values, the most common of all; 0 for any other value."""
    if _class_of(record) is not dict:
        return 0
    values = record.values()
    if len(record) > _FLAT or not (_only_leaves(map(type, record)) and _only_leaves(map(type, values))):
        return 0
    if len(set(map(id, values))) != len(record):
        return 0
    return sum(map(getsizeof, values), sum(map(getsizeof, record), getsizeof(record)))


def _walk(value: object) -> float:
    """Bytes of ``value`` and of all below it, level by level."""
    seen: set[int] = set()
    total = 0.0
    groups: _Groups = [([value], 1.0)]
    while groups and len(seen) < MOST_OBJECTS:
        parents: list[tuple[Any, float]] = []
        for items, weight in groups:
            for item in items:
                identity = id(item)
                if identity in seen:
                    continue
                seen.add(identity)
                kind = _class_of(item)
                if kind in _LEAVES:
                    total += getsizeof(item) * weight
                elif not issubclass(kind, _OUTSIDE):
                    total += (_size(item) + (_ATTRIBUTES if kind.__dictoffset__ else 0)) * weight
                    parents.append((item, weight))
        groups = _below(parents, room=(MOST_OBJECTS - len(seen)) // 2)
    return total


def _below(parents: list[tuple[Any, float]], *, room: int) -> _Groups:
    """What ``parents`` refer to: all of it, or about ``room`` objects that stand for all."""
    scale = 1.0
    if len(parents) > _PARENTS and sum(len(item) if type(item) in _CONTAINERS else 1 for item, _ in parents) > room:
        scale = len(parents) / _PARENTS
        parents = _spread(parents, _PARENTS)
    each = max(_FEWEST, room // max(1, len(parents)))
    groups: _Groups = []
    for item, weight in parents:
        if type(item) is dict:
            groups.append(_sampled(item, each, weight * scale))
            groups.append(_sampled(item.values(), each, weight * scale))
        elif type(item) in _CONTAINERS:
            groups.append(_sampled(item, each, weight * scale))
        else:
            groups.append(_sampled(get_referents(item), each, weight * scale))
    return groups


def _sampled(items: Any, most: int, weight: float) -> tuple[list[Any], float]:
    """All of ``items``, or ``most`` of them with the weight of all. A sample that repeats itself is taken for the whole."""
    length = len(items)
    if length <= most:
        return list(items), weight
    known: list[Any] = items if type(items) in (list, tuple) else [*islice(items, _LONG)]
    sample = _spread(known, most)
    distinct = len(set(map(id, sample)))
    return sample, weight * length / most if distinct * 2 > most else weight


def _spread(items: Any, count: int) -> list[Any]:
    """``count`` of the items, from all over, the same ones each time and at no fixed distance (records repeat at fixed ones)."""
    length = len(items)
    return [items[int(index * _GOLDEN % 1 * length)] for index in range(count)]


def _size(item: object) -> int:
    """``sys.getsizeof``, or `GUESS` where that raises."""
    try:
        return getsizeof(item)
    except Exception:
        return GUESS
