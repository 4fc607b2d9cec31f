"""Operations: what can be asked of a cache, as flows that know their engine, and the two ways to run them."""

from __future__ import annotations

import copy
import os
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import islice
from typing import Any, Final, Literal, NamedTuple, TypeVar, cast, get_args

from cachesync.coordination.auditor import Auditor
from cachesync.coordination.batches import LoopBatches, ThreadBatches
from cachesync.coordination.engine import BEHIND, Engine
from cachesync.coordination.events import logger
from cachesync.coordination.gathering import gathering
from cachesync.coordination.health import Health, checking, health_of
from cachesync.coordination.log_reader import PATIENCE, LogReader
from cachesync.coordination.policy_watcher import PolicyWatcher
from cachesync.coordination.refresher import Refresher
from cachesync.coordination.registry import Registry
from cachesync.coordination.replacing import Block
from cachesync.coordination.request_scope import Reading, reading_of, scope_of
from cachesync.coordination.shadow import Shadow, is_hit
from cachesync.coordination.site import Address, Site
from cachesync.coordination.warmer import Warmer
from cachesync.coordination.watching import UNWATCHED, WatchedShared
from cachesync.coordination.worlds import LEFT_ALONE, LoopWorld, ThreadWorld, raised
from cachesync.core.entry import NEVER, Entry
from cachesync.core.flows import (
    Ask,
    Result,
    announce,
    calling,
    calling_in_time,
    catch_up,
    compute,
    confirm,
    look,
    look_many,
    obtain,
    obtain_confirmed,
    obtain_many,
    put,
    replace,
    seize,
)
from cachesync.core.policy import Policy
from cachesync.core.records import KEY, Targets, parts_of, written
from cachesync.core.stamps import NOWHERE, UNREACHED, Stamp, check_stamp
from cachesync.core.steps import (
    Call,
    Called,
    Each,
    Encode,
    Failed,
    Fetch,
    Fetched,
    Flow,
    Pend,
    Refused,
    Release,
    SharedStep,
    Step,
    Throw,
    Ticket,
)
from cachesync.core.sweeping import Swept, sweep_page
from cachesync.core.switches import ALL, Thrown
from cachesync.core.together import together
from cachesync.core.tuples import make
from cachesync.errors import LayerError
from cachesync.layers.forks import lock_across_forks

T = TypeVar("T")
W = TypeVar("W", ThreadWorld, LoopWorld)
_SHARED: Final[frozenset[type]] = frozenset(get_args(SharedStep))
PAGE: Final = 1_000
"""Keys that are asked for at once. More of them are several pages, one after the other."""


class Wanted(NamedTuple):
    """What a question is made of, before it is asked: ``call`` computes it where that is not the site's function."""

    site: Site
    address: Address
    values: tuple[Any, ...] = ()
    call: Callable[..., Any] | None = None


class Operations:
    """Everything the doors offer goes through here: ``run`` and ``arun`` take the flows that the other methods make."""

    def __init__(self, engine: Engine, registry: Registry, *, listen: bool) -> None:
        self.engine = engine
        self._auditor = Auditor(engine, registry.find, registry.sites)
        self._threads = ThreadBatches(engine)
        self._loops = LoopBatches(engine)
        self.run = self._threads.run
        self.arun = self._loops.run
        self.reader = LogReader(engine, self._auditor)
        self.refresher = Refresher(engine, self.run, self.arun)
        self.shadow = Shadow(engine, self.run, self.arun)
        self.warmer = Warmer(engine, registry, run=self.run, arun=self.arun, shares=self._shares)
        self._listens = listen and engine.shared is not None
        self._is_flushing = False
        self.watcher: PolicyWatcher | None = None
        self.is_closed = False
        _survive_forks(self)

    def obtain(self, ask: Ask) -> Result:
        """The local copy, the shared entry, or a computation."""
        engine = self.engine
        if engine.is_busy_here():
            return cast("Result", self.run(calling(ask)))
        outer = gathering.get()
        least = None if outer is None else outer.asks(engine)
        if ask.mode != "full" and self._bypasses(ask, least):
            return cast("Result", self._used(ask, self.run(self._calling(ask, least))))
        reading = None if outer is None else self._reading(ask)
        if reading is not None and reading.found is not None:
            return reading.found
        if least is not None or (ask.policy.consistency == "strict" and self._is_strict(ask)):
            return cast("Result", self._used(ask, self._checked(ask, self.run(self.confirming(ask, least))), reading))
        found: Any = engine.at_hand(ask)
        if found is None:
            shares = self._shares()
            if shares and (engine.ledger.tickets or engine.forsaken):
                shares = self.run(self._flushing(ask.deadline))
            fetched: Any = self._threads.ask_shared(make(Fetch, ((ask.key,), ask.deadline, False, None))) if shares else None
            judged: Any = self._judge(ask, fetched)
            found = judged if judged.__class__ is Called else self.run(obtain(ask, fetched, judged))
        if outer is None and found.__class__ is Called and not (found.is_stale or found.is_due or ask.policy.shadow):
            return found  # the commonest: nothing is to be refreshed or compared, and nobody takes note of it
        return self._handed_out(ask, found, reading, self.refresher.start)

    async def aobtain(self, ask: Ask, accepts: Callable[[Called], bool] | None = None) -> Result:
        """As `obtain`. Something stale that its caller does not accept is computed anew, by him or by whoever does that already."""
        engine, outer = self.engine, gathering.get()
        least = None if outer is None else outer.asks(engine)
        if ask.mode != "full" and self._bypasses(ask, least):
            return cast("Result", self._used(ask, await self.arun(self._calling(ask, least))))
        reading = None if outer is None else self._reading(ask)
        if reading is not None and reading.found is not None:
            return reading.found
        if least is not None or (ask.policy.consistency == "strict" and self._is_strict(ask)):
            return cast("Result", self._used(ask, self._checked(ask, await self.arun(self.confirming(ask, least))), reading))
        found: Any = engine.at_hand(ask)
        if found is None:
            fetched: Any = None
            shares = self._shares()
            if shares and (engine.ledger.tickets or engine.forsaken):
                shares = await self.arun(self._flushing(ask.deadline))
            if shares:  # as ask_shared does it, with one coroutine less: to be interrupted while reading leaves nothing behind
                step, asked = self._loops.offered(make(Fetch, ((ask.key,), ask.deadline, False, None))), engine.now()
                try:
                    fetched = await self._loops.layer().perform(step)
                except Exception as error:
                    fetched = raised(step, error)
                fetched = self._loops.note(step, asked, fetched)
            judged: Any = self._judge(ask, fetched)
            found = judged if judged.__class__ is Called else await self.arun(obtain(ask, fetched, judged))
        if accepts is not None and found.__class__ is Called and found.is_stale and found.until > NEVER and not accepts(found):
            found = await self.arun(compute(ask, self._shares(), None, late=True))
        if outer is None and found.__class__ is Called and not (found.is_stale or found.is_due or ask.policy.shadow):
            return cast("Result", found)
        return self._handed_out(ask, found, reading, self.refresher.start_task)

    def _handed_out(self, ask: Ask, found: Result, reading: Reading | None, refresh: Callable[[Ask], None]) -> Result:
        """A single answer, after what comes of it: a refresh, a check, and what whoever asked takes note of it."""
        if self._wants_refresh(found):
            refresh(ask)
        return cast("Result", self._used(ask, self._checked(ask, found), reading))

    def _judge(self, ask: Ask, fetched: Any) -> Called | Refused | None:
        """What the shared layer's reply is worth. A hit ends here, without a flow."""
        if fetched.__class__ is not Fetched:
            return None
        blob, engine = fetched.blobs[0], self.engine
        if blob is not None:
            return engine.judge(ask, blob, fetched.head, fetched.now)
        return BEHIND if not ask.by_ttl and engine.is_behind(fetched.head) else None

    def _wants_refresh(self, found: Result | None) -> bool:
        """Whether what was served is stale, or due. What was made of something stale was computed just now."""
        return isinstance(found, Called) and (found.is_stale or found.is_due) and found.until > NEVER and self._may_refresh()

    def _may_refresh(self) -> bool:
        """Whether the shared layer may be asked by a refresh, which comes later: if it is to be tried, then by that."""
        if self.engine.shared is None:
            return True
        self.awake()
        return self.engine.breaker.is_passable

    def _least(self) -> Stamp | None:
        """The stamp that whoever asked for the computation under way here asked for."""
        found = gathering.get()
        return None if found is None else found.asks(self.engine)

    def _bypasses(self, ask: Ask, least: Stamp | None) -> bool:
        """Whether the function is called, whatever is cached. That something is not older than a stamp, a lifetime can not promise."""
        return ask.bypasses or (ask.by_ttl and least is not None)

    def _calling(self, ask: Ask, least: Stamp | None) -> Generator[Step, Any, Result]:
        """Call the function of a key that is not cached now. What it asks itself may not be older than it could be otherwise."""
        self.awake()
        self._reading(ask, anew=True)
        if least is None and self._is_strict(ask):
            least = yield from self._heading()
        result = yield from calling(ask._replace(least=least))
        if isinstance(result, Called) and result.fresh is not None:
            result = result._replace(until=self.engine.now() - result.seconds + result.fresh)
        return result

    def _heading(self) -> Generator[Step, Any, Stamp]:
        """Where the log ends now, after applying it up to there: what a strict function that is only called is made of is not older.

        `UNREACHED` where that can not be confirmed, and where it is of no use: what is switched for everything is by lifetime at most.
        """
        engine = self.engine
        deadline = engine.now() + engine.budget
        is_of_use = engine.settings.enabled and ALL not in engine.switches.effective
        is_applied = is_of_use and (yield from self._sharing(deadline)) and (yield from confirm(deadline))
        return (is_applied and engine.ledger.position) or UNREACHED

    def _is_strict(self, ask: Ask) -> bool:
        return ask.policy.consistency == "strict" and self.engine.shared is not None

    def _reading(self, ask: Ask, *, anew: bool = False) -> Reading | None:
        """A key is about to be read. Inside of a request: what that has read of it already, unless it has to be read ``anew``."""
        if gathering.get() is None:
            return None
        reading = reading_of(self.engine, ask.key, anew=anew or self._is_strict(ask))
        if reading is not None and reading.found is not None:
            ask.site.counts.repeated += 1
            ask.site.counts.stale += reading.found.is_stale
        return reading

    def _checked(self, ask: Ask, result: Any) -> Any:
        """A result that may be a hit: some of them are computed again behind the caller's back (``shadow``)."""
        if ask.policy.shadow and is_hit(result):
            self.shadow.sample(ask, result)
        return result

    def _used(self, ask: Ask, result: Any, reading: Reading | None = None) -> Any:
        """A result is handed out: the computation or the request that asked for it, if it was one, takes note of it, also if it is not
        cached now. Each result is handed out once.
        """
        if reading is not None:
            result = reading.remember(result)
        if result.__class__ is Called and result.is_stale:
            ask.site.counts.stale += 1
        found = gathering.get()
        if found is not None and isinstance(result, Called):
            found.take_in(self.engine, ask.key, result, ask.policy)
        return result

    def confirming(self, ask: Ask, least: Stamp | None) -> Generator[Step, Any, Result]:
        """An answer that is not older than ``least``, or under a strict policy than the head of the log at the time of the question.

        Where that can not be confirmed the function is called, and nothing is stored.
        """
        engine = self.engine
        if self._bypasses(ask, least):
            return (yield from self._calling(ask, least))
        if not self._is_strict(ask) and (least is None or engine.has_reached(least)):
            called = engine.at_hand(ask, only_fresh=True)
            if called is not None:
                return called
        found: Called | Refused | Failed = Failed(LookupError("the shared layer is away"))
        if engine.shared is None and (least is None or engine.has_reached(least)):
            found = Refused()
        elif (yield from self._sharing(ask.deadline, least)):
            found = yield from obtain_confirmed(ask, least)
        if isinstance(found, Called):
            return found
        outcome: Result
        if isinstance(found, Refused):
            ask = ask._replace(least=least or engine.ledger.position).later(found.seconds)
            outcome = yield from compute(ask, engine.shared is not None, found.dead)
        else:
            outcome = yield from calling_in_time(ask._replace(least=UNREACHED))
        return outcome

    def obtaining(self, ask: Ask, least: Stamp) -> Generator[Step, Any, Result]:
        """As `confirming`, for a caller who asked for a stamp, inside of a computation for one who did the same."""
        check_stamp(least)
        reading = self._reading(ask, anew=True)
        result: Result = self._used(ask, self._checked(ask, (yield from self.confirming(ask, self._least_of(least)))), reading)
        return result

    def obtaining_each(self, wanted: Sequence[Wanted], refresh: Callable[[list[Ask]], None]) -> Generator[Step, Any, list[Result]]:
        """The answers to several questions, each computed by itself, in their order; up to the first failure."""
        answers = yield from self.obtaining_many(wanted, refresh)
        results: list[Result] = []
        for one in wanted:
            results.append(answers[one.address.key])
            if isinstance(results[-1], Failed):
                break
        return results

    def obtaining_many(
        self,
        wanted: Sequence[Wanted],
        refresh: Callable[[list[Ask]], None],
        *,
        least: Stamp | None = None,
        page: int = PAGE,
        at_once: bool = False,
    ) -> Generator[Step, Any, dict[str, Result]]:
        """The answers to several questions, by key, page after page: each has a budget of its own. Equal ones are asked once.

        ``refresh`` is told which answers are stale. With ``at_once`` all of a page that has to be computed is computed in one call. After
        a page with a failure there is no other.
        """
        least = self._least_of(least)
        answers: dict[str, Result] = {}
        for asks in self._pages(wanted, page):
            readings = self._readings(asks, least)
            results = yield from self._obtaining_page(asks, least, at_once, readings)
            for ask, result, reading in zip(asks, results, readings, strict=True):
                is_repeated = reading is not None and reading.found is not None
                answers[ask.key] = result if is_repeated else self._used(ask, self._checked(ask, result), reading)
            stale = [ask for ask, result in zip(asks, results, strict=True) if self._wants_refresh(result)]
            if stale:
                refresh(stale)
            if any(isinstance(result, Failed) for result in results):
                break
        return answers

    def _pages(self, wanted: Sequence[Wanted], page: int) -> Iterator[list[Ask]]:
        different: dict[str, Wanted] = {}
        for one in wanted:
            different.setdefault(one.address.key, one)
        rest = iter(different.values())
        while chosen := list(islice(rest, page)):
            yield [self.engine.ask(*one) for one in chosen]

    def _readings(self, asks: Sequence[Ask], least: Stamp | None) -> Sequence[Reading | None]:
        """As `_reading` for several keys. What is called whatever was read is no reading."""
        return [None if self._bypasses(ask, least) else self._reading(ask, anew=least is not None) for ask in asks]

    def _obtaining_page(
        self, asks: Sequence[Ask], least: Stamp | None, at_once: bool, readings: Sequence[Reading | None]
    ) -> Generator[Step, Any, list[Result]]:
        engine = self.engine
        answers: dict[str, Result] = _repeated(asks, readings)
        bypassed = [ask for ask in asks if self._bypasses(ask, least)]
        missing = self._missing([ask for ask in asks if not self._bypasses(ask, least)], least, answers)
        strict = least is not None or any(map(self._is_strict, missing))
        confirmed = None if engine.shared is not None or not strict else least is None or engine.has_reached(least)
        shared = bool(missing) and (yield from self._sharing(asks[0].deadline, least))
        obtained = yield from obtain_many(missing, shared=shared, strict=strict, least=least, confirmed=confirmed, at_once=at_once)
        answers.update(zip((ask.key for ask in missing), obtained, strict=True))
        if bypassed:  # last: the time for the shared layer runs
            if least is None and any(map(self._is_strict, bypassed)):
                least = yield from self._heading()
            flows = tuple(self._calling(ask, least) for ask in bypassed)
            called: tuple[Result, ...] = (yield from together(flows)) if at_once else (yield Each(flows))
            answers.update(zip((ask.key for ask in bypassed), called, strict=True))
        return [answers[ask.key] for ask in asks]

    def _missing(self, asks: Sequence[Ask], least: Stamp | None, found: dict[str, Any]) -> list[Ask]:
        """What is not in ``found`` and no local copy answers; what one answers goes there, too."""
        engine = self.engine
        reached = least is None or engine.has_reached(least)
        for ask in asks:
            is_asked = ask.key not in found and reached and not self._is_strict(ask)
            at_hand = engine.at_hand(ask, only_fresh=least is not None) if is_asked else None
            if at_hand is not None:
                found[ask.key] = at_hand
        return [ask for ask in asks if ask.key not in found]

    def _least_of(self, least: Stamp | None) -> Stamp | None:
        """The stamp of a caller, who may be inside of a computation for one that asked for another."""
        outer = self._least()
        if least is None:
            return outer
        check_stamp(least)
        return least if outer is None or self.engine.has_reached(outer) else UNREACHED

    def looking_many(self, wanted: Sequence[Wanted], least: Stamp | None = None) -> Generator[Step, Any, dict[str, Called]]:
        """What is cached under several keys, without computing; one trip for each page."""
        least = self._least_of(least)
        answers: dict[str, Called] = {}
        for page in self._pages(wanted, PAGE):
            asks = [ask for ask in page if not self._bypasses(ask, least)]
            readings = self._readings(asks, least)
            repeated = _repeated(asks, readings)
            answers.update(repeated)
            missing = self._missing(asks, least, answers)
            if missing and (yield from self._sharing(asks[0].deadline, least)):
                strict = least is not None or any(map(self._is_strict, missing))
                looked = yield from look_many(missing, strict=strict, least=least)
                answers.update((ask.key, found) for ask, found in zip(missing, looked, strict=True) if isinstance(found, Called))
            for ask, reading in zip(asks, readings, strict=True):
                if ask.key in answers and ask.key not in repeated:
                    answers[ask.key] = self._used(ask, answers[ask.key], reading)
        return answers

    def looking(self, ask: Ask, least: Stamp | None = None, *, apart: bool = False) -> Generator[Step, Any, Called | Refused]:
        """The local copy or the shared entry, without computing. ``apart``: a request takes no note of it, nor remembers it."""
        found = yield from self._looking(ask, least, apart=apart and _is_of_a_request())
        ask.site.counts.missed += isinstance(found, Refused)
        return found

    def found_later(self, ask: Ask, called: Called, *, apart: bool) -> Called:
        """Something was found after all that `looking` had not: it is taken note of, as there."""
        return called if apart and _is_of_a_request() else cast("Called", self._used(ask, called))

    def _looking(self, ask: Ask, least: Stamp | None, *, apart: bool) -> Generator[Step, Any, Called | Refused]:
        engine = self.engine
        if least is not None:
            check_stamp(least)
        least = least or self._least()
        if self._bypasses(ask, least):
            return Refused()
        confirms = self._is_strict(ask) or least is not None
        reading = None if apart else self._reading(ask, anew=confirms)
        if reading is not None and reading.found is not None:
            return reading.found
        found: Called | Refused | Failed | None = None
        if not self._is_strict(ask) and (least is None or engine.has_reached(least)):
            found = engine.at_hand(ask, only_fresh=confirms)
        if found is None:
            if not (yield from self._sharing(ask.deadline, least)):
                return Refused()
            found = yield from (obtain_confirmed(ask, least) if confirms else look(ask))
        if isinstance(found, Failed):
            return Refused()
        return found if apart else cast("Called | Refused", self._used(ask, found, reading))

    def peeking(self, ask: Ask) -> Generator[Step, Any, Entry[Any] | None]:
        """The same, with what is known about the value."""
        engine = self.engine
        self._reading(ask, anew=True)  # whoever looks at what is there depends on whether it is
        if ask.bypasses:
            return None
        found: Called | Refused | None = None
        layer: Literal["local", "shared"] = "local"
        held = None if self._is_strict(ask) else engine.held(ask)
        if held is not None:
            is_stale = not engine.is_fresh(held, ask)
            found = Called(  # looked at, and not counted as a hit
                held.value, stamp=held.stamp, made=held.made, is_stale=is_stale, dependencies=held.dependencies
            )
        elif (yield from self._sharing(ask.deadline)):
            found, layer = (yield from look(ask)), "shared"
        if not isinstance(found, Called) or found.stamp is None:
            return None
        if (scope := scope_of(engine)) is not None:
            scope.saw(ask.key, ask.policy, found)
        return Entry(
            value=own_copy(ask.policy, found.value),
            age=engine.now() - found.made,
            is_stale=found.is_stale,
            stamp=found.stamp,
            etag=engine.etag(ask.site, found.value),
            layer=layer,
        )

    def putting(self, ask: Ask, given: tuple[Any] | None) -> Generator[Step, Any, tuple[Result, Stamp | None]]:
        """Set a value, or compute it anew. A given value that can not be stored raises ``CodecError`` before anything has changed."""
        engine = self.engine
        if not engine.settings.enabled:
            return (yield Call(ask, given)), engine.ledger.position or NOWHERE
        self.awake()
        if ask.bypasses or (engine.shared is not None and not engine.switches.redis):
            return (yield from self._passing(ask, given))
        if given is not None:
            given = (own_copy(ask.policy, given[0]),)
            ask = ask._replace(deadline=engine.now() + ask.budget)  # a copy of much takes long
        ask = ask._replace(least=self._least())
        token = engine.token()
        try:
            flow = put(ask, token=token, shared=engine.shared is not None, given=given)
            result, stamp = yield from self.admitted(ask.deadline, flow)
        finally:
            engine.forsake(token)
        self._note_unstored(ask, result, stamp, is_given=given is not None)
        self._note_written(stamp)
        if given is None:
            self._used(ask, result)
        return result, stamp

    def _passing(self, ask: Ask, given: tuple[Any] | None) -> Generator[Step, Any, tuple[Result, Stamp | None]]:
        """Set a value, or compute it anew, where it is not to be stored: it ends what is cached, here and anywhere else."""
        result: Result = (yield Call(ask, given)) if given is not None else self._used(ask, (yield from self._calling(ask, self._least())))
        if isinstance(result, Failed):
            return result, None
        return result, (yield from self.invalidating((Targets(KEY, (ask.key,)),)))

    def _note_unstored(self, ask: Ask, result: Result, stamp: Stamp | None, *, is_given: bool) -> None:
        if stamp is None or isinstance(result, Failed) or result.fresh is not None:
            return
        if stamp.pending:
            reason = "the shared layer is away: other copies of the key are invalidated, this one is with its caller only"
        elif not is_given:
            return  # the next call computes anew; why it may not be stored has been told
        elif result.is_stale:
            reason = "it was made of a stale value"
        else:
            reason = "an invalidation came first"
        self.engine.not_stored(ask, reason)

    def seizing(self, ask: Ask) -> Generator[Step, Any, Block]:
        """Begin to replace a value: from now on an invalidation that comes wins over what will be set."""
        self.awake()
        token = self.engine.token()
        try:
            seized = yield from self._sparing(seize(ask, token=token, shared=self._stores(ask), unlink=False))
        except BaseException:
            self.engine.forsake(token)
            raise
        least = self._least()
        if least is None and self._is_strict(ask):
            least = (seized.leased and seized.confirmed and seized.begun.stamp) or UNREACHED
        return Block(self.engine, ask, seized, least)

    def replacing(self, ask: Ask, block: Block, value: Any) -> Generator[Step, Any, tuple[Result, Stamp | None]]:
        """Set the value whose replacing has begun. Raises nothing; a value that can not be stored is a `Failed` result."""
        engine = self.engine
        block.check()
        shared = engine.shared is not None
        if shared and not self._stores(ask):
            block.use()
            return (yield from self._passing(ask, (value,)))
        given = own_copy(ask.policy, value)
        encoded: Any = (yield Encode(ask, given, given=True)) if shared else None
        if isinstance(encoded, Failed):
            return encoded, None
        called: Called | Failed = yield Call(ask, (given,), block.found)
        if isinstance(called, Failed):
            return called, None
        block.use()
        called = called._replace(seconds=engine.now() - block.seized.begun.made)  # the time it took to obtain it
        result, stamp = yield from self._sparing(replace(ask, block.seized, called, shared=shared, encoded=encoded))
        self._note_unstored(ask, result, stamp, is_given=True)
        self._note_written(stamp)
        return result, stamp

    def giving_up(self, block: Block) -> Generator[Step, Any, None]:
        """The value is not replaced after all, or has been: the lease is given back."""
        token = block.seized.token
        self.engine.forsake(token)
        for release in self.engine.take_forsaken(token):
            yield from self._sparing(_giving_back(release))

    def _stores(self, ask: Ask) -> bool:
        """Whether a value that is set is stored in the shared layer."""
        return self.engine.shared is not None and self.engine.switches.redis and not ask.bypasses

    def sweeping(self, progress: Callable[[Swept], object] | None) -> Generator[Step, Any, Swept]:
        """Delete what is dead from the shared layer, page by page. Raises ``LayerError`` where it fails."""
        if progress is not None and not callable(progress):
            raise TypeError(f"progress is a function that is given the sums, not {type(progress).__name__}")
        engine = self.engine
        swept, cursor = Swept(), -1
        if engine.shared is None:
            return swept
        self.awake()
        while cursor:
            page = yield from sweep_page(max(cursor, 0), swept, engine.now() + PATIENCE)
            if isinstance(page, Failed):
                problem = LayerError(str(page.error))  # a new one: a reply may be given to many, and a traceback grows when it is raised
                problem.is_refusal = getattr(page.error, "is_refusal", False)
                raise problem from page.error
            cursor, swept = page
            if progress is not None:
                progress(swept)
        return swept

    def standing(self) -> Generator[Step, Any, Stamp]:
        """The position that this process has applied, after joining the log if it has not yet."""
        self.awake()
        engine = self.engine
        deadline = engine.now() + engine.budget
        if engine.ledger.position is None and (yield from self._sharing(deadline)):
            yield from catch_up(None, deadline)
        return engine.ledger.position or NOWHERE

    def invalidating(self, targets: tuple[Targets, ...]) -> Generator[Step, Any, Stamp]:
        """Apply an invalidation here and announce it: in one piece, or if it is long in several, each with a budget of its own."""
        self.awake()
        engine = self.engine
        shared, stamp = engine.shared is not None, NOWHERE
        tickets: list[Ticket] = []
        with engine.events.watch("invalidate", **written(targets)) if engine.events.watchers else UNWATCHED as span:
            for part in parts_of(targets):  # all of it holds here before any of it is announced
                ticket: Ticket = yield Pend(part)
                tickets += (ticket,)
            try:
                shared = shared and engine.breaker.admits() and (yield from self._flushing(engine.now() + engine.budget))
                for ticket in tickets:
                    stamp = yield from announce(ticket, shared=shared, deadline=engine.now() + engine.budget)
                    shared = shared and not stamp.pending  # the rest is queued behind it
                    if not stamp.pending:
                        self._auditor.sample(ticket.targets, stamp)
            except BaseException:  # interrupted, or its task was cancelled: what holds here is announced by somebody all the same
                for ticket in filter(engine.ledger.tickets.is_on_its_way, tickets):
                    engine.leave(ticket)
                raise
            if span is not None:
                span.fields["stamp"] = str(stamp)
        self._note_written(stamp)
        return stamp

    def _note_written(self, stamp: Stamp | None) -> None:
        """The request that is under way here has changed something."""
        scope = scope_of(self.engine)
        if scope is not None and stamp is not None:
            scope.wrote(stamp)

    def switching(self, *changes: tuple[str, str]) -> Generator[Step, Any, None]:
        """Switch for all processes, this one included. Raises ``LayerError`` where they can not be told; then nothing is switched."""
        engine = self.engine
        if engine.shared is None:
            engine.switch(*changes)
            return
        self.awake()
        reply: Thrown | Failed = yield Throw(changes, None, engine.now() + engine.budget)
        if isinstance(reply, Failed):
            problem = "nothing was switched, because the shared layer could not be told"
            raise LayerError(f"{problem}: {reply.error}") from (reply.error if isinstance(reply.error, Exception) else None)
        engine.obey(reply)

    def switch(self, *changes: tuple[str, str]) -> None:
        """The same at once, also where the shared layer is left alone."""
        _asking(ThreadWorld(self.engine)).run(self.switching(*changes))

    async def aswitch(self, *changes: tuple[str, str]) -> None:
        """As `switch`."""
        await _asking(LoopWorld(self.engine)).run(self.switching(*changes))

    def notice_watchers(self) -> None:
        """The shared layer's steps are spans while somebody watches, and nothing stands around them otherwise."""
        engine = self.engine
        with engine.lock:
            shared = engine.shared
            if isinstance(shared, WatchedShared) and not engine.events.watchers:
                engine.shared = shared.inner
            elif shared is not None and not isinstance(shared, WatchedShared) and engine.events.watchers:
                engine.shared = WatchedShared(shared, engine.events)

    def health(self) -> Health:
        """How this cache is, by what is known."""
        return health_of(self.engine, self.reader, is_closed=self.is_closed)

    def check(self) -> Health:
        """The same after asking the shared layer, also one that is left alone."""
        world = ThreadWorld(self.engine)
        world.asks_always = True
        return cast("Health", world.run(checking(self.engine, self.reader, is_closed=self.is_closed)))

    async def acheck(self) -> Health:
        """As `check`."""
        world = LoopWorld(self.engine)
        world.asks_always = True
        return cast("Health", await world.run(checking(self.engine, self.reader, is_closed=self.is_closed)))

    def awake(self) -> None:
        """The log's reader runs from the first time on that the shared layer matters, and the policy file is watched from then on."""
        if not self.reader.is_running and (self._listens or self._is_told_by_chance()):
            self.reader.start()
        if self.watcher is not None and not self.watcher.is_running:
            self.watcher.start()
        if self.warmer.is_asleep:
            self.warmer.wake()

    def _is_told_by_chance(self) -> bool:
        """Who reads no log was told of a switch by a trip, and may make none from now on: it has to hear when that ends."""
        return bool(self.engine.switches.everywhere) and self.engine.shared is not None and not self.is_closed

    def _shares(self) -> bool:
        self.awake()
        return self.engine.uses_shared()

    def _sharing(self, deadline: float, least: Stamp | None = None) -> Generator[Step, Any, bool]:
        """As `_shares`, for flows, after announcing what is queued where nobody else does. For who asks for a pending stamp the shared
        layer has nothing.
        """
        is_asked = self._shares() and (yield from self._flushing(deadline))
        return is_asked and (least is None or not least.pending)

    def _sparing(self, flow: Generator[Step, Any, T], *, admitted: bool = False) -> Generator[Step, Any, T]:
        """A flow that changes something: as one that reads it asks a shared layer that has failed only where it is the one to try that,
        and only once. ``admitted`` says that it is.
        """
        breaker, reply = self.engine.breaker, cast("Any", None)
        try:
            while True:
                step = flow.send(reply)
                is_shared = step.__class__ in _SHARED
                if is_shared and not (admitted or breaker.admits()):
                    reply = LEFT_ALONE
                    continue
                admitted = admitted and not is_shared
                reply = yield step
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            flow.close()

    def admitted(self, deadline: float, flow: Generator[Step, Any, T]) -> Generator[Step, Any, T]:
        """A flow that changes something, after announcing what is queued where nobody else does that."""
        self.awake()
        admitted = self.engine.breaker.admits() and (yield from self._flushing(deadline))
        return (yield from self._sparing(flow, admitted=admitted))

    def _flushing(self, deadline: float) -> Generator[Step, Any, bool]:
        """Announce what is queued, the oldest first, where no reader of the log does that: one caller at a time. Give back what leases
        nobody has a use for any more.

        Until it is announced what it matches is cached by nobody here. False where the shared layer has failed.
        """
        engine = self.engine
        if engine.forsaken and not self.reader.is_running:
            yield from together([_giving_back(release) for release in engine.take_forsaken()])
        if self.reader.is_running or not engine.ledger.tickets.queued:
            return True
        with engine.lock:
            if self._is_flushing:
                return True
            self._is_flushing = True
        try:
            for ticket in engine.ledger.tickets.queued:
                stamp = yield from announce(ticket, shared=True, deadline=deadline)
                if stamp.pending:
                    return not engine.breaker.is_open
            return True
        finally:
            self._is_flushing = False

    def finish(self) -> None:
        """End the log's reader. Invalidations that wait for the shared layer get a last chance."""
        engine = self.engine
        self.is_closed = True
        self._listens = False
        self.refresher.close()
        self.shadow.close()
        if self.watcher is not None:
            self.watcher.stop()
        self.warmer.close()
        self.reader.stop()
        if engine.shared is not None:
            self.reader.flush()
        with engine.lock:  # what is queued later is told by who queues it
            engine.is_closed, queued = True, engine.ledger.tickets.queued
        if queued:
            engine.events.send("invalidation_lost", **written([targets for ticket in queued for targets in ticket.targets]))
        engine.closing = False  # what uses the cache after this is told of trouble as before

    def after_fork(self) -> None:
        """In a forked child."""
        self._is_flushing = False
        self.engine.after_fork()
        self.reader.after_fork()
        self.refresher.after_fork()
        self.shadow.after_fork()
        self.warmer.after_fork()
        if self.watcher is not None:
            self.watcher.after_fork()


def _repeated(asks: Sequence[Ask], readings: Sequence[Reading | None]) -> dict[str, Any]:
    """What a request has read already, by key."""
    return {ask.key: one.found for ask, one in zip(asks, readings, strict=True) if one is not None and one.found is not None}


def _is_of_a_request() -> bool:
    """Whether what runs here belongs to a request itself, and to no computation inside of it."""
    found = gathering.get()
    return found is not None and found.request is found


def _giving_back(release: Release) -> Flow:
    return (yield release)


def _asking(world: W) -> W:
    """A world that asks the shared layer also where it is left alone."""
    world.asks_always = True
    return world


def value_of(policy: Policy, result: Result) -> Any:
    """The value of a result. What the user's function raised is raised as it was."""
    if isinstance(result, Failed):
        raise result.error
    value = result[0]
    return own_copy(policy, value) if policy.copy else value


def own_copy(policy: Policy, value: Any) -> Any:
    """The value itself, or where the policy says ``copy = true`` a copy that its caller may change.

    A value that can not be copied is held by nobody, so its caller may have it.
    """
    if not policy.copy:
        return value
    try:
        return copy.deepcopy(value)
    except Exception:  # whatever its class raises
        return value


_alive: weakref.WeakSet[Operations] = weakref.WeakSet()
_alive_lock = lock_across_forks()


def _survive_forks(operations: Operations) -> None:
    with _alive_lock:
        _alive.add(operations)


def _after_fork() -> None:
    for operations in list(_alive):
        try:
            operations.after_fork()
        except Exception:  # of a layer that was plugged in: the other caches have to be put in order all the same
            logger.exception("a cache could not be put in order after a fork")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
