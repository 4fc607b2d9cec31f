"""What one request was answered from, and what it has changed."""

from __future__ import annotations

import math
from collections.abc import Iterable

from cachesync.core.entry import MAX_DEPENDENCIES, Dependency, bounded
from cachesync.core.policy import Policy
from cachesync.core.records import EVERYTHING, KEY, Targets
from cachesync.core.stamps import BY_LIFETIME, Stamp
from cachesync.core.steps import Called


class Consumed:
    """What one request was answered from, and what it has changed: for whoever describes its answer to the outside.

    ``policies`` are those of what was read, by name. ``until`` is when the first of it ends to be fresh, ``made`` when the computation of
    the oldest began (seconds, monotonic clock). ``oldest`` are the stamps of what was served although it is not fresh. ``is_alone``: no
    other cache was asked, whose policies and log nobody knows here. What adds to it is called under the lock of its scope.
    """

    __slots__ = (
        "_asked",
        "_found",
        "_is_known",
        "is_alone",
        "is_hit",
        "is_stale",
        "made",
        "oldest",
        "policies",
        "stamp",
        "until",
        "written",
    )

    def __init__(self) -> None:
        self.policies: dict[str, Policy] = {}
        self.until = math.inf
        self.made = math.inf
        self.is_alone = True
        self.is_hit = True
        self.is_stale = False
        self.oldest: list[Stamp] = []
        self.written: list[Targets] = []
        """What the request has invalidated or set itself."""
        self.stamp: Stamp | None = None
        """The position in the log after that."""
        self._is_known = True
        self._asked: set[str] = set()  # keys that were asked for, and have brought no value yet
        self._found: dict[Dependency, None] = {}

    @property
    def is_known(self) -> bool:
        """Whether an invalidation of any of it would be noticed. What was not there, or has failed, may come without one."""
        return self._is_known and not self._asked

    @property
    def is_judged(self) -> bool:
        """Whether all that it is made of was judged by the log."""
        return self._is_known

    def doubt(self) -> None:
        """It is made of something, too, of which nobody here would know that it has changed."""
        self._is_known = False

    def ask(self, key: str) -> None:
        """A key is asked for. Until it has brought a value, there is something that was not there."""
        if len(self._asked) < MAX_DEPENDENCIES:
            self._asked.add(key)

    @property
    def dependencies(self) -> tuple[Dependency, ...]:
        """All of it: keys that were read, what their values depend on, and what the request itself has named (`Cache.depends_on`)."""
        return bounded(self._found)

    def see(self, key: str, policy: Policy, called: Called) -> None:
        """A value was looked at."""
        if self.policies.get(policy.name) is not policy:  # anew: somebody may be looking at those there are
            self.policies = {**self.policies, policy.name: policy}
        self.name((Dependency(KEY, key), *called.dependencies))

    def read(self, key: str, policy: Policy, called: Called) -> None:
        """A value was handed out."""
        self.see(key, policy, called)
        self._asked.discard(key)
        self.until, self.made = min(self.until, called.until), min(self.made, called.made)
        self.is_hit = self.is_hit and called.fresh is None
        if called.until == math.inf or called.stamp is None or called.stamp == BY_LIFETIME:
            self.doubt()
        if called.is_stale:
            self.is_stale = True
            if called.stamp is None or len(self.oldest) == MAX_DEPENDENCIES:
                self.doubt()
            else:
                self.oldest.append(called.stamp)

    def name(self, dependencies: Iterable[Dependency]) -> None:
        """The answer depends on these, too: beyond the number that is told apart, on anything."""
        if len(self._found) <= MAX_DEPENDENCIES:
            self._found.update(dict.fromkeys(dependencies))

    def write(self, targets: Iterable[Targets]) -> None:
        """The request changes something itself. Of very much that is everything."""
        self.written += targets
        if len(self.written) > MAX_DEPENDENCIES:
            self.written = [Targets(EVERYTHING, ("*",))]

    def wrote(self, stamp: Stamp) -> None:
        """It has changed it. The position after several changes is that of the last; one that is not known counts above all."""
        before = self.stamp
        if before is None or stamp.pending or (not before.pending and (stamp.epoch != before.epoch or stamp.number > before.number)):
            self.stamp = stamp
