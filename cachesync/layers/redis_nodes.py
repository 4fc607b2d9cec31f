"""The nodes of a cluster: each is spoken to as a single server is, and one that fails is left alone while the others are asked.

A step that would ask a node which is left alone has failed at once, as far as that node goes. After its rest one question in the
background finds out whether it is back, so that no caller waits for it again. The node of the log is never left alone here: without it
nothing can be judged, so its failure is that of the whole layer, which the cache's own breaker answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from cachesync.layers.breaker import Breaker
from cachesync.layers.forks import lock_across_forks
from cachesync.layers.one_question import OneQuestion
from cachesync.layers.redis import RedisShared
from cachesync.layers.redis_line import TROUBLE, Address, OutOfTimeError, reason_of
from cachesync.layers.redis_wire import Bounds, WireError


class LeftAloneError(TimeoutError):
    """A node is not asked for a while, because it has failed."""

    def __init__(self, trouble: str) -> None:
        super().__init__()
        self.reason = f"{trouble}; it is left alone for a while"


class NodeError(RedisError):
    """One node could not be asked, or did not answer. What lies on the others is not concerned.

    ``part`` is its ``host:port``, empty where nobody was asked.
    """

    def __init__(self, address: Address, error: BaseException) -> None:
        place = place_of(address)
        self.part = "" if isinstance(error, OutOfTimeError) else place
        super().__init__(f"{place}: {_told(error)}")


class UnservedError(RedisConnectionError):
    """No node serves a slot that is needed. ``part`` is ``None`` for that of the log, else empty: the others are not concerned."""

    def __init__(self, part: str | None) -> None:
        super().__init__("no node serves a slot that is needed")
        self.part = part


def _told(error: BaseException) -> str:
    """What is told of an error, without what a server has sent."""
    return "what was sent can not be read" if isinstance(error, WireError) else reason_of(error)


def place_of(address: Address) -> str:
    """``host:port``, as it stands in a url."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class ClusterNode(RedisShared):
    """One node, spoken to by commands that somebody else has chosen. ``ask`` asks it something small, and raises if it does not answer.

    ``patience`` is how long that may take, seconds.
    """

    def __init__(self, url: str, *, namespace: str, max_connections: int, bounds: Bounds, ask: Callable[[], Any], patience: float) -> None:
        super().__init__(url, namespace=namespace, max_connections=max_connections, bounds=bounds)
        self.breaker = Breaker(time.monotonic, lock_across_forks(), patience)
        self.breaker.is_tried = True
        self.trouble = ""
        """What it has failed with."""
        self._ask = ask
        self._question = OneQuestion("cachesync-node", self._try)

    def is_left_alone(self) -> bool:
        """Whether nobody asks it now. Where its rest is over, that begins its being tried."""
        if not self.breaker.is_open:
            return False
        if self.breaker.may_try():
            self._question.asked()
        return True

    def _try(self) -> None:
        try:
            self._ask()
        except TROUBLE as error:
            self.failed(error)
        else:
            self.breaker.answered()

    def failed(self, error: BaseException) -> None:
        """It was asked, and did not answer."""
        self.trouble = _told(error)
        self.breaker.failed()

    def exchange(self, packed: bytes, count: int, deadline: float) -> list[Any]:
        """One trip from a thread. Raises ``OSError`` and redis-py's errors; what Redis refused is a value."""
        return self.sync.exchange(packed, count, deadline)

    async def aexchange(self, packed: bytes, count: int) -> list[Any]:
        return await self.of_loop().exchange(packed, count)

    def after_fork(self) -> None:
        super().after_fork()
        self._question.after_fork()
