"""Health: a word for how a cache is, and the reasons, told without asking anybody; and a check that asks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from cachesync import Cache, Health, MemoryShared, Policy, Settings
from cachesync.coordination.health import REASONS, RECENT, STATUSES
from cachesync.core.settings import CoordinationSettings, RedisSettings
from support.nodes import COLOURS, LONG, Caller, Colour, LoopThread, engine_of, operations_of, until
from support.proxy import Proxy
from support.servers import Server

BYPASS = Policy(name="all", match="*", ttl="1h")
SERVE = Policy(name="kept", match="kept:*", ttl="1h", on_disconnect="serve", stale_while_revalidate="1h")


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    with LoopThread() as thread:
        yield thread


def a_cache(url: str, namespace: str, *policies: Policy, listen: bool = True, budget: float = LONG, max_lag: float = 60.0) -> Cache:
    settings = Settings(
        namespace=namespace, redis=RedisSettings(url=url), coordination=CoordinationSettings(budget=budget, max_lag=max_lag)
    )
    return Cache(settings, policies=policies or (BYPASS,), listen=listen)


def names(health: Health) -> list[str]:
    return [reason.name for reason in health.reasons]


def check(caller: Caller) -> Health:
    found = caller.do(caller.cache.check if caller.colour == "def" else caller.cache.acheck)
    assert isinstance(found, Health)
    return found


def test_a_cache_of_one_process_is_well() -> None:
    """There is nothing that could fail, and nobody to ask."""
    cache = Cache(policies=[BYPASS])
    assert cache.health() == cache.check() == Health("ok", (), "closed")


def test_a_cache_that_was_just_made_is_well(namespace: str, server: Server) -> None:
    """Before it has asked anybody anything there is no trouble that it knows of."""
    with a_cache(server.url, namespace, max_lag=0.05) as cache:
        assert cache.health().status == "ok"


@pytest.mark.parametrize("colour", COLOURS)
def test_a_check_is_a_round_trip(every_server: Server, namespace: str, colour: Colour, loop: LoopThread) -> None:
    """It tells how long the master took to say where the log ends."""
    caller = Caller(a_cache(every_server.url, namespace), colour, loop)
    health = check(caller)
    assert (health.status, health.reasons, health.breaker) == ("ok", (), "closed")
    assert health.round_trip is not None and 0 < health.round_trip < LONG
    assert caller.cache.health().round_trip is None
    caller.close()


@pytest.mark.parametrize("colour", COLOURS)
def test_a_check_of_a_mute_server_takes_the_budget(proxy: Proxy, namespace: str, colour: Colour, loop: LoopThread) -> None:
    """Nobody waits longer, and the reason says what happened; the next answer ends the trouble."""
    caller = Caller(a_cache(proxy.url, namespace, listen=False, max_lag=300.0), colour, loop)
    assert caller.get_or_compute("a", lambda: 1) == 1
    assert check(caller).status == "ok"
    engine_of(caller.cache).budget = 0.25
    proxy.hold()
    began = time.monotonic()
    health = check(caller)
    assert 0.2 < time.monotonic() - began < LONG
    assert health.status == "degraded" and health.breaker == "open" and health.round_trip is None
    assert names(health) == ["shared_failing", "unanswered"]
    assert "no answer in time" in health.reasons[-1].text
    assert names(caller.cache.health()) == ["shared_failing"], "what only the check knows is in its answer"
    proxy.release()
    proxy.cut()
    engine_of(caller.cache).budget = LONG
    again = check(caller)
    assert again.status == "ok" and again.breaker == "closed", "it is asked whatever the breaker says"
    caller.close()


def test_it_degrades_with_the_shared_layer_and_is_down_when_nothing_is_served(proxy: Proxy, namespace: str) -> None:
    """While local copies are trusted it is degraded; when they are bypassed, every call computes; and all is well when Redis is back."""
    with a_cache(proxy.url, namespace, budget=5.0, max_lag=2.0) as cache:
        assert cache.get_or_compute("a", lambda: 1) == 1
        assert cache.health().status == "ok"
        proxy.refuse()
        until(lambda: "shared_failing" in names(cache.health()), "the failure")
        until(lambda: cache.health().status == "down", "bypassing local copies")
        assert {"shared_failing", "log_silent"} <= set(names(cache.health()))
        reasons = {reason.name: reason for reason in cache.health().reasons}
        assert (reasons["log_silent"].seconds or 0) >= 2.0
        assert cache.invalidate("a:*").pending
        assert names(cache.health())[-1] == "invalidations_queued" and cache.health().reasons[-1].text.endswith(": 1")
        proxy.admit()
        until(lambda: cache.health() == Health("ok", (), "closed"), "the recovery")


def test_it_is_not_down_while_a_policy_serves(proxy: Proxy, namespace: str) -> None:
    """With ``on_disconnect = "serve"`` copies are served flagged stale: some calls are answered."""
    with a_cache(proxy.url, namespace, SERVE, BYPASS, max_lag=0.5) as cache:
        assert cache.get_or_compute("a", lambda: 1) == 1
        proxy.refuse()
        until(lambda: {"shared_failing", "log_silent"} <= set(names(cache.health())), "the silence")
        assert cache.health().status == "degraded"


def test_a_process_without_a_reader_is_not_silent() -> None:
    """With ``listen=False`` the log is learned of with each trip: between two trips there is nothing wrong."""
    with Cache(Settings(coordination=CoordinationSettings(max_lag=0.05)), policies=[BYPASS], shared=MemoryShared(), listen=False) as cache:
        assert cache.get_or_compute("a", lambda: 1) == 1
        until(lambda: not cache.stats().log.is_heard, "the end of max_lag")
        assert cache.health().status == "ok"


def test_a_closed_cache_is_down() -> None:
    """Nobody reads the log for it any more."""
    with Cache(policies=[BYPASS], shared=MemoryShared()) as cache:
        assert cache.get_or_compute("a", lambda: 1) == 1
    assert cache.health().status == "down"
    assert names(cache.health()) == ["closed"]


def test_a_reader_that_died_is_told() -> None:
    """Its thread should run as long as the cache is open."""
    with Cache(policies=[BYPASS], shared=MemoryShared()) as cache:
        assert cache.get_or_compute("a", lambda: 1) == 1
        reader = operations_of(cache).reader
        assert reader.is_alive
        reader.let_go()
        until(lambda: not reader.is_alive, "the end of the thread")
        assert cache.health().status == "degraded"
        assert names(cache.health()) == ["reader_dead"]


def test_a_cache_that_was_switched_off_says_so() -> None:
    """Every call computes, because somebody wants it so."""
    cache = Cache(Settings(enabled=False), policies=[BYPASS])
    assert (cache.health().status, names(cache.health())) == ("degraded", ["switched_off"])


@pytest.mark.parametrize("name", ["violation", "stale_incident", "possible_loss"])
def test_what_happened_once_is_a_reason_for_a_while(monkeypatch: pytest.MonkeyPatch, name: Any) -> None:
    """A violation is told for ten minutes: whoever asks once a minute sees it, and it is not held against the process for ever."""
    cache = Cache(policies=[BYPASS])
    events = engine_of(cache).events
    events.send(name, stamp="e:1")
    assert (cache.health().status, names(cache.health())) == ("degraded", [name])
    later = time.monotonic() + RECENT + 1
    monkeypatch.setattr("cachesync.coordination.events.time", SimpleNamespace(monotonic=lambda: later))
    assert cache.health().status == "ok"


def test_nobody_is_asked(monkeypatch: pytest.MonkeyPatch, namespace: str, server: Server) -> None:
    """`health` sends nothing: an endpoint may be asked as often as anybody likes."""
    with a_cache(server.url, namespace, listen=False) as cache:
        assert cache.get_or_compute("a", lambda: 1) == 1

        def no_step(*_: Any, **__: Any) -> Any:
            raise AssertionError("somebody was asked")

        with monkeypatch.context() as patched:
            patched.setattr(type(engine_of(cache).shared), "sync", property(no_step), raising=False)
            assert cache.health().status == "ok"


def test_it_is_json() -> None:
    """With a status and reasons that are documented."""
    cache = Cache(Settings(enabled=False), policies=[BYPASS])
    told = json.loads(json.dumps(cache.health().as_dict(), allow_nan=False))
    assert told == {
        "status": "degraded",
        "reasons": [{"name": "switched_off", "text": REASONS["switched_off"], "seconds": None}],
        "breaker": "closed",
        "round_trip": None,
    }
    assert told["status"] in STATUSES


@pytest.mark.parametrize("colour", COLOURS)
def test_a_check_asks_while_the_breaker_is_open(proxy: Proxy, namespace: str, colour: Colour, loop: LoopThread) -> None:
    """Everybody else leaves the layer to the log's reader then; a check finds out, and its answer closes the breaker."""
    caller = Caller(a_cache(proxy.url, namespace), colour, loop)
    assert caller.get_or_compute("a", lambda: 1) == 1
    breaker = engine_of(caller.cache).breaker
    breaker.failed()
    breaker.resting_until = float("inf")  # the reader does not try
    assert breaker.leaves_alone
    health = check(caller)
    assert health.round_trip is not None and health.breaker == "closed"
    caller.close()
