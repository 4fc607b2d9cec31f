"""What a decorated function becomes: a function as before, with attributes to invalidate, refresh, look and set.

`CachedFunction` and `AsyncCachedFunction` are how type checkers see it. At run time it is a function (so that methods bind) which
carries the methods of a face; the faces stand at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Concatenate, Final, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from cachesync.coordination.operations import Operations, Wanted, value_of
from cachesync.coordination.site import Site
from cachesync.coordination.warmable import Calls, Source, Warmable, check_declared
from cachesync.coordination.wrapper import Blueprint, compile_wrapper, signature_of
from cachesync.core.entry import Entry
from cachesync.core.flows import Ask
from cachesync.core.records import KEY, Targets
from cachesync.core.stamps import Stamp
from cachesync.core.steps import Failed
from cachesync.core.warming import Warmed

if TYPE_CHECKING:
    from typing import Self

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")
RC = TypeVar("RC", covariant=True)

_ATTRIBUTES: Final = ("at_least", "invalidate", "refresh", "peek", "set", "many", "warm", "key", "tags")


class CachedFunction(Generic[P, R]):
    """A cached ``def``: call it as before. At run time it is a function with these attributes.

    A method's instance is the first argument: ``Repo.find.invalidate(repo, 3)``.
    """

    __wrapped__: Callable[P, R]

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """The cached result, or the function's own, stored for the next caller."""
        raise NotImplementedError

    if TYPE_CHECKING:

        @overload
        def __get__(self, instance: None, owner: type, /) -> Self: ...
        @overload
        def __get__(self: CachedFunction[Concatenate[S, Q], R], instance: S, owner: type | None = None, /) -> Callable[Q, R]: ...
        def __get__(self, instance: Any, owner: type | None = None, /) -> Any: ...

    def at_least(self, stamp: Stamp, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of this call, not older than ``stamp``: whatever was invalidated up to there is not in it, in any process."""
        raise NotImplementedError

    def invalidate(self, /, *args: P.args, **kwargs: P.kwargs) -> Stamp:
        """Make every copy of this call's result out of date, everywhere. Returns the position in the log."""
        raise NotImplementedError

    def refresh(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Compute anew, whatever is cached, store the result and let the other processes drop their copies."""
        raise NotImplementedError

    def peek(self, /, *args: P.args, **kwargs: P.kwargs) -> Entry[R] | None:
        """What is cached for this call, without computing; ``None`` where nothing is."""
        raise NotImplementedError

    def set(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> Stamp:
        """Store ``value`` as the result of this call and let the other processes drop their copies.

        Raises ``CodecError`` if the value can not be stored; then nothing has changed.
        """
        raise NotImplementedError

    def many(self, calls: Iterable[tuple[Any, ...]], /) -> list[R]:
        """The results of several calls, each given as a tuple of positional arguments, in their order: one trip to Redis."""
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
        what the decorator's ``warm`` names. ``progress`` is told the sums after each. What fails is counted, and ends nothing.
        """
        raise NotImplementedError

    def key(self, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key of this call, as text."""
        raise NotImplementedError

    def tags(self, /, *args: P.args, **kwargs: P.kwargs) -> tuple[str, ...]:
        """The tags of this call that are known before it is computed, as texts to invalidate by."""
        raise NotImplementedError


class AsyncMethod(Protocol[Q, RC]):
    """A cached ``async def`` method, bound to its instance."""

    async def __call__(self, /, *args: Q.args, **kwargs: Q.kwargs) -> RC:
        """The cached result, or the method's own, stored for the next caller."""
        ...


class AsyncCachedFunction(Generic[P, R]):
    """A cached ``async def``: await it as before. At run time it is a coroutine function with these attributes."""

    __wrapped__: Callable[P, Coroutine[Any, Any, R]]

    async def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """The cached result, or the function's own, stored for the next caller."""
        raise NotImplementedError

    if TYPE_CHECKING:

        @overload
        def __get__(self, instance: None, owner: type, /) -> Self: ...
        @overload
        def __get__(self: AsyncCachedFunction[Concatenate[S, Q], R], instance: S, owner: type | None = None, /) -> AsyncMethod[Q, R]: ...
        def __get__(self, instance: Any, owner: type | None = None, /) -> Any: ...

    async def at_least(self, stamp: Stamp, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of this call, not older than ``stamp``: whatever was invalidated up to there is not in it, in any process."""
        raise NotImplementedError

    async def invalidate(self, /, *args: P.args, **kwargs: P.kwargs) -> Stamp:
        """Make every copy of this call's result out of date, everywhere. Returns the position in the log."""
        raise NotImplementedError

    async def refresh(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Compute anew, whatever is cached, store the result and let the other processes drop their copies."""
        raise NotImplementedError

    async def peek(self, /, *args: P.args, **kwargs: P.kwargs) -> Entry[R] | None:
        """What is cached for this call, without computing; ``None`` where nothing is."""
        raise NotImplementedError

    async def set(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> Stamp:
        """Store ``value`` as the result of this call and let the other processes drop their copies.

        Raises ``CodecError`` if the value can not be stored; then nothing has changed.
        """
        raise NotImplementedError

    async def many(self, calls: Iterable[tuple[Any, ...]], /) -> list[R]:
        """The results of several calls, each given as a tuple of positional arguments, in their order: one trip to Redis."""
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
        what the decorator's ``warm`` names. ``progress`` is told the sums after each. What fails is counted, and ends nothing.
        """
        raise NotImplementedError

    def key(self, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key of this call, as text."""
        raise NotImplementedError

    def tags(self, /, *args: P.args, **kwargs: P.kwargs) -> tuple[str, ...]:
        """The tags of this call that are known before it is computed, as texts to invalidate by."""
        raise NotImplementedError


def dress(site: Site, blueprint: Blueprint, operations: Operations, *, warm: Any = None) -> Any:
    """The function that takes the place of the original, with the attributes of its colour. ``warm`` is what is declared to be warmed."""
    face = (_AsyncFace if blueprint.is_async else _Face)(site, blueprint, operations)
    parameters = signature_of(blueprint.function, blueprint.name).parameters
    declared = check_declared(warm, blueprint.bind, blueprint.name)
    site.warmable = Warmable(site, parameters, blueprint.bind, face.questions, blueprint.is_async, page=1, declared=declared)
    engine = operations.engine
    check = operations.shadow.check_copy
    wrapper = compile_wrapper(blueprint, site, ledger=engine.ledger, now=engine.now, slow=face.slow, check=check)
    for attribute in _ATTRIBUTES:
        setattr(wrapper, attribute, getattr(face, attribute))
    return wrapper


class _Both:
    """What the two colours of a face have in common: from a call to the question it asks."""

    def __init__(self, site: Site, blueprint: Blueprint, operations: Operations) -> None:
        self._site = site
        self._bind = blueprint.bind
        self._operations = operations

    def _ask(self, values: tuple[Any, ...]) -> Ask:
        return self._operations.engine.ask(self._site, self._site.address(values), values)

    def _want_all(self, calls: Iterable[tuple[Any, ...]]) -> list[Wanted]:
        rows = [self._bind(*call) for call in calls]
        return [Wanted(self._site, self._site.address(values), values) for values in rows]

    def questions(self, /, *args: Any, **kwargs: Any) -> list[Wanted]:
        values = self._bind(*args, **kwargs)
        return [Wanted(self._site, self._site.address(values), values)]

    def _sources(self, calls: Calls | Callable[[], Any] | None) -> list[Source]:
        return self._operations.warmer.source_of(self._site.warmable, calls)

    def _value(self, result: Any) -> Any:
        return value_of(self._site.policy, result)

    def _targets(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Targets, ...]:
        return (Targets(KEY, (self.key(*args, **kwargs),)),)

    def key(self, /, *args: Any, **kwargs: Any) -> str:
        return self._site.address(self._bind(*args, **kwargs)).key

    def tags(self, /, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        return tuple(text for _, text in self._site.address(self._bind(*args, **kwargs)).dependencies)


class _Face(_Both):
    """The attributes of a cached ``def``, and what its wrapper calls where there is no copy that can be served as it is."""

    def slow(self, values: tuple[Any, ...]) -> Any:
        return self._value(self._operations.obtain(self._ask(values)))

    def at_least(self, stamp: Stamp, /, *args: Any, **kwargs: Any) -> Any:
        ask = self._ask(self._bind(*args, **kwargs))
        return self._value(self._operations.run(self._operations.obtaining(ask, stamp)))

    def invalidate(self, /, *args: Any, **kwargs: Any) -> Stamp:
        return cast("Stamp", self._operations.run(self._operations.invalidating(self._targets(args, kwargs))))

    def refresh(self, /, *args: Any, **kwargs: Any) -> Any:
        ask = self._ask(self._bind(*args, **kwargs))
        return self._value(self._operations.run(self._operations.putting(ask, None))[0])

    def peek(self, /, *args: Any, **kwargs: Any) -> Entry[Any] | None:
        ask = self._ask(self._bind(*args, **kwargs))
        return cast("Entry[Any] | None", self._operations.run(self._operations.peeking(ask)))

    def set(self, value: Any, /, *args: Any, **kwargs: Any) -> Stamp:
        ask = self._ask(self._bind(*args, **kwargs))
        return stamp_of(self._operations.run(self._operations.putting(ask, (value,))))

    def many(self, calls: Iterable[tuple[Any, ...]], /) -> list[Any]:
        wanted, operations = self._want_all(calls), self._operations
        refresh = _one_by_one(operations.refresher.start)
        return [self._value(result) for result in operations.run(operations.obtaining_each(wanted, refresh))]

    def warm(self, calls: Any = None, /, *, progress: Any = None, concurrency: int | None = None) -> Warmed:
        warmer = self._operations.warmer
        return warmer.warm(self._sources(calls), warmer.manner(progress, concurrency))


class _AsyncFace(_Both):
    """The same for a cached ``async def``."""

    async def slow(self, values: tuple[Any, ...]) -> Any:
        return self._value(await self._operations.aobtain(self._ask(values)))

    async def at_least(self, stamp: Stamp, /, *args: Any, **kwargs: Any) -> Any:
        ask = self._ask(self._bind(*args, **kwargs))
        return self._value(await self._operations.arun(self._operations.obtaining(ask, stamp)))

    async def invalidate(self, /, *args: Any, **kwargs: Any) -> Stamp:
        return cast("Stamp", await self._operations.arun(self._operations.invalidating(self._targets(args, kwargs))))

    async def refresh(self, /, *args: Any, **kwargs: Any) -> Any:
        ask = self._ask(self._bind(*args, **kwargs))
        return self._value((await self._operations.arun(self._operations.putting(ask, None)))[0])

    async def peek(self, /, *args: Any, **kwargs: Any) -> Entry[Any] | None:
        ask = self._ask(self._bind(*args, **kwargs))
        return cast("Entry[Any] | None", await self._operations.arun(self._operations.peeking(ask)))

    async def set(self, value: Any, /, *args: Any, **kwargs: Any) -> Stamp:
        ask = self._ask(self._bind(*args, **kwargs))
        return stamp_of(await self._operations.arun(self._operations.putting(ask, (value,))))

    async def many(self, calls: Iterable[tuple[Any, ...]], /) -> list[Any]:
        wanted, operations = self._want_all(calls), self._operations
        refresh = _one_by_one(operations.refresher.start_task)
        return [self._value(result) for result in await operations.arun(operations.obtaining_each(wanted, refresh))]

    async def warm(self, calls: Any = None, /, *, progress: Any = None, concurrency: int | None = None) -> Warmed:
        warmer = self._operations.warmer
        return await warmer.awarm(self._sources(calls), warmer.manner(progress, concurrency))


def _one_by_one(start: Callable[[Ask], None]) -> Callable[[list[Ask]], None]:
    def refresh(asks: list[Ask]) -> None:
        for ask in asks:
            start(ask)

    return refresh


def stamp_of(put: tuple[Any, Stamp | None]) -> Stamp:
    """The stamp of a ``set``."""
    result, stamp = put
    if isinstance(result, Failed):
        raise result.error
    assert stamp is not None
    return stamp
