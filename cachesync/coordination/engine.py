"""The engine: what every step of a flow means in this process.

One engine serves one cache, in threads and event loops at once. The steps that need no waiting are answered here, the same for both
colours; those that wait are answered by the two small classes in ``coordination.worlds``. One lock guards the ledger, the flights and
the placing of copies, so that judging a value and holding it is one piece against applying the log. A hit takes no lock.
"""

from __future__ import annotations

import copy
import math
import os
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from cachesync.coordination.events import Events
from cachesync.coordination.flights import Flights
from cachesync.coordination.site import Address, Site
from cachesync.core.entry import Dependency, Held
from cachesync.core.envelope import COMPRESSED, ENCRYPTED, IDENTITY, EnvelopeError, Header, check_dependencies, digest_of, unseal
from cachesync.core.flows import Ask
from cachesync.core.ledger import Ledger
from cachesync.core.policy import Policy
from cachesync.core.records import Targets, written
from cachesync.core.settings import Settings
from cachesync.core.stamps import EPOCH_BYTES, Stamp
from cachesync.core.steps import (
    Admit,
    Announced,
    Apply,
    Begin,
    Begun,
    Called,
    Done,
    Encode,
    Encoded,
    Failed,
    Keep,
    Pend,
    Position,
    Refused,
    Rejoin,
    Release,
    Settle,
    Ticket,
)
from cachesync.core.tuples import make
from cachesync.core.units import parse_duration
from cachesync.errors import CodecError
from cachesync.layers.compression import compress, decompress
from cachesync.layers.sizing import OVERHEAD, measure
from cachesync.protocols import Clock, LocalLayer, Shared, Shelf

BEHIND: Final = Refused(behind=True)
REST: Final = 1.0
"""Seconds in which the shared layer is not asked again after it failed."""
ALWAYS: Final = math.inf
REASONS: Final = {
    "epoch": "another epoch: the log was lost or begun anew",
    "gap": "a gap: records are gone that were not read yet",
}
"""Why a log is joined again."""
NOWHERE: Final = Stamp("0", 0)
"""The position of a process that has joined no log."""
CLOCK_SLACK: Final = 1.0
"""Seconds by which an entry may seem to be from the future. More means that the shared layer's clock was set back: its age is unknown."""


class Engine:
    """The state of one cache in one process."""

    def __init__(self, settings: Settings, *, local: LocalLayer, shared: Shared | None, clock: Clock, events: Events) -> None:
        self.settings = settings
        self.local = local
        self.shared = shared
        self.clock = clock
        self.now = clock.monotonic
        self.events = events
        self.origin = os.urandom(6).hex()
        self.lock = threading.RLock()  # a finalizer may run anywhere, and ask this cache in the same thread
        self.flights = Flights()
        self.ledger = self._new_ledger()
        self.leases: dict[str, tuple[str, float]] = {}  # token to key and when it has to be extended
        self.forsaken: list[tuple[str, str]] = []  # key and token of leases to give back
        self.budget = settings.coordination.budget
        self.lease = round(settings.coordination.lease * 1000)
        self.resting_until = 0.0
        self.failing = False
        self.closing = False
        self.here: Mapping[type, Callable[[Any], Any]] = {
            Admit: self.admit,
            Position: self.position,
            Apply: self.apply,
            Rejoin: self.rejoin,
            Begin: self.begin,
            Encode: self.encode,
            Keep: self.keep,
            Pend: self.pend,
            Settle: self.settle,
        }

    def _new_ledger(self) -> Ledger:
        if self.shared is None:
            return Ledger(Stamp(os.urandom(EPOCH_BYTES).hex(), 0), contact=ALWAYS)
        return Ledger(None, contact=-ALWAYS)

    # --- questions ----------------------------------------------------------------------------------------------------------------

    def ask(self, site: Site, address: Address, values: tuple[Any, ...], call: Callable[..., Any] | None = None) -> Ask:
        """The question for one call; ``call`` computes the answer where that is not the site's function."""
        key, raw, dependencies = address
        budget = self.budget
        return make(Ask, (key, site.policy, dependencies, site, raw, call or site.call, values, self.now() + budget, budget, self.lease))

    def at_hand(self, ask: Ask) -> Called | None:
        """The answer that a local copy gives."""
        held = self.held(ask)
        if held is None:
            return None
        held.hits += 1
        return Called(held.value, 0.0, None, held.stamp, held.made)

    def is_busy_here(self) -> bool:
        """Whether this thread holds the engine's lock: a finalizer has interrupted it, and must not wait for anybody."""
        owned: bool = cast("Any", self.lock)._is_owned()  # as threading.Condition asks
        return owned

    def uses_shared(self) -> bool:
        """Whether the shared layer is asked now: there is one, and it did not fail a moment ago."""
        return self.shared is not None and self.now() >= self.resting_until

    def forsake(self, token: str) -> None:
        """A lease is of no more use: its computation was cancelled, or may not fill any more. The log's reader gives it back."""
        with self.lock:
            lease = self.leases.pop(token, None)
            if lease is not None:
                self.forsaken.append((lease[0], token))

    def take_forsaken(self, token: str | None = None) -> list[Release]:
        """The steps that give forsaken leases back: that of ``token``, or all. Whoever takes them performs them."""
        with self.lock:
            taken = [lease for lease in self.forsaken if token is None or lease[1] == token]
            self.forsaken = [lease for lease in self.forsaken if lease not in taken]
        return [Release(key, held, self.now() + self.budget) for key, held in taken]

    # --- local copies -------------------------------------------------------------------------------------------------------------

    def held(self, ask: Ask) -> Held | None:
        """The copy that answers ``ask`` if it may be served now, after judging it against what was applied since the last time."""
        site: Site = ask.site
        held = site.shelf.copies.get(ask.raw)
        return held if held is not None and self._renew(held, ask) else None

    def _renew(self, held: Held, ask: Ask) -> bool:
        now = self.now()
        if now >= held.deadline:
            return False
        trusted = self._trusted_until(ask.policy)
        if now >= trusted:
            return False
        with self.lock:
            ledger = self.ledger
            if held.mark is not ledger.mark:
                position = ledger.position
                if position is None or held.stamp.epoch != position.epoch or ledger.refuses(ask.key, held.dependencies, held.checked):
                    ask.site.shelf.drop(ask.raw)
                    return False
                held.checked = max(held.checked, position.number)
                held.mark = ledger.mark
            held.until = min(held.deadline, trusted)
        return True

    def _trusted_until(self, policy: Policy) -> float:
        """Until when local copies are trusted without hearing the log: seconds, monotonic clock."""
        if policy.on_disconnect == "serve":
            return ALWAYS
        return self.ledger.contact + self.settings.coordination.max_lag

    def is_behind(self, head: Stamp | None) -> bool:
        """Whether the log has a record that is not applied here, or this process has not joined it."""
        position = self.ledger.position
        return head is None or position is None or head.epoch != position.epoch or head.number > position.number

    def heard(self, asked: float, head: Stamp | None) -> None:
        """The shared layer answered a question sent at ``asked``. If its head is applied here, the log is known to be heard."""
        ledger = self.ledger
        position = ledger.position
        if asked <= ledger.contact or head is None or position is None:
            return
        if head.number == position.number and head.epoch == position.epoch:
            ledger.contact = asked

    # --- steps --------------------------------------------------------------------------------------------------------------------

    def admit(self, step: Admit) -> Called | Refused:
        return self.judge(*step)

    def judge(self, ask: Ask, blob: bytes, head: Stamp | None, server_now: int) -> Called | Refused:
        """Judge stored bytes, decode them and hold them here."""
        position = self.ledger.position
        if position is None or self.is_behind(head):
            return BEHIND
        policy, declared, site = ask[1:4]  # unpacked: to ask a named tuple for each field costs more than all of this
        try:
            header, payload = unseal(blob)
        except EnvelopeError as error:
            return self._unreadable(ask, blob, error)
        _, epoch, number, own, made, lifetime, _, _, schema, _, _, dependencies = header
        age, fresh = (server_now - made) / 1000, lifetime / 1000
        if age >= fresh or age < -CLOCK_SLACK or schema != policy.version or epoch.hex() != position.epoch:
            return Refused(dead=blob[:IDENTITY])
        try:
            value = self._open(site, header, payload)
        except Exception as error:  # also whatever a codec of the user's raises
            return self._unreadable(ask, blob, error)
        fresh = min(fresh, _longest_freshness(policy, value))
        if age >= fresh:
            return Refused(dead=blob[:IDENTITY])
        now = self.now()
        deadline = now - age + fresh
        if policy.local_ttl is not None:
            deadline = min(deadline, now + policy.local_ttl)
        if dependencies != declared:  # a tag that the program declares since then counts too
            dependencies = tuple(dict.fromkeys((*dependencies, *declared)))
        stamp = position if number == position.number else header.stamp
        size = site.gauge.units(value, len(payload))
        if not self._hold(ask, value, stamp, size, own=own, dependencies=dependencies, made=now - age, deadline=deadline):
            return Refused(dead=blob[:IDENTITY])
        site.counts.shared_hits += 1
        return make(Called, (value, 0.0, None, stamp, now - age))

    def _open(self, site: Site, header: Header, payload: memoryview) -> Any:
        if header.flags & ENCRYPTED:
            raise CodecError("the value is encrypted, which this version can not read")
        plain: bytes | memoryview = decompress(payload) if header.flags & COMPRESSED else payload
        if digest_of(plain) != header.digest:
            raise CodecError("the payload does not match its content hash")
        return site.codec.decode(plain)

    def _unreadable(self, ask: Ask, blob: bytes, error: Exception) -> Refused:
        self.events.send("unreadable", ask.site.name, key=ask.key, policy=ask.policy.name, error=str(error))
        return Refused(dead=blob[:IDENTITY])

    def _hold(
        self, ask: Ask, value: Any, stamp: Stamp, size: int, *, own: int, dependencies: tuple[Dependency, ...], made: float, deadline: float
    ) -> bool:
        """Judge a value and hold it here, in one piece against applying the log. False if an invalidation came after its stamp."""
        shelf: Shelf = ask.site.shelf
        standing = shelf.copies.get(ask.raw)
        displaced = None if standing is None else standing.value  # it is let go after the lock: a finalizer may ask this cache
        with self.lock:
            ledger = self.ledger
            position = ledger.position
            if position is None or position.epoch != stamp.epoch or ledger.refuses(ask.key, dependencies, stamp.number, own=own):
                return False
            until = min(deadline, self._trusted_until(ask.policy))
            held = Held(value, until, ledger.mark, made, deadline, stamp, position.number, dependencies, OVERHEAD + size)
            shelf.put(ask.raw, held)
        del displaced
        return True

    def position(self, _step: Position) -> Stamp | None:
        return self.ledger.position

    def apply(self, step: Apply) -> Done:
        with self.lock:
            records = self.ledger.apply(step.log)
            if records:
                self._detach([record.targets for record in records])
        if records is not None:
            self.heard(step.log.asked, step.log.head)
        return Done(records is not None)

    def _detach(self, targets: Sequence[Targets]) -> None:
        """Nobody joins the flights that ``targets`` match. They may not fill, so their leases only keep others waiting."""
        for flight in self.flights.detach(targets):
            self.forsake(flight.token)

    def rejoin(self, step: Rejoin) -> Done:
        with self.lock:
            kind = self.ledger.rejoin(step.joined)
            if kind is not None:  # who has heard nothing until now joins nobody who began before
                for flight in self.flights.clear():
                    self.forsake(flight.token)
            if kind in {"first", "epoch"}:
                self.local.clear()
        self.heard(step.joined.asked, step.joined.head)
        if kind in REASONS:
            self.events.send("log_rejoined", stamp=str(step.joined.head), reason=REASONS[kind])
        return Done(done=True)

    def begin(self, step: Begin) -> Begun:
        return Begun(self.ledger.position, self.now(), step.now)

    def called(self, ask: Ask, value: Any, seconds: float) -> Called:
        """A result, with the lifetime its policy gives it. A lifetime that makes no sense means that it is not stored."""
        policy = ask.policy
        if _is_used_up(value):
            self.not_stored(ask, f"a {type(value).__name__} is used up by its first reader; return a list, or make the function async")
            return Called(value, seconds, None)
        if value is None and policy.negative_ttl is not None:
            return Called(value, seconds, policy.negative_ttl * _spread(policy))
        if not policy.is_dynamic or ask.site.lifetime is None:
            return Called(value, seconds, policy.lifetime(None) * _spread(policy))
        try:
            wanted = _seconds(ask.site.lifetime(value))
        except Exception as error:  # the decorator's ttl function is the user's: its failure costs the storing, not the result
            self.not_stored(ask, f"its ttl can not be told: {error!r}")
            return Called(value, seconds, None)
        return Called(value, seconds, policy.lifetime(policy.lifetime(wanted) * _spread(policy)))

    def encode(self, step: Encode) -> Encoded | Failed:
        ask, value, given = step
        try:
            check_dependencies(ask.dependencies)
            payload = ask.site.codec.encode(value)
        except Exception as error:  # also a codec of the user's: the result is delivered all the same
            if not given:
                self.not_stored(ask, str(error))
            problem = error if isinstance(error, CodecError) else CodecError(f"{ask.key}: {error}")
            if problem is not error:
                problem.__cause__ = error
            return Failed(problem)
        digest, flags = digest_of(payload), 0
        threshold = ask.policy.compress_over
        if threshold is not None and len(payload) > threshold:
            smaller = compress(payload)
            if len(smaller) < len(payload):
                payload, flags = smaller, COMPRESSED
        return Encoded(payload, flags, digest)

    def not_stored(self, ask: Ask, reason: str) -> None:
        """A value is with its caller, and nowhere else."""
        ask.site.counts.not_stored += 1
        self.events.send("not_stored", ask.site.name, key=ask.key, policy=ask.policy.name, error=reason)

    def keep(self, step: Keep) -> Done:
        ask, called, begun, own = step
        if begun.stamp is None or called.fresh is None:
            return Done(done=False)
        if ask.policy.copy and not _can_be_copied(called.value):
            self.not_stored(ask, "it can not be copied, which the policy asks for (copy = true)")
            return Done(done=False)
        lifetime = called.fresh if ask.policy.local_ttl is None else min(called.fresh, ask.policy.local_ttl)
        position = self.ledger.position
        if position is None or own > position.number:
            return Done(done=False)  # what others announced before it is not known here yet
        deadline = begun.made + lifetime
        size = measure(called.value)
        done = self._hold(ask, called.value, begun.stamp, size, own=own, dependencies=ask.dependencies, made=begun.made, deadline=deadline)
        ask.site.counts.stored += done
        return Done(done)

    # --- invalidation -------------------------------------------------------------------------------------------------------------

    def pend(self, step: Pend) -> Ticket:
        targets = step.targets
        with self.lock:
            position = self.ledger.position
            last = Stamp(position.epoch, position.number + len(targets)) if self.shared is None and position is not None else None
            ticket = Ticket(targets, tuple(os.urandom(8).hex() for _ in targets), self.origin, last)
            if last is None:
                self.ledger.pend(ticket)
            else:
                self.ledger.settle(ticket, last)  # without a shared layer it is this process that gives the numbers
            self._detach(targets)
        return ticket

    def settle(self, step: Settle) -> Stamp:
        ticket, reply = step
        if isinstance(reply, Announced):
            with self.lock:
                self.ledger.settle(ticket, reply.last)
            stamp = reply.last
        elif ticket.last is not None:
            stamp = ticket.last
        else:
            stamp = self.leave(ticket)
        if not stamp.pending:
            self.events.send("invalidated", stamp=str(stamp), **written(ticket.targets))
        return stamp

    def leave(self, ticket: Ticket) -> Stamp:
        """An invalidation could not be announced: it holds here, and the log's reader announces it when it can."""
        with self.lock:
            position = self.ledger.position or NOWHERE
            waits = ticket in self.ledger.queued
            if not waits and ticket in self.ledger.pending:
                self.ledger.queue(ticket)
        if not waits:
            self.events.send("invalidation_queued", **written(ticket.targets))
        return Stamp(position.epoch, position.number, pending=True)

    def etag(self, site: Site, value: Any) -> str:
        """The content hash of a value as hexadecimal digits, empty for a value that has no bytes."""
        try:
            return digest_of(site.codec.encode(value)).hex()
        except Exception:  # also whatever a codec of the user's raises: a value without bytes has no validator
            return ""

    # --- trouble ------------------------------------------------------------------------------------------------------------------

    def failed(self, step: Any, failure: Failed) -> None:
        """A step of the shared layer failed: leave it alone for a moment."""
        if self.closing:
            return
        with self.lock:
            self.resting_until = self.now() + REST
            self.failing = True
        self.events.send("layer_failed", "redis", layer="shared", step=type(step).__name__, error=str(failure.error))

    def answered(self) -> None:
        """A step of the shared layer was answered after failures."""
        with self.lock:
            self.failing = False
            self.resting_until = 0.0
        self.events.forget("layer_failed", "redis")
        self.events.send("layer_recovered", layer="shared")

    def after_fork(self) -> None:
        """In a forked child: nothing that was under way in the parent goes on here, and no copy is trusted before the log is heard."""
        self.lock = threading.RLock()
        self.flights = Flights()
        self.leases, self.forsaken = {}, []
        self.origin = os.urandom(6).hex()
        if self.shared is not None:
            self.shared.after_fork()
            self.ledger.contact = -ALWAYS
        self.ledger.pending, self.ledger.queued = [], []  # the parent announces them
        self.ledger.turn()


def _longest_freshness(policy: Policy, value: Any) -> float:
    """How long the policy of today lets such a value be fresh, seconds: it caps what was allowed when the entry was made."""
    if value is None and policy.negative_ttl is not None:
        return policy.negative_ttl * (1 + policy.jitter)
    if policy.ttl is None:
        return ALWAYS if policy.max_ttl is None else policy.max_ttl
    return policy.ttl * (1 + policy.jitter)


def _spread(policy: Policy) -> float:
    return 1 + random.uniform(-policy.jitter, policy.jitter) if policy.jitter else 1.0


def _is_used_up(value: object) -> bool:
    """Whether only one caller could read it: iterators, coroutines and other awaitables."""
    cls = type(value)
    return hasattr(cls, "__next__") or hasattr(cls, "__await__") or hasattr(cls, "__anext__")


def _can_be_copied(value: object) -> bool:
    try:
        copy.deepcopy(value)
    except Exception:  # whatever its class raises
        return False
    return True


def _seconds(ttl: object) -> float:
    """A lifetime as a decorator's ``ttl`` function may give it: seconds, a timedelta, or "5m"."""
    if isinstance(ttl, str):
        return parse_duration(ttl)
    total = getattr(ttl, "total_seconds", None)
    seconds = float(total() if callable(total) else ttl)  # type: ignore[arg-type]  # float() refuses what is no number
    if not math.isfinite(seconds):
        raise ValueError(f"{seconds} is not a lifetime")
    return seconds
