"""Traces: sequences of keys to play against caches, the same ones on each run.

Keys are integers. Popularity follows Zipf's law, with an exponent at which LRU hits .488 times when it holds 1 % of the keys.
"""

from __future__ import annotations

from itertools import accumulate
from random import Random
from typing import Final

KEYS: Final = 100_000
REQUESTS: Final = 1_000_000
EXPONENT: Final = 0.99


def zipf(*, keys: int = KEYS, requests: int = REQUESTS, seed: int = 1) -> list[int]:
    """Independent requests; the n-th most popular key is asked for ``n ** -0.99`` times as often as the first."""
    random = Random(seed)
    return random.choices(_shuffled(keys, random), cum_weights=_weights(keys), k=requests)


def zipf_with_scans(*, keys: int = KEYS, requests: int = REQUESTS, seed: int = 2) -> list[int]:
    """Zipf, and after 18,000 requests each a walk over 2,000 keys that were never asked for and never will be again.

    No cache can hit in a walk, so no hit ratio can be above .9.
    """
    random = Random(seed)
    names, weights = _shuffled(keys, random), _weights(keys)
    trace: list[int] = []
    fresh = keys
    while len(trace) < requests:
        trace += random.choices(names, cum_weights=weights, k=18_000)
        trace += range(fresh, fresh + 2_000)
        fresh += 2_000
    return trace[:requests]


def shifting(*, keys: int = KEYS, requests: int = REQUESTS, phases: int = 10, seed: int = 3) -> list[int]:
    """Zipf, with other popular keys in each of ten phases."""
    random = Random(seed)
    weights = _weights(keys)
    trace: list[int] = []
    for _ in range(phases):
        trace += random.choices(_shuffled(keys, random), cum_weights=weights, k=requests // phases)
    return trace


def every() -> dict[str, list[int]]:
    """The three traces of the table, by name."""
    return {"Zipf": zipf(), "with scans": zipf_with_scans(), "shifting": shifting()}


def _weights(keys: int) -> list[float]:
    return list(accumulate(rank**-EXPONENT for rank in range(1, keys + 1)))


def _shuffled(keys: int, random: Random) -> list[int]:
    names = list(range(keys))
    random.shuffle(names)
    return names
