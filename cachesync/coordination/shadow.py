"""Shadow: computes a share of hits again, behind the caller's back, and looks whether what was served is still what the function returns.

An invalidation that the program forgets is seen by nobody else: every copy agrees, and all are wrong. A difference alone proves nothing,
because the data may have changed a moment ago and the invalidation be on its way. So it is confirmed after a grace: the function is
computed a second time, the log is applied up to its end, and only what two computations agree on, and what would be served all the same, is
a stale incident. Nothing that is computed here is stored, and nothing is invalidated.

A ``def`` is computed in one of two threads, an ``async def`` in a task of the loop that had the hit.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from functools import partial
from inspect import iscoroutinefunction
from typing import Any, Final

from cachesync.coordination.engine import Engine
from cachesync.coordination.gathering import gathering
from cachesync.coordination.site import Site
from cachesync.coordination.threads import Starting, Workers
from cachesync.coordination.worlds import computing
from cachesync.core.entry import NEVER, Held
from cachesync.core.flows import Ask, Result, confirm, look
from cachesync.core.masking import told
from cachesync.core.stamps import Stamp
from cachesync.core.steps import NO_DEADLINE, Call, Called, Failed, Flow, Rests, Step
from cachesync.layers.forks import lock_across_forks

NAME: Final = "cachesync-shadow"
THREADS: Final = 2
"""Threads that compute hits of a ``def`` again."""
MAX_UNDER_WAY: Final = 16
"""Checks at once, those included that wait to be confirmed. What comes on top is dropped, and counted."""


def is_hit(result: Any) -> bool:
    """Whether a result came fresh from a layer. What was computed just now has a lifetime, or is not stored at all."""
    return result.__class__ is Called and not result.is_stale and result.fresh is None and NEVER < result.until < NO_DEADLINE


@dataclass(slots=True, eq=False)
class Check:
    """One hit that is checked: what was served, and under which stamp; what the function has returned since."""

    ask: Ask
    value: Any
    stamp: Stamp | None
    made: float
    computed: Any = None
    timer: threading.Timer | None = None


class Shadow:
    """The checks of one cache. ``run`` and ``arun`` take a flow to its end."""

    def __init__(self, engine: Engine, run: Callable[[Flow], Any], arun: Callable[[Flow], Coroutine[Any, Any, Any]]) -> None:
        self._engine = engine
        self._run = run
        self._arun = arun
        self._lock = lock_across_forks()
        self._closed = False
        self.grace: Callable[[], float] = lambda: engine.settings.coordination.max_lag
        """Seconds between the two computations: an invalidation that is on its way has arrived by then, or the log is not heard."""
        self.after_fork()

    def after_fork(self) -> None:
        """In a forked child nothing is under way. What was closed stays closed."""
        self._under_way: dict[str, Check] = {}
        self._unstable: set[str] = set()
        self._workers = Workers(self._engine.events, NAME, THREADS)

    # --- sampling -------------------------------------------------------------------------------------------------------------------

    def sample(self, ask: Ask, served: Called) -> None:
        """A hit was served. A share of them is checked, which the policy says."""
        if random.random() < ask.policy.shadow:
            self.check(ask, served.value, served.stamp, served.made)

    def check_copy(self, site: Site, values: tuple[Any, ...], held: Held) -> None:
        """A local copy was served, and is one of those that are checked."""
        with self._engine.lock:  # it is renewed field by field
            value, stamp, made = held.value, held.stamp, held.made
        self.check(self._engine.ask(site, site.address(values), values), value, stamp, made)

    def check(self, ask: Ask, value: Any, stamp: Stamp | None, made: float) -> None:
        """Begin to check a hit, unless its key is checked already, or too many are. The caller waits for nothing."""
        check = Check(ask, value, stamp, made)
        if not self._takes(check):
            ask.site.counts.shadow_dropped += 1
            return
        try:
            if _is_async(ask):
                task = self._engine.tasks.start(self._check_in_task(check))
                task.add_done_callback(lambda _task: self._drop(check))  # cancelled before its first step, it runs nothing of its body
            else:
                self._submit(check, self._first)
        except RuntimeError:  # a coroutine is driven by hand
            self._drop(check)

    def _takes(self, check: Check) -> bool:
        with self._lock:
            if self._closed or check.ask.key in self._under_way or len(self._under_way) >= MAX_UNDER_WAY:
                return False
            self._under_way[check.ask.key] = check
            return True

    @property
    def under_way(self) -> int:
        """Checks that are under way, those included that wait to be confirmed."""
        return len(self._under_way)

    def close(self) -> None:
        """Begin no more, and confirm nothing more. What is given up is counted."""
        with self._lock:
            self._closed = True
            checks = list(self._under_way.values())
        for check in checks:
            if check.timer is not None:
                check.timer.cancel()
                self._drop(check)

    def _end(self, check: Check) -> bool:
        """A check is over. False if it was already."""
        with self._lock:
            if self._under_way.get(check.ask.key) is not check:
                return False
            del self._under_way[check.ask.key]
            return True

    def _drop(self, check: Check) -> None:
        if self._end(check):
            check.ask.site.counts.shadow_dropped += 1

    # --- running --------------------------------------------------------------------------------------------------------------------

    def _submit(self, check: Check, go: Callable[[Check], None]) -> None:
        if not self._workers.take(partial(self._work, check, go)):
            self._drop(check)

    def _work(self, check: Check, go: Callable[[Check], None]) -> None:
        """What a thread does."""
        if self._closed:
            self._drop(check)
        else:
            go(check)

    def _first(self, check: Check) -> None:
        if not self._goes_on(check, lambda: self._run(self.comparing(check))):
            return
        with Starting(self._engine.events, NAME), self._lock:
            if not self._closed:
                check.timer = threading.Timer(self.grace(), self._resume, (check,))
                check.timer.daemon = True
                check.timer.start()
                return
        self._drop(check)

    def _resume(self, check: Check) -> None:
        check.timer = None
        self._submit(check, self._second)

    def _second(self, check: Check) -> None:
        self._goes_on(check, lambda: self._run(self.confirming(check)))

    def _goes_on(self, check: Check, go: Callable[[], bool]) -> bool:
        goes_on = False
        try:
            goes_on = go()
        except Exception as error:  # of a codec or a layer that was plugged in: nobody waits for this, and it may not be silent
            self._fail(check, error)
        except BaseException:
            self._drop(check)
        finally:
            if not goes_on:
                self._end(check)
        return goes_on

    async def _check_in_task(self, check: Check) -> None:
        gathering.set(None)  # it is no part of the computation or the request that had the hit, which do not wait for it
        computing.set(frozenset())
        try:
            if await self._arun(self.comparing(check)):
                await asyncio.sleep(self.grace())
                if not self._closed:
                    await self._arun(self.confirming(check))
                else:
                    self._drop(check)
        except Exception as error:  # as in a thread
            self._fail(check, error)
        except BaseException:  # its loop ends
            self._drop(check)
            raise
        finally:
            self._end(check)

    # --- checking -------------------------------------------------------------------------------------------------------------------

    def comparing(self, check: Check) -> Generator[Step, Any, bool]:
        """Compute once, and compare. True for a difference, which has to be confirmed."""
        ask, counts = check.ask, check.ask.site.counts
        if ask.policy.errors and (yield Rests(ask)) is not None:
            counts.shadow_dropped += 1
            return False
        computed = yield from self._compute(check)
        if computed is None:
            return False
        check.computed = computed.value
        if not self._differ(ask, check.value, computed.value):
            counts.shadowed += 1
            return False
        return True

    def confirming(self, check: Check) -> Generator[Step, Any, bool]:
        """Compute again: a difference that stands, of what would be served all the same, is a stale incident. Always False: it is over."""
        ask, counts = check.ask, check.ask.site.counts
        if not (yield from self._would_be_served(check)):
            counts.shadowed += 1  # an invalidation came: what was served was right when it was served, as far as anybody can know
            return False
        computed = yield from self._compute(check)
        if computed is None:
            return False
        engine = self._engine
        if engine.shared is not None and not (yield from confirm(engine.now() + engine.budget)):
            counts.shadow_dropped += 1  # what the log says by now is not known
            return False
        counts.shadowed += 1
        if not (yield from self._would_be_served(check)):
            return False
        if self._differ(ask, check.computed, computed.value):
            self._note_unstable(ask)
        elif self._differ(ask, check.value, computed.value):
            counts.stale_incidents += 1
            age = round(engine.now() - check.made, 3)
            engine.events.send("stale_incident", ask.site.name, key=ask.key, policy=ask.policy.name, age=age, stamp=str(check.stamp or ""))
        return False

    def _compute(self, check: Check) -> Generator[Step, Any, Called | None]:
        """What the function returns now. ``None`` where that says nothing: it has failed, or was given something stale itself."""
        result: Result = yield Call(check.ask)
        if isinstance(result, Failed):
            if isinstance(result.error, asyncio.CancelledError):
                raise result.error  # its loop ends
            self._fail(check, result.error)
            return None
        if result.until == NEVER:
            check.ask.site.counts.shadow_dropped += 1
            return None
        return result

    def _would_be_served(self, check: Check) -> Generator[Step, Any, bool]:
        """Whether a caller would be given what was served, now: the same value, fresh, under the same stamp."""
        engine, ask = self._engine, check.ask
        ask = ask._replace(deadline=engine.now() + ask.budget)
        value: Any
        stamp: Stamp | None
        held = engine.held(ask) if ask.policy.consistency != "strict" or engine.shared is None else None
        if held is not None:
            value, stamp, is_fresh = held.value, held.stamp, engine.is_fresh(held, ask)
        elif engine.uses_shared():
            found = yield from look(ask)
            if not isinstance(found, Called):
                return False
            value, stamp, is_fresh = found.value, found.stamp, not found.is_stale
        else:
            return False
        return is_fresh and stamp == check.stamp and not self._differ(ask, value, check.value)

    def _differ(self, ask: Ask, one: Any, other: Any) -> bool:
        """Whether two values are told apart: by their bytes, as the codec makes them; without bytes by ``==``."""
        if one is other:
            return False
        try:
            codec = ask.site.codec
            return bool(codec.encode(one) != codec.encode(other))
        except Exception:  # whatever a codec raises: it is compared as it is
            return bool(one != other)

    def _note_unstable(self, ask: Ask) -> None:
        site = ask.site
        site.counts.shadow_unstable += 1
        with self._lock:
            is_known = site.name in self._unstable
            self._unstable.add(site.name)
        if not is_known:
            self._engine.events.send("shadow_unstable", site.name, key=ask.key, policy=ask.policy.name)

    def _fail(self, check: Check, error: BaseException) -> None:
        ask = check.ask
        ask.site.counts.shadow_failed += 1
        self._engine.events.send("shadow_failed", ask.site.name, key=ask.key, policy=ask.policy.name, error=told(error, ask.policy))


def _is_async(ask: Ask) -> bool:
    """Whether what computes is awaited. A function that was given by its caller says so itself."""
    site: Site = ask.site
    if ask.call is site.call:
        return site.is_async
    return iscoroutinefunction(ask.call) or iscoroutinefunction(type(ask.call).__call__)
