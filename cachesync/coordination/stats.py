"""Stats: what one process has done so far, in numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

from cachesync.coordination.engine import Engine
from cachesync.coordination.refresher import MAX_WAITING, THREADS, Refresher
from cachesync.coordination.site import Site
from cachesync.core.stamps import Stamp
from cachesync.core.warming import Warmed
from cachesync.layers.breaker import State
from cachesync.protocols import Usage

ALL_POLICIES: Final = "*"
"""What stands for the policy in sums over functions of several policies."""


@dataclass(frozen=True, slots=True)
class FunctionStats:
    """Counts of one cached function, or of one policy's keys by text, or of several together, since the process started.

    ``calls`` = ``local_hits`` + ``shared_hits`` + ``joined`` + ``computed`` + ``missed`` + ``repeated`` but for calls that failed while
    they waited.
    """

    local_hits: int
    """Answered from this process's memory."""
    shared_hits: int
    """Answered from the shared layer."""
    computed: int
    """The function was called: for a caller, for several, or in the background."""
    joined: int
    """Answered by a computation that somebody else in this process had begun."""
    failed: int
    """Computations that raised."""
    stored: int
    """Computed values that were kept."""
    not_stored: int
    """Computed or given values that were not kept (event ``not_stored``)."""
    stale: int = 0
    """Answers that were flagged stale, whatever they are counted as besides."""
    missed: int = 0
    """Look-ups that compute nothing (``get``) and found nothing."""
    repeated: int = 0
    """Answered from what the same request had read before (`Cache.request`)."""
    shadowed: int = 0
    """Hits that were computed again and compared (``shadow``)."""
    stale_incidents: int = 0
    """Those among them that were out of date, though no invalidation had come (event ``stale_incident``)."""
    shadow_unstable: int = 0
    """Those among them whose function returned something else each time (event ``shadow_unstable``)."""
    shadow_failed: int = 0
    """Hits whose second computation raised (event ``shadow_failed``)."""
    shadow_dropped: int = 0
    """Hits that were to be checked and were not: too many at once, or it could not be told any more what was right."""
    policy: str = ALL_POLICIES
    """The policy's name; ``"*"`` where several are added up."""

    @property
    def hits(self) -> int:
        """Answers from either layer."""
        return self.local_hits + self.shared_hits

    @property
    def calls(self) -> int:
        """How often it was asked."""
        return self.hits + self.computed + self.joined + self.missed + self.repeated

    @property
    def hit_rate(self) -> float:
        """The share of calls that were answered without computing, 0 to 1; 0 before the first call."""
        return (self.hits + self.joined + self.repeated) / self.calls if self.calls else 0.0


COUNTED: Final = tuple(one.name for one in fields(FunctionStats) if one.name != "policy")


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
    index_bytes: int = 0
    """About how much memory the remembered invalidations take."""
    is_read: bool = False
    """Whether a thread of this process reads the log now."""

    @property
    def bytes_per_ban(self) -> float:
        """About how much memory one remembered invalidation takes; 0 where there is none."""
        return self.index_bytes / self.bans if self.bans else 0.0


@dataclass(frozen=True, slots=True)
class SharedStats:
    """How this process stands with the shared layer."""

    breaker: State
    """``"closed"``: it is asked. ``"open"``: it failed and is left alone. ``"half-open"``: one at a time tries."""
    failing: float | None
    """Seconds since it began to fail or to refuse, ``None`` while it works."""


@dataclass(frozen=True, slots=True)
class RefreshStats:
    """Refreshes in the background, now."""

    under_way: int
    """Those that run, or wait for a thread."""
    limit: int = MAX_WAITING
    """As many may be; what comes on top is refreshed when it is asked for again."""
    threads: int = THREADS
    """Threads that compute for ``def``. Those for ``async def`` are tasks of their loops."""


@dataclass(frozen=True, slots=True)
class WarmingStats:
    """Warming in this process: whether it is under way, and the sums of what goes on or was the last."""

    is_under_way: bool
    last: Warmed


@dataclass(frozen=True, slots=True)
class Stats:
    """What this process has done so far. `as_dict` makes JSON of it."""

    functions: Mapping[str, FunctionStats]
    """By the name of the function, or ``keys of policy ...`` for keys by text that belong to none."""
    local: Usage
    """Local memory, all functions together."""
    log: LogStats
    shared: SharedStats
    refreshes: RefreshStats
    warming: WarmingStats
    events: Mapping[str, int]
    """How often each event was sent."""
    since: float
    """When the counting began: seconds since 1970, by this machine's clock."""
    switches: Mapping[str, str] = field(default_factory=dict[str, str])
    """What is switched, by target; empty where everything is as the policies say."""

    @property
    def position(self) -> Stamp | None:
        """How far the log of invalidations is applied here."""
        return self.log.position

    @property
    def total(self) -> FunctionStats:
        """All functions together."""
        return _sum(self.functions.values())

    @property
    def policies(self) -> Mapping[str, FunctionStats]:
        """The functions of each policy together, by its name."""
        rows: dict[str, list[FunctionStats]] = {}
        for row in self.functions.values():
            rows.setdefault(row.policy, []).append(row)
        return {name: _sum(found, name) for name, found in rows.items()}

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON knows it, with what is derived: positions are texts, and a lag without end is ``None``."""
        log = self.log
        lag = None if math.isinf(log.lag) else log.lag
        position = None if log.position is None else str(log.position)
        return {
            **asdict(self),
            "functions": {name: _row(row) for name, row in self.functions.items()},
            "policies": {name: _row(row) for name, row in self.policies.items()},
            "total": _row(self.total),
            "log": {**asdict(log), "position": position, "lag": lag, "bytes_per_ban": log.bytes_per_ban},
        }


def _row(row: FunctionStats) -> dict[str, Any]:
    return {**asdict(row), "hits": row.hits, "calls": row.calls, "hit_rate": row.hit_rate}


def _sum(rows: Iterable[FunctionStats], policy: str = ALL_POLICIES) -> FunctionStats:
    found = tuple(rows)
    sums: dict[str, Any] = {name: sum(getattr(row, name) for row in found) for name in COUNTED}
    sums["policy"] = policy
    return FunctionStats(**sums)


def log_stats(engine: Engine, *, is_read: bool) -> LogStats:
    """How an engine's process stands with the log."""
    now, ledger = engine.now(), engine.ledger
    with engine.lock:
        index_bytes = ledger.bans.weigh() + ledger.soft.weigh()
    return LogStats(
        position=ledger.position,
        is_heard=engine.is_heard(now),
        lag=max(0.0, now - ledger.contact),
        bans=len(ledger.bans) + len(ledger.soft),
        pending=len(ledger.tickets),
        queued=len(ledger.tickets.queued),
        losses=engine.losses,
        violations=engine.violations,
        index_bytes=index_bytes,
        is_read=is_read,
    )


def shared_stats(engine: Engine) -> SharedStats:
    """How an engine's process stands with the shared layer."""
    return SharedStats(engine.breaker.state, engine.events.lasts("layer_failed", "redis"))


def stats_of(engine: Engine, sites: Iterable[Site], refresher: Refresher, log: LogStats, warming: WarmingStats) -> Stats:
    """Count by function. Functions that share a shelf share its hits: they are counted at the first of them.

    The local layer is asked under the engine's lock, as for a put: what leaves meanwhile may call this cache.
    """
    counted: set[int] = set()
    functions: dict[str, FunctionStats] = {}
    for site in sites:
        with engine.lock:
            hits = 0 if id(site.shelf) in counted else site.shelf.hits
        counted.add(id(site.shelf))
        name, number = site.name, 1
        while name in functions:
            number += 1
            name = f"{site.name}#{number}"
        counts = site.counts
        functions[name] = FunctionStats(
            local_hits=hits,
            shared_hits=counts.shared_hits,
            computed=counts.computed,
            joined=counts.joined,
            failed=counts.failed,
            stored=counts.stored,
            not_stored=counts.not_stored,
            stale=counts.stale,
            missed=counts.missed,
            repeated=counts.repeated,
            shadowed=counts.shadowed,
            stale_incidents=counts.stale_incidents,
            shadow_unstable=counts.shadow_unstable,
            shadow_failed=counts.shadow_failed,
            shadow_dropped=counts.shadow_dropped,
            policy=site.policy.name,
        )
    events = engine.events
    with engine.lock:
        usage = engine.local.usage()
    return Stats(
        functions=functions,
        local=usage,
        log=log,
        shared=shared_stats(engine),
        refreshes=RefreshStats(refresher.under_way),
        warming=warming,
        events=events.counts(),
        since=events.since,
        switches=engine.switches.effective,
    )
