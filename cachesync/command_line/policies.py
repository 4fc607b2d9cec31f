"""Policies as text and as JSON."""

from __future__ import annotations

from typing import Any, Final, cast

from cachesync.command_line.printing import address_of
from cachesync.core.policy import Policy
from cachesync.core.section import Section
from cachesync.core.settings import Settings
from cachesync.core.units import format_duration, format_size

_SHOWN_APART: Final = frozenset(("name", "match", "ttl", "min_ttl", "max_ttl", "local_ttl", "tags", "http"))


def ttl_text(policy: Policy) -> str:
    """How long a value is fresh."""
    if policy.ttl is not None:
        return format_duration(policy.ttl)
    return f"dynamic, {duration_text(policy.min_ttl)} to {duration_text(policy.max_ttl)}"


def duration_text(seconds: float | None) -> str:
    """A duration as it is written in a file, a dash for none."""
    return "-" if seconds is None else format_duration(seconds)


def other_settings(policy: Policy) -> dict[str, str]:
    """The settings that differ from their defaults, as they are written in a file; those of the table apart."""
    return _unusual(policy)


def http_settings(policy: Policy) -> dict[str, str]:
    """The same of the ``http`` table, and who may keep an answer in any case. Empty where there is no such table."""
    return {} if policy.http is None else {"visibility": policy.http.visibility} | _unusual(policy.http)


def _unusual(section: Section) -> dict[str, str]:
    usual = section.defaults()
    found: dict[str, str] = {}
    for name, rule in section.rules.items():
        value = getattr(section, name)
        if name in _SHOWN_APART or value == usual.get(name):
            continue
        if rule.is_duration:
            found[name] = format_duration(value)
        elif name == "compress_over":
            found[name] = format_size(value)
        elif isinstance(value, tuple):
            found[name] = ", ".join(cast("tuple[str, ...]", value))
        else:
            found[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return found


def policy_as_json(policy: Policy) -> dict[str, Any]:
    """Every setting of a policy; durations are seconds, sizes bytes."""
    found = {name: getattr(policy, name) for name in policy.rules if name != "http"}
    found["ttl"] = "dynamic" if policy.is_dynamic else policy.ttl
    found["http"] = None if policy.http is None else {name: getattr(policy.http, name) for name in policy.http.rules}
    return found | {"literals": policy.pattern.literals}


def redis_as_text(settings: Settings) -> str:
    """Where Redis is, for people."""
    address = address_of(settings)
    return f"Redis at {address}" if address else "no Redis: one process"
