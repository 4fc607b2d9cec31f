"""What is known after a soak: reads, cuts, lives, troubles and faults.

All times are seconds of the monotonic clock, which is one for the whole machine.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from cachesync import Stamp

HOWS: Final = (
    "call",
    "many",
    "get",
    "get_or_compute",
    "peek",
    "strict",
    "at_least",
    "refresh",
    "cancelled",
)
"""The ways to read, as they are counted. ``strict`` is a call whose policy asks for it; ``cancelled`` one that might have been."""

Maker = tuple[int, int, int]
"""Which process made a value: its slot, which of the slot's lives, and a number of its own."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a value says about one thing: its version, and when the computation that read it began. Cached functions return lists of them.

    ``given``: it was not computed by a cached function, but handed to ``set`` or to an ``update``.
    """

    thing: int
    version: int
    began: float
    maker: int
    given: bool = False


def maker_number(slot: int, life: int, serial: int) -> int:
    """A maker as one number."""
    return (slot << 56) | (life << 40) | serial


def maker_of(number: int) -> Maker:
    return number >> 56, (number >> 40) & 0xFFFF, number & 0xFF_FFFF_FFFF


class Read(NamedTuple):
    """That a read, from ``began`` to ``ended``, showed one thing. A value of several parts makes several of these.

    ``via`` is the thing whose key was read. ``epoch`` and ``number`` are the stamp that was asked for, zero where none was.
    """

    began: float
    ended: float
    shown_began: float
    maker: int
    epoch: int
    number: int
    version: int
    thing: int
    via: int
    life: int
    slot: int
    how: int
    given: bool
    is_stale: bool
    is_final: bool


READ: Final = struct.Struct("<dddQQQIHHHBB???")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One call that makes older values invalid. ``how`` is its row in the table of counts.

    ``stamp`` is ``None`` where nobody was told (``refresh``): then it binds its own process alone. ``own`` is the maker of the value
    that it left behind, 0 for none. ``versions`` is what the origin had when it began.
    """

    slot: int
    life: int
    how: str
    patterns: tuple[str, ...]
    tags: tuple[str, ...]
    began: float
    ended: float
    stamp: str | None
    is_pending: bool
    is_soft: bool = False
    own: int = 0
    versions: tuple[int, ...] = ()

    @property
    def is_acknowledged(self) -> bool:
        """Whether its caller was told that the log has it."""
        return self.stamp is not None and not self.is_pending

    @property
    def position(self) -> Stamp | None:
        return None if self.stamp is None else Stamp.parse(self.stamp)


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One process: from when on it may cache. ``killed`` is when it was ended by SIGKILL, ``None`` if it lived to the end."""

    slot: int
    life: int
    began: float
    shape: str = ""
    killed: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What may not happen in a worker: an exception that nobody expected, a warning, a hung caller."""

    slot: int
    life: int
    at: float
    what: str
    detail: str


class Slow(NamedTuple):
    """A call that took long: for how many seconds that its process was not frozen, when it began, and what it was."""

    seconds: float = 0.0
    began: float = 0.0
    what: str = ""


QUICK: Final = Slow()


@dataclass(slots=True, kw_only=True)
class Happened:
    """One fault, on whom (``server``, ``line 0``, ``worker 0``), from when to when."""

    what: str
    targets: frozenset[str]
    began: float
    ended: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failover:
    """A replica took over, complete at ``ended``, that had heard nothing of its primary since ``cut_off``."""

    cut_off: float
    ended: float


@dataclass(slots=True, kw_only=True)
class History:
    """All that was written down. ``max_lag`` and ``slack`` are seconds."""

    reads: Iterable[Read] = ()
    cuts: list[Cut] = field(default_factory=list[Cut])
    lives: list[Life] = field(default_factory=list[Life])
    troubles: list[Trouble] = field(default_factory=list[Trouble])
    faults: list[Happened] = field(default_factory=list[Happened])
    failovers: list[Failover] = field(default_factory=list[Failover])
    max_lag: float = 0.5
    slack: float = 0.0
    counts: Counter[str] = field(default_factory=Counter[str])
    slowest: Slow = QUICK
