"""The circuit breaker: a shared layer that has failed is left alone, so that an outage costs one budget and not one on every call.
A cluster's nodes have one each, too.

::

    closed      everybody asks                  --a step fails-->               open
    open        nobody asks                     --its rest is over-->           half-open
    half-open   one at a time tries             --it fails: a longer rest-->    open
                                                --it answers-->                 closed

The log's reader tries behind everybody's back. Where there is none (``listen=False``) a caller does. The pattern and its names are
Michael Nygard's (Release It!, 2007). Rests begin with a second and are doubled where the layer fails again soon, up to eight.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final, Literal

from cachesync.core.steps import NEVER

FIRST_REST: Final = 1.0
LONGEST_REST: Final = 8.0
"""Seconds. A failure so long after the end of a rest is the first of its row again."""
SPREAD: Final = 0.2
"""By this fraction rests are spread, up and down, so that after an outage not all processes come at once."""

State = Literal["closed", "open", "half-open"]


class Breaker:
    """One process's breaker in front of its shared layer. ``lock`` guards what changes, ``budget`` is what a trial may take (seconds)."""

    def __init__(self, now: Callable[[], float], lock: AbstractContextManager[Any], budget: float) -> None:
        self._now = now
        self._lock = lock
        self.budget = budget
        self._rest = 0.0
        self.resting_until = NEVER
        self._trying_until = NEVER
        self.is_open = False
        """Whether the layer has failed and did not answer since."""
        self.failed_at = NEVER
        """When that was noticed last. What had been asked before says nothing about now."""
        self.refused: type | None = None
        """The kind of step that the layer has refused, until it does one again. A server that answers, if only to refuse, costs no time."""
        self.is_tried = False
        """Whether the log's reader finds out when the layer is back. Where it does not, callers do."""

    @property
    def state(self) -> State:
        """``half-open`` from the end of a rest on."""
        if not self.is_open:
            return "closed"
        return "open" if self._now() < self.resting_until else "half-open"

    @property
    def leaves_alone(self) -> bool:
        """Whether nobody but the log's reader asks the layer: what is asked fails at once, what is announced is queued."""
        return self.is_open and self.is_tried

    def admits(self) -> bool:
        """Whether whoever asks this may ask the layer now."""
        return not self.is_open or (not self.is_tried and self.may_try())

    @property
    def is_passable(self) -> bool:
        """Whether `admits` would say yes now. To look is no trial."""
        now = self._now()
        return not self.is_open or (not self.is_tried and now >= self.resting_until and now >= self._trying_until)

    def may_try(self) -> bool:
        """Whether whoever asks this is the one who tries the layer, after its rest."""
        with self._lock:
            now = self._now()
            if not self.is_open or now < self.resting_until or now < self._trying_until:
                return False
            self._trying_until = now + self.budget  # by then it is known whether it answers
            return True

    def failed(self) -> None:
        """A step has failed: nobody asks for a while. What was sent before that was known makes it no longer."""
        with self._lock:
            now = self._now()
            if self.is_open and now < self.resting_until:
                return
            is_again = now < self.resting_until + LONGEST_REST
            self._rest = min(2 * self._rest, LONGEST_REST) if is_again else FIRST_REST
            self.resting_until = now + random.uniform(1 - SPREAD, 1 + SPREAD) * self._rest
            self.is_open, self.failed_at = True, now

    def answered(self) -> None:
        """A step was answered."""
        with self._lock:
            self.is_open = False
            self.refused = None

    def end_rest(self) -> None:
        """There is a sign that the layer is back: it is tried at once."""
        with self._lock:
            now = self._now()
            self.resting_until, self._trying_until = min(self.resting_until, now), min(self._trying_until, now)
