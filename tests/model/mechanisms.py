"""The protocol's mechanisms, each of which can be taken out of the real code, to see whether the model notices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final
from unittest.mock import patch

from cachesync.coordination.engine import ALWAYS, Engine
from cachesync.coordination.following import Follower
from cachesync.coordination.gathering import Gathering
from cachesync.core import flows
from cachesync.core.bans import BanIndex
from cachesync.core.ledger import Ledger
from cachesync.core.stamps import Lineage, Stamp
from cachesync.core.steps import Called, Done
from cachesync.core.tickets import Tickets
from cachesync.layers.memory import MemoryShared
from model.removal import answering, edited, replaced, together
from model.stories import Teller


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One thing that the protocol needs. ``without`` takes it out of the package for as long as its context lasts."""

    name: str
    without: Callable[[], Any]


def _anybody_releases(self: Any, key: str, _token: str, _now: int) -> bool:
    self._leases.pop(key, None)
    return True


def _as_it_is(_self: Any, _ask: Any, called: Called, *_: object) -> Called:
    return called


def _any_epoch(_self: Any, stamp: Stamp) -> int:
    return stamp.number


def _way(**ways: bool) -> Callable[[], Any]:
    """Do it in a wrong way."""
    return lambda: patch.object(Teller, "ways", property(lambda self: replace(self.given, **ways)))


LEASE_CHECK: Final = Mechanism("the lease check of a fill", replaced(MemoryShared, "_release", _anybody_releases))
REVOCATION: Final = Mechanism("the revocation of the lease", edited(MemoryShared, "_announce", "self._leases.pop(key, None)", "pass"))
UNLINKING: Final = Mechanism("the unlinking of the entry", edited(MemoryShared, "_announce", "self._entries.pop(key, None)", "pass"))
ORDER: Final = Mechanism("the order: unlink, then append", _way(log_first=True))
BANS: Final = Mechanism("the bans", replaced(Ledger, "refuses", answering(False)))
FLOORS: Final = Mechanism("the rising of floors", replaced(BanIndex, "raise_floors", answering(None)))
OWN_KEY: Final = Mechanism("the ban on an entry's own key", edited(BanIndex, "newest", "newest = keys.get(key, 0)", "newest = 0"))
STAMP_BEFORE: Final = Mechanism(
    "the stamp taken before the computation",
    edited(flows, "fill", "called: Result = yield Call(ask)", "called: Result = yield Call(ask)\n    begun = yield Begin(begun.now)"),
)
CAUGHT_UP: Final = Mechanism(
    "the catching up before the head may be the stamp",
    edited(
        flows,
        "fill",
        "        yield from catch_up(leased.head, deadline)\n    begun: Begun = yield Begin(leased.now if leased else 0, ask.by_ttl)",
        "        pass\n    begun: Begun = yield Begin(leased.now if leased else 0, ask.by_ttl)\n"
        "    begun = begun._replace(stamp=leased.head)",
    ),
)
KEYS_USED: Final = Mechanism(
    "the dependency on keys that were used",
    edited(Gathering, "take_in", "(Dependency(KEY, key), *called.dependencies)", "called.dependencies"),
)
TAGS_USED: Final = Mechanism("the dependency on tags of what was used", edited(Gathering, "take_in", ", *called.dependencies)", ",)"))
STALE_USED: Final = Mechanism("the staleness of what was used", edited(Gathering, "take_in", "if called.is_stale:", "if False:"))
LATE_TAGS: Final = Mechanism(
    "the tags of a result in its entry", edited(flows, "store_leased", "dependencies=called.dependencies", "dependencies=ask.dependencies")
)
JOINER: Final = Mechanism("the judging of what a joiner is given", replaced(Engine, "share", _as_it_is))
OWN_PENDING: Final = Mechanism(
    "the look at one's own invalidations before a joiner is given a result",
    edited(Engine, "share", "flight.pends == arrival.pends and called.stamp", "called.stamp"),
)
IN_ORDER: Final = Mechanism(
    "the order in which a position moves", edited(Ledger, "settle", "position.number == first - 1 and not ticket.again", "True")
)
TURNING: Final = Mechanism("the turning of the generation for one's own", replaced(Ledger, "turn", answering(None)))
SOFT_APART: Final = Mechanism(
    "hard and soft as two numbers",
    edited(
        Ledger,
        "_ban",
        "self.soft.note(targets, number, now)",
        "self.soft.note(targets, number, now)\n    [self.bans._bans[targets.kind].pop(text, None) for text in targets.texts]",
    ),
)
GAPS: Final = Mechanism(
    "the look for gaps in what is heard",
    edited(Ledger, "apply", "record.number != expected or (nonce is not None and record.previous != nonce)", "False"),
)
BEATS: Final = Mechanism("the comparing of what the master says", replaced(Ledger, "agrees", answering(True)))
MAX_LAG: Final = Mechanism(
    "max_lag", together(replaced(Engine, "is_heard", answering(True)), replaced(Engine, "_trusted_until", answering(ALWAYS)))
)
MISSED_BANS: Final = Mechanism(
    "the bans of a process that rejoins", edited(Ledger, "rejoin", "for targets, number in page.found:", "for targets, number in ():")
)
JOINED_FLOORS: Final = Mechanism(
    "the floors of a process that joins", edited(Ledger, "rejoin", "self.bans.raise_floors(page.hard)", "pass")
)
POSITION_FIRST: Final = Mechanism(
    "the order: position, then bans",
    edited(
        flows,
        "rejoin",
        "joined: Joined | Failed = yield Snapshot(deadline)",
        "early = yield from _read_bans(0, deadline)\n"
        "        joined: Joined | Failed = yield Snapshot(deadline)\n"
        "        if not isinstance(joined, Failed):\n"
        "            yield Rejoin(joined, early, 0)\n"
        "            return True",
    ),
)
NEW_EPOCH: Final = Mechanism(
    "the new epoch of a server that takes over",
    edited(MemoryShared, "fail_over", "self._epoch = os.urandom(EPOCH_BYTES).hex()", "pass"),
)
CUTS: Final = Mechanism(
    "the cut of an epoch", edited(Lineage, "number", "if cut is not None and stamp.number <= cut", "if cut is not None")
)
AGAIN: Final = Mechanism("the announcing again of what was lost", edited(Ledger, "rejoin", "if how.lost else ()", "if False else ()"))
COPIES_END: Final = Mechanism(
    "the end of copies where records were lost", edited(Follower, "rejoin", "trouble = engine.clear_local()", "pass")
)
PENDING: Final = Mechanism("the refusing of what is pending", replaced(Tickets, "refuses", answering(False)))
TAKE_OVER: Final = Mechanism("the taking over of a lease that is outdated", replaced(Engine, "outdated", answering(Done(done=False))))
CONFIRMED: Final = Mechanism(
    "the applying of the head before a strict answer",
    edited(
        flows, "obtain_confirmed", "if not (yield from catch_up(fetched.head, ask.deadline)):", "if False:\n        yield\n    if False:"
    ),
)
LOOKS_AGAIN: Final = Mechanism(
    "the second look for the entry when a lease is taken",
    edited(MemoryShared, "_perform", "if blob is not None and (dead is None or blob[:IDENTITY] != dead):", "if False:"),
)
OWN_LEASE: Final = Mechanism("the check of a setter's lease", replaced(MemoryShared, "_release", _anybody_releases))
STAMP_OF_SET: Final = Mechanism(
    "the stamp of a set value: from before it was obtained",
    edited(
        flows,
        "replace",
        "    own = 0 if stamp.pending else stamp.number\n",
        "    own = 0 if stamp.pending else stamp.number\n    begun = begun._replace(stamp=stamp)\n",
    ),
)
ANNOUNCED: Final = Mechanism(
    "the announcement of a set value",
    edited(
        flows,
        "replace",
        "announced = yield Announce(ticket.targets, ticket.nonces, ticket.origin, (), deadline=deadline)",
        "announced = Announced(begun.stamp)",
    ),
)
COMPARES: Final = Mechanism(
    "the comparing of tokens when a lease is extended",
    edited(
        MemoryShared, "_perform", "if own and holder is not None:\n", "if (holder := Holder(token, Stamp(self._epoch, 0))) is not None:\n"
    ),
)
DETACHING: Final = Mechanism("the detaching of flights that are invalidated", replaced(Engine, "detach", answering(None)))
OWN_FLIGHTS: Final = Mechanism("the detaching by one's own invalidation", edited(Engine, "pend", "self.detach(targets)", "pass"))
EPOCHS: Final = Mechanism("the comparing of epochs before numbers", replaced(Lineage, "number", _any_epoch))
QUEUE: Final = Mechanism("the queue of what could not be announced", replaced(Tickets, "queue", answering(False)))
LEAST: Final = Mechanism("the stamp that a reader asks for", replaced(Engine, "has_reached", answering(True)))
SEIZED: Final = Mechanism(
    "the seizing of the lease by a setter",
    edited(
        MemoryShared,
        "_perform",
        "self._take(key, Holder(token, stamp), now, milliseconds)\n            if unlink:",
        "self._leases.setdefault(key, (Holder(token, stamp), now + milliseconds))\n            if unlink:",
    ),
)
SOFTLY_STALE: Final = Mechanism("the flag of what was softly invalidated", replaced(Ledger, "softened", answering(None)))

ALL: Final = tuple(one for one in tuple(globals().values()) if isinstance(one, Mechanism))
