"""Prometheus: the numbers of a cache, read when they are asked for. Needs the extra ``[prometheus]``.

Each process tells its own numbers, so each worker of a server with several is a target of its own: `serve` finds it a port. The
multi-process mode of prometheus_client adds up files instead, and leaves collectors such as this one out.
"""

from __future__ import annotations

import errno
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Final

try:
    from prometheus_client import CollectorRegistry, generate_latest, start_http_server
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.metrics_core import Metric as Family
except ImportError as error:
    raise ImportError('cachesync.prometheus needs prometheus_client: pip install "cachesync[prometheus]"') from error

from cachesync.cache import Cache
from cachesync.coordination.metrics import BUCKETS, DURATIONS, METRICS, NAMESPACE, OUTCOME, Duration, Metric, Reading, Timer
from cachesync.layers.forks import lock_across_forks

if TYPE_CHECKING:
    from cachesync.coordination.events import Span

PORTS: Final = range(9200, 9232)
"""Where `serve` looks for a free port unless it is told."""


class Collector:
    """The numbers of one or several caches, for a ``CollectorRegistry``: ``REGISTRY.register(Collector(cache))``.

    From its making on it measures how long computations, refreshes, invalidations and steps of the shared layer take, until `close`.
    """

    def __init__(self, *caches: Cache) -> None:
        if not caches:
            raise TypeError("Collector() needs a cache: Collector(cache)")
        self._caches = caches
        self._histograms: dict[str, dict[tuple[str, ...], _Histogram]] = {duration.name: {} for duration in DURATIONS}
        self._lock = lock_across_forks()
        self._watchers = [(cache, cache.on_span(Timer(partial(self._record, cache.settings.namespace)))) for cache in caches]

    def describe(self) -> Iterable[Family]:
        """The families without their samples."""
        return [*map(_family, METRICS), *map(_histogram_family, DURATIONS)]

    def collect(self) -> Iterator[Family]:
        """The families with what they are now."""
        readings = [(cache.settings.namespace, Reading(cache.stats(), cache.health())) for cache in self._caches]
        for metric in METRICS:
            family = _family(metric)
            for namespace, reading in readings:
                for values, value in metric.read(reading):
                    family.add_metric((namespace, *values), value)
            yield family
        for duration in DURATIONS:
            histograms = _histogram_family(duration)
            with self._lock:
                for values, histogram in self._histograms[duration.name].items():
                    histograms.add_metric(values, histogram.cumulated(), histogram.sum)
            yield histograms

    def text(self) -> str:
        """The same in Prometheus' text format, for an endpoint of one's own: ``text/plain; version=0.0.4; charset=utf-8``."""
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry).decode()

    def close(self) -> None:
        """Measure no more."""
        for cache, watcher in self._watchers:
            cache.off_span(watcher)

    def _record(self, namespace: str, duration: Duration, span: Span, seconds: float) -> None:
        labels = (namespace, *(str(span.fields[label]) for label in duration.labels), "ok" if span.error is None else "error")
        with self._lock:
            histogram = self._histograms[duration.name].setdefault(labels, _Histogram())
            histogram.counts[bisect_left(BUCKETS, seconds)] += 1
            histogram.sum += seconds


class _Histogram:
    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.sum = 0.0

    def cumulated(self) -> list[tuple[str, float]]:
        return list(zip([*map(str, BUCKETS), "+Inf"], accumulate(self.counts), strict=True))


def serve(collector: Collector, ports: Iterable[int] = PORTS, address: str = "127.0.0.1") -> int:
    """Tell the numbers at ``/metrics`` on the first of ``ports`` that is free, in a thread of this process. Returns the port.

    For servers with several worker processes: each calls this after it was forked, and Prometheus is told all ports. ``address`` is
    where to listen; "0.0.0.0" lets other machines ask. Raises ``OSError`` where no port is free.
    """
    registry = CollectorRegistry()
    registry.register(collector)
    for port in ports:
        try:
            server, _ = start_http_server(port, address, registry)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return server.server_port
    raise OSError(errno.EADDRINUSE, f"none of the ports {ports!r} is free")


def _family(metric: Metric) -> CounterMetricFamily | GaugeMetricFamily:
    labels = (NAMESPACE, *metric.labels)
    if metric.kind == "counter":
        return CounterMetricFamily(metric.prometheus, metric.about, labels=labels)
    return GaugeMetricFamily(metric.prometheus, metric.about, labels=labels)


def _histogram_family(duration: Duration) -> HistogramMetricFamily:
    return HistogramMetricFamily(duration.prometheus, duration.about, labels=(NAMESPACE, *duration.labels, OUTCOME))


__all__ = ["PORTS", "Collector", "serve"]
