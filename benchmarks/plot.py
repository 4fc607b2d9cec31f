"""The results as one picture: a panel for each benchmark, grouped bars, times and rates on a logarithmic scale."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.measure import OURS

COLOURS: Final = {
    OURS: "#d1495b",
    f"{OURS}, evicting": "#e78f9b",
    f"{OURS} over cachetools LRU": "#e78f9b",
    "bare await": "#222222",
    "bare pub/sub": "#222222",
    "dict": "#222222",
    "redis-py GET": "#222222",
    "lru_cache": "#8d96a3",
    "cachetools": "#30638e",
    "cachebox": "#edae49",
    "theine": "#7b5ea7",
    "dogpile": "#66a182",
    "async_lru": "#a0785a",
    "aiocache": "#2a9d8f",
    "cashews": "#f08a4b",
    "django-redis": "#66a182",
    "with the log": "#d1495b",
    "without": "#222222",
    "pub/sub": "#d1495b",
    "XREAD BLOCK": "#222222",
    "key": "#8d96a3",
    "tag": "#30638e",
    "prefix": "#edae49",
    "everything": "#7b5ea7",
    "direct": "#d1495b",
    "coalesced": "#edae49",
    "relay": "#30638e",
    "relay, coalesced": "#66a182",
}
"""Each contestant has one colour in all panels; a variant has that of the longest name here that it begins with."""


def draw(results: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Write a PNG. Raises ``ImportError`` where matplotlib is not installed."""
    panels = _panels(results)
    if not panels:
        return
    importlib.import_module("matplotlib").use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(len(panels), 1, figsize=(12, 4.2 * len(panels)), layout="constrained", squeeze=False)
    for axis, (title, rows, is_logarithmic) in zip(axes[:, 0], panels, strict=True):
        _bars(axis, rows)
        axis.set_title(title, loc="left", fontsize=11, fontweight="bold")
        if is_logarithmic:
            axis.set_yscale("log")
        axis.grid(axis="y", color="#e4e4e4", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw_scale(result: Mapping[str, Any], path: Path, rate: float = 300.0) -> None:
    """Write the curves of the simulation at one rate, as SVG or PNG. Raises ``ImportError`` where matplotlib is not installed."""
    shown = f"{min(result['rates'], key=lambda each: abs(each - rate)):g}"
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "cachesync"  # the same figures give the same file
    pyplot = importlib.import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(1, 2, figsize=(13, 4.6), layout="constrained")
    panels = (("Share of one Redis that is busy", "busy", 100.0, "%"), ("Delay of delivery, p99, ms", "p99", 1_000.0, "ms"))
    for axis, (title, kind, scale, unit) in zip(axes, panels, strict=True):
        for design, outcomes in result["designs"].items():
            heights = [scale * outcome[kind] for outcome in outcomes[shown]]
            style = "--" if "50 ms" in design else "-"
            axis.plot(result["processes"], heights, style, marker="o", markersize=4, label=design, color=_colour(design))
        axis.set_title(f"{title}; {shown} invalidations a second", loc="left", fontsize=11, fontweight="bold")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("processes")
        axis.set_ylabel(unit)
        axis.grid(color="#e4e4e4", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


_Rows = dict[str, dict[str, float]]


def _panels(results: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, _Rows, bool]]:
    """Title, ``{group: {bar: height}}`` and whether the scale is logarithmic."""
    panels: list[tuple[str, _Rows, bool]] = []
    for name, title in (
        ("local_hit", "Local hit: nanoseconds per call (lower is better)"),
        ("redis_hit", "Redis hit: calls per second (higher is better)"),
    ):
        if name in results:
            rows = results[name]["rows"]
            panels.append((title, {row: {bar: figure["best"] for bar, figure in ones.items()} for row, ones in rows.items()}, True))
    if "memory" in results:
        of_memory = results["memory"]["entries"]
        kinds = {"traced": "Python's allocator", "resident": "growth of the process"}
        memory: _Rows = {}
        for entries, rows in of_memory.items():
            for kind, said in kinds.items():
                memory[f"{int(entries):,} entries: {said}"] = {bar: row[kind] for bar, row in rows.items() if row[kind] is not None}
        panels.append(("Memory: bytes per entry (lower is better)", memory, False))
    if "hit_ratio" in results:
        traces = results["hit_ratio"]["traces"]
        ratios: _Rows = {trace: {bar: row["ratio"] for bar, row in rows.items()} for trace, rows in traces.items()}
        panels.append(("Hit ratio with room for 1 % of the keys (higher is better)", ratios, False))
    for name, title, kind in (
        ("coordinated_hit", "Local hit with and without coordination: nanoseconds per call (lower is better)", "best"),
        ("propagation", "From invalidate() to another process, p99 in ms (lower is better)", "p99"),
        ("invalidation", "Invalidating, ms (lower is better)", "median"),
        ("delivery", "Processor time of Redis for a record, microseconds (lower is better)", "record"),
    ):
        if name in results:
            measured: _Rows = {
                row: {bar: figure[kind] for bar, figure in ones.items()} for row, ones in results[name]["rows"].items() if ones
            }
            panels.append((title, measured, name != "coordinated_hit"))
    if "issuing" in results:
        issued = {row: {way: figure["p50"] for way, figure in ones.items()} for row, ones in results["issuing"]["rows"].items()}
        panels.append(("Issuing an invalidation, by state of the cache, median in ms (lower is better)", issued, False))
    return panels


def _bars(axis: Any, rows: _Rows) -> None:
    most = max(map(len, rows.values()))
    shown: set[str] = set()
    for at, row in enumerate(rows.values()):
        for number, (bar, height) in enumerate(row.items()):
            place = at + (number - (len(row) - 1) / 2) * 0.85 / most
            label = "" if bar in shown else bar
            drawn = axis.bar(place, height, 0.8 / most, label=label or None, color=_colour(bar), hatch=_hatch(bar), edgecolor="white")
            axis.bar_label(drawn, labels=[_short(height)], fontsize=6.5, padding=1)
            shown.add(bar)
    axis.set_xticks(range(len(rows)), [row.replace(", 2 threads", "\n2 threads").replace(", while", "\nwhile") for row in rows])
    axis.margins(x=0.01, y=0.1)


def _colour(bar: str) -> str:
    known = [name for name in COLOURS if bar.startswith(name)]
    return COLOURS[max(known, key=len)] if known else "#999999"


def _hatch(bar: str) -> str:
    """Tells the variants of one library apart."""
    if "evicting" in bar or bar.endswith((" LFU", ", prefix", " in pages")) or bar == "cashews, pattern":
        return "////"
    return "...." if "TTL" in bar or "over all" in bar or "at once" in bar else ""


def _short(height: float) -> str:
    if height < 1:
        return f"{height:.3f}".lstrip("0")
    return f"{height:.0f}" if height < 1_000 else f"{height / 1_000:.3g}k"
