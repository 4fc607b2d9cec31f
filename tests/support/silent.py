"""Settings that are accepted without effect: there is none today, so a test makes some."""

from __future__ import annotations

import pytest

from cachesync.core.policy import HttpPolicy
from cachesync.core.rules import not_yet


def silence(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let settings of the ``http`` table be without effect."""
    monkeypatch.setattr(HttpPolicy, "rules", {**HttpPolicy.rules, **{name: not_yet(HttpPolicy.rules[name]) for name in names}})
