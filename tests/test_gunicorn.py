"""gunicorn with ``preload_app``: the master warms the cache, and the workers it forks are processes like any other.

The application is `support.shop`. A worker is spoken to alone by letting the others stand still meanwhile.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pytest
import redis

from cachesync import Cache, Policy
from support.desk import Desk
from support.nodes import LONG, until
from support.scripts import connections, is_alive, kill, ports_of_clients, subscribers
from support.servers import Server

TESTS: Final = Path(__file__).parent
WORKERS: Final = ("sync", "gthread", "asgi", "uvicorn_worker.UvicornWorker")
"""Processes that serve one request at a time, threads, and two kinds of event loops."""


class Gunicorn:
    """A master and its workers."""

    def __init__(self, server: Server, namespace: str, folder: Path, kind: str, *, workers: int = 3, hold: tuple[str, ...] = ()) -> None:
        self.desk = Desk(folder)
        self.desk.version = 1
        for place in hold:
            self.desk.hold(place)
        self.port = server.port
        self._socket = str(folder / "socket")
        self._log = folder / "log"
        application = "wsgi" if kind in ("sync", "gthread") else "asgi"
        command = [sys.executable, "-m", "gunicorn", "-c", "python:support.shop_hooks", "-k", kind, "-w", str(workers)]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(TESTS)])),
            "PYTHONWARNINGS": "always::ResourceWarning",
            "SHOP_URL": server.url,
            "SHOP_NAMESPACE": namespace,
            "SHOP_FOLDER": str(folder),
        }
        with self._log.open("w") as log:
            self._process = subprocess.Popen([*command, f"support.shop:{application}"], env=environment, stderr=log, cwd=folder)

    @property
    def master(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text()

    def workers(self) -> list[int]:
        """Those that serve now, the oldest first."""
        pids = [int(note.partition(":")[2]) for note in self.desk.notes("workers")]
        return [pid for pid in pids if is_alive(pid)]

    def await_workers(self, *ages: int) -> list[int]:
        """The workers of these ages, when they serve."""
        found: dict[int, int] = {}

        def are_there() -> bool:
            assert self._process.poll() is None, self.log
            found.update((int(age), int(pid)) for age, _, pid in (note.partition(":") for note in self.desk.notes("workers")))
            return all(age in found for age in ages)

        until(are_there, f"the workers {ages}")
        return [found[age] for age in ages]

    def ask(self, path: str) -> Any:
        """The answer of whoever takes the request."""
        connection = http.client.HTTPConnection("shop", timeout=LONG)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(LONG)
        with contextlib.closing(connection):
            connection.sock.connect(self._socket)
            connection.request("GET", path, headers={"Connection": "close"})
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200, (body, self.log)
            return json.loads(body)

    def ask_worker(self, pid: int, path: str) -> Any:
        """The value that this worker answers."""
        others = [other for other in self.workers() if other != pid]
        for other in others:
            self._signal(other, signal.SIGSTOP)
        try:
            answer = self.ask(path)
        finally:
            for other in others:
                self._signal(other, signal.SIGCONT)
        assert answer["pid"] == pid
        return answer["value"]

    @staticmethod
    def _signal(pid: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # one that was killed stands in the list until gunicorn has noticed
            os.kill(pid, number)

    def connections(self, pid: int) -> dict[str, int]:
        return connections(pid, self.port)

    def tell(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> None:
        """It stops gracefully, says nothing of trouble, and leaves nobody behind."""
        workers = self.workers()
        self.tell(signal.SIGTERM)
        assert self._process.wait(LONG) == 0, self.log
        assert not [pid for pid in workers if is_alive(pid)]
        log = "\n".join(line for line in self.log.splitlines() if "unclosed" not in line or self._socket not in line)  # gunicorn's own
        for trouble in ("Traceback", "unclosed", "Exception", "different loop", "never awaited", "_failed", "_silent"):
            assert trouble not in log, log

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process.poll() is None:
            for pid in self.workers():
                kill(pid)
            self._process.kill()
            self._process.wait()
        for pid in self.workers():  # a new one, forked before the master ended
            kill(pid)


@pytest.fixture
def other(server: Server, namespace: str) -> Iterator[Cache]:
    """A process elsewhere, such as a script of an administrator."""
    with Cache(policies=[Policy(name="items", match="item:*", ttl="1h")], redis=server.url, namespace=namespace) as cache:
        yield cache


@pytest.mark.parametrize("kind", WORKERS)
def test_workers_serve_what_the_master_warmed_and_miss_no_invalidation(
    server: Server, namespace: str, tmp_path: Path, other: Cache, kind: str
) -> None:
    """Neither one that came while they were being forked, nor one between their fork and their first request. What was not invalidated
    is not computed again, and a hit in each worker's own memory.
    """
    held = ("pre_fork-2", "post_fork-2", "pre_fork-3", "post_fork-3")
    with Gunicorn(server, namespace, tmp_path, kind, hold=held) as shop:
        [first] = shop.await_workers(1)
        shop.desk.wait("pre_fork-2")
        assert [shop.ask_worker(first, f"/read/{number}") for number in (1, 2, 3)] == [1, 1, 1]

        shop.desk.version = 2
        shop.ask_worker(first, "/invalidate/1")
        shop.desk.release("pre_fork-2")
        shop.desk.wait("post_fork-2")
        assert not other.invalidate("item:2").pending
        shop.desk.release("post_fork-2")
        [second] = shop.await_workers(2)
        assert [shop.ask_worker(second, f"/read/{number}") for number in (1, 2, 3)] == [2, 2, 1]

        shop.desk.version = 3
        shop.ask_worker(second, "/invalidate/1")
        shop.desk.release("pre_fork-3")
        shop.desk.wait("post_fork-3")
        shop.ask_worker(first, "/invalidate/2")
        shop.desk.release("post_fork-3")
        [third] = shop.await_workers(3)
        workers = [third, first, second]

        def reads(pid: int, number: int, value: int) -> bool:
            return bool(shop.ask_worker(pid, f"/read/{number}") == value)

        assert [shop.ask_worker(third, f"/read/{number}") for number in (1, 2, 3)] == [3, 3, 1]
        for pid in workers:
            until(partial(reads, pid, 1, 3), "the others hear it")
            until(partial(reads, pid, 2, 3), "the others hear it")

        for pid in workers:
            until(partial(shop.ask_worker, pid, "/heard"), "each hears the log")
            hits = shop.ask_worker(pid, "/hits")
            assert shop.ask_worker(pid, "/read/3") == 1
            assert shop.ask_worker(pid, "/hits") == hits + 1
            assert shop.ask_worker(pid, "/threads") == ["cachesync-log"]
        assert shop.desk.notes("computed").count("3") == 1
        shop.end()


@pytest.mark.parametrize("kind", WORKERS)
def test_no_connection_is_shared_by_a_master_and_its_workers(server: Server, namespace: str, tmp_path: Path, kind: str) -> None:
    """Each process has its own, and those of a worker that is killed end with it. They all hear the log once."""
    client = server.client()
    with Gunicorn(server, namespace, tmp_path, kind) as shop:
        workers = shop.await_workers(1, 2, 3)
        processes = [shop.master, *workers]
        for pid in workers:
            assert [shop.ask_worker(pid, f"/read/{number}") for number in (1, 2, 3, 4)] == [1] * 4

        def hears(pid: int) -> bool:
            return len(subscribers(client) & set(shop.connections(pid).values())) == 1

        for pid in processes:
            until(partial(hears, pid), "each hears the log, once")
        sockets = [inode for pid in processes for inode in shop.connections(pid)]
        ports = [port for pid in processes for port in shop.connections(pid).values()]
        assert len(set(sockets)) == len(sockets)
        assert len(set(ports)) == len(ports)
        assert set(ports) <= ports_of_clients(client)

        masters, killeds = shop.connections(shop.master), set(shop.connections(workers[0]).values())
        kill(workers[0])
        until(lambda: not killeds & ports_of_clients(client), "the server lets the connections of the dead go")
        [fourth] = shop.await_workers(4)
        assert shop.ask_worker(fourth, "/read/4") == 1
        until(lambda: hears(fourth), "its successor hears the log")
        assert not shop.connections(fourth).keys() & masters.keys()
        assert shop.connections(shop.master) == masters
        shop.end()


@pytest.mark.parametrize("kind", ["sync", "uvicorn_worker.UvicornWorker"])
def test_a_worker_that_is_killed_while_it_computes_keeps_nobody_waiting(
    server: Server, namespace: str, tmp_path: Path, other: Cache, kind: str
) -> None:
    """Its lease lapses. Its successor, forked from the master with the master's copies, has not missed what was invalidated meanwhile."""
    with Gunicorn(server, namespace, tmp_path, kind, workers=2, hold=("pre_fork-3",)) as shop:
        first, second = shop.await_workers(1, 2)
        assert [shop.ask_worker(first, "/read/1"), shop.ask_worker(second, "/read/1")] == [1, 1]
        shop.desk.version = 2
        stamp = str(other.invalidate("item:1"))
        until(lambda: shop.ask_worker(second, "/position") == stamp, "the second hears it")
        shop.desk.hold("computing-1")
        os.kill(second, signal.SIGSTOP)

        def ask_in_vain() -> None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                shop.ask("/read/1")

        lost = threading.Thread(target=ask_in_vain)
        lost.start()
        shop.desk.wait("computing-1")
        kill(first)
        lost.join(LONG)
        shop.desk.release("computing-1")
        os.kill(second, signal.SIGCONT)
        assert shop.ask_worker(second, "/read/1") == 2
        shop.desk.wait("pre_fork-3")
        shop.desk.version = 3
        assert not other.invalidate("item:1", "item:2").pending
        shop.desk.release("pre_fork-3")
        [third] = shop.await_workers(3)
        assert [shop.ask_worker(third, f"/read/{number}") for number in (1, 2, 3)] == [3, 3, 1]
        shop.end()


@pytest.mark.parametrize("kind", WORKERS)
def test_a_graceful_reload_serves_nothing_older_and_leaves_no_connection(
    server: Server, namespace: str, tmp_path: Path, other: Cache, kind: str
) -> None:
    """While workers are replaced, each answer is at least what the origin was when everybody had been told."""
    client: redis.Redis = server.client()
    with Gunicorn(server, namespace, tmp_path, kind, workers=2) as shop:
        old = shop.await_workers(1, 2)
        for version, ages in ((2, (3, 4)), (3, (5, 6))):
            left = {port for pid in old for port in shop.connections(pid).values()}
            shop.tell(signal.SIGHUP)
            shop.desk.version = version
            assert not other.invalidate("item:1").pending
            new = shop.await_workers(*ages)
            assert [shop.ask_worker(pid, "/read/1") for pid in new] == [version] * 2
            until(lambda: not [pid for pid in old if is_alive(pid)], "the older workers end")  # noqa: B023 - called at once
            until(lambda: not left & ports_of_clients(client), "the server has forgotten them")  # noqa: B023 - called at once
            old = new
        assert shop.desk.notes("computed").count("3") == 1
        shop.end()
