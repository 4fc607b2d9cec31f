"""A cache for a moment, under the policy file of a running system: what ``invalidate``, ``sweep`` and ``switch`` speak through.

An application that can not reach Redis queues an invalidation and goes on; a command that ends would take its queue along. So it tries
for a while, and where that does not help it says so.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Final

from cachesync.cache import Cache
from cachesync.coordination.events import Event, logger
from cachesync.core.policies import Policies
from cachesync.core.settings import Settings

BUDGET: Final = 1.0
"""Seconds one try may take: whoever types a command waits longer than a page that is being served."""
PAUSE: Final = 0.2
"""Seconds between two tries."""


@dataclass(slots=True)
class Outcome:
    """How far it came: how many texts were announced, the stamp of the last of them as text, and what went wrong."""

    done: int = 0
    stamp: str | None = None
    reason: str = ""
    is_unconfirmed: bool = False
    is_unpublished: bool = False
    is_interrupted: bool = False
    is_lost: bool = False

    def note(self, event: Event) -> None:
        """Take note of an event of the cache."""
        match event.name:
            case "layer_failed":
                self.reason = str(event.fields["error"])
            case "invalidated":
                self.stamp = str(event.fields["stamp"])
            case "not_durable":
                self.is_unconfirmed = True
            case "not_published":
                self.is_unpublished = True
            case "invalidation_lost":
                self.is_lost = True
            case _:
                pass


def brief_cache(settings: Settings, outcome: Outcome, budget: float) -> Cache:
    """A cache under these settings, also where the environment switches caching off. What it meets is told to ``outcome`` alone."""
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())  # what no handler takes, Python prints to standard error
    coordination = replace(settings.coordination, budget=max(settings.coordination.budget, budget))
    # No value is read or written here, so nobody needs the keys that encrypt them.
    policies = Policies(replace(policy, encrypt=False) for policy in settings.policies)
    settings = replace(settings, coordination=coordination, policies=policies, enabled=True, switches={})
    return Cache(settings, listen=False, on_event=outcome.note)


def sentence(text: str) -> str:
    """With one full stop at its end."""
    return text.rstrip(".") + "."
