"""Break the package in known ways and require that a test goes red: ``python tests/mutants.py [--only NAME] [--list]``.

Each mutant of ``tests/mutants.toml`` is applied to a copy of the package, and the tests it names are run against that copy.

======== ==========================================================================
killed   a test failed: good
survived all tests passed: nobody guards that line
broken   the mutant does not apply (its text is missing or occurs twice), the tests
         could not be collected, none ran, or they did not end in time
======== ==========================================================================

Before, each has to apply, and the same tests are run on an unchanged copy and must pass. Exit code 0 when every mutant was killed, else 1.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "tests" / "mutants.toml"
AT_ONCE = 2
MUTANT_SECONDS = 900
SHOWN_LINES = 40

PYTEST_PASSED = 0
PYTEST_FAILED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One change to one file of the package, and the tests of which at least one must fail then."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a run: ``killed``, ``survived``, ``broken``, with the seconds it took and pytest's last words."""

    word: str
    seconds: float
    said: str


class MutantError(Exception):
    """A mutant's old text does not occur exactly once, or changes nothing."""


def read_table() -> list[Mutant]:
    """The mutants of ``tests/mutants.toml``. Raises ``MutantError`` when two have one name."""
    rows = tomllib.loads(TABLE.read_text())["mutant"]
    mutants = [Mutant(name=row["name"], file=row["file"], old=row["old"], new=row["new"], tests=tuple(row["tests"])) for row in rows]
    names = [mutant.name for mutant in mutants]
    if twice := {name for name in names if names.count(name) > 1}:
        raise MutantError(f"two mutants are called {', '.join(sorted(twice))}")
    return mutants


def copy_package(to: Path) -> Path:
    """Copy ``cachesync`` into the folder ``to``, without bytecode."""
    return shutil.copytree(ROOT / "cachesync", to / "cachesync", ignore=shutil.ignore_patterns("__pycache__"))


def changed(mutant: Mutant, package: Path) -> str:
    """The text of the mutant's file as the mutant has it. Raises ``MutantError`` unless the old text occurs exactly once."""
    path = package / mutant.file
    if not path.is_file():
        raise MutantError(f"there is no cachesync/{mutant.file}")
    text = path.read_text()
    if (count := text.count(mutant.old)) != 1:
        raise MutantError(f"its old text occurs {count} times in cachesync/{mutant.file}, not once")
    if mutant.old == mutant.new:
        raise MutantError("it changes nothing")
    return text.replace(mutant.old, mutant.new)


def complaints(mutants: Iterable[Mutant]) -> list[str]:
    """Which mutants do not apply to the package as it is, or are no Python then, and why."""
    found: list[str] = []
    for mutant in mutants:
        try:
            text = changed(mutant, ROOT / "cachesync")
            if mutant.file.endswith(".py"):
                ast.parse(text)
        except (MutantError, SyntaxError) as problem:
            found.append(f"{mutant.name}: {problem}")
    return found


def run_tests(tests: Iterable[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run ``tests`` against the package in ``folder``. Raises ``MutantError`` when Python would import another one."""
    environment = dict(os.environ)
    environment.pop("CACHESYNC_TEST_WHEEL", None)
    environment |= {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis")}
    probe = [sys.executable, "-c", "import importlib.util as u; print(*u.find_spec('cachesync').submodule_search_locations)"]
    seen = subprocess.run(probe, env=environment, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    if Path(seen).resolve() != (folder / "cachesync").resolve():
        raise MutantError(f"the tests would import {seen}, not the copy")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--color=no", *tests]
    return subprocess.run(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=MUTANT_SECONDS, check=False
    )


def judge(tests: Iterable[str], mutant: Mutant | None) -> Verdict:
    """Run ``tests`` on a copy, changed by ``mutant`` or as it is."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cachesync-mutant-") as name:
        try:
            package = copy_package(Path(name))
            if mutant is not None:
                (package / mutant.file).write_text(changed(mutant, package))
            run = run_tests(tests, Path(name))
        except MutantError as problem:
            return Verdict("broken", time.monotonic() - begun, str(problem))
        except subprocess.TimeoutExpired:
            return Verdict("broken", time.monotonic() - begun, f"the tests did not end within {MUTANT_SECONDS} s")
    word = {PYTEST_PASSED: "survived", PYTEST_FAILED: "killed"}.get(run.returncode, "broken")
    return Verdict(word, time.monotonic() - begun, run.stdout)


def tail(text: str) -> str:
    """The last lines of ``text``, indented."""
    return "\n".join(f"    {line}" for line in text.rstrip().splitlines()[-SHOWN_LINES:])


def main() -> int:
    """Read the command line, run, print the table. Returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", metavar="NAME", action="append", help="run this mutant; may be given again")
    options.add_argument("--list", action="store_true", help="print the names and run nothing")
    chosen = options.parse_args()
    mutants = read_table()
    if chosen.only:
        if unknown := set(chosen.only) - {mutant.name for mutant in mutants}:
            print(f"no mutant is called {', '.join(sorted(unknown))}")
            return 1
        mutants = [mutant for mutant in mutants if mutant.name in chosen.only]
    if chosen.list:
        for mutant in mutants:
            print(f"{mutant.name:50} {mutant.file}")
        return 0

    if problems := complaints(mutants):
        print("\n".join(problems))
        return 1
    print(f"{len(mutants)} mutants, {AT_ONCE} at a time; first the tests they name, on the package as it is")
    calm = judge(sorted({test for mutant in mutants for test in mutant.tests}), None)
    if calm.word != "survived":
        print(f"the unchanged package does not pass:\n{tail(calm.said)}")
        return 1
    print(f"{'green':9} {calm.seconds:6.1f} s  the package as it is", flush=True)

    counts = {"killed": 0, "survived": 0, "broken": 0}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        verdicts = pool.map(judge, (mutant.tests for mutant in mutants), mutants)
        for mutant, verdict in zip(mutants, verdicts, strict=True):
            counts[verdict.word] += 1
            print(f"{verdict.word:9} {verdict.seconds:6.1f} s  {mutant.name}", flush=True)
            if verdict.word != "killed":
                print(f"    {mutant.file}: {mutant.old.strip().splitlines()[0]}\n{tail(verdict.said)}")
    print(", ".join(f"{count} {word}" for word, count in counts.items()))
    return 0 if counts["killed"] == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
