"""The refresher: computes anew what was served stale, behind the caller's back.

At most one refresh of a key is under way in a process, and through its lease in all of them. A ``def`` is computed in one of a few
threads, an ``async def`` in a task of the loop that found the value stale.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

from cachesync.coordination.engine import Engine
from cachesync.coordination.events import Span, Watch
from cachesync.coordination.gathering import gathering
from cachesync.coordination.threads import Workers
from cachesync.coordination.watching import watch_of
from cachesync.coordination.worlds import computing
from cachesync.core.flows import Ask, Result, Unneeded, refresh
from cachesync.core.masking import told
from cachesync.core.steps import Failed, Flow
from cachesync.core.together import together
from cachesync.layers.forks import lock_across_forks

THREADS: Final = 4
"""Threads that compute in the background."""
MAX_WAITING: Final = 1_000
"""Keys whose refresh is under way. What comes on top is refreshed when it is asked for again."""


class Refresher:
    """Refreshes stale values of one cache. ``run`` and ``arun`` take a flow to its end."""

    def __init__(self, engine: Engine, run: Callable[[Flow], Any], arun: Callable[[Flow], Coroutine[Any, Any, Any]]) -> None:
        self._engine = engine
        self._run = run
        self._arun = arun
        self._lock = lock_across_forks()
        self._closed = False
        self.after_fork()

    def after_fork(self) -> None:
        """In a forked child nothing is under way. What was closed stays closed."""
        self._under_way: dict[str, Ask] = {}
        self._workers = Workers(self._engine.events, "cachesync-refresh", THREADS)

    def start(self, *asks: Ask) -> None:
        """Refresh a key in a thread, or those of one batch together."""
        with self._lock:
            asks = tuple(filter(self._takes, asks))
        if not asks:
            return
        if not self._workers.take(partial(self._work, asks, self._watches(asks), together([self._renewing(ask) for ask in asks]))):
            self._end(asks, None)

    def start_task(self, *asks: Ask) -> None:
        """The same in a task of the running loop."""
        with self._lock:
            asks = tuple(filter(self._takes, asks))
            if not asks:
                return
        try:
            task = self._engine.tasks.start(self._refresh(asks, self._watches(asks)))
        except RuntimeError:  # a coroutine is driven by hand
            self._end(asks, None)
            return
        task.add_done_callback(lambda task: self._end(asks, _outcomes(task, len(asks))))

    def close(self) -> None:
        """Begin no more. Nobody waits for what is under way, and an event says so."""
        with self._lock:
            self._closed = True
            asks = list(self._under_way.values())
        self._end(asks, None)

    @property
    def under_way(self) -> int:
        """Refreshes that are under way, or wait for a thread."""
        return len(self._under_way)

    def _takes(self, ask: Ask) -> bool:
        if self._closed or ask.key in self._under_way or len(self._under_way) >= MAX_WAITING:
            return False
        self._under_way[ask.key] = ask
        return True

    def _renewing(self, ask: Ask) -> Flow:
        engine = self._engine
        held = engine.held(ask)
        # A layer that has failed is tried when its lease is asked for.
        shared = engine.shared is not None and engine.switches.redis and engine.breaker.is_passable
        return refresh(ask, shared, early=held is not None and engine.is_fresh(held, ask))

    def _watches(self, asks: Sequence[Ask]) -> list[Watch]:
        """The spans of refreshes, which are caused here and begin where they are run. None while nobody watches."""
        events = self._engine.events
        return [watch_of(events, "refresh", ask) for ask in asks] if events.watchers else []

    def _work(self, asks: Sequence[Ask], watches: Sequence[Watch], flow: Flow) -> None:
        """What a thread does."""
        if self._closed:
            return
        outcomes: Sequence[Result]
        try:
            with ExitStack() as stack:
                spans = [stack.enter_context(watch) for watch in watches]
                outcomes = _noted(spans, self._run(flow))
        except BaseException as error:
            outcomes = (Failed(error),) * len(asks)
        self._end(asks, outcomes)

    async def _refresh(self, asks: tuple[Ask, ...], watches: Sequence[Watch]) -> Sequence[Result]:
        gathering.set(None)  # it is no part of the computation or the request that found the value stale, which does not wait for it
        computing.set(frozenset())
        with ExitStack() as stack:
            spans = [stack.enter_context(watch) for watch in watches]
            return _noted(spans, await self._arun(together([self._renewing(ask) for ask in asks])))

    def _end(self, asks: Sequence[Ask], outcomes: Sequence[Result] | None) -> None:
        """Refreshes are over, or were dropped (``None``). Of what was dropped when the cache was closed nothing more is told."""
        with self._lock:
            are_over = [self._under_way.pop(ask.key, None) is not None for ask in asks]
        for ask, outcome, is_over in zip(asks, outcomes or (None,) * len(asks), are_over, strict=True):
            if not is_over:
                continue
            if outcome is None:
                self._engine.events.send("refresh_dropped", ask.site.name, key=ask.key, policy=ask.policy.name)
            elif isinstance(outcome, Failed) and not isinstance(outcome.error, Unneeded):
                self._engine.events.send(
                    "refresh_failed", ask.site.name, key=ask.key, policy=ask.policy.name, error=told(outcome.error, ask.site.policy)
                )


def _noted(spans: Sequence[Span], outcomes: Sequence[Result]) -> Sequence[Result]:
    for span, outcome in zip(spans, outcomes, strict=False):  # there are none while nobody watches
        if isinstance(outcome, Failed) and not isinstance(outcome.error, Unneeded):
            span.error = outcome.error
    return outcomes


def _outcomes(task: asyncio.Task[Any], count: int) -> Sequence[Result] | None:
    if task.cancelled():
        return None
    error = task.exception()
    outcomes: Sequence[Result] = (Failed(error),) * count if error is not None else task.result()
    return outcomes
