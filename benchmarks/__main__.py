"""Measure cachesync beside its peers and print the table: ``python -m benchmarks``, which is what ``make bench`` runs."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from benchmarks.scale import Costs
from benchmarks.table import about_the_machine, budgets, lines

NAMES: Final = (
    *("local_hit", "redis_hit", "batch", "memory", "hit_ratio"),
    *("coordinated_hit", "propagation", "issuing", "invalidation", "delivery", "recovery", "stampede", "silence"),
    *("http", "streams", "flat", "scale"),
)
LONG: Final = ("memory", "hit_ratio")
"""They have no short form: they count, and would count something else. ``--quick`` leaves them out unless ``--only`` names them."""
FOLDER: Final = Path("benchmarks", "results")


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for. Returns 1 if nothing could be measured."""
    options = _options(arguments)
    names = options.only or [name for name in NAMES if not (options.quick and name in LONG)]
    results: dict[str, Any] = {}
    begun = time.perf_counter()
    for name in names:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        run: Callable[..., dict[str, Any]] = import_module(f"benchmarks.{name}").run
        try:
            given: dict[str, Any] = {} if name in LONG else {"quick": options.quick}
            if name == "scale":
                given["costs"] = Costs.of(results)  # those of this run, where it has measured them
            results[name] = run(**given)
        except ImportError as error:
            print(f"{name} is not measured: {error.name or error} is not installed", file=sys.stderr)
    if not results:
        return 1
    machine = about_the_machine()
    ours = machine["packages"]["cachesync"] or "as it is in this folder"
    print(f"cachesync {ours}; {machine['python']}, {machine['cores']} cores, {machine['processor']}")
    print(f"{time.perf_counter() - begun:.0f} s. Best of several turns each, taken in turn: ratios count, not the figures themselves.\n")
    for line in lines(results):
        print(line)
    _write(options, machine, results)
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=NAMES, help="measure this one; may be given several times")
    parser.add_argument("--quick", action="store_true", help="few and short turns: whether it runs, not how fast it is")
    parser.add_argument("--json", type=Path, metavar="FILE", help=f"where the figures go (default: {FOLDER}/latest.json)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help=f"where the picture goes (default: {FOLDER}/latest.png)")
    return parser.parse_args(arguments)


def _write(options: argparse.Namespace, machine: dict[str, Any], results: dict[str, Any]) -> None:
    """Figures and picture. A quick or partial run overwrites nothing unless it is told where to write."""
    is_whole = not options.quick and not options.only
    to_json: Path | None = options.json or (FOLDER / "latest.json" if is_whole else None)
    to_plot: Path | None = options.plot or (FOLDER / "latest.png" if is_whole else None)
    if to_json is not None:
        to_json.parent.mkdir(parents=True, exist_ok=True)
        told = {"machine": machine, "quick": options.quick, "results": results, "budgets": [each.to_json() for each in budgets(results)]}
        to_json.write_text(json.dumps(told, indent=2) + "\n")
        print(f"\nfigures: {to_json}")
    if to_plot is not None:
        try:
            from benchmarks.plot import draw, draw_scale

            to_plot.parent.mkdir(parents=True, exist_ok=True)
            draw(results, to_plot)
            print(f"plot:    {to_plot}")
            if "scale" in results:
                curves = to_plot.with_name("scale.svg")
                draw_scale(results["scale"], curves)
                print(f"curves:  {curves}")
        except ImportError as error:
            print(f"no plot: {error.name or error} is not installed")


if __name__ == "__main__":
    sys.exit(main())
