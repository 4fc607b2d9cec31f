"""A shared layer that does harm on purpose and by a seed: for tests of what code does while its cache is in trouble."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Coroutine, Generator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast, get_args

from cachesync.coordination.drivers import arun, run
from cachesync.core.auditing import Question
from cachesync.core.records import Record
from cachesync.core.steps import NO_DEADLINE, Beat, Failed, Hear, Heard, Reply, SharedStep, Torn, Woken
from cachesync.core.switches import Thrown
from cachesync.errors import LayerError
from cachesync.layers.forks import lock_across_forks
from cachesync.layers.redis import RedisShared
from cachesync.protocols import AsyncSharedLayer, Clock, Ear, Shared, SharedLayer
from cachesync.testing.fake_clock import FakeClock

Fault: TypeAlias = Literal["fail", "throw", "delay", "hang", "lose", "duplicate", "reorder"]
Rate: TypeAlias = float | Mapping[type, float]
"""How often a fault happens, 0 to 1: to everything that it can happen to, or to the kinds that are named."""
Item: TypeAlias = Record | Torn | Beat | Woken | Question | Thrown

STEPS: Final[tuple[type, ...]] = get_args(SharedStep)
ITEMS: Final[tuple[type, ...]] = (Record, Torn, Beat, Woken, Question, Thrown)
TO_STEPS: Final[tuple[Fault, ...]] = ("fail", "throw", "delay", "hang", "lose", "duplicate")
TO_HEARING: Final[tuple[Fault, ...]] = ("fail", "throw", "delay", "hang", "lose")
TO_ITEMS: Final[tuple[Fault, ...]] = ("lose", "duplicate", "reorder")
FAULTS: Final[tuple[Fault, ...]] = get_args(Fault)
REMEMBERED: Final = 10_000
"""So many of the last faults are listed; all are counted."""
LATE: Final = 0.02
"""Seconds after which an item that was held back is handed over, where nothing comes that could overtake it."""


def _faults_of(kind: type) -> tuple[Fault, ...]:
    """What can happen to a kind of step or item."""
    if kind in STEPS:
        return TO_STEPS
    return TO_HEARING if kind is Hear else TO_ITEMS if kind in ITEMS else ()


KINDS: Final = {fault: tuple(kind for kind in (*STEPS, Hear, *ITEMS) if fault in _faults_of(kind)) for fault in FAULTS}
"""The kinds of steps and items that a fault can happen to."""


class Injected(NamedTuple):
    """One fault that happened: to the ``nth`` of its kind, counted from 1. ``about`` is a key where there is one."""

    fault: Fault
    kind: str
    nth: int
    about: str
    seconds: float
    """How long it took, at most; 0 for a fault that takes no time."""

    def __str__(self) -> str:
        return f"{self.fault} {self.kind} {self.nth}" + (f" ({self.about})" if self.about else "")


class _Fate(NamedTuple):
    """What happens to one step: for how many seconds, and whether on its way there (or on its way back)."""

    fault: Fault
    seconds: float
    is_there: bool


class _Wait(NamedTuple):
    """Let so many seconds pass."""

    seconds: float


class ChaosLayer:
    """A layer around another one, to be given as ``shared=``, that harms what passes through it.

    =============  ==============================================================================================================
    fault          what happens
    =============  ==============================================================================================================
    ``fail``       a step is not done, and answered at once by ``Failed``, as where nobody listens
    ``throw``      a step is not done, and an exception comes out, as from a layer with a mistake in it
    ``delay``      a step takes longer, on its way there or back; at its deadline it is answered by ``Failed`` all the same
    ``hang``       a step is not done, and answered by ``Failed`` at its deadline; one without a deadline at once
    ``lose``       a step is done and answered by ``Failed``; something published is not heard
    ``duplicate``  a step is done twice, and the second reply given, as after a reconnection; something published is heard twice
    ``reorder``    something published is heard behind what came after it
    =============  ==============================================================================================================

    Each is a rate, of everything that it can happen to (``lose=0.05``) or of some kinds (``lose={Store: 0.2, Record: 0.1}``). Kinds
    are the classes of steps in ``cachesync.core.steps``; ``Hear``, which is what an ear is asked; and what it hears: ``Record``,
    ``Woken``, ``Beat``, ``Question``, ``Thrown``. At most one fault happens to a step or an item.

    ``seed`` repeats a run: what happens to the nth step of a kind depends on nothing else, whoever takes it in whatever order. Left
    out, one is drawn, and ``repr()`` shows it. ``seconds`` are the shortest and the longest delay. ``clock`` is the cache's: on a
    `FakeClock` nobody waits, but the clock is advanced. Ears always live in real time.

    Raises ``ValueError`` for a rate that is none, a kind to which the fault can not happen, or a `FakeClock` with Redis.
    """

    def __init__(
        self,
        inner: Shared,
        *,
        seed: int | None = None,
        fail: Rate = 0.0,
        throw: Rate = 0.0,
        delay: Rate = 0.0,
        hang: Rate = 0.0,
        lose: Rate = 0.0,
        duplicate: Rate = 0.0,
        reorder: Rate = 0.0,
        seconds: tuple[float, float] = (0.001, 0.05),
        clock: Clock | None = None,
    ) -> None:
        self.inner = inner
        self.seed = int.from_bytes(os.urandom(4), "big") if seed is None else seed
        self._given: dict[Fault, Rate] = {
            "fail": fail,
            "throw": throw,
            "delay": delay,
            "hang": hang,
            "lose": lose,
            "duplicate": duplicate,
            "reorder": reorder,
        }
        rates = _read(self._given)
        if not 0 <= seconds[0] <= seconds[1]:
            raise ValueError(f"seconds are the shortest and the longest delay, not {seconds}")
        if isinstance(clock, FakeClock) and isinstance(inner, RedisShared):
            raise ValueError("clock: Redis lives in real time; a clock that is moved by hand goes with MemoryShared(clock.monotonic)")
        self._dice = _Dice(self.seed, rates, seconds, clock)

    # --- what a test asks ---------------------------------------------------------------------------------------------------------

    def inject(self, fault: Fault, kind: type, *, nth: int = 1, seconds: float | None = None) -> None:
        """Let a fault happen once: to the ``nth`` of a kind from now on. ``seconds`` is for ``delay``.

        Raises ``ValueError`` for a fault that can not happen to that kind.
        """
        _check(fault, kind)
        if nth < 1:
            raise ValueError(f"nth counts from 1, the next one; it is not {nth}")
        self._dice.plan(fault, kind, nth, seconds)

    @contextmanager
    def calm(self) -> Generator[None, None, None]:
        """Nothing happens inside the ``with`` block, and nothing is counted."""
        before, self._dice.is_calm = self._dice.is_calm, True
        try:
            yield
        finally:
            self._dice.is_calm = before

    @property
    def injected(self) -> tuple[Injected, ...]:
        """The faults that happened, in their order: the last 10,000 of them."""
        return self._dice.told()

    @property
    def counts(self) -> Counter[str]:
        """How often what happened, as ``"lose Store"``."""
        return self._dice.counts

    def __repr__(self) -> str:
        rates = (f"{fault}={_shown(rate)}" for fault, rate in self._given.items() if rate)
        happened = ", ".join(f"{what}: {count}" for what, count in sorted(self.counts.items())) or "nothing"
        return f"<ChaosLayer({', '.join((type(self.inner).__name__, f'seed={self.seed}', *rates))}): {happened}>"

    # --- a shared layer -----------------------------------------------------------------------------------------------------------

    @property
    def sync(self) -> SharedLayer:
        """The layer for threads."""
        return _Threads(self._dice, self.inner.sync)

    def of_loop(self) -> AsyncSharedLayer:
        """The layer for the event loop that is running."""
        return _Loop(self._dice, self.inner.of_loop())

    def ear(self) -> Ear:
        """An ear that hears too little, too much, too late, or nothing."""
        return _ChaosEar(self._dice, self.inner.ear())

    def close(self) -> None:
        """End what threads have opened."""
        self.inner.close()

    async def aclose(self) -> None:
        """End what threads and the running loop have opened."""
        await self.inner.aclose()

    def after_fork(self) -> None:
        """In a forked child the same goes on, with counts of its own."""
        self.inner.after_fork()


class _Dice:
    """What happens to whom. ``is_calm``: nothing does."""

    def __init__(
        self, seed: int, rates: Mapping[type, tuple[tuple[Fault, float], ...]], seconds: tuple[float, float], clock: Clock | None
    ) -> None:
        self._seed, self._rates, self._seconds, self._clock = seed, rates, seconds, clock
        self._lock = lock_across_forks()
        self._draws: dict[type, random.Random] = {}
        self._met: Counter[type] = Counter()
        self._planned: dict[tuple[type, int], tuple[Fault, float | None]] = {}
        self._injected: deque[Injected] = deque(maxlen=REMEMBERED)
        self.counts: Counter[str] = Counter()
        self.is_calm = False

    def plan(self, fault: Fault, kind: type, nth: int, seconds: float | None) -> None:
        """Let a fault happen to the ``nth`` of a kind from now on."""
        with self._lock:
            self._planned[kind, self._met[kind] + nth] = fault, seconds

    def told(self) -> tuple[Injected, ...]:
        """What has happened."""
        with self._lock:
            return tuple(self._injected)

    def fate(self, kind: type, about: str, most: float = NO_DEADLINE) -> _Fate | None:
        """What happens to the next one of a kind, noted; ``None`` for nothing. ``most`` is how many seconds it may take."""
        with self._lock:
            if self.is_calm:
                return None
            self._met[kind] += 1
            nth = self._met[kind]
            draw = self._draws.get(kind)
            if draw is None:
                draw = self._draws[kind] = random.Random(f"{self._seed} {kind.__name__}")
            roll, share, is_there = draw.random(), draw.random(), draw.random() < 0.5
            planned = self._planned.pop((kind, nth), None)
            fault, seconds = planned or (self._drawn(kind, roll), None)
            if fault is None:
                return None
            if fault == "hang":
                seconds = 0.0 if most == NO_DEADLINE else most
            elif fault == "delay" and seconds is None:
                seconds = self._seconds[0] + share * (self._seconds[1] - self._seconds[0])
            fate = _Fate(fault, max(0.0, min(seconds or 0.0, most)), is_there)
            self._injected.append(Injected(fault, kind.__name__, nth, about, round(fate.seconds, 6)))
            self.counts[f"{fault} {kind.__name__}"] += 1
            return fate

    def _drawn(self, kind: type, roll: float) -> Fault | None:
        for fault, below in self._rates.get(kind, ()):
            if roll < below:
                return fault
        return None

    def now(self) -> float:
        """Seconds of the clock that deadlines are on."""
        return time.monotonic() if self._clock is None else self._clock.monotonic()

    def passes_at_once(self, wait: _Wait) -> bool:
        """Whether time is moved by hand: then it has passed by now."""
        if isinstance(self._clock, FakeClock):
            self._clock.advance(wait.seconds)
            return True
        return False

    def play(self, step: SharedStep) -> Generator[SharedStep | _Wait, Any, Reply]:
        """What happens to a step: waits, and steps to be performed, in their order. Returns the reply."""
        left = step.deadline - self.now()
        fate = self.fate(step.__class__, _about(step), left)
        match fate and fate.fault:
            case None:
                pass
            case "throw":
                raise RuntimeError(f"chaos: {step.__class__.__name__.lower()} was to throw")
            case "lose":
                yield step
                return _failed(step, "its reply was lost")
            case "duplicate":
                yield step
            case "delay":
                return (yield from self._delay(step, cast("_Fate", fate), left))
            case "hang" if left < NO_DEADLINE:
                yield _Wait(max(0.0, left))
                return _failed(step, "no answer in time")
            case _:
                return _failed(step, "it was to fail")
        return cast("Reply", (yield step))

    def _delay(self, step: SharedStep, fate: _Fate, left: float) -> Generator[SharedStep | _Wait, Any, Reply]:
        reply: Reply | None = None if fate.is_there else (yield step)
        yield _Wait(fate.seconds)
        if fate.seconds >= left:
            return _failed(step, "no answer in time")
        return cast("Reply", (yield step)) if reply is None else reply


class _Threads:
    def __init__(self, dice: _Dice, layer: SharedLayer) -> None:
        self._dice = dice
        self._layer = layer

    def perform(self, step: SharedStep, /) -> Reply:
        return run(self._dice.play(step), self._do)

    def _do(self, wanted: SharedStep | _Wait) -> Reply | None:
        if not isinstance(wanted, _Wait):
            return self._layer.perform(wanted)
        if not self._dice.passes_at_once(wanted):
            time.sleep(wanted.seconds)
        return None


class _Loop:
    def __init__(self, dice: _Dice, layer: AsyncSharedLayer) -> None:
        self._dice = dice
        self._layer = layer

    def perform(self, step: SharedStep, /) -> Coroutine[Any, Any, Reply]:
        return arun(self._dice.play(step), {}, self._do)

    async def _do(self, wanted: SharedStep | _Wait) -> Reply | None:
        if not isinstance(wanted, _Wait):
            return await self._layer.perform(wanted)
        if not self._dice.passes_at_once(wanted):
            await asyncio.sleep(wanted.seconds)
        return None


class _ChaosEar:
    def __init__(self, dice: _Dice, ear: Ear) -> None:
        self._dice = dice
        self._ear = ear
        self._held_back: list[Item] = []
        self._woken = threading.Event()

    def perform(self, step: Hear, /) -> Heard | Failed:
        fate = self._dice.fate(Hear, "", step.patience)
        if fate is not None and fate.seconds:
            self._woken.wait(fate.seconds)
        match fate and fate.fault:
            case "throw":
                self._held_back.clear()
                raise RuntimeError("chaos: hear was to throw")
            case "fail" | "hang":
                self._held_back.clear()
                return _failed(step, "it was to fail" if fate and fate.fault == "fail" else "no answer in time")
            case _:
                pass
        seconds = min(step.seconds, LATE) if self._held_back else step.seconds
        heard = self._ear.perform(step._replace(seconds=seconds))
        self._woken.clear()
        if isinstance(heard, Failed) or (fate is not None and fate.fault == "lose"):
            self._held_back.clear()
            return heard if isinstance(heard, Failed) else _failed(step, "what was heard was lost")
        return Heard(tuple(self._confused(heard.items)))

    def _confused(self, items: tuple[Item, ...]) -> list[Item]:
        """What is heard of them now. What is held back comes behind the next one, or when nothing comes."""
        found: list[Item] = []
        for item in items:
            fate = self._dice.fate(item.__class__, _about(item))
            fault = fate and fate.fault
            if fault == "reorder":
                self._held_back.append(item)
            elif fault != "lose":
                found += (item, item) if fault == "duplicate" else (item,)
                found += self._held_back
                self._held_back.clear()
        if not items:
            found += self._held_back
            self._held_back.clear()
        return found

    def watch(self, key: str) -> None:
        self._ear.watch(key)

    def unwatch(self, key: str) -> None:
        self._ear.unwatch(key)

    def wake(self) -> None:
        self._woken.set()
        self._ear.wake()

    def close(self) -> None:
        self._ear.close()


def _check(fault: Fault, kind: type) -> None:
    if fault not in FAULTS:
        raise ValueError(f"{fault!r} is no fault; there are {', '.join(FAULTS)}")
    if kind not in KINDS[fault]:
        what = getattr(kind, "__name__", kind)
        raise ValueError(f"{fault!r} can not happen to {what}, but to {', '.join(kind.__name__ for kind in KINDS[fault])}")


def _read(given: Mapping[Fault, Rate]) -> dict[type, tuple[tuple[Fault, float], ...]]:
    """By kind: each fault, and below which number between 0 and 1 it happens."""
    rates: dict[type, dict[Fault, float]] = {}
    for fault, rate in given.items():
        by_kind = rate if isinstance(rate, Mapping) else dict.fromkeys(KINDS[fault], rate)
        for kind, share in by_kind.items():
            _check(fault, kind)
            if not 0 <= share <= 1:
                raise ValueError(f"{fault} of {kind.__name__}: a rate is between 0 and 1, not {share}")
            if share:
                rates.setdefault(kind, {})[fault] = share
    below: dict[type, tuple[tuple[Fault, float], ...]] = {}
    for kind, found in rates.items():
        sums = 0.0
        for fault, share in found.items():
            sums += share
            below[kind] = (*below.get(kind, ()), (fault, sums))
        if sums > 1 + 1e-9:
            raise ValueError(f"the rates for {kind.__name__} come to {sums:g}; at most one fault happens to each, so they may come to 1")
    return below


def _shown(rate: Rate) -> str:
    if not isinstance(rate, Mapping):
        return f"{rate:g}"
    return "{" + ", ".join(f"{kind.__name__}: {share:g}" for kind, share in rate.items()) + "}"


def _about(what: SharedStep | Item) -> str:
    """The key, or the first of the texts, that a step or an item is about."""
    if isinstance(what, Record):
        return what.targets.texts[0]
    keys: tuple[str, ...] = getattr(what, "keys", ()) or getattr(what, "unlink", ())
    return getattr(what, "key", "") or (keys[0] if keys else "")


def _failed(step: SharedStep | Hear, why: str) -> Failed:
    return Failed(LayerError(f"chaos, {step.__class__.__name__.lower()}: {why}"))
