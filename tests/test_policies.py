"""Policies as values: their rules, the one a key gets, and the one a template gets."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesync.core.patterns import DIGITS, HOLE, Pattern, intersects
from cachesync.core.policies import MOST_TIES, Policies, ties
from cachesync.core.policy import HttpPolicy, Policy
from cachesync.core.redis_url import address_of_url, read_cluster_url, read_sentinel_url
from cachesync.core.rules import dotted
from cachesync.core.section import Section
from cachesync.core.settings import CoordinationSettings, LocalSettings, RedisSettings, Settings, WarmingSettings
from cachesync.errors import KeyTemplateError, PolicyError

SECTIONS: list[type[Section]] = [Policy, HttpPolicy, RedisSettings, CoordinationSettings, LocalSettings, WarmingSettings]


def policy(match: str = "stores:*", name: str = "stores", **others: Any) -> Policy:
    settings: dict[str, Any] = {"name": name, "match": match, "ttl": "5m", **others}
    return Policy(**settings)


def problems(build: Callable[[], object]) -> tuple[str, ...]:
    with pytest.raises(PolicyError) as refused:
        build()
    return refused.value.problems


# --- one policy -----------------------------------------------------------------------------------------------------------------


def test_durations_and_sizes_are_numbers_or_texts() -> None:
    """Both spellings make the same policy, which holds seconds and bytes."""
    texts = Policy(name="a", match="a*", ttl="5m", local_ttl="30s", compress_over="16KiB", http=HttpPolicy(max_age="0s"))
    numbers = Policy(name="a", match="a**", ttl=300, local_ttl=30.0, compress_over=16384, http=HttpPolicy(max_age=0))
    assert texts == numbers
    assert hash(texts) == hash(numbers)
    assert (texts.ttl, texts.compress_over, numbers.match) == (300.0, 16384, "a*")
    assert isinstance(numbers.ttl, float)


def test_a_policy_can_not_be_changed_but_replaced_copied_and_pickled() -> None:
    """It is a value."""
    one = policy(http=HttpPolicy(vary=["Accept"]), tags=["a"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.version = 2  # type: ignore[misc]  # that it fails is the point
    changed = dataclasses.replace(one, ttl=60.0, match="shops:*")
    assert (changed.ttl, changed.tags, changed.pattern.prefix) == (60.0, ("a",), "shops:")
    assert pickle.loads(pickle.dumps(one)) == one
    assert not hasattr(one, "__dict__")


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("name", "My stores", 'policy."My stores".name: "My stores" is not a name; write "my-stores"'),
        ("match", "", 'policy.stores.match: "" is not a pattern; write "*"'),
        ("match", 7, "policy.stores.match: 7 is not a pattern"),
        ("ttl", "5 mins", 'policy.stores.ttl: "5 mins" is not a duration; write "5m"'),
        ("ttl", 0, "policy.stores.ttl: 0 is not a duration above zero"),
        ("ttl", True, "policy.stores.ttl: true is not a duration"),
        ("early_refresh", 0, "policy.stores.early_refresh: 0 is not a number above 0 and below 1"),
        ("early_refresh", 1.0, "is not a number above 0 and below 1"),
        ("jitter", 1, "policy.stores.jitter: 1 is not a number from 0 and below 1"),
        ("jitter", float("nan"), "nan is not a number from 0 and below 1"),
        ("shadow", 1.01, "1.01 is not a number from 0 to 1"),
        ("ramp", -0.1, "-0.1 is not a number from 0 to 1"),
        ("ramp", "1", '"1" is not a number from 0 to 1'),
        ("version", 0, "0 is not a whole number from 1 to 4294967295"),
        ("version", 2**32, "4294967296 is not a whole number from 1"),
        ("version", 1.0, "1.0 is not a whole number"),
        ("version", True, "true is not a whole number"),
        ("tags", "stores", 'policy.stores.tags: "stores" is not a list of texts; write one, such as ["stores"]'),
        ("tags", "", 'policy.stores.tags: "" is not a list of texts; write one, such as ["stores"]'),
        ("tags", ["a", "", 3], 'policy.stores.tags[1]: "" is not a text for this list'),
        ("mask", {"phone"}, "policy.stores.mask: a value of type set is not a list of texts"),
        ("consistency", "strickt", 'is not one of "bounded", "strict"; write "strict"'),
        ("on_disconnect", None, 'null is not one of "bypass", "serve"; write "bypass"'),
        ("compress_over", "16 kb", 'policy.stores.compress_over: "16 kb" is not a size; write "16kB"'),
        ("copy", "yes", 'policy.stores.copy: "yes" is not true or false; write true, without quotes'),
        ("copy", 0, "0 is not true or false; write false"),
        ("encrypt", 1, "policy.stores.encrypt: 1 is not true or false; write true, without quotes"),
        ("http", {}, "policy.stores.http: a table is not an HTTP policy; write HttpPolicy(...)"),
        ("min_ttl", "10s", 'policy.stores.min_ttl: only a dynamic ttl has bounds; leave it out, or write ttl = "dynamic"'),
        ("soft_timeout", 0, "policy.stores.soft_timeout: 0 is not a duration above zero"),
        ("stale_if_error", -1, "policy.stores.stale_if_error: -1 is not a duration"),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_it(setting: str, value: Any, says: str) -> None:
    """Setting, value, and what would be right."""
    assert says in problems(lambda: policy(**{setting: value}))[0]


def test_all_mistakes_are_told_at_once() -> None:
    """Not one per run, and a wrong bound is not called missing as well."""
    told = problems(
        lambda: policy(
            name="x", match="", ttl="dynamic", min_ttl="5 m", jitter=2, soft_timeout="2s", hard_timeout="1s", encrypt=1, mask=["", ""]
        )
    )
    assert [text.split(":")[0] for text in told] == [
        "policy.x.match",
        "policy.x.min_ttl",
        "policy.x.jitter",
        "policy.x.encrypt",
        "policy.x.mask[0]",
        "policy.x.mask[1]",
        "policy.x.max_ttl",
        "policy.x.soft_timeout",
    ]


@pytest.mark.parametrize("ttl", [None, "dynamic"])
def test_a_dynamic_ttl_needs_both_bounds(ttl: str | None) -> None:
    """Without bounds a function could keep a value for ever."""
    told = problems(lambda: policy(ttl=ttl))
    assert [text.split(";")[0] for text in told] == ["policy.stores.min_ttl: missing", "policy.stores.max_ttl: missing"]
    assert "more than the 3 seconds of max_ttl" in problems(lambda: policy(ttl=ttl, min_ttl=5, max_ttl=3))[0]
    found = policy(ttl=ttl, min_ttl="3s", max_ttl="3s")
    assert found.is_dynamic
    assert found.ttl is None
    assert not policy().is_dynamic


@given(st.none() | st.floats(), st.floats(1, 100), st.floats(100, 1000))
def test_a_dynamic_lifetime_stays_within_its_bounds(wanted: float | None, least: float, most: float) -> None:
    """Nothing, NaN and infinity included; what lies within is kept as it is."""
    found = policy(ttl="dynamic", min_ttl=least, max_ttl=most).lifetime(wanted)
    assert least <= found <= most
    if wanted is not None and least <= wanted <= most:
        assert found == wanted


def test_a_fixed_lifetime_is_the_ttl() -> None:
    """What somebody else wants does not count."""
    assert policy().lifetime() == policy().lifetime(7.0) == 300.0


def test_a_local_copy_lives_no_longer_than_its_value() -> None:
    """A longer local_ttl is no error; it is cut."""
    assert policy(local_ttl="1h").local_ttl == 300.0
    assert policy(local_ttl="10s").local_ttl == 10.0
    assert policy(local_ttl=0).local_ttl == 0.0
    assert policy(ttl="dynamic", min_ttl=1, max_ttl=60, local_ttl=90).local_ttl == 60.0
    assert policy().local_ttl is None


def test_the_longest_life_counts_every_window() -> None:
    """What forgets bans relies on it, so it is never less than any copy may live."""
    assert policy().longest_life == 300.0
    assert policy(stale_while_revalidate=60, stale_if_error=3600).longest_life == 3900.0
    assert policy(ttl="dynamic", min_ttl=1, max_ttl=100, stale_while_revalidate=5).longest_life == 105.0
    assert policy(jitter=0.5).longest_life == 450.0
    assert policy(negative_ttl="10m").longest_life == 600.0


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_has_a_rule_that_leaves_its_default_alone(section: type[Section]) -> None:
    """Fields, parameters and rules have the same names; reading twice changes nothing."""
    parameters = list(inspect.signature(section).parameters)
    assert list(section.rules) == parameters
    for name, default in section.defaults().items():
        assert section.rules[name].read(default) == default


# --- several policies -----------------------------------------------------------------------------------------------------------

SHOP = Policies(
    [
        policy("*", "rest"),
        policy("stores:*", "stores"),
        policy("stores:*:stats:*", "stats"),
        policy("stores:JKT", "jakarta"),
        policy("*:audit-log", "audit"),
    ]
)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("stores:BDG", "stores"),
        ("stores:JKT", "jakarta"),
        ("stores:JKT:stats:7", "stats"),
        ("stores:audit-log", "audit"),
        ("anything", "rest"),
        ("", "rest"),
    ],
)
def test_the_policy_with_most_literal_characters_wins(key: str, name: str) -> None:
    """In whatever order they stand, the first time and every time."""
    for _ in range(2):
        found = SHOP.match(key)
        assert found is not None
        assert found.name == name


def test_a_key_without_a_policy_has_none() -> None:
    """There is no hidden default."""
    assert Policies([policy()]).match("users:1") is None
    assert Policies().match("users:1") is None


@given(st.lists(st.text("ab*", min_size=1, max_size=4), max_size=5), st.lists(st.text("ab", max_size=5), max_size=10))
def test_matching_agrees_with_looking_at_every_policy(patterns: list[str], keys: list[str]) -> None:
    """Or the patterns tie, and there are no such policies."""
    given_policies = [policy(text, f"p{index}") for index, text in enumerate(patterns)]
    try:
        policies = Policies(given_policies)
    except PolicyError:
        return
    for key in keys:
        matching = [found for found in given_policies if found.pattern.matches(key)]
        best = max(matching, key=lambda found: found.pattern.literals, default=None)
        assert policies.match(key) is best
        assert best is None or [found.pattern.literals for found in matching].count(best.pattern.literals) == 1


def test_remembered_answers_are_bounded() -> None:
    """A million different keys do not fill the memory, and the answers stay right."""
    policies = Policies([policy()])
    assert all(policies.match(f"stores:{number}") is not None for number in range(20_000))
    kept = policies._memo  # pyright: ignore[reportPrivateUsage] # nothing public shows the bound
    assert len(kept) <= 5_000


def test_policies_keep_their_order_and_are_found_by_name() -> None:
    """As they stand in the file."""
    assert [found.name for found in SHOP] == ["rest", "stores", "stats", "jakarta", "audit"]
    assert len(SHOP) == 5
    assert SHOP.get("stats") is list(SHOP)[2]
    assert SHOP.get("nobody") is None
    assert Policies(list(SHOP)) == SHOP
    assert hash(SHOP) == hash(Policies(list(SHOP)))
    assert Policies() != SHOP
    assert "jakarta" in repr(SHOP)


def test_two_equally_specific_policies_for_one_key_are_refused() -> None:
    """A tie would be settled by chance; both are named."""
    told = problems(lambda: Policies([policy("a*:x", "one"), policy("a:*x", "two"), policy("b*:x", "three")]))
    assert len(told) == 1
    assert told[0].startswith('policy.two.match: "a:*x" ties with "a*:x" of policy.one: ')
    assert problems(lambda: Policies([policy("stores*", "one"), policy("stores", "two")]))
    assert len(Policies([policy("a*", "one"), policy("b*", "two"), policy("*", "three")])) == 3


@given(st.lists(st.text("ab:*", min_size=1, max_size=4), max_size=6))
def test_every_tie_is_told_in_the_order_of_the_policies(texts: list[str]) -> None:
    """The ones that a comparison of all with all finds, whatever is skipped on the way."""
    patterns = {f"p{index}": Pattern.parse(text) for index, text in enumerate(texts)}
    pairs = [(one, two) for two in patterns for one in patterns if int(one[1:]) < int(two[1:])]
    alike = [(one, two) for one, two in pairs if patterns[one].literals == patterns[two].literals]
    assert ties(patterns) == [(one, two) for one, two in alike if intersects(patterns[one].text, patterns[two].text)]


def test_patterns_with_different_prefixes_are_never_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of policies of the usual form are looked through once, not each beside each other."""
    compared: list[str] = []

    def counted(one: Pattern, other: Pattern) -> bool:
        compared.append(one.text)
        return False

    monkeypatch.setattr(Pattern, "overlaps", counted)
    kinds = [f"kind-{number:04}" for number in range(3000)]
    assert ties({name: Pattern.parse(f"{name}:*") for name in kinds}) == []
    assert compared == []
    assert ties({f"{name}-{rest}": Pattern.parse(f"{name}:{rest}") for name in kinds for rest in ("*x", "y*")}) == []
    assert len(compared) == len(kinds)


def test_so_many_ties_are_told_that_one_can_read_them() -> None:
    """A file of a thousand equal patterns does not fill the memory with their pairs."""
    assert len(ties({f"p{number}": Pattern.parse("a:*") for number in range(1000)})) == MOST_TIES


def test_a_name_stands_once() -> None:
    """Else one of the two would silently not count."""
    assert "policy.stores: this name stands 2 times" in problems(lambda: Policies([policy("a"), policy("b")]))[0]


@pytest.mark.parametrize(
    ("shape", "name"),
    [(f"stores:{HOLE}:stats:{DIGITS}", "stats"), ("stores:JKT", "jakarta"), (f"users:{DIGITS}", "rest"), (f"{HOLE}:audit-log", "audit")],
)
def test_a_template_gets_the_policy_of_all_its_keys(shape: str, name: str) -> None:
    """The most specific one that covers it."""
    assert SHOP.for_shape(shape).name == name


def test_a_template_that_a_more_specific_policy_touches_is_refused() -> None:
    """Some of its keys would live by other rules than the rest."""
    with pytest.raises(KeyTemplateError, match=r'policy.jakarta \(match = "stores:JKT"\) matches only a part of .* "stores:{}"'):
        SHOP.for_shape(f"stores:{HOLE}")


@given(st.lists(st.text("a:*", min_size=1, max_size=4), max_size=4), st.text("a:" + HOLE, max_size=4))
def test_every_key_of_a_template_has_the_policy_of_the_template(patterns: list[str], shape: str) -> None:
    """Whatever the holes are filled with; or the template is refused."""
    try:
        policies = Policies([policy(text, f"p{index}") for index, text in enumerate(patterns)])
        found = policies.for_shape(shape)
    except (PolicyError, KeyTemplateError):
        return
    for filling in ("", "a", "aa", "aaaaa", "b"):
        assert policies.match(shape.replace(HOLE, filling)) is found


def test_a_template_without_a_policy_is_told_what_was_tried() -> None:
    """All patterns, and the nearest of them."""
    policies = Policies([policy("stores:*"), policy("users:*", "users")])
    with pytest.raises(KeyTemplateError, match=r'template "store:{}"; tried "stores:\*", "users:\*"; the nearest is "stores:\*"'):
        policies.for_shape(f"store:{DIGITS}")
    with pytest.raises(KeyTemplateError, match="there is no policy at all"):
        Policies().for_shape("x")
    with pytest.raises(KeyTemplateError, match="and 10 more"):
        Policies([policy(f"a{number}:*", f"p{number}") for number in range(10, 40)]).for_shape("x")


# --- the other tables -----------------------------------------------------------------------------------------------------------


def test_the_defaults_need_nothing() -> None:
    """No file, no Redis: one process."""
    usual = Settings()
    assert (usual.namespace, usual.redis, usual.enabled, usual.file, len(usual.policies)) == ("cachesync", None, True, None, 0)
    assert usual.coordination == CoordinationSettings(max_lag="2s", budget="250ms", lease="10s", durable=False)
    assert usual.local == LocalSettings(max_entries=100_000, max_bytes="256MiB")


def test_settings_are_examined_too() -> None:
    """Namespace and names of durations, all at once."""
    told = problems(lambda: Settings(namespace="", ttl={"dynamic": 1.0, "5m": 1.0, "short": -1.0, "fine": 1.0}))
    assert [text.split(":")[0] for text in told] == ["namespace", "ttl.dynamic", "ttl.5m", "ttl.short"]
    assert len(problems(lambda: CoordinationSettings(max_lag=0, budget="soon"))) == 2
    assert len(problems(lambda: LocalSettings(max_entries=0, max_bytes=0))) == 2
    assert len(problems(lambda: WarmingSettings(concurrency=0, spread="soon", pause=-1))) == 3


def test_named_durations_can_not_be_changed() -> None:
    """Settings are a value, although they hold a mapping."""
    names = {"short": 60.0}
    found = Settings(ttl=names)
    names["short"] = 1.0
    assert found.ttl["short"] == 60.0
    with pytest.raises(TypeError):
        found.ttl["short"] = 2.0  # type: ignore[index]  # that it fails is the point


@pytest.mark.parametrize(
    "url",
    [
        *("redis://localhost", "redis://localhost:6379/0", "rediss://user:p%23s@host:1/15", "unix:///run/redis.sock"),
        *("unix://u:p@/a?db=1", "redis://[::1]:6379", "redis://h/0?socket_timeout=1"),
        *(
            "redis+sentinel://h/shop",
            "redis+sentinel://u:p%2F@h:1,h2:2,[::1]:3/shop/2?sentinel_password=x",
            "rediss+sentinel://h,h2/shop/0",
        ),
    ],
)
def test_a_redis_url_is_kept_and_not_shown(url: str) -> None:
    """It may hold a password."""
    found = RedisSettings(url)
    assert found.url == url
    assert url not in repr(Settings(redis=found))


def test_a_url_of_sentinels_says_whom_to_ask_for_what() -> None:
    """User and password belong to the server, unless they are those of the sentinels; a port may be left out."""
    url = "rediss+sentinel://u:p%2Fw@a:1,[::1]:2,b/my%20shop/3?ssl_ca_certs=/ca&sentinel_username=s&sentinel_password=t%26"
    found = read_sentinel_url(url)
    assert (found.sentinels, found.service) == ((("a", 1), ("::1", 2), ("b", 26379)), "my shop")
    assert found.master == "rediss://u:p%2Fw@master/3?ssl_ca_certs=%2Fca"
    assert found.sentinel == "rediss://sentinel?ssl_ca_certs=%2Fca&username=s&password=t%26"
    assert not re.search("p%2Fw|t%26", repr(found))
    assert address_of_url(url) == "rediss+sentinel://a:1,[::1]:2,b/my%20shop/3"


def test_a_url_of_a_cluster_names_nodes() -> None:
    """Some of them; a port may be left out. There is no database but 0."""
    found = read_cluster_url("rediss+cluster://u:p%2Fw@a:1,[::1]:2,b?ssl_ca_certs=/ca")
    assert found.nodes == (("a", 1), ("::1", 2), ("b", 6379))
    assert found.node == f"rediss://u:p%2Fw@{found.place}/0?ssl_ca_certs=/ca"
    assert "p%2Fw" not in repr(found)
    assert problems(lambda: RedisSettings("redis+cluster://h/3"))[0].startswith('redis.url: "redis+cluster://..." does not name nodes')


BROKEN = [
    *("redis://:{}", "redis://u:{}@h:0", "redis://u:{}@h:99999", "redis://u:{}@h:x", "redis://u:{}@h/db", "redis://u:{}@h#", "{}"),
    *("redis://u:{}/x@h", "redis://u:{}?@h", "redis://u:{}@@h", "http://u:{}@h", "redis:/u:{}@h", "redis://u:{} @h", "unix://:{}@"),
    *("redis+cluster://u:{}@h/1", "redis+cluster://u:{}@h:x", "redis://[{}", "REDIS://u:{}@h", "{}://h", "redis://u:{}\n@h"),
    *("redis+sentinel://u:{}@h", "redis+sentinel://u:{}@h/", "redis+sentinel://u:{}/x@h/shop", "redis+sentinel://u:{}@h:0/shop"),
    *("redis+sentinel://u:{}@h,/shop", "redis+sentinel://u:{}@/shop", "redis+sentinel://u:{}@h/shop/db", "redis+sentinel://u:{}@@h/shop"),
]


@given(st.sampled_from(BROKEN), st.text("qzQZ789!$&", min_size=8, max_size=20))
def test_no_message_shows_a_password(form: str, password: str) -> None:
    """However the URL is broken."""
    told = problems(lambda: RedisSettings(form.format(password)))
    assert password not in str(told)


def test_paths_are_written_with_dots() -> None:
    """As TOML would write them."""
    assert dotted(("policy", "my stores", "tags", 0)) == 'policy."my stores".tags[0]'


def test_to_serve_while_the_log_is_silent_takes_a_window() -> None:
    """``on_disconnect = "serve"`` without a word on how long is a mistake: a copy would live on with nobody to end it."""
    with pytest.raises(PolicyError, match='on_disconnect: "serve" needs stale_while_revalidate or stale_if_error'):
        policy(on_disconnect="serve")
    assert policy(on_disconnect="serve", stale_if_error="10m").on_disconnect == "serve"


# --- coordination ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "least", "below"),
    [
        ("max_lag", "50ms", "49ms"),
        ("max_lag", "50ms", "1ms"),
        ("budget", "5ms", "4ms"),
        ("lease", "500ms", "0.4ms"),
        ("lease", "500ms", "499ms"),
    ],
)
def test_durations_that_nothing_can_work_with_are_refused(setting: str, least: str, below: str) -> None:
    """A lease of no millisecond would never be granted, and of one it would be over before anything is stored; who has to hear of
    the log every millisecond does little else. The least that works works.
    """
    told = problems(lambda: CoordinationSettings(**{setting: below}))  # type: ignore[arg-type]  # one setting, by its name
    assert told == (f'coordination.{setting}: "{below}" is too short to work with; write at least "{least}"',)
    as_number = float(below.removesuffix("ms")) / 1000
    assert "is too short to work with" in problems(lambda: CoordinationSettings(**{setting: as_number}))[0]  # type: ignore[arg-type]
    assert getattr(CoordinationSettings(**{setting: least}), setting) == float(least.removesuffix("ms")) / 1000  # type: ignore[arg-type]


def test_zero_is_no_duration_where_there_is_a_least_one() -> None:
    """The message is that of any other duration."""
    told = problems(lambda: CoordinationSettings(max_lag=0, budget="0s", lease=-1))
    assert [text.partition(";")[0] for text in told] == [
        "coordination.max_lag: 0 is not a duration above zero",
        'coordination.budget: "0s" is not a duration above zero',
        "coordination.lease: -1 is not a duration",
    ]


def test_waiting_for_a_replica_takes_a_budget() -> None:
    """Redis looks at those that wait ten times a second: with less than a quarter of one, most invalidations would be pending instead."""
    says = 'seconds are not enough to wait for a replica (durable = true); write at least "250ms"'
    for budget in ("249ms", "100ms", 0.005):
        (told,) = problems(lambda: CoordinationSettings(durable=True, budget=budget))  # noqa: B023 - called at once
        assert told.startswith("coordination.budget: 0.")
        assert told.endswith(says)
        assert CoordinationSettings(durable=False, budget=budget).budget < 0.25
    assert CoordinationSettings(durable=True, budget="250ms").durable
    assert CoordinationSettings(durable=True).durable
    with pytest.raises(PolicyError, match="not enough to wait for a replica"):
        dataclasses.replace(CoordinationSettings(budget="100ms"), durable=True)
