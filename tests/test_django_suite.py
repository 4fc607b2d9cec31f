"""Django's own tests of cache backends, run on `cachesync.django.CachesyncCache`: in one process without Redis, and with a Valkey.

They come with Django's source distribution (`support.django_sources`), of the version that is installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from support.django_sources import django_tests
from support.servers import Server

TESTS: Final = Path(__file__).parent
AT_LEAST: Final = {"def": 49, "async": 49, "middleware": 40}
"""Tests of each part, so that none is lost silently."""
PLACES: Final = ("one process", "a Valkey")


@pytest.mark.parametrize("place", PLACES)
def test_djangos_own_tests_of_backends_hold(place: str, request: pytest.FixtureRequest) -> None:
    """What does not apply is listed with its reason, and printed; everything else passes, in both colours."""
    folder = django_tests()
    paths = [os.environ.get("PYTHONPATH"), str(TESTS)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    server: Server | None = request.getfixturevalue("fresh_server") if place == "a Valkey" else None
    running: dict[str, subprocess.Popen[str]] = {}
    for part in AT_LEAST:  # side by side: with a server they sleep most of the time
        command = [sys.executable, "-m", "django_suite.run", str(folder), part, *([server.url] if server is not None else [])]
        running[part] = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for part, process in running.items():
        said, problem = process.communicate(timeout=100)
        assert process.returncode == 0, problem
        told: dict[str, Any] = json.loads(said.splitlines()[-1])
        assert not told["wrong"], "\n\n".join(told["wrong"])
        assert not told["unlisted"], told["unlisted"]
        assert told["ran"] >= AT_LEAST[part]
        print(f"{place}, {part}: {told['ran']} tests, of which {len(told['not_applicable'])} do not apply")
        for name, reason in told["not_applicable"].items():
            print(f"  {name}: {reason}")
