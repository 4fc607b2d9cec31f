"""Flows: the order of things, written once for ``def`` and ``async def``.

Each function here is a generator that yields steps and is sent replies. Nothing else in the package knows what comes after what.
Flows hold no clock, no lock and no connection, so that a test can play the world to them, one reply at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Final, NamedTuple

from cachesync.core.entry import Dependency
from cachesync.core.envelope import Header, seal
from cachesync.core.policy import Policy
from cachesync.core.records import KEY, Targets
from cachesync.core.stamps import Stamp
from cachesync.core.steps import (
    Admit,
    Announce,
    Announced,
    Apply,
    Begin,
    Begun,
    Call,
    Called,
    Done,
    Each,
    Encode,
    Encoded,
    Failed,
    Fetch,
    Fetched,
    Join,
    Joined,
    Keep,
    Later,
    Lease,
    Leased,
    Log,
    Pend,
    Position,
    ReadLog,
    Refused,
    Rejoin,
    Release,
    Seize,
    Settle,
    Snapshot,
    Step,
    Store,
    Ticket,
    Waited,
)

Result = Called | Failed
FIRST_WAIT: Final = 0.002
LONGEST_WAIT: Final = 0.05
"""A caller that waits for another process looks again after 2 ms, 4 ms, ... and then every 50 ms."""


class Ask(NamedTuple):
    """One question: which key, under which policy, and where the answer comes from: ``call(*values)``.

    ``site`` and ``raw`` mean nothing to the flows: they lead the engine to the codec and the shelf.
    """

    key: str
    policy: Policy
    dependencies: tuple[Dependency, ...]
    site: Any
    raw: Any
    call: Callable[..., Any]
    values: tuple[Any, ...]
    deadline: float
    """Until when the shared layer may be waited for: seconds, monotonic clock. Time spent in the user's function is added."""
    budget: float
    lease: int
    """How long a lease lives unless it is extended, milliseconds."""


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
    result: Result = yield Join(ask, isinstance(fetched, Fetched), None if refused is None else refused.dead)
    return result


def obtain_many(asks: Sequence[Ask], *, shared: bool) -> Generator[Step, Any, list[Result]]:
    """As `obtain` for several keys: one trip finds what is there, the rest is computed, each key once."""
    results: list[Result | None] = [None] * len(asks)
    dead: list[bytes | None] = [None] * len(asks)
    if shared and asks:
        fetched = yield Fetch(tuple(ask.key for ask in asks), asks[0].deadline)
        shared = not isinstance(fetched, Failed)
        if shared:
            yield from catch_up(fetched.head, asks[0].deadline)
            for i, (ask, blob) in enumerate(zip(asks, fetched.blobs, strict=True)):
                admitted = yield from admit(ask, blob, fetched.head, fetched.now, ask.deadline)
                if isinstance(admitted, Called):
                    results[i] = admitted
                else:
                    dead[i] = admitted.dead
    missing = [i for i, result in enumerate(results) if result is None]
    if missing:
        computed: tuple[Result, ...] = yield Each(tuple(_join(asks[i], shared, dead[i]) for i in missing))
        for i, result in zip(missing, computed, strict=True):
            results[i] = result
    return [result for result in results if result is not None]


def _join(ask: Ask, shared: bool, dead: bytes | None) -> Generator[Step, Any, Result]:
    result: Result = yield Join(ask, shared, dead, late=True)  # in def, after the computations of the keys before it
    return result


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


def fill(ask: Ask, *, token: str, shared: bool, dead: bytes | None) -> Generator[Step, Any, Result]:
    """Take the lease, compute, store while the lease is one's own. Without a shared layer: compute and keep."""
    deadline, waits = ask.deadline, _waits()
    leased: Leased | None = None
    while shared and leased is None:
        reply: Leased | Failed = yield Lease(ask.key, token, ask.lease, dead, deadline)
        if isinstance(reply, Failed):
            shared = False
        elif reply.blob is not None:
            admitted = yield from admit(ask, reply.blob, reply.head, reply.now, deadline)
            if isinstance(admitted, Called):
                return admitted
            if admitted.dead is None:  # it could not be judged: the log can not be read
                shared = False
            dead = admitted.dead
        elif reply.granted:
            leased = reply
        else:  # somebody else computes
            waited: Waited = yield Later(next(waits))
            deadline = waited.now + ask.budget
    if leased is not None:
        yield from catch_up(leased.head, deadline)
    begun: Begun = yield Begin(leased.now if leased else 0)
    called: Result = yield Call(ask)
    if isinstance(called, Failed) or called.fresh is None:
        if leased is not None:
            yield Release(ask.key, token, deadline + called.seconds)
        return called
    if leased is None or (yield from _store(ask, token, called, begun, deadline + called.seconds, own=0)):
        yield Keep(ask, called, begun)
    return called


def put(ask: Ask, *, token: str, shared: bool, given: tuple[Any] | None) -> Generator[Step, Any, tuple[Result, Stamp | None]]:
    """Set a value (``given``), or compute it anew (``None``), and announce it so that other processes drop their copies.

    The lease is seized before the value is obtained, and the value is stored only while the lease is still one's own: an
    invalidation that comes meanwhile wins. Returns the result and the stamp of the announcement.
    """
    deadline, leased, now = ask.deadline, False, 0
    encoded: Encoded | Failed | None = None
    if shared and given is not None:  # what can not be stored is refused before anything has changed
        encoded = yield Encode(ask, given[0], given=True)
        if isinstance(encoded, Failed):
            return encoded, None
    if shared:
        reply: Leased | Failed = yield Seize(ask.key, token, ask.lease, given is not None, deadline)
        if isinstance(reply, Leased):
            leased, now = True, reply.now
            yield from catch_up(reply.head, deadline)
    begun: Begun = yield Begin(now)
    called: Result = yield Call(ask, given)
    deadline += called.seconds
    if isinstance(called, Failed):
        if leased:
            yield Release(ask.key, token, deadline)
        return called, None
    ticket: Ticket = yield Pend((Targets(KEY, (ask.key,), "v"),))
    announced: Announced | Failed | None = None
    if shared:
        announced = yield Announce(ticket.targets, ticket.nonces, ticket.origin, (), deadline)
    stamp: Stamp = yield Settle(ticket, announced)
    own = 0 if stamp.pending else stamp.number
    keeps = not shared
    if leased and own:  # what others announced before it has to be known before the value is held here
        yield from catch_up(stamp, deadline)
    if leased and own and called.fresh is not None:
        keeps = yield from _store(ask, token, called, begun, deadline, own=own, encoded=encoded)
    elif leased:
        yield Release(ask.key, token, deadline)
    if keeps and called.fresh is not None:
        yield Keep(ask, called, begun, own)
    return called, stamp


def _store(
    ask: Ask, token: str, called: Called, begun: Begun, deadline: float, *, own: int, encoded: Encoded | Failed | None = None
) -> Generator[Step, Any, bool]:
    """Fill under the lease. False when the lease was lost: then the value belongs to its caller only, and is not held here either."""
    packed: Encoded | Failed = (yield Encode(ask, called.value)) if encoded is None else encoded
    if isinstance(packed, Failed) or begun.stamp is None or called.fresh is None:
        yield Release(ask.key, token, deadline)
        return True
    fresh = max(1, round(called.fresh * 1000))
    blob = seal(
        Header(
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
            dependencies=ask.dependencies,
        ),
        packed.payload,
    )
    left = fresh - round(called.seconds * 1000)  # age counts from the beginning of the computation
    if left <= 0:
        yield Release(ask.key, token, deadline)
        return True
    done: Done | Failed = yield Store(ask.key, token, blob, left, deadline)
    return isinstance(done, Failed) or done.done


def invalidate(targets: tuple[Targets, ...], *, shared: bool, deadline: float) -> Generator[Step, Any, Stamp]:
    """Apply to this process first, then announce. What can not be announced now is queued, and the stamp says so."""
    ticket: Ticket = yield Pend(targets)
    return (yield from announce(ticket, shared=shared, deadline=deadline))


def announce(ticket: Ticket, *, shared: bool, deadline: float) -> Generator[Step, Any, Stamp]:
    """Bring a pending invalidation to the log."""
    reply: Announced | Failed | None = None
    if shared:
        unlink = tuple(text for targets in ticket.targets if targets.kind == KEY for text in targets.texts)
        reply = yield Announce(ticket.targets, ticket.nonces, ticket.origin, unlink, deadline)
    stamp: Stamp = yield Settle(ticket, reply)
    return stamp


def catch_up(head: Stamp | None, deadline: float) -> Generator[Step, Any, bool]:
    """Apply the log up to ``head``; rejoin where it can not be continued. False when the shared layer failed."""
    position: Stamp | None = yield Position()
    while position is not None and head is not None and position.epoch == head.epoch:
        if position.number >= head.number:
            return True
        log: Log | Failed = yield ReadLog(position, 0.0, deadline)
        if isinstance(log, Failed):
            return False
        applied: Done = yield Apply(log)
        if not applied.done:
            break
        position = yield Position()
    return (yield from rejoin(deadline))


def rejoin(deadline: float) -> Generator[Step, Any, bool]:
    """Take position and bans as they stand now. What was held before is judged by them, or dead in another epoch."""
    joined: Joined | Failed = yield Snapshot(deadline)
    if isinstance(joined, Failed):
        return False
    yield Rejoin(joined)
    return True


def listen(position: Stamp | None, *, block: float, patience: float, now: float) -> Generator[Step, Any, bool]:
    """One turn of the log's reader: wait up to ``block`` seconds for what follows. False when the shared layer failed."""
    if position is None:
        return (yield from rejoin(now + patience))
    log: Log | Failed = yield ReadLog(position, block, now + block + patience)
    if isinstance(log, Failed):
        return False
    applied: Done = yield Apply(log)
    deadline = now + block + 2 * patience
    return (yield from catch_up(log.head, deadline)) if applied.done else (yield from rejoin(deadline))


def _waits() -> Iterator[float]:
    wait = FIRST_WAIT
    while True:
        yield wait
        wait = min(2 * wait, LONGEST_WAIT)
