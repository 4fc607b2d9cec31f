"""Groups: what of an answer an invalidation names, and what they tell to whom."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesync import Cache, Policy, PolicyError
from cachesync.coordination.policy_file import parse_settings
from cachesync.core.entry import ANYTHING, Dependency
from cachesync.core.groups import MOST_OF_ANSWER, MOST_TEXTS, Audience, Groups, by_identity, concerns_of
from cachesync.core.policies import Policies
from cachesync.core.policy import HttpPolicy
from cachesync.core.records import KEY, TAG, Targets, targets_of
from cachesync.core.tickets import matches

SECRET = "a secret for these tests"
PUBLIC = HttpPolicy(visibility="public")
GROUPS = Groups(SECRET)
POLICIES = Policies(
    [
        Policy(name="stores", match="stores:*", ttl="5m", http=PUBLIC),
        Policy(name="stats", match="stores:*:stats", ttl="5m"),
        Policy(name="users", match="users:*", ttl="5m", http=HttpPolicy()),
    ]
)


def keys(*texts: str) -> list[Dependency]:
    return [Dependency(KEY, text) for text in texts]


def audience(identity: str | None, policies: Policies = POLICIES) -> Audience:
    return Audience.of(policies, identity, by_identity(policies))


def told(patterns: list[str], tags: list[str], identity: str | None, policies: Policies = POLICIES) -> set[str]:
    return set(GROUPS.of_invalidation(concerns_of(policies, targets_of(patterns, tags)), audience(identity, policies)))


def spelled(answer: list[Dependency], identity: str | None, policies: Policies = POLICIES) -> set[str]:
    return set(GROUPS.of_answer(policies, answer, identity))


@pytest.mark.parametrize(
    ("patterns", "tags"),
    [
        (["users:7"], []),
        (["users:*"], []),
        (["users:7*"], []),
        (["use*"], []),
        (["*:7"], []),
        (["*"], []),
        ([], ["vip"]),
    ],
)
def test_an_invalidation_names_a_group_of_what_it_concerns(patterns: list[str], tags: list[str]) -> None:
    """By key, by prefix, by glob, by tag and by everything."""
    assert told(patterns, tags, "bob") & spelled([*keys("users:7"), Dependency(TAG, "vip")], "bob")


@pytest.mark.parametrize(("patterns", "tags"), [(["users:8"], []), (["stores:*"], []), ([], ["other"]), (["users:7:"], [])])
def test_an_invalidation_of_something_else_names_none(patterns: list[str], tags: list[str]) -> None:
    """Keys, prefixes and tags are told apart."""
    assert not told(patterns, tags, "bob") & spelled([*keys("users:7"), Dependency(TAG, "vip")], "bob")


TEXTS = st.lists(st.sampled_from(["stores", "users", "JKT", "7", "stats", "", "é"]), min_size=1, max_size=4).map(":".join)
PATTERNS = st.lists(st.sampled_from(["stores", "users", ":", "JKT", "7", "stats", "*", "s"]), min_size=1, max_size=5).map("".join)
TAGS = st.sampled_from(["vip", "stores", "é"])


@given(
    st.lists(st.one_of(TEXTS.map(lambda text: Dependency(KEY, text)), TAGS.map(lambda text: Dependency(TAG, text))), max_size=40),
    st.lists(PATTERNS, max_size=3),
    st.lists(TAGS, max_size=2),
    st.sampled_from(["bob", None]),
    st.booleans(),
    st.booleans(),
)
def test_what_refuses_a_value_names_a_group_of_its_answer(
    dependencies: list[Dependency], patterns: list[str], tags: list[str], identity: str | None, many: bool, anything: bool
) -> None:
    """Whatever an answer is made of, and whatever is invalidated: a client that may hear of the answer's data is told."""
    policies = Policies(Policy(name=policy.name, match=policy.match, ttl="5m", http=PUBLIC) for policy in POLICIES) if many else POLICIES
    owners = [policies.match(text) for kind, text in dependencies if kind == KEY]
    if identity is None and any(owner is not None and owner.http != PUBLIC for owner in owners):
        identity = "bob"  # nobody in particular is shown no private data
    found = list(ANYTHING) if anything else dependencies
    targets = targets_of(patterns, tags)
    if any(matches(one, "", found) for one in targets):
        assert told(patterns, tags, identity, policies) & spelled(found, identity, policies)


def test_groups_are_twelve_characters_that_say_nothing() -> None:
    """Letters and digits of base32, at most 32 of them, each once."""
    groups = GROUPS.of_answer(POLICIES, keys("stores:JKT", "users:7"), "bob")
    assert all(re.fullmatch("[a-z2-7]{12}", group) for group in groups)
    assert len(set(groups)) == len(groups) <= MOST_OF_ANSWER


def test_private_groups_of_two_users_have_nothing_in_common_but_everything() -> None:
    """What one learns of their own groups says nothing about another's; public ones are the same for all."""
    bob, eve = spelled(keys("users:7"), "bob"), spelled(keys("users:7"), "eve")
    assert bob & eve == told(["*"], [], "eve")
    assert spelled(keys("stores:JKT"), "bob") == spelled(keys("stores:JKT"), None)


def test_nobody_hears_of_what_they_may_not_see() -> None:
    """Neither that it was invalidated, nor that something was."""
    assert told(["users:7", "users:*"], [], None) == set()
    assert told(["stores:JKT:stats"], [], None) == set()
    assert told(["stores:JKT"], [], None)
    nothing = Policies([Policy(name="users", match="users:*", ttl="5m")])
    assert told(["*", "users:7", "other"], ["vip"], None, nothing) == set()


def test_the_entitlement_is_asked_by_policy() -> None:
    """Who may hear of one private policy hears nothing of another."""
    only_users = Audience.of(POLICIES, "bob", lambda _identity, policy: policy == "users")
    assert not GROUPS.of_invalidation(concerns_of(POLICIES, targets_of(["stores:JKT:stats", "stores:JKT"], [])), only_users)
    assert set(GROUPS.of_invalidation(concerns_of(POLICIES, targets_of(["users:7"], [])), only_users)) & spelled(keys("users:7"), "bob")


def test_an_answer_made_of_very_much_has_few_groups() -> None:
    """More than 32 groups become one for each policy, and an invalidation of any key or tag of it names that."""
    groups = spelled(keys(*(f"users:{number}" for number in range(200))), "bob")
    assert len(groups) < 5
    assert told(["users:7"], [], "bob") & groups
    assert not told(["stores:JKT"], [], "bob") & groups
    tagged = spelled([*keys("users:7"), *(Dependency(TAG, f"tag {number}") for number in range(60))], "bob")
    assert told([], ["any"], "bob") & tagged
    everywhere = Policies(Policy(name=f"p{number}", match=f"p{number}:*", ttl="5m") for number in range(100))
    wide = spelled(keys(*(f"p{number}:1" for number in range(100))), "bob", everywhere)
    assert len(wide) == 2 and told(["p7:1"], [], "bob", everywhere) & wide


def test_an_invalidation_of_very_much_names_few_groups() -> None:
    """More than 128 texts become one group for each policy; more than 512 groups become every answer."""
    many = [f"users:{number}" for number in range(MOST_TEXTS + 1)]
    assert len(told(many, [], "bob")) < 10
    assert told(many, [], "bob") & spelled(keys("users:7"), "bob")
    assert told([], [f"tag {number}" for number in range(MOST_TEXTS + 1)], "bob") & spelled(keys("users:7"), "bob")
    everywhere = Policies(Policy(name=f"p{number}", match=f"p{number}:*", ttl="5m") for number in range(600))
    assert len(told(["p*"], [], "bob", everywhere)) == 1
    assert told(["p*"], [], "bob", everywhere) & spelled(keys("p7:1"), "bob", everywhere)


def test_a_key_of_no_policy_is_told_to_whoever_hears_of_anything() -> None:
    """Values may depend on it, whoever's they are."""
    assert told(["other:1"], [], "bob") & spelled(keys("other:1", "users:7"), "bob")
    assert told(["other:1"], [], None) & spelled(keys("other:1", "stores:JKT"), None)


def test_another_secret_makes_other_groups() -> None:
    """The same secret makes the same ones in every process."""
    other = Groups("another secret for tests")
    dependencies = keys("stores:JKT")
    assert not set(other.of_answer(POLICIES, dependencies)) & set(GROUPS.of_answer(POLICIES, dependencies))
    assert Groups(SECRET).of_answer(POLICIES, dependencies) == GROUPS.of_answer(POLICIES, dependencies)
    assert Groups(SECRET).name("", "k:stores:JKT") == "eywt3rzcxyvw"


def test_a_scope_and_a_group_can_not_be_shifted_into_each_other() -> None:
    """Where one ends is part of what is hashed."""
    assert GROUPS.name("bob", "k:a") != GROUPS.name("bo", "bk:a")


def test_texts_that_are_no_unicode_have_groups_too() -> None:
    """A lone surrogate may stand in an identity that somebody's authoriser returns."""
    assert len(GROUPS.name("\ud800", "k:\ud800")) == 12


def test_a_short_secret_is_refused_and_none_is_shown() -> None:
    """By the environment and by the cache alike; a good one is taken over."""
    text = 'namespace = "x"\n[policy.all]\nmatch = "*"\nttl = "1m"\n'
    with pytest.raises(PolicyError, match="environment: CACHESYNC_SECRET: a secret is a text of at least 16") as refused:
        parse_settings(text, "c.toml", "toml", {"CACHESYNC_SECRET": "hunter2"})
    assert "hunter2" not in str(refused.value)
    found = parse_settings(text, "c.toml", "toml", {"CACHESYNC_SECRET": SECRET})
    assert found.secret == SECRET and SECRET not in repr(found)
    with pytest.raises(PolicyError, match="secret: a secret is a text of at least 16"):
        Cache(policies=POLICIES, secret="hunter2")


def test_targets_of_nothing_name_nothing() -> None:
    """A record without texts, which another version may write, is told to nobody."""
    assert concerns_of(POLICIES, [Targets(KEY, ())]) == concerns_of(POLICIES, [])
