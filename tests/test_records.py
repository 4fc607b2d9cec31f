"""Records of the log: what an invalidation is called on its way to every process."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesync.core.records import (
    EVERYTHING,
    GLOB,
    KEY,
    KINDS,
    MODES,
    PREFIX,
    TAG,
    Kind,
    Mode,
    Record,
    RecordError,
    Targets,
    from_fields,
    targets_of,
    to_fields,
)

# Any text that Python has: NUL, emoji and lone surrogates too.
texts = st.text(st.characters())
kinds: st.SearchStrategy[Kind] = st.sampled_from(KINDS)
modes: st.SearchStrategy[Mode] = st.sampled_from(MODES)
targets = st.builds(Targets, kinds, st.lists(texts, max_size=5).map(tuple), modes)

GOOD = {"e": "9f86d081884c7d65", "n": "7", "c": "c1", "p": "c0", "m": "h", "k": "k", "x": '["stores:JKT"]', "o": "me"}


def through_the_stream(one: Targets, *, nonce: str, origin: str, epoch: str, number: int, previous: str) -> dict[str, str]:
    """The fields as a reader finds them: what the script adds is added, and everything has been bytes on its way."""
    names = ("c", "m", "k", "x", "o")
    sent = dict(zip(names, to_fields(one, nonce=nonce, origin=origin), strict=True))
    fields = {"e": epoch, "n": str(number), "p": previous, **sent}
    return {name: text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogatepass") for name, text in fields.items()}


@given(targets, st.integers(1, 2**53), st.sampled_from(["", "c0"]))
def test_a_record_is_read_as_it_was_announced(one: Targets, number: int, previous: str) -> None:
    """Whatever its texts contain."""
    fields = through_the_stream(one, nonce="c1", origin="me", epoch="9f86d081884c7d65", number=number, previous=previous)
    assert from_fields(fields) == Record("9f86d081884c7d65", number, "c1", previous, one, "me")


def test_the_fields_of_a_record_are_pinned() -> None:
    """Processes of several releases read one log: names, letters and order do not change."""
    assert to_fields(Targets(KEY, ("stores:JKT", "é😀\0")), nonce="c1", origin="me") == (
        "c1",
        "h",
        "k",
        '["stores:JKT","é😀\\u0000"]',
        "me",
    )
    assert (KEY, TAG, PREFIX, GLOB, EVERYTHING) == ("k", "t", "p", "g", "*")
    assert MODES == ("h", "s", "v")
    assert from_fields(GOOD) == Record("9f86d081884c7d65", 7, "c1", "c0", Targets("k", ("stores:JKT",), "h"), "me")


def test_fields_that_a_later_release_adds_are_left_alone() -> None:
    """A reader takes what it knows."""
    assert from_fields({**GOOD, "z": "new"}) == from_fields(GOOD)


@pytest.mark.parametrize("missing", sorted(GOOD))
def test_a_record_that_lacks_a_field_can_not_be_read(missing: str) -> None:
    """Its reader has to rejoin, because it does not know what it missed."""
    with pytest.raises(RecordError, match=missing):
        from_fields({name: text for name, text in GOOD.items() if name != missing})


@pytest.mark.parametrize(
    ("field", "text"),
    [
        *(("n", text) for text in ("", "x", "1.5", "1e3")),
        *(("k", text) for text in ("", "K", "kk", "?")),
        *(("m", text) for text in ("", "H", "x")),
        *(("x", text) for text in ("", "[", "{}", '"a"', "1", "null", "[1]", '["a", null]', '[["a"]]', "['a']", "[" * 100_000)),
    ],
)
def test_a_record_that_says_something_unknown_can_not_be_read(field: str, text: str) -> None:
    """A kind or mode of a later release is not passed over: it may be an invalidation."""
    with pytest.raises(RecordError):
        from_fields({**GOOD, field: text})


@given(st.dictionaries(st.sampled_from([*GOOD, "z"]), texts | st.sampled_from([*GOOD.values(), "[]", '["a"]', "*", "t"])))
def test_any_fields_are_a_record_or_refused(fields: dict[str, str]) -> None:
    """Nothing else comes out of reading: no other exception, no half record."""
    try:
        record = from_fields(fields)
    except RecordError:
        return
    assert record.targets.kind in KINDS
    assert record.targets.mode in MODES
    assert all(isinstance(text, str) for text in record.targets.texts)
    assert list(record.targets.texts) == json.loads(fields["x"])


def test_what_a_caller_names_becomes_one_record_of_each_kind() -> None:
    """Keys, tags, prefixes, globs, everything, in that order; a prefix loses its star; what is named twice is said once."""
    assert targets_of(["b", "a:*", "x*y", "b", "*", "a", "a:**"], ["t", "u", "t"]) == (
        Targets(KEY, ("b", "a")),
        Targets(TAG, ("t", "u")),
        Targets(PREFIX, ("a:",)),
        Targets(GLOB, ("x*y",)),
        Targets(EVERYTHING, ("*",)),
    )
    assert targets_of([], []) == ()
    assert targets_of([], ["only"]) == (Targets(TAG, ("only",)),)


def test_a_tag_may_look_like_a_pattern() -> None:
    """Tags are names: nothing in them is special."""
    assert targets_of([], ["*", "a*", "a:b"]) == (Targets(TAG, ("*", "a*", "a:b")),)


@pytest.mark.parametrize(("patterns", "tags"), [([""], []), (["a", ""], []), ([], [""]), ([], ["a", ""])])
def test_nothing_can_not_be_named(patterns: list[str], tags: list[str]) -> None:
    """An empty text is a mistake of its caller, not an invalidation of nothing."""
    with pytest.raises(ValueError):
        targets_of(patterns, tags)


def test_targets_are_values() -> None:
    """Two that say the same are equal, so that a queue can tell."""
    same: list[Any] = [Targets(KEY, ("a",)), Targets(KEY, ("a",), "h")]
    assert len(set(same)) == 1
    assert Targets(KEY, ("a",), "s") != Targets(KEY, ("a",))
