"""Stamps: positions in the one ordered log of invalidations.

A stamp is the number of the last invalidation that a computation had seen when it began. Numbers come from the shared layer, one
for each record; the epoch beside them is a random id that changes when the log is lost, because numbers of two logs can not be
compared. Time orders nothing here: it is used for age alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cachesync.errors import KeyArgumentError

EPOCH_BYTES: Final = 8
"""How many random bytes an epoch has; as text it is twice as many hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """A position in the log: ``epoch:number``, one word and one form everywhere; a pending one ends with ``~``.

    ``pending`` says that the shared layer could not be told yet: the invalidation holds in this process, it is queued, and its
    number is not known (``number`` is then the last position this process had applied).
    """

    epoch: str
    number: int
    pending: bool = False

    def __str__(self) -> str:
        return f"{self.epoch}:{self.number}~" if self.pending else f"{self.epoch}:{self.number}"

    @classmethod
    def parse(cls, text: str) -> Stamp:
        """Read ``epoch:number`` or ``epoch:number~``. Raises ``ValueError`` for anything else."""
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - a cookie that is not there
            raise ValueError(f"{text!r} is not a stamp; it is a text of the form epoch:number")
        epoch, colon, number = text.removesuffix("~").rpartition(":")
        if not (colon and epoch.isalnum() and epoch.isascii() and number.isdecimal() and number.isascii()):
            raise ValueError(f"{text!r} is not a stamp; it has the form epoch:number, for example 9f86d081884c7d65:121")
        return cls(epoch, int(number), pending=text.endswith("~"))


def check_stamp(given: object) -> None:
    """Raise ``KeyArgumentError`` for what is no stamp."""
    if not isinstance(given, Stamp):
        raise KeyArgumentError(f"at_least is a Stamp, not {type(given).__name__}; a text becomes one by Stamp.parse(text)")


NOWHERE: Final = Stamp("0", 0)
"""The position of a process that has joined no log."""
BY_LIFETIME: Final = Stamp("0" * 2 * EPOCH_BYTES, 0)
"""The stamp of what was cached by its lifetime alone (mode ``ttl``): of an epoch that no log has, so that whoever judges refuses it."""
UNREACHED: Final = Stamp("0", 0, pending=True)
"""A position that no process ever reaches."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """The epoch of today and those it continues, each with the number at which it was cut.

    A server that takes over may lack the last records of the one before it, and would give their numbers out again. So it begins an
    epoch of its own: what was stamped up to the cut is still valid, what was stamped above it is dead.
    """

    epoch: str
    cuts: Mapping[str, int]

    def number(self, stamp: Stamp) -> int | None:
        """The stamp's number, which may be compared with those of today's epoch; ``None`` for a stamp that is dead."""
        if stamp.epoch == self.epoch:
            return stamp.number
        cut = self.cuts.get(stamp.epoch)
        return stamp.number if cut is not None and stamp.number <= cut else None
