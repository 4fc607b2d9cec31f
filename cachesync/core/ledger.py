"""The ledger: what one process has applied of the log.

It holds a position, the bans up to it, the invalidations that are pending, and the mark. The mark is an object that every change
replaces: a copy that carries the current one was judged against all that is known and may be served without asking further.
Its owner holds a lock around everything but reading ``mark`` and ``contact``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from cachesync.core.bans import MAX_BANS_OF_A_KIND, BanIndex, Floors, SoftIndex
from cachesync.core.entry import Dependency
from cachesync.core.records import SOFT, Record, Targets, parts_of
from cachesync.core.stamps import Lineage, Stamp
from cachesync.core.steps import Bans, Beat, Joined, Log, Ticket
from cachesync.core.tickets import Tickets

REACHED: Final = 256
"""Records by which an answer of the master is known that this process has left behind before it took it in."""
_ENDLESS: Final = 2**63


class Mark:
    """One generation of the ledger, told by its identity. ``reloads`` counts how often the policies had been reloaded by then."""

    __slots__ = ("reloads",)

    def __init__(self, reloads: int = 0) -> None:
        self.reloads = reloads


@dataclass(frozen=True, slots=True)
class Rejoined:
    """How a process came to another position of the log.

    ``first``: it had none. ``gap``: records are gone that it had not read. ``cut``: another server numbers the records now. ``epoch``:
    the log was begun anew, and nothing from before is valid. ``lost`` counts the numbers that were known here and that the server
    lacks; what they said is to be announced again.
    """

    kind: Literal["first", "gap", "cut", "epoch"]
    lost: int = 0

    @property
    def ends_copies(self) -> bool:
        """Whether the copies held here have to go."""
        return self.kind in {"first", "epoch"} or self.lost > 0


class Ledger:
    """What this process knows of the log. ``position`` is ``None`` until it has joined."""

    __slots__ = ("_limit", "_moved", "_reached", "bans", "contact", "lineage", "mark", "nonce", "pends", "position", "soft", "tickets")

    def __init__(self, position: Stamp | None, contact: float, limit: int = MAX_BANS_OF_A_KIND) -> None:
        self._limit = limit
        self.position = position
        self.lineage = Lineage("" if position is None else position.epoch, {})
        self.nonce: str | None = None
        """That of the record at the position, ``None`` where it is not known."""
        self.mark = Mark()
        self.contact = contact
        """When the log was last known to be heard up to its head: seconds, monotonic clock. Infinite without a shared layer."""
        self.tickets = Tickets()
        """Invalidations of this process that have no number here yet."""
        self.pends = 0
        """How many invalidations of this process there have been."""
        self._moved = float("-inf")  # when the position was reached: seconds, monotonic clock
        self._reached: deque[tuple[int, str]] = deque(maxlen=REACHED)  # numbers and nonces
        self._forget()

    def _forget(self) -> None:
        self.bans = BanIndex(self._limit)
        self.soft = SoftIndex(self._limit)
        """Soft invalidations: what they match may be served stale, for as long as its policy says."""

    def turn(self) -> None:
        """Begin a new generation: every copy held is judged again before it is served."""
        self.mark = Mark(self.mark.reloads)

    def turn_by_reload(self) -> None:
        """The same after the policies were reloaded: every copy is judged by its new policy, too."""
        self.mark = Mark(self.mark.reloads + 1)

    # --- the log ------------------------------------------------------------------------------------------------------------------

    def apply(self, log: Log, now: float) -> tuple[Record, ...] | None:
        """Apply what continues the position, in order. Returns the new records, or ``None`` when they do not continue it.

        ``now`` is seconds, monotonic clock.
        """
        position = self.position
        if position is None or log.gap:
            return None
        new = tuple(record for record in log.records if record.epoch != position.epoch or record.number > position.number)
        nonce = self.nonce
        for expected, record in enumerate(new, position.number + 1):
            if record.epoch != position.epoch or record.number != expected or (nonce is not None and record.previous != nonce):
                return None
            nonce = record.nonce
        heard = min(now, self.contact)  # at that time it was not there yet
        for record in new:
            self._ban(record.targets, record.number, heard)
        if new:
            self._reached.extend((record.number, record.nonce) for record in new[:-1])
            self._move(Stamp(position.epoch, new[-1].number), nonce, now)
        return new

    def _move(self, position: Stamp, nonce: str | None, now: float) -> None:
        self.position, self.nonce, self._moved = position, nonce, now
        if nonce is not None:
            self._reached.append((position.number, nonce))
        self.look_elsewhere()
        self.turn()

    def look_elsewhere(self) -> None:
        """Tickets that were announced to another epoch: what the position has reached refuses no more, what is lost is queued.

        To be called when the log was heard, too: an acknowledgement may come after its epoch has ended.
        """
        if self.position is not None:
            self.tickets.look_elsewhere(self.lineage.number, self.position.number)

    def _ban(self, targets: Targets, number: int, now: float) -> None:
        if not targets.is_soft:
            self.bans.add_all(targets, number)
            return
        self.soft.note(targets, number, now)

    def rejoin(self, joined: Joined, pages: Sequence[Bans], since: int, origin: str, now: float) -> Rejoined | None:
        """Take over position and bans as the shared layer has them. ``None`` where somebody was faster: nothing was done.

        ``pages`` hold the bans from the number ``since`` on. Raises ``LookupError`` where all of them are needed.

        What was applied here and is not known there is queued, to be announced again by ``origin``. Windows of what was soft among it go
        on from the first: they may be too short, never too long.
        """
        how = self._how(joined)
        if how is None:
            return None
        if how.ends_copies and since > 0:
            raise LookupError("what was known here belongs to another log: all bans are needed")
        shared = self._shared_until(joined.lineage) or 0
        missing = (*self.bans.above(shared), *_softly(self.soft.above(shared))) if how.lost else ()
        heard = self.soft.first_above(shared) if how.lost else None
        if how.ends_copies:
            self._forget()
        for page in pages:
            self.bans.raise_floors(page.hard)
            self.soft.raise_floors(Floors(all=page.soft))
            for targets, number in page.found:
                (self.soft if targets.is_soft else self.bans).add_all(targets, number)
        self.lineage = joined.lineage
        for index, part in enumerate(part for targets in missing for part in parts_of((targets,))):
            ticket = Ticket(part, (f"{origin}{joined.head.number:x}{index:x}",), origin, None, again=True)
            self.tickets.add(ticket, now if heard is None else heard)
            self.tickets.queue(ticket)
        self._reached.clear()
        self._move(joined.head, joined.nonce, now)
        return how

    def _how(self, joined: Joined) -> Rejoined | None:
        before, head = self.position, joined.head
        if before is None:
            return Rejoined("first")
        if before.epoch != head.epoch:
            if joined.asked < self._moved:
                return None  # a reply that was overtaken: this process has gone on since it was asked for
            shared = self._shared_until(joined.lineage)
            if shared is None:
                return Rejoined("epoch")
            known = max(before.number, self.bans.highest, self.soft.highest)  # one's own may have a number that is not reached yet
            return Rejoined("cut", max(0, known - shared))
        if before.number < head.number:
            return Rejoined("gap")
        if before.number == head.number:
            return None if self.nonce in {None, joined.nonce} else Rejoined("epoch")  # the number was given to another record
        return Rejoined("epoch") if joined.asked > self._moved else None  # a log that was known to be longer has become shorter

    def _shared_until(self, other: Lineage) -> int | None:
        """The last number that both lineages have in common; ``None`` for two logs that have nothing to do with each other."""
        ends = {self.lineage.epoch: _ENDLESS, **self.lineage.cuts}
        others = {other.epoch: _ENDLESS, **other.cuts}
        shared = [min(ends[epoch], others[epoch]) for epoch in ends.keys() & others.keys()]
        return max(shared, default=None)

    def agrees(self, beat: Beat) -> bool:
        """Whether everything is applied here up to where the log ended, by the word of the server that numbers its records.

        This process may have gone on since it asked. A log that ends before the position later than that has become shorter.
        """
        head, position = beat.head, self.position
        if not (beat.is_master and beat.is_same) or head is None or position is None or head.epoch != position.epoch:
            return False
        if head.number < position.number:
            return beat.asked <= self._moved and (head.number, beat.nonce) in self._reached
        return head == position and self.nonce in {None, beat.nonce}

    # --- invalidations of this process ----------------------------------------------------------------------------------------------

    def pend(self, ticket: Ticket, now: float) -> None:
        """Refuse what matches, until the ticket has a number. ``now`` is seconds, monotonic clock."""
        self.tickets.add(ticket, now)
        self.pends += 1
        self.turn()

    def queue(self, ticket: Ticket) -> None:
        """The ticket could not be announced: it waits, and goes on refusing."""
        if self.tickets.queue(ticket):
            self.turn()

    def settle(self, ticket: Ticket, last: Stamp, now: float) -> None:
        """The ticket's records have their numbers, ``last`` being that of the last one. ``now`` is seconds, monotonic clock."""
        position = self.position
        if position is None or position.epoch != last.epoch:
            # The log was begun anew, or goes on elsewhere: its numbers mean nothing here yet, so the ticket goes on refusing.
            self.tickets.wait_for(ticket, last, now)
            if position is not None:
                self.tickets.look_elsewhere(self._known_number, position.number)
            self.turn()
            return
        since = self.tickets.remove(ticket)
        first = last.number - len(ticket.targets) + 1
        for number, targets in enumerate(ticket.targets, first):
            self._ban(targets, last.number if ticket.again else number, now if since is None else since)
        if position.number == first - 1 and not ticket.again:
            self._move(last, ticket.nonces[-1], now)
        self.turn()

    def _known_number(self, stamp: Stamp) -> int | None:
        """The number of a stamp of an older epoch; one of an epoch that is not known here may be of the next."""
        return self.lineage.number(stamp) if stamp.epoch in self.lineage.cuts else _ENDLESS

    # --- judging --------------------------------------------------------------------------------------------------------------------

    def refuses(self, key: str, dependencies: Iterable[Dependency], since: int, *, own: int = 0) -> bool:
        """Whether a pending hard invalidation, or one with a number above ``since``, matches."""
        bans = self.bans
        if since < bans.highest and bans.newest(key, dependencies, own=own) > since:
            return True
        return bool(self.tickets) and self.tickets.refuses(key, dependencies)

    def softened(self, key: str, dependencies: tuple[Dependency, ...], since: int) -> float | None:
        """When the first soft invalidation that matches, numbered above ``since`` or pending, was heard of here (seconds, monotonic
        clock; long ago where that is not known). ``None`` for none.
        """
        first = self.soft.since(key, dependencies, since)
        pending = self.tickets.softened(key, dependencies) if self.tickets else None
        return pending if first is None else first if pending is None else min(first, pending)


def _softly(found: Iterable[Targets]) -> tuple[Targets, ...]:
    return tuple(replace(targets, mode=SOFT) for targets in found)
