"""Flows: the order of things, written once for ``def`` and ``async def``.

Each function here is a generator that yields steps and is sent replies. Nothing else in the package knows what comes after what.
Flows hold no clock, no lock and no connection, so that a test can play the world to them, one reply at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple, cast

from cachesync.core.auditing import Question
from cachesync.core.entry import Dependency, bounded
from cachesync.core.envelope import IDENTITY, Header, seal
from cachesync.core.freshness import longest_freshness, stale_window
from cachesync.core.masking import told
from cachesync.core.policy import Policy
from cachesync.core.records import KEY, TAG, Record, Targets
from cachesync.core.stamps import BY_LIFETIME, NOWHERE, UNREACHED, Stamp
from cachesync.core.steps import (
    RESTING,
    Admit,
    Announce,
    Announced,
    Apply,
    Await,
    Bans,
    Beat,
    Begin,
    Begun,
    Call,
    Called,
    Confirm,
    Contact,
    Done,
    Each,
    Encode,
    Encoded,
    Encrypt,
    Encrypted,
    Examine,
    Failed,
    Fetch,
    Fetched,
    Hear,
    Heard,
    Holder,
    Join,
    Joined,
    Keep,
    Lease,
    Leased,
    Log,
    Obey,
    Outdated,
    Overdue,
    Pend,
    Position,
    Reaches,
    ReadBans,
    ReadLog,
    Refused,
    Rejoin,
    Release,
    Rest,
    Rests,
    Seize,
    Settle,
    Snapshot,
    Spare,
    Stands,
    Step,
    Store,
    Testify,
    Ticket,
    Waited,
    Wake,
    Woken,
)
from cachesync.core.switches import BYPASSES, Mode, Thrown
from cachesync.core.together import together
from cachesync.errors import BatchError, OverdueError, RestingError

Result = Called | Failed
FIRST_WAIT: Final = 0.2
LONGEST_WAIT: Final = 0.25
"""Seconds. A caller that waits for another process is woken when the lease ends. In case nothing is heard it looks itself."""
WHY_LENGTH: Final = 200
"""Characters of an exception that other processes are told."""
BANS_OF_A_PAGE: Final = 4_000
TRIES: Final = 3
"""How often something is begun again that another process has disturbed."""


class Ask(NamedTuple):
    """One question: which key, under which policy, and where the answer comes from: ``call(*values)``.

    ``site`` and ``raw`` mean nothing to the flows: they lead the engine to the codec and the shelf. ``site`` says how the key is shown.
    """

    key: str
    policy: Policy
    dependencies: tuple[Dependency, ...]
    site: Any
    raw: Any
    call: Callable[..., Any]
    values: tuple[Any, ...]
    deadline: float
    """Until when the shared layer may be waited for: seconds, monotonic clock. Time spent in this process is added: in the user's
    function, and with bytes, which may be many."""
    budget: float
    lease: int
    """How long a lease lives unless it is extended, milliseconds."""
    least: Stamp | None = None
    """The answer, and every cached value it is made of, may not be older. A pending stamp is never reached: then all is computed."""
    mode: Mode = "full"
    """How its key is cached. It is settled when the question is asked: whatever is switched meanwhile concerns the next one."""

    @property
    def bypasses(self) -> bool:
        """Whether the function is called, whatever is cached."""
        return self.mode in BYPASSES

    @property
    def by_ttl(self) -> bool:
        """Whether lifetimes alone decide. What was cached so is refused as soon as invalidations count again."""
        return self.mode == "ttl"

    @property
    def shown(self) -> str:
        """The key as anybody may be shown it: without what its policy masks."""
        shown: str = self.site.shown(self.key) if self.site.policy.mask else self.key
        return shown

    def later(self, seconds: float) -> Ask:
        """The same question after so many seconds that were not spent on the shared layer."""
        return self._replace(deadline=self.deadline + seconds) if seconds else self

    def is_replaced(self, reply: Done | Failed) -> bool:
        """Whether something was not sent, because the policy was reloaded while it was packed under this one."""
        return isinstance(reply, Done) and not reply.done and self.site.policy is not self.policy

    def today(self) -> Ask:
        """The same question under the policy that its site has now: it may have been reloaded since the question was asked."""
        policy: Policy = self.site.policy
        if policy is self.policy:
            return self
        tags = (Dependency(TAG, text) for text in policy.tags)
        return self._replace(policy=policy, dependencies=bounded((*self.dependencies, *tags)))


def obtain(ask: Ask, fetched: Fetched | Failed | None, refused: Refused | None) -> Generator[Step, Any, Result]:
    """Go on where there was no hit: catch up and judge again, or compute once in this process and, through a lease, among all.

    Every question begins with a `Fetch` that is sent before there is a flow, because a hit of the shared layer never needs one.
    ``fetched`` is its reply (``None`` without a shared layer), ``refused`` what judging the stored bytes has said.
    """
    if refused is not None and refused.behind and isinstance(fetched, Fetched):
        # Also where nothing was stored: a computation under way here may be from before what the log has by now.
        caught_up = yield from catch_up(fetched.head, ask.deadline)
        blob, refused = fetched.blobs[0], None
        if caught_up and blob is not None:
            admitted: Called | Refused = yield Admit(ask, blob, fetched.head, fetched.now)
            if isinstance(admitted, Called):
                return admitted
            refused = admitted
    dead, seconds = (None, 0.0) if refused is None else (refused.dead, refused.seconds)
    return (yield from compute(ask.later(seconds), isinstance(fetched, Fetched), dead))


def compute(ask: Ask, shared: bool, dead: bytes | None, *, late: bool = False) -> Generator[Step, Any, Result]:
    """Join the computation of a key. Where it fails or takes too long, an old value may stand in for it (RFC 5861, 4).

    Such a spare is looked for anew when it is needed: what was invalidated meanwhile is none.
    """
    policy, spare = ask.policy, None
    rests: Failed | None = (yield Rests(ask)) if policy.errors else None
    if rests is not None:
        return (yield from _stand_in(ask, rests))
    patience = policy.hard_timeout
    if policy.soft_timeout is not None:
        spare = yield Spare(ask)
        patience = patience if spare is None else policy.soft_timeout
    result: Result | Overdue = yield Join(ask, shared, dead, late, patience)
    if isinstance(result, Overdue) and spare is not None:
        spare = yield Spare(ask, f"it takes longer than {policy.soft_timeout:g} s (soft_timeout)")
        if spare is not None:
            return cast("Called", spare)
        patience = None if policy.hard_timeout is None else policy.hard_timeout - (policy.soft_timeout or 0.0)
        result = yield Join(ask, shared, dead, True, patience)
    if isinstance(result, Overdue):
        result = overdue(ask)
    if isinstance(result, Failed) and (isinstance(result.error, Exception) or result.of_function):
        return (yield from _stand_in(ask, result))
    return result


def overdue(ask: Ask) -> Failed:
    """What is told to whoever has waited as long as the policy lets anybody wait."""
    return Failed(OverdueError(f"{ask.shown}: its computation takes longer than {ask.policy.hard_timeout:g} s (hard_timeout)"))


def _stand_in(ask: Ask, failed: Failed) -> Generator[Step, Any, Result]:
    spare: Called | None = (yield Spare(ask, told(failed.error, ask.site.policy))) if ask.policy.stale_if_error else None
    return failed if spare is None else spare


def obtain_confirmed(ask: Ask, least: Stamp | None) -> Generator[Step, Any, Called | Refused | Failed]:
    """Judge what is stored at the head of the log as the master knows it now, or at least at ``least``.

    `Refused`: nothing that may be served, and this process has applied the log so far. `Failed`: that could not be confirmed.
    """
    fetched: Fetched | Failed = yield Fetch((ask.key,), ask.deadline, strict=True)
    if isinstance(fetched, Failed):
        return fetched
    if not (yield from catch_up(fetched.head, ask.deadline)):
        return Failed(LookupError("the head of the log could not be confirmed"))
    if least is not None:
        reached: Done = yield Reaches(least)
        if not reached.done:
            return Failed(LookupError(f"the log does not reach {least}"))
    return (yield from _only_fresh(ask, fetched.blobs[0], fetched, ask.deadline))


def _only_fresh(ask: Ask, blob: bytes | None, fetched: Fetched, deadline: float) -> Generator[Step, Any, Called | Refused]:
    admitted = yield from admit(ask, blob, fetched.head, fetched.now, deadline)
    if blob is not None and isinstance(admitted, Called) and admitted.is_stale:
        return Refused(dead=blob[:IDENTITY], seconds=admitted.seconds)
    return admitted


def _admit_all(asks: Sequence[Ask], fetched: Fetched, *, strict: bool) -> Generator[Step, Any, list[Called | Refused]]:
    """Judge what was stored under several keys. The time that this takes is added to the deadline, as it goes on."""
    found: list[Called | Refused] = []
    deadline = asks[0].deadline
    for ask, blob in zip(asks, fetched.blobs, strict=True):
        if strict:
            admitted = yield from _only_fresh(ask, blob, fetched, deadline)
        else:
            admitted = yield from admit(ask, blob, fetched.head, fetched.now, deadline)
        deadline += admitted.seconds
        found.append(admitted)
    return found


def obtain_many(
    asks: Sequence[Ask],
    *,
    shared: bool,
    strict: bool = False,
    least: Stamp | None = None,
    confirmed: bool | None = None,
    at_once: bool = False,
) -> Generator[Step, Any, list[Result]]:
    """As `obtain` for several keys: one trip finds what is there, the rest is computed, each key once.

    ``strict``: all of it is confirmed, as `obtain_confirmed` does, and is not older than ``least``. Where that fails everybody's function
    is called, and nothing is stored; ``confirmed`` says that it need not be tried. ``at_once``: one call computes all of them.
    """
    results: list[Result | None] = [None] * len(asks)
    dead: list[bytes | None] = [None] * len(asks)
    confirmed = not strict if confirmed is None else confirmed
    if shared and asks:
        fetched = yield Fetch(tuple(ask.key for ask in asks), asks[0].deadline, strict)
        shared = not isinstance(fetched, Failed)
        if shared and not all(ask.by_ttl for ask in asks):
            confirmed = (yield from _confirmed(fetched.head, asks[0].deadline, least)) or confirmed
        if shared and confirmed:
            admitted = yield from _admit_all(asks, fetched, strict=strict)
            results = [one if isinstance(one, Called) else None for one in admitted]
            dead = [None if isinstance(one, Called) else one.dead for one in admitted]
            seconds = sum(one.seconds for one in admitted)
            asks = [ask.later(seconds) for ask in asks]
    missing = [i for i, result in enumerate(results) if result is None]
    if missing:
        if strict:
            stands: Stands = yield Position()
            least = (confirmed and (least or stands.stamp)) or UNREACHED
            asks = [ask._replace(least=least) for ask in asks]
        flows = [compute(asks[i], shared, dead[i], late=not at_once) if confirmed else calling_in_time(asks[i]) for i in missing]
        computed: tuple[Result, ...] = (yield from together(flows)) if at_once else (yield Each(tuple(flows)))
        for i, result in zip(missing, computed, strict=True):
            results[i] = result
    return [result for result in results if result is not None]


def _confirmed(head: Stamp | None, deadline: float, least: Stamp | None) -> Generator[Step, Any, bool]:
    """Whether the log is applied here up to ``head``, and up to ``least`` where that is asked for."""
    if not (yield from catch_up(head, deadline)):
        return False
    if least is None:
        return True
    reached: Done = yield Reaches(least)
    return reached.done


def calling(ask: Ask) -> Generator[Step, Any, Result]:
    """Compute, whatever is cached, and store nothing."""
    result: Result = yield Call(ask)
    return result


def calling_in_time(ask: Ask) -> Generator[Step, Any, Result]:
    """The same, and nobody waits longer than the policy lets him."""
    patience = ask.policy.hard_timeout
    if patience is None:
        return (yield from calling(ask))
    result: Result | Overdue = yield Join(ask, False, None, patience=patience, alone=True)
    return overdue(ask) if isinstance(result, Overdue) else result


def look_many(asks: Sequence[Ask], *, strict: bool, least: Stamp | None) -> Generator[Step, Any, list[Called | Refused]]:
    """Look in the shared layer for several keys, in one trip, without computing. ``strict`` and ``least`` as in `obtain_many`."""
    fetched = yield Fetch(tuple(ask.key for ask in asks), asks[0].deadline, strict)
    if isinstance(fetched, Failed) or (strict and not (yield from _confirmed(fetched.head, asks[0].deadline, least))):
        return [Refused()] * len(asks)
    return (yield from _admit_all(asks, fetched, strict=strict))


def look(ask: Ask) -> Generator[Step, Any, Called | Refused]:
    """Look in the shared layer without computing."""
    fetched = yield Fetch((ask.key,), ask.deadline)
    if isinstance(fetched, Failed):
        return Refused()
    return (yield from admit(ask, fetched.blobs[0], fetched.head, fetched.now, ask.deadline))


def admit(ask: Ask, blob: bytes | None, head: Stamp | None, now: int, deadline: float) -> Generator[Step, Any, Called | Refused]:
    """Judge stored bytes at a position that is not older than the log was when they were read."""
    if blob is None:
        return Refused()
    admitted: Called | Refused = yield Admit(ask, blob, head, now)
    if isinstance(admitted, Refused) and admitted.behind:
        if not (yield from catch_up(head, deadline)):
            return Refused()  # what can not be judged may not be served
        admitted = yield Admit(ask, blob, head, now)
    return admitted


class Unneeded(BaseException):
    """A value is not refreshed before its time after all: another process does it. Nobody who joined is given this."""


def refresh(ask: Ask, shared: bool, *, early: bool) -> Generator[Step, Any, Result]:
    """Compute anew what was served stale, or is about to be: behind the caller's back, unless it is left alone."""
    rests: Failed | None = (yield Rests(ask)) if ask.policy.errors else None
    if rests is not None:
        return rests
    result: Result | Overdue = yield Join(ask, shared, None, late=True, patience=ask.policy.hard_timeout, early=early)
    return overdue(ask) if isinstance(result, Overdue) else result


def fill(ask: Ask, *, token: str, shared: bool, dead: bytes | None, early: bool = False) -> Generator[Step, Any, Result]:
    """Take the lease, compute, store while the lease is one's own. Without a shared layer: compute and keep.

    ``early``: a value that is due is as good as none, and where another process computes nobody waits.
    """
    leased: Leased | None = None
    deadline = ask.deadline
    if shared:
        obtained: Called | Failed | tuple[Leased | None, float] = yield from _lease(ask, token, dead, early=early)
        if isinstance(obtained, Called | Failed):
            return obtained
        leased, deadline = obtained
    ask = ask.today()
    if leased is not None and not ask.by_ttl:
        yield from catch_up(leased.head, deadline)
    begun: Begun = yield Begin(leased.now if leased else 0, ask.by_ttl)
    called: Result = yield Call(ask)
    if isinstance(called, Failed):
        rest, milliseconds, today, deadline = None, 0, ask.today(), deadline + called.seconds
        if today.policy.errors and _is_of_its_key(called):
            yield Rest(today, begun, called)
            since = begun.now + round(called.seconds * 1000)
            rest = Holder(RESTING, begun.stamp or NOWHERE, _why(today.policy, called.error), since)
            milliseconds = max(1, round(today.policy.errors * 1000))
        if leased is not None:
            given_back: Done | Failed = yield Release(ask.key, token, deadline, rest, milliseconds, None if rest is None else today)
            if today.is_replaced(given_back):
                yield Release(ask.key, token, deadline)
        return called
    called = called._replace(stamp=begun.stamp, made=begun.made)
    if called.fresh is None:
        if leased is not None:
            yield Release(ask.key, token, deadline + called.seconds)
        return called
    called = called._replace(until=begun.made + called.fresh)
    stored = None if leased is None else (yield from store_leased(ask, token, called, begun, deadline + called.seconds, own=0))
    if stored is not False:
        yield Keep(ask, called, begun)
    return called._replace(is_shared=stored is not None)


def _lease(ask: Ask, token: str, dead: bytes | None, *, early: bool) -> Generator[Step, Any, Called | Failed | tuple[Leased | None, float]]:
    """The right to compute, or what another process has computed meanwhile. No lease where the shared layer fails.

    A lease whose holder began before an invalidation that is known here is taken over: what is computed under it would be refused.
    """
    deadline, turns, over = ask.deadline, waits(), None
    while True:
        stands: Stands = yield Position()
        position = BY_LIFETIME if ask.by_ttl else stands.stamp or NOWHERE
        reply: Leased | Failed = yield Lease(ask.key, token, position, ask.lease, dead, over, deadline)
        over = None
        if isinstance(reply, Failed):
            return None, deadline
        if reply.granted:
            return reply, deadline
        blob, head, now = reply.blob, reply.head, reply.now
        if blob is None:
            if reply.holder is not None:
                rests, pause = reply.holder.token == RESTING, ask.today().policy.errors or 0.0
                outdated: Done = yield Outdated(ask, reply.holder.stamp, rests)
                if outdated.done or (rests and now >= reply.holder.since + pause * 1000):  # it may have rested under another policy
                    over = reply.holder
                    continue
                if rests:
                    problem = f"its computation failed in another process, and is left alone for {pause:g} s: {reply.holder.why}"
                    return Failed(RestingError(f"{ask.shown}: {problem}"))
            if early:
                return Failed(Unneeded())
            waited: Waited = yield Await(ask.key, token, next(turns))
            deadline = waited.now + ask.budget
            if waited.alone:
                return None, deadline
            # Most leases end because a value was stored, and to look for that costs Redis less than to be refused a lease once more.
            fetched: Fetched | Failed = yield Fetch((ask.key,), deadline)
            if isinstance(fetched, Failed):
                return None, deadline
            blob, head, now = fetched.blobs[0], fetched.head, fetched.now
            if blob is None or blob[:IDENTITY] == dead:
                continue
        admitted = yield from admit(ask, blob, head, now, deadline)
        if isinstance(admitted, Called) and not admitted.is_stale and not (early and admitted.is_due):
            return admitted
        if isinstance(admitted, Refused) and admitted.dead is None:  # it could not be judged: the log can not be read
            return None, deadline
        deadline += admitted.seconds
        dead = blob[:IDENTITY]


class Seized(NamedTuple):
    """The lease of a key whose value is being replaced, and when that began. ``leased`` is false where there is no shared layer.

    ``confirmed`` says that the position is not older than the log was then.
    """

    token: str
    leased: bool
    begun: Begun
    deadline: float
    confirmed: bool = True


def seize(ask: Ask, *, token: str, shared: bool, unlink: bool) -> Generator[Step, Any, Seized]:
    """Take the lease from whoever holds it, and note the position: before the value is obtained that will be set."""
    leased, confirmed, now = False, not shared, 0
    if shared:
        stands: Stands = yield Position()
        reply: Leased | Failed = yield Seize(ask.key, token, stands.stamp or NOWHERE, ask.lease, unlink, ask.deadline)
        if isinstance(reply, Leased):
            leased, now = True, reply.now
            confirmed = ask.by_ttl or (yield from catch_up(reply.head, ask.deadline))
    begun: Begun = yield Begin(now, ask.by_ttl)
    return Seized(token, leased, begun, ask.deadline, confirmed)


def put(ask: Ask, *, token: str, shared: bool, given: tuple[Any] | None) -> Generator[Step, Any, tuple[Result, Stamp | None]]:
    """Set a value (``given``), or compute it anew (``None``), and announce it so that other processes drop their copies.

    The lease is seized before the value is obtained, and the value is stored only while the lease is still one's own: an
    invalidation that comes meanwhile wins. Returns the result and the stamp of the announcement.
    """
    encoded: Encoded | Failed | None = None
    called: Result = Called(None)
    if given is not None:  # what can not be stored is refused before anything has changed
        called = yield Call(ask, given)
        if isinstance(called, Failed):
            return called, None
        if shared:
            encoded = yield Encode(ask, given[0], given=True)
        if isinstance(encoded, Failed):
            return encoded, None
        ask = ask.later(called.seconds + (0.0 if encoded is None else encoded.seconds))
        called = called._replace(seconds=0.0)  # the value is as old as what follows
    seized = yield from seize(ask, token=token, shared=shared, unlink=given is not None)
    if given is None:
        if shared and ask.policy.consistency == "strict" and ask.least is None:
            ask = ask._replace(least=(seized.confirmed and seized.begun.stamp) or UNREACHED)
        called = yield Call(ask)
    if isinstance(called, Failed):
        if seized.leased:
            yield Release(ask.key, token, seized.deadline + called.seconds)
        return called, None
    return (yield from replace(ask, seized, called, shared=shared, encoded=encoded))


def replace(
    ask: Ask, seized: Seized, called: Called, *, shared: bool, encoded: Encoded | Failed | None = None
) -> Generator[Step, Any, tuple[Result, Stamp | None]]:
    """Announce a value that was obtained under a seized lease, and store it if the lease is still one's own.

    The result's ``fresh`` is ``None`` where it is not stored.
    """
    token, leased, begun, deadline = seized[:4]
    deadline += called.seconds
    called = called._replace(stamp=begun.stamp, made=begun.made)
    if called.fresh is not None:
        called = called._replace(until=begun.made + called.fresh)
    ticket: Ticket = yield Pend((Targets(KEY, (ask.key,), "v"),))
    announced: Announced | Failed | None = None
    if shared:
        announced = yield Announce(ticket.targets, ticket.nonces, ticket.origin, (), deadline=deadline)
    stamp: Stamp = yield Settle(ticket, announced)
    own = 0 if stamp.pending else stamp.number
    keeps = not shared
    if leased and own and not ask.by_ttl:  # what others announced before it has to be known before the value is held here
        yield from catch_up(stamp, deadline)
    if leased and own and called.fresh is not None:
        keeps = (yield from store_leased(ask, token, called, begun, deadline, own=own, encoded=encoded)) is not False
    elif leased:
        yield Release(ask.key, token, deadline)
    if keeps and called.fresh is not None:
        kept: Done = yield Keep(ask, called, begun, own)
        keeps = leased or kept.done
    return called if keeps else called._replace(fresh=None), stamp


def store_leased(
    ask: Ask, token: str, called: Called, begun: Begun, deadline: float, *, own: int, encoded: Encoded | Failed | None = None
) -> Generator[Step, Any, bool | None]:
    """Fill under the lease. False when the lease was lost: then the value belongs to its caller only, and is not held here either.
    ``None`` when the shared layer failed: it is held here, and nobody else has it.

    It is stored under the policy of now, and not for longer than that allows. What was begun under another ``version`` is not stored.
    """
    version, ask = ask.policy.version, ask.today()
    if ask.site.is_over or ask.policy.version != version:
        yield Release(ask.key, token, deadline)
        return False
    packed: Encoded | Failed
    if encoded is not None:
        packed = encoded
    else:
        packed = yield Encode(ask, called.value)
        deadline += packed.seconds
    if isinstance(packed, Failed) or begun.stamp is None or called.fresh is None:
        yield Release(ask.key, token, deadline)
        return True if begun.stamp is not None else None
    fresh = max(1, round(min(called.fresh, longest_freshness(ask.policy, called.value)) * 1000))
    header = Header(
        flags=packed.flags,
        epoch=bytes.fromhex(begun.stamp.epoch),
        number=begun.stamp.number,
        own=own,
        made=begun.now,
        fresh=fresh,
        stale=round(ask.policy.stale_while_revalidate * 1000),
        error=round(ask.policy.stale_if_error * 1000),
        schema=ask.policy.version,
        key_id=0,
        digest=packed.digest,
        dependencies=called.dependencies,
    )
    blob: bytes | None = None
    if not ask.policy.encrypt:
        blob = seal(header, packed.payload)
    else:
        encrypted: Encrypted | Failed = yield Encrypt(ask, header, packed.payload)
        deadline += encrypted.seconds
        blob = None if isinstance(encrypted, Failed) else encrypted.blob
    left = fresh + round(stale_window(ask.policy) * 1000) - round(called.seconds * 1000)  # age counts from its beginning
    if left <= 0 or blob is None:
        yield Release(ask.key, token, deadline)
        return True
    done: Done | Failed = yield Store(ask.key, token, blob, left, deadline, ask)
    if ask.is_replaced(done):
        yield Release(ask.key, token, deadline)
    return None if isinstance(done, Failed) else done.done


def invalidate(targets: tuple[Targets, ...], *, shared: bool, deadline: float) -> Generator[Step, Any, Stamp]:
    """Apply to this process first, then announce. What can not be announced now is queued, and the stamp says so."""
    ticket: Ticket = yield Pend(targets)
    return (yield from announce(ticket, shared=shared, deadline=deadline))


def announce(ticket: Ticket, *, shared: bool, deadline: float) -> Generator[Step, Any, Stamp]:
    """Bring a pending invalidation to the log. What may be served stale stays where it is; what may not is unlinked."""
    reply: Announced | Failed | None = None
    if shared:
        hard = (targets for targets in ticket.targets if targets.kind == KEY and not targets.is_soft)
        unlink = tuple(text for targets in hard for text in targets.texts)
        reply = yield Announce(ticket.targets, ticket.nonces, ticket.origin, unlink, ticket.again, deadline)
    stamp: Stamp = yield Settle(ticket, reply)
    return stamp


# --- following the log ------------------------------------------------------------------------------------------------------------


def catch_up(head: Stamp | None, deadline: float) -> Generator[Step, Any, bool]:
    """Apply the log up to ``head``; rejoin where it can not be continued. False when the shared layer failed.

    Where the log has not been heard for too long, the master is asked where it ends: any other server may be as late as we are.
    """
    stands: Stands = yield Position()
    if stands.stamp is None or head is None or stands.stamp.epoch != head.epoch:
        return (yield from rejoin(deadline))
    if not stands.is_heard:
        return (yield from confirm(deadline))
    return (yield from _read_up_to(head, deadline))


def _read_up_to(head: Stamp, deadline: float) -> Generator[Step, Any, bool]:
    stands: Stands = yield Position()
    while stands.stamp is not None and stands.stamp.epoch == head.epoch:
        if stands.stamp.number >= head.number:
            return True
        log: Log | Failed = yield ReadLog(stands.stamp, deadline)
        if isinstance(log, Failed):
            return False
        applied: Done = yield Apply(log)
        if not applied.done or not log.records:
            break
        stands = yield Position()
    return (yield from rejoin(deadline))


def confirm(deadline: float, beat: Beat | None = None) -> Generator[Step, Any, bool]:
    """Come into contact with the log: the master says where it ends (in ``beat``, if it has been asked already), and everything up to
    there is applied. False when the shared layer failed, or whoever answers is not the master.
    """
    for _ in range(TRIES):
        if beat is None:
            asked: Beat | Failed = yield Confirm(deadline)
            if isinstance(asked, Failed):
                return False
            beat = asked
        if not beat.is_master:
            return False
        stands: Stands = yield Position()  # first: others may go on meanwhile
        contact: Done = yield Contact(beat)
        if contact.done:
            return True
        head, position = beat.head, stands.stamp
        if head is None or position is None or not beat.is_same or head.epoch != position.epoch or head.number <= position.number:
            return (yield from rejoin(deadline))
        if not (yield from _read_up_to(head, deadline)):
            return False
        contact = yield Contact(beat)
        if contact.done:
            return True
        beat = None  # it went on meanwhile
    return False


def rejoin(deadline: float) -> Generator[Step, Any, bool]:
    """Take over position and bans as they stand now. What was held before is judged by them, or dead in another epoch.

    First the position, then the bans in pages, then the floors: whatever is dropped or added meanwhile raises a floor or follows in
    the log, so nothing is missed.
    """
    since = None
    for _ in range(TRIES):
        stands: Stands = yield Position()
        joined: Joined | Failed = yield Snapshot(deadline)
        if isinstance(joined, Failed):
            return False
        known, head = stands.stamp, joined.head
        if since is None:  # what was read before stays known where the log just goes on
            since = known.number + 1 if known is not None and known.epoch == head.epoch and known.number < head.number else 0
        pages = yield from _read_bans(since, deadline)
        if pages is None:
            return False
        if pages[-1].epoch == head.epoch:
            rejoined: Done = yield Rejoin(joined, pages, since)
            if rejoined.done:
                return True
        since = 0
    return False


def _read_bans(since: int, deadline: float) -> Generator[Step, Any, tuple[Bans, ...] | None]:
    pages: list[Bans] = []
    count = BANS_OF_A_PAGE
    while True:
        page: Bans | Failed = yield ReadBans(since, count, deadline)
        if isinstance(page, Failed):
            return None
        pages.append(page)
        if not page.more or not page.found:
            return tuple(pages)
        last = page.found[-1][1]
        if last == since:
            count *= 2  # one record banned more than a page holds
        since = last


def listen(seconds: float, *, beat: bool, patience: float, now: float) -> Generator[Step, Any, bool]:
    """One turn of the log's reader: wait up to ``seconds`` for what comes, and take it in. False when the shared layer failed."""
    heard: Heard | Failed = yield Hear(seconds, beat, patience)
    if isinstance(heard, Failed):
        return False
    deadline = now + seconds + 2 * patience
    for kind, items in groupby(heard.items, type):
        if kind is Record:
            applied: Done = yield Apply(Log(tuple(cast("Iterator[Record]", items)), None, gap=False))
            if not applied.done and not (yield from confirm(deadline)):
                return False
            continue
        for item in items:
            if isinstance(item, Woken):
                yield Wake(item.key)
            elif isinstance(item, Question):
                answer: Testify | None = yield Examine(item)
                if answer is not None:
                    yield answer
            elif isinstance(item, Thrown):
                yield Obey(item)
            elif not (yield from confirm(deadline, item if isinstance(item, Beat) else None)):
                return False
    return True


def _is_of_its_key(failed: Failed) -> bool:
    """Whether a computation failed because of its key, as far as anybody can know: then the key may be left alone."""
    return isinstance(failed.error, Exception) and not (failed.of_several or isinstance(failed.error, BatchError))


def _why(policy: Policy, error: BaseException) -> str:
    """What stands in Redis of a failed computation. The text of an exception may hold what must not lie there."""
    return type(error).__name__ if policy.encrypt else told(error, policy)[:WHY_LENGTH]


def waits() -> Iterator[float]:
    """How long to wait for a lease before looking again, each time: seconds."""
    wait = FIRST_WAIT
    while True:
        yield wait
        wait = min(2 * wait, LONGEST_WAIT)
