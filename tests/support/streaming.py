"""An application with event streams, for real servers: ``/invalidate`` and everything of the admin app under ``/cache``."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from cachesync import Cache, HttpPolicy, Policy, Settings
from cachesync.admin import Admin
from cachesync.core.settings import CoordinationSettings

patient = Settings(coordination=CoordinationSettings(budget="20s", max_lag="20s"))  # a busy machine is no outage
cache = Cache(
    patient,
    policies=[Policy(name="stores", match="stores:*", ttl="5m", http=HttpPolicy(visibility="public"))],
    redis=os.environ.get("STREAMING_REDIS"),
    namespace=os.environ.get("STREAMING_NAMESPACE", "streaming"),
)


def authorise(scope: MutableMapping[str, Any]) -> str | None:
    """Whoever says so."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    return next((value.decode("latin-1") for name, value in headers if name == b"authorization"), None)


async def invalidate(_request: Request) -> PlainTextResponse:
    """Invalidate something."""
    return PlainTextResponse(str(await cache.ainvalidate("stores:JKT")))


async def pid(_request: Request) -> PlainTextResponse:
    """Which process this is."""
    return PlainTextResponse(str(os.getpid()))


app = Starlette(routes=[Route("/invalidate", invalidate), Route("/pid", pid), Mount("/cache", Admin(cache, authorise))])
