"""Event streams: who is told what, in which order, what is told to who comes back, and how streams end."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from cachesync import Cache, HttpPolicy, Policy, Settings, Stamp
from cachesync.coordination import farewell, streams
from cachesync.coordination.farewell import Farewell, expect
from cachesync.core.groups import PUBLIC
from cachesync.core.settings import CoordinationSettings
from cachesync.event_streams import EventStreams
from support.event_client import LONG, EventClient
from support.servers import Server, reserved_port

POLICIES = [
    Policy(name="stores", match="stores:*", ttl="5m", http=HttpPolicy(visibility="public")),
    Policy(name="users", match="users:*", ttl="5m", http=HttpPolicy()),
]
TESTS = Path(__file__).parent


def in_loop(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 2 * LONG))


def user(scope: Any) -> str | None:
    return next((value.decode() for name, value in scope["headers"] if name == b"user"), None)


@contextmanager
def door(**options: Any) -> Generator[tuple[Cache, EventStreams]]:
    """A cache and its streams."""
    given = {name: options.pop(name) for name in ("redis", "namespace", "listen") if name in options}
    settings = Settings(coordination=CoordinationSettings(budget=LONG, max_lag=options.pop("max_lag", LONG)))  # a busy machine is no outage
    with Cache(settings, policies=POLICIES, **given) as cache:
        yield cache, EventStreams(cache, identify=user, **options)


# --- what is told -----------------------------------------------------------------------------------------------------------------------


def test_a_stream_tells_the_groups_of_what_is_invalidated() -> None:
    """Those of public data under no identity, those of private data under that of the caller; each event names the one before it."""

    async def story() -> None:
        with door() as (cache, app):
            groups = cache.hub.groups
            async with EventClient(app, user="bob") as bob, EventClient(app) as nobody:
                hello = await bob.next()
                await nobody.next()
                assert hello.event == "hello" and hello.id == str(cache.stamp())
                jitter, schema = hello.data.pop("jitter"), hello.data.pop("schema")
                assert hello.data == {"v": 1, "epoch": cache.stamp().epoch, "number": 0, "reset": False, "live": True}
                assert jitter > 0 and schema
                first = await cache.ainvalidate("stores:JKT")
                told = await bob.next()
                assert told.event == "inv" and told.id == str(first)
                assert told.data["prev"] == hello.id and told.data["mode"] == "hard"
                assert groups.name(PUBLIC, "k:stores:JKT") in told.data["tags"]
                assert set((await nobody.next()).data["tags"]) <= set(told.data["tags"])
                second = await cache.ainvalidate("users:7", soft=True)
                private = await bob.next()
                assert groups.name("bob", "k:users:7") in private.data["tags"]
                assert (private.id, private.data["prev"], private.data["mode"]) == (str(second), str(first), "soft")
                third = await cache.ainvalidate("stores:CGK")
                assert (await nobody.next()).data["prev"] == str(first), "nobody has heard of the second"
                assert (await bob.next()).id == str(third)

    in_loop(story)


def test_a_policys_data_is_told_to_those_who_are_entitled_to_it() -> None:
    """The function of the application decides, by identity and policy."""

    async def story() -> None:
        def entitled(identity: str | None, policy: str) -> bool:
            return identity == "eve" and policy == "users"

        with door(entitled=entitled) as (cache, app):
            async with EventClient(app, user="bob") as bob, EventClient(app, user="eve") as eve:
                await bob.next()
                await eve.next()
                await cache.ainvalidate("stores:JKT")
                last = await cache.ainvalidate("users:7")
                assert (await eve.next()).id == str(last)
                cache.hub.leave()
                assert (await bob.next()).event == "bye", "bob is entitled to nothing"

    in_loop(story)


def test_what_gathers_while_a_client_is_busy_is_told_at_once() -> None:
    """One event for several invalidations; the mode is that of the hardest."""

    async def story() -> None:
        with door() as (cache, app):
            async with EventClient(app) as client:
                await client.next()
                await cache.ainvalidate("stores:1", soft=True)
                await cache.ainvalidate("stores:2")
                told = await client.next()
                assert told.data["mode"] == "hard" and told.id == str(cache.stamp())
                assert {cache.hub.groups.name(PUBLIC, f"k:stores:{number}") for number in (1, 2)} <= set(told.data["tags"])

    in_loop(story)


def test_every_process_tells_every_record_once_in_the_order_of_the_log(server: Server, namespace: str) -> None:
    """Its own and those of others, under the same ids."""

    async def story() -> None:
        with door(redis=server.url, namespace=namespace) as (one, app), door(redis=server.url, namespace=namespace) as (two, other):
            async with EventClient(app) as here, EventClient(other) as there:
                assert (await here.next()).data["live"] and (await there.next()).data["live"]
                for number in range(6):
                    stamp = await (one if number % 2 else two).ainvalidate(f"stores:{number}")
                    for client, cache in ((here, one), (there, two)):
                        told = await client.until("inv")
                        assert told.id == str(stamp)
                        assert cache.hub.groups.name(PUBLIC, f"k:stores:{number}") in told.data["tags"]
            assert [told.number for told in one.hub.last(10)] == [6, 5, 4, 3, 2, 1]

    in_loop(story)


def test_an_own_invalidation_is_told_after_those_before_it(server: Server, namespace: str) -> None:
    """One that got its number before the record of another process was heard is told when it is read from the log, behind that one."""

    async def story() -> None:
        with (
            door(redis=server.url, namespace=namespace, listen=False) as (one, _),
            door(redis=server.url, namespace=namespace) as (two, _),
        ):
            await one.astamp()
            hub = one.hub
            first = await two.ainvalidate("stores:1")
            second = await one.ainvalidate("stores:2")
            assert second.number == first.number + 1
            assert [told.number for told in hub.last(5)] in ([], [2, 1])
            one.get("stores:1", at_least=second)  # which catches up
            assert [told.number for told in hub.last(5)] == [2, 1]

    in_loop(story)


def test_a_stream_is_told_of_an_invalidation_that_waits_for_redis() -> None:
    """It holds in this process, so whoever asks this process again gets what is fresh."""

    async def story() -> None:
        with door(redis="redis://127.0.0.1:1/0") as (cache, app):
            async with EventClient(app) as client:
                assert not (await client.next()).data["live"]
                stamp = await cache.ainvalidate("stores:JKT")
                assert stamp.pending
                told = await client.until("inv")
                assert cache.hub.groups.name(PUBLIC, "k:stores:JKT") in told.data["tags"]

    in_loop(story)


@pytest.mark.parametrize("forgotten", [False, True])
def test_what_the_log_has_lost_is_told_from_the_bans(forgotten: bool, server: Server, namespace: str) -> None:
    """A process that was cut off for long knows from them what was missed, unless they are gone as well: then all may be out of date."""

    async def story() -> None:
        with (
            door(redis=server.url, namespace=namespace, listen=False) as (one, app),
            door(redis=server.url, namespace=namespace) as (two, _),
        ):
            async with EventClient(app) as client:
                hello = await client.next()
                stamp = await two.ainvalidate("stores:1", "stores:a:*", tags=["vip"])
                with server.client() as redis:
                    redis.xtrim(f"{{{namespace}}}:log", maxlen=0, approximate=False)
                    if forgotten:
                        assert redis.delete(f"{{{namespace}}}:bans") == 1
                one.get("stores:1", at_least=stamp)
                told = await client.until("reset" if forgotten else "inv")
                assert (told.id, told.data["prev"]) == (str(stamp), hello.id)
                if not forgotten:
                    plain = ("k:stores:1", "p:stores:a:", "t:vip")
                    assert {one.hub.groups.name(PUBLIC, text) for text in plain} <= set(told.data["tags"])

    in_loop(story)


def test_another_epoch_ends_what_clients_have(fresh_server: Server) -> None:
    """The log is lost: nobody knows what was missed, and every client is told to ask for everything."""

    async def story() -> None:
        with door(redis=fresh_server.url) as (cache, app):
            async with EventClient(app) as client:
                hello = await client.next()
                await cache.ainvalidate("stores:JKT")
                await client.next()
                with fresh_server.client() as redis:
                    redis.flushall()
                reset = await client.until("reset")
                assert reset.id is not None and Stamp.parse(reset.id).epoch != hello.data["epoch"]

    in_loop(story)


def test_a_loop_that_is_quicker_than_the_thread_that_wakes_it_is_woken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wakes notes it before: else the streams would sleep until their next sign of life."""

    async def story() -> None:
        with door(heartbeat="1h") as (cache, app):
            async with EventClient(app) as client:
                await client.next()
                loop = asyncio.get_running_loop()

                def at_once(call: Callable[..., object], *given: object) -> None:
                    call(*given)

                monkeypatch.setattr(loop, "call_soon_threadsafe", at_once)
                for number in (1, 2):
                    stamp = cache.invalidate(f"stores:{number}")
                    assert (await client.next()).id == str(stamp)

    in_loop(story)


# --- coming back ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["header", "query", "both"])
def test_who_comes_back_is_told_what_was_missed(how: str) -> None:
    """By ``Last-Event-ID``, which a browser sends by itself and which wins, or by ``?since=``."""

    async def story() -> None:
        with door() as (cache, app):
            old = await cache.ainvalidate("stores:1")
            since = await cache.ainvalidate("stores:2")
            stamp = await cache.ainvalidate("stores:3")
            path = {"header": "/events", "query": f"/events?since={since}", "both": f"/events?since={old}"}[how]
            headers = {} if how == "query" else {"last_event_id": str(since)}
            async with EventClient(app, path, **headers) as client:
                hello, missed = await client.next(), await client.next()
                assert (hello.id, hello.data["reset"], hello.data["number"]) == (str(since), False, since.number)
                name = cache.hub.groups.name
                assert name(PUBLIC, "k:stores:3") in missed.data["tags"] and name(PUBLIC, "k:stores:2") not in missed.data["tags"]
                assert (missed.id, missed.data["prev"]) == (str(stamp), str(since))

    in_loop(story)


def test_who_comes_back_too_late_is_told_to_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was missed is not remembered any more, or the log is another one."""
    monkeypatch.setattr(streams, "MOST_RECORDS", 3)

    async def story() -> None:
        with door() as (cache, app):
            stamps = [await cache.ainvalidate(f"stores:{number}") for number in range(5)]
            for since, is_reset in ((stamps[0], True), (stamps[1], False), (Stamp("ab12", 3), True), (stamps[4], False)):
                async with EventClient(app, last_event_id=str(since)) as client:
                    hello = await client.next()
                    assert hello.data["reset"] is is_reset, since
                    assert hello.id == str(stamps[4] if is_reset else since)

    in_loop(story)


def test_the_texts_of_what_is_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few records of very many texts count as much as many of one."""
    monkeypatch.setattr(streams, "MOST_TEXTS", 10)
    with Cache(policies=POLICIES) as cache:
        assert cache.hub.last(5) == []
        for _ in range(4):
            cache.invalidate(*(f"stores:{number}" for number in range(4)))
        assert [told.number for told in cache.hub.last(5)] == [4, 3]


def test_a_client_that_is_ahead_of_this_process_is_told_nothing_twice() -> None:
    """It comes from a process that had heard more: what it knows already is not told, and its id does not go back."""

    async def story() -> None:
        with door() as (cache, app):
            now = await cache.ainvalidate("stores:1")
            ahead = Stamp(now.epoch, now.number + 1)
            async with EventClient(app, last_event_id=str(ahead)) as client:
                assert (await client.next()).id == str(ahead)
                await cache.ainvalidate("stores:2")
                third = await cache.ainvalidate("stores:3")
                told = await client.next()
                name = cache.hub.groups.name
                assert name(PUBLIC, "k:stores:3") in told.data["tags"] and name(PUBLIC, "k:stores:2") not in told.data["tags"]
                assert (told.id, told.data["prev"]) == (str(third), str(ahead))

    in_loop(story)


def test_a_client_that_is_too_slow_is_told_to_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is queued for it: when it reads again, its place among the last records is gone."""
    monkeypatch.setattr(streams, "MOST_RECORDS", 3)

    async def story() -> None:
        with door() as (cache, app):
            async with EventClient(app) as client:
                hello = await client.next()
                client.may_send.clear()
                await cache.ainvalidate("stores:0")
                await asyncio.sleep(0)
                for _ in range(3):
                    await asyncio.sleep(0)  # the first is being sent, and is waited for
                for number in range(1, 6):
                    await cache.ainvalidate(f"stores:{number}")
                client.may_send.set()
                told = await client.next()
                if told.event == "inv":
                    assert told.data["prev"] == hello.id
                    told = await client.next()
                assert told.event == "reset" and told.id == str(cache.stamp())

    in_loop(story)


# --- signs of life, and the end ---------------------------------------------------------------------------------------------------------


def test_a_sign_of_life_says_how_things_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """How far to spread what is asked for, and whether silence means that nothing has happened. Its id is how far everything is told."""
    monkeypatch.setattr(streams, "TICK", 0.01)

    async def story() -> None:
        with door(heartbeat="20ms") as (cache, app):
            async with EventClient(app) as client:
                hello = await client.next()
                stamp = await cache.ainvalidate("users:7")  # which this client may not hear of
                beat = await client.until("hb")
                assert (beat.data["live"], beat.data["jitter"]) == (True, 0.001)
                assert {hello.id, str(stamp)} >= {beat.id, beat.data["prev"]}
                assert (await client.until("hb")).id == str(stamp)

    in_loop(story)


def test_streams_are_told_at_once_that_the_log_is_silent(fresh_server: Server) -> None:
    """They need not wait for the next sign of life to know that silence means nothing any more."""

    async def story() -> None:
        with door(redis=fresh_server.url, heartbeat="1h", max_lag="1s") as (_, app):
            async with EventClient(app) as client:
                while not (await client.next()).data["live"]:
                    pass
                fresh_server.freeze()
                while (await client.until("hb")).data["live"]:
                    pass
                fresh_server.thaw()
                while not (await client.until("hb")).data["live"]:
                    pass

    in_loop(story)


FORKED = """
import asyncio, os, signal, sys
from cachesync import Cache, HttpPolicy, Policy, Settings
from cachesync.core.settings import CoordinationSettings
from cachesync.event_streams import EventStreams
from support.event_client import EventClient

async def listening():
    async with EventClient(EventStreams(cache)) as client:
        while not (await client.next()).data["live"]:
            pass
        print("heard", flush=True)

policies = [Policy(name="stores", match="stores:*", ttl="5m", http=HttpPolicy(visibility="public"))]
patient = Settings(coordination=CoordinationSettings(budget="20s"))
cache = Cache(patient, policies=policies, redis=sys.argv[1], namespace=sys.argv[2])
cache.stamp()
child = os.fork()
if child:
    os.waitpid(child, 0)
    cache.close()
else:
    signal.alarm(60)
    asyncio.run(listening())
    os._exit(0)
"""


def test_a_forked_process_that_only_has_streams_hears_the_log(server: Server, namespace: str) -> None:
    """It knows a position from before the fork, so it asks for nothing: its reader begins all the same."""
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(TESTS)]))
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED, server.url, namespace]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.stdout == "heard\n", done.stderr


@pytest.mark.parametrize("why", ["life", "reload", "leaving"])
def test_a_stream_says_goodbye(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it has lived long enough, when the policies change, when the process ends: who comes back is looked at anew."""
    monkeypatch.setattr(streams, "TICK", 0.01)

    async def story() -> None:
        with door(life="20ms" if why == "life" else "1h") as (cache, app):
            async with EventClient(app) as client:
                await client.next()
                if why == "reload":
                    await cache.areload(policies=[*POLICIES, Policy(name="more", match="more:*", ttl="5m")])
                    await cache.ainvalidate("stores:JKT")
                elif why == "leaving":
                    app.leave()
                bye = await client.next()
                assert bye.event == "bye" and 0 < bye.data["retry"] <= 2
                assert await client.message() == {"type": "http.response.body", "body": b""}
                await client.ended()
            assert cache.hub.count == 0

    in_loop(story)


def test_the_schema_changes_with_the_version_of_a_policy() -> None:
    """What a browser has kept under another one is of no use."""
    one = streams.schema_of(Cache(policies=POLICIES).settings.policies)
    other = streams.schema_of(Cache(policies=[POLICIES[0], Policy(name="users", match="users:*", ttl="5m", version=2)]).settings.policies)
    assert one != other and one == streams.schema_of(Cache(policies=POLICIES).settings.policies)


def test_a_client_that_has_gone_is_forgotten() -> None:
    """So is its event loop when the last one has gone."""

    async def story() -> None:
        with door() as (cache, app):
            async with EventClient(app) as client, EventClient(app) as other:
                await client.next()
                await other.next()
                assert cache.hub.count == 2
                await client.leave()
                await client.ended()
                assert cache.hub.count == 1
            assert cache.hub.count == 0

    in_loop(story)


# --- refusals ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "path", "method", "headers"),
    [
        (405, "method_not_allowed", "/events", "POST", {}),
        (403, "cross_site", "/events", "GET", {"origin": "https://evil.example"}),
        (403, "cross_site", "/events", "GET", {"origin": "http://["}),
        (403, "cross_site", "/events", "GET", {"sec_fetch_site": "cross-site"}),
        (400, "bad_stamp", "/events?since=nonsense", "GET", {}),
        (400, "bad_stamp", "/events", "GET", {"last_event_id": "x"}),
    ],
)
def test_a_stream_that_makes_no_sense_is_refused(status: int, code: str, path: str, method: str, headers: dict[str, str]) -> None:
    """With JSON that says why. Pages of other sites open none."""

    async def story() -> None:
        with door() as (cache, app):
            async with EventClient(app, path, method=method, **headers) as client:
                found, sent, body = await client.answer()
                assert (found, body["error"]["code"], body["success"]) == (status, code, False)
                assert sent["content-type"] == "application/json" and sent["cache-control"] == "no-store"
            assert cache.hub.count == 0

    in_loop(story)


def test_pages_of_the_same_and_of_named_origins_may_open_streams() -> None:
    """Behind another host name, too, where the application says so."""

    async def story() -> None:
        with door(origins=["https://shop.example"]) as (_, app):
            for headers in ({"origin": "http://testserver"}, {"origin": "https://shop.example", "sec_fetch_site": "cross-site"}):
                async with EventClient(app, **headers) as client:
                    start = await client.message()
                    assert start["status"] == 200
                    sent = dict(start["headers"])
                    assert sent[b"content-type"].startswith(b"text/event-stream")
                    assert (sent[b"cache-control"], sent[b"x-accel-buffering"]) == (b"no-store", b"no")

    in_loop(story)


def test_origins_are_a_list() -> None:
    """The letters of one text are no origins."""
    with (
        Cache(policies=[Policy(name="stores", match="stores:*", ttl="5m")]) as cache,
        pytest.raises(TypeError, match=r"write \['https://shop.example'\]"),
    ):
        EventStreams(cache, origins="https://shop.example")


def test_one_stream_too_many_is_refused_and_told_when_to_come_again() -> None:
    """Clients go by lifetimes until then. When one has gone there is room again."""

    async def story() -> None:
        with door(most=1) as (_, app):
            async with EventClient(app) as first:
                await first.next()
                async with EventClient(app) as second:
                    status, headers, body = await second.answer()
                    assert (status, body["error"]["code"]) == (503, "too_many_streams")
                    assert int(headers["retry-after"]) >= 1
                async with EventClient(app, kind="websocket") as third:
                    assert (await third.message())["type"] == "websocket.close"
            async with EventClient(app) as again:
                assert (await again.next()).event == "hello"

    in_loop(story)


def test_callers_who_come_at_once_do_not_pass_the_cap() -> None:
    """It is looked at again when it is known who they are."""

    async def story() -> None:
        async def identify(_scope: Any) -> str:
            await asyncio.sleep(0)
            return "bob"

        with Cache(policies=POLICIES) as cache:
            app = EventStreams(cache, identify=identify, most=2)
            async with contextlib.AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(EventClient(app)) for _ in range(5)]
                begun = [(await client.message())["status"] for client in clients]
                assert sorted(begun) == [200, 200, 503, 503, 503]

    in_loop(story)


def test_who_a_caller_is_may_be_awaited_and_is_a_text() -> None:
    """A coroutine function does; an empty text is nobody, and anything else a mistake."""

    async def story() -> None:
        async def identify(_scope: Any) -> str:
            return "bob"

        with Cache(policies=POLICIES) as cache:
            async with EventClient(EventStreams(cache, identify=identify)) as client:
                await client.next()
                await cache.ainvalidate("users:7")
                assert cache.hub.groups.name("bob", "k:users:7") in (await client.next()).data["tags"]
            client = EventClient(EventStreams(cache, identify=lambda _scope: 7))  # type: ignore[arg-type,return-value]
            with pytest.raises(TypeError, match="a text or None"):
                async with client:
                    await client.next()

    in_loop(story)


def test_a_websocket_tells_the_same_as_server_sent_events() -> None:
    """One JSON object for each event; what the client says is not listened to."""

    async def story() -> None:
        with door() as (cache, app):
            async with EventClient(app, kind="websocket", user="bob") as client, EventClient(app, user="bob") as other:
                assert (await client.message())["type"] == "websocket.accept"
                hello, beside = await client.next(), await other.next()
                assert (hello.event, hello.id) == (beside.event, beside.id)
                await cache.ainvalidate("stores:JKT", "users:7")
                assert await client.next() == await other.next()
                cache.hub.leave()
                assert (await client.next()).event == "bye"
                assert await client.message() == {"type": "websocket.close", "code": 1012}

    in_loop(story)


# --- servers ----------------------------------------------------------------------------------------------------------------------------


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def served(folder: Path, *command: str, **environment: str) -> Generator[tuple[subprocess.Popen[bytes], int]]:
    """The application of `support.streaming` on a port."""
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(TESTS)]))
    with ExitStack() as stack:
        port = stack.enter_context(reserved_port())
        log = stack.enter_context((folder / "log").open("wb"))
        process = subprocess.Popen(
            [sys.executable, "-m", *(part.format(port=port) for part in command), "support.streaming:app"],
            env=os.environ | {"PYTHONPATH": path, **environment},
            stdout=log,
            stderr=log,
            cwd=folder,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        deadline = time.monotonic() + 3 * LONG  # it imports a lot, on a machine that may be busy
        while not is_open(port):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.02)
        yield process, port


@contextmanager
def event_stream(port: int) -> Generator[http.client.HTTPResponse]:
    """A stream that has said hello."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONG)
    with closing(connection):
        connection.request("GET", "/cache/events")
        with closing(connection.getresponse()) as stream:
            assert stream.status == 200
            while stream.readline() != b"\n":
                pass
            yield stream


UVICORN = ("uvicorn", "--port", "{port}")
GUNICORN = ("gunicorn", "-k", "uvicorn_worker.UvicornWorker", "-w", "2", "-b", "127.0.0.1:{port}", "--graceful-timeout", "100")


@pytest.mark.parametrize("command", [UVICORN, GUNICORN], ids=["uvicorn", "gunicorn"])
def test_a_server_with_open_streams_ends_when_it_is_told_to(command: tuple[str, ...], tmp_path: Path) -> None:
    """SIGTERM: the streams say goodbye, and the server waits for nobody. Without it they would wait for 100 s, or for ever."""
    with served(tmp_path, *command) as (process, port), ExitStack() as stack:
        open_streams = [stack.enter_context(event_stream(port)) for _ in range(5)]
        websocket = stack.enter_context(connect(f"ws://127.0.0.1:{port}/cache/events"))
        assert '"hello"' in str(websocket.recv(LONG))
        process.send_signal(signal.SIGTERM)
        process.wait(3 * LONG)  # which raises, if the server waits as long as it may
        assert all(b"event: bye" in stream.read() for stream in open_streams)
        assert '"bye"' in str(websocket.recv(LONG))


def test_a_process_tells_its_streams_of_what_another_one_invalidates(tmp_path: Path, server: Server, namespace: str) -> None:
    """Over real sockets, as a browser reads it."""
    environment = {"STREAMING_REDIS": server.url, "STREAMING_NAMESPACE": namespace}
    with served(tmp_path, *UVICORN, **environment) as (_, port), door(redis=server.url, namespace=namespace) as (cache, _):
        with event_stream(port) as stream:
            stamp = cache.invalidate("stores:JKT")
            assert stream.readline() == f"id: {stamp}\n".encode()
            assert stream.readline() == b"event: inv\n"


# --- the signal -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def handlers() -> Iterator[None]:
    """Signals are handled as before when the test is over."""
    before = {number: signal.getsignal(number) for number in farewell.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_farewell_is_said_before_the_server_hears_of_the_signal(handlers: None) -> None:
    """And the server hears of it all the same. A server that comes later is found, and one farewell is said once for each signal."""
    heard: list[str] = []
    mine = Farewell(lambda: heard.append("farewell"))
    for name in ("one", "two"):

        def listen(_number: int, _frame: object, name: str = name) -> None:
            heard.append(name)

        signal.signal(signal.SIGTERM, listen)
        expect(mine)
        expect(mine)
        signal.raise_signal(signal.SIGTERM)
        assert heard == ["farewell", name]
        heard.clear()
    del mine
    signal.raise_signal(signal.SIGTERM)
    assert heard == ["two"], "whoever has said it is gone"


def test_where_nobody_listens_for_the_signal_it_ends_the_process_as_before(handlers: None) -> None:
    """So it does in threads, which can not listen."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    mine = Farewell(lambda: None)
    expect(mine)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    signal.signal(signal.SIGTERM, print)
    thread = threading.Thread(target=expect, args=(mine,))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is print


def test_an_interrupt_that_python_raises_is_not_the_end(handlers: None) -> None:
    """Where nobody else listens for Ctrl-C it is a KeyboardInterrupt, after which a notebook goes on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    mine = Farewell(lambda: None)
    expect(mine)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
