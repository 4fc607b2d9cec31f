"""Age: nothing older than the policy allows is served, wherever it is kept, whatever the clocks of the machines say.

Each node has a clock of its own and the shared layer has another; only the layer's orders ages between nodes. A value is the true time
at which its computation began, so that the true age of what is served is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesync import Cache, MemoryShared, Policy
from cachesync.core.settings import CoordinationSettings, Settings
from cachesync.protocols import Shared
from cachesync.testing import FakeClock
from support.nodes import HoldingShared, read_log

HOUR = 3600.0
ROUNDING = 0.002
"""Ages travel in whole milliseconds."""


class Skewed:
    """A clock that is ahead of the true time by some seconds."""

    def __init__(self, true: FakeClock, ahead: float) -> None:
        self._true = true
        self.ahead = ahead

    def monotonic(self) -> float:
        return self._true.monotonic() + self.ahead


class Town:
    """Nodes with clocks of their own around one shared layer."""

    def __init__(self, policy: Policy, *, ahead: tuple[float, ...] = (0.0, 0.0), server_ahead: float = 0.0) -> None:
        self.time = FakeClock(2 * HOUR)
        self.server_clock = Skewed(self.time, server_ahead)
        self.memory = MemoryShared(self.server_clock.monotonic)
        self.computations = 0
        self.takes = 0.0
        self.nodes = [self.node(policy, clock_ahead) for clock_ahead in ahead]

    def node(self, policy: Policy, ahead: float = 0.0, *, shared: Shared | None = None) -> Any:
        """The cached function of a new node: returns the true time at which it was computed."""
        settings = Settings(coordination=CoordinationSettings(max_lag=HOUR, lease=HOUR))
        cache = Cache(settings, policies=[policy], shared=shared or self.memory, clock=Skewed(self.time, ahead), listen=False)

        def item(number: int) -> float | None:
            began = self.time.monotonic()
            self.computations += 1
            self.time.advance(self.takes)
            return None if policy.negative_ttl is not None else began

        return cache.cached("item:{number}")(item)

    def age(self, item: Any) -> float:
        """The true age of what a node serves."""
        began: float = item(1)
        return self.time.monotonic() - began


def policy(**settings: Any) -> Policy:
    chosen: dict[str, Any] = {"ttl": 60} | settings
    return Policy(name="items", match="item:*", **chosen)


durations = st.floats(0.05, 500.0).map(lambda seconds: round(seconds, 3))
skews = st.floats(-HOUR, HOUR)


@dataclass
class Plan:
    """What happens in one example: pauses between reads, and who reads."""

    reads: list[tuple[float, int]]


plans = st.builds(Plan, st.lists(st.tuples(st.floats(0.0, 200.0), st.integers(0, 1)), min_size=1, max_size=12))


@given(
    ttl=durations,
    local_ttl=st.none() | durations,
    jitter=st.sampled_from([0.0, 0.1, 0.5]),
    takes=st.floats(0, 30),
    plan=plans,
    ahead=st.tuples(skews, skews),
    server_ahead=skews,
)
def test_nothing_older_than_the_policy_allows_is_served(
    ttl: float, local_ttl: float | None, jitter: float, takes: float, plan: Plan, ahead: tuple[float, float], server_ahead: float
) -> None:
    """Whoever reads, whenever, with clocks hours apart: a hit is younger than ttl and jitter. A miss is as old as its computation."""
    town = Town(policy(ttl=ttl, local_ttl=local_ttl, jitter=jitter), ahead=ahead, server_ahead=server_ahead)
    town.takes = takes
    for pause, reader in plan.reads:
        town.time.advance(pause)
        before = town.computations
        age = town.age(town.nodes[reader])
        if town.computations == before:
            assert age < ttl * (1 + jitter) + ROUNDING
        else:
            assert age == pytest.approx(takes, abs=1e-6)


@given(ttl=durations, plan=plans, ahead=st.tuples(skews, skews), server_ahead=skews)
def test_nothing_is_computed_while_a_fresh_value_is_at_hand(
    ttl: float, plan: Plan, ahead: tuple[float, float], server_ahead: float
) -> None:
    """Clocks hours apart cost no computation either: one for each lifetime, and the value of the youngest is served by both nodes."""
    town = Town(policy(ttl=ttl), ahead=ahead, server_ahead=server_ahead)
    youngest = float("-inf")
    for pause, reader in plan.reads:
        town.time.advance(pause)
        before = town.computations
        now = town.time.monotonic()
        served = now - town.age(town.nodes[reader])
        if now - youngest < ttl - ROUNDING:
            assert town.computations == before
            # Or a copy of its own, whose life is over within the rounding, after which the other node has computed already.
            assert served == pytest.approx(youngest, abs=1e-6) or ttl - ROUNDING <= now - served < ttl
        youngest = max(youngest, served)


@given(local_ttl=durations, pauses=st.lists(st.floats(0.0, 100.0), min_size=1, max_size=10))
def test_a_copy_is_not_served_longer_than_local_ttl_without_asking(local_ttl: float, pauses: list[float]) -> None:
    """While the layer holds another value, a node serves its copy for at most ``local_ttl`` after it was made or fetched."""
    town = Town(policy(ttl=10_000, local_ttl=local_ttl), ahead=())
    noting = HoldingShared(town.memory)
    item = town.node(policy(ttl=10_000, local_ttl=local_ttl), shared=noting)
    asked = -HOUR
    for pause in pauses:
        town.time.advance(pause)
        before = len(noting.steps)
        item(1)
        if len(noting.steps) > before:
            asked = town.time.monotonic()
        else:
            assert town.time.monotonic() - asked < local_ttl


@given(takes=st.floats(0.1, 50.0), later=st.floats(0.0, 70.0))
def test_age_counts_from_the_beginning_of_a_computation(takes: float, later: float) -> None:
    """The time it took is part of the age, in local memory and in the shared layer."""
    town = Town(policy(ttl=60))
    town.takes = takes
    first, second = town.nodes
    began = town.time.monotonic()
    first(1)
    town.time.advance(later)
    town.takes = 0.0
    age = town.time.monotonic() - began
    for item in (first, second):
        before = town.computations
        item(1)
        if age < 60 - ROUNDING:
            assert town.computations == before
        elif age > 60 + ROUNDING and item is first:
            assert town.computations == before + 1


@given(before=durations, today=durations, later=st.floats(0.0, 600.0))
def test_the_policy_of_today_caps_what_was_allowed_before(before: float, today: float, later: float) -> None:
    """A new process with a shorter ttl does not serve an older entry for as long as its writer meant."""
    town = Town(policy(ttl=before), ahead=(0.0,))
    began = town.time.monotonic()
    town.nodes[0](1)
    item = town.node(policy(ttl=today))
    town.time.advance(later)
    computed = town.computations
    served = town.age(item)
    if town.computations == computed:
        assert served == pytest.approx(town.time.monotonic() - began)
        assert served < min(before, today) + ROUNDING
    else:
        assert later > min(before, today) - ROUNDING


@given(before=durations, today=durations, later=st.floats(0.0, 600.0))
def test_the_negative_ttl_of_today_caps_too(before: float, today: float, later: float) -> None:
    """``None`` has a lifetime of its own, shorter or longer than the ttl."""
    town = Town(policy(negative_ttl=before), ahead=(0.0,))
    town.nodes[0](1)
    item = town.node(policy(negative_ttl=today))
    town.time.advance(later)
    computed = town.computations
    assert item(1) is None
    if town.computations == computed:
        assert later < min(before, today) + ROUNDING
    else:
        assert later > min(before, today) - ROUNDING


def test_an_entry_of_another_schema_is_never_read() -> None:
    """The version of the value was raised: what is stored is a miss, and is replaced."""
    town = Town(policy(), ahead=(0.0,))
    old = town.nodes[0]
    assert town.age(old) == 0
    new = town.node(policy(version=2))
    town.time.advance(1)
    assert town.age(new) == 0
    assert town.computations == 2
    town.time.advance(1)
    assert town.age(town.node(policy(version=2))) == 1
    assert town.age(town.node(policy())) == 0


@given(back=st.floats(5.0, HOUR), later=st.floats(0.0, 59.0))
def test_a_server_clock_that_is_set_back_makes_nothing_younger_here(back: float, later: float) -> None:
    """A copy in local memory ages by its own process's clock; an entry that seems to come from the future is a miss."""
    town = Town(policy(ttl=60))
    first, second = town.nodes
    began = town.time.monotonic()
    first(1)
    town.server_clock.ahead -= back
    town.time.advance(later)
    computed = town.computations
    assert town.time.monotonic() - town.age(first) == pytest.approx(began)
    assert town.computations == computed, "its own copy is as fresh as it was"
    if later < back - 1.5:
        assert town.age(second) == 0
        assert town.computations == computed + 1, "of what age the entry is, nobody knows"
    town.time.advance(60.5 - later)
    assert town.age(first) < 60 + back, "nobody can tell more: never older than by how much it was set back"


@given(forward=st.floats(60.0, HOUR))
def test_a_server_clock_that_is_set_forward_makes_misses_only(forward: float) -> None:
    town = Town(policy(ttl=60))
    first, second = town.nodes
    first(1)
    town.server_clock.ahead += forward
    town.time.advance(1)
    assert town.age(first) == 1
    assert town.age(second) == 0
    assert town.computations == 2


@given(ahead=st.tuples(skews, skews), server_ahead=skews)
def test_clocks_hours_apart_do_not_change_who_hears_what(ahead: tuple[float, float], server_ahead: float) -> None:
    """Order comes from numbers: an invalidation by a node in the past kills what a node in the future has made."""
    town = Town(policy(ttl=1000), ahead=ahead, server_ahead=server_ahead)
    settings = Settings(coordination=CoordinationSettings(max_lag=HOUR, lease=HOUR))
    caches = [
        Cache(settings, policies=[policy(ttl=1000)], shared=town.memory, clock=Skewed(town.time, clock), listen=False) for clock in ahead
    ]
    version = 1

    def item(number: int) -> int:
        return version

    first, second = (cache.cached("item:{number}")(item) for cache in caches)
    for _ in range(2):
        assert (first(1), second(1)) == (1, 1)
    version = 2
    for invalidating, hearing in ((0, 1), (1, 0)):
        caches[invalidating].invalidate("item:*")
        assert read_log(caches[hearing])
        assert (first(1), second(1)) == (version, version)
        version += 1
        caches[invalidating].invalidate("item:1")
        assert read_log(caches[hearing])
        assert (second(1), first(1)) == (version, version)


def test_out_of_contact_for_max_lag_no_copy_is_trusted() -> None:
    """The log was not heard for two seconds: the copy is checked against the shared layer, and serves again after one trip."""
    town = Town(policy(ttl=1000))
    settings = Settings(coordination=CoordinationSettings(max_lag=2.0))
    caches = [Cache(settings, policies=[policy(ttl=1000)], shared=town.memory, clock=town.time, listen=False) for _ in range(2)]
    version = 1

    def item(number: int) -> int:
        return version

    first, second = (cache.cached("item:{number}")(item) for cache in caches)
    for _ in range(2):
        assert (first(1), second(1)) == (1, 1)
    version = 2
    caches[1].invalidate("item:*")
    assert first(1) == 1, "it has not heard, and may serve for max_lag"
    town.time.advance(2.0)
    assert first(1) == 2


@pytest.mark.parametrize(("on_disconnect", "expected"), [("bypass", 2), ("serve", 1)])
def test_a_layer_that_is_away_is_no_contact(on_disconnect: str, expected: int) -> None:
    """Cut off for longer than max_lag, a process computes; with ``on_disconnect = "serve"`` it serves what it has, for its window."""
    time = FakeClock()
    memory = MemoryShared(time.monotonic)
    settings = Settings(coordination=CoordinationSettings(max_lag=2.0))
    its_policy = policy(ttl=1000, stale_if_error=10, on_disconnect=on_disconnect)
    cache = Cache(settings, policies=[its_policy], shared=memory, clock=time, listen=False)
    version = 1

    @cache.cached("item:{number}")
    def item(number: int) -> int:
        return version

    for _ in range(2):
        assert item(1) == 1
    version = 2
    with memory.outage():
        time.advance(1.9)
        assert item(1) == 1
        time.advance(0.2)
        assert item(1) == expected
        time.advance(10.0)
        assert item(1) == 2
