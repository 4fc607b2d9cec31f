"""Entries: what a layer holds of one value.

Three forms of the same thing. `Held` is a process's own copy, shaped for the hit: two comparisons decide whether it may be
served. `Entry` is what a caller is shown by ``peek``. The bytes in a shared layer are described in ``core.envelope``.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar

from cachesync.core.stamps import Stamp

T = TypeVar("T")


class Dependency(NamedTuple):
    """One thing a value depends on: ``kind`` is ``"t"`` for a tag or ``"k"`` for another key; ``text`` is its name.

    The kind ``"*"`` depends on anything: every invalidation concerns it.
    """

    kind: str
    text: str


NO_DEPENDENCIES: Final[tuple[Dependency, ...]] = ()
MAX_DEPENDENCIES: Final = 256
"""Dependencies that are told apart. More of them count as "anything"."""
ANYTHING: Final = (Dependency("*", ""),)
ELSEWHERE: Final = Dependency("k", "\0elsewhere")
"""Of what is made of the data of a cache on another log: nobody here knows whose that is, nor hears when it changes."""


def bounded(dependencies: Iterable[Dependency]) -> tuple[Dependency, ...]:
    """Each of them once; `ANYTHING` where they are too many."""
    distinct = tuple(dict.fromkeys(dependencies))
    return distinct if len(distinct) <= MAX_DEPENDENCIES else ANYTHING


NEVER: Final = float("-inf")
ALWAYS: Final = float("inf")
SIZE_UNIT: Final = 64
"""Bytes in one unit of ``Held.size``: small integers are shared by the interpreter, so a coarse unit costs no memory."""


class Held:
    """A copy held by this process.

    A hit asks two things of it: ``now < until`` and ``mark is ledger.mark``. ``until`` (seconds, monotonic clock) is the least of
    ``deadline`` and of how long the log may be trusted; ``mark`` is the generation of invalidations it was last judged against.

    ``hits`` counts the times it was served, ``raw`` is its key on its ``shelf`` (``None`` once it has left the shelf), ``size`` its
    bytes in units of `SIZE_UNIT`, ``made`` when its computation began (seconds, monotonic clock of this process), ``deadline`` when
    it stops to be fresh, ``stale`` until when it may be served stale after that, ``spare`` until when it may stand in for a computation
    that fails, ``due`` from when on it is refreshed before its time (all of these seconds, monotonic clock; ``deadline`` may be cut short
    by ``local_ttl``, and ``due`` is not), ``stamp`` what its computation had seen, ``checked``
    the number up to which no invalidation matched it, ``dependencies`` what it depends on besides its key.
    """

    __slots__ = (
        "checked",
        "deadline",
        "dependencies",
        "due",
        "hits",
        "made",
        "mark",
        "raw",
        "shelf",
        "size",
        "spare",
        "stale",
        "stamp",
        "until",
        "value",
    )

    def __init__(
        self,
        value: Any,
        until: float,
        mark: object,
        made: float,
        deadline: float,
        stamp: Stamp,
        checked: int,
        dependencies: tuple[Dependency, ...] = NO_DEPENDENCIES,
        size: int = 1,
        stale: float = NEVER,
        spare: float = NEVER,
        due: float = ALWAYS,
    ) -> None:
        self.value = value
        self.until = until
        self.mark = mark
        self.hits = 0
        self.raw: Hashable = None
        self.shelf: Any = None
        self.size = size
        self.made = made
        self.deadline = deadline
        self.stale = stale
        self.spare = spare
        self.due = due
        self.stamp = stamp
        self.checked = checked
        self.dependencies = dependencies

    def is_served(self, now: float) -> bool:
        """Whether it may be served, fresh or stale."""
        return now < self.deadline or now < self.stale

    def is_over(self, now: float) -> bool:
        """Whether it is of no use any more."""
        return now >= self.deadline and now >= self.stale and now >= self.spare

    def renew(self, newer: Held) -> None:
        """Take over what ``newer`` holds, keeping the place on the shelf and the count of hits.

        A reader without a lock may look in between: ``until`` goes first and comes back last, so it sees a miss or the new value.
        """
        self.until = 0.0
        self.value = newer.value
        self.made = newer.made
        self.deadline = newer.deadline
        self.stale = newer.stale
        self.spare = newer.spare
        self.due = newer.due
        self.stamp = newer.stamp
        self.checked = newer.checked
        self.dependencies = newer.dependencies
        self.size = newer.size
        self.mark = newer.mark
        self.until = newer.until


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """What ``peek`` shows of a value: the value, where it is and how old. Looking computes nothing."""

    value: T
    age: float
    """Seconds since its computation began."""
    is_stale: bool
    """It may no longer be served as fresh."""
    stamp: Stamp
    """The last invalidation its computation had seen."""
    etag: str
    """A strong validator of the value's bytes (RFC 9110, 8.8.3), without quotes; empty where there are none."""
    layer: Literal["local", "shared"]
