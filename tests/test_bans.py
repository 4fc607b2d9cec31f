"""Bans: what is dead after an invalidation, and how that is remembered."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cachesync.core.bans import MAX_GLOBS_OF_A_PREFIX, MAX_PREFIX_LENGTHS, TIMES_OF_A_BAN, BanIndex, Floors, SoftIndex
from cachesync.core.entry import ANYTHING, Dependency
from cachesync.core.records import EVERYTHING, GLOB, KEY, KINDS, PREFIX, SOFT, TAG, Kind, Targets


class Ban(NamedTuple):
    kind: Kind
    text: str
    number: int


def concerns(ban: Ban, key: str, dependencies: tuple[Dependency, ...]) -> bool:
    """The rule of `cachesync.core.bans`, said as plainly as possible."""
    if dependencies == ANYTHING:
        return True
    keys = [key, *(text for kind, text in dependencies if kind == KEY)]
    match ban.kind:
        case "*":
            return True
        case "k":
            return ban.text in keys
        case "t":
            return Dependency("t", ban.text) in dependencies
        case "p":
            return any(one.startswith(ban.text) for one in keys)
        case "g":
            plain = re.compile(".*".join(map(re.escape, ban.text.split("*"))), re.DOTALL)
            return any(plain.fullmatch(one) is not None for one in keys)


short = st.text("ab:\n", min_size=1, max_size=4)
globs = st.lists(st.text("ab:\n", max_size=2), min_size=2, max_size=4).map("*".join).filter(lambda text: text.strip("*") != "")
numbers = st.integers(1, 40)
bans = st.one_of(
    st.builds(Ban, st.sampled_from((KEY, TAG, PREFIX)), short, numbers),
    st.builds(Ban, st.just(GLOB), globs, numbers),
    st.builds(Ban, st.just(EVERYTHING), st.just("*"), numbers),
)
dependencies = st.lists(st.builds(Dependency, st.sampled_from(("t", "k")), short), max_size=3).map(tuple) | st.just(ANYTHING)


def index_of(*known: Ban, limit: int = 1_000) -> BanIndex:
    index = BanIndex(limit)
    for ban in known:
        index.add(*ban)
    return index


class Watched(str):
    """A key that notes which parts of it are looked at."""

    __slots__ = ("looked",)

    def __init__(self, text: str) -> None:
        self.looked: list[object] = []

    def __getitem__(self, at: object) -> str:
        self.looked.append(at)
        return super().__getitem__(at)  # type: ignore[index]  # a str takes what a str takes


@settings(max_examples=300)
@given(st.lists(bans, max_size=12), short, dependencies)
def test_the_newest_ban_that_matches_decides(known: list[Ban], key: str, on: tuple[Dependency, ...]) -> None:
    """Whatever the order in which bans come: the index says what looking at each of them would say."""
    expected = max((ban.number for ban in known if concerns(ban, key, on)), default=0)
    index = index_of(*known)
    assert index.newest(key, on) == expected
    assert index.highest == max((ban.number for ban in known), default=0)


@settings(max_examples=300)
@given(st.lists(bans, max_size=25), st.integers(1, 4), short, dependencies)
def test_a_bounded_index_forgets_no_invalidation(known: list[Ban], limit: int, key: str, on: tuple[Dependency, ...]) -> None:
    """What it can not remember it counts as dead: more than was asked for may go, never less.

    One thing is forgotten: a ban on the key itself. Its entry was unlinked and its lease revoked, so nothing that old can be stored; the
    floor that remembers it is for those that depend on keys.
    """
    index = index_of(*known, limit=limit)
    owed = [ban.number for ban in known if concerns(ban, key, on) and not (ban.kind == KEY and ban.text == key and on != ANYTHING)]
    assert index.newest(key, on) >= max(owed, default=0)
    assert index.newest(key, on) <= max((ban.number for ban in known), default=0)
    as_dependency = (Dependency(KEY, key), *on)
    assert index.newest("z", as_dependency) >= max((ban.number for ban in known if concerns(ban, "z", as_dependency)), default=0)


@settings(max_examples=300)
@given(st.lists(bans, max_size=12), short, dependencies, numbers)
def test_only_its_own_announcement_spares_an_entry(known: list[Ban], key: str, on: tuple[Dependency, ...], own: int) -> None:
    """An entry that was ``set`` is not refused by the record that announced it, and by every other one."""
    others = [ban for ban in known if ban.number != own]
    newest = index_of(*others, Ban(KEY, key, own)).newest(key, on, own=own)
    own_as_dependency = own if concerns(Ban(KEY, key, own), "another key", on) else 0
    expected = max((ban.number for ban in others if concerns(ban, key, on)), default=own_as_dependency)
    # Of the bans on one key the two newest are kept: an older one was answered by whoever set the value.
    assert newest <= max(expected, own_as_dependency)
    newer = [ban.number for ban in others if concerns(ban, key, on) and ban.number > own]
    assert newest >= max(newer, default=0)


def test_an_empty_index_bans_nothing() -> None:
    """Number 0 is the position before the first record, so a first computation is valid."""
    index = BanIndex()
    assert index.newest("a", (Dependency("t", "a"),)) == 0
    assert (len(index), index.floor, index.highest) == (0, 0, 0)


def test_a_ban_concerns_its_own_kind() -> None:
    """The tag ``a`` is not the key ``a`` is not the prefix ``a``."""
    assert index_of(Ban(TAG, "a", 5)).newest("a", ()) == 0
    assert index_of(Ban(KEY, "a", 5)).newest("ab", (Dependency("t", "a"),)) == 0
    assert index_of(Ban(PREFIX, "a", 5)).newest("b", (Dependency("t", "a"), Dependency("t", "ab"))) == 0
    assert index_of(Ban(GLOB, "*a", 5)).newest("b", (Dependency("t", "a"),)) == 0


def test_a_pattern_concerns_what_depends_on_a_key_that_it_matches() -> None:
    """A page made of items goes with ``items:*``, whatever its own key is."""
    on = (Dependency(KEY, "items:3"),)
    assert index_of(Ban(PREFIX, "items:", 5)).newest("page", on) == 5
    assert index_of(Ban(GLOB, "*:3", 5)).newest("page", on) == 5
    assert index_of(Ban(PREFIX, "items:4", 5), Ban(GLOB, "*:4", 6)).newest("page", on) == 0


@pytest.mark.parametrize(("key", "dead"), [("users:", True), ("users:1", True), ("users", False), ("usersAbc", False), ("Users:1", False)])
def test_a_prefix_ends_where_it_says(key: str, *, dead: bool) -> None:
    """``users:*`` has nothing to do with ``usersAbc``."""
    assert (index_of(Ban(PREFIX, "users:", 5)).newest(key, ()) == 5) is dead


def test_a_star_crosses_colons_and_line_ends() -> None:
    """Keys have no hierarchy for a glob."""
    index = index_of(Ban(GLOB, "*:stats", 5))
    assert index.newest("stores:JKT:x\ny:stats", ()) == 5
    assert index.newest(":stats", ()) == 5
    assert index.newest("stats", ()) == 0
    assert index.newest("a:stats:b", ()) == 0


def test_an_older_ban_does_not_replace_a_newer_one() -> None:
    """A log that is read twice, or a snapshot that is late, takes nothing back."""
    named: tuple[tuple[Kind, str], ...] = ((KEY, "a"), (TAG, "a"), (PREFIX, "a"), (GLOB, "a*z"))
    for kind, text in named:
        index = index_of(Ban(kind, text, 9), Ban(kind, text, 4))
        assert index.newest("az" if kind == GLOB else "a", (Dependency("t", "a"),)) == 9
        assert len(index) == 1


def test_two_announcements_on_one_key_are_told_apart() -> None:
    """A value was invalidated at 3 and set at 5: what was set stands, what was stamped below 3 does not."""
    index = index_of(Ban(KEY, "a", 3), Ban(KEY, "a", 5))
    assert index.newest("a", (), own=5) == 3
    assert index.newest("a", ()) == 5
    assert index.newest("a", (), own=3) == 5


def test_everything_is_a_floor_and_costs_no_room() -> None:
    """However often."""
    index = index_of(*(Ban(EVERYTHING, "*", number) for number in range(1, 100)))
    assert (len(index), index.floor, index.highest) == (0, 99, 99)
    assert index.newest("any", ()) == 99


def test_a_floor_never_falls() -> None:
    """Neither by an older "everything" nor by being told an older one."""
    index = index_of(Ban(EVERYTHING, "*", 9), Ban(EVERYTHING, "*", 3))
    index.raise_floors(Floors(all=5))
    assert index.floor == 9
    index.raise_floors(Floors(all=12))
    assert (index.floor, index.highest) == (12, 12)
    index.raise_floors(Floors(keys=14, tags=13))
    index.raise_floors(Floors(keys=13, tags=11))
    assert (index.floors, index.highest) == (Floors(12, 14, 13), 14)


@pytest.mark.parametrize(
    ("kind", "floors"),
    [(KEY, Floors(keys=2)), (TAG, Floors(tags=2)), (PREFIX, Floors(all=2)), (GLOB, Floors(all=2))],
)
def test_the_oldest_ban_makes_room_and_raises_the_floor_of_its_kind(kind: Kind, floors: Floors) -> None:
    """One that was renewed meanwhile is young again."""
    star = "*z" if kind == GLOB else ""
    index = index_of(*(Ban(kind, text + star, number) for text, number in (("a", 1), ("b", 2), ("c", 3), ("a", 4))), limit=3)
    assert (len(index), index.floors) == (3, Floors())
    index.add(kind, "d" + star, 5)
    assert (len(index), index.floors) == (3, floors)


def test_a_floor_concerns_what_a_dropped_ban_of_its_kind_could_have_meant() -> None:
    """A dropped ban on a key can only have concerned what depends on keys, one on a tag what has tags, a pattern anything."""
    untagged, on_tag, on_key = (), (Dependency(TAG, "x"),), (Dependency(KEY, "x"),)
    for floors, dead in (
        (Floors(all=5), (5, 5, 5)),
        (Floors(keys=5), (0, 0, 5)),
        (Floors(tags=5), (0, 5, 0)),
        (Floors(all=3, keys=4, tags=5), (3, 5, 4)),
    ):
        index = BanIndex()
        index.raise_floors(floors)
        assert tuple(index.newest("z", on) for on in (untagged, on_tag, on_key)) == dead
        assert index.newest("z", ANYTHING) == 5


def test_what_depends_on_anything_is_dead_with_every_ban() -> None:
    """It was made of more than could be noted."""
    index = index_of(Ban(TAG, "nobody's", 5), Ban(KEY, "nobody", 4))
    assert index.newest("z", ANYTHING) == 5
    assert index.newest("z", ()) == 0


def test_globs_that_begin_with_a_star_are_few() -> None:
    """They have to be tried one by one, so the oldest of them become the floor."""
    index = index_of(*(Ban(GLOB, f"*:{number}", number) for number in range(1, MAX_GLOBS_OF_A_PREFIX + 11)))
    assert (len(index), index.floor) == (MAX_GLOBS_OF_A_PREFIX, 10)
    assert index.newest("x:11", ()) == 11
    assert index.newest("x:3", ()) == 10


def test_globs_with_one_literal_prefix_are_few() -> None:
    """They too are tried one by one. Those with another prefix are counted apart."""
    index = index_of(Ban(GLOB, "a*z", 1), *(Ban(GLOB, f"b*{number}", number) for number in range(2, MAX_GLOBS_OF_A_PREFIX + 3)))
    assert (len(index), index.floor) == (MAX_GLOBS_OF_A_PREFIX + 1, 2)
    assert index.newest("bx3", ()) == 3


def test_globs_of_many_prefixes_are_bounded_like_all_bans() -> None:
    """The oldest of all goes, whatever its prefix; one that was renewed meanwhile is young again."""
    index = index_of(*(Ban(GLOB, f"a{number}*z", number) for number in range(1, 11)), Ban(GLOB, "a1*z", 11), limit=10)
    assert (len(index), index.floor) == (10, 0)
    index.add(GLOB, "b*z", 12)
    assert (len(index), index.floor) == (10, 2)
    assert [index.newest(key, ()) for key in ("a1z", "a2z", "a3z", "bz", "c")] == [11, 2, 3, 12, 2]


@settings(max_examples=300)
@given(st.lists(bans, max_size=40), st.integers(1, 4))
def test_an_index_stays_within_its_bound(known: list[Ban], limit: int) -> None:
    """So many bans of each kind and no more, and the floor stands for whatever had to go."""
    index = BanIndex(limit)
    for ban in known:
        index.add(*ban)
        assert len(index) <= 4 * limit
        assert index.highest >= max(index.floors)
    for kind in (KEY, TAG, PREFIX, GLOB):
        own = {ban for ban in known if ban.kind == kind}
        assert len(index_of(*own, limit=limit)) <= limit
    for ban in known:
        key = ban.text.replace("*", "")
        assert index.newest("z", (Dependency(TAG if ban.kind == TAG else KEY, key),)) >= ban.number


@pytest.mark.parametrize("star", ["", "*z"])
def test_a_length_that_no_prefix_has_any_more_is_not_looked_up(star: str) -> None:
    """A question looks once for each length: those of forgotten prefixes do not slow it for ever."""
    kind: Kind = GLOB if star else PREFIX
    index = index_of(*(Ban(kind, "a" * number + star, number) for number in range(1, 101)), limit=3)
    key = Watched("b" * 100)
    assert index.newest(key, ()) == 97
    assert len(key.looked) <= 3


@pytest.mark.parametrize("star", ["", "*z"])
def test_prefixes_of_many_lengths_are_few(star: str) -> None:
    """Each length is a look-up in every question: the bans of the one with the fewest become the floor."""
    kind: Kind = GLOB if star else PREFIX
    index = index_of(*(Ban(kind, "a" * length + star, length) for length in range(1, MAX_PREFIX_LENGTHS + 1)))
    index.add(kind, "ba" + star, 500)
    assert (len(index), index.floor) == (MAX_PREFIX_LENGTHS + 1, 0), "a length that is known costs nothing"
    index.add(kind, "a" * 1_000 + star, 501)
    assert (len(index), index.floor) == (MAX_PREFIX_LENGTHS + 1, 1), "of those with one ban the shortest went"
    index.add(kind, "a" * 1_001 + star, 502)
    assert (len(index), index.floor) == (MAX_PREFIX_LENGTHS + 1, 3), "length 2 has two bans, so 3 went"
    key = Watched("c" * 2_000)
    assert index.newest(key, ()) == 3
    assert len(key.looked) <= MAX_PREFIX_LENGTHS
    assert index.newest("baz", ()) == 500
    assert index.newest("a" * 1_001 + "z", ()) == 502


def test_prefixes_and_globs_of_one_length_are_looked_up_together() -> None:
    """And a length goes when the last of both has gone."""
    index = index_of(Ban(PREFIX, "aa", 1), Ban(GLOB, "bb*z", 2), Ban(PREFIX, "ccc", 3), Ban(PREFIX, "ddd", 4), limit=2)
    assert index.floor == 1
    key = Watched("bbz-and-more")
    index.newest(key, ())
    assert len(key.looked) == 2
    assert index.newest("bbz", ()) == 2


# --- announcing again, moving to another process ---------------------------------------------------------------------------------


def matching(index: BanIndex, key: str, on: tuple[Dependency, ...]) -> set[Ban]:
    return {Ban(*found) for found in index.matching(key, on)}


@settings(max_examples=300)
@given(st.lists(bans, max_size=12), short, dependencies)
def test_the_bans_that_match_are_those_whose_newest_decides(known: list[Ban], key: str, on: tuple[Dependency, ...]) -> None:
    """Told one by one, floors apart."""
    index = index_of(*known)
    if on != ANYTHING:
        found = matching(index, key, on)
        assert max((ban.number for ban in found), default=0) == max(
            (ban.number for ban in known if ban.kind != EVERYTHING and concerns(ban, key, on)), default=0
        )
        assert all(concerns(ban, key, on) for ban in found)


@given(st.lists(bans, max_size=12), numbers, short, dependencies)
def test_what_is_announced_again_covers_all_above_a_number(known: list[Ban], cut: int, key: str, on: tuple[Dependency, ...]) -> None:
    """Who takes over without the last records is told of everything they concerned, and of nothing from before unless a floor hides it."""
    index = index_of(*known)
    again = index.above(cut)
    told = [Ban(targets.kind, text, 1) for targets in again for text in targets.texts]
    owed = [ban for ban in known if ban.number > cut and concerns(ban, key, on)]
    assert any(concerns(ban, key, on) for ban in told) or not owed
    newest = {(ban.kind, ban.text): max(other.number for other in known if other[:2] == ban[:2]) for ban in known}
    if (EVERYTHING, "*") not in {ban[:2] for ban in told}:
        assert all(newest[ban[:2]] > cut for ban in told if ban.kind != GLOB)


@given(st.lists(bans, max_size=12), short, dependencies)
def test_an_index_that_is_copied_ban_by_ban_says_the_same(known: list[Ban], key: str, on: tuple[Dependency, ...]) -> None:
    """As a process does that joins: all bans with their numbers, and the floors."""
    index, copy = index_of(*known), BanIndex()
    for targets, number in index.numbered():
        copy.add_all(targets, number)
    copy.raise_floors(index.floors)
    assert copy.newest(key, on) == index.newest(key, on)
    assert (copy.highest, copy.floors, len(copy)) == (index.highest, index.floors, len(index))


# --- soft bans -------------------------------------------------------------------------------------------------------------------

LONG_AGO = float("-inf")


def soft_of(*known: Ban, limit: int = 1_000) -> SoftIndex:
    """Each ban is heard of at the time that is ten times its number."""
    index = SoftIndex(limit)
    for kind, text, number in known:
        index.note(Targets(kind, (text,)), number, 10.0 * number)
    return index


@settings(max_examples=300)
@given(st.lists(bans, max_size=12, unique_by=lambda ban: ban.number), short, dependencies, st.integers(0, 40))
def test_a_value_is_stale_since_the_first_soft_ban_that_it_missed(
    known: list[Ban], key: str, on: tuple[Dependency, ...], since: int
) -> None:
    """In the order of the log: the earliest of those above its stamp that match. What depends on anything is stale since long ago."""
    known.sort(key=lambda ban: ban.number)
    missed = [10.0 * ban.number for ban in known if ban.number > since and concerns(ban, key, on)]
    expected = None if not missed else LONG_AGO if on == ANYTHING else min(missed)
    assert soft_of(*known).since(key, on, since) == expected


@settings(max_examples=300)
@example([Ban(GLOB, "*a", 1), Ban(GLOB, "*:", 2), Ban(EVERYTHING, "*", 16)], 1, "a", (), 0)
@given(st.lists(bans, max_size=25, unique_by=lambda ban: ban.number), st.integers(1, 3), short, dependencies, st.integers(0, 40))
def test_a_bounded_index_of_soft_bans_says_no_later_time(
    known: list[Ban], limit: int, key: str, on: tuple[Dependency, ...], since: int
) -> None:
    """Where a ban was dropped the time is not known: long ago."""
    known.sort(key=lambda ban: ban.number)
    missed = [10.0 * ban.number for ban in known if ban.number > since and concerns(ban, "z", (Dependency(KEY, key), *on))]
    found = soft_of(*known, limit=limit).since("z", (Dependency(KEY, key), *on), since)
    assert not missed or (found is not None and found <= min(missed))


@settings(max_examples=300)
@given(st.lists(bans, max_size=25, unique_by=lambda ban: ban.number), st.sampled_from((1, 2, 1_000)), st.integers(0, 40))
def test_the_first_of_all_soft_bans_is_no_later_than_any(known: list[Ban], limit: int, above: int) -> None:
    """Whatever they match: exactly, where nothing had to be dropped."""
    known.sort(key=lambda ban: ban.number)
    missed = [10.0 * ban.number for ban in known if ban.number > above]
    found = soft_of(*known, limit=limit).first_above(above)
    if limit == 1_000:
        assert found == min(missed, default=None)
    assert not missed or (found is not None and found <= min(missed))


@settings(max_examples=300)
@given(
    st.lists(bans, max_size=12, unique_by=lambda ban: ban.number),
    st.sampled_from((1, 2, 1_000)),
    short,
    dependencies,
    st.integers(0, 40),
    st.integers(0, 40),
)
def test_a_soft_ban_between_two_numbers_is_found(
    known: list[Ban], limit: int, key: str, on: tuple[Dependency, ...], above: int, most: int
) -> None:
    """Exactly, where nothing had to be dropped and what the value depends on is told apart; else one too many."""
    known.sort(key=lambda ban: ban.number)
    missed = any(above < ban.number <= most and concerns(ban, key, on) for ban in known)
    found = soft_of(*known, limit=limit).lies_between(key, on, above, most)
    assert found or not missed
    assert found == missed or limit < 1_000 or (on == ANYTHING and above < most)


@pytest.mark.parametrize("kind", KINDS)
def test_a_soft_ban_that_was_read_may_lie_between_any_two_numbers(kind: Kind) -> None:
    """Only the newest number is known of what another process has announced while this one heard nothing."""
    text = {KEY: "a", TAG: "t", PREFIX: "a", GLOB: "a*", EVERYTHING: "*"}[kind]
    on = (Dependency(TAG, "t"),)
    index = SoftIndex()
    index.add_all(Targets(kind, (text,)), 5)
    assert [index.lies_between("a", on, above, 3) for above in (2, 3)] == [True, False]
    index.note(Targets(kind, (text,)), 7, 70.0)
    assert [index.lies_between("a", on, above, most) for above, most in ((2, 3), (6, 6), (7, 9))] == [True, False, False]


def test_of_many_renewals_of_a_soft_ban_some_may_be_forgotten() -> None:
    index = soft_of(*(Ban(TAG, "t", number) for number in range(2, 4 * TIMES_OF_A_BAN, 2)))
    on = (Dependency(TAG, "t"),)
    assert all(index.lies_between("x", on, above, above + 1) for above in range(1, 4 * TIMES_OF_A_BAN - 3))


def test_the_time_of_a_soft_ban_that_was_read_is_not_that_of_the_next() -> None:
    """Of what another process has announced while this one heard nothing, only the number is known. Later ones do not make it later."""
    tagged = Targets(TAG, ("t",), SOFT)
    on = (Dependency(TAG, "t"),)
    index = soft_of(Ban(TAG, "t", 9))
    index.add_all(tagged, 12)
    assert [index.since("x", on, since) for since in (0, 10, 12)] == [LONG_AGO, LONG_AGO, None]
    index.note(tagged, 15, 150.0)
    assert [index.since("x", on, since) for since in (0, 10, 12, 15)] == [90.0, LONG_AGO, 150.0, None]
    index.raise_floors(Floors(all=17))
    index.note(Targets(EVERYTHING, ("*",), SOFT), 18, 180.0)
    assert [index.since("y", (), since) for since in (0, 16, 17, 18)] == [LONG_AGO, LONG_AGO, 180.0, None]


def test_many_renewals_of_a_soft_ban_are_told_apart_roughly() -> None:
    """Its first time and its newest ones are kept; in between the earlier time counts for two."""
    index = soft_of(*(Ban(TAG, "t", number) for number in range(1, 10 * TIMES_OF_A_BAN)))
    on = (Dependency(TAG, "t"),)
    last = 10 * TIMES_OF_A_BAN - 1
    times = [index.since("x", on, since) for since in range(last)]
    assert times[0] == 10.0
    assert times[-1] == 10.0 * last
    assert all(at is not None and at <= 10.0 * (since + 1) for since, at in enumerate(times))
    assert times == sorted(times, key=lambda at: at or 0.0)
    assert len(set(times)) == TIMES_OF_A_BAN
    assert index.since("x", on, last) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_soft_ban_that_was_read_from_the_shared_layer_has_no_time(kind: Kind) -> None:
    """When it happened is not known here: what it concerns is not served stale. The next one has a time again."""
    text = {KEY: "a", TAG: "t", PREFIX: "a", GLOB: "a*", EVERYTHING: "*"}[kind]
    on = (Dependency(TAG, "t"),)
    index = soft_of(Ban(kind, text, 3))
    index.add_all(Targets(kind, (text,)), 5)
    assert index.since("a", on, 2) == LONG_AGO
    index.note(Targets(kind, (text,)), 7, 70.0)
    assert index.since("a", on, 6) == 70.0
    assert index.since("a", on, 7) is None


def test_a_floor_of_soft_bans_has_no_time() -> None:
    """Only what could have been meant is below it. A dropped ban on a key may have been on this very one, which stays where it is."""
    tagged = (Dependency(TAG, "t"),)
    for floors, untagged in ((Floors(tags=5), None), (Floors(keys=5), LONG_AGO), (Floors(all=5), LONG_AGO)):
        index = SoftIndex()
        index.raise_floors(floors)
        assert index.since("a", (), 4) == untagged
        assert index.since("a", tagged, 4) == LONG_AGO
        assert index.since("a", (), 5) is None
        assert index.since("a", tagged, 5) is None


def test_a_record_bans_all_its_texts_under_one_number() -> None:
    """One call, one number, many texts."""
    index = BanIndex()
    index.add_all(Targets(TAG, ("a", "b")), 4)
    index.add_all(Targets(EVERYTHING, ()), 2)
    assert [index.newest("x", (Dependency("t", text),)) for text in "abc"] == [4, 4, 2]


def test_a_hundred_thousand_bans_leave_a_question_small() -> None:
    """A question looks once for the key, once for each tag and once for each length a prefix has: here it meets no other ban."""
    index = BanIndex(limit=200_000)
    for number in range(1, 100_001):
        index.add(TAG, f"tag:{number}", number)
        index.add(PREFIX, f"p{number:05}:", number)
    key = Watched("p00017:x")
    assert index.newest(key, (Dependency("t", "tag:40000"),)) == 40_000
    assert len(key.looked) <= 2
