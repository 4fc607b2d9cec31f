"""Events: what happened, as plain values, for whoever listens.

Trouble is never silent: it is an event, and the first of its kind is also a warning of the logger ``cachesync``. Later ones of the
same kind and subject are logged at level DEBUG, so that an outage is one line and not a million; listeners are told of every one.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from cachesync.coordination.masking import Masking
from cachesync.layers.forks import lock_across_forks
from cachesync.protocols import Listener

logger = logging.getLogger("cachesync")

CATALOGUE: Final[Mapping[str, tuple[int, str]]] = {
    "layer_failed": (logging.WARNING, "a step of the shared layer failed, or of the local one; calls go on without it. layer, step, error"),
    "layer_recovered": (logging.INFO, "the shared layer answers again. layer"),
    "reader_failed": (logging.ERROR, "a mistake of ours in the log's reader; it goes on a moment later. error, traceback"),
    "log_silent": (logging.WARNING, "the log was not heard for max_lag; local copies are bypassed, or served stale. lag"),
    "log_heard": (logging.INFO, "the log is heard again. stamp"),
    "log_rejoined": (logging.INFO, "the log could not be continued; in another epoch local copies were dropped. stamp, reason"),
    "possible_loss": (logging.ERROR, "a server that took over lacks invalidations; they are announced again. stamp, lost"),
    "not_durable": (logging.WARNING, "no replica has confirmed an invalidation in time (durable = true). patterns, tags, stamp"),
    "not_published": (
        logging.WARNING,
        "an invalidation is in the log, and may not be published: it is seen late. patterns, tags, stamp",
    ),
    "violation": (logging.ERROR, "a process would serve what was invalidated: a bug, or a wrong set-up. patterns, tags, stamp, served"),
    "spare_served": (logging.WARNING, "an old value stands in for a computation that fails or takes too long. key, policy, age, error"),
    "left_alone": (logging.WARNING, "a computation failed and is left alone for a while (errors). key, policy, seconds, error"),
    "refresh_failed": (logging.WARNING, "a stale value could not be refreshed in the background. key, policy, error"),
    "refresh_dropped": (logging.WARNING, "the cache was closed before a stale value was refreshed. key, policy"),
    "unreadable": (logging.WARNING, "stored bytes could not be read and count as a miss. key, policy, error"),
    "not_stored": (logging.WARNING, "a result was delivered to its caller but not stored. key, policy, error"),
    "invalidated": (logging.DEBUG, "an invalidation was announced, or a value set. patterns, tags, stamp"),
    "invalidation_queued": (logging.WARNING, "an invalidation holds in this process and waits for the shared layer. patterns, tags"),
    "invalidation_lost": (logging.ERROR, "the cache was closed before a queued invalidation could be announced. patterns, tags"),
    "setting_without_effect": (logging.WARNING, "a setting is accepted and has no effect in this version. policy, settings"),
}
"""Every event: its log level and what it says, with the names of its fields."""


SHOWN: Final = 10
"""Items of a list that the text of an event shows."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. ``name`` is one of `CATALOGUE`, ``fields`` are what its entry there lists."""

    name: str
    fields: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.name}: " + ", ".join(f"{name}={_in_short(value)}" for name, value in self.fields.items())


def _in_short(value: Any) -> Any:
    items = cast("Sequence[Any]", value) if value.__class__ is list else ()
    if len(items) <= SHOWN:
        return value
    return f"{list(items[:SHOWN])} and {len(items) - SHOWN:,} more"


class Events:
    """Hands events to listeners and to the log. Safe to use from any thread."""

    def __init__(self) -> None:
        self._listeners: tuple[Listener, ...] = ()
        self._told: set[tuple[str, object]] = set()
        self._lock = lock_across_forks()
        self.masking: Masking | None = None
        """Nothing is sent that it does not let through."""

    def add(self, listener: Listener) -> None:
        with self._lock:
            self._listeners = (*self._listeners, listener)

    def remove(self, listener: Listener) -> None:
        with self._lock:
            self._listeners = tuple(other for other in self._listeners if other is not listener)

    def send(self, name: str, /, subject: object = None, **fields: Any) -> None:
        """Send an event. ``subject`` is what it is about: the first event of a name and a subject is logged at its own level."""
        level = CATALOGUE[name][0]
        event = Event(name, fields if self.masking is None else self.masking.fields(fields))
        first = (name, subject) not in self._told
        if first and len(self._told) < 10_000:
            self._told.add((name, subject))
        logger.log(level if first else logging.DEBUG, "%s", event)
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:
                logger.exception("a listener failed on %s", event)

    def describe(self, error: Exception) -> dict[str, str]:
        """What is told of a mistake of ours: its text and where it was made; where anything is masked, its class in place of the text."""
        if self.masking is None:
            return {"error": repr(error), "traceback": "".join(traceback.format_exception(error))}
        return {"error": type(error).__name__, "traceback": "".join(traceback.format_tb(error.__traceback__))}

    def forget(self, name: str, subject: object = None) -> None:
        """The trouble is over: the next event of this name and subject is news again."""
        self._told.discard((name, subject))
