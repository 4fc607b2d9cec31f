"""Keeping: how a door keeps what it computes in a cache, and learns how old it is, whether it is fresh, and whether it still stands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic, NamedTuple, TypeVar, cast

from cachesync.coordination.engine import Engine
from cachesync.coordination.gathering import Gathering
from cachesync.coordination.operations import Operations, value_of
from cachesync.core.entry import NEVER, Dependency
from cachesync.core.flows import Ask, confirm
from cachesync.core.stamps import Stamp
from cachesync.core.steps import Called, Spare

T = TypeVar("T")


class Obtained(NamedTuple, Generic[T]):
    """A value as it was obtained.

    ``age`` is the seconds since its computation began, 0 for one that was computed just now. ``is_stale``: it may no longer be served as
    fresh. ``is_spare``: it stands in for a computation that has failed, or was not tried. ``is_new``: it was computed while it was waited
    for.
    """

    value: T
    age: float
    is_stale: bool
    is_spare: bool
    is_new: bool = False


class Keeper:
    """What a door asks of a cache. ``ask`` makes the question for a key as text, with what computes it."""

    def __init__(self, engine: Engine, operations: Operations, ask: Callable[[str, Callable[[], Any] | None], Ask]) -> None:
        self._engine = engine
        self._operations = operations
        self._ask = ask

    async def aobtain(
        self, key: str, compute: Callable[[], Awaitable[T]], *, accepts: Callable[[T, float], bool] | None = None
    ) -> Obtained[T]:
        """The cached value of a key, or what ``compute`` returns, stored for the next caller; computed once, whoever asks.

        ``accepts`` is given a stale value and its age in seconds; where it says False, the value is computed anew and waited for.
        """
        now = self._engine.now

        def is_accepted(found: Called) -> bool:
            return accepts is None or accepts(found.value, max(0.0, now() - found.made))

        ask = self._ask(key, compute)
        result = await self._operations.aobtain(ask, is_accepted)
        value = cast("T", value_of(ask.policy, result))
        called = cast("Called", result)
        age = 0.0 if called.stamp is None else max(0.0, now() - called.made)
        return Obtained(value, age, called.is_stale, called.is_stale and called.until == NEVER, called.stamp is None)

    async def areaches(self, stamp: Stamp, policy: str) -> bool:
        """Whether nothing older than a stamp is read of a policy from now on: the log is applied up to where it ends, unless it was up to
        there. A stamp that is not reached then is of another log, or was made up. False where nobody can say where the log ends, and where
        a switch has the policy go by lifetimes alone.
        """
        engine = self._engine
        if not engine.switches.are_usual((policy,)):
            return False
        if engine.shared is None or engine.has_reached(stamp):
            return True
        is_confirmed: bool = await self._operations.arun(confirm(engine.now() + engine.budget))
        return is_confirmed

    def position(self, policy: str) -> Stamp | None:
        """Up to where the log is applied to what is kept of a policy: ``None`` before it was joined, and where a switch has the policy go
        by lifetimes alone.
        """
        return self._engine.ledger.position if self._engine.switches.are_usual((policy,)) else None

    def spare(self, key: str) -> Obtained[Any] | None:
        """The copy in this process that may stand in for a computation that fails (``stale_if_error``); ``None`` where there is none."""
        found = self._engine.spare(Spare(self._ask(key, None)))
        return None if found is None else Obtained(found.value, max(0.0, self._engine.now() - found.made), is_stale=True, is_spare=True)

    def gathering(self) -> Gathering:
        """What something that is computed apart from the cache finds out about its own result: to be set where that runs."""
        return Gathering(self._engine)

    def standing(self) -> Callable[[str, Iterable[Dependency]], bool]:
        """A question to be asked later: has nothing been invalidated since now that concerns a key, or one of these dependencies?"""
        engine, position = self._engine, self._engine.ledger.position
        return lambda key, dependencies: engine.has_stood(position, key, tuple(dependencies))
