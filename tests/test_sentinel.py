"""Sentinel: whom sentinels call the master is spoken to, and nobody else, through real failovers by real sentinels."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import traceback
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import hiredis
import pytest

from cachesync import Cache, Event, Policy, PolicyError, RedisShared, Settings
from cachesync.cli import main
from cachesync.core.names import Names
from cachesync.core.settings import CoordinationSettings, RedisSettings
from cachesync.core.steps import Confirm, Failed, Fetch, Fetched, Hear, Heard
from cachesync.layers import redis_line, redis_routes
from cachesync.layers.redis_routes import SentinelRoute
from cachesync.protocols import Shared
from cachesync.testing import SharedLayerContract, run_together
from support.nodes import COLOURS, LONG, Callers, Colour, LoopThread, engine_of, until
from support.proxy import Proxy
from support.sentinels import NEVER_DOWN, SERVICE, Watched
from support.servers import Server
from support.tls import Authority, TlsProxy
from support.worker import Worker, change, each_colour, follows, is_told

MAX_LAG = 2.0
OPTIONS: dict[str, Any] = {"max_lag": MAX_LAG, "budget": 5.0}


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no outage."""
    monkeypatch.setattr(redis_routes, "SENTINEL_PATIENCE", 3.0)


@pytest.fixture(scope="module")
def lasting() -> Iterator[Watched]:
    """For tests that change nothing."""
    with Watched(down_after=NEVER_DOWN) as own:
        yield own


@pytest.fixture
def watched() -> Iterator[Watched]:
    """For one failover."""
    with Watched() as own:
        yield own


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    with LoopThread() as running:
        yield running


class TestSentinel(SharedLayerContract):
    """The contract, at a master that sentinels lead to."""

    @pytest.fixture(autouse=True)
    def _connect(self, lasting: Watched, namespace: str) -> None:
        self.watched, self.namespace = lasting, namespace

    def make_shared(self) -> Shared:
        return RedisShared(self.watched.url, namespace=self.namespace)

    def lose_everything(self, shared: Shared) -> None:
        client: Any = self.watched.master.client()
        for name in client.keys(f"*{self.namespace}*"):
            client.delete(name)

    @contextmanager
    def cut_off(self, shared: Shared) -> Generator[None, None, None]:
        client: Any = self.watched.master.client()
        client.client_kill_filter(_type="pubsub")
        yield


class TestSentinelAsync(TestSentinel):
    colour = "async def"


# --- failovers --------------------------------------------------------------------------------------------------------------------


def workers_of(watched: Watched, stack: ExitStack, count: int = 3) -> list[Worker]:
    return [stack.enter_context(Worker(watched.url, **OPTIONS)) for _ in range(count)]


def test_a_master_that_dies_is_followed_by_whomever_the_sentinels_choose(watched: Watched, namespace: str) -> None:
    """What is invalidated meanwhile waits, and is announced to the new one. Nobody serves what it ended, a new process included."""
    with ExitStack() as stack:
        a, b, c = workers_of(watched, stack)
        at: dict[str, str] = {}
        for own, colour in each_colour(namespace):
            at[own] = a.do("invalidate", own, colour, "key as text", 7)
            b.do("apply", own, colour, at[own])
            assert (a.do("read", own, colour, 1), b.do("read", own, colour, 1)) == (1, 1)
        until(watched.is_in_step, "replicating")
        watched.master.kill()
        for own, colour in each_colour(namespace):
            change(2, own, colour, a, b, c)
            a.do("invalidate_away", own, colour, "tag of the policy", 1)
            assert a.do("read", own, colour, 1) == 2, "it holds here at once"
        watched.has_failed_over()
        for own, colour in each_colour(namespace):
            for worker in (a, b):
                follows(worker, own, colour, after=at[own])
            b.do("apply", own, colour, a.do("stamp", own, colour))
            assert (c.do("read", own, colour, 1), b.do("read", own, colour, 1)) == (2, 2)
            assert a.do("invalidate", own, colour, "key as text", 1)
            is_told(a, own, colour, "layer_recovered")


def test_what_a_failover_by_sentinels_loses_is_announced_again(watched: Watched, namespace: str) -> None:
    """The replica's link is cut, invalidations are acknowledged by the master, and the master dies: the replica that takes over has
    never heard of them. Whoever has brings them to it, says so, and nobody serves what they ended.
    """
    with ExitStack() as stack:
        a, b, c = workers_of(watched, stack)
        lost: dict[str, str] = {}
        for own, colour in each_colour(namespace):
            b.do("apply", own, colour, a.do("invalidate", own, colour, "key as text", 7))
            assert (a.do("read", own, colour, 1), b.do("read", own, colour, 1)) == (1, 1)
        until(watched.is_in_step, "replicating")
        watched.link.refuse()
        for own, colour in each_colour(namespace):
            change(2, own, colour, a, b, c)
            lost[own] = a.do("invalidate", own, colour, "tag of the decorator", 1)
            b.do("apply", own, colour, lost[own])
            assert watched.replica.client().exists(Names.of(own).entry("item:1")) == 1, "it has heard of nothing"
        watched.master.kill()
        watched.has_failed_over()
        for own, colour in each_colour(namespace):
            for worker in (a, b):
                follows(worker, own, colour, after=lost[own])
                assert worker.do("log", own, colour)["losses"] == 1
            assert c.do("valid", own, colour, 1) is None
            assert [worker.do("read", own, colour, 1) for worker in (a, b, c)] == [2, 2, 2]
            assert b.do("at_least", own, colour, lost[own], 1) == 2


def test_a_master_that_slept_through_its_own_fall_is_not_spoken_to(watched: Watched, namespace: str) -> None:
    """It wakes up as a master, with connections that are open and an entry that was invalidated elsewhere meanwhile. Until the
    sentinels have told it, which takes them seconds, it believes in itself; a process that has heard of another one does not.
    """
    with ExitStack() as stack:
        a, b = workers_of(watched, stack, 2)
        at: dict[str, str] = {}
        for own, colour in each_colour(namespace):
            at[own] = a.do("invalidate", own, colour, "key as text", 7)
            for worker in (a, b):
                worker.do("apply", own, colour, at[own])
            assert (a.do("read", own, colour, 1), b.do("valid", own, colour, 2)) == (1, None)
        until(watched.is_in_step, "replicating")
        old = watched.master
        old.freeze()
        watched.has_failed_over()
        for own, colour in each_colour(namespace):
            for worker in (a, b):
                follows(worker, own, colour, after=at[own])
            change(2, own, colour, a, b)
            b.do("apply", own, colour, a.do("invalidate", own, colour, "tag of the policy", 1))
        for sentinel in watched.sentinels:
            sentinel.freeze()  # or they would tell it, in eight seconds
        old.thaw()
        assert old.client().info("replication")["role"] == "master"
        for own, colour in each_colour(namespace):
            assert b.do("valid", own, colour, 1) is None, "its connections to the old one are idle, and open"
            assert (b.do("read", own, colour, 1), a.do("read", own, colour, 1)) == (2, 2)
        assert old.client().info("replication")["role"] == "master", "nobody has told it"


def test_a_failover_that_somebody_orders_costs_no_copy(watched: Watched, namespace: str) -> None:
    """All servers are alive, and the replica has everything: what the processes hold is still fresh."""
    with ExitStack() as stack:
        a, b = workers_of(watched, stack, 2)
        at: dict[str, str] = {}
        for own, colour in each_colour(namespace):
            at[own] = a.do("invalidate", own, colour, "key as text", 7)
            for worker in (a, b):
                worker.do("apply", own, colour, at[own])
                assert worker.do("many", own, colour, 1, 4) == [1] * 3
        until(watched.is_in_step, "replicating")
        admin: Any = watched.sentinels[0].client()
        admin.execute_command("SENTINEL", "FAILOVER", SERVICE)
        watched.has_failed_over()
        for own, colour in each_colour(namespace):
            for worker in (a, b):
                follows(worker, own, colour, after=at[own])
                computed = worker.do("computations", own, colour)
                assert worker.do("many", own, colour, 1, 4) == [1] * 3
                assert worker.do("computations", own, colour) == computed
                assert worker.do("log", own, colour)["losses"] == 0


# --- sentinels in the test's hand ---------------------------------------------------------------------------------------------------


class Told:
    """A sentinel that says what a test tells it to: where the master is, and how it is. ``asked`` counts."""

    def __init__(self, port: int, flags: str = "master") -> None:
        self.master, self.flags, self.asked = port, flags, 0
        self.answer: bytes | None = None
        self.is_silent = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        commands = hiredis.Reader()
        try:
            while piece := connection.recv(65536):
                commands.feed(piece)
                while command := commands.gets():
                    if command[0] == b"SENTINEL":
                        self.asked += 1
                        if not self.is_silent.is_set():
                            connection.sendall(self.answer or self._state())
                    else:
                        connection.sendall(b"+OK\r\n")
        except OSError:
            pass

    def _state(self) -> bytes:
        texts = ["name", "shop", "ip", "127.0.0.1", "port", str(self.master), "flags", self.flags]
        return b"*%d\r\n" % len(texts) + b"".join(b"$%d\r\n%b\r\n" % (len(text), text.encode()) for text in texts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for opened in (self._listener, *self._open):
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)  # it wakes up whoever waits there
            opened.close()


def url_of(*ports: int, rest: str = "/shop/0") -> str:
    return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in ports)}{rest}"


def performed(shared: RedisShared, step: Any, colour: Colour) -> Any:
    """The reply to a step, from a connection that is closed again where a loop ends."""
    if colour == "def":
        return shared.sync.perform(step)

    async def ask() -> Any:
        return await shared.of_loop().perform(step)

    return asyncio.run(ask())


@pytest.mark.parametrize("colour", COLOURS)
def test_the_next_sentinel_is_asked_where_one_does_not_help(server: Server, namespace: str, colour: Colour) -> None:
    """One is dead, one is mute, one knows nothing of the service, one thinks that the master is down. Who helped is asked first then."""
    with Told(1) as dead, Told(1) as mute, Told(1) as ignorant, Told(1, "master,s_down") as gloomy, Told(server.port) as good:
        dead.__exit__(None, None, None)
        mute.is_silent.set()
        ignorant.answer = b"-ERR No such master with that name\r\n"
        others = (dead, mute, ignorant, gloomy)
        shared = RedisShared(url_of(*(one.port for one in (*others, good))), namespace=namespace)
        assert isinstance(performed(shared, Fetch(("k",)), colour), Fetched)
        assert [one.asked for one in others] == [0, 1, 1, 1]
        shared.close()
        shared.after_fork()  # the next connection is a new one
        assert isinstance(performed(shared, Fetch(("k",)), colour), Fetched)
        assert ([one.asked for one in others], good.asked) == ([0, 1, 1, 1], 2)
        shared.close()


@pytest.mark.parametrize("colour", COLOURS)
def test_where_no_sentinel_helps_the_reason_of_each_is_told(colour: Colour) -> None:
    """With its address."""
    with Told(1, "master,o_down") as gloomy, Told(1) as ignorant, Told(1) as confused:
        ignorant.answer = b"-ERR No such master with that name\r\n"
        confused.answer = b"!?\r\n"
        shared = RedisShared(url_of(gloomy.port, ignorant.port, confused.port), namespace="x")
        told = performed(shared, Fetch(("k",)), colour)
        assert isinstance(told, Failed)
        text = str(told.error)
        assert f"127.0.0.1:{gloomy.port}: the master is down" in text
        assert f"127.0.0.1:{ignorant.port}: ERR No such master" in text
        assert f"127.0.0.1:{confused.port}: " in text
        shared.close()


@pytest.mark.parametrize(
    "answer", [b"$-1\r\n", b"*0\r\n", b":1\r\n", b"*1\r\n$1\r\nx\r\n", b"*2\r\n$5\r\nflags\r\n$6\r\nmaster\r\n", b"*-1\r\n"]
)
def test_a_sentinel_that_makes_no_sense_is_passed_over(server: Server, namespace: str, answer: bytes) -> None:
    """It may be no sentinel at all."""
    with Told(1) as confused, Told(server.port) as good:
        confused.answer = answer + b"\r\n"
        shared = RedisShared(url_of(confused.port, good.port), namespace=namespace)
        assert isinstance(shared.sync.perform(Confirm()), tuple)
        assert shared.sync.perform(Fetch(("k",)))[0] == (None,)
        shared.close()


def test_one_question_serves_all_who_open_a_connection(server: Server, namespace: str) -> None:
    """Fifty threads after an outage are one question, or a few, and no herd."""
    with Told(server.port) as good:
        good.is_silent.set()
        shared = RedisShared(url_of(good.port), namespace=namespace, max_connections=50)
        found: list[Any] = []

        def ask() -> None:
            found.append(shared.sync.perform(Fetch(("k",))))

        route = shared._route  # pyright: ignore[reportPrivateUsage] - who waits for it can not be seen from outside
        assert isinstance(route, SentinelRoute)
        first = route.find()
        asking = threading.Thread(target=run_together, args=([ask] * 50,))
        asking.start()
        until(lambda: good.asked == 1, "asking")
        assert route.find() is first
        good.is_silent.clear()
        asking.join()
        assert good.asked <= 5
        shared.close()


@pytest.mark.parametrize(
    ("colour", "thread"), [("def", "cachesync-sentinels"), ("def", "cachesync-connect"), ("async def", "cachesync-sentinels")]
)
def test_where_no_thread_can_be_started_the_next_one_asks_again(
    server: Server, namespace: str, colour: Colour, thread: str, monkeypatch: pytest.MonkeyPatch, loop: LoopThread
) -> None:
    """The system may have no room for a moment. That costs one step, not all that ever come; and a fork waits for no such thread."""
    start = threading.Thread.start
    refused: list[str] = []

    def crowded(self: threading.Thread) -> None:
        if self.name == thread and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(self)

    with Told(server.port) as sentinel:
        shared = RedisShared(url_of(sentinel.port), namespace=namespace)

        async def ask() -> Any:
            return await shared.of_loop().perform(Fetch(("k",)))

        def asked() -> Any:
            return shared.sync.perform(Fetch(("k",))) if colour == "def" else loop.run(ask())

        monkeypatch.setattr(threading.Thread, "start", crowded)
        first = asked()
        assert isinstance(first, Failed)
        assert "can't start new thread" in str(first.error)
        assert isinstance(asked(), Fetched)
        assert redis_line._opening == set()  # pyright: ignore[reportPrivateUsage] - what a fork would wait for
        loop.run(shared.aclose())
        shared.close()


@pytest.mark.parametrize("colour", COLOURS)
def test_connections_to_a_master_that_was_are_not_used_again(namespace: str, colour: Colour, loop: LoopThread) -> None:
    """As soon as any connection has been led elsewhere, whatever the others would reply."""
    with Server() as old, Server() as new, Told(old.port) as sentinel:
        callers = Callers(url_of(sentinel.port), namespace, colour, loop)
        caller = callers.new(listen=False)
        assert caller.get_or_compute("k", lambda: 1) == 1
        assert (entries(old, namespace), entries(new, namespace)) == (1, 0)
        sentinel.master = new.port
        shared: Any = engine_of(caller.cache).shared
        shared._route.find().result(LONG)  # as by an ear, or a connection that is opened
        assert caller.get_or_compute("other", lambda: 2) == 2
        assert (entries(old, namespace), entries(new, namespace)) == (1, 1)
        callers.close()


@pytest.mark.parametrize("colour", COLOURS)
def test_what_a_master_that_was_replies_too_late_is_not_believed(namespace: str, colour: Colour, loop: LoopThread) -> None:
    """Its reply is under way when another one is found: the step is said again, there."""
    with Server() as old, Server() as new, Proxy("127.0.0.1", old.port) as slow, Told(slow.port) as sentinel:
        shared = RedisShared(url_of(sentinel.port), namespace=namespace)
        old.client().set(shared.names.entry("k"), "old")
        new.client().set(shared.names.entry("k"), "new")

        async def ask() -> Any:
            return await shared.of_loop().perform(Fetch(("k",)))

        def start() -> Future[Any]:
            return loop.submit(ask()) if colour == "async def" else pool.submit(shared.sync.perform, Fetch(("k",)))

        with ThreadPoolExecutor() as pool:
            assert start().result(LONG).blobs == (b"old",)
            slow.hold(replies=True)
            asked: Any = old.client()
            before = asked.info("commandstats")["cmdstat_mget"]["calls"]
            reading = start()
            until(lambda: asked.info("commandstats")["cmdstat_mget"]["calls"] > before, "the question arrives")
            sentinel.master = new.port
            cast("Any", shared)._route.find().result(LONG)  # as by an ear, or a connection that is opened
            slow.release()
            assert reading.result(LONG).blobs == (b"new",)
        loop.run(shared.aclose())


def entries(server: Server, namespace: str) -> int:
    client: Any = server.client()
    return len(client.keys(f"{namespace}:e:*"))


def test_an_ear_looks_for_another_master_now_and_then(server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old one answers its questions, as a master; it hears that the sentinels lead elsewhere all the same."""
    monkeypatch.setattr(redis_routes, "LOOK_EVERY", 0.0)
    with Server() as other, Told(server.port) as sentinel:
        shared = RedisShared(url_of(sentinel.port), namespace=namespace)
        ear = shared.ear()
        assert isinstance(ear.perform(Hear(0.01, True, LONG)), Heard)
        sentinel.master = other.port

        def is_elsewhere() -> bool:
            return isinstance(ear.perform(Hear(0.01, True, LONG)), Failed)

        until(is_elsewhere, "looking")
        assert isinstance(ear.perform(Hear(0.01, True, LONG)), Heard)
        clients: Any = other.client()
        assert any(row["resp"] == "3" and row["ssub"] == "1" for row in clients.client_list())
        ear.close()
        shared.close()


def test_an_ear_leaves_a_server_that_follows_another_one(namespace: str) -> None:
    """Its answer says so: the next connection is led by the sentinels again."""
    with Server() as old, Server() as new, Told(old.port) as sentinel:
        shared = RedisShared(url_of(sentinel.port), namespace=namespace)
        ear = shared.ear()
        assert isinstance(ear.perform(Hear(0.01, True, LONG)), Heard)
        old.client().replicaof("127.0.0.1", new.port)
        until(lambda: isinstance(ear.perform(Hear(0.01, True, LONG)), Failed), "leaving")
        sentinel.master = new.port
        assert isinstance(ear.perform(Hear(0.01, True, LONG)), Heard)
        shared.close()
        ear.close()


# --- who is asked how -------------------------------------------------------------------------------------------------------------


def test_users_and_passwords_go_where_they_belong(namespace: str, loop: LoopThread, caplog: pytest.LogCaptureFixture) -> None:
    """That of the url to the master, those of the options to the sentinels; none is shown."""
    caplog.set_level(logging.DEBUG, "cachesync")
    with Watched(1, down_after=NEVER_DOWN) as watched:
        master: Any = watched.master.client()
        watching: Any = watched.sentinels[0].client()
        master.execute_command("ACL", "SETUSER", "carlotta", "on", ">geheim/1", "~*", "&*", "+@all")
        watching.execute_command("ACL", "SETUSER", "sentry", "reset", "on", ">geheim/2", "+sentinel|master")
        events: list[Event] = []
        port = watched.sentinels[0].port
        options = "?sentinel_username=sentry&sentinel_password="
        for colour in COLOURS:
            right = f"redis+sentinel://carlotta:geheim%2F1@localhost:{port}/{SERVICE}/3{options}geheim%2F2"
            callers = Callers(right, f"{namespace}{colour[0]}", colour, loop)
            assert callers.new(listen=False).get_or_compute("k", lambda: 1) == 1
            callers.close()
            wrong = right.replace("geheim%2F2", "geheim-falsch")
            settings = Settings(namespace=namespace, redis=RedisSettings(wrong), coordination=CoordinationSettings(budget=LONG))
            cache = Cache(settings, policies=[Policy(name="all", match="*", ttl="1h")], on_event=events.append, listen=False)
            assert cache.get_or_compute("k", lambda: 1) == 1
            shown = [repr(cache.settings), *map(str, events), *map(repr, events), caplog.text]
            shown += [text for event in events for text in traceback.format_exception(LookupError(event))]
            assert "WRONGPASS" in caplog.text or "invalid username-password" in caplog.text
            assert not any("geheim" in text or "carlotta" in text or "sentry" in text for text in shown)
            cache.close()
        assert set(master.info("keyspace")) >= {"db3"}


@pytest.mark.parametrize("colour", COLOURS)
def test_with_tls_both_are_spoken_to_by_tls(server: Server, namespace: str, tmp_path: Path, colour: Colour) -> None:
    """And both have to be believed."""
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "somebody else")
    certificate = authority.certificate("localhost", "127.0.0.1")
    with TlsProxy(server.port, certificate) as master, Told(master.port) as told, TlsProxy(told.port, certificate) as sentinel:
        for trusted, fails in ((authority, False), (stranger, True)):
            url = f"rediss+sentinel://localhost:{sentinel.port}/shop?ssl_ca_certs={trusted.path}"
            shared = RedisShared(url, namespace=namespace)
            reply = performed(shared, Fetch(("k",)), colour)
            assert isinstance(reply, Failed) == fails
            assert not fails or "certificate verify failed" in str(reply.error)
            shared.close()


def test_a_forked_child_asks_the_sentinels_anew(server: Server, namespace: str) -> None:
    """The thread that was asking in the parent is not there to answer."""
    with Told(server.port) as good:
        good.is_silent.set()
        shared = RedisShared(url_of(good.port), namespace=namespace)
        route = shared._route  # pyright: ignore[reportPrivateUsage] - a question under way can not be begun from outside
        assert isinstance(route, SentinelRoute)
        left = route.find()
        until(lambda: good.asked == 1, "asking")
        read, write = os.pipe()
        child = os.fork()
        if not child:
            shared.after_fork()
            good.is_silent.clear()
            os.write(write, b"1" if route.find() is not left else b"0")
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(read, 1) == b"1"
        os.close(read)
        os.close(write)
        good.is_silent.clear()
        shared.close()


def test_a_service_in_the_url_is_not_a_matter_of_taste() -> None:
    """An option that redis-py does not know is found at start, for the sentinels too."""
    for url in ("redis+sentinel://u:geheim@h/shop/0?no_such=1", "redis+sentinel://h/shop/0?ssl_ca_certs=/dev/null"):
        with pytest.raises(PolicyError) as told:
            RedisShared(url, namespace="x")
        assert "geheim" not in "".join(traceback.format_exception(told.value))


def test_the_commands_find_their_way(
    lasting: Watched, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``invalidate``, ``sweep`` and ``tail``."""
    file = tmp_path / "cachesync.toml"
    file.write_text(f'namespace = "{namespace}"\n[redis]\n[policy.all]\nmatch = "*"\nttl = "1h"\n')
    monkeypatch.setenv("CACHESYNC_REDIS_URL", lasting.url)
    monkeypatch.setenv("CACHESYNC_FILE", str(file))
    for command in (["invalidate", "k:*", "--tag", "t"], ["sweep"], ["tail", "--no-follow"]):
        code = main(command)
        told = capsys.readouterr()
        assert (code, told.err) == (0, ""), command
    assert "k:*" in told.out
