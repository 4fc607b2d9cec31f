"""The registry: which function, or else which policy, a key belongs to."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakSet

from cachesync.coordination.masking import Masking
from cachesync.coordination.site import Address, Site
from cachesync.coordination.wrapper import Blueprint
from cachesync.core.keys import Template, overlap
from cachesync.core.masking import hidden_fields
from cachesync.core.policies import Policies
from cachesync.core.policy import Policy
from cachesync.errors import KeyArgumentError, KeyTemplateError, PolicyError
from cachesync.layers.codecs import AnyCodec
from cachesync.protocols import Codec, LocalLayer


def fit(
    policies: Policies, template: Template, name: str, *, is_dynamic: bool, known: Policy | None = None
) -> tuple[Policy, frozenset[int]]:
    """The policy of a function's keys, and which of their fields it masks. ``is_dynamic``: the decorator was given a ``ttl``.

    It is looked for unless it is ``known``. Raises `KeyTemplateError` where function and policy do not go together.
    """
    policy = known or policies.for_shape(template.shape)
    if policy.is_dynamic != is_dynamic:
        problem = (
            f'policy {policy.name!r} has ttl = "dynamic": give ttl=lambda result: ... to the decorator'
            if policy.is_dynamic
            else f'policy {policy.name!r} has a ttl of its own; ttl=... is for policies with ttl = "dynamic"'
        )
        raise KeyTemplateError(f"{name}: {problem}")
    return policy, hidden_fields(template, policy, name)


class Registry:
    """The sites of one cache. Safe to use from any thread. ``lock`` is the engine's: a reload changes both in one piece."""

    def __init__(self, policies: Policies, local: LocalLayer, lock: AbstractContextManager[Any]) -> None:
        self.policies = policies
        self._local = local
        self._lock = lock
        self._living: WeakSet[Site] = WeakSet()  # those too whose function was defined anew, as long as anybody has the old one
        self._sites: tuple[Site, ...] = ()
        self._by_segments: dict[int, list[Site]] = {}
        self._by_policy: dict[str, Site] = {}
        self.masking = Masking(policies, self.site_of, self.sites)

    def sites(self) -> tuple[Site, ...]:
        """Those of functions, in the order of decoration, then those of keys that belong to no function."""
        with self._lock:
            return (*self._sites, *self._by_policy.values())

    def twin(self, blueprint: Blueprint, same_as: Callable[..., Any] | None) -> Site | None:
        """The site that ``same_as`` names. Raises `KeyTemplateError` where keys could be those of another function."""
        with self._lock:
            sites = [site for site in self._sites if not _is_replaced(site, blueprint.name)]
        twin = next((site for site in sites if same_as is not None and site.function() is same_as), None)
        if same_as is not None and (twin is None or twin.template != blueprint.template or twin.tags != blueprint.tags):
            raise KeyTemplateError(
                f"{blueprint.name}: same_as has to be a function that this cache has decorated with the same template, types and tags"
            )
        for site in sites:
            if site.template is None or (twin is not None and site.shelf is twin.shelf) or not overlap(site.template, blueprint.template):
                continue
            raise KeyTemplateError(
                f"{blueprint.name}: its keys {blueprint.template.text!r} can be the same as those of {site.name}, "
                f"{site.template.text!r}, and one would be handed the other's results. Choose another template, "
                f"or say same_as={site.name.rpartition('.')[2]} if both return the same"
            )
        return twin

    def add(self, site: Site) -> None:
        """Take a decorated function in; it takes the place of an older one that is defined anew."""
        assert site.template is not None
        with self._lock:
            policy, hidden = fit(self.policies, site.template, site.name, is_dynamic=site.lifetime is not None)
            site.take(policy, hidden, 0)  # it may have been reloaded since it was looked for
            twin = next((other for other in self._sites if other.shelf is site.shelf), site)
            site.changed, site.ended = twin.changed, twin.ended
            self._living.add(site)
            self._sites = (*(other for other in self._sites if not _is_replaced(other, site.name)), site)
            by_segments: dict[int, list[Site]] = {}
            for other in self._sites:
                if other.template is not None:
                    by_segments.setdefault(len(other.template.segments), []).append(other)
            self._by_segments = by_segments

    def find(self, key: str) -> tuple[Site, Address]:
        """Where a key that was written as text belongs. Raises `KeyArgumentError` where no policy matches it."""
        for site in self._by_segments.get(key.count(":") + 1, ()):
            address = site.address_of_key(key)
            if address is not None:
                return site, address
        site = self._site_of_policy(key)
        address = site.address_of_key(key)
        assert address is not None
        return site, address

    def site_of(self, key: str) -> Site | None:
        """The function that a key belongs to."""
        sites = self._by_segments.get(key.count(":") + 1, ())
        return next((site for site in sites if site.template is not None and site.template.split(key) is not None), None)

    def _site_of_policy(self, key: str) -> Site:
        policies = self.policies
        policy = policies.match(key)
        if policy is None:
            raise KeyArgumentError(f"no policy matches the key {self.masking.key(key)!r}; add one whose pattern does, or mend the key")
        with self._lock:
            if policies is not self.policies:  # they were reloaded in this very moment
                return self._site_of_policy(key)
            site = self._by_policy.get(policy.name)
            if site is None and policy.is_dynamic:
                problem = f'the policy {policy.name!r} with ttl = "dynamic": only a function can say how long it lives'
                raise KeyArgumentError(f"{self.masking.key(key)!r} has {problem}")
            if site is None:
                site = self._by_policy[policy.name] = Site(
                    name=f"keys of policy {policy.name}",
                    policy=policy,
                    shelf=self._local.shelf(),
                    make_codec=AnyCodec,
                    call=_no_function,
                )
                self._living.add(site)
        return site

    def claim(self, prefix: str, codec: Codec, lifetime: Callable[[Any], float]) -> Site:
        """The site of all keys under a prefix, which no function computes: each value says itself how long it lives.

        The same again for who asks again. Raises `PolicyError` unless one policy with ``ttl = "dynamic"`` has all of these keys.
        """
        pattern = f"{prefix}:*"
        with self._lock:
            policy = next((policy for policy in self.policies if policy.match == pattern), None)
            if policy is None or not policy.is_dynamic:
                advice = f'[policy.{prefix}] with match = "{pattern}", ttl = "dynamic", min_ttl and max_ttl'
                found = "there is no policy" if policy is None else f"policy.{policy.name} has a ttl of its own"
                raise PolicyError(f"{pattern}: {found}, and each of these keys is given a lifetime of its own; write {advice}")
            within = [other for other in self.policies if other is not policy and other.pattern.literals > policy.pattern.literals]
            if any(other.pattern.overlaps(policy.pattern) for other in within):
                raise PolicyError(
                    f"{pattern}: another policy takes some of these keys away from policy.{policy.name}; give it another match"
                )
            site = self._by_policy.get(policy.name)
            if site is None:
                site = self._by_policy[policy.name] = Site(
                    name=f"keys of policy {policy.name}",
                    policy=policy,
                    shelf=self._local.shelf(),
                    make_codec=lambda: codec,
                    call=_no_function,
                    lifetime=lifetime,
                )
                self._living.add(site)
            return site

    # --- reloads ------------------------------------------------------------------------------------------------------------------

    def add_to(self, plan: Plan) -> None:
        """Find out what the policy of each site would be that the plan has not got yet, without changing anything."""
        with self._lock:
            living = [site for site in self._living if not site.is_over and site not in plan.sites]
            in_use = {*self._sites, *self._by_policy.values()}
        for site in living:
            problem = plan.add(site)
            if problem and site in in_use:
                plan.problems.append(problem)

    def take(self, plan: Plan, reloads: int) -> None:
        """Put every site under its policy of the plan, from the reload of this number on. The engine's lock is held."""
        self.policies = plan.policies
        self.masking = Masking(plan.policies, self.site_of, self.sites)
        for site, found in plan.sites.items():
            if found is None:
                site.retire(reloads)
            else:
                site.take(*found, reloads)
        self._by_policy = {name: site for name, site in self._by_policy.items() if not site.is_over}


class Plan:
    """Which policy each site would get of ``policies``, with the fields it masks; ``None`` for a site whose keys go elsewhere.

    ``problems`` says for which functions, or keys written as text, there would be none.
    """

    def __init__(self, old: Policies, policies: Policies) -> None:
        self.policies = policies
        self._moved = [policy.pattern for policy in _unlike(old, policies)]
        self.sites: dict[Site, tuple[Policy, frozenset[int]] | None] = {}
        self.problems: list[str] = []

    def add(self, site: Site) -> str:
        """Find a site's policy. Returns what is wrong, if anything is."""
        self.sites[site] = None
        if site.template is not None:
            known = None if self._moved else self.policies.get(site.policy.name)
            try:
                self.sites[site] = fit(self.policies, site.template, site.name, is_dynamic=site.lifetime is not None, known=known)
            except KeyTemplateError as error:
                return str(error) if site.name in str(error) else f"{site.name}: {error}"
            return ""
        policy = self.policies.match(site.policy.match)
        if policy is None or policy.is_dynamic != (site.lifetime is not None):
            is_dynamic = 'has one with ttl = "dynamic", which only a function can have'
            what = "has none" if policy is None else is_dynamic if policy.is_dynamic else 'has one without ttl = "dynamic"'
            return f"{site.name}: they are in use as text, and not each of {site.policy.match!r} keeps a policy: this file {what}"
        if not any(site.policy.pattern.overlaps(pattern) for pattern in self._moved):  # all of its keys have this policy as before
            self.sites[site] = policy, frozenset()
        return ""


def _unlike(old: Policies, new: Policies) -> list[Policy]:
    """The policies that are not in both under the same name and for the same keys."""
    places = [{(policy.name, policy.match): policy for policy in policies} for policies in (old, new)]
    return [policy for mine, others in (places, reversed(places)) for place, policy in mine.items() if place not in others]


def _is_replaced(site: Site, name: str) -> bool:
    """Whether a function of this name takes the site's place: it is defined anew, as by a reload, or nobody has the old one any more.

    Functions made inside others, and lambdas, share a name without being the same.
    """
    return site.name == name and ("<" not in name or site.function() is None)


def _no_function() -> Any:
    raise AssertionError("a key written as text is looked up and never computed")
