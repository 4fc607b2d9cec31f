"""The log's reader: one thread in each process that applies what others announce.

It hears what is published, on a connection of its own, and asks the master now and then where the log ends: an answer that agrees with
what was heard proves contact, and the time at which the question was sent is how far local copies may be trusted. Between two
questions it extends the leases of computations that are still running here, and announces what could not be announced before.
"""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Final, NamedTuple, TypeVar, cast

from cachesync.coordination.auditor import Auditor
from cachesync.coordination.engine import Engine, HeldLease
from cachesync.coordination.threads import READER, Starting
from cachesync.coordination.worlds import ThreadWorld, raised
from cachesync.core.flows import announce, listen
from cachesync.core.steps import (
    NO_DEADLINE,
    Announce,
    Collect,
    Confirm,
    Done,
    Examine,
    Extend,
    Failed,
    Flow,
    Hear,
    Heard,
    Inquire,
    Step,
    Testify,
    Throw,
    Ticket,
)
from cachesync.core.switches import Thrown
from cachesync.core.together import together
from cachesync.layers.forks import lock_across_forks
from cachesync.protocols import Ear

SHARE_OF_LAG: Final = 0.2
"""The master is asked after this share of ``max_lag``, so that contact is proven several times within it."""
SHARE_OF_LEASE: Final = 1 / 6
"""And after at most this share of a lease, so that leases are extended in time."""
SHARE_OF_ANNOUNCING: Final = 1 / 4
"""What is queued is announced for this share of the time between two questions, then the log is heard."""
PATIENCE: Final = 1.0
"""Seconds an answer may take."""
LONGEST_PAUSE: Final = 1.0


T = TypeVar("T")


class Turn(NamedTuple):
    """One turn of the reader: the flow, its first step, and whether everything that waited could be announced."""

    flow: Flow
    step: Hear
    flushed: bool


class LogReader:
    """Reads the log in a daemon thread while its cache lives."""

    def __init__(self, engine: Engine, auditor: Auditor) -> None:
        self._engine = engine
        self._auditor = auditor
        self._world = ThreadWorld(engine, {Examine: self._examine})
        self._world.asks_always = True
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._due = 0.0  # when the master is asked again: seconds, monotonic clock
        self._began = 0.0  # when it was started: the log cannot have been silent for longer
        self._silent = False
        self._left: deque[Ticket] = deque()  # what is still to be announced of what was queued when that began
        self._flush_at = 0.0  # when what waits for one of several servers is tried again: seconds, monotonic clock
        self._is_deaf = False  # the last time something was to be heard, it failed
        self.is_running = False
        """Whether it was started, and not stopped: then it announces what is queued, and nobody else need do it."""
        self._lock = lock_across_forks()

    def start(self) -> None:
        """Start reading, unless it has been started. Where the system has no thread to give nobody reads, and the next one tries again."""
        engine = self._engine
        with Starting(engine.events, READER), self._lock:
            if self._thread is not None or self._stop.is_set():
                return
            assert engine.shared is not None
            ear = engine.shared.ear()
            thread = threading.Thread(target=_read, args=(weakref.ref(self), self._stop, ear), name=READER, daemon=True)
            self._began = engine.now()
            try:
                thread.start()
            except RuntimeError:
                ear.close()
                raise
            self._thread, engine.waiters.ear = thread, ear
            self.is_running = engine.breaker.is_tried = True

    def stop(self, timeout: float = 2.0) -> None:
        """Stop reading and wait for the thread to end, at most ``timeout`` seconds."""
        self._stop.set()
        with self._lock:  # whoever starts it just now has done so, and nobody starts it after this
            thread = self._thread
            self._engine.closing, self._engine.breaker.is_tried = True, False
            self.is_running = False
        self.let_go()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def let_go(self) -> None:
        """Let the thread end when it can. For a cache that nobody holds any more: this may run in any thread, at any moment."""
        self._stop.set()
        ear = self._engine.waiters.ear
        if ear is not None:
            ear.wake()

    @property
    def _interval(self) -> float:
        """Seconds between two questions to the master."""
        coordination = self._engine.settings.coordination
        return min(coordination.max_lag * SHARE_OF_LAG, coordination.lease * SHARE_OF_LEASE, LONGEST_PAUSE)

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def lag(self) -> float:
        """Seconds since the log was last known to be heard up to its end, or since the reading began."""
        return max(0.0, self._engine.now() - max(self._engine.ledger.contact, self._began))

    def after_fork(self) -> None:
        """The thread did not come along into the child: it starts again when it is needed."""
        self._stop = threading.Event()
        self._thread = None
        self._left = deque()
        self._due, self._began, self._silent = 0.0, self._engine.now(), False
        self._auditor.forget()
        self.is_running = self._engine.breaker.is_tried = False

    def turn(self) -> bool:
        """One question to the log, and what is due besides. False when the shared layer failed."""
        ear = self._engine.waiters.ear
        assert ear is not None
        turn = self.begin()
        return self.end(turn, _hear(ear, turn.step))

    def begin(self) -> Turn:
        """What is due besides; then the waiting, which whoever calls this does. A waiting thread need not hold the cache."""
        engine = self._engine
        if engine.breaker.may_try():
            self._world.perform(Confirm(engine.now() + engine.budget))
        self._extend()
        flushed = self._flush(is_back=engine.look_at_parts())
        self._remind()
        now = time.monotonic()
        beat = now >= self._due
        if beat:
            self._due = now + self._interval
        goes_on = bool(self._left) and not beat  # what is there is heard, nothing is waited for
        seconds = 0.0 if goes_on else max(0.0, min(self._due - now, self._interval))
        flow = listen(seconds, beat=beat, patience=PATIENCE, now=engine.now())
        return Turn(flow, cast("Hear", next(flow)), flushed)

    def end(self, turn: Turn, reply: Heard | Failed) -> bool:
        """Take in what was heard."""
        engine = self._engine
        if isinstance(reply, Failed):
            # A connection that was found closed, as idle ones are, is opened again before it counts as trouble.
            if self._is_deaf or getattr(reply.error, "is_refusal", False):
                engine.failed(turn.step, reply)
        elif self._is_deaf:
            engine.breaker.end_rest()
        self._is_deaf = isinstance(reply, Failed)
        heard: bool = self._world.resume(turn.flow, reply)
        if not heard:
            self._due = 0.0
        self._tell_lag()
        if heard:
            self._audit()
        return heard and turn.flushed

    def _audit(self) -> None:
        auditor = self._auditor
        for audit in auditor.due():
            deadline = self._engine.now() + PATIENCE
            if audit.question is None:
                self._world.perform(Inquire(auditor.ask(audit), deadline))
                continue
            reply = self._world.perform(Collect(audit.question, deadline))
            auditor.conclude(audit, () if isinstance(reply, Failed) else reply.answers)

    def _examine(self, step: Examine) -> Testify | None:
        number = self._auditor.examine(step.question)
        return None if number is None else Testify(step.question, self._engine.origin, number, self._engine.now() + PATIENCE)

    def _tell_lag(self) -> None:
        """Say once when the log falls silent, and once when it is heard again."""
        engine = self._engine
        lag = self.lag()
        silent = lag >= engine.settings.coordination.max_lag
        if silent and not self._silent:
            self._silent = True
            engine.events.send("log_silent", lag=round(lag, 3))
        elif not silent and self._silent:
            self._silent = False
            engine.events.forget("log_silent")
            engine.events.send("log_heard", stamp=str(engine.ledger.position))

    def told(self, part: Callable[..., T], *given: Any) -> T | None:
        """Do a part of a turn. A mistake of ours ends no reader, but is told; it says nothing about the shared layer."""
        events = self._engine.events
        try:
            result = part(*given)
        except Exception as error:
            if not self._stop.is_set():
                mistake = events.describe(error)
                events.send("reader_failed", error=mistake["error"], traceback=mistake["traceback"])
            return None
        events.forget("reader_failed")
        return result

    def _flush(self, *, is_back: bool) -> bool:
        """Announce what is queued, if it is due, for a while: the next turn goes on, and hears the log and extends leases before that.
        False where nothing can be announced now.
        """
        if is_back or self._engine.now() >= self._flush_at:
            self._left = deque(self._engine.ledger.tickets.queued)
        return self._announce(self._left, time.monotonic() + SHARE_OF_ANNOUNCING * self._interval)

    def flush(self) -> None:
        """Announce all that could not be announced before, however long it takes."""
        self._announce(deque(self._engine.ledger.tickets.queued), NO_DEADLINE)

    def _announce(self, tickets: deque[Ticket], until: float) -> bool:
        """Announce tickets in their order, until a time (seconds, ``time.monotonic``), and take them away. False, and none are left, where
        nothing can be announced now. What waits for one of several servers holds nothing else up, and is tried again after a pause.
        """
        engine = self._engine
        while tickets:
            ticket = tickets.popleft()
            if not engine.ledger.tickets.is_queued(ticket):
                continue  # somebody else has announced it, or says the same and more
            stamp = self._world.run(announce(ticket, shared=True, deadline=engine.now() + PATIENCE))
            if stamp.pending and self._is_stuck():
                tickets.clear()
                return False
            if stamp.pending:
                self._flush_at = engine.now() + LONGEST_PAUSE
            if time.monotonic() >= until:
                break
        return True

    def _is_stuck(self) -> bool:
        """Whether nothing can be announced now."""
        breaker = self._engine.breaker
        return breaker.is_open or breaker.refused is Announce

    def _remind(self) -> None:
        """Say what is switched to a shared layer that has lost it. Where somebody was faster, or knows better, that counts."""
        engine = self._engine
        if engine.is_forgotten:
            reply = self._world.perform(Throw((), engine.switches.thrown, engine.now() + PATIENCE))
            if isinstance(reply, Thrown):
                engine.is_forgotten = False
                engine.obey(reply)

    def _extend(self) -> None:
        engine = self._engine
        engine.forsake_left()
        for release in engine.take_forsaken():
            self._world.perform(release)
        now, lease = engine.now(), engine.settings.coordination.lease
        due: list[tuple[str, HeldLease]] = []
        for token, held in list(engine.leases.items()):
            if now < held.due or now >= engine.limits.get(token, NO_DEADLINE) or (held.loop is not None and not held.loop.is_running()):
                continue
            due.append((token, held))
        asked = together([_extend(held.key, token, round(lease * 1000), now + PATIENCE) for token, held in due])
        for (token, held), reply in zip(due, self._world.run(asked), strict=True):
            if token not in engine.leases:
                continue  # it has ended meanwhile
            if isinstance(reply, Failed):  # nobody knows whether it is still ours: it is tried again
                engine.leases[token] = held._replace(due=now + self._interval)
            elif reply.done:
                engine.leases[token] = held._replace(due=now + lease / 3)
            else:
                engine.leases.pop(token, None)


def _extend(key: str, token: str, milliseconds: int, deadline: float) -> Generator[Step, Any, Done | Failed]:
    reply: Done | Failed = yield Extend(key, token, milliseconds, deadline)
    return reply


def _read(reference: weakref.ref[LogReader], stop: threading.Event, ear: Ear) -> None:
    pause = 0.05
    while not stop.is_set():
        heard = _turn(reference, ear)
        if heard is None:
            break
        if heard:
            pause = 0.05
        else:
            stop.wait(pause * random.uniform(0.5, 1.0))  # after an outage not all processes come at once
            pause = min(2 * pause, LONGEST_PAUSE)
    ear.close()


def _turn(reference: weakref.ref[LogReader], ear: Ear) -> bool | None:
    """One turn. ``None`` when nobody holds the cache any more: while it waits, this thread holds nothing but the ear."""
    reader = reference()
    if reader is None:
        return None
    turn = reader.told(reader.begin)
    if turn is None:
        return False
    del reader
    reply = _hear(ear, turn.step)
    reader = reference()
    return None if reader is None else bool(reader.told(reader.end, turn, reply))


def _hear(ear: Ear, step: Hear) -> Heard | Failed:
    try:
        return ear.perform(step)
    except Exception as error:  # of a layer that was plugged in: the reader goes on
        return raised(step, error)
