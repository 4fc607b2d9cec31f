"""The races once more with real processes and a real server: what one process computes, another invalidates, a third believes.

Two workers live through the whole file; each test has a namespace of its own, and a new process where one is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from cachesync.core.names import Names
from support.nodes import COLOURS, KINDS, LONG, Colour, until
from support.proxy import Proxy
from support.servers import Server
from support.worker import Worker, WorkerError, change, each_colour

SHORT_LEASE = 1.0
LONG_LEASE = 600.0
FAIR_LEASE = 4.0
"""Seconds in which a busy machine gives every process a turn."""


STALE = 60.0
"""Seconds in which values may be served stale. After a hard invalidation, none of them are."""


@pytest.fixture(scope="module")
def long_lived(server: Server) -> Iterator[tuple[Worker, Worker]]:
    with Worker(server.url, stale=STALE) as one, Worker(server.url, stale=STALE) as other:
        yield one, other


@pytest.fixture
def workers(long_lived: tuple[Worker, Worker]) -> Iterator[tuple[Worker, Worker]]:
    yield long_lived
    for worker in long_lived:
        worker.forget()


@pytest.fixture(params=COLOURS)
def colour(request: pytest.FixtureRequest) -> Colour:
    chosen: Colour = request.param
    return chosen


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_serves_what_was_computed_before_an_invalidation(
    workers: tuple[Worker, Worker], server: Server, namespace: str, kind: str
) -> None:
    """B computes, A invalidates, B ends: neither A nor B, nor a process whose very first call this is, serves the old value."""
    a, b = workers
    with Worker(server.url) as fresh:
        for own, colour in each_colour(namespace):
            assert a.do("read", own, colour, 2) == 1
            b.do("hold", own, colour)
            reading = b.order("read", own, colour, 1)
            b.do("wait", own, colour)
            change(2, own, colour, a, b, fresh)
            stamp = a.do("invalidate", own, colour, kind, 1)
            b.do("open", own, colour)
            assert reading.result(LONG) == 1
            assert fresh.do("valid", own, colour, 1) is None
            b.do("apply", own, colour, stamp)
            assert b.do("read", own, colour, 1) == 2
            assert (a.do("read", own, colour, 1), fresh.do("read", own, colour, 1)) == (2, 2)
            assert b.do("computations", own, colour) == 2
            assert fresh.do("computations", own, colour) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_an_invalidation_reaches_copies_in_another_process(workers: tuple[Worker, Worker], namespace: str, kind: str) -> None:
    """And an entry that it killed is refused, though it is still stored."""
    a, b = workers
    for own, colour in each_colour(namespace):
        for _ in range(2):
            assert (a.do("read", own, colour, 1), b.do("read", own, colour, 1)) == (1, 1)
        change(2, own, colour, a, b)
        b.do("apply", own, colour, a.do("invalidate", own, colour, kind, 1))
        assert (b.do("read", own, colour, 1), a.do("read", own, colour, 1)) == (2, 2)
        assert a.do("computations", own, colour) + b.do("computations", own, colour) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_an_invalidation_by_another_process_wins_over_a_refresh(workers: tuple[Worker, Worker], namespace: str, kind: str) -> None:
    a, b = workers
    for own, colour in each_colour(namespace):
        assert (a.do("read", own, colour, 1), b.do("read", own, colour, 1)) == (1, 1)
        b.do("hold", own, colour)
        refreshing = b.order("refresh", own, colour, 1)
        b.do("wait", own, colour)
        change(2, own, colour, a, b)
        stamp = a.do("invalidate", own, colour, kind, 1)
        b.do("open", own, colour)
        assert refreshing.result(LONG) == 1
        b.do("apply", own, colour, stamp)
        assert (b.do("read", own, colour, 1), a.do("read", own, colour, 1)) == (2, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_an_invalidation_wins_over_a_refresh_behind_the_callers_back(workers: tuple[Worker, Worker], namespace: str, kind: str) -> None:
    """The value was served stale (softly invalidated), its refresh is under way when the hard invalidation lands: what the refresh
    brings is stored nowhere, and the stale value is not served any more either.
    """
    a, b = workers
    for own, colour in each_colour(namespace):
        assert (a.do("read", own, colour, 1), b.do("read", own, colour, 1)) == (1, 1)
        b.do("apply", own, colour, a.do("invalidate", own, colour, "key as text", 9))  # now its reader listens
        b.do("apply", own, colour, a.do("invalidate", own, colour, "key as text", 1, True))
        b.do("hold", own, colour)
        assert b.do("read", own, colour, 1) == 1, "stale, and at once"
        b.do("wait", own, colour)
        assert b.do("peek", own, colour, 1) == [1, True, "local"]
        change(2, own, colour, a, b)
        b.do("apply", own, colour, a.do("invalidate", own, colour, kind, 1))
        assert b.do("valid", own, colour, 1) is None
        b.do("open", own, colour)
        assert b.do("read", own, colour, 1) == 2
        assert (a.do("read", own, colour, 1), b.do("read", own, colour, 1)) == (2, 2)
        assert a.do("peek", own, colour, 1)[1] is False


@pytest.mark.parametrize("kind", KINDS)
def test_a_reply_of_redis_that_an_invalidation_overtook_is_not_held(workers: tuple[Worker, Worker], namespace: str, kind: str) -> None:
    """Redis has answered B, the answer is on its way to local memory, A invalidates and B's reader applies it first."""
    a, b = workers
    for own, colour in each_colour(namespace):
        assert (a.do("read", own, colour, 1), b.do("read", own, colour, 2)) == (1, 1)
        b.do("hold_reply", own, colour, "Fetch")
        reading = b.order("read", own, colour, 1)
        b.do("wait_reply", own, colour)
        change(2, own, colour, a, b)
        b.do("apply", own, colour, a.do("invalidate", own, colour, kind, 1))
        b.do("open_reply", own, colour)
        assert reading.result(LONG) == 2
        assert (b.do("read", own, colour, 1), a.do("read", own, colour, 1)) == (2, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_an_old_reply_that_comes_through_a_slow_network_dies_with_the_log(server: Server, namespace: str, kind: str) -> None:
    """All answers to B are held back on the wire, those to its reader too. Whatever comes first, the old value does not stay."""
    with Proxy("127.0.0.1", server.port) as proxy, Worker(server.url) as a, Worker(proxy.url) as b:
        for own, colour in each_colour(namespace):
            assert (a.do("read", own, colour, 1), b.do("read", own, colour, 2)) == (1, 1)
            proxy.hold(replies=True)
            reading = b.order("read", own, colour, 1)
            change(2, own, colour, a, b)
            stamp = a.do("invalidate", own, colour, kind, 1)
            proxy.release()
            assert reading.result(LONG) in (1, 2)
            b.do("apply", own, colour, stamp)
            assert b.do("read", own, colour, 1) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_late_caller_does_not_join_a_flight_that_another_process_has_invalidated(
    workers: tuple[Worker, Worker], namespace: str, kind: str
) -> None:
    """B computes, A invalidates, B has applied it: B's next caller has a flight and a lease of its own, while the older one goes on."""
    a, b = workers
    for own, colour in each_colour(namespace):
        assert (a.do("read", own, colour, 2), b.do("read", own, colour, 2)) == (1, 1)
        b.do("hold", own, colour)
        early = b.order("read", own, colour, 1)
        b.do("wait", own, colour)
        change(2, own, colour, a, b)
        b.do("apply", own, colour, a.do("invalidate", own, colour, kind, 1))
        assert b.do("read", own, colour, 1) == 2
        assert not early.done()
        b.do("open", own, colour)
        assert early.result(LONG) == 1
        assert (b.do("read", own, colour, 1), a.do("read", own, colour, 1)) == (2, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_waits_for_a_computation_from_before_an_invalidation(
    workers: tuple[Worker, Worker], server: Server, namespace: str, kind: str
) -> None:
    """B holds the lease and computes; A invalidates and takes the lease over, as a third process does. B has its own result, and gives
    nothing back that is not its own any more.
    """
    a, b = workers
    with Worker(server.url) as fresh:
        for own, colour in each_colour(namespace):
            b.do("hold", own, colour)
            early = b.order("read", own, colour, 1)
            b.do("wait", own, colour)
            change(2, own, colour, a, b, fresh)
            a.do("invalidate", own, colour, kind, 1)
            a.do("hold", own, colour)
            second = a.order("read", own, colour, 1)
            a.do("wait", own, colour)
            third = fresh.order("read", own, colour, 1)
            b.do("open", own, colour)
            assert early.result(LONG) == 1
            assert server.client().exists(Names.of(own).lease("item:1")) == 1
            a.do("open", own, colour)
            assert (second.result(LONG), third.result(LONG), b.do("read", own, colour, 1)) == (2, 2, 2)
            assert fresh.do("computations", own, colour) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_dead_holder_from_before_an_invalidation_is_not_waited_for(
    workers: tuple[Worker, Worker], server: Server, namespace: str, kind: str
) -> None:
    """Its lease has minutes to live, and nobody gives it back; but it holds the position at which it was taken, so it is taken over."""
    a, _ = workers
    with Worker(server.url, lease=LONG_LEASE) as holder:
        for own, colour in each_colour(namespace):
            holder.do("hold", own, colour)
            holder.order("read", own, colour, 1)
            holder.do("wait", own, colour)
        holder.kill()
        for own, colour in each_colour(namespace):
            lease = Names.of(own).lease("item:1")
            assert server.client().pttl(lease) > LONG * 1000
            change(2, own, colour, a)
            a.do("invalidate", own, colour, kind, 1)
            assert a.do("read", own, colour, 1) == 2
            assert server.client().exists(lease) == 0


def test_one_computation_for_two_processes(workers: tuple[Worker, Worker], namespace: str, colour: Colour) -> None:
    """The second process waits for the first one's result, and the third call finds it."""
    a, b = workers
    a.do("hold", namespace, colour)
    first = a.order("read", namespace, colour, 1)
    a.do("wait", namespace, colour)
    second = b.order("read", namespace, colour, 1)
    third = b.order("read", namespace, colour, 1)
    a.do("open", namespace, colour)
    assert (first.result(LONG), second.result(LONG), third.result(LONG)) == (1, 1, 1)
    assert a.do("computations", namespace, colour) + b.do("computations", namespace, colour) == 1


def test_a_holder_that_raises_lets_the_other_process_compute(workers: tuple[Worker, Worker], namespace: str, colour: Colour) -> None:
    a, b = workers
    a.do("hold", namespace, colour)
    first = a.order("read", namespace, colour, 1)
    a.do("wait", namespace, colour)
    second = b.order("read", namespace, colour, 1)
    a.do("fail", namespace, colour)
    a.do("open", namespace, colour)
    assert isinstance(first.exception(LONG), WorkerError)
    assert second.result(LONG) == 1
    assert b.do("computations", namespace, colour) == 1


def test_a_killed_holder_is_waited_for_no_longer_than_its_lease(server: Server, namespace: str, colour: Colour) -> None:
    """SIGKILL in the middle of a computation: nothing is given back, the lease lapses, another process computes."""
    lease = Names.of(namespace).lease("item:1")
    client = server.client()
    with ExitStack() as stack:
        holder, other = (stack.enter_context(Worker(server.url, lease=SHORT_LEASE)) for _ in range(2))
        assert other.do("read", namespace, colour, 2) == 1
        holder.do("hold", namespace, colour)
        first = holder.order("read", namespace, colour, 1)
        holder.do("wait", namespace, colour)
        token = client.get(lease)
        assert token is not None
        second = other.order("read", namespace, colour, 1)
        holder.kill()
        assert isinstance(first.exception(LONG), WorkerError)
        assert second.result(LONG) == 1
        assert client.get(lease) != token
        assert other.do("computations", namespace, colour) == 2


def test_a_living_holder_keeps_its_lease_for_as_long_as_it_computes(server: Server, namespace: str, colour: Colour) -> None:
    """The log's reader extends it: its life, seen on the server, goes up again and again, and the token stays."""
    lease = Names.of(namespace).lease("item:1")
    client = server.client()
    with Worker(server.url, lease=FAIR_LEASE) as holder:
        holder.do("hold", namespace, colour)
        reading = holder.order("read", namespace, colour, 1)
        holder.do("wait", namespace, colour)
        token = client.get(lease)
        lives = [FAIR_LEASE * 1000]
        extended = 0

        def is_extended_often() -> bool:
            nonlocal extended
            lives.append(float(client.pttl(lease)))
            extended += lives[-1] > lives[-2]
            return extended >= 2

        until(is_extended_often, "extending the lease twice")
        assert client.get(lease) == token
        holder.do("open", namespace, colour)
        assert reading.result(LONG) == 1
        assert holder.do("valid", namespace, colour, 1) == 1
        assert client.exists(lease) == 0


def _has_asked_for(worker: Worker, own: str, colour: Colour, batches: list[list[int]]) -> bool:
    return bool(worker.do("batches", own, colour) == batches)


@pytest.mark.parametrize("killed", [False, True])
def test_batches_of_two_processes_that_overlap_in_opposite_order(
    server: Server, workers: tuple[Worker, Worker], namespace: str, killed: bool
) -> None:
    """Both computations are held open at once: each process computes its own items in one call, and waits for the other's with empty
    hands. Where the holder is killed, who waits computes what is left, and nothing else.
    """
    a = workers[0]
    for own, colour in each_colour(namespace):
        with Worker(server.url, lease=FAIR_LEASE if killed else LONG_LEASE) as b:
            for worker in (a, b):
                worker.do("hold", own, colour)
            ours = a.order("batch", own, colour, [1, 2, 3])
            a.do("wait", own, colour)
            theirs = b.order("batch", own, colour, [4, 3, 2, 1])
            b.do("wait", own, colour)
            assert a.do("batches", own, colour) == [[1, 2, 3]]
            assert b.do("batches", own, colour) == [[4]]
            back = a.order("batch", own, colour, [5, 4, 1])
            until(partial(_has_asked_for, a, own, colour, [[1, 2, 3], [5]]), "the call for what nobody computes")
            a.do("open", own, colour)
            assert ours.result(LONG) == [1, 1, 1]
            if killed:
                b.kill()
                assert back.result(LONG) == [1, 1, 1]
                assert a.do("batches", own, colour) == [[1, 2, 3], [5], [4]]
                continue
            assert not back.done()
            b.do("open", own, colour)
            assert theirs.result(LONG) == [1, 1, 1, 1]
            assert back.result(LONG) == [1, 1, 1]
            assert b.do("batches", own, colour) == [[4]]
            assert a.do("batches", own, colour) == [[1, 2, 3], [5]]


@pytest.mark.parametrize("kind", KINDS)
def test_an_invalidation_by_another_process_during_a_batch_concerns_what_it_matches(
    workers: tuple[Worker, Worker], namespace: str, kind: str
) -> None:
    """That item is stored nowhere; the others of the same call are."""
    a, b = workers
    for own, colour in each_colour(namespace):
        b.do("hold", own, colour)
        reading = b.order("batch", own, colour, [1, 2])
        b.do("wait", own, colour)
        change(2, own, colour, a, b)
        stamp = a.do("invalidate", own, colour, kind, 1)
        b.do("open", own, colour)
        assert reading.result(LONG) == [1, 1]
        b.do("apply", own, colour, stamp)
        other = 2 if kind in {"prefix", "tag of the policy", "everything"} else 1
        assert a.do("batch", own, colour, [2, 1]) == [other, 2]
        assert b.do("batch", own, colour, [1, 2]) == [2, other]


def test_many_callers_of_two_processes_compute_each_item_once(workers: tuple[Worker, Worker], namespace: str) -> None:
    """Batches that overlap in every way, all at once: each item is in exactly one call."""
    a, b = workers
    for own, colour in each_colour(namespace):
        numbers = list(range(20))
        asked = [numbers[at:] + numbers[:at] for at in range(0, 20, 4)] + [numbers[at : at + 5][::-1] for at in range(0, 16, 3)]
        reading = [worker.order("batch", own, colour, batch) for batch in asked for worker in (a, b)]
        assert [one.result(LONG) for one in reading] == [[1] * len(batch) for batch in asked for _ in (a, b)]
        called = [number for worker in (a, b) for batch in worker.do("batches", own, colour) for number in batch]
        assert sorted(called) == numbers
