"""The app itself: which endpoint answers what."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, cast

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send

from cachesync.admin.audit import Audit
from cachesync.admin.bodies import (
    MOST_SHOWN,
    HealthState,
    InvalidateBody,
    Invalidated,
    KeyBody,
    KeyState,
    Problem,
    Record,
    Records,
    SweepBody,
    SweptUp,
    SwitchBody,
    Switched,
)
from cachesync.admin.checks import Checked, check_all
from cachesync.admin.guard import HEADERS, Guard, Handler, RefusedError, answer, closed
from cachesync.admin.openapi import document
from cachesync.admin.pages import client, dashboard
from cachesync.cache import Cache
from cachesync.coordination.asgi import Identify
from cachesync.coordination.health import Health, Status
from cachesync.coordination.latencies import Latencies
from cachesync.coordination.stats import LogStats
from cachesync.coordination.streams import Told, schema_of
from cachesync.core.front_end import policies_as_json
from cachesync.core.groups import NO_POLICY, touched_by
from cachesync.core.keys import written
from cachesync.core.records import SOFT, VALUE, Targets, targets_of
from cachesync.core.records import written as as_written
from cachesync.core.switches import read_switch, switchable
from cachesync.errors import KeyArgumentError, LayerError, SwitchError
from cachesync.event_streams import MOST_STREAMS, Entitled, EventStreams

if TYPE_CHECKING:
    from cachesync.prometheus import Collector


class Admin:
    """An ASGI application to look at a cache and to change what it holds; to be mounted anywhere, or served alone.

    ``authorise`` is given the scope of a connection (ASGI: headers, client, what other middleware has put there) and returns the identity
    of whoever may enter, as a text, or ``None``; it may be a coroutine function. Left out, everything is closed but ``/client.js`` and
    ``/events``. The dashboard at ``/`` is a page without data, which asks for a token where it is refused: it is sent as
    ``Authorization: Bearer``, beside the cookies that a browser sends by itself.

    ``identify`` tells who a caller of ``/events`` is, in the same way (left out: what ``authorise`` says); ``entitled``, ``streams``
    (how many may be open), ``heartbeat`` and ``life`` are as in `EventStreams`. ``rate`` is how many changes a second one identity may ask
    for, on average, and ``burst`` how many at once; reads may be ten times as many. ``origins`` are those of pages that may send changes
    besides the app's own (``https://ops.example``). ``checks`` are asked by ``/health``, by name; what raises, or takes two seconds, is
    ill.
    """

    def __init__(
        self,
        cache: Cache,
        authorise: Identify | None = None,
        *,
        identify: Identify | None = None,
        entitled: Entitled | None = None,
        streams: int = MOST_STREAMS,
        heartbeat: float | str = "15s",
        life: float | str = "1h",
        rate: float = 5.0,
        burst: int = 50,
        origins: Collection[str] = (),
        checks: Mapping[str, Checked] | None = None,
    ) -> None:
        self._cache = cache
        self._guard = Guard(authorise, frozenset(origins), rate=rate, burst=burst)
        self._hub = cache.hub
        self._audit = Audit(self._hub.engine.events)
        self._checks = dict(checks or {})
        self._latencies = Latencies(time.monotonic)
        self._streams_limit = streams
        self._collector: Collector | None = None
        cache.on_span(self._latencies.watch)
        self.streams = EventStreams(
            cache,
            identify=identify or authorise,
            entitled=entitled,
            most=streams,
            heartbeat=heartbeat,
            life=life,
            origins=origins,
        )
        """What answers ``/events``."""
        self._app = Starlette(routes=self._routes(), exception_handlers=_HANDLERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        await self._app(scope, receive, send)

    @cached_property
    def openapi(self) -> Mapping[str, Any]:
        """The OpenAPI 3.1 document of the app, as JSON knows it."""
        return document()

    def _routes(self) -> list[BaseRoute]:
        endpoints: list[tuple[str, Handler | None, Handler | None]] = [  # by GET, and by POST
            ("/stats", self._stats, None),
            ("/health", self._health, None),
            ("/policies.json", self._policies, None),
            ("/metrics", self._metrics, None),
            ("/log", self._log, None),
            ("/openapi.json", self._openapi, None),
            ("/switch", self._switches, self._switch),
            ("/invalidate", None, self._invalidate),
            ("/sweep", None, self._sweep),
            ("/entry", None, self._entry),  # a key in an address would stand in every access log
        ]
        open_to_all: list[BaseRoute] = [
            Route("/", self._dashboard),
            Route("/client.js", self._client),
            Route("/events", self.streams),
            WebSocketRoute("/events", self.streams),
        ]
        return [*(_route(path, self._guard, read, change) for path, read, change in endpoints), *open_to_all]

    # --- looking ----------------------------------------------------------------------------------------------------------------------

    async def _stats(self, _request: Request, _who: str) -> Response:
        latency = {
            span: {label: quantiles._asdict() for label, quantiles in found.items()} for span, found in self._latencies.read().items()
        }
        process = {"pid": os.getpid(), "now": time.time(), "namespace": self._cache.settings.namespace}
        streams = {"open": self._hub.count, "limit": self._streams_limit}
        return _success({**self._cache.stats().as_dict(), "latency": latency, "streams": streams, "process": process})

    async def _health(self, _request: Request, _who: str) -> Response:
        (health, log), checks = await asyncio.gather(self._ask(), check_all(self._checks))
        ill = [
            Problem(name="check_failed", text=f"{name}: {check.error}", seconds=check.seconds)
            for name, check in checks.items()
            if not check.ok
        ]
        reasons = [Problem(name=reason.name, text=reason.text, seconds=reason.seconds) for reason in health.reasons]
        status: Status = "degraded" if ill and health.status == "ok" else health.status
        state = HealthState(
            status=status,
            reasons=[*reasons, *ill],
            breaker=health.breaker,
            round_trip=health.round_trip,
            lag=log.lag,
            is_heard=log.is_heard,
            position=None if log.position is None else str(log.position),
            checks=checks,
        )
        return _success(state, 503 if status == "down" else 200)

    async def _ask(self) -> tuple[Health, LogStats]:
        health = await self._cache.acheck()
        return health, self._cache.stats().log

    async def _policies(self, _request: Request, _who: str) -> Response:
        settings = self._cache.settings
        return _success({"schema": schema_of(settings.policies), **policies_as_json(settings)})

    async def _entry(self, request: Request, _who: str) -> Response:
        key = (await self._guard.read(request, KeyBody)).key
        entry = await self._cache.apeek(key)
        policy = self._cache.settings.policies.match(written(key))
        shown = self._shown_patterns([written(key)])[0]
        state = KeyState(key=shown, policy=None if policy is None else policy.name, found=entry is not None)
        if entry is not None:
            state.stamp, state.age, state.is_stale = str(entry.stamp), entry.age, entry.is_stale
            state.ttl = None if policy is None else policy.ttl
            state.etag, state.layer = entry.etag or None, entry.layer
        return _success(state)

    async def _log(self, request: Request, _who: str) -> Response:
        last = request.query_params.get("last", "100")
        if not (last.isdecimal() and last.isascii() and len(last) < 10 and 1 <= int(last) <= MOST_SHOWN):
            raise RefusedError(400, "bad_number", f"last is a whole number from 1 to {MOST_SHOWN:,}")
        records = [self._record(told) for told in self._hub.last(int(last))]
        return _success(Records(position=str(self._hub.stamp), records=records))

    def _record(self, told: Told) -> Record:
        names = self._shown((told.targets,))
        mode = {SOFT: "soft", VALUE: "value"}.get(told.targets.mode, "hard")
        return Record(number=None if told.is_pending else told.number, mode=cast(Any, mode), at=told.at, **names)

    async def _switches(self, _request: Request, _who: str) -> Response:
        return _success(self._switched())

    async def _metrics(self, _request: Request, _who: str) -> Response:
        try:
            from cachesync.prometheus import Collector
        except ImportError as error:
            raise RefusedError(501, "no_prometheus", 'this server has no prometheus_client: pip install "cachesync[prometheus]"') from error
        self._collector = self._collector or Collector(self._cache)
        return Response(self._collector.text(), headers=HEADERS, media_type="text/plain; version=0.0.4")

    async def _openapi(self, _request: Request, _who: str) -> Response:
        return answer(self.openapi)

    async def _dashboard(self, _request: Request) -> Response:
        """The page alone, which knows nothing: a browser that opens it can send no token yet. What it asks for then is authorised."""
        if self._guard.is_closed:
            return closed().response()
        return dashboard()

    async def _client(self, request: Request) -> Response:
        return client(request.headers.get("if-none-match", ""))

    # --- changing ---------------------------------------------------------------------------------------------------------------------

    async def _invalidate(self, request: Request, who: str) -> Response:
        body = await self._guard.read(request, InvalidateBody)
        if not body.patterns and not body.tags:
            raise RefusedError(400, "empty_list", 'nothing is named: send "patterns" or "tags" with at least one text; everything is "*"')
        try:
            targets = targets_of(map(written, body.patterns), map(written, body.tags))
        except ValueError as error:
            raise RefusedError(400, "bad_pattern", "a pattern is not one; write a key, a prefix such as stores:*, or a glob") from error
        stamp, swept = None, None
        if not body.dry_run:
            with self._audit.watch(who, "invalidate", as_written(targets)) as audited:
                stamp = await self._cache.ainvalidate(*body.patterns, tags=body.tags, soft=body.soft)
                audited |= {"outcome": "queued" if stamp.pending else "done", "stamp": str(stamp)}
                swept = await self._cache.asweep() if body.sweep else None
        data = Invalidated(
            **self._shown(targets),
            soft=body.soft,
            dry_run=body.dry_run,
            stamp=None if stamp is None else str(stamp),
            pending=stamp is not None and stamp.pending,
            policies=self._touched(targets),
            total_invalidated=None if swept is None else swept.deleted,
        )
        return _success(data, headers={} if stamp is None else {"cachesync-stamp": str(stamp)})

    def _touched(self, targets: tuple[Targets, ...]) -> list[str]:
        policies = self._cache.settings.policies
        found = [touched_by(policies, one) for one in targets]
        everyone = {policy.name for policy in policies}
        return sorted({name for names in found for name in (everyone if names is None else names)} - {NO_POLICY})

    async def _switch(self, request: Request, who: str) -> Response:
        body = await self._guard.read(request, SwitchBody)
        switches = self._cache.switches()
        names = [policy.name for policy in self._cache.settings.policies]
        read_switch(body.target, body.value, names, {*switches.here, *switches.everywhere})
        if not body.dry_run:
            with self._audit.watch(who, "switch", {"switched": [f"{body.target}={body.value}"]}):
                await self._cache.aswitch(body.target, body.value)
        return _success(self._switched(dry_run=body.dry_run))

    def _switched(self, *, dry_run: bool = False) -> Switched:
        now = self._cache.switches()
        return Switched(
            effective=dict(now.effective),
            everywhere=dict(now.everywhere),
            here=dict(now.here),
            environment=dict(now.environment),
            targets=list(switchable(policy.name for policy in self._cache.settings.policies)),
            dry_run=dry_run,
        )

    async def _sweep(self, request: Request, who: str) -> Response:
        await self._guard.read(request, SweepBody)
        with self._audit.watch(who, "sweep", {}):
            swept = await self._cache.asweep()
        return _success(SweptUp(examined=swept.examined, deleted=swept.deleted, unjudged=swept.unjudged))

    # --- masking ----------------------------------------------------------------------------------------------------------------------

    def _shown(self, targets: Collection[Targets]) -> dict[str, list[str]]:
        return cast("dict[str, list[str]]", self._hub.engine.events.shown(dict(as_written(tuple(targets)))))

    def _shown_patterns(self, texts: list[str]) -> list[str]:
        return cast("list[str]", self._hub.engine.events.shown({"patterns": texts})["patterns"])


def _success(data: BaseModel | Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    content = data.model_dump(by_alias=True) if isinstance(data, BaseModel) else data
    return answer({"success": True, "data": content}, status, headers)


def _route(path: str, guard: Guard, read: Handler | None, change: Handler | None) -> Route:
    """An endpoint that answers GET, or POST, or both."""

    async def endpoint(request: Request) -> Response:
        changes = request.method == "POST"
        handler = change if changes else read
        assert handler is not None  # the router lets no other methods through
        try:
            return await handler(request, await guard.admit(request, changes=changes))
        except RefusedError as refused:
            return refused.response()

    return Route(path, endpoint, methods=[method for method, handler in (("GET", read), ("POST", change)) if handler is not None])


def _told(status: int, code: str) -> Callable[[Request, Exception], Response]:
    return lambda _request, error: RefusedError(status, code, str(error)).response()


def _of_router(_request: Request, error: Exception) -> Response:
    known = cast(HTTPException, error)
    if known.status_code == 405:
        text = f"not by this method; allowed: {(known.headers or {}).get('Allow', '')}"
        return RefusedError(405, "method_not_allowed", text, known.headers).response()
    return RefusedError(known.status_code, "not_found", "there is nothing here; see /openapi.json", known.headers).response()


_HANDLERS: Final[Mapping[Any, Callable[[Request, Any], Response]]] = {
    HTTPException: _of_router,
    KeyArgumentError: _told(400, "bad_key"),
    SwitchError: _told(400, "bad_switch"),
    LayerError: _told(503, "layer_unavailable"),
}

__all__ = ["Admin"]
