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
    axis.set_xticks(range(len(rows)), [row.replace(", 2 threads", "\n2 threads") for row in rows])
    axis.margins(x=0.01, y=0.1)


def _colour(bar: str) -> str:
    known = [name for name in COLOURS if bar.startswith(name)]
    return COLOURS[max(known, key=len)] if known else "#999999"


def _hatch(bar: str) -> str:
    """Tells the variants of one library apart."""
    return "////" if "evicting" in bar or bar.endswith(" LFU") else "...." if "TTL" in bar else ""


def _short(height: float) -> str:
    if height < 1:
        return f"{height:.3f}".lstrip("0")
    return f"{height:.0f}" if height < 1_000 else f"{height / 1_000:.3g}k"
