"""Routes: where a connection to Redis leads, and whether it still leads to the master.

A URL of a server leads there for ever. One of sentinels leads to whomever they call the master when a connection is opened; as soon as
any connection of this process finds another one, those to the old one are of no use any more: it may be alive, and wrong.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Final, Protocol

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.retry import Retry

from cachesync.core.redis_url import SentinelUrl, is_sentinel_url, read_sentinel_url
from cachesync.errors import PolicyError
from cachesync.layers.one_question import OneQuestion
from cachesync.layers.redis_line import PROTOCOL, PUSHES, TROUBLE, Address, connect, maker, reader
from cachesync.layers.redis_wire import WireError, pack_all

SENTINEL_PATIENCE: Final = 0.5
"""Seconds a sentinel may take to answer before the next one is asked."""
LOOK_EVERY: Final = 2.0
"""Seconds after which a process that hears the log asks the sentinels again: a master that was deposed may not know it."""
_DEMOTED: Final = ("READONLY", "MASTERDOWN")


class Guide(Protocol):
    """Says which connections are of no use any more."""

    @property
    def follows(self) -> bool:
        """Whether a new connection leads elsewhere when there is another master."""
        ...

    def is_over(self, address: Address, replies: Sequence[Any] = ()) -> bool:
        """Whether a connection that leads there is of no use any more, and neither is what it has replied."""
        ...

    def look(self) -> None:
        """Find out in the background whether there is another master, if that is due."""
        ...


class Route(Guide, Protocol):
    """Makes connections that are not open yet, for ``def``, ``async def`` and the ear."""

    def connection(self) -> Any:
        """Of redis-py, for threads."""
        ...

    def aconnection(self) -> Any:
        """Of redis-py, for event loops."""
        ...

    def ear(self) -> Any:
        """Of redis-py, one that reads pushes."""
        ...

    def after_fork(self) -> None:
        """In a forked child: the threads of the parent are not here."""
        ...


def route_to(url: str) -> Route:
    """The route that a URL means. Raises ``PolicyError``."""
    return SentinelRoute(url) if is_sentinel_url(url) else DirectRoute(url)


class DirectRoute:
    """To one server."""

    @property
    def follows(self) -> bool:
        return False

    def __init__(self, url: str) -> None:
        self.connection = maker(redis.ConnectionPool, url)
        self.aconnection = maker(redis.asyncio.ConnectionPool, url)
        self.ear = maker(redis.ConnectionPool, url, PUSHES)

    def is_over(self, address: Address, replies: Sequence[Any] = ()) -> bool:
        return False

    def look(self) -> None:
        pass

    def after_fork(self) -> None:
        pass


class SentinelRoute:
    """To the master of a service, by the word of its sentinels. They are asked whenever a connection is opened, by one thread for all."""

    @property
    def follows(self) -> bool:
        return True

    def __init__(self, url: str) -> None:
        try:
            read: SentinelUrl = read_sentinel_url(url)
        except ValueError as error:
            raise PolicyError(f"redis.url: {error}") from None
        self.service = read.service
        self.master: Address | None = None
        self._command = pack_all([(b"SENTINEL", b"MASTER", read.service)])
        make, options = reader(redis.ConnectionPool, read.sentinel, PROTOCOL)
        self._sentinels = [_Sentinel(host, port, make, options) for host, port in read.sentinels]  # who answered last comes first
        self._question = OneQuestion("cachesync-sentinels", self._ask)
        self.connection = self._maker(redis.ConnectionPool, read.master, PROTOCOL)
        self.aconnection = self._maker(redis.asyncio.ConnectionPool, read.master, PROTOCOL)
        self.ear = self._maker(redis.ConnectionPool, read.master, PUSHES)

    def _maker(self, pool: Any, url: str, protocol: int) -> Callable[[], Any]:
        _, options = reader(pool, url, protocol)
        has_tls = url.startswith("rediss")
        led: Any
        if pool is redis.ConnectionPool:
            led = redis.sentinel.SentinelManagedSSLConnection if has_tls else redis.sentinel.SentinelManagedConnection
            options |= {"connection_pool": _Leading(self), "retry": Retry(NoBackoff(), 0)}
        else:
            led = redis.asyncio.sentinel.SentinelManagedSSLConnection if has_tls else redis.asyncio.sentinel.SentinelManagedConnection
            options |= {"connection_pool": _AsyncLeading(self), "retry": AsyncRetry(NoBackoff(), 0)}
        return lambda: led(**options)

    def is_over(self, address: Address, replies: Sequence[Any] = ()) -> bool:
        is_demoted = any(reply.__class__ is ResponseError and str(reply).startswith(_DEMOTED) for reply in replies)
        return is_demoted or (self.master is not None and address != self.master)

    def look(self) -> None:
        if self._question.age >= LOOK_EVERY:
            self.find()

    def find(self) -> Future[Address]:
        """Ask the sentinels."""
        return self._question.asked()

    def _ask(self) -> Address:
        reasons: list[str] = []
        for sentinel in tuple(self._sentinels):
            try:
                address = _master_of(sentinel.ask(self._command))
            except TROUBLE as error:
                reasons.append(f"{sentinel}: {str(error) or type(error).__name__}")
                continue
            self._sentinels.remove(sentinel)
            self._sentinels.insert(0, sentinel)
            self.master = address
            return address
        raise RedisConnectionError(f"no sentinel leads to a master of {self.service!r}: {'; '.join(reasons)}")

    def after_fork(self) -> None:
        self._question.after_fork()


class _Sentinel:
    """One sentinel. It is spoken to so seldom that no connection is kept."""

    def __init__(self, host: str, port: int, make: Callable[..., Any], options: dict[str, Any]) -> None:
        self._make = lambda: make(**(options | {"host": host, "port": port}))
        self._address = f"{host}:{port}"

    def ask(self, command: bytes) -> Any:
        until = time.monotonic() + SENTINEL_PATIENCE
        line = connect(self._make, until)
        try:
            return line.say(command, 1, until)[0]
        finally:
            line.close()

    def __str__(self) -> str:
        return self._address


def _master_of(state: Any) -> Address:
    """Where the master is. Raises redis-py's errors or ``WireError`` where the sentinel knows none, or one that is down."""
    if isinstance(state, ResponseError):
        raise state
    try:
        told = dict(zip(state[::2], state[1::2], strict=True))
        flags: list[bytes] = told[b"flags"].split(b",")
        address = told[b"ip"].decode("ascii"), int(told[b"port"])
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise WireError(f"its answer can not be read: {error!r}") from error
    if b"master" not in flags or b"s_down" in flags or b"o_down" in flags:
        raise RedisConnectionError("the master is down, and no other one has been chosen yet")
    return address


class _Leading:
    """What redis-py's connections that are led by sentinels ask of their pool."""

    is_master: Final = True
    check_connection: Final = False

    def __init__(self, route: SentinelRoute) -> None:
        self._route = route
        self.service_name = route.service

    def get_master_address(self) -> Address:
        return self._route.find().result()


class _AsyncLeading:
    """The same in an event loop."""

    is_master: Final = True
    check_connection: Final = False

    def __init__(self, route: SentinelRoute) -> None:
        self._route = route
        self.service_name = route.service

    async def get_master_address(self) -> Address:
        return await asyncio.wrap_future(self._route.find())
