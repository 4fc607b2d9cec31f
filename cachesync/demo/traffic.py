"""Requests to the workers, and what their answers say: one by one, all at once, and a burst as a dashboard sees it."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from typing import Any, Final, cast

from cachesync.core.stamps import Stamp
from cachesync.demo.data import Row
from cachesync.demo.freshness import CHAIN, Change, Seen
from cachesync.demo.processes import DemoError, Node

CALLERS: Final = 4
"""Connections that a burst uses, each with one request at a time."""
ZIPF: Final = 1.3
"""The exponent of Zipf's law: the store at rank r is asked for in proportion to 1 / r ** 1.3."""
KINDS: Final = {"page": 0.55, "nearby": 0.2, "list": 0.15, "overview": 0.1}
"""What is asked for, and how often."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a GET: the time inside the cached function and as seen by the client, in ms. ``seen`` is what `freshness` judges."""

    seen: Seen
    body: Any
    computed: bool
    function_ms: float
    client_ms: float
    received: float


class Client:
    """One caller: a connection to each worker, one request at a time."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._connections = {node.name: node.connect() for node in nodes}

    def get(self, worker: str, path: str) -> Answer:
        """Ask a worker."""
        sent = time.monotonic()
        headers, body = self._exchange(self._connections[worker], "GET", path)
        received = time.monotonic()
        position = headers.get("X-Position")
        return Answer(
            seen=Seen(worker, path, sent, Stamp.parse(position) if position else None, revisions_in(body)),
            body=body,
            computed=headers.get("X-Computed") == "1",
            function_ms=float(headers.get("X-Function-Ms", "nan")),
            client_ms=1000 * (received - sent),
            received=received,
        )

    def change(self, worker: str, code: str, name: str) -> tuple[Change, dict[str, Any]]:
        """Rename a store at a worker. Returns when the invalidation is acknowledged."""
        body = json.dumps({"code": code, "name": name})
        _, told = self._exchange(self._connections[worker], "POST", "/admin/sync", body)
        if told["pending"]:
            raise DemoError("an invalidation could not be announced: the Valkey server did not answer")
        return Change(code, told["revision"], worker, Stamp.parse(told["stamp"]), time.monotonic()), told

    def close(self) -> None:
        """End the connections."""
        for connection in self._connections.values():
            connection.close()

    @staticmethod
    def _exchange(connection: HTTPConnection, method: str, path: str, body: str | None = None) -> tuple[Mapping[str, str], Any]:
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            content = response.read()
        except (OSError, HTTPException) as error:
            raise DemoError(f"a worker did not answer {method} {path}: {error!r}") from error
        if response.status != 200:
            raise DemoError(f"a worker answered {method} {path} with {response.status}: {content[:200].decode(errors='replace')}")
        return cast("Mapping[str, str]", response.headers), json.loads(content)


def revisions_in(body: object) -> dict[str, int]:
    """The revision of every store in a body; the count of changes in an overview stands under `CHAIN`."""
    found: dict[str, int] = {}
    waiting = [body]
    while waiting:
        here = waiting.pop()
        if isinstance(here, dict):
            table = cast("dict[str, object]", here)
            if isinstance(code := table.get("code"), str) and isinstance(revision := table.get("revision"), int):
                found[code] = revision
            if isinstance(changes := table.get("changes"), int):
                found[CHAIN] = changes
            waiting += table.values()
        elif isinstance(here, list):
            waiting += cast("list[object]", here)
    return found


def all_at_once(nodes: Sequence[Node], path: str, callers: int) -> list[Answer]:
    """The same question from many callers in the same moment, the workers in turn."""
    start = threading.Barrier(callers)

    def ask(number: int) -> Answer:
        with contextlib.closing(Client(nodes)) as client:
            start.wait(10)
            return client.get(nodes[number % len(nodes)].name, path)

    with ThreadPoolExecutor(callers) as pool:
        return list(pool.map(ask, range(callers)))


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a burst; with a ``code`` it is a change of that store."""

    kind: str
    worker: str
    path: str
    code: str = ""


def plan(rows: Sequence[Row], workers: Sequence[str], count: int, *, seed: int = 7) -> list[Request]:
    """Requests as a dashboard sees them: few stores are popular, most are hardly ever looked at. Two are changes of a store."""
    chance = random.Random(seed)
    ranked = chance.sample(rows, len(rows))
    weights = list(itertools.accumulate(1 / rank**ZIPF for rank in range(1, len(ranked) + 1)))
    requests: list[Request] = []
    for number, row in enumerate(chance.choices(ranked, cum_weights=weights, k=count), 1):
        code, country, worker = row[0], row[4], chance.choice(workers)
        if number in (count // 3, 2 * count // 3):
            requests.append(Request("change", worker, "/admin/sync", code))
            continue
        kind = chance.choices(list(KINDS), weights=list(KINDS.values()))[0]
        paths = {
            "page": f"/admin/stores/{code}",
            "nearby": f"/admin/stores/{code}/nearby",
            "list": f"/admin/stores?country={country}&page=1",
            "overview": "/admin/analytics/overview",
        }
        requests.append(Request(kind, worker, paths[kind]))
    return requests


@dataclass(slots=True)
class Burst:
    """What a burst brought: every answer with the kind of its question, and every change."""

    seconds: float = 0.0
    answers: list[tuple[str, Answer]] = field(default_factory=list[tuple[str, Answer]])
    changes: list[Change] = field(default_factory=list[Change])


def burst(nodes: Sequence[Node], requests: Sequence[Request]) -> Burst:
    """Send the requests over a few connections, each caller taking the next one."""
    found = Burst()
    waiting: Iterator[tuple[int, Request]] = iter(list(enumerate(requests)))
    halt = threading.Event()

    def caller() -> None:
        with contextlib.closing(Client(nodes)) as client:
            for number, request in waiting:  # advancing a list's enumeration is one step of the interpreter
                if halt.is_set():
                    return
                if request.code:
                    found.changes.append(client.change(request.worker, request.code, f"Renamed {number}")[0])
                else:
                    found.answers.append((request.kind, client.get(request.worker, request.path)))

    began = time.monotonic()
    with ThreadPoolExecutor(CALLERS) as pool:
        callers = [pool.submit(caller) for _ in range(CALLERS)]
        try:
            for future in callers:
                future.result()
        finally:
            halt.set()
    found.seconds = time.monotonic() - began
    return found
