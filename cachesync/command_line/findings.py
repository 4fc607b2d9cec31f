"""What an examination has found: each fact with what it means, and what to do about it."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Status = Literal["ok", "warning", "wrong"]
COLOUR: Final[dict[Status, str]] = {"ok": "good", "warning": "note", "wrong": "bad"}


class Finding(NamedTuple):
    """One thing that was looked at. ``advice`` is empty where nothing has to be done."""

    name: str
    status: Status
    says: str
    advice: str = ""


def fine(name: str, says: str) -> Finding:
    """Nothing has to be done."""
    return Finding(name, "ok", says)


def warning(name: str, says: str, advice: str) -> Finding:
    """It works, and could work better."""
    return Finding(name, "warning", says, advice)


def wrong(name: str, says: str, advice: str) -> Finding:
    """It does not work, or not as the policy file promises."""
    return Finding(name, "wrong", says, advice)
