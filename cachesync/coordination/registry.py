"""The registry: which function, or else which policy, a key belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cachesync.coordination.masking import Masking
from cachesync.coordination.site import Address, Site
from cachesync.coordination.wrapper import Blueprint
from cachesync.core.keys import overlap
from cachesync.core.policies import Policies
from cachesync.errors import KeyArgumentError, KeyTemplateError
from cachesync.layers.codecs import AnyCodec
from cachesync.layers.forks import lock_across_forks
from cachesync.protocols import LocalLayer


class Registry:
    """The sites of one cache. Safe to use from any thread."""

    def __init__(self, policies: Policies, local: LocalLayer) -> None:
        self._policies = policies
        self._local = local
        self._lock = lock_across_forks()
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
        with self._lock:
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
        policy = self._policies.match(key)
        if policy is None:
            raise KeyArgumentError(f"no policy matches the key {self.masking.key(key)!r}; add one whose pattern does, or mend the key")
        if policy.is_dynamic:
            raise KeyArgumentError(
                f'{self.masking.key(key)!r} has the policy {policy.name!r} with ttl = "dynamic": only a function can say how long it lives'
            )
        with self._lock:
            site = self._by_policy.get(policy.name)
            if site is None:
                site = self._by_policy[policy.name] = Site(
                    name=f"keys of policy {policy.name}",
                    policy=policy,
                    shelf=self._local.shelf(),
                    make_codec=AnyCodec,
                    call=_no_function,
                )
        return site


def _is_replaced(site: Site, name: str) -> bool:
    """Whether a function of this name takes the site's place: it is defined anew, as by a reload, or nobody has the old one any more.

    Functions made inside others, and lambdas, share a name without being the same.
    """
    return site.name == name and ("<" not in name or site.function() is None)


def _no_function() -> Any:
    raise AssertionError("a key written as text is looked up and never computed")
