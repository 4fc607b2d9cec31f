"""Looking into a running system: ``cachesync stats`` and ``top``, on real servers and beside a real application."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cachesync import Cache, Policy, Settings
from cachesync.cli import main
from cachesync.command_line.survey import NAMES_OF_A_PAGE
from cachesync.core.settings import CoordinationSettings
from support.nodes import LONG
from support.servers import Server

Run = Callable[..., tuple[int, str, str]]
POLICIES = """\
namespace = "{namespace}"
[policy.stores]
match = "stores:*"
ttl = "10m"
[policy.users]
match = "users:*"
ttl = "10m"
"""


@pytest.fixture(autouse=True)
def policy_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, namespace: str) -> Path:
    """A policy file of this test's namespace, and no other setting."""
    for name in list(os.environ):
        if name.startswith("CACHESYNC_") or name in ("NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name)
    path = tmp_path / "policies.toml"
    path.write_text(POLICIES.format(namespace=namespace))
    monkeypatch.setenv("CACHESYNC_FILE", str(path))
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Calls ``main`` and returns the exit code, the output and the errors. ``url`` is where Redis is."""

    def called(*argv: str, url: str | None = None) -> tuple[int, str, str]:
        if url is not None:
            monkeypatch.setenv("CACHESYNC_REDIS_URL", url)
        try:
            code = main(argv)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else -1
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return called


def cache_at(url: str, namespace: str) -> Cache:
    """A process of the system, with one policy more than the policy file has."""
    policies = [Policy(name=name, match=f"{name}:*", ttl="10m") for name in ("stores", "users", "others")]
    patient = Settings(coordination=CoordinationSettings(budget=LONG))  # a busy machine is no outage
    return Cache(patient, policies=policies, namespace=namespace, redis=url, listen=False)


# --- stats: what lies in Redis ----------------------------------------------------------------------------------------------------


def test_stats_counts_what_lies_in_redis(run: Run, every_server: Server, namespace: str) -> None:
    """Entries and bytes by policy, over several pages of names; what belongs to no policy stands apart, and the log is told."""
    with cache_at(every_server.url, namespace) as cache:
        for number in range(NAMES_OF_A_PAGE + 20):
            cache.set(f"stores:{number}", "x" * 100)
        cache.set("others:1", 1)
        cache.set("users:" + "x" * 600, 1)
        stamp = cache.invalidate("stores:0", tags=["t"])
    code, out, err = run("stats", "--json", url=every_server.url)
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert (found["ok"], found["stamp"], found["namespace"]) == (True, str(stamp), namespace)
    assert found["policies"]["stores"]["entries"] == NAMES_OF_A_PAGE + 19
    assert found["policies"]["stores"]["bytes"] > 100 * NAMES_OF_A_PAGE
    assert found["policies"]["users"] == {"entries": 0, "bytes": 0}
    assert {name: row["entries"] for name, row in found["others"].items()} == {
        "no policy of this file": 1,
        "keys of more than 512 bytes": 1,
    }
    assert found["entries"] == NAMES_OF_A_PAGE + 21
    assert found["records"] > 0 and found["bans"] > 0 and found["leases"] == 0
    code, out, err = run("stats")
    assert (code, err) == (0, "")
    assert ["stores", f"{NAMES_OF_A_PAGE + 19:,}"] in [line.split()[:2] for line in out.splitlines()]
    assert str(stamp) in out
