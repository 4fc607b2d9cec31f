"""The ledger: what one process has applied of the log."""

from __future__ import annotations

import math
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesync.core.bans import BanIndex, Floors
from cachesync.core.entry import ANYTHING, MAX_DEPENDENCIES, Dependency, bounded
from cachesync.core.ledger import Ledger, Rejoined
from cachesync.core.records import (
    EVERYTHING,
    GLOB,
    HARD,
    KEY,
    KINDS,
    PREFIX,
    SOFT,
    TAG,
    TEXTS_OF_A_PART,
    VALUE,
    Kind,
    Mode,
    Record,
    Targets,
)
from cachesync.core.stamps import Lineage, Stamp
from cachesync.core.steps import Bans, Beat, Joined, Log, Ticket
from cachesync.core.tickets import MAX_QUEUED, matches

EPOCH, OTHER, THIRD = "9f86d081884c7d65", "00000000deadbeef", "0123456789abcdef"
NOW: Final = 1_000.0
LONG_AGO: Final = -math.inf
NO_FLOORS: Final = Floors()


def ledger_at(number: int = 0, epoch: str = EPOCH) -> Ledger:
    return Ledger(Stamp(epoch, number), contact=math.inf)


def record(number: int, *texts: str, kind: Kind = KEY, epoch: str = EPOCH, mode: Mode = HARD) -> Record:
    return Record(epoch, number, f"c{number}", f"c{number - 1}", Targets(kind, texts or (f"key{number}",), mode), "somebody")


def log_of(*records: Record, gap: bool = False) -> Log:
    return Log(records, Stamp(records[-1].epoch, records[-1].number) if records else None, gap)


def apply(ledger: Ledger, *records: Record, at: float = NOW) -> tuple[Record, ...]:
    """Apply records that have to continue the position."""
    new = ledger.apply(log_of(*records), at)
    assert new is not None
    return new


def ticket_for(*targets: Targets, again: bool = False) -> Ticket:
    return Ticket(targets, tuple(f"nonce{i}" for i in range(len(targets))), "me", again=again)


def joined(number: int, epoch: str = EPOCH, *, cuts: dict[str, int] | None = None, nonce: str = "", asked: float = NOW) -> Joined:
    return Joined(Stamp(epoch, number), nonce or f"c{number}", Lineage(epoch, cuts or {}), asked)


def page(*found: tuple[Targets, int], floors: Floors = NO_FLOORS, soft: int = 0) -> tuple[Bans, ...]:
    return (Bans(found, more=False, epoch=EPOCH, hard=floors, soft=soft),)


def rejoin(ledger: Ledger, to: Joined, pages: tuple[Bans, ...] | None = None, *, since: int = 0, at: float = NOW) -> Rejoined | None:
    return ledger.rejoin(to, page() if pages is None else pages, since, "me", at)


def held(ledger: Ledger) -> list[Ticket]:
    return list(ledger.tickets.held)


def queued(ledger: Ledger) -> list[Ticket]:
    return list(ledger.tickets.queued)


def tagged(text: str) -> tuple[Dependency, ...]:
    return (Dependency(TAG, text),)


A, B = Targets(KEY, ("a",)), Targets(KEY, ("b",))
T = Targets(TAG, ("t",))


# --- applying -------------------------------------------------------------------------------------------------------------------


def test_records_that_continue_the_position_are_applied() -> None:
    """The position is that of the last one, and each is a ban under its number."""
    ledger = ledger_at(3)
    new = apply(ledger, record(4, "a"), record(5, "t", kind=TAG))
    assert [one.number for one in new] == [4, 5]
    assert ledger.position == Stamp(EPOCH, 5)
    assert ledger.refuses("a", (), 3)
    assert not ledger.refuses("a", (), 4)
    assert ledger.refuses("x", tagged("t"), 4)
    assert not ledger.refuses("x", (), 0)


def test_what_was_applied_is_not_applied_again() -> None:
    """A process applies its own record when it is told the number, and meets it again in the log."""
    ledger = ledger_at(3)
    apply(ledger, record(4, "a"))
    mark = ledger.mark
    assert apply(ledger, record(2, "x"), record(3, "x"), record(4, "a")) == ()
    assert ledger.position == Stamp(EPOCH, 4)
    assert ledger.mark is mark
    assert not ledger.refuses("x", (), 0)


def test_nothing_new_leaves_the_generation() -> None:
    """Copies that were judged need not be judged again."""
    ledger = ledger_at(3)
    mark = ledger.mark
    assert ledger.apply(Log((), Stamp(EPOCH, 3), gap=False), NOW) == ()
    assert ledger.mark is mark


def test_anything_new_begins_a_generation() -> None:
    """Also a record that concerns nobody here: the mark tells that the ledger changed, not whom it concerns."""
    ledger = ledger_at(3)
    mark = ledger.mark
    apply(ledger, record(4, "nobody"))
    assert ledger.mark is not mark


@pytest.mark.parametrize("mode", [HARD, SOFT, VALUE])
def test_the_index_is_written_before_the_generation_turns(monkeypatch: pytest.MonkeyPatch, mode: Mode) -> None:
    """A hit takes no lock: were the mark new while the ban is not known yet, a copy could be judged too early, once and for all."""
    ledger = ledger_at(3)
    seen: list[tuple[bool, bool]] = []
    add = BanIndex.add

    def noted(self: BanIndex, kind: Kind, text: str, number: int) -> None:
        add(self, kind, text, number)
        seen.append((ledger.mark is mark, ledger.position == Stamp(EPOCH, 3)))

    monkeypatch.setattr(BanIndex, "add", noted)
    mark = ledger.mark
    apply(ledger, record(4, "a", mode=mode), record(5, "b", mode=mode))
    assert seen == [(True, True)] * 2
    assert ledger.mark is not mark


NOT_CONTINUED: dict[str, Log] = {
    "a number is missing": log_of(record(5)),
    "another epoch": log_of(record(4, epoch=OTHER)),
    "a gap was told": log_of(record(4), gap=True),
    "the log is gone": Log((), None, gap=True),
    "a number is missing later": log_of(record(4), record(6)),
    "another epoch later": log_of(record(4), record(5, epoch=OTHER)),
    "a lower number in another epoch": log_of(record(1, epoch=OTHER)),
}


@pytest.mark.parametrize("log", NOT_CONTINUED.values(), ids=NOT_CONTINUED.keys())
def test_a_log_that_does_not_continue_is_not_followed(log: Log) -> None:
    """The process has to rejoin, and nothing of that log is applied."""
    ledger = ledger_at(3)
    mark = ledger.mark
    assert ledger.apply(log, NOW) is None
    assert ledger.position == Stamp(EPOCH, 3)
    assert ledger.mark is mark
    assert not ledger.refuses("key4", (), 3)


def test_a_record_says_which_one_it_follows() -> None:
    """The right number after another record than ours: something was lost, whatever the cause."""
    ledger = ledger_at(3)
    apply(ledger, record(4))
    foreign = Record(EPOCH, 5, "c5", "not c4", A, "somebody")
    assert ledger.apply(log_of(foreign), NOW) is None
    assert ledger.apply(log_of(record(5), Record(EPOCH, 6, "c6", "not c5", A, "somebody")), NOW) is None
    assert ledger.position == Stamp(EPOCH, 4)
    apply(ledger, record(5))


def test_continuity_is_asked_from_the_first_record_on() -> None:
    """A process that knows no record yet has nothing to compare with."""
    ledger = ledger_at(3)
    assert ledger.nonce is None
    apply(ledger, Record(EPOCH, 4, "c4", "whatever", A, "somebody"))
    assert ledger.nonce == "c4"


def test_a_process_that_never_joined_can_not_follow() -> None:
    """It does not know what it missed."""
    ledger = Ledger(None, contact=-math.inf)
    assert ledger.apply(log_of(record(1)), NOW) is None
    assert ledger.position is None


@given(st.lists(st.integers(1, 12), max_size=8), st.integers(0, 6))
def test_a_position_moves_only_in_order(numbers: list[int], start: int) -> None:
    """Whatever is read, the position is a number whose predecessors were all applied; it never goes back."""
    ledger = ledger_at(start)
    seen: set[int] = set(range(start + 1))
    for number in numbers:
        before = ledger.position
        applied = ledger.apply(log_of(record(number)), NOW)
        assert before is not None
        assert ledger.position is not None
        assert ledger.position.number >= before.number
        assert (applied is None) is (number > before.number + 1)
        if applied:
            seen.add(number)
        assert set(range(ledger.position.number + 1)) <= seen


# --- lineage --------------------------------------------------------------------------------------------------------------------

LINEAGE: Final = Lineage(THIRD, {OTHER: 9, EPOCH: 7})


@pytest.mark.parametrize(
    ("stamp", "number"),
    [
        (Stamp(THIRD, 12), 12),
        (Stamp(THIRD, 0), 0),
        (Stamp(OTHER, 9), 9),
        (Stamp(OTHER, 10), None),
        (Stamp(EPOCH, 7), 7),
        (Stamp(EPOCH, 8), None),
        (Stamp("ffffffffffffffff", 1), None),
    ],
)
def test_a_stamp_of_an_older_epoch_lives_up_to_the_cut(stamp: Stamp, number: int | None) -> None:
    """Above it the number was given out again by the server that took over, and below it both have the same records."""
    assert LINEAGE.number(stamp) == number


# --- rejoining ------------------------------------------------------------------------------------------------------------------


def test_a_process_that_starts_takes_everything_over() -> None:
    """Position, floors and bans; pending invalidations stay pending."""
    ledger = Ledger(None, contact=-math.inf)
    ledger.pend(ticket_for(Targets(KEY, ("mine",))), NOW)
    assert rejoin(ledger, joined(7), page((A, 5), floors=Floors(all=3))) == Rejoined("first")
    assert (ledger.position, ledger.nonce) == (Stamp(EPOCH, 7), "c7")
    assert ledger.refuses("a", (), 4)
    assert not ledger.refuses("a", (), 5)
    assert ledger.refuses("x", (), 2)
    assert not ledger.refuses("x", (), 3)
    assert ledger.refuses("mine", (), 7)


@pytest.mark.parametrize(
    ("how", "ends"),
    [
        (Rejoined("first"), True),
        (Rejoined("epoch"), True),
        (Rejoined("gap"), False),
        (Rejoined("cut"), False),
        (Rejoined("cut", lost=1), True),
    ],
)
def test_copies_end_where_it_is_not_known_what_they_missed(how: Rejoined, ends: bool) -> None:
    """Where all that was applied is still there, copies are judged by what was missed."""
    assert how.ends_copies is ends


def test_what_begins_anew_needs_all_bans() -> None:
    """A process that forgets what it knew takes no part of the bans for the whole. One that only missed some does."""
    for to in (joined(9, OTHER, asked=NOW + 1), joined(4, nonce="another", asked=NOW + 1), joined(3, asked=NOW + 1)):
        ledger = ledger_at(3)
        apply(ledger, record(4, "t", kind=TAG))
        with pytest.raises(LookupError):
            rejoin(ledger, to, since=5)
        assert ledger.position == Stamp(EPOCH, 4)
        assert ledger.refuses("x", tagged("t"), 3)
        assert rejoin(ledger, to, since=0, at=NOW + 1) == Rejoined("epoch")
    ledger = ledger_at(3)
    apply(ledger, record(4, "t", kind=TAG))
    assert rejoin(ledger, joined(9), since=5) == Rejoined("gap")
    assert ledger.refuses("x", tagged("t"), 3)


def test_a_reply_that_was_overtaken_leads_into_no_dead_epoch() -> None:
    """Another thread has joined the log of today since it was asked for."""
    ledger = ledger_at(3)
    assert rejoin(ledger, joined(0, OTHER, asked=NOW), at=NOW) == Rejoined("epoch")
    assert rejoin(ledger, joined(4, asked=NOW - 1), at=NOW + 1) is None
    assert ledger.position == Stamp(OTHER, 0)


def test_another_epoch_begins_anew() -> None:
    """Old bans are dropped with the copies they were for: nothing stamped before is valid."""
    ledger = ledger_at(9)
    apply(ledger, record(10, "a"))
    mark = ledger.mark
    assert rejoin(ledger, joined(2, OTHER, asked=NOW + 1), page((B, 2), floors=Floors(all=1)), at=NOW + 1) == Rejoined("epoch")
    assert ledger.position == Stamp(OTHER, 2)
    assert ledger.lineage.number(Stamp(EPOCH, 1)) is None
    assert ledger.mark is not mark
    assert not ledger.refuses("a", (), 1)
    assert ledger.refuses("a", (), 0), "the floor"
    assert ledger.refuses("b", (), 1)
    assert not queued(ledger), "another log has lost nothing of this one"


def test_the_same_epoch_adds_to_what_is_known() -> None:
    """A snapshot after a gap says what was missed. What was known holds, and copies are judged, not dropped."""
    ledger = ledger_at(3)
    apply(ledger, record(4, "a"))
    mark = ledger.mark
    assert rejoin(ledger, joined(9), page((B, 8))) == Rejoined("gap")
    assert ledger.position == Stamp(EPOCH, 9)
    assert ledger.mark is not mark
    assert ledger.refuses("a", (), 3)
    assert ledger.refuses("b", (), 7)


def test_bans_come_in_pages_each_with_the_floors_of_its_time() -> None:
    """What was dropped between two pages is below the floor that the later one brings."""
    ledger = ledger_at(3)
    first = Bans(((A, 4), (T, 5)), more=True, epoch=EPOCH, hard=Floors(), soft=0)
    second = Bans(((B, 8), (Targets(TAG, ("s",), SOFT), 9)), more=False, epoch=EPOCH, hard=Floors(all=1, keys=6, tags=7), soft=2)
    assert rejoin(ledger, joined(9), (first, second)) == Rejoined("gap")
    assert ledger.bans.floors == Floors(1, 6, 7)
    assert ledger.soft.floors == Floors(all=2)
    assert ledger.refuses("a", (), 3)
    assert ledger.refuses("b", (), 7)
    assert ledger.refuses("x", tagged("unheard of"), 6)
    assert not ledger.refuses("x", tagged("s"), 8)
    assert ledger.softened("x", tagged("s"), 8) == LONG_AGO, "when it happened is not known"


def test_a_snapshot_that_is_late_takes_nothing_back() -> None:
    """The log's reader was faster."""
    ledger = ledger_at(3)
    apply(ledger, record(4, "a"), record(5, "b"))
    assert rejoin(ledger, joined(4, asked=NOW - 1)) is None
    assert rejoin(ledger, joined(4, asked=NOW)) is None
    assert rejoin(ledger, joined(5)) is None
    assert ledger.position == Stamp(EPOCH, 5)
    assert ledger.refuses("b", (), 4)


def test_a_log_that_was_known_to_be_longer_is_another_one() -> None:
    """It was asked after the position was reached, and ends before it: numbers are given out again."""
    ledger = ledger_at(3)
    apply(ledger, record(4, "a"), record(5, "b"))
    assert rejoin(ledger, joined(4, asked=NOW + 1), page((A, 4))) == Rejoined("epoch")
    assert ledger.position == Stamp(EPOCH, 4)
    assert ledger.refuses("a", (), 3)


def test_a_number_with_another_nonce_is_another_log() -> None:
    """The last record that this process applied is not the one that stands there now."""
    ledger = ledger_at(3)
    apply(ledger, record(4, "a"))
    assert rejoin(ledger, joined(4, nonce="c4")) is None
    assert rejoin(ledger, joined(4, nonce="another", asked=NOW + 1)) == Rejoined("epoch")


def test_another_server_goes_on_from_the_cut() -> None:
    """Nothing that was applied here is lost: copies and bans stay, and old stamps are still numbers of this log."""
    ledger = ledger_at(6)
    apply(ledger, record(7, "a"))
    assert rejoin(ledger, joined(8, OTHER, cuts={EPOCH: 7}), page((A, 7), (B, 8))) == Rejoined("cut")
    assert ledger.position == Stamp(OTHER, 8)
    assert ledger.lineage.number(Stamp(EPOCH, 7)) == 7
    assert ledger.refuses("a", (), 6)
    assert ledger.refuses("b", (), 7)
    assert not queued(ledger)


def test_what_the_new_server_lacks_is_announced_again() -> None:
    """Records past the cut were acknowledged and are gone: whoever applied them brings them again, and goes on refusing meanwhile."""
    ledger = ledger_at(5)
    apply(ledger, record(6, "kept"), record(7, "a", "b"), record(8, "t", kind=TAG), record(9, "s", kind=TAG, mode=SOFT))
    assert rejoin(ledger, joined(6, OTHER, cuts={EPOCH: 6}), page((Targets(KEY, ("kept",)), 6))) == Rejoined("cut", lost=3)
    assert held(ledger) == queued(ledger)
    assert [ticket.targets for ticket in queued(ledger)] == [
        (Targets(KEY, ("a", "b")),),
        (Targets(TAG, ("t",)),),
        (Targets(TAG, ("s",), SOFT),),
    ]
    assert all(ticket.again for ticket in queued(ledger))
    assert len({nonce for ticket in queued(ledger) for nonce in ticket.nonces}) == 3
    assert ledger.refuses("a", (), 6)
    assert ledger.refuses("x", tagged("t"), 6)
    assert not ledger.refuses("x", tagged("s"), 6), "a soft one still is one"
    assert ledger.softened("x", tagged("s"), 6) == NOW
    assert ledger.refuses("kept", (), 5)
    assert not ledger.refuses("kept", (), 6)


def test_the_window_of_what_was_lost_goes_on_from_when_it_was_heard_of() -> None:
    """Of several, from the first: while they wait to be announced again, when they are, and when another process was faster."""
    for faster in (False, True):
        ledger = ledger_at(5)
        apply(ledger, record(6, "s", kind=TAG, mode=SOFT), at=50.0)
        apply(ledger, record(7, "t", kind=TAG, mode=SOFT), at=60.0)
        apply(ledger, record(8, "a"), at=70.0)
        assert rejoin(ledger, joined(5, OTHER, cuts={EPOCH: 5})) == Rejoined("cut", lost=3)
        assert [ledger.softened("x", tagged(tag), 5) for tag in "st"] == [50.0, 50.0]
        [again] = [ticket for ticket in queued(ledger) if ticket.targets[0].is_soft]
        if faster:
            apply(ledger, record(6, "s", "t", kind=TAG, mode=SOFT, epoch=OTHER), record(7, "b", epoch=OTHER))
        assert [ledger.softened("x", tagged(tag), 5) for tag in "st"] == [50.0, 50.0]
        ledger.settle(again, Stamp(OTHER, 7 if faster else 6), NOW)
        assert again not in ledger.tickets
        assert [ledger.softened("x", tagged(tag), 5) for tag in "st"] == [50.0, 50.0]


def test_a_lost_soft_invalidation_of_unknown_age_leaves_no_window() -> None:
    """Its number was read where this process joined, and not the time: it is refused, and so is what was lost together with it."""
    ledger = Ledger(None, contact=math.inf)
    assert rejoin(ledger, joined(5), page((Targets(TAG, ("s",), SOFT), 5))) == Rejoined("first")
    apply(ledger, record(6, "t", kind=TAG, mode=SOFT), at=60.0)
    assert rejoin(ledger, joined(4, OTHER, cuts={EPOCH: 4}, asked=NOW + 1), at=NOW + 1) == Rejoined("cut", lost=2)
    assert [ledger.softened("x", tagged(tag), 4) for tag in "st"] == [LONG_AGO, LONG_AGO]


@pytest.mark.parametrize("mode", [HARD, SOFT])
def test_one_s_own_is_announced_again_though_its_number_was_not_reached(mode: Mode) -> None:
    """It was acknowledged before the records in front of it were read, and the server that took over lacks it."""
    ledger = ledger_at(5)
    ledger.pend(own := ticket_for(Targets(KEY, ("a",), mode)), NOW)
    ledger.settle(own, Stamp(EPOCH, 8), NOW)
    assert ledger.position == Stamp(EPOCH, 5)
    assert rejoin(ledger, joined(6, OTHER, cuts={EPOCH: 6})) == Rejoined("cut", lost=2)
    assert [ticket.targets for ticket in queued(ledger)] == [own.targets]


@pytest.mark.parametrize("kind", KINDS)
def test_a_soft_invalidation_that_is_announced_again_is_as_old_as_it_was(kind: Kind) -> None:
    """Else a failover would let the same process serve what it invalidated for another window: until it is announced, and after."""
    texts = {EVERYTHING: ("*",), GLOB: ("*:b",), PREFIX: ("a:",)}.get(kind, ("a:b",))
    ledger = ledger_at(5)
    apply(ledger, record(6, *texts, kind=kind, mode=SOFT), at=50.0)
    apply(ledger, record(7, *texts, kind=kind, mode=SOFT), at=60.0)
    assert rejoin(ledger, joined(5, OTHER, cuts={EPOCH: 5}), at=70.0) == Rejoined("cut", lost=2)
    assert ledger.softened("a:b", tagged("a:b"), 5) == 50.0
    (ticket,) = queued(ledger)
    ledger.settle(ticket, Stamp(OTHER, 6), 80.0)
    assert ledger.softened("a:b", tagged("a:b"), 5) == 50.0


def test_many_lost_records_become_several_tickets() -> None:
    """One record holds so many texts and no more."""
    ledger = ledger_at(0)
    texts = [f"key{number}" for number in range(TEXTS_OF_A_PART + 1)]
    apply(ledger, record(1, *texts))
    assert rejoin(ledger, joined(0, OTHER, cuts={EPOCH: 0})) == Rejoined("cut", lost=1)
    assert [len(ticket.targets[0].texts) for ticket in queued(ledger)] == [TEXTS_OF_A_PART, 1]
    assert sum((ticket.targets[0].texts for ticket in queued(ledger)), ()) == tuple(texts)


def test_a_floor_past_the_cut_is_announced_again_as_everything() -> None:
    """What it stood for is not known any more."""
    ledger = ledger_at(5)
    apply(ledger, record(6, "*", kind=EVERYTHING), record(7, "a"))
    assert rejoin(ledger, joined(5, OTHER, cuts={EPOCH: 5})) == Rejoined("cut", lost=2)
    assert [ticket.targets for ticket in queued(ledger)] == [(Targets(EVERYTHING, ("*",)),)]


def test_a_server_that_is_older_than_the_last_cut_is_compared_with_what_both_know() -> None:
    """It never heard of the epoch of today, but of the one before: what came after the last common number is lost, and brought again."""
    ledger = ledger_at(5)
    apply(ledger, record(6, "a"))
    assert rejoin(ledger, joined(6, OTHER, cuts={EPOCH: 6})) == Rejoined("cut")
    apply(ledger, Record(OTHER, 7, "d7", "c6", T, "somebody"), at=NOW + 1)
    assert rejoin(ledger, joined(5, THIRD, cuts={EPOCH: 5}, asked=NOW + 2), at=NOW + 2) == Rejoined("cut", lost=2)
    assert {ticket.targets for ticket in queued(ledger)} == {(A,), (T,)}
    assert ledger.refuses("a", (), 5)
    assert ledger.refuses("x", tagged("t"), 5)


def test_a_second_failover_is_one_more_cut() -> None:
    """Stamps of the first epoch live up to the first cut, those of the second up to the second."""
    ledger = ledger_at(5)
    assert rejoin(ledger, joined(5, OTHER, cuts={EPOCH: 5})) == Rejoined("cut")
    assert rejoin(ledger, joined(7, THIRD, cuts={OTHER: 7, EPOCH: 5}, asked=NOW + 1), at=NOW + 1) == Rejoined("cut")
    assert [ledger.lineage.number(Stamp(*each)) for each in ((EPOCH, 5), (EPOCH, 6), (OTHER, 7), (OTHER, 8))] == [5, None, 7, None]


def test_a_cold_process_knows_nothing_that_could_be_lost() -> None:
    """It joins, and announces nothing again."""
    ledger = Ledger(None, contact=-math.inf)
    assert rejoin(ledger, joined(5, OTHER, cuts={EPOCH: 5})) == Rejoined("first")
    assert not queued(ledger)


# --- contact --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beat", "agrees"),
    [
        (Beat(Stamp(EPOCH, 4), "c4", is_master=True, is_same=True), True),
        (Beat(Stamp(EPOCH, 5), "c5", is_master=True, is_same=True), False),
        (Beat(Stamp(EPOCH, 3), "c3", is_master=True, is_same=True), False),
        (Beat(Stamp(OTHER, 4), "c4", is_master=True, is_same=True), False),
        (Beat(Stamp(EPOCH, 4), "another", is_master=True, is_same=True), False),
        (Beat(Stamp(EPOCH, 4), "c4", is_master=False, is_same=True), False),
        (Beat(Stamp(EPOCH, 4), "c4", is_master=True, is_same=False), False),
        (Beat(None, "", is_master=True, is_same=True), False),
    ],
)
def test_only_the_master_that_numbers_the_records_proves_contact(beat: Beat, agrees: bool) -> None:
    """And only by naming the record at which this process stands: epoch, number and nonce."""
    ledger = ledger_at(3)
    apply(ledger, record(4))
    assert ledger.agrees(beat) is agrees


@pytest.mark.parametrize(
    ("beat", "agrees"),
    [
        (Beat(Stamp(EPOCH, 4), "c4", is_master=True, is_same=True, asked=NOW - 1), True),
        (Beat(Stamp(EPOCH, 5), "c5", is_master=True, is_same=True, asked=NOW - 1), True),
        (Beat(Stamp(EPOCH, 6), "nonce0", is_master=True, is_same=True, asked=NOW - 1), True),
        (Beat(Stamp(EPOCH, 5), "c5", is_master=True, is_same=True, asked=NOW + 3), False),
        (Beat(Stamp(EPOCH, 5), "another", is_master=True, is_same=True, asked=NOW - 1), False),
        (Beat(Stamp(EPOCH, 5), "c5", is_master=False, is_same=True, asked=NOW - 1), False),
        (Beat(Stamp(EPOCH, 5), "c5", is_master=True, is_same=False, asked=NOW - 1), False),
        (Beat(Stamp(OTHER, 5), "c5", is_master=True, is_same=True, asked=NOW - 1), False),
    ],
)
def test_an_answer_that_was_overtaken_names_a_record_that_was_applied(beat: Beat, agrees: bool) -> None:
    """One of several that were applied at once, or one of this process's own. After that the log can not end there any more."""
    ledger = ledger_at(3)
    apply(ledger, record(4), record(5))
    ticket = ticket_for(A)
    ledger.pend(ticket, NOW + 1)
    ledger.settle(ticket, Stamp(EPOCH, 6), NOW + 1)
    apply(ledger, Record(EPOCH, 7, "c7", "nonce0", A, "somebody"), at=NOW + 2)
    assert ledger.agrees(beat) is agrees


def test_an_answer_about_another_log_is_not_taken_for_one_that_was_overtaken() -> None:
    """Where the log was joined anew, its numbers may stand for other records."""
    ledger = ledger_at(3)
    apply(ledger, record(4), record(5))
    assert rejoin(ledger, joined(8)) == Rejoined("gap")
    assert not ledger.agrees(Beat(Stamp(EPOCH, 4), "c4", is_master=True, is_same=True))


def test_a_process_that_never_joined_agrees_with_nobody() -> None:
    """Also not where there is no log."""
    ledger = Ledger(None, contact=-math.inf)
    assert not ledger.agrees(Beat(None, "", is_master=True, is_same=True))
    assert not ledger.agrees(Beat(Stamp(EPOCH, 0), "", is_master=True, is_same=True))


# --- one's own invalidations -----------------------------------------------------------------------------------------------------


def test_a_pending_invalidation_refuses_at_once() -> None:
    """Whatever the stamp: it has no number yet, so it is newer than everything."""
    ledger = ledger_at(3)
    mark = ledger.mark
    ledger.pend(ticket_for(A), NOW)
    assert ledger.mark is not mark
    assert ledger.refuses("a", (), 3)
    assert ledger.tickets.refuses("a", ())
    assert not ledger.refuses("b", (), 3)
    assert not ledger.tickets.refuses("b", ())


def test_a_pending_soft_invalidation_refuses_nothing() -> None:
    """It makes stale, from now on."""
    ledger = ledger_at(3)
    ledger.pend(ticket_for(Targets(KEY, ("a",), SOFT)), NOW)
    assert not ledger.refuses("a", (), 3)
    assert ledger.softened("a", (), 3) == NOW
    assert ledger.softened("b", (), 3) is None


def test_a_settled_invalidation_is_a_ban_under_its_number() -> None:
    """Several records of one call have consecutive numbers, the stamp's being the last."""
    ledger = ledger_at(3)
    ticket = ticket_for(A, T)
    ledger.pend(ticket, NOW)
    mark = ledger.mark
    ledger.settle(ticket, Stamp(EPOCH, 5), NOW)
    assert ledger.mark is not mark
    assert (ledger.position, ledger.nonce) == (Stamp(EPOCH, 5), "nonce1")
    assert ledger.refuses("a", (), 3)
    assert not ledger.refuses("a", (), 4)
    assert ledger.refuses("x", tagged("t"), 4)
    assert not ledger.refuses("x", tagged("t"), 5)
    assert held(ledger) == queued(ledger) == []


def test_a_process_that_is_behind_does_not_skip_what_others_announced() -> None:
    """Its own record holds at once; its position waits for those in between."""
    ledger = ledger_at(3)
    ticket = ticket_for(A)
    ledger.pend(ticket, NOW)
    mark = ledger.mark
    ledger.settle(ticket, Stamp(EPOCH, 6), NOW)
    assert ledger.mark is not mark
    assert ledger.position == Stamp(EPOCH, 3)
    assert ledger.refuses("a", (), 5)
    apply(ledger, record(4, "x"), record(5, "y"), record(6, "a"))
    assert ledger.position == Stamp(EPOCH, 6)
    assert ledger.refuses("x", (), 3)


def test_an_invalidation_before_joining_goes_on_refusing_until_the_process_has_joined() -> None:
    """The first thing a process does may be to invalidate: its number means nothing here before the log is known."""
    ledger = Ledger(None, contact=-math.inf)
    ticket = ticket_for(A)
    ledger.pend(ticket, NOW)
    ledger.settle(ticket, Stamp(EPOCH, 4), NOW)
    assert ledger.position is None
    assert ledger.refuses("a", (), 4)
    assert rejoin(ledger, joined(4), page((A, 4))) == Rejoined("first")
    assert not held(ledger)
    assert ledger.refuses("a", (), 3)
    assert not ledger.refuses("a", (), 4)


def test_a_number_of_another_epoch_is_not_taken_for_one_of_this() -> None:
    """The log was begun anew meanwhile: the invalidation refuses until this process has joined that log as far as it."""
    ledger = ledger_at(100)
    ticket = ticket_for(A)
    ledger.pend(ticket, NOW)
    ledger.settle(ticket, Stamp(OTHER, 2), NOW)
    assert ledger.position == Stamp(EPOCH, 100)
    assert ledger.refuses("a", (), 100)
    assert rejoin(ledger, joined(1, OTHER, asked=NOW + 1), at=NOW + 1) == Rejoined("epoch")
    assert ledger.refuses("a", (), 1), "not as far as it yet"
    apply(ledger, record(2, "a", epoch=OTHER), at=NOW + 2)
    assert not held(ledger)
    assert ledger.refuses("a", (), 1)
    assert not ledger.refuses("a", (), 2)


def test_an_invalidation_whose_number_was_lost_in_a_failover_is_queued_again() -> None:
    """Its acknowledgement came when its epoch had ended, below its number: the log that goes on knows nothing of it."""
    ledger = ledger_at(9, OTHER)
    ledger.lineage = Lineage(OTHER, {EPOCH: 7})
    ticket = ticket_for(A)
    ledger.pend(ticket, NOW)
    ledger.settle(ticket, Stamp(EPOCH, 8), NOW)
    assert queued(ledger) == held(ledger) == [ticket]
    assert ledger.refuses("a", (), 9)


def test_an_invalidation_that_the_position_has_passed_already_refuses_no_longer() -> None:
    """Its acknowledgement was late: the records of its epoch up to the cut are part of the log of today, and applied."""
    ledger = ledger_at(9, OTHER)
    ledger.lineage = Lineage(OTHER, {EPOCH: 7})
    ledger.bans.add(KEY, "a", 6)
    ticket = ticket_for(A)
    ledger.pend(ticket, NOW)
    ledger.settle(ticket, Stamp(EPOCH, 6), NOW)
    assert not held(ledger)
    assert ledger.refuses("a", (), 5)
    assert not ledger.refuses("a", (), 9)


def test_an_invalidation_that_is_settled_twice_is_settled() -> None:
    """It was announced twice, because the first answer was late: in this epoch, and in one that is not joined yet."""
    ledger = ledger_at(3)
    ticket = ticket_for(A)
    ledger.pend(ticket, NOW)
    ledger.settle(ticket, Stamp(OTHER, 1), NOW)
    ledger.settle(ticket, Stamp(OTHER, 2), NOW)
    assert rejoin(ledger, joined(2, OTHER, asked=NOW + 1), at=NOW + 1) == Rejoined("epoch")
    assert not held(ledger)
    ledger.settle(ticket, Stamp(OTHER, 3), NOW + 1)
    ledger.settle(ticket, Stamp(OTHER, 4), NOW + 1)
    assert ledger.refuses("a", (), 3)
    assert not ledger.refuses("a", (), 4)


def test_too_many_invalidations_before_joining_become_everything() -> None:
    """More is refused than was asked for, never less, and memory stays bounded."""
    ledger = Ledger(None, contact=-math.inf)
    for number in range(1, MAX_QUEUED + 2):
        ticket = Ticket((Targets(KEY, (f"key{number}",)),), (f"nonce{number}",), "me")
        ledger.pend(ticket, NOW)
        ledger.settle(ticket, Stamp(EPOCH, number), NOW)
    assert [ticket.targets for ticket in held(ledger)] == [(Targets(EVERYTHING, ("*",)),)]
    assert ledger.refuses("never named", (), 3)
    assert rejoin(ledger, joined(MAX_QUEUED)) == Rejoined("first")
    assert held(ledger), "the last of them is not reached"
    apply(ledger, record(MAX_QUEUED + 1), at=NOW + 1)
    assert not held(ledger)


def test_a_queued_invalidation_goes_on_refusing_until_it_is_announced() -> None:
    """It is a ban in this process, whether others can be told or not."""
    ledger = ledger_at(3)
    ticket = ticket_for(A)
    ledger.pend(ticket, NOW)
    ledger.queue(ticket)
    assert ledger.refuses("a", (), 3)
    assert queued(ledger) == [ticket]
    ledger.settle(ticket, Stamp(EPOCH, 4), NOW)
    assert held(ledger) == queued(ledger) == []
    assert ledger.refuses("a", (), 3)
    assert not ledger.refuses("a", (), 4)


def test_what_is_queued_twice_is_announced_once() -> None:
    """An outage in which one key is invalidated again and again costs one announcement."""
    ledger = ledger_at(3)
    for _ in range(100):
        ticket = ticket_for(A)
        ledger.pend(ticket, NOW)
        ledger.queue(ticket)
    assert len(queued(ledger)) == len(held(ledger)) == 1
    assert ledger.refuses("a", (), 3)


def test_of_two_that_say_the_same_the_later_one_is_announced() -> None:
    """The earlier one may be on its way already, and get a number before the later invalidation was asked for."""
    ledger = ledger_at(3)
    first, second = Ticket((A,), ("first",), "me"), Ticket((A,), ("second",), "me")
    ledger.pend(first, NOW)
    ledger.queue(first)
    ledger.pend(second, NOW)
    ledger.queue(second)
    assert queued(ledger) == [second]
    ledger.settle(first, Stamp(EPOCH, 4), NOW)
    assert queued(ledger) == held(ledger) == [second]
    assert ledger.refuses("a", (), 4)


def test_too_many_queued_invalidations_become_everything() -> None:
    """More than was asked for, never less; and what was pending but not queued stays as it is."""
    ledger = ledger_at(3)
    apart = Ticket((Targets(TAG, ("apart",)),), ("apart",), "me")
    ledger.pend(apart, NOW)
    for number in range(MAX_QUEUED + 1):
        ticket = Ticket((Targets(KEY, (f"key{number}",)),), (f"nonce{number}",), "me")
        ledger.pend(ticket, NOW)
        ledger.queue(ticket)
    assert [ticket.targets for ticket in queued(ledger)] == [(Targets(EVERYTHING, ("*",)),)]
    assert apart in held(ledger)
    assert len(held(ledger)) == 2
    assert ledger.refuses("never named", (), 3)
    [everything] = queued(ledger)
    ledger.settle(everything, Stamp(EPOCH, 4), NOW)
    assert ledger.refuses("never named", (), 3)
    assert not ledger.refuses("never named", (), 4)


def test_a_forked_child_keeps_what_waits_and_forgets_what_is_on_its_way() -> None:
    """What the parent is announcing is the parent's; what is queued, or waits for its epoch, is announced by whoever lives."""
    ledger = ledger_at(3)
    under_way, waiting, elsewhere = (
        Ticket((target,), (nonce,), "me") for target, nonce in ((A, "under way"), (B, "queued"), (T, "elsewhere"))
    )
    for ticket in (under_way, waiting, elsewhere):
        ledger.pend(ticket, NOW)
    ledger.queue(waiting)
    ledger.settle(elsewhere, Stamp(OTHER, 1), NOW)
    ledger.tickets.keep_waiting()
    assert set(held(ledger)) == {waiting, elsewhere}
    assert queued(ledger) == [waiting]
    assert not ledger.refuses("a", (), 3)


def test_only_what_neither_has_a_number_nor_waits_is_on_its_way() -> None:
    """Whoever is interrupted has to queue it, or nobody announces it."""
    ledger = ledger_at(3)
    under_way, waiting, elsewhere, announced, unknown = (Ticket((A,), (nonce,), "me") for nonce in "abcde")
    for ticket in (under_way, waiting, elsewhere, announced):
        ledger.pend(ticket, NOW)
    ledger.queue(waiting)
    ledger.settle(announced, Stamp(EPOCH, 4), NOW)
    ledger.settle(elsewhere, Stamp(OTHER, 1), NOW)
    assert list(filter(ledger.tickets.is_on_its_way, (under_way, waiting, elsewhere, announced, unknown))) == [under_way]


def test_an_entry_is_spared_by_its_own_announcement() -> None:
    """``set`` announces itself; the value it stored is stamped with the position before."""
    ledger = ledger_at(3)
    apply(ledger, record(4, "a", mode=VALUE))
    assert ledger.refuses("a", (), 3)
    assert not ledger.refuses("a", (), 3, own=4)
    apply(ledger, record(5, "a"))
    assert ledger.refuses("a", (), 3, own=4)


# --- announced again ---------------------------------------------------------------------------------------------------------------


def test_what_is_announced_again_bans_under_the_last_number() -> None:
    """Somebody else may have brought a part of it already, so which of the numbers is whose can not be told. The last is safe."""
    ledger = ledger_at(3)
    ticket = ticket_for(A, T, again=True)
    ledger.pend(ticket, NOW)
    ledger.queue(ticket)
    ledger.settle(ticket, Stamp(EPOCH, 9), NOW)
    assert ledger.refuses("a", (), 8)
    assert ledger.refuses("x", tagged("t"), 8)
    assert not ledger.refuses("a", (), 9)
    assert held(ledger) == queued(ledger) == []


def test_what_is_announced_again_does_not_move_the_position() -> None:
    """Its records may not follow one another: the position waits for what the log says."""
    ledger = ledger_at(3)
    ticket = ticket_for(A, again=True)
    ledger.pend(ticket, NOW)
    ledger.settle(ticket, Stamp(EPOCH, 4), NOW)
    assert ledger.position == Stamp(EPOCH, 3)
    apply(ledger, record(4, "a"))
    assert ledger.position == Stamp(EPOCH, 4)


# --- soft ----------------------------------------------------------------------------------------------------------------------------


def test_a_soft_invalidation_refuses_nothing_and_says_since_when() -> None:
    """Its time is that at which this process applied it, on this process's clock."""
    ledger = ledger_at(3)
    apply(ledger, record(4, "t", kind=TAG, mode=SOFT), at=50.0)
    assert not ledger.refuses("x", tagged("t"), 3)
    assert ledger.softened("x", tagged("t"), 3) == 50.0
    assert ledger.softened("x", tagged("t"), 4) is None
    assert ledger.softened("x", (), 3) is None


def test_the_window_is_counted_from_the_first_soft_invalidation_that_a_value_missed() -> None:
    """One every minute would otherwise keep an old value for ever."""
    ledger = ledger_at(3)
    for number, at in ((4, 50.0), (5, 60.0), (6, 70.0)):
        apply(ledger, record(number, "a", mode=SOFT), at=at)
    assert [ledger.softened("a", (), since) for since in (3, 4, 5, 6)] == [50.0, 60.0, 70.0, None]


def test_hard_and_soft_are_two_numbers() -> None:
    """A soft invalidation after a hard one brings nothing back, and a hard one after a soft one leaves nothing."""
    orders: tuple[tuple[Mode, Mode], ...] = ((HARD, SOFT), (SOFT, HARD))
    for first, second in orders:
        ledger = ledger_at(3)
        apply(ledger, record(4, "t", kind=TAG, mode=first), record(5, "t", kind=TAG, mode=second))
        assert ledger.refuses("x", tagged("t"), 3)
        assert ledger.refuses("x", tagged("t"), 4) is (second == HARD)
        assert ledger.softened("x", tagged("t"), 4) == (NOW if second == SOFT else None)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_soft(kind: Kind) -> None:
    """Key, tag, prefix, glob, everything."""
    text = {KEY: "a:z", TAG: "t", PREFIX: "a:", GLOB: "a**z", EVERYTHING: "*"}[kind]
    ledger = ledger_at(3)
    apply(ledger, record(4, text, kind=kind, mode=SOFT), at=50.0)
    assert ledger.softened("a:z", tagged("t"), 3) == 50.0
    assert ledger.softened("b", tagged("u"), 3) == (50.0 if kind == EVERYTHING else None)


def test_a_soft_invalidation_of_one_s_own_has_its_time_at_once() -> None:
    """It counts from when it was made: no later when it gets its number, nor when the record comes back in the log."""
    ledger = ledger_at(3)
    ticket = ticket_for(Targets(TAG, ("t",), SOFT))
    ledger.pend(ticket, 40.0)
    assert ledger.softened("x", tagged("t"), 3) == 40.0
    ledger.settle(ticket, Stamp(EPOCH, 5), 50.0)
    assert ledger.softened("x", tagged("t"), 3) == 40.0
    apply(ledger, record(4, "x"), record(5, "t", kind=TAG, mode=SOFT), at=60.0)
    assert ledger.softened("x", tagged("t"), 3) == 40.0


def test_what_depends_on_anything_is_softened_by_any() -> None:
    """Since when is not known: it is not served stale."""
    ledger = ledger_at(3)
    apply(ledger, record(4, "t", kind=TAG, mode=SOFT), at=50.0)
    assert ledger.softened("x", ANYTHING, 3) == LONG_AGO
    assert ledger.softened("x", ANYTHING, 4) is None


def test_a_value_replaces_what_was_there() -> None:
    """An explicit ``set`` is hard: copies of what stood there before are not served stale either."""
    ledger = ledger_at(3)
    apply(ledger, record(4, "a", mode=VALUE))
    assert ledger.refuses("a", (), 3)
    assert ledger.softened("a", (), 3) is None


# --- who is concerned ------------------------------------------------------------------------------------------------------------

TAGGED: Final = (Dependency(TAG, "region:java"), Dependency(KEY, "users:7"))


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
        (Targets(PREFIX, ("users:", "region:")), True),
        (Targets(PREFIX, ("region:",)), False),
        (Targets(GLOB, ("*:JKT",)), True),
        (Targets(GLOB, ("*:java",)), False),
        (Targets(GLOB, ("*:java", "u*7")), True),
        (Targets(EVERYTHING, ("*",)), True),
        (Targets(EVERYTHING, ()), True),
        (Targets(KEY, ()), False),
        (Targets(PREFIX, ()), False),
        (Targets(GLOB, ()), False),
    ],
)
def test_an_invalidation_concerns_what_it_names(targets: Targets, *, concerned: bool) -> None:
    """Patterns are of keys: one's own, and those that are depended on. Tags are found among the dependencies."""
    assert matches(targets, "stores:JKT", TAGGED) is concerned


@pytest.mark.parametrize("kind", KINDS)
def test_what_depends_on_anything_is_concerned_by_any(kind: Kind) -> None:
    """Also by a tag nobody has, and by a key that does not exist."""
    assert matches(Targets(kind, ("nobody*" if kind == GLOB else "nobody",)), "x", ANYTHING)


short = st.text("ab:", min_size=1, max_size=3)
globs = st.lists(st.text("ab:", max_size=2), min_size=2, max_size=3).map("*".join).filter(lambda text: text.strip("*") != "")
named = st.one_of(
    st.builds(Targets, st.sampled_from((KEY, TAG, PREFIX)), st.tuples(short)),
    st.builds(Targets, st.just(GLOB), st.tuples(globs)),
    st.just(Targets(EVERYTHING, ("*",))),
)
dependencies = st.lists(st.builds(Dependency, st.sampled_from((TAG, KEY)), short), max_size=3).map(bounded) | st.just(ANYTHING)


@given(named, short, dependencies)
def test_a_pending_and_a_numbered_invalidation_concern_the_same(targets: Targets, key: str, on: tuple[Dependency, ...]) -> None:
    """One is matched text by text and the other through an index: a value that was refused is not served when the number comes."""
    ledger = ledger_at(3)
    ticket = ticket_for(targets)
    ledger.pend(ticket, NOW)
    refused = ledger.refuses(key, on, 3)
    assert refused is matches(targets, key, on)
    ledger.settle(ticket, Stamp(EPOCH, 4), NOW)
    assert ledger.refuses(key, on, 3) is refused


def test_more_dependencies_than_are_told_apart_are_anything() -> None:
    """One too many, and every invalidation concerns the value."""
    many = [Dependency(TAG, f"t{number}") for number in range(MAX_DEPENDENCIES)]
    assert bounded([*many, many[0]]) == tuple(many)
    assert bounded([*many, Dependency(KEY, "one too many")]) == ANYTHING


# --- the whole -------------------------------------------------------------------------------------------------------------------

steps = st.lists(
    st.one_of(
        st.tuples(st.just("record"), named),
        st.tuples(st.just("own"), named),
        st.tuples(st.just("pend"), named),
        st.tuples(st.just("settle"), st.none()),
        st.tuples(st.just("gap"), named),
    ),
    max_size=10,
)


@given(steps, short, dependencies, st.integers(0, 10))
def test_no_invalidation_is_forgotten_whatever_the_order(
    story: list[tuple[str, Any]], key: str, on: tuple[Dependency, ...], since: int
) -> None:
    """Records of others, one's own settled in any order, and gaps: what was announced above a stamp and matches it is refused."""
    ledger = ledger_at(0)
    announced: list[Targets] = []
    pending: list[tuple[Ticket, int]] = []

    def number_of(targets: Targets) -> int:
        announced.append(targets)
        return len(announced)

    def read_log() -> None:
        assert ledger.position is not None
        at = ledger.position.number
        follow = [Record(EPOCH, n, f"c{n}", f"c{n - 1}", targets, "o") for n, targets in enumerate(announced[at:], at + 1)]
        assert ledger.apply(Log(tuple(follow), None, gap=False), NOW) is not None

    for word, targets in story:
        if word == "record":
            number_of(targets)
            read_log()
        elif word == "gap":
            number = number_of(targets)
            missed = page(*((one, at) for at, one in enumerate(announced, 1)))
            assert rejoin(ledger, joined(number), missed) == Rejoined("gap")
        elif word == "settle" and pending:
            ticket, number = pending.pop()
            ledger.settle(ticket, Stamp(EPOCH, number), NOW)
        elif targets is not None:
            number = number_of(targets)
            ticket = Ticket((targets,), (f"c{number}",), "me")
            ledger.pend(ticket, NOW)
            pending.append((ticket, number))
            if word == "own":
                ledger.settle(*pending.pop()[:1], Stamp(EPOCH, number), NOW)
    owed = [targets for number, targets in enumerate(announced, 1) if number > since and matches(targets, key, on)]
    assert ledger.refuses(key, on, since) or not owed
    for ticket, number in pending:
        ledger.settle(ticket, Stamp(EPOCH, number), NOW)
    read_log()
    assert ledger.refuses(key, on, since) is bool(owed)
    assert held(ledger) == []
