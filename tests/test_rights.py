"""Rights: the least that a user of the server needs, as the reference lists it. Nothing of it is missing, and nothing is too much."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from cachesync import Cache, Event, Policy, RedisShared, Settings
from cachesync.cli import main
from cachesync.command_line.survey import survey
from cachesync.core import steps
from cachesync.core.auditing import Question
from cachesync.core.names import Names
from cachesync.core.records import KEY, TAG, Targets
from cachesync.core.settings import CoordinationSettings, RedisSettings
from cachesync.core.stamps import NOWHERE
from cachesync.core.steps import (
    RESTING,
    Announce,
    Collect,
    Confirm,
    Discard,
    Extend,
    Failed,
    Fetch,
    Heads,
    Hear,
    Heard,
    Holder,
    Inquire,
    Lease,
    ReadBans,
    ReadLog,
    Release,
    Scan,
    Seize,
    SharedStep,
    Snapshot,
    Store,
    Woken,
)
from cachesync.errors import LayerError
from cachesync.layers.redis_wire import Bounds
from support.nodes import COLOURS, LONG, Callers, Colour, LoopThread
from support.rights import CLUSTER, NEW, OLD, listed
from support.servers import Server

PATIENCE: Final = 5.0
SHORT: Final = 0.05


def commands_of(server: Server) -> list[str]:
    """What a user of this server needs for all there is."""
    left_out = (NEW if is_old(server) else OLD, CLUSTER)
    return [command for what, commands in listed().items() if what not in left_out for command in commands]


def is_old(server: Server) -> bool:
    return str(server.client().info("server")["redis_version"]).startswith("6.")


COMMANDS: Final = sorted({command for what, commands in listed().items() if what != CLUSTER for command in commands})


def url_of(server: Server, user: str) -> str:
    """In a database of its own, which takes a right too."""
    return f"redis://{user}:secret@127.0.0.1:{server.port}/7"


@pytest.fixture
def admin(every_server: Server) -> Iterator[Any]:
    """Who may everything, in that database."""
    with redis.Redis.from_url(every_server.url.removesuffix("/0") + "/7") as client:
        yield client
        client.flushdb()


@pytest.fixture
def allow(every_server: Server, admin: Any) -> Iterator[Callable[..., str]]:
    """Makes a user of ``every_server`` who may use one namespace by these commands. Returns the url for it."""
    made: list[str] = []

    def make(namespace: str, commands: list[str], *, channels: bool = True) -> str:
        made.append(f"user{secrets.token_hex(4)}")
        keys = [f"~{{{namespace}}}:*", f"~{namespace}:e:*", f"~{namespace}:l:*"]
        heard = [f"&{{{namespace}}}:log", f"&{namespace}:l:*"] if channels else []
        allowed = [f"+{command}" for command in commands]
        admin.execute_command("ACL", "SETUSER", made[-1], "reset", "on", ">secret", "resetchannels", *keys, *heard, *allowed)
        return url_of(every_server, made[-1])

    yield make
    admin.execute_command("ACL", "DELUSER", *made)


# --- every step -------------------------------------------------------------------------------------------------------------------


def said(*targets: Targets, unlink: tuple[str, ...] = (), again: bool = False) -> Announce:
    return Announce(targets, tuple(secrets.token_hex(8) for _ in targets), "me", unlink, again)


def steps_of(names: Names, admin: Any) -> Iterator[SharedStep]:
    """Every step of a shared layer, so that each script takes each of its ways."""
    blob = b"cS" + bytes(86)
    question = Question(secrets.token_hex(8), Targets(TAG, ("t",)), NOWHERE)
    many = Targets(TAG, tuple(f"t{number}" for number in range(130)))
    asked: list[SharedStep] = [
        Snapshot(),
        Confirm(),
        Fetch(("a", "b")),
        Fetch(("a",), strict=True),
        Lease("a", "me1", NOWHERE, 60_000, None),
        Extend("a", "me1", 60_000),
        Store("a", "me1", blob, 60_000),
        Seize("b", "me2", NOWHERE, 60_000, True),
        Release("b", "me2", rest=Holder(RESTING, NOWHERE, "why"), milliseconds=60_000),
        said(many, Targets(KEY, ("b",)), unlink=("b",)),
        said(many),
        said(Targets(TAG, ("t",)), again=True),
        ReadLog(NOWHERE),
        ReadBans(0, 10),
        Scan(0, 1_000),
        Heads((names.entry("a"),)),
        Discard(((names.entry("a"), blob),)),
        Inquire(question),
        steps.Testify(question, "me", 1),
        Collect(question),
        steps.Throw((("all", "off"),)),
    ]
    yield from asked
    admin.hset(names.meta, "r", "another server")  # as after a failover
    yield said(many)


def everything(url: str, namespace: str, admin: Any) -> list[str]:
    """Do all that there is to do with a shared layer. Returns what went wrong.

    One announcement waits for a replica to confirm it: each such wait lasts until the server looks at its clock, up to 100 ms.
    """
    admin.script_flush()
    bounds = Bounds(log_records=100, log_keep=0.0, bans=100, longest_life=0.0)
    shared = RedisShared(url, namespace=namespace, bounds=bounds)
    troubles: list[str] = []
    for step in steps_of(shared.names, admin):
        bounds.durable = int(isinstance(step, Announce) and step.again)
        reply = shared.sync.perform(step._replace(deadline=LONG * 1e9) if "deadline" in step._fields else step)
        if isinstance(reply, Failed):
            troubles.append(str(reply.error))
        elif getattr(reply, "unsaid", 0):
            troubles.append("publish: not published")
    with closing(shared.ear()) as ear:
        troubles += heard(ear, SHORT if troubles else PATIENCE)
    shared.close()
    admin.set(shared.names.entry("a"), "x", px=60_000)
    try:
        survey(Settings(namespace=namespace, redis=RedisSettings(url)), lambda _: None)
    except LayerError as error:
        troubles.append(str(error))
    return troubles


def heard(ear: Any, patience: float) -> list[str]:
    """Hear the log, and a lease, and then that lease no more. ``patience`` is for the end of the lease, in seconds: where something has
    failed before, it may never come.
    """
    woken = False
    for beat in (True, False, False, True, True):
        reply = ear.perform(Hear(SHORT if woken or beat else patience, beat, PATIENCE))
        if isinstance(reply, Failed):
            return [str(reply.error)]
        assert isinstance(reply, Heard)
        woken = woken or any(isinstance(item, Woken) for item in reply.items)
        if beat:
            ear.watch("a")
        if woken:
            ear.unwatch("a")
    return []


def test_the_listed_commands_are_enough(every_server: Server, namespace: str, allow: Callable[..., str], admin: Any) -> None:
    """For every step, however its script goes."""
    assert everything(allow(namespace, commands_of(every_server)), namespace, admin) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_each_listed_command_is_needed(every_server: Server, namespace: str, allow: Callable[..., str], admin: Any, command: str) -> None:
    """Without it something fails, and says so. Where the server names the command, so does the error."""
    commands = commands_of(every_server)
    left = [other for other in commands if other != command]
    troubles = everything(allow(namespace, left), namespace, admin)
    if command not in commands:
        assert troubles == [], f"{command} is for another version"
        return
    assert troubles, command
    name = command.partition("|")[0]
    unnamed = "can't run this command"  # inside of scripts, before Redis 7.2
    assert any(name.removeprefix("s") in trouble.lower() or unnamed in trouble for trouble in troubles), troubles


@pytest.mark.parametrize("left_out", ["~{{{}}}:*", "~{}:e:*", "~{}:l:*"])
def test_each_pattern_of_keys_is_needed(every_server: Server, namespace: str, allow: Callable[..., str], admin: Any, left_out: str) -> None:
    """And a user of another namespace gets nothing of this one."""
    url = allow(namespace, commands_of(every_server))
    user = url.partition("://")[2].partition(":")[0]
    patterns = [f"~{{{namespace}}}:*", f"~{namespace}:e:*", f"~{namespace}:l:*"]
    patterns.remove(left_out.format(namespace))
    admin.execute_command("ACL", "SETUSER", user, "resetkeys", *patterns)
    assert any("key" in trouble for trouble in everything(url, namespace, admin))
    other = allow(f"{namespace}x", commands_of(every_server))
    assert any("key" in trouble for trouble in everything(other, namespace, admin))


def test_each_channel_is_needed(every_server: Server, namespace: str, allow: Callable[..., str], admin: Any) -> None:
    """Without them nothing is published, and nothing heard; both are told."""
    url = allow(namespace, commands_of(every_server), channels=False)
    troubles = everything(url, namespace, admin)
    assert "publish: not published" in troubles
    assert any("channel" in trouble for trouble in troubles)


# --- what users do ----------------------------------------------------------------------------------------------------------------

SILENT: Final = {"invalidated", "refresh_failed"}


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    with LoopThread() as running:
        yield running


@pytest.mark.parametrize("colour", COLOURS)
def test_such_a_user_can_do_all_that_a_cache_does(
    every_server: Server, namespace: str, allow: Callable[..., str], colour: Colour, loop: LoopThread
) -> None:
    """Two processes compute, set, update, invalidate by all kinds, wait for each other, sweep; nothing but that is told of."""
    url = allow(namespace, commands_of(every_server))
    callers = Callers(url, namespace, colour, loop)
    audited = CoordinationSettings(budget=LONG, max_lag=60.0, audit=1.0)
    a, b = callers.new(coordination=audited), callers.new()
    events: list[Event] = []
    for caller in (a, b):
        caller.cache._events.add(events.append)  # pyright: ignore[reportPrivateUsage] - both were made without
    assert a.get_or_compute("k", lambda: 1) == b.get_or_compute("k", lambda: 2) == 1
    a.put("k", 3)
    with b.update("k") as put:
        put(4)
    for kind in (("k",), ("k*",), ("*k",), ("*",)):
        callers.apply(a.drop(*kind))
        callers.apply(a.drop(*kind, soft=True))
    stamp = a.drop(tags=["t"])
    assert b.get_or_compute("k", lambda: 5, at_least=stamp) == 5
    assert a.get("k", at_least=a.stamp()) == 5
    a.do(a.cache.sweep if colour == "def" else a.cache.asweep)
    assert b.cache.stats().log.is_heard
    callers.close()
    assert [event for event in events if event.name not in SILENT] == []


def test_such_a_user_can_do_all_that_the_commands_do(
    every_server: Server,
    namespace: str,
    allow: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """``tail``, ``invalidate``, ``sweep``, ``stats`` and ``doctor``."""
    file = tmp_path / "cachesync.toml"
    file.write_text(f'namespace = "{namespace}"\n[redis]\n[policy.all]\nmatch = "*"\nttl = "1h"\n')
    monkeypatch.setenv("CACHESYNC_REDIS_URL", allow(namespace, commands_of(every_server)))
    monkeypatch.setenv("CACHESYNC_FILE", str(file))
    for command in (["invalidate", "k:*", "--tag", "t"], ["sweep"], ["stats"], ["doctor"], ["tail", "--no-follow"]):
        code = main(command)
        told = capsys.readouterr()
        assert (code, told.err) == (0, ""), command
    assert "k:*" in told.out


@pytest.mark.parametrize("colour", COLOURS)
def test_a_cache_whose_user_may_nothing_computes_and_says_so(
    every_server: Server, namespace: str, allow: Callable[..., str], colour: Colour, loop: LoopThread
) -> None:
    """Every call is answered; what could not be announced waits."""
    events: list[Event] = []
    settings = Settings(namespace=namespace, redis=RedisSettings(allow(namespace, ["select"])))
    cache = Cache(settings, policies=[Policy(name="all", match="*", ttl="1h")], on_event=events.append)
    if colour == "def":
        assert cache.get_or_compute("k", partial(int, 1)) == 1
        assert cache.invalidate("k").pending
        with pytest.raises(LayerError):
            cache.sweep()
        cache.close()
    else:

        async def ask() -> None:
            async def compute() -> int:
                return 1

            assert await cache.aget_or_compute("k", compute) == 1
            assert (await cache.ainvalidate("k")).pending
            with pytest.raises(LayerError):
                await cache.asweep()
            await cache.aclose()

        loop.run(ask())
    assert {"layer_failed", "invalidation_queued", "invalidation_lost"} <= {event.name for event in events}
