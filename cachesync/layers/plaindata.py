"""Plain data to bytes and back, exactly: what comes out has the types that went in.

``None``, ``bool``, ``int`` of 64 bits, ``float``, ``str``, ``bytes``, ``list`` and ``dict`` with ``str`` or ``int`` keys stand as msgpack
writes them. What msgpack can not tell apart is a msgpack extension:

=====  =======================================================================================================
code   content
=====  =======================================================================================================
1      tuple: an array
2      set: an array, sorted by the bytes of its elements, so that equal sets give equal bytes in every process
3      frozenset: likewise
4      dict with other keys: an array of key, value, key, value, ...
5      int beyond 64 bits: two's complement, big-endian
6      str that has lone surrogates: UTF-8 with ``surrogatepass``
7      datetime: an array of ISO 8601 text without zone, fold, zone (see ``_zone``)
8      date: ISO 8601 text
9      time: as 7
10     timedelta: an array of days, seconds, microseconds
11     Decimal: its text
12     UUID: 16 bytes
=====  =======================================================================================================

The codes are part of the wire format: none is ever given another meaning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from types import NoneType
from typing import Any, Final, TypeAlias, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
from msgspec.msgpack import Ext
from pydantic_core import TzInfo

from cachesync.errors import CodecError

Unfold: TypeAlias = Callable[[object], object]
"""Takes an object that is not plain data one step apart, towards plain data. Raises whatever it likes if it can not."""

_TUPLE: Final = 1
_SET: Final = 2
_FROZENSET: Final = 3
_PAIRS: Final = 4
_BIG_INT: Final = 5
_ODD_STR: Final = 6
_DATETIME: Final = 7
_DATE: Final = 8
_TIME: Final = 9
_TIMEDELTA: Final = 10
_DECIMAL: Final = 11
_UUID: Final = 12

_LEAST: Final = -(2**63)
_MOST: Final = 2**64 - 1
_MICROSECOND: Final = timedelta(microseconds=1)

_PLAIN_KEYS: Final = frozenset({str, int})
_PLAIN_LEAVES: Final = frozenset({NoneType, bool, int, float, str, bytes})
_AS_IT_IS: Final = frozenset({NoneType, bool, float, bytes})

_pack = msgspec.msgpack.Encoder().encode  # An Encoder keeps nothing between calls: any thread may use it.


def is_plain(value: object) -> bool:
    """Whether msgpack alone keeps every type in ``value``. Integers and text may still be beyond it: it says so itself."""
    kind = type(value)
    items: Iterable[object]
    if kind is dict:
        mapping = cast("dict[object, object]", value)
        if not _PLAIN_KEYS.issuperset(map(type, mapping)):
            return False
        items = mapping.values()
    elif kind is list:
        items = cast("list[object]", value)
    else:
        return kind in _PLAIN_LEAVES
    if _PLAIN_LEAVES.issuperset(map(type, items)):
        return True
    return all(type(item) in _PLAIN_LEAVES or is_plain(item) for item in items)


def encode_if_plain(value: object) -> bytes | None:
    """The msgpack bytes of ``value`` when they keep every type in it, else None. Raises ``RecursionError``."""
    if is_plain(value):
        try:
            return _pack(value)
        except (OverflowError, UnicodeEncodeError):  # An int beyond 64 bits, a lone surrogate.
            return None
    return None


def encode(value: object, *, unfold: Unfold | None = None) -> bytes:
    """The bytes of ``value``. ``unfold`` takes objects apart that are not plain data; without it they are refused.

    Raises ``CodecError``, which names the path and the type of what could not be written, never its value.
    """
    try:
        packed = encode_if_plain(value)
        return packed if packed is not None else _pack(_lower(value, unfold))
    except _StuckError as stuck:
        raise CodecError(f"{path_text(stuck.steps)}: {type_name(stuck.kind)} is not plain data") from None
    except RecursionError:
        raise CodecError("the value is nested too deeply, or contains itself") from None
    except Exception as error:
        raise CodecError(f"the value can not be written ({type(error).__name__})") from None


def decode(payload: bytes | memoryview, /) -> Any:
    """The value that ``encode`` was given. Raises ``CodecError`` for bytes that it did not make, if they can not be read."""
    try:
        return _decoder.decode(payload)
    except RecursionError:
        raise CodecError("the bytes are nested too deeply") from None
    except Exception as error:
        raise CodecError(f"the bytes are not plain data ({type(error).__name__})") from None


def path_text(steps: list[str]) -> str:
    """``steps``, innermost first, as ``at [3].price``."""
    return "at " + "".join(reversed(steps)) if steps else "at the top"


def key_step(key: object, position: int) -> str:
    """The step into a dict. A key is shown if it looks like a name; anything else may be a value, and is masked."""
    return f"[{key!r}]" if type(key) is str and key.isidentifier() and len(key) <= 40 else f"[key {position}]"


def type_name(kind: type) -> str:
    """``kind`` as a message names it."""
    return "None" if kind is NoneType else kind.__qualname__


class _StuckError(Exception):
    """What was met that can not be written, and the steps to it, innermost first."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.kind = kind
        self.steps: list[str] = []


def _lower(value: object, unfold: Unfold | None) -> object:
    kind = type(value)
    if kind in _AS_IT_IS:
        return value
    write = _WRITERS.get(kind)
    if write is not None:
        return write(value, unfold)
    if unfold is None:
        raise _StuckError(kind)
    try:
        unfolded = unfold(value)
    except RecursionError:
        raise
    except Exception:
        raise _StuckError(kind) from None
    if type(unfolded) is kind:
        raise _StuckError(kind)
    return _lower(unfolded, unfold)


def _lower_all(values: Iterable[object], unfold: Unfold | None) -> list[object]:
    lowered: list[object] = []
    try:
        for value in values:
            lowered.append(_lower(value, unfold))  # noqa: PERF401 - its length is the step to what can not be written
    except _StuckError as stuck:
        stuck.steps.append(f"[{len(lowered)}]")
        raise
    return lowered


def _write_int(value: int, _: Unfold | None) -> object:
    if _LEAST <= value <= _MOST:
        return value
    return Ext(_BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _write_str(value: str, _: Unfold | None) -> object:
    return value if _is_utf8(value) else Ext(_ODD_STR, value.encode("utf-8", "surrogatepass"))


_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def _is_utf8(text: str) -> bool:
    return text.isascii() or _SURROGATE.search(text) is None


def _write_list(value: list[object], unfold: Unfold | None) -> object:
    return _lower_all(value, unfold)


def _write_tuple(value: tuple[object, ...], unfold: Unfold | None) -> object:
    return Ext(_TUPLE, _pack(_lower_all(value, unfold)))


def _write_set(value: set[object], unfold: Unfold | None) -> object:
    return Ext(_SET, _pack_sorted(value, unfold))


def _write_frozenset(value: frozenset[object], unfold: Unfold | None) -> object:
    return Ext(_FROZENSET, _pack_sorted(value, unfold))


def _pack_sorted(values: Iterable[object], unfold: Unfold | None) -> bytes:
    return _pack([msgspec.Raw(packed) for packed in sorted(map(_pack, _lower_all(values, unfold)))])


def _write_dict(value: dict[object, object], unfold: Unfold | None) -> object:
    keys: list[object] = []
    values: list[object] = []
    try:
        for key, item in value.items():
            keys.append(_lower(key, unfold))
            values.append(_lower(item, unfold))
    except _StuckError as stuck:
        stuck.steps.append(key_step(list(value)[len(values)], len(values)))
        raise
    if _PLAIN_KEYS.issuperset(map(type, value)) and _PLAIN_KEYS.issuperset(map(type, keys)):
        return dict(zip(keys, values, strict=True))
    return Ext(_PAIRS, _pack([each for pair in zip(keys, values, strict=True) for each in pair]))


def _write_datetime(value: datetime, _: Unfold | None) -> object:
    return Ext(_DATETIME, _pack((value.replace(tzinfo=None).isoformat(), value.fold, _zone(value.tzinfo))))


def _write_time(value: time, _: Unfold | None) -> object:
    return Ext(_TIME, _pack((value.replace(tzinfo=None).isoformat(), value.fold, _zone(value.tzinfo))))


def _zone(zone: tzinfo | None) -> object:
    """None; an offset in microseconds, or that and its name; the key of a zoneinfo; or pydantic's own: seconds, alone in an array."""
    kind = type(zone)
    if zone is None:
        return None
    if kind is timezone:
        offset = cast("timedelta", zone.utcoffset(None))
        name = zone.tzname(None)
        return offset // _MICROSECOND if name == timezone(offset).tzname(None) else (offset // _MICROSECOND, name)
    if kind is ZoneInfo and cast("str | None", cast("ZoneInfo", zone).key) is not None:
        return cast("ZoneInfo", zone).key
    if kind is TzInfo:
        return (cast("timedelta", zone.utcoffset(None)).total_seconds(),)
    stuck = _StuckError(kind)
    stuck.steps.append(".tzinfo")
    raise stuck


def _write_date(value: date, _: Unfold | None) -> object:
    return Ext(_DATE, value.isoformat().encode())


def _write_timedelta(value: timedelta, _: Unfold | None) -> object:
    return Ext(_TIMEDELTA, _pack((value.days, value.seconds, value.microseconds)))


def _write_decimal(value: Decimal, _: Unfold | None) -> object:
    return Ext(_DECIMAL, str(value).encode())


def _write_uuid(value: UUID, _: Unfold | None) -> object:
    return Ext(_UUID, value.bytes)


_WRITERS: Final[dict[type, Callable[[Any, Unfold | None], object]]] = {
    int: _write_int,
    str: _write_str,
    list: _write_list,
    dict: _write_dict,
    tuple: _write_tuple,
    set: _write_set,
    frozenset: _write_frozenset,
    datetime: _write_datetime,
    date: _write_date,
    time: _write_time,
    timedelta: _write_timedelta,
    Decimal: _write_decimal,
    UUID: _write_uuid,
}


def _unpack(data: bytes | memoryview) -> Any:
    return _decoder.decode(data)


def _read_set(data: memoryview, kind: type[set[Any]] | type[frozenset[Any]]) -> object:
    elements = _unpack(data)
    try:
        return kind(elements)
    except TypeError:  # Objects that were unfolded: whoever builds them again makes the set.
        return elements


def _read_pairs(data: memoryview) -> object:
    flat = _unpack(data)
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _read_datetime(data: memoryview) -> datetime:
    text, fold, zone = _unpack(data)
    return datetime.fromisoformat(text).replace(fold=fold, tzinfo=_read_zone(zone))


def _read_time(data: memoryview) -> time:
    text, fold, zone = _unpack(data)
    return time.fromisoformat(text).replace(fold=fold, tzinfo=_read_zone(zone))


def _read_zone(zone: Any) -> tzinfo | None:
    if zone is None:
        return None
    if isinstance(zone, int):
        return timezone(zone * _MICROSECOND)
    if isinstance(zone, str):
        return ZoneInfo(zone)
    if len(zone) == 1:
        return TzInfo(zone[0])
    offset, name = zone
    return timezone(offset * _MICROSECOND, name)


_READERS: Final[dict[int, Callable[[memoryview], object]]] = {
    _TUPLE: lambda data: tuple(_unpack(data)),
    _SET: lambda data: _read_set(data, set),
    _FROZENSET: lambda data: _read_set(data, frozenset),
    _PAIRS: _read_pairs,
    _BIG_INT: lambda data: int.from_bytes(data, "big", signed=True),
    _ODD_STR: lambda data: str(data, "utf-8", "surrogatepass"),
    _DATETIME: _read_datetime,
    _DATE: lambda data: date.fromisoformat(str(data, "ascii")),
    _TIME: _read_time,
    _TIMEDELTA: lambda data: timedelta(*_unpack(data)),
    _DECIMAL: lambda data: Decimal(str(data, "ascii")),
    _UUID: lambda data: UUID(bytes=bytes(data)),
}


def _read_extension(code: int, data: memoryview) -> object:
    return _READERS[code](data)


_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(ext_hook=_read_extension)
