"""What the response cache keeps, under which keys, and what ends it: answers as values of a cachesync cache.

Under the address of a page stands its answer or, where its answers carry ``Vary``, the names of the request fields that select one
(RFC 9111, 4.1); each answer then has an address of its own, `Request.variant`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, cast

from cachesync.cache import Cache
from cachesync.coordination.gathering import Gathering, gathering
from cachesync.coordination.keeper import Obtained
from cachesync.core import http_cache as rule
from cachesync.core.entry import Dependency, Entry
from cachesync.core.header_fields import HeaderFields
from cachesync.core.http_cache import StoredAnswer
from cachesync.core.keys import written
from cachesync.core.records import TAG
from cachesync.core.stamps import Stamp
from cachesync.core.units import as_written
from cachesync.errors import PolicyError
from cachesync.response_cache.request import Request

Compute = Callable[[], Awaitable["Kept"]]
Standing = Callable[[str, Iterable[Dependency]], bool]


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept under an address: an answer, or the names of the request fields that select one. Neither: it is for one caller alone.

    ``tags`` are what ends it besides what it depends on: its address and its groups.
    """

    answer: StoredAnswer | None = None
    varies: tuple[bytes, ...] = ()
    tags: tuple[str, ...] = ()


FOR_ONE: Final = Kept()


class KeptAnswers:
    """The answers under the keys of one policy, by address. Raises ``PolicyError`` for a policy that does not fit."""

    def __init__(self, cache: Cache, policy: str) -> None:
        self._cache = cache
        self._policy = policy
        self._keeper = cache.keeper()
        self._kept = _decorated(cache, policy)

    def _key(self, address: str) -> str:
        return cast("str", self._kept.key(address, _nothing))

    async def obtain(self, address: str, compute: Compute, *, accepts: Callable[[Kept, float], bool] | None = None) -> Obtained[Kept]:
        """What is kept, or what ``compute`` brings, once for all who ask. ``accepts`` as in `Keeper.aobtain`."""
        return await self._keeper.aobtain(self._key(address), compute, accepts=accepts)

    async def find(self, address: str) -> Entry[Kept] | None:
        """What is kept. Nobody is waited for."""
        return await self._cache.apeek(self._key(address))

    async def reaches(self, stamp: Stamp) -> bool:
        """As `Keeper.areaches`."""
        return await self._keeper.areaches(stamp, self._policy)

    @property
    def position(self) -> Stamp | None:
        """As `Keeper.position`."""
        return self._keeper.position(self._policy)

    def spare(self, address: str) -> Obtained[Kept] | None:
        """What this process has that may stand in for an answer that fails."""
        return self._keeper.spare(self._key(address))

    async def replace(self, address: str, compute: Compute) -> None:
        """Keep what ``compute`` brings in the place of what is kept."""
        await self._kept.refresh(address, compute)

    async def end(self, address: str) -> None:
        """Nobody is shown any more what is kept under an address."""
        await self._cache.ainvalidate(self._key(address))

    def gathering(self) -> Gathering:
        """What a call of the application finds out about its answer: to be set where it runs."""
        return self._keeper.gathering()

    def standing(self) -> Standing:
        """A question to be asked later: has nothing been invalidated since now that concerns an address, or one of these dependencies?"""
        stands = self._keeper.standing()
        return lambda address, dependencies: stands(self._key(address), dependencies)

    def ready(self, address: str, kept: Kept, stands: Standing, found: Gathering) -> Compute:
        """A computation that brings what was computed already. It is taken for as new as the moment at which it is brought, so it is kept
        only if nothing that concerns it was invalidated since it was begun.
        """

        async def bring() -> Kept:
            inside = gathering.get()
            assert inside is not None
            inside.absorb(found)
            tags = (Dependency(TAG, written(tag)) for tag in kept.tags)
            if not stands(address, (*found.dependencies, *tags)):
                inside.keep_nothing()
            return kept

        return bring


def keeping(request: Request, answer: StoredAnswer) -> Kept:
    """An answer, with the tags that end it."""
    groups = (_group_tag(request.origin, group) for group in rule.groups_of(answer.fields))
    return Kept(answer, tags=(_url_tag(request.url), *groups))


def ended_by(request: Request, status: int, answer: HeaderFields) -> list[str]:
    """The tags of what a change has made out of date, by what it was answered (RFC 9111, 4.4; RFC 9875, 3)."""
    urls = rule.ended_urls(request.url, answer) if rule.ends(request.method, status) else ()
    groups = rule.ended_groups(request.method, answer)
    return [*map(_url_tag, urls), *(_group_tag(request.origin, group) for group in groups)]


def _decorated(cache: Cache, name: str) -> Any:
    """The function whose results are kept answers, under the keys of that policy."""
    policy = cache.settings.policies.get(name)
    if policy is None:
        known = ", ".join(one.name for one in cache.settings.policies)
        raise PolicyError(f"policy.{name}: no such policy for a response cache; there are: {known}")
    prefix = policy.match.removesuffix("*")
    if prefix == policy.match or "*" in prefix or not prefix.endswith(":") or "{" in prefix:
        problem = f'{as_written(policy.match)} is no match for a response cache; write a prefix that ends with a colon, such as "pages:*"'
        raise PolicyError(f"policy.{name}.match: {problem}")
    if not policy.is_dynamic:
        raise PolicyError(f'policy.{name}.ttl: each answer says how long it is fresh; write ttl = "dynamic", with min_ttl and max_ttl')

    async def kept(address: str, compute: Compute) -> Kept:
        return await compute()

    kept.__qualname__ = f"answers of policy {name}"
    return cache.cached(f"{prefix}{{address}}", ignore=("compute",), ttl=_lifetime, tags_from=_tags)(kept)


def _lifetime(kept: Kept) -> float:
    """For how long the cache takes what is kept for fresh. What is never used without asking, and what names the fields that select an
    answer, is kept as long as its policy allows.
    """
    answer = kept.answer
    if answer is None or answer.must_validate or answer.remains(0.0) <= 0:
        return 2.0**31
    return answer.remains(0.0)


def _tags(kept: Kept) -> tuple[str, ...]:
    return kept.tags


async def _nothing() -> Kept:
    return FOR_ONE


def _url_tag(url: str) -> str:
    return f"url:{url}"


def _group_tag(origin: str, group: str) -> str:
    return f"group:{origin} {group}"
