"""Redis and Valkey as the shared layer, for ``def`` and ``async def``, on redis-py with hiredis.

What is said on the wire stands in ``layers.redis_wire`` and ``layers.scripts``, once; a connection is a ``layers.redis_line``. Here are
the two ways of sharing connections: a pool for threads, and for each event loop a few connections that carry all the steps of one tick
in one trip. Both wait for a free connection instead of raising, and nothing here takes longer than the step's deadline.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, cast

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from cachesync.core.names import Names
from cachesync.core.steps import Fetch, Fetched, Replies, Reply, SharedReply, SharedStep, Together
from cachesync.core.tuples import make
from cachesync.layers.forks import leave_behind
from cachesync.layers.redis_ear import RedisEar
from cachesync.layers.redis_line import BROKEN, TROUBLE, AsyncLine, Line, OutOfTimeError, Within, connect, failed, let_go, refused
from cachesync.layers.redis_routes import Route, route_to
from cachesync.layers.redis_trip import Trip
from cachesync.layers.redis_wire import Bounds, WireError, commands_of, pack, reply_of

MAX_CONNECTIONS: Final = 32
DEFAULT_BOUNDS: Final = Bounds()
LOOP_CONNECTIONS: Final = 4
"""Connections of one event loop. Few are enough, because one trip carries whatever was asked meanwhile."""
HELD_UP: Final = 0.05
"""A loop that notices so many seconds late that a time is over was held up itself: whether Redis was silent is not known."""
DEPOSED: Final = "READONLY another server is the master now"


class RedisShared:
    """One Redis or Valkey server, shared by all processes of a namespace.

    ``url`` is ``redis://``, ``rediss://`` or ``unix://``, or ``redis+sentinel://`` with the sentinels that know the master. Connections are
    opened when they are first needed: a server that can not be reached is no error here, but a reply to the first step. Raises
    ``PolicyError`` for a url that can not be read.
    """

    def __init__(self, url: str, *, namespace: str, max_connections: int = MAX_CONNECTIONS, bounds: Bounds = DEFAULT_BOUNDS) -> None:
        self.names = Names.of(namespace)
        self.bounds = bounds
        self._opened: weakref.WeakSet[Any] = weakref.WeakSet()  # redis-py's connections, in both colours
        self._route = route_to(url)
        self._make_connection = self._noting(self._route.connection)
        self._make_async = self._noting(self._route.aconnection)
        self._make_ear = self._noting(self._route.ear)
        self._lock = threading.Lock()
        self.sync = ThreadRedis(self.names, self._make_connection, max_connections, bounds, self._route)
        self._loops: dict[asyncio.AbstractEventLoop, LoopRedis] = {}  # those of closed loops go when another loop comes
        self._latest: LoopRedis | None = None

    def _noting(self, make: Callable[[], Any]) -> Callable[[], Any]:
        def noting() -> Any:
            connection = make()
            self._opened.add(connection)
            return connection

        return noting

    def of_loop(self) -> LoopRedis:
        loop = asyncio.get_running_loop()
        layer = self._latest
        if layer is not None and layer.loop is loop:
            return layer
        layer = self._latest = self._loops.get(loop)
        if layer is None:
            with self._lock:
                for other in [loop for loop in self._loops if loop.is_closed()]:
                    self._loops.pop(other).abandon()
                layer = self._latest = self._loops.setdefault(loop, LoopRedis(self.names, self._make_async, loop, self.bounds, self._route))
        return layer

    def commands(self, step: SharedStep) -> list[str]:
        """The names of the commands that a step asks Redis in one trip. For traces: a step is packed without them."""
        return [str(command[0], "ascii") for command in commands_of(step, self.names, self.bounds) if isinstance(command[0], bytes)]

    def ear(self) -> RedisEar:
        return RedisEar(self.names, partial(connect, self._make_ear), self._route)

    def line(self, deadline: float) -> Line:
        """A connection of its own, for whoever reads what lies there. Raises ``OSError`` and redis-py's errors."""
        return connect(self._make_connection, deadline)

    def close(self) -> None:
        self.sync.close()
        for loop in [loop for loop in self._loops if loop.is_closed()]:
            self._loops.pop(loop).abandon()

    async def aclose(self) -> None:
        self.sync.close()
        self._latest = None
        layer = self._loops.pop(asyncio.get_running_loop(), None)
        if layer is not None:
            await layer.aclose()
        self.close()

    def after_fork(self) -> None:
        """The child opens connections of its own, and lets go of its copies of the parent's sockets without a word to the server.

        The parent's threads and loops do not run here, and what they hold is never let go by itself. Loops are kept as they are:
        ending their tasks would run the parent's ``finally`` blocks here.
        """
        for connection in list(self._opened):
            let_go(connection)
        self._opened.clear()
        leave_behind(*self._loops.values())
        self._lock = threading.Lock()
        self._route.after_fork()
        self.sync = self.sync.reborn()
        self._loops, self._latest = {}, None


class ThreadRedis:
    """The shared layer for ``def``: one connection for each step under way, handed out to threads."""

    def __init__(self, names: Names, make_connection: Callable[[], Any], max_connections: int, bounds: Bounds, route: Route) -> None:
        self._names = names
        self._bounds = bounds
        self._route = route
        self._make_connection = make_connection
        self._idle: deque[Line] = deque()  # used from one end: the connection used last is the likeliest alive
        self._max_connections = max_connections
        self._room = max_connections  # how many more may be opened
        self._lock = threading.Lock()  # taken directly: an interrupted Condition.__enter__ would never give it back
        self._returned = threading.Condition(self._lock)
        self._waiting = 0
        self._closed = False

    def reborn(self) -> ThreadRedis:
        """The same without any connection, closed if it was closed."""
        other = ThreadRedis(self._names, self._make_connection, self._max_connections, self._bounds, self._route)
        other._closed = self._closed
        return other

    def perform(self, step: SharedStep, /) -> Reply:
        try:
            return self._trip(step)
        except TROUBLE as error:
            return failed(step, error)

    def _trip(self, step: SharedStep) -> SharedReply:
        if isinstance(step, Together):
            trip = Trip(step.steps, self._names, self._bounds)
            return Replies(tuple(trip.replies(self.exchange(trip.packed, trip.count, step.deadline))))
        replies = self.exchange(*pack(step, self._names, self._bounds), step.deadline)
        refused(replies)
        return reply_of(step, replies, self._names)

    def exchange(self, packed: bytes, count: int, deadline: float) -> list[Any]:
        """One trip. What Redis refused is a value."""
        while True:
            line, fresh = self._take(deadline)
            try:
                if not fresh and self._route.is_over(line.address):
                    self._give_up(line)
                    continue
                return self._exchange(line, packed, count, deadline)
            except BROKEN:
                if fresh:
                    raise
                continue  # it had been closed while it was idle; every step may be said twice

    def _take(self, deadline: float) -> tuple[Line, bool]:
        """A connection, and whether it is new. Waits until the deadline when all are under way."""
        try:
            return self._idle.pop(), False
        except IndexError:
            pass
        with self._lock:
            self._waiting += 1
            try:
                while not self._room:
                    with suppress(IndexError):
                        return self._idle.pop(), False
                    left = min(deadline - time.monotonic(), threading.TIMEOUT_MAX)
                    if left <= 0 or not self._returned.wait(left):
                        raise TimeoutError("no connection became free")
                self._room -= 1
            finally:
                self._waiting -= 1
        try:
            return connect(self._make_connection, deadline), True
        except BaseException:
            self._give_up(None)
            raise

    def _give_back(self, line: Line) -> None:
        if self._closed:
            self._give_up(line)
            return
        self._idle.append(line)
        if self._waiting:
            with self._lock:
                self._returned.notify()

    def _give_up(self, line: Line | None) -> None:
        """A connection that is used no more makes room for another."""
        if line is not None:
            line.close()
        with self._lock:
            self._room += 1
            self._returned.notify()

    def _exchange(self, line: Line, packed: bytes, count: int, deadline: float) -> list[Any]:
        try:
            replies = line.say(packed, count, deadline)
            if self._route.is_over(line.address, replies):
                raise RedisConnectionError(DEPOSED)
        except BaseException:
            self._give_up(line)  # replies may still be under way
            raise
        self._give_back(line)
        return replies

    def close(self) -> None:
        self._closed = True
        while self._idle:
            self._give_up(self._idle.pop())


_Batch = list[tuple[Any, "asyncio.Future[Reply]"]]


class LoopRedis:
    """The shared layer for ``async def``, one for each event loop: all steps of one tick travel together.

    While every connection is under way, what is asked waits and travels in the next trip: a slow server makes batches larger,
    not queues longer.
    """

    def __init__(
        self, names: Names, make_connection: Callable[[], Any], loop: asyncio.AbstractEventLoop, bounds: Bounds, route: Route
    ) -> None:
        self._names = names
        self._bounds = bounds
        self._route = route
        self._make_connection = make_connection
        self.loop = loop
        self._idle: list[AsyncLine] = []
        self._keeper: AsyncGenerator[None, None] | None = None
        self._waiting: list[tuple[SharedStep, asyncio.Future[Reply]]] = []
        self._scheduled = False
        self._trips: set[asyncio.Task[None]] = set()
        self._flights: dict[AsyncLine, _Batch] = {}  # trips without a task: reads on a connection that is open
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0
        self._free: asyncio.Semaphore | None = None

    def perform(self, step: SharedStep, /) -> Awaitable[Reply]:
        if isinstance(step, Together):
            return self._perform_all(step)
        future: asyncio.Future[Reply] = self.loop.create_future()
        self._waiting.append((step, future))
        if not self._scheduled and len(self._trips) + len(self._flights) < LOOP_CONNECTIONS:
            self._scheduled = True
            self.loop.call_soon(self._depart)
        return future

    async def _perform_all(self, step: Together) -> Reply:
        """Those of one tick travel in one trip anyway."""
        replies: Any = await asyncio.gather(*map(self.perform, step.steps))
        return Replies(tuple(replies))

    def _depart(self) -> None:
        self._scheduled = False
        batch = [(step, future) for step, future in self._waiting if not future.done()]  # who was cancelled asks nothing
        self._waiting = []
        if batch and not self._fly(batch):
            self._go(batch)

    def _fly(self, batch: _Batch) -> bool:
        """Read without a task, on a connection that is open. False where that can not be done."""
        while self._idle and (not self._idle[-1].is_open or self._route.is_over(self._idle[-1].address)):
            self._idle.pop().drop()
        if not self._idle:
            return False
        for step, _ in batch:
            if step.__class__ is not Fetch or step.strict:
                return False
        first = min([step[1] for step, _ in batch])
        if first <= time.monotonic():
            return False
        line = self._idle.pop()
        keys = [key for step, _ in batch for key in step[0]]
        packed, count = pack(Fetch(tuple(keys)), self._names, self._bounds)
        self._flights[line] = batch
        if self._alarm is None or first < self._alarm_at:
            self._set_alarm(first)
        line.ask(packed, count, self._landed)
        return True

    def _landed(self, line: AsyncLine, outcome: list[Any] | Exception) -> None:
        batch = self._flights.pop(line)
        if self._route.is_over(line.address, () if isinstance(outcome, Exception) else outcome):
            outcome = RedisConnectionError(DEPOSED)
        if not isinstance(outcome, Exception):
            self._idle.append(line)
            self._answer_fetches(batch, outcome)
        else:
            line.drop()
            if isinstance(outcome, BROKEN):
                self._go(batch)  # it had been closed while it was idle; every step may be said twice
            else:
                _answer_all(batch, outcome)
        self._depart_again()

    def _set_alarm(self, first: float) -> None:
        """One timer for all flights: deadlines mostly come in order, and mostly nobody needs them."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None
        if first < float("inf"):
            self._alarm, self._alarm_at = self.loop.call_later(max(0.0, first - time.monotonic()), self._ring), first

    def _ring(self) -> None:
        now = time.monotonic()
        for line, batch in list(self._flights.items()):
            for step, future in batch:
                if step.deadline <= now and not future.done():
                    future.set_result(failed(step, TimeoutError()))
            if all(future.done() for _, future in batch):
                del self._flights[line]
                line.drop()  # replies may still be under way
        left = [step.deadline for batch in self._flights.values() for step, future in batch if not future.done()]
        self._set_alarm(min(left, default=float("inf")))
        self._depart_again()

    def _depart_again(self) -> None:
        """A connection became free: whoever waits may go."""
        if self._waiting and not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._depart)

    def _go(self, batch: _Batch) -> None:
        """Travel in a task, which may open a connection, load scripts, and say everything twice."""
        trip = self.loop.create_task(self._travel(batch))
        self._trips.add(trip)
        trip.add_done_callback(self._arrived)

    def _arrived(self, trip: asyncio.Task[None]) -> None:
        self._trips.discard(trip)
        self._depart_again()

    async def _travel(self, batch: list[tuple[SharedStep, asyncio.Future[Reply]]]) -> None:
        now = time.monotonic()
        _answer_all([one for one in batch if one[0].deadline <= now], OutOfTimeError())  # the loop was held up before it could ask
        batch = [one for one in batch if one[0].deadline > now]
        if not batch:
            return
        expiry = self._expire(batch)
        latest = max(step.deadline for step, _ in batch)
        try:
            async with Within(latest):
                await self._trip(batch)
        except TROUBLE as error:
            is_held_up = isinstance(error, TimeoutError) and time.monotonic() - latest > HELD_UP
            _answer_all(batch, OutOfTimeError() if is_held_up else error)
        except BaseException:
            _answer_all(batch, RedisConnectionError("the trip was cancelled"))
            raise
        finally:
            if expiry is not None:
                expiry.cancel()

    def _expire(self, batch: list[tuple[SharedStep, asyncio.Future[Reply]]]) -> asyncio.TimerHandle | None:
        """Give every step its own deadline, with one timer: needed only where the deadlines of a batch differ by much."""
        deadlines = [step.deadline for step, _ in batch]
        first = min(deadlines)
        if max(deadlines) - first < 0.005:
            return None

        def expire() -> None:
            now = time.monotonic()
            for step, future in batch:
                if step.deadline <= now and not future.done():
                    future.set_result(failed(step, TimeoutError()))
            left = [step.deadline for step, future in batch if not future.done()]
            if left:
                self.loop.call_later(max(0.0, min(left) - now), expire)

        # After one more look at the sockets: the loop may have been held up.
        return self.loop.call_later(max(0.0, first - time.monotonic()), self.loop.call_later, 0, expire)

    async def _trip(self, batch: _Batch) -> None:
        trip = Trip([step for step, _ in batch], self._names, self._bounds)
        for (_, future), reply in zip(batch, trip.replies(await self._exchange(trip.packed, trip.count)), strict=True):
            if not future.done():
                future.set_result(reply)

    def _answer_fetches(self, fetches: _Batch, replies: list[Any]) -> None:
        fetch = Fetch(tuple([key for step, _ in fetches for key in step[0]]))
        try:
            refused(replies)
            all_ = cast("Fetched", reply_of(fetch, replies, self._names))
        except (ResponseError, WireError) as error:
            _answer_all(fetches, error)
            return
        at = 0
        blobs, head, now = all_
        for step, future in fetches:
            end = at + len(step[0])
            if not future.done():
                future.set_result(make(Fetched, (blobs[at:end], head, now)))
            at = end

    async def exchange(self, packed: bytes, count: int) -> list[Any]:
        """One trip, for whoever has chosen the commands. What Redis refused is a value."""
        if self._free is None:
            self._free = asyncio.Semaphore(LOOP_CONNECTIONS)
        async with self._free:
            return await self._exchange(packed, count)

    async def _exchange(self, packed: bytes, count: int) -> list[Any]:
        while True:
            fresh = not self._idle
            line = AsyncLine(self._make_connection()) if fresh else self._idle.pop()
            if not fresh and self._route.is_over(line.address):
                line.drop()
                continue
            try:
                if fresh:
                    await self._end_with_loop()
                    await line.open()
                replies = await line.say(packed, count)
                if self._route.is_over(line.address, replies):
                    raise RedisConnectionError(DEPOSED)
            except BaseException as error:
                await line.close()  # replies may still be under way
                if isinstance(error, BROKEN) and not fresh:
                    continue  # it had been closed while it was idle; every step may be said twice
                raise
            self._idle.append(line)
            return replies

    async def _end_with_loop(self) -> None:
        """See to it that the connections are closed when the loop ends: ``asyncio.run`` and servers close its generators then."""
        if self._keeper is None:
            self._keeper = self._keep()
            await anext(self._keeper)

    async def _keep(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._land_all()
            while self._idle:
                await self._idle.pop().close()

    def _land_all(self) -> None:
        """Nobody reads what is under way any more."""
        while self._flights:
            line, batch = self._flights.popitem()
            line.drop()
            _answer_all(batch, RedisConnectionError("the trip was cancelled"))
        if self._alarm is not None:
            self._alarm.cancel()

    async def aclose(self) -> None:
        for trip in list(self._trips):
            trip.cancel()
        await asyncio.gather(*self._trips, return_exceptions=True)
        self._land_all()
        if self._keeper is not None:
            await self._keeper.aclose()

    def abandon(self) -> None:
        """The loop is closed already: let go of what it left."""
        for line in (*self._idle, *self._flights):
            line.abandon()
        self._idle.clear()
        self._flights.clear()


def _answer_all(batch: Sequence[tuple[SharedStep, asyncio.Future[Reply]]], error: BaseException) -> None:
    for step, future in batch:
        if not future.done():
            future.set_result(failed(step, error))
