"""Reloads: what other settings mean for what is under way, and for what was made under the ones before.

A reload never lengthens anything: what is held keeps the lesser of what it had and what it would be given now.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from cachesync.core.entry import NEVER
from cachesync.core.freshness import Life, longest_freshness
from cachesync.core.policies import Policies
from cachesync.core.policy import Policy
from cachesync.core.section import Section
from cachesync.core.settings import Settings
from cachesync.core.units import as_written

RESTART = "this can not change while the process runs; restart it"


@dataclass(frozen=True, slots=True)
class Changes:
    """What a reload has changed. It is false where that is nothing.

    ``added`` and ``removed`` are names of policies; ``changed`` has the settings of those that stay and are not as before, such as
    ``{"stores": ("ttl", "http.vary")}``; ``settings`` are the full names of the others, such as ``"coordination.max_lag"``.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    settings: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.settings)

    def names(self) -> list[str]:
        """The full names of all settings that changed, those of added and removed policies left out."""
        return [*(f"policy.{name}.{setting}" for name, settings in self.changed.items() for setting in settings), *self.settings]


def changes_between(old: Settings, new: Settings) -> Changes:
    """What is another in ``new``, apart from what needs a restart."""
    before, after = ({policy.name: policy for policy in settings.policies} for settings in (old, new))
    changed = {name: tuple(_policy_differs(before[name], policy)) for name, policy in after.items() if name in before}
    settings = [f"coordination.{name}" for name in _differs(old.coordination, new.coordination)]
    settings += [f"local.{name}" for name in _differs(old.local, new.local)]
    settings += [f"warming.{name}" for name in _differs(old.warming, new.warming)]
    settings += [f"ttl.{name}" for name in dict.fromkeys((*old.ttl, *new.ttl)) if old.ttl.get(name) != new.ttl.get(name)]
    return Changes(
        tuple(name for name in after if name not in before),
        tuple(name for name in before if name not in after),
        MappingProxyType({name: found for name, found in changed.items() if found}),
        tuple(settings),
    )


def _differs(old: Section, new: Section) -> Iterator[str]:
    return (name for name in old.rules if getattr(old, name) != getattr(new, name))


def _policy_differs(old: Policy, new: Policy) -> Iterator[str]:
    for name in _differs(old, new):
        if name == "http" and old.http is not None and new.http is not None:
            yield from (f"http.{inner}" for inner in _differs(old.http, new.http))
        else:
            yield name


def needing_restart(old: Settings, new: Settings) -> Iterator[str]:
    """What is another in ``new`` and can not be, each as a problem. What may be a secret is not shown."""
    if old.namespace != new.namespace:
        yield f"namespace: {RESTART}, or write {as_written(old.namespace)}"
    if old.redis != new.redis:
        yield f"redis.url: {RESTART}, or write the one that was there"
    if old.enabled != new.enabled:
        yield f"CACHESYNC_ENABLED: {RESTART}"
    if old.encryption_keys != new.encryption_keys:
        yield f"CACHESYNC_ENCRYPTION_KEYS: {RESTART}"
    if old.secret != new.secret:
        yield f"CACHESYNC_SECRET: {RESTART}"


def kept(old: Policies, new: Policies) -> Policies:
    """``new``, with the very objects of ``old`` where nothing is another: so it is seen at a glance what a reload has not touched."""
    return Policies(before if (before := old.get(policy.name)) == policy and before is not None else policy for policy in new)


def ends_copies(old: Policy, new: Policy) -> bool:
    """Whether a process's copies from under ``old`` are nothing to be served under ``new``, and its computations nothing to wait for.

    The schema is another; or each caller is to get a copy of its own, and these were handed out; or each read is to be confirmed; or a
    tag was added, by which these would not be invalidated.
    """
    return (
        old.version != new.version
        or (new.copy and not old.copy)
        or (new.consistency == "strict" and old.consistency != "strict")
        or not set(new.tags) <= set(old.tags)
    )


def shortened(life: Life, policy: Policy, *, made: float, value: object) -> Life:
    """What is left of a copy's ``life`` under a policy that came since: never more.

    Nobody knows when a copy came here, only when it was ``made`` (seconds, monotonic clock); so its ``local_ttl`` counts from there.
    """
    fresh, stale, spare = life
    fresh = min(fresh, made + longest_freshness(policy, value))
    window, spare_window = policy.stale_while_revalidate, policy.stale_if_error
    stale = min(stale, fresh + window) if window else NEVER
    spare = min(spare, fresh + spare_window) if spare_window else NEVER
    if policy.local_ttl is not None and made + policy.local_ttl < fresh:
        fresh, stale = made + policy.local_ttl, NEVER  # then Redis is asked, which has the rest of its life
    return Life(fresh, stale, spare)
