"""One worker process of the store dashboard: a small HTTP server whose answers are cached.

Started as ``python -m cachesync.demo.worker DATABASE``. It says its port in one line on standard output and ends with its standard
input, so that it never outlives who started it.

Every answer says how it came about: ``X-Function-Ms``, the time inside the cached function; ``X-Computed``, whether this request
computed it; ``X-Position``, how far the log was applied here when the request came.
"""

from __future__ import annotations

import functools
import json
import os
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, ParamSpec, TypeVar, cast
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from cachesync import Cache
from cachesync.demo.data import Chain, Neighbour, Overview, StorePage

P = ParamSpec("P")
R = TypeVar("R")
POLICIES = Path(__file__).with_name("policies.toml")


class Dashboard:
    """The application: four cached functions, and an administrator's change that puts their results out of date."""

    def __init__(self, cache: Cache, chain: Chain) -> None:
        self.cache = cache
        self._chain = chain
        self._computing = threading.local()

        @cache.cached("stores:{code}")
        @self._noting
        def store(code: str) -> StorePage | None:
            return chain.page(code)

        @cache.cached("stores:{code}:nearby")
        @self._noting
        def nearby(code: str) -> list[Neighbour]:
            return chain.nearby(code)

        @cache.cached("stores:list:{country}:{page}")
        @self._noting
        def stores(country: str, page: int = 1) -> list[Neighbour]:
            return chain.listed(country, page)

        @cache.cached("analytics:overview", tags=["stores"], ttl=lambda overview: 1000 * overview.cost)
        @self._noting
        def overview() -> Overview:
            return chain.overview()

        self.store, self.nearby, self.stores, self.overview = store, nearby, stores, overview

    def sync(self, code: str, name: str) -> dict[str, Any] | None:
        """Change a store: first commit, then invalidate. Says when, and which position the log has now."""
        revision = self._chain.rename(code, name)
        if revision is None:
            return None
        began = time.monotonic()
        stamp = self.cache.invalidate("stores:*", tags=["stores"])
        return {
            "code": code,
            "revision": revision,
            "stamp": str(stamp),
            "pending": stamp.pending,
            "announced_at": began,
            "announce_ms": 1000 * (time.monotonic() - began),
        }

    def figures(self) -> dict[str, Any]:
        """What this process has done so far."""
        stats = self.cache.stats()
        return {
            "pid": os.getpid(),
            "position": str(stats.position),
            "hit_rate": stats.total.hit_rate,
            "total": asdict(stats.total),
            "functions": {name.rpartition(".")[2]: asdict(row) for name, row in stats.functions.items()},
            "local": asdict(stats.local),
        }

    def has_computed(self) -> bool:
        """Whether this thread has computed something since it was last asked."""
        computed: bool = getattr(self._computing, "done", False)
        self._computing.done = False
        return computed

    def _noting(self, function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def noted(*args: P.args, **kwargs: P.kwargs) -> R:
            self._computing.done = True
            return function(*args, **kwargs)

        return noted


class Worker(ThreadingHTTPServer):
    """The HTTP server of one dashboard, on a free port of the loopback interface."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, dashboard: Dashboard) -> None:
        self.dashboard = dashboard
        super().__init__(("127.0.0.1", 0), Handler)

    def server_bind(self) -> None:
        """Bind without asking the resolver for a name, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", int(self.server_address[1])


class Handler(BaseHTTPRequestHandler):
    """Requests to answers. An unknown path or code is 404, a body that makes no sense is 400."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave in one piece
    INDEX: ClassVar[dict[str, Any]] = {
        "what": "a worker of cachesync's demonstration",
        "try": [
            "/admin/stores?country=ID",
            "/admin/stores/CGK",
            "/admin/stores/CGK/nearby",
            "/admin/analytics/overview",
            "/admin/cache/stats",
        ],
        "change": 'POST /admin/sync {"code": "CGK", "name": "A new name"}',
    }

    @property
    def dashboard(self) -> Dashboard:
        """The application behind this server."""
        return cast("Worker", self.server).dashboard

    def do_GET(self) -> None:
        """Answer from the cached functions."""
        dashboard = self.dashboard
        url = urlsplit(self.path)
        match [unquote(part) for part in url.path.split("/")[1:]]:
            case [""]:
                self._answer(200, self.INDEX)
            case ["admin", "stores"]:
                query = parse_qs(url.query)
                country, page = query.get("country", ["ID"])[0], query.get("page", ["1"])[0]
                if page.isascii() and page.isdecimal() and 0 < int(page) < 10_000:
                    self._call(dashboard.stores, country, int(page))
                else:
                    self._answer(400, {"error": "page counts from 1"})
            case ["admin", "stores", code]:
                self._call(dashboard.store, code)
            case ["admin", "stores", code, "nearby"]:
                self._call(dashboard.nearby, code)
            case ["admin", "analytics", "overview"]:
                self._call(dashboard.overview)
            case ["admin", "cache", "stats"]:
                self._answer(200, dashboard.figures())
            case _:
                self._answer(404, {"error": f"there is no {url.path}"})

    def do_POST(self) -> None:
        """An administrator's change."""
        try:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
            code, name = str(body["code"]), str(body["name"])
        except (ValueError, KeyError, TypeError):
            return self._answer(400, {"error": 'send JSON such as {"code": "CGK", "name": "A new name"}'})
        if self.path != "/admin/sync":
            return self._answer(404, {"error": f"there is no POST {self.path}"})
        changed = self.dashboard.sync(code, name)
        return self._answer(404, {"error": f"there is no store {code}"}) if changed is None else self._answer(200, changed)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the story does."""

    def _call(self, function: Callable[..., object], *args: object) -> None:
        position = self.dashboard.cache.stats().position
        self.dashboard.has_computed()
        began = time.perf_counter()
        value = function(*args)
        took = time.perf_counter() - began
        headers = {"X-Function-Ms": f"{1000 * took:.6f}", "X-Computed": str(int(self.dashboard.has_computed()))}
        if position is not None:
            headers["X-Position"] = str(position)
        if value is None:
            self._answer(404, {"error": "there is no such store"}, headers)
        else:
            self._answer(200, value, headers)

    def _answer(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        body = msgspec.json.encode(value)
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    """Serve until standard input ends."""
    with Cache.from_file(POLICIES) as cache, Worker(Dashboard(cache, Chain(sys.argv[1]))) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        serving.start()
        sys.stdout.write(f"{server.server_port}\n")
        sys.stdout.flush()
        sys.stdin.read()
        server.shutdown()


if __name__ == "__main__":
    main()
