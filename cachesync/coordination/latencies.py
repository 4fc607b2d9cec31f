"""Latencies: how long spans took lately, as quantiles, in a bounded memory.

Durations are counted in buckets whose bounds grow by a fifth, so that a quantile is off by a tenth at most. Two windows take turns: what
is told covers the last one to two minutes.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from itertools import accumulate
from typing import Final, NamedTuple

from cachesync.coordination.events import Span
from cachesync.coordination.metrics import DURATIONS, Duration, Timer
from cachesync.layers.forks import lock_across_forks

WINDOW: Final = 60.0
"""Seconds."""
SHORTEST: Final = 10e-6
GROWTH: Final = 1.2
BOUNDS: Final = tuple(SHORTEST * GROWTH**power for power in range(math.ceil(math.log(60 / SHORTEST, GROWTH)) + 1))
"""Upper bounds, seconds: from ten microseconds to a minute."""
MOST_LABELS: Final = 1_000
"""What is told apart in one window; what comes on top is told together."""
OTHERS: Final = "*"

_Counts = dict[tuple[str, str], list[int]]


class Quantiles(NamedTuple):
    """Of so many durations, in seconds, half took no longer than ``p50`` and all but one in a hundred no longer than ``p99``."""

    counted: int
    p50: float
    p99: float


class Latencies:
    """A watcher of spans. ``now`` is a monotonic clock, in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = lock_across_forks()
        self._current: _Counts = {}
        self._before: _Counts = {}
        self._turned = now()
        self.watch: Final = Timer(self.record)

    def record(self, duration: Duration, span: Span, seconds: float) -> None:
        """A span has taken so long."""
        label = str(span.fields[duration.labels[0]]) if duration.labels else ""
        with self._lock:
            self._turn()
            if len(self._current) >= MOST_LABELS and (duration.span, label) not in self._current:
                label = OTHERS
            counts = self._current.setdefault((duration.span, label), [0] * (len(BOUNDS) + 1))
            counts[bisect_left(BOUNDS, seconds)] += 1

    def _turn(self) -> None:
        passed = self._now() - self._turned
        if passed >= WINDOW:
            self._before, self._current = self._current if passed < 2 * WINDOW else {}, {}
            self._turned = self._now()

    def read(self) -> dict[str, dict[str, Quantiles]]:
        """Quantiles by span and by its label: the policy, or the step of the shared layer (``""`` where there is none)."""
        found: dict[str, dict[str, Quantiles]] = {duration.span: {} for duration in DURATIONS}
        with self._lock:
            self._turn()
            for span, label in {**self._before, **self._current}:
                parts = [counts for window in (self._before, self._current) if (counts := window.get((span, label)))]
                found[span][label] = quantiles_of([sum(column) for column in zip(*parts, strict=True)])
        return found


def quantiles_of(counts: list[int]) -> Quantiles:
    """Quantiles of what was counted between `BOUNDS`."""
    cumulated = list(accumulate(counts))
    total = cumulated[-1]

    def at(share: float) -> float:
        return BOUNDS[min(bisect_left(cumulated, share * total), len(BOUNDS) - 1)]

    return Quantiles(total, at(0.5), at(0.99)) if total else Quantiles(0, 0.0, 0.0)
