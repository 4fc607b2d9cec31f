"""The ear: the one connection of a process on which it hears what is published.

It speaks RESP 3, so that messages and the answers to its own questions come one after the other, in the order in which the server sent
them: when the answer "the log ends at 121" is read, everything that was published before it has been read too. Besides the log it
hears when the leases end that somebody in this process waits for.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from cachesync.core.auditing import Question, is_question, read_question
from cachesync.core.names import Names
from cachesync.core.records import Record, RecordError, from_message
from cachesync.core.steps import Beat, Failed, Hear, Heard, Torn, Woken
from cachesync.core.switches import Thrown, is_thrown, read_thrown
from cachesync.layers.forks import lock_across_forks
from cachesync.layers.redis_line import MORE, READ_SIZE, TROUBLE, Line, failed, parser
from cachesync.layers.redis_routes import Guide
from cachesync.layers.redis_wire import Command, WireError, beat_of, confirm, pack_all

Item = Record | Torn | Beat | Woken | Question | Thrown
_SUBSCRIBED: Final = frozenset({b"ssubscribe", b"subscribe"})
_MESSAGES: Final = frozenset({b"smessage", b"message"})
_UNSUBSCRIBED: Final = frozenset({b"sunsubscribe", b"unsubscribe"})


class RedisEar:
    """Hears one namespace. `perform` is called by one thread; ``watch``, ``unwatch``, ``wake`` and ``close`` by any.

    ``connect`` opens a connection before a deadline (seconds, monotonic clock). Where the ``route`` leads elsewhere the connection
    ends, and also where it would lead elsewhere because whoever answers is not the master.
    """

    def __init__(self, names: Names, connect: Callable[[float], Line], route: Guide | None = None) -> None:
        self._names = names
        self._connect = connect
        self._route = route
        self._is_deposed = False
        self._question = pack_all(confirm(names))
        self._line: Line | None = None
        self._parser = parser()
        self._is_sharded = True
        self._asked: deque[float] = deque()  # when questions about the log's end were sent that have no answer yet
        self._expected: deque[bytes | None] = deque()  # which lease was looked for, None for the log's end: replies come in this order
        self._answers: list[Any] = []
        self._watched: dict[bytes, str] = {}  # channels besides the log's, with their keys
        self._orders: deque[tuple[bool, bytes]] = deque()  # channels to hear from now on, or no more
        self._waker, self._wake_up = os.pipe()
        os.set_blocking(self._waker, False)
        os.set_blocking(self._wake_up, False)
        self._closed = False
        self._lock = lock_across_forks()

    def perform(self, step: Hear, /) -> Heard | Failed:
        """Wait for what comes. A failure ends the connection; the next step opens another one."""
        try:
            return self._hear(step)
        except TROUBLE as error:
            self._drop()
            return failed(step, error)
        except (TypeError, ValueError, LookupError, AttributeError, OverflowError, RecursionError) as error:
            self._drop()
            return failed(step, WireError(f"what was sent can not be read: {error!r}"))

    def watch(self, key: str) -> None:
        """Hear when the lease of ``key`` ends."""
        channel = self._names.lease(key)
        self._watched[channel] = key
        self._orders.append((True, channel))
        self.wake()

    def unwatch(self, key: str) -> None:
        """Hear it no more."""
        channel = self._names.lease(key)
        self._watched.pop(channel, None)
        self._orders.append((False, channel))

    def wake(self) -> None:
        """Let `perform` return at once."""
        with self._lock, suppress(OSError):
            if not self._closed:  # its number may belong to another file by now
                os.write(self._wake_up, b"x")

    def close(self) -> None:
        """End the connection. To be called when nobody is in `perform` any more."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            os.close(self._waker)
            os.close(self._wake_up)
        self._drop()

    # --- one connection -----------------------------------------------------------------------------------------------------------

    def _open(self, step: Hear) -> Line:
        """Subscribe, and wait until the server says so: what is read of the log afterwards misses nothing."""
        deadline = time.monotonic() + step.patience
        line = self._line = self._connect(deadline)
        self._parser, self._answers = parser(), []
        self._is_deposed = False
        self._asked.clear()
        self._expected.clear()
        self._orders.clear()
        self._is_sharded = True
        self._subscribe(line, self._names.log)
        waiting = True
        while waiting:
            self._fill(line, deadline - time.monotonic())
            while (reply := self._parser.gets()) is not MORE:
                if isinstance(reply, hiredis.PushNotification) and reply[0] in _SUBSCRIBED:
                    waiting = False
                elif isinstance(reply, ResponseError) and self._is_sharded and "unknown command" in str(reply):
                    self._is_sharded = False  # before Redis 7
                    self._subscribe(line, self._names.log)
                elif isinstance(reply, ResponseError):
                    raise reply
        for channel in tuple(self._watched):
            self._listen(line, channel)
        return line

    def _subscribe(self, line: Line, channel: bytes) -> None:
        self._send(line, (self._verb(b"SUBSCRIBE", channel), channel))

    def _listen(self, line: Line, channel: bytes) -> None:
        """Hear when a lease ends. It may have ended before that is heard: so it is looked for, where that is the same server."""
        self._subscribe(line, channel)
        if self._is_of_shard(channel):
            self._send(line, (b"GET", channel))
            self._expected.append(channel)

    def _verb(self, name: bytes, channel: bytes) -> bytes:
        return b"S" + name if self._is_sharded and self._is_of_shard(channel) else name

    def _is_of_shard(self, channel: bytes) -> bool:
        """Whether a channel is one of the server that is heard, where channels are of servers."""
        return True

    def _send(self, line: Line, command: Command) -> None:
        line.sock.sendall(pack_all([command]))

    def _fill(self, line: Line, seconds: float) -> None:
        """Read what is there, waiting for it up to ``seconds``. Raises ``TimeoutError``."""
        if seconds <= 0:
            raise TimeoutError
        line.sock.settimeout(seconds)
        data = line.sock.recv(READ_SIZE)
        if not data:
            raise RedisConnectionError("the server closed the connection")
        self._parser.feed(data)

    def _hear(self, step: Hear) -> Heard:
        line = self._line or self._open(step)
        if self._route is not None:
            if (self._is_deposed and self._route.follows) or self._route.is_over(line.address):
                raise RedisConnectionError("another server is the master now")
            if step.beat:
                self._route.look()
        until = time.monotonic() + step.seconds
        if step.beat:
            self._asked.append(time.monotonic())
            self._expected.append(None)
            line.sock.settimeout(step.patience)
            line.sock.sendall(self._question)
        has_waited = False
        while True:
            while self._orders:
                begin, channel = self._orders.popleft()
                if begin:
                    self._listen(line, channel)
                else:
                    self._send(line, (self._verb(b"UNSUBSCRIBE", channel), channel))
            items = self._items()
            now = time.monotonic()
            if items or (has_waited and now >= until):
                return Heard(tuple(items))  # an answer that is late is waited for the next time
            has_waited = True
            limit = until
            if self._asked:
                due = self._asked[0] + step.patience
                if now >= due:
                    raise TimeoutError
                limit = min(limit, due)
            if self._wait(line, limit - now):
                return Heard(())

    def _wait(self, line: Line, seconds: float) -> bool:
        """Wait for something to read, and read it. True where somebody wants to be heard instead."""
        pending = getattr(line.sock, "pending", None)
        if pending is None or not pending():  # TLS may hold what it has read already
            poll = select.poll()
            poll.register(line.sock, select.POLLIN)
            poll.register(self._waker, select.POLLIN)
            ready = [descriptor for descriptor, _ in poll.poll(max(0.0, seconds) * 1000)]
            if self._waker in ready:
                with suppress(BlockingIOError):
                    os.read(self._waker, 4096)
                if line.sock.fileno() not in ready:
                    return not self._orders
            if not ready:
                return False
        with suppress(TimeoutError):  # TLS may have read something that holds no data
            self._fill(line, 0.05)
        return False

    def _items(self) -> list[Item]:
        items: list[Item] = []
        while (reply := self._parser.gets()) is not MORE:
            if isinstance(reply, hiredis.PushNotification):
                kind, channel, message = cast("list[Any]", reply)[:3]
                item = self._pushed(kind, channel, message)
                if item is not None:
                    items.append(item)
            else:
                if isinstance(reply, ResponseError):
                    raise reply
                lease = self._expected[0]
                if lease is not None:
                    self._expected.popleft()
                    if reply is None and lease in self._watched:
                        items.append(Woken(self._watched[lease]))
                    continue
                self._answers.append(reply)
                if len(self._answers) == 2:
                    self._expected.popleft()
                    beat = beat_of(self._answers)
                    self._is_deposed = not beat.is_master
                    items.append(beat._replace(asked=self._asked.popleft()))
                    self._answers = []
        return items

    def _pushed(self, kind: bytes, channel: bytes, message: Any) -> Item | None:
        if channel == self._names.log:
            if kind in _UNSUBSCRIBED:
                raise RedisConnectionError("the server ended the subscription")
            return _item_of(message) if kind in _MESSAGES else None
        key = self._watched.get(channel)
        is_answered = kind in _UNSUBSCRIBED or (kind in _SUBSCRIBED and self._is_of_shard(channel))
        return None if key is None or is_answered else Woken(key)

    def _drop(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.close()


def _item_of(message: bytes) -> Item | None:
    try:
        text = message.decode("utf-8", "surrogatepass")
        if is_question(text):
            with suppress(ValueError):
                return read_question(text)
            return None  # of another version: nobody has to answer
        if is_thrown(text):
            with suppress(ValueError):
                return read_thrown(text)
            return None  # it is asked for anyway
        return from_message(text)
    except (RecordError, UnicodeDecodeError):
        return Torn()
