"""Following: what the steps about the log mean in this process.

Each is one piece against everything else that happens here: the engine's lock is held around the ledger, the flights and the copies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from cachesync.coordination.engine import Engine
from cachesync.core.envelope import IDENTITY, EnvelopeError, unseal
from cachesync.core.steps import (
    Apply,
    Contact,
    Done,
    Obey,
    Position,
    Reaches,
    Rejoin,
    Sift,
    Sifted,
    Stands,
    Wake,
)

REASONS: Final = {
    "epoch": "another epoch: the log was lost or begun anew",
    "gap": "a gap: records are gone that were not read yet",
    "cut": "another server goes on with the log",
}
"""Why a log is joined again."""


class Follower:
    """Answers the steps that follow the log, for one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.here: Mapping[type, Callable[[Any], Any]] = {
            Position: self.position,
            Apply: self.apply,
            Rejoin: self.rejoin,
            Obey: self.obey,
            Contact: self.contact,
            Reaches: self.reaches,
            Wake: self.wake,
            Sift: self.sift,
        }

    def position(self, _step: Position) -> Stands:
        engine = self._engine
        return Stands(engine.ledger.position, engine.is_heard(engine.now()))

    def apply(self, step: Apply) -> Done:
        engine = self._engine
        with engine.lock:
            records = engine.ledger.apply(step.log, engine.now())
            if records:
                engine.detach([record.targets for record in records])
                if engine.hub is not None:
                    engine.hub.tell(records)
        if records:
            engine.waiters.wake()  # a lease may be gone with what it was for
        return Done(records is not None)

    def obey(self, step: Obey) -> Done:
        return Done(self._engine.obey(step.thrown))

    def rejoin(self, step: Rejoin) -> Done:
        engine = self._engine
        joined = step.joined
        if joined.thrown is not None:
            engine.obey(joined.thrown)
        trouble: Exception | None = None
        with engine.lock:
            ledger = engine.ledger
            before = ledger.position
            try:
                how = ledger.rejoin(joined, step.bans, step.since, engine.origin, engine.now())
            except LookupError:
                return Done(done=False)
            if how is not None:
                for flight in engine.flights.clear():  # who has heard nothing until now joins nobody who began before
                    engine.forsake(flight.token)
                if how.ends_copies:
                    trouble = engine.clear_local()
                engine.losses += how.lost
                if engine.hub is not None:
                    engine.hub.rejoin(before if how.kind == "gap" else None, joined.head, step.bans)
            if ledger.position == joined.head:
                ledger.contact = max(ledger.contact, joined.asked)
        engine.waiters.wake()
        engine.tell_uncleared(trouble)
        beside = how is not None and how.kind == "gap" and step.since == 0  # two callers have joined at once, the other was faster
        if how is not None and how.kind in REASONS and not beside:
            engine.events.send("log_rejoined", stamp=str(joined.head), reason=REASONS[how.kind])
        if how is not None and how.lost:
            engine.events.send("possible_loss", stamp=str(joined.head), lost=how.lost)
        return Done(done=True)

    def reaches(self, step: Reaches) -> Done:
        return Done(self._engine.has_reached(step.stamp))

    def contact(self, step: Contact) -> Done:
        engine, beat = self._engine, step.beat
        if beat.thrown is not None and beat.is_master:
            engine.obey(beat.thrown)
            engine.is_forgotten = beat.thrown.version < engine.switches.version
        with engine.lock:
            agrees = engine.ledger.agrees(step.beat)
            if agrees:
                engine.ledger.contact = max(engine.ledger.contact, step.beat.asked)
                engine.ledger.look_elsewhere()
        return Done(agrees)

    def wake(self, step: Wake) -> Done:
        self._engine.waiters.wake(step.key)
        return Done(done=True)

    def sift(self, step: Sift) -> Sifted:
        """What may never be served again: of a dead epoch, below a floor, or hit by a hard invalidation. Stale entries live on."""
        engine = self._engine
        dead: list[tuple[bytes, bytes]] = []
        unjudged = 0
        with engine.lock:
            ledger = engine.ledger
            for name, key, head in step.entries:
                try:
                    header, _ = unseal(head)
                except EnvelopeError:
                    unjudged += 1
                    continue
                number = ledger.lineage.number(header.stamp)
                # A long key's name is a hash: no pattern can be tried on it, and what matches only that way lives its time.
                if number is None or ledger.refuses(key or "", header.dependencies, number, own=header.own):
                    dead.append((name, head[:IDENTITY]))
        return Sifted(tuple(dead), unjudged)
