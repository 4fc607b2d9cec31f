"""Is what comes back from the bytes what was sent: the same types all the way down, and equal leaves.

``==`` alone would let through what a reader can tell apart: ``(1, 2)`` and a named tuple, ``True`` and ``1``, ``Decimal("1.0")`` and
``Decimal("1.00")``, seven in the morning in Jakarta and midnight in UTC. Objects are compared by their fields and their exact class, not by
an ``__eq__`` of their own. Two nan are the same. An ``int`` that became the equal ``float`` is the same: a ``float`` annotation
accepts it (PEP 484, the numeric tower), and only a ``float`` annotation makes it one.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import chain, compress
from math import isnan
from operator import attrgetter, is_
from types import NoneType
from typing import Any, Final, NamedTuple, TypeAlias, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
from pydantic import BaseModel

from cachesync.layers.plaindata import key_step, path_text, type_name

_SIMPLE: Final = frozenset({NoneType, bool, int, float, str, bytes, date, timedelta, UUID})
"""Leaves of one type are the same if they are equal. Not here: datetime and time (zones), Decimal (1.0 and 1.00)."""

_MANY: Final = 16
"""From so many elements on columns are faster than rows."""


class _Missing:
    """Stands for a field that an object does not have."""


_MISSING: Final = _Missing()


class _Clash:
    """What is not the same, and the steps to it, innermost first."""

    __slots__ = ("reason", "steps")

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.steps: list[str] = []

    def under(self, step: str) -> _Clash:
        self.steps.append(step)
        return self


_Compare: TypeAlias = Callable[[Any, Any], _Clash | None]
_Alike: TypeAlias = Callable[[list[Any], list[Any]], bool]


class _Comparison(NamedTuple):
    """How objects of one type are compared: many at once and only ever surely, or two with the reason and the path."""

    alike: _Alike
    compare: _Compare


def difference(sent: object, back: object) -> str | None:
    """None if ``back`` is the same as ``sent``, else the first place where it is not: ``at [3].price: int became str``.

    Values are never shown. Raises ``RecursionError`` for what is nested too deeply.
    """
    clash = _compare(sent, back)
    return None if clash is None else f"{path_text(clash.steps)}: {clash.reason}"


def field_names(kind: Any) -> tuple[str, ...] | None:
    """The fields of a dataclass, an attrs class or a ``msgspec.Struct``. None for any other class."""
    if issubclass(kind, msgspec.Struct):
        structs: tuple[str, ...] = kind.__struct_fields__
        return structs
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    attributes: Any = getattr(kind, "__attrs_attrs__", None)
    return None if attributes is None else tuple(attribute.name for attribute in attributes)


def _are_alike(xs: list[Any], ys: list[Any]) -> bool:
    try:
        return _alike(xs, ys)
    except AttributeError:  # A field that was never set.
        return False


def _alike(xs: list[Any], ys: list[Any]) -> bool:
    """True if each of ``xs`` is surely the same as its like in ``ys``; False says nothing, ``_compare`` decides then.

    Works on columns instead of rows: a thousand objects of one class are a handful of lists to compare, at the speed of C.
    """
    kinds = list(map(type, xs))
    if kinds != list(map(type, ys)):
        return False
    apart = set(kinds)
    if _SIMPLE.issuperset(apart):
        return xs == ys
    if len(apart) == 1:
        return _comparison_of(kinds[0]).alike(xs, ys)
    for kind in apart:
        chosen = [each is kind for each in kinds]
        if not _alike(list(compress(xs, chosen)), list(compress(ys, chosen))):
            return False
    return True


def _alike_fields(*names: str) -> _Alike:
    fields: list[Callable[[object], object]] = [attrgetter(name) for name in names]
    return lambda xs, ys: all(_alike(list(map(field, xs)), list(map(field, ys))) for field in fields)


def _alike_sequences(xs: list[Any], ys: list[Any]) -> bool:
    return list(map(len, xs)) == list(map(len, ys)) and _alike(list(chain.from_iterable(xs)), list(chain.from_iterable(ys)))


def _alike_dicts(xs: list[Any], ys: list[Any]) -> bool:
    """Keys in the same order."""
    return _alike_sequences(xs, ys) and _alike(
        list(chain.from_iterable(x.values() for x in xs)), list(chain.from_iterable(y.values() for y in ys))
    )


def _alike_sets(xs: list[Any], ys: list[Any]) -> bool:
    """With elements of one simple type: ``{0, True}`` equals ``{False, 1}``, and has the same types."""
    kinds = set(map(type, chain(chain.from_iterable(xs), chain.from_iterable(ys))))
    return len(kinds) <= 1 and _SIMPLE.issuperset(kinds) and xs == ys


def _alike_moments(xs: list[Any], ys: list[Any]) -> bool:
    """In the very same zone two moments are equal if their clocks show the same."""
    zone, fold = attrgetter("tzinfo"), attrgetter("fold")
    return all(map(is_, map(zone, xs), map(zone, ys))) and list(map(fold, xs)) == list(map(fold, ys)) and xs == ys


def _alike_decimals(xs: list[Any], ys: list[Any]) -> bool:
    return list(map(str, xs)) == list(map(str, ys))


def _alike_others(xs: list[Any], ys: list[Any]) -> bool:
    """Members of an enum, mostly."""
    return all(map(is_, xs, ys))


def _compare(a: Any, b: Any) -> _Clash | None:
    if a is b:
        return None
    kind = cast("Any", type(a))
    other = cast("Any", type(b))
    if kind is not other:
        return None if kind is int and other is float and a == b else _became(kind, other)
    if kind in _SIMPLE:
        return None if a == b or (isinstance(a, float) and isnan(a) and isnan(b)) else _Clash(f"another {type_name(kind)} came back")
    return _comparison_of(kind).compare(a, b)


def _became(kind: type, other: type) -> _Clash:
    if other is _Missing:
        return _Clash(f"{type_name(kind)} was lost")
    if kind is _Missing:
        return _Clash(f"{type_name(other)} appeared")
    if type_name(kind) == type_name(other):
        return _Clash(f"{kind.__module__}.{type_name(kind)} became {other.__module__}.{type_name(other)}")
    return _Clash(f"{type_name(kind)} became {type_name(other)}")


def _compare_row(xs: Sequence[object], ys: Sequence[object], step: Callable[[int], str]) -> _Clash | None:
    """Two lists, or two tuples, of one length."""
    kinds = list(map(type, xs))
    if _SIMPLE.issuperset(kinds):
        if kinds == list(map(type, ys)) and xs == ys:
            return None
    elif len(xs) >= _MANY and _are_alike(list(xs), list(ys)):
        return None
    for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
        clash = _compare(x, y)
        if clash is not None:
            return clash.under(step(i))
    return None


def _compare_sequences(a: Iterable[object], b: Iterable[object]) -> _Clash | None:
    xs = list(a)
    ys = list(b)
    if len(xs) != len(ys):
        return _Clash(f"{len(xs)} items became {len(ys)}")
    return _compare_row(xs, ys, "[{}]".format)


def _compare_dicts(a: dict[object, object], b: dict[object, object]) -> _Clash | None:
    xs, ys = list(a.items()), list(b.items())
    if len(xs) != len(ys):
        return _Clash(f"{len(xs)} keys became {len(ys)}")
    keys = [x[0] for x in xs]
    if _compare_row(keys, [y[0] for y in ys], str) is not None:  # Another order, which a dict does not promise, or other keys.
        paired = _pair(keys, [y[0] for y in ys])
        if isinstance(paired, _Clash):
            return paired
        ys = [ys[i] for i in paired]
    return _compare_row([x[1] for x in xs], [y[1] for y in ys], lambda i: key_step(keys[i], i))


def _compare_sets(a: Iterable[object], b: Iterable[object]) -> _Clash | None:
    xs = list(a)
    ys = list(b)
    if len(xs) != len(ys):
        return _Clash(f"{len(xs)} elements became {len(ys)}")
    paired = _pair(xs, ys)
    return paired if isinstance(paired, _Clash) else None


def _pair(xs: list[object], ys: list[object]) -> list[int] | _Clash:
    """For each of ``xs`` the index of its like among ``ys``; the elements of both are hashable, and each side's are distinct."""
    places: dict[object, int] = {y: i for i, y in enumerate(ys)}
    paired: list[int] = []
    for x in xs:
        place = places.get(x)
        if place is None:  # It holds a nan, which equals nothing. Such elements are few: look at all.
            place = next((i for i, y in enumerate(ys) if _compare(x, y) is None), None)
        if place is None:
            return _Clash(f"a key or element of type {type_name(type(x))} was lost")
        clash = _compare(x, ys[place])
        if clash is not None:
            return clash.under("[key or element]")
        paired.append(place)
    return paired


def _compare_moments(a: datetime | time, b: datetime | time) -> _Clash | None:
    if a.replace(tzinfo=None) != b.replace(tzinfo=None) or a.fold != b.fold:
        return _Clash(f"another {type_name(type(a))} came back")
    x, y = a.tzinfo, b.tzinfo
    if x is y:
        return None
    if type(x) is not type(y):
        return _became(type(x), type(y)).under(".tzinfo")
    is_same_zone = str(x) == str(y) and a.utcoffset() == b.utcoffset() and (isinstance(x, ZoneInfo) or x == y)
    return None if is_same_zone else _Clash("another zone came back").under(".tzinfo")


def _compare_decimals(a: Decimal, b: Decimal) -> _Clash | None:
    return None if str(a) == str(b) else _Clash("another Decimal came back")


def _compare_leaves(a: object, b: object) -> _Clash | None:
    try:
        if a == b:
            return None
    except Exception:
        return _Clash(f"{type_name(type(a))} can not be compared")
    return _Clash(f"another {type_name(type(a))} came back")


@lru_cache(maxsize=4096)
def _comparison_of(kind: Any) -> _Comparison:
    """How objects of exactly this type are compared."""
    if issubclass(kind, BaseModel):
        return _Comparison(_alike_fields(*kind.model_fields, "__pydantic_extra__", "__pydantic_private__"), _compare_models)
    names = field_names(kind)
    if names is not None:
        return _Comparison(_alike_fields(*names), _fields_comparison(names))
    if issubclass(kind, tuple):
        names = cast("tuple[str, ...] | None", getattr(cast("Any", kind), "_fields", None))
        return _Comparison(_alike_sequences, _compare_sequences if names is None else _named_tuple_comparison(names))
    for family, comparison in _FAMILIES:
        if issubclass(kind, family):
            return comparison
    return _Comparison(_alike_others, _compare_leaves)


def _named_tuple_comparison(names: tuple[str, ...]) -> _Compare:
    def compare(a: tuple[object, ...], b: tuple[object, ...]) -> _Clash | None:
        return _compare_row(list(a), list(b), lambda i: f".{names[i]}")

    return compare


def _fields_comparison(names: tuple[str, ...]) -> _Compare:
    # attrgetter gives one value for one name and a tuple for more: the first name twice is always a tuple.
    fields: Callable[[object], tuple[object, ...]] = attrgetter(*names, names[0]) if names else lambda _: ()

    def compare(a: object, b: object) -> _Clash | None:
        try:
            xs, ys = fields(a), fields(b)
        except AttributeError:  # A field that was never set.
            xs = tuple(getattr(a, name, _MISSING) for name in names)
            ys = tuple(getattr(b, name, _MISSING) for name in names)
        return _compare_row(xs, ys, lambda i: f".{names[i]}")

    return compare


def _compare_models(a: BaseModel, b: BaseModel) -> _Clash | None:
    """By fields, extra fields and private attributes. ``model_fields_set`` is not compared: after decoding every field is set."""
    names = tuple(type(a).model_fields)
    mine, theirs = a.__dict__, b.__dict__  # May hold cached properties too: they are no fields.
    return (
        _compare_row([mine.get(n, _MISSING) for n in names], [theirs.get(n, _MISSING) for n in names], lambda i: f".{names[i]}")
        or _compare_named(a.__pydantic_extra__, b.__pydantic_extra__)
        or _compare_named(a.__pydantic_private__, b.__pydantic_private__)
    )


def _compare_named(a: dict[str, Any] | None, b: dict[str, Any] | None) -> _Clash | None:
    mine = a or {}
    theirs = b or {}
    names = list(mine | theirs)
    return _compare_row([mine.get(n, _MISSING) for n in names], [theirs.get(n, _MISSING) for n in names], lambda i: f".{names[i]}")


_FAMILIES: Final[tuple[tuple[type | tuple[type, ...], _Comparison], ...]] = (
    ((list, deque), _Comparison(_alike_sequences, _compare_sequences)),
    (dict, _Comparison(_alike_dicts, _compare_dicts)),
    ((set, frozenset), _Comparison(_alike_sets, _compare_sets)),
    ((datetime, time), _Comparison(_alike_moments, _compare_moments)),
    (Decimal, _Comparison(_alike_decimals, _compare_decimals)),
)
