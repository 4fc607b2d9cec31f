"""The order of things: a test plays the world to each flow, one reply at a time, and sees which step comes next.

A table is a list of (step expected, reply given). A step is given by its class, or as it must be in full.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator
from typing import Any, Final, get_args

import pytest

from cachesync.core import flows, steps
from cachesync.core.entry import Dependency
from cachesync.core.envelope import IDENTITY, unseal
from cachesync.core.flows import FIRST_WAIT, LONGEST_WAIT, Ask
from cachesync.core.policy import Policy
from cachesync.core.records import KEY, PREFIX, TAG, Record, Targets
from cachesync.core.stamps import Stamp
from cachesync.core.steps import (
    Admit,
    Announce,
    Announced,
    Apply,
    Begin,
    Begun,
    Call,
    Called,
    Done,
    Each,
    Encode,
    Encoded,
    Failed,
    Fetch,
    Fetched,
    Join,
    Joined,
    Keep,
    Later,
    Lease,
    Leased,
    Log,
    Pend,
    Position,
    ReadLog,
    Refused,
    Rejoin,
    Release,
    Seize,
    Settle,
    Snapshot,
    Step,
    Store,
    Ticket,
    Waited,
)

EPOCH: Final = "00112233445566ff"
OTHER_EPOCH: Final = "ffeeddccbbaa9988"
POLICY: Final = Policy(name="items", match="item:*", ttl=60, stale_while_revalidate=10, stale_if_error=20, version=3)
ASK: Final = Ask("item:1", POLICY, (Dependency("t", "items"),), None, 1, str, (1,), deadline=100.0, budget=0.25, lease=10_000)
BLOB: Final = b"a stored entry"
DOWN: Final = Failed(OSError("the server is away"))
NOW: Final = 5_000
TOKEN: Final = "token"

Table = list[tuple[Any, Any]]


def at(number: int, epoch: str = EPOCH) -> Stamp:
    return Stamp(epoch, number)


def play(flow: Generator[Step, Any, Any], table: Table) -> tuple[Any, list[Any]]:
    """Play a table to a flow. Returns its result and the steps it yielded."""
    yielded: list[Any] = []
    reply: Any = None
    for expected, answer in table:
        step = flow.send(reply)
        yielded.append(step)
        assert isinstance(step, get_args(Step)), f"{step!r} is no step"
        if isinstance(expected, type):
            assert type(step) is expected, f"step {len(yielded)}: {step!r} instead of {expected.__name__}"
        else:
            assert step == expected, f"step {len(yielded)}"
        reply = answer
    with pytest.raises(StopIteration) as ended:
        flow.send(reply)
    return ended.value.value, yielded


def fetched(blob: bytes | None = BLOB, head: Stamp | None = None) -> Fetched:
    return Fetched((blob,), head or at(5), NOW)


def granted(head: Stamp | None = None) -> Leased:
    return Leased(granted=True, blob=None, head=head or at(5), now=NOW)


BUSY: Final = Leased(granted=False, blob=None, head=at(5), now=NOW)
SERVED: Final = Called("stored")
REFUSED: Final = Refused(dead=b"its identity")
BEHIND: Final = Refused(behind=True)
BEGUN: Final = Begun(at(5), 100.0, NOW)
CALLED: Final = Called("computed", seconds=2.0, fresh=60.0)
ENCODED: Final = Encoded(b"bytes", 0, b"d" * 16)


# --- obtain -----------------------------------------------------------------------------------------------------------------------


OBTAIN: dict[str, tuple[Fetched | Failed | None, Refused | None, Table, Any]] = {
    "nothing there: compute": (fetched(None), None, [(Join(ASK, True, None), CALLED)], CALLED),
    "what is refused is named, so that the lease does not return it": (
        fetched(),
        REFUSED,
        [(Join(ASK, True, b"its identity"), CALLED)],
        CALLED,
    ),
    "the layer fails: compute without it": (DOWN, None, [(Join(ASK, False, None), CALLED)], CALLED),
    "there is no layer: compute without it": (None, None, [(Join(ASK, False, None), CALLED)], CALLED),
    "behind: catch up, judge again": (
        fetched(),
        BEHIND,
        [
            (Position, at(4)),
            (ReadLog(at(4), 0.0, 100.0), Log((), at(5), gap=False)),
            (Apply, Done(True)),
            (Position, at(5)),
            (Admit(ASK, BLOB, at(5), NOW), SERVED),
        ],
        SERVED,
    ),
    "behind, and dead when it is judged again: compute": (
        fetched(),
        BEHIND,
        [(Position, at(5)), (Admit, REFUSED), (Join(ASK, True, b"its identity"), CALLED)],
        CALLED,
    ),
    "behind, and the log can not be read: compute": (
        fetched(),
        BEHIND,
        [(Position, at(4)), (ReadLog, DOWN), (Join(ASK, True, None), CALLED)],
        CALLED,
    ),
    "a process that has never joined does so before it believes an entry": (
        fetched(),
        BEHIND,
        [(Position, None), (Snapshot(100.0), Joined(at(5), 0, ())), (Rejoin, Done(True)), (Admit, SERVED)],
        SERVED,
    ),
}


@pytest.mark.parametrize(("reply", "refused", "table", "result"), OBTAIN.values(), ids=OBTAIN.keys())
def test_obtain(reply: Fetched | Failed | None, refused: Refused | None, table: Table, result: Any) -> None:
    """What follows the first look into the shared layer, where that was no hit."""
    assert play(flows.obtain(ASK, reply, refused), table)[0] == result


def test_what_the_function_raised_is_a_reply() -> None:
    """A ``StopIteration`` of the user's travels as a value: thrown into the flow it would become a ``RuntimeError``."""
    for error in (StopIteration("the user's own"), GeneratorExit(), KeyboardInterrupt()):
        result, _ = play(flows.obtain(ASK, None, None), [(Join, Failed(error))])
        assert result.error is error
        result, _ = play(
            flows.fill(ASK, token=TOKEN, shared=True, dead=None),
            [(Lease, granted()), (Position, at(5)), (Begin, BEGUN), (Call, Failed(error)), (Release, Done(True))],
        )
        assert result.error is error
        (result, stamp), _ = play(flows.put(ASK, token=TOKEN, shared=False, given=None), [(Begin, BEGUN), (Call, Failed(error))])
        assert result.error is error
        assert stamp is None


def test_many_are_fetched_in_one_trip_and_each_missing_one_is_computed_once() -> None:
    asks = [ASK._replace(key=f"item:{number}") for number in range(4)]
    blobs = (BLOB, None, BLOB, None)
    table: Table = [
        (Fetch(tuple(ask.key for ask in asks), 100.0), Fetched(blobs, at(5), NOW)),
        (Position, at(5)),
        (Admit, SERVED),
        (Admit, REFUSED),
        (Each, (Called("1"), Called("2"), Called("3"))),
    ]
    result, yielded = play(flows.obtain_many(asks, shared=True), table)
    assert result == [Called("stored"), Called("1"), Called("2"), Called("3")]
    joins = [flow.send(None) for flow in yielded[-1].flows]
    dead = [None, b"its identity", None]
    assert joins == [Join(ask, True, refused, late=True) for ask, refused in zip(asks[1:], dead, strict=True)]


def test_many_of_nothing_asks_nothing() -> None:
    assert play(flows.obtain_many([], shared=True), [])[0] == []


def test_looking_never_computes() -> None:
    """Found or not found, one trip; a failing layer is a miss."""
    assert play(flows.look(ASK), [(Fetch, fetched()), (Admit, SERVED)])[0] == SERVED
    assert play(flows.look(ASK), [(Fetch, fetched(None))])[0] == Refused()
    assert play(flows.look(ASK), [(Fetch, DOWN)])[0] == Refused()


# --- fill -------------------------------------------------------------------------------------------------------------------------

STORED: Final[Table] = [(Encode(ASK, "computed"), ENCODED), (Store, Done(True)), (Keep(ASK, CALLED, BEGUN), Done(True))]

FILL: dict[str, tuple[Table, Any]] = {
    "the lease, the position, the computation, the store, the copy: in this order": (
        [
            (Lease("item:1", TOKEN, 10_000, None, 100.0), granted()),
            (Position, at(5)),
            (Begin(NOW), BEGUN),
            (Call(ASK), CALLED),
            *STORED,
        ],
        CALLED,
    ),
    "somebody else computes: look again, and take what came": (
        [
            (Lease, BUSY),
            (Later(FIRST_WAIT), Waited(101.0)),
            (Lease("item:1", TOKEN, 10_000, None, 101.25), BUSY),
            (Later(2 * FIRST_WAIT), Waited(102.0)),
            (Lease, Leased(granted=False, blob=BLOB, head=at(6), now=NOW)),
            (Admit(ASK, BLOB, at(6), NOW), SERVED),
        ],
        Called("stored"),
    ),
    "what came meanwhile is dead: it is named, and the lease is asked for again": (
        [
            (Lease, Leased(granted=False, blob=BLOB, head=at(6), now=NOW)),
            (Admit, REFUSED),
            (Lease("item:1", TOKEN, 10_000, b"its identity", 100.0), granted()),
            (Position, at(6)),
            (Begin, BEGUN),
            (Call, CALLED),
            *STORED,
        ],
        CALLED,
    ),
    "what came can not be judged: compute without the layer": (
        [
            (Lease, Leased(granted=False, blob=BLOB, head=at(6), now=NOW)),
            (Admit, BEHIND),
            (Position, at(5)),
            (ReadLog, DOWN),
            (Begin(0), BEGUN),
            (Call, CALLED),
            (Keep, Done(True)),
        ],
        CALLED,
    ),
    "no lease can be had: compute without the layer": (
        [(Lease, DOWN), (Begin(0), BEGUN), (Call, CALLED), (Keep, Done(True))],
        CALLED,
    ),
    "the process was behind: it catches up before it computes": (
        [
            (Lease, granted(at(7))),
            (Position, at(5)),
            (ReadLog(at(5), 0.0, 100.0), Log((), at(7), gap=False)),
            (Apply, Done(True)),
            (Position, at(7)),
            (Begin, BEGUN),
            (Call, CALLED),
            *STORED,
        ],
        CALLED,
    ),
    "it can not catch up: the stamp is then what it has applied, and that is true": (
        [(Lease, granted(at(7))), (Position, at(5)), (ReadLog, DOWN), (Begin, BEGUN), (Call, CALLED), *STORED],
        CALLED,
    ),
    "the function raises: the lease goes back": (
        [(Lease, granted()), (Position, at(5)), (Begin, BEGUN), (Call, DOWN), (Release, Done(True))],
        DOWN,
    ),
    "the lifetime can not be told: the lease goes back, the result is delivered": (
        [
            (Lease, granted()),
            (Position, at(5)),
            (Begin, BEGUN),
            (Call, Called("computed", 2.0, None)),
            (Release("item:1", TOKEN, 102.0), Done(True)),
        ],
        Called("computed", 2.0, None),
    ),
    "the lease was lost: the result is its caller's and nobody else's": (
        [
            (Lease, granted()),
            (Position, at(5)),
            (Begin, BEGUN),
            (Call, CALLED),
            (Encode, ENCODED),
            (Store, Done(False)),
        ],
        CALLED,
    ),
    "storing got no answer: the copy is kept here, under its stamp": (
        [
            (Lease, granted()),
            (Position, at(5)),
            (Begin, BEGUN),
            (Call, CALLED),
            (Encode, ENCODED),
            (Store, DOWN),
            (Keep, Done(True)),
        ],
        CALLED,
    ),
    "the value can not be encoded: the lease goes back, the copy is kept here": (
        [
            (Lease, granted()),
            (Position, at(5)),
            (Begin, BEGUN),
            (Call, CALLED),
            (Encode, Failed(TypeError())),
            (Release("item:1", TOKEN, 102.0), Done(True)),
            (Keep, Done(True)),
        ],
        CALLED,
    ),
    "a process that could not join the log stores nothing": (
        [
            (Lease, granted()),
            (Position, None),
            (Snapshot, DOWN),
            (Begin, Begun(None, 100.0, NOW)),
            (Call, CALLED),
            (Encode, ENCODED),
            (Release, Done(True)),
            (Keep, Done(False)),
        ],
        CALLED,
    ),
}


@pytest.mark.parametrize(("table", "result"), FILL.values(), ids=FILL.keys())
def test_fill(table: Table, result: Any) -> None:
    assert play(flows.fill(ASK, token=TOKEN, shared=True, dead=None), table)[0] == result


def test_fill_without_a_shared_layer_computes_and_keeps() -> None:
    table: Table = [(Begin(0), BEGUN), (Call, CALLED), (Keep(ASK, CALLED, BEGUN), Done(True))]
    assert play(flows.fill(ASK, token=TOKEN, shared=False, dead=None), table)[0] == CALLED


def test_the_stamp_is_taken_before_the_computation() -> None:
    """What is stored carries the position of `Begin`, which is asked before `Call`; its age counts from there too."""
    flow = flows.fill(ASK, token=TOKEN, shared=True, dead=None)
    table: Table = [(Lease, granted()), (Position, at(5)), (Begin, BEGUN), (Call, CALLED), *STORED]
    store = play(flow, table)[1][-2]
    header, payload = unseal(store.blob)
    assert (header.stamp, header.own, header.made, header.fresh) == (at(5), 0, NOW, 60_000)
    assert (header.stale, header.error, header.schema) == (10_000, 20_000, 3)
    assert header.dependencies == ASK.dependencies
    assert bytes(payload) == b"bytes"
    assert len(store.blob) > IDENTITY
    assert store.milliseconds == 58_000, "the two seconds it took are gone from its life"
    assert store.deadline == 102.0, "and were not the layer's"


def test_a_value_that_is_old_when_it_is_computed_is_not_stored() -> None:
    """The computation took as long as the value lives."""
    slow = Called("computed", seconds=60.0, fresh=60.0)
    flow = flows.fill(ASK, token=TOKEN, shared=True, dead=None)
    table: Table = [
        (Lease, granted()),
        (Position, at(5)),
        (Begin, BEGUN),
        (Call, slow),
        (Encode, ENCODED),
        (Release, Done(True)),
        (Keep, Done(True)),
    ]
    assert play(flow, table)[0] == slow


def test_a_lease_s_loser_waits_longer_each_time_up_to_a_bound() -> None:
    """And each look has a whole budget: the time was spent waiting for a computation, not for the layer."""
    flow = flows.fill(ASK, token=TOKEN, shared=True, dead=None)
    waits: list[float] = []
    step = flow.send(None)
    for turn in range(12):
        assert isinstance(step, Lease)
        assert step.deadline == (100.25 + turn if turn else 100.0)
        later = flow.send(BUSY)
        assert isinstance(later, Later)
        waits.append(later.seconds)
        step = flow.send(Waited(101.0 + turn))
    assert waits[0] == FIRST_WAIT
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_WAIT


# --- put --------------------------------------------------------------------------------------------------------------------------

ANNOUNCEMENT: Final = Targets(KEY, ("item:1",), "v")
TICKET: Final = Ticket((ANNOUNCEMENT,), ("nonce",), "origin")
GIVEN: Final = Called("given", seconds=0.0, fresh=60.0)

PUT: dict[str, tuple[tuple[Any] | None, Table, Any]] = {
    "set: encode, seize, announce, store while the lease is one's own, keep": (
        ("given",),
        [
            (Encode(ASK, "given", given=True), ENCODED),
            (Seize("item:1", TOKEN, 10_000, True, 100.0), granted()),
            (Position, at(5)),
            (Begin(NOW), BEGUN),
            (Call(ASK, ("given",)), GIVEN),
            (Pend((ANNOUNCEMENT,)), TICKET),
            (Announce((ANNOUNCEMENT,), ("nonce",), "origin", (), 100.0), Announced(at(6))),
            (Settle(TICKET, Announced(at(6))), at(6)),
            (Position, at(6)),
            (Store, Done(True)),
            (Keep(ASK, GIVEN, BEGUN, 6), Done(True)),
        ],
        (GIVEN, at(6)),
    ),
    "set: what can not be encoded is refused before anything has changed": (
        ("given",),
        [(Encode, DOWN)],
        (DOWN, None),
    ),
    "refresh: the older entry stays until the new value is announced": (
        None,
        [
            (Seize("item:1", TOKEN, 10_000, False, 100.0), granted()),
            (Position, at(5)),
            (Begin, BEGUN),
            (Call(ASK, None), CALLED),
            (Pend, TICKET),
            (Announce, Announced(at(6))),
            (Settle, at(6)),
            (Position, at(6)),
            (Encode, ENCODED),
            (Store, Done(True)),
            (Keep(ASK, CALLED, BEGUN, 6), Done(True)),
        ],
        (CALLED, at(6)),
    ),
    "others announced meanwhile: that is applied before the value is kept": (
        None,
        [
            (Seize, granted()),
            (Position, at(5)),
            (Begin, BEGUN),
            (Call, CALLED),
            (Pend, TICKET),
            (Announce, Announced(at(8))),
            (Settle, at(8)),
            (Position, at(5)),
            (ReadLog, Log((), at(8), gap=False)),
            (Apply, Done(True)),
            (Position, at(8)),
            (Encode, ENCODED),
            (Store, Done(True)),
            (Keep(ASK, CALLED, BEGUN, 8), Done(True)),
        ],
        (CALLED, at(8)),
    ),
    "an invalidation took the lease: announced, and not kept": (
        None,
        [
            (Seize, granted()),
            (Position, at(5)),
            (Begin, BEGUN),
            (Call, CALLED),
            (Pend, TICKET),
            (Announce, Announced(at(7))),
            (Settle, at(7)),
            (Position, at(7)),
            (Encode, ENCODED),
            (Store, Done(False)),
        ],
        (CALLED, at(7)),
    ),
    "the function raises: nothing is announced, the lease goes back": (
        None,
        [(Seize, granted()), (Position, at(5)), (Begin, BEGUN), (Call, DOWN), (Release, Done(True))],
        (DOWN, None),
    ),
    "the layer is away from the first: pending, and not kept as if it were everywhere": (
        ("given",),
        [
            (Encode, ENCODED),
            (Seize, DOWN),
            (Begin(0), BEGUN),
            (Call, GIVEN),
            (Pend, TICKET),
            (Announce, DOWN),
            (Settle(TICKET, DOWN), Stamp(EPOCH, 5, pending=True)),
        ],
        (GIVEN, Stamp(EPOCH, 5, pending=True)),
    ),
    "the announcement fails: the lease goes back": (
        ("given",),
        [
            (Encode, ENCODED),
            (Seize, granted()),
            (Position, at(5)),
            (Begin, BEGUN),
            (Call, GIVEN),
            (Pend, TICKET),
            (Announce, DOWN),
            (Settle, Stamp(EPOCH, 5, pending=True)),
            (Release, Done(True)),
        ],
        (GIVEN, Stamp(EPOCH, 5, pending=True)),
    ),
}


@pytest.mark.parametrize(("given", "table", "result"), PUT.values(), ids=PUT.keys())
def test_put(given: tuple[Any] | None, table: Table, result: Any) -> None:
    assert play(flows.put(ASK, token=TOKEN, shared=True, given=given), table)[0] == result


def test_put_without_a_shared_layer() -> None:
    """Announced to this process alone, and kept under its own number."""
    table: Table = [
        (Begin(0), BEGUN),
        (Call, GIVEN),
        (Pend, TICKET),
        (Settle(TICKET, None), at(6)),
        (Keep(ASK, GIVEN, BEGUN, 6), Done(True)),
    ]
    assert play(flows.put(ASK, token=TOKEN, shared=False, given=("given",)), table)[0] == (GIVEN, at(6))


def test_a_value_that_was_set_carries_the_number_of_its_own_record() -> None:
    """So that this record, and no other, does not refuse it."""
    _, table, _ = PUT["set: encode, seize, announce, store while the lease is one's own, keep"]
    store = play(flows.put(ASK, token=TOKEN, shared=True, given=("given",)), table)[1][-2]
    header, _ = unseal(store.blob)
    assert (header.stamp, header.own) == (at(5), 6)


# --- invalidate, catch up, listen -------------------------------------------------------------------------------------------------


def test_an_invalidation_holds_here_before_it_is_announced() -> None:
    """Pending first, announced then, settled last; the keys it names are unlinked in the same trip, and nothing else is."""
    targets = (Targets(KEY, ("item:1", "item:2")), Targets(PREFIX, ("user:",)), Targets(TAG, ("red",)))
    ticket = Ticket(targets, ("a", "b", "c"), "origin")
    table: Table = [
        (Pend(targets), ticket),
        (Announce(targets, ("a", "b", "c"), "origin", ("item:1", "item:2"), 100.0), Announced(at(9))),
        (Settle(ticket, Announced(at(9))), at(9)),
    ]
    assert play(flows.invalidate(targets, shared=True, deadline=100.0), table)[0] == at(9)


def test_an_invalidation_without_a_shared_layer_or_without_an_answer_is_settled_too() -> None:
    targets = (Targets(TAG, ("red",)),)
    ticket = Ticket(targets, ("a",), "origin")
    assert play(flows.invalidate(targets, shared=False, deadline=0.0), [(Pend, ticket), (Settle(ticket, None), at(1))])[0] == at(1)
    pending = Stamp(EPOCH, 5, pending=True)
    table: Table = [(Pend, ticket), (Announce, DOWN), (Settle(ticket, DOWN), pending)]
    assert play(flows.invalidate(targets, shared=True, deadline=0.0), table)[0] == pending


RECORD: Final = Record(EPOCH, 6, "c", "p", Targets(TAG, ("red",)), "origin")
JOINED: Final = Joined(at(9), 2, ())
REJOINED: Final[Table] = [(Snapshot(100.0), JOINED), (Rejoin(JOINED), Done(True))]

CATCH_UP: dict[str, tuple[Stamp | None, Table, bool]] = {
    "nothing to do": (at(5), [(Position, at(5))], True),
    "further than was asked": (at(5), [(Position, at(8))], True),
    "page by page": (
        at(7),
        [
            (Position, at(5)),
            (ReadLog(at(5), 0.0, 100.0), Log((RECORD,), at(7), gap=False)),
            (Apply(Log((RECORD,), at(7), gap=False)), Done(True)),
            (Position, at(6)),
            (ReadLog(at(6), 0.0, 100.0), Log((), at(7), gap=False)),
            (Apply, Done(True)),
            (Position, at(7)),
        ],
        True,
    ),
    "the log can not be read": (at(7), [(Position, at(5)), (ReadLog, DOWN)], False),
    "a gap: rejoin": (at(7), [(Position, at(5)), (ReadLog, Log((), at(7), gap=True)), (Apply, Done(False)), *REJOINED], True),
    "another epoch: rejoin without reading": (at(7, OTHER_EPOCH), [(Position, at(5)), *REJOINED], True),
    "no log at all: begin one": (None, [(Position, at(5)), *REJOINED], True),
    "never joined: join": (at(7), [(Position, None), *REJOINED], True),
    "joining fails": (at(7), [(Position, None), (Snapshot, DOWN)], False),
}


@pytest.mark.parametrize(("head", "table", "result"), CATCH_UP.values(), ids=CATCH_UP.keys())
def test_catch_up(head: Stamp | None, table: Table, result: bool) -> None:
    assert play(flows.catch_up(head, 100.0), table)[0] is result


LISTEN: dict[str, tuple[Stamp | None, Table, bool]] = {
    "it joins first": (None, [(Snapshot(101.0), JOINED), (Rejoin, Done(True))], True),
    "it waits for what follows and applies it": (
        at(5),
        [(ReadLog(at(5), 0.4, 101.4), Log((RECORD,), at(6), gap=False)), (Apply, Done(True)), (Position, at(6))],
        True,
    ),
    "it does not stop before the head": (
        at(5),
        [
            (ReadLog, Log((RECORD,), at(7), gap=False)),
            (Apply, Done(True)),
            (Position, at(6)),
            (ReadLog(at(6), 0.0, 102.4), Log((), at(7), gap=False)),
            (Apply, Done(True)),
            (Position, at(7)),
        ],
        True,
    ),
    "what does not continue the position makes it rejoin": (
        at(5),
        [(ReadLog, Log((), at(7), gap=True)), (Apply, Done(False)), (Snapshot, JOINED), (Rejoin, Done(True))],
        True,
    ),
    "a layer that is away": (at(5), [(ReadLog, DOWN)], False),
}


@pytest.mark.parametrize(("position", "table", "result"), LISTEN.values(), ids=LISTEN.keys())
def test_listen(position: Stamp | None, table: Table, result: bool) -> None:
    assert play(flows.listen(position, block=0.4, patience=1.0, now=100.0), table)[0] is result


# --- steps ------------------------------------------------------------------------------------------------------------------------


def test_every_step_a_flow_can_yield_is_in_the_union() -> None:
    """Whoever writes a world can rely on the union: no class of steps is left out, and no reply is in it."""
    source = inspect.getsource(flows)
    classes = {name for name, cls in inspect.getmembers(steps, inspect.isclass) if cls.__module__ == steps.__name__}
    yielded = {name for name in classes if f"yield {name}(" in source}
    union = {cls.__name__ for cls in get_args(Step)}
    assert yielded <= union
    assert union - yielded == {"Extend"}, "which the log's reader asks itself"
