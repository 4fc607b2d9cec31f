"""Warming: what is known to be wanted is computed before anybody asks.

Each key goes the way of an ordinary question: what is fresh stays, what is not is computed under its lease and stamped with the position
at which that began. That a whole list was warmed is an entry too, under a key that no caller can write: its lease makes one process of
all do it, its stamp says from before which reset it is, and its digest, which declarations it is about, and how they are cached.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

import xxhash

from cachesync.core.envelope import IDENTITY
from cachesync.core.flows import Ask, Result, admit, catch_up, overdue
from cachesync.core.policy import Policy
from cachesync.core.steps import Called, Failed, Fetch, Fetched, Join, Overdue, Rests, Step
from cachesync.core.together import together
from cachesync.errors import LayerError

MARK: Final = "*warming:"
"""Begins the key of what was warmed. No caller's key has a star."""
ERRORS_KEPT: Final = 10
UNHEARD: Final = Failed(LayerError("the log of invalidations can not be read"))

UNSTORED: Final = Failed(LayerError("it was computed, and the shared layer could not be told"))


@dataclass(frozen=True, slots=True)
class Warmed:
    """How far warming is, or was when it ended.

    ``total`` keys are known, ``computed`` of them were computed here, ``fresh`` were fresh already or are by another process's doing,
    ``failed`` could not be computed, ``skipped`` were left out: it was ended, or only looked at, or they were switched off meanwhile.
    A list that could not be told counts among the failed as one. ``errors`` are the first ten. ``seconds`` is how long it took.
    """

    total: int = 0
    computed: int = 0
    fresh: int = 0
    failed: int = 0
    skipped: int = 0
    errors: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def done(self) -> int:
        """Keys that were dealt with."""
        return self.computed + self.fresh + self.failed + self.skipped


def warm_keys(asks: Sequence[Ask], *, shared: bool, dry_run: bool = False) -> Generator[Step, Any, Sequence[Result | None]]:
    """Obtain what is not fresh, with one call for all that have to be computed. Where the shared layer fails nothing is computed: nobody
    else would have it. ``dry_run``: only look; what would be computed is ``None``.
    """
    results: list[Result | None] = [None] * len(asks)
    dead: list[bytes | None] = [None] * len(asks)
    if shared and asks:
        fetched: Fetched | Failed = yield Fetch(tuple(ask.key for ask in asks), asks[0].deadline)
        if isinstance(fetched, Failed):
            return [fetched] * len(asks)
        if not (yield from catch_up(fetched.head, asks[0].deadline)):
            return [UNHEARD] * len(asks)
        for i, (ask, blob) in enumerate(zip(asks, fetched.blobs, strict=True)):
            admitted = yield from admit(ask, blob, fetched.head, fetched.now, ask.deadline)
            if not isinstance(admitted, Called):
                dead[i] = admitted.dead
            elif admitted.is_stale:
                dead[i] = None if blob is None else blob[:IDENTITY]
            else:
                results[i] = admitted
    if dry_run:
        return results
    missing = [i for i, result in enumerate(results) if result is None]
    computed = yield from together([_warm(asks[i], shared, dead[i]) for i in missing])
    for i, result in zip(missing, computed, strict=True):
        results[i] = result
    return results


def _warm(ask: Ask, shared: bool, dead: bytes | None, *, early: bool = False) -> Generator[Step, Any, Result]:
    """Compute one key, or wait for whoever does. No old value stands in for it, and no local copy where there is a shared layer, nor what
    that has not heard of: it would be warmed in name only.
    """
    rests: Failed | None = (yield Rests(ask)) if ask.policy.errors else None
    if rests is not None:
        return rests
    result: Result | Overdue = yield Join(ask, shared, dead, True, ask.policy.hard_timeout, early, anew=shared)
    if shared and isinstance(result, Called) and result.fresh is not None and not result.is_shared:
        return UNSTORED
    return overdue(ask) if isinstance(result, Overdue) else result


def claim(ask: Ask, *, shared: bool) -> Generator[Step, Any, Result]:
    """Compute a key in whichever process comes first. Who finds another one at it does not wait (`Unneeded`)."""
    dead = None
    if shared:
        fetched: Fetched | Failed = yield Fetch((ask.key,), ask.deadline)
        if isinstance(fetched, Failed):
            return fetched
        if not (yield from catch_up(fetched.head, ask.deadline)):
            return UNHEARD
        admitted = yield from admit(ask, fetched.blobs[0], fetched.head, fetched.now, ask.deadline)
        if isinstance(admitted, Called):
            return admitted
        dead = admitted.dead
    return (yield from _warm(ask, shared, dead, early=True))


def was_computed(called: Called) -> bool | None:
    """Whether an answer was computed just now (else it was cached); ``None`` for one that was, and could not be stored."""
    if called.fresh is not None:
        return True
    return False if isfinite(called.until) else None


def shortest_life(policy: Policy) -> float:
    """How long a value is fresh at least, seconds: its own ``negative_ttl`` left aside."""
    least = policy.min_ttl if policy.ttl is None else policy.ttl
    return (least or 0.0) * (1 - policy.jitter)


def mark_of(declared: Iterable[tuple[str, str, Sequence[str]]]) -> str:
    """The key under which it stands that this was warmed: names of lists, how what they hold is cached (as the version of its policy is a
    part of), and what they name.
    """
    text = json.dumps([list(one) for one in declared], separators=(",", ":"))
    return MARK + xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))
