"""Was every answer fresh? The judgement of the demonstration, as a plain function of what was seen.

Three rules, each a promise of cachesync. A change is committed before it is announced, so an answer has to show it when

1. the worker had applied the change's position in the log before the request came;
2. the request came to the worker that announced the change, after that had been acknowledged;
3. the request was sent later than ``max_lag`` after the acknowledgement, to any worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cachesync.core.stamps import Stamp

CHAIN = "*"
"""Stands for the whole chain in place of a store's code; its revision is the number of changes so far."""


@dataclass(frozen=True, slots=True)
class Change:
    """An administrator's change. ``done`` is when it was acknowledged: seconds, the machine's monotonic clock."""

    code: str
    revision: int
    worker: str
    stamp: Stamp
    done: float


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer: who gave it, when it was asked for, how far the worker had applied the log then, and the revisions it shows."""

    worker: str
    path: str
    sent: float
    position: Stamp | None
    revisions: Mapping[str, int]


@dataclass(slots=True)
class Judgement:
    """What came out. ``behind`` are answers older than an acknowledged change, within ``max_lag`` of it: allowed, and rare.

    ``longest_behind`` is the longest time in seconds between an acknowledgement and a request that still got an older answer.
    """

    answers: int = 0
    stale: list[str] = field(default_factory=list[str])
    behind: int = 0
    longest_behind: float = 0.0


def judge(changes: Sequence[Change], answers: Iterable[Seen], *, max_lag: float) -> Judgement:
    """Hold every answer against every change."""
    found = Judgement()
    for seen in answers:
        found.answers += 1
        late = 0.0
        for change, shown, needed in _concerning(changes, seen):
            if shown >= needed:
                continue
            reason = _must_show(change, seen, max_lag)
            if reason:
                found.stale.append(f"{seen.worker} {seen.path}: revision {shown} of {change.code}, not {needed}, although {reason}")
                break
            late = max(late, seen.sent - change.done)
        if late > 0:
            found.behind += 1
            found.longest_behind = max(found.longest_behind, late)
    return found


def _concerning(changes: Sequence[Change], seen: Seen) -> Iterator[tuple[Change, int, int]]:
    """The changes that concern an answer, each with the revision that the answer shows and the one that has the change."""
    if CHAIN in seen.revisions:
        in_order = sorted(changes, key=lambda change: change.stamp.number)
        yield from ((change, seen.revisions[CHAIN], count) for count, change in enumerate(in_order, 1))
    for change in changes:
        if change.code in seen.revisions:
            yield change, seen.revisions[change.code], change.revision


def _must_show(change: Change, seen: Seen, max_lag: float) -> str:
    """Why an answer has to show a change; empty when it need not yet."""
    if seen.position is not None and seen.position.epoch == change.stamp.epoch and seen.position.number >= change.stamp.number:
        return "the change was applied there"
    if seen.worker == change.worker and seen.sent > change.done:
        return "the change was announced there"
    if seen.sent > change.done + max_lag:
        return f"the change was announced more than {max_lag:g} s before"
    return ""
