"""The refresher: computes anew what was served stale, behind the caller's back.

At most one refresh of a key is under way in a process, and through its lease in all of them. A ``def`` is computed in one of a few
threads, an ``async def`` in a task of the loop that found the value stale.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from cachesync.coordination.engine import Engine
from cachesync.coordination.gathering import gathering
from cachesync.core.flows import Ask, Result, Unneeded, refresh
from cachesync.core.masking import told
from cachesync.core.steps import Failed, Flow
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
        self.after_fork()

    def after_fork(self) -> None:
        """In a forked child nothing is under way."""
        self._under_way: dict[str, Ask] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def start(self, ask: Ask) -> None:
        """Refresh a key in a thread."""
        with self._lock:
            if not self._takes(ask):
                return
            if self._pool is None:
                self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="cachesync-refresh")
            try:
                future = self._pool.submit(self._run, self._renewing(ask))
            except RuntimeError:  # the interpreter ends
                self._end(ask, None)
                return
        future.add_done_callback(lambda future: self._end(ask, _outcome(future)))

    def start_task(self, ask: Ask) -> None:
        """Refresh a key in a task of the running loop."""
        with self._lock:
            if not self._takes(ask):
                return
        task = asyncio.create_task(self._refresh(ask))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Begin no more. What was not begun yet is given up, and an event says so."""
        with self._lock:
            self._closed = True
            pool = self._pool
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    def _takes(self, ask: Ask) -> bool:
        if self._closed or ask.key in self._under_way or len(self._under_way) >= MAX_WAITING:
            return False
        self._under_way[ask.key] = ask
        return True

    def _renewing(self, ask: Ask) -> Flow:
        engine = self._engine
        held = engine.held(ask)
        return refresh(ask, engine.uses_shared(), early=held is not None and engine.is_fresh(held))

    async def _refresh(self, ask: Ask) -> None:
        gathering.set(None)  # it is no part of the computation that found the value stale
        outcome: Result | None = None
        try:
            outcome = await self._arun(self._renewing(ask))
        finally:
            self._end(ask, outcome)

    def _end(self, ask: Ask, outcome: Result | None) -> None:
        with self._lock:
            self._under_way.pop(ask.key, None)
        if outcome is None:
            self._engine.events.send("refresh_dropped", ask.site.name, key=ask.key, policy=ask.policy.name)
        elif isinstance(outcome, Failed) and not isinstance(outcome.error, Unneeded):
            self._engine.events.send(
                "refresh_failed", ask.site.name, key=ask.key, policy=ask.policy.name, error=told(outcome.error, ask.policy)
            )


def _outcome(future: Future[Any]) -> Result | None:
    if future.cancelled():
        return None
    error = future.exception()
    result: Result = Failed(error) if error is not None else future.result()
    return result
