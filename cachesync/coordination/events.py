"""Events: what happened, as plain values, for whoever listens.

Trouble is never silent: it is an event, and the first of its kind is also a warning of the logger ``cachesync``. Later ones of the
same kind and subject are logged at level DEBUG, so that an outage is one line and not a million; listeners are told of every one.

What takes time is a span: it has a beginning and an end, and watchers are told of both. While nobody watches, no span is made.

Logs, metrics, traces and `Cache.health` are made of these two and of the counts, and of nothing else. Nobody is called while a lock of
ours is held.
"""

from __future__ import annotations

import inspect
import logging
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from cachesync.coordination.masking import Masking
from cachesync.layers.forks import lock_across_forks
from cachesync.protocols import Listener, Watcher

logger = logging.getLogger("cachesync")

CATALOGUE: Final[Mapping[str, tuple[int, str]]] = {
    "layer_failed": (logging.WARNING, "a step of the shared layer failed, or of the local one; calls go on without it. layer, step, error"),
    "layer_recovered": (logging.INFO, "the shared layer answers again, or one of its servers. layer"),
    "reader_failed": (logging.ERROR, "a mistake of ours in the log's reader; it goes on a moment later. error, traceback"),
    "no_thread": (
        logging.WARNING,
        "the system has no thread to give; what it was for is done by whoever calls, or tried again by the next one. thread, error",
    ),
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
    "stale_incident": (
        logging.ERROR,
        "a hit was out of date, though no invalidation has come: one is missing in the program (shadow). key, policy, age, stamp",
    ),
    "shadow_unstable": (logging.WARNING, "a function returns something else each time, so its hits can not be checked. key, policy"),
    "shadow_failed": (logging.WARNING, "a hit could not be computed again to be compared. key, policy, error"),
    "spare_served": (logging.WARNING, "an old value stands in for a computation that fails or takes too long. key, policy, age, error"),
    "left_alone": (logging.WARNING, "a computation failed and is left alone for a while (errors). key, policy, seconds, error"),
    "refresh_failed": (logging.WARNING, "a stale value could not be refreshed in the background. key, policy, error"),
    "refresh_dropped": (
        logging.WARNING,
        "closed, or without a thread, before a stale value was refreshed, or before a computation ended that callers had left. key, policy",
    ),
    "warmed": (logging.INFO, "keys were computed before anybody asked. computed, fresh, failed, skipped, seconds"),
    "warming_failed": (logging.WARNING, "a key could not be warmed, or what to warm could not be told. policy, error"),
    "warming_stopped": (logging.WARNING, "warming was ended before its end. computed, fresh, failed, skipped, seconds"),
    "unreadable": (logging.WARNING, "stored bytes could not be read and count as a miss. key, policy, error"),
    "not_stored": (logging.WARNING, "a result was delivered to its caller but not stored. key, policy, error"),
    "invalidated": (logging.DEBUG, "an invalidation was announced, or a value set. patterns, tags, stamp"),
    "invalidation_queued": (logging.WARNING, "an invalidation holds in this process and waits for the shared layer. patterns, tags"),
    "invalidation_lost": (logging.ERROR, "the cache was closed before a queued invalidation could be announced. patterns, tags"),
    "switched": (logging.WARNING, "what is cached was switched, for this process or for all: this is what holds now. switched, by"),
    "switch_without_effect": (
        logging.WARNING,
        "a policy was switched, and after a reload there is none of that name: its keys are cached as others say. switched",
    ),
    "policies_reloaded": (logging.INFO, "the policies were reloaded while the process runs. added, removed, settings"),
    "policies_refused": (logging.ERROR, "new policies were refused; the old ones stay. problems"),
    "administered": (
        logging.INFO,
        "somebody has changed something by the admin app, or tried. who, action, outcome, patterns, tags, switched, stamp",
    ),
    "listener_failed": (logging.ERROR, "a listener or a watcher has raised; the others and the cache go on. listener, event, error"),
}
"""Every event: its log level and what it says, with the names of its fields."""

EventName = Literal[
    "layer_failed",
    "layer_recovered",
    "reader_failed",
    "no_thread",
    "log_silent",
    "log_heard",
    "log_rejoined",
    "possible_loss",
    "not_durable",
    "not_published",
    "violation",
    "stale_incident",
    "shadow_unstable",
    "shadow_failed",
    "spare_served",
    "left_alone",
    "refresh_failed",
    "refresh_dropped",
    "warmed",
    "warming_failed",
    "warming_stopped",
    "unreadable",
    "not_stored",
    "invalidated",
    "invalidation_queued",
    "invalidation_lost",
    "switched",
    "switch_without_effect",
    "policies_reloaded",
    "policies_refused",
    "administered",
    "listener_failed",
]
"""The names of `CATALOGUE`, for type checkers: a name that is misspelt in a listener is found by them."""

SPANS: Final[Mapping[str, str]] = {
    "compute": "the user's function runs, for whoever waits. key, policy, function",
    "compute_many": "a function of many arguments runs, for the items that are missing. keys, policy, function",
    "refresh": "a stale value, or one that is due, is computed anew in the background, or found to be fresh. key, policy, function",
    "invalidate": "an invalidation is applied here and announced. patterns, tags, stamp",
    "shared": "a step of the shared layer, from the question to the answer. layer, step, keys, commands",
}
"""Every span: what goes on between its beginning and its end, with the names of its fields. ``stamp`` is known at the end."""

FIELDS: Final[Mapping[str, str]] = {
    "action": "text: invalidate, switch or sweep",
    "added": "list of texts: names of policies",
    "age": "seconds since the value was made",
    "by": "text: the environment, a call in this process, or for all processes",
    "commands": "list of texts: the names of the commands that Redis is asked in one trip",
    "computed": "number of keys that were computed",
    "error": "text: what was raised or refused",
    "event": "text: the event or span that a listener was told of",
    "failed": "number of keys that could not be computed, and of lists that could not be told",
    "fresh": "number of keys that were fresh already",
    "function": "text: module and name of the cached function, or the policy whose keys are used as text",
    "key": "text",
    "keys": "list of texts: those that are asked for",
    "lag": "seconds since the log was last known to be heard up to its end",
    "layer": '`"shared"`, or `"local"` for process memory',
    "listener": "text: what has raised",
    "lost": "number of invalidations",
    "outcome": "text: done, queued, or what was raised",
    "patterns": "list of texts: keys, prefixes, globs",
    "policy": "text: the name of a policy",
    "problems": "list of texts: every mistake, and what was expected",
    "reason": "text",
    "removed": "list of texts: names of policies",
    "seconds": "seconds for which it is left alone, or that it took",
    "served": "text: the number of the stamp that would be served, by whom, and how long after",
    "settings": "list of texts: the full names of settings",
    "skipped": "number of keys that were not begun",
    "stamp": "text: a position in the log, `epoch:number`",
    "step": "text: what the layer was asked to do, such as `Fetch`; of process memory `put` or `clear`",
    "switched": "list of texts such as `all=ttl`; empty where everything is as the policies say",
    "tags": "list of texts",
    "thread": "text: what the thread is called",
    "traceback": "text",
    "who": "text: the identity of whoever has asked, as the admin app's authoriser tells it",
}
"""Every field of events and spans: what it is, and in which unit."""


SHOWN: Final = 10
"""Items of a list that the text of an event shows."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. ``name`` is one of `CATALOGUE`, ``fields`` are what its entry there lists, described in `FIELDS`."""

    name: EventName
    fields: Mapping[str, Any]

    @property
    def level(self) -> int:
        """The level of ``logging`` at which the first of its kind is logged."""
        return CATALOGUE[self.name][0]

    def __str__(self) -> str:
        return f"{self.name}: " + ", ".join(f"{name}={in_short(value)}" for name, value in self.fields.items())


def in_short(value: Any) -> Any:
    """The first items of a list that is long."""
    items = cast("Sequence[Any]", value) if value.__class__ is list else ()
    if len(items) <= SHOWN:
        return value
    return f"{list(items[:SHOWN])} and {len(items) - SHOWN:,} more"


@dataclass(slots=True)
class Span:
    """Something that takes time. ``name`` is one of `SPANS`, ``fields`` are what its entry there lists.

    ``error`` is what it has failed with, once it is over. ``conceals``: its text may hold what a policy masks or encrypts, and is not to be
    shown.
    """

    name: str
    fields: dict[str, Any]
    error: BaseException | None = None
    conceals: bool = False

    def __str__(self) -> str:
        return self.name


_OUR_NAMES: Final[Mapping[str, str]] = {"error": "error.message", "traceback": "error.stack_trace"}


def attributes_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an event or a span under the names they have in logs and traces: those of the conventions, else ``cachesync.``."""
    return {_OUR_NAMES.get(name, f"cachesync.{name}"): value for name, value in fields.items()}


class Events:
    """Hands events to listeners and to the log, and spans to watchers. Safe to use from any thread."""

    def __init__(self) -> None:
        self._listeners: tuple[Listener, ...] = ()
        self.watchers: tuple[Watcher, ...] = ()
        """Those who are told of spans. While there are none, nobody makes any."""
        self._told: dict[tuple[str, object], float] = {}  # name and subject, with when it was first told: seconds, monotonic clock
        self._counts: dict[str, int] = {}
        self._latest: dict[str, float] = {}  # when an event of a name was last sent: seconds, monotonic clock
        self._lock = lock_across_forks()
        self.masking: Masking | None = None
        """Nothing is sent that it does not let through."""
        self.since = time.time()
        """When the counting began: seconds since 1970, by this machine's clock. It orders nothing."""

    def add(self, listener: Listener) -> None:
        """Tell ``listener`` of every event. Raises ``TypeError`` for what can not be called, or would only make a coroutine."""
        _check_plain(listener, "listener", "an event")
        with self._lock:
            self._listeners = (*self._listeners, listener)

    def remove(self, listener: Listener) -> bool:
        """Tell ``listener`` no more. True if it was told until now."""
        with self._lock:
            before = self._listeners
            self._listeners = tuple(other for other in before if other != listener)
            return len(self._listeners) < len(before)

    def add_watcher(self, watcher: Watcher) -> None:
        """Tell ``watcher`` of every span. Raises ``TypeError`` as `add` does."""
        _check_plain(watcher, "watcher", "a span")
        with self._lock:
            self.watchers = (*self.watchers, watcher)

    def remove_watcher(self, watcher: Watcher) -> bool:
        """Tell ``watcher`` no more. True if it was told until now."""
        with self._lock:
            before = self.watchers
            self.watchers = tuple(other for other in before if other != watcher)
            return len(self.watchers) < len(before)

    # --- events -------------------------------------------------------------------------------------------------------------------

    def send(self, name: EventName, /, subject: object = None, **fields: Any) -> None:
        """Send an event. ``subject`` is what it is about: the first event of a name and a subject is logged at its own level."""
        self._send(Event(name, self.shown(fields)), subject, self._listeners)

    def shown(self, fields: dict[str, Any]) -> dict[str, Any]:
        return fields if self.masking is None else self.masking.fields(fields)

    def _send(self, event: Event, subject: object, listeners: Sequence[Listener]) -> None:
        name, now = event.name, time.monotonic()
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + 1
            self._latest[name] = now
            first = (name, subject) not in self._told
            if first and len(self._told) < 10_000:
                self._told[name, subject] = now
        level = event.level if first else logging.DEBUG
        if logger.isEnabledFor(level):
            logger.log(level, "%s", event, extra={"event.name": f"cachesync.{name}", **attributes_of(event.fields)})
        for listener in listeners:
            try:
                listener(event)
            except Exception as error:  # whatever a listener of the user's raises
                self._tell_failure(listener, str(event), error)

    def describe(self, error: Exception) -> dict[str, str]:
        """What is told of a mistake of ours: its text and where it was made; where anything is masked, its class in place of the text."""
        if self.masking is None:
            return {"error": repr(error), "traceback": "".join(traceback.format_exception(error))}
        return {"error": type(error).__name__, "traceback": "".join(traceback.format_tb(error.__traceback__))}

    def _tell_failure(self, listener: Any, event: str, error: Exception) -> None:
        """A listener or a watcher has raised: the others are told, and the log."""
        name = getattr(listener, "__qualname__", None) or repr(listener)
        others = () if event.startswith("listener_failed: ") else tuple(other for other in self._listeners if other != listener)
        failure = Event("listener_failed", {"listener": name, "event": event, "error": self.describe(error)["error"]})
        self._send(failure, name, others)

    def forget(self, name: EventName, subject: object = None) -> None:
        """The trouble is over: the next event of this name and subject is news again."""
        with self._lock:
            self._told.pop((name, subject), None)

    # --- questions ----------------------------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """How often each event was sent: all of `CATALOGUE`, in its order."""
        counts = self._counts
        return {name: counts.get(name, 0) for name in CATALOGUE}

    def lasts(self, name: EventName, subject: object = None) -> float | None:
        """For how many seconds a trouble has lasted that was told and not forgotten; ``None`` where there is none."""
        began = self._told.get((name, subject))
        return None if began is None else time.monotonic() - began

    def ago(self, name: EventName) -> float | None:
        """How many seconds ago an event of this name was last sent; ``None`` if it never was."""
        latest = self._latest.get(name)
        return None if latest is None else time.monotonic() - latest

    # --- spans --------------------------------------------------------------------------------------------------------------------

    def watch(self, name: str, /, **fields: Any) -> Watch:
        """A span, to be begun by ``with``. Each watcher is called now, in the context of whoever caused the span."""
        span = Span(name, self.shown(fields), conceals=self.masking is not None)
        managers: list[tuple[Watcher, AbstractContextManager[object]]] = []
        for watcher in self.watchers:
            try:
                manager = watcher(span)
            except Exception as error:  # whatever a watcher of the user's raises
                self.tell_failed_watcher(watcher, span, error)
            else:
                managers.append((watcher, manager))
        return Watch(self, span, managers)

    def tell_failed_watcher(self, watcher: Watcher, span: Span, error: Exception) -> None:
        """What a watcher made of a span has raised."""
        self._tell_failure(watcher, str(span), error)


class Watch:
    """The beginning and the end of one span, for its watchers. What fails inside of the block is raised on, and is the span's error."""

    __slots__ = ("_entered", "_events", "_managers", "span")

    def __init__(self, events: Events, span: Span, managers: Sequence[tuple[Watcher, AbstractContextManager[object]]]) -> None:
        self.span = span
        self._events = events
        self._managers = managers
        self._entered: list[tuple[Watcher, AbstractContextManager[object]]] = []

    def __enter__(self) -> Span:
        for watcher, manager in self._managers:
            try:
                manager.__enter__()
            except Exception as error:  # of the user's watcher
                self._events.tell_failed_watcher(watcher, self.span, error)
            else:
                self._entered.append((watcher, manager))
        return self.span

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if error is not None:
            self.span.error = error
        for watcher, manager in reversed(self._entered):
            try:
                manager.__exit__(None, None, None)
            except Exception as failure:  # of the user's watcher
                self._events.tell_failed_watcher(watcher, self.span, failure)


def _check_plain(given: Any, what: str, of: str) -> None:
    if not callable(given):
        raise TypeError(f"a {what} is a function that is given {of}, not {given!r}")
    if any(map(inspect.iscoroutinefunction, (given, type(given).__call__))):
        raise TypeError(f"a {what} is a plain function: nobody would await {given!r}. Let it start a task, or put {of} into a queue")
