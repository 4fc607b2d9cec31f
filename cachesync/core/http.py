"""What HTTP is told of an answer, and what its conditions come to: values in, values out, the same for every door.

Whatever bytes a client sends can be read, and no door can fail at them. The rules stand with the sections that they come from.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from cachesync.core.cache_control import FOREVER, write_cache_control
from cachesync.core.etag import EntityTag, read_tag, read_tags
from cachesync.core.header_fields import HeaderFields
from cachesync.core.http_date import read_date
from cachesync.core.policy import HttpPolicy, Policy
from cachesync.core.stamps import Stamp

Pair = tuple[bytes, bytes]

STAMP: Final = b"cachesync-stamp"
"""The position of the log that an answer is not older than, and that a write was given."""
AT_LEAST: Final = b"cachesync-at-least"
"""Of a request: nothing older than this stamp will do."""
LIFETIME: Final = b"cachesync-cache-control"
"""What the managed client may keep: a targeted field in the manner of RFC 9213, 2."""
GROUPS: Final = b"cache-groups"
INVALIDATED: Final = b"cache-group-invalidation"
"""RFC 9875, 2 and 3."""

SAFE: Final = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
"""Methods that change nothing (RFC 9110, 9.2.1)."""
READS: Final = frozenset(("GET", "HEAD"))


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


_GUARDS: Final = (b"if-match", b"if-none-match", b"if-unmodified-since")
"""The conditions that a write may have."""


def is_conditional(request: HeaderFields) -> bool:
    """Whether the request has a condition. ``If-Range`` is none in this sense: it only says what to make of ``Range``."""
    return b"if-modified-since" in request or is_guarded(request)


def is_guarded(request: HeaderFields) -> bool:
    """Whether the request has a condition that means something for a write."""
    return any(name in request for name in _GUARDS)


def lacks_guard(method: str, request: HeaderFields) -> bool:
    """Whether a write does not say what it was made from: where that is required, the answer is 428 (RFC 6585, 3)."""
    return method not in SAFE and not is_guarded(request)


def judge(method: str, request: HeaderFields, current: Current, *, now: float = 0.0) -> Verdict:
    """What the conditions of a request come to, in the order of RFC 9110, 13.2.2.

    To be asked only where the answer would be one of success (RFC 9110, 13.2.1), and of a write before it has done anything. ``now`` is
    seconds since 1970.
    """
    if (wanted := request.value(b"if-match")) is not None:  # 13.1.1
        tags, tag = read_tags(wanted.decode("latin-1")), current.tag
        matches = current.exists if tags.is_any else tag is not None and any(one.matches_strongly(tag) for one in tags.listed)
        if not (matches and current.exists):
            return Verdict.PRECONDITION_FAILED
    elif (since := _date(request, b"if-unmodified-since", now)) is not None and _has_changed(current, since):  # 13.1.4
        return Verdict.PRECONDITION_FAILED
    is_known = False
    if (known := request.value(b"if-none-match")) is not None:  # 13.1.2
        is_known = _is_known(known, current.tag)
    elif method in READS and (since := _date(request, b"if-modified-since", now)) is not None:  # 13.1.3
        is_known = current.modified is not None and current.modified <= since
    if not (is_known and current.exists):
        return Verdict.GO_ON
    return Verdict.NOT_MODIFIED if method in READS else Verdict.PRECONDITION_FAILED


def _has_changed(current: Current, since: float) -> bool:
    return not current.exists or (current.modified is not None and current.modified > since)


def _is_known(known: bytes, tag: EntityTag | None) -> bool:
    tags = read_tags(known.decode("latin-1"))
    return tags.is_any or (tag is not None and any(one.matches_weakly(tag) for one in tags.listed))


def _date(fields: HeaderFields, name: bytes, now: float) -> float | None:
    text = fields.value(name)
    return None if text is None else read_date(text.decode("latin-1"), now=now)


def validators_of(answer: HeaderFields, *, now: float = 0.0) -> Current:
    """The validators that an answer carries. ``now`` is seconds since 1970."""
    tag = answer.value(b"etag")
    return Current(None if tag is None else read_tag(tag.decode("latin-1")), _date(answer, b"last-modified", now))


_ABSENT: Final = frozenset((404, 410))
"""Statuses that say that there is nothing (RFC 9110, 15.5.5 and 15.5.11)."""


def current_of(status: int, answer: HeaderFields) -> Current | None:
    """What stands at a target, by what a GET of it is answered; ``None`` where that does not say it: it is forbidden, or has failed."""
    if status in _ABSENT:
        return Current(exists=False)
    return validators_of(answer) if status // 100 == 2 else None


_DESCRIBES: Final = frozenset(
    (b"content-type", b"content-length", b"content-encoding", b"content-language", b"content-range", b"transfer-encoding", b"trailer")
)
"""What describes a body. A 304 has none, and tells none of it, so that nobody updates a stored answer with it (RFC 9110, 15.4.5)."""


def not_modified(answer: HeaderFields) -> HeaderFields:
    """The fields of a 304 in the place of a 200: all that the 200 has, but for what describes its body.

    So it has what RFC 9110, 15.4.5 wants: Cache-Control, Content-Location, Date, ETag, Expires and Vary. ``Last-Modified`` goes only where
    there is no ETag to do its work.
    """
    return answer.without({*_DESCRIBES, b"last-modified"} if b"etag" in answer else _DESCRIBES)


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


def terms_of(
    policies: Collection[Policy],
    *,
    remains: float,
    age: float,
    groups: tuple[str, ...] = (),
    stamp: Stamp | None = None,
    is_hit: bool = False,
    is_stale: bool = False,
) -> Terms:
    """What several policies come to: of each setting the strictest. A policy without an ``http`` table has its defaults.

    ``remains`` is how long all of the data is fresh, ``age`` how old the oldest of it is (both seconds).
    """
    tables = [policy.http or HttpPolicy() for policy in policies]
    ages = [table.max_age for table in tables if table.max_age is not None]
    is_kept = len(ages) == len(tables) and min(ages) > 0
    return Terms(
        is_public=all(table.visibility == "public" for table in tables),
        remains=remains,
        keeps=max(0.0, min(min(ages) - age, remains)) if is_kept else None,
        stale_while_revalidate=min(table.stale_while_revalidate for table in tables),
        vary=tuple(dict.fromkeys(name for table in tables for name in table.vary)),
        groups=groups,
        stamp=stamp,
        schema=",".join(f"{policy.name}={policy.version}" for policy in sorted(policies, key=lambda one: one.name)),
        is_hit=is_hit,
        is_stale=is_stale,
    )


def is_shareable(request: HeaderFields, answer: HeaderFields) -> bool:
    """Whether several users may be given one answer: neither was asked for with credentials, nor sets a cookie.

    RFC 9111, 3.5 allows shared caches to keep what was asked for with ``Authorization`` where the answer says ``public`` or
    ``must-revalidate``, which much software writes without meaning it. Here it is never said.
    """
    return b"authorization" not in request and b"set-cookie" not in answer


def managed(terms: Terms, request: HeaderFields, answer: HeaderFields, *, is_whole: bool = True) -> HeaderFields:
    """The fields of an answer that was made of cached data: those it has, and those that its terms add.

    What a handler has said itself counts: a ``Cache-Control`` of its own stays, and then no lifetime is added to it. Without any the answer
    is for one user's browser, which asks each time (``private, no-cache``; RFC 9111, 5.2.2.4 and 5.2.2.7), unless the policies say more.
    Of an answer that is not ``is_whole`` yet, because it comes part by part, nobody knows what else it will be made of: no more is said.
    """
    if not is_whole:
        terms = Terms(is_public=False, remains=0.0, vary=terms.vary, is_hit=terms.is_hit)
    found: list[Pair] = []
    if b"cache-control" not in answer:
        is_public = terms.is_public and is_shareable(request, answer)
        who = {"public" if is_public else "private": True}
        found.append((b"cache-control", write_cache_control({**who, **_lifetime(terms.keeps, terms)})))
        if is_public and terms.keeps is not None:
            found.append((b"cdn-cache-control", write_cache_control(_lifetime(terms.keeps, terms))))  # RFC 9213, 3.1
        if is_whole:
            least = terms.remains if terms.keeps is None else min(terms.remains, terms.keeps)
            found.append((LIFETIME, write_cache_control(_lifetime(least, terms))))
    if terms.groups:
        found.append((GROUPS, listed(terms.groups)))
    if terms.stamp is not None:
        found.append((STAMP, str(terms.stamp).encode("ascii")))
    found.append((b"cache-status", _status(terms)))
    return varied(answer.plus(*(pair for pair in found if pair[0] not in answer)), terms.vary)


def _lifetime(seconds: float | None, terms: Terms) -> Mapping[str, float | bool]:
    """RFC 9111, 5.2.2.1, and RFC 5861, 3. ``None``: to be asked for each time."""
    if seconds is None:
        return {"no-cache": True}
    window = terms.stale_while_revalidate
    return {"max-age": seconds, "stale-while-revalidate": window} if window else {"max-age": seconds}


def _status(terms: Terms) -> bytes:
    """RFC 9211, 2. What is stale was a hit whose ``ttl`` is below zero (2.4)."""
    if not terms.is_hit:
        return b"cachesync; fwd=miss"
    ttl = min(terms.remains, FOREVER) if math.isfinite(terms.remains) else FOREVER if terms.remains > 0 else -1
    return b"cachesync; hit; ttl=%d" % (min(ttl, -1) if terms.is_stale else ttl)


def varied(answer: HeaderFields, names: Iterable[str]) -> HeaderFields:
    """With these names in ``Vary`` (RFC 9110, 12.5.5), each once; ``*`` stays alone."""
    known = vary_of(answer)
    added = [name for name in dict.fromkeys(names) if name.lower().encode("latin-1") not in known]
    if not added or b"*" in known:
        return answer
    there = answer.value(b"vary")
    return answer.replaced(b"vary", b", ".join(([there] if there else []) + [name.encode("latin-1") for name in added]))


def vary_of(answer: HeaderFields) -> tuple[bytes, ...]:
    """The names in ``Vary``, in lower case."""
    return tuple(name for part in (answer.value(b"vary") or b"").split(b",") if (name := part.strip(b" \t").lower()))


def listed(groups: Iterable[str]) -> bytes:
    """A list of strings (RFC 9651, 3.1 and 3.3.3), as RFC 9875 writes groups. They are letters and digits, so nothing is escaped."""
    return ", ".join(f'"{group}"' for group in groups).encode("ascii")


def selecting(vary: Sequence[bytes], request: HeaderFields) -> Mapping[bytes, bytes | None] | None:
    """What the request says in the fields that ``Vary`` names; ``None`` where that is ``*``: nothing selects the answer (RFC 9111, 4.1)."""
    return None if b"*" in vary else {name: request.value(name) for name in vary}


def failure(code: str, message: str) -> dict[str, object]:
    """An error as JSON, the same from every door: ``code`` for programs, ``message`` says what is wrong and what to do."""
    return {"success": False, "error": {"code": code, "message": message}}
