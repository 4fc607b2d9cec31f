"""A Redis Cluster of real processes: masters, a replica for each, and what moves slots between them.

::

    with Cluster() as cluster:
        url = cluster.url
        cluster.move(slot, cluster.masters[0], cluster.masters[1])
        cluster.fail_over(cluster.masters[2])      # kill it, and wait until its replica has taken over
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

import redis

from support.nodes import until
from support.servers import Server, free_port, is_free

SLOTS: Final = 16_384
NODE_TIMEOUT: Final = 2_000
"""Milliseconds after which a node that says nothing is taken for dead. Where nothing is to fail over: `NEVER_DEAD`."""
NEVER_DEAD: Final = 600_000


class Node(Server):
    """One node. Its bus has a port of its own, because the usual one is 10,000 higher and may not exist."""

    def __init__(self, flavour: str = "valkey9", timeout: int = NODE_TIMEOUT) -> None:
        self.bus = 0
        options = ("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", str(timeout))
        more = ["--repl-diskless-sync-delay", "0", "--cluster-replica-validity-factor", "0"]
        super().__init__(flavour, options=(*options, *more))
        if flavour == "redis6":  # its bus is where it always is
            while self.bus > 65_535 or not self.port or not is_free(self.bus):
                self.port = free_port()
                self.bus = self.port + 10_000

    def arguments(self, port: int) -> list[str]:
        if self.flavour == "redis6":
            return super().arguments(port)
        if not self.port:  # each try takes another one: somebody else may have been quicker
            self.bus = free_port()
        return [*super().arguments(port), "--cluster-port", str(self.bus)]

    def do(self, *command: Any) -> Any:
        client: Any = self.client(decode_responses=True)
        try:
            return client.execute_command(*command)
        finally:
            client.close()

    @property
    def id(self) -> str:
        text: str = self.do("CLUSTER", "MYID")
        return text

    def info(self) -> dict[str, str]:
        client: Any = self.client(decode_responses=True)
        told: dict[str, str] = client.cluster("INFO")
        return told

    def knows(self, node: str) -> bool:
        """Whether it has met a node, by its id."""
        return node in str(self.do("CLUSTER", "NODES"))

    def reaches(self, nodes: int) -> bool:
        """Whether it has a link to so many nodes: what is published here is lost to those that it has none to."""
        known = [line.split() for line in str(self.do("CLUSTER", "NODES")).splitlines()]
        return len(known) == nodes and all(node[7] == "connected" and "handshake" not in node[2] for node in known)

    @property
    def is_master(self) -> bool:
        client: Any = self.client()
        return bool(client.info("replication")["role"] == "master")


class Cluster:
    """``masters`` serve a third of the slots each; ``replicas`` stand in the same order."""

    def __init__(self, masters: int = 3, *, flavour: str = "valkey9", timeout: int = NODE_TIMEOUT) -> None:
        self.masters = [Node(flavour, timeout) for _ in range(masters)]
        self.replicas = [Node(flavour, timeout) for _ in range(masters)]
        self._stack = contextlib.ExitStack()

    @property
    def nodes(self) -> list[Node]:
        return [*self.masters, *self.replicas]

    @property
    def url(self) -> str:
        """As a user would write it."""
        return f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in self.nodes)}"

    def client(self) -> Any:
        """redis-py's client of a cluster."""
        return redis.RedisCluster(host="127.0.0.1", port=self.masters[0].port)

    def master_of(self, slot: int) -> Node:
        for first, last, owner, *_ in self._slots():
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == int(owner[1]))
        raise LookupError(slot)

    def _slots(self) -> Iterable[Any]:
        alive = next(node for node in self.nodes if node.is_running and not node.is_frozen)
        client: Any = redis.Redis(port=alive.port, protocol=2)
        try:
            client.response_callbacks.clear()
            return list(client.execute_command("CLUSTER", "SLOTS"))
        finally:
            client.close()

    def move(self, slot: int, to: Node, *, every: int = 10) -> None:
        """Hand a slot over, key by key, as ``redis-cli --cluster reshard`` does."""
        source = self.master_of(slot)
        to.do("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.do("CLUSTER", "SETSLOT", slot, "MIGRATING", to.id)
        while keys := source.do("CLUSTER", "GETKEYSINSLOT", slot, every):
            source.do("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)
        for node in (to, source, *(other for other in self.masters if other not in (to, source))):
            node.do("CLUSTER", "SETSLOT", slot, "NODE", to.id)

    def fail_over(self, master: Node) -> None:
        """Kill a master, and wait until its replica serves its slots."""
        at = self.masters.index(master)
        master.kill()
        heir = self.replicas[at]
        until(lambda: heir.is_master, "a replica takes over")
        self.masters[at], self.replicas[at] = heir, master
        alive = [node for node in self.nodes if node.is_running]
        until(lambda: all(node.info()["cluster_state"] == "ok" for node in alive), "the cluster is whole again")

    def is_in_step(self) -> bool:
        """Whether the replicas have all that their masters have."""
        for master, replica in zip(self.masters, self.replicas, strict=True):
            ours: Any = master.client()
            theirs: Any = replica.client()
            info = theirs.info("replication")
            if info["role"] != "slave" or info["master_link_status"] != "up":
                return False
            if info["slave_repl_offset"] < ours.info("replication")["master_repl_offset"]:
                return False
        return True

    def __enter__(self) -> Self:
        for node in self.nodes:
            self._stack.enter_context(node)
        first = self.masters[0]
        share = SLOTS // len(self.masters)
        for at, node in enumerate(self.masters):
            last = SLOTS - 1 if at == len(self.masters) - 1 else (at + 1) * share - 1
            node.do("CLUSTER", "ADDSLOTS", *range(at * share, last + 1))  # ADDSLOTSRANGE is of Redis 7
            node.do("CLUSTER", "SET-CONFIG-EPOCH", at + 1)
        for node in self.nodes[1:]:
            first.do("CLUSTER", "MEET", "127.0.0.1", node.port, node.bus)
        until(lambda: all(node.info()["cluster_known_nodes"] == str(len(self.nodes)) for node in self.nodes), "meeting")
        for master, replica in zip(self.masters, self.replicas, strict=True):
            known = master.id
            until(partial(replica.knows, known), "knowing the master")
            replica.do("CLUSTER", "REPLICATE", known)
        until(lambda: all(node.info()["cluster_state"] == "ok" for node in self.nodes), "the cluster is whole")
        until(lambda: all(node.reaches(len(self.nodes)) for node in self.nodes), "links between all nodes")
        until(self.is_in_step, "replicating")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()
