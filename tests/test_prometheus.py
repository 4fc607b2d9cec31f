"""Prometheus: what a scrape of a process shows of its caches, read back by the client's own parser."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import DuplicateTimeseries

from cachesync import Cache, MemoryShared, Policy
from cachesync.coordination.metrics import BUCKETS, DURATIONS, METRICS, RESULTS
from cachesync.prometheus import Collector, serve
from support.nodes import COLOURS, Caller, Colour, LoopThread, engine_of, until

POLICY = Policy(name="all", match="*", ttl="1h", stale_while_revalidate="1h")


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    with LoopThread() as thread:
        yield thread


def families(text: str) -> dict[str, Family]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(text: str, name: str, **labels: str) -> float:
    """The value of the one sample of this name whose labels are these, among others."""
    found = [
        sample.value
        for family in families(text).values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    (one,) = found
    return one


def test_every_metric_of_the_table_is_told() -> None:
    """With its type and its labels, and the namespace; and nothing else is."""
    cache = Cache(policies=[POLICY], shared=MemoryShared(), listen=False)
    collector = Collector(cache)
    cache.get_or_compute("a", lambda: 1)
    cache.invalidate("a", soft=True)
    cache.get_or_compute("a", lambda: 1)
    until(lambda: 'cachesync_refresh_duration_seconds_count{namespace="cachesync",outcome="ok"' in collector.text(), "the refresh")
    found = families(collector.text())
    assert set(found) == {one.prometheus.removesuffix("_total") for one in (*METRICS, *DURATIONS)}
    for metric in METRICS:
        family = found[metric.prometheus.removesuffix("_total")]
        assert family.type == metric.kind and family.documentation == metric.about
        assert {sample.name for sample in family.samples} == {metric.prometheus}
        for sample in family.samples:
            assert set(sample.labels) == {"namespace", *metric.labels}
    for duration in DURATIONS:
        family = found[duration.prometheus]
        assert family.type == "histogram"
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == {"namespace", "outcome", *duration.labels}


def test_names_follow_the_naming_guide() -> None:
    """One prefix, base units at the end, ``_total`` for what only grows, and for nothing else."""
    for metric in (*METRICS, *DURATIONS):
        assert re.fullmatch(r"cachesync(_[a-z]+)+", metric.prometheus)
        assert metric.unit in {"s", "By"} or re.fullmatch(r"\{[a-z]+\}", metric.unit), "base units only"
        base = metric.prometheus.removesuffix("_total")
        assert base.endswith("_seconds") is (metric.unit == "s")
        assert base.endswith("_bytes") is (metric.unit == "By")
    for metric in METRICS:
        assert metric.prometheus.endswith("_total") is (metric.kind == "counter")


def test_labels_are_bounded() -> None:
    """A thousand keys make no more series than one; a key is in none of them."""
    cache = Cache(policies=[POLICY], shared=MemoryShared(), listen=False)
    collector = Collector(cache)

    def work(number: int) -> None:
        cache.get_or_compute(f"phone:{number}", lambda: number)
        cache.invalidate(f"phone:{number}", tags=[f"phone:{number}"])

    work(1)
    before = collector.text().count("\n")
    for number in range(2, 1_000):
        work(number)
    assert collector.text().count("\n") == before
    assert "phone" not in collector.text()
    assert not {"key", "keys", "tag", "pattern"} & {label for one in (*METRICS, *DURATIONS) for label in one.labels}


@pytest.mark.parametrize("colour", COLOURS)
def test_calls_are_counted_by_what_answered_them(colour: Colour, loop: LoopThread) -> None:
    """They are those of ``stats()``, read at the scrape."""
    caller = Caller(Cache(policies=[POLICY]), colour, loop)
    collector = Collector(caller.cache)

    @caller.cached("item:{number}")
    async def item(number: int) -> int:
        return number

    for _ in range(4):
        caller.do(item, 1)
    caller.get("nothing")
    text = collector.text()
    counts = {result: value(text, "cachesync_calls_total", policy="all", result=result) for result in RESULTS}
    assert counts == {"local_hit": 3, "shared_hit": 0, "joined": 0, "computed": 1, "missed": 1, "repeated": 0}
    assert value(text, "cachesync_local_entries") == 1
    caller.do(item, 1)
    assert value(collector.text(), "cachesync_calls_total", policy="all", result="local_hit") == 4


def test_durations_are_histograms() -> None:
    """Buckets are cumulated, the last has all; a failure is told apart from a success."""
    cache = Cache(policies=[POLICY])
    collector = Collector(cache)
    for number in range(5):
        cache.get_or_compute(f"a:{number}", lambda: 1)

    def fail() -> int:
        raise KeyError("b")

    with pytest.raises(KeyError):
        cache.get_or_compute("b", fail)
    text = collector.text()
    name = "cachesync_compute_duration_seconds"
    assert value(text, f"{name}_count", outcome="ok") == value(text, f"{name}_bucket", outcome="ok", le="+Inf") == 5
    assert value(text, f"{name}_count", outcome="error") == 1
    counts = [value(text, f"{name}_bucket", outcome="ok", le=str(bound)) for bound in BUCKETS]
    assert counts == sorted(counts)
    assert value(text, f"{name}_sum", outcome="ok") >= 0


def test_a_duration_on_a_bound_is_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """``le`` means "less or equal"."""
    times = iter([0.0, 0.25, 0.0, 11.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    cache = Cache(policies=[POLICY])
    collector = Collector(cache)
    cache.get_or_compute("a", lambda: 1)
    cache.get_or_compute("b", lambda: 1)
    monkeypatch.undo()
    text, name = collector.text(), "cachesync_compute_duration_seconds_bucket"
    assert [value(text, name, le=bound) for bound in ("0.1", "0.25", "10.0", "+Inf")] == [0, 1, 1, 2]


def test_a_lag_without_end_is_absent() -> None:
    """Before the log was heard there is no number for it, and no ``+Inf`` that an average would keep for ever."""
    cache = Cache(policies=[POLICY], shared=MemoryShared(), listen=False)
    collector = Collector(cache)
    assert families(collector.text())["cachesync_log_lag_seconds"].samples == []
    cache.get_or_compute("a", lambda: 1)
    assert value(collector.text(), "cachesync_log_lag_seconds") >= 0


def test_states_are_one_among_zeros() -> None:
    """So that an alert may ask for one of them by name."""
    shared = MemoryShared()
    cache = Cache(policies=[POLICY], shared=shared, listen=False)
    collector = Collector(cache)
    with shared.outage():
        cache.get("a")
        text = collector.text()
        assert [value(text, "cachesync_breaker", state=state) for state in ("closed", "open", "half-open")] == [0, 1, 0]
        assert [value(text, "cachesync_health", status=status) for status in ("ok", "degraded", "down")] == [0, 0, 1]
        assert value(text, "cachesync_events_total", event="layer_failed") == 1


def test_several_caches_are_told_apart() -> None:
    """One collector has them all: two would tell families of the same names, which a registry refuses."""
    caches = [Cache(policies=[POLICY], namespace=name) for name in ("one", "two")]
    registry = CollectorRegistry()
    collector = Collector(*caches)
    registry.register(collector)
    caches[0].get_or_compute("a", lambda: 1)
    assert value(collector.text(), "cachesync_local_entries", namespace="one") == 1
    assert value(collector.text(), "cachesync_local_entries", namespace="two") == 0
    with pytest.raises(DuplicateTimeseries):
        registry.register(Collector(caches[0]))
    registry.unregister(collector)
    with pytest.raises(TypeError, match=r"Collector\(cache\)"):
        Collector()


def test_a_collector_that_was_closed_measures_no_more() -> None:
    """What it has measured it goes on telling; nothing stands in the way of the shared layer any more."""
    shared = MemoryShared()
    cache = Cache(policies=[POLICY], shared=shared, listen=False)
    collector = Collector(cache)
    cache.get_or_compute("a", lambda: 1)
    collector.close()
    cache.get_or_compute("b", lambda: 1)
    assert value(collector.text(), "cachesync_compute_duration_seconds_count") == 1
    assert value(collector.text(), "cachesync_calls_total", result="computed") == 2
    assert engine_of(cache).shared is shared


def ask(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
        body: bytes = response.read()
        assert response.headers["Content-Type"].startswith("text/plain")
    return body.decode()


WORKER = """
import sys
from cachesync import Cache, Policy
from cachesync.prometheus import Collector, serve

cache = Cache(policies=[Policy(name="all", match="*", ttl="1h")])
port = serve(Collector(cache), range(*map(int, sys.argv[1:3])))
for number in range(int(sys.argv[3])):
    cache.get_or_compute(f"a:{number}", lambda: 1)
print(port, flush=True)
sys.stdin.read()
"""


def test_each_process_is_a_target_of_its_own() -> None:
    """Workers of one server find themselves ports: a scrape of all of them adds up to what all of them did."""
    first = free_port()
    ports = [str(first), str(first + 20)]
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, *ports, str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for count in (3, 4)
    ]
    try:
        found = [int(read_line(worker)) for worker in workers]
        assert len(set(found)) == 2 and all(first <= port < first + 20 for port in found)
        computed = [value(ask(port), "cachesync_calls_total", result="computed") for port in found]
        assert sorted(computed) == [3, 4]
    finally:
        for worker in workers:
            worker.communicate(timeout=60)


def read_line(process: Any) -> str:
    line: str = process.stdout.readline()
    return line


def free_port() -> int:
    """The first of a row of ports that are likely free: below those that the system gives out by itself."""
    for port in range(20_000, 30_000, 50):
        collector = Collector(Cache(policies=[POLICY]))
        try:
            served = serve(collector, [port])
        except OSError:
            continue
        assert served == port
        return port
    raise AssertionError("no port is free")


def test_a_port_that_is_taken_is_passed_over() -> None:
    """The next is tried; where none is free that is said."""
    collector = Collector(Cache(policies=[POLICY]))
    taken = free_port()
    port = serve(collector, [taken, 0])
    assert port not in {0, taken}
    assert "cachesync_calls_total" in ask(port)
    with pytest.raises(OSError, match="none of the ports"):
        serve(collector, [taken])
