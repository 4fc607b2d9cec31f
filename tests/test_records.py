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
    HARD,
    KEY,
    KINDS,
    MODES,
    PREFIX,
    SOFT,
    TAG,
    VALUE,
    Kind,
    Mode,
    Record,
    RecordError,
    Targets,
    from_fields,
    from_message,
    targets_of,
    to_fields,
    written,
)

# Any text that Python has: NUL, emoji and lone surrogates too.
texts = st.text(st.characters())
kinds: st.SearchStrategy[Kind] = st.sampled_from(KINDS)
modes: st.SearchStrategy[Mode] = st.sampled_from(MODES)
targets = st.builds(Targets, kinds, st.lists(texts, max_size=5).map(tuple), modes)

GOOD = {
    "e": "9f86d081884c7d65", "n": "7", "c": "c1", "p": "c0", "t": "1700000000000", "m": "h", "k": "k", "x": '["stores:JKT"]', "o": "me",
}  # fmt: skip
NUMBERS = ("n", "t")


def said(fields: dict[str, str]) -> str:
    """The same fields as they are published: numbers are numbers, and the texts a list."""
    values = (f'"{name}":' + (text if name in (*NUMBERS, "x") else json.dumps(text, ensure_ascii=False)) for name, text in fields.items())
    return "{" + ",".join(values) + "}"


def on_its_way(text: str) -> str:
    """Everything has been bytes in between."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogatepass")


@given(targets, st.integers(1, 2**53), st.sampled_from(["", "c0"]), st.integers(0, 2**53))
def test_a_record_is_read_as_it_was_announced(one: Targets, number: int, previous: str, at: int) -> None:
    """Whatever its texts contain: from the stream, to which the script adds what it knows, and as it is published."""
    sent = dict(zip(("c", "m", "k", "x", "o"), to_fields(one, nonce="c1", origin="me"), strict=True))
    fields = {"e": "9f86d081884c7d65", "n": str(number), "p": previous, "t": str(at), **sent}
    record = Record("9f86d081884c7d65", number, "c1", previous, one, "me", at)
    assert from_fields({name: on_its_way(text) for name, text in fields.items()}) == record
    assert from_message(on_its_way(said(fields))) == record


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
    record = Record("9f86d081884c7d65", 7, "c1", "c0", Targets("k", ("stores:JKT",), "h"), "me", 1_700_000_000_000)
    assert from_fields(GOOD) == record
    assert said(GOOD) == ('{"e":"9f86d081884c7d65","n":7,"c":"c1","p":"c0","t":1700000000000,"m":"h","k":"k","x":["stores:JKT"],"o":"me"}')
    assert from_message(said(GOOD)) == record


def test_fields_that_a_later_release_adds_are_left_alone() -> None:
    """A reader takes what it knows."""
    more = {**GOOD, "z": "new"}
    assert from_fields(more) == from_message(said(more)) == from_fields(GOOD)


def test_a_record_need_not_say_when_it_was_appended() -> None:
    """Nothing is ordered by that time."""
    less = {name: text for name, text in GOOD.items() if name != "t"}
    assert from_fields(less).at == from_message(said(less)).at == 0


@pytest.mark.parametrize("missing", sorted(GOOD.keys() - {"t"}))
def test_a_record_that_lacks_a_field_can_not_be_read(missing: str) -> None:
    """Its reader has to rejoin, because it does not know what it missed."""
    less = {name: text for name, text in GOOD.items() if name != missing}
    with pytest.raises(RecordError, match=missing):
        from_fields(less)
    with pytest.raises(RecordError, match=missing):
        from_message(said(less))


@pytest.mark.parametrize(
    ("field", "text"),
    [
        *(("n", text) for text in ("", "x", "1.5", "1e3")),
        *(("k", text) for text in ("", "K", "kk", "?")),
        *(("m", text) for text in ("", "H", "x")),
        *(("x", text) for text in ("", "[", "{}", '"a"', "1", "null", "[1]", '["a", null]', '[["a"]]', "['a']", "[" * 100_000)),
        ("t", "now"),
    ],
)
def test_a_record_that_says_something_unknown_can_not_be_read(field: str, text: str) -> None:
    """A kind or mode of a later release is not passed over: it may be an invalidation."""
    with pytest.raises(RecordError):
        from_fields({**GOOD, field: text})
    if (field, text) not in {("n", "1.5"), ("n", "1e3")}:  # JSON has one kind of number
        with pytest.raises(RecordError):
            from_message(said({**GOOD, field: text}))


ODD_NUMBERS = ("null", "[]", "NaN", "Infinity", "1e999")
ODD_MESSAGES = ["", "{", "null", "[]", "7", '"a"', "{}", "[" * 100_000, *(said({**GOOD, "n": text}) for text in ODD_NUMBERS)]


@pytest.mark.parametrize("message", ODD_MESSAGES)
def test_a_message_of_another_shape_can_not_be_read(message: str) -> None:
    """Whoever may publish may say anything."""
    with pytest.raises(RecordError):
        from_message(message)


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


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.sampled_from([*GOOD.values(), "k", "*"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


@given(json_values | st.dictionaries(st.sampled_from([*GOOD, "z"]), json_values))
def test_any_message_is_a_record_or_refused(value: object) -> None:
    """Nothing else comes out of hearing: a record with fields of the types it is declared with, or the one error."""
    try:
        record = from_message(json.dumps(value))
    except RecordError:
        return
    assert record.targets.kind in KINDS
    assert record.targets.mode in MODES
    assert {type(record.number), type(record.at)} == {int}
    assert {type(text) for text in (record.epoch, record.nonce, record.previous, record.origin, *record.targets.texts)} == {str}


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


def test_what_was_named_can_be_written_as_it_was() -> None:
    """For events and messages: a prefix gets its star back, and everything is a star."""
    patterns, tags = ["b", "a", "a:*", "x*y", "*"], ["t", "*"]
    assert written(targets_of(patterns, tags)) == {"patterns": patterns, "tags": tags}
    assert written(()) == {"patterns": [], "tags": []}


def test_a_soft_invalidation_and_a_value_have_modes_of_their_own() -> None:
    """A soft one leaves what may be served stale."""
    assert targets_of(["a"], ["t"], SOFT) == (Targets(KEY, ("a",), "s"), Targets(TAG, ("t",), "s"))
    assert [Targets(KEY, ("a",), mode).is_soft for mode in (HARD, SOFT, VALUE)] == [False, True, False]


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
