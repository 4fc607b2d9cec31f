"""What a function of many arguments becomes: one whose items are cached each for itself, and computed in one call.

`CachedMany` and `AsyncCachedMany` are how type checkers see it. At run time it is a function (so that methods bind) with these
attributes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, Final, Generic, ParamSpec, TypeVar, cast, overload

from cachesync.coordination.gathering import gathering
from cachesync.coordination.items import Items, check_items, items_of
from cachesync.coordination.operations import Operations, Wanted, value_of
from cachesync.coordination.site import Site
from cachesync.coordination.warmable import Calls, Source, Warmable, check_declared
from cachesync.coordination.wrapper import signature_of
from cachesync.core.records import KEY, Targets
from cachesync.core.stamps import Stamp, check_stamp
from cachesync.core.steps import Flow
from cachesync.core.together import together
from cachesync.core.warming import Warmed
from cachesync.decorator import AsyncMethod

if TYPE_CHECKING:
    from typing import Self

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")

_ATTRIBUTES: Final = ("at_least", "invalidate", "refresh", "warm", "keys")
MOST: Final = 10_000
"""Items that may be asked for at once."""


class CachedMany(Generic[P, R]):
    """A cached ``def`` of many arguments: call it as before. At run time it is a function with these attributes."""

    __wrapped__: Callable[P, R]

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """The results of these items. What is not cached is computed in one call, and stored item by item."""
        raise NotImplementedError

    if TYPE_CHECKING:

        @overload
        def __get__(self, instance: None, owner: type, /) -> Self: ...
        @overload
        def __get__(self: CachedMany[Concatenate[S, Q], R], instance: S, owner: type | None = None, /) -> Callable[Q, R]: ...
        def __get__(self, instance: Any, owner: type | None = None, /) -> Any: ...

    def at_least(self, stamp: Stamp, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """The same, not older than ``stamp``: whatever was invalidated up to there is not in it, in any process."""
        raise NotImplementedError

    def invalidate(self, /, *args: P.args, **kwargs: P.kwargs) -> Stamp:
        """Make every copy of these items out of date, everywhere. Returns the position in the log."""
        raise NotImplementedError

    def refresh(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Compute these items anew, whatever is cached, store them and let the other processes drop their copies."""
        raise NotImplementedError

    def warm(
        self,
        calls: Calls | Callable[[], Any] | None = None,
        /,
        *,
        progress: Callable[[Warmed], object] | None = None,
        concurrency: int | None = None,
    ) -> Warmed:
        """Compute what is not fresh of several calls, before anybody asks: each a tuple of arguments, or a dict of named ones. Left out:
        what the decorator's ``warm`` names. ``progress`` is told the sums after each page. What fails is counted, and ends nothing.
        """
        raise NotImplementedError

    def keys(self, /, *args: P.args, **kwargs: P.kwargs) -> list[str]:
        """The keys of these items, as texts, in their order."""
        raise NotImplementedError


class AsyncCachedMany(Generic[P, R]):
    """A cached ``async def`` of many arguments: await it as before. At run time it is a coroutine function with these attributes."""

    __wrapped__: Callable[P, Coroutine[Any, Any, R]]

    async def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """The results of these items. What is not cached is computed in one call, and stored item by item."""
        raise NotImplementedError

    if TYPE_CHECKING:

        @overload
        def __get__(self, instance: None, owner: type, /) -> Self: ...
        @overload
        def __get__(self: AsyncCachedMany[Concatenate[S, Q], R], instance: S, owner: type | None = None, /) -> AsyncMethod[Q, R]: ...
        def __get__(self, instance: Any, owner: type | None = None, /) -> Any: ...

    async def at_least(self, stamp: Stamp, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """The same, not older than ``stamp``: whatever was invalidated up to there is not in it, in any process."""
        raise NotImplementedError

    async def invalidate(self, /, *args: P.args, **kwargs: P.kwargs) -> Stamp:
        """Make every copy of these items out of date, everywhere. Returns the position in the log."""
        raise NotImplementedError

    async def refresh(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Compute these items anew, whatever is cached, store them and let the other processes drop their copies."""
        raise NotImplementedError

    async def warm(
        self,
        calls: Calls | Callable[[], Any] | None = None,
        /,
        *,
        progress: Callable[[Warmed], object] | None = None,
        concurrency: int | None = None,
    ) -> Warmed:
        """Compute what is not fresh of several calls, before anybody asks: each a tuple of arguments, or a dict of named ones. Left out:
        what the decorator's ``warm`` names. ``progress`` is told the sums after each page. What fails is counted, and ends nothing.
        """
        raise NotImplementedError

    def keys(self, /, *args: P.args, **kwargs: P.kwargs) -> list[str]:
        """The keys of these items, as texts, in their order."""
        raise NotImplementedError


def dress_many(site: Site, items: Items, operations: Operations, page: int, *, warm: Any = None) -> Any:
    """The function that takes the place of the original, with the attributes of its colour. ``warm`` is what is declared to be warmed."""
    function = items.one.function.__wrapped__  # type: ignore[attr-defined]  # what stands in for it says so
    face: _Face | _AsyncFace
    if items.one.is_async:
        face = own = _AsyncFace(site, items, operations, page)

        async def waiting(*args: Any, **kwargs: Any) -> Any:
            return await own.call(None, args, kwargs)

        wrapper: Any = functools.update_wrapper(waiting, function)
    else:
        face = plain = _Face(site, items, operations, page)

        def calling(*args: Any, **kwargs: Any) -> Any:
            return plain.call(None, args, kwargs)

        wrapper = functools.update_wrapper(calling, function)
    parameters = signature_of(items.one.function, site.name).parameters
    declared = check_declared(warm, items.bind, site.name)
    site.warmable = Warmable(site, parameters, items.bind, face.questions, items.one.is_async, page=page, declared=declared)
    for attribute in _ATTRIBUTES:
        setattr(wrapper, attribute, getattr(face, attribute))
    return wrapper


@dataclass(frozen=True, slots=True)
class Question:
    """One call: its items, and what is wanted for each of them."""

    items: Sequence[Any]
    wanted: Sequence[Wanted]


class _Both:
    """What the two colours of a face have in common: from a call to its questions, and from the answers to its result."""

    def __init__(self, site: Site, items: Items, operations: Operations, page: int) -> None:
        self._site = site
        self._plan = items
        self._operations = operations
        self._page = page

    def _question(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Question:
        plan, site = self._plan, self._site
        values = plan.bind(*args, **kwargs)
        before, after = values[: plan.index], values[plan.index + 1 :]
        items = items_of(values[plan.index], plan.parameter, site.name)
        rows = [(*before, item, *after) for item in items]
        wanted = [Wanted(site, site.address(row), row) for row in rows]
        if plan.batch.answers.form == "mapping":
            check_items(items, [one.address.key for one in wanted], site.name)
        return Question(items, wanted)

    def _at_hand(self, question: Question) -> Sequence[Any] | None:
        """The values, where a local copy of each may be served as it is."""
        engine, copies = self._operations.engine, self._site.shelf.copies
        if gathering.get() is not None or self._site.policy.shadow:
            return None
        now, mark = engine.now(), engine.ledger.mark
        found = [copies.get(one.address.raw) for one in question.wanted]
        for held in found:
            if held is None or now >= held.until or held.mark is not mark:
                return None
        for held in found:
            assert held is not None
            held.hits += 1
        return [held.value for held in found if held is not None]

    def _obtaining(self, question: Question, stamp: Stamp | None, refresh: Callable[..., None]) -> Flow:
        return self._operations.obtaining_many(question.wanted, lambda asks: refresh(*asks), least=stamp, page=self._page, at_once=True)

    def _refreshing(self, question: Question) -> Flow:
        engine = self._operations.engine
        different = list({one.address.key: one for one in question.wanted}.values())
        answers: dict[str, Any] = {}
        for begin in range(0, len(different), self._page):
            page = different[begin : begin + self._page]
            put = yield from together([self._operations.putting(engine.ask(*one), None) for one in page])
            answers.update((one.address.key, result) for one, (result, _) in zip(page, put, strict=True))
        return answers

    def _result(self, question: Question, answers: Mapping[str, Any]) -> Any:
        policy = self._site.policy
        return self._as_annotated(question, [value_of(policy, answers[one.address.key]) for one in question.wanted])

    def _as_annotated(self, question: Question, values: Sequence[Any]) -> Any:
        answers = self._plan.batch.answers
        if answers.form == "mapping":
            pairs = zip(question.items, values, strict=True)
            return dict(pairs) if answers.has_none else {item: value for item, value in pairs if value is not None}
        return tuple(values) if answers.form == "tuple" else list(values)

    def questions(self, /, *args: Any, **kwargs: Any) -> Sequence[Wanted]:
        return self._question(args, kwargs).wanted

    def _sources(self, calls: Calls | Callable[[], Any] | None) -> list[Source]:
        return self._operations.warmer.source_of(self._site.warmable, calls)

    def _targets(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Targets, ...]:
        keys = tuple(dict.fromkeys(self.keys(*args, **kwargs)))
        return (Targets(KEY, keys),) if keys else ()

    def keys(self, /, *args: Any, **kwargs: Any) -> list[str]:
        return [one.address.key for one in self._question(args, kwargs).wanted]


class _Face(_Both):
    """A cached ``def`` of many arguments."""

    def call(self, stamp: Stamp | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        question, operations = self._question(args, kwargs), self._operations
        values = self._at_hand(question) if stamp is None and not self._site.policy.copy else None
        if values is not None:
            return self._as_annotated(question, values)
        return self._result(question, operations.run(self._obtaining(question, stamp, operations.refresher.start)))

    def at_least(self, stamp: Stamp, /, *args: Any, **kwargs: Any) -> Any:
        check_stamp(stamp)
        return self.call(stamp, args, kwargs)

    def invalidate(self, /, *args: Any, **kwargs: Any) -> Stamp:
        targets, operations = self._targets(args, kwargs), self._operations
        return cast("Stamp", operations.run(operations.invalidating(targets) if targets else operations.standing()))

    def refresh(self, /, *args: Any, **kwargs: Any) -> Any:
        question = self._question(args, kwargs)
        return self._result(question, self._operations.run(self._refreshing(question)))

    def warm(self, calls: Any = None, /, *, progress: Any = None, concurrency: int | None = None) -> Warmed:
        warmer = self._operations.warmer
        return warmer.warm(self._sources(calls), warmer.manner(progress, concurrency))


class _AsyncFace(_Both):
    """A cached ``async def`` of many arguments."""

    async def call(self, stamp: Stamp | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        question, operations = self._question(args, kwargs), self._operations
        values = self._at_hand(question) if stamp is None and not self._site.policy.copy else None
        if values is not None:
            return self._as_annotated(question, values)
        return self._result(question, await operations.arun(self._obtaining(question, stamp, operations.refresher.start_task)))

    async def at_least(self, stamp: Stamp, /, *args: Any, **kwargs: Any) -> Any:
        check_stamp(stamp)
        return await self.call(stamp, args, kwargs)

    async def invalidate(self, /, *args: Any, **kwargs: Any) -> Stamp:
        targets, operations = self._targets(args, kwargs), self._operations
        return cast("Stamp", await operations.arun(operations.invalidating(targets) if targets else operations.standing()))

    async def refresh(self, /, *args: Any, **kwargs: Any) -> Any:
        question = self._question(args, kwargs)
        return self._result(question, await self._operations.arun(self._refreshing(question)))

    async def warm(self, calls: Any = None, /, *, progress: Any = None, concurrency: int | None = None) -> Warmed:
        warmer = self._operations.warmer
        return await warmer.awarm(self._sources(calls), warmer.manner(progress, concurrency))
