"""Masking in a process: what may be shown of a text, whosever key it is.

Everything that shows texts to people or to other systems asks here: events, errors, the command line. What belongs to no policy and to no
tag that is known is masked whole as soon as any policy masks anything: nobody can tell what it was made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

from cachesync.coordination.site import Site
from cachesync.core.masking import MASK, by_policy, by_template, masked_fields, of_pattern, secrets_of
from cachesync.core.patterns import Pattern
from cachesync.core.policies import Policies

_PLAIN: Final = frozenset({"policy", "layer", "step", "stamp"})
"""Fields of events that are words of ours, or of the policy file."""


def _no_site(_key: str) -> Site | None:
    return None


class Masking:
    """Shows texts without the fields that policies mask.

    ``site_of`` finds the function that a key belongs to, ``sites`` lists all functions. A command, which has the policy file alone, leaves
    both out.
    """

    def __init__(
        self,
        policies: Policies,
        site_of: Callable[[str], Site | None] = _no_site,
        sites: Callable[[], Iterable[Site]] = tuple,
    ) -> None:
        self._policies = policies
        self._site_of = site_of
        self._sites = sites
        self.is_needed = any(policy.mask for policy in policies)
        self._plain_tags = {tag for policy in policies for tag in policy.tags}

    def key(self, text: str) -> str:
        """A key."""
        if not self.is_needed:
            return text
        site = self._site_of(text)
        if site is not None:
            return site.shown(text)
        policy = self._policies.match(text)
        if policy is None:
            return MASK
        return by_policy(policy) if policy.mask else text

    def pattern(self, text: str) -> str:
        """A key, a prefix or a glob."""
        if not self.is_needed:
            return text
        if "*" not in text:
            return self.key(text)
        try:
            pattern = Pattern.parse(text)
        except ValueError:
            return MASK
        if pattern.kind == "everything":
            return text
        touched = [policy for policy in self._policies if policy.pattern.overlaps(pattern)]
        return of_pattern(pattern, [policy for policy in touched if policy.mask]) if touched else MASK

    def tag(self, text: str) -> str:
        """A tag: shown if the policy file has it, or if it is one of a function's, without the fields that are masked there."""
        if not self.is_needed or text in self._plain_tags:
            return text
        readings = {self._tag_of(site, text) for site in self._sites()} - {None}
        return cast("str", readings.pop()) if len(readings) == 1 else MASK

    @staticmethod
    def _tag_of(site: Site, text: str) -> str | None:
        found = (by_template(tag, masked_fields(tag, site.policy), text) for tag in site.tags)
        return next((shown for shown in found if shown is not None), None)

    def fields(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of an event."""
        if not self.is_needed:
            return dict(fields)
        key = fields.get("key")
        shown: dict[str, Any] = {}
        for name, value in fields.items():
            if name == "key":
                shown[name] = self.key(value)
            elif name in ("keys", "patterns"):
                shown[name] = [self.pattern(text) for text in value]
            elif name == "tags":
                shown[name] = [self.tag(text) for text in value]
            elif isinstance(value, str) and isinstance(key, str) and name not in _PLAIN:
                shown[name] = self.text(value, key)
            else:
                shown[name] = value
        return shown

    def text(self, text: str, *keys: str) -> str:
        """A text that may hold these keys, or fields of theirs."""
        for key in keys if self.is_needed else ():
            shown = self.key(key)
            if not key or shown == key:
                continue
            text = text.replace(key, shown)
            site = self._site_of(key)
            if site is not None and site.template is not None:
                for secret in secrets_of(site.template, site.hidden, key):
                    text = text.replace(secret, MASK)
        return text
