"""Dates in HTTP fields (RFC 9110, 5.6.7): seconds since 1970, UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_TIME: Final = r"(?P<hour>\d{2}):(?P<minute>\d{2}):(?P<second>\d{2})"
_FORMS: Final = tuple(
    re.compile(form, re.ASCII)
    for form in (
        rf"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (?P<day>\d{{2}}) (?P<month>[A-Z][a-z]{{2}}) (?P<year>\d{{4}}) {_TIME} GMT",
        rf"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, (?P<day>\d{{2}})-(?P<month>[A-Z][a-z]{{2}})-(?P<year>\d{{2}}) {_TIME} GMT",
        rf"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) (?P<month>[A-Z][a-z]{{2}}) (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})",
    )
)
"""IMF-fixdate, which is what is sent today; the dates of RFC 850 and of C's asctime."""


def read_date(text: str, *, now: float = 0.0) -> float | None:
    """Seconds since 1970; ``None`` for what is no date of the three forms.

    The two digits of a year are of the century that makes it at most 50 years after ``now`` (seconds since 1970).
    """
    text = text.strip(" \t")
    found = next(filter(None, (form.fullmatch(text) for form in _FORMS)), None)
    if found is None or found["month"] not in _MONTHS:
        return None
    year = int(found["year"])
    month, day = _MONTHS.index(found["month"]) + 1, int(found["day"])
    hour, minute, second = int(found["hour"]), int(found["minute"]), int(found["second"])
    try:
        if len(found["year"]) == 2:
            this = datetime.fromtimestamp(now, UTC).year
            year += this - this % 100
            year -= 100 if year > this + 50 else 0
        return datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC).timestamp() + (second == 60)
    except (ValueError, OverflowError, OSError):
        return None
