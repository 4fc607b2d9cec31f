"""The order of things: a test plays the world to each flow, one reply at a time, and sees which step comes next.

A table is a list of (step expected, reply given). A step is given by its class, or as it must be in full.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Final, get_args

import pytest

from cachesync.core import flows, steps, sweeping
from cachesync.core.auditing import Question
from cachesync.core.bans import Floors
from cachesync.core.entry import Dependency
from cachesync.core.envelope import IDENTITY, unseal
from cachesync.core.flows import BANS_OF_A_PAGE, FIRST_WAIT, LONGEST_WAIT, TRIES, Ask, Seized
from cachesync.core.policy import Policy
from cachesync.core.records import KEY, PREFIX, SOFT, TAG, Record, Targets
from cachesync.core.stamps import NOWHERE, Lineage, Stamp
from cachesync.core.steps import (
    Admit,
    Announce,
    Announced,
    Apply,
    Await,
    Bans,
    Beat,
    Begin,
    Begun,
    Call,
    Called,
    Confirm,
    Contact,
    Done,
    Each,
    Encode,
    Encoded,
    Encrypt,
    Encrypted,
    Examine,
    Failed,
    Fetch,
    Fetched,
    Hear,
    Heard,
    Holder,
    Join,
    Joined,
    Keep,
    Lease,
    Leased,
    Log,
    Outdated,
    Pend,
    Position,
    Reaches,
    ReadBans,
    ReadLog,
    Refused,
    Rejoin,
    Release,
    Seize,
    Settle,
    Snapshot,
    Spare,
    Stands,
    Step,
    Store,
    Ticket,
    Torn,
    Waited,
    Wake,
    Woken,
)

EPOCH: Final = "00112233445566ff"
OTHER_EPOCH: Final = "ffeeddccbbaa9988"
POLICY: Final = Policy(name="items", match="item:*", ttl=60, stale_while_revalidate=10, stale_if_error=20, version=3)
SITE: Final = SimpleNamespace(policy=POLICY, is_over=False)
ASK: Final = Ask("item:1", POLICY, (Dependency("t", "items"),), SITE, 1, str, (1,), deadline=100.0, budget=0.25, lease=10_000)
BLOB: Final = b"a stored entry"
DOWN: Final = Failed(OSError("the server is away"))
NOW: Final = 5_000
TOKEN: Final = "token"

Table = list[tuple[Any, Any]]


def at(number: int, epoch: str = EPOCH) -> Stamp:
    return Stamp(epoch, number)


def stands(number: int | None, epoch: str = EPOCH, *, is_heard: bool = True) -> Stands:
    return Stands(None if number is None else at(number, epoch), is_heard)


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


def play_up_to(flow: Generator[Step, Any, Any], table: Table) -> None:
    """Play the beginning of a flow."""
    reply: Any = None
    for expected, answer in table:
        step = flow.send(reply)
        assert type(step) is expected if isinstance(expected, type) else step == expected
        reply = answer
    flow.close()


def fetched(blob: bytes | None = BLOB, head: Stamp | None = None) -> Fetched:
    return Fetched((blob,), head or at(5), NOW)


def granted(head: Stamp | None = None) -> Leased:
    return Leased(granted=True, blob=None, head=head or at(5), now=NOW)


def lease(position: Stamp, dead: bytes | None = None, over: Holder | None = None, deadline: float = 100.0) -> Lease:
    return Lease("item:1", TOKEN, position, 10_000, dead, over, deadline)


BUSY: Final = Leased(granted=False, blob=None, head=at(5), now=NOW)
HOLDER: Final = Holder("its token", at(3))
HELD: Final = Leased(granted=False, blob=None, head=at(5), now=NOW, holder=HOLDER)
CAME: Final = Leased(granted=False, blob=BLOB, head=at(5), now=NOW)
SERVED: Final = Called("stored")
STALE: Final = Called("stored", is_stale=True)
REFUSED: Final = Refused(dead=b"its identity")
BEHIND: Final = Refused(behind=True)
BEGUN: Final = Begun(at(5), 100.0, NOW)
CALLED: Final = Called("computed", seconds=2.0, fresh=60.0)
ENCODED: Final = Encoded(b"bytes", 0, b"d" * 16)
DONE: Final = Done(done=True)
NOT_DONE: Final = Done(done=False)
RECORD: Final = Record(EPOCH, 6, "c", "p", Targets(TAG, ("red",)), "origin")
SIX: Final = Log((RECORD,), at(6), gap=False)
"""What follows position 5."""
LATER: Final = Record(EPOCH, 7, "d", "c", Targets(TAG, ("red",)), "origin")

# What is asked to find that there is nothing to catch up with, and to catch up from 5 to 6.
UP_TO_DATE: Final[Table] = [(Position, stands(5)), (Position, stands(5))]
READ_SIX: Final[Table] = [
    (Position, stands(5)),
    (Position, stands(5)),
    (ReadLog(at(5), 100.0), SIX),
    (Apply(SIX), DONE),
    (Position, stands(6)),
]
CAN_NOT_READ: Final[Table] = [(Position, stands(5)), (Position, stands(5)), (ReadLog, DOWN)]


def joined(number: int = 9, epoch: str = EPOCH) -> Joined:
    return Joined(at(number, epoch), "c", Lineage(epoch, {}), 50.0)


def page(*numbers: int, more: bool = False, epoch: str | None = EPOCH) -> Bans:
    return Bans(tuple((Targets(TAG, (f"t{number}",)), number) for number in numbers), more, epoch, Floors(), 0)


def rejoining(before: Stands, since: int, deadline: float = 100.0) -> Table:
    """A process takes over position and bans."""
    return [
        (Position, before),
        (Snapshot(deadline), joined()),
        (ReadBans(since, BANS_OF_A_PAGE, deadline), page(9)),
        (Rejoin(joined(), (page(9),), since), DONE),
    ]


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
        fetched(head=at(6)),
        BEHIND,
        [*READ_SIX, (Admit(ASK, BLOB, at(6), NOW), SERVED)],
        SERVED,
    ),
    "behind, and dead when it is judged again: compute": (
        fetched(),
        BEHIND,
        [*UP_TO_DATE, (Admit, REFUSED), (Join(ASK, True, b"its identity"), CALLED)],
        CALLED,
    ),
    "behind, and nothing there: a computation under way may be from before, so catch up first": (
        fetched(None, at(6)),
        BEHIND,
        [*READ_SIX, (Join(ASK, True, None), CALLED)],
        CALLED,
    ),
    "behind, and the log can not be read: compute": (
        fetched(head=at(6)),
        BEHIND,
        [*CAN_NOT_READ, (Join(ASK, True, None), CALLED)],
        CALLED,
    ),
    "a process that has never joined does so before it believes an entry": (
        fetched(),
        BEHIND,
        [(Position, stands(None)), *rejoining(stands(None), 0), (Admit, SERVED)],
        SERVED,
    ),
}


@pytest.mark.parametrize(("reply", "refused", "table", "result"), OBTAIN.values(), ids=OBTAIN.keys())
def test_obtain(reply: Fetched | Failed | None, refused: Refused | None, table: Table, result: Any) -> None:
    """What follows the first look into the shared layer, where that was no hit."""
    assert play(flows.obtain(ASK, reply, refused), table)[0] == result


LEAST: Final = at(4)
STRICT: Final = Fetch(("item:1",), 100.0, strict=True)

CONFIRMED: dict[str, tuple[Stamp | None, Table, Any]] = {
    "the head is asked with the entry, applied, and then the entry is judged": (
        None,
        [(STRICT, fetched(head=at(6))), *READ_SIX, (Admit(ASK, BLOB, at(6), NOW), SERVED)],
        SERVED,
    ),
    "a stamp has to be reached besides": (
        LEAST,
        [(STRICT, fetched()), *UP_TO_DATE, (Reaches(LEAST), DONE), (Admit, SERVED)],
        SERVED,
    ),
    "a stamp that is not reached": (LEAST, [(STRICT, fetched()), *UP_TO_DATE, (Reaches, NOT_DONE)], LookupError),
    "the head can not be asked": (None, [(STRICT, DOWN)], OSError),
    "the head can not be applied": (None, [(STRICT, fetched(head=at(6))), *CAN_NOT_READ], LookupError),
    "nothing there: that is confirmed too": (None, [(STRICT, fetched(None)), *UP_TO_DATE], Refused()),
    "stale is not what was asked for": (None, [(STRICT, fetched()), *UP_TO_DATE, (Admit, STALE)], Refused(dead=BLOB[:IDENTITY])),
    "dead": (None, [(STRICT, fetched()), *UP_TO_DATE, (Admit, REFUSED)], REFUSED),
    "records came while it was judged: once more": (
        None,
        [(STRICT, fetched()), *UP_TO_DATE, (Admit, BEHIND), *UP_TO_DATE, (Admit, SERVED)],
        SERVED,
    ),
    "not heard for too long: the master says where the log ends": (
        None,
        [
            (STRICT, fetched()),
            (Position, stands(5, is_heard=False)),
            (Confirm(100.0), Beat(at(5), "c", is_master=True, is_same=True, asked=50.0)),
            (Position, stands(5)),
            (Contact, DONE),
            (Admit, SERVED),
        ],
        SERVED,
    ),
}


@pytest.mark.parametrize(("least", "table", "result"), CONFIRMED.values(), ids=CONFIRMED.keys())
def test_obtain_confirmed(least: Stamp | None, table: Table, result: Any) -> None:
    """A strict read, or one that asks for a stamp."""
    found = play(flows.obtain_confirmed(ASK, least), table)[0]
    if isinstance(result, type):
        assert isinstance(found, Failed)
        assert isinstance(found.error, result)
    else:
        assert found == result


def test_what_the_function_raised_is_a_reply() -> None:
    """A ``StopIteration`` of the user's travels as a value: thrown into the flow it would become a ``RuntimeError``."""
    for error in (StopIteration("the user's own"), GeneratorExit(), KeyboardInterrupt()):
        spare: Table = [(Spare(ASK, repr(error)), None)] if isinstance(error, Exception) else []
        result, _ = play(flows.obtain(ASK, None, None), [(Join, Failed(error)), *spare])
        assert result.error is error
        result, _ = play(
            flows.fill(ASK, token=TOKEN, shared=True, dead=None),
            [(Position, stands(5)), (Lease, granted()), *UP_TO_DATE, (Begin, BEGUN), (Call, Failed(error)), (Release, DONE)],
        )
        assert result.error is error
        (result, stamp), _ = play(flows.put(ASK, token=TOKEN, shared=False, given=None), [(Begin, BEGUN), (Call, Failed(error))])
        assert result.error is error
        assert stamp is None


FOUR: Final = [ASK._replace(key=f"item:{number}") for number in range(4)]
FOUR_KEYS: Final = tuple(ask.key for ask in FOUR)


def test_many_are_fetched_in_one_trip_and_each_missing_one_is_computed_once() -> None:
    blobs = (BLOB, None, BLOB, None)
    table: Table = [
        (Fetch(FOUR_KEYS, 100.0), Fetched(blobs, at(5), NOW)),
        *UP_TO_DATE,
        (Admit, SERVED),
        (Admit, REFUSED),
        (Each, (Called("1"), Called("2"), Called("3"))),
    ]
    result, yielded = play(flows.obtain_many(FOUR, shared=True), table)
    assert result == [Called("stored"), Called("1"), Called("2"), Called("3")]
    joins = [flow.send(None) for flow in yielded[-1].flows]
    dead = [None, b"its identity", None]
    assert joins == [Join(ask, True, refused, late=True) for ask, refused in zip(FOUR[1:], dead, strict=True)]


def test_many_of_nothing_asks_nothing() -> None:
    assert play(flows.obtain_many([], shared=True), [])[0] == []


def test_looking_never_computes() -> None:
    """Found or not found, one trip; a failing layer is a miss."""
    assert play(flows.look(ASK), [(Fetch, fetched()), (Admit, SERVED)])[0] == SERVED
    assert play(flows.look(ASK), [(Fetch, fetched(None))])[0] == Refused()
    assert play(flows.look(ASK), [(Fetch, DOWN)])[0] == Refused()
    assert play(flows.look(ASK), [(Fetch, fetched(head=at(6))), (Admit, BEHIND), *CAN_NOT_READ])[0] == Refused()


# --- fill -------------------------------------------------------------------------------------------------------------------------

LEASED: Final[Table] = [(Position, stands(5)), (lease(at(5)), granted()), *UP_TO_DATE]
COMPUTED: Final[Table] = [(Begin(NOW), BEGUN), (Call(ASK), CALLED)]
STORED: Final[Table] = [(Encode(ASK, "computed"), ENCODED), (Store, DONE), (Keep, DONE)]
KEPT: Final = CALLED._replace(stamp=at(5), made=100.0, until=160.0)
TOLD: Final = KEPT._replace(is_shared=True)
ALONE: Final[Table] = [(Begin(0), BEGUN), (Call, CALLED), (Keep, DONE)]

FILL: dict[str, tuple[Table, Any]] = {
    "the lease, the position, the computation, the store, the copy: in this order": (
        [*LEASED, *COMPUTED, (Encode(ASK, "computed"), ENCODED), (Store, DONE), (Keep(ASK, KEPT, BEGUN), DONE)],
        TOLD,
    ),
    "a process that never joined asks for its lease from nowhere, and joins": (
        [(Position, stands(None)), (lease(NOWHERE), granted()), (Position, stands(None)), *rejoining(stands(None), 0), *COMPUTED, *STORED],
        TOLD,
    ),
    "somebody else computes: look again, and take what came": (
        [
            (Position, stands(5)),
            (lease(at(5)), BUSY),
            (Await("item:1", TOKEN, FIRST_WAIT), Waited(101.0)),
            (Fetch(("item:1",), 101.25), fetched(None)),
            (Position, stands(5)),
            (lease(at(5), deadline=101.25), BUSY),
            (Await("item:1", TOKEN, LONGEST_WAIT), Waited(102.0)),
            (Fetch(("item:1",), 102.25), fetched()),
            (Admit(ASK, BLOB, at(5), NOW), SERVED),
        ],
        SERVED,
    ),
    "somebody else computes, and the layer fails meanwhile: compute without a lease": (
        [(Position, stands(5)), (Lease, BUSY), (Await, Waited(101.0)), (Fetch, DOWN), (Begin(0), BEGUN), (Call, CALLED), (Keep, DONE)],
        TOLD._replace(is_shared=False),
    ),
    "somebody else has computed, but what was refused is still there: it is not judged again": (
        [
            (Position, stands(5)),
            (Lease, CAME),
            (Admit, REFUSED),
            (Position, stands(5)),
            (lease(at(5), BLOB[:IDENTITY]), BUSY),
            (Await, Waited(101.0)),
            (Fetch, fetched()),
            (Position, stands(5)),
            (lease(at(5), BLOB[:IDENTITY], deadline=101.25), granted()),
            *UP_TO_DATE,
            *COMPUTED,
            *STORED,
        ],
        TOLD,
    ),
    "somebody else computes, and what comes of it may be served: wait": (
        [
            (Position, stands(5)),
            (Lease, HELD),
            (Outdated(ASK, at(3)), NOT_DONE),
            (Await, Waited(101.0)),
            (Fetch, fetched()),
            (Admit, SERVED),
        ],
        SERVED,
    ),
    "somebody else computes what is known to be outdated: the lease is taken over, if it still is the one that was seen": (
        [
            (Position, stands(5)),
            (lease(at(5)), HELD),
            (Outdated(ASK, at(3)), DONE),
            (Position, stands(5)),
            (lease(at(5), over=HOLDER), granted()),
            *UP_TO_DATE,
            *COMPUTED,
            *STORED,
        ],
        TOLD,
    ),
    "another one was faster in taking it over: its lease is judged anew": (
        [
            (Position, stands(5)),
            (Lease, HELD),
            (Outdated, DONE),
            (Position, stands(5)),
            (lease(at(5), over=HOLDER), Leased(granted=False, blob=None, head=at(5), now=NOW, holder=Holder("a third", at(5)))),
            (Outdated(ASK, at(5)), NOT_DONE),
            (Await, Waited(101.0)),
            (Fetch, fetched(None)),
            (Position, stands(5)),
            (lease(at(5), deadline=101.25), granted()),
            *[(Position, stands(5))] * 2,
            (Begin, BEGUN),
            (Call, CALLED),
            *STORED,
        ],
        TOLD,
    ),
    "what came meanwhile is dead: it is named, and the lease is asked for again": (
        [
            (Position, stands(5)),
            (Lease, CAME),
            (Admit, REFUSED),
            (Position, stands(5)),
            (lease(at(5), dead=BLOB[:IDENTITY]), granted()),
            *UP_TO_DATE,
            *COMPUTED,
            *STORED,
        ],
        TOLD,
    ),
    "what came meanwhile is stale: it is refreshed": (
        [
            (Position, stands(5)),
            (Lease, CAME),
            (Admit, STALE),
            (Position, stands(5)),
            (lease(at(5), dead=BLOB[:IDENTITY]), granted()),
            *UP_TO_DATE,
            *COMPUTED,
            *STORED,
        ],
        TOLD,
    ),
    "what came can not be judged: compute without the layer": (
        [(Position, stands(5)), (Lease, CAME._replace(head=at(6))), (Admit, BEHIND), *CAN_NOT_READ, *ALONE],
        KEPT,
    ),
    "no lease can be had: compute without the layer": ([(Position, stands(5)), (Lease, DOWN), *ALONE], KEPT),
    "the process was behind: it catches up before it computes": (
        [(Position, stands(5)), (Lease, granted(at(6))), *READ_SIX, *COMPUTED, *STORED],
        TOLD,
    ),
    "it can not catch up: the stamp is then what it has applied, and that is true": (
        [(Position, stands(5)), (Lease, granted(at(6))), *CAN_NOT_READ, *COMPUTED, *STORED],
        TOLD,
    ),
    "the function raises: the lease goes back": ([*LEASED, (Begin, BEGUN), (Call, DOWN), (Release, DONE)], DOWN),
    "the lifetime can not be told: the lease goes back, the result is delivered": (
        [*LEASED, (Begin, BEGUN), (Call, Called("computed", 2.0, None)), (Release("item:1", TOKEN, 102.0), DONE)],
        Called("computed", 2.0, None, stamp=at(5), made=100.0),
    ),
    "the lease was lost: the result is its caller's and nobody else's": (
        [*LEASED, *COMPUTED, (Encode, ENCODED), (Store, NOT_DONE)],
        TOLD,
    ),
    "storing got no answer: the copy is kept here, under its stamp": (
        [*LEASED, *COMPUTED, (Encode, ENCODED), (Store, DOWN), (Keep, DONE)],
        KEPT,
    ),
    "the value can not be encoded: the lease goes back, the copy is kept here": (
        [*LEASED, *COMPUTED, (Encode, Failed(TypeError())), (Release("item:1", TOKEN, 102.0), DONE), (Keep, DONE)],
        TOLD,
    ),
    "a process that could not join the log stores nothing": (
        [
            (Position, stands(None)),
            (Lease, granted()),
            (Position, stands(None)),
            (Position, stands(None)),
            (Snapshot, DOWN),
            (Begin, Begun(None, 100.0, NOW)),
            (Call, CALLED),
            (Encode, ENCODED),
            (Release, DONE),
            (Keep, NOT_DONE),
        ],
        KEPT._replace(stamp=None),
    ),
}


@pytest.mark.parametrize(("table", "result"), FILL.values(), ids=FILL.keys())
def test_fill(table: Table, result: Any) -> None:
    assert play(flows.fill(ASK, token=TOKEN, shared=True, dead=None), table)[0] == result


def test_a_refused_entry_is_named_to_the_first_lease() -> None:
    """So that the layer does not return it in place of one."""
    flow = flows.fill(ASK, token=TOKEN, shared=True, dead=b"its identity")
    flow.send(None)
    assert flow.send(stands(5)) == lease(at(5), dead=b"its identity")


def test_fill_without_a_shared_layer_computes_and_keeps() -> None:
    assert play(flows.fill(ASK, token=TOKEN, shared=False, dead=None), ALONE)[0] == KEPT


def test_the_stamp_is_taken_before_the_computation() -> None:
    """What is stored carries the position of `Begin`, which is asked before `Call`; its age counts from there too."""
    flow = flows.fill(ASK, token=TOKEN, shared=True, dead=None)
    store = play(flow, [*LEASED, *COMPUTED, *STORED])[1][-2]
    header, payload = unseal(store.blob)
    assert (header.stamp, header.own, header.made, header.fresh) == (at(5), 0, NOW, 60_000)
    assert (header.stale, header.error, header.schema) == (10_000, 20_000, 3)
    assert bytes(payload) == b"bytes"
    assert len(store.blob) > IDENTITY
    assert store.milliseconds == 78_000, "ttl and the longer window, without the two seconds it took"
    assert store.deadline == 102.0, "and these were not the layer's"


def test_the_time_of_making_bytes_is_not_the_layer_s() -> None:
    """Encoding and encrypting a large value may take longer than the whole budget."""
    policy = replace(POLICY, encrypt=True)
    ask = ASK._replace(policy=policy, site=SimpleNamespace(policy=policy, is_over=False))
    table: Table = [*LEASED, (Begin, BEGUN), (Call, CALLED), (Encode, ENCODED._replace(seconds=4.0)), (Encrypt, Encrypted(b"it", 8.0))]
    store = play(flows.fill(ask, token=TOKEN, shared=True, dead=None), [*table, (Store, DONE), (Keep, DONE)])[1][-2]
    assert (store.blob, store.deadline) == (b"it", 114.0)
    table[-2] = (Encode, Failed(TypeError(), 4.0))
    release = play(flows.fill(ask, token=TOKEN, shared=True, dead=None), [*table[:-1], (Release, DONE), (Keep, DONE)])[1][-2]
    assert release.deadline == 106.0
    table[-2:] = [(Encode, ENCODED), (Encrypt, Failed(TypeError(), 8.0))]
    release = play(flows.fill(ask, token=TOKEN, shared=True, dead=None), [*table, (Release, DONE), (Keep, DONE)])[1][-2]
    assert release.deadline == 110.0


def test_the_time_of_encoding_a_given_value_is_not_the_layer_s() -> None:
    """It is encoded before its lease is taken."""
    flow = flows.put(ASK, token=TOKEN, shared=True, given=("given",))
    assert flow.send(None) == Call(ASK, ("given",))
    assert flow.send(GIVEN._replace(seconds=1.0)) == Encode(ASK, "given", given=True)
    assert flow.send(ENCODED._replace(seconds=2.0)) == Position()
    seize = flow.send(stands(5))
    assert isinstance(seize, Seize)
    assert seize.deadline == 103.0


def test_the_time_of_decoding_what_is_refused_is_not_the_layer_s() -> None:
    """The lease is asked for when that is done."""
    later = ASK._replace(deadline=103.0)
    assert play(flows.obtain(ASK, fetched(), Refused(dead=b"it", seconds=3.0)), [(Join(later, True, b"it"), CALLED)])[0] == CALLED
    again: Table = [*UP_TO_DATE, (Admit, Refused(dead=b"it", seconds=3.0)), (Join(later, True, b"it"), CALLED)]
    assert play(flows.obtain(ASK, fetched(), BEHIND), again)[0] == CALLED
    table: Table = [
        (Position, stands(5)),
        (Lease, CAME),
        (Admit, REFUSED._replace(seconds=3.0)),
        (Position, stands(5)),
        (lease(at(5), dead=BLOB[:IDENTITY], deadline=103.0), granted()),
    ]
    flow = flows.fill(ASK, token=TOKEN, shared=True, dead=None)
    play_up_to(flow, table)


def test_the_time_of_decoding_a_page_is_not_the_layer_s() -> None:
    """Nor is what is looked up and computed after it late."""
    asks = [ASK._replace(key=f"item:{n}") for n in range(3)]
    later = asks[2]._replace(deadline=107.0)
    found = Fetched((BLOB, BLOB, None), at(5), NOW)
    table: Table = [
        (Fetch, found),
        *UP_TO_DATE,
        (Admit, SERVED._replace(seconds=3.0)),
    ]
    flow = flows.obtain_many(asks, shared=True, at_once=True)
    table += [(Admit, SERVED._replace(seconds=4.0)), (Join(later, True, None), CALLED)]
    assert play(flow, table)[0] == [SERVED._replace(seconds=3.0), SERVED._replace(seconds=4.0), CALLED]


def test_a_page_that_takes_longer_to_decode_than_the_log_is_trusted_is_judged_to_the_end() -> None:
    """The question where the log ends is in time."""
    asks = [ASK._replace(key=f"item:{n}") for n in range(2)]
    table: Table = [
        (Fetch, Fetched((BLOB, BLOB), at(5), NOW)),
        *UP_TO_DATE,
        (Admit, SERVED._replace(seconds=3.0)),
        (Admit, BEHIND),
        (Position, stands(5, is_heard=False)),
        (Confirm(103.0), DOWN),
    ]
    play_up_to(flows.obtain_many(asks, shared=True, at_once=True), table)


def test_what_was_found_out_while_computing_is_stored_with_the_value() -> None:
    """Tags of the result and what it was made of: all it depends on, and not only what was known before."""
    found = (*ASK.dependencies, Dependency(TAG, "of the result"), Dependency(KEY, "item:2"))
    table: Table = [*LEASED, (Begin, BEGUN), (Call, CALLED._replace(dependencies=found)), *STORED]
    store = play(flows.fill(ASK, token=TOKEN, shared=True, dead=None), table)[1][-2]
    assert unseal(store.blob)[0].dependencies == found


def test_a_value_that_is_old_when_it_is_computed_is_not_stored() -> None:
    """The computation took as long as the value lives, its stale windows included."""
    slow = Called("computed", seconds=80.0, fresh=60.0)
    flow = flows.fill(ASK, token=TOKEN, shared=True, dead=None)
    table: Table = [*LEASED, (Begin, BEGUN), (Call, slow), (Encode, ENCODED), (Release, DONE), (Keep, DONE)]
    assert play(flow, table)[0] == slow._replace(stamp=at(5), made=100.0, until=160.0, is_shared=True)


def test_a_lease_s_loser_waits_longer_each_time_up_to_a_bound() -> None:
    """And each look has a whole budget: the time was spent waiting for a computation, not for the layer."""
    flow = flows.fill(ASK, token=TOKEN, shared=True, dead=None)
    waits: list[float] = []
    step = flow.send(None)
    for turn in range(12):
        assert isinstance(step, Position)
        step = flow.send(stands(5))
        assert isinstance(step, Lease)
        assert step.deadline == (100.25 + turn if turn else 100.0)
        waiting = flow.send(BUSY)
        assert isinstance(waiting, Await)
        waits.append(waiting.seconds)
        looking = flow.send(Waited(101.0 + turn))
        assert looking == Fetch(("item:1",), 101.25 + turn)
        step = flow.send(fetched(None))
    assert waits[0] == FIRST_WAIT
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_WAIT


# --- put --------------------------------------------------------------------------------------------------------------------------

ANNOUNCEMENT: Final = Targets(KEY, ("item:1",), "v")
TICKET: Final = Ticket((ANNOUNCEMENT,), ("nonce",), "origin")
GIVEN: Final = Called("given", seconds=0.0, fresh=60.0)
SET: Final = GIVEN._replace(stamp=at(5), made=100.0, until=160.0)
PENDING: Final = Stamp(EPOCH, 5, pending=True)

# At position 6, when one's own record has been settled.
SETTLED: Final[Table] = [(Position, stands(6)), (Position, stands(6))]


def seizing(*, unlink: bool) -> Table:
    return [
        (Position, stands(5)),
        (Seize("item:1", TOKEN, at(5), 10_000, unlink, 100.0), granted()),
        *UP_TO_DATE,
        (Begin(NOW), BEGUN),
    ]


REFRESHED: Final[Table] = [*seizing(unlink=False), (Call(ASK, None), CALLED), (Pend, TICKET)]

PUT: dict[str, tuple[tuple[Any] | None, Table, Any]] = {
    "set: encode, seize, announce, store while the lease is one's own, keep": (
        ("given",),
        [
            (Call(ASK, ("given",)), GIVEN),
            (Encode(ASK, "given", given=True), ENCODED),
            *seizing(unlink=True),
            (Pend((ANNOUNCEMENT,)), TICKET),
            (Announce((ANNOUNCEMENT,), ("nonce",), "origin", (), deadline=100.0), Announced(at(6))),
            (Settle(TICKET, Announced(at(6))), at(6)),
            *SETTLED,
            (Store, DONE),
            (Keep(ASK, SET, BEGUN, 6), DONE),
        ],
        (SET, at(6)),
    ),
    "set: what can not be encoded is refused before anything has changed": (("given",), [(Call, GIVEN), (Encode, DOWN)], (DOWN, None)),
    "set: nor what can not be told how long it lives": (("given",), [(Call, DOWN)], (DOWN, None)),
    "set: what others announced before is applied before the value is obtained": (
        ("given",),
        [
            (Call, GIVEN),
            (Encode, ENCODED),
            (Position, stands(5)),
            (Seize, granted(at(6))),
            *READ_SIX,
            (Begin, BEGUN),
            (Pend, TICKET),
            (Announce, Announced(at(7))),
            (Settle, at(7)),
            *[(Position, stands(7))] * 2,
            (Store, DONE),
            (Keep, DONE),
        ],
        (SET, at(7)),
    ),
    "refresh: the older entry stays until the new value is announced": (
        None,
        [
            *REFRESHED,
            (Announce, Announced(at(6))),
            (Settle, at(6)),
            *SETTLED,
            (Encode, ENCODED),
            (Store, DONE),
            (Keep(ASK, KEPT, BEGUN, 6), DONE),
        ],
        (KEPT, at(6)),
    ),
    "others announced meanwhile: that is applied before the value is kept": (
        None,
        [
            *REFRESHED,
            (Announce, Announced(at(7))),
            (Settle, at(7)),
            (Position, stands(5)),
            (Position, stands(5)),
            (ReadLog(at(5), 102.0), Log((RECORD, LATER), at(7), gap=False)),
            (Apply, DONE),
            (Position, stands(7)),
            (Encode, ENCODED),
            (Store, DONE),
            (Keep(ASK, KEPT, BEGUN, 7), DONE),
        ],
        (KEPT, at(7)),
    ),
    "an invalidation took the lease: announced, and not kept": (
        None,
        [
            *REFRESHED,
            (Announce, Announced(at(7))),
            (Settle, at(7)),
            *[(Position, stands(7))] * 2,
            (Encode, ENCODED),
            (Store, NOT_DONE),
        ],
        (KEPT._replace(fresh=None), at(7)),
    ),
    "the function raises: nothing is announced, the lease goes back": (
        None,
        [*seizing(unlink=False), (Call, DOWN), (Release, DONE)],
        (DOWN, None),
    ),
    "the layer is away from the first: pending, and not kept as if it were everywhere": (
        ("given",),
        [
            (Call, GIVEN),
            (Encode, ENCODED),
            (Position, stands(5)),
            (Seize, DOWN),
            (Begin(0), BEGUN),
            (Pend, TICKET),
            (Announce, DOWN),
            (Settle(TICKET, DOWN), PENDING),
        ],
        (SET._replace(fresh=None), PENDING),
    ),
    "the announcement fails: the lease goes back": (
        ("given",),
        [(Call, GIVEN), (Encode, ENCODED), *seizing(unlink=True), (Pend, TICKET), (Announce, DOWN), (Settle, PENDING), (Release, DONE)],
        (SET._replace(fresh=None), PENDING),
    ),
    "no lifetime: announced, given back, and kept nowhere": (
        None,
        [
            *seizing(unlink=False),
            (Call, Called("computed", 2.0, None)),
            (Pend, TICKET),
            (Announce, Announced(at(6))),
            (Settle, at(6)),
            *SETTLED,
            (Release, DONE),
        ],
        (Called("computed", 2.0, None, stamp=at(5), made=100.0), at(6)),
    ),
}


@pytest.mark.parametrize(("given", "table", "result"), PUT.values(), ids=PUT.keys())
def test_put(given: tuple[Any] | None, table: Table, result: Any) -> None:
    assert play(flows.put(ASK, token=TOKEN, shared=True, given=given), table)[0] == result


def test_put_without_a_shared_layer() -> None:
    """Announced to this process alone, and kept under its own number."""
    table: Table = [
        (Call, GIVEN),
        (Begin(0), BEGUN),
        (Pend, TICKET),
        (Settle(TICKET, None), at(6)),
        (Keep(ASK, SET, BEGUN, 6), DONE),
    ]
    assert play(flows.put(ASK, token=TOKEN, shared=False, given=("given",)), table)[0] == (SET, at(6))


def test_a_value_that_was_set_carries_the_number_of_its_own_record() -> None:
    """So that this record, and no other, does not refuse it."""
    _, table, _ = PUT["set: encode, seize, announce, store while the lease is one's own, keep"]
    store = play(flows.put(ASK, token=TOKEN, shared=True, given=("given",)), table)[1][-2]
    header, _ = unseal(store.blob)
    assert (header.stamp, header.own) == (at(5), 6)


def test_an_update_takes_lease_and_position_before_its_value_is_obtained() -> None:
    """The first half of ``with cache.update(key)``: from now on an invalidation that comes wins."""
    seized, _ = play(flows.seize(ASK, token=TOKEN, shared=True, unlink=False), seizing(unlink=False))
    assert seized == Seized(TOKEN, leased=True, begun=BEGUN, deadline=100.0)
    away, _ = play(
        flows.seize(ASK, token=TOKEN, shared=True, unlink=False),
        [(Position, stands(None)), (Seize("item:1", TOKEN, NOWHERE, 10_000, False, 100.0), DOWN), (Begin(0), BEGUN)],
    )
    assert away == Seized(TOKEN, leased=False, begun=BEGUN, deadline=100.0, confirmed=False)
    assert play(flows.seize(ASK, token=TOKEN, shared=False, unlink=False), [(Begin(0), BEGUN)])[0].leased is False


def test_an_update_that_has_lost_its_lease_only_invalidates() -> None:
    """The second half: announced, so that everybody drops what is older, and stored only if the lease is still one's own."""
    seized = Seized(TOKEN, leased=True, begun=BEGUN, deadline=100.0)
    announced: Table = [(Pend((ANNOUNCEMENT,)), TICKET), (Announce, Announced(at(6))), (Settle, at(6)), *SETTLED]
    won = [*announced, (Store, DONE), (Keep(ASK, KEPT, BEGUN, 6), DONE)]
    assert play(flows.replace(ASK, seized, CALLED, shared=True, encoded=ENCODED), won)[0] == (KEPT, at(6))
    lost = [*announced, (Store, NOT_DONE)]
    unstored = KEPT._replace(fresh=None)
    assert play(flows.replace(ASK, seized, CALLED, shared=True, encoded=ENCODED), lost)[0] == (unstored, at(6))
    away: Table = [(Pend, TICKET), (Announce, Announced(at(6))), (Settle, at(6))]
    assert play(flows.replace(ASK, seized._replace(leased=False), CALLED, shared=True, encoded=ENCODED), away)[0] == (unstored, at(6))


# --- invalidate -------------------------------------------------------------------------------------------------------------------


def test_an_invalidation_holds_here_before_it_is_announced() -> None:
    """Pending first, announced then, settled last; the keys it names are unlinked in the same trip, and nothing else is."""
    targets = (Targets(KEY, ("item:1", "item:2")), Targets(PREFIX, ("user:",)), Targets(TAG, ("red",)))
    ticket = Ticket(targets, ("a", "b", "c"), "origin")
    table: Table = [
        (Pend(targets), ticket),
        (Announce(targets, ("a", "b", "c"), "origin", ("item:1", "item:2"), deadline=100.0), Announced(at(9))),
        (Settle(ticket, Announced(at(9))), at(9)),
    ]
    assert play(flows.invalidate(targets, shared=True, deadline=100.0), table)[0] == at(9)


def test_a_soft_invalidation_unlinks_nothing() -> None:
    """What may be served stale stays where it is, and the computation of its successor keeps its lease."""
    targets = (Targets(KEY, ("item:1",), SOFT), Targets(TAG, ("red",), SOFT))
    ticket = Ticket(targets, ("a", "b"), "origin")
    table: Table = [
        (Pend(targets), ticket),
        (Announce(targets, ("a", "b"), "origin", (), deadline=100.0), Announced(at(9))),
        (Settle, at(9)),
    ]
    assert play(flows.invalidate(targets, shared=True, deadline=100.0), table)[0] == at(9)


def test_an_invalidation_without_a_shared_layer_or_without_an_answer_is_settled_too() -> None:
    targets = (Targets(TAG, ("red",)),)
    ticket = Ticket(targets, ("a",), "origin")
    assert play(flows.invalidate(targets, shared=False, deadline=0.0), [(Pend, ticket), (Settle(ticket, None), at(1))])[0] == at(1)
    table: Table = [(Pend, ticket), (Announce, DOWN), (Settle(ticket, DOWN), PENDING)]
    assert play(flows.invalidate(targets, shared=True, deadline=0.0), table)[0] == PENDING


def test_what_a_server_has_lost_is_announced_again_unlinking_included() -> None:
    """The new server may have the entry back that had been unlinked on the old one."""
    ticket = Ticket((Targets(KEY, ("item:1",)),), ("a",), "origin", again=True)
    table: Table = [
        (Announce(ticket.targets, ("a",), "origin", ("item:1",), again=True, deadline=100.0), Announced(at(9))),
        (Settle(ticket, Announced(at(9))), at(9)),
    ]
    assert play(flows.announce(ticket, shared=True, deadline=100.0), table)[0] == at(9)


# --- catching up, confirming, joining -----------------------------------------------------------------------------------------------

LOWER: Final = Log((), at(4), gap=False)
"""A server whose log ends before our position: it follows another one, and is late."""

CATCH_UP: dict[str, tuple[Stamp | None, Table, bool]] = {
    "nothing to do": (at(5), UP_TO_DATE, True),
    "further than was asked": (at(5), [(Position, stands(8)), (Position, stands(8))], True),
    "the reader was faster": (at(6), [(Position, stands(5)), (Position, stands(6))], True),
    "page by page": (
        at(7),
        [
            *READ_SIX,
            (ReadLog(at(6), 100.0), Log((LATER,), at(7), gap=False)),
            (Apply, DONE),
            (Position, stands(7)),
        ],
        True,
    ),
    "the log can not be read": (at(7), CAN_NOT_READ, False),
    "a gap: rejoin, from what is known": (
        at(7),
        [*UP_TO_DATE, (ReadLog, Log((), at(7), gap=True)), (Apply, NOT_DONE), *rejoining(stands(5), 6)],
        True,
    ),
    "whoever answers has less than was promised: rejoin, instead of asking again and again": (
        at(7),
        [*UP_TO_DATE, (ReadLog, LOWER), (Apply, DONE), *rejoining(stands(5), 6)],
        True,
    ),
    "the epoch changed while reading: rejoin": (
        at(7),
        [*READ_SIX[:-1], (Position, stands(0, OTHER_EPOCH)), *rejoining(stands(0, OTHER_EPOCH), 0)],
        True,
    ),
    "another epoch: rejoin without reading": (at(7, OTHER_EPOCH), [(Position, stands(5)), *rejoining(stands(5), 6)], True),
    "no log at all: begin one": (None, [(Position, stands(5)), *rejoining(stands(5), 6)], True),
    "never joined: join": (at(7), [(Position, stands(None)), *rejoining(stands(None), 0)], True),
    "joining fails": (at(7), [(Position, stands(None)), (Position, stands(None)), (Snapshot, DOWN)], False),
    "not heard for too long: ask the master": (
        at(5),
        [
            (Position, stands(5, is_heard=False)),
            (Confirm(100.0), Beat(at(5), "c", is_master=True, is_same=True)),
            (Position, stands(5)),
            (Contact, DONE),
        ],
        True,
    ),
    "not heard for too long, and no master answers": (at(5), [(Position, stands(5, is_heard=False)), (Confirm, DOWN)], False),
}


@pytest.mark.parametrize(("head", "table", "result"), CATCH_UP.values(), ids=CATCH_UP.keys())
def test_catch_up(head: Stamp | None, table: Table, result: bool) -> None:
    assert play(flows.catch_up(head, 100.0), table)[0] is result


def beat(number: int | None = 5, epoch: str = EPOCH, *, is_master: bool = True, is_same: bool = True) -> Beat:
    return Beat(None if number is None else at(number, epoch), "c", is_master, is_same, asked=50.0)


CONFIRM: dict[str, tuple[Beat | None, Table, bool]] = {
    "the master is asked, and the log ends where we stand": (
        None,
        [(Confirm(100.0), beat()), (Position, stands(5)), (Contact(beat()), DONE)],
        True,
    ),
    "it has been asked already": (beat(), [(Position, stands(5)), (Contact(beat()), DONE)], True),
    "nobody answers": (None, [(Confirm, DOWN)], False),
    "a server that follows another one proves nothing": (beat(is_master=False), [], False),
    "the log went on: read it, and compare again": (
        beat(6),
        [
            (Position, stands(5)),
            (Contact(beat(6)), NOT_DONE),
            (Position, stands(5)),
            (ReadLog(at(5), 100.0), SIX),
            (Apply, DONE),
            (Position, stands(6)),
            (Contact(beat(6)), DONE),
        ],
        True,
    ),
    "it went on, and can not be read": (
        beat(6),
        [(Position, stands(5)), (Contact, NOT_DONE), (Position, stands(5)), (ReadLog, DOWN)],
        False,
    ),
    "it went on further while it was read: ask anew": (
        beat(6),
        [
            (Position, stands(5)),
            (Contact, NOT_DONE),
            (Position, stands(7)),
            (Contact(beat(6)), NOT_DONE),
            (Confirm(100.0), beat(7)),
            (Position, stands(7)),
            (Contact(beat(7)), DONE),
        ],
        True,
    ),
    "it was reached while it was compared": (
        beat(6),
        [(Position, stands(5)), (Contact, NOT_DONE), (Position, stands(6)), (Contact(beat(6)), DONE)],
        True,
    ),
    "the same number after another record: join": (beat(5), [(Position, stands(5)), (Contact, NOT_DONE), *rejoining(stands(5), 6)], True),
    "the log has become shorter: join": (beat(4), [(Position, stands(5)), (Contact, NOT_DONE), *rejoining(stands(5), 6)], True),
    "another epoch: join": (beat(9, OTHER_EPOCH), [(Position, stands(5)), (Contact, NOT_DONE), *rejoining(stands(5), 6)], True),
    "there is no log: begin one": (beat(None), [(Position, stands(5)), (Contact, NOT_DONE), *rejoining(stands(5), 6)], True),
    "this process never joined": (beat(), [(Position, stands(None)), (Contact, NOT_DONE), *rejoining(stands(None), 0)], True),
    "another server has taken over: it has to begin its own epoch": (
        beat(6, is_same=False),
        [(Position, stands(5)), (Contact, NOT_DONE), *rejoining(stands(5), 6)],
        True,
    ),
    "it can not be joined": (beat(None), [(Position, stands(5)), (Contact, NOT_DONE), (Position, stands(5)), (Snapshot, DOWN)], False),
    "others go on and on: this time without contact": (
        None,
        [
            (Confirm, beat(6)),
            (Position, stands(5)),
            (Contact, NOT_DONE),
            (Position, stands(7)),
            (Contact, NOT_DONE),
        ]
        * TRIES,
        False,
    ),
}


@pytest.mark.parametrize(("asked", "table", "result"), CONFIRM.values(), ids=CONFIRM.keys())
def test_confirm(asked: Beat | None, table: Table, result: bool) -> None:
    """Contact with the log: the master's word for where it ends, and everything up to there applied."""
    assert play(flows.confirm(100.0, asked), table)[0] is result


FULL: Final = page(*range(1, BANS_OF_A_PAGE + 1), more=True)

REJOIN: dict[str, tuple[Table, bool]] = {
    "a process that starts takes all bans": (rejoining(stands(None), 0), True),
    "one that has missed something takes the newer ones": (rejoining(stands(5), 6), True),
    "another epoch: all of them": (rejoining(stands(5, OTHER_EPOCH), 0), True),
    "a log that did not just go on: all of them": (
        [
            (Position, stands(9)),
            (Snapshot, joined(9)),
            (ReadBans(0, BANS_OF_A_PAGE, 100.0), page(9)),
            (Rejoin(joined(9), (page(9),), 0), DONE),
        ],
        True,
    ),
    "the position first, then the bans in pages, each from where the one before ended": (
        [
            (Position, stands(None)),
            (Snapshot, joined()),
            (ReadBans(0, BANS_OF_A_PAGE, 100.0), FULL),
            (ReadBans(BANS_OF_A_PAGE, BANS_OF_A_PAGE, 100.0), page(BANS_OF_A_PAGE, BANS_OF_A_PAGE + 1)),
            (Rejoin(joined(), (FULL, page(BANS_OF_A_PAGE, BANS_OF_A_PAGE + 1)), 0), DONE),
        ],
        True,
    ),
    "one record banned more than a page holds: a larger page": (
        [
            (Position, stands(None)),
            (Snapshot, joined()),
            (ReadBans(0, BANS_OF_A_PAGE, 100.0), page(7, 7, more=True)),
            (ReadBans(7, BANS_OF_A_PAGE, 100.0), page(7, 7, more=True)),
            (ReadBans(7, 2 * BANS_OF_A_PAGE, 100.0), page(7, 7, 7)),
            (Rejoin, DONE),
        ],
        True,
    ),
    "the layer goes away": ([(Position, stands(5)), (Snapshot, DOWN)], False),
    "the layer goes away between two pages": (
        [(Position, stands(5)), (Snapshot, joined()), (ReadBans, FULL), (ReadBans, DOWN)],
        False,
    ),
    "the log was begun anew between position and bans: once more": (
        [
            (Position, stands(5)),
            (Snapshot, joined()),
            (ReadBans, page(epoch=OTHER_EPOCH)),
            (Position, stands(5)),
            (Snapshot, joined(0, OTHER_EPOCH)),
            (ReadBans(0, BANS_OF_A_PAGE, 100.0), page(epoch=OTHER_EPOCH)),
            (Rejoin, DONE),
        ],
        True,
    ),
    "the bans are gone: once more, with all that there are": (
        [
            (Position, stands(5)),
            (Snapshot, joined()),
            (ReadBans(6, BANS_OF_A_PAGE, 100.0), page(epoch=None)),
            (Position, stands(5)),
            (Snapshot, joined()),
            (ReadBans(0, BANS_OF_A_PAGE, 100.0), page(9)),
            (Rejoin(joined(), (page(9),), 0), DONE),
        ],
        True,
    ),
    "what was known here turns out to be of another log: all bans": (
        [
            *rejoining(stands(5), 6)[:-1],
            (Rejoin, NOT_DONE),
            (Position, stands(0, OTHER_EPOCH)),
            (Snapshot, joined()),
            (ReadBans(0, BANS_OF_A_PAGE, 100.0), page(9)),
            (Rejoin(joined(), (page(9),), 0), DONE),
        ],
        True,
    ),
    "it is begun anew again and again: not now": (
        [(Position, stands(5)), (Snapshot, joined()), (ReadBans, page(epoch=None))] * TRIES,
        False,
    ),
}


@pytest.mark.parametrize(("table", "result"), REJOIN.values(), ids=REJOIN.keys())
def test_rejoin(table: Table, result: bool) -> None:
    assert play(flows.rejoin(100.0), table)[0] is result


# --- listening ----------------------------------------------------------------------------------------------------------------------

HEAR: Final = Hear(0.4, beat=True, patience=1.0)
QUESTION: Final = Question("q1", Targets(TAG, ("red",)), at(5))
ANSWER: Final = steps.Testify(QUESTION, "origin", 3)
UNTIL: Final = 102.4
"""A turn that begins at 100 and waits for 0.4 seconds may be patient twice."""

LISTEN: dict[str, tuple[Table, bool]] = {
    "nothing came": ([(HEAR, Heard(()))], True),
    "the connection broke": ([(HEAR, DOWN)], False),
    "records in a row are applied in one piece": (
        [(HEAR, Heard((RECORD, LATER))), (Apply(Log((RECORD, LATER), None, gap=False)), DONE)],
        True,
    ),
    "a record that does not follow: the master is asked, and the log is read": (
        [
            (HEAR, Heard((LATER,))),
            (Apply, NOT_DONE),
            (Confirm(UNTIL), beat(7)),
            (Position, stands(5)),
            (Contact, NOT_DONE),
            (Position, stands(5)),
            (ReadLog(at(5), UNTIL), Log((RECORD, LATER), at(7), gap=False)),
            (Apply, DONE),
            (Position, stands(7)),
            (Contact, DONE),
        ],
        True,
    ),
    "a record that does not follow, and nobody answers": ([(HEAR, Heard((LATER,))), (Apply, NOT_DONE), (Confirm, DOWN)], False),
    "an answer counts behind all records that came before it": (
        [(HEAR, Heard((RECORD, beat(6)))), (Apply, DONE), (Position, stands(6)), (Contact(beat(6)), DONE)],
        True,
    ),
    "an answer that names what did not come: something was lost": (
        [
            (HEAR, Heard((beat(6),))),
            (Position, stands(5)),
            (Contact, NOT_DONE),
            (Position, stands(5)),
            (ReadLog, SIX),
            (Apply, DONE),
            (Position, stands(6)),
            (Contact, DONE),
        ],
        True,
    ),
    "the server is no master any more: the turn has failed": ([(HEAR, Heard((beat(is_master=False),)))], False),
    "a message that can not be read: the master is asked": (
        [(HEAR, Heard((Torn(),))), (Confirm(UNTIL), beat()), (Position, stands(5)), (Contact, DONE)],
        True,
    ),
    "a lease has ended": ([(HEAR, Heard((Woken("item:1"), Woken("item:2")))), (Wake("item:1"), DONE), (Wake("item:2"), DONE)], True),
    "the auditor asks: what would be served is told": (
        [(HEAR, Heard((QUESTION,))), (Examine(QUESTION), ANSWER), (ANSWER, DONE)],
        True,
    ),
    "the auditor asks, and there is nothing to tell": ([(HEAR, Heard((QUESTION,))), (Examine(QUESTION), None)], True),
    "everything in the order in which it came": (
        [
            (HEAR, Heard((RECORD, Woken("item:1"), beat(6), LATER))),
            (Apply(Log((RECORD,), None, gap=False)), DONE),
            (Wake, DONE),
            (Position, stands(6)),
            (Contact, DONE),
            (Apply(Log((LATER,), None, gap=False)), DONE),
        ],
        True,
    ),
}


@pytest.mark.parametrize(("table", "result"), LISTEN.values(), ids=LISTEN.keys())
def test_listen(table: Table, result: bool) -> None:
    """One turn of the log's reader."""
    assert play(flows.listen(0.4, beat=True, patience=1.0, now=100.0), table)[0] is result


# --- steps ------------------------------------------------------------------------------------------------------------------------


def test_every_step_a_flow_can_yield_is_in_the_union() -> None:
    """Whoever writes a world can rely on the union: no class of steps is left out, and no reply is in it."""
    source = inspect.getsource(flows) + inspect.getsource(sweeping)
    classes = {name for name, cls in inspect.getmembers(steps, inspect.isclass) if cls.__module__ == steps.__name__}
    yielded = {name for name in classes if f"yield {name}(" in source}
    union = {cls.__name__ for cls in get_args(Step)}
    assert yielded <= union
    of_batches = {"Together", "Calls", "Joins", "Awaits"}  # `together` makes them of others
    assert union - yielded - of_batches == {"Extend", "Testify", "Inquire", "Collect", "Throw"}, (
        "which the log's reader and the auditor ask themselves, or whoever switches"
    )
