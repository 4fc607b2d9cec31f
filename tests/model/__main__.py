"""Explores all worlds, and says what was found. ``--deep``: with every step apart, and in larger worlds, too."""

from __future__ import annotations

import argparse
import sys
from time import perf_counter

from model.explore import explore
from model.scenarios import SCENARIOS


def main() -> int:
    """Returns the exit code: 1 where a promise is broken, or the lack of a mechanism is not noticed."""
    parser = argparse.ArgumentParser(prog="python -m model", description=__doc__)
    parser.add_argument("--deep", action="store_true", help="take every step apart, and explore larger worlds")
    parser.add_argument("--only", default="", help="a part of the titles of worlds")
    given = parser.parse_args()
    wrong = 0
    for scenario in SCENARIOS:
        if given.only not in scenario.title or (scenario.deep and not given.deep):
            continue
        began = perf_counter()
        outcome = explore(scenario.build(), deep=given.deep)
        wrong += outcome.broken is not None
        print(f"{scenario.title}: {outcome} ({perf_counter() - began:.1f} s)", flush=True)
        for mechanism in scenario.needs:
            with mechanism.without():
                outcome = explore(scenario.build())
            wrong += outcome.broken is None or outcome.crashed
            print(f"    without {mechanism.name}: {outcome.broken or 'NOTHING IS NOTICED'} ({outcome.states} states)", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
