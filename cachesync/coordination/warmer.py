"""The warmer: computes what is declared, in threads for ``def`` and in tasks for ``async def``.

By call it looks at every key itself. Behind everybody's back it warms at the start, and again where what was warmed is out of date as a
whole: the log was begun anew, everything was invalidated, another version or another list is declared, or it is cached in another way. One
process of all does that, under a lease like any other; where that process dies, the next one goes on with what is left.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from inspect import isasyncgenfunction, iscoroutine, iscoroutinefunction
from typing import TYPE_CHECKING, Any, Final

from cachesync.coordination.engine import Engine
from cachesync.coordination.gathering import gathering
from cachesync.coordination.own_thread import in_thread
from cachesync.coordination.registry import Registry
from cachesync.coordination.rounds import Job, Manner, Round
from cachesync.coordination.site import Address, Site
from cachesync.coordination.stats import WarmingStats
from cachesync.coordination.threads import Starting
from cachesync.coordination.warmable import Calls, Source, Warmable, check_declared
from cachesync.coordination.worlds import computing
from cachesync.core.entry import NO_DEPENDENCIES
from cachesync.core.flows import Ask, Result, Unneeded
from cachesync.core.keys import check_key
from cachesync.core.policy import Policy
from cachesync.core.rules import nearest
from cachesync.core.stamps import Stamp
from cachesync.core.steps import Called, Failed, Flow, Step
from cachesync.core.switches import Switches
from cachesync.core.warming import Warmed, claim, mark_of, shortest_life, warm_keys
from cachesync.errors import KeyArgumentError, KeyTemplateError, PolicyError, WarmingError
from cachesync.layers.codecs import AnyCodec
from cachesync.layers.forks import lock_across_forks

if TYPE_CHECKING:
    from cachesync.coordination.operations import Wanted

NAME: Final = "cachesync-warm"
LOOK: Final = 1.0
"""Seconds between two looks whether what was warmed still holds, or whether another process has warmed."""
RETRY: Final = 30.0
"""Seconds for which every process leaves a list alone that could not be told, or warming that met a failing shared layer."""
GRACE: Final = 1.0
"""Seconds that computations under way are waited for where warming is ended."""


class Unfinished(BaseException):
    """Warming was ended before its end, or something was switched or reloaded meanwhile: nothing is noted as warmed, and whoever looks next
    may go on at once.
    """


class Warmer:
    """Warms one cache. ``run`` and ``arun`` take a flow to its end, ``shares`` says whether the shared layer may be asked."""

    def __init__(
        self,
        engine: Engine,
        registry: Registry,
        *,
        run: Callable[[Flow], Any],
        arun: Callable[[Flow], Coroutine[Any, Any, Any]],
        shares: Callable[[], bool],
    ) -> None:
        self._engine = engine
        self._registry = registry
        self._run = run
        self._arun = arun
        self._shares = shares
        self._lock = lock_across_forks()
        self._rounds: list[Round] = []
        self._last = Warmed()
        self._thread: threading.Thread | None = None
        self._task: asyncio.Task[None] | None = None
        self._stop = threading.Event()
        self._closed = False
        self._has_waited = False
        self._warmed: tuple[str, Stamp] | None = None  # what this process knows to be warmed, and as of when
        self._known: tuple[Any, str] | None = None  # what was declared when that was last looked up, and its key
        policy = Policy(name="warming", match="*", ttl=LOOK)
        self._site = Site(name="warming", policy=policy, shelf=engine.local.shelf(), make_codec=AnyCodec, call=self._all)
        self.is_asleep = False
        """Whether it is to work in a thread that does not run: it did not come along into a forked child, or could not be started."""

    # --- what is declared ---------------------------------------------------------------------------------------------------------

    def sources(self, names: Sequence[str] = ()) -> list[Source]:
        """Everything that is declared, or that of some policies. Raises ``PolicyError`` for a policy that there is not."""
        policies = self._engine.settings.policies
        for name in names:
            if policies.get(name) is None:
                near = nearest(name, [policy.name for policy in policies])
                raise PolicyError(f"policy.{name}: there is no such policy" + (f"; did you mean {near!r}?" if near else ""))
        found = [Source(f"policy.{policy.name}.warm", policy, policy.warm) for policy in policies if policy.warm]
        for site in self._registry.sites():
            warmable: Warmable | None = site.warmable
            if warmable is not None and warmable.declared is not None:
                found.append(Source(f"{site.name}, warm", site.policy, warmable.declared, warmable))
        return [source for source in found if not names or source.policy.name in names]

    def source_of(self, warmable: Warmable, calls: Calls | Callable[[], Any] | None) -> list[Source]:
        """Calls of one function, or what is declared for it. Raises ``KeyArgumentError`` for what is no call of it."""
        site = warmable.site
        try:
            named = warmable.declared if calls is None else check_declared(calls, warmable.bind, site.name)
        except KeyTemplateError as error:
            raise KeyArgumentError(str(error)) from None
        return [] if named is None else [Source(site.name, site.policy, named, warmable)]

    def manner(
        self, progress: Callable[[Warmed], object] | None = None, concurrency: int | None = None, *, dry_run: bool = False
    ) -> Manner:
        """How to go about it, with what the settings say where nothing else is said."""
        settings = self._engine.settings.warming
        concurrency = settings.concurrency if concurrency is None else concurrency
        return Manner(progress=progress, concurrency=concurrency, pause=settings.pause, dry_run=dry_run)

    # --- a round ------------------------------------------------------------------------------------------------------------------

    def warm(self, sources: Sequence[Source], manner: Manner) -> Warmed:
        """Warm in threads, and wait for the end."""
        return self._warm(sources, manner).sums

    async def awarm(self, sources: Sequence[Source], manner: Manner) -> Warmed:
        """Warm in tasks, and in threads what is ``def``, and wait for the end."""
        return (await self._awarm(sources, manner)).sums

    def _warm(self, sources: Sequence[Source], manner: Manner) -> Round:
        work = self._begin(manner, in_loop=False)
        try:
            for source in self._enabled(sources):
                with work.telling(source):
                    self._plan(work, source, _asked(source))
            _in_threads(lambda: self._work(work), work)
        except BaseException:
            work.stop()
            raise
        finally:
            self._end(work)
        return work

    async def _awarm(self, sources: Sequence[Source], manner: Manner) -> Round:
        work = self._begin(manner, in_loop=True)
        try:
            for source in self._enabled(sources):
                with work.telling(source):
                    self._plan(work, source, await _aasked(source))
            async with asyncio.TaskGroup() as tasks:
                for _ in range(work.width):
                    tasks.create_task(self._awork(work))
        except BaseException:
            work.stop()
            raise
        finally:
            self._end(work)
        return work

    def _enabled(self, sources: Sequence[Source]) -> Sequence[Source]:
        return [source for source in sources if not self._engine.is_off(source.policy)]

    def _begin(self, manner: Manner, *, in_loop: bool) -> Round:
        work = Round(manner, self._engine.events, in_loop=in_loop)
        with self._lock:
            self._rounds.append(work)
        if self._closed:
            work.stop()
        self._shares()  # the log's reader extends leases, so it has to run
        return work

    def _end(self, work: Round) -> None:
        self._last = work.end()
        with self._lock:
            self._rounds = [other for other in self._rounds if other is not work]
        if work.error is not None:
            raise work.error

    def _plan(self, work: Round, source: Source, found: Sequence[Any]) -> None:
        wanted: dict[int, tuple[Warmable, list[Wanted]]] = {}
        for item in found:
            try:
                warmable, questions = self._questions(source, item, in_loop=work.in_loop)
            except Exception as error:  # also what a user's class raises when it is written into a key
                work.fail(source, error)
            else:
                kept = [one for one in questions if self._keeps(self._engine.ask(*one))]
                wanted.setdefault(id(warmable), (warmable, []))[1].extend(kept)
        for warmable, questions in wanted.values():
            work.add(warmable, questions)

    def _questions(self, source: Source, item: Any, *, in_loop: bool) -> tuple[Warmable, Sequence[Any]]:
        from cachesync.coordination.operations import Wanted

        if source.warmable is not None:
            return source.warmable, source.warmable.of_call(item)
        masking = self._registry.masking
        key = check_key(item, masking.pattern)
        found = [
            site for site in self._registry.sites() if site.warmable is not None and site.template and site.template.split(key) is not None
        ]
        if not found:
            raise KeyArgumentError(f"no function here has the key {masking.key(key)!r}: is the module imported in which it is decorated?")
        site = next((one for one in found if in_loop or not one.warmable.is_async), found[0])  # with same_as there may be one of each
        warmable: Warmable = site.warmable
        address = site.address_of_key(key)
        assert address is not None
        return warmable, [Wanted(site, address, warmable.row_of(key))]

    def _flow(self, work: Round, job: Job) -> Generator[Step, Any, list[Result | None]]:
        """What a job brings, or where it only looks has found. ``None`` for what was left out: switches may have changed meanwhile."""
        engine, shared, dry_run = self._engine, self._is_switched_on, work.manner.dry_run
        asks = [engine.ask(*one) for one in job.wanted]
        kept = [ask for ask in asks if self._keeps(ask)]
        results: Sequence[Result | None]
        if dry_run and not shared:
            results = [engine.at_hand(ask, only_fresh=True) for ask in kept]
        else:
            results = yield from warm_keys(kept, shared=shared, dry_run=dry_run)
        found = {ask.key: result for ask, result in zip(kept, results, strict=True)}
        return [found.get(ask.key) for ask in asks]

    def _keeps(self, ask: Ask) -> bool:
        """Whether the value of a key would be kept anywhere: by its policy, and by what is switched now."""
        if ask.bypasses or self._is_switched_on:
            return not ask.bypasses
        return self._engine.switches.local and (self._engine.shared is None or ask.policy.consistency != "strict")

    @property
    def _is_switched_on(self) -> bool:
        """Whether there is a shared layer, and it is switched on. That it does not answer is another thing: then nothing is computed."""
        return self._engine.shared is not None and self._engine.switches.redis

    def _work(self, work: Round) -> None:
        """What each of several threads does."""
        gathering.set(None)  # it is no part of the computation that may have asked for it, which waits for it all the same
        while (job := work.take()) is not None:
            try:
                results = self._run(self._flow(work, job))
            except Exception as error:  # of a layer or a codec that was plugged in
                results = error
            if work.note(job, results):
                work.stopped.wait(random.uniform(0, work.manner.pause))

    async def _awork(self, work: Round) -> None:
        """What each of several tasks does."""
        gathering.set(None)  # as above
        while (job := work.take()) is not None:
            try:
                flow = self._flow(work, job)
                results = await (self._arun(flow) if job.warmable.is_async else _in_thread(partial(self._run, flow)))
            except Exception as error:  # of a layer or a codec that was plugged in
                results = error
            if work.note(job, results) and work.manner.pause:
                await _in_thread(partial(work.stopped.wait, random.uniform(0, work.manner.pause)))

    # --- behind everybody's back ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Warm from now on whenever that is due: in the event loop that runs here, else in a thread."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._start_thread()
            return
        with self._lock:
            if self._closed or (self._task is not None and not self._task.done()):
                return
            self._stop.set()  # a thread can not warm an async def: this task takes its place
            self._stop, self._thread, self.is_asleep = threading.Event(), None, False
            self._task = loop.create_task(_abehind(weakref.ref(self)), name="cachesync-warm")

    def _start_thread(self) -> None:
        with Starting(self._engine.events, NAME), self._lock:
            self.is_asleep = not (self._closed or self._thread is not None or (self._task is not None and not self._task.done()))
            if self.is_asleep:
                thread = threading.Thread(target=_behind, args=(weakref.ref(self), self._stop), name=NAME, daemon=True)
                thread.start()
                self._thread, self.is_asleep = thread, False

    def wake(self) -> None:
        """Go on in a forked child as the parent did, or where there was no thread before."""
        self._start_thread()

    def turn(self, call: Callable[[str, Switches], Any], *, in_loop: bool) -> Generator[Step, Any, float]:
        """Warm if that is due: ``call`` does it. Returns the seconds until the next look."""
        engine = self._engine
        switches, sources = engine.switches, self._enabled(self.sources())
        key = self._mark(sources, in_loop=in_loop)
        if not sources or (self._warmed is not None and self._warmed[0] == key and self._still_holds(*self._warmed)):
            return LOOK
        if not self._has_waited:
            self._has_waited = True
            return random.uniform(0, engine.settings.warming.spread)
        shared = engine.shared is not None
        if shared and not self._shares():
            return LOOK * random.uniform(1, 2)
        life = min(shortest_life(source.policy) for source in sources)
        self._site.policy = Policy(name="warming", match="*", ttl=life, errors=RETRY, consistency="strict")
        ask = engine.ask(self._site, Address(key, key, NO_DEPENDENCIES, self._site.policy), (key, switches), call)
        result: Result = yield from claim(ask, shared=shared)
        if isinstance(result, Called) and result.stamp is not None:
            self._warmed, self._has_waited = (key, result.stamp), False
            return LOOK
        is_busy = isinstance(result, Failed) and isinstance(result.error, (Unneeded, Unfinished))
        return (LOOK if is_busy else RETRY) * random.uniform(1, 2)

    def _mark(self, sources: Sequence[Source], *, in_loop: bool) -> str:
        """The key of what is declared now, and how it is cached: what was stored while lifetimes alone decided is of no use after that, nor
        what was not encrypted. Other processes know other functions, or can await no ``async def``: they warm other keys.
        """
        switches = self._engine.switches
        functions = [(f"{in_loop} {switches.local}", "", [site.name for site in self._registry.sites() if site.warmable is not None])]
        how = [_how(source.policy, switches) for source in sources]
        known = functions, how, [(source.name, source.told) for source in sources]
        if self._known is None or self._known[0] != known:  # what is the same object is not looked into
            declared = ((source.name, cached, source.declared) for source, cached in zip(sources, how, strict=True))
            self._known = known, mark_of((*functions, *declared))
        return self._known[1]

    def _check(self, key: str, switches: Switches, *, in_loop: bool) -> None:
        """To be called at the end of a round. Raises `Unfinished` where it was about something else than what is declared now, or where
        something was switched meanwhile, were it back and forth: a part of it may have been left out.
        """
        if self._engine.switches is not switches or self._mark(self._enabled(self.sources()), in_loop=in_loop) != key:
            raise Unfinished

    def _still_holds(self, key: str, stamp: Stamp) -> bool:
        """Whether nothing has happened since that concerns all keys."""
        engine = self._engine
        with engine.lock:
            number = engine.ledger.lineage.number(stamp)
            return number is not None and not engine.ledger.refuses(key, NO_DEPENDENCIES, number)

    def step(self) -> float:
        """One turn in a thread."""
        try:
            seconds: float = self._run(self.turn(self._all, in_loop=False))
        except Exception as error:  # a mistake of ours, or of a layer that was plugged in
            return self._puzzled(error)
        return seconds

    async def astep(self) -> float:
        """One turn in a task."""
        try:
            seconds: float = await self._arun(self.turn(self._aall, in_loop=True))
        except Exception as error:  # as above
            return self._puzzled(error)
        return seconds

    def _puzzled(self, error: Exception) -> float:
        self._engine.events.send("warming_failed", policy="*", error=self._engine.events.describe(error)["error"])
        return RETRY

    def _all(self, key: str, switches: Switches) -> list[int]:
        with _alone():
            noted = _noted(self._warm(self.sources(), self.manner()))
            self._check(key, switches, in_loop=False)
            return noted

    async def _aall(self, key: str, switches: Switches) -> list[int]:
        with _alone():
            noted = _noted(await self._awarm(self.sources(), self.manner()))
            self._check(key, switches, in_loop=True)
            return noted

    # --- ending -------------------------------------------------------------------------------------------------------------------

    def stats(self) -> WarmingStats:
        """How far it is."""
        with self._lock:
            under_way = self._rounds[-1] if self._rounds else None
        return WarmingStats(under_way is not None, self._last if under_way is None else under_way.sums)

    def close(self) -> None:
        """Begin nothing more. What is being computed now goes on, and is waited for a moment."""
        self._closed = True
        with self._lock:
            rounds, task, thread = list(self._rounds), self._task, self._thread
        for work in rounds:
            work.stop()
        self._stop.set()
        if task is not None and not task.get_loop().is_closed():
            with suppress(RuntimeError):  # its loop is closed meanwhile
                task.get_loop().call_soon_threadsafe(task.cancel)
        if thread is not None and thread is not threading.current_thread():
            thread.join(2 * GRACE)

    async def aclose(self) -> None:
        """In an event loop: what is being computed in it is cancelled. `close` does the rest."""
        self._closed = True
        task = self._task
        if task is not None and task.get_loop() is asyncio.get_running_loop() and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait((task,), timeout=GRACE)

    def after_fork(self) -> None:
        """In a forked child nothing is under way, and a thread did not come along."""
        self.is_asleep = (self.is_asleep or self._thread is not None) and not self._closed
        self._thread, self._task, self._stop, self._rounds = None, None, threading.Event(), []


def _how(policy: Policy, switches: Switches) -> str:
    """How the values of a policy are cached, as far as another way would need other entries, or more of them."""
    return f"{policy.version} {switches.mode_of(policy.name)} {policy.ramp!r} {policy.encrypt}"


@contextmanager
def _alone() -> Generator[None, None, None]:
    """The computation that warms is one that nobody waits for, and that it was done depends on nothing."""
    outer, inside = gathering.set(None), computing.set(frozenset())
    try:
        yield
    finally:
        gathering.reset(outer)
        computing.reset(inside)


def _noted(work: Round) -> list[int]:
    """What is noted of a round: its counts. Raises where not all of it was done."""
    sums = work.sums
    if work.stopped.is_set():
        raise Unfinished
    if work.is_untold or work.is_away:
        raise WarmingError(sums.errors[0] if sums.errors else "the shared layer does not answer")
    return [sums.computed, sums.fresh, sums.failed]


def _behind(reference: weakref.ref[Warmer], stop: threading.Event) -> None:
    seconds = 0.0
    while not stop.wait(seconds):  # while it waits, this thread does not hold the cache
        warmer = reference()
        if warmer is None:
            return
        seconds = warmer.step()
        del warmer


async def _abehind(reference: weakref.ref[Warmer]) -> None:
    while (warmer := reference()) is not None:
        seconds = await warmer.astep()
        del warmer
        await asyncio.sleep(seconds)


def _asked(source: Source) -> list[Any]:
    """What a source names, asked in a thread."""
    provider = source.provider
    found = source.told if provider is None else provider()
    if iscoroutine(found) or hasattr(found, "__aiter__"):
        if iscoroutine(found):
            found.close()
        raise WarmingError("an async def tells what to warm: that takes cache.awarm(), or cache.warm_behind() called in its event loop")
    return _listed(found)


async def _aasked(source: Source) -> list[Any]:
    """The same in an event loop. A plain function is asked in a thread."""
    provider = await _in_thread(lambda: source.provider) if isinstance(source.told, str) else source.provider
    if provider is None:
        return _listed(source.told)
    found: Any = provider() if _is_async(provider) else await _in_thread(provider)
    given: Any = await found if iscoroutine(found) else found
    if hasattr(given, "__aiter__"):
        return [item async for item in given]
    listed: list[Any] = await _in_thread(partial(_listed, given))
    return listed


def _is_async(provider: Callable[[], Any]) -> bool:
    return iscoroutinefunction(provider) or isasyncgenfunction(provider)


def _listed(found: Any) -> list[Any]:
    if isinstance(found, (str, bytes)) or not hasattr(found, "__iter__"):
        raise WarmingError(f"a list is expected of what to warm, not {type(found).__name__}")
    return list(found)


def _in_threads(run: Callable[[], None], work: Round) -> None:
    """Run something in several threads, and wait for all of them; but not for long for what is still being computed after a stop.

    They are daemons, so that a computation which hangs keeps no process from its end. Each has its caller's context: where that is a
    computation, what is run here must not wait for it.
    """
    left = work.width
    lock, over = threading.Lock(), threading.Event()

    def one() -> None:
        nonlocal left
        try:
            run()
        finally:
            with lock:
                left -= 1
                if not left:
                    over.set()

    if not left:
        return
    for number in range(left):
        threading.Thread(target=contextvars.copy_context().run, args=(one,), name=f"cachesync-warm-{number}", daemon=True).start()
    while not over.wait(GRACE / 2):
        if time.monotonic() > work.stopped_at + GRACE:
            return


def _in_thread(call: Callable[[], Any]) -> asyncio.Future[Any]:
    return in_thread(call, "cachesync-warm")
