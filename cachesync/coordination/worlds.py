"""The two worlds a flow may run in: a thread, or a task of an event loop.

Only the steps that wait are answered here: the shared layer, the user's function, joining a flight, running several flows, waiting.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, cast

from cachesync.coordination.drivers import arun, run
from cachesync.coordination.engine import Arrival, Engine, HeldLease
from cachesync.coordination.flights import Flight, begin_waiting, end_waiting
from cachesync.coordination.following import Follower
from cachesync.coordination.gathering import Gathering, gathering
from cachesync.coordination.replacing import is_in_block, is_replacing
from cachesync.coordination.threads import Starting
from cachesync.coordination.waiters import LoopWaiter
from cachesync.coordination.watching import watched_acall, watched_call
from cachesync.core.flows import LONGEST_WAIT, Ask, Result, calling, fill
from cachesync.core.steps import (
    NO_DEADLINE,
    Announce,
    Await,
    Beat,
    Call,
    Called,
    Discard,
    Done,
    Each,
    Extend,
    Failed,
    Fetch,
    Fetched,
    Flow,
    Hear,
    Heard,
    Join,
    Joined,
    Lease,
    Leased,
    Overdue,
    Release,
    Replies,
    Reply,
    Scan,
    Seize,
    SharedStep,
    Step,
    Store,
    Ticket,
    Together,
    Waited,
)
from cachesync.errors import LayerError
from cachesync.layers.redis_line import OutOfTimeError
from cachesync.protocols import AsyncSharedLayer

computing: ContextVar[frozenset[Flight]] = ContextVar("cachesync_computing", default=frozenset())
"""The flights that this task or thread is inside of: to wait for one of them would be to wait for oneself.

Threads and tasks that a computation starts inherit it with their context; a flight that has landed is never joined again, so what
stands here too long does no harm.
"""


def raised(step: SharedStep | Hear, error: Exception) -> Failed:
    """The reply of a layer that raises, which no layer may: a mistake in one that was plugged in costs its callers no more than trouble."""
    problem = LayerError(f"the shared layer, {step.__class__.__name__.lower()}: it raised {error!r}")
    problem.__cause__ = error
    return Failed(problem)


COMPUTING: Final = "cachesync-compute"
"""The name of the threads that compute while their callers wait no longer than they have to."""
NOWHERE_INSIDE: Final[frozenset[Flight]] = frozenset()
NO_OTHERS: Final[Mapping[type, Callable[[Any], Any]]] = {}
_LEASING: Final = (Lease, Seize)
_OF_HOLDERS: Final = frozenset((Store, Release, Extend))
_OF_ENTRIES: Final = frozenset((Store, Release, Extend, Scan, Discard))
"""Steps that a cluster asks the node of the log nothing for. A read that says where its process stands is another."""
_OF_ASKS: Final = frozenset((Store, Release))
LEFT_ALONE: Final = Failed(LayerError("it does not answer, and is left alone for a while"))
DEAF_WAIT: Final = 0.02
"""Seconds between two looks at another one's lease where no ear hears it end."""
EXTEND_AT: Final = 1 / 3
"""A lease is extended when this share of its life is over."""


class World:
    """What the two have in common: noting what a reply of the shared layer says besides its answer."""

    asks_always = False
    """Whether the steps are those of the log's reader, or of a check, who ask a shared layer that everybody else leaves alone."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.here: Mapping[type, Callable[[Any], Any]] = {**engine.here, **Follower(engine).here}

    def note(self, step: SharedStep, asked: float, reply: Reply) -> Reply:
        """Take from a reply what it says besides its answer: that the layer works, that the log is heard, that a lease is held."""
        breaker = self.engine.breaker
        if reply.__class__ is Fetched and not breaker.is_open and breaker.refused is None:  # the commonest
            return reply
        self._judge(asked, ((step, reply),))
        return self._take(step, asked, reply)

    def _judge(self, asked: float, trip: Iterable[tuple[SharedStep, Reply]]) -> None:
        """Settle once for a whole trip whether the layer works. Each trouble is told once, however many steps it has met.

        A trip that something was answered in is no outage. Steps that concern entries alone do not count there: of several servers that
        of the log may be another one, and without it the rest is of no use.
        """
        engine, breaker = self.engine, self.engine.breaker
        troubles: dict[tuple[str | None, bool, bool], tuple[SharedStep, Failed]] = {}
        answered: set[type] = set()
        works = False
        for step, reply in trip:
            if isinstance(reply, Failed):
                error = reply.error
                is_late = asked >= step.deadline or isinstance(error.__cause__, OutOfTimeError)
                troubles.setdefault((getattr(error, "part", None), getattr(error, "is_refusal", False), is_late), (step, reply))
            else:
                answered.add(step.__class__)
                works = works or not (step.__class__ in _OF_ENTRIES or getattr(step, "stands", None))
        if (breaker.is_open and works and asked >= breaker.failed_at) or (breaker.refused in answered and not troubles):
            engine.answered()
        for (_, _, is_late), (step, failed) in troubles.items():
            engine.failed(step, failed, is_outage=not works, is_late=is_late)

    def _take(self, step: SharedStep, asked: float, reply: Reply) -> Reply:
        engine = self.engine
        if isinstance(reply, Failed):
            if isinstance(step, _LEASING):
                engine.forsake(step.token)  # it may have been granted all the same
            return reply
        if isinstance(reply, Beat | Joined):
            return reply._replace(asked=asked)
        if isinstance(step, _LEASING):
            if cast("Leased", reply).granted:
                due = engine.now() + step.milliseconds / 1000 * EXTEND_AT
                engine.leases[step.token] = HeldLease(step.key, due, self.loop())
            else:
                engine.leases.pop(step.token, None)
        elif isinstance(step, Store | Release):
            engine.leases.pop(step.token, None)
            engine.sending.pop(step.token, None)
        return reply

    def unasked(self, step: SharedStep) -> Reply | None:
        """The reply to a step that the shared layer is not asked: because it is left alone, or because the step is about a lease that
        the parent of this process has taken, which a forked child may not end, or says what was made under a policy that is no more.
        """
        if step.__class__ in _OF_HOLDERS and not cast("Store", step).token.startswith(self.engine.origin):
            return Done(done=False)
        if self.engine.breaker.leaves_alone and not self.asks_always:
            return LEFT_ALONE
        if step.__class__ in _OF_ASKS and cast("Store", step).ask is not None and not self.engine.sends(cast("Store", step)):
            return Done(done=False)
        return None

    def asked_of(self, step: Together) -> tuple[Together, list[Reply | None]]:
        """Those of several steps that the shared layer is asked, and the replies to the others (``None`` for what is asked)."""
        unasked = [self.unasked(one) for one in step.steps]
        return step._replace(steps=tuple(one for one, reply in zip(step.steps, unasked, strict=True) if reply is None)), unasked

    def note_all(self, step: Together, asked: float, reply: Reply, unasked: list[Reply | None]) -> Replies:
        """As `note` for several steps that have travelled together, and the replies to all of them."""
        own = reply.replies if isinstance(reply, Replies) else (cast("Failed", reply),) * len(step.steps)
        said: list[tuple[SharedStep, Reply]] = list(zip(step.steps, own, strict=True))
        self._judge(asked, said)
        answers: Any = iter([self._take(one, asked, answer) for one, answer in said])
        return Replies(tuple(next(answers) if reply is None else reply for reply in unasked))

    def offered(self, step: SharedStep) -> SharedStep:
        """A read as it is sent: with the position of this process, where the layer would need another trip for the head of the log."""
        engine = self.engine
        if engine.splits and isinstance(step, Fetch) and not step.strict:
            return step._replace(stands=engine.stands())
        return step

    def ask(self, step: SharedStep) -> float:
        """A step is about to be sent: the time. A lease is noted before it is known to be granted, so that it is never forgotten."""
        if isinstance(step, _LEASING):
            self.engine.leases[step.token] = HeldLease(step.key, NO_DEADLINE, None)
        return self.engine.now()

    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that the steps are performed in."""
        return None

    def patience(self, step: Await) -> float:
        """How long to wait for a lease to end before looking again: not long where nobody hears that it does."""
        return step.seconds if self.engine.waiters.ear is not None else min(step.seconds, DEAF_WAIT)

    def waited(self, step: Await) -> Waited:
        """The lease of a block in this process (`Cache.update`) is not waited for long: the block may wait for this thread. Where a
        computation waits for what it is wanted for, no lease is waited for longer than it lives without its holder: the holder may wait
        for that computation. No lease is waited for where the shared layer has been switched off meanwhile.
        """
        engine = self.engine
        alone = not engine.switches.redis or (step.seconds >= LONGEST_WAIT and engine.is_replaced(step.key))
        if not alone and engine.waiters.seconds(step.token) >= engine.settings.coordination.lease:
            alone = self.is_awaited(step.token)
        return Waited(engine.now(), alone)

    def is_awaited(self, token: str) -> bool:
        """Whether a computation or a block waits for the one that this lease is wanted for. To be asked by whoever wants it."""
        inside = computing.get()
        mine = next((flight for flight in inside if flight.token == token), None)
        if is_in_block() or (mine is not None and mine.awaited > 0):
            return True
        crew: set[Flight] = set() if mine is None else {mine, *mine.crew}
        return any(flight not in crew and not flight.outcome.done() for flight in inside)

    def calls_directly(self, step: Join) -> bool:
        """Whether a function is called where it is asked for: in the block that replaces its value, or by itself where nobody joins it."""
        key = step.ask.key
        return is_replacing(self.engine, key) or (step.alone and any(flight.key == key for flight in computing.get()))

    def brought(self, step: Join) -> Called | None:
        """A copy that an earlier flight has brought meanwhile."""
        called = None if step.anew or step.alone else self.engine.at_hand(step.ask, only_fresh=True)
        return None if called is None or (step.early and called.is_due) else called

    def filling(self, step: Join, flight: Flight) -> Flow:
        engine, ask = self.engine, step.ask
        if step.alone:
            return (yield from calling(ask))
        if step.late:
            ask = ask._replace(deadline=engine.now() + ask.budget)
        engine.limits[flight.token] = flight.limit
        try:
            return (yield from fill(ask, token=flight.token, shared=step.shared and engine.uses_shared(), dead=step.dead, early=step.early))
        finally:
            engine.limits.pop(flight.token, None)
            engine.waiters.leave(ask.key, flight.token)
            engine.forsake(flight.token)

    def interrupted(self, step: SharedStep) -> None:
        """A step was interrupted, and nobody knows whether it happened: what it may have left behind is put in order later."""
        if isinstance(step, Announce):
            self.engine.leave(Ticket(step.targets, step.nonces, step.origin, None, step.again))

    def share(self, ask: Ask, outcome: Result, flight: Flight, arrival: Arrival) -> Result | None:
        """What of a flight's outcome is for somebody who joined it, ``None`` for nothing."""
        if isinstance(outcome, Failed):
            return outcome if was_meant(outcome) else None
        return self.engine.share(ask, outcome, flight, arrival)

    def land(self, flight: Flight, outcome: Result) -> None:
        """The computation is over: whoever waits is told, and nobody joins it any more."""
        with self.engine.lock:
            if not flight.outcome.done():
                flight.outcome.set_result(outcome)
                for waiter in tuple(flight.waiters):
                    waiter.set()
            self.engine.flights.land(flight)

    def end(self, ask: Ask, flight: Flight, outcome: Result) -> None:
        """As `land`, and say so if it was left to come to its end, and was cancelled before."""
        is_cancelled = isinstance(outcome, Failed) and isinstance(outcome.error, asyncio.CancelledError) and not outcome.of_function
        is_dropped = flight.is_overdue and is_cancelled and not flight.outcome.done()
        self.land(flight, outcome)
        if is_dropped:
            self.engine.events.send("refresh_dropped", ask.site.name, key=ask.key, policy=ask.policy.name)

    def pass_over(self, flight: Flight) -> None:
        """A flight does not go on, because its event loop stands still: it is joined no more, and its lease lapses."""
        with self.engine.lock:
            self.engine.flights.land(flight)

    def leave(self, flight: Flight) -> bool:
        """Wait for a flight no longer. True if nobody wants it, nor what is computed together with it."""
        with self.engine.lock:
            flight.waiting -= 1
            return not any(one.is_wanted for one in flight.crew or (flight,))

    def leave_overdue(self, flight: Flight) -> None:
        """Wait for a flight no longer, which goes on: what it brings is stored."""
        with self.engine.lock:
            flight.is_overdue = True
            flight.waiting -= 1


LOOK_AGAIN: Final = 1.0
"""Seconds after which whoever waits for a flight looks whether it still goes on."""


def result_of(flight: Flight, until: float) -> Result | Overdue | None:
    """Wait for a flight to land, but not longer than ``until`` (seconds, ``time.monotonic``); ``None`` where it does not go on.

    It looks again every second: whoever landed it may have been interrupted before it told.
    """
    while not flight.is_paused():
        left = until - time.monotonic()
        with suppress(TimeoutError):
            return flight.outcome.result(timeout=max(0.0, min(LOOK_AGAIN, left)))
        if left <= LOOK_AGAIN:
            return Overdue()
    return None


def until_of(step: Join) -> float:
    """Until when somebody waits for a flight: seconds, ``time.monotonic``."""
    return NO_DEADLINE if step.patience is None else time.monotonic() + step.patience


def was_meant(outcome: Result) -> bool:
    """Whether an outcome is for whoever joined, too: not where the one who computed was interrupted or cancelled."""
    return not (isinstance(outcome, Failed) and not isinstance(outcome.error, Exception))


def failure_of(error: BaseException, seconds: float, *, of_several: bool = False) -> Failed:
    """What a function has ended with. It may await something that is cancelled while nobody cancels the task that it runs in."""
    return Failed(error, seconds, of_several, of_function=isinstance(error, asyncio.CancelledError) and not _is_cancelled())


def _is_cancelled() -> bool:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # in a thread
        return False
    return task is not None and task.cancelling() > 0


class ThreadWorld(World):
    """Steps for ``def``."""

    def __init__(self, engine: Engine, others: Mapping[type, Callable[[Any], Any]] = NO_OTHERS) -> None:
        super().__init__(engine)
        self._handlers: dict[type, Callable[[Any], Any]] = {
            **self.here,
            **others,
            Call: self._call,
            Join: self._join,
            Each: self._each,
            Await: self._await,
            Together: self.ask_together,
        }

    def run(self, flow: Flow) -> Any:
        return run(flow, self.perform)

    def perform(self, step: Step) -> Any:
        handler = self._handlers.get(step.__class__)
        return self.ask_shared(cast("SharedStep", step)) if handler is None else handler(step)

    def ask_shared(self, step: SharedStep) -> Reply:
        unasked = self.unasked(step)
        if unasked is not None:
            return unasked
        step, asked = self.offered(step), self.ask(step)
        assert self.engine.shared is not None
        try:
            reply = self.engine.shared.sync.perform(step)
        except Exception as error:
            reply = raised(step, error)
        except BaseException:
            self.interrupted(step)
            raise
        return self.note(step, asked, reply)

    def ask_together(self, step: Together) -> Reply:
        own, unasked = self.asked_of(step)
        if not own.steps:
            return Replies(tuple(cast("list[Any]", unasked)))
        asked = max(map(self.ask, own.steps))
        assert self.engine.shared is not None
        try:
            reply = self.engine.shared.sync.perform(own)
        except Exception as error:
            reply = raised(own, error)
        except BaseException:
            for one in own.steps:
                self.interrupted(one)
            raise
        return self.note_all(own, asked, reply, unasked)

    def _each(self, step: Each) -> tuple[Any, ...]:
        results: list[Any] = []
        for flow in step.flows:
            result = self.run(flow)
            if isinstance(result, Failed) and not was_meant(result):
                raise result.error  # an interruption: the rest is not computed any more
            results.append(result)
        return tuple(results)

    def _await(self, step: Await) -> Waited:
        waiter = self.engine.waiters.join(step.key, step.token, threading.Event)
        waiter.wait(self.patience(step))
        waiter.clear()
        return self.waited(step)

    def resume(self, flow: Flow, reply: Reply | Heard) -> Any:
        """Go on with a flow whose first step was performed elsewhere."""
        return run(flow, self.perform, reply)

    def _call(self, step: Call) -> Result:
        ask, given, found = step
        began = self.engine.now()
        if given is not None:
            return self.engine.set(ask, given[0], began, found)
        ask.site.counts.computed += 1
        events, found = self.engine.events, Gathering(self.engine, ask.least)
        outer = gathering.set(found)
        try:
            value = (ask.call if not events.watchers else watched_call(events, ask))(*ask.values)
        except BaseException as error:  # a reply like any other: the flow gives the lease back, the door raises it
            ask.site.counts.failed += 1
            return failure_of(error, self.engine.now() - began)
        finally:
            gathering.reset(outer)
        return self.engine.called(ask, value, began, found)

    def _join(self, step: Join) -> Result | Overdue:
        engine, ask = self.engine, step.ask
        if self.calls_directly(step):
            return self._call(Call(ask))
        until = until_of(step)
        while True:
            mine = engine.flight(ask)
            try:
                flight, arrival = engine.join(mine, alone=step.alone)
                if flight is mine and step.patience is None:
                    return self._lead(step, mine)
                if flight is mine:
                    self._lead_behind(step, mine)
            except BaseException as error:  # interrupted here, where an exception may come at any moment
                self.land(mine, Failed(error))
                raise
            inside = computing.get() if flight is not mine else NOWHERE_INSIDE
            if flight is not mine:
                if flight.thread == threading.get_ident() or not begin_waiting(inside, flight):
                    self.leave(flight)
                    return self._call(Call(ask))  # it is, or waits for, what this thread computes further up: the wait would never end
                ask.site.counts.joined += 1
            try:
                outcome = result_of(flight, until)
            except BaseException:
                self.leave(flight)
                raise
            finally:
                end_waiting(inside, flight)
            if isinstance(outcome, Overdue):
                self.leave_overdue(flight)
                return outcome
            if flight is mine and outcome is not None:
                return outcome
            if outcome is None:
                self.pass_over(flight)
            elif (shared := self.share(ask, outcome, flight, arrival)) is not None:
                return shared
            step = step._replace(late=True)

    def _lead_behind(self, step: Join, flight: Flight) -> None:
        """Compute in a thread of its own, so that its caller need not wait to the end. The computation is part of the caller's context.

        Where the system has no thread to give it is computed here, however long that takes.
        """
        context = contextvars.copy_context()
        flight.thread = None
        with Starting(self.engine.events, COMPUTING):
            threading.Thread(target=context.run, args=(self._lead, step, flight), name=COMPUTING, daemon=True).start()
            return
        self._lead(step, flight)

    def _lead(self, step: Join, flight: Flight) -> Result:
        flight.thread = threading.get_ident()
        inside = computing.set(computing.get() | {flight})
        try:
            # An earlier flight may have brought a copy between this caller's looking and its joining.
            outcome: Result = self.brought(step) or self.run(self.filling(step, flight))
        except BaseException as error:  # outside of the user's function: interrupted while waiting for a lease
            outcome = Failed(error)
            for release in self.engine.take_forsaken(flight.token):
                self.ask_shared(release)
        finally:
            computing.reset(inside)
        self.land(flight, outcome)
        return outcome


class LoopWorld(World):
    """Steps for ``async def``, in whichever loop is running."""

    def __init__(self, engine: Engine, others: Mapping[type, Callable[[Any], Awaitable[Any]]] = NO_OTHERS) -> None:
        super().__init__(engine)
        self._waiting: dict[type, Callable[[Any], Awaitable[Any]]] = {
            **others,
            Call: self._call,
            Join: self._join,
            Each: self._each,
            Await: self._await,
            Together: self.ask_together,
        }

    def run(self, flow: Flow) -> Coroutine[Any, Any, Any]:
        return arun(flow, self.here, self.perform)

    def perform(self, step: Step) -> Awaitable[Any]:
        """Answer a step that waits."""
        waiting = self._waiting.get(step.__class__)
        return self.ask_shared(cast("SharedStep", step)) if waiting is None else waiting(step)

    async def ask_shared(self, step: SharedStep) -> Reply:
        unasked = self.unasked(step)
        if unasked is not None:
            return unasked
        step, asked = self.offered(step), self.ask(step)
        try:
            reply = await self.layer().perform(step)
        except Exception as error:
            reply = raised(step, error)
        except BaseException:
            self.interrupted(step)
            raise
        return self.note(step, asked, reply)

    async def ask_together(self, step: Together) -> Reply:
        own, unasked = self.asked_of(step)
        if not own.steps:
            return Replies(tuple(cast("list[Any]", unasked)))
        asked = max(map(self.ask, own.steps))
        try:
            reply = await self.layer().perform(own)
        except Exception as error:
            reply = raised(own, error)
        except BaseException:
            for one in own.steps:
                self.interrupted(one)
            raise
        return self.note_all(own, asked, reply, unasked)

    def loop(self) -> asyncio.AbstractEventLoop | None:
        try:
            return asyncio.get_running_loop()
        except RuntimeError:
            return None  # the coroutine is driven by hand, as a test may do

    def layer(self) -> AsyncSharedLayer:
        assert self.engine.shared is not None
        return self.engine.shared.of_loop()

    async def _each(self, step: Each) -> tuple[Any, ...]:
        return tuple(await asyncio.gather(*map(self.run, step.flows)))

    async def _await(self, step: Await) -> Waited:
        await self.engine.waiters.join(step.key, step.token, LoopWaiter).wait(self.patience(step))
        return self.waited(step)

    async def _call(self, step: Call) -> Result:
        ask, given, found = step
        began = self.engine.now()
        if given is not None:
            return self.engine.set(ask, given[0], began, found)
        ask.site.counts.computed += 1
        events, found = self.engine.events, Gathering(self.engine, ask.least)
        outer = gathering.set(found)
        try:
            value = await (ask.call if not events.watchers else watched_acall(events, ask))(*ask.values)
        except BaseException as error:  # a reply like any other: the flow gives the lease back, the door raises it
            ask.site.counts.failed += 1
            return failure_of(error, self.engine.now() - began)
        finally:
            gathering.reset(outer)
        return self.engine.called(ask, value, began, found)

    async def _join(self, step: Join) -> Result | Overdue:
        engine, ask = self.engine, step.ask
        if self.calls_directly(step):
            return await self._call(Call(ask))
        until = until_of(step)
        while True:
            mine = engine.flight(ask)
            flight, arrival = engine.join(mine, alone=step.alone)
            inside = computing.get() if flight is not mine else NOWHERE_INSIDE
            if flight is mine:
                # An earlier flight may have brought a copy between this caller's looking and its joining.
                called = self.brought(step)
                if called is not None:
                    self.land(mine, called)
                    return called
                try:
                    mine.task = engine.tasks.start(self._lead(step, mine), (mine,))
                except BaseException:  # no event loop runs: the coroutine is driven by hand
                    self.land_if_left(mine)
                    raise
                mine.task.add_done_callback(partial(self.land_if_left, mine))
            elif not begin_waiting(inside, flight):
                self.leave(flight)
                return await self._call(Call(ask))  # it is, or waits for, what this task computes further up: the wait would never end
            else:
                ask.site.counts.joined += 1
            try:
                outcome = await self.wait(flight, until)
            finally:
                end_waiting(inside, flight)
            if isinstance(outcome, Overdue):
                return outcome
            if flight is mine and outcome is not None:
                return outcome
            if outcome is None:
                self.pass_over(flight)
            elif (shared := self.share(ask, outcome, flight, arrival)) is not None:
                return shared
            step = step._replace(late=True)

    async def wait(self, flight: Flight, until: float) -> Result | Overdue | None:
        """Wait for a flight to land, but not longer than ``until``; ``None`` where it does not go on."""
        waiter = LoopWaiter()
        flight.waiters.add(waiter)
        try:
            while not flight.outcome.done():
                if not flight.runs_beside() and flight.is_paused():
                    return None
                left = until - time.monotonic()
                if left <= 0:
                    self.leave_overdue(flight)
                    return Overdue()
                looks_again = until < NO_DEADLINE or not flight.runs_beside()
                await waiter.wait(min(left, LOOK_AGAIN) if looks_again else None)
            return flight.outcome.result()
        except asyncio.CancelledError:
            if self.leave(flight):
                self.cancel(flight)  # nobody is left who wants the result
            raise
        finally:
            flight.waiters.discard(waiter)

    def cancel(self, flight: Flight) -> None:
        """End the task of a flight, unless it is over."""
        if flight.task is not None and not all(one.outcome.done() for one in flight.crew or (flight,)):
            _cancel(flight.task)

    async def _lead(self, step: Join, flight: Flight) -> None:
        """Compute in a task of its own, so that a caller who is cancelled takes the result from nobody else."""
        computing.set(computing.get() | {flight})
        try:
            outcome: Result = await self.run(self.filling(step, flight))
        except BaseException as error:  # outside of the user's function: cancelled while waiting for a lease
            outcome = Failed(error)
            with suppress(asyncio.CancelledError):
                for release in self.engine.take_forsaken(flight.token):
                    await self.ask_shared(release)
        self.end(step.ask, flight, outcome)

    def land_if_left(self, flight: Flight, _task: asyncio.Task[None] | None = None) -> None:
        """A task that is cancelled before its first step runs nothing of its body. Whoever has joined computes anew."""
        self.land(flight, Failed(asyncio.CancelledError()))


def _cancel(task: asyncio.Task[None]) -> None:
    loop = task.get_loop()
    if loop is asyncio.get_running_loop():
        task.cancel()
    elif not loop.is_closed():
        loop.call_soon_threadsafe(task.cancel)
