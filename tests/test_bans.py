"""Bans: what is dead after an invalidation, and how that is remembered."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachesync.core.bans import MAX_GLOBS_OF_A_PREFIX, BanIndex
from cachesync.core.entry import Dependency
from cachesync.core.records import EVERYTHING, GLOB, KEY, PREFIX, TAG, Kind, Targets


class Ban(NamedTuple):
    kind: Kind
    text: str
    number: int


def concerns(ban: Ban, key: str, dependencies: tuple[Dependency, ...]) -> bool:
    """The rule of `cachesync.core.bans`, said as plainly as possible."""
    match ban.kind:
        case "*":
            return True
        case "k":
            return ban.text == key or Dependency("k", ban.text) in dependencies
        case "t":
            return Dependency("t", ban.text) in dependencies
        case "p":
            return key.startswith(ban.text)
        case "g":
            return re.fullmatch(".*".join(map(re.escape, ban.text.split("*"))), key, re.DOTALL) is not None


short = st.text("ab:\n", min_size=1, max_size=4)
globs = st.lists(st.text("ab:\n", max_size=2), min_size=2, max_size=4).map("*".join).filter(lambda text: text.strip("*") != "")
numbers = st.integers(1, 40)
bans = st.one_of(
    st.builds(Ban, st.sampled_from((KEY, TAG, PREFIX)), short, numbers),
    st.builds(Ban, st.just(GLOB), globs, numbers),
    st.builds(Ban, st.just(EVERYTHING), st.just("*"), numbers),
)
dependencies = st.lists(st.builds(Dependency, st.sampled_from(("t", "k")), short), max_size=3).map(tuple)


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
    """What it can not remember it counts as dead: more than was asked for may go, never less."""
    index = index_of(*known, limit=limit)
    assert index.newest(key, on) >= max((ban.number for ban in known if concerns(ban, key, on)), default=0)
    assert index.newest(key, on) <= max((ban.number for ban in known), default=0)


@settings(max_examples=300)
@given(st.lists(bans, max_size=12), short, dependencies, numbers)
def test_only_its_own_announcement_spares_an_entry(known: list[Ban], key: str, on: tuple[Dependency, ...], own: int) -> None:
    """An entry that was ``set`` is not refused by the record that announced it, and by every other one."""
    others = [ban for ban in known if ban.number != own]
    newest = index_of(*others, Ban(KEY, key, own)).newest(key, on, own=own)
    own_as_dependency = own if Dependency("k", key) in on else 0
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
    assert index_of(Ban(PREFIX, "a", 5)).newest("b", (Dependency("t", "a"), Dependency("k", "ab"))) == 0


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
    index.raise_floor(5)
    assert index.floor == 9
    index.raise_floor(12)
    assert (index.floor, index.highest) == (12, 12)


@pytest.mark.parametrize("kind", [KEY, TAG, PREFIX])
def test_the_oldest_ban_makes_room_and_raises_the_floor(kind: Kind) -> None:
    """One that was renewed meanwhile is young again."""
    index = index_of(Ban(kind, "a", 1), Ban(kind, "b", 2), Ban(kind, "c", 3), Ban(kind, "a", 4), limit=3)
    assert (len(index), index.floor) == (3, 0)
    index.add(kind, "d", 5)
    assert (len(index), index.floor) == (3, 2)
    on = tuple(Dependency("t", text) for text in "abcd")
    assert index.newest("z", ()) == 2
    assert index.newest("a", on[:1]) == 4


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
        assert index.highest >= index.floor
    for kind in (KEY, TAG, PREFIX, GLOB):
        own = {ban for ban in known if ban.kind == kind}
        assert len(index_of(*own, limit=limit)) <= limit
    for ban in known:
        key = ban.text.replace("*", "")
        on = (Dependency(TAG, ban.text),) if ban.kind == TAG else ()
        assert index.newest(key, on) >= ban.number


@pytest.mark.parametrize("star", ["", "*z"])
def test_a_length_that_no_prefix_has_any_more_is_not_looked_up(star: str) -> None:
    """A question looks once for each length: those of forgotten prefixes do not slow it for ever."""
    kind: Kind = GLOB if star else PREFIX
    index = index_of(*(Ban(kind, "a" * number + star, number) for number in range(1, 101)), limit=3)
    key = Watched("b" * 100)
    assert index.newest(key, ()) == 97
    assert len(key.looked) <= 3


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
