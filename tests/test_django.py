"""The cache backend for Django: what its keys, values and timeouts become, and what of it is one piece, in all processes.

Whether it does what Django's own tests of backends ask is in `test_django_suite.py`. Two caches on one server are two processes.
"""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.test.utils import override_settings
from django.utils.safestring import SafeString, mark_safe

from cachesync import Cache, CodecError, KeyArgumentError, MemoryShared, Policy, PolicyError, Settings
from cachesync.coordination.entries import Entries, Timed
from cachesync.coordination.worlds import ThreadWorld
from cachesync.core.policy import HttpPolicy
from cachesync.core.settings import CoordinationSettings
from cachesync.core.steps import Announce, Step, Store
from cachesync.django import CachesyncCache
from cachesync.django.middleware import CacheMiddleware
from cachesync.testing import FakeClock
from support.nodes import LONG, engine_of, until
from support.servers import Server

if not settings.configured:
    settings.configure(SECRET_KEY="of-tests")

YEAR: Final = 365 * 86_400
POLICY: Final = Policy(name="django", match="django:*", ttl="dynamic", min_ttl="1ms", max_ttl="365d")
Open = Callable[..., Cache]


@pytest.fixture
def caches(server: Server, namespace: str) -> Iterator[Open]:
    """Caches on one server, each as in a process of its own."""
    opened: list[Cache] = []

    def opens(*, budget: float = LONG, policy: Policy = POLICY, **others: Any) -> Cache:
        given = Settings(coordination=CoordinationSettings(budget=budget))
        opened.append(Cache(given, policies=[policy], redis=server.url, namespace=namespace, **others))
        return opened[-1]

    yield opens
    for cache in opened:
        cache.close()


def backend(cache: Any, **options: Any) -> CachesyncCache:
    return CachesyncCache(cache, {"OPTIONS": options} if options else {})


def alone(clock: FakeClock | None = None, policy: Policy = POLICY) -> Cache:
    return Cache(policies=[policy], clock=clock)


def replace_http(policy: Policy) -> Policy:
    """The policy with an HTTP table."""
    return Policy(name=policy.name, match=policy.match, ttl="dynamic", min_ttl="1s", max_ttl="1h", http=HttpPolicy())


def leases_in(server: Server, namespace: str) -> list[Any]:
    client: Any = server.client()
    return list(client.scan_iter(f"{namespace}:l:*"))


def counts_50(django: CachesyncCache) -> None:
    for _ in range(50):
        django.incr("count")


def entries_of(django: CachesyncCache) -> Entries:
    return django._entries  # pyright: ignore[reportPrivateUsage] - a test plays the world to its flows


def led_to(cache: Cache, kind: Any, flow: Generator[Step, Any, Any]) -> Callable[[], Any]:
    """Take a flow up to a step of this kind, which waits. What is returned goes on from there, and returns the result."""
    world = ThreadWorld(engine_of(cache))
    step: Any = next(flow)
    while not isinstance(step, kind):
        step = flow.send(world.perform(step))

    def go_on() -> Any:
        reply: Any = world.perform(step)
        while True:
            try:
                asked: Any = flow.send(reply)
            except StopIteration as stop:
                return stop.value
            reply = world.perform(asked)

    return go_on


# --- what is one piece ------------------------------------------------------------------------------------------------------------


def test_of_what_two_processes_count_at_once_nothing_is_lost(caches: Open) -> None:
    """Threads of two processes count up one counter, while another is set again and again."""
    backends = [backend(caches()), backend(caches())]
    backends[0].set("count", 0, timeout=None)

    def counts(django: CachesyncCache) -> list[int]:
        seen: list[int] = []
        for _ in range(15):
            seen.append(django.incr("count"))
            django.set("other", seen[-1])
        return seen

    with ThreadPoolExecutor(4) as pool:
        seen = [number for numbers in pool.map(counts, [*backends, *backends]) for number in numbers]
    assert sorted(seen) == list(range(1, 61))
    assert backends[0].get("count") == 60


def test_of_all_who_add_at_once_one_is_told_so(caches: Open) -> None:
    """As a lock that several processes want: in either colour."""
    backends = [backend(caches()), backend(caches())]
    gate = threading.Barrier(4)

    def adds(number: int) -> bool:
        gate.wait()
        django = backends[number % 2]
        return asyncio.run(django.aadd("lock", number)) if number < 2 else django.add("lock", number)

    with ThreadPoolExecutor(4) as pool:
        added = list(pool.map(adds, range(4)))
    assert added.count(True) == 1
    assert backends[0].get("lock") == backends[1].get("lock") == added.index(True)


def test_whoever_changes_a_key_waits_for_who_changes_it(caches: Open) -> None:
    """A sum that is on its way to Redis is not overtaken by another: that one adds to it."""
    first, second = caches(), caches()
    one, two = backend(first), backend(second)
    one.set("count", 1)
    go_on = led_to(first, Announce, entries_of(one).changing("count-as-text", lambda _: Timed(None, b"")))
    assert go_on() is None
    go_on = led_to(first, Announce, one._adding_to("count", 10, None))  # pyright: ignore[reportPrivateUsage] - half of `incr`
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(two.incr, "count", 100)
        until(lambda: len(engine_of(second).waiters), "that the second waits")
        assert go_on() == 11
        assert other.result(LONG) == 111


@pytest.mark.parametrize("is_held", [True, False])
def test_what_is_being_replaced_is_not_missing_meanwhile(caches: Open, is_held: bool) -> None:
    """Between the record of a change and its storing the old value is refused. Who meets it waits for the new one."""
    first, second = caches(), caches()
    one, two = backend(first), backend(second)
    one.set("session", "old")
    if is_held:
        assert two.get("session") == "old"
    wanted = one._timed("new", 60)  # pyright: ignore[reportPrivateUsage] - half of `set`
    go_on = led_to(first, Store, entries_of(one).changing(":1:session", lambda _: wanted, looks=False))
    until(lambda: second.stamp() == first.stamp(), "that the second has heard of it")
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(two.get, "session"), pool.submit(asyncio.run, two.aget_many(["session"]))]
        until(lambda: len(engine_of(second).waiters), "that the second waits")
        go_on()
        assert [one.result(LONG) for one in found] == ["new", {"session": "new"}]


def test_nobody_waits_for_what_is_being_replaced_longer_than_his_budget(caches: Open) -> None:
    """Whoever replaces it may have died. Then the key is missing, until somebody sets it."""
    first, second = caches(), caches(budget=0.1)
    one, two = backend(first), backend(second)
    one.set("session", "old")
    go_on = led_to(first, Store, entries_of(one).changing(":1:session", lambda _: Timed(60, b"")))
    until(lambda: second.stamp() == first.stamp(), "that the second has heard of it")
    assert two.get("session", "nothing") == "nothing"
    go_on()


def test_a_value_is_not_refused_by_what_came_before_it(caches: Open) -> None:
    """Who has not yet heard of another one's change sets a value: it stands after that, in the log and for everybody."""
    first, second = caches(), caches(listen=False)
    one, two = backend(first), backend(second)
    two.set("key", "of two")
    one.set("key", "of one")
    two.set("key", "of two again")
    one.set("key", "of one again")
    two.set("key", "the last")
    assert two.get("key") == "the last"
    until(lambda: one.get("key") == "the last", "it has heard of it")


def test_what_loses_its_lease_is_tried_again(caches: Open) -> None:
    """An invalidation from outside takes the lease away in the middle: a value that is set stands after it, a sum finds nothing."""
    cache = caches()
    django = backend(cache)
    django.set("key", 1)
    wanted = django._timed("set", 60)  # pyright: ignore[reportPrivateUsage] - half of `set`
    go_on = led_to(cache, Store, entries_of(django).changing(":1:key", lambda _: wanted, looks=False))
    cache.invalidate("django::1:key")
    go_on()
    assert django.get("key") == "set"
    django.set("key", 1)
    go_on = led_to(cache, Store, django._adding_to("key", 1, None))  # pyright: ignore[reportPrivateUsage] - half of `incr`
    cache.invalidate("django::1:key")
    with pytest.raises(ValueError, match="not found"):
        go_on()


def test_a_lease_is_given_back_where_nothing_is_changed(caches: Open, server: Server, namespace: str) -> None:
    """At once, also where a sum can not be made: no reader of the log has to do it."""
    cache = caches(listen=False)
    django = backend(cache)
    django.set("text", "a")
    for key in ("text", "nothing"):
        with pytest.raises((TypeError, ValueError)):
            django.incr(key)
        assert not leases_in(server, namespace)
    assert (django.add("text", 1), django.touch("nothing"), django.delete("nothing")) == (False, False, False)
    assert not leases_in(server, namespace)
    django.set("text", "b")
    assert django.get("text") == "b"


def test_threads_without_redis_change_a_key_one_after_the_other() -> None:
    """Where there is no shared layer there are no leases: one lock will do."""
    with alone() as cache:
        django = backend(cache)
        django.set("count", 0)
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(counts_50, django) for _ in range(4)]:
                done.result(LONG)
        assert django.get("count") == 200


def test_several_keys_are_set_in_as_few_trips_as_one(server: Server, caches: Open) -> None:
    """And each is one piece for itself."""
    django = backend(caches())
    django.set_many({"a": 0, "b": 0})

    def trips(count: int) -> int:
        asked: list[Any] = []
        inner: Any = engine_of(django_cache).shared
        perform = inner.sync.perform

        def counted(step: Any) -> Any:
            asked.append(step)
            return perform(step)

        inner.sync.perform = counted
        other.set_many({str(number): number for number in range(count)})
        inner.sync.perform = perform
        return len(asked)

    django_cache = caches()
    other = backend(django_cache)
    other.set("warm", 1)
    assert trips(50) <= trips(1) + 2
    assert django.get_many([str(number) for number in range(50)]) == {str(number): number for number in range(50)}


# --- where Redis is away ----------------------------------------------------------------------------------------------------------


def test_where_redis_is_away_nothing_is_stored_and_nothing_old_is_served(fresh_server: Server) -> None:
    """No call raises, and none says that something was stored."""
    patient = Settings(coordination=CoordinationSettings(budget=LONG))
    with Cache(patient, policies=[POLICY], redis=fresh_server.url) as cache:
        django = backend(cache)
        django.set_many({"set": 1, "deleted": 1, "summed": 1, "many": 1})
        assert django.get("set") == 1
        fresh_server.kill()
        django.set("set", 2)
        assert django.get("set") is None
        assert django.delete("deleted") is False
        assert django.get("deleted") is None
        assert (django.add("added", 1), django.touch("summed")) == (False, False)
        with pytest.raises(ValueError, match="not found"):
            django.incr("summed")
        assert django.set_many({"many": 2}) == ["many"]
        assert django.get_many(["many", "added"]) == {}
        django.delete_many(["many"])
        django.clear()


def test_where_caching_is_switched_off_nothing_is_stored(caches: Open) -> None:
    """As by ``cachesync switch``."""
    cache = caches()
    django = backend(cache)
    django.set("key", 1)
    cache.switch("django", "off")
    django.set("key", 2)
    assert (django.get("key"), django.add("key", 3)) == (None, False)
    cache.switch("django", "full")
    assert django.get("key") is None


# --- other processes --------------------------------------------------------------------------------------------------------------


def test_the_other_processes_drop_their_copies(caches: Open) -> None:
    """Local memory answers, until the key is changed anywhere."""
    first, second = caches(), caches()
    one, two = backend(first), backend(second)
    for value, change in ((2, lambda: one.set("key", 2)), (4, lambda: one.incr("key", 3)), (None, lambda: one.delete("key"))):
        one.set("key", 1)
        until(lambda: two.get("key") == 1)
        change()
        until(lambda: second.stamp() == first.stamp(), "that the second has heard of it")
        assert two.get("key") == value
    one.set("key", 1)
    until(lambda: two.get("key") == 1)
    first.invalidate("django:*")
    until(lambda: second.stamp() == first.stamp(), "that the second has heard of it")
    assert two.get("key") is one.get("key") is None


def test_a_hit_of_local_memory_asks_nobody(caches: Open) -> None:
    """Which is what the backend is for."""
    cache = caches()
    django = backend(cache)
    django.set("key", [1])
    shared: Any = engine_of(cache).shared
    before = shared.sync.perform

    def asked(step: Any) -> Any:
        pytest.fail(f"asked: {step}")

    shared.sync.perform = asked
    try:
        assert django.get("key") == [1]
        assert django.get_many(["key"]) == {"key": [1]}
        assert "key" in django
    finally:
        shared.sync.perform = before


def test_what_django_keeps_is_part_of_an_answer_only_where_its_policy_says_so(caches: Open) -> None:
    """A request reads a session anew each time, and its answer is not made of it. With an ``http`` table it is, as all other data."""
    first, second = caches(), caches()
    one, two = backend(first), backend(second)
    one.set("key", 1)
    with first.request() as request:
        assert one.get("key") == 1
        two.set("key", 2)
        until(lambda: one.get("key") == 2, "that the request sees it")
        assert request.consumed is None or not request.consumed.policies
    with alone(policy=replace_http(POLICY)) as cache, cache.request() as request:
        django = backend(cache)
        django.set("key", 1)
        assert django.get("key") == 1
        assert request.consumed is not None
        assert list(request.consumed.policies) == ["django"]


def test_what_is_made_of_it_is_as_fresh_as_it_is() -> None:
    """A cached function that asks Django's cache depends on what it found there."""
    with Cache(policies=[POLICY, Policy(name="pages", match="page:*", ttl="1h")]) as cache:
        django = backend(cache)

        @cache.cached("page:{number}")
        def page(number: int) -> list[Any]:
            return [number, django.get("banner")]

        django.set("banner", "old")
        assert page(1) == [1, "old"]
        django.set("banner", "new")
        assert page(1) == [1, "new"]


# --- timeouts ---------------------------------------------------------------------------------------------------------------------


def test_timeouts_are_kept_within_the_bounds_of_the_policy() -> None:
    """None is the most there is, and what is less than the least is the least. A sum keeps what is left."""
    clock = FakeClock()
    with alone(clock, Policy(name="django", match="django:*", ttl="dynamic", min_ttl="10s", max_ttl="100s")) as cache:
        django = backend(cache)
        for key, timeout in (("short", 1), ("default", 50), ("none", None), ("long", YEAR)):
            django.set(key, 1, timeout=timeout)
        clock.advance(9)
        assert django.incr("default") == 2
        assert "short" in django
        clock.advance(2)
        assert "short" not in django
        clock.advance(38)
        assert "default" in django
        clock.advance(2)
        assert "default" not in django
        clock.advance(48)
        assert "none" in django and "long" in django
        clock.advance(2)
        assert "none" not in django and "long" not in django


def test_what_a_soft_invalidation_has_made_stale_is_missing() -> None:
    """Django's callers compute what they miss themselves: nobody would refresh it behind their backs."""
    with alone(
        policy=Policy(name="django", match="django:*", ttl="dynamic", min_ttl="1s", max_ttl="1h", stale_while_revalidate="1h")
    ) as cache:
        django = backend(cache)
        django.set("key", 1)
        cache.invalidate("django:*", soft=True)
        assert django.get("key") is None
        assert django.add("key", 2) is True


# --- values -----------------------------------------------------------------------------------------------------------------------


def test_each_caller_has_a_value_of_his_own(caches: Open) -> None:
    """What he does to it changes nothing that is cached, also in local memory."""
    django = backend(caches(), PICKLE=True)
    mine: list[Any] = [{"a": 1}]
    django.set("key", mine)
    mine.append(2)
    django.get("key").append(3)
    assert django.get("key") == [{"a": 1}]


@pytest.mark.parametrize("value", [None, 0, "", b"", [], {}, (), 1 << 80, "\ud800", b"\x00\xff", 1.5, True, {1: (2, {3})}])
def test_plain_data_comes_back_as_it_was(value: object) -> None:
    """Without pickle, and of the same type: also what is empty or is not UTF-8."""
    with alone() as cache:
        django = backend(cache)
        django.set("key", value)
        found = django.get("key", "nothing")
        assert found == value
        assert type(found) is type(value)


class Opened:
    """Says so when it is unpickled."""

    count = 0

    def __reduce__(self) -> Any:
        return (opened, ())


def opened() -> str:
    Opened.count += 1
    return "opened"


def test_what_is_no_plain_data_is_pickled_only_where_that_is_asked_for() -> None:
    """Else it is refused where it is set, with what to do."""
    with alone() as cache:
        plain, pickles = backend(cache), backend(cache, PICKLE=True)
        with pytest.raises(pickle.PicklingError, match=r"PICKLE") as caught:
            plain.set("key", mark_safe("<b>"))
        assert isinstance(caught.value, CodecError)
        pickles.set("key", mark_safe("<b>"))
        assert type(pickles.get("key")) is SafeString
        assert plain.get("key", "nothing") == "nothing"


def test_only_what_the_project_has_signed_is_unpickled() -> None:
    """A secret that has been replaced is read while it is a fallback. What nobody has signed is missing."""
    with alone() as cache:
        before = backend(cache, PICKLE=True)
        before.set("key", Opened())
        with override_settings(SECRET_KEY="another", SECRET_KEY_FALLBACKS=["of-tests"]):
            assert backend(cache, PICKLE=True).get("key") == "opened"
        with override_settings(SECRET_KEY="another"):
            count = Opened.count
            after = backend(cache, PICKLE=True)
            assert after.get("key", "nothing") == "nothing"
            assert after.get_many(["key"]) == {}
            assert Opened.count == count


def test_what_can_not_be_stored_changes_nothing() -> None:
    """It is found out before anything is asked."""
    with alone() as cache:
        django = backend(cache, PICKLE=True)
        django.set("key", 1)
        for store in (django.set, django.add):
            with pytest.raises(pickle.PickleError):
                store("key", threading.Lock())
        assert django.get("key") == 1


# --- keys and settings ------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::django.core.cache.CacheKeyWarning")
def test_different_keys_are_different() -> None:
    """Also those with signs that have a meaning in patterns, or never stand in a key as they are."""
    keys = ("a*", "a%2A", "a%", "a:b", "a b", "a\x00", "\ud800", "", "é", "a{b}")
    with alone() as cache:
        django = backend(cache)
        for number, key in enumerate(keys):
            django.set(key, number)
        assert [django.get(key) for key in keys] == list(range(len(keys)))
        django.delete("a*")
        assert django.get("a%2A") == 1
        with pytest.raises(KeyArgumentError, match="characters"):
            django.get("a" * 70_000)


def test_a_key_is_found_as_text() -> None:
    """As the command line and SQL name it: by what Django makes of it. It is set through Django only."""
    with alone() as cache:
        django = backend(cache)
        django.set("stores", [1], version=3)
        assert cache.peek("django::3:stores") is not None
        with pytest.raises(CodecError):
            cache.set("django::3:stores", [2])
        assert django.get("stores", version=3) == [1]


def test_two_prefixes_are_two_caches(caches: Open) -> None:
    """To clear one leaves the other: aliases of one policy file."""
    with Cache(policies=[POLICY, Policy(name="sessions", match="sessions:*", ttl="dynamic", min_ttl="1s", max_ttl="1d")]) as cache:
        django, sessions = backend(cache), backend(cache, PREFIX="sessions")
        django.set("key", 1)
        sessions.set("key", 2)
        django.clear()
        assert (django.get("key"), sessions.get("key")) == (None, 2)


def test_a_backend_of_a_file_shares_one_cache_with_the_others(tmp_path: Path) -> None:
    """Django makes one for each thread, and for each task."""
    path = tmp_path / "cachesync.toml"
    path.write_text('[policy.django]\nmatch = "django:*"\nttl = "dynamic"\nmin_ttl = "1s"\nmax_ttl = "1d"\n')
    one, two = backend(path), backend(str(path))
    one.set("key", 1)
    assert two.get("key") == 1


@pytest.mark.parametrize(
    ("location", "policies", "told"),
    [
        ("", (), "LOCATION: missing"),
        ("nowhere.toml", (), "nowhere.toml"),
        ("no_such_module:cache", (), "'no_such_module:cache' can not be imported"),
        ("os.path:no.such", (), "can not be imported"),
        ("os:sep", (), "is no Cache, but str"),
        (None, (Policy(name="all", match="*", ttl="1h"),), "there is no policy, and each of these keys"),
        (None, (Policy(name="django", match="django:*", ttl="1h"),), "policy.django has a ttl of its own"),
        (None, (POLICY, Policy(name="more", match="django::1:*", ttl="1h")), "takes some of these keys away"),
    ],
)
def test_a_wrong_location_is_told_at_the_start(location: str | None, policies: tuple[Policy, ...], told: str) -> None:
    """And what to write instead."""
    place = Cache(policies=policies) if location is None else location
    with pytest.raises(PolicyError, match=told):
        backend(place)


def test_options_that_mean_nothing_here_are_told_at_the_start() -> None:
    """Those of other backends do something else, or nothing."""
    with alone() as cache:
        for options, told in (({"MAX_ENTRIES": 3}, "of the policy file"), ({"CLIENT_CLASS": "x"}, "known are PREFIX, PICKLE")):
            with pytest.raises(ImproperlyConfigured, match=told):
                backend(cache, **options)


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({"REQUIRE_MATCH": "PUT"}, r"REQUIRE_MATCH is a list of methods; write \['PUT'\]"),
        ({"IDENTIFY": "no_such_module.who"}, "IDENTIFY: 'no_such_module.who' can not be imported"),
        ({}, "CACHE is missing, and CACHES"),
    ],
)
def test_settings_of_the_middleware_that_make_no_sense_are_told_at_the_start(chosen: dict[str, Any], told: str) -> None:
    """Each by its name in CACHESYNC."""

    def answer(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    with override_settings(CACHESYNC=chosen), pytest.raises(ImproperlyConfigured, match=f"CACHESYNC: {told}"):
        CacheMiddleware(answer)


def test_a_reload_may_change_the_bounds_and_not_the_kind() -> None:
    """Its keys have lifetimes of their own."""
    with alone() as cache:
        django = backend(cache)
        django.set("key", 1, timeout=None)
        cache.reload(policies=[Policy(name="django", match="django:*", ttl="dynamic", min_ttl="1s", max_ttl="1h")])
        assert django.get("key") == 1
        with pytest.raises(PolicyError, match="without ttl"):
            cache.reload(policies=[Policy(name="django", match="django:*", ttl="1h")])


def test_two_caches_on_one_layer_in_memory_are_two_processes() -> None:
    """The order of things is the same in every shared layer."""
    shared = MemoryShared()
    with Cache(policies=[POLICY], shared=shared) as first, Cache(policies=[POLICY], shared=shared) as second:
        one, two = backend(first), backend(second)
        one.set("key", 1)
        assert two.incr("key") == 2
        assert one.delete("key") is True
        assert (two.delete("key"), two.add("key", 3)) == (False, True)
