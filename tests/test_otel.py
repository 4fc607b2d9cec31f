"""OpenTelemetry: what an application's traces and metrics show of a cache, by the SDK's own exporters in memory."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ExponentialHistogramDataPoint, HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import SpanKind, StatusCode

from cachesync import Cache, LayerError, MemoryShared, Policy, Settings
from cachesync.coordination.metrics import DURATIONS, METRICS
from cachesync.core.encryption_keys import new_key
from cachesync.core.settings import CoordinationSettings, RedisSettings
from cachesync.core.stamps import NOWHERE
from cachesync.core.steps import Fetch, Lease, SharedStep, Store
from cachesync.layers.redis import RedisShared
from cachesync.otel import SCHEMA_URL, Instrumentation, instrument, operation_of, status_code_of, type_of
from support.nodes import COLOURS, LONG, Caller, Colour, LoopThread, engine_of, until
from support.proxy import Proxy
from support.servers import Server

Point = NumberDataPoint | HistogramDataPoint | ExponentialHistogramDataPoint
POLICY = Policy(name="all", match="*", ttl="1h", stale_while_revalidate="1h")


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    with LoopThread() as thread:
        yield thread


class Telescope:
    """An SDK whose spans and numbers stay in memory."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self.meters = MeterProvider([self._reader])
        self.application = self.tracers.get_tracer("application")

    def look_at(self, *caches: Cache, **how: Any) -> Instrumentation:
        return instrument(*caches, tracer_provider=self.tracers, meter_provider=self.meters, **how)

    def spans(self, name: str = "") -> list[ReadableSpan]:
        """The spans that are over and whose names begin so, in the order in which they ended."""
        return [span for span in self._exporter.get_finished_spans() if span.name.startswith(name)]

    def one(self, name: str) -> ReadableSpan:
        (found,) = self.spans(name)
        return found

    def forget(self) -> None:
        self._exporter.clear()

    def numbers(self) -> dict[str, list[Point]]:
        """The data points by the name of their metric."""
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        metrics = [metric for resource in data.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics]
        assert len(metrics) == len({metric.name for metric in metrics})
        return {metric.name: list(metric.data.data_points) for metric in metrics}

    def number(self, name: str, **labels: str) -> float:
        wanted = {f"cachesync.{label}": text for label, text in labels.items()}
        points = [point for point in self.numbers()[name] if wanted.items() <= dict(point.attributes or {}).items()]
        (point,) = points
        assert isinstance(point, NumberDataPoint)
        return point.value


@pytest.fixture
def telescope() -> Iterator[Telescope]:
    telescope = Telescope()
    yield telescope
    telescope.tracers.shutdown()
    telescope.meters.shutdown()


def a_cache(url: str, namespace: str, *, budget: float = LONG, listen: bool = False) -> Cache:
    settings = Settings(namespace=namespace, redis=RedisSettings(url=url), coordination=CoordinationSettings(budget=budget, max_lag=60.0))
    return Cache(settings, policies=[POLICY], listen=listen)


def attributes_of(span: ReadableSpan) -> Mapping[str, Any]:
    return dict(span.attributes or {})


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    found: int = span.context.span_id
    return found


# --- spans ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{"mask": ["phone"]}, {"encrypt": True}], ids=["masked", "encrypted"])
def test_what_is_masked_or_encrypted_is_in_no_span(telescope: Telescope, how: dict[str, Any]) -> None:
    """Also not in the text of an error, which the function may have made of it."""
    policy = Policy(name="contacts", match="contacts:*", ttl="1h", **how)
    cache = Cache(policies=[policy], shared=MemoryShared(), listen=False, encryption_keys=new_key(1))
    telescope.look_at(cache)

    @cache.cached("contacts:{phone}")
    def contact(phone: str) -> str:
        raise OSError(f"{phone} does not answer")

    with pytest.raises(OSError, match="does not answer"):
        contact("5550100")
    span = telescope.one("compute")
    assert span.status.status_code is StatusCode.ERROR
    assert attributes_of(span)["error.type"] == "OSError"
    assert "does not answer" not in span.to_json()
    assert ("5550100" in span.to_json()) == ("encrypt" in how), "what is encrypted has its key in clear"


def test_a_cluster_or_sentinels_have_no_one_address(telescope: Telescope) -> None:
    """Which of the servers answers changes."""
    for url in ("redis+cluster://127.0.0.1:1,127.0.0.1:2", "redis+sentinel://127.0.0.1:1,127.0.0.1:2/main/0"):
        with a_cache(url, "nowhere", budget=0.05) as cache:
            telescope.forget()
            telescope.look_at(cache)
            cache.get("item:1")
            assert "server.address" not in attributes_of(telescope.spans()[0])


@pytest.mark.parametrize("colour", COLOURS)
def test_what_a_call_does_is_part_of_the_callers_trace(
    every_server: Server, namespace: str, colour: Colour, loop: LoopThread, telescope: Telescope
) -> None:
    """Trips and the computation are children of the request's span; what the function does is a child of the computation."""
    caller = Caller(a_cache(every_server.url, namespace), colour, loop)
    telescope.look_at(caller.cache)

    @caller.cached("item:{number}")
    async def item(number: int) -> int:
        with telescope.application.start_as_current_span("query"):
            return number

    async def arequest() -> None:
        with telescope.application.start_as_current_span("request"):
            await item(1)

    def request() -> None:
        with telescope.application.start_as_current_span("request"):
            item(1)

    caller.do(request if colour == "def" else arequest)
    outer, computation = telescope.one("request"), telescope.one("compute ")
    assert {parent_of(span) for span in telescope.spans() if span.name not in {"request", "query"}} == {id_of(outer)}
    assert parent_of(telescope.one("query")) == id_of(computation)
    names = [span.name for span in telescope.spans() if "fetch" in span.name or "lease" in span.name or "store" in span.name]
    assert names == ["PIPELINE fetch", "PIPELINE lease", "EVALSHA store"]
    assert computation.kind is SpanKind.INTERNAL and computation.name.endswith(".item")
    shown = attributes_of(computation)
    assert shown == {"cachesync.key": "item:1", "cachesync.policy": "all", "cachesync.function": computation.name.removeprefix("compute ")}
    caller.close()


def test_a_trip_to_redis_is_described_by_the_conventions(server: Server, namespace: str, telescope: Telescope) -> None:
    """System, operation, size of the batch, server and database as their names are in the conventions."""
    with a_cache(server.url, namespace) as cache:
        telescope.look_at(cache)
        cache.get("a")
    span = telescope.spans("PIPELINE fetch")[0]
    shown = attributes_of(span)
    assert span.kind is SpanKind.CLIENT
    assert shown["db.system.name"] == "redis" and shown["db.namespace"] == "0"
    assert (shown["server.address"], shown["server.port"]) == ("127.0.0.1", server.port)
    assert (shown["db.operation.name"], shown["db.operation.batch.size"]) == ("PIPELINE", 3)
    assert shown["cachesync.step"] == "Fetch" and shown["cachesync.keys"] == ("a",)


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("redis://user:secret@127.0.0.1:1/3", {"server.address": "127.0.0.1", "server.port": 1, "db.namespace": "3"}),
        ("redis://:secret@127.0.0.255:6379", {"server.address": "127.0.0.255", "db.namespace": "0"}),
        ("unix:///tmp/no%20such.sock", {"server.address": "/tmp/no such.sock"}),
    ],
)
def test_the_server_is_told_without_its_password(url: str, server: dict[str, Any], namespace: str, telescope: Telescope) -> None:
    """Nor is the usual port; a socket is its path."""
    with a_cache(url, namespace, budget=1.0) as cache:
        telescope.look_at(cache)
        cache.get("a")
    (span,) = telescope.spans("PIPELINE fetch")
    assert {name: value for name, value in attributes_of(span).items() if name.startswith("server.") or name == "db.namespace"} == server
    assert "secret" not in str((span.name, attributes_of(span), span.status.description))


def test_the_conventions_are_those_of_a_version_that_exists() -> None:
    """The schema's url is one of OpenTelemetry's."""
    assert SCHEMA_URL in {schema.value for schema in Schemas}


def test_the_operation_is_that_of_the_commands_that_are_sent(namespace: str) -> None:
    """Names and numbers of commands are those of the wire."""
    shared = RedisShared("redis://127.0.0.1:1", namespace=namespace)
    steps: list[tuple[SharedStep, str, int]] = [
        (Fetch(("a",)), "PIPELINE", 3),
        (Fetch(("a", "b"), strict=True), "PIPELINE", 4),
        (Store("a", "t", b"", 1), "EVALSHA", 1),
    ]
    for step, operation, size in steps:
        commands = shared.commands(step)
        assert (operation_of(commands), len(commands)) == (operation, size)
    assert "EVALSHA" in shared.commands(Lease("a", "t", NOWHERE, 1, None))


@pytest.mark.parametrize("colour", COLOURS)
def test_an_invalidation_is_a_span_with_its_stamp(
    server: Server, namespace: str, colour: Colour, loop: LoopThread, telescope: Telescope
) -> None:
    """The trip that announces it is its child."""
    caller = Caller(a_cache(server.url, namespace), colour, loop)
    telescope.look_at(caller.cache)
    stamp = caller.drop("a:*", "b", tags=["region:java"])
    span, trip = telescope.one("invalidate"), telescope.spans("PIPELINE announce")[0]
    shown = attributes_of(span)
    assert set(shown["cachesync.patterns"]) == {"a:*", "b"} and shown["cachesync.tags"] == ("region:java",)
    assert shown["cachesync.stamp"] == str(stamp)
    assert parent_of(trip) == id_of(span)
    assert attributes_of(trip)["db.stored_procedure.name"] == "announce"
    caller.close()


@pytest.mark.parametrize("colour", COLOURS)
def test_a_refresh_is_a_trace_of_its_own_with_a_link(colour: Colour, loop: LoopThread, telescope: Telescope) -> None:
    """It outlives the request that found the value stale: it is linked to it, and what it does is its child."""
    caller = Caller(Cache(policies=[POLICY], shared=MemoryShared(), listen=False), colour, loop)
    telescope.look_at(caller.cache)

    @caller.cached("item:{number}")
    async def item(number: int) -> int:
        return number

    caller.do(item, 1)
    caller.drop("item:*", soft=True)
    telescope.forget()

    async def arequest() -> None:
        with telescope.application.start_as_current_span("request"):
            await item(1)

    def request() -> None:
        with telescope.application.start_as_current_span("request"):
            item(1)

    caller.do(request if colour == "def" else arequest)
    until(lambda: telescope.spans("refresh "), "the refresh")
    refresh, outer, computation = telescope.one("refresh "), telescope.one("request"), telescope.one("compute ")
    assert refresh.parent is None
    assert [link.context.span_id for link in refresh.links] == [id_of(outer)]
    assert parent_of(computation) == id_of(refresh)
    assert all(parent_of(span) == id_of(refresh) for span in telescope.spans("shared "))


@pytest.mark.parametrize("colour", COLOURS)
def test_a_computation_that_raises_is_an_error_of_its_span(colour: Colour, loop: LoopThread, telescope: Telescope) -> None:
    """With its type, and the exception as an event."""
    caller = Caller(Cache(policies=[POLICY]), colour, loop)
    telescope.look_at(caller.cache)

    def fail() -> Any:
        raise ConnectionResetError("the origin is away")

    with pytest.raises(ConnectionResetError):
        caller.get_or_compute("a", fail)
    span = telescope.one("compute ")
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "the origin is away")
    assert attributes_of(span)["error.type"] == "ConnectionResetError"
    assert [event.name for event in span.events] == ["exception"]


@pytest.mark.parametrize("colour", COLOURS)
def test_a_trip_without_an_answer_is_an_error_of_its_span(
    proxy: Proxy, namespace: str, colour: Colour, loop: LoopThread, telescope: Telescope
) -> None:
    """Its type is that of what was raised first, not of the error that wraps it."""
    caller = Caller(a_cache(proxy.url, namespace), colour, loop)
    caller.get("a")
    telescope.look_at(caller.cache)
    engine_of(caller.cache).budget = 0.25
    proxy.hold()
    caller.get("b")
    span = telescope.one("PIPELINE fetch")
    assert span.status.status_code is StatusCode.ERROR
    assert "TimeoutError" in attributes_of(span)["error.type"]
    assert "db.response.status_code" not in attributes_of(span)
    proxy.release()
    caller.close()


def test_a_refusal_is_told_by_its_prefix() -> None:
    """``NOPERM`` or ``OOM``, as the conventions want it."""
    refusal = LayerError("Redis, store: OOM command not allowed")
    refusal.__cause__ = ValueError("OOM command not allowed when used memory > 'maxmemory'.")
    refusal.is_refusal = True
    assert status_code_of(refusal) == type_of(refusal) == "OOM"
    assert status_code_of(ValueError("OOM")) is None
    assert type_of(ValueError("OOM")) == "ValueError"


def test_without_keys_nothing_shows_them(telescope: Telescope) -> None:
    """``keys=False``: neither keys nor patterns nor tags stand in any span."""
    cache = Cache(policies=[POLICY], shared=MemoryShared(), listen=False)
    telescope.look_at(cache, keys=False)
    cache.get_or_compute("phone:0812", lambda: 1)
    cache.invalidate("phone:0812", "phone:08*", tags=["phone:0812"])
    assert len(telescope.spans()) > 4
    assert not [span for span in telescope.spans() if "081" in f"{span.name} {attributes_of(span)}"]


@pytest.mark.parametrize("colour", COLOURS)
def test_a_hit_in_local_memory_is_no_span(colour: Colour, loop: LoopThread, telescope: Telescope) -> None:
    """It costs what it did: it is counted by the copy itself, and read when numbers are exported."""
    caller = Caller(Cache(policies=[POLICY]), colour, loop)

    @caller.cached("item:{number}")
    async def item(number: int) -> int:
        return number

    telescope.look_at(caller.cache)
    caller.do(item, 1)
    telescope.forget()
    for _ in range(5):
        caller.do(item, 1)
    assert telescope.spans() == []
    assert telescope.number("cachesync.calls", policy="all", result="local_hit") == 5


# --- metrics ----------------------------------------------------------------------------------------------------------------------


def test_every_metric_of_the_table_is_exported(server: Server, namespace: str, telescope: Telescope) -> None:
    """With its unit and its labels, and the namespace; and nothing else is."""
    with a_cache(server.url, namespace, listen=True) as cache:
        telescope.look_at(cache)
        cache.get_or_compute("a", lambda: 1)
        cache.invalidate("a", soft=True)
        cache.get_or_compute("a", lambda: 1)
        until(lambda: cache.stats().total.computed == 2 and not cache.stats().refreshes.under_way, "the refresh")
        until(lambda: set(telescope.numbers()) == {one.name for one in (*METRICS, *DURATIONS)}, "all of them")
        for metric in (*METRICS, *DURATIONS):
            for point in telescope.numbers()[metric.name]:
                labels = {"cachesync.namespace", *(f"cachesync.{label}" for label in metric.labels)}
                assert set(point.attributes or {}) == labels, metric.name


def test_numbers_are_those_of_stats(telescope: Telescope) -> None:
    """Read when they are exported, as they are then."""
    cache = Cache(policies=[POLICY])
    telescope.look_at(cache)
    for _ in range(3):
        cache.get_or_compute("a", lambda: 1)
    cache.get("b")
    for result, count in (("local_hit", 2), ("computed", 1), ("missed", 1), ("shared_hit", 0)):
        assert telescope.number("cachesync.calls", policy="all", result=result) == count
    assert telescope.number("cachesync.local.entries") == 1
    cache.get_or_compute("a", lambda: 1)
    assert telescope.number("cachesync.calls", policy="all", result="local_hit") == 3
    assert telescope.number("cachesync.health", status="ok") == 1
    assert telescope.number("cachesync.breaker", state="open") == 0


def test_durations_are_told_apart_by_what_they_end_with(telescope: Telescope) -> None:
    """A failure has ``error.type``, a success has none."""
    cache = Cache(policies=[POLICY])
    telescope.look_at(cache)
    cache.get_or_compute("a", lambda: 1)

    def fail() -> int:
        raise KeyError("b")

    with pytest.raises(KeyError):
        cache.get_or_compute("b", fail)
    points = telescope.numbers()["cachesync.compute.duration"]
    assert sorted(str((point.attributes or {}).get("error.type")) for point in points) == ["KeyError", "None"]
    for point in points:
        assert isinstance(point, HistogramDataPoint) and point.count == 1 and 0 <= point.sum < LONG


def test_several_caches_are_told_apart(telescope: Telescope) -> None:
    """By their namespaces."""
    caches = [Cache(policies=[POLICY], namespace=name) for name in ("one", "two")]
    telescope.look_at(*caches)
    caches[1].get_or_compute("a", lambda: 1)
    found = [telescope.number("cachesync.calls", namespace=name, policy="all", result="computed") for name in ("two",)]
    assert found == [1]
    assert telescope.number("cachesync.local.entries", namespace="one") == 0
    assert telescope.number("cachesync.local.entries", namespace="two") == 1


# --- beginning and ending ---------------------------------------------------------------------------------------------------------


def test_what_was_removed_is_silent(telescope: Telescope) -> None:
    """No spans, no numbers, and nothing stands in the way of the shared layer any more."""
    shared = MemoryShared()
    cache = Cache(policies=[POLICY], shared=shared, listen=False)
    instrumentation = telescope.look_at(cache)
    cache.get_or_compute("a", lambda: 1)
    instrumentation.remove()
    telescope.forget()
    cache.get_or_compute("b", lambda: 1)
    assert telescope.spans() == []
    assert engine_of(cache).shared is shared
    assert not [name for name in telescope.numbers() if not name.endswith(".duration")]


def test_it_keeps_no_cache_alive(telescope: Telescope) -> None:
    """A cache that nobody holds any more goes, and its numbers with it."""
    cache = Cache(policies=[POLICY])
    instrumentation = telescope.look_at(cache)
    gone = weakref.ref(cache)
    del cache
    gc.collect()
    assert gone() is None and instrumentation.caches() == []
    assert "cachesync.calls" not in telescope.numbers()
    instrumentation.remove()


def test_it_needs_a_cache() -> None:
    """To be given none is a mistake that would otherwise be silent."""
    with pytest.raises(TypeError, match="instrument\\(cache\\)"):
        instrument()


def test_spans_of_many_threads_do_not_mix(server: Server, namespace: str, telescope: Telescope) -> None:
    """Each computation is a child of its own caller's span."""
    cache = a_cache(server.url, namespace)
    telescope.look_at(cache)

    @cache.cached("item:{number}")
    def item(number: int) -> int:
        return number

    def request(number: int) -> None:
        with telescope.application.start_as_current_span(f"request {number}"):
            item(number)

    threads = [threading.Thread(target=request, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    requests = {id_of(span): span.name.removeprefix("request ") for span in telescope.spans("request ")}
    found = [(parent_of(span), str(attributes_of(span)["cachesync.key"]).removeprefix("item:")) for span in telescope.spans("compute ")]
    assert sorted(found, key=str) == sorted(requests.items(), key=str)
    cache.close()
