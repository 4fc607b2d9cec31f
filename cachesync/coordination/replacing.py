"""Replacing: the block in which a value is obtained that will be set (`Cache.update`).

What the block reads through the cache is what the value is made of, as in a computation. The block holds the lease of its key, so a
read of that very key inside it waits for nobody: it would wait for itself.
"""

from __future__ import annotations

import weakref
from contextlib import suppress
from contextvars import ContextVar
from typing import Final

from cachesync.coordination.engine import Engine
from cachesync.coordination.gathering import Gathering, gathering
from cachesync.core.flows import Ask, Seized
from cachesync.core.stamps import Stamp

_blocks: ContextVar[tuple[Block, ...]] = ContextVar("cachesync_blocks", default=())
"""The blocks around whatever runs here. What they have begun, and outlives them, still sees them."""


def is_replacing(engine: Engine, key: str) -> bool:
    """Whether this thread or task is in a block that replaces the value of ``key``."""
    return any(not block.is_over and block.found.engine is engine and block.key == key for block in _blocks.get())


def is_in_block() -> bool:
    """Whether this thread or task is in a block, of any cache, that replaces any value."""
    return any(not block.is_over for block in _blocks.get())


class Block:
    """One block, from its beginning to `leave`. ``found`` is what was read inside; nothing of it may be older than ``least``."""

    def __init__(self, engine: Engine, ask: Ask, seized: Seized, least: Stamp | None) -> None:
        self.seized: Final = seized
        self.key: Final = ask.key
        self.found: Final = Gathering(engine, least)
        self.is_over = False
        self._is_used = False
        self._outer = gathering.get()
        self._gathering = gathering.set(self.found)
        self._blocks = _blocks.set((*_blocks.get(), self))
        engine.blocks[seized.token] = (ask.key, weakref.ref(self))

    def check(self) -> None:
        """Raise ``RuntimeError`` if the block has set its value already: its lease is used up."""
        if self._is_used:
            raise RuntimeError("a block sets one value; begin another update for the next")

    def use(self) -> None:
        """The value of this block is being set."""
        self._is_used = True

    def leave(self) -> None:
        """The block is over. A computation around it depends on what was read inside."""
        self.is_over, self.found.least = True, None
        self.found.engine.blocks.pop(self.seized.token, None)
        if self._outer is not None:
            self._outer.absorb(self.found)
        with suppress(ValueError):  # it ends in another context than it began in, as test fixtures do
            gathering.reset(self._gathering)
            _blocks.reset(self._blocks)
