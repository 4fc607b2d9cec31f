"""Flows side by side: a test plays the world to several of them, and sees what is asked at once, and in which order."""

from __future__ import annotations

from collections.abc import Generator
from types import SimpleNamespace
from typing import Any, Final

import pytest

from cachesync.core.flows import Ask
from cachesync.core.policy import Policy
from cachesync.core.stamps import Stamp
from cachesync.core.steps import (
    Await,
    Awaits,
    Begin,
    Call,
    Called,
    Calls,
    Confirm,
    Done,
    Encode,
    Encoded,
    Failed,
    Join,
    Joins,
    Lease,
    Position,
    ReadLog,
    Release,
    Replies,
    Snapshot,
    Stands,
    Step,
    Store,
    Together,
    Waited,
)
from cachesync.core.together import MAX_BYTES_OF_A_TRIP, together

POLICY: Final = Policy(name="items", match="item:*", ttl=60)
SITE: Final = SimpleNamespace(policy=POLICY, is_over=False)
ASKS: Final = [Ask(f"item:{n}", POLICY, (), SITE, n, str, (n,), deadline=100.0, budget=0.25, lease=10_000) for n in range(4)]
AT: Final = Stamp("00112233445566ff", 5)
HERE: Final = Stands(AT, is_heard=True)
DONE: Final = Done(done=True)
NOT_DONE: Final = Done(done=False)


def lease(n: int, deadline: float = 100.0) -> Lease:
    return Lease(f"item:{n}", f"token {n}", AT, 10_000, None, None, deadline)


def store(n: int, size: int = 1) -> Store:
    return Store(f"item:{n}", f"token {n}", bytes(size), 1000, 100.0)


def asking(*steps: Step) -> Generator[Step, Any, list[Any]]:
    """A flow that asks one after the other, and returns the replies."""
    replies: list[Any] = []
    for step in steps:
        replies += [(yield step)]
    return replies


def play(flows: list[Generator[Step, Any, Any]], table: list[tuple[Any, Any]]) -> tuple[Any, ...]:
    """Play a table of (step expected, reply given) to flows side by side. Returns their results."""
    flow, reply = together(flows), None
    for expected, answer in table:
        step = flow.send(reply)
        assert step == expected
        reply = answer
    with pytest.raises(StopIteration) as ended:
        flow.send(reply)
    results: tuple[Any, ...] = ended.value.value
    return results


def test_what_is_asked_of_the_shared_layer_at_the_same_time_is_asked_together() -> None:
    """Each is given its own reply; the deadline of all is the latest."""
    results = play(
        [asking(lease(1)), asking(lease(2, 101.0)), asking(lease(3))],
        [(Together((lease(1, 101.0), lease(2, 101.0), lease(3, 101.0)), 101.0), Replies((DONE, NOT_DONE, Failed(OSError()))))],
    )
    assert [found[0].__class__ for found in results] == [Done, Done, Failed]
    assert results[1] == [NOT_DONE]


def test_a_layer_that_answers_nothing_has_failed_for_all() -> None:
    down = Failed(OSError("the server is away"))
    assert play([asking(lease(1)), asking(lease(2))], [(Together((lease(1), lease(2)), 100.0), down)]) == ([down], [down])


def test_a_single_question_is_asked_as_it_is() -> None:
    assert play([asking(lease(1), Call(ASKS[1]))], [(lease(1), DONE), (Call(ASKS[1]), Called(1))]) == ([DONE, Called(1)],)
    assert play([], []) == ()


def test_what_this_process_answers_waits_for_nobody() -> None:
    """Positions are asked one by one, each in its place."""
    play(
        [asking(Position(), lease(1), Begin(1)), asking(Position(), lease(2), Begin(2))],
        [
            (Position(), HERE),
            (Position(), HERE),
            (Together((lease(1), lease(2)), 100.0), Replies((DONE, DONE))),
            (Begin(1), None),
            (Begin(2), None),
        ],
    )


def test_one_call_computes_for_all_that_have_come_so_far() -> None:
    """And not before everybody has asked the layer what there was to ask."""
    play(
        [asking(lease(1), Call(ASKS[1])), asking(lease(2), lease(2), Call(ASKS[2])), asking(Call(ASKS[3]))],
        [
            (Together((lease(1), lease(2)), 100.0), Replies((DONE, DONE))),
            (lease(2), DONE),
            (Calls((Call(ASKS[1]), Call(ASKS[2]), Call(ASKS[3]))), (Called(1), Called(2), Called(3))),
        ],
    )


def test_nobody_waits_while_anything_else_can_be_done() -> None:
    """What was granted is computed and stored before the lease of another is waited for: two batches that overlap in opposite order
    never wait for each other.
    """
    wait = Await("item:2", "token 2", 0.05)
    play(
        [asking(lease(1), Call(ASKS[1]), store(1)), asking(lease(2), wait, lease(2)), asking(lease(3), wait, lease(3))],
        [
            (Together((lease(1), lease(2), lease(3)), 100.0), Replies((DONE, DONE, DONE))),
            (Call(ASKS[1]), Called(1)),
            (store(1), DONE),
            (Awaits((wait, wait)), (Waited(1.0), Waited(1.0))),
            (Together((lease(2), lease(3)), 100.0), Replies((DONE, DONE))),
        ],
    )


def test_only_those_look_again_whose_lease_has_ended() -> None:
    """The others go on waiting, also when they are one."""
    waits = [Await(f"item:{n}", f"token {n}", 0.05) for n in (1, 2)]
    play(
        [asking(waits[0], lease(1)), asking(waits[1], lease(2))],
        [
            (Awaits((waits[0], waits[1])), (None, Waited(1.0))),
            (lease(2), DONE),
            (Awaits((waits[0],)), (None,)),
            (Awaits((waits[0],)), (Waited(2.0),)),
            (lease(1), DONE),
        ],
    )


def test_what_takes_long_alone_is_behind_what_is_stored() -> None:
    """A lease that is given back is given back before anybody is joined."""
    join = [Join(ask, True, None) for ask in ASKS]
    play(
        [asking(Release("item:1", "token 1")), asking(join[2]), asking(join[3])],
        [(Release("item:1", "token 1"), DONE), (Joins((join[2], join[3])), (Called(2), Called(3)))],
    )


def test_a_question_about_the_log_is_asked_once_for_all() -> None:
    """It concerns no key. Those of keys are never taken for equal."""
    read = ReadLog(AT, 100.0)
    log = Failed(OSError())
    results = play(
        [asking(read), asking(read), asking(Confirm(100.0)), asking(read), asking(lease(1)), asking(lease(1))],
        [(Together((read, Confirm(100.0), lease(1), lease(1)), 100.0), Replies((log, DONE, DONE, NOT_DONE)))],
    )
    assert results == ([log], [log], [DONE], [log], [DONE], [NOT_DONE])


def test_equal_questions_about_the_log_are_one_though_their_deadlines_differ() -> None:
    """As they do where the flows of a batch have waited for different things. It has the latest of them."""
    early, late = ReadLog(AT, 100.0), ReadLog(AT, 101.0)
    log = Failed(OSError())
    assert play([asking(early), asking(late), asking(early)], [(late, log)]) == ([log], [log], [log])
    other = ReadLog(Stamp(AT.epoch, 6), 100.0)
    flows = [asking(early), asking(late), asking(other)]
    assert play(flows, [(Together((late, other._replace(deadline=101.0)), 101.0), Replies((log, DONE)))]) == ([log], [log], [DONE])


def test_questions_of_two_kinds_are_two() -> None:
    """Though they say the same: one asks where the log ends, the other joins it."""
    joined = Failed(OSError())
    flows = [asking(Confirm(100.0)), asking(Snapshot(100.0))]
    assert play(flows, [(Together((Confirm(100.0), Snapshot(100.0)), 100.0), Replies((DONE, joined)))]) == ([DONE], [joined])


def test_time_that_is_spent_in_this_process_is_no_time_of_the_shared_layer() -> None:
    """All values of a batch are encoded before the first is stored: each waits for all of them."""

    def encoding(n: int) -> Generator[Step, Any, list[Any]]:
        reply = yield lease(n)
        encoded: Encoded = yield Encode(ASKS[n], n)
        done = yield store(n)._replace(deadline=100.0 + encoded.seconds)
        return [reply, done]

    def encoded(seconds: float) -> Encoded:
        return Encoded(b"", 0, b"", seconds)

    late = [store(n)._replace(deadline=107.0) for n in range(4)]
    play(
        [encoding(n) for n in range(3)],
        [
            (Together((lease(0), lease(1), lease(2)), 100.0), Replies((DONE, DONE, DONE))),
            (Encode(ASKS[0], 0), encoded(1.0)),
            (Encode(ASKS[1], 1), encoded(2.0)),
            (Encode(ASKS[2], 2), encoded(4.0)),
            (Together((late[0], late[1], late[2]), 107.0), Replies((DONE, DONE, DONE))),
        ],
    )


def test_a_deadline_that_is_counted_anew_has_no_time_of_before_added() -> None:
    """After a wait each flow has its budget again."""
    wait = Await("item:2", "token 2", 0.05)
    play(
        [asking(Encode(ASKS[1], 1), store(1)), asking(wait, lease(2, 200.0))],
        [
            (Encode(ASKS[1], 1), Encoded(b"", 0, b"", 4.0)),
            (store(1), DONE),
            (Awaits((wait,)), (Waited(199.75),)),
            (lease(2, 200.0), DONE),
        ],
    )


def test_a_trip_carries_a_bounded_number_of_bytes() -> None:
    """A value that is larger than that travels alone."""
    half = MAX_BYTES_OF_A_TRIP // 2
    steps = [store(0, half), store(1, half), store(2, half), store(3, 3 * half)]
    results = play(
        [asking(step) for step in steps],
        [(Together((steps[0], steps[1]), 100.0), Replies((DONE, DONE))), (steps[2], DONE), (steps[3], NOT_DONE)],
    )
    assert results == ([DONE], [DONE], [DONE], [NOT_DONE])


def test_a_flow_that_is_given_up_closes_all_of_its_flows() -> None:
    """Each gives back what it holds, also when one of them raises."""
    closed: list[int] = []

    def closing(n: int, *steps: Step) -> Generator[Step, Any, None]:
        try:
            yield from asking(*steps)
            raise LookupError("a mistake of ours")
        finally:
            closed.append(n)

    flows = [closing(1, lease(1)), closing(2, lease(2), lease(2))]
    flow = together(flows)
    flow.send(None)
    flow.close()
    assert closed == [1, 2]
    others = [closing(1, lease(1)), closing(2, lease(2), lease(2))]
    flow = together(others)
    flow.send(None)
    with pytest.raises(LookupError):
        flow.send(Replies((DONE, DONE)))
    assert closed == [1, 2, 1, 2]
