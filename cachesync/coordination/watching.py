"""Watching: what stands around computations and the shared layer while somebody watches spans, and does not exist otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Final

from cachesync.coordination.events import Events, Span, Watch
from cachesync.core.flows import Ask
from cachesync.core.steps import Failed, Reply, SharedStep
from cachesync.protocols import AsyncSharedLayer, Ear, Shared, SharedLayer

UNWATCHED: Final = nullcontext(None)
"""Stands in for a span while nobody watches."""


def watch_of(events: Events, name: str, ask: Ask) -> Watch:
    """A span about one question."""
    watch = events.watch(name, key=ask.key, policy=ask.policy.name, function=ask.site.name)
    watch.span.conceals |= ask.policy.encrypt
    return watch


def watch_of_many(events: Events, asks: Sequence[Ask]) -> Watch:
    """A span about the call of a function of many arguments."""
    policy, keys = asks[0].policy, [ask.key for ask in asks]
    watch = events.watch("compute_many", keys=keys, policy=policy.name, function=asks[0].site.name)
    watch.span.conceals |= policy.encrypt
    return watch


def watched_call(events: Events, ask: Ask) -> Callable[..., Any]:
    """What computes the answer to a question, in ``def``, as a span."""

    def call(*values: Any) -> Any:
        with watch_of(events, "compute", ask):
            return ask.call(*values)

    return call


def watched_acall(events: Events, ask: Ask) -> Callable[..., Any]:
    """As `watched_call`, in ``async def``."""

    async def call(*values: Any) -> Any:
        with watch_of(events, "compute", ask):
            return await ask.call(*values)

    return call


def silent_of(shared: Shared | None) -> Mapping[str, str]:
    """The servers of a shared layer that are left alone now, each with its trouble, where there are several and not all are in trouble."""
    silent: Callable[[], Mapping[str, str]] | None = getattr(shared, "silent", None)
    return {} if silent is None else silent()


class WatchedShared:
    """A shared layer whose steps are spans. It stands in for ``inner`` as long as somebody watches."""

    def __init__(self, inner: Shared, events: Events) -> None:
        self.inner = inner
        self._events = events

    @property
    def sync(self) -> SharedLayer:
        return _Watched(self.inner.sync, self._watch)

    def of_loop(self) -> AsyncSharedLayer:
        return _AsyncWatched(self.inner.of_loop(), self._watch)

    def _watch(self, step: SharedStep) -> Watch:
        several, one = getattr(step, "keys", None), getattr(step, "key", None)
        keys = list(several) if several is not None else [] if one is None else [one]
        commands: Callable[[SharedStep], list[str]] | None = getattr(self.inner, "commands", None)
        asked = [] if commands is None else commands(step)
        return self._events.watch("shared", layer="shared", step=type(step).__name__, keys=keys, commands=asked)

    def ear(self) -> Ear:
        return self.inner.ear()

    def silent(self) -> Mapping[str, str]:
        return silent_of(self.inner)

    def close(self) -> None:
        self.inner.close()

    async def aclose(self) -> None:
        await self.inner.aclose()

    def after_fork(self) -> None:
        self.inner.after_fork()


class _Watched:
    def __init__(self, inner: SharedLayer, watch: Callable[[SharedStep], Watch]) -> None:
        self._inner = inner
        self._watch = watch

    def perform(self, step: SharedStep, /) -> Reply:
        with self._watch(step) as span:
            return _noted(span, self._inner.perform(step))


class _AsyncWatched:
    def __init__(self, inner: AsyncSharedLayer, watch: Callable[[SharedStep], Watch]) -> None:
        self._inner = inner
        self._watch = watch

    async def perform(self, step: SharedStep, /) -> Reply:
        with self._watch(step) as span:
            return _noted(span, await self._inner.perform(step))


def _noted(span: Span, reply: Reply) -> Reply:
    if isinstance(reply, Failed):
        span.error = reply.error
    return reply
