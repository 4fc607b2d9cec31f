"""Types: what users write is checked by mypy and pyright, both strict, as they would check it against the installed package."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

import cachesync

HERE = Path(__file__).with_name("typing")
FILES = ("must_pass.py", "must_fail.py")
HOME = Path(cachesync.__file__).parent.parent
"""Where the tested package lies: the tree, or an environment's site-packages."""
INSTALLED = "site-packages" in HOME.parts
Complaints = dict[str, dict[int, list[str]]]
"""What a checker says, by file and line."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the two files and nothing else, so that no configuration but a user's own strictness counts."""
    folder = tmp_path_factory.mktemp("types")
    for name in FILES:
        shutil.copy(HERE / name, folder)
    settings = {
        "include": list(FILES),
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "extraPaths": [] if INSTALLED else [str(HOME)],
        "enableTypeIgnoreComments": False,
        "reportUnusedExpression": False,
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def run(folder: Path, *command: str) -> str:
    """What a checker prints. It fails unless it ends with 0 or 1, "no errors" and "errors"."""
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "MYPYPATH"}}
    environment["PYRIGHT_PYTHON_IGNORE_WARNINGS"] = "1"
    if not INSTALLED:
        environment["MYPYPATH"] = str(HOME)
    done = subprocess.run([sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def mypy(folder: Path) -> Complaints:
    """One run of mypy over both files."""
    printed = run(folder, "mypy", "--strict", "--config-file=", "--no-error-summary", "--hide-error-context", "--no-pretty", *FILES)
    found: Complaints = defaultdict(lambda: defaultdict(list))
    for line in printed.splitlines():
        match = re.fullmatch(r"(.+?):(\d+): error: (.*)", line)
        if match:
            found[Path(match[1]).name][int(match[2])].append(match[3])
        else:
            assert ": note: " in line, printed
    return found


def pyright(folder: Path) -> Complaints:
    """One run of pyright over both files."""
    found: Complaints = defaultdict(lambda: defaultdict(list))
    for told in json.loads(run(folder, "pyright", "--outputjson", "--pythonpath", sys.executable))["generalDiagnostics"]:
        if told["severity"] == "error":
            found[Path(told["file"]).name][told["range"]["start"]["line"] + 1].append(told["message"])
    return found


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_types_are_kept_and_mistakes_are_found(folder: Path, checker: Callable[[Path], Complaints]) -> None:
    """Nothing is said about what must pass; every line marked ``# E`` is complained about, and no other."""
    found = checker(folder)
    assert {f"{name}:{line}": says for name in found for line, says in found[name].items() if name != "must_fail.py"} == {}
    source = (HERE / "must_fail.py").read_text(encoding="utf-8").splitlines()
    marked = {number for number, line in enumerate(source, 1) if line.endswith("  # E")}
    assert len(marked) > 50
    complaints = found["must_fail.py"]
    assert [f"{number}: {source[number - 1]}" for number in sorted(marked - complaints.keys())] == [], "accepted, and must not be"
    assert {number: complaints[number] for number in sorted(complaints.keys() - marked)} == {}, "refused, and must not be"


def test_the_package_says_that_it_is_typed() -> None:
    """PEP 561: without the marker no checker looks at it."""
    assert Path(cachesync.__file__).with_name("py.typed").is_file()
