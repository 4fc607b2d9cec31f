"""An application that is served by several processes: it warms its cache as it is imported, which ``preload_app`` does in the master.

It is given by the environment: ``SHOP_URL`` and ``SHOP_NAMESPACE`` name the cache, ``SHOP_FOLDER`` holds the origin and what is between
test and application (`Desk`). ``wsgi`` serves with ``def``, ``asgi`` with ``async def``; both answer the same requests, in JSON:

=================================  ==================================================================================
``/read/2``                        the item: ``value``; ``pid`` of who answers stands in every answer
``/invalidate/2``                  the item is out of date: ``value`` is the stamp
``/hits``                          how often this process was answered by its own memory
``/heard``                         whether this process hears the log now
``/position``                      the stamp up to which it has applied the log
``/threads``                       the names of the library's threads in this process
=================================  ==================================================================================
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Final

from cachesync import Cache, Policy, Settings
from cachesync.coordination import log_reader
from cachesync.core.settings import CoordinationSettings
from support.desk import Desk
from support.nodes import LONG

log_reader.__dict__["PATIENCE"] = LONG  # a busy machine is no outage

LEASE: Final = 2.0
WARM: Final = (1, 2, 3)
"""The items that are cached before the first fork."""


desk = Desk(Path(os.environ["SHOP_FOLDER"]))
cache = Cache(
    Settings(coordination=CoordinationSettings(budget=LONG, lease=LEASE, max_lag=LONG)),
    policies=[Policy(name="items", match="item:*", ttl="1h")],
    redis=os.environ["SHOP_URL"],
    namespace=os.environ["SHOP_NAMESPACE"],
)


def compute(number: int) -> int:
    desk.note("computed", number)
    version = desk.version
    desk.stand(f"computing-{number}")
    return version


@cache.cached("item:{number}", tags=["items"])
def item(number: int) -> int:
    return compute(number)


@cache.cached("item:{number}", tags=["items"], same_as=item)
async def aitem(number: int) -> int:
    return await asyncio.to_thread(compute, number)


async def warm() -> None:
    for number in WARM:
        await aitem(number)


for number in WARM:
    item(number)
asyncio.run(warm())


def about(what: str) -> Any:
    """What a process knows about itself."""
    if what == "hits":
        return sum(one.local_hits for one in cache.stats().functions.values())
    if what == "heard":
        return cache.stats().log.is_heard
    if what == "position":
        return str(cache.stats().position)
    if what == "threads":
        names = [thread.name for thread in threading.enumerate()]
        return sorted(name for name in names if name.startswith("cachesync"))
    raise LookupError(what)


def answer(value: object) -> bytes:
    return json.dumps({"pid": os.getpid(), "value": value}).encode()


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    _, what, *rest = environ["PATH_INFO"].split("/")
    if what == "read":
        body = answer(item(int(rest[0])))
    elif what == "invalidate":
        body = answer(str(cache.invalidate(f"item:{rest[0]}")))
    else:
        body = answer(about(what))
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


async def asgi(
    scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]], send: Callable[[dict[str, Any]], Awaitable[None]]
) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await cache.aclose()
        await send({"type": "lifespan.shutdown.complete"})
        return
    _, what, *rest = scope["path"].split("/")
    if what == "read":
        body = answer(await aitem(int(rest[0])))
    elif what == "invalidate":
        body = answer(str(await cache.ainvalidate(f"item:{rest[0]}")))
    else:
        body = answer(about(what))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
