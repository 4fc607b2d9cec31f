"""Patterns over key texts, and what they have in common with key templates.

``*`` is the only wildcard. It stands for any string, the empty one too, and it crosses ``:``; everything else is literal.

The *shape* of a key template is its literal text with a mark for each placeholder: `HOLE` where any string without ``:`` may stand,
the empty one too, and `DIGITS` where a non-empty string over ``-0123456789`` stands. No key holds the two marks themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

HOLE: Final = "\x00"
"""A placeholder in a shape: any string, also the empty one, without ``:``."""
DIGITS: Final = "\x01"
"""A placeholder in a shape: a non-empty string over ``-0123456789``."""

PatternKind = Literal["key", "prefix", "glob", "everything"]


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern, in its shortest spelling (``**`` is ``*``). Two patterns are equal when their texts are.

    ``literals`` counts the literal characters: how specific it is. ``prefix`` is the text before the first ``*``. ``kind`` is "key"
    without a star, "prefix" with one star at the end of some text, "everything" for ``*`` alone, and "glob" for the rest.
    Raises ``ValueError`` for an empty pattern, and for one that holds `HOLE` or `DIGITS`.
    """

    text: str
    literals: int = field(init=False, compare=False, repr=False)
    prefix: str = field(init=False, compare=False, repr=False)
    kind: PatternKind = field(init=False, compare=False)
    _middle: tuple[str, ...] = field(init=False, compare=False, repr=False)
    _suffix: str = field(init=False, compare=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """The pattern that ``text`` spells."""
        return cls(text)

    def __post_init__(self) -> None:
        if not self.text:
            raise ValueError('"" is not a pattern; write "*" for every key')
        if HOLE in self.text or DIGITS in self.text:
            raise ValueError("a pattern with the character U+0000 or U+0001 is not allowed; no key matches it")
        pieces = self.text.split("*")
        middle = tuple(piece for piece in pieces[1:-1] if piece)
        put = object.__setattr__
        put(self, "text", pieces[0] if len(pieces) == 1 else "*".join((pieces[0], *middle, pieces[-1])))
        put(self, "literals", sum(map(len, pieces)))
        put(self, "prefix", pieces[0])
        put(self, "_middle", middle)
        put(self, "_suffix", pieces[-1] if len(pieces) > 1 else "")
        put(self, "kind", _kind(pieces))

    def matches(self, text: str) -> bool:
        """Is ``text`` one of the keys? The pieces are looked for from left to right, so nothing is tried twice."""
        if self.kind == "prefix":
            return text.startswith(self.prefix)
        if self.kind == "key":
            return text == self.text
        end = len(text) - len(self._suffix)
        at = len(self.prefix)
        if at > end or not text.startswith(self.prefix) or not text.endswith(self._suffix):
            return False
        for piece in self._middle:
            at = text.find(piece, at, end)
            if at < 0:
                return False
            at += len(piece)
        return True

    def overlaps(self, other: Pattern) -> bool:
        """Is there a key that both match? `intersects` for two patterns, at the price of a look at both ends.

        Between its ends a pattern with a star admits anything, so the pieces of both can stand there one after the other.
        """
        if self.kind == "key":
            return other.matches(self.text)
        if other.kind == "key":
            return self.matches(other.text)
        return _fit(self.prefix, other.prefix, str.startswith) and _fit(self._suffix, other._suffix, str.endswith)


def _fit(one: str, two: str, is_end: Callable[[str, str], bool]) -> bool:
    return is_end(one, two) or is_end(two, one)


def _kind(pieces: list[str]) -> PatternKind:
    if len(pieces) == 1:
        return "key"
    if not any(pieces):
        return "everything"
    return "glob" if any(pieces[1:]) else "prefix"


def covers(pattern: Pattern, shape: str) -> bool:
    """Does the pattern match every key of the shape?

    A mark in the shape is a character that no pattern contains, so only a star can match it, and what a star matches may be
    anything: a pattern matches all keys of a shape when it matches the shape itself.
    """
    return pattern.matches(shape)


def intersects(a: str, b: str) -> bool:
    """Is there a key in both? ``a`` and ``b`` are texts over literals, ``*``, `HOLE` and `DIGITS`.

    Both are read side by side as small automata. Each pair of places is looked at once, so the work is at most the product of the
    two lengths.
    """
    left, right = _places(a), _places(b)
    seen = {(0, 0)}
    waiting = [(0, 0)]
    while waiting:
        i, j = waiting.pop()
        x, x_repeats = left[i]
        y, y_repeats = right[j]
        if not x and not y:
            return True
        shared = _share(x, y)
        for reached, place in (
            (x_repeats or (y_repeats and shared), (i + 1, j)),  # leave x: it has had enough, or y goes on beside it
            (y_repeats or (x_repeats and shared), (i, j + 1)),
            (shared, (i + 1, j + 1)),
        ):
            if reached and place not in seen:
                seen.add(place)
                waiting.append(place)
    return False


_Place = tuple[str, bool]
"""A symbol, and whether it stands for any number of its characters (else for one). The last place is the empty symbol."""


def _places(text: str) -> list[_Place]:
    places: list[_Place] = []
    for symbol in text:
        if symbol == DIGITS:
            places += ((DIGITS, False), (DIGITS, True))
        elif symbol not in ("*", HOLE):
            places.append((symbol, False))
        elif not places or places[-1] != (symbol, True):
            places.append((symbol, True))
    return [*places, ("", False)]


def _share(x: str, y: str) -> bool:
    """Is there a character that both symbols stand for?"""
    return bool(x and y) and (x == y or _admits(x, y) or _admits(y, x))


def _admits(symbol: str, other: str) -> bool:
    if symbol == DIGITS:
        return other in "-0123456789"
    return symbol == "*" or (symbol == HOLE and other != ":")
