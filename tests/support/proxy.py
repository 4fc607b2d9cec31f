"""A TCP proxy on loopback that misbehaves on demand: the network between a process and its Redis.

::

    with Proxy("127.0.0.1", server.port) as proxy:
        client = redis.Redis.from_url(proxy.url)
        proxy.cut()               # every connection is reset; new ones are welcome
        proxy.hold()              # a black hole: connections are accepted, nothing passes
        proxy.hold(replies=True)  # requests arrive, their answers do not
        proxy.release()
        proxy.delay(0.05)         # each piece takes 50 ms longer, each way
        proxy.refuse()            # nobody listens
        proxy.admit()

It runs in a thread of its own. Each method returns when what it says is so.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

PIECE = 65536
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, zero seconds: closing sends RST instead of FIN


class Proxy:
    """A proxy to ``host:port``, listening on a free loopback port from the moment it is made until ``close``."""

    def __init__(self, host: str, port: int) -> None:
        self.port = 0
        self._target = (host, port)
        self._delay = 0.0
        self._accepted = 0
        self._links: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self._requests_pass = asyncio.Event()
        self._replies_pass = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._do(self._set_gates(requests=True, replies=True))
        self._do(self._listen())

    @property
    def url(self) -> str:
        """``redis://127.0.0.1:PORT/0``: the server as seen through the proxy."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def connections(self) -> int:
        """How many connections are open through the proxy now."""
        return len(self._links)

    @property
    def accepted(self) -> int:
        """How many connections it has accepted since it was made."""
        return self._accepted

    def cut(self) -> None:
        """Reset every open connection, on both sides. What was on its way is lost; new connections are accepted."""
        self._do(self._reset())

    def hold(self, *, replies: bool = False) -> None:
        """Pass nothing on: neither requests nor replies, or with ``replies=True`` requests only. Connections stay open."""
        self._do(self._set_gates(requests=replies, replies=False))

    def release(self) -> None:
        """End ``hold``: what was held back is delivered, in order, unless it was cut meanwhile."""
        self._do(self._set_gates(requests=True, replies=True))

    def delay(self, seconds: float) -> None:
        """From now on let every piece, each way, take ``seconds`` longer. 0 ends it."""
        self._delay = seconds

    def refuse(self) -> None:
        """Reset every open connection and listen no more: connecting fails at once, until ``admit``."""
        self._do(self._stop_listening())
        self._do(self._reset())

    def admit(self) -> None:
        """End ``refuse``: listen again, on the same port."""
        self._do(self._listen())

    def close(self) -> None:
        """Reset every connection, stop listening, end the thread. Does nothing the second time."""
        if self._loop.is_closed():
            return
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _do(self, act: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(act, self._loop).result(timeout=30)

    # -- in the proxy's own thread

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._listener.setblocking(False)
            self.port = self._listener.getsockname()[1]
            # Not asyncio's server: what that has accepted when it is closed is neither served nor closed.
            self._loop.add_reader(self._listener, self._accept, self._listener)

    async def _stop_listening(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()  # the kernel resets whoever was not accepted yet
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            client, _ = listener.accept()
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self._accepted += 1
            link = self._loop.create_task(self._link(client))
            self._links.add(link)
            link.add_done_callback(lambda done: self._ended(done, client))

    def _ended(self, link: asyncio.Task[None], client: socket.socket) -> None:
        """Also for one that was cancelled before it began."""
        client.close()
        self._links.discard(link)

    async def _set_gates(self, *, requests: bool, replies: bool) -> None:
        for gate, is_open in ((self._requests_pass, requests), (self._replies_pass, replies)):
            if is_open:
                gate.set()
            else:
                gate.clear()

    async def _reset(self) -> None:
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    async def _link(self, client: socket.socket) -> None:
        """One connection, from accepting it to the end of either side."""
        sides: list[asyncio.StreamWriter] = []
        try:
            reader, writer = await self._welcome(client)
            sides.append(writer)
            await self._requests_pass.wait()
            up_reader, up_writer = await asyncio.open_connection(*self._target)
            sides.append(up_writer)
            pumps = [
                asyncio.ensure_future(self._pump(reader, up_writer, self._requests_pass)),
                asyncio.ensure_future(self._pump(up_reader, writer, self._replies_pass)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # a reset, here or there: below, both sides learn of it
        finally:
            for side in sides:
                held: socket.socket | None = side.get_extra_info("socket")
                if held is not None:
                    with contextlib.suppress(OSError):
                        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                side.transport.abort()
            await asyncio.sleep(0)  # the transport closes its socket in the loop's next turn

    async def _welcome(self, client: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """What is read from a client that has connected, and written to it."""
        return await asyncio.open_connection(sock=client)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event) -> None:
        """Carry pieces one way, as long as the gate is open."""
        while piece := await reader.read(PIECE):
            await asyncio.sleep(self._delay)
            await gate.wait()
            writer.write(piece)
            await writer.drain()
