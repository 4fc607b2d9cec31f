"""A master, a replica and three sentinels that watch them: real processes, for one test module.

::

    with Watched() as watched:
        url = watched.url
        watched.master.kill()
        watched.has_failed_over()      # waits until the sentinels lead to the replica

The replica follows the master through ``link``, a proxy that can be cut, so that a failover loses what was acknowledged meanwhile.
"""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Any, Final, Self

from support.nodes import until
from support.proxy import Proxy
from support.servers import Server

SERVICE: Final = "shop"
DOWN_AFTER: Final = 2_000
"""Milliseconds of silence after which a sentinel takes a server for dead. Where nothing is to fail over: `NEVER_DOWN`."""
NEVER_DOWN: Final = 600_000
PERIODS: Final = {"info-period": 500, "ask-period": 200, "publish-period": 200, "tilt-trigger": 60_000}
"""Milliseconds. A sentinel looks around more often than usual, so that tests do not wait for it; and it goes on where the machine stands
still for a moment: usually it trusts nobody then for half a minute (TILT)."""
OPTIONS: Final = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
QUORUM: Final = 2


class Sentinel(Server):
    """One sentinel. ``watches`` is the port of the master that it is told of when it starts."""

    def __init__(self, watches: int, down_after: int = DOWN_AFTER) -> None:
        super().__init__()
        config = self.folder / "sentinel.conf"  # it writes down there what it learns
        lines = [
            f"sentinel monitor {SERVICE} 127.0.0.1 {watches} {QUORUM}",
            f"sentinel down-after-milliseconds {SERVICE} {down_after}",
            # Long, because after this time without trouble a sentinel has the replica follow the master's own address again.
            f"sentinel failover-timeout {SERVICE} 60000",
            f"sentinel parallel-syncs {SERVICE} 1",
        ]
        config.write_text("\n".join(lines) + "\n")
        self._config = config

    def arguments(self, port: int) -> list[str]:
        return [str(self._config), "--sentinel", "--port", str(port), "--bind", "127.0.0.1", "--logfile", str(self.log)]

    def start(self) -> Self:
        super().start()
        client: Any = self.client()
        client.execute_command("SENTINEL", "DEBUG", *(word for period in PERIODS.items() for word in period))
        return self

    def state(self) -> dict[str, str]:
        """What it knows of the master."""
        client: Any = self.client(protocol=3)
        told: dict[bytes, bytes] = client.execute_command("SENTINEL", "MASTER", SERVICE)
        return {name.decode(): value.decode() for name, value in told.items()}


class Watched:
    """The servers. ``replica`` is the one that is to take over; after `has_failed_over` it is the ``master``."""

    def __init__(self, sentinels: int = 3, *, down_after: int = DOWN_AFTER) -> None:
        self.master = Server(options=OPTIONS)
        self.replica = Server(options=OPTIONS)
        self.sentinels: list[Sentinel] = []
        self.link: Proxy
        self._count = sentinels
        self._down_after = down_after
        self._stack = contextlib.ExitStack()

    @property
    def url(self) -> str:
        """As a user would write it."""
        return f"redis+sentinel://{','.join(f'127.0.0.1:{one.port}' for one in self.sentinels)}/{SERVICE}/0"

    def is_in_step(self) -> bool:
        """Whether the replica has all that the master has."""
        client = self.master.client()
        client.set("in-step", "1")
        return self.replica.client().info("replication")["master_link_status"] == "up" and client.wait(1, 1000) == 1

    def has_failed_over(self) -> None:
        """Wait until the sentinels lead to the other server, and it is a master."""
        self.master, self.replica = self.replica, self.master
        until(lambda: all(one.state()["port"] == str(self.master.port) for one in self.sentinels), "the sentinels' failover")
        until(lambda: self.master.client().info("replication")["role"] == "master", "promoting")

    def is_ready(self) -> bool:
        states = [one.state() for one in self.sentinels]
        return all(
            (state["num-slaves"], state["num-other-sentinels"], state["flags"]) == ("1", str(self._count - 1), "master") for state in states
        )

    def __enter__(self) -> Self:
        for server in (self.master, self.replica):
            self._stack.enter_context(server)
        self.link = self._stack.enter_context(Proxy("127.0.0.1", self.master.port))
        self.replica.client().replicaof("127.0.0.1", self.link.port)
        until(self.is_in_step, "replicating")
        for _ in range(self._count):
            self.sentinels.append(self._stack.enter_context(Sentinel(self.master.port, self._down_after)))
        until(self.is_ready, "the sentinels find each other and the replica")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()
