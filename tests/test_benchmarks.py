"""The benchmarks run, and what they print is what they measured. How fast anything is, no test asks."""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.measure import Field, Pace, computed, only_hits
from benchmarks.scale import DESIGNS, HOST, Costs, Heartbeats, simulate
from benchmarks.table import Budget, budgets, lines
from cachesync import Cache, Policy
from support.servers import Server


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


def test_every_row_of_a_batch_is_measured_beside_its_peers() -> None:
    """All items there, and half of them missing, in both colours."""
    from benchmarks import batch

    result = batch.run(quick=True)
    assert set(result["rows"]) == {f"{colour}, {case}" for colour in ("def", "async def") for case in batch.CASES}
    for figures in result["rows"].values():
        assert {"cachesync", "cachesync, f.many"} <= set(figures), result["missing"]
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


# --- coordination ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coordination() -> dict[str, Any]:
    """Each benchmark of coordination at a tiny size: real processes and servers, few rounds."""
    from benchmarks import coordinated_hit, delivery, invalidation, issuing, propagation, recovery, scale, silence, stampede, streams

    results: dict[str, Any] = {
        "coordinated_hit": coordinated_hit.run(quick=True),
        "propagation": propagation.run(processes=[1, 2], states=["idle"], rounds=5),
        "issuing": issuing.run(entries=50, bans=1_500, calls=5),
        "invalidation": invalidation.run(sizes=[50, 400], turns=1),
        "delivery": delivery.run(quick=True, subscribers=[1, 2], records=32),
        "recovery": recovery.run(cuts=["reset"], seconds=0.2),
        "stampede": stampede.run(quick=True),
        "streams": streams.run(quick=True, streams=20),
        "silence": silence.run(quick=True, contestants=["cachesync, def", "cachesync, async def"]),
    }
    costs = scale.Costs.of(results)
    return results | {"scale": scale.run(costs=costs, processes=[1, 100], rates=[50.0], records=40)}


def test_a_local_hit_is_measured_with_coordination_and_without(coordination: dict[str, Any]) -> None:
    """Both colours, and while others are invalidated."""
    result = coordination["coordinated_hit"]
    assert {"def, f(1)", 'def, f(1, x="a")', "async def, f(1)"} < set(result["rows"])
    assert all(set(figures) == {"with the log", "without"} for figures in result["rows"].values()), result["missing"]


def test_an_invalidation_is_timed_until_other_processes_refuse_their_copies(coordination: dict[str, Any]) -> None:
    """Each call once for each process. That the copies were held, and are refused, the run checks itself."""
    rows = coordination["propagation"]["rows"]
    assert set(rows) == {"1 process, idle", "2 processes, idle"}
    for processes, figures in enumerate(rows.values(), 1):
        assert set(figures) == {"cachesync", "bare pub/sub"}
        for figure in figures.values():
            assert figure["count"] == 5 * processes
            assert 0 < figure["p50"] <= figure["p99"] <= figure["max"]


def test_an_invalidation_is_timed_until_every_stream_has_read_of_it(coordination: dict[str, Any]) -> None:
    """With one audience and with many; that all have said goodbye, the run checks itself."""
    rows = coordination["streams"]["rows"]
    assert set(rows) == {"one audience", "each its own"}
    for figures in rows.values():
        figure = figures["cachesync"]
        assert figure["count"] == 5 and 0 < figure["p50"] <= figure["p99"] <= figure["max"] and figure["seconds"] > 0


def test_issuing_costs_as_many_commands_in_a_full_cache_as_in_an_empty_one(coordination: dict[str, Any]) -> None:
    """By key, tag, prefix and everything: nothing is scanned."""
    empty, full, _ = coordination["issuing"]["rows"].values()
    assert set(empty) == {"key", "tag", "prefix", "everything"}
    assert {way: figure["commands"] for way, figure in empty.items()} == {way: figure["commands"] for way, figure in full.items()}


def test_invalidating_costs_as_many_commands_whatever_the_number_of_entries(coordination: dict[str, Any]) -> None:
    """By tag, by prefix, and by a tag that all entries carry. Peers pay for each key, or for each key that is there."""
    few, many = coordination["invalidation"]["rows"].values()
    ours = {name for name in many if name.startswith("cachesync")}
    assert ours == {"cachesync, tag", "cachesync, prefix", "cachesync, a tag over all"}, coordination["invalidation"]["missing"]
    assert all(few[name]["commands"] == many[name]["commands"] for name in ours)
    assert all(figure["commands"] > 0 for figure in many.values())


def test_what_a_delivery_costs_redis_is_told_for_the_simulation(coordination: dict[str, Any]) -> None:
    """Subscribed to, and read from the stream; the costs have the names that the simulation knows."""
    from benchmarks.scale import Costs

    result = coordination["delivery"]
    assert set(result["rows"]) == {"1 subscriber", "2 subscribers"}
    assert all({"pub/sub", "XREAD BLOCK"} < set(figures) for figures in result["rows"].values())
    assert Costs.of(coordination).append == pytest.approx(result["costs"]["append"] / 1e6)


def test_after_a_cut_what_was_missed_is_applied_and_the_rest_is_still_held(coordination: dict[str, Any]) -> None:
    """No old value is served."""
    (figure,) = coordination["recovery"]["rows"].values()
    assert figure["served_old"] == 0
    assert figure["hits"] == figure["untouched"] == 950


def test_a_cold_key_is_computed_once_however_many_want_it(coordination: dict[str, Any]) -> None:
    assert coordination["stampede"]["rows"]["cachesync"]["computed"] == 1


def test_calls_return_while_redis_is_silent(coordination: dict[str, Any]) -> None:
    """Both colours: each call that was begun has ended."""
    rows = coordination["silence"]["rows"]
    assert [figure["calls"] for figure in rows.values()] == [5, 5]
    assert any("at most 5 calls, begun within 22 s" in line for line in lines(coordination))


def test_the_table_the_figures_and_the_plot_tell_of_coordination(coordination: dict[str, Any], tmp_path: Path) -> None:
    """Everything that was measured has its lines, its budgets, and can be written."""
    text = "\n".join(lines(coordination))
    for part in (
        "with the log",
        "bare pub/sub",
        "everything",
        "a tag over all",
        "XREAD BLOCK",
        "all applied",
        "slowest, ms",
        "falls silent",
        "relay, coalesced",
    ):
        assert part in text
    told = [budget.what for budget in budgets(coordination)]
    for what in ("local hit with coordination", "invalidating a tag over 400 entries", "recovery after a cut"):
        assert any(budget.startswith(what) for budget in told)
    assert json.loads(json.dumps(coordination))
    if importlib.util.find_spec("matplotlib") is not None:
        from benchmarks.plot import draw, draw_scale

        draw(coordination, tmp_path / "all.png")
        draw_scale(coordination["scale"], tmp_path / "scale.svg")
        assert (tmp_path / "all.png").exists() and "<svg" in (tmp_path / "scale.svg").read_text()


def test_a_process_that_hears_several_records_at_once_has_applied_each_of_them_then() -> None:
    """A delay ends at the first moment at which the position is the record's, or a later one."""
    from benchmarks.propagation import delays

    called = [(1, 10.0), (2, 20.0), (3, 30.0)]
    assert delays(called, [[(0, 1.0), (1, 10.5), (3, 31.0)], [(3, 40.0)]]) == pytest.approx([500, 11_000, 1_000, 30_000, 20_000, 10_000])


def test_a_percentile_is_one_of_the_figures() -> None:
    """The least that so large a share of them does not exceed."""
    from benchmarks.spread import spread

    assert spread([3.0, 1.0, 2.0]) == {"p50": 2.0, "p99": 3.0, "max": 3.0, "count": 3.0}
    assert spread([float(number) for number in range(1, 101)]) == {"p50": 50.0, "p99": 99.0, "max": 100.0, "count": 100.0}
    with pytest.raises(ValueError, match="nothing was measured"):
        spread([])


def test_a_full_cache_is_full_of_entries_that_are_hits(server: Server, namespace: str) -> None:
    """The copies are found by another process without computing, and their tag invalidates them."""
    from benchmarks.filling import fill

    policies = [Policy(name="items", match="items:*", ttl="1h", tags=["items"])]
    computed: list[int] = []

    def item(number: int) -> int:
        computed.append(number)
        return 7

    with (
        Cache(policies=policies, redis=server.url, namespace=namespace) as one,
        Cache(policies=policies, redis=server.url, namespace=namespace) as other,
    ):
        here, there = (cache.cached("items:{number}")(item) for cache in (one, other))
        with pytest.raises(LookupError):
            fill(server.client(), namespace, "items:0", 10)
        here(0)
        fill(server.client(), namespace, "items:0", 10)
        assert [there(number) for number in range(10)] == [7] * 10
        assert computed == [0]
        one.invalidate(tags=["items"])
        here(9)
        assert computed == [0, 9]


@pytest.mark.parametrize(
    "name", ["coordinated_hit", "delivery", "flat", "invalidation", "issuing", "propagation", "recovery", "scale", "silence", "stampede"]
)
def test_each_benchmark_of_coordination_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``python -m benchmarks.NAME --help``."""
    module = importlib.import_module(f"benchmarks.{name}")
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert f"python -m benchmarks.{name}" in told and "--quick" in told and "--json" in told


# --- the simulation -------------------------------------------------------------------------------------------------------------------

COSTS = Costs(append=50e-6, publish=1e-6, write=5e-6, question=20e-6, xread=20e-6, relay=2e-6, reach=100e-6)
NEVER = float("inf")


def test_one_process_alone_hears_a_record_after_its_four_costs() -> None:
    """At one invalidation a minute nobody waits for anybody: append, publish, write, reach."""
    outcome = simulate(DESIGNS["direct"], COSTS, processes=1, rate=1 / 60, records=50, interval=NEVER)
    assert [outcome.p50, outcome.p99] == pytest.approx([156e-6, 156e-6])


@pytest.mark.parametrize("processes", [1, 10, 100])
def test_the_share_of_the_server_is_what_its_work_adds_up_to(processes: int) -> None:
    """At a low rate: so many records, each with an append and a delivery for each subscriber, and so many heartbeats."""
    rate, interval = 2.0, 0.5
    outcome = simulate(DESIGNS["direct"], COSTS, processes=processes, rate=rate, records=2_000, interval=interval)
    work = rate * (COSTS.append + processes * (COSTS.publish + COSTS.write)) + processes / interval * COSTS.question
    assert outcome.busy == pytest.approx(work, rel=0.1)


def test_a_relay_makes_of_a_host_one_subscriber() -> None:
    """With a relay on each host, 3,200 processes cost Redis what 100 cost without; a record takes one hop more."""
    relayed = simulate(DESIGNS["relay"], COSTS, processes=3_200, rate=20.0)
    direct = simulate(DESIGNS["direct"], COSTS, processes=100, rate=20.0)
    assert DESIGNS["relay"].subscribers(3_200) == 100 and DESIGNS["relay"].subscribers(3_201) == 101
    assert relayed.busy == pytest.approx(direct.busy, rel=0.1)
    assert direct.p50 + COSTS.reach < relayed.p50 < direct.p50 + COSTS.reach + HOST * COSTS.relay + 50e-6


def test_coalescing_sends_fewer_messages_and_delays_them_by_its_window_at_most() -> None:
    """All records that came meanwhile are in one message; after a quiet time the first goes at once."""
    direct, coalesced = (simulate(DESIGNS[name], COSTS, processes=100, rate=1_000.0) for name in ("direct", "coalesced, 5 ms"))
    assert coalesced.messages < direct.messages / 2
    assert coalesced.busy < direct.busy
    assert coalesced.p99 < direct.p99 + 0.005 + 0.001
    rare = simulate(DESIGNS["coalesced, 5 ms"], COSTS, processes=1, rate=1 / 60, records=50, interval=NEVER)
    assert rare.messages == 50 and rare.p50 == pytest.approx(156e-6)


def test_a_server_that_is_asked_for_more_than_it_can_do_is_busy_all_the_time() -> None:
    """Ten thousand heartbeats each 0.4 s take half of it, deliveries the rest; then records share their messages, and wait."""
    outcome = simulate(DESIGNS["direct"], COSTS, processes=10_000, rate=300.0, records=300)
    assert outcome.busy > 0.95
    assert outcome.messages < 150
    assert outcome.p50 > 10_000 / 2 * COSTS.write
    flooded = simulate(DESIGNS["direct"], COSTS, processes=10_000, rate=300.0, records=50, interval=0.1)  # twice what it can answer
    assert flooded.busy > 0.99


def test_readers_of_the_stream_cost_more_than_subscribers() -> None:
    """As each of them asks again after each record."""
    subscribed, reading = (simulate(DESIGNS[name], COSTS, processes=100, rate=50.0) for name in ("direct", "XREAD BLOCK"))
    assert reading.busy > 2 * subscribed.busy
    assert reading.p50 > subscribed.p50


def test_a_simulation_can_be_repeated() -> None:
    """The same seed, the same arrivals; another seed, others."""
    first, again, other = (simulate(DESIGNS["direct"], COSTS, processes=30, rate=300.0, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_heartbeats_come_evenly_and_are_answered_once() -> None:
    """Four a second: the first after an eighth of a second."""
    beats = Heartbeats(4.0)
    assert beats.next == 0.125
    assert [beats.take(now) for now in (0.1, 0.125, 0.3, 0.4, 1.0, 1.0)] == [0, 1, 0, 1, 2, 0]
    assert beats.last == 0.875 and beats.next == 1.125
    assert Heartbeats(0.0).next == NEVER


def test_every_row_of_http_is_measured_beside_the_usual_way() -> None:
    """A 304 is one, and a stream grows nothing."""
    from benchmarks import http

    result = http.run(quick=True)
    assert result["missing"] == []
    assert {row: set(figures) for row, figures in result["rows"].items()} == {
        "200 of 72 kB": {http.BARE, http.HASHED, "cachesync"},
        "304 for 72 kB": {http.HASHED, "cachesync, by content", "cachesync"},
        "200 that is not managed": {http.BARE, "cachesync"},
    }
    assert result["stream"]["sent"] > 65
    assert len(budgets({"http": result})) == 3
