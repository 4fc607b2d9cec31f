"""Results: what a function's value says of itself, before it is stored: how long it lives, its tags, whether it can be kept at all."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from typing import Any

from cachesync.core.entry import Dependency
from cachesync.core.keys import written
from cachesync.core.policy import Policy
from cachesync.core.records import TAG
from cachesync.core.units import parse_duration


def lifetime_of(policy: Policy, wanted: Callable[[Any], Any] | None, value: Any) -> float:
    """Seconds that a value is fresh, spread by the policy's jitter. ``wanted`` is the decorator's ``ttl`` function.

    Raises whatever that raises, and ``ValueError`` or ``TypeError`` for what it returns that is no lifetime.
    """
    if value is None and policy.negative_ttl is not None:
        return policy.negative_ttl * _spread(policy)
    if not policy.is_dynamic or wanted is None:
        return policy.lifetime(None) * _spread(policy)
    return policy.lifetime(policy.lifetime(_seconds(wanted(value))) * _spread(policy))


def tags_of(texts: Any) -> tuple[Dependency, ...]:
    """Tags as a program names them. Raises ``TypeError`` or ``ValueError`` for what can not be one."""
    if isinstance(texts, str):
        raise TypeError("tags are a list of texts, not one text; put it in brackets")
    found = tuple(texts)
    for text in found:
        if not isinstance(text, str) or not text:
            raise ValueError("a tag can not be empty" if text == "" else f"a tag is a text, not {type(text).__name__}")
    return tuple(Dependency(TAG, written(text)) for text in found)


def _spread(policy: Policy) -> float:
    return 1 + random.uniform(-policy.jitter, policy.jitter) if policy.jitter else 1.0


def is_used_up(value: object) -> bool:
    """Whether only one caller could read it: iterators, coroutines and other awaitables."""
    cls = type(value)
    return hasattr(cls, "__next__") or hasattr(cls, "__await__") or hasattr(cls, "__anext__")


def can_be_copied(value: object) -> bool:
    """Whether a caller could be given a copy of its own."""
    try:
        copy.deepcopy(value)
    except Exception:  # whatever its class raises
        return False
    return True


def _seconds(ttl: object) -> float:
    """A lifetime as a decorator's ``ttl`` function may give it: seconds, a timedelta, or "5m"."""
    if isinstance(ttl, str):
        return parse_duration(ttl)
    total = getattr(ttl, "total_seconds", None)
    seconds = float(total() if callable(total) else ttl)  # type: ignore[arg-type]  # float() refuses what is no number
    if not math.isfinite(seconds):
        raise ValueError(f"{seconds} is not a lifetime")
    return seconds
