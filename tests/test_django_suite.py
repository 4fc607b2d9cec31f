"""Django's own tests of cache backends, run on `cachesync.django.CachesyncCache`: in one process without Redis, and with a Valkey.

They come with Django's source distribution (`support.django_sources`), of the version that is installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

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
    command = [sys.executable, "-m", "django_suite.run", str(folder), *([server.url] if server is not None else [])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout.splitlines()[-1])
    assert outcomes.keys() == AT_LEAST.keys()
    for part, told in outcomes.items():
        assert not told["wrong"], "\n\n".join(told["wrong"])
        assert not told["unlisted"], told["unlisted"]
        assert told["ran"] >= AT_LEAST[part]
        print(f"{place}, {part}: {told['ran']} tests, of which {len(told['not_applicable'])} do not apply")
        for name, reason in told["not_applicable"].items():
            print(f"  {name}: {reason}")
