"""The policies as a front end knows them: per policy its query key and its lifetimes, for TanStack Query v5, as JSON and as TypeScript.

Only policies with an ``http`` table are told, and of them nothing that is not made for a browser: no setting of Redis or of a process,
no masked field, no tag.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from cachesync.core.patterns import Pattern
from cachesync.core.policy import HttpPolicy, Policy
from cachesync.core.settings import Settings
from cachesync.core.units import format_duration

LONGEST: Final = 24 * 86400 * 1000
"""Milliseconds, 24 days. A timer of a browser takes at most 2^31 - 1 of them, and one that is set to more ends at once (HTML, "Timers")."""

_NAME: Final = re.compile(r"[a-z_][a-z0-9_]*")
_HEAD: Final = """\
// Written by `cachesync export --typescript`. Do not edit it: change the policy file, and write this one again.

export interface FrontEndPolicy {
  readonly name: string;
  readonly match: string;
  /** Begins the query keys of this data. */
  readonly queryKey: readonly string[];
  /** Milliseconds from the answer on in which nothing is asked again. */
  readonly staleTime: number;
  /** Milliseconds that data which nothing shows is kept. */
  readonly gcTime: number;
  /** The schema of the values. */
  readonly version: number;
  readonly visibility: "private" | "public";
}

"""
_FOOT: Final = """\
 as const satisfies Record<string, FrontEndPolicy>;

export type PolicyName = keyof typeof policies;
"""


@dataclass(frozen=True, slots=True)
class FrontEndPolicy:
    """What a front end knows of one policy. Durations are whole milliseconds, at most `LONGEST`.

    ``stale_time`` is how long nothing is asked again: the ``max_age`` of the ``http`` table, at most the ``ttl``; where there is none the
    ``ttl`` (of a dynamic one the least). TanStack counts it from the arrival of an answer, so it is right for one that was computed then.
    ``gc_time`` is how long data that nothing shows is kept: ``stale_time`` and the ``stale_while_revalidate`` of the table.
    ``stale_if_error`` is not in it: TanStack shows what it has as soon as it is wanted, whether the request behind it will fail or not
    (RFC 5861, 3 and 4).
    """

    name: str
    match: str
    query_key: tuple[str, ...]
    stale_time: int
    gc_time: int
    version: int
    visibility: str

    @classmethod
    def of(cls, policy: Policy, http: HttpPolicy) -> FrontEndPolicy:
        """The policy with its ``http`` table."""
        fresh = policy.lifetime() if http.max_age is None else min(http.max_age, policy.lifetime(http.max_age))
        return cls(
            policy.name,
            policy.match,
            http.query_key or literal_parts(policy.pattern) or (policy.name,),
            _milliseconds(fresh),
            _milliseconds(fresh + http.stale_while_revalidate),
            policy.version,
            http.visibility,
        )

    def as_json(self) -> dict[str, Any]:
        """The names that TanStack Query has for it."""
        return {
            "name": self.name,
            "match": self.match,
            "queryKey": list(self.query_key),
            "staleTime": self.stale_time,
            "gcTime": self.gc_time,
            "version": self.version,
            "visibility": self.visibility,
        }


def front_end_policies(settings: Settings) -> tuple[FrontEndPolicy, ...]:
    """The policies that have an ``http`` table, in the order of the file."""
    return tuple(FrontEndPolicy.of(policy, policy.http) for policy in settings.policies if policy.http is not None)


def policies_as_json(settings: Settings) -> dict[str, Any]:
    """``{"policies": {"stores": {"name": "stores", "queryKey": ["stores"], "staleTime": 300000, ...}}}``, in the order of the file."""
    return {"policies": {policy.name: policy.as_json() for policy in front_end_policies(settings)}}


def policies_as_typescript(settings: Settings) -> str:
    """A module that exports the same as ``policies``, with its types. Equal settings make equal text."""
    members = "".join(_member(policy) for policy in front_end_policies(settings))
    body = f"{{\n{members}}}" if members else "{}"
    return f"{_HEAD}export const policies = {body}{_FOOT}"


def same_query_keys(settings: Settings) -> tuple[tuple[str, ...], ...]:
    """The names of policies that share a query key: a front end that uses it as it is would take the data of one for another's."""
    by_key: dict[tuple[str, ...], list[str]] = {}
    for policy in front_end_policies(settings):
        by_key.setdefault(policy.query_key, []).append(policy.name)
    return tuple(tuple(names) for names in by_key.values() if len(names) > 1)


def literal_parts(pattern: Pattern) -> tuple[str, ...]:
    """What stands between the stars and colons of a pattern: ``stores`` and ``stats`` of ``stores:*:stats``."""
    return tuple(part for part in re.split(r"[*:]", pattern.text) if part)


def _milliseconds(seconds: float) -> int:
    return min(round(seconds * 1000), LONGEST)


# --- TypeScript -----------------------------------------------------------------------------------------------------------------


def _member(policy: FrontEndPolicy) -> str:
    lines = "".join(f"    {line}\n" for line in _fields(policy))
    return f"  {_property(policy.name)}: {{\n{lines}  }},\n"


def _fields(policy: FrontEndPolicy) -> Iterator[str]:
    """One line for each field; comments hold numbers and units alone, so that nothing can end them."""
    for name, value in policy.as_json().items():
        spoken = f" // {format_duration(value / 1000)}" if name in ("staleTime", "gcTime") else ""
        yield f"{name}: {_literal(value)},{spoken}"


def _property(name: str) -> str:
    """A policy's name as that of a property. As ``__proto__: x`` it would be no property but the object's prototype (ECMA-262, B.3.1)."""
    if name == "__proto__":
        return '["__proto__"]'
    return name if _NAME.fullmatch(name) else _literal(name)


def _literal(value: object) -> str:
    """A JSON text in ASCII is a literal of TypeScript. ``<`` is written as its code, so that none ends a script of a page."""
    return json.dumps(value).replace("<", "\\u003c")
