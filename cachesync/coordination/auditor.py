"""The auditor: looks whether invalidations have arrived, by asking every process what it would serve.

It takes a sample of this process's hard invalidations, and asks one, ten and sixty seconds later, on the log's channel: which is the lowest
stamp you would serve of what this concerns? A process answers by what a hit would do, so a mechanism that fails is seen from
outside of it. An answer below the invalidation's number is a violation: a counter, and an event.

Keys, tags and "everything" are audited. Copies of decorated functions do not know their keys as text, so prefixes and globs are not.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from cachesync.coordination.engine import Engine
from cachesync.coordination.site import Address, Site
from cachesync.core.auditing import Question
from cachesync.core.entry import Held
from cachesync.core.records import EVERYTHING, HARD, KEY, TAG, Targets, written
from cachesync.core.stamps import Stamp
from cachesync.core.tickets import matches
from cachesync.errors import KeyArgumentError

DELAYS: Final = (1.0, 10.0, 60.0)
"""Seconds after an invalidation at which it is asked for."""
ANSWER_TIME: Final = 0.5
"""Seconds that processes have to answer."""
MOST_UNDER_WAY: Final = 16
"""Invalidations audited at once."""
COPIES_LOOKED_AT: Final = 10_000
"""A process looks through so many of its copies for a question about a tag or everything."""


@dataclass(slots=True)
class Audit:
    """One invalidation under audit: what is due next, when (seconds, monotonic clock), and the question that is out."""

    targets: Targets
    stamp: Stamp
    began: float
    due: float
    asked: int = 0
    question: Question | None = None


class Auditor:
    """Audits a share of one process's invalidations, and answers the questions of others.

    ``find`` tells where a key's copy is, ``sites`` lists where copies are. Sampling happens in any thread, the rest in the reader's.
    """

    def __init__(self, engine: Engine, find: Callable[[str], tuple[Site, Address]], sites: Callable[[], Iterable[Site]]) -> None:
        self._engine = engine
        self._find = find
        self._sites = sites
        self._lock = threading.Lock()
        self._audits: list[Audit] = []

    def sample(self, targets: tuple[Targets, ...], stamp: Stamp) -> None:
        """An invalidation was announced under ``stamp``: audit it, or let it pass."""
        share = self._engine.settings.coordination.audit
        if not share or random.random() >= share:
            return
        first = stamp.number - len(targets) + 1
        audited = [
            (one, Stamp(stamp.epoch, number))
            for number, one in enumerate(targets, first)
            if one.mode == HARD and one.kind in {KEY, TAG, EVERYTHING}
        ]
        with self._lock:
            if audited and len(self._audits) < MOST_UNDER_WAY:
                now = self._engine.now()
                self._audits.append(Audit(*random.choice(audited), now, now + DELAYS[0]))

    def due(self) -> list[Audit]:
        """Audits that have something to do now: a question to ask, or answers to collect."""
        now = self._engine.now()
        with self._lock:
            return [audit for audit in self._audits if audit.due <= now]

    def ask(self, audit: Audit) -> Question:
        """The question that is asked now."""
        audit.question = Question(os.urandom(8).hex(), audit.targets, audit.stamp)
        audit.due = self._engine.now() + ANSWER_TIME
        return audit.question

    def conclude(self, audit: Audit, answers: Iterable[tuple[str, int]]) -> None:
        """Processes have answered: their origins, and the numbers they would serve below the invalidation's."""
        for origin, number in answers:
            served = f"{number} by {origin}, {self._engine.now() - audit.began:.1f} s later"
            self._engine.events.send("violation", stamp=str(audit.stamp), served=served, **written((audit.targets,)))
            self._engine.violations += 1
        audit.asked += 1
        audit.question = None
        if audit.asked < len(DELAYS):
            audit.due = audit.began + DELAYS[audit.asked]
            return
        with self._lock:
            self._audits.remove(audit)

    def forget(self) -> None:
        """In a forked child: the parent's audits are the parent's."""
        self._lock = threading.Lock()
        self._audits = []

    def examine(self, question: Question) -> int | None:
        """The lowest stamp below the question's that this process would serve, ``None`` where it would serve nothing so old."""
        engine = self._engine
        below = engine.ledger.lineage.number(question.stamp)
        if below is None:
            return None
        lowest: int | None = None
        for key, held in self._concerned(question.targets):
            number = engine.ledger.lineage.number(held.stamp)
            if number is not None and number < below and (lowest is None or number < lowest) and self._would_serve(key, held):
                lowest = number
        return lowest

    def _concerned(self, targets: Targets) -> Iterable[tuple[str, Held]]:
        if targets.kind == KEY:
            for key in targets.texts:
                try:
                    site, address = self._find(key)
                except KeyArgumentError:
                    continue  # no policy of this process knows it
                held = site.shelf.copies.get(address.raw)
                if held is not None and self._counts(site):
                    yield key, held
            return
        copies = (held for site in self._sites() if self._counts(site) for held in self._copies_of(site))
        for held in islice(copies, COPIES_LOOKED_AT):
            if targets.kind == EVERYTHING or matches(targets, "", held.dependencies):
                yield "", held

    def _copies_of(self, site: Site) -> Iterable[Held]:
        with self._engine.lock:  # as for a put: whatever is finalized meanwhile may call this cache
            return iter(site.shelf)

    def _counts(self, site: Site) -> bool:
        """Whether invalidations count for what a site has cached: they do not while its lifetime alone decides."""
        return self._engine.switches.mode_of(site.policy.name) != "ttl"

    def _would_serve(self, key: str, held: Held) -> bool:
        """Whether a hit would answer with this copy: at once, or after judging it."""
        engine = self._engine
        now = engine.now()
        with engine.lock:
            ledger = engine.ledger
            if now < held.until and held.mark is ledger.mark:
                return True
            if not engine.is_heard(now) or not held.is_served(now):
                return False
            return held.mark is ledger.mark or not ledger.refuses(key, held.dependencies, held.checked)
