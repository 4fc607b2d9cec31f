"""Redis and Valkey as the shared layer, for ``def`` and ``async def``, on redis-py with hiredis.

What is said on the wire stands in ``layers.redis_wire`` and ``layers.scripts``, once. Here are the two ways of saying it: a pool of
connections for threads, and for each event loop a few connections that carry all the steps of one tick in one trip. Both pools wait
for a free connection instead of raising, and nothing here takes longer than the step's deadline.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, cast

import hiredis
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.retry import Retry

from cachesync.core.names import Names
from cachesync.core.steps import Failed, Fetch, Fetched, ReadLog, Reply, SharedReply, SharedStep
from cachesync.errors import LayerError, PolicyError
from cachesync.layers import scripts
from cachesync.layers.redis_wire import Command, WireError, commands_of, reply_of

PROTOCOL: Final = 2
"""RESP version, pinned: clients differ in their default, and a push that nobody reads is an invalidation that nobody hears."""
CONNECT_TIMEOUT: Final = 5.0
"""Seconds a connection may take to open in the background; callers wait for it no longer than their deadline."""
MAX_CONNECTIONS: Final = 32
LOOP_CONNECTIONS: Final = 4
"""Connections of one event loop. Few are enough, because one trip carries whatever was asked meanwhile."""

_TROUBLE: Final = (RedisError, OSError, TimeoutError, WireError, EOFError)
_OPTIONS: Final[dict[str, Any]] = {
    "protocol": PROTOCOL,
    "decode_responses": False,
    "health_check_interval": 0,
    "socket_connect_timeout": CONNECT_TIMEOUT,
    "socket_keepalive": True,
}


class RedisShared:
    """One Redis or Valkey server, shared by all processes of a namespace.

    ``url`` is ``redis://``, ``rediss://`` or ``unix://``. Connections are opened when they are first needed: a server that can not be
    reached is no error here, but a reply to the first step. Raises ``PolicyError`` for a url that can not be read.
    """

    def __init__(self, url: str, *, namespace: str, max_connections: int = MAX_CONNECTIONS) -> None:
        try:
            options = redis.ConnectionPool.from_url(url, **_OPTIONS)
            async_options = redis.asyncio.ConnectionPool.from_url(url, **_OPTIONS)
        except (ValueError, RedisError) as error:
            raise PolicyError(f"redis.url: {error}") from error
        self.names = Names.of(namespace)
        self._make_connection: Callable[[], Any] = lambda: options.connection_class(**options.connection_kwargs)
        self._make_async: Callable[[], Any] = lambda: async_options.connection_class(**async_options.connection_kwargs)
        self._max_connections = max_connections
        self._lock = threading.Lock()
        self.sync = ThreadRedis(self.names, self._make_connection, max_connections)
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopRedis] = weakref.WeakKeyDictionary()

    def of_loop(self) -> LoopRedis:
        loop = asyncio.get_running_loop()
        layer = self._loops.get(loop)
        if layer is None:
            with self._lock:
                for other in [loop for loop in self._loops if loop.is_closed()]:
                    self._loops.pop(other).abandon()
                layer = self._loops.setdefault(loop, LoopRedis(self.names, self._make_async, loop))
        return layer

    def close(self) -> None:
        self.sync.close()
        for loop in [loop for loop in self._loops if loop.is_closed()]:
            self._loops.pop(loop).abandon()

    async def aclose(self) -> None:
        self.sync.close()
        layer = self._loops.pop(asyncio.get_running_loop(), None)
        if layer is not None:
            await layer.aclose()
        self.close()

    def after_fork(self) -> None:
        """The child opens connections of its own; redis-py closes the copies of the parent's without ending them."""
        self._lock = threading.Lock()
        self.sync = ThreadRedis(self.names, self._make_connection, self._max_connections)
        self._loops = weakref.WeakKeyDictionary()


def _failed(step: SharedStep, error: BaseException) -> Failed:
    reason = "no answer in time" if isinstance(error, TimeoutError | redis.TimeoutError) else (str(error) or type(error).__name__)
    problem = LayerError(f"Redis, {step.__class__.__name__.lower()}: {reason}")
    problem.__cause__ = error
    return Failed(problem)


def _pack(commands: Sequence[Command]) -> bytes:
    return b"".join(map(hiredis.pack_command, commands))


def _sort_replies(replies: Sequence[Any]) -> None:
    """Raise what one of the commands of a trip was refused with."""
    for reply in replies:
        if isinstance(reply, ResponseError):
            raise reply


_LOAD_SCRIPTS: Final = _pack([(b"SCRIPT", b"LOAD", script.text) for script in scripts.ALL])


class ThreadRedis:
    """The shared layer for ``def``: one connection for each step under way, handed out to threads."""

    def __init__(self, names: Names, make_connection: Callable[[], Any], max_connections: int) -> None:
        self._names = names
        self._make_connection = make_connection
        self._idle: deque[Any] = deque()  # appended to and popped from one end: the connection used last is the likeliest alive
        self._free = threading.BoundedSemaphore(max_connections)
        self._reader: Any = None  # the log's reader has a connection of its own: it blocks
        self._closed = False

    def perform(self, step: SharedStep, /) -> Reply:
        try:
            if step.__class__ is ReadLog and cast("ReadLog", step).block > 0:
                return self._read_log(step)
            if not self._free.acquire(timeout=max(0.0, min(step.deadline - time.monotonic(), threading.TIMEOUT_MAX))):
                raise TimeoutError("no connection became free")
            try:
                return self._trip(step)
            finally:
                self._free.release()
        except _TROUBLE as error:
            return _failed(step, error)

    def _trip(self, step: SharedStep) -> SharedReply:
        commands = commands_of(step, self._names)
        packed = _pack(commands)
        while True:
            try:
                connection, fresh = self._idle.pop(), False
            except IndexError:
                connection, fresh = self._connect(step.deadline), True
            try:
                replies = self._exchange(connection, packed, len(commands), step.deadline)
            except RedisConnectionError:
                if fresh:
                    raise
                continue  # it had been closed while it was idle; every step may be said twice
            if self._closed:
                connection.disconnect()
            else:
                self._idle.append(connection)
            return reply_of(step, replies)

    def _exchange(self, connection: Any, packed: bytes, count: int, deadline: float) -> list[Any]:
        try:
            replies = _say(connection, packed, count, deadline)
            if any(isinstance(reply, NoScriptError) for reply in replies):
                _sort_replies(_say(connection, _LOAD_SCRIPTS, len(scripts.ALL), deadline))
                replies = _say(connection, packed, count, deadline)
        except BaseException:
            connection.disconnect()  # replies may still be under way
            raise
        try:
            _sort_replies(replies)
        except ResponseError:
            self._idle.append(connection)
            raise
        return replies

    def _connect(self, deadline: float) -> Any:
        """A new connection, opened in a thread of its own: name look-up and dead addresses obey no timeout."""
        connection = self._make_connection()
        connection.retry = Retry(NoBackoff(), 0)
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no time is left to connect")
        outcome: list[BaseException | None] = []
        done = threading.Event()
        abandoned = threading.Event()

        def connect() -> None:
            try:
                connection.connect()
                outcome.append(None)
            except BaseException as error:  # handed to the thread that waits
                outcome.append(error)
            finally:
                done.set()
                if abandoned.is_set():
                    connection.disconnect()

        threading.Thread(target=connect, name="cachesync-connect", daemon=True).start()
        if not done.wait(min(left, threading.TIMEOUT_MAX)):
            abandoned.set()
            raise TimeoutError("the connection did not open in time")
        if outcome[0] is not None:
            raise outcome[0]
        return connection

    def _read_log(self, step: SharedStep) -> SharedReply:
        commands = commands_of(step, self._names)
        connection = self._reader
        if connection is None:
            connection = self._reader = self._connect(step.deadline)
        try:
            replies = _say(connection, _pack(commands), len(commands), step.deadline)
            _sort_replies(replies)
            return reply_of(step, replies)
        except BaseException:
            self._reader = None
            connection.disconnect()
            raise

    def close(self) -> None:
        self._closed = True
        reader = self._reader
        if reader is not None:
            with suppress(*_TROUBLE, AttributeError):  # wakes the thread that blocks on it; that thread disconnects
                reader._sock.shutdown(2)
        while self._idle:
            self._idle.pop().disconnect()


def _say(connection: Any, packed: bytes, count: int, deadline: float) -> list[Any]:
    """One trip on one connection. Errors that Redis replied are values here."""
    connection.send_packed_command(packed, check_health=False)
    replies: list[Any] = []
    for _ in range(count):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        try:
            replies.append(connection.read_response(disable_decoding=True, timeout=left if left < threading.TIMEOUT_MAX else None))
        except ResponseError as error:
            replies.append(error)
    return replies


class LoopRedis:
    """The shared layer for ``async def``, one for each event loop: all steps of one tick travel together.

    While every connection is under way, what is asked waits and travels in the next trip: a slow server makes batches larger,
    not queues longer.
    """

    def __init__(self, names: Names, make_connection: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> None:
        self._names = names
        self._make_connection = make_connection
        self._loop = loop
        self._idle: list[Any] = []
        self._waiting: list[tuple[SharedStep, asyncio.Future[Reply]]] = []
        self._scheduled = False
        self._trips: set[asyncio.Task[None]] = set()

    async def perform(self, step: SharedStep, /) -> Reply:
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting.append((step, future))
        if not self._scheduled and len(self._trips) < LOOP_CONNECTIONS:
            self._scheduled = True
            self._loop.call_soon(self._depart)
        return await future

    def _depart(self) -> None:
        self._scheduled = False
        batch, self._waiting = self._waiting, []
        if batch:
            trip = self._loop.create_task(self._travel(batch))
            self._trips.add(trip)
            trip.add_done_callback(self._arrived)

    def _arrived(self, trip: asyncio.Task[None]) -> None:
        self._trips.discard(trip)
        if self._waiting and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._depart)

    async def _travel(self, batch: list[tuple[SharedStep, asyncio.Future[Reply]]]) -> None:
        expiry = self._expire(batch)
        try:
            latest = max(step.deadline for step, _ in batch)
            async with asyncio.timeout(None if latest == float("inf") else max(0.0, latest - time.monotonic())):
                await self._trip(batch)
        except _TROUBLE as error:
            _answer_all(batch, error)
        except BaseException:
            _answer_all(batch, RedisConnectionError("the trip was cancelled"))
            raise
        finally:
            if expiry is not None:
                expiry.cancel()

    def _expire(self, batch: list[tuple[SharedStep, asyncio.Future[Reply]]]) -> asyncio.TimerHandle | None:
        """Give every step its own deadline, with one timer: needed only where the deadlines of a batch differ by much."""
        first = min(step.deadline for step, _ in batch)
        if max(step.deadline for step, _ in batch) - first < 0.005:
            return None

        def expire() -> None:
            now = time.monotonic()
            for step, future in batch:
                if step.deadline <= now and not future.done():
                    future.set_result(_failed(step, TimeoutError()))
            left = [step.deadline for step, future in batch if not future.done()]
            if left:
                self._loop.call_later(max(0.0, min(left) - now), expire)

        return self._loop.call_later(max(0.0, first - time.monotonic()), expire)

    async def _trip(self, batch: list[tuple[SharedStep, asyncio.Future[Reply]]]) -> None:
        fetches = [(step, future) for step, future in batch if step.__class__ is Fetch]
        others = [(step, future) for step, future in batch if step.__class__ is not Fetch]
        fetch = Fetch(tuple(key for step, _ in fetches for key in cast("Fetch", step).keys)) if fetches else None
        parts: list[list[Command]] = [commands_of(fetch, self._names)] if fetch else []
        parts += [commands_of(step, self._names) for step, _ in others]
        packed, count = b"".join(map(_pack, parts)), sum(map(len, parts))
        replies = await self._exchange(packed, count)
        at = 0
        if fetch:
            at = len(parts[0])
            self._answer_fetches(fetch, fetches, replies[:at])
        for (step, future), part in zip(others, parts[1:] if fetch else parts, strict=True):
            _answer(step, future, replies[at : at + len(part)])
            at += len(part)

    def _answer_fetches(self, fetch: Fetch, fetches: list[tuple[SharedStep, asyncio.Future[Reply]]], replies: list[Any]) -> None:
        try:
            _sort_replies(replies)
            all_ = cast("Fetched", reply_of(fetch, replies))
        except (ResponseError, WireError) as error:
            _answer_all(fetches, error)
            return
        at = 0
        for step, future in fetches:
            end = at + len(cast("Fetch", step).keys)
            if not future.done():
                future.set_result(Fetched(all_.blobs[at:end], all_.head, all_.now))
            at = end

    async def _exchange(self, packed: bytes, count: int) -> list[Any]:
        while True:
            fresh = not self._idle
            connection = self._make_connection() if fresh else self._idle.pop()
            try:
                if fresh:
                    connection.retry = redis.asyncio.retry.Retry(NoBackoff(), 0)
                    await connection.connect()
                replies = await _asay(connection, packed, count)
                if any(isinstance(reply, NoScriptError) for reply in replies):
                    _sort_replies(await _asay(connection, _LOAD_SCRIPTS, len(scripts.ALL)))
                    replies = await _asay(connection, packed, count)
            except BaseException as error:
                await connection.disconnect(nowait=True)  # replies may still be under way
                if isinstance(error, RedisConnectionError) and not fresh:
                    continue  # it had been closed while it was idle; every step may be said twice
                raise
            self._idle.append(connection)
            return replies

    async def aclose(self) -> None:
        for trip in list(self._trips):
            trip.cancel()
        await asyncio.gather(*self._trips, return_exceptions=True)
        while self._idle:
            await self._idle.pop().disconnect()

    def abandon(self) -> None:
        """The loop is closed already: let go of what it left."""
        while self._idle:
            connection = self._idle.pop()
            writer = connection._writer
            if writer is not None:
                sock = writer.transport.get_extra_info("socket")
                if sock is not None:
                    with suppress(OSError):
                        sock._sock.close()
                connection._writer = connection._reader = None


async def _asay(connection: Any, packed: bytes, count: int) -> list[Any]:
    await connection.send_packed_command(packed, check_health=False)
    replies: list[Any] = []
    for _ in range(count):
        try:
            replies.append(await connection.read_response(disable_decoding=True))
        except ResponseError as error:
            replies.append(error)
    return replies


def _answer(step: SharedStep, future: asyncio.Future[Reply], replies: list[Any]) -> None:
    if future.done():
        return
    try:
        _sort_replies(replies)
        future.set_result(reply_of(step, replies))
    except (ResponseError, WireError) as error:
        future.set_result(_failed(step, error))


def _answer_all(batch: list[tuple[SharedStep, asyncio.Future[Reply]]], error: BaseException) -> None:
    for step, future in batch:
        if not future.done():
            future.set_result(_failed(step, error))
