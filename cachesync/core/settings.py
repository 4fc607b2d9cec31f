"""A whole policy file as a value: Redis, coordination, local memory, named durations and policies."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Final, cast

from cachesync.core.encryption_keys import EncryptionKeys
from cachesync.core.entry import SIZE_UNIT
from cachesync.core.policies import Policies
from cachesync.core.redis_url import read_redis_url
from cachesync.core.rules import DYNAMIC, Problem, Rule, duration, flag, number, size, whole
from cachesync.core.section import Section
from cachesync.core.units import as_written
from cachesync.errors import PolicyError


def _read_namespace(value: object) -> str:
    if isinstance(value, str) and value.isprintable() and value.strip() == value != "" and len(value) <= 200:
        return value
    raise ValueError(f'{as_written(value)} is not a namespace; write 1 to 200 printable characters, such as "dashboard"')


def _read_ttl_name(value: object) -> str:
    if isinstance(value, str) and value != DYNAMIC and re.fullmatch(_TTL_NAME, value):
        return value
    hint = 'write one such as "short" (a-z, 0-9, _ and -; no digit first, and not "dynamic")'
    raise ValueError(f"{as_written(value)} is not a name for a duration; {hint}")


_TTL_NAME: Final = r"[a-z_-][a-z0-9_-]*"
NAMESPACE: Final = Rule(_read_namespace, {"type": "string", "minLength": 1, "maxLength": 200}, "Begins the name of everything in Redis.")
TTL_NAME: Final = Rule(_read_ttl_name, {"type": "string", "pattern": f"^{_TTL_NAME}$"}, "A name for a duration.")
DURABLE_BUDGET: Final = 0.25
"""Seconds, the least budget with which an invalidation can wait for a replica."""
LEAST_BYTES: Final = 2 * SIZE_UNIT
"""Local memory keeps no copy that is larger than half of it."""
TTL: Final = duration("A duration that policies can name.")
LEAST_SECRET: Final = 16
"""Characters of a secret."""


def problem_of_secret(secret: object) -> str:
    """What is wrong with a secret, without showing it; empty for nothing."""
    if isinstance(secret, str) and len(secret) >= LEAST_SECRET:
        return ""
    return f"a secret is a text of at least {LEAST_SECRET} characters, the same in every process"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisSettings(Section):
    """Where Redis is. The URL may hold a password, so it is not shown by ``repr``."""

    url: str = field(repr=False)

    rules: ClassVar[Mapping[str, Rule]] = {
        "url": Rule(
            read_redis_url,
            {"type": "string", "pattern": r"^(rediss?(\+sentinel|\+cluster)?|unix)://", "examples": ["redis://localhost:6379/0"]},
            "CACHESYNC_REDIS_URL wins.",
        )
    }

    def __init__(self, url: str) -> None:
        self._settle(("redis",), {"url": url})


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinationSettings(Section):
    """How processes keep in step. Durations in seconds."""

    max_lag: float
    budget: float
    lease: float
    durable: bool
    log_keep: float
    log_records: int
    bans: int
    audit: float

    rules: ClassVar[Mapping[str, Rule]] = {
        "max_lag": duration("Local copies are trusted this long without hearing the log.", least=0.05),
        "budget": duration("What Redis may cost one call, all its steps together.", least=0.005),
        "lease": duration("How long a computation holds its lease; extended while its holder lives.", least=0.5),
        "durable": flag("true: wait for a replica on every invalidation."),
        "log_keep": duration("Records of invalidations are kept this long for processes that were cut off."),
        "log_records": whole("And at most about so many of them.", 100, 10**7),
        "bans": whole("Invalidated tags, patterns and keys that Redis remembers; above that, more is invalidated.", 100, 10**7),
        "audit": number("This share of invalidations is audited: every process is asked what it would serve.", 0, 1),
    }

    def __init__(
        self,
        *,
        max_lag: float | str = 2.0,
        budget: float | str = 0.25,
        lease: float | str = 10.0,
        durable: bool = False,
        log_keep: float | str = 600.0,
        log_records: int = 10_000,
        bans: int = 50_000,
        audit: float = 0.0,
    ) -> None:
        self._settle(("coordination",), {name: value for name, value in locals().items() if name != "self"})

    @classmethod
    def conflicts(cls, values: Mapping[str, object], given: Collection[str]) -> Iterator[Problem]:
        """Redis looks at those that wait for replicas ten times a second, so to wait takes up to 100 ms of the budget."""
        budget = values.get("budget")
        if values.get("durable") and isinstance(budget, float) and budget < DURABLE_BUDGET:
            problem = (
                f'{budget:g} seconds are not enough to wait for a replica (durable = true); write at least "{DURABLE_BUDGET * 1000:g}ms"'
            )
            yield Problem(("budget",), problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSettings(Section):
    """How much local memory may hold, over all functions of one process."""

    max_entries: int
    max_bytes: int

    rules: ClassVar[Mapping[str, Rule]] = {
        "max_entries": whole("Entries in one process.", 1, 10**9),
        "max_bytes": size("Bytes in one process.", least=LEAST_BYTES),
    }

    def __init__(self, *, max_entries: int = 100_000, max_bytes: int | str = 268_435_456) -> None:
        self._settle(("local",), {"max_entries": max_entries, "max_bytes": max_bytes})


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmingSettings(Section):
    """How keys are computed before anybody asks. Durations in seconds."""

    concurrency: int
    spread: float
    pause: float

    rules: ClassVar[Mapping[str, Rule]] = {
        "concurrency": whole("Computations at once.", 1, 1_000),
        "spread": duration("Each process waits a random part of this before it begins by itself.", zero=True),
        "pause": duration("After each computation, a random part of this passes before the next.", zero=True),
    }

    def __init__(self, *, concurrency: int = 4, spread: float | str = 2.0, pause: float | str = 0.0) -> None:
        self._settle(("warming",), {"concurrency": concurrency, "spread": spread, "pause": pause})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A whole policy file. ``redis=None``: one process, and everything still works. ``enabled=False``: every layer is bypassed.

    ``ttl`` holds the named durations in seconds; ``file`` is where it was read from. ``encryption_keys`` are for policies with
    ``encrypt = true``; they never stand in a file. Nor do ``switches``, which are what the environment switches in this process, by target,
    and ``secret``, with which the groups of answers are made opaque (left out: the namespace, which anybody may guess).
    """

    namespace: str = "cachesync"
    redis: RedisSettings | None = None
    coordination: CoordinationSettings = field(default_factory=CoordinationSettings)
    local: LocalSettings = field(default_factory=LocalSettings)
    warming: WarmingSettings = field(default_factory=WarmingSettings)
    ttl: Mapping[str, float] = field(default_factory=dict[str, float])
    policies: Policies = field(default_factory=Policies)
    file: str | None = None
    enabled: bool = True
    encryption_keys: EncryptionKeys | None = None
    switches: Mapping[str, str] = field(default_factory=dict[str, str])
    secret: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _, problems = NAMESPACE.examine(self.namespace, ("namespace",))
        named: dict[str, float] = {}
        for name, given in self.ttl.items():
            _, misnamed = TTL_NAME.examine(name, ("ttl", name))
            seconds, wrong = TTL.examine(given, ("ttl", name))
            problems += misnamed or wrong
            named[name] = cast(float, seconds)
        if self.secret is not None and (problem := problem_of_secret(self.secret)):
            problems.append(Problem(("secret",), problem))
        if problems:
            raise PolicyError(*map(str, problems))
        object.__setattr__(self, "ttl", MappingProxyType(named))
        object.__setattr__(self, "switches", MappingProxyType(dict(self.switches)))
