"""Patterns over keys, and what they have in common with key templates."""

from __future__ import annotations

import re
from functools import cache
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachesync.core.patterns import DIGITS, HOLE, Pattern, covers, intersects

SMALL = st.text("ab:*", min_size=1, max_size=7)
SHAPES = st.text("a1:" + HOLE + DIGITS, max_size=5)


@pytest.mark.parametrize(
    ("text", "kind", "prefix", "literals", "normal"),
    [
        ("stores:JKT", "key", "stores:JKT", 10, "stores:JKT"),
        ("stores:*", "prefix", "stores:", 7, "stores:*"),
        ("stores:**", "prefix", "stores:", 7, "stores:*"),
        ("*", "everything", "", 0, "*"),
        ("***", "everything", "", 0, "*"),
        ("*:stats", "glob", "", 6, "*:stats"),
        ("a*b", "glob", "a", 2, "a*b"),
        ("a*b*", "glob", "a", 2, "a*b*"),
        ("**a***b**", "glob", "", 2, "*a*b*"),
    ],
)
def test_a_pattern_knows_its_kind_and_how_specific_it_is(text: str, kind: str, prefix: str, literals: int, normal: str) -> None:
    """Stars in a row are one star; the literal characters are counted."""
    pattern = Pattern.parse(text)
    assert (pattern.kind, pattern.prefix, pattern.literals, pattern.text) == (kind, prefix, literals, normal)
    assert pattern == Pattern.parse(normal)
    assert hash(pattern) == hash(Pattern(normal))


@pytest.mark.parametrize("text", ["", "a\x00b", "\x01", "*\x00"])
def test_an_empty_pattern_and_the_marks_of_shapes_are_refused(text: str) -> None:
    """No key is meant by them."""
    with pytest.raises(ValueError, match="pattern"):
        Pattern.parse(text)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("users:*", ["users:", "users:1", "users:1:x"], ["usersAbc", "users", "Users:1", ""]),
        ("*:stats", [":stats", "a:b:stats"], ["stats", "a:stats:b"]),
        ("a*a", ["aa", "aba"], ["a", "ab"]),
        ("ab*ba", ["abba"], ["aba"]),
        ("*aa*a*", ["aaa", "xaaya"], ["aa"]),
        ("[x]?.*", ["[x]?.", "[x]?.y"], ["x1."]),
        ("a b*", ["a b", "a b c"], ["ab"]),
        ("*", ["", "\n", "🙂"], []),
    ],
)
def test_the_star_is_the_only_wildcard_and_crosses_colons(pattern: str, yes: list[str], no: list[str]) -> None:
    """Brackets, dots and question marks are literal; pieces do not overlap."""
    parsed = Pattern.parse(pattern)
    assert all(map(parsed.matches, yes))
    assert not any(map(parsed.matches, no))


@given(SMALL, st.text("ab:", max_size=9))
def test_matching_agrees_with_a_regular_expression(pattern: str, key: str) -> None:
    """The quick search finds what the plain definition says."""
    plain = ".*".join(map(re.escape, pattern.split("*")))
    assert Pattern.parse(pattern).matches(key) == (re.fullmatch(plain, key) is not None)


def test_matching_does_not_blow_up() -> None:
    """A pattern of a thousand stars against a long key that nearly fits ends at once."""
    assert not Pattern.parse("*a" * 1000 + "*c").matches("a" * 100_000 + "b")


@cache
def keys_of(shape: str) -> frozenset[str]:
    """The keys of a shape of up to four characters over a small alphabet, spelled out."""
    alphabet = "a1:"
    whole = [""] + ["".join(letters) for size in range(1, 5) for letters in product(alphabet, repeat=size)]
    meanings = {"*": "[a1:]*", HOLE: "[a1]*", DIGITS: "1+"}
    plain = re.compile("".join(meanings.get(symbol, re.escape(symbol)) for symbol in shape))
    return frozenset(key for key in whole if plain.fullmatch(key))


@settings(max_examples=500)
@given(st.text("a1:*" + HOLE + DIGITS, max_size=4), st.text("a1:*" + HOLE + DIGITS, max_size=4))
def test_intersecting_agrees_with_trying_all_keys(a: str, b: str) -> None:
    """Two texts intersect when one short key is in both; no shortest common key is longer than both texts together."""
    found = intersects(a, b)
    assert found == intersects(b, a)
    if keys_of(a) & keys_of(b):
        assert found
    elif len(a.replace("*", "").replace(HOLE, "") + b.replace("*", "").replace(HOLE, "")) <= 4:
        assert not found


@settings(max_examples=500)
@given(SMALL, SMALL)
def test_a_look_at_both_ends_tells_whether_patterns_overlap(a: str, b: str) -> None:
    """The quick answer for two patterns is the one of the automata, from both sides."""
    assert Pattern.parse(a).overlaps(Pattern.parse(b)) == Pattern.parse(b).overlaps(Pattern.parse(a)) == intersects(a, b)


@given(SMALL, SHAPES)
def test_a_covered_shape_has_only_matching_keys(text: str, shape: str) -> None:
    """Filling the holes of a covered shape gives keys that the pattern matches, and some filling of another does not."""
    pattern = Pattern.parse(text)
    fillings = [("", "7"), ("a", "1"), ("zz", "-0"), ("~", "39"), ("b", "10")]
    keys = [shape.replace(HOLE, hole).replace(DIGITS, digits) for hole, digits in fillings]
    if covers(pattern, shape):
        assert all(map(pattern.matches, keys))
        assert intersects(pattern.text, shape)
    else:
        assert not pattern.matches(keys[3])


@pytest.mark.parametrize(
    ("pattern", "shape", "covered", "touched"),
    [
        ("stores:*", f"stores:{HOLE}", True, True),
        ("stores:*", f"stores:{HOLE}:stats:{DIGITS}", True, True),
        ("stores:JKT", f"stores:{HOLE}", False, True),
        ("stores:*:stats", f"stores:{HOLE}", False, False),
        ("stores:*:stats:*", f"stores:{HOLE}:stats:{DIGITS}", True, True),
        ("*:stats", f"{HOLE}:stats", True, True),
        ("contact:0*", f"contact:{DIGITS}", False, True),
        ("contact:x*", f"contact:{DIGITS}", False, False),
        ("contact:", f"contact:{DIGITS}", False, False),
        ("contact:", f"contact:{HOLE}", False, True),
        ("users:*", f"usersAbc{HOLE}", False, False),
        ("*", "", True, True),
    ],
)
def test_a_pattern_covers_touches_or_misses_a_template(pattern: str, shape: str, covered: bool, touched: bool) -> None:
    """A hole holds no colon, and digits are at least one."""
    assert covers(Pattern.parse(pattern), shape) is covered
    assert intersects(pattern, shape) is touched


def test_intersecting_takes_polynomial_time() -> None:
    """A thousand stars, or three hundred pieces on both sides, are no trap."""
    assert intersects("*" * 1000, "*" * 1000)
    assert intersects(HOLE * 1000, DIGITS * 1000)
    assert not intersects("*a" * 150 + "b", "*a" * 150 + "c")
