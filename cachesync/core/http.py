"""What HTTP is told of an answer, and what its conditions come to: values in, values out, the same for every door.

Fields are pairs of a name and a value, as texts of Latin-1, which every byte has a place in: whatever bytes a client sends can be read,
and no door can fail at them. The rules stand with the sections that they come from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from cachesync.core.etag import EntityTag, read_tag, read_tags
from cachesync.core.http_date import read_date
from cachesync.core.stamps import Stamp

Pairs = Sequence[tuple[str, str]]
"""Fields in their order, names as they were written."""

STAMP: Final = "Cachesync-Stamp"
"""The position of the log that an answer is not older than, and that a write was given."""
AT_LEAST: Final = "Cachesync-At-Least"
"""Of a request: nothing older than this stamp will do."""
LIFETIME: Final = "Cachesync-Cache-Control"
"""What the managed client may keep: a targeted field in the manner of RFC 9213, 2."""
GROUPS: Final = "Cache-Groups"
INVALIDATED: Final = "Cache-Group-Invalidation"
"""RFC 9875, 2 and 3."""

LONGEST: Final = 2**31
"""Seconds: no lifetime is written as more (RFC 9111, 1.2.2)."""
SAFE: Final = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
"""Methods that change nothing (RFC 9110, 9.2.1)."""
READS: Final = frozenset(("GET", "HEAD"))


class Fields:
    """Fields by name, whatever its case. Several lines of one name are one value, joined with commas (RFC 9110, 5.3)."""

    __slots__ = ("_values",)

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._values: dict[str, str] = {}
        for name, value in pairs:
            name = name.lower()
            before = self._values.get(name)
            self._values[name] = value if before is None else f"{before}, {value}"

    def get(self, name: str) -> str | None:
        """The value, ``None`` where there is no such field. ``name`` is in small letters."""
        return self._values.get(name)

    def __contains__(self, name: str) -> bool:
        return name in self._values


class Verdict(IntEnum):
    """What the conditions of a request come to: go on, or the status to answer with."""

    GO_ON = 0
    NOT_MODIFIED = 304
    PRECONDITION_FAILED = 412
    PRECONDITION_REQUIRED = 428


class Current(NamedTuple):
    """What stands at the target of a request now: the validators of its representation, where those are known.

    ``modified`` is ``Last-Modified``, seconds since 1970. ``exists`` is False where there is none (a GET would be told 404).
    """

    tag: EntityTag | None = None
    modified: float | None = None
    exists: bool = True


CONDITIONS: Final = ("if-match", "if-none-match", "if-unmodified-since", "if-modified-since")


def is_conditional(request: Fields) -> bool:
    """Whether the request has a condition. ``If-Range`` is none in this sense: it only says what to make of ``Range``."""
    return any(name in request for name in CONDITIONS)


def judge(method: str, request: Fields, current: Current, *, now: float = 0.0, must_match: bool = False) -> Verdict:
    """What the conditions of a request come to, in the order of RFC 9110, 13.2.2.

    To be asked only where the answer would be one of success (RFC 9110, 13.2.1), and of a write before it has done anything. ``must_match``
    wants a condition of every write: 428 where there is none (RFC 6585, 3). ``now`` is seconds since 1970.
    """
    if must_match and method not in SAFE and not any(name in request for name in ("if-match", "if-none-match", "if-unmodified-since")):
        return Verdict.PRECONDITION_REQUIRED
    if (wanted := request.get("if-match")) is not None:  # 13.1.1
        tags, tag = read_tags(wanted), current.tag
        matches = current.exists if tags.is_any else tag is not None and any(one.matches_strongly(tag) for one in tags.listed)
        if not (matches and current.exists):
            return Verdict.PRECONDITION_FAILED
    elif (since := _date(request, "if-unmodified-since", now)) is not None:  # 13.1.4
        if not current.exists or (current.modified is not None and current.modified > since):
            return Verdict.PRECONDITION_FAILED
    if (known := request.get("if-none-match")) is not None:  # 13.1.2
        if current.exists and _is_known(known, current.tag):
            return Verdict.NOT_MODIFIED if method in READS else Verdict.PRECONDITION_FAILED
    elif method in READS and (since := _date(request, "if-modified-since", now)) is not None:  # 13.1.3
        if current.exists and current.modified is not None and current.modified <= since:
            return Verdict.NOT_MODIFIED
    return Verdict.GO_ON


def _is_known(known: str, tag: EntityTag | None) -> bool:
    tags = read_tags(known)
    return tags.is_any or (tag is not None and any(one.matches_weakly(tag) for one in tags.listed))


def _date(request: Fields, name: str, now: float) -> float | None:
    text = request.get(name)
    return None if text is None else read_date(text, now=now)


def validators_of(answer: Fields, *, now: float = 0.0) -> Current:
    """The validators that an answer carries. ``now`` is seconds since 1970."""
    tag = answer.get("etag")
    return Current(None if tag is None else read_tag(tag), _date(answer, "last-modified", now))


_DESCRIBES: Final = frozenset(
    ("content-type", "content-length", "content-encoding", "content-language", "content-range", "transfer-encoding", "trailer")
)
"""What describes a body. A 304 has none, and tells none of it, so that nobody updates a stored answer with it (RFC 9110, 15.4.5)."""


def not_modified(answer: Pairs) -> list[tuple[str, str]]:
    """The fields of a 304 in the place of a 200: all that the 200 has, but for what describes its body.

    So it has what RFC 9110, 15.4.5 wants: Cache-Control, Content-Location, Date, ETag, Expires and Vary. ``Last-Modified`` goes only where
    there is no ETag to do its work.
    """
    has_tag = any(name.lower() == "etag" for name, _ in answer)
    return [pair for pair in answer if (name := pair[0].lower()) not in _DESCRIBES and not (has_tag and name == "last-modified")]


# --- what an answer is told to be -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Terms:
    """What the policies of an answer's data come to. Durations in seconds.

    ``remains`` is how long it is fresh from now on: an invalidation may end that any time. ``keeps`` is for how long a browser is told to
    keep it without asking, ``None`` for not at all: a browser can not be told to forget. ``schema`` names the versions of the data,
    ``groups`` are its opaque tags, ``stamp`` is the position that it is not older than, ``None`` where that is not known. ``is_hit``:
    nothing was computed for it. ``is_stale``: some of it was served although it is not fresh any more.
    """

    is_public: bool
    remains: float
    keeps: float | None = None
    stale_while_revalidate: float = 0.0
    vary: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    stamp: Stamp | None = None
    schema: str = ""
    is_hit: bool = False
    is_stale: bool = False


def is_shareable(request: Fields, answer: Fields) -> bool:
    """Whether several users may be given one answer: neither was asked for with credentials, nor sets a cookie.

    RFC 9111, 3.5 allows shared caches to keep what was asked for with ``Authorization`` where the answer says ``public`` or
    ``must-revalidate``, which much software writes without meaning it. Here it is never said.
    """
    return "authorization" not in request and "set-cookie" not in answer


def managed(terms: Terms, request: Fields, answer: Pairs) -> list[tuple[str, str]]:
    """The fields of an answer that was made of cached data: those it has, and those that its terms add.

    What a handler has said itself counts: a ``Cache-Control`` of its own stays, and then no lifetime is added to it. Without any the answer
    is for one user's browser, which asks each time (``private, no-cache``; RFC 9111, 5.2.2.4 and 5.2.2.7), unless the policies say more.
    """
    said = Fields(answer)
    found = list(answer)
    is_public = terms.is_public and is_shareable(request, said)
    if "cache-control" not in said:
        found.append(("Cache-Control", _cache_control(terms, is_public)))
        if is_public and terms.keeps is not None:
            found.append(("CDN-Cache-Control", _lifetime(terms.keeps, terms)))  # RFC 9213, 3.1
    if "no-store" not in directives(said.get("cache-control")):
        found.append((LIFETIME, _lifetime(terms.remains if terms.keeps is None else min(terms.remains, terms.keeps), terms)))
    if terms.vary:
        found = _varied(found, terms.vary)
    if terms.groups and GROUPS.lower() not in said:
        found.append((GROUPS, listed(terms.groups)))
    if terms.stamp is not None and STAMP.lower() not in said:
        found.append((STAMP, str(terms.stamp)))
    if "cache-status" not in said:
        found.append(("Cache-Status", _status(terms)))
    return found


def _cache_control(terms: Terms, is_public: bool) -> str:
    who = "public" if is_public else "private"
    if terms.keeps is None:
        return f"{who}, no-cache"
    return f"{who}, {_lifetime(terms.keeps, terms)}"


def _lifetime(seconds: float, terms: Terms) -> str:
    text = f"max-age={whole(seconds)}"  # RFC 9111, 5.2.2.1
    if terms.stale_while_revalidate:
        text += f", stale-while-revalidate={whole(terms.stale_while_revalidate)}"  # RFC 5861, 3
    return text


def whole(seconds: float) -> int:
    """Seconds as a field has them: whole, cut off so that nothing lives longer than it may, and not more than `LONGEST`."""
    if math.isnan(seconds):
        return 0
    return int(max(0.0, min(seconds, LONGEST)))


def _status(terms: Terms) -> str:
    """RFC 9211, 2. What is stale was a hit whose ``ttl`` is below zero (2.4)."""
    if not terms.is_hit:
        return "cachesync; fwd=miss"
    return f"cachesync; hit; ttl={whole(terms.remains)}" if not terms.is_stale else f"cachesync; hit; ttl=-{max(1, whole(-terms.remains))}"


def directives(value: str | None) -> frozenset[str]:
    """The names of the directives of a ``Cache-Control``, in small letters, arguments left out. For the question whether one is there."""
    if not value:
        return frozenset()
    return frozenset(part.partition("=")[0].strip().lower() for part in value.split(","))


def _varied(pairs: list[tuple[str, str]], names: Sequence[str]) -> list[tuple[str, str]]:
    """With these names in ``Vary`` (RFC 9110, 12.5.5), each once; ``*`` stays alone."""
    there = [value for name, value in pairs if name.lower() == "vary"]
    known = [one.strip() for value in there for one in value.split(",") if one.strip()]
    if "*" in known:
        return pairs
    lower = {one.lower() for one in known}
    added = [name for name in dict.fromkeys(names) if name.lower() not in lower]
    if not added:
        return pairs
    return [*(pair for pair in pairs if pair[0].lower() != "vary"), ("Vary", ", ".join((*known, *added)))]


def listed(groups: Iterable[str]) -> str:
    """A list of strings (RFC 9651, 3.1 and 3.3.3), as RFC 9875 writes groups. They are letters and digits, so nothing is escaped."""
    return ", ".join(f'"{group}"' for group in groups)


def selecting(vary: str | None, request: Fields) -> Mapping[str, str | None] | None:
    """What the request says in the fields that ``Vary`` names, by name; ``None`` where it names ``*``: nothing selects it (RFC 9111, 4.1)."""
    names = [name.strip().lower() for name in (vary or "").split(",") if name.strip()]
    if "*" in names:
        return None
    return {name: request.get(name) for name in names}
