"""Freshness: until when a value may be served, and as what.

A value is fresh for its lifetime, and then stale for as long as its policy says (``stale_while_revalidate``; RFC 5861, 3, gives that
word to HTTP). As a spare it may be served for longer: where its computation fails or takes too long (``stale_if_error``; RFC 5861, 4).
A soft invalidation ends its freshness at once and leaves both windows, counted from there. A hard one leaves
nothing: that is judged elsewhere, by bans.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from cachesync.core.entry import NEVER
from cachesync.core.policy import PROBABILISTIC, Policy
from cachesync.core.tuples import make


class Life(NamedTuple):
    """A value is fresh before ``fresh``, may be served stale before ``stale`` and as a spare before ``spare``: seconds, monotonic clock."""

    fresh: float
    stale: float
    spare: float = NEVER

    def is_over(self, now: float) -> bool:
        """May it not be served any more, but as a spare?"""
        return now >= self.fresh and now >= self.stale


def life_of(policy: Policy, made: float, fresh: float, softened: float | None) -> Life:
    """The life of a value whose computation began at ``made``, for ``fresh`` seconds; ``softened`` is when it was softly invalidated."""
    end, window, spare = made + fresh, policy.stale_while_revalidate, policy.stale_if_error
    if softened is not None:
        end = min(end, softened)
    return make(Life, (end, end + window if window else NEVER, end + spare if spare else NEVER))


def due_of(policy: Policy, made: float, fresh: float, *, seconds: float, luck: float) -> float:
    """From when on a fresh value is refreshed before its time, for a value fresh until ``fresh``: both seconds, monotonic clock.

    ``"probabilistic"``: before the end by ``seconds``, which its computation takes, times an exponential random number, for which each
    process has its own ``luck`` (above 0, up to 1). Of many processes the unluckiest comes first, and the longer a computation takes
    the sooner (Vattani, Chierichetti and Lowenstein: Optimal Probabilistic Cache Stampede Prevention, VLDB 2015, with a beta of 1).
    """
    if policy.early_refresh is None:
        return math.inf
    if policy.early_refresh == PROBABILISTIC:
        return max(made, fresh + seconds * math.log(luck))
    return made + policy.early_refresh * (fresh - made)


def stale_window(policy: Policy) -> float:
    """How long after its freshness a value is of any use, seconds."""
    return max(policy.stale_while_revalidate, policy.stale_if_error)


def longest_freshness(policy: Policy, value: object) -> float:
    """How long the policy of today lets such a value be fresh, seconds: it caps what was allowed when the entry was made."""
    if value is None and policy.negative_ttl is not None:
        return policy.negative_ttl * (1 + policy.jitter)
    if policy.ttl is None:
        return math.inf if policy.max_ttl is None else policy.max_ttl
    return policy.ttl * (1 + policy.jitter)


def deaf_window(policy: Policy) -> float:
    """How long beyond ``max_lag`` copies are served stale where the log can not be heard, seconds."""
    return stale_window(policy) if policy.on_disconnect == "serve" else 0.0
