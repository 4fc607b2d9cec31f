"""The ledger: what one process has applied of the log."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesync.core.entry import Dependency
from cachesync.core.ledger import MAX_QUEUED, Ledger, matches
from cachesync.core.records import EVERYTHING, GLOB, KEY, PREFIX, TAG, Kind, Record, Targets
from cachesync.core.stamps import Stamp
from cachesync.core.steps import Joined, Log, Ticket

EPOCH, OTHER = "9f86d081884c7d65", "00000000deadbeef"


def ledger_at(number: int = 0, epoch: str = EPOCH) -> Ledger:
    return Ledger(Stamp(epoch, number), contact=math.inf)


def record(number: int, *texts: str, kind: Kind = KEY, epoch: str = EPOCH) -> Record:
    return Record(epoch, number, f"c{number}", f"c{number - 1}", Targets(kind, texts or (f"key{number}",)), "somebody")


def log_of(*records: Record, gap: bool = False) -> Log:
    return Log(records, Stamp(records[-1].epoch, records[-1].number) if records else None, gap)


def ticket_for(*targets: Targets) -> Ticket:
    return Ticket(targets, tuple(f"nonce{i}" for i in range(len(targets))), "me")


A, B = Targets(KEY, ("a",)), Targets(KEY, ("b",))


# --- applying -------------------------------------------------------------------------------------------------------------------


def test_records_that_continue_the_position_are_applied() -> None:
    """The position is that of the last one, and each is a ban under its number."""
    ledger = ledger_at(3)
    new = ledger.apply(log_of(record(4, "a"), record(5, "t", kind=TAG)))
    assert new is not None
    assert [one.number for one in new] == [4, 5]
    assert ledger.position == Stamp(EPOCH, 5)
    assert ledger.refuses("a", (), 3)
    assert not ledger.refuses("a", (), 4)
    assert ledger.refuses("x", (Dependency("t", "t"),), 4)
    assert not ledger.refuses("x", (), 0)


def test_what_was_applied_is_not_applied_again() -> None:
    """A process applies its own record when it is told the number, and meets it again in the log."""
    ledger = ledger_at(3)
    assert ledger.apply(log_of(record(4, "a"))) is not None
    mark = ledger.mark
    assert ledger.apply(log_of(record(2, "x"), record(3, "x"), record(4, "a"))) == ()
    assert ledger.position == Stamp(EPOCH, 4)
    assert ledger.mark is mark
    assert not ledger.refuses("x", (), 0)


def test_nothing_new_leaves_the_generation() -> None:
    """Copies that were judged need not be judged again."""
    ledger = ledger_at(3)
    mark = ledger.mark
    assert ledger.apply(Log((), Stamp(EPOCH, 3), gap=False)) == ()
    assert ledger.mark is mark


def test_anything_new_begins_a_generation() -> None:
    """Also a record that concerns nobody here: the mark tells that the ledger changed, not whom it concerns."""
    ledger = ledger_at(3)
    mark = ledger.mark
    ledger.apply(log_of(record(4, "nobody")))
    assert ledger.mark is not mark


@pytest.mark.parametrize(
    "log",
    [
        log_of(record(5)),
        log_of(record(4, epoch=OTHER)),
        log_of(record(4), gap=True),
        Log((), None, gap=True),
        log_of(record(4), record(6)),
        log_of(record(4), record(5, epoch=OTHER)),
    ],
    ids=["a number is missing", "another epoch", "a gap was told", "the log is gone", "a number is missing later", "another epoch later"],
)
def test_a_log_that_does_not_continue_is_not_followed(log: Log) -> None:
    """The process has to rejoin. What it could still apply holds, and is seen by everybody."""
    ledger = ledger_at(3)
    mark = ledger.mark
    assert ledger.apply(log) is None
    assert ledger.position in (Stamp(EPOCH, 3), Stamp(EPOCH, 4))
    applied = ledger.position == Stamp(EPOCH, 4)
    assert ledger.refuses("key4", (), 3) is applied
    assert (ledger.mark is not mark) is applied


def test_a_process_that_never_joined_can_not_follow() -> None:
    """It does not know what it missed."""
    ledger = Ledger(None, contact=-math.inf)
    assert ledger.apply(log_of(record(1))) is None
    assert ledger.position is None


@given(st.lists(st.integers(1, 12), max_size=8), st.integers(0, 6))
def test_a_position_moves_only_in_order(numbers: list[int], start: int) -> None:
    """Whatever is read, the position is a number whose predecessors were all applied; it never goes back."""
    ledger = ledger_at(start)
    seen: set[int] = set(range(start + 1))
    for number in numbers:
        before = ledger.position
        applied = ledger.apply(log_of(record(number)))
        assert before is not None
        assert ledger.position is not None
        assert ledger.position.number >= before.number
        assert (applied is None) is (number > before.number + 1)
        if applied:
            seen.add(number)
        assert set(range(ledger.position.number + 1)) <= seen


# --- rejoining ------------------------------------------------------------------------------------------------------------------


def test_another_epoch_begins_anew() -> None:
    """Old bans are dropped with the copies they were for, and true says that copies have to go."""
    ledger = ledger_at(9)
    ledger.apply(log_of(record(10, "a")))
    mark = ledger.mark
    assert ledger.rejoin(Joined(Stamp(OTHER, 2), 1, ((B, 2),))) == "epoch"
    assert ledger.position == Stamp(OTHER, 2)
    assert ledger.mark is not mark
    assert not ledger.refuses("a", (), 1)
    assert ledger.refuses("a", (), 0), "the floor"
    assert ledger.refuses("b", (), 1)


def test_a_process_that_starts_takes_everything_over() -> None:
    """Position, floor and bans; pending invalidations stay pending."""
    ledger = Ledger(None, contact=-math.inf)
    ledger.pend(ticket_for(Targets(KEY, ("mine",))))
    assert ledger.rejoin(Joined(Stamp(EPOCH, 7), 3, ((A, 5),))) == "first"
    assert ledger.position == Stamp(EPOCH, 7)
    assert ledger.refuses("a", (), 4)
    assert not ledger.refuses("a", (), 5)
    assert ledger.refuses("x", (), 2)
    assert ledger.refuses("mine", (), 7)


def test_the_same_epoch_adds_to_what_is_known() -> None:
    """A snapshot after a gap says what was missed. What was known holds, and copies are judged, not dropped."""
    ledger = ledger_at(3)
    ledger.apply(log_of(record(4, "a")))
    mark = ledger.mark
    assert ledger.rejoin(Joined(Stamp(EPOCH, 9), 0, ((B, 8),))) == "gap"
    assert ledger.position == Stamp(EPOCH, 9)
    assert ledger.mark is not mark
    assert ledger.refuses("a", (), 3)
    assert ledger.refuses("b", (), 7)


def test_a_snapshot_that_is_late_takes_nothing_back() -> None:
    """The log's reader was faster."""
    ledger = ledger_at(3)
    ledger.apply(log_of(record(4, "a"), record(5, "b")))
    assert ledger.rejoin(Joined(Stamp(EPOCH, 4), 0, ())) is None
    assert ledger.position == Stamp(EPOCH, 5)
    assert ledger.refuses("b", (), 4)


# --- one's own invalidations -----------------------------------------------------------------------------------------------------


def test_a_pending_invalidation_refuses_at_once() -> None:
    """Whatever the stamp: it has no number yet, so it is newer than everything."""
    ledger = ledger_at(3)
    mark = ledger.mark
    ledger.pend(ticket_for(A))
    assert ledger.mark is not mark
    assert ledger.refuses("a", (), 3)
    assert not ledger.refuses("b", (), 3)


def test_a_settled_invalidation_is_a_ban_under_its_number() -> None:
    """Several records of one call have consecutive numbers, the stamp's being the last."""
    ledger = ledger_at(3)
    ticket = ticket_for(A, Targets(TAG, ("t",)))
    ledger.pend(ticket)
    mark = ledger.mark
    ledger.settle(ticket, Stamp(EPOCH, 5))
    assert ledger.mark is not mark
    assert ledger.position == Stamp(EPOCH, 5)
    assert ledger.refuses("a", (), 3)
    assert not ledger.refuses("a", (), 4)
    assert ledger.refuses("x", (Dependency("t", "t"),), 4)
    assert not ledger.refuses("x", (Dependency("t", "t"),), 5)
    assert ledger.pending == ledger.queued == []


def test_a_process_that_is_behind_does_not_skip_what_others_announced() -> None:
    """Its own record holds at once; its position waits for those in between."""
    ledger = ledger_at(3)
    ticket = ticket_for(A)
    ledger.pend(ticket)
    ledger.settle(ticket, Stamp(EPOCH, 6))
    assert ledger.position == Stamp(EPOCH, 3)
    assert ledger.refuses("a", (), 5)
    new = ledger.apply(log_of(record(4, "x"), record(5, "y"), record(6, "a")))
    assert new is not None
    assert ledger.position == Stamp(EPOCH, 6)
    assert ledger.refuses("x", (), 3)


def test_a_number_of_another_epoch_is_not_taken_for_one_of_this() -> None:
    """The log was begun anew meanwhile: this process has to join it before it trusts anything."""
    ledger = ledger_at(100)
    ticket = ticket_for(A)
    ledger.pend(ticket)
    ledger.settle(ticket, Stamp(OTHER, 1))
    assert ledger.position is None


def test_an_invalidation_before_joining_holds() -> None:
    """The first thing a process does may be to invalidate."""
    ledger = Ledger(None, contact=-math.inf)
    ticket = ticket_for(A)
    ledger.pend(ticket)
    ledger.settle(ticket, Stamp(EPOCH, 4))
    assert ledger.position is None
    assert ledger.refuses("a", (), 3)


def test_a_queued_invalidation_goes_on_refusing_until_it_is_announced() -> None:
    """It is a ban in this process, whether others can be told or not."""
    ledger = ledger_at(3)
    ticket = ticket_for(A)
    ledger.pend(ticket)
    ledger.queue(ticket)
    assert ledger.refuses("a", (), 3)
    assert ledger.queued == [ticket]
    ledger.settle(ticket, Stamp(EPOCH, 4))
    assert ledger.queued == ledger.pending == []
    assert ledger.refuses("a", (), 3)
    assert not ledger.refuses("a", (), 4)


def test_what_is_queued_twice_is_announced_once() -> None:
    """An outage in which one key is invalidated again and again costs one announcement."""
    ledger = ledger_at(3)
    for _ in range(100):
        ticket = ticket_for(A)
        ledger.pend(ticket)
        ledger.queue(ticket)
    assert len(ledger.queued) == len(ledger.pending) == 1
    assert ledger.refuses("a", (), 3)


def test_of_two_that_say_the_same_the_later_one_is_announced() -> None:
    """The earlier one may be on its way already, and get a number before the later invalidation was asked for."""
    ledger = ledger_at(3)
    first, second = Ticket((A,), ("first",), "me"), Ticket((A,), ("second",), "me")
    ledger.pend(first)
    ledger.queue(first)
    ledger.pend(second)
    ledger.queue(second)
    assert ledger.queued == [second]
    ledger.settle(first, Stamp(EPOCH, 4))
    assert ledger.queued == ledger.pending == [second]
    assert ledger.refuses("a", (), 4)


def test_too_many_queued_invalidations_become_everything() -> None:
    """More than was asked for, never less; and what was pending but not queued stays as it is."""
    ledger = ledger_at(3)
    apart = ticket_for(Targets(TAG, ("apart",)))
    ledger.pend(apart)
    for number in range(MAX_QUEUED + 1):
        ticket = Ticket((Targets(KEY, (f"key{number}",)),), (f"nonce{number}",), "me")
        ledger.pend(ticket)
        ledger.queue(ticket)
    assert [ticket.targets for ticket in ledger.queued] == [(Targets(EVERYTHING, ("*",)),)]
    assert apart in ledger.pending
    assert len(ledger.pending) == 2
    assert ledger.refuses("never named", (), 3)
    [everything] = ledger.queued
    ledger.settle(everything, Stamp(EPOCH, 4))
    assert ledger.refuses("never named", (), 3)
    assert not ledger.refuses("never named", (), 4)


def test_an_entry_is_spared_by_its_own_announcement() -> None:
    """``set`` announces itself; the value it stored is stamped with the position before."""
    ledger = ledger_at(3)
    ledger.apply(log_of(record(4, "a")))
    assert ledger.refuses("a", (), 3)
    assert not ledger.refuses("a", (), 3, own=4)
    ledger.apply(log_of(record(5, "a")))
    assert ledger.refuses("a", (), 3, own=4)


# --- who is concerned ------------------------------------------------------------------------------------------------------------

TAGGED = (Dependency("t", "region:java"), Dependency("k", "users:7"))


@pytest.mark.parametrize(
    ("targets", "concerned"),
    [
        (Targets(KEY, ("stores:JKT",)), True),
        (Targets(KEY, ("stores:BDG", "stores:JKT")), True),
        (Targets(KEY, ("stores:BDG",)), False),
        (Targets(KEY, ("users:7",)), True),
        (Targets(TAG, ("region:java",)), True),
        (Targets(TAG, ("region:bali",)), False),
        (Targets(TAG, ("users:7", "stores:JKT")), False),
        (Targets(PREFIX, ("stores:",)), True),
        (Targets(PREFIX, ("users:", "region:")), False),
        (Targets(GLOB, ("*:JKT",)), True),
        (Targets(GLOB, ("*:java", "u*7")), False),
        (Targets(EVERYTHING, ("*",)), True),
        (Targets(EVERYTHING, ()), True),
        (Targets(KEY, ()), False),
        (Targets(PREFIX, ()), False),
    ],
)
def test_an_invalidation_concerns_what_it_names(targets: Targets, *, concerned: bool) -> None:
    """Patterns are of keys; tags and keys are also found among the dependencies."""
    assert matches(targets, "stores:JKT", TAGGED) is concerned
