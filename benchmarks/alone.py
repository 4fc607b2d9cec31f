"""Run one benchmark by itself: the same figures, lines and JSON as ``python -m benchmarks`` gives."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.table import about_the_machine, budgets, lines


def command_of(module: str, *arguments: str) -> list[str]:
    """Runs a module of this folder in another process, which finds it there, and cachesync where this process would look first."""
    folder = str(Path(__file__).parents[1])
    code = f"import runpy, sys; sys.path.append({folder!r}); runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    return [sys.executable, "-c", code, *arguments]


def options_of(name: str, document: str | None) -> argparse.ArgumentParser:
    """The options that all of them have; a module adds its own."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=document, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few and short turns: whether it runs, not how fast it is")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    return parser


def show(name: str, options: argparse.Namespace, run: Callable[[], Mapping[str, Any]]) -> None:
    """Run it, print its lines and budgets, and write the figures where ``--json`` says."""
    results = {name: run()}
    machine = about_the_machine()
    print(f"{machine['python']}, {machine['cores']} cores, {machine['processor']}\n")
    for line in lines(results):
        print(line)
    if options.json is not None:
        told = {"machine": machine, "quick": options.quick, "results": results, "budgets": [each.to_json() for each in budgets(results)]}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(told, indent=2) + "\n")
        print(f"\nfigures: {options.json}")
