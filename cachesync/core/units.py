"""Durations and sizes as people write them: ``"5m"``, ``"1h30m"``, ``"16KiB"``.

Inside the package a duration is a number of seconds (``float``) and a size a number of bytes (``int``). Reading is exact: the parts
are added as fractions and rounded once, so ``parse_duration(format_duration(x)) == x`` for every ``x`` that is allowed, and likewise
for sizes. A mistake is a ``ValueError`` whose message quotes the text and names the nearest right spelling.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import date, time
from decimal import Decimal
from fractions import Fraction
from typing import Final

LONGEST_DURATION: Final = 3650 * 86400.0
"""Ten years in seconds."""
LARGEST_SIZE: Final = 2**50
"""One PiB in bytes."""
_LONGEST_TEXT: Final = 400  # longer than the shortest spelling of any float, short enough to be read in no time
_SHOWN: Final = 60

_UNITS: Final = {
    "w": Fraction(604800),
    "d": Fraction(86400),
    "h": Fraction(3600),
    "m": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 1000),
}
_NUMBER: Final = r"([0-9]+(?:\.[0-9]+)?)"
_DURATION: Final = re.compile("".join(f"(?:{_NUMBER}{'m(?!s)' if unit == 'm' else unit})?" for unit in _UNITS))
DURATION_PATTERN: Final = "^(?=[0-9])" + "".join(rf"([0-9]+(\.[0-9]+)?{unit})?" for unit in _UNITS) + "$"
"""The same grammar for a JSON Schema."""

_UNIT_WORDS: Final = {
    **dict.fromkeys(("w", "wk", "wks", "week", "weeks"), "w"),
    **dict.fromkeys(("d", "day", "days"), "d"),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), "h"),
    **dict.fromkeys(("m", "mn", "min", "mins", "minute", "minutes"), "m"),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds", ""), "s"),
    **dict.fromkeys(("ms", "msec", "msecs", "millis", "milli", "millisecond", "milliseconds"), "ms"),
}
_LOOSE: Final = re.compile(r"([0-9]+(?:[.,][0-9]+)?)[ _]*([a-z]*)")

_SIZES: Final = {
    "PiB": 2**50, "PB": 10**15, "TiB": 2**40, "TB": 10**12, "GiB": 2**30, "GB": 10**9,
    "MiB": 2**20, "MB": 10**6, "KiB": 2**10, "kB": 10**3, "B": 1,
}  # fmt: skip
_SIZE: Final = re.compile(f"{_NUMBER}({'|'.join(_SIZES)}|KB)")
SIZE_PATTERN: Final = rf"^[0-9]+(\.[0-9]+)?({'|'.join(_SIZES)}|KB)$"
"""The grammar of a size for a JSON Schema."""
_SIZE_WORDS: Final = {
    **{unit.casefold(): unit for unit in _SIZES},
    **{unit[0].casefold(): f"{unit[0].upper()}iB" for unit in _SIZES if unit != "B"},
    **dict.fromkeys(("", "byte", "bytes"), "B"),
}


def parse_duration(text: str) -> float:
    """Seconds from ``"250ms"``, ``"5m"``, ``"1h30m"``, ``"2d"``, ``"1w"``: the largest unit first, each at most once."""
    found = _DURATION.fullmatch(text) if text and len(text) <= _LONGEST_TEXT else None
    if not found:
        raise ValueError(f"{as_written(text)} is not a duration; write {_nearest_duration(text)}")
    exact = sum((Fraction(number) * factor for number, factor in zip(found.groups(), _UNITS.values(), strict=True) if number), Fraction())
    return _bounded_duration(exact, text)


def read_duration(value: object) -> float:
    """Seconds from a text (`parse_duration`) or from a number that is seconds already."""
    if isinstance(value, str):
        return parse_duration(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (value >= 0):
        raise ValueError(f'{as_written(value)} is not a duration; write a text such as "5m", or seconds as a number from 0 on')
    return _bounded_duration(value, value)


def _bounded_duration(seconds: float | Fraction, written: object) -> float:
    if seconds > LONGEST_DURATION:
        raise ValueError(f'{as_written(written)} is longer than ten years; write at most "3650d"')
    return float(seconds) + 0.0  # adding zero turns -0.0 into 0.0


def format_duration(seconds: float) -> str:
    """The shortest usual spelling: ``"5m"``, ``"1h30m"``, ``"1.5s"``, ``"250ms"``; weeks only when nothing is left over."""
    seconds = read_duration(seconds)
    exact = Decimal(repr(seconds))
    if 0 < seconds < 1:
        return f"{_plain(exact.scaleb(3))}ms"
    whole, _, rest = _plain(exact).partition(".")
    left, parts = int(whole), ""
    if left and not rest and not left % 604800:
        return f"{left // 604800}w"
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        count, left = divmod(left, length)
        parts += f"{count}{unit}" if count else ""
    if left or rest or not parts:
        parts += f"{left}.{rest}s" if rest else f"{left}s"
    return parts


def _plain(number: Decimal) -> str:
    """Digits without an exponent and without zeros at the end of the fraction."""
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _nearest_duration(text: str) -> str:
    loose = text[:_LONGEST_TEXT].casefold().replace(" and ", " ").strip()
    rest = _LOOSE.sub("", loose).strip(" ,;")
    parts = [(_UNIT_WORDS.get(word), number.replace(",", ".")) for number, word in _LOOSE.findall(loose)]
    if rest or not parts or any(unit is None for unit, _ in parts):
        return 'a number and a unit, such as "250ms", "5m" or "1h30m"'
    exact = sum((Fraction(number) * _UNITS[unit] for unit, number in parts if unit), Fraction())
    if exact > LONGEST_DURATION:
        return 'at most "3650d"'
    order = list(_UNITS)
    spelled = "".join(f"{number}{unit}" for unit, number in sorted(parts, key=lambda part: order.index(part[0] or "s")))
    for advised in (spelled, format_duration(float(exact))):
        if _DURATION.fullmatch(advised) and len(advised) <= _SHOWN:
            return as_written(advised)
    return 'a shorter number, such as "250ms", "5m" or "1h30m"'


def parse_size(text: str) -> int:
    """Bytes from ``"16KiB"``, ``"256MiB"``, ``"1MB"``, ``"512B"``: KiB is 1024 bytes, kB (or KB) is 1000."""
    found = _SIZE.fullmatch(text) if len(text) <= _LONGEST_TEXT else None
    if not found:
        raise ValueError(f"{as_written(text)} is not a size; write {_nearest_size(text)}")
    exact = Fraction(found[1]) * _SIZES["kB" if found[2] == "KB" else found[2]]
    if exact.denominator != 1:
        raise ValueError(f"{as_written(text)} is not a whole number of bytes; write {_at_least(exact)}")
    return _bounded_size(exact.numerator, text)


def read_size(value: object) -> int:
    """Bytes from a text (`parse_size`) or from a whole number that is bytes already."""
    if isinstance(value, str):
        return parse_size(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f'{as_written(value)} is not a size; write a text such as "16KiB", or bytes as a whole number from 0 on')
    return _bounded_size(value, value)


def _bounded_size(size: int, written: object) -> int:
    if size > LARGEST_SIZE:
        raise ValueError(f'{as_written(written)} is larger than one pebibyte; write at most "1PiB"')
    return size


def format_size(size: int) -> str:
    """The spelling with the smallest number: ``"256MiB"``, ``"1MB"``, ``"1001B"``."""
    size = read_size(size)
    return next((f"{size // factor}{unit}" for unit, factor in _SIZES.items() if size and not size % factor), "0B")


def _nearest_size(text: str) -> str:
    found = _LOOSE.fullmatch(text[:_LONGEST_TEXT].casefold().strip())
    unit = found and _SIZE_WORDS.get(found[2])
    if not found or not unit:
        return 'a number and a unit, such as "512B", "16KiB" or "256MiB"'
    number = found[1].replace(",", ".")
    exact = Fraction(number) * _SIZES[unit]
    is_right = exact.denominator == 1 and exact <= LARGEST_SIZE and len(number) + len(unit) <= _SHOWN
    return as_written(f"{number}{unit}") if is_right else _at_least(exact)


def _at_least(exact: Fraction) -> str:
    """The next whole number of bytes that is allowed, as advice."""
    return as_written(format_size(min(math.ceil(exact), LARGEST_SIZE)))


def as_written(value: object) -> str:
    """A value as an error message shows it: short, on one line, printable, and without what a URL says after its scheme."""
    if isinstance(value, str):
        head, scheme, tail = value[: _SHOWN + 1].partition("://")
        shown = head + scheme + ("..." if tail else "")
        if len(shown) > _SHOWN:
            shown = shown[: _SHOWN - 3] + "..."
        return json.dumps(shown, ensure_ascii=not shown.isprintable())
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, (int, float)):
        return "a number of more than 60 digits" if isinstance(value, int) and abs(value) >= 10**_SHOWN else str(value)
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, Mapping):
        return "a table"
    return "an array" if isinstance(value, (list, tuple)) else f"a value of type {type(value).__name__}"
