"""Many measured times as the few figures that say how they are spread."""

from __future__ import annotations

import math
from collections.abc import Sequence


def spread(figures: Sequence[float]) -> dict[str, float]:
    """``{"p50", "p99", "max", "count"}``. A percentile is a figure that was measured, the nearest rank and nothing in between.

    Raises ``ValueError`` where there is none.
    """
    if not figures:
        raise ValueError("nothing was measured")
    ordered = sorted(figures)
    return {"p50": at_share(ordered, 0.50), "p99": at_share(ordered, 0.99), "max": ordered[-1], "count": float(len(ordered))}


def at_share(ordered: Sequence[float], share: float) -> float:
    """The least of the ordered figures that so large a share of them does not exceed."""
    return ordered[max(1, math.ceil(len(ordered) * share)) - 1]
