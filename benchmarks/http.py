"""HTTP: what the middleware costs, what a 304 costs, and what a stream does to memory. Through ASGI, without a server or a socket.

The page is 72 kB of JSON, which the application writes of cached data each time. Beside the middleware: the application alone, and the
usual way to a 304, which is to let the application answer and to hash its body.

Run it: ``python -m benchmarks.http``.
"""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any, Final

import xxhash

from benchmarks.alone import options_of, show
from benchmarks.measure import OURS, Bench, Contestant, Field, Pace, scaled
from cachesync import Cache, Policy
from cachesync.asgi import CacheMiddleware
from cachesync.coordination.asgi import App, Message, Receive, Scope, Send
from cachesync.core.policy import HttpPolicy

FULL: Final = Pace(rounds=7, seconds=0.4)
QUICK: Final = Pace(rounds=2, seconds=0.02)
BARE: Final = "the application alone"
HASHED: Final = "hashing the body"
PAGE: Final = {"rows": [{"number": number, "name": "Jakarta Kota" * 3, "visits": number * 1.5} for number in range(880)]}
HEADERS: Final = [
    (b"host", b"stores.example"),
    (b"accept", b"application/json"),
    (b"accept-encoding", b"gzip, br, zstd"),
    (b"accept-language", b"de-CH,de;q=0.9,en;q=0.8"),
    (b"cookie", b"session=" + b"0" * 64),
    (b"referer", b"https://stores.example/"),
    (b"sec-fetch-mode", b"cors"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36"),
]
PART: Final = b"\0" * 65_536


def _application(cache: Cache) -> App:
    @cache.cached("pages:{name}")
    async def page(name: str) -> dict[str, Any]:
        return PAGE

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(scope["parts"]):
                await send({"type": "http.response.body", "body": PART, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            return
        body = b'{"ready":true}' if scope["path"] == "/plain" else json.dumps(await page("stores")).encode()
        fields = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": body})

    return application


def _hashing(application: App) -> App:
    """The usual way: hash what the application has answered, and compare."""

    async def hashed(scope: Scope, receive: Receive, send: Send) -> None:
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        await application(scope, receive, keep)
        etag = b'"%s"' % xxhash.xxh3_128_hexdigest(messages[1]["body"]).encode()
        if dict(scope["headers"]).get(b"if-none-match") == etag:
            messages = [{"type": "http.response.start", "status": 304, "headers": [(b"etag", etag)]}, {**messages[1], "body": b""}]
        else:
            messages[0]["headers"].append((b"etag", etag))
        for message in messages:
            await send(message)

    return hashed


def _ours(etag: str) -> tuple[Cache, App, App]:
    how: Any = HttpPolicy(etag="stamp" if etag == "stamp" else "content")
    cache = Cache(policies=[Policy(name="pages", match="pages:*", ttl="1h", http=how)])
    application = _application(cache)
    return cache, application, CacheMiddleware(application, cache, identify=lambda scope: "ann")


async def _nothing() -> Message:
    return {"type": "http.request", "body": b""}


def _scope(path: str, *more: tuple[bytes, bytes], **others: Any) -> dict[str, Any]:
    named = {"method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": [*HEADERS, *more]}
    return {"type": "http", **named, **others}


async def _answer(application: App, scope: Scope) -> list[Message]:
    heard: list[Message] = []

    async def hear(message: Message) -> None:
        heard.append(message)

    await application(scope, _nothing, hear)
    return heard


def _contestant(bench: Bench, application: App, path: str, *, status: int, tag_of: App | None = None) -> Contestant:
    """Asks for one page again and again, with the ETag of the first answer where ``tag_of`` gives one."""

    async def spend(calls: int) -> float:
        more: list[tuple[bytes, bytes]] = []
        if tag_of is not None:
            first = await _answer(tag_of, _scope(path))
            more = [(b"if-none-match", dict(first[0]["headers"])[b"etag"])]
        scope = _scope(path, *more)
        heard: list[Message] = []

        async def hear(message: Message) -> None:
            heard.append(message)

        begun = time.perf_counter()
        for _ in range(calls):
            heard.clear()
            await application(scope, _nothing, hear)
        spent = time.perf_counter() - begun
        if heard[0]["status"] != status:
            raise RuntimeError(f"{heard[0]['status']} instead of {status}")
        return spent

    return lambda calls: bench.runner.run(spend(calls))


def _stream(bench: Bench, application: App, parts: int) -> dict[str, float]:
    """Megabytes by which the process grows at most while so many parts pass, and seconds to the first of them."""
    first: list[float] = []
    begun = time.perf_counter()

    async def hear(message: Message) -> None:
        if message.get("body") and not first:
            first.append(time.perf_counter() - begun)

    def largest() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    before = largest()
    send: Callable[[Message], Awaitable[None]] = hear
    bench.runner.run(_passing(application, _scope("/stream", parts=parts), send))
    return {"sent": parts * len(PART) / 1e6, "grown": largest() - before, "first": first[0] * 1e6}


async def _passing(application: App, scope: Scope, send: Send) -> None:
    await application(scope, _nothing, send)


def run(*, quick: bool = False) -> dict[str, Any]:
    """``{"unit", "rows": {row: {contestant: {"best", "median"}}}, "stream": {"sent", "grown", "first"}, "missing"}``, requests/s."""
    field = Field()
    with ExitStack() as stack:
        bench = Bench(stack)
        _, application, stamped = _ours("stamp")
        _, alone, by_content = _ours("content")
        hashed = _hashing(alone)
        rows: dict[str, dict[str, Contestant]] = {
            "200 of 72 kB": {
                BARE: _contestant(bench, alone, "/page", status=200),
                HASHED: _contestant(bench, hashed, "/page", status=200),
                OURS: _contestant(bench, by_content, "/page", status=200),
            },
            "304 for 72 kB": {
                HASHED: _contestant(bench, hashed, "/page", status=304, tag_of=hashed),
                f"{OURS}, by content": _contestant(bench, by_content, "/page", status=304, tag_of=by_content),
                OURS: _contestant(bench, stamped, "/page", status=304, tag_of=stamped),
            },
            "200 that is not managed": {
                BARE: _contestant(bench, application, "/plain", status=200),
                OURS: _contestant(bench, stamped, "/plain", status=200),
            },
        }
        figures = field.take_turns(rows, QUICK if quick else FULL)
        stream = _stream(bench, stamped, 1_000 if quick else 16_384)
        asyncio.set_event_loop(None)
    return {"unit": "requests/s", "rows": scaled(figures, lambda seconds: 1 / seconds), "stream": stream, "missing": field.missing}


if __name__ == "__main__":
    parsed = options_of("http", __doc__).parse_args()
    show("http", parsed, lambda: run(quick=parsed.quick))
