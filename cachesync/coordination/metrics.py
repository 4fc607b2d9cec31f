"""Metrics: the numbers of `Stats` and `Health` under the names they have in monitoring systems, and how long spans take.

One table for all doors. Names and units are OpenTelemetry's (dots, UCUM units); Prometheus' names follow from them by its naming guide.
Labels are bounded: namespaces, policies, layers, steps and states, never keys.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, get_args

from cachesync.coordination.events import Span
from cachesync.coordination.health import STATUSES, Health
from cachesync.coordination.stats import FunctionStats, Stats
from cachesync.layers.breaker import State

NAMESPACE: Final = "namespace"
"""The label that every metric has: which cache of the process, by its namespace."""
OUTCOME: Final = "outcome"

Sample = tuple[tuple[str, ...], float]
"""The values of a metric's labels, in their order, and its value."""


class Reading(NamedTuple):
    """What one process's cache says of itself at one moment."""

    stats: Stats
    health: Health


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that is read. ``unit`` is UCUM's: seconds, bytes, or things counted, in braces."""

    name: str
    kind: Literal["counter", "gauge"]
    unit: str
    about: str
    labels: tuple[str, ...]
    read: Callable[[Reading], Iterable[Sample]]

    @property
    def prometheus(self) -> str:
        """The name in Prometheus' text."""
        return prometheus_name(self.name, self.unit) + ("_total" if self.kind == "counter" else "")


@dataclass(frozen=True, slots=True)
class Duration:
    """How long the spans of a name take, in seconds, as a histogram. ``labels`` are fields of the span."""

    name: str
    span: str
    about: str
    labels: tuple[str, ...]
    unit: str = "s"

    @property
    def prometheus(self) -> str:
        """The name in Prometheus' text."""
        return prometheus_name(self.name, self.unit)


BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The upper bounds of the histograms, seconds."""

_SUFFIXES: Final = {"s": "_seconds", "By": "_bytes"}


def prometheus_name(name: str, unit: str) -> str:
    """A name in Prometheus: underscores, and the unit at the end where there is one.

    >>> prometheus_name("cachesync.local.usage", "By")
    'cachesync_local_usage_bytes'
    """
    return name.replace(".", "_") + _SUFFIXES.get(unit, "")


# --- reading ----------------------------------------------------------------------------------------------------------------------


def _by_policy(number: Callable[[FunctionStats], int]) -> Callable[[Reading], Iterable[Sample]]:
    return lambda reading: [((name,), number(row)) for name, row in reading.stats.policies.items()]


RESULTS: Final = ("local_hit", "shared_hit", "joined", "computed", "missed", "repeated")


def _calls(reading: Reading) -> Iterable[Sample]:
    for name, row in reading.stats.policies.items():
        counts = (row.local_hits, row.shared_hits, row.joined, row.computed, row.missed, row.repeated)
        for result, count in zip(RESULTS, counts, strict=True):
            yield (name, result), count


VERDICTS: Final = ("fresh", "stale", "unstable", "failed", "dropped")


def _checks(reading: Reading) -> Iterable[Sample]:
    for name, row in reading.stats.policies.items():
        fresh = row.shadowed - row.stale_incidents - row.shadow_unstable
        counts = (fresh, row.stale_incidents, row.shadow_unstable, row.shadow_failed, row.shadow_dropped)
        for verdict, count in zip(VERDICTS, counts, strict=True):
            yield (name, verdict), count


def _one(number: Callable[[Stats], float]) -> Callable[[Reading], Iterable[Sample]]:
    def read(reading: Reading) -> Iterable[Sample]:
        value = number(reading.stats)
        return () if math.isinf(value) else (((), value),)

    return read


def _states(states: tuple[str, ...], state: Callable[[Reading], str]) -> Callable[[Reading], Iterable[Sample]]:
    return lambda reading: [((name,), float(state(reading) == name)) for name in states]


METRICS: Final = (
    Metric("cachesync.calls", "counter", "{call}", "Calls and look-ups, by what answered them", ("policy", "result"), _calls),
    Metric("cachesync.stale", "counter", "{call}", "Answers that were flagged stale", ("policy",), _by_policy(lambda row: row.stale)),
    Metric("cachesync.failures", "counter", "{call}", "Computations that raised", ("policy",), _by_policy(lambda row: row.failed)),
    Metric("cachesync.stored", "counter", "{value}", "Computed values that were kept", ("policy",), _by_policy(lambda row: row.stored)),
    Metric("cachesync.not_stored", "counter", "{value}", "Values that were not kept", ("policy",), _by_policy(lambda row: row.not_stored)),
    Metric("cachesync.shadow.checks", "counter", "{hit}", "Hits to be computed again, by what came of it", ("policy", "verdict"), _checks),
    Metric(
        "cachesync.stale_incidents",
        "counter",
        "{incident}",
        "Hits that were out of date, though no invalidation had come",
        ("policy",),
        _by_policy(lambda row: row.stale_incidents),
    ),
    Metric("cachesync.refreshes", "gauge", "{refresh}", "Refreshes under way", (), _one(lambda stats: stats.refreshes.under_way)),
    Metric(
        "cachesync.invalidations",
        "counter",
        "{invalidation}",
        "Invalidations that this process has announced, those of sets included",
        (),
        _one(lambda stats: stats.events["invalidated"]),
    ),
    Metric(
        "cachesync.pending",
        "gauge",
        "{invalidation}",
        "Invalidations of this process that have no number yet",
        (),
        _one(lambda stats: stats.log.pending),
    ),
    Metric(
        "cachesync.queued",
        "gauge",
        "{invalidation}",
        "Invalidations of this process that wait for the shared layer",
        (),
        _one(lambda stats: stats.log.queued),
    ),
    Metric(
        "cachesync.log.lag",
        "gauge",
        "s",
        "Time since the log was last known to be heard up to its end; absent before the first time",
        (),
        _one(lambda stats: stats.log.lag),
    ),
    Metric(
        "cachesync.log.position",
        "gauge",
        "{invalidation}",
        "How far the log is applied here",
        (),
        _one(lambda stats: 0 if stats.position is None else stats.position.number),
    ),
    Metric(
        "cachesync.log.bans",
        "gauge",
        "{invalidation}",
        "Invalidations remembered here, to refuse what is older",
        (),
        _one(lambda stats: stats.log.bans),
    ),
    Metric(
        "cachesync.log.index",
        "gauge",
        "By",
        "About the memory that remembered invalidations take",
        (),
        _one(lambda stats: stats.log.index_bytes),
    ),
    Metric(
        "cachesync.log.losses",
        "counter",
        "{invalidation}",
        "Invalidations that a server lost, and that were announced again",
        (),
        _one(lambda stats: stats.log.losses),
    ),
    Metric(
        "cachesync.log.violations",
        "counter",
        "{violation}",
        "Times an audit found a process that would serve what was invalidated",
        (),
        _one(lambda stats: stats.log.violations),
    ),
    Metric("cachesync.local.entries", "gauge", "{entry}", "Copies in local memory", (), _one(lambda stats: stats.local.entries)),
    Metric(
        "cachesync.local.max_entries",
        "gauge",
        "{entry}",
        "Copies that local memory holds at most",
        (),
        _one(lambda stats: stats.local.max_entries),
    ),
    Metric("cachesync.local.usage", "gauge", "By", "Local memory that is used by copies", (), _one(lambda stats: stats.local.bytes)),
    Metric("cachesync.local.limit", "gauge", "By", "Local memory that is used at most", (), _one(lambda stats: stats.local.max_bytes)),
    Metric(
        "cachesync.local.evictions",
        "counter",
        "{entry}",
        "Copies that left local memory before their time",
        (),
        _one(lambda stats: stats.local.evictions),
    ),
    Metric(
        "cachesync.breaker",
        "gauge",
        "{state}",
        "1 for the state of the shared layer's circuit breaker, 0 for the others",
        ("state",),
        _states(get_args(State), lambda reading: reading.stats.shared.breaker),
    ),
    Metric(
        "cachesync.health",
        "gauge",
        "{status}",
        "1 for the status that health() answers, 0 for the others",
        ("status",),
        _states(STATUSES, lambda reading: reading.health.status),
    ),
    Metric("cachesync.events", "counter", "{event}", "Events sent", ("event",), lambda reading: _events(reading.stats)),
)
"""Every number that is read."""


def _events(stats: Stats) -> Iterable[Sample]:
    return [((name,), count) for name, count in stats.events.items()]


DURATIONS: Final = (
    Duration("cachesync.compute.duration", "compute", "How long functions run", ("policy",)),
    Duration("cachesync.refresh.duration", "refresh", "How long refreshes in the background take", ("policy",)),
    Duration("cachesync.invalidate.duration", "invalidate", "How long invalidations take to be announced", ()),
    Duration("cachesync.shared.duration", "shared", "How long the shared layer takes to answer a step", ("step",)),
)
"""Every histogram."""

_BY_SPAN: Final = {duration.span: duration for duration in DURATIONS}
_BY_SPAN["compute_many"] = _BY_SPAN["compute"]


class Timer:
    """A watcher that measures spans. ``record`` is given the histogram, the span and the seconds it took."""

    def __init__(self, record: Callable[[Duration, Span, float], None]) -> None:
        self._record = record

    @contextmanager
    def __call__(self, span: Span, /) -> Generator[None, None, None]:
        began = time.perf_counter()
        yield
        self._record(_BY_SPAN[span.name], span, time.perf_counter() - began)
