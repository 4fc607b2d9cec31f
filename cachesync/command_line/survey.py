"""What lies in Redis, counted: where the log stands, and entries and bytes by policy.

Nothing keeps these numbers, so each name of the namespace is looked at, a page at a time, as `sweep` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from redis.exceptions import ResponseError

from cachesync.core.policies import Policies
from cachesync.core.settings import Settings
from cachesync.core.stamps import Stamp
from cachesync.core.steps import Beat, Confirm, Failed
from cachesync.core.warming import MARK
from cachesync.layers.redis_cluster import redis_layer
from cachesync.layers.redis_places import PATIENCE, Place, places_of
from cachesync.layers.redis_wire import literally

NAMES_OF_A_PAGE: Final = 500
_GONE: Final = ("WRONGTYPE", "MOVED", "ASK", "TRYAGAIN")
"""Another program uses the name, or it is on its way to another node."""
NO_POLICY: Final = "no policy of this file"
LONG_KEYS: Final = "keys of more than 512 bytes"
"""Their names are hashes, so nobody can tell which policy they belong to."""
WARMED: Final = "lists that were warmed"


@dataclass(slots=True)
class Lying:
    """How many entries there are of one kind, and how many bytes they have as they are stored, headers included."""

    entries: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Survey:
    """What was found so far. ``stamp`` is where the log ends, ``None`` where there is none; ``others`` belong to no policy."""

    stamp: Stamp | None
    records: int
    bans: int
    switched: Mapping[str, str]
    leases: int = 0
    policies: dict[str, Lying] = field(default_factory=dict[str, Lying])
    others: dict[str, Lying] = field(default_factory=dict[str, Lying])

    @property
    def total(self) -> Lying:
        """All entries together."""
        rows = (*self.policies.values(), *self.others.values())
        return Lying(sum(row.entries for row in rows), sum(row.bytes for row in rows))


def survey(settings: Settings, progress: Callable[[Survey], object]) -> Survey:
    """Count everything; ``progress`` is shown the sums after each page. Raises ``LayerError``."""
    assert settings.redis is not None
    shared = redis_layer(settings.redis.url, namespace=settings.namespace)
    names = shared.names
    try:
        beat: Any = shared.sync.perform(Confirm(time.monotonic() + PATIENCE))
        if isinstance(beat, Failed):
            raise beat.error
        assert isinstance(beat, Beat) and beat.thrown is not None
        places = places_of(shared)
        records, bans = places[0].ask((b"XLEN", names.log), (b"ZCARD", names.bans))
        found = Survey(beat.head, records, bans, dict(beat.thrown.switched))
        found.policies |= {policy.name: Lying() for policy in settings.policies}
        for place in places:
            _count(place, found, _Kinds(settings.policies, names.key_of), names.entry_prefix, lambda: progress(found))
        return found
    finally:
        shared.close()


class _Kinds:
    """Which row a name belongs to."""

    def __init__(self, policies: Policies, key_of: Callable[[bytes], str | None]) -> None:
        self._policies = policies
        self._key_of = key_of

    def row(self, name: bytes, found: Survey) -> Lying:
        key = self._key_of(name)
        if key is None:
            return found.others.setdefault(LONG_KEYS, Lying())
        if key.startswith(MARK):
            return found.others.setdefault(WARMED, Lying())
        policy = self._policies.match(key)
        return found.others.setdefault(NO_POLICY, Lying()) if policy is None else found.policies[policy.name]


def _count(place: Place, found: Survey, kinds: _Kinds, entry_prefix: bytes, shown: Callable[[], object]) -> None:
    """Count what one server has. The next page is asked for together with the sizes of the one before."""
    pattern = literally(entry_prefix.removesuffix(b"e:{")) + b"[el]:{*}"
    cursor, page = 0, list[bytes]()
    is_last = False
    while not is_last:
        scan = (b"SCAN", cursor, b"MATCH", pattern, b"COUNT", NAMES_OF_A_PAGE)
        scanned, *sizes = place.try_all([scan, *((b"STRLEN", name) for name in page)])
        following, names = place.allowed(scanned)
        _add(place, page, sizes, found, kinds)
        cursor, is_last = int(following), int(following) == 0
        page = [name for name in names if name.startswith(entry_prefix)]
        found.leases += len(names) - len(page)
        shown()
    _add(place, page, place.try_all([(b"STRLEN", name) for name in page]), found, kinds)
    shown()


def _add(place: Place, page: list[bytes], sizes: list[Any], found: Survey, kinds: _Kinds) -> None:
    for name, size in zip(page, sizes, strict=True):
        if isinstance(size, ResponseError) and str(size).startswith(_GONE):
            continue
        if stored := int(place.allowed(size)):  # 0 where it has gone meanwhile
            row = kinds.row(name, found)
            row.entries += 1
            row.bytes += stored
