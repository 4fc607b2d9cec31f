"""Stats: what one process has done so far, in numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cachesync.coordination.engine import Engine
from cachesync.coordination.site import Site
from cachesync.core.stamps import Stamp
from cachesync.protocols import Usage


@dataclass(frozen=True, slots=True)
class FunctionStats:
    """Counts of one cached function, or of one policy's keys by text, since the process started.

    ``calls`` = ``local_hits`` + ``shared_hits`` + ``computed`` + ``joined`` but for calls that failed while they waited.
    """

    local_hits: int
    shared_hits: int
    computed: int
    joined: int
    failed: int
    stored: int
    not_stored: int

    @property
    def calls(self) -> int:
        """How often it was asked."""
        return self.local_hits + self.shared_hits + self.computed + self.joined

    @property
    def hit_rate(self) -> float:
        """The share of calls that were answered without computing, 0 to 1; 0 before the first call."""
        return 1 - self.computed / self.calls if self.calls else 0.0


@dataclass(frozen=True, slots=True)
class LogStats:
    """How this process stands with the log of invalidations."""

    position: Stamp | None
    """How far it is applied here; ``None`` before the process has joined it."""
    is_heard: bool
    """Whether it was heard within ``max_lag``: copies are fresh only then."""
    lag: float
    """Seconds since it was last known to be heard up to its end; 0 in a system of one process, infinite before the first time."""
    bans: int
    """Invalidations that are remembered here, to refuse what is older."""
    pending: int
    """Invalidations of this process that have no number yet."""
    queued: int
    """Those among them that wait because the shared layer is away."""
    losses: int
    """Invalidations that were applied here and lost by a server that took over (event ``possible_loss``)."""
    violations: int
    """Times an audit found a process that would have served what was invalidated (event ``violation``)."""


@dataclass(frozen=True, slots=True)
class Stats:
    """What this process has done so far."""

    functions: Mapping[str, FunctionStats]
    local: Usage
    log: LogStats

    @property
    def position(self) -> Stamp | None:
        """How far the log of invalidations is applied here."""
        return self.log.position

    @property
    def total(self) -> FunctionStats:
        """All functions together."""
        rows = self.functions.values()
        names = ("local_hits", "shared_hits", "computed", "joined", "failed", "stored", "not_stored")
        return FunctionStats(*(sum(getattr(row, name) for row in rows) for name in names))


def log_stats(engine: Engine) -> LogStats:
    """How an engine's process stands with the log."""
    now, ledger = engine.now(), engine.ledger
    return LogStats(
        position=ledger.position,
        is_heard=engine.is_heard(now),
        lag=max(0.0, now - ledger.contact),
        bans=len(ledger.bans) + len(ledger.soft),
        pending=len(ledger.tickets),
        queued=len(ledger.tickets.queued),
        losses=engine.losses,
        violations=engine.violations,
    )


def stats_of(sites: Iterable[Site], local: Usage, log: LogStats) -> Stats:
    """Count by function. Functions that share a shelf share its hits: they are counted at the first of them."""
    counted: set[int] = set()
    functions: dict[str, FunctionStats] = {}
    for site in sites:
        hits = 0 if id(site.shelf) in counted else site.shelf.hits
        counted.add(id(site.shelf))
        name, number = site.name, 1
        while name in functions:
            number += 1
            name = f"{site.name}#{number}"
        counts = site.counts
        functions[name] = FunctionStats(
            hits, counts.shared_hits, counts.computed, counts.joined, counts.failed, counts.stored, counts.not_stored
        )
    return Stats(functions, local, log)
