"""Redis Cluster: one cache over several nodes, whose slots move and whose masters die."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot
from redis.exceptions import ResponseError

from cachesync import Cache, Event, Policy, PolicyError, Settings, Stamp
from cachesync.cli import main
from cachesync.core.names import Names
from cachesync.core.records import KEY, Targets
from cachesync.core.redis_url import read_cluster_url
from cachesync.core.settings import CoordinationSettings, RedisSettings
from cachesync.core.stamps import NOWHERE
from cachesync.core.steps import (
    NEVER,
    Announce,
    Announced,
    Beat,
    Confirm,
    Done,
    Failed,
    Fetch,
    Fetched,
    Lease,
    Leased,
    Release,
    Snapshot,
    Store,
    Together,
)
from cachesync.layers import redis_cluster
from cachesync.layers.redis_cluster import (
    ClusterShared,
    Slots,
    _Stage,  # pyright: ignore[reportPrivateUsage] - replies by hand
    stages_of,
)
from cachesync.layers.redis_wire import Bounds, Command
from cachesync.protocols import Shared
from cachesync.testing import SharedLayerContract
from support.clusters import NEVER_DEAD, Cluster
from support.nodes import COLOURS, LONG, Caller, Callers, Colour, HoldingShared, LoopThread, engine_of, until
from support.rights import OLD, listed
from support.servers import flavours
from support.worker import Worker, change, each_colour, follows

OPTIONS: dict[str, Any] = {"max_lag": 2.0, "budget": 5.0}


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no outage."""
    monkeypatch.setattr(redis_cluster, "NODE_PATIENCE", 5.0)


@pytest.fixture(scope="module")
def lasting() -> Iterator[Cluster]:
    """For tests that kill nothing. Slots may have moved."""
    with Cluster(timeout=NEVER_DEAD) as own:
        yield own


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """For this test alone."""
    with Cluster() as own:
        yield own


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    with LoopThread() as running:
        yield running


class TestCluster(SharedLayerContract):
    """The contract of shared layers."""

    @pytest.fixture(autouse=True)
    def _connect(self, lasting: Cluster, namespace: str) -> None:
        self.cluster, self.namespace = lasting, namespace

    def make_shared(self) -> Shared:
        return ClusterShared(self.cluster.url, namespace=self.namespace)

    def lose_everything(self, shared: Shared) -> None:
        for node in self.cluster.masters:
            client: Any = node.client()
            for name in client.keys(f"*{self.namespace}*"):
                client.delete(name)

    @contextmanager
    def cut_off(self, shared: Shared) -> Generator[None, None, None]:
        for node in self.cluster.masters:
            client: Any = node.client()
            client.client_kill_filter(_type="pubsub")
        yield

    def test_ends_of_odd_leases_are_heard(self) -> None:
        """Whoever waits is told for which key. What several nodes say comes in no order."""
        with self.opened() as talk, talk.listening() as heard:
            for key in self.ODD_TEXTS:
                heard.ear.watch(key)
                assert self.lease(talk, key, "mine").granted
            heard.until(lambda: sorted(heard.woken) == sorted(self.ODD_TEXTS))
            for key in self.ODD_TEXTS:
                assert talk.ask(Release(key, "mine"), Done).done
            heard.until(lambda: sorted(heard.woken) == sorted(2 * self.ODD_TEXTS))

    def test_what_is_watched_can_be_let_go(self) -> None:
        """And others be watched. What another node has said before may come after that, and wakes somebody who looks in vain."""
        with self.opened() as talk, talk.listening() as heard:
            for number in range(3):
                let_go, kept = f"a{number}", f"b{number}"
                heard.items.clear()
                heard.ear.watch(let_go)
                heard.ear.watch(kept)
                heard.until(lambda: {let_go, kept} <= set(heard.woken))  # noqa: B023 - it is called in this turn
                heard.ear.unwatch(let_go)
                for key in (let_go, kept):
                    assert self.lease(talk, key, "mine").granted
                    assert talk.ask(Release(key, "mine"), Done).done
                heard.until(lambda: heard.woken.count(kept) == 2)  # noqa: B023
                heard.beat()
                assert heard.woken.count(let_go) == 1
                heard.ear.unwatch(kept)


class TestClusterAsync(TestCluster):
    colour = "async def"


def is_heard(caller: Caller) -> bool:
    return caller.cache.stats().log.is_heard


def performed(shared: ClusterShared, step: Any, colour: Colour) -> Any:
    if colour == "def":
        return shared.sync.perform(step)

    async def ask() -> Any:
        return await shared.of_loop().perform(step)

    return asyncio.run(ask())


def test_what_orders_a_step_is_kept() -> None:
    """Unlinked first, appended second; the head is read before what is judged by it; the role with the head."""
    names = Names.of("ns")
    targets = (Targets(KEY, ("a", "b")),)

    def said(step: Any) -> list[list[str]]:
        return [[str(command[0], "ascii") for command in stage] for stage in stages_of(step, names, Bounds(durable=1))]  # type: ignore[arg-type]

    assert said(Announce(targets, ("n",), "o", ("a", "b"))) == [["UNLINK", "UNLINK"], ["EVALSHA", "WAIT"]]
    assert said(Fetch(("a", "b"))) == [["TIME", "HMGET"], ["GET", "GET"]]
    assert said(Fetch(("a", "b"), strict=True)) == [["TIME", "HMGET", "ROLE"], ["GET", "GET"]]
    assert said(Lease("a", "t", NOWHERE, 1, None)) == [["TIME", "HMGET"], ["EVALSHA"]]


A, B = ("a", 1), ("b", 2)


def slots_of(owners: dict[int, tuple[str, int]]) -> Slots:
    """What a process knows, without a cluster. It learns in the background, where nobody is: that fails."""
    slots = Slots(read_cluster_url("redis+cluster://127.0.0.1:1"))
    for slot, owner in owners.items():
        slots._owners[slot] = owner  # pyright: ignore[reportPrivateUsage]
    return slots


def test_what_is_said_again_takes_along_what_belongs_to_it() -> None:
    """``WAIT`` confirms what was appended on its own connection, ``ROLE`` and ``TIME`` belong to the head: from another node they
    mean nothing.
    """
    log = key_slot(b"{ns}:meta")
    commands: list[Command] = [(b"EVALSHA", b"x", 1, b"{ns}:meta"), (b"WAIT", 1, 10)]
    stage = _Stage(commands, slots_of({log: A}), log)
    assert [(owner, count) for owner, _, count in stage.errands()] == [(A, 2)]
    assert stage.take([[ResponseError(f"MOVED {log} b:2"), 1]]) == (False, 0.0)
    assert stage.left == [0, 1]
    assert [(owner, count) for owner, _, count in stage.errands()] == [(B, 2)]
    stage.take([[ResponseError(f"ASK {log} a:1"), 1]])
    assert [(owner, count) for owner, _, count in stage.errands()] == [(A, 4)], "and ASKING before each"
    stage.take([[b"OK", b"appended", b"OK", 1]])
    assert (stage.left, stage.replies) == ([], [b"appended", 1])


def test_a_reply_of_a_node_that_has_lost_the_slot_meanwhile_is_not_believed() -> None:
    """It may have slept, and woken up as a master."""
    slots = slots_of({5: A})
    key = next(b"k%d" % number for number in range(100_000) if key_slot(b"k%d" % number) == 5)
    stage = _Stage([(b"GET", key)], slots, 7)
    stage.errands()
    slots._owners[5] = B  # pyright: ignore[reportPrivateUsage] - as by another thread
    stage.take([[b"old"]])
    assert [owner for owner, _, _ in stage.errands()] == [B]
    stage.take([[b"new"]])
    assert (stage.left, stage.replies) == ([], [b"new"])


def test_two_nodes_that_name_each_other_are_not_asked_for_ever() -> None:
    """In the end it is a refusal."""
    slots = slots_of({5: A})
    key = next(b"k%d" % number for number in range(100_000) if key_slot(b"k%d" % number) == 5)
    stage = _Stage([(b"GET", key)], slots, 7)
    tries = 0
    while stage.left:
        [(owner, _, _)] = stage.errands()
        stage.take([[ResponseError("MOVED 5 b:2" if owner == A else "MOVED 5 a:1")]])
        tries += 1
    assert tries <= 10
    assert isinstance(stage.replies[0], ResponseError)


# --- slots that move --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", COLOURS)
def test_a_slot_that_has_moved_is_followed(lasting: Cluster, namespace: str, colour: Colour) -> None:
    """MOVED says where it is now."""
    shared = ClusterShared(lasting.url, namespace=namespace)
    names = shared.names
    performed(shared, Snapshot(), colour)
    assert performed(shared, Lease("a", "me1", NOWHERE, 60_000, None), colour).granted
    assert performed(shared, Store("a", "me1", b"cS" + bytes(86), 60_000), colour).done
    slot = key_slot(names.entry("a"))
    source = lasting.master_of(slot)
    lasting.move(slot, next(node for node in lasting.masters if node is not source))
    fetched = performed(shared, Fetch(("a", "b")), colour)
    assert isinstance(fetched, Fetched)
    assert [blob is not None for blob in fetched.blobs] == [True, False]
    asyncio.run(shared.aclose())


@pytest.mark.parametrize("colour", COLOURS)
def test_a_slot_that_is_moving_is_asked_for_where_its_keys_are(lasting: Cluster, namespace: str, colour: Colour) -> None:
    """ASK, for a key that is there already or nowhere. TRYAGAIN, where a lease is here and its entry is not, is a refusal in the end."""
    shared = ClusterShared(lasting.url, namespace=namespace)
    names = shared.names
    performed(shared, Snapshot(), colour)
    performed(shared, Lease("a", "me1", NOWHERE, 60_000, None), colour)
    slot = key_slot(names.entry("a"))
    source = lasting.master_of(slot)
    target = next(node for node in lasting.masters if node is not source)
    target.do("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
    source.do("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
    try:
        assert performed(shared, Fetch(("a",)), colour).blobs == (None,)
        refused = performed(shared, Store("a", "me1", b"cS" + bytes(86), 60_000), colour)
        assert isinstance(refused, Failed)
        assert "TRYAGAIN" in str(refused.error)
        assert getattr(refused.error, "is_refusal", False), "the server answers, so the others need not be left alone"
        source.do("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", names.lease("a").decode())
    finally:
        for node in (target, source, *(other for other in lasting.masters if other not in (source, target))):
            node.do("CLUSTER", "SETSLOT", slot, "NODE", target.id)
    assert performed(shared, Store("a", "me1", b"cS" + bytes(86), 60_000), colour).done
    assert performed(shared, Fetch(("a",)), colour).blobs[0] is not None
    asyncio.run(shared.aclose())


@pytest.mark.parametrize("colour", COLOURS)
def test_everything_is_swept_on_every_master(lasting: Cluster, namespace: str, colour: Colour, loop: LoopThread) -> None:
    """Entries lie on all of them, and a cursor leads through all."""
    callers = Callers(lasting.url, namespace, colour, loop)
    a = callers.new()
    for number in range(60):
        a.get_or_compute(f"k{number}", lambda: 1)
    assert all(node.do("KEYS", f"{namespace}:e:*") for node in lasting.masters)
    a.drop("k*")
    swept = a.do(a.cache.sweep if colour == "def" else a.cache.asweep)
    assert (swept.deleted, swept.unjudged) == (60, 0)
    callers.close()


@pytest.mark.parametrize("colour", COLOURS)
def test_processes_are_one_cache_over_many_nodes(lasting: Cluster, namespace: str, colour: Colour, loop: LoopThread) -> None:
    """Values are shared, invalidations of every kind are heard, and a strict read is confirmed."""
    callers = Callers(lasting.url, namespace, colour, loop)
    a, b = callers.new(), callers.new()
    for number in range(20):
        assert a.get_or_compute(f"k{number}", lambda: 1) == 1
        assert b.get_or_compute(f"k{number}", lambda: 2) == 1
    for what, value in (("k1", 3), ("k*", 4), ("*1", 5), ("*", 6)):
        stamp = a.drop(what)
        assert b.get_or_compute("k1", partial(int, value), at_least=stamp) == value
        callers.apply(stamp)
        assert a.get_or_compute("k1", lambda: 0) == value
    a.put("k1", 7)
    callers.apply(a.stamp())
    assert b.get("k1") == 7
    callers.close()


@pytest.mark.parametrize("flavour", [name for name in flavours() if name != "valkey9"])
def test_other_servers_make_such_a_cluster_too(flavour: str, namespace: str, loop: LoopThread) -> None:
    """Redis 6.2 has no channels of shards: there all nodes are told of everything."""
    with Cluster(1, flavour=flavour, timeout=NEVER_DEAD) as cluster:
        for colour in COLOURS:
            callers = Callers(cluster.url, f"{namespace}{colour[0]}", colour, loop)
            a, b = callers.new(), callers.new()
            assert a.get_or_compute("k", lambda: 1) == b.get_or_compute("k", lambda: 2) == 1
            until(partial(is_heard, b), "hearing the log")
            callers.apply(a.drop("k"))
            assert b.get_or_compute("k", lambda: 3) == 3
            callers.close()


# --- under load, and with masters that die -----------------------------------------------------------------------------------------


class Load:
    """Three processes that change, invalidate and read one function's items, until told to stop. ``broken`` are the promises broken."""

    def __init__(self, workers: list[Worker], own: str, colour: Colour) -> None:
        self.a, self.b, self.c = workers
        self.own = own
        self.colour: Colour = colour
        self.rounds = self.pending = 0
        self.broken: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        own, colour = self.own, self.colour
        version = 1
        kinds: tuple[tuple[list[str], list[str]], ...] = (
            (["item:{}"], []),
            (["item:*"], []),
            ([], ["owner:{}"]),
            ([], ["items"]),
            (["*"], []),
        )
        while not self._stop.is_set():
            number = self.rounds % 12
            version += 1
            for worker in (self.a, self.b, self.c):
                worker.do("version", own, colour, version)
            patterns, tags = kinds[self.rounds % len(kinds)]
            stamp = self.a.do("drop", own, colour, [text.format(number) for text in patterns], [text.format(number) for text in tags])
            self.rounds += 1
            if self.a.do("read", own, colour, number) < version:
                self.broken.append(f"{stamp}: the process that invalidated served an older value")
            if stamp.endswith("~"):
                self.pending += 1
                continue
            if self.b.do("at_least", own, colour, stamp, number) < version:
                self.broken.append(f"{stamp}: at_least was answered with an older value")
            self.c.do("read", own, colour, number)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def test_nothing_stale_is_served_while_slots_move(cluster: Cluster, namespace: str) -> None:
    """The slots of items, and that of the log, there and back, under load."""
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(cluster.url, **OPTIONS)) for _ in range(3)]
        loads: list[Load] = []
        slots: set[int] = set()
        for own, colour in each_colour(namespace):
            loads.append(stack.enter_context(Load(workers, own, colour)))
            names = Names.of(own)
            slots |= {key_slot(names.meta), *(key_slot(names.entry(f"item:{number}")) for number in range(12))}
        until(lambda: all(load.rounds > 10 for load in loads), "the load begins")
        for _ in range(2):
            for slot in sorted(slots):
                source = cluster.master_of(slot)
                at = cluster.masters.index(source)
                cluster.move(slot, cluster.masters[(at + 1) % 3], every=1)
        before = [load.rounds for load in loads]
        until(lambda: all(load.rounds > before[i] + 20 for i, load in enumerate(loads)), "the load goes on")
    assert [load.broken for load in loads] == [[], []]


@pytest.mark.parametrize("which", ["of the log", "of an entry"])
def test_nothing_stale_is_served_when_a_master_dies_under_load(cluster: Cluster, namespace: str, which: str) -> None:
    """Its replica takes over. What could not be announced meanwhile waits, and then everybody follows."""
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(cluster.url, **OPTIONS)) for _ in range(3)]
        loads = [stack.enter_context(Load(workers, own, colour)) for own, colour in each_colour(namespace)]
        names = Names.of(loads[0].own)
        until(lambda: all(load.rounds > 10 for load in loads), "the load begins")
        until(cluster.is_in_step, "replicating")
        log = cluster.master_of(key_slot(names.meta))
        victim = log if which == "of the log" else next(node for node in cluster.masters if node is not log)
        cluster.fail_over(victim)
        before = [load.rounds for load in loads]
        until(lambda: all(load.rounds > before[i] + 20 for i, load in enumerate(loads)), "the load goes on")
    assert [load.broken for load in loads] == [[], []]


def test_an_announcement_waits_until_the_master_of_a_key_is_back(cluster: Cluster, namespace: str) -> None:
    """It is unlinked there first, so it can not be in the log before; it holds in its process meanwhile."""
    shared = ClusterShared(cluster.url, namespace=namespace)
    names = shared.names
    shared.sync.perform(Snapshot())
    log = cluster.master_of(key_slot(names.meta))
    other = next(node for node in cluster.masters if node is not log)
    key = next(f"k{number}" for number in range(10_000) if cluster.master_of(key_slot(names.entry(f"k{number}"))) is other)
    announcing = Announce((Targets(KEY, (key,)),), ("nonce",), "me", (key,))
    cluster.fail_over(other)
    reply: Any = None

    def announced() -> bool:
        nonlocal reply
        reply = shared.sync.perform(announcing)
        return isinstance(reply, Announced)

    until(announced, "announcing")
    assert reply.last.number == 1
    shared.close()


def test_the_listed_rights_are_enough_for_a_cluster(cluster: Cluster, namespace: str, loop: LoopThread) -> None:
    """With the row for clusters, on every node; also where slots move. The nodes ask each other by users of their own."""
    keys = [f"~{{{namespace}}}:*", f"~{namespace}:e:*", f"~{namespace}:l:*"]
    channels = ["resetchannels", f"&{{{namespace}}}:log", f"&{namespace}:l:*"]
    rows = listed()
    commands = [f"+{command}" for what, row in rows.items() if what != OLD for command in row]
    for node in cluster.nodes:
        node.do("ACL", "SETUSER", "shop", "reset", "on", ">secret", *keys, *channels, *commands)
    events: list[Event] = []
    url = cluster.url.replace("://", "://shop:secret@")
    for colour in COLOURS:
        callers = Callers(url, namespace, colour, loop)
        a, b = callers.new(), callers.new()
        for caller in (a, b):
            caller.cache._events.add(events.append)  # pyright: ignore[reportPrivateUsage] - both were made without
        for number in range(12):
            assert a.get_or_compute(f"k{number}", lambda: 1) == 1
        stamp = a.drop("k1", "k2", "k3")
        assert b.get_or_compute("k1", lambda: 2, at_least=stamp) == 2
        slot = key_slot(Names.of(namespace).entry("k5"))
        source = cluster.master_of(slot)
        cluster.move(slot, next(node for node in cluster.masters if node is not source))
        assert b.get_or_compute("k5", lambda: 3) == 1
        a.drop("*")
        a.do(a.cache.sweep if colour == "def" else a.cache.asweep)
        callers.close()
    assert [event for event in events if event.name != "invalidated"] == []


# --- nodes that are silent --------------------------------------------------------------------------------------------------------

BUDGET = 1.0
"""Seconds: what a silent node costs once. Nothing below depends on how long it is."""


class Shop:
    """Callers around a cluster, its nodes by what lies on them, and keys of each node."""

    def __init__(self, cluster: Cluster, namespace: str, colour: Colour, loop: LoopThread) -> None:
        self.callers = Callers(cluster.url, namespace, colour, loop)
        self.names = Names.of(namespace)
        self._cluster = cluster
        self.log = cluster.master_of(key_slot(self.names.meta))
        self.silent, self.healthy = (node for node in cluster.masters if node is not self.log)
        self.events: list[Event] = []

    def keys(self, node: Any, count: int = 3) -> list[str]:
        """Keys whose entries lie on a node."""
        every = (f"k{number}" for number in range(10_000))
        return list(islice((key for key in every if self._cluster.master_of(key_slot(self.names.entry(key))) is node), count))

    def new(self) -> Caller:
        caller = self.callers.new(coordination=CoordinationSettings(budget=BUDGET, max_lag=60.0))
        caller.cache._events.add(self.events.append)  # pyright: ignore[reportPrivateUsage] - it is made without
        caller.stamp()
        until(partial(is_heard, caller), "hearing the log")
        return caller

    def told(self, name: str) -> list[Event]:
        return [event for event in list(self.events) if event.name == name]


@pytest.fixture(params=COLOURS)
def shop(request: pytest.FixtureRequest, lasting: Cluster, namespace: str, loop: LoopThread) -> Iterator[Shop]:
    own = Shop(lasting, namespace, request.param, loop)
    try:
        yield own
    finally:
        for node in lasting.nodes:
            if node.is_frozen:
                node.thaw()
        own.callers.close()


def never() -> Any:
    raise AssertionError("it was computed")


def test_a_silent_node_concerns_only_what_lies_on_it(shop: Shop) -> None:
    """What lies on the others goes on being hit. It is told, left alone, and asked again when it answers."""
    a, b = shop.new(), shop.new()
    silent, others = shop.keys(shop.silent, 12), [*shop.keys(shop.healthy), *shop.keys(shop.log)]
    for key in (*silent, *others):
        assert a.get_or_compute(key, lambda: 1) == 1
    shop.silent.freeze()
    assert b.get_or_compute(silent[0], lambda: 2) == 2
    assert engine_of(b.cache).breaker.state == "closed"
    assert [b.get_or_compute(key, never) for key in others] == [1] * len(others)
    began = time.monotonic()
    assert [b.get_or_compute(key, lambda: 2) for key in silent[1:11]] == [2] * 10
    assert time.monotonic() - began < 10 * BUDGET / 2, "nobody waits for it a second time"
    assert b.cache.stats().shared.breaker == "closed"
    [reason] = b.cache.health().reasons
    assert reason.name == "part_failing"
    assert f"127.0.0.1:{shop.silent.port}" in reason.text
    assert any(f"127.0.0.1:{shop.silent.port}: no answer in time" in event.fields["error"] for event in shop.told("layer_failed"))
    shop.silent.thaw()
    until(lambda: shop.told("layer_recovered"), "its recovery")
    assert b.cache.health().status == "ok"
    assert b.get_or_compute(silent[11], never) == 1


def test_of_a_batch_what_the_other_nodes_have_counts(shop: Shop) -> None:
    """In the very trip in which one of them is found to be silent."""
    a, b = shop.new(), shop.new()
    silent, others = shop.keys(shop.silent), [*shop.keys(shop.healthy), *shop.keys(shop.log)]
    for key in (*silent, *others):
        assert a.get_or_compute(key, lambda: 1) == 1
    assert b.do(b.cache.get_many if b.colour == "def" else b.cache.aget_many, others[:1]) == {others[0]: 1}
    shop.silent.freeze()
    asked = [*silent, *others]
    assert b.do(b.cache.get_many if b.colour == "def" else b.cache.aget_many, asked) == dict.fromkeys(others, 1)
    assert b.cache.stats().shared.breaker == "closed"


def test_of_a_batch_what_the_other_nodes_take_is_stored(shop: Shop) -> None:
    """Leases and fills travel together, and each node answers for its own."""
    a, b = shop.new(), shop.new()
    silent, others = shop.keys(shop.silent, 4), [*shop.keys(shop.healthy), *shop.keys(shop.log)]
    shop.silent.freeze()
    assert a.get_or_compute(silent[0], lambda: 1) == 1, "it is found out that this one is silent"
    asked = [*silent[1:], *others]

    def compute(keys: list[str]) -> dict[str, int]:
        return dict.fromkeys(keys, 1)

    async def acompute(keys: list[str]) -> dict[str, int]:
        return compute(keys)

    if a.colour == "def":
        found = a.do(a.cache.get_or_compute_many, asked, compute)
    else:
        found = a.do(a.cache.aget_or_compute_many, asked, acompute)
    assert found == dict.fromkeys(asked, 1)
    assert [b.get_or_compute(key, never) for key in others] == [1] * len(others)


def test_what_waits_for_a_silent_node_holds_nothing_else_up(shop: Shop) -> None:
    """Invalidations whose node is back are announced, also those behind one whose node is not."""
    a, b = shop.new(), shop.new()
    first, second = shop.keys(shop.silent)[0], shop.keys(shop.healthy)[0]
    assert [b.get_or_compute(key, lambda: 1) for key in (first, second)] == [1, 1]
    shop.silent.freeze()
    shop.healthy.freeze()
    assert a.drop(first).pending
    assert a.drop(second).pending
    assert a.cache.stats().log.queued == 2
    shop.healthy.thaw()
    until(lambda: a.cache.stats().log.queued == 1, "announcing the other one")
    until(lambda: b.get_or_compute(second, lambda: 2) == 2, "hearing it")
    shop.silent.thaw()
    until(lambda: a.cache.stats().log.queued == 0, "announcing the first one")
    until(lambda: b.get_or_compute(first, lambda: 2) == 2, "hearing that, too")


def test_without_the_node_of_the_log_redis_is_left_alone(shop: Shop) -> None:
    """Nothing can be judged then."""
    a, b = shop.new(), shop.new()
    key = shop.keys(shop.healthy)[0]
    assert a.get_or_compute(key, lambda: 1) == 1
    shop.log.freeze()
    assert b.get_or_compute(key, lambda: 2) == 2
    assert b.cache.stats().shared.breaker != "closed"
    assert "shared_failing" in {reason.name for reason in b.cache.health().reasons}
    shop.log.thaw()
    until(lambda: b.cache.stats().shared.breaker == "closed", "its recovery")


# --- where entries are judged --------------------------------------------------------------------------------------------------------


def clocks_read(node: Any) -> int:
    """How often a node was asked for its clock: once in each trip for the head of the log."""
    return int(node.client().info("commandstats").get("cmdstat_time", {"calls": 0})["calls"])


def test_a_hit_asks_the_node_of_its_entry_alone(shop: Shop) -> None:
    """While the log is heard. What lies there is judged by what this process has applied, as its own copies are."""
    a, b = shop.new(), shop.new()
    keys = shop.keys(shop.healthy, 12)
    for key in keys:
        assert a.get_or_compute(key, lambda: 1) == 1
    assert b.get_or_compute(keys[0], never) == 1
    before = clocks_read(shop.log)
    assert [b.get_or_compute(key, never) for key in keys[1:6]] == [1] * 5
    assert b.do(b.cache.get_many if b.colour == "def" else b.cache.aget_many, keys[6:10]) == dict.fromkeys(keys[6:10], 1)
    assert clocks_read(shop.log) == before
    engine_of(b.cache).ledger.contact = NEVER
    assert b.get_or_compute(keys[10], never) == 1
    assert clocks_read(shop.log) > before, "who does not hear the log asks where it ends"


@pytest.mark.parametrize("what", ["a key", "all keys"])
def test_what_is_invalidated_while_it_is_on_its_way_is_not_served(shop: Shop, what: str) -> None:
    """It was read before that, and is judged when it arrives."""
    a = shop.new()
    keys = shop.keys(shop.healthy, 2)
    for key in keys:
        assert a.get_or_compute(key, lambda: 1) == 1
    settings = a.cache.settings
    holding = HoldingShared(ClusterShared(shop.callers.url, namespace=settings.namespace))
    b = Caller(Cache(settings, policies=[Policy(name="all", match="*", ttl="1h")], shared=holding), a.colour, a.loop)
    engine_of(b.cache).splits = True  # as that of the layer inside
    b.stamp()
    until(partial(is_heard, b), "hearing the log")
    assert b.get_or_compute(keys[0], never) == 1
    gate = holding.hold(Fetch)
    asked = a.start(lambda: b.get_or_compute(keys[1], lambda: 2))
    gate.wait()
    fetched = [step for step in holding.steps if isinstance(step, Fetch)]  # the log's reader asks, too
    assert fetched[-1].stands is not None
    stamp = a.drop(keys[1] if what == "a key" else "k*")
    until(partial(b.has_applied, stamp), "applying it")
    gate.open()
    assert asked.result(LONG) == 2
    b.close()


def test_ages_are_counted_by_the_clock_of_the_logs_node(monkeypatch: pytest.MonkeyPatch, by_hand: ClusterShared) -> None:
    """Others may be set to another time. It is read again where another node has the log, and after a while."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    names = by_hand.names
    clock, head, stands = [b"5000", b"250000"], [b"ab" * 8, b"7"], Stamp("ab" * 8, 6)

    def fetched() -> tuple[Fetched, int]:
        """And how many trips it took, one after the other."""
        flow, trips = by_hand.carry_out(Fetch(("b",), stands=stands)), 0
        errands: Any = next(flow)
        try:
            while True:
                trips += 1
                errands = flow.send([[clock, head] if count == 2 else [None] for _, _, count in errands])
        except StopIteration as end:
            return end.value, trips

    assert fetched() == (Fetched((None,), Stamp("ab" * 8, 7), 5_000_250), 2)
    now += 1.5
    assert fetched() == (Fetched((None,), stands, 5_001_750), 1)
    by_hand.slots._owners[key_slot(names.meta)] = THERE  # pyright: ignore[reportPrivateUsage] - as after a failover
    assert fetched() == (Fetched((None,), Stamp("ab" * 8, 7), 5_000_250), 2)
    assert fetched() == (Fetched((None,), stands, 5_000_250), 1)
    now += redis_cluster.CLOCK_KEPT + 1.0
    clock[0] = b"9000"
    assert fetched()[0].now == 9_000_250


HERE, THERE = ("127.0.0.1", 1), ("127.0.0.1", 2)


@pytest.fixture
def by_hand() -> Iterator[ClusterShared]:
    """A layer that knows who serves which slots: one the log and all else, the other two keys."""
    shared = ClusterShared("redis+cluster://127.0.0.1:1", namespace="ns")
    shared.slots._owners[:] = [HERE] * redis_cluster.SLOTS  # pyright: ignore[reportPrivateUsage] - as if it had been asked
    for key in ("b", "c"):
        shared.slots._owners[key_slot(shared.names.entry(key))] = THERE  # pyright: ignore[reportPrivateUsage]
    yield shared
    shared.close()


def test_pauses_of_several_steps_are_one(by_hand: ClusterShared) -> None:
    """Slots that are between two nodes are waited for side by side, behind what can be asked meanwhile."""
    moving = [Release(f"k{number}", "me") for number in range(20)]
    flow = by_hand.carry_out(Together((*moving, Release("b", "me"))))
    pauses: list[float] = []
    asked: Any = next(flow)
    try:
        while True:
            if asked.__class__ is float:
                pauses.append(asked)
                asked = flow.send(None)
                continue
            assert asked.__class__ is list, "nothing else is waited for"
            asked = flow.send([[0] * count if owner == THERE else [ResponseError("TRYAGAIN")] * count for owner, _, count in asked])
    except StopIteration as end:
        replies = end.value.replies
    assert pauses == [0.01, 0.02, 0.04]
    assert [type(reply) for reply in replies] == [Failed] * 20 + [Done]


def test_who_waits_for_the_slots_is_told_that_nobody_knows_them(by_hand: ClusterShared) -> None:
    """And who does not wait for that has its reply."""
    flow = by_hand.carry_out(Together((Release("a", "me"), Release("b", "me"))))
    errands = next(flow)
    asked = flow.send([[0] if owner == THERE else [ResponseError("CLUSTERDOWN")] for owner, _, _ in errands])
    assert not isinstance(asked, list | float)
    with pytest.raises(StopIteration) as end:
        flow.throw(OSError("nobody says"))
    failure, done = end.value.value.replies
    assert "nobody says" in str(failure.error)
    assert done == Done(done=False)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_driver_tells_a_step_what_its_waiting_has_come_to(by_hand: ClusterShared, colour: Colour) -> None:
    """That no node says how slots are dealt out is the failure of those steps that asked for it, and of no other."""

    def answered(address: Any, packed: bytes, count: int, deadline: float = 0.0) -> list[Any]:
        return [0] * count if address == THERE else [ResponseError("CLUSTERDOWN")] * count

    async def aanswered(address: Any, packed: bytes, count: int) -> list[Any]:
        return answered(address, packed, count)

    for address in (HERE, THERE):
        node: Any = by_hand.node(address)
        node.exchange = partial(answered, address)
        node.aexchange = partial(aanswered, address)
    deadline = time.monotonic() + LONG
    replies = performed(by_hand, Together((Release("a", "me", deadline), Release("b", "me", deadline)), deadline), colour).replies
    assert "no node of the cluster" in str(replies[0].error)
    assert replies[1] == Done(done=False)


# --- the url ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", COLOURS)
def test_one_node_that_lives_is_enough_to_find_the_others(lasting: Cluster, namespace: str, colour: Colour) -> None:
    """And where there is none, the reason of each is told."""
    port = lasting.masters[1].port
    shared = ClusterShared(f"redis+cluster://127.0.0.1:1,127.0.0.1:{port}", namespace=namespace)
    assert isinstance(performed(shared, Lease("a", "me1", NOWHERE, 1_000, None), colour), Leased)
    asyncio.run(shared.aclose())
    nobody = ClusterShared("redis+cluster://127.0.0.1:1,127.0.0.1:2", namespace=namespace)
    told = performed(nobody, Fetch(("k",)), colour)
    assert isinstance(told, Failed)
    assert "127.0.0.1:1: " in str(told.error)
    assert "127.0.0.1:2: " in str(told.error)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_silent_node_does_not_keep_the_others_from_being_found(
    monkeypatch: pytest.MonkeyPatch, lasting: Cluster, namespace: str, colour: Colour
) -> None:
    """A process that knows nothing yet asks the next one beside it, and waits for the first answer."""
    log = lasting.master_of(key_slot(Names.of(namespace).meta))
    silent = next(node for node in lasting.masters if node is not log)
    shared = ClusterShared(f"redis+cluster://127.0.0.1:{silent.port},127.0.0.1:{log.port}", namespace=namespace)
    answers, ask = threading.Event(), shared.slots.ask

    def ask_slowly(host: str, port: int) -> Any:
        assert port != silent.port or answers.wait(2 * LONG)
        return ask(host, port)

    monkeypatch.setattr(shared.slots, "ask", ask_slowly)
    try:
        assert isinstance(performed(shared, Confirm(time.monotonic() + LONG), colour), Beat)
    finally:
        answers.set()
        asyncio.run(shared.aclose())


def test_a_single_server_is_no_cluster(namespace: str, server: Any) -> None:
    """The server's own words are told."""
    shared = ClusterShared(f"redis+cluster://127.0.0.1:{server.port}", namespace=namespace)
    told = shared.sync.perform(Fetch(("k",)))
    assert isinstance(told, Failed)
    assert "cluster support disabled" in str(told.error)


def test_passwords_of_a_cluster_are_not_shown(namespace: str) -> None:
    """Whatever is wrong."""
    with pytest.raises(PolicyError) as told:
        RedisSettings("redis+cluster://u:geheim@h/3")
    assert "geheim" not in str(told.value)
    events: list[Event] = []
    url = "redis+cluster://carlotta:geheim@127.0.0.1:1"
    settings = Settings(namespace=namespace, redis=RedisSettings(url), coordination=CoordinationSettings(budget=LONG))
    with Cache(settings, policies=[Policy(name="all", match="*", ttl="1h")], on_event=events.append) as cache:
        assert cache.get_or_compute("k", lambda: 1) == 1
        shown = [repr(cache.settings), *map(repr, events)]
    assert events
    assert not any("geheim" in text or "carlotta" in text for text in shown)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_failover_of_the_logs_master_costs_nobody_its_place(cluster: Cluster, namespace: str, colour: Colour) -> None:
    """The replica had everything: it goes on with the log, and everybody follows."""
    with Worker(cluster.url, **OPTIONS) as a, Worker(cluster.url, **OPTIONS) as b:
        at = a.do("invalidate", namespace, colour, "key as text", 7)
        b.do("apply", namespace, colour, at)
        assert (a.do("read", namespace, colour, 1), b.do("read", namespace, colour, 1)) == (1, 1)
        until(cluster.is_in_step, "replicating")
        cluster.fail_over(cluster.master_of(key_slot(Names.of(namespace).meta)))
        change(2, namespace, colour, a, b)
        for worker in (a, b):
            follows(worker, namespace, colour, after=at)
            assert worker.do("log", namespace, colour)["losses"] == 0
        b.do("apply", namespace, colour, a.do("invalidate", namespace, colour, "tag of the policy", 1))
        assert b.do("read", namespace, colour, 1) == 2


def test_the_commands_find_their_way(
    lasting: Cluster, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``invalidate``, ``sweep``, ``stats``, ``doctor`` and ``tail``."""
    file = tmp_path / "cachesync.toml"
    file.write_text(f'namespace = "{namespace}"\n[redis]\n[policy.all]\nmatch = "*"\nttl = "1h"\n')
    monkeypatch.setenv("CACHESYNC_REDIS_URL", lasting.url)
    monkeypatch.setenv("CACHESYNC_FILE", str(file))
    with Cache(policies=[Policy(name="all", match="*", ttl="1h")], namespace=namespace, redis=lasting.url, listen=False) as cache:
        for number in range(30):
            cache.set(f"j:{number}", number)
    counts: list[int] = []
    for command in (["invalidate", "k:*", "--tag", "t"], ["sweep"], ["stats", "--json"], ["doctor"], ["tail", "--no-follow"]):
        code = main(command)
        told = capsys.readouterr()
        assert (code, told.err) == (0, ""), (command, told.out)
        counts += [json.loads(told.out)["entries"]] if command[0] == "stats" else []
    assert "k:*" in told.out
    assert counts == [30]
