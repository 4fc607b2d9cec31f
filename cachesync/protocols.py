"""The sockets: what a layer, a codec, a clock or a listener must offer to be plugged in."""

from __future__ import annotations

from collections.abc import Awaitable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from cachesync.core.entry import Held
from cachesync.core.steps import Failed, Hear, Heard, Reply, SharedStep

K = TypeVar("K", contravariant=True)
V = TypeVar("V", covariant=True)


class Clock(Protocol):
    """Time inside one process, in seconds. It never goes back, and it says nothing about other machines."""

    def monotonic(self) -> float:
        """Seconds since some moment."""
        ...


class Codec(Protocol):
    """Values to bytes and back, as the same type. Both methods raise ``CodecError`` and nothing else."""

    @property
    def name(self) -> str:
        """Short and stable: it stands in messages."""
        ...

    def encode(self, value: object, /) -> bytes:
        """The bytes of a value."""
        ...

    def decode(self, payload: bytes | memoryview, /) -> Any:
        """The value of such bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Usage:
    """How full a local layer is. ``evictions`` counts the copies that had to go before their time."""

    entries: int
    bytes: int
    max_entries: int
    max_bytes: int
    evictions: int


class Shelf(Protocol):
    """The copies of one cached function, by its raw arguments.

    ``copies[raw]`` is read on every hit, from any thread and without a lock: it returns the copy or raises ``KeyError``.
    """

    @property
    def copies(self) -> Mapping[Hashable, Held]:
        """The copies by raw key."""
        ...

    @property
    def hits(self) -> int:
        """How often copies of this shelf were served, the departed ones included."""
        ...

    def put(self, raw: Hashable, held: Held) -> Held:
        """Keep ``held`` under ``raw``; what stands there already is renewed in place. Returns the copy that stands there now."""
        ...

    def drop(self, raw: Hashable) -> bool:
        """Take the copy under ``raw`` away. True if there was one."""
        ...

    def __iter__(self) -> Iterator[Held]:
        """All copies on this shelf, as they are at this moment."""
        ...

    def __len__(self) -> int: ...


class LocalLayer(Protocol):
    """Local memory, shared by the shelves of one cache and bounded over all of them."""

    def shelf(self) -> Shelf:
        """A new, empty shelf."""
        ...

    def clear(self) -> None:
        """Drop every copy on every shelf."""
        ...

    def usage(self) -> Usage:
        """How full the layer is."""
        ...


class SharedLayer(Protocol):
    """A layer that several processes share, for ``def``. A failure is a reply (``Failed``), never an exception."""

    def perform(self, step: SharedStep, /) -> Reply:
        """Do what a step asks, before its deadline."""
        ...


class AsyncSharedLayer(Protocol):
    """A layer that several processes share, for ``async def``. A failure is a reply (``Failed``), never an exception."""

    def perform(self, step: SharedStep, /) -> Awaitable[Reply]:
        """Do what a step asks, before its deadline."""
        ...


class Ear(Protocol):
    """Hears what is published, for one process. `perform` is called by one thread, the rest by any."""

    def perform(self, step: Hear, /) -> Heard | Failed:
        """Wait for what comes, and return it in the order in which it was sent. After a failure the next step begins anew.

        What is published between the first answer to a step with ``beat`` and the next failure is heard, all of it.
        """
        ...

    def watch(self, key: str) -> None:
        """Hear when the lease of ``key`` ends (`Woken`), also where it ended before that was heard; at the worst once too often."""
        ...

    def unwatch(self, key: str) -> None:
        """Hear it no more."""
        ...

    def wake(self) -> None:
        """Let `perform` return at once."""
        ...

    def close(self) -> None:
        """End it. Called when nobody is in `perform`."""
        ...


class Shared(Protocol):
    """One shared store, reached in both colours: what a cache is given as ``shared=``."""

    @property
    def sync(self) -> SharedLayer:
        """The layer for threads."""
        ...

    def of_loop(self) -> AsyncSharedLayer:
        """The layer for the event loop that is running."""
        ...

    def ear(self) -> Ear:
        """What hears, for one process, what is published. Each call makes another one."""
        ...

    def close(self) -> None:
        """End what threads have opened."""
        ...

    async def aclose(self) -> None:
        """End what threads and the running loop have opened."""
        ...

    def after_fork(self) -> None:
        """Called in a forked child: drop what can not be shared with the parent (sockets, locks)."""
        ...


class Listener(Protocol):
    """Is told of events, as plain values. It must not block; what it raises is logged and goes no further."""

    def __call__(self, event: Any, /) -> None:
        """Take note of an event."""
        ...


class Watcher(Protocol):
    """Is told of spans: what takes time. It must not block; what it raises is told as an event and goes no further."""

    def __call__(self, span: Any, /) -> AbstractContextManager[object]:
        """A context manager for one span: entered where it begins, left where it is over, in the same thread or task.

        It is made where the span was caused, which for a refresh in the background is another thread.
        """
        ...
