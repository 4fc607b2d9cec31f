"""The servers of a shared layer, each asked by hand: for those who look into a running system, not for caches.

A single server is one place, and so is the master that sentinels lead to; a cluster has one for each master.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from cachesync.errors import LayerError
from cachesync.layers.redis import RedisShared
from cachesync.layers.redis_cluster import ClusterShared
from cachesync.layers.redis_line import TROUBLE, Address, reason_of
from cachesync.layers.redis_nodes import place_of
from cachesync.layers.redis_wire import Command, pack_all

PATIENCE: Final = 3.0
"""Seconds an answer may take."""


class _Exchange(Protocol):
    def exchange(self, packed: bytes, count: int, deadline: float) -> list[Any]:
        """One trip. What Redis refused is a value."""
        ...


class Place:
    """One server. ``name`` is its ``host:port`` in a cluster, else empty: then the url says where it is.

    ``serves`` says whether a key with this name lies there.
    """

    def __init__(self, name: str, connections: _Exchange, serves: Callable[[bytes], bool]) -> None:
        self.name = name
        self.serves = serves
        self._connections = connections

    def try_all(self, commands: Sequence[Command]) -> list[Any]:
        """Ask everything in one trip. What was refused is a ``ResponseError`` among the replies. Raises ``LayerError``."""
        if not commands:
            return []
        try:
            return self._connections.exchange(pack_all(commands), len(commands), time.monotonic() + PATIENCE)
        except TROUBLE as error:
            raise LayerError(self._told(error)) from error

    def ask(self, *commands: Command) -> list[Any]:
        """The same where nothing may be refused. Raises ``LayerError``."""
        return [self.allowed(reply) for reply in self.try_all(commands)]

    def allowed(self, reply: Any) -> Any:
        """The reply, unless it is a refusal, which is raised as ``LayerError``."""
        if isinstance(reply, ResponseError):
            raise LayerError(self._told(reply)) from reply
        return reply

    def _told(self, error: BaseException) -> str:
        return f"{self.name}: {reason_of(error)}" if self.name else reason_of(error)


def places_of(shared: RedisShared | ClusterShared) -> tuple[Place, ...]:
    """Every server, the one that has the log first. Raises ``LayerError`` where a cluster does not say who they are."""
    if isinstance(shared, RedisShared):
        return (Place("", shared.sync, lambda _: True),)
    try:
        shared.slots.refresh().result(PATIENCE)
        owner = shared.log_owner()
        if owner is None:
            raise RedisConnectionError("no node serves the slot of the log")
    except TROUBLE as error:
        raise LayerError(reason_of(error)) from error
    slots = shared.slots

    def place(address: Address) -> Place:
        return Place(place_of(address), shared.node(address).sync, lambda name: slots.owner(key_slot(name)) == address)

    others = [address for address in shared.slots.masters() if address != owner]
    return tuple(map(place, (owner, *others)))


def server_info(place: Place) -> dict[str, str]:
    """What the server says of itself (``INFO``), by name. Raises ``LayerError``."""
    [text] = place.ask((b"INFO",))
    lines = text.decode("utf-8", "replace").split("\r\n")
    return {name: value for name, mark, value in (line.partition(":") for line in lines) if mark}
