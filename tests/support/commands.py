"""The command line as tests call it: ``main`` in this process, and the policy file that it finds."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from cachesync.cli import main

Printed = tuple[int, str, str]
"""The exit code, the output and the errors."""
Run = Callable[..., Printed]
POLICIES: Final = """\
namespace = "{namespace}"
[policy.stores]
match = "stores:*"
ttl = "10m"
"""


def forget_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine that runs the tests matters."""
    for name in list(os.environ):
        if name.startswith("CACHESYNC_") or name in ("NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name)


def name_policies(monkeypatch: pytest.MonkeyPatch, folder: Path, namespace: str, policies: str = POLICIES) -> Path:
    """A policy file of this test's namespace, which the environment names. No other setting matters."""
    forget_settings(monkeypatch)
    path = folder / "policies.toml"
    path.write_text(policies.format(namespace=namespace))
    monkeypatch.setenv("CACHESYNC_FILE", str(path))
    return path


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> Printed:
    """Run one command, in this process."""
    try:
        code = main(argv)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else -1
    printed = capsys.readouterr()
    return code, printed.out, printed.err
