"""Health: how one process's cache is, in a word and the reasons for it.

A cache in trouble is slower, not wrong, so hardly anything is a reason to take a process out of service. The words are those of health
endpoints: ``ok`` and ``down`` are the aliases that the draft of ``application/health+json`` (draft-inadarei-api-health-check-06, 3.1)
names for ``pass`` and ``fail``; ``degraded`` is its ``warn``.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from cachesync.coordination.engine import Engine
from cachesync.coordination.events import EventName
from cachesync.coordination.log_reader import LogReader
from cachesync.coordination.threads import READER
from cachesync.core.freshness import deaf_window
from cachesync.core.steps import Beat, Confirm, Contact, Failed, Step
from cachesync.layers.breaker import State

Status = Literal["ok", "degraded", "down"]
STATUSES: Final[tuple[Status, ...]] = ("ok", "degraded", "down")

REASONS: Final[Mapping[str, str]] = {
    "closed": "the cache was closed: nobody reads the log, and local copies end with `max_lag`",
    "switched_off": "`enabled = false`: every call computes, because somebody wants it so",
    "switched": "a switch was thrown: less is cached than the policies say, because somebody wants it so",
    "shared_failing": "the shared layer fails or refuses; calls go on without it",
    "part_failing": "one of several servers fails; what lies there is computed, and invalidations of it wait",
    "log_silent": "the log was not heard for `max_lag`: local copies are bypassed, or served stale",
    "reader_dead": "the thread that reads the log has ended, or could not be started, though the cache is open",
    "invalidations_queued": "invalidations of this process wait for the shared layer; the other processes do not know of them yet",
    "violation": "an audit has found a process that would serve what was invalidated, in the last ten minutes",
    "stale_incident": "a hit was out of date though no invalidation had come, in the last ten minutes: one is missing in the program",
    "possible_loss": "a server that took over lacked invalidations, in the last ten minutes; they were announced again",
    "unanswered": "the round trip of `check` was not answered within the budget",
}
"""Every reason that a cache is not well."""

RECENT: Final = 600.0
"""Seconds for which something that happened once is a reason."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a cache is not well. ``name`` is one of `REASONS`; ``seconds`` is for how long, or how long ago, where that is known."""

    name: str
    text: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """How one process's cache is.

    ``ok``: everything works. ``degraded``: it works with less, as ``reasons`` say; callers are served. ``down``: neither layer answers,
    and every call computes, or the cache was closed. ``round_trip`` is how many seconds the shared layer took to answer `check`,
    ``None`` where it was not asked or did not answer.
    """

    status: Status
    reasons: tuple[Reason, ...]
    breaker: State
    round_trip: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON knows it."""
        return {**asdict(self), "reasons": [asdict(reason) for reason in self.reasons]}


def health_of(engine: Engine, reader: LogReader, *, is_closed: bool) -> Health:
    """How a cache is, by what is known without asking anybody."""
    return _judge(engine, reader, tuple(_reasons(engine, reader, is_closed=is_closed)))


def checking(engine: Engine, reader: LogReader, *, is_closed: bool) -> Generator[Step, Any, Health]:
    """The same after asking the master where the log ends, within the budget. It is asked whatever the breaker says."""
    if engine.shared is None:
        return health_of(engine, reader, is_closed=is_closed)
    asked = engine.now()
    reply: Beat | Failed = yield Confirm(asked + engine.budget)
    took = engine.now() - asked
    if isinstance(reply, Failed):
        unanswered = Reason("unanswered", f"{REASONS['unanswered']}: {reply.error}", round(took, 3))
        return _judge(engine, reader, (*_reasons(engine, reader, is_closed=is_closed), unanswered))
    yield Contact(reply)
    health = health_of(engine, reader, is_closed=is_closed)
    return Health(health.status, health.reasons, health.breaker, took)


def _judge(engine: Engine, reader: LogReader, reasons: tuple[Reason, ...]) -> Health:
    names = {reason.name for reason in reasons}
    is_silent = _is_silent(engine, reader) if reader.is_running else not engine.is_heard(engine.now())
    # Without either layer nothing is served, unless a policy serves copies while the log can not be heard.
    is_cut_off = is_silent and bool(names & {"shared_failing", "unanswered"})
    serves = any(deaf_window(policy) > 0 for policy in engine.settings.policies)
    is_down = "closed" in names or (is_cut_off and not serves)
    return Health("down" if is_down else "degraded" if reasons else "ok", reasons, engine.breaker.state)


def _is_silent(engine: Engine, reader: LogReader) -> bool:
    return reader.lag() >= engine.settings.coordination.max_lag


def _reasons(engine: Engine, reader: LogReader, *, is_closed: bool) -> Iterator[Reason]:
    if is_closed:
        yield _reason("closed")
    if not engine.settings.enabled:
        yield _reason("switched_off")
    if switched := engine.switches.effective:
        yield Reason("switched", f"{REASONS['switched']}: {', '.join(f'{target}={value}' for target, value in switched.items())}")
    if (failing := engine.events.lasts("layer_failed", "redis")) is not None:
        yield _reason("shared_failing", failing)
    if parts := sorted(engine.parts):
        yield Reason("part_failing", f"{REASONS['part_failing']}: {', '.join(parts)}")
    if reader.is_running and not is_closed and _is_silent(engine, reader):
        yield _reason("log_silent", reader.lag())
    refused = engine.events.lasts("no_thread", READER)
    if not is_closed and (refused is not None or (reader.is_running and not reader.is_alive)):
        yield _reason("reader_dead", refused)
    if queued := len(engine.ledger.tickets.queued):
        yield Reason("invalidations_queued", f"{REASONS['invalidations_queued']}: {queued:,}")
    recent: tuple[EventName, ...] = ("violation", "stale_incident", "possible_loss")
    for name in recent:
        if (ago := engine.events.ago(name)) is not None and ago < RECENT:
            yield _reason(name, ago)


def _reason(name: str, seconds: float | None = None) -> Reason:
    return Reason(name, REASONS[name], None if seconds is None else round(seconds, 3))
