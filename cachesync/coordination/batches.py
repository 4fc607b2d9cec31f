"""Batches: the two worlds, with what several keys of one batch ask at once.

The flights of a batch are claimed in one piece, and those that nobody leads yet are led together: one thread or task, one call of the
function. They land one by one, each as soon as its own value is there, so that nobody waits for a key longer than for that key. What
others lead is waited for last, when nothing of this batch is under way any more.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast

from cachesync.coordination.engine import Arrival, Engine
from cachesync.coordination.flights import Flight, begin_waiting, end_waiting, would_wait_for_itself
from cachesync.coordination.gathering import Gathering, gathering
from cachesync.coordination.threads import Starting
from cachesync.coordination.waiters import LoopWaiter, Waiter
from cachesync.coordination.watching import UNWATCHED, watch_of_many
from cachesync.coordination.worlds import COMPUTING, LoopWorld, ThreadWorld, World, computing, failure_of, result_of, until_of
from cachesync.core.flows import Result
from cachesync.core.steps import NO_DEADLINE, Await, Awaits, Call, Calls, Failed, Join, Joins, Overdue, Release, Step, Waited
from cachesync.core.together import together

Outcome = Result | Overdue


class Many(Protocol):
    """A function of many arguments, as an `Ask` carries it: ``many`` is given a row of parameter values for each key."""

    def many(self, rows: Sequence[tuple[Any, ...]], /) -> Any:
        """The results in the order of the rows; in ``async def`` awaited."""
        ...


class Place(NamedTuple):
    """One key of a batch: its question, the flight that answers it, and where this process stood when it was asked."""

    join: Join
    flight: Flight
    arrival: Arrival
    is_own: bool


class _Batch:
    """What the two colours have in common: one batch in the making. ``left`` are the questions without an answer, by their place."""

    def __init__(self, world: World, joins: Sequence[Join]) -> None:
        self.world = world
        self.engine = world.engine
        self.outcomes: list[Outcome | None] = [None] * len(joins)
        self.left = dict(enumerate(joins))
        self.until = [until_of(join) for join in joins]
        self.places: dict[int, Place] = {}
        self.made: list[Flight] = []

    def claim(self) -> list[Place]:
        """Join the flights of all that is left, in one piece. Returns those that nobody led yet."""
        engine, self.places, self.made = self.engine, {}, []
        with engine.lock:
            for i, join in self.left.items():
                mine = engine.flight(join.ask)
                self.made.append(mine)
                flight, arrival = engine.join(mine, alone=join.alone)
                self.places[i] = Place(join, flight, arrival, flight is mine)
            led = [place for place in self.places.values() if place.is_own]
            crew = tuple(place.flight for place in led)
            for flight in crew:
                flight.crew, flight.awaits = crew, crew[0].awaits
        return led

    def tangled(self, inside: frozenset[Flight], thread: int | None = None) -> list[int]:
        """What can not be waited for: it is computed further up, or by somebody who waits for that. ``thread`` is the caller's."""
        others = [(i, place.flight) for i, place in self.places.items() if not place.is_own]
        return [i for i, flight in others if (thread is not None and flight.thread == thread) or would_wait_for_itself(inside, flight)]

    def take(self, indexes: Iterable[int]) -> list[int]:
        """These questions are answered in another way, which takes its time: nobody waits for their flights."""
        taken = list(indexes)
        for i in taken:
            place = self.places.pop(i, None)
            if place is not None:
                self.world.leave(place.flight)
            del self.left[i]
        if taken:
            self.left = {i: join._replace(late=True) for i, join in self.left.items()}
        return taken

    def calls(self, taken: Sequence[int], joins: Sequence[Join]) -> Calls:
        return Calls(tuple(Call(joins[i].ask) for i in taken))

    def settle(self, i: int, place: Place, outcome: Outcome | None) -> None:
        """What a flight has brought. What is not for this caller is asked for anew."""
        if outcome is None:
            self.world.pass_over(place.flight)
        elif not isinstance(outcome, Overdue) and not place.is_own:
            outcome = self.world.share(place.join.ask, outcome, place.flight, place.arrival)
        if outcome is None:
            self.left[i] = place.join._replace(late=True)
        else:
            self.outcomes[i] = outcome
            del self.left[i]

    def leave(self) -> list[Flight]:
        """Wait for nothing any more. Returns flights that nobody waits for now."""
        places, self.places = self.places, {}
        return [place.flight for place in places.values() if self.world.leave(place.flight)]

    def give_up(self, error: BaseException) -> None:
        """It was interrupted before its flights were led: nobody leads them, and nobody waits for the others."""
        for flight in self.made:
            self.world.land(flight, Failed(error))
        self.leave()

    def answers(self) -> tuple[Outcome, ...]:
        return tuple(cast("list[Outcome]", self.outcomes))


def _leading(world: World, place: Place) -> Generator[Step, Any, None]:
    """One key of a batch. An earlier flight may have brought a copy between this caller's looking and its joining."""
    outcome: Result = world.brought(place.join) or (yield from world.filling(place.join, place.flight))
    world.end(place.join.ask, place.flight, outcome)


def _releases(engine: Engine, led: Sequence[Place]) -> list[Release]:
    return [release for place in led for release in engine.take_forsaken(place.flight.token)]


def _begin(engine: Engine, step: Calls) -> tuple[Many, list[tuple[Any, ...]], Gathering]:
    asks = [call.ask for call in step.calls]
    for ask in asks:
        ask.site.counts.computed += 1
    return cast("Many", asks[0].call), [ask.values for ask in asks], Gathering(engine, asks[0].least)


def _failed(engine: Engine, step: Calls, error: BaseException, began: float) -> tuple[Result, ...]:
    for call in step.calls:
        call.ask.site.counts.failed += 1
    return (failure_of(error, engine.now() - began, of_several=len(step.calls) > 1),) * len(step.calls)


def _called(engine: Engine, step: Calls, values: Sequence[Any], began: float, found: Gathering) -> tuple[Result, ...]:
    """The results, each with its own lifetime and tags. What the function has read on the way, all of them are made of."""
    return tuple(engine.called(call.ask, value, began, found) for call, value in zip(step.calls, values, strict=True))


E = TypeVar("E", bound=Waiter)


class _Waiter(Generic[E]):
    """Whoever waits for one lease of several: all of a batch are woken by one ``event``. ``since`` is when the wait began (seconds,
    ``time.monotonic``), infinite while nobody waits.
    """

    __slots__ = ("event", "is_woken", "since")

    def __init__(self, event: E) -> None:
        self.event: E = event
        self.is_woken = False
        self.since = NO_DEADLINE

    def set(self) -> None:
        """Its lease has ended, or may have."""
        self.is_woken = True
        self.event.set()


class _Waiting(Generic[E]):
    """One wait for several leases. Only those look again whose own lease has ended, or who have waited for long: a thousand keys that
    end one by one would be asked for half a million times otherwise.
    """

    def __init__(self, world: World, step: Awaits, make: Callable[[], E]) -> None:
        self._world = world
        self._awaits = step.awaits
        waiters, made = world.engine.waiters, make()
        self._waiters: list[_Waiter[E]] = [waiters.join(one.key, one.token, lambda: _Waiter(made)) for one in step.awaits]
        self.event: E = self._waiters[0].event  # all of a batch have come so far when the first of them waits
        now = time.monotonic()
        for waiter in self._waiters:
            waiter.since = min(waiter.since, now)

    def _is_due(self, waiter: _Waiter[E], one: Await, now: float) -> bool:
        return waiter.is_woken or now >= waiter.since + self._world.patience(one)

    def left(self) -> float:
        """Seconds until the first has waited for long."""
        due = min(waiter.since + self._world.patience(one) for waiter, one in zip(self._waiters, self._awaits, strict=True))
        return max(0.0, due - time.monotonic())

    def over(self) -> tuple[Waited | None, ...]:
        """Who looks again."""
        now = time.monotonic()
        answers: list[Waited | None] = []
        for waiter, one in zip(self._waiters, self._awaits, strict=True):
            due = self._is_due(waiter, one, now)
            if due:
                waiter.is_woken, waiter.since = False, NO_DEADLINE
            answers.append(self._world.waited(one) if due else None)
        return tuple(answers)


class ThreadBatches(ThreadWorld):
    """The world of a thread."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, {Calls: self.calls, Joins: self.joins, Awaits: self.awaits})

    def calls(self, step: Calls) -> tuple[Result, ...]:
        engine, events = self.engine, self.engine.events
        began = engine.now()
        function, rows, found = _begin(engine, step)
        outer = gathering.set(found)
        try:
            with watch_of_many(events, [call.ask for call in step.calls]) if events.watchers else UNWATCHED:
                values = function.many(rows)
        except BaseException as error:
            return _failed(engine, step, error, began)
        finally:
            gathering.reset(outer)
        return _called(engine, step, values, began, found)

    def joins(self, step: Joins) -> tuple[Outcome, ...]:
        batch = _Batch(self, step.joins)
        self._call_directly(batch, step, [i for i, join in batch.left.items() if self.calls_directly(join)])
        while batch.left:
            try:
                led = batch.claim()
                if all(place.join.patience is None for place in led):
                    self._lead_all(led)
                else:
                    self._lead_all_behind(led)
            except BaseException as error:  # interrupted here, where an exception may come at any moment
                batch.give_up(error)
                raise
            mine, inside = threading.get_ident(), computing.get()
            self._call_directly(batch, step, batch.tangled(inside, mine))
            try:
                for i, place in list(batch.places.items()):
                    if i not in batch.places:
                        continue  # it was called directly
                    if not place.is_own and not begin_waiting(inside, place.flight):
                        self._call_directly(batch, step, {i, *batch.tangled(inside, mine)})
                        continue
                    place.join.ask.site.counts.joined += not place.is_own
                    try:
                        outcome = result_of(place.flight, batch.until[i])
                    finally:
                        if not place.is_own:
                            end_waiting(inside, place.flight)
                    del batch.places[i]
                    if isinstance(outcome, Overdue):
                        self.leave_overdue(place.flight)
                    batch.settle(i, place, outcome)
            except BaseException:
                batch.leave()
                raise
        return batch.answers()

    def _call_directly(self, batch: _Batch, step: Joins, indexes: Iterable[int]) -> None:
        """What this thread computes itself, further up, or replaces, or who waits for that: waiting for it would never end."""
        taken = batch.take(indexes)
        if taken:
            for i, result in zip(taken, self.calls(batch.calls(taken, step.joins)), strict=True):
                batch.outcomes[i] = result

    def _lead_all(self, led: Sequence[Place]) -> None:
        """Compute what nobody computes yet, here."""
        if not led:
            return
        for place in led:
            place.flight.thread = threading.get_ident()
        inside = computing.set(computing.get() | {place.flight for place in led})
        try:
            self.run(together([_leading(self, place) for place in led]))
        except BaseException as error:  # outside of the user's function: interrupted while waiting for a lease
            for place in led:
                self.land(place.flight, Failed(error))
            for release in _releases(self.engine, led):
                self.ask_shared(release)
        finally:
            computing.reset(inside)

    def _lead_all_behind(self, led: Sequence[Place]) -> None:
        """The same in a thread of its own, so that its caller need not wait to the end; here, where the system has no thread to give."""
        context = contextvars.copy_context()
        for place in led:
            place.flight.thread = None
        with Starting(self.engine.events, COMPUTING):
            threading.Thread(target=context.run, args=(self._lead_all, led), name=COMPUTING, daemon=True).start()
            return
        self._lead_all(led)

    def awaits(self, step: Awaits) -> tuple[Waited | None, ...]:
        waiting = _Waiting(self, step, threading.Event)
        waiting.event.wait(waiting.left())
        waiting.event.clear()
        return waiting.over()


class LoopBatches(LoopWorld):
    """The world of an event loop."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, {Calls: self.calls, Joins: self.joins, Awaits: self.awaits})

    async def calls(self, step: Calls) -> tuple[Result, ...]:
        engine, events = self.engine, self.engine.events
        began = engine.now()
        function, rows, found = _begin(engine, step)
        outer = gathering.set(found)
        try:
            with watch_of_many(events, [call.ask for call in step.calls]) if events.watchers else UNWATCHED:
                values = await function.many(rows)
        except BaseException as error:
            return _failed(engine, step, error, began)
        finally:
            gathering.reset(outer)
        return _called(engine, step, values, began, found)

    async def joins(self, step: Joins) -> tuple[Outcome, ...]:
        batch = _Batch(self, step.joins)
        await self._call_directly(batch, step, [i for i, join in batch.left.items() if self.calls_directly(join)])
        while batch.left:
            led = batch.claim()
            try:
                self._lead_in_task(led)
            except BaseException:  # no event loop runs: the coroutine is driven by hand
                batch.give_up(asyncio.CancelledError())
                raise
            try:
                inside = computing.get()
                await self._call_directly(batch, step, batch.tangled(inside))
                for i, place in list(batch.places.items()):
                    if i not in batch.places:
                        continue  # it was called directly
                    if not place.is_own and not begin_waiting(inside, place.flight):
                        await self._call_directly(batch, step, {i, *batch.tangled(inside)})
                        continue
                    place.join.ask.site.counts.joined += not place.is_own
                    del batch.places[i]  # who is cancelled while waiting has left it
                    try:
                        outcome = await self.wait(place.flight, batch.until[i])
                    finally:
                        if not place.is_own:
                            end_waiting(inside, place.flight)
                    batch.settle(i, place, outcome)
            except BaseException:
                for flight in batch.leave():
                    self.cancel(flight)  # nobody is left who wants the result
                raise
        return batch.answers()

    async def _call_directly(self, batch: _Batch, step: Joins, indexes: Iterable[int]) -> None:
        """What this task computes itself, further up, or replaces, or who waits for that: waiting for it would never end."""
        taken = batch.take(indexes)
        if taken:
            for i, result in zip(taken, await self.calls(batch.calls(taken, step.joins)), strict=True):
                batch.outcomes[i] = result

    def _lead_in_task(self, led: Sequence[Place]) -> None:
        """Compute what nobody computes yet, in a task of its own, so that a caller who is cancelled takes the result from nobody else."""
        if not led:
            return
        task = self.engine.tasks.start(self._lead_all(led), [place.flight for place in led])
        for place in led:
            place.flight.task = task
            task.add_done_callback(partial(self.land_if_left, place.flight))

    async def _lead_all(self, led: Sequence[Place]) -> None:
        computing.set(computing.get() | {place.flight for place in led})
        try:
            await self.run(together([_leading(self, place) for place in led]))
        except BaseException as error:  # outside of the user's function: cancelled while waiting for a lease
            with suppress(asyncio.CancelledError):
                for release in _releases(self.engine, led):
                    await self.ask_shared(release)
            for place in led:
                self.end(place.join.ask, place.flight, Failed(error))

    async def awaits(self, step: Awaits) -> tuple[Waited | None, ...]:
        waiting = _Waiting(self, step, LoopWaiter)
        await waiting.event.wait(waiting.left())
        return waiting.over()
