"""Outages between real processes and a real server: cut off, frozen, flushed, killed, or robbed of a key.

Loss makes misses, never hits: whoever can not hear the log serves no copy as fresh for longer than ``max_lag``, and whoever comes back
knows all that happened before it serves again, without losing the copies that nothing has touched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from cachesync.core.names import Names
from support.nodes import KINDS, LONG, Colour, until
from support.proxy import Proxy
from support.servers import Server
from support.worker import Worker, change, each_colour, follows, hears, is_deaf, is_told

MAX_LAG = 2.0
BUDGET = 0.5
STALE = 60.0
NARROW = ("key of the function", "key as text", "glob", "tag of the decorator")
"""The kinds of invalidation that concern one item."""
OWN_KEYS = ("meta", "log", "bans", "again")
CUTS: dict[str, Callable[[Proxy], None]] = {
    "reset": Proxy.refuse,
    "a black hole": Proxy.hold,
    "no answers": lambda proxy: proxy.hold(replies=True),
}


def heal(proxy: Proxy) -> None:
    """The network is as it was."""
    proxy.admit()
    proxy.cut()  # what was held back is lost: it would be delivered late, which is another story
    proxy.release()


@pytest.fixture(scope="module")
def network(server: Server) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", server.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def long_lived(server: Server, network: Proxy) -> Iterator[tuple[Worker, Worker, Worker]]:
    with (
        Worker(server.url, max_lag=MAX_LAG) as near,
        Worker(network.url, max_lag=MAX_LAG, budget=BUDGET) as far,
        Worker(network.url, max_lag=MAX_LAG, budget=BUDGET, stale=STALE, on_disconnect="serve") as serving,
    ):
        yield near, far, serving


@pytest.fixture
def workers(long_lived: tuple[Worker, Worker, Worker], network: Proxy) -> Iterator[tuple[Worker, Worker, Worker]]:
    """One beside the server, two behind the network: of those, the second serves its copies when it hears nothing."""
    yield long_lived
    heal(network)
    for worker in long_lived:
        worker.forget()


def cases_of(namespace: str) -> list[tuple[str, Colour, str]]:
    """Every kind of invalidation in each colour, in a namespace of its own: so one outage does for all of them."""
    return [(f"{own}-{index}", colour, kind) for index, kind in enumerate(KINDS) for own, colour in each_colour(namespace)]


# --- cut off ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_who_was_cut_off_learns_what_it_missed_and_keeps_what_is_untouched(
    workers: tuple[Worker, Worker, Worker], network: Proxy, server: Server, namespace: str, kind: str, how: str
) -> None:
    """A invalidates while B is cut off. When B hears the log again, what was invalidated is dead, and the rest is served from memory:
    Redis does not have it any more.
    """
    a, b, _ = workers
    stamps: dict[str, str] = {}
    for own, colour in each_colour(namespace):
        b.do("apply", own, colour, a.do("invalidate", own, colour, "key as text", 99))
        assert b.do("many", own, colour, 1, 6) == [1] * 5
    CUTS[how](network)
    for own, colour in each_colour(namespace):
        change(2, own, colour, a, b)
        stamps[own] = a.do("invalidate", own, colour, kind, 1)
        names = Names.of(own)
        server.client().unlink(*(names.entry(f"item:{number}") for number in range(1, 6)))
    heal(network)
    for own, colour in each_colour(namespace):
        b.do("apply", own, colour, stamps[own])
        hears(b, own, colour)
        assert b.do("many", own, colour, 1, 6) == ([2, 1, 1, 1, 1] if kind in NARROW else [2] * 5)
        assert b.do("computations", own, colour) == (6 if kind in NARROW else 10)


def test_who_was_cut_off_for_long_keeps_what_is_untouched(
    workers: tuple[Worker, Worker, Worker], network: Proxy, server: Server, namespace: str
) -> None:
    """Longer than ``max_lag``, with fifty invalidations missed: the copies were of no use meanwhile, and are again."""
    a, b, _ = workers
    for own, colour in each_colour(namespace):
        b.do("apply", own, colour, a.do("invalidate", own, colour, "key as text", 99))
        assert b.do("many", own, colour, 1, 6) == [1] * 5
    network.hold()
    stamps: dict[str, str] = {}
    for own, colour in each_colour(namespace):
        is_deaf(b, own, colour)
        change(2, own, colour, a, b)
        for number in range(50):
            stamps[own] = a.do("invalidate", own, colour, "tag of the decorator", 5 + number)
        names = Names.of(own)
        server.client().unlink(*(names.entry(f"item:{number}") for number in range(1, 6)))
    heal(network)
    for own, colour in each_colour(namespace):
        b.do("apply", own, colour, stamps[own])
        hears(b, own, colour)
        assert b.do("many", own, colour, 1, 6) == [1, 1, 1, 1, 2]
        assert b.do("computations", own, colour) == 6
        is_told(b, own, colour, "log_silent")
        is_told(b, own, colour, "log_heard")


def test_out_of_contact_no_copy_is_fresh_and_the_policy_says_what_it_is_worth(
    workers: tuple[Worker, Worker, Worker], network: Proxy, namespace: str
) -> None:
    """``on_disconnect``: "bypass" computes, "serve" serves what it has as stale. Within ``max_lag`` both serve from memory."""
    a, bypassing, serving = workers
    for own, colour in each_colour(namespace):
        stamp = a.do("invalidate", own, colour, "key as text", 99)
        for worker in (bypassing, serving):
            worker.do("apply", own, colour, stamp)
            assert worker.do("read", own, colour, 1) == 1
            assert worker.do("peek", own, colour, 1) == [1, False, "local"]
    network.hold()
    stamps: dict[str, str] = {}
    for own, colour in each_colour(namespace):
        change(2, own, colour, *workers)
        stamps[own] = a.do("invalidate", own, colour, "tag of the policy", 1)
        is_deaf(bypassing, own, colour)
        assert bypassing.do("peek", own, colour, 1) is None
        assert bypassing.do("read", own, colour, 1) == 2
        is_deaf(serving, own, colour)
        assert serving.do("peek", own, colour, 1) == [1, True, "local"]
        assert serving.do("read", own, colour, 1) == 1
    heal(network)
    for own, colour in each_colour(namespace):
        for worker in (bypassing, serving):
            worker.do("apply", own, colour, stamps[own])
            hears(worker, own, colour)
            assert worker.do("read", own, colour, 1) == 2


def test_what_is_served_out_of_contact_is_not_what_was_invalidated_here(
    workers: tuple[Worker, Worker, Worker], network: Proxy, namespace: str
) -> None:
    """A process that serves while it is cut off applies its own invalidations to itself, of every kind, though nobody can be told."""
    _, _, serving = workers
    cases = cases_of(namespace)
    for own, colour, _ in cases:
        assert serving.do("read", own, colour, 1) == 1
    network.hold()
    for own, colour, _ in cases:
        change(2, own, colour, serving)
        is_deaf(serving, own, colour)
        assert serving.do("peek", own, colour, 1) == [1, True, "local"]
    for invalidating in [serving.order("invalidate_away", own, colour, kind, 1) for own, colour, kind in cases]:
        invalidating.result(LONG)
    reading = [serving.order("read", own, colour, 1) for own, colour, _ in cases]
    assert [future.result(LONG) for future in reading] == [2] * len(cases)


# --- Redis is down ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_invalidation_while_redis_is_down_holds_here_and_reaches_everybody_later(
    workers: tuple[Worker, Worker, Worker], network: Proxy, server: Server, namespace: str, kind: str
) -> None:
    """It is pending, and says so. When Redis is back it is announced: the other process, and one that starts then, obey it."""
    near, far, _ = workers
    for own, colour in each_colour(namespace):
        near.do("apply", own, colour, far.do("invalidate", own, colour, "key as text", 99))
        assert (near.do("read", own, colour, 1), far.do("read", own, colour, 1)) == (1, 1)
    network.refuse()
    with Worker(server.url) as fresh:
        for own, colour in each_colour(namespace):
            change(2, own, colour, near, far, fresh)
            far.do("invalidate_away", own, colour, kind, 1)
            assert far.do("read", own, colour, 1) == 2
            assert near.do("read", own, colour, 1) == 1, "it can not know yet"
        heal(network)
        for own, colour in each_colour(namespace):
            hears(far, own, colour)
            near.do("apply", own, colour, far.do("stamp", own, colour))
            assert fresh.do("valid", own, colour, 1) is None
            assert (near.do("read", own, colour, 1), far.do("read", own, colour, 1), fresh.do("read", own, colour, 1)) == (2, 2, 2)


def test_a_killed_server_that_comes_back_empty_revives_nothing(fresh_server: Server, namespace: str) -> None:
    """Kill -9, an invalidation meanwhile, another server without any data: a new epoch, and all copies from before are dead."""
    with Worker(fresh_server.url, max_lag=MAX_LAG, budget=BUDGET) as a, Worker(fresh_server.url, max_lag=MAX_LAG, budget=BUDGET) as b:
        stamps: dict[str, str] = {}
        for own, colour in each_colour(namespace):
            stamps[own] = a.do("invalidate", own, colour, "key as text", 99)
            b.do("apply", own, colour, stamps[own])
            assert a.do("many", own, colour, 1, 4) == b.do("many", own, colour, 1, 4) == [1, 1, 1]
        fresh_server.kill()
        for own, colour in each_colour(namespace):
            change(2, own, colour, a, b)
            a.do("invalidate_away", own, colour, "key as text", 1)
            assert a.do("read", own, colour, 1) == 2
        fresh_server.start()
        for own, colour in each_colour(namespace):
            for worker in (a, b):
                follows(worker, own, colour, after=stamps[own])
            assert a.do("many", own, colour, 1, 4) == b.do("many", own, colour, 1, 4) == [2, 2, 2]


def test_a_frozen_server_that_goes_on_has_lost_nothing(fresh_server: Server, namespace: str) -> None:
    """SIGSTOP: connections stay open and nobody is answered. Afterwards it is the same log."""
    with Worker(fresh_server.url, max_lag=MAX_LAG, budget=BUDGET) as a, Worker(fresh_server.url, max_lag=MAX_LAG, budget=BUDGET) as b:
        stamps: dict[str, str] = {}
        for own, colour in each_colour(namespace):
            stamps[own] = a.do("invalidate", own, colour, "key as text", 99)
            b.do("apply", own, colour, stamps[own])
            assert a.do("many", own, colour, 1, 4) == b.do("many", own, colour, 1, 4) == [1, 1, 1]
        fresh_server.freeze()
        for own, colour in each_colour(namespace):
            change(2, own, colour, a, b)
            a.do("invalidate_away", own, colour, "key as text", 1)
            assert a.do("read", own, colour, 1) == 2
            is_deaf(b, own, colour)
        fresh_server.thaw()
        for own, colour in each_colour(namespace):
            hears(a, own, colour)
            stamp = a.do("stamp", own, colour)
            assert stamp.partition(":")[0] == stamps[own].partition(":")[0]
            b.do("apply", own, colour, stamp)
            hears(b, own, colour)
            assert a.do("many", own, colour, 1, 4) == b.do("many", own, colour, 1, 4) == [2, 1, 1]


# --- what Redis loses -------------------------------------------------------------------------------------------------------------


def test_flushall_makes_misses(fresh_server: Server, namespace: str) -> None:
    """Local copies too: nobody knows what else was forgotten. What was being computed then is stored nowhere."""
    with Worker(fresh_server.url) as a, Worker(fresh_server.url) as b:
        for own, colour in each_colour(namespace):
            stamp = a.do("invalidate", own, colour, "key as text", 99)
            b.do("apply", own, colour, stamp)
            assert (a.do("read", own, colour, 1), b.do("read", own, colour, 1)) == (1, 1)
            b.do("hold", own, colour)
            held = b.order("read", own, colour, 2)
            b.do("wait", own, colour)
            fresh_server.client().flushall()
            change(2, own, colour, a, b)
            for worker in (a, b):
                follows(worker, own, colour, after=stamp)
            b.do("open", own, colour)
            assert held.result(LONG) == 1
            assert (a.do("read", own, colour, 1), b.do("read", own, colour, 1)) == (2, 2)
            assert (a.do("read", own, colour, 2), b.do("read", own, colour, 2)) == (2, 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own_key", OWN_KEYS)
def test_a_key_of_ours_that_is_gone_before_an_invalidation_hides_nothing(
    workers: tuple[Worker, Worker, Worker], server: Server, namespace: str, own_key: str, kind: str
) -> None:
    """Evicted or deleted by hand, one at a time; then the invalidation comes."""
    a, b, fresh = workers
    for own, colour in each_colour(namespace):
        b.do("apply", own, colour, a.do("invalidate", own, colour, "key as text", 99))
        assert (a.do("read", own, colour, 1), b.do("read", own, colour, 1)) == (1, 1)
        server.client().unlink(getattr(Names.of(own), own_key))
        change(2, own, colour, a, b, fresh)
        b.do("apply", own, colour, a.do("invalidate", own, colour, kind, 1))
        assert (b.do("read", own, colour, 1), a.do("read", own, colour, 1)) == (2, 2)
        assert fresh.do("read", own, colour, 1) == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own_key", OWN_KEYS)
def test_a_key_of_ours_that_is_gone_after_an_invalidation_revives_nothing(
    workers: tuple[Worker, Worker, Worker], server: Server, namespace: str, own_key: str, kind: str
) -> None:
    """The entry is there, and what had ended it is gone: a process that starts then does not believe it."""
    a, b, fresh = workers
    for own, colour in each_colour(namespace):
        b.do("apply", own, colour, a.do("invalidate", own, colour, "key as text", 99))
        assert (a.do("read", own, colour, 1), b.do("read", own, colour, 1)) == (1, 1)
        change(2, own, colour, a, b, fresh)
        b.do("apply", own, colour, a.do("invalidate", own, colour, kind, 1))
        server.client().unlink(getattr(Names.of(own), own_key))
        assert fresh.do("valid", own, colour, 1) is None
        assert (fresh.do("read", own, colour, 1), b.do("read", own, colour, 1), a.do("read", own, colour, 1)) == (2, 2, 2)


def test_an_entry_that_is_gone_is_computed_once(workers: tuple[Worker, Worker, Worker], server: Server, namespace: str) -> None:
    """Evicted by Redis: who has a copy serves it, who has none computes and stores."""
    a, b, _ = workers
    for own, colour in each_colour(namespace):
        assert a.do("read", own, colour, 1) == 1
        assert server.client().unlink(Names.of(own).entry("item:1")) == 1
        assert (b.do("read", own, colour, 1), a.do("read", own, colour, 1)) == (1, 1)
        assert (a.do("computations", own, colour), b.do("computations", own, colour)) == (1, 1)
        assert server.client().exists(Names.of(own).entry("item:1")) == 1


def test_a_computation_whose_lease_is_gone_belongs_to_its_caller(
    workers: tuple[Worker, Worker, Worker], server: Server, namespace: str
) -> None:
    """Whoever took the lease away may have had a reason: what was computed under it is stored nowhere."""
    a, b, _ = workers
    for own, colour in each_colour(namespace):
        a.do("hold", own, colour)
        held = a.order("read", own, colour, 1)
        a.do("wait", own, colour)
        assert server.client().unlink(Names.of(own).lease("item:1")) == 1
        change(2, own, colour, a, b)
        a.do("open", own, colour)
        assert held.result(LONG) == 1
        assert (b.do("read", own, colour, 1), a.do("read", own, colour, 1)) == (2, 2)


# --- frozen processes -------------------------------------------------------------------------------------------------------------


def sleeps(seconds: float) -> None:
    """Let time pass: here it is time itself that matters."""
    then = time.monotonic()
    until(lambda: time.monotonic() > then + seconds, "time passing")


def test_a_process_that_wakes_up_serves_nothing_before_it_has_listened(server: Server, namespace: str) -> None:
    """SIGSTOP for longer than ``max_lag``, with copies in memory, and invalidations of every kind. Its first answers after waking up are
    the new values: the questions were asked while it slept.
    """
    max_lag = 1.0
    cases = cases_of(namespace)
    with Worker(server.url) as a, Worker(server.url, max_lag=max_lag) as b:
        for own, colour, _ in cases:
            assert (a.do("read", own, colour, 1), b.do("read", own, colour, 1), b.do("read", own, colour, 1)) == (1, 1, 1)
            change(2, own, colour, a, b)
        b.freeze()
        for own, colour, kind in cases:
            a.do("invalidate", own, colour, kind, 1)
        sleeps(max_lag)
        asked = [b.order("read", own, colour, 1) for own, colour, _ in cases]
        b.thaw()
        assert [reading.result(LONG) for reading in asked] == [2] * len(cases)


def test_a_process_that_wakes_up_in_the_middle_of_a_computation_stores_nothing_old(server: Server, namespace: str) -> None:
    """Its leases have lapsed, somebody else has computed meanwhile: the old results go to their own callers. Whatever the kind of
    invalidation.
    """
    lease = 1.0
    cases = cases_of(namespace)
    with Worker(server.url, lease=lease) as a, Worker(server.url, lease=lease) as b:
        held = {}
        for own, colour, _ in cases:
            assert a.do("read", own, colour, 2) == 1
            b.do("hold", own, colour)
            held[own] = b.order("read", own, colour, 1)
            b.do("wait", own, colour)
            change(2, own, colour, a, b)
        b.freeze()
        for own, colour, kind in cases:
            a.do("invalidate", own, colour, kind, 1)
            assert a.do("read", own, colour, 1) == 2
        opened = [b.order("open", own, colour) for own, colour, _ in cases]
        b.thaw()
        for future in opened:
            future.result(LONG)
        for own, colour, _ in cases:
            assert held[own].result(LONG) == 1
            b.do("apply", own, colour, a.do("stamp", own, colour))
            assert (b.do("read", own, colour, 1), a.do("read", own, colour, 1)) == (2, 2)
            assert a.do("computations", own, colour) == 2


def test_a_process_that_wakes_up_with_a_reply_of_redis_in_its_hands_does_not_believe_it(server: Server, namespace: str) -> None:
    """The reply came before it fell asleep."""
    max_lag = 1.0
    with Worker(server.url) as a, Worker(server.url, max_lag=max_lag) as b:
        reading = {}
        for own, colour in each_colour(namespace):
            assert (a.do("read", own, colour, 1), b.do("read", own, colour, 2)) == (1, 1)
            b.do("hold_reply", own, colour, "Fetch")
            reading[own] = b.order("read", own, colour, 1)
            b.do("wait_reply", own, colour)
            change(2, own, colour, a, b)
        b.freeze()
        for own, colour in each_colour(namespace):
            a.do("invalidate", own, colour, "tag of the policy", 1)
        sleeps(max_lag)
        opened = [b.order("open_reply", own, colour) for own, colour in each_colour(namespace)]
        b.thaw()
        for future in opened:
            future.result(LONG)
        for own, _ in each_colour(namespace):
            assert reading[own].result(LONG) == 2
