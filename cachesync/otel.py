"""OpenTelemetry: spans and metrics of a cache. Needs the extra ``[otel]``, which is the API alone; the application chooses the SDK.

Spans of Redis follow the semantic conventions for databases and Redis (`SCHEMA_URL` names the version), the rest is called
``cachesync.``. What a hit in local memory costs does not change: numbers are read when they are exported, and a hit is no span.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

try:
    from opentelemetry import context, metrics, trace
    from opentelemetry.metrics import CallbackOptions, Meter, Observation
    from opentelemetry.trace import INVALID_SPAN, Link, SpanKind, Status, StatusCode, Tracer
except ImportError as error:
    raise ImportError('cachesync.otel needs the API of OpenTelemetry: pip install "cachesync[otel]"') from error

from cachesync.cache import Cache
from cachesync.coordination.events import attributes_of
from cachesync.coordination.metrics import BUCKETS, DURATIONS, METRICS, NAMESPACE, Duration, Metric, Reading, Timer
from cachesync.core.redis_url import is_cluster_url, is_sentinel_url

if TYPE_CHECKING:
    from cachesync.coordination.events import Span

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"
"""The version of the semantic conventions that is followed."""
REDIS_PORT: Final = 6379
_KEYS: Final = frozenset({"key", "keys", "patterns", "tags"})
_UNSHOWN: Final = frozenset({"commands"})


class Instrumentation:
    """What `instrument` has set up. `remove` ends it."""

    def __init__(self, watching: Sequence[tuple[Cache, Sequence[Any]]]) -> None:
        self._watching = [(weakref.ref(cache), tuple(watchers)) for cache, watchers in watching]
        self.is_active = True

    def caches(self) -> list[Cache]:
        """The caches that are alive and still observed."""
        found = [reference() for reference, _ in self._watching] if self.is_active else []
        return [cache for cache in found if cache is not None]

    def remove(self) -> None:
        """No more spans, and no more numbers: instruments stay, as the API wants it, and observe nothing."""
        for reference, watchers in self._watching:
            cache = reference()
            for watcher in watchers if cache is not None else ():
                assert cache is not None
                cache.off_span(watcher)
        self.is_active = False


def instrument(
    *caches: Cache,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
    keys: bool = True,
) -> Instrumentation:
    """Make spans and metrics of one or several caches, by the global providers unless others are given.

    All caches of a process belong into one call: instruments of the same names would be made twice. With ``keys=False`` spans show
    neither keys nor patterns nor tags. Metrics never do.
    """
    from cachesync import __version__

    if not caches:
        raise TypeError("instrument() needs a cache: instrument(cache)")
    tracer = trace.get_tracer("cachesync", __version__, tracer_provider, SCHEMA_URL)
    meter = metrics.get_meter("cachesync", __version__, meter_provider, SCHEMA_URL)
    histograms = {
        duration.name: meter.create_histogram(duration.name, duration.unit, duration.about, explicit_bucket_boundaries_advisory=BUCKETS)
        for duration in DURATIONS
    }

    def record(namespace: str, duration: Duration, span: Span, seconds: float) -> None:
        labels = {f"cachesync.{label}": span.fields[label] for label in duration.labels}
        if span.error is not None:
            labels["error.type"] = type_of(span.error)
        histograms[duration.name].record(seconds, {f"cachesync.{NAMESPACE}": namespace, **labels})

    watching: list[tuple[Cache, Sequence[Any]]] = []
    for cache in caches:
        # The timer stands inside of the span, so that what it records may be an exemplar of it.
        watchers = (_Tracing(tracer, _server_of(cache), keys=keys), Timer(partial(record, cache.settings.namespace)))
        watching.append((cache, [cache.on_span(watcher) for watcher in watchers]))
    instrumentation = Instrumentation(watching)
    for metric in METRICS:
        _observe(meter, metric, instrumentation)
    return instrumentation


def _observe(meter: Meter, metric: Metric, instrumentation: Instrumentation) -> None:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        for cache in instrumentation.caches():
            constant = {f"cachesync.{NAMESPACE}": cache.settings.namespace}
            for values, value in metric.read(Reading(cache.stats(), cache.health())):
                labels = {f"cachesync.{label}": text for label, text in zip(metric.labels, values, strict=True)}
                yield Observation(value, {**constant, **labels})

    create: Callable[..., object] = meter.create_observable_counter if metric.kind == "counter" else meter.create_observable_gauge
    create(metric.name, [observe], metric.unit, metric.about)


class _Tracing:
    """A watcher that makes spans of OpenTelemetry."""

    def __init__(self, tracer: Tracer, server: Mapping[str, str | int], *, keys: bool) -> None:
        self._tracer = tracer
        self._server = server
        self._hidden = _UNSHOWN if keys else _UNSHOWN | _KEYS

    def __call__(self, span: Span, /) -> Any:
        caused = context.get_current() if span.name == "refresh" else None
        return self._traced(span, caused)

    @contextmanager
    def _traced(self, span: Span, caused: context.Context | None) -> Generator[None, None, None]:
        links: list[Link] = []
        around = context.get_current()
        if caused is not None:  # it outlives who has caused it, so it is a trace of its own
            cause = trace.get_current_span(caused).get_span_context()
            links = [Link(cause)] if cause.is_valid else []
            around = trace.set_span_in_context(INVALID_SPAN, caused)
        name, kind, attributes = self._described(span)
        traced = self._tracer.start_span(name, around, kind, attributes, links)
        token = context.attach(trace.set_span_in_context(traced, around))
        try:
            yield
        finally:
            context.detach(token)
            self._end(traced, span)

    def _described(self, span: Span) -> tuple[str, SpanKind, dict[str, Any]]:
        fields = span.fields
        attributes = attributes_of({name: value for name, value in fields.items() if name not in self._hidden})
        if span.name != "shared":
            function = fields.get("function")
            return (span.name if function is None else f"{span.name} {function}"), SpanKind.INTERNAL, attributes
        step, commands = str(fields["step"]).lower(), fields["commands"]
        if not commands:
            return f"shared {step}", SpanKind.CLIENT, attributes
        operation = operation_of(commands)
        attributes |= {"db.system.name": "redis", "db.operation.name": operation, **self._server}
        if len(commands) > 1:
            attributes["db.operation.batch.size"] = len(commands)
        if "EVALSHA" in commands:
            attributes["db.stored_procedure.name"] = step
        return f"{operation} {step}", SpanKind.CLIENT, attributes

    def _end(self, traced: trace.Span, span: Span) -> None:
        if "stamp" in span.fields:
            traced.set_attribute("cachesync.stamp", span.fields["stamp"])
        error = span.error
        if error is not None:
            traced.set_status(Status(StatusCode.ERROR, None if span.conceals else str(error)))
            traced.set_attribute("error.type", type_of(error))
            if (code := status_code_of(error)) is not None:
                traced.set_attribute("db.response.status_code", code)
            if span.name != "shared" and not span.conceals:
                traced.record_exception(error)
        traced.end()


def operation_of(commands: Sequence[str]) -> str:
    """``db.operation.name`` of the commands of one trip: that of a single one, ``PIPELINE`` for several.

    >>> operation_of(["MGET"]), operation_of(["UNLINK", "UNLINK"]), operation_of(["TIME", "MGET"])
    ('MGET', 'PIPELINE UNLINK', 'PIPELINE')
    """
    if len(commands) == 1:
        return commands[0]
    return f"PIPELINE {commands[0]}" if len(set(commands)) == 1 else "PIPELINE"


def type_of(error: BaseException) -> str:
    """``error.type``: the prefix of Redis' error, else the class of what was raised first: not of the error that wraps it."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    kind = type(cause)
    return status_code_of(error) or (kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}")


def status_code_of(error: BaseException) -> str | None:
    """``db.response.status_code``: the prefix of what Redis has refused with, such as ``OOM`` or ``NOPERM``."""
    if not getattr(error, "is_refusal", False):
        return None
    found = re.match(r"[A-Z][A-Z0-9]+\b", str(error.__cause__ or ""))
    return found[0] if found else "ERR"


def _server_of(cache: Cache) -> dict[str, str | int]:
    """The server's address and the database as the url names them, without its password. A connection keeps its database."""
    if cache.settings.redis is None:
        return {}
    url = cache.settings.redis.url
    if is_sentinel_url(url) or is_cluster_url(url):
        return {}  # which of several servers it is changes
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return {"server.address": unquote(parts.path)}
    found: dict[str, str | int] = {"server.address": parts.hostname or "", "db.namespace": parts.path.strip("/") or "0"}
    if parts.port not in {None, REDIS_PORT}:
        found["server.port"] = int(parts.port or REDIS_PORT)
    return found


__all__ = ["SCHEMA_URL", "Instrumentation", "instrument"]
