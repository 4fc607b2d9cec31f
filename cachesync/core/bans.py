"""Bans: "whatever matches this and is stamped below n is dead".

The word and the idea are Varnish's. Issuing one costs the same whatever the number of entries: nothing is scanned or deleted, the
dead are refused when they are met. Bans are indexed by tag, by key and by literal prefix, so a question costs a few look-ups.

The index is bounded. A ban that has to go raises the floor to its number: every entry stamped below the floor is dead. That
invalidates more than was asked for, never less.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cachesync.core.entry import Dependency
from cachesync.core.patterns import Pattern
from cachesync.core.records import EVERYTHING, GLOB, KEY, PREFIX, TAG, Kind, Targets

MAX_BANS: Final = 100_000
"""Bans of one kind that are remembered one by one."""
MAX_WILD_GLOBS: Final = 64
"""Globs without a literal prefix are tried one after the other, so only so many are kept."""

_NEVER: Final = (0, 0)


class BanIndex:
    """The bans one process knows. Not thread-safe: its owner holds a lock."""

    __slots__ = ("_globs", "_keys", "_limit", "_named", "_prefix_lengths", "floor", "highest")

    def __init__(self, limit: int = MAX_BANS) -> None:
        self._limit = limit
        self._keys: dict[str, tuple[int, int]] = {}  # the newest number and the one before it
        self._named: dict[str, dict[str, int]] = {TAG: {}, PREFIX: {}}
        self._globs: dict[str, dict[str, tuple[Pattern, int]]] = {}  # by literal prefix, then by pattern
        self._prefix_lengths: tuple[int, ...] = ()
        self.floor = 0
        """Everything stamped below it is dead."""
        self.highest = 0
        """The highest number of any ban that was ever added: nothing stamped with it or above is dead."""

    def __len__(self) -> int:
        return len(self._keys) + sum(map(len, self._named.values())) + sum(map(len, self._globs.values()))

    def add(self, kind: Kind, text: str, number: int) -> None:
        """Ban what matches ``text``. A lower number than the one known changes nothing."""
        self.highest = max(self.highest, number)
        if kind == EVERYTHING:
            self.raise_floor(number)
        elif kind == KEY:
            self._add_key(text, number)
        elif kind == GLOB:
            self._add_glob(Pattern.parse(text), number)
        else:
            self._add_named(kind, text, number)

    def add_all(self, targets: Targets, number: int) -> None:
        for text in targets.texts:
            self.add(targets.kind, text, number)
        if targets.kind == EVERYTHING:
            self.raise_floor(number)

    def raise_floor(self, number: int) -> None:
        """Everything stamped below ``number`` is dead."""
        self.floor = max(self.floor, number)
        self.highest = max(self.highest, number)

    def newest(self, key: str, dependencies: Iterable[Dependency], *, own: int = 0) -> int:
        """The number of the newest ban that matches, 0 for none.

        ``own`` is the number of the record that announced the entry itself (an explicit ``set``): it does not refuse its own entry.
        """
        found = self.floor
        if self._keys:
            newest, before = self._keys.get(key, _NEVER)
            found = max(found, before if newest == own else newest)
        for kind, text in dependencies:
            found = max(found, self._keys.get(text, _NEVER)[0] if kind == KEY else self._named[TAG].get(text, 0))
        if self._prefix_lengths:
            found = max(found, self._newest_pattern(key))
        return found

    def _newest_pattern(self, key: str) -> int:
        found, prefixes, globs = 0, self._named[PREFIX], self._globs
        for length in self._prefix_lengths:
            if length > len(key):
                break
            head = key[:length]
            found = max(found, prefixes.get(head, 0))
            for pattern, number in globs.get(head, {}).values():
                if number > found and pattern.matches(key):
                    found = number
        return found

    def _add_key(self, text: str, number: int) -> None:
        newest, before = self._keys.pop(text, _NEVER)
        if number > newest:
            newest, before = number, newest
        elif number < newest:
            before = max(before, number)
        self._keys[text] = newest, before
        if len(self._keys) > self._limit:
            self.floor = max(self.floor, self._keys.pop(next(iter(self._keys)))[0])

    def _add_named(self, kind: Kind, text: str, number: int) -> None:
        bans = self._named[kind]
        known = bans.pop(text, 0)
        if kind == PREFIX and not known and len(text) not in self._prefix_lengths:
            self._prefix_lengths = tuple(sorted((*self._prefix_lengths, len(text))))
        bans[text] = max(known, number)  # the newest stand last: dictionaries keep the order of insertion
        if len(bans) > self._limit:
            oldest = next(iter(bans))
            self.floor = max(self.floor, bans.pop(oldest))

    def _add_glob(self, pattern: Pattern, number: int) -> None:
        bans = self._globs.setdefault(pattern.prefix, {})
        known = bans.pop(pattern.text, (pattern, 0))[1]
        bans[pattern.text] = (pattern, max(known, number))
        if len(pattern.prefix) not in self._prefix_lengths:
            self._prefix_lengths = tuple(sorted((*self._prefix_lengths, len(pattern.prefix))))
        if len(bans) > MAX_WILD_GLOBS:
            oldest = next(iter(bans))
            self.floor = max(self.floor, bans.pop(oldest)[1])
