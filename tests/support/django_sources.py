"""Django's own tests, which are in its source distribution only: fetched once for each version, into ``.build/``."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

BUILD = Path(__file__).parents[2] / ".build"


def django_tests() -> Path:
    """The folder ``tests`` of the sources of the installed Django. Only the first time asks the package index."""
    name = f"django-{version('Django')}"
    folder = BUILD / name / "tests"
    if not folder.is_dir():
        _fetch(name)
    return folder


def _fetch(name: str) -> None:
    archive = BUILD / f"{name}.tar.gz"
    if not archive.is_file():
        how = ["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-binary", ":all:", "--dest", str(BUILD)]
        subprocess.run([sys.executable, "-m", "pip", *how, f"Django=={version('Django')}"], check=True, timeout=100)
    with tarfile.open(archive) as packed:
        packed.extractall(BUILD, [one for one in packed if one.name.startswith(f"{name}/tests/cache/")], filter="data")
