"""Redis and Valkey as the shared layer, on real servers, and the contract that every shared layer keeps."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import decimal
import enum
import os
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple, NotRequired, Self, TypedDict, cast

import hiredis
import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.exceptions import ResponseError

from cachesync import Cache, Event, LocalMemory, PickleCodec, Policy, RedisShared, Settings
from cachesync.core import steps
from cachesync.core.auditing import Question
from cachesync.core.bans import Floors
from cachesync.core.envelope import COMPRESSED, unseal
from cachesync.core.names import Names
from cachesync.core.records import KEY, SOFT, Record, Targets
from cachesync.core.settings import CoordinationSettings, RedisSettings
from cachesync.core.stamps import NOWHERE, Stamp
from cachesync.core.steps import (
    Announce,
    Announced,
    Bans,
    Beat,
    Collect,
    Confirm,
    Discard,
    Discarded,
    Done,
    Extend,
    Failed,
    Fetch,
    Fetched,
    Heads,
    Inquire,
    Joined,
    Lease,
    Leased,
    Log,
    ReadBans,
    ReadLog,
    Release,
    Reply,
    Scan,
    Scanned,
    Seize,
    SharedStep,
    Snapshot,
    Store,
)
from cachesync.core.switches import NOTHING_THROWN, Thrown
from cachesync.layers.memory import MemoryShared
from cachesync.layers.redis_line import Line, OutOfTimeError
from cachesync.layers.redis_trip import Trip
from cachesync.layers.redis_wire import Bounds, WireError, commands_of, pack, pack_all, reply_of
from cachesync.protocols import Codec, Shared
from cachesync.testing import FakeClock, SharedLayerContract, run_together
from support.nodes import engine_of, until
from support.proxy import Proxy
from support.servers import Server


class TestMemory(SharedLayerContract):
    """The layer in this process's memory, with a clock that is moved by hand."""

    clock: FakeClock

    def make_shared(self) -> Shared:
        self.clock = FakeClock()
        return MemoryShared(self.clock.monotonic)

    def lose_everything(self, shared: Shared) -> None:
        cast("MemoryShared", shared).flush()

    def cut_off(self, shared: Shared) -> AbstractContextManager[None]:
        return cast("MemoryShared", shared).outage()

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

    @contextmanager
    def cut_off(self, shared: Shared) -> Generator[None, None, None]:
        self.server.client().client_kill_filter(_type="pubsub")
        yield


class TestRedisAsync(TestRedis):
    colour = "async def"


# --- what is said on the wire -----------------------------------------------------------------------------------------------------

Colour = Literal["def", "async def"]
COLOURS: tuple[Colour, ...] = ("def", "async def")


class Wiretap(Proxy):
    """A proxy that notes what passes: ``trips`` are the requests that were each followed by replies."""

    def __init__(self, server: Server) -> None:
        self.trips: list[bytes] = []
        self._from_client = False
        super().__init__("127.0.0.1", server.port)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event) -> None:
        while piece := await reader.read(65536):
            if gate is self._requests_pass:
                if not self._from_client:
                    self.trips.append(b"")
                self.trips[-1] += piece
            self._from_client = gate is self._requests_pass
            writer.write(piece)
            await writer.drain()

    def commands(self) -> list[list[list[bytes]]]:
        """The commands of each trip."""
        found: list[list[list[bytes]]] = []
        for trip in self.trips:
            parser = hiredis.Reader()
            parser.feed(trip)
            found.append([])
            while (command := parser.gets()) is not False:
                found[-1].append(cast("list[bytes]", command))
        return found

    def forget(self) -> None:
        self.trips.clear()
        self._from_client = False


def settings_for(url: str, namespace: str, *, max_lag: str = "1h") -> Settings:
    """A wide budget: these tests are not about time. Local copies are trusted though nobody reads the log."""
    return Settings(
        namespace=namespace, redis=RedisSettings(url=url), coordination=CoordinationSettings(budget="30s", lease="30s", max_lag=max_lag)
    )


class Node:
    """One cache and one cached function in it, used in one colour: what one process would have."""

    def __init__(
        self, url: str, namespace: str, colour: Colour = "def", *, annotation: Any = Any, codec: Codec | None = None, listen: bool = False,
        **policy: Any,
    ) -> None:  # fmt: skip
        self.events: list[Event] = []
        self.computed: list[str] = []
        self.value: Any = {"name": "Jakarta"}
        self.during: Callable[[], object] = lambda: None
        self.local = LocalMemory()
        policies = [Policy(name="stores", match="stores:*", ttl="10m", **policy)]
        self.cache = Cache(settings_for(url, namespace), policies=policies, local=self.local, listen=listen, on_event=self.events.append)
        self.names = Names.of(namespace)
        self._runner = asyncio.Runner() if colour == "async def" else None

        def store(code: str) -> Any:
            self.computed.append(code)
            self.during()
            return self.value

        async def astore(code: str) -> Any:
            return store(code)

        store.__annotations__["return"] = astore.__annotations__["return"] = annotation
        decorate = self.cache.cached("stores:{code}", codec=codec)
        self._store: Any = decorate(store) if self._runner is None else decorate(astore)

    def __call__(self, code: str = "JKT") -> Any:
        return self.run(self._store(code))

    def key(self, code: str) -> str:
        return cast("str", self._store.key(code))

    def rest_is_over(self) -> None:
        """As if the moment in which a failed layer is left alone were over."""
        engine_of(self.cache).breaker.end_rest()

    def many(self, *codes: str) -> list[Any]:
        return cast("list[Any]", self.run(self._store.many([(code,) for code in codes])))

    def set(self, value: Any, code: str = "JKT") -> Any:
        return self.run(self._store.set(value, code))

    def at_once(self, codes: list[str]) -> list[Any]:
        """Calls that are begun in one tick of the loop."""

        async def gather() -> list[Any]:
            return list(await asyncio.gather(*map(self._store, codes)))

        assert self._runner is not None
        return self._runner.run(gather())

    def invalidate(self, *patterns: str) -> Any:
        return self.cache.invalidate(*patterns) if self._runner is None else self.run(self.cache.ainvalidate(*patterns))

    def run(self, answer: Any) -> Any:
        if self._runner is None:
            return answer

        async def wait() -> Any:
            return await answer

        return self._runner.run(wait())

    def names_of_events(self) -> list[str]:
        return [event.name for event in self.events]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._runner is None:
            self.cache.close()
        else:
            self._runner.run(self.cache.aclose())
            self._runner.close()


@pytest.fixture
def wiretap(server: Server) -> Iterator[Wiretap]:
    with Wiretap(server) as own:
        yield own


both_colours = pytest.mark.parametrize("colour", COLOURS)


@both_colours
def test_a_hit_is_one_trip(server: Server, wiretap: Wiretap, namespace: str, colour: Colour) -> None:
    """The clock, the log's head and the entry: three commands in one write, and nothing before or after."""
    with Node(server.url, namespace) as writer, Node(wiretap.url, namespace, colour) as reader:
        writer("JKT")
        reader("BDG")  # connects and joins
        wiretap.forget()
        assert reader("JKT") == {"name": "Jakarta"}
        assert reader.computed == ["BDG"]
        names = reader.names
        assert wiretap.commands() == [[[b"TIME"], [b"HMGET", names.meta, b"e", b"n"], [b"MGET", names.entry("stores:JKT")]]]


@both_colours
def test_a_local_hit_is_no_trip(wiretap: Wiretap, namespace: str, colour: Colour) -> None:
    """What is at hand is not asked for."""
    with Node(wiretap.url, namespace, colour) as node:
        node()
        wiretap.forget()
        assert [node() for _ in range(10)] == [{"name": "Jakarta"}] * 10
        assert wiretap.trips == []


@both_colours
def test_a_miss_is_three_trips(wiretap: Wiretap, namespace: str, colour: Colour) -> None:
    """Look, take the lease, store."""
    with Node(wiretap.url, namespace, colour) as node:
        node("BDG")
        wiretap.forget()
        node("JKT")
        assert [[command[0] for command in trip] for trip in wiretap.commands()] == [
            [b"TIME", b"HMGET", b"MGET"],
            [b"TIME", b"HMGET", b"EVALSHA"],
            [b"EVALSHA"],
        ]


@both_colours
def test_many_are_one_trip(server: Server, wiretap: Wiretap, namespace: str, colour: Colour) -> None:
    """A batch of a hundred that are all there."""
    codes = [f"code{number}" for number in range(100)]
    with Node(server.url, namespace) as writer, Node(wiretap.url, namespace, colour) as reader:
        writer.many(*codes)
        reader("BDG")
        wiretap.forget()
        assert reader.many(*codes) == [{"name": "Jakarta"}] * 100
        [trip] = wiretap.commands()
        assert [command[0] for command in trip] == [b"TIME", b"HMGET", b"MGET"]
        assert len(trip[2]) == 101


def test_reads_of_one_tick_are_one_trip(server: Server, wiretap: Wiretap, namespace: str) -> None:
    """Fifty tasks ask at once: one MGET of fifty keys."""
    codes = [f"code{number}" for number in range(50)]
    with Node(server.url, namespace) as writer, Node(wiretap.url, namespace, "async def") as reader:
        writer.many(*codes)
        reader("BDG")
        wiretap.forget()
        assert reader.at_once(codes) == [{"name": "Jakarta"}] * 50
        [trip] = wiretap.commands()
        assert trip[2] == [b"MGET", *(reader.names.entry(f"stores:{code}") for code in codes)]
        assert reader.computed == ["BDG"]


def test_tasks_that_join_the_log_at_once_ask_for_it_once(server: Server, wiretap: Wiretap, namespace: str) -> None:
    """A process begins with fifty callers: the log is joined by all, and asked for once. What each needs for its key is its own."""
    codes = [f"code{number}" for number in range(50)]
    with Node(server.url, namespace) as writer:
        writer.many(*codes)
        writer.invalidate("stores:none")
    with Node(wiretap.url, namespace, "async def") as reader:
        assert reader.at_once(codes) == [{"name": "Jakarta"}] * 50
        assert reader.computed == []
        verbs = Counter(command[0] for trip in wiretap.commands() for command in trip)
        assert verbs[b"ZRANGEBYSCORE"] == 2, "one page of bans, and the mark of their epoch"
        assert verbs[b"EVALSHA"] == 1


def test_an_answer_about_the_log_is_for_all_who_have_asked_for_it() -> None:
    """Wherever they stand in a trip. Questions that differ are different ones."""
    at = Stamp("00112233445566ff", 5)
    steps: list[SharedStep] = [ReadBans(0, 6), Release("a", "t"), ReadBans(0, 6, 100.0), Fetch(("b",)), ReadBans(3, 6), ReadBans(0, 6)]
    trip = Trip(steps, Names.of("ns"), Bounds())
    found = [[[b"1", b"0"], [b"00112233445566ff", b"5"], [b"B"]], _bans_of(7), [1], _bans_of(8)]
    replies = trip.replies([one for part in found for one in part])
    assert trip.count == len([one for part in found for one in part])
    assert [reply.soft if isinstance(reply, Bans) else reply for reply in replies] == [
        7,
        Done(done=True),
        7,
        Fetched((b"B",), at, 1000),
        8,
        7,
    ]


def test_different_questions_about_the_log_are_all_asked() -> None:
    """Though they say the same: one asks where the log ends, the other joins it."""
    alone = [Trip([step], Names.of("ns"), Bounds()).count for step in (Confirm(), Snapshot())]
    together = Trip([Confirm(), Snapshot(), Confirm(1.0), Snapshot(2.0)], Names.of("ns"), Bounds())
    assert together.count == sum(alone)


def _bans_of(soft: int) -> list[Any]:
    return [[], [EPOCH, b"0", None, b"0", b"%d" % soft], MARKED]


def test_misses_of_one_tick_travel_together(wiretap: Wiretap, namespace: str) -> None:
    """Fifty computations: a few trips, not a hundred and fifty."""
    codes = [f"code{number}" for number in range(50)]
    with Node(wiretap.url, namespace, "async def") as node:
        node("BDG")
        wiretap.forget()
        node.at_once(codes)
        assert sorted(node.computed[1:]) == sorted(codes)
        assert len(wiretap.trips) <= 10
        node.local.clear()
        assert node.at_once(codes) == [{"name": "Jakarta"}] * 50
        assert len(node.computed) == 51


def test_names_and_records_in_redis_are_pinned(every_server: Server, namespace: str) -> None:
    """Other languages and later releases read them: the log's fields in their order, the stream's ids, the entry's name."""
    with Node(every_server.url, namespace, tags=["all"]) as node:
        node("J{K}%:T")
        node.invalidate("stores:X", "a:*", "*:z")
        node.cache.invalidate("*:z", tags=["all"], soft=True)
        client = every_server.client()
        found = cast("set[bytes]", set(client.keys(f"*{namespace}*")))
        meta, log, bans = (f"{{{namespace}}}:{name}".encode() for name in ("meta", "log", "bans"))
        assert found == {meta, log, bans, f"{namespace}:e:{{stores:J%7BK%7D%2525%253AT}}".encode()}
        state = cast("dict[bytes, bytes]", client.hgetall(meta))
        records = cast("list[tuple[bytes, dict[bytes, bytes]]]", client.xrange(log))
        assert {name: state[name] for name in (b"n", b"c", b"x")} == {b"n": b"5", b"c": records[-1][1][b"c"], b"x": b"[]"}
        assert state[b"r"].decode() == dict(client.info("replication"))["master_replid"]
        assert state.keys() == {b"e", b"n", b"c", b"r", b"x", b"w", b"l"}
        assert [at for at, _ in records] == [b"1-0", b"2-0", b"3-0", b"4-0", b"5-0"]
        assert [list(fields) for _, fields in records] == [[b"e", b"n", b"c", b"p", b"t", b"m", b"k", b"x", b"o"]] * 5
        assert [(fields[b"m"], fields[b"k"], fields[b"x"]) for _, fields in records] == [
            (b"h", b"k", b'["stores:X"]'),
            (b"h", b"p", b'["a:"]'),
            (b"h", b"g", b'["*:z"]'),
            (b"s", b"t", b'["all"]'),
            (b"s", b"g", b'["*:z"]'),
        ]
        assert {fields[b"e"] for _, fields in records} == {state[b"e"]}
        assert records[0][1][b"p"] == b""
        assert [fields[b"p"] for _, fields in records[1:]] == [fields[b"c"] for _, fields in records[:-1]]
        scores = cast("list[tuple[bytes, float]]", client.zrange(bans, 0, -1, withscores=True))
        assert dict(scores) == {
            b"kstores:X": 1.0,
            b"pa:": 2.0,
            b"g*:z": 3.0,
            b"Tall": 4.0,
            b"G*:z": 5.0,
            b"e" + state[b"e"]: float("inf"),
        }


@both_colours
def test_every_entry_and_lease_ends_by_itself(every_server: Server, namespace: str, colour: Colour) -> None:
    """A process that dies leaves nothing for ever: entries live as long as they are fresh, leases as long as the policy file says."""
    client = every_server.client()
    with Node(every_server.url, namespace, colour) as node:
        leases: list[int] = []
        node.during = lambda: leases.append(client.pttl(node.names.lease("stores:JKT")))
        node("JKT")
        node.set({"name": "set"}, "BDG")
        assert 0 < leases[0] <= 30_000
        for key in ("stores:JKT", "stores:BDG"):
            assert 0 < client.pttl(node.names.entry(key)) <= 600_000
            assert not client.exists(node.names.lease(key))


def test_the_lease_of_a_computation_that_fails_is_given_back(every_server: Server, namespace: str) -> None:
    """The next caller computes at once."""
    client = every_server.client()
    with Node(every_server.url, namespace) as node:

        def fail() -> None:
            assert client.exists(node.names.lease("stores:JKT"))
            raise LookupError("no such store")

        node.during = fail
        with pytest.raises(LookupError):
            node("JKT")
        assert not client.exists(node.names.lease("stores:JKT"))


@pytest.mark.parametrize("query", ["", "?protocol=3", "?decode_responses=true", "?protocol=3&decode_responses=1&health_check_interval=1"])
@both_colours
def test_the_protocol_is_pinned(fresh_server: Server, colour: Colour, query: str) -> None:
    """RESP 2 and bytes, whatever redis-py's default is and whatever the url says."""
    with Node(fresh_server.url + query, "pinned", colour) as node:
        assert node() == {"name": "Jakarta"}
        ours = [row for row in fresh_server.client().client_list() if row["cmd"].startswith("evalsha")]
        assert ours
        assert {row["resp"] for row in ours} == {"2"}
        assert node.events == []


@both_colours
def test_a_database_and_a_user_of_the_url_are_used(namespace: str, colour: Colour) -> None:
    """As in ``redis://user:password@host:port/3``; what is special in a password is percent-encoded."""
    with Server() as own:
        rights: dict[str, Any] = {"keys": ["*"], "channels": ["*"], "categories": ["+@all"]}
        own.client().acl_setuser("dashboard", enabled=True, passwords=["+p:a/s%s"], **rights)
        url = f"redis://dashboard:p%3Aa%2Fs%25s@127.0.0.1:{own.port}/3"
        with Node(url, namespace, colour) as node:
            assert node() == {"name": "Jakarta"}
            assert node.events == []
        assert set(own.client().info("keyspace")) == {"db3"}


@both_colours
def test_a_user_without_channels_can_still_store_and_invalidate(fresh_server: Server, colour: Colour) -> None:
    """Redis 7 gives a user none by default. What is done is done, though nobody is told of it: the log has every record once, and
    an event says that others notice it late.
    """
    fresh_server.client().acl_setuser("mute", enabled=True, passwords=["+secret"], keys=["*"], categories=["+@all"])
    url = f"redis://mute:secret@127.0.0.1:{fresh_server.port}/0"
    with Node(url, "mute", colour) as node, Node(fresh_server.url, "mute", colour, listen=True) as other:
        assert node() == {"name": "Jakarta"}
        assert other() == {"name": "Jakarta"}
        assert other.computed == []
        node.value = other.value = {"name": "new"}
        assert not node.invalidate("stores:*").pending
        assert not node.set({"name": "set"}, "BDG").pending
        until(lambda: other() == {"name": "new"}, "the other one reads the log where it was not told of it")
        assert fresh_server.client().xlen(node.names.log) == 2
        assert set(node.names_of_events()) == {"invalidated", "not_published"}


@both_colours
def test_a_unix_socket_will_do(namespace: str, colour: Colour) -> None:
    """Without TCP."""
    with Server(unix_socket=True) as own:
        with Node(own.url, namespace, colour) as node:
            assert node() == {"name": "Jakarta"}
            assert node.events == []
        assert own.client().exists(Names.of(namespace).entry("stores:JKT"))


# --- connections ------------------------------------------------------------------------------------------------------------------


def test_a_pool_waits_instead_of_raising(proxy: Proxy, namespace: str) -> None:
    """A hundred threads on two connections: each is answered."""
    shared = RedisShared(proxy.url, namespace=namespace, max_connections=2)
    replies: list[Reply] = []
    run_together([partial(_ask_often, shared, replies)] * 100)
    shared.close()
    assert len(replies) == 500
    assert all(isinstance(reply, Fetched) for reply in replies), [reply for reply in replies if not isinstance(reply, Fetched)][:3]
    assert proxy.accepted <= 2


def _ask_often(shared: RedisShared, replies: list[Reply]) -> None:
    replies.extend(shared.sync.perform(Fetch((f"key{number}",), time.monotonic() + 30)) for number in range(5))


def test_a_pool_that_is_exhausted_answers_with_a_failure_in_the_end(proxy: Proxy, namespace: str) -> None:
    """When the deadline has come, and not later by much; afterwards there is room again."""
    shared = RedisShared(proxy.url, namespace=namespace, max_connections=1)
    assert isinstance(shared.sync.perform(Fetch(("a",))), Fetched)
    proxy.hold()
    replies: list[Reply] = []
    run_together([lambda: replies.append(shared.sync.perform(Fetch(("a",), time.monotonic() + 0.05)))] * 8)
    assert [type(reply) for reply in replies] == [Failed] * 8
    proxy.release()
    assert isinstance(shared.sync.perform(Fetch(("a",), time.monotonic() + 30)), Fetched)
    shared.close()


@both_colours
def test_connections_that_were_closed_while_idle_are_replaced_in_silence(fresh_server: Server, colour: Colour) -> None:
    """A server with an idle timeout, a firewall, ``CLIENT KILL``: the call is answered, and no event is sent."""
    with Node(fresh_server.url, "idle", colour) as node:
        node("JKT")
        for code in ("BDG", "SUB", "DPS"):
            fresh_server.client().client_kill_filter(_type="normal", skipme=True)
            node.local.clear()
            assert node("JKT") == {"name": "Jakarta"}
            assert node(code) == {"name": "Jakarta"}
            fresh_server.client().client_kill_filter(_type="normal", skipme=True)
            assert not node.invalidate("other:*").pending
        assert node.computed == ["JKT", "BDG", "SUB", "DPS"]
        assert set(node.names_of_events()) == {"invalidated"}


@both_colours
def test_several_idle_connections_may_be_dead(fresh_server: Server, colour: Colour) -> None:
    """All of them are given up for one that works."""
    codes = [f"code{number}" for number in range(30)]
    with Node(fresh_server.url, "idle", colour) as node:
        if colour == "def":
            run_together([partial(node, code) for code in codes])
        else:
            node.at_once(codes)
        fresh_server.client().client_kill_filter(_type="normal", skipme=True)
        node.local.clear()
        assert node.many(*codes) == [{"name": "Jakarta"}] * 30
        assert len(node.computed) == 30
        assert node.events == []


def test_a_reader_of_the_log_whose_connection_was_closed_begins_another_in_silence(server: Server, proxy: Proxy, namespace: str) -> None:
    """It waits on it most of the time, so whatever closes idle connections closes this one: nobody has to go without Redis for that."""
    with Node(proxy.url, namespace, listen=True) as node, Node(server.url, namespace) as other:
        node("JKT")
        ledger = engine_of(node.cache).ledger
        for version in range(3):
            now = time.monotonic()
            until(lambda: ledger.contact > now, "the log is heard, on the new connection")  # noqa: B023 - called before the next turn
            proxy.cut()
            other.value = node.value = version
            other.invalidate("stores:*")
            until(lambda: node("JKT") == version, "the invalidation arrived")  # noqa: B023 - called before the next turn
        assert set(node.names_of_events()) <= {"invalidated"}


@both_colours
def test_scripts_that_the_server_has_lost_are_loaded_again(every_server: Server, namespace: str, colour: Colour) -> None:
    """A restart, a failover or ``SCRIPT FLUSH`` takes them away: between two calls, and in the middle of one."""
    client = every_server.client()
    with Node(every_server.url, namespace, colour) as node:
        node.during = client.script_flush
        for code in ("JKT", "BDG"):
            client.script_flush()
            assert node(code) == {"name": "Jakarta"}
            client.script_flush()
            assert not node.invalidate("other").pending
        node.local.clear()
        assert node.many("JKT", "BDG") == [{"name": "Jakarta"}] * 2
        assert node.computed == ["JKT", "BDG"]
        assert set(node.names_of_events()) == {"invalidated"}


def test_scripts_may_be_lost_while_a_crowd_computes(every_server: Server, namespace: str) -> None:
    """A trip that carries steps of many tasks is said again as a whole; nothing is stored twice or lost."""
    codes = [f"code{number}" for number in range(40)]
    with Node(every_server.url, namespace, "async def") as node:
        node("JKT")
        every_server.client().script_flush()
        assert node.at_once(codes) == [{"name": "Jakarta"}] * 40
        node.local.clear()
        assert node.at_once(codes) == [{"name": "Jakarta"}] * 40
        assert sorted(node.computed) == sorted(["JKT", *codes])
        assert node.events == []


@both_colours
def test_keys_of_another_type_are_a_miss_and_are_mended(every_server: Server, namespace: str, colour: Colour) -> None:
    """Somebody else's list stands where an entry or a lease should."""
    client = every_server.client()
    with Node(every_server.url, namespace, colour) as node, Node(every_server.url, namespace) as other:
        for wrong in ("entry", "lease", "both"):
            code = f"code:{wrong}"
            key = node.key(code)
            for name in (node.names.entry(key), node.names.lease(key)):
                if wrong in ("both", "entry" if b":e:" in name else "lease"):
                    client.rpush(name, "not", "ours")
            assert node(code) == {"name": "Jakarta"}
            assert other(code) == {"name": "Jakarta"}
            assert not client.exists(node.names.lease(key))
        assert len(node.computed) == 3
        assert other.computed == []
        assert node.events == []


@both_colours
def test_a_refused_command_leaves_the_connection_usable(every_server: Server, namespace: str, colour: Colour) -> None:
    """One command of a trip fails: the replies of the others are read all the same, and the next trip is not confused."""
    client = every_server.client()
    with Node(every_server.url, namespace, colour) as node:
        node("JKT")
        meta = cast("bytes", client.dump(node.names.meta))
        client.set(node.names.meta, "not ours")
        node.local.clear()
        assert node("BDG") == {"name": "Jakarta"}
        assert "layer_failed" in node.names_of_events()
        client.delete(node.names.meta)
        client.restore(node.names.meta, 0, meta)
        node.rest_is_over()
        assert node("JKT") == {"name": "Jakarta"}
        assert node.computed == ["JKT", "BDG"]
        assert node.names_of_events()[-1] == "layer_recovered"


# --- namespaces, schema, compression ----------------------------------------------------------------------------------------------


@both_colours
def test_namespaces_do_not_meet(every_server: Server, namespace: str, colour: Colour) -> None:
    """Neither entries nor invalidations; also when the name of one begins with that of the other."""
    here, there = namespace, f"{namespace}-two"
    with Node(every_server.url, here, colour) as one, Node(every_server.url, there, colour) as two:
        two.value = {"name": "of the other"}
        assert one("JKT") == {"name": "Jakarta"}
        assert two("JKT") == {"name": "of the other"}
        one.invalidate("*")
        two.local.clear()
        assert two("JKT") == {"name": "of the other"}
        assert two.computed == ["JKT"]
        one.value = {"name": "new"}
        assert one("JKT") == {"name": "new"}


@both_colours
def test_a_large_value_is_small_in_redis(every_server: Server, namespace: str, colour: Colour) -> None:
    """Above the policy's threshold it is compressed, and comes back equal in another process; below it stays as it is."""
    client = every_server.client()
    large, small = {"text": "Jakarta and Bandung. " * 5_000}, {"text": "Jakarta " * 20}
    with (
        Node(every_server.url, namespace, colour, compress_over="16KiB") as node,
        Node(every_server.url, namespace, colour, compress_over="16KiB") as other,
    ):
        for code, value in (("large", large), ("small", small)):
            node.value = value
            assert node(code) == value
            assert other(code) == value
        assert other.computed == []
        assert client.strlen(node.names.entry("stores:large")) < 5_000
        assert client.strlen(node.names.entry("stores:small")) > 160
        flags = [unseal(cast("bytes", client.get(node.names.entry(f"stores:{code}"))))[0].flags for code in ("large", "small")]
        assert flags == [COMPRESSED, 0]


def test_what_does_not_become_smaller_is_stored_as_it_is(server: Server, namespace: str) -> None:
    """Random bytes, a picture."""
    with Node(server.url, namespace, annotation=bytes, compress_over="1KiB") as node:
        node.value = os.urandom(50_000)
        node()
        header, _ = unseal(cast("bytes", server.client().get(node.names.entry("stores:JKT"))))
        assert header.flags == 0
        node.local.clear()
        assert node() == node.value
        assert node.computed == ["JKT"]


@both_colours
def test_a_raised_schema_version_leaves_older_entries_unread(every_server: Server, namespace: str, colour: Colour) -> None:
    """Old and new processes run side by side during a deploy: neither reads what the other wrote."""
    with (
        Node(every_server.url, namespace, colour, version=1) as old,
        Node(every_server.url, namespace, colour, version=2) as new,
        Node(every_server.url, namespace, colour, version=2) as third,
    ):
        new.value = {"name": "Jakarta", "open": True}
        assert old() == {"name": "Jakarta"}
        assert new() == {"name": "Jakarta", "open": True}
        assert third() == {"name": "Jakarta", "open": True}
        assert third.computed == []
        old.local.clear()
        assert old() == {"name": "Jakarta"}
        assert old.computed == ["JKT", "JKT"]
        assert [*old.events, *new.events, *third.events] == []


# --- types ------------------------------------------------------------------------------------------------------------------------


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass(frozen=True)
class Place:
    name: str
    at: tuple[float, float]


class Row(TypedDict):
    id: int
    label: NotRequired[str]


class Point(NamedTuple):
    x: int
    y: int


class Model(pydantic.BaseModel):
    id: int
    when: datetime.datetime | None = None


class Shipment(msgspec.Struct):
    id: int
    tags: set[str]


NOON = datetime.datetime(2026, 3, 15, 12, 0, 0, 5, tzinfo=datetime.UTC)

TYPES: dict[str, tuple[Any, Any]] = {
    "None": (None, None),
    "nothing or a number": (int | None, None),
    "bool": (bool, False),
    "int": (int, 0),
    "a large int": (int, 2**63),
    "float": (float, 0.1),
    "str": (str, ""),
    "str with everything": (str, "\0 é 😀"),
    "bytes": (bytes, b"\0\xff"),
    "list": (list[int], []),
    "dict": (dict[str, int], {"a": 1}),
    "dict by int": (dict[int, str], {1: "a"}),
    "tuple": (tuple[int, str], (1, "a")),
    "set": (set[int], {1, 2}),
    "frozenset": (frozenset[str], frozenset({"a"})),
    "datetime": (datetime.datetime, NOON),
    "date": (datetime.date, NOON.date()),
    "time": (datetime.time, datetime.time(12, 30)),
    "timedelta": (datetime.timedelta, datetime.timedelta(minutes=5)),
    "Decimal": (decimal.Decimal, decimal.Decimal("1.10")),
    "UUID": (uuid.UUID, uuid.UUID(int=7)),
    "Enum": (Color, Color.RED),
    "IntEnum": (Level, Level.HIGH),
    "dataclass": (Place, Place("Jakarta", (-6.2, 106.8))),
    "dataclasses": (list[Place], [Place("Jakarta", (-6.2, 106.8))]),
    "TypedDict": (Row, {"id": 1}),
    "NamedTuple": (Point, Point(1, 2)),
    "pydantic": (Model, Model(id=1, when=NOON)),
    "pydantic models by key": (dict[str, Model], {"a": Model(id=1)}),
    "msgspec": (Shipment, Shipment(1, {"a"})),
    "no annotation": (Any, {"a": [1, None, 2.5, "b", b"c", (1, 2)], "at": NOON}),
}


@pytest.mark.parametrize("kind", TYPES)
@both_colours
def test_the_same_type_comes_back_in_another_process(server: Server, namespace: str, colour: Colour, kind: str) -> None:
    """Through Redis, by the function's return annotation."""
    annotation, value = TYPES[kind]
    with (
        Node(server.url, namespace, colour, annotation=annotation) as node,
        Node(server.url, namespace, colour, annotation=annotation) as other,
    ):
        node.value = value
        assert node() is value
        found = other()
        assert other.computed == []
        assert repr(found) == repr(value)
        assert found == value
        assert type(found) is type(value)
        assert [*node.events, *other.events] == []


class Anything:
    """A class that no codec knows."""

    def __init__(self, name: str) -> None:
        self.name = name


@both_colours
def test_pickle_is_there_for_those_who_ask(server: Server, namespace: str, colour: Colour) -> None:
    """Signed: another secret can not read it, and then it is computed anew, with an event."""
    ours, theirs = PickleCodec(b"0123456789abcdef"), PickleCodec(b"another secret..")
    with (
        Node(server.url, namespace, colour, annotation=Anything, codec=ours) as node,
        Node(server.url, namespace, colour, annotation=Anything, codec=ours) as other,
        Node(server.url, namespace, colour, annotation=Anything, codec=theirs) as stranger,
    ):
        node.value = Anything("Jakarta")
        stranger.value = Anything("their own")
        node()
        found = other()
        assert isinstance(found, Anything)
        assert (found.name, other.computed) == ("Jakarta", [])
        assert stranger().name == "their own"
        assert stranger.computed == ["JKT"]
        assert stranger.names_of_events() == ["unreadable"]


# --- loops, threads, forks --------------------------------------------------------------------------------------------------------

LOOPS = """
import asyncio, sys, threading
from cachesync import Cache, Policy, Settings
from cachesync.core.settings import CoordinationSettings

wide = Settings(coordination=CoordinationSettings(budget="30s", lease="30s"))
cache = Cache(wide, policies=[Policy(name="all", match="*", ttl="10m", local_ttl="1ms")], redis=sys.argv[1], namespace=sys.argv[2])
computed = []

@cache.cached("sync:{n}")
def sync(n: int) -> int:
    computed.append(n)
    return n * n

@cache.cached("async:{n}")
async def other(n: int) -> int:
    computed.append(n)
    return n * n

async def ask(rounds: int) -> None:
    for _ in range(rounds):
        assert await asyncio.gather(*(other(n) for n in range(20))) == [n * n for n in range(20)]
        assert sync(3) == 9
        await asyncio.sleep(0.002)

asyncio.run(ask(3))
assert [sync(n) for n in range(20)] == [n * n for n in range(20)]
asyncio.run(ask(3))
threads = [threading.Thread(target=lambda: asyncio.run(ask(3))) for _ in range(3)]
for thread in threads:
    thread.start()
assert [sync(n) for n in range(20)] == [n * n for n in range(20)]
for thread in threads:
    thread.join()

async def end() -> None:
    await ask(1)
    await cache.aclose()

asyncio.run(end())
assert len(computed) == 40, computed
print("well")
"""

FORK = """
import os, sys
from cachesync import Cache, Policy, Settings
from cachesync.core.settings import CoordinationSettings

wide = Settings(coordination=CoordinationSettings(budget="30s", lease="30s"))
cache = Cache(wide, policies=[Policy(name="all", match="*", ttl="10m")], redis=sys.argv[1], namespace=sys.argv[2])

@cache.cached("n:{n}")
def square(n: int) -> int:
    return n * n

def ask(numbers) -> None:
    for n in numbers:
        assert square(n) == n * n, n
        assert cache.get(f"n:{n}") == n * n, n

ask(range(50))
children = []
for child in range(2):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            ask(range(0, 300))          # what the parent stored, and what nobody has yet
            assert not cache.invalidate(f"n:{child}").pending
            cache.close()
            code = 0
        finally:
            os._exit(code)
    children.append(pid)
ask(range(300, 600))
ask(range(300))
assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0]
ask(range(600))
assert not cache.invalidate("n:7").pending
cache.close()
print("well")
"""


def run_script(script: str, *arguments: str, warnings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", warnings, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


def test_one_cache_serves_loops_one_after_the_other_and_threads_beside_them(every_server: Server, namespace: str) -> None:
    """Each loop has connections of its own; a loop that ended leaves nothing open behind, and no warning."""
    done = run_script(LOOPS, every_server.url, namespace, warnings="error")
    assert (done.stdout, done.stderr, done.returncode) == ("well\n", "", 0)


def test_a_forked_child_speaks_on_connections_of_its_own(every_server: Server, namespace: str) -> None:
    """Parent and children ask at the same time; each is answered with what it asked for."""
    done = run_script(FORK, every_server.url, namespace, warnings="ignore::DeprecationWarning")  # Python 3.12 warns of fork in threads
    assert (done.stdout, done.stderr, done.returncode) == ("well\n", "", 0)


def test_a_task_that_is_cancelled_takes_nothing_from_the_others(server: Server, proxy: Proxy, namespace: str) -> None:
    """They travel in one trip: the others are answered, and the connection stays usable."""

    async def story() -> None:
        shared = RedisShared(proxy.url, namespace=namespace)
        layer = shared.of_loop()
        assert isinstance(await layer.perform(Snapshot()), Joined)
        proxy.hold()
        tasks = [asyncio.ensure_future(layer.perform(Fetch((f"key{number}",)))) for number in range(10)]
        await asyncio.sleep(0.01)
        for task in tasks[::2]:
            task.cancel()
        proxy.release()
        replies = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(reply) for reply in replies] == [asyncio.CancelledError, Fetched] * 5
        assert isinstance(await layer.perform(Fetch(("a",))), Fetched)
        await shared.aclose()

    asyncio.run(story())


def test_each_step_of_a_trip_has_its_own_deadline(proxy: Proxy, namespace: str) -> None:
    """One that has no time left is answered while the others still wait."""

    async def story() -> None:
        shared = RedisShared(proxy.url, namespace=namespace)
        layer = shared.of_loop()
        assert isinstance(await layer.perform(Snapshot()), Joined)
        proxy.hold()
        now = time.monotonic()
        patient = asyncio.ensure_future(layer.perform(Fetch(("patient",), now + 60)))
        hurried = asyncio.ensure_future(layer.perform(Fetch(("hurried",), now + 0.02)))
        assert isinstance(await hurried, Failed)
        assert not patient.done()
        proxy.release()
        assert isinstance(await patient, Fetched)
        await shared.aclose()

    asyncio.run(story())


async def held_up_until(deadline: float, proxy: Proxy) -> None:
    """The loop stands still until a deadline is over, and what the proxy held back comes meanwhile."""
    await asyncio.sleep(0.05)  # what was asked is on its way
    proxy.release()
    time.sleep(max(0.0, deadline - time.monotonic()) + 0.1)  # noqa: ASYNC251 - it is this that holds the loop up


@pytest.mark.parametrize("kind", ["a read", "another step", "two deadlines"])
def test_a_loop_that_was_held_up_reads_what_has_come_before_it_gives_up(proxy: Proxy, namespace: str, kind: str) -> None:
    """The answer and the end of the time are found in the same turn of the loop: the answer counts."""

    async def story() -> None:
        shared = RedisShared(proxy.url, namespace=namespace)
        layer = shared.of_loop()
        assert isinstance(await layer.perform(Snapshot()), Joined)
        proxy.hold(replies=True)
        deadline = time.monotonic() + 1
        steps: dict[str, list[SharedStep]] = {
            "a read": [Fetch(("a",), deadline)],
            "another step": [Confirm(deadline)],
            "two deadlines": [Confirm(deadline), Confirm(deadline + 1)],
        }
        replies = asyncio.gather(*map(layer.perform, steps[kind]))
        await held_up_until(deadline, proxy)
        assert not any(isinstance(reply, Failed) for reply in await replies)
        await shared.aclose()

    asyncio.run(story())


def test_a_loop_that_was_held_up_before_it_could_ask_says_so() -> None:
    """Nobody was asked, so nobody has failed: not where the time was over before the trip, nor while its connection was opened."""

    async def story() -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as silent:
            shared = RedisShared(f"redis://127.0.0.1:{silent.getsockname()[1]}", namespace="ns")
            layer = shared.of_loop()
            for pause in (0.0, 0.05):
                deadline = time.monotonic() + (1.0 if pause else 0.01)
                asked = asyncio.ensure_future(layer.perform(Confirm(deadline)))
                if pause:
                    await asyncio.sleep(pause)
                time.sleep(max(0.0, deadline - time.monotonic()) + 0.2)  # noqa: ASYNC251 - it is this that holds the loop up
                reply = await asked
                assert isinstance(reply, Failed)
                assert isinstance(reply.error.__cause__, OutOfTimeError)
            await shared.aclose()

    asyncio.run(story())


def test_a_thread_that_was_held_up_takes_what_has_come() -> None:
    """Whoever reads an answer when the time is over has it all the same. What has not come by then is waited for no longer."""

    class Held:
        def __init__(self, *pieces: bytes) -> None:
            self.pieces = list(pieces)

        def settimeout(self, seconds: float) -> None:
            assert seconds > 0

        def sendall(self, packed: bytes) -> None:
            pass

        def recv(self, size: int) -> bytes:
            until(lambda: time.monotonic() > deadline, "the end of the time")
            return self.pieces.pop(0)

    class Opened:
        def __init__(self, *pieces: bytes) -> None:
            self._sock = Held(*pieces)

    deadline = time.monotonic() + 0.05
    assert Line(Opened(b"+OK\r\n")).say(b"", 1, deadline) == [b"OK"]
    deadline = time.monotonic() + 0.05
    with pytest.raises(TimeoutError):
        Line(Opened(b"+OK\r\n", b"+OK\r\n")).say(b"", 2, deadline)


def test_an_invalidation_reaches_a_process_that_listens(every_server: Server, namespace: str) -> None:
    """On each kind of server, in the time it takes to read the log."""
    with Node(every_server.url, namespace, listen=True) as node, Node(every_server.url, namespace, "async def", listen=True) as other:
        node()
        other()
        for version in range(1, 4):
            node.value = other.value = version
            (node if version % 2 else other).invalidate("stores:*")
            until(lambda: (node(), other()) == (version, version), "both processes are fresh")  # noqa: B023 - called before the next turn


# --- replies ----------------------------------------------------------------------------------------------------------------------

WIRE_NAMES = Names.of("ns")
plain_replies = (
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=12) | st.sampled_from([b"OK", b"7", b"9f86d081884c7d65", b"inf"])
)
wire_replies = st.recursive(plain_replies, lambda inner: st.lists(inner, max_size=5), max_leaves=12)
QUESTION = Question("id", Targets(KEY, ("a",)), Stamp("9f86d081884c7d65", 3))
STEPS: list[SharedStep] = [
    Fetch(()),
    Fetch(("a",)),
    Fetch(("a", "b")),
    Fetch(("a",), strict=True),
    Lease("a", "token", NOWHERE, 1_000, None),
    Seize("a", "token", NOWHERE, 1_000, unlink=True),
    Extend("a", "token", 1_000),
    Release("a", "token"),
    Store("a", "token", b"blob", 1_000),
    Announce((Targets(KEY, ("a",)),), ("nonce",), "me", ("a",)),
    ReadLog(Stamp("9f86d081884c7d65", 3)),
    Confirm(),
    Snapshot(),
    ReadBans(0, 2),
    Scan(0, 10),
    Heads((b"a", b"b")),
    Discard(((b"a", b"identity"),)),
    Inquire(QUESTION),
    steps.Testify(QUESTION, "me", 3),
    Collect(QUESTION),
    steps.Throw((("all", "off"),)),
]


def is_stamp(found: Any) -> bool:
    return type(found) is Stamp and len(bytes.fromhex(found.epoch)) == 8 and type(found.number) is int


def are(kind: type, *found: object) -> bool:
    return all(type(one) is kind for one in found)


def is_well_formed(step: SharedStep, reply: Any) -> bool:
    """Whether the fields of a reply have the types that they are declared with."""
    match reply:
        case Fetched():
            asked = len(step.keys) if isinstance(step, Fetch) else len(step.names) if isinstance(step, Heads) else -1
            kinds: set[Any] = {type(blob) for blob in reply.blobs}
            return len(reply.blobs) == asked and kinds <= {bytes, type(None)} and is_head(reply.head) and are(int, reply.now)
        case Leased():
            told = are(bool, reply.granted) and type(reply.blob) in {bytes, type(None)} and is_head(reply.head) and are(int, reply.now)
            return told and (reply.holder is None or (are(str, reply.holder.token) and are(Stamp, reply.holder.stamp)))
        case Done():
            return are(bool, reply.done)
        case Announced():
            return is_stamp(reply.last) and type(reply.replicas) in {int, type(None)}
        case Log():
            return are(Record, *reply.records) and is_head(reply.head) and are(bool, reply.gap)
        case Beat():
            return is_head(reply.head) and are(str, reply.nonce) and are(bool, reply.is_master, reply.is_same) and says(reply.thrown)
        case Joined():
            cuts = reply.lineage.cuts
            return is_stamp(reply.head) and are(str, reply.nonce, *cuts) and are(int, *cuts.values()) and says(reply.thrown)
        case Bans():
            numbers = [number for _, number in reply.found]
            well = are(int, *numbers, *reply.hard, reply.soft) and are(bool, reply.more) and are(Floors, reply.hard)
            return well and type(reply.epoch) in {str, type(None)} and are(str, *(text for one, _ in reply.found for text in one.texts))
        case Scanned():
            keys = {type(key) for _, key in reply.found}
            return are(int, reply.cursor) and are(bytes, *(name for name, _ in reply.found)) and keys <= {str, type(None)}
        case Discarded():
            return are(int, reply.entries)
        case steps.Testimony():
            return are(str, *(origin for origin, _ in reply.answers)) and are(int, *(number for _, number in reply.answers))
        case Thrown():
            return says(reply)
        case _:
            return False


def says(thrown: Any) -> bool:
    return are(int, thrown.version) and are(str, *(text for switched in thrown.switched for text in switched))


def is_head(found: object) -> bool:
    return found is None or is_stamp(found)


@settings(max_examples=400)
@given(st.sampled_from(STEPS), st.data())
def test_any_reply_is_understood_or_refused(step: SharedStep, data: st.DataObject) -> None:
    """A server that is none of ours may say anything: nothing but well-formed replies comes out, or the one error that is caught."""
    bounds = data.draw(st.sampled_from([Bounds(), Bounds(durable=100)]))
    count = len(commands_of(step, WIRE_NAMES, bounds))
    replies = data.draw(st.lists(wire_replies, min_size=count, max_size=count))
    try:
        reply = reply_of(step, replies, WIRE_NAMES)
    except WireError:
        return
    assert is_well_formed(step, reply), reply


EPOCH = b"9f86d081884c7d65"
NO_FLOORS = [EPOCH, None, None, None, None]
MARKED = [b"e" + EPOCH]
ODD_REPLIES: dict[str, tuple[SharedStep, list[Any]]] = {
    "a status for everything": (Fetch(("a",)), [b"OK", b"OK", b"OK"]),
    "no entry for a key": (Fetch(("a",)), [[b"1", b"2"], [None, None], []]),
    "an entry too many": (Fetch(("a",)), [[b"1", b"2"], [None, None], [None, None]]),
    "a number for an entry": (Fetch(("a",)), [[b"1", b"2"], [None, None], [7]]),
    "a number for the beginning of an entry": (Heads((b"a",)), [[b"1", b"2"], [None, None], 1]),
    "no clock": (Fetch(("a",)), [None, [None, None], [None]]),
    "half a head": (Fetch(("a",)), [[b"1", b"2"], [EPOCH, b"x"], [None]]),
    "an epoch of another kind": (Fetch(("a",)), [[b"1", b"2"], [b"zz", b"1"], [None]]),
    "a strict answer of a replica": (Fetch(("a",), strict=True), [[b"1", b"2"], [EPOCH, b"1"], [None], [b"slave", b"h", 1, b"up", 0]]),
    "a holder without a position": (Lease("a", "t", NOWHERE, 1, None), [[b"1", b"2"], [EPOCH, b"1"], [0, None, b"token"]]),
    "a ban at infinity": (ReadBans(0, 10), [[b"ta", b"inf"], NO_FLOORS, MARKED]),
    "a ban at nowhere": (ReadBans(0, 10), [[b"ta", b"nan"], NO_FLOORS, MARKED]),
    "a ban without a number": (ReadBans(0, 10), [[b"ta"], NO_FLOORS, MARKED]),
    "a floor that is no number": (ReadBans(0, 10), [[], [EPOCH, b"x", None, None, None], MARKED]),
    "cuts that are no pairs": (Snapshot(), [[EPOCH, b"1", b"c", b"[1]", None]]),
    "cuts that can not be read": (Snapshot(), [[EPOCH, b"1", b"c", b"[[", None]]),
    "no word of the role": (Confirm(), [[EPOCH, b"1", b"c", b"r", None], None]),
    "an answer without a number": (Collect(QUESTION), [[b"me"], 1]),
    "nothing about what is switched": (steps.Throw(()), [b"OK"]),
}


@pytest.mark.parametrize("case", ODD_REPLIES)
def test_a_reply_of_another_shape_is_refused(case: str) -> None:
    """It becomes a failed step, and the call goes on without Redis."""
    step, replies = ODD_REPLIES[case]
    with pytest.raises(WireError):
        reply_of(step, replies, WIRE_NAMES)


@given(st.text(st.characters(), max_size=30))
def test_what_is_written_out_by_hand_is_what_would_be_packed(key: str) -> None:
    """The commonest step has a way of its own onto the wire: the bytes are the same."""
    step = Fetch((key,))
    assert pack(step, WIRE_NAMES, Bounds()) == (pack_all(commands_of(step, WIRE_NAMES, Bounds())), 3)


def test_what_redis_says_of_itself_is_read() -> None:
    """Where the log ends is told by a master that numbers it: a replica is none, nor is a server that has taken over since."""
    told = [EPOCH, b"7", b"nonce", b"aa11", None]
    info = b"# Replication\r\nrole:%b\r\nconnected_slaves:0\r\nmaster_replid:%b\r\nmaster_replid2:00\r\n"
    beat = Beat(Stamp(EPOCH.decode(), 7), "nonce", is_master=True, is_same=True, thrown=NOTHING_THROWN)
    assert reply_of(Confirm(), [told, info % (b"master", b"aa11")], WIRE_NAMES) == beat
    assert reply_of(Confirm(), [told, info % (b"slave", b"aa11")], WIRE_NAMES) == beat._replace(is_master=False)
    assert reply_of(Confirm(), [told, info % (b"master", b"bb22")], WIRE_NAMES) == beat._replace(is_same=False)
    unlogged = beat._replace(head=None, nonce="", is_same=False)
    assert reply_of(Confirm(), [[None] * 5, info % (b"master", b"aa11")], WIRE_NAMES) == unlogged
    switched = b'{"v":3,"s":{"all":"off"}}'
    assert reply_of(Confirm(), [[*told[:4], switched], info % (b"master", b"aa11")], WIRE_NAMES) == beat._replace(
        thrown=Thrown(3, (("all", "off"),))
    )
    assert reply_of(Confirm(), [told, b""], WIRE_NAMES) == beat._replace(is_master=False, is_same=False)


def test_bans_are_read_with_their_mode_and_floors() -> None:
    """A capital letter is a soft one. What a later release adds, and what marks the epoch, is passed over."""
    found = [b"kstores:X", b"1", b"Tall", b"2", b"z?", b"3", b"", b"4", b"*", b"5", b"g*:\xc3\xa9", b"9007199254740992"]
    floors = [EPOCH, b"3", None, b"4", b"5"]
    bans = Bans(
        ((Targets("k", ("stores:X",)), 1), (Targets("t", ("all",), SOFT), 2), (Targets("g", ("*:é",)), 2**53)),
        more=True,
        epoch=EPOCH.decode(),
        hard=Floors(3, 0, 4),
        soft=5,
    )
    assert reply_of(ReadBans(0, 6), [found, floors, MARKED], WIRE_NAMES) == bans
    for lost in ([], [b"e0000000000000000"], [b"another program's"]):
        assert reply_of(ReadBans(0, 6), [found, floors, lost], WIRE_NAMES) == bans._replace(epoch=None), "bans were lost meanwhile"


def test_a_step_that_is_refused_in_a_trip_has_failed_alone() -> None:
    """As has one whose reply can not be read. What is common to several is asked once, and refused for all who need it."""
    steps: list[SharedStep] = [
        Fetch(("a", "b")),
        Lease("a", "t", NOWHERE, 1000, None),
        Store("b", "t", b"x", 1000),
        Fetch(("c",)),
        Release("c", "t"),
    ]
    trip = Trip(steps, Names.of("ns"), Bounds())
    clock, head, blobs = [b"1", b"0"], [b"00112233445566ff", b"5"], [b"A", None, b"C"]
    assert trip.count == 6
    replies = trip.replies([clock, head, blobs, ResponseError("OOM"), 1, "a surprise"])
    at = Stamp("00112233445566ff", 5)
    assert [reply for reply in replies if not isinstance(reply, Failed)] == [
        Fetched((b"A", None), at, 1000),
        Done(done=True),
        Fetched((b"C",), at, 1000),
    ]
    assert [type(reply) for reply in replies] == [Fetched, Failed, Done, Fetched, Failed]
    replies = trip.replies([clock, head, ResponseError("NOPERM"), [1, None, None], 1, 0])
    assert [type(reply) for reply in replies] == [Failed, Leased, Done, Failed, Done]
    replies = trip.replies([ResponseError("NOPERM"), head, blobs, [1, None, None], 1, 0])
    assert [type(reply) for reply in replies] == [Failed, Failed, Done, Failed, Done]
