"""Replacing: the block in which a value is obtained that will be set (`Cache.update`).

What the block reads through the cache is what the value is made of, as in a computation. The block holds the lease of its key, so a
read of that very key inside it waits for nobody: it would wait for itself.
"""

from __future__ import annotations

from contextlib import suppress
from contextvars import ContextVar
from typing import Final

from cachesync.coordination.engine import Engine
from cachesync.coordination.gathering import Gathering, gathering
from cachesync.core.flows import Ask, Seized
from cachesync.core.stamps import Stamp

_replacing: ContextVar[frozenset[tuple[Engine, str]]] = ContextVar("cachesync_replacing", default=frozenset())


def is_replacing(engine: Engine, key: str) -> bool:
    """Whether this thread or task is in a block that replaces the value of ``key``."""
    return (engine, key) in _replacing.get()


class Block:
    """One block, from its beginning to `leave`. ``found`` is what was read inside; nothing of it may be older than ``least``."""

    def __init__(self, engine: Engine, ask: Ask, seized: Seized, least: Stamp | None) -> None:
        self.seized: Final = seized
        self.found: Final = Gathering(engine, least)
        self._is_used = False
        self._outer = gathering.get()
        self._gathering = gathering.set(self.found)
        self._replacing = _replacing.set(_replacing.get() | {(engine, ask.key)})

    def once(self) -> Block:
        """The block, whose only value is about to be set. Raises ``RuntimeError`` for another one: the lease is used up."""
        if self._is_used:
            raise RuntimeError("a block sets one value; begin another update for the next")
        self._is_used = True
        return self

    def leave(self) -> None:
        """The block is over. A computation around it depends on what was read inside."""
        if self._outer is not None:
            self._outer.absorb(self.found)
        with suppress(ValueError):  # it ends in another context than it began in, as test fixtures do
            gathering.reset(self._gathering)
            _replacing.reset(self._replacing)
