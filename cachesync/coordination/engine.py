"""The engine: what every step of a flow means in this process.

One engine serves one cache, in threads and event loops at once. The steps that need no waiting are answered here, the same for both
colours; those that wait are answered by the two small classes in ``coordination.worlds``. One lock guards the ledger, the flights and
the placing of copies, so that judging a value and holding it is one piece against applying the log. A hit takes no lock.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from cachesync.coordination.events import Events
from cachesync.coordination.flights import Flight, Flights, waiting_lock
from cachesync.coordination.gathering import Gathering
from cachesync.coordination.request_scope import scope_of
from cachesync.coordination.results import can_be_copied, is_used_up, lifetime_of, tags_of
from cachesync.coordination.site import Address, Site
from cachesync.coordination.tasks import Tasks
from cachesync.coordination.tracebacks import let_go
from cachesync.coordination.waiters import Waiters
from cachesync.coordination.watching import silent_of
from cachesync.core.entry import NEVER, Dependency, Held, bounded
from cachesync.core.envelope import COMPRESSED, ENCRYPTED, IDENTITY, EnvelopeError, Header, check_dependencies, digest_of, unseal
from cachesync.core.flows import Ask
from cachesync.core.freshness import Life, deaf_window, due_of, life_of, longest_freshness, stale_window
from cachesync.core.groups import Groups
from cachesync.core.ledger import Ledger, Mark
from cachesync.core.masking import told
from cachesync.core.policy import Policy
from cachesync.core.records import KEY, Targets, written
from cachesync.core.reloads import ends_copies, shortened
from cachesync.core.settings import Settings
from cachesync.core.stamps import BY_LIFETIME, EPOCH_BYTES, NOWHERE, Stamp
from cachesync.core.steps import (
    NO_DEADLINE,
    Admit,
    Announced,
    Begin,
    Begun,
    Called,
    Done,
    Encode,
    Encoded,
    Encrypt,
    Encrypted,
    Failed,
    Fetch,
    Keep,
    Outdated,
    Pend,
    Refused,
    Release,
    Rest,
    Rests,
    Settle,
    Spare,
    Store,
    Ticket,
)
from cachesync.core.switches import BYPASSES, Mode, Switches, Thrown, place_of
from cachesync.core.tuples import make
from cachesync.errors import CodecError
from cachesync.layers.breaker import Breaker
from cachesync.layers.compression import compress, decompress
from cachesync.layers.encryption import keyring_for, opened
from cachesync.layers.forks import leave_behind, lock_across_forks
from cachesync.layers.redis_wire import WireError
from cachesync.layers.sizing import OVERHEAD, measure
from cachesync.protocols import Clock, LocalLayer, Shared

if TYPE_CHECKING:
    from cachesync.coordination.streams import Hub

BEHIND: Final = Refused(behind=True)
TIMERS_LATE: Final = 0.005
"""Seconds: an event loop wakes up 1 to 3 ms after a deadline on a quiet machine."""
NEWEST: Final = 0.3
"""What the newest computation counts in the average of how long they take."""
DUE_PAUSE: Final = 1.0
"""Seconds between two refreshes that one process tries of a value that is fresh and due."""
ALWAYS: Final = math.inf
LAST_OF_A_LEASE: Final = 2
"""Lives of a lease after which one that was given up is over for certain, though it was extended in that very moment."""
MAX_PAYLOAD: Final = 500_000_000
"""Bytes of a value. Redis takes 512 MB in one piece (``proto-max-bulk-len``), the header included, and ends a connection that says more."""
CLOCK_SLACK: Final = 1.0
"""Seconds by which an entry may seem to be from the future. More means that the shared layer's clock was set back: its age is unknown."""


class Arrival(NamedTuple):
    """Where a process stood when a caller came: the position of the log, and how many invalidations it had made itself.

    ``at`` is when that was, ``since`` when a computation may have begun whose result is given to the caller (both seconds, monotonic
    clock): any time while the log is heard, and not long ago while it is not.
    """

    position: Stamp | None
    pends: int
    at: float
    since: float


MAX_FAILURES: Final = 10_000
"""Keys whose computations are left alone. Beyond that the oldest is tried again."""
TELLING: Final = 1.0
"""Seconds for which an exception keeps what the function had at hand, so that whoever is told can look at it."""
MAX_RAISED: Final = 100
"""Exceptions that keep it at once."""


class Failure(NamedTuple):
    """A computation that is left alone: since when (monotonic clock) and for how many seconds, what it had seen, what it failed with."""

    since: float
    seconds: float
    stamp: Stamp | None
    error: BaseException
    traceback: TracebackType | None


class HeldLease(NamedTuple):
    """A lease of this process: of which key, when it has to be extended (seconds, monotonic clock), and for which event loop.

    ``loop`` is ``None`` for a thread. While a loop does not run, nothing goes on in it, and its leases may lapse.
    """

    key: str
    due: float
    loop: asyncio.AbstractEventLoop | None


class Turned(NamedTuple):
    """What came of a switch: whether it made a difference, and what a local layer raised that should have dropped its copies."""

    is_changed: bool
    trouble: Exception | None = None


def spendable(budget: float) -> float:
    """The seconds of a budget that may be waited: a timer rings late, and the caller has to go on within the budget."""
    return budget - min(TIMERS_LATE, budget / 50)


class Engine:
    """The state of one cache in one process."""

    def __init__(self, settings: Settings, *, local: LocalLayer, shared: Shared | None, clock: Clock, events: Events) -> None:
        self.settings = settings
        self.local = local
        self.shared = shared
        self.splits: bool = getattr(shared, "splits", False)
        """Whether the shared layer needs one trip for an entry and another one for the head of the log."""
        self.clock = clock
        self.now = clock.monotonic
        self.events = events
        self.origin = os.urandom(6).hex()
        self.lock = lock_across_forks()  # re-entrant: a finalizer may run anywhere, and ask this cache in the same thread
        self.flights = Flights()
        self.tasks = Tasks()
        self.waiters = Waiters()
        self.ledger = self._new_ledger()
        self.switches = Switches(environment=settings.switches, is_enabled=settings.enabled)
        """What is switched, for this process: replaced under the lock, together with the mark."""
        self.is_forgotten = False
        """Whether the shared layer has lost what is switched for all."""
        self.losses = 0
        """Records that were applied here and that the log has lost."""
        self.violations = 0
        """Times an audit of this process found another one that would have served what was invalidated."""
        self.leases: dict[str, HeldLease] = {}  # by token
        self.blocks: dict[str, tuple[str, Callable[[], object]]] = {}  # token of a lease to key and block, weakly
        self.failures: dict[str, Failure] = {}  # computations that are left alone, by key, the oldest first
        self.raised: deque[tuple[float, BaseException]] = deque()  # what they failed with a moment ago: when, seconds, monotonic clock
        self.limits: dict[str, float] = {}  # token of a lease to when it is extended no more: seconds, monotonic clock
        self.forsaken: list[tuple[str, str]] = []  # key and token of leases to give back
        self.sending: dict[str, Ask] = {}  # by token of a lease, whose answers are on their way to the shared layer
        self.ending: deque[tuple[float, str]] = deque()  # tokens of those that were given up: when each is over, seconds, monotonic clock
        self.groups = Groups(settings.secret or settings.namespace)
        self.hub: Hub | None = None
        """Where streams are told what is out of date; made when the first door asks for it."""
        self.keyring = keyring_for(settings, stores=shared is not None and settings.enabled)
        self.budget = spendable(settings.coordination.budget)
        self.lease = round(settings.coordination.lease * 1000)
        self.breaker = Breaker(self.now, self.lock, self.budget)
        self.parts: set[str] = set()
        """The servers of the shared layer that are left alone, where there are several: the others are asked all the same."""
        self.closing = False
        """Whether trouble is told to nobody, because the cache is being closed."""
        self.is_closed = False
        """Whether what was queued has had its last chance. What is queued later is announced only if the cache is used all the same."""
        self.here: Mapping[type, Callable[[Any], Any]] = {
            Admit: self.admit,
            Outdated: self.outdated,
            Spare: self.spare,
            Rest: self.rest,
            Rests: self.rests,
            Begin: self.begin,
            Encode: self.encode,
            Encrypt: self.encrypt,
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
        key, raw, dependencies, policy = address
        budget = self.budget
        deadline = self.now() + budget
        is_usual = self.switches.is_usual and policy.ramp == 1.0
        mode: Mode = "full" if is_usual else self._mode(key, policy)
        return make(Ask, (key, policy, dependencies, site, raw, call or site.call, values, deadline, budget, self.lease, None, mode))

    def _mode(self, key: str, policy: Policy) -> Mode:
        """How a key is cached now. What needs more than a lifetime can promise is computed where that alone decides."""
        if policy.ramp < 1.0 and place_of(key) >= policy.ramp:
            return "off"
        mode = self.switches.mode_of(policy.name)
        return "off" if mode == "ttl" and policy.consistency == "strict" and self.shared is not None else mode

    def is_off(self, policy: Policy) -> bool:
        """Whether the functions of a policy are called each time."""
        return self.switches.mode_of(policy.name) in BYPASSES

    def at_hand(self, ask: Ask, *, only_fresh: bool = False) -> Called | None:
        """The answer that a local copy gives. It may be stale, where the policy allows that."""
        held = self._copy(ask)
        if held is None or not self._renew(held, ask):
            return None
        is_stale = not self.is_fresh(held, ask)
        if is_stale and (only_fresh or self._is_too_old(ask, held.dependencies, held.stamp)):
            return None
        held.hits += 1
        ends = max(held.deadline, held.stale)
        is_due = self.now() >= held.due
        stamp = BY_LIFETIME if ask.by_ttl else held.stamp
        return Called(held.value, 0.0, None, stamp, held.made, held.deadline, held.dependencies, is_stale, ends, is_due)

    def has_stood(self, since: Stamp | None, key: str, dependencies: tuple[Dependency, ...]) -> bool:
        """Whether nothing was invalidated, hard or soft, since a position that this process had applied; False where that is not known."""
        with self.lock:
            ledger = self.ledger
            number = None if since is None else ledger.lineage.number(since)
            # Below the floor of keys, a ban on this very key may have been dropped.
            if number is None or number < ledger.bans.floors.keys or ledger.refuses(key, dependencies, number):
                return False
            return ledger.softened(key, dependencies, number) is None

    def is_busy_here(self) -> bool:
        """Whether this thread holds the engine's lock, or that of who waits for whom: a finalizer has interrupted it, and must not wait
        for anybody.
        """
        mine, common = cast("Any", self.lock), cast("Any", waiting_lock)
        return bool(mine._is_owned() or common._is_owned())  # as threading.Condition asks

    def flight(self, ask: Ask) -> Flight:
        """A new flight for a question. It may be joined for as long as its policy lets a computation take."""
        most = ask.policy.hard_timeout
        return Flight(ask.key, ask.dependencies, self.token(), NO_DEADLINE if most is None else self.now() + most)

    def token(self) -> str:
        """A new token for a lease. It begins with this process's origin, which a forked child does not share."""
        return self.origin + os.urandom(6).hex()

    def uses_shared(self) -> bool:
        """Whether whoever asks this may ask the shared layer now: there is one that is switched on, and it did not fail a moment ago."""
        return self.shared is not None and self.switches.redis and self.breaker.admits()

    def forsake(self, token: str) -> None:
        """A lease is of no more use: its computation was cancelled, or may not fill any more. The log's reader gives it back."""
        with self.lock:
            lease = self.leases.pop(token, None)
            if lease is not None:
                self.forsaken.append((lease.key, token))
                if token in self.sending:
                    self.ending.append((self.now() + LAST_OF_A_LEASE * self.settings.coordination.lease, token))
            else:
                self.sending.pop(token, None)

    def is_replaced(self, key: str) -> bool:
        """Whether a block in this process replaces the value of ``key``."""
        return any(replaced == key for replaced, _ in tuple(self.blocks.values()))

    def forsake_left(self) -> None:
        """Leases whose loop was closed, or whose block was dropped without an end, are of no more use."""
        for token, held in list(self.leases.items()):
            _, block = self.blocks.get(token, (None, None))
            if (held.loop is not None and held.loop.is_closed()) or (block is not None and block() is None):
                self.blocks.pop(token, None)
                self.forsake(token)

    def take_forsaken(self, token: str | None = None) -> list[Release]:
        """The steps that give forsaken leases back: that of ``token``, or all. Whoever takes them performs them.

        One that can not be given back ends by itself, and what was sent under it can not arrive after that.
        """
        with self.lock:
            while self.ending and self.ending[0][0] <= self.now():
                self.sending.pop(self.ending.popleft()[1], None)
            taken = [lease for lease in self.forsaken if token is None or lease[1] == token]
            self.forsaken = [lease for lease in self.forsaken if lease not in taken]
        return [Release(key, held, self.now() + self.budget) for key, held in taken]

    def sends(self, step: Store | Release) -> bool:
        """What was made under a policy is about to be sent. False where a reload has replaced the policy since: then it is not.

        It is on its way until there is an answer, or until the lease is given back or is over: what has failed may still arrive.
        """
        ask = step.ask
        assert ask is not None
        with self.lock:
            if ask.site.is_over or ask.policy is not ask.site.policy:
                return False
            self.sending[step.token] = ask
            return True

    # --- local copies -------------------------------------------------------------------------------------------------------------

    def held(self, ask: Ask) -> Held | None:
        """The copy that may answer ``ask`` now, fresh or stale, after judging it against what was applied since the last time."""
        held = self._copy(ask)
        return held if held is not None and self._renew(held, ask) else None

    def _copy(self, ask: Ask) -> Held | None:
        """The copy of a key, not judged. None is used while local memory is switched off: it may not have let go of all."""
        site: Site = ask.site
        return site.shelf.copies.get(ask.raw) if self.switches.local else None

    def spare(self, step: Spare) -> Called | None:
        """The copy that may stand in for a computation, after judging it. None under a strict policy, or for who asked for a stamp."""
        ask, reason = step
        site: Site = ask.site
        held = self._copy(ask)
        if held is None or not site.policy.stale_if_error or ask.least is not None:
            return None
        now = self.now()
        stands = self._lives(held, ask) if ask.by_ttl else now < self._trusted_until(site.policy) and self._stands(held, ask)
        if not stands or held.is_over(now) or self._is_too_old(ask, held.dependencies, held.stamp):
            return None
        if reason:
            held.hits += 1
            age = round(now - held.made, 3)
            self.events.send("spare_served", site.name, key=ask.key, policy=ask.policy.name, age=age, error=reason)
        ends = max(held.deadline, held.stale, held.spare)
        stamp = BY_LIFETIME if ask.by_ttl else held.stamp
        return Called(held.value, 0.0, None, stamp, held.made, NEVER, held.dependencies, is_stale=True, ends=ends)

    def rest(self, step: Rest) -> Done:
        ask, begun, failed = step
        error, seconds, now = failed.error, ask.policy.errors or 0.0, self.now()
        self.raised.append((now, error))
        self._let_go(now)
        gone: list[Failure | None] = []  # let go of after the lock: a finalizer may ask this cache
        with self.lock:
            gone.append(self.failures.pop(ask.key, None))
            while self.failures:
                key, oldest = next(iter(self.failures.items()))
                if now < oldest.since + oldest.seconds and len(self.failures) < MAX_FAILURES:
                    break
                gone.append(self.failures.pop(key))
            self.failures[ask.key] = Failure(now, seconds, begun.stamp, error, error.__traceback__)
        self.events.send("left_alone", ask.site.name, key=ask.key, policy=ask.policy.name, seconds=seconds, error=told(error, ask.policy))
        return Done(done=True)

    def _let_go(self, now: float) -> None:
        """Let go of what functions had at hand that failed a moment ago: whoever was told of it, as an error tracker, has seen it."""
        while self.raised and (now >= self.raised[0][0] + TELLING or len(self.raised) > MAX_RAISED):
            try:
                _, error = self.raised.popleft()
            except IndexError:  # another thread was faster
                break
            let_go(error)

    def rests(self, step: Rests) -> Failed | None:
        """What a computation failed with that is left alone, unless an invalidation concerns it since. What the policy of now says of
        its pause counts, where that is less.
        """
        ask = step.ask
        if self.raised:
            self._let_go(self.now())
        failure = self.failures.get(ask.key)
        if failure is None:
            return None
        with self.lock:
            is_over = self.now() >= failure.since + min(failure.seconds, ask.site.policy.errors or 0.0)
            if is_over or (not ask.by_ttl and self._is_outdated(failure, ask)):
                self.failures.pop(ask.key, None)
                return None
        # Each raise adds to the traceback; without this it would grow as long as the computation is left alone.
        return Failed(failure.error.with_traceback(failure.traceback))

    def _is_outdated(self, failure: Failure, ask: Ask) -> bool:
        """Whether an invalidation concerns a computation that is left alone. The lock is held."""
        ledger, stamp = self.ledger, failure.stamp
        if stamp is not None:
            number = ledger.lineage.number(stamp)
        else:  # while the log was never heard, nobody but this process has invalidated anything, as far as it can know
            number = 0 if ledger.position is None else None
        if number is None or ledger.refuses(ask.key, ask.dependencies, number):
            return True
        return ledger.softened(ask.key, ask.dependencies, number) is not None

    def _is_too_old(self, ask: Ask, dependencies: tuple[Dependency, ...], stamp: Stamp | None) -> bool:
        """Whether something stale is older than what the request that asks has seen, or than a change that it has made itself."""
        scope = scope_of(self)
        return scope is not None and scope.refuses(ask.key, dependencies, stamp)

    def is_fresh(self, held: Held, ask: Ask) -> bool:
        """Whether a copy that may be served is fresh, too."""
        now = self.now()
        return now < held.deadline and (ask.by_ttl or self.is_heard(now))

    def _renew(self, held: Held, ask: Ask) -> bool:
        now = self.now()
        if ask.by_ttl:
            return held.is_served(now) and self._lives(held, ask) and held.is_served(now)
        if now >= self._trusted_until(ask.site.policy) or not held.is_served(now):
            return False
        return self._stands(held, ask) and held.is_served(now)

    def _lives(self, held: Held, ask: Ask) -> bool:
        """Let hits be served by lifetime alone, without a look. The mark says that a copy was judged: it is given unjudged only while
        invalidations do not count, and the switch that lets them count again replaces it. It leaves if a reload concerns it.
        """
        site: Site = ask.site
        with self.lock:
            if cast("Mark", held.mark).reloads < site.ended:
                site.shelf.drop(ask.raw)
                return False
            self._shorten(held, ask)
            if self._mode(ask.key, site.policy) == "ttl":
                held.mark, held.until = self.ledger.mark, min(held.deadline, self._looked_at(held.due))
        return True

    def _shorten(self, held: Held, ask: Ask) -> None:
        """Let a copy live no longer than its policy says, if that was reloaded since it was judged. The lock is held."""
        site: Site = ask.site
        if cast("Mark", held.mark).reloads < site.changed:
            policy, life = site.policy, Life(held.deadline, held.stale, held.spare)
            held.deadline, held.stale, held.spare = shortened(life, policy, made=held.made, value=held.value)
            held.due = self._due(ask, held.made, held.deadline if policy.ttl is None else held.made + policy.ttl)

    def _stands(self, held: Held, ask: Ask) -> bool:
        """Judge a copy against what was applied since the last time, and by its policy if that was reloaded since. It leaves if an
        invalidation concerns it, or such a reload.
        """
        site: Site = ask.site
        with self.lock:
            ledger, policy = self.ledger, site.policy
            if held.mark is not ledger.mark:
                position = ledger.position
                number = ledger.lineage.number(held.stamp)
                judged = cast("Mark", held.mark).reloads
                # Below the floor of keys, a ban on this very key may have been dropped that this copy was never judged by.
                is_unknown = position is None or number is None or judged < site.ended or held.checked < ledger.bans.floors.keys
                if is_unknown or ledger.refuses(ask.key, held.dependencies, held.checked):
                    ask.site.shelf.drop(ask.raw)
                    return False
                softened = ledger.softened(ask.key, held.dependencies, held.checked)
                if softened is not None:
                    life = life_of(policy, held.made, held.deadline - held.made, softened)
                    held.deadline, held.stale, held.spare = life.fresh, min(life.stale, held.stale), min(life.spare, held.spare)
                self._shorten(held, ask)
                held.checked = max(held.checked, 0 if position is None else position.number)
                if self._mode(ask.key, policy) not in BYPASSES:  # else a hit would pass by what was switched meanwhile
                    held.mark = ledger.mark
            held.until = min(held.deadline, self._trusted_until(policy), self._looked_at(held.due))
        return True

    def _due(self, ask: Ask, made: float, fresh: float) -> float:
        """From when on a value that is fresh until ``fresh`` is refreshed before its time. The luck of this process with it is that of
        its beginning.
        """
        policy: Policy = ask.site.policy
        if policy.early_refresh is None:
            return ALWAYS
        luck = (hash((self.origin, made)) % 2**32 + 1) / 2**32
        return due_of(policy, made, fresh, seconds=ask.site.counts.seconds, luck=luck)

    def _looked_at(self, due: float) -> float:
        """Until when a copy is served without a look at its age: it may be due, and then it is looked at once in `DUE_PAUSE`."""
        now = self.now()
        return due if now < due else now + DUE_PAUSE

    def is_heard(self, now: float) -> bool:
        """Whether the log was heard within ``max_lag``."""
        return now < self.ledger.contact + self.settings.coordination.max_lag

    def _trusted_until(self, policy: Policy) -> float:
        """Until when local copies are served without hearing the log: seconds, monotonic clock."""
        return self.ledger.contact + self.settings.coordination.max_lag + deaf_window(policy)

    def stands(self) -> Stamp | None:
        """The position, if what lies in the shared layer may be judged by it as copies are: while the log is heard."""
        return self.ledger.position if self.is_heard(self.now()) and not self.breaker.is_open else None

    def is_behind(self, head: Stamp | None) -> bool:
        """Whether the log has a record that is not applied here, or was not heard for too long, or was never joined."""
        position = self.ledger.position
        if head is None or position is None or head.epoch != position.epoch or head.number > position.number:
            return True
        return not self.is_heard(self.now())

    # --- steps --------------------------------------------------------------------------------------------------------------------

    def admit(self, step: Admit) -> Called | Refused:
        began = self.now()
        judged = self.judge(*step)
        return judged._replace(seconds=self.now() - began)

    def judge(self, ask: Ask, blob: bytes, head: Stamp | None, server_now: int) -> Called | Refused:
        """Judge stored bytes, decode them and hold them here."""
        if not self.switches.is_usual and self.is_off(ask.policy):  # which may have come to be known since the question was asked
            return Refused()
        position, by_ttl = self.ledger.position, ask.mode == "ttl"
        if not by_ttl and (position is None or self.is_behind(head)):
            return BEHIND
        policy, declared, site = ask[1:4]  # unpacked: to ask a named tuple for each field costs more than all of this
        if policy is not site.policy:  # it was reloaded since
            ask = ask.today()
            policy, declared = ask[1:3]
        try:
            header, stored = unseal(blob)
            payload: bytes | memoryview = stored
            if policy.encrypt or header.flags & ENCRYPTED:  # what it says counts only if it was not tampered with
                payload = opened(self.keyring, ask.key, header, blob, stored)
        except EnvelopeError as error:
            return self._unreadable(ask, blob, error)
        _, epoch, number, own, made, lifetime, _, _, schema, _, _, dependencies = header
        age, fresh = (server_now - made) / 1000, lifetime / 1000
        is_over = age >= fresh and age >= fresh + stale_window(policy)
        if is_over or age < -CLOCK_SLACK or schema != policy.version:
            return Refused(dead=blob[:IDENTITY])
        if by_ttl or position is None:
            stamp = BY_LIFETIME
        else:
            stamp = position if number == position.number and epoch.hex() == position.epoch else header.stamp
            if self.ledger.lineage.number(stamp) is None:
                return Refused(dead=blob[:IDENTITY])
        opening = self.now()
        try:
            value = self._open(site, header, payload)
        except Exception as error:  # also whatever a codec of the user's raises
            return self._unreadable(ask, blob, error, self.now() - opening)
        now = self.now()
        if dependencies != declared:  # a tag that the program declares since then counts too
            dependencies = bounded((*dependencies, *declared))
        size = site.gauge.units(value, len(payload))
        fresh = min(fresh, longest_freshness(policy, value))
        # The reply may have been on its way for long: its clock was read at some time after the question.
        began = min(now, ask.deadline - ask.budget) - age
        seen = 0 if head is None else head.number
        life = self._hold(ask, value, stamp, size, own=own, dependencies=dependencies, made=began, fresh=fresh, seen=seen)
        if life is None and policy is not site.policy:  # it was reloaded in this very moment
            return self.judge(ask, blob, head, server_now)
        is_stale = life is not None and now >= life.fresh
        if life is None or (is_stale and life.is_over(now)):
            return Refused(dead=blob[:IDENTITY], seconds=self.now() - opening)
        if is_stale and self._is_too_old(ask, dependencies, stamp):
            return Refused(dead=blob[:IDENTITY], seconds=self.now() - opening)
        site.counts.shared_hits += 1
        is_due = site.policy.early_refresh is not None and now >= self._due(ask, began, life.fresh)
        return make(Called, (value, 0.0, None, stamp, began, life.fresh, dependencies, is_stale, life.stale, is_due, False))

    def _open(self, site: Site, header: Header, payload: bytes | memoryview) -> Any:
        plain: bytes | memoryview = decompress(payload) if header.flags & COMPRESSED else payload
        if not header.flags & ENCRYPTED and digest_of(plain) != header.digest:
            raise CodecError("the payload does not match its content hash")
        return site.codec.decode(plain)

    def _unreadable(self, ask: Ask, blob: bytes, error: Exception, seconds: float = 0.0) -> Refused:
        self.events.send("unreadable", ask.site.name, key=ask.key, policy=ask.policy.name, error=self._told(ask, error))
        return Refused(dead=blob[:IDENTITY], seconds=seconds)

    def _hold(
        self,
        ask: Ask,
        value: Any,
        stamp: Stamp,
        size: int,
        *,
        own: int,
        dependencies: tuple[Dependency, ...],
        made: float,
        fresh: float,
        seen: int,
    ) -> Life | None:
        """Judge a value and hold it here, in one piece against applying the log. Its life, ``None`` where an invalidation refuses it.

        ``seen`` is the number up to which no invalidation of the very key has come, because the entry stood, or was computed, then.
        What every read confirms anew (``consistency = "strict"``) is not held: no copy here would ever be served. Nor is what was asked
        for by its lifetime alone, where invalidations count again by now, nor anything where functions are called by now: a hit would
        serve it. What a reload has come in between is held under the new policy, for the lesser time, or is refused too.
        """
        site: Site = ask.site
        shelf = site.shelf
        standing = shelf.copies.get(ask.raw)
        displaced = None if standing is None else standing.value  # it is let go after the lock: a finalizer may ask this cache
        now, trouble = self.now(), None
        with self.lock:
            ledger, checked, softened, trusted, policy = self.ledger, 0, None, ALWAYS, site.policy
            if site.is_over:
                return None
            if policy is not ask.policy:
                if ends_copies(ask.policy, policy):
                    return None
                fresh = min(fresh, longest_freshness(policy, value))
            is_usual = self.switches.is_usual and policy.ramp == 1.0
            mode: Mode = "full" if is_usual else self._mode(ask.key, policy)
            keeps = self.switches.local and mode not in BYPASSES and (policy.consistency != "strict" or self.shared is None)
            if ask.mode == "ttl":
                keeps = keeps and mode == "ttl"
            else:
                position, number = ledger.position, ledger.lineage.number(stamp)
                if position is None or number is None or seen < ledger.bans.floors.keys:
                    return None
                if ledger.refuses(ask.key, dependencies, number, own=own):
                    return None
                checked, softened = position.number, ledger.softened(ask.key, dependencies, number)
                trusted = self._trusted_until(policy)
            life = life_of(policy, made, fresh, softened)
            deadline, stale, spare = life
            if now >= deadline and now >= spare and life.is_over(now):
                return None
            if policy.local_ttl is not None and now + policy.local_ttl < deadline:
                deadline, stale = now + policy.local_ttl, NEVER  # then Redis is asked, which has the rest of its life
            if keeps:
                due, until = ALWAYS, min(deadline, trusted)
                if policy.early_refresh is not None:
                    due = self._due(ask, made, life.fresh)  # that of the entry: `local_ttl` makes nothing older
                    until = min(until, self._looked_at(due))
                held = Held(value, until, ledger.mark, made, deadline, stamp, checked, dependencies, OVERHEAD + size, stale, spare, due)
                try:
                    shelf.put(ask.raw, held)
                except Exception as error:  # of a layer that was plugged in: the value is with its caller, and in the shared layer
                    trouble = error
        del displaced
        if trouble is not None:
            self.events.send("layer_failed", "local", layer="local", step="put", error=repr(trouble))
        return life

    def detach(self, targets: Sequence[Targets]) -> None:
        """Nobody joins the flights that ``targets`` match. They may not fill, so their leases only keep others waiting."""
        for flight in self.flights.detach(targets):
            self.forsake(flight.token)

    def has_reached(self, stamp: Stamp) -> bool:
        """Whether the log is applied here up to ``stamp``. Unknown epochs and pending stamps are never reached."""
        with self.lock:
            position, number = self.ledger.position, self.ledger.lineage.number(stamp)
            return not stamp.pending and position is not None and number is not None and position.number >= number

    def is_beside(self, other: Engine) -> bool:
        """Whether another cache of this process is on the same log, as far as that is known."""
        if self is other:
            return True
        if self.shared is None or other.shared is None:
            return False
        mine, theirs = self.ledger, other.ledger
        if mine.position is None or theirs.position is None:
            return True
        return mine.lineage.number(theirs.position) is not None or theirs.lineage.number(mine.position) is not None

    def outdated(self, step: Outdated) -> Done:
        ask, stamp, rests = step
        with self.lock:
            ledger = self.ledger
            if ask.by_ttl or stamp == NOWHERE or ledger.position is None:
                return Done(done=False)
            number = ledger.lineage.number(stamp)
            if number is None or ledger.refuses(ask.key, ask.dependencies, number):
                return Done(done=True)
            return Done(rests and ledger.softened(ask.key, ask.dependencies, number) is not None)

    def join(self, mine: Flight, *, alone: bool = False) -> tuple[Flight, Arrival]:
        """The flight of a key, which is ``mine`` if there was none, and where this process stood when its caller came. One that flies
        ``alone`` is known to nobody else.
        """
        with self.lock:
            ledger = self.ledger
            mine.pends = ledger.pends
            now = self.now()
            since = NEVER if self.is_heard(now) else now - self.settings.coordination.max_lag
            if alone:
                mine.waiting, flight = 1, mine
            else:
                flight = self.flights.join(mine, now)
            return flight, Arrival(ledger.position, ledger.pends, now, since)

    def share(self, ask: Ask, called: Called, flight: Flight, arrival: Arrival) -> Called | None:
        """What of a flight's result may be given to a caller who came when this process stood at ``arrival``: it may be stale for
        him. ``None`` for nothing.

        An invalidation that matches what was found out to depend on only at the end could not detach the flight before that.
        """
        if called.is_stale and (ask.least is not None or arrival.at >= called.ends):
            return None
        # Of what was made of something stale, nobody knows here how old that was.
        if called.is_stale and self._is_too_old(ask, called.dependencies, None if called.until == NEVER else called.stamp):
            return None
        if ask.by_ttl:
            return called._replace(stamp=BY_LIFETIME)
        if called.made < arrival.since:
            return None
        with self.lock:
            ledger, key, found = self.ledger, ask.key, called.dependencies
            is_unmoved = flight.pends == arrival.pends and called.stamp == arrival.position
            if is_unmoved:  # whatever matches came later than the caller
                return called
            number = 0 if called.stamp is None else ledger.lineage.number(called.stamp)
            if number is None or (flight.pends != arrival.pends and ledger.tickets.refuses(key, found)):
                return None
            if ledger.bans.newest(key, found) > number:
                return None
            softened = ledger.softened(key, found, number)
            if softened is None:
                return called
            life = life_of(ask.policy, called.made, called.fresh or 0.0, softened)
        if ask.least is not None or life.is_over(self.now()):
            return None
        if self._is_too_old(ask, found, called.stamp):  # after the lock: who holds that of the request may wait for this one
            return None
        return called._replace(is_stale=True, until=min(called.until, life.fresh), ends=min(called.ends, life.stale))

    def begin(self, step: Begin) -> Begun:
        return Begun(BY_LIFETIME if step.by_ttl else self.ledger.position, self.now(), step.now)

    def set(self, ask: Ask, value: Any, began: float, found: Gathering | None) -> Called | Failed:
        """A value that is set, as `called`. What makes no sense about it is told to its caller."""
        try:
            tags_of(() if ask.site.tags_from is None else ask.site.tags_from(value))
            lifetime_of(ask.policy, ask.site.lifetime, value)
        except Exception as error:  # whatever the decorator's functions raise
            problem = CodecError(f"{ask.shown}: its ttl or its tags can not be told: {told(error, ask.site.policy)}")
            problem.__cause__ = error
            return Failed(problem)
        return self._result(ask, value, self.now() - began, found)

    def called(self, ask: Ask, value: Any, began: float, found: Gathering) -> Called:
        """A result that was computed since ``began``."""
        seconds, counts = self.now() - began, ask.site.counts
        counts.seconds += (seconds - counts.seconds) * (NEWEST if counts.seconds else 1.0)
        return self._result(ask, value, seconds, found)

    def _result(self, ask: Ask, value: Any, seconds: float, found: Gathering | None) -> Called:
        """A result, with the lifetime its policy gives it and all it depends on; ``found`` is what it was made of.

        A lifetime or a tag that makes no sense means that it is not stored, nor is what was made of something stale.
        """
        ask = ask.today()
        dependencies = ask.dependencies
        if is_used_up(value):
            self.not_stored(ask, f"a {type(value).__name__} is used up by its first reader; return a list, or make the function async")
            return Called(value, seconds, None, dependencies=dependencies)
        try:
            fresh = lifetime_of(ask.policy, ask.site.lifetime, value)
            if ask.site.tags_from is not None:
                dependencies = bounded((*dependencies, *tags_of(ask.site.tags_from(value))))
            check_dependencies(dependencies)
        except Exception as error:  # the decorator's functions are the user's: their failure costs the storing, not the result
            self.not_stored(ask, f"its ttl or its tags can not be told: {told(error, ask.policy)}")
            return Called(value, seconds, None, dependencies=ask.dependencies)
        if found is None:
            return Called(value, seconds, fresh, dependencies=dependencies)
        # It may have been read on the way. An invalidation of its key concerns a value anyway, but not the one that sets it.
        itself = Dependency(KEY, ask.key)
        dependencies = bounded((*dependencies, *(one for one in found.dependencies if one != itself)))
        if found.is_behind or (found.by_ttl and not ask.by_ttl):
            return Called(value, seconds, None, until=NEVER, dependencies=dependencies)
        if found.is_stale:  # it never was fresh itself
            return Called(value, seconds, None, until=NEVER, dependencies=dependencies, is_stale=True, ends=found.ends)
        if found.until == NEVER:  # nor was what it was made of ever to be stored
            return Called(value, seconds, None, until=NEVER, dependencies=dependencies)
        return Called(value, seconds, min(fresh, found.until - (self.now() - seconds)), dependencies=dependencies)

    def encode(self, step: Encode) -> Encoded | Failed:
        ask, value, given = step
        began = self.now()
        try:
            check_dependencies(ask.dependencies)
            payload = ask.site.codec.encode(value)
        except Exception as error:  # also a codec of the user's: the result is delivered all the same
            if not given:
                self.not_stored(ask, self._told(ask, error))
            problem = error if isinstance(error, CodecError) else CodecError(f"{ask.shown}: {self._told(ask, error)}")
            if problem is not error:
                problem.__cause__ = error
            return Failed(problem, self.now() - began)
        digest, flags = digest_of(payload), 0
        threshold = ask.policy.compress_over
        if threshold is not None and len(payload) > threshold:
            smaller = compress(payload)
            if len(smaller) < len(payload):
                payload, flags = smaller, COMPRESSED
        if len(payload) > MAX_PAYLOAD:
            problem = CodecError(f"its value has {len(payload):,} bytes as it is stored, and at most {MAX_PAYLOAD:,} can be stored")
            if not given:
                self.not_stored(ask, str(problem))
            return Failed(problem, self.now() - began)
        return Encoded(payload, flags, digest, self.now() - began)

    def encrypt(self, step: Encrypt) -> Encrypted | Failed:
        ask, header, payload = step
        began = self.now()
        try:
            if self.keyring is None:
                raise CodecError("there is no key to encrypt it with")
            return Encrypted(self.keyring.seal(ask.key, header, payload), self.now() - began)
        except Exception as error:  # as for a value that can not be encoded
            self.not_stored(ask, self._told(ask, error))
            return Failed(error)

    @staticmethod
    def _told(ask: Ask, error: Exception) -> str:
        """What an event says of an exception. The texts of our own codecs quote no value."""
        is_plain = isinstance(error, CodecError) and not ask.site.has_own_codec
        return str(error) if is_plain else told(error, ask.site.policy, str)

    def not_stored(self, ask: Ask, reason: str) -> None:
        """A value is with its caller, and nowhere else."""
        ask.site.counts.not_stored += 1
        self.events.send("not_stored", ask.site.name, key=ask.key, policy=ask.policy.name, error=reason)

    def keep(self, step: Keep) -> Done:
        ask, called, begun, own = step
        if begun.stamp is None or called.fresh is None:
            return Done(done=False)
        if ask.policy.copy and not can_be_copied(called.value):
            self.not_stored(ask, "it can not be copied, which the policy asks for (copy = true)")
            return Done(done=False)
        position = self.ledger.position
        if not ask.by_ttl and (position is None or own > position.number):
            return Done(done=False)  # what others announced before it is not known here yet
        life = self._hold(
            ask,
            called.value,
            begun.stamp,
            measure(called.value),
            own=own,
            dependencies=called.dependencies,
            made=begun.made,
            fresh=called.fresh,
            seen=begun.stamp.number,
        )
        ask.site.counts.stored += life is not None
        return Done(life is not None)

    # --- invalidation -------------------------------------------------------------------------------------------------------------

    def pend(self, step: Pend) -> Ticket:
        targets = step.targets
        with self.lock:
            position = self.ledger.position
            last = Stamp(position.epoch, position.number + len(targets)) if self.shared is None and position is not None else None
            ticket = Ticket(targets, tuple(os.urandom(8).hex() for _ in targets), self.origin, last)
            if last is None:
                self.ledger.pend(ticket, self.now())
            else:
                self.ledger.pends += 1
                self._number(ticket, last)  # without a shared layer it is this process that gives the numbers
            self.detach(targets)
        scope = scope_of(self)
        if scope is not None:
            scope.forget(targets)
        return ticket

    def _number(self, ticket: Ticket, last: Stamp) -> None:
        """The records of a ticket have their numbers. Those that do not follow the position are told when they are read from the log.

        The lock is held.
        """
        before = self.ledger.position
        self.ledger.settle(ticket, last, self.now())
        if self.hub is not None and self.ledger.position is not before:
            self.hub.tell_own(ticket.targets, last)

    def settle(self, step: Settle) -> Stamp:
        ticket, reply = step
        if isinstance(reply, Announced):
            with self.lock:
                self._number(ticket, reply.last)
            stamp = reply.last
            if reply.replicas == 0:
                self.events.send("not_durable", stamp=str(stamp), **written(ticket.targets))
            if reply.unsaid:
                self.events.send("not_published", stamp=str(stamp), **written(ticket.targets))
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
            waits = self.ledger.tickets.is_queued(ticket)
            if not waits and ticket in self.ledger.tickets:
                self.ledger.queue(ticket)
                if self.hub is not None:
                    self.hub.tell_pending(ticket.targets)
            is_lost = not waits and self.is_closed
        if not waits:
            self.events.send("invalidation_queued", **written(ticket.targets))
        if is_lost:
            self.events.send("invalidation_lost", **written(ticket.targets))
        return Stamp(position.epoch, position.number, pending=True)

    def etag(self, site: Site, value: Any) -> str:
        """The content hash of a value as hexadecimal digits, empty for a value that has no bytes."""
        try:
            return digest_of(site.codec.encode(value)).hex()
        except Exception:  # also whatever a codec of the user's raises: a value without bytes has no validator
            return ""

    # --- switches -----------------------------------------------------------------------------------------------------------------

    def switch(self, *changes: tuple[str, str]) -> None:
        """Switch in this process alone."""
        with self.lock:
            turned = self._turn(self.switches.switched_here(*changes))
        self._tell_switched("a call in this process", turned)

    def obey(self, thrown: Thrown) -> bool:
        """Take over what is switched for all processes. False for what is older than what is known here."""
        with self.lock:
            if thrown.version <= self.switches.version:
                return False
            turned = self._turn(self.switches.told(thrown))
        self._tell_switched("for all processes", turned)
        return True

    def _turn(self, switches: Switches) -> Turned:
        """From now on ``switches`` hold. With the mark every hit is judged anew: at once, and by what holds from now on.

        The lock is held.
        """
        before, self.switches = self.switches, switches
        if before.effective == switches.effective:
            return Turned(is_changed=False)
        self.ledger.turn()
        return Turned(is_changed=True, trouble=None if switches.local else self.clear_local())

    def clear_local(self) -> Exception | None:
        """Drop all copies. Returns what a layer that was plugged in has raised: its copies are there, and are not served.

        The lock is held; `tell_uncleared` is for afterwards.
        """
        try:
            self.local.clear()
        except Exception as error:
            return error
        return None

    def _tell_switched(self, by: str, turned: Turned) -> None:
        if turned.is_changed:
            self.waiters.wake()  # nobody waits for another process where that does not count any more
            self.tell_switches(by)
        self.tell_uncleared(turned.trouble)

    def tell_uncleared(self, trouble: Exception | None) -> None:
        """Say that copies could not be dropped."""
        if trouble is not None:
            self.events.send("layer_failed", "local", layer="local", step="clear", error=repr(trouble))

    def tell_switches(self, by: str) -> None:
        """Say what is switched, and who has done it. Each change is news, also to what held before."""
        switched = [f"{target}={value}" for target, value in self.switches.effective.items()]
        subject = ",".join(switched)
        self.events.forget("switched", subject)
        self.events.send("switched", subject, switched=switched, by=by)

    # --- trouble ------------------------------------------------------------------------------------------------------------------

    def failed(self, step: Any, failure: Failed, *, is_outage: bool = True, is_late: bool = False) -> None:
        """A step of the shared layer failed. If the whole layer did (``is_outage``), leave it alone for a moment. ``is_late``: it was asked
        when the time for it was over, so its failure says nothing about the layer. While the cache is being closed nobody is told.
        """
        if is_late and not self.closing:
            text = "it was asked when the time for it was over; the shared layer has not failed"
            self.events.send("layer_failed", "late", layer="shared", step=type(step).__name__, error=text)
        if is_late:
            return
        error = failure.error
        part: str | None = getattr(error, "part", None)
        if getattr(error, "is_refusal", False):
            self.breaker.refused = type(step)
        elif part is None and is_outage:
            self.breaker.failed()
        else:
            part = part or ""
        if part:
            with self.lock:
                self.parts.add(part)
        if self.closing:
            return
        subject = "redis" if part is None else part
        self.events.send("layer_failed", subject, layer="shared", step=type(step).__name__, error=self._of_layer(step, error))
        if part and not self.breaker.is_tried:  # no reader of the log does
            self.look_at_parts()

    def _of_layer(self, step: Any, error: BaseException) -> str:
        """What is told of a step that failed: what a server sent may have a key in it."""
        masking = self.events.masking
        if masking is None:
            return str(error)
        if isinstance(error.__cause__, WireError):
            return "what was sent can not be read"
        return masking.text(str(error), *getattr(step, "keys", (getattr(step, "key", ""),)))

    def look_at_parts(self) -> bool:
        """Tell which servers of the shared layer have failed, and which answer again. True if any does."""
        silent = silent_of(self.shared)
        with self.lock:
            failed, back = silent.keys() - self.parts, self.parts - silent.keys()
            self.parts = set(silent)
        for part in failed:
            self.events.send("layer_failed", part, layer="shared", step=Fetch.__name__, error=f"{part}: {silent[part]}")
        for part in back:
            self.events.forget("layer_failed", part)
            self.events.send("layer_recovered", layer="shared")
        return bool(back)

    def answered(self) -> None:
        """A step of the shared layer was answered after failures."""
        self.breaker.answered()
        self.events.forget("layer_failed", "redis")
        self.events.send("layer_recovered", layer="shared")

    def after_fork(self) -> None:
        """In a forked child: nothing that was under way in the parent goes on here, and no copy is trusted before the log is heard.

        Invalidations that were queued are announced by both: the parent may be gone before it can.
        """
        leave_behind(self.flights, self.tasks)
        self.flights, self.tasks = Flights(), Tasks()
        ear, self.waiters = self.waiters.ear, Waiters()
        if ear is not None:
            ear.close()
        self.failures, self.parts, self.closing = {}, set(), False
        self.leases, self.limits, self.blocks, self.forsaken, self.sending = {}, {}, {}, [], {}
        self.ending.clear()
        if self.hub is not None:
            self.hub.after_fork()
        self.origin = os.urandom(6).hex()
        if self.shared is not None:
            self.shared.after_fork()
            self.ledger.contact = -ALWAYS
        self.ledger.tickets.keep_waiting()
        self.ledger.turn()
