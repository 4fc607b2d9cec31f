"""Entity tags and dates: how they are written, what is read of a field, and when two are the same (RFC 9110, 8.8.3 and 5.6.7)."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesync.core.etag import MOST_TAGS, EntityTag, content_tag, read_tag, read_tags
from cachesync.core.http_date import read_date

OPAQUE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters='"' + "".join(map(chr, range(0x7F, 0x80)))))
TAGS = st.builds(EntityTag, OPAQUE, st.booleans())


@pytest.mark.parametrize(
    ("one", "other", "strongly", "weakly"),
    [
        ('W/"1"', 'W/"1"', False, True),
        ('W/"1"', 'W/"2"', False, False),
        ('W/"1"', '"1"', False, True),
        ('"1"', '"1"', True, True),
        ('"1"', '"2"', False, False),
    ],
)
def test_tags_are_compared_as_the_rfc_says(one: str, other: str, strongly: bool, weakly: bool) -> None:
    """The table of RFC 9110, 8.8.3.2."""
    first, second = read_tag(one), read_tag(other)
    assert first is not None and second is not None
    assert first.matches_strongly(second) is strongly and second.matches_strongly(first) is strongly
    assert first.matches_weakly(second) is weakly and second.matches_weakly(first) is weakly


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("*", None),
        (" * ", None),
        ('"a"', ["a"]),
        ('"a", W/"b","c"', ["a", "b", "c"]),
        (',, "a" ,,\t"b",', ["a", "b"]),
        ('"a,b"', ["a,b"]),
        ('""', [""]),
        ("", []),
        ("a", []),
        ('"a" "b"', []),
        ('"a", b, "c"', ["a"]),
        ('w/"a"', []),
        ('W/ "a"', []),
        ('"a', []),
        ('"a b"', []),
        ('*, "a"', []),
        ('"a", *', ["a"]),
        ('"ÿ"', ["ÿ"]),
    ],
)
def test_a_list_is_read_up_to_where_it_can_not_be_read(text: str, found: list[str] | None) -> None:
    """What follows that place may belong to a tag that was cut, so it matches nothing."""
    tags = read_tags(text)
    assert tags.is_any is (found is None)
    assert [tag.opaque for tag in tags.listed] == (found or [])


@given(st.lists(TAGS, max_size=5))
def test_what_is_written_is_read_again(tags: list[EntityTag]) -> None:
    """One tag and a list of them."""
    assert list(read_tags(", ".join(map(str, tags))).listed) == tags
    assert all(read_tag(str(tag)) == tag for tag in tags)


@given(st.binary(max_size=300))
def test_any_bytes_can_be_read(field: bytes) -> None:
    """Never an exception."""
    text = field.decode("latin-1")
    read_tags(text)
    read_tag(text)
    read_date(text)


def test_a_field_with_very_many_tags_is_read_as_far_as_a_thousand() -> None:
    """A client's header can not keep the server busy."""
    assert len(read_tags(", ".join(f'"{number}"' for number in range(5_000))).listed) == MOST_TAGS


def test_a_tag_is_the_same_everywhere_and_bound_to_what_it_names() -> None:
    """To the bytes, the resource, the coding and the schema: pinned, so that processes of two versions agree."""
    tag = content_tag(b"body", target="/stores", coding="gzip", schema="stores=3")
    assert str(tag) == '"776a1c6acbc48240625173cc66d6be29"'
    others = {
        content_tag(b"bodi", target="/stores", coding="gzip", schema="stores=3"),
        content_tag(b"body", target="/stores?a", coding="gzip", schema="stores=3"),
        content_tag(b"body", target="/stores", coding="br", schema="stores=3"),
        content_tag(b"body", target="/stores", schema="stores=3"),
        content_tag(b"body", target="/stores", coding="gzip", schema="stores=4"),
    }
    assert len({tag, *others}) == 6
    assert content_tag(memoryview(b"body"), target="/stores", coding=" GZIP ", schema="stores=3") == tag


@pytest.mark.parametrize(
    ("text", "year"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 1994),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 1994),
        ("Sun Nov  6 08:49:37 1994", 1994),
    ],
)
def test_the_three_forms_of_a_date_are_read(text: str, year: int) -> None:
    """Those of RFC 9110, 5.6.7."""
    seconds = datetime(year, 11, 6, 8, 49, 37, tzinfo=UTC).timestamp()
    assert read_date(text, now=datetime(2026, 1, 1, tzinfo=UTC).timestamp()) == seconds


def test_a_year_of_two_digits_is_at_most_fifty_years_ahead() -> None:
    """RFC 9110, 5.6.7: one that seems further ahead is of the century before."""
    now = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    found = [read_date(f"Sunday, 06-Nov-{year} 08:49:37 GMT", now=now) for year in ("26", "76", "77")]
    assert [datetime.fromtimestamp(seconds, UTC).year for seconds in found if seconds is not None] == [2026, 2076, 1977]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "now",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 CET",
        "Sun, 31 Feb 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 25:49:37 GMT",
        "Sun, 06 Xyz 1994 08:49:37 GMT",
        "1994-11-06T08:49:37Z",
        "Sun, 06 Nov 0000 08:49:37 GMT",
    ],
)
def test_what_is_no_date_is_none(text: str) -> None:
    """A condition with it counts for nothing."""
    assert read_date(text) is None


@given(st.integers(0, 253_402_300_799))
def test_a_date_as_the_standard_library_writes_it_is_read(seconds: int) -> None:
    """To the year 9999."""
    assert read_date(formatdate(seconds, usegmt=True)) == seconds
