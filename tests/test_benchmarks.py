"""The benchmarks run, and what they print is what they measured. How fast anything is, no test asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.measure import Field, Pace, computed, only_hits
from benchmarks.table import Budget, budgets, lines


@pytest.fixture(scope="module")
def local_hit() -> dict[str, Any]:
    """One short run."""
    from benchmarks import local_hit

    return local_hit.run(quick=True)


def test_every_row_of_a_local_hit_is_measured_beside_its_peers(local_hit: dict[str, Any]) -> None:
    """Both colours, both calls, one thread and two; what is not measured is said."""
    result = local_hit
    assert result["unit"] == "ns"
    assert set(result["rows"]) == {
        *("def, f(1)", "def, f(1), 2 threads", 'def, f(1, x="a")'),
        *("async def, f(1)", "async def, f(1), 2 threads", 'async def, f(1, x="a")'),
    }
    for row, figures in result["rows"].items():
        assert "cachesync" in figures, result["missing"]
        assert ("bare await" in figures) == row.startswith("async")
        assert all(0 < figure["best"] <= figure["median"] for figure in figures.values())


def test_every_row_of_a_redis_hit_is_measured_beside_its_peers() -> None:
    """Against a real server, and no call that computed counts as a hit."""
    from benchmarks import redis_hit

    result = redis_hit.run(quick=True)
    assert result["unit"] == "calls/s"
    assert set(result["rows"]) == {"def", "async def, 1 task", "async def, 50 tasks"}
    assert result["server"].startswith("Valkey ")
    for figures in result["rows"].values():
        assert {"cachesync", "redis-py GET"} <= set(figures), result["missing"]
        assert all(figure["best"] >= figure["median"] > 0 for figure in figures.values())


def test_a_peer_that_is_missing_or_fails_is_a_line_and_the_others_go_on() -> None:
    """Nothing is left out silently."""

    def absent() -> Any:
        raise ModuleNotFoundError("No module named 'swiftcache'", name="swiftcache")

    def broken(calls: int) -> float:
        raise ValueError("of no use")

    field = Field()
    assert field.enter({"a": absent, "b": lambda: 1}) == {"b": 1}
    figures = field.take_turns({"row": {"c": broken, "d": lambda calls: calls * 0.01}}, Pace(rounds=2, seconds=0.1))
    assert figures == {"row": {"d": {"best": pytest.approx(0.01), "median": pytest.approx(0.01)}}}
    assert field.missing == ["a: swiftcache is not installed", "c: left out of row, ValueError: of no use"]


def test_a_cache_that_computes_is_not_measured_as_a_hit() -> None:
    """The first calls may compute, those that are timed may not."""

    def spend(calls: int) -> float:
        computed["calls"] += calls
        return 1.0

    with pytest.raises(RuntimeError, match="5 of 5 calls computed what is cached"):
        only_hits(spend, warm_up=3)(5)


def _results(ours: float) -> dict[str, Any]:
    row = {"cachesync": {"best": ours, "median": ours}, "cachetools": {"best": 500.0, "median": 600.0}}
    return {
        "local_hit": {"unit": "ns", "rows": {"def, f(1)": row, "def, f(1), 2 threads": row}, "missing": ["theine is not installed"]},
        "memory": {"entries": {"10": {"cachesync": {"traced": 1.0, "resident": None}, "dict": {"traced": 1.0, "resident": None}}}},
        "hit_ratio": {
            "capacity": 1,
            "keys": 100,
            "traces": {"Zipf": {"cachesync": {"ratio": 0.5, "ns": 1.0}, "lru": {"ratio": 0.6, "ns": 1.0}}},
        },
    }


def test_a_budget_says_whether_it_is_met() -> None:
    """A fifth of cachetools' time is the bound of a local hit; a missing peer takes its budget with it."""
    met, missed = budgets(_results(100.0)), budgets(_results(101.0))
    assert [budget.is_met for budget in met] == [True, False]
    assert [budget.is_met for budget in missed] == [False, False]
    assert str(missed[0]).endswith("MISSED") and str(met[0]).endswith("met")
    assert Budget("rate", 4.0, 4.0, is_upper=False).is_met


def test_the_table_names_each_peer_each_budget_and_what_is_missing() -> None:
    """Ratios stand beside the figures."""
    text = "\n".join(lines(_results(100.0)))
    assert "cachetools" in text and "5.0 x as fast" in text
    assert "def, f(1): cachesync 2.0, cachetools 2.0" in text
    assert "theine is not installed" in text
    assert "hit ratio, Zipf" in text


def test_a_run_writes_its_figures_and_what_ran_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, local_hit: dict[str, Any]
) -> None:
    """The JSON says machine, versions, figures and budgets; the plot needs matplotlib and is done without."""

    def run(*, quick: bool) -> dict[str, Any]:
        assert quick
        return local_hit

    monkeypatch.setattr("benchmarks.local_hit.run", run)
    told, drawn = tmp_path / "a" / "figures.json", tmp_path / "plot.png"
    assert main(["--quick", "--only", "local_hit", "--json", str(told), "--plot", str(drawn)]) == 0
    written = json.loads(told.read_text())
    assert set(written) == {"machine", "quick", "results", "budgets"}
    assert written["machine"]["packages"]["redis"] and set(written["results"]) == {"local_hit"}
    printed = capsys.readouterr().out
    assert "Budgets" in printed and str(told) in printed
    assert drawn.exists() or "no plot: " in printed
