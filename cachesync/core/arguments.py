"""Arguments: the values of a call as texts in a key, and back.

A value of the type that is written plainly stands as it is; any other is marked: ``~``, a letter for its type, then its value. A text
says its type, so ``1``, ``"1"``, ``True`` and ``None`` differ; it never contains ``:``, and a plain one never begins with ``~``.
"""

from __future__ import annotations

import dataclasses
import enum
import numbers
import re
import types
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, cast
from urllib.parse import quote, unquote_to_bytes
from uuid import UUID

from cachesync.errors import KeyArgumentError

PLAIN_TYPES: Final = (str, int, bool, float, bytes, UUID, datetime, date, Decimal)
"""Types that can be written plainly, besides enumerations."""
FAST_TYPES: Final = (str, int, bool, UUID)
"""Types whose values can stand as they are in a raw key: equal values of the same class are the same argument."""
_LOOSE_TYPES: Final = frozenset({str, int, bool, types.NoneType})
"""Classes that a raw key of an unannotated parameter may hold, beside the value."""
_MAX_DEPTH: Final = 32

_UNSAFE: Final = re.compile("[%:*\x00-\x1f\x7f\ud800-\udfff]")
_UNSAFE_NESTED: Final = re.compile("[%:*\x00-\x1f\x7f\ud800-\udfff,=()\\[\\]{}<>~]")
has_unsafe: Final = re.compile("[%:*\x00-\x1f\x7f\ud800-\udfff]|^~").search
"""Finds what keeps a text from standing for itself in a key."""


def encode(value: object, plain: type = str) -> str:
    """A value as part of a key: plain if it is of the type ``plain``, marked otherwise. Raises `KeyArgumentError`."""
    cls = type(value)
    if cls is str and plain is str:
        return _escape(cast("str", value))
    if cls is int and plain is int:
        return _digits(cast("int", value))
    value = _canonical(value)
    if type(value) is plain:
        return _plain(value)
    return "~" + _mark(value, 0)


def _escape(text: str) -> str:
    if _UNSAFE.search(text):
        text = _UNSAFE.sub(percent, text)
    return "%7E" + text[1:] if text.startswith("~") else text


def percent(found: re.Match[str]) -> str:
    """What was found, percent-encoded in UTF-8 (RFC 3986, 2.1)."""
    return quote(found.group().encode("utf-8", "surrogatepass"), safe="") if ord(found.group()) > 127 else f"%{ord(found.group()):02X}"


def _canonical(value: object) -> object:
    """What counts as the same argument: subclasses of ``str`` and ``int`` as what they extend, other integers as ``int``."""
    if isinstance(value, bool | enum.Enum):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    return value


def _digits(value: int) -> str:
    try:
        return str(value)
    except ValueError as error:
        raise KeyArgumentError(f"an integer of {value.bit_length():,} bits is too long for a key") from error


def _plain(value: Any) -> str:
    """The plain text of a value whose class is one of `PLAIN_TYPES`, or an enumeration."""
    if isinstance(value, enum.Enum):
        return _escape(_member_text(value))
    if isinstance(value, str):
        return _escape(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return _digits(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime):
        return _escape(_moment(value))
    if isinstance(value, date):
        return value.isoformat()
    return str(value)


def _member_text(member: enum.Enum) -> str:
    """An enumeration's member by its value where all values are texts, or all are integers; else by its name."""
    values = [other.value for other in member.__class__.__members__.values()]
    if not isinstance(member, enum.Flag):
        for kind in (str, int):
            if all(isinstance(value, kind) and not isinstance(value, bool) for value in values):
                return str(kind(member.value))
    return _member_name(member)


def _member_name(member: enum.Enum) -> str:
    """A combination of flags may have no name."""
    name = cast("str | None", member.name)
    return str(member.value) if name is None else name


def _moment(value: datetime | time) -> str:
    return value.isoformat() + ("/1" if value.fold else "")


def _mark(value: Any, depth: int) -> str:
    """The marked text, without its ``~``. Inside a container every value is marked, and separators are percent-encoded."""
    if depth > _MAX_DEPTH:
        raise KeyArgumentError(f"an argument is nested more than {_MAX_DEPTH} deep; key on a part of it")
    value = _canonical(value)
    cls = value.__class__
    simple = _SIMPLE_MARKS.get(cls)
    if simple is not None:
        return simple(value)
    inner = depth + 1
    if isinstance(value, enum.Enum):
        return f"e{_type_name(cls)}.{_UNSAFE_NESTED.sub(percent, _member_name(value))}"
    if cls is tuple:
        return "(" + ",".join(_mark(item, inner) for item in value) + ")"
    if cls is list:
        return "[" + ",".join(_mark(item, inner) for item in value) + "]"
    if cls is set or cls is frozenset:
        return ("S{" if cls is set else "F{") + ",".join(sorted(_mark(item, inner) for item in value)) + "}"
    if cls is dict or cls is types.MappingProxyType:
        return "{" + ",".join(sorted(f"{_mark(k, inner)}={_mark(v, inner)}" for k, v in value.items())) + "}"
    return _mark_object(value, inner)


def _mark_object(value: Any, depth: int) -> str:
    cls: type[Any] = value.__class__
    own_key = getattr(cls, "__cachesync_key__", None)
    if own_key is not None:
        return f"o{_type_name(cls)}({_mark(own_key(value), depth)})"
    if dataclasses.is_dataclass(cls):
        parts = (f"{field.name}={_mark(getattr(value, field.name), depth)}" for field in dataclasses.fields(value))
        return f"c{_type_name(cls)}({','.join(parts)})"
    if isinstance(value, tuple):  # a named tuple
        items: list[Any] = list(cast("Any", value))
        return f"c{_type_name(cls)}({','.join(_mark(item, depth) for item in items)})"
    if isinstance(value, type):
        return f"C{_type_name(value)}"
    raise KeyArgumentError(
        f"a value of type {_type_name(cls)} can not be part of a key. Key on a part of it, {{argument.id}}; "
        f"leave it out with ignore=[...]; or give its class a method __cachesync_key__ that returns what identifies it"
    )


def _type_name(cls: type) -> str:
    return _UNSAFE_NESTED.sub(percent, f"{cls.__module__}.{cls.__qualname__}")


_SIMPLE_MARKS: Final[Mapping[type, Callable[[Any], str]]] = {
    types.NoneType: lambda _: "none",
    bool: lambda v: "true" if v else "false",
    int: lambda v: "i" + _digits(v),
    float: lambda v: "f" + repr(v),
    str: lambda v: "s" + _UNSAFE_NESTED.sub(percent, v),
    bytes: lambda v: "x" + v.hex(),
    bytearray: lambda v: "X" + v.hex(),
    complex: lambda v: "j" + _UNSAFE_NESTED.sub(percent, repr(v)),
    Decimal: lambda v: "d" + str(v),
    UUID: lambda v: "u" + str(v),
    datetime: lambda v: "T" + _UNSAFE_NESTED.sub(percent, _moment(v)),
    date: lambda v: "D" + v.isoformat(),
    time: lambda v: "t" + _UNSAFE_NESTED.sub(percent, _moment(v)),
    timedelta: lambda v: f"p{v.days}.{v.seconds}.{v.microseconds}",
}


# --- text to values, for raw keys -------------------------------------------------------------------------------------------------

UNKNOWN: Final = object()


def decode(text: str, plain: type[Any], *, typed: bool) -> Any:
    """The value a raw key holds for this text, or `UNKNOWN`: then the raw key is the text itself."""
    if plain is str and has_unsafe(text) is None:
        return text  # by far the most: a text that stands for itself
    if text.startswith("~"):
        marked = UNKNOWN if typed else _decode_marked(text[1:])
        return marked if marked is UNKNOWN or encode(marked, plain) == text else UNKNOWN
    if not typed and plain not in _LOOSE_TYPES:
        return UNKNOWN
    try:
        value: Any
        if plain is str:
            value = unquote_to_bytes(text).decode("utf-8", "surrogatepass")
        elif plain is int:
            value = int(text)
        elif plain is bool:
            value = {"true": True, "false": False}[text]
        elif plain is UUID:
            value = UUID(text)
        else:
            value = _members(plain)[text]
    except (ValueError, KeyError):
        return UNKNOWN
    return value if encode(value, plain) == text else UNKNOWN


def _decode_marked(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    try:
        value: Any = int(text[1:]) if text[:1] == "i" else unquote_to_bytes(text[1:]).decode("utf-8", "surrogatepass")
    except ValueError:
        return UNKNOWN
    return value if text[:1] in ("i", "s") and _mark(value, 0) == text else UNKNOWN


_WORDS: Final[Mapping[str, object]] = {"none": None, "true": True, "false": False}


def _members(cls: type) -> Mapping[str, enum.Enum]:
    return {_escape(_member_text(member)): member for member in cast("type[enum.Enum]", cls).__members__.values()}


# --- text to values, for calls ----------------------------------------------------------------------------------------------------


def read(text: str, plain: type[Any]) -> Any:
    """The value that is written so in a key, or `UNKNOWN`. Of what is marked, texts, integers, ``None``, ``True``, ``False`` are read."""
    if text.startswith("~") or plain in _LOOSE_TYPES:
        return decode(text, plain, typed=False)
    if plain is UUID or issubclass(plain, enum.Enum):
        return decode(text, plain, typed=True)
    try:
        value = _READERS[plain](unquote_to_bytes(text).decode("utf-8", "surrogatepass"))
    except (ValueError, KeyError, ArithmeticError):
        return UNKNOWN
    return value if encode(value, plain) == text else UNKNOWN


def _read_moment(text: str) -> datetime:
    return datetime.fromisoformat(text.removesuffix("/1")).replace(fold=int(text.endswith("/1")))


_READERS: Final[Mapping[type, Callable[[str], Any]]] = {
    float: float,
    bytes: bytes.fromhex,
    Decimal: Decimal,
    date: date.fromisoformat,
    datetime: _read_moment,
}
