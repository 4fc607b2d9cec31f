"""The rules of a shared HTTP cache: Cache-Control, storing, freshness, reuse, validation, invalidation, and that no bytes upset them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesync.core import http_cache as rule
from cachesync.core.cache_control import (
    FOREVER,
    CacheControl,
    control_of,
    read_cache_control,
    read_targeted,
    read_texts,
    write_cache_control,
)
from cachesync.core.header_fields import HeaderFields
from cachesync.core.http_cache import Chosen, Rules, StoredAnswer, Use

NOW = 1_784_000_000.0
DATE = "Tue, 14 Jul 2026 03:33:20 GMT"
BEFORE = "Tue, 14 Jul 2026 02:33:20 GMT"
LATER = "Tue, 14 Jul 2026 03:43:20 GMT"
RULES = Rules()
Said = dict[str, str]


def raw(text: str) -> bytes:
    return text.encode("latin-1", "replace")


def fields(said: Said) -> HeaderFields:
    return HeaderFields((raw(name), raw(value)) for name, value in said.items())


def kept(said: Said | None = None, *, request: Said | None = None, body: bytes = b"0123456789", rules: Rules = RULES) -> StoredAnswer:
    answer = fields(said or {"cache-control": "max-age=60"})
    return rule.stored(fields(request or {}), 200, answer, body, rules, asked=NOW, now=NOW)


# --- Cache-Control -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("max-age=300", 300),
        ('max-age="300"', 300),
        ("MAX-age=300", 300),
        ("max-age=00300", 300),
        ("public,max-age=300 , must-revalidate", 300),
        ("max-age=99999999999999999999", FOREVER),
        ("max-age=" + "9" * 9999, FOREVER),
        ("max-age=-1", 0),
        ("max-age=1.5", 0),
        ("max-age='300'", 0),
        ("max-age", 0),
        ("max-age =300", 0),
        ("max-age= 300", 0),
        ("max-age=300, max-age=5", 300),
        ('a="max-age=300", max-age=5', 5),
        ('max-age=5, a="\\", max-age=300"', 5),
        ('a=", max-age=300', None),
        ("s-maxage=300", None),
        ("", None),
    ],
)
def test_a_lifetime_is_read_as_the_grammar_has_it_and_malformed_it_is_none(text: str, seconds: int | None) -> None:
    """RFC 9111, 1.2.2, 4.2.1 and 5.2."""
    assert read_cache_control([raw(text)]).seconds("max-age") == seconds


def test_a_directive_that_forbids_holds_whatever_its_argument_is() -> None:
    """A cache that does not understand ``no-store=x`` does not store."""
    control = read_cache_control([b"no-store=x, private =y", b"no-cache"])
    assert all(name in control for name in ("no-store", "private", "no-cache"))


def test_the_stricter_of_two_forms_of_a_directive_counts() -> None:
    """``no-cache`` beside ``no-cache="a"`` concerns all of the answer."""
    assert read_cache_control([b'no-cache="a, B"']).names("no-cache") == {b"a", b"b"}
    assert read_cache_control([b'no-cache="a"', b"no-cache"]).names("no-cache") == frozenset()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max-age=60", {"max-age": "60"}),
        ("max-age=60;x=1, private", {"max-age": "60", "private": None}),
        ("a=(1 2);q, no-store=?1, b=?0", {"a": "(1 2)", "no-store": None}),
        ("max-age=1, max-age=2", {"max-age": "2"}),
        ("", None),
        ("max-age =60", None),
        ("Max-Age=60", None),
        ("max-age=60,", None),
        ("max-age=60 private", None),
    ],
)
def test_a_targeted_field_is_a_structured_dictionary_or_counts_for_nothing(text: str, expected: dict[str, str | None] | None) -> None:
    """RFC 9213, 2.1 and 2.2."""
    found = read_targeted([raw(text)])
    wanted = None if expected is None else CacheControl((name, None if value is None else raw(value)) for name, value in expected.items())
    assert found == wanted


def test_a_targeted_field_takes_the_place_of_the_others_but_not_of_private() -> None:
    """RFC 9213, 2.2; that ``private`` holds is stricter, and keeps one user's answer from others."""
    said = {"cache-control": "no-store", "expires": BEFORE, "cachesync-cache-control": "max-age=60", "date": DATE}
    assert rule.why_not_stored("GET", fields({}), 200, fields(said), RULES, now=NOW) == ""
    assert rule.lifetime_of(200, fields(said), RULES, now=NOW) == 60
    private = fields({**said, "cache-control": "private, no-cache"})
    assert "private" in control_of(private, RULES.targets)
    assert rule.why_not_stored("GET", fields({}), 200, private, RULES, now=NOW) == "private"


def test_what_is_written_is_read_back() -> None:
    """Numbers are whole and bounded, names of fields are quoted."""
    text = write_cache_control({"private": True, "max-age": 59.9, "s-maxage": 1e12, "no-cache": ["a", "b"], "public": False})
    assert text == b'private, max-age=59, s-maxage=%d, no-cache="a, b"' % FOREVER
    expected = [("private", None), ("max-age", b"59"), ("s-maxage", b"%d" % FOREVER), ("no-cache", b"a, b")]
    assert read_cache_control([text]) == CacheControl(expected)


@pytest.mark.parametrize(
    ("text", "groups"), [('"a", "b;c";p=1', ("a", "b;c")), ('"a\\"b"', ('a"b',)), ('"a" "b"', ()), ("a, b", ()), ('"a",', ()), ("", ())]
)
def test_groups_are_a_structured_list_of_texts(text: str, groups: tuple[str, ...]) -> None:
    """RFC 9875, 2: what is malformed names no group."""
    assert read_texts([raw(text)]) == groups


# --- 3: storing --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_says", "status", "answer_says", "why"),
    [
        ({}, 200, {"cache-control": "max-age=60"}, ""),
        ({}, 404, {"cache-control": "max-age=60"}, ""),
        ({}, 599, {"cache-control": "max-age=60"}, ""),
        ({}, 200, {"expires": LATER, "date": DATE}, ""),
        ({}, 200, {"etag": '"a"'}, ""),
        ({}, 201, {"etag": '"a"'}, "no lifetime"),
        ({}, 200, {}, "no lifetime"),
        ({}, 200, {"cache-control": "max-age=0"}, "no lifetime"),
        ({}, 206, {"cache-control": "max-age=60"}, "status"),
        ({}, 304, {"cache-control": "max-age=60"}, "status"),
        ({}, 200, {"cache-control": "max-age=60, no-store"}, "no-store"),
        ({}, 200, {"cache-control": "max-age=60, no-store, must-understand"}, ""),
        ({}, 599, {"cache-control": "max-age=60, must-understand"}, "must-understand"),
        ({}, 200, {"cache-control": "max-age=60, private"}, "private"),
        ({}, 200, {"cache-control": 'max-age=60, private="x"'}, "private"),
        ({}, 200, {"cache-control": "max-age=60", "set-cookie": "a=b"}, "set-cookie"),
        ({}, 200, {"cache-control": "public, max-age=60", "set-cookie": "a=b"}, "set-cookie"),
        ({}, 200, {"cache-control": 'max-age=60, no-cache="set-cookie"', "set-cookie": "a=b"}, ""),
        ({}, 200, {"cache-control": "max-age=60", "vary": "a, *"}, "vary"),
        ({"authorization": "x"}, 200, {"cache-control": "max-age=60"}, "authorization"),
        ({"authorization": "x"}, 200, {"cache-control": "max-age=60, must-revalidate"}, "authorization"),
        ({"authorization": "x"}, 200, {"cache-control": "max-age=60", "vary": "authorization"}, "authorization"),
        ({"authorization": "x"}, 200, {"cache-control": "max-age=60, public"}, ""),
        ({"authorization": "x"}, 200, {"cache-control": "s-maxage=60"}, ""),
        ({"cookie": "a=b"}, 200, {"cache-control": "max-age=60"}, "cookie"),
        ({"cookie": "a=b"}, 200, {"cache-control": "max-age=60", "vary": "Cookie"}, ""),
        ({"cookie": "a=b"}, 200, {"cache-control": "max-age=60, public"}, ""),
        ({"cache-control": "no-store"}, 200, {"cache-control": "max-age=60"}, "no-store of the request"),
    ],
)
def test_an_answer_is_stored_only_where_every_rule_allows_it(request_says: Said, status: int, answer_says: Said, why: str) -> None:
    """RFC 9111, 3 and 3.5."""
    assert rule.why_not_stored("GET", fields(request_says), status, fields(answer_says), RULES, now=NOW) == why


def test_only_answers_to_get_are_stored() -> None:
    """A HEAD has no body to store, and what a POST answers is about the POST."""
    for method in ("HEAD", "POST", "get"):
        assert rule.why_not_stored(method, fields({}), 200, fields({"cache-control": "max-age=60"}), RULES, now=NOW) == "method"


def test_fields_of_the_connection_and_those_that_no_cache_lists_are_not_stored() -> None:
    """RFC 9111, 3.1 and 5.2.2.4."""
    said = {"Connection": "a, keep-alive", "A": "1", "Keep-Alive": "2", "Age": "3", "B": "4", "C": "5"}
    answer = fields({**said, "Cache-Control": 'max-age=60, no-cache="b"'})
    assert {name for name, _ in rule.storable_fields(answer, RULES)} == {b"c", b"cache-control"}


# --- 4.1: Vary -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "one", "other", "is_equal"),
    [
        ("foo", "Smith, John", "Smith,John", False),
        ("foo", " 1", "1 ", True),
        ("foo", "1", "2", False),
        ("foo", "1", None, False),
        ("foo", None, None, True),
        ("foo", "a", "A", False),
        ("foo", "a,b", "b,a", False),
        ("accept-language", "en, de-AT", "En,de-at", True),
        ("accept-language", "en, de", "de, en", False),
        ("accept-language", "en;q=0.5, de", "en ; q=0.5,de", True),
        ("accept-language", "en;q=0.5, de", "en, de;q=0.5", False),
        ("accept-encoding", "gzip;q=0.5, br", "BR,gzip ;q=0.5", True),
        ("accept-encoding", "gzip;q=0.5, br", "gzip, br;q=0.5", False),
        ("accept", 'text/x;v="A"', 'text/x;v="a"', False),
        ("cookie", "a=b", "A=b", False),
    ],
)
def test_requests_select_the_same_answer_where_they_mean_the_same(name: str, one: str | None, other: str | None, is_equal: bool) -> None:
    """RFC 9111, 4.1."""
    first, second = (rule.selected((raw(name),), fields({} if text is None else {name: text})) for text in (one, other))
    assert (first == second) is is_equal


def test_vary_names_are_told_apart_by_nothing_but_their_letters() -> None:
    """``Vary: Foo, bar,foo`` is two names."""
    assert rule.vary_names(fields({"vary": "Foo, bar,,foo"})) == (b"bar", b"foo")
    assert rule.vary_names(fields({})) == ()
    assert rule.vary_names(fields({"vary": ", *"})) is None


# --- 4.2: freshness ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ({"cache-control": "max-age=60, s-maxage=10", "expires": LATER, "date": DATE}, 10),
        ({"cache-control": "max-age=60", "expires": LATER, "date": DATE}, 60),
        ({"expires": LATER, "date": DATE}, 600),
        ({"expires": LATER.upper(), "date": DATE}, 600),
        ({"expires": LATER, "date": LATER}, 0),
        ({"expires": LATER}, 600),
        ({"expires": LATER, "date": "no date"}, 600),
        ({"expires": "0", "date": DATE}, 0),
        ({"expires": LATER.replace("GMT", "UTC"), "date": DATE}, 0),
        ({"expires": f"{LATER}, {LATER}", "date": DATE}, 0),
        ({"last-modified": BEFORE, "date": DATE}, 0),
        ({}, 0),
    ],
)
def test_how_long_an_answer_is_fresh(said: Said, seconds: float) -> None:
    """RFC 9111, 4.2.1 and 5.3; no heuristic unless it is asked for."""
    assert rule.lifetime_of(200, fields(said), RULES, now=NOW) == seconds


def test_a_heuristic_lifetime_is_a_part_of_the_time_since_the_last_change_where_that_is_asked_for() -> None:
    """RFC 9111, 4.2.2: never beside an explicit lifetime, and never for a status that forbids it."""
    rules = Rules(heuristic=0.1)
    said = fields({"last-modified": BEFORE, "date": DATE})
    assert rule.lifetime_of(200, said, rules, now=NOW) == pytest.approx(360)
    assert rule.lifetime_of(200, said, Rules(heuristic=0.1, longest_heuristic=5), now=NOW) == 5
    assert rule.lifetime_of(403, said, rules, now=NOW) == 0
    assert rule.lifetime_of(403, fields({"last-modified": BEFORE, "date": DATE, "cache-control": "public"}), rules, now=NOW) > 0
    assert rule.lifetime_of(200, fields({"last-modified": BEFORE, "expires": "0"}), rules, now=NOW) == 0


@pytest.mark.parametrize(
    ("said", "asked", "seconds"),
    [
        ({}, 0.0, 0),
        ({"date": BEFORE}, 0.0, 3600),
        ({"date": LATER}, 0.0, 0),
        ({"age": "100"}, 5.0, 105),
        ({"date": BEFORE, "age": "100"}, 5.0, 3600),
        ({"age": "7200, 0"}, 0.0, 7200),
        ({"age": "0, 7200"}, 0.0, 0),
        ({"age": "abc"}, 0.0, 0),
        ({"age": "-5"}, 0.0, 0),
        ({"age": "9" * 5000}, 0.0, FOREVER),
    ],
)
def test_how_old_an_answer_is_when_it_arrives(said: Said, asked: float, seconds: float) -> None:
    """RFC 9111, 4.2.3 and 5.1."""
    assert rule.initial_age(fields(said), asked=NOW - asked, now=NOW) == seconds


# --- 4: using it ---------------------------------------------------------------------------------------------------------------------

SERVE, STALE, VALIDATE, ASKED = (
    Chosen(Use.SERVE),
    Chosen(Use.SERVE_AND_REFRESH),
    Chosen(Use.VALIDATE, "stale"),
    Chosen(Use.VALIDATE, "request"),
)


@pytest.mark.parametrize(
    ("answer_says", "request_says", "resident", "chosen"),
    [
        ("max-age=60", "", 0, SERVE),
        ("max-age=60", "", 59.9, SERVE),
        ("max-age=60", "", 60, VALIDATE),
        ("max-age=60, no-cache", "", 0, VALIDATE),
        ("max-age=60", "no-cache", 0, ASKED),
        ("max-age=60", "max-age=10", 10, SERVE),
        ("max-age=60", "max-age=10", 11, ASKED),
        ("max-age=60", "max-age=x", 1, ASKED),
        ("max-age=60", "min-fresh=10", 50, SERVE),
        ("max-age=60", "min-fresh=10", 51, ASKED),
        ("max-age=60", "max-stale", 9999, SERVE),
        ("max-age=60", "max-stale=10", 70, SERVE),
        ("max-age=60", "max-stale=10", 71, VALIDATE),
        ("max-age=60, must-revalidate", "max-stale", 61, VALIDATE),
        ("max-age=60, proxy-revalidate", "max-stale", 61, VALIDATE),
        ("s-maxage=60", "max-stale", 61, VALIDATE),
        ("max-age=60, stale-while-revalidate=30", "", 89, STALE),
        ("max-age=60, stale-while-revalidate=30", "", 90, VALIDATE),
        ("max-age=60, stale-while-revalidate=30, must-revalidate", "", 61, VALIDATE),
        ("max-age=60, stale-while-revalidate=30", "no-cache", 61, ASKED),
    ],
)
def test_when_a_stored_answer_may_be_used(answer_says: str, request_says: str, resident: float, chosen: Chosen) -> None:
    """RFC 9111, 4.2.4, 5.2.1 and 5.2.2; RFC 5861, 3."""
    assert rule.choose(kept({"cache-control": answer_says}), fields({"cache-control": request_says}), resident, RULES) == chosen


def test_what_clients_ask_for_can_be_left_unheard() -> None:
    """RFC 9111, 5.2.1: their directives are advice."""
    deaf = Rules(obeys_requests=False)
    assert rule.choose(kept(), fields({"cache-control": "no-cache, max-age=0, min-fresh=999"}), 1, deaf) == SERVE
    assert not rule.wants_only_stored(fields({"cache-control": "only-if-cached"}), deaf)
    assert rule.wants_only_stored(fields({"cache-control": "only-if-cached"}), RULES)


def test_who_is_known_by_name_is_not_shown_what_was_made_for_others() -> None:
    """Beyond RFC 9111, 3.5: a stored answer is for a request with ``Authorization`` only where it says that it is for all."""
    known = fields({"authorization": "x"})
    assert rule.choose(kept(), known, 0, RULES) == Chosen(Use.PASS, "bypass")
    assert rule.choose(kept({"cache-control": "public, max-age=60"}), known, 0, RULES) == SERVE
    assert not rule.may_stand_in(kept(), known, 99, RULES)


def test_what_was_ended_softly_is_served_while_it_is_refreshed_unless_it_forbids_that() -> None:
    """An invalidation with ``soft=True`` says that the old answer may be shown."""
    assert rule.choose(kept(), fields({}), 0, RULES, is_ended=True) == STALE
    assert rule.choose(kept({"cache-control": "max-age=60, must-revalidate"}), fields({}), 0, RULES, is_ended=True) == VALIDATE


@pytest.mark.parametrize(
    ("answer_says", "request_says", "resident", "may"),
    [
        ("max-age=60", "", 9999, True),
        ("max-age=60, stale-if-error=30", "", 89, True),
        ("max-age=60, stale-if-error=30", "", 90, False),
        ("max-age=60, stale-if-error=30", "stale-if-error=100", 90, True),
        ("max-age=60, must-revalidate", "", 61, False),
        ("max-age=60, no-cache", "", 0, False),
        ("s-maxage=60", "", 61, False),
    ],
)
def test_when_a_stale_answer_may_stand_in_for_an_error(answer_says: str, request_says: str, resident: float, may: bool) -> None:
    """RFC 9111, 4.2.4; RFC 5861, 4."""
    answer = kept({"cache-control": answer_says})
    assert rule.may_stand_in(answer, fields({"cache-control": request_says}), resident, RULES) is may


# --- 4.3: validation -----------------------------------------------------------------------------------------------------------------


def test_a_stored_answer_is_asked_about_by_both_validators() -> None:
    """RFC 9111, 4.3.1; what is malformed asks nothing."""
    answer = kept({"etag": 'W/"a"', "last-modified": BEFORE})
    assert rule.conditions(answer) == ((b"if-none-match", b'W/"a"'), (b"if-modified-since", raw(BEFORE)))
    assert rule.conditions(kept({"cache-control": "max-age=1", "etag": "a", "last-modified": "yesterday"})) == ()


@pytest.mark.parametrize(
    ("stored_says", "told", "is_freshened"),
    [
        ({"etag": '"a"'}, {"etag": '"a"'}, True),
        ({"etag": '"a"'}, {"etag": '"b"'}, False),
        ({"etag": 'W/"a"'}, {"etag": 'W/"a"'}, True),
        ({"etag": 'W/"a"'}, {"etag": '"a"'}, False),
        ({"etag": '"a"'}, {}, True),
        ({"last-modified": BEFORE}, {"last-modified": BEFORE}, True),
        ({"last-modified": BEFORE}, {"last-modified": DATE}, False),
        ({"etag": '"a"'}, {"etag": "bytes"}, False),
    ],
)
def test_a_304_freshens_only_the_answer_it_speaks_of(stored_says: Said, told: Said, is_freshened: bool) -> None:
    """RFC 9111, 4.3.4."""
    assert rule.is_freshened_by(kept(stored_says), fields(told)) is is_freshened


def test_a_304_brings_new_fields_and_leaves_those_that_describe_the_body() -> None:
    """RFC 9111, 3.2 and 4.3.4; what the answer depends on stays."""
    said = {"cache-control": "max-age=1", "etag": '"a"', "content-type": "text/plain", "content-length": "10", "x": "old", "y": "kept"}
    answer = replace(kept(said), dependencies=(("k", "stores:JKT"),))
    told = {"Cache-Control": "max-age=60", "ETag": '"a"', "X": "new", "Content-Length": "0", "Set-Cookie": "a=b", "Connection": "x"}
    newer = rule.freshened(answer, fields({}), fields(told), RULES, asked=NOW, now=NOW)
    expected = {"etag": '"a"', "content-type": "text/plain", "content-length": "10", "y": "kept", "cache-control": "max-age=60"}
    assert dict(newer.pairs) == dict(fields(expected))
    assert (newer.lifetime, newer.body, newer.dependencies) == (60, answer.body, (("k", "stores:JKT"),))


@pytest.mark.parametrize(
    ("request_says", "is_known"),
    [
        ({}, False),
        ({"if-none-match": '"b", W/"a"'}, True),
        ({"if-none-match": '"b"'}, False),
        ({"if-none-match": '"b"', "if-modified-since": LATER}, False),
        ({"if-modified-since": BEFORE}, True),
        ({"if-modified-since": "Tuesday, 14-Jul-26 02:33:20 GMT"}, True),
        ({"if-modified-since": "Tue, 14 Jul 2026 02:33:19 GMT"}, False),
    ],
)
def test_who_has_the_stored_answer_is_told_so(request_says: Said, is_known: bool) -> None:
    """RFC 9111, 4.3.2."""
    answer = kept({"etag": '"a"', "last-modified": BEFORE, "date": DATE})
    assert rule.is_known(answer, "GET", fields(request_says), now=NOW) is is_known


def test_the_date_stands_in_for_a_last_change_that_is_not_told() -> None:
    """RFC 9111, 4.3.2."""
    answer = kept({"cache-control": "max-age=60", "date": DATE})
    assert rule.is_known(answer, "GET", fields({"if-modified-since": DATE}), now=NOW)
    assert not rule.is_known(answer, "GET", fields({"if-modified-since": BEFORE}), now=NOW)


@pytest.mark.parametrize(
    ("head", "is_contradicted"),
    [({}, False), ({"etag": '"a"', "content-length": "10"}, False), ({"etag": '"b"'}, True), ({"content-length": "11"}, True)],
)
def test_a_head_may_show_that_what_is_stored_is_out_of_date(head: Said, is_contradicted: bool) -> None:
    """RFC 9111, 4.3.5."""
    assert rule.is_contradicted_by(kept({"etag": '"a"'}), fields(head)) is is_contradicted


# --- 4.4: invalidation ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "status", "ends"),
    [("POST", 200, True), ("PUT", 303, True), ("NONSENSE", 204, True), ("POST", 400, False), ("POST", 500, False), ("GET", 200, False)],
)
def test_what_changes_something_and_succeeds_ends_what_is_stored(method: str, status: int, ends: bool) -> None:
    """RFC 9111, 4.4: also methods that nobody knows."""
    assert rule.ends(method, status) is ends


@pytest.mark.parametrize(
    ("said", "others"),
    [
        ({}, ()),
        ({"location": "/b?c=1#d"}, ("http://h/b?c=1",)),
        ({"location": "HTTP://H/b", "content-location": "c"}, ("http://h/b", "http://h/c")),
        ({"location": "http://other/b"}, ()),
        ({"location": "https://h/b"}, ()),
        ({"location": "http://h:81/b"}, ()),
        ({"location": "http://[/b"}, ()),
        ({"location": "http://h:x/b"}, ()),
    ],
)
def test_addresses_of_the_same_origin_are_ended_too_and_no_others(said: Said, others: tuple[str, ...]) -> None:
    """RFC 9111, 4.4."""
    assert rule.ended_urls("http://h/a", fields(said)) == ("http://h/a", *others)


def test_groups_are_ended_by_methods_that_change_something_alone() -> None:
    """RFC 9875, 3."""
    said = fields({"cache-group-invalidation": '"a", "b"'})
    assert rule.ended_groups("POST", said) == ("a", "b")
    assert rule.ended_groups("GET", said) == ()


# --- parts and Cache-Status ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_says", "part"),
    [
        ({"range": "bytes=0-1"}, (0, 1)),
        ({"range": "bytes=8-99"}, (8, 9)),
        ({"range": "bytes=5-"}, (5, 9)),
        ({"range": "bytes=-3"}, (7, 9)),
        ({"range": "bytes=-99"}, (0, 9)),
        ({"range": "bytes=-0"}, None),
        ({"range": "bytes=10-"}, None),
        ({"range": "bytes=3-2"}, None),
        ({"range": "bytes=0-1,3-4"}, None),
        ({"range": "lines=0-1"}, None),
        ({"range": "bytes=0-1", "if-range": '"a"'}, (0, 1)),
        ({"range": "bytes=0-1", "if-range": '"b"'}, None),
        ({"range": "bytes=0-1", "if-range": BEFORE}, None),
        ({}, None),
    ],
)
def test_one_part_of_a_stored_answer_can_be_sent(request_says: Said, part: tuple[int, int] | None) -> None:
    """RFC 9110, 13.1.5 and 14.1.2; what is no single range, all is sent."""
    assert rule.part_of(kept({"etag": '"a"'}), fields(request_says)) == part


def test_cache_status_is_written_as_a_list_member() -> None:
    """RFC 9211, 2: ``ttl`` is rounded down, also below zero."""
    assert rule.cache_status(ttl=1.9) == b"cachesync; hit; ttl=1"
    assert rule.cache_status(ttl=-0.5) == b"cachesync; hit; ttl=-1"
    assert rule.cache_status(fwd="stale", fwd_status=304, is_stored=True) == b"cachesync; fwd=stale; fwd-status=304; stored"
    assert rule.cache_status(fwd="miss", is_collapsed=True, detail="x") == b'cachesync; fwd=miss; collapsed; detail="x"'


# --- whatever bytes come ---------------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    (
        *("cache-control", "cachesync-cache-control", "expires", "date", "age", "last-modified", "etag", "vary", "set-cookie", "location"),
        *("connection", "cache-groups", "cache-group-invalidation", "content-location", "content-length", "authorization", "cookie"),
        *("if-none-match", "if-modified-since", "if-range", "range", "x"),
    )
)
LIKELY = st.sampled_from(
    (
        *("max-age=60", "private", "public", "no-store", "no-cache", 's-maxage="1"', "must-understand", "*", DATE, LATER, '"a"', 'W/"a"'),
        *("bytes=0-", "bytes=-1", "0", "60", "x", '"', "\\", ",", "=", ";", " ", "\x00", "\xff", "http://[", "//h:x", "/b"),
    )
)
VALUES = st.one_of(st.lists(LIKELY, max_size=6).map("".join), st.binary(max_size=40).map(lambda raw: raw.decode("latin-1")))
ANY = st.lists(st.tuples(NAMES.map(raw), VALUES.map(raw)), max_size=8).map(HeaderFields)


@given(asked=ANY, said=ANY, newer=ANY, status=st.integers(100, 999), resident=st.floats(0, 1e9))
def test_no_bytes_upset_the_rules(
    asked: HeaderFields,
    said: HeaderFields,
    newer: HeaderFields,
    status: int,
    resident: float,
) -> None:
    """Whatever client and application say, nothing is raised, and what belongs to one user is not stored."""
    why = rule.why_not_stored("GET", asked, status, said, RULES, now=NOW)
    control = control_of(said, RULES.targets)
    if not why:
        assert "private" not in read_cache_control(said.lines(b"cache-control"))
        assert b"set-cookie" not in said or b"set-cookie" in control.names("no-cache")
        assert b"authorization" not in asked or "public" in control or "s-maxage" in control
        assert b"set-cookie" not in rule.storable_fields(said, RULES)
    found = rule.stored(asked, status, said, b"0123456789", RULES, asked=NOW, now=NOW)
    assert found.initial_age >= 0 and found.lifetime >= 0
    chosen = rule.choose(found, asked, resident, RULES)
    assert chosen.use is not Use.SERVE or found.remains(resident) > 0 or b"max-stale" in (asked.value(b"cache-control") or b"").lower()
    rule.may_stand_in(found, asked, resident, RULES)
    rule.conditions(found)
    rule.is_freshened_by(found, newer)
    assert rule.freshened(found, asked, newer, RULES, asked=NOW, now=NOW).body == found.body
    rule.is_known(found, "GET", asked, now=NOW)
    rule.is_contradicted_by(found, newer)
    assert all(url.startswith("http://h/") for url in rule.ended_urls("http://h/a", said))
    rule.groups_of(said)
    rule.ended_groups("POST", said)
    part = rule.part_of(found, asked)
    assert part is None or 0 <= part[0] <= part[1] < 10


@given(text=st.one_of(VALUES, st.text(max_size=60)))
def test_no_text_upsets_the_readers_of_directives(text: str) -> None:
    """They answer for anything, in time that grows with its length."""
    read_cache_control([raw(text)]).seconds("max-age")
    read_targeted([raw(text)])
    read_texts([raw(text)])


@pytest.mark.parametrize("piece", ['"', '\\"', "a=(", '"a" ', "a=1;", ", ", 'a="\\', "a;b;", '"",'])
def test_long_fields_are_read_at_once(piece: str) -> None:
    """No pattern of them makes the readers go back again and again: a hundred thousand characters would take for ever."""
    text = piece * 100_000
    read_cache_control([raw(text)])
    read_targeted([raw(text)])
    read_texts([raw(text)])
