"""Operations: what can be asked of a cache, as flows that know their engine, and the two ways to run them."""

from __future__ import annotations

import copy
import os
import threading
import weakref
from collections.abc import Generator, Sequence
from typing import Any, Literal, cast

from cachesync.coordination.engine import BEHIND, NOWHERE, Engine
from cachesync.coordination.log_reader import LogReader
from cachesync.coordination.worlds import LoopWorld, ThreadWorld
from cachesync.core.entry import Entry
from cachesync.core.flows import Ask, Result, invalidate, look, obtain, obtain_many, put
from cachesync.core.policy import Policy
from cachesync.core.records import Targets, written
from cachesync.core.stamps import Stamp
from cachesync.core.steps import Call, Called, Each, Failed, Fetch, Fetched, Refused, Step
from cachesync.core.tuples import make


class Operations:
    """Everything the doors offer goes through here: ``run`` and ``arun`` take the flows that the other methods make."""

    def __init__(self, engine: Engine, *, listen: bool) -> None:
        self.engine = engine
        self._threads = ThreadWorld(engine)
        self._loops = LoopWorld(engine)
        self.run = self._threads.run
        self.arun = self._loops.run
        self.reader = LogReader(engine)
        self._listens = listen and engine.shared is not None
        _survive_forks(self)

    def obtain(self, ask: Ask) -> Result:
        """The local copy, the shared entry, or a computation."""
        engine = self.engine
        if not engine.settings.enabled or engine.is_busy_here():
            return cast("Result", self.run(_calling(ask)))
        at_hand = engine.at_hand(ask)
        if at_hand is not None:
            return at_hand
        fetched: Any = self._threads.ask_shared(make(Fetch, ((ask.key,), ask.deadline))) if self._shares() else None
        judged = self._judge(ask, fetched)
        return judged if isinstance(judged, Called) else cast("Result", self.run(obtain(ask, fetched, judged)))

    async def aobtain(self, ask: Ask) -> Result:
        """As `obtain`."""
        engine = self.engine
        if not engine.settings.enabled:
            return cast("Result", await self.arun(_calling(ask)))
        at_hand = engine.at_hand(ask)
        if at_hand is not None:
            return at_hand
        fetched: Any = None
        if self._shares():  # as ask_shared does it, with one coroutine less: to be interrupted while reading leaves nothing behind
            step, asked = make(Fetch, ((ask.key,), ask.deadline)), engine.now()
            fetched = self._loops.note(step, asked, await self._loops.layer().perform(step))
        judged = self._judge(ask, fetched)
        return judged if isinstance(judged, Called) else cast("Result", await self.arun(obtain(ask, fetched, judged)))

    def _judge(self, ask: Ask, fetched: Any) -> Called | Refused | None:
        """What the shared layer's reply is worth. A hit ends here, without a flow."""
        if fetched.__class__ is not Fetched:
            return None
        blob, engine = fetched.blobs[0], self.engine
        if blob is not None:
            return engine.judge(ask, blob, fetched.head, fetched.now)
        return BEHIND if engine.is_behind(fetched.head) else None

    def obtaining_many(self, asks: Sequence[Ask]) -> Generator[Step, Any, list[Result]]:
        """The same for several questions. Equal ones are asked once."""
        if not self.engine.settings.enabled:
            computed: tuple[Result, ...] = yield Each(tuple(_calling(ask) for ask in asks))
            return list(computed)
        answers: dict[str, Result] = {}
        missing: dict[str, Ask] = {}
        for ask in asks:
            answer = self.engine.at_hand(ask)
            if answer is None:
                missing[ask.key] = ask
            else:
                answers[ask.key] = answer
        obtained = yield from obtain_many(tuple(missing.values()), shared=self._shares())
        answers.update(zip(missing, obtained, strict=True))
        return [answers[ask.key] for ask in asks]

    def looking(self, ask: Ask) -> Generator[Step, Any, Called | Refused]:
        """The local copy or the shared entry, without computing."""
        if not self.engine.settings.enabled:
            return Refused()
        answer = self.engine.at_hand(ask)
        if answer is not None:
            return answer
        if not self._shares():
            return Refused()
        return (yield from look(ask))

    def peeking(self, ask: Ask) -> Generator[Step, Any, Entry[Any] | None]:
        """The same, with what is known about the value."""
        engine = self.engine
        if not engine.settings.enabled:
            return None
        found: Called | Refused | None = None
        layer: Literal["local", "shared"] = "local"
        held = engine.held(ask)
        if held is not None:
            found = Called(held.value, stamp=held.stamp, made=held.made)  # looked at, and not counted as a hit
        elif self._shares():
            found, layer = (yield from look(ask)), "shared"
        if not isinstance(found, Called) or found.stamp is None:
            return None
        return Entry(
            value=own_copy(ask.policy, found.value),
            age=engine.now() - found.made,
            is_stale=False,
            stamp=found.stamp,
            etag=engine.etag(ask.site, found.value),
            layer=layer,
        )

    def putting(self, ask: Ask, given: tuple[Any] | None) -> Generator[Step, Any, tuple[Result, Stamp | None]]:
        """Set a value, or compute it anew. A given value that can not be stored raises ``CodecError`` before anything has changed."""
        engine = self.engine
        if not engine.settings.enabled:
            return (yield Call(ask, given)), engine.ledger.position or NOWHERE
        if given is not None:
            given = (own_copy(ask.policy, given[0]),)
        self.awake()
        token = os.urandom(12).hex()
        try:
            result, stamp = yield from put(ask, token=token, shared=engine.shared is not None, given=given)
        finally:
            engine.forsake(token)
        if stamp is not None and stamp.pending:
            engine.not_stored(ask, "the shared layer is away: other copies of the key are invalidated, this one is with its caller only")
        return result, stamp

    def invalidating(self, targets: tuple[Targets, ...]) -> Generator[Step, Any, Stamp]:
        """Apply an invalidation here and announce it."""
        self.awake()
        engine = self.engine
        deadline = engine.now() + engine.settings.coordination.budget
        return (yield from invalidate(targets, shared=engine.shared is not None, deadline=deadline))

    def awake(self) -> None:
        """The log's reader runs from the first time on that the shared layer matters."""
        if self._listens and not self.reader.is_running:
            self.reader.start()

    def _shares(self) -> bool:
        self.awake()
        return self.engine.uses_shared()

    def finish(self) -> None:
        """End the log's reader. Invalidations that wait for the shared layer get a last chance."""
        self._listens = False
        self.reader.stop()
        if self.engine.shared is not None and not self.reader.flush():
            lost = [targets for ticket in self.engine.ledger.queued for targets in ticket.targets]
            self.engine.events.send("invalidation_lost", **written(lost))

    def after_fork(self) -> None:
        """In a forked child."""
        self.engine.after_fork()
        self.reader.after_fork()


def _calling(ask: Ask) -> Generator[Step, Any, Result]:
    result: Result = yield Call(ask)
    return result


def value_of(policy: Policy, result: Result) -> Any:
    """The value of a result. What the user's function raised is raised as it was."""
    if isinstance(result, Failed):
        raise result.error
    value = result[0]
    return own_copy(policy, value) if policy.copy else value


def own_copy(policy: Policy, value: Any) -> Any:
    """The value itself, or where the policy says ``copy = true`` a copy that its caller may change.

    A value that can not be copied is held by nobody, so its caller may have it.
    """
    if not policy.copy:
        return value
    try:
        return copy.deepcopy(value)
    except Exception:  # whatever its class raises
        return value


_alive: weakref.WeakSet[Operations] = weakref.WeakSet()
_alive_lock = threading.Lock()


def _survive_forks(operations: Operations) -> None:
    with _alive_lock:
        _alive.add(operations)


def _after_fork() -> None:
    global _alive_lock
    _alive_lock = threading.Lock()
    for operations in list(_alive):
        operations.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
