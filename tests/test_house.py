"""The house itself: what is tested is what is shipped, imports run one way, errors have one root."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import inspect
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import cachesync
from cachesync import errors

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TESTS_WHEEL = os.environ.get("CACHESYNC_TEST_WHEEL") == "1"


def installed_folder() -> Path:
    """The folder of the package that the tests import."""
    return Path(inspect.getfile(errors)).resolve().parent


def shipped(folder: Path) -> set[str]:
    """The files of a package folder, without what Python leaves behind."""
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name for name in files if "__pycache__" not in name}


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the package in ``folder`` under the contracts of the pyproject.toml beside it."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONSAFEPATH"}}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_wheel_is_what_is_tested() -> None:
    """`make test` imports the package from site-packages, as users do; everything else imports the tree or a copy of it."""
    told = f"imported from {installed_folder()}: run `make test` for the wheel, `make quick` for the tree"
    assert ("site-packages" in installed_folder().parts) == TESTS_WHEEL, told


def test_every_file_of_the_package_is_shipped() -> None:
    """Scripts, schema, types marker and browser client are in the wheel: all that lies in the tree, and nothing else."""
    assert "py.typed" in shipped(installed_folder())
    assert shipped(installed_folder()) == shipped(ROOT / "cachesync")
    assert importlib.resources.files("cachesync").joinpath("py.typed").is_file()


def test_there_is_one_version() -> None:
    """The version in pyproject.toml, the one pip shows and ``cachesync.__version__`` agree."""
    if TESTS_WHEEL:
        assert importlib.metadata.version("cachesync") == PROJECT["version"]
    assert getattr(cachesync, "__version__", PROJECT["version"]) == PROJECT["version"]


def test_imports_run_one_way() -> None:
    """Imports run core <- protocols <- layers <- coordination <- doors, and the core asks for no clock, socket, thread or loop."""
    run = lint_imports(ROOT)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("importer", "line", "broken"),
    [
        ("core/intruder.py", "import time", "The core is pure"),
        ("core/intruder.py", "from asyncio import Future", "The core is pure"),
        ("core/intruder.py", "import redis.asyncio", "The core is pure"),
        ("core/intruder.py", "def later() -> None:\n    import threading", "The core is pure"),
        ("core/intruder.py", "from cachesync import protocols", "Imports run one way"),
        ("layers/intruder.py", "import cachesync.coordination", "Imports run one way"),
        ("coordination/intruder.py", "import cachesync.decorator", "Imports run one way"),
        ("protocols.py", "from cachesync.layers import intruder", "Imports run one way"),
        ("unplaced.py", "", "Imports run one way"),
        ("layers/intruder.py", "import cachesync", "No room imports the front door"),
        ("errors.py", "import cachesync.core", "Everybody may import cachesync.errors"),
    ],
)
def test_an_import_against_the_rule_is_found(tmp_path: Path, importer: str, line: str, broken: str) -> None:
    """The import rule has teeth: each kind of break is reported. An unplaced top-level module is one too."""
    copy = tmp_path / "cachesync"
    for room in ("core", "layers", "coordination"):
        (copy / room).mkdir(parents=True)
        (copy / room / "__init__.py").touch()
    for door in ("__init__", "errors", "protocols", "cache", "decorator"):
        (copy / f"{door}.py").touch()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    calm = lint_imports(tmp_path)
    assert calm.returncode == 0, calm.stdout + calm.stderr

    (copy / "layers" / "intruder.py").touch()
    (copy / importer).write_text(f"{line}\n")

    run = lint_imports(tmp_path)
    assert run.returncode == 1
    assert re.search(rf"^{re.escape(broken)}.* BROKEN$", run.stdout, re.MULTILINE), run.stdout


@pytest.mark.parametrize(("door", "needed"), [("otel", "opentelemetry"), ("prometheus", "prometheus_client")])
def test_a_door_without_its_extra_names_it(door: str, needed: str) -> None:
    """Whoever lacks what a door needs is told what to install; the rest of the package does not need it."""
    source = f"import sys\nsys.modules[{needed!r}] = None\nimport cachesync.cache, cachesync.logs\nimport cachesync.{door}\n"
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert f'pip install "cachesync[{door}]"' in run.stderr.splitlines()[-1]


def test_every_error_has_one_root_and_stands_in_the_tree() -> None:
    """Each exception of ours derives from ``CachesyncError``, and the drawing in the docstring of errors.py shows just these."""
    ours = {name for name, kind in vars(errors).items() if isinstance(kind, type) and kind.__module__ == errors.__name__}
    drawn = set(re.findall(r"^\s+(?:[│ ]*[├└]── )?([A-Z]\w+Error)\b", errors.__doc__ or "", re.MULTILINE))
    assert ours == drawn
    for name in ours:
        assert issubclass(getattr(errors, name), errors.CachesyncError), name


def test_a_linked_environment_is_not_emptied(tmp_path: Path) -> None:
    """``make`` makes a .venv anew that is not sound. Where it is a symbolic link, what it leads to belongs to somebody else."""
    for name in ("Makefile", "pyproject.toml", "requirements"):
        (tmp_path / name).symlink_to(ROOT / name)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "kept").touch()
    (tmp_path / ".venv").symlink_to(theirs)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", f"PYTHON={sys.executable}", "setup"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert f".venv is a symbolic link to {theirs}" in run.stderr
    assert [path.name for path in theirs.iterdir()] == ["kept"]
