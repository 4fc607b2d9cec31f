"""Failover: a replica takes over that never received what was acknowledged, and nobody serves what that had ended.

Two servers, one following the other through a proxy that cuts (`Proxy`): stopping the replica's process would lose nothing, because the
socket's buffer still delivers. Three workers reach the master through another proxy, which leads to the replica after the failover.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any, cast

import pytest

from cachesync.core.names import Names
from cachesync.core.records import TAG, Targets
from cachesync.core.steps import Ticket
from cachesync.core.tickets import Tickets
from support.nodes import COLOURS, KINDS, until
from support.proxy import Proxy
from support.servers import Server
from support.worker import Worker, change, each_colour, follows, is_deaf, is_told

MAX_LAG = 2.0
OPTIONS = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")


class Way(Proxy):
    """A proxy that can be led to another server."""

    def lead_to(self, server: Server) -> None:
        self._target = ("127.0.0.1", server.port)
        self.cut()


class Replicated:
    """A master, a replica that follows it through ``link``, and ``front``, through which everybody else reaches the master."""

    def __init__(self, master: Server, replica: Server) -> None:
        self.master = master
        self.replica = replica
        self._clients = {server: server.client() for server in (master, replica)}
        self.link = Way("127.0.0.1", master.port)
        self.front = Way("127.0.0.1", master.port)

    def follow(self) -> None:
        """The replica follows the master, and has all of it."""
        self.link.lead_to(self.master)
        self.link.admit()
        self._clients[self.replica].replicaof("127.0.0.1", self.link.port)
        until(self.is_in_step, "replicating")

    def is_in_step(self) -> bool:
        info = self._clients[self.replica].info("replication")
        client = self._clients[self.master]
        client.set("in-step", secrets.token_hex())  # WAIT waits for what its own connection has written
        return info["role"] == "slave" and info["master_link_status"] == "up" and client.wait(1, 1000) == 1

    def cut(self) -> None:
        """The replica hears of nothing any more, and the master does not know."""
        self.link.refuse()

    def promote(self) -> None:
        """The replica takes over, with what it has."""
        self._clients[self.replica].replicaof("NO", "ONE")
        self.master, self.replica = self.replica, self.master

    def fail_over(self) -> None:
        """The replica takes over, and everybody is led to it."""
        self.promote()
        self.front.lead_to(self.master)

    def close(self) -> None:
        self.front.close()
        self.link.close()


@pytest.fixture(scope="module")
def lasting() -> Iterator[Replicated]:
    with Server(options=OPTIONS) as master, Server(options=OPTIONS) as replica:
        both = Replicated(master, replica)
        yield both
        both.close()


@pytest.fixture
def servers_of_two(lasting: Replicated) -> Iterator[Replicated]:
    """In step."""
    lasting.front.lead_to(lasting.master)
    lasting.follow()
    yield lasting
    lasting.link.release()
    lasting.front.release()


@pytest.fixture(scope="module")
def long_lived(lasting: Replicated) -> Iterator[tuple[Worker, Worker, Worker]]:
    options: dict[str, Any] = {"max_lag": MAX_LAG, "budget": 5.0, "stale": 60.0}
    with Worker(lasting.front.url, **options) as a, Worker(lasting.front.url, **options) as b, Worker(lasting.front.url, **options) as c:
        yield a, b, c


@pytest.fixture
def workers(long_lived: tuple[Worker, Worker, Worker], servers_of_two: Replicated) -> Iterator[tuple[Worker, Worker, Worker]]:
    """A, B, and C, which has done nothing yet: its first order makes a new process of it, as far as the cache is concerned."""
    yield long_lived
    for worker in long_lived:
        worker.forget()


def records(server: Server, own: str) -> list[dict[str, str]]:
    """The log, as the server has it."""
    found = cast("list[tuple[bytes, dict[bytes, bytes]]]", server.client().xrange(Names.of(own).log))
    return [{name.decode(): value.decode() for name, value in fields.items()} for _, fields in found]


def epoch_of(stamp: str) -> str:
    return stamp.partition(":")[0]


@pytest.mark.parametrize("kind", KINDS)
def test_an_invalidation_that_the_new_master_never_received_holds(
    servers_of_two: Replicated, workers: tuple[Worker, Worker, Worker], namespace: str, kind: str
) -> None:
    """A's invalidation is acknowledged and lost; the entry that it had ended is alive on the new master. It is announced again, once,
    though A and B both hold the record, both say `possible_loss`, and nobody serves the entry, a new process included.
    """
    a, b, c = workers
    two = servers_of_two
    told: dict[str, str] = {}
    for own, colour in each_colour(namespace):
        b.do("apply", own, colour, a.do("invalidate", own, colour, "key as text", 7))
        assert (a.do("read", own, colour, 1), b.do("read", own, colour, 1)) == (1, 1)
    until(two.is_in_step, "replicating")
    two.cut()
    for own, colour in each_colour(namespace):
        change(2, own, colour, a, b, c)
        told[own] = a.do("invalidate", own, colour, kind, 1)
        b.do("apply", own, colour, told[own])
        assert two.replica.client().exists(Names.of(own).entry("item:1")) == 1, "it has heard of nothing"
    two.fail_over()
    for own, colour in each_colour(namespace):
        for worker in (a, b):
            follows(worker, own, colour, after=told[own])
            assert worker.do("log", own, colour)["losses"] == 1
            assert len(worker.do("told", own, colour, "possible_loss")) == 1
        since = records(two.master, own)[1:]
        assert [(record["n"], record["m"]) for record in since] == [("2", "h")], "announced again, and only once"
        assert since[0]["e"] != epoch_of(told[own])
        assert c.do("valid", own, colour, 1) is None
        assert (c.do("read", own, colour, 1), b.do("read", own, colour, 1), a.do("read", own, colour, 1)) == (2, 2, 2)
        assert b.do("at_least", own, colour, told[own], 1) == 2


def test_no_number_is_ever_given_twice(servers_of_two: Replicated, workers: tuple[Worker, Worker, Worker], namespace: str) -> None:
    """Numbers that were lost are given out again, in another epoch: a stamp stands for one invalidation. Within an epoch they go up."""
    a, b, _ = workers
    own, colour = namespace, COLOURS[0]
    stamps = [a.do("invalidate", own, colour, "key as text", number) for number in range(3)]
    until(servers_of_two.is_in_step, "replicating")
    servers_of_two.cut()
    stamps += [a.do("invalidate", own, colour, "key as text", number) for number in range(3, 6)]
    servers_of_two.fail_over()
    stamps += [a.do("invalidate", own, colour, "key as text", number) for number in range(6, 9)]
    stamps += [b.do("invalidate", own, colour, "key as text", 9)]
    assert len(set(stamps)) == len(stamps)
    by_epoch: dict[str, list[int]] = {}
    for stamp in stamps:
        by_epoch.setdefault(epoch_of(stamp), []).append(int(stamp.partition(":")[2]))
    assert len(by_epoch) == 2
    assert all(numbers == sorted(numbers) for numbers in by_epoch.values())
    assert min(list(by_epoch.values())[1]) > 3, "they go on from where the replica had been cut off"


def test_an_older_value_does_not_pass_for_a_newer_one_because_its_number_came_again(
    servers_of_two: Replicated, workers: tuple[Worker, Worker, Worker], namespace: str
) -> None:
    """B computes under the last number of the old master. After the failover that number means something else: B's copy is dead."""
    a, b, _ = workers
    for own, colour in each_colour(namespace):
        a.do("invalidate", own, colour, "key as text", 7)
    until(servers_of_two.is_in_step, "replicating")
    servers_of_two.cut()
    lost: dict[str, str] = {}
    for own, colour in each_colour(namespace):
        lost[own] = a.do("invalidate", own, colour, "key as text", 8)
        b.do("apply", own, colour, lost[own])
        assert b.do("read", own, colour, 1) == 1
        change(2, own, colour, a, b)
    servers_of_two.fail_over()
    for own, colour in each_colour(namespace):
        assert a.do("invalidate", own, colour, "tag of the policy", 1) != lost[own]
        follows(b, own, colour, after=lost[own])
        assert b.do("read", own, colour, 1) == 2


def test_a_failover_that_loses_nothing_costs_no_copy(
    servers_of_two: Replicated, workers: tuple[Worker, Worker, Worker], namespace: str
) -> None:
    """The replica had everything: what the processes hold is still fresh, and nothing is announced again."""
    a, b, _ = workers
    stamps: dict[str, str] = {}
    for own, colour in each_colour(namespace):
        stamps[own] = a.do("invalidate", own, colour, "key as text", 7)
        for worker in (a, b):
            worker.do("apply", own, colour, stamps[own])
            assert worker.do("many", own, colour, 1, 6) == [1] * 5
    until(servers_of_two.is_in_step, "replicating")
    servers_of_two.fail_over()
    for own, colour in each_colour(namespace):
        for worker in (a, b):
            follows(worker, own, colour, after=stamps[own])
            computed, hits = worker.do("computations", own, colour), worker.do("local_hits", own, colour)
            assert worker.do("many", own, colour, 1, 6) == [1] * 5
            assert worker.do("local_hits", own, colour) == hits + 5
            assert worker.do("computations", own, colour) == computed
            assert worker.do("told", own, colour, "possible_loss") == []
        assert len(records(servers_of_two.master, own)) == 1


@pytest.mark.parametrize("first", ["again", "new"])
def test_what_is_said_again_never_takes_the_place_of_what_is_new(first: str) -> None:
    """Both name the same, and both wait: what is said again may be known already and swallowed, so the one that is left is a new one."""
    tickets, targets = Tickets(), (Targets(TAG, ("t",)),)
    again, new = Ticket(targets, ("a0",), "me", None, again=True), Ticket(targets, ("b0",), "me")
    for ticket in (again, new) if first == "again" else (new, again):
        tickets.add(ticket, 0.0)
        tickets.queue(ticket)
    [left] = tickets.queued
    assert not left.again


def test_a_server_that_is_promoted_again_is_another_one(
    servers_of_two: Replicated, workers: tuple[Worker, Worker, Worker], namespace: str
) -> None:
    """There and back, with an invalidation lost each time. The second failover brings the first server, as the same process."""
    a, b, c = workers
    two, told = servers_of_two, dict[str, str]()
    for own, colour in each_colour(namespace):
        assert (a.do("read", own, colour, 1), b.do("read", own, colour, 1)) == (1, 1)
    for version in (2, 3):
        until(two.is_in_step, "replicating")
        two.cut()
        for own, colour in each_colour(namespace):
            change(version, own, colour, a, b, c)
            told[own] = a.do("invalidate", own, colour, "tag of the policy", 1)
        two.fail_over()
        for own, colour in each_colour(namespace):
            follows(a, own, colour, after=told[own])
            follows(b, own, colour, after=told[own])
            b.do("apply", own, colour, f"{records(two.master, own)[-1]['e']}:{records(two.master, own)[-1]['n']}")
            assert (b.do("read", own, colour, 1), a.do("read", own, colour, 1)) == (version, version)
        two.follow()
    for own, colour in each_colour(namespace):
        assert c.do("read", own, colour, 1) == 3
        assert a.do("log", own, colour)["losses"] == 2


def test_what_a_lost_soft_invalidation_and_a_lost_set_said_is_said_again(
    servers_of_two: Replicated, workers: tuple[Worker, Worker, Worker], namespace: str
) -> None:
    """The soft one as a soft one: the old value may still be served stale. The set's value is gone with the old master, and so is what
    stood there before it.
    """
    a, b, c = workers
    told: dict[str, str] = {}
    for own, colour in each_colour(namespace):
        b.do("apply", own, colour, a.do("invalidate", own, colour, "key as text", 7))
        assert [worker.do("read", own, colour, number) for worker in (a, b) for number in (1, 2)] == [1] * 4
    until(servers_of_two.is_in_step, "replicating")
    servers_of_two.cut()
    for own, colour in each_colour(namespace):
        change(2, own, colour, a, b, c)
        a.do("invalidate", own, colour, "tag of the decorator", 1, True)
        told[own] = a.do("set", own, colour, 20, 2)
        b.do("apply", own, colour, told[own])
    servers_of_two.fail_over()
    for own, colour in each_colour(namespace):
        for worker in (a, b):
            follows(worker, own, colour, after=told[own])
        said = [(record["m"], record["k"], record["x"]) for record in records(servers_of_two.master, own)[1:]]
        assert sorted(said) == [("h", "k", '["item:2"]'), ("s", "t", '["owner:1"]')]
        assert c.do("valid", own, colour, 2) is None
        assert c.do("read", own, colour, 2) == 2
        assert c.do("peek", own, colour, 1) in (None, [1, True, "shared"]), "never fresh"


def test_a_computation_under_way_during_a_failover_does_not_bring_back_what_was_invalidated(
    servers_of_two: Replicated, workers: tuple[Worker, Worker, Worker], namespace: str
) -> None:
    """C computes, A invalidates and is lost. The new master holds C's lease still, and lets it store; what was announced again ends it."""
    a, _, c = workers
    told: dict[str, str] = {}
    for own, colour in each_colour(namespace):
        c.do("apply", own, colour, a.do("invalidate", own, colour, "key as text", 7))
        c.do("hold", own, colour)
    held = {own: c.order("read", own, colour, 1) for own, colour in each_colour(namespace)}
    for own, colour in each_colour(namespace):
        c.do("wait", own, colour)
    until(servers_of_two.is_in_step, "replicating")
    servers_of_two.cut()
    for own, colour in each_colour(namespace):
        change(2, own, colour, a, c)
        told[own] = a.do("invalidate", own, colour, "key as text", 1)
    servers_of_two.fail_over()
    for own, colour in each_colour(namespace):
        c.do("open", own, colour)
        assert held[own].result() == 1
        follows(a, own, colour, after=told[own])
        assert a.do("read", own, colour, 1) == 2
        last = records(servers_of_two.master, own)[-1]
        c.do("apply", own, colour, f"{last['e']}:{last['n']}")
        assert c.do("read", own, colour, 1) == 2


def test_a_demoted_master_that_still_answers_is_not_believed_for_long(
    servers_of_two: Replicated, workers: tuple[Worker, Worker, Worker], namespace: str
) -> None:
    """B's network still leads to the old master, which has been told to follow a host that says nothing. It answers B's questions, and
    its subscription is alive: after ``max_lag`` B's copies are not fresh all the same, because only a master proves contact.
    """
    _, _, c = workers
    two = servers_of_two
    with Proxy("127.0.0.1", two.replica.port) as hole, Worker(f"redis://127.0.0.1:{two.master.port}/0", max_lag=MAX_LAG, budget=0.5) as b:
        hole.hold()
        for own, colour in each_colour(namespace):
            b.do("apply", own, colour, c.do("invalidate", own, colour, "key as text", 7))
            assert (b.do("read", own, colour, 1), c.do("read", own, colour, 1)) == (1, 1)
        until(two.is_in_step, "replicating")
        two.fail_over()
        two.replica.client().replicaof("127.0.0.1", hole.port)
        for own, colour in each_colour(namespace):
            change(2, own, colour, b, c)
            c.do("invalidate", own, colour, "tag of the policy", 1)
        for own, colour in each_colour(namespace):
            is_deaf(b, own, colour)
            assert two.replica.client().exists(Names.of(own).entry("item:1")) == 1
            assert b.do("read", own, colour, 1) == 2, "computed: neither the copy nor the old master's entry is fresh"
            assert b.do("peek", own, colour, 1) is None
            is_told(b, own, colour, "log_silent")


# --- durable ----------------------------------------------------------------------------------------------------------------------


def test_a_durable_invalidation_waits_for_a_replica(servers_of_two: Replicated, namespace: str) -> None:
    """With one that confirms, it is silent. With one that does not, the stamp is acknowledged all the same, and an event says so."""
    with Worker(servers_of_two.front.url, durable=2_000) as a:
        for own, colour in each_colour(namespace):
            a.do("invalidate", own, colour, "key as text", 1)
            assert a.do("told", own, colour, "not_durable") == []
    servers_of_two.link.hold()
    with Worker(servers_of_two.front.url, durable=50) as b:
        for own, colour in each_colour(namespace):
            stamp = b.do("invalidate", own, colour, "key as text", 1)
            told = b.do("told", own, colour, "not_durable")
            assert [event["stamp"] for event in told] == [stamp]


def test_a_durable_invalidation_without_any_replica_says_so(server: Server, namespace: str) -> None:
    """It is in the log, and only there."""
    with Worker(server.url, durable=20) as a, Worker(server.url) as b:
        for own, colour in each_colour(namespace):
            assert b.do("read", own, colour, 1) == 1
            change(2, own, colour, b)
            stamp = a.do("invalidate", own, colour, "key as text", 1)
            assert len(a.do("told", own, colour, "not_durable")) == 1
            b.do("apply", own, colour, stamp)
            assert b.do("read", own, colour, 1) == 2


def test_what_a_durable_invalidation_was_confirmed_for_survives_a_failover(
    servers_of_two: Replicated, workers: tuple[Worker, Worker, Worker], namespace: str
) -> None:
    """The replica has it, so there is nothing to lose."""
    _, b, c = workers
    told: dict[str, str] = {}
    with Worker(servers_of_two.front.url, durable=2_000) as a:
        for own, colour in each_colour(namespace):
            assert b.do("read", own, colour, 1) == 1
            change(2, own, colour, b, c)
            told[own] = a.do("invalidate", own, colour, "tag of the policy", 1)
            assert a.do("told", own, colour, "not_durable") == []
        servers_of_two.cut()
    servers_of_two.fail_over()
    for own, colour in each_colour(namespace):
        assert c.do("valid", own, colour, 1) is None
        assert (c.do("read", own, colour, 1), b.do("read", own, colour, 1)) == (2, 2)
        assert b.do("told", own, colour, "possible_loss") == []
