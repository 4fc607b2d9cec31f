"""Gathering: what a computation finds out about its own result while it runs.

A cached function that is called inside another one's computation is something the outer result is made of: its key, its tags and its
freshness are inherited. A context variable carries the gathering along, into tasks and into threads that copy their context.
"""

from __future__ import annotations

import contextvars
import math
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from cachesync.core.entry import ELSEWHERE, MAX_DEPENDENCIES, NEVER, Dependency, bounded
from cachesync.core.records import KEY
from cachesync.core.stamps import BY_LIFETIME, Stamp
from cachesync.core.steps import Called

if TYPE_CHECKING:
    from cachesync.coordination.engine import Engine
    from cachesync.coordination.request_scope import Scope
    from cachesync.core.policy import Policy

P = ParamSpec("P")
R = TypeVar("R")


class Gathering:
    """What one computation depends on so far, until when all of it is fresh (seconds, monotonic clock), and whether any of it is stale:
    then, when the first of that ends to be served at all.

    ``least`` is the stamp that its caller asked for: nothing it is made of may be older. ``engine`` is whose computation it is; caches
    of other engines may be asked inside of it. Where one is on the same log and a moment behind, the result is not stored
    (``is_behind``): it would be taken for as new as its own cache is. Where one is on another log, nobody here hears of its
    invalidations, and only its freshness is inherited. ``by_ttl``: something was served by its lifetime alone, so that nobody knows
    whether it was invalidated.

    ``request`` is the scope of the request that the computation is part of, `None` outside of any. ``has_request``: it is the answer to a
    request itself, as that of a response cache is, so a `Scope` may stand inside of it, and all that is read there is passed on to it.
    """

    __slots__ = ("_found", "by_ttl", "ends", "engine", "has_request", "is_behind", "is_stale", "least", "request", "until")

    def __init__(self, engine: Engine, least: Stamp | None = None) -> None:
        around = gathering.get()
        self.request: Scope | None = None if around is None else around.request
        self.engine = engine
        self.least = least
        self.has_request = False
        self.is_behind = False
        self.by_ttl = False
        self._found: dict[Dependency, None] = {}
        self.until = math.inf
        self.is_stale = False
        self.ends = math.inf

    @property
    def dependencies(self) -> tuple[Dependency, ...]:
        return bounded(self._found)

    def add(self, dependencies: Iterable[Dependency]) -> None:
        """Depend on these too. Beyond the number that is told apart, more of them change nothing."""
        if len(self._found) <= MAX_DEPENDENCIES:
            self._found.update(dict.fromkeys(dependencies))

    def keep_nothing(self) -> None:
        """What is computed here is for its caller alone: it is not stored, and nobody is told why."""
        self.until = NEVER

    def asks(self, engine: Engine) -> Stamp | None:
        """A cache is about to be asked: the stamp than which its answer may not be older."""
        if engine is self.engine:
            return self.least
        if not engine.is_beside(self.engine):
            return None
        position = self.engine.ledger.position
        if position is None or not engine.has_reached(position):
            self.is_behind = True
        return self.least

    def absorb(self, inner: Gathering) -> None:
        """All that another one has found out concerns this one, too."""
        self.add(inner._found if inner.engine.is_beside(self.engine) else (ELSEWHERE,))
        self.is_behind, self.by_ttl = self.is_behind or inner.is_behind, self.by_ttl or inner.by_ttl
        self.until = min(self.until, inner.until)
        self.is_stale, self.ends = self.is_stale or inner.is_stale, min(self.ends, inner.ends)

    def take_in(self, engine: Engine, key: str, called: Called, policy: Policy) -> None:
        """A cached value of ``engine`` was used, under a policy."""
        self.add((Dependency(KEY, key), *called.dependencies) if engine.is_beside(self.engine) else (ELSEWHERE,))
        self.until = min(self.until, called.until)
        self.by_ttl = self.by_ttl or called.stamp == BY_LIFETIME
        if called.is_stale:
            self.is_stale, self.ends = True, min(self.ends, called.ends)


gathering: Final[ContextVar[Gathering | None]] = ContextVar("cachesync_gathering", default=None)
"""That of the computation or the request which runs here, ``None`` outside of any."""


def in_context(function: Callable[P, R]) -> Callable[P, R]:
    """``function``, to be run in another thread as a part of the computation that runs here.

    An executor's threads know nothing of it otherwise, and what they read from the cache would not be inherited. ``asyncio.to_thread``
    and tasks carry their context along by themselves. The function may be run several times, also side by side.
    """
    context = contextvars.copy_context()

    def carried(*args: P.args, **kwargs: P.kwargs) -> R:
        mine: Any = context.copy()  # one context runs in one thread at a time
        result: R = mine.run(function, *args, **kwargs)
        return result

    return carried
