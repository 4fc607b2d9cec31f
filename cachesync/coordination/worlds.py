"""The two worlds a flow may run in: a thread, or a task of an event loop.

Only the steps that wait are answered here: the shared layer, the user's function, joining a flight, running several flows, waiting.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextvars import ContextVar
from typing import Any, Final, cast

from cachesync.coordination.drivers import arun, run
from cachesync.coordination.engine import Engine
from cachesync.coordination.flights import Flight
from cachesync.core.flows import Ask, Result, fill
from cachesync.core.steps import (
    Announced,
    Call,
    Called,
    Each,
    Failed,
    Fetch,
    Fetched,
    Flow,
    Join,
    Later,
    Lease,
    Leased,
    Release,
    Reply,
    SharedStep,
    Step,
    Store,
    Waited,
)

_computing: ContextVar[frozenset[tuple[int, str]]] = ContextVar("cachesync_computing", default=frozenset())
"""The flights this task is inside of: joining one of them would wait for itself."""

EXTEND_AT: Final = 1 / 3
"""A lease is extended when this share of its life is over."""


class _World:
    """What the two have in common: noting what a reply of the shared layer says besides its answer."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def note(self, step: SharedStep, asked: float, reply: Reply) -> None:
        engine = self.engine
        if reply.__class__ is Failed:
            engine.failed(step, cast("Failed", reply))
            return
        if engine.failing:
            engine.answered()
        if isinstance(reply, Fetched | Leased):
            engine.heard(asked, reply.head)
        elif isinstance(reply, Announced):
            engine.heard(asked, reply.last)
        if isinstance(step, Lease) and isinstance(reply, Leased) and reply.granted:
            engine.leases[step.token] = (step.key, engine.now() + step.milliseconds / 1000 * EXTEND_AT)
        elif isinstance(step, Store | Release):
            engine.leases.pop(step.token, None)

    def fill_of(self, step: Join) -> Flow:
        return fill(step.ask, token=os.urandom(12).hex(), shared=step.shared, dead=step.dead)

    def lead_away(self, ask: Ask, flight: Flight, outcome: Result) -> None:
        """The computation is over: nobody joins it any more, and whoever waits is told."""
        with self.engine.lock:
            self.engine.flights.land(flight)
            if isinstance(outcome, Failed):
                ask.site.counts.failed += 1
        flight.outcome.set_result(outcome)


class ThreadWorld(_World):
    """Steps for ``def``."""

    def run(self, flow: Flow) -> Any:
        return run(flow, self.perform)

    def perform(self, step: Step) -> Any:
        handler = self.engine.here.get(step.__class__)
        if handler is not None:
            return handler(step)
        match step:
            case Call(ask, given):
                return self._call(ask, given)
            case Join():
                return self._join(step)
            case Each(flows):
                return tuple(self.run(flow) for flow in flows)
            case Later(seconds):
                time.sleep(seconds)
                return Waited(self.engine.now())
            case _:
                return self._ask_shared(cast("SharedStep", step))

    def _ask_shared(self, step: SharedStep) -> Reply:
        asked = self.engine.now()
        assert self.engine.shared is not None
        reply = self.engine.shared.sync.perform(step)
        self.note(step, asked, reply)
        return reply

    def _call(self, ask: Ask, given: tuple[Any] | None) -> Result:
        began = self.engine.now()
        if given is not None:
            return self.engine.called(ask, given[0], 0.0)
        ask.site.counts.computed += 1
        try:
            value = ask.site.call(*ask.values)
        except BaseException as error:  # a reply like any other: the flow gives the lease back, the door raises it
            return Failed(error)
        return self.engine.called(ask, value, self.engine.now() - began)

    def _join(self, step: Join) -> Result:
        engine, ask = self.engine, step.ask
        while True:
            with engine.lock:
                flight, leading = engine.flights.join(ask.key, ask.dependencies)
            if leading:
                return self._lead(step, flight)
            if flight.thread == threading.get_ident():
                return self._call(ask, None)  # the flight is this thread's own, further up: waiting for it would never end
            ask.site.counts.joined += 1
            outcome = flight.outcome.result()
            if not (isinstance(outcome, Failed) and not isinstance(outcome.error, Exception)):
                return outcome
            # whoever computed was interrupted or cancelled, which was not meant for this caller

    def _lead(self, step: Join, flight: Flight) -> Result:
        outcome: Result = Failed(RuntimeError("the computation did not end"))
        try:
            outcome = self.run(self.fill_of(step))
        except BaseException as error:  # outside of the user's function: interrupted while waiting for a lease
            outcome = Failed(error)
        finally:
            self.lead_away(step.ask, flight, outcome)
        return outcome


class LoopWorld(_World):
    """Steps for ``async def``, in whichever loop is running."""

    async def run(self, flow: Flow) -> Any:
        return await arun(flow, self.perform)

    async def perform(self, step: Step) -> Any:
        engine = self.engine
        handler = engine.here.get(step.__class__)
        if handler is not None:
            return handler(step)
        if step.__class__ is Fetch:  # the common one first
            return await self._ask_shared(cast("Fetch", step))
        match step:
            case Call(ask, given):
                return await self._call(ask, given)
            case Join():
                return await self._join(step)
            case Each(flows):
                return tuple(await asyncio.gather(*map(self.run, flows)))
            case Later(seconds):
                await asyncio.sleep(seconds)
                return Waited(engine.now())
            case _:
                return await self._ask_shared(cast("SharedStep", step))

    async def _ask_shared(self, step: SharedStep) -> Reply:
        asked = self.engine.now()
        assert self.engine.shared is not None
        reply = await self.engine.shared.of_loop().perform(step)
        self.note(step, asked, reply)
        return reply

    async def _call(self, ask: Ask, given: tuple[Any] | None) -> Result:
        began = self.engine.now()
        if given is not None:
            return self.engine.called(ask, given[0], 0.0)
        ask.site.counts.computed += 1
        try:
            value = await ask.site.call(*ask.values)
        except BaseException as error:  # a reply like any other: the flow gives the lease back, the door raises it
            return Failed(error)
        return self.engine.called(ask, value, self.engine.now() - began)

    async def _join(self, step: Join) -> Result:
        engine, ask = self.engine, step.ask
        own = (id(engine), ask.key)
        if own in _computing.get():
            return await self._call(ask, None)  # the flight is this task's own, further up: waiting for it would never end
        while True:
            with engine.lock:
                flight, leading = engine.flights.join(ask.key, ask.dependencies)
            if leading:
                flight.task = asyncio.create_task(self._lead(step, flight, own))
            else:
                ask.site.counts.joined += 1
            outcome = await self._wait(flight)
            if not (isinstance(outcome, Failed) and not isinstance(outcome.error, Exception)) or leading:
                return outcome
            # whoever computed was interrupted or cancelled, which was not meant for this caller

    async def _wait(self, flight: Flight) -> Result:
        try:
            return await asyncio.wrap_future(flight.outcome)
        except asyncio.CancelledError:
            with self.engine.lock:
                flight.waiting -= 1
                alone = flight.waiting == 0
            if alone and flight.task is not None and not flight.outcome.done():
                _cancel(flight.task)  # nobody is left who wants the result
            raise

    async def _lead(self, step: Join, flight: Flight, own: tuple[int, str]) -> None:
        """Compute in a task of its own, so that a caller who is cancelled takes the result from nobody else."""
        outcome: Result = Failed(RuntimeError("the computation did not end"))
        _computing.set(_computing.get() | {own})
        try:
            outcome = await self.run(self.fill_of(step))
        except BaseException as error:  # outside of the user's function: cancelled while waiting for a lease
            outcome = Failed(error)
        finally:
            self.lead_away(step.ask, flight, outcome)


def _cancel(task: asyncio.Task[None]) -> None:
    loop = task.get_loop()
    if loop is asyncio.get_running_loop():
        task.cancel()
    elif not loop.is_closed():
        loop.call_soon_threadsafe(task.cancel)


__all__ = ["Called", "LoopWorld", "ThreadWorld"]
