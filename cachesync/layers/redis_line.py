"""One connection to Redis, in both colours, and how it is opened.

redis-py opens it: address, TLS, authentication, database. From then on it is spoken to directly, because redis-py's own reading of a
reply costs as much again for each of the replies of a trip.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final

import hiredis
import redis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from cachesync.core.steps import Failed
from cachesync.errors import LayerError, PolicyError
from cachesync.layers import scripts
from cachesync.layers.redis_wire import WireError, pack_all

Address = tuple[str, int]
"""Host and port that a connection leads to."""
PROTOCOL: Final = 2
"""RESP version, pinned: clients differ in their default, and a push that nobody reads is an invalidation that nobody hears."""
PUSHES: Final = 3
"""The RESP version of the one connection that reads pushes: messages and answers come in the order in which the server sent them."""
CONNECT_TIMEOUT: Final = 5.0
"""Seconds a connection may take to open in the background; callers wait for it no longer than their deadline."""
READ_SIZE: Final = 262_144
"""Bytes asked of a socket at once."""
TROUBLE: Final = (RedisError, OSError, WireError, EOFError)
"""What a connection in trouble raises."""
BROKEN: Final = (RedisConnectionError, ConnectionError)
"""What a connection raises that had been closed from the other side."""


class OutOfTimeError(TimeoutError):
    """Nobody was asked, because no time was left: that says nothing about whoever would have been."""


_OPTIONS: Final[dict[str, Any]] = {
    "decode_responses": False,
    "health_check_interval": 0,
    "socket_connect_timeout": CONNECT_TIMEOUT,
}


def maker(pool: Any, url: str, protocol: int = PROTOCOL) -> Callable[[], Any]:
    """What makes a connection to ``url``. redis-py's pool reads the url; the connections are kept by the classes below."""
    make, options = reader(pool, url, protocol)
    return lambda: make(**options)


def reader(pool: Any, url: str, protocol: int) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The class of connection that a url asks for, and its options. Raises ``PolicyError``."""
    try:
        read = pool.from_url(url)
        options: dict[str, Any] = read.connection_kwargs | _OPTIONS | {"protocol": protocol}
        if "path" not in options:
            options["socket_keepalive"] = True
        if url.startswith("rediss"):  # redis-py before 6 looks at no name unless told
            options.setdefault("ssl_check_hostname", options.get("ssl_cert_reqs") != "none")
        read.connection_class(**options)  # a connection object connects later: this finds options that do not exist
    except (ValueError, TypeError, RedisError) as error:
        # What they say may quote the url, and the url may hold a password.
        hint = "it has an option that redis-py does not know" if isinstance(error, TypeError) else "percent-encode what is special in it"
        if "ssl_cert_reqs" in url and isinstance(error, RedisError):
            hint = 'write "ssl_cert_reqs=required"'
        raise PolicyError(f"redis.url: it can not be read as redis://user:password@host:port/db or unix://path; {hint}") from None
    for name in _FILES:
        if name in options and not os.access(options[name], os.R_OK):
            raise PolicyError(f"redis.url: {name}: {str(options[name])!r} is not there, or can not be read")
    return read.connection_class, options


_FILES: Final = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
"""Options that name a file: a wrong one is found at start, not when the first connection is opened."""


def refused(replies: Sequence[Any]) -> None:
    """Raise what one of the commands of a trip was refused with."""
    for reply in replies:
        if reply.__class__ is ResponseError:
            raise reply


def let_go(connection: Any) -> None:
    """Close this process's copy of a connection's socket, which another process goes on using: nothing is sent, and no loop is told."""
    sock = getattr(connection, "_sock", None)
    writer = getattr(connection, "_writer", None)
    if sock is None and writer is not None:
        seen = writer.transport.get_extra_info("socket")
        sock = getattr(seen, "_sock", seen)
    if sock is not None:
        with suppress(OSError):
            sock.close()


def failed(step: Any, error: BaseException) -> Failed:
    """The reply to a step that could not be performed."""
    problem = LayerError(f"Redis, {step.__class__.__name__.lower()}: {reason_of(error)}")
    problem.__cause__ = error
    problem.is_refusal = isinstance(error, ResponseError)
    problem.part = getattr(error, "part", None)
    return Failed(problem)


def reason_of(error: BaseException) -> str:
    """What is told of an error."""
    if isinstance(error, TimeoutError | redis.TimeoutError):
        return getattr(error, "reason", "no answer in time")
    return str(error) or type(error).__name__


def _lacks_script(replies: Sequence[Any]) -> bool:
    return any(reply.__class__ is ResponseError and str(reply).startswith("NOSCRIPT") for reply in replies)


def parser() -> Any:
    """A parser of replies. An error reply is a value: what belongs to the other commands of a trip has to be read all the same."""
    return hiredis.Reader(protocolError=WireError, replyError=_refusal, notEnoughData=MORE)


def _refusal(text: str) -> ResponseError:
    """What a command was refused with, without the user's name, which stands in the url."""
    return ResponseError(_USER.sub("this user has", text))


_USER: Final = re.compile(r"\b[Uu]ser \S+ has\b")


MORE: Final = object()
_LOAD_SCRIPTS: Final = pack_all([(b"SCRIPT", b"LOAD", script.text) for script in scripts.ALL])
_LOAD_PLAIN: Final = pack_all([(b"SCRIPT", b"LOAD", (script.plain or script).text) for script in scripts.ALL])


def _without_flags(packed: bytes) -> bytes:
    """The same for a server that knows no flags of scripts (before Redis 7)."""
    for flagged, plain in scripts.WITHOUT_FLAGS:
        packed = packed.replace(flagged, plain)
    return packed


def _knows_no_flags(replies: Sequence[Any]) -> bool:
    return any(reply.__class__ is ResponseError and "compiling" in str(reply) for reply in replies)


def connect(make_connection: Callable[[], Any], deadline: float) -> Line:
    """A new connection, opened in a thread of its own: name look-up and dead addresses obey no timeout."""
    connection = make_connection()
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("no time is left to connect")
    outcome: list[BaseException | None] = []
    done = threading.Event()
    abandoned = threading.Event()

    def open_() -> None:
        try:
            connection.connect()
            outcome.append(None)
        except BaseException as error:  # handed to the thread that waits
            outcome.append(error)
        finally:
            done.set()
            _opening.discard(done)
            if abandoned.is_set():
                connection.disconnect()

    _opening.add(done)
    try:
        threading.Thread(target=open_, name="cachesync-connect", daemon=True).start()
    except RuntimeError as error:  # the system has no room for another one
        _opening.discard(done)
        raise OSError(str(error)) from error
    if not done.wait(min(left, threading.TIMEOUT_MAX)):
        abandoned.set()
        raise TimeoutError("the connection did not open in time")
    if outcome[0] is not None:
        raise outcome[0]
    return Line(connection)


_opening: Final[set[threading.Event]] = set()
"""Connections that are being opened: until they are, their sockets have no name by which a forked child could close its copies."""
FORK_PATIENCE: Final = 0.05
"""Seconds a fork waits for them, all together."""


def _wait_for_openings() -> None:
    until = time.monotonic() + FORK_PATIENCE
    for done in tuple(_opening):
        done.wait(max(0.0, until - time.monotonic()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_wait_for_openings, after_in_child=_opening.clear)


class Line:
    """A connection that redis-py has opened (address, TLS, authentication, database), spoken to directly from then on.

    One write and mostly one read make a trip; redis-py's own reading costs as much again for each reply.
    """

    __slots__ = ("_connection", "_gets", "_is_old", "_reader", "address", "sock")

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.address: Address = (getattr(connection, "host", ""), getattr(connection, "port", 0))
        connection.retry = Retry(NoBackoff(), 0)
        self._is_old = False
        self.sock: socket.socket = connection._sock
        self._reader = parser()
        self._gets = self._reader.gets

    def say(self, packed: bytes, count: int, deadline: float) -> list[Any]:
        """One trip, and another where the server has lost the scripts."""
        replies = self._say(_without_flags(packed) if self._is_old else packed, count, deadline)
        if _lacks_script(replies):
            loaded = self._say(_LOAD_SCRIPTS, len(scripts.ALL), deadline)
            self._is_old = _knows_no_flags(loaded)
            refused(self._say(_LOAD_PLAIN, len(scripts.ALL), deadline) if self._is_old else loaded)
            replies = self._say(_without_flags(packed) if self._is_old else packed, count, deadline)
        return replies

    def _say(self, packed: bytes, count: int, deadline: float) -> list[Any]:
        """One trip: ``count`` replies. Errors that Redis replied are values here. Raises ``OSError`` and redis-py's errors."""
        if not count:
            return []
        sock, gets = self.sock, self._gets
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sock.settimeout(left if left < threading.TIMEOUT_MAX else None)
        sock.sendall(packed)
        replies: list[Any] = []
        is_late = False
        while True:
            reply = gets()
            if reply is not MORE:
                replies.append(reply)
                if len(replies) == count:
                    return replies
                continue
            if is_late:
                raise TimeoutError
            data = sock.recv(READ_SIZE)
            if not data:
                raise RedisConnectionError("the server closed the connection")
            self._reader.feed(data)
            is_late = deadline < time.monotonic()  # but what has come is taken: the thread may have been held up

    def close(self) -> None:
        with suppress(*TROUBLE):
            self._connection.disconnect()


class Within:
    """As ``asyncio.timeout_at`` on the clock ``time.monotonic``, but what has come by then is taken first: a loop that was held up finds
    the answer and the end of its time in the same turn.
    """

    __slots__ = ("_alarm", "_deadline", "_timeout")

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._timeout = asyncio.timeout(None)
        self._alarm: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        if self._deadline < float("inf"):
            self._alarm = asyncio.get_running_loop().call_later(max(0.0, self._deadline - time.monotonic()), self._ring)

    def _ring(self) -> None:
        loop = asyncio.get_running_loop()
        self._alarm = loop.call_later(0, self._timeout.reschedule, 0)  # after one more look at the sockets

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        await self._timeout.__aexit__(kind, error, trace)


class AsyncLine(asyncio.Protocol):
    """As `Line`, for an event loop. It listens to the transport itself: a stream would cost two more turns of the loop for each trip."""

    __slots__ = ("_arrive", "_connection", "_count", "_gets", "_is_old", "_old", "_reader", "_replies", "_transport", "address")

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.address: Address = ("", 0)  # known when it is open
        connection.retry = AsyncRetry(NoBackoff(), 0)
        self._is_old = False
        self._reader = parser()
        self._gets = self._reader.gets
        self._arrive: Callable[[AsyncLine, list[Any] | Exception], None] | None = None
        self._count = 0
        self._replies: list[Any] = []

    async def open(self) -> None:
        await self._connection.connect()
        self.address = (getattr(self._connection, "host", ""), getattr(self._connection, "port", 0))
        self._transport: Any = self._connection._writer.transport
        self._old: Any = self._transport.get_protocol()
        self._transport.set_protocol(self)

    @property
    def is_open(self) -> bool:
        return not self._transport.is_closing()

    def ask(self, packed: bytes, count: int, arrive: Callable[[AsyncLine, list[Any] | Exception], None]) -> None:
        """One trip. ``arrive`` is called with the replies (errors that Redis replied are values there), or with what went wrong."""
        self._count, self._replies, self._arrive = count, [], arrive
        self._transport.write(packed)

    async def say(self, packed: bytes, count: int) -> list[Any]:
        """One trip, and another where the server has lost the scripts."""
        if not count:
            return []
        replies = await self._say(_without_flags(packed) if self._is_old else packed, count)
        if _lacks_script(replies):
            loaded = await self._say(_LOAD_SCRIPTS, len(scripts.ALL))
            self._is_old = _knows_no_flags(loaded)
            refused(await self._say(_LOAD_PLAIN, len(scripts.ALL)) if self._is_old else loaded)
            replies = await self._say(_without_flags(packed) if self._is_old else packed, count)
        return replies

    def _say(self, packed: bytes, count: int) -> asyncio.Future[list[Any]]:
        """One trip: ``count`` replies. Errors that Redis replied are values here. Raises ``OSError`` and redis-py's errors."""
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

        def arrive(_: AsyncLine, outcome: list[Any] | Exception) -> None:
            if not future.done():
                future.set_exception(outcome) if isinstance(outcome, Exception) else future.set_result(outcome)

        if self.is_open:
            self.ask(packed, count, arrive)
        else:
            arrive(self, RedisConnectionError("the server closed the connection"))
        return future

    def data_received(self, data: bytes) -> None:
        arrive, replies = self._arrive, self._replies
        if arrive is None:
            self._transport.abort()  # nobody asked for this
            return
        try:
            self._reader.feed(data)
            while len(replies) < self._count:
                reply = self._gets()
                if reply is MORE:
                    return
                replies.append(reply)
        except WireError as error:
            self._arrive = None
            arrive(self, error)
            return
        self._arrive = None
        arrive(self, replies)

    def connection_lost(self, exc: Exception | None) -> None:
        arrive, self._arrive = self._arrive, None
        self._old.connection_lost(exc)
        if arrive is not None:
            arrive(self, exc if isinstance(exc, OSError) else RedisConnectionError("the server closed the connection"))

    async def close(self) -> None:
        self._arrive = None
        transport = getattr(self, "_transport", None)
        if transport is not None and transport.get_extra_info("sslcontext") is not None:
            transport.abort()  # to say goodbye over TLS takes turns of the loop, which may be ending
        with suppress(*TROUBLE):
            await self._connection.disconnect(nowait=True)

    def drop(self) -> None:
        """Close it now: replies may still be under way."""
        self._arrive = None
        self._transport.abort()
        self._connection._reader = self._connection._writer = None

    def abandon(self) -> None:
        """Close the socket of a loop that runs no more: it can not be asked to do it."""
        transport = self._transport
        sock = transport.get_extra_info("socket")
        with suppress(OSError, AttributeError):  # another kind of loop may have other names for these
            inner = transport
            if transport.get_extra_info("sslcontext") is not None:
                transport._closed, inner = True, transport._ssl_protocol._transport
            inner._closing, inner._sock = True, None
            sock._sock.close()  # asyncio's view of a socket can not close it
        self._connection._reader = self._connection._writer = None  # last: the writer warns of a transport that is not closing
