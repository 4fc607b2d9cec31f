"""Bans: "whatever matches this and is stamped below n is dead".

The word and the idea are Varnish's. Issuing one costs the same whatever the number of entries: nothing is scanned or deleted, the
dead are refused when they are met. Bans are indexed by tag, by key and by literal prefix, so a question costs a few look-ups.

The index is bounded. A ban that has to go raises a floor to its number: what it could have concerned and is stamped below is dead.
That invalidates more than was asked for, never less. Keys and tags have floors of their own, because a dropped ban on a key concerns
only what depends on keys.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from sys import getsizeof
from typing import Final, NamedTuple

from cachesync.core.entry import Dependency
from cachesync.core.patterns import Pattern
from cachesync.core.records import EVERYTHING, GLOB, KEY, PREFIX, TAG, Kind, Targets

MAX_BANS_OF_A_KIND: Final = 100_000
"""Bans of one kind that are remembered one by one."""
MAX_GLOBS_OF_A_PREFIX: Final = 64
"""Globs with the same literal prefix, as those with none, are tried one after the other, so only so many are kept."""
MAX_PREFIX_LENGTHS: Final = 128
"""Each length of a literal prefix is a look-up in every question, so only so many are kept."""

_NO_GLOBS: Final[Mapping[str, Pattern]] = {}


class Floors(NamedTuple):
    """Below which numbers entries are dead: all of them, those that depend on keys, those that have tags."""

    all: int = 0
    keys: int = 0
    tags: int = 0


SAMPLE: Final = 64
"""Things of a kind that are weighed, to know about what all of them weigh."""
_A_PATTERN: Final = Pattern("a*b")


def _weigh(things: Collection[object]) -> int:
    sample = tuple(islice(things, SAMPLE))
    return sum(map(getsizeof, sample)) * len(things) // max(1, len(sample))


class BanIndex:
    """The bans of one mode that one process knows, at most ``limit`` of each kind. Not thread-safe: its owner holds a lock."""

    __slots__ = ("_bans", "_before", "_globs", "_limit", "_of_length", "_prefix_lengths", "floors", "highest")

    def __init__(self, limit: int = MAX_BANS_OF_A_KIND) -> None:
        self._limit = limit
        # Text to number. The newest stand last: what is renewed is inserted again. (In a plain dict the first of 100,000 is found behind
        # the empty places of all that went before it.)
        self._bans: dict[Kind, OrderedDict[str, int]] = {kind: OrderedDict() for kind in (KEY, TAG, PREFIX, GLOB)}
        self._before: dict[str, int] = {}  # of keys that were banned more than once: the number before the newest
        self._globs: dict[str, dict[str, Pattern]] = {}  # by literal prefix, then by text, the newest last
        self._of_length: dict[int, dict[tuple[Kind, str], None]] = {}  # prefixes and globs by the length of their literal prefix
        self._prefix_lengths: tuple[int, ...] = ()
        self.floors = Floors()
        self.highest = 0
        """The highest number of any ban that was ever added: nothing stamped with it or above is dead."""

    def __len__(self) -> int:
        return sum(map(len, self._bans.values()))

    def weigh(self) -> int:
        """About how many bytes of memory it takes: its tables, and what is in them by a sample, so that it takes no time to speak of."""
        tables = (self._before, self._globs, self._of_length, *self._bans.values(), *self._of_length.values())
        patterns = len(self._bans[GLOB]) * getsizeof(_A_PATTERN) + _weigh(self._globs.values())
        filed = (len(self._bans[PREFIX]) + len(self._bans[GLOB])) * getsizeof((PREFIX, ""))
        named = sum(_weigh(bans) + _weigh(bans.values()) for bans in self._bans.values())
        return sum(map(getsizeof, tables)) + patterns + filed + named

    @property
    def floor(self) -> int:
        """Everything stamped below it is dead."""
        return self.floors.all

    def add(self, kind: Kind, text: str, number: int) -> None:
        """Ban what matches ``text``. A lower number than the one known changes nothing."""
        if kind == EVERYTHING:
            self.raise_floors(Floors(all=number))
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
            self._file_length(kind, text, len(text))
        if len(bans) > self._limit:
            self._drop(kind, next(iter(bans)))

    def add_all(self, targets: Targets, number: int) -> None:
        """Ban what ``targets`` name, under one number."""
        texts = ("*",) if targets.kind == EVERYTHING else targets.texts  # everything is everything, whatever texts it comes with
        for text in texts:
            self.add(targets.kind, text, number)

    def raise_floors(self, floors: Floors) -> None:
        """What is stamped below ``floors`` is dead. A floor never sinks."""
        self.floors = Floors(*map(max, self.floors, floors))
        self.highest = max(self.highest, *floors)

    def above(self, number: int) -> tuple[Targets, ...]:
        """All bans with a higher number, as they could be announced again. A floor above it can not be told apart from everything."""
        if max(self.floors) > number:
            return (Targets(EVERYTHING, ("*",)),)
        found = [Targets(kind, tuple(text for text, banned in bans.items() if banned > number)) for kind, bans in self._bans.items()]
        return tuple(targets for targets in found if targets.texts)

    def matching(self, key: str, dependencies: Iterable[Dependency]) -> Iterator[tuple[Kind, str, int]]:
        """The bans that match, with their numbers; floors apart."""
        keys = [key]
        for kind, text in dependencies:
            if kind == TAG and text in self._bans[TAG]:
                yield TAG, text, self._bans[TAG][text]
            elif kind == KEY:
                keys.append(text)
        for one in keys:
            if one in self._bans[KEY]:
                yield KEY, one, self._bans[KEY][one]
            for length in self._prefix_lengths:
                head = one[:length]
                if len(head) == length and head in self._bans[PREFIX]:
                    yield PREFIX, head, self._bans[PREFIX][head]
                if len(head) == length:
                    for text, pattern in self._globs.get(head, _NO_GLOBS).items():
                        if pattern.matches(one):
                            yield GLOB, text, self._bans[GLOB][text]

    def numbered(self) -> Iterator[tuple[Targets, int]]:
        """All bans with their numbers."""
        for kind, bans in self._bans.items():
            for text, number in bans.items():
                yield Targets(kind, (text,)), number

    def newest(self, key: str, dependencies: Iterable[Dependency], *, own: int = 0) -> int:
        """The number of the newest ban that matches, 0 for none.

        A key that is depended on is concerned as one's own is: by name, and by every pattern that matches it. ``own`` is the number of
        the record that announced the entry itself (an explicit ``set``): it does not refuse its own entry.
        """
        keys, tags = self._bans[KEY], self._bans[TAG]
        newest = keys.get(key, 0)
        found = max(self.floors.all, self._before.get(key, 0) if newest == own else newest)
        for kind, text in dependencies:
            if kind == TAG:
                found = max(found, tags.get(text, 0), self.floors.tags)
            elif kind == KEY:
                found = max(found, keys.get(text, 0), self.floors.keys, self._newest_pattern(text))
            else:
                return self.highest
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
            if len(globs) == MAX_GLOBS_OF_A_PREFIX:
                self._drop(GLOB, next(iter(globs)))
                globs = self._globs.setdefault(pattern.prefix, {})
            self._file_length(GLOB, pattern.text, len(pattern.prefix))
            globs = self._globs.setdefault(pattern.prefix, {})  # the drop for a length may have emptied it
        globs[pattern.text] = pattern
        return pattern.text

    def _file_length(self, kind: Kind, text: str, length: int) -> None:
        """Note the length of a literal prefix. Where there are too many lengths, the bans of the one with the fewest go."""
        filed = self._of_length.get(length)
        if filed is None:
            if len(self._of_length) == MAX_PREFIX_LENGTHS:
                _, fewest = min((len(bans), known) for known, bans in self._of_length.items())
                for dropped in list(self._of_length[fewest]):
                    self._drop(*dropped)
            filed = self._of_length[length] = {}
            self._prefix_lengths = tuple(sorted(self._of_length))
        filed[kind, text] = None

    def _drop(self, kind: Kind, text: str) -> None:
        """Forget a ban. A floor remembers it, and more."""
        number = self._bans[kind].pop(text)
        if kind == KEY:
            self._before.pop(text, None)
            self.raise_floors(Floors(keys=number))
        elif kind == TAG:
            self.raise_floors(Floors(tags=number))
        else:
            self.raise_floors(Floors(all=number))
            prefix = text if kind == PREFIX else text.partition("*")[0]
            if kind == GLOB:
                del self._globs[prefix][text]
                if not self._globs[prefix]:
                    del self._globs[prefix]
            filed = self._of_length[len(prefix)]
            del filed[kind, text]
            if not filed:
                del self._of_length[len(prefix)]
                self._prefix_lengths = tuple(sorted(self._of_length))


TIMES_OF_A_BAN: Final = 16
"""Renewals of one soft ban whose times are told apart. Of two that are not, the earlier time counts."""


class SoftIndex(BanIndex):
    """Soft bans, which also know when they were first heard of: what they match may be served stale for a while from then on.

    Of a ban that was read from the shared layer, or dropped, the time is not known: it counts as long ago.
    """

    __slots__ = ("_times", "_untimed")

    def __init__(self, limit: int = MAX_BANS_OF_A_KIND) -> None:
        super().__init__(limit)
        self._times: dict[tuple[Kind, str], list[tuple[int, float]]] = {}  # numbers with times: seconds, monotonic clock
        self._untimed = 0  # the highest floor for everything whose time is not known

    def note(self, targets: Targets, number: int, at: float) -> None:
        """Ban what ``targets`` name, now."""
        for text in ("*",) if targets.kind == EVERYTHING else targets.texts:
            if targets.kind == EVERYTHING:
                known = 0
                super().raise_floors(Floors(all=number))
            else:
                text = Pattern(text).text if targets.kind == GLOB else text
                known = self._bans[targets.kind].get(text, 0)
                self.add(targets.kind, text, number)
            times = self._times.setdefault((targets.kind, text), [])
            if known and (not times or times[-1][0] < known):
                times.append((known, _LONG_AGO))
            if times and times[-1][1] > at:  # one's own, or one that was lost: the log, or another process, was faster to say it
                times[:] = [(earlier, min(since, at)) for earlier, since in times]
            if times and times[-1][0] == number:
                continue
            times.append((number, at))
            if len(times) > TIMES_OF_A_BAN:
                times[1:3] = [(times[2][0], times[1][1])]

    def raise_floors(self, floors: Floors) -> None:
        self._untimed = max(self._untimed, floors.all)
        super().raise_floors(floors)

    def weigh(self) -> int:
        times = len(self._times) * (getsizeof((KEY, "")) + getsizeof([(0, 0.0)]) + getsizeof((0, 0.0)) + getsizeof(0.0))
        return super().weigh() + getsizeof(self._times) + times

    def since(self, key: str, dependencies: tuple[Dependency, ...], number: int) -> float | None:
        """When the first of the bans above ``number`` that match was heard of; long ago where that is not known, ``None`` for none."""
        if number >= self.highest:
            return None
        if number < self._untimed or any(kind == EVERYTHING for kind, _ in dependencies):
            return _LONG_AGO
        found: list[float] = []
        if self.floors.all > number:
            found.append(self._first(EVERYTHING, "*", number, self.floors.all))
        # What is softly invalidated stays where it is: a dropped ban on a key may have been this very one.
        if self.floors.keys > number or (self.floors.tags > number and dependencies):
            found.append(_LONG_AGO)
        found += [self._first(kind, text, number, newest) for kind, text, newest in self.matching(key, dependencies) if newest > number]
        return min(found, default=None)

    def first_above(self, number: int) -> float | None:
        """As `since`, whatever they match."""
        if max(self._untimed, self.floors.keys, self.floors.tags) > number:
            return _LONG_AGO
        found = [
            self._first(kind, text, number, newest) for kind, bans in self._bans.items() for text, newest in bans.items() if newest > number
        ]
        if self.floors.all > number:
            found.append(self._first(EVERYTHING, "*", number, self.floors.all))
        return min(found, default=None)

    def lies_between(self, key: str, dependencies: tuple[Dependency, ...], above: int, most: int) -> bool:
        """Whether one of the bans above ``above`` and up to ``most`` matches; also where that is not known."""
        if above >= min(most, self.highest):
            return False
        floors = self.floors
        if above < max(self._untimed, floors.keys, floors.tags if dependencies else 0) or any(
            kind == EVERYTHING for kind, _ in dependencies
        ):
            return True
        if floors.all > above and self._may_lie_between(EVERYTHING, "*", floors.all, above, most):
            return True
        return any(
            newest > above and self._may_lie_between(kind, text, newest, above, most)
            for kind, text, newest in self.matching(key, dependencies)
        )

    def _may_lie_between(self, kind: Kind, text: str, newest: int, above: int, most: int) -> bool:
        times = self._times.get((kind, text), [])
        is_known = 0 < len(times) < TIMES_OF_A_BAN and times[-1][0] == newest and all(at > _LONG_AGO for _, at in times)
        return newest <= most or not is_known or any(above < number <= most for number, _ in times)

    def _first(self, kind: Kind, text: str, number: int, newest: int) -> float:
        times = self._times.get((kind, text), ())
        if not times or times[-1][0] != newest:
            return _LONG_AGO  # it was read from the shared layer, or is a floor
        return next(at for known, at in times if known > number)

    def _drop(self, kind: Kind, text: str) -> None:
        super()._drop(kind, text)
        self._times.pop((kind, text), None)


_LONG_AGO: Final = float("-inf")
