"""A shared layer inside one process: for tests, and to try what several caches do before there is a Redis.

It answers the same steps as Redis with the same meaning, under one lock. Several ``Cache`` objects that are given the same
``MemoryShared`` are several nodes of one system.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from cachesync.core.envelope import IDENTITY
from cachesync.core.records import EVERYTHING, Record, Targets
from cachesync.core.stamps import EPOCH_BYTES, Stamp
from cachesync.core.steps import (
    Announce,
    Announced,
    Done,
    Extend,
    Failed,
    Fetch,
    Fetched,
    Joined,
    Lease,
    Leased,
    Log,
    ReadLog,
    Release,
    Reply,
    Seize,
    SharedReply,
    SharedStep,
    Snapshot,
    Store,
)
from cachesync.errors import LayerError

LOG_LENGTH = 10_000


class MemoryShared:
    """Entries, leases and a log in this process's memory. ``clock`` is seconds; its readings are the layer's server time.

    ``down = True`` makes every step fail, as an unreachable server would.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self.down = False
        self._wakes = 0
        self.flush()
        self.sync = self

    def flush(self) -> None:
        """Lose everything, the log and its epoch included, as ``FLUSHALL`` does."""
        with self._changed:
            self._entries: dict[str, tuple[bytes, int]] = {}  # key to bytes and expiry, milliseconds
            self._leases: dict[str, tuple[str, int]] = {}
            self._epoch: str | None = None
            self._number = 0
            self._floor = 0
            self._nonce = ""
            self._records: list[Record] = []
            self._changed.notify_all()

    def of_loop(self) -> AsyncMemory:
        return AsyncMemory(self)

    def close(self) -> None:
        """Nothing is open."""

    async def aclose(self) -> None:
        """Nothing is open."""

    def after_fork(self) -> None:
        """A child's copy is its own from now on: memory is not shared between processes."""
        self._changed = threading.Condition()

    def perform(self, step: SharedStep, /) -> Reply:
        if self.down:
            return Failed(LayerError(f"memory, {step.__class__.__name__.lower()}: it is down"))
        with self._changed:
            if isinstance(step, ReadLog) and step.block > 0:
                before = self._wakes
                self._changed.wait_for(lambda: self._wakes != before or self._head() != step.after, timeout=step.block)
            return self._perform(step)

    def wake(self) -> None:
        with self._changed:
            self._wakes += 1
            self._changed.notify_all()

    def _perform(self, step: SharedStep) -> SharedReply:
        now = self._now()
        match step:
            case Fetch(keys):
                return Fetched(tuple(self._entry(key, now) for key in keys), self._head(), now)
            case Lease(key, token, milliseconds, dead):
                blob = self._entry(key, now)
                if blob is not None and (dead is None or blob[:IDENTITY] != dead):
                    return Leased(granted=False, blob=blob, head=self._head(), now=now)
                holder = self._holder(key, now)
                granted = holder is None or holder == token
                if granted:
                    self._leases[key] = (token, now + milliseconds)
                return Leased(granted=granted, blob=None, head=self._head(), now=now)
            case Seize(key, token, milliseconds, unlink):
                self._leases[key] = (token, now + milliseconds)
                if unlink:
                    self._entries.pop(key, None)
                return Leased(granted=True, blob=None, head=self._head(), now=now)
            case Extend(key, token, milliseconds):
                own = self._holder(key, now) == token
                if own:
                    self._leases[key] = (token, now + milliseconds)
                return Done(own)
            case Release(key, token):
                own = self._holder(key, now) == token
                if own:
                    del self._leases[key]
                return Done(own)
            case Store(key, token, blob, milliseconds):
                return Done(self._store(key, token, blob, now, milliseconds))
            case Announce(targets, nonces, origin, unlink):
                self._begin()
                for key in unlink:
                    self._entries.pop(key, None)
                    self._leases.pop(key, None)
                for one, nonce in zip(targets, nonces, strict=True):
                    self._append(one, nonce, origin)
                self._changed.notify_all()
                return Announced(self._begin())
            case ReadLog(after):
                return self._read(after)
            case Snapshot():
                head = self._begin()
                bans = tuple((record.targets, record.number) for record in self._records if record.targets.kind != EVERYTHING)
                return Joined(head, self._floor, bans)

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def _head(self) -> Stamp | None:
        return None if self._epoch is None else Stamp(self._epoch, self._number)

    def _begin(self) -> Stamp:
        if self._epoch is None:
            self._epoch = os.urandom(EPOCH_BYTES).hex()
        return Stamp(self._epoch, self._number)

    def _entry(self, key: str, now: int) -> bytes | None:
        blob, expiry = self._entries.get(key, (None, 0))
        return blob if expiry > now else None

    def _holder(self, key: str, now: int) -> str | None:
        token, expiry = self._leases.get(key, (None, 0))
        return token if expiry > now else None

    def _store(self, key: str, token: str, blob: bytes, now: int, milliseconds: int) -> bool:
        if self._holder(key, now) != token:
            return False
        del self._leases[key]
        there = self._entry(key, now)
        if there is not None and there[8:16] == blob[8:16] and there[16:24] > blob[16:24]:
            return False
        self._entries[key] = (blob, now + milliseconds)
        return True

    def _append(self, targets: Targets, nonce: str, origin: str) -> None:
        assert self._epoch is not None
        self._number += 1
        self._records.append(Record(self._epoch, self._number, nonce, self._nonce, targets, origin))
        self._nonce = nonce
        if targets.kind == EVERYTHING:
            self._floor = self._number
        if len(self._records) > LOG_LENGTH:
            self._floor = max(self._floor, self._records.pop(0).number)

    def _read(self, after: Stamp) -> Log:
        head = self._head()
        first = self._records[0].number if self._records else self._number + 1
        if head is None or head.epoch != after.epoch or first > after.number + 1:
            return Log((), head, gap=True)
        return Log(tuple(self._records[max(0, after.number + 1 - first) :]), head, gap=False)

    @contextmanager
    def outage(self) -> Generator[None, None, None]:
        """Every step fails inside the ``with`` block."""
        self.down = True
        self.wake()
        try:
            yield
        finally:
            self.down = False


class AsyncMemory:
    """The same layer for ``async def``. Nothing in it waits."""

    def __init__(self, memory: MemoryShared) -> None:
        self._memory = memory

    async def perform(self, step: SharedStep, /) -> Reply:
        return self._memory.perform(step)
