"""Flights: a computation under way, and those who wait for it in this process.

Threads and tasks of any loop may wait for the same flight. An invalidation that matches detaches it: whoever comes later starts a
flight of their own, because what the old one brings may be from before the invalidation.

A computation may itself wait for another flight. Two that wait for each other would do so for ever, so it is noted which flight waits
for which, of all caches of the process, and nobody begins a wait that would close a circle.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future

from cachesync.coordination.waiters import LoopWaiter
from cachesync.core.entry import Dependency
from cachesync.core.flows import Result
from cachesync.core.records import Targets
from cachesync.core.steps import NO_DEADLINE
from cachesync.core.tickets import matches
from cachesync.layers.forks import lock_across_forks


class Flight:
    """One computation. ``thread`` is where it runs, ``task`` the task that runs it if it is ``async``, ``token`` its lease's.

    ``pends`` is how many invalidations this process had made when it began. ``limit`` is the longest it may take (seconds, monotonic
    clock of the engine): nobody joins it after that. ``crew`` are the flights of one batch, itself included: one call computes for all.

    ``awaits`` are the flights that its computation waits for now, one list for all of a crew; ``awaited`` is how many computations
    wait for this one. ``is_overdue``: somebody has waited for it as long as his policy lets him, and has left it to come to its end.

    ``waiters`` are woken in their event loops when it has landed. Who waits no more takes his away: it may take for ever.
    """

    __slots__ = (
        "awaited",
        "awaits",
        "crew",
        "dependencies",
        "is_overdue",
        "key",
        "limit",
        "outcome",
        "pends",
        "task",
        "thread",
        "token",
        "waiters",
        "waiting",
    )

    def __init__(self, key: str, dependencies: tuple[Dependency, ...], token: str, limit: float = NO_DEADLINE) -> None:
        self.limit = limit
        self.key = key
        self.dependencies = dependencies
        self.token = token
        self.thread: int | None = threading.get_ident()
        self.task: asyncio.Task[None] | None = None
        self.pends = 0
        self.waiting = 0
        self.waiters: set[LoopWaiter] = set()
        self.is_overdue = False
        self.crew: tuple[Flight, ...] = ()
        self.awaits: list[Flight] = []
        self.awaited = 0
        self.outcome: Future[Result] = Future()
        self.outcome.set_running_or_notify_cancel()  # from here on nobody who waits can cancel it for the others

    @property
    def is_waited_for(self) -> bool:
        """Whether somebody waits for what it will bring."""
        return self.waiting > 0 and not self.outcome.done()

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for what it will bring, or has left it to be stored."""
        return (self.waiting > 0 or self.is_overdue) and not self.outcome.done()

    def runs_beside(self) -> bool:
        """Whether its task runs in the event loop that asks, or it has none: then it can not be paused while this loop waits for it."""
        return self.task is None or self.task.get_loop() is asyncio.get_running_loop()

    def is_paused(self) -> bool:
        """Whether nothing goes on in it, because the event loop of its task does not run now."""
        return self.task is not None and not self.task.get_loop().is_running()


waiting_lock = lock_across_forks()
"""Guards who waits for whom, in all caches of the process."""


def would_wait_for_itself(inside: AbstractSet[Flight], flight: Flight) -> bool:
    """Whether a flight waits, itself or through others, for a computation that somebody is ``inside`` of."""
    if not inside:
        return False
    with waiting_lock:
        left, seen = [flight], set[int]()
        while left:
            one = left.pop()
            if one in inside:
                return True
            if id(one.awaits) not in seen and not one.outcome.done():
                seen.add(id(one.awaits))
                left += one.awaits
        return False


def begin_waiting(inside: AbstractSet[Flight], flight: Flight) -> bool:
    """Whoever is ``inside`` of these computations waits for a flight from now on. False, and nothing is noted, if it would be for ever."""
    if not inside:
        return True
    with waiting_lock:
        if would_wait_for_itself(inside, flight):
            return False
        for awaits in _lists(inside):
            awaits.append(flight)
        flight.awaited += 1
        return True


def end_waiting(inside: AbstractSet[Flight], flight: Flight) -> None:
    """He waits no more."""
    if not inside:
        return
    with waiting_lock:
        for awaits in _lists(inside):
            awaits.remove(flight)
        flight.awaited -= 1


def _lists(inside: AbstractSet[Flight]) -> list[list[Flight]]:
    return list({id(one.awaits): one.awaits for one in inside}.values())


class Flights:
    """The flights of one process, by key. Not thread-safe: the engine's lock is held around every method."""

    def __init__(self) -> None:
        self._flights: dict[str, Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def join(self, mine: Flight, now: float) -> Flight:
        """The flight of this key: ``mine`` if there was none that may go on, and then its maker leads it."""
        standing = self._flights.get(mine.key)
        if standing is not None and now >= standing.limit:
            del self._flights[mine.key]
        flight = self._flights.setdefault(mine.key, mine)
        flight.waiting += 1
        return flight

    def land(self, flight: Flight) -> None:
        """Nobody joins this flight any more."""
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    def detach(self, targets: Sequence[Targets]) -> list[Flight]:
        """Nobody joins a flight that one of ``targets`` matches any more. Returns those flights."""
        detached = [f for f in self._flights.values() if any(matches(one, f.key, f.dependencies) for one in targets)]
        for flight in detached:
            del self._flights[flight.key]
        return detached

    def part(self, is_apart: Callable[[Flight], bool]) -> list[Flight]:
        """Nobody joins these flights any more. Returns them."""
        parted = [flight for flight in self._flights.values() if is_apart(flight)]
        for flight in parted:
            del self._flights[flight.key]
        return parted

    def clear(self) -> list[Flight]:
        """Nobody joins any of today's flights. Returns them."""
        flights = list(self._flights.values())
        self._flights.clear()
        return flights
