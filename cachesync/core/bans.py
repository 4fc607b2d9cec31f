"""Bans: "whatever matches this and is stamped below n is dead".

The word and the idea are Varnish's. Issuing one costs the same whatever the number of entries: nothing is scanned or deleted, the
dead are refused when they are met. Bans are indexed by tag, by key and by literal prefix, so a question costs a few look-ups.

The index is bounded. A ban that has to go raises the floor to its number: every entry stamped below the floor is dead. That
invalidates more than was asked for, never less.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from cachesync.core.entry import Dependency
from cachesync.core.patterns import Pattern
from cachesync.core.records import EVERYTHING, GLOB, KEY, PREFIX, TAG, Kind, Targets

MAX_BANS_OF_A_KIND: Final = 100_000
"""Bans of one kind that are remembered one by one."""
MAX_GLOBS_OF_A_PREFIX: Final = 64
"""Globs with the same literal prefix, as those with none, are tried one after the other, so only so many are kept."""

_NO_GLOBS: Final[Mapping[str, Pattern]] = {}


class BanIndex:
    """The bans one process knows, at most ``limit`` of each kind. Not thread-safe: its owner holds a lock."""

    __slots__ = ("_bans", "_before", "_globs", "_length_counts", "_limit", "_prefix_lengths", "floor", "highest")

    def __init__(self, limit: int = MAX_BANS_OF_A_KIND) -> None:
        self._limit = limit
        # Text to number. The newest stand last: dictionaries keep the order of insertion, and what is renewed is inserted again.
        self._bans: dict[Kind, dict[str, int]] = {KEY: {}, TAG: {}, PREFIX: {}, GLOB: {}}
        self._before: dict[str, int] = {}  # of keys that were banned more than once: the number before the newest
        self._globs: dict[str, dict[str, Pattern]] = {}  # by literal prefix, then by text, the newest last
        self._length_counts: dict[int, int] = {}  # how many prefixes and globs have a literal prefix of this length
        self._prefix_lengths: tuple[int, ...] = ()
        self.floor = 0
        """Everything stamped below it is dead."""
        self.highest = 0
        """The highest number of any ban that was ever added: nothing stamped with it or above is dead."""

    def __len__(self) -> int:
        return sum(map(len, self._bans.values()))

    def add(self, kind: Kind, text: str, number: int) -> None:
        """Ban what matches ``text``. A lower number than the one known changes nothing."""
        if kind == EVERYTHING:
            self.raise_floor(number)
            return
        self.highest = max(self.highest, number)
        if kind == GLOB:
            text = self._file_glob(Pattern(text))
        bans = self._bans[kind]
        known = bans.pop(text, 0)
        bans[text] = max(known, number)
        if kind == KEY and known and known != number:
            self._before[text] = max(self._before.get(text, 0), min(known, number))
        if kind == PREFIX and not known:
            self._count_length(len(text), 1)
        if len(bans) > self._limit:
            self._drop_oldest(kind, bans)

    def add_all(self, targets: Targets, number: int) -> None:
        """Ban what ``targets`` name, under one number."""
        texts = ("*",) if targets.kind == EVERYTHING else targets.texts  # everything is everything, whatever texts it comes with
        for text in texts:
            self.add(targets.kind, text, number)

    def raise_floor(self, number: int) -> None:
        """Everything stamped below ``number`` is dead."""
        self.floor = max(self.floor, number)
        self.highest = max(self.highest, number)

    def newest(self, key: str, dependencies: Iterable[Dependency], *, own: int = 0) -> int:
        """The number of the newest ban that matches, 0 for none.

        ``own`` is the number of the record that announced the entry itself (an explicit ``set``): it does not refuse its own entry.
        """
        keys, tags = self._bans[KEY], self._bans[TAG]
        newest = keys.get(key, 0)
        found = max(self.floor, self._before.get(key, 0) if newest == own else newest)
        for kind, text in dependencies:
            found = max(found, keys.get(text, 0) if kind == KEY else tags.get(text, 0))
        if self._prefix_lengths:
            found = max(found, self._newest_pattern(key))
        return found

    def _newest_pattern(self, key: str) -> int:
        found, prefixes, numbers = 0, self._bans[PREFIX], self._bans[GLOB]
        for length in self._prefix_lengths:
            if length > len(key):
                break
            head = key[:length]
            found = max(found, prefixes.get(head, 0))
            for text, pattern in self._globs.get(head, _NO_GLOBS).items():
                if numbers[text] > found and pattern.matches(key):
                    found = numbers[text]
        return found

    def _file_glob(self, pattern: Pattern) -> str:
        """Make room for a glob among those of its literal prefix. Returns its text in the shortest spelling."""
        globs = self._globs.setdefault(pattern.prefix, {})
        if globs.pop(pattern.text, None) is None:
            self._count_length(len(pattern.prefix), 1)
            if len(globs) == MAX_GLOBS_OF_A_PREFIX:
                self._drop_oldest(GLOB, globs)
        globs[pattern.text] = pattern
        return pattern.text

    def _drop_oldest(self, kind: Kind, bans: Mapping[str, object]) -> None:
        """Forget the first of ``bans``. The floor remembers it, and more."""
        text = next(iter(bans))
        self.raise_floor(self._bans[kind].pop(text))
        if kind == KEY:
            self._before.pop(text, None)
        elif kind == PREFIX:
            self._count_length(len(text), -1)
        elif kind == GLOB:
            prefix = text.partition("*")[0]
            globs = self._globs[prefix]
            del globs[text]
            if not globs:
                del self._globs[prefix]
            self._count_length(len(prefix), -1)

    def _count_length(self, length: int, change: int) -> None:
        """One literal prefix of this length more, or one less."""
        count = self._length_counts.pop(length, 0) + change
        if count:
            self._length_counts[length] = count
        if len(self._length_counts) != len(self._prefix_lengths):
            self._prefix_lengths = tuple(sorted(self._length_counts))
