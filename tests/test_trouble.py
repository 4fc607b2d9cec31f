"""A layer in trouble is slower, not wrong, and never silent: what calls do while Redis is unreachable, mute, confused or full."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self

import pytest

from cachesync import MISSING, Cache, CodecError, Event, LocalMemory, Policy, PolicyError, RedisShared, Settings
from cachesync.core.names import Names
from cachesync.core.records import KEY, Targets
from cachesync.core.settings import CoordinationSettings, RedisSettings
from cachesync.core.stamps import Stamp
from cachesync.core.steps import Announce, Announced, Failed, Fetch, Joined, Log, ReadLog, SharedStep, Snapshot
from cachesync.errors import LayerError
from cachesync.protocols import Codec
from cachesync.testing import run_together
from support.nodes import engine_of, read_log, until
from support.proxy import Proxy
from support.servers import Server, flavours

Colour = Literal["def", "async def"]
both_colours = pytest.mark.parametrize("colour", ["def", "async def"])

COARSE = 10.0
"""Seconds within which something ends that has a budget of 0.25: a hang is found, a busy machine is none."""


class Anything:
    """A class that no codec knows."""


class Node:
    """One cache and one cached function, used in one colour, on whatever stands at ``url``."""

    def __init__(
        self, url: str, namespace: str = "trouble", colour: Colour = "def", *, annotation: Any = Any, codec: Codec | None = None,
        listen: bool = False, budget: str = "30s", max_lag: str = "2s", tags: tuple[str, ...] = ("all",), **policy: Any,
    ) -> None:  # fmt: skip
        self.events: list[Event] = []
        self.computed: list[str] = []
        self.value: Any = {"name": "Jakarta"}
        self.during: Callable[[], object] = lambda: None
        self.local = LocalMemory()
        self.names = Names.of(namespace)
        coordination = CoordinationSettings(budget=budget, max_lag=max_lag)
        settings = Settings(namespace=namespace, redis=RedisSettings(url=url), coordination=coordination)
        policies = [Policy(name="stores", match="stores:*", ttl="10m", tags=tags, **policy)]
        self.cache = Cache(settings, policies=policies, local=self.local, listen=listen, on_event=self.events.append)
        self._runner = asyncio.Runner() if colour == "async def" else None

        def store(code: str) -> Any:
            self.computed.append(code)
            self.during()
            return self.value

        async def astore(code: str) -> Any:
            self.computed.append(code)
            await asyncio.to_thread(self.during)
            return self.value

        store.__annotations__["return"] = astore.__annotations__["return"] = annotation
        decorate = self.cache.cached("stores:{code}", codec=codec)
        self.store: Any = decorate(store) if self._runner is None else decorate(astore)

    def __call__(self, code: str = "JKT") -> Any:
        return self.run(self.store(code))

    def run(self, answer: Any) -> Any:
        """The answer of a ``def``, or of a coroutine."""
        if self._runner is None:
            return answer

        async def wait() -> Any:
            return await answer

        return self._runner.run(wait())

    def crowd(self, size: int, code: str = "JKT") -> list[Any]:
        """Callers at once, by threads or by tasks; the computation waits until all have come."""
        self.during = lambda: until(lambda: self.cache.stats().total.joined >= size - 1, "the others join")
        if self._runner is None:
            found: list[Any] = []
            run_together([lambda: found.append(self(code))] * size)
            return found

        async def gather() -> list[Any]:
            return list(await asyncio.gather(*(self.store(code) for _ in range(size))))

        return self._runner.run(gather())

    def invalidate(self, *patterns: str, tags: tuple[str, ...] = ()) -> Any:
        cache = self.cache
        return cache.invalidate(*patterns, tags=tags) if self._runner is None else self.run(cache.ainvalidate(*patterns, tags=tags))

    def told(self, name: str) -> list[Event]:
        return [event for event in self.events if event.name == name]

    def rest_is_over(self) -> None:
        """As if the moment in which a failed layer is left alone were over."""
        engine_of(self.cache).breaker.end_rest()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._runner is None:
            self.cache.close()
        else:
            self._runner.run(self.cache.aclose())
            self._runner.close()


@contextmanager
def in_time() -> Generator[None, None, None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < COARSE, "something waited for Redis beyond its budget"


class Impostor:
    """Listens where Redis should, and answers every piece it is sent with the same bytes; with ``None`` it hangs up."""

    def __init__(self, answer: bytes | None, *, again: bool = False) -> None:
        self._answer = answer
        self._again = again
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                self._threads.append(threading.Thread(target=self._converse, args=(client,)))
                self._threads[-1].start()

    def _converse(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while client.recv(65536):
                if self._answer is None:
                    break
                client.sendall(self._answer)
                while self._again and not self._stopped.wait(0.01):
                    client.sendall(self._answer)
        client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client in self._open:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()


# --- situations -------------------------------------------------------------------------------------------------------------------


@contextmanager
def nothing_listens() -> Generator[str, None, None]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # held, so that nobody else comes to listen there
        yield f"redis://127.0.0.1:{probe.getsockname()[1]}/0"


@contextmanager
def no_such_host() -> Generator[str, None, None]:
    yield "redis://no-such-host.invalid:6379/0"


@contextmanager
def no_such_socket() -> Generator[str, None, None]:
    yield "unix:///no/such/redis.sock"


@contextmanager
def black_hole() -> Generator[str, None, None]:
    with Server() as server, Proxy("127.0.0.1", server.port) as proxy:
        proxy.hold()
        yield proxy.url


@contextmanager
def frozen_server() -> Generator[str, None, None]:
    with Server() as server:
        server.freeze()
        yield server.url


@contextmanager
def slow_network() -> Generator[str, None, None]:
    """Each trip takes longer than a call may."""
    with Server() as server, Proxy("127.0.0.1", server.port) as proxy:
        proxy.delay(0.3)
        yield proxy.url


@contextmanager
def wrong_password() -> Generator[str, None, None]:
    with Server() as server:
        server.client().config_set("requirepass", "right")
        yield f"redis://:hunter2@127.0.0.1:{server.port}/0"


@contextmanager
def no_password() -> Generator[str, None, None]:
    with Server() as server:
        server.client().config_set("requirepass", "right")
        yield f"redis://127.0.0.1:{server.port}/0"


@contextmanager
def no_permission() -> Generator[str, None, None]:
    with Server() as server:
        server.client().acl_setuser("reader", enabled=True, passwords=["+hunter2"], keys=["*"], categories=["-@all", "+@read"])
        yield f"redis://reader:hunter2@127.0.0.1:{server.port}/0"


@contextmanager
def full_server() -> Generator[str, None, None]:
    with Server(options=("--maxmemory", "1mb", "--maxmemory-policy", "noeviction")) as server:
        yield server.url


AT_ONCE = ("--repl-diskless-sync-delay", "0")
"""A master that waits for no second replica."""


@contextmanager
def read_only_replica() -> Generator[str, None, None]:
    with Server(options=AT_ONCE) as master, Server(options=("--replicaof", "127.0.0.1", str(master.port))) as replica:
        until(lambda: replica.client().info("replication")["master_link_status"] == "up", "the replica is in step")
        yield replica.url


@contextmanager
def no_such_database() -> Generator[str, None, None]:
    with Server() as server:
        yield f"redis://127.0.0.1:{server.port}/999"


def impostor(answer: bytes | None, *, again: bool = False) -> Callable[[], Impostor]:
    return lambda: Impostor(answer, again=again)


SITUATIONS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "nothing listens": nothing_listens,
    "no such host": no_such_host,
    "no such socket": no_such_socket,
    "a black hole": black_hole,
    "a frozen server": frozen_server,
    "a slow network": slow_network,
    "a wrong password": wrong_password,
    "no password": no_password,
    "no permission": no_permission,
    "no such database": no_such_database,
    "a full server": full_server,
    "a read-only replica": read_only_replica,
    "a web server": impostor(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
    "zeros": impostor(bytes(1_000)),
    "noise": impostor(bytes(range(255, -1, -1)) * 20),
    "always OK": impostor(b"+OK\r\n" * 3),
    "always nil": impostor(b"$-1\r\n" * 3),
    "always one": impostor(b":1\r\n" * 3),
    "always empty lists": impostor(b"*0\r\n" * 3),
    "always an error": impostor(b"-ERR unknown command\r\n" * 3),
    "always loading": impostor(b"-LOADING the dataset is loaded into memory\r\n" * 3),
    "a bulk that never ends": impostor(b"$1000000000\r\nabc"),
    "a list that never ends": impostor(b"*1000\r\n:1\r\n"),
    "a byte now and then": impostor(b"x", again=True),
    "numbers now and then": impostor(b"$3\r\nabc\r\n", again=True),
    "hanging up": impostor(None),
}
in_every_situation = pytest.mark.parametrize("situation", SITUATIONS)


@contextmanager
def node_in(situation: str, colour: Colour, **options: Any) -> Generator[Node, None, None]:
    with SITUATIONS[situation]() as found:
        with Node(getattr(found, "url", found), colour=colour, budget="250ms", **options) as node:
            yield node


@in_every_situation
@both_colours
def test_calls_answer_with_the_function_s_own_result(colour: Colour, situation: str) -> None:
    """Each key is computed, nothing hangs or raises, an event says what is wrong, and no password is in it."""
    with node_in(situation, colour) as node, in_time():
        for code in ("JKT", "BDG", "SUB"):
            node.value = {"code": code}
            assert node(code) == {"code": code}
        assert node.computed == ["JKT", "BDG", "SUB"]
        failed = node.told("layer_failed")
        assert failed
        assert set(failed[0].fields) == {"layer", "step", "error"}
        assert failed[0].fields["layer"] == "shared"
        assert "hunter2" not in str(failed)


@in_every_situation
@both_colours
def test_a_crowd_computes_once(colour: Colour, situation: str) -> None:
    """Single flight in the process needs no Redis."""
    with node_in(situation, colour) as node, in_time():
        assert node.crowd(12) == [{"name": "Jakarta"}] * 12
        assert node.computed == ["JKT"]


@pytest.mark.parametrize("situation", ["nothing listens", "a black hole", "always OK", "a read-only replica"])
@both_colours
def test_everything_else_answers_too(colour: Colour, situation: str) -> None:
    """Batches, looking, refreshing, setting, invalidating, and closing the cache."""
    with in_time(), node_in(situation, colour, listen=True) as node:
        node.cache.stats()
        assert node.run(node.store.many([("a",), ("b",), ("a",)])) == [{"name": "Jakarta"}] * 3
        assert sorted(node.computed) == ["a", "b"]
        node.value = {"name": "new"}
        assert node.run(node.store.refresh("a")) == {"name": "new"}
        assert node.invalidate("stores:*").pending
        assert node.run(node.store.set({"name": "set"}, "b")).pending
        assert node("b") == {"name": "new"}
        if colour == "def":
            assert node.cache.get("stores:never") is MISSING
            assert node.cache.peek("stores:never") is None
        else:
            assert node.run(node.cache.aget("stores:never")) is MISSING
            assert node.run(node.cache.apeek("stores:never")) is None
        assert node.told("invalidation_queued")


@both_colours
def test_what_the_function_raises_arrives_as_it_left(colour: Colour) -> None:
    """Also while Redis is down: the user's exception, not ours."""
    error = LookupError("no such store")

    def fail() -> None:
        raise error

    with node_in("nothing listens", colour) as node:
        node.during = fail
        with pytest.raises(LookupError) as raised:
            node()
        assert raised.value is error


@both_colours
def test_a_layer_that_failed_is_left_alone_for_a_moment(proxy: Proxy, namespace: str, colour: Colour) -> None:
    """An outage costs one budget now and then, not one on every call; when the moment is over, it is asked again."""
    with Node(proxy.url, namespace, colour) as node:
        node("JKT")
        proxy.hold()
        node.local.clear()
        engine_of(node.cache).budget = 0.25
        assert node("JKT") == {"name": "Jakarta"}
        assert len(node.told("layer_failed")) == 1
        engine_of(node.cache).breaker.resting_until = float("inf")
        with in_time():
            for number in range(100):
                node(f"code{number}")
        assert len(node.told("layer_failed")) == 1
        proxy.release()
        proxy.cut()
        engine_of(node.cache).budget = 30.0
        node.rest_is_over()
        assert node("BDG") == {"name": "Jakarta"}
        assert [event.name for event in node.events] == ["layer_failed", "layer_recovered"]
        node.local.clear()
        assert node("BDG") == {"name": "Jakarta"}
        assert node.computed.count("BDG") == 1, "it is stored in Redis again"


def test_a_loop_that_was_held_up_declares_no_outage(server: Server, namespace: str) -> None:
    """A call that could not be sent in time computes on its own, and tells; Redis is asked by the next one."""
    events: list[Event] = []

    async def hold_up() -> None:
        time.sleep(0.2)  # noqa: ASYNC251 - it is this that holds the loop up

    async def story() -> None:
        patient = Settings(coordination=CoordinationSettings(budget=30.0, max_lag=60.0))
        policies = [Policy(name="items", match="item:*", ttl="1h")]
        cache = Cache(patient, policies=policies, redis=server.url, namespace=namespace, on_event=events.append)

        @cache.cached("item:{number}")
        async def item(number: int) -> int:
            return number

        assert await item(1) == 1
        engine_of(cache).budget = 0.05
        assert (await asyncio.gather(item(2), hold_up()))[0] == 2
        assert engine_of(cache).breaker.state == "closed"
        await cache.aclose()

    asyncio.run(story())
    assert [str(event.fields["error"]).endswith("the shared layer has not failed") for event in events] == [True]


@pytest.mark.parametrize("budget", [0.005, 0.25, 7.0])
def test_of_a_budget_something_is_left_to_go_on(budget: float) -> None:
    """Timers ring late, and a silent layer may not cost more than the budget: not all of it is waited."""
    cache = Cache(Settings(coordination=CoordinationSettings(budget=budget)), policies=[Policy(name="all", match="*", ttl="1h")])
    assert budget * 0.97 < engine_of(cache).budget <= budget * 0.9995
    assert engine_of(cache).budget >= budget - 0.005


@both_colours
def test_a_closed_cache_leaves_a_layer_alone_that_failed_and_says_so(proxy: Proxy, namespace: str, colour: Colour) -> None:
    """It can be used on: an outage costs one budget then, as before, and is not silent."""
    with Node(proxy.url, namespace, colour, listen=True) as node:
        node("JKT")
        if colour == "def":
            node.cache.close()
        else:
            node.run(node.cache.aclose())
        assert node.events == []
        proxy.hold()
        node.local.clear()
        engine_of(node.cache).budget = 0.25
        assert node("JKT") == {"name": "Jakarta"}
        assert len(node.told("layer_failed")) == 1
        engine_of(node.cache).breaker.resting_until = float("inf")
        with in_time():
            for number in range(100):
                node(f"code{number}")
        assert len(node.told("layer_failed")) == 1
        proxy.release()
        proxy.cut()
        engine_of(node.cache).budget = 30.0
        node.rest_is_over()
        assert node("BDG") == {"name": "Jakarta"}
        assert [event.name for event in node.events] == ["layer_failed", "layer_recovered"]


# --- going away -------------------------------------------------------------------------------------------------------------------


def kill(server: Server, proxy: Proxy) -> None:
    server.kill()


def freeze(server: Server, proxy: Proxy) -> None:
    server.freeze()


def cut_and_refuse(server: Server, proxy: Proxy) -> None:
    proxy.refuse()


def hold(server: Server, proxy: Proxy) -> None:
    proxy.hold()


def lose_replies(server: Server, proxy: Proxy) -> None:
    proxy.hold(replies=True)


@pytest.fixture
def fresh_proxy(fresh_server: Server) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", fresh_server.port) as own:
        yield own


@pytest.mark.parametrize("go_away", [kill, freeze, cut_and_refuse, hold, lose_replies])
@both_colours
def test_a_server_may_go_away_while_a_value_is_computed(
    fresh_server: Server, fresh_proxy: Proxy, colour: Colour, go_away: Callable[[Server, Proxy], None]
) -> None:
    """The result is delivered, with an event; and the process goes on without it."""
    with Node(fresh_proxy.url, colour=colour, budget="250ms") as node, in_time():
        node("BDG")
        node.during = lambda: go_away(fresh_server, fresh_proxy)
        assert node("JKT") == {"name": "Jakarta"}
        node.during = lambda: None
        assert node("SUB") == {"name": "Jakarta"}
        assert node.computed == ["BDG", "JKT", "SUB"]
        assert node.told("layer_failed")


@both_colours
def test_a_server_that_lost_everything_is_joined_anew(fresh_server: Server, colour: Colour) -> None:
    """Restarted without its data: another log, so older copies are worth nothing; then everything is as before."""
    with Node(fresh_server.url, colour=colour) as node, Node(fresh_server.url) as other:
        node("JKT")
        assert node.cache.stats().position is not None
        before = node.cache.stats().position
        fresh_server.restart()
        node.value = {"name": "new"}
        assert node("BDG") == {"name": "new"}
        assert node("JKT") == {"name": "new"}, "the copy belonged to a log that is gone"
        after = node.cache.stats().position
        assert before is not None
        assert after is not None
        assert before.epoch != after.epoch
        assert other("JKT") == {"name": "new"}
        assert other.computed == []


@both_colours
def test_an_outage_in_the_middle_of_a_batch_loses_no_result(fresh_server: Server, fresh_proxy: Proxy, colour: Colour) -> None:
    """Each of the calls is answered."""
    codes = [f"code{number}" for number in range(10)]
    with Node(fresh_proxy.url, colour=colour) as node, in_time():
        node("JKT")
        node.during = fresh_proxy.refuse
        assert node.run(node.store.many([(code,) for code in codes])) == [{"name": "Jakarta"}] * 10
        assert sorted(node.computed) == sorted(["JKT", *codes])


# --- invalidations during an outage -----------------------------------------------------------------------------------------------

WAYS: dict[str, Callable[[Node], Any]] = {
    "key": lambda node: node.run(node.store.invalidate("JKT")),
    "key as text": lambda node: node.invalidate("stores:JKT"),
    "prefix": lambda node: node.invalidate("stores:*"),
    "glob": lambda node: node.invalidate("*:JKT"),
    "tag": lambda node: node.invalidate(tags=("all",)),
    "everything": lambda node: node.invalidate("*"),
}


@pytest.mark.parametrize("way", WAYS)
@both_colours
def test_an_invalidation_during_an_outage_holds_here_and_is_announced_later(
    server: Server, proxy: Proxy, namespace: str, colour: Colour, way: str
) -> None:
    """Here at once; elsewhere when Redis can be told. Meanwhile the stamp says that it is pending, and so does an event."""
    with (
        Node(proxy.url, namespace, colour, listen=True, on_disconnect="serve", stale_if_error="1h") as node,
        Node(server.url, namespace, colour, listen=True) as other,
    ):
        assert (node(), other()) == ({"name": "Jakarta"}, {"name": "Jakarta"})
        proxy.refuse()
        node.value = other.value = {"name": "new"}
        assert node() == {"name": "Jakarta"}, "nobody has said that it changed"
        stamp = WAYS[way](node)
        assert stamp.pending
        assert node() == {"name": "new"}
        assert len(node.told("invalidation_queued")) == 1
        assert other() == {"name": "Jakarta"}, "it can not know"
        proxy.admit()
        until(lambda: other() == {"name": "new"}, "the invalidation is announced")
        until(lambda: not node.cache.stats().log.queued, "nothing waits any more")
        assert node.told("invalidated")
        assert node() == {"name": "new"}
        assert not node.invalidate("stores:BDG").pending


@both_colours
def test_a_queue_that_overflows_becomes_everything(server: Server, proxy: Proxy, namespace: str, colour: Colour) -> None:
    """Too many to remember one by one: more is invalidated than was asked for, never less."""
    with Node(proxy.url, namespace, colour, listen=True) as node, Node(server.url, namespace, colour, listen=True) as other:
        node()
        other()
        proxy.refuse()
        for number in range(1_001):
            assert node.invalidate(f"stores:code{number}").pending
        node.value = other.value = {"name": "new"}
        proxy.admit()
        until(lambda: other() == {"name": "new"}, "everything is announced")


@both_colours
def test_closing_gives_queued_invalidations_a_last_chance(
    server: Server, proxy: Proxy, namespace: str, colour: Colour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is back, and the process ends before its reader has noticed."""
    monkeypatch.setattr("cachesync.coordination.log_reader.PATIENCE", 30.0)  # a busy machine is no outage
    with Node(server.url, namespace) as other:
        with Node(proxy.url, namespace, colour) as node:
            node()
            other()
            proxy.refuse()
            assert node.invalidate("stores:JKT").pending
            proxy.admit()
        other.local.clear()
        other.value = {"name": "new"}
        assert other() == {"name": "new"}


@both_colours
def test_a_value_set_during_an_outage_hides_the_old_one(server: Server, proxy: Proxy, namespace: str, colour: Colour) -> None:
    """It can not be stored, so it is computed; what was there before is not served any more."""
    with Node(proxy.url, namespace, colour, on_disconnect="serve", stale_if_error="1h") as node:
        node()
        proxy.refuse()
        node.value = {"name": "new"}
        assert node.run(node.store.set({"name": "set"}, "JKT")).pending
        assert node() in ({"name": "set"}, {"name": "new"})


# --- a log that is not heard ---------------------------------------------------------------------------------------------------------


def cut(server: Server, proxy: Proxy) -> None:
    proxy.cut()


def kill_listeners(server: Server, proxy: Proxy) -> None:
    server.client().client_kill_filter(_type="pubsub")


@pytest.mark.parametrize("go_away", [cut, kill_listeners, cut_and_refuse, hold, lose_replies])
@both_colours
def test_a_process_that_was_cut_off_recovers_what_it_missed_and_keeps_the_rest(
    fresh_server: Server, fresh_proxy: Proxy, colour: Colour, go_away: Callable[[Server, Proxy], None]
) -> None:
    """Fifty invalidations came meanwhile. What they did not concern is still at hand: it is not even asked for in Redis."""
    codes = [f"code{number}" for number in range(100)]
    with (
        Node(fresh_proxy.url, colour=colour, listen=True, budget="1s", max_lag="1m") as node,
        Node(fresh_server.url, colour=colour) as other,
    ):
        node.run(node.store.many([(code,) for code in codes]))
        until(lambda: node.cache.stats().log.is_heard, "the log is heard")
        go_away(fresh_server, fresh_proxy)
        node.value = {"name": "new"}
        stamps = [other.invalidate(f"stores:{code}") for code in codes[:50]]
        fresh_proxy.admit()
        fresh_proxy.release()
        until(lambda: node.cache.stats().log.position == stamps[-1], "it has applied what it missed")
        node.rest_is_over()
        before = node.cache.stats().total
        for code in codes[50:]:
            assert node(code) == {"name": "Jakarta"}
        after = node.cache.stats().total
        assert (after.local_hits - before.local_hits, after.shared_hits, after.computed) == (50, before.shared_hits, before.computed)
        for code in codes[:50]:
            assert node(code) == {"name": "new"}
        assert "possible_loss" not in [event.name for event in node.events]


@pytest.mark.parametrize("go_away", [freeze, cut_and_refuse, hold, lose_replies])
@both_colours
def test_nothing_is_fresh_that_was_not_confirmed_for_max_lag(
    fresh_server: Server, fresh_proxy: Proxy, colour: Colour, go_away: Callable[[Server, Proxy], None]
) -> None:
    """Half-open, frozen or refused: a copy is served for ``max_lag`` at most after the last answer, and events say when it begins and ends.
    Until then an invalidation by somebody else can not be known here.
    """
    with Node(fresh_proxy.url, colour=colour, listen=True, budget="250ms", max_lag="300ms") as node:
        assert node() == {"name": "Jakarta"}
        until(lambda: node.cache.stats().log.is_heard, "the log is heard")
        go_away(fresh_server, fresh_proxy)
        until(lambda: not node.cache.stats().log.is_heard, "the log is silent for max_lag")
        node.value = {"name": "new"}
        assert node() == {"name": "new"}
        until(lambda: node.told("log_silent"), "it is told")
        if fresh_server.is_frozen:
            fresh_server.thaw()
        fresh_proxy.admit()
        fresh_proxy.release()
        until(lambda: node.told("log_heard"), "and that it is over")
        node.rest_is_over()
        assert node() == {"name": "new"}


# --- our own keys ------------------------------------------------------------------------------------------------------------------

HARMS: dict[str, Callable[[Any, bytes], object]] = {
    "deleted": lambda client, name: client.delete(name),
    "replaced": lambda client, name: client.pipeline().delete(name).rpush(name, "not", "ours").execute(),
}


def harm(server: Server, names: Names, which: str, how: str) -> None:
    """Somebody deletes or overwrites one of the names that are ours."""
    ours = {"meta": names.meta, "log": names.log, "bans": names.bans, "again": names.again}
    entries = {"entry": names.entry("stores:JKT"), "lease": names.lease("stores:JKT")}
    HARMS[how](server.client(), (ours | entries)[which])


@pytest.mark.parametrize("how", HARMS)
@pytest.mark.parametrize("which", ["meta", "log", "bans", "again", "entry", "lease"])
@both_colours
def test_a_loss_of_our_own_makes_misses_and_no_hits(every_server: Server, namespace: str, colour: Colour, which: str, how: str) -> None:
    """Whichever of our names it was, after an invalidation and before one: nobody serves what was invalidated, whether it was there all
    the time or comes only now; and afterwards everybody keeps what was computed, as if nothing had been.
    """
    url = every_server.url
    with Node(url, namespace, colour, listen=True) as node, Node(url, namespace, colour, listen=True) as other:
        for version, pattern in enumerate(["stores:J*", "*:JKT", "stores:*"]):
            nodes = [node, other]
            for one in nodes:
                one.value = f"old {version}"
                until(lambda: one("JKT") == f"old {version}", "the old value is there")  # noqa: B023 - called before the next turn
            for one in nodes:
                one.value = f"new {version}"
            if version < 2:
                assert not node.invalidate(pattern).pending
                harm(every_server, node.names, which, how)
            else:
                harm(every_server, node.names, which, how)
                assert not node.invalidate(pattern).pending
            with Node(url, namespace, colour) as late:
                late.value = f"new {version}"
                assert late("JKT") == f"new {version}", "its very first call"
            assert node("JKT") == f"new {version}"
            until(lambda: other("JKT") == f"new {version}", "who listens has heard it")  # noqa: B023 - called before the next turn
            node.invalidate("*")

        def is_kept() -> bool:
            before = len(node.computed) + len(other.computed)
            node("BDG")
            other("BDG")
            return len(node.computed) + len(other.computed) == before

        until(is_kept, "what was computed is kept")


@pytest.mark.parametrize("which", ["meta", "log", "bans"])
@both_colours
def test_a_copy_that_was_computed_before_a_loss_is_not_served_after_the_next_invalidation(
    every_server: Server, namespace: str, colour: Colour, which: str
) -> None:
    """Who listens hears the invalidation though the log has lost what came before it."""
    url = every_server.url
    with Node(url, namespace, colour, listen=True) as node, Node(url, namespace, colour, listen=True) as other:
        for version in range(3):
            node.value = other.value = version
            until(lambda: (node("JKT"), other("JKT")) == (version, version), "both are fresh")  # noqa: B023 - called before the next turn
            harm(every_server, node.names, which, "deleted")
            assert not (node if version % 2 else other).invalidate("stores:JKT").pending


# --- full, read-only --------------------------------------------------------------------------------------------------------------


def fill(server: Server) -> None:
    """Until not another byte fits, even when connections end and free what they took."""
    client = server.client()
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "1")


@both_colours
def test_a_full_server_still_answers_hits(fresh_server: Server, colour: Colour) -> None:
    """It refuses what has to be stored: that is computed. Invalidations hold here and wait for room."""
    with Node(fresh_server.url, colour=colour) as node, Node(fresh_server.url, colour=colour) as other:
        node("JKT")
        other("BDG")
        fill(fresh_server)
        assert other("JKT") == {"name": "Jakarta"}
        assert other.computed == ["BDG"]
        assert other.events == []
        assert other("SUB") == {"name": "Jakarta"}
        assert other.computed == ["BDG", "SUB"]
        assert other.told("layer_failed")
        stamp = other.invalidate("stores:JKT")
        other.value = {"name": "new"}
        assert other("JKT") == {"name": "new"}
        fresh_server.client().config_set("maxmemory", "0")
        if stamp.pending:
            assert not other.invalidate("stores:JKT").pending
        node.local.clear()
        node.value = {"name": "new"}
        node.rest_is_over()
        assert node("JKT") == {"name": "new"}


@pytest.mark.parametrize("flavour", flavours())
@both_colours
def test_a_full_server_loses_no_invalidation(flavour: str, colour: Colour) -> None:
    """It goes on answering hits, so it has to hear what is out of date. Redis 6.2 refuses to append: then the entry is unlinked all the
    same, and the announcement waits for room. Nobody begins another log for that: what was not invalidated stays valid.
    """
    is_old = flavour == "redis6"
    with Server(flavour) as server:
        client = server.client()
        with (
            Node(server.url, colour=colour) as node,
            Node(server.url, colour=colour, listen=True) as other,
            Node(server.url, colour=colour) as late,
        ):
            for code in ("JKT", "BDG", "SUB"):
                node(code)
                other(code)
            epoch = client.hget(node.names.meta, "e")
            fill(server)
            node.value = other.value = late.value = {"name": "new"}
            for pattern in ("stores:JKT", "stores:B*"):
                assert node.invalidate(pattern).pending is is_old
            assert node("JKT") == node("BDG") == {"name": "new"}
            assert not client.exists(node.names.entry("stores:JKT"))
            assert late("JKT") == {"name": "new"}, "the entry is gone, whatever the log says"
            if not is_old:
                until(lambda: other("JKT") == other("BDG") == {"name": "new"}, "those who listen have heard it")
            assert other("SUB") == {"name": "Jakarta"}
            client.config_set("maxmemory", "0")
            assert not node.invalidate("stores:JKT").pending
            assert read_log(node.cache)
            assert not node.cache.stats().log.queued
            until(lambda: other("JKT") == other("BDG") == {"name": "new"}, "those who listen have heard it in the end")
            for one in (other, late):
                one.local.clear()
                one.rest_is_over()
                assert one("SUB") == {"name": "Jakarta"}
            assert client.hget(node.names.meta, "e") == epoch


@both_colours
def test_a_read_only_replica_proves_nothing(colour: Colour) -> None:
    """It may be as late as its link, so what it has stored is not served, neither is anything stored: everything is computed."""
    with Server(options=AT_ONCE) as master, Server(options=("--replicaof", "127.0.0.1", str(master.port))) as replica:
        with Node(master.url, colour=colour) as writer, Node(replica.url, colour=colour) as reader:
            writer("JKT")
            until(lambda: replica.client().exists(reader.names.entry("stores:JKT")), "the replica has the entry")
            reader.value = {"name": "computed"}
            for code in ("JKT", "BDG"):
                assert reader(code) == {"name": "computed"}
            assert reader.computed == ["JKT", "BDG"]
            assert "READONLY" in str(reader.told("layer_failed"))
            assert not master.client().exists(reader.names.entry("stores:BDG"))
            assert reader.invalidate("stores:JKT").pending
            writer.local.clear()
            assert writer("JKT") == {"name": "Jakarta"}


# --- values that can not be stored ------------------------------------------------------------------------------------------------


def endless() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


UNSTORABLE: dict[str, tuple[Any, Callable[[], Any]]] = {
    "an object of no known kind": (Any, Anything),
    "one inside a list": (Any, lambda: {"a": [1, Anything()]}),
    "a function": (Any, lambda: print),
    "a list that contains itself": (Any, endless),
    "not what the annotation says": (int, lambda: "seven"),
    "an object in place of text": (dict[str, str], lambda: {"a": Anything()}),
}


@pytest.mark.parametrize("kind", UNSTORABLE)
@both_colours
def test_a_value_that_can_not_be_stored_is_delivered(server: Server, namespace: str, colour: Colour, kind: str) -> None:
    """Its caller gets it, an event says that it was not stored, Redis has neither entry nor lease; this process keeps it."""
    annotation, make = UNSTORABLE[kind]
    with Node(server.url, namespace, colour, annotation=annotation) as node:
        node.value = make()
        assert node() is node.value
        [event] = node.events
        assert (event.name, event.fields["key"], event.fields["policy"]) == ("not_stored", "stores:JKT", "stores")
        assert event.fields["error"]
        client = server.client()
        assert not client.exists(node.names.entry("stores:JKT"), node.names.lease("stores:JKT"))
        assert node() is node.value
        assert node.computed == ["JKT"]
        assert node.cache.stats().total.not_stored == 1


@pytest.mark.parametrize("kind", UNSTORABLE)
@both_colours
def test_setting_what_can_not_be_stored_changes_nothing(server: Server, namespace: str, colour: Colour, kind: str) -> None:
    """An error at once; the old value stays, here and elsewhere, and nothing is announced."""
    annotation, make = UNSTORABLE[kind]
    good: Any = 7 if annotation is int else {"name": "Jakarta"}
    with (
        Node(server.url, namespace, colour, annotation=annotation) as node,
        Node(server.url, namespace, colour, annotation=annotation) as other,
    ):
        node.value = other.value = good
        node()
        before = node.cache.stats().position
        with pytest.raises(CodecError):
            node.run(node.store.set(make(), "JKT"))
        assert node() == good
        assert other() == good
        assert (node.computed, other.computed) == (["JKT"], [])
        assert node.events == []
        node.invalidate("nothing")
        after = node.cache.stats().position
        assert before is not None
        assert after is not None
        assert after.number == before.number + 1


@both_colours
def test_setting_a_key_to_what_can_not_be_stored_changes_nothing(server: Server, namespace: str, colour: Colour) -> None:
    """The same for keys as text."""
    with Node(server.url, namespace, colour) as node:
        cache = node.cache
        node.run(cache.set("stores:a:b", 1) if colour == "def" else cache.aset("stores:a:b", 1))
        with pytest.raises(CodecError):
            node.run(cache.set("stores:a:b", Anything()) if colour == "def" else cache.aset("stores:a:b", Anything()))
        assert node.run(cache.get("stores:a:b") if colour == "def" else cache.aget("stores:a:b")) == 1


class Faulty:
    """A codec of somebody's whose mistakes are not the ones that were agreed on."""

    name = "faulty"

    def __init__(self) -> None:
        self.encodes = self.decodes = True

    def encode(self, value: object, /) -> bytes:
        if not self.encodes:
            raise RuntimeError("a mistake in a codec")
        return repr(value).encode()

    def decode(self, payload: bytes | memoryview, /) -> Any:
        if not self.decodes:
            raise RuntimeError("a mistake in a codec")
        return bytes(payload).decode()


@both_colours
def test_a_codec_with_mistakes_costs_the_storing_and_not_the_result(server: Server, namespace: str, colour: Colour) -> None:
    """Whatever it raises: what it can not encode is not stored, what it can not decode is computed anew."""
    codec = Faulty()
    with Node(server.url, namespace, colour, codec=codec) as node:
        node.value = "Jakarta"
        codec.encodes = False
        assert node("BDG") == "Jakarta"
        codec.encodes = True
        assert node("JKT") == "Jakarta"
        node.local.clear()
        codec.decodes = False
        assert node("JKT") == "Jakarta"
        assert node.computed == ["BDG", "JKT", "JKT"]
        assert {event.name for event in node.events} == {"not_stored", "unreadable"}


@pytest.mark.parametrize(
    "tags",
    [tuple(f"tag{number}" for number in range(300)), ("é" * 40_000,), ("x" * 70_000,)],
    ids=["more tags than an entry has room for", "a tag of 80 kB", "a tag of 70 kB"],
)
@both_colours
def test_what_an_entry_has_no_room_for_is_delivered_and_not_stored(
    server: Server, namespace: str, colour: Colour, tags: tuple[str, ...]
) -> None:
    """Header fields have bounds. The call is answered all the same, an event tells, and nobody waits for a lease."""
    with Node(server.url, namespace, colour, tags=tags) as node:
        assert node() == {"name": "Jakarta"}
        assert [event.name for event in node.events] == ["not_stored"]
        assert not server.client().exists(node.names.entry("stores:JKT"), node.names.lease("stores:JKT"))


@pytest.mark.parametrize("compress_over", [None, "16KiB"], ids=["as it is", "compressed"])
@both_colours
def test_enormous_values_work(server: Server, namespace: str, colour: Colour, compress_over: str | None) -> None:
    """Twenty megabytes, to Redis and back into another process."""
    value = os.urandom(1_000_000) * 20
    options: dict[str, Any] = {"annotation": bytes, "compress_over": compress_over}
    with Node(server.url, namespace, colour, **options) as node, Node(server.url, namespace, colour, **options) as other:
        node.value = value
        assert node() == value
        assert other() == value
        assert other.computed == []
        assert [*node.events, *other.events] == []


@both_colours
def test_an_enormous_value_that_takes_too_long_is_computed(server: Server, proxy: Proxy, namespace: str, colour: Colour) -> None:
    """Reading it costs more than the budget, so the call does not wait for the rest of it."""
    with (
        Node(server.url, namespace, colour, annotation=bytes) as writer,
        Node(proxy.url, namespace, colour, annotation=bytes, budget="250ms") as reader,
    ):
        writer.value = reader.value = bytes(5_000_000)
        reader("BDG")
        writer("JKT")
        proxy.delay(0.03)  # for each of many pieces
        with in_time():
            assert reader("JKT") == writer.value
        assert reader.computed == ["BDG", "JKT"]
        assert reader.told("layer_failed")


# --- set-up -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://:hunter2@localhost",
        "redis://:hunter2/x@localhost:6379",
        "redis://user:hunter2@localhost:port/0",
        "redis://user:hunter2@localhost:99999/0",
        "redis://[::1",
        "redis://:hunter2@localhost/0?socket_timeout=hunter2",
        "redis://:hunter2@localhost/0?no_such_option=hunter2",
        "redis-cluster://:hunter2@localhost",
    ],
)
def test_a_url_that_can_not_be_read_is_an_error_at_the_start(url: str) -> None:
    """It says which setting is wrong, and does not show a password."""
    with pytest.raises(PolicyError, match=r"redis\.url") as refused:
        Cache(policies=[Policy(name="all", match="*", ttl="1m")], redis=url)
    told: BaseException | None = refused.value
    while told is not None:
        assert "hunter2" not in str(told)
        told = told.__cause__ or (None if told.__suppress_context__ else told.__context__)


def test_a_failure_is_a_reply_and_says_what_was_asked() -> None:
    """Not an exception: flows go on from it. Both colours say the same."""
    with nothing_listens() as url:
        shared = RedisShared(url, namespace="trouble")

        async def ask() -> Any:
            try:
                return await shared.of_loop().perform(Fetch(("a",), time.monotonic() + 5))
            finally:
                await shared.aclose()

        replies = [shared.sync.perform(Fetch(("a",), time.monotonic() + 5)), asyncio.run(ask())]
    for reply in replies:
        assert isinstance(reply, Failed)
        assert isinstance(reply.error, LayerError)
        assert str(reply.error).startswith("Redis, fetch: ")


@both_colours
def test_a_step_without_time_left_is_not_tried(server: Server, namespace: str, colour: Colour) -> None:
    """All steps of a call share one deadline: what comes after it fails at once, and the layer stays usable."""
    shared = RedisShared(server.url, namespace=namespace)
    steps: list[SharedStep] = [Snapshot(), Fetch(("a",), time.monotonic() - 1), Fetch(("a",), 0.0), Snapshot()]

    async def ask_all() -> list[Any]:
        layer = shared.of_loop()
        found = [await layer.perform(step) for step in steps]
        await shared.aclose()
        return found

    replies = [shared.sync.perform(step) for step in steps] if colour == "def" else asyncio.run(ask_all())
    shared.close()
    assert [isinstance(reply, Failed) for reply in replies] == [False, True, True, False]


def test_a_failed_announcement_can_be_said_again(server: Server, proxy: Proxy, namespace: str) -> None:
    """Its answer was lost on the way, so nobody knows whether it was heard: said twice, it invalidates twice, which harms nobody."""
    shared = RedisShared(proxy.url, namespace=namespace)
    announce = Announce((Targets(KEY, ("a",)),), ("nonce",), "me", ("a",))
    assert isinstance(shared.sync.perform(Snapshot()), Joined)
    proxy.hold(replies=True)
    assert isinstance(shared.sync.perform(announce._replace(deadline=time.monotonic() + 0.05)), Failed)
    proxy.release()
    again = shared.sync.perform(announce)
    assert isinstance(again, Announced)
    log = shared.sync.perform(ReadLog(Stamp(again.last.epoch, 0)))
    shared.close()
    assert isinstance(log, Log)
    assert not log.gap
    assert {record.nonce for record in log.records} == {"nonce"}
    assert log.records[-1].number == again.last.number
