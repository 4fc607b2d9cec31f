"""Together: several flows side by side, so that what they ask at the same time is asked at once.

A batch is the flows of its keys, each as it would be alone. Here is only when they wait for each other: whoever has to ask the shared
layer waits until all have come so far, then one trip asks for all; whoever has to compute waits for the others that have to, then one
call computes for all. So a rule about one key is written once, and holds in a batch. A trip has one deadline, the latest.

Nobody waits for a lease, or for another caller, while a lease of this batch is held that is not being computed under: what was granted
is computed, stored and given back first. So two batches that overlap in opposite order can not wait for each other.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Final, get_args

from cachesync.core.steps import (
    NO_DEADLINE,
    Await,
    Awaits,
    Call,
    Calls,
    Confirm,
    Failed,
    Flow,
    Join,
    Joins,
    ReadBans,
    ReadLog,
    SharedStep,
    Snapshot,
    Step,
    Store,
    Together,
    Waited,
)

MAX_BYTES_OF_A_TRIP: Final = 4 * 1024 * 1024
"""Values that are stored in one trip. One that is larger travels alone."""

_SHARED: Final[frozenset[type]] = frozenset(get_args(SharedStep)) - {Together}
_ORDER: Final[tuple[frozenset[type], ...]] = (_SHARED, frozenset({Call}), frozenset({Join}), frozenset({Await}))
"""What is asked first where flows have come to different points. Waiting is last: see above."""
_GROUPED: Final[frozenset[type]] = frozenset[type]().union(*_ORDER)
_ABOUT_THE_LOG: Final = frozenset({Confirm, ReadLog, ReadBans, Snapshot})
"""Questions about the log, which concern no key: equal ones are asked once, whatever their deadlines."""

_Asked = dict[int, Any]


def together(flows: Sequence[Flow]) -> Generator[Step, Any, tuple[Any, ...]]:
    """Run flows side by side. Returns their results, in their order."""
    results: dict[int, Any] = {}
    asked: _Asked = {}
    elapsed = _Elapsed(len(flows))
    try:
        for i, flow in enumerate(flows):
            yield from _advance(flow, None, i, asked, results, elapsed)
        while asked:
            chosen = _next(asked)
            for i, reply in zip(chosen, (yield from _ask([elapsed.added(i, asked[i]) for i in chosen])), strict=True):
                if reply is None:  # its lease has not ended
                    continue
                if isinstance(reply, Waited):
                    elapsed.begin_anew(i)
                del asked[i]
                yield from _advance(flows[i], reply, i, asked, results, elapsed)
    finally:
        for flow in flows:
            flow.close()
    return tuple(results[i] for i in range(len(flows)))


class _Elapsed:
    """The seconds that the steps of a batch take in this process, as encoding does: they are no time of the shared layer's.

    A flow adds its own to its deadline. Those of the others are added here, because all of them go on before anybody is asked.
    """

    def __init__(self, count: int) -> None:
        self._all = 0.0
        self._added = [0.0] * count

    def note(self, i: int, reply: Any) -> None:
        """A flow was answered in this process."""
        seconds = getattr(reply, "seconds", 0.0)
        self._all += seconds
        self._added[i] += seconds

    def begin_anew(self, i: int) -> None:
        """A flow has a deadline that is counted from now."""
        self._added[i] = self._all

    def added(self, i: int, step: Any) -> Any:
        """The step of a flow, with the seconds of the others."""
        seconds = self._all - self._added[i]
        is_shared = step.__class__ in _SHARED
        return step._replace(deadline=step.deadline + seconds) if seconds and is_shared else step


def _advance(flow: Flow, reply: Any, i: int, asked: _Asked, results: dict[int, Any], elapsed: _Elapsed) -> Generator[Step, Any, None]:
    """Go on with one flow, up to a step that is asked for several at once, or to its end."""
    while True:
        try:
            step = flow.send(reply)
        except StopIteration as stop:
            results[i] = stop.value
            return
        if step.__class__ in _GROUPED and not (isinstance(step, Call) and step.given is not None):  # a value that is given calls nobody
            asked[i] = step
            return
        reply = yield step
        elapsed.note(i, reply)


def _next(asked: _Asked) -> list[int]:
    """Which flows go on next: those with the most urgent kind of question, as far as their values fit into one trip."""
    for kinds in _ORDER:
        chosen = sorted(i for i, step in asked.items() if step.__class__ in kinds)
        if chosen:
            return _fitting(chosen, asked)
    raise AssertionError("every step that is kept has a place in the order")


def _fitting(chosen: list[int], asked: _Asked) -> list[int]:
    size = 0
    for count, i in enumerate(chosen):
        step = asked[i]
        size += len(step.blob) if isinstance(step, Store) else 0
        if size > MAX_BYTES_OF_A_TRIP and count:
            return chosen[:count]
    return chosen


def _ask(steps: list[Any]) -> Generator[Step, Any, Sequence[Any]]:
    """Ask several at once. A single one is asked as it is, but for a wait: it may be what is left of several."""
    kind = steps[0].__class__
    if kind in _SHARED:
        return (yield from _ask_shared(steps))
    if len(steps) == 1 and kind is not Await:
        return ((yield steps[0]),)
    group: Any = {Call: Calls, Join: Joins, Await: Awaits}[kind]
    replies: Sequence[Any] = yield group(tuple(steps))
    return replies


def _ask_shared(steps: Sequence[Any]) -> Generator[Step, Any, Sequence[Any]]:
    keys: list[Any] = [question_of(step) or i for i, step in enumerate(steps)]
    latest: dict[Any, Any] = {}  # of equal questions that with the latest deadline
    for key, step in zip(keys, steps, strict=True):
        if key not in latest or step.deadline > latest[key].deadline:
            latest[key] = step
    different = tuple(latest.values())
    replies: Any
    if len(different) == 1:
        replies = ((yield different[0]),)
    else:
        deadline = max(step.deadline for step in different)
        alike = tuple(step if step.deadline == deadline else step._replace(deadline=deadline) for step in different)
        replies = yield Together(alike, deadline)
        replies = (replies,) * len(different) if isinstance(replies, Failed) else replies.replies
    answers = dict(zip(latest, replies, strict=True))
    return [answers[key] for key in keys]


def question_of(step: Any) -> tuple[type, SharedStep] | None:
    """What a step asks about the log, the same for all that ask for that; ``None`` where it concerns a key. Its class is a part of it:
    named tuples of two kinds are equal where their fields are.
    """
    kind = step.__class__
    return (kind, step._replace(deadline=NO_DEADLINE)) if kind in _ABOUT_THE_LOG else None
