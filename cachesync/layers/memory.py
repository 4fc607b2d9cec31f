"""A shared layer inside one process: for tests, and to try what several caches do before there is a Redis.

It answers the same steps as Redis with the same meaning, under one lock. Several ``Cache`` objects that are given the same
``MemoryShared`` are several nodes of one system.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from operator import itemgetter

from cachesync.core.auditing import Question
from cachesync.core.bans import BanIndex
from cachesync.core.envelope import IDENTITY
from cachesync.core.records import SOFT, Record, Targets
from cachesync.core.stamps import EPOCH_BYTES, Lineage, Stamp
from cachesync.core.steps import (
    Announce,
    Announced,
    Bans,
    Beat,
    Collect,
    Confirm,
    Discard,
    Discarded,
    Done,
    Extend,
    Failed,
    Fetch,
    Fetched,
    Heads,
    Hear,
    Heard,
    Holder,
    Inquire,
    Joined,
    Lease,
    Leased,
    Log,
    ReadBans,
    ReadLog,
    Release,
    Replies,
    Reply,
    Scan,
    Scanned,
    Seize,
    SharedReply,
    SharedStep,
    Snapshot,
    Store,
    Testify,
    Testimony,
    Throw,
    Together,
    Torn,
    Woken,
)
from cachesync.core.switches import NOTHING_THROWN, Thrown, changed
from cachesync.errors import LayerError
from cachesync.layers.forks import lock_across_forks

LOG_LENGTH = 10_000
SLACK = 1_000
"""Leases that may always be taken between two looks for what has expired; a fill needs one."""


class MemoryShared:
    """Entries, leases and a log in this process's memory. ``clock`` is seconds; its readings are the layer's server time.

    ``down = True`` makes every step fail, as an unreachable server would.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.changed = threading.Condition(lock_across_forks())
        self.down = False
        self.ears: list[MemoryEar] = []
        self.flush()
        self.sync = self

    def flush(self) -> None:
        """Lose everything, the log and its epoch included, as ``FLUSHALL`` does."""
        with self.changed:
            self._entries: dict[str, tuple[bytes, int]] = {}  # key to bytes and expiry, milliseconds
            self._leases: dict[str, tuple[Holder, int]] = {}
            self._taken, self._room = 0, SLACK  # leases taken since it was last looked for what has expired, and how many may be
            self._epoch: str | None = None
            self._number = 0
            self._nonce = ""
            self._cuts: Mapping[str, int] = {}
            self._hard, self._soft = BanIndex(), BanIndex()
            self._answers: dict[str, list[tuple[str, int]]] = {}
            self._again: set[tuple[str, str, str]] = set()
            self._thrown = NOTHING_THROWN
            self._records: list[Record] = []
            self.changed.notify_all()

    def fail_over(self, lost: int) -> None:
        """Go on as a server does that takes over without the last ``lost`` records: an epoch of its own begins where they are missing."""
        with self.changed:
            assert self._epoch is not None
            self._number -= lost
            self._records = self._records[: len(self._records) - lost]
            self._nonce = self._records[-1].nonce if self._records else ""
            self._hard, self._soft = BanIndex(), BanIndex()
            for record in self._records:
                (self._soft if record.targets.is_soft else self._hard).add_all(record.targets, record.number)
            self._cuts = {**self._cuts, self._epoch: self._number}
            self._epoch = os.urandom(EPOCH_BYTES).hex()
            self._again.clear()

    def beat(self) -> Beat:
        """Where the log ends."""
        return Beat(self.head(), self._nonce, is_master=True, is_same=True, thrown=self._thrown)

    def of_loop(self) -> AsyncMemory:
        return AsyncMemory(self)

    def close(self) -> None:
        """Nothing is open."""

    async def aclose(self) -> None:
        """Nothing is open."""

    def after_fork(self) -> None:
        """A child's copy is its own from now on: memory is not shared between processes."""
        self.changed = threading.Condition(lock_across_forks())
        self.ears = []

    def ear(self) -> MemoryEar:
        return MemoryEar(self)

    def perform(self, step: SharedStep, /) -> Reply:
        if self.down:
            return _is_down(step)
        with self.changed:
            return self._perform(step)

    def _perform(self, step: SharedStep) -> SharedReply:
        now = self._now()
        match step:
            case Fetch(keys):
                return Fetched(tuple(self._entry(key, now) for key in keys), self.head(), now)
            case Lease(key, token, stamp, milliseconds, dead, over):
                blob = self._entry(key, now)
                if blob is not None and (dead is None or blob[:IDENTITY] != dead):
                    return Leased(granted=False, blob=blob, head=self.head(), now=now)
                holder = self._holder(key, now)
                granted = holder is None or holder.token == token or holder == over
                if granted:
                    self._take(key, Holder(token, stamp), now, milliseconds)
                return Leased(granted=granted, blob=None, head=self.head(), now=now, holder=None if granted else holder)
            case Seize(key, token, stamp, milliseconds, unlink):
                self._take(key, Holder(token, stamp), now, milliseconds)
                if unlink:
                    self._entries.pop(key, None)
                return Leased(granted=True, blob=None, head=self.head(), now=now)
            case Extend(key, token, milliseconds):
                holder = self._holder(key, now)
                own = holder is not None and holder.token == token
                if own and holder is not None:
                    self._leases[key] = (holder, now + milliseconds)
                return Done(own)
            case Release(key, token, _, rest, milliseconds):
                released = self._release(key, token, now)
                if released and rest is not None:
                    self._leases[key] = (rest, now + milliseconds)
                return Done(released)
            case Store(key, token, blob, milliseconds):
                return Done(self._store(key, token, blob, now, milliseconds))
            case Announce():
                return self._announce(step)
            case ReadLog(after):
                return self._read(after)
            case Confirm():
                return self.beat()
            case Snapshot():
                self._begin()
                assert self._epoch is not None
                lineage = Lineage(self._epoch, self._cuts)
                return Joined(Stamp(self._epoch, self._number), self._nonce, lineage, thrown=self._thrown)
            case ReadBans():
                return self._bans(step)
            case Scan():
                return Scanned(tuple((key.encode("utf-8", "surrogatepass"), key) for key in self._entries if self._entry(key, now)), 0)
            case Heads(names):
                return Fetched(tuple(self._entry(name.decode("utf-8", "surrogatepass"), now) for name in names), self.head(), now)
            case Discard(entries):
                return Discarded(sum(self._discard(name.decode("utf-8", "surrogatepass"), identity, now) for name, identity in entries))
            case Inquire(question):
                self._answers.setdefault(question.id, [])
                self._publish(question)
                return Done(done=True)
            case Testify(question, origin, number):
                self._answers.setdefault(question.id, []).append((origin, number))
                return Done(done=True)
            case Collect(question):
                return Testimony(tuple(self._answers.pop(question.id, [])))
            case Throw(changes, again):
                return self._throw(changes, again)
            case Together(steps):
                return Replies(tuple(self._perform(one) for one in steps))

    def _now(self) -> int:
        return int(self.clock() * 1000)

    def head(self) -> Stamp | None:
        return None if self._epoch is None else Stamp(self._epoch, self._number)

    def _begin(self) -> Stamp:
        if self._epoch is None:
            self._epoch = os.urandom(EPOCH_BYTES).hex()
        return Stamp(self._epoch, self._number)

    def _entry(self, key: str, now: int) -> bytes | None:
        blob, expiry = self._entries.get(key, (None, 0))
        return blob if expiry > now else None

    def _holder(self, key: str, now: int) -> Holder | None:
        holder, expiry = self._leases.get(key, (None, 0))
        return holder if expiry > now else None

    def _take(self, key: str, holder: Holder, now: int, milliseconds: int) -> None:
        """Note who holds a lease. Now and then all that has expired is forgotten, so that this grows with what lives."""
        self._leases[key] = (holder, now + milliseconds)
        self._taken += 1
        if self._taken > self._room:
            self._entries = {key: entry for key, entry in self._entries.items() if entry[1] > now}
            self._leases = {key: lease for key, lease in self._leases.items() if lease[1] > now}
            self._taken, self._room = 0, len(self._entries) + len(self._leases) + SLACK

    def _release(self, key: str, token: str, now: int) -> bool:
        holder = self._holder(key, now)
        if holder is None or holder.token != token:
            return False
        del self._leases[key]
        self._publish(Woken(key))
        return True

    def _discard(self, key: str, identity: bytes, now: int) -> bool:
        blob = self._entry(key, now)
        return blob is not None and blob[:IDENTITY] == identity and self._entries.pop(key, None) is not None

    def _store(self, key: str, token: str, blob: bytes, now: int, milliseconds: int) -> bool:
        if not self._release(key, token, now):
            return False
        there = self._entry(key, now)
        if there is not None and there[8:16] == blob[8:16] and there[16:24] > blob[16:24]:
            return False
        self._entries[key] = (blob, now + milliseconds)
        return True

    def _announce(self, step: Announce) -> Announced:
        self._begin()
        for key in step.unlink:
            self._entries.pop(key, None)
            self._leases.pop(key, None)
        for targets, nonce in zip(step.targets, step.nonces, strict=True):
            new = tuple(text for text in targets.texts if (targets.mode, targets.kind, text) not in self._again)
            if step.again:
                self._again.update((targets.mode, targets.kind, text) for text in targets.texts)
            if new or not step.again:
                self._append(replace(targets, texts=new) if step.again else targets, nonce, step.origin)
        return Announced(self._begin())

    def _throw(self, changes: tuple[tuple[str, str], ...], again: Thrown | None) -> Thrown:
        before = self._thrown
        switched = changed(dict(before.switched), changes)
        thrown = again or Thrown(max(self._now(), before.version + 1), tuple(sorted(switched.items())))
        if thrown.version > before.version:
            self._thrown = thrown
            self._publish(thrown)
        return self._thrown

    def _append(self, targets: Targets, nonce: str, origin: str) -> None:
        assert self._epoch is not None
        self._number += 1
        record = Record(self._epoch, self._number, nonce, self._nonce, targets, origin, self._now())
        self._records.append(record)
        self._nonce = nonce
        index = self._soft if targets.is_soft else self._hard
        index.add_all(targets, self._number)
        if len(self._records) > LOG_LENGTH:
            self._records.pop(0)
        self._publish(record)

    def _publish(self, item: Record | Woken | Question | Thrown) -> None:
        for ear in self.ears:
            ear.tell(item)
        self.changed.notify_all()

    def _bans(self, step: ReadBans) -> Bans:
        hard, soft = self._hard, self._soft
        softly = [(number, replace(targets, mode=SOFT)) for targets, number in soft.numbered() if number >= step.since]
        found = sorted([*((number, targets) for targets, number in hard.numbered() if number >= step.since), *softly], key=itemgetter(0))
        page = tuple((targets, number) for number, targets in found[: step.most])
        return Bans(page, len(found) > step.most, self._epoch, hard.floors, max(soft.floors))

    def _read(self, after: Stamp) -> Log:
        head = self.head()
        first = self._records[0].number if self._records else self._number + 1
        if head is None or head.epoch != after.epoch or first > after.number + 1:
            return Log((), head, gap=True)
        return Log(tuple(self._records[max(0, after.number + 1 - first) :]), head, gap=False)

    @contextmanager
    def outage(self) -> Generator[None, None, None]:
        """Every step fails inside the ``with`` block."""
        with self.changed:
            self.down = True
            self.changed.notify_all()
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


class MemoryEar:
    """Hears what happens in a `MemoryShared`."""

    def __init__(self, memory: MemoryShared) -> None:
        self._memory = memory
        self._heard: list[Record | Torn | Beat | Woken | Question | Thrown] = []
        self._watched: set[str] = set()
        self._wakes = 0

    def tell(self, item: Record | Woken | Question | Thrown) -> None:
        """Something is published; the memory's lock is held."""
        if not isinstance(item, Woken) or item.key in self._watched:
            self._heard.append(item)

    def perform(self, step: Hear, /) -> Heard | Failed:
        memory = self._memory
        with memory.changed:
            if memory.down:
                return self._lose(step)
            if self not in memory.ears:
                memory.ears.append(self)
                self._heard.extend(map(Woken, sorted(self._watched)))
            if step.beat:
                self._heard.append(memory.beat()._replace(asked=memory.clock()))
            memory.changed.wait_for(lambda: self._heard or self._wakes or memory.down, timeout=step.seconds)
            if self not in memory.ears or memory.down:
                return self._lose(step)
            heard, self._heard, self._wakes = tuple(self._heard), [], 0
            return Heard(heard)

    def _lose(self, step: Hear) -> Failed:
        if self in self._memory.ears:
            self._memory.ears.remove(self)
        self._heard.clear()
        return _is_down(step)

    def watch(self, key: str) -> None:
        with self._memory.changed:
            self._watched.add(key)
            if self in self._memory.ears:
                self._heard.append(Woken(key))
                self._memory.changed.notify_all()

    def unwatch(self, key: str) -> None:
        with self._memory.changed:
            self._watched.discard(key)
            self._heard = [item for item in self._heard if item != Woken(key)]

    def wake(self) -> None:
        with self._memory.changed:
            self._wakes += 1
            self._memory.changed.notify_all()

    def close(self) -> None:
        with self._memory.changed:
            if self in self._memory.ears:
                self._memory.ears.remove(self)


def _is_down(step: object) -> Failed:
    return Failed(LayerError(f"memory, {type(step).__name__.lower()}: it is down"))
