"""Redis and Valkey as the shared layer, on real servers, and the contract that every shared layer keeps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest

from cachesync.layers.memory import MemoryShared
from cachesync.layers.redis import RedisShared
from cachesync.protocols import Shared
from cachesync.testing import FakeClock, SharedLayerContract
from support.servers import Server


class TestMemory(SharedLayerContract):
    """The layer in this process's memory, with a clock that is moved by hand."""

    clock: FakeClock

    def make_shared(self) -> Shared:
        self.clock = FakeClock()
        return MemoryShared(self.clock.monotonic)

    def lose_everything(self, shared: Shared) -> None:
        cast("MemoryShared", shared).flush()

    def pass_time(self, shared: Shared, seconds: float) -> None:
        self.clock.advance(seconds)


class TestMemoryAsync(TestMemory):
    colour = "async def"


class TestRedis(SharedLayerContract):
    """Redis and Valkey, each server in turn."""

    server: Server
    namespace: str

    @pytest.fixture(autouse=True)
    def _connect(self, every_server: Server, namespace: str) -> None:
        self.server, self.namespace = every_server, namespace

    def make_shared(self) -> Shared:
        return RedisShared(self.server.url, namespace=self.namespace)

    def lose_everything(self, shared: Shared) -> None:
        client = self.server.client()
        for name in cast("Iterator[bytes]", client.scan_iter(match=f"*{self.namespace}*", count=1_000)):
            client.delete(name)


class TestRedisAsync(TestRedis):
    colour = "async def"
