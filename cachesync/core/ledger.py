"""The ledger: what one process has applied of the log.

It holds a position, the bans up to it, the invalidations that are pending, and the mark. The mark is an object that every change
replaces: a copy that carries the current one was judged against all that is known and may be served without asking further.
Its owner holds a lock around everything but reading ``mark`` and ``contact``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from cachesync.core.bans import BanIndex
from cachesync.core.entry import Dependency
from cachesync.core.patterns import Pattern
from cachesync.core.records import EVERYTHING, GLOB, KEY, PREFIX, TAG, Record, Targets
from cachesync.core.stamps import Stamp
from cachesync.core.steps import Joined, Log, Ticket

MAX_QUEUED: Final = 1_000
"""Invalidations that wait for the shared layer one by one; what comes on top makes them one "everything"."""


class Mark:
    """One generation of the ledger. Only its identity matters."""

    __slots__ = ()


class Ledger:
    """What this process knows of the log. ``position`` is ``None`` until it has joined."""

    __slots__ = ("bans", "contact", "mark", "pending", "position", "queued")

    def __init__(self, position: Stamp | None, contact: float) -> None:
        self.position = position
        self.bans = BanIndex()
        self.mark = Mark()
        self.contact = contact
        """When the log was last known to be heard up to its head: seconds, monotonic clock. Infinite without a shared layer."""
        self.pending: list[Ticket] = []
        """Invalidations of this process that have no number yet."""
        self.queued: list[Ticket] = []
        """Those among them that the shared layer could not be told, oldest first."""

    def turn(self) -> None:
        """Begin a new generation: every copy held is judged again before it is served."""
        self.mark = Mark()

    def apply(self, log: Log) -> tuple[Record, ...] | None:
        """Apply what continues the position, in order. Returns the new records, or ``None`` when they do not continue it."""
        position = self.position
        if position is None or log.gap:
            return None
        new = tuple(record for record in log.records if record.epoch != position.epoch or record.number > position.number)
        for expected, record in enumerate(new, position.number + 1):
            if record.epoch != position.epoch or record.number != expected:
                return None
        for record in new:
            self.bans.add_all(record.targets, record.number)
        if new:
            self.position = Stamp(position.epoch, new[-1].number)
            self.turn()
        return new

    def rejoin(self, joined: Joined) -> Literal["first", "gap", "epoch"] | None:
        """Take over position and bans as the shared layer has them.

        Says what it was: the first time, a gap in the log, or another epoch. ``None`` where somebody was faster: nothing was done.
        """
        before = self.position
        other = before is None or before.epoch != joined.head.epoch
        if before is not None and not other and before.number >= joined.head.number:
            return None
        bans = BanIndex() if other else self.bans
        bans.raise_floor(joined.floor)
        for targets, number in joined.bans:
            bans.add_all(targets, number)
        self.bans, self.position = bans, joined.head
        self.turn()
        return "first" if before is None else "epoch" if other else "gap"

    def pend(self, ticket: Ticket) -> None:
        """Refuse what matches, until the ticket has a number."""
        self.pending.append(ticket)
        self.turn()

    def queue(self, ticket: Ticket) -> None:
        """The ticket could not be announced: it goes on refusing, and waits. An older one that says the same is not needed any more
        (the newer is kept: the older may be on its way, with a number from before this one was asked for).

        Too many become one that says "everything".
        """
        for older in [other for other in self.queued if other.targets == ticket.targets]:
            self.queued.remove(older)
            self.pending.remove(older)
        self.queued.append(ticket)
        if len(self.queued) > MAX_QUEUED:
            waiting = self.queued
            everything = Ticket((Targets(EVERYTHING, ("*",)),), ticket.nonces[:1], ticket.origin)
            self.pending = [other for other in self.pending if other not in waiting]
            self.pending.append(everything)
            self.queued = [everything]
            self.turn()

    def settle(self, ticket: Ticket, last: Stamp) -> None:
        """The ticket's records have their numbers, ``last`` being that of the last one."""
        for waiting in (self.pending, self.queued):
            if ticket in waiting:
                waiting.remove(ticket)
        if self.position is not None and self.position.epoch != last.epoch:
            self.position = None  # the log was begun anew meanwhile: nothing is trusted before this process has joined it
        else:
            first = last.number - len(ticket.targets) + 1
            for number, targets in enumerate(ticket.targets, first):
                self.bans.add_all(targets, number)
            if self.position is not None and self.position.number == first - 1:
                self.position = last
        self.turn()

    def refuses(self, key: str, dependencies: Iterable[Dependency], since: int, *, own: int = 0) -> bool:
        """Whether a pending invalidation, or one with a number above ``since``, matches."""
        bans = self.bans
        if since < bans.highest and bans.newest(key, dependencies, own=own) > since:
            return True
        return bool(self.pending) and any(matches(targets, key, dependencies) for ticket in self.pending for targets in ticket.targets)


def matches(targets: Targets, key: str, dependencies: Iterable[Dependency]) -> bool:
    """Whether an invalidation concerns a key that depends on ``dependencies``."""
    if targets.kind == EVERYTHING:
        return True
    if targets.kind == TAG:
        return any(kind == TAG and text in targets.texts for kind, text in dependencies)
    if targets.kind == KEY:
        return key in targets.texts or any(kind == KEY and text in targets.texts for kind, text in dependencies)
    if targets.kind == PREFIX:
        return key.startswith(targets.texts)
    return targets.kind == GLOB and any(Pattern.parse(text).matches(key) for text in targets.texts)
