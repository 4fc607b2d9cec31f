"""Change: make a value from the one that stands there, so that nobody comes between.

A computed value may be computed by two at once, and the later invalidation decides. A counter may not, nor may what is stored only where
nothing stands. So whoever changes an entry holds its lease from before it looks until it has stored, and everybody who changes waits for
it; nobody seizes it. The record that announces the change comes before the storing, and the value is stamped with that record: it is the
caller's word, given after everything up to there. So of two changes neither refuses the other's value.

Between the record and the storing the old value is refused and the new one is not there. Whoever meets a refused entry therefore waits for
its lease before he says that there is nothing (`look_settled`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Final, Literal, NamedTuple, cast

from cachesync.core.envelope import IDENTITY
from cachesync.core.flows import TRIES, Ask, admit, catch_up, store_leased, waits
from cachesync.core.records import HARD, KEY, VALUE, Mode, Targets
from cachesync.core.stamps import NOWHERE, Stamp
from cachesync.core.steps import (
    Announce,
    Announced,
    Await,
    Begin,
    Begun,
    Call,
    Called,
    Encode,
    Encoded,
    Failed,
    Fetch,
    Fetched,
    Keep,
    Lease,
    Leased,
    Pend,
    Position,
    Release,
    Settle,
    Stands,
    Step,
    Ticket,
    Waited,
)

LEAVE: Final = "leave"
REMOVE: Final = "remove"


class Put(NamedTuple):
    """What is to stand there from now on."""

    value: object


Decision = Put | Literal["leave", "remove"]
Decide = Callable[[Called | None, float], Decision]
"""Is given what stands there (``None`` for nothing that may be served) and the time (seconds, monotonic clock), and says what is to
stand there. It may be asked again."""


class AwayError(Exception):
    """It could not be found out what stands there, or whether the change has come about."""


class _Taken(NamedTuple):
    """A lease, what stands under it, when that was (milliseconds of the layer's clock), and the deadline of what follows."""

    standing: Called | None
    now: int
    deadline: float


def change(ask: Ask, token: str, decide: Decide, *, looks: bool = True) -> Generator[Step, Any, Called | Failed | None]:
    """Put, remove or leave what stands under a key, as ``decide`` says. Returns what stood there when it was asked.

    ``looks`` is false for who decides without looking: then what stood there is not read. `Failed` with `AwayError`: the shared layer has
    not answered, or has lost the lease again and again. With anything else: what ``decide`` raised, or that the value can not be stored;
    then nothing has changed.
    """
    for _ in range(TRIES):
        taken = yield from _take(ask, token, looks=looks)
        if isinstance(taken, Failed):
            return taken
        standing, now, deadline = taken
        begun: Begun = yield Begin(now, ask.by_ttl)
        try:
            decision = decide(standing, begun.made)
        except Exception as error:  # it is the caller's value that it does something with
            yield Release(ask.key, token, deadline)
            return Failed(error)
        if decision == LEAVE:
            yield Release(ask.key, token, deadline)
            return standing
        if decision == REMOVE:
            return standing if (yield from _announce(ask, HARD, deadline)) is not None else Failed(AwayError())
        assert isinstance(decision, Put)
        done = yield from _put(ask, token, decision.value, begun, deadline)
        if isinstance(done, Failed):
            return done
        if done:
            return standing
    return Failed(AwayError("the lease of the key was lost again and again"))


def look_settled(ask: Ask, token: str, dead: bytes) -> Generator[Step, Any, Called | None]:
    """Look again for what was refused: it may be about to be replaced, and then its replacement is waited for.

    ``dead`` is the identity of what was met. Nobody waits longer than the budget of the question: ``None`` then, as where nothing stands.
    """
    turns, until, patience = waits(), ask.deadline, ask.budget
    while True:
        reply = yield from _lease(ask, token, dead, until)
        if isinstance(reply, Failed):
            return None
        if reply.granted:
            yield Release(ask.key, token, until)
            return None
        if reply.blob is not None:
            found = yield from admit(ask, reply.blob, reply.head, reply.now, until)
            if isinstance(found, Called):
                return found
            dead, until = reply.blob[:IDENTITY], until + found.seconds
            continue
        wait = min(next(turns), patience)
        patience -= wait
        waited: Waited = yield Await(ask.key, token, wait)
        if waited.alone or patience <= 0:
            return None
        until = waited.now + ask.budget


def _take(ask: Ask, token: str, *, looks: bool) -> Generator[Step, Any, _Taken | Failed]:
    """The lease, and what stands there now. Whoever holds it is waited for, as long as it lives."""
    dead, turns, deadline = None, waits(), ask.deadline
    while True:
        reply = yield from _lease(ask, token, dead, deadline)
        if isinstance(reply, Failed):
            return reply
        if reply.granted:
            break
        if reply.blob is not None:
            dead = reply.blob[:IDENTITY]
            continue
        waited: Waited = yield Await(ask.key, token, next(turns))
        deadline = waited.now + ask.budget
        if waited.alone:
            return Failed(AwayError("whoever changes it waits for this call"))
    if dead is None or not looks:
        return _Taken(None, reply.now, deadline)
    fetched: Fetched | Failed = yield Fetch((ask.key,), deadline, strict=True)  # under the lease: nobody changes it any more
    if isinstance(fetched, Fetched):
        found = yield from admit(ask, fetched.blobs[0], fetched.head, fetched.now, deadline)
        if isinstance(found, Called):
            return _Taken(None if found.is_stale else found, fetched.now, deadline + found.seconds)
        if found.dead is not None or fetched.blobs[0] is None:
            return _Taken(None, fetched.now, deadline + found.seconds)
    yield Release(ask.key, token, deadline)
    return Failed(AwayError("what stands there can not be judged"))


def _lease(ask: Ask, token: str, dead: bytes | None, deadline: float) -> Generator[Step, Any, Leased | Failed]:
    stands: Stands = yield Position()
    reply: Leased | Failed = yield Lease(ask.key, token, stands.stamp or NOWHERE, ask.lease, dead, deadline=deadline)
    return Failed(AwayError(str(reply.error))) if isinstance(reply, Failed) else reply


def _put(ask: Ask, token: str, value: object, begun: Begun, deadline: float) -> Generator[Step, Any, bool | Failed]:
    """Announce a value, then store it under the lease. False where the lease was lost."""
    called: Called | Failed = yield Call(ask, (value,))
    encoded: Encoded | Failed = called if isinstance(called, Failed) else (yield Encode(ask, value, given=True))
    if isinstance(called, Failed) or isinstance(encoded, Failed):
        yield Release(ask.key, token, deadline + encoded.seconds)
        return called if isinstance(called, Failed) else cast("Failed", encoded)
    deadline += called.seconds + encoded.seconds
    stamp = yield from _announce(ask, VALUE, deadline)
    if stamp is None or called.fresh is None:
        yield Release(ask.key, token, deadline)
        return Failed(AwayError()) if stamp is None else True
    if not ask.by_ttl:  # what others announced before it has to be known before the value is held here
        yield from catch_up(stamp, deadline)
        begun = begun._replace(stamp=stamp)
    called = called._replace(seconds=0.0, stamp=begun.stamp, made=begun.made, until=begun.made + called.fresh)
    stored = yield from store_leased(ask, token, called, begun, deadline, own=stamp.number, encoded=encoded)
    if stored:
        yield Keep(ask, called, begun, stamp.number)
    return Failed(AwayError("the value may not have been stored")) if stored is None else stored


def _announce(ask: Ask, mode: Mode, deadline: float) -> Generator[Step, Any, Stamp | None]:
    """Tell everybody that what stood there is no more. ``None`` where that is queued: then it holds here, and nothing may be stored.

    A removal unlinks the entry and the lease; a value replaces the one and ends the other.
    """
    ticket: Ticket = yield Pend((Targets(KEY, (ask.key,), mode),))
    unlink = (ask.key,) if mode == HARD else ()
    reply: Announced | Failed = yield Announce(ticket.targets, ticket.nonces, ticket.origin, unlink, deadline=deadline)
    stamp: Stamp = yield Settle(ticket, reply)
    return None if stamp.pending else stamp
