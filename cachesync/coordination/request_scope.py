"""Request scope: one reader reads each key once, and nothing older than what it has seen already.

Inside of ``with cache.request():`` what was read is remembered, so that a repeated read is the same answer and asks nobody. What is read
for the first time is judged by this process as always: anything fresh is at least as new as all that was served here before. Only stale
values may be older than something the request has seen; those are refused.

What a cached function computes is for everybody, so inside of its computation nothing is taken from what a request remembers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from contextvars import Token
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cachesync.coordination.consumed import Consumed
from cachesync.coordination.gathering import Gathering, gathering
from cachesync.coordination.results import is_used_up
from cachesync.core.bans import BanIndex
from cachesync.core.entry import Dependency
from cachesync.core.policy import Policy
from cachesync.core.records import Targets
from cachesync.core.stamps import BY_LIFETIME, Stamp
from cachesync.core.steps import Called
from cachesync.layers.forks import lock_across_forks

if TYPE_CHECKING:
    from cachesync.coordination.engine import Engine

R = TypeVar("R")

MOST_READ: Final = 10_000
"""Keys that one request remembers. Beyond that the one it read first is read anew."""


class Scope(Gathering):
    """What one request has read of one cache. It stands where a computation's gathering would, so a hit outside of any costs nothing more.

    ``outer`` is the scope of another cache around it. When the request is over it is closed: tasks and threads that go on after it read as
    if there were none. Safe to use from any thread.
    """

    __slots__ = ("_lock", "_own", "_part_of", "_read", "_seen", "consumed", "is_open", "outer", "writes")

    def __init__(self, engine: Engine, outer: Scope | None, *, least: Stamp | None = None, part_of: Gathering | None = None) -> None:
        super().__init__(engine, least)
        self.request = self
        self.outer = outer
        self._part_of = part_of  # the computation whose result is the answer to this request
        self.is_open = True
        self.writes = 0
        """How many times the request has changed something itself."""
        self.consumed = Consumed()
        self._read: dict[str, Called] = {}  # by key, the oldest first
        self._seen: Stamp | None = None  # the newest of what was read
        self._own: BanIndex | None = None  # what the request has changed itself, numbered by ``writes``
        self._lock = lock_across_forks()

    # --- a request is no computation ------------------------------------------------------------------------------------------------

    def asks(self, engine: Engine) -> Stamp | None:
        """The stamp that the request has asked for, of this cache: nobody asks another one for it."""
        if self._part_of is not None:
            return self._part_of.asks(engine)
        return self.least if engine is self.engine else None

    def add(self, dependencies: Iterable[Dependency]) -> None:
        """Nothing is made here that would be cached; the answer to the request depends on it."""
        dependencies = tuple(dependencies)
        with self._lock:
            self.consumed.name(dependencies)
        if self._part_of is not None:
            self._part_of.add(dependencies)

    def absorb(self, inner: Gathering) -> None:
        """As `add`."""
        if self._part_of is not None:
            self._part_of.absorb(inner)

    def take_in(self, engine: Engine, key: str, called: Called, policy: Policy) -> None:
        """What is read is remembered by its `Reading`; here it is noted that the answer to the request is made of it."""
        self.doubt(engine)
        scope = self.of(engine)
        if scope is not None:
            with scope._lock:
                scope.consumed.read(key, policy, called)
        if self._part_of is not None:
            self._part_of.take_in(engine, key, called, policy)

    # --- reading --------------------------------------------------------------------------------------------------------------------

    def doubt(self, engine: Engine) -> None:
        """A cache is asked inside of the requests of others: they hear of its invalidations from nobody."""
        scope: Scope | None = self
        while scope is not None:
            if scope.engine is not engine:
                scope.consumed.is_alone = False
                scope.consumed.doubt()
            scope = scope.outer

    def of(self, engine: Engine) -> Scope | None:
        """The open scope for a cache: this one, or one around it."""
        scope: Scope | None = self
        while scope is not None and not (scope.engine is engine and scope.is_open):
            scope = scope.outer
        return scope

    def outlived(self) -> Gathering | None:
        """What stands around whatever goes on after its request: a computation whose result is still being made, or a request around it."""
        scope: Scope | None = self
        while scope is not None and not scope.is_open:
            if scope._part_of is not None:
                return scope._part_of
            scope = scope.outer
        return scope

    def asked(self, key: str) -> None:
        """A key is about to be read."""
        with self._lock:
            self.consumed.ask(key)

    def saw(self, key: str, policy: Policy, called: Called) -> None:
        """What is cached of a key was looked at."""
        with self._lock:
            self.consumed.see(key, policy, called)

    def find(self, key: str) -> Called | None:
        """What was read of a key."""
        return self._read.get(key)

    def remember(self, key: str, called: Called, *, since: int, anew: bool) -> Called:
        """A key was read, when the request had made ``since`` changes. Returns what this reader is given: what another task of the request
        has read meanwhile comes first. ``anew``: it was asked for newer, and takes the place of what was read before.
        """
        gone: list[Called | None] = []  # let go after the lock: a finalizer may read in this request
        with self._lock:
            if not self.is_open:
                return called
            is_overtaken = self._own is not None and self._own.newest(key, called.dependencies) > since
            if not is_overtaken and not is_used_up(called.value):
                if anew:
                    gone.append(self._read.pop(key, None))
                called = self._read.setdefault(key, called)
                if len(self._read) > MOST_READ:
                    gone.append(self._read.pop(next(iter(self._read))))
            self._see(called.stamp)
            return called

    def _see(self, stamp: Stamp | None) -> None:
        ledger = self.engine.ledger
        stamp = ledger.position if stamp is None else stamp  # it was computed and stored nowhere: by now it is no older than that
        if stamp is None or stamp == BY_LIFETIME:
            return
        number = ledger.lineage.number(stamp)
        seen = None if self._seen is None else ledger.lineage.number(self._seen)
        if seen is None or (number is not None and number > seen):
            self._seen = stamp

    def refuses(self, key: str, dependencies: tuple[Dependency, ...], stamp: Stamp | None) -> bool:
        """Whether something stale, with this stamp (``None``: not known), is older than what was seen: an invalidation that matches it came
        after its stamp, and not after that of the newest value seen. What the request has changed itself is refused in any case.
        """
        with self._lock:
            if self._own is not None and self._own.newest(key, dependencies):
                return True
            newest = self._seen
        if newest is None:
            return False
        with self.engine.lock:
            ledger = self.engine.ledger
            seen, number = ledger.lineage.number(newest), 0 if stamp is None else ledger.lineage.number(stamp)
            return seen is None or number is None or ledger.soft.lies_between(key, dependencies, number, seen)

    def wrote(self, stamp: Stamp) -> None:
        """What the request has changed itself has its position in the log."""
        with self._lock:
            self.consumed.wrote(stamp)

    # --- writing --------------------------------------------------------------------------------------------------------------------

    def forget(self, targets: Sequence[Targets]) -> None:
        """The request changes something itself: what that concerns is read anew."""
        with self._lock:
            if not self.is_open:
                return
            self.writes += 1
            self.consumed.write(targets)
            self._own, changed = self._own or BanIndex(), BanIndex()
            for one in targets:
                self._own.add_all(one, self.writes)
                changed.add_all(one, 1)
            matched = [key for key, called in self._read.items() if changed.newest(key, called.dependencies)]
            gone = [self._read.pop(key) for key in matched]
        del gone  # after the lock, as in `remember`

    def close(self) -> None:
        """The request is over."""
        with self._lock:
            self.is_open = False
            gone, self._read, self._own = self._read, {}, None
        del gone  # after the lock, as in `remember`


class Reading:
    """One read of a key inside of a request. ``found`` is what the request has read of it already."""

    __slots__ = ("_anew", "_key", "_scope", "_since", "found")

    def __init__(self, scope: Scope, key: str, *, anew: bool) -> None:
        self._scope = scope
        self._key = key
        self._anew = anew
        self._since = scope.writes
        self.found = None if anew else scope.find(key)
        if self.found is None:
            scope.asked(key)

    def remember(self, result: R) -> R | Called:
        """The read has ended. Returns what the reader is given."""
        if not isinstance(result, Called):
            return result
        return self._scope.remember(self._key, result, since=self._since, anew=self._anew)


def scope_of(engine: Engine) -> Scope | None:
    """The open scope around whatever runs here, also around a computation."""
    inside = gathering.get()
    return None if inside is None or inside.request is None else inside.request.of(engine)


def reading_of(engine: Engine, key: str, *, anew: bool) -> Reading | None:
    """A key is about to be read. ``None`` outside of a request, and inside of a computation, which is for everybody."""
    inside = gathering.get()
    if not isinstance(inside, Scope):
        return None
    scope = inside.of(engine)
    inside.doubt(engine)
    if scope is None:
        gathering.set(inside.outlived())  # what goes on after its request is slowed down no longer
        return None
    return Reading(scope, key, anew=anew)


class RequestScope:
    """The block of one request: ``with cache.request():`` or ``async with cache.request():``.

    Inside of another one of the same cache it is part of that, and inside of a cached function's computation it does nothing.
    """

    def __init__(self, engine: Engine, *, least: Stamp | None = None) -> None:
        self._engine = engine
        self._least = least
        self._is_used = False
        self._scope: Scope | None = None
        self._token: Token[Gathering | None] | None = None

    @property
    def consumed(self) -> Consumed | None:
        """What the request was answered from, inside of another one that one; ``None`` before it has begun."""
        scope = self._scope or (scope_of(self._engine) if self._is_used else None)
        return None if scope is None else scope.consumed

    def let_go(self) -> None:
        """The answer was made: whatever goes on in the block reads as if there were none."""
        if self._scope is not None:
            self._scope.close()

    def __enter__(self) -> RequestScope:
        """Raises ``RuntimeError`` the second time."""
        if self._is_used:
            raise RuntimeError("a request scope is one block; ask cache.request() for the next")
        self._is_used = True
        inside = gathering.get()
        is_answer = inside is not None and inside.has_request
        is_computation = inside is not None and not isinstance(inside, Scope) and not is_answer
        if is_answer or (not is_computation and (self._least is not None or scope_of(self._engine) is None)):
            outer = inside if isinstance(inside, Scope) and inside.is_open else None
            self._scope = Scope(self._engine, outer, least=self._least, part_of=inside if is_answer else None)
            self._token = gathering.set(self._scope)
        return self

    def __exit__(self, *_: object) -> None:
        if self._scope is None or self._token is None:
            return
        self._scope.close()
        with suppress(ValueError):  # it ends in another context than it began in, as generators of frameworks do
            gathering.reset(self._token)

    async def __aenter__(self) -> RequestScope:
        return self.__enter__()

    async def __aexit__(self, *problem: Any) -> None:
        self.__exit__(*problem)
