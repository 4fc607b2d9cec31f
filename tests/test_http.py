"""What the conditions of a request come to, and what an answer is told to be: the rules of RFC 9110, 13 and of the policies."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesync.core.cache_control import read_cache_control
from cachesync.core.etag import EntityTag, read_tag
from cachesync.core.header_fields import HeaderFields
from cachesync.core.http import (
    Current,
    Terms,
    Verdict,
    is_conditional,
    judge,
    lacks_guard,
    managed,
    not_modified,
    selecting,
    terms_of,
    validators_of,
)
from cachesync.core.http_date import read_date
from cachesync.core.policy import HttpPolicy, Policy
from cachesync.core.stamps import Stamp

OLD, NOW, NEW = "Sun, 06 Nov 1994 08:49:36 GMT", "Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:38 GMT"
GO_ON, SAME, FAILED = Verdict.GO_ON, Verdict.NOT_MODIFIED, Verdict.PRECONDITION_FAILED
STRONG, WEAK, NONE = Current(EntityTag("a"), read_date(NOW)), Current(EntityTag("a", is_weak=True), read_date(NOW)), Current(exists=False)
UNNAMED = Current()


def fields(**named: str) -> HeaderFields:
    """Header fields by their names, with underscores for hyphens."""
    return HeaderFields((name.replace("_", "-").encode(), text.encode("latin-1")) for name, text in named.items())


@pytest.mark.parametrize(
    ("method", "request_fields", "current", "verdict"),
    [
        # No condition.
        ("GET", {}, STRONG, GO_ON),
        ("PUT", {}, STRONG, GO_ON),
        # If-None-Match: the weak comparison (13.1.2).
        ("GET", {"if_none_match": '"a"'}, STRONG, SAME),
        ("HEAD", {"if_none_match": '"a"'}, STRONG, SAME),
        ("GET", {"if_none_match": 'W/"a"'}, STRONG, SAME),
        ("GET", {"if_none_match": '"a"'}, WEAK, SAME),
        ("GET", {"if_none_match": '"b", "a"'}, STRONG, SAME),
        ("GET", {"if_none_match": '"b"'}, STRONG, GO_ON),
        ("GET", {"if_none_match": "*"}, STRONG, SAME),
        ("GET", {"if_none_match": "*"}, UNNAMED, SAME),
        ("GET", {"if_none_match": "*"}, NONE, GO_ON),
        ("GET", {"if_none_match": '"a"'}, UNNAMED, GO_ON),
        ("PUT", {"if_none_match": "*"}, STRONG, FAILED),
        ("PUT", {"if_none_match": "*"}, NONE, GO_ON),
        ("PUT", {"if_none_match": '"a"'}, STRONG, FAILED),
        ("POST", {"if_none_match": '"b"'}, STRONG, GO_ON),
        # It comes before If-Modified-Since (13.1.3).
        ("GET", {"if_none_match": '"b"', "if_modified_since": NEW}, STRONG, GO_ON),
        ("GET", {"if_none_match": '"a"', "if_modified_since": OLD}, STRONG, SAME),
        # If-Modified-Since.
        ("GET", {"if_modified_since": NOW}, STRONG, SAME),
        ("GET", {"if_modified_since": NEW}, STRONG, SAME),
        ("GET", {"if_modified_since": OLD}, STRONG, GO_ON),
        ("GET", {"if_modified_since": "yesterday"}, STRONG, GO_ON),
        ("GET", {"if_modified_since": NOW}, UNNAMED, GO_ON),
        ("PUT", {"if_modified_since": NOW}, STRONG, GO_ON),
        # If-Match: the strong comparison (13.1.1).
        ("PUT", {"if_match": '"a"'}, STRONG, GO_ON),
        ("PUT", {"if_match": '"b", "a"'}, STRONG, GO_ON),
        ("PUT", {"if_match": '"b"'}, STRONG, FAILED),
        ("PUT", {"if_match": 'W/"a"'}, STRONG, FAILED),
        ("PUT", {"if_match": '"a"'}, WEAK, FAILED),
        ("PUT", {"if_match": "*"}, UNNAMED, GO_ON),
        ("PUT", {"if_match": "*"}, NONE, FAILED),
        ("PUT", {"if_match": '"a"'}, NONE, FAILED),
        ("PUT", {"if_match": ""}, STRONG, FAILED),
        ("GET", {"if_match": '"b"'}, STRONG, FAILED),
        ("GET", {"if_match": '"a"', "if_none_match": '"a"'}, STRONG, SAME),
        # It comes before If-Unmodified-Since (13.1.4).
        ("PUT", {"if_match": '"a"', "if_unmodified_since": OLD}, STRONG, GO_ON),
        ("PUT", {"if_match": '"b"', "if_unmodified_since": NEW}, STRONG, FAILED),
        ("PUT", {"if_unmodified_since": OLD}, STRONG, FAILED),
        ("PUT", {"if_unmodified_since": NOW}, STRONG, GO_ON),
        ("PUT", {"if_unmodified_since": "yesterday"}, STRONG, GO_ON),
        ("PUT", {"if_unmodified_since": NOW}, NONE, FAILED),
        ("PUT", {"if_unmodified_since": NOW}, UNNAMED, GO_ON),
        # If-Range says what to make of Range and is left to whoever serves ranges (13.1.5).
        ("GET", {"if_range": '"b"', "range": "bytes=0-1"}, STRONG, GO_ON),
    ],
)
def test_conditions_are_judged_in_the_order_of_the_rfc(
    method: str, request_fields: dict[str, str], current: Current, verdict: Verdict
) -> None:
    """RFC 9110, 13.2.2, each row by its section."""
    assert judge(method, fields(**request_fields), current) == verdict


@pytest.mark.parametrize(
    ("method", "request_fields", "lacks"),
    [
        ("PUT", {}, True),
        ("DELETE", {"if_modified_since": NOW}, True),
        ("PUT", {"if_match": '"a"'}, False),
        ("PUT", {"if_unmodified_since": NOW}, False),
        ("PUT", {"if_none_match": "*"}, False),
        ("GET", {}, False),
        ("OPTIONS", {}, False),
    ],
)
def test_a_condition_may_be_required_of_writes(method: str, request_fields: dict[str, str], *, lacks: bool) -> None:
    """RFC 6585, 3: of a write, and only some conditions mean something for one."""
    assert lacks_guard(method, fields(**request_fields)) is lacks


HEADER = st.sampled_from([b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"if-range", b"cache-control"])
REQUEST = st.lists(st.tuples(HEADER, st.binary(max_size=60) | st.sampled_from([b'"a"', b'W/"a"', b"*", NOW.encode()])), max_size=6)


@given(REQUEST, st.sampled_from(["GET", "HEAD", "PUT", "DELETE", "BREW"]), st.sampled_from([STRONG, WEAK, NONE, UNNAMED]))
def test_any_request_is_judged(pairs: list[tuple[bytes, bytes]], method: str, current: Current) -> None:
    """Never an exception; and never a 304 that a tag or a date of the client's does not say."""
    request = HeaderFields(pairs)
    verdict = judge(method, request, current)
    if verdict == SAME:
        said = b", ".join(request.lines(b"if-none-match"))
        assert method in ("GET", "HEAD") and current.exists
        assert b'"a"' in said or b"*" in said or (b"if-none-match" not in request and current.modified is not None)
    if not is_conditional(request):
        assert verdict == GO_ON


@given(st.text(st.characters(max_codepoint=0xFF), max_size=20), st.text(st.characters(max_codepoint=0xFF), max_size=20))
def test_a_changed_representation_is_never_confirmed(theirs: str, ours: str) -> None:
    """Whatever the client's tag is, if it is not the current one."""
    current = read_tag(f'"{ours}"')
    said = HeaderFields(((b"if-none-match", f'"{theirs}"'.encode("latin-1")),))
    if current is not None and judge("GET", said, Current(current)) == SAME:
        assert theirs.strip(" \t") == ours.strip(" \t")


def test_a_304_has_what_the_200_had_but_what_describes_its_body() -> None:
    """RFC 9110, 15.4.5: Cache-Control, Content-Location, Date, ETag, Expires and Vary are there; the length and the type are not."""
    kept = {"cache_control": "private", "content_location": "/a", "date": NOW, "etag": '"a"', "expires": NEW, "vary": "Accept"}
    others = {"set_cookie": "a=b", "strict_transport_security": "max-age=1"}
    dropped = {"content_type": "text/html", "content_length": "3", "content_encoding": "gzip", "last_modified": OLD}
    found = not_modified(fields(**kept, **others, **dropped))
    assert {name.decode().replace("-", "_") for name, _ in found} == {*kept, *others}
    assert b"last-modified" in not_modified(fields(last_modified=OLD))


NOTHING = HeaderFields()


def told(terms: Terms, request: HeaderFields = NOTHING, answer: HeaderFields = NOTHING) -> dict[str, str]:
    return {name.decode(): text.decode() for name, text in managed(terms, request, answer)}


def policy(name: str = "stores", **http: Any) -> Policy:
    return Policy(name=name, match=f"{name}:*", ttl="5m", version=2, http=HttpPolicy(**http))


def test_without_more_a_browser_asks_each_time_and_the_managed_client_is_given_the_lifetime() -> None:
    """What can be invalidated is sent ``private, no-cache``: a browser can not be told to forget it."""
    terms = terms_of([policy()], remains=200.9, age=99.1, groups=("g1", "g2"), stamp=Stamp("e", 7), is_hit=True)
    assert told(terms) == {
        "cache-control": "private, no-cache",
        "cachesync-cache-control": "max-age=200",
        "cache-groups": '"g1", "g2"',
        "cachesync-stamp": "e:7",
        "cache-status": "cachesync; hit; ttl=200",
    }


@pytest.mark.parametrize(
    ("http", "request_fields", "answer", "said", "cdn"),
    [
        ({"max_age": "1m"}, {}, {}, "private, max-age=50", None),
        ({"max_age": "5s"}, {}, {}, "private, max-age=0", None),
        ({"max_age": "1h"}, {}, {}, "private, max-age=290", None),
        ({"max_age": 0}, {}, {}, "private, no-cache", None),
        ({"max_age": "1m", "stale_while_revalidate": "30s"}, {}, {}, "private, max-age=50, stale-while-revalidate=30", None),
        ({"visibility": "public"}, {}, {}, "public, no-cache", None),
        ({"visibility": "public", "max_age": "1m"}, {}, {}, "public, max-age=50", "max-age=50"),
        ({"visibility": "public", "max_age": "1m"}, {"authorization": "Basic x"}, {}, "private, max-age=50", None),
        ({"visibility": "public", "max_age": "1m"}, {"cookie": "a=b"}, {"set_cookie": "a=c"}, "private, max-age=50", None),
        ({"visibility": "public", "max_age": "1m"}, {}, {"cache_control": "no-store"}, "no-store", None),
    ],
)
def test_the_policy_says_what_browsers_and_proxies_may_keep(
    http: dict[str, Any], request_fields: dict[str, str], answer: dict[str, str], said: str, cdn: str | None
) -> None:
    """What remains of ``max_age`` after 10 seconds, and never a shared lifetime for one user's answer (RFC 9111, 3.5)."""
    terms = terms_of([policy(**http)], remains=290.0, age=10.0)
    found = told(terms, fields(**request_fields), fields(**answer))
    assert (found["cache-control"], found.get("cdn-cache-control")) == (said, cdn)
    assert ("cachesync-cache-control" in found) is (said != "no-store")


def test_of_several_policies_the_strictest_counts() -> None:
    """One private, one that is to be asked for each time, the shorter of two lifetimes; all the names of Vary, all the schemas."""
    public, private = policy("a", visibility="public", max_age="2m", vary=["Accept"]), policy("b", max_age="1m", vary=["Cookie", "Accept"])
    terms = terms_of([private, public], remains=300.0, age=0.0)
    assert (terms.is_public, terms.keeps, terms.vary, terms.schema) == (False, 60.0, ("Cookie", "Accept"), "a=2,b=2")
    assert terms_of([public, policy("c")], remains=300.0, age=0.0).keeps is None


def test_what_a_handler_has_said_itself_counts() -> None:
    """Its Cache-Control and Vary stay, and names are only added."""
    terms = terms_of([policy(max_age="1m", vary=["accept", "Cookie"])], remains=9.0, age=0.0, stamp=Stamp("e", 7))
    answer = fields(cache_control="max-age=5", vary="Accept", cachesync_stamp="e:1")
    found = told(terms, answer=answer)
    assert (found["cache-control"], found["vary"], found["cachesync-stamp"]) == ("max-age=5", "Accept, Cookie", "e:1")
    assert told(terms, answer=fields(vary="*"))["vary"] == "*"


@pytest.mark.parametrize(
    ("remains", "is_hit", "is_stale", "status"),
    [
        (30.0, True, False, "cachesync; hit; ttl=30"),
        (-30.0, True, True, "cachesync; hit; ttl=-30"),
        (30.0, True, True, "cachesync; hit; ttl=-1"),
        (-math.inf, True, True, "cachesync; hit; ttl=-1"),
        (30.0, False, False, "cachesync; fwd=miss"),
    ],
)
def test_the_status_says_whether_it_was_a_hit(remains: float, is_hit: bool, is_stale: bool, status: str) -> None:
    """RFC 9211, 2: a stale hit has a ``ttl`` below zero."""
    assert told(terms_of([policy()], remains=remains, age=0.0, is_hit=is_hit, is_stale=is_stale))["cache-status"] == status


@given(st.floats(allow_nan=False), st.floats(allow_nan=False, allow_infinity=False), st.floats(0, 1e12))
def test_any_lifetime_is_written_as_a_whole_number(remains: float, age: float, most: float) -> None:
    """Cut off, not below zero, and not above 2**31 (RFC 9111, 1.2.2)."""
    found = told(Terms(is_public=False, remains=remains, keeps=max(0.0, min(most - age, remains))))
    for name in ("cache-control", "cachesync-cache-control"):
        seconds = read_cache_control([found[name].encode()]).seconds("max-age")
        assert seconds is not None and 0 <= seconds <= 2**31


def test_vary_says_what_selects_an_answer() -> None:
    """By the fields it names; a star, and nothing does (RFC 9111, 4.1)."""
    request = fields(accept="text/html")
    assert selecting((b"accept", b"cookie"), request) == {b"accept": b"text/html", b"cookie": None}
    assert selecting((b"accept", b"*"), request) is None


def test_the_validators_of_an_answer_are_those_it_carries() -> None:
    """What can not be read is none."""
    assert validators_of(fields(etag='W/"a"', last_modified=NOW)) == Current(EntityTag("a", is_weak=True), read_date(NOW))
    assert validators_of(fields(etag="a", last_modified="now")) == Current()
