"""Operations: what can be asked of a cache, as flows that know their engine, and the two ways to run them."""

from __future__ import annotations

import copy
import os
import threading
import weakref
from collections.abc import Generator, Sequence
from typing import Any

from cachesync.coordination.engine import Engine
from cachesync.coordination.listener import Listener
from cachesync.coordination.worlds import LoopWorld, ThreadWorld
from cachesync.core.entry import Entry
from cachesync.core.flows import Ask, Result, invalidate, look, obtain, obtain_many, put
from cachesync.core.policy import Policy
from cachesync.core.records import Targets
from cachesync.core.stamps import Stamp
from cachesync.core.steps import Call, Called, Each, Failed, Step, Verdict


class Operations:
    """Everything the doors offer goes through here: ``run`` and ``arun`` take the flows that the other methods make."""

    def __init__(self, engine: Engine, *, listen: bool) -> None:
        self.engine = engine
        self.run = ThreadWorld(engine).run
        self.arun = LoopWorld(engine).run
        self.reader = Listener(engine)
        self._listens = listen and engine.shared is not None
        _survive_forks(self)

    def obtaining(self, ask: Ask) -> Generator[Step, Any, Result]:
        """The local copy, the shared entry, or a computation."""
        if not self.engine.settings.enabled:
            result: Result = yield Call(ask)
            return result
        held = self.engine.held(ask)
        if held is not None:
            held.hits += 1
            return Called(held.value)
        return (yield from obtain(ask, shared=self._shares()))

    def obtaining_many(self, asks: Sequence[Ask]) -> Generator[Step, Any, list[Result]]:
        """The same for several questions. Equal ones are asked once."""
        if not self.engine.settings.enabled:
            computed: tuple[Result, ...] = yield Each(tuple(_calling(ask) for ask in asks))
            return list(computed)
        answers: dict[str, Result] = {}
        missing: dict[str, Ask] = {}
        for ask in asks:
            held = self.engine.held(ask)
            if held is None:
                missing[ask.key] = ask
            else:
                held.hits += 1
                answers[ask.key] = Called(held.value)
        obtained = yield from obtain_many(tuple(missing.values()), shared=self._shares())
        answers.update(zip(missing, obtained, strict=True))
        return [answers[ask.key] for ask in asks]

    def looking(self, ask: Ask) -> Generator[Step, Any, Verdict]:
        """The local copy or the shared entry, without computing."""
        if not self.engine.settings.enabled:
            return Verdict(served=False)
        held = self.engine.held(ask)
        if held is not None:
            held.hits += 1
            return Verdict(served=True, value=held.value)
        if not self._shares():
            return Verdict(served=False)
        return (yield from look(ask))

    def peeking(self, ask: Ask) -> Generator[Step, Any, Entry[Any] | None]:
        """The same, with what is known about the value."""
        engine, layer = self.engine, "local"
        if not engine.settings.enabled:
            return None
        held = engine.held(ask)
        if held is None and self._shares():
            yield from look(ask)
            held, layer = engine.held(ask), "shared"
        if held is None:
            return None
        return Entry(
            value=own_copy(ask.policy, held.value),
            age=engine.now() - held.made,
            is_stale=False,
            stamp=held.stamp,
            etag=engine.etag(ask.site, held.value),
            layer="local" if layer == "local" else "shared",
        )

    def putting(self, ask: Ask, given: tuple[Any] | None) -> Generator[Step, Any, tuple[Result, Stamp | None]]:
        """Set a value, or compute it anew. A given value that can not be stored raises ``CodecError`` before anything has changed."""
        engine = self.engine
        if not engine.settings.enabled:
            return (yield Call(ask, given)), engine.ledger.position
        if given is not None:
            if engine.shared is not None:
                ask.site.codec.encode(given[0])
            given = (own_copy(ask.policy, given[0]),)
        self.awake()
        token = os.urandom(12).hex()
        try:
            return (yield from put(ask, token=token, shared=engine.shared is not None, given=given))
        finally:
            engine.forsake(token)

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
        if self._listens and not self.reader.is_running:
            self.reader.start()
        return self.engine.uses_shared()

    def finish(self) -> None:
        """End the log's reader. Invalidations that wait for the shared layer get a last chance."""
        self._listens = False
        self.reader.stop()
        if self.engine.shared is not None and not self.reader.flush():
            lost = [text for ticket in self.engine.ledger.queued for targets in ticket.targets for text in targets.texts]
            self.engine.events.send("invalidation_lost", targets=lost)

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
        try:
            raise result.error
        finally:
            del result  # or this frame and the error's traceback would keep each other alive
    return own_copy(policy, result.value)


def own_copy(policy: Policy, value: Any) -> Any:
    """The value itself, or where the policy says ``copy = true`` a copy that its caller may change."""
    return copy.deepcopy(value) if policy.copy else value


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
