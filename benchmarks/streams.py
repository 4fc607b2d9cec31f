"""A thousand open event streams in one process: when an invalidation has reached all of them, what each costs, and how the process ends.

A server of uvicorn has `STREAMS` clients, in another process, each with an identity of its own, so that each is told other groups. A key is
invalidated in the server, `ROUNDS` times; counted is the time from before the call until the last client has read of it. What a stream
costs is what the server's memory has grown by, shared between all. At the end the server is sent SIGTERM with all streams open.

Run it: ``python -m benchmarks.streams``.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

from benchmarks.alone import command_of, options_of, show
from benchmarks.measure import OURS
from benchmarks.processes import Process
from benchmarks.spread import spread

STREAMS: Final = 1_000
ROUNDS: Final = 40
PAUSE: Final = 0.05
"""Seconds between two invalidations, after the first has reached all."""
WARM_UP: Final = 50
"""Streams that are opened and closed before anything is measured: the first ones load code."""
PATIENCE: Final = 30.0
SHARED: Final = "one audience"
OWN: Final = "each its own"
KINDS: Final = (SHARED, OWN)


# --- in the server ----------------------------------------------------------------------------------------------------------------------


def serve(own: bool) -> None:
    """Serve on a port of its own, and take orders on standard input: ``port``, and ``invalidate``, which answers when it began."""
    import uvicorn

    from cachesync import Cache, HttpPolicy, Policy
    from cachesync.event_streams import EventStreams

    _allow_files()
    visibility: Any = "private" if own else "public"
    policy = Policy(name="stores", match="stores:*", ttl="5m", http=HttpPolicy(visibility=visibility))
    cache = Cache(policies=[policy], namespace="streams", listen=False)
    streams = EventStreams(cache, identify=_identity if own else None, most=2 * STREAMS)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(STREAMS)

    def obey() -> None:
        for line in sys.stdin:
            if line.strip() == "port":
                print(json.dumps(listening.getsockname()[1]), flush=True)
            else:
                began = time.monotonic()
                cache.invalidate("stores:JKT")
                print(json.dumps(began), flush=True)

    threading.Thread(target=obey, daemon=True).start()
    config = uvicorn.Config(streams, log_level="error", lifespan="off", http="h11", loop="asyncio", backlog=STREAMS)
    uvicorn.Server(config).run(sockets=[listening])


def _identity(scope: Any) -> str | None:
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    return next((value.decode() for name, value in headers if name == b"authorization"), None)


def _allow_files() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = 4 * STREAMS
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))


# --- in the process that measures -------------------------------------------------------------------------------------------------------


class _Client(asyncio.Protocol):
    """One stream: it notes when it has read of how many invalidations."""

    def __init__(self, clients: _Clients, number: int) -> None:
        self._clients = clients
        self._number = number
        self._is_open = False
        self.last = b""

    def connection_made(self, transport: Any) -> None:
        name = f"user {self._number}".encode()
        transport.write(b"GET /events HTTP/1.1\r\nhost: localhost\r\nauthorization: %s\r\n\r\n" % name)

    def data_received(self, data: bytes) -> None:
        data, self.last = self.last + data, data[-40:]
        if not self._is_open and b"event: hello" in data:
            self._is_open = True
            self._clients.opened.release()
        if b"event: inv" in data:
            self.last = b""
            self._clients.reached(time.monotonic())
        if b"event: bye" in data:
            self.last = b""
            self._clients.goodbyes += 1


class _Clients:
    """All of them."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.opened = asyncio.Semaphore(0)
        self.goodbyes = 0
        self._wanted = 0
        self._all = asyncio.Event()
        self._at = 0.0
        self._transports: list[asyncio.BaseTransport] = []

    async def open(self, count: int) -> None:
        loop = asyncio.get_running_loop()
        for number in range(count):
            transport, _ = await loop.create_connection(partial(_Client, self, number), "127.0.0.1", self._port)
            self._transports.append(transport)
        for _ in range(count):
            await asyncio.wait_for(self.opened.acquire(), PATIENCE)

    def close(self) -> None:
        for transport in self._transports:
            transport.close()
        self._transports.clear()

    def reached(self, at: float) -> None:
        self._wanted -= 1
        self._at = at
        if self._wanted == 0:
            self._all.set()

    async def invalidate(self, server: Process) -> float:
        """Milliseconds until all have read of it."""
        self._wanted = len(self._transports)
        self._all.clear()
        server.order("invalidate")
        began = await asyncio.to_thread(server.answer)
        await asyncio.wait_for(self._all.wait(), PATIENCE)
        took: float = (self._at - began) * 1000
        return took


def measure(kind: str, *, streams: int, rounds: int) -> dict[str, float]:
    """``{"p50", "p99", "max", "count", "kilobytes", "seconds"}``: until all were reached (ms), what one costs, and until the end."""
    _allow_files()
    with ExitStack() as stack:
        server = stack.enter_context(Process(command_of("benchmarks.streams", "--serve", kind)))
        server.order("port")
        port = server.answer()
        return asyncio.run(_measure(server, port, streams, rounds))


async def _measure(server: Process, port: int, streams: int, rounds: int) -> dict[str, float]:
    clients = _Clients(port)
    await clients.open(min(WARM_UP, streams))
    await clients.invalidate(server)
    clients.close()
    await asyncio.sleep(0.3)
    before = _resident(server.pid)
    await clients.open(streams)
    took: list[float] = []
    for _ in range(rounds):
        took.append(await clients.invalidate(server))
        await asyncio.sleep(PAUSE)
    kilobytes = (_resident(server.pid) - before) / streams / 1000
    began = time.monotonic()
    os.kill(server.pid, signal.SIGTERM)
    await asyncio.to_thread(server.wait, PATIENCE)
    seconds = time.monotonic() - began
    if clients.goodbyes != streams:
        raise RuntimeError(f"{clients.goodbyes} of {streams} streams said goodbye")
    return {**spread(took), "kilobytes": kilobytes, "seconds": seconds}


def _resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm", encoding="ascii") as numbers:
        return int(numbers.read().split()[1]) * resource.getpagesize()


def run(*, quick: bool = False, streams: int = STREAMS) -> dict[str, Any]:
    """``{"unit", "rows": {kind: {"cachesync": {"p50", "p99", "max", "count", "kilobytes", "seconds"}}}, "streams", "missing"}``."""
    count, rounds = (min(50, streams), 5) if quick else (streams, ROUNDS)
    rows = {kind: {OURS: measure(kind, streams=count, rounds=rounds)} for kind in KINDS}
    return {"unit": "ms", "rows": rows, "streams": count, "missing": []}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure it alone."""
    parser = options_of("streams", __doc__)
    parser.add_argument("--serve", choices=KINDS, help="be the server, and take orders")
    options = parser.parse_args(arguments)
    if options.serve is not None:
        serve(options.serve == OWN)
    else:
        show("streams", options, lambda: run(quick=options.quick))


if __name__ == "__main__":
    main()
