"""Streams: who is told, outside of this process, that something is out of date.

The *hub* remembers the last records that this process has applied or made, in the order of the log. A *stream* is one client that follows
them: it has a place among them and nothing else, so a slow client costs no more than a quick one, and one that is too slow finds its place
gone and is told to begin anew. What has gathered while it was busy is told in one message.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import Final

import xxhash

from cachesync.coordination.engine import Engine
from cachesync.core.event_stream import FORMAT, EventKind, Message
from cachesync.core.groups import EVERY_ANSWER, MOST_CONCERNS, PUBLIC, Audience, Concern, Groups, concerns_of, heard_of
from cachesync.core.policies import Policies
from cachesync.core.records import Record, Targets
from cachesync.core.stamps import NOWHERE, Stamp
from cachesync.core.steps import Bans
from cachesync.layers.forks import leave_behind, lock_across_forks

MOST_RECORDS: Final = 5_000
"""Records that are remembered."""
MOST_TEXTS: Final = 100_000
"""And texts in them."""
JITTER_OF_A_STREAM: Final = 0.001
"""Seconds by which one more client spreads the refetches of all."""
MOST_JITTER: Final = 2.0
TICK: Final = 0.25
"""Seconds between two looks at who is due for a sign of life."""
AT_ONCE: Final = 50
"""Streams that are woken in one turn of an event loop."""
RETRY: Final = 1.0
"""Seconds after which a client may come back, on average."""


@dataclass(slots=True, eq=False)
class Told:
    """One record: its number (that of the last one before it, while it has none), what it names, and when it was made.

    ``at`` is seconds since 1970: by the server's clock, or for one of this process by its own. It orders nothing.
    """

    number: int
    targets: Targets
    at: float
    is_pending: bool = False
    _policies: Policies | None = field(default=None, repr=False)
    _concerns: tuple[Concern, ...] = field(default=(), repr=False)

    def concerns(self, policies: Policies) -> tuple[Concern, ...]:
        """The plain groups that it concerns."""
        if self._policies is not policies:
            self._concerns, self._policies = concerns_of(policies, (self.targets,)), policies
        return self._concerns


def _missed(position: int, pages: Iterable[Bans]) -> list[tuple[int, Targets]] | None:
    """What was invalidated above a position, in its order; ``None`` where a part of it is forgotten."""
    found: list[tuple[int, Targets]] = []
    for page in pages:
        if max(page.soft, *page.hard) > position:
            return None
        found += ((number, targets) for targets, number in page.found if number > position)
    return sorted(found, key=lambda one: one[0])


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A place among what was told: how many came before it, how often the log had begun anew, and the position."""

    at: int
    restarts: int
    stamp: Stamp


class _Loop:
    """The streams of one event loop. One timer looks for all of them whether something is due."""

    __slots__ = ("_loop", "is_woken", "streams", "timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.streams: set[Stream] = set()
        self.is_woken = False
        self.timer = loop.call_later(TICK, self.tick)

    def wake(self) -> None:
        self.is_woken = False
        self._wake_from(tuple(self.streams), 0)

    def _wake_from(self, streams: Sequence[Stream], at: int) -> None:
        """Some now, the others after whatever else the loop has to do: each of them makes a message of its own."""
        for stream in streams[at : at + AT_ONCE]:
            stream.news.set()
        if at + AT_ONCE < len(streams):
            self._loop.call_soon(self._wake_from, streams, at + AT_ONCE)

    def tick(self) -> None:
        for stream in self.streams:
            if stream.is_due():
                stream.news.set()
        self.timer = self._loop.call_later(TICK, self.tick)


class Hub:
    """What streams are told, in one process. Safe to use from any thread."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.groups: Groups = engine.groups
        self.here = Place(0, 0, engine.ledger.position or NOWHERE)
        """Behind everything that was told: another object whenever that has changed."""
        self.is_leaving = False
        """Whether the process is about to end: streams say so, and no more are opened."""
        self._lock = lock_across_forks()
        self._told: deque[Told] = deque()
        self._texts = 0
        self._since = self.here.stamp.number  # everything above is remembered
        self._loops: dict[asyncio.AbstractEventLoop, _Loop] = {}

    # --- what happens -----------------------------------------------------------------------------------------------------------------

    def tell(self, records: Iterable[Record]) -> None:
        """Records of others were applied. The engine's lock is held, so that they come in order."""
        with self._lock:
            for record in records:
                self._add(Told(record.number, record.targets, record.at / 1000), Stamp(record.epoch, record.number))
            self._wake()

    def tell_own(self, targets: Sequence[Targets], last: Stamp) -> None:
        """This process has made records, of which ``last`` is the last one's number. The engine's lock is held."""
        with self._lock:
            for number, one in enumerate(targets, last.number - len(targets) + 1):
                self._add(Told(number, one, time.time()), Stamp(last.epoch, number))
            self._wake()

    def tell_pending(self, targets: Sequence[Targets]) -> None:
        """An invalidation holds in this process and waits for the shared layer. It is told again when it has a number."""
        with self._lock:
            for one in targets:
                self._add(Told(self.here.stamp.number, one, time.time(), is_pending=True), self.here.stamp)
            self._wake()

    def rejoin(self, before: Stamp | None, head: Stamp, pages: Iterable[Bans]) -> None:
        """This process has come to another position of the log by its bans. The engine's lock is held.

        From ``before`` on nothing but the bans is known, and they say all that was missed unless they were dropped. ``None``: nobody knows.
        """
        missed = None if before is None else _missed(before.number, pages)
        if missed is None:
            self._restart(head)
            return
        with self._lock:
            for number, targets in missed:
                self._add(Told(number, targets, time.time()), Stamp(head.epoch, number))
            self.here = Place(self.here.at, self.here.restarts, head)
            self._wake()

    def _restart(self, stamp: Stamp) -> None:
        with self._lock:
            self._told.clear()
            self._texts = 0
            self._since = stamp.number
            self.here = Place(self.here.at, self.here.restarts + 1, stamp)
            self._wake()

    def leave(self) -> None:
        """The process is about to end: let all streams say so."""
        self.is_leaving = True
        with self._lock:
            self._wake()

    def after_fork(self) -> None:
        """In a forked child: the streams are the parent's."""
        leave_behind(tuple(self._loops.values()))
        self._loops, self.is_leaving = {}, False

    def _add(self, told: Told, stamp: Stamp) -> None:
        self._told.append(told)
        self.here = Place(self.here.at + 1, self.here.restarts, stamp)
        self._texts += len(told.targets.texts)
        while len(self._told) > MOST_RECORDS or self._texts > MOST_TEXTS:
            oldest = self._told.popleft()
            self._texts -= len(oldest.targets.texts)
            self._since = max(self._since, oldest.number)

    def _wake(self) -> None:
        for loop, streams in tuple(self._loops.items()):
            if streams.is_woken:
                continue
            streams.is_woken = True  # before: the loop may be quicker than this thread
            try:
                loop.call_soon_threadsafe(streams.wake)
            except RuntimeError:  # it was closed
                del self._loops[loop]

    # --- streams ----------------------------------------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many streams are open."""
        with self._lock:
            return sum(len(streams.streams) for streams in self._loops.values())

    @property
    def jitter(self) -> float:
        """Seconds over which clients should spread what they ask for after an invalidation."""
        return min(MOST_JITTER, self.count * JITTER_OF_A_STREAM)

    @property
    def is_live(self) -> bool:
        """Whether the log is heard, so that silence means that nothing has happened."""
        return self.engine.is_heard(self.engine.now())

    def last(self, most: int) -> list[Told]:
        """The last records, the newest first."""
        with self._lock:
            return list(islice(reversed(self._told), most))

    def open(self, audience: Audience, since: Stamp | None = None, *, heartbeat: float, life: float) -> Stream:
        """A stream of the running loop, from ``since`` on or from now on. To be ended by `close`.

        ``heartbeat`` and ``life`` are how many seconds pass between two signs of life, and until it ends.
        """
        loop = asyncio.get_running_loop()
        with self._lock:
            stream = Stream(self, audience, heartbeat=heartbeat, life=life)
            if since is not None:
                stream.go_back(since)
            if loop not in self._loops:
                self._loops[loop] = _Loop(loop)
            self._loops[loop].streams.add(stream)
        return stream

    def close(self, stream: Stream) -> None:
        """Tell a stream no more."""
        loop = asyncio.get_running_loop()
        with self._lock:
            streams = self._loops.get(loop)
            if streams is not None:
                streams.streams.discard(stream)
                if not streams.streams:
                    streams.timer.cancel()
                    del self._loops[loop]

    @property
    def stamp(self) -> Stamp:
        """Up to where everything is told."""
        return self.here.stamp

    def find(self, since: Stamp) -> int | None:
        """The place behind which everything above ``since`` stands; ``None`` if that is gone. The lock is held."""
        if since.epoch != self.stamp.epoch or since.number < self._since:
            return None
        newer = takewhile(lambda told: (told.number, told.is_pending) > (since.number, False), reversed(self._told))
        return self.here.at - sum(1 for _ in newer)

    def after(self, place: Place) -> tuple[list[Told] | None, Place]:
        """What stands behind a place (``None`` if it is gone), and the place behind that."""
        with self._lock:
            here = self.here
            newer = here.at - place.at
            if place.restarts != here.restarts or newer > len(self._told):
                return None, here
            return list(islice(reversed(self._told), newer))[::-1], here


class Stream:
    """One client. Used in the event loop that it was opened in."""

    __slots__ = (
        "_audience",
        "_due",
        "_ends_at",
        "_floor",
        "_heartbeat",
        "_hub",
        "_live",
        "_place",
        "_policies",
        "_told",
        "is_over",
        "is_reset",
        "news",
    )

    def __init__(self, hub: Hub, audience: Audience, *, heartbeat: float, life: float) -> None:
        now = time.monotonic()
        self._hub = hub
        self._audience = audience
        self._policies = hub.engine.settings.policies
        self._place = hub.here
        self._floor = 0  # what is numbered up to here was told elsewhere
        self._told = str(self._place.stamp)  # the id of the last message
        self._live = hub.is_live
        self._heartbeat = heartbeat
        self._ends_at = now + life * random.uniform(0.9, 1.0)
        self._due = min(now + heartbeat, self._ends_at)
        self.is_reset = False
        """Whether what came since it was left can not be told."""
        self.is_over = False
        self.news = asyncio.Event()

    def go_back(self, since: Stamp) -> None:
        """Begin where an earlier stream has ended. The hub's lock is held."""
        at = self._hub.find(since)
        if at is None:
            self.is_reset = True
            return
        self._place = Place(at, self._place.restarts, since)
        self._floor, self._told = since.number, str(since)

    def hello(self) -> Message:
        """The first message."""
        stamp, hub = Stamp.parse(self._told), self._hub
        data = {
            "v": FORMAT,
            "epoch": stamp.epoch,
            "number": stamp.number,
            "schema": schema_of(self._policies),
            "reset": self.is_reset,
            "jitter": round(hub.jitter, 3),
            "live": self._live,
        }
        return Message("hello", data, self._told)

    def end(self) -> None:
        """The client has gone."""
        self.is_over = True
        self.news.set()

    def is_due(self) -> bool:
        """Whether something has to be said: a sign of life, a goodbye, or that the log is heard no more, or again."""
        return time.monotonic() >= self._due or self._hub.is_live != self._live

    async def next(self) -> Message | None:
        """The next message, when there is one; ``None`` once the client has gone. After a ``bye`` there is none."""
        while not self.is_over:
            self.news.clear()
            message = self.take()
            if message is not None:
                return message
            await self.news.wait()
        return None

    def take(self) -> Message | None:
        """The next message, ``None`` where there is none yet."""
        hub, now = self._hub, time.monotonic()
        if hub.is_leaving or now >= self._ends_at or hub.engine.settings.policies is not self._policies:
            return Message("bye", {"retry": round(random.uniform(0.1, 2 * RETRY), 3)})  # who comes back is looked at anew
        if hub.here is not self._place:
            new, self._place = hub.after(self._place)
            if new is None:
                self._floor = 0
                return self._message("reset", {})
            groups, mode = self._groups(new)
            if groups:
                return self._message("inv", {"tags": groups, "mode": mode})
        if self.is_due():
            self._live, self._due = hub.is_live, min(now + self._heartbeat, self._ends_at)
            return self._message("hb", {"jitter": round(hub.jitter, 3), "live": self._live})
        return None

    def _message(self, event: EventKind, data: dict[str, object]) -> Message:
        before, stamp = self._told, self._place.stamp
        if stamp.number >= self._floor:
            self._told = str(stamp)
        data["prev"] = before
        return Message(event, data, self._told)

    def _groups(self, new: Iterable[Told]) -> tuple[list[str], str]:
        hub, found, is_soft = self._hub, dict[tuple[str, str], None](), True
        for told in new:
            if told.number < self._floor or (told.number == self._floor and not told.is_pending):
                continue
            heard = tuple(heard_of(told.concerns(self._policies), self._audience))
            found |= dict.fromkeys(heard)
            is_soft = is_soft and (told.targets.is_soft or not heard)
            if len(found) > MOST_CONCERNS and not is_soft:
                break
        if len(found) > MOST_CONCERNS:
            found = {(PUBLIC, EVERY_ANSWER): None}
        return [hub.groups.name(*one) for one in found], "soft" if is_soft else "hard"


def schema_of(policies: Policies) -> str:
    """A short text that changes when a policy comes, goes, or gets another ``version``: what is kept under another one is of no use."""
    versions = "\n".join(f"{policy.name}={policy.version}" for policy in policies)
    return xxhash.xxh3_64_hexdigest(versions.encode())[:8]
