"""A process of an application, for tests: it caches, computes, is held open and killed, on orders that come through a pipe.

::

    with Worker(server.url) as worker:
        worker.order("hold", namespace, "def").result(LONG)          # the next computation waits
        reading = worker.order("read", namespace, "def", 1)          # a future
        worker.order("wait", namespace, "def").result(LONG)          # somebody computes
        worker.order("open", namespace, "def").result(LONG)
        assert reading.result(LONG) == 1

Each order names a namespace and a colour: there is one node (see `nodes`) for each pair in each worker, made at the first order. An
order that fails gives a `WorkerError` with what was raised there. Stamps travel as texts.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cachesync import Stamp
from cachesync.core import steps
from cachesync.layers.redis_cluster import redis_layer
from cachesync.layers.redis_wire import Bounds
from support.nodes import COLOURS, LONG, BatchNode, Colour, Gate, HoldingShared, LoopThread, Origin, until

TESTS = Path(__file__).resolve().parents[1]


class WorkerError(Exception):
    """What an order raised in the worker; or the worker is gone."""


def each_colour(namespace: str) -> Iterator[tuple[str, Colour]]:
    """A namespace of its own for each colour."""
    for colour in COLOURS:
        yield f"{namespace}-{colour.replace(' ', '-')}", colour


def change(version: int, own: str, colour: Colour, *workers: Worker) -> None:
    """The origin has changed, which all processes see alike."""
    for ordered in [worker.order("version", own, colour, version) for worker in workers]:
        ordered.result(LONG)


def is_told(worker: Worker, own: str, colour: Colour, name: str) -> None:
    """Wait until the process has sent an event."""
    until(lambda: worker.do("told", own, colour, name), name)


def hears(worker: Worker, own: str, colour: Colour) -> None:
    """Wait until the process hears the log, and has nothing to say any more."""

    def does_hear() -> bool:
        log = worker.do("log", own, colour)
        return bool(log["is_heard"]) and log["queued"] == 0

    until(does_hear, "hearing the log")


def is_deaf(worker: Worker, own: str, colour: Colour) -> None:
    """Wait until the process has not heard the log for ``max_lag``."""
    until(lambda: not worker.do("log", own, colour)["is_heard"], "hearing nothing")


def follows(worker: Worker, own: str, colour: Colour, *, after: str) -> None:
    """Wait until the process follows another epoch than that of a stamp, and has said all it had to say."""

    def is_elsewhere() -> bool:
        log = worker.do("log", own, colour)
        position = str(log["position"])
        return bool(log["is_heard"]) and position.partition(":")[0] != after.partition(":")[0] and log["queued"] == 0

    until(is_elsewhere, "following another epoch")


class Worker:
    """A worker as the test sees it. ``kill`` is SIGKILL: no goodbye, nothing given back.

    ``durable``: milliseconds that an invalidation waits for a replica. ``options`` are those of a `Node`.
    """

    def __init__(self, url: str, *, durable: int = 0, **options: Any) -> None:
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [environment.get("PYTHONPATH"), str(TESTS)]))
        command = [sys.executable, "-m", "support.worker", json.dumps([url, durable, options])]
        self._process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self._orders: dict[int, Future[Any]] = {}
        self._used: set[tuple[str, Colour]] = set()
        self._lock = threading.Lock()
        self._number = 0
        self._reader = threading.Thread(target=self._read, name="test-worker", daemon=True)
        self._reader.start()

    def order(self, what: str, namespace: str, colour: Colour, *args: Any) -> Future[Any]:
        """Tell the worker to do something; the answer comes when it is done."""
        assert self._process.stdin is not None
        future: Future[Any] = Future()
        with self._lock:
            self._number += 1
            self._orders[self._number] = future
            self._used.add((namespace, colour))
            self._process.stdin.write(json.dumps([self._number, what, namespace, colour, *args]) + "\n")
        return future

    def do(self, what: str, namespace: str, colour: Colour, *args: Any) -> Any:
        return self.order(what, namespace, colour, *args).result(LONG)

    def forget(self) -> None:
        """Close all its nodes, so that a worker may live through many tests."""
        used, self._used = self._used, set()
        for future in [self.order("close", *which) for which in used]:
            future.result(LONG)
        self._used.clear()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """SIGSTOP: alive, with everything it holds, and nothing of it runs. Returns when it stands still."""
        os.kill(self._process.pid, signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)

    def thaw(self) -> None:
        """SIGCONT: it goes on in the middle of whatever it was doing."""
        os.kill(self._process.pid, signal.SIGCONT)

    def thaw_if_alive(self) -> None:
        if self._process.poll() is None:
            self.thaw()

    def close(self) -> None:
        """End it in order: it closes its caches when its orders end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.thaw_if_alive()
        self._process.stdin.close()
        try:
            self._process.wait(LONG)
        except subprocess.TimeoutExpired:
            self.kill()
        self._reader.join(LONG)
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            number, value, problem = json.loads(line)
            future = self._orders.pop(number)
            if problem is None:
                future.set_result(value)
            else:
                future.set_exception(WorkerError(problem))
        for future in self._orders.values():
            future.set_exception(WorkerError("the worker is gone"))


# --- in the worker's own process --------------------------------------------------------------------------------------------------


class Workshop:
    """The nodes of this process and what can be done with them: each public method is an order."""

    def __init__(self, loop: LoopThread, url: str, durable: int, options: dict[str, Any]) -> None:
        self._url = url
        self._bounds = Bounds(durable=durable)
        self._options: dict[str, Any] = {"listen": True, **options}
        self._loop = loop
        self._nodes: dict[tuple[str, Colour], BatchNode] = {}
        self._layers: dict[BatchNode, HoldingShared] = {}
        self._gates: dict[BatchNode, Gate] = {}
        self._replies: dict[BatchNode, Gate] = {}
        self._updates: dict[BatchNode, ExitStack] = {}
        self._setters: dict[BatchNode, Any] = {}
        self._lock = threading.Lock()

    def node(self, namespace: str, colour: Colour) -> BatchNode:
        with self._lock:
            if (namespace, colour) not in self._nodes:
                shared = HoldingShared(redis_layer(self._url, namespace=namespace, bounds=self._bounds))
                node = BatchNode(shared, Origin(), colour=colour, loop=self._loop, **self._options)
                self._nodes[namespace, colour] = node
                self._layers[node] = shared
            return self._nodes[namespace, colour]

    def end(self) -> None:
        for node in self._nodes.values():
            node.close()

    def close(self, node: BatchNode) -> None:
        with self._lock:
            for which, known in list(self._nodes.items()):
                if known is node:
                    del self._nodes[which]
        node.close()

    # --- the origin, and what is held open ----------------------------------------------------------------------------------------

    def hold(self, node: BatchNode) -> None:
        """The next computation reads the origin and waits."""
        self._gates[node] = node.origin.hold()

    def wait(self, node: BatchNode) -> None:
        """Until a computation waits."""
        self._gates[node].wait()

    def open(self, node: BatchNode) -> None:
        self._gates.pop(node).open()

    def hold_reply(self, node: BatchNode, kind: str) -> None:
        """The next reply of Redis to a step of this kind is there, and is not delivered."""
        self._replies[node] = self._layers[node].hold(getattr(steps, kind))

    def wait_reply(self, node: BatchNode) -> None:
        self._replies[node].wait()

    def open_reply(self, node: BatchNode) -> None:
        self._replies.pop(node).open()

    def fail(self, node: BatchNode) -> None:
        node.origin.fail(LookupError("not today"))

    def version(self, node: BatchNode, version: int) -> None:
        """The origin, which all processes see alike, has changed."""
        node.origin.version = version

    def computations(self, node: BatchNode) -> int:
        return node.origin.computations

    # --- asking -------------------------------------------------------------------------------------------------------------------

    def read(self, node: BatchNode, number: int) -> int:
        return node.read(number)

    def page(self, node: BatchNode, number: int) -> list[int]:
        """What is made of an item."""
        value: list[int] = node.do(node.page, number)
        return value

    def many(self, node: BatchNode, first: int, last: int) -> list[int]:
        """Items, read one after the other."""
        return [node.read(number) for number in range(first, last)]

    def batch(self, node: BatchNode, numbers: list[int]) -> list[int]:
        """Items, asked for in one call of the function of many arguments."""
        found = node.read_many(*numbers)
        return [found[number] for number in numbers]

    def batches(self, node: BatchNode) -> list[list[int]]:
        """What that function was called with."""
        return node.origin.batches

    def at_least(self, node: BatchNode, stamp: str, number: int) -> int:
        value: int = node.do(node.item.at_least, Stamp.parse(stamp), number)
        return value

    def refresh(self, node: BatchNode, number: int) -> int:
        return node.start_refresh(number).result(LONG)

    def valid(self, node: BatchNode, number: int) -> int | None:
        return node.valid(number)

    def valid_at_least(self, node: BatchNode, stamp: str, number: int) -> int | None:
        value: int | None = node.get(f"item:{number}", at_least=Stamp.parse(stamp))
        return value

    def peek(self, node: BatchNode, number: int) -> tuple[int, bool, str] | None:
        """Value, whether it is stale, and which layer has it."""
        entry = node.peek(f"item:{number}")
        return None if entry is None else (entry.value, entry.is_stale, entry.layer)

    def local_hits(self, node: BatchNode) -> int:
        return node.cache.stats().total.local_hits

    def joined(self, node: BatchNode) -> int:
        return node.cache.stats().total.joined

    # --- invalidating, setting ----------------------------------------------------------------------------------------------------

    def invalidate(self, node: BatchNode, kind: str, number: int, soft: bool = False) -> str:
        stamp = node.invalidate(kind, number, soft=soft)
        assert not stamp.pending
        return str(stamp)

    def invalidate_away(self, node: BatchNode, kind: str, number: int) -> None:
        """While Redis can not be told."""
        assert node.invalidate(kind, number).pending

    def drop(self, node: BatchNode, patterns: list[str], tags: list[str]) -> str:
        return str(node.drop(*patterns, tags=tags))

    def set(self, node: BatchNode, value: int, number: int) -> str:
        return str(node.set(value, number))

    def switch(self, node: BatchNode, target: str, value: str) -> float:
        """For all; returns how many seconds it took."""
        began = time.monotonic()
        node.switch(target, value)
        return time.monotonic() - began

    def switched(self, node: BatchNode) -> dict[str, str]:
        """What is switched here."""
        return dict(node.cache.switches().effective)

    def begin_update(self, node: BatchNode, number: int) -> None:
        stack = self._updates[node] = ExitStack()
        self._setters[node] = stack.enter_context(node.update(f"item:{number}"))

    def end_update(self, node: BatchNode, value: int) -> str:
        with self._updates.pop(node):
            return str(self._setters.pop(node)(value))

    # --- the log ------------------------------------------------------------------------------------------------------------------

    def stamp(self, node: BatchNode) -> str:
        return str(node.stamp())

    def apply(self, node: BatchNode, stamp: str) -> None:
        """Wait until the log's reader has applied a position. It runs from the first question on."""
        if node.cache.stats().position is None:
            node.stamp()
        wanted = Stamp.parse(stamp)
        until(lambda: node.has_applied(wanted), f"applying {stamp}")

    def log(self, node: BatchNode) -> dict[str, Any]:
        """How the process stands with the log."""
        log = node.cache.stats().log
        position = None if log.position is None else str(log.position)
        return {"position": position, "is_heard": log.is_heard, "queued": log.queued, "losses": log.losses, "lag": log.lag}

    def told(self, node: BatchNode, name: str) -> list[dict[str, str]]:
        """The events of a name, so far."""
        return [{field: str(value) for field, value in event.fields.items()} for event in node.told(name)]

    def steps(self, node: BatchNode, kind: str) -> int:
        """How often Redis was asked a step of this kind."""
        return self._layers[node].count(getattr(steps, kind))


def serve(url: str, durable: int, options: dict[str, Any]) -> None:
    """Take orders from the standard input, each in a thread of its own, until it ends."""
    logging.getLogger("cachesync").addHandler(logging.NullHandler())  # a test asks for events
    answering = threading.Lock()
    with LoopThread() as loop:
        workshop = Workshop(loop, url, durable, options)

        def carry_out(number: int, what: str, namespace: str, colour: Colour, *args: Any) -> None:
            value, problem = None, None
            try:
                value = getattr(workshop, what)(workshop.node(namespace, colour), *args)
            except BaseException as error:
                problem = f"{type(error).__name__}: {error}"
            with answering:
                print(json.dumps([number, value, problem]), flush=True)

        threads: list[threading.Thread] = []
        for line in sys.stdin:
            threads.append(threading.Thread(target=carry_out, args=json.loads(line), daemon=True))
            threads[-1].start()
        for thread in threads:
            thread.join(LONG)
        workshop.end()


if __name__ == "__main__":
    serve(*json.loads(sys.argv[1]))
