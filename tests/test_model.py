"""The protocol, explored: every order in which a small cluster can act, with the package's own flows, engines and layer.

``tests/model`` says how; ``PYTHONPATH=.:tests python -m model --deep`` takes every step apart and explores larger worlds.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from cachesync.core.settings import Settings
from model.explore import Explorer, Outcome, explore
from model.mechanisms import ALL, Mechanism
from model.process import KNOWN, STATE, Process
from model.scenarios import SCENARIOS, Scenario

QUICK = [scenario for scenario in SCENARIOS if not scenario.deep]
NEEDED = [(scenario, mechanism) for scenario in QUICK for mechanism in scenario.needs]


@pytest.fixture(autouse=True)
def _uncollected() -> Iterator[None]:
    """An exploration makes no cycles, and many objects: looking for cycles among them takes a third of the time."""
    gc.disable()
    yield
    gc.enable()


def explored(scenario: Scenario) -> Outcome:
    outcome = explore(scenario.build())
    assert not outcome.crashed, str(outcome)
    return outcome


@pytest.mark.parametrize("scenario", QUICK, ids=lambda scenario: scenario.title)
def test_no_order_of_steps_breaks_a_promise(scenario: Scenario) -> None:
    """Nobody is given what is older than it is owed, nobody waits for ever, and nothing old is left where all is quiet."""
    outcome = explored(scenario)
    assert outcome.broken is None, str(outcome)
    print(outcome)
    assert outcome.states >= scenario.states, "fewer states than there were: it explores less than it did"
    assert outcome.rests >= 1, "nothing comes to its end"


@pytest.mark.parametrize(("scenario", "mechanism"), NEEDED, ids=lambda one: one.title if isinstance(one, Scenario) else one.name)
def test_a_promise_is_broken_without_its_mechanism(scenario: Scenario, mechanism: Mechanism) -> None:
    """Each mechanism of the protocol is there for an order of steps that can be shown."""
    with mechanism.without():
        outcome = explored(scenario)
    assert outcome.broken is not None, f"nothing happens without {mechanism.name} ({outcome})"
    assert outcome.trace


def test_every_mechanism_is_needed_somewhere() -> None:
    """One that no world needs is not explored."""
    assert {mechanism for _, mechanism in NEEDED} == set(ALL)


def test_what_is_merged_is_the_same() -> None:
    """Stories that will do the same are taken for one. Told apart by all that they have ever heard, they come to the same ends."""
    for title in ("a glob", "two processes, one cold key", "a process that joins while bans are made and dropped"):
        (scenario,) = (one for one in QUICK if one.title == title)
        merged, apart = Explorer(scenario.build()), Explorer(scenario.build(), merge=False)
        few, many = merged.run(100_000), apart.run(100_000)
        assert few.states <= many.states
        assert few.broken is many.broken is None
        assert merged.ends == apart.ends
        assert merged.ends


def test_all_that_an_engine_holds_is_known() -> None:
    """What is neither saved with a state nor the same in all states would leak from one order of steps into another."""
    engine = Process(0, Settings(), 10).engine
    assert vars(engine).keys() <= {*STATE, *KNOWN}
