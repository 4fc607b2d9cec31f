"""The rules of a shared HTTP cache (RFC 9111): what it may store, for how long that is fresh, for whom it may be used, what ends it.

Values in, values out. Each rule stands with its section. Where the RFC leaves a choice, or where much software says more than it means,
the careful side is taken; `docs/reference/response-cache.md` lists where.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from hashlib import blake2b
from typing import Final, NamedTuple
from urllib.parse import urljoin, urlsplit

from cachesync.core.cache_control import FOREVER, CacheControl, control_of, is_targeted, read_cache_control, read_texts
from cachesync.core.etag import EntityTag, read_tag
from cachesync.core.header_fields import WHITESPACE, HeaderFields, Pairs
from cachesync.core.http import LIFETIME, SAFE, Verdict, is_conditional, judge, validators_of
from cachesync.core.http_date import read_date

UNDERSTOOD: Final = frozenset(
    (200, 203, 204, 300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 410, 414, 421, 451, 500, 501, 502, 503, 504)
)
"""Final statuses whose rules for caching are known and kept here (5.2.2.3)."""
HEURISTIC: Final = frozenset((200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501))
"""Statuses whose answers may be stored without an explicit lifetime (RFC 9110, 15.1). Of these 206 is left out: parts are not stored."""
ERRORS: Final = frozenset((500, 502, 503, 504))
"""An answer with such a status may be replaced by a stale one (RFC 5861, 4)."""
GATEWAY_TIMEOUT: Final = 504

HOP_BY_HOP: Final = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""Fields that concern one connection, or a proxy: they are not stored (3.1)."""
KEPT_IN_304: Final = frozenset(
    (
        b"content-length",
        b"content-encoding",
        b"content-range",
        b"content-md5",
        b"content-digest",
        b"repr-digest",
        b"etag",
        b"set-cookie",
        b"age",
    )
)
"""Fields of a stored answer that a 304 does not change: they belong to the body that is there (3.2), to one user, or to one answer."""
CASELESS: Final = frozenset((b"accept-encoding", b"accept-language"))
"""Request fields that are lists, in which neither case nor blanks mean anything (RFC 9110, 12.5.3 and 12.5.4)."""
UNORDERED: Final = frozenset((b"accept-encoding",))
"""Those in which order does not mean anything either. That of languages may be taken for a preference."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What is a choice. ``targets`` are the targeted fields that are meant for this cache, the first before the others (RFC 9213, 2.2).

    ``heuristic`` is the part of the time since ``Last-Modified`` for which an answer without a lifetime counts as fresh (4.2.2), 0 for
    never; ``longest_heuristic`` bounds that, in seconds. With ``cookies_identify`` a request with a Cookie is somebody's, as one with
    Authorization is (3.5); without it cookies count only where ``Vary`` names them, as the RFC has it. Without ``obeys_requests`` what a
    client's Cache-Control asks for is advice that is not followed, as 5.2.1 allows: nobody outside can make the application compute.
    """

    targets: tuple[bytes, ...] = (LIFETIME,)
    heuristic: float = 0.0
    longest_heuristic: float = 86400.0
    cookies_identify: bool = True
    obeys_requests: bool = True


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer as it is kept, and what its directives come to. The names of its fields are in small letters.

    ``initial_age`` is its age when it arrived (4.2.3), ``lifetime`` how long it is fresh (4.2.1), seconds. ``selected_by`` are hashes of
    what the request said in the fields that ``Vary`` names (4.1). ``must_validate``: never without asking (``no-cache``). ``no_stale``:
    never when stale. ``while_revalidate`` and ``if_error`` are the windows of RFC 5861, ``None`` where the answer names none.
    ``is_for_all``: it says itself that shared caches may keep it.
    """

    status: int
    pairs: Pairs
    body: bytes
    initial_age: float
    lifetime: float
    selected_by: tuple[tuple[bytes, bytes | None], ...] = ()
    must_validate: bool = False
    no_stale: bool = False
    while_revalidate: float = 0.0
    if_error: float | None = None
    is_for_all: bool = False
    dependencies: tuple[tuple[str, str], ...] = ()
    """What it depends on, as kinds and texts of the log: a 304 takes them over."""

    @property
    def fields(self) -> HeaderFields:
        """The fields by name."""
        return HeaderFields(self.pairs)

    def remains(self, resident: float) -> float:
        """Seconds for which it is fresh yet, below zero where it is stale (4.2), after so many seconds in the cache."""
        return self.lifetime - self.initial_age - resident


# --- 3: storing -----------------------------------------------------------------------------------------------------------------


def why_not_stored(method: str, request: HeaderFields, status: int, answer: HeaderFields, rules: Rules, *, now: float) -> str:
    """Why an answer may not be stored, in a word or two; empty where it may (3). ``now`` is seconds since 1970."""
    control = control_of(answer, rules.targets)
    if method != "GET":
        return "method"
    if status < 200 or status in (206, 304):
        return "status"
    if "must-understand" in control:  # 5.2.2.3: who understands the status may pass over no-store
        if status not in UNDERSTOOD:
            return "must-understand"
    elif "no-store" in control:
        return "no-store"
    if rules.obeys_requests and "no-store" in read_cache_control(request.lines(b"cache-control")):
        return "no-store of the request"
    if "private" in control:  # 5.2.2.7: also where it lists fields, which a cache may treat as if it listed none
        return "private"
    names = vary_names(answer)
    if names is None:  # 4.1: nothing would ever select it
        return "vary"
    if (answer.value(b"content-type") or b"").partition(b";")[0].strip(WHITESPACE).lower() == b"text/event-stream":
        return "stream"  # it has no end, and is of the moment
    if (known_by := _known_by(request, names, rules)) and not says_for_all(control):
        return known_by  # 3.5, without must-revalidate, which is mostly written by people who think of browsers
    if b"set-cookie" in answer and b"set-cookie" not in control.names("no-cache"):
        return "set-cookie"  # 7.3: it is one user's
    current = validators_of(answer)
    if lifetime_of(status, answer, rules, now=now) <= 0 and current.tag is None and current.modified is None:
        return "no lifetime"
    if not explicit(control, answer) and "public" not in control and status not in HEURISTIC:
        return "no lifetime"
    return ""


def says_for_all(control: CacheControl) -> bool:
    """Does an answer say itself that shared caches may keep it, whoever asked for it (5.2.2.9 and 5.2.2.10)?"""
    return "public" in control or "s-maxage" in control


def _known_by(request: HeaderFields, varies: Collection[bytes], rules: Rules) -> str:
    """By what a request says whose it is, empty for nobody's. 3.5 knows ``Authorization`` alone; a session is most often a cookie."""
    if b"authorization" in request:
        return "authorization"
    return "cookie" if rules.cookies_identify and b"cookie" in request and b"cookie" not in varies else ""


def explicit(control: CacheControl, answer: HeaderFields) -> bool:
    """Has an answer a lifetime of its own (3)?"""
    return "s-maxage" in control or "max-age" in control or b"expires" in answer


def storable_fields(answer: HeaderFields, rules: Rules) -> HeaderFields:
    """The fields that are stored: all but those of the connection (3.1), and those that ``no-cache`` lists (5.2.2.4), which could not be
    used again without asking. ``Age`` is made anew for each use.
    """
    gone = {*HOP_BY_HOP, b"age", *control_of(answer, rules.targets).names("no-cache")}
    gone.update(name.strip().lower() for name in (answer.value(b"connection") or b"").split(b","))
    return answer.without(gone)


def stored(
    request: HeaderFields, status: int, answer: HeaderFields, body: bytes, rules: Rules, *, asked: float, now: float
) -> StoredAnswer:
    """An answer that may be stored, as it is stored. ``asked`` and ``now`` are when the request left and the answer came, since 1970."""
    control = control_of(answer, rules.targets)
    if_error = control.seconds("stale-if-error")
    return StoredAnswer(
        status=status,
        pairs=storable_fields(answer, rules).pairs,
        body=body,
        initial_age=initial_age(answer, asked=asked, now=now),
        lifetime=lifetime_of(status, answer, rules, now=now),
        selected_by=selected(vary_names(answer) or (), request),
        must_validate="no-cache" in control and not control.names("no-cache"),
        no_stale=any(name in control for name in ("must-revalidate", "proxy-revalidate", "s-maxage", "no-cache")),  # 4.2.4
        while_revalidate=float(control.seconds("stale-while-revalidate") or 0),
        if_error=None if if_error is None else float(if_error),
        is_for_all=says_for_all(control),
    )


# --- 4.1: which stored answer -----------------------------------------------------------------------------------------------------


def vary_names(answer: HeaderFields) -> tuple[bytes, ...] | None:
    """The request fields that select an answer, in small letters, each once and in order; ``None`` for ``*``: nothing does (4.1)."""
    names = {name.strip().lower() for name in (answer.value(b"vary") or b"").split(b",")} - {b""}
    return None if b"*" in names else tuple(sorted(names))


def selected(names: Sequence[bytes], request: HeaderFields) -> tuple[tuple[bytes, bytes | None], ...]:
    """What a request says in these fields, in a form in which meanings that are known to be equal are equal (4.1). Of what it says there
    is a hash: it may be a secret, and is stored.
    """
    return tuple((name, None if (value := request.value(name)) is None else _hashed(_normal(name, value))) for name in names)


def _hashed(value: bytes) -> bytes:
    return blake2b(value, digest_size=16).digest()


def _normal(name: bytes, value: bytes) -> bytes:
    if name not in CASELESS:
        return value
    parts = [re.sub(rb"[ \t]*;[ \t]*", b";", part.strip(WHITESPACE).lower()) for part in value.split(b",")]
    return b",".join(sorted(filter(None, parts)) if name in UNORDERED else filter(None, parts))


# --- 4.2: freshness ---------------------------------------------------------------------------------------------------------------


def lifetime_of(status: int, answer: HeaderFields, rules: Rules, *, now: float) -> float:
    """Seconds for which an answer is fresh, counted from when it was made (4.2.1). 0 where nothing says so.

    ``s-maxage`` before ``max-age`` before ``Expires``. ``now`` (since 1970) stands in for a ``Date`` that is not there or is none.
    """
    control = control_of(answer, rules.targets)
    for name in ("s-maxage", "max-age"):
        seconds = control.seconds(name)
        if seconds is not None:
            return float(seconds)
    made = _date(answer.value(b"date"), now)
    made = now if made is None else made
    if not is_targeted(answer, rules.targets) and (text := answer.value(b"expires")) is not None:
        expires = _date(text, now)
        return 0.0 if expires is None else min(max(expires - made, 0.0), float(FOREVER))  # 5.3: what is no date is in the past
    if rules.heuristic and (status in HEURISTIC or "public" in control):  # 4.2.2
        modified = _date(answer.value(b"last-modified"), now)
        if modified is not None:
            return min(max(made - modified, 0.0) * rules.heuristic, rules.longest_heuristic)
    return 0.0


def initial_age(answer: HeaderFields, *, asked: float, now: float) -> float:
    """The age of an answer when it arrived, seconds (4.2.3): the larger of what its ``Date`` and its ``Age`` say, and the time it took."""
    made = _date(answer.value(b"date"), now)
    apparent = 0.0 if made is None else max(0.0, now - made)
    first = (
        (answer.value(b"age") or b"").split(b",")[0].strip(WHITESPACE)
    )  # 5.1: of several the first; what is no number counts for nothing
    told = CacheControl((("age", first),)).seconds("age") or 0
    return max(apparent, told + max(0.0, now - asked))


def _date(value: bytes | None, now: float) -> float | None:
    """A date whatever the case of its letters (4.2)."""
    if value is None:
        return None
    spelled = re.sub(r"[A-Za-z]+", lambda word: "GMT" if word[0].upper() == "GMT" else word[0].capitalize(), value.decode("latin-1"))
    return read_date(spelled, now=now)


# --- 4: using it --------------------------------------------------------------------------------------------------------------------


class Use(Enum):
    """What may be done with a stored answer."""

    SERVE = "serve it"
    SERVE_AND_REFRESH = "serve it, and ask behind the caller's back (RFC 5861, 3)"
    VALIDATE = "ask whether it is current (4.3)"
    PASS = "leave it where it is, and ask for this request alone"


class Chosen(NamedTuple):
    """What may be done, and why a request goes forward, in the words of RFC 9211, 2.2."""

    use: Use
    fwd: str = ""


def choose(answer: StoredAnswer, request: HeaderFields, resident: float, rules: Rules, *, is_ended: bool = False) -> Chosen:
    """Whether a stored answer may be used for a request, after so many seconds in the cache (4, 4.2.4 and 5.2.1).

    ``is_ended``: it was invalidated softly, and counts as stale from then on.
    """
    if not is_for(answer, request, rules):
        return Chosen(Use.PASS, "bypass")
    wants = read_cache_control(request.lines(b"cache-control") if rules.obeys_requests else ())
    remains = answer.remains(resident)
    if "no-cache" in wants:  # 5.2.1.4
        return Chosen(Use.VALIDATE, "request")
    most = wants.seconds("max-age")  # 5.2.1.1
    if most is not None and answer.initial_age + resident > most:
        return Chosen(Use.VALIDATE, "request")
    least = wants.seconds("min-fresh")  # 5.2.1.3
    if least is not None and remains < least:
        return Chosen(Use.VALIDATE, "request")
    if answer.must_validate:  # 5.2.2.4
        return Chosen(Use.VALIDATE, "stale")
    if remains > 0 and not is_ended:
        return Chosen(Use.SERVE)
    if is_ended and not answer.no_stale:  # who has ended it softly has said that it may be served
        return Chosen(Use.SERVE_AND_REFRESH)
    if not answer.no_stale:
        if -remains < answer.while_revalidate:
            return Chosen(Use.SERVE_AND_REFRESH)
        if "max-stale" in wants:  # 5.2.1.2: any, where it names no number
            longest = FOREVER if not wants.has_argument("max-stale") else wants.seconds("max-stale") or 0
            if -remains <= longest:
                return Chosen(Use.SERVE)
    return Chosen(Use.VALIDATE, "stale")


def is_for(answer: StoredAnswer, request: HeaderFields, rules: Rules) -> bool:
    """Beyond 3.5: whoever is known by name is not shown what was made for nobody in particular, unless it says that it is for all."""
    return answer.is_for_all or not _known_by(request, [name for name, _ in answer.selected_by], rules)


def may_stand_in(answer: StoredAnswer, request: HeaderFields, resident: float, rules: Rules) -> bool:
    """Whether a stale answer may be used where there is no other to be had (4.2.4 and RFC 5861, 4).

    Who keeps it that long has allowed it, unless the answer forbids it or names a shorter time; a request may name a longer one.
    """
    if answer.no_stale or not is_for(answer, request, rules):
        return False
    if answer.if_error is None:
        return True
    asked = read_cache_control(request.lines(b"cache-control")).seconds("stale-if-error") if rules.obeys_requests else None
    return -answer.remains(resident) < max(answer.if_error, float(asked or 0))


def wants_only_stored(request: HeaderFields, rules: Rules) -> bool:
    """Whether a request is to be answered with 504 rather than forwarded (5.2.1.7)."""
    return rules.obeys_requests and "only-if-cached" in read_cache_control(request.lines(b"cache-control"))


# --- 4.3: validation ----------------------------------------------------------------------------------------------------------------


def conditions(answer: StoredAnswer) -> Pairs:
    """The fields that ask whether a stored answer is current (4.3.1); none where it has no validator."""
    fields = answer.fields
    found: list[tuple[bytes, bytes]] = []
    if (tag := fields.value(b"etag")) is not None and _tag(tag) is not None:
        found.append((b"if-none-match", tag))
    if (modified := fields.value(b"last-modified")) is not None and _date(modified, 0.0) is not None:
        found.append((b"if-modified-since", modified))
    return tuple(found)


def _tag(value: bytes) -> EntityTag | None:
    return read_tag(value.decode("latin-1"))


def is_known(answer: StoredAnswer, method: str, request: HeaderFields, *, now: float) -> bool:
    """Whether a request has the stored answer already, and is told 304 (4.3.2). Without ``Last-Modified`` its ``Date`` is compared.

    ``now`` is seconds since 1970.
    """
    if not is_conditional(request):
        return False
    current = validators_of(answer.fields, now=now)
    if current.modified is None:
        current = current._replace(modified=_date(answer.fields.value(b"date"), now))
    return judge(method, request, current, now=now) is Verdict.NOT_MODIFIED


def is_freshened_by(answer: StoredAnswer, not_modified: HeaderFields) -> bool:
    """Whether a 304 speaks of this stored answer (4.3.4): by its ETag where it has one, else by ``Last-Modified``, else because it is the
    one that was asked about.
    """
    fields = answer.fields
    if (text := not_modified.value(b"etag")) is not None:
        told, known = _tag(text), _tag(fields.value(b"etag") or b"")
        if told is None or known is None:
            return False
        return told.matches_weakly(known) if told.is_weak else told.matches_strongly(known)
    if (modified := not_modified.value(b"last-modified")) is not None and b"last-modified" in fields:
        return _date(modified, 0.0) == _date(fields.value(b"last-modified"), 0.0)
    return True


def freshened(
    answer: StoredAnswer, request: HeaderFields, not_modified: HeaderFields, rules: Rules, *, asked: float, now: float
) -> StoredAnswer:
    """A stored answer after a 304 (4.3.4): each field that the 304 has takes the place of the stored one, but for `KEPT_IN_304` (3.2)."""
    newer = not_modified.without(KEPT_IN_304)
    pairs = (*answer.fields.without(name for name, _ in newer), *newer)
    age = (pair for pair in not_modified if pair[0] == b"age")
    fresh = stored(request, answer.status, HeaderFields((*pairs, *age)), answer.body, rules, asked=asked, now=now)
    return replace(fresh, dependencies=answer.dependencies)


def is_contradicted_by(answer: StoredAnswer, head: HeaderFields) -> bool:
    """Whether the answer to a HEAD shows that the stored one is out of date (4.3.5): another validator, or another length."""
    fields = answer.fields
    for name in (b"etag", b"last-modified", b"content-length"):
        told = head.value(name)
        if told is not None and told != fields.value(name) and (name != b"content-length" or told != b"%d" % len(answer.body)):
            return True
    return False


# --- 4.4: what ends it ----------------------------------------------------------------------------------------------------------------


def ends(method: str, status: int) -> bool:
    """Whether an answer ends what is stored for its target: a success or a redirection, of a method that is not known to be safe (4.4)."""
    return method not in SAFE and 200 <= status < 400


def ended_urls(url: str, answer: HeaderFields) -> tuple[str, ...]:
    """The addresses whose stored answers such an answer ends: the target's, and those of ``Location`` and ``Content-Location`` of one
    origin (4.4). Addresses of other origins are left alone: nobody ends what is not theirs.
    """
    found = [url]
    for name in (b"location", b"content-location"):
        value = answer.value(name)
        if value:
            other = _joined(url, value.decode("latin-1"))
            if other is not None and _origin(other) == _origin(url):
                found.append(other)
    return tuple(dict.fromkeys(found))


def _joined(url: str, text: str) -> str | None:
    try:
        parts = urlsplit(urljoin(url, text))
        host = parts.netloc.rpartition("@")[2].lower()
        return parts._replace(scheme=parts.scheme.lower(), netloc=host, path=parts.path or "/", fragment="").geturl()
    except ValueError:
        return None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        return parts.scheme, None, -1
    return parts.scheme, parts.hostname, port or {"http": 80, "https": 443}.get(parts.scheme)


def groups_of(answer: HeaderFields) -> tuple[str, ...]:
    """The groups that a stored answer belongs to (RFC 9875, 2)."""
    return read_texts(answer.lines(b"cache-groups"))


def ended_groups(method: str, answer: HeaderFields) -> tuple[str, ...]:
    """The groups that an answer ends; only a method that is not safe may (RFC 9875, 3)."""
    return read_texts(answer.lines(b"cache-group-invalidation")) if method not in SAFE else ()


# --- parts (RFC 9110, 14) -------------------------------------------------------------------------------------------------------------

_RANGE: Final = re.compile(rb"bytes=[ \t]*(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))[ \t]*")


def part_of(answer: StoredAnswer, request: HeaderFields) -> tuple[int, int] | None:
    """The first and last byte that a request for one range asks for (RFC 9110, 14.1.2); ``None`` where all is to be sent.

    So it is where it names several ranges or none that can be satisfied, and where ``If-Range`` names another representation (13.1.5).
    """
    wanted = request.value(b"range")
    if wanted is None:
        return None
    found = _RANGE.fullmatch(wanted)
    size = len(answer.body)
    if found is None or answer.status != 200 or not size:
        return None
    condition = request.value(b"if-range")
    if condition is not None:
        tag, known = _tag(condition), validators_of(answer.fields).tag
        if tag is None or known is None or not tag.matches_strongly(known):
            return None
    if found[3] is not None:
        length = int(found[3])
        return (max(size - length, 0), size - 1) if length else None
    first, last = int(found[1]), int(found[2]) if found[2] else size - 1
    return (first, min(last, size - 1)) if first < size and first <= last else None


# --- Cache-Status (RFC 9211) --------------------------------------------------------------------------------------------------------


def cache_status(
    *,
    ttl: float | None = None,
    fwd: str = "",
    fwd_status: int | None = None,
    is_stored: bool = False,
    is_collapsed: bool = False,
    detail: str = "",
) -> bytes:
    """One member of ``Cache-Status`` (RFC 9211, 2): ``cachesync; hit; ttl=30`` or ``cachesync; fwd=miss; stored``.

    Without ``fwd`` it is a hit. ``ttl`` is rounded down, also below zero (2.4). ``detail`` is written as a text (2.8).
    """
    parts = ["cachesync", f"fwd={fwd}" if fwd else "hit"]
    if fwd_status is not None:
        parts.append(f"fwd-status={fwd_status}")
    if ttl is not None:
        parts.append(f"ttl={int(ttl // 1)}")
    parts += [name for name, is_so in (("stored", is_stored), ("collapsed", is_collapsed)) if is_so]
    if detail:
        parts.append(f'detail="{detail}"')
    return "; ".join(parts).encode("latin-1")
