"""A process of an application, for tests: it caches, computes, is held open and killed, on orders that come through a pipe.

::

    with Worker(server.url) as worker:
        worker.order("hold", namespace, "def").result(LONG)          # the next computation waits
        reading = worker.order("read", namespace, "def", 1)          # a future
        worker.order("wait", namespace, "def").result(LONG)          # somebody computes
        worker.order("open", namespace, "def").result(LONG)
        assert reading.result(LONG) == 1

Each order names a namespace and a colour: there is one node (see `nodes`) for each pair in each worker, made at the first order. An
order that fails gives a `WorkerError` with what was raised there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cachesync import RedisShared, Stamp
from support.nodes import LONG, Colour, Gate, LoopThread, Node, Origin, until

TESTS = Path(__file__).resolve().parents[1]


class WorkerError(Exception):
    """What an order raised in the worker; or the worker is gone."""


class Worker:
    """A worker as the test sees it. ``kill`` is SIGKILL: no goodbye, nothing given back."""

    def __init__(self, url: str, *, lease: float = 10.0) -> None:
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [environment.get("PYTHONPATH"), str(TESTS)]))
        command = [sys.executable, "-m", "support.worker", url, str(lease)]
        self._process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self._orders: dict[int, Future[Any]] = {}
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
            self._process.stdin.write(json.dumps([self._number, what, namespace, colour, *args]) + "\n")
        return future

    def do(self, what: str, namespace: str, colour: Colour, *args: Any) -> Any:
        return self.order(what, namespace, colour, *args).result(LONG)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it in order: it closes its caches when its orders end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
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

    def __init__(self, url: str, lease: float, loop: LoopThread) -> None:
        self._url = url
        self._lease = lease
        self._loop = loop
        self._nodes: dict[tuple[str, Colour], Node] = {}
        self._gates: dict[Node, Gate] = {}
        self._lock = threading.Lock()

    def node(self, namespace: str, colour: Colour) -> Node:
        with self._lock:
            if (namespace, colour) not in self._nodes:
                shared = RedisShared(self._url, namespace=namespace)
                node = Node(shared, Origin(), colour=colour, loop=self._loop, lease=self._lease, listen=True)
                self._nodes[namespace, colour] = node
            return self._nodes[namespace, colour]

    def end(self) -> None:
        for node in self._nodes.values():
            node.close()

    def hold(self, node: Node) -> None:
        self._gates[node] = node.origin.hold()

    def wait(self, node: Node) -> None:
        self._gates[node].wait()

    def open(self, node: Node) -> None:
        self._gates.pop(node).open()

    def fail(self, node: Node) -> None:
        node.origin.fail(LookupError("not today"))

    def version(self, node: Node, version: int) -> None:
        """The origin, which all processes see alike, has changed."""
        node.origin.version = version

    def read(self, node: Node, number: int) -> int:
        return node.read(number)

    def refresh(self, node: Node, number: int) -> int:
        return node.start_refresh(number).result(LONG)

    def valid(self, node: Node, number: int) -> int | None:
        return node.valid(number)

    def computations(self, node: Node) -> int:
        return node.origin.computations

    def invalidate(self, node: Node, kind: str, number: int) -> str:
        stamp = node.invalidate(kind, number)
        assert not stamp.pending
        return str(stamp)

    def apply(self, node: Node, stamp: str) -> None:
        """Wait until the log's reader has applied a position."""
        wanted = Stamp.parse(stamp)

        def is_applied() -> bool:
            position = node.cache.stats().position
            return position is not None and position.epoch == wanted.epoch and position.number >= wanted.number

        until(is_applied, f"applying {stamp}")


def serve(url: str, lease: float) -> None:
    """Take orders from the standard input, each in a thread of its own, until it ends."""
    answering = threading.Lock()
    with LoopThread() as loop:
        workshop = Workshop(url, lease, loop)

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
    serve(sys.argv[1], float(sys.argv[2]))
