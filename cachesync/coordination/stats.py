"""Stats: what one process has done so far, in numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cachesync.coordination.site import Site
from cachesync.core.stamps import Stamp
from cachesync.protocols import Usage


@dataclass(frozen=True, slots=True)
class FunctionStats:
    """Counts of one cached function, or of one policy's keys by text, since the process started.

    ``calls`` = ``local_hits`` + ``shared_hits`` + ``computed`` + ``joined`` but for calls that failed while they waited.
    """

    local_hits: int
    shared_hits: int
    computed: int
    joined: int
    failed: int
    stored: int
    not_stored: int

    @property
    def calls(self) -> int:
        """How often it was asked."""
        return self.local_hits + self.shared_hits + self.computed + self.joined

    @property
    def hit_rate(self) -> float:
        """The share of calls that were answered without computing, 0 to 1; 0 before the first call."""
        return 1 - self.computed / self.calls if self.calls else 0.0


@dataclass(frozen=True, slots=True)
class Stats:
    """What this process has done so far."""

    functions: Mapping[str, FunctionStats]
    local: Usage
    position: Stamp | None
    """How far the log of invalidations is applied here."""

    @property
    def total(self) -> FunctionStats:
        """All functions together."""
        rows = self.functions.values()
        names = ("local_hits", "shared_hits", "computed", "joined", "failed", "stored", "not_stored")
        return FunctionStats(*(sum(getattr(row, name) for row in rows) for name in names))


def stats_of(sites: Iterable[Site], local: Usage, position: Stamp | None) -> Stats:
    """Count by function. Functions that share a shelf share its hits: they are counted at the first of them."""
    counted: set[int] = set()
    functions: dict[str, FunctionStats] = {}
    for site in sites:
        hits = 0 if id(site.shelf) in counted else site.shelf.hits
        counted.add(id(site.shelf))
        name, number = site.name, 1
        while name in functions:
            number += 1
            name = f"{site.name}#{number}"
        counts = site.counts
        functions[name] = FunctionStats(
            hits, counts.shared_hits, counts.computed, counts.joined, counts.failed, counts.stored, counts.not_stored
        )
    return Stats(functions, local, position)
