"""Local memory: the copies of one process, bounded by entries and bytes, evicted by S3-FIFO.

S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi: FIFO queues are all you need for cache eviction, SOSP 2023) keeps three queues. A new copy
enters *small*, a tenth of the entries. At its end it moves on to *main* if it was hit more than once, else it leaves and the
*ghost* remembers the hash of its key for a while. A key the ghost knows enters *main* at once. At the end of *main* a copy that was
hit goes round again with one hit less, of three at most; one that was not leaves. A scan passes through *small* and leaves *main* as
it was.

Threads. A hit takes no lock and moves nothing: ``copies`` is a plain dict, and the reader adds one to ``held.hits``. Puts, drops and
evictions take the one lock of the layer. What this rests on, in CPython with its global lock (3.11 and later): a thread gives way
only where a call begins or returns and where a loop jumps back. ``held.hits += 1`` has neither, nor have the lines below that read
``hits`` and put it back, nor those of a reader between ``now < held.until`` and ``held.value``. So no hit is lost, and a copy that
leaves (``until`` becomes 0) is either served and counted before, or refused after. Without the global lock, or where a copy that
left is served as stale, the counts are approximate.

The lock is re-entrant: a finalizer may run wherever memory is allocated, and it may call a cached function. The value of a copy that
leaves is not overwritten, because a flow that judged it may be about to serve it as stale; it goes with the last reference to it.
"""

from __future__ import annotations

import itertools
import time
from array import array
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Final

from cachesync.core.entry import SIZE_UNIT, Held
from cachesync.layers.forks import lock_across_forks
from cachesync.protocols import Shelf, Usage

HIGHEST_FREQUENCY: Final = 3
"""Rounds in *main* that a copy can earn between two looks at it."""
SMALL_SHARE: Final = 10
"""One in so many entries stands in *small*. Fewer are better for independent requests, worse for repeated ones: see
``benchmarks/hit_ratio.py``."""
LOOKS: Final = 512
"""Copies looked at for one eviction. When all were hit, the next one goes unseen, so that no put waits for a walk of the queues."""
SLACK: Final = 64
"""Tombstones and puts that are always allowed between two sweeps, so that a small layer does not sweep at each put."""


class Ghost:
    """Remembers which keys left *small* lately, by hash: between half as many and as many as there are copies.

    Two tables of 32-bit fingerprints, at an index that the other half of the hash gives; a later key overwrites an earlier one.
    When the young table has taken half as many keys as there are copies it becomes the old one, and the old one is forgotten. That is
    8 to 16 bytes for each copy, from the first eviction on. A false memory (1 in 2**31) only lets a key enter *main*.
    """

    __slots__ = ("_noted", "_old", "_young")

    def __init__(self) -> None:
        self._noted = 0
        self._young = array("I", (0,))
        self._old = self._young

    def note(self, hashed: int, *, among: int) -> None:
        """Remember a key that leaves, ``among`` so many copies."""
        if self._noted * 2 >= among or len(self._young) == 1:
            self._old = self._young
            self._young = array("I", bytes(4 << max(3, (among - 1).bit_length())))
            self._noted = 0
        self._noted += 1
        self._young[(hashed >> 32) & (len(self._young) - 1)] = hashed & 0xFFFFFFFF

    def recall(self, hashed: int) -> bool:
        """True once for a key that is remembered."""
        mark = hashed & 0xFFFFFFFF
        for table in (self._young, self._old):
            place = (hashed >> 32) & (len(table) - 1)
            if table[place] == mark and mark:
                table[place] = 0
                return True
        return False


class OwnedShelf:
    """A shelf as its function holds it. When the function is collected its copies leave, at the layer's next put or ``usage``.

    The copies themselves refer to the shelf behind it (``held.shelf``), so that they do not keep this one alive.
    """

    __slots__ = ("__weakref__", "_orphans", "_shelf", "copies")

    def __init__(self, shelf: Shelf, orphans: deque[Shelf]) -> None:
        self._shelf = shelf
        self._orphans = orphans
        self.copies: Mapping[Hashable, Held] = shelf.copies

    @property
    def hits(self) -> int:
        """How often copies of this shelf were served, the departed ones included."""
        return self._shelf.hits

    def put(self, raw: Hashable, held: Held) -> Held:
        """Keep ``held``, or renew what stands there. ``held`` is a copy that was on no shelf before."""
        return self._shelf.put(raw, held)

    def drop(self, raw: Hashable) -> bool:
        """Take the copy under ``raw`` away. True if there was one."""
        return self._shelf.drop(raw)

    def __iter__(self) -> Iterator[Held]:
        return iter(self._shelf)

    def __len__(self) -> int:
        return len(self._shelf)

    def __del__(self) -> None:
        # No lock here: the collector runs this inside any allocation, the layer's own included.
        self._orphans.append(self._shelf)


class LocalShelf:
    """The copies of one cached function in `LocalMemory`, in a dict by their raw arguments."""

    __slots__ = ("copies", "memory", "number", "retired")

    def __init__(self, memory: LocalMemory, number: int) -> None:
        self.memory = memory
        self.number = number
        self.copies: dict[Hashable, Held] = {}
        self.retired = 0
        """Hits of copies that left, and those the evictor has taken from the count of copies that stay."""

    @property
    def hits(self) -> int:
        """How often copies of this shelf were served, the departed ones included."""
        with self.memory.lock:
            return self.retired + sum(held.hits for held in tuple(self.copies.values()))

    def put(self, raw: Hashable, held: Held) -> Held:
        """Keep ``held``, or renew what stands there. ``held`` is a copy that was on no shelf before.

        A copy larger than half of ``max_bytes`` is not kept: it is returned as it is, and what stood there leaves.
        """
        with self.memory.lock:
            return self.memory.put(self, raw, held)

    def drop(self, raw: Hashable) -> bool:
        """Take the copy under ``raw`` away. True if there was one."""
        with self.memory.lock:
            return self.memory.drop(self, raw)

    def __iter__(self) -> Iterator[Held]:
        with self.memory.lock:
            return iter(tuple(self.copies.values()))

    def __len__(self) -> int:
        return len(self.copies)


class LocalMemory:
    """The local layer: copies on shelves, at most ``max_entries`` and ``max_bytes`` (by ``Held.size``) over all shelves.

    Raises ``ValueError`` for a bound below one entry or below 128 bytes. ``clock`` (seconds) tells which copies may not
    be served any more, not even stale: they leave at the end of a queue, a few with each put, and anywhere in a queue at the next
    sweep, which comes after half as many puts as there are copies.

    A copy that is dropped leaves a tombstone in its queue, which holds its value until it is swept: at the latest when tombstones are
    half as many as the copies, or hold an eighth of ``max_bytes``.
    """

    def __init__(self, max_entries: int = 100_000, max_bytes: int = 256 * 1024 * 1024, clock: Callable[[], float] = time.monotonic) -> None:
        self._bound(max_entries, max_bytes)
        self.lock = lock_across_forks()
        self._clock = clock
        self._small: deque[Held] = deque()
        self._main: deque[Held] = deque()
        self._ghost = Ghost()
        self._living = 0
        self._units = 0
        self._dead = 0
        self._dead_units = 0
        self._puts = 0
        self._evictions = 0
        self._numbers = itertools.count()
        self._orphans: deque[Shelf] = deque()

    def resize(self, max_entries: int, max_bytes: int) -> None:
        """Hold more or less from now on: what is too much leaves. Raises ``ValueError`` as the constructor does."""
        with self.lock:
            self._bound(max_entries, max_bytes)
            while self._living > self._max_entries or self._units > self._max_units:
                self._evict()

    def _bound(self, max_entries: int, max_bytes: int) -> None:
        if max_entries < 1:
            raise ValueError(f"max_entries is {max_entries}; a local layer holds at least 1 entry")
        if max_bytes < 2 * SIZE_UNIT:
            raise ValueError(f"max_bytes is {max_bytes}; a local layer holds at least {2 * SIZE_UNIT} bytes")
        self._max_entries = max_entries
        self._max_units = max_bytes // SIZE_UNIT
        self._largest = self._max_units // 2

    def shelf(self) -> OwnedShelf:
        """A new, empty shelf. Its ``copies`` is a real dict."""
        return OwnedShelf(LocalShelf(self, next(self._numbers)), self._orphans)

    def clear(self) -> None:
        """Drop every copy on every shelf, and forget which keys left. The shelves keep their counts of hits."""
        with self.lock:
            for queue in (self._small, self._main):
                while queue:
                    held = queue.popleft()
                    if held.shelf is not None:
                        self._depart(held)
            self._dead = self._dead_units = self._puts = 0
            self._ghost = Ghost()

    def usage(self) -> Usage:
        """How full the layer is. ``bytes`` is the sum of ``Held.size`` over the copies, without dict and queues."""
        with self.lock:
            self._clear_orphans()
            return Usage(
                entries=self._living,
                bytes=self._units * SIZE_UNIT,
                max_entries=self._max_entries,
                max_bytes=self._max_units * SIZE_UNIT,
                evictions=self._evictions,
            )

    # --- the rest runs under the lock ---------------------------------------------------------------------------------------------

    def put(self, shelf: LocalShelf, raw: Hashable, held: Held) -> Held:
        """What `LocalShelf.put` does; the caller holds ``lock``."""
        standing = shelf.copies.get(raw)
        if standing is held:
            return held
        if held.size > self._largest:
            if standing is not None:
                self.drop(shelf, raw)
            return held
        self._puts += 1
        if self._orphans:
            self._clear_orphans()
        if self._puts * 2 > self._living + SLACK:
            self._sweep(keep=standing)
        if standing is not None:
            self._units += held.size - standing.size
            standing.renew(held)
            while self._units > self._max_units:
                self._evict(keep=standing)
            return standing
        self._clear_ends()
        while self._living >= self._max_entries or self._units + held.size > self._max_units:
            self._evict()
        queue = self._main if self._evictions and self._ghost.recall(hash((shelf.number, raw))) else self._small
        held.raw = raw
        held.shelf = shelf
        queue.append(held)
        self._living += 1
        self._units += held.size
        shelf.copies[raw] = held
        return held

    def drop(self, shelf: LocalShelf, raw: Hashable) -> bool:
        """What `LocalShelf.drop` does; the caller holds ``lock``."""
        held = shelf.copies.get(raw)
        if held is None:
            return False
        self._depart(held)
        self._dead += 1
        self._dead_units += held.size
        if self._dead * 2 > self._living + SLACK or self._dead_units * 8 > self._max_units:
            self._sweep()
        return True

    def _depart(self, held: Held) -> None:
        """Take a copy off its shelf. Its place in a queue is the caller's business."""
        shelf: LocalShelf = held.shelf
        raw = held.raw
        if shelf.copies.get(raw) is held:
            del shelf.copies[raw]
        self._living -= 1
        self._units -= held.size
        held.raw = None
        held.shelf = None
        # No call from here on: a reader counts its hit before these lines or is refused after them.
        shelf.retired += held.hits
        held.hits = 0
        held.until = 0.0

    def _evict(self, keep: Held | None = None) -> None:
        """Make one copy leave, another one than ``keep``. There must be one."""
        small, main = self._small, self._main
        looks = 0
        while True:
            looks += 1
            in_small = bool(small) and (not main or len(small) * SMALL_SHARE >= len(small) + len(main))
            held = small.popleft() if in_small else main.popleft()
            shelf: LocalShelf | None = held.shelf
            if shelf is None:
                self._dead -= 1
                self._dead_units -= held.size
                continue
            hits = held.hits
            if held is not keep and (hits <= (1 if in_small else 0) or looks > LOOKS):
                break
            # No call between reading the hits and writing them: what a reader adds in between would be lost.
            hits = held.hits
            left = 0 if in_small or not hits else hits - 1 if hits < HIGHEST_FREQUENCY else HIGHEST_FREQUENCY - 1
            shelf.retired += hits - left
            held.hits = left
            main.append(held)
        if in_small:
            self._ghost.note(hash((shelf.number, held.raw)), among=self._living)
        self._depart(held)
        self._evictions += 1

    def _clear_ends(self) -> None:
        """Take up to two tombstones or expired copies from the end of each queue."""
        now = self._clock()
        for queue in (self._small, self._main):
            for _ in (1, 2):
                if not queue or (queue[0].shelf is not None and not queue[0].is_over(now)):
                    break
                held = queue.popleft()
                if held.shelf is not None:
                    self._depart(held)
                else:
                    self._dead -= 1
                    self._dead_units -= held.size

    def _sweep(self, keep: Held | None = None) -> None:
        """Take all tombstones and expired copies out of the queues; ``keep`` stays. The order of the others is kept."""
        now = self._clock()
        self._puts = 0
        for queue in (self._small, self._main):
            for _ in range(len(queue)):
                # Not a new deque: what a finalizer puts or clears meanwhile would be lost, or come back.
                if not queue:
                    break
                held = queue.popleft()
                if held.shelf is None:
                    self._dead -= 1
                    self._dead_units -= held.size
                elif held.is_over(now) and held is not keep:
                    self._depart(held)
                else:
                    queue.append(held)

    def _clear_orphans(self) -> None:
        """Drop the copies of shelves that nobody holds any more."""
        while self._orphans:
            shelf = self._orphans.popleft()
            for held in shelf:
                shelf.drop(held.raw)
