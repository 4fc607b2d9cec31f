"""A local layer over any cache of cachetools, for those who know which eviction they want.

One cache serves all shelves, under keys ``(number of the shelf, raw)``. It belongs to the layer from then on: nobody else puts into
it. A ``getsizeof`` and a ``ttu`` are given the `Held`, as the values of the cache.

How departures are noticed. A cache of cachetools evicts through ``self.popitem()`` and, where it knows time, ``self.expire()``; the
layer shadows both on the instance, by functions that call the class's own and take note of what left. A subclass may remove in another
way: then the cache and the layer's own books differ in length after an operation, and the books are gone through.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, TypeAlias

from cachetools import Cache, TLRUCache, TTLCache

from cachesync.core.entry import SIZE_UNIT, Held
from cachesync.layers.forks import lock_across_forks
from cachesync.layers.local import OwnedShelf
from cachesync.protocols import Shelf, Usage

Place: TypeAlias = tuple[int, Hashable]
UNBOUNDED: Final = 0
"""What `Usage` shows as the bound of what the cache does not bound."""


class PluggedCopies(Mapping[Hashable, Held]):
    """The copies of one shelf, read through the cache: each look takes the lock, and the cache may move what it finds."""

    __slots__ = ("_shelf",)

    def __init__(self, shelf: PluggedShelf) -> None:
        self._shelf = shelf

    def __getitem__(self, raw: Hashable) -> Held:
        shelf = self._shelf
        memory = shelf.memory
        with memory.lock:
            if raw not in shelf.known:
                raise KeyError(raw)
            return memory.cache[shelf.number, raw]

    def __contains__(self, raw: object) -> bool:
        """Without moving it in the cache."""
        shelf = self._shelf
        with shelf.memory.lock:
            return raw in shelf.known and (shelf.number, raw) in shelf.memory.cache

    def __iter__(self) -> Iterator[Hashable]:
        return iter(tuple(held.raw for held in self._shelf))

    def __len__(self) -> int:
        return len(self._shelf)


class PluggedShelf:
    """The copies of one cached function in `CachetoolsMemory`."""

    __slots__ = ("copies", "known", "memory", "number", "retired")

    def __init__(self, memory: CachetoolsMemory, number: int) -> None:
        self.memory = memory
        self.number = number
        self.known: dict[Hashable, Held] = {}
        """The copies by the layer's own books."""
        self.retired = 0
        self.copies = PluggedCopies(self)

    @property
    def hits(self) -> int:
        """How often copies of this shelf were served, the departed ones included."""
        with self.memory.lock:
            return self.retired + sum(held.hits for held in tuple(self.known.values()))

    def put(self, raw: Hashable, held: Held) -> Held:
        """Keep ``held``, or renew what stands there. What the cache refuses (too large, past its time) is returned as it is."""
        with self.memory.lock:
            return self.memory.put(self, raw, held)

    def drop(self, raw: Hashable) -> bool:
        """Take the copy under ``raw`` away. True if there was one."""
        with self.memory.lock:
            return self.memory.drop(self, raw)

    def __iter__(self) -> Iterator[Held]:
        with self.memory.lock:
            self.memory.settle()
            return iter(tuple(self.known.values()))

    def __len__(self) -> int:
        with self.memory.lock:
            self.memory.settle()
            return len(self.known)


class CachetoolsMemory:
    """A local layer that keeps its copies in ``cache``, any `cachetools.Cache`, which must be empty (else ``ValueError``).

    A hit takes one lock and does what the cache does at a hit: it is several times slower than in ``LocalMemory``, and threads wait for
    each other.
    """

    def __init__(self, cache: Cache[Place, Held]) -> None:
        if len(cache):
            raise ValueError("the cache is not empty; a layer needs a cache of its own")
        self.cache = cache
        self.lock = lock_across_forks()
        self._shelves: dict[int, PluggedShelf] = {}
        self._numbers = itertools.count()
        self._orphans: deque[Shelf] = deque()
        self._living = 0
        self._units = 0
        self._evictions = 0
        self._popitem: Callable[[], tuple[Place, Held]] = cache.popitem
        vars(cache)["popitem"] = self._pop
        if isinstance(cache, (TTLCache, TLRUCache)):
            self._class_expire: Callable[[Any], Any] = cache.expire
            vars(cache)["expire"] = self._expire

    def shelf(self) -> OwnedShelf:
        """A new, empty shelf."""
        shelf = PluggedShelf(self, next(self._numbers))
        return OwnedShelf(shelf, self._orphans)

    def clear(self) -> None:
        """Drop every copy on every shelf. The shelves keep their counts of hits."""
        with self.lock:
            self.cache.clear()
            for shelf in tuple(self._shelves.values()):
                for held in tuple(shelf.known.values()):
                    self._depart(held)

    def usage(self) -> Usage:
        """How full the cache is, as far as is known. What is not bounded shows as 0.

        With a ``getsizeof`` of the user's, ``bytes`` and ``max_bytes`` are in its unit and entries are not bounded. Without one,
        ``bytes`` is the sum of ``Held.size``, and bytes are not bounded.
        """
        with self.lock:
            self._clear_orphans()
            self.settle()
            maxsize = self.cache.maxsize
            bound = UNBOUNDED if maxsize == float("inf") else int(maxsize)
            if self.cache.getsizeof is Cache.getsizeof:
                return Usage(self._living, self._units * SIZE_UNIT, bound, UNBOUNDED, self._evictions)
            return Usage(self._living, int(self.cache.currsize), UNBOUNDED, bound, self._evictions)

    # --- the rest runs under the lock ---------------------------------------------------------------------------------------------

    def put(self, shelf: PluggedShelf, raw: Hashable, held: Held) -> Held:
        """What `PluggedShelf.put` does; the caller holds ``lock``."""
        self._clear_orphans()
        self.settle()
        place = (shelf.number, raw)
        standing = shelf.known.get(raw)
        if standing is held:
            return held
        if standing is None:
            kept = held
        else:
            kept = standing
            self._units += held.size - standing.size
            standing.renew(held)
        try:
            self.cache[place] = kept
        except ValueError:  # larger than the whole cache
            self.cache.pop(place, None)
        stands = place in self.cache
        if stands and kept.shelf is None:
            # New; or pushed out by its own growth, and then stored after all.
            kept.until = held.until
            kept.raw = raw
            kept.shelf = shelf
            self._shelves[shelf.number] = shelf
            shelf.known[raw] = kept
            self._living += 1
            self._units += kept.size
        elif not stands and kept.shelf is not None:
            self._depart(kept)
        self.settle()
        return kept if stands else held

    def drop(self, shelf: PluggedShelf, raw: Hashable) -> bool:
        """What `PluggedShelf.drop` does; the caller holds ``lock``."""
        self.settle()
        held = shelf.known.get(raw)
        if held is None:
            return False
        # A timed cache whose time ended since removes it all the same, and raises.
        with suppress(KeyError):
            del self.cache[shelf.number, raw]
        self._depart(held)
        return True

    def settle(self) -> None:
        """Make the books agree with the cache. Its length expires what is due; entry by entry only when the lengths differ."""
        if len(self.cache) == self._living:
            return
        for shelf in tuple(self._shelves.values()):
            for raw, held in tuple(shelf.known.items()):
                if (shelf.number, raw) not in self.cache:
                    self._depart(held)
                    self._evictions += 1

    def _pop(self) -> tuple[Place, Held]:
        """Stands in for ``cache.popitem``."""
        place, held = self._popitem()
        self._depart(held)
        self._evictions += 1
        return place, held

    def _expire(self, time: Any = None) -> Any:
        """Stands in for ``cache.expire``, which returns what it removed."""
        expired = self._class_expire(time)
        for _, held in expired or ():
            self._depart(held)
        return expired

    def _depart(self, held: Held) -> None:
        """Take a copy off its shelf in the books."""
        shelf: PluggedShelf | None = held.shelf
        if shelf is None:
            return
        del shelf.known[held.raw]
        if not shelf.known:
            del self._shelves[shelf.number]
        held.raw = None
        held.shelf = None
        self._living -= 1
        self._units -= held.size
        shelf.retired += held.hits
        held.hits = 0
        held.until = 0.0

    def _clear_orphans(self) -> None:
        """Drop the copies of shelves that nobody holds any more."""
        while self._orphans:
            shelf = self._orphans.popleft()
            for held in shelf:
                shelf.drop(held.raw)
