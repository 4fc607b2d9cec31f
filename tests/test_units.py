"""Durations and sizes: what is read, what is refused, and that nothing is lost on the way."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesync.core.units import (
    LARGEST_SIZE,
    LONGEST_DURATION,
    as_written,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
    read_duration,
    read_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("250ms", 0.25),
        ("2d", 172800.0),
        ("1w", 604800.0),
        ("1.5s", 1.5),
        ("0.1s", 0.1),
        ("0s", 0.0),
        ("1w2d3h4m5s6ms", 788645.006),
        ("007s", 7.0),
        ("3650d", LONGEST_DURATION),
    ],
)
def test_a_duration_is_read_in_seconds(text: str, seconds: float) -> None:
    """Units go from weeks to milliseconds, and parts are added exactly."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("5 mins", '"5m"'),
        ("5M", '"5m"'),
        ("5min", '"5m"'),
        ("30m1h", '"1h30m"'),
        ("1 hour and 30 minutes", '"1h30m"'),
        ("1,5h", '"1.5h"'),
        ("300", '"300s"'),
        ("20m 20m", '"40m"'),
        ("5m ", '"5m"'),
        ("99999999 days", '"3650d"'),
    ],
)
def test_a_wrong_duration_is_answered_with_the_right_spelling(text: str, spelling: str) -> None:
    """What was probably meant is said, not only that it is wrong."""
    with pytest.raises(ValueError, match="is not a duration; write ") as refused:
        parse_duration(text)
    assert str(refused.value).startswith(as_written(text))
    assert str(refused.value).endswith(spelling)


@pytest.mark.parametrize(
    "text", ["", "m", "half an hour", "-5s", "1e400s", "inf", "nan", "infs", "5x", "1..5s", "٥m", "5m\n", "9" * 500 + "s", "\x00", "5m;"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """No sign, no exponent, no infinity, only ASCII digits, and nothing absurdly long."""
    with pytest.raises(ValueError, match="is not a duration; write "):
        parse_duration(text)


@pytest.mark.parametrize("value", ["3651d", "99999999999d", LONGEST_DURATION + 1, float("inf"), 10**70])
def test_ten_years_is_the_longest_duration(value: object) -> None:
    """A lifetime of centuries is a slip of the finger."""
    with pytest.raises(ValueError, match=r"longer than ten years; write at most \"3650d\""):
        read_duration(value)


@pytest.mark.parametrize("value", [True, -1, -0.001, float("nan"), None, [], {}, object(), b"5m"])
def test_only_texts_and_numbers_from_zero_on_are_durations(value: object) -> None:
    """A boolean is not a number of seconds."""
    with pytest.raises(ValueError, match="is not a duration; write "):
        read_duration(value)


@given(st.floats(min_value=0, max_value=LONGEST_DURATION))
def test_a_duration_comes_back_exactly(seconds: float) -> None:
    """Writing a duration and reading it again changes no bit of it."""
    assert parse_duration(format_duration(seconds)) == seconds
    assert str(read_duration(seconds)) == str(seconds + 0.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((300, "5m"), (5400, "1h30m"), (90, "1m30s"), (0, "0s"), (-0.0, "0s"), (1.5, "1.5s"), (60.5, "1m0.5s"), (0.25, "250ms")),
        *((604800, "1w"), (864000, "10d"), (86400, "1d"), (3600.001, "1h0.001s"), (1e-9, "0.000001ms")),
    ],
)
def test_a_duration_is_written_the_usual_way(seconds: float, text: str) -> None:
    """People recognise what they wrote."""
    assert format_duration(seconds) == text


@given(st.text(max_size=30) | st.from_regex(r"[0-9]{1,3}[a-zA-Z ]{0,6}[0-9]{0,2}[a-z]{0,3}", fullmatch=True))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    """Whatever stands in a file, nothing else comes out of reading it."""
    says = ""
    try:
        assert 0 <= parse_duration(text) <= LONGEST_DURATION
    except ValueError as refused:
        says = str(refused)
    assert says.isprintable()
    assert not says or "; write " in says


@given(
    st.text(max_size=12)
    | st.from_regex(r"[0-9]{1,3}[.,]?[0-9]{1,2} ?(mins|Minutes|HOURS|sec|days|msec|weeks|S)", fullmatch=True)
    | st.from_regex(r"([0-9]{1,7}([.,][0-9]{1,70})? ?(w|d|Hours|mins|m|s|ms)( and )?){1,3}", fullmatch=True)
)
def test_the_spelling_that_is_suggested_is_right(text: str) -> None:
    """Who follows the advice gets no second error; what it does not say exactly, it gives examples of."""
    try:
        assert 0 <= parse_duration(text) <= LONGEST_DURATION
    except ValueError as refused:
        advised = re.findall('"([^"]*)"', str(refused).rpartition("; write ")[2])
        assert advised
        assert all(parse_duration(spelling) >= 0 for spelling in advised)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("16KiB", 16384), ("256MiB", 268435456), ("1MB", 1000000), ("1kB", 1000), ("1KB", 1000), ("512B", 512), ("0B", 0)),
        *(("1.5KiB", 1536), ("1PiB", LARGEST_SIZE), ("1PB", 10**15)),
    ],
)
def test_a_size_is_read_in_bytes(text: str, size: int) -> None:
    """KiB counts by 1024 and kB by 1000."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "spelling"),
    [("16K", '"16KiB"'), ("16 kib", '"16KiB"'), ("64mb", '"64MB"'), ("1024", '"1024B"'), ("12 bytes", '"12B"'), ("1,5 GiB", '"1.5GiB"')],
)
def test_a_wrong_size_is_answered_with_the_right_spelling(text: str, spelling: str) -> None:
    """What was probably meant is said."""
    with pytest.raises(ValueError, match="is not a size; write ") as refused:
        parse_size(text)
    assert str(refused.value).endswith(spelling)


@pytest.mark.parametrize("value", ["", "big", "-1B", "1e3B", "0.3B", "2PiB", 2**51, -1, 1.0, True, None, [], "9" * 500 + "B", 10**70])
def test_what_is_no_size_is_refused(value: object) -> None:
    """Whole bytes from none to one PiB; a boolean and a fraction are no sizes."""
    with pytest.raises(ValueError, match="; write "):
        read_size(value)


def test_a_number_that_python_would_not_print_is_refused() -> None:
    """Thousands of digits are turned away before anybody tries to show them."""
    for read in (read_size, read_duration):
        with pytest.raises(ValueError, match="a number of more than 60 digits is l"):
            read(10**5000)


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("0.3 b", '"1B"'),
        ("0.3B", '"1B"'),
        ("1.0001 kib", '"1025B"'),
        ("2 pib", '"1PiB"'),
        ("9" * 500, '"1PiB"'),
        (f"1.{'0' * 70} kib", '"1KiB"'),
    ],
)
def test_a_size_that_can_not_be_is_answered_with_the_next_that_can(text: str, spelling: str) -> None:
    """Part of a byte becomes a byte, too many become as many as are allowed, and the advice is never cut short."""
    with pytest.raises(ValueError, match="; write ") as refused:
        parse_size(text)
    assert str(refused.value).endswith(spelling)


@given(st.text(max_size=12) | st.from_regex(r"[0-9]{0,20}([.,][0-9]{1,70})? ?([kKmMgGtTpP]?(i?[bB])?|bytes?|Byte)\n?", fullmatch=True))
def test_the_size_that_is_suggested_is_right(text: str) -> None:
    """Who follows the advice gets no second error; what it does not say exactly, it gives examples of."""
    try:
        assert 0 <= parse_size(text) <= LARGEST_SIZE
    except ValueError as refused:
        advised = re.findall('"([^"]*)"', str(refused).rpartition("; write ")[2])
        assert advised
        assert all(parse_size(spelling) >= 0 for spelling in advised)


@given(st.integers(min_value=0, max_value=LARGEST_SIZE))
def test_a_size_comes_back_exactly(size: int) -> None:
    """Writing a size and reading it again changes nothing."""
    assert parse_size(format_size(size)) == read_size(size) == size


@pytest.mark.parametrize(("size", "text"), [(16384, "16KiB"), (10**6, "1MB"), (1001, "1001B"), (0, "0B"), (2**50, "1PiB")])
def test_a_size_is_written_the_usual_way(size: int, text: str) -> None:
    """The unit that needs the smallest number is taken."""
    assert format_size(size) == text


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.times(), st.lists, max_leaves=3))
def test_a_value_is_shown_short_and_on_one_line(value: object) -> None:
    """An error message stays readable, whatever was written."""
    shown = as_written(value)
    assert shown.isprintable()
    assert len(shown) < 800


def test_a_url_is_shown_without_what_may_be_a_password() -> None:
    """Only its scheme is repeated."""
    assert as_written("redis://:s3cret@host/0") == '"redis://..."'
