"""What one setting of a policy file takes, and how a mistake in it is told.

A `Rule` turns what was given, in Python or in a file, into what is kept: durations become seconds, sizes bytes, lists tuples. The
functions below it make the rules that several settings share; a rule for one setting stands beside that setting.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Final, NamedTuple, cast

from cachesync.core.units import SIZE_PATTERN, as_written, read_duration, read_size

DYNAMIC: Final = "dynamic"

SettingPath = tuple[str | int, ...]


class Problem(NamedTuple):
    """One mistake: the setting's path, and what is wrong with it."""

    path: SettingPath
    says: str

    def __str__(self) -> str:
        return f"{dotted(self.path)}: {self.says}" if self.path else self.says

    def within(self, path: SettingPath) -> Problem:
        """The same mistake, seen from outside of the table at ``path``."""
        return Problem((*path, *self.path), self.says)


def dotted(path: SettingPath) -> str:
    """``policy.stores.tags[0]``; a name that is no bare word is quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", part) else as_written(part))
    return text


TOKEN: Final = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"
"""What names of header fields are made of, as a regular expression (RFC 9110, 5.6.2)."""


class ItemsError(ValueError):
    """Some items of a list are wrong: the index of each, and what is wrong with it."""

    def __init__(self, *items: tuple[int, str]) -> None:
        super().__init__("; ".join(f"[{index}]: {says}" for index, says in items))
        self.items = items


def told(wrong: ValueError, path: SettingPath) -> list[Problem]:
    """What a rule says about the setting at ``path``, one problem for each wrong item of a list."""
    if isinstance(wrong, ItemsError):
        return [Problem((*path, index), says) for index, says in wrong.items]
    return [Problem(path, str(wrong))]


@dataclass(frozen=True, slots=True)
class Rule:
    """What one setting takes.

    ``read`` turns what was given into what is kept, leaves alone what it has read before, and raises ``ValueError`` saying what would
    be right. ``schema`` is the same for an editor. ``is_duration``: the setting takes a duration, and so a name of one in the file.
    """

    read: Callable[[object], object]
    schema: Mapping[str, object]
    about: str
    is_duration: bool = False

    def examine(self, value: object, path: SettingPath) -> tuple[object, list[Problem]]:
        """What is kept of ``value``; or None, and what is wrong with it as the setting at ``path``."""
        try:
            return self.read(value), []
        except ValueError as wrong:
            return None, told(wrong, path)


# --- kinds of settings ----------------------------------------------------------------------------------------------------------


def duration(about: str, *, zero: bool = False, optional: bool = False, dynamic: bool = False, least: float = 0.0) -> Rule:
    """Seconds above zero, or also ``zero``, and not below ``least``; ``optional`` takes None, ``dynamic`` takes the word and keeps None."""

    def read(value: object) -> float | None:
        if (value is None and (optional or dynamic)) or (dynamic and value == DYNAMIC):
            return None
        seconds = read_duration(value)
        if not seconds and not zero:
            raise ValueError(f'{as_written(value)} is not a duration above zero; write a longer one, such as "1s"')
        if seconds < least:
            raise ValueError(f'{as_written(value)} is too short to work with; write at least "{least * 1000:g}ms"')
        return seconds

    schema = {"type": ["string", "number"], "minimum": least, "examples": ["250ms", "30s", "5m", "1h30m", "2d"]}
    return Rule(read, schema, about, is_duration=True)


def number(about: str, low: float, high: float, *, open_low: bool = False, open_high: bool = False, optional: bool = False) -> Rule:
    """A number from ``low`` to ``high``, without those ends that are open; ``optional`` takes None."""
    span = f"{'above' if open_low else 'from'} {low:g} {'and below' if open_high else 'to'} {high:g}"

    def read(value: object) -> float | None:
        if value is None and optional:
            return None
        inside = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
        if not inside or (open_low and value == low) or (open_high and value == high):
            raise ValueError(f"{as_written(value)} is not a number {span}; write one, such as {(low + high) / 10:g}")
        return float(cast(float, value))

    bounds = {"exclusiveMinimum" if open_low else "minimum": low, "exclusiveMaximum" if open_high else "maximum": high}
    return Rule(read, {"type": "number", **bounds}, about)


def or_word(word: str, rule: Rule) -> Rule:
    """What the rule takes, or one word."""

    def read(value: object) -> Any:
        if value == word:
            return word
        try:
            return rule.read(value)
        except ValueError as error:
            raise ValueError(f"{error}, or {as_written(word)}") from None

    return replace(rule, read=read, schema={"anyOf": [rule.schema, {"const": word}]})


def whole(about: str, low: int, high: int) -> Rule:
    """A whole number from ``low`` to ``high``."""

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"{as_written(value)} is not a whole number from {low} to {high}; write one, such as {low}")
        return value

    return Rule(read, {"type": "integer", "minimum": low, "maximum": high}, about)


def size(about: str, *, optional: bool = False, least: int = 0) -> Rule:
    """Bytes, at least ``least`` of them; ``optional`` takes None."""

    def read(value: object) -> int | None:
        if value is None and optional:
            return None
        found = read_size(value)
        if found < least:
            raise ValueError(f'{as_written(value)} is too small; write at least "{least}B"')
        return found

    return Rule(read, {"type": ["string", "integer"], "minimum": least, "pattern": SIZE_PATTERN, "examples": ["16KiB", "256MiB"]}, about)


def choice(about: str, *known: str) -> Rule:
    """One of the known words."""

    def read(value: object) -> str:
        if isinstance(value, str) and value in known:
            return value
        raise ValueError(f"{as_written(value)} is not one of {listed(known)}; write {as_written(nearest(value, known) or known[0])}")

    return Rule(read, {"enum": list(known)}, about)


def flag(about: str) -> Rule:
    """True or false."""

    def read(value: object) -> bool:
        if isinstance(value, bool):
            return value
        likely = "true" if as_written(value).strip('"').casefold() in ("1", "yes", "on", "true") else "false"
        raise ValueError(f"{as_written(value)} is not true or false; write {likely}, without quotes")

    return Rule(read, {"type": "boolean"}, about)


def texts(about: str) -> Rule:
    """A list of printable texts that are not blank."""

    def read(value: object) -> tuple[str, ...]:
        if not isinstance(value, (list, tuple)):
            example = as_written(value) if _is_item(value) else '"stores"'
            raise ValueError(f"{as_written(value)} is not a list of texts; write one, such as [{example}]")
        items = tuple(cast("Collection[object]", value))
        hint = 'is not a text for this list; write a printable one, such as "stores"'
        wrong = [(index, f"{as_written(item)} {hint}") for index, item in enumerate(items) if not _is_item(item)]
        if wrong:
            raise ItemsError(*wrong)
        return cast("tuple[str, ...]", items)

    return Rule(read, {"type": "array", "items": {"type": "string", "minLength": 1}}, about)


def field_names(about: str) -> Rule:
    """A list of names of header fields (RFC 9110, 5.1)."""
    plain = texts(about)

    def read(value: object) -> tuple[str, ...]:
        names = cast("tuple[str, ...]", plain.read(value))
        hint = 'is not the name of a header field; write one, such as "Accept-Language"'
        if wrong := [(index, f"{as_written(name)} {hint}") for index, name in enumerate(names) if not re.fullmatch(TOKEN, name)]:
            raise ItemsError(*wrong)
        return names

    return replace(plain, read=read, schema={"type": "array", "items": {"type": "string", "pattern": f"^{TOKEN}$"}})


def _is_item(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and bool(value.strip())


# --- known words ----------------------------------------------------------------------------------------------------------------


def listed(words: Iterable[str]) -> str:
    """The words, quoted, with commas between them."""
    return ", ".join(map(as_written, words))


def nearest(value: object, known: Iterable[str]) -> str | None:
    """The known word that is spelled most like ``value``, if any is."""
    return next(iter(get_close_matches(value[:100].casefold(), list(known), 1, 0.6)), None) if isinstance(value, str) else None
