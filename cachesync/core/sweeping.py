"""Sweeping: delete from the shared layer what is dead already.

An invalidation deletes nothing but the keys it names: what is dead is refused when it is met, and goes with its lifetime. Whoever wants
the memory back earlier, or the number, sweeps. A page at a time, so that the server is never busy with it for long.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Final

from cachesync.core.flows import confirm
from cachesync.core.steps import Discard, Discarded, Failed, Fetched, Heads, Scan, Scanned, Sift, Sifted, Step

ENTRIES_OF_A_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep has done so far: entries it has looked at, those among them that were dead and are deleted, and those that could not
    be judged because their header is damaged or of another version. Where entries come or go meanwhile, one may be looked at twice.
    """

    examined: int = 0
    deleted: int = 0
    unjudged: int = 0


def sweep_page(cursor: int, so_far: Swept, deadline: float) -> Generator[Step, Any, tuple[int, Swept] | Failed]:
    """Sweep one page. Returns where to go on (0: that was the last one) and the sums, or how the shared layer failed."""
    if cursor == 0 and not (yield from confirm(deadline)):
        return Failed(LookupError("the log can not be read, so nothing is known to be dead"))
    scanned: Scanned | Failed = yield Scan(cursor, ENTRIES_OF_A_PAGE, deadline)
    if isinstance(scanned, Failed):
        return scanned
    fetched: Fetched | Failed = yield Heads(tuple(name for name, _ in scanned.found), deadline)
    if isinstance(fetched, Failed):
        return fetched
    there = tuple((name, key, head) for (name, key), head in zip(scanned.found, fetched.blobs, strict=True) if head is not None)
    sifted: Sifted = yield Sift(there)
    deleted = 0
    if sifted.dead:
        discarded: Discarded | Failed = yield Discard(sifted.dead, deadline)
        if isinstance(discarded, Failed):
            return discarded
        deleted = discarded.entries
    return scanned.cursor, Swept(so_far.examined + len(there), so_far.deleted + deleted, so_far.unjudged + sifted.unjudged)
