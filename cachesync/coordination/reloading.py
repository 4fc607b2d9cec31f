"""Reloading: other settings take the place of those of a running cache, all of them in one piece, or none.

Under the engine's lock every function gets its new policy and the mark is replaced: whoever comes later asks under the new policies, and
each copy is judged by them once, when it is met. What is under way keeps to the lesser of both, because whatever is held or stored looks
for its site's policy at that moment, and what was already packed under a policy that is no more is not sent.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

from cachesync.coordination.engine import Engine, spendable
from cachesync.coordination.registry import Plan, Registry
from cachesync.core.reloads import Changes, changes_between, ends_copies, kept, needing_restart
from cachesync.core.settings import Settings
from cachesync.core.warming import MARK
from cachesync.errors import PolicyError
from cachesync.layers.encryption import keyring_for
from cachesync.layers.forks import lock_across_forks
from cachesync.layers.local import LocalMemory
from cachesync.layers.redis_wire import Bounds

if TYPE_CHECKING:
    from cachesync.coordination.flights import Flight


def bounds_of(settings: Settings) -> Bounds:
    """What Redis is asked to keep: bans for as long as an entry, or a computation under its lease, may be older than they are."""
    coordination = settings.coordination
    return Bounds(
        log_records=coordination.log_records,
        log_keep=coordination.log_keep,
        bans=coordination.bans,
        longest_life=max(policy.longest_life for policy in settings.policies) + coordination.lease,
        durable=max(1, round(coordination.budget * 1000 / 3)) if coordination.durable else 0,  # it may have to be said twice
    )


class Reloader:
    """Reloads the settings of one cache. ``bounds`` are those of its shared layer, ``memory`` is its local layer, if they are ours."""

    def __init__(self, engine: Engine, registry: Registry, *, bounds: Bounds, memory: LocalMemory | None) -> None:
        self._engine = engine
        self._registry = registry
        self._bounds = bounds
        self._memory = memory
        self._lock = lock_across_forks()

    def reload(self, settings: Settings) -> tuple[Changes, tuple[str, ...]]:
        """Take ``settings`` over. Raises ``PolicyError`` with all that is in the way, and then nothing has changed.

        Returns what is another now, and keys to invalidate: their values are on their way to the shared layer as they may lie there no
        more.
        """
        with self._lock:
            old = self._engine.settings
            settings = replace(settings, policies=kept(old.policies, settings.policies))
            changes = changes_between(old, settings)
            problems = list(needing_restart(old, settings))
            if not len(settings.policies):
                problems.append("policies: there is none, so no key could be cached")
            if problems or not changes:
                self._refuse(settings, problems)
                return changes, ()
            return changes, self._swap(old, settings)

    @staticmethod
    def _refuse(settings: Settings, problems: list[str]) -> None:
        if problems:
            where = f"{settings.file}: " if settings.file else ""
            raise PolicyError(*(where + problem for problem in problems))

    def _swap(self, old: Settings, settings: Settings) -> tuple[str, ...]:
        engine, registry = self._engine, self._registry
        bounds, plan = bounds_of(settings), Plan(old.policies, settings.policies)
        registry.add_to(plan)
        keyring = engine.keyring
        try:
            keyring = keyring or keyring_for(settings, stores=engine.shared is not None and settings.enabled)
        except PolicyError as error:
            plan.problems += error.problems
        with engine.lock:
            registry.add_to(plan)  # what was decorated in between
            self._refuse(settings, plan.problems)
            for field in fields(bounds):  # before any entry lives longer than bans do
                setattr(self._bounds, field.name, getattr(bounds, field.name))
            engine.settings, engine.keyring = settings, keyring
            engine.budget = engine.breaker.budget = spendable(settings.coordination.budget)
            engine.lease = round(settings.coordination.lease * 1000)
            registry.take(plan, engine.ledger.mark.reloads + 1)
            engine.events.masking = registry.masking if registry.masking.is_needed else None

            def is_apart(flight: Flight) -> bool:
                if flight.key.startswith(MARK):  # a round of warming: its key is of no policy, and names the versions itself
                    return False
                before, after = old.policies.match(flight.key), settings.policies.match(flight.key)
                return before is None or after is None or ends_copies(before, after)

            for flight in engine.flights.part(is_apart):
                engine.forsake(flight.token)
            engine.ledger.turn_by_reload()
            if self._memory is not None and old.local != settings.local:  # here, as for a put: what leaves may call this cache
                self._memory.resize(settings.local.max_entries, settings.local.max_bytes)
            return tuple(
                {ask.key: None for ask in list(engine.sending.values()) if not ask.policy.encrypt and _encrypts(settings, ask.key)}
            )


def _encrypts(settings: Settings, key: str) -> bool:
    policy = settings.policies.match(key)
    return policy is not None and policy.encrypt
